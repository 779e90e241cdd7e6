//! `barman-cloud-wal-restore --parallel`: a helper that fetches ahead while PostgreSQL
//! replays, and never becomes PostgreSQL's child.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use e2e::{
    Asked, Cluster, FaultProxy, LongArchive, PgBin, Process, Recovery, S3Server, ShutDown,
    Workspace, segment_in, wait_until,
};

/// How often each segment was read, and how often each was looked for in a listing.
pub(crate) fn requests(proxy: &FaultProxy) -> (BTreeMap<String, usize>, BTreeMap<String, usize>) {
    let (mut reads, mut listings) = (BTreeMap::new(), BTreeMap::new());
    for request in proxy.log() {
        let Some(target) = request.line.strip_prefix("GET ") else {
            continue;
        };
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let prefix = query
            .split('&')
            .find_map(|part| part.strip_prefix("prefix="));
        let (counts, text) = match prefix {
            Some(prefix) => (&mut listings, prefix),
            None => (&mut reads, path),
        };
        if let Some(name) = segment_in(text) {
            *counts.entry(name).or_default() += 1;
        }
    }
    (reads, listings)
}

/// The segments of the archive that were read more than once, and more often than the
/// server asked for them. PostgreSQL asks for the last ones of a recovery again, for
/// whatever it had of them until then is thrown away.
pub(crate) fn read_in_vain<'a>(
    reads: &'a BTreeMap<String, usize>,
    asked: &Asked,
    archived: &BTreeSet<String>,
) -> Vec<&'a String> {
    let asked = asked.counts();
    let vain = reads.iter().filter(|(name, count)| {
        let most = asked.get(*name).copied().unwrap_or_default().max(1);
        archived.contains(*name) && **count > most
    });
    vain.map(|(name, _)| name).collect()
}

#[test]
fn each_segment_is_read_as_often_as_postgresql_asks() {
    for (mib, segments) in [(1, 40), (64, 6)] {
        let Some(bin) = PgBin::find() else { return };
        let workspace = Workspace::new();
        let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
            return;
        };
        let scene = LongArchive::new(bin, &workspace, &bucket, mib, segments);
        let proxy = FaultProxy::start(bucket.endpoint());
        let mut back = scene.restored("back", &Recovery::Latest, Some(&proxy));
        let asked = scene.list_what_is_asked(&back, "spool", &Recovery::Latest);
        back.start_and_recover();
        scene.assert_is_back(&back);
        back.stop(ShutDown::Fast);
        Process::wait_for_helpers(&workspace);
        let archived = scene.segments();
        let of_archive = |counts: &BTreeMap<String, usize>| {
            let mut counts = counts.clone();
            counts.retain(|name, _| archived.contains(name));
            counts
        };
        let (asked, (reads, listings)) = (asked.counts(), requests(&proxy));
        assert_eq!(of_archive(&reads), of_archive(&asked), "of {mib} MiB");
        assert!(of_archive(&reads).len() >= segments as usize, "{reads:?}");
        let listed: usize = of_archive(&listings).values().sum();
        assert!(listed <= 1, "{listings:?}");
        // That there is no more is never said from memory.
        for (name, count) in &asked {
            if segment_in(name).is_some() && !archived.contains(name) {
                assert!(listings[name] >= *count, "{name}: {listings:?}, {asked:?}");
            }
        }
    }
}

#[test]
fn the_helper_has_nothing_of_postgresql() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let scene = LongArchive::new(bin, &workspace, &bucket, 1, 30);
    let proxy = FaultProxy::start(bucket.endpoint());
    let mut standby = scene.restored("back", &Recovery::Standby, Some(&proxy));
    // Held back, so that there is a helper to look at.
    proxy.add(
        &e2e::Rule::new(&e2e::Fault::Hold)
            .on("^GET /.*/wals/.*zst")
            .skip(4),
    );
    standby.launch();
    let helper = wait_until("a helper", || Process::helpers(&workspace).first().copied());
    wait_until("a session of its own", || {
        (helper.session() == Some(helper.pid())).then_some(())
    });
    wait_until("another place", || {
        (fs::read_link(helper.path("cwd")).ok()? == Path::new("/")).then_some(())
    });
    let parent = wait_until("the end of the call that started it", || {
        let name = helper.parent()?.name();
        let gone = !name.is_empty() && !name.starts_with("barman-cloud") && name != "sh";
        gone.then_some(name)
    });
    assert!(!parent.contains("postgres"), "its parent is {parent}");
    let data = workspace.path("back");
    let pipes: BTreeSet<_> = standby
        .processes()
        .into_iter()
        .flat_map(|pid| Process::new(pid).open_files())
        .collect();
    for file in helper.open_files() {
        let odd = file.starts_with(&data) || file.to_string_lossy().starts_with("pipe:");
        assert!(!odd || !pipes.contains(&file), "it has {}", file.display());
        assert!(!file.starts_with(&data), "it has {}", file.display());
    }
    for stream in 0..3 {
        let leads_to = fs::read_link(helper.path(&format!("fd/{stream}"))).unwrap();
        assert_eq!(leads_to, Path::new("/dev/null"), "{stream}");
    }
    proxy.clear();
    proxy.release();
    wait_until("the end of the archive", || {
        let sql = "SELECT count(*) FROM t WHERE text = 'last'";
        let session = e2e::Session::open(standby.socket_dir(), "postgres", "postgres").ok()?;
        (session.try_rows(sql).ok()?[0][0] == "30").then_some(())
    });
    standby.stop(ShutDown::Fast);
    Process::wait_for_helpers(&workspace);
}

