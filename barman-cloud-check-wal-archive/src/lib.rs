//! `barman-cloud-check-wal-archive`: checks that a WAL archive can be used by a new server.

use std::process::ExitCode;

use clap::Parser;
use cloud_core::cli::args::{CommonArgs, DestinationArgs, Place};
use cloud_core::cli::{self, Habits, Tool, values};
use cloud_core::ops::check_wal_archive::{self, CheckRequest};
use cloud_core::ops::{Ctx, OpError};
use cloud_core::store::Opened;

/// Runs the tool with the arguments of the process.
pub fn main() -> ExitCode {
    cli::main::<Args>()
}

/// Check that a new PostgreSQL server can archive its WAL in this place
#[derive(Debug, Parser)]
#[command(name = "barman-cloud-check-wal-archive", version)]
pub struct Args {
    #[command(flatten)]
    destination: DestinationArgs,

    /// Accept WAL of timelines before this one
    #[arg(long, value_parser = values::positive)]
    timeline: Option<std::num::NonZeroU32>,

    #[command(flatten)]
    common: CommonArgs,
}

#[async_trait::async_trait(?Send)]
impl Tool for Args {
    const WORDS: &'static str = "WAL archive check";
    const HABITS: Habits = Habits {
        test_wants_bucket: false,
        ..Habits::CATALOGUE
    };

    fn common(&self) -> &CommonArgs {
        &self.common
    }

    fn place(&self) -> Place<'_> {
        self.destination.place()
    }

    async fn run(self, _ctx: &Ctx, at: Opened) -> Result<(), OpError> {
        let request = CheckRequest {
            bucket: at.bucket,
            path: at.path,
            server: self.destination.server_name,
            timeline: self.timeline,
        };
        check_wal_archive::run(at.store, request).await
    }
}
