//! A memory cgroup: how little memory a process is given, as in a small container.
//!
//! What counts is what the kernel counts: memory of the process, files that it brought
//! into the page cache or wrote, and what the kernel itself keeps for it. Whoever wants
//! more than can be reclaimed is killed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::owner::Owner;

/// A limit that tools can be run under. It goes when this is dropped, after them.
#[derive(Debug)]
pub struct MemoryLimit {
    group: PathBuf,
    files: &'static Files,
}

/// Where groups are made, and what their files are called.
#[derive(Debug)]
struct Files {
    root: &'static str,
    limit: &'static str,
    /// Missing where the kernel has no swap.
    swap: &'static str,
    /// Whether that limits memory and swap together.
    swap_is_sum: bool,
    peak: &'static str,
    /// Has a line `oom_kill NUMBER`.
    events: &'static str,
}

/// Both versions of the interface. Source: the kernel's `cgroup-v1/memory.rst` and
/// `cgroup-v2.rst`.
const VERSIONS: [Files; 2] = [
    Files {
        root: "/sys/fs/cgroup/memory",
        limit: "memory.limit_in_bytes",
        swap: "memory.memsw.limit_in_bytes",
        swap_is_sum: true,
        peak: "memory.max_usage_in_bytes",
        events: "memory.oom_control",
    },
    Files {
        root: "/sys/fs/cgroup",
        limit: "memory.max",
        swap: "memory.swap.max",
        swap_is_sum: false,
        peak: "memory.peak",
        events: "memory.events",
    },
];

impl MemoryLimit {
    /// One of `mib` MiB.
    ///
    /// # Errors
    ///
    /// Why there can be none: that takes root and a kernel, or a container, whose memory
    /// controller can be written to.
    pub fn new(mib: u64) -> Result<Self, String> {
        let mut why = Vec::new();
        for files in &VERSIONS {
            match Self::make(files, mib << 20) {
                Ok(this) => return Ok(this),
                Err(error) => why.push(format!("{}: {error}", files.root)),
            }
        }
        Err(why.join("; "))
    }

    /// The same for a test, which without it says so and passes, also on CI: no package
    /// brings what is missing.
    #[expect(clippy::print_stderr, reason = "a skipped test says what would run it")]
    pub fn of(mib: u64) -> Option<Self> {
        Self::new(mib)
            .inspect_err(|why| {
                eprintln!("skipped: run as root where memory cgroups can be made ({why})");
            })
            .ok()
    }

    fn make(files: &'static Files, bytes: u64) -> io::Result<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("barman-cloud-test-{}-{number}", process::id());
        let group = Path::new(files.root).join(name);
        fs::create_dir(&group)?;
        let this = Self { group, files };
        fs::write(this.file(files.limit), bytes.to_string())?;
        let swap = this.file(files.swap);
        if swap.exists() {
            let most = if files.swap_is_sum { bytes } else { 0 };
            fs::write(swap, most.to_string())?;
        }
        Ok(this)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.group.join(name)
    }

    fn read(&self, name: &str) -> String {
        let path = self.file(name);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("could not read {path:?}: {error}"))
    }

    /// The most that was counted so far, in bytes.
    pub fn peak(&self) -> u64 {
        let text = self.read(self.files.peak);
        text.trim().parse().expect("a number")
    }

    /// How many processes were killed because they wanted more.
    pub fn kills(&self) -> u64 {
        kills_in(&self.read(self.files.events)).expect("kernels count it since 4.13")
    }

    /// A shell, to be run by root, that enters the group and becomes `owner`. What it
    /// then runs, a program and its arguments, is still to come.
    pub fn shell(&self, owner: Owner) -> Command {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", "echo $$ >\"$0\" && exec \"$@\""])
            .arg(self.file("cgroup.procs"))
            .args(owner.becoming());
        shell
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        // Fails if something that a test left behind still runs there.
        let _ = fs::remove_dir(&self.group);
    }
}

fn kills_in(events: &str) -> Option<u64> {
    let mut lines = events.lines();
    lines.find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_read_in_both_versions() {
        let first = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        let second = "low 0\nhigh 0\nmax 70\noom 2\noom_kill 1\noom_group_kill 0\n";
        assert_eq!(kills_in(first), Some(3));
        assert_eq!(kills_in(second), Some(1));
        assert_eq!(kills_in("under_oom 0\n"), None);
    }
}
