use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::store::conformance::{self, Gap};
use crate::store::{PutMode, get_all, list_all};

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
    // Some file systems have no extended attributes.
    let file = store.root.join("probe");
    std::fs::write(&file, "").unwrap();
    let opened = File::open(&file).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    let gaps = match rustix::fs::fsetxattr(&opened, "user.probe", b"", flags) {
        Ok(()) => &[][..],
        Err(_) => &[Gap::Fingerprints],
    };
    std::fs::remove_file(&file).unwrap();
    conformance::all_but(Arc::new(store.clone()), "run/of/it", gaps).await;
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
            .put(&key, Bytes::new().into(), &options)
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
    store
        .put(&key, Bytes::new().into(), &options)
        .await
        .unwrap();
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
        let put = store
            .put(&key, Bytes::new().into(), &PutOptions::default())
            .await;
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
        .put(&key, Bytes::new().into(), &PutOptions::default())
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
        tags: Some(vec![tag]),
        ..PutOptions::default()
    };
    let error = store
        .put(&key, Bytes::new().into(), &options)
        .await
        .unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Unsupported);
    assert!(store.begin_multipart(&key, &options).await.is_err());
    let none = PutOptions {
        tags: Some(vec![]),
        ..PutOptions::default()
    };
    store.put(&key, Bytes::new().into(), &none).await.unwrap();
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
        .put(
            &key,
            Bytes::from(vec![1; 5 << 20]).into(),
            &PutOptions::default(),
        )
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

fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

fn number(n: u32) -> crate::store::PartNumber {
    crate::store::PartNumber::new(n).unwrap()
}

/// The names of all objects below the root.
async fn listed(store: &LocalStore) -> Vec<String> {
    let page = list_all(store, &Prefix::text(""), Depth::All)
        .await
        .unwrap();
    page.objects.iter().map(|o| o.key.to_string()).collect()
}

/// Parts overtake each other all the time when several are on the way. Were
/// the whole object copied for that, a large archive would need its size twice.
#[tokio::test]
async fn a_part_that_overtook_another_one_is_all_that_is_copied() {
    let (_directory, store) = store();
    let upload = store
        .begin_multipart(&key("a"), &PutOptions::default())
        .await
        .unwrap();
    let inode = |name: &str| store.root.join(name).metadata().unwrap().ino();
    let first = inode(&files(&store.root)[0]);
    let mut receipts = Vec::new();
    for (n, body) in [
        (2, "two"),
        (1, "first"),
        (3, "three"),
        (5, "5"),
        (4, "four"),
    ] {
        let body = Bytes::from_static(body.as_bytes());
        receipts.push(upload.put_part(number(n), body).await.unwrap());
    }
    receipts.sort_by_key(|receipt| receipt.number);
    upload.complete(&receipts).await.unwrap();
    let (_, read) = get_all(&store, &key("a"), 100).await.unwrap();
    assert_eq!(read, &b"firsttwothreefour5"[..]);
    assert_eq!(inode("a"), first, "it is the file that grew");
}

#[tokio::test]
async fn a_part_that_shrinks_does_not_let_later_ones_overlap() {
    let (_directory, store) = store();
    let upload = store
        .begin_multipart(&key("a"), &PutOptions::default())
        .await
        .unwrap();
    let put = async |n, body: &'static str| {
        upload
            .put_part(number(n), Bytes::from_static(body.as_bytes()))
            .await
            .unwrap()
    };
    let stale = put(1, "ONE").await;
    put(2, "two, a long one").await;
    let three = put(3, "three").await;
    let two = put(2, "2").await;
    let four = put(4, "four, which is longer than all before").await;
    let one = put(1, "one").await;
    let old = upload.complete(&[stale, two.clone()]).await.unwrap_err();
    assert_eq!(old.kind, StoreErrorKind::Invalid, "it was sent again since");
    upload.complete(&[one, two, three, four]).await.unwrap();
    let (_, read) = get_all(&store, &key("a"), 100).await.unwrap();
    assert_eq!(read, &b"one2threefour, which is longer than all before"[..]);
    assert_eq!(files(&store.root), ["a"]);
}

#[tokio::test]
async fn a_completion_that_failed_can_be_repeated() {
    let (_directory, store) = store();
    let create = PutOptions {
        mode: PutMode::CreateOnly,
        ..PutOptions::default()
    };
    let upload = store.begin_multipart(&key("a"), &create).await.unwrap();
    let part = upload
        .put_part(number(1), Bytes::from_static(b"new"))
        .await
        .unwrap();
    store
        .put(&key("a"), Bytes::from_static(b"old").into(), &create)
        .await
        .unwrap();
    let taken = upload.complete(std::slice::from_ref(&part)).await;
    assert_eq!(taken.unwrap_err().kind, StoreErrorKind::AlreadyExists);
    store.delete_batch(&[key("a")]).await.unwrap();
    upload.complete(std::slice::from_ref(&part)).await.unwrap();
    let (_, read) = get_all(&store, &key("a"), 100).await.unwrap();
    assert_eq!(read, &b"new"[..]);
    let over = upload.complete(&[part]).await.unwrap_err();
    assert_eq!(over.kind, StoreErrorKind::NotFound);
}

