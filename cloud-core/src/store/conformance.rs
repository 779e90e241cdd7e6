//! What every store must do, as functions.
//!
//! One list, run against every store and every wrapper. Each run works below a
//! prefix of its own and cleans up behind itself, so that it can be pointed at
//! a real bucket.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use super::{
    BucketState, Depth, LockCheck, ObjectStore, PartNumber, PutMode, PutOptions, ReadRange,
    StoreErrorKind, delete_all, exists, get_all, list_all, list_all_uploads,
};
use crate::key::{Key, Prefix};

mod files;
mod multipart;
mod replacing;
mod uploads;

/// Largest object the suite reads back.
const MAX: u64 = 1 << 30;

/// What a server that stands in for the real one cannot do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gap {
    /// Its answers about unfinished uploads are none that a client understands; or
    /// the store has no notion of them.
    UnfinishedUploads,
    /// To complete an upload that was aborted by another is answered as a fault
    /// of the server, and not as an upload that is gone.
    CompleteAborted,
    /// It takes the conditions of writes for nothing, or does not take them: the
    /// client looks first, and of two that look at the same time none is told.
    RacingWriters,
    /// The credentials are for a path of the bucket alone: it cannot be made with them.
    CreateBucket,
    /// It keeps no user metadata: a file system without extended attributes.
    Fingerprints,
}

/// Runs the whole list below `prefix`.
///
/// # Panics
///
/// If the store does not do what it must.
pub async fn all(store: Arc<dyn ObjectStore>, prefix: &str) {
    all_but(store, prefix, &[]).await;
}

/// Runs the list below `prefix` without what `gaps` stand in the way of.
///
/// # Panics
///
/// If the store does not do what it must.
pub async fn all_but(store: Arc<dyn ObjectStore>, prefix: &str, gaps: &[Gap]) {
    let dir = |name: &str| Prefix::dir(prefix).subdir(name);
    let s = store.as_ref();
    assert_eq!(
        s.probe().await.expect("the bucket can be looked for"),
        BucketState::Exists
    );
    if !gaps.contains(&Gap::CreateBucket) {
        s.create_bucket()
            .await
            .expect("creating a bucket that exists is success");
    }
    put_and_get(s, &dir("put")).await;
    create_only(s, &dir("create-only")).await;
    files::stored(s, &dir("file")).await;
    files::changing(s, &dir("changing-file")).await;
    if !gaps.contains(&Gap::RacingWriters) {
        racing_writers(&store, &dir("race")).await;
        replacing::racing(&store, &dir("race-replace")).await;
    }
    if !gaps.contains(&Gap::Fingerprints) {
        fingerprints(s, &dir("fingerprints")).await;
    }
    replacing::in_one_request(s, &dir("replace")).await;
    replacing::in_parts(s, &dir("multipart-replace")).await;
    ranges_and_versions(s, &dir("ranges")).await;
    names(s, &dir("names")).await;
    listings(s, &dir("list")).await;
    multipart::whole(s, &dir("multipart")).await;
    multipart::create_only(s, &dir("multipart-create-only")).await;
    if !gaps.contains(&Gap::UnfinishedUploads) {
        uploads::unfinished(s, &Prefix::dir(prefix), gaps).await;
    }
    deletes(s, &dir("delete")).await;
    let left = list_all(s, &Prefix::dir(prefix), Depth::All)
        .await
        .expect("the rest can be listed");
    let keys: Vec<Key> = left.objects.into_iter().map(|object| object.key).collect();
    let open = list_all_uploads(s, &Prefix::dir(prefix)).await;
    assert_eq!(open.expect("uploads can be listed"), [], "all have ended");
    let report = delete_all(s, &keys).await;
    assert!(
        report.is_complete(),
        "what was left could not be deleted: {report:?}"
    );
}

fn key(dir: &Prefix, name: &str) -> Key {
    dir.key(name).expect("the name is valid")
}

