//! How far the base backups and the WAL reach: what can be recovered, and what stands in the way.
//!
//! Pure. A recovery is taken to go along the newest timeline that its backup is in the history
//! of, as PostgreSQL's default is.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::snapshot::{Hole, Recoverable, Recovery};
use super::wal::{Numbered, name_of};
use crate::catalogue::info::BackupInfo;
use crate::catalogue::layout::BackupId;
use crate::wal::{History, SegmentSize, Stretch, TimelineId};

/// Holes that are named; all are counted.
const NAMED: usize = 10;

/// An available base backup.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate<'a> {
    pub(super) id: &'a BackupId,
    pub(super) info: &'a BackupInfo,
    /// Whether only the WAL up to its end is kept.
    pub(super) standalone: bool,
}

/// The WAL of a backup from its beginning to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Own {
    /// All is there, or the record does not say what is needed.
    Whole,
    /// What is missing is newer than all WAL of its timeline that is there: it may still come.
    Waiting,
    /// Some is missing, and newer WAL is there.
    Holed,
}

/// The archive that backups are held against.
#[derive(Debug, Clone, Copy)]
pub(super) struct Archive<'a> {
    /// Its segments.
    pub(super) segments: &'a Numbered,
    /// The histories of its timelines; `None` for those that cannot be read.
    pub(super) histories: &'a BTreeMap<TimelineId, Option<History>>,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// What is told of it.
    pub(super) recovery: Recovery,
    /// Which of the candidates can be restored.
    pub(super) restorable: Vec<bool>,
    /// The newest candidate to whose end the WAL has not come.
    pub(super) waiting: Option<usize>,
    /// Holes and segments missing in them, for each timeline.
    pub(super) gaps: BTreeMap<TimelineId, (u64, u64)>,
}

/// A walk along the WAL.
#[derive(Debug, Default)]
struct Walk {
    /// The last segment before the first hole, and when it was archived.
    reached: Option<(TimelineId, u64, Option<Timestamp>)>,
    holes: Vec<(TimelineId, u64, u64)>,
}

