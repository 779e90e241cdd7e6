//! Ways in which stored bytes are damaged.

use std::fmt;

/// One way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// The bit of this number is another.
    Flip(usize),
    /// So many bytes are missing at the end.
    CutEnd(usize),
    /// So many bytes are missing at the beginning.
    CutStart(usize),
    /// Nothing is left.
    Empty,
    /// A zero byte follows.
    AppendZero,
    /// Other bytes follow.
    AppendGarbage,
    /// The 512 bytes from here on are there twice.
    Repeat(usize),
    /// The 512 bytes from here on are zeroes, as after a lost write.
    Blank(usize),
}

/// Bytes that are repeated or blanked at once: a sector.
const SECTOR: usize = 512;

impl Damage {
    /// The bytes after it.
    ///
    /// # Panics
    ///
    /// If it lies beyond the end.
    pub fn of(self, whole: &[u8]) -> Vec<u8> {
        let mut bytes = whole.to_vec();
        let sector = |at: usize| at..(at + SECTOR).min(whole.len());
        match self {
            Self::Flip(bit) => bytes[bit / 8] ^= 1 << (bit % 8),
            Self::CutEnd(count) => bytes.truncate(bytes.len() - count),
            Self::CutStart(count) => drop(bytes.drain(..count)),
            Self::Empty => bytes.clear(),
            Self::AppendZero => bytes.push(0),
            Self::AppendGarbage => bytes.extend_from_slice(b"\x1f\x8b garbage \xff"),
            Self::Repeat(at) => {
                let again = bytes[sector(at)].to_vec();
                bytes.splice(at..at, again);
            }
            Self::Blank(at) => bytes[sector(at)].fill(0),
        }
        bytes
    }

    /// Damages of every way for an object of `length` bytes: flips of the first and
    /// last bit, of the middle and of `flips` more, places chosen by `rng`.
    pub fn every_way(length: usize, flips: usize, rng: &mut fastrand::Rng) -> Vec<Self> {
        assert!(length > 2, "there is something to damage");
        let bits = length * 8;
        let mut ways = vec![
            Self::Flip(0),
            Self::Flip(bits / 2),
            Self::Flip(bits - 1),
            Self::CutEnd(1),
            Self::CutEnd(length / 2),
            Self::CutStart(1),
            Self::Empty,
            Self::AppendZero,
            Self::AppendGarbage,
            Self::Repeat(rng.usize(..length)),
            Self::Blank(rng.usize(..length)),
        ];
        ways.extend((0..flips).map(|_| Self::Flip(rng.usize(..bits))));
        ways
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}
