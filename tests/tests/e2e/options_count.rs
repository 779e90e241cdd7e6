//! Options that change nothing of what is restored: what they do shows elsewhere.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use e2e::{Cluster, PgBin, Workspace};

/// A server with some rows, whose backups go to a directory.
struct Scene<'w> {
    workspace: &'w Workspace,
    cluster: Cluster,
    url: String,
}

impl<'w> Scene<'w> {
    fn new(bin: &PgBin, workspace: &'w Workspace) -> Self {
        workspace.dir("bucket");
        let url = workspace.url("bucket");
        let mut cluster = Cluster::create(bin, workspace, "primary", &[]);
        cluster.archive_into(workspace, &url, "main", "");
        cluster.start();
        let session = cluster.session();
        session.run("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 50000) AS i");
        Self {
            workspace,
            cluster,
            url,
        }
    }

    /// The archives of a backup with these options, by their names.
    fn archives(&self, server: &str, options: &[&str]) -> Vec<(String, Vec<u8>)> {
        self.workspace
            .tool("barman-cloud-backup")
            .args(self.cluster.connection())
            .arg("--immediate-checkpoint")
            .args(options)
            .args([&self.url, server])
            .succeed();
        let base = self.workspace.path("bucket").join(server).join("base");
        let backup: PathBuf = fs::read_dir(base).unwrap().next().unwrap().unwrap().path();
        let files = fs::read_dir(backup).unwrap().map(|file| file.unwrap());
        let named = files.map(|file| (file.file_name().into_string().unwrap(), file.path()));
        let archives = named.filter(|(name, _)| name.contains(".tar"));
        let mut archives: Vec<_> = archives
            .map(|(name, path)| (name, fs::read(path).unwrap()))
            .collect();
        archives.sort();
        archives
    }
}

#[test]
fn a_level_of_compression_is_that_of_the_archives() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let scene = Scene::new(&bin, &workspace);
    let size = |server: &str, level: &[&str]| {
        let archives = scene.archives(server, &[&["--gzip"], level].concat());
        archives.iter().map(|(_, bytes)| bytes.len()).sum::<usize>()
    };
    let fast = size("one", &["--compression-level", "1"]);
    let usual = size("six", &[]);
    let best = size("nine", &["--compression-level", "high"]);
    // Far beyond what a server changes of its own accord from backup to backup.
    assert!(fast > usual + usual / 10, "{fast} and {usual}");
    assert!(usual > best + best / 1000, "{usual} and {best}");
}

/// Blocks of an lz4 frame depend on each other only where one thread makes them all.
#[test]
fn an_archive_is_made_by_as_many_threads_as_asked_for() {
    const INDEPENDENT: u8 = 0x20;
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let scene = Scene::new(&bin, &workspace);
    for (server, threads, several) in [("one", "1", false), ("three", "3", true)] {
        let archives = scene.archives(server, &["--lz4", "--encoder-threads", threads]);
        let (name, bytes) = &archives[0];
        assert_eq!(bytes[..4], [0x04, 0x22, 0x4d, 0x18], "{name} is no frame");
        assert_eq!(bytes[4] & INDEPENDENT != 0, several, "{threads} threads");
    }
}

#[test]
fn several_archives_are_made_at_the_same_time_and_the_end_is_in_the_last() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let scene = Scene::new(&bin, &workspace);
    let names = |server: &str, options: &[&str]| {
        let archives = scene.archives(server, options).into_iter();
        archives.map(|(name, _)| name).collect::<Vec<_>>()
    };
    assert_eq!(names("one", &[]), ["data.tar"]);
    let several = names("two", &["--parallel-archives", "2"]);
    assert_eq!(several, ["data.tar", "data_0001.tar", "data_0002.tar"]);
    let backup = fs::read_dir(workspace.path("bucket/two/base")).unwrap();
    let backup = backup.last().unwrap().unwrap().path();
    let list = Command::new("tar")
        .args(["--list", "--file"])
        .arg(backup.join("data_0002.tar"))
        .output()
        .expect("tar can be started");
    let list = String::from_utf8(list.stdout).unwrap();
    let end = ["global/pg_control", "backup_manifest", "backup_label"];
    assert_eq!(list.lines().collect::<Vec<_>>(), end);
}

/// The calls by which a program waits for a disk.
const SYNCS: &str = "trace=fsync,fdatasync,syncfs,sync";

#[test]
fn a_restore_waits_for_the_disk_unless_told_otherwise() {
    let Some(bin) = PgBin::find() else { return };
    if Command::new("strace").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "strace is missing");
        eprintln!("skipped: strace is missing");
        return;
    }
    let workspace = Workspace::new();
    let scene = Scene::new(&bin, &workspace);
    scene.archives("main", &["--name", "taken"]);
    let syncs = |to: &str, options: &[&str]| {
        let calls = workspace.path(format!("{to}.calls"));
        let run = Command::new("strace")
            .args(["-f", "-qq", "-e", "signal=none", "-e", SYNCS, "-o"])
            .arg(&calls)
            .arg(workspace.bin("barman-cloud-restore"))
            .args(options)
            .args([&scene.url, "main", "taken"])
            .arg(workspace.path(to))
            .output()
            .expect("strace can be started");
        let said = String::from_utf8_lossy(&run.stderr);
        assert!(run.status.success(), "{said}");
        fs::read_to_string(calls).unwrap()
    };
    let synced = syncs("synced", &[]);
    assert!(
        synced.contains("syncfs(") && synced.contains("fsync("),
        "{synced}"
    );
    let quick = syncs("quick", &["--no-sync"]);
    assert_eq!(quick, "");
}
