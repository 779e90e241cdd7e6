//! Reading objects, whole or in part, and looking at them.

use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::types::ObjectLockLegalHoldStatus;
use aws_smithy_types::DateTime;
use aws_smithy_types::byte_stream::ByteStream;
use aws_smithy_types::checksum_config::ResponseChecksumValidation;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};

use super::checksum::{Summed, unquoted};
use super::connect::classify;
use super::error::{Failure, innermost};
use super::put::is_plain;
use super::{
    Download, Inner, LockCheck, ObjectMeta, ReadRange, Result, StoreError, StoreErrorKind, StoreOp,
};
use crate::key::Key;
use crate::store::{ObjectLock, ObjectVersion};

/// A moment of the SDK as one of the system.
pub(super) fn time(at: Option<&DateTime>) -> Option<SystemTime> {
    SystemTime::try_from(*at?).ok()
}

pub(super) async fn get(inner: &Arc<Inner>, key: &Key, range: &ReadRange) -> Result<Download> {
    if range.end.is_some_and(|end| end <= range.start) {
        return nothing(inner, key, range).await;
    }
    let sent = inner
        .call(|connection| {
            let request = connection
                .client
                .get_object()
                .bucket(&inner.bucket)
                .key(key.as_str())
                .set_range(header(range))
                .set_if_match(range.version.as_ref().map(quoted));
            let request = inner.encryption.get(request).customize();
            // Some stores send the checksum of the whole with a part of it.
            let request = if header(range).is_some() {
                let validation = ResponseChecksumValidation::WhenRequired;
                let settings = aws_sdk_s3::config::Builder::new();
                request.config_override(settings.response_checksum_validation(validation))
            } else {
                request
            };
            request.send()
        })
        .await;
    let output = match sent {
        Ok(output) => output,
        Err(failure) if failure.status == Some(416) && range.end.is_none() => {
            return nothing(inner, key, range).await;
        }
        Err(failure) => return Err(unread(inner, key, failure)),
    };
    let place =
        place(&output, range).map_err(|(kind, why)| inner.refuse(StoreOp::Get, key, kind, why))?;
    let meta = ObjectMeta {
        key: key.clone(),
        size: place.size,
        modified: time(output.last_modified()),
        version: version(output.e_tag()),
        lock: None,
    };
    let left = place.bytes.end - place.bytes.start;
    let summed = summed(inner, &output).filter(|_| left == meta.size);
    Ok(Download {
        meta,
        range: place.bytes,
        body: body(Arc::clone(inner), key.clone(), output.body, left, summed),
    })
}

/// The sum to make of a body that no checksum of the store's protects: the SDK
/// has looked at one if there was one.
fn summed(inner: &Inner, output: &GetObjectOutput) -> Option<Summed> {
    let checksums = [
        output.checksum_crc32(),
        output.checksum_crc32_c(),
        output.checksum_crc64_nvme(),
        output.checksum_sha1(),
        output.checksum_sha256(),
    ];
    let plain = is_plain(
        output.server_side_encryption(),
        output.sse_customer_algorithm(),
    );
    let unprotected = checksums.iter().all(Option::is_none) && plain;
    let etag = output.e_tag().filter(|_| unprotected)?;
    inner.learned.read_etags.begin(etag)
}

/// A condition that failed on reading means that the object is another one.
fn unread(inner: &Inner, key: &Key, failure: Failure) -> StoreError {
    if failure.status == Some(412) {
        replaced(inner, key)
    } else {
        inner.error(StoreOp::Get, key, failure)
    }
}

fn replaced(inner: &Inner, key: &Key) -> StoreError {
    let why = "the object was replaced while it was read";
    inner.refuse(StoreOp::Get, key, StoreErrorKind::Corrupt, why)
}

/// Reading no bytes, which a range cannot say.
async fn nothing(inner: &Arc<Inner>, key: &Key, range: &ReadRange) -> Result<Download> {
    let meta = inner.head(StoreOp::Get, key, LockCheck::Skip).await?;
    if range.version.is_some() && range.version != meta.version {
        return Err(replaced(inner, key));
    }
    if range.start > meta.size || range.end.is_some_and(|end| end != range.start) {
        let why = format!("the range begins behind the end ({} bytes)", meta.size);
        return Err(inner.refuse(StoreOp::Get, key, StoreErrorKind::Invalid, why));
    }
    Ok(Download {
        meta,
        range: range.start..range.start,
        body: stream::empty().boxed(),
    })
}

fn header(range: &ReadRange) -> Option<String> {
    match (range.start, range.end) {
        (0, None) => None,
        (start, None) => Some(format!("bytes={start}-")),
        (start, Some(end)) => Some(format!("bytes={start}-{}", end - 1)),
    }
}

fn quoted(version: &ObjectVersion) -> String {
    format!("\"{}\"", version.0)
}

fn version(etag: Option<&str>) -> Option<ObjectVersion> {
    etag.map(|etag| ObjectVersion(unquoted(etag).to_owned()))
}

/// Which bytes an answer has, of an object of which size.
struct Place {
    bytes: Range<u64>,
    size: u64,
}

type Misplaced = (StoreErrorKind, String);

