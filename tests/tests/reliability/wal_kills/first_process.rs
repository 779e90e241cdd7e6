//! Calls that restore, killed under a server that is the first process of its namespace,
//! and so the parent of whatever they would leave.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use e2e::{
    Cluster, LongArchive, PgBin, Process, Recovery, Row, S3Server, Section, ShutDown, Workspace,
    of_sample_or_whole, wait_until,
};

use super::say;
use super::scene::Over;

/// Kills calls at random moments until `over` or until there were `most`; gives their
/// number, and that of helpers that were met.
fn kill_calls(
    standby: &Cluster,
    workspace: &Workspace,
    over: &AtomicBool,
    most: u64,
) -> (u64, usize) {
    let mut random = fastrand::Rng::with_seed(6);
    let (mut killed, mut helpers) = (0, 0);
    while !over.load(Ordering::Relaxed) {
        helpers += Process::helpers(workspace).len();
        if killed < most
            && let Some(call) = Process::of_wal_tool(standby)
        {
            std::thread::park_timeout(Duration::from_micros(random.u64(0..20_000)));
            killed += u64::from(call.kill_midway());
        }
    }
    (killed, helpers)
}

/// What a call started and left would be a child that the server knows nothing of, and
/// ends its sessions if it is killed.
#[test]
fn calls_of_a_standby_that_is_the_first_process() {
    let begun = Instant::now();
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    if !Cluster::can_be_first_process() {
        return;
    }
    let mut row = Row::new(
        Section::Ends,
        "`wal-restore --parallel 8` of a standby whose postmaster is process 1: SIGKILL of the call \
         below its shell, at random moments",
        "there is no helper and nothing that outlives its call: no session of the server ends, and \
         it replays to the end of the archive, row by row",
    );
    let most = of_sample_or_whole(6, 50);
    let segments = of_sample_or_whole(40, 100);
    let scene = LongArchive::new(bin, &workspace, &bucket, 1, segments);
    let mut standby = scene.restored("back", &Recovery::Standby, None);
    let command = format!("{} || exit 1", scene.command("spool"));
    standby.recover_with(&command, &Recovery::Standby);
    standby.be_first_process();
    standby.start();
    let session = standby.session();
    let over = AtomicBool::new(false);
    let (killed, helpers) = std::thread::scope(|threads| {
        let killer = threads.spawn(|| kill_calls(&standby, &workspace, &over, most));
        {
            let _over = Over(&over);
            // The same session all the time: it fails if the server ends it.
            wait_until("the end of the archive", || {
                let sql = "SELECT to_regclass('t') IS NOT NULL";
                if session.value(sql) != "t" {
                    return None;
                }
                let sql = "SELECT count(*) FROM t WHERE text = 'last'";
                (session.value(sql) == segments.to_string()).then_some(())
            });
        }
        killer.join().expect("the killer does not panic")
    });
    assert_eq!(helpers, 0, "a helper was started");
    assert!(killed > 0, "no call was met");
    scene.assert_is_back(&standby);
    let log = standby.log_text();
    assert!(!log.contains("reinitializing"), "{log}");
    drop(session);
    standby.stop(ShutDown::Fast);
    (0..killed).for_each(|_| row.lived_through());
    let segments = scene.segments().len();
    say(
        &format!("{killed} kills in a recovery from {segments} segments of 1 MiB"),
        begun,
    );
    row.finish();
}
