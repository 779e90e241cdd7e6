//! Archiving against a store in memory.

use std::io::{Read, Write};
use std::path::Path;

use tempfile::TempDir;

use super::super::wal_testing::{
    GOLDEN_SYSTEM, TestStore, context, golden, segment, write_control,
};
use super::*;
use crate::codec;
use crate::store::{Fault, Limits, LocalStore, MemoryStore, StoreOp};

const SEGMENT: &str = "000000010000000000000006";
const PARTIAL: &str = "000000010000000000000006.partial";
const HISTORY: &str = "00000002.history";
const BACKUP: &str = "000000010000000000000006.00000028.backup";

struct Bench {
    store: TestStore,
    directory: TempDir,
}

impl Bench {
    fn new() -> Self {
        Self::with(&MemoryStore::new())
    }

    fn with(memory: &MemoryStore) -> Self {
        Self {
            store: TestStore::new(memory),
            directory: tempfile::tempdir().expect("a temporary directory"),
        }
    }

    /// A request for a file of that content in a directory of its own.
    fn request(&self, name: &str, content: &[u8]) -> WalArchiveRequest {
        let directory = self
            .directory
            .path()
            .join(format!("{:x}", fastrand::u64(..)));
        std::fs::create_dir(&directory).expect("a directory");
        std::fs::write(directory.join(name), content).expect("a file");
        request(&directory.join(name))
    }

    async fn archive(&self, request: &WalArchiveRequest) -> Result<(), OpError> {
        run(&context().0, self.store.shared(), request.clone()).await
    }

    /// What is stored under the name, decoded.
    fn stored(&self, name: &str, codec: &'static dyn Codec) -> Vec<u8> {
        let contents = self.store.memory.contents();
        let object = contents[&key(name, codec)].to_vec();
        let mut plain = Vec::new();
        let decoder = codec.decoder(Box::new(io::Cursor::new(object)));
        decoder
            .expect("a decoder")
            .read_to_end(&mut plain)
            .expect("decodes");
        plain
    }
}

fn request(path: &Path) -> WalArchiveRequest {
    WalArchiveRequest {
        path: "p".into(),
        server: "main".into(),
        wal_path: path.to_owned(),
        codec: codec::by_name("none").expect("a codec"),
        level: Level::Medium,
        tags: None,
        history_tags: None,
        allow_overwrite: false,
        if_different: OpErrorKind::Failed,
        require_system_id: None,
        at_once: NonZeroU32::MIN,
        ahead: None,
        queue: None,
    }
}

fn key(name: &str, codec: &'static dyn Codec) -> String {
    let directory = if name.ends_with("history") {
        ""
    } else {
        "0000000100000000/"
    };
    format!("p/main/wals/{directory}{name}{}", codec.info().suffix)
}

fn encoded(codec: &'static dyn Codec, plain: &[u8]) -> Vec<u8> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("encoded");
    let file = std::fs::File::create(&path).expect("a file");
    let mut encoder = codec
        .encoder(Box::new(file), Level::Medium)
        .expect("an encoder");
    encoder.write_all(plain).expect("encodes");
    encoder.finish().expect("encodes");
    std::fs::read(path).expect("the file")
}

/// The golden segment up to `end`, zeroes after it.
fn until(end: usize) -> Vec<u8> {
    let mut bytes = golden(SEGMENT);
    bytes[end..].fill(0);
    bytes
}

fn failed(result: Result<(), OpError>) -> OpError {
    let error = result.expect_err("it must fail");
    assert_eq!(error.kind, OpErrorKind::Failed, "{error}");
    error
}

#[tokio::test]
async fn a_file_is_archived_with_exactly_one_request() {
    for codec in codec::CODECS.iter().copied() {
        for (name, content) in [
            (SEGMENT, golden(SEGMENT)),
            (PARTIAL, golden(SEGMENT)),
            (HISTORY, golden(HISTORY)),
            (BACKUP, b"START WAL LOCATION: 0/6000028\n".to_vec()),
        ] {
            let bench = Bench::new();
            let mut request = bench.request(name, &content);
            request.codec = codec;
            bench.archive(&request).await.expect("archived");
            assert_eq!(bench.store.calls(), [StoreOp::Put], "{codec:?} {name}");
            assert_eq!(bench.stored(name, codec), content, "{codec:?} {name}");
        }
    }
}

