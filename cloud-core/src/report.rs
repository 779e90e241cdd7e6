//! What happened, told as values to whoever wants to know.
//!
//! Core code never prints. It tells a [`Reporter`]; the command line decides
//! whether that becomes a progress line, a log line or nothing.

use std::fmt;
use std::sync::Arc;

/// Listens to long work. All methods may be called from several threads, and none
/// of them waits for anything.
pub trait Reporter: fmt::Debug + Send + Sync + 'static {
    /// Work of `expected_bytes` (if known) begins: plain bytes of files for a
    /// backup, which is an estimate, bytes in the store for the others.
    fn begin(&self, work: Work, expected_bytes: Option<u64>);
    /// Another phase of it begins; the first one is [`Phase::Starting`].
    fn phase(&self, phase: Phase);
    /// `bytes` more of the source were read (backup), written (restore) or checked (verify).
    fn processed(&self, bytes: u64);
    /// `bytes` more went to, or came from, the store.
    fn transferred(&self, bytes: u64);
    /// An archive is begun.
    fn archive_begun(&self, name: &str);
    /// An archive is finished.
    fn archive_done(&self, name: &str);
    /// A request that moves a part of an archive, or the whole of it, is under way.
    fn part_begun(&self);
    /// The request is over, one way or the other.
    fn part_ended(&self);
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
    /// Proving a base backup.
    Verify,
}

/// What takes the time, in the order in which it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// Nothing is moved yet: the server makes its checkpoint, directories are opened.
    #[default]
    Starting,
    /// Bytes of archives are moved.
    Copying,
    /// What comes after the last byte: the server ends backup mode and waits for
    /// its archiver; what was restored is compared and brought to the disk; the WAL is checked.
    Finishing,
}

/// A request that moves a part, told to the reporter for as long as this lives.
#[derive(Debug)]
pub struct InFlight(Arc<dyn Reporter>);

impl InFlight {
    /// Begins now.
    pub fn new(reporter: &Arc<dyn Reporter>) -> Self {
        reporter.part_begun();
        Self(Arc::clone(reporter))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.part_ended();
    }
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Reporter for Silent {
    fn begin(&self, _work: Work, _expected_bytes: Option<u64>) {}
    fn phase(&self, _phase: Phase) {}
    fn processed(&self, _bytes: u64) {}
    fn transferred(&self, _bytes: u64) {}
    fn archive_begun(&self, _name: &str) {}
    fn archive_done(&self, _name: &str) {}
    fn part_begun(&self) {}
    fn part_ended(&self) {}
    fn end(&self) {}
}
