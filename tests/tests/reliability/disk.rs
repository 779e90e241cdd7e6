//! Where the tools need no disk.

use std::fs;

use e2e::{Blow, PgBin, Row, Section, ShutDown, Stages, Tool, Workspace};

use crate::objects::Store;

/// Every tool on S3, with everything read-only but what it was told to write to.
#[test]
fn a_read_only_root_stops_no_tool() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(store) = Store::bucket(&workspace) else {
        return;
    };
    let place = store.place("p");
    let mut primary = place.primary(&bin, "");
    // So that a finished segment stays.
    primary.configure("wal_keep_size", "64MB");
    primary.start();
    primary.archive_everything();
    let targets = workspace.dir("targets");
    let elsewhere = Stages::of_files().outside(&targets);
    // The oldest is finished.
    let segment = fs::read_dir(primary.pgdata().join("pg_wal"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().len() == 24)
        .min()
        .unwrap();
    let name = segment.file_name().unwrap().to_str().unwrap().to_owned();
    let tool = |name: &str, options: &[&str], after: &[&str]| {
        let tool = place.tool(&format!("barman-cloud-{name}"));
        tool.env("TMPDIR", workspace.path("no such folder"))
            .args(options)
            .args([place.url(), "main"])
            .args(after)
    };
    let path = |name: &str| targets.join(name).display().to_string();
    let backup = place
        .backup(&primary, "postgres")
        .env("TMPDIR", workspace.path("no such folder"));
    let work: [(&str, Tool<'_>); 9] = [
        ("backup", backup),
        (
            "wal-archive",
            tool(
                "wal-archive",
                &["--gzip"],
                &[&segment.display().to_string()],
            ),
        ),
        ("backup-list", tool("backup-list", &[], &[])),
        ("backup-show", tool("backup-show", &[], &["latest"])),
        (
            "backup-keep",
            tool("backup-keep", &["--target=full"], &["latest"]),
        ),
        (
            "check-wal-archive",
            tool("check-wal-archive", &["--timeline=9"], &[]),
        ),
        (
            "wal-restore",
            tool("wal-restore", &[], &[&name, &path("segment")]),
        ),
        (
            "restore",
            tool("restore", &[], &["latest", &path("restored")]),
        ),
        (
            "backup-delete",
            tool("backup-delete", &["-r", "REDUNDANCY 1"], &[]),
        ),
    ];
    for (name, tool) in work {
        let ended = elsewhere.run(tool, 1, Blow::ErrorsFrom("EROFS"));
        assert_eq!(ended.run.code(), Some(0), "{ended}");
        assert!(ended.run.stderr.is_empty(), "{ended}");
        let mut row = Row::new(
            Section::Disk,
            format!("`{name}` on S3: read-only root, no usable TMPDIR"),
            "works as usual",
        );
        row.lived_through();
        row.finish();
    }
    assert!(fs::read(targets.join("segment")).unwrap().len() >= 1 << 20);
    assert!(targets.join("restored/global/pg_control").exists());
    primary.stop(ShutDown::Immediate);
}
