//! Object stores: what callers may rely on, and the types they share.
//!
//! [`ObjectStore`] is the whole contract. Each store lives in a file of its
//! own and passes `conformance`; retries, limits and fault injection
//! are wrappers that are stores themselves. Nothing outside `registry` names a
//! particular store.

use std::error::Error;
use std::fmt;
use std::ops::Range;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

use crate::key::{Key, Prefix};

mod api;
#[cfg(feature = "azure")]
mod azure;
mod bandwidth;
mod config;
pub mod conformance;
mod counted;
mod error;
mod faulty;
#[cfg(feature = "gcp")]
mod gcs;
#[cfg(feature = "remote")]
mod http;
mod identity;
mod local;
mod memory;
mod null;
mod payload;
mod registry;
mod retry;
#[cfg(feature = "aws")]
mod s3;
#[cfg(all(test, feature = "remote"))]
#[cfg_attr(
    not(feature = "aws"),
    expect(dead_code, reason = "some of it is for the tests of S3")
)]
mod scripted;
mod sse_c;
mod traffic;
mod url;
mod util;
#[cfg(feature = "remote")]
mod wire;

pub use api::{Api, ApiAnswer, ApiCall, ApiError, ApiService, OpenedApi, open_api};
#[cfg(feature = "azure")]
pub use azure::AzureStore;
#[cfg(feature = "azure")]
use azure::Place as AzurePlace;
#[cfg(all(feature = "azure", any(test, feature = "fuzzing")))]
pub(crate) use azure::fuzzing::answers as azure_answers;
pub use bandwidth::Bandwidth;
pub use config::StoreConfig;
pub use counted::{Counted, Tally};
#[cfg(feature = "remote")]
use error::Refused;
pub use error::{RequestId, Result, StoreError, StoreErrorKind, StoreOp};
pub use faulty::{Fault, FaultyStore};
#[cfg(feature = "gcp")]
pub use gcs::GcsStore;
#[cfg(all(feature = "gcp", any(test, feature = "fuzzing")))]
pub(crate) use gcs::fuzzing::answers as gcs_answers;
pub use identity::identity;
pub use local::LocalStore;
pub use memory::MemoryStore;
pub use null::{Counts, NullStore};
pub use payload::{Payload, Pieces, Sums};
pub use registry::{OpenError, Opened, open};
pub use retry::{Retry, RetryPolicy};
#[cfg(feature = "aws")]
pub use s3::S3Store;
#[cfg(all(feature = "aws", any(test, feature = "fuzzing")))]
pub(crate) use s3::fuzzing::answers as s3_answers;
pub use sse_c::CustomerKey;
pub use traffic::{Traffic, count_retry};
pub use url::{InvalidUrl, Provider, StoreUrl, printable};
pub use util::{
    DeleteAllReport, delete_all, endless, exists, get_all, list_all, list_all_uploads, withheld,
};
#[cfg(feature = "remote")]
pub(crate) use wire::url_encoded;
#[cfg(feature = "aws")]
pub(crate) use wire::xml;

