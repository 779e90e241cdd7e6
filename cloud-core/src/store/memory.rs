//! A store in memory, for tests.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};

use super::{
    Abilities, BucketState, DeleteReport, Depth, Download, Limits, ListPage, LockCheck,
    MultipartUpload, ObjectLock, ObjectMeta, ObjectStore, ObjectVersion, PartNumber, PartReceipt,
    Payload, PutOptions, PutReceipt, ReadRange, Result, StoreError, StoreErrorKind, StoreInfo,
    StoreOp, Tag, UnfinishedUpload,
};
use crate::key::{Key, Prefix};

/// Bytes handed out at a time by `get`: small, so that readers meet borders.
const PIECE: usize = 64 << 10;

/// A store in memory. Clones share the content.
#[derive(Debug, Clone)]
pub struct MemoryStore {
    info: StoreInfo,
    page: usize,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    missing: bool,
    objects: BTreeMap<Key, Object>,
    versions: u64,
    /// Those that were neither completed nor aborted.
    uploads: BTreeMap<u64, OpenUpload>,
}

#[derive(Debug)]
struct OpenUpload {
    key: Key,
    parts: BTreeMap<PartNumber, Part>,
    last_activity: Option<SystemTime>,
}

/// What was sent of a part, and the token of its receipt.
type Part = (String, Bytes);

#[derive(Debug, Clone)]
struct Object {
    body: Bytes,
    version: u64,
    modified: SystemTime,
    tags: Vec<Tag>,
    lock: Option<ObjectLock>,
    fingerprint: Option<String>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty store whose bucket exists.
    pub fn new() -> Self {
        let limits = Limits {
            min_part: 1,
            max_part: 1 << 40,
            max_parts: 10_000,
            max_object: 1 << 50,
            max_put: 1 << 30,
            delete_batch: 1000,
            equal_parts: false,
        };
        let info = StoreInfo {
            kind: "memory",
            location: "memory".into(),
            limits,
            abilities: Abilities {
                create_only: true,
                tags: true,
                bulk_delete: true,
                locks: true,
                wants_sha256: false,
            },
        };
        Self {
            info,
            page: 1000,
            shared: Arc::default(),
        }
    }

