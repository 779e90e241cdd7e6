//! Looks at stores in memory.

use std::sync::Arc;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::*;
use crate::catalogue::gap::Gap;
use crate::catalogue::info::{BackupInfo, Status};
use crate::catalogue::time;
use crate::ops::OpErrorKind;
use crate::store::{Fault, FaultyStore, MemoryStore, ObjectStore, StoreErrorKind, StoreOp};
use crate::wal::{Lsn, SegmentSize, TimelineId, WalName};

const SIZE: SegmentSize = SegmentSize::DEFAULT;

fn hour(number: i64) -> Timestamp {
    let first: Timestamp = "2026-11-21T00:00:00Z".parse().unwrap();
    first + SignedDuration::from_hours(number)
}

fn lsn(segment: u64, offset: u64) -> Lsn {
    Lsn(segment * SIZE.get() + offset)
}

/// A backup of the given segments that began in this hour and took half of it.
fn record(status: Status, timeline: u32, segments: (u64, u64), began: i64) -> BackupInfo {
    let at = |when: Timestamp| time::Timestamp::new(when, &TimeZone::UTC);
    let mut info = BackupInfo {
        status,
        cluster_size: Some(1000),
        version: Some(150_004),
        systemid: Some("7".into()),
        ..BackupInfo::default()
    };
    let timeline = TimelineId(timeline);
    info.set_begin(timeline, lsn(segments.0, 40), SIZE, at(hour(began)));
    if info.status == Status::Done {
        let ended = hour(began) + SignedDuration::from_mins(30);
        info.set_end(timeline, lsn(segments.1, 256), SIZE, at(ended));
    }
    info
}

/// A place `p` with the server `main`.
struct Scene(MemoryStore);

impl Scene {
    fn new() -> Self {
        Self(MemoryStore::new().with_page(100))
    }

    /// A backup whose id is the hour it began.
    fn backup(&self, info: &BackupInfo, archives: &[&str]) -> String {
        let began = info.begin_time.unwrap().instant();
        let id = began.strftime("%Y%m%dT%H%M%S").to_string();
        let dir = format!("p/main/base/{id}");
        self.0.insert(&format!("{dir}/backup.info"), info.to_text());
        for name in archives {
            self.0.insert(&format!("{dir}/{name}"), "0123456789");
        }
        id
    }

    fn done(&self, timeline: u32, segments: (u64, u64), began: i64) -> String {
        let info = record(Status::Done, timeline, segments, began);
        self.backup(&info, &["data.tar.gz", "16384.tar.gz"])
    }

    fn wal(&self, timeline: u32, segments: impl IntoIterator<Item = u64>) {
        for number in segments {
            let name = WalName::of_number(TimelineId(timeline), number, SIZE);
            let name = name.as_str();
            let key = format!("p/main/wals/{}/{name}.gz", &name[..16]);
            self.0.insert(&key, "wal");
        }
    }

    fn watch(&self) -> Watch {
        Self::watch_through(self.0.clone())
    }

    fn watch_through(store: impl ObjectStore) -> Watch {
        let wanted = Wanted::Named(vec!["main".into()]);
        Watch::new(Arc::new(store), "p".into(), wanted).unwrap()
    }

    async fn seen(&self) -> Arc<Snapshot> {
        seen(&self.watch().look().await)
    }

    /// What is wrong, a minute after the last backup of a scene.
    async fn problems(&self) -> Vec<String> {
        let last = hour(5);
        Verdict::of(&*self.seen().await, Thresholds::default(), last).problems
    }
}

fn seen(overview: &Overview) -> Arc<Snapshot> {
    let [server] = overview.servers.as_slice() else {
        panic!("not one server: {overview:?}");
    };
    Arc::clone(server.seen.as_ref().expect("it can be seen"))
}

