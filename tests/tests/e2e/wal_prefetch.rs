//! `barman-cloud-wal-restore --parallel`: a helper that fetches ahead while PostgreSQL
//! replays, and never becomes PostgreSQL's child.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use e2e::{
    Bucket, Cluster, FaultProxy, PgBin, Place, Recovery, S3Server, ShutDown, Workspace,
    of_sample_or_whole, wait_until,
};
use rustix::process::{Pid, Signal, kill_process};

const TOOL: &str = "barman-cloud-wal-restore";

/// A base backup in a bucket, and the WAL of a server that went on writing.
struct Scene<'w> {
    bin: PgBin,
    workspace: &'w Workspace,
    bucket: &'w Bucket<'w>,
    place: Place<'w>,
    /// What is to come back.
    digest: String,
}

impl<'w> Scene<'w> {
    /// With segments of `mib` MiB, at least `segments` of them.
    fn new(
        bin: PgBin,
        workspace: &'w Workspace,
        bucket: &'w Bucket<'w>,
        mib: u32,
        segments: u32,
    ) -> Self {
        let place = Place::in_bucket(workspace, bucket, "p");
        let size = format!("--wal-segsize={mib}");
        let mut primary = Cluster::create(&bin, workspace, "primary", &[&size]);
        primary.configure("min_wal_size", &format!("{}MB", 4 * mib));
        primary.configure("max_wal_size", &format!("{}MB", 64.max(8 * mib)));
        primary.archive_into(workspace, place.url(), "main", "--zstd --parallel=8");
        primary.set_environment(place.environment());
        primary.start();
        let backup = place.backup(&primary, "postgres").run();
        assert_eq!(backup.code(), Some(0), "{backup}");
        write(&primary, segments);
        let digest = primary.session().digest();
        primary.archive_everything();
        primary.stop(ShutDown::Fast);
        Self {
            bin,
            workspace,
            bucket,
            place,
            digest,
        }
    }

    /// The backup, restored into folder `name` and made to recover through `proxy`.
    fn restored(&self, name: &str, until: &Recovery<'_>, proxy: &FaultProxy) -> Cluster {
        let mut cluster = self.place.restored(&self.bin, name, until);
        cluster.recover_with(&self.command(), until);
        cluster.set_environment(&self.bucket.environment_through(proxy));
        cluster
    }

    fn command(&self) -> String {
        let (tool, spool) = (self.workspace.bin(TOOL), self.workspace.path("spool"));
        format!(
            "{} --parallel=8 --spool-dir={} {} main %f %p",
            tool.display(),
            spool.display(),
            self.place.url()
        )
    }

    fn assert_is_back(&self, cluster: &Cluster) {
        let session = cluster.session();
        assert_eq!(session.digest(), self.digest);
        session.read_every_table();
    }

    /// The names of the segments in the archive.
    fn archived(&self) -> BTreeSet<String> {
        let keys = self.bucket.keys("p/main/wals/").into_iter();
        keys.filter_map(|key| segment_in(&key)).collect()
    }
}

fn write(primary: &Cluster, segments: u32) {
    let session = primary.session();
    session.run("CREATE TABLE t (n int, text text)");
    for segment in 0..segments {
        session.run(&format!(
            "INSERT INTO t SELECT n, md5(n::text) FROM generate_series(1, 1000) n; \
             INSERT INTO t VALUES ({segment}, 'last'); SELECT pg_switch_wal()"
        ));
    }
}

/// The segment that a text names, if it names one.
fn segment_in(text: &str) -> Option<String> {
    let base = text.rsplit('/').next()?.rsplit("%2F").next()?;
    let name = base.get(..24)?;
    let hex = |c: u8| c.is_ascii_digit() || (b'A'..=b'F').contains(&c);
    let whole = !base[24..].starts_with('.') || base[24..].starts_with(".zst");
    (name.bytes().all(hex) && whole).then(|| name.to_owned())
}

