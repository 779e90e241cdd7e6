//! A restore command in the hands of a server that ends, or is promoted.

use e2e::{
    Cluster, Fault, PgBin, Process, Recovery, Row, Rule, S3Server, Section, ShutDown, Workspace,
    wait_until,
};
use rustix::process::Signal;

use super::scene::Scene;

const FETCH: &str = "^(GET|HEAD) /.*wals";

/// A backup, WAL after it, and a cluster that is to fetch that through the proxy.
fn restored(scene: &Scene<'_>, name: &str, until: &Recovery<'_>) -> (Cluster, String) {
    let digest = scene.cluster.session().digest();
    let place = &scene.place;
    let mut cluster = place.restored(scene.bin, name, until);
    let tool = scene.workspace.bin("barman-cloud-wal-restore");
    let command = format!(
        "{} --retry-timeout=600 {} main %f %p",
        tool.display(),
        place.url()
    );
    cluster.recover_with(&command, until);
    cluster.set_environment(&scene.bucket.environment_through(&scene.proxy));
    (cluster, digest)
}

#[test]
fn a_recovery_whose_restore_command_is_ended() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let scene = Scene::new(&workspace, &bin, &bucket);
    scene.good();
    let session = scene.cluster.session();
    for number in 0..3 {
        session.run(&format!(
            "CREATE TABLE after_{number} AS SELECT * FROM t LIMIT 9"
        ));
        session.run("SELECT pg_switch_wal()");
    }
    drop(session);
    scene.cluster.archive_everything();
    for (number, (signal, what)) in [
        (None, "the server is shut down"),
        (Some(Signal::TERM), "the tool is sent `SIGTERM`"),
        (Some(Signal::KILL), "the tool is killed"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut row = Row::new(
            Section::Database,
            format!("`wal-restore`: {what} while PostgreSQL recovers and waits for a segment"),
            "recovery does not end early: the server stops, and when it is started again it \
             replays everything",
        );
        let name = format!("ended-{number}");
        let (mut cluster, digest) = restored(&scene, &name, &Recovery::Latest);
        scene.proxy.clear();
        let before = scene.proxy.log().len();
        // Not the first: then nothing would have been replayed.
        scene.proxy.add(&Rule::new(&Fault::Hold).on(FETCH).skip(1));
        cluster.launch();
        assert_eq!(scene.proxy.wait_for_held(before, || None::<()>), None);
        match signal {
            None => cluster.stop(ShutDown::Fast),
            Some(signal) => {
                let tool = wait_until("the tool", || Process::of_wal_tool(&cluster));
                assert!(tool.signal(signal), "it waits for its answer");
                cluster.wait_for_end();
            }
        }
        scene.proxy.release();
        let log = cluster.log_text();
        assert!(!log.contains("archive recovery complete"), "{log}");
        cluster.start_and_recover();
        assert_eq!(cluster.session().digest(), digest);
        row.lived_through();
        row.finish();
    }
}

#[test]
fn a_promotion_while_the_store_is_away() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let mut row = Row::new(
        Section::Database,
        "`wal-restore`: a standby is promoted while the store answers nothing but 503",
        "the tool gives up at once, long before its time is over; when the store is back, the \
         standby is promoted with all that it had replayed",
    );
    let scene = Scene::new(&workspace, &bin, &bucket);
    scene.good();
    scene.cluster.archive_everything();
    let (mut standby, digest) = restored(&scene, "standby", &Recovery::Standby);
    scene.proxy.clear();
    standby.start();
    let before = scene.proxy.log().len();
    let away = Rule::new(&Fault::Status(503)).on(FETCH).always();
    scene.proxy.add(&away);
    wait_until("the tool to be refused", || {
        let log = scene.proxy.log();
        let refused = log.iter().skip(before).filter(|r| r.status == Some(503));
        (refused.count() > 1).then_some(())
    });
    let session = standby.session();
    session.run("SELECT pg_promote(false)");
    wait_until("the tool to give up", || {
        let log = standby.log_text();
        log.contains("given up because of a promotion")
            .then_some(())
    });
    // While it ends its recovery the server asks for more, and the file that tells of the
    // promotion is gone by then.
    scene.proxy.clear();
    wait_until("the promotion", || {
        (session.value("SELECT pg_is_in_recovery()") == "f").then_some(())
    });
    assert_eq!(session.digest(), digest);
    row.lived_through();
    row.finish();
}
