//! The folder for files fetched ahead (docs/decisions.md 16).
//!
//! Each user has one folder per bucket, path and server below a parent that
//! several users may share, with mode 0700. Parent and folder may be prepared
//! by anybody, so the folder counts only if it is a directory, not a link, and
//! nobody else's; everything in it is then reached through the open directory.
//! What lies in the folder counts only if a [`Record`] vouches for it.
//!
//! Several calls may use a folder at the same time. A file gets its name when it
//! is whole, and its record after it; a pair that does not fit counts as none.
//! A folder that cannot be used is a reason to go without, never to fail.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, fstat, mkdirat, openat, renameat, unlinkat};
use rustix::io::Errno;
use rustix::process::geteuid;
use sha2::{Digest, Sha256};
use tracing::debug;

use super::record::Record;
use super::temporary::{PREFIX, Place, Temporary};
use crate::codec::{self, Codec};
use crate::wal::fit::{Fit, judge};
use crate::wal::page::LONG_HEADER_LEN;
use crate::wal::{WalKind, WalName};

const RECORD: &str = ".record";

/// Holds the name of the codec that the last object found was compressed with.
const CODEC: &str = "codec";

/// No record or codec name is longer, in bytes.
const MAX_TEXT: u64 = 64 << 10;

/// A file fetched ahead is wanted within seconds. After an hour it was left by
/// an earlier recovery, and may have been replaced in the archive since.
const MAX_AGE: Duration = Duration::from_hours(1);

/// Why there is no spool.
#[derive(Debug, thiserror::Error)]
pub(super) enum SpoolError {
    #[error("cannot create or open `{}`: {source}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("`{}` is not a directory of this user alone", path.display())]
    Foreign { path: PathBuf },
}

/// The folder, open and checked.
#[derive(Debug)]
pub(super) struct Spool {
    directory: Arc<OwnedFd>,
    source: String,
}

/// Text that is the same for the same archive only, fit for a file name.
pub(super) fn source_of(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let mut text = String::new();
    for byte in &hash.finalize()[..16] {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
    }
    text
}

impl Spool {
    /// Opens the folder of `source` below `parent`; both are created if they
    /// are not there.
    pub(super) fn open(parent: &Path, source: String) -> Result<Self, SpoolError> {
        let path = parent.join(format!("{}-{source}", geteuid().as_raw()));
        let failed = |source| SpoolError::Open {
            path: path.clone(),
            source,
        };
        create_parent(parent).map_err(failed)?;
        match mkdirat(CWD, &path, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(failed(error.into())),
        }
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = match openat(CWD, &path, flags, Mode::empty()) {
            Ok(directory) => directory,
            Err(Errno::LOOP | Errno::NOTDIR) => return Err(SpoolError::Foreign { path }),
            Err(error) => return Err(failed(error.into())),
        };
        let status = fstat(&directory).map_err(|error| failed(error.into()))?;
        if status.st_uid != geteuid().as_raw() || status.st_mode & 0o077 != 0 {
            return Err(SpoolError::Foreign { path });
        }
        Ok(Self {
            directory: Arc::new(directory),
            source,
        })
    }

    /// Where a file for the spool is written.
    pub(super) fn place(&self) -> Place {
        Place::Directory(Arc::clone(&self.directory))
    }

    /// What records must say they come from.
    pub(super) fn source(&self) -> &str {
        &self.source
    }