/// A flat set of named objects.
///
/// Implementations are shared between tasks; every method may be called at the
/// same time as any other.
#[async_trait]
pub trait ObjectStore: fmt::Debug + Send + Sync + 'static {
    /// Name for messages (no secrets), limits and abilities.
    fn info(&self) -> &StoreInfo;

    /// Looks for the bucket (container, directory) without changing anything.
    async fn probe(&self) -> Result<BucketState>;

    /// Creates the bucket. One that exists already is success.
    async fn create_bucket(&self) -> Result<()>;

    /// Stores `body` under `key`, all or nothing. Of a file that changed since its
    /// checksum was made nothing is stored, and the error is not transient.
    ///
    /// A reader sees the old object, the new one or `NotFound`, never a
    /// mixture. If what is there is not what the [`PutMode`] wants, the answer is
    /// `AlreadyExists` and nothing is changed, even with two writers.
    ///
    /// After a timeout or a lost connection it is *unknown* whether the write
    /// happened; repeating is safe.
    async fn put(&self, key: &Key, body: Payload, options: &PutOptions) -> Result<PutReceipt>;

    /// Begins an upload in parts; nothing is visible under `key` before
    /// [`MultipartUpload::complete`].
    async fn begin_multipart(
        &self,
        key: &Key,
        options: &PutOptions,
    ) -> Result<Box<dyn MultipartUpload>>;

    /// Reads an object or a range of it.
    ///
    /// Bytes arrive in order, with bounded read-ahead. `NotFound` if the key is
    /// absent; `Corrupt` if `range.version` is given and is no longer the
    /// current one.
    async fn get(&self, key: &Key, range: &ReadRange) -> Result<Download>;

    /// Reads size, time, version and fingerprint of an object, and its locks if
    /// asked to.
    async fn head(&self, key: &Key, lock: LockCheck) -> Result<ObjectMeta>;

    /// Lists the names that begin with `prefix`, page by page.
    ///
    /// A page is one answer of the store. Order is not promised. A stream that
    /// ends without an error was a whole listing. After a transient error,
    /// polling on asks for the same page again; a store that cannot do that
    /// ends the stream.
    fn list(&self, prefix: &Prefix, depth: Depth) -> BoxStream<'static, Result<ListPage>>;

    /// Deletes up to `limits.delete_batch` objects; missing ones count as
    /// deleted. `Err` means that the request as a whole failed.
    async fn delete_batch(&self, keys: &[Key]) -> Result<DeleteReport>;

    /// Lists the uploads in parts whose key begins with `prefix` that were
    /// begun and neither completed nor aborted, page by page, as `list` does.
    ///
    /// Those that are under way are among them: only `last_activity` tells them
    /// from what a killed process left. An upload that ends while the listing
    /// runs may be in it or not. A store that has no notion of such uploads
    /// gives an empty stream; `Unsupported` if it has, and cannot list them.
    fn list_uploads(&self, prefix: &Prefix) -> BoxStream<'static, Result<Vec<UnfinishedUpload>>>;

    /// Frees the parts of an upload that `list_uploads` named. One that is gone
    /// by now counts as aborted. Whoever still works on it is answered
    /// `NotFound` when it comes to [`MultipartUpload::complete`].
    async fn abort_upload(&self, upload: &UnfinishedUpload) -> Result<()>;
}

/// A multipart upload that was begun and is not finished.
///
/// Parts may be sent in any order and at the same time. Sending a number again
/// replaces its bytes, so a part that failed can simply be sent again. Nothing
/// is visible under the key until [`complete`](Self::complete) returns `Ok`.
///
/// Dropping the value keeps the parts in the store, and the store charges for
/// them; call [`abort`](Self::abort) on every way out that is not `complete`.
#[async_trait]
pub trait MultipartUpload: fmt::Debug + Send + Sync {
    /// Sends one part.
    async fn put_part(&self, number: PartNumber, body: Bytes) -> Result<PartReceipt>;

    /// Makes the object of `parts`: all that were sent, in the order of their
    /// numbers, and at least one, if only an empty one. (Some stores drop parts
    /// that are not named, Ceph refuses to go on without them.) A receipt that
    /// is not the latest of its number is `Invalid`.
    ///
    /// The answer is `AlreadyExists` if what is there by now is not what the
    /// [`PutMode`] in the options of the upload wants; the parts are then still
    /// there and want an `abort`.
    async fn complete(&self, parts: &[PartReceipt]) -> Result<PutReceipt>;

    /// Frees the parts. Safe to repeat, and after `complete`, failed or not.
    /// Other calls after the end of an upload are answered `NotFound`.
    async fn abort(&self) -> Result<()>;
}

/// What a store is called and can do.
#[derive(Debug, Clone)]
pub struct StoreInfo {
    /// Kind of store, in the words of its users: `S3`, `local directory`.
    pub kind: &'static str,
    /// The place as the user named it, without secrets: `s3://bucket`.
    pub location: String,
    /// Sizes and counts the store allows.
    pub limits: Limits,
    /// What the store can do.
    pub abilities: Abilities,
}

