//! What failed and killed backups left behind.
//!
//! Three kinds: archives in a directory without a record, backups that are
//! FAILED, and uploads in parts that nobody completed. Nothing but age tells
//! them from a backup that is being taken by a tool that writes its record last,
//! so age counts from the newest byte of a backup, whatever it belongs to, and
//! nothing that is newer than the newest good backup is touched. WAL never is.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use jiff::tz::TimeZone;

use super::remove::Fates;
use super::{Work, dry_run};
use crate::catalogue::info::{BackupInfo, Status};
use crate::catalogue::layout::{BackupId, KEEP, LABEL, Layout, RECORD, archives_to_delete};
use crate::catalogue::load::{self, MAX_INFO};
use crate::key::Key;
use crate::ops::{OpError, OpErrorKind, chain};
use crate::store::{self, Depth, StoreError, StoreErrorKind, UnfinishedUpload};

/// All that is stored below the id of a backup.
#[derive(Debug, Default)]
struct Remains {
    /// Archives and label.
    objects: Vec<Key>,
    record: bool,
    kept: bool,
    /// Objects that belong to no backup as we know them.
    strange: usize,
    uploads: Vec<UnfinishedUpload>,
    /// When the newest object or part was written; `None` before the first.
    newest: Option<SystemTime>,
    /// Whether the store told all times.
    undated: bool,
}

impl Remains {
    fn note(&mut self, written: Option<SystemTime>) {
        match written {
            Some(time) => self.newest = self.newest.max(Some(time)),
            None => self.undated = true,
        }
    }

    /// Whether nothing was written since `limit`, for sure.
    fn is_older_than(&self, limit: SystemTime) -> bool {
        !self.undated && self.newest.is_some_and(|newest| newest < limit)
    }
}

/// What goes of a backup.
enum Purge {
    /// Nothing.
    Nothing,
    /// Unfinished uploads alone: the backup itself is good, or not for us.
    Uploads,
    /// Everything but the record, which is not there.
    Orphan,
    /// Everything, the record last.
    Failed,
}

