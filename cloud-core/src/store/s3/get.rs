//! Reading objects, whole or in part, and looking at them.

use std::sync::Arc;
use std::time::SystemTime;

use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::get_object::{GetObjectError, GetObjectOutput};
use aws_sdk_s3::types::ObjectLockLegalHoldStatus;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_types::DateTime;
use aws_smithy_types::byte_stream::ByteStream;
use aws_smithy_types::checksum_config::ResponseChecksumValidation;
use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt};

use super::adapt::{Adapting, Extras};
use super::checksum::md5_of;
use super::connect::{Connection, classify};
use super::error::{Failure, innermost};
use super::put::is_plain;
use super::{
    Download, Inner, LockCheck, ObjectMeta, ReadRange, Result, StoreError, StoreErrorKind, StoreOp,
};
use crate::key::Key;
use crate::store::wire::{
    self, Cause, Judge, Place, exactly, fingerprint, no_bytes, range_header, unquoted,
};
use crate::store::{ObjectLock, ObjectVersion};

/// A moment of the SDK as one of the system.
pub(super) fn time(at: Option<&DateTime>) -> Option<SystemTime> {
    SystemTime::try_from(*at?).ok()
}

pub(super) async fn get(inner: &Arc<Inner>, key: &Key, range: &ReadRange) -> Result<Download> {
    if range.end.is_some_and(|end| end <= range.start) {
        return nothing(inner, key, range).await;
    }
    let mut adapting = Adapting::new(
        inner,
        Extras {
            checksums: !inner.learned.without_checksums.is_set(),
            condition: false,
        },
    );
    let output = loop {
        // Some stores send the checksum of the whole with a part of it.
        let checksums = adapting.with().checksums && range_header(range).is_none();
        let sent = inner
            .call(|connection| request(inner, connection, key, range, checksums))
            .await;
        match sent {
            Ok(output) => break output,
            Err(failure) if failure.status == Some(416) && range.end.is_none() => {
                return nothing(inner, key, range).await;
            }
            Err(failure) => adapting
                .refused(failure)
                .map_err(|failure| unread(inner, key, failure))?,
        }
    };
    adapting.taken();
    let length = output
        .content_length()
        .and_then(|it| u64::try_from(it).ok());
    let place = Place::of(length, output.content_range(), range)
        .map_err(|(kind, why)| inner.refuse(StoreOp::Get, key, kind, why))?;
    let meta = ObjectMeta {
        key: key.clone(),
        size: place.size,
        modified: time(output.last_modified()),
        version: version(output.e_tag()),
        lock: None,
        fingerprint: None,
    };
    let left = place.bytes.end - place.bytes.start;
    let judge = judge(inner, &output).filter(|_| left == meta.size);
    let (reading, name) = (Arc::clone(inner), key.clone());
    let fail = move |kind, why| reading.refuse(StoreOp::Get, &name, kind, why);
    Ok(Download {
        meta,
        range: place.bytes,
        body: exactly(pieces(output.body), left, judge, fail),
    })
}

/// `checksums`: whether the store is asked for the one that it keeps.
fn request(
    inner: &Inner,
    connection: &Connection,
    key: &Key,
    range: &ReadRange,
    checksums: bool,
) -> impl Future<Output = Result<GetObjectOutput, SdkError<GetObjectError, HttpResponse>>> + Send + use<>
{
    let request = connection
        .client
        .get_object()
        .bucket(&inner.bucket)
        .key(key.as_str())
        .set_range(range_header(range))
        .set_if_match(range.version.as_ref().map(quoted));
    let request = inner.encryption.get(request).customize();
    let request = if checksums {
        request
    } else {
        let validation = ResponseChecksumValidation::WhenRequired;
        let settings = aws_sdk_s3::config::Builder::new();
        request.config_override(settings.response_checksum_validation(validation))
    };
    request.send()
}

/// Who compares a body that no checksum of the store's protects: the SDK has looked
/// at one if there was one.
fn judge(inner: &Inner, output: &GetObjectOutput) -> Option<Box<dyn Judge>> {
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
    inner.learned.read_etags.of(md5_of(etag)?)
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
    let (kind, why) = wire::replaced();
    inner.refuse(StoreOp::Get, key, kind, why)
}

/// Reading no bytes, which a range cannot say.
async fn nothing(inner: &Inner, key: &Key, range: &ReadRange) -> Result<Download> {
    let meta = inner.head(StoreOp::Get, key, LockCheck::Skip).await?;
    no_bytes(meta, range).map_err(|(kind, why)| inner.refuse(StoreOp::Get, key, kind, why))
}

fn quoted(version: &ObjectVersion) -> String {
    format!("\"{}\"", version.0)
}

fn version(etag: Option<&str>) -> Option<ObjectVersion> {
    etag.map(|etag| ObjectVersion(unquoted(etag).to_owned()))
}

/// The pieces of an answer.
fn pieces(body: ByteStream) -> impl Stream<Item = Result<Bytes, Cause>> + Send + Unpin {
    stream::unfold(body, |mut body| async {
        let piece = body.next().await?;
        Some((piece.map_err(|error| broken(&error)), body))
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
            fingerprint: output.metadata().and_then(fingerprint),
        })
    }
}
