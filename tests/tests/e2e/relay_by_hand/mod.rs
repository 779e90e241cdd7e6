//! The tools as hook scripts, with the environment that a Barman server would give
//! them: every store and codec, every refusal, the least permissions.

mod backup;
mod ends;
mod permissions;

use std::fs;

use e2e::{Azurite, GcsServer, Place, Run, S3Server, Tool, Workspace, golden};

use self::backup::changed;
pub(crate) use self::backup::{Backup, ID};

#[test]
fn every_codec_goes_and_comes_back() {
    let workspace = Workspace::new();
    let Some(backup) = Backup::new(&workspace) else {
        return;
    };
    for codec in ["", "--gzip", "--bzip2", "--snappy", "--lz4", "--zstd"] {
        let place = Place::in_directory_at(&workspace, codec.trim_start_matches('-'));
        let mut options = vec!["--max-archive-size=8MB"];
        options.extend((!codec.is_empty()).then_some(codec));
        backup.goes_and_comes_back(&place, &options);
    }
}

#[test]
fn it_goes_to_s3_and_comes_back() {
    let workspace = Workspace::new();
    let Some(backup) = Backup::new(&workspace) else {
        return;
    };
    for server in [S3Server::CephPlain, S3Server::Moto] {
        let Some(bucket) = server.bucket(&workspace) else {
            return;
        };
        let place = Place::in_bucket(&workspace, &bucket, "p/q");
        // In parts, and in one request.
        for options in [
            &[
                "--min-chunk-size=5MB",
                "--jobs=3",
                "--max-bandwidth=100MB",
                "--memory-limit=200MB",
            ][..],
            &[
                "--gzip",
                "--max-archive-size=1MB",
                "--manifest-checksums=sha256",
            ],
        ] {
            backup.goes_and_comes_back(&place, options);
        }
        assert_eq!(bucket.uploads(), [""; 0], "an upload is open");
    }
}

#[test]
fn tags_and_encryption_are_those_asked_for() {
    let workspace = Workspace::new();
    let Some(backup) = Backup::new(&workspace) else {
        return;
    };
    let Some(bucket) = S3Server::Moto.bucket(&workspace) else {
        return;
    };
    let place = Place::in_bucket(&workspace, &bucket, "p");
    backup.goes_and_comes_back(&place, &[]);
    // Objects without them are none that were asked for.
    backup.goes_and_comes_back(&place, &["-e", "AES256", "--tags", "team,db", "env,a b"]);
    let keys = bucket.keys(&format!("p/main/base/{ID}/"));
    assert_eq!(keys.len(), 3, "{keys:?}");
    for key in keys {
        let tags = bucket.tags(&key);
        assert_eq!(tags.get("env").map(String::as_str), Some("a b"), "{key}");
        let head = bucket.head(&key);
        let encryption = head.get("x-amz-server-side-encryption");
        assert_eq!(encryption.map(String::as_str), Some("AES256"), "{key}");
    }
}

/// Who reads the fingerprint needs the key as well.
#[test]
fn it_is_encrypted_with_a_key_of_ones_own() {
    let workspace = Workspace::new();
    let Some(backup) = Backup::new(&workspace) else {
        return;
    };
    let Some(bucket) = S3Server::CephTls.bucket(&workspace) else {
        return;
    };
    let place = Place::in_bucket(&workspace, &bucket, "p");
    let option = |name: &str, key: &str| {
        let path = workspace.file(name, key);
        format!("--sse-customer-key=file://{}", path.display())
    };
    let first = option("first", "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=");
    let other = option("other", "MTEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=");
    backup.goes_and_comes_back(&place, &[&first]);
    let record = format!("p/main/base/{ID}/backup.info");
    // A record that cannot be read may be another backup's.
    let refused = backup.relay(&place, &[&other]).run();
    assert_eq!(refused.code(), Some(1), "{refused}");
    bucket.remove(&record);
    backup.goes_and_comes_back(&place, &[&other]);
}

#[test]
fn it_goes_to_azure_and_comes_back() {
    let workspace = Workspace::new();
    let Some(backup) = Backup::new(&workspace) else {
        return;
    };
    let Some(container) = Azurite::Plain.container(&workspace) else {
        return;
    };
    let place = Place::in_container(&workspace, &container, "p/q");
    backup.goes_and_comes_back(&place, &["--min-chunk-size=1MB", "--tags", "team,db"]);
    let tags = container.tags(&format!("p/q/main/base/{ID}/data.tar"));
    assert_eq!(tags.get("team").map(String::as_str), Some("db"));
}

