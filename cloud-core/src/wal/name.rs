//! Names of the files a server archives.

use std::fmt;
use std::str::FromStr;

use super::{Lsn, SegmentSize, TimelineId};

/// The base name of a WAL file, as the server spelled it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WalName {
    text: String,
    kind: WalKind,
    timeline: TimelineId,
    /// The middle number of the name; absent for history files.
    log: Option<u32>,
    segment: Option<u32>,
}

/// What a WAL file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WalKind {
    /// A segment: `000000010000000000000006`.
    Segment,
    /// The end of a timeline, cut off by a promotion: `….partial`.
    Partial,
    /// The backup history file of a base backup: `….00000028.backup`.
    Backup,
    /// A timeline history file: `00000002.history`.
    History,
}

/// A text that names no WAL file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is an invalid name for a WAL file")]
pub struct InvalidWalName(pub String);

impl FromStr for WalName {
    type Err = InvalidWalName;

    fn from_str(text: &str) -> Result<Self, InvalidWalName> {
        Self::read(text).ok_or_else(|| InvalidWalName(text.to_owned()))
    }
}

impl WalName {
    fn read(text: &str) -> Option<Self> {
        let timeline = TimelineId(hex(text.get(..8)?)?);
        let rest = &text[8..];
        let name = |kind, log, segment| Self {
            text: text.to_owned(),
            kind,
            timeline,
            log,
            segment,
        };
        if rest == ".history" {
            return Some(name(WalKind::History, None, None));
        }
        let (log, segment) = (hex(rest.get(..8)?)?, hex(rest.get(8..16)?)?);
        let kind = match &rest[16..] {
            "" => WalKind::Segment,
            ".partial" => WalKind::Partial,
            other => {
                let offset = other.strip_prefix('.')?.strip_suffix(".backup")?;
                (offset.len() == 8).then(|| hex(offset)).flatten()?;
                WalKind::Backup
            }
        };
        Some(name(kind, Some(log), Some(segment)))
    }

    /// The history file of a timeline.
    pub fn history_of(timeline: TimelineId) -> Self {
        Self {
            text: format!("{:08X}.history", timeline.0),
            kind: WalKind::History,
            timeline,
            log: None,
            segment: None,
        }
    }

    /// The segment that `lsn` lies in.
    pub fn segment_of(timeline: TimelineId, lsn: Lsn, size: SegmentSize) -> Self {
        Self::of_number(timeline, lsn.0 / size.get(), size)
    }

    /// The segment of this number, which are counted from the beginning of the WAL.
    pub fn of_number(timeline: TimelineId, number: u64, size: SegmentSize) -> Self {
        let low = |value: u64| u32::try_from(value & 0xFFFF_FFFF).expect("it was masked");
        let (log, segment) = (low(number / size.per_log()), low(number % size.per_log()));
        Self {
            text: format!("{:08X}{log:08X}{segment:08X}", timeline.0),
            kind: WalKind::Segment,
            timeline,
            log: Some(log),
            segment: Some(segment),
        }
    }

    /// The name as it was spelled.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What the file is.
    pub fn kind(&self) -> WalKind {
        self.kind
    }

    /// The timeline at the beginning of the name.
    pub fn timeline(&self) -> TimelineId {
        self.timeline
    }

    /// The directory of the archive that holds the file: sixteen upper-case
    /// digits; history files have none.
    pub fn directory(&self) -> Option<String> {
        self.log
            .map(|log| format!("{:08X}{log:08X}", self.timeline.0))
    }

    /// Where the segment begins in the WAL, for segments, `.partial` and
    /// `.backup` files; `None` for history files and for a number that segments
    /// of this size cannot have.
    pub fn start(&self, size: SegmentSize) -> Option<Lsn> {
        let (log, segment) = (u64::from(self.log?), u64::from(self.segment?));
        (segment < size.per_log()).then(|| Lsn((log * size.per_log() + segment) * size.get()))
    }

    /// The number of the segment, counted from the beginning of the WAL; as
    /// [`start`](Self::start).
    pub fn number(&self, size: SegmentSize) -> Option<u64> {
        Some(self.start(size)?.0 / size.get())
    }

