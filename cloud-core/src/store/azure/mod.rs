//! Azure Blob Storage, through the official crates.
//!
//! The crate of the service writes blobs and blocks and looks at them; what it
//! lacks (a listing with a delimiter, a batch of deletions) or does otherwise (a
//! download in several ranges at once) are requests of our own through the same
//! pipeline, so that all are signed, sent and judged alike.
//!
//! A container is never asked about in ordinary work: credentials may be for the
//! blobs in it alone.

mod checksum;
mod connect;
mod delete;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzzing;
mod get;
mod list;
mod multipart;
mod put;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use azure_core::http::{Method, Request, Url};
use futures_util::stream::{self, BoxStream, StreamExt};

pub(super) use self::connect::open_arm;
use self::connect::{Connect, Connection};
use self::error::Failure;
use super::wire::{Flag, Md5Judge};
use super::{
    Abilities, BucketState, DeleteReport, Depth, Download, Limits, ListPage, LockCheck,
    MultipartUpload, ObjectMeta, ObjectStore, Payload, PutOptions, PutReceipt, ReadRange, Refused,
    Result, StoreConfig, StoreError, StoreErrorKind, StoreInfo, StoreOp, UnfinishedUpload,
};
use crate::key::{Key, Prefix};

/// What the URL of the command line says of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// Scheme, host and, where the host is not Azure's own, the account.
    pub(super) account_url: String,
    pub(super) container: String,
    /// Path in the container, which the credentials may be limited to.
    pub(super) path: String,
    /// Whether the host is not Azure's own.
    pub(super) emulated: bool,
}

/// A container.
#[derive(Debug, Clone)]
pub struct AzureStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    info: StoreInfo,
    container: String,
    path: String,
    connect: Connect,
    /// `--encryption-scope`, for everything that is written.
    scope: Option<String>,
    /// The account turned out not to know batches of deletions.
    one_by_one: Flag,
    /// Whether `Content-MD5` is that of what is read.
    md5s: Arc<Md5Judge>,
}

impl AzureStore {
    /// The container at `place` with the options in `config`. Asks nobody.
    pub(super) fn new(config: &StoreConfig, place: Place) -> Self {
        Self::with(config, Connect::new(config, &place), place)
    }

    fn with(config: &StoreConfig, connect: Connect, place: Place) -> Self {
        const MIB: u64 = 1 << 20;
        // Source: Azure's documented scalability targets of Blob Storage, for
        // versions of the service since 2019-12-12.
        let (max_block, max_put, max_parts) = (4000 * MIB, 5000 * MIB, 50_000);
        let max_part = config.max_block_size.unwrap_or(max_block).min(max_block);
        let limits = Limits {
            // The service has none; this is the reference's. Who wants a size of
            // blocks gets blocks of that size.
            min_part: config
                .max_block_size
                .map_or(64 << 10, |size| size.min(max_part)),
            max_part,
            max_parts,
            max_object: u64::from(max_parts) * max_part,
            max_put: config.max_single_put_size.unwrap_or(max_put).min(max_put),
            delete_batch: 256,
            equal_parts: false,
        };
        let info = StoreInfo {
            kind: "Azure Blob Storage",
            location: format!("{}/{}", place.account_url, place.container),
            limits,
            abilities: Abilities {
                create_only: true,
                tags: true,
                bulk_delete: false,
                locks: true,
                wants_sha256: false,
            },
        };
        Self {
            inner: Arc::new(Inner {
                info,
                container: place.container,
                path: place.path,
                connect,
                scope: config.encryption_scope.clone(),
                one_by_one: Flag::default(),
                md5s: Arc::default(),
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

    fn connection(&self) -> Result<&Connection, Failure> {
        self.connect.get().map_err(Failure::from)
    }

    async fn probe(&self) -> Result<BucketState, Failure> {
        // The container itself may be none of our business: what is listed is
        // what the credentials are for.
        match self
            .list_page(&Prefix::text(&*self.path), Depth::All, None, Some(1))
            .await
        {
            Ok(_) => Ok(BucketState::Exists),
            Err(failure) if failure.kind == StoreErrorKind::BucketMissing => {
                Ok(BucketState::Missing)
            }
            Err(failure) => Err(failure),
        }
    }

    async fn create_container(&self) -> Result<(), Failure> {
        match self.connection()?.container.create(None).await {
            Ok(_) => Ok(()),
            Err(error) => match Failure::from(error) {
                failure if failure.code == "ContainerAlreadyExists" => Ok(()),
                failure => Err(failure),
            },
        }
    }
}

/// The version of the service's interface that is spoken: old enough for
/// emulators and for Azure in other people's cellars, new enough for index tags,
/// blocks of 4000 MiB, and names that XML cannot write.
const VERSION: &str = "2021-12-02";

/// A request of our own.
fn request(url: Url, method: Method) -> Request {
    let mut request = Request::new(url, method);
    request.insert_header("x-ms-version", VERSION);
    request
}

#[async_trait]
impl ObjectStore for AzureStore {
    fn info(&self) -> &StoreInfo {
        &self.inner.info
    }

    async fn probe(&self) -> Result<BucketState> {
        let inner = &self.inner;
        let failed = |failure: Failure| {
            let op = StoreOp::of_probe(failure.kind);
            inner.error(op, &inner.container, failure)
        };
        inner.probe().await.map_err(failed)
    }

    async fn create_bucket(&self) -> Result<()> {
        let inner = &self.inner;
        let failed = |failure| inner.error(StoreOp::CreateBucket, &inner.container, failure);
        inner.create_container().await.map_err(failed)
    }

    async fn put(&self, key: &Key, body: Payload, options: &PutOptions) -> Result<PutReceipt> {
        let failed = |failure| self.inner.error(StoreOp::Put, key, failure);
        let body = self.inner.info.payload(StoreOp::Put, key, &body)?;
        self.inner.put(key, body, options).await.map_err(failed)
    }

    async fn begin_multipart(
        &self,
        key: &Key,
        options: &PutOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let upload = multipart::Upload::new(&self.inner, key, options);
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

    /// There are none: blocks that were not committed belong to a name and not
    /// to an upload, can neither be told apart nor freed without writing under
    /// that name, and are dropped by the service a week after the last of them.
    fn list_uploads(&self, _prefix: &Prefix) -> BoxStream<'static, Result<Vec<UnfinishedUpload>>> {
        stream::empty().boxed()
    }

    async fn abort_upload(&self, _upload: &UnfinishedUpload) -> Result<()> {
        Ok(())
    }
}
