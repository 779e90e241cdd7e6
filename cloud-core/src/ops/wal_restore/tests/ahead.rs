//! Files fetched ahead, and the spool they wait in.

use super::super::record::Record;
use super::*;

pub(super) fn name(number: u32) -> String {
    format!("0000000100000000000000{number:02X}")
}

impl Bench {
    /// An archive with the segments of these numbers, compressed with gzip.
    pub(super) fn with_segments(numbers: std::ops::RangeInclusive<u32>) -> Self {
        let bench = Self::new();
        for number in numbers {
            bench.insert(&name(number), segment(&name(number)));
        }
        bench
    }

    pub(super) fn ahead(&self, number: u32, parallel: u32) -> WalRestoreRequest {
        WalRestoreRequest {
            parallel,
            ..self.request(&name(number))
        }
    }

    /// The only folder in the spool.
    pub(super) fn folder(&self) -> PathBuf {
        let mut folders = std::fs::read_dir(self.spool()).expect("a directory");
        let folder = folders.next().expect("a folder").expect("an entry");
        assert!(folders.next().is_none());
        folder.path()
    }

    /// The segments in the spool that have a record.
    pub(super) fn spooled(&self) -> Vec<String> {
        let names = files(&self.spool()).into_iter();
        names
            .filter_map(|name| Some(name.strip_suffix(".record")?.to_owned()))
            .collect()
    }

    async fn expect(&self, request: &WalRestoreRequest, calls: &[StoreOp]) {
        self.restore(request).await.expect("it is there");
        let wanted = segment(&request.wal_name);
        assert_eq!(self.delivered(), Some(wanted), "{}", request.wal_name);
        assert_eq!(self.store.calls(), calls, "{}", request.wal_name);
    }
}

#[tokio::test]
async fn segments_fetched_ahead_are_delivered_without_the_store() {
    let bench = Bench::with_segments(6..=11);
    let mut calls = vec![StoreOp::List];
    calls.extend([StoreOp::Get; 4]);
    bench.expect(&bench.ahead(6, 4), &calls).await;
    assert_eq!(bench.spooled(), [name(7), name(8), name(9)]);
    for number in 7..=9 {
        bench.expect(&bench.ahead(number, 4), &[]).await;
    }
    assert_eq!(bench.spooled(), [""; 0]);
    bench
        .expect(&bench.ahead(10, 2), &[StoreOp::Get, StoreOp::Get])
        .await;
    // Without --parallel the spool is looked at all the same.
    bench.expect(&bench.ahead(11, 0), &[]).await;
}

#[tokio::test]
async fn every_codec_is_fetched_ahead() {
    for codec in codec::CODECS {
        let bench = Bench::with_segments(5..=5);
        let suffix = codec.info().suffix;
        bench.insert(
            &format!("{SEGMENT}{suffix}"),
            golden(&format!("{SEGMENT}{suffix}")),
        );
        bench
            .restore(&bench.ahead(5, 2))
            .await
            .expect("it is there");
        bench.delivered();
        bench.store.calls();
        bench
            .restore(&bench.ahead(6, 2))
            .await
            .expect("it is there");
        assert_eq!(bench.delivered(), Some(golden(SEGMENT)), "{codec:?}");
        assert_eq!(bench.store.calls(), [], "{codec:?}");
    }
}

#[tokio::test]
async fn partials_gaps_and_damaged_segments_are_not_spooled() {
    let bench = Bench::with_segments(6..=7);
    bench.insert(&name(8), segment(&name(8))[..1 << 19].to_vec());
    bench.insert(&name(9), segment(&name(42)));
    bench.insert(&format!("{}.partial", name(10)), segment(&name(10)));
    bench.insert(&name(11), segment(&name(11)));
    bench
        .restore(&bench.ahead(6, 8))
        .await
        .expect("it is there");
    // What lies behind a hole may have been under way before that was known.
    let left = files(&bench.folder()).into_iter();
    let left: Vec<String> = left.filter(|file| !file.starts_with(&name(11))).collect();
    assert_eq!(
        left,
        [name(7), format!("{}.record", name(7)), "codec".into()]
    );
}