#[test]
fn two_standbys_share_a_spool_and_nothing_in_it() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let scene = LongArchive::new(bin, &workspace, &bucket, 1, 30);
    let proxies = [0, 1].map(|_| FaultProxy::start(bucket.endpoint()));
    let mut clusters: Vec<Cluster> = proxies
        .iter()
        .zip(["one", "two"])
        .map(|(proxy, name)| scene.restored(name, &Recovery::Latest, Some(proxy)))
        .collect();
    let mut lists = Vec::new();
    for cluster in &mut clusters {
        lists.push(scene.list_what_is_asked(cluster, "spool", &Recovery::Latest));
        cluster.launch();
    }
    for ((cluster, proxy), asked) in clusters.iter_mut().zip(&proxies).zip(&lists) {
        cluster.wait_for_recovery();
        scene.assert_is_back(cluster);
        let (reads, _) = requests(proxy);
        let archived = scene.segments();
        let replayed = reads.keys().filter(|name| archived.contains(*name));
        assert!(replayed.count() >= 30, "{reads:?}");
        assert_eq!(read_in_vain(&reads, asked, &archived), [""; 0], "{reads:?}");
    }
}

/// The server is killed in the middle and started again; then another server's archive
/// takes the place of this one's, and its backup that of the data directory.
#[test]
fn what_an_earlier_recovery_left_is_not_replayed() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let scene = LongArchive::new(bin.clone(), &workspace, &bucket, 1, 30);
    let proxy = FaultProxy::start(bucket.endpoint());
    let mut back = scene.restored("back", &Recovery::Latest, Some(&proxy));
    back.launch();
    wait_until("some of it", || {
        (requests(&proxy).0.len() > 12).then_some(())
    });
    back.stop(ShutDown::Immediate);
    back.start_and_recover();
    scene.assert_is_back(&back);
    back.stop(ShutDown::Immediate);

    for key in bucket.keys("p/") {
        bucket.remove(&key);
    }
    for folder in ["primary", "primary.socket", "back", "back.socket"] {
        fs::remove_dir_all(workspace.path(folder)).unwrap();
    }
    let scene = LongArchive::new(bin, &workspace, &bucket, 1, 35);
    let mut back = scene.restored("back", &Recovery::Latest, Some(&proxy));
    back.start_and_recover();
    scene.assert_is_back(&back);
}

#[test]
fn the_helper_follows_to_another_timeline() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let mut scene = LongArchive::new(bin, &workspace, &bucket, 1, 20);
    let proxy = FaultProxy::start(bucket.endpoint());
    let mut second = scene.restored("second", &Recovery::Latest, Some(&proxy));
    second.start_and_recover();
    let archive = workspace.bin("barman-cloud-wal-archive");
    let (archive, url) = (archive.display(), scene.place().url());
    second.session().run("ALTER SYSTEM SET archive_mode = 'on'");
    second.session().run(&format!(
        "ALTER SYSTEM SET archive_command = '{archive} --zstd {url} main %p'"
    ));
    second.stop(ShutDown::Fast);
    // Made while nothing was archived.
    let history = scene.place().tool("barman-cloud-wal-archive");
    history
        .args([scene.place().url(), "main"])
        .arg(workspace.path("second/pg_wal/00000002.history"))
        .succeed();
    second.start();
    second.session().run("DROP TABLE t");
    LongArchive::write(&second, 20);
    scene.set_digest(second.session().digest());
    second.archive_everything();
    second.stop(ShutDown::Fast);

    let proxy = FaultProxy::start(bucket.endpoint());
    let mut third = scene.restored("third", &Recovery::Latest, Some(&proxy));
    let asked = scene.list_what_is_asked(&third, "spool", &Recovery::Latest);
    third.start_and_recover();
    scene.assert_is_back(&third);
    let (reads, _) = requests(&proxy);
    let of = |timeline: &str| {
        reads
            .keys()
            .filter(|name| name.starts_with(timeline))
            .count()
    };
    assert!(of("00000001") > 15 && of("00000002") > 15, "{reads:?}");
    let archived = scene.segments();
    assert_eq!(
        read_in_vain(&reads, &asked, &archived),
        [""; 0],
        "{reads:?}"
    );
}

/// An orphan of a postmaster that is process 1 would be its child.
#[test]
fn there_is_no_helper_where_postgresql_is_the_first_process() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    if !Cluster::can_be_first_process() {
        return;
    }
    let scene = LongArchive::new(bin, &workspace, &bucket, 1, 40);
    let proxy = FaultProxy::start(bucket.endpoint());
    let mut standby = scene.restored("back", &Recovery::Standby, Some(&proxy));
    let asked = scene.list_what_is_asked(&standby, "spool", &Recovery::Standby);
    standby.be_first_process();
    let over = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut seen = 0;
            while !over.load(Ordering::Relaxed) {
                seen += Process::helpers(&workspace).len();
                std::thread::yield_now();
            }
            seen
        });
        standby.start();
        let session = standby.session();
        wait_until("the end of the archive", || {
            let sql = "SELECT count(*) FROM t WHERE text = 'last'";
            (session.try_rows(sql).ok()?[0][0] == "40").then_some(())
        });
        over.store(true, Ordering::Relaxed);
        watcher.join().expect("no panic")
    });
    assert_eq!(seen, 0, "a helper was started");
    scene.assert_is_back(&standby);
    let log = standby.log_text();
    assert!(!log.contains("reinitializing"), "{log}");
    // And yet most segments were there before they were asked for.
    let (reads, listings) = requests(&proxy);
    let archived = scene.segments();
    assert_eq!(
        read_in_vain(&reads, &asked, &archived),
        [""; 0],
        "{reads:?}"
    );
    let listed = listings
        .keys()
        .filter(|name| archived.contains(*name))
        .count();
    assert!(listed <= 1, "{listings:?}");
    standby.stop(ShutDown::Fast);
}
