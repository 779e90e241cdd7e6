//! Google Cloud Storage, by requests of our own.
//!
//! Single objects go by the JSON API, uploads in parts by the XML API, whose parts
//! can be sent side by side and again. A service that does not know the latter, or
//! does not allow it, gets resumable uploads in its place, which it turns out at
//! the first upload and is remembered for the run.
//!
//! Why not the vendor's crate: docs/architecture.md, "Google Cloud Storage".

mod body;
mod connect;
mod delete;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzzing;
mod get;
mod list;
mod multipart;
mod put;
mod request;
mod resumable;
#[cfg(test)]
mod tests;
mod uploads;

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use http::Method;
use serde_json::json;

use self::connect::Connect;
pub(super) use self::connect::open_compute;
use self::error::Failure;
use self::request::Call;
use super::http::Variables;
use super::wire::Flag;
use super::wire::url_encoded as encoded;
use super::{
    Abilities, BucketState, DeleteReport, Depth, Download, Limits, ListPage, LockCheck,
    MultipartUpload, ObjectMeta, ObjectStore, Payload, PutOptions, PutReceipt, ReadRange, Refused,
    Result, StoreConfig, StoreError, StoreErrorKind, StoreInfo, StoreOp, UnfinishedUpload,
};
use crate::key::{Key, Prefix};

/// A bucket.
#[derive(Debug, Clone)]
pub struct GcsStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    info: StoreInfo,
    bucket: String,
    connect: Connect,
    /// Of the key management service, for all that is written.
    kms_key: Option<String>,
    /// What is known of the way of uploads in parts.
    parts: PartsKnown,
}

/// By which way uploads in parts go: found out, and said, at the first one.
#[derive(Debug, Default)]
struct PartsKnown {
    by_xml: Flag,
    by_resumable: Flag,
}

impl GcsStore {
    /// The bucket `bucket` with the options in `config`. Asks nobody.
    pub(super) fn new(config: &StoreConfig, bucket: &str) -> Self {
        Self::with(config, bucket, Variables::of_process())
    }

    fn with(config: &StoreConfig, bucket: &str, variables: Variables) -> Self {
        // Source: Cloud Storage's documented quotas and limits. A single put has
        // the limit of a part, since it is sent from memory too.
        let limits = Limits {
            min_part: 5 << 20,
            max_part: 5 << 30,
            max_parts: 10_000,
            max_object: 5 << 40,
            max_put: 5 << 30,
            delete_batch: 100,
            equal_parts: false,
        };
        let info = StoreInfo {
            kind: "Google Cloud Storage",
            location: format!("gs://{bucket}"),
            limits,
            abilities: Abilities {
                create_only: true,
                tags: true,
                bulk_delete: false,
                // The reference looks for locks on S3 alone.
                locks: false,
                wants_sha256: false,
            },
        };
        Self {
            inner: Arc::new(Inner {
                info,
                bucket: bucket.to_owned(),
                connect: Connect::new(config, variables),
                kms_key: config.kms_key_name.clone(),
                parts: PartsKnown::default(),
            }),
        }
    }
}

impl Inner {
    /// The words for what failed.
    fn error(&self, op: StoreOp, what: impl fmt::Display, failure: Failure) -> StoreError {
        let refused = Refused {
            text: failure.text,
            code: failure.code,
            request: failure.request,
        };
        self.info.error(op, what, failure.kind, refused)
    }

    /// An error of our own making.
    fn refuse(
        &self,
        op: StoreOp,
        what: impl fmt::Display,
        kind: StoreErrorKind,
        why: impl Into<String>,
    ) -> StoreError {
        self.info.error(op, what, kind, why.into())
    }

    /// The bucket in the JSON API.
    fn bucket_path(&self) -> String {
        format!("/storage/v1/b/{}", encoded(&self.bucket))
    }

    /// An object in the JSON API.
    fn object_path(&self, key: &Key) -> String {
        format!("{}/o/{}", self.bucket_path(), encoded(key.as_str()))
    }

    /// An object in the XML API.
    fn xml_path(&self, key: &Key) -> String {
        let key = encoded(key.as_str()).replace("%2F", "/");
        format!("/{}/{key}", encoded(&self.bucket))
    }

