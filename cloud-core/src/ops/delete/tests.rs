//! Deletions on a store in memory: what is left after each end there can be.

use std::collections::BTreeMap;
use std::fmt::Write;

use bytes::Bytes;
use jiff::tz::TimeZone;

use super::*;
use crate::catalogue::time;
use crate::store::{Fault, FaultyStore, MemoryStore, ObjectLock, StoreErrorKind, StoreOp};

mod gaps;
mod purge;
mod snapshots;

const ROOT: &str = "p/main";

/// A backup in the store: id, status, first segment, last segment.
type Backup = (&'static str, &'static str, u32, u32);

const BACKUPS: [Backup; 6] = [
    ("20261101T000000", "DONE", 4, 5),
    ("20261102T000000", "FAILED", 7, 7),
    ("20261103T000000", "DONE", 9, 9),
    ("20261104T000000", "DONE", 12, 14),
    ("20261105T000000", "DONE", 18, 18),
    ("20261120T000000", "STARTED", 24, 24),
];

const ARCHIVES: [&str; 4] = [
    "data.tar.gz",
    "data_0001.tar.gz",
    "16384.tar.gz",
    "9.tar.zst2",
];

/// The last segment in the archive.
const LAST: u32 = 26;

fn now() -> Timestamp {
    "2026-11-21T12:00:00Z".parse().unwrap()
}

fn segment(number: u32) -> String {
    format!("00000001{:08X}{:08X}", number >> 3, number & 7)
}

fn wal(number: u32) -> String {
    let name = segment(number);
    format!("{ROOT}/wals/{}/{name}.gz", &name[..16])
}

fn record((_, status, begin, end): &Backup) -> String {
    let status = match *status {
        "DONE" => Status::Done,
        "STARTED" => Status::Started,
        _ => Status::Failed,
    };
    let at = |text: &str| time::Timestamp::parse(text, &TimeZone::UTC).unwrap();
    let done = status == Status::Done;
    BackupInfo {
        timeline: Some(1),
        begin_wal: Some(segment(*begin)),
        begin_time: Some(at("2026-11-20 00:00:00Z")),
        end_wal: done.then(|| segment(*end)),
        end_time: done.then(|| at("2026-11-20 01:00:00Z")),
        status,
        unknown_fields: vec![("future".into(), "'x'".into())],
        ..BackupInfo::default()
    }
    .to_text()
}

fn dir(id: &str) -> String {
    format!("{ROOT}/base/{id}")
}

fn filled() -> MemoryStore {
    let store = MemoryStore::new().with_page(7);
    for backup in &BACKUPS {
        for archive in ARCHIVES {
            store.insert(&format!("{}/{archive}", dir(backup.0)), backup.0);
        }
        store.insert(&format!("{}/notes.txt", dir(backup.0)), "mine");
        store.insert(&format!("{}/backup.info", dir(backup.0)), record(backup));
    }
    for number in 0..=LAST {
        store.insert(&wal(number), "");
    }
    store.insert(&format!("{ROOT}/wals/00000002.history"), "");
    store.insert(
        "p/main2/base/20261101T000000/backup.info",
        "of another server",
    );
    store
}

fn keep(store: &MemoryStore, id: &str, text: &str) {
    store.insert(&format!("{}/annotations/keep", dir(id)), text.to_owned());
}

fn by_policy(policy: &str) -> DeleteRequest {
    DeleteRequest {
        path: "p".into(),
        server: "main".into(),
        selection: Some(Selection::Policy(policy.parse().unwrap())),
        minimum_redundancy: 0,
        dry_run: false,
        batch_size: None,
        check_object_lock: false,
        purge: None,
        clouds: Clouds::default(),
    }
}

fn by_id(id: &str) -> DeleteRequest {
    DeleteRequest {
        selection: Some(Selection::Backup(id.into())),
        ..by_policy("REDUNDANCY 1")
    }
}

async fn delete(store: impl ObjectStore, request: &DeleteRequest) -> Result<Answer, OpError> {
    run_at(Arc::new(store), request.clone(), now()).await
}

