//! `barman-cloud-backup`: takes a base backup.

use std::num::NonZeroU32;
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgAction, Parser};
use cloud_core::cli::args::{
    BackupCompressionArgs, CommonArgs, DestinationArgs, EncryptionArgs, Place, ProgressArgs,
    SnapshotPlaceArgs, TagArgs,
};
use cloud_core::cli::progress::Progress;
use cloud_core::cli::{self, Habits, Tool, argparse, tags, values};
use cloud_core::codec::{CodecInfo, Level};
use cloud_core::manifest::Algorithm;
use cloud_core::ops::archives::ArchiveOptions;
use cloud_core::ops::backup::{self, BackupRequest, SnapshotRequest};
use cloud_core::ops::relay::{self, RelayRequest};
use cloud_core::ops::{Ctx, Env, OpError, OpErrorKind, hook};
use cloud_core::pg;
use cloud_core::snapshot::{Cloud, Clouds, Lock, SnapshotOptions};
use cloud_core::store::{Opened, RetryPolicy, StoreConfig};

/// How long a request about a snapshot is repeated: as one to the store.
const SNAPSHOT_RETRY: Duration = Duration::from_mins(10);

/// Runs the tool with the arguments of the process.
pub fn main() -> ExitCode {
    cli::main::<Args>()
}

/// Take a base backup of the PostgreSQL server on this host into an object store
#[derive(Debug, Parser)]
#[command(name = "barman-cloud-backup", version)]
pub struct Args {
    #[command(flatten)]
    destination: DestinationArgs,

    #[command(flatten)]
    compression: BackupCompressionArgs,

    /// Host of the server, or the directory of its socket (default: as libpq)
    #[arg(short = 'h', long)]
    host: Option<String>,

    /// Port of the server (default: as libpq)
    #[arg(short, long)]
    port: Option<String>,

    /// Role to connect as (default: as libpq)
    #[arg(short = 'U', long)]
    user: Option<String>,

    /// Database to connect to, or a whole connection string or URI, which is
    /// then used alone (default: postgres)
    #[arg(short, long)]
    dbname: Option<String>,

    /// Do not spread the checkpoint at the beginning over time
    #[arg(long)]
    immediate_checkpoint: bool,

    /// Parts uploaded at the same time
    #[arg(short = 'J', long, default_value = "2", value_parser = values::positive)]
    jobs: NonZeroU32,

    /// Begin another archive once one is larger than this (KB is 1024 bytes, KiB
    /// is 1000)
    #[arg(short = 'S', long, default_value = "100GB", value_parser = values::size)]
    max_archive_size: u64,

    /// Smallest part of an upload (KB is 1024 bytes, KiB is 1000)
    #[arg(long, value_parser = values::size)]
    min_chunk_size: Option<u64>,

    /// Bytes per second to the store, over everything (KB is 1024 bytes, KiB is
    /// 1000)
    #[arg(long, value_parser = values::size)]
    max_bandwidth: Option<u64>,

    /// Name of the backup, by which the other tools find it
    #[arg(short, long, value_parser = values::backup_name)]
    name: Option<String>,

    /// Seconds between two signs of life on the database connection while files
    /// are copied; 0 for none
    #[arg(long, default_value = "60", value_parser = values::non_negative)]
    keepalive_interval: u64,

    /// Instance that has the disks, for a snapshot backup
    #[arg(long)]
    snapshot_instance: Option<String>,

    /// Disk to take a snapshot of; may be given several times
    #[arg(long, action = ArgAction::Append)]
    snapshot_disk: Vec<String>,

    /// Old spelling of --gcp-zone
    #[arg(long)]
    snapshot_zone: Option<String>,

    /// Old spelling of --gcp-project
    #[arg(long)]
    snapshot_gcp_project: Option<String>,

    #[command(flatten)]
    snapshot_place: SnapshotPlaceArgs,

    /// Project that the snapshots belong to
    #[arg(long, help_heading = "Google Cloud Storage")]
    gcp_project: Option<String>,

    /// Subscription of the instance and the disks of a snapshot backup
    #[arg(long, help_heading = "Azure Blob Storage")]
    azure_subscription_id: Option<String>,

    /// Seconds that snapshots may take to be complete
    #[arg(long, default_value = "3600", value_parser = values::positive, help_heading = S3)]
    aws_await_snapshots_timeout: NonZeroU32,

