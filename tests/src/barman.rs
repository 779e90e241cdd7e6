//! The tools that ours are compatible with, as the other side of an exchange.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::project;
use crate::skip;
use crate::tools::Tool;
use crate::workspace::Workspace;

/// Where the reference's tools lie, and a Python with the codecs they use.
#[derive(Debug, Clone)]
pub struct Barman(PathBuf);

impl Barman {
    /// `TEST_BARMAN_BIN`. Without it, says what would help and gives `None`: the
    /// test is skipped; on CI (`CI` is set) it fails instead.
    pub fn find() -> Option<Self> {
        let dir = std::env::var_os("TEST_BARMAN_BIN");
        dir.map(|dir| Self(dir.into())).or_else(|| {
            skip(
                "TEST_BARMAN_BIN is not set: run \
                 `exports=$(tests/servers/barman.sh install) && eval \"$exports\"`",
            )
        })
    }

    /// Path of one of its tools.
    pub fn program(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A tool of its, run as ours are.
    pub fn tool<'w>(&self, workspace: &'w Workspace, name: &str) -> Tool<'w> {
        Tool::of_program(workspace, name, &self.program(name))
    }

    /// Decodes a file with a decoder that is not ours, which accepts exactly one
    /// frame.
    pub fn decode(&self, codec: &str, from: &Path, to: &Path) {
        // As the present user: another may not be able to read the project.
        let output = Command::new(self.program("python"))
            .arg(project().join("tests/servers/decode.py"))
            .arg(codec)
            .args([from, to])
            .output()
            .expect("the Python beside Barman's tools can be started");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{codec}: {said}");
    }
}
