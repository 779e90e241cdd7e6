//! Splits a stream of members into archives of bounded size.
//!
//! An archive ends only between two members: a file of PGDATA is never cut, so
//! every archive is a complete tar that can be restored on its own (B2), and an
//! archive may exceed the limit by the size of one member.
//!
//! The limit counts bytes *after* compression, because that is what the store
//! limits and what an operator sees when listing the bucket.
//!
//! This module knows nothing of compression or of object stores; it is given
//! members and something that opens the next archive.

use std::io::{self, Read, Write};

use super::member::Member;
use super::writer::{AppendError, Copied, TarWriter, broken};
use super::{BLOCK, RECORD, header};

/// Most bytes of headers that a member is taken to have: its own, and an
/// extended one with two paths of the 4096 bytes that systems allow.
const HEADERS: u64 = 32 * BLOCK;

/// Where archives go, one after the other. What is written between `begin` and
/// `end` is one of them.
pub trait ArchiveSink: Write {
    /// Begins the archive number `part`, from 0. Its first member has at most
    /// `first_member` bytes of tar: headers, content, padding, end of archive.
    ///
    /// # Errors
    ///
    /// Also if an archive with that member alone could not be stored.
    fn begin(&mut self, part: u32, first_member: u64) -> io::Result<()>;

    /// Bytes the archive has so far where the limit counts, which may lag
    /// behind what was written: by what is inside an encoder the limit may be
    /// exceeded, beside one member.
    fn bytes_out(&self) -> u64;

    /// Whether the archive is sure to take `bytes` more bytes of tar, however
    /// badly they compress (docs/decisions.md 22), with all that was written
    /// before.
    fn fits(&self, bytes: u64) -> bool;

    /// Ends the archive, which is a whole tar now.
    fn end(&mut self) -> io::Result<()>;
}

/// Adds members to archives and begins the next one where it is due.
///
/// Members keep their order, across archives too.
#[derive(Debug)]
pub struct Splitter<S> {
    tar: TarWriter<S>,
    limit: u64,
    /// Archives that were begun.
    begun: u32,
    open: Open,
    buffer: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Open {
    /// No archive is open.
    No,
    /// The open archive has members, and takes one of up to `size` bytes more.
    Room { size: u64 },
    /// The open archive has members.
    Filled,
    /// Something failed; the archive must never look whole.
    Broken,
}

impl<S: ArchiveSink> Splitter<S> {
    /// Splits once an archive has more than `limit` bytes.
    pub fn new(sink: S, limit: u64) -> Self {
        Self {
            tar: TarWriter::new(sink),
            limit,
            begun: 0,
            open: Open::No,
            buffer: Vec::new(),
        }
    }

    /// Makes sure that a member of `size` bytes can be added, ending the open
    /// archive if it is due, and says in which archive the member will be.
    ///
    /// That holds if the member is the next one and has no more bytes: a hard
    /// link may refer only to a member of its own archive, and whether it does
    /// has to be known before it is added.
    pub fn make_room(&mut self, size: u64) -> io::Result<u32> {
        let looked_at = matches!(self.open, Open::Room { size: room } if size <= room);
        if matches!(self.open, Open::Filled | Open::Room { .. }) && !looked_at {
            let sink = self.tar.get_ref();
            if sink.bytes_out() > self.limit || !sink.fits(worst_case(size)) {
                // upholds B2: no archive but the last ends anywhere else
                self.end()?;
            } else {
                self.open = Open::Room { size };
            }
        }
        match self.open {
            Open::No => Ok(self.begun),
            Open::Filled | Open::Room { .. } => Ok(self.begun - 1),
            Open::Broken => Err(broken()),
        }
    }

