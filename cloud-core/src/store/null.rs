//! A store that keeps nothing and holds every write to its limits, for measuring
//! how large a backup can be.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};

use super::{
    Abilities, BucketState, DeleteReport, Depth, Download, Limits, ListPage, LockCheck,
    MultipartUpload, ObjectMeta, ObjectStore, PartNumber, PartReceipt, Payload, PutMode,
    PutOptions, PutReceipt, ReadRange, Result, StoreError, StoreErrorKind, StoreInfo, StoreOp,
    UnfinishedUpload,
};
use crate::key::{Key, Prefix};

/// A store that counts what it is given and drops it. Clones share the counts.
#[derive(Debug, Clone)]
pub struct NullStore {
    info: StoreInfo,
    counts: Arc<Mutex<Counts>>,
}

/// What was written, objects that are whole only. Sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The size of the largest one.
    pub largest_object: u64,
    /// Parts of all objects; an object in one piece has one.
    pub parts: u64,
    /// Parts of the object that has most.
    pub most_parts: u64,
    /// The size of the largest part.
    pub largest_part: u64,
}

impl Counts {
    fn add(&mut self, parts: &[u64]) {
        let bytes = parts.iter().sum();
        let count = parts.len() as u64;
        self.objects += 1;
        self.bytes += bytes;
        self.largest_object = self.largest_object.max(bytes);
        self.parts += count;
        self.most_parts = self.most_parts.max(count);
        self.largest_part = parts.iter().copied().fold(self.largest_part, u64::max);
    }
}

impl NullStore {
    /// A store with these limits, which it enforces.
    pub fn new(limits: Limits) -> Self {
        Self {
            info: StoreInfo {
                kind: "nothing",
                location: "nowhere".into(),
                limits,
                abilities: Abilities {
                    create_only: true,
                    tags: true,
                    bulk_delete: true,
                    locks: false,
                    wants_sha256: false,
                },
            },
            counts: Arc::default(),
        }
    }

    /// What was written so far.
    pub fn counts(&self) -> Counts {
        *lock(&self.counts)
    }

    fn absent(&self, op: StoreOp, key: &Key) -> StoreError {
        let kind = StoreErrorKind::NotFound;
        self.info.error(op, key, kind, "nothing is ever kept")
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl ObjectStore for NullStore {
    fn info(&self) -> &StoreInfo {
        &self.info
    }

    async fn probe(&self) -> Result<BucketState> {
        Ok(BucketState::Exists)
    }

    async fn create_bucket(&self) -> Result<()> {
        Ok(())
    }

    async fn put(&self, key: &Key, body: Payload, options: &PutOptions) -> Result<PutReceipt> {
        let refuse = |kind, why| Err(self.info.error(StoreOp::Put, key, kind, why));
        if matches!(options.mode, PutMode::Replace(_)) {
            return refuse(StoreErrorKind::AlreadyExists, "there is nothing to replace");
        }
        if body.size() > self.info.limits.max_put {
            return refuse(StoreErrorKind::Invalid, "too large for one put");
        }
        lock(&self.counts).add(&[body.size()]);
        Ok(PutReceipt { version: None })
    }

    async fn begin_multipart(
        &self,
        key: &Key,
        _options: &PutOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Ok(Box::new(NullUpload {
            key: key.clone(),
            store: self.clone(),
            parts: Mutex::default(),
        }))
    }

    async fn get(&self, key: &Key, _range: &ReadRange) -> Result<Download> {
        Err(self.absent(StoreOp::Get, key))
    }

    async fn head(&self, key: &Key, _lock: LockCheck) -> Result<ObjectMeta> {
        Err(self.absent(StoreOp::Head, key))
    }

    fn list(&self, _prefix: &Prefix, _depth: Depth) -> BoxStream<'static, Result<ListPage>> {
        stream::empty().boxed()
    }

    async fn delete_batch(&self, keys: &[Key]) -> Result<DeleteReport> {
        Ok(DeleteReport {
            deleted: keys.to_vec(),
            failed: Vec::new(),
        })
    }

    fn list_uploads(&self, _prefix: &Prefix) -> BoxStream<'static, Result<Vec<UnfinishedUpload>>> {
        stream::empty().boxed()
    }

