//! `barman-cloud-verify`: whole backups are good, whoever made them, and nothing is written.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use e2e::{
    Barman, Cluster, Objects, PgBin, Place, Proof, Recovery, S3Server, ShutDown, Tree, Workspace,
};
use serde_json::json;

/// A running cluster with a tablespace that archives into a place.
fn primary(bin: &PgBin, at: &Objects<'_>) -> Cluster {
    let mut primary = at.place().primary(bin, "");
    primary.start();
    primary.make_tablespace(at.workspace(), "fast", "fast place");
    let session = primary.session();
    session.run("CREATE TABLE t AS SELECT generate_series(1, 20000) AS i");
    session.run("CREATE TABLE f TABLESPACE fast AS SELECT generate_series(1, 20000) AS i");
    primary
}

/// A good backup whose files were compared with its manifest, and its WAL.
#[track_caller]
fn assert_proved(proof: &Proof, archives: u64) {
    assert!(proof.is_good(), "{}", proof.run);
    assert!(proof.run.stderr.is_empty(), "{}", proof.run);
    assert_eq!(proof.report["notes"], json!([]), "{}", proof.run);
    assert!(proof.number("archives") >= archives, "{}", proof.run);
    assert!(proof.number("manifest_files") > 800, "{}", proof.run);
    // The manifest does not list itself.
    let listed = proof.number("manifest_files");
    assert_eq!(proof.number("files"), listed + 1, "{}", proof.run);
    assert!(proof.number("wal_segments") > 0, "{}", proof.run);
}

fn every_kind_of_backup(at: &Objects<'_>, bin: &PgBin, kinds: &[&[&str]]) {
    let primary = primary(bin, at);
    for options in kinds {
        let id = at.back_up(&primary, options);
        let split = options.contains(&"--max-archive-size=2MB");
        let archives = if split { 3 } else { 2 };
        assert_proved(&at.place().prove(&id, &[]), archives);
        assert_proved(&at.place().prove("latest", &["--jobs=1"]), archives);
    }
    primary
        .session()
        .run("INSERT INTO t SELECT generate_series(1, 50000)");
    primary.archive_everything();
    let before = at.place().prove("latest", &[]);
    let proof = at.place().prove("latest", &["--wal", "--jobs=4"]);
    assert_proved(&proof, 2);
    assert!(
        proof.number("wal_segments") > before.number("wal_segments"),
        "{}",
        proof.run
    );
}

#[test]
fn whole_backups_in_a_directory_are_good() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let at = Objects::in_directory(&workspace);
    every_kind_of_backup(
        &at,
        &bin,
        &[
            &[],
            &["--gzip", "--max-archive-size=2MB"],
            &["--lz4", "--manifest-checksums=sha256"],
            &[
                "--zstd",
                "--max-archive-size=2MB",
                "--manifest-checksums=sha256",
            ],
        ],
    );
}

#[test]
fn whole_backups_in_a_bucket_are_good() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let at = Objects::in_bucket(&workspace, &bucket, "p");
    every_kind_of_backup(
        &at,
        &bin,
        &[&["--max-archive-size=2MB"], &["--bzip2"], &["--snappy"]],
    );
}

/// Where nobody may write, nothing is missed; and nothing else is there afterwards.
#[test]
fn nothing_is_written_anywhere() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let at = Objects::in_directory(&workspace);
    let mut cluster = primary(&bin, &at);
    let id = at.back_up(&cluster, &["--manifest-checksums=sha256"]);
    cluster.stop(ShutDown::Fast);
    let closed = workspace.dir("closed");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o555)).unwrap();
    let before = Tree::of(workspace.root());
    let run = at
        .place()
        .tool("barman-cloud-verify")
        .in_dir(&closed)
        .env("HOME", &closed)
        .env("TMPDIR", &closed)
        .args(["--format=json", "--wal", at.place().url(), "main", &id])
        .run();
    assert_proved(&Proof::of(run), 2);
    before.assert_same(&Tree::of(workspace.root()), "something was written");
}

