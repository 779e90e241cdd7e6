use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroU32;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::*;
use crate::codec;
use crate::manifest::Algorithm;
use crate::ops::Env;
use crate::ops::restore::{self, RestoreRequest};
use crate::ops::wal_testing::{TestStore, context, write_control};
use crate::store::{Fault, Limits, MemoryStore, StoreErrorKind, StoreOp, Tag};
use crate::tar::TarReader;

mod refusals;

const ID: &str = "20261121T120000";
const SYSTEM: u64 = 7_710_443_699_091_897_341;
const DIR: &str = "p/main/base/20261121T120000/";

/// As a Barman server wrote it.
const RECORD: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../tests/golden/tiny/none/base/20261121T120000/backup.info"
));

const LABEL: &str = "START WAL LOCATION: 0/4000028 (file 000000010000000000000004)\n";

/// A backup on a Barman server, and a store.
struct Bench {
    store: TestStore,
    server: TempDir,
    env: Vec<(&'static str, String)>,
}

impl Bench {
    fn new() -> Self {
        Self::with(&MemoryStore::new())
    }

    fn with(memory: &MemoryStore) -> Self {
        let server = tempfile::tempdir().expect("a temporary directory");
        let bench = Self {
            store: TestStore::new(memory),
            env: vec![
                ("BARMAN_HOOK", "backup_retry_script".into()),
                ("BARMAN_PHASE", "post".into()),
                ("BARMAN_STATUS", "DONE".into()),
                ("BARMAN_BACKUP_ID", ID.into()),
                ("BARMAN_BACKUP_DIR", path(&server, "")),
                ("BARMAN_BACKUP_INFO_PATH", path(&server, "backup.info")),
            ],
            server,
        };
        bench.write("backup.info", RECORD);
        bench.write("data/PG_VERSION", "15\n");
        bench.write("data/backup_label", LABEL);
        bench.write("data/base/5/1259", &"pg_class".repeat(30_000));
        bench.write("data/base/5/1249", &"attributes".repeat(20_000));
        bench.write("data/base/5/empty", "");
        bench.write("data/pg_wal/000000010000000000000004", "left out");
        bench.write("data/postmaster.pid", "left out");
        bench.write("data/backup_manifest", "of pg_basebackup: left out");
        bench.write("16384/PG_15_202209061/5/16390", &"row".repeat(50_000));
        bench.write(
            "16384/PG_14_202107181/5/16390",
            "of another server: left out",
        );
        symlink("nowhere", bench.path("data/link")).expect("a link");
        write_control(&bench.path("data"), SYSTEM);
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.server.path().join(name)
    }

    fn write(&self, name: &str, content: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("below the server")).expect("directories");
        fs::write(&path, content).expect("a file");
        let file = fs::File::options()
            .write(true)
            .open(&path)
            .expect("the file");
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        file.set_modified(then).expect("a time");
    }

    fn record(&self, change: impl FnOnce(&str) -> String) {
        self.write("backup.info", &change(RECORD));
    }

    async fn relay(&self, request: &RelayRequest) -> Result<(), OpError> {
        let (ctx, _) = context();
        let env: Env = self.env.iter().cloned().collect();
        let ctx = Ctx { env, ..ctx };
        run(&ctx, self.store.shared(), request.clone()).await
    }

    fn contents(&self) -> BTreeMap<String, bytes::Bytes> {
        self.store.memory.contents()
    }

    fn names(&self) -> Vec<String> {
        let names = self.contents().into_keys();
        names
            .map(|name| name.strip_prefix(DIR).expect("of the backup").to_owned())
            .collect()
    }

    /// The objects that were written since the last time this was asked.
    fn sent(&self) -> Vec<String> {
        let calls = self.store.faulty.calls();
        let new = &calls[calls.len() - self.store.calls().len()..];
        let writes = new
            .iter()
            .filter(|(op, _)| matches!(op, StoreOp::Put | StoreOp::Complete));
        let mut names: Vec<String> = writes
            .map(|(_, name)| name.strip_prefix(DIR).unwrap_or(name).to_owned())
            .collect();
        names.sort();
        names
    }

