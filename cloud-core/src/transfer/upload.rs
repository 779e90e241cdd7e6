//! Uploads of archives: each in order, their parts side by side.
//!
//! An archive that does not fill one part becomes one `put`; anything larger is a
//! multipart upload whose parts share `--jobs` places with those of all other
//! archives. Every multipart upload that was begun is completed or aborted on
//! every way out that the process controls; one that could be neither is named
//! in the log (upholds B5).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::budget::PartBuffer;
use crate::key::Key;
use crate::report::{InFlight, Reporter};
use crate::store::{MultipartUpload, ObjectStore, PartNumber, PartReceipt, PutOptions, StoreError};

/// How long the clean-up of one upload may take: half of what a signal leaves
/// for everything (docs/decisions.md 11).
const ABORT_DEADLINE: Duration = Duration::from_secs(5);

/// Why moving bytes ended early.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file could not be read or written, or the bytes are wrong.
    #[error("{0}")]
    Files(String),
    /// Somebody asked to stop, or another part of the same work failed.
    #[error("interrupted")]
    Cancelled,
}

/// An archive that is whole in the store.
#[derive(Debug, Clone)]
pub struct ArchiveReceipt {
    /// Its name.
    pub key: Key,
    /// Its size in bytes.
    pub bytes: u64,
    /// When the first request for it was sent.
    pub began: Instant,
    /// When the store had acknowledged it.
    pub ended: Instant,
    /// Seconds spent in requests, added up over the parts.
    pub busy: Duration,
}

/// All archives of one base backup.
#[derive(Debug, Default)]
pub struct UploadReport {
    /// In the order in which they were begun.
    pub archives: Vec<ArchiveReceipt>,
}

/// Uploads archives. Clones share the places, the archives and the failure.
#[derive(Debug, Clone)]
pub struct Uploader {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: Arc<dyn ObjectStore>,
    options: PutOptions,
    places: Arc<Semaphore>,
    cancel: CancellationToken,
    reporter: Arc<dyn Reporter>,
    runtime: Handle,
    /// The first failure; later ones are often only its echo.
    failure: Mutex<Option<TransferError>>,
    archives: Mutex<Vec<JoinHandle<Option<ArchiveReceipt>>>>,
}

enum Message {
    Part(PartBuffer),
    End,
}

/// The parts of one archive as they come, until somebody asks to stop.
struct Incoming<'a> {
    parts: mpsc::Receiver<Message>,
    cancel: &'a CancellationToken,
}

impl Incoming<'_> {
    async fn next(&mut self) -> Result<Message, TransferError> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(TransferError::Cancelled),
            message = self.parts.recv() => message.ok_or(TransferError::Cancelled),
        }
    }
}

/// One archive being uploaded. Dropped without [`end`](Self::end), the upload
/// is aborted and nothing becomes visible.
#[derive(Debug)]
pub struct ArchiveUpload {
    parts: mpsc::Sender<Message>,
}

impl Uploader {
    /// Uploads with `in_flight` parts at the same time. `cancel` is set on the
    /// first failure, so that readers of files stop too. Must be called inside
    /// a runtime.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        options: PutOptions,
        in_flight: u32,
        cancel: CancellationToken,
        reporter: Arc<dyn Reporter>,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                store,
                options,
                places: Arc::new(Semaphore::new(in_flight.max(1) as usize)),
                cancel,
                reporter,
                runtime: Handle::current(),
                failure: Mutex::default(),
                archives: Mutex::default(),
            }),
        }
    }

    /// Begins an archive, whose object is stored with the fingerprint. Nothing is
    /// sent before its first part is full or it ends.
    pub fn begin(&self, key: Key, fingerprint: Option<String>) -> ArchiveUpload {
        // One part may wait while an earlier one looks for a place; more would
        // only be more memory.
        let (sender, receiver) = mpsc::channel(1);
        let shared = Arc::clone(&self.shared);
        shared.reporter.archive_begun(key.base_name());
        let task = self.shared.runtime.spawn(async move {
            let options = PutOptions {
                fingerprint,
                ..shared.options.clone()
            };
            match shared.upload(key, &options, receiver).await {
                Ok(receipt) => Some(receipt),
                Err(error) => {
                    shared.fail(error);
                    None
                }
            }
        });
        lock(&self.shared.archives).push(task);
        ArchiveUpload { parts: sender }
    }

    /// Records a failure and stops everything, unless something failed before.
    pub fn fail(&self, error: TransferError) {
        self.shared.fail(error);
    }

    /// Waits until every archive is whole in the store, or every upload is
    /// cleaned up, and reports the first failure.
    pub async fn finish(&self) -> Result<UploadReport, TransferError> {
        let mut report = UploadReport::default();
        let tasks = std::mem::take(&mut *lock(&self.shared.archives));
        for task in tasks {
            match task.await {
                Ok(Some(receipt)) => report.archives.push(receipt),
                Ok(None) => {}
                Err(_) => self.fail(TransferError::Files("an upload task ended early".into())),
            }
        }
        match lock(&self.shared.failure).take() {
            Some(error) => Err(error),
            None => Ok(report),
        }
    }
}

