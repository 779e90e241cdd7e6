//! What can go wrong with snapshots, by cause.

use crate::store::{ApiError, RequestId, StoreErrorKind};

/// Something could not be done with a snapshot, after its retries.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct SnapshotError {
    /// The cause, by class.
    pub kind: SnapshotErrorKind,
    /// One line: what was being done, to what, and why it failed. No secrets.
    pub text: String,
}

/// The class of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotErrorKind {
    /// The service could not be reached, or was busy all the time.
    Unreachable,
    /// Whether it was done is not known.
    Unknown,
    /// The options are wrong, or what they name is not there.
    Invalid,
    /// A snapshot is locked.
    Locked,
    /// A snapshot that is not the backup's.
    Foreign,
    /// There is no such thing.
    Absent,
    /// The service refused, or failed.
    Refused,
}

impl SnapshotError {
    /// A failure in words.
    pub fn new(kind: SnapshotErrorKind, text: impl Into<String>) -> Self {
        let text: String = text.into();
        Self {
            kind,
            text: text.split_whitespace().collect::<Vec<_>>().join(" "),
        }
    }

    /// A refusal in words, with what the service calls the request, if it tells.
    pub(super) fn refused(
        kind: SnapshotErrorKind,
        text: String,
        request: Option<&RequestId>,
    ) -> Self {
        match request {
            Some(request) => Self::new(kind, format!("{text} ({request})")),
            None => Self::new(kind, text),
        }
    }

    /// The same failure, told as part of what was being done.
    pub(super) fn while_(self, doing: &str) -> Self {
        Self::new(self.kind, format!("{doing}: {}", self.text))
    }
}

impl From<ApiError> for SnapshotError {
    fn from(error: ApiError) -> Self {
        let kind = match error.kind {
            StoreErrorKind::Invalid | StoreErrorKind::Unsupported => SnapshotErrorKind::Invalid,
            kind if kind.is_unreachable() => SnapshotErrorKind::Unreachable,
            _ => SnapshotErrorKind::Refused,
        };
        Self::new(kind, error.text)
    }
}
