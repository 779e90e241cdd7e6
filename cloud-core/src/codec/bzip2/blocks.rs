//! One bzip2 stream of blocks that were compressed apart.
//!
//! A stream is a header of whole bytes, blocks that follow each other bit by bit, and
//! a trailer with a checksum of the blocks' checksums. So a worker makes a whole
//! stream of each block, and what stands between header and trailer is moved to
//! where the block before ended.
//!
//! That each of these streams has one block follows from where blocks are cut: the
//! library begins another one when runs of equal bytes, shortened as the format has
//! it, fill one. A worker checks it all the same.
//!
//! The format has no specification; these numbers are those of every implementation.

use std::io::{self, Write};

use ::bzip2::{Action, Compress, Compression, Status};

use super::WORK_FACTOR;
use super::marks::END;
use crate::codec::stream::since;
use crate::codec::workers::{Block, Join, Work};

/// Length of a stream's header: `BZh` and the level.
const HEADER: usize = 4;

/// Length of a block's mark, which the checksum follows.
const MARK: usize = 6;

/// Bits of the trailer: mark and checksum.
const TRAILER: usize = 80;

/// Longest run of equal bytes that is shortened as one.
const LONGEST_RUN: u8 = 255;

/// The stream.
pub(super) struct Stream {
    level: u8,
    runs: Runs,
    joined: Bits,
    /// Checksum of the checksums so far.
    combined: u32,
    /// Room for a block where it belongs.
    moved: Vec<u8>,
}

impl Stream {
    /// Of a level from 1 to 9.
    pub(super) fn new(level: u8) -> Self {
        Self {
            level,
            runs: Runs::default(),
            joined: Bits::default(),
            combined: 0,
            moved: Vec::new(),
        }
    }

    /// How many bytes of shortened runs make a block.
    fn capacity(&self) -> usize {
        100_000 * usize::from(self.level) - 19
    }
}

impl Join for Stream {
    type Worker = Worker;

    /// Of long runs a block could hold 45 MB. Four blocks are in memory.
    const BLOCK: usize = 1 << 20;

    /// One block takes so long to encode that nothing is waited for, and the tables of
    /// each thread are 8 MB already.
    const WAITING: usize = 1;

    const HISTORY: usize = 0;

    fn worker(&self) -> io::Result<Worker> {
        Ok(Worker(Compression::new(self.level.into())))
    }

    fn take(&mut self, filled: usize, bytes: &[u8]) -> usize {
        if filled == 0 {
            self.runs = Runs::default();
        }
        let capacity = self.capacity();
        let most = bytes.len().min(Self::BLOCK - filled);
        let fits = |byte: &&u8| self.runs.add(**byte, capacity);
        bytes[..most].iter().take_while(fits).count()
    }

    fn begin(&mut self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(b"BZh")?;
        out.write_all(&[b'0' + self.level])
    }

    fn join(&mut self, block: &Block<Extent>, out: &mut dyn Write) -> io::Result<()> {
        let Extent { bits, checksum } = block.note;
        self.combined = self.combined.rotate_left(1) ^ checksum;
        self.moved.clear();
        let body = &block.packed[HEADER..];
        self.joined.push(body, bits, &mut self.moved);
        out.write_all(&self.moved)
    }

    fn end(&mut self, out: &mut dyn Write) -> io::Result<()> {
        let trailer = (u128::from(END) << 32 | u128::from(self.combined)) << (128 - TRAILER);
        self.moved.clear();
        let bytes = trailer.to_be_bytes();
        self.joined.push(&bytes, TRAILER, &mut self.moved);
        out.write_all(&self.moved)?;
        out.write_all(self.joined.rest())
    }
}

/// How long the bytes of a block are once their runs are shortened: four equal bytes
/// and a count for up to 255 of them.
#[derive(Debug, Default)]
struct Runs {
    last: Option<u8>,
    /// Length of the run that is going on.
    length: u8,
    shortened: usize,
}

impl Runs {
    /// Adds a byte, unless there would be more than `capacity` then.
    fn add(&mut self, byte: u8, capacity: usize) -> bool {
        let goes_on = self.last == Some(byte) && self.length < LONGEST_RUN;
        let length = if goes_on { self.length + 1 } else { 1 };
        let shortened = self.shortened
            + match length {
                ..4 => 1,
                4 => 2,
                5.. => 0,
            };
        if shortened > capacity {
            return false;
        }
        *self = Self {
            last: Some(byte),
            length,
            shortened,
        };
        true
    }
}

/// Where in a stream its only block is, behind the header.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Extent {
    bits: usize,
    checksum: u32,
}

impl Extent {
    /// `None` unless `stream` has exactly one block.
    fn of(stream: &[u8]) -> Option<Self> {
        let checksum = stream.get(HEADER + MARK..)?.first_chunk::<4>()?;
        let checksum = u32::from_be_bytes(*checksum);
        let tail = stream.last_chunk::<11>()?;
        let tail = tail
            .iter()
            .fold(0, |tail, byte| tail << 8 | u128::from(*byte));
        // With one block, its checksum is the one of all checksums.
        let trailer = u128::from(END) << 32 | u128::from(checksum);
        let padding = (0..8).find(|padding| {
            let above = tail >> padding & ((1 << TRAILER) - 1);
            above == trailer && tail.trailing_zeros() >= *padding
        })?;
        let behind = TRAILER + usize::try_from(padding).ok()?;
        let bits = ((stream.len() - HEADER) * 8).checked_sub(behind)?;
        Some(Self { bits, checksum })
    }
}

