//! What failed and killed backups left behind.

use super::*;

/// A store with good backups, and with what others left behind.
async fn littered() -> MemoryStore {
    let store = filled();
    let orphan = "20261101T120000";
    for name in ["data.tar.gz", "16384.tar.gz", "backup_label", "notes.txt"] {
        store.insert(&format!("{}/{name}", dir(orphan)), "x");
    }
    let begin = async |key: String| {
        let key = crate::key::Key::new(key).unwrap();
        let options = crate::store::PutOptions::default();
        drop(store.begin_multipart(&key, &options).await.unwrap());
    };
    begin(format!("{}/data.tar.gz", dir("20261101T130000"))).await;
    begin(format!("{}/data_0002.tar.gz", dir("20261104T000000"))).await;
    begin(format!("{}/data.tar.gz", dir("20261120T000000"))).await;
    begin(wal(3)).await;
    begin("p/main2/wals/0000000100000000/x".to_owned()).await;
    // Newer than the newest backup that is DONE: perhaps one under way.
    store.insert(&format!("{}/data.tar.gz", dir("20261106T000000")), "x");
    // Not of a tool that takes backups.
    store.insert("p/main/base/2026-archive/data.tar.gz", "x");
    store
}

fn purge(days: u64) -> DeleteRequest {
    DeleteRequest {
        selection: None,
        purge: Some(Duration::from_hours(24 * days)),
        ..by_policy("REDUNDANCY 1")
    }
}

/// The same as `delete`, at the time of the clock: objects in memory are as old
/// as that tells.
async fn delete_now(store: impl ObjectStore, request: &DeleteRequest) -> Result<String, OpError> {
    let answer = run(Arc::new(store), request.clone()).await?;
    Ok(answer.text)
}

const DAY: Duration = Duration::from_hours(24);

#[tokio::test]
async fn what_was_left_behind_goes_when_it_is_old_enough() {
    let store = littered().await;
    let before = (store.contents(), store.open_uploads());
    delete_now(store.clone(), &purge(7)).await.unwrap();
    assert_eq!(
        (store.contents(), store.open_uploads()),
        before,
        "all is new"
    );

    store.age("", 8 * DAY);
    let dry = DeleteRequest {
        dry_run: true,
        ..purge(7)
    };
    let text = delete_now(store.clone(), &dry).await.unwrap();
    assert_eq!(
        (store.contents(), store.open_uploads()),
        before,
        "a dry run"
    );
    let orphan = dir("20261101T120000");
    let failed = dir("20261102T000000");
    let lines = [
        format!(
            "objects ['{orphan}/data.tar.gz', '{orphan}/16384.tar.gz', '{orphan}/backup_label']"
        ),
        format!(
            "objects ['{failed}/data.tar.gz', '{failed}/data_0001.tar.gz', \
             '{failed}/9.tar.zst2', '{failed}/16384.tar.gz', '{failed}/backup.info']"
        ),
    ];
    for line in lines {
        let line = format!("Skipping deletion of {line} due to --dry-run option");
        assert!(text.lines().any(|other| other == line), "{line}\n{text}");
    }
    assert_eq!(
        text.matches("Skipping abort of unfinished uploads").count(),
        3
    );

    delete_now(store.clone(), &purge(7)).await.unwrap();
    let contents = store.contents();
    let gone = before.0.keys().filter(|key| !contents.contains_key(*key));
    let gone: Vec<_> = gone.collect();
    assert_eq!(gone.len(), 3 + 5, "{gone:?}");
    assert!(
        gone.iter()
            .all(|key| key.starts_with(&orphan) || key.starts_with(&failed))
    );
    // Of the backup that may be running nothing goes, nor of another server.
    let left = [
        format!("{}/data.tar.gz", dir("20261120T000000")),
        "p/main2/wals/0000000100000000/x".to_owned(),
    ];
    let mut open = store.open_uploads();
    open.sort();
    assert_eq!(open, left);
    check_promises(&store, "after the purge");
}

/// One object, one part that is younger, and the whole backup stays.
#[tokio::test]
async fn the_newest_byte_of_a_backup_tells_its_age() {
    for (young, gone) in [
        ("data.tar.gz", false),
        ("notes.txt", false),
        ("annotations/keep", false),
        ("", true),
    ] {
        let store = littered().await;
        store.age("", 8 * DAY);
        let orphan = dir("20261101T120000");
        if !young.is_empty() {
            store.insert(&format!("{orphan}/{young}"), "written just now");
        }
        if young == "annotations/keep" {
            // Old, but kept.
            store.age("annotations", 8 * DAY);
        }
        delete_now(store.clone(), &purge(7)).await.unwrap();
        let left = store
            .contents()
            .contains_key(&format!("{orphan}/16384.tar.gz"));
        assert_eq!(left, !gone, "{young}");
    }
    let store = littered().await;
    store.age("", 8 * DAY);
    let key = crate::key::Key::new(format!("{}/9.tar", dir("20261101T120000"))).unwrap();
    let options = crate::store::PutOptions::default();
    let upload = store.begin_multipart(&key, &options).await.unwrap();
    delete_now(store.clone(), &purge(7)).await.unwrap();
    assert!(store.open_uploads().contains(&key.to_string()));
    let left = format!("{}/16384.tar.gz", dir("20261101T120000"));
    assert!(store.contents().contains_key(&left), "a part is on its way");
    drop(upload);
}

