//! What can go wrong with a store, by cause.

use std::fmt;

/// Result of a store operation.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// A store operation that failed, after its retries if there were any.
#[derive(Debug, thiserror::Error)]
#[error("could not {op} `{what}` in {location}{}", Attempts(*.attempts))]
pub struct StoreError {
    /// The cause, by class.
    pub kind: StoreErrorKind,
    /// What was being done.
    pub op: StoreOp,
    /// The key or prefix it was done to, or the bucket.
    pub what: String,
    /// The store, in words that hold no secret.
    pub location: String,
    /// How often it was tried.
    pub attempts: u32,
    /// The first failure; later ones are often only its echo.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

impl StoreError {
    /// What the store calls the request that it refused, if it answered and tells.
    pub fn request(&self) -> Option<&RequestId> {
        self.refused()?.request.as_deref()
    }

    /// The code of the store's answer, such as `NoSuchBucket`; empty if there is none.
    pub fn code(&self) -> &str {
        self.refused().map_or("", |refused| &refused.code)
    }

    fn refused(&self) -> Option<&Refused> {
        self.source.downcast_ref()
    }
}

/// How the operators of a store find a request: the names its answer gave it, in print and of
/// bounded length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId {
    /// The request's own.
    pub id: String,
    /// The second one that Amazon asks for, which names the machine.
    pub host: Option<String>,
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "request id {}", self.id)?;
        match &self.host {
            Some(host) => write!(f, ", host id {host}"),
            None => Ok(()),
        }
    }
}

/// Why a request failed, in one line; with what the answer calls it, if there was one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(
    not(feature = "remote"),
    expect(dead_code, reason = "a directory does not answer")
)]
pub(super) struct Refused {
    pub(super) text: String,
    /// Empty if there is none.
    pub(super) code: String,
    pub(super) request: Option<Box<RequestId>>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        match &self.request {
            Some(request) => write!(f, " ({request})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Refused {}

struct Attempts(u32);

impl fmt::Display for Attempts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 | 1 => Ok(()),
            n => write!(f, " ({n} attempts)"),
        }
    }
}

/// The class of a failure; decides on retries and exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoreErrorKind {
    /// The store did not answer in time. Whether a write happened is unknown.
    Timeout,
    /// No connection could be made: refused, unknown host, TLS, proxy; or one
    /// was lost midway.
    Connect,
    /// Whoever answered cannot prove to be the store: its certificate is not
    /// trusted, is for another name, or is out of date.
    Untrusted,
    /// The store asked to slow down.
    RateLimited,
    /// The store answered that it failed itself (500, 503).
    ServerFault,
    /// A create-only write ran into another one under way (S3's 409); the same
    /// request may succeed.
    Conflict,
    /// No object of that name.
    NotFound,
    /// No bucket of that name.
    BucketMissing,
    /// A create-only write found the key taken.
    AlreadyExists,
    /// The credentials do not allow it.
    PermissionDenied,
    /// No credentials, or the store does not accept them.
    Unauthenticated,
    /// The store cannot do it.
    Unsupported,
    /// Bytes are not the ones that were sent, or the object changed while it
    /// was read.
    Corrupt,
    /// No space is left, or a quota is used up.
    Full,
    /// The request is wrong in itself: a bad name, a size beyond the limits.
    Invalid,
    /// Anything else.
    Other,
}

impl StoreErrorKind {
    /// Whether the same request may succeed if sent again.
    pub fn is_transient(self) -> bool {
        match self {
            Self::Timeout
            | Self::Connect
            | Self::RateLimited
            | Self::ServerFault
            | Self::Conflict => true,
            // Listed one by one so that a new kind has to be thought about.
            Self::Untrusted
            | Self::NotFound
            | Self::BucketMissing
            | Self::AlreadyExists
            | Self::PermissionDenied
            | Self::Unauthenticated
            | Self::Unsupported
            | Self::Corrupt
            | Self::Full
            | Self::Invalid
            | Self::Other => false,
        }
    }

    /// Whether the store could not be reached, as opposed to: answered, and
    /// refused. (docs/decisions.md 9: exit code 2.)
    pub fn is_unreachable(self) -> bool {
        match self {
            Self::Timeout
            | Self::Connect
            | Self::Untrusted
            | Self::RateLimited
            | Self::ServerFault => true,
            Self::Conflict
            | Self::NotFound
            | Self::BucketMissing
            | Self::AlreadyExists
            | Self::PermissionDenied
            | Self::Unauthenticated
            | Self::Unsupported
            | Self::Corrupt
            | Self::Full
            | Self::Invalid
            | Self::Other => false,
        }
    }
}

/// What was being done to a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoreOp {
    /// `probe`
    Probe,
    /// `create_bucket`
    CreateBucket,
    /// `put`
    Put,
    /// `begin_multipart`
    BeginMultipart,
    /// `put_part`
    PutPart,
    /// `complete`
    Complete,
    /// `abort`, `abort_upload`
    Abort,
    /// `get`
    Get,
    /// `head`
    Head,
    /// `list`
    List,
    /// `delete_batch`
    Delete,
    /// `list_uploads`
    ListUploads,
}

#[cfg(feature = "remote")]
impl StoreOp {
    /// What was being done when a bucket was looked for by a listing, and that ended
    /// so: who was refused had reached it.
    pub(super) fn of_probe(kind: StoreErrorKind) -> Self {
        match kind {
            StoreErrorKind::PermissionDenied => Self::List,
            _ => Self::Probe,
        }
    }
}

impl fmt::Display for StoreOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Probe => "reach",
            Self::CreateBucket => "create",
            Self::Put => "write",
            Self::BeginMultipart => "begin the upload of",
            Self::PutPart => "upload a part of",
            Self::Complete => "complete the upload of",
            Self::Abort => "abort the upload of",
            Self::Get => "read",
            Self::Head => "look at",
            Self::List => "list",
            Self::Delete => "delete",
            Self::ListUploads => "list the unfinished uploads of",
        })
    }
}
