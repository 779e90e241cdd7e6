//! `barman-cloud-backup-show`: see the library beside this file.

use std::process::ExitCode;

fn main() -> ExitCode {
    barman_cloud_backup_show::main()
}