    /// The same store with other limits, which it enforces.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.info.limits = limits;
        self
    }

    /// The same store with listings of at most `entries` per page.
    #[must_use]
    pub fn with_page(mut self, entries: usize) -> Self {
        self.page = entries.max(1);
        self
    }

    /// The same store without a bucket.
    #[must_use]
    pub fn without_bucket(self) -> Self {
        self.lock().missing = true;
        self
    }

    /// All objects, by name.
    pub fn contents(&self) -> BTreeMap<String, Bytes> {
        let shared = self.lock();
        shared
            .objects
            .iter()
            .map(|(key, o)| (key.to_string(), o.body.clone()))
            .collect()
    }

    /// The tags of an object.
    pub fn tags(&self, key: &str) -> Option<Vec<Tag>> {
        let shared = self.lock();
        shared
            .objects
            .iter()
            .find(|(k, _)| k.as_str() == key)
            .map(|(_, o)| o.tags.clone())
    }

    /// Puts an object in place, whatever the rules.
    pub fn insert(&self, key: &str, body: impl Into<Bytes>) {
        let key = Key::new(key).expect("a test's key is valid");
        self.lock().store(key, body.into(), &PutOptions::default());
    }

    /// Locks an object, so that `head` tells; deletions are not refused.
    pub fn lock_object(&self, key: &str, lock: &ObjectLock) {
        let mut shared = self.lock();
        for (_, object) in shared.objects.iter_mut().filter(|(k, _)| k.as_str() == key) {
            object.lock = Some(lock.clone());
        }
    }

    /// Takes an object away.
    pub fn remove(&self, key: &str) {
        self.lock().objects.retain(|k, _| k.as_str() != key);
    }

    /// The keys of uploads that were neither completed nor aborted.
    pub fn open_uploads(&self) -> Vec<String> {
        let shared = self.lock();
        shared.uploads.values().map(|u| u.key.to_string()).collect()
    }

    /// Sets when the open uploads of a key were last written to; `None` makes
    /// the store one that does not tell.
    pub fn set_last_activity(&self, key: &str, at: Option<SystemTime>) {
        let mut shared = self.lock();
        let uploads = shared.uploads.values_mut();
        for upload in uploads.filter(|upload| upload.key.as_str() == key) {
            upload.last_activity = at;
        }
    }

    /// Makes objects and open uploads whose names contain `part` older.
    pub fn age(&self, part: &str, by: Duration) {
        let mut shared = self.lock();
        let objects = shared.objects.iter_mut();
        for (_, object) in objects.filter(|(key, _)| key.as_str().contains(part)) {
            object.modified -= by;
        }
        let uploads = shared.uploads.values_mut();
        for upload in uploads.filter(|upload| upload.key.as_str().contains(part)) {
            upload.last_activity = upload.last_activity.map(|time| time - by);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self, op: StoreOp, what: &str, kind: StoreErrorKind, why: &str) -> StoreError {
        self.info.error(op, what, kind, why)
    }

    fn bucket(&self, op: StoreOp, what: &str) -> Result<MutexGuard<'_, Shared>> {
        let shared = self.lock();
        if shared.missing {
            let kind = StoreErrorKind::BucketMissing;
            return Err(self.error(op, what, kind, "there is no such bucket"));
        }
        Ok(shared)
    }

    fn put_now(
        &self,
        op: StoreOp,
        key: &Key,
        body: Bytes,
        options: &PutOptions,
    ) -> Result<PutReceipt> {
        let mut shared = self.bucket(op, key.as_str())?;
        let found = shared.objects.get(key).map(|object| object.meta(key));
        if let Some(why) = options.mode.objection(found.as_ref()) {
            let kind = StoreErrorKind::AlreadyExists;
            return Err(self.error(op, key.as_str(), kind, why));
        }
        let version = shared.store(key.clone(), body, options);
        Ok(PutReceipt {
            version: Some(ObjectVersion(version.to_string())),
        })
    }

    fn find(&self, op: StoreOp, key: &Key) -> Result<(ObjectMeta, Bytes)> {
        let shared = self.bucket(op, key.as_str())?;
        if let Some(object) = shared.objects.get(key) {
            Ok((object.meta(key), object.body.clone()))
        } else {
            let kind = StoreErrorKind::NotFound;
            Err(self.error(op, key.as_str(), kind, "there is no such object"))
        }
    }
}

impl Shared {
    fn store(&mut self, key: Key, body: Bytes, options: &PutOptions) -> u64 {
        self.versions += 1;
        let tags = options.tags.clone().unwrap_or_default();
        let object = Object {
            body,
            version: self.versions,
            modified: SystemTime::now(),
            tags,
            lock: None,
            fingerprint: options.fingerprint.clone(),
        };
        self.objects.insert(key, object);
        self.versions
    }
}

impl OpenUpload {
    fn told(&self, id: u64) -> UnfinishedUpload {
        UnfinishedUpload {
            key: self.key.clone(),
            id: id.to_string(),
            last_activity: self.last_activity,
        }
    }
}

impl Object {
    fn meta(&self, key: &Key) -> ObjectMeta {
        ObjectMeta {
            key: key.clone(),
            size: self.body.len() as u64,
            modified: Some(self.modified),
            version: Some(ObjectVersion(self.version.to_string())),
            lock: None,
            fingerprint: None,
        }
    }
}

#[async_trait]
impl ObjectStore for MemoryStore {
    fn info(&self) -> &StoreInfo {
        &self.info
    }

    async fn probe(&self) -> Result<BucketState> {
        Ok(if self.lock().missing {
            BucketState::Missing
        } else {
            BucketState::Exists
        })
    }

    async fn create_bucket(&self) -> Result<()> {
        self.lock().missing = false;
        Ok(())
    }

