//! Resumable uploads, for services without the XML API: one stream, in order.
//!
//! Parts come in any order and the stream has one, so a part waits until those
//! before it were sent. One that comes while nobody is about to send what lacks
//! before it is kept in memory; whoever begins parts in the order of their numbers
//! never has more waiting than it has under way. The newest part is kept until the
//! next one comes: it can still be replaced, and the stream's end has to be known
//! as such when it is sent.
//!
//! After a failure the bytes are sent again from the last place that the service
//! has confirmed. It passes over those that it has already.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{CONTENT_RANGE, HeaderName, LOCATION, RANGE};
use http::{Method, StatusCode};
use tokio::sync::Notify;

use super::error::Failure;
use super::put::{described, of_write, printed, written};
use super::request::{Answer, BYTES, Call, json};
use super::{Inner, MultipartUpload, PutOptions, PutReceipt, Result, StoreErrorKind, StoreOp};
use crate::key::Key;
use crate::store::{PartNumber, PartReceipt, PutMode};

/// All that is sent but the end is a multiple of this, in bytes. Source: the
/// documentation of resumable uploads.
const GRAIN: u64 = 256 << 10;

const UPLOAD_TYPE: HeaderName = HeaderName::from_static("x-upload-content-type");
const HASH: HeaderName = HeaderName::from_static("x-goog-hash");

/// An upload that was begun.
pub(super) struct Resumable {
    inner: Arc<Inner>,
    key: Key,
    /// Whoever knows it can write to the upload: never shown.
    session: String,
    mode: PutMode,
    under_way: UnderWay,
    stream: tokio::sync::Mutex<Stream>,
    over: AtomicBool,
}

impl fmt::Debug for Resumable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resumable")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

/// Who is about to send which part, or failed and will try again.
#[derive(Debug, Default)]
struct UnderWay {
    numbers: Mutex<BTreeSet<u32>>,
    changed: Notify,
    /// Nobody waits any more.
    ended: AtomicBool,
}

impl UnderWay {
    fn numbers(&self) -> std::sync::MutexGuard<'_, BTreeSet<u32>> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until no part before this one is under way. Once the turn is dropped
    /// the part counts as not under way.
    async fn turn(&self, number: u32) -> Turn<'_> {
        self.numbers().insert(number);
        let turn = Turn {
            under_way: self,
            number,
            stays: false,
        };
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.numbers().first() == Some(&number) || self.ended.load(Ordering::Relaxed) {
                return turn;
            }
            changed.await;
        }
    }

    fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
        self.changed.notify_waiters();
    }
}

struct Turn<'a> {
    under_way: &'a UnderWay,
    number: u32,
    /// Whether the part will be tried again, and the others wait for it.
    stays: bool,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if !self.stays {
            self.under_way.numbers().remove(&self.number);
            self.under_way.changed.notify_waiters();
        }
    }
}

/// What was sent and what is still to be sent.
#[derive(Debug)]
struct Stream {
    /// Bytes that the service has confirmed.
    confirmed: u64,
    /// Those after them, which are to be sent next.
    pending: VecDeque<Bytes>,
    /// The newest part in order, not yet among `pending`.
    newest: Option<Bytes>,
    /// The number after the newest part's.
    next: u32,
    /// Parts whose turn has not come.
    early: BTreeMap<u32, Bytes>,
    /// CRC-32C and size of every part so far.
    taken: BTreeMap<u32, (u32, u64)>,
    /// Why nothing can come of it any more.
    broken: Option<(StoreErrorKind, String)>,
}

impl Stream {
    fn pending_size(&self) -> u64 {
        self.pending.iter().map(|piece| piece.len() as u64).sum()
    }

    /// The first `size` bytes that are pending.
    fn front(&self, size: u64) -> Vec<Bytes> {
        let mut left = usize::try_from(size).unwrap_or(usize::MAX);
        let mut front = Vec::new();
        for piece in &self.pending {
            if left == 0 {
                break;
            }
            let part = piece.slice(..piece.len().min(left));
            left -= part.len();
            front.push(part);
        }
        front
    }

    /// The service has this many bytes in all.
    fn confirm(&mut self, upto: u64) {
        let mut left = upto - self.confirmed;
        self.confirmed = upto;
        while left > 0
            && let Some(mut piece) = self.pending.pop_front()
        {
            let taken = left.min(piece.len() as u64);
            left -= taken;
            let rest = piece.split_off(usize::try_from(taken).unwrap_or(usize::MAX));
            if !rest.is_empty() {
                self.pending.push_front(rest);
            }
        }
    }

