//! Tries again what may succeed if it is tried again.
//!
//! A wrapper: it passes for a store. Attempts are spread by exponential
//! back-off with jitter and bounded by a total time. The first failure is the
//! one reported; later ones are often only its echo.
//!
//! After a lost answer it is unknown whether a write happened. Overwriting
//! again is harmless; a create-only write that meets its own first attempt is
//! recognised by its bytes, so that a WAL file is not refused because it was
//! stored a moment ago.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use tokio::time::Instant;

use super::{
    BucketState, DeleteReport, Depth, Download, ListPage, LockCheck, MultipartUpload, ObjectMeta,
    ObjectStore, PartNumber, PartReceipt, PutMode, PutOptions, PutReceipt, ReadRange, Result,
    StoreError, StoreErrorKind, StoreInfo, StoreOp, get_all,
};
use crate::key::{Key, Prefix};

/// First pause, before jitter.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Longest pause, before jitter.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How long to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// No attempt begins later than this after the first one.
    pub total: Duration,
}

/// A store whose transient failures are tried again.
#[derive(Debug, Clone)]
pub struct Retry {
    inner: Arc<dyn ObjectStore>,
    policy: RetryPolicy,
}

impl Retry {
    /// Tries again what fails in `inner`.
    pub fn new(inner: Arc<dyn ObjectStore>, policy: RetryPolicy) -> Self {
        Self { inner, policy }
    }

    async fn run<T, F: Future<Output = Result<T>>>(
        &self,
        mut call: impl FnMut() -> F,
    ) -> Result<T> {
        let mut patience = Patience::new(self.policy);
        loop {
            match call().await {
                Ok(value) => return Ok(value),
                Err(error) => patience.after(error).await?,
            }
        }
    }
}

/// Decides whether there is another attempt, and waits for it.
#[derive(Debug)]
struct Patience {
    policy: RetryPolicy,
    began: Instant,
    attempts: u32,
    pause: Duration,
    first: Option<StoreError>,
}

impl Patience {
    fn new(policy: RetryPolicy) -> Self {
        Self {
            policy,
            began: Instant::now(),
            attempts: 0,
            pause: FIRST_PAUSE,
            first: None,
        }
    }

    /// Waits before the next attempt, or returns the error to report.
    async fn after(&mut self, error: StoreError) -> Result<()> {
        self.attempts += 1;
        let pause = self.pause.mul_f64(0.5 + fastrand::f64());
        let late = self.began.elapsed() + pause > self.policy.total;
        if !error.kind.is_transient() || late {
            return Err(self.give_up(error));
        }
        tracing::debug!(
            "attempt {} failed, trying again: {error}: {}",
            self.attempts,
            error.source
        );
        self.first.get_or_insert(error);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// The first failure, unless the last one says something that trying again
    /// had not been about.
    fn give_up(&mut self, last: StoreError) -> StoreError {
        let mut reported = match self.first.take() {
            Some(first) if last.kind.is_transient() => first,
            _ => last,
        };
        reported.attempts = self.attempts;
        reported
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl ObjectStore for Retry {
    fn info(&self) -> &StoreInfo {
        self.inner.info()
    }

    async fn probe(&self) -> Result<BucketState> {
        self.run(|| self.inner.probe()).await
    }

    async fn create_bucket(&self) -> Result<()> {
        self.run(|| self.inner.create_bucket()).await
    }

    async fn put(&self, key: &Key, body: Bytes, options: &PutOptions) -> Result<PutReceipt> {
        let mut patience = Patience::new(self.policy);
        let mut unknown = false;
        loop {
            match self.inner.put(key, body.clone(), options).await {
                Ok(receipt) => return Ok(receipt),
                Err(error) if error.kind == StoreErrorKind::AlreadyExists && unknown => {
                    // Perhaps our own first attempt, whose answer was lost.
                    let stored = self
                        .run(|| get_all(self.inner.as_ref(), key, body.len() as u64))
                        .await;
                    return match stored {
                        Ok((meta, stored)) if stored == body => Ok(PutReceipt {
                            version: meta.version,
                        }),
                        _ => Err(error),
                    };
                }
                Err(error) => {
                    unknown |= options.mode == PutMode::CreateOnly;
                    patience.after(error).await?;
                }
            }
        }
    }

    async fn begin_multipart(
        &self,
        key: &Key,
        options: &PutOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let inner = self
            .run(|| self.inner.begin_multipart(key, options))
            .await?;
        let upload = RetryUpload {
            inner,
            store: self.clone(),
            key: key.clone(),
        };
        Ok(Box::new(upload))
    }

    async fn get(&self, key: &Key, range: &ReadRange) -> Result<Download> {
        let download = self.run(|| self.inner.get(key, range)).await?;
        let meta = download.meta.clone();
        let state = Resumed {
            store: self.clone(),
            meta: meta.clone(),
            at: download.range.start,
            end: download.range.end,
            body: download.body,
            patience: Patience::new(self.policy),
        };
        let body = stream::try_unfold(state, |mut state| async move {
            Ok(state.next().await?.map(|piece| (piece, state)))
        });
        Ok(Download {
            meta,
            range: download.range,
            body: body.boxed(),
        })
    }

    async fn head(&self, key: &Key, lock: LockCheck) -> Result<ObjectMeta> {
        self.run(|| self.inner.head(key, lock)).await
    }

    fn list(&self, prefix: &Prefix, depth: Depth) -> BoxStream<'static, Result<ListPage>> {
        // Only the first answer is asked for again: once entries were handed
        // out, beginning again would hand them out twice, and a failure later
        // on is the caller's to see.
        let (store, prefix) = (self.clone(), prefix.clone());
        stream::once(async move {
            let begin = || async {
                let mut pages = store.inner.list(&prefix, depth);
                let first = pages.try_next().await?;
                Ok(stream::iter(first.map(Ok)).chain(pages))
            };
            store.run(begin).await
        })
        .try_flatten()
        .boxed()
    }

    async fn delete_batch(&self, keys: &[Key]) -> Result<DeleteReport> {
        self.run(|| self.inner.delete_batch(keys)).await
    }
}

/// A download that goes on where it was cut.
struct Resumed {
    store: Retry,
    meta: ObjectMeta,
    at: u64,
    end: u64,
    body: BoxStream<'static, Result<Bytes>>,
    patience: Patience,
}

impl Resumed {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            let error = match self.body.try_next().await {
                Ok(Some(piece)) => {
                    self.at += piece.len() as u64;
                    if self.at > self.end {
                        return Err(self.wrong_length());
                    }
                    // What moves is not stuck.
                    self.patience = Patience::new(self.store.policy);
                    return Ok(Some(piece));
                }
                Ok(None) if self.at == self.end => return Ok(None),
                // An end that comes early is a connection that was cut.
                Ok(None) => StoreError {
                    kind: StoreErrorKind::Connect,
                    ..self.wrong_length()
                },
                Err(error) => error,
            };
            self.patience.after(error).await?;
            let range = ReadRange {
                start: self.at,
                end: Some(self.end),
                version: self.meta.version.clone(),
            };
            match self.store.inner.get(&self.meta.key, &range).await {
                Ok(download) => self.body = download.body,
                Err(error) => self.body = stream::iter([Err(error)]).boxed(),
            }
        }
    }

