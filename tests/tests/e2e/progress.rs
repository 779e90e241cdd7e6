//! `--progress`: what programs read of it, and that nobody else sees anything.

use e2e::{Cluster, PgBin, Workspace};
use serde_json::Value;

/// The objects on standard error; nothing else may be there.
fn objects(stderr: &str) -> Vec<Value> {
    let objects: Vec<Value> = stderr
        .lines()
        .map(|line| serde_json::from_str(line).expect(line))
        .collect();
    assert!(!objects.is_empty(), "no object");
    for (number, object) in objects.iter().enumerate() {
        let last = number + 1 == objects.len();
        let event = if last { "end" } else { "progress" };
        assert_eq!(object["event"], event, "{object}");
    }
    objects
}

fn number(object: &Value, name: &str) -> u64 {
    let number = object[name].as_u64();
    number.unwrap_or_else(|| panic!("no number `{name}` in {object}"))
}

#[test]
fn programs_are_told_how_far_backups_restores_and_checks_are() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    workspace.dir("bucket");
    let url = workspace.url("bucket");
    let mut cluster = Cluster::create(&bin, &workspace, "primary", &[]);
    cluster.archive_into(&workspace, &url, "main", "");
    cluster.start();
    let backup = |options: &[&str]| {
        workspace
            .tool("barman-cloud-backup")
            .args(cluster.connection())
            .args(["--immediate-checkpoint"])
            .args(options)
            .args([&url, "main"])
            .run()
    };
    let run = backup(&["--progress=json", "--gzip"]);
    assert_eq!(run.code(), Some(0), "{run}");
    assert_eq!(run.stdout, "");
    let objects_of_backup = objects(&run.stderr);
    let end = objects_of_backup.last().expect("the end");
    assert_eq!(
        (&end["work"], &end["phase"]),
        (&"backup".into(), &"finishing".into())
    );
    // What the server says of its size is an estimate.
    let done = number(end, "bytes_done");
    assert!(
        done > 1 << 20 && number(end, "bytes_expected") > 1 << 20,
        "{end}"
    );
    assert_eq!(number(end, "bytes_files"), done);
    let stored = number(end, "bytes_store");
    assert!(stored > 0 && stored < done, "{end}");
    for (name, value) in [
        ("archives_done", 1),
        ("archives_open", 0),
        ("parts_in_flight", 0),
    ] {
        assert_eq!(number(end, name), value, "{name} in {end}");
    }

    let target = workspace.path("restored").display().to_string();
    let run = workspace
        .tool("barman-cloud-restore")
        .args(["--progress", "json", &url, "main", "latest", &target])
        .run();
    assert_eq!(run.code(), Some(0), "{run}");
    assert_eq!(run.stdout, "");
    let objects_of_restore = objects(&run.stderr);
    let end = objects_of_restore.last().expect("the end");
    assert_eq!(end["work"], "restore");
    assert_eq!(number(end, "bytes_expected"), stored);
    assert_eq!(number(end, "bytes_done"), stored);
    assert!(number(end, "bytes_files") >= done, "{end}");
    assert_eq!(number(end, "archives_done"), 1);
    assert_eq!(number(end, "archives_open"), 0);

    let run = workspace
        .tool("barman-cloud-verify")
        .args(["--progress", "json", &url, "main", "latest"])
        .run();
    assert_eq!(run.code(), Some(0), "{run}");
    let objects_of_check = objects(&run.stderr);
    let end = objects_of_check.last().expect("the end");
    assert_eq!(
        (&end["work"], &end["phase"]),
        (&"verify".into(), &"finishing".into())
    );
    assert_eq!(number(end, "bytes_expected"), stored);
    // The WAL comes from the store, too.
    assert!(number(end, "bytes_done") > stored, "{end}");
    assert_eq!(number(end, "archives_done"), 1);

    // Standard error is no terminal here.
    for options in [&[][..], &["--progress=auto"], &["--progress=off"]] {
        let run = backup(options);
        assert_eq!(run.code(), Some(0), "{run}");
        assert_eq!((run.stdout, run.stderr), (String::new(), String::new()));
    }
}
