//! Replacing one version of an object, and no other.

use std::sync::Arc;

use super::{key, one_of_eight, pattern, put, read};
use crate::key::{Key, Prefix};
use crate::store::{
    ObjectStore, ObjectVersion, PartNumber, PutMode, PutOptions, ReadRange, StoreErrorKind,
    delete_all, exists,
};

fn replace(version: &ObjectVersion) -> PutOptions {
    PutOptions {
        mode: PutMode::Replace(version.clone()),
        ..PutOptions::default()
    }
}

/// The version that reading tells, which is what a writer has judged.
async fn version(store: &dyn ObjectStore, key: &Key) -> Option<ObjectVersion> {
    let download = store.get(key, &ReadRange::all()).await;
    download.expect("it can be read").meta.version
}

pub(super) async fn in_one_request(store: &dyn ObjectStore, dir: &Prefix) {
    let key = key(dir, "object");
    put(store, &key, pattern(1000, 1)).await;
    let Some(first) = version(store, &key).await else {
        return;
    };
    let second = pattern(1500, 2);
    let replaced = store
        .put(&key, second.clone().into(), &replace(&first))
        .await;
    replaced.expect("it is still this version");
    assert_eq!(read(store, &key).await, second);
    let refused = store
        .put(&key, pattern(2000, 3).into(), &replace(&first))
        .await;
    let error = refused.expect_err("it is another version by now");
    assert_eq!(error.kind, StoreErrorKind::AlreadyExists);
    assert_eq!(read(store, &key).await, second);
    let gone = version(store, &key).await.expect("it has a version");
    let report = delete_all(store, std::slice::from_ref(&key)).await;
    assert!(report.is_complete(), "{report:?}");
    let refused = store
        .put(&key, pattern(2000, 3).into(), &replace(&gone))
        .await;
    let error = refused.expect_err("there is nothing to replace");
    assert_eq!(error.kind, StoreErrorKind::AlreadyExists);
    assert!(!exists(store, &key).await.expect("absence can be told"));
    // A directory that a refused write made goes with the next object.
    put(store, &key, pattern(1000, 1)).await;
}

pub(super) async fn in_parts(store: &dyn ObjectStore, dir: &Prefix) {
    let key = key(dir, "object");
    for stale in [false, true] {
        put(store, &key, pattern(1000, 1)).await;
        let Some(first) = version(store, &key).await else {
            return;
        };
        let upload = store.begin_multipart(&key, &replace(&first)).await;
        let upload = upload.expect("an upload can begin");
        let sent = upload.put_part(PartNumber::FIRST, pattern(2000, 2)).await;
        let receipt = sent.expect("it can be sent");
        if !stale {
            let completed = upload.complete(&[receipt]).await;
            completed.expect("it is still this version");
            assert_eq!(read(store, &key).await, pattern(2000, 2));
            continue;
        }
        put(store, &key, pattern(3000, 3)).await;
        let refused = upload.complete(&[receipt]).await;
        let error = refused.expect_err("it was replaced meanwhile");
        assert_eq!(error.kind, StoreErrorKind::AlreadyExists);
        let aborted = upload.abort().await;
        aborted.expect("what was refused can be aborted");
        assert_eq!(read(store, &key).await, pattern(3000, 3));
    }
}

pub(super) async fn racing(store: &Arc<dyn ObjectStore>, dir: &Prefix) {
    for round in 0..5 {
        let key = key(dir, &format!("object{round}"));
        put(store.as_ref(), &key, pattern(10, 99)).await;
        let Some(first) = version(store.as_ref(), &key).await else {
            return;
        };
        one_of_eight(store, &key, &replace(&first)).await;
    }
}
