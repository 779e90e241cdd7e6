//! `barman-cloud-wal-archive`: archives one WAL file, as `archive_command` or as a hook script of a Barman server.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use cloud_core::cli::args::{
    CommonArgs, DestinationArgs, EncryptionArgs, HistoryTagArgs, Place, TagArgs,
    WalCompressionArgs, wal_name,
};
use cloud_core::cli::{self, Habits, Tool, argparse, values};
use cloud_core::codec::Level;
use cloud_core::ops::wal_archive::{self, AheadRequest, QueueRequest, WalArchiveRequest};
use cloud_core::ops::{Ctx, Env, OpError, OpErrorKind, hook};
use cloud_core::store::{Opened, Provider, RetryPolicy, StoreConfig, identity, printable};

/// Runs the tool with the arguments of the process.
pub fn main() -> ExitCode {
    cli::main::<Args>()
}

/// Archive one WAL file in an object store; made for archive_command
#[derive(Debug, Parser)]
#[command(name = "barman-cloud-wal-archive", version)]
pub struct Args {
    #[command(flatten)]
    destination: DestinationArgs,

    /// The WAL file: '%p' in archive_command
    #[arg(value_name = "wal_path")]
    wal_path: Option<PathBuf>,

    #[command(flatten)]
    compression: WalCompressionArgs,

    /// low, medium, high or a number that the algorithm knows
    #[arg(
        long,
        default_value = "medium",
        value_parser = values::compression_level,
        allow_hyphen_values = true
    )]
    compression_level: Level,

    #[command(flatten)]
    tags: TagArgs,

    #[command(flatten)]
    history_tags: HistoryTagArgs,

    #[command(flatten)]
    encryption: EncryptionArgs,

    /// Size of a block of an upload (KB is 1024 bytes, KiB is 1000)
    #[arg(
        long,
        default_value = "4MB",
        value_parser = values::size,
        help_heading = "Azure Blob Storage"
    )]
    max_block_size: u64,

    /// Blocks uploaded at the same time
    #[arg(
        long,
        default_value = "1",
        value_parser = values::positive,
        help_heading = "Azure Blob Storage"
    )]
    max_concurrency: NonZeroU32,

    /// Largest object that is sent in one request (KB is 1024 bytes, KiB is
    /// 1000)
    #[arg(
        long,
        default_value = "64MB",
        value_parser = values::size,
        help_heading = "Azure Blob Storage"
    )]
    max_single_put_size: u64,

    /// Replace a WAL file of the same name that has another content, as Barman
    /// does
    #[arg(long, help_heading = argparse::OURS)]
    allow_overwrite: bool,

    /// Archive WAL of this cluster alone: its system identifier, as pg_controldata prints
    /// it; pg_upgrade changes it
    #[arg(long, value_name = "ID", help_heading = argparse::OURS)]
    require_system_id: Option<u64>,

    /// How many WAL files to archive in one call, at most 64: the requested one and
    /// those that PostgreSQL will ask for next
    #[arg(long, default_value = "1", value_parser = values::parallel, help_heading = argparse::OURS)]
    parallel: u32,

    /// Let a segment go, unarchived and with a loud error, when more WAL than this
    /// waits and the store does not take it; off by default (KB is 1024 bytes, KiB is
    /// 1000)
    #[arg(long, value_name = "SIZE", value_parser = values::size, help_heading = argparse::OURS)]
    queue_max: Option<u64>,

    /// Where calls leave notes for one another: with --parallel of what is archived,
    /// with --queue-max of what was let go; no WAL is kept there
    #[arg(long, default_value = "/var/tmp/walarchive", help_heading = argparse::OURS)]
    spool_dir: PathBuf,

    #[command(flatten)]
    common: CommonArgs,
}

impl Args {
    /// How others are archived with the requested file. A Barman server has no files
    /// that wait beside it.
    fn ahead(&self, env: &Env) -> Option<AheadRequest> {
        (self.parallel > 1 && !hook::is_hook(env)).then(|| AheadRequest {
            parallel: self.parallel,
            spool_dir: self.spool_dir.clone(),
            url: self.url(),
            store: identity(&self.store()),
        })
    }

