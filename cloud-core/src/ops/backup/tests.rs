use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use jiff::tz::Offset;
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::copy::{Closing, Job, Plan};
use super::outcome::Record;
use super::{BackupRequest, ConnectionOptions};
use crate::catalogue::layout::BackupId;
use crate::catalogue::literal::Literal;
use crate::codec;
use crate::manifest::{Algorithm, WalRange};
use crate::ops::archives::{ArchiveOptions, Destination, Sources, TablespaceSource};
use crate::ops::wal_testing::write_control;
use crate::pg::{BackupStart, BackupStop, ServerFacts, ServerTime};
use crate::report::{Reporter, Silent};
use crate::store::{Fault, FaultyStore, Limits, MemoryStore, ObjectStore, StoreErrorKind, StoreOp};
use crate::tar::{MemberKind, TarReader};
use crate::transfer::TransferError;
use crate::wal::{Lsn, TimelineId};

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
            range: WalRange {
                timeline: TimelineId(1),
                start: Lsn(0x200_0028),
                end: Lsn(0x200_0100),
            },
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

/// A deletion marks the record, takes the archives that are there and then the record;
/// it may be over, or die, before the backup comes to its end.
#[tokio::test]
async fn a_backup_that_is_deleted_while_it_is_taken_does_not_become_done() {
    let key = format!("{DIR}backup.info");
    let request = BackupRequest {
        archives: options(1),
        connection: ConnectionOptions::default(),
        immediate_checkpoint: false,
        name: None,
        keepalive_interval: None,
        stop_timeout: None,
        snapshots: None,
    };
    let start = BackupStart {
        lsn: Lsn(0x200_0028),
        timeline: TimelineId(1),
        time: moment(),
    };
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
        let mut record = Record::new(&to.store, &to.layout, &id, &request, &facts());
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
