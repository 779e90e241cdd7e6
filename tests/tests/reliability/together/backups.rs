//! Backups of the same second, and a deletion while one is taken.

use e2e::{
    Fault, FaultProxy, PgBin, Place, Recovery, Row, Rule, Run, Running, S3Server, Section,
    ShutDown, Tree, Workspace, WrongClock, of_sample_or_whole,
};

use crate::database::scene::{FIRST_PART, Scene};

/// The time on a clock that stands still: now, since a store refuses a far-off one.
fn this_second() -> String {
    jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// Asserts that of two backups one was taken, and the other left alone what is the
/// first's, or took another id.
fn assert_apart(runs: &[Run; 2]) {
    let done = runs.iter().filter(|run| run.code() == Some(0)).count();
    assert!(done > 0, "{}{}", runs[0], runs[1]);
    for run in runs.iter().filter(|run| run.code() != Some(0)) {
        assert_eq!(run.code(), Some(1), "{run}");
        let errors = run.errors();
        let clear = |text: &str| {
            text.contains("was begun in the same second") || text.contains("no free backup id")
        };
        assert!(errors.len() == 1 && clear(&errors[0]), "{run}");
    }
}

#[test]
fn two_backups_of_one_second() {
    let (Some(bin), Some(clock)) = (PgBin::find(), WrongClock::find()) else {
        return;
    };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let scene = Scene::new(&workspace, &bin, &bucket);
    let mut row = Row::new(
        Section::Together,
        "`backup`: two begin in the same second and have seen that its id is free",
        "exactly one goes on and comes back; the other ends with 1, says why and has touched \
         nothing of it; the next one works",
    );
    for both in [false, true] {
        scene.proxy.clear();
        let before = scene.listed();
        let log = scene.proxy.log().len();
        let second = this_second();
        let hold = Rule::new(&Fault::Hold).on("^PUT /.*backup.info");
        scene.proxy.add(&hold.times(if both { 2 } else { 1 }));
        let start = || scene.backup().envs(clock.off_by(&second)).start();
        let first = start();
        assert_eq!(scene.proxy.wait_for_held(log, || None::<()>), None);
        let other = start();
        let runs = if both {
            e2e::wait_until("both to be held", || {
                let log = scene.proxy.log().into_iter().skip(log);
                let held = log.filter(|r| r.fault.as_deref() == Some("hold"));
                (held.count() == 2).then_some(())
            });
            scene.proxy.release();
            [first.wait(), other.wait()]
        } else {
            let other = other.wait();
            scene.proxy.release();
            [first.wait(), other]
        };
        assert_apart(&runs);
        let after = scene.listed();
        assert_eq!(after.len(), before.len() + 1, "{after:?}");
        assert!(after.values().all(|status| status == "DONE"), "{after:?}");
        assert_eq!(bucket.uploads(), [""; 0]);
        let id = after.keys().find(|id| !before.contains_key(*id)).unwrap();
        let target = workspace.path(format!("restored-{both}"));
        let restore = scene.place.tool("barman-cloud-restore");
        restore
            .args([scene.place.url(), "main", id])
            .arg(&target)
            .succeed();
        assert!(Tree::of(&target).0.len() > 500);
        row.lived_through();
    }
    scene.good();
    scene.assert_comes_back();
    row.finish();
}

#[test]
fn two_backups_at_once_in_a_directory() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let place = Place::in_directory(&workspace);
    let mut primary = place.primary(&bin, "");
    primary.start();
    let mut row = Row::new(
        Section::Together,
        "`backup`: two of one server are started at the same moment, into a directory",
        "each is whole under an id of its own, or one ends with 1 and says why",
    );
    for number in 0..of_sample_or_whole(1, 8) {
        let both = [
            place.backup(&primary, "postgres").start(),
            place.backup(&primary, "postgres").start(),
        ];
        assert_apart(&both.map(Running::wait));
        let base = workspace.path("bucket/main/base");
        for entry in std::fs::read_dir(base).unwrap() {
            let id = entry.unwrap().file_name().into_string().unwrap();
            let target = workspace.path(format!("{number}-{id}"));
            place
                .tool("barman-cloud-restore")
                .args([place.url(), "main", &id])
                .arg(&target)
                .succeed();
            assert!(Tree::of(&target).0.len() > 500);
            std::fs::remove_dir_all(target).unwrap();
        }
        row.lived_through();
    }
    row.finish();
}

/// A backup that began before the oldest that stays, and is not at its end.
#[test]
fn a_deletion_while_a_backup_is_taken() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let mut row = Row::new(
        Section::Together,
        "`backup-delete`: by policy, while a backup is taken that began before the one that stays",
        "the WAL from the beginning of the running backup on stays, and it comes back with it",
    );
    let mut scene = Scene::new(&workspace, &bin, &bucket);
    let old = scene.good();
    scene.cluster.archive_everything();
    let running = scene.held(FIRST_PART, scene.backup());
    let (session, taken) = (scene.cluster.session(), scene.listed());
    session.run("INSERT INTO t SELECT i, 'later' FROM generate_series(1, 1000) AS i");
    scene.cluster.archive_everything();
    // Through another proxy, so that the first one stays held.
    let apart = FaultProxy::start(bucket.endpoint());
    let backup = scene.place.backup(&scene.cluster, "postgres");
    let run = backup.envs(bucket.environment_through(&apart)).run();
    assert_eq!(run.code(), Some(0), "{run}");
    let delete = || {
        let delete = scene.place.tool("barman-cloud-backup-delete");
        delete.args(["-r", "REDUNDANCY 1", scene.place.url(), "main"])
    };
    let wal = bucket.keys("p/main/wals/").len();
    let run = delete().run();
    assert_eq!(run.code(), Some(0), "{run}");
    assert!(bucket.keys("p/main/wals/").len() < wal, "the old WAL went");
    assert!(!scene.listed().contains_key(&old));
    scene.proxy.release();
    let run = running.wait();
    assert_eq!(run.code(), Some(0), "{run}");
    session.run("INSERT INTO t VALUES (0, 'last')");
    let digest = session.digest();
    scene.cluster.archive_everything();
    drop(session);
    scene.cluster.stop(ShutDown::Immediate);
    let id = taken.keys().find(|id| **id != old).unwrap();
    scene
        .place
        .tool("barman-cloud-restore")
        .args([scene.place.url(), "main", id])
        .arg(workspace.path("back"))
        .succeed();
    let mut back = e2e::Cluster::existing(&bin, &workspace, "back");
    back.recover(&workspace, scene.place.url(), "main", &Recovery::Latest);
    back.set_environment(scene.place.environment());
    back.start_and_recover();
    assert_eq!(back.session().digest(), digest);
    row.lived_through();
    row.finish();
}
