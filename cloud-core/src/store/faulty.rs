//! A store that fails on purpose, for tests.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt, TryStreamExt};
use tokio::sync::Notify;

use super::{
    BucketState, DeleteReport, Depth, Download, ListPage, LockCheck, MultipartUpload, ObjectMeta,
    ObjectStore, PartNumber, PartReceipt, Payload, PutOptions, PutReceipt, ReadRange, Result,
    StoreError, StoreErrorKind, StoreInfo, StoreOp, UnfinishedUpload,
};
use crate::key::{Key, Prefix};

/// A way to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is done.
    Before(StoreErrorKind),
    /// It is done, and the answer is lost. In a listing, that of the page after
    /// the first; it can be asked for again.
    After(StoreErrorKind),
    /// The body of a download ends with a lost connection after so many bytes.
    CutBody(u64),
    /// The body of a download ends after so many bytes as if that were all.
    ShortBody(u64),
    /// The body of a download never goes on after so many bytes.
    StallBody(u64),
    /// The byte at this place of a download's body has one bit flipped.
    FlipBit(u64),
    /// The keys of a deletion that fit the plan are refused; the others go.
    RefuseKeys(StoreErrorKind),
    /// A call other than `get`, `list` and `delete_batch` lets the others go first
    /// so many times.
    Late(u32),
}

/// A store whose calls fail as told. Clones share the plan.
#[derive(Debug, Clone)]
pub struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    plan: Arc<Mutex<Plan>>,
    stalled: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Plan {
    faults: Vec<Planned>,
    calls: Vec<(StoreOp, String)>,
    counts: HashMap<StoreOp, u32>,
    /// Every call from this one on fails.
    die_after: Option<usize>,
}

#[derive(Debug)]
struct Planned {
    op: StoreOp,
    /// Only calls for names that contain this.
    part: String,
    fault: Fault,
    times: u32,
}