#[tokio::test]
async fn what_is_there_is_told() {
    let scene = Scene::new();
    let first = scene.done(1, (2, 3), 0);
    let mut last = record(Status::Done, 1, (5, 5), 2);
    last.backup_name = Some("nightly".into());
    let last = scene.backup(&last, &["data.tar", "data_0001.tar", "data.txt"]);
    let mut failed = record(Status::Failed, 1, (4, 4), 1);
    failed.error = Some("no\nspace".into());
    scene.backup(&failed, &["data.tar.zst"]);
    scene.backup(&record(Status::Started, 1, (6, 6), 3), &[]);
    scene.0.insert("p/main/base/X/backup.info", "garbage");
    scene.0.insert("p/main/base/Y/data.tar", "no record");
    let keep = format!("p/main/base/{first}/annotations/keep");
    scene.0.insert(&keep, "standalone");
    scene.wal(1, 2..=7);
    scene.0.insert(
        "p/main/wals/0000000100000000/000000010000000000000007.00000028.backup",
        "x",
    );
    let seen = scene.seen().await;
    let backups = &seen.backups;
    let statuses = [
        ("done", 2),
        ("failed", 1),
        ("started", 1),
        ("unreadable", 1),
    ];
    assert_eq!(backups.by_status, statuses.into());
    assert_eq!(backups.by_codec, [("gzip", 1), ("none", 1)].into());
    assert_eq!(backups.kept, [("full", 0), ("standalone", 1)].into());
    assert_eq!((backups.available, backups.restorable), (2, 2));
    assert_eq!(backups.stored_bytes, 50);
    assert_eq!(backups.unreadable[0].id, "X");
    let good = backups.last_good.as_ref().unwrap();
    assert_eq!(
        (good.id.as_str(), good.name.as_deref()),
        (last.as_str(), Some("nightly"))
    );
    assert_eq!((good.seconds(), good.stored_bytes), (Some(1800.0), 20));
    assert_eq!(good.original_bytes, Some(1000));
    assert_eq!(good.version_text().as_deref(), Some("15.4"));
    let failed = backups.last_failed.as_ref().unwrap();
    assert_eq!((failed.time(), failed.seconds()), (Some(hour(1)), None));
    assert_eq!(failed.error.as_deref(), Some("no space"));
    let wal = &seen.wal.timelines[&TimelineId(1)];
    assert_eq!((wal.files, wal.bytes, wal.segments), (7, 19, 6));
    assert_eq!((wal.gaps, wal.missing), (0, 0));
    let recovery = &seen.recovery;
    let point = recovery.first.as_ref().unwrap();
    assert_eq!(
        (&point.backup, point.at),
        (&first, Some(hour(0) + SignedDuration::from_mins(30)))
    );
    let point = recovery.last.as_ref().unwrap();
    assert_eq!(point.segment.as_deref(), Some("000000010000000000000007"));
    assert_eq!((&point.backup, point.at), (&last, seen.wal.last_archived));
    let [problem] = &scene.problems().await[..] else {
        panic!("{:?}", scene.problems().await);
    };
    assert!(
        problem.starts_with("the record of backup X cannot be read: "),
        "{problem}"
    );
}

/// Its record has no time at all, as ours and Barman's are then.
#[tokio::test]
async fn a_backup_that_failed_at_its_start_is_the_last_one() {
    let scene = Scene::new();
    scene.wal(1, 2..=7);
    let good = scene.done(1, (2, 3), 1);
    let failed = BackupInfo {
        status: Status::Failed,
        error: Some("no slot".into()),
        ..BackupInfo::default()
    };
    let key = "p/main/base/20261121T020000/backup.info";
    scene.0.insert(key, failed.to_text());
    assert_eq!(
        scene.problems().await,
        ["the last backup, 20261121T020000, failed: no slot"]
    );
    let seen = scene.seen().await;
    let last = seen.backups.last_failed.as_ref().unwrap();
    assert_eq!(last.id, "20261121T020000");
    // When the record was written: the series, and those of other exporters, want a time.
    assert!(last.time().is_some_and(|time| time > hour(0)), "{last:?}");
    assert_eq!(seen.backups.last_good.as_ref().unwrap().id, good);
    // The next one puts it right.
    scene.done(1, (4, 5), 3);
    assert!(scene.problems().await.is_empty());
    let seen = scene.seen().await;
    let last = seen.backups.last_failed.as_ref().unwrap();
    assert_eq!(last.id, "20261121T020000");
}

