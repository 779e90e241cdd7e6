//! The server that a file is fetched for, as far as its data directory tells.
//!
//! Two servers of one user, of the same archive, with the same spool directory, are told
//! apart by their data directories, and two runs of one server by what `postmaster.pid`
//! says: what was fetched for one is nothing for the other. A server that was restored
//! anew, from an archive that was made anew perhaps, never meets what an earlier run
//! has left.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::super::wal_object::data_directory_of;
use crate::pgdata::{CONTROL_NAME, read_control};
use crate::wal::SegmentSize;

/// A data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Server {
    /// Without links.
    directory: PathBuf,
    device: u64,
    inode: u64,
}

/// What its `pg_control` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cluster {
    pub(super) system_identifier: u64,
    pub(super) segment_size: SegmentSize,
}

impl Server {
    /// The one that has `destination` in its WAL directory; `None` if that lies in none.
    pub(super) fn of(destination: &Path) -> Option<Self> {
        let directory = fs::canonicalize(data_directory_of(destination)?).ok()?;
        let found = fs::metadata(&directory).ok()?;
        Some(Self {
            device: found.dev(),
            inode: found.ino(),
            directory,
        })
    }

    /// A text that no other data directory of this machine has.
    pub(super) fn identity(&self) -> String {
        let (device, inode) = (self.device, self.inode);
        format!("{device} {inode} {}", self.directory.display())
    }

    /// Whether it is still where it was.
    pub(super) fn is_in_place(&self) -> bool {
        let found = fs::metadata(&self.directory);
        found.is_ok_and(|found| (found.dev(), found.ino()) == (self.device, self.inode))
    }

    /// What its control file says, if that can be read.
    pub(super) fn cluster(&self) -> Option<Cluster> {
        let control = std::str::from_utf8(CONTROL_NAME).ok()?;
        let control = read_control(&self.directory.join(control)).ok()?.control;
        Some(Cluster {
            system_identifier: control.system_identifier,
            segment_size: SegmentSize::new(u64::from(control.sizes.wal_segment_size))?,
        })
    }

    /// Process and start of the postmaster, if it runs.
    pub(super) fn run(&self) -> Option<Run> {
        let text = fs::read_to_string(self.directory.join("postmaster.pid")).ok()?;
        let mut lines = text.lines();
        let (process, start) = (lines.next()?.trim(), lines.nth(1)?.trim());
        Some(Run {
            process: process.parse().ok()?,
            start: start.to_owned(),
        })
    }
}

/// One run of a server, from its start to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    process: u32,
    start: String,
}

impl Run {
    /// A text that no other run of the same server has.
    pub(super) fn identity(&self) -> String {
        format!("{} {}", self.process, self.start)
    }
}

/// Why there must be no process that outlives a call: it would become the child of a
/// postmaster, which restarts all its sessions when a child that it does not know
/// ends badly (docs/decisions.md 15).
///
/// `proc` is where the kernel tells of processes, and `myself` this process.
pub(super) fn no_helper(proc: &Path, myself: u32, server: &Server) -> Option<&'static str> {
    let Some(run) = server.run() else {
        return Some("the server does not run");
    };
    if run.process == 1 {
        return Some("the postmaster is the first process of all");
    }
    // Of another namespace, it would tell of another first process.
    let seen = fs::read_link(proc.join("self"));
    if seen.ok().and_then(|seen| seen.to_str()?.parse().ok()) != Some(myself) {
        return Some("it cannot be found out which process is the first");
    }
    match fs::read_to_string(proc.join("1/comm")) {
        Ok(name)
            if ["postgres", "postmaster"]
                .iter()
                .any(|word| name.contains(word)) =>
        {
            Some("the first process of all is a postmaster")
        }
        Ok(_) => None,
        Err(_) => Some("it cannot be found out what the first process is"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(postmaster: Option<&str>) -> (tempfile::TempDir, Server) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(directory.path().join("pg_wal")).expect("a directory");
        if let Some(text) = postmaster {
            fs::write(directory.path().join("postmaster.pid"), text).expect("a file");
        }
        let server = Server::of(&directory.path().join("pg_wal/RECOVERYXLOG"));
        (directory, server.expect("a data directory"))
    }

    #[test]
    fn a_run_is_told_by_process_and_start() {
        let text = "4711\n/data\n1800000000\n5432\n/tmp\n*\n  1 2\nready   \n";
        let (directory, server) = server(Some(text));
        let run = server.run().expect("it runs");
        assert_eq!(run.identity(), "4711 1800000000");
        let path = directory.path().join("postmaster.pid");
        fs::write(&path, "4711\n/data\n1800000000\n5432\n").expect("a file");
        assert_eq!(server.run(), Some(run.clone()));
        for other in ["4712\n/data\n1800000000\n", "4711\n/data\n1800000001\n"] {
            fs::write(&path, other).expect("a file");
            assert_ne!(server.run(), Some(run.clone()), "{other}");
        }
        for nothing in ["", "4711\n", "x\n/data\n1800000000\n"] {
            fs::write(&path, nothing).expect("a file");
            assert_eq!(server.run(), None, "{nothing}");
        }
    }

    #[test]
    fn a_directory_in_the_place_of_another_is_another_server() {
        let (directory, first) = server(None);
        assert!(first.is_in_place());
        let moved = directory.path().with_extension("moved");
        fs::rename(directory.path(), &moved).expect("moves");
        assert!(!first.is_in_place());
        fs::create_dir_all(directory.path().join("pg_wal")).expect("a directory");
        assert!(!first.is_in_place());
        let second = Server::of(&directory.path().join("pg_wal/x")).expect("a server");
        assert_ne!(first.identity(), second.identity());
        fs::remove_dir_all(moved).expect("removes");
        assert_eq!(Server::of(&directory.path().join("x")), None);
    }

    #[test]
    fn no_helper_may_become_the_child_of_a_postmaster() {
        const RUNS: Option<&str> = Some("4711\n/data\n1800000000\n");
        for (postmaster, myself, first, allowed) in [
            (RUNS, Some("99"), Some("systemd\n"), true),
            (RUNS, Some("99"), Some("tini\n"), true),
            (RUNS, Some("99"), Some("postgres\n"), false),
            (RUNS, Some("99"), Some("edb-postgres\n"), false),
            (RUNS, Some("99"), Some("postmaster\n"), false),
            // As above, but the binary has another name.
            (
                Some("1\n/data\n1800000000\n"),
                Some("99"),
                Some("pg\n"),
                false,
            ),
            (None, Some("99"), Some("systemd\n"), false),
            // What `/proc` shows is hidden, of another namespace, or not there.
            (RUNS, Some("99"), None, false),
            (RUNS, Some("77"), Some("systemd\n"), false),
            (RUNS, None, None, false),
        ] {
            let (directory, server) = server(postmaster);
            let proc = directory.path().join("proc");
            fs::create_dir_all(proc.join("1")).expect("a directory");
            if let Some(myself) = myself {
                std::os::unix::fs::symlink(myself, proc.join("self")).expect("a link");
            }
            if let Some(first) = first {
                fs::write(proc.join("1/comm"), first).expect("a file");
            }
            let why = no_helper(&proc, 99, &server);
            assert_eq!(
                why.is_none(),
                allowed,
                "{postmaster:?} {myself:?} {first:?}: {why:?}"
            );
        }
    }
}