    /// CRC-32C and size of the whole.
    fn sum(&self) -> (u32, u64) {
        let mut sum = (0, 0);
        for (checksum, size) in self.taken.values() {
            let length = usize::try_from(*size).unwrap_or(usize::MAX);
            sum.0 = crc32c::crc32c_combine(sum.0, *checksum, length);
            sum.1 += size;
        }
        sum
    }
}

impl Resumable {
    pub(super) async fn begin(
        inner: &Arc<Inner>,
        key: &Key,
        options: &PutOptions,
    ) -> Result<Self, Failure> {
        let call = inner
            .upload(&options.mode, "resumable")
            .header(UPLOAD_TYPE, BYTES)
            .json_body(&described(key, options));
        let answer = inner.ask(&call).await.map_err(of_write)?;
        let session = answer.headers.get(LOCATION);
        let session = session.and_then(|url| url.to_str().ok()).ok_or_else(|| {
            let why = "the answer does not name the upload";
            Failure::new(StoreErrorKind::Corrupt, why)
        })?;
        Ok(Self {
            inner: Arc::clone(inner),
            key: key.clone(),
            session: session.to_owned(),
            mode: options.mode.clone(),
            under_way: UnderWay::default(),
            stream: tokio::sync::Mutex::new(Stream {
                confirmed: 0,
                pending: VecDeque::new(),
                newest: None,
                next: 1,
                early: BTreeMap::new(),
                taken: BTreeMap::new(),
                broken: None,
            }),
            over: AtomicBool::new(false),
        })
    }

    fn check_open(&self, stream: &Stream) -> Result<(), Failure> {
        if self.over.load(Ordering::Relaxed) {
            return Err(Failure::new(StoreErrorKind::NotFound, "the upload is over"));
        }
        match &stream.broken {
            Some((kind, why)) => Err(Failure::new(*kind, why)),
            None => Ok(()),
        }
    }

    async fn take(&self, number: u32, body: &Bytes) -> Result<(), Failure> {
        let mut turn = self.under_way.turn(number).await;
        let mut stream = self.stream.lock().await;
        self.check_open(&stream)?;
        let done = self.take_in_turn(&mut stream, number, body).await;
        if let Err(failure) = &done {
            if failure.kind.is_transient() {
                turn.stays = true;
            } else {
                stream.broken = Some((failure.kind, failure.text.clone()));
            }
        }
        done
    }

    async fn take_in_turn(
        &self,
        stream: &mut Stream,
        number: u32,
        body: &Bytes,
    ) -> Result<(), Failure> {
        let sum = (crc32c::crc32c(body), body.len() as u64);
        if number > stream.next {
            stream.early.insert(number, body.clone());
        } else if number + 1 == stream.next && stream.newest.is_some() {
            stream.newest = Some(body.clone());
        } else if number < stream.next {
            // A repetition, as after an answer that was lost on its way to us.
            if stream.taken.get(&number) != Some(&sum) {
                let why = "a part that was sent cannot be replaced in a resumable upload";
                return Err(Failure::new(StoreErrorKind::Unsupported, why));
            }
        } else {
            self.advance(stream).await?;
            stream.newest = Some(body.clone());
            stream.next += 1;
        }
        stream.taken.insert(number, sum);
        while let Some(body) = stream.early.get(&stream.next).cloned() {
            self.advance(stream).await?;
            stream.early.remove(&stream.next);
            stream.newest = Some(body);
            stream.next += 1;
        }
        Ok(())
    }

    /// Sends what is known not to be the end.
    async fn advance(&self, stream: &mut Stream) -> Result<(), Failure> {
        stream.pending.extend(stream.newest.take());
        loop {
            let size = stream.pending_size() / GRAIN * GRAIN;
            if size == 0 {
                return Ok(());
            }
            let answer = self.send(stream, size, None).await?;
            if answer.status != StatusCode::PERMANENT_REDIRECT {
                let why = "the service took a part for the end of the upload";
                return Err(Failure::new(StoreErrorKind::Corrupt, why));
            }
            progressed(stream, &answer, size)?;
        }
    }

