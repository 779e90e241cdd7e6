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
//!
//! A store that has never answered in this run is given up sooner: then the
//! address is more likely wrong than the network. Whoever waits is told, once a
//! minute, what for.
//!
//! A future that is dropped tries no more: that is how a signal ends retries.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use tokio::time::Instant;

use super::{
    BucketState, DeleteReport, Depth, Download, ListPage, LockCheck, MultipartUpload, ObjectMeta,
    ObjectStore, Payload, PutMode, PutOptions, PutReceipt, ReadRange, Result, StoreError,
    StoreErrorKind, StoreInfo, UnfinishedUpload, count_retry, get_all,
};
use crate::key::{Key, Prefix};

mod download;
mod listing;
mod upload;

/// First pause, before jitter.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Longest pause, before jitter.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Most patience with a store that has not answered once.
const FIRST_CONTACT: Duration = Duration::from_mins(1);

/// Trouble that is over sooner is nobody's business.
const SILENT: Duration = Duration::from_secs(5);

/// Between two warnings about the same trouble.
const WARN_EVERY: Duration = Duration::from_mins(1);

/// How long to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// No attempt begins after so much time was lost to failures and pauses.
    total: Duration,
    /// Whether that is the time of all requests of the run together.
    per_run: bool,
}

impl RetryPolicy {
    /// No request is begun again later than `total` after it first failed. How long
    /// the attempt took that failed then does not count: a large part may have been on
    /// its way for longer, with progress all the time.
    pub const fn per_request(total: Duration) -> Self {
        Self {
            total,
            per_run: false,
        }
    }

    /// All requests together lose no more than `total` to attempts that fail and
    /// the pauses after them. For work that somebody waits for as a whole. What
    /// requests lose side by side is lost once.
    pub const fn per_run(total: Duration) -> Self {
        Self {
            total,
            per_run: true,
        }
    }
}

/// A store whose transient failures are tried again.
#[derive(Debug, Clone)]
pub struct Retry {
    inner: Arc<dyn ObjectStore>,
    policy: RetryPolicy,
    contact: Arc<Contact>,
}

/// What is known of the store, by all that is done with it.
#[derive(Debug, Default)]
struct Contact {
    /// Whether it has answered in this run, if only to refuse.
    met: AtomicBool,
    lost: Mutex<Lost>,
    warned: Mutex<Option<Instant>>,
}

/// Time spent on attempts that failed, and on pauses.
#[derive(Debug, Default)]
struct Lost {
    total: Duration,
    /// Up to when it was counted.
    until: Option<Instant>,
}

impl Contact {
    fn meet(&self) {
        self.met.store(true, Ordering::Relaxed);
    }

    /// Adds the time since `from` to what was lost, and gives all of it. What another
    /// request lost at the same time counts once.
    fn lose_since(&self, from: Instant) -> Duration {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let from = lost.until.map_or(from, |until| until.max(from));
        lost.total += now.saturating_duration_since(from);
        lost.until = Some(now);
        lost.total
    }

    fn warn(&self, error: &StoreError, left: Duration) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.is_none_or(|last| last.elapsed() >= WARN_EVERY) {
            *warned = Some(Instant::now());
            let (seconds, why) = (left.as_secs(), &error.source);
            tracing::warn!("{error}: {why}; trying again for up to {seconds} s");
        }
    }
}

impl Retry {
    /// Tries again what fails in `inner`.
    pub fn new(inner: Arc<dyn ObjectStore>, policy: RetryPolicy) -> Self {
        Self {
            inner,
            policy,
            contact: Arc::default(),
        }
    }

    async fn run<T, F: Future<Output = Result<T>>>(
        &self,
        mut call: impl FnMut() -> F,
    ) -> Result<T> {
        let mut patience = self.patience();
        loop {
            match call().await {
                Ok(value) => {
                    self.contact.meet();
                    return Ok(value);
                }
                Err(error) => patience.after(error).await?,
            }
        }
    }
}

impl Retry {
    fn patience(&self) -> Patience {
        Patience::new(self.policy, Arc::clone(&self.contact))
    }
}

/// Decides whether there is another attempt, and waits for it.
#[derive(Debug)]
struct Patience {
    policy: RetryPolicy,
    contact: Arc<Contact>,
    /// When it first failed.
    failed: Option<Instant>,
    /// When the present attempt began.
    attempted: Instant,
    /// Time spent on its own attempts that failed, and on pauses.
    lost: Duration,
    attempts: u32,
    pause: Duration,
    first: Option<StoreError>,
}

impl Patience {
    fn new(policy: RetryPolicy, contact: Arc<Contact>) -> Self {
        let now = Instant::now();
        Self {
            policy,
            contact,
            failed: None,
            attempted: now,
            lost: Duration::ZERO,
            attempts: 0,
            pause: FIRST_PAUSE,
            first: None,
        }
    }

