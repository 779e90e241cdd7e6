//! The archives of a base backup, for all who make some: where the files are, how
//! they get into archives, the manifest that lists them, and the sizes of parts.
//!
//! Nothing here knows who asked for the backup, when it begins and what its record
//! says.

mod listing;
mod sources;
mod writing;

use std::sync::Arc;

pub(super) use self::listing::Listing;
pub(super) use self::sources::{ConfigurationFile, Sources, TablespaceSource, major};
pub(super) use self::writing::{
    CopyReport, Summed, Writing, files, identifier, lower_priority, manifest_failed, warn_of,
};
use super::{OpError, OpErrorKind};
use crate::store::{Bandwidth, ObjectStore, Tag};
use crate::transfer::{PartPlan, PartWishes};

/// The sizes of archives and parts that meet the wishes in this store.
///
/// # Errors
///
/// `Usage` if none do.
pub(super) fn part_plan(store: &dyn ObjectStore, wishes: &PartWishes) -> Result<PartPlan, OpError> {
    let plan = PartPlan::new(&store.info().limits, wishes)
        .map_err(|error| OpError::new(OpErrorKind::Usage, error.to_string()))?;
    if plan.capped {
        tracing::warn!("max-archive-size too big. Capping it to 1.0 TiB");
    }
    Ok(plan)
}

/// The store, through which no more than this goes in a second.
pub(super) fn limited(
    store: Arc<dyn ObjectStore>,
    bytes_per_second: Option<u64>,
) -> Arc<dyn ObjectStore> {
    match bytes_per_second {
        Some(rate) => Arc::new(Bandwidth::new(store, rate)),
        None => store,
    }
}

/// Refuses tags that the store cannot keep.
pub(super) fn check_tags(store: &dyn ObjectStore, tags: Option<&[Tag]>) -> Result<(), OpError> {
    if tags.is_some_and(|tags| !tags.is_empty()) && !store.info().abilities.tags {
        let message = format!("{} cannot keep tags", store.info().location);
        return Err(OpError::new(OpErrorKind::General, message)
            .with_hint("leave --tags and --tag away for this store"));
    }
    Ok(())
}