impl FaultyStore {
    /// Passes everything on to `inner` until told otherwise.
    pub fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self {
            inner,
            plan: Arc::default(),
            stalled: Arc::default(),
        }
    }

    /// Makes the next `times` calls of `op` fail; several plans for one kind of
    /// call are used up one after the other.
    pub fn fail(&self, op: StoreOp, fault: Fault, times: u32) {
        self.fail_for("", op, fault, times);
    }

    /// The same for calls whose key or prefix contains `part` (in a deletion:
    /// one of whose keys does).
    pub fn fail_for(&self, part: &str, op: StoreOp, fault: Fault, times: u32) {
        self.lock().faults.push(Planned {
            op,
            part: part.to_owned(),
            fault,
            times,
        });
    }

    /// Waits until a download has come to the place where it stalls.
    pub async fn stalled(&self) {
        self.stalled.notified().await;
    }

    /// Lets `calls` more calls through; everything after them fails, as if the
    /// network were gone.
    #[must_use]
    pub fn die_after(self, calls: usize) -> Self {
        {
            let mut plan = self.lock();
            plan.die_after = Some(plan.calls.len() + calls);
        }
        self
    }

    /// How often `op` was called.
    pub fn count(&self, op: StoreOp) -> u32 {
        self.lock().counts.get(&op).copied().unwrap_or(0)
    }

    /// All calls, in order, and what they were made for.
    pub fn calls(&self) -> Vec<(StoreOp, String)> {
        self.lock().calls.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a call and finds out how it is to fail, and what the plan was for.
    fn enter(&self, op: StoreOp, what: &str) -> Result<Option<(Fault, String)>> {
        let mut plan = self.lock();
        plan.calls.push((op, what.to_owned()));
        *plan.counts.entry(op).or_default() += 1;
        if plan.die_after.is_some_and(|calls| plan.calls.len() > calls) {
            return Err(self.error(op, what, StoreErrorKind::Connect));
        }
        let fits =
            |next: &&mut Planned| next.op == op && next.times > 0 && what.contains(&next.part);
        let hit = plan.faults.iter_mut().find(fits).map(|next| {
            next.times -= 1;
            (next.fault, next.part.clone())
        });
        match hit {
            Some((Fault::Before(kind), _)) => Err(self.error(op, what, kind)),
            hit => Ok(hit),
        }
    }

    fn error(&self, op: StoreOp, what: &str, kind: StoreErrorKind) -> StoreError {
        self.inner.info().error(op, what, kind, "an injected fault")
    }

    async fn call<T>(
        &self,
        op: StoreOp,
        what: &str,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let fault = self.enter(op, what)?;
        if let Some((Fault::Late(turns), _)) = fault {
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
        }
        let value = call.await?;
        match fault {
            Some((Fault::After(kind), _)) => Err(self.error(op, what, kind)),
            _ => Ok(value),
        }
    }

    /// The pages of a listing, with the fault that is planned for it.
    fn pages<P: Send + 'static>(
        &self,
        op: StoreOp,
        prefix: &Prefix,
        pages: BoxStream<'static, Result<P>>,
    ) -> BoxStream<'static, Result<P>> {
        match self.enter(op, prefix.as_str()) {
            Ok(Some((Fault::After(kind), _))) => {
                let error = self.error(op, prefix.as_str(), kind);
                let state = (pages, 0, Some(error));
                stream::unfold(state, |(mut pages, count, mut error)| async move {
                    if let Some(error) = error.take_if(|_| count == 1) {
                        return Some((Err(error), (pages, count, None)));
                    }
                    let page = pages.next().await?;
                    Some((page, (pages, count + 1, error)))
                })
                .boxed()
            }
            Ok(_) => pages,
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl ObjectStore for FaultyStore {
    fn info(&self) -> &StoreInfo {
        self.inner.info()
    }

    async fn probe(&self) -> Result<BucketState> {
        self.call(StoreOp::Probe, "bucket", self.inner.probe())
            .await
    }

    async fn create_bucket(&self) -> Result<()> {
        self.call(StoreOp::CreateBucket, "bucket", self.inner.create_bucket())
            .await
    }

    async fn put(&self, key: &Key, body: Payload, options: &PutOptions) -> Result<PutReceipt> {
        self.call(
            StoreOp::Put,
            key.as_str(),
            self.inner.put(key, body, options),
        )
        .await
    }

    async fn begin_multipart(
        &self,
        key: &Key,
        options: &PutOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let begin = self.inner.begin_multipart(key, options);
        let inner = self
            .call(StoreOp::BeginMultipart, key.as_str(), begin)
            .await?;
        Ok(Box::new(FaultyUpload {
            inner,
            store: self.clone(),
            key: key.to_string(),
        }))
    }

    async fn get(&self, key: &Key, range: &ReadRange) -> Result<Download> {
        let fault = self.enter(StoreOp::Get, key.as_str())?.map(|hit| hit.0);
        let mut download = self.inner.get(key, range).await?;
        match fault {
            Some(Fault::After(kind)) => return Err(self.error(StoreOp::Get, key.as_str(), kind)),
            Some(Fault::CutBody(bytes)) => {
                let error = self.error(StoreOp::Get, key.as_str(), StoreErrorKind::Connect);
                let end = stream::iter([Err(error)]);
                download.body = head(download.body, bytes).chain(end).boxed();
            }
            Some(Fault::ShortBody(bytes)) => download.body = head(download.body, bytes).boxed(),
            Some(Fault::StallBody(bytes)) => {
                let stalled = Arc::clone(&self.stalled);
                let end = stream::once(async move {
                    stalled.notify_one();
                    std::future::pending().await
                });
                download.body = head(download.body, bytes).chain(end).boxed();
            }
            Some(Fault::FlipBit(at)) => download.body = flip(download.body, at),
            _ => {}
        }
        Ok(download)
    }

    async fn head(&self, key: &Key, lock: LockCheck) -> Result<ObjectMeta> {
        self.call(StoreOp::Head, key.as_str(), self.inner.head(key, lock))
            .await
    }

    fn list(&self, prefix: &Prefix, depth: Depth) -> BoxStream<'static, Result<ListPage>> {
        self.pages(StoreOp::List, prefix, self.inner.list(prefix, depth))
    }

    async fn delete_batch(&self, keys: &[Key]) -> Result<DeleteReport> {
        let names: Vec<&str> = keys.iter().map(Key::as_str).collect();
        let names = names.join("\n");
        let hit = self.enter(StoreOp::Delete, &names)?;
        let Some((Fault::RefuseKeys(kind), part)) = hit else {
            let report = self.inner.delete_batch(keys).await?;
            return match hit {
                Some((Fault::After(kind), _)) => Err(self.error(StoreOp::Delete, &names, kind)),
                _ => Ok(report),
            };
        };
        let (refused, passed): (Vec<Key>, Vec<Key>) = keys
            .iter()
            .cloned()
            .partition(|key| key.as_str().contains(&part));
        let mut report = self.inner.delete_batch(&passed).await?;
        report.failed.extend(refused.into_iter().map(|key| {
            let error = self.error(StoreOp::Delete, key.as_str(), kind);
            (key, error)
        }));
        Ok(report)
    }

    fn list_uploads(&self, prefix: &Prefix) -> BoxStream<'static, Result<Vec<UnfinishedUpload>>> {
        let pages = self.inner.list_uploads(prefix);
        self.pages(StoreOp::ListUploads, prefix, pages)
    }

    async fn abort_upload(&self, upload: &UnfinishedUpload) -> Result<()> {
        let abort = self.inner.abort_upload(upload);
        self.call(StoreOp::Abort, upload.key.as_str(), abort).await
    }
}

