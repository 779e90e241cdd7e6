//! What the archive says, in a store in memory.

use std::sync::Arc;

use super::*;
use crate::catalogue::gap::unknown_name;
use crate::catalogue::info::Status;
use crate::store::{Fault, FaultyStore, MemoryStore, StoreOp};

const ID: &str = "0f";

fn name(number: u64) -> String {
    format!("00000001{:08X}{:08X}", number / 256, number % 256)
}

fn gap(first: u64, last: u64) -> Gap {
    Gap {
        id: ID.into(),
        server: "main".into(),
        system: Some(7),
        first: name(first).parse().unwrap(),
        last: name(last).parse().unwrap(),
        segment_size: SegmentSize::DEFAULT,
        since: "2026-11-22T01:00:00Z".parse().unwrap(),
        until: "2026-11-22T02:00:00Z".parse().unwrap(),
        host: "db1".into(),
        waiting: 2,
        limit: 1,
        why: "refused".into(),
    }
}

fn add(store: &MemoryStore, gap: &Gap) {
    store.insert(&format!("p/main/gaps/{}", gap.name()), gap.to_text());
}

fn archive(store: &MemoryStore, number: u64, suffix: &str) {
    let name = name(number);
    store.insert(&format!("p/main/wals/{}/{name}{suffix}", &name[..16]), "");
}

fn layout() -> Layout {
    Layout::new("p", "main").unwrap()
}

async fn extents(store: &dyn ObjectStore) -> Vec<String> {
    let found = find(store, &layout()).await;
    let text = |missing: Missing| match missing.extent {
        Extent::Segments(first, last) => {
            let number = |name: WalName| name.start(SegmentSize::DEFAULT).unwrap().0 >> 24;
            format!("{}-{}", number(first), number(last))
        }
        Extent::Before(time) => format!("before {time}"),
    };
    found.into_iter().map(text).collect()
}

#[tokio::test]
async fn where_nothing_was_let_go_one_listing_is_all() {
    let store = FaultyStore::new(Arc::new(MemoryStore::new()));
    assert!(extents(&store).await.is_empty());
    assert_eq!(store.calls(), [(StoreOp::List, "p/main/gaps/".to_owned())]);
}

#[tokio::test]
async fn what_is_archived_after_all_is_not_missing() {
    let store = MemoryStore::new();
    add(&store, &gap(5, 8));
    assert_eq!(extents(&store).await, ["5-8"]);
    // Neither makes a segment whole.
    archive(&store, 5, ".partial");
    archive(&store, 5, ".00000028.backup");
    archive(&store, 6, ".gz");
    assert_eq!(extents(&store).await, ["5-8"]);
    archive(&store, 5, "");
    assert_eq!(extents(&store).await, ["7-8"]);
    archive(&store, 8, ".zst");
    assert_eq!(extents(&store).await, ["7-8"]);
    archive(&store, 7, ".gz");
    assert!(extents(&store).await.is_empty());
    // Also across directories.
    add(&store, &gap(254, 257));
    for number in [254, 255, 256] {
        archive(&store, number, ".gz");
    }
    assert_eq!(extents(&store).await, ["257-257"]);
    archive(&store, 257, ".gz");
    assert!(extents(&store).await.is_empty());
    // However its name is spelt.
    add(&store, &gap(9, 10));
    archive(&store, 9, ".gz");
    let lower = name(10).to_ascii_lowercase();
    store.insert(&format!("p/main/wals/{}/{lower}", &lower[..16]), "");
    assert!(extents(&store).await.is_empty());
}

#[tokio::test]
async fn a_true_gap_costs_one_look_for_its_first_segment() {
    let memory = MemoryStore::new();
    add(&memory, &gap(5, 8));
    archive(&memory, 4, ".gz");
    let store = FaultyStore::new(Arc::new(memory));
    assert_eq!(extents(&store).await, ["5-8"]);
    let calls = store.calls().into_iter().map(|(op, _)| op);
    let expected = [StoreOp::List, StoreOp::Get, StoreOp::List];
    assert_eq!(calls.collect::<Vec<_>>(), expected);
    // And one that is not whole a listing for each directory.
    let memory = MemoryStore::new();
    add(&memory, &gap(5, 8));
    for number in 5..=7 {
        archive(&memory, number, ".gz");
    }
    let store = FaultyStore::new(Arc::new(memory));
    assert_eq!(extents(&store).await, ["8-8"]);
    assert_eq!(store.count(StoreOp::List), 3);
}

