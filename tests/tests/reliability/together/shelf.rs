//! Small backups with the WAL around them, for tests that need many catalogues
//! and no server.
//!
//! The backups are copies of one golden sample under several ids, each with a
//! position in WAL of its own; the WAL is one golden segment under the names that
//! its pages are made to fit.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Mutex;

use e2e::{
    Bucket, FaultProxy, Run, Tool, Tree, Workspace, golden, of_sample_or_whole, segment_moved_to,
};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde_json::Value;

/// The backups, oldest first.
pub(crate) const IDS: [&str; 3] = ["20251101T000000", "20251108T000000", "20251115T000000"];

/// The segment that each of them begins in, and ends in.
pub(crate) const BEGINS: [u32; 3] = [2, 5, 8];

/// The segments that are there.
pub(crate) const SEGMENTS: std::ops::RangeInclusive<u32> = 1..=9;

/// Where a test keeps such backups: a directory, or part of a bucket.
#[derive(Debug, Clone)]
pub(crate) enum Where<'w> {
    Directory(&'w str),
    Bucket(&'w Bucket<'w>, &'w str),
}

/// The three backups and their WAL, freshly laid out.
#[derive(Debug)]
pub(crate) struct Shelf<'w> {
    workspace: &'w Workspace,
    place: Where<'w>,
    environment: Vec<(&'static str, String)>,
}

impl<'w> Shelf<'w> {
    /// Fills an empty place. What goes through `proxy` is only what the tools
    /// ask for.
    pub(crate) fn new(
        workspace: &'w Workspace,
        place: Where<'w>,
        proxy: Option<&FaultProxy>,
    ) -> Self {
        let environment = match (&place, proxy) {
            (Where::Directory(_), _) => Vec::new(),
            (Where::Bucket(bucket, _), None) => bucket.environment(),
            (Where::Bucket(bucket, _), Some(proxy)) => bucket.environment_through(proxy),
        };
        let this = Self {
            workspace,
            place,
            environment,
        };
        for (id, begin) in IDS.iter().zip(BEGINS) {
            let sample = golden().join("tiny/gzip/base/20261121T120000");
            let tablespace = fs::read(sample.join("16384.tar.gz")).unwrap();
            this.put(&format!("base/{id}/16384.tar.gz"), &tablespace);
            let data = fs::read(sample.join("data.tar.gz")).unwrap();
            let data = with_label(&data, begin);
            this.put(&format!("base/{id}/data.tar.gz"), &data);
            let info = fs::read_to_string(sample.join("backup.info")).unwrap();
            let record = record(&info, id, begin);
            this.put(&format!("base/{id}/backup.info"), record.as_bytes());
        }
        for number in SEGMENTS {
            let name = segment(number);
            this.put(&format!("wals/{}/{name}.gz", &name[..16]), gzip(number));
        }
        this
    }

    fn put(&self, key: &str, content: &[u8]) {
        match &self.place {
            Where::Directory(name) => {
                let path = PathBuf::from(name).join("main").join(key);
                self.workspace.dir(path.parent().expect("below the server"));
                self.workspace.file(path, content);
            }
            Where::Bucket(bucket, path) => bucket.write(&format!("{path}/main/{key}"), content),
        }
    }

    /// What the tools take as their source or destination.
    pub(crate) fn url(&self) -> String {
        match &self.place {
            Where::Directory(name) => self.workspace.url(name),
            Where::Bucket(bucket, path) => format!("{}/{path}", bucket.url()),
        }
    }

    /// The names of all objects of the server, below its own.
    pub(crate) fn keys(&self) -> Vec<String> {
        match &self.place {
            Where::Directory(name) => {
                let tree = Tree::of(&self.workspace.path(name).join("main"));
                let files = tree.0.iter();
                files
                    .filter(|(_, entry)| matches!(entry.kind, e2e::Kind::File(..)))
                    .map(|(path, _)| path.to_string_lossy().into_owned())
                    .collect()
            }
            Where::Bucket(bucket, path) => {
                let root = format!("{path}/main/");
                let keys = bucket.keys(&root).into_iter();
                keys.map(|key| key[root.len()..].to_owned()).collect()
            }
        }
    }

    /// A tool, before its arguments.
    pub(crate) fn bare(&self, name: &str) -> Tool<'w> {
        self.workspace.tool(name).envs(self.environment.clone())
    }

    /// A tool with options before the URL and the server.
    pub(crate) fn tool(&self, name: &str, options: &[&str]) -> Tool<'w> {
        self.bare(name).args(options).args([&self.url(), "main"])
    }

    /// `barman-cloud-backup-delete`.
    pub(crate) fn delete(&self, options: &[&str]) -> Tool<'w> {
        self.tool("barman-cloud-backup-delete", options)
    }

    /// `barman-cloud-backup-keep` for the oldest backup.
    pub(crate) fn keep(&self, option: &str) -> Tool<'w> {
        self.tool("barman-cloud-backup-keep", &[option]).arg(IDS[0])
    }

    /// The restore of a backup into the folder `name`.
    pub(crate) fn restore(&self, id: &str, name: &str) -> Tool<'w> {
        let fast = self.workspace.path(format!("{name}.fast"));
        let rule = format!("fast:{}", fast.display());
        self.tool("barman-cloud-restore", &["--tablespace", &rule])
            .arg(id)
            .arg(self.workspace.path(name))
    }

    /// The fetch of a segment into the file `name`.
    pub(crate) fn fetch(&self, number: u32, name: &str) -> Tool<'w> {
        self.tool("barman-cloud-wal-restore", &["--retry-timeout=5"])
            .arg(segment(number))
            .arg(self.workspace.path(name))
    }

    /// Id and status of every backup, as `barman-cloud-backup-list` tells.
    pub(crate) fn listed(&self) -> BTreeMap<String, String> {
        let list = self.tool("barman-cloud-backup-list", &["--format=json"]);
        let run = list.run();
        assert_eq!(run.code(), Some(0), "{run}");
        let list: Value = serde_json::from_str(&run.stdout).unwrap();
        let backups = list["backups_list"].as_array().unwrap().iter();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        backups
            .map(|backup| (text(&backup["backup_id"]), text(&backup["status"])))
            .collect()
    }

    /// Asserts that the backup is listed as DONE, comes back byte for byte, and
    /// that all WAL from its beginning on does.
    pub(crate) fn assert_whole(&self, id: &str) {
        assert_eq!(self.listed().get(id).map(String::as_str), Some("DONE"));
        let name = format!("check-{id}");
        // Not silent: the sample's `pg_control` is none that a server starts with.
        let run = self.restore(id, &name).run();
        assert_eq!(run.code(), Some(0), "{run}");
        self.assert_restored(&name);
        let place = IDS.iter().position(|known| *known == id).unwrap();
        let (first, last) = (BEGINS[place], *SEGMENTS.end());
        // What is listed is there; how the bytes come back is the same for all.
        let keys = self.keys();
        for number in first..=last {
            let name = segment(number);
            assert!(keys.iter().any(|key| key.contains(&name)), "{name}");
        }
        for number in of_sample_or_whole(first..=first, first..=last) {
            self.assert_fetched(number);
        }
    }

    /// Asserts that what was restored into the folder `name` is as it was, and removes
    /// it.
    pub(crate) fn assert_restored(&self, name: &str) {
        let (pgdata, fast) = (
            self.workspace.path(name),
            self.workspace.path(format!("{name}.fast")),
        );
        let expected = fs::read_to_string(golden().join("tiny/EXPECTED-RESTORE.txt")).unwrap();
        let hashes = expected.lines().filter_map(|line| line.split_once("  ./"));
        let mut files = 0;
        // The label is this backup's own.
        for (hash, path) in hashes.filter(|(_, path)| *path != "backup_label") {
            let folder = if path.starts_with("PG_15_") {
                &fast
            } else {
                &pgdata
            };
            assert_eq!(e2e::sha256_of_file(&folder.join(path)), hash, "{path}");
            files += 1;
        }
        assert!(files > 10, "the sample has files");
        fs::remove_dir_all(&pgdata).unwrap();
        fs::remove_dir_all(&fast).unwrap();
    }

    /// Asserts that a segment comes back as it was.
    pub(crate) fn assert_fetched(&self, number: u32) {
        self.fetch(number, "fetched").succeed();
        let path = self.workspace.path("fetched");
        assert_eq!(fs::read(&path).unwrap(), content(number), "{number}");
        fs::remove_file(path).unwrap();
    }

    /// Asserts that what is left is the newest backup and its WAL, and nothing else.
    pub(crate) fn assert_only_the_newest(&self) {
        let keys = self.keys();
        let stays = |key: &String| {
            key.starts_with(&format!("base/{}/", IDS[2]))
                || (BEGINS[2]..=*SEGMENTS.end()).any(|n| key.contains(&segment(n)))
        };
        let rest: Vec<_> = keys.iter().filter(|key| !stays(key)).collect();
        assert!(rest.is_empty(), "{rest:?}");
        self.assert_whole(IDS[2]);
    }
}

