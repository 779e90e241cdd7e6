//! What each tool does in the tests, and how it is seen that it was done.

use std::cell::RefCell;
use std::fs;
use std::path::PathBuf;

use e2e::{Bucket, Cluster, PgBin, Run, Tool, Tree, Workspace, golden};

use super::{Behind, Work};

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

/// A compressed WAL file is fetched.
pub(super) struct WalRestore<'s> {
    ground: Ground<'s>,
    folder: PathBuf,
}

impl<'s> WalRestore<'s> {
    pub(super) fn new(workspace: &'s Workspace, bucket: &'s Bucket<'s>) -> Self {
        let server = "fetch";
        let compressed = fs::read(golden().join(format!("wal/{SEGMENT}.gz"))).unwrap();
        bucket.write(&format!("{}.gz", segment_key(server)), compressed);
        Self {
            ground: Ground {
                workspace,
                bucket,
                server,
            },
            folder: workspace.dir("fetched"),
        }
    }
}

impl Work for WalRestore<'_> {
    fn name(&self) -> &'static str {
        "`wal-restore`"
    }

    fn found(&self) -> &'static str {
        "delivered whole; no temporary file is left"
    }

    fn tool(&self) -> Tool<'_> {
        let spool = format!(
            "--spool-dir={}",
            self.ground.workspace.path("spool").display()
        );
        self.ground
            .tool("wal-restore", &[&spool])
            .arg(SEGMENT)
            .arg(self.folder.join("RECOVERYXLOG"))
    }

    fn undo(&self) {
        let _ = fs::remove_file(self.folder.join("RECOVERYXLOG"));
        // It remembers the suffix and would not list the next time.
        let _ = fs::remove_dir_all(self.ground.workspace.path("spool"));
    }

    fn check(&self, run: &Run) {
        assert!(run.stdout.is_empty(), "{run}");
        let files: Vec<_> = fs::read_dir(&self.folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(files, ["RECOVERYXLOG"], "{run}");
        let fetched = fs::read(self.folder.join("RECOVERYXLOG")).unwrap();
        assert!(fetched == segment(), "other bytes");
    }
}

const OLD: &str = "20261101T000000";
const NEW: &str = "20261102T000000";

/// Two backups of two archives each, and some WAL.
fn put_backups(ground: &Ground<'_>) {
    let info = golden().join("backup-info/done-gzip-tablespace-named.info");
    let info = fs::read_to_string(info).unwrap();
    let newer = info.replace("0000000004", "0000000009");
    let server = ground.server;
    for (id, info) in [(OLD, info), (NEW, newer)] {
        for archive in ["16384.tar.gz", "data.tar.gz"] {
            ground
                .bucket
                .write(&format!("{server}/base/{id}/{archive}"), id);
        }
        let key = format!("{server}/base/{id}/backup.info");
        ground.bucket.write(&key, info);
    }
    for number in 1..12 {
        let name = format!("{:024X}", (1_u128 << 64) + number);
        let key = format!("{server}/wals/{}/{name}.gz", &name[..16]);
        ground.bucket.write(&key, "");
    }
}

/// A tool that prints what it finds about backups, and changes nothing.
struct Told<'s> {
    ground: Ground<'s>,
    before: RefCell<Option<String>>,
}

impl<'s> Told<'s> {
    fn new(workspace: &'s Workspace, bucket: &'s Bucket<'s>, server: &'static str) -> Self {
        let ground = Ground {
            workspace,
            bucket,
            server,
        };
        put_backups(&ground);
        Self {
            ground,
            before: RefCell::new(None),
        }
    }

    fn check(&self, run: &Run) {
        assert!(run.stdout.contains("2026"), "{run}");
        let mut before = self.before.borrow_mut();
        let before = before.get_or_insert_with(|| run.stdout.clone());
        assert_eq!(*before, run.stdout);
    }
}

/// All backups are listed.
pub(super) struct List<'s>(Told<'s>);

impl<'s> List<'s> {
    pub(super) fn new(workspace: &'s Workspace, bucket: &'s Bucket<'s>) -> Self {
        Self(Told::new(workspace, bucket, "list"))
    }
}

impl Work for List<'_> {
    fn name(&self) -> &'static str {
        "`list`"
    }

    fn found(&self) -> &'static str {
        "all backups are told, as on a good day"
    }

    fn tool(&self) -> Tool<'_> {
        self.0.ground.tool("backup-list", &[])
    }

    fn undo(&self) {}

    fn check(&self, run: &Run) {
        self.0.check(run);
    }
}

/// One backup is shown.
pub(super) struct Show<'s>(Told<'s>);

