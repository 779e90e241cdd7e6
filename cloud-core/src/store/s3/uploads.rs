//! Uploads that were begun and neither completed nor aborted.
//!
//! The store lists them, but tells only when they were begun, and a base backup
//! may have been writing to one for days. So each is asked for its parts: the
//! newest says whether somebody still works on it.
//!
//! MinIO answers with none unless the prefix is a whole key, and takes that for
//! right (minio/minio issue 20989). What it does not list cannot be purged by
//! us; it drops such uploads itself after a day.

use std::sync::Arc;
use std::time::SystemTime;

use aws_sdk_s3::operation::list_multipart_uploads::ListMultipartUploadsOutput;
use futures_util::FutureExt;
use futures_util::future::join_all;
use futures_util::stream::{self, BoxStream, StreamExt};

use super::error::Failure;
use super::get::time;
use super::list::{name, odd, told};
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

/// An upload as the store lists it.
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

    /// Names come as they are, not encoded: Ceph 16 encodes on request, but does
    /// not say so, and not the markers.
    async fn ask(&self, marker: Option<Marker>) -> Result<(Vec<Begun>, Next<Marker>), Failure> {
        let (key, id) = marker.map(|marker| (marker.key, marker.id)).unzip();
        let output = self
            .inner
            .call(|connection| {
                connection
                    .client
                    .list_multipart_uploads()
                    .bucket(&self.inner.bucket)
                    .prefix(self.prefix.as_str())
                    .set_key_marker(key.clone())
                    .set_upload_id_marker(id.clone())
                    .send()
            })
            .await?;
        let next = self
            .course
            .after(output.is_truncated(), marker_of(&output, &self.prefix)?)?;
        Ok((begun(&output, &self.prefix)?, next))
    }
}

fn marker_of(
    output: &ListMultipartUploadsOutput,
    prefix: &Prefix,
) -> Result<Option<Marker>, Failure> {
    let key = told(output.next_key_marker());
    let id = told(output.next_upload_id_marker());
    let Some((text, id)) = key.zip(id) else {
        return Ok(None);
    };
    let key = name(&text, output.encoding_type(), prefix).ok_or_else(|| odd(&text))?;
    Ok(Some(Marker { key, id }))
}

/// The uploads of an answer. Those of other keys are left out: whoever lists
/// may be about to abort, and not every gateway knows the prefix here.
fn begun(output: &ListMultipartUploadsOutput, prefix: &Prefix) -> Result<Vec<Begun>, Failure> {
    let mut begun = Vec::new();
    for upload in output.uploads() {
        let text = upload.key().unwrap_or_default();
        let key = name(text, output.encoding_type(), prefix).and_then(|name| Key::new(name).ok());
        let key = key.ok_or_else(|| odd(text))?;
        if key.strip_prefix(prefix).is_none() {
            continue;
        }
        let id = told(upload.upload_id()).ok_or_else(|| {
            let why = format!("the listing has an upload of `{key}` without an id");
            Failure::new(StoreErrorKind::Corrupt, why)
        })?;
        let at = time(upload.initiated());
        begun.push(Begun { key, id, at });
    }
    Ok(begun)
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
                Ok(upload) => page.done.extend(upload),
                Err(failure) => {
                    failed.get_or_insert_with(|| (begun.key.clone(), failure));
                    page.waiting.push(begun);
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// An upload with its last activity; `None` if it ended meanwhile.
    async fn look(&self, begun: &Begun) -> Result<Option<UnfinishedUpload>, Failure> {
        let last_activity = match self.last_activity(begun).await {
            Ok(at) => at,
            Err(failure) => match failure.kind {
                StoreErrorKind::NotFound => return Ok(None),
                StoreErrorKind::Unsupported => {
                    let what = "does not know ListParts: nobody can tell when uploads that were \
                                begun were last written to";
                    self.learned
                        .without_part_lists
                        .learn(&self.info.location, what);
                    None
                }
                // As for parts under a customer key that is not ours.
                StoreErrorKind::Invalid => {
                    let (location, key, why) = (&self.info.location, &begun.key, failure.text);
                    tracing::info!(
                        "{location} does not tell when the upload of `{key}` was last written \
                         to: {why}"
                    );
                    None
                }
                _ => return Err(failure),
            },
        };
        Ok(Some(UnfinishedUpload {
            key: begun.key.clone(),
            id: begun.id.clone(),
            last_activity,
        }))
    }

    /// When the newest part of an upload was written, or the upload was begun;
    /// `None` if the store does not tell.
    async fn last_activity(&self, begun: &Begun) -> Result<Option<SystemTime>, Failure> {
        if self.learned.without_part_lists.is_set() {
            return Ok(None);
        }
        let mut newest = begun.at;
        let mut course = Course::new();
        loop {
            let marker = match &course.next {
                Next::First => None,
                Next::After(marker) => Some(marker),
                Next::End => return Ok(newest),
            };
            let output = self
                .call(|connection| {
                    let request = connection
                        .client
                        .list_parts()
                        .bucket(&self.bucket)
                        .key(begun.key.as_str())
                        .upload_id(&begun.id)
                        .set_part_number_marker(marker.cloned());
                    self.encryption.list_parts(request).send()
                })
                .await?;
            for part in output.parts() {
                let Some(at) = time(part.last_modified()) else {
                    return Ok(None);
                };
                newest = newest.max(Some(at));
            }
            let marker = told(output.next_part_number_marker());
            let next = course.after(output.is_truncated(), marker)?;
            course.go(next);
        }
    }
}