    /// The segment after this one on the same timeline.
    pub fn next(&self, size: SegmentSize) -> Option<Self> {
        let next = self.start(size)?.0.checked_add(size.get())?;
        Some(Self::segment_of(self.timeline, Lsn(next), size))
    }
}

impl fmt::Display for WalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn hex(text: &str) -> Option<u32> {
    text.bytes()
        .all(|b| b.is_ascii_hexdigit())
        .then(|| u32::from_str_radix(text, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIXTEEN: SegmentSize = SegmentSize::DEFAULT;

    #[test]
    fn every_kind_of_name_is_told_apart() {
        for (text, kind, directory) in [
            (
                "000000010000000A00000006",
                WalKind::Segment,
                Some("000000010000000A"),
            ),
            (
                "000000010000000a00000006",
                WalKind::Segment,
                Some("000000010000000A"),
            ),
            (
                "000000020000000000000001.partial",
                WalKind::Partial,
                Some("0000000200000000"),
            ),
            (
                "000000010000000000000006.00000028.backup",
                WalKind::Backup,
                Some("0000000100000000"),
            ),
            ("00000002.history", WalKind::History, None),
        ] {
            let name: WalName = text.parse().unwrap();
            assert_eq!(name.kind(), kind, "{text}");
            assert_eq!(name.directory().as_deref(), directory, "{text}");
            assert_eq!(name.as_str(), text);
        }
    }

    #[test]
    fn other_names_are_refused() {
        for text in [
            "",
            "foo",
            "foo.txt",
            "00000001",
            "0000000100000000000000",
            "00000001000000000000000G",
            "0000000100000000000000061",
            "000000010000000000000006.gz",
            "000000010000000000000006.28.backup",
            "000000010000000000000006.00000028.backup.partial",
            "00000002.history.gz",
            "000000010000000000000006.partial.partial",
            "+00000010000000000000006",
            "0000000ä0000000000000006",
        ] {
            assert!(text.parse::<WalName>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_history_file_is_called_by_its_timeline() {
        let name = WalName::history_of(TimelineId(0x1A));
        assert_eq!(name.as_str(), "0000001A.history");
        assert_eq!(name.as_str().parse(), Ok(name));
    }

    #[test]
    fn segments_are_counted_by_their_size() {
        let lsn = "1/4000028".parse().unwrap();
        let name = WalName::segment_of(TimelineId(1), lsn, SIXTEEN);
        assert_eq!(name.as_str(), "000000010000000100000004");
        assert_eq!(name.start(SIXTEEN), Some("1/4000000".parse().unwrap()));
        assert_eq!(name.number(SIXTEEN), Some(0x104));
        assert_eq!(WalName::of_number(TimelineId(1), 0x104, SIXTEEN), name);
        let small = SegmentSize::new(1 << 20).unwrap();
        assert_eq!(
            WalName::segment_of(TimelineId(1), lsn, small).as_str(),
            "000000010000000100000040"
        );
    }

    #[test]
    fn the_next_segment_crosses_the_log_number() {
        let last: WalName = "0000000200000000000000FF".parse().unwrap();
        assert_eq!(
            last.next(SIXTEEN).unwrap().as_str(),
            "000000020000000100000000"
        );
        let gib = SegmentSize::new(1 << 30).unwrap();
        let name: WalName = "000000010000000000000003".parse().unwrap();
        assert_eq!(name.next(gib).unwrap().as_str(), "000000010000000100000000");
        assert_eq!(last.next(gib), None, "segments of 1 GiB have no number FF");
    }

    proptest::proptest! {
        #[test]
        fn a_position_lies_in_the_segment_it_names(lsn in proptest::num::u64::ANY, shift in 20_u32..=30) {
            let size = SegmentSize::new(1 << shift).unwrap();
            let name = WalName::segment_of(TimelineId(7), Lsn(lsn), size);
            let start = name.start(size).unwrap();
            proptest::prop_assert!(start.0 <= lsn && lsn - start.0 < size.get());
            proptest::prop_assert_eq!(start.0 + size.offset(Lsn(lsn)), lsn);
            proptest::prop_assert_eq!(name.as_str().parse::<WalName>().unwrap(), name);
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in "\\PC*") {
            let _ = text.parse::<WalName>();
        }
    }
}