#[test]
fn it_goes_to_google_cloud_storage_and_comes_back() {
    let workspace = Workspace::new();
    let Some(backup) = Backup::new(&workspace) else {
        return;
    };
    // Parts side by side, and one after the other.
    for server in [GcsServer::StandIn, GcsServer::Fake] {
        let Some(bucket) = server.bucket() else {
            return;
        };
        let place = Place::in_gcs(&workspace, &bucket, "p/q");
        backup.goes_and_comes_back(&place, &["--min-chunk-size=5MB", "--tags", "team,db"]);
        backup.goes_and_comes_back(&place, &["--snappy", "--max-archive-size=1MB"]);
    }
}

/// What the exit code and the one line of a refusal are.
fn assert_refused(run: &Run, code: i32, part: &str) {
    assert_eq!(run.code(), Some(code), "{run}");
    let errors = run.errors();
    assert_eq!(errors.len(), 1, "{run}");
    assert!(errors[0].contains(part), "{part} is not in {errors:?}");
    assert!(run.stdout.is_empty(), "{run}");
}

/// The lines are those of the tool that ours is compatible with.
#[test]
fn a_backup_is_refused_with_the_code_that_barman_knows() {
    let workspace = Workspace::new();
    let Some(backup) = Backup::new(&workspace) else {
        return;
    };
    let place = Place::in_directory(&workspace);
    let said = |text: &str| format!("Barman cloud backup exception: {text}");
    let with = |changes: &[(&'static str, &str)]| {
        let mut environment = backup.environment();
        for (name, value) in changes {
            environment.retain(|(known, _)| known != name);
            environment.push((name, (*value).to_owned()));
        }
        environment.retain(|(_, value)| !value.is_empty());
        place
            .tool("barman-cloud-backup")
            .envs(environment)
            .args([place.url(), "main"])
    };
    let event = |name: &str| {
        said(&format!(
            "barman-cloud-backup called as unsupported hook script: {name}"
        ))
    };
    let status = |status: &str| {
        let dir = backup.dir.display();
        said(&format!(
            "backup in '{dir}' has status '{status}' (status should be: DONE)"
        ))
    };
    let missing = |name: &str| said(&format!("{name} environment variable not set"));
    let several = with(&[]).args(["--parallel-archives", "2"]).run();
    assert_refused(&several, 3, "--parallel-archives has no meaning in a hook");
    for (changes, code, line) in [
        (
            &[("BARMAN_PHASE", "pre")][..],
            4,
            event("pre_backup_retry_script"),
        ),
        (
            &[("BARMAN_HOOK", "archive_script")],
            4,
            event("post_archive_script"),
        ),
        (
            &[("BARMAN_BACKUP_DIR", "")],
            4,
            missing("BARMAN_BACKUP_DIR"),
        ),
        (&[("BARMAN_BACKUP_ID", "")], 4, missing("BARMAN_BACKUP_ID")),
        (&[("BARMAN_STATUS", "FAILED")], 63, status("FAILED")),
        (
            &[("BARMAN_STATUS", "WAITING_FOR_WALS")],
            63,
            status("WAITING_FOR_WALS"),
        ),
        (&[("BARMAN_STATUS", "")], 63, status("")),
        (
            &[("BARMAN_BACKUP_INFO_PATH", "/no/such")],
            4,
            said("could not read `/no/such`"),
        ),
    ] {
        assert_refused(&with(changes).run(), code, &line);
    }
    let named = with(&[]).args(["--name", "n"]).run();
    let line = said("Cannot set backup name when running as a hook script");
    assert_refused(&named, 4, &line);

    for (field, value, code, part) in [
        (
            "compression",
            "gzip",
            4,
            "Compressed backups are not supported when running as a hook script",
        ),
        ("encryption", "gpg", 63, "Encrypted backups"),
        (
            "parent_backup_id",
            "20261120T120000",
            63,
            "Incremental backups",
        ),
        (
            "snapshots_info",
            "{'provider': 'aws', 'provider_info': {}, 'snapshots': []}",
            63,
            "Snapshot backups",
        ),
        ("status", "FAILED", 63, "has status 'FAILED'"),
        ("version", "None", 63, "which version"),
        ("systemid", "1", 63, "of the cluster"),
        ("begin_xlog", "0/5000028", 63, "backup_label says"),
    ] {
        backup.write_record(&changed(&backup.record, field, value));
        assert_refused(&with(&[]).run(), code, part);
    }
    backup.write_record(&backup.record);
    let away = workspace.path("away");
    for name in [
        "16384",
        "data",
        "data/backup_label",
        "data/global/pg_control",
    ] {
        fs::rename(backup.dir.join(name), &away).expect("moved");
        assert_refused(&with(&[]).run(), 1, name);
        fs::rename(&away, backup.dir.join(name)).expect("moved back");
    }
    // A test of the connection asks for none of this.
    with(&[("BARMAN_STATUS", "FAILED")]).arg("--test").succeed();
    assert_eq!(fs::read_dir(workspace.path("bucket")).unwrap().count(), 0);

    // Another backup has its place.
    with(&[]).succeed();
    let stored = workspace.path(format!("bucket/main/base/{ID}/backup.info"));
    let other = changed(&backup.record, "begin_xlog", "0/6000028");
    fs::write(&stored, other).expect("written");
    assert_refused(&with(&[]).run(), 63, "another backup is stored as");
    fs::remove_dir_all(workspace.path("bucket")).expect("removed");
    assert_refused(&with(&[]).run(), 1, "does not exist");
}

/// The names in the manual, and no path of the record.
#[test]
fn what_the_manual_says_works_too() {
    let workspace = Workspace::new();
    let Some(backup) = Backup::new(&workspace) else {
        return;
    };
    let place = Place::in_directory(&workspace);
    for beside in [false, true] {
        if beside {
            let to = backup.dir.join("backup.info");
            fs::rename(backup.record_path(), to).expect("moved");
        }
        place
            .tool("barman-cloud-backup")
            .env("BARMAN_HOOK", "backup_script")
            .env("BARMAN_PHASE", "post")
            .env("BARMAN_STATUS", "DONE")
            .env("BACKUP_ID", ID)
            .env("BACKUP_DIR", &backup.dir)
            .args([place.url(), "of the command line"])
            .succeed();
    }
    // What the server is called in the record does not count.
    let key = format!("bucket/of the command line/base/{ID}/backup.info");
    let stored = workspace.path(key);
    assert_eq!(fs::read_to_string(stored).unwrap(), backup.record);
}

const SEGMENT: &str = "000000010000000000000006";

const EVENT: [&str; 2] = ["archive_retry_script", "pre"];

/// The archiver as the hook of an event about `file`.
fn archive<'w>(place: &Place<'w>, event: [&str; 2], more: &[(&str, &str)]) -> Tool<'w> {
    place
        .tool("barman-cloud-wal-archive")
        .env("BARMAN_HOOK", event[0])
        .env("BARMAN_PHASE", event[1])
        .envs(more.to_vec())
        .args(["--gzip", place.url(), "main"])
}

