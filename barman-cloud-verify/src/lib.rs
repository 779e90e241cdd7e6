//! `barman-cloud-verify`: proves a base backup where it lies.

use std::num::NonZeroU32;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use cloud_core::cli::args::{CommonArgs, Place, ProgressArgs, SourceArgs};
use cloud_core::cli::progress::Progress;
use cloud_core::cli::{self, Habits, Tool, argparse, values};
use cloud_core::ops::verify::{self, VerifyRequest};
use cloud_core::ops::{Ctx, Format, OpError};
use cloud_core::store::{Opened, RetryPolicy};

/// Runs the tool with the arguments of the process.
pub fn main() -> ExitCode {
    cli::main::<Args>()
}

/// Prove a base backup and its WAL where they lie, without restoring them
#[derive(Debug, Parser)]
#[command(name = "barman-cloud-verify", version)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,

    /// Id, shortcut or name of the backup
    #[arg(value_name = "backup_id")]
    backup_id: String,

    /// console, or anything else for JSON
    #[arg(long, default_value = "console")]
    format: String,

    /// Check the WAL to the newest segment in the archive, not only to the end of the
    /// backup
    #[arg(long, help_heading = argparse::OURS)]
    wal: bool,

    /// Archives read side by side, and requests to the store at the same time
    #[arg(long, default_value = "2", value_parser = values::positive, help_heading = argparse::OURS)]
    jobs: NonZeroU32,

    #[command(flatten)]
    progress: ProgressArgs,

    #[command(flatten)]
    common: CommonArgs,
}

#[async_trait::async_trait(?Send)]
impl Tool for Args {
    const WORDS: &'static str = "verify";
    const HABITS: Habits = Habits {
        long: true,
        ends_by_signal: false,
        test_wants_bucket: true,
        retry: Some(RetryPolicy::per_request(Duration::from_mins(10))),
        // It leaves nothing behind.
        may_be_dropped: true,
    };

    fn progress(&self) -> Progress {
        self.progress.get()
    }

    fn common(&self) -> &CommonArgs {
        &self.common
    }

    fn place(&self) -> Place<'_> {
        self.source.place()
    }

    async fn run(self, ctx: &Ctx, at: Opened) -> Result<(), OpError> {
        let request = VerifyRequest {
            path: at.path,
            server: self.source.server_name,
            backup: self.backup_id,
            format: Format::of(&self.format),
            jobs: self.jobs,
            to_newest: self.wal,
        };
        cli::answer(verify::run(ctx, at.store, request).await?)
    }
}
