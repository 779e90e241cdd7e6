//! Taking a base backup.
//!
//! In this order: look at everything that can be wrong while nothing has been
//! written (`preflight`), start backup mode, announce the backup as STARTED,
//! copy (`copy`), stop, and only when every archive is whole in the store
//! write `backup.info` as DONE, the act that makes the backup exist (B1).
//! Whatever goes wrong after the start is recorded as FAILED (`outcome`).

mod copy;
mod outcome;
mod preflight;
mod stats;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use self::copy::Closing;
use self::outcome::{Failure, Record};
use super::archives::{self, Sources};
use super::{Ctx, OpError, OpErrorKind};
use crate::catalogue::layout::{BackupId, Layout};
use crate::codec::{Codec, Level};
use crate::manifest::{Algorithm, WalRange};
use crate::pg::{BackupStop, Options as ConnectionOptions, PgError, Session};
use crate::report::Work;
use crate::store::{ObjectStore, PutOptions, Tag};
use crate::transfer::{Budget, LaneOptions, PartPlan, PartWishes, TransferError, Uploader};

/// A base backup to take.
#[derive(Debug, Clone)]
pub struct BackupRequest {
    /// Key prefix from the URL, as written (it may end in slashes).
    pub path: String,
    /// Server name: one component of every key.
    pub server: String,
    /// How to connect to PostgreSQL.
    pub connection: ConnectionOptions,
    /// Compression of the archives.
    pub codec: &'static dyn Codec,
    /// Ask for a fast checkpoint.
    pub immediate_checkpoint: bool,
    /// Parts uploaded at the same time.
    pub jobs: NonZeroU32,
    /// Upper bound of an archive's size in the store, in bytes.
    pub max_archive_size: u64,
    /// Smallest part wanted, in bytes.
    pub min_chunk_size: Option<u64>,
    /// Bytes per second to the store, over everything.
    pub max_bandwidth: Option<u64>,
    /// Bytes of part buffers, over everything.
    pub memory_limit: Option<u64>,
    /// The backup's name.
    pub name: Option<String>,
    /// Tags of every object.
    pub tags: Option<Vec<Tag>>,
    /// How often the idle session is used; `None` never.
    pub keepalive_interval: Option<Duration>,
    /// How long the stop of the backup may take; `None` for ever.
    pub stop_timeout: Option<Duration>,
    /// How the manifest sums up the files.
    pub manifest_checksums: Algorithm,
}

/// Takes the base backup.
pub async fn run(
    ctx: &Ctx,
    store: Arc<dyn ObjectStore>,
    request: BackupRequest,
) -> Result<(), OpError> {
    let layout = Layout::new(&request.path, &request.server)
        .map_err(|error| OpError::new(OpErrorKind::General, error.to_string()))?;
    let wishes = PartWishes {
        max_archive_size: request.max_archive_size,
        min_chunk_size: request.min_chunk_size,
        jobs: request.jobs.get(),
        lanes: 1,
        memory_limit: request.memory_limit,
    };
    let plan = archives::part_plan(store.as_ref(), &wishes)?;
    archives::check_tags(store.as_ref(), request.tags.as_deref())?;
    let session = preflight::connect(ctx, &request.connection).await?;
    let facts = preflight::facts(ctx, &session).await?;
    let sources = preflight::sources(&facts).await?;
    let store = archives::limited(store, request.max_bandwidth);
    let id = preflight::free_id(ctx, store.as_ref(), &layout).await?;

    // Before anything is written, since it may fail where memory is scarce.
    let budget = Budget::new(plan.budget);
    budget.claim(plan.part_size, facts.cluster_size.unwrap_or(u64::MAX));

    let mut record = Record::new(&store, &layout, &id, &request, &facts);
    tracing::info!("Starting backup '{id}'");
    ctx.reporter.begin(Work::Backup, facts.cluster_size);
    let taking = Taking {
        ctx,
        store: &store,
        layout: &layout,
        id: &id,
        request: &request,
        plan,
        budget,
        version: facts.version,
    };
    let result = taking.run(&session, sources, &mut record).await;
    ctx.reporter.end();
    // Closing the session is what ends backup mode where it was not stopped.
    drop(session);
    match result {
        Ok(()) => Ok(()),
        Err(failure) => Err(record.failed(failure).await),
    }
}

/// A base backup under way.
struct Taking<'a> {
    ctx: &'a Ctx,
    store: &'a Arc<dyn ObjectStore>,
    layout: &'a Layout,
    id: &'a BackupId,
    request: &'a BackupRequest,
    plan: PartPlan,
    budget: Budget,
    /// `server_version_num`.
    version: u32,
}

