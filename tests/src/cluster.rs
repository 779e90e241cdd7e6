//! A throw-away PostgreSQL.
//!
//! Each cluster listens on a Unix socket in a folder of its own and on nothing
//! else, so clusters of tests that run side by side cannot meet. The server is
//! a child of the test: it is stopped by its process id, also when the test
//! panics. Its output goes to a file, since a server that inherits a pipe keeps
//! it open.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::owner::Owner;
use crate::pg_bin::PgBin;
use crate::sql::Session;
use crate::workspace::Workspace;
use crate::{skip, wait_until};

/// How a server is told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShutDown {
    /// Sessions end, a checkpoint is written.
    Fast,
    /// As in a crash.
    Immediate,
    /// The postmaster is killed, and nobody tells the others.
    Kill,
}

/// How far a restored cluster replays its WAL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovery<'a> {
    /// To the end of the archive.
    Latest,
    /// To the first consistent moment.
    Immediate,
    /// To a named restore point.
    Name(&'a str),
    /// To a time, as PostgreSQL prints it.
    Time(&'a str),
    /// As a standby that goes on replaying.
    Standby,
}

/// A cluster, running or not. Stopped when dropped.
#[derive(Debug)]
pub struct Cluster {
    bin: PgBin,
    owner: Owner,
    pgdata: PathBuf,
    socket_dir: PathBuf,
    log: PathBuf,
    environment: Vec<(String, String)>,
    first_process: bool,
    server: Option<Child>,
}

impl Cluster {
    /// A new cluster in folder `name`, with data checksums, WAL segments of 1 MiB
    /// (many small files make a better test of archiving than few large ones;
    /// before version 11 their size is 16 MiB) and further options for `initdb`.
    pub fn create(bin: &PgBin, workspace: &Workspace, name: &str, options: &[&str]) -> Self {
        let this = Self::existing(bin, workspace, name);
        let run = Command::new(bin.program("initdb"));
        let mut run = this.with_clean_environment(run);
        let output = run
            .args(["--username=postgres", "--auth=trust", "--data-checksums"])
            .args(["--encoding=UTF8", "--locale=C", "--no-sync"])
            .args((bin.major() >= 11).then_some("--wal-segsize=1"))
            .args(options)
            .arg("-D")
            .arg(&this.pgdata)
            .output()
            .expect("initdb can be started");
        assert!(
            output.status.success(),
            "initdb failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        // The machine does not crash during a test, so nothing need be synced.
        this.configure("fsync", "off");
        this.configure("max_connections", "20");
        this.configure("shared_buffers", "16MB");
        this.configure("max_wal_size", "64MB");
        let two_segments = if bin.major() >= 11 { "4MB" } else { "32MB" };
        this.configure("min_wal_size", two_segments);
        this
    }

    /// A cluster whose data directory is, or will be, folder `name`.
    pub fn existing(bin: &PgBin, workspace: &Workspace, name: &str) -> Self {
        Self {
            bin: bin.clone(),
            owner: workspace.owner(),
            pgdata: workspace.path(name),
            socket_dir: workspace.dir(format!("{name}.socket")),
            log: workspace.path(format!("{name}.log")),
            environment: Vec::new(),
            first_process: false,
            server: None,
        }
    }

    /// Adds variables to the server's environment, and so to that of the commands
    /// it runs to archive and to fetch WAL. Takes effect at the next start.
    pub fn set_environment(&mut self, variables: &[(&'static str, String)]) {
        let owned = |(name, value): &(&'static str, String)| ((*name).to_owned(), value.clone());
        self.environment.extend(variables.iter().map(owned));
    }

    /// The data directory.
    pub fn pgdata(&self) -> &Path {
        &self.pgdata
    }

    /// The folder with the server's socket; also what `--host` takes.
    pub fn socket_dir(&self) -> &Path {
        &self.socket_dir
    }

    /// The options of a tool that connects to this server as its superuser.
    pub fn connection(&self) -> [String; 2] {
        [
            format!("--host={}", self.socket_dir.display()),
            "--user=postgres".to_owned(),
        ]
    }

    /// Appends a setting to `postgresql.conf`.
    pub fn configure(&self, name: &str, value: &str) {
        self.append("postgresql.conf", &setting(name, value));
    }

    /// Makes the tools archive and fetch WAL: `options` are those of
    /// `barman-cloud-wal-archive`.
    pub fn archive_into(&self, workspace: &Workspace, url: &str, server: &str, options: &str) {
        let tool = workspace.bin("barman-cloud-wal-archive");
        self.archive_with(&format!("{} {options} {url} {server} %p", tool.display()));
    }

    /// Archives with any `archive_command`.
    pub fn archive_with(&self, archive_command: &str) {
        self.configure("wal_level", "replica");
        self.configure("archive_mode", "on");
        self.configure("archive_command", archive_command);
    }

    /// Makes a restored data directory recover when it is started. Its own
    /// archiving is switched off, lest it write into the archive it came from.
    pub fn recover(&self, workspace: &Workspace, url: &str, server: &str, until: &Recovery<'_>) {
        let tool = workspace.bin("barman-cloud-wal-restore");
        let command = format!("{} {url} {server} %f %p", tool.display());
        self.recover_with(&command, until);
    }

    /// The same with any `restore_command`.
    pub fn recover_with(&self, restore_command: &str, until: &Recovery<'_>) {
        self.append("postgresql.auto.conf", &setting("archive_mode", "off"));
        let mut lines = setting("restore_command", restore_command);
        lines.push_str(&setting("recovery_target_timeline", "latest"));
        match until {
            Recovery::Latest => {}
            // How often the archive is asked for more; 5 s by default.
            Recovery::Standby => {
                let pause = setting("wal_retrieve_retry_interval", "100ms");
                self.append("postgresql.auto.conf", &pause);
            }
            Recovery::Immediate => lines.push_str(&setting("recovery_target", "immediate")),
            Recovery::Name(name) => lines.push_str(&setting("recovery_target_name", name)),
            Recovery::Time(time) => lines.push_str(&setting("recovery_target_time", time)),
        }
        let standby = *until == Recovery::Standby;
        if !standby {
            lines.push_str(&setting("recovery_target_action", "promote"));
        }
        // Until version 11 a file of its own both held the settings and asked
        // for recovery.
        if self.bin.major() >= 12 {
            self.append("postgresql.auto.conf", &lines);
            let signal = if standby {
                "standby.signal"
            } else {
                "recovery.signal"
            };
            self.append(signal, "");
        } else {
            if standby {
                lines.push_str(&setting("standby_mode", "on"));
            }
            self.append("recovery.conf", &lines);
        }
    }

    /// Makes a primary that is stopped a standby of nothing, which archives on once it is
    /// promoted: a new timeline begins where it stopped. From version 12 on.
    pub fn stand_by(&self) {
        self.append("standby.signal", "");
    }

    fn append(&self, file: &str, text: &str) {
        let path = self.pgdata.join(file);
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .unwrap_or_else(|error| panic!("could not write {path:?}: {error}"));
        self.owner.take(&path);
    }

    /// Starts the server and returns when it takes connections.
    pub fn start(&mut self) {
        self.launch();
        wait_until("the server to take connections", || {
            self.check_alive();
            Session::open(&self.socket_dir, "postgres", "postgres").ok()
        });
    }

    /// Starts the server on a restored data directory and returns when its
    /// recovery is over.
    pub fn start_and_recover(&mut self) {
        self.launch();
        self.wait_for_recovery();
    }

    /// Returns when the recovery of a server that was launched is over.
    pub fn wait_for_recovery(&mut self) {
        wait_until("the end of recovery", || {
            self.check_alive();
            let session = Session::open(&self.socket_dir, "postgres", "postgres").ok()?;
            let rows = session.try_rows("SELECT pg_is_in_recovery()").ok()?;
            (rows[0][0] == "f").then_some(())
        });
    }

    /// Starts a server that must not come up; gives what it logged.
    pub fn start_in_vain(&mut self) -> String {
        self.launch();
        let mut server = self.server.take().expect("just launched");
        wait_until("the server to give up", || {
            server.try_wait().expect("own child").map(|status| {
                assert!(!status.success(), "the server ended without complaint");
            })
        });
        self.log_text()
    }

    /// Whether a server can be the first process of a namespace here: that takes root.
    /// If not, says so; on CI (`CI` is set) it fails instead.
    pub fn can_be_first_process() -> bool {
        let mut unshare = Command::new("unshare");
        unshare.args(["--pid", "--fork", "--mount-proc", "setpriv", "--version"]);
        let done = unshare.stdout(Stdio::null()).stderr(Stdio::null()).status();
        done.is_ok_and(|status| status.success())
            || skip::<()>("no namespaces of processes: run as root, with `unshare` and `setpriv`")
                .is_some()
    }

    /// From the next start on the server is process 1 of a namespace of its own, as in
    /// many a container.
    pub fn be_first_process(&mut self) {
        self.first_process = true;
    }

    /// The server's program, to be started as the owner of the cluster.
    fn postgres(&self) -> Command {
        let program = self.bin.program("postgres");
        if !self.first_process {
            return self.with_clean_environment(Command::new(program));
        }
        let mut command = Command::new("unshare");
        command
            .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(self.owner.becoming())
            .arg(program);
        clean_environment(&mut command);
        command
    }

    /// Starts the server and does not wait.
    pub fn launch(&mut self) {
        assert!(self.server.is_none(), "the server runs already");
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .expect("a log can be written in a temporary folder");
        let mut command = self.postgres();
        command
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .arg("-D")
            .arg(&self.pgdata)
            .arg("-k")
            .arg(&self.socket_dir)
            .args(["-c", "listen_addresses="])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor is free"))
            .stderr(log);
        self.server = Some(command.spawn().expect("the server can be started"));
    }

    fn with_clean_environment(&self, mut command: Command) -> Command {
        clean_environment(&mut command);
        self.owner.run_as(&mut command);
        command
    }

    fn check_alive(&mut self) {
        let server = self.server.as_mut().expect("the server was launched");
        if let Some(status) = server.try_wait().expect("own child") {
            self.server = None;
            panic!("the server ended with {status}:\n{}", self.log_text());
        }
    }

    /// A session as the superuser.
    pub fn session(&self) -> Session {
        self.session_as("postgres")
    }

    /// A session as `user`.
    pub fn session_as(&self, user: &str) -> Session {
        Session::open(&self.socket_dir, user, "postgres")
            .unwrap_or_else(|error| panic!("could not connect: {error}\n{}", self.log_text()))
    }

    /// Returns when every finished WAL segment is in the archive, after
    /// finishing the present one.
    #[expect(
        clippy::print_stderr,
        reason = "a test that fails shows the server's log"
    )]
    pub fn archive_everything(&self) {
        let last = self
            .session()
            .value("SELECT pg_walfile_name(pg_switch_wal())");
        let mut session = Some(self.session());
        wait_until("the archiver to finish", || {
            let sql = "SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver";
            match session.as_ref().map(|session| session.try_rows(sql)) {
                Some(Ok(archived)) => (archived[0][0] >= last).then_some(()),
                // A server that ended its sessions says why in its log, and comes back.
                Some(Err(error)) => {
                    eprintln!("{error}, and the server: {}", self.log_text());
                    session = None;
                    None
                }
                None => {
                    session = Session::open(&self.socket_dir, "postgres", "postgres").ok();
                    None
                }
            }
        });
    }

    /// Everything the server logged.
    pub fn log_text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Stops the server and waits for its end.
    pub fn stop(&mut self, how: ShutDown) {
        let Some(mut server) = self.server.take() else {
            return;
        };
        let signal = match how {
            ShutDown::Fast => Signal::INT,
            ShutDown::Immediate => Signal::QUIT,
            ShutDown::Kill => Signal::KILL,
        };
        send(&server, signal);
        wait_until("the server to stop", || {
            server.try_wait().expect("own child")
        });
    }

    /// Returns when a server that is still noted as running has ended by itself.
    pub fn wait_for_end(&mut self) {
        let mut server = self.server.take().expect("the server was launched");
        wait_until("the server to end", || {
            server.try_wait().expect("own child")
        });
    }

    /// The processes whose working directory is the data directory: those of the
    /// server, and the commands that it runs.
    pub fn processes(&self) -> Vec<Pid> {
        let all = fs::read_dir("/proc").expect("Linux has it");
        all.flatten()
            .filter_map(|entry| {
                let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
                let cwd = fs::read_link(entry.path().join("cwd")).ok()?;
                (cwd == self.pgdata).then(|| Pid::from_raw(pid))?
            })
            .collect()
    }

    /// Makes `role`, which may take base backups and nothing more.
    pub fn create_backup_role(&self, role: &str) {
        let (start, stop) = if self.bin.major() >= 15 {
            ("pg_backup_start(text, boolean)", "pg_backup_stop(boolean)")
        } else {
            (
                "pg_start_backup(text, boolean, boolean)",
                "pg_stop_backup(boolean, boolean)",
            )
        };
        self.session().run(&format!(
            "CREATE ROLE {role} LOGIN; GRANT pg_monitor TO {role}; \
             GRANT EXECUTE ON FUNCTION {start} TO {role}; \
             GRANT EXECUTE ON FUNCTION {stop} TO {role}; \
             GRANT EXECUTE ON FUNCTION pg_switch_wal() TO {role}; \
             GRANT EXECUTE ON FUNCTION pg_create_restore_point(text) TO {role}"
        ));
    }

    /// Has `pg_upgrade` of a newer version make a cluster in folder `name` of this one,
    /// which must have been stopped cleanly.
    #[must_use]
    pub fn upgraded(&self, bin: &PgBin, workspace: &Workspace, name: &str) -> Self {
        let new = Self::create(bin, workspace, name, &[]);
        let place = workspace.dir(format!("{name}.upgrade"));
        let run = Command::new(bin.program("pg_upgrade"));
        let output = self
            .with_clean_environment(run)
            .current_dir(&place)
            .args(["--username=postgres", "--no-sync"])
            .arg("--old-bindir")
            .arg(self.bin.folder())
            .arg("--new-bindir")
            .arg(bin.folder())
            .arg("--old-datadir")
            .arg(&self.pgdata)
            .arg("--new-datadir")
            .arg(&new.pgdata)
            .arg("--socketdir")
            .arg(&place)
            .output()
            .expect("pg_upgrade can be started");
        assert!(
            output.status.success(),
            "pg_upgrade failed: {}{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
            logs_in(&new.pgdata.join("pg_upgrade_output.d"))
        );
        new
    }

    /// Verifies the checksum of every page; the server must be stopped.
    pub fn check_pages(&self) {
        let run = Command::new(self.bin.program("pg_checksums"));
        let output = self
            .with_clean_environment(run)
            .arg("--check")
            .arg("-D")
            .arg(&self.pgdata)
            .output()
            .expect("pg_checksums can be started");
        assert!(
            output.status.success(),
            "pages are damaged: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Puts the tablespace `name` into folder `place`.
    pub fn make_tablespace(&self, workspace: &Workspace, name: &str, place: &str) -> PathBuf {
        let dir = workspace.dir(place);
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).expect("own folder");
        self.session().run(&format!(
            "CREATE TABLESPACE \"{name}\" LOCATION '{}'",
            dir.display()
        ));
        dir
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            send(server, Signal::QUIT);
            // The postmaster kills what does not end within five seconds.
            let _ = server.wait();
        }
    }
}

fn clean_environment(command: &mut Command) {
    command
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("LC_ALL", "C.UTF-8")
        .env("TZ", "UTC")
        .current_dir("/");
}

fn send(server: &Child, signal: Signal) {
    let started = server.id();
    // Of a server in a namespace of its own it is the parent that was started.
    let comm = fs::read_to_string(format!("/proc/{started}/comm")).unwrap_or_default();
    let children = fs::read_to_string(format!("/proc/{started}/task/{started}/children"));
    let below = children.ok().filter(|_| comm.trim() == "unshare");
    let below = below.and_then(|text| text.split_whitespace().next()?.parse().ok());
    let pid = below.unwrap_or(started);
    let pid = i32::try_from(pid).expect("process ids are positive and small");
    // Fails only for a server that has just ended by itself.
    let _ = kill_process(Pid::from_raw(pid).expect("not zero"), signal);
}

fn setting(name: &str, value: &str) -> String {
    format!("{name} = '{}'\n", value.replace('\'', "''"))
}

/// What `pg_upgrade` left in the folders of its runs, where it says why it failed.
fn logs_in(folder: &Path) -> String {
    let runs = fs::read_dir(folder).into_iter().flatten().flatten();
    let logs = runs.flat_map(|run| fs::read_dir(run.path().join("log")).into_iter().flatten());
    let texts = logs.flatten().map(|log| {
        let text = fs::read(log.path()).unwrap_or_default();
        format!(
            "\n--- {}\n{}",
            log.path().display(),
            String::from_utf8_lossy(&text)
        )
    });
    texts.collect()
}
