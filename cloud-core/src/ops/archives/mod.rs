//! The archives of a base backup, for all who make some: where the files are, how
//! they get into archives, the manifest that lists them, and where they go.
//!
//! Nothing here knows who asked for the backup, when it begins and what its record
//! says.

mod destination;
mod listing;
mod pages;
mod sources;
mod writing;

pub use self::destination::ArchiveOptions;
pub(super) use self::destination::Destination;
pub(super) use self::listing::Listing;
pub(super) use self::pages::{Checked, Pages};
pub(super) use self::sources::{ConfigurationFile, Entries, Sources, TablespaceSource, major};
pub(super) use self::writing::{
    CopyReport, Summed, Writing, control, files, lower_priority, manifest_failed, warn_of,
};
