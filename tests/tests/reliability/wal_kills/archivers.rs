//! Calls that archive, killed while the server writes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use e2e::{PgBin, Process, Row, S3Server, Section, Workspace, of_sample_or_whole, wait_until};
use rustix::process::{Signal, kill_process_group};

use super::say;
use super::scene::{Over, Scene};

/// How far a call has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// It is not connected to the store.
    Begun,
    /// It is connected, and the requested file is not in the store: compressed, or sent.
    Sends,
    /// The requested file is in the store, and there is no note of that.
    Stored,
    /// There is a note: others are under way.
    Noted,
}

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    Tool,
    WithShell,
    /// Among them the process of the server that runs the commands.
    Group,
}

type Kills = BTreeMap<(Victim, Phase), u64>;

const FOUND: &str = "each file that PostgreSQL was told to be archived is in the store as it was, one after the other, and \
     nothing else; the backup replays them to the end, row by row";

/// Runs a server that archives with `options` under load, kills `count` of its archivers,
/// and checks that nothing is lost: only then the kills count.
fn killed(options: &str, phases: &[Phase], victims: bool, count: u32, seed: u64) -> Option<Kills> {
    let begun = Instant::now();
    let bin = PgBin::find()?;
    let workspace = Workspace::new();
    let bucket = S3Server::CephPlain.bucket(&workspace)?;
    let scene = Scene::new(&bin, &workspace, &bucket, options);
    let over = AtomicBool::new(false);
    let kills = std::thread::scope(|threads| {
        threads.spawn(|| scene.write_until(&over));
        let _over = Over(&over);
        kill(&scene, phases, victims, count, seed)
    });
    let (files, bytes) = scene.assert_whole();
    let killed: u64 = kills.values().sum();
    let stored = kills.iter().filter(|((_, at), _)| *at >= Phase::Stored);
    let stored: u64 = stored.map(|(_, times)| times).sum();
    let done = format!(
        "{options}: {killed} kills, {stored} of them with the requested file in the store; \
         {files} files were said to be archived, and are, {bytes} bytes"
    );
    say(&done, begun);
    Some(kills)
}

fn kill(scene: &Scene<'_>, phases: &[Phase], victims: bool, count: u32, seed: u64) -> Kills {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut kills = Kills::new();
    for number in 0..count {
        // After one of the others PostgreSQL runs no command for up to ten seconds.
        let victim = match number % 16 {
            4 if victims => Victim::WithShell,
            9 if victims => Victim::Group,
            _ => Victim::Tool,
        };
        let goal = phases[number as usize % phases.len()];
        wait_until("an archiver that has come far enough", || {
            kill_at(scene, goal, victim, &mut random).then_some(())
        });
        *kills.entry((victim, goal)).or_default() += 1;
        // Often the next one is killed too.
        let done = scene.acknowledged().len() + random.usize(0..3);
        wait_until("segments to be archived", || {
            (scene.acknowledged().len() >= done).then_some(())
        });
    }
    kills
}

/// Meets the next archiver at a random moment and, if it is in the phase that is wanted,
/// kills it there. Says whether it did.
fn kill_at(scene: &Scene<'_>, goal: Phase, victim: Victim, random: &mut fastrand::Rng) -> bool {
    let Some(tool) = Process::of_wal_tool(&scene.cluster) else {
        return false;
    };
    let mut pause = |most: u64| {
        std::thread::park_timeout(Duration::from_micros(random.u64(0..most * 1000)));
    };
    if goal > Phase::Begun {
        pause(30);
    }
    loop {
        // What stands still can be looked at.
        if !tool.freeze() {
            return false;
        }
        let phase = phase_of(tool, scene);
        if phase == goal {
            return kill_now(tool, victim);
        }
        tool.signal(Signal::CONT);
        if phase > goal {
            return false;
        }
        pause(3);
    }
}

