//! Cuts bzip2 streams where blocks seem to begin and streams to end.
//!
//! A block says neither where it ends nor how long it is. All that shows is the mark that it
//! begins with, 48 bits at any place within a byte; another mark stands at the end of a stream.

use std::io::{self, BufRead};

use super::super::guard::corrupt;

/// Mark of a block, which its checksum follows.
pub(super) const BLOCK: u64 = 0x3141_5926_5359;

/// Mark of a stream's end, which the checksum of the checksums follows.
pub(super) const END: u64 = 0x1772_4538_5090;

/// Bits of a mark.
pub(super) const MARK: usize = 48;

/// Longest piece, in bytes. The longest block has some 2.3 MB: each of its 900,000 symbols has
/// at most 20 bits, and there are the numbers of 18,000 tables before.
const LONGEST: usize = 5 << 19;

/// Bytes by which the memory of a piece grows, no fewer than are read at a time. Most have as
/// many as those before them, whose memory they get.
const GROWTH: usize = 128 << 10;

/// What a piece begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It is the first one: the header of the first stream.
    Head,
    /// The mark of a block.
    Block,
    /// The mark of an end.
    End,
}

/// What is between two marks, with the first of them.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) kind: Kind,
    /// Its bits, the first of them highest in the first byte; zeroes behind the last one.
    pub(super) bytes: Vec<u8>,
    /// How many they are.
    pub(super) bits: usize,
    /// How many bits before it are in the byte that it begins in, 0 to 7.
    pub(super) shift: usize,
    /// Nothing follows.
    pub(super) last: bool,
}

impl Piece {
    /// Up to 64 of its bits, from a place on; the last one is the lowest. `None` if there are
    /// not as many.
    pub(super) fn field(&self, from: usize, bits: usize) -> Option<u64> {
        if from + bits > self.bits {
            return None;
        }
        let bytes = self.bytes[from / 8..].iter().take(9);
        let (mut value, mut count) = (0_u128, 0);
        for byte in bytes {
            value = value << 8 | u128::from(*byte);
            count += 8;
        }
        let value = value >> (count - from % 8 - bits) & ((1 << bits) - 1);
        u64::try_from(value).ok()
    }
}

/// For each value of a byte, at which shifts it can be the third byte from the end of what a
/// mark stands in: so that few places have to be looked at twice.
static SEEN: [u8; 256] = seen();

const fn seen() -> [u8; 256] {
    let mut seen = [0; 256];
    let mut shift = 0;
    while shift < 8 {
        seen[(BLOCK << shift).to_be_bytes()[5] as usize] |= 1 << shift;
        seen[(END << shift).to_be_bytes()[5] as usize] |= 1 << shift;
        shift += 1;
    }
    seen
}

/// Cuts what it reads.
pub(super) struct Cutter<R> {
    input: R,
    /// Which bits of a mark are looked at. All of them but in tests.
    mask: u64,
    /// The piece that is being read, from the byte that it begins in.
    bytes: Vec<u8>,
    /// What the next one is read to.
    spare: Vec<u8>,
    shift: usize,
    kind: Kind,
    /// The bits that were read last.
    window: u64,
    over: bool,
}

impl<R: BufRead> Cutter<R> {
    pub(super) fn new(input: R) -> Self {
        Self {
            input,
            mask: (1 << MARK) - 1,
            bytes: Vec::new(),
            spare: Vec::new(),
            shift: 0,
            kind: Kind::Head,
            window: 0,
            over: false,
        }
    }

    /// Takes for a mark what has these bits of one.
    #[cfg(test)]
    pub(super) fn with_mask(mut self, mask: u64) -> Self {
        self.mask = mask;
        self
    }

    /// Takes back a piece that is not wanted any more, for its memory.
    pub(super) fn again(&mut self, piece: Piece) {
        self.spare = piece.bytes;
    }

    /// The next piece. The first one is always there, be it empty.
    pub(super) fn next(&mut self) -> io::Result<Option<Piece>> {
        if self.over {
            return Ok(None);
        }
        loop {
            let input = match self.input.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                input => input?,
            };
            if input.is_empty() {
                self.over = true;
                return Ok(Some(self.cut(self.bytes.len() * 8, self.kind, true)));
            }
            let mut found = None;
            let mut window = self.window;
            let mut taken = input.len();
            for (at, byte) in input.iter().enumerate() {
                window = window << 8 | u64::from(*byte);
                let shifts = SEEN[usize::from(window.to_be_bytes()[5])];
                if shifts != 0
                    && let Some(mark) = mark(window, shifts, self.mask)
                {
                    (found, taken) = (Some(mark), at + 1);
                    break;
                }
            }
            self.window = window;
            if self.bytes.capacity() - self.bytes.len() < taken {
                // Not twice as much, which would be a megabyte that is not used.
                self.bytes.reserve_exact(GROWTH);
            }
            self.bytes.extend_from_slice(&input[..taken]);
            self.input.consume(taken);
            if let Some((behind, kind)) = found {
                let end = (self.bytes.len() * 8).checked_sub(behind + MARK);
                // What was read before this piece is not looked at again.
                if let Some(end) = end.filter(|end| *end >= self.shift) {
                    return Ok(Some(self.cut(end, kind, false)));
                }
            }
            if self.bytes.len() > LONGEST {
                return Err(corrupt("a bzip2 block has no end"));
            }
        }
    }

    /// Ends the piece before this bit of its bytes; another one begins there.
    fn cut(&mut self, end: usize, next: Kind, last: bool) -> Piece {
        let shift = self.shift;
        let bits = end - shift;
        // The next one begins in the byte that this one ends in.
        let mut next_bytes = std::mem::take(&mut self.spare);
        next_bytes.clear();
        next_bytes.extend_from_slice(&self.bytes[end / 8..]);
        let mut bytes = std::mem::replace(&mut self.bytes, next_bytes);
        bytes.truncate(end.div_ceil(8));
        if shift > 0 {
            for at in 0..bytes.len() {
                let below = bytes.get(at + 1).map_or(0, |byte| byte >> (8 - shift));
                bytes[at] = bytes[at] << shift | below;
            }
        }
        bytes.truncate(bits.div_ceil(8));
        if let (Some(byte), 1..) = (bytes.last_mut(), bits % 8) {
            *byte &= !(0xff >> (bits % 8));
        }
        self.shift = end % 8;
        let kind = std::mem::replace(&mut self.kind, next);
        Piece {
            kind,
            bytes,
            bits,
            shift,
            last,
        }
    }
}

/// The first mark that ends within the last byte, and how many bits are behind it.
fn mark(window: u64, shifts: u8, mask: u64) -> Option<(usize, Kind)> {
    (0..8).rev().find_map(|behind| {
        if shifts >> behind & 1 == 0 {
            return None;
        }
        let bits = window >> behind;
        if (bits ^ BLOCK) & mask == 0 {
            Some((behind, Kind::Block))
        } else if (bits ^ END) & mask == 0 {
            Some((behind, Kind::End))
        } else {
            None
        }
    })
}
