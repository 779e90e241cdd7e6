//! Bad input: one clear line, the right exit code, and nothing is touched.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use e2e::{Cluster, FakeServer, PgBin, Run, Tree, Workspace};

/// The tool, its arguments with `$U` for the URL of an empty bucket, the exit
/// code, and what its one line says.
const WITHOUT_SERVER: &[(&str, &str, i32, &str)] = &[
    (
        "wal-archive",
        "http://golden/walcomp main $SEG",
        4,
        "Invalid s3 URL address: http://golden/walcomp",
    ),
    (
        "wal-archive",
        "file://relative/path main $SEG",
        4,
        "Invalid file URL address",
    ),
    ("wal-archive", "$U/missing main $SEG", 4, "does not exist"),
    (
        "wal-archive",
        "$U main foo.txt",
        3,
        "foo.txt is an invalid name for a WAL file",
    ),
    (
        "wal-archive",
        "$U main",
        3,
        "the path of a WAL file is missing",
    ),
    (
        "wal-archive",
        "$U main $NOSEG",
        4,
        "No such file or directory",
    ),
    ("wal-archive", "$U /main $SEG", 3, "begins with a slash"),
    (
        "wal-archive",
        "-t $U/missing main $SEG",
        1,
        "does not exist",
    ),
    (
        "wal-archive",
        "--tags a,1 -- $U main $SEG",
        4,
        "cannot keep tags",
    ),
    (
        "wal-archive",
        "--sse-kms-key-id k s3://b main $SEG",
        4,
        "Encryption type must be \"aws:kms\"",
    ),
    (
        "wal-archive",
        "--sse-customer-key secret s3://b main $SEG",
        4,
        "SSE-C customer key must be provided as a file:// URI",
    ),
    (
        "wal-restore",
        "$U main foo $OUT",
        3,
        "foo is an invalid name for a WAL file",
    ),
    (
        "wal-restore",
        "$U main 0000000100000000000000FE $OUT",
        1,
        "WAL file 0000000100000000000000FE for server main does not exist",
    ),
    (
        "wal-restore",
        "$U/missing main 0000000100000000000000FE $OUT",
        4,
        "does not exist",
    ),
    (
        "restore",
        "$U main 20200101T000000 $OUT",
        1,
        "Backup 20200101T000000 for server main does not exists",
    ),
    (
        "restore",
        "$U main nope $OUT",
        4,
        "Unknown backup 'nope' for server 'main'",
    ),
    (
        "restore",
        "$U main latest $OUT",
        4,
        "Unknown backup 'latest' for server 'main'",
    ),
    (
        "restore",
        "$U main auto $OUT",
        1,
        "Cannot find any candidate backup for recovery.",
    ),
    (
        "restore",
        "--target-time nonsense $U main auto $OUT",
        4,
        "Unable to parse the target time parameter 'nonsense'",
    ),
    (
        "restore",
        "$U/missing main latest $OUT",
        4,
        "does not exist",
    ),
    (
        "restore",
        "gs:// main latest $OUT",
        4,
        "Invalid s3 URL address",
    ),
    (
        "backup",
        "--host /nonexistent $U main",
        1,
        "Cannot connect to postgres: connection to server on socket \"/nonexistent/.s.PGSQL.5432\" failed: No such file or directory",
    ),
    (
        "backup",
        "-h 127.0.0.1 -p 1 $U main",
        1,
        "Cannot connect to postgres: connection to server at \"127.0.0.1\", port 1 failed: Connection refused",
    ),
    (
        "backup",
        "-d nonsense=1 $U main",
        1,
        "invalid connection option \"nonsense\"",
    ),
    (
        "backup",
        "--tag a,1 --tag a,2 $U main",
        4,
        "Duplicate tag keys found: a. Tag keys must be unique.",
    ),
    (
        "backup",
        "--memory-limit 1 --min-chunk-size 1MB $U main",
        3,
        "--memory-limit is too small",
    ),
    (
        "backup",
        "-z --snapshot-instance i $U main",
        4,
        "a snapshot backup cannot be compressed",
    ),
    (
        "backup-delete",
        "-r main $U main",
        3,
        "Could not create retention policy main: Cannot parse option retention_policy: main",
    ),
    (
        "backup-keep",
        "--target full $U main 20200101T000000",
        1,
        "Backup 20200101T000000 for server main does not exist",
    ),
];

fn one_error(run: &Run, code: i32, message: &str) {
    assert_eq!(run.code(), Some(code), "{run}");
    assert!(run.stdout.is_empty(), "{run}");
    let errors = run.errors();
    let lines = run
        .stderr
        .lines()
        .filter(|line| !line.starts_with("HINT: "))
        .count();
    assert!(
        errors.len() == 1 && lines == 1,
        "more or less than one line: {run}"
    );
    assert!(errors[0].contains(message), "{run}");
    assert!(
        !run.stderr.contains("panicked") && !run.stderr.contains("stack backtrace"),
        "{run}"
    );
}

#[test]
fn each_mistake_gets_one_clear_line_and_touches_nothing() {
    let workspace = Workspace::new();
    workspace.dir("bucket");
    let segment = fs::read(e2e::golden().join("wal/000000010000000000000006")).unwrap();
    workspace.file("000000010000000000000006", segment);
    let before = Tree::of(&workspace.path("bucket"));
    for (tool, line, code, message) in WITHOUT_SERVER {
        let args = line.split_whitespace().map(|word| {
            word.replace("$U", &workspace.url("bucket"))
                .replace(
                    "$SEG",
                    &workspace
                        .path("000000010000000000000006")
                        .display()
                        .to_string(),
                )
                .replace(
                    "$NOSEG",
                    &workspace
                        .path("000000010000000000000007")
                        .display()
                        .to_string(),
                )
                .replace("$OUT", &workspace.path("out").display().to_string())
        });
        let spool = format!("{}", workspace.path("spool").display());
        let mut command = workspace.tool(&format!("barman-cloud-{tool}"));
        if *tool == "wal-restore" {
            command = command.args(["--spool-dir", &spool]);
        }
        one_error(&command.args(args).run(), *code, message);
        before.assert_same(&Tree::of(&workspace.path("bucket")), line);
        assert!(!workspace.path("out").exists(), "{line}");
    }
}

