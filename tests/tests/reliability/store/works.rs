//! What each tool does in the tests, and how it is seen that it was done.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::GzEncoder;

use e2e::{Bucket, Cluster, PgBin, Run, Tool, Tree, Workspace, golden, segment_moved_to};

use super::{Behind, Work};

mod catalogue;

pub(super) use catalogue::{Check, Delete, Keep, List, Show};

/// The segment that the samples have.
pub(super) const SEGMENT: &str = "000000010000000000000006";

/// Its content.
pub(super) fn segment() -> Vec<u8> {
    fs::read(golden().join("wal").join(SEGMENT)).unwrap()
}

/// Its key below a server, without a suffix.
pub(super) fn segment_key(server: &str) -> String {
    format!("{server}/wals/0000000100000000/{SEGMENT}")
}

/// Where a tool of the tests works.
struct Ground<'s> {
    workspace: &'s Workspace,
    bucket: &'s Bucket<'s>,
    /// Each work has a server of its own in the bucket.
    server: &'static str,
}

impl<'s> Ground<'s> {
    /// URL and server, behind the options.
    fn tool(&self, name: &str, options: &[&str]) -> Tool<'s> {
        self.workspace
            .tool(&format!("barman-cloud-{name}"))
            .args(options)
            .args([&self.bucket.url(), self.server])
    }

    fn keys(&self) -> Vec<String> {
        self.bucket.keys(&format!("{}/", self.server))
    }

    fn remove_all(&self) {
        for key in self.keys() {
            self.bucket.remove(&key);
        }
    }

    /// A folder of files as objects below the server.
    fn put_folder(&self, folder: &str, from: PathBuf) {
        for entry in fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let key = format!("{}/{folder}/{name}", self.server);
            self.bucket.write(&key, fs::read(&path).unwrap());
        }
    }
}

/// A WAL file is archived, for the first time or again.
pub(super) struct WalArchive<'s> {
    ground: Ground<'s>,
    file: PathBuf,
    again: bool,
}

impl<'s> WalArchive<'s> {
    pub(super) fn new(workspace: &'s Workspace, bucket: &'s Bucket<'s>) -> Self {
        Self {
            file: workspace.file(SEGMENT, segment()),
            ground: Ground {
                workspace,
                bucket,
                server: "archive",
            },
            again: false,
        }
    }

    pub(super) fn again(workspace: &'s Workspace, bucket: &'s Bucket<'s>) -> Self {
        Self {
            again: true,
            ..Self::new(workspace, bucket)
        }
    }
}

impl Work for WalArchive<'_> {
    fn name(&self) -> &'static str {
        if self.again {
            "`wal-archive` of a file that is there already"
        } else {
            "`wal-archive`"
        }
    }

    fn found(&self) -> &'static str {
        "archived once; `wal-restore` brings back the same bytes"
    }

    fn tool(&self) -> Tool<'_> {
        self.ground.tool("wal-archive", &[]).arg(&self.file)
    }

    fn undo(&self) {
        if self.again {
            self.ground
                .bucket
                .write(&segment_key(self.ground.server), segment());
        } else {
            self.ground.remove_all();
        }
    }

    fn middle(&self) -> u32 {
        // There is one.
        0
    }

    fn check(&self, run: &Run) {
        assert!(run.stdout.is_empty(), "{run}");
        assert_eq!(self.ground.keys(), [segment_key(self.ground.server)]);
        let target = self.ground.workspace.path("fetched-again");
        self.ground
            .tool("wal-restore", &[])
            .envs(self.ground.bucket.environment())
            .arg(SEGMENT)
            .arg(&target)
            .succeed();
        assert!(fs::read(target).unwrap() == segment(), "other bytes");
    }
}

/// A compressed WAL file is fetched, alone or with those that follow.
pub(super) struct WalRestore<'s> {
    ground: Ground<'s>,
    folder: PathBuf,
    ahead: bool,
}

/// Name and content of the segments that are there to be fetched.
fn segments() -> [(String, Vec<u8>); 3] {
    [6_u64, 7, 8].map(|number| {
        let name = format!("{:024X}", (1_u128 << 64) + u128::from(number));
        (name, segment_moved_to(number))
    })
}

