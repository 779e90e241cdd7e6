//! A throw-away PostgreSQL: on a socket in a folder of its own, and on a free
//! port of the loopback address.

use std::ffi::OsString;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cloud_core::pg::{ConnInfo, Options, PgError, Session, Var};
use nix::unistd::{User, geteuid};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Far beyond what anything here needs; a test that reaches it has failed.
const PATIENCE: Duration = Duration::from_mins(2);

/// The environment that a session is opened in: nothing of the real one.
#[derive(Debug, Clone)]
pub(crate) struct Vars(pub(crate) Vec<(&'static str, String)>);

impl Var for Vars {
    fn var(&self, name: &str) -> Option<OsString> {
        let found = self.0.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| value.into())
    }
}

/// A cluster and the folder that holds everything of it. Stopped when dropped.
#[derive(Debug)]
pub(crate) struct Cluster {
    dir: TempDir,
    programs: PathBuf,
    port: u16,
    pgdata: PathBuf,
    server: Option<Child>,
}

impl Cluster {
    /// A new cluster whose superuser is `postgres`, let in without a password on
    /// the socket, with one (SCRAM) by TCP; not running. `None`, with the reason
    /// printed, where there is no PostgreSQL.
    pub(crate) fn create() -> Option<Self> {
        let this = Self::empty()?;
        let initdb = this
            .program("initdb")
            .args(["--username=postgres", "--auth-local=trust"])
            .args([
                "--auth-host=scram-sha-256",
                "--no-sync",
                "--encoding=UTF8",
                "--locale=C",
            ])
            .arg("-D")
            .arg(&this.pgdata)
            .output()
            .expect("initdb can be started");
        let complaint = String::from_utf8_lossy(&initdb.stderr);
        assert!(initdb.status.success(), "initdb failed: {complaint}");
        Some(this)
    }

    /// A standby of `primary`, not running.
    pub(crate) fn standby_of(primary: &Self) -> Self {
        let this = Self::empty().expect("the primary has found the programs");
        let copy = this
            .program("pg_basebackup")
            .args(["--username=postgres", "--no-sync", "--checkpoint=fast"])
            .args(["--write-recovery-conf", "--pgdata"])
            .arg(&this.pgdata)
            .arg("--host")
            .arg(primary.dir())
            .arg(format!("--port={}", primary.port))
            .output()
            .expect("pg_basebackup can be started");
        let complaint = String::from_utf8_lossy(&copy.stderr);
        assert!(copy.status.success(), "pg_basebackup failed: {complaint}");
        this
    }

    #[expect(clippy::print_stderr, reason = "a skipped test says what would run it")]
    fn empty() -> Option<Self> {
        let Some(programs) = programs() else {
            let help = "no PostgreSQL server found: install `postgresql`, or set PG_BIN to the \
                        folder with `initdb` and `postgres`";
            assert!(std::env::var_os("CI").is_none(), "{help}");
            eprintln!("skipped: {help}");
            return None;
        };
        let dir = tempfile::Builder::new()
            .prefix("pg-")
            .tempdir()
            .expect("a temporary folder can be made");
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(dir.path(), open).expect("own folder");
        let this = Self {
            pgdata: dir.path().join("data"),
            dir,
            programs,
            port: free_port(),
            server: None,
        };
        give_away(this.dir());
        Some(this)
    }

    /// The folder of the socket; also a good place for further files.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Writes a file that the server may read and nobody else.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir().join(name);
        std::fs::write(&path, text).expect("own folder");
        Self::hand_over(&path);
        path
    }

    /// Gives a file to the server's user and hides it from others.
    pub(crate) fn hand_over(path: &Path) {
        let hidden = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(path, hidden).expect("own file");
        give_away(path);
    }

    /// A program of PostgreSQL, run by the owner of clusters.
    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("LC_ALL", "C")
            .env("TZ", "UTC")
            .current_dir("/")
            .stdin(Stdio::null());
        if let Some((uid, gid)) = owner() {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Starts the server with these settings, and returns when it lets the
    /// superuser in.
    pub(crate) async fn start(&mut self, settings: &[String]) {
        let log = std::fs::File::create(self.dir().join("log")).expect("own folder");
        let mut command = self.program("postgres");
        command
            .arg("-D")
            .arg(&self.pgdata)
            .arg("-k")
            .arg(self.dir())
            .arg("-p")
            .arg(self.port.to_string())
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"])
            .args(["-c", "max_connections=20", "-c", "shared_buffers=16MB"])
            .stdout(log.try_clone().expect("a descriptor is free"))
            .stderr(log);
        for setting in settings {
            command.arg("-c").arg(setting);
        }
        self.server = Some(command.spawn().expect("the server can be started"));
        let began = Instant::now();
        while let Err(error) = self.connect("").await {
            let server = self.server.as_mut().expect("just started");
            let ended = server.try_wait().expect("own child");
            let log = std::fs::read_to_string(self.dir().join("log")).unwrap_or_default();
            assert!(ended.is_none(), "the server ended: {log}");
            assert!(began.elapsed() < PATIENCE, "no connection: {error}\n{log}");
            tokio::task::yield_now().await;
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// Stops the server and waits for its end.
    pub(crate) fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let pid = i32::try_from(server.id()).expect("process ids are small");
            // Fails only for a server that has just ended by itself.
            let _ = kill_process(Pid::from_raw(pid).expect("not zero"), Signal::QUIT);
            let _ = server.wait();
        }
    }

    /// Opens a session over the socket as the superuser; what `more` says goes
    /// before that.
    pub(crate) async fn connect(&self, more: &str) -> Result<Session, PgError> {
        self.connect_with(&self.usual(more), &[]).await
    }

    /// The connection string of [`connect`](Self::connect).
    pub(crate) fn usual(&self, more: &str) -> String {
        let (dir, port) = (self.dir().display(), self.port);
        format!("host='{dir}' port={port} user=postgres dbname=postgres {more}")
    }

    /// Opens a session by TCP; `text` says the rest.
    pub(crate) async fn connect_tcp(&self, text: &str) -> Result<Session, PgError> {
        let usual = format!("port={} dbname=postgres", self.port);
        self.connect_with(&format!("{usual} {text}"), &[]).await
    }

    /// Opens a session by a connection string and variables alone. The home
    /// directory is the folder of the cluster.
    pub(crate) async fn connect_with(
        &self,
        text: &str,
        vars: &[(&'static str, &str)],
    ) -> Result<Session, PgError> {
        let mut all = vec![("HOME", self.dir().display().to_string())];
        all.extend(
            vars.iter()
                .map(|(name, value)| (*name, (*value).to_owned())),
        );
        let options = Options {
            dbname: Some(text.to_owned()),
            ..Options::default()
        };
        Session::connect(&ConnInfo::collect(&options, &Vars(all))?).await
    }

    /// Another session of the superuser, for what a backup never asks.
    pub(crate) async fn admin(&self) -> Admin {
        self.admin_of("postgres").await
    }

    /// The same in another database.
    pub(crate) async fn admin_of(&self, database: &str) -> Admin {
        let mut config = tokio_postgres::Config::new();
        config.host_path(self.dir()).port(self.port);
        config.user("postgres").dbname(database);
        let connected = config.connect(tokio_postgres::NoTls).await;
        let (client, connection) = connected.expect("the superuser is let in");
        tokio::spawn(connection);
        Admin(client)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A session for preparing and for looking.
pub(crate) struct Admin(tokio_postgres::Client);

impl Admin {
    pub(crate) async fn run(&self, sql: &str) {
        let done = self.0.batch_execute(sql).await;
        done.unwrap_or_else(|error| panic!("`{sql}`: {error:?}"));
    }

    /// Returns when `sql` gives these values.
    pub(crate) async fn wait_for(&self, sql: &str, values: &[&str]) {
        let began = Instant::now();
        while self.values(sql).await != values {
            assert!(began.elapsed() < PATIENCE, "{sql}: not {values:?}");
            tokio::task::yield_now().await;
        }
    }

    /// The first column of the rows of `sql`, as text.
    pub(crate) async fn values(&self, sql: &str) -> Vec<String> {
        let rows = self.0.simple_query(sql).await;
        let rows = rows.unwrap_or_else(|error| panic!("`{sql}`: {error:?}"));
        let value = |message: &tokio_postgres::SimpleQueryMessage| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => {
                Some(row.get(0).unwrap_or("NULL").to_owned())
            }
            _ => None,
        };
        rows.iter().filter_map(value).collect()
    }
}

/// `PG_BIN`, or the newest version below Debian's folder, or what `PATH` has.
fn programs() -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os("PG_BIN") {
        return Some(dir.into());
    }
    let folder = |entry: std::fs::DirEntry| {
        let version = entry.file_name().to_str()?.parse::<u32>().ok()?;
        Some((version, entry.path().join("bin")))
    };
    let installed = std::fs::read_dir("/usr/lib/postgresql");
    let mut installed: Vec<_> = installed
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(folder)
        .collect();
    installed.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    installed
        .into_iter()
        .rev()
        .map(|(_, dir)| dir)
        .chain(std::env::split_paths(&path))
        .find(|dir| dir.join("postgres").is_file() && dir.join("initdb").is_file())
}

/// Who owns clusters when root runs the tests: PostgreSQL refuses to be root.
fn owner() -> Option<(u32, u32)> {
    geteuid().is_root().then(|| {
        let known = ["postgres", "nobody"]
            .iter()
            .find_map(|name| User::from_name(name).ok().flatten());
        let user = known.expect("every system has the user `nobody`");
        (user.uid.as_raw(), user.gid.as_raw())
    })
}

fn give_away(path: &Path) {
    if let Some((uid, gid)) = owner() {
        chown(path, Some(uid), Some(gid)).expect("root may give files away");
    }
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("the loopback address is there");
    let bound = listener.local_addr().expect("just bound");
    bound.port()
}
