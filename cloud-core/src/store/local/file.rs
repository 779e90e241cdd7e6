//! Files that become visible whole or not at all.

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, XattrFlags};

use crate::store::{FINGERPRINT, ObjectVersion, PutMode};

/// What temporary names begin with; no component of a key may.
const TEMPORARY: &str = ".barman-cloud-";

/// What the name of an upload's first file ends with. Its other files have that
/// name and more behind it.
const FIRST: &str = ".tmp";

/// Age from which a temporary file counts as left behind by a process that was
/// killed. No upload waits that long between two writes; if one did, it would
/// fail to become visible, and say so.
const ABANDONED: Duration = Duration::from_hours(7 * 24);

/// Most bytes of a fingerprint; a longer one is none of ours.
const MAX_FINGERPRINT: usize = 1 << 10;

/// How long a write begins again because its directory goes away under it: a
/// delete that empties a directory removes it. Counted in time, since how often
/// a race is lost depends on how the processes are scheduled.
const RACE_PATIENCE: Duration = Duration::from_secs(10);

/// How long to wait for somebody who replaces a version in the same directory.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// Between two looks whether a lock is free.
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// Whether a text can be a component of a key.
pub(super) fn is_component(text: &str) -> bool {
    !matches!(text, "" | "." | "..") && !text.starts_with(TEMPORARY)
}

/// The upload that a temporary file belongs to, by the name of its first file;
/// `None` if this is no temporary name.
pub(super) fn upload_of(name: &str) -> Option<&str> {
    let rest = name.strip_prefix(TEMPORARY)?;
    let end = rest.find(FIRST).map_or(rest.len(), |at| at + FIRST.len());
    Some(&name[..TEMPORARY.len() + end])
}

/// The directory that a name lies in, and what follows the last `/`; `None` if
/// there can be no such directory below a root.
pub(super) fn split(name: &str) -> Option<(&str, &str)> {
    match name.rsplit_once('/') {
        None => Some(("", name)),
        Some((directory, rest)) => {
            let possible = directory.split('/').all(is_component);
            possible.then_some((directory, rest))
        }
    }
}

/// A file that nobody sees yet. Dropped, it is gone.
#[derive(Debug)]
pub(super) struct Temporary {
    file: File,
    path: PathBuf,
}

impl Temporary {
    /// A new file in the directory of `target`, which is created if need be;
    /// `root` is not.
    pub(super) fn beside(root: &Path, target: &Path) -> io::Result<Self> {
        let directory = target.parent().unwrap_or(root);
        let began = Instant::now();
        loop {
            let made = create_directories(root, directory).and_then(|()| Self::new(directory));
            match made {
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound
                        && began.elapsed() < RACE_PATIENCE
                        && root.is_dir() => {}
                made => return made,
            }
        }
    }

    fn new(directory: &Path) -> io::Result<Self> {
        let (process, random) = (std::process::id(), fastrand::u64(..));
        Self::at(directory.join(format!("{TEMPORARY}{process}-{random:016x}{FIRST}")))
    }

    /// Another file of the same upload.
    pub(super) fn another(&self) -> io::Result<Self> {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{:016x}", fastrand::u64(..)));
        Self::at(name.into())
    }

    fn at(path: PathBuf) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        Ok(Self { file, path })
    }

    /// Keeps a fingerprint with the file, in an extended attribute: there it is
    /// renamed with it, and is no part of what others read. Where the file system
    /// has none the object is stored without.
    pub(super) fn note(&self, fingerprint: Option<&str>) {
        if let Some(text) = fingerprint {
            let flags = XattrFlags::empty();
            let noted = rustix::fs::fsetxattr(&self.file, attribute(), text.as_bytes(), flags);
            if let Err(errno) = noted {
                let path = self.path.display();
                tracing::debug!("no fingerprint can be kept with `{path}`: {errno}");
            }
        }
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn file_mut(&mut self) -> &mut File {
        &mut self.file
    }

    /// Has all bytes of the file on disk. A failure is told once: the kernel may
    /// have dropped what it could not write, and says nothing of it the next time.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// Makes the file, which was synced, visible as `target`, with all its directories
    /// on disk. After a failure it can be tried again.
    pub(super) fn publish(
        &self,
        root: &Path,
        target: &Path,
        mode: &PutMode,
    ) -> io::Result<Metadata> {
        let done = match mode {
            PutMode::Overwrite => std::fs::rename(&self.path, target),
            PutMode::CreateOnly => std::fs::hard_link(&self.path, target),
            PutMode::Replace(version) => self.replace(target, version),
        };
        if let Err(error) = done
            && !self.is_at(target)?
        {
            self.check_in_place()?;
            return Err(match mode {
                PutMode::Overwrite | PutMode::Replace(_) => error,
                PutMode::CreateOnly => explain_link(error, target),
            });
        }
        sync_directories(root, target.parent().unwrap_or(root))?;
        self.file.metadata()
    }

    /// Takes the place of `target` if that is still the file of `version`. Nobody
    /// else replaces a version in this directory at the same time, where the file
    /// system has locks.
    fn replace(&self, target: &Path, version: &ObjectVersion) -> io::Result<()> {
        let _lock = match target.parent() {
            Some(directory) => lock(directory)?,
            None => None,
        };
        let found = match std::fs::symlink_metadata(target) {
            Ok(meta) => Some(super::version(&meta)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        if found.as_ref() != Some(version) {
            let why = "the object that was to be replaced is gone or was replaced by another";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
        }
        std::fs::rename(&self.path, target)
    }

    /// The refusal of a file whose name was taken away.
    pub(super) fn check_in_place(&self) -> io::Result<()> {
        if self.is_at(&self.path)? {
            return Ok(());
        }
        let why = "its temporary file was deleted: the upload was aborted by another process, or \
                   nothing was written for a week";
        Err(io::Error::new(io::ErrorKind::NotFound, why))
    }

    /// Whether `target` is this very file. Over NFS the answer to a link or
    /// rename that was made may be lost, and the repetition of the request then
    /// fails: the new name is taken, or the old one is gone.
    fn is_at(&self, target: &Path) -> io::Result<bool> {
        let ours = self.file.metadata()?;
        Ok(std::fs::symlink_metadata(target)
            .is_ok_and(|theirs| (ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino())))
    }
}

/// Locks a directory until the file is dropped; `None` on file systems that have
/// no locks for directories, as NFS.
fn lock(directory: &Path) -> io::Result<Option<File>> {
    use rustix::io::Errno;
    let directory = File::open(directory)?;
    let began = Instant::now();
    loop {
        match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Some(directory)),
            // Held for as long as a rename takes; or its holder was stopped.
            Err(Errno::WOULDBLOCK) if began.elapsed() < LOCK_PATIENCE => {
                std::thread::sleep(LOCK_PAUSE);
            }
            Err(Errno::WOULDBLOCK) => {
                let why = "another process has locked its directory";
                return Err(io::Error::new(io::ErrorKind::TimedOut, why));
            }
            Err(Errno::INTR) => {}
            Err(_) => return Ok(None),
        }
    }
}

