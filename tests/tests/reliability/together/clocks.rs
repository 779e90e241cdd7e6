//! Clocks that are wrong, and clocks that are put right.

use e2e::{Fault, PgBin, Place, Row, Rule, S3Server, Section, Tool, Tree, Workspace, WrongClock};

use super::shelf::{self, IDS, Shelf, Where};
use crate::database::scene::{FIRST_PART, Scene};

/// What the tools say when the store says so.
const WRONG: &str = "the clock of this machine is wrong";

/// How wrong a clock is that no store accepts.
const OFFSETS: [&str; 4] = ["+16m", "-16m", "+1d", "-1d"];

type Made<'a> = Box<dyn Fn() -> Tool<'a> + 'a>;

#[test]
fn a_clock_that_the_store_does_not_accept() {
    let (Some(bin), Some(clock)) = (PgBin::find(), WrongClock::find()) else {
        return;
    };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let shelf = Shelf::new(&workspace, Where::Bucket(&bucket, "shelf"), None);
    let mut cluster = e2e::Cluster::create(&bin, &workspace, "primary", &[]);
    cluster.start();
    let tools: [(&str, Made<'_>); 7] = [
        ("wal-restore", Box::new(|| shelf.fetch(5, "fetched"))),
        (
            "backup",
            Box::new(|| {
                let tool = shelf.bare("barman-cloud-backup").args(cluster.connection());
                tool.args(["--immediate-checkpoint", &shelf.url(), "main"])
            }),
        ),
        ("restore", Box::new(|| shelf.restore(IDS[0], "restored"))),
        (
            "backup-delete",
            Box::new(|| shelf.delete(&["-r", "REDUNDANCY 1"])),
        ),
        ("backup-keep", Box::new(|| shelf.keep("--target=full"))),
        (
            "backup-list",
            Box::new(|| shelf.tool("barman-cloud-backup-list", &[])),
        ),
        (
            "backup-show",
            Box::new(|| shelf.tool("barman-cloud-backup-show", &[]).arg(IDS[0])),
        ),
    ];
    let before = shelf.keys();
    for (name, tool) in tools {
        let mut row = Row::new(
            Section::Together,
            format!("`{name}`: its clock is 16 minutes, or a day, behind or ahead of the store's"),
            "exit 4; the message says that the clock is wrong; nothing was changed",
        );
        for offset in OFFSETS {
            let run = tool().envs(clock.off_by(offset)).run();
            assert_eq!(run.code(), Some(4), "{run}");
            let errors = run.errors();
            assert!(errors.len() == 1 && errors[0].contains(WRONG), "{run}");
            assert_eq!(shelf.keys(), before);
            for file in ["fetched", "restored"] {
                assert!(!workspace.path(file).exists(), "{run}");
            }
            row.lived_through();
        }
        row.finish();
    }
    // As far off as stores allow.
    let delete = shelf.delete(&["-r", "REDUNDANCY 1"]);
    delete.envs(clock.off_by("-10m")).succeed();
    shelf.assert_only_the_newest();

    // It looks before it writes, so it is told the time before it matters.
    let mut row = Row::new(
        Section::Together,
        "`wal-archive`: its clock is 16 minutes, or a day, behind or ahead of the store's",
        "the file is archived; the store's time counts from its first answer on",
    );
    for (new, offset) in (*shelf::SEGMENTS.end() + 1..).zip(OFFSETS) {
        let segment = workspace.file(shelf::segment(new), shelf::content(new));
        let archive = shelf.tool("barman-cloud-wal-archive", &[]).arg(&segment);
        let run = archive.envs(clock.off_by(offset)).run();
        assert_eq!(run.code(), Some(0), "{run}");
        shelf.fetch(new, "fetched").succeed();
        let fetched = workspace.path("fetched");
        assert!(std::fs::read(&fetched).unwrap() == shelf::content(new));
        std::fs::remove_file(fetched).unwrap();
        row.lived_through();
    }
    row.finish();
}

#[test]
fn a_clock_that_goes_wrong_in_the_middle_of_a_backup() {
    let (Some(bin), Some(clock)) = (PgBin::find(), WrongClock::find()) else {
        return;
    };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let scene = Scene::new(&workspace, &bin, &bucket);
    scene.good();

    let mut row = Row::new(
        Section::Together,
        "`backup`: in the middle of the copy the store no longer accepts its clock",
        "exit 1; the message says that the clock is wrong, no upload is open, the earlier backups \
         are as they were and the next one works",
    );
    let before = scene.stored();
    scene.proxy.clear();
    let code = "<Error><Code>RequestTimeTooSkewed</Code></Error>".to_owned();
    scene
        .proxy
        .add(&Rule::new(&Fault::Answer(403, code)).on(FIRST_PART));
    let run = scene.backup().run();
    scene.assert_failed(&run, WRONG, &before);
    scene.assert_next_works();
    row.lived_through();
    row.finish();

    let mut row = Row::new(
        Section::Together,
        "`backup`: its clock is put back ten minutes in the middle of the copy",
        "exit 0; the backup is `DONE` and comes back",
    );
    let file = workspace.file("clock", "+0\n");
    let tool = scene.backup().envs(clock.as_told_by(&file));
    let tool = scene.held(FIRST_PART, tool);
    workspace.file("clock", "-10m\n");
    scene.proxy.release();
    let run = tool.wait();
    assert_eq!(run.code(), Some(0), "{run}");
    scene.assert_comes_back();
    row.lived_through();
    row.finish();
}

#[test]
fn a_clock_that_is_put_back_between_two_backups() {
    let (Some(bin), Some(clock)) = (PgBin::find(), WrongClock::find()) else {
        return;
    };
    let workspace = Workspace::new();
    let place = Place::in_directory(&workspace);
    let mut primary = place.primary(&bin, "");
    primary.start();
    let session = primary.session();
    session.run("CREATE TABLE t AS SELECT generate_series(1, 1000) AS i");
    let base = workspace.path("bucket/main/base");
    let ids = || {
        let names = std::fs::read_dir(&base).unwrap();
        let mut names: Vec<String> = names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let backup = |offset: &str| {
        place
            .backup(&primary, "postgres")
            .envs(clock.off_by(offset))
    };

    let mut row = Row::new(
        Section::Together,
        "`backup`: its clock stands still at the second of an earlier backup",
        "exit 1 after some tries; the earlier backup is as it was, byte for byte",
    );
    let second = "2026-01-01 00:00:00";
    backup(second).succeed();
    assert_eq!(ids(), ["20260101T000000"]);
    let before = Tree::of(&base);
    let run = backup(second).run();
    assert_eq!(run.code(), Some(1), "{run}");
    assert!(run.errors()[0].contains("no free backup id"), "{run}");
    Tree::of(&base).assert_same(&before, "the earlier backup");
    row.lived_through();
    row.finish();

    // From a year ahead back to the truth.
    backup("+365d").succeed();
    session.run("INSERT INTO t SELECT generate_series(2000, 2999)");
    primary.archive_everything();
    backup("+0").succeed();
    session.run("INSERT INTO t SELECT generate_series(3000, 3999)");
    let digest = session.digest();
    primary.archive_everything();
    drop(session);
    primary.stop(e2e::ShutDown::Immediate);
    let all = ids();
    let [_, newer, ahead] = &all[..] else {
        panic!("{all:?}")
    };
    let delete = |policy: &str, offset: &str| {
        place
            .tool("barman-cloud-backup-delete")
            .args(["-r", policy, place.url(), "main"])
            .envs(clock.off_by(offset))
            .succeed();
    };
    let comes_back = |name: &str| {
        let mut back = place.restored(&bin, name, &e2e::Recovery::Latest);
        back.start_and_recover();
        assert_eq!(back.session().digest(), digest);
    };
    let mut row = Row::new(
        Section::Together,
        "`backup`: its clock is a year ahead for one backup, and right for the next",
        "both are listed, in the order of their ids; `latest` is the one from the future, and \
         comes back with all WAL since",
    );
    let list = place.tool("barman-cloud-backup-list");
    let list = list.args([place.url(), "main"]).run();
    let places = [newer, ahead].map(|id| list.stdout.find(id.as_str()).unwrap());
    assert!(places[0] < places[1], "{list}");
    comes_back("from-ahead");
    row.lived_through();
    row.finish();

    let mut row = Row::new(
        Section::Together,
        "`backup-delete`: by policy, with a backup whose id is a year ahead, and with a clock that \
         is two years ahead itself",
        "one backup stays, with all WAL since it began: everything comes back",
    );
    for (policy, offset) in [
        ("RECOVERY WINDOW OF 7 DAYS", "+0"),
        ("REDUNDANCY 2", "+0"),
        ("RECOVERY WINDOW OF 7 DAYS", "+730d"),
        ("REDUNDANCY 1", "+730d"),
    ] {
        delete(policy, offset);
        comes_back(&format!("after-{}", row.times()));
        row.lived_through();
    }
    assert_eq!(ids(), [ahead.as_str()]);
    row.finish();
}
