//! Taking a base backup.
//!
//! In this order: look at everything that can be wrong while nothing has been
//! written (`preflight`), start backup mode, announce the backup as STARTED,
//! copy (`copy`), stop, and only when every archive is whole in the store
//! write `backup.info` as DONE, the act that makes the backup exist (B1).
//! Whatever goes wrong after the start is recorded as FAILED (`outcome`).

mod copy;
mod lanes;
mod outcome;
mod preflight;
mod simulation;
mod snapshots;
mod stats;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use self::copy::Closing;
use self::outcome::{Failure, Record};
pub use self::simulation::{Simulation, simulate};
pub use self::snapshots::SnapshotRequest;
use super::archives::{ArchiveOptions, Destination, Sources};
use super::{Ctx, OpError};
use crate::catalogue::layout::BackupId;
use crate::manifest::WalRange;
use crate::pg::{
    BackupStart, BackupStop, Options as ConnectionOptions, PgError, PgTablespace, ServerFacts,
    Session,
};
use crate::report::{Phase, Work};
use crate::store::ObjectStore;
use crate::transfer::{Budget, TransferError};
use crate::wal::{History, WalName};

/// A base backup to take.
#[derive(Debug, Clone)]
pub struct BackupRequest {
    /// How its archives are made and where they go.
    pub archives: ArchiveOptions,
    /// How to connect to PostgreSQL.
    pub connection: ConnectionOptions,
    /// Ask for a fast checkpoint.
    pub immediate_checkpoint: bool,
    /// The backup's name.
    pub name: Option<String>,
    /// How often the idle session is used; `None` never.
    pub keepalive_interval: Option<Duration>,
    /// How long the stop of the backup may take; `None` for ever.
    pub stop_timeout: Option<Duration>,
    /// Snapshots of disks in place of archives.
    pub snapshots: Option<SnapshotRequest>,
}

/// Takes the base backup.
pub async fn run(
    ctx: &Ctx,
    store: Arc<dyn ObjectStore>,
    request: BackupRequest,
) -> Result<(), OpError> {
    let to = Destination::new(store, &request.archives)?;
    let session = preflight::connect(ctx, &request.connection).await?;
    if let Some(wanted) = &request.snapshots {
        return snapshots::run(ctx, &to, session, &request, wanted).await;
    }
    let mut facts = preflight::facts(ctx, &session).await?;
    let sources = preflight::sources(&facts).await?;
    let id = preflight::free_id(ctx, to.store.as_ref(), &to.layout).await?;
    preflight::compare_owner(ctx, to.store.as_ref(), &to.layout, &facts).await?;
    let budget = to.budget(facts.cluster_size);

    let mut record = Record::new(&to.records, &to.layout, &id, &request, &facts);
    tracing::info!("Starting backup '{id}'");
    ctx.reporter.begin(Work::Backup, facts.cluster_size);
    let taking = Taking {
        ctx,
        to: &to,
        id: &id,
        request: &request,
        budget,
        version: facts.version,
    };
    let result = taking.run(&session, &mut facts, sources, &mut record).await;
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
    to: &'a Destination,
    id: &'a BackupId,
    request: &'a BackupRequest,
    budget: Budget,
    /// `server_version_num`.
    version: u32,
}

impl Taking<'_> {
    async fn run(
        &self,
        session: &Session,
        facts: &mut ServerFacts,
        sources: Sources,
        record: &mut Record<'_>,
    ) -> Result<(), Failure> {
        let began = Instant::now();
        let label = format!("Barman backup {} {}", outcome::SERVER_NAME, self.id);
        let fast = self.request.immediate_checkpoint;
        let start = start(self.ctx, session, &label, fast).await?;
        let tablespaces = tablespaces(self.ctx, session, facts).await?;
        let sources = preflight::sources_at(facts, tablespaces, start.lsn, sources)
            .await
            .map_err(Failure::text)?;
        record.tablespaces(&facts.tablespaces);
        record.started(&start).await?;
        self.ctx.reporter.phase(Phase::Copying);

        let pgdata = sources.pgdata.clone();

        // A token of its own: a failed upload stops the copy, and is no signal.
        let cancel = self.ctx.cancel.child_token();
        let options = &self.request.archives;
        let (budget, reporter) = (self.budget.clone(), &self.ctx.reporter);
        let (lane, uploader) = self.to.way(options, budget, reporter, &cancel);
        let (copied_tx, copied) = oneshot::channel();
        let (closing_tx, closing) = oneshot::channel();
        let plan = copy::Plan {
            sources,
            layout: self.to.layout.clone(),
            id: self.id.clone(),
            lane,
            lanes: options.lanes,
            uploader: uploader.clone(),
            reporter: Arc::clone(&self.ctx.reporter),
            version: self.version,
            algorithm: options.manifest_checksums,
            begin: Some(start.lsn),
            fail_on_bad_pages: options.fail_on_bad_pages,
        };
        let job = copy::Job {
            plan,
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
                    end: stop.lsn,
                    wal: wal_needed(pgdata, &start, &stop).await,
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
        let jobs = options.jobs.get();
        let stats = stats::copy_stats(&report, jobs, began.elapsed());
        record.done(&stop, stats, began).await
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
        let stopping = Stopping {
            ctx: self.ctx,
            request: self.request,
            id: self.id,
        };
        stopping.stop(session, cancel).await
    }
}

