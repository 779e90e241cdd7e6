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

/// Pieces kept ahead of the reader. Stores deliver at most 1 MiB at a time.
const PIECES_AHEAD: usize = 8;

/// An object as a blocking reader.
#[derive(Debug)]
pub struct DownloadReader {
    pieces: mpsc::Receiver<Result<Bytes, StoreError>>,
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
    let (sender, receiver) = mpsc::channel(PIECES_AHEAD);
    let failure = DownloadFailure::default();
    tokio::spawn(pump(download, sender, cancel.clone(), Arc::clone(reporter)));
    let reader = DownloadReader {
        pieces: receiver,
        current: Bytes::new(),
        failure: Arc::clone(&failure.0),
        done: false,
    };
    Ok((meta, reader, failure))
}

async fn pump(
    mut download: Download,
    pieces: mpsc::Sender<Result<Bytes, StoreError>>,
    cancel: CancellationToken,
    reporter: Arc<dyn Reporter>,
) {
    let mut missing = download.range.end - download.range.start;
    loop {
        let piece = tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            piece = download.body.next() => piece,
        };
        let piece = match piece {
            Some(Ok(bytes)) if bytes.is_empty() => continue,
            Some(Ok(bytes)) => {
                let Some(rest) = missing.checked_sub(bytes.len() as u64) else {
                    let _ = pieces.send(Err(wrong_length(&download.meta))).await;
                    return;
                };
                missing = rest;
                reporter.transferred(bytes.len() as u64);
                Ok(bytes)
            }
            Some(Err(error)) => Err(error),
            None if missing > 0 => Err(wrong_length(&download.meta)),
            None => break,
        };
        let failed = piece.is_err();
        if pieces.send(piece).await.is_err() || failed {
            return;
        }
    }
    // An empty piece says that the end was reached on purpose: a task that is
    // cancelled or dies closes the channel without it.
    let _ = pieces.send(Ok(Bytes::new())).await;
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
        if self.current.is_empty() {
            match self.pieces.blocking_recv() {
                Some(Ok(bytes)) if bytes.is_empty() => {
                    self.done = true;
                    return Ok(0);
                }
                Some(Ok(bytes)) => self.current = bytes,
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
