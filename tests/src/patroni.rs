//! A real Patroni with the server that it runs, both on ports of the loopback address.
//!
//! The nodes of a cluster agree by Patroni's own Raft, so that nothing else has to run.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::pg_bin::PgBin;
use crate::processes::Process;
use crate::sql::Session;
use crate::tools::{Running, Tool};
use crate::workspace::Workspace;
use crate::{free_addresses, http_get, skip, wait_until};

/// A node of a cluster, running or not. It and its server are stopped when it is dropped.
#[derive(Debug)]
pub struct PatroniNode<'w> {
    workspace: &'w Workspace,
    programs: PathBuf,
    name: String,
    rest_api: SocketAddr,
    raft: SocketAddr,
    server: SocketAddr,
    environment: Vec<(&'static str, String)>,
    patroni: Option<Running>,
}

impl<'w> PatroniNode<'w> {
    /// A node of the cluster `scope`, which has `others` already. Of its configuration there is
    /// what every node needs: where things lie, who may connect, and short times.
    ///
    /// Patroni is that of `TEST_PATRONI`. Without it, says what would help and gives `None`.
    pub fn new(
        bin: &PgBin,
        workspace: &'w Workspace,
        scope: &str,
        name: &str,
        others: &[&PatroniNode<'_>],
    ) -> Option<Self> {
        let programs = std::env::var_os("TEST_PATRONI").or_else(|| {
            skip(
                "TEST_PATRONI is not set: run \
                 `exports=$(tests/servers/patroni.sh install) && eval \"$exports\"`",
            )
        })?;
        let [rest_api, raft, server] = free_addresses();
        let this = Self {
            workspace,
            programs: programs.into(),
            name: name.to_owned(),
            rest_api,
            raft,
            server,
            environment: Vec::new(),
            patroni: None,
        };
        workspace.dir(this.folder("config"));
        // JSON is YAML.
        let basis = this.basis(bin, scope, others).to_string();
        this.configure("0-basis", &basis);
        Some(this)
    }

    fn basis(&self, bin: &PgBin, scope: &str, others: &[&PatroniNode<'_>]) -> Value {
        let others: Vec<_> = others.iter().map(|other| other.raft).collect();
        json!({
            "scope": scope,
            "name": self.name,
            "restapi": { "listen": self.rest_api, "connect_address": self.rest_api },
            "raft": {
                "data_dir": self.folder("raft"),
                "self_addr": self.raft,
                "partner_addrs": others,
            },
            "bootstrap": {
                "dcs": { "ttl": 30, "loop_wait": 1, "retry_timeout": 10 },
                "initdb": [
                    { "encoding": "UTF8" }, { "locale": "C" }, { "wal-segsize": "1" },
                    "data-checksums", "no-sync",
                ],
            },
            "postgresql": {
                "listen": self.server,
                "connect_address": self.server,
                "data_dir": self.data_dir(),
                "bin_dir": bin.folder(),
                "pgpass": self.folder("pgpass"),
                "parameters": {
                    "fsync": "off",
                    "shared_buffers": "16MB",
                    "max_wal_size": "64MB",
                    "min_wal_size": "4MB",
                    "unix_socket_directories": self.folder(""),
                },
                "pg_hba": [
                    "host all all 127.0.0.1/32 trust",
                    "host replication all 127.0.0.1/32 trust",
                ],
                "authentication": {
                    "superuser": { "username": "postgres" },
                    "replication": { "username": "replicator" },
                },
                "basebackup": [{ "checkpoint": "fast" }],
            },
        })
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.workspace.dir(&self.name).join(name)
    }

    /// Where the server's data is, or will be.
    pub fn data_dir(&self) -> PathBuf {
        self.folder("data")
    }

    /// Where Patroni answers: `127.0.0.1:port`.
    pub fn rest_api(&self) -> String {
        self.rest_api.to_string()
    }

    /// Adds to the configuration. What comes later in the order of `name` wins.
    pub fn configure(&self, name: &str, yaml: &str) {
        let path = self.folder("config").join(format!("{name}.yml"));
        self.workspace.file(path, yaml);
    }

    /// Adds variables to the environment of Patroni, and of the tools that run here.
    pub fn set_environment(&mut self, variables: &[(&'static str, String)]) {
        self.environment.extend_from_slice(variables);
    }

    /// Starts Patroni, which has our tools in its `PATH`.
    pub fn start(&mut self) {
        let path = format!("{}:/usr/bin:/bin", self.workspace.path("bin").display());
        let patroni = self.program("patroni").env("PATH", path);
        let patroni = patroni.envs(self.environment.clone());
        self.patroni = Some(patroni.arg(self.folder("config")).start());
    }

    fn program(&self, name: &str) -> Tool<'w> {
        Tool::of_program(self.workspace, name, &self.programs.join(name))
    }

    /// Runs `patronictl` with the arguments of a line, which must succeed.
    pub fn control(&self, line: &str) {
        let tool = self.program("patronictl").arg("-c");
        let tool = tool.arg(self.folder("config"));
        let run = tool.args(line.split_whitespace()).run();
        assert_eq!(run.code(), Some(0), "{run}");
    }

    /// Returns when Patroni calls itself this, `primary` or `replica`.
    pub fn wait_to_be(&self, role: &str) {
        wait_until(&format!("{} to be {role}", self.name), || {
            let answer = http_get(&self.rest_api(), &format!("/{role}"), &[]);
            (answer.ok()?.status == 200).then_some(())
        });
    }

    /// What Patroni says of itself; nothing while it cannot.
    pub fn status(&self) -> Value {
        let answer = http_get(&self.rest_api(), "/patroni", &[]);
        let body = answer.map(|answer| answer.body).unwrap_or_default();
        serde_json::from_slice(&body).unwrap_or_default()
    }

    /// What Patroni and its server logged until now.
    pub fn log(&self) -> String {
        let running = self.patroni.as_ref();
        running.map_or_else(String::new, Running::stderr_so_far)
    }

    /// A session of the superuser, as soon as the server takes one.
    pub fn session(&self) -> Session {
        wait_until("the server to take connections", || {
            Session::over_tcp(self.server.port(), "postgres", "postgres").ok()
        })
    }

    /// One of our tools, with the variables that lead to the store and to the server.
    pub fn tool(&self, name: &str) -> Tool<'w> {
        let tool = self.workspace.tool(name).envs(self.environment.clone());
        tool.env("PGHOST", self.server.ip().to_string())
            .env("PGPORT", self.server.port().to_string())
            .env("PGUSER", "postgres")
    }

    /// The exit code of a line that systemd would run before a service of this node.
    pub fn condition(&self, line: &str) -> Option<i32> {
        let mut words = line.split_whitespace();
        let program = Path::new(words.next().expect("a line names a program"));
        let tool = Tool::of_program(self.workspace, "condition", program);
        tool.args(words).run().code()
    }
}

impl Drop for PatroniNode<'_> {
    #[expect(clippy::print_stderr, reason = "what a failed test has to say")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.name, self.log());
        }
        // It goes first, lest it start the server again, which is no child of its.
        self.patroni = None;
        wait_until("a node's server to end", || {
            let left = Process::naming(&self.data_dir());
            for process in &left {
                process.signal(Signal::QUIT);
            }
            left.is_empty().then_some(())
        });
    }
}
