//! From entries of a walk to members of an archive, with the files opened.
//!
//! What a member's header says of a file is what the file system says *after* it was
//! opened: between the walk's look and the opening a file may have been replaced or
//! have grown, and the header's size is a promise. Files that shrink or grow later
//! are the tar writer's matter.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Group, Uid, User};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::control::{CONTROL_NAME, ControlError, ControlSnapshot, read_control};
use super::display::display_name;
use super::walk::{Entry, EntryKind, FileId, Meta, SourceError};
use crate::tar::{Member, MemberKind, Mtime};

/// Name of the backup label as a member.
pub const LABEL_NAME: &[u8] = b"backup_label";

/// Name of the backup manifest as a member.
pub const MANIFEST_NAME: &[u8] = b"backup_manifest";

/// A regular file, open, and what its member's header says.
#[derive(Debug)]
pub struct OpenFile {
    /// At its beginning. May by now be shorter or longer than the header says.
    pub file: File,
    /// The member; its kind is a file of the size found after opening.
    pub member: Member,
    /// Looked up after opening.
    pub meta: Meta,
}

impl Entry {
    /// Opens the file of an entry whose kind is [`EntryKind::File`].
    ///
    /// `None` if the file is gone since the walk looked at it.
    pub fn open(&self, owners: &mut OwnerNames) -> Result<Option<OpenFile>, SourceError> {
        let failed = |errno: Errno| SourceError::Io {
            doing: "open",
            name: display_name(&self.name),
            root: self.root.to_path_buf(),
            source: errno.into(),
        };
        let not_a_file = || SourceError::NotAFile {
            name: display_name(&self.name),
            root: self.root.to_path_buf(),
        };
        // Opening a pipe that has taken the file's place must not wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match self.place.open(flags) {
            Ok(opened) => {
                let meta = regular(&opened).map_err(failed)?.ok_or_else(not_a_file)?;
                Ok(Some(open_file(opened, self.name.clone(), meta, owners)))
            }
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::LOOP | Errno::NXIO) => Err(not_a_file()),
            Err(errno) => Err(failed(errno)),
        }
    }

    /// The member of an entry that has no content: everything but a file.
    ///
    /// For a file, a member of the size found by the walk.
    pub fn member(&self, owners: &mut OwnerNames) -> Member {
        let kind = match &self.kind {
            EntryKind::File => MemberKind::File {
                size: self.meta.size,
            },
            EntryKind::Directory => MemberKind::Directory,
            EntryKind::Symlink { target } => MemberKind::Symlink {
                target: target.clone(),
            },
            EntryKind::Fifo => MemberKind::Fifo,
        };
        member(self.name.clone(), kind, &self.meta, owners)
    }
}

/// Opens the file at `path`, links followed, to be stored as `name`: a configuration file
/// outside PGDATA.
///
/// `None` if there is no such file.
pub fn open_external(
    path: &Path,
    name: Vec<u8>,
    owners: &mut OwnerNames,
) -> Result<Option<OpenFile>, SourceError> {
    let root = || path.parent().map_or_else(PathBuf::new, Path::to_path_buf);
    let base = || {
        path.file_name()
            .map_or_else(String::new, |base| display_name(base.as_encoded_bytes()))
    };
    let failed = |errno: Errno| SourceError::Io {
        doing: "open",
        name: base(),
        root: root(),
        source: errno.into(),
    };
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(opened) => match regular(&opened).map_err(failed)? {
            Some(meta) => Ok(Some(open_file(opened, name, meta, owners))),
            None => Err(SourceError::NotAFile {
                name: base(),
                root: root(),
            }),
        },
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(failed(errno)),
    }
}

/// Reads `global/pg_control` of `pgdata`, checked (docs/decisions.md 20), and its member.
pub fn read_control_member(
    pgdata: &Path,
    owners: &mut OwnerNames,
) -> Result<(ControlSnapshot, Member), ControlError> {
    let path = pgdata.join("global/pg_control");
    let snapshot = read_control(&path)?;
    let meta = meta_of_path(&path).map_err(|source| ControlError::Read { path, source })?;
    let size = u64::try_from(snapshot.bytes.len()).expect("8 KiB fit");
    let kind = MemberKind::File { size };
    let member = member(CONTROL_NAME.to_vec(), kind, &meta, owners);
    Ok((snapshot, member))
}

