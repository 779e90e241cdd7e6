//! `barman-cloud-backup-list`: lists the base backups in the cloud.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use cloud_core::cli::args::CommonArgs;
use cloud_core::cli::{self, Habits, Tool};
use cloud_core::ops::{Ctx, OpError};
use cloud_core::store::{ObjectStore, StoreConfig};

/// Runs the tool with the arguments of the process.
pub fn main() -> ExitCode {
    cli::main::<Args>()
}

/// This script can be used to list backups made with barman-cloud-backup
#[derive(Debug, Parser)]
#[command(name = "barman-cloud-backup-list", version)]
pub struct Args {
    /// URL of the cloud source: s3://BUCKET/PATH, an Azure or Google Cloud
    /// Storage URL, or file:///PATH
    #[arg(value_name = "source_url")]
    source_url: String,

    /// the name of the server as configured in Barman
    #[arg(value_name = "server_name")]
    server_name: String,

    /// Output format (default: console)
    #[arg(long, default_value = "console")]
    format: String,

    #[command(flatten)]
    common: CommonArgs,
}

#[async_trait::async_trait(?Send)]
impl Tool for Args {
    const WORDS: &'static str = "backup list";
    const HABITS: Habits = Habits {
        long: false,
        ends_by_signal: false,
        test_wants_bucket: true,
        retry: Some(std::time::Duration::from_mins(2)),
    };

    fn common(&self) -> &CommonArgs {
        &self.common
    }

    fn store(&self) -> StoreConfig {
        self.common.store(&self.source_url)
    }

    async fn run(
        self,
        _ctx: &Ctx,
        _store: Arc<dyn ObjectStore>,
        _path: String,
    ) -> Result<(), OpError> {
        Err(cli::not_built("barman-cloud-backup-list"))
    }
}
