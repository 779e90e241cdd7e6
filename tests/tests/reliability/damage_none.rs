//! WAL that is whole: a warning that cannot be trusted would not be read.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use e2e::{Cluster, Objects, PgBin, Recovery, Row, Section, ShutDown, Workspace, WriteLoad};
use e2e::{of_sample_or_whole, wait_until};

/// Lets a load write segments; half-way the server crashes, within records.
fn write_and_crash(cluster: &mut Cluster, crashes: u32) {
    for _ in 0..crashes {
        let load = WriteLoad::start(cluster, &[("t", None)]);
        load.wait_for_commits(60);
        // Long records, which go over several pages.
        let session = cluster.session();
        session.run("CREATE TABLE IF NOT EXISTS long (body text)");
        session.run("ALTER TABLE long ALTER body SET STORAGE EXTERNAL");
        session.run(
            "INSERT INTO long SELECT string_agg(md5(i::text || random()), '') \
             FROM generate_series(1, 20000) AS i",
        );
        cluster.stop(ShutDown::Immediate);
        drop(load);
        cluster.start();
    }
    cluster.session().run("CHECKPOINT");
    cluster
        .session()
        .run("INSERT INTO t (body) VALUES ('last')");
    cluster.archive_everything();
}

/// Fetches every segment and `.partial` of the archive; gives how many.
fn fetch_all(at: &Objects<'_>) -> usize {
    let keys = at.keys("main/wals/0");
    let names = keys.iter().filter_map(|key| {
        let name = key.rsplit('/').next()?;
        (name.len() == 24 || name.ends_with(".partial")).then_some(name)
    });
    let mut count = 0;
    for name in names {
        let (run, delivered) = at.fetched(name);
        assert_eq!((run.code(), run.stderr.as_str()), (Some(0), ""), "{run}");
        assert!(delivered.is_some(), "{run}");
        count += 1;
    }
    count
}

/// A server of every version writes, crashes, is restored and promoted.
#[test]
fn what_servers_wrote_is_delivered_without_a_warning() {
    let mut row = Row::new(
        Section::Damage,
        "`wal-restore`: segments of servers that crash and are promoted, nothing damaged",
        "delivered as they were archived, without a warning",
    );
    for version in of_sample_or_whole(&[18][..], &[10, 11, 12, 13, 14, 15, 16, 17, 18]) {
        let Some(bin) = PgBin::of_version(*version) else {
            return;
        };
        let workspace = Workspace::new();
        let at = Objects::in_directory(&workspace);
        let mut primary = at.place().primary(&bin, "");
        primary.start();
        let id = at.back_up(&primary, &[]);
        write_and_crash(&mut primary, of_sample_or_whole(1, 10));
        primary.stop(ShutDown::Fast);

        // Promoted in the middle of a segment, it archives that as a `.partial`.
        at.place()
            .tool("barman-cloud-restore")
            .args([at.place().url(), "main", &id])
            .arg(workspace.path("promoted"))
            .succeed();
        let mut promoted = Cluster::existing(&bin, &workspace, "promoted");
        promoted.recover(&workspace, at.place().url(), "main", &Recovery::Latest);
        promoted.configure("archive_mode", "on");
        let settings = promoted.pgdata().join("postgresql.auto.conf");
        let text = fs::read_to_string(&settings).unwrap();
        fs::write(&settings, text.replace("archive_mode = 'off'", "")).unwrap();
        promoted.start_and_recover();
        wait_until("the history file", || {
            let keys = at.keys("main/wals/");
            keys.iter()
                .any(|key| key.ends_with("00000002.history"))
                .then_some(())
        });
        write_and_crash(&mut promoted, 1);
        promoted.stop(ShutDown::Fast);
        let count = fetch_all(&at);
        assert!(count > 3, "hardly anything was written: {count}");
        row.lived_through();
    }
    row.finish();
}

/// Changes rows all over a table until it is told to stop, with hardly any memory for the
/// server: each change writes pages.
fn churn(cluster: &Cluster, stop: &AtomicBool) {
    let session = cluster.session();
    while !stop.load(Ordering::Relaxed) {
        session.run(
            "UPDATE churn SET body = md5(random()::text) || repeat('y', 150) WHERE id IN \
             (SELECT (random() * 100000)::int FROM generate_series(1, 100))",
        );
    }
}

/// Pages that a backup reads while the server writes them are no damage, and a check that took
/// them for it would be believed no more.
#[test]
fn backups_of_a_server_that_writes_all_the_time_are_good() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let at = Objects::in_directory(&workspace);
    let mut cluster = Cluster::create(&bin, &workspace, "primary", &["--wal-segsize=16"]);
    cluster.archive_into(&workspace, at.place().url(), "main", "");
    for (name, value) in [
        ("shared_buffers", "1MB"),
        ("min_wal_size", "32MB"),
        ("max_wal_size", "64MB"),
        ("synchronous_commit", "off"),
        ("bgwriter_delay", "10ms"),
    ] {
        cluster.configure(name, value);
    }
    cluster.start();
    cluster.session().run(
        "CREATE TABLE churn AS SELECT i AS id, repeat('x', 180) AS body \
         FROM generate_series(1, 100000) AS i; CREATE INDEX ON churn (id)",
    );
    let mut row = Row::new(
        Section::Damage,
        "`verify`: backups of a server that writes all the time with hardly any memory, nothing damaged",
        "good: a page that was read half old and half new is told from a damaged one by the WAL of \
         the backup",
    );
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| churn(&cluster, &stop));
        // A test that fails must not wait for it for ever.
        let stopped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..of_sample_or_whole(2, 200) {
                let id = at.back_up(&cluster, &[]);
                let proof = at.place().prove(&id, &["--wal"]);
                assert!(proof.is_good(), "{}", proof.run);
                assert!(proof.number("pages") > 5000, "{}", proof.run);
                row.lived_through();
                at.place()
                    .tool("barman-cloud-backup-delete")
                    .args(["-r", "REDUNDANCY 1", at.place().url(), "main"])
                    .succeed();
            }
        }));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = stopped {
            std::panic::resume_unwind(panic);
        }
    });
    cluster.stop(ShutDown::Immediate);
    row.finish();
}