#[tokio::test]
async fn trouble_while_fetching_ahead_does_not_concern_the_request() {
    let bench = Bench::with_segments(6..=8);
    bench
        .store
        .faulty
        .fail_for(&name(7), StoreOp::Get, Fault::CutBody(1000), 9);
    bench
        .restore(&bench.ahead(6, 3))
        .await
        .expect("it is there");
    assert_eq!(bench.delivered(), Some(segment(&name(6))));
    assert_eq!(bench.spooled(), [name(8)]);
}

#[tokio::test]
async fn history_files_are_neither_spooled_nor_fetched_ahead_of() {
    let bench = Bench::with_segments(6..=8);
    bench.insert(HISTORY, golden(HISTORY));
    let mut request = bench.request(HISTORY);
    request.parallel = 8;
    bench.restore(&request).await.expect("it is there");
    assert_eq!(bench.store.calls(), [StoreOp::List, StoreOp::Get]);
    assert_eq!(files(&bench.spool()), [""; 0]);
}

/// Quirk B5: another server, bucket or path has its own folder.
#[tokio::test]
async fn archives_do_not_share_spooled_files() {
    let bench = Bench::with_segments(6..=7);
    bench
        .restore(&bench.ahead(6, 2))
        .await
        .expect("it is there");
    let change: [fn(&mut WalRestoreRequest); 3] = [
        |request| request.server = "other".into(),
        |request| request.url = "s3://elsewhere/p".into(),
        |request| request.store = "another endpoint".into(),
    ];
    bench.store.calls();
    for (index, change) in change.into_iter().enumerate() {
        let mut request = bench.ahead(7, 2);
        change(&mut request);
        if index == 0 {
            fails(bench.restore(&request).await, OpErrorKind::Failed);
        } else {
            bench.restore(&request).await.expect("it is there");
        }
        assert!(!bench.store.calls().is_empty(), "not from the spool");
    }
}

#[tokio::test]
async fn a_spooled_file_that_does_not_fit_its_record_is_fetched_anew() {
    type Damage = fn(&Path, &str);
    let damages: [(&str, Damage); 9] = [
        ("of a time to come", |folder, name| {
            let file = std::fs::File::options().write(true).open(folder.join(name));
            let time = std::time::SystemTime::now() + Duration::from_mins(2);
            file.expect("the file").set_modified(time).expect("a time");
        }),
        ("one byte", |folder, name| {
            let mut content = std::fs::read(folder.join(name)).expect("the file");
            content[500_000] ^= 1;
            std::fs::write(folder.join(name), content).expect("writes");
        }),
        ("cut", |folder, name| {
            let file = std::fs::File::options().write(true).open(folder.join(name));
            file.expect("the file").set_len(1 << 19).expect("cuts");
        }),
        ("no record", |folder, name| {
            std::fs::remove_file(folder.join(format!("{name}.record"))).expect("removes");
        }),
        ("no file", |folder, name| {
            std::fs::remove_file(folder.join(name)).expect("removes");
        }),
        ("another's record", |folder, name| {
            let other = folder.join("000000010000000000000008.record");
            std::fs::copy(other, folder.join(format!("{name}.record"))).expect("copies");
        }),
        ("another archive's record", |folder, name| {
            let path = folder.join(format!("{name}.record"));
            let text = std::fs::read_to_string(&path).expect("the record");
            let mut record = Record::parse(&text).expect("a record");
            record.place = "elsewhere".into();
            std::fs::write(path, record.to_text()).expect("writes");
        }),
        ("a link", |folder, name| {
            let elsewhere = folder.with_extension("elsewhere");
            std::fs::rename(folder.join(name), &elsewhere).expect("moves");
            std::os::unix::fs::symlink(&elsewhere, folder.join(name)).expect("links");
        }),
        ("old", |folder, name| {
            let file = std::fs::File::options().write(true).open(folder.join(name));
            let time = std::time::SystemTime::now() - Duration::from_hours(2);
            file.expect("the file").set_modified(time).expect("a time");
        }),
    ];
    for (what, damage) in damages {
        let bench = Bench::with_segments(6..=8);
        bench
            .restore(&bench.ahead(6, 3))
            .await
            .expect("it is there");
        assert_eq!(bench.spooled(), [name(7), name(8)]);
        bench.delivered();
        damage(&bench.folder(), &name(7));
        bench.store.calls();
        bench
            .restore(&bench.ahead(7, 0))
            .await
            .expect("it is there");
        assert_eq!(bench.delivered(), Some(segment(&name(7))), "{what}");
        assert_eq!(bench.store.calls(), [StoreOp::Get], "{what}");
        assert!(!bench.spooled().contains(&name(7)), "{what}");
    }
}

