use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::num::NonZeroU32;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::tz::Offset;
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::copy::{Closing, Job, Plan};
use super::outcome::{Failure, Record};
use super::preflight::{Own, check_cluster, check_start, locate};
use super::{BackupRequest, ConnectionOptions};
use crate::catalogue::layout::BackupId;
use crate::catalogue::literal::Literal;
use crate::codec;
use crate::key::Key;
use crate::manifest::{Algorithm, WalRange};
use crate::ops::archives::{ArchiveOptions, Destination, Sources, TablespaceSource};
use crate::ops::wal_testing::{control_in, write_control};
use crate::pg::{BackupStart, BackupStop, PgTablespace, ServerFacts, ServerTime};
use crate::report::{Reporter, Silent};
use crate::store::{
    Fault, FaultyStore, Limits, MemoryStore, ObjectStore, PutOptions, StoreErrorKind, StoreOp,
};
use crate::tar::{MemberKind, TarReader};
use crate::transfer::TransferError;
use crate::wal::{Lsn, TimelineId, WalName};

const DIR: &str = "main/base/20260101T120000/";
const OID: u32 = 16_384;
const MIB: usize = 1 << 20;

/// A cluster that nobody writes to, with one tablespace.
struct Cluster {
    root: TempDir,
}

impl Cluster {
    fn new() -> Self {
        let cluster = Self {
            root: tempfile::tempdir().expect("a temporary directory"),
        };
        write_control(&cluster.path("data"), 7_000_000_000_000_000_001);
        cluster.write("data/PG_VERSION", 3);
        cluster.write("space/PG_17_202406281/5/16390", 100);
        cluster
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn write(&self, name: &str, size: usize) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a directory")).expect("directories");
        fs::write(path, vec![b'x'; size]).expect("a file");
    }

    /// Relations of PGDATA, `size` bytes each.
    fn relations(&self, count: u32, size: usize) {
        for number in 0..count {
            self.write(&format!("data/base/5/{}", 20_000 + number), size);
        }
    }

    /// The files that a backup has, as their archives name them.
    fn files(&self) -> BTreeSet<String> {
        let (mut files, mut folders) = (BTreeSet::new(), Vec::new());
        for source in ["data", "space"] {
            folders.push(PathBuf::new());
            while let Some(folder) = folders.pop() {
                let inside = fs::read_dir(self.path(source).join(&folder)).expect("a directory");
                for entry in inside {
                    let entry = entry.expect("an entry");
                    let name = folder.join(entry.file_name());
                    if entry.file_type().expect("a type").is_dir() {
                        folders.push(name);
                    } else {
                        assert!(files.insert(name.display().to_string()));
                    }
                }
            }
        }
        files
    }

    async fn copy(
        &self,
        store: Arc<dyn ObjectStore>,
        options: &ArchiveOptions,
    ) -> Result<usize, TransferError> {
        let to = Destination::new(store, options).expect("a destination");
        let cancel = CancellationToken::new();
        let reporter: Arc<dyn Reporter> = Arc::new(Silent);
        let (lane, uploader) = to.way(options, to.budget(None), &reporter, &cancel);
        let plan = Plan {
            sources: Sources {
                pgdata: self.path("data"),
                major: "17".into(),
                tablespaces: vec![TablespaceSource {
                    oid: OID,
                    location: self.path("space"),
                }],
                configuration: Vec::new(),
                rounds: NonZeroU32::MIN,
            },
            layout: to.layout.clone(),
            id: BackupId::new("20260101T120000").expect("an id"),
            lane,
            lanes: options.lanes,
            uploader: uploader.clone(),
            reporter,
            version: 170_000,
            algorithm: options.manifest_checksums,
            begin: None,
            fail_on_bad_pages: options.fail_on_bad_pages,
        };
        let (copied, _) = oneshot::channel();
        let (closing_tx, closing) = oneshot::channel();
        let _ = closing_tx.send(Closing {
            label: "START WAL LOCATION: 0/2000028\n".to_owned(),
            end: Lsn(0x200_0100),
            wal: vec![WalRange {
                timeline: TimelineId(1),
                start: Lsn(0x200_0028),
                end: Lsn(0x200_0100),
            }],
        });
        let job = Job {
            plan,
            copied,
            closing,
        };
        let runtime = Handle::current();
        let copied = tokio::task::spawn_blocking(move || job.run(&runtime)).await;
        if let Err(error) = copied.expect("no panic") {
            uploader.fail(error);
        }
        Ok(uploader.finish().await?.archives.len())
    }
}

