//! What is in the store under the name of the backup, from an earlier attempt or
//! from somebody else.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::tz::TimeZone;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::source::Source;
use crate::catalogue::info::BackupInfo;
use crate::catalogue::layout::{Layout, archives_to_delete};
use crate::catalogue::load::MAX_INFO;
use crate::key::Key;
use crate::ops::{OpError, OpErrorKind, chain};
use crate::store::{self, Depth, LockCheck, ObjectStore, StoreError, StoreErrorKind};
use crate::transfer::TransferError;

/// The objects of the backup that were there at the beginning.
#[derive(Debug)]
pub(super) struct Present {
    store: Arc<dyn ObjectStore>,
    /// `None` where they may not be listed.
    keys: Option<BTreeSet<Key>>,
    /// The record, where an earlier attempt came to the end.
    record: Option<Record>,
    cancel: CancellationToken,
}

/// A record of the backup in the store.
#[derive(Debug)]
struct Record {
    key: Key,
    /// Whether it is what the Barman server has now.
    is_current: bool,
}

impl Present {
    /// Looks at the directory of the backup. Nothing is changed, so this also shows
    /// that the store can be reached and the bucket is there.
    ///
    /// # Errors
    ///
    /// `NoRetry` if another backup is stored under this id: it is never touched.
    pub(super) async fn look(
        store: &Arc<dyn ObjectStore>,
        layout: &Layout,
        source: &Source,
        cancel: &CancellationToken,
    ) -> Result<Self, OpError> {
        let dir = layout.backup_dir(&source.id);
        let listed = store::list_all(store.as_ref(), &dir, Depth::All).await;
        let keys = match listed {
            Ok(page) => Some(page.objects.into_iter().map(|object| object.key).collect()),
            Err(error) if error.kind == StoreErrorKind::PermissionDenied => {
                tracing::info!(
                    "what is in the store of backup {} may not be listed: what an attempt with \
                     other options left there stays ({})",
                    source.id,
                    chain(&error)
                );
                None
            }
            Err(error) => return Err(before_the_beginning(&error)),
        };
        let mut present = Self {
            store: Arc::clone(store),
            keys,
            record: None,
            cancel: cancel.clone(),
        };
        present.record = present.find_record(layout, source).await?;
        Ok(present)
    }

    fn may_hold(&self, key: &Key) -> bool {
        self.keys.as_ref().is_none_or(|keys| keys.contains(key))
    }

    /// The key of the record, if one is there; it must be this backup's.
    async fn find_record(
        &self,
        layout: &Layout,
        source: &Source,
    ) -> Result<Option<Record>, OpError> {
        let key = layout.backup_info(&source.id);
        if !self.may_hold(&key) {
            return Ok(None);
        }
        let stored = match store::get_all(self.store.as_ref(), &key, MAX_INFO).await {
            Ok((_, stored)) => stored,
            Err(error) => {
                return match error.kind {
                    // Who may not list is not told of absence either.
                    StoreErrorKind::NotFound => Ok(None),
                    StoreErrorKind::PermissionDenied if self.keys.is_none() => Ok(None),
                    _ => Err(before_the_beginning(&error)),
                };
            }
        };
        let parsed = BackupInfo::parse(&stored, &TimeZone::system());
        let is_current = stored == source.record;
        if is_current || parsed.is_ok_and(|info| is_same(&info, &source.info)) {
            return Ok(Some(Record { key, is_current }));
        }
        let text = format!(
            "another backup is stored as `{key}` in {}: it is not replaced",
            self.store.info().location
        );
        let hint = "give the backups of this server another URL, or another server name, than \
                    those of others";
        Err(OpError::new(OpErrorKind::NoRetry, text).with_hint(hint))
    }

    /// Whether the object is there with this fingerprint. Blocks.
    pub(super) fn holds(
        &self,
        key: &Key,
        fingerprint: &str,
        runtime: &Handle,
    ) -> Result<bool, TransferError> {
        if !self.may_hold(key) {
            return Ok(false);
        }
        let looked = runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => None,
                looked = self.store.head(key, LockCheck::Skip) => Some(looked),
            }
        });
        match looked {
            None => Err(TransferError::Cancelled),
            Some(Ok(meta)) => Ok(meta.fingerprint.as_deref() == Some(fingerprint)),
            Some(Err(error)) if error.kind.is_transient() || error.kind.is_unreachable() => {
                Err(error.into())
            }
            // It is not there, or not in a way that anything can be said of it: with
            // another key, say.
            Some(Err(error)) => {
                tracing::debug!("`{key}` is sent again: {}", chain(&error));
                Ok(false)
            }
        }
    }

    /// Whether the record was there, as it is on the Barman server.
    pub(super) fn has_record(&self) -> bool {
        self.record.as_ref().is_some_and(|record| record.is_current)
    }

    /// Deletes the record, if there is one: an archive that it speaks for is about to
    /// be replaced, and until all of them are whole again nothing may say DONE (B1).
    /// Blocks.
    pub(super) fn withdraw_record(&self, runtime: &Handle) -> Result<(), TransferError> {
        let Some(Record { key, .. }) = &self.record else {
            return Ok(());
        };
        tracing::info!("`{key}` is deleted until the archives are whole again");
        let deleted = runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => None,
                deleted = self.delete(std::slice::from_ref(key)) => Some(deleted),
            }
        });
        deleted
            .ok_or(TransferError::Cancelled)?
            .map_err(TransferError::from)
    }

    /// Deletes archives of the backup that are none of `archives`, which are all
    /// there now: an attempt with other options left them, and a restore would take
    /// them for parts of the backup.
    pub(super) async fn tidy(
        &self,
        layout: &Layout,
        source: &Source,
        archives: &[Key],
    ) -> Result<(), StoreError> {
        let dir = layout.backup_dir(&source.id);
        let mut strays = archives_to_delete(&dir, self.keys.iter().flatten());
        strays.retain(|key| !archives.contains(key));
        if strays.is_empty() {
            return Ok(());
        }
        for key in &strays {
            tracing::info!("`{key}` is of an earlier attempt with other options: it is deleted");
        }
        self.delete(&strays).await
    }

    /// Deletes all of these, or fails with the first refusal.
    async fn delete(&self, keys: &[Key]) -> Result<(), StoreError> {
        let report = store::delete_all(self.store.as_ref(), keys).await;
        let refused = report.failed.into_iter().map(|(_, error)| error);
        match refused.chain(report.stopped).next() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

/// Whether two records are of one backup. A Barman server changes its records later
/// on, but not in these.
fn is_same(one: &BackupInfo, other: &BackupInfo) -> bool {
    let what = |info: &BackupInfo| {
        (
            info.systemid.clone(),
            info.timeline,
            info.begin_xlog.clone(),
            info.begin_time,
            info.end_xlog.clone(),
        )
    };
    what(one) == what(other)
}

/// A failure of the store before anything was sent.
fn before_the_beginning(error: &StoreError) -> OpError {
    if error.kind == StoreErrorKind::BucketMissing {
        return OpError::new(OpErrorKind::Failed, chain(error)).because(error);
    }
    let told = OpError::of_store(error);
    if told.kind == OpErrorKind::Unreachable {
        return told;
    }
    OpError {
        kind: OpErrorKind::Failed,
        ..told
    }
}