    fn wrong_length(&self) -> StoreError {
        StoreError {
            kind: StoreErrorKind::Corrupt,
            op: StoreOp::Get,
            what: self.meta.key.to_string(),
            location: self.store.info().location.clone(),
            attempts: 1,
            source: format!("byte {} was to be the last and {} came", self.end, self.at).into(),
        }
    }
}

struct RetryUpload {
    inner: Box<dyn MultipartUpload>,
    store: Retry,
    key: Key,
}

impl fmt::Debug for RetryUpload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl MultipartUpload for RetryUpload {
    async fn put_part(&self, number: PartNumber, body: Bytes) -> Result<PartReceipt> {
        self.store
            .run(|| self.inner.put_part(number, body.clone()))
            .await
    }

    async fn complete(&self, parts: &[PartReceipt]) -> Result<PutReceipt> {
        let size: u64 = parts.iter().map(|part| part.size).sum();
        // What was there before this attempt cannot be told from what it made,
        // but by its version.
        let before = self.store.inner.head(&self.key, LockCheck::Skip).await.ok();
        let mut patience = Patience::new(self.store.policy);
        let mut unknown = false;
        loop {
            match self.inner.complete(parts).await {
                Ok(receipt) => return Ok(receipt),
                // Whose object it is that took the name, the caller finds out by
                // its content.
                Err(error) if error.kind == StoreErrorKind::AlreadyExists => return Err(error),
                Err(error) if unknown && !error.kind.is_transient() => {
                    // The first attempt may have done it: the upload is gone
                    // then, and the object is there.
                    let now = self
                        .store
                        .run(|| self.store.inner.head(&self.key, LockCheck::Skip));
                    return match now.await {
                        Ok(now)
                            if now.size == size
                                && before.as_ref().map(|meta| &meta.version)
                                    != Some(&now.version) =>
                        {
                            Ok(PutReceipt {
                                version: now.version,
                            })
                        }
                        _ => Err(patience.give_up(error)),
                    };
                }
                Err(error) => {
                    unknown = true;
                    patience.after(error).await?;
                }
            }
        }
    }

