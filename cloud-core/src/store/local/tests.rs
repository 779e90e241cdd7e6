use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::store::{PutMode, conformance, get_all, list_all};

fn store() -> (tempfile::TempDir, LocalStore) {
    let directory = tempfile::tempdir().unwrap();
    let store = LocalStore::new(directory.path().join("bucket"));
    std::fs::create_dir(directory.path().join("bucket")).unwrap();
    (directory, store)
}

/// Every file below the root, temporary ones included.
fn files(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in directory.read_dir().unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                found.push(
                    path.strip_prefix(root)
                        .unwrap()
                        .to_str()
                        .unwrap()
                        .to_owned(),
                );
            }
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn a_directory_does_what_every_store_must() {
    let (_directory, store) = store();
    conformance::all(Arc::new(store.clone()), "run/of/it").await;
    assert_eq!(
        files(&store.root),
        Vec::<String>::new(),
        "nothing is left, not even temporaries"
    );
    assert_eq!(
        store.root.read_dir().unwrap().count(),
        0,
        "not even directories"
    );
}

#[tokio::test]
async fn a_missing_root_is_a_missing_bucket_until_it_is_created() {
    let directory = tempfile::tempdir().unwrap();
    let store = LocalStore::new(directory.path().join("a/b"));
    let key = Key::new("x/y").unwrap();
    let options = PutOptions::default();
    let missing = StoreErrorKind::BucketMissing;
    assert_eq!(store.probe().await.unwrap(), BucketState::Missing);
    assert_eq!(
        store
            .put(&key, Bytes::new(), &options)
            .await
            .unwrap_err()
            .kind,
        missing
    );
    assert_eq!(
        store
            .begin_multipart(&key, &options)
            .await
            .unwrap_err()
            .kind,
        missing
    );
    assert_eq!(
        store.head(&key, LockCheck::Skip).await.unwrap_err().kind,
        missing
    );
    assert_eq!(
        store.get(&key, &ReadRange::all()).await.unwrap_err().kind,
        missing
    );
    assert_eq!(
        store
            .delete_batch(std::slice::from_ref(&key))
            .await
            .unwrap_err()
            .kind,
        missing
    );
    let listed = list_all(&store, &Prefix::text(""), Depth::All).await;
    assert_eq!(listed.unwrap_err().kind, missing);
    assert!(
        directory.path().read_dir().unwrap().next().is_none(),
        "nothing was created"
    );
    store.create_bucket().await.unwrap();
    assert_eq!(store.probe().await.unwrap(), BucketState::Exists);
    store.put(&key, Bytes::new(), &options).await.unwrap();
}

#[tokio::test]
async fn names_that_would_leave_the_root_are_refused() {
    let (directory, store) = store();
    std::fs::write(directory.path().join("secret"), "x").unwrap();
    for name in [
        "../secret",
        "a/../../secret",
        "/x",
        "a//b",
        "./x",
        "x/",
        ".barman-cloud-1.tmp",
    ] {
        let key = Key::new(name).unwrap();
        let put = store.put(&key, Bytes::new(), &PutOptions::default()).await;
        assert_eq!(put.unwrap_err().kind, StoreErrorKind::Invalid, "{name}");
        let got = get_all(&store, &key, 10).await;
        assert_eq!(got.unwrap_err().kind, StoreErrorKind::Invalid, "{name}");
        store.delete_batch(&[key]).await.unwrap();
        let listed = list_all(&store, &Prefix::text(name), Depth::All)
            .await
            .unwrap();
        assert_eq!(listed, ListPage::default(), "{name}");
    }
    assert!(directory.path().join("secret").exists());
}

