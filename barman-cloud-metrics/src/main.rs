//! `barman-cloud-metrics`: see the library beside this file.

use std::process::ExitCode;

fn main() -> ExitCode {
    barman_cloud_metrics::main()
}
