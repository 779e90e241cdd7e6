//! What happened, told as values to whoever wants to know.
//!
//! Core code never prints. It tells a [`Reporter`]; the command line decides
//! whether that becomes a progress line, a log line or nothing.

use std::fmt;

/// Listens to long work. All methods may be called from several threads.
pub trait Reporter: fmt::Debug + Send + Sync + 'static {
    /// Work of `expected_bytes` (if known) begins.
    fn begin(&self, work: Work, expected_bytes: Option<u64>);
    /// `bytes` more of the source were read (backup) or written (restore).
    fn processed(&self, bytes: u64);
    /// `bytes` more went to, or came from, the store.
    fn transferred(&self, bytes: u64);
    /// An archive is finished.
    fn archive_done(&self, name: &str);
    /// The work is over, one way or the other.
    fn end(&self);
}

/// Kinds of long work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Taking a base backup.
    Backup,
    /// Restoring a base backup.
    Restore,
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Reporter for Silent {
    fn begin(&self, _work: Work, _expected_bytes: Option<u64>) {}
    fn processed(&self, _bytes: u64) {}
    fn transferred(&self, _bytes: u64) {}
    fn archive_done(&self, _name: &str) {}
    fn end(&self) {}
}
