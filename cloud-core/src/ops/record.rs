//! Writing a `backup.info` over the one that was read, and over no other.

use bytes::Bytes;

use crate::catalogue::load::MAX_INFO;
use crate::key::Key;
use crate::store::{
    self, ObjectStore, ObjectVersion, PutMode, PutOptions, StoreError, StoreErrorKind,
};

/// A record as it was read.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// What it says.
    pub(super) bytes: Bytes,
    /// `None` where the store tells none, or the record may not be read.
    pub(super) version: Option<ObjectVersion>,
}

/// Why a record was not written.
#[derive(Debug)]
pub(super) enum NotReplaced {
    /// Another one is there by now, or none.
    Changed,
    /// The store's error. After one that is transient it may have been written.
    Failed(StoreError),
}

/// Reads a record; `None` if there is none.
pub(super) async fn see(store: &dyn ObjectStore, key: &Key) -> Result<Option<Seen>, StoreError> {
    match store::get_all(store, key, MAX_INFO).await {
        Ok((meta, bytes)) => Ok(Some(Seen {
            bytes,
            version: meta.version,
        })),
        Err(error) if error.kind == StoreErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes `body` where `seen` was read.
///
/// There are stores that do not understand the condition of such a write, or refuse
/// it: what is there is looked at again then, since nothing that took hours must fail
/// for that.
pub(super) async fn replace(
    store: &dyn ObjectStore,
    key: &Key,
    seen: &Seen,
    body: Bytes,
    options: &PutOptions,
) -> Result<(), NotReplaced> {
    let put = async |mode| {
        let options = PutOptions {
            mode,
            ..options.clone()
        };
        let put = store.put(key, body.clone().into(), &options).await;
        put.map(drop)
    };
    let Some(version) = seen.version.clone() else {
        return put(PutMode::Overwrite).await.map_err(NotReplaced::Failed);
    };
    let Err(error) = put(PutMode::Replace(version)).await else {
        return Ok(());
    };
    let refused = error.kind == StoreErrorKind::AlreadyExists;
    if !refused
        && !matches!(
            error.kind,
            StoreErrorKind::Unsupported | StoreErrorKind::Invalid
        )
    {
        return Err(NotReplaced::Failed(error));
    }
    match see(store, key).await {
        // By an attempt whose answer was lost; where there was one alone, somebody else
        // wrote the same.
        Ok(Some(now)) if now.bytes == body && error.attempts > 1 => Ok(()),
        Ok(Some(now)) if now.bytes == seen.bytes => {
            put(PutMode::Overwrite).await.map_err(NotReplaced::Failed)
        }
        Ok(_) => Err(NotReplaced::Changed),
        Err(_) => Err(NotReplaced::Failed(error)),
    }
}