#[tokio::test]
async fn untouched_files_are_believed_unread_and_touched_ones_by_their_checksum() {
    type Touch = fn(&Path, &str);
    let touches: [(&str, Touch); 2] = [
        ("untouched", |folder, name| {
            // A checksum that does not fit would be noticed.
            let path = folder.join(format!("{name}.record"));
            let text = std::fs::read_to_string(&path).expect("the record");
            let mut record = Record::parse(&text).expect("a record");
            record.crc32c ^= 1;
            std::fs::write(path, record.to_text()).expect("writes");
        }),
        ("touched", |folder, name| {
            let file = std::fs::File::options().write(true).open(folder.join(name));
            let time = std::time::SystemTime::now() - Duration::from_mins(1);
            file.expect("the file").set_modified(time).expect("a time");
        }),
    ];
    for (what, touch) in touches {
        let bench = Bench::with_segments(6..=7);
        bench
            .restore(&bench.ahead(6, 2))
            .await
            .expect("it is there");
        bench.delivered();
        bench.store.calls();
        touch(&bench.folder(), &name(7));
        let path = bench.folder().join(name(7));
        let number = |path: &Path| {
            let found = std::fs::metadata(path).expect("a file");
            std::os::unix::fs::MetadataExt::ino(&found)
        };
        let spooled = number(&path);
        bench
            .restore(&bench.ahead(7, 0))
            .await
            .expect("it is there");
        assert_eq!(number(&bench.destination()), spooled, "{what}: it is moved");
        assert_eq!(bench.delivered(), Some(segment(&name(7))), "{what}");
        assert_eq!(bench.store.calls(), [], "{what}");
    }
}

#[tokio::test]
async fn what_another_call_fetches_is_not_fetched_twice() {
    let bench = Bench::with_segments(6..=9);
    let spool = Spool::open(&bench.ahead(6, 4)).expect("a spool");
    let lock = spool.try_lock(&name(8).parse().expect("a name"));
    assert!(lock.as_ref().is_ok_and(Option::is_some));
    bench
        .restore(&bench.ahead(6, 4))
        .await
        .expect("it is there");
    assert_eq!(bench.spooled(), [name(7), name(9)]);
    let calls = bench.store.faulty.calls();
    assert!(!calls.iter().any(|(_, key)| key.ends_with(&name(8))));
}

/// A segment that is damaged is not the end of the archive.
#[tokio::test]
async fn what_lies_behind_a_damaged_segment_is_fetched_ahead() {
    let bench = Bench::with_segments(6..=9);
    bench.insert(&name(8), segment(&name(8))[..1 << 19].to_vec());
    bench
        .restore(&bench.ahead(6, 5))
        .await
        .expect("it is there");
    assert_eq!(bench.spooled(), [name(7), name(9)]);
}

#[tokio::test]
async fn behind_the_end_of_the_archive_nothing_is_asked_for() {
    let bench = Bench::with_segments(6..=6);
    bench
        .restore(&bench.ahead(6, 16))
        .await
        .expect("it is there");
    let calls = bench.store.calls();
    // Two are asked for at first, unless the first answer comes before the second question.
    let ahead = calls.len() - 3;
    assert!((1..=2).contains(&ahead), "{calls:?}");
    let mut expected = vec![StoreOp::List, StoreOp::Get];
    expected.extend(vec![StoreOp::Get; ahead]);
    expected.push(StoreOp::List);
    assert_eq!(calls, expected);
}