    /// Restores from the store alone: what is in PGDATA and in the tablespace.
    async fn restored(&self) -> [BTreeMap<String, Vec<u8>>; 2] {
        let place = tempfile::tempdir().expect("a temporary directory");
        let (target, fast) = (place.path().join("data"), place.path().join("fast"));
        let request = RestoreRequest {
            path: "p".into(),
            server: "main".into(),
            backup: ID.into(),
            target: target.clone(),
            tablespaces: vec![format!("fast:{}", fast.display())],
            recovery_target: restore::RecoveryTarget::default(),
            allow_incomplete: false,
            jobs: NonZeroU32::MIN.saturating_add(1),
            durability: restore::Durability::Synced,
            existing: restore::Existing::Refused,
            recovery_place: restore::RecoveryPlace::default(),
        };
        let store = Arc::new(self.store.memory.clone());
        restore::run(&context().0, store, request)
            .await
            .expect("it can be restored");
        [files(&target), files(&fast)]
    }
}

fn path(server: &TempDir, name: &str) -> String {
    server.path().join(name).display().to_string()
}

/// All regular files below `root`, by their names.
fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in dir.read_dir().expect("a directory") {
            let path = entry.expect("an entry").path();
            let meta = path.symlink_metadata().expect("it is there");
            if meta.is_dir() {
                left.push(path);
            } else if meta.is_file() {
                let name = path
                    .strip_prefix(root)
                    .expect("below")
                    .display()
                    .to_string();
                found.insert(name, fs::read(&path).expect("readable"));
            }
        }
    }
    found
}

fn request() -> RelayRequest {
    RelayRequest {
        archives: ArchiveOptions {
            path: "p".into(),
            server: "main".into(),
            codec: codec::by_name("none").expect("a codec"),
            level: None,
            lanes: NonZeroU32::MIN,
            encoder_threads: None,
            jobs: NonZeroU32::MIN,
            max_archive_size: 100 << 30,
            min_chunk_size: None,
            max_bandwidth: None,
            memory_limit: None,
            tags: None,
            manifest_checksums: Algorithm::Crc32c,
            fail_on_bad_pages: false,
        },
        name: None,
        encryption: String::new(),
    }
}

/// With other options of its archives.
fn request_with(change: impl FnOnce(&mut ArchiveOptions)) -> RelayRequest {
    let mut request = request();
    change(&mut request.archives);
    request
}

/// With archives so small that PGDATA needs several.
fn in_pieces() -> RelayRequest {
    request_with(|archives| archives.max_archive_size = 100_000)
}

fn refused(result: Result<(), OpError>, kind: OpErrorKind) -> String {
    let error = result.expect_err("it must be refused");
    assert_eq!(error.kind, kind, "{error}");
    error.message
}

#[tokio::test]
async fn a_relayed_backup_is_restored_from_the_store_alone() {
    let backup_codecs = codec::CODECS.iter().filter(|c| c.info().for_backup);
    for codec in backup_codecs {
        let bench = Bench::new();
        let request = request_with(|archives| archives.codec = *codec);
        bench.relay(&request).await.expect("relayed");
        let suffix = codec.info().suffix;
        let archives = [
            format!("16384.tar{suffix}"),
            "backup.info".into(),
            format!("data.tar{suffix}"),
        ];
        assert_eq!(bench.names(), archives, "{codec:?}");
        assert_eq!(bench.contents()[&format!("{DIR}backup.info")], RECORD);
        let [mut data, fast] = bench.restored().await;
        let manifest = data.remove("backup_manifest").expect("it has a manifest");
        let manifest = String::from_utf8(manifest).expect("text");
        assert!(
            manifest.contains("\"Start-LSN\": \"0/4000028\""),
            "{manifest}"
        );
        assert!(
            manifest.contains("pg_tblspc/16384/PG_15_202209061/5/16390"),
            "{manifest}"
        );
        let expected = |name: &str| fs::read(bench.path(name)).expect("a file");
        let mut names: Vec<&str> = data.keys().map(String::as_str).collect();
        names.retain(|name| *name != "tablespace_map");
        let stored = [
            "PG_VERSION",
            "backup_label",
            "base/5/1249",
            "base/5/1259",
            "base/5/empty",
            "global/pg_control",
        ];
        assert_eq!(names, stored, "{codec:?}");
        for name in stored {
            assert_eq!(
                data[name],
                expected(&format!("data/{name}")),
                "{codec:?} {name}"
            );
        }
        let only = "PG_15_202209061/5/16390";
        assert_eq!(fast.len(), 1, "{codec:?}");
        assert_eq!(fast[only], expected(&format!("16384/{only}")), "{codec:?}");
    }
}

