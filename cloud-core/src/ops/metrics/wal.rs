//! The listing of a WAL archive, folded while it comes in (M2).
//!
//! Of segments that follow each other only the first and the last are kept, so that what is
//! held grows with the holes and the directories and not with the archive. Order does not matter.
//! A name alone does not say how large a segment is, and so not which one follows the last of a
//! directory: that is asked of the records of base backups, which are read afterwards.

use std::collections::BTreeMap;
use std::time::SystemTime;

use futures_util::StreamExt;
use jiff::Timestamp;

use super::snapshot::{Segment, TimelineWal};
use crate::catalogue::layout::Layout;
use crate::catalogue::load::wal_of_key;
use crate::codec;
use crate::key::Key;
use crate::store::{self, Depth, ObjectMeta, ObjectStore, StoreError};
use crate::wal::{SegmentSize, TimelineId, WalKind, WalName};

/// Most objects, timelines and runs of segments: beyond that a bucket lists them for no good.
const MOST_FILES: u64 = 10_000_000;
const MOST_TIMELINES: usize = 1000;
const MOST_RUNS: usize = 1_000_000;

/// Numbers that follow each other, and when the objects of the first and the last were written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) first_at: Option<Timestamp>,
    pub(super) last_at: Option<Timestamp>,
}

/// Runs by their first number, none of which touches another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Runs(BTreeMap<u64, Run>);

impl Runs {
    /// Adds numbers of which none is in it, or a single one that may be.
    fn add(&mut self, mut run: Run) {
        if let Some((_, before)) = self.0.range_mut(..=run.first).next_back() {
            if run.last <= before.last {
                // Another form of the same segment.
                if run.last == before.last {
                    before.last_at = before.last_at.max(run.last_at);
                }
                return;
            }
            if before.last.checked_add(1) == Some(run.first) {
                run = Run {
                    last: run.last,
                    last_at: run.last_at,
                    ..*before
                };
            }
        }
        let behind = run.last.checked_add(1);
        if let Some(behind) = behind.and_then(|first| self.0.remove(&first)) {
            run.last = behind.last;
            run.last_at = behind.last_at;
        }
        self.0.insert(run.first, run);
    }

    /// The run that `number` is in.
    pub(super) fn around(&self, number: u64) -> Option<&Run> {
        let (_, run) = self.0.range(..=number).next_back()?;
        (number <= run.last).then_some(run)
    }

    /// The first run that begins at `number` or behind it.
    pub(super) fn from(&self, number: u64) -> Option<&Run> {
        self.0.range(number..).next().map(|(_, run)| run)
    }

    /// The last run.
    pub(super) fn newest(&self) -> Option<&Run> {
        self.0.last_key_value().map(|(_, run)| run)
    }

    fn segments(&self) -> u64 {
        self.0.values().map(|run| run.last - run.first + 1).sum()
    }
}

/// What is there of a timeline.
#[derive(Debug, Default)]
struct Line {
    files: u64,
    bytes: u64,
    /// By both numbers of the name, one behind the other.
    runs: Runs,
    /// The history file, with the suffix of its codec, in all its forms.
    histories: Vec<(ObjectMeta, String)>,
}

/// A WAL archive as its listing tells of it.
#[derive(Debug, Default)]
pub(super) struct Listing {
    lines: BTreeMap<TimelineId, Line>,
    /// When the newest object of a segment was written.
    pub(super) last_archived: Option<Timestamp>,
}

/// The same with numbers that are counted from the beginning of the WAL.
#[derive(Debug, Default)]
pub(super) struct Numbered(BTreeMap<TimelineId, Runs>);

impl Listing {
    /// Lists the archive.
    pub(super) async fn read(store: &dyn ObjectStore, layout: &Layout) -> Result<Self, StoreError> {
        let prefix = layout.wals();
        let suffixes = codec::suffixes();
        let mut listing = Self::default();
        let mut pages = store.list(&prefix, Depth::All);
        let (mut files, mut runs) = (0_u64, 0);
        while let Some(page) = pages.next().await {
            for object in page?.objects {
                files += 1;
                runs += listing.add(&object, &suffixes);
            }
            let counts = [
                (
                    files > MOST_FILES,
                    usize::try_from(MOST_FILES).unwrap_or(usize::MAX),
                ),
                (listing.lines.len() > MOST_TIMELINES, MOST_TIMELINES),
                (runs > MOST_RUNS, MOST_RUNS),
            ];
            if let Some((_, most)) = counts.into_iter().find(|(over, _)| *over) {
                return Err(store::endless(store, &prefix, most));
            }
        }
        Ok(listing)
    }

