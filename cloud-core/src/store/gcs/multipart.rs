//! Uploads in parts by the XML API, which takes parts side by side and again.
//!
//! The API knows no condition: an upload that must not replace an object looks at
//! the name before it is completed, which leaves a moment between look and end.
//! What is small enough for one request does not go this way.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::Method;
use http::header::{CONTENT_TYPE, HeaderName};

use super::error::Failure;
use super::get::checksum;
use super::put::{metadata, printed};
use super::request::{Answer, BYTES, Call};
use super::resumable::Resumable;
use super::{Inner, MultipartUpload, PutOptions, PutReceipt, Result, StoreErrorKind, StoreOp};
use crate::key::Key;
use crate::store::wire::xml;
use crate::store::{ObjectVersion, PartNumber, PartReceipt, PutMode, Tag};

const HASH: HeaderName = HeaderName::from_static("x-goog-hash");
const KMS_KEY: HeaderName = HeaderName::from_static("x-goog-encryption-kms-key-name");

/// Begins an upload, by the way that the service knows.
pub(super) async fn begin(
    inner: &Arc<Inner>,
    key: &Key,
    options: &PutOptions,
) -> Result<Box<dyn MultipartUpload>> {
    let failed = |failure| inner.error(StoreOp::BeginMultipart, key, failure);
    let location = &inner.info.location;
    if !inner.parts.by_resumable.is_set() {
        match headers(&metadata(options)) {
            // For this upload alone.
            None => tracing::debug!(
                "a tag cannot be written as a header: the upload of `{key}` is resumable"
            ),
            Some(headers) => match Upload::begin(inner, key, options.mode.clone(), headers).await {
                Ok(upload) => {
                    let what = "takes uploads in parts by the XML API: parts go side by side";
                    inner.parts.by_xml.learn(location, what);
                    return Ok(Box::new(upload));
                }
                Err(failure) if failure.leaves_resumable() => {
                    let what = format!(
                        "takes no uploads in parts by the XML API: they are resumable, and parts \
                         go one after the other ({})",
                        failure.text
                    );
                    inner.parts.by_resumable.learn(location, &what);
                }
                Err(failure) => return Err(failed(failure)),
            },
        }
    }
    let upload = Resumable::begin(inner, key, options)
        .await
        .map_err(failed)?;
    Ok(Box::new(upload))
}

impl Failure {
    /// Whether the service does not know the XML API.
    pub(super) fn says_no_xml_api(&self) -> bool {
        match self.kind {
            StoreErrorKind::Unsupported => true,
            StoreErrorKind::Invalid | StoreErrorKind::NotFound => !self.of_xml,
            _ => false,
        }
    }

    /// Whether the JSON API may take an object that the XML API refused. There are
    /// roles that may create objects, but not begin uploads of the latter kind.
    fn leaves_resumable(&self) -> bool {
        self.says_no_xml_api() || self.kind == StoreErrorKind::PermissionDenied
    }
}

/// Tags as headers; `None` if one of them cannot be one.
fn headers(tags: &[Tag]) -> Option<Vec<(HeaderName, String)>> {
    let plain = |text: &str| text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    let header = |tag: &Tag| {
        let name = format!("x-goog-meta-{}", tag.key);
        let name = HeaderName::try_from(name).ok()?;
        // White space around a value is not part of it in HTTP.
        let whole = plain(&tag.value) && tag.value.trim() == tag.value;
        (whole && !tag.key.is_empty()).then(|| (name, tag.value.clone()))
    };
    tags.iter().map(header).collect()
}

