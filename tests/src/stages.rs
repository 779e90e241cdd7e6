//! A tool that is stopped, or a call of which fails, at a chosen stage
//! (`tests/servers/stages.py`).
//!
//! A stage is a system call with which a tool changes something outside itself:
//! a file, or, if asked for, what it and a server tell each other. Counting them instead of
//! milliseconds makes a kill hit the same place on every machine, and makes it
//! possible to hit all places, one after the other.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::project;
use crate::tools::{Run, Running, Tool};
use crate::wait_until;

/// What happens at a stage, just before its call does its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    /// The tool is sent a signal.
    Signal(Signal),
    /// The call fails with the error of this name (`ENOSPC`).
    Error(&'static str),
    /// So does every later stage.
    ErrorsFrom(&'static str),
    /// The call waits for [`Staged::release`].
    Hold,
}

/// Which calls are stages.
#[derive(Debug, Clone, Default)]
pub struct Stages {
    under: Vec<PathBuf>,
    outside: Vec<PathBuf>,
    sockets: bool,
}

impl Stages {
    /// Whatever changes a file.
    pub fn of_files() -> Self {
        Self::default()
    }

    /// Whatever changes a file below `dir`, or one named so before.
    #[must_use]
    pub fn under(mut self, dir: &Path) -> Self {
        self.under.push(dir.to_path_buf());
        self
    }

    /// Nothing below `dir`.
    #[must_use]
    pub fn outside(mut self, dir: &Path) -> Self {
        self.outside.push(dir.to_path_buf());
        self
    }

    /// Whatever is sent to a server or received from it, too.
    #[must_use]
    pub fn and_of_servers(mut self) -> Self {
        self.sockets = true;
        self
    }

    /// Runs `tool` to its end, and `blow` meets it at the stage `at`, counted from
    /// 1. There may be fewer.
    pub fn run(&self, tool: Tool<'_>, at: usize, blow: Blow) -> StagedRun {
        self.start(tool, at, blow).wait()
    }

    /// Runs `tool` undisturbed and gives its stages.
    pub fn count(&self, tool: Tool<'_>) -> StagedRun {
        self.run(tool, 0, Blow::Signal(Signal::KILL))
    }

    /// Starts `tool`; [`Blow::Hold`] is the reason to do other things meanwhile.
    pub fn start(&self, tool: Tool<'_>, at: usize, blow: Blow) -> Staged {
        let folder = tempfile::Builder::new()
            .prefix("stages-")
            .tempdir_in(tool.workspace().root())
            .expect("a temporary folder can be made")
            .keep();
        tool.workspace().owner().take(&folder);
        // The project's folder may be closed to the user that runs the tools.
        let script = tool.workspace().path("bin/stages.py");
        if !script.exists() {
            fs::copy(project().join("tests/servers/stages.py"), &script)
                .expect("a file can be copied into a temporary folder");
        }
        let mut arguments = vec![
            script.into_os_string(),
            format!("--at={at}").into(),
            format!("--do={}", blow.name()).into(),
            format!("--log={}", folder.join("log").display()).into(),
            format!("--held={}", folder.join("held").display()).into(),
        ];
        for dir in &self.under {
            arguments.push(format!("--under={}", dir.display()).into());
        }
        for dir in &self.outside {
            arguments.push(format!("--outside={}", dir.display()).into());
        }
        if self.sockets {
            arguments.push("--sockets".into());
        }
        arguments.push("--".into());
        Staged {
            running: tool.below("python3", arguments).start(),
            folder,
            blow,
        }
    }
}

impl Blow {
    fn name(self) -> String {
        match self {
            Self::Signal(Signal::KILL) => "kill".into(),
            Self::Signal(Signal::INT) => "int".into(),
            Self::Signal(Signal::TERM) => "term".into(),
            Self::Signal(other) => panic!("{other:?} is not among the blows"),
            Self::Error(name) => name.into(),
            Self::ErrorsFrom(name) => format!("{name}+"),
            Self::Hold => "hold".into(),
        }
    }
}

/// A tool that was started below the counter of stages.
#[derive(Debug)]
pub struct Staged {
    running: Running,
    folder: PathBuf,
    blow: Blow,
}

impl Staged {
    /// Returns when it waits at the stage it was to be held at; gives `false` if
    /// it ended without coming there.
    pub fn is_held(&mut self) -> bool {
        wait_until("the tool to come to the stage", || {
            if self.folder.join("held").exists() {
                return Some(true);
            }
            (!self.running.is_running()).then_some(false)
        })
    }

    /// Lets it go on.
    pub fn release(&self) {
        self.running.signal(Signal::USR1);
    }

    /// The tool itself.
    pub fn running(&self) -> &Running {
        &self.running
    }

    /// Waits for its end.
    pub fn wait(self) -> StagedRun {
        let run = self.running.wait();
        let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let _ = fs::remove_dir_all(&self.folder);
        StagedRun {
            run,
            blow: self.blow,
            stages: log.lines().map(str::to_owned).collect(),
        }
    }
}

/// A tool that has ended, and the stages it came to.
#[derive(Debug)]
pub struct StagedRun {
    /// How it ended.
    pub run: Run,
    /// What met it, if it came so far.
    pub blow: Blow,
    /// A line for each stage: its number, its call, and the path.
    pub stages: Vec<String>,
}

impl std::fmt::Display for StagedRun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let last = self.stages.iter().rev().take(5).rev();
        writeln!(f, "{}\n--- last stages", self.run)?;
        last.into_iter()
            .try_for_each(|stage| writeln!(f, "{stage}"))
    }
}
