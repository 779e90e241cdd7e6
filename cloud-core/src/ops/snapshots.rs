//! What the operations on snapshot backups have in common.

use super::{OpError, OpErrorKind};
use crate::snapshot::{SnapshotError, SnapshotErrorKind};

/// What a failure with snapshots means before anything was changed.
pub(super) fn failed(error: &SnapshotError) -> OpError {
    let kind = match error.kind {
        SnapshotErrorKind::Unreachable => OpErrorKind::Unreachable,
        SnapshotErrorKind::Locked => OpErrorKind::Failed,
        SnapshotErrorKind::Unknown
        | SnapshotErrorKind::Invalid
        | SnapshotErrorKind::Foreign
        | SnapshotErrorKind::Absent
        | SnapshotErrorKind::Refused => OpErrorKind::General,
    };
    OpError::new(kind, &error.text)
}

/// Options that a cloud needs and nobody gave, by the reference's names.
pub(super) struct Missing(Vec<&'static str>);

impl Missing {
    pub(super) fn new() -> Self {
        Self(Vec::new())
    }

    pub(super) fn unless(&mut self, name: &'static str, given: bool) {
        if !given {
            self.0.push(name);
        }
    }

    /// `General` if something is missing.
    pub(super) fn check(self, what: &str) -> Result<(), OpError> {
        if self.0.is_empty() {
            return Ok(());
        }
        let text = format!("{what} - missing: {}", self.0.join(", "));
        Err(OpError::new(OpErrorKind::General, text))
    }
}
