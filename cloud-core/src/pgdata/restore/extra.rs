//! What is in a target and does not belong to the backup, and `pg_control` while it is not
//! the backup's.
//!
//! Nothing is removed through a link, but for what is in the WAL directory, which may lie
//! elsewhere. WAL that was never archived is moved, not removed. Below a tablespace's
//! directory are those of several versions of the server, each another cluster's: only those
//! that the backup has are looked into. Another target may lie within one, and is spared.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;

use super::refill::{entries, remove_tree, unlink};
use super::target::{Target, is_wal_directory};
use super::{RestoreError, Spared};

/// `pg_control` of a cluster that is being restored over.
pub const ASIDE_NAME: &[u8] = b"global/pg_control.barman-cloud-aside";

/// Where WAL goes that was not archived, below the WAL directory. The server takes no notice of it.
const KEPT_WAL: &[u8] = b"barman-cloud-not-archived";

/// How often another name is tried for a WAL file that is kept.
const ATTEMPTS: u32 = 1000;

/// What was taken away.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Removed {
    /// Files, links, and directories with all that was in them.
    pub names: u64,
    /// WAL files that were moved, since nothing said that they were archived.
    pub kept_wal: u64,
    /// Where those are now.
    pub kept_in: PathBuf,
}

/// Which top directory a target is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent<'a> {
    /// PGDATA; these names in it stay, whatever they are.
    Pgdata(&'a [Vec<u8>]),
    /// A tablespace's.
    Tablespace,
}

impl Target {
    /// Removes what no archive has. Called when all are unpacked and all links made.
    /// `spared`: the other targets.
    pub fn remove_extra(
        &self,
        extent: Extent<'_>,
        spared: &Spared,
    ) -> Result<Removed, RestoreError> {
        let mut removed = Removed::default();
        self.clean(self.root(), b"", (extent, spared), &mut removed)?;
        Ok(removed)
    }

