//! Uploads in parts, from their beginning to one of their ends.

use bytes::Bytes;

use super::{create, key, pattern, put, read};
use crate::key::{Key, Prefix};
use crate::store::{ObjectStore, PartNumber, PutOptions, StoreErrorKind, exists};

pub(super) async fn whole(store: &dyn ObjectStore, dir: &Prefix) {
    let number = |n| PartNumber::new(n).expect("it is not zero");
    let part = usize::try_from(store.info().limits.min_part)
        .expect("it is small")
        .max(100_000);
    let options = PutOptions::default();

    let key = key(dir, "object");
    let upload = store
        .begin_multipart(&key, &options)
        .await
        .expect("an upload can begin");
    let bodies = [pattern(part, 1), pattern(part, 2), pattern(1234, 3)];
    // In another order, at the same time, and one of them twice.
    upload
        .put_part(number(2), pattern(part, 9))
        .await
        .expect("a part can be sent");
    let (third, (second, first)) =
        tokio::join!(upload.put_part(number(3), bodies[2].clone()), async {
            tokio::join!(
                upload.put_part(number(2), bodies[1].clone()),
                upload.put_part(number(1), bodies[0].clone()),
            )
        });
    let receipts = [first, second, third].map(|receipt| receipt.expect("a part can be sent"));
    assert!(
        !exists(store, &key).await.expect("absence can be told"),
        "nothing shows before the end"
    );
    upload
        .complete(&receipts)
        .await
        .expect("the upload can be completed");
    assert_eq!(read(store, &key).await, bodies.concat());

    let only = pattern(10, 4);
    let upload = store
        .begin_multipart(&key, &options)
        .await
        .expect("an upload can begin");
    let receipt = upload
        .put_part(number(1), only.clone())
        .await
        .expect("a part can be sent");
    upload
        .complete(&[receipt])
        .await
        .expect("one small part is enough");
    assert_eq!(read(store, &key).await, only, "the object was replaced");

    let upload = store
        .begin_multipart(&key, &options)
        .await
        .expect("an upload can begin");
    let error = upload.complete(&[]).await.expect_err("there is no part");
    assert_eq!(error.kind, StoreErrorKind::Invalid);
    let mut receipts = Vec::new();
    for (n, size) in [(1, part), (2, part + 1), (2, part), (3, 0)] {
        let sent = upload.put_part(number(n), pattern(size, u64::from(n)));
        receipts.push(sent.await.expect("a part can be sent"));
    }
    // The one with another size was replaced.
    let receipts = [0, 2, 3].map(|at: usize| receipts[at].clone());
    upload
        .complete(&receipts)
        .await
        .expect("the upload can be completed");
    let expected = [pattern(part, 1), pattern(part, 2)].concat();
    assert_eq!(read(store, &key).await, expected);
    upload.abort().await.expect("there is nothing to abort");
    assert_eq!(read(store, &key).await, expected, "it was completed");

    many_parts(store, &dir.key("many").expect("the name is valid")).await;

    let aborted = dir.key("aborted").expect("the name is valid");
    let upload = store
        .begin_multipart(&aborted, &options)
        .await
        .expect("an upload can begin");
    upload
        .put_part(number(1), pattern(part, 5))
        .await
        .expect("a part can be sent");
    upload.abort().await.expect("an upload can be aborted");
    upload
        .abort()
        .await
        .expect("aborting twice is the same as once");
    assert!(!exists(store, &aborted).await.expect("absence can be told"));
    let error = upload
        .put_part(number(1), pattern(part, 5))
        .await
        .expect_err("the upload is over");
    assert_eq!(error.kind, StoreErrorKind::NotFound);
}

/// Parts of one size, all on the way at the same time.
async fn many_parts(store: &dyn ObjectStore, key: &Key) {
    let part = usize::try_from(store.info().limits.min_part)
        .expect("it is small")
        .max(10_000);
    let upload = store
        .begin_multipart(key, &PutOptions::default())
        .await
        .expect("an upload can begin");
    let last = 12;
    let body = |n: u32| pattern(if n == last { 77 } else { part }, u64::from(n));
    let sending = (1..=last).rev().map(|n| {
        let number = PartNumber::new(n).expect("it is not zero");
        upload.put_part(number, body(n))
    });
    let mut receipts: Vec<_> = futures_util::future::try_join_all(sending)
        .await
        .expect("parts can be sent");
    receipts.sort_by_key(|receipt| receipt.number);
    upload
        .complete(&receipts)
        .await
        .expect("the upload can be completed");
    let expected: Vec<Bytes> = (1..=last).map(body).collect();
    assert_eq!(read(store, key).await, expected.concat());
}

pub(super) async fn create_only(store: &dyn ObjectStore, dir: &Prefix) {
    if !store.info().abilities.create_only {
        return;
    }
    let key = key(dir, "object");
    let body = pattern(1000, 1);
    let upload = store
        .begin_multipart(&key, &create())
        .await
        .expect("an upload can begin");
    let receipt = upload
        .put_part(PartNumber::FIRST, body.clone())
        .await
        .expect("it can be sent");
    put(store, &key, pattern(10, 2)).await;
    let error = upload
        .complete(&[receipt])
        .await
        .expect_err("the name was taken meanwhile");
    assert_eq!(error.kind, StoreErrorKind::AlreadyExists);
    upload
        .abort()
        .await
        .expect("what was refused can be aborted");
    assert_eq!(read(store, &key).await, pattern(10, 2));
}
