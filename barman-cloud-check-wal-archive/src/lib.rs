//! `barman-cloud-check-wal-archive`: checks that a WAL archive can be used by a new server.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use cloud_core::cli::args::{CommonArgs, DestinationArgs};
use cloud_core::cli::{self, Habits, Tool, values};
use cloud_core::ops::{Ctx, OpError};
use cloud_core::store::{ObjectStore, StoreConfig};

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

    fn store(&self) -> StoreConfig {
        self.common.store(&self.destination.destination_url)
    }

    fn server(&self) -> &str {
        &self.destination.server_name
    }

    async fn run(
        self,
        _ctx: &Ctx,
        _store: Arc<dyn ObjectStore>,
        _path: String,
    ) -> Result<(), OpError> {
        Err(cli::not_built("barman-cloud-check-wal-archive"))
    }
}
