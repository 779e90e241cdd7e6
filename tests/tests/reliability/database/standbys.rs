//! Backups of a standby that changes under them.

use e2e::{Cluster, PgBin, Recovery, Row, S3Server, Section, ShutDown, Workspace};
use e2e::{of_sample_or_whole, wait_until};

use super::scene::{FIRST_PART, Scene};

/// A standby of the scene's primary that has replayed all there is.
fn standby(scene: &Scene<'_>) -> Cluster {
    scene.good();
    let mut standby = scene
        .place
        .restored(scene.bin, "standby", &Recovery::Standby);
    standby.start();
    let session = scene.cluster.session();
    session.run("CREATE TABLE more AS SELECT generate_series(1, 1000) AS i");
    scene.cluster.archive_everything();
    wait_until("the standby to catch up", || {
        let rows = standby.session().try_rows("SELECT count(*) FROM more");
        (rows.ok()? == [["1000"]]).then_some(())
    });
    standby
}

/// Gives `None` without a store.
fn promoted_in_the_middle(bin: &PgBin) -> Option<()> {
    let workspace = Workspace::new();
    let bucket = S3Server::CephPlain.bucket(&workspace)?;
    let scene = Scene::new(&workspace, bin, &bucket);
    let standby = standby(&scene);
    let before = scene.stored();
    let tool = scene.held(FIRST_PART, scene.backup_of(&standby));
    let session = standby.session();
    session.run("SELECT pg_promote()");
    wait_until("the promotion", || {
        (session.value("SELECT pg_is_in_recovery()") == "f").then_some(())
    });
    scene.proxy.release();
    let why = "the standby was promoted during online backup";
    scene.assert_failed(&tool.wait(), why, &before);
    // Its archiving is off; that is no matter here.
    let run = scene.backup_of(&standby).run();
    assert_eq!(run.code(), Some(0), "{run}");
    assert_eq!(scene.listed().values().last().unwrap(), "DONE");
    drop((session, standby));
    scene.assert_next_works();
    scene.assert_comes_back();
    Some(())
}

#[test]
fn a_standby_is_promoted_in_the_middle_of_its_backup() {
    let mut row = Row::new(
        Section::Database,
        "`backup`: a standby is promoted in the middle of its backup",
        "exit 1; the backup is `FAILED` with what the server says, no upload is open; the next \
         backups of both servers work",
    );
    // The functions have other names in the first, and the last has all there is.
    let further = of_sample_or_whole(&[][..], &[13, 17]);
    let bins = further.iter().map(|major| PgBin::of_version(*major));
    for bin in std::iter::once(PgBin::find()).chain(bins) {
        let Some(bin) = bin else { return };
        if promoted_in_the_middle(&bin).is_none() {
            return;
        }
        row.lived_through();
    }
    row.finish();
}

#[test]
fn a_standby_whose_recovery_is_paused() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let mut row = Row::new(
        Section::Database,
        "`backup`: the recovery of a standby is paused in the middle of its backup",
        "exit 0; the backup is `DONE` and comes back",
    );
    let scene = Scene::new(&workspace, &bin, &bucket);
    let mut standby = standby(&scene);
    let tool = scene.held(FIRST_PART, scene.backup_of(&standby));
    standby.session().run("SELECT pg_wal_replay_pause()");
    scene.cluster.session().run("INSERT INTO more VALUES (0)");
    scene.cluster.archive_everything();
    scene.proxy.release();
    let run = tool.wait();
    assert_eq!(run.code(), Some(0), "{run}");
    standby.stop(ShutDown::Fast);
    scene.cluster.session().run("INSERT INTO more VALUES (-1)");
    scene.assert_comes_back();
    row.lived_through();
    row.finish();
}

#[test]
fn a_standby_that_follows_to_another_timeline() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let mut row = Row::new(
        Section::Database,
        "`backup`: a standby follows its primary to another timeline in the middle of its backup",
        "exit 0; the backup is `DONE`, its manifest has the WAL of both timelines, \
         `pg_verifybackup` and `verify` are content, and it comes back",
    );
    let mut scene = Scene::new(&workspace, &bin, &bucket);
    let mut standby = standby(&scene);
    let tool = scene.held(FIRST_PART, scene.backup_of(&standby));
    scene.cluster.stop(ShutDown::Fast);
    scene.cluster.stand_by();
    scene.cluster.start();
    let session = scene.cluster.session();
    session.run("SELECT pg_promote()");
    session.run("INSERT INTO more SELECT generate_series(1001, 2000)");
    session.run("CHECKPOINT");
    scene.cluster.archive_everything();
    let replica = standby.session();
    wait_until("the standby to follow", || {
        let rows = replica.try_rows("SELECT count(*) FROM more");
        (rows.ok()? == [["2000"]]).then_some(())
    });
    // Its backup ends where its last restart point is.
    replica.run("CHECKPOINT");
    drop(replica);
    scene.proxy.release();
    let run = tool.wait();
    assert_eq!(run.code(), Some(0), "{run}");
    assert!(!run.stderr.contains("tells nothing"), "{run}");
    standby.stop(ShutDown::Fast);
    drop(session);

    let (id, _) = scene.listed().pop_last().unwrap();
    let show = scene.place.tool("barman-cloud-backup-show");
    let run = show
        .args([scene.place.url(), "main", &id, "--format=json"])
        .run();
    let json: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    let text = |key: &str| json["cloud"][key].as_str().unwrap().to_owned();
    let (begin, end) = (text("begin_wal"), text("end_wal"));
    assert!(
        begin.starts_with("00000001") && end.starts_with("00000002"),
        "{run}"
    );
    let target = workspace.path("judged");
    let restore = scene.place.tool("barman-cloud-restore");
    restore
        .args([scene.place.url(), "main", &id])
        .arg(&target)
        .succeed();
    for key in scene.bucket.sizes("p/main/wals/").into_keys() {
        let name = key.rsplit('/').next().unwrap().trim_end_matches(".gz");
        // What the first timeline has of the segment in which the second began.
        let place = target
            .join("pg_wal")
            .join(name.trim_end_matches(".partial"));
        let fetch = scene.place.tool("barman-cloud-wal-restore");
        fetch
            .args([scene.place.url(), "main", name])
            .arg(&place)
            .succeed();
    }
    let pgdata = target.display().to_string();
    bin.judge(&workspace, "pg_verifybackup", &[&pgdata]);
    let manifest = std::fs::read_to_string(target.join("backup_manifest")).unwrap();
    assert!(
        manifest.contains(
            r#"[
{ "Timeline": 2, "Start-LSN": ""#
        ),
        "{manifest}"
    );
    let verify = scene.place.tool("barman-cloud-verify");
    let run = verify.args([scene.place.url(), "main", &id]).run();
    assert_eq!(run.code(), Some(0), "{run}");
    scene.assert_comes_back();
    row.lived_through();
    row.finish();
}
