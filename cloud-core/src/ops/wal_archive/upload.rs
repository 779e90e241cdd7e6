//! One WAL file on its way to the store: one `put` in the ordinary case.
//!
//! A thread compresses, the store gets the result when it is whole and the file
//! is known not to have changed. A file too large for one request, or for
//! memory, goes in parts, and becomes visible only at the end like any other.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::super::chain;
use super::super::wal_object::join;
use super::local::{LocalError, LocalFile};
use super::queue::Sending;
use super::share::Share;
use crate::codec::{Codec, Level, Whole};
use crate::key::Key;
use crate::store::{
    Limits, MultipartUpload, ObjectStore, PartNumber, PartReceipt, Payload, PutOptions, StoreError,
};
use crate::transfer::DEFAULT_PART;

/// Largest body sent in one request, in bytes, if the store allows it.
///
/// Bounds the memory; the reference sends up to 100 MB at once.
const MAX_SINGLE: u64 = 96 << 20;

/// Largest file held in memory as a whole, in bytes, to be compressed faster. Enough for
/// segments of the usual size; a memory of twice as much takes larger ones as well.
pub(super) const WHOLE: u64 = 32 << 20;

/// Half of what a signal leaves for cleaning up (docs/decisions.md 11).
const ABORT_DEADLINE: Duration = Duration::from_secs(5);

/// Why the file is not in the archive.
#[derive(Debug)]
pub(super) enum UploadError {
    Local(LocalError),
    Store(StoreError),
    Interrupted,
}

/// What to send, and as what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Upload<'a> {
    pub(super) store: &'a dyn ObjectStore,
    pub(super) key: &'a Key,
    pub(super) local: &'a Arc<LocalFile>,
    pub(super) codec: &'static dyn Codec,
    pub(super) level: Level,
    /// Parts on their way at the same time, where the file goes in parts.
    pub(super) at_once: usize,
    pub(super) cancel: &'a CancellationToken,
    /// What the file may take, where several are under way.
    pub(super) share: Option<&'a Share>,
    /// Hears when the store is asked, of the requested file.
    pub(super) sending: Option<&'a Sending>,
}

impl Upload<'_> {
    /// Sends the file; `Ok` only after the store acknowledged it (W1).
    pub(super) async fn run(self, options: &PutOptions) -> Result<(), UploadError> {
        let sizes = Sizes::of(self.store.info().limits);
        if let Some(whole) = self.as_a_whole(sizes.single) {
            return self.send_whole(whole, options).await;
        }
        let (sender, mut messages) = mpsc::channel(1);
        let (local, codec, level) = (Arc::clone(self.local), self.codec, self.level);
        let cancel = self.cancel.clone();
        let encoder = spawn_blocking(move || {
            let pieces = Pieces {
                buffer: BytesMut::with_capacity(sizes.expected(codec, local.size())),
                limit: sizes.first,
                part: sizes.part,
                sender: sender.clone(),
            };
            local.encode(codec, level, &cancel, Box::new(pieces))?;
            // Reached only if the file was read whole and did not change.
            let _ = sender.blocking_send(Message::End);
            Ok(())
        });
        let sent = self.send(&mut messages, sizes, options).await;
        // Ends an encoder whose bytes nobody wants any more.
        drop(messages);
        let encoded = join(encoder).await;
        match sent {
            Err(Failure::NoEnd) => Err(encoded
                .err()
                .map_or(UploadError::Interrupted, UploadError::Local)),
            Err(Failure::Store(error)) => Err(UploadError::Store(error)),
            Err(Failure::Interrupted) => Err(UploadError::Interrupted),
            Ok(()) => Ok(()),
        }
    }

    /// How the file goes, where it need not go through an encoder piece by piece.
    fn as_a_whole(&self, single: u64) -> Option<AsAWhole> {
        let size = self.local.size();
        if self.codec.info().suffix.is_empty() {
            return (size <= single).then_some(AsAWhole::FromTheFile);
        }
        let whole = self.codec.whole().filter(|_| size <= WHOLE)?;
        let most = (whole.bound)(usize::try_from(size).ok()?);
        (most as u64 <= single).then_some(AsAWhole::Compressed(whole))
    }

    async fn send_whole(&self, how: AsAWhole, options: &PutOptions) -> Result<(), UploadError> {
        let (local, cancel, level) = (Arc::clone(self.local), self.cancel.clone(), self.level);
        let sha256 = self.store.info().abilities.wants_sha256;
        let made = spawn_blocking(move || match how {
            AsAWhole::FromTheFile => local.payload(sha256, &cancel),
            AsAWhole::Compressed(whole) => local.compress(whole, level, &cancel).map(Payload::from),
        });
        let payload = join(made).await.map_err(|error| {
            if self.cancel.is_cancelled() {
                UploadError::Interrupted
            } else {
                UploadError::Local(error)
            }
        })?;
        if let Some(share) = self.share {
            share.encoded(payload.in_memory().map_or(0, Bytes::len));
        }
        if let Some(sending) = self.sending {
            sending.ask();
        }
        let put = self.store.put(self.key, payload.clone(), options);
        match self.unless_cancelled(put).await {
            Ok(_) => Ok(()),
            Err(Failure::Store(_)) if payload.has_changed() => {
                Err(UploadError::Local(self.local.changed()))
            }
            Err(Failure::Store(error)) => Err(match payload.unread() {
                Some(error) => UploadError::Local(self.local.failed(error)),
                None => UploadError::Store(error),
            }),
            Err(Failure::Interrupted | Failure::NoEnd) => Err(UploadError::Interrupted),
        }
    }

    async fn send(
        &self,
        messages: &mut mpsc::Receiver<Message>,
        sizes: Sizes,
        options: &PutOptions,
    ) -> Result<(), Failure> {
        let mut body = BytesMut::new();
        let mut ended = false;
        while !ended && body.len() <= sizes.first {
            match self.next(messages).await? {
                Message::Piece(bytes) if body.is_empty() => body = BytesMut::from(bytes),
                Message::Piece(bytes) => body.extend_from_slice(&bytes),
                Message::End => ended = true,
            }
        }
        if let Some(share) = self.share.filter(|_| ended) {
            share.encoded(body.len());
        }
        if let Some(sending) = self.sending {
            sending.ask();
        }
        if ended && body.len() as u64 <= self.store.info().limits.max_put {
            let put = self.store.put(self.key, body.freeze().into(), options);
            return self.unless_cancelled(put).await.map(drop);
        }
        let begun = self.store.begin_multipart(self.key, options);
        let upload = self.unless_cancelled(begun).await?;
        let sent = self
            .send_parts(&*upload, body, ended, messages, sizes)
            .await;
        if sent.is_err() {
            self.abort(&*upload).await;
        }
        sent
    }

    async fn send_parts(
        &self,
        upload: &dyn MultipartUpload,
        mut waiting: BytesMut,
        mut ended: bool,
        messages: &mut mpsc::Receiver<Message>,
        sizes: Sizes,
    ) -> Result<(), Failure> {
        let mut receipts: Vec<PartReceipt> = Vec::new();
        let mut sending = FuturesUnordered::new();
        let mut number = PartNumber::FIRST;
        loop {
            while !ended && waiting.len() <= sizes.part {
                match self.next(messages).await? {
                    Message::Piece(bytes) => waiting.extend_from_slice(&bytes),
                    Message::End => ended = true,
                }
            }
            let part = waiting.split_to(waiting.len().min(sizes.part)).freeze();
            sending.push(upload.put_part(number, part));
            let last = ended && waiting.is_empty();
            // Also a bound on the memory.
            while last || sending.len() >= self.at_once {
                let sent = self.unless_cancelled(sending.try_next());
                let Some(receipt) = sent.await? else { break };
                receipts.push(receipt);
            }
            if last {
                break;
            }
            number = PartNumber::new(number.get() + 1).expect("it is above 0");
        }
        receipts.sort_by_key(|receipt| receipt.number);
        let complete = upload.complete(&receipts);
        self.unless_cancelled(complete).await.map(drop)
    }

    async fn abort(&self, upload: &dyn MultipartUpload) {
        let problem = match tokio::time::timeout(ABORT_DEADLINE, upload.abort()).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => chain(&error),
            Err(_) => "the store did not answer in time".to_owned(),
        };
        let key = self.key;
        warn!("parts of the unfinished upload of `{key}` are left in the store: {problem}");
    }

    async fn next(&self, messages: &mut mpsc::Receiver<Message>) -> Result<Message, Failure> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(Failure::Interrupted),
            message = messages.recv() => message.ok_or(Failure::NoEnd),
        }
    }

    async fn unless_cancelled<T>(
        &self,
        request: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(Failure::Interrupted),
            answer = request => answer.map_err(Failure::Store),
        }
    }
}