#[test]
fn backups_of_barman_are_good_without_a_manifest() {
    let (Some(bin), Some(barman)) = (PgBin::find(), Barman::find()) else {
        return;
    };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let at = Objects::in_bucket(&workspace, &bucket, "p");
    let cluster = primary(&bin, &at);
    for options in [&[][..], &["--gzip", "--max-archive-size=5MB"]] {
        let run = barman
            .tool(&workspace, "barman-cloud-backup")
            .envs(at.place().environment().to_vec())
            .args(cluster.connection())
            .args(options)
            .args(["--immediate-checkpoint", at.place().url(), "main"])
            .run();
        assert_eq!(run.code(), Some(0), "{run}");
        cluster.archive_everything();
        let proof = at.place().prove("latest", &["--wal"]);
        assert!(proof.is_good(), "{}", proof.run);
        assert_eq!(proof.report["manifest_files"], json!(null));
        let notes = proof.report["notes"].to_string();
        assert!(notes.contains("no manifest"), "{}", proof.run);
        assert!(proof.number("files") > 800 && proof.number("wal_segments") > 0);
    }
}

/// After a promotion the WAL goes on along another timeline.
#[test]
fn the_wal_of_a_promoted_server_is_followed() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let at = Objects::in_directory(&workspace);
    let mut cluster = at.place().primary(&bin, "");
    cluster.start();
    let id = at.back_up(&cluster, &["--gzip"]);
    cluster
        .session()
        .run("CREATE TABLE t AS SELECT generate_series(1, 50000) AS i");
    cluster.archive_everything();
    cluster.stop(ShutDown::Fast);
    let mut promoted = at.place().restored(&bin, "promoted", &Recovery::Latest);
    let tool = workspace.bin("barman-cloud-wal-archive");
    promoted.configure("archive_mode", "on");
    let archive = format!("{} {} main %p", tool.display(), at.place().url());
    promoted.configure("archive_command", &archive);
    let settings = promoted.pgdata().join("postgresql.auto.conf");
    let text = fs::read_to_string(&settings).unwrap();
    fs::write(&settings, text.replace("archive_mode = 'off'", "")).unwrap();
    promoted.start_and_recover();
    promoted
        .session()
        .run("INSERT INTO t SELECT generate_series(1, 50000)");
    promoted.archive_everything();
    let proof = at.place().prove(&id, &["--wal"]);
    assert!(proof.is_good(), "{}", proof.run);
    let last = proof.report["wal_last"].as_str().unwrap();
    assert!(last.starts_with("00000002"), "{}", proof.run);
    let history = at.keys("main/wals/00000002.history").remove(0);
    at.remove(&history);
    let proof = at.place().prove(&id, &["--wal"]);
    let found = proof.findings();
    assert_eq!(found.len(), 1, "{}", proof.run);
    assert_eq!(found[0].0, "history", "{}", proof.run);
}

/// What people see, and what is wrong with the words.
#[test]
fn findings_are_lines_with_what_where_and_what_to_do() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let at = Objects::in_directory(&workspace);
    let cluster = primary(&bin, &at);
    let id = at.back_up(&cluster, &["--gzip"]);
    let tool = || {
        let tool = at.place().tool("barman-cloud-verify");
        tool.args([at.place().url(), "main", &id])
    };
    let run = tool().run();
    let first = format!("Backup {id} of server main is good\n");
    assert!(run.stdout.starts_with(&first), "{run}");
    assert!(run.code() == Some(0) && run.stderr.is_empty(), "{run}");
    let key = format!("main/base/{id}/data.tar.gz");
    let whole = at.read(&key);
    at.write(&key, &whole[..whole.len() / 2]);
    let run = tool().run();
    assert_eq!(run.code(), Some(1), "{run}");
    let lines: Vec<&str> = run.stdout.lines().collect();
    assert_eq!(
        lines[0],
        format!("Backup {id} of server main is damaged: 1 finding")
    );
    let line = format!("archive: {key}: it cannot be read: ");
    assert!(
        lines[1].starts_with(&line) && lines[1].contains("use another backup"),
        "{run}"
    );
    assert_eq!(run.errors(), [format!("backup {id} is damaged: 1 finding")]);
    at.remove(&key);
    let proof = at.place().prove(&id, &[]);
    assert_eq!(proof.findings().len(), 1, "{}", proof.run);
    assert_eq!(proof.findings()[0].0, "part");
    let run = tool().arg("another").run();
    assert_eq!(run.code(), Some(3), "{run}");
    let place = Place::in_directory_at(&workspace, "elsewhere");
    let run = place
        .tool("barman-cloud-verify")
        .args([place.url(), "main", &id])
        .run();
    let text = format!("Backup {id} for server main does not exist");
    assert_eq!((run.code(), run.errors()), (Some(1), vec![text]));
    assert!(run.stdout.is_empty());
}
