//! Which WAL a base backup needs to be consistent.

use super::BackupInfo;
use crate::wal::{Lsn, SegmentSize, Stretch, TimelineId, WalName};

impl BackupInfo {
    /// The size of a segment, and the segments from the beginning of the backup to its end, by
    /// the timeline on which it began ([`crossed_to`](Self::crossed_to)); `None` if the record
    /// does not say.
    pub fn needed_wal(&self) -> Option<(SegmentSize, Stretch)> {
        let name = |text: &Option<String>| text.as_deref()?.parse::<WalName>().ok();
        let lsn = |text: &Option<String>| text.as_deref()?.parse::<Lsn>().ok();
        let size = SegmentSize::new(self.xlog_segment_size)?;
        let (begin, end) = (name(&self.begin_wal), name(&self.end_wal));
        let timeline = self.timeline.map(TimelineId);
        let timeline = timeline.or_else(|| Some(begin.as_ref()?.timeline()))?;
        let first = match lsn(&self.begin_xlog) {
            Some(at) => at.0 / size.get(),
            None => begin?.number(size)?,
        };
        let last = match lsn(&self.end_xlog) {
            // An end on a boundary needs nothing of the segment behind it.
            Some(at) => at.0.checked_sub(1)? / size.get(),
            None => end?.number(size)?,
        };
        let stretch = Stretch {
            timeline,
            first,
            end: Some(last + 1),
        };
        (first <= last).then_some((size, stretch))
    }

    /// The timeline on which the backup ended: that on which it began, or a later one, which a
    /// standby followed meanwhile.
    pub fn end_timeline(&self) -> Option<TimelineId> {
        let began = self.timeline.map(TimelineId)?;
        let end = self.end_wal.as_deref();
        let end = end.and_then(|name| name.to_ascii_uppercase().parse::<WalName>().ok());
        let ended = end.map(|name| name.timeline());
        Some(ended.map_or(began, |ended| ended.max(began)))
    }

    /// The timeline on which the backup ended, if it began on another.
    pub fn crossed_to(&self) -> Option<TimelineId> {
        self.end_timeline()
            .filter(|ended| Some(ended.0) != self.timeline)
    }

    /// Where the backup ended: a recovery that leaves its timeline earlier cannot begin with
    /// it. `needed` is what [`needed_wal`](Self::needed_wal) gave.
    pub fn end_position(&self, needed: &(SegmentSize, Stretch)) -> Lsn {
        let (size, own) = needed;
        let recorded = self.end_xlog.as_deref().and_then(|text| text.parse().ok());
        let end = own.end.unwrap_or(own.first);
        recorded.unwrap_or(Lsn(end.saturating_mul(size.get())))
    }
}