/// The backups that are left, each with its status, and the segments.
fn left(store: &MemoryStore) -> String {
    let contents = store.contents();
    let mut text = String::new();
    for (id, ..) in &BACKUPS {
        if let Some(info) = info_of(&contents, id) {
            let _ = write!(text, "{} {} ", &id[6..8], info.status);
        }
    }
    let is_there = |number: &u32| contents.contains_key(&wal(*number));
    let segments: Vec<u32> = (0..=LAST).filter(is_there).collect();
    let _ = write!(text, "{segments:?}");
    text
}

fn info_of(contents: &BTreeMap<String, Bytes>, id: &str) -> Option<BackupInfo> {
    let bytes = contents.get(&format!("{}/backup.info", dir(id)))?;
    Some(BackupInfo::parse(bytes, &TimeZone::UTC).unwrap())
}

/// A backup that says it is DONE can be restored: all of its archives and the
/// WAL until its end are there.
fn check_promises(store: &MemoryStore, when: &str) {
    let contents = store.contents();
    for (id, _, begin, end) in &BACKUPS {
        let Some(info) = info_of(&contents, id) else {
            continue;
        };
        if info.status != Status::Done {
            continue;
        }
        for archive in ARCHIVES {
            let key = format!("{}/{archive}", dir(id));
            assert!(contents.contains_key(&key), "{when}: {key} is gone");
        }
        for number in *begin..=*end {
            let key = wal(number);
            assert!(contents.contains_key(&key), "{when}: {key} is gone");
        }
    }
    assert!(contents.contains_key("p/main2/base/20261101T000000/backup.info"));
}

#[tokio::test]
async fn backups_go_with_their_wal_and_strangers_stay() {
    let store = filled();
    delete(store.clone(), &by_policy("REDUNDANCY 2"))
        .await
        .unwrap();
    let segments: Vec<u32> = (12..=LAST).collect();
    let expected = format!("02 FAILED 04 DONE 05 DONE 20 STARTED {segments:?}");
    assert_eq!(left(&store), expected);
    let contents = store.contents();
    for id in ["20261101T000000", "20261103T000000"] {
        let of_id: Vec<_> = contents.keys().filter(|k| k.contains(id)).collect();
        let below = format!("{ROOT}/");
        let of_server: Vec<_> = of_id.iter().filter(|k| k.starts_with(&below)).collect();
        assert_eq!(of_server, [&&format!("{}/notes.txt", dir(id))]);
    }
    assert!(contents.contains_key(&format!("{ROOT}/wals/00000002.history")));
    check_promises(&store, "at the end");
    let before = store.contents();
    delete(store.clone(), &by_policy("REDUNDANCY 2"))
        .await
        .unwrap();
    assert_eq!(store.contents(), before, "a second run changes nothing");
}

/// The store goes away after any number of calls. Nothing is left that looks
/// good and is not, and the next run comes to the same end.
#[tokio::test]
async fn a_deletion_that_dies_anywhere_is_finished_by_the_next() {
    for (request, batch) in [
        (by_policy("REDUNDANCY 2"), None),
        (by_policy("REDUNDANCY 2"), Some(1)),
        (by_policy("REDUNDANCY 1"), Some(2)),
        (by_id("20261101T000000"), Some(3)),
        (by_id("20261102T000000"), Some(1)),
    ] {
        let request = DeleteRequest {
            batch_size: batch,
            ..request
        };
        let whole = filled();
        delete(whole.clone(), &request).await.unwrap();
        let mut calls = 0;
        loop {
            let store = filled();
            let faulty = FaultyStore::new(Arc::new(store.clone())).die_after(calls);
            let result = delete(faulty, &request).await;
            let when = format!("{request:?} after {calls} calls");
            check_promises(&store, &when);
            if result.is_ok() {
                break;
            }
            delete(store.clone(), &request).await.unwrap();
            assert_eq!(left(&store), left(&whole), "{when}");
            assert_eq!(store.contents(), whole.contents(), "{when}");
            calls += 1;
        }
        assert!(calls > 10, "it made {calls} calls");
    }
}

