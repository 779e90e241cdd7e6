//! A data directory with odd contents survives, and files that change while
//! they are read do no harm.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use e2e::{Cluster, PgBin, Recovery, Running, ShutDown, Tree, Workspace, wait_until};

fn odd_contents(workspace: &Workspace, pgdata: &Path) {
    let odd = pgdata.join("odd");
    let write = |name: &[u8], content: &[u8]| {
        fs::write(odd.join(OsStr::from_bytes(name)), content).unwrap();
    };
    fs::create_dir_all(odd.join("deep/er")).unwrap();
    fs::create_dir(odd.join("empty-dir")).unwrap();
    write(&[b'n'; 255], b"a long name");
    write(b"raw\xff\xfe", b"not UTF-8");
    write(b"new\nline", b"a newline");
    write(b" blanks and 'quotes\" ", b"blanks");
    write(b"empty", b"");
    write(b"deep/er/first", b"one file, three names");
    fs::hard_link(odd.join("deep/er/first"), odd.join("deep/second")).unwrap();
    fs::hard_link(odd.join("deep/er/first"), odd.join("third")).unwrap();
    symlink("empty", odd.join("link-to-file")).unwrap();
    symlink("/nonexistent/x", odd.join("link-to-nothing")).unwrap();
    let sparse = fs::File::create(odd.join("sparse")).unwrap();
    sparse.set_len(20 << 20).unwrap();
    write(b"script", b"#!/bin/sh\n");
    fs::set_permissions(odd.join("script"), fs::Permissions::from_mode(0o751)).unwrap();
    fs::set_permissions(odd.join("empty"), fs::Permissions::from_mode(0o400)).unwrap();
    for name in ["recovery.signal", "backup_label.old"] {
        fs::write(pgdata.join("odd").join(name), "a file of the user").unwrap();
    }
    workspace.owner().take_all(pgdata);
}

#[test]
fn odd_contents_come_back_as_they_were() {
    let Some(bin) = PgBin::find() else { return };
    for codec in ["--lz4", "--zstd"] {
        let workspace = Workspace::new();
        workspace.dir("bucket");
        let url = workspace.url("bucket");
        let mut cluster = Cluster::create(&bin, &workspace, "primary", &[]);
        // pg_wal on another disk.
        fs::rename(cluster.pgdata().join("pg_wal"), workspace.path("wal-disk")).unwrap();
        symlink(workspace.path("wal-disk"), cluster.pgdata().join("pg_wal")).unwrap();
        odd_contents(&workspace, cluster.pgdata());
        cluster.archive_into(&workspace, &url, "main", "");
        cluster.start();
        cluster.make_tablespace(&workspace, "inside", "primary/inside");
        let session = cluster.session();
        session.run("CREATE TABLE t TABLESPACE inside AS SELECT generate_series(1, 5000) AS i");
        let digest = session.digest();
        let run = workspace
            .tool("barman-cloud-backup")
            .args(cluster.connection())
            .args(["--immediate-checkpoint", "-S", "500KB", codec, &url, "main"])
            .run();
        assert_eq!(run.code(), Some(0), "{run}");
        drop(session);
        cluster.archive_everything();
        cluster.stop(ShutDown::Immediate);

        let moved = format!("--tablespace=inside:{}", workspace.path("moved").display());
        workspace
            .tool("barman-cloud-restore")
            .args([&moved, &url, "main", "latest"])
            .arg(workspace.path("restored"))
            .succeed();
        let odd = |root: &str| Tree::of(&workspace.path(root).join("odd"));
        odd("primary").assert_same(&odd("restored"), codec);
        assert_eq!(odd("restored").0[Path::new("third")].hard_links.len(), 2);
        assert!(workspace.path("restored/pg_wal").is_dir());
        assert!(!workspace.path("restored/pg_wal").is_symlink());
        let twice = workspace.path("restored/inside");
        assert!(
            !twice.exists(),
            "the tablespace is stored once, in its own archive"
        );
        let mut restored = Cluster::existing(&bin, &workspace, "restored");
        restored.recover(&workspace, &url, "main", &Recovery::Latest);
        restored.start_and_recover();
        assert_eq!(restored.session().digest(), digest);
    }
}