    /// Lock the snapshots in this mode
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

    /// Level of the compression: low, medium, high or a number that the algorithm
    /// knows (default: 6 for gzip, 9 for bzip2, 0 for lz4, 3 for zstd)
    #[arg(
        long,
        value_parser = values::compression_level,
        allow_hyphen_values = true,
        help_heading = argparse::OURS
    )]
    compression_level: Option<Level>,

    /// Archives made at the same time, each with an encoder and memory for a part of its
    /// own
    #[arg(
        long,
        default_value = "1",
        value_name = "ARCHIVES",
        value_parser = values::parallel_archives,
        help_heading = argparse::OURS
    )]
    parallel_archives: NonZeroU32,

    /// Threads that compress one archive; 0 for as many as there are cores (default:
    /// --jobs, but no more than cores, for all archives together)
    #[arg(
        long,
        value_name = "THREADS",
        value_parser = values::encoder_threads,
        help_heading = argparse::OURS
    )]
    encoder_threads: Option<u32>,

    /// Memory for the parts of archives (default: what --jobs parts of 10 MiB, and
    /// one more for each archive under way, need; KB is 1024 bytes, KiB is 1000)
    #[arg(long, value_parser = values::size, help_heading = argparse::OURS)]
    memory_limit: Option<u64>,

    /// Seconds that the end of the backup may take, which waits until its WAL is
    /// archived (default: no limit)
    #[arg(long, value_parser = values::positive, help_heading = argparse::OURS)]
    stop_timeout: Option<NonZeroU32>,

    /// How the manifest of the backup sums up its files: crc32c, which finds every
    /// accident, or sha256
    #[arg(
        long,
        default_value = "crc32c",
        value_name = "ALGORITHM",
        value_parser = str::parse::<Algorithm>,
        help_heading = argparse::OURS
    )]
    manifest_checksums: Algorithm,

    /// Fail, once all is copied, if pages have wrong checksums; without this they are
    /// told and the backup is completed
    #[arg(long, help_heading = argparse::OURS)]
    fail_on_bad_pages: bool,

    #[command(flatten)]
    progress: ProgressArgs,

    #[command(flatten)]
    common: CommonArgs,
}

/// Whether the algorithm has the level that was asked for.
fn check_level(codec: &CodecInfo, level: Level) -> Result<(), OpError> {
    let name = codec.name;
    let (text, hint) = match (&codec.levels, level) {
        (None, _) if codec.suffix.is_empty() => (
            "--compression-level without compression".to_owned(),
            "give --gzip, --bzip2, --lz4 or --zstd beside it".to_owned(),
        ),
        (None, _) => (
            format!("{name} has no levels"),
            "leave --compression-level away".to_owned(),
        ),
        (Some(levels), Level::Number(number)) if levels.number(level) != number => (
            format!("{name} has no level {number}"),
            format!(
                "--compression-level can be {} to {}",
                levels.min, levels.max
            ),
        ),
        (Some(_), _) => return Ok(()),
    };
    Err(OpError::new(OpErrorKind::Usage, text).with_hint(hint))
}

const S3: &str = "Amazon S3 and compatible stores";

impl Args {
    fn wants_snapshots(&self) -> bool {
        self.snapshot_instance.is_some() || !self.snapshot_disk.is_empty()
    }

    /// What the options say of snapshots.
    fn snapshots(&self) -> SnapshotRequest {
        let config = self.store();
        let place = &self.snapshot_place;
        let lock = Lock::of_options(
            self.aws_snapshot_lock_mode.clone(),
            self.aws_snapshot_lock_cool_off_period,
            self.aws_snapshot_lock_duration,
            self.aws_snapshot_lock_expiration_date.clone(),
        );
        let patience = self.aws_await_snapshots_timeout.get();
        let either = |new: &Option<String>, old: &Option<String>| new.clone().or(old.clone());
        SnapshotRequest {
            cloud: Cloud::of(config.provider),
            clouds: Clouds::new(config, SNAPSHOT_RETRY),
            instance: self.snapshot_instance.clone(),
            disks: self.snapshot_disk.clone(),
            options: SnapshotOptions {
                aws_region: place.aws_region.clone(),
                azure_subscription: self.azure_subscription_id.clone(),
                azure_resource_group: place.azure_resource_group.clone(),
                gcp_project: either(&self.gcp_project, &self.snapshot_gcp_project),
                gcp_zone: either(&place.gcp_zone, &self.snapshot_zone),
                tags: self.tags.get().unwrap_or_default(),
                patience: Some(Duration::from_secs(patience.into())),
                lock,
            },
        }
    }

