//! Timeline history files: where a timeline came from.

use super::{Lsn, TimelineId};

/// The ancestors of a timeline, oldest first, each with the position at which
/// the next one forked off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    timeline: TimelineId,
    ancestors: Vec<(TimelineId, Lsn)>,
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
