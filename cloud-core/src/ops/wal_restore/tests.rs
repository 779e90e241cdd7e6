//! Fetching from a store in memory.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::TempDir;

use super::super::wal_testing::{
    GOLDEN_SYSTEM, TestStore, context, golden, segment, write_control,
};
use super::*;
use crate::codec;
use crate::store::{Fault, MemoryStore, StoreOp};

mod ahead;
mod helper;

const SEGMENT: &str = "000000010000000000000006";
const HISTORY: &str = "00000002.history";
const BACKUP: &str = "000000010000000000000006.00000028.backup";
const SUFFIXES: [&str; 7] = ["", ".gz", ".bz2", ".xz", ".snappy", ".zst", ".lz4"];

struct Bench {
    store: TestStore,
    directory: TempDir,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for name in ["data/pg_wal", "spool"] {
            std::fs::create_dir_all(directory.path().join(name)).expect("a directory");
        }
        Self {
            store: TestStore::new(&MemoryStore::new()),
            directory,
        }
    }

    fn data_directory(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn destination(&self) -> PathBuf {
        self.data_directory().join("pg_wal/RECOVERYXLOG")
    }

    fn spool(&self) -> PathBuf {
        self.directory.path().join("spool")
    }

    fn insert(&self, name: &str, content: impl Into<bytes::Bytes>) {
        self.store.memory.insert(&key(name), content);
    }

    fn request(&self, name: &str) -> WalRestoreRequest {
        WalRestoreRequest {
            url: "s3://bucket/p".into(),
            store: "store".into(),
            server: "main".into(),
            wal_name: name.into(),
            destination: self.destination(),
            no_partial: false,
            parallel: 0,
            launch: None,
            spool_dir: self.spool(),
            retry_timeout: Some(Duration::ZERO),
        }
    }

    /// A request of which nothing can be remembered.
    fn without_spool(&self, name: &str) -> WalRestoreRequest {
        WalRestoreRequest {
            spool_dir: PathBuf::from("/dev/null/spool"),
            ..self.request(name)
        }
    }

    async fn restore(&self, request: &WalRestoreRequest) -> Result<(), OpError> {
        run(&context().0, self.store.shared(), "p", request.clone()).await
    }

    /// What was delivered; the next request finds nothing there.
    fn delivered(&self) -> Option<Vec<u8>> {
        let content = std::fs::read(self.destination()).ok();
        let _ = std::fs::remove_file(self.destination());
        self.assert_no_litter();
        content
    }

    fn assert_no_litter(&self) {
        assert_eq!(files(&self.data_directory().join("pg_wal")), [""; 0]);
    }
}

/// The names of all files below a directory.
fn files(directory: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            names.extend(files(&path));
        } else {
            names.push(
                path.file_name()
                    .expect("a name")
                    .to_string_lossy()
                    .into_owned(),
            );
        }
    }
    names.sort();
    names
}

fn key(name: &str) -> String {
    let directory = if name.contains(".history") {
        String::new()
    } else {
        format!("{}/", &name[..16])
    };
    format!("p/main/wals/{directory}{name}")
}

fn fails(result: Result<(), OpError>, kind: OpErrorKind) -> OpError {
    let error = result.expect_err("it must fail");
    assert_eq!(error.kind, kind, "{error}");
    error
}

#[tokio::test]
async fn every_golden_sample_is_delivered_as_it_was() {
    for suffix in SUFFIXES {
        for name in [SEGMENT, HISTORY] {
            let bench = Bench::new();
            bench.insert(
                &format!("{name}{suffix}"),
                golden(&format!("{name}{suffix}")),
            );
            bench
                .restore(&bench.without_spool(name))
                .await
                .expect("it is there");
            assert_eq!(bench.store.calls(), [StoreOp::List, StoreOp::Get]);
            assert_eq!(bench.delivered(), Some(golden(name)), "{name}{suffix}");
        }
    }
}

