//! The directory a base backup, or one of its tablespaces, is restored to.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{
    Access, AtFlags, FileType, FlockOperation, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT,
    Uid,
};
use rustix::io::Errno;

use super::super::display::display_name;
use super::super::walk::OPEN_DIRECTORY;
use super::RestoreError;
use super::name::{components, is_held_back, plain_name};
use super::names::Names;
use super::owner::{Ids, Owners};
use super::refill::unlink;
use super::sync::Durability;
use super::unpack::{close, create_file};
use crate::tar::{Member, MemberKind, Mtime};

/// What the name of a held-back file ends with until it is whole. PostgreSQL takes
/// no notice of such a file.
const UNFINISHED: &[u8] = b".barman-cloud-unfinished";

/// Mode of directories that no member describes.
pub(super) const PRIVATE: Mode = Mode::RWXU;

/// A directory that members are restored to; may be used by several threads.
///
/// Nothing in it that this value did not make is ever changed or followed, but for the
/// attributes of the directory itself, and in a target that is opened with
/// [`Contents::Resumed`] or [`Contents::Over`]: there files are written in place, and what is
/// in the way is removed. The WAL directory may be a link in the last alone.
#[derive(Debug)]
pub struct Target {
    path: PathBuf,
    root: Arc<OwnedFd>,
    /// Whether files can be given away.
    pub(super) gives_away: bool,
    /// What was here before.
    contents: Contents,
    names: Names,
    written: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// Directories made so far by name, the target itself being empty, and what the archive of
    /// the greatest number says of them.
    ///
    /// Their attributes are set at the end: a directory without write permission must not keep its
    /// files out, and every file changes its directory's date.
    pub(super) directories: BTreeMap<Vec<u8>, Option<(u32, Attributes)>>,
    pub(super) owners: Owners,
    /// What has no owner of its own and came before the cluster's was known.
    pub(super) ownerless: Vec<Vec<u8>>,
    /// The target and directories above it, if they had to be made.
    made: Vec<PathBuf>,
    /// A directory on each other file system that was written to: what is mounted below the
    /// target, or behind the link of the WAL directory.
    pub(super) elsewhere: BTreeMap<u64, Arc<OwnedFd>>,
}

/// What a member's header says about a file beside its content.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attributes {
    pub(super) mode: u32,
    /// `None` for the cluster's.
    pub(super) owner: Option<Ids>,
    pub(super) mtime: Mtime,
}

/// Checks, without changing anything, that a base backup could be restored to `path`: that it is
/// absent or an empty directory, and can be made or written to.
pub fn check_destination(path: &Path) -> Result<(), RestoreError> {
    let failed = |path: &Path, source| RestoreError::NotWritable {
        path: path.to_owned(),
        source,
    };
    // An empty path means the working directory here and in `Path::parent`.
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    match fs::read_dir(path) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                return Err(RestoreError::NotEmpty {
                    path: path.to_owned(),
                });
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err(RestoreError::NotADirectory {
                path: path.to_owned(),
            });
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(path, error)),
    }
    // The target itself if it is there, even as a link to nothing, which cannot be written to.
    let nearest = path
        .ancestors()
        .map(|above| {
            if above.as_os_str().is_empty() {
                Path::new(".")
            } else {
                above
            }
        })
        .find(|above| above.symlink_metadata().is_ok())
        .unwrap_or(path);
    let access = Access::WRITE_OK | Access::EXEC_OK;
    rustix::fs::accessat(rustix::fs::CWD, nearest, access, AtFlags::EACCESS)
        .map_err(|errno| failed(nearest, errno.into()))
}

/// What may be in a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents {
    /// Nothing, but for the way to another target.
    Nothing,
    /// What an interrupted restore left, which may have been of a hostile archive: no link in it
    /// is followed.
    Resumed,
    /// A data directory: it is restored over. The link of its WAL directory is its owner's.
    Over,
}