/// The member of a file at the top of PGDATA that we make: the backup label, mode 0644 and of
/// no date, as the tools we are compatible with store it; the owner is that of `pgdata`.
pub fn made_member(
    pgdata: &Path,
    name: &[u8],
    size: u64,
    owners: &mut OwnerNames,
) -> Result<Member, SourceError> {
    let meta = meta_of_path(pgdata).map_err(|source| SourceError::Io {
        doing: "look at",
        name: ".".to_owned(),
        root: pgdata.to_owned(),
        source,
    })?;
    let meta = Meta {
        mode: 0o644,
        mtime_seconds: 0,
        mtime_nanos: 0,
        ..meta
    };
    Ok(member(
        name.to_vec(),
        MemberKind::File { size },
        &meta,
        owners,
    ))
}

/// Metadata of an open file if it is a regular one.
fn regular(opened: &OwnedFd) -> rustix::io::Result<Option<Meta>> {
    let stat = rustix::fs::fstat(opened)?;
    let is_regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    Ok(is_regular.then(|| Meta::of(&stat)))
}

fn meta_of_path(path: &Path) -> io::Result<Meta> {
    Ok(Meta::of(&rustix::fs::stat(path)?))
}

fn open_file(opened: OwnedFd, name: Vec<u8>, meta: Meta, owners: &mut OwnerNames) -> OpenFile {
    let kind = MemberKind::File { size: meta.size };
    OpenFile {
        file: opened.into(),
        member: member(name, kind, &meta, owners),
        meta,
    }
}

fn member(name: Vec<u8>, kind: MemberKind, meta: &Meta, owners: &mut OwnerNames) -> Member {
    Member {
        name,
        kind,
        mode: meta.mode,
        uid: meta.uid.into(),
        gid: meta.gid.into(),
        user: owners.user(meta.uid),
        group: owners.group(meta.gid),
        mtime: Mtime {
            seconds: meta.mtime_seconds,
            nanos: meta.mtime_nanos,
        },
    }
}

/// Names of users and groups, each asked for once: the answer may come from the network.
///
/// Unknown ones have the empty name.
#[derive(Debug, Default)]
pub struct OwnerNames {
    users: HashMap<u32, Vec<u8>>,
    groups: HashMap<u32, Vec<u8>>,
}

impl OwnerNames {
    fn user(&mut self, uid: u32) -> Vec<u8> {
        let name = self.users.entry(uid).or_insert_with(|| {
            User::from_uid(Uid::from_raw(uid))
                .ok()
                .flatten()
                .map_or_else(Vec::new, |user| user.name.into_bytes())
        });
        name.clone()
    }

    fn group(&mut self, gid: u32) -> Vec<u8> {
        let name = self.groups.entry(gid).or_insert_with(|| {
            Group::from_gid(Gid::from_raw(gid))
                .ok()
                .flatten()
                .map_or_else(Vec::new, |group| group.name.into_bytes())
        });
        name.clone()
    }
}

/// How many files with several names are remembered of an archive: after `pg_upgrade --link` all
/// files have two, and the memory for a file is that of its name and some 100 bytes.
const MOST_LINKED: usize = 16_384;

/// Remembers which files with several names an archive has, so that a second name can become a
/// hard link to the first; of each with what the caller says of it.
///
/// A link never points into another archive, since each must be whole by itself: with the next
/// archive all is forgotten. A file that is not remembered is stored once more, which is right as
/// well.
#[derive(Debug)]
pub struct HardLinks<T> {
    archive: u32,
    stored: HashMap<FileId, Stored<T>>,
}

#[derive(Debug)]
struct Stored<T> {
    meta: Meta,
    name: Vec<u8>,
    what: T,
}

impl<T> Default for HardLinks<T> {
    fn default() -> Self {
        Self {
            archive: 0,
            stored: HashMap::new(),
        }
    }
}