#[tokio::test]
async fn a_gap_that_grew_while_it_was_told_is_one() {
    let store = MemoryStore::new();
    for (first, last) in [(5, 6), (5, 8), (7, 7), (10, 10)] {
        add(&store, &gap(first, last));
    }
    let again = Gap {
        id: "10".into(),
        ..gap(5, 8)
    };
    add(&store, &again);
    assert_eq!(extents(&store).await, ["5-8", "10-10"]);
    // Another cluster's is another gap.
    let other = Gap {
        system: Some(8),
        ..gap(6, 6)
    };
    add(&store, &other);
    assert_eq!(extents(&store).await, ["5-8", "6-6", "10-10"]);
}

#[tokio::test]
async fn a_gap_counts_even_if_what_is_said_of_it_cannot_be_read() {
    let memory = MemoryStore::new();
    let key = format!("p/main/gaps/{}", gap(5, 8).name());
    memory.insert(&key, "damaged");
    let unknown = unknown_name("2026-11-22T01:02:03Z".parse().unwrap(), ID);
    memory.insert(&format!("p/main/gaps/{unknown}"), "anything");
    memory.insert("p/main/gaps/notes.txt", "");
    memory.insert("p/main/gaps/deeper/x", "");
    archive(&memory, 5, "");
    let expected = ["5-8", "before 2026-11-22T01:02:03Z"];
    assert_eq!(extents(&memory).await, expected);
    let store = FaultyStore::new(Arc::new(memory));
    let denied = Fault::Before(StoreErrorKind::PermissionDenied);
    store.fail(StoreOp::Get, denied, u32::MAX);
    assert_eq!(extents(&store).await, expected);
}

#[tokio::test]
async fn who_may_not_look_is_told_nothing_and_does_not_fail() {
    let memory = MemoryStore::new();
    add(&memory, &gap(5, 8));
    for kind in [StoreErrorKind::PermissionDenied, StoreErrorKind::Connect] {
        let store = FaultyStore::new(Arc::new(memory.clone()));
        store.fail_for("/gaps/", StoreOp::List, Fault::Before(kind), 1);
        assert!(extents(&store).await.is_empty());
    }
    // Who may not list WAL takes all of it for missing.
    archive(&memory, 5, "");
    let store = FaultyStore::new(Arc::new(memory));
    let denied = Fault::Before(StoreErrorKind::PermissionDenied);
    store.fail_for("/wals/", StoreOp::List, denied, 1);
    assert_eq!(extents(&store).await, ["5-8"]);
}

#[tokio::test]
async fn it_is_told_which_backups_are_concerned_and_how() {
    let store = MemoryStore::new();
    add(&store, &gap(5, 8));
    add(&store, &gap(20, 20));
    let found = find(&store, &layout()).await;
    let (id, backup) = (
        |text: &str| BackupId::new(text).unwrap(),
        |begin, end| BackupInfo {
            status: Status::Done,
            begin_wal: Some(name(begin)),
            end_wal: Some(name(end)),
            systemid: Some("7".into()),
            ..BackupInfo::default()
        },
    );
    let backups = [
        (id("A"), backup(2, 3)),
        (id("B"), backup(4, 4)),
        (id("C"), backup(4, 6)),
        (id("D"), backup(9, 9)),
    ];
    let concern = |missing: &Missing| missing.concern(backups.iter().map(|(id, info)| (id, info)));
    assert_eq!(
        concern(&found[0]).unwrap(),
        format!(
            "recovery from A, B stops before {}; C cannot be restored without it",
            name(5)
        )
    );
    assert_eq!(
        concern(&found[1]).unwrap(),
        format!("recovery from A, B, C, D stops before {}", name(20))
    );
    assert_eq!(
        found[0].what(),
        format!(
            "WAL from {} to {} is missing: --queue-max let it go between 2026-11-22T01:00:00Z and \
             2026-11-22T02:00:00Z",
            name(5),
            name(8)
        )
    );
    assert!(
        found[1]
            .what()
            .starts_with(&format!("WAL segment {} is", name(20)))
    );
    assert_eq!(found[0].concern([].into_iter()), None);
    let store = MemoryStore::new();
    let at = gap(5, 5).since;
    add(
        &store,
        &Gap {
            until: at,
            ..gap(5, 5)
        },
    );
    let what = find(&store, &layout()).await[0].what();
    assert!(
        what.ends_with("let it go at 2026-11-22T01:00:00Z"),
        "{what}"
    );
}
