//! One session with the server, from the connection to its end.

use std::time::Duration;

use tokio::sync::watch;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::conninfo::{ConnInfo, ConnInfoError, SessionAttrs};
use super::dial::{self, Opened, Refusal, Target, one_line, server_words};

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
    /// A name in the answer is not UTF-8: it comes from a database whose encoding
    /// is SQL_ASCII.
    #[error("{what}: the answer of the server holds a name that is not valid UTF-8")]
    NotUtf8 {
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

/// Settings that end a session or a statement after some time, and the oldest
/// server (`server_version_num`) that has them.
const TIME_LIMITS: [(&str, u32); 5] = [
    ("statement_timeout", 0),
    ("lock_timeout", 0),
    ("idle_in_transaction_session_timeout", 0),
    ("idle_session_timeout", 140_000),
    ("transaction_timeout", 170_000),
];

/// Whether command-line options of the server (`-c name=value`, `--name=value`)
/// set `name`. In the long form the server takes dashes for underscores.
fn sets(options: &str, name: &str) -> bool {
    let options = options.replace('-', "_");
    let words = options.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words
        .map(|word| word.trim_start_matches('_'))
        .any(|word| word == name || word.strip_prefix('c') == Some(name))
}

/// One row of a result, as text.
pub(super) type Row = Vec<Option<String>>;

impl Session {
    /// Connects to the first server that accepts.
    ///
    /// Each address has the whole connect timeout. The connection is driven by
    /// a task of the current runtime.
    pub async fn connect(info: &ConnInfo) -> Result<Self, PgError> {
        let passes: &[SessionAttrs] = match info.session_attrs {
            SessionAttrs::PreferStandby => &[SessionAttrs::Standby, SessionAttrs::Any],
            ref one => std::slice::from_ref(one),
        };
        let mut errors: Vec<String> = Vec::new();
        let mut note = |error: String| {
            if !errors.contains(&error) {
                errors.push(error);
            }
        };
        'passes: for attrs in passes {
            for host in &info.hosts {
                let targets = match dial::addresses(info, host).await {
                    Ok(targets) => targets,
                    Err(error) => {
                        note(error);
                        continue;
                    }
                };
                for target in &targets {
                    match Self::connect_to(info, target, *attrs).await {
                        Ok(session) => return Ok(session),
                        Err(Refusal::TryNext(error)) => note(error),
                        Err(Refusal::Final(error)) => {
                            note(error);
                            break 'passes;
                        }
                    }
                }
            }
        }
        Err(PgError::Connect(errors.join("; ")))
    }

    async fn connect_to(
        info: &ConnInfo,
        target: &Target<'_>,
        attrs: SessionAttrs,
    ) -> Result<Self, Refusal> {
        let connecting = async {
            let opened = dial::open(info, target).await?;
            let failed = |error: PgError| Refusal::Final(target.failed(&error.to_string()));
            let session = Self::begin(info, opened).await.map_err(failed)?;
            match session.unwanted(attrs).await.map_err(failed)? {
                None => Ok(session),
                Some(why) => Err(Refusal::TryNext(target.failed(why))),
            }
        };
        match info.connect_timeout {
            None => connecting.await,
            Some(limit) => tokio::time::timeout(limit, connecting)
                .await
                .unwrap_or_else(|_| Err(Refusal::TryNext(target.failed("timeout expired")))),
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
        for (name, since) in TIME_LIMITS {
            if session.version >= since && !sets(options, name) {
                session.run(name, &format!("SET {name} TO 0")).await?;
            }
        }
        session.backend = session
            .value("backend pid", "SELECT pg_backend_pid()")
            .await?;
        Ok(session)
    }

    /// Why the session is not of the kind that was asked for.
    async fn unwanted(&self, attrs: SessionAttrs) -> Result<Option<&'static str>, PgError> {
        let standby = async || {
            let value = self.value("recovery", "SELECT pg_is_in_recovery()").await;
            Ok::<_, PgError>(value? == "t")
        };
        let read_only = async || {
            let value = self.value("read only", "SHOW transaction_read_only").await;
            Ok::<_, PgError>(value? == "on")
        };
        Ok(match attrs {
            SessionAttrs::Any | SessionAttrs::PreferStandby => None,
            SessionAttrs::Primary => standby().await?.then_some("server is in hot standby mode"),
            SessionAttrs::Standby => {
                (!standby().await?).then_some("server is not in hot standby mode")
            }
            SessionAttrs::ReadWrite => {
                (standby().await? || read_only().await?).then_some("session is read-only")
            }
            SessionAttrs::ReadOnly => {
                (!standby().await? && !read_only().await?).then_some("session is not read-only")
            }
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
        self.check_backend(&now)
    }

    /// Whether the process that answered is the one that answered first.
    pub(super) fn check_backend(&self, pid: &str) -> Result<(), PgError> {
        if pid == self.backend {
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
                message: server_words(&error),
            },
        })?;
        let mut rows = Vec::new();
        for message in answer {
            if let SimpleQueryMessage::Row(row) = message {
                let mut values = Vec::with_capacity(row.len());
                for index in 0..row.len() {
                    let not_utf8 = |_| PgError::NotUtf8 {
                        what: format!("{what} command"),
                    };
                    values.push(row.try_get(index).map_err(not_utf8)?.map(str::to_owned));
                }
                rows.push(values);
            }
        }
        Ok(rows)
    }
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

    #[test]
    fn a_setting_among_the_options_is_found_by_its_whole_name() {
        for (options, expected) in [
            ("", false),
            ("-c lock_timeout=1s", true),
            ("-clock_timeout=1s", true),
            ("--lock-timeout=1s", true),
            ("-c work_mem=1MB -c  lock_timeout=0", true),
            ("-c deadlock_timeout=1s", false),
            ("-c lock_timeouts=1s", false),
        ] {
            assert_eq!(sets(options, "lock_timeout"), expected, "{options}");
        }
    }
}