impl<'s> WalRestore<'s> {
    pub(super) fn new(workspace: &'s Workspace, bucket: &'s Bucket<'s>) -> Self {
        Self::of_server(workspace, bucket, "fetch", false)
    }

    /// With `--parallel 3`.
    pub(super) fn ahead(workspace: &'s Workspace, bucket: &'s Bucket<'s>) -> Self {
        Self::of_server(workspace, bucket, "ahead", true)
    }

    fn of_server(
        workspace: &'s Workspace,
        bucket: &'s Bucket<'s>,
        server: &'static str,
        ahead: bool,
    ) -> Self {
        for (name, content) in segments() {
            let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
            gzip.write_all(&content).unwrap();
            let key = format!("{server}/wals/{}/{name}.gz", &name[..16]);
            bucket.write(&key, gzip.finish().unwrap());
        }
        Self {
            ahead,
            ground: Ground {
                workspace,
                bucket,
                server,
            },
            folder: workspace.dir("fetched"),
        }
    }
}

impl WalRestore<'_> {
    fn fetch(&self, name: &str) -> Tool<'_> {
        let spool = self.ground.workspace.path("spool");
        let spool = format!("--spool-dir={}", spool.display());
        let parallel = if self.ahead {
            "--parallel=3"
        } else {
            "--parallel=1"
        };
        self.ground
            .tool("wal-restore", &[&spool, parallel])
            .arg(name)
            .arg(self.folder.join("RECOVERYXLOG"))
    }

    fn assert_delivered(&self, content: &[u8], run: &Run) {
        let files = fs::read_dir(&self.folder).unwrap();
        let files: Vec<_> = files.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(files, ["RECOVERYXLOG"], "{run}");
        let fetched = fs::read(self.folder.join("RECOVERYXLOG")).unwrap();
        assert!(fetched == content, "other bytes");
    }
}

impl Work for WalRestore<'_> {
    fn name(&self) -> &'static str {
        if self.ahead {
            "`wal-restore --parallel`"
        } else {
            "`wal-restore`"
        }
    }

    fn found(&self) -> &'static str {
        if self.ahead {
            "delivered whole; so are the next ones, fetched ahead or not"
        } else {
            "delivered whole; no temporary file is left"
        }
    }

    fn tool(&self) -> Tool<'_> {
        self.fetch(SEGMENT)
    }

    fn undo(&self) {
        let _ = fs::remove_file(self.folder.join("RECOVERYXLOG"));
        // It remembers the suffix and would not list the next time.
        let _ = fs::remove_dir_all(self.ground.workspace.path("spool"));
    }

    fn check(&self, run: &Run) {
        assert!(run.stdout.is_empty(), "{run}");
        let [asked, following @ ..] = segments();
        self.assert_delivered(&asked.1, run);
        for (name, content) in following.iter().filter(|_| self.ahead) {
            let next = self.fetch(name).envs(self.ground.bucket.environment());
            self.assert_delivered(content, &next.succeed());
        }
    }
}

/// A small backup of three archives is restored.
pub(super) struct Restore<'s> {
    ground: Ground<'s>,
    /// What comes back on a good day.
    whole: Tree,
}

impl<'s> Restore<'s> {
    pub(super) fn new(workspace: &'s Workspace, bucket: &'s Bucket<'s>) -> Self {
        let ground = Ground {
            workspace,
            bucket,
            server: "restore",
        };
        let id = "20261121T120000";
        let folder = format!("base/{id}");
        ground.put_folder(&folder, golden().join("tiny/parts").join(&folder));
        let mut work = Self {
            ground,
            whole: Tree(BTreeMap::new()),
        };
        work.undo();
        let run = work.tool().envs(bucket.environment()).run();
        assert_eq!(run.code(), Some(0), "{run}");
        work.whole = work.restored();
        work
    }
}

impl Restore<'_> {
    fn restored(&self) -> Tree {
        Tree::of(&self.ground.workspace.path("restored"))
    }
}

