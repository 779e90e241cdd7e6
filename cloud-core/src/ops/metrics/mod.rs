//! Is the backup alive? What a bucket's catalogue says of that.
//!
//! A [`Watch`] looks at the servers of a place, again and again if need be: one listing of
//! the base backups and one of the WAL for each, and the records and annotations that changed
//! since the last look. What it saw is a [`Snapshot`] of plain values for each server, what it
//! means a [`Verdict`]; both are without the store. Who shows them (a page here, series for
//! Prometheus in the tool) neither waits nor asks.
//!
//! - **M1** What a look did not bring is not shown as if it had: a server that could not be
//!   read has a failure in place of values.
//! - **M2** Memory does not grow with the WAL: of a listing only runs of segments are kept.

mod collect;
mod reach;
mod servers;
mod snapshot;
mod status;
mod verdict;
mod wal;
mod watch;

pub use snapshot::{
    Backup, Backups, Hole, Recoverable, Recovery, Segment, Snapshot, TimelineWal, Unreadable, Wal,
};
pub use status::status;
pub use verdict::{Thresholds, Verdict};
pub use watch::{Look, Overview, ServerView, Wanted, Watch};

#[cfg(test)]
mod tests;