/// Opens all targets of a restore, with what may be in each.
///
/// Before the first member is unpacked: one may be inside another, and a member must not be
/// able to put a link in its way. One that must be empty must still be so: since
/// [`check_destination`] another restore may have begun, and even ended. Files of two
/// backups must never meet in one directory.
pub fn open_targets(paths: &[(PathBuf, Contents)]) -> Result<Vec<Target>, RestoreError> {
    let open = |(path, contents): &(PathBuf, Contents)| {
        let contents = *contents;
        Target::open(path).map(|target| Target { contents, ..target })
    };
    let targets = paths.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let real = |target: &Target| {
        let path = fs::canonicalize(&target.path);
        path.map_err(|source| target.error("resolve", b".", source))
    };
    let places = targets.iter().map(real).collect::<Result<Vec<_>, _>>()?;
    for (target, place) in targets
        .iter()
        .zip(&places)
        .filter(|(target, _)| !target.keeps())
    {
        let not_listed = |source| target.error("list", b".", source);
        for entry in fs::read_dir(place).map_err(not_listed)? {
            let entry = entry.map_err(not_listed)?.path();
            if !places.iter().any(|other| other.starts_with(&entry)) {
                return Err(RestoreError::NotEmpty {
                    path: target.path.clone(),
                });
            }
        }
    }
    Ok(targets)
}

impl Target {
    /// Opens the directory `path` to restore to, after making it, and directories above it, if
    /// need be, for the owner alone.
    ///
    /// Nobody else can open it until this value is dropped, where the file system knows locks.
    ///
    /// Does not look whether it is empty; see [`open_targets`].
    pub fn open(path: &Path) -> Result<Self, RestoreError> {
        let error = |doing, source| RestoreError::Io {
            doing,
            name: ".".to_owned(),
            root: path.to_owned(),
            source,
        };
        let absolute = std::path::absolute(path).map_err(|source| error("resolve", source))?;
        let mut made = Vec::new();
        let mut missing: Vec<&Path> = absolute
            .ancestors()
            .take_while(|above| {
                above
                    .symlink_metadata()
                    .is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
            })
            .collect();
        while let Some(directory) = missing.pop() {
            match fs::DirBuilder::new().mode(0o700).create(directory) {
                Ok(()) => made.push(directory.to_owned()),
                // Another target has just made it: two tablespaces may share a parent.
                Err(source) if source.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(error("create directory", source)),
            }
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&absolute, flags, Mode::empty())
            .map_err(|errno| error("open directory", errno.into()))?;
        // Some network file systems lock no directories; they are used without.
        let locked = rustix::fs::flock(&root, FlockOperation::NonBlockingLockExclusive);
        if locked == Err(Errno::WOULDBLOCK) {
            return Err(RestoreError::Busy {
                path: path.to_owned(),
            });
        }
        Ok(Self {
            path: absolute,
            root: Arc::new(root),
            gives_away: rustix::process::geteuid().is_root(),
            contents: Contents::Nothing,
            names: Names::new(),
            written: AtomicU64::new(0),
            state: Mutex::new(State {
                made,
                ..State::default()
            }),
        })
    }

    /// The directory's absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether something was here before.
    pub(super) fn keeps(&self) -> bool {
        self.contents != Contents::Nothing
    }

