//! `barman-cloud-backup-delete`: deletes base backups and the WAL only they need.

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

/// This script can be used to delete backups made with barman-cloud-backup command from cloud storage
#[derive(Debug, Parser)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(false))]
#[command(name = "barman-cloud-backup-delete", version)]
pub struct Args {
    /// URL of the cloud source: s3://BUCKET/PATH, an Azure or Google Cloud
    /// Storage URL, or file:///PATH
    #[arg(value_name = "source_url")]
    source_url: String,

    /// the name of the server as configured in Barman
    #[arg(value_name = "server_name")]
    server_name: String,

    /// Backup ID, shortcut or name of the backup to be deleted
    #[arg(short = 'b', long, group = "what", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    backup_id: Option<String>,

    /// If specified, delete all backups eligible for deletion according to the
    /// supplied retention policy
    #[arg(short = 'r', long, group = "what", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    retention_policy: Option<String>,

    /// The minimum number of backups that should always be available
    #[arg(short, long, default_value = "0", value_parser = values::non_negative)]
    minimum_redundancy: u64,

    /// Find the objects which need to be deleted but do not delete them
    #[arg(long)]
    dry_run: bool,

    /// The maximum number of objects to be deleted in a single request to the
    /// cloud provider
    #[arg(long, value_parser = values::any_integer)]
    batch_size: Option<i64>,

    /// Check the lock of every object before the first one is deleted
    #[arg(long, help_heading = "Extra options for the aws-s3 cloud provider")]
    check_object_lock: bool,

    #[command(flatten)]
    common: CommonArgs,
}

#[async_trait::async_trait(?Send)]
impl Tool for Args {
    const WORDS: &'static str = "backup delete";
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
        Err(cli::not_built("barman-cloud-backup-delete"))
    }
}