    /// Takes an object in; says how many runs and histories are held for it, at most.
    fn add(&mut self, object: &ObjectMeta, suffixes: &[&str]) -> usize {
        let Some((name, suffix)) = wal_of_key(object.key.base_name(), suffixes) else {
            return 0;
        };
        let line = self.lines.entry(name.timeline()).or_default();
        line.files += 1;
        line.bytes = line.bytes.saturating_add(object.size);
        match name.kind() {
            WalKind::Segment => {
                let at = object.modified.and_then(timestamp);
                self.last_archived = self.last_archived.max(at);
                let Some(number) = position(&name) else {
                    return 0;
                };
                let before = line.runs.0.len();
                line.runs.add(Run {
                    first: number,
                    last: number,
                    first_at: at,
                    last_at: at,
                });
                line.runs.0.len().saturating_sub(before)
            }
            WalKind::History => {
                line.histories.push((object.clone(), suffix.to_owned()));
                1
            }
            WalKind::Partial | WalKind::Backup => 0,
        }
    }

    /// The timelines that are there, newest first.
    pub(super) fn timelines(&self) -> impl Iterator<Item = TimelineId> + '_ {
        self.lines.keys().rev().copied()
    }

    /// Where the history of a timeline lies.
    pub(super) fn histories(&self, timeline: TimelineId) -> &[(ObjectMeta, String)] {
        let line = self.lines.get(&timeline);
        line.map_or(&[], |line| &line.histories)
    }

    /// The segments by number, if they have this size. Names that no such segment can have
    /// are left out.
    pub(super) fn numbered(&self, size: SegmentSize) -> Numbered {
        let per_directory = (1_u64 << 32) / size.get();
        let runs = |line: &Line| {
            let mut runs = Runs::default();
            for run in line.runs.0.values() {
                let (directory, low) = (run.first >> 32, run.first & 0xFFFF_FFFF);
                let high = (run.last & 0xFFFF_FFFF).min(per_directory - 1);
                if low <= high {
                    runs.add(Run {
                        first: directory * per_directory + low,
                        last: directory * per_directory + high,
                        ..*run
                    });
                }
            }
            runs
        };
        let lines = self.lines.iter();
        Numbered(
            lines
                .map(|(timeline, line)| (*timeline, runs(line)))
                .collect(),
        )
    }

    /// What is told of each timeline, but for the gaps.
    pub(super) fn summary(
        &self,
        numbered: &Numbered,
        size: SegmentSize,
    ) -> BTreeMap<TimelineId, TimelineWal> {
        let of_line = |(timeline, line): (&TimelineId, &Line)| {
            let runs = numbered.of(*timeline);
            let segment = |number: u64, archived| Segment {
                name: name_of(*timeline, number, size),
                start: number * size.get(),
                end: number.saturating_add(1).saturating_mul(size.get()),
                archived,
            };
            let told = TimelineWal {
                files: line.files,
                bytes: line.bytes,
                segments: runs.segments(),
                oldest: runs.from(0).map(|run| segment(run.first, run.first_at)),
                newest: runs.newest().map(|run| segment(run.last, run.last_at)),
                gaps: 0,
                missing: 0,
            };
            (*timeline, told)
        };
        self.lines.iter().map(of_line).collect()
    }
}

impl Numbered {
    /// The segments of a timeline.
    pub(super) fn of(&self, timeline: TimelineId) -> &Runs {
        static NONE: Runs = Runs(BTreeMap::new());
        self.0.get(&timeline).unwrap_or(&NONE)
    }
}

/// The places of a history file for who reads it.
pub(super) fn places(histories: &[(ObjectMeta, String)]) -> Vec<(Key, String)> {
    let place = |(object, suffix): &(ObjectMeta, String)| (object.key.clone(), suffix.clone());
    let mut places: Vec<_> = histories.iter().map(place).collect();
    places.sort();
    places
}