#[test]
fn wrong_usage_is_told_as_argparse_tells_it() {
    let workspace = Workspace::new();
    for (tool, line, message) in [
        ("backup", "-z -j u s", "not allowed with argument"),
        (
            "backup",
            "u",
            "the following arguments are required: server_name",
        ),
        (
            "backup",
            "--nonsense u s",
            "unrecognized arguments: --nonsense",
        ),
        ("backup", "-S 10K u s", "argument -S/--max-archive-size: "),
        ("backup", "-n latest u s", "argument -n/--name: "),
        ("backup-delete", "u s", "one of the arguments"),
        ("backup-keep", "u s b", "one of the arguments"),
        (
            "wal-restore",
            "u s",
            "the following arguments are required: wal_name, wal_dest",
        ),
        (
            "restore",
            "--target-tli 0 u s auto d",
            "argument --target-tli: ",
        ),
    ] {
        let run = workspace
            .tool(&format!("barman-cloud-{tool}"))
            .args(line.split(' '))
            .run();
        assert_eq!(run.code(), Some(3), "{run}");
        let last = run.stderr.lines().last().unwrap_or_default();
        assert!(last.contains(message) && run.stdout.is_empty(), "{run}");
    }
}

#[test]
fn a_server_that_cannot_be_backed_up_is_told_before_anything_is_written() {
    let workspace = Workspace::new();
    let bucket = workspace.dir("bucket");
    let url = workspace.url("bucket");
    let old = FakeServer::of_version("9.5.3");
    let port = old.port().to_string();
    let run = workspace
        .tool("barman-cloud-backup")
        .args(["-h", "127.0.0.1", "-p", &port, "-U", "u", &url, "main"])
        .run();
    one_error(
        &run,
        4,
        "unsupported PostgresSQL version 9.5.3. Expecting 9.6.0 or above.",
    );

    let Some(bin) = PgBin::find() else { return };
    let mut cluster = Cluster::create(&bin, &workspace, "primary", &[]);
    cluster.archive_into(&workspace, &url, "main", "");
    cluster.start();
    let backup = || {
        workspace
            .tool("barman-cloud-backup")
            .args(cluster.connection())
            .args([url.as_str(), "main"])
    };
    // The file is needed only at the next checkpoint, and is back by then.
    let control = cluster.pgdata().join("global/pg_control");
    fs::set_permissions(&control, Permissions::from_mode(0o000)).unwrap();
    let run = backup().run();
    fs::set_permissions(&control, Permissions::from_mode(0o600)).unwrap();
    one_error(&run, 1, "Backup is not possible: ");
    assert!(run.stderr.contains("Permission denied"), "{run}");

    let missing = format!("{url}/missing");
    let run = workspace
        .tool("barman-cloud-backup")
        .args(cluster.connection())
        .args([missing.as_str(), "main"])
        .run();
    one_error(&run, 1, "does not exist");
    assert!(!bucket.join("main/base").exists(), "nothing was written");

    // A tablespace whose directory is gone, as if its disk were not mounted.
    let place = cluster.make_tablespace(&workspace, "gone", "gone");
    fs::rename(&place, workspace.path("elsewhere")).unwrap();
    let run = backup().run();
    one_error(&run, 1, "Backup is not possible: ");
    assert!(!bucket.join("main/base").exists(), "nothing was written");
    fs::rename(workspace.path("elsewhere"), &place).unwrap();
}

#[test]
fn a_destination_that_is_not_empty_is_left_alone() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    workspace.dir("bucket");
    let url = workspace.url("bucket");
    let mut cluster = Cluster::create(&bin, &workspace, "primary", &[]);
    cluster.archive_into(&workspace, &url, "main", "");
    cluster.start();
    cluster.make_tablespace(&workspace, "fast", "fast");
    workspace
        .tool("barman-cloud-backup")
        .args(cluster.connection())
        .args(["--immediate-checkpoint", "-n", "one", &url, "main"])
        .succeed();
    let restore = |rules: &[&str], target: &str| {
        let target = workspace.path(target);
        workspace
            .tool("barman-cloud-restore")
            .args(rules)
            .args([url.as_str(), "main", "one"])
            .arg(target)
            .run()
    };
    // The tablespace's original location is in use.
    one_error(
        &restore(&[], "out"),
        1,
        "fast already exists and it is not empty",
    );
    assert!(!workspace.path("out").exists());

    workspace.dir("full");
    workspace.file("full/precious", "precious");
    let rule = format!("--tablespace=fast:{}", workspace.path("new").display());
    one_error(
        &restore(&[&rule], "full"),
        1,
        "full already exists and it is not empty",
    );
    assert_eq!(
        fs::read_to_string(workspace.path("full/precious")).unwrap(),
        "precious"
    );
    assert!(!workspace.path("new").exists());

    one_error(
        &restore(&["--tablespace=fast"], "out"),
        3,
        "Invalid tablespace relocation rule 'fast'",
    );
    let same = format!("--tablespace=fast:{}", workspace.path("out").display());
    one_error(
        &restore(&[&same], "out"),
        3,
        "two parts of the backup would be restored",
    );
    assert!(!workspace.path("out").exists());
}