/// Stops the tool in the middle of reading `path`.
fn freeze_inside(tool: &Running, path: &Path, size: u64) {
    wait_until("the tool to read the file", || {
        let inside = |tool: &Running| {
            tool.open_files()
                .iter()
                .any(|(open, at)| open == path && *at > 0 && *at < size / 2)
        };
        if !inside(tool) {
            return None;
        }
        tool.freeze();
        // It may have gone on between the look and the stop.
        if inside(tool) {
            return Some(());
        }
        tool.thaw();
        None
    });
}

#[test]
fn files_that_grow_shrink_and_vanish_while_they_are_read_do_no_harm() {
    const SIZE: u64 = 12 << 20;
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    workspace.dir("bucket");
    let url = workspace.url("bucket");
    let mut cluster = Cluster::create(&bin, &workspace, "primary", &[]);
    let dir = cluster.pgdata().join("zzz");
    fs::create_dir(&dir).unwrap();
    let content: Vec<u8> = (0..SIZE).map(|at| (at % 251) as u8 + 1).collect();
    for name in ["a-grows", "b-shrinks", "c-vanishes", "d-stays"] {
        fs::write(dir.join(name), &content).unwrap();
    }
    workspace.owner().take_all(&dir);
    cluster.archive_into(&workspace, &url, "main", "");
    cluster.start();
    let tool = workspace
        .tool("barman-cloud-backup")
        .args(cluster.connection())
        .args([
            "-v",
            "--immediate-checkpoint",
            "--memory-limit",
            "600KB",
            "--max-bandwidth",
            "8MB",
        ])
        .args([url.as_str(), "main"])
        .start();

    freeze_inside(&tool, &dir.join("a-grows"), SIZE);
    let mut grows = OpenOptions::new()
        .append(true)
        .open(dir.join("a-grows"))
        .unwrap();
    grows.write_all(&vec![0xFF; 100_000]).unwrap();
    fs::remove_file(dir.join("c-vanishes")).unwrap();
    tool.thaw();
    freeze_inside(&tool, &dir.join("b-shrinks"), SIZE);
    OpenOptions::new()
        .write(true)
        .open(dir.join("b-shrinks"))
        .unwrap()
        .set_len(10)
        .unwrap();
    tool.thaw();
    let run = tool.wait();
    assert_eq!(run.code(), Some(0), "{run}");
    let told = "meanwhile 1 vanished, 1 shrank and 1 grew";
    assert!(
        run.messages("INFO").iter().any(|line| line.contains(told)),
        "{run}"
    );

    workspace
        .tool("barman-cloud-restore")
        .args([url.as_str(), "main", "latest"])
        .arg(workspace.path("restored"))
        .succeed();
    let restored = |name: &str| fs::read(workspace.path("restored/zzz").join(name)).unwrap();
    assert!(
        restored("a-grows") == content,
        "cut at the size of its header"
    );
    assert!(restored("d-stays") == content);
    assert!(!workspace.path("restored/zzz/c-vanishes").exists());
    let shrunk = restored("b-shrinks");
    let kept = shrunk.iter().position(|byte| *byte == 0).unwrap();
    assert_eq!(
        shrunk.len() as u64,
        SIZE,
        "filled up to the size of its header"
    );
    assert!(shrunk[..kept] == content[..kept] && shrunk[kept..].iter().all(|byte| *byte == 0));
    let mut started = Cluster::existing(&bin, &workspace, "restored");
    cluster.archive_everything();
    cluster.stop(ShutDown::Fast);
    started.recover(&workspace, &url, "main", &Recovery::Latest);
    started.start_and_recover();
}