    async fn put(&self, key: &Key, body: Payload, options: &PutOptions) -> Result<PutReceipt> {
        if body.size() > self.info.limits.max_put {
            let kind = StoreErrorKind::Invalid;
            let why = "it is too large for one request";
            return Err(self.error(StoreOp::Put, key.as_str(), kind, why));
        }
        let body = self.info.payload(StoreOp::Put, key, &body)?;
        // A copy, as a network would make one: part buffers go back at once.
        self.put_now(StoreOp::Put, key, Bytes::copy_from_slice(&body), options)
    }

    async fn begin_multipart(
        &self,
        key: &Key,
        options: &PutOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let mut shared = self.bucket(StoreOp::BeginMultipart, key.as_str())?;
        shared.versions += 1;
        let id = shared.versions;
        let upload = OpenUpload {
            key: key.clone(),
            parts: BTreeMap::new(),
            last_activity: Some(SystemTime::now()),
        };
        shared.uploads.insert(id, upload);
        Ok(Box::new(MemoryUpload {
            store: self.clone(),
            id,
            key: key.clone(),
            options: options.clone(),
        }))
    }

    async fn get(&self, key: &Key, range: &ReadRange) -> Result<Download> {
        let (meta, body) = self.find(StoreOp::Get, key)?;
        if range.version.is_some() && range.version != meta.version {
            let kind = StoreErrorKind::Corrupt;
            return Err(self.error(StoreOp::Get, key.as_str(), kind, "the object was replaced"));
        }
        let end = range.end.unwrap_or(meta.size);
        if range.start > end || end > meta.size {
            let kind = StoreErrorKind::Invalid;
            return Err(self.error(StoreOp::Get, key.as_str(), kind, "the range is outside"));
        }
        let place = |at: u64| usize::try_from(at).expect("it lies within a body in memory");
        let body = body.slice(place(range.start)..place(end));
        let pieces: Vec<Result<Bytes>> = body
            .chunks(PIECE)
            .map(|piece| Ok(body.slice_ref(piece)))
            .collect();
        Ok(Download {
            meta,
            range: range.start..end,
            body: stream::iter(pieces).boxed(),
        })
    }

    async fn head(&self, key: &Key, lock: LockCheck) -> Result<ObjectMeta> {
        let (mut meta, _) = self.find(StoreOp::Head, key)?;
        let shared = self.lock();
        if let Some(object) = shared.objects.get(key) {
            meta.fingerprint.clone_from(&object.fingerprint);
            if lock == LockCheck::Look {
                meta.lock.clone_from(&object.lock);
            }
        }
        Ok(meta)
    }

