//! PostgreSQL's own tools judge what was backed up and restored: `pg_verifybackup` the
//! files, `pg_waldump` the WAL of the backup, `pg_amcheck` tables and indexes after the
//! recovery, `pg_checksums` every page.

use std::fs;
use std::path::Path;

use e2e::{Cluster, PgBin, Place, Recovery, ShutDown, Workspace, WriteLoad};

/// Puts the WAL from segment `begin` to segment `end` into `pg_wal`.
fn fetch_wal(place: &Place<'_>, workspace: &Workspace, [begin, end]: [&str; 2], pg_wal: &Path) {
    let directory = workspace.path("bucket/main/wals").join(&begin[..16]);
    let mut count = 0;
    for entry in fs::read_dir(directory).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let name = name.strip_suffix(".gz").unwrap();
        if name.len() == 24 && (begin..=end).contains(&name) {
            place
                .tool("barman-cloud-wal-restore")
                .args([place.url(), "main", name])
                .arg(pg_wal.join(name))
                .succeed();
            count += 1;
        }
    }
    assert!(count > 0, "{begin} to {end}");
}

fn all_are_content(bin: &PgBin) {
    let workspace = Workspace::new();
    let place = Place::in_directory(&workspace);
    let mut primary = place.primary(bin, "--gzip");
    primary.start();
    primary.make_tablespace(&workspace, "fast", "fast place");
    let load = WriteLoad::start(&primary, &[("t", None), ("f", Some("fast"))]);
    let session = primary.session();
    for table in ["t", "f"] {
        session.run(&format!("CREATE INDEX ON {table} (id)"));
        session.run(&format!("CREATE INDEX ON {table} (body)"));
    }
    load.wait_for_commits(100);
    place.backup(&primary, "postgres").arg("--gzip").succeed();
    load.wait_for_commits(100);
    load.stop();
    let digest = session.digest();
    primary.archive_everything();
    drop(session);
    primary.stop(ShutDown::Immediate);

    let show = place.tool("barman-cloud-backup-show");
    let run = show
        .args(["--format=json", place.url(), "main", "latest"])
        .run();
    let json: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    let text = |key: &str| json["cloud"][key].as_str().unwrap().to_owned();
    let target = workspace.path("restored");
    let moved = workspace.path("restored fast");
    place
        .tool("barman-cloud-restore")
        .arg(format!("--tablespace=fast:{}", moved.display()))
        .args([place.url(), "main", "latest"])
        .arg(&target)
        .succeed();
    let manifest = fs::read_to_string(target.join("backup_manifest")).unwrap();
    let version = if bin.major() < 17 { 1 } else { 2 };
    let first = format!("{{ \"PostgreSQL-Backup-Manifest-Version\": {version},\n");
    assert!(manifest.starts_with(&first), "{manifest}");

    let pg_wal = target.join("pg_wal");
    let segments = [text("begin_wal"), text("end_wal")];
    let [begin, end] = segments.each_ref().map(String::as_str);
    fetch_wal(&place, &workspace, [begin, end], &pg_wal);
    let pgdata = target.display().to_string();
    bin.judge(&workspace, "pg_verifybackup", &[&pgdata]);
    let records = bin.judge(
        &workspace,
        "pg_waldump",
        &[
            &format!("--path={}", pg_wal.display()),
            &format!("--start={}", text("begin_xlog")),
            &format!("--end={}", text("end_xlog")),
        ],
    );
    assert!(records.contains("BACKUP_END"), "{records}");

    let mut restored = Cluster::existing(bin, &workspace, "restored");
    restored.recover(&workspace, place.url(), "main", &Recovery::Latest);
    restored.start_and_recover();
    assert_eq!(restored.session().digest(), digest);
    let host = format!("--host={}", restored.socket_dir().display());
    let looked_at = bin.judge(
        &workspace,
        "pg_amcheck",
        &[
            &host,
            "--username=postgres",
            "--all",
            "--install-missing",
            "--heapallindexed",
            "--rootdescend",
        ],
    );
    assert_eq!(looked_at, "", "it tells what it finds");
    restored.stop(ShutDown::Fast);
    restored.check_pages();
}

#[test]
fn the_judges_of_debians_version_are_content() {
    let Some(bin) = PgBin::find() else { return };
    all_are_content(&bin);
}

/// The first with the second version of the manifest.
#[test]
fn the_judges_of_version_17_are_content() {
    let Some(bin) = PgBin::whole_17() else { return };
    all_are_content(&bin);
}
