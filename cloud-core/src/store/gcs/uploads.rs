//! Uploads by the XML API that were begun and neither completed nor aborted.
//!
//! Resumable ones are listed by nobody; they cost nothing and are gone after a
//! week.

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use http::Method;

use super::error::Failure;
use super::list::odd;
use super::request::Call;
use super::{Inner, Result, StoreError, StoreErrorKind, StoreOp, UnfinishedUpload};
use crate::key::{Key, Prefix};
use crate::store::wire::xml::{self, Element};
use crate::store::wire::{
    Answered, Begun, Cause, Course, Next, Pages, UploadMarker, Uploads, uploads,
};

struct Listing {
    inner: Arc<Inner>,
    prefix: Prefix,
}

pub(super) fn list(
    inner: &Arc<Inner>,
    prefix: &Prefix,
) -> BoxStream<'static, Result<Vec<UnfinishedUpload>>> {
    uploads(Listing {
        inner: Arc::clone(inner),
        prefix: prefix.clone(),
    })
}

#[async_trait]
impl Pages for Listing {
    type Marker = UploadMarker;
    type Page = Vec<Begun>;

    async fn ask(&self, after: Option<UploadMarker>) -> Result<Answered<Self>> {
        let inner = &self.inner;
        let failed = |failure| inner.error(StoreOp::ListUploads, &self.prefix, failure);
        let bucket = format!("/{}", super::encoded(&inner.bucket));
        let mut call = Call::new(Method::GET, bucket).flag("uploads");
        if !self.prefix.as_str().is_empty() {
            call = call.query("prefix", self.prefix.as_str());
        }
        if let Some(marker) = after {
            call = call
                .query("key-marker", marker.key)
                .query("upload-id-marker", marker.id);
        }
        let none = Answered {
            page: Vec::new(),
            truncated: None,
            marker: None,
        };
        let answer = match inner.ask(&call).await {
            Ok(answer) => answer,
            Err(failure) if failure.says_no_xml_api() => return Ok(none),
            Err(failure) => return Err(failed(super::put::of_write(failure))),
        };
        // Who does not know the question answers with the objects, or with a page.
        let Some(root) = root(&answer.body, "ListMultipartUploadsResult") else {
            tracing::debug!("the service has no notion of unfinished uploads");
            return Ok(none);
        };
        let told = |name| root.text(name).unwrap_or_default().to_owned();
        let marker = UploadMarker {
            key: told("NextKeyMarker"),
            id: told("NextUploadIdMarker"),
        };
        Ok(Answered {
            page: begun(&root, &self.prefix).map_err(failed)?,
            truncated: truncated(&root),
            marker: Some(marker).filter(|marker| !marker.key.is_empty()),
        })
    }

    fn error(&self, cause: Cause) -> StoreError {
        let op = StoreOp::ListUploads;
        self.inner.error(op, &self.prefix, cause.into())
    }
}

#[async_trait]
impl Uploads for Listing {
    async fn look(&self, begun: &Begun) -> Result<Option<UnfinishedUpload>> {
        match self.inner.last_activity(begun).await {
            Ok(last_activity) => Ok(Some(UnfinishedUpload {
                key: begun.key.clone(),
                id: begun.id.clone(),
                last_activity,
            })),
            Err(failure) if failure.kind == StoreErrorKind::NotFound => Ok(None),
            Err(failure) => Err(self.inner.error(StoreOp::ListUploads, &begun.key, failure)),
        }
    }
}

/// The uploads of an answer whose keys begin with the prefix.
pub(super) fn begun(root: &Element, prefix: &Prefix) -> Result<Vec<Begun>, Failure> {
    let mut begun = Vec::new();
    for upload in root.all("Upload") {
        let name = upload.text("Key").unwrap_or_default();
        let key = Key::new(name).map_err(|_| odd(name))?;
        if key.strip_prefix(prefix).is_none() {
            continue;
        }
        let at = upload.text("Initiated").and_then(super::time);
        begun.push(Begun {
            key,
            id: upload.text("UploadId").ok_or_else(|| odd(name))?.to_owned(),
            at,
        });
    }
    Ok(begun)
}

/// Whether an answer says that there is more.
pub(super) fn truncated(root: &Element) -> Option<bool> {
    root.text("IsTruncated").map(|text| text == "true")
}

/// The document of an answer, if it is the one that was expected.
fn root(body: &[u8], name: &str) -> Option<Element> {
    let root = xml::parse(body).ok()?;
    (root.name == name).then_some(root)
}

impl Inner {
    /// When the newest part of an upload was written, or the upload was begun;
    /// `None` if the service does not tell.
    async fn last_activity(&self, begun: &Begun) -> Result<Option<SystemTime>, Failure> {
        let mut newest = begun.at;
        let mut course = Course::new();
        loop {
            let mut call =
                Call::new(Method::GET, self.xml_path(&begun.key)).query("uploadId", &begun.id);
            match &course.next {
                Next::First => {}
                Next::After(marker) => call = call.query("part-number-marker", marker),
                Next::End => return Ok(newest),
            }
            let answer = self.ask(&call).await?;
            let odd = || {
                let why = "the answer is no list of parts";
                Failure::new(StoreErrorKind::Connect, why)
            };
            let root = root(&answer.body, "ListPartsResult").ok_or_else(odd)?;
            for part in root.all("Part") {
                let Some(at) = part.text("LastModified").and_then(super::time) else {
                    return Ok(None);
                };
                newest = newest.max(Some(at));
            }
            let marker = root.text("NextPartNumberMarker").map(str::to_owned);
            let next = course.after(truncated(&root), marker)?;
            course.go(next);
        }
    }
}
