//! A lock that ends with its process.
//!
//! It is the kernel's lock of an open file (`flock`), so a process that is killed
//! leaves none behind. The file goes with the lock; whoever waited for one that was
//! removed meanwhile has locked nothing, and looks again.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, flock, fstat, openat, statat};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::Folder;

/// Held until it is dropped.
#[derive(Debug)]
pub(in crate::ops) struct Lock {
    folder: Folder,
    name: String,
    /// Closed after the file was removed, never before. `None` once it was handed on.
    file: Option<OwnedFd>,
}

impl Lock {
    /// Takes the lock of that name unless another process, or another part of this
    /// one, holds it: then `None`.
    pub(in crate::ops) fn try_take(folder: &Folder, name: &str) -> io::Result<Option<Self>> {
        match Self::acquire(folder, name, FlockOperation::NonBlockingLockExclusive) {
            Ok(lock) => Ok(Some(lock)),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes the lock, however long its holder keeps it: blocks the thread.
    pub(in crate::ops) fn take(folder: &Folder, name: &str) -> io::Result<Self> {
        Ok(Self::acquire(folder, name, FlockOperation::LockExclusive)?)
    }

    /// Gives the lock to whoever gets the open file: it lasts until the last copy of
    /// that is closed, in whatever process.
    pub(in crate::ops) fn hand_on(mut self) -> Option<OwnedFd> {
        self.file.take()
    }

    /// Takes over the lock of that name by an open file that another process has
    /// handed on. `None` if the file is not that lock.
    pub(in crate::ops) fn adopt(folder: &Folder, name: &str, file: OwnedFd) -> Option<Self> {
        let (ours, named) = (
            fstat(&file).ok()?,
            statat(folder.fd(), name, AtFlags::SYMLINK_NOFOLLOW).ok()?,
        );
        if (named.st_dev, named.st_ino) != (ours.st_dev, ours.st_ino) {
            return None;
        }
        flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
        Some(Self::of(folder, name, file))
    }

    fn of(folder: &Folder, name: &str, file: OwnedFd) -> Self {
        Self {
            folder: folder.clone(),
            name: name.to_owned(),
            file: Some(file),
        }
    }

    fn acquire(folder: &Folder, name: &str, how: FlockOperation) -> Result<Self, Errno> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        loop {
            let mode = Mode::RUSR | Mode::WUSR;
            let file = openat(folder.fd(), name, flags | OFlags::CLOEXEC, mode)?;
            let ours = fstat(&file)?;
            let regular = FileType::from_raw_mode(ours.st_mode) == FileType::RegularFile;
            if !regular || ours.st_uid != geteuid().as_raw() {
                return Err(Errno::PERM);
            }
            match flock(&file, how) {
                Ok(()) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error),
            }
            match statat(folder.fd(), name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(named) if (named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino) => {
                    return Ok(Self::of(folder, name, file));
                }
                // The holder that was waited for has removed it.
                Ok(_) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if self.file.is_some() {
            self.folder.unlink(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn folder() -> (tempfile::TempDir, Folder) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let folder = Folder::open(directory.path(), "source").expect("a folder");
        (directory, folder)
    }

    #[test]
    fn a_lock_is_held_by_one_and_leaves_nothing_behind() {
        let (_directory, folder) = folder();
        let lock = Lock::try_take(&folder, "a.lock").expect("works");
        assert!(lock.is_some());
        let second = Lock::try_take(&folder, "a.lock").expect("works");
        assert!(second.is_none(), "it is held");
        assert!(Lock::try_take(&folder, "b.lock").expect("works").is_some());
        drop(lock);
        assert_eq!(folder.names(), Vec::<String>::new());
        assert!(Lock::try_take(&folder, "a.lock").expect("works").is_some());
    }

    #[test]
    fn a_lock_that_is_handed_on_is_never_free_in_between() {
        let (directory, folder) = folder();
        let lock = Lock::try_take(&folder, "a.lock").expect("works");
        let file = lock.expect("it is free").hand_on().expect("a file");
        let held = || Lock::try_take(&folder, "a.lock").expect("works").is_none();
        assert!(held());
        let adopted = Lock::adopt(&folder, "a.lock", file);
        assert!(held() && adopted.is_some());
        drop(adopted);
        assert_eq!(folder.names(), Vec::<String>::new());
        // Neither a lock of another name nor a file that somebody else has locked.
        let _a = Lock::try_take(&folder, "a.lock").expect("works");
        let b = Lock::try_take(&folder, "b.lock").expect("works");
        let b = b.expect("it is free").hand_on().expect("a file");
        assert!(Lock::adopt(&folder, "a.lock", b).is_none());
        for entry in std::fs::read_dir(directory.path()).expect("a directory") {
            let path = entry.expect("an entry").path().join("a.lock");
            let other = std::fs::File::open(path).expect("the file");
            assert!(Lock::adopt(&folder, "a.lock", other.into()).is_none());
        }
    }

    /// What a killed holder leaves is a file, and no lock.
    #[test]
    fn a_file_that_nobody_has_locked_is_in_nobodys_way() {
        let (_directory, folder) = folder();
        folder.write_text("a.lock", "").expect("a file");
        assert!(Lock::try_take(&folder, "a.lock").expect("works").is_some());
        assert_eq!(folder.names(), Vec::<String>::new());
    }

    /// The file goes with every lock, so waiters keep meeting files that are gone.
    #[test]
    fn of_many_that_wait_one_at_a_time_goes_on() {
        let (_directory, folder) = folder();
        let inside = AtomicUsize::new(0);
        let turns = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let lock = Lock::take(&folder, "a.lock").expect("works");
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        turns.fetch_add(1, Ordering::SeqCst);
                        assert_eq!(inside.fetch_sub(1, Ordering::SeqCst), 1);
                        drop(lock);
                    }
                });
            }
        });
        assert_eq!(turns.into_inner(), 400);
    }

    /// Whoever waited for a file that is gone by then has locked nothing.
    #[test]
    fn a_lock_on_a_file_that_was_removed_meanwhile_is_none() {
        let (_directory, folder) = folder();
        let flags = OFlags::RDWR | OFlags::CREATE;
        let first = openat(folder.fd(), "a.lock", flags, Mode::RWXU).expect("a file");
        flock(&first, FlockOperation::LockExclusive).expect("locks");
        // The kernel lists what is locked, and who waits for that.
        let file = format!(":{} ", fstat(&first).expect("a file").st_ino);
        let listed = |what: &str| {
            let locks = std::fs::read_to_string("/proc/locks").expect("Linux has it");
            let mut lines = locks.lines();
            lines.any(|line| line.contains(what) && line.contains(&file))
        };
        let second_ended = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                let lock = Lock::take(&folder, "a.lock").expect("works");
                (lock, second_ended.load(Ordering::SeqCst))
            });
            while !listed("-> FLOCK") {
                std::thread::yield_now();
            }
            folder.unlink("a.lock");
            let second = Lock::try_take(&folder, "a.lock").expect("works");
            let second = second.expect("the new file is free");
            drop(first);
            while listed("FLOCK") && !waiter.is_finished() {
                std::thread::yield_now();
            }
            second_ended.store(1, Ordering::SeqCst);
            drop(second);
            let (_lock, ended) = waiter.join().expect("no panic");
            assert_eq!(ended, 1, "it did not wait for the second");
        });
    }

    #[test]
    fn what_is_no_file_of_ours_is_not_locked() {
        let (directory, folder) = folder();
        let outside = directory.path().join("outside");
        std::fs::write(&outside, "").expect("a file");
        rustix::fs::symlinkat(&outside, folder.fd(), "link").expect("a link");
        rustix::fs::mkdirat(folder.fd(), "directory", Mode::RWXU).expect("a directory");
        for name in ["link", "directory"] {
            assert!(Lock::try_take(&folder, name).is_err(), "{name}");
        }
    }
}