/// As in every base backup (docs/decisions.md 24).
#[tokio::test]
async fn the_last_archive_ends_with_control_file_manifest_and_label() {
    let bench = Bench::new();
    bench.relay(&request()).await.expect("relayed");
    let contents = bench.contents();
    let mut archive = TarReader::new(&contents[&format!("{DIR}data.tar")][..]);
    let mut names = Vec::new();
    while let Some(member) = archive.next_member().expect("a tar") {
        names.push(String::from_utf8(member.name).expect("a plain name"));
    }
    let last = ["global/pg_control", "backup_manifest", "backup_label"];
    assert_eq!(names[names.len() - 3..], last);
    for name in last {
        let times = names.iter().filter(|found| **found == name).count();
        assert_eq!(times, 1, "{name}");
    }
}

#[tokio::test]
async fn an_archive_has_no_more_than_its_limit_unless_one_file_has() {
    let bench = Bench::new();
    bench.relay(&in_pieces()).await.expect("relayed");
    // Of the tablespace the first has the directories.
    let names = [
        "16384.tar",
        "16384_0001.tar",
        "backup.info",
        "data.tar",
        "data_0001.tar",
        "data_0002.tar",
        "data_0003.tar",
    ];
    assert_eq!(bench.names(), names);
    bench.restored().await;
    let contents = bench.contents();
    for name in ["data.tar", "data_0003.tar"] {
        assert!(contents[&format!("{DIR}{name}")].len() <= 100_000, "{name}");
    }
}

/// The store fails at one archive after the other; each attempt sends only what is
/// not there, and what is there in the end does not depend on the way.
#[tokio::test]
async fn a_retry_sends_only_what_is_not_there_whole() {
    let whole = Bench::new();
    whole.relay(&in_pieces()).await.expect("relayed");
    let all = whole.sent();

    let bench = Bench::new();
    let mut sent = Vec::new();
    for name in ["data_0002.tar", "data_0003.tar", "backup.info"] {
        let lost = Fault::Before(StoreErrorKind::ServerFault);
        bench.store.faulty.fail_for(name, StoreOp::Put, lost, 1);
        let text = refused(bench.relay(&in_pieces()).await, OpErrorKind::Failed);
        assert!(text.starts_with("Backup failed uploading data ("), "{text}");
        assert!(!bench.names().contains(&"backup.info".into()), "upholds B1");
        sent.extend(bench.sent().into_iter().filter(|sent| sent != name));
    }
    bench.relay(&in_pieces()).await.expect("relayed");
    sent.extend(bench.sent());
    sent.sort();
    assert_eq!(sent, all, "each object was sent once");
    assert_eq!(bench.names(), whole.names());
    // Of a backup that is there nothing is sent, unless Barman changed its record.
    bench.relay(&in_pieces()).await.expect("relayed");
    assert_eq!(bench.sent(), [""; 0]);
    bench.record(|record| record.replace("children_backup_ids=None", "children_backup_ids=x"));
    bench.relay(&in_pieces()).await.expect("relayed");
    assert_eq!(bench.sent(), ["backup.info"]);
    bench.restored().await;
}

/// Whatever an archive is made of has changed: it is sent again, others are not.
#[tokio::test]
async fn what_differs_is_sent_again() {
    let bench = Bench::new();
    bench.relay(&request()).await.expect("relayed");
    bench.sent();
    // Of the same size and time.
    bench.write("16384/PG_15_202209061/5/16390", &"raw".repeat(50_000));
    bench.relay(&request()).await.expect("relayed");
    // The manifest in the last archive lists the file.
    assert_eq!(bench.sent(), ["16384.tar", "backup.info", "data.tar"]);

    let file = fs::File::options()
        .write(true)
        .open(bench.path("data/PG_VERSION"))
        .expect("the file");
    file.set_modified(SystemTime::now()).expect("a time");
    bench.relay(&request()).await.expect("relayed");
    assert_eq!(bench.sent(), ["backup.info", "data.tar"]);

    let tag = Tag {
        key: "k".into(),
        value: "v".into(),
    };
    let tagged = request_with(|archives| archives.tags = Some(vec![tag]));
    let encrypted = RelayRequest {
        encryption: "AES256".into(),
        ..tagged.clone()
    };
    for request in [tagged, encrypted] {
        bench.relay(&request).await.expect("relayed");
        assert_eq!(bench.sent(), ["16384.tar", "backup.info", "data.tar"]);
    }
    // Somebody else's object of that name.
    bench
        .store
        .memory
        .insert(&format!("{DIR}data.tar"), "other");
    bench.relay(&request()).await.expect("relayed");
    assert_eq!(bench.sent(), ["16384.tar", "backup.info", "data.tar"]);
    bench.restored().await;
}

