//! The life of `backup.info`: STARTED, then DONE or FAILED.
//!
//! DONE is written once, after every archive is whole in the store (upholds
//! B1), over what was written before and over nothing else: a backup that was
//! deleted while it was taken has lost its first archives. FAILED is never written
//! over a DONE that may have landed (docs/decisions.md 19). A FAILED record carries
//! no end fields: clients take a backup with both times for a good one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::tz::TimeZone;

use super::BackupRequest;
use crate::catalogue::info::{BackupInfo, Status, Tablespace};
use crate::catalogue::layout::{BackupId, Layout};
use crate::catalogue::literal::Literal;
use crate::catalogue::load::MAX_INFO;
use crate::catalogue::time::Timestamp;
use crate::ops::record::{self, NotReplaced, Seen};
use crate::ops::{OpError, OpErrorKind, chain, hints};
use crate::pg::{BackupStart, BackupStop, PgError, PgTablespace, ServerFacts, ServerTime};
use crate::snapshot::SnapshotError;
use crate::store::{self, Depth, ObjectStore, PutMode, PutOptions, StoreError, StoreErrorKind};
use crate::transfer::TransferError;
use crate::units::pretty_duration;
use crate::wal::{Lsn, SegmentSize, TimelineId, WalName};

/// `server_name` of every backup taken by this tool, whatever the server is
/// called on the command line: clients look their backup up under this name.
pub(super) const SERVER_NAME: &str = "cloud";

/// How long the last record may take when the backup is given up: with the
/// abort of uploads before it, within the 10 s of docs/decisions.md 11.
const FAILED_DEADLINE: Duration = Duration::from_secs(4);

/// How long it may take to find out whether the WAL of a backup is archived, which nothing depends
/// on.
const ARCHIVED_DEADLINE: Duration = Duration::from_secs(5);

/// Why a backup that had begun came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// A signal.
    #[error("KeyboardInterrupt")]
    Interrupted,
    /// PostgreSQL refused, or the session was lost.
    #[error(transparent)]
    Postgres(#[from] PgError),
    /// An archive could not be read or stored.
    #[error(transparent)]
    Transfer(TransferError),
    /// `backup.info` could not be written.
    #[error(transparent)]
    Info(StoreError),
    /// Whether DONE was stored is not known.
    #[error("{0}")]
    Unknown(String),
    /// The record is another backup's.
    #[error(
        "another backup with the id {0} was begun in the same second; nothing of it was touched"
    )]
    Taken(BackupId),
    /// The record is not what was written last.
    #[error(
        "its backup.info was deleted or changed while the backup was taken, so its archives may \
         be gone"
    )]
    Gone,
    /// A snapshot could not be made.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl Failure {
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self::Other(text.into())
    }
}

/// `backup.info` as it grows.
pub(super) struct Record<'a> {
    store: &'a Arc<dyn ObjectStore>,
    layout: &'a Layout,
    id: &'a BackupId,
    request: &'a BackupRequest,
    info: BackupInfo,
    size: SegmentSize,
    /// Whether STARTED is in the store: only then is there something of ours
    /// to overwrite.
    announced: bool,
    /// STARTED, if it was tried to write it: the answer may have been lost.
    begun: Option<Bytes>,
    /// What was written last.
    written: Option<Bytes>,
    /// Whether it was tried to write DONE.
    may_be_done: bool,
}

impl<'a> Record<'a> {
    /// The record of a backup that has not begun.
    pub(super) fn new(
        store: &'a Arc<dyn ObjectStore>,
        layout: &'a Layout,
        id: &'a BackupId,
        request: &'a BackupRequest,
        facts: &ServerFacts,
    ) -> Self {
        let info = BackupInfo {
            server_name: Some(SERVER_NAME.to_owned()),
            systemid: facts.system_identifier.clone(),
            version: Some(facts.version),
            xlog_segment_size: facts.wal_segment_size,
            data_checksums: facts.data_checksums.clone(),
            summarize_wal: facts.summarize_wal.clone(),
            tablespaces: outside(&facts.tablespaces),
            pgdata: facts.data_directory.clone(),
            config_file: facts.config_file.clone(),
            hba_file: facts.hba_file.clone(),
            ident_file: facts.ident_file.clone(),
            included_files: facts.included_files.clone(),
            cluster_size: facts.cluster_size,
            ..BackupInfo::default()
        };
        let size = SegmentSize::new(facts.wal_segment_size).unwrap_or(SegmentSize::DEFAULT);
        Self {
            store,
            layout,
            id,
            request,
            info,
            size,
            announced: false,
            begun: None,
            written: None,
            may_be_done: false,
        }
    }