/// Each object is refused once. What is left is named, the exit code tells it,
/// and a second run finishes.
#[tokio::test]
async fn a_refused_object_is_named_and_the_next_run_finishes() {
    let request = by_policy("REDUNDANCY 2");
    let whole = filled();
    delete(whole.clone(), &request).await.unwrap();
    let gone = filled()
        .contents()
        .into_keys()
        .filter(|key| !whole.contents().contains_key(key));
    let mut refused = 0;
    for key in gone {
        let store = filled();
        let faulty = FaultyStore::new(Arc::new(store.clone()));
        let fault = Fault::RefuseKeys(StoreErrorKind::PermissionDenied);
        faulty.fail_for(&key, StoreOp::Delete, fault, 1);
        let error = delete(faulty, &request).await.unwrap_err();
        assert_eq!(error.kind, OpErrorKind::Failed, "{key}");
        assert!(error.message.contains("Could not delete"), "{error}");
        assert!(store.contents().contains_key(&key));
        check_promises(&store, &key);
        delete(store.clone(), &request).await.unwrap();
        assert_eq!(store.contents(), whole.contents(), "{key}");
        refused += 1;
    }
    assert!(refused > 20);
}

#[tokio::test]
async fn a_backup_of_which_nothing_can_be_deleted_is_as_good_as_before() {
    let store = filled();
    let before = store.contents();
    let faulty = FaultyStore::new(Arc::new(store.clone()));
    let fault = Fault::RefuseKeys(StoreErrorKind::PermissionDenied);
    faulty.fail_for("20261101T000000/", StoreOp::Delete, fault, 1);
    let result = delete(faulty.clone(), &by_id("20261101T000000")).await;
    assert_eq!(result.unwrap_err().kind, OpErrorKind::Failed);
    assert_eq!(store.contents(), before);
    assert_eq!(faulty.count(StoreOp::Put), 2, "marked and put back");
}

/// The WAL of a later backup goes only when all before it are gone: an earlier
/// one that could not be deleted needs it. Also when the later one was faster.
#[tokio::test]
async fn after_a_failure_nothing_goes_that_an_earlier_backup_needs() {
    for turns in [0, 1000] {
        let store = filled();
        let faulty = FaultyStore::new(Arc::new(store.clone()));
        let fault = Fault::RefuseKeys(StoreErrorKind::PermissionDenied);
        faulty.fail_for("20261101T000000/", StoreOp::Delete, fault, 1);
        faulty.fail_for("20261101T000000/", StoreOp::Put, Fault::Late(turns), 1);
        let result = delete(faulty, &by_policy("REDUNDANCY 1")).await;
        assert_eq!(result.unwrap_err().kind, OpErrorKind::Failed);
        let all: Vec<u32> = (0..=LAST).collect();
        // The faster ones are begun, and finished by the next run.
        let others = if turns == 0 { "DONE" } else { "FAILED" };
        let expected =
            format!("01 DONE 02 FAILED 03 {others} 04 {others} 05 DONE 20 STARTED {all:?}");
        assert_eq!(left(&store), expected);
        check_promises(&store, "after the failure");
    }
}

/// Whoever makes room in a full store cannot write into it first, and whoever may only
/// delete cannot at all; what is left when the run dies on the way is no backup to anybody.
#[tokio::test]
async fn a_store_that_nothing_can_be_written_to_can_be_emptied() {
    let denied = StoreErrorKind::PermissionDenied;
    for (kind, writes) in [
        (StoreErrorKind::Full, 1),
        (StoreErrorKind::Full, u32::MAX),
        (denied, u32::MAX),
    ] {
        let store = filled();
        let faulty = FaultyStore::new(Arc::new(store.clone()));
        faulty.fail(StoreOp::Put, Fault::Before(kind), writes);
        delete(faulty, &by_policy("REDUNDANCY 1")).await.unwrap();
        let wanted = filled();
        delete(wanted.clone(), &by_policy("REDUNDANCY 1"))
            .await
            .unwrap();
        assert_eq!(store.contents(), wanted.contents());
    }
    for calls in 0.. {
        let store = filled();
        let faulty = FaultyStore::new(Arc::new(store.clone())).die_after(calls);
        faulty.fail(StoreOp::Put, Fault::Before(StoreErrorKind::Full), u32::MAX);
        let result = delete(faulty, &by_policy("REDUNDANCY 1")).await;
        check_promises(&store, &format!("after {calls} calls"));
        if result.is_ok() {
            break;
        }
    }
}