impl Archive<'_> {
    /// Holds all candidates, in the order of their ids, against the archive.
    pub(super) fn reach(&self, candidates: &[Candidate<'_>]) -> Reach {
        let mut reach = Reach::default();
        let judged: Vec<Own> = candidates.iter().map(|one| self.own(one.info)).collect();
        reach.restorable = judged.iter().map(|own| *own == Own::Whole).collect();
        let newest = (0..candidates.len())
            .max_by_key(|at| candidates[*at].info.end_time.map(|end| end.instant()));
        reach.waiting = newest.filter(|at| judged[*at] == Own::Waiting);
        let whole = || {
            let both = candidates.iter().zip(&judged);
            both.filter(|(_, own)| **own == Own::Whole)
                .map(|(one, _)| *one)
        };
        let ended = |one: &Candidate<'_>| one.info.end_time.map(|time| time.instant());
        reach.recovery.first = whole().min_by_key(ended).map(|one| Recoverable {
            backup: one.id.to_string(),
            at: ended(&one),
            segment: None,
        });
        reach.recovery.last = whole().max_by_key(ended).map(|one| self.last(&one));
        self.count_holes(candidates, &mut reach);
        reach.recovery.lost_histories = self.lost_histories(candidates);
        reach
    }

    /// The WAL that a backup needs to be consistent.
    pub(super) fn own(&self, info: &BackupInfo) -> Own {
        let Some(needed) = info.needed_wal() else {
            return Own::Whole;
        };
        let walk = self.walk(&self.own_way(info, &needed));
        let Some((timeline, missing, _)) = walk.holes.first() else {
            return Own::Whole;
        };
        match self.segments.of(*timeline).newest() {
            Some(newest) if newest.last > *missing => Own::Holed,
            _ => Own::Waiting,
        }
    }

    /// The latest point that a backup leads to.
    fn last(&self, one: &Candidate<'_>) -> Recoverable {
        let ended = one.info.end_time.map(|time| time.instant());
        let nowhere = Recoverable {
            backup: one.id.to_string(),
            at: ended,
            segment: None,
        };
        let Some(needed) = one.info.needed_wal() else {
            return nowhere;
        };
        let way = if one.standalone {
            self.own_way(one.info, &needed)
        } else {
            self.way(one.info, &needed)
        };
        let Some((timeline, number, archived)) = self.walk(&way).reached else {
            return nowhere;
        };
        Recoverable {
            at: ended.max(archived.filter(|_| !one.standalone)),
            segment: Some(name_of(timeline, number, needed.0)),
            ..nowhere
        }
    }

    /// What a backup needs to be consistent.
    fn own_way(&self, info: &BackupInfo, needed: &(SegmentSize, Stretch)) -> Vec<Stretch> {
        let (size, own) = needed;
        let last = info.crossed_to();
        let history = last.and_then(|last| self.histories.get(&last)?.as_ref());
        match history {
            Some(history) => history.way_across(own, *size),
            None => vec![own.clone()],
        }
    }

    /// What a recovery from a backup reads.
    fn way(&self, info: &BackupInfo, needed: &(SegmentSize, Stretch)) -> Vec<Stretch> {
        let (size, own) = needed;
        let end = info.end_position(needed);
        let later = self.histories.range((
            std::ops::Bound::Excluded(own.timeline),
            std::ops::Bound::Unbounded,
        ));
        let history = later
            .rev()
            .filter_map(|(_, history)| history.as_ref())
            .find(|history| {
                let last = info.crossed_to().unwrap_or(own.timeline);
                history.contains(last, end)
            });
        match (history, info.crossed_to()) {
            (Some(history), None) => history.way_from(own, *size),
            (Some(history), Some(_)) => {
                let open = Stretch {
                    end: None,
                    ..own.clone()
                };
                history.way_from(&open, *size)
            }
            (None, _) => History::of_first(own.timeline).way_from(own, *size),
        }
    }

    /// Goes along the WAL to its end, over the holes.
    fn walk(&self, way: &[Stretch]) -> Walk {
        let mut walk = Walk::default();
        for stretch in way {
            let runs = self.segments.of(stretch.timeline);
            let within = |number: u64| stretch.end.is_none_or(|end| number < end);
            let mut at = stretch.first;
            while within(at) {
                if let Some(run) = runs.around(at) {
                    let last = stretch.end.map_or(run.last, |end| run.last.min(end - 1));
                    if walk.holes.is_empty() {
                        let archived = run.last_at.filter(|_| last == run.last);
                        walk.reached = Some((stretch.timeline, last, archived));
                    }
                    at = last + 1;
                    continue;
                }
                let next = runs
                    .from(at)
                    .map(|run| run.first)
                    .filter(|first| within(*first));
                let Some(next) = next.or(stretch.end) else {
                    break;
                };
                walk.holes.push((stretch.timeline, at, next - 1));
                at = next;
            }
        }
        walk
    }

    /// Counts the holes, each once. All backups of a timeline that keep what follows go the same
    /// way, so the oldest of them speaks for the others.
    fn count_holes(&self, candidates: &[Candidate<'_>], reach: &mut Reach) {
        let mut oldest: BTreeMap<TimelineId, (Vec<Stretch>, u64, SegmentSize)> = BTreeMap::new();
        let mut ways: Vec<(Vec<Stretch>, SegmentSize)> = Vec::new();
        for one in candidates {
            let Some(needed) = one.info.needed_wal() else {
                continue;
            };
            let (size, own) = &needed;
            if one.standalone {
                ways.push((self.own_way(one.info, &needed), *size));
                continue;
            }
            let known = oldest.get(&own.timeline);
            if known.is_none_or(|(_, first, _)| own.first < *first) {
                let way = self.way(one.info, &needed);
                oldest.insert(own.timeline, (way, own.first, *size));
            }
        }
        ways.extend(oldest.into_values().map(|(way, _, size)| (way, size)));
        let mut seen = BTreeSet::new();
        for (way, size) in ways {
            for (timeline, first, last) in self.walk(&way).holes {
                // What has not come yet is no hole.
                let newest = self.segments.of(timeline).newest();
                let later = newest.is_some_and(|newest| newest.last > last)
                    || self.histories.keys().any(|other| *other > timeline);
                if later && seen.insert((timeline, first, last)) {
                    let (holes, missing) = reach.gaps.entry(timeline).or_default();
                    *holes += 1;
                    *missing += last - first + 1;
                    if reach.recovery.holes.len() < NAMED {
                        reach.recovery.holes.push(Hole {
                            timeline,
                            first: name_of(timeline, first, size),
                            last: name_of(timeline, last, size),
                            count: last - first + 1,
                        });
                    }
                }
            }
        }
    }

    /// The timelines behind the oldest candidate whose history no recovery can read.
    fn lost_histories(&self, candidates: &[Candidate<'_>]) -> Vec<TimelineId> {
        let of = |one: &Candidate<'_>| Some(one.info.needed_wal()?.1.timeline);
        let Some(oldest) = candidates.iter().filter_map(of).min() else {
            return Vec::new();
        };
        let lost = self
            .histories
            .iter()
            .filter(|(_, history)| history.is_none());
        let lost = lost.map(|(timeline, _)| *timeline);
        lost.filter(|timeline| *timeline > oldest).collect()
    }
}
