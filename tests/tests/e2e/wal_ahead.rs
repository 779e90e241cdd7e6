//! `barman-cloud-wal-archive --parallel`: others with the requested file, each sent
//! once, and nothing said to be archived that is not.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use e2e::{
    Bucket, Cluster, Fault, FaultProxy, PgBin, Place, Process, Recovery, Rule, Running, S3Server,
    ShutDown, Tool, Workspace, WriteLoad, of_sample_or_whole, segment_moved_to, wait_until,
};
use rustix::process::Signal;

const TOOL: &str = "barman-cloud-wal-archive";

/// The name of a segment of timeline 1.
fn name(number: u64) -> String {
    format!("0000000100000000{number:08X}")
}

/// A data directory whose segments wait to be archived into a bucket behind a proxy.
struct Scene<'w> {
    workspace: &'w Workspace,
    bucket: &'w Bucket<'w>,
    proxy: FaultProxy,
}

impl<'w> Scene<'w> {
    fn new(workspace: &'w Workspace, bucket: &'w Bucket<'w>, segments: u64) -> Self {
        let proxy = FaultProxy::start(bucket.endpoint());
        lay_out(workspace, segments);
        Self {
            workspace,
            bucket,
            proxy,
        }
    }

    fn archive(&self, number: u64) -> Tool<'w> {
        let tool = self.workspace.tool(TOOL);
        tool.in_dir(&self.workspace.path("data"))
            .envs(self.bucket.environment_through(&self.proxy))
            .args(["--zstd", "--parallel=8"])
            .arg(spool_option(self.workspace))
            .args([self.bucket.url().as_str(), "main"])
            .arg(format!("pg_wal/{}", name(number)))
    }

    /// How often each object was written, by its base name, and how often anything
    /// else was asked for than to look and to write.
    fn writes(&self) -> (BTreeMap<String, usize>, usize) {
        let (mut writes, mut others) = (BTreeMap::new(), 0);
        for request in self.proxy.log() {
            let (method, target) = request.line.split_once(' ').unwrap_or_default();
            let path = target.split('?').next().unwrap_or_default();
            match method {
                "PUT" => {
                    let base = path.rsplit('/').next().unwrap_or_default();
                    *writes.entry(base.to_owned()).or_default() += 1;
                }
                "HEAD" => {}
                _ => others += 1,
            }
        }
        (writes, others)
    }

    /// Asserts that the segments of these numbers were sent once each, and that the
    /// store has them and nothing else.
    fn assert_sent_once(&self, numbers: impl Iterator<Item = u64>) {
        let expected: Vec<String> = numbers
            .map(|number| format!("{}.zst", name(number)))
            .collect();
        let (writes, others) = self.writes();
        let once: BTreeMap<String, usize> = expected.iter().map(|name| (name.clone(), 1)).collect();
        assert_eq!((writes, others), (once, 0));
        let keys = expected.iter();
        let keys: Vec<String> = keys
            .map(|name| format!("main/wals/0000000100000000/{name}"))
            .collect();
        assert_eq!(self.bucket.keys(""), keys);
    }
}

/// Segments 1 and on, with PostgreSQL's marks that they wait.
fn lay_out(workspace: &Workspace, segments: u64) {
    for folder in ["data", "data/pg_wal", "data/pg_wal/archive_status"] {
        workspace.dir(folder);
    }
    for number in 1..=segments {
        let name = name(number);
        workspace.file(format!("data/pg_wal/{name}"), segment_moved_to(number));
        workspace.file(format!("data/pg_wal/archive_status/{name}.ready"), "");
    }
}

fn spool_option(workspace: &Workspace) -> String {
    format!("--spool-dir={}", workspace.path("spool").display())
}

/// What the only folder of the spool holds.
fn spooled(workspace: &Workspace) -> Vec<PathBuf> {
    let in_dir = |path: PathBuf| {
        let entries = fs::read_dir(path).into_iter().flatten();
        entries
            .map(|entry| entry.unwrap().path())
            .collect::<Vec<_>>()
    };
    in_dir(workspace.path("spool"))
        .into_iter()
        .flat_map(in_dir)
        .collect()
}

#[test]
fn what_is_archived_ahead_is_sent_once_and_then_known() {
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let scene = Scene::new(&workspace, &bucket, 10);
    scene.archive(1).succeed();
    scene.assert_sent_once(1..=8);
    // Not even a connection is needed.
    scene.proxy.go_down();
    for number in 1..=8 {
        scene.archive(number).succeed();
    }
    scene.proxy.come_up();
    let of = |name: &str| {
        scene
            .workspace
            .path(format!("data/pg_wal/archive_status/{name}"))
    };
    for number in 1..=8 {
        let name = name(number);
        fs::rename(of(&format!("{name}.ready")), of(&format!("{name}.done"))).unwrap();
    }
    let before = scene.proxy.log().len();
    scene.archive(9).succeed();
    let lines: Vec<String> = scene.proxy.log().drain(before..).map(|r| r.line).collect();
    let puts = lines.iter().filter(|line| line.starts_with("PUT")).count();
    assert_eq!(puts, 2, "{lines:?}");
    assert_eq!(bucket.keys("").len(), 10);
    assert_eq!(spooled(&workspace).len(), 2, "notes on 9 and 10, no lock");
    // Another endpoint is another archive, of the same name though it be.
    let direct = scene.archive(10).envs(bucket.environment()).arg("-v").run();
    assert_eq!(direct.code(), Some(0), "{direct}");
    assert!(
        direct.stderr.contains("is in the archive already"),
        "{direct}"
    );
    assert!(!direct.stderr.contains("has noted"), "{direct}");
}

