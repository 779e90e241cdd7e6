//! Makes sure that what was restored is on disk.
//!
//! One `syncfs` for each file system instead of one `fsync` for each of perhaps a million
//! files. Linux reports write errors through it only since 5.8; before, and where
//! it is not to be had, every file is synced by itself.

use std::os::fd::OwnedFd;

use rustix::fs::{Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::{RestoreError, Target};

/// Whether the end of a restore waits until everything is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// It does: what was restored outlives a failure of the machine.
    Synced,
    /// It is left to the system, which writes it some time later.
    Unsynced,
}

/// Syncs everything that was restored to `targets`. Called after [`Target::finish`] of each.
///
/// What is in a target that was empty is on the target's own file system; of any other the file
/// systems are known that were written to.
pub fn sync_all(targets: &[&Target]) -> Result<(), RestoreError> {
    let mut synced = Vec::new();
    let reports_errors = syncfs_reports_errors();
    for target in targets {
        let mut whole = reports_errors;
        for directory in target.on_each_device() {
            let device = rustix::fs::fstat(&*directory)
                .map_err(|errno| target.error("look at", b".", errno))?
                .st_dev;
            if synced.contains(&device) {
                continue;
            }
            match rustix::fs::syncfs(&*directory) {
                Ok(()) => synced.push(device),
                Err(Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL | Errno::PERM) => whole = false,
                Err(errno) => return Err(target.error("sync the file system of", b".", errno)),
            }
        }
        if !whole {
            sync_tree(target)?;
        }
    }
    Ok(())
}

/// Whether this kernel is 5.8 or newer; `false` if it does not say.
pub(super) fn syncfs_reports_errors() -> bool {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .ok()
        .and_then(|release| version(&release))
        .is_some_and(|version| version >= (5, 8))
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.trim().split(['.', '-']).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Syncs every file and directory of a target by itself.
fn sync_tree(target: &Target) -> Result<(), RestoreError> {
    // Names, not open directories: there may be more of them than a process may open.
    let mut left = vec![Vec::new()];
    while let Some(name) = left.pop() {
        let parts: Vec<&[u8]> = name
            .split(|&byte| byte == b'/')
            .filter(|part| !part.is_empty())
            .collect();
        let directory = match target.open_directory(&parts, &name) {
            Ok(directory) => directory,
            Err(RestoreError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::PermissionDenied =>
            {
                continue;
            }
            Err(error) => return Err(error),
        };
        sync_directory(&directory, &name, &mut left)
            .map_err(|(name, errno)| target.error("sync", &name, errno))?;
    }
    Ok(())
}

/// Syncs a directory's files and itself, and adds the names of its sub-directories to `left`.
fn sync_directory(
    directory: &OwnedFd,
    name: &[u8],
    left: &mut Vec<Vec<u8>>,
) -> Result<(), (Vec<u8>, Errno)> {
    let failed = |errno| (name.to_vec(), errno);
    let mut entries = Dir::read_from(directory).map_err(failed)?;
    while let Some(entry) = entries.read() {
        let entry = entry.map_err(failed)?;
        let base = entry.file_name().to_bytes();
        if base == b"." || base == b".." {
            continue;
        }
        let failed = |errno| ([name, b"/", base].concat(), errno);
        // Opening a pipe must not wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = match rustix::fs::openat(directory, base, flags, Mode::empty()) {
            Ok(opened) => opened,
            // Links have no content; what is closed even to its owner was flushed by `syncfs`.
            Err(Errno::LOOP | Errno::NXIO | Errno::ACCESS) => continue,
            Err(errno) => return Err(failed(errno)),
        };
        let stat = rustix::fs::fstat(&opened).map_err(failed)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => left.push([name, b"/", base].concat()),
            FileType::RegularFile => rustix::fs::fsync(&opened).map_err(failed)?,
            _ => {}
        }
    }
    rustix::fs::fsync(directory).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_version_is_read_from_its_release() {
        let table = [
            ("6.1.0-13-amd64\n", Some((6, 1))),
            ("5.8.0", Some((5, 8))),
            ("5.7-rc1", Some((5, 7))),
            ("10.12", Some((10, 12))),
            ("6", None),
            ("", None),
            ("linux", None),
        ];
        for (release, expected) in table {
            assert_eq!(version(release), expected, "{release}");
        }
    }

    #[test]
    fn a_tree_of_every_kind_can_be_synced_file_by_file() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path();
        std::fs::create_dir_all(path.join("base/5")).expect("directories");
        std::fs::write(path.join("base/5/1259"), b"x").expect("a file");
        std::os::unix::fs::symlink("nowhere", path.join("link")).expect("a link");
        rustix::fs::mkfifoat(rustix::fs::CWD, path.join("pipe"), Mode::RWXU).expect("a pipe");
        let target = Target::open(path).expect("a target");
        sync_tree(&target).expect("everything is synced");
        sync_all(&[&target, &target]).expect("everything is synced");
    }
}
