//! WAL that is whole: a warning that cannot be trusted would not be read.

use std::fs;

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