/// Bytes that differ everywhere, so that a piece in the wrong place shows.
fn pattern(size: usize, seed: u64) -> Bytes {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; size];
    random.fill(&mut bytes);
    bytes.into()
}

async fn read(store: &dyn ObjectStore, key: &Key) -> Bytes {
    get_all(store, key, MAX)
        .await
        .expect("the object can be read")
        .1
}

async fn put(store: &dyn ObjectStore, key: &Key, body: Bytes) {
    store
        .put(key, body.into(), &PutOptions::default())
        .await
        .expect("the object can be written");
}

fn create() -> PutOptions {
    PutOptions {
        mode: PutMode::CreateOnly,
        ..PutOptions::default()
    }
}

async fn put_and_get(store: &dyn ObjectStore, dir: &Prefix) {
    for (name, size) in [
        ("empty", 0),
        ("one", 1),
        ("some", 70_000),
        ("more", 3_000_001),
    ] {
        let (key, body) = (key(dir, name), pattern(size, 1));
        assert!(!exists(store, &key).await.expect("absence can be told"));
        let missing = get_all(store, &key, MAX)
            .await
            .expect_err("there is nothing to read");
        assert_eq!(missing.kind, StoreErrorKind::NotFound);
        put(store, &key, body.clone()).await;
        assert_eq!(read(store, &key).await, body, "{name}");
        let meta = store
            .head(&key, LockCheck::Skip)
            .await
            .expect("the object can be looked at");
        assert_eq!((meta.size, &meta.key), (size as u64, &key));
        let other = pattern(size + 1, 2);
        put(store, &key, other.clone()).await;
        assert_eq!(read(store, &key).await, other, "{name} was replaced");
    }
    let error = get_all(store, &key(dir, "more"), 100)
        .await
        .expect_err("it is too large");
    assert_eq!(error.kind, StoreErrorKind::Invalid);
}

async fn create_only(store: &dyn ObjectStore, dir: &Prefix) {
    let key = key(dir, "object");
    let first = pattern(1000, 1);
    store
        .put(&key, first.clone().into(), &create())
        .await
        .expect("the name was free");
    let error = store
        .put(&key, pattern(1000, 2).into(), &create())
        .await
        .expect_err("it is taken");
    assert_eq!(error.kind, StoreErrorKind::AlreadyExists);
    assert_eq!(read(store, &key).await, first);
}

/// A fingerprint belongs to the object that was stored with it, and to none that
/// takes its place.
async fn fingerprints(store: &dyn ObjectStore, dir: &Prefix) {
    let of = |text: &str| PutOptions {
        fingerprint: Some(text.to_owned()),
        ..PutOptions::default()
    };
    let told = async |key: &Key| {
        let meta = store.head(key, LockCheck::Skip).await;
        meta.expect("the object can be looked at").fingerprint
    };
    let body = pattern(1000, 1);
    let (single, in_parts) = (key(dir, "single"), key(dir, "in parts"));
    let stored = store.put(&single, body.clone().into(), &of("5e1f0")).await;
    stored.expect("the object can be written");
    assert_eq!(told(&single).await.as_deref(), Some("5e1f0"));
    assert_eq!(read(store, &single).await, body, "it is not in the object");
    put(store, &single, body.clone()).await;
    assert_eq!(told(&single).await, None, "that of an object that is gone");

    let upload = store.begin_multipart(&in_parts, &of("f1e5")).await;
    let upload = upload.expect("an upload can begin");
    let part = upload.put_part(PartNumber::FIRST, body.clone()).await;
    let part = part.expect("a part can be sent");
    let done = upload.complete(&[part]).await;
    done.expect("the upload can be completed");
    assert_eq!(told(&in_parts).await.as_deref(), Some("f1e5"));
    assert_eq!(
        read(store, &in_parts).await,
        body,
        "it is not in the object"
    );
}