impl ArchiveUpload {
    /// Hands over the next part. Blocks while the one before waits for a place.
    pub fn send(&self, part: PartBuffer) -> Result<(), TransferError> {
        self.parts
            .blocking_send(Message::Part(part))
            .map_err(|_| TransferError::Cancelled)
    }

    /// Ends the archive: it becomes visible once all parts have arrived.
    pub fn end(self) -> Result<(), TransferError> {
        self.parts
            .blocking_send(Message::End)
            .map_err(|_| TransferError::Cancelled)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn fail(&self, error: TransferError) {
        let mut failure = lock(&self.failure);
        match &*failure {
            // What was stopped because of a failure is not the failure.
            None | Some(TransferError::Cancelled) => *failure = Some(error),
            Some(_) => {}
        }
        self.cancel.cancel();
    }

    async fn upload(
        &self,
        key: Key,
        options: &PutOptions,
        parts: mpsc::Receiver<Message>,
    ) -> Result<ArchiveReceipt, TransferError> {
        let mut incoming = Incoming {
            parts,
            cancel: &self.cancel,
        };
        let Message::Part(first) = incoming.next().await? else {
            return Err(TransferError::Files(format!(
                "archive `{key}` ended without a byte"
            )));
        };
        // A full part is sent at once. If it waited for what comes next, and parts are so
        // large that the budget has one of them, nothing would come.
        if first.is_full() {
            return self.multipart(key, options, first, &mut incoming).await;
        }
        match incoming.next().await? {
            Message::End => self.put(key, options, first).await,
            Message::Part(_) => Err(TransferError::Files(format!(
                "archive `{key}` goes on after a part that is not full"
            ))),
        }
    }

    async fn put(
        &self,
        key: Key,
        options: &PutOptions,
        body: PartBuffer,
    ) -> Result<ArchiveReceipt, TransferError> {
        let _place = self
            .places
            .acquire()
            .await
            .map_err(|_| TransferError::Cancelled)?;
        let bytes = body.len() as u64;
        let began = Instant::now();
        let _in_flight = InFlight::new(&self.reporter);
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => return Err(TransferError::Cancelled),
            receipt = self.store.put(&key, body.into_bytes().into(), options) => receipt?,
        };
        self.reporter.transferred(bytes);
        self.reporter.archive_done(key.base_name());
        let ended = Instant::now();
        Ok(ArchiveReceipt {
            key,
            bytes,
            began,
            ended,
            busy: ended - began,
        })
    }

