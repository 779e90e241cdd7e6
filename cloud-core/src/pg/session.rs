//! One session with the server, from the connection to its end.

use std::error::Error as _;
use std::time::Duration;

use tokio::sync::watch;
use tokio_postgres::config::{self, SslNegotiation};
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::conninfo::{
    ChannelBinding, ConnInfo, ConnInfoError, Host, Place, SessionAttrs, SslMode,
};
use super::tls;

/// What went wrong with the server.
#[derive(Debug, thiserror::Error)]
pub enum PgError {
    /// It is not clear where to connect to.
    #[error(transparent)]
    ConnInfo(#[from] ConnInfoError),
    /// No server accepted the connection.
    #[error("{0}")]
    Connect(String),
    /// The server refused a command.
    #[error("{what}: {message}")]
    Refused {
        /// Which command.
        what: String,
        /// The server's own words.
        message: String,
    },
    /// The connection is gone.
    #[error("Connection to the Postgres server was lost during the backup.")]
    Lost,
    /// The answer is not of the form it must have.
    #[error("{what}: the server answered in an unexpected form")]
    Unexpected {
        /// Which command.
        what: String,
    },
    /// The role may not do what a backup needs.
    #[error("missing required privileges: {}", .0.join(", "))]
    Privileges(Vec<String>),
}

/// A connection that stays open until it is dropped.
#[derive(Debug)]
pub struct Session {
    client: Client,
    closed: watch::Receiver<bool>,
    version: u32,
    version_text: String,
    /// The server process that answered first: behind a pooler it may change,
    /// and with it the session that backup mode belongs to.
    backend: String,
}

/// Oldest server that is worked with, as `server_version_num`.
pub(super) const OLDEST: u32 = 90_600;

/// A connection, as it was opened.
struct Opened {
    client: Client,
    closed: watch::Receiver<bool>,
    /// `server_version`, as the server announced it.
    version: Option<String>,
}

/// `server_version_num` of a `server_version`: `15.20 (Debian 15.20-0)`,
/// `18beta1`, `9.6.24`.
fn version_number(text: &str) -> u32 {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let mut parts = text[..end]
        .split('.')
        .map(|part| part.parse::<u32>().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    match next() {
        major @ ..10 => major * 10_000 + next() * 100 + next(),
        major => major.saturating_mul(10_000) + next(),
    }
}

/// One row of a result, as text.
pub(super) type Row = Vec<Option<String>>;

impl Session {
    /// Connects to the first server that accepts.
    pub async fn connect(info: &ConnInfo) -> Result<Self, PgError> {
        let passes: &[SessionAttrs] = match info.session_attrs {
            SessionAttrs::PreferStandby => &[SessionAttrs::Standby, SessionAttrs::Any],
            ref one => std::slice::from_ref(one),
        };
        let mut errors: Vec<String> = Vec::new();
        for attrs in passes {
            for host in &info.hosts {
                match Self::connect_to(info, host, *attrs).await {
                    Ok(session) => return Ok(session),
                    Err(PgError::Connect(error)) if !errors.contains(&error) => errors.push(error),
                    Err(PgError::Connect(_)) => {}
                    Err(other) => return Err(other),
                }
            }
        }
        Err(PgError::Connect(errors.join("; ")))
    }

    async fn connect_to(
        info: &ConnInfo,
        host: &Host,
        attrs: SessionAttrs,
    ) -> Result<Self, PgError> {
        let connecting = async {
            let opened = open(info, host).await?;
            Self::begin(info, opened).await
        };
        let failed =
            |why: &str| PgError::Connect(format!("connection to {} failed: {why}", where_to(host)));
        let connected = match info.connect_timeout {
            None => connecting.await,
            Some(limit) => match tokio::time::timeout(limit, connecting).await {
                Ok(connected) => connected,
                Err(_) => return Err(failed("timeout expired")),
            },
        };
        let session = connected.map_err(|error| match error {
            PgError::Connect(why) => failed(&why),
            other => other,
        })?;
        if session.is_wanted(attrs).await? {
            Ok(session)
        } else {
            Err(failed(
                "the session is not of the kind that target_session_attrs asks for",
            ))
        }
    }

    async fn begin(info: &ConnInfo, opened: Opened) -> Result<Self, PgError> {
        let Opened {
            client,
            closed,
            version,
        } = opened;
        let mut session = Self {
            client,
            closed,
            version: 0,
            version_text: String::new(),
            backend: String::new(),
        };
        // The server says it when the connection begins; a pooler may not.
        session.version_text = match version {
            Some(version) => version,
            None => {
                session
                    .value("server version", "SHOW server_version")
                    .await?
            }
        };
        session.version = version_number(&session.version_text);
        if session.version < OLDEST {
            // The caller refuses it; what follows may not be known to it.
            return Ok(session);
        }
        if info.application_name.is_none() {
            session
                .run(
                    "application name",
                    "SET application_name TO barman_cloud_backup",
                )
                .await?;
        }
        if let Some(zone) = &info.time_zone {
            let set = format!("SET TimeZone TO '{}'", zone.replace('\'', "''"));
            session.run("time zone", &set).await?;
        }
        // A limit meant for queries of an application would end a backup whose
        // start waits for a checkpoint and whose stop waits for the archive.
        let options = info.options.as_deref().unwrap_or_default();
        for name in [
            "statement_timeout",
            "lock_timeout",
            "idle_in_transaction_session_timeout",
        ] {
            if !options.contains(name) {
                session.run(name, &format!("SET {name} TO 0")).await?;
            }
        }
        if session.version >= 140_000 && !options.contains("idle_session_timeout") {
            session
                .run("idle_session_timeout", "SET idle_session_timeout TO 0")
                .await?;
        }
        session.backend = session
            .value("backend pid", "SELECT pg_backend_pid()")
            .await?;
        Ok(session)
    }

    async fn is_wanted(&self, attrs: SessionAttrs) -> Result<bool, PgError> {
        let recovery = async || self.value("recovery", "SELECT pg_is_in_recovery()").await;
        let read_only = async || self.value("read only", "SHOW transaction_read_only").await;
        Ok(match attrs {
            SessionAttrs::Any | SessionAttrs::PreferStandby => true,
            SessionAttrs::Primary => recovery().await? == "f",
            SessionAttrs::Standby => recovery().await? == "t",
            SessionAttrs::ReadWrite => recovery().await? == "f" && read_only().await? == "off",
            SessionAttrs::ReadOnly => recovery().await? == "t" || read_only().await? == "on",
        })
    }

    /// `server_version_num`.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The version as the server prints it.
    pub fn version_text(&self) -> &str {
        &self.version_text
    }

    /// Resolves when the connection is lost.
    pub async fn closed(&self) {
        let mut closed = self.closed.clone();
        let _ = closed.wait_for(|closed| *closed).await;
    }

    /// Uses the idle session every `interval`, so that nothing between here and
    /// the server forgets it. Returns only when the connection is lost.
    pub async fn keep_alive(&self, interval: Option<Duration>) -> PgError {
        let ping = async {
            let Some(interval) = interval else {
                return std::future::pending().await;
            };
            while self.run("keep-alive", "SELECT 1").await.is_ok() {
                tokio::time::sleep(interval).await;
            }
        };
        tokio::select! {
            () = self.closed() => {}
            () = ping => {}
        }
        PgError::Lost
    }

    /// Whether the server process is still the one that answered first.
    pub(super) async fn same_backend(&self) -> Result<(), PgError> {
        let now = self.value("backend pid", "SELECT pg_backend_pid()").await?;
        if now == self.backend {
            return Ok(());
        }
        Err(PgError::Refused {
            what: "session".into(),
            message: "the server process changed during the backup: connect to the server itself, \
                      not through a connection pooler"
                .into(),
        })
    }

    /// Runs a query of one row.
    pub(super) async fn row(&self, what: &str, query: &str) -> Result<Row, PgError> {
        let mut rows = self.rows(what, query).await?;
        match rows.len() {
            1 => Ok(rows.remove(0)),
            _ => Err(PgError::Unexpected {
                what: what.to_owned(),
            }),
        }
    }

    /// Runs a query of one value that is not null.
    pub(super) async fn value(&self, what: &str, query: &str) -> Result<String, PgError> {
        let unexpected = || PgError::Unexpected {
            what: what.to_owned(),
        };
        self.row(what, query)
            .await?
            .into_iter()
            .next()
            .flatten()
            .ok_or_else(unexpected)
    }

    /// Runs a query and ignores what it returns.
    pub(super) async fn run(&self, what: &str, query: &str) -> Result<(), PgError> {
        self.rows(what, query).await.map(|_| ())
    }

    /// Runs a query. Simple queries only: they need no prepared statements, so
    /// they work through whatever stands before the server.
    pub(super) async fn rows(&self, what: &str, query: &str) -> Result<Vec<Row>, PgError> {
        let answer = self.client.simple_query(query).await;
        let answer = answer.map_err(|error| match error.as_db_error() {
            Some(refusal) => PgError::Refused {
                what: format!("{what} command"),
                message: one_line(refusal.message()),
            },
            None if self.client.is_closed() || error.is_closed() => PgError::Lost,
            None => PgError::Refused {
                what: format!("{what} command"),
                message: cause(&error),
            },
        })?;
        let mut rows = Vec::new();
        for message in answer {
            if let SimpleQueryMessage::Row(row) = message {
                let mut values = Vec::with_capacity(row.len());
                for index in 0..row.len() {
                    let unexpected = |_| PgError::Unexpected {
                        what: format!("{what} command (is the text UTF-8?)"),
                    };
                    values.push(row.try_get(index).map_err(unexpected)?.map(str::to_owned));
                }
                rows.push(values);
            }
        }
        Ok(rows)
    }
}

fn where_to(host: &Host) -> String {
    match &host.place {
        Place::Socket(directory) => {
            format!(
                "server on socket \"{}/.s.PGSQL.{}\"",
                directory.display(),
                host.port
            )
        }
        Place::Tcp { name, addr } => {
            let addr = addr.filter(|addr| addr.to_string() != *name);
            let addr = addr.map(|addr| format!(" ({addr})")).unwrap_or_default();
            format!("server at \"{name}\"{addr}, port {}", host.port)
        }
    }
}

/// Opens a connection, with or without TLS as the mode says, and drives it.
async fn open(info: &ConnInfo, host: &Host) -> Result<Opened, PgError> {
    if matches!(host.place, Place::Socket(_)) {
        return plain(&configure(info, host)).await;
    }
    let mode = info.ssl.mode;
    match mode {
        SslMode::Disable => plain(&configure(info, host)).await,
        // Without first; with, if the server insists.
        SslMode::Allow => match plain(&configure(info, host)).await {
            Err(PgError::Connect(refusal)) if refusal.contains("FATAL") => {
                let encrypted = encrypted(info, host).await;
                encrypted.map_err(|_| PgError::Connect(refusal))
            }
            other => other,
        },
        // With first; without, if the server has no TLS or refuses it.
        SslMode::Prefer => match encrypted(info, host).await {
            Err(PgError::Connect(refusal)) => match plain(&configure(info, host)).await {
                Err(PgError::Connect(_)) => Err(PgError::Connect(refusal)),
                other => other,
            },
            other => other,
        },
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => encrypted(info, host).await,
    }
}

async fn plain(config: &Config) -> Result<Opened, PgError> {
    let mut config = config.clone();
    config.ssl_mode(config::SslMode::Disable);
    let (client, connection) = config.connect(NoTls).await.map_err(refused)?;
    let version = connection.parameter("server_version").map(str::to_owned);
    Ok(Opened {
        client,
        closed: drive(connection),
        version,
    })
}

async fn encrypted(info: &ConnInfo, host: &Host) -> Result<Opened, PgError> {
    let mut config = configure(info, host);
    config.ssl_mode(config::SslMode::Require);
    if info.ssl.direct {
        config.ssl_negotiation(SslNegotiation::Direct);
    }
    let tls = MakeRustlsConnect::new(tls::config(&info.ssl)?);
    let (client, connection) = config.connect(tls).await.map_err(refused)?;
    let version = connection.parameter("server_version").map(str::to_owned);
    Ok(Opened {
        client,
        closed: drive(connection),
        version,
    })
}

/// Moves the connection's bytes until it ends.
fn drive<F>(connection: F) -> watch::Receiver<bool>
where
    F: Future<Output = Result<(), tokio_postgres::Error>> + Send + 'static,
{
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!("the connection to PostgreSQL ended: {}", cause(&error));
        }
        let _ = sender.send(true);
    });
    receiver
}

