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
#[error("line {line} of the history of timeline {timeline} is damaged: `{text}`")]
pub struct HistoryError {
    /// The timeline the file is of.
    pub timeline: TimelineId,
    /// Its line, from 1.
    pub line: usize,
    /// What stands there.
    pub text: String,
}

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
                text: line.to_owned(),
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

    /// Up to where `timeline` is part of this history: `None` if it is not,
    /// `Some(None)` for the timeline itself, `Some(Some(end))` for an ancestor.
    pub fn contains(&self, timeline: TimelineId) -> Option<Option<Lsn>> {
        if timeline == self.timeline {
            return Some(None);
        }
        self.ancestors
            .iter()
            .find(|(id, _)| *id == timeline)
            .map(|(_, end)| Some(*end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ancestors_end_where_the_next_timeline_forked_off() {
        let text = "1\t0/3000158\tno recovery target specified\n\n# note\n2\t0/5000000\tbefore x\n";
        let history = History::parse(TimelineId(3), text).unwrap();
        assert_eq!(history.contains(TimelineId(3)), Some(None));
        assert_eq!(history.contains(TimelineId(1)), Some(Some(Lsn(0x300_0158))));
        assert_eq!(history.contains(TimelineId(2)), Some(Some(Lsn(0x500_0000))));
        assert_eq!(history.contains(TimelineId(4)), None);
    }

    #[test]
    fn damaged_lines_are_named() {
        for text in ["x 0/1 r", "1", "1 zz r", "2 0/1 r\n1 0/2 r", "3 0/1 r"] {
            assert!(History::parse(TimelineId(3), text).is_err(), "{text}");
        }
    }
}
