//! What calls and helper tell each other: which segment was asked for last, and why
//! nothing is fetched ahead any more.
//!
//! Both are sealed texts in the spool's folder, replaced as a whole. They are only
//! hints: whoever believes a wrong one fetches what nobody needs, or nothing.

use super::super::folder::sealed::{Opened, Sealing};
use crate::wal::{SegmentSize, WalKind, WalName};

const WANTED: &str = "barman-cloud wanted WAL 1";
const ENDED: &str = "barman-cloud end of prefetch 1";

/// The segment that the server was given last, and how far to look ahead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Archive and run of the server, in words of the spool's.
    pub(super) place: String,
    pub(super) name: WalName,
    pub(super) size: SegmentSize,
    /// Segments to have ready after it.
    pub(super) ahead: u32,
}

impl Wanted {
    pub(super) fn to_text(&self) -> String {
        let mut text = Sealing::new(WANTED);
        text.line("place", &self.place);
        text.line("name", &self.name);
        text.line("size", self.size.get());
        text.line("ahead", self.ahead);
        text.seal()
    }

    /// `None` if it is not exactly a text that [`to_text`](Self::to_text) made.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut lines = Opened::open(WANTED, text)?;
        let wanted = Self {
            place: lines.take("place")?,
            name: lines.take("name")?.parse().ok()?,
            size: SegmentSize::new(lines.take("size")?.parse().ok()?)?,
            ahead: lines.take("ahead")?.parse().ok()?,
        };
        (lines.is_over() && wanted.name.kind() == WalKind::Segment).then_some(wanted)
    }

    /// The names of the segments to have ready, in their order.
    pub(super) fn following(&self) -> Vec<WalName> {
        let next = |name: &WalName| name.next(self.size);
        std::iter::successors(next(&self.name), next)
            .take(self.ahead as usize)
            .collect()
    }
}

/// Why nothing more is fetched ahead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) place: String,
    pub(super) why: Why,
}

/// The reasons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Why {
    /// The archive has no such segment, and so nothing that can be replayed after it.
    Absent(WalName),
    /// In words for people, without secrets.
    Trouble(String),
}

impl Ended {
    pub(super) fn to_text(&self) -> String {
        let mut text = Sealing::new(ENDED);
        text.line("place", &self.place);
        match &self.why {
            Why::Absent(name) => text.line("absent", name),
            Why::Trouble(what) => text.line("trouble", what),
        }
        text.seal()
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut lines = Opened::open(ENDED, text)?;
        let place = lines.take("place")?;
        let why = match lines.take("absent") {
            Some(name) => Why::Absent(name.parse().ok()?),
            None => Why::Trouble(lines.take("trouble")?),
        };
        lines.is_over().then_some(Self { place, why })
    }

    /// Whether what ended the last helper would end another one, that begins after
    /// `name`, as soon.
    pub(super) fn concerns(&self, place: &str, name: &WalName) -> bool {
        self.place == place
            && match &self.why {
                Why::Absent(absent) => {
                    absent.timeline() == name.timeline() && name.as_str() < absent.as_str()
                }
                Why::Trouble(_) => true,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> WalName {
        text.parse().expect("a valid name")
    }

    fn wanted(text: &str, mib: u64, ahead: u32) -> Wanted {
        Wanted {
            place: "place".into(),
            name: name(text),
            size: SegmentSize::new(mib << 20).expect("a size"),
            ahead,
        }
    }

    #[test]
    fn what_follows_depends_on_the_size_of_segments() {
        for (first, mib, expected) in [
            (
                "0000000100000000000000FE",
                16,
                ["0000000100000000000000FF", "000000010000000100000000"],
            ),
            (
                "000000010000000000000FFE",
                1,
                ["000000010000000000000FFF", "000000010000000100000000"],
            ),
            (
                "00000001000000000000003E",
                64,
                ["00000001000000000000003F", "000000010000000100000000"],
            ),
            (
                "000000010000000000000002",
                1024,
                ["000000010000000000000003", "000000010000000100000000"],
            ),
        ] {
            let following = wanted(first, mib, 2).following();
            let following: Vec<&str> = following.iter().map(WalName::as_str).collect();
            assert_eq!(following, expected, "{mib} MiB");
        }
        assert_eq!(wanted("000000010000000000000006", 16, 0).following(), []);
        // Not a number of such a segment.
        assert_eq!(wanted("0000000100000000000000FF", 1024, 3).following(), []);
    }

    #[test]
    fn texts_are_read_back_and_damaged_ones_are_none() {
        let wanted = wanted("000000010000000000000006", 16, 7);
        assert_eq!(Wanted::parse(&wanted.to_text()), Some(wanted.clone()));
        let of = |why| Ended {
            place: "place".into(),
            why,
        };
        for ended in [
            of(Why::Absent(name("000000010000000000000006"))),
            of(Why::Trouble("it\nfailed".into())),
        ] {
            let text = ended.to_text();
            assert_eq!(Ended::parse(&text), Some(ended));
            assert_eq!(Wanted::parse(&text), None);
            for cut in 0..text.len() {
                assert_eq!(Ended::parse(&text[..cut]), None, "cut at {cut}");
            }
        }
        let partial = Wanted {
            name: name("000000010000000000000006.partial"),
            ..wanted.clone()
        };
        assert_eq!(Wanted::parse(&partial.to_text()), None);
        let text = wanted.to_text();
        for cut in 0..text.len() {
            assert_eq!(Wanted::parse(&text[..cut]), None, "cut at {cut}");
        }
    }

    #[test]
    fn the_end_of_the_archive_concerns_what_comes_before_it_on_its_timeline() {
        let ended = Ended {
            place: "place".into(),
            why: Why::Absent(name("000000010000000000000008")),
        };
        let of_the_next = Ended {
            why: Why::Absent(name("000000020000000000000008")),
            ..ended.clone()
        };
        assert!(!of_the_next.concerns("place", &name("000000010000000000000007")));
        for (place, asked, concerns) in [
            ("place", "000000010000000000000007", true),
            ("place", "000000010000000000000008", false),
            ("place", "000000020000000000000007", false),
            ("other", "000000010000000000000007", false),
        ] {
            assert_eq!(
                ended.concerns(place, &name(asked)),
                concerns,
                "{place} {asked}"
            );
        }
    }
}
