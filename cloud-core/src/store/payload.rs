//! What a write sends: bytes in memory, or a file that is read while it is sent.
//!
//! A file needs no memory of its own size, and may be sent as often as needed. It was
//! read once before, for its checksum, and the store gets its last piece only if all
//! that was read this time has the same one: of a file that changes meanwhile nothing
//! is ever stored.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use rustix::buffer::spare_capacity;
use rustix::io::{Errno, pread};

/// Bytes read at a time. Below the size from which the allocator asks the system for
/// each buffer anew (128 KiB in glibc), which costs more than reading.
const PIECE: usize = 64 << 10;

/// What is to be stored; clones share it.
#[derive(Debug, Clone)]
pub struct Payload(Source);

#[derive(Debug, Clone)]
enum Source {
    Memory(Bytes),
    File(Arc<Stored>),
}

/// Checksums of a file that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sums {
    /// CRC-32C.
    pub crc32c: u32,
    /// SHA-256, if it was made ([`Abilities::wants_sha256`]).
    ///
    /// [`Abilities::wants_sha256`]: super::Abilities
    pub sha256: Option<[u8; 32]>,
}

/// A file, as it was when its checksum was made.
#[derive(Debug)]
struct Stored {
    file: File,
    size: u64,
    sums: Sums,
    /// Whether it was read and turned out to be something else.
    changed: AtomicBool,
    /// Why it could not be read, if it could not.
    unread: OnceLock<Errno>,
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self(Source::Memory(bytes))
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl From<&'static str> for Payload {
    fn from(text: &'static str) -> Self {
        Bytes::from(text).into()
    }
}

impl Payload {
    /// A file that was read already: `size` bytes with these checksums. Where
    /// the file is read to or from otherwise does not matter.
    pub fn of_file(file: File, size: u64, sums: Sums) -> Self {
        Self(Source::File(Arc::new(Stored {
            file,
            size,
            sums,
            changed: AtomicBool::new(false),
            unread: OnceLock::new(),
        })))
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        match &self.0 {
            Source::Memory(bytes) => bytes.len() as u64,
            Source::File(stored) => stored.size,
        }
    }

    /// CRC-32C of all of it.
    pub fn crc32c(&self) -> u32 {
        match &self.0 {
            Source::Memory(bytes) => crc32c::crc32c(bytes),
            Source::File(stored) => stored.sums.crc32c,
        }
    }

    /// SHA-256 of a file, if it was made when that was read.
    pub fn sha256(&self) -> Option<[u8; 32]> {
        match &self.0 {
            Source::Memory(_) => None,
            Source::File(stored) => stored.sums.sha256,
        }
    }

    /// The bytes, if they are in memory.
    pub fn in_memory(&self) -> Option<&Bytes> {
        match &self.0 {
            Source::Memory(bytes) => Some(bytes),
            Source::File(_) => None,
        }
    }

    /// Whether this is a file that was read once more and was not the same: sending
    /// it again would be of no use.
    pub fn has_changed(&self) -> bool {
        match &self.0 {
            Source::Memory(_) => false,
            Source::File(stored) => stored.changed.load(Ordering::Relaxed),
        }
    }

    /// Why this is a file that could not be read while it was sent. That is no trouble
    /// of the store's, whatever the request failed of.
    pub fn unread(&self) -> Option<io::Error> {
        match &self.0 {
            Source::Memory(_) => None,
            Source::File(stored) => stored.unread.get().map(|errno| (*errno).into()),
        }
    }

    /// All of it, piece by piece; from its beginning each time.
    ///
    /// The pieces of a file are read when they are asked for, which blocks: hardly,
    /// since the file was read a moment ago. They end with an error, and before the last
    /// of them, if the file has changed.
    pub fn pieces(&self) -> Pieces {
        Pieces {
            payload: self.clone(),
            sent: 0,
            crc32c: 0,
            over: false,
        }
    }

    /// All of it in memory.
    ///
    /// # Errors
    ///
    /// As those of [`pieces`](Self::pieces).
    pub fn bytes(&self) -> io::Result<Bytes> {
        match &self.0 {
            Source::Memory(bytes) => Ok(bytes.clone()),
            Source::File(stored) => {
                let mut all = Vec::with_capacity(usize::try_from(stored.size).unwrap_or(0));
                for piece in self.pieces() {
                    all.extend_from_slice(&piece?);
                }
                Ok(all.into())
            }
        }
    }

    /// Whether `other` is the same, byte for byte.
    ///
    /// # Errors
    ///
    /// As those of [`pieces`](Self::pieces).
    pub fn is(&self, other: &[u8]) -> io::Result<bool> {
        if self.size() != other.len() as u64 {
            return Ok(false);
        }
        let mut rest = other;
        for piece in self.pieces() {
            let piece = piece?;
            let Some(behind) = rest.strip_prefix(&piece[..]) else {
                return Ok(false);
            };
            rest = behind;
        }
        Ok(rest.is_empty())
    }
}

/// What [`Payload::pieces`] gives.
#[derive(Debug)]
pub struct Pieces {
    payload: Payload,
    sent: u64,
    crc32c: u32,
    over: bool,
}

impl Pieces {
    /// Bytes that are still to come.
    pub fn left(&self) -> u64 {
        self.payload.size() - self.sent
    }
}

