//! A file that is invisible under its final name until it is whole (W3).
//!
//! It is written under a temporary name in the directory of the final one and
//! renamed when it is known to be good. On every way out without a rename it is
//! removed; only `kill -9` leaves it behind, under a name that neither
//! PostgreSQL nor these tools read.
//!
//! Nothing is synced unless it is asked for: PostgreSQL copies what it was given into
//! place and syncs that itself, and a spooled file lost in a crash is fetched again.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, renameat, unlinkat};

use crate::wal::page::LONG_HEADER_LEN;

/// What temporary names begin with.
pub(in crate::ops) const PREFIX: &str = ".barman-cloud-";

/// Where a relative path starts.
#[derive(Debug, Clone)]
pub(in crate::ops) enum Place {
    /// The working directory.
    Cwd,
    /// A directory that was opened and checked.
    Directory(Arc<OwnedFd>),
}

impl Place {
    pub(in crate::ops) fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Cwd => CWD,
            Self::Directory(fd) => fd.as_fd(),
        }
    }
}

/// The file while it is being written.
#[derive(Debug)]
pub(in crate::ops) struct Temporary {
    file: File,
    place: Place,
    /// `None` once it has its final name.
    path: Option<PathBuf>,
    size: u64,
    crc32c: u32,
    head: Vec<u8>,
}

impl Temporary {
    /// Creates it in the directory that `destination` is in. Its mode is that
    /// of any new file.
    pub(in crate::ops) fn beside(place: Place, destination: &Path) -> io::Result<Self> {
        if destination.file_name().is_none() {
            return Err(io::Error::other(
                "the destination is not the name of a file",
            ));
        }
        loop {
            // Short whatever the destination is called: its name may have 255 bytes.
            let (process, unique) = (std::process::id(), fastrand::u64(..));
            let path = destination.with_file_name(format!("{PREFIX}{process}-{unique:016x}.tmp"));
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            match openat(place.fd(), &path, flags, Mode::from_raw_mode(0o666)) {
                Ok(fd) => {
                    return Ok(Self {
                        file: File::from(fd),
                        place,
                        path: Some(path),
                        size: 0,
                        crc32c: 0,
                        head: Vec::with_capacity(LONG_HEADER_LEN),
                    });
                }
                Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Bytes written.
    pub(in crate::ops) fn size(&self) -> u64 {
        self.size
    }

    /// CRC-32C of the bytes written.
    pub(in crate::ops) fn crc32c(&self) -> u32 {
        self.crc32c
    }

    /// The first bytes, as many as a segment's first header has.
    pub(in crate::ops) fn head(&self) -> &[u8] {
        &self.head
    }

    /// Brings what was written to the disk.
    pub(in crate::ops) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// Gives it its final name, in place of whatever has that name.
    pub(in crate::ops) fn persist(mut self, place: &Place, destination: &Path) -> io::Result<()> {
        if let Some(path) = &self.path {
            renameat(self.place.fd(), path, place.fd(), destination)?;
        }
        self.path = None;
        Ok(())
    }
}

impl Write for Temporary {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        let written = &bytes[..count];
        self.size += count as u64;
        self.crc32c = crc32c::crc32c_append(self.crc32c, written);
        let missing = LONG_HEADER_LEN - self.head.len();
        self.head.extend_from_slice(&written[..count.min(missing)]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = self.path.take() {
            let _ = unlinkat(self.place.fd(), path, AtFlags::empty());
        }
    }
}
