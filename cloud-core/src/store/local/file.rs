//! Files that become visible whole or not at all.

use std::fs::{DirBuilder, File, Metadata, OpenOptions, ReadDir};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::store::PutMode;

/// What temporary names begin with; no component of a key may.
const TEMPORARY: &str = ".barman-cloud-";

/// Age from which a temporary file counts as left behind by a process that was
/// killed. No upload waits that long between two writes; if one did, it would
/// fail to become visible, and say so.
const ABANDONED: Duration = Duration::from_hours(7 * 24);

/// How often a write begins again because its directory went away under it:
/// a delete that empties a directory removes it.
const TRIES: u32 = 100;

/// Whether a text can be a component of a key.
pub(super) fn is_component(text: &str) -> bool {
    !matches!(text, "" | "." | "..") && !text.starts_with(TEMPORARY)
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
        let mut tries = 1;
        loop {
            let made = create_directories(root, directory).and_then(|()| Self::new(directory));
            match made {
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound
                        && tries < TRIES
                        && root.is_dir() =>
                {
                    tries += 1;
                }
                made => return made,
            }
        }
    }

    fn new(directory: &Path) -> io::Result<Self> {
        let name = format!(
            "{TEMPORARY}{}-{:016x}.tmp",
            std::process::id(),
            fastrand::u64(..)
        );
        let path = directory.join(name);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        Ok(Self { file, path })
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn file_mut(&mut self) -> &mut File {
        &mut self.file
    }

    /// Makes the file visible as `target`, on disk with all its directories.
    /// After a failure it can be tried again.
    pub(super) fn publish(
        &self,
        root: &Path,
        target: &Path,
        mode: PutMode,
    ) -> io::Result<Metadata> {
        self.file.sync_all()?;
        let done = match mode {
            PutMode::Overwrite => std::fs::rename(&self.path, target),
            PutMode::CreateOnly => std::fs::hard_link(&self.path, target),
        };
        if let Err(error) = done
            && !self.is_at(target)?
        {
            return Err(match mode {
                PutMode::Overwrite => error,
                PutMode::CreateOnly => explain_link(error, target),
            });
        }
        sync_directories(root, target.parent().unwrap_or(root))?;
        self.file.metadata()
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
    let below = |path: &Path| path != root && path.starts_with(root);
    if directory.starts_with(root) {
        sweep(directory);
    }
    for ancestor in directory.ancestors().take_while(|path| below(path)) {
        if std::fs::remove_dir(ancestor).is_err() {
            break;
        }
    }
}

fn sweep(directory: &Path) {
    for (name, written) in temporaries(directory).unwrap_or_default() {
        if written.elapsed().is_ok_and(|age| age > ABANDONED) {
            let _ = std::fs::remove_file(directory.join(name));
        }
    }
}

/// The entries of a directory; `None` if there is none.
pub(super) fn read_dir(path: &Path) -> io::Result<Option<ReadDir>> {
    match path.read_dir() {
        Ok(entries) => Ok(Some(entries)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Whether this is the name of a temporary file.
pub(super) fn is_temporary(name: &str) -> bool {
    name.starts_with(TEMPORARY) && !name.contains('/')
}

/// The temporary files of a directory, and when each was last written to. A
/// directory that is not there has none.
pub(super) fn temporaries(directory: &Path) -> io::Result<Vec<(String, SystemTime)>> {
    let mut found = Vec::new();
    for entry in read_dir(directory)?.into_iter().flatten() {
        let entry = entry?;
        let name = entry.file_name().into_string().unwrap_or_default();
        if !is_temporary(&name) {
            continue;
        }
        match entry.metadata().and_then(|meta| meta.modified()) {
            Ok(written) => found.push((name, written)),
            // It was finished in the meantime.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    found.sort();
    Ok(found)
}
