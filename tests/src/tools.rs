//! Running the tools as processes.
//!
//! The binaries are those beside the test's own executable, so that what is
//! tested is what was built with it. They get an empty environment but for what
//! a test gives them: an `AWS_PROFILE` or `PGHOST` of the developer must not
//! decide a result.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::memory_limit::MemoryLimit;
use crate::workspace::Workspace;
use crate::{PATIENCE, wait_until};

const TOOLS: [&str; 11] = [
    "barman-cloud-backup",
    "barman-cloud-backup-delete",
    "barman-cloud-backup-keep",
    "barman-cloud-backup-list",
    "barman-cloud-backup-show",
    "barman-cloud-check-wal-archive",
    "barman-cloud-metrics",
    "barman-cloud-restore",
    "barman-cloud-verify",
    "barman-cloud-wal-archive",
    "barman-cloud-wal-restore",
];

/// The program that is all of them.
const ONE_PROGRAM: &str = "barman-cloud";

/// The folder where Cargo put the tools: `E2E_BIN_DIR`, or the one above the
/// test's own.
pub fn built() -> PathBuf {
    if let Some(dir) = std::env::var_os("E2E_BIN_DIR") {
        return PathBuf::from(dir);
    }
    let test = std::env::current_exe().expect("a test knows its executable");
    test.parent()
        .and_then(Path::parent)
        .expect("a test lies in target/PROFILE/deps")
        .to_path_buf()
}

/// Puts all tools into `dir`, as links where the file system allows: the folder
/// that Cargo built into may be closed to the user that runs the server.
pub(crate) fn put_beside(dir: &Path) {
    for tool in TOOLS {
        put(tool, dir);
    }
}

/// Puts the program that is all tools into `dir`, and the tools as links to it, as
/// packages do.
pub(crate) fn put_links(dir: &Path) {
    put(ONE_PROGRAM, dir);
    for tool in TOOLS {
        symlink(ONE_PROGRAM, dir.join(tool)).expect("a link can be made");
    }
}

/// Puts the programs of another folder into `dir`, with links as links.
pub(crate) fn put_from(folder: &Path, dir: &Path) {
    let copied = Command::new("cp")
        .arg("--archive")
        .arg(folder.join("."))
        .arg(dir)
        .status();
    assert!(copied.is_ok_and(|status| status.success()), "cp failed");
}

fn put(program: &str, dir: &Path) {
    let built = built();
    let from = built.join(program);
    assert!(
        from.is_file(),
        "{} is missing: build it with `cargo build --workspace`{}",
        from.display(),
        if built.ends_with("release") {
            " --release"
        } else {
            ""
        },
    );
    let to = dir.join(program);
    if fs::hard_link(&from, &to).is_err() {
        fs::copy(&from, &to).expect("a tool can be copied");
    }
}

/// A tool about to be run.
#[derive(Debug)]
pub struct Tool<'a> {
    workspace: &'a Workspace,
    name: String,
    command: Command,
    capture: PathBuf,
}

impl<'a> Tool<'a> {
    pub(crate) fn new(workspace: &'a Workspace, name: &str) -> Self {
        Self::of_program(workspace, name, &workspace.bin(name))
    }

    /// Another program than ours, run as they are.
    pub(crate) fn of_program(workspace: &'a Workspace, name: &str, program: &Path) -> Self {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", workspace.path("home"))
            .env("LC_ALL", "C.UTF-8")
            .env("RUST_BACKTRACE", "1")
            .current_dir(workspace.root())
            .stdin(Stdio::null());
        workspace.owner().run_as(&mut command);
        let capture = tempfile::Builder::new()
            .prefix(name)
            .tempdir_in(workspace.root())
            .expect("a temporary folder can be made")
            .keep();
        Self {
            workspace,
            name: name.to_owned(),
            command,
            capture,
        }
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Several more arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.command.args(args);
        self
    }

