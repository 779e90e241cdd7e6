//! Splits a stream of tar members into archives of bounded size.
//!
//! An archive ends only between two members: a file is never cut, so every
//! archive is a complete tar that can be restored on its own (upholds B2), and
//! an archive may exceed the limit by the size of one member.
//!
//! The limit counts bytes *after* compression, because that is what the store
//! limits and what an operator sees when listing the bucket.
//!
//! This module knows nothing of PostgreSQL or of object stores; it is given
//! members and a way to open the next archive.

use std::io::{self, Read, Write};

use super::header::BLOCK;
use super::member::Member;
use super::writer::{AppendError, Copied, TarWriter};

/// Where archives go, one after the other. What is written belongs to the
/// archive that was begun last.
pub trait ArchiveSink: Write {
    /// Begins the archive number `part`, from 0. Its first member has at most
    /// `first_member` bytes with its headers.
    fn begin(&mut self, part: u32, first_member: u64) -> io::Result<()>;

    /// Bytes the archive has so far where the limit counts, which may lag
    /// behind what was written.
    fn bytes_out(&self) -> u64;

    /// Whether a member of `bytes` bytes with its headers is sure to fit the
    /// archive.
    fn fits(&self, bytes: u64) -> bool;

    /// Ends the archive.
    fn end(&mut self) -> io::Result<()>;
}

/// Adds members to archives and begins the next one where it is due.
#[derive(Debug)]
pub struct Splitter<S> {
    tar: TarWriter<S>,
    limit: u64,
    /// Number of the open archive.
    open: Option<u32>,
    next: u32,
    /// Whether the open archive has a member.
    filled: bool,
    buffer: Vec<u8>,
}

impl<S: ArchiveSink> Splitter<S> {
    /// Splits once an archive has more than `limit` bytes.
    pub fn new(sink: S, limit: u64) -> Self {
        Self {
            tar: TarWriter::new(sink),
            limit,
            open: None,
            next: 0,
            filled: false,
            buffer: Vec::new(),
        }
    }

    /// Makes sure that a member of `size` bytes can be added, ending the open
    /// archive if it is due, and says in which archive the member will be.
    pub fn make_room(&mut self, size: u64) -> io::Result<u32> {
        // Its own header, a pax header with two long names, and padding.
        let bytes = size.saturating_add(32 * BLOCK as u64);
        if let Some(part) = self.open {
            let sink = self.tar.get_ref();
            let full = self.filled && (sink.bytes_out() > self.limit || !sink.fits(bytes));
            if !full {
                return Ok(part);
            }
            self.end()?;
        }
        let part = self.next;
        self.tar.get_mut().begin(part, bytes)?;
        self.next += 1;
        self.open = Some(part);
        self.filled = false;
        Ok(part)
    }

    /// Adds a member, in the next archive if the open one is full.
    pub fn add(&mut self, member: &Member, data: &mut dyn Read) -> Result<Copied, AppendError> {
        self.make_room(member.size()).map_err(AppendError::Write)?;
        self.filled = true;
        self.tar.append(member, data, &mut self.buffer)
    }

    /// Ends the last archive. A source without a single member still makes one,
    /// because readers look for it.
    pub fn finish(mut self) -> io::Result<()> {
        if self.open.is_none() && self.next == 0 {
            self.make_room(0)?;
        }
        self.end()
    }

    fn end(&mut self) -> io::Result<()> {
        if self.open.take().is_some() {
            self.tar.finish()?;
            // The next archive is padded by its own length.
            self.tar.restart();
            self.tar.get_mut().end()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::super::member::{MemberKind, Mtime};
    use super::super::reader::TarReader;
    use super::*;

    /// Archives in memory; counts in steps, as an encoder with a buffer would.
    #[derive(Default)]
    struct Memory {
        archives: Vec<Vec<u8>>,
        ended: usize,
        lag: u64,
        capacity: u64,
    }

    impl Write for &mut Memory {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.archives.last_mut().unwrap().extend_from_slice(buf);
            Ok(buf.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl ArchiveSink for &mut Memory {
        fn begin(&mut self, part: u32, _first_member: u64) -> io::Result<()> {
            assert_eq!(self.archives.len(), part as usize);
            assert_eq!(self.ended, self.archives.len());
            self.archives.push(Vec::new());
            Ok(())
        }

        fn bytes_out(&self) -> u64 {
            let bytes = self.archives.last().unwrap().len() as u64;
            bytes.saturating_sub(self.lag)
        }

        fn fits(&self, bytes: u64) -> bool {
            self.archives.last().unwrap().len() as u64 + bytes <= self.capacity
        }

        fn end(&mut self) -> io::Result<()> {
            self.ended += 1;
            Ok(())
        }
    }

    fn file(name: usize, size: u64) -> Member {
        Member {
            name: format!("file{name}").into_bytes(),
            kind: MemberKind::File { size },
            mode: 0o600,
            uid: 0,
            gid: 0,
            user: Vec::new(),
            group: Vec::new(),
            mtime: Mtime::default(),
        }
    }

    proptest! {
        #[test]
        fn every_archive_is_whole_and_every_member_in_exactly_one(
            sizes in prop::collection::vec(0_u64..40_000, 0..60),
            limit in 1_u64..100_000,
            lag in 0_u64..20_000,
            capacity in 60_000_u64..200_000,
        ) {
            let mut memory = Memory { lag, capacity, ..Memory::default() };
            let mut splitter = Splitter::new(&mut memory, limit);
            for (name, size) in sizes.iter().enumerate() {
                let data = vec![u8::try_from(name).unwrap(); usize::try_from(*size).unwrap()];
                let part = splitter.make_room(*size).unwrap();
                prop_assert_eq!(splitter.open, Some(part));
                splitter.add(&file(name, *size), &mut Cursor::new(data)).unwrap();
                prop_assert_eq!(splitter.open, Some(part), "make_room had told where it goes");
            }
            splitter.finish().unwrap();
            prop_assert_eq!(memory.ended, memory.archives.len());
            prop_assert!(!memory.archives.is_empty());

            let mut found = Vec::new();
            for archive in &memory.archives {
                prop_assert_eq!(archive.len() % 10_240, 0);
                prop_assert!(archive.len() as u64 <= capacity + 20_480, "it fits what the sink can hold");
                let mut reader = TarReader::new(&archive[..]);
                let mut members = 0;
                while let Some(member) = reader.next_member().unwrap() {
                    let mut data = Vec::new();
                    reader.read_to_end(&mut data).unwrap();
                    prop_assert_eq!(data.len() as u64, member.size());
                    prop_assert!(data.iter().all(|b| usize::from(*b) == found.len()));
                    found.push(member);
                    members += 1;
                }
                prop_assert!(members > 0 || sizes.is_empty());
            }
            let expected: Vec<Member> =
                sizes.iter().enumerate().map(|(name, size)| file(name, *size)).collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn an_archive_ends_once_it_is_larger_than_the_limit() {
        let mut memory = Memory {
            capacity: u64::MAX,
            ..Memory::default()
        };
        let mut splitter = Splitter::new(&mut memory, 10_000);
        for name in 0..10 {
            splitter
                .add(&file(name, 4000), &mut Cursor::new(vec![0; 4000]))
                .unwrap();
        }
        splitter.finish().unwrap();
        // 4608 bytes each: the limit is passed by the third.
        assert_eq!(memory.archives.len(), 4);
    }
}