#[tokio::test]
async fn without_a_good_backup_or_with_an_unreadable_one_nothing_is_purged() {
    for id in [
        "20261101T000000",
        "20261103T000000",
        "20261104T000000",
        "20261105T000000",
    ] {
        let store = littered().await;
        store.insert(&format!("{}/backup.info", dir(id)), "garbage");
        store.age("", 8 * DAY);
        let before = (store.contents(), store.open_uploads());
        assert!(delete_now(store.clone(), &purge(7)).await.is_err());
        assert_eq!((store.contents(), store.open_uploads()), before);
    }
    let store = littered().await;
    for (id, status, ..) in BACKUPS {
        if status == "DONE" {
            let failed = record(&(id, "FAILED", 1, 1));
            store.insert(&format!("{}/backup.info", dir(id)), failed);
        }
    }
    store.age("", 8 * DAY);
    let before = (store.contents(), store.open_uploads());
    delete_now(store.clone(), &purge(7)).await.unwrap();
    assert_eq!((store.contents(), store.open_uploads()), before);
}

/// An upload of which the store does not tell the time may be a minute old.
#[tokio::test]
async fn what_has_no_date_stays() {
    let store = littered().await;
    store.age("", 8 * DAY);
    let upload = format!("{}/data.tar.gz", dir("20261101T130000"));
    for key in [&upload, &wal(3)] {
        store.set_last_activity(key, None);
    }
    delete_now(store.clone(), &purge(7)).await.unwrap();
    let open = store.open_uploads();
    assert!(open.contains(&upload) && open.contains(&wal(3)), "{open:?}");
}

/// As long as one of its archives is there the record stays, and the next run
/// comes back to it.
#[tokio::test]
async fn a_failed_backup_goes_whole_or_keeps_its_record() {
    let store = littered().await;
    store.age("", 8 * DAY);
    let faulty = FaultyStore::new(Arc::new(store.clone()));
    let fault = Fault::RefuseKeys(StoreErrorKind::PermissionDenied);
    faulty.fail_for("20261102T000000/16384", StoreOp::Delete, fault, 1);
    let error = delete_now(faulty, &purge(7)).await.unwrap_err();
    assert_eq!(error.kind, OpErrorKind::Failed);
    let record = format!("{}/backup.info", dir("20261102T000000"));
    assert!(store.contents().contains_key(&record));
    delete_now(store.clone(), &purge(7)).await.unwrap();
    assert!(!store.contents().contains_key(&record));
}

/// It dies anywhere, and the next run finishes.
#[tokio::test]
async fn a_purge_that_dies_anywhere_is_finished_by_the_next() {
    let old = async || {
        let store = littered().await;
        store.age("", 8 * DAY);
        store
    };
    let whole = old().await;
    delete_now(whole.clone(), &purge(7)).await.unwrap();
    let mut calls = 0;
    loop {
        let store = old().await;
        let faulty = FaultyStore::new(Arc::new(store.clone())).die_after(calls);
        let result = delete_now(faulty, &purge(7)).await;
        check_promises(&store, &format!("after {calls} calls"));
        if result.is_ok() {
            break;
        }
        delete_now(store.clone(), &purge(7)).await.unwrap();
        assert_eq!(store.contents(), whole.contents(), "after {calls} calls");
        assert_eq!(store.open_uploads().len(), whole.open_uploads().len());
        calls += 1;
    }
    assert!(calls > 10, "it made {calls} calls");
}

/// A backup that was killed is deleted by its id with the upload it left; one that
/// is whole is not asked for any.
#[tokio::test]
async fn a_killed_backup_goes_with_its_uploads() {
    let store = littered().await;
    let key = crate::key::Key::new(format!("{}/data_0001.tar.gz", dir("20261102T000000"))).unwrap();
    let options = crate::store::PutOptions::default();
    let upload = store.begin_multipart(&key, &options);
    drop(upload.await.unwrap());
    let open = store.open_uploads();
    assert!(open.contains(&key.to_string()));
    delete_now(store.clone(), &by_id("20261102T000000"))
        .await
        .unwrap();
    let mut left = open.clone();
    left.retain(|open| open != key.as_str());
    assert_eq!(store.open_uploads(), left);

    // Not to be told which are open is no reason to keep the rest.
    let store = filled();
    let faulty = FaultyStore::new(Arc::new(store.clone()));
    let denied = Fault::Before(StoreErrorKind::PermissionDenied);
    faulty.fail(StoreOp::ListUploads, denied, 9);
    delete_now(faulty, &by_id("20261102T000000")).await.unwrap();
    assert!(info_of(&store.contents(), "20261102T000000").is_none());
}