    /// The tablespaces of the server when the backup began.
    pub(super) fn tablespaces(&mut self, all: &[PgTablespace]) {
        self.info.tablespaces = outside(all);
    }

    /// The backup consists of these snapshots, and is called as its server is.
    pub(super) fn snapshots(&mut self, server: &str, snapshots: Literal) {
        self.info.server_name = Some(server.to_owned());
        self.info.snapshots_info = Some(snapshots);
    }

    /// The snapshots that are left of a backup that failed.
    pub(super) fn left(&mut self, snapshots: Option<Literal>) {
        self.info.snapshots_info = snapshots;
    }

    /// Whether it was tried to write DONE.
    pub(super) fn may_be_done(&self) -> bool {
        self.may_be_done
    }

    /// Writes the record once more, still as STARTED.
    pub(super) async fn again(&mut self) -> Result<(), Failure> {
        let own = self.own().await?;
        match self.put_over(&own).await {
            Ok(()) => Ok(()),
            Err(NotReplaced::Changed) => Err(Failure::Gone),
            Err(NotReplaced::Failed(error)) => Err(Failure::Info(error)),
        }
    }

    /// The record that was written last, as it is there.
    ///
    /// # Errors
    ///
    /// `Gone` if another one is there, or none: somebody deletes the backup.
    async fn own(&self) -> Result<Seen, Failure> {
        let key = self.layout.backup_info(self.id);
        let written = self.written.clone().unwrap_or_default();
        match record::see(self.store.as_ref(), &key).await {
            Ok(Some(seen)) if seen.bytes == written => Ok(seen),
            Ok(_) => Err(Failure::Gone),
            // Who may only write cannot look.
            Err(error) if error.kind == StoreErrorKind::PermissionDenied => Ok(Seen {
                bytes: written,
                version: None,
            }),
            Err(error) => Err(Failure::Info(error)),
        }
    }

    async fn put_over(&mut self, own: &Seen) -> Result<(), NotReplaced> {
        let key = self.layout.backup_info(self.id);
        let text = Bytes::from(self.info.to_text());
        let options = self.request.archives.put_options();
        let store = self.store.as_ref();
        record::replace(store, &key, own, text.clone(), &options).await?;
        self.written = Some(text);
        Ok(())
    }

    /// Backup mode has begun: announces the backup. Refuses to touch a record
    /// that is there already.
    pub(super) async fn started(&mut self, start: &BackupStart) -> Result<(), Failure> {
        self.info.status = Status::Started;
        self.info
            .set_begin(start.timeline, start.lsn, self.size, timestamp(start.time));
        self.begun = Some(Bytes::from(self.info.to_text()));
        match self.put(PutMode::CreateOnly).await {
            Ok(()) => {}
            Err(error) if error.kind != StoreErrorKind::AlreadyExists => {
                return Err(Failure::Info(error));
            }
            // The first attempt may have stored it.
            Err(_) if self.is_begun().await => self.written.clone_from(&self.begun),
            Err(_) => return Err(Failure::Taken(self.id.clone())),
        }
        self.announced = true;
        Ok(())
    }

    /// Whether the record in the store is this backup's STARTED. (It has the time and the
    /// position at which the server began: nobody else's is the same.)
    async fn is_begun(&self) -> bool {
        let key = self.layout.backup_info(self.id);
        let seen = record::see(self.store.as_ref(), &key).await;
        let seen = seen.ok().flatten().map(|seen| seen.bytes);
        seen.is_some() && seen == self.begun
    }

    /// Writes FAILED: over what is there, or where nothing is but STARTED of this backup.
    async fn put_failed(&mut self, mode: PutMode) -> Result<(), StoreError> {
        match self.put(mode).await {
            Err(error)
                if error.kind == StoreErrorKind::AlreadyExists
                    && !self.announced
                    && self.is_begun().await =>
            {
                self.put(PutMode::Overwrite).await
            }
            put => put,
        }
    }

