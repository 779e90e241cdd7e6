//! The tools among the processes of the machine: those that a server runs, and the
//! helpers that outlive the calls that started them.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};

use crate::cluster::Cluster;
use crate::wait_until;
use crate::workspace::Workspace;

/// The most memory that any process took which this one has started and waited for, in
/// bytes; what this one had itself at that moment counts as its child's.
///
/// # Panics
///
/// Where the system does not tell.
pub fn peak_of_children() -> u64 {
    use nix::sys::resource::{UsageWho, getrusage};
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("it always tells");
    u64::try_from(usage.max_rss()).expect("not negative") << 10
}

/// A process, which may end at any moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Process(Pid);

impl Process {
    /// That of a number.
    pub fn new(pid: Pid) -> Self {
        Self(pid)
    }

    /// The call of a WAL tool that a server makes now.
    pub fn of_wal_tool(cluster: &Cluster) -> Option<Self> {
        let all = cluster.processes().into_iter().map(Self);
        // The kernel keeps no more than 15 letters of a name.
        all.into_iter()
            .find(|process| process.name().starts_with("barman-cloud-wa"))
    }

    /// Those with this path, or one below it, among their arguments.
    pub fn naming(path: &Path) -> Vec<Self> {
        let path = path.to_string_lossy();
        let names = |process: &Self| {
            let arguments = process.arguments();
            arguments.iter().any(|text| text.contains(&*path))
        };
        let entries = fs::read_dir("/proc").expect("Linux has it").flatten();
        entries
            .filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
            .map(Self)
            .filter(names)
            .collect()
    }

    /// The helpers that fetch WAL ahead and were started from this workspace.
    pub fn helpers(workspace: &Workspace) -> Vec<Self> {
        let mut all = Self::naming(workspace.root());
        all.retain(|process| process.name() == "wal-prefetch");
        all
    }

    /// Returns when there is none of them any more.
    pub fn wait_for_helpers(workspace: &Workspace) {
        wait_until("the helpers to end", || {
            Self::helpers(workspace).is_empty().then_some(())
        });
    }

    /// Its number.
    pub fn pid(self) -> Pid {
        self.0
    }

    /// What the kernel has about it under `what`.
    pub fn path(self, what: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{what}", self.0.as_raw_nonzero()))
    }

    /// What it is called in lists; nothing if it has ended.
    pub fn name(self) -> String {
        let name = fs::read_to_string(self.path("comm")).unwrap_or_default();
        name.trim_end().to_owned()
    }

    /// How it was started; nothing if it has ended.
    pub fn arguments(self) -> Vec<String> {
        let line = fs::read(self.path("cmdline")).unwrap_or_default();
        let words = line
            .split(|byte| *byte == 0)
            .filter(|word| !word.is_empty());
        words
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect()
    }

    /// Field `number` of its status, counted from 1 as in the manual of `/proc`.
    fn status(self, number: usize) -> Option<String> {
        let text = fs::read_to_string(self.path("stat")).ok()?;
        let fields = text.rsplit_once(") ")?.1;
        let field = fields.split(' ').nth(number.checked_sub(3)?)?;
        Some(field.to_owned())
    }

    fn pid_in_status(self, number: usize) -> Option<Pid> {
        Pid::from_raw(self.status(number)?.parse().ok()?)
    }

    /// Its parent; none if that is in another namespace, or it has ended.
    pub fn parent(self) -> Option<Self> {
        self.pid_in_status(4).map(Self)
    }

    /// The group that it belongs to.
    pub fn group(self) -> Option<Pid> {
        self.pid_in_status(5)
    }

    /// The session that it belongs to.
    pub fn session(self) -> Option<Pid> {
        self.pid_in_status(6)
    }

    /// What it has open.
    pub fn open_files(self) -> Vec<PathBuf> {
        let folder = fs::read_dir(self.path("fd"));
        let entries = folder.into_iter().flatten().flatten();
        entries
            .filter_map(|entry| fs::read_link(entry.path()).ok())
            .collect()
    }

    /// Whether it has ended, though perhaps nobody has waited for it yet.
    pub fn has_ended(self) -> bool {
        self.status(3)
            .is_none_or(|state| state == "Z" || state == "X")
    }

    /// Sends it a signal, and says whether it was still there.
    pub fn signal(self, signal: Signal) -> bool {
        kill_process(self.0, signal).is_ok()
    }

    /// Stops it as `SIGSTOP` does, and says whether it stands still now: it may have
    /// ended before.
    pub fn freeze(self) -> bool {
        self.signal(Signal::STOP)
            && wait_until("a process to stop or to end", || {
                if self.has_ended() {
                    return Some(false);
                }
                (self.status(3)? == "T").then_some(true)
            })
    }

    /// Kills it while it stands still, so that it has not done its work before, and
    /// says whether that was so.
    pub fn kill_midway(self) -> bool {
        self.freeze() && self.signal(Signal::KILL)
    }
}