fn place(output: &GetObjectOutput, asked: &ReadRange) -> Result<Place, Misplaced> {
    let odd = |why: String| (StoreErrorKind::Corrupt, why);
    let length = output
        .content_length()
        .and_then(|length| u64::try_from(length).ok())
        .ok_or_else(|| odd("the answer does not tell its length".into()))?;
    let place = match output.content_range() {
        None => Place {
            bytes: 0..length,
            size: length,
        },
        Some(text) => {
            content_range(text).ok_or_else(|| odd(format!("Content-Range `{text}` is no range")))?
        }
    };
    if let Some(end) = asked.end.filter(|end| *end > place.size) {
        let size = place.size;
        let why = format!("byte {end} is behind the end ({size} bytes)");
        return Err((StoreErrorKind::Invalid, why));
    }
    let wanted = asked.start..asked.end.unwrap_or(place.size);
    if place.bytes != wanted || length != wanted.end - wanted.start {
        return Err(odd(format!(
            "bytes {} to {} were asked for, {length} bytes from {} on are answered",
            wanted.start, wanted.end, place.bytes.start
        )));
    }
    Ok(place)
}

/// `bytes 5-9/100`
fn content_range(text: &str) -> Option<Place> {
    let (range, size) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let number = |text: &str| text.parse::<u64>().ok();
    Some(Place {
        bytes: number(first)?..number(last)?.checked_add(1)?,
        size: number(size)?,
    })
}

/// The bytes of an answer, which must be exactly `left`.
fn body(
    inner: Arc<Inner>,
    key: Key,
    body: ByteStream,
    left: u64,
    summed: Option<Summed>,
) -> BoxStream<'static, Result<Bytes>> {
    struct Reading {
        inner: Arc<Inner>,
        key: Key,
        body: ByteStream,
        left: u64,
        /// Of the bytes so far, if they are to be compared.
        summed: Option<Summed>,
        over: bool,
    }
    impl Reading {
        async fn next(&mut self) -> Option<Result<Bytes>> {
            if self.over {
                return None;
            }
            let fail = |kind, why: String| self.inner.refuse(StoreOp::Get, &self.key, kind, why);
            let failed = match self.body.next().await {
                Some(Ok(piece)) if piece.len() as u64 <= self.left => {
                    self.left -= piece.len() as u64;
                    if let Some(summed) = &mut self.summed {
                        summed.update(&piece);
                    }
                    return Some(Ok(piece));
                }
                Some(Ok(_)) => fail(
                    StoreErrorKind::Corrupt,
                    "it delivered too many bytes".into(),
                ),
                None if self.left == 0 => {
                    self.over = true;
                    let summed = self.summed.take()?;
                    let why = self.inner.learned.read_etags.contradicts(summed)?;
                    return Some(Err(fail(StoreErrorKind::Corrupt, why)));
                }
                None => fail(
                    StoreErrorKind::Connect,
                    format!("the connection ended {} bytes early", self.left),
                ),
                Some(Err(error)) => {
                    let (kind, why) = broken(&error);
                    fail(kind, why)
                }
            };
            self.over = true;
            Some(Err(failed))
        }
    }
    let reading = Reading {
        inner,
        key,
        body,
        left,
        summed,
        over: false,
    };
    stream::unfold(reading, |mut reading| async {
        Some((reading.next().await?, reading))
    })
    .boxed()
}

/// What ended a body early.
fn broken(error: &(dyn std::error::Error + 'static)) -> (StoreErrorKind, String) {
    let text = innermost(error);
    match classify(error) {
        Some(known) => (known.kind, known.text),
        None if text.to_ascii_lowercase().contains("checksum") => (StoreErrorKind::Corrupt, text),
        None => (StoreErrorKind::Connect, text),
    }
}

impl Inner {
    pub(super) async fn head(&self, op: StoreOp, key: &Key, lock: LockCheck) -> Result<ObjectMeta> {
        let sent = self
            .call(|connection| {
                let request = connection
                    .client
                    .head_object()
                    .bucket(&self.bucket)
                    .key(key.as_str());
                self.encryption.head(request).send()
            })
            .await;
        let output = sent.map_err(|failure| self.error(op, key, failure))?;
        let size = output
            .content_length()
            .and_then(|length| u64::try_from(length).ok())
            .ok_or_else(|| {
                let why = "the answer does not tell the size";
                self.refuse(op, key, StoreErrorKind::Corrupt, why)
            })?;
        let locked = || {
            let until = time(output.object_lock_retain_until_date());
            let held = output.object_lock_legal_hold_status();
            match (held, until) {
                (Some(ObjectLockLegalHoldStatus::On), _) => Some(ObjectLock::LegalHold),
                (_, Some(until)) if until > SystemTime::now() => Some(ObjectLock::Until(until)),
                _ => None,
            }
        };
        Ok(ObjectMeta {
            key: key.clone(),
            size,
            modified: time(output.last_modified()),
            version: version(output.e_tag()),
            lock: match lock {
                LockCheck::Skip => None,
                LockCheck::Look => locked(),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_range_is_read_to_the_letter() {
        let range = |text| content_range(text).map(|place| (place.bytes, place.size));
        assert_eq!(range("bytes 5-9/100"), Some((5..10, 100)));
        for odd in [
            "",
            "bytes 5-9",
            "bytes */100",
            "bytes 5-9/*",
            "items 5-9/100",
        ] {
            assert_eq!(range(odd), None, "{odd}");
        }
    }
}
