//! `barman-cloud-wal-restore`: see the library beside this file.

fn main() {}
