//! A Barman server of one test: its own configuration and home, no daemon, no
//! network.
//!
//! It is the user that owns the clusters, and reaches the "host" of a cluster by a
//! script in place of ssh that runs the command where it is.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::{Uid, User, geteuid};

use crate::barman::Barman;
use crate::cluster::Cluster;
use crate::pg_bin::PgBin;
use crate::tools::{Running, Tool};
use crate::workspace::Workspace;
use crate::{PATIENCE, skip, wait_until};

/// What Barman takes for ssh: `[OPTION]... HOST [OPTION]... COMMAND...`.
const LOCAL_SSH: &str = r#"#!/bin/sh
host=
while [ $# -gt 0 ]; do
  case $1 in
    -o | -p | -l | -i) shift 2 ;;
    -*) shift ;;
    *)
      [ -n "$host" ] && break
      host=$1
      shift
      ;;
  esac
done
exec sh -c "$*"
"#;

/// How the server gets base backups and WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BarmanMethod {
    /// rsync, and what `archive_command` puts into its folder.
    Rsync,
    /// `pg_basebackup` and `pg_receivewal`.
    Streaming,
}

/// The server. What it is told of is one cluster, as `main`.
#[derive(Debug)]
pub struct BarmanServer<'w> {
    barman: Barman,
    workspace: &'w Workspace,
    home: PathBuf,
    config: PathBuf,
    environment: Vec<(&'static str, String)>,
}

impl<'w> BarmanServer<'w> {
    /// A server that knows of nothing yet. Without Barman or rsync, says what would
    /// help and gives `None`: the test is skipped; on CI (`CI` is set) it fails instead.
    pub fn find(workspace: &'w Workspace) -> Option<Self> {
        let barman = Barman::find()?;
        if Command::new("rsync").arg("--version").output().is_err() {
            return skip("rsync is missing: install what Debian calls rsync");
        }
        let home = workspace.dir("barman");
        workspace.dir("barman/main");
        workspace.dir("barman/main/incoming");
        let config = workspace.path("barman.conf");
        Some(Self {
            barman,
            workspace,
            home,
            config,
            environment: Vec::new(),
        })
    }

    /// Adds variables to its environment, and so to that of its hook scripts.
    pub fn set_environment(&mut self, variables: &[(&'static str, String)]) {
        self.environment.extend_from_slice(variables);
    }

    /// Makes a cluster send its WAL here.
    pub fn receive_from(&self, cluster: &Cluster) {
        let incoming = self.incoming();
        let (tmp, incoming) = (self.home.display(), incoming.display());
        // What is half there must not be seen.
        cluster.archive_with(&format!("cp %p {tmp}/%f && mv {tmp}/%f {incoming}/%f"));
    }

    /// Tells it of a running cluster, with further lines of settings: hook scripts.
    pub fn configure(&self, bin: &PgBin, cluster: &Cluster, method: BarmanMethod, more: &[String]) {
        let ssh = self.workspace.file("local-ssh", LOCAL_SSH);
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&ssh, executable).expect("own file's mode can be set");
        let user = if self.workspace.owner().is_somebody_else() {
            let meta = fs::metadata(self.workspace.root()).expect("it is there");
            Uid::from_raw(std::os::unix::fs::MetadataExt::uid(&meta))
        } else {
            geteuid()
        };
        let user = User::from_uid(user).ok().flatten();
        let user = user.expect("who runs the tests has a name").name;
        let connection = format!(
            "host={} user=postgres dbname=postgres",
            cluster.socket_dir().display()
        );
        let programs = bin.program("pg_basebackup");
        let programs = programs.parent().expect("programs lie in a folder");
        let home = self.home.display();
        let mut lines = vec![
            "[barman]".to_owned(),
            format!("barman_user = {user}"),
            format!("barman_home = {home}"),
            format!("barman_lock_directory = {home}"),
            format!("log_file = {home}/log"),
            "[main]".to_owned(),
            "description = main".to_owned(),
            format!("conninfo = {connection}"),
            format!("path_prefix = {}", programs.display()),
        ];
        lines.extend(match method {
            BarmanMethod::Rsync => vec![
                "backup_method = rsync".to_owned(),
                "reuse_backup = link".to_owned(),
                format!("ssh_command = {} localhost", ssh.display()),
                "archiver = on".to_owned(),
            ],
            BarmanMethod::Streaming => vec![
                "backup_method = postgres".to_owned(),
                format!("streaming_conninfo = {connection}"),
                "streaming_archiver = on".to_owned(),
                "slot_name = barman".to_owned(),
            ],
        });
        lines.extend_from_slice(more);
        self.workspace.file("barman.conf", lines.join("\n") + "\n");
    }

    /// `barman` with these arguments, about to be run.
    pub fn tool(&self, arguments: &[&str]) -> Tool<'w> {
        let tool = self.barman.tool(self.workspace, "barman");
        tool.envs(self.environment.clone())
            .arg("-c")
            .arg(&self.config)
            .args(arguments)
    }

