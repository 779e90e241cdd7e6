//! The helper, as a part of the test's own process.

use std::cell::Cell;
use std::os::fd::OwnedFd;

use super::super::helper::keep_full;
use super::super::wanted::Why;
use super::super::window::SHORT_PAUSES;
use super::ahead::name;
use super::*;

mod trouble;

thread_local! {
    static LAUNCHED: Cell<u32> = const { Cell::new(0) };
}

/// Counts, and lets the lock go.
#[expect(clippy::unnecessary_wraps, reason = "so are those that may fail")]
fn counted(lock: OwnedFd) -> io::Result<()> {
    drop(lock);
    LAUNCHED.set(LAUNCHED.get() + 1);
    Ok(())
}

/// The helpers that this thread has launched since it was last asked.
fn launched() -> u32 {
    LAUNCHED.replace(0)
}

const RUN: &str = "4711\n/data\n1800000000\n";

impl Bench {
    /// An archive, and a server that runs.
    fn of_server(numbers: std::ops::RangeInclusive<u32>) -> Self {
        let bench = Self::with_segments(numbers);
        write_control(&bench.data_directory(), GOLDEN_SYSTEM);
        bench.write_run(RUN);
        bench
    }

    fn write_run(&self, text: &str) {
        std::fs::write(self.data_directory().join("postmaster.pid"), text).expect("a file");
    }

    fn helped(&self, number: u32, parallel: u32) -> WalRestoreRequest {
        WalRestoreRequest {
            launch: Some(counted),
            ..self.ahead(number, parallel)
        }
    }

    fn open_spool(&self) -> Arc<Spool> {
        Arc::new(Spool::open(&self.helped(6, 2)).expect("a spool"))
    }

    fn fetcher(&self, ctx: &Ctx) -> Fetcher {
        Fetcher {
            ctx: ctx.clone(),
            store: self.store.shared(),
            layout: Layout::new("p", "main").expect("a layout"),
            spool: self.open_spool(),
            pauses: SHORT_PAUSES,
        }
    }

    async fn until_spooled(&self, expected: &[String]) {
        while self.spooled() != expected {
            tokio::task::yield_now().await;
        }
    }
}

/// Whether a call is over before it starts anything.
fn over_at_once(request: &WalRestoreRequest) -> bool {
    let done = at_once(request, &super::super::super::Env::default()).expect("no helper");
    matches!(done, AtOnce::Delivered)
}

#[tokio::test]
async fn the_window_slides_with_what_is_asked_for() {
    let bench = Bench::of_server(6..=12);
    bench
        .restore(&bench.helped(6, 4))
        .await
        .expect("it is there");
    assert_eq!(bench.delivered(), Some(segment(&name(6))));
    let (ctx, _cancel) = context();
    let fetcher = bench.fetcher(&ctx);
    let calls = async {
        for number in 7..=9 {
            let ready = [number, number + 1, number + 2].map(name);
            bench.until_spooled(&ready).await;
            assert!(over_at_once(&bench.helped(number, 4)), "{number}");
            assert_eq!(bench.delivered(), Some(segment(&name(number))));
        }
        bench.until_spooled(&[10, 11, 12].map(name)).await;
        assert!(over_at_once(&bench.helped(10, 4)));
    };
    let (ended, ()) = tokio::join!(keep_full(&fetcher, "store"), calls);
    ended.expect("the end of the archive is none of its own");
    // Each segment once; and the end of the archive, under its name and listed.
    let asked = bench.store.faulty.calls();
    for number in 6..=12 {
        let of =
            |(op, key): &&(StoreOp, String)| *op == StoreOp::Get && key.ends_with(&name(number));
        assert_eq!(asked.iter().filter(of).count(), 1, "{asked:?}");
    }
    let listings = asked.iter().filter(|(op, _)| *op == StoreOp::List);
    assert_eq!(listings.count(), 2, "{asked:?}");
    let (ended, _) = fetcher.spool.ended().expect("word of it");
    assert_eq!(ended.why, Why::Absent(name(13).parse().expect("a name")));
    // What is there is delivered; and nobody is started to find the same end again.
    launched();
    assert!(over_at_once(&bench.helped(11, 4)));
    assert_eq!(launched(), 0);
}

#[tokio::test(start_paused = true)]
async fn without_anything_to_do_a_helper_ends_after_a_minute() {
    let bench = Bench::of_server(6..=12);
    bench
        .restore(&bench.helped(6, 4))
        .await
        .expect("it is there");
    let (ctx, _cancel) = context();
    let begin = tokio::time::Instant::now();
    keep_full(&bench.fetcher(&ctx), "store")
        .await
        .expect("ends");
    assert_eq!(bench.spooled(), [7, 8, 9].map(name));
    let lived = begin.elapsed();
    assert!((60..70).contains(&lived.as_secs()), "{lived:?}");
}