#[tokio::test]
async fn one_locked_archive_keeps_the_whole_backup() {
    let later = std::time::SystemTime::now() + Duration::from_hours(24);
    for (lock, locked) in [
        (ObjectLock::Until(later), true),
        (ObjectLock::LegalHold, true),
        (ObjectLock::Until(std::time::UNIX_EPOCH), false),
    ] {
        let store = filled();
        let key = format!("{}/9.tar.zst2", dir("20261101T000000"));
        store.lock_object(&key, &lock);
        let before = store.contents();
        let request = DeleteRequest {
            check_object_lock: true,
            batch_size: Some(1),
            ..by_id("20261101T000000")
        };
        let result = delete(store.clone(), &request).await;
        if locked {
            let error = result.unwrap_err();
            let text = format!("Cannot delete locked object {key}: ");
            assert!(error.message.starts_with(&text), "{error}");
            assert_eq!(error.kind, OpErrorKind::Failed);
            assert_eq!(store.contents(), before);
        } else {
            result.unwrap();
        }
    }
}

#[tokio::test]
async fn a_lock_that_cannot_be_looked_at_is_a_lock() {
    let store = filled();
    let before = store.contents();
    let faulty = FaultyStore::new(Arc::new(store.clone()));
    let fault = Fault::Before(StoreErrorKind::PermissionDenied);
    faulty.fail(StoreOp::Head, fault, 1);
    let request = DeleteRequest {
        check_object_lock: true,
        ..by_id("20261101T000000")
    };
    assert!(delete(faulty, &request).await.is_err());
    assert_eq!(store.contents(), before);
}

#[tokio::test]
async fn while_one_record_cannot_be_read_nothing_is_deleted() {
    for garbage in [
        &b"garbage"[..],
        b"\xff\xfe",
        b"end_time=soon\n",
        // What can be read and says two things.
        b"status=DOND\n",
        b"status=DONE\ntimeline=1\nbegin_xlog=0/6000028\nbegin_wal=000000010000000000000016\n",
    ] {
        for request in [by_policy("REDUNDANCY 1"), by_id("20261101T000000")] {
            let store = filled();
            store.insert(
                &format!("{}/backup.info", dir("20261102T000000")),
                garbage.to_vec(),
            );
            let before = store.contents();
            let error = delete(store.clone(), &request).await.unwrap_err();
            assert_eq!(error.kind, OpErrorKind::Failed);
            assert_eq!(
                error.message,
                "Unsafe to proceed with deletion due to failure reading backup catalog"
            );
            assert_eq!(store.contents(), before);
        }
    }
}

#[tokio::test]
async fn a_listing_that_fails_deletes_nothing() {
    let store = filled();
    let before = store.contents();
    let faulty = FaultyStore::new(Arc::new(store.clone()));
    faulty.fail(StoreOp::List, Fault::After(StoreErrorKind::Connect), 1);
    let error = delete(faulty, &by_policy("REDUNDANCY 1"))
        .await
        .unwrap_err();
    assert_eq!(error.kind, OpErrorKind::Unreachable);
    assert_eq!(store.contents(), before);
}

#[tokio::test]
async fn keeps_protect_in_either_place_and_with_any_text() {
    for text in ["full", "standalone", "", "standalone\n", "\u{fffd}"] {
        for place in ["p/main", "p//main"] {
            let store = filled();
            let key = format!("{place}/base/20261103T000000/annotations/keep");
            store.insert(&key, text.to_owned());
            let error = delete(store.clone(), &by_id("20261103T000000")).await;
            let error = error.unwrap_err();
            assert!(
                error.message.contains("has a current keep request"),
                "{error}"
            );
            delete(store.clone(), &by_policy("REDUNDANCY 0"))
                .await
                .unwrap();
            assert!(
                left(&store).starts_with("02 FAILED 03 DONE 20 "),
                "{text:?}"
            );
            let contents = store.contents();
            let gone: Vec<_> = (0..=LAST)
                .filter(|n| !contents.contains_key(&wal(*n)))
                .collect();
            let standalone = text.starts_with("standalone");
            let expected: Vec<u32> = if standalone {
                (0..18).filter(|n| *n != 9).collect()
            } else {
                (0..9).collect()
            };
            assert_eq!(gone, expected, "{text:?} in {place}");
        }
    }
}

