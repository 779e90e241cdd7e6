//! Timeline history files: where a timeline came from.

use super::{Lsn, SegmentSize, TimelineId};

/// The ancestors of a timeline, oldest first, each with the position at which
/// the next one forked off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    timeline: TimelineId,
    ancestors: Vec<(TimelineId, Lsn)>,
}

/// Segments of one timeline, by their numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    /// The timeline.
    pub timeline: TimelineId,
    /// The first of them.
    pub first: u64,
    /// The one behind the last; `None` for the newest that there is.
    pub end: Option<u64>,
}

impl Stretch {
    /// Whether any of the segments from `first` to `last` is among them.
    pub fn touches(&self, timeline: TimelineId, first: u64, last: u64) -> bool {
        timeline == self.timeline && last >= self.first && self.end.is_none_or(|end| first < end)
    }
}

/// A history file that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the history of timeline {timeline} is damaged: `{}`", text.escape_debug())]
pub struct HistoryError {
    /// The timeline the file is of.
    pub timeline: TimelineId,
    /// Its line, from 1.
    pub line: usize,
    /// What stands there; the beginning of it, if it is long.
    pub text: String,
}

/// Longest part of a line that a message shows, in characters.
const MAX_QUOTE: usize = 200;

impl History {
    /// A timeline without ancestors: the first one.
    pub fn of_first(timeline: TimelineId) -> Self {
        Self {
            timeline,
            ancestors: Vec::new(),
        }
    }