/// Asserts that a tool ended with 0, or with `code` and one error that contains
/// one of these texts.
pub(crate) fn assert_done_or(run: &Run, code: i32, texts: &[&str]) {
    if run.code() == Some(0) {
        return;
    }
    assert_eq!(run.code(), Some(code), "{run}");
    let errors = run.errors();
    let clear = |error: &String| texts.iter().any(|text| error.contains(text));
    assert!(errors.iter().all(clear) && !errors.is_empty(), "{run}");
}

/// The name of a segment of 1 MiB on timeline 1.
pub(crate) fn segment(number: u32) -> String {
    format!("00000001{:08X}{number:08X}", 0)
}

/// The segment of that name.
pub(crate) fn content(number: u32) -> Vec<u8> {
    segment_moved_to(u64::from(number))
}

/// A segment as it is stored; made once for all shelves of a test.
fn gzip(number: u32) -> &'static [u8] {
    static MADE: Mutex<BTreeMap<u32, &'static [u8]>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap();
    made.entry(number)
        .or_insert_with(|| compress(number).leak())
}

/// The archive with a label that says where its backup begins.
fn with_label(archive: &[u8], begin: u32) -> Vec<u8> {
    let mut tar = Vec::new();
    GzDecoder::new(archive).read_to_end(&mut tar).unwrap();
    let old = b"START WAL LOCATION: 0/4000028 (";
    let new = format!("START WAL LOCATION: 0/{begin:X}00028  (");
    assert_eq!(old.len(), new.len());
    let at = tar.windows(old.len()).position(|found| found == old);
    let at = at.expect("the archive has a label");
    tar[at..at + old.len()].copy_from_slice(new.as_bytes());
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&tar).unwrap();
    encoder.finish().unwrap()
}

fn compress(number: u32) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&content(number)).unwrap();
    encoder.finish().unwrap()
}

/// The record of the sample as that of a backup with another id and place.
fn record(sample: &str, id: &str, begin: u32) -> String {
    let day = format!("{}-{}-{}", &id[..4], &id[4..6], &id[6..8]);
    let name = segment(begin);
    let mut text = String::new();
    for line in sample.lines() {
        let (field, value) = line.split_once('=').unwrap();
        let value = match field {
            "begin_time" => format!("{day} 00:00:01.000000+00:00"),
            "end_time" => format!("{day} 00:00:09.000000+00:00"),
            "begin_wal" | "end_wal" => name.clone(),
            "begin_xlog" => format!("0/{begin:X}00028"),
            "end_xlog" => format!("0/{begin:X}00100"),
            "xlog_segment_size" => (1 << 20).to_string(),
            _ => value.to_owned(),
        };
        text.push_str(&format!("{field}={value}\n"));
    }
    text
}