#[tokio::test]
async fn the_suffix_that_was_right_the_last_time_saves_the_listing() {
    for suffix in SUFFIXES {
        let bench = Bench::new();
        bench.insert(
            &format!("{SEGMENT}{suffix}"),
            golden(&format!("{SEGMENT}{suffix}")),
        );
        for calls in [
            &[StoreOp::List, StoreOp::Get][..],
            &[StoreOp::Get],
            &[StoreOp::Get],
        ] {
            bench
                .restore(&bench.request(SEGMENT))
                .await
                .expect("it is there");
            assert_eq!(bench.store.calls(), calls, "{suffix}");
            assert_eq!(bench.delivered(), Some(golden(SEGMENT)));
        }
    }
}

#[tokio::test]
async fn a_wrong_guess_leads_to_the_listing() {
    for denied in [false, true] {
        let bench = Bench::new();
        bench.insert(&format!("{SEGMENT}.gz"), golden(&format!("{SEGMENT}.gz")));
        bench
            .restore(&bench.request(SEGMENT))
            .await
            .expect("it is there");
        bench.store.memory.remove(&key(&format!("{SEGMENT}.gz")));
        bench.insert(&format!("{SEGMENT}.lz4"), golden(&format!("{SEGMENT}.lz4")));
        bench.store.calls();
        if denied {
            // S3's answer for what is absent where listing is not allowed.
            let fault = Fault::Before(StoreErrorKind::PermissionDenied);
            bench.store.faulty.fail_for(".gz", StoreOp::Get, fault, 1);
        }
        bench
            .restore(&bench.request(SEGMENT))
            .await
            .expect("it is there");
        assert_eq!(
            bench.store.calls(),
            [StoreOp::Get, StoreOp::List, StoreOp::Get]
        );
        assert_eq!(bench.delivered(), Some(golden(SEGMENT)));
    }
}

#[tokio::test]
async fn absence_is_said_only_after_the_store_was_asked() {
    let bench = Bench::new();
    bench.insert(
        "000000010000000000000007",
        segment("000000010000000000000007"),
    );
    bench.insert(&format!("{SEGMENT}.gpg"), golden(SEGMENT));
    for name in [SEGMENT, HISTORY, BACKUP, "000000010000000000000006.partial"] {
        let error = fails(
            bench.restore(&bench.request(name)).await,
            OpErrorKind::Failed,
        );
        assert_eq!(
            error.message,
            format!("WAL file {name} for server main does not exist")
        );
        assert_eq!(error.expected, name == HISTORY);
        assert_eq!(bench.store.calls(), [StoreOp::List], "{name}");
        assert_eq!(bench.delivered(), None);
    }
    // Not even a suffix remembered from before answers in the store's place.
    bench
        .restore(&bench.request("000000010000000000000007"))
        .await
        .expect("it is there");
    bench.store.calls();
    fails(
        bench.restore(&bench.request(SEGMENT)).await,
        OpErrorKind::Failed,
    );
    assert_eq!(bench.store.calls(), [StoreOp::Get, StoreOp::List]);
}

/// PostgreSQL would end its recovery: no trouble may look like absence.
#[tokio::test]
async fn no_trouble_is_told_as_absence() {
    let (general, unreachable) = (OpErrorKind::General, OpErrorKind::Unreachable);
    for (fault, kind) in [
        (StoreErrorKind::Timeout, unreachable),
        (StoreErrorKind::Connect, unreachable),
        (StoreErrorKind::RateLimited, unreachable),
        (StoreErrorKind::ServerFault, unreachable),
        (StoreErrorKind::PermissionDenied, general),
        (StoreErrorKind::Unauthenticated, general),
        (StoreErrorKind::BucketMissing, general),
        (StoreErrorKind::NotFound, general),
        (StoreErrorKind::Invalid, general),
        (StoreErrorKind::Corrupt, general),
        (StoreErrorKind::Other, general),
    ] {
        for op in [StoreOp::List, StoreOp::Get] {
            let bench = Bench::new();
            bench.insert(SEGMENT, golden(SEGMENT));
            bench
                .store
                .faulty
                .fail_for(SEGMENT, op, Fault::Before(fault), u32::MAX);
            fails(bench.restore(&bench.without_spool(SEGMENT)).await, kind);
            assert_eq!(bench.delivered(), None);
        }
    }
    let bench = Bench::new();
    let memory = MemoryStore::new().without_bucket();
    let store = TestStore::new(&memory).shared();
    let result = run(&context().0, store, "p", bench.request(SEGMENT)).await;
    fails(result, OpErrorKind::General);
}

