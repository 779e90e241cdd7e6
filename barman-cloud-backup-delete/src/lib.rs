//! `barman-cloud-backup-delete`: deletes base backups and the WAL only they need.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use cloud_core::catalogue::retention::InvalidPolicy;
use cloud_core::cli::args::{CommonArgs, Place, SourceArgs};
use cloud_core::cli::{self, Habits, Tool, argparse, values};
use cloud_core::ops::delete::{self, DeleteRequest, Selection};
use cloud_core::ops::{Ctx, Env, OpError, OpErrorKind};
use cloud_core::snapshot::Clouds;
use cloud_core::store::Opened;
use cloud_core::units;

/// How long a request about a snapshot is repeated: as one to the store.
const SNAPSHOT_RETRY: Duration = Duration::from_mins(2);

/// Runs the tool with the arguments of the process.
pub fn main() -> ExitCode {
    cli::main::<Args>()
}

/// Delete base backups, and the WAL that only they need
#[derive(Debug, Parser)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true))]
#[command(name = "barman-cloud-backup-delete", version)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,

    /// Delete this backup: its id, shortcut or name
    #[arg(
        short = 'b',
        long,
        group = "what",
        conflicts_with = "retention_policy",
        value_parser = values::not_empty
    )]
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

    /// Delete what failed and killed backups left behind: archives without a
    /// record, FAILED backups, unfinished uploads; nothing newer than the newest
    /// good backup, and no WAL
    #[arg(long, group = "what", help_heading = argparse::OURS)]
    purge_orphans: bool,

    /// With --purge-orphans: only what nothing was added to for so long, counted
    /// from its newest object or part (90s, 30min, 12h, 7d, 2w)
    #[arg(
        long,
        value_name = "AGE",
        default_value = "7d",
        requires = "purge_orphans",
        value_parser = units::parse_duration,
        help_heading = argparse::OURS
    )]
    older_than: Duration,

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

    fn check(&self, _env: &Env) -> Result<(), OpError> {
        // A connection is tested whatever the policy says.
        if self.common.test {
            return Ok(());
        }
        selection(None, self.retention_policy.clone()).map(|_| ())
    }

    fn place(&self) -> Place<'_> {
        self.source.place()
    }

    async fn run(self, _ctx: &Ctx, at: Opened) -> Result<(), OpError> {
        let clouds = Clouds::new(self.store(), SNAPSHOT_RETRY);
        let request = DeleteRequest {
            path: at.path,
            server: self.source.server_name,
            selection: selection(self.backup_id, self.retention_policy)?,
            minimum_redundancy: self.minimum_redundancy,
            dry_run: self.dry_run,
            batch_size: self.batch_size,
            check_object_lock: self.check_object_lock,
            purge: self.purge_orphans.then_some(self.older_than),
            clouds,
        };
        cli::answer(delete::run(at.store, request).await?)
    }
}

/// The backups that the options name.
fn selection(backup: Option<String>, policy: Option<String>) -> Result<Option<Selection>, OpError> {
    match (backup, policy) {
        (Some(backup), _) => Ok(Some(Selection::Backup(backup))),
        (None, Some(policy)) => {
            match policy.parse() {
                Ok(policy) => Ok(Some(Selection::Policy(policy))),
                Err(error) => {
                    let error: InvalidPolicy = error;
                    Err(OpError::new(OpErrorKind::Usage, error.to_string()).with_hint(
                    "write 'REDUNDANCY 3' or 'RECOVERY WINDOW OF 7 DAYS' (WEEKS, MONTHS), in \
                     quotes",
                ))
                }
            }
        }
        (None, None) => Ok(None),
    }
}
