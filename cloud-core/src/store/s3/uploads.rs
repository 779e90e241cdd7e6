//! Uploads that were begun and neither completed nor aborted.
//!
//! MinIO answers with none unless the prefix is a whole key, and takes that for
//! right (minio/minio issue 20989). What it does not list cannot be purged by
//! us; it drops such uploads itself after a day.

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use aws_sdk_s3::operation::list_multipart_uploads::ListMultipartUploadsOutput;
use futures_util::stream::BoxStream;

use super::error::Failure;
use super::get::time;
use super::list::{name, odd, told};
use super::whole::Whole;
use super::{Inner, Result, StoreError, StoreErrorKind, StoreOp, UnfinishedUpload};
use crate::key::{Key, Prefix};
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

    /// Names come as they are, not encoded: Ceph 16 encodes on request, but does
    /// not say so, and not the markers.
    async fn ask(&self, after: Option<UploadMarker>) -> Result<Answered<Self>> {
        let inner = &self.inner;
        let failed = |failure| inner.error(StoreOp::ListUploads, &self.prefix, failure);
        let (key, id) = after.map(|marker| (marker.key, marker.id)).unzip();
        let sent = inner.call(|connection| {
            connection
                .client
                .list_multipart_uploads()
                .bucket(&inner.bucket)
                .prefix(self.prefix.as_str())
                .set_key_marker(key.clone())
                .set_upload_id_marker(id.clone())
                .customize()
                .interceptor(Whole)
                .send()
        });
        let output = sent.await.map_err(failed)?;
        Ok(Answered {
            page: begun(&output, &self.prefix).map_err(failed)?,
            truncated: output.is_truncated(),
            marker: marker_of(&output, &self.prefix).map_err(failed)?,
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
        let looked = self.inner.look(begun).await;
        looked.map_err(|failure| self.inner.error(StoreOp::ListUploads, &begun.key, failure))
    }
}

fn marker_of(
    output: &ListMultipartUploadsOutput,
    prefix: &Prefix,
) -> Result<Option<UploadMarker>, Failure> {
    let key = told(output.next_key_marker());
    let id = told(output.next_upload_id_marker());
    let Some((text, id)) = key.zip(id) else {
        return Ok(None);
    };
    let key = name(&text, output.encoding_type(), prefix).ok_or_else(|| odd(&text))?;
    Ok(Some(UploadMarker { key, id }))
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
                    let request = self.encryption.list_parts(request).customize();
                    request.interceptor(Whole).send()
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