    /// Waits before the next attempt, or returns the error to report.
    async fn after(&mut self, error: StoreError) -> Result<()> {
        self.attempts += 1;
        let unheard = matches!(
            error.kind,
            StoreErrorKind::Connect | StoreErrorKind::Timeout
        );
        if !unheard {
            self.contact.meet();
        }
        let total = if self.contact.met.load(Ordering::Relaxed) {
            self.policy.total
        } else {
            self.policy.total.min(FIRST_CONTACT)
        };
        let pause = self.pause.mul_f64(0.5 + fastrand::f64());
        self.lost += self.attempted.elapsed();
        let lost = self.contact.lose_since(self.attempted);
        let elapsed = if self.policy.per_run {
            // A long attempt may have been counted in part, for shorter ones beside it.
            lost.max(self.lost)
        } else {
            self.failed.get_or_insert_with(Instant::now).elapsed()
        };
        let late = elapsed + pause > total;
        if !error.kind.is_transient() || late {
            return Err(self.give_up(error));
        }
        tracing::debug!(
            "attempt {} failed, trying again: {error}: {}",
            self.attempts,
            error.source
        );
        if elapsed >= SILENT {
            self.contact.warn(&error, total.saturating_sub(elapsed));
        }
        self.first.get_or_insert(error);
        count_retry();
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        let paused = Instant::now();
        tokio::time::sleep(pause).await;
        self.lost += paused.elapsed();
        self.contact.lose_since(paused);
        self.attempted = Instant::now();
        Ok(())
    }

    /// The first failure, after `after` was told of one.
    fn take_first(&mut self) -> StoreError {
        let first = self.first.take().expect("a failure was noted");
        self.give_up(first)
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

    async fn put(&self, key: &Key, body: Payload, options: &PutOptions) -> Result<PutReceipt> {
        let mut patience = self.patience();
        let mut unknown = false;
        loop {
            match self.inner.put(key, body.clone(), options).await {
                Ok(receipt) => {
                    self.contact.meet();
                    return Ok(receipt);
                }
                Err(error) if error.kind == StoreErrorKind::AlreadyExists && unknown => {
                    // Perhaps our own first attempt, whose answer was lost.
                    let stored = self
                        .run(|| get_all(self.inner.as_ref(), key, body.size()))
                        .await;
                    return match stored {
                        Ok((meta, stored)) if matches!(body.is(&stored), Ok(true)) => {
                            Ok(PutReceipt {
                                version: meta.version,
                            })
                        }
                        _ => Err(error),
                    };
                }
                Err(error) => {
                    unknown |= options.mode != PutMode::Overwrite;
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
        Ok(Box::new(upload::begin(self, key, options).await?))
    }

    async fn get(&self, key: &Key, range: &ReadRange) -> Result<Download> {
        let download = self.run(|| self.inner.get(key, range)).await?;
        Ok(download::resuming(self.clone(), download))
    }

    async fn head(&self, key: &Key, lock: LockCheck) -> Result<ObjectMeta> {
        self.run(|| self.inner.head(key, lock)).await
    }

    fn list(&self, prefix: &Prefix, depth: Depth) -> BoxStream<'static, Result<ListPage>> {
        let prefix = prefix.clone();
        listing::pages(self.clone(), move |inner| inner.list(&prefix, depth))
    }

    async fn delete_batch(&self, keys: &[Key]) -> Result<DeleteReport> {
        let mut report = DeleteReport::default();
        let mut keys = keys.to_vec();
        let mut patience = self.patience();
        loop {
            let done = match self.inner.delete_batch(&keys).await {
                Ok(done) => done,
                Err(error) => {
                    patience.after(error).await?;
                    continue;
                }
            };
            report.deleted.extend(done.deleted);
            let (again, refused): (Vec<_>, Vec<_>) = done
                .failed
                .into_iter()
                .partition(|(_, error)| error.kind.is_transient());
            report.failed.extend(refused);
            keys = again.iter().map(|(key, _)| key.clone()).collect();
            let mut again = again.into_iter();
            let Some((key, error)) = again.next() else {
                return Ok(report);
            };
            if let Err(error) = patience.after(error).await {
                report.failed.push((key, error));
                report.failed.extend(again);
                return Ok(report);
            }
        }
    }

    fn list_uploads(&self, prefix: &Prefix) -> BoxStream<'static, Result<Vec<UnfinishedUpload>>> {
        let prefix = prefix.clone();
        listing::pages(self.clone(), move |inner| inner.list_uploads(&prefix))
    }

    async fn abort_upload(&self, upload: &UnfinishedUpload) -> Result<()> {
        self.run(|| self.inner.abort_upload(upload)).await
    }
}

#[cfg(test)]
mod tests;