async fn racing_writers(store: &Arc<dyn ObjectStore>, dir: &Prefix) {
    if !store.info().abilities.create_only {
        return;
    }
    for round in 0..5 {
        let key = key(dir, &format!("object{round}"));
        one_of_eight(store, &key, &create()).await;
    }
}

/// Eight writers whose condition only one can meet.
async fn one_of_eight(store: &Arc<dyn ObjectStore>, key: &Key, options: &PutOptions) {
    let writers: Vec<_> = (0..8)
        .map(|seed| {
            let (store, key, options) = (Arc::clone(store), key.clone(), options.clone());
            tokio::spawn(async move {
                let body = pattern(100_000, seed);
                store
                    .put(&key, body.clone().into(), &options)
                    .await
                    .map(|_| body)
            })
        })
        .collect();
    let mut winner = None;
    for writer in writers {
        match writer.await.expect("the writer did not panic") {
            Ok(body) => assert!(
                winner.replace(body).is_none(),
                "two writers met one condition"
            ),
            Err(error) => assert!(
                // Ceph calls it a fault of its own.
                matches!(
                    error.kind,
                    StoreErrorKind::AlreadyExists
                        | StoreErrorKind::Conflict
                        | StoreErrorKind::ServerFault
                ),
                "{error}: {}",
                error.source
            ),
        }
    }
    assert_eq!(
        Some(read(store.as_ref(), key).await),
        winner,
        "the object is the winner's"
    );
}

async fn ranges_and_versions(store: &dyn ObjectStore, dir: &Prefix) {
    let key = key(dir, "object");
    let body = pattern(300_000, 1);
    put(store, &key, body.clone()).await;
    for (start, end) in [(0, 1), (0, 300_000), (99_999, 200_001), (299_999, 300_000)] {
        let range = ReadRange {
            start,
            end: Some(end),
            version: None,
        };
        let download = store
            .get(&key, &range)
            .await
            .expect("the range can be read");
        assert_eq!(download.range, start..end);
        assert_eq!(download.meta.size, 300_000);
        let pieces: Vec<Bytes> = futures_util::TryStreamExt::try_collect(download.body)
            .await
            .expect("it can be read");
        let place = |at: u64| usize::try_from(at).expect("it is small");
        assert_eq!(pieces.concat(), body.slice(place(start)..place(end)));
    }
    for (start, end) in [(0, 300_001), (299_999, 300_001), (300_001, 300_002)] {
        let range = ReadRange {
            start,
            end: Some(end),
            version: None,
        };
        let error = store.get(&key, &range).await.expect_err("it lies outside");
        assert_eq!(error.kind, StoreErrorKind::Invalid);
    }
    let version = store
        .head(&key, LockCheck::Skip)
        .await
        .expect("it is there")
        .version;
    let pinned = ReadRange {
        start: 5,
        end: None,
        version,
    };
    store
        .get(&key, &pinned)
        .await
        .expect("it is still this version");
    put(store, &key, pattern(300_000, 2)).await;
    if pinned.version.is_some() {
        let error = store
            .get(&key, &pinned)
            .await
            .expect_err("it is another version");
        assert_eq!(error.kind, StoreErrorKind::Corrupt);
    }
    let receipt = store
        .put(&key, pattern(10, 3).into(), &PutOptions::default())
        .await
        .expect("the object can be written");
    let told = store
        .get(&key, &ReadRange::all())
        .await
        .expect("it can be read")
        .meta
        .version;
    if receipt.version.is_some() {
        assert_eq!(receipt.version, told, "the version just written");
    }
    delete_all(store, std::slice::from_ref(&key)).await;
    let error = store.get(&key, &pinned).await.expect_err("it was deleted");
    assert_eq!(error.kind, StoreErrorKind::NotFound);
}

