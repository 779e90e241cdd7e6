//! All nine tools on S3 as it is spoken elsewhere: with nothing set but the endpoint
//! and the keys, on stores that each have a habit of their own.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cloud_core::store::conformance::{self, Gap};
use cloud_core::store::{Retry, RetryPolicy, StoreConfig, open};
use e2e::{Bucket, Cluster, Dialect, DialectStore, PgBin, Run, S3Server, Tool, Tree, Workspace};
use serde_json::Value;

/// A path with all that has two spellings in a URL, in a query or in XML.
const PATH: &str = "a+b c%2Fd&e";

/// More WAL than a page of a listing has, all of it from before the backups.
const MANY: u32 = 130;

/// The first of them; those before it are the server's.
const FIRST_OLD: u32 = 0x40;

const SERVER: &str = "main";

/// A server at rest, with tablespaces and more data than one part has.
struct Source {
    cluster: Cluster,
    tablespace: PathBuf,
    /// WAL files from before any backup, and one that is not in any archive.
    wal: [PathBuf; 3],
}

impl Source {
    fn new(workspace: &Workspace) -> Option<Self> {
        let bin = PgBin::find()?;
        let mut cluster = Cluster::create(&bin, workspace, "primary", &[]);
        cluster.configure("autovacuum", "off");
        cluster.start();
        let tablespace = cluster.make_tablespace(workspace, "elsewhere", "space");
        let session = cluster.session();
        session.run(
            "CREATE TABLE t TABLESPACE elsewhere AS \
             SELECT i, repeat(md5(i::text), 30) AS text FROM generate_series(1, 11000) AS i",
        );
        let folder = cluster.pgdata().join("pg_wal");
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
        let mut wal: Vec<PathBuf> = names
            .filter(|entry| entry.file_name().len() == 24)
            .map(|entry| entry.path())
            .collect();
        wal.sort();
        wal.truncate(3);
        for path in &mut wal {
            let name = path.file_name().unwrap().to_str().unwrap();
            *path = workspace.file(name, fs::read(&*path).unwrap());
        }
        let wal = wal.try_into().expect("so much data takes several segments");
        session.run(&format!(
            "DO $$ BEGIN FOR i IN 1..{} LOOP \
               PERFORM pg_logical_emit_message(false, 'next', 'segment'); \
               PERFORM pg_switch_wal(); \
             END LOOP; END $$",
            MANY + FIRST_OLD
        ));
        session.run("CHECKPOINT");
        drop(session);
        Some(Self {
            cluster,
            tablespace,
            wal,
        })
    }

    /// The files of the tables.
    fn tree(pgdata: &Path) -> Tree {
        let cache = |name: &Path| name.ends_with("pg_internal.init");
        Tree::of(&pgdata.join("base")).without(cache)
    }
}

/// A bucket behind a store with habits.
struct Scene<'w> {
    workspace: &'w Workspace,
    source: &'w Source,
    bucket: &'w Bucket<'w>,
    store: DialectStore,
    name: String,
}