/// Starts backup mode.
async fn start(
    ctx: &Ctx,
    session: &Session,
    label: &str,
    fast: bool,
) -> Result<BackupStart, Failure> {
    tokio::select! {
        biased;
        () = ctx.cancel.cancelled() => Err(Failure::Interrupted),
        () = session.closed() => Err(Failure::Postgres(PgError::Lost)),
        start = session.start_backup(label, fast) => Ok(start?),
    }
}

/// The WAL that the backup needs, newest timeline first. A standby follows its primary to
/// another timeline, and the history of that is in `pg_wal` then.
async fn wal_needed(pgdata: PathBuf, start: &BackupStart, stop: &BackupStop) -> Vec<WalRange> {
    let whole = WalRange {
        timeline: start.timeline,
        start: start.lsn,
        end: stop.lsn,
    };
    if start.timeline == stop.timeline {
        return vec![whole];
    }
    let name = WalName::history_of(stop.timeline);
    let path = pgdata.join("pg_wal").join(name.as_str());
    let text = tokio::fs::read_to_string(&path).await;
    let history = text
        .map_err(|error| error.to_string())
        .and_then(|text| History::parse(stop.timeline, &text).map_err(|error| error.to_string()));
    let ranges = history.and_then(|history| {
        let ranges = WalRange::along(&history, whole.timeline, whole.start, whole.end);
        ranges.ok_or_else(|| {
            format!(
                "it does not lead from timeline {} to {}",
                start.timeline, stop.lsn
            )
        })
    });
    ranges.unwrap_or_else(|why| {
        tracing::warn!(
            "the server went from timeline {} to {} meanwhile, and its {} tells nothing: {why}. \
             The backup is complete, but its manifest names the WAL of the first timeline alone: \
             use pg_verifybackup with --no-parse-wal",
            start.timeline,
            stop.timeline,
            path.display()
        );
        vec![whole]
    })
}

/// The tablespaces that there are now.
async fn tablespaces(
    ctx: &Ctx,
    session: &Session,
    facts: &ServerFacts,
) -> Result<Vec<PgTablespace>, Failure> {
    let found = tokio::select! {
        biased;
        () = ctx.cancel.cancelled() => return Err(Failure::Interrupted),
        found = session.tablespaces() => found?,
    };
    let located = preflight::locate(facts.data_directory.as_deref(), found).await;
    located.map_err(Failure::text)
}

/// The end of backup mode, for both kinds of base backups.
struct Stopping<'a> {
    ctx: &'a Ctx,
    request: &'a BackupRequest,
    id: &'a BackupId,
}

impl Stopping<'_> {
    /// Stops backup mode, within the limit that was set.
    ///
    /// `Err(None)` if `cancel` was set by something that failed and knows why.
    async fn stop(
        &self,
        session: &Session,
        cancel: &CancellationToken,
    ) -> Result<BackupStop, Option<Failure>> {
        self.ctx.reporter.phase(Phase::Finishing);
        tracing::info!("Stopping backup '{}'", self.id);
        let stop = async {
            let stop = session.stop_backup().await?;
            let point = format!("barman_{}", self.id);
            if session.finish_on_primary(&point).await? {
                tracing::info!("Restore point '{point}' successfully created");
            }
            Ok::<_, PgError>(stop)
        };
        let stop = async {
            match self.request.stop_timeout {
                None => Ok(stop.await?),
                Some(limit) => tokio::time::timeout(limit, stop)
                    .await
                    .map_err(|_| {
                        Failure::text(format!(
                            "the server did not end the backup within {} seconds; it waits until \
                             the WAL of the backup is archived",
                            limit.as_secs()
                        ))
                    })?
                    .map_err(Failure::from),
            }
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => {
                Err(self.ctx.cancel.is_cancelled().then_some(Failure::Interrupted))
            }
            stop = stop => stop.map_err(Some),
        }
    }
}