    async fn multipart(
        &self,
        key: Key,
        options: &PutOptions,
        first: PartBuffer,
        incoming: &mut Incoming<'_>,
    ) -> Result<ArchiveReceipt, TransferError> {
        let began = Instant::now();
        let upload: Arc<dyn MultipartUpload> = {
            let mut begin = self.store.begin_multipart(&key, options);
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => {
                    abort_when_begun(begin, &key).await;
                    return Err(TransferError::Cancelled);
                }
                upload = &mut begin => upload?.into(),
            }
        };
        let mut sending = JoinSet::new();
        let outcome = self
            .send_parts(&upload, first, incoming, &mut sending)
            .await;
        let outcome = match outcome {
            Ok(sent) => tokio::select! {
                biased;
                () = self.cancel.cancelled() => Err(TransferError::Cancelled),
                done = upload.complete(&sent.receipts) => done.map(|_| sent).map_err(Into::into),
            },
            Err(error) => Err(error),
        };
        match outcome {
            Ok(sent) => {
                self.reporter.archive_done(key.base_name());
                let ended = Instant::now();
                Ok(ArchiveReceipt {
                    key,
                    bytes: sent.bytes,
                    began,
                    ended,
                    busy: sent.busy,
                })
            }
            Err(error) => {
                // Recorded first, so that everything else stops while this cleans up.
                self.fail(error);
                sending.shutdown().await;
                abort(upload.as_ref(), &key).await;
                Err(TransferError::Cancelled)
            }
        }
    }

    async fn send_parts(
        &self,
        upload: &Arc<dyn MultipartUpload>,
        first: PartBuffer,
        incoming: &mut Incoming<'_>,
        sending: &mut JoinSet<Result<(PartReceipt, Duration), StoreError>>,
    ) -> Result<Sent, TransferError> {
        let mut sent = Sent::default();
        let mut number = PartNumber::FIRST;
        let mut ahead = Some(first);
        loop {
            let part = if let Some(part) = ahead.take() {
                part
            } else {
                let message = loop {
                    tokio::select! {
                        biased;
                        Some(done) = sending.join_next() => sent.note(done, self)?,
                        message = incoming.next() => break message?,
                    }
                };
                match message {
                    Message::Part(part) => part,
                    Message::End => break,
                }
            };
            let place = loop {
                tokio::select! {
                    biased;
                    () = self.cancel.cancelled() => return Err(TransferError::Cancelled),
                    Some(done) = sending.join_next() => sent.note(done, self)?,
                    place = Arc::clone(&self.places).acquire_owned() => {
                        break place.map_err(|_| TransferError::Cancelled)?;
                    }
                }
            };
            let upload = Arc::clone(upload);
            let in_flight = InFlight::new(&self.reporter);
            sending.spawn(async move {
                let _in_flight = in_flight;
                let began = Instant::now();
                let receipt = upload.put_part(number, part.into_bytes()).await?;
                drop(place);
                Ok((receipt, began.elapsed()))
            });
            number = number
                .get()
                .checked_add(1)
                .and_then(PartNumber::new)
                .ok_or_else(|| TransferError::Files("an archive has too many parts".into()))?;
        }
        loop {
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => return Err(TransferError::Cancelled),
                done = sending.join_next() => match done {
                    Some(done) => sent.note(done, self)?,
                    None => break,
                },
            }
        }
        sent.receipts.sort_by_key(|receipt| receipt.number);
        Ok(sent)
    }
}

#[derive(Debug, Default)]
struct Sent {
    receipts: Vec<PartReceipt>,
    bytes: u64,
    busy: Duration,
}

impl Sent {
    fn note(
        &mut self,
        done: Result<Result<(PartReceipt, Duration), StoreError>, tokio::task::JoinError>,
        shared: &Shared,
    ) -> Result<(), TransferError> {
        let (receipt, busy) =
            done.map_err(|_| TransferError::Files("an upload task ended early".into()))??;
        shared.reporter.transferred(receipt.size);
        self.bytes += receipt.size;
        self.busy += busy;
        self.receipts.push(receipt);
        Ok(())
    }
}

/// Cleans up after a request to begin an upload that is under way: only its answer
/// has the name by which the upload can be aborted.
async fn abort_when_begun(
    begin: impl Future<Output = Result<Box<dyn MultipartUpload>, StoreError>>,
    key: &Key,
) {
    let clean_up = async {
        // Where it was refused there is nothing to be done.
        if let Ok(upload) = begin.await {
            abort(upload.as_ref(), key).await;
        }
    };
    let done = tokio::time::timeout(ABORT_DEADLINE, clean_up).await;
    if done.is_err() {
        tracing::error!(
            "the store did not say in time whether an upload of `{key}` was begun; it may \
             stay in the store, without parts"
        );
    }
}

async fn abort(upload: &dyn MultipartUpload, key: &Key) {
    match tokio::time::timeout(ABORT_DEADLINE, upload.abort()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(
            "the unfinished upload of `{key}` could not be aborted and its parts stay in the \
             store: {error}"
        ),
        Err(_) => tracing::error!(
            "the unfinished upload of `{key}` could not be aborted in time and its parts stay in \
             the store"
        ),
    }
}
