//! The way of members into archives: whatever reads files for a base backup writes
//! them through here.
//!
//! Every block is a moment at which somebody may have asked to stop, and every file
//! is summed up while it is read, for the manifest.

use std::io::{self, Read};
use std::path::Path;

use tokio_util::sync::CancellationToken;

use crate::manifest::{Checksum, Summing};
use crate::ops::chain;
use crate::pgdata::{self, ControlFile, LeftOutReason, display_name};
use crate::report::Reporter;
use crate::tar::{AppendError, ArchiveSink, Copied, Member, Splitter};
use crate::transfer::TransferError;

/// How nice a copying thread is to the server beside it. The priority of its
/// reads follows from it.
const NICENESS: i32 = 10;

/// Lowers the priority of this thread.
pub(in crate::ops) fn lower_priority() {
    // Of this thread alone, and a wish: a system that refuses it is fine.
    let _ = rustix::process::setpriority_process(None, NICENESS);
}

/// What was met on the way.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::ops) struct CopyReport {
    files: u64,
    pub(in crate::ops) vanished: u64,
    shrank: u64,
    grew: u64,
}

impl CopyReport {
    fn count(&mut self, copied: Copied) {
        self.files += 1;
        self.shrank += u64::from(copied.missing > 0);
        self.grew += u64::from(copied.grew);
    }

    /// Counts what another lane met as well.
    pub(in crate::ops) fn add(&mut self, other: &Self) {
        self.files += other.files;
        self.vanished += other.vanished;
        self.shrank += other.shrank;
        self.grew += other.grew;
    }

    pub(in crate::ops) fn log(&self) {
        tracing::info!(
            "copied {} files; meanwhile {} vanished, {} shrank and {} grew, which WAL replay repairs",
            self.files,
            self.vanished,
            self.shrank,
            self.grew
        );
    }
}

/// The way into the archives.
pub(in crate::ops) struct Writing<'a> {
    pub(in crate::ops) cancel: CancellationToken,
    pub(in crate::ops) reporter: &'a dyn Reporter,
    pub(in crate::ops) report: CopyReport,
}

impl Writing<'_> {
    /// Adds a member and counts what became of its file.
    pub(in crate::ops) fn add<S: ArchiveSink>(
        &mut self,
        member: &Member,
        data: &mut dyn Read,
        out: &mut Splitter<S>,
    ) -> Result<Copied, TransferError> {
        let mut watched = Watched {
            data,
            cancel: &self.cancel,
            reporter: self.reporter,
        };
        match out.add(member, &mut watched) {
            Ok(copied) => {
                if member.size() > 0 {
                    self.report.count(copied);
                }
                Ok(copied)
            }
            Err(AppendError::Read(_)) if self.cancel.is_cancelled() => {
                Err(TransferError::Cancelled)
            }
            Err(AppendError::Read(error)) => {
                let name = display_name(&member.name);
                Err(TransferError::Files(format!(
                    "could not read `{name}`: {error}"
                )))
            }
            Err(AppendError::Write(error)) => Err(self.error(&error)),
        }
    }

    /// Writing fails because the upload did, which knows why, or because the
    /// encoder did.
    pub(in crate::ops) fn error(&self, error: &io::Error) -> TransferError {
        if self.cancel.is_cancelled() {
            TransferError::Cancelled
        } else {
            TransferError::Files(format!("could not make an archive: {error}"))
        }
    }
}

/// A file, or a directory, that could not be read.
pub(in crate::ops) fn files(error: &(dyn std::error::Error + 'static)) -> TransferError {
    TransferError::Files(chain(error))
}

/// Tells of what is not stored.
pub(in crate::ops) fn warn_of(left: &pgdata::LeftOut, root: &Path) {
    let (name, root) = (display_name(&left.name), root.display());
    match &left.reason {
        LeftOutReason::LinkedDirectory { expected: true, .. } => {
            tracing::debug!("`{name}` in {root} is a link to a directory: stored as an empty one");
        }
        LeftOutReason::LinkedDirectory { target, .. } => tracing::warn!(
            "`{name}` in {root} is a link to the directory `{}`, which is not part of the backup",
            display_name(target)
        ),
        LeftOutReason::LinkedFile { target } => tracing::warn!(
            "`{name}` in {root} is a link to the file `{}`, which is not part of the backup",
            display_name(target)
        ),
        LeftOutReason::Device => {
            tracing::warn!("`{name}` in {root} is a device, which is not part of the backup");
        }
    }
}

/// The manifest could not be made.
pub(in crate::ops) fn manifest_failed(error: &io::Error) -> TransferError {
    TransferError::Files(format!("could not make the manifest: {error}"))
}

/// What the cluster's `pg_control` says at this moment.
pub(in crate::ops) fn control(pgdata: &Path) -> Result<ControlFile, TransferError> {
    let path = pgdata.join("global/pg_control");
    let read = pgdata::read_control(&path).map_err(|error| files(&error))?;
    Ok(read.control)
}

/// Sums up the bytes that are stored of a file: not what it grew by.
pub(in crate::ops) struct Summed<'a> {
    data: &'a mut dyn Read,
    sum: Summing,
    left: u64,
}

impl<'a> Summed<'a> {
    /// Of a file whose member has `size` bytes.
    pub(in crate::ops) fn new(data: &'a mut dyn Read, sum: Summing, size: u64) -> Self {
        let left = size;
        Self { data, sum, left }
    }

    /// The checksum of what was read, and of `missing` zeroes behind it.
    pub(in crate::ops) fn finish(self, missing: u64) -> Checksum {
        let mut sum = self.sum;
        sum.add_zeroes(missing);
        sum.finish()
    }
}

impl Read for Summed<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.data.read(buf)?;
        let stored = usize::try_from(self.left).map_or(count, |left| left.min(count));
        self.sum.add(&buf[..stored]);
        self.left -= stored as u64;
        Ok(count)
    }
}

/// Looks for a request to stop at every block, and tells how far the copy is.
struct Watched<'a> {
    data: &'a mut dyn Read,
    cancel: &'a CancellationToken,
    reporter: &'a dyn Reporter,
}

impl Read for Watched<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("the backup was stopped"));
        }
        let count = self.data.read(buf)?;
        self.reporter.processed(count as u64);
        Ok(count)
    }
}
