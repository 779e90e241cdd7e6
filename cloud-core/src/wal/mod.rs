//! Names and numbers of write-ahead log: segments, timelines, positions.
//!
//! Pure values, without files or stores.

pub mod blocks;
pub mod fit;
mod history;
mod name;
pub mod page;
pub mod record;
pub mod seam;

use std::fmt;
use std::str::FromStr;

pub use history::{History, HistoryError, Stretch};
pub use name::{InvalidWalName, WalKind, WalName};

/// The 32-bit number of a timeline, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimelineId(pub u32);

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A position in the WAL, in bytes since its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// A text that is no LSN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an LSN (two hexadecimal numbers with a slash between, such as 16/B374D848)")]
pub struct InvalidLsn(pub String);

impl FromStr for Lsn {
    type Err = InvalidLsn;

    fn from_str(text: &str) -> Result<Self, InvalidLsn> {
        let half = |part: &str| {
            let hex =
                !part.is_empty() && part.len() <= 8 && part.bytes().all(|b| b.is_ascii_hexdigit());
            hex.then(|| u64::from_str_radix(part, 16).ok()).flatten()
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Self(half(high)? << 32 | half(low)?)))
            .ok_or_else(|| InvalidLsn(text.to_owned()))
    }
}

/// The size of a WAL segment in bytes: a power of two from 1 MiB to 1 GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentSize(u64);

impl SegmentSize {
    /// 16 MiB, what `initdb` chooses.
    pub const DEFAULT: Self = Self(16 << 20);

    /// `None` if no server can have segments of that size.
    pub fn new(bytes: u64) -> Option<Self> {
        (bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&bytes)).then_some(Self(bytes))
    }

    /// The size in bytes.
    pub fn get(self) -> u64 {
        self.0
    }

    /// Where in its segment `lsn` lies, in bytes. A position on a boundary is
    /// the beginning of the new segment.
    pub fn offset(self, lsn: Lsn) -> u64 {
        lsn.0 % self.0
    }

    /// How many segments have the same "log" number, the middle of a name.
    fn per_log(self) -> u64 {
        (1 << 32) / self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_lsn_is_two_hexadecimal_numbers() {
        for (text, value) in [
            ("0/0", 0),
            ("16/B374D848", 0x16_B374_D848),
            ("FFFFFFFF/FFFFFFFF", u64::MAX),
        ] {
            assert_eq!(text.parse(), Ok(Lsn(value)), "{text}");
            assert_eq!(Lsn(value).to_string(), text);
        }
        for text in [
            "",
            "1",
            "/",
            "1/",
            "/1",
            "g/1",
            "1/123456789",
            "+1/2",
            "1/2/3",
        ] {
            assert!(text.parse::<Lsn>().is_err(), "{text}");
        }
    }

    #[test]
    fn segment_sizes_are_powers_of_two_within_the_servers_bounds() {
        assert_eq!(SegmentSize::new(16 << 20), Some(SegmentSize::DEFAULT));
        for bytes in [0, 1, 1 << 19, (1 << 20) + 1, 1 << 31] {
            assert_eq!(SegmentSize::new(bytes), None, "{bytes}");
        }
    }
}
