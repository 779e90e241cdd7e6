//! `barman-cloud-backup`: takes a base backup.

use std::num::NonZeroU32;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{ArgAction, Parser};
use cloud_core::cli::args::{
    BackupCompressionArgs, CommonArgs, EncryptionArgs, SnapshotPlaceArgs, TagArgs,
};
use cloud_core::cli::{self, Habits, Tool, argparse, tags, values};
use cloud_core::ops::backup::{self, BackupRequest};
use cloud_core::ops::{Ctx, Env, OpError, OpErrorKind};
use cloud_core::pg;
use cloud_core::store::{ObjectStore, StoreConfig};

/// Runs the tool with the arguments of the process.
pub fn main() -> ExitCode {
    cli::main::<Args>()
}

/// This script can be used to perform a backup of a local PostgreSQL instance and ship the resulting tarball(s) to the Cloud
#[derive(Debug, Parser)]
#[command(name = "barman-cloud-backup", version)]
pub struct Args {
    /// URL of the cloud destination: s3://BUCKET/PATH, an Azure or Google Cloud
    /// Storage URL, or file:///PATH
    #[arg(value_name = "destination_url")]
    destination_url: String,

    /// the name of the server as configured in Barman
    #[arg(value_name = "server_name")]
    server_name: String,

    #[command(flatten)]
    compression: BackupCompressionArgs,

    /// host or Unix socket for PostgreSQL connection (default: libpq settings)
    #[arg(short = 'h', long)]
    host: Option<String>,

    /// port for PostgreSQL connection (default: libpq settings)
    #[arg(short, long)]
    port: Option<String>,

    /// user name for PostgreSQL connection (default: libpq settings)
    #[arg(short = 'U', long)]
    user: Option<String>,

    /// Database name or conninfo string for Postgres connection (default:
    /// postgres)
    #[arg(short, long)]
    dbname: Option<String>,

    /// forces the initial checkpoint to be done as quickly as possible
    #[arg(long)]
    immediate_checkpoint: bool,

    /// number of parts uploaded at the same time
    #[arg(short = 'J', long, default_value = "2", value_parser = values::positive)]
    jobs: NonZeroU32,

    /// maximum size of an archive when uploading to cloud storage (KB is 1024
    /// bytes, KiB is 1000)
    #[arg(short = 'S', long, default_value = "100GB", value_parser = values::size)]
    max_archive_size: u64,

    /// minimum size of an individual chunk when uploading to cloud storage (KB
    /// is 1024 bytes, KiB is 1000)
    #[arg(long, value_parser = values::size)]
    min_chunk_size: Option<u64>,

    /// the maximum amount of data to be uploaded per second when backing up,
    /// over all archives together (KB is 1024 bytes, KiB is 1000)
    #[arg(long, value_parser = values::size)]
    max_bandwidth: Option<u64>,

    /// a name which can be used to reference this backup in commands such as
    /// barman-cloud-restore and barman-cloud-backup-delete
    #[arg(short, long, value_parser = values::backup_name)]
    name: Option<String>,

    /// Seconds between two signs of life on the database connection while files
    /// are copied; 0 for none
    #[arg(long, default_value = "60", value_parser = values::non_negative)]
    keepalive_interval: u64,

    /// Instance where the disks to be backed up as snapshots are attached
    #[arg(long)]
    snapshot_instance: Option<String>,

    /// Name of a disk from which snapshots should be taken; may be given several
    /// times
    #[arg(long, action = ArgAction::Append)]
    snapshot_disk: Vec<String>,

    /// Zone of the disks from which snapshots should be taken (deprecated: use
    /// --gcp-zone)
    #[arg(long)]
    snapshot_zone: Option<String>,

    /// GCP project under which disk snapshots should be stored (deprecated: use
    /// --gcp-project)
    #[arg(long)]
    snapshot_gcp_project: Option<String>,

    #[command(flatten)]
    snapshot_place: SnapshotPlaceArgs,