    /// Every archive is whole: makes the backup exist.
    pub(super) async fn done(
        &mut self,
        stop: &BackupStop,
        stats: Literal,
        began: Instant,
    ) -> Result<(), Failure> {
        self.info
            .set_end(stop.timeline, stop.lsn, self.size, timestamp(stop.time));
        self.info.backup_label = Some(stop.label_file.clone());
        self.info.backup_name.clone_from(&self.request.name);
        self.info.copy_stats = Some(stats);
        self.info.status = Status::Done;
        let own = self.own().await?;
        self.may_be_done = true;
        match self.put_over(&own).await {
            Ok(()) => {
                self.say_done(stop, began).await;
                Ok(())
            }
            Err(NotReplaced::Changed) => {
                self.may_be_done = false;
                Err(Failure::Gone)
            }
            Err(NotReplaced::Failed(error)) => self.unless_landed(error).await,
        }
    }

    async fn say_done(&self, stop: &BackupStop, began: Instant) {
        tracing::info!(
            "Backup end at LSN: {} ({}, {:08X})",
            stop.lsn,
            self.info.end_wal.as_deref().unwrap_or_default(),
            self.size.offset(stop.lsn)
        );
        let began_at = self
            .info
            .begin_time
            .map(|at| at.to_the_second())
            .unwrap_or_default();
        tracing::info!(
            "Backup completed (start time: {began_at}, elapsed time: {})",
            pretty_duration(began.elapsed())
        );
        if self.info.crossed_to().is_none() {
            self.say_whether_archived(stop.timeline).await;
        }
    }

    /// What a failed write of DONE came to.
    async fn unless_landed(&self, error: StoreError) -> Result<(), Failure> {
        let may_have_landed = error.kind.is_transient() || error.kind == StoreErrorKind::Other;
        // A refusal is clear only if it was the first answer.
        if !may_have_landed && error.attempts <= 1 {
            return Err(Failure::Info(error));
        }
        // An answer was lost, and with it whether the record was stored.
        let key = self.layout.backup_info(self.id);
        match store::get_all(self.store.as_ref(), &key, MAX_INFO).await {
            Ok((_, stored)) if stored == self.info.to_text().as_bytes() => Ok(()),
            Ok(_) => Err(Failure::Info(error)),
            Err(_) => Err(Failure::Unknown(format!(
                "the answer to the last write of `{key}` was lost and it cannot be read: the \
                 backup is complete if barman-cloud-backup-show says DONE ({})",
                chain(&error)
            ))),
        }
    }

    /// The backup came to nothing: says so in the store, if that is safe, and
    /// to the user.
    pub(super) async fn failed(mut self, failure: Failure) -> OpError {
        let text = chain(&failure);
        let first_line = text.lines().next().unwrap_or_default().to_owned();
        let action = if matches!(failure, Failure::Info(_)) {
            "uploading backup.info file"
        } else {
            "uploading data"
        };
        self.info.clear_end();
        self.info.backup_name.clone_from(&self.request.name);
        self.info.error = Some(format!("failure {action} ({first_line})"));
        self.info.status = Status::Failed;
        if !matches!(failure, Failure::Unknown(_) | Failure::Taken(_)) {
            // Over a record that somebody else has changed nothing is written. Where there
            // is none, this one says that archives may be left.
            let mode = if self.announced && !matches!(failure, Failure::Gone) {
                PutMode::Overwrite
            } else {
                PutMode::CreateOnly
            };
            let recorded = tokio::time::timeout(FAILED_DEADLINE, self.put_failed(mode)).await;
            match recorded {
                Ok(Ok(())) => {}
                // Whoever deletes it has marked it.
                Ok(Err(error))
                    if matches!(failure, Failure::Gone)
                        && error.kind == StoreErrorKind::AlreadyExists => {}
                Ok(Err(error)) => {
                    tracing::warn!(
                        "backup {} could not be marked as FAILED: {}",
                        self.id,
                        chain(&error)
                    );
                }
                Err(_) => {
                    tracing::warn!("backup {} could not be marked as FAILED in time", self.id);
                }
            }
        }
        let error = OpError::new(
            OpErrorKind::Failed,
            format!("Backup failed {action} ({first_line})"),
        );
        match failure {
            Failure::Interrupted => OpError::new(
                OpErrorKind::Interrupted,
                "Barman cloud backup was interrupted by the user",
            ),
            Failure::Taken(_) | Failure::Gone => error.with_hint("run the same command again"),
            Failure::Info(cause) | Failure::Transfer(TransferError::Store(cause)) => {
                error.because(&cause)
            }
            Failure::Postgres(_) | Failure::Other(_) => {
                error.with_hint_if(hints::of_backup_mode(&first_line))
            }
            _ => error,
        }
    }

