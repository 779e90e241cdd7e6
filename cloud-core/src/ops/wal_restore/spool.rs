//! The folder for files fetched ahead (docs/decisions.md 16).
//!
//! Each user has one folder per bucket, path and server. What lies in it counts
//! only if a [`Record`] vouches for it.
//!
//! Several calls may use a folder at the same time. A file gets its name when it
//! is whole, and its record after it; a pair that does not fit counts as none.
//! A folder that cannot be used is a reason to go without, never to fail.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{CWD, renameat};
use rustix::io::Errno;
use tracing::debug;

use super::super::folder::{Folder, FolderError, PREFIX, Place, Temporary, age};
use super::record::Record;
use crate::codec::{self, Codec};
use crate::wal::fit::{Fit, judge};
use crate::wal::page::LONG_HEADER_LEN;
use crate::wal::{WalKind, WalName};

const RECORD: &str = ".record";

/// Holds the name of the codec that the last object found was compressed with.
const CODEC: &str = "codec";

/// A file fetched ahead is wanted within seconds. After an hour it was left by
/// an earlier recovery, and may have been replaced in the archive since.
const MAX_AGE: Duration = Duration::from_hours(1);

/// The folder, open and checked.
#[derive(Debug)]
pub(super) struct Spool {
    folder: Folder,
    source: String,
}

impl Spool {
    /// Opens the folder of `source` below `parent`; both are created if they
    /// are not there.
    pub(super) fn open(parent: &Path, source: String) -> Result<Self, FolderError> {
        let folder = Folder::open(parent, &source)?;
        Ok(Self { folder, source })
    }

    /// Where a file for the spool is written.
    pub(super) fn place(&self) -> Place {
        self.folder.place()
    }

    /// What records must say they come from.
    pub(super) fn source(&self) -> &str {
        &self.source
    }

    /// The codec that [`remember_codec`](Self::remember_codec) was last told.
    pub(super) fn last_codec(&self) -> Option<&'static dyn Codec> {
        codec::by_name(&self.folder.read_text(CODEC)?)
    }

    /// Keeps the codec for the next call.
    pub(super) fn remember_codec(&self, codec: &dyn Codec) {
        let name = codec.info().name;
        if self.folder.read_text(CODEC).as_deref() == Some(name) {
            return;
        }
        if let Err(error) = self.folder.write_text(CODEC, name) {
            debug!("the codec is not remembered: {error}");
        }
    }

    /// Whether a file with a record is there; it may still turn out not to fit.
    pub(super) fn contains(&self, name: &WalName) -> bool {
        let found = |name: &str| self.folder.open_own(name).is_ok();
        found(name.as_str()) && found(&format!("{name}{RECORD}"))
    }

    /// Gives a file its name in the spool, and then its record.
    pub(super) fn publish(&self, file: Temporary, record: &Record) -> io::Result<()> {
        file.persist(&self.place(), Path::new(&record.name))?;
        self.folder
            .write_text(&format!("{}{RECORD}", record.name), &record.to_text())
    }

    /// Moves the file to `destination` if it is there and fits its record, and
    /// says whether it did. A file that does not fit is dropped. `cluster` is
    /// the identifier the file must have, if it is known.
    pub(super) fn take(
        &self,
        name: &WalName,
        cluster: Option<u64>,
        destination: &Path,
    ) -> io::Result<bool> {
        let Some(text) = self.folder.read_text(&format!("{name}{RECORD}")) else {
            return Ok(false);
        };
        let fitting = Record::parse(&text)
            .filter(|record| record.name == name.as_str() && record.source == self.source)
            .filter(|record| cluster.is_none_or(|cluster| cluster == record.system_identifier))
            .and_then(|record| self.open_fitting(name, &record));
        let Some(file) = fitting else {
            debug!("spooled WAL file {name} does not fit its record and is dropped");
            self.remove(name);
            return Ok(false);
        };
        match renameat(self.folder.fd(), name.as_str(), CWD, destination) {
            Ok(()) => {}
            Err(Errno::XDEV) => {
                let mut copy = Temporary::beside(Place::Cwd, destination)?;
                io::copy(&mut &file, &mut copy)?;
                copy.persist(&Place::Cwd, destination)?;
            }
            // Dropped or taken by another call since.
            Err(Errno::NOENT) if self.folder.open_own(name.as_str()).is_err() => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        self.remove(name);
        Ok(true)
    }

    /// The file, read from its beginning, if every byte is what the record says.
    fn open_fitting(&self, name: &WalName, record: &Record) -> Option<File> {
        let file = self.folder.open_own(name.as_str()).ok()?;
        let metadata = file.metadata().ok()?;
        let young = age(metadata.modified().ok()?).is_some_and(|age| age < MAX_AGE);
        let mut head = [0; LONG_HEADER_LEN];
        file.read_exact_at(&mut head, 0).ok()?;
        let Fit::Segment(identity) = judge(name, metadata.len(), &head) else {
            return None;
        };
        let described = metadata.len() == record.size
            && identity.system_identifier == record.system_identifier
            && identity.timeline.0 == record.timeline;
        (young && described && checksum(&file).ok()? == record.crc32c).then_some(file)
    }

    /// Drops what a recovery that asks for `wanted` will not ask for any more:
    /// segments before it, on whatever timeline, and whatever is old.
    pub(super) fn trim(&self, wanted: &WalName) {
        for name in self.folder.names() {
            let name = name.as_str();
            let stale = if name.starts_with(PREFIX) {
                self.folder.is_old(name, MAX_AGE)
            } else {
                let base = name.strip_suffix(RECORD).unwrap_or(name);
                let segment = base.parse::<WalName>().ok();
                segment.is_some_and(|segment| {
                    is_behind(&segment, wanted) || self.folder.is_old(name, MAX_AGE)
                })
            };
            if stale {
                self.folder.unlink(name);
            }
        }
    }

    fn remove(&self, name: &WalName) {
        // The record first: without one the file counts for nothing.
        self.folder.unlink(&format!("{name}{RECORD}"));
        self.folder.unlink(name.as_str());
    }
}

/// Whether a segment ends before `wanted` begins. The timeline does not matter:
/// a new one goes on where the old one was left.
fn is_behind(segment: &WalName, wanted: &WalName) -> bool {
    let position = |name: &WalName| name.as_str().get(8..24).map(str::to_ascii_uppercase);
    segment.kind() != WalKind::Segment || position(segment) < position(wanted)
}

fn checksum(file: &File) -> io::Result<u32> {
    let mut buffer = vec![0; 256 << 10];
    let (mut checksum, mut offset) = (0, 0);
    loop {
        let count = match file.read_at(&mut buffer, offset) {
            Ok(0) => return Ok(checksum),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        checksum = crc32c::crc32c_append(checksum, &buffer[..count]);
        offset += count as u64;
    }
}
