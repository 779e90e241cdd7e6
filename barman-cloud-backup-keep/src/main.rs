//! `barman-cloud-backup-keep`: see the library beside this file.

fn main() {}