    /// A variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Several more variables of its environment.
    #[must_use]
    pub fn envs<N: AsRef<OsStr>, V: AsRef<OsStr>>(
        mut self,
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        self.command.envs(variables);
        self
    }

    /// Runs it in another folder than the test's own.
    #[must_use]
    pub fn in_dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// Runs it as the last argument of another program, which does to it what
    /// `arguments` say.
    #[must_use]
    pub(crate) fn below(mut self, program: &str, arguments: Vec<OsString>) -> Self {
        let mut outer = Command::new(program);
        outer.args(arguments);
        self.workspace.owner().run_as(&mut outer);
        self.put_below(outer);
        self
    }

    /// Runs it under a limit of memory, with all that it starts.
    #[must_use]
    pub fn limited(mut self, limit: &MemoryLimit) -> Self {
        // Root alone may enter, so it is the shell that becomes the owner.
        self.put_below(limit.shell(self.workspace.owner()));
        self
    }

    fn put_below(&mut self, mut outer: Command) {
        outer.env_clear().stdin(Stdio::null());
        outer.arg(self.command.get_program());
        outer.args(self.command.get_args());
        for (name, value) in self.command.get_envs() {
            outer.env(name, value.unwrap_or_default());
        }
        if let Some(dir) = self.command.get_current_dir() {
            outer.current_dir(dir);
        }
        self.command = outer;
    }

    /// Starts it, its output going to files: a reader that lags behind must
    /// not be able to stop it.
    pub fn start(mut self) -> Running {
        let out = self.capture.join("stdout");
        let err = self.capture.join("stderr");
        self.command
            .stdout(File::create(&out).expect("a temporary file can be made"))
            .stderr(File::create(&err).expect("a temporary file can be made"));
        let child = self
            .command
            .spawn()
            .unwrap_or_else(|error| panic!("could not start {}: {error}", self.name));
        Running {
            line: describe(&self.command),
            child,
            capture: self.capture,
        }
    }

    /// Runs it to its end.
    pub fn run(self) -> Run {
        self.start().wait()
    }

    /// Runs it to its end and expects success, and silence on both streams, as
    /// the default verbosity promises.
    pub fn succeed(self) -> Run {
        let run = self.run();
        assert!(run.code() == Some(0), "{run}");
        assert!(
            run.stdout.is_empty() && run.stderr.is_empty(),
            "not silent: {run}"
        );
        run
    }

    /// The workspace it was made in.
    pub fn workspace(&self) -> &Workspace {
        self.workspace
    }
}

fn describe(command: &Command) -> String {
    let mut line = command.get_program().to_os_string();
    for arg in command.get_args() {
        line.push(OsString::from(" "));
        line.push(arg);
    }
    line.to_string_lossy().into_owned()
}