fn options(lanes: u32) -> ArchiveOptions {
    ArchiveOptions {
        path: String::new(),
        server: "main".into(),
        codec: &codec::None,
        level: None,
        lanes: NonZeroU32::new(lanes).expect("lanes"),
        encoder_threads: None,
        jobs: NonZeroU32::MIN,
        max_archive_size: 1 << 40,
        min_chunk_size: None,
        max_bandwidth: None,
        memory_limit: None,
        tags: None,
        manifest_checksums: Algorithm::Crc32c,
        fail_on_bad_pages: false,
    }
}

/// The files of each archive, in the order in which they are there.
fn archives(store: &MemoryStore) -> BTreeMap<String, Vec<String>> {
    let objects = store.contents().into_iter();
    let archives = objects.map(|(key, bytes)| {
        let mut reader = TarReader::new(&bytes[..]);
        let mut files = Vec::new();
        while let Some(member) = reader.next_member().expect("a whole tar") {
            if matches!(member.kind, MemberKind::File { .. }) {
                let name = String::from_utf8(member.name).expect("a name");
                files.push(name.trim_start_matches("./").to_owned());
            }
        }
        let name = key.strip_prefix(DIR).expect("of the backup");
        (name.to_owned(), files)
    });
    archives.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn several_lanes_put_each_file_into_one_archive_and_the_end_into_the_last() {
    let cluster = Cluster::new();
    cluster.relations(40, 2 * MIB);
    let store = MemoryStore::new();
    let options = ArchiveOptions {
        max_archive_size: 10 << 20,
        ..options(3)
    };
    let count = cluster.copy(Arc::new(store.clone()), &options).await;
    let archives = archives(&store);
    assert_eq!(count.expect("a backup"), archives.len());

    // Part numbers without a gap, so that a restore knows that it has all.
    let parts = archives.len() - 1;
    let data = |part: usize| match part {
        0 => "data.tar".to_owned(),
        part => format!("data_{part:04}.tar"),
    };
    let names: BTreeSet<_> = (0..parts).map(data).chain([format!("{OID}.tar")]).collect();
    assert_eq!(archives.keys().cloned().collect::<BTreeSet<_>>(), names);
    assert!(parts >= 6, "{parts} archives of PGDATA");

    let end = ["global/pg_control", "backup_manifest", "backup_label"];
    assert_eq!(archives[&data(parts - 1)], end);
    let mut all: Vec<_> = archives.into_values().flatten().collect();
    all.sort();
    let mut expected = cluster.files();
    expected.extend(end.map(str::to_owned));
    assert_eq!(all, expected.into_iter().collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_lane_leaves_the_end_in_the_archive_of_pgdata() {
    let cluster = Cluster::new();
    let store = MemoryStore::new();
    let count = cluster.copy(Arc::new(store.clone()), &options(1)).await;
    assert_eq!(count.expect("a backup"), 2);
    let archives = archives(&store);
    assert_eq!(archives[&format!("{OID}.tar")], ["PG_17_202406281/5/16390"]);
    let data = &archives["data.tar"];
    let end = ["global/pg_control", "backup_manifest", "backup_label"];
    assert!(data.ends_with(&end.map(str::to_owned)), "{data:?}");
}

/// Every archive needs all of the memory: no lane may keep some while it waits.
#[tokio::test(flavor = "multi_thread")]
async fn files_that_need_all_of_the_memory_get_it_one_after_the_other() {
    let cluster = Cluster::new();
    cluster.relations(20, MIB);
    let limits = Limits {
        min_part: 64 << 10,
        max_parts: 2,
        ..MemoryStore::new().info().limits
    };
    let store = MemoryStore::new().with_limits(limits);
    let options = ArchiveOptions {
        memory_limit: Some(320 << 10),
        ..options(4)
    };
    let count = cluster.copy(Arc::new(store.clone()), &options).await;
    assert!(count.expect("a backup") > 20);
    let files: Vec<_> = archives(&store).into_values().flatten().collect();
    // With manifest and label.
    assert_eq!(files.len(), cluster.files().len() + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_fails_ends_the_others_and_says_why() {
    for place in ["data/base/5/29999", "space/PG_17_202406281/5/16391"] {
        let cluster = Cluster::new();
        cluster.relations(20, MIB);
        let large = fs::File::create(cluster.path(place)).expect("a file");
        large.set_len(1 << 30).expect("a size");
        let limits = Limits {
            max_object: 100 << 20,
            ..MemoryStore::new().info().limits
        };
        let store = MemoryStore::new().with_limits(limits);
        let failed = cluster.copy(Arc::new(store.clone()), &options(3)).await;
        let error = failed.expect_err("no object is that large").to_string();
        assert!(error.contains("larger than an object"), "{place}: {error}");
        assert_eq!(store.open_uploads(), Vec::<String>::new());
    }
}

/// The server of a record.
fn facts() -> ServerFacts {
    ServerFacts {
        system_identifier: None,
        data_directory: None,
        version: 170_000,
        wal_segment_size: 16 << 20,
        config_file: None,
        hba_file: None,
        ident_file: None,
        included_files: Vec::new(),
        tablespaces: Vec::new(),
        data_checksums: None,
        summarize_wal: None,
        cluster_size: None,
        in_recovery: false,
        archive_mode: None,
        archive_command: None,
        archive_library: None,
    }
}

fn moment() -> ServerTime {
    ServerTime {
        instant: "2026-01-01T12:00:00Z".parse().expect("a time"),
        offset: Offset::UTC,
    }
}

fn request() -> BackupRequest {
    BackupRequest {
        archives: options(1),
        connection: ConnectionOptions::default(),
        immediate_checkpoint: false,
        name: None,
        keepalive_interval: None,
        stop_timeout: None,
        snapshots: None,
    }
}

fn start() -> BackupStart {
    BackupStart {
        lsn: Lsn(0x200_0028),
        timeline: TimelineId(1),
        time: moment(),
    }
}

/// An answer is lost and the request was done, or is tried again and finds its own work.
#[tokio::test]
async fn a_record_whose_first_answer_was_lost_is_still_this_backups() {
    let key = format!("{DIR}backup.info");
    let request = request();
    for (theirs, is_tried_again) in [(false, false), (false, true), (true, true)] {
        let store = MemoryStore::new();
        let faulty = FaultyStore::new(Arc::new(store.clone()));
        let shared: Arc<dyn ObjectStore> = Arc::new(faulty.clone());
        let to = Destination::new(shared, &request.archives).expect("a destination");
        let id = BackupId::new("20260101T120000").expect("an id");
        let mut record = Record::new(&to.records, &to.layout, &id, &request, &facts());
        faulty.fail(StoreOp::Put, Fault::After(StoreErrorKind::Timeout), 1);
        let mut failure = record.started(&start()).await.expect_err("it is lost");
        if theirs {
            store.insert(&key, "status=STARTED\n");
        }
        if is_tried_again {
            match record.started(&start()).await {
                Ok(()) => assert!(!theirs),
                Err(taken) => {
                    assert!(
                        theirs && taken.to_string().contains("in the same second"),
                        "{taken}"
                    );
                    failure = taken;
                }
            }
        }
        let _ = record.failed(failure).await;
        let text = String::from_utf8(store.contents()[&key].to_vec()).expect("a text");
        let expected = if theirs { "STARTED" } else { "FAILED" };
        assert!(text.contains(&format!("status={expected}")), "{text}");
    }
}

/// The limit is for what may wait: parts that were given up have their places in its queue.
#[tokio::test(start_paused = true)]
async fn a_failure_is_recorded_at_once_whatever_waits_for_its_turn() {
    let mut request = request();
    request.archives.max_bandwidth = Some(1);
    let store = MemoryStore::new();
    let to = Destination::new(Arc::new(store.clone()), &request.archives).expect("a destination");
    let id = BackupId::new("20260101T120000").expect("an id");
    let mut record = Record::new(&to.records, &to.layout, &id, &request, &facts());
    record.started(&start()).await.expect("it is announced");
    let key = Key::new("x").expect("a key");
    let options = PutOptions::default();
    let part = to
        .store
        .put(&key, Bytes::from_static(&[0; 1000]).into(), &options);
    let given_up = tokio::time::timeout(Duration::from_secs(1), part).await;
    assert!(given_up.is_err(), "it waits for its turn");
    record.failed(Failure::Interrupted).await;
    let text = store.contents()[&format!("{DIR}backup.info")].clone();
    let text = String::from_utf8(text.to_vec()).expect("a text");
    assert!(text.contains("status=FAILED"), "{text}");
}

/// A deletion marks the record, takes the archives that are there and then the record;
/// it may be over, or die, before the backup comes to its end.
#[tokio::test]
async fn a_backup_that_is_deleted_while_it_is_taken_does_not_become_done() {
    let key = format!("{DIR}backup.info");
    let (request, start) = (request(), start());
    let stop = BackupStop {
        lsn: Lsn(0x200_0100),
        timeline: TimelineId(1),
        time: moment(),
        label_file: "label".into(),
    };
    // The second: a store that tells no reading from no writing.
    for (mark, denied, end) in [
        (None, false, "DONE"),
        (Some(""), false, "FAILED"),
        (Some("status=FAILED\n"), false, "FAILED"),
        (Some("status=FAILED\nerror=x\n"), false, "FAILED"),
        (None, true, "DONE"),
    ] {
        let store = MemoryStore::new();
        let faulty = FaultyStore::new(Arc::new(store.clone()));
        let shared: Arc<dyn ObjectStore> = Arc::new(faulty.clone());
        let to = Destination::new(shared, &request.archives).expect("a destination");
        let id = BackupId::new("20260101T120000").expect("an id");
        let mut record = Record::new(&to.records, &to.layout, &id, &request, &facts());
        record.started(&start).await.expect("it is announced");
        record.again().await.expect("it is still ours");
        match mark {
            None => {}
            Some("") => store.remove(&key),
            Some(text) => store.insert(&key, text),
        }
        if denied {
            let fault = Fault::Before(StoreErrorKind::PermissionDenied);
            faulty.fail(StoreOp::Get, fault, u32::MAX);
        }
        let done = record.done(&stop, Literal::None, Instant::now()).await;
        assert_eq!(done.is_ok(), end == "DONE", "{mark:?}");
        if let Err(failure) = done {
            let told = record.failed(failure).await;
            assert!(told.message.contains("deleted or changed"), "{told}");
        }
        let text = String::from_utf8(store.contents()[&key].to_vec()).expect("a text");
        assert!(text.contains(&format!("status={end}")), "{mark:?}: {text}");
        // What somebody else wrote stays.
        let theirs = mark.filter(|text| !text.is_empty());
        assert!(theirs.is_none_or(|theirs| text == theirs), "{text}");
    }
}

/// A standby has its primary's system identifier, and neither the same files nor the same label.
#[test]
fn the_data_directory_is_at_the_work_of_the_server_that_was_asked() {
    let pgdata = tempfile::tempdir().expect("a temporary directory");
    fs::create_dir(pgdata.path().join("global")).expect("a directory");
    let check = |state: u32, identifier: u64, in_recovery| {
        let path = pgdata.path().join("global/pg_control");
        fs::write(path, control_in(identifier, false, state)).expect("a file");
        let facts = ServerFacts {
            system_identifier: Some("7".into()),
            in_recovery,
            ..facts()
        };
        check_cluster(pgdata.path(), &Own::of(&facts))
    };
    // `DBState` in PostgreSQL's `pg_control.h`: shut down 1, and in recovery 2; archive recovery
    // 5; in production 6.
    for (state, in_recovery, fits) in [
        (6, false, true),
        (6, true, false),
        (5, true, true),
        (5, false, false),
        (1, false, false),
        (2, true, false),
        // On their way from one to another.
        (3, false, true),
        (4, true, true),
    ] {
        let checked = check(state, 7, in_recovery);
        assert_eq!(checked.is_ok(), fits, "{state}, {in_recovery}: {checked:?}");
        let why = checked.err().unwrap_or_default();
        assert!(
            fits || why.contains("run this tool on the host of the server"),
            "{why}"
        );
    }
    assert!(check(6, 8, false).is_err_and(|why| why.contains("system identifier 8")));
}

#[test]
fn the_start_of_a_backup_is_in_the_control_file_of_its_server() {
    let pgdata = tempfile::tempdir().expect("a temporary directory");
    // Its checkpoint begins at 0/600028.
    write_control(pgdata.path(), 7);
    for (start, fits) in [(0x60_0028, true), (0x50_0028, true), (0x60_0029, false)] {
        let checked = check_start(pgdata.path(), Lsn(start));
        assert_eq!(checked.is_ok(), fits, "{start:X}: {checked:?}");
    }
}

#[tokio::test]
async fn a_tablespace_is_where_the_link_to_it_leads() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| root.path().join(name);
    for name in ["data/pg_tblspc/3", "disk"] {
        fs::create_dir_all(path(name)).expect("a directory");
    }
    for (name, target) in [
        ("1", "/elsewhere"),
        ("2", "../../disk"),
        ("4", "../../gone"),
    ] {
        symlink(target, path("data/pg_tblspc").join(name)).expect("a link");
    }
    let located = async |oid: u32, location: &str| {
        let told = PgTablespace {
            name: "fast".into(),
            oid,
            location: location.into(),
        };
        let data = path("data");
        let located = locate(data.to_str(), vec![told]).await;
        located.map(|all| all[0].location.clone())
    };
    let disk = path("disk").canonicalize().expect("it is there");
    let disk = disk.to_str().expect("a text");
    assert_eq!(located(1, "/elsewhere").await.as_deref(), Ok("/elsewhere"));
    assert_eq!(located(2, "../../disk").await.as_deref(), Ok(disk));
    // A directory of PGDATA, and one that was dropped meanwhile.
    assert_eq!(
        located(3, "pg_tblspc/3").await.as_deref(),
        Ok("pg_tblspc/3")
    );
    assert_eq!(
        located(5, "pg_tblspc/5").await.as_deref(),
        Ok("pg_tblspc/5")
    );
    let gone = located(4, "../../gone").await.expect_err("it is not there");
    assert!(
        gone.starts_with("could not find the tablespace fast at `"),
        "{gone}"
    );
}

/// Dropped before its turn came: replay drops it again, and a restore looks for an archive.
#[tokio::test]
async fn a_tablespace_that_was_dropped_has_an_archive_of_nothing() {
    for lanes in [1, 3] {
        let cluster = Cluster::new();
        fs::create_dir(cluster.path("data/pg_tblspc")).expect("a directory");
        let link = cluster.path(&format!("data/pg_tblspc/{OID}"));
        symlink(cluster.path("space"), &link).expect("a link");
        fs::remove_dir_all(cluster.path("space/PG_17_202406281")).expect("removed");
        let store = MemoryStore::new();
        let error = cluster
            .copy(Arc::new(store.clone()), &options(lanes))
            .await
            .expect_err("it is not mounted");
        assert!(
            error
                .to_string()
                .contains("contains no directory of this server"),
            "{error}"
        );
        fs::remove_file(&link).expect("removed");
        let store = MemoryStore::new();
        cluster
            .copy(Arc::new(store.clone()), &options(lanes))
            .await
            .expect("the rest is copied");
        let archives = archives(&store);
        let of_space = |(name, files): (&String, &Vec<String>)| {
            name.starts_with(&OID.to_string()).then_some(files.len())
        };
        assert_eq!(
            archives.iter().filter_map(of_space).collect::<Vec<_>>(),
            [0],
            "{archives:?}"
        );
    }
}

#[tokio::test]
async fn wal_that_is_not_archived_yet_is_named() {
    let request = request();
    let store = MemoryStore::new();
    let faulty = FaultyStore::new(Arc::new(store.clone()));
    let shared: Arc<dyn ObjectStore> = Arc::new(faulty.clone());
    let to = Destination::new(shared, &request.archives).expect("a destination");
    let id = BackupId::new("20260101T120000").expect("an id");
    let record = Record::new(&to.records, &to.layout, &id, &request, &facts());
    let name = |text: &str| text.parse::<WalName>().expect("a name");
    let put = |name: &str, suffix: &str| {
        let directory = &name[..16];
        store.insert(&format!("main/wals/{directory}/{name}{suffix}"), "x");
    };
    for number in 0xFD..0x100 {
        put(&format!("0000000100000002000000{number:02X}"), ".gz");
    }
    put("000000010000000300000000", "");
    put("000000010000000300000001", ".partial");
    put("000000010000000300000001", ".00000028.backup");
    let looked = async |first, last| record.missing(name(first), name(last)).await;
    let (first, last) = ("0000000100000002000000FD", "000000010000000300000000");
    assert_eq!(looked(first, last).await.expect("a listing"), [""; 0]);
    assert_eq!(faulty.calls().len(), 2, "one request for each directory");
    let missing = looked(first, "000000010000000300000001")
        .await
        .expect("a listing");
    assert_eq!(missing, ["000000010000000300000001"]);
    let missing = looked(first, "000000010000000400000000")
        .await
        .expect("a listing");
    assert_eq!(missing.len(), 10, "no more than these are named");
}