/// The first bytes of a body.
fn head(
    body: BoxStream<'static, Result<Bytes>>,
    bytes: u64,
) -> impl Stream<Item = Result<Bytes>> + Send + 'static {
    let mut left = usize::try_from(bytes).unwrap_or(usize::MAX);
    body.try_filter_map(move |piece| {
        let piece = piece.slice(..left.min(piece.len()));
        left -= piece.len();
        std::future::ready(Ok((!piece.is_empty()).then_some(piece)))
    })
}

fn flip(body: BoxStream<'static, Result<Bytes>>, at: u64) -> BoxStream<'static, Result<Bytes>> {
    let mut place = usize::try_from(at).unwrap_or(usize::MAX);
    body.map_ok(move |piece| {
        let mut bytes = piece.to_vec();
        if let Some(byte) = bytes.get_mut(place) {
            *byte ^= 1;
            place = usize::MAX;
        } else {
            place = place.saturating_sub(bytes.len());
        }
        bytes.into()
    })
    .boxed()
}

#[derive(Debug)]
struct FaultyUpload {
    inner: Box<dyn MultipartUpload>,
    store: FaultyStore,
    key: String,
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl MultipartUpload for FaultyUpload {
    async fn put_part(&self, number: PartNumber, body: Bytes) -> Result<PartReceipt> {
        self.store
            .call(
                StoreOp::PutPart,
                &self.key,
                self.inner.put_part(number, body),
            )
            .await
    }

    async fn complete(&self, parts: &[PartReceipt]) -> Result<PutReceipt> {
        self.store
            .call(StoreOp::Complete, &self.key, self.inner.complete(parts))
            .await
    }

    async fn abort(&self) -> Result<()> {
        self.store
            .call(StoreOp::Abort, &self.key, self.inner.abort())
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{MemoryStore, conformance};

    #[tokio::test]
    async fn without_a_plan_it_does_what_every_store_must() {
        let store = FaultyStore::new(Arc::new(MemoryStore::new()));
        conformance::all(Arc::new(store), "run").await;
    }
}
