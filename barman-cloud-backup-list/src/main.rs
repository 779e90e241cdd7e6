//! `barman-cloud-backup-list`: see the library beside this file.

use std::process::ExitCode;

fn main() -> ExitCode {
    barman_cloud_backup_list::main()
}
