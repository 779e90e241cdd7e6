//! `barman-cloud-wal-archive --queue-max`: a database outlives its store, and the archive
//! says what it lost.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use e2e::{
    Barman, Bucket, Cluster, Fault, FaultProxy, PgBin, Place, Recovery, Rule, Run, S3Server,
    ShutDown, Tool, Workspace, of_sample_or_whole, segment_moved_to, wait_until,
};
use rustix::process::Signal;

const TOOL: &str = "barman-cloud-wal-archive";

/// The name of a segment of timeline 1.
fn name(number: u64) -> String {
    format!("0000000100000000{number:08X}")
}

/// Segments 1 and on, with PostgreSQL's marks that they wait.
fn lay_out(workspace: &Workspace, segments: u64) {
    for folder in ["data", "data/pg_wal", "data/pg_wal/archive_status"] {
        workspace.dir(folder);
    }
    for number in 1..=segments {
        workspace.file(
            format!("data/pg_wal/{}", name(number)),
            segment_moved_to(number),
        );
        workspace.file(mark(&name(number)), "");
    }
}

fn mark(name: &str) -> String {
    format!("data/pg_wal/archive_status/{name}.ready")
}

fn archive<'w>(place: &Place<'w>, workspace: &Workspace, name: &str) -> Tool<'w> {
    place
        .tool(TOOL)
        .in_dir(&workspace.path("data"))
        .args(["--queue-max=4MB", place.url(), "main"])
        .arg(format!("--spool-dir={}", workspace.path("spool").display()))
        .arg(format!("pg_wal/{name}"))
}

/// The file in which it is on record what was let go, if anything is.
fn record(workspace: &Workspace) -> Option<PathBuf> {
    let folders = fs::read_dir(workspace.path("spool")).into_iter().flatten();
    let mut records = folders.map(|folder| folder.unwrap().path().join("gaps"));
    records.find(|record| record.exists())
}

/// The first and last segment of each gap that the archive tells of.
fn told(bucket: &Bucket<'_>) -> Vec<(String, String)> {
    let keys = bucket.keys("p/main/gaps/");
    let ends = |key: &String| {
        let base = key.rsplit('/').next().unwrap();
        let mut parts = base.split('-');
        let mut part = || parts.next().unwrap().to_owned();
        (part(), part())
    };
    keys.iter().map(ends).collect()
}

/// Makes the server finish so many segments.
fn write_segments(server: &Cluster, count: usize) {
    let session = server.session();
    for _ in 0..count {
        session.run("SELECT pg_logical_emit_message(true, 'test', 'x')");
        session.run("SELECT pg_switch_wal()");
    }
}

/// How many segments wait.
fn waiting(server: &Cluster) -> usize {
    let status = server.pgdata().join("pg_wal/archive_status");
    let names = fs::read_dir(status).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names
        .filter(|name| {
            name.strip_suffix(".ready")
                .is_some_and(|name| name.len() == 24)
        })
        .count()
}

fn list(place: &Place<'_>, format: &str) -> Run {
    let run = place
        .tool("barman-cloud-backup-list")
        .args(["--format", format, place.url(), "main"])
        .run();
    assert_eq!(run.code(), Some(0), "{run}");
    run
}

fn check(place: &Place<'_>) -> Run {
    place
        .tool("barman-cloud-check-wal-archive")
        .args([place.url(), "main"])
        .run()
}

