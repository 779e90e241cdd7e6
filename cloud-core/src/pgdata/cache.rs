//! Reading and writing the files of a server without pushing out of memory what it works with.
//!
//! A backup reads everything once. What it brings into the page cache nobody wants, and
//! room for it is made by dropping what others have there. So pages are dropped behind
//! the reader, but only those that it brought: a table that the server has in the cache
//! stays there (docs/decisions.md 23).
//!
//! Which ones these are is asked before anything is read, by reads that do not wait, and
//! by samples: Linux (6.18 does, 5.10 did not) begins to read what such a read does not
//! find, so that asking for each page would make a request to the disk of each. In a
//! piece of a file of which any sample is there nothing is dropped; where less than one
//! page in sixteen or so is in the cache, these are lost.
//!
//! A restore writes everything once. See [`Behind`].

use std::fs::File;
use std::io::{self, IoSliceMut, Read};
use std::num::NonZeroU64;

use rustix::fs::{Advice, fadvise};
use rustix::io::{Errno, ReadWriteFlags, preadv2};

/// Bytes that stay or go together. More than the system reads ahead, since the next
/// piece is looked at before this one is read.
const PIECE: u64 = 8 << 20;

/// Bytes from one sample to the next.
const STRIDE: u64 = 512 << 10;

/// Reads a file from its beginning to its end.
#[derive(Debug)]
pub struct Gentle<'a> {
    file: &'a File,
    size: u64,
    /// How far it was read.
    read: u64,
    /// Where the piece ends that is being read.
    end: u64,
    /// Whether that piece was not in the cache.
    cold: bool,
    /// Whether the one behind it was not.
    next_cold: bool,
}

impl<'a> Gentle<'a> {
    /// Of a file that is at its beginning and has about `size` bytes.
    pub fn new(file: &'a File, size: u64) -> Self {
        Self {
            file,
            size,
            read: 0,
            end: 0,
            cold: false,
            next_cold: is_cold(file, 0, size),
        }
    }

    /// Goes to the next piece.
    fn advance(&mut self) {
        self.forget();
        self.cold = self.next_cold;
        self.end += PIECE;
        self.next_cold = is_cold(self.file, self.end, self.size);
    }

    /// Drops the piece that was read.
    fn forget(&mut self) {
        let start = self.end.saturating_sub(PIECE);
        if let (true, Some(length)) = (self.cold, NonZeroU64::new(self.read - start)) {
            // A wish: nothing depends on it.
            let _ = fadvise(self.file, start, Some(length), Advice::DontNeed);
        }
        self.cold = false;
    }
}

impl Read for Gentle<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.read == self.end {
            self.advance();
        }
        let room = usize::try_from(self.end - self.read).map_or(buf.len(), |n| n.min(buf.len()));
        let count = self.file.read(&mut buf[..room])?;
        self.read += count as u64;
        Ok(count)
    }
}

impl Drop for Gentle<'_> {
    fn drop(&mut self) {
        self.forget();
    }
}

/// How many pieces behind the writer may be on their way to the disk and be dropped still.
const LAG: u64 = 4;

/// Follows the writer of a large new file: has what was written put on the disk at once, and
/// drops what is there.
///
/// Left to itself the system begins when a tenth of the memory waits to be written, and the
/// sync at the end would wait for all of that. What it keeps besides pushes out what others
/// use, and takes new memory, which a virtual machine has to fetch from its host: 5 GB
/// took 4 s of processor time with all of it kept, and 1.5 s like this (Linux 6.18).
///
/// Wishes, all of it: nothing depends on them, and nobody waits.
#[derive(Debug)]
pub(in crate::pgdata) struct Behind<'a> {
    file: &'a File,
    written: u64,
    /// How far the system was told.
    told: u64,
}

impl<'a> Behind<'a> {
    /// Of a file that is written from its beginning on.
    pub(in crate::pgdata) fn new(file: &'a File) -> Self {
        Self {
            file,
            written: 0,
            told: 0,
        }
    }

    /// So many bytes more were written.
    pub(in crate::pgdata) fn advance(&mut self, count: usize) {
        self.written += count as u64;
        if self.written - self.told >= PIECE {
            self.tell();
        }
    }

    /// This advice begins to write what is not on the disk, and drops what is.
    fn tell(&mut self) {
        let start = self.told.saturating_sub(LAG * PIECE);
        let length = NonZeroU64::new(self.written - start);
        let _ = fadvise(self.file, start, length, Advice::DontNeed);
        self.told = self.written;
    }
}

impl Drop for Behind<'_> {
    fn drop(&mut self) {
        // A small file is left to the sync at the end.
        if self.told > 0 {
            self.tell();
        }
    }
}

/// Whether no sample of the piece of the file that begins at `start` is in the cache, as
/// far as the file system tells.
fn is_cold(file: &File, start: u64, size: u64) -> bool {
    let end = size.min(start + PIECE);
    if start >= end {
        return false;
    }
    if size <= STRIDE {
        // What this brings is what is read next.
        return is_absent(file, start);
    }
    // Or each sample would bring what lies behind it.
    if fadvise(file, 0, None, Advice::Random).is_err() {
        return false;
    }
    let mut samples = (start..end).step_by(usize::try_from(STRIDE).expect("it fits"));
    let cold = samples.all(|at| is_absent(file, at));
    // With the advice left, everything would be read page by page.
    let _ = fadvise(file, 0, None, Advice::Normal);
    cold
}

