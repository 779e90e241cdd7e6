//! Letting go, against a store in memory that fails as told.

use std::collections::BTreeMap;
use std::path::Path;

use tempfile::TempDir;

use super::super::super::wal_testing::{TestStore, context, golden, segment, write_control};
use super::super::ready::READY;
use super::super::{AheadRequest, QueueRequest, WalArchiveRequest, run};
use super::*;
use crate::catalogue::gap::Extent;
use crate::codec::{self, Level as CodecLevel};
use crate::store::{Fault, MemoryStore, ObjectStore, Retry, RetryPolicy, StoreErrorKind, StoreOp};

mod calls;

const MIB: u64 = 1 << 20;
const FAILS: Fault = Fault::Before(StoreErrorKind::PermissionDenied);

/// The name of segment `number` of timeline 1; segments have 1 MiB.
fn name(number: u32) -> String {
    format!("00000001{:08X}{:08X}", 0, number)
}

struct Bench {
    store: TestStore,
    directory: TempDir,
    limit: Option<u64>,
    parallel: u32,
}

impl Bench {
    /// Segments 1 to `waiting` wait, and `limit` may.
    fn new(waiting: u32, limit: u64) -> Self {
        let bench = Self {
            store: TestStore::new(&MemoryStore::new()),
            directory: tempfile::tempdir().expect("a temporary directory"),
            limit: Some(limit * MIB),
            parallel: 1,
        };
        fs::create_dir_all(bench.wal(STATUS)).expect("directories");
        for number in 1..=waiting {
            bench.add(&name(number), &segment(&name(number)));
        }
        bench
    }

    fn wal(&self, name: &str) -> PathBuf {
        self.directory.path().join("data/pg_wal").join(name)
    }

    fn spool(&self) -> PathBuf {
        self.directory.path().join("spool")
    }

    fn marker(&self, name: &str) -> PathBuf {
        self.wal(STATUS).join(format!("{name}{READY}"))
    }

    fn add(&self, name: &str, content: &[u8]) {
        fs::write(self.wal(name), content).expect("a file");
        fs::write(self.marker(name), "").expect("a mark");
    }

    fn request(&self, name: &str) -> WalArchiveRequest {
        WalArchiveRequest {
            path: "p".into(),
            server: "main".into(),
            wal_path: self.wal(name),
            codec: codec::by_name("none").expect("a codec"),
            level: CodecLevel::Medium,
            tags: None,
            history_tags: None,
            allow_overwrite: false,
            if_different: OpErrorKind::Failed,
            require_system_id: None,
            at_once: std::num::NonZeroU32::MIN,
            ahead: Some(AheadRequest {
                parallel: self.parallel,
                spool_dir: self.spool(),
                url: "s3://bucket/p".into(),
                store: "identity".into(),
            }),
            queue: Some(QueueRequest {
                max: self.limit,
                spool_dir: self.spool(),
                url: "s3://bucket/p".into(),
            }),
        }
    }

    async fn archive(&self, name: &str) -> Result<(), OpError> {
        run(&context().0, self.store.shared(), self.request(name)).await
    }

    /// The same; PostgreSQL marks the file as archived after success.
    async fn step(&self, name: &str) -> Result<(), OpError> {
        let archived = self.archive(name).await;
        if archived.is_ok() {
            fs::remove_file(self.marker(name)).expect("a mark");
        }
        archived
    }

    /// The base names of the objects and of what is said of gaps.
    fn stored(&self) -> (Vec<String>, Vec<Extent>) {
        let (mut wal, mut gaps) = (Vec::new(), Vec::new());
        for key in self.store.memory.contents().into_keys() {
            match key.strip_prefix("p/main/gaps/") {
                Some(name) => gaps.push(Extent::of_name(name).expect("a gap")),
                None => wal.push(key.rsplit('/').next().unwrap_or_default().to_owned()),
            }
        }
        (wal, gaps)
    }

    /// Whether anything is on record.
    fn on_record(&self) -> bool {
        self.in_folder("gaps")
    }

