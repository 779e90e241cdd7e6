//! Finding the server's programs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Workspace, skip};

/// Where the server's programs of one version lie.
#[derive(Debug, Clone)]
pub struct PgBin {
    dir: PathBuf,
    major: u32,
}

impl PgBin {
    /// `PG_BIN`, or the newest version below Debian's folder, or what `PATH`
    /// has. Without any, says what would help and gives `None`: the test is
    /// skipped; on CI (`CI` is set) it fails instead.
    pub fn find() -> Option<Self> {
        let candidates = if let Some(dir) = std::env::var_os("PG_BIN") {
            vec![PathBuf::from(dir)]
        } else {
            let mut dirs = of_debian();
            dirs.extend(folders_of("PATH"));
            dirs
        };
        candidates
            .into_iter()
            .find_map(Self::in_folder)
            .or_else(|| {
                skip(
                    "no PostgreSQL server found: install `postgresql`, or set PG_BIN to the folder \
                 with `initdb` and `postgres`",
                )
            })
    }

    /// The programs of one major version: from `TEST_PG_BINS`, or from below
    /// Debian's folder. Without them as [`find`](Self::find).
    pub fn of_version(major: u32) -> Option<Self> {
        let mut candidates = folders_of("TEST_PG_BINS");
        candidates.extend(of_debian());
        let mut found = candidates.into_iter().filter_map(Self::in_folder);
        found.find(|bin| bin.major == major).or_else(|| {
            skip(&format!(
                "no PostgreSQL {major} found: run \
                 `bins=$(tests/servers/postgresql.sh install) && eval \"$bins\"`"
            ))
        })
    }

    /// The folder with the programs of version 17 that the packages of
    /// [`of_version`](Self::of_version) lack, from `TEST_PG_TOOLS_17`. Without them
    /// as [`find`](Self::find).
    pub fn tools_of_17() -> Option<PathBuf> {
        let folder = std::env::var_os("TEST_PG_TOOLS_17").map(PathBuf::from);
        folder.or_else(|| {
            skip(
                "no pg_verifybackup of version 17 found: run \
                 `bins=$(tests/servers/postgresql.sh install) && eval \"$bins\"`",
            )
        })
    }

    /// All programs of version 17, from `TEST_PG_TOOLS_17`. Without them as
    /// [`find`](Self::find).
    pub fn whole_17() -> Option<Self> {
        Self::in_folder(Self::tools_of_17()?)
    }

    /// The folder with the programs.
    pub fn folder(&self) -> &Path {
        &self.dir
    }

    fn in_folder(dir: PathBuf) -> Option<Self> {
        if !dir.join("initdb").is_file() {
            return None;
        }
        let output = Command::new(dir.join("postgres")).arg("--version").output();
        let major = major_of(&String::from_utf8(output.ok()?.stdout).ok()?)?;
        Some(Self { dir, major })
    }

    /// The major version.
    pub fn major(&self) -> u32 {
        self.major
    }

    /// Path of one program.
    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Runs one of PostgreSQL's programs, which must find nothing wrong; gives what it
    /// printed.
    pub fn judge(&self, workspace: &Workspace, program: &str, arguments: &[&str]) -> String {
        let mut command = Command::new(self.program(program));
        command.args(arguments).env("LC_ALL", "C");
        workspace.owner().run_as(&mut command);
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (said, printed) = (text(&output.stderr), text(&output.stdout));
        assert!(output.status.success(), "{program}: {said}{printed}");
        printed
    }
}

/// The folders below Debian's, the newest version first.
fn of_debian() -> Vec<PathBuf> {
    let entries = fs::read_dir("/usr/lib/postgresql");
    let mut versions: Vec<(u32, PathBuf)> = entries
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    versions.sort();
    versions.into_iter().rev().map(|(_, dir)| dir).collect()
}

fn folders_of(variable: &str) -> Vec<PathBuf> {
    let value = std::env::var_os(variable).unwrap_or_default();
    std::env::split_paths(&value)
        .filter(|path| path != Path::new(""))
        .collect()
}

/// The 15 of `postgres (PostgreSQL) 15.20 (Debian 15.20-0)`.
fn major_of(version: &str) -> Option<u32> {
    let number = version.strip_prefix("postgres (PostgreSQL) ")?;
    let digits = number.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read_from_what_the_server_prints() {
        for (version, major) in [
            ("postgres (PostgreSQL) 10.23\n", Some(10)),
            (
                "postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)\n",
                Some(15),
            ),
            ("postgres (PostgreSQL) 19beta1\n", Some(19)),
            ("postgres (PostgreSQL) devel\n", None),
            ("", None),
        ] {
            assert_eq!(major_of(version), major, "{version}");
        }
    }
}