#[tokio::test]
async fn what_an_attempt_with_other_options_left_goes_when_the_backup_is_whole() {
    let bench = Bench::new();
    let lost = Fault::Before(StoreErrorKind::ServerFault);
    bench
        .store
        .faulty
        .fail_for("backup.info", StoreOp::Put, lost, 1);
    refused(bench.relay(&in_pieces()).await, OpErrorKind::Failed);
    bench
        .store
        .memory
        .insert(&format!("{DIR}notes.txt"), "no archive");
    bench
        .store
        .memory
        .insert(&format!("{DIR}annotations/keep"), "full");
    let gzip = codec::by_name("gzip").expect("a codec");
    let gzip = request_with(|archives| archives.codec = gzip);
    let refusal = Fault::RefuseKeys(StoreErrorKind::PermissionDenied);
    let delete = StoreOp::Delete;
    bench.store.faulty.fail_for("data_0001", delete, refusal, 1);
    refused(bench.relay(&gzip).await, OpErrorKind::Failed);
    assert!(
        !bench.names().contains(&"backup.info".into()),
        "it could not be restored"
    );
    bench.relay(&gzip).await.expect("relayed");
    let names = [
        "16384.tar.gz",
        "annotations/keep",
        "backup.info",
        "data.tar.gz",
        "notes.txt",
    ];
    assert_eq!(bench.names(), names);
    bench.restored().await;
}

/// However early the store stops answering, a record means that all is there, and
/// the next attempt comes to the end.
#[tokio::test]
async fn wherever_the_store_dies_the_next_attempt_heals_it() {
    let count = |bench: &Bench| bench.store.faulty.calls().len();
    let memory = || {
        let memory = MemoryStore::new();
        let limits = Limits {
            max_part: 64 << 10,
            ..memory.info().limits
        };
        memory.with_limits(limits)
    };
    let whole = Bench::with(&memory());
    whole.relay(&in_pieces()).await.expect("relayed");
    for calls in 0..count(&whole) {
        let mut bench = Bench::with(&memory());
        bench.store.faulty = bench.store.faulty.die_after(calls);
        let kind = bench.relay(&in_pieces()).await.expect_err("it died").kind;
        let early = calls == 0;
        let expected = if early {
            OpErrorKind::Unreachable
        } else {
            OpErrorKind::Failed
        };
        assert_eq!(kind, expected, "after {calls} calls");
        assert!(
            !bench.names().contains(&"backup.info".into()),
            "after {calls} calls"
        );
        bench.store = TestStore::new(&bench.store.memory);
        bench.relay(&in_pieces()).await.expect("relayed");
        assert_eq!(bench.names(), whole.names(), "after {calls} calls");
        bench.restored().await;
    }
}

/// An attempt with other options replaces archives of a backup that is there. However
/// early the store stops answering, it is not listed while some are the old ones and
/// some the new: each would be whole, and the files between them would be missing.
#[tokio::test]
async fn a_backup_whose_archives_are_replaced_is_not_listed_meanwhile() {
    let whole = Bench::new();
    whole.relay(&in_pieces()).await.expect("relayed");
    let expected = whole.restored().await;
    let others = || request_with(|archives| archives.max_archive_size = 300_000);
    let mut outcomes = [0, 0];
    for calls in 0.. {
        let mut bench = Bench::new();
        bench.relay(&others()).await.expect("relayed");
        bench.store = TestStore::new(&bench.store.memory);
        bench.store.faulty = bench.store.faulty.die_after(calls);
        let done = bench.relay(&in_pieces()).await.is_ok();
        let listed = bench.names().contains(&"backup.info".into());
        if listed {
            let [data, fast] = bench.restored().await;
            assert_eq!(data.len(), expected[0].len(), "after {calls} calls");
            assert_eq!(fast, expected[1], "after {calls} calls");
        }
        if done {
            assert_eq!(bench.names(), whole.names());
            break;
        }
        outcomes[usize::from(listed)] += 1;
    }
    assert!(outcomes.iter().all(|times| *times > 1), "{outcomes:?}");
}

