//! The archives of a base backup, and its record.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use jiff::tz::TimeZone;

use super::{Found, Work, dry_run};
use crate::catalogue::deletion::{Plan, Step};
use crate::catalogue::info::{BackupInfo, Status};
use crate::catalogue::layout::{ArchiveBase, BackupId, archives_to_delete};
use crate::catalogue::load;
use crate::key::Key;
use crate::ops::record::{self, NotReplaced, Seen};
use crate::ops::{OpError, OpErrorKind, chain};
use crate::store::{
    self, Depth, LockCheck, ObjectLock, PutMode, PutOptions, StoreError, StoreErrorKind,
};

/// Backups worked on at the same time; each has one request under way, or two.
const BACKUPS: usize = 16;

/// Locks looked at at the same time, for one backup.
const LOOKS: usize = 8;

/// Backups that go.
pub(super) struct Deletion<'a> {
    pub(super) work: &'a Work<'a>,
    pub(super) catalogue: &'a [Found],
    /// The good ones that stay, as far as the minimum redundancy counts on them.
    pub(super) relied_on: Vec<&'a BackupId>,
    /// How many of those have to stay.
    pub(super) fewest: usize,
}

/// A backup as it stands right before its deletion.
pub(super) struct Present {
    /// Its archives, in the order of their deletion.
    pub(super) archives: Vec<Key>,
    /// Whether there is a keep annotation.
    pub(super) kept: bool,
    /// Where the label of a snapshot backup is, if it is there.
    pub(super) label: Option<Key>,
    /// Its record, if it has not gone in the meantime.
    pub(super) record: Option<Seen>,
}

impl Work<'_> {
    /// Lists the objects of a backup and reads its record.
    pub(super) async fn look(&self, id: &BackupId) -> Result<Present, OpError> {
        let dir = self.layout.backup_dir(id);
        let key = self.layout.backup_info(id);
        let (page, record) = tokio::join!(
            store::list_all(self.store, &dir, Depth::All),
            record::see(self.store, &key)
        );
        let page = page.map_err(|error| OpError::of_store(&error))?;
        let record = record.map_err(|error| OpError::of_store(&error))?;
        let label = self.layout.backup_label(id);
        let keeps = self.layout.keep(id);
        Ok(Present {
            archives: archives_to_delete(&dir, page.objects.iter().map(|object| &object.key)),
            kept: page
                .objects
                .iter()
                .any(|object| keeps.contains(&object.key)),
            label: (page.objects.iter())
                .any(|object| object.key == label)
                .then_some(label),
            record,
        })
    }

    /// Whether a backup has a keep annotation now, wherever that is.
    async fn is_kept(&self, id: &BackupId) -> Result<bool, OpError> {
        let keeps = load::find_keeps(self.store, self.layout, id).await;
        let keeps = keeps.map_err(|error| OpError::of_store(&error))?;
        Ok(!keeps.is_empty())
    }

    /// Says which archives should be there and are not.
    pub(super) fn warn_of_missing(&self, id: &BackupId, info: &BackupInfo, archives: &[Key]) {
        let dir = self.layout.backup_dir(id);
        let tablespaces = info.tablespaces.iter().map(|t| t.oid);
        let bases =
            std::iter::once(ArchiveBase::Data).chain(tablespaces.map(ArchiveBase::Tablespace));
        for base in bases {
            let begin = format!("{dir}{base}.");
            if !archives.iter().any(|key| key.as_str().starts_with(&begin)) {
                let server = &self.request.server;
                tracing::warn!("Missing file {dir}{base}.* for server {server}");
            }
        }
    }
}

impl<'a> Deletion<'a> {
    /// What a plan for this catalogue asks for.
    pub(super) fn new(work: &'a Work<'a>, catalogue: &'a [Found], plan: &Plan) -> Self {
        let goes = |found: &Found| plan.steps.iter().any(|step| step.id == found.id);
        let good = |found: &&Found| found.info.status == Status::Done && !goes(found);
        // The newest first: they stay longest.
        let relied_on: Vec<_> = (catalogue.iter().rev().filter(good))
            .map(|found| &found.id)
            .collect();
        let minimum = usize::try_from(work.request.minimum_redundancy).unwrap_or(usize::MAX);
        Self {
            work,
            catalogue,
            fewest: minimum.min(relied_on.len()),
            relied_on,
        }
    }

