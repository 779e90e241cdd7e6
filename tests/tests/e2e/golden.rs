//! What the reference wrote is restored.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use e2e::{Workspace, golden, sha256_of_file};

fn copy_tree(workspace: &Workspace, from: &Path, to: &str) {
    workspace.dir(to);
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let name = format!("{to}/{}", path.file_name().unwrap().to_str().unwrap());
        if path.is_dir() {
            copy_tree(workspace, &path, &name);
        } else {
            workspace.file(&name, fs::read(&path).unwrap());
        }
    }
}

/// What a line of the recorded restore says, checked.
fn check(line: &str, root: &Path) {
    if let Some((hash, name)) = line.split_once("  ") {
        assert_eq!(sha256_of_file(&root.join(name)), hash, "{name}");
    } else if let Some((name, target)) = line.split_once(" -> ") {
        assert_eq!(
            fs::read_link(root.join(name)).unwrap(),
            Path::new(target),
            "{name}"
        );
    } else if let Some((mode, name)) = line.split_once(' ') {
        let meta = fs::metadata(root.join(name)).unwrap();
        assert!(meta.is_dir(), "{name}");
        assert_eq!(
            format!("{:o}", meta.permissions().mode() & 0o7777),
            mode,
            "{name}"
        );
    }
}

#[test]
fn all_small_backups_of_the_reference_come_back_as_it_restored_them() {
    let expected = fs::read_to_string(golden().join("tiny/EXPECTED-RESTORE.txt")).unwrap();
    let (pgdata, tablespace) = expected.split_once("# tablespace 16384\n").unwrap();
    for variant in [
        "none",
        "gzip",
        "bzip2",
        "snappy",
        "lz4",
        "parts",
        "parts-snappy",
    ] {
        let workspace = Workspace::new();
        copy_tree(
            &workspace,
            &golden().join("tiny").join(variant),
            &format!("bucket/{variant}"),
        );
        let moved = format!("--tablespace=fast:{}", workspace.path("fast").display());
        let run = workspace
            .tool("barman-cloud-restore")
            .args([&moved, &workspace.url("bucket"), variant, "20261121T120000"])
            .arg(workspace.path("restored"))
            .run();
        assert_eq!(run.code(), Some(0), "{run}");
        // The data directory was made by hand, and its control file is text.
        let warnings = run.messages("WARNING");
        assert!(
            warnings.len() == 1 && warnings[0].contains("pg_control"),
            "{run}"
        );
        let mut files = 0;
        for line in pgdata.lines().filter(|line| !line.starts_with('#')) {
            check(line, &workspace.path("restored"));
            files += usize::from(line.contains("  ./"));
        }
        assert!(files > 10);
        // The mode of the tablespace's own directory is not in the archive:
        // the reference leaves it to the umask, here it is for its owner alone.
        let lines = tablespace.lines().filter(|line| *line != "755 .");
        for line in lines {
            check(line, &workspace.path("fast"));
        }
        let link = fs::read_link(workspace.path("restored/pg_tblspc/16384")).unwrap();
        assert_eq!(link, workspace.path("fast"), "{variant}");
        assert!(!workspace.path("restored/postmaster.pid").exists());
    }
}

#[test]
fn wal_of_the_reference_is_fetched_under_every_suffix() {
    let segment = ("000000010000000000000006", "wals/0000000100000000");
    for (name, directory) in [segment, ("00000002.history", "wals")] {
        for suffix in ["", ".gz", ".bz2", ".xz", ".snappy", ".zst", ".lz4"] {
            let workspace = Workspace::new();
            let sample = fs::read(golden().join("wal").join(format!("{name}{suffix}"))).unwrap();
            workspace.dir(format!("bucket/main/{directory}"));
            workspace.file(format!("bucket/main/{directory}/{name}{suffix}"), sample);
            let fetch = || {
                let spool = format!("--spool-dir={}", workspace.path("spool").display());
                workspace
                    .tool("barman-cloud-wal-restore")
                    .args([&spool, &workspace.url("bucket"), "main", name])
                    .arg(workspace.path("fetched"))
            };
            fetch().succeed();
            let plain = sha256_of_file(&golden().join("wal").join(name));
            assert_eq!(
                sha256_of_file(&workspace.path("fetched")),
                plain,
                "{name}{suffix}"
            );
            // The second time the suffix is known; the answer is the same.
            fetch().succeed();
            assert_eq!(
                sha256_of_file(&workspace.path("fetched")),
                plain,
                "{name}{suffix}"
            );
        }
    }
}
