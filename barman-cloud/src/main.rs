//! `barman-cloud`: see the library beside this file.

use std::process::ExitCode;

fn main() -> ExitCode {
    barman_cloud::main()
}