    /// Whether the good backups that have to stay are there. Another deletion, which counts
    /// on this backup, may take one of them: it too looks once it has marked, so that the
    /// later of the two sees the mark of the other.
    async fn enough_stay(&self) -> Result<bool, OpError> {
        let mut good = 0;
        for id in &self.relied_on {
            if good >= self.fewest {
                break;
            }
            let key = self.work.layout.backup_info(id);
            let seen = record::see(self.work.store, &key).await;
            let seen = seen.map_err(|error| OpError::of_store(&error))?;
            let info =
                seen.and_then(|seen| BackupInfo::parse(&seen.bytes, &TimeZone::system()).ok());
            good += usize::from(info.is_some_and(|info| info.status == Status::Done));
        }
        Ok(good >= self.fewest)
    }

    /// Why a backup that is marked now has to stay all the same.
    async fn why_it_stays(&self, id: &BackupId, info: &BackupInfo) -> Option<OpError> {
        // A keep that was set until now saw a record that was DONE, and whoever set it
        // relies on it. One that is set from now on sees the mark, and fails.
        match self.work.is_kept(id).await {
            Ok(false) => {}
            Ok(true) => return Some(kept(id)),
            Err(error) => return Some(name(id, &error)),
        }
        if info.status != Status::Done {
            return None;
        }
        match self.enough_stay().await {
            Ok(true) => None,
            Ok(false) => Some(too_few(id, self.work.request.minimum_redundancy)),
            Err(error) => Some(name(id, &error)),
        }
    }

    fn info(&self, id: &BackupId) -> Option<&BackupInfo> {
        let found = self.catalogue.iter().find(|found| found.id == *id)?;
        Some(&found.info)
    }