/// Starts all of them, each standing still at first, and lets them go.
fn at_once<'w>(tools: impl Iterator<Item = Tool<'w>>) -> Vec<Running> {
    let tools: Vec<Running> = tools
        .map(|tool| {
            let tool = tool.start();
            tool.signal(Signal::STOP);
            tool
        })
        .collect();
    for tool in &tools {
        tool.thaw();
    }
    tools
}

#[test]
fn eight_callers_at_once_send_nothing_twice() {
    for same in [false, true] {
        let workspace = Workspace::new();
        let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
            return;
        };
        let scene = Scene::new(&workspace, &bucket, 8);
        let callers = (1..=8).map(|number| scene.archive(if same { 1 } else { number }));
        for caller in at_once(callers) {
            let run = caller.wait();
            assert_eq!(run.code(), Some(0), "{run}");
        }
        scene.assert_sent_once(1..=8);
        assert_eq!(spooled(&workspace).len(), 8, "notes, and no lock");
    }
}

/// One call is ended while the requested file or another one is on its way.
#[test]
fn a_call_that_is_killed_is_in_nobodys_way() {
    for (held, signal) in [(1, Signal::KILL), (4, Signal::KILL), (6, Signal::TERM)] {
        let workspace = Workspace::new();
        let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
            return;
        };
        let scene = Scene::new(&workspace, &bucket, 8);
        let object = format!("^PUT /.*{}", name(held));
        scene.proxy.add(&Rule::new(&Fault::Hold).on(&object));
        let mut running = scene.archive(1).start();
        let ended = scene
            .proxy
            .wait_for_held(0, || (!running.is_running()).then_some(()));
        assert_eq!(ended, None, "{}", running.stderr_so_far());
        if held != 1 {
            // It may still be on its way while later ones are.
            wait_until("the requested file to be archived", || {
                let noted = spooled(&workspace).into_iter();
                let mut noted = noted.filter(|path| path.extension() == Some("note".as_ref()));
                noted.find(|path| path.file_stem() == Some(name(1).as_ref()))
            });
        }
        running.signal(signal);
        let run = running.wait();
        // The requested file is in the archive whatever becomes of the others.
        let done = signal == Signal::TERM;
        let ended = (run.code(), run.signal());
        let expected = if done {
            (Some(0), None)
        } else {
            (None, Some(signal.as_raw()))
        };
        assert_eq!(ended, expected, "{run}");
        scene.proxy.clear();
        scene.proxy.release();
        for number in 1..=8 {
            // It may say that the file is there already.
            let run = scene.archive(number).run();
            assert_eq!(run.code(), Some(0), "{run}");
        }
        assert_eq!(bucket.keys("").len(), 8);
        for number in 1..=8 {
            let back = workspace.path(format!("back-{number}"));
            let fetch = workspace.tool("barman-cloud-wal-restore");
            fetch
                .envs(bucket.environment())
                .args([bucket.url().as_str(), "main", &name(number)])
                .arg(&back)
                .succeed();
            assert!(
                fs::read(back).unwrap() == segment_moved_to(number),
                "{number}"
            );
        }
        let left = spooled(&workspace);
        let is_lock = |path: &&PathBuf| path.extension().is_some_and(|found| found == "lock");
        assert_eq!(left.iter().filter(is_lock).count(), 0, "{left:?}");
    }
}