/// How often each segment was read, and how often each was looked for in a listing.
fn requests(proxy: &FaultProxy) -> (BTreeMap<String, usize>, BTreeMap<String, usize>) {
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

/// The segments that were read more than once. PostgreSQL itself asks for the last two of
/// a recovery again when it has found that there are no more, and what is after the one
/// is fetched ahead again too.
fn more_than_once(reads: &BTreeMap<String, usize>, archived: &BTreeSet<String>) -> Vec<String> {
    let replayed = reads.iter().filter(|(name, _)| archived.contains(*name));
    let mut replayed: Vec<_> = replayed.collect();
    replayed.truncate(replayed.len().saturating_sub(2));
    let more = replayed.into_iter().filter(|(_, count)| **count > 1);
    more.map(|(name, _)| name.clone()).collect()
}

/// The helpers that were started from this workspace.
fn helpers(workspace: &Workspace) -> Vec<Pid> {
    let mine = workspace.root().to_string_lossy().into_owned();
    let all = fs::read_dir("/proc").expect("Linux has it").flatten();
    all.filter_map(|entry| {
        let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
        let comm = fs::read_to_string(entry.path().join("comm")).ok()?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let ours = comm.trim() == "wal-prefetch" && String::from_utf8_lossy(&line).contains(&mine);
        ours.then_some(pid)
    })
    .collect()
}

/// Field `number` of a process's status, counted from 1 as in its manual.
fn status(pid: Pid, number: usize) -> Option<i32> {
    let text = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    let fields = text.rsplit_once(") ")?.1;
    fields.split(' ').nth(number.checked_sub(3)?)?.parse().ok()
}

#[test]
fn each_segment_is_asked_for_once() {
    for (mib, segments) in [(1, 40), (64, 6)] {
        let Some(bin) = PgBin::find() else { return };
        let workspace = Workspace::new();
        let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
            return;
        };
        let scene = Scene::new(bin, &workspace, &bucket, mib, segments);
        let proxy = FaultProxy::start(bucket.endpoint());
        let mut back = scene.restored("back", &Recovery::Latest, &proxy);
        back.start_and_recover();
        scene.assert_is_back(&back);
        let archived = scene.archived();
        let (reads, listings) = requests(&proxy);
        let replayed = reads.keys().filter(|name| archived.contains(*name)).count();
        assert!(replayed >= segments as usize, "{reads:?}");
        assert_eq!(
            more_than_once(&reads, &archived),
            [""; 0],
            "{reads:?}, of {mib} MiB"
        );
        let listed = listings.iter().filter(|(name, _)| archived.contains(*name));
        let listed: usize = listed.map(|(_, count)| count).sum();
        assert!(listed <= 1, "{listings:?}");
        back.stop(ShutDown::Fast);
        wait_until("the helper to end", || {
            helpers(&workspace).is_empty().then_some(())
        });
    }
}

#[test]
fn the_helper_has_nothing_of_postgresql() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let scene = Scene::new(bin, &workspace, &bucket, 1, 30);
    let proxy = FaultProxy::start(bucket.endpoint());
    let mut standby = scene.restored("back", &Recovery::Standby, &proxy);
    // Held back, so that there is a helper to look at.
    proxy.add(
        &e2e::Rule::new(&e2e::Fault::Hold)
            .on("^GET /.*/wals/.*zst")
            .skip(4),
    );
    standby.launch();
    let helper = wait_until("a helper", || helpers(&workspace).first().copied());
    let of = |what: &str| format!("/proc/{}/{what}", helper.as_raw_nonzero());
    wait_until("a session of its own", || {
        (status(helper, 6) == Some(helper.as_raw_nonzero().get())).then_some(())
    });
    wait_until("another place", || {
        (fs::read_link(of("cwd")).ok()? == Path::new("/")).then_some(())
    });
    let parent = wait_until("the end of the call that started it", || {
        let parent = Pid::from_raw(status(helper, 4)?)?;
        let name = fs::read_to_string(format!("/proc/{}/comm", parent.as_raw_nonzero())).ok()?;
        (!name.starts_with("barman-cloud") && !name.starts_with("sh")).then_some(name)
    });
    assert!(!parent.contains("postgres"), "its parent is {parent}");
    let data = workspace.path("back");
    let pipes: BTreeSet<_> = standby
        .processes()
        .into_iter()
        .flat_map(open_files)
        .collect();
    for file in open_files(helper) {
        let odd = file.starts_with(&data) || file.to_string_lossy().starts_with("pipe:");
        assert!(!odd || !pipes.contains(&file), "it has {}", file.display());
        assert!(!file.starts_with(&data), "it has {}", file.display());
    }
    for stream in 0..3 {
        let leads_to = fs::read_link(of(&format!("fd/{stream}"))).unwrap();
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
    wait_until("the helper to end", || {
        helpers(&workspace).is_empty().then_some(())
    });
}

fn open_files(pid: Pid) -> Vec<std::path::PathBuf> {
    let folder = fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero()));
    let entries = folder.into_iter().flatten().flatten();
    entries
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .collect()
}

