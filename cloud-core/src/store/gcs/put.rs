//! Writing single objects: one request, all or nothing.
//!
//! The request has two parts, what is known of the object and the object itself.
//! Its CRC-32C is among the former: the service compares it and refuses what does
//! not fit. What it answers is compared once more.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::Method;
use http::header::CONTENT_TYPE;
use serde_json::{Map, Value, json};

use super::error::Failure;
use super::request::{BYTES, Call};
use super::{Inner, PutOptions, PutReceipt, Result, StoreErrorKind, StoreOp};
use crate::key::Key;
use crate::store::{FINGERPRINT, ObjectVersion, Payload, PutMode, Tag};

/// What stands between the parts of the request. Bodies may hold it: what is
/// between two such lines is told by no length, so it is made anew each time.
fn boundary() -> String {
    format!("part-{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..))
}

/// A CRC-32C as the service writes it: big-endian, in base64.
pub(super) fn printed(crc32c: u32) -> String {
    BASE64_STANDARD.encode(crc32c.to_be_bytes())
}

/// What the object's own metadata holds: tags, and the fingerprint.
pub(super) fn metadata(options: &PutOptions) -> Vec<Tag> {
    let mut all = options.tags.clone().unwrap_or_default();
    all.extend(options.fingerprint.clone().map(|value| Tag {
        key: FINGERPRINT.to_owned(),
        value,
    }));
    all
}

/// The class of a write that found no place: all that can be missing is the
/// bucket.
pub(super) fn of_write(mut failure: Failure) -> Failure {
    if failure.kind == StoreErrorKind::NotFound {
        failure.kind = StoreErrorKind::BucketMissing;
    }
    failure
}

/// What is told of an object that is written.
pub(super) fn described(key: &Key, options: &PutOptions) -> Value {
    let mut object = json!({"name": key.as_str(), "contentType": BYTES});
    let metadata = metadata(options);
    if !metadata.is_empty() {
        let pair = |tag: Tag| (tag.key, json!(tag.value));
        object["metadata"] = Value::Object(metadata.into_iter().map(pair).collect::<Map<_, _>>());
    }
    object
}

impl Inner {
    pub(super) async fn put(
        &self,
        key: &Key,
        body: Payload,
        options: &PutOptions,
    ) -> Result<PutReceipt> {
        let body = self.info.payload(StoreOp::Put, key, &body)?;
        let sent = self.put_object(key, body, options).await;
        sent.map_err(|failure| self.error(StoreOp::Put, key, failure))
    }

    async fn put_object(
        &self,
        key: &Key,
        body: Bytes,
        options: &PutOptions,
    ) -> Result<PutReceipt, Failure> {
        let checksum = printed(crc32c::crc32c(&body));
        let mut object = described(key, options);
        object["crc32c"] = json!(checksum);
        let boundary = boundary();
        let before = format!(
            "--{boundary}\r\ncontent-type: application/json; charset=UTF-8\r\n\r\n{object}\r\n\
             --{boundary}\r\ncontent-type: {BYTES}\r\n\r\n"
        );
        let after = format!("\r\n--{boundary}--\r\n");
        let call = self
            .upload(&options.mode, "multipart")
            .header(
                CONTENT_TYPE,
                format!("multipart/related; boundary={boundary}"),
            )
            .body([Bytes::from(before), body, Bytes::from(after)]);
        let answer = self.json(call).await.map_err(of_write)?;
        written(&answer, &checksum)
    }

    /// A request that writes an object, with all that every write has.
    pub(super) fn upload(&self, mode: &PutMode, how: &str) -> Call {
        let path = format!("/upload{}/o", self.bucket_path());
        let mut call = Call::new(Method::POST, path).query("uploadType", how);
        let generation = match mode {
            PutMode::Overwrite => None,
            // No version of the object is there.
            PutMode::CreateOnly => Some("0"),
            PutMode::Replace(version) => Some(version.0.as_str()),
        };
        if let Some(generation) = generation {
            call = call.query("ifGenerationMatch", generation);
        }
        if let Some(key) = &self.kms_key {
            call = call.query("kmsKeyName", key);
        }
        call
    }
}

/// What a write answered, compared with what was sent.
pub(super) fn written(answer: &Value, checksum: &str) -> Result<PutReceipt, Failure> {
    let text = |name: &str| answer.get(name).and_then(Value::as_str);
    if let Some(stored) = text("crc32c").filter(|stored| *stored != checksum) {
        let why = format!("CRC-32C {checksum} was sent, {stored} was stored");
        return Err(Failure::new(StoreErrorKind::Corrupt, why));
    }
    Ok(PutReceipt {
        version: text("generation").map(|text| ObjectVersion(text.to_owned())),
    })
}