impl<'w> Scene<'w> {
    /// One of our tools, with nothing set that is not needed.
    fn tool(&self, name: &str, rest: &[&str]) -> Tool<'w> {
        self.workspace
            .tool(&format!("barman-cloud-{name}"))
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "testtesttest")
            .args(["--endpoint-url", &self.store.url()])
            .args([&*format!("s3://{}/{PATH}", self.bucket.name()), SERVER])
            .args(rest)
    }

    fn run(&self, code: i32, name: &str, rest: &[&str]) -> Run {
        let run = self.tool(name, rest).run();
        assert_eq!(
            run.code(),
            Some(code),
            "{}: {name} {rest:?}: {run}",
            self.name
        );
        run
    }

    fn done(&self, name: &str, rest: &[&str]) -> Run {
        self.run(0, name, rest)
    }

    fn keys(&self, below: &str) -> Vec<String> {
        let mut keys = self.bucket.keys(&format!("{PATH}/{SERVER}/{below}"));
        // Not the markers.
        keys.retain(|key| !key.ends_with('/'));
        keys
    }

    fn backup(&self, name: &str) {
        let [host, user] = self.source.cluster.connection();
        let run = self.run(
            0,
            "backup",
            &[&host, &user, "--immediate-checkpoint", "--name", name],
        );
        assert!(run.errors().is_empty(), "{}: {run}", self.name);
    }

    fn names(&self) -> Vec<String> {
        let listed = self.done("backup-list", &["--format=json"]);
        let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
        let backups = listed["backups_list"].as_array().unwrap();
        let name = |backup: &Value| backup["backup_name"].as_str().unwrap().to_owned();
        backups.iter().map(name).collect()
    }

    /// Directories of their own, as consoles and other programs make them, and WAL
    /// that was needed once.
    fn furnish(&self, old_segments: u32) {
        let mut objects = BTreeMap::new();
        for directory in ["", "main/", "main/base/", "main/wals/"] {
            objects.insert(format!("{PATH}/{directory}"), String::new());
        }
        for number in FIRST_OLD..FIRST_OLD + old_segments {
            let directory = format!("{PATH}/{SERVER}/wals/0000000100000000");
            let key = format!("{directory}/0000000100000000{number:08X}.gz");
            objects.insert(key, "old".into());
        }
        self.bucket.fill(&objects);
    }

    fn all_nine_tools(&self, old_segments: u32) {
        let who = &self.name;
        self.done("check-wal-archive", &[]);
        self.furnish(old_segments);
        let used = self.run(1, "check-wal-archive", &["--timeline=1"]);
        let found = format!("Found {old_segments} files in WAL archive");
        assert!(used.errors()[0].contains(&found), "{who}: {used}");
        if !self.is_busy() {
            for (tool, rest) in TESTED {
                let run = self.tool(tool, rest).arg("--test").run();
                assert_eq!(run.code(), Some(0), "{who}: {tool} --test: {run}");
                assert_eq!(run.stderr, "", "{who}: {tool} --test");
            }
        }

        // WAL: once, once more, and another one of the same name.
        let [first, second, other] = &self.source.wal;
        let path = first.to_str().unwrap();
        self.done("wal-archive", &[path]);
        self.done("wal-archive", &[path]);
        let name = first.file_name().unwrap().to_str().unwrap();
        let original = fs::read(first).unwrap();
        let mut different = original.clone();
        different[500_000] ^= 1;
        fs::write(first, different).unwrap();
        let refused = self.run(1, "wal-archive", &[path]);
        assert!(refused.errors()[0].contains(name), "{who}: {refused}");
        fs::write(first, original).unwrap();
        self.done("wal-archive", &["--gzip", second.to_str().unwrap()]);
        let target = self.workspace.path("fetched");
        for (segment, missing) in [(first, false), (second, false), (other, true)] {
            let name = segment.file_name().unwrap().to_str().unwrap();
            let code = i32::from(missing);
            let run = self.run(code, "wal-restore", &[name, target.to_str().unwrap()]);
            if !missing {
                let same = fs::read(&target).unwrap() == fs::read(segment).unwrap();
                assert!(same, "{who}: {name} came back as another one: {run}");
                fs::remove_file(&target).unwrap();
            }
        }

        // Base backups.
        self.backup("one");
        self.backup("two");
        assert_eq!(self.names(), ["one", "two"], "{who}");
        let shown = self.done("backup-show", &["one"]);
        assert!(shown.stdout.contains("DONE"), "{who}: {shown}");
        assert_eq!(self.bucket.uploads(), [""; 0], "{who}: uploads are open");
        self.restore("two");

        // What becomes of them.
        self.done("backup-keep", &["one", "--target=full"]);
        let kept = self.done("backup-keep", &["one", "--status"]);
        assert_eq!(kept.stdout.trim(), "Keep: full", "{who}");
        self.done("backup-delete", &["-r", "REDUNDANCY 1"]);
        assert_eq!(self.names(), ["one", "two"], "{who}: it is kept");
        self.done("backup-keep", &["one", "--release"]);
        let before = self.keys("wals/").len();
        self.done("backup-delete", &["-r", "REDUNDANCY 1"]);
        assert_eq!(self.names(), ["two"], "{who}");
        assert!(before > old_segments as usize, "{who}");
        assert_eq!(self.keys("wals/"), [""; 0], "{who}: none of it is needed");
        self.done("backup-delete", &["-b", "two"]);
        assert_eq!(self.names(), [""; 0], "{who}");
        assert_eq!(self.keys("base/"), [""; 0], "{who}");
    }

    /// Whether some requests are refused as too many: `--test` asks once, and tells.
    fn is_busy(&self) -> bool {
        self.name.contains("SlowDown")
    }

    fn restore(&self, name: &str) {
        let (data, space) = (
            self.workspace.path("restored"),
            self.workspace.path("restored-space"),
        );
        self.done(
            "restore",
            &[
                name,
                data.to_str().unwrap(),
                "--tablespace",
                &format!("elsewhere:{}", space.display()),
            ],
        );
        let source = &self.source;
        let original = Source::tree(source.cluster.pgdata());
        original.assert_same(&Source::tree(&data), &format!("{}: PGDATA", self.name));
        let original = Tree::of(&source.tablespace);
        original.assert_same(&Tree::of(&space), &format!("{}: tablespace", self.name));
        fs::remove_dir_all(data).unwrap();
        fs::remove_dir_all(space).unwrap();
    }
}

