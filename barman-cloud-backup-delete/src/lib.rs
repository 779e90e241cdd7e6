//! `barman-cloud-backup-delete`: deletes base backups and the WAL only they need.

use std::process::ExitCode;

use clap::Parser;
use cloud_core::cli::args::{CommonArgs, Place, SourceArgs};
use cloud_core::cli::{self, Habits, Tool, values};
use cloud_core::ops::{Ctx, OpError};
use cloud_core::store::Opened;

/// Runs the tool with the arguments of the process.
pub fn main() -> ExitCode {
    cli::main::<Args>()
}

/// Delete base backups, and the WAL that only they need
#[derive(Debug, Parser)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(false))]
#[command(name = "barman-cloud-backup-delete", version)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,

    /// Delete this backup: its id, shortcut or name
    #[arg(short = 'b', long, group = "what", value_parser = values::not_empty)]
    backup_id: Option<String>,

    /// Delete what the policy no longer wants: REDUNDANCY n, or RECOVERY WINDOW
    /// OF n DAYS, WEEKS or MONTHS
    #[arg(short = 'r', long, group = "what", value_parser = values::not_empty)]
    retention_policy: Option<String>,

    /// Never have fewer backups than this
    #[arg(short, long, default_value = "0", value_parser = values::non_negative)]
    minimum_redundancy: u64,

    /// Say what would be deleted, and delete nothing
    #[arg(long)]
    dry_run: bool,

    /// Most objects of one request (default: what the store allows)
    #[arg(long, value_parser = values::any_integer)]
    batch_size: Option<i64>,

    /// Check the lock of every object before the first one is deleted
    #[arg(long, help_heading = "Amazon S3 and compatible stores")]
    check_object_lock: bool,

    #[command(flatten)]
    common: CommonArgs,
}

#[async_trait::async_trait(?Send)]
impl Tool for Args {
    const WORDS: &'static str = "backup delete";
    const HABITS: Habits = Habits::CATALOGUE;

    fn common(&self) -> &CommonArgs {
        &self.common
    }

    fn place(&self) -> Place<'_> {
        self.source.place()
    }

    async fn run(self, _ctx: &Ctx, _at: Opened) -> Result<(), OpError> {
        Err(cli::not_built("barman-cloud-backup-delete"))
    }
}
