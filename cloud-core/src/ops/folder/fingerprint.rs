//! What tells a file from every other one, and from itself once it is written to.
//!
//! The kernel gives a changed file another time of change, so whoever knows the bytes
//! of a file and finds its fingerprint as it was knows them still: they need not be
//! read again. That holds as long as the machine runs: after a crash a file may have
//! its old times and not all of its bytes, so the machine's boot is part of it.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

use super::sealed::{Opened, Sealing};

/// A file as it is at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::ops) struct Fingerprint {
    /// Since when the machine runs, in words of the kernel's; empty if it does not say.
    boot: String,
    device: u64,
    inode: u64,
    size: u64,
    /// In seconds and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Fingerprint {
    /// Of an open file.
    pub(in crate::ops) fn of(file: &File) -> io::Result<Self> {
        let found = file.metadata()?;
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        Ok(Self {
            boot: boot.unwrap_or_default().trim().to_owned(),
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }

    /// Whether the bytes are those of the file that `earlier` was taken of.
    pub(in crate::ops) fn proves(&self, earlier: &Self) -> bool {
        self.is_telling() && self == earlier
    }

    /// Whether it tells the file from all others: that takes a kernel that says since when
    /// the machine runs.
    pub(in crate::ops) fn is_telling(&self) -> bool {
        !self.boot.is_empty()
    }

    /// Size in bytes.
    pub(in crate::ops) fn size(&self) -> u64 {
        self.size
    }

    /// Adds it to a text.
    pub(in crate::ops) fn write(&self, text: &mut Sealing) {
        text.line("boot", &self.boot);
        text.line("device", self.device);
        text.line("inode", self.inode);
        text.line("size", self.size);
        for (name, (seconds, nanoseconds)) in
            [("modified", self.modified), ("changed", self.changed)]
        {
            text.line(name, format_args!("{seconds} {nanoseconds}"));
        }
    }

    /// Takes it out of a text.
    pub(in crate::ops) fn read(text: &mut Opened<'_>) -> Option<Self> {
        let time = |text: String| {
            let (seconds, nanoseconds) = text.split_once(' ')?;
            Some((seconds.parse().ok()?, nanoseconds.parse().ok()?))
        };
        Some(Self {
            boot: text.take("boot")?,
            device: text.take("device")?.parse().ok()?,
            inode: text.take("inode")?.parse().ok()?,
            size: text.take("size")?.parse().ok()?,
            modified: time(text.take("modified")?)?,
            changed: time(text.take("changed")?)?,
        })
    }
}

#[cfg(test)]
impl Fingerprint {
    /// Of a file that never was.
    pub(in crate::ops) fn sample() -> Self {
        Self {
            boot: "boot".into(),
            device: 1,
            inode: 2,
            size: 16 << 20,
            modified: (1_800_000_000, 3),
            changed: (1_800_000_000, 4),
        }
    }

    /// The same, of a kernel that does not say since when it runs.
    pub(in crate::ops) fn of_unknown_boot() -> Self {
        Self {
            boot: String::new(),
            ..Self::sample()
        }
    }

    /// Those that are not the sample by one thing each.
    pub(in crate::ops) fn others() -> impl Iterator<Item = Self> {
        let changes: [fn(&mut Self); 9] = [
            |file| file.boot = "another".into(),
            |file| file.device += 1,
            |file| file.inode += 1,
            |file| file.size += 1,
            |file| file.size = 0,
            |file| file.modified.0 += 1,
            |file| file.modified.1 += 1,
            |file| file.changed.0 -= 1,
            |file| file.changed.1 -= 1,
        ];
        changes.into_iter().map(|change| {
            let mut file = Self::sample();
            change(&mut file);
            file
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn opened(path: &std::path::Path) -> File {
        File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .expect("a file")
    }

    #[test]
    fn it_is_read_back_as_it_was_written() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let found = Fingerprint::of(&opened(&directory.path().join("a"))).expect("a status");
        let mut text = Sealing::new("test");
        found.write(&mut text);
        let text = text.seal();
        let mut lines = Opened::open("test", &text).expect("sealed");
        let back = Fingerprint::read(&mut lines).expect("all its lines");
        assert!(lines.is_over() && back.proves(&found));
    }

    #[test]
    fn whatever_happens_to_the_file_it_is_another() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("a");
        let file = opened(&path);
        let first = Fingerprint::of(&file).expect("a status");
        assert!(Fingerprint::of(&file).expect("a status").proves(&first));
        // The kernel's clock for files ticks every few milliseconds.
        let later = |changed: &dyn Fn()| {
            let before = Fingerprint::of(&opened(&path)).expect("a status");
            loop {
                changed();
                let now = Fingerprint::of(&opened(&path)).expect("a status");
                if !now.proves(&before) {
                    return;
                }
            }
        };
        later(&|| (&file).write_all(b"x").expect("writes"));
        let other = directory.path().join("b");
        later(&|| {
            std::fs::rename(&path, &other).expect("moves");
            std::fs::rename(&other, &path).expect("moves");
        });
        later(&|| {
            std::fs::copy(&path, &other).expect("copies");
            std::fs::rename(&other, &path).expect("moves");
        });
    }

    #[test]
    fn another_one_and_one_that_tells_nothing_prove_nothing() {
        let first = Fingerprint::sample();
        assert!(first.proves(&first));
        for other in Fingerprint::others() {
            assert!(!other.proves(&first), "{other:?}");
        }
        let unknown = Fingerprint::of_unknown_boot();
        assert!(!unknown.proves(&unknown));
    }
}
