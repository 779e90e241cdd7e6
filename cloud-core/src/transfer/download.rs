//! Downloads with read-ahead, for readers that block.
//!
//! Tasks read the object and keep a bounded number of bytes ahead; decoder
//! and tar reader take them on a thread of their own. The end of the object is
//! an end only if as many bytes arrived as the store had promised.
//!
//! A large object is read in ranges, several at once, each pinned to the version
//! that the first one was of. All downloads of a [`Downloads`] share its requests and
//! its bytes. No reader waits for another one: each download has room for one range of its
//! own, and ranges are asked for in their order.

use std::io::{self, BufRead, Read};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::key::Key;
use crate::report::{InFlight, Reporter};
use crate::store::{
    Download, ObjectMeta, ObjectStore, ReadRange, Result, StoreError, StoreErrorKind, StoreOp,
};

/// Bytes that are handed to the reader at a time, if the object does not end before: each
/// time may cost as much as waking a thread.
const HANDFUL: usize = 256 << 10;

/// How many handfuls are kept ahead of the reader of an object that is read as one. Stores
/// deliver at most 1 MiB at a time, so that one has less than 1¼ MiB.
const HANDFULS_AHEAD: usize = 4;

/// Objects up to this size are read by one request: then the store's checksum of the whole
/// is compared.
const WHOLE: u64 = 16 << 20;

/// All handfuls of a range, and its end: its bytes are bounded already.
const HANDFULS_OF_A_RANGE: usize = 32;

/// How much of an object is asked for at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stride {
    /// 4 MiB: large enough for the request not to count, small enough for several of them
    /// in memory.
    Long,
    /// 1 MiB, for a reader that takes some 10 MB in a second and itself needs memory: all
    /// that may be ahead of it is.
    Short,
}

impl Stride {
    fn bytes(self) -> u64 {
        match self {
            Self::Long => 4 << 20,
            Self::Short => 1 << 20,
        }
    }
}

/// Pieces in their order. None at all are the end, which so was reached on purpose: a
/// task that is cancelled or dies closes the channel without them.
type Handful = Result<Vec<Bytes>>;

/// An object as a blocking reader.
#[derive(Debug)]
pub struct DownloadReader {
    ranges: mpsc::UnboundedReceiver<Body>,
    body: Option<Body>,
    current: Bytes,
    /// Bytes that were not read yet.
    missing: u64,
    taken: Arc<AtomicU64>,
    failure: DownloadFailure,
    done: bool,
}

/// The bytes of a range, on their way.
#[derive(Debug)]
struct Body {
    handfuls: mpsc::Receiver<Handful>,
    /// What is left of the last one.
    pieces: std::vec::IntoIter<Bytes>,
    /// Given back when the range was read.
    _held: Option<OwnedSemaphorePermit>,
}

/// The store's own error, if that is why a [`DownloadReader`] failed.
#[derive(Debug, Clone, Default)]
pub struct DownloadFailure(Arc<Mutex<Option<StoreError>>>);

impl DownloadFailure {
    /// Takes the error out.
    pub fn take(&self) -> Option<StoreError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn note(&self, error: StoreError) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }
}

/// Begins to read `key`, by one request.
pub async fn open_download(
    store: &Arc<dyn ObjectStore>,
    key: &Key,
    cancel: &CancellationToken,
    reporter: &Arc<dyn Reporter>,
) -> Result<(ObjectMeta, DownloadReader, DownloadFailure)> {
    let download = store.get(key, &ReadRange::all()).await?;
    let meta = download.meta.clone();
    let missing = download.range.end - download.range.start;
    let (sender, ranges) = mpsc::unbounded_channel();
    let (body, pieces) = Body::new(HANDFULS_AHEAD, None);
    let (reader, failure) = DownloadReader::new(ranges, missing);
    // The reader is still here.
    let _ = sender.send(body);
    tokio::spawn(pump(download, pieces, cancel.clone(), Arc::clone(reporter)));
    Ok((meta, reader, failure))
}

/// Downloads side by side that share requests and bytes.
#[derive(Debug, Clone)]
pub struct Downloads {
    store: Arc<dyn ObjectStore>,
    reporter: Arc<dyn Reporter>,
    jobs: u32,
    requests: Arc<Semaphore>,
    /// One for each range that may be in memory, beside one for each download.
    room: Arc<Semaphore>,
}