    /// GCP project under which disk snapshots should be stored
    #[arg(
        long,
        help_heading = "Extra options for google-cloud-storage cloud provider"
    )]
    gcp_project: Option<String>,

    /// The ID of the Azure subscription which owns the instance and storage
    /// volumes of a snapshot backup
    #[arg(
        long,
        help_heading = "Extra options for the azure-blob-storage cloud provider"
    )]
    azure_subscription_id: Option<String>,

    /// The length of time in seconds to wait for snapshots to be created in AWS
    /// before timing out
    #[arg(long, default_value = "3600", value_parser = values::positive, help_heading = S3)]
    aws_await_snapshots_timeout: NonZeroU32,

    /// The lock mode to apply to the snapshot
    #[arg(
        long,
        value_parser = clap::builder::PossibleValuesParser::new(["governance", "compliance"]),
        help_heading = S3
    )]
    aws_snapshot_lock_mode: Option<String>,

    /// How many hours a snapshot locked in compliance mode can still be
    /// unlocked: 1 to 72
    #[arg(long, value_parser = values::lock_cool_off, help_heading = S3)]
    aws_snapshot_lock_cool_off_period: Option<u32>,

    /// When the lock of a snapshot expires: YYYY-MM-DDThh:mm:ss.000Z
    #[arg(long, value_parser = values::lock_expiration, group = "lock-end", help_heading = S3)]
    aws_snapshot_lock_expiration_date: Option<String>,

    /// How many days a snapshot is locked: 1 to 36500
    #[arg(long, value_parser = values::lock_duration, group = "lock-end", help_heading = S3)]
    aws_snapshot_lock_duration: Option<u32>,

    #[command(flatten)]
    tags: TagArgs,

    #[command(flatten)]
    encryption: EncryptionArgs,

    /// Memory for the parts of archives (default: what --jobs parts of 10 MiB,
    /// and one more, need; KB is 1024 bytes, KiB is 1000)
    #[arg(long, value_parser = values::size, help_heading = argparse::OURS)]
    memory_limit: Option<u64>,

    /// Seconds that the end of the backup may take, which waits until its WAL is
    /// archived (default: no limit)
    #[arg(long, value_parser = values::positive, help_heading = argparse::OURS)]
    stop_timeout: Option<NonZeroU32>,

    #[command(flatten)]
    common: CommonArgs,
}

const S3: &str = "Extra options for the aws-s3 cloud provider";

impl Args {
    fn wants_snapshots(&self) -> bool {
        self.snapshot_instance.is_some() || !self.snapshot_disk.is_empty()
    }
}

#[async_trait::async_trait(?Send)]
impl Tool for Args {
    const WORDS: &'static str = "backup";
    const HABITS: Habits = Habits {
        long: true,
        ends_by_signal: false,
        test_wants_bucket: true,
        retry: Some(Duration::from_mins(10)),
    };

    fn common(&self) -> &CommonArgs {
        &self.common
    }

    fn store(&self) -> StoreConfig {
        self.encryption
            .apply(self.common.store(&self.destination_url))
    }

    fn check(&self) -> Result<(), OpError> {
        let general = |text: &str| Err(OpError::new(OpErrorKind::General, text));
        if self.wants_snapshots() && self.compression.codec().info().name != "none" {
            return general("Compression options cannot be used with snapshot backups");
        }
        let cool_off = self.aws_snapshot_lock_cool_off_period.is_some();
        if cool_off && self.aws_snapshot_lock_mode.as_deref() == Some("governance") {
            return general(
                "'aws_snapshot_lock_mode' = 'governance' cannot be used with \
                 'aws_snapshot_lock_cool_off_period'",
            );
        }
        tags::check_for_backup(&self.tags.get().unwrap_or_default())?;
        if self.snapshot_instance.is_some() && self.encryption.kms_key_name.is_some() {
            return general("Encryption options are not compatible with snapshot backups");
        }
        Ok(())
    }

    async fn run(
        self,
        ctx: &Ctx,
        store: Arc<dyn ObjectStore>,
        path: String,
    ) -> Result<(), OpError> {
        if hook(&ctx.env) {
            return Err(cli::not_built(
                "running as a hook script of a Barman server",
            ));
        }
        if self.wants_snapshots() {
            return Err(cli::not_built("taking snapshots of disks"));
        }
        let interval = Duration::from_secs(self.keepalive_interval);
        let request = BackupRequest {
            path,
            server: self.server_name,
            connection: pg::Options {
                host: self.host,
                port: self.port,
                user: self.user,
                dbname: self.dbname,
            },
            codec: self.compression.codec(),
            immediate_checkpoint: self.immediate_checkpoint,
            jobs: self.jobs,
            max_archive_size: self.max_archive_size,
            min_chunk_size: self.min_chunk_size,
            max_bandwidth: self.max_bandwidth,
            memory_limit: self.memory_limit,
            name: self.name,
            tags: self.tags.get(),
            keepalive_interval: (!interval.is_zero()).then_some(interval),
            stop_timeout: self
                .stop_timeout
                .map(|limit| Duration::from_secs(limit.get().into())),
        };
        backup::run(ctx, store, request).await
    }
}

fn hook(env: &Env) -> bool {
    env.get_os("BARMAN_HOOK").is_some() && env.get_os("BARMAN_PHASE").is_some()
}