    /// Why a member that is no directory must not have this name, if it must not.
    ///
    /// The link of a WAL directory is followed when a backup is restored over it, so an archive
    /// must not be able to make one; and what is in that directory must not make room for a file.
    /// A server has a directory there, or a link to one, and neither is stored as a link.
    pub(super) fn reserved(&self, name: &[u8], kind: &MemberKind) -> Option<&'static str> {
        if self.contents == Contents::Over && is_wal_directory(name) {
            return Some("it would replace the WAL directory");
        }
        refused_at_top(name, kind)
    }

    /// Whether a directory that has the name of this member was here before, and no archive has
    /// it.
    pub(super) fn may_replace(&self, member: &[u8]) -> bool {
        self.keeps() && plain_name(member).is_ok_and(|name| !self.has_directory(&name))
    }

    /// Whether an archive has this directory, or something in it.
    pub(super) fn has_directory(&self, name: &[u8]) -> bool {
        self.state().directories.contains_key(name)
    }

    /// The target and directories above it, if they had to be made.
    pub fn made(&self) -> Vec<PathBuf> {
        self.state().made.clone()
    }

    /// Takes up what was made for an earlier restore that this one goes on with.
    pub fn add_made(&self, paths: &[PathBuf]) {
        self.state().made.extend_from_slice(paths);
    }

    /// Removes a file at the top of the target, whose date stays.
    pub fn remove_at_top(&self, name: &[u8]) -> Result<(), RestoreError> {
        let failed = |errno| self.error("remove", name, errno);
        let before = rustix::fs::fstat(&*self.root).map_err(failed)?;
        unlink(&self.root, name).map_err(failed)?;
        keep_date(&self.root, &before).map_err(failed)
    }

    /// What was restored under which name, by all archives so far.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Bytes written to files so far.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    pub(super) fn count_written(&self, bytes: usize) {
        self.written.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn root(&self) -> &Arc<OwnedFd> {
        &self.root
    }

    /// The target, and a directory on each other file system that was written to.
    pub(super) fn on_each_device(&self) -> Vec<Arc<OwnedFd>> {
        let state = self.state();
        let elsewhere = state.elsewhere.values().map(Arc::clone);
        std::iter::once(Arc::clone(&self.root))
            .chain(elsewhere)
            .collect()
    }

    /// Makes the link `pg_tblspc/<oid>` to the directory of a tablespace.
    pub fn link_tablespace(&self, oid: u32, location: &Path) -> Result<(), RestoreError> {
        let name = format!("pg_tblspc/{oid}").into_bytes();
        let location = std::path::absolute(location)
            .map_err(|source| self.error("resolve", location.as_os_str().as_bytes(), source))?;
        let parent = self.directory(&[b"pg_tblspc"], &name)?;
        match rustix::fs::symlinkat(&location, &*parent, oid.to_string()) {
            Ok(()) => {}
            Err(Errno::EXIST) if self.keeps() => {
                let there = rustix::fs::readlinkat(&*parent, oid.to_string(), Vec::new());
                let same =
                    there.is_ok_and(|there| there.as_bytes() == location.as_os_str().as_bytes());
                if !same {
                    unlink(&parent, oid.to_string().as_bytes())
                        .and_then(|()| rustix::fs::symlinkat(&location, &*parent, oid.to_string()))
                        .map_err(|errno| self.error("replace", &name, errno))?;
                }
            }
            Err(Errno::EXIST) => {
                return Err(RestoreError::LinkExists {
                    name: display_name(&name),
                    root: self.path.clone(),
                });
            }
            Err(errno) => return Err(self.error("create link", &name, errno)),
        }
        if self.gives_away {
            self.state().ownerless.push(name);
        }
        Ok(())
    }

    /// Makes the WAL directory, `pg_wal` (`pg_xlog` before PostgreSQL 10), unless a
    /// member did: where it was a link to a directory, the base backup does not have it.
    pub fn ensure_directory(&self, name: &str) -> Result<(), RestoreError> {
        self.directory(&[name.as_bytes()], name.as_bytes())
            .map(|_| ())
    }

    /// Sets modes, owners and dates of directories, and owners of what had none of its own. Called
    /// once, when all members are unpacked and all links made, before [`sync_all`](super::sync_all).
    pub fn finish(&self) -> Result<(), RestoreError> {
        let mut state = self.state();
        let cluster = state.owners.of_cluster().filter(|_| self.gives_away);
        for name in std::mem::take(&mut state.ownerless) {
            if let Some(ids) = cluster {
                let parts = components(&name)?;
                let (base, above) = parts.split_last().expect("a file below the target");
                let parent = self.open_directory(above, &name)?;
                chown_at(&parent, base, ids)
                    .map_err(|errno| self.error("give away", &name, errno))?;
            }
        }
        for path in std::mem::take(&mut state.made) {
            if let Some(Ids { uid, gid }) = cluster {
                std::os::unix::fs::lchown(&path, Some(uid), Some(gid)).map_err(|source| {
                    self.error("give away", path.as_os_str().as_bytes(), source)
                })?;
            }
        }
        // What is deeper comes later in this order, and has to be done earlier.
        for (name, attributes) in std::mem::take(&mut state.directories).into_iter().rev() {
            let directory = self.open_directory(&name_parts(&name), &name)?;
            let set = match attributes {
                Some((_, attributes)) => self.set_attributes(&directory, attributes, cluster),
                None => cluster.map_or(Ok(()), |ids| chown(&directory, ids)),
            };
            match set {
                // A directory that was there before, of another owner: PostgreSQL itself says
                // whether it can live with that.
                Err(Errno::PERM) if name.is_empty() => {}
                set => set.map_err(|errno| self.error("set the attributes of", &name, errno))?,
            }
        }
        Ok(())
    }

    /// Writes a member that was held back, and syncs it and the directory it is in.
    /// It gets its name when all of it is on disk: where there is a `pg_control`, it
    /// is a whole one. (With [`Durability::Unsynced`], when all of it was written.)
    ///
    /// Called after [`sync_all`](super::sync_all), first for the backup label, last of all for
    /// `pg_control` (R1).
    pub fn write_held(
        &self,
        member: &Member,
        bytes: &[u8],
        durability: Durability,
    ) -> Result<(), RestoreError> {
        if !is_held_back(&member.name) || !matches!(member.kind, MemberKind::File { .. }) {
            return Err(RestoreError::Refused {
                name: display_name(&member.name),
                problem: "it is not a file that is written at the end",
            });
        }
        let parts = components(&member.name)?;
        let (base, above) = parts.split_last().expect("a file below the target");
        let parent = self.directory(above, &member.name)?;
        let before = rustix::fs::fstat(&*parent)
            .map_err(|errno| self.error("look at the directory of", &member.name, errno))?;
        let failed = |source: io::Error| self.error("write", &member.name, source);
        let unfinished = [base, UNFINISHED].concat();
        let mut file = File::from(create_file(self, &parent, &unfinished, &member.name)?);
        file.write_all(bytes).map_err(failed)?;
        let attributes = self.attributes(member, &parts.join(&b'/'));
        let cluster = self.state().owners.of_cluster();
        self.set_attributes(&file, attributes, cluster)
            .map_err(|errno| failed(errno.into()))?;
        if durability == Durability::Synced {
            file.sync_all().map_err(failed)?;
        }
        close(file).map_err(failed)?;
        rustix::fs::renameat(&*parent, &unfinished[..], &*parent, *base)
            .map_err(|errno| failed(errno.into()))?;
        keep_date(&parent, &before).map_err(|errno| failed(errno.into()))?;
        self.count_written(bytes.len());
        match durability {
            Durability::Synced => rustix::fs::fsync(&*parent).map_err(|errno| failed(errno.into())),
            Durability::Unsynced => Ok(()),
        }
    }

    /// What `member`, called `name` below the target, says about itself.
    pub(super) fn attributes(&self, member: &Member, name: &[u8]) -> Attributes {
        // Set-id bits mean something for a directory (group of new files); in a data directory
        // no file has them, and a bucket must not be able to plant a program that runs as root.
        let mask = match member.kind {
            MemberKind::Directory => 0o7777,
            _ => 0o777,
        };
        Attributes {
            mode: member.mode & mask,
            owner: if self.gives_away {
                self.state().owners.of(member, name)
            } else {
                None
            },
            mtime: member.mtime,
        }
    }

    /// Notes that the directory called `name` gets these attributes at the end, unless an archive
    /// with a greater number says something else.
    pub(super) fn note_directory(&self, name: Vec<u8>, archive: u32, attributes: Attributes) {
        let mut state = self.state();
        let noted = state.directories.entry(name).or_insert(None);
        if noted.is_none_or(|(other, _)| other <= archive) {
            *noted = Some((archive, attributes));
        }
    }

    /// The owner of a file that has these attributes, if it can be given one now; otherwise it is
    /// noted under its name for [`finish`](Self::finish).
    pub(super) fn owner_now(&self, attributes: Attributes, name: &[u8]) -> Option<Ids> {
        if !self.gives_away || attributes.owner.is_some() {
            return attributes.owner;
        }
        let mut state = self.state();
        state.ownerless.push(name.to_vec());
        state.owners.of_cluster()
    }

    /// Sets owner, mode and date of an open file; `cluster` is the owner if it has none of its own.
    pub(super) fn set_attributes(
        &self,
        file: impl std::os::fd::AsFd,
        attributes: Attributes,
        cluster: Option<Ids>,
    ) -> rustix::io::Result<()> {
        // The owner first, since giving a file away may drop bits of its mode.
        if let Some(ids) = attributes.owner.or(cluster).filter(|_| self.gives_away)
            && !(self.keeps() && owned_by(&file, ids)?)
        {
            chown(&file, ids)?;
        }
        if self.keeps() && has_already(&file, attributes)? {
            return Ok(());
        }
        rustix::fs::fchmod(&file, Mode::from_raw_mode(attributes.mode))?;
        rustix::fs::futimens(&file, &modified_at(attributes.mtime))
    }

    /// The directory of these components, made if absent; never through a link. `member` is for messages.
    pub(super) fn directory(
        &self,
        parts: &[&[u8]],
        member: &[u8],
    ) -> Result<Arc<OwnedFd>, RestoreError> {
        let mut directory = Arc::clone(&self.root);
        for depth in 0..parts.len() {
            let base = parts[depth];
            let name = parts[..=depth].join(&b'/');
            if self.keeps() {
                self.state().directories.entry(name.clone()).or_insert(None);
            }
            let opened = match self.open_component(&directory, base, &name) {
                // What is no directory, of the one that was here before.
                Err(Errno::NOTDIR | Errno::LOOP) if self.keeps() && !self.names.has(&name) => {
                    let replaced = unlink(&directory, base)
                        .and_then(|()| rustix::fs::mkdirat(&*directory, base, PRIVATE));
                    match replaced {
                        // Another thread has just done it.
                        Ok(()) | Err(Errno::ISDIR | Errno::EXIST) => {}
                        Err(errno) => return Err(self.error("replace", &name, errno)),
                    }
                    self.open_component(&directory, base, &name)
                }
                Err(Errno::NOENT) => {
                    match rustix::fs::mkdirat(&*directory, base, PRIVATE) {
                        Ok(()) => {
                            let mut state = self.state();
                            state.directories.entry(name.clone()).or_insert(None);
                        }
                        // Another thread has just made it.
                        Err(Errno::EXIST) => {}
                        Err(errno) => {
                            return Err(self.error("create the directory of", member, errno));
                        }
                    }
                    self.open_component(&directory, base, &name)
                }
                opened => opened,
            };
            directory = Arc::new(self.opened(opened, &directory, &parts[..=depth], member)?);
            if self.keeps() {
                self.note_device(&directory)
                    .map_err(|errno| self.error("look at the directory of", member, errno))?;
            }
        }
        Ok(directory)
    }

    /// Remembers a directory of each file system that is not the target's own.
    fn note_device(&self, directory: &Arc<OwnedFd>) -> rustix::io::Result<()> {
        let device = rustix::fs::fstat(&**directory)?.st_dev;
        if device != rustix::fs::fstat(&*self.root)?.st_dev {
            let mut state = self.state();
            let known = state.elsewhere.entry(device);
            known.or_insert_with(|| Arc::clone(directory));
        }
        Ok(())
    }

    /// The directory of these components, which exists; never through a link.
    pub(super) fn open_directory(
        &self,
        parts: &[&[u8]],
        member: &[u8],
    ) -> Result<Arc<OwnedFd>, RestoreError> {
        let mut directory = Arc::clone(&self.root);
        for depth in 0..parts.len() {
            let name = parts[..=depth].join(&b'/');
            let opened = self.open_component(&directory, parts[depth], &name);
            directory = Arc::new(self.opened(opened, &directory, &parts[..=depth], member)?);
        }
        Ok(directory)
    }

    /// Opens a directory in another one; never through a link, but for that of the WAL directory
    /// where a backup is restored over it, and which no archive has made ([`reserved`](Self::reserved)).
    ///
    /// Asks for no name: it may be called under the lock of one.
    fn open_component(
        &self,
        parent: &OwnedFd,
        base: &[u8],
        name: &[u8],
    ) -> rustix::io::Result<OwnedFd> {
        match rustix::fs::openat(parent, base, OPEN_DIRECTORY, Mode::empty()) {
            Err(Errno::NOTDIR | Errno::LOOP)
                if self.contents == Contents::Over && is_wal_directory(name) =>
            {
                let flags = OPEN_DIRECTORY.difference(OFlags::NOFOLLOW);
                rustix::fs::openat(parent, base, flags, Mode::empty())
            }
            opened => opened,
        }
    }

    fn opened(
        &self,
        opened: rustix::io::Result<OwnedFd>,
        parent: &OwnedFd,
        parts: &[&[u8]],
        member: &[u8],
    ) -> Result<OwnedFd, RestoreError> {
        match opened {
            Ok(opened) => Ok(opened),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                let base = parts.last().expect("a directory below the target");
                let what = match rustix::fs::statat(parent, *base, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => {
                        "a symbolic link"
                    }
                    _ => "not a directory",
                };
                Err(RestoreError::InTheWay {
                    name: display_name(member),
                    obstacle: display_name(&parts.join(&b'/')),
                    what,
                })
            }
            Err(errno) => Err(self.error("open the directory of", member, errno)),
        }
    }

    pub(super) fn error(
        &self,
        doing: &'static str,
        name: &[u8],
        source: impl Into<io::Error>,
    ) -> RestoreError {
        RestoreError::Io {
            doing,
            name: display_name(name),
            root: self.path.clone(),
            source: source.into(),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is a single insertion.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The components of a name that is plain already.
pub(super) fn name_parts(name: &[u8]) -> Vec<&[u8]> {
    name.split(|&byte| byte == b'/')
        .filter(|part| !part.is_empty())
        .collect()
}

/// Whether this is the name of the WAL directory, before PostgreSQL 10 and since.
pub(in crate::pgdata) fn is_wal_directory(name: &[u8]) -> bool {
    name == b"pg_wal" || name == b"pg_xlog"
}

/// Why a restore refuses a member of this name, wherever it goes, if it does: see
/// `Target::reserved`.
pub fn refused_at_top(name: &[u8], kind: &MemberKind) -> Option<&'static str> {
    (is_wal_directory(name) && matches!(kind, MemberKind::Symlink { .. }))
        .then_some("it would be a link in place of the WAL directory")
}

/// Whether mode and date are these. So a million files that are as they should be are not
/// written to.
fn has_already(file: impl std::os::fd::AsFd, attributes: Attributes) -> rustix::io::Result<bool> {
    let stat = rustix::fs::fstat(file)?;
    let Mtime { seconds, nanos } = attributes.mtime;
    Ok(stat.st_mode & 0o7777 == attributes.mode
        && stat.st_mtime == seconds
        && u32::try_from(stat.st_mtime_nsec) == Ok(nanos))
}

fn owned_by(file: impl std::os::fd::AsFd, ids: Ids) -> rustix::io::Result<bool> {
    let stat = rustix::fs::fstat(file)?;
    Ok((stat.st_uid, stat.st_gid) == (ids.uid, ids.gid))
}

/// Gives a directory the date that it had.
fn keep_date(directory: &OwnedFd, before: &rustix::fs::Stat) -> rustix::io::Result<()> {
    let nanos = u32::try_from(before.st_mtime_nsec).unwrap_or(0);
    match rustix::fs::futimens(directory, &modified(before.st_mtime, nanos)) {
        // Whose directory it is may write to it, and has its own clock.
        Err(Errno::PERM) => Ok(()),
        set => set,
    }
}

fn chown(file: impl std::os::fd::AsFd, ids: Ids) -> rustix::io::Result<()> {
    rustix::fs::fchown(
        file,
        Some(Uid::from_raw(ids.uid)),
        Some(Gid::from_raw(ids.gid)),
    )
}

pub(super) fn chown_at(directory: &OwnedFd, base: &[u8], ids: Ids) -> rustix::io::Result<()> {
    rustix::fs::chownat(
        directory,
        base,
        Some(Uid::from_raw(ids.uid)),
        Some(Gid::from_raw(ids.gid)),
        AtFlags::SYMLINK_NOFOLLOW,
    )
}

pub(super) fn modified_at(mtime: Mtime) -> Timestamps {
    modified(mtime.seconds, mtime.nanos)
}

fn modified(seconds: i64, nanos: u32) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: seconds,
            tv_nsec: nanos.into(),
        },
    }
}
