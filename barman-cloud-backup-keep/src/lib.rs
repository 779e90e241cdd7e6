//! `barman-cloud-backup-keep`: protects a base backup from retention policies.

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

/// Protect a base backup from retention policies
#[derive(Debug, Parser)]
#[command(group = clap::ArgGroup::new("action").required(true).multiple(false))]
#[command(name = "barman-cloud-backup-keep", version)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,

    /// Id, shortcut or name of the backup
    #[arg(value_name = "backup_id")]
    backup_id: String,

    /// Take the protection away
    #[arg(short, long, group = "action")]
    release: bool,

    /// Print how the backup is protected
    #[arg(short, long, group = "action")]
    status: bool,

    /// Keep the backup with all WAL from it on, or only with the WAL that makes
    /// it consistent
    #[arg(
        long,
        group = "action",
        value_parser = clap::builder::PossibleValuesParser::new(["full", "standalone"])
    )]
    target: Option<String>,

    #[command(flatten)]
    common: CommonArgs,
}

#[async_trait::async_trait(?Send)]
impl Tool for Args {
    const WORDS: &'static str = "keep";
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
        Err(cli::not_built("barman-cloud-backup-keep"))
    }
}
