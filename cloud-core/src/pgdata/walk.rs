//! Walks a data directory or a tablespace in a stable order.
//!
//! A server is at work in the directory meanwhile: files come, go and change
//! between any two looks. What is gone when its turn comes is passed over and
//! counted, because replay of WAL removes it anyway; everything else that cannot
//! be read fails the walk, because a base backup that silently lacks a directory is
//! worse than none.
//!
//! Order, the same in every run: a directory before what it contains, its files
//! before its sub-directories, each sorted by bytes. Memory is that of the names of
//! the directories on the way down, packed: one directory may have a million files.
//! Directories are held open and their entries named relative to them, so depth and renaming
//! do not matter.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::display::display_name;
use super::exclude::{Rules, Verdict};
use super::names::Names;
use super::relation::RelationFile;
use super::restore::is_wal_directory;

/// Opens a directory without following a link at its last component.
pub(super) const OPEN_DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Identifies a file whatever its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileId {
    /// Device number of the file system.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
}

impl FileId {
    /// The identity of what is at `path`, links followed.
    pub fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    }
}

/// What the file system says about a file beside its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// Identity.
    pub id: FileId,
    /// Number of names (hard links).
    pub links: u64,
    /// Permission bits, with set-id and sticky bits: `0o7777` at most.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size, in bytes.
    pub size: u64,
    /// Modification time, in whole seconds since 1970, rounded down.
    pub mtime_seconds: i64,
    /// The rest of the modification time, in nanoseconds.
    pub mtime_nanos: u32,
}

impl Meta {
    pub(super) fn of(stat: &Stat) -> Self {
        Self {
            id: FileId {
                device: unsigned(stat.st_dev),
                inode: unsigned(stat.st_ino),
            },
            links: unsigned(stat.st_nlink),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: unsigned(stat.st_size),
            mtime_seconds: stat.st_mtime,
            mtime_nanos: u32::try_from(unsigned(stat.st_mtime_nsec)).unwrap_or(0),
        }
    }
}

/// Whether the link `name` below `root` leads out of it, as far as its text tells.
fn leads_away(root: &Path, name: &[u8], target: &[u8]) -> bool {
    let target = Path::new(OsStr::from_bytes(target));
    if target.is_absolute() {
        return !target.starts_with(root);
    }
    let mut depth = name.split(|&byte| byte == b'/').count() - 1;
    for component in target.components() {
        match component {
            Component::ParentDir if depth == 0 => return true,
            Component::ParentDir => depth -= 1,
            Component::Normal(_) => depth += 1,
            _ => {}
        }
    }
    false
}

/// The fields of `stat` have other types on other processors.
fn unsigned(value: impl TryInto<u64>) -> u64 {
    value.try_into().unwrap_or(0)
}

/// What kind of file an [`Entry`] is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link to a file, or to nothing.
    Symlink {
        /// What it says.
        target: Vec<u8>,
    },
    /// A named pipe.
    Fifo,
}

/// Something to store.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its name as a member of an archive: the top directory is `.`, what is not a
    /// directory at the top is `./name`, everything else has no `./`.
    pub name: Vec<u8>,
    /// Its kind.
    pub kind: EntryKind,
    /// What was known of it when its turn came; a file is looked at again when it is opened.
    pub meta: Meta,
    /// Where it is.
    pub(super) place: Place,
    /// The top directory's path, for messages.
    pub(super) root: Arc<PathBuf>,
}

/// An open directory and a name in it.
#[derive(Debug, Clone)]
pub(super) struct Place {
    directory: Arc<OwnedFd>,
    base: Vec<u8>,
}

impl Place {
    fn stat(&self, flags: AtFlags) -> rustix::io::Result<Stat> {
        rustix::fs::statat(&*self.directory, self.base.as_slice(), flags)
    }

    fn read_link(&self) -> rustix::io::Result<Vec<u8>> {
        let target = rustix::fs::readlinkat(&*self.directory, self.base.as_slice(), Vec::new())?;
        Ok(target.into_bytes())
    }

    pub(super) fn open(&self, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        rustix::fs::openat(&*self.directory, self.base.as_slice(), flags, Mode::empty())
    }
}

/// One step of a [`Walk`].
#[derive(Debug, Clone)]
pub enum Found {
    /// Something to store.
    Entry(Entry),
    /// Something that is not stored, which the user ought to know.
    LeftOut(LeftOut),
}