/// An upload that was begun.
struct Upload {
    inner: Arc<Inner>,
    key: Key,
    id: String,
    mode: PutMode,
    /// Sent with the beginning and with every part, as the reference does.
    headers: Vec<(HeaderName, String)>,
    over: AtomicBool,
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload")
            .field("key", &self.key)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Upload {
    async fn begin(
        inner: &Arc<Inner>,
        key: &Key,
        mode: PutMode,
        tags: Vec<(HeaderName, String)>,
    ) -> Result<Self, Failure> {
        let mut headers = vec![(CONTENT_TYPE, BYTES.to_owned())];
        headers.extend(inner.kms_key.clone().map(|key| (KMS_KEY, key)));
        headers.extend(tags);
        let call = Call::new(Method::POST, inner.xml_path(key)).flag("uploads");
        let answer = inner.ask(&with(call, &headers)).await?;
        let root = xml::parse(&answer.body);
        let id = root.as_ref().ok().and_then(|root| root.text("UploadId"));
        let Some(id) = id else {
            let why = "the answer to the beginning of an upload has no id";
            return Err(Failure::new(StoreErrorKind::Unsupported, why));
        };
        Ok(Self {
            inner: Arc::clone(inner),
            key: key.clone(),
            id: id.to_owned(),
            mode,
            headers,
            over: AtomicBool::new(false),
        })
    }

    fn call(&self, method: Method) -> Call {
        Call::new(method, self.inner.xml_path(&self.key))
    }

    /// Nothing can be done with an upload that was completed or aborted.
    fn check_open(&self) -> Result<(), Failure> {
        if self.over.load(Ordering::Relaxed) {
            return Err(Failure::new(StoreErrorKind::NotFound, "the upload is over"));
        }
        Ok(())
    }

    async fn send_part(&self, number: PartNumber, body: &Bytes) -> Result<PartReceipt, Failure> {
        self.check_open()?;
        let sent = printed(crc32c::crc32c(body));
        let call = self
            .call(Method::PUT)
            .query("partNumber", number.get().to_string())
            .query("uploadId", &self.id)
            .header(HASH, format!("crc32c={sent}"))
            .body([body.clone()]);
        let answer = self.inner.ask(&with(call, &self.headers)).await?;
        compare(&answer, &sent)?;
        let etag = answer
            .headers
            .get("etag")
            .and_then(|etag| etag.to_str().ok());
        let Some(etag) = etag.filter(|etag| !etag.is_empty()) else {
            let why = "the answer has no ETag";
            return Err(Failure::new(StoreErrorKind::Corrupt, why));
        };
        Ok(PartReceipt {
            number,
            size: body.len() as u64,
            token: format!("{sent} {etag}"),
        })
    }

    async fn finish(&self, parts: &[PartReceipt]) -> Result<PutReceipt, Failure> {
        self.check_open()?;
        if parts.is_empty() {
            let why = "an upload needs at least one part";
            return Err(Failure::new(StoreErrorKind::Invalid, why));
        }
        self.inner.look_before_end(&self.key, &self.mode).await?;
        let call = self
            .call(Method::POST)
            .query("uploadId", &self.id)
            .header(CONTENT_TYPE, "application/xml")
            .body([Bytes::from(named(parts))]);
        let answer = self.inner.ask(&call).await?;
        // A success can turn out to be a failure while it is answered, and an answer
        // that is cut or is somebody else's says nothing of the object.
        match xml::parse(&answer.body) {
            Ok(root) if root.name == "CompleteMultipartUploadResult" => {}
            Ok(root) if root.name == "Error" => return Err(Failure::answered(&answer)),
            _ => {
                let status = answer.status.as_u16();
                let why = format!(
                    "the answer (status {status}) does not say that the upload is \
                                   complete"
                );
                return Err(Failure::new(StoreErrorKind::Connect, why));
            }
        }
        if let Some(whole) = whole_checksum(parts) {
            compare(&answer, &whole)?;
        }
        self.over.store(true, Ordering::Relaxed);
        let generation = answer.headers.get("x-goog-generation");
        let generation = generation.and_then(|text| text.to_str().ok());
        Ok(PutReceipt {
            version: generation.map(|text| ObjectVersion(text.to_owned())),
        })
    }
}

fn with(call: Call, headers: &[(HeaderName, String)]) -> Call {
    let add = |call: Call, (name, value): &(HeaderName, String)| {
        call.header(name.clone(), value.as_str())
    };
    headers.iter().fold(call, add)
}

/// What the service has, compared with what was sent.
fn compare(answer: &Answer, sent: &str) -> Result<(), Failure> {
    match checksum(&answer.headers) {
        Some(stored) if stored != sent => {
            let why = format!("CRC-32C {sent} was sent, {stored} was stored");
            Err(Failure::new(StoreErrorKind::Corrupt, why))
        }
        _ => Ok(()),
    }
}

/// The parts as the end of an upload names them.
fn named(parts: &[PartReceipt]) -> String {
    let mut text = "<CompleteMultipartUpload>".to_owned();
    for part in parts {
        let etag = part.token.split_once(' ').map_or("", |(_, etag)| etag);
        let etag = quick_xml::escape::escape(etag);
        let number = part.number.get();
        text += &format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>");
    }
    text + "</CompleteMultipartUpload>"
}

/// The CRC-32C of all parts together.
fn whole_checksum(parts: &[PartReceipt]) -> Option<String> {
    let mut whole = 0;
    for part in parts {
        let (checksum, _) = part.token.split_once(' ')?;
        let bytes = BASE64_STANDARD.decode(checksum).ok()?;
        let one = u32::from_be_bytes(bytes.try_into().ok()?);
        whole = crc32c::crc32c_combine(whole, one, usize::try_from(part.size).ok()?);
    }
    Some(printed(whole))
}

impl Inner {
    /// What is there at the end of an upload must be what `mode` wants, which the
    /// service looks after at the beginning at most.
    pub(super) async fn look_before_end(&self, key: &Key, mode: &PutMode) -> Result<(), Failure> {
        if *mode == PutMode::Overwrite {
            return Ok(());
        }
        let found = match self.head(StoreOp::Complete, key).await {
            Ok(meta) => Some(meta),
            Err(error) if error.kind == StoreErrorKind::NotFound => None,
            Err(error) => return Err(Failure::new(error.kind, error.source.to_string())),
        };
        match mode.objection(found.as_ref()) {
            Some(why) => Err(Failure::new(StoreErrorKind::AlreadyExists, why)),
            None => Ok(()),
        }
    }

    /// Frees the parts of an upload; one that is gone has none.
    pub(super) async fn abort(&self, key: &Key, id: &str) -> Result<(), Failure> {
        let call = Call::new(Method::DELETE, self.xml_path(key)).query("uploadId", id);
        match self.ask(&call).await {
            Err(failure) if failure.kind != StoreErrorKind::NotFound => Err(failure),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl MultipartUpload for Upload {
    async fn put_part(&self, number: PartNumber, body: Bytes) -> Result<PartReceipt> {
        self.send_part(number, &body).await.map_err(|failure| {
            let what = format!("{} (part {})", self.key, number.get());
            self.inner.error(StoreOp::PutPart, what, failure)
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
        let aborted = self.inner.abort(&self.key, &self.id).await;
        aborted.map_err(|failure| self.inner.error(StoreOp::Abort, &self.key, failure))?;
        self.over.store(true, Ordering::Relaxed);
        Ok(())
    }
}
