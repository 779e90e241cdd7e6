//! `barman-cloud-backup-list`: see the library beside this file.

fn main() {}
