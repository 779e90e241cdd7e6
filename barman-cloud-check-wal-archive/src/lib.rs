//! `barman-cloud-check-wal-archive`: checks that a WAL archive can be used by a new server.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use cloud_core::cli::args::CommonArgs;
use cloud_core::cli::{self, Habits, Tool, values};
use cloud_core::ops::{Ctx, OpError};
use cloud_core::store::{ObjectStore, StoreConfig};

/// Runs the tool with the arguments of the process.
pub fn main() -> ExitCode {
    cli::main::<Args>()
}

/// Checks that the WAL archive on the specified cloud storage can be safely used for a new PostgreSQL server
#[derive(Debug, Parser)]
#[command(name = "barman-cloud-check-wal-archive", version)]
pub struct Args {
    /// URL of the cloud destination: s3://BUCKET/PATH, an Azure or Google Cloud
    /// Storage URL, or file:///PATH
    #[arg(value_name = "destination_url")]
    destination_url: String,

    /// the name of the server as configured in Barman
    #[arg(value_name = "server_name")]
    server_name: String,

    /// The earliest timeline whose WALs should cause the check to fail
    #[arg(long, value_parser = values::positive)]
    timeline: Option<std::num::NonZeroU32>,

    #[command(flatten)]
    common: CommonArgs,
}

#[async_trait::async_trait(?Send)]
impl Tool for Args {
    const WORDS: &'static str = "WAL archive check";
    const HABITS: Habits = Habits {
        long: false,
        ends_by_signal: false,
        test_wants_bucket: false,
        retry: Some(std::time::Duration::from_mins(2)),
    };

    fn common(&self) -> &CommonArgs {
        &self.common
    }

    fn store(&self) -> StoreConfig {
        self.common.store(&self.destination_url)
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