/// From the second look on only what changed is read.
#[tokio::test]
async fn what_did_not_change_is_not_read_again() {
    let scene = Scene::new();
    for began in 0..50 {
        let id = scene.done(1, (2, 2), began);
        scene
            .0
            .insert(&format!("p/main/base/{id}/annotations/keep"), "full");
    }
    scene.0.insert("p/main/base/X/backup.info", "garbage");
    scene.wal(1, 2..=3);
    scene.wal(2, 3..=3);
    scene
        .0
        .insert("p/main/wals/00000002.history", "1\t0/3000158\tx\n");
    let faulty = FaultyStore::new(Arc::new(scene.0.clone()));
    let mut watch = Scene::watch_through(faulty.clone());
    let one = watch.look().await;
    // Records, annotations and the history.
    assert_eq!(faulty.count(StoreOp::Get), 51 + 50 + 1);
    let again = watch.look().await;
    assert_eq!(faulty.count(StoreOp::Get), 102);
    let (one, again) = (seen(&one), seen(&again));
    assert_eq!((&one.backups, &one.wal), (&again.backups, &again.wal));
    assert_eq!(one.recovery, again.recovery);
    let id = scene.done(1, (3, 3), 3);
    scene
        .0
        .insert(&format!("p/main/base/{id}/annotations/keep"), "standalone");
    let changed = seen(&watch.look().await);
    assert_eq!(faulty.count(StoreOp::Get), 104);
    assert_eq!(changed.backups.kept["standalone"], 1);
    scene.0.remove(&format!("p/main/base/{id}/backup.info"));
    assert_eq!(seen(&watch.look().await).backups.available, 49);
}

/// One request for each page of the listings, and one for each record: what the layout asks for.
#[tokio::test]
async fn a_large_catalogue_costs_its_listings_and_its_records() {
    let memory = MemoryStore::new();
    let scene = Scene(memory);
    for began in 0..1000 {
        let segment = 2 + u64::try_from(began).unwrap() * 100;
        scene.done(1, (segment, segment), began);
    }
    scene.wal(1, 2..100_002);
    let mut watch = scene.watch();
    let overview = watch.look().await;
    let told = seen(&overview);
    assert_eq!(
        (told.backups.available, told.backups.restorable),
        (1000, 1000)
    );
    assert_eq!(told.wal.timelines[&TimelineId(1)].segments, 100_000);
    // 3,000 objects of backups, 100,000 of WAL; one listing each for keeps and for gaps.
    let listings = 3 + 100 + 1 + 1;
    assert_eq!(
        (overview.look.requests, overview.look.errors),
        (1000 + listings, 0)
    );
    let again = watch.look().await;
    assert_eq!(again.look.requests, 1000 + 2 * listings);
    assert_eq!(seen(&again).backups, told.backups);
}