impl<T> HardLinks<T> {
    /// The name of the member of archive number `archive` with the file's content, and what was
    /// said of it.
    ///
    /// A file that is of another size or time is another one: the first was removed, perhaps, and
    /// this one has its inode. (Or it was written to, and then it is as well that it is read again.)
    pub fn stored_as(&self, archive: u32, meta: &Meta) -> Option<(&[u8], &T)> {
        let found = self.stored.get(&meta.id)?;
        let written = |meta: &Meta| (meta.size, meta.mtime_seconds, meta.mtime_nanos);
        let is_same =
            archive == self.archive && meta.links > 1 && written(meta) == written(&found.meta);
        is_same.then_some((found.name.as_slice(), &found.what))
    }

    /// Notes that archive number `archive` has the file with its content, as `name`.
    pub fn note(&mut self, archive: u32, meta: &Meta, name: &[u8], what: T) {
        if archive != self.archive {
            self.archive = archive;
            self.stored.clear();
        }
        if meta.links > 1 && self.stored.len() < MOST_LINKED {
            let (meta, name) = (*meta, name.to_vec());
            self.stored.insert(meta.id, Stored { meta, name, what });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::super::control::tests::sample;
    use super::*;

    #[test]
    fn a_made_label_belongs_to_the_owner_of_pgdata_and_has_no_date() {
        let pgdata = tempfile::tempdir().expect("a temporary directory");
        let owner = meta_of_path(pgdata.path()).expect("metadata");
        let mut owners = OwnerNames::default();
        let label = made_member(pgdata.path(), LABEL_NAME, 237, &mut owners).expect("a member");
        assert_eq!(label.name, b"backup_label");
        assert_eq!(label.kind, MemberKind::File { size: 237 });
        assert_eq!((label.mode, label.mtime), (0o644, Mtime::default()));
        assert_eq!((label.uid, label.gid), (owner.uid.into(), owner.gid.into()));
    }

    #[test]
    fn pg_control_is_stored_as_it_was_read() {
        let pgdata = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(pgdata.path().join("global")).expect("a directory");
        let path = pgdata.path().join("global/pg_control");
        fs::write(&path, sample()).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("a mode");
        let read = read_control_member(pgdata.path(), &mut OwnerNames::default());
        let (snapshot, member) = read.expect("a control file");
        assert_eq!(snapshot.bytes, sample());
        assert_eq!(member.name, CONTROL_NAME);
        assert_eq!(member.kind, MemberKind::File { size: 8192 });
        assert_eq!(member.mode, 0o640);
    }

    #[test]
    fn a_configuration_file_elsewhere_is_found_through_links_and_may_be_absent() {
        let etc = tempfile::tempdir().expect("a temporary directory");
        fs::write(etc.path().join("real.conf"), b"# none").expect("a file");
        let path = etc.path().join("pg_hba.conf");
        symlink("real.conf", &path).expect("a link");
        let mut owners = OwnerNames::default();
        let mut open = |path: &Path| open_external(path, b"pg_hba.conf".to_vec(), &mut owners);
        let mut found = open(&path).expect("readable").expect("it is there");
        let mut content = Vec::new();
        found.file.read_to_end(&mut content).expect("readable");
        assert_eq!(content, b"# none");
        assert_eq!(found.member.name, b"pg_hba.conf");
        assert_eq!(found.member.kind, MemberKind::File { size: 6 });
        assert!(
            open(&etc.path().join("absent"))
                .expect("no error")
                .is_none()
        );
        let directory = open(etc.path());
        assert!(
            matches!(directory, Err(SourceError::NotAFile { .. })),
            "{directory:?}"
        );
    }

    #[test]
    fn owners_have_names_if_the_system_knows_them() {
        let mut owners = OwnerNames::default();
        assert_eq!(
            (owners.user(0), owners.group(0)),
            (b"root".to_vec(), b"root".to_vec())
        );
        assert_eq!(owners.user(4_200_000_000), b"");
        assert_eq!(owners.group(4_200_000_000), b"");
    }
}