    /// Whether the options of a lock make one.
    fn check_lock(&self) -> Result<(), OpError> {
        let general = |text: &str| Err(OpError::new(OpErrorKind::General, text));
        let cool_off = self.aws_snapshot_lock_cool_off_period.is_some();
        let end = self.aws_snapshot_lock_duration.is_some()
            || self.aws_snapshot_lock_expiration_date.is_some();
        match self.aws_snapshot_lock_mode.as_deref() {
            Some("governance") if cool_off => general(
                "'aws_snapshot_lock_mode' = 'governance' cannot be used with \
                 'aws_snapshot_lock_cool_off_period'",
            ),
            Some(_) if !end && self.wants_snapshots() => general(
                "--aws-snapshot-lock-mode needs --aws-snapshot-lock-duration or \
                 --aws-snapshot-lock-expiration-date beside it",
            ),
            _ => Ok(()),
        }
    }
}

#[async_trait::async_trait(?Send)]
impl Tool for Args {
    const WORDS: &'static str = "backup";
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

    fn store(&self) -> StoreConfig {
        self.encryption
            .apply(self.common.store(&self.destination.destination_url))
    }

    fn place(&self) -> Place<'_> {
        self.destination.place()
    }

    fn check(&self, env: &Env) -> Result<(), OpError> {
        let general = |text: &str| Err(OpError::new(OpErrorKind::General, text));
        if self.parallel_archives.get() > 1 && (hook::is_hook(env) || self.wants_snapshots()) {
            let text = "--parallel-archives has no meaning in a hook script of a Barman server, nor \
                        for a snapshot backup";
            return Err(OpError::new(OpErrorKind::Usage, text).with_hint("leave it away"));
        }
        if let Some(level) = self.compression_level {
            check_level(self.compression.codec().info(), level)?;
        }
        if self.wants_snapshots() && self.compression.codec().info().name != "none" {
            return general("a snapshot backup cannot be compressed")
                .map_err(|error| error.with_hint("leave the compression option away"));
        }
        self.check_lock()?;
        tags::check_for_backup(&self.tags.get().unwrap_or_default())?;
        if self.snapshot_instance.is_some() && self.encryption.kms_key_name.is_some() {
            return general("--kms-key-name cannot be used with --snapshot-instance");
        }
        Ok(())
    }

    async fn run(self, ctx: &Ctx, at: Opened) -> Result<(), OpError> {
        let snapshots = self.wants_snapshots().then(|| self.snapshots());
        let encryption = self.store().encryption_options();
        let archives = ArchiveOptions {
            path: at.path,
            server: self.destination.server_name,
            codec: self.compression.codec(),
            level: self.compression_level,
            lanes: self.parallel_archives,
            encoder_threads: self.encoder_threads,
            jobs: self.jobs,
            max_archive_size: self.max_archive_size,
            min_chunk_size: self.min_chunk_size,
            max_bandwidth: self.max_bandwidth,
            memory_limit: self.memory_limit,
            tags: self.tags.get(),
            manifest_checksums: self.manifest_checksums,
            fail_on_bad_pages: self.fail_on_bad_pages,
        };
        if hook::is_hook(&ctx.env) {
            let request = RelayRequest {
                archives,
                name: self.name,
                encryption,
            };
            return relay::run(ctx, at.store, request).await;
        }
        let interval = Duration::from_secs(self.keepalive_interval);
        let request = BackupRequest {
            archives,
            connection: pg::Options {
                host: self.host,
                port: self.port,
                user: self.user,
                dbname: self.dbname,
            },
            immediate_checkpoint: self.immediate_checkpoint,
            name: self.name,
            keepalive_interval: (!interval.is_zero()).then_some(interval),
            stop_timeout: self
                .stop_timeout
                .map(|limit| Duration::from_secs(limit.get().into())),
            snapshots,
        };
        backup::run(ctx, at.store, request).await
    }
}