/// Another process sets a keep, or changes the record, after the catalogue was
/// read.
#[tokio::test]
async fn what_changed_in_the_meantime_is_not_deleted() {
    let layout = Layout::new("p", "main").unwrap();
    for change in ["keep", "record"] {
        let store = filled();
        let request = by_id("20261101T000000");
        let work = Work {
            store: &store,
            remover: Remover::new(&store, None),
            layout: &layout,
            request: &request,
            now: now(),
        };
        let catalogue = work.load().await.unwrap();
        let plan = work.plan(request.selection.as_ref().unwrap(), &catalogue);
        let plan = plan.await.unwrap().unwrap();
        if change == "keep" {
            keep(&store, "20261101T000000", "full");
        } else {
            let other = record(&("20261101T000000", "DONE", 4, 6));
            store.insert(&format!("{}/backup.info", dir("20261101T000000")), other);
        }
        let before = store.contents();
        let error = work.execute(&plan, &catalogue).await.unwrap_err();
        assert!(error.message.contains("in the meantime"), "{error}");
        assert_eq!(store.contents(), before);
    }
}

/// A keep that comes after the last look at the backup and before its record is
/// marked: whoever set it was told that it is set.
#[tokio::test]
async fn a_keep_that_was_set_before_the_mark_counts() {
    const ID: &str = "20261101T000000";
    let store = filled();
    let faulty = FaultyStore::new(Arc::new(store.clone()));
    faulty.fail_for("backup.info", StoreOp::Put, Fault::Late(1), 1);
    let request = by_id(ID);
    let set = async {
        let before = store.contents();
        keep(&store, ID, "full");
        before
    };
    let (result, mut expected) = tokio::join!(delete(faulty.clone(), &request), set);
    let error = result.unwrap_err();
    assert!(error.message.contains("in the meantime"), "{error}");
    let annotation = format!("{}/annotations/keep", dir(ID));
    expected.insert(annotation, Bytes::from_static(b"full"));
    assert_eq!(store.contents(), expected, "it is as good as before");
    assert_eq!(faulty.count(StoreOp::Delete), 0);

    // Whether it is kept is not known: nothing goes either.
    let store = filled();
    let before = store.contents();
    let faulty = FaultyStore::new(Arc::new(store.clone()));
    let fault = Fault::Before(StoreErrorKind::PermissionDenied);
    faulty.fail_for("annotations", StoreOp::List, fault, 10);
    delete(faulty, &request).await.unwrap_err();
    assert_eq!(store.contents(), before);
}

#[tokio::test]
async fn a_dry_run_names_what_a_run_deletes_and_changes_nothing() {
    for request in [
        by_policy("REDUNDANCY 2"),
        by_policy("REDUNDANCY 0"),
        by_policy("RECOVERY WINDOW OF 0 DAYS"),
        by_id("20261101T000000"),
        by_id("20261102T000000"),
    ] {
        let store = filled();
        keep(&store, "20261104T000000", "standalone");
        let before = store.contents();
        let dry = DeleteRequest {
            dry_run: true,
            ..request.clone()
        };
        let text = delete(store.clone(), &dry).await.unwrap().text;
        assert_eq!(store.contents(), before);
        let mut named: Vec<String> = Vec::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("Skipping deletion of all objects under prefix ")
            {
                let prefix = rest.split(' ').next().unwrap();
                let below = before.keys().filter(|key| key.starts_with(prefix));
                named.extend(below.cloned());
            } else {
                let list = line.strip_prefix("Skipping deletion of objects [").unwrap();
                let list = list.strip_suffix("] due to --dry-run option").unwrap();
                named.extend(
                    list.split(", ")
                        .map(|item| item.trim_matches('\'').to_owned()),
                );
            }
        }
        // A directory is named by every backup that takes it.
        named.sort();
        named.dedup();
        delete(store.clone(), &request).await.unwrap();
        let after = store.contents();
        let gone: Vec<String> = before
            .into_keys()
            .filter(|key| !after.contains_key(key))
            .collect();
        assert_eq!(named, gone, "{request:?}");
    }
}