fn configure(info: &ConnInfo, host: &Host) -> Config {
    let mut config = Config::new();
    config.user(&info.user).dbname(&info.dbname).port(host.port);
    match &host.place {
        Place::Socket(directory) => {
            config.host_path(directory);
        }
        Place::Tcp { name, addr } => {
            config.host(name);
            if let Some(addr) = addr {
                config.hostaddr(*addr);
            }
        }
    }
    if let Some(password) = &host.password {
        config.password(&password.0);
    }
    if let Some(options) = &info.options {
        config.options(options);
    }
    if let Some(name) = &info.application_name {
        config.application_name(name);
    }
    match info.keepalives {
        None => {
            config.keepalives(false);
        }
        Some(keepalives) => {
            config
                .keepalives(true)
                .keepalives_idle(keepalives.idle)
                .keepalives_interval(keepalives.interval)
                .keepalives_retries(keepalives.count);
        }
    }
    if let Some(limit) = info.user_timeout {
        config.tcp_user_timeout(limit);
    }
    config.channel_binding(match info.channel_binding {
        ChannelBinding::Disable => config::ChannelBinding::Disable,
        ChannelBinding::Prefer => config::ChannelBinding::Prefer,
        ChannelBinding::Require => config::ChannelBinding::Require,
    });
    config
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "it is used as a function for map_err"
)]
fn refused(error: tokio_postgres::Error) -> PgError {
    match error.as_db_error() {
        Some(refusal) => PgError::Connect(format!(
            "{}:  {}",
            refusal.severity(),
            one_line(refusal.message())
        )),
        None => PgError::Connect(cause(&error)),
    }
}

/// The innermost cause, in the words of the operating system.
fn cause(error: &tokio_postgres::Error) -> String {
    let mut inner = error.source();
    while let Some(next) = inner.and_then(std::error::Error::source) {
        inner = Some(next);
    }
    let text = inner.map_or_else(|| error.to_string(), ToString::to_string);
    one_line(text.split(" (os error").next().unwrap_or(&text))
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbered_as_the_server_numbers_them() {
        for (text, number) in [
            ("15.20 (Debian 15.20-0+deb12u1)", 150_020),
            ("10.23", 100_023),
            ("18beta1", 180_000),
            ("17rc2 (x)", 170_000),
            ("9.6.24", 90_624),
            ("9.5.3", 90_503),
            ("devel", 0),
            ("", 0),
        ] {
            assert_eq!(version_number(text), number, "{text}");
        }
    }
}
