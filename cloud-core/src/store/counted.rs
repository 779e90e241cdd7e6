//! A store that counts what it is asked.
//!
//! For whoever tells of the requests that a piece of work took. It counts calls, of a
//! listing its pages: what a wrapper inside repeats is one request here. That an object is not
//! there is an answer, not an error.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;

use super::{
    BucketState, DeleteReport, Depth, Download, ListPage, LockCheck, MultipartUpload, ObjectMeta,
    ObjectStore, Payload, PutOptions, PutReceipt, ReadRange, Result, StoreErrorKind, StoreInfo,
    UnfinishedUpload,
};
use crate::key::{Key, Prefix};

/// How often a store was asked, and how often that failed.
#[derive(Debug, Default)]
pub struct Tally {
    requests: AtomicU64,
    errors: AtomicU64,
}

impl Tally {
    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Those of them that failed.
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    fn note<T>(&self, answer: &Result<T>) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = answer
            && error.kind != StoreErrorKind::NotFound
        {
            self.errors.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Counts the requests to another store. Parts of uploads are not among them.
#[derive(Debug)]
pub struct Counted {
    inner: Arc<dyn ObjectStore>,
    tally: Arc<Tally>,
}

impl Counted {
    /// Counts what `inner` is asked.
    pub fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self {
            inner,
            tally: Arc::default(),
        }
    }

    /// What was counted, now and later.
    pub fn tally(&self) -> Arc<Tally> {
        Arc::clone(&self.tally)
    }

    fn counted<T>(&self, answer: Result<T>) -> Result<T> {
        self.tally.note(&answer);
        answer
    }

    fn pages<T: 'static>(
        &self,
        pages: BoxStream<'static, Result<T>>,
    ) -> BoxStream<'static, Result<T>> {
        let tally = self.tally();
        pages.inspect(move |page| tally.note(page)).boxed()
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl ObjectStore for Counted {
    fn info(&self) -> &StoreInfo {
        self.inner.info()
    }

    async fn probe(&self) -> Result<BucketState> {
        self.counted(self.inner.probe().await)
    }

    async fn create_bucket(&self) -> Result<()> {
        self.counted(self.inner.create_bucket().await)
    }

    async fn put(&self, key: &Key, body: Payload, options: &PutOptions) -> Result<PutReceipt> {
        self.counted(self.inner.put(key, body, options).await)
    }

    async fn begin_multipart(
        &self,
        key: &Key,
        options: &PutOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.counted(self.inner.begin_multipart(key, options).await)
    }

    async fn get(&self, key: &Key, range: &ReadRange) -> Result<Download> {
        self.counted(self.inner.get(key, range).await)
    }

    async fn head(&self, key: &Key, lock: LockCheck) -> Result<ObjectMeta> {
        self.counted(self.inner.head(key, lock).await)
    }

    fn list(&self, prefix: &Prefix, depth: Depth) -> BoxStream<'static, Result<ListPage>> {
        self.pages(self.inner.list(prefix, depth))
    }

    async fn delete_batch(&self, keys: &[Key]) -> Result<DeleteReport> {
        self.counted(self.inner.delete_batch(keys).await)
    }

    fn list_uploads(&self, prefix: &Prefix) -> BoxStream<'static, Result<Vec<UnfinishedUpload>>> {
        self.pages(self.inner.list_uploads(prefix))
    }

    async fn abort_upload(&self, upload: &UnfinishedUpload) -> Result<()> {
        self.counted(self.inner.abort_upload(upload).await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Fault, FaultyStore, MemoryStore, StoreOp, get_all, list_all};

    #[tokio::test]
    async fn pages_count_and_what_is_not_there_is_no_error() {
        let memory = MemoryStore::new().with_page(2);
        for name in ["a", "b", "c"] {
            memory.insert(name, "");
        }
        let faulty = FaultyStore::new(Arc::new(memory));
        let counted = Counted::new(Arc::new(faulty.clone()));
        let tally = counted.tally();
        let all = Prefix::text("");
        list_all(&counted, &all, Depth::All).await.unwrap();
        assert_eq!((tally.requests(), tally.errors()), (2, 0));
        let key = |name| Key::new(name).unwrap();
        get_all(&counted, &key("a"), 9).await.unwrap();
        get_all(&counted, &key("x"), 9).await.unwrap_err();
        assert_eq!((tally.requests(), tally.errors()), (4, 0));
        let refused = Fault::Before(StoreErrorKind::PermissionDenied);
        faulty.fail(StoreOp::List, refused, 1);
        list_all(&counted, &all, Depth::All).await.unwrap_err();
        assert_eq!((tally.requests(), tally.errors()), (5, 1));
    }

    #[tokio::test]
    async fn it_is_a_store_like_the_one_inside() {
        let counted = Counted::new(Arc::new(MemoryStore::new()));
        crate::store::conformance::all(Arc::new(counted), "counted").await;
    }
}