#[tokio::test]
async fn a_hole_in_the_wal_is_told_if_somebody_needs_what_is_missing() {
    let scene = Scene::new();
    scene.wal(1, [0, 2, 3, 4, 6, 9]);
    assert_eq!(
        scene.problems().await,
        ["there is no base backup to restore"]
    );
    // Before the oldest backup nobody minds.
    let id = scene.done(1, (9, 9), 4);
    assert!(scene.problems().await.is_empty());
    scene.done(1, (2, 3), 0);
    let seen = scene.seen().await;
    let wal = &seen.wal.timelines[&TimelineId(1)];
    assert_eq!((wal.gaps, wal.missing), (2, 3));
    assert_eq!(seen.backups.restorable, 2);
    assert_eq!(
        scene.problems().await,
        [
            "WAL segment 000000010000000000000005 is missing: recoveries stop there",
            "2 WAL segments are missing, 000000010000000000000007 to \
             000000010000000000000008: recoveries stop there",
        ]
    );
    // One that is kept for itself does not need what follows it.
    scene
        .0
        .insert("p/main/base/20261121T000000/annotations/keep", "standalone");
    assert!(scene.problems().await.is_empty());
    scene
        .0
        .remove("p/main/wals/0000000100000000/000000010000000000000003.gz");
    let seen = scene.seen().await;
    assert_eq!(seen.backups.restorable, 1);
    assert_eq!(seen.recovery.first.as_ref().unwrap().backup, id);
    assert_eq!(seen.recovery.holes.len(), 1);
}

#[tokio::test]
async fn a_backup_that_just_ended_waits_for_its_wal() {
    let scene = Scene::new();
    scene.done(1, (2, 2), 0);
    let id = scene.done(1, (4, 6), 4);
    scene.wal(1, 2..=5);
    let seen = scene.seen().await;
    assert_eq!((seen.backups.available, seen.backups.restorable), (2, 1));
    let last = seen.recovery.last.as_ref().unwrap();
    assert_eq!(last.segment.as_deref(), Some("000000010000000000000005"));
    let problems = |now| Verdict::of(&seen, Thresholds::default(), now).problems;
    assert!(problems(hour(5)).is_empty(), "it ended half an hour before");
    let text =
        format!("the WAL to the end of backup {id} was not archived yet: it cannot be restored");
    assert_eq!(problems(hour(6)), [text]);
}

#[tokio::test]
async fn a_recovery_follows_the_newest_timeline_that_its_backup_is_in() {
    let scene = Scene::new();
    scene.done(1, (2, 2), 0);
    scene.wal(1, 2..=9);
    scene.wal(2, 5..=6);
    scene.wal(3, 5..=8);
    let history = |timeline: u32, text: &str| {
        let key = format!("p/main/wals/{timeline:08X}.history");
        scene.0.insert(&key, text.to_owned());
    };
    history(2, "1\t0/5000158\tx\n");
    history(3, "1\t0/5000158\tx\n2\t0/5000200\ty\n");
    let last = async || {
        scene
            .seen()
            .await
            .recovery
            .last
            .clone()
            .unwrap()
            .segment
            .unwrap()
    };
    assert_eq!(last().await, "000000030000000000000008");
    // 3 forked off in the very segment in which 2 began.
    history(3, "1\t0/5000158\tx\n2\t0/8000000\ty\n");
    assert_eq!(last().await, "000000020000000000000006");
    assert_eq!(
        scene.problems().await,
        ["WAL segment 000000020000000000000007 is missing: recoveries stop there"]
    );
    // It left timeline 1 before the backup.
    history(3, "1\t0/1000000\tx\n");
    assert_eq!(last().await, "000000020000000000000006");
    assert!(scene.problems().await.is_empty());
    scene.0.remove("p/main/wals/00000002.history");
    assert_eq!(last().await, "000000010000000000000009");
    assert_eq!(
        scene.problems().await,
        ["the history of timeline 2 is missing or damaged: no recovery follows it"]
    );
}

#[tokio::test]
async fn wal_that_was_let_go_is_told_even_if_nothing_follows_it() {
    let scene = Scene::new();
    scene.done(1, (2, 2), 0);
    scene.wal(1, 2..=4);
    let name = |number| WalName::of_number(TimelineId(1), number, SIZE);
    let gap = Gap {
        id: "0f".into(),
        server: "main".into(),
        system: Some(7),
        first: name(5),
        last: name(6),
        segment_size: SIZE,
        since: hour(1),
        until: hour(1),
        host: "db1".into(),
        waiting: 2,
        limit: 1,
        why: "refused".into(),
    };
    scene
        .0
        .insert(&format!("p/main/gaps/{}", gap.name()), gap.to_text());
    let [problem] = &scene.problems().await[..] else {
        panic!("{:?}", scene.problems().await);
    };
    assert!(
        problem.contains("stops before 000000010000000000000005"),
        "{problem}"
    );
}