#[tokio::test]
async fn another_suffix_than_before_is_listed_once() {
    for denied in [false, true] {
        let bench = Bench::with_segments(5..=5);
        // Of the golden segment there are samples with all suffixes.
        bench.insert(&format!("{SEGMENT}.gz"), golden(&format!("{SEGMENT}.gz")));
        let gzip = |content: Vec<u8>| {
            let codec = codec::by_name("gzip").expect("a codec");
            let out = Shared::default();
            let mut encoder = codec
                .encoder(Box::new(out.clone()), codec::Level::Medium)
                .expect("an encoder");
            io::Write::write_all(&mut encoder, &content).expect("encodes");
            encoder.finish().expect("encodes");
            out.take()
        };
        for number in 7..=8 {
            bench.insert(
                &format!("{}.gz", name(number)),
                gzip(segment(&name(number))),
            );
        }
        if denied {
            // S3's answer for what is absent where listing is not allowed.
            let fault = Fault::Before(StoreErrorKind::PermissionDenied);
            let faulty = &bench.store.faulty;
            faulty.fail_for(SEGMENT, StoreOp::Get, fault, 1);
        }
        bench
            .restore(&bench.ahead(5, 4))
            .await
            .expect("it is there");
        assert_eq!(bench.spooled(), [6, 7, 8].map(name));
        assert_eq!(bench.store.faulty.count(StoreOp::List), 2);
    }
}

/// Bytes that can be read when their writer is gone.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Shared {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().expect("no panic"))
    }
}

impl io::Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A lock says by being held that somebody is there, however long that lasts.
#[tokio::test]
async fn old_locks_go_unless_they_are_held() {
    let bench = Bench::with_segments(6..=7);
    let spool = Spool::open(&bench.ahead(6, 2)).expect("a spool");
    let held = spool.try_lock(&name(9).parse().expect("a name"));
    assert!(held.as_ref().is_ok_and(Option::is_some));
    let old = std::time::SystemTime::now() - Duration::from_hours(2);
    let lock = |number: u32| format!("{}.lock", name(number));
    for file in [lock(8), lock(9), "helper.lock".into(), lock(10)] {
        let path = bench.folder().join(&file);
        let opened = std::fs::File::options()
            .create(true)
            .append(true)
            .open(path);
        if file != lock(10) {
            opened.expect("a file").set_modified(old).expect("a time");
        }
    }
    spool.trim(&name(6).parse().expect("a name"));
    assert_eq!(
        files(&bench.folder()),
        [lock(9), lock(10), "helper.lock".into()]
    );
}

#[tokio::test]
async fn a_spooled_file_of_another_cluster_is_fetched_anew() {
    for (system, calls) in [
        (GOLDEN_SYSTEM, &[][..]),
        (GOLDEN_SYSTEM + 1, &[StoreOp::Get]),
    ] {
        let bench = Bench::with_segments(6..=7);
        bench
            .restore(&bench.ahead(6, 2))
            .await
            .expect("it is there");
        bench.delivered();
        bench.store.calls();
        write_control(&bench.data_directory(), system);
        bench.expect(&bench.ahead(7, 0), calls).await;
    }
}

#[tokio::test]
async fn segments_before_the_one_asked_for_are_dropped() {
    let bench = Bench::with_segments(6..=9);
    bench
        .restore(&bench.ahead(6, 4))
        .await
        .expect("it is there");
    // Segments of a new timeline are asked for first; the old ones stay good.
    let request = bench.request("000000020000000000000007");
    fails(bench.restore(&request).await, OpErrorKind::Failed);
    assert_eq!(bench.spooled(), [name(7), name(8), name(9)]);
    let request = bench.request("000000020000000000000009");
    fails(bench.restore(&request).await, OpErrorKind::Failed);
    assert_eq!(bench.spooled(), [name(9)]);
}

