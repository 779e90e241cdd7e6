//! The catalogue tools at work: on the backups of a real server, and on bad
//! days of the store.

use std::fs;

use e2e::{
    Bucket, Fault, FaultProxy, PgBin, Place, Recovery, Rule, S3Server, Tool, Workspace, golden,
    wait_until,
};
use rustix::process::Signal;
use serde_json::Value;

/// What `list --format json` says: id, name and status of each backup.
fn listed(place: &Place<'_>) -> Vec<(String, String, String)> {
    let run = place
        .tool("barman-cloud-backup-list")
        .args(["--format=json", place.url(), "main"])
        .run();
    assert_eq!((run.code(), run.stderr.as_str()), (Some(0), ""), "{run}");
    let json: Value = serde_json::from_str(&run.stdout).unwrap();
    let text = |backup: &Value, key: &str| backup[key].as_str().unwrap_or_default().to_owned();
    let backups = json["backups_list"].as_array().unwrap().iter();
    backups
        .map(|b| {
            (
                text(b, "backup_id"),
                text(b, "backup_name"),
                text(b, "status"),
            )
        })
        .collect()
}

/// Four backups with WAL in between; a policy deletes two; the one that was kept
/// on its own and the newest come back to life, the newest with all rows.
#[test]
fn what_a_policy_leaves_can_be_restored() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let place = Place::in_bucket(&workspace, &bucket, "prod/");
    let check = || {
        let tool = place.tool("barman-cloud-check-wal-archive");
        tool.args([place.url(), "main"])
    };
    check().succeed();
    let mut primary = place.primary(&bin, "--gzip");
    primary.start();
    primary.session().run("CREATE TABLE t (i int)");
    for name in ["one", "two", "three", "four"] {
        let rows = "INSERT INTO t SELECT 1 FROM generate_series(1, 100)";
        primary.session().run(rows);
        place
            .backup(&primary, "postgres")
            .args(["--name", name])
            .succeed();
        primary.archive_everything();
    }
    let refused = check().run();
    assert_eq!(refused.code(), Some(1), "{refused}");
    assert!(refused.errors()[0].ends_with("Expected empty archive"));
    let names = |place: &Place<'_>| -> Vec<String> {
        listed(place).into_iter().map(|(_, name, _)| name).collect()
    };
    assert_eq!(names(&place), ["one", "two", "three", "four"]);
    place
        .tool("barman-cloud-backup-keep")
        .args(["--target=standalone", place.url(), "main", "two"])
        .succeed();
    let before = bucket.keys("prod/main/wals/").len();
    let delete = || {
        let tool = place.tool("barman-cloud-backup-delete");
        tool.args(["-r", "REDUNDANCY 1", place.url(), "main"])
    };
    delete().succeed();
    assert_eq!(names(&place), ["two", "four"]);
    let after = bucket.keys("prod/main/");
    let wals = after.iter().filter(|key| key.contains("/wals/")).count();
    assert!(wals < before, "{wals} of {before}");
    delete().succeed();
    assert_eq!(
        bucket.keys("prod/main/"),
        after,
        "a second run changes nothing"
    );
    assert_eq!(bucket.uploads(), [""; 0]);

    primary.archive_everything();
    primary.stop(e2e::ShutDown::Immediate);
    let mut newest = place.restored(&bin, "newest", &Recovery::Latest);
    newest.start_and_recover();
    assert_eq!(newest.session().value("SELECT count(*) FROM t"), "400");
    newest.stop(e2e::ShutDown::Immediate);
    place
        .tool("barman-cloud-restore")
        .args([place.url(), "main", "two"])
        .arg(workspace.path("kept"))
        .succeed();
    let mut kept = e2e::Cluster::existing(&bin, &workspace, "kept");
    kept.set_environment(place.environment());
    kept.recover(&workspace, place.url(), "main", &Recovery::Immediate);
    kept.start_and_recover();
    assert_eq!(kept.session().value("SELECT count(*) FROM t"), "200");
}

const OLD: &str = "20261101T000000";
const NEW: &str = "20261102T000000";

/// A server with two backups, each of two archives, and some WAL.
struct Scene<'w> {
    workspace: &'w Workspace,
    bucket: Bucket<'w>,
    proxy: FaultProxy,
}

