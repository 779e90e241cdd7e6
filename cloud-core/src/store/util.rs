//! What can be built from the methods of a store, as functions.

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, TryStreamExt};

use super::{
    DeleteReport, Depth, ListPage, LockCheck, ObjectMeta, ObjectStore, ReadRange, Result,
    StoreError, StoreErrorKind, StoreOp,
};
use crate::key::{Key, Prefix};

/// Reads a whole object of at most `max` bytes.
///
/// # Errors
///
/// `Invalid` if it is larger; `Corrupt` if it ends early.
pub async fn get_all(store: &dyn ObjectStore, key: &Key, max: u64) -> Result<(ObjectMeta, Bytes)> {
    let mut download = store.get(key, &ReadRange::all()).await?;
    let error = |kind, why: String| StoreError {
        kind,
        op: StoreOp::Get,
        what: key.to_string(),
        location: store.info().location.clone(),
        attempts: 1,
        source: why.into(),
    };
    let size = download.range.end - download.range.start;
    if size > max {
        let why = format!("it has {size} bytes, more than the {max} that make sense");
        return Err(error(StoreErrorKind::Invalid, why));
    }
    let mut bytes = BytesMut::with_capacity(usize::try_from(size).unwrap_or(0));
    while let Some(piece) = download.body.try_next().await? {
        if (bytes.len() + piece.len()) as u64 > size {
            return Err(error(
                StoreErrorKind::Corrupt,
                "it delivered too many bytes".into(),
            ));
        }
        bytes.extend_from_slice(&piece);
    }
    if (bytes.len() as u64) < size {
        return Err(error(
            StoreErrorKind::Corrupt,
            "it delivered too few bytes".into(),
        ));
    }
    Ok((download.meta, bytes.freeze()))
}

/// The whole of a listing, in one page, sorted by name.
pub async fn list_all(store: &dyn ObjectStore, prefix: &Prefix, depth: Depth) -> Result<ListPage> {
    let mut all = ListPage::default();
    let mut pages = store.list(prefix, depth);
    while let Some(page) = pages.next().await {
        let page = page?;
        all.objects.extend(page.objects);
        all.prefixes.extend(page.prefixes);
    }
    all.objects.sort_by(|one, other| one.key.cmp(&other.key));
    all.prefixes.sort();
    all.prefixes.dedup();
    Ok(all)
}

/// Whether there is an object of that name.
pub async fn exists(store: &dyn ObjectStore, key: &Key) -> Result<bool> {
    match store.head(key, LockCheck::Skip).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind == StoreErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Deletes any number of objects, batch by batch. A batch that fails as a whole
/// does not keep the others from being tried.
///
/// # Errors
///
/// The first failure of a whole batch; what had been deleted is deleted.
pub async fn delete_all(store: &dyn ObjectStore, keys: &[Key]) -> Result<DeleteReport> {
    let mut report = DeleteReport::default();
    let mut failure = None;
    for batch in keys.chunks(store.info().limits.delete_batch.max(1)) {
        match store.delete_batch(batch).await {
            Ok(done) => {
                report.deleted.extend(done.deleted);
                report.failed.extend(done.failed);
            }
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    failure.map_or(Ok(report), Err)
}
