//! A folder in which the calls of one user leave something for one another.
//!
//! PostgreSQL runs a command for each WAL file, and what one call learned helps
//! the next: files fetched ahead, notes of what is archived. Such a folder lies
//! below a parent that several users may share, and parent and folder may be
//! prepared by anybody. So a folder counts only if it is a directory, not a link,
//! and nobody else's; everything in it is then reached through the open
//! directory (docs/decisions.md 16).
//!
//! Several calls may use a folder at the same time, and any of them may be killed
//! anywhere: a file gets its name when it is whole ([`Temporary`]), a [`Lock`] ends
//! with its process, and a text is sealed with a checksum ([`sealed`]). Hardly anything
//! here is worth a failure: a folder that cannot be used is a reason to go without.
//! What must outlive a crash of the machine is written by
//! [`write_durably`](Folder::write_durably).
//!
//! What lies in a folder, and what it is good for, is the business of its user.

mod fingerprint;
mod lock;
pub(super) mod sealed;
mod temporary;

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, fstat, fsync, mkdirat, openat, unlinkat};
use rustix::io::Errno;
use rustix::process::geteuid;
use sha2::{Digest, Sha256};
use tracing::debug;

pub(super) use fingerprint::Fingerprint;
pub(super) use lock::Lock;
pub(super) use temporary::{PREFIX, Place, Temporary};

/// No text in a folder is longer, in bytes.
const MAX_TEXT: u64 = 64 << 10;

/// Why there is no folder.
#[derive(Debug, thiserror::Error)]
pub(super) enum FolderError {
    #[error("cannot create or open `{}`: {source}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("`{}` is not a directory of this user alone", path.display())]
    Foreign { path: PathBuf },
}

/// The folder, open and checked. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    directory: Arc<OwnedFd>,
    path: Arc<Path>,
}

/// Text that is the same for the same parts only, fit for a file name.
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

impl Folder {
    /// Where this user's folder of `source` below `parent` is, if it is there.
    pub(super) fn path(parent: &Path, source: &str) -> PathBuf {
        parent.join(format!("{}-{source}", geteuid().as_raw()))
    }

    /// Opens this user's folder of `source` below `parent`; both are created if
    /// they are not there.
    pub(super) fn open(parent: &Path, source: &str) -> Result<Self, FolderError> {
        let path = Self::path(parent, source);
        let failed = |source| FolderError::Open {
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
            Err(Errno::LOOP | Errno::NOTDIR) => return Err(FolderError::Foreign { path }),
            Err(error) => return Err(failed(error.into())),
        };
        let status = fstat(&directory).map_err(|error| failed(error.into()))?;
        if status.st_uid != geteuid().as_raw() || status.st_mode & 0o077 != 0 {
            return Err(FolderError::Foreign { path });
        }
        Ok(Self {
            directory: Arc::new(directory),
            path: std::path::absolute(path.as_path()).unwrap_or(path).into(),
        })
    }

    /// Whether its name still leads to it: nobody has removed or replaced it.
    pub(super) fn is_in_place(&self) -> bool {
        let named = rustix::fs::lstat(&*self.path);
        let ours = fstat(&self.directory);
        matches!((named, ours), (Ok(named), Ok(ours))
            if (named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino))
    }

    /// The other folders of this user below the same parent.
    pub(super) fn siblings(&self) -> Vec<Self> {
        let mine = format!("{}-", geteuid().as_raw());
        let Some(parent) = self.path.parent() else {
            return Vec::new();
        };
        let entries = fs::read_dir(parent).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| {
                let name = entry.file_name();
                let source = name.to_str()?.strip_prefix(&mine)?;
                (entry.path() != *self.path).then(|| Self::open(parent, source).ok())?
            })
            .collect()
    }

    /// Removes the folder if it is empty.
    pub(super) fn remove_if_empty(&self) {
        if self.is_in_place() {
            let _ = fs::remove_dir(&*self.path);
        }
    }

    /// Where a file for the folder is written.
    pub(super) fn place(&self) -> Place {
        Place::Directory(Arc::clone(&self.directory))
    }

    /// The directory itself.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// The names of everything in the folder, but for those that are not UTF-8,
    /// which are nobody's. None if it cannot be read.
    pub(super) fn names(&self) -> Vec<String> {
        let Ok(entries) = Dir::read_from(&*self.directory) else {
            return Vec::new();
        };
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned))
            .filter(|name| name != "." && name != "..")
            .collect()
    }

    /// When a file was written last; `None` if it is not there.
    pub(super) fn written(&self, name: &str) -> Option<SystemTime> {
        self.open_own(name).ok()?.metadata().ok()?.modified().ok()
    }

    /// How many bytes this user can still write, and of how many in all.
    pub(super) fn room(&self) -> io::Result<(u64, u64)> {
        let found = rustix::fs::fstatvfs(&self.directory)?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        Ok((bytes(found.f_bavail), bytes(found.f_blocks)))
    }

    /// Whether the file was written `max_age` ago or earlier, or in a time to come.
    pub(super) fn is_old(&self, name: &str, max_age: Duration) -> bool {
        let modified = self
            .open_own(name)
            .and_then(|file| file.metadata()?.modified());
        modified.is_ok_and(|modified| age(modified).is_none_or(|age| age >= max_age))
    }

    /// Removes a file; one that is gone is as good.
    pub(super) fn unlink(&self, name: &str) {
        match unlinkat(&*self.directory, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => debug!("cannot remove `{name}` from the spool: {error}"),
        }
    }

    /// Opens a regular file of this user, never through a link.
    pub(super) fn open_own(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(openat(&*self.directory, name, flags, Mode::empty())?);
        let metadata = file.metadata()?;
        if metadata.is_file() && metadata.uid() == geteuid().as_raw() {
            Ok(file)
        } else {
            Err(io::Error::other("not a file of this user"))
        }
    }

    /// The text of a file; `None` if there is none that can be read.
    pub(super) fn read_text(&self, name: &str) -> Option<String> {
        let mut text = String::new();
        let mut file = self.open_own(name).ok()?.take(MAX_TEXT);
        file.read_to_string(&mut text).ok()?;
        Some(text)
    }

    /// Gives the folder a file of that text, in place of one of the same name.
    pub(super) fn write_text(&self, name: &str, text: &str) -> io::Result<()> {
        let mut file = Temporary::beside(self.place(), Path::new(name))?;
        file.write_all(text.as_bytes())?;
        file.persist(&self.place(), Path::new(name))
    }

    /// The same, and once it returns not even a crash of the machine takes the file
    /// away again.
    pub(super) fn write_durably(&self, name: &str, text: &str) -> io::Result<()> {
        let mut file = Temporary::beside(self.place(), Path::new(name))?;
        file.write_all(text.as_bytes())?;
        file.sync()?;
        file.persist(&self.place(), Path::new(name))?;
        fsync(&*self.directory)?;
        // Folder and parent may be as new as the file.
        for above in ["..", "../.."] {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            match openat(&*self.directory, above, flags, Mode::empty()) {
                Ok(above) => fsync(&above)?,
                // Whose names nobody may read is not of this user's making.
                Err(Errno::ACCESS) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
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

/// How long ago that was; `None` for a time to come, which a clock that was set
/// back leaves behind.
pub(super) fn age(modified: SystemTime) -> Option<Duration> {
    SystemTime::now().duration_since(modified).ok()
}
