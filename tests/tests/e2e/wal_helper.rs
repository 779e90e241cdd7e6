//! The helper of `barman-cloud-wal-restore --parallel` where it is not at home: a spool
//! on another disk, on a small one, a signal, and an ancestor that adopts it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use e2e::{
    Cluster, Fault, FaultProxy, LongArchive, PgBin, Process, Recovery, Rule, S3Server, ShutDown,
    SmallDisk, Workspace, wait_until,
};
use rustix::process::{Signal, WaitOptions, getpid, set_child_subreaper, waitpid};

use crate::wal_prefetch::{read_in_vain, requests};

/// How the names of files begin that are not whole yet.
const UNFINISHED: &str = ".barman-cloud-";

/// What lies in the folders of a spool.
fn spooled(spool: &Path) -> Vec<String> {
    let folders = fs::read_dir(spool).into_iter().flatten().flatten();
    folders
        .flat_map(|folder| fs::read_dir(folder.path()).into_iter().flatten().flatten())
        .map(|file| file.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Segments and what is to become some.
fn parts(names: &[String]) -> Vec<&String> {
    let is_part = |name: &&String| name.len() == 24 || name.starts_with(UNFINISHED);
    names.iter().filter(is_part).collect()
}

/// Starts a standby and lets it come to a segment whose object comes to its helper in
/// part, and to a call not at all, until the proxy lets it: helper and server wait.
pub(crate) fn start_and_hold(
    standby: &mut Cluster,
    scene: &LongArchive<'_>,
    workspace: &Workspace,
    proxy: &FaultProxy,
) -> Process {
    let segments = scene.segments();
    let held = segments.iter().nth(15).expect("there are more");
    let object = format!("^GET /.*/wals/.*/{held}");
    proxy.add(&Rule::new(&Fault::Stall(1000)).on(&object));
    proxy.add(&Rule::new(&Fault::Hold).on(&object).always());
    standby.start();
    wait_until("the server to ask for that segment", || {
        let call = Process::of_wal_tool(standby)?;
        call.arguments().contains(held).then_some(())
    });
    let helper = Process::helpers(workspace).pop();
    helper.expect("it waits for the store")
}

fn wait_for_the_end(standby: &Cluster, segments: u32) {
    wait_until("the end of the archive", || {
        let sql = "SELECT count(*) FROM t WHERE text = 'last'";
        let session = e2e::Session::open(standby.socket_dir(), "postgres", "postgres").ok()?;
        (session.try_rows(sql).ok()?[0][0] == segments.to_string()).then_some(())
    });
}

#[test]
fn from_a_spool_on_another_file_system_it_is_copied() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let memory = tempfile::tempdir_in("/dev/shm").expect("Linux has it");
    workspace.owner().take(memory.path());
    let device = |path: &Path| fs::metadata(path).unwrap().dev();
    assert_ne!(device(memory.path()), device(workspace.root()));
    let spool = memory.path().join("spool");
    let scene = LongArchive::new(bin, &workspace, &bucket, 1, 40);
    let proxy = FaultProxy::start(bucket.endpoint());
    let mut back = scene.restored("back", &Recovery::Latest, Some(&proxy));
    let asked = scene.list_what_is_asked(&back, &spool, &Recovery::Latest);
    back.start_and_recover();
    scene.assert_is_back(&back);
    // None was read for nothing, so that what was fetched ahead was delivered.
    let (reads, _) = requests(&proxy);
    assert_eq!(read_in_vain(&reads, &asked, &scene.segments()), [""; 0]);
    assert!(reads.len() > 40, "{reads:?}");
    Process::wait_for_helpers(&workspace);
    assert!(spool.exists() && !workspace.path("spool").exists());
    let left = spooled(&spool);
    assert_eq!(parts(&left), [""; 0], "{left:?}");
    for entry in fs::read_dir(back.pgdata().join("pg_wal")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(!name.starts_with(UNFINISHED), "{name}");
    }
    back.stop(ShutDown::Fast);
}

/// PostgreSQL ignores SIGINT where it recovers, and so does whatever it starts there.
#[test]
fn a_helper_that_is_told_to_end_leaves_nothing() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let scene = LongArchive::new(bin, &workspace, &bucket, 1, 30);
    let proxy = FaultProxy::start(bucket.endpoint());
    let mut standby = scene.restored("back", &Recovery::Standby, Some(&proxy));
    let helper = start_and_hold(&mut standby, &scene, &workspace, &proxy);
    let unfinished = || {
        let mut names = spooled(&workspace.path("spool"));
        names.retain(|name| name.starts_with(UNFINISHED));
        names
    };
    wait_until("a part of the segment", || {
        (unfinished().len() == 1).then_some(())
    });
    assert!(helper.signal(Signal::TERM));
    // There is no other one before the store answers, which would clean up.
    Process::wait_for_helpers(&workspace);
    assert_eq!(unfinished(), [""; 0]);
    proxy.clear();
    proxy.release();
    wait_for_the_end(&standby, 30);
    scene.assert_is_back(&standby);
    standby.stop(ShutDown::Fast);
    Process::wait_for_helpers(&workspace);
}

