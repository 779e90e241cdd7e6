//! Helpers that must not be, that cannot do their work, and that are waited for.

use super::super::super::wanted::Wanted;
use super::*;
use crate::wal::SegmentSize;

/// It would become the child of the postmaster (docs/decisions.md 15).
#[tokio::test]
async fn where_the_postmaster_is_the_first_process_no_helper_is_started() {
    let bench = Bench::of_server(6..=8);
    bench.write_run("1\n/data\n1800000000\n");
    launched();
    bench
        .restore(&bench.helped(6, 3))
        .await
        .expect("it is there");
    assert_eq!(launched(), 0);
    assert_eq!(bench.spooled(), [7, 8].map(name), "the call does it");
}

#[tokio::test]
async fn a_call_is_over_at_once_only_if_the_file_is_where_it_was_asked_for() {
    let bench = Bench::of_server(6..=8);
    bench
        .restore(&bench.ahead(6, 3))
        .await
        .expect("it is there");
    bench.delivered();
    let directory = bench.data_directory().join("pg_wal");
    std::fs::remove_dir(&directory).expect("removes");
    assert!(!over_at_once(&bench.ahead(7, 0)));
    std::fs::create_dir(&directory).expect("a directory");
    assert_eq!(bench.spooled(), [7, 8].map(name));
    // Behind a link, which stays.
    let target = bench.directory.path().join("target");
    std::fs::write(&target, "old").expect("a file");
    std::os::unix::fs::symlink(&target, bench.destination()).expect("a link");
    assert!(over_at_once(&bench.ahead(7, 0)));
    assert!(bench.destination().is_symlink());
    assert_eq!(std::fs::read(&target).expect("the file"), segment(&name(7)));
}

/// It is perhaps being taken: a call tells first and takes then.
#[tokio::test]
async fn what_was_asked_for_last_stays_in_the_spool() {
    let bench = Bench::of_server(6..=9);
    bench
        .restore(&bench.ahead(6, 4))
        .await
        .expect("it is there");
    let (ctx, _cancel) = context();
    let fetcher = bench.fetcher(&ctx);
    let wanted = Wanted {
        place: fetcher.spool.place().to_owned(),
        name: name(8).parse().expect("a name"),
        size: SegmentSize::new(1 << 20).expect("a size"),
        ahead: 1,
    };
    drop(Window::new(&fetcher, wanted));
    assert_eq!(bench.spooled(), [8, 9].map(name));
}

#[tokio::test]
async fn what_an_earlier_run_of_the_server_wanted_is_not_fetched() {
    let bench = Bench::of_server(6..=9);
    bench
        .restore(&bench.helped(6, 4))
        .await
        .expect("it is there");
    bench.write_run("4712\n/data\n1800000099\n");
    bench.store.calls();
    let (ctx, _cancel) = context();
    keep_full(&bench.fetcher(&ctx), "store")
        .await
        .expect("there is nothing to do");
    assert_eq!(bench.store.calls(), []);
}

/// Only what the store says is absent is the end of the archive.
#[tokio::test(start_paused = true)]
async fn a_listing_that_fails_is_trouble_and_not_the_end() {
    for (kind, times) in [
        (StoreErrorKind::PermissionDenied, 1),
        (StoreErrorKind::ServerFault, 1 + SHORT_PAUSES.len()),
    ] {
        let bench = Bench::of_server(6..=7);
        bench
            .restore(&bench.helped(6, 4))
            .await
            .expect("it is there");
        let faulty = &bench.store.faulty;
        faulty.fail_for(&name(8), StoreOp::List, Fault::Before(kind), u32::MAX);
        let (ctx, _cancel) = context();
        let fetcher = bench.fetcher(&ctx);
        keep_full(&fetcher, "store").await.expect("no failure");
        let (ended, _) = fetcher.spool.ended().expect("word of it");
        assert!(matches!(ended.why, Why::Trouble(_)), "{ended:?}");
        let calls = bench.store.faulty.calls().into_iter();
        let listed = calls.filter(|(op, key)| *op == StoreOp::List && key.ends_with(&name(8)));
        assert_eq!(listed.count(), times, "{kind:?}");
    }
}

#[tokio::test]
async fn a_helper_that_is_stopped_leaves_nothing_of_what_was_under_way() {
    let bench = Bench::of_server(6..=8);
    bench
        .restore(&bench.helped(6, 3))
        .await
        .expect("it is there");
    let faulty = &bench.store.faulty;
    faulty.fail_for(&name(7), StoreOp::Get, Fault::StallBody(100_000), 1);
    let (ctx, cancel) = context();
    let fetcher = bench.fetcher(&ctx);
    let signal = async {
        bench.store.faulty.stalled().await;
        cancel.cancel();
    };
    let (ended, ()) = tokio::join!(keep_full(&fetcher, "store"), signal);
    fails(ended, OpErrorKind::Interrupted);
    let left = files(&bench.folder()).into_iter();
    let left = left.filter(|name| name.starts_with(".barman-cloud-") || name.starts_with('0'));
    let left: Vec<_> = left.filter(|file| !file.starts_with(&name(8))).collect();
    assert_eq!(left, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_another_ends_with_a_signal() {
    let bench = Bench::of_server(6..=8);
    let spool = bench.open_spool();
    let _lock = spool
        .try_lock(&name(6).parse().expect("a name"))
        .expect("locks");
    let (ctx, cancel) = context();
    let begin = tokio::time::Instant::now();
    let request = bench.ahead(6, 2);
    let call = run(&ctx, bench.store.shared(), "p", request);
    let signal = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        cancel.cancel();
    };
    let (ended, ()) = tokio::join!(call, signal);
    fails(ended, OpErrorKind::Interrupted);
    assert!(begin.elapsed() < Duration::from_secs(4));
}

/// What a process that was killed has left says nothing of the one that is there.
#[tokio::test(start_paused = true)]
async fn it_is_told_from_its_file_whether_a_helper_gets_on() {
    for gets_on in [false, true] {
        let bench = Bench::of_server(6..=8);
        let spool = bench.open_spool();
        let lock = spool
            .try_lock(&name(6).parse().expect("a name"))
            .expect("locks");
        let file = std::fs::File::create(bench.folder().join(".barman-cloud-1-2.tmp"));
        if !gets_on {
            let old = std::time::SystemTime::now() - Duration::from_mins(30);
            file.expect("a file").set_modified(old).expect("a time");
        }
        let begin = tokio::time::Instant::now();
        let request = bench.ahead(6, 2);
        let ends = async {
            tokio::time::sleep(Duration::from_secs(40)).await;
            drop(lock);
        };
        let call = async {
            bench.restore(&request).await.expect("it is there");
            begin.elapsed().as_secs()
        };
        let (waited, ()) = tokio::join!(call, ends);
        // The clock of the test runs ahead while the lock is passed on.
        assert!(
            waited >= if gets_on { 40 } else { 10 },
            "{gets_on}: {waited}"
        );
        assert!(gets_on || waited < 30, "{waited}");
    }
}