#[test]
fn a_directory_of_200_000_marks_is_read_for_the_next_few() {
    let workspace = Workspace::new();
    let place = Place::in_directory(&workspace);
    lay_out(&workspace, 12);
    let status = workspace.path("data/pg_wal/archive_status");
    // What they mark is not there, so whoever looked at it would stumble.
    // Links are made faster than files, and a file has no more than 65,000.
    for numbers in [
        13..50_000,
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
    let archive = |number: u64| {
        let tool = place.tool(TOOL).in_dir(&workspace.path("data"));
        tool.args([
            "--parallel=8",
            &spool_option(&workspace),
            place.url(),
            "main",
        ])
        .arg(format!("pg_wal/{}", name(number)))
        .succeed();
    };
    let stored = || {
        let folder = workspace.path("bucket/main/wals/0000000100000000");
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    archive(3);
    assert_eq!(stored(), (1..=8).map(name).collect::<Vec<_>>());
    archive(9);
    assert_eq!(stored(), (1..=12).map(name).collect::<Vec<_>>());
}

#[test]
fn a_folder_that_cannot_be_used_is_told_once_and_is_no_failure() {
    let workspace = Workspace::new();
    let place = Place::in_directory(&workspace);
    lay_out(&workspace, 4);
    workspace.file("spool", "");
    let archive = |number: u64| {
        let tool = place.tool(TOOL).in_dir(&workspace.path("data"));
        tool.args([
            "--parallel=4",
            &spool_option(&workspace),
            place.url(),
            "main",
        ])
        .arg(format!("pg_wal/{}", name(number)))
    };
    archive(1).succeed();
    let run = archive(2).arg("-v").run();
    let told = run.messages("INFO");
    let told = told
        .iter()
        .filter(|line| line.contains("nothing is archived ahead"))
        .count();
    assert_eq!((run.code(), told), (Some(0), 1), "{run}");
    assert_eq!(
        fs::read_dir(workspace.path("bucket/main/wals/0000000100000000"))
            .unwrap()
            .count(),
        2
    );
}

/// The archivers of a server that writes are killed again and again, and the store has
/// bad moments.
#[test]
fn a_server_that_archives_ahead_under_load_comes_back_whole() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let proxy = FaultProxy::start(bucket.endpoint());
    let place = Place::in_bucket(&workspace, &bucket, "p");
    let mut primary = place.primary(&bin, "");
    // A command that ends by a signal would end PostgreSQL's archiver, which comes back
    // only after ten seconds.
    let (tool, url) = (workspace.bin(TOOL), place.url());
    primary.archive_with(&format!(
        "{} --zstd --parallel=8 {} {url} main %p || exit 1",
        tool.display(),
        spool_option(&workspace)
    ));
    primary.set_environment(&bucket.environment_through(&proxy));
    primary.start();
    let load = WriteLoad::start(&primary, &[("t", None)]);
    load.wait_for_commits(5);
    let backup = place.backup(&primary, "postgres").run();
    assert_eq!(backup.code(), Some(0), "{backup}");

    // A backlog that waits behind the first of its files.
    let before = proxy.log().len();
    proxy.add(&Rule::new(&Fault::Hold).on("^PUT /.*/wals/"));
    let switch = |times: usize| {
        for _ in 0..times {
            load.wait_for_commits(1);
            primary.session().run("SELECT pg_switch_wal()");
        }
    };
    switch(1);
    assert_eq!(proxy.wait_for_held(before, || None::<()>), None);
    switch(30);
    proxy.clear();
    proxy.release();
    primary.archive_everything();
    assert_each_written_once(&proxy);

    proxy.add(&Rule::new(&Fault::Status(503)).on("^PUT /.*/wals/").every(7));
    let mut killed = 0;
    while killed < of_sample_or_whole(6, 60) {
        switch(4);
        let archiver = wait_until("an archiver", || Process::of_wal_tool(&primary));
        killed += usize::from(archiver.signal(Signal::KILL));
    }
    load.stop();
    proxy.clear();
    primary.archive_everything();
    assert_archive_has_all_that_is_done(&primary, &bucket);

    let digest = primary.session().digest();
    primary.archive_everything();
    primary.stop(ShutDown::Immediate);
    let mut restored = place.restored(&bin, "back", &Recovery::Latest);
    restored.start_and_recover();
    assert_eq!(restored.session().digest(), digest);
    restored.session().read_every_table();
    restored.stop(ShutDown::Fast);
}

/// No object of the WAL was sent twice, and none was read.
fn assert_each_written_once(proxy: &FaultProxy) {
    let mut writes: BTreeMap<String, usize> = BTreeMap::new();
    for request in proxy
        .log()
        .into_iter()
        .filter(|request| request.line.contains("/wals/"))
    {
        match request.line.split_once(' ') {
            Some(("PUT", target)) => *writes.entry(target.to_owned()).or_default() += 1,
            Some(("HEAD", _)) => {}
            _ => panic!("{}", request.line),
        }
    }
    assert!(writes.len() > 30, "{writes:?}");
    assert!(writes.values().all(|count| *count == 1), "{writes:?}");
}

/// What PostgreSQL takes for archived is in the archive.
fn assert_archive_has_all_that_is_done(cluster: &Cluster, bucket: &Bucket<'_>) {
    let stored = bucket.keys("p/main/wals/");
    let status = cluster.pgdata().join("pg_wal/archive_status");
    let mut done = 0;
    for entry in fs::read_dir(status).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let Some(name) = name.strip_suffix(".done") else {
            continue;
        };
        let object = format!("/{name}.zst");
        assert!(
            stored.iter().any(|key| key.ends_with(&object)),
            "{name} is missing"
        );
        done += 1;
    }
    assert!(done > 0, "nothing is archived");
}