#[tokio::test]
async fn the_same_file_again_is_success_and_changes_nothing() {
    for codec in codec::CODECS.iter().copied() {
        let bench = Bench::new();
        // Compressed otherwise, as another version of the library would.
        let mut first = bench.request(SEGMENT, &golden(SEGMENT));
        (first.codec, first.level) = (codec, Level::Low);
        bench.archive(&first).await.expect("archived");
        let before = bench.store.memory.contents();
        bench.store.calls();
        let mut second = bench.request(SEGMENT, &golden(SEGMENT));
        (second.codec, second.level) = (codec, Level::High);
        bench.archive(&second).await.expect("the same file");
        assert_eq!(bench.store.calls(), [StoreOp::Put, StoreOp::Get]);
        assert_eq!(bench.store.memory.contents(), before);
    }
}

#[tokio::test]
async fn a_different_file_of_the_same_name_is_refused_with_both_checksums() {
    for codec in codec::CODECS.iter().copied() {
        for name in [SEGMENT, HISTORY, BACKUP] {
            let bench = Bench::new();
            let mut one = bench.request(name, &until(8192));
            let mut other = bench.request(name, &golden(SEGMENT));
            (one.codec, other.codec) = (codec, codec);
            bench.archive(&one).await.expect("archived");
            let error = failed(bench.archive(&other).await);
            for part in [
                "1379377d475d02e6",
                "7710448268996247812",
                "timeline 1",
                name,
            ] {
                assert!(error.message.contains(part), "{part} in {error}");
            }
            assert!(error.hint.expect("a hint").contains("--allow-overwrite"));
            assert_eq!(bench.stored(name, codec), until(8192));
        }
    }
}

/// A hook script of a Barman server would be run again for ever.
#[tokio::test]
async fn a_caller_that_must_not_try_again_is_told_so() {
    let bench = Bench::new();
    let request = bench.request(SEGMENT, &golden(SEGMENT));
    bench.archive(&request).await.expect("archived");
    let mut other = bench.request(SEGMENT, &until(8192));
    other.if_different = OpErrorKind::NoRetry;
    let refusal = async || bench.archive(&other).await.expect_err("it differs").kind;
    assert_eq!(refusal().await, OpErrorKind::NoRetry);
    bench
        .store
        .memory
        .insert(&key(SEGMENT, codec::CODECS[0]), "damaged");
    assert_eq!(refusal().await, OpErrorKind::NoRetry);
    // What may change is tried again.
    let forbidden = Fault::Before(StoreErrorKind::PermissionDenied);
    bench.store.faulty.fail(StoreOp::Get, forbidden, u32::MAX);
    assert_eq!(refusal().await, OpErrorKind::Failed);
}

#[tokio::test]
async fn the_furthest_of_several_partials_is_left_in_whatever_order_they_come() {
    let reaches = [2, 5, 9];
    let orders = [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ];
    for order in orders {
        let bench = Bench::new();
        for index in order {
            let request = bench.request(PARTIAL, &until(reaches[index] * 8192));
            bench.archive(&request).await.expect("archived");
        }
        assert_eq!(
            bench.stored(PARTIAL, codec::CODECS[0]),
            until(9 * 8192),
            "{order:?}"
        );
    }
}

/// Both have compared their file with the same stored one.
#[tokio::test]
async fn of_two_partials_that_replace_one_at_the_same_time_the_furthest_is_left() {
    for reaches in [[5, 9], [9, 5]] {
        let bench = Bench::new();
        let request = bench.request(PARTIAL, &until(2 * 8192));
        bench.archive(&request).await.expect("archived");
        let [one, other] = reaches.map(|pages| bench.request(PARTIAL, &until(pages * 8192)));
        // Both creations are refused; then the replacement of the first waits.
        bench.store.faulty.fail(StoreOp::Put, Fault::Late(0), 2);
        bench.store.faulty.fail(StoreOp::Put, Fault::Late(100), 1);
        let (one, other) = tokio::join!(bench.archive(&one), bench.archive(&other));
        one.expect("archived, or another reaches further");
        other.expect("archived, or another reaches further");
        assert_eq!(
            bench.stored(PARTIAL, codec::CODECS[0]),
            until(9 * 8192),
            "{reaches:?}"
        );
    }
}

