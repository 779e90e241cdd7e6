//! S3 and the many services that speak its language, through the official
//! crate.
//!
//! Habits for old and odd stores: every body has a plain length, nothing is sent
//! in chunks or with trailers, parts are of equal size, a bucket behind an
//! endpoint of its own is addressed by path. What a store turns out not to know
//! is remembered for the run and done without (docs/decisions.md 13, 25).

mod adapt;
mod body;
mod checksum;
mod connect;
mod delete;
mod encryption;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzzing;
mod get;
mod list;
mod look;
mod multipart;
mod put;
#[cfg(test)]
mod tests;
mod uploads;
mod whole;

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::types::{BucketLocationConstraint, CreateBucketConfiguration};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use futures_util::stream::BoxStream;

pub(super) use self::connect::open_ec2;
use self::connect::{Connect, Connection};
use self::encryption::Encryption;
use self::error::Failure;
use self::look::Looked;
use super::wire::{Flag, Md5Judge};
use super::{
    Abilities, BucketState, CustomerKey, DeleteReport, Depth, Download, Limits, ListPage,
    LockCheck, MultipartUpload, ObjectMeta, ObjectStore, Payload, PutOptions, PutReceipt,
    ReadRange, Refused, Result, StoreConfig, StoreError, StoreErrorKind, StoreInfo, StoreOp,
    UnfinishedUpload,
};
use crate::key::{Key, Prefix};

/// A bucket, or an access point.
#[derive(Debug, Clone)]
pub struct S3Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    info: StoreInfo,
    bucket: String,
    /// What the URL names in the bucket; the credentials may be for that alone.
    path: String,
    connect: Connect,
    encryption: Encryption,
    learned: Learned,
    looked: Looked,
}

/// What the store turned out not to know. Each is learned once per run.
#[derive(Debug, Default)]
struct Learned {
    /// Checksum headers: `Content-MD5` is sent in their place.
    without_checksums: Flag,
    /// Not a lack: the `ETag` of an object was seen to be its MD5.
    etags_are_md5: Flag,
    /// Whether the `ETag` of what is read is its MD5.
    read_etags: Arc<Md5Judge>,
    /// `If-None-Match` and `If-Match`: the name is looked up first.
    without_conditions: Flag,
    /// `DeleteObjects`: objects are deleted one by one.
    one_by_one: Flag,
    /// `ListParts`: when an upload was last written to is not known.
    without_part_lists: Flag,
}

impl S3Store {
    /// The bucket `bucket`, for what is below `path`, with the options in `config`.
    /// Asks nobody.
    pub(super) fn new(
        config: &StoreConfig,
        bucket: &str,
        path: &str,
        key: Option<CustomerKey>,
    ) -> Self {
        Self::with(config, bucket, path, key, Connect::new(config))
    }

    fn with(
        config: &StoreConfig,
        bucket: &str,
        path: &str,
        key: Option<CustomerKey>,
        connect: Connect,
    ) -> Self {
        // Source, but for the parts: Amazon S3's documented limits.
        let limits = Limits {
            min_part: 5 << 20,
            max_part: 5 << 30,
            // Amazon allows 10,000. Scaleway does not, and that shows only when
            // part 1,001 of what cannot be read again is refused.
            max_parts: 1000,
            max_object: 5 << 40,
            max_put: 5 << 30,
            delete_batch: 1000,
            // Cloudflare R2 and others insist on it.
            equal_parts: true,
        };
        let info = StoreInfo {
            kind: "S3",
            location: format!("s3://{bucket}"),
            limits,
            abilities: Abilities {
                create_only: true,
                tags: true,
                bulk_delete: true,
                locks: true,
                wants_sha256: signs_bodies(config),
            },
        };
        Self {
            inner: Arc::new(Inner {
                info,
                bucket: bucket.to_owned(),
                path: path.to_owned(),
                connect,
                encryption: Encryption::new(config, key),
                learned: Learned::default(),
                looked: Looked::default(),
            }),
        }
    }
}

/// Whether the SHA-256 of bodies will be part of the signatures, as far as the options
/// tell: where TLS does not protect them.
fn signs_bodies(config: &StoreConfig) -> bool {
    let endpoint = config.endpoint_url.as_deref();
    endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"))
}