    /// What becomes of WAL when too much of it waits, which it does not do on a Barman
    /// server.
    fn queue(&self, env: &Env) -> Option<QueueRequest> {
        (!hook::is_hook(env)).then(|| QueueRequest {
            max: self.queue_max,
            spool_dir: self.spool_dir.clone(),
            url: self.url(),
        })
    }

    /// What a user would say names the store, without secrets.
    fn url(&self) -> String {
        let url = printable(&self.destination.destination_url);
        format!("{url} {}", self.common.endpoint())
    }

    /// The WAL file: from the environment in a hook script of a Barman server, which
    /// gives no argument.
    fn wal_file(&self, env: &Env) -> Result<PathBuf, OpError> {
        let usage = |text: &str| OpError::new(OpErrorKind::Usage, text);
        if hook::is_hook(env) {
            return hook::wal_file(env)?
                .ok_or_else(|| usage("BARMAN_FILE environment variable not set"));
        }
        self.wal_path.clone().ok_or_else(|| {
            usage("the path of a WAL file is missing")
                .with_hint("in archive_command write %p behind the server name")
        })
    }
}

#[async_trait::async_trait(?Send)]
impl Tool for Args {
    const WORDS: &'static str = "WAL archiver";
    const HABITS: Habits = Habits {
        long: false,
        ends_by_signal: true,
        test_wants_bucket: true,
        // PostgreSQL waits for all of it.
        retry: Some(RetryPolicy::per_run(Duration::from_mins(1))),
        may_be_dropped: false,
    };

    fn common(&self) -> &CommonArgs {
        &self.common
    }

    fn store(&self) -> StoreConfig {
        let store = self
            .encryption
            .apply(self.common.store(&self.destination.destination_url));
        StoreConfig {
            max_block_size: Some(self.max_block_size),
            max_concurrency: Some(self.max_concurrency.get()),
            max_single_put_size: Some(self.max_single_put_size),
            ..store
        }
    }

    fn place(&self) -> Place<'_> {
        self.destination.place()
    }

    fn check(&self, env: &Env) -> Result<(), OpError> {
        if self.queue_max.is_some() && hook::is_hook(env) {
            let text = "--queue-max has no meaning in a hook script of a Barman server";
            return Err(OpError::new(OpErrorKind::Usage, text)
                .with_hint("there no WAL waits in archive_status; leave the option away"));
        }
        match self.wal_file(env) {
            Ok(path) => match wal_name(&path.to_string_lossy()) {
                Ok(_) => Ok(()),
                Err(line) => Err(OpError::new(OpErrorKind::Usage, line.to_string())
                    .with_hint("archive_command gives the path of a WAL file as %p")),
            },
            // A test of the connection needs none.
            Err(_) if self.common.test => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn run(self, ctx: &Ctx, at: Opened) -> Result<(), OpError> {
        let wal_path = self.wal_file(&ctx.env)?;
        // Of the other stores' options none says so.
        let at_once = match self.store().provider {
            Provider::AzureBlobStorage => self.max_concurrency,
            Provider::AwsS3 | Provider::GoogleCloudStorage => NonZeroU32::MIN,
        };
        let ahead = self.ahead(&ctx.env);
        let queue = self.queue(&ctx.env);
        let request = WalArchiveRequest {
            path: at.path,
            server: self.destination.server_name,
            wal_path,
            codec: self.compression.codec(),
            level: self.compression_level,
            tags: self.tags.get(),
            history_tags: self.history_tags.get(),
            allow_overwrite: self.allow_overwrite,
            // A Barman server would try for ever (docs/decisions.md 13).
            if_different: if hook::is_hook(&ctx.env) {
                OpErrorKind::NoRetry
            } else {
                OpErrorKind::Failed
            },
            require_system_id: self.require_system_id,
            at_once,
            ahead,
            queue,
        };
        wal_archive::run(ctx, at.store, request).await
    }
}
