//! Downloads with read-ahead, for readers that block.
//!
//! A task reads the object and keeps a bounded number of bytes ahead; decoder
//! and tar reader take them on a thread of their own. The end of the object is
//! an end only if as many bytes arrived as the store had promised.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::key::Key;
use crate::report::Reporter;
use crate::store::{
    Download, ObjectMeta, ObjectStore, ReadRange, StoreError, StoreErrorKind, StoreOp,
};

/// Bytes that are handed to the reader at a time, if it does not have to wait for them:
/// each time may cost as much as waking a thread.
const HANDFUL: usize = 256 << 10;

/// How many handfuls are kept ahead of the reader. Stores deliver at most 1 MiB at a time,
/// so that one has less than 1¼ MiB.
const HANDFULS_AHEAD: usize = 4;

/// Pieces in their order. An empty one says that the end was reached on purpose: a task
/// that is cancelled or dies closes the channel without it.
type Handful = Result<Vec<Bytes>, StoreError>;

/// An object as a blocking reader.
#[derive(Debug)]
pub struct DownloadReader {
    handfuls: mpsc::Receiver<Handful>,
    pieces: std::vec::IntoIter<Bytes>,
    current: Bytes,
    failure: Arc<Mutex<Option<StoreError>>>,
    done: bool,
}

/// The store's own error, if that is why a [`DownloadReader`] failed.
#[derive(Debug, Clone, Default)]
pub struct DownloadFailure(Arc<Mutex<Option<StoreError>>>);

impl DownloadFailure {
    /// Takes the error out.
    pub fn take(&self) -> Option<StoreError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Begins to read `key`.
pub async fn open_download(
    store: &Arc<dyn ObjectStore>,
    key: &Key,
    cancel: &CancellationToken,
    reporter: &Arc<dyn Reporter>,
) -> Result<(ObjectMeta, DownloadReader, DownloadFailure), StoreError> {
    let download = store.get(key, &ReadRange::all()).await?;
    let meta = download.meta.clone();
    let (sender, receiver) = mpsc::channel(HANDFULS_AHEAD);
    let failure = DownloadFailure::default();
    tokio::spawn(pump(download, sender, cancel.clone(), Arc::clone(reporter)));
    let reader = DownloadReader {
        handfuls: receiver,
        pieces: Vec::new().into_iter(),
        current: Bytes::new(),
        failure: Arc::clone(&failure.0),
        done: false,
    };
    Ok((meta, reader, failure))
}

async fn pump(
    mut download: Download,
    handfuls: mpsc::Sender<Handful>,
    cancel: CancellationToken,
    reporter: Arc<dyn Reporter>,
) {
    let mut missing = download.range.end - download.range.start;
    let (mut pieces, mut held) = (Vec::new(), 0);
    let failure = loop {
        let piece = tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            piece = download.body.next() => piece,
        };
        match piece {
            Some(Ok(bytes)) => {
                let Some(rest) = missing.checked_sub(bytes.len() as u64) else {
                    break Some(wrong_length(&download.meta));
                };
                missing = rest;
                reporter.transferred(bytes.len() as u64);
                held += bytes.len();
                if !bytes.is_empty() {
                    pieces.push(bytes);
                }
            }
            Some(Err(error)) => break Some(error),
            None if missing > 0 => break Some(wrong_length(&download.meta)),
            None => break None,
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
    // What came before a failure is of no use, but for telling what it is of.
    if !pieces.is_empty() && handfuls.send(Ok(pieces)).await.is_err() {
        return;
    }
    let _ = handfuls
        .send(failure.map_or_else(|| Ok(Vec::new()), Err))
        .await;
}

fn wrong_length(meta: &ObjectMeta) -> StoreError {
    StoreError {
        kind: StoreErrorKind::Corrupt,
        op: StoreOp::Get,
        what: meta.key.to_string(),
        location: "the store".into(),
        attempts: 1,
        source: format!(
            "it delivered another number of bytes than the {} it named",
            meta.size
        )
        .into(),
    }
}

impl Read for DownloadReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.done || buf.is_empty() {
            return Ok(0);
        }
        while self.current.is_empty() {
            if let Some(piece) = self.pieces.next() {
                self.current = piece;
                continue;
            }
            match self.handfuls.blocking_recv() {
                Some(Ok(pieces)) if pieces.is_empty() => {
                    self.done = true;
                    return Ok(0);
                }
                Some(Ok(pieces)) => self.pieces = pieces.into_iter(),
                Some(Err(error)) => {
                    let text = error.to_string();
                    *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    return Err(io::Error::other(text));
                }
                // Not `ErrorKind::Interrupted`: readers answer that with another try.
                None => return Err(io::Error::other("the download was stopped")),
            }
        }
        let count = buf.len().min(self.current.len());
        self.current.copy_to_slice(&mut buf[..count]);
        Ok(count)
    }
}
