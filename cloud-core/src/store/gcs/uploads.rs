//! Uploads by the XML API that were begun and neither completed nor aborted.
//!
//! The service lists them, but tells only when they were begun, and a base backup
//! may have been writing to one for days. So each is asked for its parts: the
//! newest says whether somebody still works on it. Resumable uploads are listed by
//! nobody; they cost nothing and are gone after a week.

use std::sync::Arc;
use std::time::SystemTime;

use futures_util::FutureExt;
use futures_util::future::join_all;
use futures_util::stream::{self, BoxStream, StreamExt};
use http::Method;

use super::error::Failure;
use super::list::odd;
use super::request::Call;
use super::xml::{self, Element};
use super::{Inner, Result, StoreErrorKind, StoreOp, UnfinishedUpload};
use crate::key::{Key, Prefix};
use crate::store::wire::{Course, Next};

/// Requests for parts under way at the same time.
const LOOKS: usize = 8;

struct Listing {
    inner: Arc<Inner>,
    prefix: Prefix,
    course: Course<Marker>,
    /// The page that is being made. What was found out for it is kept when a
    /// request fails, and not asked for again.
    page: Option<Page>,
}

/// The last upload of an answer. Both are needed: many may have one key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Marker {
    key: String,
    id: String,
}

#[derive(Debug)]
struct Page {
    /// Those whose parts were not looked at yet.
    waiting: Vec<Begun>,
    done: Vec<UnfinishedUpload>,
}

/// An upload as the service lists it.
#[derive(Debug)]
struct Begun {
    key: Key,
    id: String,
    at: Option<SystemTime>,
}

pub(super) fn list(
    inner: &Arc<Inner>,
    prefix: &Prefix,
) -> BoxStream<'static, Result<Vec<UnfinishedUpload>>> {
    let listing = Listing {
        inner: Arc::clone(inner),
        prefix: prefix.clone(),
        course: Course::new(),
        page: None,
    };
    stream::unfold(listing, |mut listing| async {
        let page = listing.page().await.transpose()?;
        Some((page, listing))
    })
    .boxed()
}

impl Listing {
    /// The next page. After an error the same one is asked for again.
    async fn page(&mut self) -> Result<Option<Vec<UnfinishedUpload>>> {
        let mut page = match self.page.take() {
            Some(page) => page,
            None => match self.begin().await? {
                Some(page) => page,
                None => return Ok(None),
            },
        };
        while !page.waiting.is_empty() {
            if let Err((key, failure)) = self.inner.look_at_some(&mut page).await {
                self.page = Some(page);
                return Err(self.inner.error(StoreOp::ListUploads, key, failure));
            }
        }
        Ok(Some(page.done))
    }

    /// The uploads of the next answer, before they were looked at.
    async fn begin(&mut self) -> Result<Option<Page>> {
        let marker = match &self.course.next {
            Next::First => None,
            Next::After(marker) => Some(marker.clone()),
            Next::End => return Ok(None),
        };
        let failed = |failure| {
            let op = StoreOp::ListUploads;
            self.inner.error(op, &self.prefix, failure)
        };
        let (waiting, next) = self.ask(marker).await.map_err(failed)?;
        self.course.go(next);
        Ok(Some(Page {
            waiting,
            done: Vec::new(),
        }))
    }

    async fn ask(&self, marker: Option<Marker>) -> Result<(Vec<Begun>, Next<Marker>), Failure> {
        let inner = &self.inner;
        let bucket = format!("/{}", super::encoded(&inner.bucket));
        let mut call = Call::new(Method::GET, bucket).flag("uploads");
        if !self.prefix.as_str().is_empty() {
            call = call.query("prefix", self.prefix.as_str());
        }
        if let Some(marker) = marker {
            call = call
                .query("key-marker", marker.key)
                .query("upload-id-marker", marker.id);
        }
        let none = (Vec::new(), Next::End);
        let answer = match inner.ask(&call).await {
            Ok(answer) => answer,
            Err(failure) if failure.says_no_xml_api() => return Ok(none),
            Err(failure) => return Err(super::put::of_write(failure)),
        };
        // Who does not know the question answers with the objects, or with a page.
        let Some(root) = root(&answer.body, "ListMultipartUploadsResult") else {
            tracing::debug!("the service has no notion of unfinished uploads");
            return Ok(none);
        };
        let marker = Marker {
            key: root.text("NextKeyMarker").unwrap_or_default().to_owned(),
            id: root
                .text("NextUploadIdMarker")
                .unwrap_or_default()
                .to_owned(),
        };
        let marker = Some(marker).filter(|marker| !marker.key.is_empty());
        let truncated = root.text("IsTruncated").map(|text| text == "true");
        let next = self.course.after(truncated, marker)?;
        Ok((self.begun(&root)?, next))
    }

    /// The uploads of an answer whose keys begin with the prefix.
    fn begun(&self, root: &Element) -> Result<Vec<Begun>, Failure> {
        let mut begun = Vec::new();
        for upload in root.all("Upload") {
            let name = upload.text("Key").unwrap_or_default();
            let key = Key::new(name).map_err(|_| odd(name))?;
            if key.strip_prefix(&self.prefix).is_none() {
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
}

/// The document of an answer, if it is the one that was expected.
fn root(body: &[u8], name: &str) -> Option<Element> {
    let root = xml::parse(body).ok()?;
    (root.name == name).then_some(root)
}

impl Inner {
    /// Looks at the next few uploads of a page. Those that could not be looked
    /// at stay; the first failure is returned, with the key it was about.
    async fn look_at_some(&self, page: &mut Page) -> Result<(), (Key, Failure)> {
        let some = page.waiting.len().saturating_sub(LOOKS);
        let some = page.waiting.split_off(some);
        let looks: Vec<_> = some.iter().map(|one| self.look(one).boxed()).collect();
        let looks = join_all(looks).await;
        let mut failed = None;
        for (begun, look) in some.into_iter().zip(looks) {
            match look {
                Ok(last_activity) => page.done.push(UnfinishedUpload {
                    key: begun.key,
                    id: begun.id,
                    last_activity,
                }),
                // It ended meanwhile.
                Err(failure) if failure.kind == StoreErrorKind::NotFound => {}
                Err(failure) => {
                    failed.get_or_insert_with(|| (begun.key.clone(), failure));
                    page.waiting.push(begun);
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// When the newest part of an upload was written, or the upload was begun;
    /// `None` if the service does not tell.
    async fn look(&self, begun: &Begun) -> Result<Option<SystemTime>, Failure> {
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
            let truncated = root.text("IsTruncated").map(|text| text == "true");
            let next = course.after(truncated, marker)?;
            course.go(next);
        }
    }
}