impl StoreInfo {
    /// The first failure of an operation on this store.
    fn error(
        &self,
        op: StoreOp,
        what: impl fmt::Display,
        kind: StoreErrorKind,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> StoreError {
        StoreError {
            kind,
            op,
            what: what.to_string(),
            location: self.location.clone(),
            attempts: 1,
            source: source.into(),
        }
    }

    /// All of a payload in memory, for a store whose requests want that.
    fn payload(&self, op: StoreOp, key: &Key, payload: &Payload) -> Result<Bytes> {
        let failed = |error| self.error(op, key, StoreErrorKind::Invalid, error);
        payload.bytes().map_err(failed)
    }
}

/// Sizes in bytes and counts that a store allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Smallest size of every part but the last.
    pub min_part: u64,
    /// Largest size of a part.
    pub max_part: u64,
    /// Most parts of one upload.
    pub max_parts: u32,
    /// Largest object.
    pub max_object: u64,
    /// Largest body of a single `put`.
    pub max_put: u64,
    /// Most keys of one `delete_batch`.
    pub delete_batch: usize,
    /// Whether all parts but the last must have the same size.
    pub equal_parts: bool,
}

/// What a store can do beside the methods all stores have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abilities {
    /// Whether [`PutMode::CreateOnly`] and [`PutMode::Replace`] are decided by the
    /// store itself. Where they are not, `put` looks first, which leaves a moment
    /// between look and write.
    pub create_only: bool,
    /// Whether `PutOptions::tags` can be kept; where not, a put with tags is
    /// answered `Unsupported`.
    pub tags: bool,
    /// Whether objects are deleted in bulk, a thousand and more in a request.
    /// There the reference deletes directories of WAL as a whole, with whatever
    /// else is in them, and so do we.
    pub bulk_delete: bool,
    /// Whether `head` can tell of locks.
    pub locks: bool,
    /// Whether a `put` wants the SHA-256 of its body, as far as that is known before it:
    /// who reads a file anyway spares the store reading it once more.
    pub wants_sha256: bool,
}

/// Whether the bucket is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BucketState {
    /// It exists and could be asked.
    Exists,
    /// It exists, and what is in it may not be listed: enough to write to it.
    Unlisted,
    /// The store answered that there is none.
    Missing,
}

/// What has to be there before a write.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum PutMode {
    /// Anything or nothing: an object of that name is replaced.
    #[default]
    Overwrite,
    /// Nothing.
    CreateOnly,
    /// The object in this version, which is replaced.
    Replace(ObjectVersion),
}

impl PutMode {
    /// Why a write in this mode must not be done over what was found.
    fn objection(&self, found: Option<&ObjectMeta>) -> Option<&'static str> {
        match (self, found) {
            (Self::Overwrite, _) | (Self::CreateOnly, None) => None,
            (Self::CreateOnly, Some(_)) => Some("an object of that name exists"),
            (Self::Replace(_), None) => Some("the object that was to be replaced is gone"),
            (Self::Replace(wanted), Some(found)) => (found.version.as_ref() != Some(wanted))
                .then_some("the object that was to be replaced was replaced by another"),
        }
    }
}

/// How to store an object. Encryption is configuration of the store, so that
/// no call can forget it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PutOptions {
    /// What to do when the key exists.
    pub mode: PutMode,
    /// Tags, in order. `Some` and empty sends an empty tag list.
    pub tags: Option<Vec<Tag>>,
    /// What the object was made of, in letters and digits, for whoever made it:
    /// kept beside the object, not in it, and given back by `head`. A hint and
    /// no more: a store that cannot keep it keeps the object without.
    pub fingerprint: Option<String>,
}

/// The name of a fingerprint in an object's user metadata. One word in lower
/// case is what all stores take: Azure wants an identifier, headers are told
/// apart without regard to case, and proxies drop those with an underscore.
const FINGERPRINT: &str = "barmanfingerprint";

/// A tag of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    /// Its name.
    pub key: String,
    /// Its value, possibly empty.
    pub value: String,
}