/// A store that fails shows as a failure and not as what was seen before (M1).
#[tokio::test]
async fn what_cannot_be_seen_is_not_shown_as_it_was() {
    let scene = Scene::new();
    scene.done(1, (2, 2), 0);
    scene.wal(1, 2..=2);
    let faulty = FaultyStore::new(Arc::new(scene.0.clone()));
    let mut watch = Scene::watch_through(faulty.clone());
    assert!(watch.before().servers[0].seen.is_err());
    let good = watch.look().await;
    assert!(good.failure().is_none() && good.look.last_good == good.look.ended);
    for (op, kind) in [
        (StoreOp::List, OpErrorKind::Unreachable),
        (StoreOp::Get, OpErrorKind::Unreachable),
    ] {
        // A new record, so that there is something to get.
        scene.done(1, (2, 2), 7);
        faulty.fail(op, Fault::Before(StoreErrorKind::Connect), 1);
        let bad = watch.look().await;
        let error = bad.servers[0].seen.as_ref().unwrap_err();
        assert_eq!(error.kind, kind, "{op:?}");
        assert_eq!(bad.failure().unwrap().kind, kind);
        assert!(bad.servers[0].last_good >= good.servers[0].last_good);
        assert!(bad.look.errors > 0 && bad.look.failures > 0);
        let back = watch.look().await;
        assert_eq!(seen(&back).backups.available, 2, "{op:?}");
        assert!(back.failure().is_none());
        assert!(back.outdated().servers[0].seen.is_err());
        scene.0.remove("p/main/base/20261121T070000/backup.info");
        watch.look().await;
    }
    // A record that may not be read is counted, and read as soon as it may be.
    scene.done(1, (2, 2), 8);
    faulty.fail(
        StoreOp::Get,
        Fault::Before(StoreErrorKind::PermissionDenied),
        1,
    );
    let denied = seen(&watch.look().await);
    assert_eq!(denied.backups.by_status["unreadable"], 1);
    let read = seen(&watch.look().await);
    assert_eq!(
        (read.backups.by_status["unreadable"], read.backups.available),
        (0, 2)
    );
}

#[tokio::test]
async fn servers_are_found_by_what_is_in_their_directories() {
    let memory = MemoryStore::new();
    for key in [
        "p/main/base/x/backup.info",
        "p/wal only/wals/0000000100000000/000000010000000000000001",
        "p/other/files/base/x",
        "p/base",
        "q/far/base/x",
        "p/../base/x",
    ] {
        memory.insert(key, "");
    }
    let faulty = FaultyStore::new(Arc::new(memory.clone()));
    for (path, expected) in [
        ("p", vec!["main", "wal only"]),
        ("p/", vec!["main", "wal only"]),
        ("q", vec!["far"]),
    ] {
        let mut watch = Watch::new(Arc::new(faulty.clone()), path.into(), Wanted::All).unwrap();
        let names = |overview: Overview| {
            let names = overview.servers.into_iter().map(|server| server.name);
            names.collect::<Vec<_>>()
        };
        assert_eq!(names(watch.look().await), expected);
        // Those that are known are not looked into again.
        let before = faulty.count(StoreOp::List);
        assert_eq!(names(watch.look().await), expected);
        let known = u32::try_from(expected.len()).unwrap();
        let strangers = u32::from(path != "q");
        // The place; then base backups, keeps elsewhere, WAL and gaps.
        let looks = faulty.count(StoreOp::List) - before;
        assert_eq!(looks, 1 + strangers + 4 * known, "{path}");
    }
    let mut watch = Watch::new(Arc::new(faulty.clone()), "p".into(), Wanted::All).unwrap();
    watch.look().await;
    faulty.fail(StoreOp::List, Fault::Before(StoreErrorKind::Connect), 1);
    let blind = watch.look().await;
    assert_eq!(blind.servers.len(), 2, "they are known by name");
    assert!(blind.servers.iter().all(|server| server.seen.is_err()));
    memory.remove("p/main/base/x/backup.info");
    assert_eq!(watch.look().await.servers.len(), 1);
}

