//! `barman-cloud-wal-archive`: see the library beside this file.

fn main() {}