impl Inner {
    /// Sends a request, and once more to the right region if the store says
    /// that the bucket is in another one, or with other credentials if the time
    /// of those is over and there are some.
    async fn call<T, E, F>(&self, send: impl Fn(&Connection) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, SdkError<E, HttpResponse>>> + Send,
        E: ProvideErrorMetadata + Error + Send + Sync + 'static,
    {
        let connection = self.connect.get().await?;
        let began = Instant::now();
        let failure = match send(&connection).await {
            Ok(answer) => return Ok(answer),
            Err(error) => Failure::from(error),
        };
        let connection = match &failure.region {
            Some(region) if *region != connection.region => {
                self.connect.moved(&connection, region).await?
            }
            _ if failure.may_be_of_old_credentials() && self.connect.renew(began).await? => {
                tracing::debug!("the credentials were renewed: {}", failure.text);
                connection
            }
            _ => return Err(failure),
        };
        send(&connection).await.map_err(Failure::from)
    }

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

    async fn probe(&self) -> Result<BucketState, Failure> {
        // The bucket itself may be none of our business: what is listed is what the
        // credentials are for.
        let refused = match self.list_one().await {
            Ok(()) => return Ok(BucketState::Exists),
            Err(failure) => failure,
        };
        match refused.kind {
            StoreErrorKind::BucketMissing => return Ok(BucketState::Missing),
            StoreErrorKind::PermissionDenied
            | StoreErrorKind::Unsupported
            | StoreErrorKind::NotFound => {}
            StoreErrorKind::Invalid if refused.status == Some(400) => {}
            _ => return Err(refused),
        }
        // Who may not list may perhaps look at the bucket.
        let sent = self
            .call(|connection| connection.client.head_bucket().bucket(&self.bucket).send())
            .await;
        match sent {
            Ok(_) => {
                let (location, path) = (&self.info.location, &self.path);
                tracing::info!("{location} does not list `{path}`: {}", refused.text);
                Ok(BucketState::Unlisted)
            }
            Err(failure) if failure.status == Some(404) => Ok(BucketState::Missing),
            Err(_) => Err(refused),
        }
    }

    /// Lists one name of those that the tools work with.
    async fn list_one(&self) -> Result<(), Failure> {
        let sent = self.call(|connection| {
            let request = connection.client.list_objects_v2().bucket(&self.bucket);
            let request = request.prefix(Prefix::dir(&self.path).as_str());
            request.max_keys(1).send()
        });
        sent.await.map(drop)
    }

    async fn create_bucket(&self) -> Result<(), Failure> {
        if self.bucket.starts_with("arn:") {
            let text = format!(
                "Cannot create bucket '{}': this looks like an S3 access point ARN, and access \
                 points are made beforehand, with the bucket behind them",
                self.bucket
            );
            return Err(Failure::new(StoreErrorKind::Unsupported, text));
        }
        let sent = self
            .call(|connection| {
                let request = connection.client.create_bucket().bucket(&self.bucket);
                // The one region that must not be named.
                let elsewhere = (connection.region != "us-east-1").then(|| {
                    let region = BucketLocationConstraint::from(connection.region.as_str());
                    CreateBucketConfiguration::builder()
                        .location_constraint(region)
                        .build()
                });
                request.set_create_bucket_configuration(elsewhere).send()
            })
            .await;
        match sent {
            Ok(_) => Ok(()),
            Err(failure) if failure.code == "BucketAlreadyOwnedByYou" => Ok(()),
            Err(mut failure) => {
                if failure.code == "BucketAlreadyExists" {
                    failure.kind = StoreErrorKind::PermissionDenied;
                }
                Err(failure)
            }
        }
    }
}

#[async_trait]
impl ObjectStore for S3Store {
    fn info(&self) -> &StoreInfo {
        &self.inner.info
    }

    async fn probe(&self) -> Result<BucketState> {
        let failed = |failure: Failure| {
            let op = StoreOp::of_probe(failure.kind);
            self.inner.error(op, &self.inner.bucket, failure)
        };
        self.inner.probe().await.map_err(failed)
    }

    async fn create_bucket(&self) -> Result<()> {
        let failed = |failure| {
            self.inner
                .error(StoreOp::CreateBucket, &self.inner.bucket, failure)
        };
        self.inner.create_bucket().await.map_err(failed)
    }

    async fn put(&self, key: &Key, body: Payload, options: &PutOptions) -> Result<PutReceipt> {
        self.inner.put(key, body, options).await
    }

    async fn begin_multipart(
        &self,
        key: &Key,
        options: &PutOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let upload = multipart::Upload::begin(&self.inner, key, options).await?;
        Ok(Box::new(upload))
    }

    async fn get(&self, key: &Key, range: &ReadRange) -> Result<Download> {
        get::get(&self.inner, key, range).await
    }

    async fn head(&self, key: &Key, lock: LockCheck) -> Result<ObjectMeta> {
        self.inner.head(StoreOp::Head, key, lock).await
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
        self.inner.abort(&upload.key, &upload.id).await
    }
}
