//! `barman-cloud-restore`: restores a base backup.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgAction, Parser};
use cloud_core::cli::args::{CommonArgs, Place, ProgressArgs, SnapshotPlaceArgs, SourceArgs};
use cloud_core::cli::progress::Progress;
use cloud_core::cli::{self, Habits, Tool, argparse, values};
use cloud_core::ops::restore::{
    self, Durability, Existing, RecoveryPlace, RecoveryTarget, RestoreRequest,
};
use cloud_core::ops::{Ctx, Env, OpError};
use cloud_core::snapshot::{Clouds, SnapshotOptions};
use cloud_core::store::{Opened, RetryPolicy};

/// How long a request about disks is repeated.
const SNAPSHOT_RETRY: Duration = Duration::from_mins(2);

/// Runs the tool with the arguments of the process.
pub fn main() -> ExitCode {
    cli::main::<Args>()
}

/// Restore a base backup from an object store
#[derive(Debug, Parser)]
#[command(name = "barman-cloud-restore", version)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,

    /// Id, shortcut or name of the backup; 'auto' for the newest one that the
    /// recovery target can be reached from
    #[arg(value_name = "backup_id")]
    backup_id: String,

    /// Directory that becomes the data directory
    #[arg(value_name = "recovery_dir")]
    recovery_dir: PathBuf,

    /// Restore the tablespace NAME to LOCATION; may be given several times
    #[arg(long, value_name = "NAME:LOCATION", action = ArgAction::Append)]
    tablespace: Vec<String>,

    /// Timeline to recover to, with auto: current, latest or a number
    #[arg(long, value_parser = values::target_timeline)]
    target_tli: Option<String>,

    /// Position to recover to, with auto
    #[arg(long, group = "target")]
    target_lsn: Option<String>,

    /// Time to recover to, with auto
    #[arg(long, group = "target")]
    target_time: Option<String>,

    /// Instance that has the disks made of the snapshots
    #[arg(long)]
    snapshot_recovery_instance: Option<String>,

    /// Old spelling of --gcp-zone
    #[arg(long)]
    snapshot_recovery_zone: Option<String>,

    #[command(flatten)]
    snapshot_place: SnapshotPlaceArgs,

    /// Restore a backup that is not complete; it must be named by its id
    #[arg(long, help_heading = argparse::OURS)]
    allow_incomplete: bool,

    /// Archives unpacked side by side, and requests to the store at the same time
    #[arg(long, default_value = "2", value_parser = values::positive, help_heading = argparse::OURS)]
    jobs: NonZeroU32,

    /// Do not wait until everything is on disk
    #[arg(long, help_heading = argparse::OURS)]
    no_sync: bool,

    /// Go on with an interrupted restore of this backup into this directory
    #[arg(long, group = "existing", help_heading = argparse::OURS)]
    resume: bool,

    /// Restore over a data directory of the same cluster: only files that differ
    /// are written, what is not in the backup is removed
    #[arg(long, group = "existing", help_heading = argparse::OURS)]
    delta: bool,

    #[command(flatten)]
    progress: ProgressArgs,

    #[command(flatten)]
    common: CommonArgs,
}

#[async_trait::async_trait(?Send)]
impl Tool for Args {
    const WORDS: &'static str = "restore";
    const HABITS: Habits = Habits {
        long: true,
        ends_by_signal: false,
        test_wants_bucket: true,
        retry: Some(RetryPolicy::per_request(Duration::from_mins(10))),
        may_be_dropped: false,
    };

    fn progress(&self) -> Progress {
        self.progress.get()
    }

    fn common(&self) -> &CommonArgs {
        &self.common
    }

    fn place(&self) -> Place<'_> {
        self.source.place()
    }

    fn check(&self, _env: &Env) -> Result<(), OpError> {
        restore::check_rules(&self.tablespace)
    }

    async fn run(self, ctx: &Ctx, at: Opened) -> Result<(), OpError> {
        let recovery_place = RecoveryPlace {
            clouds: Clouds::new(self.store(), SNAPSHOT_RETRY),
            instance: self.snapshot_recovery_instance,
            options: SnapshotOptions {
                aws_region: self.snapshot_place.aws_region,
                azure_resource_group: self.snapshot_place.azure_resource_group,
                gcp_zone: self.snapshot_place.gcp_zone.or(self.snapshot_recovery_zone),
                ..SnapshotOptions::default()
            },
        };
        let request = RestoreRequest {
            path: at.path,
            server: self.source.server_name,
            backup: self.backup_id,
            target: self.recovery_dir,
            tablespaces: self.tablespace,
            recovery_target: RecoveryTarget {
                timeline: self.target_tli,
                lsn: self.target_lsn,
                time: self.target_time,
            },
            allow_incomplete: self.allow_incomplete,
            jobs: self.jobs,
            durability: if self.no_sync {
                Durability::Unsynced
            } else {
                Durability::Synced
            },
            existing: match (self.resume, self.delta) {
                (true, _) => Existing::Resumed,
                (_, true) => Existing::Delta,
                _ => Existing::Refused,
            },
            recovery_place,
        };
        restore::run(ctx, at.store, request).await
    }
}
