//! An overview with known values, for the tests of those who show it.

use std::sync::Arc;
use std::time::Duration;

use cloud_core::ops::metrics::{
    Backup, Backups, Look, Overview, Recoverable, Recovery, Segment, ServerView, Snapshot,
    TimelineWal, Wal,
};
use cloud_core::ops::{OpError, OpErrorKind};
use cloud_core::wal::TimelineId;
use jiff::{SignedDuration, Timestamp};

/// The time at which all is told.
pub(crate) fn noon() -> Timestamp {
    "2026-11-21T12:00:00Z".parse().expect("a time")
}

fn before(duration: SignedDuration) -> Timestamp {
    noon() - duration
}

fn backup(id: &str, status: &'static str, hours: i64) -> Backup {
    let began = before(SignedDuration::from_hours(hours));
    let good = status == "done";
    Backup {
        id: id.to_owned(),
        name: None,
        status,
        codec: "gzip",
        began: Some(began),
        ended: Some(began + SignedDuration::from_millis(1_800_500)),
        stored_bytes: if good { 1000 } else { 7 },
        original_bytes: Some(4000),
        version: Some(150_004),
        error: (!good).then(|| "disk full".to_owned()),
    }
}

/// A good server, seen at noon.
pub(crate) fn snapshot() -> Snapshot {
    let archived = Some(before(SignedDuration::from_mins(1)));
    let segment = |number: u64| Segment {
        name: format!("00000002000000000000000{number}"),
        start: number << 24,
        end: (number + 1) << 24,
        archived,
    };
    let good = backup("20261121T100000", "done", 2);
    let point = |at| Recoverable {
        backup: good.id.clone(),
        at,
        segment: None,
    };
    let wal = TimelineWal {
        files: 3,
        bytes: 48,
        segments: 2,
        oldest: Some(segment(1)),
        newest: Some(segment(2)),
        gaps: 0,
        missing: 0,
    };
    Snapshot {
        taken: noon(),
        backups: Backups {
            by_status: [
                ("done", 2),
                ("failed", 1),
                ("started", 0),
                ("unreadable", 0),
            ]
            .into(),
            by_codec: [("gzip", 2)].into(),
            kept: [("full", 1), ("standalone", 0)].into(),
            available: 2,
            restorable: 2,
            stored_bytes: 2007,
            unreadable: Vec::new(),
            last_failed: Some(backup("20261121T080000", "failed", 4)),
            newest: Some(good.clone()),
            last_good: Some(good.clone()),
        },
        wal: Wal {
            timelines: [(TimelineId(2), wal)].into(),
            last_archived: archived,
        },
        recovery: Recovery {
            first: Some(point(good.ended)),
            last: Some(point(archived)),
            ..Recovery::default()
        },
    }
}

/// A server that was seen and one that was seen an hour ago.
pub(crate) fn good_and_gone() -> Overview {
    let why = Arc::new(OpError::new(OpErrorKind::Unreachable, "refused"));
    let server = |name: &str, seen, last_good| ServerView {
        name: name.to_owned(),
        seen,
        last_good: Some(last_good),
    };
    let an_hour_ago = before(SignedDuration::from_hours(1));
    Overview {
        servers: vec![
            server("a\"b", Ok(Arc::new(snapshot())), noon()),
            server("gone", Err(Arc::clone(&why)), an_hour_ago),
        ],
        look: Look {
            ended: Some(noon()),
            took: Duration::from_millis(1500),
            failure: Some(why),
            last_good: Some(noon()),
            looks: 3,
            failures: 1,
            requests: 40,
            errors: 2,
        },
    }
}