impl Work for Restore<'_> {
    fn name(&self) -> &'static str {
        "`restore`"
    }

    fn found(&self) -> &'static str {
        "restored, every file as on a good day"
    }

    fn tool(&self) -> Tool<'_> {
        let workspace = self.ground.workspace;
        let moved = workspace.path("restored/tablespace");
        let moved = format!("--tablespace=fast:{}", moved.display());
        self.ground
            .tool("restore", &[&moved])
            .arg("latest")
            .arg(workspace.path("restored/data"))
    }

    fn undo(&self) {
        let _ = fs::remove_dir_all(self.ground.workspace.path("restored"));
        self.ground.workspace.dir("restored");
    }

    fn middle(&self) -> u32 {
        4
    }

    fn check(&self, _: &Run) {
        assert!(self.whole.0.len() > 10);
        self.whole.assert_same(&self.restored(), "on a bad day");
    }
}

/// A base backup of a real server, in parts of the smallest size.
pub(super) struct Backup<'s> {
    ground: Ground<'s>,
    cluster: Cluster,
}

impl<'s> Backup<'s> {
    pub(super) fn new(bin: &PgBin, workspace: &'s Workspace, bucket: &'s Bucket<'s>) -> Self {
        let server = "backup";
        let mut cluster = Cluster::create(bin, workspace, "primary", &[]);
        cluster.archive_into(workspace, &bucket.url(), server, "");
        cluster.set_environment(&bucket.environment());
        cluster.start();
        Self {
            ground: Ground {
                workspace,
                bucket,
                server,
            },
            cluster,
        }
    }
}

impl Work for Backup<'_> {
    fn name(&self) -> &'static str {
        "`backup`"
    }

    fn found(&self) -> &'static str {
        "`DONE`; it is restored and fits its manifest; no upload is left open"
    }

    fn tool(&self) -> Tool<'_> {
        self.ground
            .workspace
            .tool("barman-cloud-backup")
            .args(self.cluster.connection())
            .args(["--immediate-checkpoint", "--min-chunk-size=5MB", "--jobs=1"])
            .args([&self.ground.bucket.url(), self.ground.server])
    }

    fn undo(&self) {
        for key in self.ground.bucket.keys("backup/base/") {
            self.ground.bucket.remove(&key);
        }
        let _ = fs::remove_dir_all(self.ground.workspace.path("backup-restored"));
    }

    fn middle(&self) -> u32 {
        // After some parts.
        5
    }

    fn check(&self, run: &Run) {
        assert!(run.stdout.is_empty(), "{run}");
        let keys = self.ground.bucket.keys("backup/base/");
        assert_eq!(keys.len(), 2, "{keys:?}");
        let info = self.ground.bucket.read(&keys[0]);
        let info = String::from_utf8(info).unwrap();
        assert!(info.contains("\nstatus=DONE\n"), "{info}");
        // Which compares every file with the manifest.
        let target = self.ground.workspace.path("backup-restored");
        self.ground
            .tool("restore", &[])
            .envs(self.ground.bucket.environment())
            .arg("latest")
            .arg(&target)
            .succeed();
        assert!(target.join("global/pg_control").is_file());
    }
}

/// All works there are, each behind a proxy of its own.
pub(super) fn all<'s>(
    bin: &PgBin,
    workspace: &'s Workspace,
    bucket: &'s Bucket<'s>,
) -> Vec<Behind<'s>> {
    let works: [Box<dyn Work + 's>; 9] = [
        Box::new(WalArchive::new(workspace, bucket)),
        Box::new(WalRestore::new(workspace, bucket)),
        Box::new(List::new(workspace, bucket)),
        Box::new(Show::new(workspace, bucket)),
        Box::new(Keep::new(workspace, bucket)),
        Box::new(Delete::new(workspace, bucket)),
        Box::new(Check::new(workspace, bucket)),
        Box::new(Restore::new(workspace, bucket)),
        Box::new(Backup::new(bin, workspace, bucket)),
    ];
    let behind = |work| Behind::new(bucket, work);
    works.into_iter().map(behind).collect()
}