#[tokio::test]
async fn requests_hold_as_many_objects_as_the_user_wants() {
    for (wanted, most) in [
        (None, 1000),
        (Some(3), 3),
        (Some(-5), 1),
        (Some(i64::MAX), 1000),
    ] {
        let store = filled();
        let faulty = FaultyStore::new(Arc::new(store.clone()));
        let request = DeleteRequest {
            batch_size: wanted,
            ..by_policy("REDUNDANCY 1")
        };
        delete(faulty.clone(), &request).await.unwrap();
        let calls = faulty.calls();
        let sizes = calls
            .iter()
            .filter(|(op, _)| *op == StoreOp::Delete)
            .map(|(_, keys)| keys.lines().count());
        assert!(sizes.max().unwrap() <= most, "{wanted:?}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_no_failure() {
    let store = filled();
    let before = store.contents();
    delete(store.clone(), &by_id("20200101T000000"))
        .await
        .unwrap();
    assert_eq!(store.contents(), before);
    let unknown = delete(store.clone(), &by_id("nobody")).await.unwrap_err();
    assert_eq!(unknown.kind, OpErrorKind::General);
    let few = DeleteRequest {
        minimum_redundancy: 5,
        ..by_id("20261101T000000")
    };
    let error = delete(store.clone(), &few).await.unwrap_err();
    assert_eq!(
        error.message,
        "Skipping delete of backup 20261101T000000 for server main due to minimum redundancy \
         requirements (minimum redundancy = 5, current redundancy = 5)"
    );
    assert_eq!(store.contents(), before);
}

/// Two deletions at once, each of which counts on the backup that the other takes.
#[tokio::test]
async fn what_another_deletion_takes_does_not_count_as_redundancy() {
    const ID: &str = "20261101T000000";
    let good = ["20261103T000000", "20261104T000000", "20261105T000000"];
    let mark = |store: &MemoryStore, id: &str| {
        let marked = info_of(&store.contents(), id).unwrap().marked();
        store.insert(&format!("{}/backup.info", dir(id)), marked.to_text());
    };
    for (minimum, others, stays) in [(3, 1, true), (2, 1, false), (1, 3, true), (0, 3, false)] {
        let when = format!("{minimum} have to stay, and {others} go");
        let store = filled();
        let faulty = FaultyStore::new(Arc::new(store.clone()));
        let info = format!("{ID}/backup.info");
        faulty.fail_for(&info, StoreOp::Put, Fault::Late(1), 1);
        let request = DeleteRequest {
            minimum_redundancy: minimum,
            ..by_id(ID)
        };
        let other = async {
            for id in good.iter().rev().take(others) {
                mark(&store, id);
            }
            store.contents()
        };
        let (result, expected) = tokio::join!(delete(faulty, &request), other);
        match result {
            Ok(_) => assert!(!stays && info_of(&store.contents(), ID).is_none(), "{when}"),
            Err(error) => {
                assert!(
                    stays && error.message.contains("minimum redundancy"),
                    "{error}"
                );
                assert_eq!(
                    store.contents(),
                    expected,
                    "{when}: it is as good as before"
                );
            }
        }
    }
}

/// The faster of two has emptied the backup when the other comes to look for a keep, and
/// finds one, or cannot look: it must not put the record back.
#[tokio::test]
async fn a_record_is_not_put_back_over_what_another_deletion_did() {
    const ID: &str = "20261103T000000";
    for gone in [false, true] {
        let store = filled();
        let faulty = FaultyStore::new(Arc::new(store.clone()));
        let info = format!("{ID}/backup.info");
        faulty.fail_for(&info, StoreOp::Put, Fault::Late(1), 1);
        let other = async {
            for archive in ARCHIVES {
                store.remove(&format!("{}/{archive}", dir(ID)));
            }
            let marked = info_of(&store.contents(), ID).unwrap().marked();
            let record = format!("{}/backup.info", dir(ID));
            if gone {
                store.remove(&record);
            } else {
                store.insert(&record, marked.to_text());
            }
            keep(&store, ID, "full");
        };
        let request = by_id(ID);
        let (result, ()) = tokio::join!(delete(faulty, &request), other);
        let error = result.unwrap_err();
        assert!(error.message.contains("has changed"), "{gone}: {error}");
        let left = info_of(&store.contents(), ID).map(|info| info.status);
        assert_eq!(left, (!gone).then_some(Status::Failed));
        check_promises(&store, "with two at work");
    }
}