impl<'w> Scene<'w> {
    fn new(workspace: &'w Workspace, bucket: Bucket<'w>) -> Self {
        let proxy = FaultProxy::start(bucket.endpoint());
        let scene = Self {
            workspace,
            bucket,
            proxy,
        };
        let info = golden().join("backup-info/done-gzip-tablespace-named.info");
        let info = fs::read_to_string(info).unwrap();
        let newer = info
            .replace("0000000004", "0000000009")
            .replace("_xlog=0/4", "_xlog=0/9");
        for (id, info) in [(OLD, info), (NEW, newer)] {
            for archive in ["16384.tar.gz", "data.tar.gz"] {
                scene.bucket.write(&format!("main/base/{id}/{archive}"), id);
            }
            scene
                .bucket
                .write(&format!("main/base/{id}/backup.info"), info);
        }
        for number in 1..12 {
            let name = format!("{:024X}", (1_u128 << 64) + number);
            scene
                .bucket
                .write(&format!("main/wals/{}/{name}.gz", &name[..16]), "");
        }
        scene
    }

    fn delete(&self, options: &[&str]) -> Tool<'w> {
        self.workspace
            .tool("barman-cloud-backup-delete")
            .envs(self.bucket.environment_through(&self.proxy))
            .args(options)
            .args([&self.bucket.url(), "main"])
    }

    /// What is left when the older backup and its WAL are gone.
    fn assert_deleted(&self) {
        let keys = self.bucket.keys("main/");
        assert_eq!(keys.len(), 3 + 3, "{keys:?}");
        assert!(keys.iter().all(|key| !key.contains(OLD)), "{keys:?}");
    }

    fn status(&self, id: &str) -> String {
        let info = self.bucket.read(&format!("main/base/{id}/backup.info"));
        let info = String::from_utf8(info).unwrap();
        let line = info.lines().find_map(|line| line.strip_prefix("status="));
        line.unwrap().to_owned()
    }
}

const POLICY: [&str; 2] = ["-r", "REDUNDANCY 1"];

/// Refused objects, as stores report them inside of an answer that is a success.
#[test]
fn an_object_that_is_refused_is_named_and_the_next_run_finishes() {
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let scene = Scene::new(&workspace, bucket);
    let key = format!("main/base/{OLD}/data.tar.gz");
    let other = format!("main/base/{OLD}/16384.tar.gz");
    let answer = format!(
        "<DeleteResult><Deleted><Key>{other}</Key></Deleted><Error><Key>{key}</Key>\
         <Code>AccessDenied</Code><Message>no</Message></Error></DeleteResult>"
    );
    let rule = Rule::new(&Fault::Answer(200, answer)).on("POST /[^?]*\\?delete");
    scene.proxy.add(&rule);
    let run = scene.delete(&POLICY).run();
    assert_eq!(run.code(), Some(1), "{run}");
    assert!(run.errors().iter().any(|line| line.contains(&key)), "{run}");
    assert_eq!(scene.status(OLD), "FAILED");
    assert_eq!(scene.bucket.keys("main/wals/").len(), 11, "WAL must wait");
    scene.delete(&POLICY).succeed();
    scene.assert_deleted();
}

/// Killed between any two requests: nothing looks good that is not, and the next
/// run finishes, whatever it is asked for.
#[test]
fn a_deletion_that_is_killed_is_finished_by_the_next() {
    for (count, next) in [
        (0, &POLICY[..]),
        (1, &["-b", OLD]),
        (2, &["-r", "RECOVERY WINDOW OF 0 DAYS"]),
    ] {
        for signal in [Signal::KILL, Signal::TERM] {
            let workspace = Workspace::new();
            let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
                return;
            };
            let scene = Scene::new(&workspace, bucket);
            let deletion = "POST /[^?]*\\?delete";
            let rule = Rule::new(&Fault::Delay(3600.0)).on(deletion).skip(count);
            scene.proxy.add(&rule);
            let running = scene.delete(&POLICY).start();
            wait_until("the deletion to stand still", || {
                let log = scene.proxy.log();
                let deletions = log.iter().filter(|r| r.line.contains("?delete")).count();
                (deletions > count as usize).then_some(())
            });
            running.signal(signal);
            let run = running.wait();
            if signal == Signal::TERM {
                assert_eq!(run.code(), Some(1), "{run}");
                let text = "Barman cloud backup delete was interrupted by the user";
                assert_eq!(run.errors(), [text], "{run}");
            }
            assert_eq!(scene.status(OLD), "FAILED", "{count} {signal:?}");
            assert_eq!(scene.status(NEW), "DONE");
            scene.proxy.clear();
            scene.delete(next).succeed();
            scene.assert_deleted();
        }
    }
}

