//! Mistakes in `archive_command`, `restore_command`, hook scripts and options.

use std::fs;
use std::path::PathBuf;

use e2e::{Run, Workspace};

use super::Table;

pub(super) const SECTION: &str = "Commands and options";

const SEGMENT: &str = "000000010000000000000006";

/// A WAL file.
pub(super) fn segment(workspace: &Workspace) -> PathBuf {
    let segment = fs::read(e2e::golden().join("wal").join(SEGMENT)).unwrap();
    workspace.file(SEGMENT, segment)
}

/// The mistake, the tool and its arguments: `$U` is the URL of an empty bucket, `$S` a
/// segment.
const LINES: [(&str, &str, &str); 15] = [
    ("`archive_command` without `%p`", "wal-archive", "$U main"),
    (
        "`%f` in `archive_command`",
        "wal-archive",
        "$U main 000000010000000000000007",
    ),
    (
        "another file than WAL",
        "wal-archive",
        "$U main postgresql.conf",
    ),
    (
        "`%p` before `%f` in `restore_command`",
        "wal-restore",
        "$U main pg_wal/RECOVERYXLOG 000000010000000000000007",
    ),
    (
        "tags in a directory",
        "wal-archive",
        "--tags a,1 -- $U main $S",
    ),
    (
        "a key of KMS without its encryption",
        "wal-archive",
        "--sse-kms-key-id k s3://b main $S",
    ),
    (
        "WAL of another cluster than `--require-system-id` says",
        "wal-archive",
        "--require-system-id 1 $U main $S",
    ),
    (
        "a policy that is none",
        "backup-delete",
        "--retention-policy 7days $U main",
    ),
    (
        "too little memory for the parts",
        "backup",
        "-h 127.0.0.1 --memory-limit 1 --min-chunk-size 1MB $U main",
    ),
    (
        "parts that the store does not take",
        "backup",
        "-h 127.0.0.1 --min-chunk-size 1TB $U main",
    ),
    (
        "a snapshot backup with compression",
        "backup",
        "--gzip --snapshot-instance i --snapshot-disk d $U main",
    ),
    (
        "a level without compression",
        "backup",
        "--compression-level 9 $U main",
    ),
    (
        "several archives for a snapshot backup",
        "backup",
        "--parallel-archives 2 --snapshot-instance i --snapshot-disk d $U main",
    ),
    (
        "a key on the command line",
        "backup-list",
        "--sse-customer-key c2VjcmV0 s3://b main",
    ),
    (
        "a rule for a tablespace without its name",
        "restore",
        "--tablespace /new/place $U main latest DIR",
    ),
];

/// A hook script of a Barman server: the mistake, the tool, its options, and the
/// environment.
type Hook = (
    &'static str,
    &'static str,
    &'static [&'static str],
    &'static [(&'static str, &'static str)],
);

const HOOKS: [Hook; 6] = [
    (
        "`wal-archive` as the wrong hook script",
        "wal-archive",
        &[],
        &[("BARMAN_HOOK", "archive_script"), ("BARMAN_PHASE", "post")],
    ),
    (
        "a Barman server that compresses before the hook script",
        "wal-archive",
        &[],
        &[
            ("BARMAN_HOOK", "archive_retry_script"),
            ("BARMAN_PHASE", "pre"),
            ("BARMAN_FILE", "/b/000000010000000000000007"),
            ("BARMAN_COMPRESSION", "gzip"),
        ],
    ),
    (
        "`--queue-max` in a hook script",
        "wal-archive",
        &["--queue-max", "1GB"],
        &[
            ("BARMAN_HOOK", "archive_retry_script"),
            ("BARMAN_PHASE", "pre"),
            ("BARMAN_FILE", "/b/000000010000000000000007"),
        ],
    ),
    (
        "`backup` as the wrong hook script",
        "backup",
        &[],
        &[("BARMAN_HOOK", "backup_script"), ("BARMAN_PHASE", "pre")],
    ),
    (
        "a name for a backup that has one",
        "backup",
        &["--name", "mine"],
        &[
            ("BARMAN_HOOK", "backup_script"),
            ("BARMAN_PHASE", "post"),
            ("BARMAN_BACKUP_DIR", "/b/main/base/20261121T120000"),
            ("BARMAN_BACKUP_ID", "20261121T120000"),
            ("BARMAN_STATUS", "DONE"),
        ],
    ),
    (
        "a hook script before the WAL of the backup is there",
        "backup",
        &[],
        &[
            ("BARMAN_HOOK", "backup_script"),
            ("BARMAN_PHASE", "post"),
            ("BARMAN_BACKUP_DIR", "/b/main/base/20261121T120000"),
            ("BARMAN_BACKUP_ID", "20261121T120000"),
            ("BARMAN_STATUS", "WAITING_FOR_WALS"),
        ],
    ),
];

#[test]
fn mistakes_in_commands_and_options() {
    let workspace = Workspace::new();
    workspace.dir("bucket");
    let url = workspace.url("bucket");
    let segment = segment(&workspace).display().to_string();
    let mut table = Table::new(&workspace, SECTION);
    for (mistake, tool, line) in LINES {
        let words = line.split(' ');
        let words = words.map(|word| word.replace("$U", &url).replace("$S", &segment));
        let run = workspace
            .tool(&format!("barman-cloud-{tool}"))
            .args(words)
            .run();
        table.row(mistake, tool, &run);
    }
    for (mistake, tool, options, variables) in HOOKS {
        let run = workspace
            .tool(&format!("barman-cloud-{tool}"))
            .envs(variables.iter().copied())
            .args(options)
            .args([&url, "main"])
            .run();
        table.row(mistake, tool, &run);
    }
    // Two clusters that archive under one name.
    let archive = |dir: &str| -> Run {
        workspace.dir(dir);
        let text = format!("1\t0/3000000\tno recovery target specified ({dir})\n");
        let file = workspace.file(format!("{dir}/00000002.history"), text);
        let tool = workspace.tool("barman-cloud-wal-archive");
        tool.args([&url, "main"]).arg(file).run()
    };
    assert_eq!(archive("one").code(), Some(0));
    table.row(
        "two clusters under one name",
        "wal-archive",
        &archive("other"),
    );
    let run = workspace
        .tool("barman-cloud-check-wal-archive")
        .args([&url, "main"])
        .run();
    table.row(
        "a new cluster under the name of an old one",
        "check-wal-archive",
        &run,
    );
    table.check();
}