#[tokio::test(start_paused = true)]
async fn trouble_that_passes_is_waited_out() {
    let faults = [
        (StoreOp::List, Fault::Before(StoreErrorKind::ServerFault)),
        (StoreOp::Get, Fault::Before(StoreErrorKind::Connect)),
        (StoreOp::Get, Fault::CutBody(300_000)),
        // Replaced under another suffix, say, since it was listed.
        (StoreOp::Get, Fault::Before(StoreErrorKind::NotFound)),
    ];
    for (op, fault) in faults {
        let bench = Bench::new();
        bench.insert(SEGMENT, golden(SEGMENT));
        bench.store.faulty.fail_for(SEGMENT, op, fault, 5);
        let mut request = bench.request(SEGMENT);
        request.retry_timeout = Some(Duration::from_mins(1));
        bench.restore(&request).await.expect("the sixth attempt");
        assert_eq!(bench.delivered(), Some(golden(SEGMENT)));
    }
}

#[tokio::test(start_paused = true)]
async fn trouble_that_stays_ends_after_the_time_for_all_attempts() {
    let bench = Bench::new();
    let fault = Fault::Before(StoreErrorKind::Connect);
    bench
        .store
        .faulty
        .fail_for(SEGMENT, StoreOp::List, fault, u32::MAX);
    let mut request = bench.request(SEGMENT);
    request.retry_timeout = Some(Duration::from_mins(1));
    let begin = tokio::time::Instant::now();
    let error = fails(bench.restore(&request).await, OpErrorKind::Unreachable);
    assert_eq!(Some(begin.elapsed()), request.retry_timeout);
    let attempts = bench.store.calls().len();
    assert!(
        error.message.contains(&format!("tried {attempts} times")),
        "{error}"
    );
    assert!(error.message.contains("an injected fault"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_standby_is_not_kept_waiting() {
    for (asked, standby, seconds) in [
        (None, false, 60),
        (None, true, 5),
        (Some(Duration::from_secs(20)), true, 20),
    ] {
        let bench = Bench::new();
        let fault = Fault::Before(StoreErrorKind::Connect);
        let faulty = &bench.store.faulty;
        faulty.fail_for(SEGMENT, StoreOp::List, fault, u32::MAX);
        if standby {
            std::fs::write(bench.data_directory().join("standby.signal"), "").expect("a file");
        }
        let request = WalRestoreRequest {
            retry_timeout: asked,
            ..bench.request(SEGMENT)
        };
        let begin = tokio::time::Instant::now();
        fails(bench.restore(&request).await, OpErrorKind::Unreachable);
        assert_eq!(begin.elapsed(), Duration::from_secs(seconds));
    }
}

#[tokio::test(start_paused = true)]
async fn a_promotion_ends_the_waiting_with_unreachable() {
    let bench = Bench::new();
    std::fs::write(bench.data_directory().join("promote"), "").expect("a file");
    let fault = Fault::Before(StoreErrorKind::Connect);
    bench
        .store
        .faulty
        .fail_for(SEGMENT, StoreOp::List, fault, u32::MAX);
    let mut request = bench.request(SEGMENT);
    request.retry_timeout = Some(Duration::from_hours(1));
    let begin = tokio::time::Instant::now();
    let error = fails(bench.restore(&request).await, OpErrorKind::Unreachable);
    assert!(error.message.contains("promotion"), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(30));
    // A store that answers is still asked.
    bench.insert(
        "000000010000000000000007",
        segment("000000010000000000000007"),
    );
    request.wal_name = "000000010000000000000007".into();
    bench.restore(&request).await.expect("it is there");
}

#[tokio::test]
async fn a_cut_object_is_never_delivered() {
    for suffix in SUFFIXES {
        for name in [SEGMENT, HISTORY] {
            if name == HISTORY && suffix.is_empty() {
                // Text without compression: nothing tells its length.
                continue;
            }
            let object = golden(&format!("{name}{suffix}"));
            let mut cuts: Vec<usize> = vec![0, 1, object.len() / 3, object.len() - 1];
            cuts.extend((1..8).map(|eighth| object.len() * eighth / 8));
            if suffix == ".snappy" {
                cuts.extend(snappy_boundaries(&object));
            }
            for cut in cuts {
                let bench = Bench::new();
                bench.insert(&format!("{name}{suffix}"), object[..cut].to_vec());
                let request = bench.without_spool(name);
                let error = fails(bench.restore(&request).await, OpErrorKind::General);
                let begin = format!(
                    "Failure downloading WAL {} to {}: ",
                    key(&format!("{name}{suffix}")),
                    bench.destination().display()
                );
                assert!(
                    error.message.starts_with(&begin),
                    "{name}{suffix} {cut}: {error}"
                );
                assert_eq!(bench.delivered(), None, "{name}{suffix} cut at {cut}");
            }
        }
    }
}

/// Where a chunk of snappy's framing ends, but for the last.
fn snappy_boundaries(object: &[u8]) -> Vec<usize> {
    let mut boundaries = Vec::new();
    let mut at = 0;
    while at < object.len() {
        boundaries.push(at);
        let length = [object[at + 1], object[at + 2], object[at + 3], 0];
        at += 4 + u32::from_le_bytes(length) as usize;
    }
    boundaries
}

#[tokio::test]
async fn a_segment_of_the_wrong_size_is_never_delivered() {
    let zeroes = |size: usize| vec![0; size];
    let mut doubled = golden(SEGMENT);
    doubled.extend(golden(SEGMENT));
    for content in [
        zeroes(0),
        zeroes(5),
        zeroes(1 << 19),
        zeroes(3 << 20),
        doubled,
    ] {
        for name in [SEGMENT, "000000010000000000000006.partial"] {
            let bench = Bench::new();
            bench.insert(name, content.clone());
            fails(
                bench.restore(&bench.request(name)).await,
                OpErrorKind::General,
            );
            assert_eq!(bench.delivered(), None);
        }
    }
}

/// The operator CloudNativePG tests its archive with copies of one segment
/// under other names; PostgreSQL looks at the pages itself.
#[tokio::test]
async fn a_whole_segment_of_another_name_is_delivered_with_a_warning() {
    let bench = Bench::new();
    bench.insert("000000010000000000000007", golden(SEGMENT));
    bench.insert("000000010000000000000008", vec![7; 16 << 20]);
    for (name, content) in [
        ("000000010000000000000007", golden(SEGMENT)),
        ("000000010000000000000008", vec![7; 16 << 20]),
    ] {
        bench
            .restore(&bench.request(name))
            .await
            .expect("it is there");
        assert_eq!(bench.delivered(), Some(content));
    }
}

/// The reference sorts `.partial` before `.snappy`, `.xz` and `.zst`.
#[tokio::test]
async fn a_whole_segment_wins_over_a_partial_of_any_suffix() {
    for whole in SUFFIXES {
        for partial in SUFFIXES {
            let bench = Bench::new();
            bench.insert(
                &format!("{SEGMENT}{whole}"),
                golden(&format!("{SEGMENT}{whole}")),
            );
            bench.insert(&format!("{SEGMENT}.partial{partial}"), vec![0; 100]);
            bench
                .restore(&bench.request(SEGMENT))
                .await
                .expect("it is there");
            assert_eq!(
                bench.delivered(),
                Some(golden(SEGMENT)),
                "{whole} {partial}"
            );
        }
    }
}

#[tokio::test]
async fn a_partial_is_delivered_if_there_is_nothing_else_and_it_is_wanted() {
    for suffix in SUFFIXES {
        let bench = Bench::new();
        bench.insert(
            &format!("{SEGMENT}.partial{suffix}"),
            golden(&format!("{SEGMENT}{suffix}")),
        );
        let mut request = bench.request(SEGMENT);
        request.no_partial = true;
        fails(bench.restore(&request).await, OpErrorKind::Failed);
        request.no_partial = false;
        bench.restore(&request).await.expect("the partial");
        assert_eq!(bench.delivered(), Some(golden(SEGMENT)), "{suffix}");
        // By its own name it is asked for whatever the option says.
        request = bench.request(&format!("{SEGMENT}.partial"));
        request.no_partial = true;
        bench.restore(&request).await.expect("the partial");
        assert_eq!(bench.delivered(), Some(golden(SEGMENT)), "{suffix}");
    }
}

#[tokio::test]
async fn a_backup_file_is_found() {
    let bench = Bench::new();
    bench.insert(SEGMENT, golden(SEGMENT));
    bench.insert(BACKUP, &b"START WAL LOCATION: 0/6000028\n"[..]);
    bench
        .restore(&bench.request(BACKUP))
        .await
        .expect("it is there");
    assert_eq!(
        bench.delivered(),
        Some(b"START WAL LOCATION: 0/6000028\n".to_vec())
    );
}

#[tokio::test]
async fn where_one_object_is_damaged_another_of_the_same_file_serves() {
    let bench = Bench::new();
    let mut damaged = golden(&format!("{SEGMENT}.bz2"));
    damaged.truncate(1000);
    bench.insert(&format!("{SEGMENT}.bz2"), damaged);
    bench.insert(&format!("{SEGMENT}.zst"), golden(&format!("{SEGMENT}.zst")));
    bench
        .restore(&bench.request(SEGMENT))
        .await
        .expect("the whole one");
    assert_eq!(bench.delivered(), Some(golden(SEGMENT)));
}

/// A partial would end the recovery early and without a word.
#[tokio::test]
async fn a_damaged_segment_is_not_replaced_by_a_partial() {
    let bench = Bench::new();
    bench.insert(&format!("{SEGMENT}.gz"), &b"damaged"[..]);
    bench.insert(&format!("{SEGMENT}.partial"), golden(SEGMENT));
    fails(
        bench.restore(&bench.request(SEGMENT)).await,
        OpErrorKind::General,
    );
    assert_eq!(bench.delivered(), None);
}

#[tokio::test]
async fn an_object_that_arrives_damaged_is_read_once_more() {
    let bench = Bench::new();
    bench.insert(SEGMENT, golden(SEGMENT));
    let fault = Fault::Before(StoreErrorKind::Corrupt);
    bench.store.faulty.fail_for(SEGMENT, StoreOp::Get, fault, 1);
    bench
        .restore(&bench.without_spool(SEGMENT))
        .await
        .expect("the second reading");
    assert_eq!(bench.delivered(), Some(golden(SEGMENT)));
}

#[tokio::test]
async fn what_is_at_the_destination_is_replaced_only_by_a_whole_file() {
    let bench = Bench::new();
    bench.insert(SEGMENT, golden(SEGMENT));
    bench.insert("000000010000000000000007", &b"short"[..]);
    std::fs::write(bench.destination(), "old").expect("a file");
    let request = bench.request("000000010000000000000007");
    fails(bench.restore(&request).await, OpErrorKind::General);
    assert_eq!(
        std::fs::read(bench.destination()).expect("the file"),
        b"old"
    );
    bench
        .restore(&bench.request(SEGMENT))
        .await
        .expect("it is there");
    assert_eq!(bench.delivered(), Some(golden(SEGMENT)));
}

#[tokio::test]
async fn a_destination_that_cannot_be_written_is_a_general_failure() {
    let bench = Bench::new();
    bench.insert(SEGMENT, golden(SEGMENT));
    let missing = bench.data_directory().join("missing/RECOVERYXLOG");
    for destination in [missing, bench.data_directory()] {
        let mut request = bench.request(SEGMENT);
        request.destination = destination;
        let error = fails(bench.restore(&request).await, OpErrorKind::General);
        let begin = format!("Failure downloading WAL {} to ", key(SEGMENT));
        assert!(error.message.starts_with(&begin), "{error}");
    }
    assert_eq!(files(&bench.data_directory()), [""; 0]);
}

#[tokio::test]
async fn a_link_at_the_destination_is_kept_and_its_target_replaced() {
    let bench = Bench::new();
    bench.insert(SEGMENT, golden(SEGMENT));
    let target = bench.directory.path().join("target");
    std::fs::write(&target, "old").expect("a file");
    std::os::unix::fs::symlink(&target, bench.destination()).expect("a link");
    bench
        .restore(&bench.request(SEGMENT))
        .await
        .expect("it is there");
    assert!(bench.destination().is_symlink());
    assert_eq!(std::fs::read(&target).expect("the file"), golden(SEGMENT));
    // As root, a rename would take the place of a device. A socket is none either, and
    // nobody misses it.
    std::fs::remove_file(bench.destination()).expect("removes");
    let socket = bench.directory.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
    std::os::unix::fs::symlink(&socket, bench.destination()).expect("a link");
    let error = fails(
        bench.restore(&bench.request(SEGMENT)).await,
        OpErrorKind::General,
    );
    assert!(error.message.contains("not a regular file"), "{error}");
}

/// A store that stops answering in the middle, and then a signal.
#[tokio::test]
async fn an_interrupted_download_leaves_neither_file_nor_litter() {
    for suffix in ["", ".gz", ".zst"] {
        let bench = Bench::new();
        let object = golden(&format!("{SEGMENT}{suffix}"));
        bench.insert(&format!("{SEGMENT}{suffix}"), object.clone());
        let fault = Fault::StallBody(object.len() as u64 / 2);
        bench.store.faulty.fail_for(SEGMENT, StoreOp::Get, fault, 1);
        let (ctx, cancel) = context();
        let restoring = run(&ctx, bench.store.shared(), "p", bench.request(SEGMENT));
        let signal = async {
            bench.store.faulty.stalled().await;
            cancel.cancel();
        };
        let (result, ()) = tokio::join!(restoring, signal);
        fails(result, OpErrorKind::Interrupted);
        assert_eq!(bench.delivered(), None);
    }
}

#[tokio::test]
async fn what_is_no_wal_file_never_reaches_the_store() {
    let bench = Bench::new();
    for name in ["junk", "dir/junk", "000000010000000000000006.gz"] {
        let error = fails(
            bench.restore(&bench.request(name)).await,
            OpErrorKind::Usage,
        );
        assert_eq!(
            error.message,
            format!("{name} is an invalid name for a WAL file")
        );
    }
    // The last part alone is judged; nothing is archived under a name with a directory.
    let name = format!("pg_wal/{SEGMENT}");
    let error = fails(
        bench.restore(&bench.request(&name)).await,
        OpErrorKind::Failed,
    );
    assert_eq!(
        error.message,
        format!("WAL file {name} for server main does not exist")
    );
    let mut request = bench.request(SEGMENT);
    request.server = "../other".into();
    fails(bench.restore(&request).await, OpErrorKind::Usage);
    assert_eq!(bench.store.calls(), []);
}