    fn list(&self, prefix: &Prefix, depth: Depth) -> BoxStream<'static, Result<ListPage>> {
        let shared = match self.bucket(StoreOp::List, prefix.as_str()) {
            Ok(shared) => shared,
            Err(error) => return stream::iter([Err(error)]).boxed(),
        };
        let mut pages = vec![ListPage::default()];
        let mut last_dir = None;
        for (key, object) in &shared.objects {
            let Some(rest) = key.strip_prefix(prefix) else {
                continue;
            };
            let full = pages
                .last()
                .is_none_or(|p| p.objects.len() + p.prefixes.len() >= self.page);
            let dir = rest.find('/').filter(|_| depth == Depth::One);
            let dir = dir.map(|end| Prefix::text(format!("{prefix}{}", &rest[..=end])));
            if dir.is_some() && dir == last_dir {
                continue;
            }
            if full {
                pages.push(ListPage::default());
            }
            let page = pages.last_mut().expect("there is always one");
            match dir {
                Some(dir) => {
                    page.prefixes.push(dir.clone());
                    last_dir = Some(dir);
                }
                None => page.objects.push(object.meta(key)),
            }
        }
        stream::iter(pages.into_iter().map(Ok).collect::<Vec<_>>()).boxed()
    }

    async fn delete_batch(&self, keys: &[Key]) -> Result<DeleteReport> {
        let mut shared = self.bucket(StoreOp::Delete, "objects")?;
        if keys.len() > self.info.limits.delete_batch {
            let kind = StoreErrorKind::Invalid;
            let why = "these are too many for one request";
            return Err(self.error(StoreOp::Delete, "objects", kind, why));
        }
        for key in keys {
            shared.objects.remove(key);
        }
        Ok(DeleteReport {
            deleted: keys.to_vec(),
            failed: Vec::new(),
        })
    }

    fn list_uploads(&self, prefix: &Prefix) -> BoxStream<'static, Result<Vec<UnfinishedUpload>>> {
        let shared = match self.bucket(StoreOp::ListUploads, prefix.as_str()) {
            Ok(shared) => shared,
            Err(error) => return stream::iter([Err(error)]).boxed(),
        };
        let found = shared.uploads.iter();
        let found = found.filter(|(_, upload)| upload.key.strip_prefix(prefix).is_some());
        let found: Vec<_> = found.map(|(id, upload)| upload.told(*id)).collect();
        let pages: Vec<_> = found.chunks(self.page).map(|p| Ok(p.to_vec())).collect();
        stream::iter(pages).boxed()
    }

    async fn abort_upload(&self, upload: &UnfinishedUpload) -> Result<()> {
        let mut shared = self.bucket(StoreOp::Abort, upload.key.as_str())?;
        let uploads = &mut shared.uploads;
        uploads.retain(|id, open| open.key != upload.key || id.to_string() != upload.id);
        Ok(())
    }
}

#[derive(Debug)]
struct MemoryUpload {
    store: MemoryStore,
    id: u64,
    key: Key,
    options: PutOptions,
}

impl MemoryUpload {
    /// What was sent so far, or the refusal of a call that comes after the end.
    fn open<'a>(&self, shared: &'a mut Shared, op: StoreOp) -> Result<&'a mut OpenUpload> {
        shared.uploads.get_mut(&self.id).ok_or_else(|| {
            let why = "the upload was completed or aborted";
            let kind = StoreErrorKind::NotFound;
            self.store.error(op, self.key.as_str(), kind, why)
        })
    }
}

#[async_trait]
impl MultipartUpload for MemoryUpload {
    async fn put_part(&self, number: PartNumber, body: Bytes) -> Result<PartReceipt> {
        let mut shared = self.store.lock();
        shared.versions += 1;
        let token = shared.versions.to_string();
        let upload = self.open(&mut shared, StoreOp::PutPart)?;
        let limits = self.store.info.limits;
        let size = body.len() as u64;
        if size > limits.max_part || number.get() > limits.max_parts {
            let kind = StoreErrorKind::Invalid;
            let why = "the part is too large, or one too many";
            let key = self.key.as_str();
            return Err(self.store.error(StoreOp::PutPart, key, kind, why));
        }
        let part = (token.clone(), Bytes::copy_from_slice(&body));
        upload.parts.insert(number, part);
        upload.last_activity = Some(SystemTime::now());
        Ok(PartReceipt {
            number,
            size,
            token,
        })
    }

    async fn complete(&self, parts: &[PartReceipt]) -> Result<PutReceipt> {
        // As they are now; the bytes themselves are shared.
        let sent = self
            .open(&mut self.store.lock(), StoreOp::Complete)?
            .parts
            .clone();
        let key = self.key.as_str();
        let refuse = |why| {
            self.store
                .error(StoreOp::Complete, key, StoreErrorKind::Invalid, why)
        };
        let Some((last, others)) = parts.split_last() else {
            return Err(refuse("there is no part"));
        };
        if !parts.is_sorted_by(|one, other| one.number < other.number) {
            return Err(refuse("the parts are not in order"));
        }
        let limits = self.store.info.limits;
        if others.iter().any(|part| part.size < limits.min_part) {
            return Err(refuse("a part is too small"));
        }
        let first = others.first().map_or(last.size, |part| part.size);
        let equal = others.iter().all(|part| part.size == first) && last.size <= first;
        if limits.equal_parts && !equal {
            return Err(refuse("the parts are not of one size"));
        }
        let mut body = BytesMut::new();
        for part in parts {
            let (_, bytes) = sent
                .get(&part.number)
                .filter(|(token, _)| *token == part.token)
                .ok_or_else(|| refuse("a part was not sent, or was sent again since"))?;
            body.extend_from_slice(bytes);
        }
        if body.len() as u64 > limits.max_object {
            return Err(refuse("the object is too large"));
        }
        let receipt =
            self.store
                .put_now(StoreOp::Complete, &self.key, body.freeze(), &self.options)?;
        self.store.lock().uploads.remove(&self.id);
        Ok(receipt)
    }