    async fn abort(&self) -> Result<()> {
        self.store.run(|| self.inner.abort()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Fault, FaultyStore, MemoryStore, conformance};

    const POLICY: RetryPolicy = RetryPolicy {
        total: Duration::from_mins(1),
    };

    fn faulty() -> (MemoryStore, FaultyStore, Retry) {
        let memory = MemoryStore::new();
        let faulty = FaultyStore::new(Arc::new(memory.clone()));
        let retry = Retry::new(Arc::new(faulty.clone()), POLICY);
        (memory, faulty, retry)
    }

    fn key() -> Key {
        Key::new("object").unwrap()
    }

    const BODY: Bytes = Bytes::from_static(b"0123456789");

    #[tokio::test(start_paused = true)]
    async fn a_wrapped_store_does_what_every_store_must() {
        let (memory, _, retry) = faulty();
        conformance::all(Arc::new(retry), "run").await;
        assert!(memory.contents().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_passing_failure_is_not_seen() {
        for kind in [
            StoreErrorKind::Timeout,
            StoreErrorKind::ServerFault,
            StoreErrorKind::Conflict,
        ] {
            let (memory, faulty, retry) = faulty();
            faulty.fail(StoreOp::Put, Fault::Before(kind), 3);
            retry
                .put(&key(), BODY, &PutOptions::default())
                .await
                .unwrap();
            assert_eq!(memory.contents()["object"], BODY);
            assert_eq!(faulty.count(StoreOp::Put), 4);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lasting_failure_ends_in_time_and_the_first_one_is_reported() {
        let (_, faulty, retry) = faulty();
        faulty.fail(StoreOp::Put, Fault::Before(StoreErrorKind::Connect), 1);
        faulty.fail(
            StoreOp::Put,
            Fault::Before(StoreErrorKind::Timeout),
            u32::MAX,
        );
        let began = Instant::now();
        let error = retry
            .put(&key(), BODY, &PutOptions::default())
            .await
            .unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Connect);
        assert!(error.attempts > 5 && began.elapsed() <= POLICY.total);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_final() {
        let (_, faulty, retry) = faulty();
        faulty.fail(
            StoreOp::Put,
            Fault::Before(StoreErrorKind::PermissionDenied),
            1,
        );
        let error = retry
            .put(&key(), BODY, &PutOptions::default())
            .await
            .unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::PermissionDenied);
        assert_eq!(faulty.count(StoreOp::Put), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_create_only_write_recognises_its_own_first_attempt() {
        let create = PutOptions {
            mode: PutMode::CreateOnly,
            tags: None,
        };
        let (_, faulty, retry) = faulty();
        faulty.fail(StoreOp::Put, Fault::After(StoreErrorKind::Timeout), 1);
        retry.put(&key(), BODY, &create).await.unwrap();

        let (memory, faulty, retry) = self::faulty();
        memory.insert("object", "different!");
        faulty.fail(StoreOp::Put, Fault::Before(StoreErrorKind::Timeout), 1);
        let error = retry.put(&key(), BODY, &create).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::AlreadyExists);
        assert_eq!(memory.contents()["object"], "different!");
    }

    #[tokio::test(start_paused = true)]
    async fn a_download_goes_on_where_it_was_cut() {
        let (memory, faulty, retry) = faulty();
        let body: Bytes = (0..1_000_000_u32)
            .flat_map(u32::to_le_bytes)
            .collect::<Vec<_>>()
            .into();
        memory.insert("object", body.clone());
        for cut in [0, 1, 70_000, 3_999_999] {
            faulty.fail(StoreOp::Get, Fault::CutBody(cut), 2);
            let (_, read) = get_all(&retry, &key(), 1 << 30).await.unwrap();
            assert!(read == body, "cut at {cut}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_download_of_an_object_that_was_replaced_meanwhile_is_corrupt() {
        let (memory, faulty, retry) = faulty();
        memory.insert("object", vec![1; 200_000]);
        faulty.fail(StoreOp::Get, Fault::CutBody(100_000), 1);
        let mut download = retry.get(&key(), &ReadRange::all()).await.unwrap();
        download.body.try_next().await.unwrap();
        memory.insert("object", vec![2; 200_000]);
        let rest: Result<Vec<_>> = download.body.try_collect().await;
        assert_eq!(rest.unwrap_err().kind, StoreErrorKind::Corrupt);
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_whose_completion_was_not_answered_is_recognised() {
        let (memory, faulty, retry) = faulty();
        let upload = retry
            .begin_multipart(&key(), &PutOptions::default())
            .await
            .unwrap();
        let part = upload.put_part(PartNumber::FIRST, BODY).await.unwrap();
        faulty.fail(StoreOp::Complete, Fault::After(StoreErrorKind::Timeout), 1);
        faulty.fail(
            StoreOp::Complete,
            Fault::Before(StoreErrorKind::NotFound),
            1,
        );
        upload.complete(&[part]).await.unwrap();
        assert_eq!(memory.contents()["object"], BODY);

        let upload = retry
            .begin_multipart(&key(), &PutOptions::default())
            .await
            .unwrap();
        let part = upload.put_part(PartNumber::FIRST, BODY).await.unwrap();
        faulty.fail(StoreOp::Complete, Fault::Before(StoreErrorKind::Timeout), 1);
        faulty.fail(
            StoreOp::Complete,
            Fault::Before(StoreErrorKind::NotFound),
            1,
        );
        let refused = upload.complete(&[part]).await;
        assert!(
            refused.is_err(),
            "the old object of the same size is not taken for the new one"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_listing_is_asked_for_again_before_its_first_answer() {
        let (memory, faulty, retry) = faulty();
        memory.insert("a", "");
        faulty.fail(StoreOp::List, Fault::Before(StoreErrorKind::RateLimited), 2);
        let page = crate::store::list_all(&retry, &Prefix::text(""), Depth::All)
            .await
            .unwrap();
        assert_eq!(page.objects.len(), 1);
    }
}