#[test]
fn locked_archives_are_left_alone_with_all_of_their_backup() {
    let workspace = Workspace::new();
    for server in [S3Server::CephPlain, S3Server::Moto] {
        let Some(bucket) = server.bucket_with_locks(&workspace) else {
            return;
        };
        let scene = Scene::new(&workspace, bucket);
        let key = format!("main/base/{OLD}/data.tar.gz");
        let before = scene.bucket.keys("main/");
        let options = ["-r", "REDUNDANCY 1", "--check-object-lock"];
        let refused = |why: &str| {
            let run = scene.delete(&options).run();
            assert_eq!(run.code(), Some(1), "{server:?} {why}: {run}");
            let text = format!("Cannot delete locked object {key}: {why}");
            assert!(run.errors()[0].starts_with(&text), "{run}");
            assert_eq!(scene.bucket.keys("main/"), before);
            assert_eq!(scene.status(OLD), "DONE");
        };
        scene.bucket.hold(&key, true);
        refused("it has a legal hold");
        scene.bucket.hold(&key, false);
        scene.bucket.retain(&key, "2099-01-01T00:00:00Z");
        refused("it is retained until 2099-01-01T00:00:00Z");
    }
    // Where there are no locks, it is said.
    workspace.dir("bucket");
    let run = workspace
        .tool("barman-cloud-backup-delete")
        .args(["-r", "REDUNDANCY 1", "--check-object-lock"])
        .args([&workspace.url("bucket"), "main"])
        .run();
    assert_eq!(run.code(), Some(0), "{run}");
}

/// A catalogue into which somebody else has written.
#[test]
fn damaged_and_foreign_records_are_named_and_stop_deletions_alone() {
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let scene = Scene::new(&workspace, bucket);
    let tool = |name: &str| {
        let tool = workspace.tool(&format!("barman-cloud-{name}"));
        tool.envs(scene.bucket.environment())
    };
    // A field of a later version is no damage: it is kept, also in a backup that
    // is marked while it is deleted.
    let key = format!("main/base/{NEW}/backup.info");
    let info = String::from_utf8(scene.bucket.read(&key)).unwrap();
    scene.bucket.write(&key, info + "zz_future={'a': 1}\n");
    let list = || {
        tool("backup-list")
            .args([&scene.bucket.url(), "main"])
            .run()
    };
    assert_eq!((list().code(), list().stderr.as_str()), (Some(0), ""));

    let odd = "main/base/20261103T000000/backup.info";
    for content in [
        "no field at all".to_owned(),
        "begin_time=yesterday\n".to_owned(),
        "tablespaces=[('a', 'b')]\n".to_owned(),
        "\0".repeat(50 << 20),
    ] {
        scene.bucket.write(odd, &content);
        let run = list();
        assert_eq!(run.code(), Some(1), "{run}");
        assert_eq!(run.stdout.lines().count(), 3, "{run}");
        let warning = "Unable to open backup.info file for 20261103T000000: ";
        assert!(run.messages("WARNING")[0].starts_with(warning), "{run}");
        let before = scene.bucket.keys("main/");
        for options in [POLICY, ["-b", OLD]] {
            let run = scene.delete(&options).run();
            assert_eq!(run.code(), Some(1), "{run}");
            let named = "Cannot read the following backups: ['20261103T000000']";
            assert_eq!(run.errors()[0], named, "{run}");
        }
        assert_eq!(scene.bucket.keys("main/"), before);
        let show = tool("backup-show").args([&scene.bucket.url(), "main", NEW]);
        assert_eq!(show.run().code(), Some(0));
    }
    scene.bucket.remove(odd);
    scene.delete(&POLICY).succeed();
    scene.assert_deleted();
}

