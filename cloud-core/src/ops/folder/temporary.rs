//! A file that is invisible under its final name until it is whole (W3).
//!
//! It is written under a temporary name in the directory of the final one and
//! renamed when it is known to be good. On every way out without a rename it is
//! removed; only `kill -9` leaves it behind, under a name that neither
//! PostgreSQL nor these tools read. A [copy](Temporary::copy) has no name at all
//! before its last one where the file system can do that, and is left behind by nothing.
//!
//! Nothing is synced unless it is asked for: PostgreSQL copies what it was given into
//! place and syncs that itself, and a spooled file lost in a crash is fetched again.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, fstat, linkat, openat, renameat, statat, unlinkat};
use rustix::io::Errno;

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
    /// `None` once it has its final name, and if it has none.
    path: Option<PathBuf>,
    unnamed: bool,
    size: u64,
    crc32c: Option<u32>,
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
            let path = beside(destination);
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            match openat(place.fd(), &path, flags, Mode::from_raw_mode(0o666)) {
                Ok(fd) => {
                    return Ok(Self {
                        file: File::from(fd),
                        place,
                        path: Some(path),
                        unnamed: false,
                        size: 0,
                        crc32c: None,
                        head: Vec::with_capacity(LONG_HEADER_LEN),
                    });
                }
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// A file for `destination` with the bytes of another one, from where that was read to.
    pub(in crate::ops) fn copy(place: Place, destination: &Path, from: &File) -> io::Result<Self> {
        let mut copy = match Self::unnamed(&place, destination) {
            Ok(copy) => copy,
            // Not every file system has files without names.
            Err(_) => Self::beside(place, destination)?,
        };
        // From file to file the kernel does it, as fast as it can.
        copy.size = io::copy(&mut &*from, &mut copy.file)?;
        Ok(copy)
    }

    fn unnamed(place: &Place, destination: &Path) -> io::Result<Self> {
        let directory = match destination.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
        let fd = openat(place.fd(), directory, flags, Mode::from_raw_mode(0o666))?;
        // This is how it will get a name.
        let status = fstat(&fd)?;
        let found = statat(CWD, own_path(&fd), AtFlags::empty())?;
        if (found.st_dev, found.st_ino) != (status.st_dev, status.st_ino) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(Self {
            file: File::from(fd),
            place: place.clone(),
            path: None,
            unnamed: true,
            size: 0,
            crc32c: None,
            head: Vec::new(),
        })
    }

    /// The open file.
    pub(in crate::ops) fn file(&self) -> &File {
        &self.file
    }

    /// Bytes written.
    pub(in crate::ops) fn size(&self) -> u64 {
        self.size
    }

    /// The same file, with a checksum made of all that is written to it.
    pub(in crate::ops) fn summed(mut self) -> Self {
        self.crc32c = Some(0);
        self
    }

    /// CRC-32C of the bytes written, if it was to be [made](Self::summed).
    pub(in crate::ops) fn crc32c(&self) -> Option<u32> {
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
        if self.unnamed {
            match self.link(destination) {
                // What has the name already can only be replaced by something named.
                Err(Errno::EXIST) => self.path = Some(self.name(destination)?),
                linked => linked?,
            }
        }
        if let Some(path) = &self.path {
            renameat(self.place.fd(), path, place.fd(), destination)?;
        }
        self.path = None;
        Ok(())
    }

    fn link(&self, path: &Path) -> rustix::io::Result<()> {
        let follow = AtFlags::SYMLINK_FOLLOW;
        linkat(CWD, own_path(&self.file), self.place.fd(), path, follow)
    }

    /// Gives an unnamed file a temporary name.
    fn name(&self, destination: &Path) -> io::Result<PathBuf> {
        loop {
            let path = beside(destination);
            match self.link(&path) {
                Ok(()) => return Ok(path),
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// A new temporary name in the directory that `destination` is in. Short whatever that
/// is called: its name may have 255 bytes.
fn beside(destination: &Path) -> PathBuf {
    let (process, unique) = (std::process::id(), fastrand::u64(..));
    destination.with_file_name(format!("{PREFIX}{process}-{unique:016x}.tmp"))
}

/// A path that leads to an open file, with a name or without.
fn own_path(file: &impl AsFd) -> String {
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd())
}

impl Write for Temporary {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        let written = &bytes[..count];
        self.size += count as u64;
        if let Some(crc32c) = &mut self.crc32c {
            *crc32c = crc32c::crc32c_append(*crc32c, written);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_no_name_before_its_last_one() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        let names = || std::fs::read_dir(&directory).expect("a directory").count();
        for content in ["first", "second, in place of it"] {
            std::fs::write(&from, content).expect("a file");
            let before = names();
            let copied = || {
                let file = File::open(&from).expect("the file");
                Temporary::copy(Place::Cwd, &to, &file).expect("copies")
            };
            let copy = copied();
            assert_eq!(copy.size(), content.len() as u64);
            assert_eq!(names(), before);
            drop(copy);
            assert_eq!(names(), before, "nothing was left");
            let copy = copied();
            copy.persist(&Place::Cwd, &to).expect("a name");
            assert_eq!(std::fs::read_to_string(&to).expect("the copy"), content);
            assert_eq!(names(), 2);
        }
    }
}