async fn names(store: &dyn ObjectStore, dir: &Prefix) {
    let mut expected = BTreeSet::new();
    for name in [
        "blank name",
        "plus+sign",
        "percent%20",
        "amp&and=equals",
        "tilde~",
        "qu'ote\"s",
        "ünïcödé-字",
        "a/b/c/d",
        "colon:semi;comma,",
        "(brackets)[x]{y}",
        "hash#question?",
        "at@star*dollar$",
        "-dash",
        ".hidden",
        &"long".repeat(50),
    ] {
        let key = key(dir, name);
        put(store, &key, Bytes::copy_from_slice(name.as_bytes())).await;
        assert_eq!(read(store, &key).await, name.as_bytes(), "{name}");
        expected.insert(key);
    }
    let found = list_all(store, dir, Depth::All)
        .await
        .expect("it can be listed");
    let found: BTreeSet<Key> = found.objects.into_iter().map(|object| object.key).collect();
    assert_eq!(found, expected);
}

async fn listings(store: &dyn ObjectStore, dir: &Prefix) {
    let empty = list_all(store, dir, Depth::One)
        .await
        .expect("nothing can be listed");
    assert!(empty.objects.is_empty() && empty.prefixes.is_empty());
    let mut names = vec![
        "b".to_owned(),
        "a/x".into(),
        "a/y/z".into(),
        "ab/x".into(),
        "ab.c".into(),
    ];
    names.extend((0..25).map(|n| format!("many/{n:03}")));
    for name in &names {
        put(
            store,
            &key(dir, name),
            Bytes::copy_from_slice(name.as_bytes()),
        )
        .await;
    }
    let list = async |text: &str, depth| {
        let prefix = Prefix::text(format!("{dir}{text}"));
        let page = list_all(store, &prefix, depth)
            .await
            .expect("it can be listed");
        let rest = |name: &str| {
            name.strip_prefix(dir.as_str())
                .expect("it is below")
                .to_owned()
        };
        let objects: Vec<String> = page.objects.iter().map(|o| rest(o.key.as_str())).collect();
        let prefixes: Vec<String> = page.prefixes.iter().map(|p| rest(p.as_str())).collect();
        for object in &page.objects {
            let name = rest(object.key.as_str());
            assert_eq!(object.size, name.len() as u64, "the size of {name}");
        }
        (objects, prefixes)
    };
    names.sort();
    assert_eq!(list("", Depth::All).await, (names, vec![]));
    let one = |objects: &[&str], prefixes: &[&str]| {
        let owned = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>();
        (owned(objects), owned(prefixes))
    };
    assert_eq!(
        list("", Depth::One).await,
        one(&["ab.c", "b"], &["a/", "ab/", "many/"])
    );
    assert_eq!(list("a/", Depth::One).await, one(&["a/x"], &["a/y/"]));
    assert_eq!(
        list("a", Depth::One).await,
        one(&["ab.c"], &["a/", "ab/"]),
        "a prefix is text"
    );
    assert_eq!(
        list("a", Depth::All).await,
        one(&["a/x", "a/y/z", "ab.c", "ab/x"], &[])
    );
    assert_eq!(list("ab/x", Depth::One).await, one(&["ab/x"], &[]));
    assert_eq!(list("nothing/", Depth::All).await, one(&[], &[]));
    assert_eq!(list("many/", Depth::All).await.0.len(), 25);
}

async fn deletes(store: &dyn ObjectStore, dir: &Prefix) {
    let keys: Vec<Key> = (0..30)
        .map(|n| key(dir, &format!("d{}/{n}", n % 3)))
        .collect();
    for key in &keys[..20] {
        put(store, key, Bytes::from_static(b"x")).await;
    }
    let report = delete_all(store, &keys).await;
    assert!(report.is_complete(), "{report:?}");
    let deleted: BTreeSet<&Key> = report.deleted.iter().collect();
    assert_eq!(
        deleted,
        keys.iter().collect(),
        "missing ones count as deleted"
    );
    let left = list_all(store, dir, Depth::One)
        .await
        .expect("nothing can be listed");
    assert!(left.objects.is_empty() && left.prefixes.is_empty());
}
