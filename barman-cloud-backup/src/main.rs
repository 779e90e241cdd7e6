//! `barman-cloud-backup`: see the library beside this file.

fn main() {}