/// A tool that was started. Killed and reaped if a test drops it.
#[derive(Debug)]
pub struct Running {
    line: String,
    child: Child,
    capture: PathBuf,
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("process ids are positive and small");
        kill_process(Pid::from_raw(pid).expect("not zero"), signal)
            .expect("a child that was not waited for can be signalled");
    }

    /// Stops it as `SIGSTOP` does and returns when it stands still.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
        wait_until("the tool to stop", || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).ok()?;
            let state = stat.rsplit_once(") ")?.1.chars().next()?;
            matches!(state, 'T' | 'Z').then_some(())
        });
    }

    /// Goes on after [`freeze`](Self::freeze).
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("own child").is_none()
    }

    /// What it has open now: the path, and the offset it has read up to.
    pub fn open_files(&self) -> Vec<(PathBuf, u64)> {
        let proc = PathBuf::from(format!("/proc/{}", self.pid()));
        let Ok(descriptors) = fs::read_dir(proc.join("fd")) else {
            return Vec::new();
        };
        descriptors
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let path = fs::read_link(entry.path()).ok()?;
                let info = fs::read_to_string(proc.join("fdinfo").join(entry.file_name())).ok()?;
                let offset = info.lines().find_map(|line| line.strip_prefix("pos:"))?;
                Some((path, offset.trim().parse().ok()?))
            })
            .collect()
    }

    /// How many threads with this name it has now.
    pub fn threads_called(&self, name: &str) -> usize {
        let Ok(tasks) = fs::read_dir(format!("/proc/{}/task", self.pid())) else {
            return 0;
        };
        let names =
            tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
        names.filter(|found| found.trim_end() == name).count()
    }

    /// Everything it said on stderr until now.
    pub fn stderr_so_far(&self) -> String {
        read_lossy(&self.capture.join("stderr"))
    }

    /// Waits for its end.
    pub fn wait(self) -> Run {
        self.wait_at_most(PATIENCE)
    }

    /// The same with a patience of one's own, for what has very much to do.
    pub fn wait_at_most(mut self, patience: Duration) -> Run {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("own child") {
                break status;
            }
            assert!(
                start.elapsed() < patience,
                "still running after {patience:?}: {}\n{}",
                self.line,
                self.stderr_so_far()
            );
            std::thread::park_timeout(Duration::from_millis(2));
        };
        Run {
            line: self.line.clone(),
            status,
            stdout: read_lossy(&self.capture.join("stdout")),
            stderr: read_lossy(&self.capture.join("stderr")),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only if it has ended and was reaped already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.capture);
    }
}

fn read_lossy(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// A tool that has ended.
#[derive(Debug)]
pub struct Run {
    line: String,
    status: ExitStatus,
    /// All of standard output.
    pub stdout: String,
    /// All of standard error.
    pub stderr: String,
}

impl Run {
    /// Its exit code, unless a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The signal that ended it.
    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }

    /// The messages of level ERROR, each with its continuation lines, without
    /// time and process id, and without hints.
    pub fn errors(&self) -> Vec<String> {
        self.messages("ERROR")
    }

    /// The hints below messages, in their order.
    pub fn hints(&self) -> Vec<&str> {
        let lines = self.stderr.lines();
        lines.filter_map(|line| line.strip_prefix(HINT)).collect()
    }

    /// The messages of one level, without hints.
    pub fn messages(&self, level: &str) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        let mut open = false;
        for line in self.stderr.lines() {
            if let Some((said, text)) = log_line(line) {
                open = said == level;
                if open {
                    found.push(text.to_owned());
                }
            } else if open && !line.starts_with(HINT) {
                let last = found.last_mut().expect("a message was just pushed");
                last.push('\n');
                last.push_str(line);
            }
        }
        found
    }
}

/// How a hint begins, which has a line of its own.
const HINT: &str = "HINT: ";

/// Level and text of a line `2026-11-21 02:21:33,320 [123] LEVEL: text`.
fn log_line(line: &str) -> Option<(&str, &str)> {
    let time = line.get(..23)?;
    let shape: String = time
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    if shape != "0000-00-00 00:00:00,000" {
        return None;
    }
    let (pid, rest) = line[23..].strip_prefix(" [")?.split_once("] ")?;
    pid.parse::<u32>().ok()?;
    rest.split_once(": ")
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "`{}` ended with {}\n--- stdout\n{}--- stderr\n{}",
            self.line, self.status, self.stdout, self.stderr
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_log_lines_begin_a_message() {
        let line = "2026-11-21 02:21:33,320 [77] ERROR: Invalid rule 'x'";
        assert_eq!(log_line(line), Some(("ERROR", "Invalid rule 'x'")));
        for other in [
            "HINT: The valid syntax is NAME:LOCATION",
            "2026-11-21 02:21:33 [77] ERROR: x",
            "2026-11-21 02:21:33,320 ERROR: x",
            "2026-11-21 02:21:33,320 [seven] ERROR: x",
            "",
        ] {
            assert_eq!(log_line(other), None, "{other}");
        }
    }
}
