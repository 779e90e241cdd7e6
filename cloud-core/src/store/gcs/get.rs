//! Reading objects, whole or in part, and looking at them.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use http::header::{ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, LAST_MODIFIED, RANGE};
use http::{HeaderMap, Method, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming};
use serde_json::Value;

use super::put::printed;
use super::request::{Call, broken};
use super::{Download, Inner, ObjectMeta, ReadRange, Result, StoreError, StoreErrorKind, StoreOp};
use crate::key::Key;
use crate::store::wire::{self, Cause, Judge, Place, exactly, no_bytes, range_header};
use crate::store::{FINGERPRINT, ObjectVersion};

/// What of an object is asked for, when it is looked at or listed.
pub(super) const FIELDS: &str = "name,size,generation,updated";

/// What is asked for beside it, when an object is looked at.
const METADATA: &str = "metadata";

pub(super) async fn get(inner: &Arc<Inner>, key: &Key, range: &ReadRange) -> Result<Download> {
    if range.end.is_some_and(|end| end <= range.start) {
        return nothing(inner, key, range).await;
    }
    let version = range.version.as_ref().map(|version| version.0.as_str());
    let mut call = Call::new(Method::GET, inner.object_path(key))
        .query("alt", "media")
        // As it is stored, should somebody have stored it compressed.
        .header(ACCEPT_ENCODING, "gzip")
        .header_if(RANGE, range_header(range));
    if let Some(version) = version {
        call = call.query("ifGenerationMatch", version);
    }
    let response = match inner.send(&call).await {
        Ok(response) => response,
        Err(failure) => match failure.status {
            Some(416) if range.end.is_none() => return nothing(inner, key, range).await,
            Some(412) => return Err(replaced(inner, key)),
            _ => return Err(inner.error(StoreOp::Get, key, failure)),
        },
    };
    let (head, body) = response.into_parts();
    let length = text(&head.headers, CONTENT_LENGTH.as_str()).and_then(|text| text.parse().ok());
    let content_range = text(&head.headers, CONTENT_RANGE.as_str());
    let content_range = content_range.filter(|_| head.status == StatusCode::PARTIAL_CONTENT);
    let place = Place::of(length, content_range, range)
        .map_err(|(kind, why)| inner.refuse(StoreOp::Get, key, kind, why))?;
    let told = text(&head.headers, "x-goog-generation");
    // Emulators do not all know the condition.
    if version.is_some() && told.is_some() && version != told {
        return Err(replaced(inner, key));
    }
    let meta = ObjectMeta {
        key: key.clone(),
        size: place.size,
        modified: text(&head.headers, LAST_MODIFIED.as_str()).and_then(date),
        version: told.map(|told| ObjectVersion(told.to_owned())),
        lock: None,
        fingerprint: None,
    };
    let is_whole = place.bytes == (0..place.size);
    // That of a part is told by nobody.
    let expected = is_whole.then(|| checksum(&head.headers)).flatten();
    let judge =
        expected.map(|expected| -> Box<dyn Judge> { Box::new(ByCrc { expected, found: 0 }) });
    let left = place.bytes.end - place.bytes.start;
    let (inner, key) = (Arc::clone(inner), key.clone());
    let fail = move |kind, why: String| inner.refuse(StoreOp::Get, &key, kind, why);
    Ok(Download {
        meta,
        range: place.bytes,
        body: exactly(pieces(body), left, judge, fail),
    })
}

fn replaced(inner: &Inner, key: &Key) -> StoreError {
    let (kind, why) = wire::replaced();
    inner.refuse(StoreOp::Get, key, kind, why)
}

