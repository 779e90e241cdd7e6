//! What a snapshot means: is all well, and if not, what is wrong.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::snapshot::{Backup, Snapshot};
use crate::units::pretty_duration;

/// How long the WAL to the end of a backup may be on its way.
const ON_ITS_WAY: SignedDuration = SignedDuration::from_hours(1);

/// What is asked of a server, beside that it can be restored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Thresholds {
    /// How old the last good base backup may be.
    pub max_backup_age: Option<Duration>,
    /// How long ago WAL may have been archived last.
    pub max_wal_age: Option<Duration>,
}

/// What is wrong with a server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// A line for each thing that wants somebody's attention, the worst first. None: all is well.
    pub problems: Vec<String>,
}

impl Verdict {
    /// Judges what was seen, as of `now`.
    pub fn of(snapshot: &Snapshot, thresholds: Thresholds, now: Timestamp) -> Self {
        let mut problems = Vec::new();
        let (backups, recovery) = (&snapshot.backups, &snapshot.recovery);
        match (backups.available, backups.restorable) {
            (0, _) => problems.push("there is no base backup to restore".to_owned()),
            (_, 0) => problems.push(
                "no base backup can be restored: of each some WAL is missing that it needs"
                    .to_owned(),
            ),
            _ => {}
        }
        for hole in &recovery.holes {
            problems.push(match hole.count {
                1 => format!(
                    "WAL segment {} is missing: recoveries stop there",
                    hole.first
                ),
                count => format!(
                    "{count} WAL segments are missing, {} to {}: recoveries stop there",
                    hole.first, hole.last
                ),
            });
        }
        let holes: u64 = snapshot.wal.timelines.values().map(|told| told.gaps).sum();
        if holes > recovery.holes.len() as u64 {
            problems.push(format!("there are {holes} gaps in the WAL in all"));
        }
        problems.extend(recovery.let_go.iter().cloned());
        for timeline in &recovery.lost_histories {
            problems.push(format!(
                "the history of timeline {timeline} is missing or damaged: no recovery follows it"
            ));
        }
        if let Some(waiting) = &recovery.waiting
            && waiting
                .ended
                .is_none_or(|ended| now.duration_since(ended) > ON_ITS_WAY)
        {
            problems.push(format!(
                "the WAL to the end of backup {} was not archived yet: it cannot be restored",
                waiting.id
            ));
        }
        let failed = backups
            .newest
            .as_ref()
            .filter(|backup| backup.status == "failed");
        if let Some(failed) = failed {
            let why = failed
                .error
                .as_deref()
                .map_or(String::new(), |why| format!(": {why}"));
            problems.push(format!("the last backup, {}, failed{why}", failed.id));
        }
        let unreadable = backups
            .by_status
            .get("unreadable")
            .copied()
            .unwrap_or_default();
        if let Some(first) = backups.unreadable.first() {
            let more = match unreadable - 1 {
                0 => String::new(),
                more => format!(", and those of {more} more backups"),
            };
            problems.push(format!(
                "the record of backup {} cannot be read{more}: {}",
                first.id, first.why
            ));
        }
        let last = backups.last_good.as_ref().and_then(Backup::time);
        let ages = [
            (
                "the last good backup ended",
                last,
                thresholds.max_backup_age,
            ),
            (
                "WAL was last archived",
                snapshot.wal.last_archived,
                thresholds.max_wal_age,
            ),
        ];
        for (what, when, most) in ages {
            let Some(most) = most else { continue };
            let limit = pretty_duration(most);
            match when.map(|when| age(when, now)) {
                Some(age) if age <= most => {}
                Some(age) => problems.push(format!(
                    "{what} {} ago, more than {limit}",
                    pretty_duration(age)
                )),
                None => problems.push(format!(
                    "it is not known when {what}: wanted within {limit}"
                )),
            }
        }
        Self { problems }
    }

    /// Whether all is well.
    pub fn is_healthy(&self) -> bool {
        self.problems.is_empty()
    }
}

/// How long ago that was; nothing, if it is still to come by this clock.
pub(super) fn age(when: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(when)).unwrap_or_default()
}
