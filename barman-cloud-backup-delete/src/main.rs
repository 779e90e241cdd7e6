//! `barman-cloud-backup-delete`: see the library beside this file.

fn main() {}
