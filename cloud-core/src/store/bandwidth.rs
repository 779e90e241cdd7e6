//! Limits how many bytes go to and from a store in a second, over all of its
//! users: uploads of several archives share the limit.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use tokio::time::Instant;

use super::{
    BucketState, DeleteReport, Depth, Download, ListPage, LockCheck, MultipartUpload, ObjectMeta,
    ObjectStore, PartNumber, PartReceipt, Payload, PutOptions, PutReceipt, ReadRange, Result,
    StoreInfo, UnfinishedUpload,
};
use crate::key::{Key, Prefix};

/// A store that is not used faster than allowed.
#[derive(Debug, Clone)]
pub struct Bandwidth {
    inner: Arc<dyn ObjectStore>,
    clock: Arc<Clock>,
}

/// How much unused time counts afterwards, at least: timers are late by a
/// millisecond, a busy machine by more, and pieces may be smaller than that.
const LATENESS: Duration = Duration::from_millis(100);

/// Time as the only currency: every byte books the time it may take, after
/// everything that was booked before it.
///
/// A part goes when its time is over, and what it then needs on the line is time
/// in which nobody may have booked: with one part in flight that would be lost,
/// and with it up to half of the rate. So unused time can be booked afterwards, up
/// to that of one part, and no more: after a pause nothing is made up for.
#[derive(Debug)]
struct Clock {
    bytes_per_second: u64,
    booked: Mutex<Booked>,
}

#[derive(Debug, Default)]
struct Booked {
    /// `None` before the first booking.
    until: Option<Instant>,
    /// What the last booking took.
    last: Duration,
}

impl Booked {
    /// Books `takes` and says when that is over.
    fn book(&mut self, now: Instant, takes: Duration) -> Instant {
        let unused = self.last.max(LATENESS);
        let earliest = now.checked_sub(unused).unwrap_or(now);
        let from = self.until.map_or(now, |until| until.max(earliest));
        self.last = takes;
        *self.until.insert(from + takes)
    }
}

impl Clock {
    /// Waits until `bytes` may have gone over the line.
    async fn book(&self, bytes: u64) {
        #[expect(
            clippy::cast_precision_loss,
            reason = "a rate of 2^53 bytes a second is no limit"
        )]
        let takes = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let until = {
            let mut booked = self.booked.lock().unwrap_or_else(PoisonError::into_inner);
            booked.book(Instant::now(), takes)
        };
        tokio::time::sleep_until(until).await;
    }
}

impl Bandwidth {
    /// Limits `inner` to `bytes_per_second`, at least 1.
    pub fn new(inner: Arc<dyn ObjectStore>, bytes_per_second: u64) -> Self {
        let clock = Clock {
            bytes_per_second: bytes_per_second.max(1),
            booked: Mutex::default(),
        };
        Self {
            inner,
            clock: Arc::new(clock),
        }
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl ObjectStore for Bandwidth {
    fn info(&self) -> &StoreInfo {
        self.inner.info()
    }

    async fn probe(&self) -> Result<BucketState> {
        self.inner.probe().await
    }

    async fn create_bucket(&self) -> Result<()> {
        self.inner.create_bucket().await
    }

    async fn put(&self, key: &Key, body: Payload, options: &PutOptions) -> Result<PutReceipt> {
        self.clock.book(body.size()).await;
        self.inner.put(key, body, options).await
    }

    async fn begin_multipart(
        &self,
        key: &Key,
        options: &PutOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let inner = self.inner.begin_multipart(key, options).await?;
        Ok(Box::new(LimitedUpload {
            inner,
            clock: Arc::clone(&self.clock),
        }))
    }

    async fn get(&self, key: &Key, range: &ReadRange) -> Result<Download> {
        let mut download = self.inner.get(key, range).await?;
        let clock = Arc::clone(&self.clock);
        let limited = download.body.and_then(move |piece| {
            let clock = Arc::clone(&clock);
            async move {
                clock.book(piece.len() as u64).await;
                Ok(piece)
            }
        });
        download.body = limited.boxed();
        Ok(download)
    }

    async fn head(&self, key: &Key, lock: LockCheck) -> Result<ObjectMeta> {
        self.inner.head(key, lock).await
    }

    fn list(&self, prefix: &Prefix, depth: Depth) -> BoxStream<'static, Result<ListPage>> {
        self.inner.list(prefix, depth)
    }

    async fn delete_batch(&self, keys: &[Key]) -> Result<DeleteReport> {
        self.inner.delete_batch(keys).await
    }

    fn list_uploads(&self, prefix: &Prefix) -> BoxStream<'static, Result<Vec<UnfinishedUpload>>> {
        self.inner.list_uploads(prefix)
    }

    async fn abort_upload(&self, upload: &UnfinishedUpload) -> Result<()> {
        self.inner.abort_upload(upload).await
    }
}

#[derive(Debug)]
struct LimitedUpload {
    inner: Box<dyn MultipartUpload>,
    clock: Arc<Clock>,
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl MultipartUpload for LimitedUpload {
    async fn put_part(&self, number: PartNumber, body: Bytes) -> Result<PartReceipt> {
        self.clock.book(body.len() as u64).await;
        self.inner.put_part(number, body).await
    }

    async fn complete(&self, parts: &[PartReceipt]) -> Result<PutReceipt> {
        self.inner.complete(parts).await
    }

    async fn abort(&self) -> Result<()> {
        self.inner.abort().await
    }
}

#[cfg(test)]
mod tests;
