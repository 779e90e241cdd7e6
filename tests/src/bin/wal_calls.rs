//! Calls a command for one WAL segment after the other, as PostgreSQL calls
//! `archive_command` and `restore_command`, and says what the calls cost.
//!
//! usage: `wal_calls archive PGDATA COMMAND…`
//!        `wal_calls restore PGDATA FIRST COUNT PAUSE_MS COMMAND…`
//!
//! The command runs in PGDATA, one call at a time; `%f` and `%p` in its words mean
//! what they mean to PostgreSQL. No shell stands between, whose own cost would be
//! added to every side's. A call that fails ends it all: what failed is not measured.
//!
//! *archive* asks as PostgreSQL's archiver does: for the files that are marked
//! `.ready` in `pg_wal/archive_status`, history files first and the rest by name,
//! from a list of 64 that is made anew when it is used up; a file that was archived
//! is marked `.done`. It ends when nothing is ready.
//!
//! *restore* asks for COUNT segments of 16 MiB from FIRST on, has each delivered to
//! `pg_wal/RECOVERYXLOG`, and gives it its name, as recovery does. Between two calls it
//! waits PAUSE milliseconds, for which nobody is charged time.
//!
//! Meanwhile `postmaster.pid` names this program, as it would PostgreSQL: there are
//! commands that leave nothing behind where no server runs.
//!
//! What a call leaves behind becomes this program's child, not init's, so that its
//! processor time counts as well. After the last call it may end by itself for some
//! seconds, and is asked to end then.
//!
//! The only line of output is a JSON object: `calls`, the seconds of each call;
//! `seconds`, their sum with what lies between them but without pauses; `cpu`, the
//! user and system seconds of all processes; `peak_kib`, the largest resident size
//! of one of them, in KiB; `left`, how many were left behind by calls; `stopped`,
//! how many of these did not end by themselves.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Names the process of a server.
const POSTMASTER: &str = "postmaster.pid";

/// How many names the archiver takes from one look at its directory.
/// Source: PostgreSQL 15 and newer, `NUM_FILES_PER_DIRECTORY_SCAN` in `pgarch.c`.
const NAMES_OF_A_LOOK: usize = 64;

/// Segments of 16 MiB in 4 GiB of WAL, which share the middle of their names.
const SEGMENTS_OF_A_LOG: u32 = 256;

/// How long what was left behind may take to end by itself.
const PATIENCE: Duration = Duration::from_secs(5);

const USAGE: &str = "usage: wal_calls archive PGDATA COMMAND…, or \
    wal_calls restore PGDATA FIRST COUNT PAUSE_MS COMMAND…";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "wal_calls: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (pgdata, job, command) = match words.as_slice() {
        ["archive", pgdata, command @ ..] => (pgdata, Job::Archive, command),
        ["restore", pgdata, first, count, pause, command @ ..] => {
            let segment = Segment::parse(first).ok_or("FIRST is no name of a segment")?;
            let count = count.parse().map_err(|_| "COUNT is no number")?;
            let pause = pause.parse().map_err(|_| "PAUSE_MS is no number")?;
            let pause = Duration::from_millis(pause);
            (pgdata, Job::Restore(segment, count, pause), command)
        }
        _ => return Err(USAGE.to_owned()),
    };
    if command.is_empty() {
        return Err(USAGE.to_owned());
    }
    let told = |what: &'static str| move |error: Errno| format!("cannot {what}: {error}");
    set_child_subreaper(true).map_err(told("adopt what calls leave behind"))?;
    std::env::set_current_dir(pgdata).map_err(|error| format!("cannot enter {pgdata}: {error}"))?;
    let identity = format!("{}\n{pgdata}\n{}\n", std::process::id(), started()?);
    let lock_file = |error| format!("cannot write {POSTMASTER}: {error}");
    fs::write(POSTMASTER, identity).map_err(lock_file)?;
    let mut calls = Calls::new(command);
    let outcome = match job {
        Job::Archive => archive(&mut calls),
        Job::Restore(first, count, pause) => restore(&mut calls, first, count, pause),
    };
    let seconds = calls.begin.elapsed().saturating_sub(calls.paused);
    let (left, stopped) = adopt().map_err(told("wait for what calls left behind"))?;
    fs::remove_file(POSTMASTER).map_err(lock_file)?;
    outcome?;
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).map_err(told("read what calls cost"))?;
    let cpu = [usage.user_time(), usage.system_time()];
    // Microseconds of some minutes are exact in an f64.
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    let cpu = cpu.map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6);
    let line = serde_json::json!({
        "calls": calls.seconds,
        "seconds": seconds.as_secs_f64(),
        "cpu": cpu[0] + cpu[1],
        "peak_kib": usage.max_rss(),
        "left": left,
        "stopped": stopped,
    });
    writeln!(io::stdout(), "{line}").map_err(|error| format!("cannot write the result: {error}"))
}

/// The time, in seconds since 1970.
fn started() -> Result<u64, String> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Ok(since.map_err(|error| error.to_string())?.as_secs())
}

enum Job {
    Archive,
    Restore(Segment, u32, Duration),
}

/// The command, and what was measured of it so far.
struct Calls<'a> {
    command: &'a [&'a str],
    begin: Instant,
    paused: Duration,
    seconds: Vec<f64>,
}