#[tokio::test]
async fn a_partial_of_another_cluster_is_refused() {
    let bench = Bench::new();
    let mut foreign = until(2 * 8192);
    foreign[24] ^= 1;
    let request = bench.request(PARTIAL, &foreign);
    bench.archive(&request).await.expect("archived");
    failed(
        bench
            .archive(&bench.request(PARTIAL, &golden(SEGMENT)))
            .await,
    );
    assert_eq!(bench.stored(PARTIAL, codec::CODECS[0]), foreign);
}

#[tokio::test]
async fn eight_archivers_of_one_file_all_succeed() {
    let bench = Bench::new();
    let request = bench.request(SEGMENT, &golden(SEGMENT));
    let all = (0..8).map(|_| bench.archive(&request));
    for result in futures_util::future::join_all(all).await {
        result.expect("the same file");
    }
    assert_eq!(bench.stored(SEGMENT, codec::CODECS[0]), golden(SEGMENT));
}

#[tokio::test]
async fn of_eight_archivers_of_different_files_exactly_one_succeeds() {
    let bench = Bench::new();
    let contents: Vec<Vec<u8>> = (1..=8).map(|pages| until(pages * 8192)).collect();
    let requests: Vec<_> = contents.iter().map(|c| bench.request(SEGMENT, c)).collect();
    let results = futures_util::future::join_all(requests.iter().map(|r| bench.archive(r))).await;
    let winners: Vec<usize> = (0..8).filter(|index| results[*index].is_ok()).collect();
    assert_eq!(winners.len(), 1);
    assert_eq!(
        bench.stored(SEGMENT, codec::CODECS[0]),
        contents[winners[0]]
    );
    for result in results {
        if let Err(error) = result {
            assert_eq!(error.kind, OpErrorKind::Failed);
        }
    }
}

#[tokio::test]
async fn a_stored_file_that_may_not_be_read_is_no_success() {
    let bench = Bench::new();
    let request = bench.request(SEGMENT, &golden(SEGMENT));
    bench.archive(&request).await.expect("archived");
    let denied = Fault::Before(StoreErrorKind::PermissionDenied);
    bench
        .store
        .faulty
        .fail_for(SEGMENT, StoreOp::Get, denied, 1);
    let error = failed(bench.archive(&request).await);
    assert!(error.message.contains("permission to read"), "{error}");
    assert!(
        error.message.contains(&key(SEGMENT, codec::CODECS[0])),
        "{error}"
    );
}

#[tokio::test]
async fn a_damaged_stored_file_is_neither_success_nor_replaced() {
    for codec in codec::CODECS.iter().copied() {
        for name in [SEGMENT, PARTIAL] {
            let bench = Bench::new();
            let mut damaged = encoded(codec, &until(8192));
            damaged.truncate(damaged.len() / 2);
            bench
                .store
                .memory
                .insert(&key(name, codec), damaged.clone());
            let mut request = bench.request(name, &golden(SEGMENT));
            request.codec = codec;
            let result = bench.archive(&request).await;
            let plain_partial = codec.info().suffix.is_empty() && name == PARTIAL;
            if plain_partial {
                // Uncompressed, a cut file is a file that reaches less far.
                result.expect("replaced");
            } else {
                failed(result);
                assert_eq!(bench.store.memory.contents()[&key(name, codec)], damaged);
            }
        }
    }
}

#[tokio::test]
async fn a_stored_file_that_was_damaged_on_its_way_is_read_once_more() {
    for codec in codec::CODECS.iter().copied() {
        let bench = Bench::new();
        let stored = encoded(codec, &golden(SEGMENT));
        let (key, size) = (key(SEGMENT, codec), stored.len() as u64);
        bench.store.memory.insert(&key, stored);
        let cut = Fault::ShortBody(size / 2);
        bench.store.faulty.fail_for(SEGMENT, StoreOp::Get, cut, 1);
        let mut request = bench.request(SEGMENT, &golden(SEGMENT));
        request.codec = codec;
        bench.archive(&request).await.expect("it is the same");
        let calls = [StoreOp::Put, StoreOp::Get, StoreOp::Get];
        assert_eq!(bench.store.calls(), calls, "{key}");
    }
}

#[tokio::test]
async fn a_file_deleted_while_it_was_to_be_compared_is_archived_anew() {
    let bench = Bench::new();
    let request = bench.request(SEGMENT, &golden(SEGMENT));
    let taken = Fault::Before(StoreErrorKind::AlreadyExists);
    bench.store.faulty.fail_for(SEGMENT, StoreOp::Put, taken, 1);
    bench.archive(&request).await.expect("archived");
    assert_eq!(
        bench.store.calls(),
        [StoreOp::Put, StoreOp::Get, StoreOp::Put]
    );
    assert_eq!(bench.stored(SEGMENT, codec::CODECS[0]), golden(SEGMENT));
}