    /// Adds a member, in the next archive if the open one is full. `data`
    /// delivers the bytes of a file and is not looked at for anything else.
    pub fn add(&mut self, member: &Member, data: &mut dyn Read) -> Result<Copied, AppendError> {
        let header = header::encode(member).map_err(AppendError::Write)?;
        self.make_room(member.size()).map_err(AppendError::Write)?;
        if self.open == Open::No {
            self.begin(member.size()).map_err(AppendError::Write)?;
        }
        self.open = Open::Broken;
        let copied = self
            .tar
            .append_encoded(member, &header, data, &mut self.buffer)?;
        self.open = Open::Filled;
        Ok(copied)
    }

    /// Ends the last archive. A source without a single member still makes one,
    /// because readers look for it.
    pub fn finish(mut self) -> io::Result<()> {
        if self.open == Open::No && self.begun == 0 {
            self.begin(0)?;
        }
        self.close()
    }

    /// Ends the last archive, if there is one.
    pub fn close(mut self) -> io::Result<()> {
        if self.open == Open::No {
            return Ok(());
        }
        self.end()
    }

    fn begin(&mut self, size: u64) -> io::Result<()> {
        self.open = Open::Broken;
        let first_member = worst_case(size);
        self.tar.get_mut().begin(self.begun, first_member)?;
        self.begun += 1;
        self.open = Open::Filled;
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        if self.open == Open::Broken {
            return Err(broken());
        }
        self.open = Open::Broken;
        self.tar.finish()?;
        self.tar.get_mut().end()?;
        self.open = Open::No;
        Ok(())
    }
}

/// Bytes of tar that a member adds, and the most that the end of the archive
/// adds behind it.
fn worst_case(size: u64) -> u64 {
    size.checked_next_multiple_of(BLOCK)
        .unwrap_or(size)
        .saturating_add(HEADERS + 2 * RECORD)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{archive, content, file, read};
    use super::*;

    /// Keeps archives in memory and pretends that they compress.
    #[derive(Debug)]
    struct Memory {
        archives: Vec<Vec<u8>>,
        is_open: bool,
        /// Bytes of tar per byte of output.
        ratio: u64,
        /// Bytes of output an archive can have.
        capacity: u64,
        /// What `begin` was told of each archive's first member.
        first_members: Vec<u64>,
        /// Calls of `begin` that succeed before one fails.
        begins: u32,
        /// Bytes of output that came after the write that made them.
        late: u64,
    }

    impl Memory {
        fn new(ratio: u64, capacity: u64) -> Self {
            Self {
                archives: Vec::new(),
                is_open: false,
                ratio,
                capacity,
                first_members: Vec::new(),
                begins: u32::MAX,
                late: 0,
            }
        }
    }

    impl Write for &mut Memory {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            assert!(self.is_open, "written outside of an archive");
            self.archives
                .last_mut()
                .expect("begun")
                .extend_from_slice(buf);
            Ok(buf.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl ArchiveSink for &mut Memory {
        fn begin(&mut self, part: u32, first_member: u64) -> io::Result<()> {
            assert!(!self.is_open, "begun twice");
            assert_eq!(part as usize, self.archives.len());
            self.begins = self
                .begins
                .checked_sub(1)
                .ok_or_else(|| io::Error::other("the store is gone"))?;
            self.is_open = true;
            self.late = 0;
            self.archives.push(Vec::new());
            self.first_members.push(first_member);
            Ok(())
        }

        fn bytes_out(&self) -> u64 {
            self.archives.last().map_or(0, Vec::len) as u64 / self.ratio + self.late
        }

        fn fits(&self, bytes: u64) -> bool {
            self.bytes_out() + bytes <= self.capacity
        }

        fn end(&mut self) -> io::Result<()> {
            assert!(self.is_open, "ended without a beginning");
            self.is_open = false;
            Ok(())
        }
    }

    fn split(sizes: &[u64], limit: u64, mut sink: Memory) -> Memory {
        let mut splitter = Splitter::new(&mut sink, limit);
        for (number, size) in sizes.iter().enumerate() {
            let member = file(format!("base/5/{number}").as_bytes(), *size);
            let content = content(&member.name, *size);
            splitter.add(&member, &mut &content[..]).expect("added");
        }
        splitter.finish().expect("finished");
        assert!(!sink.is_open);
        sink
    }

    /// Sizes of the members of each archive.
    fn shape(sink: &Memory) -> Vec<Vec<u64>> {
        let archives = sink.archives.iter();
        archives
            .map(|bytes| {
                let members = read(bytes).expect("a whole tar");
                members.iter().map(|(member, _)| member.size()).collect()
            })
            .collect()
    }

    #[test]
    fn an_archive_ends_before_the_member_that_comes_after_the_limit() {
        // Headers take 1536 bytes each.
        for (limit, expected) in [
            (0, vec![vec![5], vec![6000], vec![0], vec![7]]),
            (2047, vec![vec![5], vec![6000], vec![0, 7]]),
            (2048, vec![vec![5, 6000], vec![0, 7]]),
            (9727, vec![vec![5, 6000], vec![0, 7]]),
            (9728, vec![vec![5, 6000, 0], vec![7]]),
            (u64::MAX, vec![vec![5, 6000, 0, 7]]),
        ] {
            let sink = split(&[5, 6000, 0, 7], limit, Memory::new(1, u64::MAX));
            assert_eq!(shape(&sink), expected, "{limit}");
        }
    }

    #[test]
    fn the_limit_counts_compressed_bytes() {
        let sink = split(&[5000; 4], 5000, Memory::new(2, u64::MAX));
        assert_eq!(shape(&sink), [[5000; 2], [5000; 2]]);
    }

    #[test]
    fn an_archive_ends_early_if_the_next_member_might_not_fit_the_store() {
        let most = 100_000;
        let sink = split(&[30_000, 30_000, 30_000, 1], u64::MAX, Memory::new(1, most));
        assert_eq!(shape(&sink), [vec![30_000; 2], vec![30_000, 1]]);
        // A single one beyond it has to go somewhere: the sink was told.
        let sink = split(&[1, 200_000, 1], u64::MAX, Memory::new(1, most));
        assert_eq!(shape(&sink), [vec![1], vec![200_000], vec![1]]);
        assert!(sink.first_members[1] >= sink.archives[1].len() as u64);
    }

    #[test]
    fn there_is_an_archive_even_without_members() {
        let sink = split(&[], 0, Memory::new(1, 0));
        assert_eq!(sink.archives, [archive(&[])]);
    }

    /// What was said of a member holds until it is added, even if the archive
    /// fills meanwhile: encoders work on after a write.
    #[test]
    fn the_archive_of_the_next_member_is_known_before_it_is_added() {
        for (limit, expected) in [
            (u64::MAX, [0, 0, 0]),
            // One member stays below it, and seems above it a moment later.
            (10_000, [0, 0, 1]),
            (0, [0, 1, 2]),
        ] {
            let mut sink = Memory::new(1, u64::MAX);
            let mut splitter = Splitter::new(&mut sink, limit);
            for part in expected {
                assert_eq!(splitter.make_room(3).expect("room"), part);
                splitter.tar.get_mut().late = 1_000_000;
                assert_eq!(splitter.make_room(3).expect("room"), part);
                splitter
                    .add(&file(b"f", 3), &mut &b"abc"[..])
                    .expect("added");
            }
            splitter.finish().expect("finished");
            let archives = shape(&sink);
            for part in expected {
                let members = expected.iter().filter(|other| **other == part).count();
                assert_eq!(archives[part as usize].len(), members, "{limit}");
            }
        }
    }

    #[test]
    fn a_look_at_a_small_member_is_no_room_for_a_large_one() {
        let mut sink = Memory::new(1, 100_000);
        let mut splitter = Splitter::new(&mut sink, u64::MAX);
        for (looked_at, size) in [(0, 30_000), (0, 10), (0, 90_000), (90_000, 10)] {
            splitter.make_room(looked_at).expect("room");
            let content = content(b"f", size);
            splitter
                .add(&file(b"f", size), &mut &content[..])
                .expect("added");
        }
        // Nothing comes for which there is room.
        splitter.make_room(90_000).expect("room");
        splitter.finish().expect("finished");
        assert_eq!(shape(&sink), [vec![30_000, 10], vec![90_000], vec![10]]);
        for (archive, first) in sink.archives.iter().zip(&sink.first_members) {
            assert!(archive.len() as u64 <= *first + 20_480);
        }
    }

    #[test]
    fn a_member_that_cannot_be_stored_breaks_nothing() {
        let mut sink = Memory::new(1, u64::MAX);
        let mut splitter = Splitter::new(&mut sink, 0);
        splitter
            .add(&file(b"", 0), &mut io::empty())
            .expect_err("no name");
        splitter
            .add(&file(b"f", 0), &mut io::empty())
            .expect("added");
        splitter.finish().expect("finished");
        assert_eq!(shape(&sink), [[0]]);
    }

    #[test]
    fn nothing_looks_whole_after_a_failure() {
        // Content that cannot be read.
        let mut sink = Memory::new(1, u64::MAX);
        let mut splitter = Splitter::new(&mut sink, 0);
        splitter
            .add(&file(b"f", 5), &mut FailingRead)
            .expect_err("the disk is broken");
        let next = splitter.add(&file(b"next", 0), &mut io::empty());
        next.expect_err("broken");
        splitter.finish().expect_err("broken");
        assert!(sink.is_open);

        // A store that takes no second archive.
        let mut sink = Memory::new(1, u64::MAX);
        sink.begins = 1;
        let mut splitter = Splitter::new(&mut sink, 0);
        splitter
            .add(&file(b"one", 0), &mut io::empty())
            .expect("added");
        for _ in 0..2 {
            let two = splitter.add(&file(b"two", 0), &mut io::empty());
            two.expect_err("the store is gone");
        }
        splitter.finish().expect_err("the store is gone");
    }

    struct FailingRead;

    impl Read for FailingRead {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("input/output error"))
        }
    }

    proptest! {
        /// B2: every archive is a whole tar on its own, and each file is in
        /// exactly one of them.
        #[test]
        fn every_member_is_once_in_a_whole_archive_and_in_order(
            sizes in prop::collection::vec(
                prop_oneof![0_u64..3, 500_u64..1100, 0_u64..60_000], 0..40),
            limit in prop_oneof![0_u64..100, 0_u64..100_000],
            capacity in prop_oneof![20_000_u64..200_000, Just(u64::MAX)],
            ratio in 1_u64..4,
        ) {
            let sink = split(&sizes, limit, Memory::new(ratio, capacity));
            let mut number = 0;
            for (bytes, first) in sink.archives.iter().zip(&sink.first_members) {
                prop_assert_eq!(bytes.len() % 10240, 0);
                let members = read(bytes).expect("a whole tar");
                prop_assert!(!members.is_empty() || sizes.is_empty());
                for (member, data) in &members {
                    let name = format!("base/5/{number}");
                    prop_assert_eq!(&member.name, name.as_bytes());
                    prop_assert_eq!(member.size(), sizes[number]);
                    prop_assert_eq!(data, &content(&member.name, member.size()));
                    number += 1;
                }
                let length = bytes.len() as u64;
                match &members[..] {
                    [_] => prop_assert!(length <= *first),
                    [.., (last, _)] => {
                        // The limit is exceeded by one member at most, and the
                        // store's never.
                        let last = last.size() + 2 * 1536 + 10240 + 512;
                        prop_assert!(length.saturating_sub(last) / ratio <= limit);
                        prop_assert!(length / ratio <= capacity);
                    }
                    [] => {}
                }
            }
            prop_assert_eq!(number, sizes.len());
        }
    }
}
