//! `barman-cloud-backup-show`: see the library beside this file.

fn main() {}