/// The name of the segment of a number.
pub(super) fn name_of(timeline: TimelineId, number: u64, size: SegmentSize) -> String {
    WalName::of_number(timeline, number, size)
        .as_str()
        .to_owned()
}

/// Both numbers of the name of a segment, one behind the other; `None` if segments of no size
/// have such a name.
fn position(name: &WalName) -> Option<u64> {
    let smallest = SegmentSize::new(1 << 20)?;
    name.number(smallest)?;
    u64::from_str_radix(name.as_str().get(8..24)?, 16).ok()
}

fn timestamp(time: SystemTime) -> Option<Timestamp> {
    Timestamp::try_from(time).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn one(number: u64) -> Run {
        let when = Some(at(i64::try_from(number).unwrap()));
        Run {
            first: number,
            last: number,
            first_at: when,
            last_at: when,
        }
    }

    fn ends(runs: &Runs) -> Vec<(u64, u64)> {
        runs.0.values().map(|run| (run.first, run.last)).collect()
    }

    #[test]
    fn numbers_become_runs_in_whatever_order_they_come() {
        let numbers = [5, 3, 4, 9, 1, 7, 8, 3, 9];
        for turn in 0..numbers.len() {
            let mut runs = Runs::default();
            for index in 0..numbers.len() {
                runs.add(one(numbers[(index + turn) % numbers.len()]));
            }
            assert_eq!(ends(&runs), [(1, 1), (3, 5), (7, 9)], "{turn}");
            let middle = runs.around(4).unwrap();
            assert_eq!(
                (middle.first_at, middle.last_at),
                (Some(at(3)), Some(at(5))),
                "{turn}"
            );
            assert_eq!(runs.segments(), 7);
            assert!(runs.around(6).is_none() && runs.around(0).is_none());
            assert_eq!(runs.from(6).map(|run| run.first), Some(7));
            assert_eq!(runs.newest().map(|run| run.last), Some(9));
        }
    }

    #[test]
    fn the_size_of_segments_says_which_follows_the_last_of_a_directory() {
        let mut listing = Listing::default();
        for name in [
            "0000000100000000000000FE",
            "0000000100000000000000FF.gz",
            "000000010000000100000000.zst",
            "000000010000000100000000",
            "000000010000000100000002.partial",
            "000000010000000100000001.00000028.backup",
            "000000010000000000001000",
            "junk",
        ] {
            let object = ObjectMeta {
                key: Key::new(format!("w/{name}")).unwrap(),
                size: 10,
                modified: None,
                version: None,
                lock: None,
                fingerprint: None,
            };
            listing.add(&object, &["", ".gz", ".zst"]);
        }
        let one = TimelineId(1);
        let numbered = listing.numbered(SegmentSize::DEFAULT);
        assert_eq!(ends(numbered.of(one)), [(0xFE, 0x100)]);
        let told = &listing.summary(&numbered, SegmentSize::DEFAULT)[&one];
        assert_eq!((told.files, told.bytes, told.segments), (7, 70, 3));
        let newest = told.newest.as_ref().unwrap();
        assert_eq!(newest.name, "000000010000000100000000");
        assert_eq!(
            (newest.start, newest.end),
            (1 << 32, (1 << 32) + (16 << 20))
        );
        // Of 1 MiB there are 4096 in a directory, of 1 GiB four.
        let small = listing.numbered(SegmentSize::new(1 << 20).unwrap());
        assert_eq!(ends(small.of(one)), [(0xFE, 0xFF), (0x1000, 0x1000)]);
        let large = listing.numbered(SegmentSize::new(1 << 30).unwrap());
        assert_eq!(ends(large.of(one)), [(4, 4)]);
        assert!(ends(numbered.of(TimelineId(2))).is_empty());
    }

    proptest::proptest! {
        #[test]
        fn runs_hold_exactly_what_was_added(numbers in proptest::collection::vec(0_u64..60, 0..80)) {
            let mut runs = Runs::default();
            for number in &numbers {
                runs.add(one(*number));
            }
            for number in 0..60 {
                proptest::prop_assert_eq!(runs.around(number).is_some(), numbers.contains(&number));
            }
            let all = ends(&runs);
            proptest::prop_assert!(all.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0));
        }
    }
}
