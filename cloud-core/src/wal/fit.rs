//! Whether the content of a file is the segment its name promises.
//!
//! A segment has exactly the size its first page names; a shorter file is the
//! beginning of one, and would be taken for the end of the WAL. That is the
//! one thing a reader cannot find out later, so it is told apart from what the
//! server notices by itself: pages of another position, timeline or cluster.

use std::fmt;

use super::page::SegmentIdentity;
use super::{SegmentSize, WalName};

/// What the content of a segment (or of a `.partial`) is, judged by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fit {
    /// It is that segment, in full length.
    Segment(SegmentIdentity),
    /// It has the length of a segment, but is not this one.
    Doubtful(Misfit),
    /// It is no whole segment.
    Unfit(Misfit),
}

/// Why content and name do not go together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Misfit {
    /// No server has segments of this size, in bytes.
    Size(u64),
    /// The first page names another size than the file has, both in bytes.
    Cut {
        /// Size of the file.
        size: u64,
        /// Size the first page names.
        expected: SegmentSize,
    },
    /// It does not begin with the first page of a segment.
    NoWal,
    /// The first page is that of another segment.
    Other(SegmentIdentity),
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size(size) => write!(f, "its {size} bytes are not the size of a WAL segment"),
            Self::Cut { size, expected } => write!(
                f,
                "it has {size} bytes where its first page names a segment of {}",
                expected.get()
            ),
            Self::NoWal => f.write_str("it does not begin with a WAL page"),
            Self::Other(identity) => write!(
                f,
                "its first page is that of {} on timeline {}",
                identity.start, identity.timeline
            ),
        }
    }
}

/// Compares the name of a segment or `.partial` with the size of a file and
/// its first bytes, at least `page::LONG_HEADER_LEN` of them.
pub fn judge(name: &WalName, size: u64, first_page: &[u8]) -> Fit {
    let identity = SegmentIdentity::of(first_page);
    if let Some(identity) = identity
        && identity.segment_size.get() != size
    {
        return Fit::Unfit(Misfit::Cut {
            size,
            expected: identity.segment_size,
        });
    }
    if SegmentSize::new(size).is_none() {
        return Fit::Unfit(Misfit::Size(size));
    }
    let Some(identity) = identity else {
        return Fit::Doubtful(Misfit::NoWal);
    };
    // The first segment of a timeline begins with pages of its ancestors.
    let in_place = name.start(identity.segment_size) == Some(identity.start)
        && identity.timeline <= name.timeline();
    if in_place {
        Fit::Segment(identity)
    } else {
        Fit::Doubtful(Misfit::Other(identity))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: &[u8] = include_bytes!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/golden/wal/000000010000000000000006"
    ));
    const MIB: u64 = 1 << 20;

    fn judge_golden(name: &str, size: u64) -> Fit {
        judge(&name.parse().expect("a valid name"), size, &GOLDEN[..40])
    }

    #[test]
    fn a_segment_fits_its_own_name_only() {
        for name in [
            "000000010000000000000006",
            "000000010000000000000006.partial",
            // Timeline 2 begins with a copy of the segment it forked in.
            "000000020000000000000006",
        ] {
            assert!(matches!(judge_golden(name, MIB), Fit::Segment(_)), "{name}");
        }
        for name in ["000000010000000000000007", "000000010000000100000006"] {
            assert!(
                matches!(judge_golden(name, MIB), Fit::Doubtful(Misfit::Other(_))),
                "{name}"
            );
        }
    }

    #[test]
    fn any_other_size_than_the_segments_own_is_unfit() {
        let name = "000000010000000000000006";
        for size in [0, 1, MIB / 2, MIB - 1, MIB + 1, 2 * MIB, 16 * MIB] {
            let fit = judge_golden(name, size);
            assert!(matches!(fit, Fit::Unfit(Misfit::Cut { .. })), "{size}");
        }
    }

    #[test]
    fn without_a_header_only_the_size_can_be_judged() {
        let name = "000000010000000000000006".parse().expect("a valid name");
        let judge = |size| judge(&name, size, b"not WAL");
        assert_eq!(judge(16 * MIB), Fit::Doubtful(Misfit::NoWal));
        for size in [0, 7, MIB / 2, 3 * MIB, 2048 * MIB] {
            assert_eq!(judge(size), Fit::Unfit(Misfit::Size(size)));
        }
    }

    #[test]
    fn a_page_of_a_later_timeline_does_not_fit_an_earlier_name() {
        let mut page = GOLDEN[..40].to_vec();
        page[4] = 3;
        let fit = judge(
            &"000000020000000000000006".parse().expect("valid"),
            MIB,
            &page,
        );
        assert!(matches!(fit, Fit::Doubtful(Misfit::Other(_))));
    }
}