#[tokio::test]
async fn allow_overwrite_replaces_with_one_request() {
    let bench = Bench::new();
    let request = bench.request(SEGMENT, &until(8192));
    bench.archive(&request).await.expect("archived");
    bench.store.calls();
    let mut request = bench.request(SEGMENT, &golden(SEGMENT));
    request.allow_overwrite = true;
    bench.archive(&request).await.expect("replaced");
    assert_eq!(bench.store.calls(), [StoreOp::Put]);
    assert_eq!(bench.stored(SEGMENT, codec::CODECS[0]), golden(SEGMENT));
}

/// W1: a lost answer is no success, and the next try finds its own file.
#[tokio::test]
async fn a_lost_answer_is_a_failure_that_the_next_try_heals() {
    let bench = Bench::new();
    let request = bench.request(SEGMENT, &golden(SEGMENT));
    bench.store.faulty.fail_for(
        SEGMENT,
        StoreOp::Put,
        Fault::After(StoreErrorKind::Timeout),
        1,
    );
    let error = bench
        .archive(&request)
        .await
        .expect_err("no acknowledgement");
    assert_eq!(error.kind, OpErrorKind::Unreachable);
    bench.archive(&request).await.expect("the same file");
}

#[tokio::test]
async fn failures_of_the_store_are_told_apart() {
    for (fault, kind) in [
        (StoreErrorKind::Connect, OpErrorKind::Unreachable),
        (StoreErrorKind::Timeout, OpErrorKind::Unreachable),
        (StoreErrorKind::ServerFault, OpErrorKind::Unreachable),
        (StoreErrorKind::PermissionDenied, OpErrorKind::General),
        (StoreErrorKind::BucketMissing, OpErrorKind::General),
        (StoreErrorKind::Full, OpErrorKind::General),
        (StoreErrorKind::Unsupported, OpErrorKind::General),
    ] {
        let bench = Bench::new();
        let request = bench.request(SEGMENT, &golden(SEGMENT));
        bench
            .store
            .faulty
            .fail_for(SEGMENT, StoreOp::Put, Fault::Before(fault), 1);
        let error = bench.archive(&request).await.expect_err("the put fails");
        assert_eq!(error.kind, kind, "{fault:?}");
    }
}

#[tokio::test]
async fn what_is_no_wal_file_never_reaches_the_store() {
    let bench = Bench::new();
    for name in ["junk", "000000010000000000000006.gz", "00000001.History"] {
        let error = bench
            .archive(&bench.request(name, b"x"))
            .await
            .expect_err("a bad name");
        assert_eq!(error.kind, OpErrorKind::Usage);
        assert_eq!(
            error.message,
            format!("{name} is an invalid name for a WAL file")
        );
    }
    let missing = bench.directory.path().join(SEGMENT);
    let error = bench
        .archive(&request(&missing))
        .await
        .expect_err("no file");
    assert_eq!(error.kind, OpErrorKind::General);
    assert!(
        error.message.contains("No such file or directory"),
        "{error}"
    );
    assert!(error.message.contains(SEGMENT), "{error}");
    std::fs::create_dir(&missing).expect("a directory");
    let error = bench
        .archive(&request(&missing))
        .await
        .expect_err("a directory");
    assert_eq!(error.kind, OpErrorKind::General);
    assert!(error.message.contains("not a regular file"), "{error}");
    assert_eq!(bench.store.calls(), []);
}

/// A segment that is odd is still better archived than blocking the server.
#[tokio::test]
async fn a_segment_of_odd_length_or_content_is_archived() {
    for content in [
        &golden(SEGMENT)[..1000],
        b"",
        &segment("000000010000000000000009"),
    ] {
        let bench = Bench::new();
        bench
            .archive(&bench.request(SEGMENT, content))
            .await
            .expect("archived");
        assert_eq!(bench.stored(SEGMENT, codec::CODECS[0]), content);
    }
}