    /// The codec that [`remember_codec`](Self::remember_codec) was last told.
    pub(super) fn last_codec(&self) -> Option<&'static dyn Codec> {
        codec::by_name(&self.read_text(CODEC)?)
    }

    /// Keeps the codec for the next call.
    pub(super) fn remember_codec(&self, codec: &dyn Codec) {
        let name = codec.info().name;
        if self.read_text(CODEC).as_deref() == Some(name) {
            return;
        }
        if let Err(error) = self.write_text(CODEC, name) {
            debug!("the codec is not remembered: {error}");
        }
    }

    /// Whether a file with a record is there; it may still turn out not to fit.
    pub(super) fn contains(&self, name: &WalName) -> bool {
        let found = |name: &str| self.open_own(name).is_ok();
        found(name.as_str()) && found(&format!("{name}{RECORD}"))
    }

    /// Gives a file its name in the spool, and then its record.
    pub(super) fn publish(&self, file: Temporary, record: &Record) -> io::Result<()> {
        file.persist(&self.place(), Path::new(&record.name))?;
        self.write_text(&format!("{}{RECORD}", record.name), &record.to_text())
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
        let Some(text) = self.read_text(&format!("{name}{RECORD}")) else {
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
        match renameat(&*self.directory, name.as_str(), CWD, destination) {
            Ok(()) => {}
            Err(Errno::XDEV) => {
                let mut copy = Temporary::beside(Place::Cwd, destination)?;
                io::copy(&mut &file, &mut copy)?;
                copy.persist(&Place::Cwd, destination)?;
            }
            // Dropped or taken by another call since.
            Err(Errno::NOENT) if self.open_own(name.as_str()).is_err() => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        self.remove(name);
        Ok(true)
    }

    /// The file, read from its beginning, if every byte is what the record says.
    fn open_fitting(&self, name: &WalName, record: &Record) -> Option<File> {
        let file = self.open_own(name.as_str()).ok()?;
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
        let Ok(entries) = Dir::read_from(&*self.directory) else {
            return;
        };
        for entry in entries.flatten() {
            let Ok(name) = entry.file_name().to_str() else {
                continue;
            };
            let stale = if name.starts_with(PREFIX) {
                self.is_old(name)
            } else {
                let base = name.strip_suffix(RECORD).unwrap_or(name);
                let segment = base.parse::<WalName>().ok();
                segment.is_some_and(|segment| is_behind(&segment, wanted) || self.is_old(name))
            };
            if stale {
                self.unlink(name);
            }
        }
    }

    fn is_old(&self, name: &str) -> bool {
        let modified = self
            .open_own(name)
            .and_then(|file| file.metadata()?.modified());
        modified.is_ok_and(|modified| age(modified).is_none_or(|age| age >= MAX_AGE))
    }

    fn remove(&self, name: &WalName) {
        // The record first: without one the file counts for nothing.
        self.unlink(&format!("{name}{RECORD}"));
        self.unlink(name.as_str());
    }

    fn unlink(&self, name: &str) {
        match unlinkat(&*self.directory, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => debug!("cannot remove `{name}` from the spool: {error}"),
        }
    }

    /// Opens a regular file of this user, never through a link.
    fn open_own(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(openat(&*self.directory, name, flags, Mode::empty())?);
        let metadata = file.metadata()?;
        if metadata.is_file() && metadata.uid() == geteuid().as_raw() {
            Ok(file)
        } else {
            Err(io::Error::other("not a file of this user"))
        }
    }

    fn read_text(&self, name: &str) -> Option<String> {
        let mut text = String::new();
        let mut file = self.open_own(name).ok()?.take(MAX_TEXT);
        file.read_to_string(&mut text).ok()?;
        Some(text)
    }

    fn write_text(&self, name: &str, text: &str) -> io::Result<()> {
        let mut file = Temporary::beside(self.place(), Path::new(name))?;
        file.write_all(text.as_bytes())?;
        file.persist(&self.place(), Path::new(name))
    }
}

/// Creates the parent of all folders. Below a directory that everybody may
/// write to, as `/var/tmp` is, it becomes one itself; elsewhere the umask says
/// who may.
fn create_parent(parent: &Path) -> io::Result<()> {
    const SHARED: u32 = 0o1777;
    if parent.is_dir() {
        return Ok(());
    }
    let above = match parent.parent() {
        Some(above) if !above.as_os_str().is_empty() => above,
        _ => Path::new("."),
    };
    fs::create_dir_all(above)?;
    match fs::create_dir(parent) {
        Ok(()) => {}
        // Another call was faster.
        Err(_) if parent.is_dir() => return Ok(()),
        Err(error) => return Err(error),
    }
    if fs::metadata(above)?.mode() & 0o7777 == SHARED {
        rustix::fs::chmod(parent, Mode::from_raw_mode(SHARED))?;
    }
    Ok(())
}

/// Whether a segment ends before `wanted` begins. The timeline does not matter:
/// a new one goes on where the old one was left.
fn is_behind(segment: &WalName, wanted: &WalName) -> bool {
    let position = |name: &WalName| name.as_str().get(8..24).map(str::to_ascii_uppercase);
    segment.kind() != WalKind::Segment || position(segment) < position(wanted)
}

/// `None` for a time to come, which a clock that was set back leaves behind.
fn age(modified: SystemTime) -> Option<Duration> {
    SystemTime::now().duration_since(modified).ok()
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