#[tokio::test]
async fn objects_are_for_their_owner_alone() {
    let (_directory, store) = store();
    let key = Key::new("a/b").unwrap();
    store
        .put(&key, Bytes::new(), &PutOptions::default())
        .await
        .unwrap();
    let mode = |name: &str| {
        store
            .root
            .join(name)
            .metadata()
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!((mode("a"), mode("a/b")), (0o700, 0o600));
}

#[tokio::test]
async fn tags_are_refused_and_not_ignored() {
    let (_directory, store) = store();
    let key = Key::new("a").unwrap();
    let tag = crate::store::Tag {
        key: "k".into(),
        value: "v".into(),
    };
    let options = PutOptions {
        mode: PutMode::Overwrite,
        tags: Some(vec![tag]),
    };
    let error = store.put(&key, Bytes::new(), &options).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Unsupported);
    assert!(store.begin_multipart(&key, &options).await.is_err());
    let none = PutOptions {
        mode: PutMode::Overwrite,
        tags: Some(vec![]),
    };
    store.put(&key, Bytes::new(), &none).await.unwrap();
}

#[tokio::test]
async fn an_upload_that_is_dropped_leaves_nothing() {
    let (_directory, store) = store();
    let key = Key::new("a/b").unwrap();
    let number = |n| crate::store::PartNumber::new(n).unwrap();
    let upload = store
        .begin_multipart(&key, &PutOptions::default())
        .await
        .unwrap();
    upload
        .put_part(number(3), Bytes::from_static(b"aside"))
        .await
        .unwrap();
    upload
        .put_part(number(1), Bytes::from_static(b"in place"))
        .await
        .unwrap();
    assert_eq!(files(&store.root).len(), 2);
    drop(upload);
    assert_eq!(files(&store.root), Vec::<String>::new());
}

#[tokio::test]
async fn parts_sent_again_with_another_size_are_put_together_rightly() {
    let (_directory, store) = store();
    let key = Key::new("a").unwrap();
    let number = |n| crate::store::PartNumber::new(n).unwrap();
    let upload = store
        .begin_multipart(&key, &PutOptions::default())
        .await
        .unwrap();
    for (n, body) in [(1, "one"), (2, "two"), (3, "three")] {
        upload
            .put_part(number(n), Bytes::from_static(body.as_bytes()))
            .await
            .unwrap();
    }
    let two = upload
        .put_part(number(2), Bytes::from_static(b"another two"))
        .await
        .unwrap();
    let one = upload
        .put_part(number(1), Bytes::from_static(b"ONE"))
        .await
        .unwrap();
    let three = upload
        .put_part(number(3), Bytes::from_static(b"3"))
        .await
        .unwrap();
    upload.complete(&[one, two, three]).await.unwrap();
    assert_eq!(
        get_all(&store, &key, 100).await.unwrap().1,
        &b"ONEanother two3"[..]
    );
    assert_eq!(files(&store.root), ["a"]);
}

#[tokio::test]
async fn an_object_that_shrinks_while_it_is_read_is_an_error() {
    let (_directory, store) = store();
    let key = Key::new("a").unwrap();
    store
        .put(&key, Bytes::from(vec![1; 5 << 20]), &PutOptions::default())
        .await
        .unwrap();
    let mut download = store.get(&key, &ReadRange::all()).await.unwrap();
    assert!(download.body.next().await.unwrap().is_ok());
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(store.root.join("a"))
        .unwrap();
    file.set_len(2 << 20).unwrap();
    let rest: Vec<_> = download.body.collect().await;
    assert_eq!(
        rest.last().unwrap().as_ref().unwrap_err().kind,
        StoreErrorKind::Corrupt
    );
}

#[tokio::test]
async fn a_full_disk_and_missing_permissions_have_their_kinds() {
    use StoreErrorKind as Kind;
    for (code, kind) in [
        (rustix::io::Errno::NOSPC, Kind::Full),
        (rustix::io::Errno::DQUOT, Kind::Full),
        (rustix::io::Errno::ACCESS, Kind::PermissionDenied),
        (rustix::io::Errno::ROFS, Kind::PermissionDenied),
        (rustix::io::Errno::NAMETOOLONG, Kind::Invalid),
    ] {
        assert_eq!(kind_of(&io::Error::from(code)), kind, "{code}");
    }
}