    /// Runs `barman` and expects success.
    ///
    /// # Panics
    ///
    /// If it fails, with what it said and its log.
    pub fn run(&self, arguments: &[&str]) {
        let run = self.tool(arguments).run();
        assert!(run.code() == Some(0), "{run}\n--- log\n{}", self.log());
    }

    /// Where WAL comes in that `archive_command` sends.
    pub fn incoming(&self) -> PathBuf {
        self.home.join("main/incoming")
    }

    /// Begins to receive WAL of the cluster by streaming, and waits until it comes.
    pub fn receive_wal(&self, cluster: &Cluster) -> WalReceiver<'_> {
        self.run(&["receive-wal", "--create-slot", "main"]);
        let receiver = WalReceiver {
            _running: self.tool(&["receive-wal", "main"]).start(),
            server: self,
        };
        // What is switched before that is never seen by Barman as received.
        let streams = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
        let session = cluster.session();
        wait_until("the Barman server receives WAL", || {
            (session.value(streams) == "1").then_some(())
        });
        receiver
    }

    /// Makes it archive all WAL of the cluster so far, that sends it here.
    pub fn take_wal(&self) {
        let wait = format!("--archive-timeout={}", PATIENCE.as_secs());
        self.run(&["switch-wal", "--force", "--archive", &wait, "main"]);
    }

    /// Makes it archive all WAL of the cluster so far, that it receives by streaming.
    pub fn take_streamed_wal(&self, cluster: &Cluster) {
        self.run(&["switch-wal", "--force", "main"]);
        // A segment is whole when the next one begins, and an idle cluster begins none.
        let session = cluster.session();
        session.run("SELECT txid_current()");
        let next = session.value("SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
        let next = format!("{next}.partial");
        let streaming = self.home.join("main/streaming");
        wait_until("the WAL is archived", || {
            self.run(&["archive-wal", "main"]);
            let names = fs::read_dir(&streaming).expect("it receives WAL");
            let mut names = names.map(|entry| entry.expect("an entry").file_name());
            (names.next()? == *next && names.next().is_none()).then_some(())
        });
    }

    /// The folder and the id of its only backup.
    pub fn backup(&self) -> (PathBuf, String) {
        let base = self.home.join("main/base");
        let mut found: Vec<PathBuf> = fs::read_dir(&base)
            .expect("it has backups")
            .map(|entry| entry.expect("an entry").path())
            .collect();
        let only = found.pop().expect("a backup");
        assert!(found.is_empty(), "there are others: {found:?}");
        let id = only.file_name().expect("it has a name").to_string_lossy();
        let id = id.into_owned();
        (only, id)
    }

    /// Where it keeps the record of a backup.
    pub fn record(&self, id: &str) -> PathBuf {
        let meta = self.home.join("main/meta");
        let record = meta.join(format!("{id}-backup.info"));
        let old = self.home.join(format!("main/base/{id}/backup.info"));
        if record.exists() { record } else { old }
    }

    /// Everything that it logged.
    pub fn log(&self) -> String {
        read(&self.home.join("log"))
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// A Barman server that receives WAL by streaming, until this is dropped.
#[derive(Debug)]
pub struct WalReceiver<'s> {
    _running: Running,
    server: &'s BarmanServer<'s>,
}

impl Drop for WalReceiver<'_> {
    fn drop(&mut self) {
        // It has a child of its own, which a kill would leave behind.
        let _ = self.server.tool(&["receive-wal", "--stop", "main"]).run();
    }
}
