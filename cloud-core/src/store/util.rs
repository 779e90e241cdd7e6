//! What can be built from the methods of a store, as functions.

use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};

use super::{
    DeleteReport, Depth, ListPage, LockCheck, ObjectMeta, ObjectStore, ReadRange, Result,
    StoreError, StoreErrorKind, StoreOp, UnfinishedUpload,
};
use crate::key::{Key, Prefix};

/// Reads a whole object of at most `max` bytes. What was damaged on its way, or
/// replaced under it, is read once more.
///
/// # Errors
///
/// `Invalid` if it is larger; `Corrupt` if it is damaged again.
pub async fn get_all(store: &dyn ObjectStore, key: &Key, max: u64) -> Result<(ObjectMeta, Bytes)> {
    match get_once(store, key, max).await {
        Err(error) if error.kind == StoreErrorKind::Corrupt => get_once(store, key, max).await,
        done => done,
    }
}

async fn get_once(store: &dyn ObjectStore, key: &Key, max: u64) -> Result<(ObjectMeta, Bytes)> {
    let mut download = store.get(key, &ReadRange::all()).await?;
    let error = |kind, why: String| store.info().error(StoreOp::Get, key, kind, why);
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

/// Most objects, and most directories, of a listing that is kept as a whole. A backup has some
/// dozen archives, ten thousand for 100 TB; a directory holds 4 GiB of WAL.
const MOST_OBJECTS: usize = 100_000;
const MOST_PREFIXES: usize = 500_000;

/// The whole of a listing, in one page, sorted by name.
///
/// # Errors
///
/// `Corrupt` if there is no end to it: more than 100,000 objects or 500,000 directories.
pub async fn list_all(store: &dyn ObjectStore, prefix: &Prefix, depth: Depth) -> Result<ListPage> {
    let mut all = ListPage::default();
    let mut pages = store.list(prefix, depth);
    while let Some(page) = pages.next().await {
        let page = page?;
        all.objects.extend(page.objects);
        all.prefixes.extend(page.prefixes);
        if all.objects.len() > MOST_OBJECTS || all.prefixes.len() > MOST_PREFIXES {
            return Err(endless(store, prefix, MOST_OBJECTS));
        }
    }
    all.objects.sort_by(|one, other| one.key.cmp(&other.key));
    all.prefixes.sort();
    all.prefixes.dedup();
    Ok(all)
}

/// The error for a listing that has no end: nobody has so many names there.
pub fn endless(store: &dyn ObjectStore, prefix: &Prefix, most: usize) -> StoreError {
    let why = format!("there are more than the {most} names that make sense there");
    let kind = StoreErrorKind::Corrupt;
    store.info().error(StoreOp::List, prefix, kind, why)
}

/// The error for an object that the store lists and says it does not have. To believe
/// the latter would leave it out of the truth by which others are deleted.
pub fn withheld(store: &dyn ObjectStore, key: &Key) -> StoreError {
    let why = "the store lists it and answers that it is not there: try again later";
    let kind = StoreErrorKind::Corrupt;
    store.info().error(StoreOp::Get, key, kind, why)
}

/// All unfinished uploads below a prefix, sorted by key and id.
///
/// # Errors
///
/// As [`list_all`].
pub async fn list_all_uploads(
    store: &dyn ObjectStore,
    prefix: &Prefix,
) -> Result<Vec<UnfinishedUpload>> {
    let mut all = Vec::new();
    let mut pages = store.list_uploads(prefix);
    while let Some(page) = pages.try_next().await? {
        all.extend(page);
        if all.len() > MOST_OBJECTS {
            return Err(endless(store, prefix, MOST_OBJECTS));
        }
    }
    all.sort_by(|one, other| (&one.key, &one.id).cmp(&(&other.key, &other.id)));
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

/// The fate of every key given to [`delete_all`].
#[derive(Debug, Default)]
pub struct DeleteAllReport {
    /// Deleted, or not there in the first place.
    pub deleted: Vec<Key>,
    /// Refused, and why.
    pub failed: Vec<(Key, StoreError)>,
    /// The request that failed as a whole and ended the work, if one did.
    pub stopped: Option<StoreError>,
    /// The keys of the request that failed as a whole, whose fate is unknown,
    /// and after them those that were not tried any more.
    pub undecided: Vec<Key>,
}

impl DeleteAllReport {
    /// Whether every key is deleted.
    pub fn is_complete(&self) -> bool {
        self.failed.is_empty() && self.stopped.is_none()
    }
}

/// Deletes any number of objects in the order given, batch by batch.
///
/// A key that is refused does not stop the work. A request that fails as a
/// whole does: what comes later may have to be deleted later, and a store that
/// cannot be reached would be waited for once per batch.
pub async fn delete_all(store: &dyn ObjectStore, keys: &[Key]) -> DeleteAllReport {
    let mut report = DeleteAllReport::default();
    let mut rest = keys;
    let most = store.info().limits.delete_batch.max(1);
    while !rest.is_empty() {
        let (batch, later) = rest.split_at(most.min(rest.len()));
        match store.delete_batch(batch).await {
            Ok(done) => {
                report.deleted.extend(done.deleted);
                report.failed.extend(done.failed);
            }
            Err(error) => {
                report.stopped = Some(error);
                report.undecided = rest.to_vec();
                break;
            }
        }
        rest = later;
    }
    report
}

/// Deletes objects by a request for each, `at_once` of them at the same time.
/// `delete` answers for what is not there as for what it deleted.
///
/// # Errors
///
/// A transient one, after all were tried: the batch as a whole is to be tried
/// again, and deleting twice does no harm.
#[cfg(any(feature = "aws", feature = "gcp"))]
pub(super) async fn delete_each<'a, F>(
    keys: impl IntoIterator<Item = &'a Key>,
    at_once: usize,
    delete: impl Fn(&'a Key) -> F,
) -> Result<DeleteReport>
where
    F: Future<Output = Result<()>> + Send + 'a,
{
    let one = |key: &'a Key| {
        let deleting = delete(key);
        async move { (key, deleting.await) }.boxed()
    };
    let requests: Vec<_> = keys.into_iter().map(one).collect();
    let mut answers = stream::iter(requests).buffer_unordered(at_once);
    let mut report = DeleteReport::default();
    let mut unreachable = None;
    while let Some((key, answer)) = answers.next().await {
        match answer {
            Ok(()) => report.deleted.push(key.clone()),
            Err(error) if error.kind.is_transient() => {
                unreachable.get_or_insert(error);
            }
            Err(error) => report.failed.push((key.clone(), error)),
        }
    }
    unreachable.map_or(Ok(report), Err)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::{Fault, FaultyStore, MemoryStore};

    fn key(name: &str) -> Key {
        Key::new(name).unwrap()
    }

    #[tokio::test]
    async fn an_object_is_read_whole_or_not_at_all() {
        let memory = MemoryStore::new();
        memory.insert("a", "0123456789");
        let faulty = FaultyStore::new(Arc::new(memory));
        let (meta, body) = get_all(&faulty, &key("a"), 10).await.unwrap();
        assert_eq!((meta.size, &body[..]), (10, &b"0123456789"[..]));
        let large = get_all(&faulty, &key("a"), 9).await.unwrap_err();
        assert_eq!(large.kind, StoreErrorKind::Invalid);
        faulty.fail(StoreOp::Get, Fault::ShortBody(9), 1);
        let (_, again) = get_all(&faulty, &key("a"), 10).await.unwrap();
        assert_eq!(again, body);
        faulty.fail(StoreOp::Get, Fault::ShortBody(9), 2);
        let short = get_all(&faulty, &key("a"), 10).await.unwrap_err();
        assert_eq!(short.kind, StoreErrorKind::Corrupt);
    }

    #[tokio::test]
    async fn a_listing_without_an_end_is_given_up() {
        let memory = MemoryStore::new();
        for number in 0..=MOST_OBJECTS {
            memory.insert(&format!("d/{number}"), "");
        }
        let all = Prefix::dir("d");
        let error = list_all(&memory, &all, Depth::One).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Corrupt);
        memory.remove("d/0");
        let page = list_all(&memory, &all, Depth::One).await.unwrap();
        assert_eq!(page.objects.len(), MOST_OBJECTS);
    }

    #[tokio::test]
    async fn a_deletion_tells_the_fate_of_every_key() {
        let mut limits = MemoryStore::new().info().limits;
        limits.delete_batch = 2;
        let memory = MemoryStore::new().with_limits(limits);
        let keys = ["a", "b", "c", "missing", "e", "f", "g"].map(key);
        for key in &keys {
            memory.insert(key.as_str(), "");
        }
        memory.remove("missing");
        let faulty = FaultyStore::new(Arc::new(memory.clone()));
        let refused = Fault::RefuseKeys(StoreErrorKind::PermissionDenied);
        faulty.fail_for("b", StoreOp::Delete, refused, 1);
        let gone = Fault::Before(StoreErrorKind::Connect);
        faulty.fail_for("e", StoreOp::Delete, gone, 1);
        let report = delete_all(&faulty, &keys).await;
        assert!(!report.is_complete());
        assert_eq!(report.deleted, ["a", "c", "missing"].map(key));
        assert_eq!(report.failed[0].0, key("b"));
        assert_eq!(report.undecided, ["e", "f", "g"].map(key));
        assert_eq!(report.stopped.unwrap().kind, StoreErrorKind::Connect);
        let left: Vec<String> = memory.contents().into_keys().collect();
        assert_eq!(left, ["b", "e", "f", "g"]);
        assert!(delete_all(&faulty, &keys).await.is_complete());
    }
}