    /// Deletes the archives of the backups of all steps, several at a time. After
    /// a failure no further one is begun.
    ///
    /// Gives those of which all archives are gone, up to the first that failed,
    /// and its failure: the WAL of a later one may only go when all before it
    /// are gone.
    pub(super) async fn empty_all<'s>(
        &self,
        steps: &'s [Step],
    ) -> (Vec<&'s Step>, Option<OpError>) {
        let failed = AtomicBool::new(false);
        let mut results = stream::iter(steps)
            .map(|step| {
                let failed = &failed;
                async move {
                    if failed.load(Ordering::Relaxed) {
                        return None;
                    }
                    let result = self.empty(&step.id).await;
                    if result.is_err() {
                        failed.store(true, Ordering::Relaxed);
                    }
                    Some((step, result))
                }
            })
            .buffered(BACKUPS);
        let mut emptied = Vec::new();
        let mut failure = None;
        while let Some(result) = results.next().await {
            match result {
                Some((step, Ok(()))) if failure.is_none() => emptied.push(step),
                Some((_, Err(error))) if failure.is_none() => failure = Some(error),
                Some((_, Err(error))) => tracing::error!("{error}"),
                Some((_, Ok(()))) | None => {}
            }
        }
        (emptied, failure)
    }

    /// Deletes the archives of one backup.
    async fn empty(&self, id: &BackupId) -> Result<(), OpError> {
        let present = self.work.look(id).await.map_err(|error| name(id, &error))?;
        if present.kept {
            return Err(kept(id));
        }
        let info = self.info(id);
        if let Some(seen) = &present.record {
            let now = BackupInfo::parse(&seen.bytes, &TimeZone::system()).ok();
            if now.as_ref() != info {
                return Err(changed(id));
            }
        }
        let Some(info) = info else {
            let text = format!("Could not delete backup {id}: it is not in the catalogue");
            return Err(OpError::new(OpErrorKind::Failed, text));
        };
        // Looked at before anything is changed: they may be somebody else's.
        let snapshots = match &info.snapshots_info {
            Some(literal) => Some(self.work.owned_snapshots(id, literal).await?),
            None => None,
        };
        if snapshots.is_none() && !info.is_being_deleted() {
            self.work.warn_of_missing(id, info, &present.archives);
        }
        if self.work.request.check_object_lock {
            self.check_locks(&present.archives).await?;
        }
        if info.status != Status::Done {
            self.work.abort_uploads_of(id).await;
        }
        let mut archives = present.archives;
        // Of a failed one it may be left without them.
        if snapshots.is_some() {
            archives.push(self.work.layout.backup_label(id));
        } else {
            archives.extend(present.label);
        }
        if archives.is_empty() {
            return Ok(());
        }
        let original = match present.record {
            Some(seen) if !info.is_being_deleted() => Some(seen),
            _ => None,
        };
        if let Some(seen) = &original {
            self.mark(id, info, seen).await?;
            if let Some(why) = self.why_it_stays(id, info).await {
                self.put_back(id, info, seen).await;
                return Err(why);
            }
        }
        if let Some(snapshots) = &snapshots
            && let Err(error) = snapshots.delete().await
        {
            if let Some(seen) = &original
                && error.nothing_gone
            {
                self.put_back(id, info, seen).await;
            }
            return Err(error.error);
        }
        let fates = self.work.remover.remove(&archives).await;
        if let Some(seen) = original
            && !fates.refused.is_empty()
            && fates.nothing_gone()
            && snapshots.is_none()
        {
            self.put_back(id, info, &seen).await;
        }
        tracing::info!("Deleted {} archives of backup {id}", fates.gone);
        fates.result(&format!("backup {id}"))
    }

    /// Puts back the record of a backup that is still whole: it must not look
    /// broken. Only over our own mark: another deletion that goes on has emptied it.
    async fn put_back(&self, id: &BackupId, info: &BackupInfo, original: &Seen) {
        let key = self.work.layout.backup_info(id);
        let body = original.bytes.clone();
        let put = match record::see(self.work.store, &key).await {
            Ok(Some(now)) if now.bytes == mark_of(info) => self.over(id, &now, body).await,
            // Where the store was full, the record had gone.
            Ok(None) => self.create(id, body).await.map_err(NotReplaced::Failed),
            Ok(Some(_)) => Err(NotReplaced::Changed),
            Err(error) => Err(NotReplaced::Failed(error)),
        };
        if let Err(error) = told(id, put) {
            tracing::error!("{error}");
        }
    }

    /// Makes the record say that the backup is being deleted.
    ///
    /// A store that is full must not keep one from making room in it, and who may delete
    /// need not be allowed to write, or to write as a bucket demands it, encrypted say:
    /// there the record goes before the archives, so that nobody takes what is left for a
    /// backup either. The room it leaves is mostly enough for the mark.
    async fn mark(&self, id: &BackupId, info: &BackupInfo, seen: &Seen) -> Result<(), OpError> {
        match self.over(id, seen, mark_of(info)).await {
            Err(NotReplaced::Failed(error)) if cannot_be_written(&error) => {
                // It could not be put back.
                if let Some(why) = self.why_it_stays(id, info).await {
                    return Err(why);
                }
                tracing::warn!(
                    "the record of backup {id} goes before its archives: {}",
                    chain(&error)
                );
                let key = self.work.layout.backup_info(id);
                let fates = self.work.remover.remove(&[key]).await;
                fates.result(&format!("the backup.info file of {id}"))?;
                if let Err(error) = self.create(id, mark_of(info)).await {
                    tracing::info!("Backup {id} has no record now: {}", chain(&error));
                }
                Ok(())
            }
            put => told(id, put),
        }
    }

    /// Writes the record over the one that was seen.
    async fn over(&self, id: &BackupId, seen: &Seen, body: Bytes) -> Result<(), NotReplaced> {
        let key = self.work.layout.backup_info(id);
        record::replace(self.work.store, &key, seen, body, &PutOptions::default()).await
    }

    /// Writes the record where there is none.
    async fn create(&self, id: &BackupId, body: Bytes) -> Result<(), StoreError> {
        let key = self.work.layout.backup_info(id);
        let options = PutOptions {
            mode: PutMode::CreateOnly,
            ..PutOptions::default()
        };
        let put = self.work.store.put(&key, body.into(), &options).await;
        put.map(drop)
    }

    /// Looks at the locks of all archives before the first of them goes.
    async fn check_locks(&self, archives: &[Key]) -> Result<(), OpError> {
        let store = self.work.store;
        if !store.info().abilities.locks {
            tracing::warn!(
                "--check-object-lock has no effect: {} knows no locks",
                store.info().location
            );
            return Ok(());
        }
        let mut looks = stream::iter(archives)
            .map(|key| async move { (key, store.head(key, LockCheck::Look).await) })
            .buffered(LOOKS);
        while let Some((key, meta)) = looks.next().await {
            let why = match meta {
                Ok(meta) => match meta.lock {
                    Some(lock) if still_locked(&lock) => describe(&lock),
                    _ => continue,
                },
                Err(error) if error.kind == StoreErrorKind::NotFound => continue,
                Err(error) => chain(&error),
            };
            let text = format!("Cannot delete locked object {key}: {why}");
            return Err(OpError::new(OpErrorKind::Failed, text));
        }
        Ok(())
    }

    /// Deletes the records, after which the backups are gone.
    pub(super) async fn remove_records(&self, ids: &[&BackupId]) -> Result<(), OpError> {
        let keys: Vec<Key> = ids
            .iter()
            .map(|id| self.work.layout.backup_info(id))
            .collect();
        let fates = self.work.remover.remove(&keys).await;
        let named = dry_run::python_list(ids.iter().map(|id| id.as_str()));
        fates.result(&format!("the backup.info files of {named}"))
    }
}

