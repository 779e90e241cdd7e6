//! Deleting.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::*;

fn keys(names: &[&str]) -> Vec<Key> {
    names.iter().map(|name| Key::new(*name).unwrap()).collect()
}

#[tokio::test]
async fn each_key_has_a_fate_of_its_own() {
    let server = Server::start(|request| match request.path() {
        "/storage/v1/b/bucket/o/gone" => refusal(404, "notFound", "No such object: b/gone"),
        "/storage/v1/b/bucket/o/held%2Fx" => refusal(403, "forbidden", "is under active hold"),
        _ => Answer::new(204),
    });
    let all = keys(&["a", "gone", "held/x", "b"]);
    let report = store(&server).delete_batch(&all).await.unwrap();
    let mut deleted = report.deleted;
    deleted.sort();
    assert_eq!(deleted, keys(&["a", "b", "gone"]));
    assert_eq!(report.failed.len(), 1);
    let (key, error) = &report.failed[0];
    assert_eq!(key.as_str(), "held/x");
    assert_eq!(error.kind, StoreErrorKind::PermissionDenied);
    assert!(error.source.to_string().contains("active hold"));
    assert_eq!(server.methods(), "DELETE DELETE DELETE DELETE");
}

/// What is between us and the service may send us elsewhere.
#[tokio::test]
async fn an_object_that_was_only_looked_for_elsewhere_is_not_deleted() {
    let server = Server::start(|_| Answer::new(308).header("location", "https://login/"));
    let store = store(&server);
    let report = store.delete_batch(&keys(&["a"])).await;
    assert!(
        report.as_ref().map_or(true, |done| done.deleted.is_empty()),
        "{report:?}"
    );
    let put = store.put(&key(), BODY.into(), &PutOptions::default()).await;
    assert!(put.is_err(), "{put:?}");
}

#[tokio::test]
async fn a_store_in_trouble_fails_the_batch_as_a_whole() {
    let server = Server::start(|request| match request.path() {
        "/storage/v1/b/bucket/o/b" => refusal(503, "backendError", "later"),
        _ => Answer::new(204),
    });
    let report = store(&server).delete_batch(&keys(&["a", "b", "c"])).await;
    assert_eq!(report.unwrap_err().kind, StoreErrorKind::ServerFault);
    assert_eq!(server.requests().len(), 3);
}

/// The service answers none of them before the last one has come.
#[tokio::test]
async fn sixteen_are_under_way_at_the_same_time() {
    let arrived = Arc::new((Mutex::new(0), Condvar::new()));
    let seen = Arc::clone(&arrived);
    let server = Server::start(move |_| {
        let (count, more) = &*seen;
        let mut count = count.lock().unwrap();
        *count += 1;
        more.notify_all();
        let patience = Duration::from_secs(20);
        let waited = more.wait_timeout_while(count, patience, |count| *count < 16);
        if waited.unwrap().1.timed_out() {
            return refusal(400, "invalid", "the others did not come");
        }
        Answer::new(204)
    });
    let names: Vec<String> = (0..16).map(|number| format!("k{number:02}")).collect();
    let all: Vec<Key> = names
        .iter()
        .map(|name| Key::new(name.as_str()).unwrap())
        .collect();
    let report = store(&server).delete_batch(&all).await.unwrap();
    assert_eq!(report.failed.len(), 0, "{report:?}");
    assert_eq!(report.deleted.len(), 16);
}
