//! Files that are there already: content is compared as it comes, and what differs is written.
//!
//! A file with further names is not written in place, since what has the other names may be
//! another cluster (`pg_upgrade --link`); nor is one that somebody in this run is writing.
//!
//! What is compared is what the disk has. After a write to the disk failed, the kernel keeps the
//! pages and calls them clean: a comparison with those would find nothing to write, and the file
//! would stay as it was before on the disk. So they are dropped first. That is advice: pages that
//! somebody else has mapped stay, but no server is at work here.

use std::fs::File;
use std::io::{self, BufRead};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::{Advice, AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::super::walk::OPEN_DIRECTORY;
use super::RestoreError;
use super::target::Target;
use super::unpack::next_piece;
use crate::tar::Member;

/// The file of this name, to be compared and written; `None` if there is none that may be
/// written in place.
pub(super) fn reuse(parent: &OwnedFd, base: &[u8]) -> Option<File> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::openat(parent, base, flags, Mode::empty()).ok()?);
    let metadata = file.metadata().ok()?;
    if !metadata.is_file() || metadata.nlink() != 1 {
        return None;
    }
    // Pages that still wait for the disk stay in memory, and whoever syncs them hears of failures.
    let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
    Some(file)
}

/// Makes the content of `file` that of `content`, and gives its CRC-32C.
pub(super) fn refill(
    target: &Target,
    member: &Member,
    content: &mut dyn BufRead,
    file: &File,
) -> Result<u32, RestoreError> {
    let failed = |doing, source: io::Error| target.error(doing, &member.name, source);
    let size = member.size();
    let there = file
        .metadata()
        .map_err(|source| failed("look at", source))?;
    let there = there.len();
    let mut old = Vec::new();
    let (mut at, mut crc) = (0, 0);
    while at < size {
        let piece = next_piece(member, content, size - at, size)?;
        let count = piece.len();
        let end = at + count as u64;
        old.resize(count, 0);
        let same = end <= there && file.read_exact_at(&mut old, at).is_ok() && old == piece;
        if !same {
            file.write_all_at(piece, at)
                .map_err(|source| failed("write", source))?;
            target.count_written(count);
        }
        crc = crc32c::crc32c_append(crc, piece);
        content.consume(count);
        at = end;
    }
    if there > size {
        file.set_len(size)
            .map_err(|source| failed("shorten", source))?;
    }
    Ok(crc)
}

/// Removes a directory with all that is in it, never through a link.
pub(super) fn remove_tree(parent: &OwnedFd, base: &[u8]) -> rustix::io::Result<()> {
    let directory = rustix::fs::openat(parent, base, OPEN_DIRECTORY, Mode::empty())?;
    for (name, kind) in entries(&directory)? {
        if kind == FileType::Directory {
            remove_tree(&directory, &name)?;
        } else {
            unlink(&directory, &name)?;
        }
    }
    rustix::fs::unlinkat(parent, base, AtFlags::REMOVEDIR)
}

/// Removes a name that is no directory's; gone is removed.
pub(super) fn unlink(parent: &OwnedFd, base: &[u8]) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(parent, base, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        done => done,
    }
}

/// What is in a directory, but for itself and the one above.
pub(super) fn entries(directory: &OwnedFd) -> rustix::io::Result<Vec<(Vec<u8>, FileType)>> {
    let mut found = Vec::new();
    let mut listing = Dir::read_from(directory)?;
    while let Some(entry) = listing.read() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => {
                let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(stat.st_mode)
            }
            kind => kind,
        };
        found.push((name.to_vec(), kind));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::io::IoSliceMut;

    use rustix::io::{ReadWriteFlags, preadv2};

    use super::*;

    #[test]
    fn what_is_compared_is_not_what_memory_has() {
        let place = tempfile::tempdir().expect("a directory");
        let path = place.path().join("file");
        std::fs::write(&path, vec![7; 4 << 20]).expect("a file");
        let file = File::open(&path).expect("there");
        file.sync_all().expect("synced");
        let in_memory = || {
            let mut byte = [0; 1];
            let mut piece = [IoSliceMut::new(&mut byte)];
            preadv2(&file, &mut piece, 3 << 20, ReadWriteFlags::NOWAIT) == Ok(1)
        };
        rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).expect("advice is taken");
        if in_memory() {
            eprintln!("not tested: this file system has its files in memory");
            return;
        }
        std::fs::read(&path).expect("readable");
        assert!(in_memory(), "it has just been read");
        let parent = OwnedFd::from(File::open(place.path()).expect("there"));
        assert!(reuse(&parent, b"file").is_some());
        assert!(!in_memory());
    }
}