#[test]
fn helpers_that_are_killed_are_in_nobodys_way() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let scene = Scene::new(bin, &workspace, &bucket, 1, 60);
    let mut random = fastrand::Rng::with_seed(8);
    for round in 0..of_sample_or_whole(2, 20) {
        let proxy = FaultProxy::start(bucket.endpoint());
        let mut back = scene.restored(&format!("back{round}"), &Recovery::Latest, &proxy);
        let over = AtomicBool::new(false);
        let killed = std::thread::scope(|scope| {
            let killer = scope.spawn(|| {
                let mut killed = 0;
                while !over.load(Ordering::Relaxed) {
                    for helper in helpers(&workspace) {
                        std::thread::park_timeout(std::time::Duration::from_millis(
                            random.u64(0..30),
                        ));
                        killed += usize::from(kill_process(helper, Signal::KILL).is_ok());
                    }
                }
                killed
            });
            back.start_and_recover();
            over.store(true, Ordering::Relaxed);
            killer.join().expect("no panic")
        });
        assert!(killed > 0, "no helper was met");
        scene.assert_is_back(&back);
        assert!(
            !back.log_text().contains("reinitializing"),
            "{}",
            back.log_text()
        );
        back.stop(ShutDown::Fast);
    }
}

#[test]
fn two_standbys_share_a_spool_and_nothing_in_it() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let scene = Scene::new(bin, &workspace, &bucket, 1, 30);
    let proxies = [0, 1].map(|_| FaultProxy::start(bucket.endpoint()));
    let mut clusters: Vec<Cluster> = proxies
        .iter()
        .zip(["one", "two"])
        .map(|(proxy, name)| scene.restored(name, &Recovery::Latest, proxy))
        .collect();
    for cluster in &mut clusters {
        cluster.launch();
    }
    for (cluster, proxy) in clusters.iter_mut().zip(&proxies) {
        cluster.wait_for_recovery();
        scene.assert_is_back(cluster);
        let (reads, _) = requests(proxy);
        let archived = scene.archived();
        let replayed = reads.keys().filter(|name| archived.contains(*name));
        assert!(replayed.count() >= 30, "{reads:?}");
        assert_eq!(more_than_once(&reads, &archived), [""; 0], "{reads:?}");
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
    let scene = Scene::new(bin.clone(), &workspace, &bucket, 1, 30);
    let proxy = FaultProxy::start(bucket.endpoint());
    let mut back = scene.restored("back", &Recovery::Latest, &proxy);
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
    let scene = Scene::new(bin, &workspace, &bucket, 1, 35);
    let mut back = scene.restored("back", &Recovery::Latest, &proxy);
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
    let mut scene = Scene::new(bin, &workspace, &bucket, 1, 20);
    let proxy = FaultProxy::start(bucket.endpoint());
    let mut second = scene.restored("second", &Recovery::Latest, &proxy);
    second.start_and_recover();
    let archive = workspace.bin("barman-cloud-wal-archive");
    let (archive, url) = (archive.display(), scene.place.url());
    second.session().run("ALTER SYSTEM SET archive_mode = 'on'");
    second.session().run(&format!(
        "ALTER SYSTEM SET archive_command = '{archive} --zstd {url} main %p'"
    ));
    second.stop(ShutDown::Fast);
    // Made while nothing was archived.
    let history = scene.place.tool("barman-cloud-wal-archive");
    history
        .args([scene.place.url(), "main"])
        .arg(workspace.path("second/pg_wal/00000002.history"))
        .succeed();
    second.start();
    second.session().run("DROP TABLE t");
    write(&second, 20);
    scene.digest = second.session().digest();
    second.archive_everything();
    second.stop(ShutDown::Fast);

    let proxy = FaultProxy::start(bucket.endpoint());
    let mut third = scene.restored("third", &Recovery::Latest, &proxy);
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
    let archived = scene.archived();
    assert_eq!(more_than_once(&reads, &archived), [""; 0], "{reads:?}");
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
    let scene = Scene::new(bin, &workspace, &bucket, 1, 40);
    let proxy = FaultProxy::start(bucket.endpoint());
    let mut standby = scene.restored("back", &Recovery::Standby, &proxy);
    standby.be_first_process();
    let over = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut seen = 0;
            while !over.load(Ordering::Relaxed) {
                seen += helpers(&workspace).len();
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
    let archived = scene.archived();
    assert_eq!(more_than_once(&reads, &archived), [""; 0], "{reads:?}");
    let listed = listings
        .keys()
        .filter(|name| archived.contains(*name))
        .count();
    assert!(listed <= 1, "{listings:?}");
    standby.stop(ShutDown::Fast);
}
