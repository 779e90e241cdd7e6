//! What was in a server's place at one moment, in plain values.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::wal::TimelineId;

/// All that is told of a server.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// When it was looked at.
    pub taken: Timestamp,
    /// Its base backups.
    pub backups: Backups,
    /// Its WAL.
    pub wal: Wal,
    /// What both are good for.
    pub recovery: Recovery,
}

/// The base backups of a server.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Backups {
    /// How many have each status, in small letters; the usual ones are there with 0.
    pub by_status: BTreeMap<&'static str, u64>,
    /// How many of the available ones have each codec.
    pub by_codec: BTreeMap<&'static str, u64>,
    /// How many are kept, by target.
    pub kept: BTreeMap<&'static str, u64>,
    /// How many are whole as far as their records say (DONE).
    pub available: u64,
    /// How many of these have the WAL that makes them consistent.
    pub restorable: u64,
    /// Size of the archives of all in the store, in bytes.
    pub stored_bytes: u64,
    /// The first records that cannot be read, and why.
    pub unreadable: Vec<Unreadable>,
    /// The available one that ended last.
    pub last_good: Option<Backup>,
    /// The failed one that began last.
    pub last_failed: Option<Backup>,
    /// The one that began last, whatever became of it.
    pub newest: Option<Backup>,
}

/// A record that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// The id of the backup.
    pub id: String,
    /// What is wrong with it.
    pub why: String,
}

/// A base backup.
#[derive(Debug, Clone, PartialEq)]
pub struct Backup {
    /// Its id.
    pub id: String,
    /// The name that it was given.
    pub name: Option<String>,
    /// Its status, in small letters.
    pub status: &'static str,
    /// The codec of its archives.
    pub codec: &'static str,
    /// When it began.
    pub began: Option<Timestamp>,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// Size of its archives in the store, in bytes.
    pub stored_bytes: u64,
    /// Size of what it was taken of, in bytes.
    pub original_bytes: Option<u64>,
    /// `server_version_num` of the server.
    pub version: Option<u32>,
    /// Why it failed.
    pub error: Option<String>,
}

impl Backup {
    /// When it ended, or began if it has no end.
    pub fn time(&self) -> Option<Timestamp> {
        self.ended.or(self.began)
    }

    /// How long it took, in seconds.
    pub fn seconds(&self) -> Option<f64> {
        let took = self.ended?.duration_since(self.began?);
        (!took.is_negative()).then(|| took.as_secs_f64())
    }

    /// The version of the server as people write it: `15.4`.
    pub fn version_text(&self) -> Option<String> {
        let number = self.version?;
        Some(if number >= 100_000 {
            format!("{}.{}", number / 10_000, number % 10_000)
        } else {
            format!("{}.{}", number / 10_000, number / 100 % 100)
        })
    }
}

/// The WAL of a server.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Wal {
    /// That of each timeline.
    pub timelines: BTreeMap<TimelineId, TimelineWal>,
    /// When the newest object of a segment was written.
    pub last_archived: Option<Timestamp>,
}

/// The WAL of a timeline.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TimelineWal {
    /// Objects of all kinds: segments in all forms, histories, labels.
    pub files: u64,
    /// Their size, in bytes.
    pub bytes: u64,
    /// Segments, each counted once.
    pub segments: u64,
    /// The first segment.
    pub oldest: Option<Segment>,
    /// The last one.
    pub newest: Option<Segment>,
    /// Holes that stand in the way of a recovery.
    pub gaps: u64,
    /// Segments that are missing in them.
    pub missing: u64,
}

/// A segment in the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Its name.
    pub name: String,
    /// Where it begins in the WAL, in bytes.
    pub start: u64,
    /// Where it ends.
    pub end: u64,
    /// When its object was written.
    pub archived: Option<Timestamp>,
}

/// How far the backups and the WAL reach.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Recovery {
    /// The earliest point: where the oldest restorable backup is consistent.
    pub first: Option<Recoverable>,
    /// The latest point that the newest restorable backup reaches.
    pub last: Option<Recoverable>,
    /// The first holes that stand in the way.
    pub holes: Vec<Hole>,
    /// An available backup, the newest, to whose end the WAL has not come yet.
    pub waiting: Option<Backup>,
    /// Timelines whose history is missing or damaged, so that no recovery follows them.
    pub lost_histories: Vec<TimelineId>,
    /// WAL that was let go and is needed, in words; as many as there are.
    pub let_go: Vec<String>,
}

/// A point that can be recovered to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recoverable {
    /// The backup that leads there.
    pub backup: String,
    /// The end of that backup, or the time at which the last segment was archived that a
    /// recovery reads: what was committed before is in it.
    pub at: Option<Timestamp>,
    /// The last segment that is read.
    pub segment: Option<String>,
}

/// Segments that are missing, from the first to the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hole {
    /// The timeline.
    pub timeline: TimelineId,
    /// Name of the first one.
    pub first: String,
    /// Name of the last one.
    pub last: String,
    /// How many.
    pub count: u64,
}