impl Downloads {
    /// `jobs` requests at the same time, over all downloads. So many ranges of 4 MiB at most
    /// are in memory, and one more for each download.
    pub fn new(store: Arc<dyn ObjectStore>, jobs: u32, reporter: Arc<dyn Reporter>) -> Self {
        let count = usize::try_from(jobs).unwrap_or(Semaphore::MAX_PERMITS);
        let permits = || Arc::new(Semaphore::new(count.clamp(1, Semaphore::MAX_PERMITS)));
        Self {
            store,
            reporter,
            jobs,
            requests: permits(),
            room: permits(),
        }
    }

    /// Begins to read `key`, which is expected to have `size` bytes.
    ///
    /// # Errors
    ///
    /// As [`ObjectStore::get`]. That the object was replaced or deleted meanwhile is `Corrupt`, and
    /// comes through the reader.
    pub async fn open(
        &self,
        key: &Key,
        size: u64,
        stride: Stride,
        cancel: &CancellationToken,
    ) -> Result<(ObjectMeta, DownloadReader, DownloadFailure)> {
        if self.jobs < 2 || size <= WHOLE {
            return open_download(&self.store, key, cancel, &self.reporter).await;
        }
        let own = Arc::new(Semaphore::new(1));
        let held = (acquire(&own).await, acquire(&self.requests).await);
        let first = ReadRange {
            start: 0,
            end: Some(stride.bytes()),
            version: None,
        };
        let download = self.store.get(key, &first).await?;
        let meta = download.meta.clone();
        if meta.version.is_none() {
            // Nothing could tell that two ranges are of one object.
            drop((download, held));
            return open_download(&self.store, key, cancel, &self.reporter).await;
        }
        let (sender, ranges) = mpsc::unbounded_channel();
        let (reader, failure) = DownloadReader::new(ranges, meta.size);
        let (held, request) = held;
        let (body, pieces) = Body::new(HANDFULS_OF_A_RANGE, held);
        let (this, cancel) = (self.clone(), cancel.clone());
        // The reader is still here.
        let _ = sender.send(body);
        let (whole, reporter) = (meta.clone(), Arc::clone(&self.reporter));
        tokio::spawn(async move {
            let stop = cancel.clone();
            tokio::spawn(async move {
                pump(download, pieces, stop, reporter).await;
                drop(request);
            });
            tokio::select! {
                biased;
                () = cancel.cancelled() => {}
                () = sender.closed() => {}
                () = this.ask_on(&whole, stride, &own, &sender, &cancel) => {}
            }
        });
        Ok((meta, reader, failure))
    }

    /// Asks for one range after the other behind the first, as soon as there is room.
    async fn ask_on(
        &self,
        meta: &ObjectMeta,
        stride: Stride,
        own: &Arc<Semaphore>,
        ranges: &mpsc::UnboundedSender<Body>,
        cancel: &CancellationToken,
    ) {
        let mut start = stride.bytes();
        while start < meta.size {
            let range = start..meta.size.min(start + stride.bytes());
            start = range.end;
            let room = tokio::select! {
                biased;
                room = acquire(own) => room,
                room = acquire(&self.room) => room,
            };
            // In order: a range that is waited for is never behind one that is not.
            let request = acquire(&self.requests).await;
            let (body, pieces) = Body::new(HANDFULS_OF_A_RANGE, room);
            if ranges.send(body).is_err() {
                return;
            }
            let (this, meta, cancel) = (self.clone(), meta.clone(), cancel.clone());
            tokio::spawn(async move {
                this.fetch(meta, range, pieces, cancel).await;
                drop(request);
            });
        }
    }

    async fn fetch(
        self,
        meta: ObjectMeta,
        range: Range<u64>,
        handfuls: mpsc::Sender<Handful>,
        cancel: CancellationToken,
    ) {
        let pinned = ReadRange {
            start: range.start,
            end: Some(range.end),
            version: meta.version.clone(),
        };
        let got = tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            () = handfuls.closed() => return,
            got = self.store.get(&meta.key, &pinned) => got,
        };
        let same = |got: &Download| {
            got.range == range && got.meta.size == meta.size && got.meta.version == meta.version
        };
        let error = match got {
            Ok(download) if same(&download) => {
                return pump(download, handfuls, cancel, self.reporter).await;
            }
            Ok(_) => corrupt(&meta, "the object was replaced while it was read"),
            // Absence, for who began to read, is not the answer.
            Err(error) if error.kind == StoreErrorKind::NotFound => {
                corrupt(&meta, "the object was deleted while it was read")
            }
            Err(error) => error,
        };
        let _ = handfuls.send(Err(error)).await;
    }
}

