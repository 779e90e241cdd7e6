//! Restoring a base backup.
//!
//! Choose the backup, list its archives and look at every target directory
//! before the first byte (`plan`); unpack, several archives side by side (`ops::reading`); link;
//! make durable; and only then write `backup_label` and, last of all, `pg_control` (`unpack`), so that a
//! restore killed anywhere leaves a directory PostgreSQL cannot start on (R1,
//! docs/decisions.md 27).

mod choose;
mod delta;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod journal;
mod plan;
mod snapshots;
mod unpack;
mod verify;

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;

use self::plan::Planned;
pub use self::plan::check_rules;
pub use self::snapshots::RecoveryPlace;
use super::{Ctx, OpError};
pub use crate::pgdata::Durability;
use crate::report::{Phase, Work};
use crate::store::ObjectStore;

/// A base backup to restore.
#[derive(Debug, Clone)]
pub struct RestoreRequest {
    /// Key prefix from the URL, as written (it may end in slashes).
    pub path: String,
    /// Server name: one component of every key.
    pub server: String,
    /// Id, name, shortcut or `auto`, as typed.
    pub backup: String,
    /// Where PGDATA goes.
    pub target: PathBuf,
    /// `NAME:LOCATION`, as typed; later ones win.
    pub tablespaces: Vec<String>,
    /// Only with `auto`.
    pub recovery_target: RecoveryTarget,
    /// Restore a backup that is not DONE.
    pub allow_incomplete: bool,
    /// Archives unpacked side by side, and requests at the same time.
    pub jobs: NonZeroU32,
    /// Whether the end waits for the disk.
    pub durability: Durability,
    /// What may be at the destination.
    pub existing: Existing,
    /// Where the disks of a snapshot backup are.
    pub recovery_place: RecoveryPlace,
}

/// What may be in the directories that a backup is restored to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Nothing.
    Refused,
    /// What an interrupted restore of the same backup left, which goes on.
    Resumed,
    /// An older or newer state of the same cluster, of which stays what is the same.
    Delta,
}

/// What `auto` has to be good for; each as typed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoveryTarget {
    /// `current`, `latest` or a number.
    pub timeline: Option<String>,
    /// An LSN.
    pub lsn: Option<String>,
    /// A point in time.
    pub time: Option<String>,
}

/// Restores the base backup.
pub async fn run(
    ctx: &Ctx,
    store: Arc<dyn ObjectStore>,
    request: RestoreRequest,
) -> Result<(), OpError> {
    let plan = match plan::make(ctx, &store, &request).await? {
        Planned::Archives(plan) => *plan,
        Planned::Snapshots(layout, backup) => {
            tracing::info!("Restoring from backup_id: {}", backup.0);
            return snapshots::run(ctx, &store, &layout, *backup, &request).await;
        }
    };
    tracing::info!("Restoring from backup_id: {}", plan.id);
    ctx.reporter.begin(Work::Restore, Some(plan.stored_bytes()));
    ctx.reporter.phase(Phase::Copying);
    let result = unpack::all(ctx, &store, plan, &request).await;
    ctx.reporter.end();
    result
}