#[tokio::test]
async fn ages_count_where_they_were_asked_for() {
    use std::time::Duration;
    let scene = Scene::new();
    scene.done(1, (2, 2), 0);
    scene.wal(1, 2..=2);
    let mut snapshot = Snapshot::clone(&*scene.seen().await);
    snapshot.wal.last_archived = Some(hour(0));
    let hours = |number: u64| Some(Duration::from_hours(number));
    let problems = |max_backup_age, max_wal_age, now| {
        let thresholds = Thresholds {
            max_backup_age,
            max_wal_age,
        };
        Verdict::of(&snapshot, thresholds, now).problems
    };
    assert!(problems(None, None, hour(1000)).is_empty());
    assert!(problems(hours(24), hours(24), hour(24)).is_empty());
    assert_eq!(
        problems(hours(24), hours(1), hour(26)),
        [
            "the last good backup ended 1 day, 1 hour, 30 minutes ago, more than 1 day",
            "WAL was last archived 1 day, 2 hours ago, more than 1 hour",
        ]
    );
    snapshot.wal.last_archived = None;
    let problems = Verdict::of(
        &snapshot,
        Thresholds {
            max_backup_age: None,
            max_wal_age: hours(1),
        },
        hour(0),
    );
    assert_eq!(
        problems.problems,
        ["it is not known when WAL was last archived: wanted within 1 hour"]
    );
}

#[tokio::test]
async fn the_last_backup_counts_even_if_older_ones_are_good() {
    let scene = Scene::new();
    scene.done(1, (2, 2), 0);
    scene.wal(1, 2..=2);
    let mut failed = record(Status::Failed, 1, (2, 2), 1);
    failed.error = Some("disk full".into());
    let id = scene.backup(&failed, &[]);
    let text = format!("the last backup, {id}, failed: disk full");
    assert_eq!(scene.problems().await, [text]);
    scene.backup(&record(Status::Started, 1, (2, 2), 2), &[]);
    assert!(
        scene.problems().await.is_empty(),
        "another one is being taken"
    );
}