/// `-v` says of each backup why it stays or goes, and requests hold no more
/// objects than was asked for.
#[test]
fn a_deletion_is_explained_and_keeps_to_its_batches() {
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let scene = Scene::new(&workspace, bucket);
    let run = scene.delete(&["-v", "--batch-size=1"]).args(POLICY).run();
    assert_eq!(run.code(), Some(0), "{run}");
    let said = run.messages("INFO");
    for line in [
        format!("Backup {OLD} for server main goes: the retention policy does not want it"),
        format!("Backup {NEW} for server main stays: the retention policy wants it"),
    ] {
        assert!(said.contains(&line), "{line}: {run}");
    }
    let log = scene.proxy.log();
    let requests = log.iter().filter(|r| r.line.contains("?delete")).count();
    // Two archives, the WAL before the newer backup, and the record.
    assert_eq!(requests, 2 + 8 + 1, "{run}");
    scene.assert_deleted();
}

#[test]
fn the_check_of_an_archive_makes_a_missing_bucket() {
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let url = format!("{}-new", bucket.url());
    let tool = |name: &str| {
        let tool = workspace.tool(name).envs(bucket.environment());
        tool.args([url.as_str(), "main"])
    };
    let missing = tool("barman-cloud-backup-list").run();
    assert_eq!(missing.code(), Some(4), "{missing}");
    let check = || tool("barman-cloud-check-wal-archive");
    check().arg("--test").succeed();
    let still = tool("barman-cloud-backup-list").run();
    assert_eq!(still.code(), Some(4), "a test makes nothing: {still}");
    check().succeed();
    check().succeed();
    let made = tool("barman-cloud-backup-list").run();
    assert_eq!(made.code(), Some(0), "{made}");
}

/// Archives without a record, a FAILED backup and unfinished uploads go when they
/// are old enough, after a dry run that names them; what is newer than the newest
/// good backup stays.
#[test]
fn what_failed_backups_left_behind_is_purged_on_demand() {
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let scene = Scene::new(&workspace, bucket);
    let good = scene.bucket.keys("main/");
    let failed = golden().join("backup-info/failed-unreadable-file.info");
    scene.bucket.write(
        "main/base/20261101T120000/backup.info",
        fs::read(failed).unwrap(),
    );
    scene
        .bucket
        .write("main/base/20261101T120000/16384.tar", "x");
    scene
        .bucket
        .write("main/base/20261101T130000/data.tar.gz", "x");
    scene
        .bucket
        .begin_upload("main/base/20261101T140000/data.tar");
    scene
        .bucket
        .begin_upload("main/wals/0000000100000000/000000010000000000000001");
    let newer = "main/base/20261103T000000/data.tar";
    scene.bucket.write(newer, "x");
    scene.bucket.begin_upload(newer);
    scene
        .bucket
        .begin_upload("main2/base/20261101T140000/data.tar");

    scene.delete(&["--purge-orphans"]).succeed();
    assert_eq!(scene.bucket.uploads().len(), 4, "nothing is a week old");
    let now = ["--purge-orphans", "--older-than=0s"];
    let dry = scene.delete(&now).arg("--dry-run").run();
    assert_eq!((dry.code(), dry.stderr.as_str()), (Some(0), ""), "{dry}");
    assert_eq!(dry.stdout.lines().count(), 4, "{dry}");
    assert_eq!(scene.bucket.uploads().len(), 4, "it was a dry run");
    scene.delete(&now).succeed();
    let mut left = good;
    left.push(newer.to_owned());
    left.sort();
    assert_eq!(scene.bucket.keys("main/"), left);
    let elsewhere = "main2/base/20261101T140000/data.tar";
    assert_eq!(scene.bucket.uploads(), [newer, elsewhere]);
}

#[test]
fn a_list_that_cannot_be_written_is_an_error() {
    let workspace = Workspace::new();
    workspace.dir("bucket/main/base/20261101T000000");
    let info = golden().join("backup-info/done-gzip-tablespace-named.info");
    workspace.file(
        "bucket/main/base/20261101T000000/backup.info",
        fs::read(info).unwrap(),
    );
    let full = format!(
        "{} {} main >/dev/full",
        workspace.bin("barman-cloud-backup-list").display(),
        workspace.url("bucket")
    );
    let output = std::process::Command::new("sh")
        .args(["-c", &full])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(4));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("could not write to standard output"),
        "{said}"
    );
}