#[tokio::test]
async fn history_tags_replace_the_others_for_history_files_only() {
    let tag = |key: &str| Tag {
        key: key.into(),
        value: "v".into(),
    };
    for (name, history_tags, expected) in [
        (SEGMENT, Some(vec![tag("h")]), vec![tag("t")]),
        (HISTORY, Some(vec![tag("h")]), vec![tag("h")]),
        (HISTORY, Some(vec![]), vec![]),
        (HISTORY, None, vec![tag("t")]),
        (PARTIAL, Some(vec![tag("h")]), vec![tag("t")]),
    ] {
        let bench = Bench::new();
        let mut request = bench.request(name, &golden(SEGMENT));
        request.tags = Some(vec![tag("t")]);
        request.history_tags = history_tags;
        bench.archive(&request).await.expect("archived");
        let tags = bench.store.memory.tags(&key(name, codec::CODECS[0]));
        assert_eq!(tags, Some(expected), "{name}");
    }
}

#[tokio::test]
async fn a_segment_of_another_cluster_than_the_data_directorys_is_refused() {
    for (system, refused) in [(GOLDEN_SYSTEM, false), (GOLDEN_SYSTEM + 1, true)] {
        let bench = Bench::new();
        let data_directory = bench.directory.path().join("data");
        write_control(&data_directory, system);
        let wal = data_directory.join("pg_wal");
        std::fs::create_dir(&wal).expect("a directory");
        std::fs::write(wal.join(SEGMENT), golden(SEGMENT)).expect("a file");
        let result = bench.archive(&request(&wal.join(SEGMENT))).await;
        if refused {
            let error = failed(result);
            assert!(error.message.contains("another cluster"), "{error}");
            assert_eq!(bench.store.calls(), []);
            // Without a readable pg_control there is nothing to compare with.
            std::fs::write(data_directory.join("global/pg_control"), b"").expect("a file");
            bench
                .archive(&request(&wal.join(SEGMENT)))
                .await
                .expect("archived");
        } else {
            result.expect("its own segment");
        }
    }
}

/// `--require-system-id`: what names another cluster, or none, stays with PostgreSQL.
#[tokio::test]
async fn only_wal_of_the_required_cluster_is_archived() {
    let junk = vec![7; 1 << 20];
    let (ours, other) = (GOLDEN_SYSTEM, GOLDEN_SYSTEM + 1);
    for (name, content, required, archived) in [
        (SEGMENT, &golden(SEGMENT), ours, true),
        (PARTIAL, &golden(SEGMENT), ours, true),
        (SEGMENT, &golden(SEGMENT), other, false),
        (PARTIAL, &golden(SEGMENT), other, false),
        (SEGMENT, &junk, ours, false),
        // These say nothing of their cluster.
        (HISTORY, &junk, other, true),
        (BACKUP, &junk, other, true),
    ] {
        for if_different in [OpErrorKind::Failed, OpErrorKind::NoRetry] {
            let bench = Bench::new();
            let request = WalArchiveRequest {
                require_system_id: Some(required),
                if_different,
                ..bench.request(name, content)
            };
            let result = bench.archive(&request).await;
            if archived {
                result.expect("of the cluster");
                continue;
            }
            let error = result.expect_err("of another cluster");
            assert_eq!(error.kind, if_different, "{name}");
            let text = format!("is not of the cluster {required}: its first page names");
            assert!(error.message.contains(&text), "{error}");
            assert!(error.hint.is_some());
            assert_eq!(bench.store.calls(), []);
        }
    }
}

/// A store that takes only 100 kB at once, and parts of just that size.
fn store_of_small_parts() -> MemoryStore {
    MemoryStore::new().with_limits(Limits {
        min_part: 100_000,
        max_part: 100_000,
        max_parts: 10_000,
        max_object: 1 << 30,
        max_put: 100_000,
        delete_batch: 1000,
        equal_parts: true,
    })
}

#[tokio::test]
async fn a_file_too_large_for_one_request_goes_in_parts_and_replaces_nothing() {
    for codec in codec::CODECS.iter().copied() {
        let bench = Bench::with(&store_of_small_parts());
        let mut request = bench.request(SEGMENT, &golden(SEGMENT));
        request.codec = codec;
        bench.archive(&request).await.expect("archived");
        let calls = bench.store.calls();
        assert_eq!(calls[0], StoreOp::BeginMultipart);
        assert_eq!(calls.last(), Some(&StoreOp::Complete));
        assert_eq!(bench.stored(SEGMENT, codec), golden(SEGMENT));
        bench.archive(&request).await.expect("the same file");
        // Too large when compressed as well: nothing in it repeats.
        let mut other = golden(SEGMENT);
        other[8192..].fill_with(|| fastrand::u8(..));
        let mut other = bench.request(SEGMENT, &other);
        other.codec = codec;
        failed(bench.archive(&other).await);
        assert_eq!(bench.stored(SEGMENT, codec), golden(SEGMENT));
        assert_eq!(bench.store.memory.open_uploads(), [""; 0]);
    }
}

