//! Uploads that were begun and did not end.

use std::time::{Duration, SystemTime};

use super::{Gap, key, pattern, read};
use crate::key::{Key, Prefix};
use crate::store::{
    LockCheck, MultipartUpload, ObjectStore, PartNumber, PartReceipt, PutOptions, StoreErrorKind,
    UnfinishedUpload, exists, list_all_uploads,
};

/// How far the clocks of the store and of this machine may be apart.
const CLOCKS: Duration = Duration::from_hours(1);

async fn begin(store: &dyn ObjectStore, key: &Key) -> Box<dyn MultipartUpload> {
    let options = PutOptions::default();
    let upload = store.begin_multipart(key, &options).await;
    upload.expect("an upload can begin")
}

async fn send(upload: &dyn MultipartUpload, seed: u64) -> PartReceipt {
    let part = upload.put_part(PartNumber::FIRST, pattern(5000, seed));
    part.await.expect("a part can be sent")
}

async fn list(store: &dyn ObjectStore, prefix: &Prefix) -> Vec<UnfinishedUpload> {
    let listed = list_all_uploads(store, prefix).await;
    listed.expect("unfinished uploads can be listed")
}

fn ids(uploads: &[UnfinishedUpload]) -> Vec<&str> {
    uploads.iter().map(|upload| upload.id.as_str()).collect()
}

fn assert_recent(upload: &UnfinishedUpload) {
    let at = upload.last_activity.expect("the store tells");
    let now = SystemTime::now();
    let apart = now.duration_since(at).or_else(|_| at.duration_since(now));
    assert!(apart.is_ok_and(|apart| apart < CLOCKS), "{upload:?}");
}

/// The key is that of the object to come, or none that an object can have.
async fn assert_named(store: &dyn ObjectStore, upload: &UnfinishedUpload, key: &Key) {
    if upload.key != *key {
        let head = store.head(&upload.key, LockCheck::Skip).await;
        let error = head.expect_err("it is not the name of an object");
        assert_eq!(error.kind, StoreErrorKind::Invalid, "{upload:?}");
    }
}

/// Works in two directories below `prefix`, one of which has a name that begins
/// with the other's.
pub(super) async fn unfinished(store: &dyn ObjectStore, prefix: &Prefix, gaps: &[Gap]) {
    let dir = prefix.subdir("uploads");
    assert_eq!(list(store, &dir).await, [], "nothing was begun");
    let neighbours = prefix.subdir("uploads2");
    let _neighbour = begin(store, &key(&neighbours, "a b+c")).await;
    let twice = key(&dir, "deep/a b+c%25-ü&<x>");

    let first = begin(store, &twice).await;
    let listed = list(store, &dir).await;
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_named(store, &listed[0], &twice).await;
    assert_recent(&listed[0]);
    let first_part = send(&*first, 1).await;
    let again = list(store, &dir).await;
    assert_eq!(ids(&again), ids(&listed), "it is still the same upload");
    let first_listed = &again[0];
    assert_recent(first_listed);

    let second = begin(store, &twice).await;
    let second_part = send(&*second, 2).await;
    let both = list(store, &dir).await;
    assert_eq!(both.len(), 2, "two uploads of one key: {both:?}");
    let second_listed = both.iter().find(|one| one.id != first_listed.id);
    let second_listed = second_listed.expect("their ids differ");
    assert_named(store, second_listed, &twice).await;
    assert_recent(second_listed);

    let completed = begin(store, &key(&dir, "completed")).await;
    let part = send(&*completed, 3).await;
    let aborted = begin(store, &key(&dir, "aborted")).await;
    send(&*aborted, 4).await;
    assert_eq!(list(store, &dir).await.len(), 4);
    let done = completed.complete(&[part]).await;
    done.expect("the upload can be completed");
    let done = aborted.abort().await;
    done.expect("the upload can be aborted");
    assert_eq!(
        ids(&list(store, &dir).await),
        ids(&both),
        "these have ended"
    );

    let below = list(store, &dir.subdir("deep")).await;
    assert_eq!(ids(&below), ids(&both), "they are in this directory");
    let other = list(store, &dir.subdir("completed")).await;
    assert_eq!(other, [], "nothing was begun here");
    let text = list(store, &Prefix::text(format!("{prefix}uploads"))).await;
    assert_eq!(text.len(), 3, "a prefix is text: {text:?}");

    let abort = store.abort_upload(first_listed).await;
    abort.expect("an upload can be aborted by what the listing says");
    let abort = store.abort_upload(first_listed).await;
    abort.expect("aborting twice is the same as once");
    let left = list(store, &dir).await;
    assert_eq!(
        ids(&left),
        [second_listed.id.as_str()],
        "the other is there"
    );
    if !gaps.contains(&Gap::CompleteAborted) {
        let error = first.complete(&[first_part]).await;
        let error = error.expect_err("it was aborted");
        assert_eq!(error.kind, StoreErrorKind::NotFound);
    }
    let there = exists(store, &twice).await;
    assert!(!there.expect("absence can be told"), "neither is complete");

    let done = second.complete(&[second_part]).await;
    done.expect("the upload that was not aborted can be completed");
    assert_eq!(list(store, &dir).await, [], "all have ended");
    let abort = store.abort_upload(second_listed).await;
    abort.expect("one that was completed is gone");
    assert_eq!(read(store, &twice).await, pattern(5000, 2));
    for upload in list(store, &neighbours).await {
        let abort = store.abort_upload(&upload).await;
        abort.expect("it was not touched by all this");
    }
}
