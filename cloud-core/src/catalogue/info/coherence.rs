//! Whether a record says one thing.
//!
//! A record has no checksum, and a changed digit in it is read like any other. A
//! deletion goes by a few of its fields, and most of them are told twice: what
//! does not agree was damaged, and nobody can say which of the two is right.

use jiff::SignedDuration;

use super::{BackupInfo, Status};
use crate::wal::{Lsn, SegmentSize, TimelineId, WalName};

/// Statuses that the reference knows and that mean nothing of their own here.
const KNOWN: [&str; 2] = ["SYNCING", "WAITING_FOR_WALS"];

/// How much earlier than it began a backup may seem to have ended, by clocks that
/// were set meanwhile and zones that were read wrongly.
const CLOCKS: SignedDuration = SignedDuration::from_hours(26);

impl BackupInfo {
    /// The first thing in it that contradicts another, as the end of a sentence;
    /// `None` if all agrees, which what is absent does.
    pub fn contradiction(&self) -> Option<String> {
        self.of_status()
            .or_else(|| {
                let begin = [self.begin_xlog.as_deref(), self.begin_wal.as_deref()];
                self.of_position("begin", begin, TimelineId(self.timeline?))
            })
            .or_else(|| {
                let end = [self.end_xlog.as_deref(), self.end_wal.as_deref()];
                self.of_position("end", end, self.end_timeline()?)
            })
            .or_else(|| self.of_time())
    }

    fn of_status(&self) -> Option<String> {
        match &self.status {
            Status::Other(word) if !KNOWN.contains(&word.as_str()) => {
                let word = word.escape_debug();
                Some(format!("its status `{word}` is none that there is"))
            }
            Status::Empty if self.begin_xlog.is_some() || self.begin_wal.is_some() => {
                Some("it has no status although it has begun".to_owned())
            }
            _ => None,
        }
    }

    /// `place` is a position and the segment in which it lies.
    fn of_position(
        &self,
        which: &str,
        place: [Option<&str>; 2],
        timeline: TimelineId,
    ) -> Option<String> {
        let [lsn, segment] = place;
        let (lsn_text, segment) = (lsn?, segment?);
        let size = SegmentSize::new(self.xlog_segment_size);
        let agrees = size
            .zip(lsn_text.parse::<Lsn>().ok())
            .is_some_and(|(size, lsn)| {
                // The server's own function puts a boundary into the segment that ends
                // there, and who asks it writes that.
                [lsn, Lsn(lsn.0.saturating_sub(1))]
                    .map(|lsn| WalName::segment_of(timeline, lsn, size))
                    .iter()
                    .any(|name| name.as_str().eq_ignore_ascii_case(segment))
            });
        (!agrees).then(|| {
            format!(
                "{which}_wal={} and {which}_xlog={} do not agree on timeline {timeline}, with \
                 segments of {} bytes",
                segment.escape_debug(),
                lsn_text.escape_debug(),
                self.xlog_segment_size
            )
        })
    }

    fn of_time(&self) -> Option<String> {
        let (begin, end) = (self.begin_time?, self.end_time?);
        let early = begin.instant().duration_since(end.instant()) > CLOCKS;
        early.then(|| format!("it ended ({end}) long before it began ({begin})"))
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;

    const TEXT: &str = "begin_time=2026-11-21 02:22:13.650243+00:00\n\
        begin_wal=000000010000000000000006\n\
        begin_xlog=0/6000028\n\
        end_time=2026-11-21 02:22:15.964382+00:00\n\
        end_wal=000000010000000000000006\n\
        end_xlog=0/6000100\n\
        status=DONE\n\
        timeline=1\n\
        xlog_segment_size=16777216\n";

    fn contradiction(text: &str) -> Option<String> {
        BackupInfo::parse(text.as_bytes(), &TimeZone::UTC)
            .expect("a record")
            .contradiction()
    }

    #[test]
    fn what_was_written_agrees_with_itself() {
        assert_eq!(contradiction(TEXT), None);
        assert_eq!(contradiction(""), None);
        for line in TEXT.lines().filter(|line| !line.starts_with("status=")) {
            let without = TEXT.replace(line, "");
            let size = line.starts_with("xlog_segment_size=");
            assert!(contradiction(&without).is_none() || size, "{line}");
        }
        // Of a standby that followed a promotion meanwhile.
        let followed = TEXT.replace("end_wal=00000001", "end_wal=00000002");
        assert_eq!(
            contradiction(&followed),
            None,
            "it ended on a later timeline"
        );
        for status in ["FAILED", "STARTED", "SYNCING", "WAITING_FOR_WALS"] {
            assert_eq!(contradiction(&TEXT.replace("DONE", status)), None);
        }
        let boundary = TEXT.replace("0/6000100", "0/7000000");
        assert_eq!(contradiction(&boundary), None, "the segment before");
        let boundary = boundary.replace(
            "end_wal=000000010000000000000006",
            "end_wal=000000010000000000000007",
        );
        assert_eq!(contradiction(&boundary), None, "the segment behind");
        let set_back = TEXT.replace("21 02:22:15", "20 03:22:15");
        assert_eq!(contradiction(&set_back), None, "the clock was set");
    }

    #[test]
    fn a_changed_field_contradicts_another() {
        for (from, to, what) in [
            ("DONE", "DOND", "its status `DOND` is none that there is"),
            ("status", "sTatus", "it has no status"),
            (
                "begin_wal=000000010000000000000006",
                "begin_wal=000000010000000000000016",
                "begin_wal=000000010000000000000016 and begin_xlog=0/6000028 do not agree",
            ),
            ("0/6000028", "1/6000028", "begin_wal="),
            ("0/6000028", "0?6000028", "begin_wal="),
            ("end_xlog=0/6", "end_xlog=0/7", "end_wal="),
            ("timeline=1", "timeline=3", "begin_wal="),
            ("end_wal=00000001", "end_wal=00000000", "end_wal="),
            ("end_wal=000000010", "end_wal=000000021", "end_wal="),
            ("16777216", "16777217", "begin_wal="),
            ("16777216", "1048576", "begin_wal="),
            ("end_time=2026", "end_time=2006", "long before it began"),
        ] {
            let found = contradiction(&TEXT.replace(from, to));
            let found = found.unwrap_or_else(|| panic!("{to} went unnoticed"));
            assert!(found.contains(what), "{found}");
        }
    }
}