#[tokio::test]
async fn a_page_says_what_is_recoverable_and_what_is_wrong() {
    use crate::ops::Format;
    let scene = Scene::new();
    let mut info = record(Status::Done, 1, (2, 2), 0);
    info.backup_name = Some("night|ly\x1b[2J".into());
    scene.backup(&info, &["data.tar.gz"]);
    scene.wal(1, 2..=3);
    let mut overview = scene.watch().look().await;
    let mut snapshot = Snapshot::clone(&*seen(&overview));
    snapshot.wal.last_archived = Some(hour(1));
    snapshot.recovery.last.as_mut().unwrap().at = Some(hour(1));
    overview.servers[0].seen = Ok(Arc::new(snapshot.clone()));
    let page =
        |overview: &Overview, format| status(overview, Thresholds::default(), format, hour(2));
    let good = page(&overview, Format::Console);
    assert!(good.failure.is_none());
    assert_eq!(
        good.text,
        "BARMAN OK - main: 1 base backup, recoverable from 2026-11-21 00:30:00Z (1 hour ago) to \
         2026-11-21 01:00:00Z (1 hour ago)\n\
         \n\
         Server main\n  \
           recoverable from    : 2026-11-21 00:30:00Z (1 hour ago) (backup 20261121T000000)\n  \
           recoverable to      : 2026-11-21 01:00:00Z (1 hour ago) (backup 20261121T000000, to segment 000000010000000000000003)\n  \
           base backups        : 1 done (1 can be restored, 0 kept, 10 B in the store)\n  \
           last good backup    : 20261121T000000 (night|ly [2J), 2026-11-21 00:30:00Z (1 hour ago), took 30 minutes, gzip, 10 B stored of 1000 B\n  \
           last failed backup  : none\n  \
           WAL of timeline 1   : 000000010000000000000002 to 000000010000000000000003, 2 files, 6 B\n  \
           WAL last archived   : 2026-11-21 01:00:00Z (1 hour ago)\n"
    );
    let json: serde_json::Value =
        serde_json::from_str(&page(&overview, Format::Json).text).unwrap();
    assert_eq!(json["healthy"], true);
    let server = &json["servers"][0];
    assert_eq!(
        server["seen"]["recoverable_to"]["time"],
        "2026-11-21T01:00:00Z"
    );
    assert_eq!(
        server["seen"]["backups"]["last_good"]["server_version"],
        "15.4"
    );
    // Something is wrong.
    let thresholds = Thresholds {
        max_backup_age: Some(std::time::Duration::from_mins(1)),
        max_wal_age: Some(std::time::Duration::from_mins(1)),
    };
    let bad = status(&overview, thresholds, Format::Console, hour(2));
    let error = bad.failure.unwrap();
    assert_eq!((error.kind, error.expected), (OpErrorKind::Failed, true));
    let first = bad.text.lines().next().unwrap();
    assert_eq!(
        first,
        "BARMAN WARNING - main: the last good backup ended 1 hour, 30 minutes ago, more than \
         1 minute (and 1 more)"
    );
    assert_eq!(
        bad.text.matches("  PROBLEM             : ").count(),
        2,
        "{}",
        bad.text
    );
    // The store is gone.
    let faulty = FaultyStore::new(Arc::new(scene.0.clone()));
    faulty.fail(StoreOp::List, Fault::Before(StoreErrorKind::Connect), 9);
    let gone = page(&Scene::watch_through(faulty).look().await, Format::Console);
    assert_eq!(gone.failure.unwrap().kind, OpErrorKind::Unreachable);
    assert!(
        gone.text.starts_with("BARMAN CRITICAL - main: could not "),
        "{}",
        gone.text
    );
    // There is nobody.
    let mut nobody = Watch::new(Arc::new(MemoryStore::new()), "q".into(), Wanted::All).unwrap();
    let nobody = page(&nobody.look().await, Format::Console);
    assert_eq!(nobody.failure.unwrap().kind, OpErrorKind::Failed);
    assert_eq!(
        nobody.text,
        "BARMAN WARNING - there is no server in this place\n"
    );
}

#[test]
fn names_that_no_server_can_have_are_refused() {
    let wanted = Wanted::Named(vec!["main".into(), "..".into()]);
    let store = Arc::new(MemoryStore::new());
    let error = Watch::new(store, "p".into(), wanted).unwrap_err();
    assert_eq!(error.kind, OpErrorKind::Usage);
}

/// As that of a standby which followed a promotion meanwhile.
#[tokio::test]
async fn a_backup_that_ended_on_another_timeline_is_whole() {
    let scene = Scene::new();
    let mut info = record(Status::Done, 1, (2, 4), 4);
    info.end_wal = Some("000000020000000000000004".into());
    let id = scene.backup(&info, &["data.tar"]);
    scene.wal(1, 2..=2);
    scene.wal(2, 3..=5);
    let text = "1\t0/3000158\tx\n";
    scene.0.insert("p/main/wals/00000002.history", text);
    let seen = scene.seen().await;
    assert_eq!((seen.backups.available, seen.backups.restorable), (1, 1));
    let last = seen.recovery.last.as_ref().unwrap();
    let segment = Some("000000020000000000000005");
    assert_eq!((&last.backup, last.segment.as_deref()), (&id, segment));
    assert!(seen.recovery.holes.is_empty());
}