#[tokio::test]
async fn a_name_is_not_both_an_object_and_a_directory() {
    let (_directory, store) = store();
    let put = async |name: &str, mode| {
        let options = PutOptions {
            mode,
            ..PutOptions::default()
        };
        let put = store.put(&key(name), Bytes::new().into(), &options).await;
        put.map_err(|error| error.kind)
    };
    put("a/b", PutMode::Overwrite).await.unwrap();
    for mode in [PutMode::Overwrite, PutMode::CreateOnly] {
        let refused = Err(StoreErrorKind::Invalid);
        assert_eq!(put("a", mode.clone()).await, refused);
        assert_eq!(put("a/b/c", mode.clone()).await, refused);
        assert_eq!(put("a/b/c/d", mode).await, refused);
    }
    let missing = store.head(&key("a"), LockCheck::Skip).await.unwrap_err();
    assert_eq!(missing.kind, StoreErrorKind::NotFound);
    assert_eq!(listed(&store).await, ["a/b"]);
}

#[tokio::test]
async fn links_that_lead_in_a_circle_end_no_listing_and_hide_nothing() {
    let (directory, store) = store();
    let put = async |name: &str| {
        let options = PutOptions::default();
        store
            .put(&key(name), Bytes::new().into(), &options)
            .await
            .unwrap();
    };
    put("a/b/c").await;
    std::fs::create_dir(directory.path().join("elsewhere")).unwrap();
    let link = |to: PathBuf, at: &str| std::os::unix::fs::symlink(to, store.root.join(at)).unwrap();
    link(store.root.to_path_buf(), "a/b/circle");
    link(store.root.join("a"), "a/circle");
    link(directory.path().join("elsewhere"), "moved");
    put("moved/d").await;
    let deep = vec!["d"; 100].join("/");
    put(&deep).await;
    assert_eq!(listed(&store).await, ["a/b/c", &deep, "moved/d"]);
    let page = list_all(&store, &Prefix::text("a/b"), Depth::One)
        .await
        .unwrap();
    assert_eq!(page.prefixes, [Prefix::dir("a/b")]);
}

#[tokio::test]
async fn a_pipe_is_no_object_and_nobody_waits_for_it() {
    let (_directory, store) = store();
    let pipe = store.root.join("pipe");
    let mode = Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let got = store.get(&key("pipe"), &ReadRange::all()).await;
    assert_eq!(got.unwrap_err().kind, StoreErrorKind::NotFound);
    assert_eq!(listed(&store).await, Vec::<String>::new());
}

/// What a killed process left must not fill the disk for ever, and what a
/// running one writes must not be touched.
#[tokio::test]
async fn abandoned_temporary_files_go_when_something_is_deleted_beside_them() {
    let (_directory, store) = store();
    let options = PutOptions::default();
    store
        .put(&key("a/b/c"), Bytes::new().into(), &options)
        .await
        .unwrap();
    store
        .put(&key("a/d"), Bytes::new().into(), &options)
        .await
        .unwrap();
    let old = File::create(store.root.join("a/b/.barman-cloud-1-2.tmp")).unwrap();
    let week = std::time::Duration::from_hours(8 * 24);
    old.set_modified(std::time::SystemTime::now() - week)
        .unwrap();
    let running = store.begin_multipart(&key("a/e"), &options).await.unwrap();
    let deleted = store.delete_batch(&[key("a/b/c"), key("a/d")]).await;
    assert_eq!(deleted.unwrap().deleted.len(), 2);
    assert!(!store.root.join("a/b").exists());
    let part = running.put_part(number(1), Bytes::new()).await.unwrap();
    running.complete(&[part]).await.unwrap();
    assert_eq!(files(&store.root), ["a/e"]);
}

/// A delete that empties a directory removes it while others write there.
#[test]
fn a_directory_that_goes_away_under_a_write_is_made_again() {
    let (_directory, store) = store();
    let (root, target) = (&store.root, store.root.join("x/y/z/object"));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..500 {
                    drop(file::Temporary::beside(root, &target).unwrap());
                    file::tidy(root, target.parent().unwrap());
                }
            });
        }
    });
    assert_eq!(store.root.read_dir().unwrap().count(), 0);
}

#[test]
fn a_root_that_is_gone_is_never_made_by_a_write() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root");
    let made = file::create_directories(&root, &root.join("a/b"));
    assert_eq!(made.unwrap_err().kind(), io::ErrorKind::NotFound);
    assert!(!root.exists());
}

/// Between the look at a version and its replacement nobody else may replace it.
#[tokio::test]
async fn a_version_is_not_replaced_while_another_process_replaces_one_there() {
    let directory = tempfile::tempdir().unwrap();
    let store = LocalStore::new(directory.path());
    let key = Key::new("a/b").unwrap();
    let put = async |body: &'static [u8], mode: PutMode| {
        let options = PutOptions {
            mode,
            ..PutOptions::default()
        };
        store
            .put(&key, Bytes::from_static(body).into(), &options)
            .await
    };
    let first = put(b"first", PutMode::Overwrite).await.unwrap();
    let mode = PutMode::Replace(first.version.unwrap());
    let other = File::open(directory.path().join("a")).unwrap();
    rustix::fs::flock(&other, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let error = put(b"second", mode.clone()).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Timeout);
    drop(other);
    put(b"second", mode).await.unwrap();
    assert_eq!(
        std::fs::read(directory.path().join("a/b")).unwrap(),
        b"second"
    );
}