/// Something that is not stored although no rule excludes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Its name, relative to the source.
    pub name: Vec<u8>,
    /// Why it is not stored.
    pub reason: LeftOutReason,
}

/// Why something is not stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeftOutReason {
    /// It is a link to a directory, and those are not followed.
    LinkedDirectory {
        /// What the link says.
        target: Vec<u8>,
        /// Nothing is lost: the directory's content would not be stored either
        /// (`pg_wal`), and an empty directory is stored in the link's place.
        expected: bool,
    },
    /// It is a link to a file outside of the source. The link is stored, the file is not.
    LinkedFile {
        /// What the link says.
        target: Vec<u8>,
    },
    /// It is a device file.
    Device,
}

/// Why a source could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The file system refused.
    #[error("could not {doing} `{name}` in `{}`", root.display())]
    Io {
        /// What was being done: `open`, `list`, `look at`.
        doing: &'static str,
        /// To what, relative to the source, fit for printing.
        name: String,
        /// The source.
        root: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// What ought to be a file is something else, or became it between two looks.
    #[error("`{name}` in `{}` is not a regular file", root.display())]
    NotAFile {
        /// Its name, fit for printing.
        name: String,
        /// The source.
        root: PathBuf,
    },
    /// A directory of databases, of the state of transactions or of a tablespace, or a file of a
    /// relation, was moved away and a link left behind. Without it the backup would be none.
    #[error(
        "`{name}` in `{}` is a link to `{target}`, which would not be part of the backup: move it \
         back, or mount it there", root.display()
    )]
    Linked {
        /// Its name, fit for printing.
        name: String,
        /// What the link says, fit for printing.
        target: String,
        /// The source.
        root: PathBuf,
    },
    /// A tablespace has no directory of this server in it: probably its file system is
    /// not mounted.
    #[error("tablespace directory `{}` contains no directory of this server (`PG_{major}_*`)", root.display())]
    NoVersionDirectory {
        /// The tablespace's directory.
        root: PathBuf,
        /// The server's major version.
        major: String,
    },
}

/// Walks a source; see the head of the module for the order.
///
/// After an error the walk is over.
#[derive(Debug)]
pub struct Walk {
    root: Arc<PathBuf>,
    rules: Rules,
    elsewhere: Vec<FileId>,
    stack: Vec<Level>,
    pending: VecDeque<Found>,
    vanished: u64,
}

#[derive(Debug)]
struct Level {
    directory: Arc<OwnedFd>,
    /// Name of the directory with a slash behind it; empty at the top.
    prefix: Vec<u8>,
    names: Names,
}