/// A helper must not fill the disk that the server lives on.
#[test]
fn a_small_disk_is_not_filled() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let Some(disk) = SmallDisk::mount(&workspace, "small", 8) else {
        return;
    };
    let scene = LongArchive::new(bin, &workspace, &bucket, 1, 40);
    let proxy = FaultProxy::start(bucket.endpoint());
    let mut back = scene.restored("back", &Recovery::Latest, Some(&proxy));
    let command = scene.command(disk.path().join("spool"));
    let command = command.replacen(" --parallel=8 ", " -v --parallel=16 ", 1);
    // The server stands still in the middle, so that whatever finds room is fetched.
    let segments = scene.segments();
    let middle = segments
        .iter()
        .nth(segments.len() / 2)
        .expect("there are 40");
    let hold = workspace.file("hold", "");
    let held = workspace.dir("signs").join("held");
    let (hold_at, sign) = (hold.display(), held.display());
    let stop = format!(
        "while [ %f = {middle} ] && [ -e {hold_at} ]; do : >{sign}; sleep 0.02; done; exec {command}"
    );
    back.recover_with(&stop, &Recovery::Latest);
    let over = AtomicBool::new(false);
    let least = std::thread::scope(|threads| {
        let watcher = threads.spawn(|| {
            let mut least = u64::MAX;
            while !over.load(Ordering::Relaxed) {
                least = least.min(disk.free());
            }
            least
        });
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            back.launch();
            wait_until("the server to stand still", || held.exists().then_some(()));
            // It ends when nothing fits any more.
            Process::wait_for_helpers(&workspace);
            fs::remove_file(&hold).expect("it is there");
            back.wait_for_recovery();
        }));
        over.store(true, Ordering::Relaxed);
        let least = watcher.join().expect("the watcher does not panic");
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        least
    });
    scene.assert_is_back(&back);
    let log = back.log_text();
    assert!(log.contains("the file system of the spool has"), "{log}");
    // Four segments are to stay free, but for records, which are small.
    assert!(
        least > (4 << 20) - (256 << 10),
        "no more than {least} bytes stayed free"
    );
    back.stop(ShutDown::Fast);
    Process::wait_for_helpers(&workspace);
}

/// `tini -s`, `systemd --user` and others ask for the orphans below them.
#[test]
fn a_helper_goes_to_the_ancestor_that_asked_for_orphans() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let scene = LongArchive::new(bin, &workspace, &bucket, 1, 30);
    let proxy = FaultProxy::start(bucket.endpoint());
    let mut standby = scene.restored("back", &Recovery::Standby, Some(&proxy));
    set_child_subreaper(Some(getpid())).unwrap();
    let helper = start_and_hold(&mut standby, &scene, &workspace, &proxy);
    let session = standby.session();
    wait_until("the end of the call that started it", || {
        (helper.parent()?.pid() == getpid()).then_some(())
    });
    assert!(helper.signal(Signal::KILL));
    let (_, status) = waitpid(Some(helper.pid()), WaitOptions::empty())
        .unwrap()
        .unwrap();
    assert_eq!(status.terminating_signal(), Some(Signal::KILL.as_raw()));
    proxy.clear();
    proxy.release();
    wait_for_the_end(&standby, 30);
    assert_eq!(session.value("SELECT 1"), "1");
    let log = standby.log_text();
    assert!(!log.contains("reinitializing"), "{log}");
    drop(session);
    standby.stop(ShutDown::Fast);
    Process::wait_for_helpers(&workspace);
    set_child_subreaper(None).unwrap();
}