#[tokio::test(start_paused = true)]
async fn a_helper_ends_when_its_server_or_its_folder_is_another() {
    type Change = fn(&Bench);
    let changes: [(&str, Change); 6] = [
        ("another directory is in its place", |bench| {
            let data = bench.data_directory();
            std::fs::rename(&data, data.with_extension("moved")).expect("moves");
            std::fs::create_dir_all(&data).expect("a directory");
            bench.write_run(RUN);
        }),
        ("the spool is elsewhere", |bench| {
            let folder = bench.folder();
            std::fs::rename(&folder, bench.directory.path().join("moved")).expect("moves");
        }),
        ("the server has ended", |bench| {
            let path = bench.data_directory().join("postmaster.pid");
            std::fs::remove_file(path).expect("removes");
        }),
        ("it was started again", |bench| {
            bench.write_run("4712\n/data\n1800000099\n");
        }),
        ("its directory is gone", |bench| {
            std::fs::remove_dir_all(bench.data_directory()).expect("removes");
        }),
        ("the spool is gone", |bench| {
            std::fs::remove_dir_all(bench.spool()).expect("removes");
        }),
    ];
    for (what, change) in changes {
        let bench = Bench::of_server(6..=12);
        bench
            .restore(&bench.helped(6, 4))
            .await
            .expect("it is there");
        let (ctx, _cancel) = context();
        let fetcher = bench.fetcher(&ctx);
        let begin = tokio::time::Instant::now();
        let changed = async {
            bench.until_spooled(&[7, 8, 9].map(name)).await;
            change(&bench);
        };
        let (ended, ()) = tokio::join!(keep_full(&fetcher, "store"), changed);
        ended.expect("ends");
        assert!(begin.elapsed().as_secs() < 30, "{what}");
    }
}

#[tokio::test]
async fn what_is_not_wanted_any_more_makes_room() {
    let bench = Bench::of_server(6..=12);
    for number in 7..=9 {
        let name = format!("0000000200000000000000{number:02X}");
        bench.insert(&name, segment(&name));
    }
    bench
        .restore(&bench.helped(6, 5))
        .await
        .expect("it is there");
    let (ctx, cancel) = context();
    let fetcher = bench.fetcher(&ctx);
    let calls = async {
        bench.until_spooled(&[7, 8, 9, 10].map(name)).await;
        // The new timeline begins in the segment that was asked for last.
        let new = |number: u32| format!("0000000200000000000000{number:02X}");
        let mut request = bench.helped(6, 3);
        request.wal_name = new(7);
        bench.restore(&request).await.expect("it is there");
        bench.until_spooled(&[8, 9].map(new)).await;
        // Recovery begins anew, earlier than before.
        bench
            .restore(&bench.helped(6, 3))
            .await
            .expect("it is there");
        bench.until_spooled(&[7, 8].map(name)).await;
        cancel.cancel();
    };
    let (ended, ()) = tokio::join!(keep_full(&fetcher, "store"), calls);
    fails(ended, OpErrorKind::Interrupted);
    let mut left: Vec<String> = [7, 8].map(name).to_vec();
    left.extend([7, 8].map(|number| format!("{}.record", name(number))));
    // The file of a lock that was handed on is removed by who got it.
    left.extend(["codec".into(), "helper.lock".into(), "wanted".into()]);
    left.sort();
    assert_eq!(files(&bench.folder()), left);
}

#[tokio::test(start_paused = true)]
async fn trouble_is_told_to_the_next_call() {
    let bench = Bench::of_server(6..=9);
    bench
        .restore(&bench.helped(6, 4))
        .await
        .expect("it is there");
    let fault = Fault::Before(StoreErrorKind::ServerFault);
    let faulty = &bench.store.faulty;
    faulty.fail_for(&name(7), StoreOp::Get, fault, u32::MAX);
    let (ctx, _cancel) = context();
    let fetcher = bench.fetcher(&ctx);
    keep_full(&fetcher, "store").await.expect("no failure");
    let (ended, _) = fetcher.spool.ended().expect("word of it");
    let Why::Trouble(what) = ended.why else {
        panic!("{ended:?}");
    };
    assert!(
        what.contains(&name(7)) && what.contains("an injected fault"),
        "{what}"
    );
    let tried = bench.store.faulty.calls().into_iter();
    let tried = tried.filter(|(op, key)| *op == StoreOp::Get && key.ends_with(&name(7)));
    assert_eq!(tried.count(), 1 + SHORT_PAUSES.len());
}

#[tokio::test]
async fn what_an_earlier_run_of_the_server_has_left_counts_for_nothing() {
    let bench = Bench::of_server(6..=8);
    bench
        .restore(&bench.ahead(6, 3))
        .await
        .expect("it is there");
    bench.delivered();
    assert_eq!(bench.spooled(), [7, 8].map(name));
    bench.write_run("4712\n/data\n1800000099\n");
    assert!(!over_at_once(&bench.ahead(7, 0)));
    bench.write_run(RUN);
    assert!(over_at_once(&bench.ahead(8, 0)));
}

