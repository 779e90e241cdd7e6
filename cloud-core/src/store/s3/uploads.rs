//! Uploads in parts that were never completed.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::SystemTime;

use aws_sdk_s3::operation::list_multipart_uploads::ListMultipartUploadsOutput;
use aws_sdk_s3::types::EncodingType;
use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::error::Failure;
use super::get::time;
use super::list::name_of;
use super::{Inner, Result, StoreErrorKind, StoreOp};
use crate::key::{Key, Prefix};
use crate::store::UnfinishedUpload;

/// Uploads whose parts are listed at the same time.
const LISTINGS: usize = 8;

/// An upload as the listing of uploads has it.
struct Begun {
    key: Key,
    id: String,
    at: Option<SystemTime>,
}

/// Where the next page of a listing of uploads begins.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Marker {
    key: String,
    upload: Option<String>,
}

pub(super) async fn list(inner: &Arc<Inner>, prefix: &Prefix) -> Result<Vec<UnfinishedUpload>> {
    let failed = |failure| inner.error(StoreOp::ListUploads, prefix, failure);
    let begun = all_begun(inner, prefix).await.map_err(failed)?;
    let uploads = stream::iter(begun)
        .map(|begun| with_activity(inner, begun))
        .buffer_unordered(LISTINGS)
        .try_filter_map(|upload| std::future::ready(Ok(upload)));
    let mut uploads: Vec<_> = uploads.try_collect().await.map_err(failed)?;
    uploads.sort_by(|one, other| (&one.key, &one.id).cmp(&(&other.key, &other.id)));
    Ok(uploads)
}

async fn all_begun(inner: &Inner, prefix: &Prefix) -> Result<Vec<Begun>, Failure> {
    let mut all = Vec::new();
    let mut used = HashSet::new();
    let mut marker: Option<Marker> = None;
    loop {
        let output = inner
            .call(|connection| {
                let marker = marker.clone();
                connection
                    .client
                    .list_multipart_uploads()
                    .bucket(&inner.bucket)
                    .prefix(prefix.as_str())
                    .encoding_type(EncodingType::Url)
                    .set_key_marker(marker.as_ref().map(|marker| marker.key.clone()))
                    .set_upload_id_marker(marker.and_then(|marker| marker.upload))
                    .send()
            })
            .await?;
        let encoded = output.encoding_type() == Some(&EncodingType::Url);
        for upload in output.uploads() {
            let text = upload.key().unwrap_or_default();
            let key = name_of(text, encoded).and_then(|name| Key::new(name).ok());
            let id = upload.upload_id().filter(|id| !id.is_empty());
            let (Some(key), Some(id)) = (key, id) else {
                let text = text.escape_default();
                let why = format!("the listing has an upload without name or id: `{text}`");
                return Err(Failure::new(StoreErrorKind::Corrupt, why));
            };
            // Some stores take a prefix for a hint.
            if key.strip_prefix(prefix).is_some() {
                all.push(Begun {
                    key,
                    id: id.to_owned(),
                    at: time(upload.initiated()),
                });
            }
        }
        if output.is_truncated() != Some(true) {
            return Ok(all);
        }
        let next = next_marker(&output, encoded).filter(|next| used.insert(next.clone()));
        let Some(next) = next else {
            let why = "the answer says that there is more, but not how to get it";
            return Err(Failure::new(StoreErrorKind::Corrupt, why));
        };
        marker = Some(next);
    }
}

fn next_marker(output: &ListMultipartUploadsOutput, encoded: bool) -> Option<Marker> {
    let key = output.next_key_marker().filter(|key| !key.is_empty())?;
    let upload = output.next_upload_id_marker().filter(|id| !id.is_empty());
    Some(Marker {
        key: name_of(key, encoded)?,
        upload: upload.map(str::to_owned),
    })
}

/// The upload with the time of its newest part; `None` if it is over by now.
async fn with_activity(inner: &Inner, begun: Begun) -> Result<Option<UnfinishedUpload>, Failure> {
    let mut newest = begun.at;
    let mut marker: Option<String> = None;
    loop {
        let sent = inner
            .call(|connection| {
                connection
                    .client
                    .list_parts()
                    .bucket(&inner.bucket)
                    .key(begun.key.as_str())
                    .upload_id(&begun.id)
                    .set_part_number_marker(marker.clone())
                    .send()
            })
            .await;
        let output = match sent {
            Ok(output) => output,
            Err(failure) if failure.kind == StoreErrorKind::NotFound => return Ok(None),
            Err(failure) => return Err(failure),
        };
        for part in output.parts() {
            newest = newest.max(time(part.last_modified()));
        }
        let next = output.next_part_number_marker();
        let next = next.filter(|next| !next.is_empty() && marker.as_deref() != Some(*next));
        match (output.is_truncated(), next) {
            (Some(true), Some(next)) => marker = Some(next.to_owned()),
            (Some(true), None) => {
                let why = "the answer says that there are more parts, but not how to get them";
                return Err(Failure::new(StoreErrorKind::Corrupt, why));
            }
            _ => break,
        }
    }
    Ok(Some(UnfinishedUpload {
        key: begun.key,
        id: begun.id,
        last_activity: newest,
    }))
}

impl Inner {
    /// Frees the parts of an upload. One that is gone is freed already.
    pub(super) async fn abort(&self, key: &Key, id: &str) -> Result<(), Failure> {
        let sent = self
            .call(|connection| {
                connection
                    .client
                    .abort_multipart_upload()
                    .bucket(&self.bucket)
                    .key(key.as_str())
                    .upload_id(id)
                    .send()
            })
            .await;
        match sent {
            Err(failure) if failure.kind != StoreErrorKind::NotFound => Err(failure),
            _ => Ok(()),
        }
    }
}
