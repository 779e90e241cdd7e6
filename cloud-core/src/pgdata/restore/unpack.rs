//! Unpacks one member after the other.

use std::fs::File;
use std::io::{self, BufRead, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::super::cache::Behind;
use super::super::display::display_name;
use super::name::{components, is_held_back, plain_name};
use super::refill::{refill, remove_tree, reuse};
use super::sync::{Durability, syncfs_reports_errors};
use super::target::{Attributes, Target, chown_at, modified_at};
use super::{JOURNAL_NAME, RestoreError};
use crate::tar::{Member, MemberKind};

/// How often a name is cleared for a member while other threads keep taking it.
const ATTEMPTS: u32 = 16;

/// Where the sync at the end goes from file to file, all are left alone: that the disk refused a page
/// is known to the page cache, and perhaps not any more when the file is opened again. With nobody to
/// wait for it, Linux begins to write when a tenth of the memory waits for it. Source:
/// `vm.dirty_background_ratio`, proc_sys_vm(5).
fn left_alone(durability: Durability, whole: bool) -> u64 {
    match durability {
        Durability::Synced if whole => 0,
        Durability::Synced => u64::MAX,
        Durability::Unsynced => {
            let system = rustix::system::sysinfo();
            u64::from(system.mem_unit) * system.totalram / 10
        }
    }
}

/// Unpacks the members of one archive into a [`Target`]; each thread has its own.
#[derive(Debug)]
pub struct Unpacker<'t> {
    target: &'t Target,
    /// Bytes that are restored until large files are written to the disk as they come.
    left_alone: u64,
    /// Whether a file is synced later, which tells of all that did not reach the disk.
    is_synced: bool,
    /// Number of the archive: of two that have one name, the greater number has the file that
    /// stays.
    archive: u32,
    /// The directory of the last member: most have the same as the one before. A directory, once
    /// made, is never replaced, so it stays valid.
    last: Option<(Vec<u8>, Arc<OwnedFd>)>,
}

impl<'t> Unpacker<'t> {
    /// Unpacks the archive with this number into `target`.
    ///
    /// `durability`: whether somebody will wait until all is on disk, so that the disk had
    /// better begin at once. Otherwise it begins when the system would.
    pub fn new(target: &'t Target, archive: u32, durability: Durability) -> Self {
        Self {
            target,
            left_alone: left_alone(durability, syncfs_reports_errors()),
            is_synced: durability == Durability::Synced,
            archive,
            last: None,
        }
    }

    /// Restores `member`; `content` is read only for a file, as far as its size, and not at all
    /// if a later archive has a file of that name.
    ///
    /// # Errors
    ///
    /// See [`RestoreError`]. Names for which [`is_held_back`] is true are refused, since
    /// they must not be there before everything else is on disk (R1). After an error the target is
    /// incomplete.
    pub fn unpack(
        &mut self,
        member: &Member,
        content: &mut dyn BufRead,
    ) -> Result<(), RestoreError> {
        if is_held_back(&member.name) {
            return Err(refused(member, "it is written at the end"));
        }
        let parts = components(&member.name)?;
        let name = parts.join(&b'/');
        if name == JOURNAL_NAME {
            // Another restore's, that was stored with the directory it was in.
            return Ok(());
        }
        let attributes = self.target.attributes(member, &name);
        let Some((base, above)) = parts.split_last() else {
            if member.kind != MemberKind::Directory {
                return Err(refused(member, "it would replace the target directory"));
            }
            self.target.note_directory(name, self.archive, attributes);
            return Ok(());
        };
        if member.kind == MemberKind::Directory {
            self.target.directory(&parts, &member.name)?;
            self.target.note_directory(name, self.archive, attributes);
            return Ok(());
        }
        if let Some(problem) = self.target.reserved(&name, &member.kind) {
            return Err(refused(member, problem));
        }
        let parent = self.parent(above, member)?;
        let names = self.target.names();
        if let MemberKind::File { size } = member.kind {
            let file = names.take(&name, self.archive, |fresh| {
                let there = (fresh && self.target.keeps())
                    .then(|| reuse(&parent, base))
                    .flatten();
                match there {
                    Some(file) => Ok((file, true)),
                    None => create_file(self.target, &parent, base, &member.name)
                        .map(|file| (File::from(file), false)),
                }
            })?;
            let crc = match &file {
                None => return Ok(()),
                Some((file, true)) => refill(self.target, member, content, file)?,
                Some((file, false)) => self.copy(member, content, file, size)?,
            };
            if let Some((file, _)) = file {
                self.set(&file, attributes, &name, member)?;
                self.close(file, member)?;
            }
            names.fill(&name, self.archive, size, crc);
            return Ok(());
        }
        // Not while the name is taken: both may have one lock.
        let linked = member.target().and_then(|target| {
            let target = plain_name(target).ok()?;
            names.of_archive(&target, self.archive)
        });
        let taken = names.take(&name, self.archive, |_| {
            self.make(member, &parent, base, attributes, &name, linked.is_some())
        })?;
        if let (Some(()), Some(known), MemberKind::HardLink { .. }) = (taken, linked, &member.kind)
        {
            names.copy(&name, known);
        }
        Ok(())
    }