impl Body {
    fn new(
        ahead: usize,
        held: impl Into<Option<OwnedSemaphorePermit>>,
    ) -> (Self, mpsc::Sender<Handful>) {
        let (sender, handfuls) = mpsc::channel(ahead);
        let body = Self {
            handfuls,
            pieces: Vec::new().into_iter(),
            _held: held.into(),
        };
        (body, sender)
    }
}

async fn acquire(permits: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    let permit = Arc::clone(permits).acquire_owned().await;
    permit.expect("these semaphores are never closed")
}

/// Hands on what a download delivers.
async fn pump(
    mut download: Download,
    handfuls: mpsc::Sender<Handful>,
    cancel: CancellationToken,
    reporter: Arc<dyn Reporter>,
) {
    let _in_flight = InFlight::new(&reporter);
    let mut missing = download.range.end - download.range.start;
    let (mut pieces, mut held) = (Vec::new(), 0);
    let end = loop {
        let piece = tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            () = handfuls.closed() => return,
            piece = download.body.next() => piece,
        };
        match piece {
            Some(Ok(bytes)) if bytes.is_empty() => {}
            Some(Ok(bytes)) => {
                let Some(rest) = missing.checked_sub(bytes.len() as u64) else {
                    break Err(wrong_length(&download.meta));
                };
                missing = rest;
                reporter.transferred(bytes.len() as u64);
                held += bytes.len();
                pieces.push(bytes);
            }
            Some(Err(error)) => break Err(error),
            None if missing > 0 => break Err(wrong_length(&download.meta)),
            None => break Ok(Vec::new()),
        }
        if held >= HANDFUL {
            held = 0;
            if handfuls
                .send(Ok(std::mem::take(&mut pieces)))
                .await
                .is_err()
            {
                return;
            }
        }
    };
    if pieces.is_empty() || handfuls.send(Ok(pieces)).await.is_ok() {
        let _ = handfuls.send(end).await;
    }
}

fn wrong_length(meta: &ObjectMeta) -> StoreError {
    let size = meta.size;
    corrupt(
        meta,
        format!("it delivered another number of bytes than the {size} it named"),
    )
}

fn corrupt(meta: &ObjectMeta, why: impl Into<String>) -> StoreError {
    StoreError {
        kind: StoreErrorKind::Corrupt,
        op: StoreOp::Get,
        what: meta.key.to_string(),
        location: "the store".into(),
        attempts: 1,
        source: why.into().into(),
    }
}

impl DownloadReader {
    fn new(ranges: mpsc::UnboundedReceiver<Body>, missing: u64) -> (Self, DownloadFailure) {
        let failure = DownloadFailure::default();
        let reader = Self {
            ranges,
            body: None,
            current: Bytes::new(),
            missing,
            taken: Arc::default(),
            failure: failure.clone(),
            done: false,
        };
        (reader, failure)
    }

    /// Bytes that were read so far, for who has not got the reader any more.
    pub fn taken(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.taken)
    }

    /// Waits for the next piece; at the end there is none.
    fn advance(&mut self) -> io::Result<()> {
        // Not `ErrorKind::Interrupted`: readers answer that with another try.
        let stopped = || io::Error::other("the download was stopped");
        while self.current.is_empty() && !self.done {
            let body = match self.body.take() {
                Some(body) => body,
                None => self.ranges.blocking_recv().ok_or_else(stopped)?,
            };
            let body = self.body.insert(body);
            if let Some(bytes) = body.pieces.next() {
                self.missing = self.missing.saturating_sub(bytes.len() as u64);
                self.taken.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                self.current = bytes;
                continue;
            }
            match body.handfuls.blocking_recv().ok_or_else(stopped)? {
                Ok(pieces) if pieces.is_empty() => {
                    self.body = None;
                    self.done = self.missing == 0;
                }
                Ok(pieces) => body.pieces = pieces.into_iter(),
                Err(error) => {
                    let text = error.to_string();
                    self.failure.note(error);
                    return Err(io::Error::other(text));
                }
            }
        }
        Ok(())
    }
}

impl BufRead for DownloadReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.advance()?;
        Ok(&self.current)
    }

    fn consume(&mut self, count: usize) {
        self.current.advance(count);
    }
}

impl Read for DownloadReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        self.advance()?;
        let count = buf.len().min(self.current.len());
        self.current.copy_to_slice(&mut buf[..count]);
        Ok(count)
    }
}