/// Whether the byte is surely not in the cache.
fn is_absent(file: &File, at: u64) -> bool {
    let mut byte = [0];
    let mut buffers = [IoSliceMut::new(&mut byte)];
    // Any other failure is of a file system that cannot tell.
    preadv2(file, &mut buffers, at, ReadWriteFlags::NOWAIT) == Err(Errno::AGAIN)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::FileExt;

    use super::*;

    const SIZE: usize = 29 << 20;

    /// A file of which nothing is in the cache; `None` where that cannot be had.
    fn cold_file() -> Option<(File, Vec<u8>)> {
        let mut file = tempfile::tempfile().expect("a temporary file");
        let mut content = vec![0; SIZE];
        fastrand::Rng::with_seed(5).fill(&mut content);
        file.write_all(&content).expect("written");
        file.sync_all().expect("synced");
        io::Seek::rewind(&mut file).expect("rewound");
        fadvise(&file, 0, None, Advice::DontNeed).expect("advice is taken");
        fadvise(&file, 0, None, Advice::Random).expect("advice is taken");
        let absent = is_absent(&file, 0);
        // Until it is there it cannot be dropped again.
        file.read_exact_at(&mut [0], 0).expect("read");
        if !absent {
            eprintln!("not tested: this file system does not tell what is in memory");
        }
        fadvise(&file, 0, None, Advice::DontNeed).expect("advice is taken");
        fadvise(&file, 0, None, Advice::Normal).expect("advice is taken");
        absent.then_some((file, content))
    }

    /// In the middle of each MiB, which no sample looks at.
    fn present(file: &File) -> Vec<u64> {
        fadvise(file, 0, None, Advice::Random).expect("advice is taken");
        let all = 0..SIZE as u64 >> 20;
        all.filter(|mib| !is_absent(file, (mib << 20) + (300 << 10)))
            .collect()
    }

    fn read(file: &File, size: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        Gentle::new(file, size)
            .read_to_end(&mut bytes)
            .expect("read");
        bytes
    }

    #[test]
    fn what_was_not_in_memory_is_not_there_afterwards() {
        let Some((file, content)) = cold_file() else {
            return;
        };
        assert!(read(&file, SIZE as u64) == content);
        assert_eq!(present(&file), [0_u64; 0]);
    }

    #[test]
    fn what_was_in_memory_stays_there() {
        let Some((file, content)) = cold_file() else {
            return;
        };
        // All of the second piece, and a little of the fourth; nothing ahead of them.
        fadvise(&file, 0, None, Advice::Random).expect("advice is taken");
        let mut hot = vec![0; usize::try_from(PIECE).expect("it fits")];
        file.read_exact_at(&mut hot, PIECE).expect("read");
        file.read_exact_at(&mut hot[..4096], 3 * PIECE + STRIDE)
            .expect("read");
        fadvise(&file, 0, None, Advice::Normal).expect("advice is taken");
        assert!(read(&file, SIZE as u64) == content);
        let expected: Vec<u64> = (8..16).chain(24..29).collect();
        assert_eq!(present(&file), expected);
    }

    #[test]
    fn what_was_written_is_dropped_when_it_is_on_the_disk() {
        if cold_file().is_none() {
            return;
        }
        let mut file = tempfile::tempfile().expect("a temporary file");
        let copy = file.try_clone().expect("another handle");
        let mut behind = Behind::new(&copy);
        let mut write = |behind: &mut Behind<'_>, mib: usize| {
            for _ in 0..mib * 8 {
                file.write_all(&vec![7; 128 << 10]).expect("written");
                behind.advance(128 << 10);
            }
        };
        write(&mut behind, 20);
        copy.sync_all().expect("synced");
        write(&mut behind, 8);
        let there = present(&copy);
        assert!(there.iter().all(|mib| *mib >= 20), "{there:?}");
        copy.sync_all().expect("synced");
        write(&mut behind, 1);
        assert!(present(&copy).contains(&28), "it is not told each time");
        copy.sync_all().expect("synced");
        drop(behind);
        assert_eq!(present(&copy), [0_u64; 0]);
    }

    #[test]
    fn a_small_file_stays_in_memory() {
        let mut file = tempfile::tempfile().expect("a temporary file");
        let copy = file.try_clone().expect("another handle");
        let mut behind = Behind::new(&copy);
        file.write_all(&vec![7; 1 << 20]).expect("written");
        file.sync_all().expect("synced");
        behind.advance(1 << 20);
        drop(behind);
        assert!(!is_absent(&copy, 300 << 10));
    }

    #[test]
    fn a_file_that_grows_or_shrinks_is_read_to_its_end() {
        let Some((file, content)) = cold_file() else {
            return;
        };
        for size in [0, 1, 15 << 20, SIZE as u64 * 2] {
            io::Seek::rewind(&mut &file).expect("rewound");
            assert!(read(&file, size) == content, "{size}");
        }
    }
}