    fn in_folder(&self, name: &str) -> bool {
        let folders = fs::read_dir(self.spool()).into_iter().flatten();
        folders
            .map(|folder| folder.expect("an entry").path().join(name))
            .any(|file| file.exists())
    }

    /// The only folder in the spool.
    fn folder(&self) -> PathBuf {
        let folder = fs::read_dir(self.spool()).expect("a spool").next();
        folder.expect("a folder").expect("an entry").path()
    }

    /// As if the minute after a failure were over.
    fn let_a_minute_pass(&self) {
        let path = self.folder().join("queue-failed");
        let file = fs::File::options().write(true).open(path).expect("a note");
        let then = std::time::SystemTime::now() - Duration::from_mins(1);
        file.set_modified(then).expect("a time");
    }
}

fn run_of(first: u32, last: u32) -> Extent {
    let wal = |number| name(number).parse().expect("a name");
    Extent::Segments(wal(first), wal(last))
}

#[tokio::test]
async fn up_to_the_limit_nothing_is_let_go() {
    let bench = Bench::new(4, 4);
    bench.store.faulty.fail(StoreOp::Put, FAILS, 1);
    let error = bench.archive(&name(1)).await.expect_err("it must fail");
    assert_eq!(error.kind, OpErrorKind::General);
    assert!(!bench.spool().exists(), "nothing is left behind");
    bench.archive(&name(1)).await.expect("archived");
    assert_eq!(bench.stored().0, [name(1)]);
}

#[tokio::test]
async fn without_the_option_nothing_is_let_go_and_nothing_looked_at() {
    let mut bench = Bench::new(9, 1);
    bench.limit = None;
    bench.store.faulty.fail(StoreOp::Put, FAILS, 1);
    bench.archive(&name(1)).await.expect_err("it must fail");
    assert!(!bench.spool().exists());
    fs::remove_dir_all(bench.wal(STATUS)).expect("removes");
    bench.archive(&name(1)).await.expect("archived");
}

#[tokio::test]
async fn beyond_the_limit_the_store_is_tried_once_a_minute() {
    let bench = Bench::new(7, 4);
    bench.store.faulty.fail(StoreOp::Put, FAILS, 2);
    bench.step(&name(1)).await.expect("let go");
    assert_eq!(bench.store.calls(), [StoreOp::Put]);
    bench.step(&name(2)).await.expect("let go");
    assert_eq!(bench.store.calls(), [], "it failed a moment ago");
    bench.let_a_minute_pass();
    bench.step(&name(3)).await.expect("let go");
    assert_eq!(bench.store.calls(), [StoreOp::Put], "of what is on record");
    assert!(bench.on_record());
    assert_eq!(bench.stored(), (vec![], vec![]));
    // Within the limit again: as ever.
    bench.step(&name(4)).await.expect("archived");
    assert_eq!(bench.store.calls(), [StoreOp::Put, StoreOp::Put]);
    assert_eq!(bench.stored(), (vec![name(4)], vec![run_of(1, 3)]));
    assert!(!bench.on_record());
}

#[tokio::test]
async fn a_store_that_takes_it_has_it_however_much_waits_up_to_twice_the_limit() {
    let bench = Bench::new(8, 4);
    for number in 1..=8 {
        bench.step(&name(number)).await.expect("archived");
    }
    assert_eq!(bench.stored().0.len(), 8);
    assert!(!bench.spool().exists());
    // And beyond that nobody waits for it.
    let bench = Bench::new(9, 4);
    bench.step(&name(1)).await.expect("let go");
    assert_eq!(bench.store.calls(), []);
    bench.step(&name(2)).await.expect("archived");
    assert_eq!(bench.stored(), (vec![name(2)], vec![run_of(1, 1)]));
}