    /// The bucket itself may be looked at by few; a listing is what the tools need
    /// anyway, and who may not list the whole bucket may perhaps look at it.
    async fn probe(&self) -> Result<BucketState, Failure> {
        let list = Call::new(Method::GET, format!("{}/o", self.bucket_path()))
            .query("maxResults", "1")
            .query("fields", "kind");
        let look = Call::new(Method::GET, self.bucket_path()).query("fields", "name");
        let answer = match self.json(list).await {
            Err(refused) if refused.kind == StoreErrorKind::PermissionDenied => {
                match self.json(look).await {
                    Ok(_) => return Ok(BucketState::Unlisted),
                    Err(other) if other.kind == StoreErrorKind::PermissionDenied => Err(refused),
                    answer => answer,
                }
            }
            answer => answer,
        };
        match answer {
            Ok(_) => Ok(BucketState::Exists),
            Err(failure) if failure.status == Some(404) => Ok(BucketState::Missing),
            Err(failure) => Err(failure),
        }
    }

    async fn create_bucket(&self) -> Result<(), Failure> {
        let project = self.connect.get().await?.project().await?;
        let call = Call::new(Method::POST, "/storage/v1/b".into())
            .query("project", project)
            .json_body(&json!({"name": self.bucket}));
        match self.json(call).await {
            Ok(_) => Ok(()),
            // Ours, or somebody else's: the name is one for the whole world.
            Err(failure) if failure.status == Some(409) => match self.probe().await {
                Ok(BucketState::Exists | BucketState::Unlisted) => Ok(()),
                Err(other) if other.kind.is_transient() => Err(other),
                _ => Err(Failure {
                    kind: StoreErrorKind::PermissionDenied,
                    ..failure
                }),
            },
            Err(failure) => Err(failure),
        }
    }
}

/// A time as RFC 3339 writes it.
fn time(text: &str) -> Option<SystemTime> {
    let time: jiff::Timestamp = text.parse().ok()?;
    Some(time.into())
}

#[async_trait]
impl ObjectStore for GcsStore {
    fn info(&self) -> &StoreInfo {
        &self.inner.info
    }

    async fn probe(&self) -> Result<BucketState> {
        let inner = &self.inner;
        let failed = |failure: Failure| {
            let op = StoreOp::of_probe(failure.kind);
            inner.error(op, &inner.bucket, failure)
        };
        inner.probe().await.map_err(failed)
    }

    async fn create_bucket(&self) -> Result<()> {
        let inner = &self.inner;
        let failed = |failure| inner.error(StoreOp::CreateBucket, &inner.bucket, failure);
        inner.create_bucket().await.map_err(failed)
    }

    async fn put(&self, key: &Key, body: Payload, options: &PutOptions) -> Result<PutReceipt> {
        self.inner.put(key, body, options).await
    }

    async fn begin_multipart(
        &self,
        key: &Key,
        options: &PutOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        multipart::begin(&self.inner, key, options).await
    }

    async fn get(&self, key: &Key, range: &ReadRange) -> Result<Download> {
        get::get(&self.inner, key, range).await
    }

    async fn head(&self, key: &Key, _lock: LockCheck) -> Result<ObjectMeta> {
        self.inner.head(StoreOp::Head, key).await
    }

    fn list(&self, prefix: &Prefix, depth: Depth) -> BoxStream<'static, Result<ListPage>> {
        list::list(&self.inner, prefix, depth)
    }

    async fn delete_batch(&self, keys: &[Key]) -> Result<DeleteReport> {
        self.inner.delete_batch(keys).await
    }

    fn list_uploads(&self, prefix: &Prefix) -> BoxStream<'static, Result<Vec<UnfinishedUpload>>> {
        uploads::list(&self.inner, prefix)
    }

    async fn abort_upload(&self, upload: &UnfinishedUpload) -> Result<()> {
        let inner = &self.inner;
        let aborted = inner.abort(&upload.key, &upload.id).await;
        aborted.map_err(|failure| inner.error(StoreOp::Abort, &upload.key, failure))
    }
}
