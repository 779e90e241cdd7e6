//! `barman-cloud-backup-list`: lists the base backups in the cloud.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use cloud_core::cli::args::{CommonArgs, SourceArgs};
use cloud_core::cli::{self, Habits, Tool};
use cloud_core::ops::{Ctx, OpError};
use cloud_core::store::{ObjectStore, StoreConfig};

/// Runs the tool with the arguments of the process.
pub fn main() -> ExitCode {
    cli::main::<Args>()
}

/// List the base backups in an object store
#[derive(Debug, Parser)]
#[command(name = "barman-cloud-backup-list", version)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,

    /// console, or anything else for JSON
    #[arg(long, default_value = "console")]
    format: String,

    #[command(flatten)]
    common: CommonArgs,
}

#[async_trait::async_trait(?Send)]
impl Tool for Args {
    const WORDS: &'static str = "backup list";
    const HABITS: Habits = Habits::CATALOGUE;

    fn common(&self) -> &CommonArgs {
        &self.common
    }

    fn store(&self) -> StoreConfig {
        self.common.store(&self.source.source_url)
    }

    fn server(&self) -> &str {
        &self.source.server_name
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
