//! Clocks that are wrong, for tools that a test runs.

use std::fs;
use std::path::{Path, PathBuf};

use crate::skip;

/// Finds a library that tells a program another time than it is.
#[derive(Debug, Clone)]
pub struct WrongClock(PathBuf);

impl WrongClock {
    /// Debian's `faketime`. Without it, says what would help and gives `None`: the
    /// test is skipped; on CI (`CI` is set) it fails instead.
    pub fn find() -> Option<Self> {
        let mut folders = vec![PathBuf::from("/usr/lib/faketime")];
        let architectures = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
        folders.extend(architectures.map(|entry| entry.path().join("faketime")));
        let library = |folder: &PathBuf| folder.join("libfaketimeMT.so.1");
        let mut found = folders.iter().map(library).filter(|path| path.is_file());
        found
            .next()
            .map(Self)
            .or_else(|| skip("libfaketime is missing: install `faketime`"))
    }

    /// Variables under which a program's clock is off by `offset`: `+1d`, `-16m`; or
    /// stands still at a time, `2026-01-01 00:00:00`. What counts how long something
    /// takes stays right.
    pub fn off_by(&self, offset: &str) -> [(&'static str, String); 3] {
        self.variables("FAKETIME", offset.to_owned())
    }

    /// The same with what `file` says, whenever the program looks at its clock.
    pub fn as_told_by(&self, file: &Path) -> Vec<(&'static str, String)> {
        let path = file.display().to_string();
        let mut variables = self.variables("FAKETIME_TIMESTAMP_FILE", path).to_vec();
        variables.push(("FAKETIME_NO_CACHE", "1".to_owned()));
        variables
    }

    fn variables(&self, name: &'static str, value: String) -> [(&'static str, String); 3] {
        [
            ("LD_PRELOAD", self.0.display().to_string()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            (name, value),
        ]
    }
}
