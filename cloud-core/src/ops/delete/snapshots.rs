//! The snapshots of a snapshot backup.
//!
//! A record in a bucket can be forged, and a snapshot may be anybody's: only one whose name
//! ends in the id of the backup, as its key has it, is deleted, and of no backup anything
//! before all its snapshots were looked at. Any directory could be called what many names end
//! in: only an id as it is given to backups will do.

use std::sync::Arc;

use super::Work;
use crate::catalogue::layout::BackupId;
use crate::catalogue::literal::Literal;
use crate::ops::snapshots::failed;
use crate::ops::{OpError, OpErrorKind};
use crate::snapshot::{
    Deleted, Place, Record, SnapshotErrorKind, SnapshotOptions, SnapshotProvider,
};

/// Snapshots that are a backup's.
#[derive(Debug)]
pub(super) struct Owned {
    provider: Arc<dyn SnapshotProvider>,
    ids: Vec<String>,
}

/// Why not all of them are gone.
pub(super) struct NotDeleted {
    pub(super) error: OpError,
    /// Whether the backup is still whole.
    pub(super) nothing_gone: bool,
}

impl Work<'_> {
    /// Looks at the snapshots that a record names.
    ///
    /// # Errors
    ///
    /// One is not the backup's, or the cloud does not tell.
    pub(super) async fn owned_snapshots(
        &self,
        id: &BackupId,
        literal: &Literal,
    ) -> Result<Owned, OpError> {
        let general = |error| failed(&error);
        let record = Record::parse(literal).map_err(general)?;
        let mut options = SnapshotOptions::default();
        match &record.place {
            Place::Aws { region, .. } => options.aws_region.clone_from(region),
            Place::Azure {
                subscription,
                resource_group,
            } => {
                options.azure_subscription.clone_from(subscription);
                options.azure_resource_group.clone_from(resource_group);
            }
            Place::Gcp { project } => options.gcp_project.clone_from(project),
        }
        let provider = self.request.clouds.open(record.place.cloud(), &options);
        let provider = provider.map_err(general)?;
        let end = format!("-{id}").to_lowercase();
        let refused = |named: &str| {
            let text = format!(
                "Refusing to delete snapshot {named}: it is not recognized as a snapshot created \
                 for backup {id}"
            );
            OpError::new(OpErrorKind::General, text)
        };
        let mut ids = Vec::new();
        for snapshot in &record.snapshots {
            let named = snapshot.shown();
            let found = match provider.locate(snapshot).await {
                Ok(found) => found,
                Err(error) if error.kind == SnapshotErrorKind::Foreign => {
                    return Err(refused(named));
                }
                Err(error) => return Err(general(error)),
            };
            if found.is_empty() {
                tracing::info!("Snapshot {named} could not be found: nothing to delete");
            }
            for one in found {
                if !BackupId::is_canonical(id.as_str()) || !one.name.to_lowercase().ends_with(&end)
                {
                    return Err(refused(&one.id));
                }
                ids.push(one.id);
            }
        }
        Ok(Owned { provider, ids })
    }
}

impl Owned {
    /// Deletes them, one after the other, up to the first that stays.
    pub(super) async fn delete(&self) -> Result<(), NotDeleted> {
        let mut nothing_gone = true;
        for id in &self.ids {
            match self.provider.delete(id).await {
                Ok(Deleted::Gone) => {
                    nothing_gone = false;
                    tracing::info!("Deleted snapshot {id}");
                }
                Ok(Deleted::Absent) => {
                    nothing_gone = false;
                    tracing::info!("Snapshot {id} could not be found: nothing to delete");
                }
                Err(error) => {
                    // Whether it went is not known after every failure.
                    let refused = matches!(
                        error.kind,
                        SnapshotErrorKind::Locked | SnapshotErrorKind::Refused
                    );
                    let mut error = failed(&error);
                    error.message = format!("Could not delete snapshot {id}: {}", error.message);
                    return Err(NotDeleted {
                        error,
                        nothing_gone: nothing_gone && refused,
                    });
                }
            }
        }
        Ok(())
    }
}