/// Without a path the record is looked for where old and new servers keep it.
#[tokio::test]
async fn the_record_is_found_where_barman_keeps_it() {
    let mut bench = Bench::new();
    bench
        .env
        .retain(|(name, _)| *name != "BARMAN_BACKUP_INFO_PATH");
    bench.relay(&request()).await.expect("beside the backup");

    let home = tempfile::tempdir().expect("a temporary directory");
    let base = home.path().join("main/base");
    fs::create_dir_all(&base).expect("directories");
    fs::rename(bench.server.path(), base.join(ID)).expect("moved");
    let meta = home.path().join("main/meta");
    fs::create_dir(&meta).expect("a directory");
    let record = base.join(ID).join("backup.info");
    fs::rename(record, meta.join(format!("{ID}-backup.info"))).expect("moved");
    for (name, value) in &mut bench.env {
        if *name == "BARMAN_BACKUP_DIR" {
            *name = "BACKUP_DIR";
            *value = base.join(ID).display().to_string();
        } else if *name == "BARMAN_BACKUP_ID" {
            *name = "BACKUP_ID";
        }
    }
    bench.relay(&request()).await.expect("in the folder meta");
    assert_eq!(bench.names(), ["16384.tar", "backup.info", "data.tar"]);
}

/// Credentials that may write and nothing else are enough.
#[tokio::test]
async fn a_store_that_shows_nothing_gets_everything_each_time() {
    let bench = Bench::new();
    let forbidden = Fault::Before(StoreErrorKind::PermissionDenied);
    for op in [StoreOp::List, StoreOp::Head, StoreOp::Get] {
        bench.store.faulty.fail(op, forbidden, u32::MAX);
    }
    for _ in 0..2 {
        bench.relay(&request()).await.expect("relayed");
        assert_eq!(bench.sent(), ["16384.tar", "backup.info", "data.tar"]);
    }
}

#[tokio::test]
async fn a_missing_bucket_is_a_failure_and_an_absent_store_is_told_apart() {
    let bench = Bench::with(&MemoryStore::new().without_bucket());
    refused(bench.relay(&request()).await, OpErrorKind::Failed);
    let bench = Bench::new();
    let refusal = Fault::Before(StoreErrorKind::Connect);
    bench.store.faulty.fail(StoreOp::List, refusal, 1);
    refused(bench.relay(&request()).await, OpErrorKind::Unreachable);
}

#[tokio::test]
async fn an_interrupted_relay_leaves_no_record_and_no_upload() {
    let bench = Bench::new();
    let (ctx, cancel) = context();
    let env: Env = bench.env.iter().cloned().collect();
    cancel.cancel();
    let ctx = Ctx { env, ..ctx };
    let result = run(&ctx, bench.store.shared(), request()).await;
    refused(result, OpErrorKind::Interrupted);
    assert_eq!(bench.names(), Vec::<String>::new());
    assert_eq!(bench.store.memory.open_uploads(), Vec::<String>::new());
}

/// The files of the bench are relations by their names, but what is in them are no pages.
#[tokio::test]
async fn bad_pages_are_relayed_unless_that_is_to_fail() {
    let bench = Bench::new();
    let strict = request_with(|archives| archives.fail_on_bad_pages = true);
    bench
        .relay(&strict)
        .await
        .expect("without checksums nothing is judged");

    let bench = Bench::new();
    switch_checksums_on(&bench.path("data/global/pg_control"));
    let why = refused(bench.relay(&strict).await, OpErrorKind::NoRetry);
    assert!(
        why.contains("it has 71 pages in 3 files with wrong checksums"),
        "{why}"
    );
    assert_eq!(
        bench.names(),
        ["16384.tar", "data.tar"],
        "there is no record"
    );
    bench.relay(&request()).await.expect("relayed");
    assert_eq!(bench.names(), ["16384.tar", "backup.info", "data.tar"]);
    // What is there already is judged all the same.
    refused(bench.relay(&strict).await, OpErrorKind::NoRetry);
}

/// Has a control file say that its cluster's pages have checksums.
fn switch_checksums_on(control: &Path) {
    let mut bytes = fs::read(control).expect("readable");
    bytes[284] = 1;
    let checksum = crc32c::crc32c(&bytes[..288]);
    bytes[288..292].copy_from_slice(&checksum.to_le_bytes());
    fs::write(control, bytes).expect("written");
}