/// Reading no bytes, which a range cannot say.
async fn nothing(inner: &Inner, key: &Key, range: &ReadRange) -> Result<Download> {
    let meta = inner.head(StoreOp::Get, key).await?;
    no_bytes(meta, range).map_err(|(kind, why)| inner.refuse(StoreOp::Get, key, kind, why))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// A time as HTTP writes it.
fn date(text: &str) -> Option<SystemTime> {
    let time = jiff::fmt::rfc2822::parse(text).ok()?;
    Some(time.timestamp().into())
}

/// The CRC-32C of the whole object, among the checksums that an answer tells:
/// `crc32c=4waSgw==,md5=...`, in one header or in several.
pub(super) fn checksum(headers: &HeaderMap) -> Option<String> {
    let all = headers.get_all("x-goog-hash").iter();
    let all = all.filter_map(|value| value.to_str().ok());
    let mut each = all.flat_map(|value| value.split(','));
    let found = each.find_map(|one| one.trim().strip_prefix("crc32c="))?;
    Some(found.to_owned())
}

/// The bytes of an answer.
fn pieces(body: Incoming) -> BoxStream<'static, Result<Bytes, Cause>> {
    stream::unfold(body, |mut body| async {
        loop {
            let piece = match body.frame().await?.map(Frame::into_data) {
                Ok(Ok(piece)) => Ok(piece),
                // Trailers.
                Ok(Err(_)) => continue,
                Err(error) => {
                    let failure = broken(&error);
                    Err((failure.kind, failure.text))
                }
            };
            return Some((piece, body));
        }
    })
    .boxed()
}

/// Compares a body with the CRC-32C of its object.
struct ByCrc {
    /// As a header has it.
    expected: String,
    found: u32,
}

impl Judge for ByCrc {
    fn piece(&mut self, bytes: &[u8]) {
        self.found = crc32c::crc32c_append(self.found, bytes);
    }

    fn verdict(self: Box<Self>) -> Option<String> {
        let (expected, found) = (self.expected, printed(self.found));
        (expected != found).then(|| format!("CRC-32C {expected} is stored, {found} was read"))
    }
}

impl Inner {
    pub(super) async fn head(&self, op: StoreOp, key: &Key) -> Result<ObjectMeta> {
        let fields = format!("{FIELDS},{METADATA}");
        let call = Call::new(Method::GET, self.object_path(key)).query("fields", fields);
        let answer = self.json(call).await;
        let answer = answer.map_err(|failure| self.error(op, key, failure))?;
        described(&answer, key.clone()).ok_or_else(|| {
            let why = "the answer does not tell the size";
            self.refuse(op, key, StoreErrorKind::Corrupt, why)
        })
    }
}

/// What the JSON API tells of an object; `None` without a size.
pub(super) fn described(value: &Value, key: Key) -> Option<ObjectMeta> {
    let text = |name: &str| value.get(name).and_then(Value::as_str);
    Some(ObjectMeta {
        key,
        size: text("size")?.parse().ok()?,
        modified: text("updated").and_then(super::time),
        version: text("generation").map(|text| ObjectVersion(text.to_owned())),
        lock: None,
        fingerprint: value
            .pointer(&format!("/{METADATA}/{FINGERPRINT}"))
            .and_then(Value::as_str)
            .map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_found_among_others() {
        let mut headers = HeaderMap::new();
        assert_eq!(checksum(&headers), None);
        headers.append("x-goog-hash", "md5=x".parse().unwrap());
        assert_eq!(checksum(&headers), None);
        headers.append("x-goog-hash", "crc32c=4waSgw==".parse().unwrap());
        assert_eq!(checksum(&headers).as_deref(), Some("4waSgw=="));
        let mut one = HeaderMap::new();
        one.insert("x-goog-hash", "crc32c=a=, md5=b=".parse().unwrap());
        assert_eq!(checksum(&one).as_deref(), Some("a="));
    }

    #[test]
    fn times_are_read_as_http_writes_them() {
        let expected = super::super::time("2026-11-21T15:42:31Z");
        assert_eq!(date("Sat, 21 Nov 2026 15:42:31 GMT"), expected);
        assert!(expected.is_some());
    }
}
