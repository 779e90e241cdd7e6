//! Who runs the server and the tools.
//!
//! PostgreSQL refuses to run as root, and the tools belong to the user that owns
//! the cluster. A test run by root (containers, CI) therefore gives its folders
//! and processes to `postgres`, or to `nobody` where there is none.

use std::os::unix::fs::lchown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::unistd::{User, geteuid};

/// The user that owns clusters and runs tools, if it is not the present one.
#[derive(Debug, Clone, Copy)]
pub struct Owner(Option<(u32, u32)>);

impl Owner {
    /// Somebody else when root runs the tests, else the present user.
    pub fn of_clusters() -> Self {
        if !geteuid().is_root() {
            return Self(None);
        }
        let user = ["postgres", "nobody"]
            .iter()
            .find_map(|name| User::from_name(name).ok().flatten())
            .expect("every system has the user `nobody`");
        Self(Some((user.uid.as_raw(), user.gid.as_raw())))
    }

    /// The present user, whoever that is.
    pub fn myself() -> Self {
        Self(None)
    }

    /// Whether the tests run as root, for whom no file is unreadable.
    pub fn is_somebody_else(self) -> bool {
        self.0.is_some()
    }

    /// Makes `command` run as this user, without further groups.
    pub fn run_as(self, command: &mut Command) {
        if let Some((uid, gid)) = self.0 {
            command.uid(uid).gid(gid);
        }
    }

    /// What becomes this user, for a command that root runs: a program and its arguments,
    /// with the command's own still to come. Nothing if the tests are not run by root.
    pub(crate) fn becoming(self) -> Vec<String> {
        self.0.map_or_else(Vec::new, |(uid, gid)| {
            let ids = [format!("--reuid={uid}"), format!("--regid={gid}")];
            let words = ["setpriv", "--clear-groups"].map(str::to_owned);
            words.into_iter().chain(ids).collect()
        })
    }

    /// Gives `path` itself, not what is below or behind it, to this user.
    pub fn take(self, path: &Path) {
        if let Some((uid, gid)) = self.0 {
            lchown(path, Some(uid), Some(gid)).expect("root may give files away");
        }
    }

    /// Gives `path` and everything below it to this user.
    pub fn take_all(self, path: &Path) {
        if self.0.is_none() {
            return;
        }
        self.take(path);
        let is_dir = path
            .symlink_metadata()
            .is_ok_and(|metadata| metadata.is_dir());
        if is_dir {
            for entry in std::fs::read_dir(path).expect("a directory just made can be read") {
                self.take_all(&entry.expect("a directory just made can be read").path());
            }
        }
    }
}