impl<'s> Show<'s> {
    pub(super) fn new(workspace: &'s Workspace, bucket: &'s Bucket<'s>) -> Self {
        Self(Told::new(workspace, bucket, "show"))
    }
}

impl Work for Show<'_> {
    fn name(&self) -> &'static str {
        "`show`"
    }

    fn found(&self) -> &'static str {
        "the backup is told, as on a good day"
    }

    fn tool(&self) -> Tool<'_> {
        self.0.ground.tool("backup-show", &[]).arg("latest")
    }

    fn undo(&self) {}

    fn check(&self, run: &Run) {
        self.0.check(run);
    }
}

/// A backup is kept.
pub(super) struct Keep<'s>(Ground<'s>);

impl<'s> Keep<'s> {
    pub(super) fn new(workspace: &'s Workspace, bucket: &'s Bucket<'s>) -> Self {
        let ground = Ground {
            workspace,
            bucket,
            server: "keep",
        };
        put_backups(&ground);
        Self(ground)
    }

    fn key() -> String {
        format!("keep/base/{OLD}/annotations/keep")
    }
}

impl Work for Keep<'_> {
    fn name(&self) -> &'static str {
        "`keep`"
    }

    fn found(&self) -> &'static str {
        "the backup is kept, and says so"
    }

    fn tool(&self) -> Tool<'_> {
        self.0.tool("backup-keep", &["--target=full"]).arg(OLD)
    }

    fn undo(&self) {
        self.0.bucket.remove(&Self::key());
    }

    fn check(&self, run: &Run) {
        assert!(run.stdout.is_empty(), "{run}");
        assert_eq!(self.0.bucket.read(&Self::key()), b"full");
        assert_eq!(self.0.keys().len(), 6 + 11 + 1);
        let status = self.0.tool("backup-keep", &["--status"]);
        let status = status.arg(OLD).envs(self.0.bucket.environment()).run();
        assert!(status.stdout.contains("full"), "{status}");
    }
}

/// The older of two backups is deleted, with its WAL.
pub(super) struct Delete<'s>(Ground<'s>);

impl<'s> Delete<'s> {
    pub(super) fn new(workspace: &'s Workspace, bucket: &'s Bucket<'s>) -> Self {
        Self(Ground {
            workspace,
            bucket,
            server: "delete",
        })
    }
}

impl Work for Delete<'_> {
    fn name(&self) -> &'static str {
        "`delete`"
    }

    fn found(&self) -> &'static str {
        "the backup that had to go is gone with its WAL, and nothing else"
    }

    fn tool(&self) -> Tool<'_> {
        self.0.tool("backup-delete", &["-r", "REDUNDANCY 1"])
    }

    fn undo(&self) {
        put_backups(&self.0);
    }

    fn check(&self, run: &Run) {
        assert!(run.stdout.is_empty(), "{run}");
        let keys = self.0.keys();
        assert_eq!(keys.len(), 3 + 3, "{keys:?}");
        assert!(keys.iter().all(|key| !key.contains(OLD)), "{keys:?}");
    }
}

/// An empty archive is found to be empty.
pub(super) struct Check<'s>(Ground<'s>);

impl<'s> Check<'s> {
    pub(super) fn new(workspace: &'s Workspace, bucket: &'s Bucket<'s>) -> Self {
        Self(Ground {
            workspace,
            bucket,
            server: "check",
        })
    }
}

impl Work for Check<'_> {
    fn name(&self) -> &'static str {
        "`check-wal-archive`"
    }

    fn found(&self) -> &'static str {
        "an archive that is empty passes, and one that is not does not"
    }

    fn tool(&self) -> Tool<'_> {
        self.0.tool("check-wal-archive", &[])
    }

    fn undo(&self) {}

    fn check(&self, run: &Run) {
        assert!(run.stdout.is_empty(), "{run}");
        let key = segment_key(self.0.server);
        self.0.bucket.write(&key, "");
        let used = self.tool().envs(self.0.bucket.environment()).run();
        assert_eq!(used.code(), Some(1), "{used}");
        self.0.bucket.remove(&key);
    }
}

/// A small backup of three archives is restored.
pub(super) struct Restore<'s> {
    ground: Ground<'s>,
    whole: RefCell<Option<Tree>>,
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
        Self {
            ground,
            whole: RefCell::new(None),
        }
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

    fn check(&self, _: &Run) {
        let tree = Tree::of(&self.ground.workspace.path("restored"));
        let mut whole = self.whole.borrow_mut();
        let whole = whole.get_or_insert_with(|| tree.clone());
        assert!(whole.0.len() > 10);
        whole.assert_same(&tree, "on a bad day");
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