    async fn abort_upload(&self, _upload: &UnfinishedUpload) -> Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct NullUpload {
    key: Key,
    store: NullStore,
    /// Sizes of the parts by their numbers; `None` once it is over.
    parts: Mutex<Option<BTreeMap<u32, u64>>>,
}

impl NullUpload {
    fn refuse<T>(&self, op: StoreOp, why: String) -> Result<T> {
        let kind = StoreErrorKind::Invalid;
        Err(self.store.info.error(op, &self.key, kind, why))
    }
}

#[async_trait]
impl MultipartUpload for NullUpload {
    async fn put_part(&self, number: PartNumber, body: Bytes) -> Result<PartReceipt> {
        let limits = &self.store.info.limits;
        let size = body.len() as u64;
        if size > limits.max_part || number.get() > limits.max_parts {
            let why = format!("part {} of {size} bytes is beyond the limits", number.get());
            return self.refuse(StoreOp::PutPart, why);
        }
        let mut parts = lock(&self.parts);
        parts.get_or_insert_default().insert(number.get(), size);
        Ok(PartReceipt {
            number,
            size,
            token: String::new(),
        })
    }

    async fn complete(&self, receipts: &[PartReceipt]) -> Result<PutReceipt> {
        let limits = &self.store.info.limits;
        let parts = lock(&self.parts).take().unwrap_or_default();
        let numbers = receipts.iter().map(|receipt| receipt.number.get());
        if !numbers.eq(parts.keys().copied()) || parts.is_empty() {
            return self.refuse(StoreOp::Complete, "not all parts, in order".into());
        }
        let sizes: Vec<u64> = parts.into_values().collect();
        let (last, others) = sizes.split_last().unwrap_or((&0, &[]));
        let small = others.iter().find(|size| **size < limits.min_part);
        let odd = others.iter().find(|size| **size != others[0]);
        if let Some(size) = small.or(odd.filter(|_| limits.equal_parts)) {
            let why = format!("a part of {size} bytes is not the last one");
            return self.refuse(StoreOp::Complete, why);
        }
        if *last > others.first().copied().unwrap_or(u64::MAX) && limits.equal_parts {
            let why = format!("the last part, of {last} bytes, is the largest");
            return self.refuse(StoreOp::Complete, why);
        }
        if sizes.iter().sum::<u64>() > limits.max_object {
            return self.refuse(StoreOp::Complete, "the object is too large".into());
        }
        lock(&self.store.counts).add(&sizes);
        Ok(PutReceipt { version: None })
    }

    async fn abort(&self) -> Result<()> {
        *lock(&self.parts) = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        min_part: 10,
        max_part: 20,
        max_parts: 3,
        max_object: 50,
        max_put: 15,
        delete_batch: 1000,
        equal_parts: true,
    };

    async fn upload(store: &NullStore, sizes: &[usize]) -> Result<PutReceipt> {
        let key = Key::new("key").unwrap();
        let upload = store.begin_multipart(&key, &PutOptions::default()).await?;
        let mut receipts = Vec::new();
        for (number, size) in (1..).zip(sizes) {
            let number = PartNumber::new(number).unwrap();
            receipts.push(upload.put_part(number, vec![0; *size].into()).await?);
        }
        upload.complete(&receipts).await
    }

    #[tokio::test]
    async fn what_is_within_the_limits_is_counted_and_all_else_refused() {
        let store = NullStore::new(LIMITS);
        let put = async |size| {
            let body = vec![0; size].into();
            let key = Key::new("key").unwrap();
            store.put(&key, body, &PutOptions::default()).await
        };
        put(15).await.unwrap();
        put(16).await.unwrap_err();
        upload(&store, &[20, 20, 10]).await.unwrap();
        upload(&store, &[3]).await.unwrap();
        for wrong in [
            &[][..],
            &[21],
            &[9, 9],
            &[20, 19, 1],
            &[10, 20],
            &[10, 10, 10, 10],
            &[20, 20, 11],
        ] {
            upload(&store, wrong).await.expect_err("beyond the limits");
        }
        assert_eq!(
            store.counts(),
            Counts {
                objects: 3,
                bytes: 68,
                largest_object: 50,
                parts: 5,
                most_parts: 3,
                largest_part: 20,
            }
        );
    }
}