    /// Sends the next `size` bytes; with `total` they are the last ones.
    async fn send(
        &self,
        stream: &Stream,
        size: u64,
        total: Option<(u32, u64)>,
    ) -> Result<Answer, Failure> {
        let all = total.map_or("*".to_owned(), |(_, total)| total.to_string());
        let from = stream.confirmed;
        let range = if size == 0 {
            format!("bytes */{all}")
        } else {
            format!("bytes {from}-{}/{all}", from + size - 1)
        };
        // Compared by the service before anything becomes visible.
        let hash = total.map(|(checksum, _)| format!("crc32c={}", printed(checksum)));
        let call = Call::to(Method::PUT, &self.session)
            .header(CONTENT_RANGE, range)
            .header_if(HASH, hash)
            .body(stream.front(size));
        self.inner.ask(&call).await
    }

    async fn finish(&self, parts: &[PartReceipt]) -> Result<PutReceipt, Failure> {
        let mut stream = self.stream.lock().await;
        self.check_open(&stream)?;
        let invalid = |why: &str| Err(Failure::new(StoreErrorKind::Invalid, why));
        if parts.is_empty() {
            return invalid("an upload needs at least one part");
        }
        if !stream.early.is_empty() {
            return invalid("a part is missing");
        }
        let named = |(part, (number, sum)): (&PartReceipt, (&u32, &(u32, u64)))| {
            (part.number.get(), part.size) == (*number, sum.1) && part.token == printed(sum.0)
        };
        if parts.len() != stream.taken.len() || !parts.iter().zip(&stream.taken).all(named) {
            return invalid("the parts are not those that were sent");
        }
        self.inner.look_before_end(&self.key, &self.mode).await?;
        let sum = stream.sum();
        let newest = stream.newest.take();
        stream.pending.extend(newest);
        loop {
            let size = stream.pending_size();
            let answer = self.send(&stream, size, Some(sum)).await?;
            if answer.status == StatusCode::PERMANENT_REDIRECT {
                progressed(&mut stream, &answer, size)?;
                continue;
            }
            self.over.store(true, Ordering::Relaxed);
            return written(&json(&answer)?, &printed(sum.0));
        }
    }
}

/// Notes what the service has by now, of `size` bytes more that were sent.
fn progressed(stream: &mut Stream, answer: &Answer, size: u64) -> Result<(), Failure> {
    let last = answer.headers.get(RANGE).and_then(|range| {
        let range = range.to_str().ok()?.strip_prefix("bytes=")?;
        range.split_once('-')?.1.parse::<u64>().ok()
    });
    let upto = last.map_or(0, |last| last + 1);
    if upto < stream.confirmed || upto > stream.confirmed + size {
        let why = format!(
            "the service says that it has {upto} bytes, {} were confirmed and {size} more sent",
            stream.confirmed
        );
        return Err(Failure::new(StoreErrorKind::Corrupt, why));
    }
    if upto == stream.confirmed {
        let why = "the service took none of the bytes";
        return Err(Failure::new(StoreErrorKind::ServerFault, why));
    }
    stream.confirm(upto);
    Ok(())
}

#[async_trait]
impl MultipartUpload for Resumable {
    async fn put_part(&self, number: PartNumber, body: Bytes) -> Result<PartReceipt> {
        let taken = self.take(number.get(), &body).await;
        taken.map_err(|failure| {
            let what = format!("{} (part {})", self.key, number.get());
            self.inner.error(StoreOp::PutPart, what, failure)
        })?;
        Ok(PartReceipt {
            number,
            size: body.len() as u64,
            token: printed(crc32c::crc32c(&body)),
        })
    }

    async fn complete(&self, parts: &[PartReceipt]) -> Result<PutReceipt> {
        let done = self.finish(parts).await;
        done.map_err(|failure| self.inner.error(StoreOp::Complete, &self.key, failure))
    }

    async fn abort(&self) -> Result<()> {
        if self.over.load(Ordering::Relaxed) {
            return Ok(());
        }
        let call = Call::to(Method::DELETE, &self.session);
        match self.inner.ask(&call).await {
            Ok(_) => {}
            // 499 is how the service says that it is done. Who does not know the
            // request forgets the upload by itself.
            Err(failure) if matches!(failure.status, Some(404 | 410 | 499 | 405 | 501)) => {}
            Err(failure) => return Err(self.inner.error(StoreOp::Abort, &self.key, failure)),
        }
        self.over.store(true, Ordering::Relaxed);
        self.under_way.end();
        Ok(())
    }
}