const TESTED: [(&str, &[&str]); 2] = [("backup-list", &[]), ("wal-archive", &[])];

/// All nine tools on stores in front of `server`, each with some habits.
fn stores_with<'h>(server: S3Server, stores: impl Iterator<Item = &'h [Dialect]>) {
    let workspace = Workspace::new();
    let Some(source) = Source::new(&workspace) else {
        return;
    };
    for habits in stores {
        let Some(bucket) = server.bucket(&workspace) else {
            return;
        };
        let scene = Scene {
            workspace: &workspace,
            source: &source,
            store: DialectStore::start(&bucket, PATH, habits),
            bucket: &bucket,
            name: format!("{habits:?}"),
        };
        let pages = habits.contains(&Dialect::SmallPages);
        scene.all_nine_tools(if pages { MANY } else { 3 });
    }
}

/// No store is known that has them all, and each has several.
#[test]
fn several_habits_at_once() {
    const OLD: &[Dialect] = &[
        Dialect::ChunksUnknown,
        Dialect::ChecksumsVague,
        Dialect::ConditionsIgnored,
        Dialect::BucketHiddenAsBad,
        Dialect::NoBulk,
        Dialect::SmallPages,
        Dialect::PlainNames,
        Dialect::BareTags,
        Dialect::EqualParts,
        Dialect::CompleteFailsOnce,
    ];
    const STRICT: &[Dialect] = &[
        Dialect::PathStyleOnly,
        Dialect::PathOnly,
        Dialect::ChunksMismatch,
        Dialect::ChecksumsUnknown,
        Dialect::ConditionsUnknown,
        Dialect::BulkWantsMd5Silently,
        Dialect::BulkFailsOnce,
        Dialect::BulkSilent,
        Dialect::EncodedNames,
        Dialect::ThousandParts,
        Dialect::SlowDown,
    ];
    stores_with(S3Server::CephPlain, [OLD, STRICT].into_iter());
    stores_with(S3Server::Moto, [OLD].into_iter());
}

/// What each store must do, it does in every dialect. By a path that has two
/// spellings: without one nobody can tell how names are spelled in a listing that is
/// wrong about it.
fn conform(habits: &[Dialect]) {
    let workspace = Workspace::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for habit in habits {
        let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
            return;
        };
        let store = DialectStore::start(&bucket, PATH, &[*habit]);
        let config = StoreConfig {
            url: format!("{}/{PATH}", bucket.url()),
            endpoint_url: Some(store.url()),
            aws_profile: Some("test".into()),
            ..StoreConfig::default()
        };
        let opened = open(&config).expect("the URL names a bucket").store;
        let total = Duration::from_mins(1);
        let patient = Arc::new(Retry::new(opened, RetryPolicy::per_request(total)));
        // Ceph 16 says that an upload that is gone is being completed, with a 500.
        let mut gaps = vec![Gap::CompleteAborted];
        match habit {
            Dialect::PathOnly => gaps.push(Gap::CreateBucket),
            Dialect::ConditionsUnknown
            | Dialect::ConditionsInvalid
            | Dialect::ConditionsVague
            | Dialect::ConditionsIgnored => gaps.push(Gap::RacingWriters),
            _ => {}
        }
        runtime.block_on(async {
            let done = tokio::spawn(async move {
                conformance::all_but(patient, PATH, &gaps).await;
            });
            let done = done.await;
            assert!(
                done.is_ok(),
                "{habit:?} does not conform: {:?}",
                store.seen().last()
            );
        });
    }
}

/// Tests of a few each, which run side by side.
macro_rules! some_of_all {
    ($($test:ident: $from:literal..$to:literal)*) => {
        $(
            mod $test {
                use super::*;

                fn habits() -> &'static [Dialect] {
                    const ALL: &[Dialect] = &Dialect::ALL;
                    ALL.get($from..$to).unwrap_or(&ALL[$from..])
                }

                #[test]
                fn all_nine_tools_work() {
                    stores_with(S3Server::CephPlain, habits().chunks(1));
                }

                #[test]
                fn the_store_conforms() {
                    conform(habits());
                }
            }
        )*
    };
}

some_of_all! {
    the_first: 0..8
    the_second: 8..16
    the_third: 16..24
    the_last: 24..99
}