impl Iterator for Pieces {
    type Item = io::Result<Bytes>;

    fn next(&mut self) -> Option<io::Result<Bytes>> {
        if self.over || self.left() == 0 {
            return None;
        }
        let read = match &self.payload.0 {
            Source::Memory(bytes) => Ok(bytes.clone()),
            Source::File(stored) => stored.read(self.sent, &mut self.crc32c),
        };
        match &read {
            Ok(piece) => self.sent += piece.len() as u64,
            Err(_) => self.over = true,
        }
        Some(read)
    }
}

impl Stored {
    /// Reads the piece at `offset`; `crc32c` is that of all before it.
    fn read(&self, offset: u64, crc32c: &mut u32) -> io::Result<Bytes> {
        let left = usize::try_from(self.size - offset).unwrap_or(usize::MAX);
        let wanted = left.min(PIECE);
        let mut piece = Vec::with_capacity(wanted);
        while piece.len() < wanted {
            let at = offset + piece.len() as u64;
            match pread(&self.file, spare_capacity(&mut piece), at) {
                Ok(0) => return Err(self.changed()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => {
                    let _ = self.unread.set(error);
                    return Err(error.into());
                }
            }
        }
        // The allocator may have given more room than was asked for.
        piece.truncate(wanted);
        *crc32c = crc32c::crc32c_append(*crc32c, &piece);
        if wanted == left && *crc32c != self.sums.crc32c {
            return Err(self.changed());
        }
        Ok(piece.into())
    }

    fn changed(&self) -> io::Error {
        self.changed.store(true, Ordering::Relaxed);
        io::Error::other("the file changed while it was sent")
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::FileExt;

    use super::*;

    fn content() -> Vec<u8> {
        (0..=250).cycle().take(PIECE * 2 + 1000).collect()
    }

    fn of_file(content: &[u8]) -> (File, Payload) {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(content).expect("writes");
        let of = file.try_clone().expect("the same file");
        let sums = Sums {
            crc32c: crc32c::crc32c(content),
            sha256: None,
        };
        let payload = Payload::of_file(of, content.len() as u64, sums);
        (file, payload)
    }

    #[test]
    fn a_file_is_sent_as_it_is_as_often_as_needed() {
        for length in [
            0,
            1,
            PIECE - 1,
            PIECE,
            PIECE + 1,
            2 * PIECE,
            content().len(),
        ] {
            let content = &content()[..length];
            let (_file, payload) = of_file(content);
            assert_eq!(payload.size(), length as u64);
            for _ in 0..2 {
                assert_eq!(payload.bytes().expect("reads"), content, "{length}");
            }
            assert!(payload.is(content).expect("reads"));
            assert!(!payload.has_changed());
            assert_eq!(payload.crc32c(), Payload::from(content.to_vec()).crc32c());
        }
    }

    #[test]
    fn other_bytes_are_told_apart() {
        let content = content();
        let mut other = content.clone();
        *other.last_mut().expect("not empty") ^= 1;
        for payload in [of_file(&content).1, content.clone().into()] {
            assert!(payload.is(&content).expect("reads"));
            assert!(!payload.is(&other).expect("reads"));
            assert!(!payload.is(&content[1..]).expect("reads"));
            assert!(!payload.is(b"").expect("reads"));
        }
    }

    /// Whoever sends the pieces has not sent all of them by then.
    #[test]
    fn of_a_file_that_changed_the_last_piece_is_not_given() {
        type Change = fn(&File);
        let changes: [(&str, Change); 3] = [
            ("cut", |file| file.set_len(10).expect("cuts")),
            ("first byte", |file| {
                file.write_all_at(b"!", 0).expect("writes");
            }),
            ("last byte", |file| {
                let last = file.metadata().expect("a file").len() - 1;
                file.write_all_at(b"!", last).expect("writes");
            }),
        ];
        for (what, change) in changes {
            let content = content();
            let (file, payload) = of_file(&content);
            change(&file);
            let mut sent = 0;
            let mut failed = false;
            for piece in payload.pieces() {
                match piece {
                    Ok(piece) => sent += piece.len(),
                    Err(_) => failed = true,
                }
            }
            assert!(failed && sent < content.len(), "{what}: {sent} bytes");
            assert!(payload.has_changed(), "{what}");
            assert!(payload.bytes().is_err(), "{what}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_says_so() {
        let folder = tempfile::tempdir().expect("a folder");
        let unreadable = File::create(folder.path().join("f")).expect("a file");
        let sums = Sums {
            crc32c: 0,
            sha256: None,
        };
        let payload = Payload::of_file(unreadable, 9, sums);
        assert!(payload.unread().is_none());
        assert!(payload.bytes().is_err());
        let error = payload.unread().expect("it was noted");
        assert_eq!(error.raw_os_error(), Some(Errno::BADF.raw_os_error()));
        assert!(!payload.has_changed());
    }

    /// As a process that archives sees a segment to which more is written.
    #[test]
    fn what_is_behind_the_end_does_not_matter() {
        let content = content();
        let (mut file, payload) = of_file(&content);
        file.write_all(b"more").expect("writes");
        assert_eq!(payload.bytes().expect("reads"), content);
    }
}
