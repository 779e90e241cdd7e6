//! `barman-cloud-restore`: see the library beside this file.

fn main() {}