    /// Makes what is neither file nor directory. `linked`: a hard link's file is of this archive.
    fn make(
        &self,
        member: &Member,
        parent: &OwnedFd,
        base: &[u8],
        attributes: Attributes,
        name: &[u8],
        linked: bool,
    ) -> Result<(), RestoreError> {
        let create = |doing, create: &dyn Fn() -> rustix::io::Result<()>| {
            clear_and(self.target, parent, base, &member.name, doing, create)
        };
        match &member.kind {
            MemberKind::File { .. } | MemberKind::Directory => {}
            MemberKind::Symlink { target } => {
                if target.contains(&0) {
                    return Err(refused(member, "its target contains a NUL"));
                }
                create("create link", &|| {
                    rustix::fs::symlinkat(target.as_slice(), parent, base)
                })?;
                self.set_link(parent, base, attributes, name, member)?;
            }
            MemberKind::HardLink { target } => {
                return self.link(member, parent, base, target, linked);
            }
            MemberKind::Fifo => {
                create("create pipe", &|| {
                    rustix::fs::mkfifoat(parent, base, Mode::RUSR | Mode::WUSR)
                })?;
                // Not by name: another thread might put a link there meanwhile.
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let pipe = rustix::fs::openat(parent, base, flags, Mode::empty())
                    .map_err(|errno| self.target.error("open", &member.name, errno))?;
                self.set(&File::from(pipe), attributes, name, member)?;
            }
            MemberKind::Device => return Err(refused(member, "it is a device file")),
        }
        Ok(())
    }

    fn parent(&mut self, above: &[&[u8]], member: &Member) -> Result<Arc<OwnedFd>, RestoreError> {
        let name = above.join(&b'/');
        if let Some((last, directory)) = &self.last
            && *last == name
        {
            return Ok(Arc::clone(directory));
        }
        let directory = self.target.directory(above, &member.name)?;
        self.last = Some((name, Arc::clone(&directory)));
        Ok(directory)
    }

    /// Writes the content, and gives its CRC-32C.
    fn copy(
        &self,
        member: &Member,
        content: &mut dyn BufRead,
        mut file: &File,
        size: u64,
    ) -> Result<u32, RestoreError> {
        let behind = self.target.written() >= self.left_alone;
        let mut behind = behind.then(|| Behind::new(file));
        let (mut left, mut crc) = (size, 0);
        while left > 0 {
            let piece = next_piece(member, content, left, size)?;
            file.write_all(piece)
                .map_err(|source| self.target.error("write", &member.name, source))?;
            crc = crc32c::crc32c_append(crc, piece);
            let count = piece.len();
            content.consume(count);
            self.target.count_written(count);
            left -= count as u64;
            if let Some(behind) = &mut behind {
                behind.advance(count);
            }
        }
        Ok(crc)
    }

    /// Closes a file. Where nothing is synced, some file systems (over a network, or with a quota)
    /// tell only now that not all of it could be written.
    fn close(&self, file: File, member: &Member) -> Result<(), RestoreError> {
        if self.is_synced {
            return Ok(());
        }
        close(file).map_err(|source| self.target.error("write", &member.name, source))
    }

    /// Makes another name of a file that was unpacked earlier.
    fn link(
        &self,
        member: &Member,
        parent: &OwnedFd,
        base: &[u8],
        target: &[u8],
        linked: bool,
    ) -> Result<(), RestoreError> {
        let Ok(parts) = components(target) else {
            return Err(refused(
                member,
                "it is a hard link that leads out of the target",
            ));
        };
        let Some((target_base, above)) = parts.split_last() else {
            return Err(refused(member, "it is a hard link to the target directory"));
        };
        let directory = self.target.open_directory(above, &member.name)?;
        let found = rustix::fs::statat(&*directory, *target_base, AtFlags::SYMLINK_NOFOLLOW);
        match found.map(|stat| FileType::from_raw_mode(stat.st_mode)) {
            Ok(FileType::RegularFile) => {}
            Ok(_) => {
                return Err(refused(
                    member,
                    "it is a hard link to something that is not a file",
                ));
            }
            Err(Errno::NOENT) => {
                return Err(refused(
                    member,
                    "it is a hard link to a file that is not there",
                ));
            }
            Err(errno) => {
                return Err(self
                    .target
                    .error("look at the target of", &member.name, errno));
            }
        }
        if components(&member.name)? == parts {
            return Ok(());
        }
        if !linked {
            return Err(refused(
                member,
                "it is a hard link to a file that another archive has too",
            ));
        }
        clear_and(
            self.target,
            parent,
            base,
            &member.name,
            "create hard link",
            || rustix::fs::linkat(&*directory, *target_base, parent, base, AtFlags::empty()),
        )
    }