/// The store goes away for good, as it seems; the disk must not fill up. Then it is back.
#[test]
fn a_server_outlives_its_store_and_the_archive_says_what_it_lost() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let proxy = FaultProxy::start(bucket.endpoint());
    let place = Place::in_bucket(&workspace, &bucket, "p");
    let spool = workspace.path("spool");
    let mut primary = place.primary(
        &bin,
        &format!("--zstd --queue-max=4MB --spool-dir={}", spool.display()),
    );
    primary.set_environment(&bucket.environment_through(&proxy));
    primary.start();
    primary.session().run("CREATE TABLE t AS SELECT 1 AS a");
    let backup = place.backup(&primary, "postgres").run();
    assert_eq!(backup.code(), Some(0), "{backup}");
    primary.archive_everything();
    let formats = ["console", "json"];
    let before = formats.map(|format| list(&place, format));

    proxy.go_down();
    write_segments(&primary, 40);
    wait_until("WAL to be let go", || {
        (waiting(&primary) <= 5).then_some(())
    });
    let log = primary.log_text();
    assert!(
        log.contains("ERROR: WAL file") && log.contains("IS NOT ARCHIVED"),
        "{log}"
    );
    assert!(told(&bucket).is_empty() && record(&workspace).is_some());
    // The server goes on, and keeps what it needs for itself only.
    primary
        .session()
        .run("INSERT INTO t VALUES (2); CHECKPOINT");
    primary.session().run("CHECKPOINT");
    let (_, rest) = log.split_once("ERROR: WAL file ").unwrap();
    let first = primary.pgdata().join("pg_wal").join(&rest[..24]);
    assert!(!first.exists(), "{} is still there", first.display());

    let seen = proxy_log_len(&proxy);
    proxy.come_up();
    primary.archive_everything();
    assert_eq!(record(&workspace), None);
    let gaps = told(&bucket);
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    let lines = proxy
        .log()
        .into_iter()
        .skip(seen)
        .map(|request| request.line);
    let puts: Vec<String> = lines.filter(|line| line.starts_with("PUT")).collect();
    assert!(puts[0].contains("/p/main/gaps/"), "{puts:?}");
    assert!(
        puts[1..].iter().all(|line| line.contains("/p/main/wals/")),
        "{puts:?}"
    );

    // The catalogue says it, and not where programs read.
    for (format, before) in formats.into_iter().zip(&before) {
        let after = list(&place, format);
        assert_eq!(after.stdout, before.stdout);
        let told = after.messages("WARNING");
        let [told] = told.as_slice() else {
            panic!("{after}")
        };
        let expected = format!("stops before {}", gaps[0].0);
        assert!(
            told.contains(&expected) && told.contains(&gaps[0].1),
            "{told}"
        );
    }
    let checked = check(&place);
    assert_eq!(checked.code(), Some(1), "{checked}");
    assert_eq!(checked.messages("WARNING").len(), 1, "{checked}");

    // With a new backup it is of no consequence.
    let take_backup = || {
        let backup = place.backup(&primary, "postgres").run();
        assert_eq!(backup.code(), Some(0), "{backup}");
    };
    take_backup();
    if let Some(barman) = Barman::find() {
        barman_notices_nothing(&barman, &place, &workspace);
        assert_eq!(told(&bucket), gaps);
        take_backup();
    }
    // And with the old one it is gone.
    place
        .tool("barman-cloud-backup-delete")
        .args(["--retention-policy=REDUNDANCY 1", place.url(), "main"])
        .succeed();
    assert!(told(&bucket).is_empty());
    assert!(list(&place, "console").stderr.is_empty());
    primary.session().run("INSERT INTO t VALUES (3)");
    primary.archive_everything();
    primary.stop(ShutDown::Fast);
    let mut restored = place.restored(&bin, "back", &Recovery::Latest);
    restored.start_and_recover();
    assert_eq!(restored.session().value("SELECT sum(a)::text FROM t"), "6");
    restored.stop(ShutDown::Fast);
}

/// How many requests there were; the proxy must not be asked while it is down.
fn proxy_log_len(proxy: &FaultProxy) -> usize {
    proxy.come_up();
    let seen = proxy.log().len();
    proxy.go_down();
    seen
}

