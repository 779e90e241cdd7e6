//! Other targets of the same restore, and what leads to them: a tablespace may lie inside
//! PGDATA, whose archive does not have it.

use std::collections::HashSet;
use std::os::fd::OwnedFd;

use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::{RestoreError, Target};

/// Device and inode.
type FileId = (u64, u64);

/// Directories in which nothing is removed because no archive of the target above has it.
#[derive(Debug, Default)]
pub struct Spared {
    targets: HashSet<FileId>,
    /// All directories above a target.
    above: HashSet<FileId>,
}

impl Spared {
    /// All targets of a restore; none is ever inside itself.
    pub fn all<'t>(targets: impl IntoIterator<Item = &'t Target>) -> Result<Self, RestoreError> {
        let mut spared = Self::default();
        for target in targets {
            let failed = |source| target.error("resolve", b".", source);
            let path = std::fs::canonicalize(target.path()).map_err(failed)?;
            for (depth, path) in path.ancestors().enumerate() {
                let stat = rustix::fs::stat(path).map_err(|errno| failed(errno.into()))?;
                let ids = match depth {
                    0 => &mut spared.targets,
                    _ => &mut spared.above,
                };
                ids.insert((stat.st_dev, stat.st_ino));
            }
        }
        Ok(spared)
    }

    /// Whether this directory is a target.
    pub(super) fn is_target(&self, directory: &OwnedFd, base: &[u8]) -> rustix::io::Result<bool> {
        has(&self.targets, directory, base)
    }

    /// Whether a target lies somewhere in this directory.
    pub(super) fn leads_to_one(
        &self,
        directory: &OwnedFd,
        base: &[u8],
    ) -> rustix::io::Result<bool> {
        has(&self.above, directory, base)
    }
}

fn has(ids: &HashSet<FileId>, directory: &OwnedFd, base: &[u8]) -> rustix::io::Result<bool> {
    match rustix::fs::statat(directory, base, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(ids.contains(&(stat.st_dev, stat.st_ino))),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}
