//! Mistakes about backups: which one is meant, what may be deleted, where one is restored to.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use e2e::{Run, SmallDisk, Workspace};

use super::Table;

pub(super) const SECTION: &str = "Backups and restores";

const ID: &str = "20261121T120000";

/// A server `main` whose backup is called `before-upgrade`, and one that failed.
fn catalogue(workspace: &Workspace) -> String {
    workspace.dir("bucket/main/base");
    let golden = e2e::golden().join("tiny/none/base").join(ID);
    for (id, status) in [(ID, "DONE"), ("20261122T120000", "FAILED")] {
        let folder = format!("bucket/main/base/{id}");
        workspace.dir(&folder);
        for file in fs::read_dir(&golden).unwrap() {
            let file = file.unwrap();
            let mut content = fs::read(file.path()).unwrap();
            if file.file_name() == "backup.info" {
                let text = String::from_utf8(content).unwrap();
                let text = text.replace("status=DONE", &format!("status={status}"));
                content = if status == "DONE" {
                    text + "backup_name=before-upgrade\n"
                } else {
                    text
                }
                .into_bytes();
            }
            let name = file.file_name().into_string().unwrap();
            workspace.file(format!("{folder}/{name}"), content);
        }
    }
    workspace.url("bucket")
}

/// The mistake, the tool and its arguments: `$U` is the URL, `$F` a directory with a file
/// in it, `$O` a path where nothing is, `$R` a directory where nothing may be made.
const LINES: [(&str, &str, &str); 17] = [
    (
        "an id that is misspelt",
        "backup-show",
        "$U main 20261121T120001",
    ),
    (
        "a name that is misspelt",
        "backup-show",
        "$U main before-upgarde",
    ),
    ("a backup that never was", "backup-show", "$U main nightly"),
    ("a server that is misspelt", "backup-show", "$U mian latest"),
    (
        "a server that has no backup",
        "restore",
        "$U reports latest $O",
    ),
    (
        "an id of nothing, restored",
        "restore",
        "$U main 20261122T120001 $O",
    ),
    (
        "an id of nothing, verified",
        "verify",
        "$U main 20251121T120000",
    ),
    (
        "an id of nothing, kept",
        "backup-keep",
        "--target full $U main 20260101T000000",
    ),
    (
        "a name of nothing, deleted",
        "backup-delete",
        "-b before $U main",
    ),
    (
        "a target before the end of the first backup",
        "restore",
        "--target-time 2020-01-01T00:00:00Z $U main auto $O",
    ),
    (
        "a backup that failed",
        "restore",
        "$U main 20261122T120000 $O",
    ),
    (
        "a directory that is not empty",
        "restore",
        "--tablespace fast:$O.fast $U main before-upgrade $F",
    ),
    (
        "a tablespace's directory that is not empty",
        "restore",
        "--tablespace fast:$F $U main before-upgrade $O",
    ),
    (
        "a tablespace in the data directory's place",
        "restore",
        "--tablespace fast:$O $U main before-upgrade $O",
    ),
    (
        "`--delta` over something else than a data directory",
        "restore",
        "--delta --tablespace fast:$O.fast $U main before-upgrade $F",
    ),
    (
        "`--resume` where nothing was begun",
        "restore",
        "--resume --tablespace fast:$O.fast $U main before-upgrade $F",
    ),
    (
        "a place where the user may not write",
        "restore",
        "--tablespace fast:$O.fast $U main before-upgrade $R/pg",
    ),
];

#[test]
fn mistakes_about_backups() {
    let workspace = Workspace::new();
    let url = catalogue(&workspace);
    workspace.dir("full");
    workspace.file("full/precious", "precious");
    let closed = workspace.dir("closed");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o555)).unwrap();
    let path = |name: &str| workspace.path(name).display().to_string();
    let mut table = Table::new(&workspace, SECTION);
    let make = |tool: &str, line: &str| -> Run {
        let words = line.split(' ').map(|word| {
            word.replace("$U", &url)
                .replace("$F", &path("full"))
                .replace("$O", &path("out"))
                .replace("$R", &path("closed"))
        });
        workspace
            .tool(&format!("barman-cloud-{tool}"))
            .args(words)
            .run()
    };
    for (mistake, tool, line) in LINES {
        table.row(mistake, tool, &make(tool, line));
    }
    if let Some(disk) = SmallDisk::mount(&workspace, "small", 1) {
        let ballast = vec![1; usize::try_from(disk.free()).unwrap() - (64 << 10)];
        workspace.file("small/ballast", ballast);
        let line = "--tablespace fast:$O.fast $U main before-upgrade $O";
        let line = line.replace(" $O", &format!(" {}", disk.path().join("pg").display()));
        table.row(
            "a disk that is too small",
            "restore",
            &make("restore", &line),
        );
    }
    let kept = make("backup-keep", &format!("--target full $U main {ID}"));
    assert_eq!(kept.code(), Some(0), "{kept}");
    let run = make("backup-delete", &format!("-b {ID} $U main"));
    table.row("a backup that is kept, deleted", "backup-delete", &run);
    let released = make("backup-keep", &format!("--release $U main {ID}"));
    assert_eq!(released.code(), Some(0), "{released}");
    let run = make("backup-delete", &format!("-m 2 -b {ID} $U main"));
    table.row("the last backup, deleted", "backup-delete", &run);
    table.check();
}
