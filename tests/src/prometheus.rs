//! Debian's Prometheus, scraping what a test serves.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use crate::workspace::Workspace;
use crate::{HttpAnswer, free_addresses, http_get, skip, wait_until};

/// The folder of its programs, from `TEST_PROMETHEUS`. Without it, says what would help and
/// gives `None`.
fn programs() -> Option<PathBuf> {
    std::env::var_os("TEST_PROMETHEUS")
        .map(PathBuf::from)
        .or_else(|| {
            skip(
                "TEST_PROMETHEUS is not set: run \
             `exports=$(tests/servers/prometheus.sh install) && eval \"$exports\"`",
            )
        })
}

/// What `promtool` makes of these arguments in a folder, with `input`; `None` without it.
pub fn promtool(folder: &Path, arguments: &[&str], input: &str) -> Option<Output> {
    let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    std::fs::write(&file, input).expect("it can be written");
    let tool = Command::new(programs()?.join("promtool"))
        .args(arguments)
        .current_dir(folder)
        .stdin(file.reopen().expect("it was just made"))
        .output();
    Some(tool.expect("promtool can be started"))
}

/// A running Prometheus, stopped when it is dropped.
#[derive(Debug)]
pub struct Prometheus {
    child: Child,
    address: String,
}

impl Prometheus {
    /// Starts it with this configuration; `None` if it is not there.
    pub fn start(workspace: &Workspace, config: &str) -> Option<Self> {
        let program = programs()?.join("prometheus");
        let config = workspace.file("prometheus.yml", config);
        let [address] = free_addresses().map(|free| free.to_string());
        let log = std::fs::File::create(workspace.path("prometheus.log"));
        let child = Command::new(program)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                workspace.path("prometheus").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.expect("a file can be made in a temporary folder"))
            .spawn()
            .expect("Prometheus can be started");
        let this = Self { child, address };
        wait_until("Prometheus to be ready", || {
            this.get("/-/ready").filter(|answer| answer.status == 200)
        });
        Some(this)
    }

    /// Where it is: `127.0.0.1:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    fn get(&self, target: &str) -> Option<HttpAnswer> {
        http_get(&self.address, target, &[]).ok()
    }

    /// The series that an expression gives now.
    ///
    /// # Panics
    ///
    /// If Prometheus refuses it.
    pub fn query(&self, expression: &str) -> Vec<Value> {
        let mut encoded = String::new();
        for byte in expression.bytes() {
            encoded.push_str(&format!("%{byte:02X}"));
        }
        let answer = self.get(&format!("/api/v1/query?query={encoded}"));
        let answer = answer.expect("it runs");
        let body: Value = serde_json::from_slice(&answer.body).expect("it answers in JSON");
        assert_eq!(body["status"], "success", "{expression}: {body}");
        let result = body["data"]["result"].as_array();
        result.expect("a vector").clone()
    }

    /// Waits for an expression to give something, and gives the value of the first series.
    pub fn wait_for(&self, expression: &str) -> String {
        wait_until(expression, || {
            let found = self.query(expression);
            Some(found.first()?["value"][1].as_str()?.to_owned())
        })
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // Both fail only if it has ended and was reaped already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
