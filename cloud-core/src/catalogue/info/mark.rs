//! The mark of a backup that is being deleted.

use super::{BackupInfo, Status};

/// How the `error` of a backup begins that is being deleted.
const DELETING: &str = "failure deleting backup (";

impl BackupInfo {
    /// Whether a deletion of this backup was begun: its archives may be gone.
    pub fn is_being_deleted(&self) -> bool {
        let error = self.error.as_deref().unwrap_or_default();
        self.status == Status::Failed && error.starts_with(DELETING)
    }

    /// The record of a backup while it is being deleted: nobody takes it for one that
    /// can be restored, and the next run knows what to do.
    #[must_use]
    pub fn marked(&self) -> Self {
        let mut marked = Self {
            status: Status::Failed,
            error: Some(format!("{DELETING}not finished: delete it again)")),
            ..self.clone()
        };
        marked.clear_end();
        marked
    }
}