#[tokio::test]
async fn an_unusable_spool_is_gone_without() {
    type Spoil = fn(&Path);
    let spoils: [(&str, Spoil); 4] = [
        ("open to others", |folder| {
            let mode = std::fs::Permissions::from_mode(0o750);
            std::fs::set_permissions(folder, mode).expect("a mode");
        }),
        ("a link", |folder| {
            let elsewhere = folder.with_extension("elsewhere");
            std::fs::rename(folder, &elsewhere).expect("moves");
            std::os::unix::fs::symlink(&elsewhere, folder).expect("links");
        }),
        ("a file", |folder| {
            std::fs::remove_dir_all(folder).expect("removes");
            std::fs::write(folder, "").expect("writes");
        }),
        ("a parent that is a file", |folder| {
            let parent = folder.parent().expect("a parent");
            std::fs::remove_dir_all(parent).expect("removes");
            std::fs::write(parent, "").expect("writes");
        }),
    ];
    for (what, spoil) in spoils {
        let bench = Bench::with_segments(6..=8);
        bench
            .restore(&bench.ahead(6, 2))
            .await
            .expect("it is there");
        bench.delivered();
        spoil(&bench.folder());
        bench.store.calls();
        bench
            .restore(&bench.ahead(7, 2))
            .await
            .expect("it is there");
        assert_eq!(bench.delivered(), Some(segment(&name(7))), "{what}");
        assert_eq!(bench.store.calls(), [StoreOp::List, StoreOp::Get], "{what}");
    }
}

#[tokio::test]
async fn the_spool_is_this_users_alone() {
    let bench = Bench::with_segments(6..=7);
    let mut request = bench.ahead(6, 2);
    let parent = bench.spool().join("new/parent");
    request.spool_dir = parent.clone();
    bench.restore(&request).await.expect("it is there");
    let folder = std::fs::read_dir(&parent).expect("it was created").next();
    let folder = folder.expect("a folder").expect("an entry");
    let mode = folder.metadata().expect("a status").permissions().mode();
    assert_eq!(mode & 0o7777, 0o700);
}

#[tokio::test]
async fn a_parent_made_in_a_directory_for_everybody_is_for_everybody() {
    let bench = Bench::with_segments(6..=7);
    let shared = bench.spool().join("tmp");
    std::fs::create_dir(&shared).expect("a directory");
    let mode = std::fs::Permissions::from_mode(0o1777);
    std::fs::set_permissions(&shared, mode.clone()).expect("a mode");
    let mut request = bench.ahead(6, 2);
    request.spool_dir = shared.join("walrestore");
    bench.restore(&request).await.expect("it is there");
    let made = std::fs::metadata(&request.spool_dir).expect("it was created");
    assert_eq!(made.permissions().mode() & 0o7777, mode.mode());
}

#[tokio::test]
async fn several_calls_at_once_share_a_spool() {
    let bench = Bench::with_segments(1..=16);
    let calls = (1..=16).map(|number| {
        let mut request = bench.ahead(number, 8);
        let destination = bench.data_directory().join(format!("pg_wal/{number}"));
        request.destination.clone_from(&destination);
        let bench = &bench;
        async move {
            bench.restore(&request).await.expect("it is there");
            let content = std::fs::read(destination).expect("delivered");
            assert_eq!(content, segment(&name(number)), "{number}");
        }
    });
    futures_util::future::join_all(calls).await;
    let delivered = files(&bench.data_directory().join("pg_wal"));
    assert_eq!(delivered.len(), 16);
    let litter = files(&bench.spool())
        .into_iter()
        .filter(|name| name.starts_with('.'));
    assert_eq!(litter.count(), 0);
}

#[tokio::test]
async fn a_signal_while_fetching_ahead_leaves_no_litter() {
    let bench = Bench::with_segments(6..=8);
    let fault = Fault::StallBody(100_000);
    bench
        .store
        .faulty
        .fail_for(&name(7), StoreOp::Get, fault, 1);
    let (ctx, cancel) = context();
    let restoring = run(&ctx, bench.store.shared(), "p", bench.ahead(6, 2));
    let signal = async {
        bench.store.faulty.stalled().await;
        while !bench.destination().exists() {
            tokio::task::yield_now().await;
        }
        cancel.cancel();
    };
    let (result, ()) = tokio::join!(restoring, signal);
    result.expect("it had been delivered");
    assert_eq!(bench.delivered(), Some(segment(&name(6))));
    assert_eq!(files(&bench.folder()), ["codec"]);
}
