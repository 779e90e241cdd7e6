//! Reading objects, whole or in part, and looking at them.
//!
//! One request in the order of its bytes: the crate would ask for an object in
//! several ranges at once and hold what comes too early.

use std::sync::Arc;
use std::time::SystemTime;

use azure_core::base64;
use azure_core::http::headers::{HeaderName, Headers};
use azure_core::http::{AsyncRawResponse, Method};
use azure_core::time::{OffsetDateTime, parse_rfc7231};
use azure_storage_blob::models::BlobClientGetPropertiesResultHeaders;
use futures_util::StreamExt;

use super::error::Failure;
use super::put::version;
use super::{
    Download, Inner, LockCheck, ObjectMeta, ReadRange, Result, StoreError, StoreErrorKind, StoreOp,
    request,
};
use crate::key::Key;
use crate::store::wire::{self, Place, exactly, fingerprint, no_bytes, range_header, unquoted};
use crate::store::{ObjectLock, ObjectVersion};

/// A moment of the SDK as one of the system.
pub(super) fn time(at: OffsetDateTime) -> SystemTime {
    at.into()
}

/// A moment as headers and listings write it.
pub(super) fn written_time(text: &str) -> Option<SystemTime> {
    parse_rfc7231(text).ok().map(time)
}

pub(super) async fn get(inner: &Arc<Inner>, key: &Key, range: &ReadRange) -> Result<Download> {
    if range.end.is_some_and(|end| end <= range.start) {
        return nothing(inner, key, range).await;
    }
    let answer = match inner.read(key, range).await {
        Ok(answer) => answer,
        Err(failure) if failure.status == Some(416) => {
            return nothing(inner, key, range).await;
        }
        // Some say so of an object that is gone, too.
        Err(failure) if failure.status == Some(412) => {
            let head = inner.head(StoreOp::Get, key, LockCheck::Skip).await;
            return Err(match head {
                Err(error) if error.kind == StoreErrorKind::NotFound => error,
                _ => replaced(inner, key),
            });
        }
        Err(failure) => return Err(inner.error(StoreOp::Get, key, failure)),
    };
    let (_, headers, body) = answer.deconstruct();
    let header = |name| headers.get_optional_str(&HeaderName::from_static(name));
    let length = header("content-length").and_then(|text| text.parse().ok());
    let place = Place::of(length, header("content-range"), range)
        .map_err(|(kind, why)| inner.refuse(StoreOp::Get, key, kind, why))?;
    let meta = ObjectMeta {
        key: key.clone(),
        size: place.size,
        modified: header("last-modified").and_then(written_time),
        version: etag(&headers),
        lock: None,
        fingerprint: None,
    };
    let left = place.bytes.end - place.bytes.start;
    let judge = md5_of(&headers)
        .filter(|_| left == place.size)
        .and_then(|told| inner.md5s.of(told));
    let pieces = body.map(|piece| {
        piece.map_err(|error| {
            let failure = Failure::from(error);
            (failure.kind, failure.text)
        })
    });
    let (reading, name) = (Arc::clone(inner), key.clone());
    let fail = move |kind, why| reading.refuse(StoreOp::Get, &name, kind, why);
    Ok(Download {
        meta,
        range: place.bytes,
        body: exactly(pieces.boxed(), left, judge, fail),
    })
}

/// The MD5 of the whole object: the service has made it of what was written by one
/// request, and keeps what it was told of other objects.
fn md5_of(headers: &Headers) -> Option<[u8; 16]> {
    let header = |name| headers.get_optional_str(&HeaderName::from_static(name));
    // The first one is that of the answer where a part is answered.
    let told = header("x-ms-blob-content-md5").or_else(|| header("content-md5"))?;
    base64::decode(told).ok()?.try_into().ok()
}

fn etag(headers: &Headers) -> Option<ObjectVersion> {
    let etag = headers.get_optional_str(&HeaderName::from_static("etag"))?;
    Some(ObjectVersion(unquoted(etag).to_owned()))
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

impl Inner {
    async fn read(&self, key: &Key, range: &ReadRange) -> Result<AsyncRawResponse, Failure> {
        let connection = self.connection()?;
        let mut request = request(connection.blob(key).url().clone(), Method::Get);
        if let Some(range) = range_header(range) {
            request.insert_header("x-ms-range", range);
        }
        if let Some(version) = &range.version {
            request.insert_header("if-match", format!("\"{}\"", version.0));
        }
        connection.stream(&mut request).await
    }

    pub(super) async fn head(&self, op: StoreOp, key: &Key, lock: LockCheck) -> Result<ObjectMeta> {
        let failed = |failure| self.error(op, key, failure);
        let looked = self.look(key, lock).await.map_err(failed)?;
        looked.ok_or_else(|| {
            let why = "the answer does not tell the size";
            self.refuse(op, key, StoreErrorKind::Corrupt, why)
        })
    }

    async fn look(&self, key: &Key, lock: LockCheck) -> Result<Option<ObjectMeta>, Failure> {
        let blob = self.connection()?.blob(key);
        let answer = blob.get_properties(None).await?;
        let Some(size) = answer.content_length()? else {
            return Ok(None);
        };
        let lock = match lock {
            LockCheck::Skip => None,
            LockCheck::Look if answer.legal_hold()? == Some(true) => Some(ObjectLock::LegalHold),
            LockCheck::Look => answer
                .immutability_policy_expires_on()?
                .map(time)
                .filter(|until| *until > SystemTime::now())
                .map(ObjectLock::Until),
        };
        Ok(Some(ObjectMeta {
            key: key.clone(),
            size,
            modified: answer.last_modified()?.map(time),
            version: version(answer.etag()?.as_ref()),
            lock,
            fingerprint: fingerprint(&answer.metadata()?),
        }))
    }
}