    fn set(
        &self,
        file: &File,
        attributes: Attributes,
        name: &[u8],
        member: &Member,
    ) -> Result<(), RestoreError> {
        let owner = self.target.owner_now(attributes, name);
        self.target
            .set_attributes(file, attributes, owner)
            .map_err(|errno| {
                self.target
                    .error("set the attributes of", &member.name, errno)
            })
    }

    fn set_link(
        &self,
        parent: &OwnedFd,
        base: &[u8],
        attributes: Attributes,
        name: &[u8],
        member: &Member,
    ) -> Result<(), RestoreError> {
        let set = || {
            if let Some(ids) = self.target.owner_now(attributes, name) {
                chown_at(parent, base, ids)?;
            }
            let times = modified_at(attributes.mtime);
            rustix::fs::utimensat(parent, base, &times, AtFlags::SYMLINK_NOFOLLOW)
        };
        set().map_err(|errno| {
            self.target
                .error("set the attributes of", &member.name, errno)
        })
    }
}

/// The next bytes of a file's content, at least one and at most `left`.
pub(super) fn next_piece<'c>(
    member: &Member,
    content: &'c mut dyn BufRead,
    left: u64,
    size: u64,
) -> Result<&'c [u8], RestoreError> {
    let failed = |source| RestoreError::Read {
        name: display_name(&member.name),
        source,
    };
    // Asked twice, since what was asked for first could not be returned from the loop.
    while let Err(error) = content.fill_buf() {
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(failed(error));
        }
    }
    let piece = content.fill_buf().map_err(failed)?;
    if piece.is_empty() {
        return Err(RestoreError::Short {
            name: display_name(&member.name),
            expected: size,
            found: size - left,
        });
    }
    let most = usize::try_from(left).unwrap_or(usize::MAX);
    Ok(&piece[..piece.len().min(most)])
}

/// Closes a file and tells what the system says of it.
pub(super) fn close(file: File) -> io::Result<()> {
    nix::unistd::close(OwnedFd::from(file)).map_err(io::Error::from)
}

/// Creates an empty file that nobody else can open yet, in place of what is there.
pub(super) fn create_file(
    target: &Target,
    parent: &OwnedFd,
    base: &[u8],
    member: &[u8],
) -> Result<OwnedFd, RestoreError> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    clear_and(target, parent, base, member, "create", || {
        rustix::fs::openat(parent, base, flags, Mode::RUSR | Mode::WUSR)
    })
}

/// Creates something under a name, after removing what has that name: a later member wins.
fn clear_and<T>(
    target: &Target,
    parent: &OwnedFd,
    base: &[u8],
    member: &[u8],
    doing: &'static str,
    create: impl Fn() -> rustix::io::Result<T>,
) -> Result<T, RestoreError> {
    let mut attempt = 1;
    loop {
        match create() {
            Err(Errno::EXIST) if attempt < ATTEMPTS => attempt += 1,
            result => return result.map_err(|errno| target.error(doing, member, errno)),
        }
        match rustix::fs::unlinkat(parent, base, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR) if target.may_replace(member) => {
                remove_tree(parent, base)
                    .map_err(|errno| target.error("replace", member, errno))?;
            }
            Err(Errno::ISDIR) => {
                return Err(RestoreError::InTheWay {
                    name: display_name(member),
                    obstacle: display_name(member),
                    what: "a directory",
                });
            }
            Err(errno) => return Err(target.error("replace", member, errno)),
        }
    }
}

fn refused(member: &Member, problem: &'static str) -> RestoreError {
    RestoreError::Refused {
        name: display_name(&member.name),
        problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_left_alone_by_how_they_are_synced() {
        assert_eq!(left_alone(Durability::Synced, true), 0);
        assert_eq!(left_alone(Durability::Synced, false), u64::MAX);
        let text = std::fs::read_to_string("/proc/meminfo").expect("Linux has it");
        let line = text.lines().find(|line| line.starts_with("MemTotal:"));
        let kib = line.and_then(|line| line.split_whitespace().nth(1));
        let kib: u64 = kib.expect("it is said").parse().expect("a number");
        let tenth = kib * 1024 / 10;
        let found = left_alone(Durability::Unsynced, true);
        assert!(found.abs_diff(tenth) < 1 << 20, "{found}: {tenth}");
    }
}
