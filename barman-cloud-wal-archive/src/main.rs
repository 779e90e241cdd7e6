//! `barman-cloud-wal-archive`: see the library beside this file.

use std::process::ExitCode;

fn main() -> ExitCode {
    barman_cloud_wal_archive::main()
}