/// Makes a whole stream of each block.
pub(super) struct Worker(Compression);

impl Work for Worker {
    type Note = Extent;

    fn pack(&mut self, block: &mut Block<Extent>) -> io::Result<()> {
        let (_, plain, packed) = block.parts();
        let mut raw = Compress::new(self.0, WORK_FACTOR);
        packed.reserve(plain.len() + plain.len() / 100 + 1024);
        loop {
            let rest = &plain[since(0, raw.total_in())..];
            if raw.compress_vec(rest, packed, Action::Finish)? == Status::StreamEnd {
                break;
            }
            packed.reserve(plain.len() / 8 + 1024);
        }
        block.note = Extent::of(packed)
            .ok_or_else(|| io::Error::other("bzip2 did not make one block of a block's bytes"))?;
        Ok(())
    }
}

/// The end of what was joined so far.
#[derive(Debug, Default)]
pub(super) struct Bits {
    /// What does not fill a byte, from the highest bit on.
    rest: [u8; 1],
    /// How many of them count, 0 to 7.
    count: usize,
}

impl Bits {
    /// Adds the first `bits` bits of `bytes`; whole bytes go to `out`.
    pub(super) fn push(&mut self, bytes: &[u8], bits: usize, out: &mut Vec<u8>) {
        let (whole, odd) = bytes.split_at(bits / 8);
        let [mut rest] = self.rest;
        if self.count == 0 {
            out.extend_from_slice(whole);
        } else {
            let shift = self.count;
            out.extend(whole.iter().map(|byte| {
                let joined = rest | byte >> shift;
                rest = byte << (8 - shift);
                joined
            }));
        }
        let more = bits % 8;
        if let (Some(byte), 1..) = (odd.first(), more) {
            let byte = byte & !(0xff >> more);
            rest |= byte >> self.count;
            self.count += more;
            if self.count >= 8 {
                out.push(rest);
                self.count -= 8;
                rest = if self.count == 0 {
                    0
                } else {
                    byte << (more - self.count)
                };
            }
        }
        self.rest = [rest];
    }

    /// The last byte, filled with zeroes, if there is one.
    pub(super) fn rest(&self) -> &[u8] {
        &self.rest[..usize::from(self.count > 0)]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn runs_are_counted_as_the_format_shortens_them() {
        for (length, shortened) in [
            (1, 1),
            (3, 3),
            (4, 5),
            (5, 5),
            (255, 5),
            (256, 6),
            (260, 10),
        ] {
            let mut runs = Runs::default();
            assert!((0..length).all(|_| runs.add(7, 100)));
            assert_eq!(runs.shortened, shortened, "{length}");
        }
        let mut runs = Runs::default();
        // No room for a fourth byte with its count.
        assert!((0..3).all(|_| runs.add(7, 4)) && !runs.add(7, 4) && runs.add(8, 4));
        assert!(!runs.add(9, 4));
    }

    /// As full as a block can be, of bytes whose runs are shortened to more or to
    /// less: the library makes one block of it, and two of what is a little more.
    #[test]
    fn a_block_is_cut_where_the_library_cuts() {
        let patterns: [fn(usize) -> u8; 4] = [
            |place| u8::try_from(place % 251).expect("small"),
            |place| u8::try_from(place / 4 % 251).expect("small"),
            |place| u8::try_from(place / 5 % 251).expect("small"),
            |place| u8::try_from(place / 259 % 251).expect("small"),
        ];
        for pattern in patterns {
            let bytes: Vec<u8> = (0..6_000_000).map(pattern).collect();
            let mut stream = Stream::new(1);
            let mut length = 0;
            while length < bytes.len() && stream.runs.add(bytes[length], stream.capacity()) {
                length += 1;
            }
            let extent = |length: usize| {
                let mut raw = Compress::new(Compression::new(1), WORK_FACTOR);
                let mut packed = Vec::with_capacity(1 << 20);
                let status = raw.compress_vec(&bytes[..length], &mut packed, Action::Finish);
                assert_eq!(status.expect("compressed"), Status::StreamEnd);
                Extent::of(&packed)
            };
            assert!(extent(length).is_some(), "{length}");
            assert!(extent(length + 1_000).is_none(), "{length}");
        }
    }

    fn bits_of(bytes: &[u8]) -> Vec<bool> {
        let bits = |byte: &u8| {
            let byte = *byte;
            (0..8).rev().map(move |bit| byte >> bit & 1 == 1)
        };
        bytes.iter().flat_map(bits).collect()
    }

    proptest! {
        #[test]
        fn bits_are_joined_in_their_order(
            pieces in prop::collection::vec(
                (prop::collection::vec(any::<u8>(), 1..6), any::<prop::sample::Index>()), 0..9)
        ) {
            let mut expected = Vec::new();
            let (mut bits, mut out) = (Bits::default(), Vec::new());
            for (bytes, length) in &pieces {
                let length = length.index(bytes.len() * 8 + 1);
                bits.push(bytes, length, &mut out);
                expected.extend_from_slice(&bits_of(bytes)[..length]);
            }
            out.extend_from_slice(bits.rest());
            let joined = bits_of(&out);
            prop_assert!(joined.len() - expected.len() < 8);
            prop_assert!(!joined[expected.len()..].contains(&true));
            prop_assert_eq!(&joined[..expected.len()], &expected);
        }
    }
}