/// Text that changes whenever the content of a key is replaced: an ETag, a
/// generation, or what the store has of the kind. Says nothing of the content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectVersion(pub String);

/// What the store said of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutReceipt {
    /// Version of the object just written, where the store tells it.
    pub version: Option<ObjectVersion>,
}

/// Number of a part, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartNumber(std::num::NonZeroU32);

impl PartNumber {
    /// The first part.
    pub const FIRST: Self = Self(std::num::NonZeroU32::MIN);

    /// `None` for 0.
    pub fn new(number: u32) -> Option<Self> {
        std::num::NonZeroU32::new(number).map(Self)
    }

    /// The number, from 1.
    pub fn get(self) -> u32 {
        self.0.get()
    }
}

/// What the store said of a part; wanted back by `complete`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartReceipt {
    /// Number of the part.
    pub number: PartNumber,
    /// Size in bytes, as sent.
    pub size: u64,
    /// The store's own token for it (an ETag, a block id).
    pub token: String,
}

/// Which bytes to read, end exclusive. A range that does not lie within the
/// object is `Invalid`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReadRange {
    /// First byte.
    pub start: u64,
    /// End, exclusive; `None` reads to the end of the object.
    pub end: Option<u64>,
    /// Read only if this is still the current version.
    pub version: Option<ObjectVersion>,
}

impl ReadRange {
    /// The whole object.
    pub fn all() -> Self {
        Self::default()
    }
}

/// An object being read.
pub struct Download {
    /// The object as a whole; `size` is that of the object, not of the range.
    pub meta: ObjectMeta,
    /// The bytes that follow; the stream ends with an error if it would end
    /// before `range.end`.
    pub range: Range<u64>,
    /// The bytes, in order.
    pub body: BoxStream<'static, Result<Bytes>>,
}

impl fmt::Debug for Download {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Download")
            .field("meta", &self.meta)
            .field("range", &self.range)
            .finish_non_exhaustive()
    }
}

/// Whether `head` looks for locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockCheck {
    /// Locks are left out of the answer.
    Skip,
    /// Retention and legal hold are part of the answer.
    Look,
}

/// What a store knows of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Its name.
    pub key: Key,
    /// Its size in bytes.
    pub size: u64,
    /// When it was last written, if the store tells it.
    pub modified: Option<SystemTime>,
    /// Its version, if the store tells it.
    pub version: Option<ObjectVersion>,
    /// Why it cannot be deleted now; looked for only with `LockCheck::Look`.
    pub lock: Option<ObjectLock>,
    /// The fingerprint it was stored with; told by `head` alone.
    pub fingerprint: Option<String>,
}

/// Why an object cannot be deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObjectLock {
    /// Retained until this time.
    Until(SystemTime),
    /// A legal hold is set.
    LegalHold,
}

/// How deep a listing goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Everything that begins with the prefix.
    All,
    /// Only up to the next `/` after the prefix; what lies deeper is summed up
    /// in `ListPage::prefixes`.
    One,
}

/// One answer of a listing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListPage {
    /// Objects found. `lock` and `fingerprint` are never filled in.
    pub objects: Vec<ObjectMeta>,
    /// With [`Depth::One`]: the "directories", each ending in `/`. One may be
    /// named by several pages.
    pub prefixes: Vec<Prefix>,
}

/// An upload in parts that was begun and neither completed nor aborted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnfinishedUpload {
    /// The object it was to become. A local directory cannot tell: there it is
    /// the name of a file beside that object, which no object can have.
    pub key: Key,
    /// The store's own name of it; several uploads may have one key.
    pub id: String,
    /// When its newest part was written, or it was begun if it has none. `None`
    /// if the store does not tell: it may be a minute old.
    pub last_activity: Option<SystemTime>,
}

/// The fate of every key of a `delete_batch`.
#[derive(Debug, Default)]
pub struct DeleteReport {
    /// Deleted, or not there in the first place.
    pub deleted: Vec<Key>,
    /// Refused, and why.
    pub failed: Vec<(Key, StoreError)>,
}