#[tokio::test]
async fn sizes_around_the_limit_arrive_whole() {
    for size in [0, 1, 99_999, 100_000, 100_001, 199_999, 200_000, 200_001] {
        let bench = Bench::with(&store_of_small_parts());
        let content: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..))
            .take(size)
            .collect();
        let mut request = bench.request(BACKUP, &content);
        // Some fit in at once, and some do not.
        request.at_once = NonZeroU32::new(2).expect("it is not 0");
        bench.archive(&request).await.expect("archived");
        let put = if size <= 100_000 {
            StoreOp::Put
        } else {
            StoreOp::BeginMultipart
        };
        assert_eq!(bench.store.calls()[0], put, "{size}");
        assert_eq!(bench.stored(BACKUP, codec::CODECS[0]), content, "{size}");
    }
}

#[tokio::test]
async fn one_request_may_be_larger_than_a_whole_number_of_parts() {
    let memory = store_of_small_parts();
    let limits = Limits {
        max_put: 250_000,
        ..memory.info().limits
    };
    for size in [250_000, 250_001, 300_000, 300_001] {
        let bench = Bench::with(&MemoryStore::new().with_limits(limits));
        let content = vec![7; size];
        bench
            .archive(&bench.request(BACKUP, &content))
            .await
            .expect("archived");
        let one = size <= 250_000;
        let call = if one {
            StoreOp::Put
        } else {
            StoreOp::BeginMultipart
        };
        assert_eq!(bench.store.calls()[0], call, "{size}");
        assert_eq!(bench.stored(BACKUP, codec::CODECS[0]), content, "{size}");
    }
}

#[tokio::test]
async fn an_interrupted_archiver_leaves_nothing() {
    for memory in [MemoryStore::new(), store_of_small_parts()] {
        let bench = Bench::with(&memory);
        let (ctx, cancel) = context();
        cancel.cancel();
        let request = bench.request(SEGMENT, &golden(SEGMENT));
        let error = run(&ctx, bench.store.shared(), request)
            .await
            .expect_err("interrupted");
        assert_eq!(error.kind, OpErrorKind::Interrupted);
        assert!(bench.store.memory.contents().is_empty());
        assert_eq!(bench.store.memory.open_uploads(), [""; 0]);
    }
}

#[tokio::test]
async fn an_archiver_interrupted_while_it_compares_says_so() {
    let bench = Bench::new();
    let request = bench.request(SEGMENT, &golden(SEGMENT));
    bench.archive(&request).await.expect("archived");
    let (ctx, cancel) = context();
    let fault = Fault::StallBody(1000);
    bench.store.faulty.fail_for(SEGMENT, StoreOp::Get, fault, 1);
    let signal = async {
        bench.store.faulty.stalled().await;
        cancel.cancel();
    };
    let (result, ()) = tokio::join!(run(&ctx, bench.store.shared(), request), signal);
    let error = result.expect_err("interrupted");
    assert_eq!(error.kind, OpErrorKind::Interrupted, "{error}");
}

/// Real files, real threads: whoever wins, the store has one of the files whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn archivers_race_for_a_name_in_a_local_directory() {
    let bench = Bench::new();
    let root = bench.directory.path().join("store");
    std::fs::create_dir(&root).expect("a directory");
    let store: Arc<dyn ObjectStore> = Arc::new(LocalStore::new(&root));
    let contents: Vec<Vec<u8>> = (0..8).map(|index| until((1 + index / 2) * 8192)).collect();
    let mut archivers = Vec::new();
    for content in &contents {
        let (request, store) = (bench.request(SEGMENT, content), Arc::clone(&store));
        archivers.push(tokio::spawn(async move {
            run(&context().0, store, request).await
        }));
    }
    let stored = async || std::fs::read(root.join(key(SEGMENT, codec::CODECS[0])));
    for (content, archiver) in contents.iter().zip(archivers) {
        let archived = archiver.await.expect("no panic");
        let winner = stored().await.expect("somebody has won") == *content;
        assert_eq!(archived.is_ok(), winner);
    }
}
