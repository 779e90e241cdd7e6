//! What is said of WAL that was let go, when the WAL around it goes.

use super::*;

/// The name of what is said of these segments.
fn gap(first: u32, last: u32) -> String {
    format!("{}-{}-0f.gap", segment(first), segment(last))
}

const EARLY: &str = "unknown-20261119T000000Z-0f.gap";
const LATE: &str = "unknown-20261120T000000Z-0f.gap";

fn with_gaps() -> MemoryStore {
    let store = filled();
    let other = "000000020000000000000001";
    let names = [
        gap(1, 2),
        gap(4, 5),
        gap(6, 8),
        gap(8, 9),
        gap(10, 10),
        format!("{other}-{other}-0f.gap"),
        EARLY.to_owned(),
        LATE.to_owned(),
        "notes.txt".to_owned(),
    ];
    for name in names {
        store.insert(&format!("{ROOT}/gaps/{name}"), "");
    }
    store
}

/// The names that are still there, but for those that nothing of this takes.
fn gaps_left(store: &MemoryStore) -> Vec<String> {
    let prefix = format!("{ROOT}/gaps/");
    let keys = store.contents().into_keys();
    let names = keys.filter_map(|key| Some(key.strip_prefix(&prefix)?.to_owned()));
    let mut names: Vec<String> = names.collect();
    assert!(names.iter().any(|name| name.starts_with("00000002")));
    assert!(names.iter().any(|name| name == LATE));
    assert!(names.iter().any(|name| name == "notes.txt"));
    names.retain(|name| !name.starts_with("00000002") && name != LATE && name != "notes.txt");
    names
}

#[tokio::test]
async fn what_is_said_of_a_gap_goes_with_the_wal_around_it() {
    let store = with_gaps();
    let before = gaps_left(&store);
    // The next backup begins with segment 9.
    let mut request = by_id("20261101T000000");
    request.dry_run = true;
    let answer = delete(store.clone(), &request).await.unwrap();
    assert!(!answer.text.contains("/gaps/"), "{}", answer.text);
    assert_eq!(gaps_left(&store), before);
    request.dry_run = false;
    delete(store.clone(), &request).await.unwrap();
    assert_eq!(gaps_left(&store), [gap(8, 9), gap(10, 10)]);
}

/// A gap of which only the time is known concerns whatever began before that.
#[tokio::test]
async fn a_gap_without_names_goes_when_all_that_stays_began_later() {
    type Change = fn(&str) -> String;
    let earlier: Change = |text| text.replace("begin_time=2026-11-20", "begin_time=2026-11-18");
    let unknown: Change = |text| {
        let lines = text.split_inclusive('\n');
        let kept = lines.filter(|line| !line.starts_with("begin_time="));
        kept.collect()
    };
    for (id, change, goes) in [
        ("20261101T000000", earlier, true),
        ("20261102T000000", earlier, true),
        ("20261103T000000", earlier, false),
        ("20261103T000000", unknown, false),
        ("20261105T000000", earlier, false),
    ] {
        let store = with_gaps();
        let backup = BACKUPS.iter().find(|backup| backup.0 == id).unwrap();
        let changed = change(&record(backup));
        assert_ne!(changed, record(backup));
        store.insert(&format!("{}/backup.info", dir(id)), changed);
        delete(store.clone(), &by_id("20261101T000000"))
            .await
            .unwrap();
        let left = gaps_left(&store);
        assert_eq!(
            !left.iter().any(|name| name == EARLY),
            goes,
            "{id}: {left:?}"
        );
    }
}

#[tokio::test]
async fn where_no_wal_goes_nothing_is_looked_for() {
    let store = with_gaps();
    let before = gaps_left(&store);
    let faulty = FaultyStore::new(Arc::new(store.clone()));
    delete(faulty.clone(), &by_id("20261103T000000"))
        .await
        .unwrap();
    assert_eq!(gaps_left(&store), before);
    let calls = faulty.calls();
    assert!(
        !calls.iter().any(|(_, what)| what.contains("/gaps/")),
        "{calls:?}"
    );
}

/// A gap within what a backup kept on its own needs is its own trouble, and stays told.
#[tokio::test]
async fn a_gap_in_a_backup_that_is_kept_stays_told() {
    let store = with_gaps();
    keep(&store, "20261101T000000", "standalone");
    delete(store.clone(), &by_policy("REDUNDANCY 2"))
        .await
        .unwrap();
    assert_eq!(gaps_left(&store), [gap(4, 5)]);
}

#[tokio::test]
async fn what_cannot_be_deleted_or_listed_is_no_failure() {
    for (op, fault) in [
        (
            StoreOp::List,
            Fault::Before(StoreErrorKind::PermissionDenied),
        ),
        (
            StoreOp::Delete,
            Fault::RefuseKeys(StoreErrorKind::PermissionDenied),
        ),
        (StoreOp::Delete, Fault::Before(StoreErrorKind::Connect)),
    ] {
        let store = with_gaps();
        let before = gaps_left(&store).len();
        let faulty = FaultyStore::new(Arc::new(store.clone()));
        faulty.fail_for("/gaps/", op, fault, 1);
        delete(faulty, &by_id("20261101T000000")).await.unwrap();
        assert!(gaps_left(&store).len() > 2, "{op:?}");
        assert!(gaps_left(&store).len() <= before);
    }
}