/// What the reference's tools print and answer does not change by what is said of gaps.
fn barman_notices_nothing(barman: &Barman, place: &Place<'_>, workspace: &Workspace) {
    let theirs = |tool: &str, arguments: &[&str]| {
        let tool = barman
            .tool(workspace, tool)
            .envs(place.environment().to_vec());
        tool.args(arguments).run()
    };
    let url = place.url();
    let listed = theirs("barman-cloud-backup-list", &["--format=json", url, "main"]);
    assert_eq!(listed.stdout, list(place, "json").stdout, "{listed}");
    assert!(listed.stderr.is_empty(), "{listed}");
    let checked = theirs("barman-cloud-check-wal-archive", &[url, "main"]);
    assert_eq!(checked.code(), Some(1), "{checked}");
    assert_eq!(checked.messages("WARNING"), Vec::<String>::new());
    let restored = workspace.path("by-barman");
    let restored = restored.to_str().unwrap();
    let run = theirs("barman-cloud-restore", &[url, "main", "latest", restored]);
    assert_eq!((run.code(), run.stderr.as_str()), (Some(0), ""), "{run}");
    let deleted = theirs(
        "barman-cloud-backup-delete",
        &["--retention-policy=REDUNDANCY 1", url, "main"],
    );
    assert_eq!(
        (deleted.code(), deleted.stderr.as_str()),
        (Some(0), ""),
        "{deleted}"
    );
}

/// Calls are killed wherever they are; PostgreSQL believes only those that end with 0.
#[test]
fn a_call_that_is_killed_lets_nothing_go_without_a_word() {
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let proxy = FaultProxy::start(bucket.endpoint());
    let place = Place::in_bucket(&workspace, &bucket, "p");
    let segments = of_sample_or_whole(60, 600);
    lay_out(&workspace, 4);
    let environment = bucket.environment_through(&proxy);
    let mut random = fastrand::Rng::with_seed(8);
    let mut killed = 0;
    for number in 1..=segments {
        // One more waits than may.
        let next = number + 4;
        workspace.file(
            format!("data/pg_wal/{}", name(next)),
            segment_moved_to(next),
        );
        workspace.file(mark(&name(next)), "");
        if number % 20 == 11 {
            proxy.go_down();
        } else if number % 20 == 1 {
            proxy.come_up();
            // As if a minute had passed, after which the store is tried again.
            for folder in fs::read_dir(workspace.path("spool")).into_iter().flatten() {
                let _ = fs::remove_file(folder.unwrap().path().join("queue-failed"));
            }
        }
        loop {
            let call = archive(&place, &workspace, &name(number)).envs(environment.clone());
            let call = call.start();
            if random.u8(..3) == 0 {
                // Before, while and after it is put on record.
                let begun = Instant::now();
                let moment = Duration::from_micros(random.u64(..150_000));
                while begun.elapsed() < moment {
                    std::thread::yield_now();
                }
                call.signal(Signal::KILL);
            }
            let run = call.wait();
            if run.code() == Some(0) {
                break;
            }
            assert_eq!(run.signal(), Some(Signal::KILL.as_raw()), "{run}");
            killed += 1;
        }
        let name = name(number);
        fs::remove_file(workspace.path(mark(&name))).unwrap();
        let stored = || {
            let keys = bucket.keys(&format!("p/main/wals/0000000100000000/{name}"));
            !keys.is_empty()
        };
        let on_record = record(&workspace).is_some_and(|record| {
            let text = fs::read_to_string(record).unwrap();
            text.contains("first=0000")
        });
        let said = told(&bucket)
            .iter()
            .any(|(first, last)| (first..=last).contains(&&name));
        assert!(stored() || said || on_record, "{name} is lost");
    }
    assert!(killed > 0);
    proxy.come_up();
    workspace.file("data/pg_wal/00000002.history", "1\t0/100000\tno reason\n");
    let last = archive(&place, &workspace, "00000002.history").run();
    assert_eq!(last.code(), Some(0), "{last}");
    assert_eq!(record(&workspace), None);
    let (told, stored) = (told(&bucket), bucket.keys("p/main/wals/"));
    for number in 1..=segments {
        let name = name(number);
        let said = told
            .iter()
            .any(|(first, last)| (first..=last).contains(&&name));
        let stored = stored.iter().any(|key| key.ends_with(&name));
        assert!(said || stored, "{name} is lost");
    }
    assert!(told.len() > 1, "{told:?}");
}