impl Taking<'_> {
    async fn run(
        &self,
        session: &Session,
        sources: Sources,
        record: &mut Record<'_>,
    ) -> Result<(), Failure> {
        let began = Instant::now();
        let label = format!("Barman backup {} {}", outcome::SERVER_NAME, self.id);
        let start = tokio::select! {
            biased;
            () = self.ctx.cancel.cancelled() => return Err(Failure::Interrupted),
            () = session.closed() => return Err(Failure::Postgres(PgError::Lost)),
            start = session.start_backup(&label, self.request.immediate_checkpoint) => start?,
        };
        record.started(&start).await?;

        // A token of its own: a failed upload stops the copy, and is no signal.
        let cancel = self.ctx.cancel.child_token();
        let options = PutOptions {
            tags: self.request.tags.clone(),
            ..PutOptions::default()
        };
        let uploader = Uploader::new(
            Arc::clone(self.store),
            options,
            self.plan.in_flight,
            cancel.clone(),
            Arc::clone(&self.ctx.reporter),
        );
        let (copied_tx, copied) = oneshot::channel();
        let (closing_tx, closing) = oneshot::channel();
        let job = copy::Job {
            sources,
            layout: self.layout.clone(),
            id: self.id.clone(),
            lane: LaneOptions {
                codec: self.request.codec,
                level: Level::Number(self.request.codec.info().backup_level),
                plan: self.plan,
                limits: self.store.info().limits,
                budget: self.budget.clone(),
                cancel: cancel.clone(),
            },
            uploader: uploader.clone(),
            reporter: Arc::clone(&self.ctx.reporter),
            version: self.version,
            algorithm: self.request.manifest_checksums,
            copied: copied_tx,
            closing,
        };
        let runtime = Handle::current();
        let thread = tokio::task::spawn_blocking(move || job.run(&runtime));

        let stopped = self.copy_and_stop(session, copied, &cancel).await;
        let stopped = match stopped {
            Ok(stop) => {
                let closing = Closing {
                    label: stop.label_file.clone(),
                    range: WalRange {
                        timeline: start.timeline,
                        start: start.lsn,
                        end: stop.lsn,
                    },
                };
                // The receiver is gone only if the thread failed, which it says below.
                let _ = closing_tx.send(closing);
                Some(stop)
            }
            Err(Some(failure)) => {
                cancel.cancel();
                drop(closing_tx);
                let _ = thread.await;
                let _ = uploader.finish().await;
                return Err(failure);
            }
            Err(None) => {
                // An upload that fails this late finds the thread waiting for the
                // end.
                drop(closing_tx);
                None
            }
        };
        let copy = thread.await;
        match copy {
            Ok(Ok(report)) => report.log(),
            Ok(Err(error)) => uploader.fail(error),
            Err(_) => uploader.fail(TransferError::Files(
                "the copying thread ended early".into(),
            )),
        }
        let report = uploader.finish().await.map_err(|error| match error {
            TransferError::Cancelled if self.ctx.cancel.is_cancelled() => Failure::Interrupted,
            other => Failure::Transfer(other),
        })?;
        let stop = stopped.ok_or_else(|| Failure::text("the copy ended before it was complete"))?;
        record.done(&stop, &report, began).await
    }

    /// Waits for the copy with the session kept alive, then stops backup mode.
    ///
    /// `Err(None)` if the copying thread failed: it knows why.
    async fn copy_and_stop(
        &self,
        session: &Session,
        copied: oneshot::Receiver<()>,
        cancel: &CancellationToken,
    ) -> Result<BackupStop, Option<Failure>> {
        tokio::select! {
            biased;
            () = cancel.cancelled() => {
                return Err(self.ctx.cancel.is_cancelled().then_some(Failure::Interrupted));
            }
            lost = session.keep_alive(self.request.keepalive_interval) => {
                return Err(Some(lost.into()));
            }
            copied = copied => copied.map_err(|_| None)?,
        }
        tracing::info!("Stopping backup '{}'", self.id);
        let stop = session.stop_backup();
        let stop = async {
            match self.request.stop_timeout {
                None => Ok(stop.await?),
                Some(limit) => tokio::time::timeout(limit, stop)
                    .await
                    .map_err(|_| {
                        Failure::text(format!(
                            "the server did not end the backup within {} seconds; it waits until \
                             the WAL of the backup is archived: look at archive_command and \
                             pg_stat_archiver",
                            limit.as_secs()
                        ))
                    })?
                    .map_err(Failure::from),
            }
        };
        let stop = tokio::select! {
            biased;
            () = cancel.cancelled() => {
                return Err(self.ctx.cancel.is_cancelled().then_some(Failure::Interrupted));
            }
            stop = stop => stop.map_err(Some)?,
        };
        let after = session
            .finish_on_primary(&format!("barman_{}", self.id))
            .await;
        match after {
            Ok(true) => {
                tracing::info!("Restore point 'barman_{}' successfully created", self.id);
            }
            Ok(false) => {}
            Err(error) => return Err(Some(error.into())),
        }
        Ok(stop)
    }
}