fn kill_now(tool: Process, victim: Victim) -> bool {
    let (shell, group) = (tool.parent(), tool.group());
    match victim {
        Victim::Tool => {}
        // The shell first, which would run the tool again.
        Victim::WithShell => {
            let shell = shell.expect("it stands still, and so its parent waits");
            assert_eq!(shell.name(), "sh");
            shell.signal(Signal::KILL);
        }
        Victim::Group => {
            let group = group.expect("it stands still");
            return kill_process_group(group, Signal::KILL).is_ok();
        }
    }
    tool.signal(Signal::KILL)
}

fn phase_of(tool: Process, scene: &Scene<'_>) -> Phase {
    if !is_connected(tool) {
        return Phase::Begun;
    }
    let path = tool.arguments().pop().unwrap_or_default();
    let name = path.rsplit('/').next().unwrap_or_default();
    if !scene.is_stored(name) {
        Phase::Sends
    } else if scene.is_noted(name) {
        Phase::Noted
    } else {
        Phase::Stored
    }
}

/// Whether one of its sockets is one of TCP.
fn is_connected(tool: Process) -> bool {
    let table = fs::read_to_string(tool.path("net/tcp")).unwrap_or_default();
    let inodes: BTreeSet<&str> = table
        .lines()
        .filter_map(|line| line.split_whitespace().nth(9))
        .collect();
    tool.open_files().iter().any(|file| {
        let file = file.to_string_lossy();
        let inode = file.strip_prefix("socket:[");
        inode.is_some_and(|inode| inodes.contains(inode.trim_end_matches(']')))
    })
}

fn row(what: &str, times: u64) -> Row {
    let mut row = Row::new(
        Section::Ends,
        format!("`wal-archive` of a server under load: SIGKILL at random moments, {what}"),
        FOUND,
    );
    (0..times).for_each(|_| row.lived_through());
    row
}

#[test]
fn archivers_that_archive_ahead() {
    let phases = [Phase::Begun, Phase::Sends, Phase::Stored, Phase::Noted];
    let count = of_sample_or_whole(12, 300);
    let Some(kills) = killed("--parallel=8", &phases, true, count, 1) else {
        return;
    };
    let times = |which: &dyn Fn(Victim, Phase) -> bool| {
        let found = kills
            .iter()
            .filter(|((victim, phase), _)| which(*victim, *phase));
        found.map(|(_, times)| times).sum()
    };
    for (phase, what) in [
        (Phase::Begun, "`--parallel 8`, before it is connected"),
        (
            Phase::Sends,
            "`--parallel 8`, while the requested file is compressed and sent",
        ),
        (
            Phase::Stored,
            "`--parallel 8`, between the store's taking the requested file and the note of that",
        ),
        (Phase::Noted, "`--parallel 8`, while others are under way"),
    ] {
        let times = times(&|victim, at| victim == Victim::Tool && at == phase);
        row(what, times).finish();
    }
    for (victim, what) in [
        (
            Victim::WithShell,
            "`--parallel 8`, together with the shell that runs it",
        ),
        (
            Victim::Group,
            "`--parallel 8`, with its whole group, in which the server's archiver is",
        ),
    ] {
        row(what, times(&|who, _| who == victim)).finish();
    }
}

#[test]
fn archivers_of_one_file_each() {
    let phases = [Phase::Begun, Phase::Sends, Phase::Stored];
    let count = of_sample_or_whole(12, 100);
    if let Some(kills) = killed("--parallel=1", &phases, false, count, 2) {
        row("`--parallel 1`", kills.values().sum()).finish();
    }
}

#[test]
fn archivers_that_could_let_segments_go() {
    let phases = [Phase::Begun, Phase::Sends, Phase::Stored, Phase::Noted];
    let count = of_sample_or_whole(12, 100);
    let options = "--parallel=8 --queue-max=1GB";
    if let Some(kills) = killed(options, &phases, false, count, 3) {
        row(
            "with a `--queue-max` that is never reached",
            kills.values().sum(),
        )
        .finish();
    }
}