/// The store does not answer, and the requests are tried again for a minute.
#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_has_five_seconds() {
    let bench = Bench::new(5, 4);
    let away = Fault::Before(StoreErrorKind::Connect);
    bench.store.faulty.fail(StoreOp::Put, away, u32::MAX);
    let policy = RetryPolicy::per_run(Duration::from_mins(1));
    let store: Arc<dyn ObjectStore> = Arc::new(Retry::new(bench.store.shared(), policy));
    let began = Instant::now();
    let request = bench.request(&name(1));
    run(&context().0, Arc::clone(&store), request)
        .await
        .expect("let go");
    let took = began.elapsed();
    assert!(
        took >= PATIENCE && took <= PATIENCE + 2 * LOOK_EVERY,
        "{took:?}"
    );
    assert!(bench.on_record());
    // Within the limit it has its minute, and the call fails.
    fs::remove_file(bench.marker(&name(1))).expect("a mark");
    let began = Instant::now();
    let request = bench.request(&name(2));
    let error = run(&context().0, store, request)
        .await
        .expect_err("it must fail");
    assert_eq!(error.kind, OpErrorKind::Unreachable);
    assert!(
        began.elapsed() > Duration::from_secs(40),
        "{:?}",
        began.elapsed()
    );
}

/// What comes to wait during the call counts.
#[tokio::test(start_paused = true)]
async fn it_is_looked_at_during_a_call_how_much_waits() {
    for (more, seconds) in [(1, 5), (6, 1)] {
        let bench = Bench::new(4, 4);
        let away = Fault::Before(StoreErrorKind::Connect);
        bench.store.faulty.fail(StoreOp::Put, away, u32::MAX);
        let policy = RetryPolicy::per_run(Duration::from_mins(1));
        let store = Arc::new(Retry::new(bench.store.shared(), policy));
        let began = Instant::now();
        let (ctx, _) = context();
        let call = run(&ctx, store, bench.request(&name(1)));
        let server = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            for number in 5..5 + more {
                fs::write(bench.marker(&name(number)), "").expect("a mark");
            }
        };
        let (archived, ()) = tokio::join!(call, server);
        archived.expect("let go");
        let took = began.elapsed().as_secs();
        assert!((seconds..seconds + 2).contains(&took), "{more}: {took}");
        // Only a store that had its time has failed.
        assert_eq!(bench.in_folder("queue-failed"), seconds == 5, "{more}");
    }
}

#[tokio::test]
async fn the_archive_is_told_before_anything_else_is_archived() {
    for (parallel, limit) in [(1, Some(4 * MIB)), (1, None), (8, Some(4 * MIB)), (8, None)] {
        let mut bench = Bench::new(9, 4);
        bench.step(&name(1)).await.expect("let go");
        (bench.parallel, bench.limit) = (parallel, limit);
        let before = bench.store.faulty.calls().len();
        // A history file goes like any other.
        bench.add("00000002.history", &golden("00000002.history"));
        bench.archive("00000002.history").await.expect("archived");
        let calls = bench.store.faulty.calls().split_off(before);
        assert!(calls[0].1.starts_with("p/main/gaps/"), "{calls:?}");
        assert!(calls.len() >= 2, "{calls:?}");
        let told = calls.iter().filter(|(_, key)| key.contains("/gaps/"));
        assert_eq!(told.count(), 1, "{calls:?}");
        assert!(!bench.on_record());
        let (key, text) = bench
            .store
            .memory
            .contents()
            .into_iter()
            .find(|(key, _)| key.contains("/gaps/"))
            .expect("a gap");
        let gap = Gap::parse(std::str::from_utf8(&text).expect("UTF-8")).expect("a gap");
        assert!(key.ends_with(&gap.name()), "{key}");
        assert_eq!((gap.server.as_str(), gap.count()), ("main", 1));
        assert_eq!(gap.system, Some(crate::ops::wal_testing::GOLDEN_SYSTEM));
        assert_eq!((gap.waiting, gap.limit), (9 * MIB, 4 * MIB));
        assert_eq!((gap.id.len(), gap.since.subsec_nanosecond()), (16, 0));
    }
}

#[tokio::test]
async fn a_call_that_cannot_tell_the_archive_fails_and_may_let_go_in_turn() {
    let bench = Bench::new(6, 4);
    bench.store.faulty.fail(StoreOp::Put, FAILS, 1);
    bench.step(&name(1)).await.expect("let go");
    bench.let_a_minute_pass();
    bench
        .store
        .faulty
        .fail_for("/gaps/", StoreOp::Put, FAILS, u32::MAX);
    bench.step(&name(2)).await.expect("let go");
    let error = bench.step(&name(3)).await.expect_err("it must fail");
    assert!(
        error.of_store && error.message.contains("/gaps/"),
        "{error}"
    );
    assert_eq!(bench.stored(), (vec![], vec![]));
    assert!(bench.on_record());
}