/// The name of the extended attribute that holds a fingerprint.
fn attribute() -> String {
    format!("user.{FINGERPRINT}")
}

/// The fingerprint that is kept with a file.
pub(super) fn noted(file: &File) -> Option<String> {
    let mut text = vec![0; MAX_FINGERPRINT];
    let length = rustix::fs::fgetxattr(file, attribute(), &mut text[..]).ok()?;
    text.truncate(length);
    String::from_utf8(text).ok()
}

/// What a failed link means: a directory of that name is no object that exists
/// already, and `EPERM` is how Linux says that a file system has no links.
fn explain_link(error: io::Error, target: &Path) -> io::Error {
    use rustix::io::Errno;
    let no_links = [Errno::PERM, Errno::OPNOTSUPP, Errno::NOSYS, Errno::MLINK]
        .map(|errno| Some(errno.raw_os_error()));
    if error.kind() == io::ErrorKind::AlreadyExists && target.is_dir() {
        io::ErrorKind::IsADirectory.into()
    } else if no_links.contains(&error.raw_os_error()) {
        let why = "this file system has no hard links, without which a new object cannot be \
                   created safely";
        io::Error::new(io::ErrorKind::Unsupported, why)
    } else {
        error
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Gone already after a rename.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Creates `directory` and what is missing between it and `root`, which must
/// exist, one by one: a root that goes away meanwhile is not made anew.
pub(super) fn create_directories(root: &Path, directory: &Path) -> io::Result<()> {
    if !root.is_dir() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let below = directory.strip_prefix(root).map_err(io::Error::other)?;
    if below.as_os_str().is_empty() || directory.is_dir() {
        return Ok(());
    }
    let mut path = root.to_owned();
    for component in below {
        path.push(component);
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Syncs `directory` and all directories from there up to `root`. Those above
/// may be new as well, made by another process that has not synced them yet.
pub(super) fn sync_directories(root: &Path, directory: &Path) -> io::Result<()> {
    for ancestor in directory
        .ancestors()
        .take_while(|ancestor| ancestor.starts_with(root))
    {
        match File::open(ancestor).and_then(|file| file.sync_all()) {
            Ok(()) => {}
            // Some network file systems cannot sync a directory.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Deletes a file; one that is not there is deleted already.
pub(super) fn delete(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error)
            if !matches!(
                error.kind(),
                // The last one: a directory is no object.
                io::ErrorKind::NotFound
                    | io::ErrorKind::NotADirectory
                    | io::ErrorKind::IsADirectory
            ) =>
        {
            Err(error)
        }
        _ => Ok(()),
    }
}

/// Takes away a directory from which something was deleted if it is empty now,
/// and those above it below `root`. Temporary files that nobody has written to
/// for `ABANDONED` do not keep it.
pub(super) fn tidy(root: &Path, directory: &Path) {
    if directory.starts_with(root) {
        sweep(directory);
    }
    prune(root, directory);
}

/// Takes away a directory below `root` if it is empty, and then those above it.
pub(super) fn prune(root: &Path, directory: &Path) {
    let below = |path: &Path| path != root && path.starts_with(root);
    for ancestor in directory.ancestors().take_while(|path| below(path)) {
        if std::fs::remove_dir(ancestor).is_err() {
            break;
        }
    }
}

/// Whether there is no such directory.
pub(super) fn is_absence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn sweep(directory: &Path) {
    let Ok(entries) = directory.read_dir() else {
        return;
    };
    for entry in entries.flatten() {
        let temporary = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.starts_with(TEMPORARY));
        let abandoned = || {
            let modified = entry.metadata().and_then(|meta| meta.modified());
            modified.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > ABANDONED))
        };
        if temporary && abandoned() {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