/// How a file goes that is not cut into pieces.
#[derive(Clone, Copy)]
enum AsAWhole {
    /// As it is, read while it is sent: never held in memory.
    FromTheFile,
    Compressed(Whole),
}

/// Why sending ended early.
enum Failure {
    Store(StoreError),
    /// The encoder ended without saying that the bytes are whole.
    NoEnd,
    Interrupted,
}

/// Sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sizes {
    /// Of what goes in one request.
    single: u64,
    /// Of the first piece of the encoder's output. What is not larger goes in
    /// one request if the store takes it.
    first: usize,
    /// Of all later pieces, and of every part but the last.
    part: usize,
}

impl Sizes {
    fn of(limits: Limits) -> Self {
        let part = DEFAULT_PART.clamp(limits.min_part, limits.max_part.max(limits.min_part));
        let single = limits.max_put.min(MAX_SINGLE);
        let first = single.max(part);
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        Self {
            single,
            first: size(first),
            part: size(part),
        }
    }

    /// How much room the encoder's output will need at first.
    fn expected(self, codec: &dyn Codec, plain: u64) -> usize {
        let plain = usize::try_from(plain).unwrap_or(usize::MAX);
        let plain_and_no_more = codec.info().suffix.is_empty();
        let expected = if plain_and_no_more { plain } else { plain / 4 };
        expected.min(self.first)
    }
}

enum Message {
    Piece(Bytes),
    End,
}

/// Cuts the encoder's output into pieces; the last one goes when the encoder
/// drops it.
struct Pieces {
    buffer: BytesMut,
    limit: usize,
    part: usize,
    sender: mpsc::Sender<Message>,
}

impl Pieces {
    fn send(&mut self, piece: Bytes) -> io::Result<()> {
        self.limit = self.part;
        self.sender
            .blocking_send(Message::Piece(piece))
            .map_err(|_| io::Error::other("nobody takes the bytes any more"))
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        while self.buffer.len() > self.limit {
            let piece = self.buffer.split_to(self.limit).freeze();
            self.send(piece)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        if !self.buffer.is_empty() {
            // Taken whole, so that the receiver owns it alone and need not copy.
            let piece = std::mem::take(&mut self.buffer).freeze();
            // Without a receiver nobody wants it; then there is no end either.
            let _ = self.send(piece);
        }
    }
}
