//! `barman-cloud-wal-restore`: see the library beside this file.

use std::process::ExitCode;

fn main() -> ExitCode {
    barman_cloud_wal_restore::main()
}