impl Work<'_> {
    /// Deletes what is left behind, or says what would be deleted.
    pub(super) async fn purge(&self, older_than: Duration) -> Result<String, OpError> {
        let limit = SystemTime::from(self.now)
            .checked_sub(older_than)
            .unwrap_or(SystemTime::UNIX_EPOCH);
        let of_store = |error: StoreError| OpError::of_store(&error);
        // Again: the deletions before this changed it.
        let catalogue = self.load().await?;
        let done = catalogue.iter().filter(|f| f.info.status == Status::Done);
        let Some(newest_done) = done.map(|found| found.id.clone()).max() else {
            tracing::info!("There is no DONE backup: nothing is purged");
            return Ok(String::new());
        };
        let mut remains = self.remains(None).await.map_err(of_store)?;
        let loose = self.loose_uploads(limit).await.map_err(of_store)?;
        let mut text = String::new();
        let mut fates = Fates::default();
        for (id, found) in &mut remains {
            let (id, found) = (id.clone(), std::mem::take(found));
            let purge = self.judge(&id, &found, &newest_done, limit).await?;
            if let Purge::Nothing = purge {
                continue;
            }
            if self.request.dry_run {
                text.push_str(&self.print_purge(&id, &found, &purge));
                continue;
            }
            // Right before the deletion, everything is looked at again.
            let again = self.remains(Some(&id)).await.map_err(of_store)?;
            let Some(found) = again.get(&id) else {
                continue;
            };
            let purge = self.judge(&id, found, &newest_done, limit).await?;
            fates.add(self.remove_remains(&id, found, &purge).await);
        }
        if self.request.dry_run {
            text.push_str(&uploads_line(&loose));
        } else {
            fates.add(self.abort(&loose).await);
        }
        fates.result("what failed backups left behind")?;
        Ok(text)
    }

    /// All objects and uploads below the directories of backups, or of one.
    async fn remains(
        &self,
        only: Option<&BackupId>,
    ) -> Result<BTreeMap<BackupId, Remains>, StoreError> {
        let base = self.layout.base();
        let prefix = only.map_or_else(|| base.clone(), |id| self.layout.backup_dir(id));
        let mut all: BTreeMap<BackupId, Remains> = BTreeMap::new();
        let mut pages = self.store.list(&prefix, Depth::All);
        while let Some(page) = pages.next().await {
            for object in page?.objects {
                let Some((id, name)) = Layout::within_backup(&base, &object.key) else {
                    continue;
                };
                let dir = self.layout.backup_dir(&id);
                let is_archive = !archives_to_delete(&dir, [&object.key]).is_empty();
                let remains = all.entry(id).or_default();
                remains.note(object.modified);
                match name {
                    RECORD => remains.record = true,
                    KEEP => remains.kept = true,
                    LABEL => remains.objects.push(object.key),
                    _ if is_archive => remains.objects.push(object.key),
                    _ => remains.strange += 1,
                }
            }
        }
        for upload in self.uploads(&prefix).await? {
            if let Some((id, _)) = Layout::within_backup(&base, &upload.key) {
                let remains = all.entry(id).or_default();
                remains.note(upload.last_activity);
                remains.uploads.push(upload);
            }
        }
        Ok(all)
    }

    /// Unfinished uploads; none where the store cannot tell.
    async fn uploads(
        &self,
        prefix: &crate::key::Prefix,
    ) -> Result<Vec<UnfinishedUpload>, StoreError> {
        match store::list_all_uploads(self.store, prefix).await {
            Err(error) if error.kind == StoreErrorKind::Unsupported => {
                tracing::warn!("unfinished uploads are not looked for: {}", chain(&error));
                Ok(Vec::new())
            }
            answer => answer,
        }
    }

    /// Aborts the uploads that a killed backup left open, when it is deleted. They
    /// are no part of it yet, so that one which cannot be found or aborted (with
    /// rights to objects alone, say) does not stop its deletion.
    pub(super) async fn abort_uploads_of(&self, id: &BackupId) {
        let prefix = self.layout.backup_dir(id);
        match store::list_all_uploads(self.store, &prefix).await {
            Ok(uploads) => {
                for (key, error) in self.abort(&uploads).await.refused {
                    tracing::warn!(
                        "the unfinished upload of `{key}` is left: {}",
                        chain(&error)
                    );
                }
            }
            Err(error) => tracing::info!(
                "Unfinished uploads of backup {id} were not looked for: {}",
                chain(&error)
            ),
        }
    }

    /// Old unfinished uploads of WAL and of nothing we know.
    async fn loose_uploads(&self, limit: SystemTime) -> Result<Vec<UnfinishedUpload>, StoreError> {
        let base = self.layout.base();
        let all = self.uploads(self.layout.root()).await?;
        let old = |upload: &UnfinishedUpload| {
            Layout::within_backup(&base, &upload.key).is_none()
                && upload.last_activity.is_some_and(|time| time < limit)
        };
        Ok(all.into_iter().filter(old).collect())
    }

    /// What goes of a backup.
    async fn judge(
        &self,
        id: &BackupId,
        found: &Remains,
        newest_done: &BackupId,
        limit: SystemTime,
    ) -> Result<Purge, OpError> {
        // Only ids that tools give; no strangers' directories.
        let in_reach = BackupId::is_canonical(id.as_str()) && id <= newest_done;
        if !in_reach || !found.is_older_than(limit) {
            return Ok(Purge::Nothing);
        }
        let keeps = load::find_keeps(self.store, self.layout, id).await;
        let kept = !keeps.map_err(|error| OpError::of_store(&error))?.is_empty();
        let whole = if kept || found.kept {
            None
        } else if !found.record {
            (!found.objects.is_empty()).then_some(Purge::Orphan)
        } else if id < newest_done && self.is_failed(id).await? {
            Some(Purge::Failed)
        } else {
            None
        };
        let uploads = !found.uploads.is_empty();
        Ok(whole.unwrap_or(if uploads {
            Purge::Uploads
        } else {
            Purge::Nothing
        }))
    }

    /// Whether the record of a backup says FAILED at this moment.
    async fn is_failed(&self, id: &BackupId) -> Result<bool, OpError> {
        let key = self.layout.backup_info(id);
        match store::get_all(self.store, &key, MAX_INFO).await {
            Ok((_, bytes)) => {
                let info = BackupInfo::parse(&bytes, &TimeZone::system());
                let info = info.map_err(|error| {
                    let text = format!("Unable to open backup.info file for {id}: {error}");
                    OpError::new(OpErrorKind::Failed, text)
                })?;
                Ok(info.status == Status::Failed && info.snapshots_info.is_none())
            }
            Err(error) if error.kind == StoreErrorKind::NotFound => Ok(false),
            Err(error) => Err(OpError::of_store(&error)),
        }
    }

    fn print_purge(&self, id: &BackupId, found: &Remains, purge: &Purge) -> String {
        let mut text = String::new();
        let mut keys = match purge {
            Purge::Nothing | Purge::Uploads => Vec::new(),
            Purge::Orphan | Purge::Failed => self.in_order(id, found),
        };
        if let Purge::Failed = purge {
            keys.push(self.layout.backup_info(id));
        }
        if !keys.is_empty() {
            text.push_str(&dry_run::objects(&keys));
        }
        text.push_str(&uploads_line(&found.uploads));
        text
    }

    /// Archives as they are always deleted, and then the label.
    fn in_order(&self, id: &BackupId, found: &Remains) -> Vec<Key> {
        let mut keys = archives_to_delete(&self.layout.backup_dir(id), &found.objects);
        let label = self.layout.backup_label(id);
        keys.extend(found.objects.contains(&label).then_some(label));
        keys
    }

    async fn remove_remains(&self, id: &BackupId, found: &Remains, purge: &Purge) -> Fates {
        if let Purge::Nothing = purge {
            return Fates::default();
        }
        let mut fates = self.abort(&found.uploads).await;
        if let Purge::Orphan | Purge::Failed = purge {
            fates.add(self.remover.remove(&self.in_order(id, found)).await);
        }
        // The record is what makes the next run come back.
        let clean = fates.refused.is_empty() && fates.failed.is_empty();
        if let (Purge::Failed, true) = (purge, clean) {
            let record = self.layout.backup_info(id);
            fates.add(self.remover.remove(&[record]).await);
        }
        if found.strange > 0 {
            let dir = self.layout.backup_dir(id);
            tracing::warn!(
                "Left alone below {dir}: {} objects of no backup",
                found.strange
            );
        }
        tracing::info!("Purged what was left of backup {id}");
        fates
    }

    async fn abort(&self, uploads: &[UnfinishedUpload]) -> Fates {
        let mut fates = Fates::default();
        for upload in uploads {
            match self.store.abort_upload(upload).await {
                Ok(()) => fates.gone += 1,
                Err(error) => fates.refused.push((upload.key.clone(), error)),
            }
        }
        fates
    }
}

/// The line for uploads that would be aborted; nothing for none.
fn uploads_line(uploads: &[UnfinishedUpload]) -> String {
    if uploads.is_empty() {
        return String::new();
    }
    let list = dry_run::python_list(uploads.iter().map(|upload| upload.key.as_str()));
    format!("Skipping abort of unfinished uploads {list} due to --dry-run option\n")
}
