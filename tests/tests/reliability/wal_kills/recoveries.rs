//! Helpers that fetch ahead, and calls that restore, killed while a server recovers.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use e2e::{
    Cluster, LongArchive, PgBin, Process, Recovery, Row, S3Server, Section, Session, ShutDown,
    Workspace, of_sample_or_whole, wait_until,
};
use rustix::process::Signal;

use super::say;
use super::scene::{Over, UNFINISHED, name_of, spooled};

/// The most that a folder of the spool may hold: seven segments ahead, the one that is
/// taken just now, what is under way of a helper, and what the helper before left of
/// the same.
const MOST_SPOOLED: usize = 8 + 7 + 7;

fn segments() -> u32 {
    of_sample_or_whole(60, 150)
}

/// The segments in the spool, and what is to become some.
fn parts(workspace: &Workspace) -> Vec<PathBuf> {
    let files = spooled(&workspace.path("spool")).into_iter();
    files
        .filter(|file| {
            let name = name_of(file);
            name.len() == 24 || name.starts_with(UNFINISHED)
        })
        .collect()
}

fn say_recoveries(scene: &LongArchive<'_>, killed: u64, recoveries: u32, begun: Instant) {
    let segments = scene.segments().len();
    let done =
        format!("{killed} kills in {recoveries} recoveries from {segments} segments of 1 MiB");
    say(&done, begun);
}

/// Kills helpers until `over`, but no more than `most`; gives their number, and the most
/// segments and parts of segments that were in the spool.
fn kill_helpers(
    workspace: &Workspace,
    over: &AtomicBool,
    most: u64,
    random: &mut fastrand::Rng,
) -> (u64, usize) {
    let (mut killed, mut seen) = (0, 0);
    while !over.load(Ordering::Relaxed) {
        if killed < most {
            for helper in Process::helpers(workspace) {
                std::thread::park_timeout(Duration::from_micros(random.u64(0..30_000)));
                killed += u64::from(helper.kill_midway());
            }
        }
        seen = seen.max(parts(workspace).len());
        std::thread::park_timeout(Duration::from_millis(1));
    }
    (killed, seen)
}

#[test]
fn helpers_of_a_recovery() {
    let begun = Instant::now();
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let mut row = Row::new(
        Section::Ends,
        "`wal-restore --parallel 8` while PostgreSQL recovers: SIGKILL of its helper at random moments",
        "PostgreSQL notices nothing and replays to the end of the archive, row by row; the spool \
         never has more than its window and what was under way, and the next helper removes the \
         rest; no process is left",
    );
    let scene = LongArchive::new(bin, &workspace, &bucket, 1, segments());
    let mut random = fastrand::Rng::with_seed(4);
    let goal = of_sample_or_whole(12, 400);
    let mut round = 0;
    while row.times() < goal {
        round += 1;
        let mut back = scene.restored(&format!("back{round}"), &Recovery::Latest, None);
        let over = AtomicBool::new(false);
        // So many that the last helper is one that lives.
        let most = u64::from(segments()) / 10;
        let (killed, seen) = std::thread::scope(|threads| {
            let killer = threads.spawn(|| kill_helpers(&workspace, &over, most, &mut random));
            {
                let _over = Over(&over);
                back.start_and_recover();
            }
            killer.join().expect("the killer does not panic")
        });
        scene.assert_is_back(&back);
        assert!(seen <= MOST_SPOOLED, "{seen} files in the spool");
        let log = back.log_text();
        assert!(killed > 0, "no helper was met: {log}");
        assert!(!log.contains("reinitializing"), "{log}");
        Process::wait_for_helpers(&workspace);
        if killed == most {
            assert_eq!(parts(&workspace), [""; 0].map(PathBuf::from));
        }
        back.stop(ShutDown::Fast);
        fs::remove_dir_all(back.pgdata()).unwrap();
        fs::remove_dir_all(workspace.path("spool")).unwrap();
        (0..killed).for_each(|_| row.lived_through());
    }
    say_recoveries(&scene, row.times(), round, begun);
    row.finish();
}

/// How a start of a server ended.
enum End {
    /// By a kill of its `restore_command`.
    Killed,
    /// By the end of its recovery.
    Recovered,
}

/// Lets a server recover for a while, and kills the call that it makes then, and the
/// helper as well if `both`.
fn kill_a_call(
    cluster: &mut Cluster,
    workspace: &Workspace,
    both: bool,
    random: &mut fastrand::Rng,
) -> End {
    cluster.launch();
    std::thread::park_timeout(Duration::from_millis(random.u64(0..500)));
    let end = wait_until("a call, or the end of recovery", || {
        if let Some(call) = Process::of_wal_tool(cluster)
            && call.freeze()
        {
            if both {
                for helper in Process::helpers(workspace) {
                    helper.signal(Signal::KILL);
                }
            }
            return call.signal(Signal::KILL).then_some(End::Killed);
        }
        let session = Session::open(cluster.socket_dir(), "postgres", "postgres").ok()?;
        let rows = session.try_rows("SELECT pg_is_in_recovery()").ok()?;
        (rows[0][0] == "f").then_some(End::Recovered)
    });
    if matches!(end, End::Killed) {
        cluster.wait_for_end();
    }
    end
}

#[test]
fn calls_of_a_recovery() {
    let begun = Instant::now();
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let found = "recovery does not end early: the server stops, and each time that it is started it goes on, \
                 at last to the end of the archive, row by row; no process is left";
    let mut rows = [
        "SIGKILL of the call",
        "SIGKILL of the call and of the helper",
    ]
    .map(|what| {
        let done = format!(
            "`wal-restore --parallel 8` while PostgreSQL recovers: {what}, at random moments"
        );
        Row::new(Section::Ends, done, found)
    });
    let scene = LongArchive::new(bin, &workspace, &bucket, 1, segments());
    let mut random = fastrand::Rng::with_seed(5);
    let goal = of_sample_or_whole(8, 100);
    let (mut killed, mut round) = ([0, 0], 0);
    while killed.iter().sum::<u64>() < goal {
        round += 1;
        let name = format!("back{round}");
        let mut back = scene.restored(&name, &Recovery::Latest, None);
        let mut recovered = false;
        while !recovered && killed.iter().sum::<u64>() < goal {
            let both = usize::from(killed[1] < killed[0]);
            match kill_a_call(&mut back, &workspace, both == 1, &mut random) {
                End::Killed => killed[both] += 1,
                End::Recovered => recovered = true,
            }
            let log = back.log_text();
            let complete = log.contains("archive recovery complete");
            assert_eq!(complete, recovered, "{log}");
        }
        if !recovered {
            back.start_and_recover();
        }
        scene.assert_is_back(&back);
        back.stop(ShutDown::Fast);
        Process::wait_for_helpers(&workspace);
        fs::remove_dir_all(back.pgdata()).unwrap();
    }
    say_recoveries(&scene, killed.iter().sum(), round, begun);
    for (row, killed) in rows.iter_mut().zip(killed) {
        (0..killed).for_each(|_| row.lived_through());
    }
    rows.into_iter().for_each(Row::finish);
}