    /// Says at `-v` whether the WAL that the backup needs is in the archive
    /// (docs/decisions.md 18).
    async fn say_whether_archived(&self, timeline: TimelineId) {
        if !tracing::enabled!(tracing::Level::INFO) {
            return;
        }
        let lsn = |text: &Option<String>| text.as_deref().and_then(|text| text.parse::<Lsn>().ok());
        let (Some(begin), Some(end)) = (lsn(&self.info.begin_xlog), lsn(&self.info.end_xlog))
        else {
            return;
        };
        // A position on a boundary needs nothing of the segment it begins.
        let last = WalName::segment_of(timeline, Lsn(end.0.saturating_sub(1)), self.size);
        let first = WalName::segment_of(timeline, begin, self.size);
        let looked = self.missing(first, last);
        let missing = match tokio::time::timeout(ARCHIVED_DEADLINE, looked).await {
            Ok(Ok(missing)) => missing,
            Ok(Err(error)) => {
                tracing::info!("whether the WAL of the backup is archived is not known: {error}");
                return;
            }
            Err(_) => {
                tracing::info!("whether the WAL of the backup is archived is not known yet");
                return;
            }
        };
        if missing.is_empty() {
            tracing::info!("All WAL from the beginning to the end of the backup is in the archive");
        } else {
            tracing::info!(
                "WAL that the backup needs is not in the archive yet: {}",
                missing.join(", ")
            );
        }
    }

    /// Ten at most of the segments that are not in the archive.
    pub(super) async fn missing(
        &self,
        first: WalName,
        last: WalName,
    ) -> Result<Vec<String>, StoreError> {
        let mut missing = Vec::new();
        let mut directory = None;
        let mut there = BTreeSet::new();
        let mut name = Some(first);
        while let Some(segment) = name.filter(|segment| *segment <= last && missing.len() < 10) {
            let own = self.layout.wal_dir(&segment);
            if directory.as_ref() != Some(&own) {
                // The few hundred segments of a directory are told in one request.
                let page = store::list_all(self.store.as_ref(), &own, Depth::One).await?;
                let names = page.objects.iter().filter_map(|object| {
                    let name = object.key.as_str().rsplit('/').next()?;
                    let (segment, suffix) = name.split_at_checked(24)?;
                    // The end of a timeline, or what is said of a backup, is no segment.
                    let is_other = suffix.contains("partial") || suffix.contains("backup");
                    (!is_other).then(|| segment.to_owned())
                });
                there = names.collect();
                directory = Some(own);
            }
            if !there.contains(&segment.to_string()) {
                missing.push(segment.to_string());
            }
            name = segment.next(self.size);
        }
        Ok(missing)
    }

    async fn put(&mut self, mode: PutMode) -> Result<(), StoreError> {
        let options = PutOptions {
            mode,
            ..self.request.archives.put_options()
        };
        let text = Bytes::from(self.info.to_text());
        let key = self.layout.backup_info(self.id);
        self.store.put(&key, text.clone().into(), &options).await?;
        self.written = Some(text);
        Ok(())
    }
}

/// Those with archives of their own: tablespaces inside the data directory are part of its.
fn outside(all: &[PgTablespace]) -> Vec<Tablespace> {
    all.iter()
        .filter(|found| found.location.starts_with('/'))
        .map(|found| Tablespace {
            name: found.name.clone(),
            oid: found.oid,
            location: found.location.clone(),
        })
        .collect()
}

fn timestamp(time: ServerTime) -> Timestamp {
    Timestamp::new(time.instant, &TimeZone::fixed(time.offset))
}