#[test]
fn two_hundred_thousand_marks_are_counted_at_once() {
    let workspace = Workspace::new();
    let place = Place::in_directory(&workspace);
    lay_out(&workspace, 2);
    let status = workspace.path("data/pg_wal/archive_status");
    for numbers in [
        3..50_000,
        50_000..100_000,
        100_000..150_000,
        150_000..200_000,
    ] {
        let mark = |number| status.join(format!("{}.ready", name(number)));
        let first = mark(numbers.start);
        fs::write(&first, "").unwrap();
        for number in numbers.skip(1) {
            fs::hard_link(&first, mark(number)).unwrap();
        }
    }
    let with = |limit: &str, number: u64| {
        let tool = place.tool(TOOL).in_dir(&workspace.path("data"));
        tool.args([limit, place.url(), "main"])
            .arg(format!("--spool-dir={}", workspace.path("spool").display()))
            .arg(format!("pg_wal/{}", name(number)))
            .run()
    };
    // 200,000 segments of 1 MiB.
    let run = with("--queue-max=199_999MB", 1);
    assert_eq!((run.code(), run.stderr.as_str()), (Some(0), ""), "{run}");
    assert!(
        workspace
            .path(format!("bucket/main/wals/0000000100000000/{}", name(1)))
            .exists()
    );
    assert_eq!(record(&workspace), None);
    let run = with("--queue-max=10GB", 2);
    assert_eq!(run.code(), Some(0), "{run}");
    let errors = run.errors();
    assert!(
        errors[0].contains("at least 20481 segments (20481 MiB) wait"),
        "{run}"
    );
    assert!(record(&workspace).is_some());
}

#[test]
fn where_nothing_waits_the_option_is_refused_or_told() {
    let workspace = Workspace::new();
    let place = Place::in_directory(&workspace);
    lay_out(&workspace, 1);
    let hook = archive(&place, &workspace, &name(1))
        .env("BARMAN_HOOK", "archive_script")
        .env("BARMAN_PHASE", "pre")
        .env(
            "BARMAN_FILE",
            workspace.path(format!("data/pg_wal/{}", name(1))),
        )
        .run();
    assert_eq!(hook.code(), Some(3), "{hook}");
    assert!(
        hook.errors()[0].contains("--queue-max has no meaning"),
        "{hook}"
    );
    fs::remove_dir_all(workspace.path("data/pg_wal/archive_status")).unwrap();
    let run = archive(&place, &workspace, &name(1)).run();
    assert_eq!(run.code(), Some(0), "{run}");
    assert_eq!(run.messages("WARNING").len(), 1, "{run}");
}

/// A store that answers and does not take it, and one that takes it too late.
#[test]
fn a_store_that_is_merely_slow_is_waited_for_up_to_the_limit_only() {
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let proxy = FaultProxy::start(bucket.endpoint());
    let place = Place::in_bucket(&workspace, &bucket, "p");
    lay_out(&workspace, 5);
    proxy.add(&Rule::new(&Fault::Hold).on("^PUT /.*/wals/"));
    let environment = bucket.environment_through(&proxy);
    let run = archive(&place, &workspace, &name(1))
        .envs(environment.clone())
        .run();
    assert_eq!(run.code(), Some(0), "{run}");
    assert!(
        run.errors()[0].contains("the store did not take it within 5 s"),
        "{run}"
    );
    fs::remove_file(workspace.path(mark(&name(1)))).unwrap();
    proxy.clear();
    proxy.release();
    let run = archive(&place, &workspace, &name(2))
        .envs(environment)
        .run();
    assert_eq!(run.code(), Some(0), "{run}");
    assert_eq!(run.errors(), Vec::<String>::new());
    assert_eq!(told(&bucket), [(name(1), name(1))]);
}