/// The record of a backup that is being deleted.
fn mark_of(info: &BackupInfo) -> Bytes {
    info.marked().to_text().into()
}

/// What a put of the record came to, for the user.
fn told(id: &BackupId, put: Result<(), NotReplaced>) -> Result<(), OpError> {
    put.map_err(|error| {
        let error = match error {
            NotReplaced::Changed => return changed(id),
            NotReplaced::Failed(error) => error,
        };
        let denied = error.kind == StoreErrorKind::PermissionDenied;
        let named = name(id, &OpError::of_store(&error));
        if denied {
            named.with_hint(
                "before its archives go, the record of a backup is rewritten as FAILED, and put \
                 back where they stay: allow writing it",
            )
        } else {
            named
        }
    })
}

/// Whether a record may not be written, or not now, though objects may be deleted.
fn cannot_be_written(error: &StoreError) -> bool {
    matches!(
        error.kind,
        StoreErrorKind::Full | StoreErrorKind::PermissionDenied
    )
}

fn kept(id: &BackupId) -> OpError {
    let text = format!("Could not delete backup {id}: it got a keep annotation in the meantime");
    OpError::new(OpErrorKind::Failed, text)
}

fn too_few(id: &BackupId, minimum: u64) -> OpError {
    let text = format!(
        "Could not delete backup {id}: others were deleted in the meantime, and the minimum \
         redundancy is {minimum}"
    );
    OpError::new(OpErrorKind::Failed, text).with_hint("run the same command again")
}

/// Somebody else is at work on the backup.
fn changed(id: &BackupId) -> OpError {
    let text = format!("Could not delete backup {id}: its backup.info has changed in the meantime");
    OpError::new(OpErrorKind::Failed, text).with_hint("run the same command again")
}

/// The error with the backup it belongs to.
fn name(id: &BackupId, error: &OpError) -> OpError {
    let text = format!("Could not delete backup {id}: {}", error.message);
    match error.kind {
        OpErrorKind::Unreachable => OpError::new(OpErrorKind::Unreachable, text).in_own_words(),
        _ => OpError::new(OpErrorKind::Failed, text),
    }
}

fn still_locked(lock: &ObjectLock) -> bool {
    match lock {
        ObjectLock::Until(time) => *time > SystemTime::now(),
        ObjectLock::LegalHold => true,
    }
}

fn describe(lock: &ObjectLock) -> String {
    match lock {
        ObjectLock::Until(time) => match jiff::Timestamp::try_from(*time) {
            Ok(time) => format!("it is retained until {time}"),
            Err(_) => "it is retained".to_owned(),
        },
        ObjectLock::LegalHold => "it has a legal hold".to_owned(),
    }
}