    /// Reads the file of `timeline`: one line per ancestor (number, position,
    /// reason), comments and blank lines ignored, numbers growing.
    pub fn parse(timeline: TimelineId, text: &str) -> Result<Self, HistoryError> {
        let mut ancestors: Vec<(TimelineId, Lsn)> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let content = line.split('#').next().unwrap_or_default();
            let mut words = content.split_whitespace();
            let Some(number) = words.next() else { continue };
            let read = || {
                let number = TimelineId(number.parse().ok()?);
                let grows = ancestors.last().is_none_or(|(last, _)| *last < number);
                let position = words.next()?.parse().ok()?;
                (grows && number < timeline).then_some((number, position))
            };
            let damaged = || HistoryError {
                timeline,
                line: index + 1,
                text: line.chars().take(MAX_QUOTE).collect(),
            };
            ancestors.push({ read }().ok_or_else(damaged)?);
        }
        Ok(Self {
            timeline,
            ancestors,
        })
    }

    /// The timeline this is the history of.
    pub fn timeline(&self) -> TimelineId {
        self.timeline
    }

    /// The ancestors, oldest first, each with the position at which the next one, or the
    /// timeline itself, forked off.
    pub fn ancestors(&self) -> &[(TimelineId, Lsn)] {
        &self.ancestors
    }

    /// What a recovery along this timeline reads, from the segments of a base backup on,
    /// `own`, which has to be in this history. Where a timeline ends, the segment is taken
    /// from the next one, as PostgreSQL does.
    pub fn way_from(&self, own: &Stretch, size: SegmentSize) -> Vec<Stretch> {
        let ancestors = self.ancestors.iter();
        let ancestors: Vec<_> = ancestors
            .skip_while(|(id, _)| *id != own.timeline)
            .collect();
        let (mut timeline, mut first) = (own.timeline, own.first);
        let mut way = Vec::with_capacity(ancestors.len() + 1);
        for (index, (_, fork)) in ancestors.iter().enumerate() {
            let fork = fork.0 / size.get();
            let own_end = own.end.filter(|_| index == 0);
            way.push(Stretch {
                timeline,
                first,
                end: Some(own_end.map_or(fork, |end| end.max(fork))),
            });
            timeline = ancestors
                .get(index + 1)
                .map_or(self.timeline, |(id, _)| *id);
            first = fork;
        }
        way.push(Stretch {
            timeline,
            first,
            end: None,
        });
        way.retain(|stretch| stretch.end.is_none_or(|end| stretch.first < end));
        way
    }

    /// What a base backup needs that began with `own` and ended on this timeline, which its
    /// server followed meanwhile: where a timeline ends, the segment of the next one.
    pub fn way_across(&self, own: &Stretch, size: SegmentSize) -> Vec<Stretch> {
        let open = Stretch {
            end: None,
            ..own.clone()
        };
        let mut way = self.way_from(&open, size);
        if let Some(end) = own.end {
            for stretch in &mut way {
                stretch.end = Some(stretch.end.map_or(end, |earlier| earlier.min(end)));
            }
            way.retain(|stretch| stretch.end.is_some_and(|end| stretch.first < end));
        }
        way
    }

    /// Whether WAL of `timeline` up to `end` (exclusive) is part of this history:
    /// it is the timeline itself, or an ancestor that was not left before `end`.
    pub fn contains(&self, timeline: TimelineId, end: Lsn) -> bool {
        timeline == self.timeline
            || self
                .ancestors
                .iter()
                .any(|(id, fork)| *id == timeline && end <= *fork)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ancestors_end_where_the_next_timeline_forked_off() {
        let text = "1\t0/3000158\tno recovery target specified\n\n# note\n2\t0/5000000\tbefore x\n";
        let history = History::parse(TimelineId(3), text).unwrap();
        for (timeline, end, contained) in [
            (3, u64::MAX, true),
            (2, 0x500_0000, true),
            (2, 0x500_0001, false),
            (1, 0x300_0158, true),
            (1, 0x400_0000, false),
            (4, 0, false),
        ] {
            assert_eq!(
                history.contains(TimelineId(timeline), Lsn(end)),
                contained,
                "{timeline} {end:X}"
            );
        }
    }

    #[test]
    fn the_way_of_a_recovery_takes_the_segment_of_a_fork_from_the_next_timeline() {
        let text = "1\t0/3000158\tx\n2\t0/5000000\tx\n";
        let history = History::parse(TimelineId(3), text).unwrap();
        let stretch = |timeline: u32, first, end| Stretch {
            timeline: TimelineId(timeline),
            first,
            end,
        };
        let way = |timeline, first, end| {
            history.way_from(&stretch(timeline, first, Some(end)), SegmentSize::DEFAULT)
        };
        assert_eq!(
            way(1, 2, 3),
            [
                stretch(1, 2, Some(3)),
                stretch(2, 3, Some(5)),
                stretch(3, 5, None)
            ]
        );
        // A backup that ends in the segment of the fork has that of its own timeline.
        assert_eq!(
            way(1, 3, 4)[..2],
            [stretch(1, 3, Some(4)), stretch(2, 3, Some(5))]
        );
        assert_eq!(way(2, 4, 5), [stretch(2, 4, Some(5)), stretch(3, 5, None)]);
        assert_eq!(way(3, 9, 10), [stretch(3, 9, None)]);
        let (two, three) = (stretch(2, 3, Some(5)), stretch(3, 5, None));
        assert!(two.touches(TimelineId(2), 0, 3) && two.touches(TimelineId(2), 4, 9));
        assert!(!two.touches(TimelineId(2), 5, 9) && !two.touches(TimelineId(3), 3, 4));
        assert!(three.touches(TimelineId(3), 99, 99) && !three.touches(TimelineId(3), 4, 4));
    }

    #[test]
    fn the_golden_file_is_read() {
        let text = include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/golden/wal/00000002.history"
        ));
        let history = History::parse(TimelineId(2), text).unwrap();
        assert_eq!(history.ancestors, [(TimelineId(1), Lsn(0x84_5EF8))]);
    }

    #[test]
    fn damaged_lines_are_named() {
        for text in ["x 0/1 r", "1", "1 zz r", "2 0/1 r\n1 0/2 r", "3 0/1 r"] {
            assert!(History::parse(TimelineId(3), text).is_err(), "{text}");
        }
        let endless = "9".repeat(1 << 20);
        let error = History::parse(TimelineId(3), &endless).unwrap_err();
        assert!(error.to_string().len() < 300);
    }
}
