//! `barman-cloud-wal-restore`: fetches one WAL file, as `restore_command`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use cloud_core::cli::args::{CommonArgs, Place, SourceArgs, wal_name};
use cloud_core::cli::{self, Habits, Tool, argparse, values};
use cloud_core::ops::wal_restore::{self, AtOnce, Helper, WalRestoreRequest};
use cloud_core::ops::{Ctx, Env, OpError, OpErrorKind};
use cloud_core::store::{Opened, identity, printable};

/// Runs the tool with the arguments of the process.
pub fn main() -> ExitCode {
    cli::main::<Args>()
}

/// Fetch one WAL file from an object store; made for restore_command
#[derive(Debug, Parser)]
#[command(name = "barman-cloud-wal-restore", version)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,

    /// Name of the WAL file: '%f' in restore_command
    #[arg(value_name = "wal_name")]
    wal_name: String,

    /// Where it goes: '%p' in restore_command
    #[arg(value_name = "wal_dest")]
    wal_dest: PathBuf,

    /// Never take a .partial file for the one that is wanted
    #[arg(long)]
    no_partial: bool,

    /// How many WAL files to have ready, the requested one included: those after it are
    /// fetched while PostgreSQL replays
    #[arg(short, long, default_value = "0", value_parser = values::parallel)]
    parallel: u32,

    /// Where WAL files fetched ahead are kept
    #[arg(long, default_value = "/var/tmp/walrestore")]
    spool_dir: PathBuf,

    /// How long to try again when the store cannot be reached, in seconds
    /// (default: 60, and 5 for a standby)
    #[arg(long, value_parser = values::non_negative, help_heading = argparse::OURS)]
    retry_timeout: Option<u64>,

    /// Exit code that says that the store could not be reached; 255 stops the
    /// recovery of PostgreSQL instead of ending it early
    #[arg(long, default_value = "2", value_parser = values::failure_code, help_heading = argparse::OURS)]
    unreachable_exit_code: u8,

    #[command(flatten)]
    common: CommonArgs,

    /// What the process is, if it is no call.
    #[arg(skip)]
    helper: Option<Helper>,
}

impl Args {
    fn request(&self) -> WalRestoreRequest {
        WalRestoreRequest {
            url: format!(
                "{} {}",
                printable(&self.source.source_url),
                self.common.endpoint()
            ),
            store: identity(&self.store()),
            server: self.source.server_name.clone(),
            wal_name: self.wal_name.clone(),
            destination: self.wal_dest.clone(),
            no_partial: self.no_partial,
            parallel: self.parallel,
            launch: Some(wal_restore::launch),
            spool_dir: self.spool_dir.clone(),
            retry_timeout: self.retry_timeout.map(Duration::from_secs),
        }
    }
}

#[async_trait::async_trait(?Send)]
impl Tool for Args {
    const WORDS: &'static str = "WAL restore";
    const HABITS: Habits = Habits {
        long: false,
        ends_by_signal: true,
        test_wants_bucket: true,
        // The operation tries again by itself, and stops when a promotion is
        // asked for.
        retry: None,
        may_be_dropped: false,
    };

    fn common(&self) -> &CommonArgs {
        &self.common
    }

    fn place(&self) -> Place<'_> {
        self.source.place()
    }

    fn check(&self, _env: &Env) -> Result<(), OpError> {
        match wal_name(&self.wal_name) {
            Ok(_) => Ok(()),
            Err(line) => Err(
                OpError::new(OpErrorKind::Usage, line.to_string()).with_hint(
                    "in restore_command %f, the name of the file, stands before %p, the path",
                ),
            ),
        }
    }

    fn at_once(&mut self, env: &Env) -> Option<Result<(), OpError>> {
        match wal_restore::at_once(&self.request(), env) {
            Ok(AtOnce::Delivered) => Some(Ok(())),
            Ok(AtOnce::Ask) => None,
            Ok(AtOnce::Help(helper)) => {
                self.helper = Some(helper);
                None
            }
            Err(error) => Some(Err(error)),
        }
    }

    async fn run(mut self, ctx: &Ctx, at: Opened) -> Result<(), OpError> {
        let request = self.request();
        match self.helper.take() {
            Some(helper) => {
                wal_restore::run_helper(ctx, at.store, &at.path, &request, helper).await
            }
            None => wal_restore::run(ctx, at.store, &at.path, request).await,
        }
    }

    fn unreachable_code(&self) -> u8 {
        self.unreachable_exit_code
    }
}