impl Walk {
    /// Begins to walk the directory `root`, which may be a link to one.
    ///
    /// Directories in `elsewhere` are left out with all they contain: the tablespaces that
    /// have an archive of their own, wherever they are.
    pub fn open(root: &Path, rules: Rules, elsewhere: &[FileId]) -> Result<Self, SourceError> {
        let mut walk = Self {
            root: Arc::new(root.to_owned()),
            rules,
            elsewhere: elsewhere.to_vec(),
            stack: Vec::new(),
            pending: VecDeque::new(),
            vanished: 0,
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(root, flags, Mode::empty())
            .map_err(|errno| walk.error("open", b".", errno))?;
        let meta = walk.meta_of(&directory, b".")?;
        let (directory, names) = walk.list(directory, b".")?;
        if let Rules::Tablespace { major } = &walk.rules {
            let is_own = |name: &[u8]| {
                walk.rules.is_version_directory(name)
                    && rustix::fs::statat(&*directory, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(
                        |stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory,
                    )
            };
            let mut all = names.clone();
            if !std::iter::from_fn(|| all.next().map(is_own)).any(|own| own) {
                return Err(SourceError::NoVersionDirectory {
                    root: root.to_owned(),
                    major: major.clone(),
                });
            }
        } else {
            let place = Place {
                directory: Arc::clone(&directory),
                base: b".".to_vec(),
            };
            let top = walk.found(b".".to_vec(), EntryKind::Directory, meta, place);
            walk.pending.push_back(top);
        }
        walk.refuse_linked()?;
        walk.stack.push(Level {
            directory,
            prefix: Vec::new(),
            names,
        });
        Ok(walk)
    }

    /// Finds links in the place of needed directories before anything is read: the walk would come to
    /// the last of them after hours.
    fn refuse_linked(&self) -> Result<(), SourceError> {
        let entries = |path: &Path| {
            let entries = fs::read_dir(path).into_iter().flatten().flatten();
            entries.filter(|entry| entry.file_type().is_ok_and(|kind| !kind.is_file()))
        };
        for top in entries(&self.root) {
            let top_name = top.file_name().into_vec();
            self.refuse_if_linked(&top.path(), &top_name)?;
            if top_name == b"base" || self.rules.is_version_directory(&top_name) {
                for database in entries(&top.path()) {
                    let base = database.file_name().into_vec();
                    let name = [top_name.as_slice(), b"/", &base].concat();
                    self.refuse_if_linked(&database.path(), &name)?;
                }
            }
        }
        Ok(())
    }

    fn refuse_if_linked(&self, path: &Path, name: &[u8]) -> Result<(), SourceError> {
        match path.read_link() {
            Ok(target) if self.rules.is_needed_directory(name) && path.is_dir() => {
                Err(self.linked(name, target.as_os_str().as_bytes()))
            }
            _ => Ok(()),
        }
    }

    fn linked(&self, name: &[u8], target: &[u8]) -> SourceError {
        SourceError::Linked {
            name: display_name(name),
            target: display_name(target),
            root: self.root.to_path_buf(),
        }
    }

    /// How many entries were gone when their turn came.
    pub fn vanished(&self) -> u64 {
        self.vanished
    }

    /// Looks at one entry of an open directory, whose name with a slash behind it is `prefix`.
    fn visit(&mut self, prefix: &[u8], place: Place) -> Result<Option<Found>, SourceError> {
        let name = [prefix, &place.base].concat();
        let stat = match place.stat(AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(self.gone()),
            Err(errno) => return Err(self.error("look at", &name, errno)),
        };
        let meta = Meta::of(&stat);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => self.visit_directory(name, meta, place),
            FileType::Symlink => self.visit_symlink(name, meta, place),
            // A socket belongs to a running process.
            FileType::Socket => Ok(None),
            _ if self.rules.judge(&name, false) == Verdict::Skip => Ok(None),
            FileType::RegularFile => Ok(Some(self.found(name, EntryKind::File, meta, place))),
            FileType::Fifo => Ok(Some(self.found(name, EntryKind::Fifo, meta, place))),
            _ => Ok(Some(left_out(name, LeftOutReason::Device))),
        }
    }

    fn visit_directory(
        &mut self,
        name: Vec<u8>,
        meta: Meta,
        place: Place,
    ) -> Result<Option<Found>, SourceError> {
        match self.rules.judge(&name, true) {
            Verdict::Skip => return Ok(None),
            Verdict::Hollow => {
                return Ok(Some(self.found(name, EntryKind::Directory, meta, place)));
            }
            Verdict::Store if self.elsewhere.contains(&meta.id) => return Ok(None),
            Verdict::Store => {}
        }
        let directory = match place.open(OPEN_DIRECTORY) {
            Ok(directory) => directory,
            Err(Errno::NOENT) => return Ok(self.gone()),
            Err(errno) => return Err(self.error("open directory", &name, errno)),
        };
        let meta = self.meta_of(&directory, &name)?;
        let (directory, names) = self.list(directory, &name)?;
        self.stack.push(Level {
            directory,
            prefix: [name.as_slice(), b"/"].concat(),
            names,
        });
        Ok(Some(self.found(name, EntryKind::Directory, meta, place)))
    }

    fn visit_symlink(
        &mut self,
        name: Vec<u8>,
        meta: Meta,
        place: Place,
    ) -> Result<Option<Found>, SourceError> {
        if self.rules.judge(&name, false) == Verdict::Skip {
            return Ok(None);
        }
        let target = match place.read_link() {
            Ok(target) => target,
            Err(Errno::NOENT) => return Ok(self.gone()),
            Err(errno) => return Err(self.error("read link", &name, errno)),
        };
        let behind = place.stat(AtFlags::empty()).ok();
        let is = |kind| move |stat: &Stat| FileType::from_raw_mode(stat.st_mode) == kind;
        let Some(directory) = behind.filter(is(FileType::Directory)) else {
            // A restore refuses it, and no server has use for it.
            if matches!(self.rules, Rules::Pgdata { .. }) && is_wal_directory(&name) {
                let expected = false;
                let reason = LeftOutReason::LinkedDirectory { target, expected };
                return Ok(Some(left_out(name, reason)));
            }
            if behind.is_some_and(|stat| is(FileType::RegularFile)(&stat)) {
                if RelationFile::of(&name).is_some() {
                    return Err(self.linked(&name, &target));
                }
                if leads_away(&self.root, &name, &target) {
                    let target = target.clone();
                    let told = left_out(name.clone(), LeftOutReason::LinkedFile { target });
                    self.pending.push_back(told);
                }
            }
            return Ok(Some(self.found(
                name,
                EntryKind::Symlink { target },
                meta,
                place,
            )));
        };
        let expected = match self.rules.judge(&name, true) {
            Verdict::Skip => return Ok(None),
            Verdict::Store if self.rules.is_needed_directory(&name) => {
                return Err(self.linked(&name, &target));
            }
            Verdict::Store => false,
            Verdict::Hollow => {
                let meta = Meta::of(&directory);
                let empty = self.found(name.clone(), EntryKind::Directory, meta, place);
                self.pending.push_back(empty);
                true
            }
        };
        Ok(Some(left_out(
            name,
            LeftOutReason::LinkedDirectory { target, expected },
        )))
    }

    fn gone(&mut self) -> Option<Found> {
        self.vanished += 1;
        None
    }

    fn meta_of(&self, directory: &OwnedFd, name: &[u8]) -> Result<Meta, SourceError> {
        let stat =
            rustix::fs::fstat(directory).map_err(|errno| self.error("look at", name, errno))?;
        Ok(Meta::of(&stat))
    }

    /// The names in `directory`: those of sub-directories last, both sorted.
    fn list(&self, directory: OwnedFd, name: &[u8]) -> Result<(Arc<OwnedFd>, Names), SourceError> {
        let list = || {
            let mut names = Names::default();
            for found in Dir::new(directory.try_clone()?)? {
                let found = found?;
                let base = found.file_name().to_bytes();
                if base == b"." || base == b".." {
                    continue;
                }
                let kind = match found.file_type() {
                    FileType::Unknown => {
                        rustix::fs::statat(&directory, base, AtFlags::SYMLINK_NOFOLLOW)
                            .map_or(FileType::Unknown, |stat| {
                                FileType::from_raw_mode(stat.st_mode)
                            })
                    }
                    kind => kind,
                };
                names.add(base, kind == FileType::Directory)?;
            }
            Ok(names)
        };
        let mut names =
            list().map_err(|error: io::Error| self.error("list directory", name, error))?;
        names.sort();
        Ok((Arc::new(directory), names))
    }

    fn found(&self, name: Vec<u8>, kind: EntryKind, meta: Meta, place: Place) -> Found {
        let is_at_top = !name.contains(&b'/');
        let name = if is_at_top && kind != EntryKind::Directory {
            [b"./", name.as_slice()].concat()
        } else {
            name
        };
        Found::Entry(Entry {
            name,
            kind,
            meta,
            place,
            root: Arc::clone(&self.root),
        })
    }

    fn error(&self, doing: &'static str, name: &[u8], source: impl Into<io::Error>) -> SourceError {
        SourceError::Io {
            doing,
            name: display_name(name),
            root: self.root.to_path_buf(),
            source: source.into(),
        }
    }
}

fn left_out(name: Vec<u8>, reason: LeftOutReason) -> Found {
    Found::LeftOut(LeftOut { name, reason })
}

impl Iterator for Walk {
    type Item = Result<Found, SourceError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(found) = self.pending.pop_front() {
                return Some(Ok(found));
            }
            let level = self.stack.last_mut()?;
            let Some(base) = level.names.next().map(<[u8]>::to_vec) else {
                self.stack.pop();
                continue;
            };
            let prefix = level.prefix.clone();
            let place = Place {
                directory: Arc::clone(&level.directory),
                base,
            };
            match self.visit(&prefix, place) {
                Ok(Some(found)) => return Some(Ok(found)),
                Ok(None) => {}
                Err(error) => {
                    self.stack.clear();
                    return Some(Err(error));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
