//! `barman-cloud-backup-keep`: protects a base backup from retention policies.

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

/// This script can be used to tag backups in cloud storage as archival backups such that they will not be deleted
#[derive(Debug, Parser)]
#[command(group = clap::ArgGroup::new("action").required(true).multiple(false))]
#[command(name = "barman-cloud-backup-keep", version)]
pub struct Args {
    /// URL of the cloud source: s3://BUCKET/PATH, an Azure or Google Cloud
    /// Storage URL, or file:///PATH
    #[arg(value_name = "source_url")]
    source_url: String,

    /// the name of the server as configured in Barman
    #[arg(value_name = "server_name")]
    server_name: String,

    /// the backup ID, shortcut or name
    #[arg(value_name = "backup_id")]
    backup_id: String,

    /// If specified, the command will remove the keep annotation and the
    /// backup will be eligible for deletion
    #[arg(short, long, group = "action")]
    release: bool,

    /// Print the keep status of the backup
    #[arg(short, long, group = "action")]
    status: bool,

    /// Specify the recovery target for this backup
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
        Err(cli::not_built("barman-cloud-backup-keep"))
    }
}