/// Two standbys of one user, with one archive and one spool directory.
#[tokio::test]
async fn two_servers_do_not_take_each_others_files() {
    let bench = Bench::of_server(6..=8);
    let other = bench.directory.path().join("other");
    std::fs::create_dir_all(other.join("pg_wal")).expect("a directory");
    write_control(&other, GOLDEN_SYSTEM);
    std::fs::write(other.join("postmaster.pid"), RUN).expect("a file");
    bench
        .restore(&bench.ahead(6, 3))
        .await
        .expect("it is there");
    let spooled = bench.spooled();
    let mut request = bench.ahead(7, 0);
    request.destination = other.join("pg_wal/RECOVERYXLOG");
    assert!(!over_at_once(&request));
    bench.restore(&request).await.expect("it is there");
    assert_eq!(bench.spooled(), spooled);
}

#[tokio::test]
async fn a_segment_under_way_is_waited_for() {
    let bench = Bench::of_server(6..=8);
    let spool = bench.open_spool();
    let lock = spool
        .try_lock(&name(6).parse().expect("a name"))
        .expect("locks");
    let request = bench.ahead(6, 2);
    let let_go = async {
        // Long enough that a call which does not wait has asked the store.
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        assert_eq!(bench.store.calls(), []);
        drop(lock);
    };
    let (restored, ()) = tokio::join!(bench.restore(&request), let_go);
    restored.expect("it is there");
    assert_eq!(bench.delivered(), Some(segment(&name(6))));
}

/// A helper that is stopped, say.
#[tokio::test(start_paused = true)]
async fn whoever_stands_still_is_not_waited_for() {
    let bench = Bench::of_server(6..=8);
    let spool = bench.open_spool();
    let _lock = spool
        .try_lock(&name(6).parse().expect("a name"))
        .expect("locks");
    let begin = tokio::time::Instant::now();
    bench
        .restore(&bench.ahead(6, 2))
        .await
        .expect("it is there");
    let waited = begin.elapsed().as_secs();
    assert!((10..30).contains(&waited), "{waited}");
    assert_eq!(bench.delivered(), Some(segment(&name(6))));
}

#[test]
fn nobody_becomes_a_helper_by_a_variable() {
    let bench = Bench::of_server(6..=8);
    let env = [("BARMAN_CLOUD_WAL_RESTORE_HELPER", "1")]
        .into_iter()
        .collect();
    let error = at_once(&bench.helped(6, 2), &env).expect_err("no lock was handed on");
    assert_eq!(error.kind, OpErrorKind::General);
    assert_eq!(bench.store.calls(), []);
}

/// What was left by processes that were killed, here and for other servers.
#[tokio::test]
async fn a_helper_cleans_up() {
    let bench = Bench::of_server(6..=8);
    bench
        .restore(&bench.helped(6, 3))
        .await
        .expect("it is there");
    let folder = bench.folder();
    std::fs::write(folder.join(".barman-cloud-1-0.tmp"), "half").expect("a file");
    let abandoned = bench
        .spool()
        .join(format!("{}-0123", rustix::process::geteuid().as_raw()));
    std::fs::create_dir(&abandoned).expect("a directory");
    std::fs::set_permissions(&abandoned, std::fs::Permissions::from_mode(0o700)).expect("a mode");
    let foreign = bench
        .spool()
        .join(format!("{}-4567", rustix::process::geteuid().as_raw()));
    std::fs::create_dir(&foreign).expect("a directory");
    std::fs::set_permissions(&foreign, std::fs::Permissions::from_mode(0o700)).expect("a mode");
    let old = std::time::SystemTime::now() - Duration::from_hours(2);
    let record = format!("{}.record", name(7));
    for path in [
        abandoned.join(name(7)),
        abandoned.join(record),
        abandoned.join("codec"),
        abandoned.join("wanted"),
        foreign.join(format!("{}.note", name(7))),
    ] {
        let file = std::fs::File::create(path).expect("a file");
        file.set_modified(old).expect("a time");
    }
    let (ctx, cancel) = context();
    let fetcher = bench.fetcher(&ctx);
    let calls = async {
        while bench.spooled().len() < 2 {
            tokio::task::yield_now().await;
        }
        cancel.cancel();
    };
    let (ended, ()) = tokio::join!(keep_full(&fetcher, "store"), calls);
    fails(ended, OpErrorKind::Interrupted);
    assert!(!abandoned.exists());
    assert_eq!(files(&foreign), [format!("{}.note", name(7))]);
    let litter = files(&folder)
        .into_iter()
        .filter(|name| name.starts_with('.'));
    assert_eq!(litter.count(), 0);
}