#[tokio::test]
async fn only_segments_go_and_only_because_of_the_store() {
    // History, backup and partial files stay, whatever waits.
    let bench = Bench::new(20, 4);
    let partial = format!("{}.partial", name(21));
    let backup = format!("{}.00000028.backup", name(1));
    bench.add(&partial, &segment(&name(21)));
    bench.add(&backup, b"START WAL LOCATION: 0/100028\n");
    bench.add("00000002.history", &golden("00000002.history"));
    bench.store.faulty.fail(StoreOp::Put, FAILS, 3);
    for name in [partial.as_str(), &backup, "00000002.history"] {
        let error = bench.archive(name).await.expect_err("it must fail");
        assert!(error.of_store, "{name}: {error}");
    }
    assert!(!bench.on_record());

    // A file that is not this cluster's, or cannot be read.
    let bench = Bench::new(20, 4);
    write_control(&bench.directory.path().join("data"), 12345);
    let error = bench.archive(&name(1)).await.expect_err("it must fail");
    assert_eq!(error.kind, OpErrorKind::Failed);
    fs::remove_file(bench.wal(&name(2))).expect("removes");
    bench.archive(&name(2)).await.expect_err("it must fail");
    assert!(!bench.on_record());

    // Another file of that name in the archive.
    let bench = Bench::new(6, 4);
    let key = format!("p/main/wals/0000000100000000/{}", name(1));
    bench.store.memory.insert(&key, segment(&name(7)));
    let error = bench.archive(&name(1)).await.expect_err("it must fail");
    assert_eq!(error.kind, OpErrorKind::Failed);
    assert!(!bench.on_record());
}

#[tokio::test]
async fn what_is_known_to_be_archived_is_not_let_go() {
    let mut bench = Bench::new(3, 4);
    bench.parallel = 3;
    bench.step(&name(1)).await.expect("archived");
    for number in 4..=20 {
        bench.add(&name(number), &segment(&name(number)));
    }
    bench.store.calls();
    bench.step(&name(2)).await.expect("archived");
    bench.step(&name(3)).await.expect("archived");
    assert_eq!(bench.store.calls(), []);
    assert!(!bench.on_record());
    bench.step(&name(4)).await.expect("let go");
    assert_eq!(bench.store.calls(), []);
    assert!(bench.on_record());
}

#[tokio::test]
async fn what_cannot_be_put_on_record_is_not_let_go() {
    for waiting in [5, 20] {
        let bench = Bench::new(waiting, 4);
        fs::write(bench.spool(), "").expect("a file");
        bench.store.faulty.fail(StoreOp::Put, FAILS, 1);
        let error = bench.archive(&name(1)).await.expect_err("it must fail");
        assert!(error.message.contains("not let go either"), "{error}");
        assert!(error.hint.is_some_and(|hint| hint.contains("--spool-dir")));
    }
}

#[tokio::test]
async fn where_nothing_can_be_counted_nothing_is_let_go() {
    let bench = Bench::new(9, 1);
    fs::remove_dir_all(bench.wal(STATUS)).expect("removes");
    bench.store.faulty.fail(StoreOp::Put, FAILS, 1);
    bench.archive(&name(1)).await.expect_err("it must fail");
    bench.archive(&name(1)).await.expect("archived");
    assert!(!bench.on_record());
}

#[tokio::test(start_paused = true)]
async fn a_signal_ends_the_call_and_lets_nothing_go() {
    let bench = Bench::new(5, 4);
    let away = Fault::Before(StoreErrorKind::Connect);
    bench.store.faulty.fail(StoreOp::Put, away, u32::MAX);
    let policy = RetryPolicy::per_run(Duration::from_mins(1));
    let store = Arc::new(Retry::new(bench.store.shared(), policy));
    let (ctx, cancel) = context();
    let call = run(&ctx, store, bench.request(&name(1)));
    let signal = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        cancel.cancel();
    };
    let (archived, ()) = tokio::join!(call, signal);
    assert_eq!(
        archived.expect_err("it ends").kind,
        OpErrorKind::Interrupted
    );
    assert!(!bench.on_record());
}

