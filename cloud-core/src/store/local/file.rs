//! Files that become visible whole or not at all.

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::store::PutMode;

/// What temporary names begin with; no component of a key may.
const TEMPORARY: &str = ".barman-cloud-";

/// How often a write begins again because its directory went away under it:
/// a delete that empties a directory removes it.
const TRIES: u32 = 10;

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
        let mut last = None;
        for _ in 0..TRIES {
            create_directories(root, directory)?;
            let name = format!(
                "{TEMPORARY}{}-{:016x}.tmp",
                std::process::id(),
                fastrand::u64(..)
            );
            let path = directory.join(name);
            let opened = OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path);
            match opened {
                Ok(file) => return Ok(Self { file, path }),
                Err(error) if error.kind() == io::ErrorKind::NotFound && root.is_dir() => {
                    last = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn file_mut(&mut self) -> &mut File {
        &mut self.file
    }

    /// Makes the file visible as `target`, on disk with all its directories.
    pub(super) fn publish(self, root: &Path, target: &Path, mode: PutMode) -> io::Result<Metadata> {
        self.file.sync_all()?;
        match mode {
            PutMode::Overwrite => std::fs::rename(&self.path, target)?,
            PutMode::CreateOnly => self.link(target)?,
        }
        sync_directories(root, target.parent().unwrap_or(root))?;
        self.file.metadata()
    }

    fn link(&self, target: &Path) -> io::Result<()> {
        let linked = std::fs::hard_link(&self.path, target);
        let Err(error) = linked else { return Ok(()) };
        // Over NFS the answer to a link that was made may be lost, and a
        // repetition finds the name taken: by this very file.
        let (ours, theirs) = (self.file.metadata()?, std::fs::symlink_metadata(target));
        match theirs {
            Ok(theirs) if (ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino()) => Ok(()),
            _ => Err(error),
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Gone already after a rename.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Creates `directory` and what is missing between it and `root`.
pub(super) fn create_directories(root: &Path, directory: &Path) -> io::Result<()> {
    if !root.is_dir() {
        return Err(io::ErrorKind::NotFound.into());
    }
    if directory.is_dir() {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
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

/// Deletes a file, and the directories that become empty by it.
pub(super) fn delete(root: &Path, path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) => {}
        // A directory is no object.
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => return Ok(()),
        Err(error) => return Err(error),
    }
    for ancestor in path
        .ancestors()
        .skip(1)
        .take_while(|dir| *dir != root && dir.starts_with(root))
    {
        if std::fs::remove_dir(ancestor).is_err() {
            break;
        }
    }
    Ok(())
}