impl<'a> Calls<'a> {
    fn new(command: &'a [&'a str]) -> Self {
        Self {
            command,
            begin: Instant::now(),
            paused: Duration::ZERO,
            seconds: Vec::new(),
        }
    }

    /// One call, for the file `name` that is, or is to be, at `path`.
    fn call(&mut self, name: &str, path: &str) -> Result<(), String> {
        let words = self
            .command
            .iter()
            .map(|word| word.replace("%f", name).replace("%p", path));
        let words: Vec<String> = words.collect();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let begin = Instant::now();
        let status = command.status();
        self.seconds.push(begin.elapsed().as_secs_f64());
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("{} failed for {name}: {status}", words[0])),
            Err(error) => Err(format!("cannot start {}: {error}", words[0])),
        }
    }

    fn pause(&mut self, time: Duration) {
        let begin = Instant::now();
        thread::sleep(time);
        self.paused += begin.elapsed();
    }
}

fn archive(calls: &mut Calls<'_>) -> Result<(), String> {
    let status = Path::new("pg_wal/archive_status");
    loop {
        let list = ready(status).map_err(|error| format!("cannot read {status:?}: {error}"))?;
        if list.is_empty() {
            return Ok(());
        }
        for name in list {
            let mark = status.join(format!("{name}.ready"));
            if !mark.exists() {
                continue;
            }
            calls.call(&name, &format!("pg_wal/{name}"))?;
            fs::rename(&mark, status.join(format!("{name}.done")))
                .map_err(|error| format!("cannot mark {name} as archived: {error}"))?;
        }
    }
}

/// The names that PostgreSQL would ask for next, in its order.
fn ready(status: &Path) -> io::Result<VecDeque<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(status)? {
        let name = entry?.file_name();
        if let Some(name) = name.to_str().and_then(|name| name.strip_suffix(".ready")) {
            names.push(name.to_owned());
        }
    }
    names.sort_by_key(|name| (!name.ends_with(".history"), name.clone()));
    names.truncate(NAMES_OF_A_LOOK);
    Ok(names.into())
}

fn restore(
    calls: &mut Calls<'_>,
    first: Segment,
    count: u32,
    pause: Duration,
) -> Result<(), String> {
    let delivered = "pg_wal/RECOVERYXLOG";
    let mut segment = first;
    for number in 0..count {
        if number > 0 {
            calls.pause(pause);
        }
        let name = segment.name();
        calls.call(&name, delivered)?;
        fs::rename(delivered, PathBuf::from("pg_wal").join(&name))
            .map_err(|error| format!("{name} was not delivered: {error}"))?;
        segment = segment.next();
    }
    Ok(())
}

/// The place of a segment of 16 MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    timeline: u32,
    log: u32,
    number: u32,
}

impl Segment {
    fn parse(name: &str) -> Option<Self> {
        let part = |from: usize| u32::from_str_radix(name.get(from..from + 8)?, 16).ok();
        let segment = Self {
            timeline: part(0)?,
            log: part(8)?,
            number: part(16)?,
        };
        (segment.name() == name && segment.number < SEGMENTS_OF_A_LOG).then_some(segment)
    }

    fn name(self) -> String {
        format!("{:08X}{:08X}{:08X}", self.timeline, self.log, self.number)
    }

    fn next(self) -> Self {
        if self.number + 1 < SEGMENTS_OF_A_LOG {
            let number = self.number + 1;
            return Self { number, ..self };
        }
        Self {
            log: self.log + 1,
            number: 0,
            ..self
        }
    }
}

/// Waits for all that calls left behind: how many there were, and how many of them
/// had to be asked to end.
fn adopt() -> Result<(usize, usize), Errno> {
    let mut left = 0;
    let mut stopped = 0;
    for signal in [None, Some(Signal::SIGTERM), Some(Signal::SIGKILL)] {
        if let Some(signal) = signal {
            let children = children();
            stopped = stopped.max(children.len());
            for child in children {
                // It may have ended meanwhile.
                let _ = kill(child, signal);
            }
        }
        let end = Instant::now() + PATIENCE;
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Err(Errno::ECHILD) => return Ok((left, stopped)),
                Err(error) => return Err(error),
                Ok(WaitStatus::StillAlive) if Instant::now() >= end => break,
                Ok(WaitStatus::StillAlive) => thread::sleep(Duration::from_millis(5)),
                Ok(_) => left += 1,
            }
        }
    }
    Err(Errno::ETIMEDOUT)
}

/// The processes whose parent this one is.
fn children() -> Vec<Pid> {
    let own = std::process::id().to_string();
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name of the program ends with the last bracket; state and parent follow.
        let parent = stat
            .rsplit_once(") ")
            .and_then(|(_, rest)| rest.split(' ').nth(1));
        parent == Some(&own)
    })
    .map(Pid::from_raw)
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_segment_after_the_last_of_a_log_is_the_first_of_the_next() {
        let name_after = |name: &str| Segment::parse(name).map(|segment| segment.next().name());
        for (name, next) in [
            ("000000010000000000000001", Some("000000010000000000000002")),
            ("0000000200000003000000FF", Some("000000020000000400000000")),
            ("0000000200000003000000fe", None),
            ("000000020000000300000100", None),
            ("00000002.history", None),
            ("00000002000000030000000é", None),
        ] {
            assert_eq!(name_after(name).as_deref(), next, "after {name}");
        }
    }

    #[test]
    fn history_files_go_first_and_the_rest_by_name() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "000000010000000000000002.ready",
            "000000010000000000000001.ready",
            "000000010000000000000000.done",
            "000000010000000000000001.00000028.backup.ready",
            "00000003.history.ready",
            "00000002.history.ready",
        ] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(
            ready(folder.path()).unwrap(),
            [
                "00000002.history",
                "00000003.history",
                "000000010000000000000001",
                "000000010000000000000001.00000028.backup",
                "000000010000000000000002",
            ]
        );
        for number in 0..2 * NAMES_OF_A_LOOK {
            fs::write(folder.path().join(format!("{number:024X}.ready")), "").unwrap();
        }
        assert_eq!(ready(folder.path()).unwrap().len(), NAMES_OF_A_LOOK);
    }
}