    async fn abort(&self) -> Result<()> {
        self.store.lock().uploads.remove(&self.id);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance;

    #[tokio::test]
    async fn memory_does_what_every_store_must() {
        let store = MemoryStore::new().with_page(7);
        conformance::all(Arc::new(store.clone()), "run").await;
        assert!(store.contents().is_empty() && store.open_uploads().is_empty());
    }

    #[tokio::test]
    async fn the_age_of_an_upload_is_what_a_test_sets() {
        let store = MemoryStore::new();
        let key = |name| Key::new(name).unwrap();
        let options = PutOptions::default();
        for name in ["b", "a", "a"] {
            // Dropped, as by a process that was killed.
            store.begin_multipart(&key(name), &options).await.unwrap();
        }
        assert_eq!(store.open_uploads(), ["b", "a", "a"]);
        let old = SystemTime::UNIX_EPOCH;
        store.set_last_activity("a", Some(old));
        store.set_last_activity("b", None);
        let prefix = Prefix::text("");
        let told = crate::store::list_all_uploads(&store, &prefix).await;
        let told = told.unwrap();
        let told = told.iter().map(|u| (u.key.as_str(), u.last_activity));
        assert_eq!(
            told.collect::<Vec<_>>(),
            [("a", Some(old)), ("a", Some(old)), ("b", None)]
        );
        let missing = store.without_bucket();
        let told = crate::store::list_all_uploads(&missing, &prefix).await;
        assert_eq!(told.unwrap_err().kind, StoreErrorKind::BucketMissing);
    }

    #[tokio::test]
    async fn limits_are_enforced_so_that_callers_learn_to_keep_them() {
        let limits = Limits {
            min_part: 2,
            max_part: 4,
            max_parts: 3,
            max_object: 9,
            max_put: 4,
            delete_batch: 1,
            equal_parts: true,
        };
        let store = MemoryStore::new().with_limits(limits);
        let key = Key::new("a").unwrap();
        let options = PutOptions::default();
        let refused = |result: Result<PutReceipt>| {
            assert_eq!(result.unwrap_err().kind, StoreErrorKind::Invalid);
        };
        refused(store.put(&key, vec![0; 5].into(), &options).await);
        store.put(&key, vec![0; 4].into(), &options).await.unwrap();
        let batch = store.delete_batch(&[key.clone(), key.clone()]).await;
        assert_eq!(batch.unwrap_err().kind, StoreErrorKind::Invalid);

        let upload = store.begin_multipart(&key, &options).await.unwrap();
        let send = async |number, size| {
            let number = PartNumber::new(number).unwrap();
            upload.put_part(number, vec![0; size].into()).await
        };
        assert!(send(1, 5).await.is_err() && send(4, 2).await.is_err());
        for (sizes, fits) in [
            (vec![1, 2], false),
            (vec![2, 3], false),
            (vec![3, 2, 3], false),
            (vec![4, 4, 4], false),
            (vec![4, 4, 1], true),
        ] {
            let mut parts = Vec::new();
            for (number, size) in (1..).zip(&sizes) {
                parts.push(send(number, *size).await.unwrap());
            }
            let done = upload.complete(&parts).await;
            assert_eq!(done.is_ok(), fits, "{sizes:?}");
        }
    }
}