    fn clean(
        &self,
        directory: &OwnedFd,
        name: &[u8],
        (extent, spared): (Extent<'_>, &Spared),
        removed: &mut Removed,
    ) -> Result<(), RestoreError> {
        let listed = entries(directory);
        for (base, kind) in listed.map_err(|errno| self.error("list", name, errno))? {
            let full = if name.is_empty() {
                base.clone()
            } else {
                [name, b"/", &base[..]].concat()
            };
            let failed = |errno| self.error("remove", &full, errno);
            let belongs = self.has_directory(&full);
            let stays = match extent {
                Extent::Pgdata(names) => {
                    names.contains(&full) || name.is_empty() && base == b"lost+found"
                }
                Extent::Tablespace => name.is_empty() && !belongs,
            };
            let is_directory = kind == FileType::Directory;
            if stays || is_directory && spared.is_target(directory, &base).map_err(failed)? {
                continue;
            }
            if belongs && is_wal_directory(&full) && extent != Extent::Tablespace {
                self.clean_wal(&full, spared, removed)?;
                continue;
            }
            if is_directory {
                if belongs || spared.leads_to_one(directory, &base).map_err(failed)? {
                    let below = self.open_directory(&super::target::name_parts(&full), &full)?;
                    self.clean(&below, &full, (extent, spared), removed)?;
                    continue;
                }
                remove_tree(directory, &base).map_err(failed)?;
            } else if self.names().has(&full) {
                continue;
            } else {
                unlink(directory, &base).map_err(failed)?;
            }
            removed.names += 1;
        }
        Ok(())
    }

    /// The WAL directory, which may be behind a link.
    fn clean_wal(
        &self,
        name: &[u8],
        spared: &Spared,
        removed: &mut Removed,
    ) -> Result<(), RestoreError> {
        let directory = self.open_directory(&[name], name)?;
        let failed = |errno| self.error("clear", name, errno);
        let status = self.open_directory(&[name, b"archive_status"], name).ok();
        for (base, kind) in entries(&directory).map_err(failed)? {
            let full = [name, b"/", &base[..]].concat();
            // The last is a file system's of its own, and root's.
            let stays = [KEPT_WAL, b"archive_status", b"lost+found"].contains(&&base[..]);
            if stays || self.names().has(&full) {
                continue;
            }
            if kind == FileType::Directory {
                let of_another = spared.is_target(&directory, &base).map_err(failed)?
                    || spared.leads_to_one(&directory, &base).map_err(failed)?;
                if !of_another && !self.has_directory(&full) {
                    remove_tree(&directory, &base).map_err(failed)?;
                    removed.names += 1;
                }
                continue;
            }
            let done = [&base[..], b".done"].concat();
            let archived = status.as_ref().is_some_and(|status| {
                rustix::fs::statat(&**status, &done, AtFlags::SYMLINK_NOFOLLOW).is_ok()
            });
            if kind == FileType::RegularFile && is_wal(&base) && !archived {
                keep(&directory, &base).map_err(failed)?;
                removed.kept_wal += 1;
                let place = [name, b"/", KEPT_WAL].concat();
                removed.kept_in = self.path().join(as_path(&place));
            } else {
                unlink(&directory, &base).map_err(failed)?;
                removed.names += 1;
            }
        }
        if let Some(status) = status {
            for (base, kind) in entries(&status).map_err(failed)? {
                let full = [name, b"/archive_status/", &base[..]].concat();
                if kind != FileType::Directory && !self.names().has(&full) {
                    unlink(&status, &base).map_err(failed)?;
                    removed.names += 1;
                }
            }
        }
        rustix::fs::fsync(&*directory).map_err(failed)
    }

    /// Takes `pg_control` out of the way, durably: from now on no server starts here.
    pub fn put_control_aside(&self) -> Result<(), RestoreError> {
        self.rename_control(b"pg_control", b"pg_control.barman-cloud-aside")
    }

    /// Undoes [`put_control_aside`](Self::put_control_aside).
    pub fn put_control_back(&self) -> Result<(), RestoreError> {
        self.rename_control(b"pg_control.barman-cloud-aside", b"pg_control")
    }

    fn rename_control(&self, from: &[u8], to: &[u8]) -> Result<(), RestoreError> {
        let failed = |errno| self.error("rename", &[b"global/", from].concat(), errno);
        let global = self.open_directory(&[b"global"], b"global")?;
        match rustix::fs::renameat(&*global, from, &*global, to) {
            // It was put aside by a run that did not come to its end.
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(failed(errno)),
        }
        rustix::fs::fsync(&*global).map_err(failed)
    }

    /// Forgets the `pg_control` that was put aside, when another one is there.
    pub fn drop_control_aside(&self) -> Result<(), RestoreError> {
        let global = self.open_directory(&[b"global"], b"global")?;
        unlink(&global, b"pg_control.barman-cloud-aside")
            .map_err(|errno| self.error("remove", ASIDE_NAME, errno))
    }
}

/// Moves a WAL file to where nobody replays or removes it.
fn keep(directory: &OwnedFd, base: &[u8]) -> rustix::io::Result<()> {
    match rustix::fs::mkdirat(directory, KEPT_WAL, super::target::PRIVATE) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    let flags = super::super::walk::OPEN_DIRECTORY;
    let kept = rustix::fs::openat(directory, KEPT_WAL, flags, rustix::fs::Mode::empty())?;
    let mut name = base.to_vec();
    for attempt in 1..ATTEMPTS {
        // Not renamed: some file systems cannot do that without replacing.
        let none = AtFlags::empty();
        let moved = rustix::fs::linkat(directory, base, &kept, &name[..], none);
        match moved {
            Err(Errno::EXIST) => name = [base, format!(".{attempt}").as_bytes()].concat(),
            moved => {
                moved?;
                rustix::fs::fsync(&kept)?;
                return unlink(directory, base);
            }
        }
    }
    Err(Errno::EXIST)
}

/// Whether a file of the WAL directory has a name that the server archives.
fn is_wal(name: &[u8]) -> bool {
    let digits = name.iter().take_while(|byte| byte.is_ascii_hexdigit());
    match (digits.count(), name) {
        (24, name) => name.len() == 24 || name.ends_with(b".partial") || name.ends_with(b".backup"),
        (8, name) => name.ends_with(b".history"),
        _ => false,
    }
}

fn as_path(name: &[u8]) -> &std::path::Path {
    use std::os::unix::ffi::OsStrExt;
    std::path::Path::new(std::ffi::OsStr::from_bytes(name))
}