/// Killed after the record was written and before anybody heard of it, or after the
/// store has the marker and before the record is cleared.
#[tokio::test]
async fn a_call_that_is_killed_is_repeated_without_harm() {
    let bench = Bench::new(9, 4);
    bench.archive(&name(1)).await.expect("let go");
    bench.archive(&name(1)).await.expect("let go once more");
    fs::remove_file(bench.marker(&name(1))).expect("a mark");
    let record = bench.folder().join("gaps");
    let text = fs::read(&record).expect("a record");
    bench.step(&name(2)).await.expect("archived");
    fs::write(&record, text).expect("writes");
    bench.step(&name(3)).await.expect("archived");
    assert!(!record.exists());
    assert_eq!(bench.stored(), (vec![name(2), name(3)], vec![run_of(1, 1)]));
}

/// However the store comes and goes, what PostgreSQL was told is archived is in the
/// archive or said to be missing, and said before anything behind it is archived.
#[tokio::test]
async fn nothing_is_ever_lost_without_a_word() {
    for seed in 0..40 {
        let mut random = fastrand::Rng::with_seed(seed);
        let bench = Bench::new(0, 3);
        let (mut next, mut last) = (1, 0);
        while next <= 30 {
            if last < 30 && random.u8(..3) > 0 {
                last += 1;
                bench.add(&name(last), &segment(&name(last)));
            }
            if next > last {
                continue;
            }
            match random.u8(..6) {
                0 => bench
                    .store
                    .faulty
                    .fail(StoreOp::Put, FAILS, random.u32(1..4)),
                1 => {
                    let lost = Fault::After(StoreErrorKind::Timeout);
                    bench.store.faulty.fail(StoreOp::Put, lost, 1);
                }
                2 if bench.on_record() && random.bool() => {
                    bench.let_a_minute_pass_if_any();
                }
                _ => {}
            }
            if bench.step(&name(next)).await.is_ok() {
                next += 1;
            }
        }
        for _ in 0..4 {
            // The last of it, if the store does what it should at last.
            bench.add("00000002.history", &golden("00000002.history"));
            let _ = bench.step("00000002.history").await;
        }
        let (wal, gaps) = bench.stored();
        assert!(!bench.on_record(), "{seed}");
        for number in 1..=30 {
            let name = name(number);
            let covered = gaps.iter().any(|gap| gap.covers(&run_of(number, number)));
            assert!(wal.contains(&name) || covered, "{seed}: {name}");
        }
        assert_told_before(&bench, &gaps);
    }
}

/// Each gap was told before the first segment behind it.
fn assert_told_before(bench: &Bench, gaps: &[Extent]) {
    let calls = bench.store.faulty.calls();
    let mut first = BTreeMap::new();
    for (at, (op, key)) in calls.iter().enumerate() {
        if *op == StoreOp::Put {
            let base = Path::new(key)
                .file_name()
                .expect("a name")
                .to_string_lossy();
            first.entry(base.into_owned()).or_insert(at);
        }
    }
    for gap in gaps {
        let Extent::Segments(_, last) = gap else {
            panic!("{gap:?}");
        };
        let told = first
            .iter()
            .filter(|(name, _)| Extent::of_name(name).as_ref() == Some(gap));
        let told = *told.map(|(_, at)| at).min().expect("it was told");
        let behind = first.iter().filter(|(name, _)| {
            let wal = name.parse::<WalName>();
            wal.is_ok_and(|wal| wal.kind() == WalKind::Segment && wal > *last)
        });
        let stored = bench.stored().0;
        for (name, at) in behind.filter(|(name, _)| stored.contains(name)) {
            assert!(told < *at, "{name} was archived before {gap:?} was told");
        }
    }
}

impl Bench {
    fn let_a_minute_pass_if_any(&self) {
        if self.in_folder("queue-failed") {
            self.let_a_minute_pass();
        }
    }
}