#[test]
fn a_wal_file_is_archived_before_barman_does_and_never_replaced() {
    let workspace = Workspace::new();
    let place = Place::in_directory(&workspace);
    let incoming = workspace.dir("incoming");
    let sample = fs::read(golden().join("wal").join(SEGMENT)).expect("a golden sample");
    let file = workspace.file(incoming.join(SEGMENT), &sample);
    let file = file.to_str().expect("a plain name");
    // As Barman says it of a file that is as it should be.
    let told = [("BARMAN_FILE", file), ("BARMAN_COMPRESSION", "")];
    for hook in ["archive_script", "archive_retry_script"] {
        // What is there already is success.
        archive(&place, [hook, "pre"], &told).succeed();
    }
    let back = workspace.path("back");
    let fetch = || {
        let tool = place.tool("barman-cloud-wal-restore");
        tool.args([place.url(), "main", SEGMENT])
            .arg(&back)
            .succeed();
        fs::read(&back).expect("it was delivered")
    };
    assert_eq!(fetch(), sample);
    // An argument does not count.
    archive(&place, ["archive_script", "pre"], &told)
        .arg("/no/such")
        .succeed();

    let mut different = sample.clone();
    different[20_000] ^= 1;
    workspace.file(incoming.join(SEGMENT), different);
    let run = archive(&place, ["archive_retry_script", "pre"], &told).run();
    assert_refused(&run, 63, "a different WAL file");
    assert_eq!(fetch(), sample);
}

#[test]
fn a_wal_file_is_refused_with_the_code_that_fits() {
    let workspace = Workspace::new();
    let place = Place::in_directory(&workspace);
    let refused = |event: [&str; 2], told: &[(&str, &str)], code: i32, part: &str| {
        assert_refused(&archive(&place, event, told).run(), code, part);
    };
    let unsupported = "barman-cloud-wal-archive called as unsupported hook script: ";
    let line = format!("{unsupported}post_archive_script");
    refused(["archive_script", "post"], &[], 3, &line);
    let line = format!("{unsupported}pre_backup_script");
    refused(["backup_script", "pre"], &[], 3, &line);
    refused(EVENT, &[], 3, "BARMAN_FILE environment variable not set");
    refused(EVENT, &[("BARMAN_FILE", "/x/no-wal")], 3, "no-wal");
    let packed = [
        ("BARMAN_FILE", "/x/000000010000000000000006"),
        ("BARMAN_COMPRESSION", "gzip"),
    ];
    refused(EVENT, &packed, 63, "is compressed (gzip) already");
    refused(EVENT, &packed[..1], 4, "could not read WAL file");
    // A test of the connection needs no file.
    archive(&place, EVENT, &[]).arg("--test").succeed();
    assert_eq!(fs::read_dir(workspace.path("bucket")).unwrap().count(), 0);
}
