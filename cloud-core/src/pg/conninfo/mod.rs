//! What libpq users expect of a connection: strings and URIs, environment,
//! service file, password file, defaults (docs/decisions.md 3).
//!
//! Where a value is given twice the order is libpq's: connection string,
//! service file, environment, default. What is not supported (GSSAPI, SSPI,
//! encrypted keys, revocation lists) says so and is not ignored.

mod files;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod gather;
mod hosts;
mod parse;
mod ssl;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

pub(super) use files::is_absent;
pub use gather::Var;
use gather::{Surroundings, choice, number};

/// The four options of the command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Host name or socket directory.
    pub host: Option<String>,
    /// Port.
    pub port: Option<String>,
    /// Role.
    pub user: Option<String>,
    /// Database, or a whole connection string or URI: then it is used alone.
    pub dbname: Option<String>,
}

/// Why the server cannot be asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnInfoError {
    /// The string is malformed.
    #[error("malformed connection string: {0}")]
    Malformed(String),
    /// libpq has no such option either.
    #[error("invalid connection option \"{0}\"")]
    UnknownOption(String),
    /// Some service file has a line that makes no sense.
    #[error("syntax error in service file \"{path}\", line {line}")]
    ServiceSyntax {
        /// The file.
        path: String,
        /// The line, from 1.
        line: usize,
    },
    /// No role is named, and the operating system has no name for the user.
    #[error(
        "could not look up local user ID {0}: the user does not exist; name a role with --user \
         or PGUSER"
    )]
    NoUser(u32),
    /// The value is not a number, or beyond what it may be.
    #[error("invalid integer value for connection option \"{0}\"")]
    InvalidNumber(&'static str),
    /// The value makes no sense.
    #[error("invalid {name} value: \"{value}\"")]
    InvalidValue {
        /// The option.
        name: &'static str,
        /// What was given.
        value: String,
    },
    /// An option that libpq has and this program has not.
    #[error("connection option {0} is not supported by this program")]
    Unsupported(&'static str),
    /// The service file does not have it.
    #[error("definition of service \"{0}\" not found")]
    NoService(String),
    /// Nothing to verify the server's certificate with.
    #[error(
        "root certificate file \"{0}\" does not exist; either provide the file, use the system's \
         trusted roots with sslrootcert=system, or change sslmode to disable server certificate \
         verification"
    )]
    NoRootFile(String),
    /// A file cannot be used.
    #[error("could not read {what} \"{path}\": {why}")]
    File {
        /// What it is.
        what: &'static str,
        /// Where it is.
        path: String,
        /// Why.
        why: String,
    },
}

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret(pub(super) String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(secret)")
    }
}

/// Everything needed to connect.
#[derive(Debug, Clone)]
pub struct ConnInfo {
    pub(super) hosts: Vec<Host>,
    pub(super) user: String,
    pub(super) dbname: String,
    pub(super) ssl: Ssl,
    pub(super) options: Option<String>,
    pub(super) application_name: Option<String>,
    pub(super) connect_timeout: Option<Duration>,
    pub(super) keepalives: Option<Keepalives>,
    pub(super) user_timeout: Option<Duration>,
    pub(super) channel_binding: ChannelBinding,
    pub(super) session_attrs: SessionAttrs,
    pub(super) time_zone: Option<String>,
    /// Whether the addresses of a host are tried in random order.
    pub(super) shuffle: bool,
    /// Who must own the server behind a socket.
    pub(super) require_peer: Option<String>,
}

/// One server to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) place: Place,
    pub(super) port: u16,
    pub(super) password: Option<Secret>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Socket(PathBuf),
    Tcp { name: String, addr: Option<IpAddr> },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ssl {
    pub(super) mode: SslMode,
    pub(super) direct: bool,
    pub(super) root: Root,
    /// Certificate and key of the client, if there are any.
    pub(super) client: Option<(PathBuf, PathBuf)>,
    /// Whether the server is told the name it is asked for.
    pub(super) sni: bool,
    pub(super) versions: TlsVersions,
}

/// The versions of TLS that may be spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TlsVersions {
    Both,
    Only12,
    Only13,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SslMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Root {
    None,
    System,
    File(PathBuf),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Keepalives {
    pub(super) idle: Duration,
    pub(super) interval: Duration,
    pub(super) count: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChannelBinding {
    Disable,
    Prefer,
    Require,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SessionAttrs {
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
    PreferStandby,
}

/// Connect within this time to each server, unless told otherwise
/// (docs/decisions.md 12).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A silent connection is probed after a minute and given up after another one:
/// shorter than what firewalls and balancers usually forget it in.
const KEEPALIVES: Keepalives = Keepalives {
    idle: Duration::from_mins(1),
    interval: Duration::from_secs(10),
    count: 6,
};

/// Data that is not acknowledged for so long ends the connection.
const USER_TIMEOUT: Duration = Duration::from_mins(2);

impl ConnInfo {
    /// Collects everything from the options and the surroundings.
    pub fn collect(options: &Options, var: &dyn Var) -> Result<Self, ConnInfoError> {
        let user = nix::unistd::User::from_uid(nix::unistd::getuid())
            .ok()
            .flatten();
        let home = var
            .var("HOME")
            .filter(|home| !home.is_empty())
            .map(PathBuf::from);
        let around = Surroundings {
            var,
            home: home.or_else(|| user.as_ref().map(|user| user.dir.clone())),
            os_user: user.map(|user| user.name),
        };
        Self::read(options, &around)
    }

    fn read(options: &Options, around: &Surroundings) -> Result<Self, ConnInfoError> {
        let values = gather::all(options, around)?;
        let get = |name: &str| {
            values
                .get(name)
                .map(String::as_str)
                .filter(|v| !v.is_empty())
        };
        let user = get("user").or(around.os_user.as_deref());
        let user = user.ok_or_else(|| ConnInfoError::NoUser(nix::unistd::getuid().as_raw()))?;
        let user = user.to_owned();
        let dbname = get("dbname").unwrap_or(&user).to_owned();
        let shuffle = choice(
            &values,
            "load_balance_hosts",
            false,
            &[("disable", false), ("random", true)],
        )?;
        let mut hosts = hosts::read(&values, around, &user, &dbname)?;
        if shuffle {
            fastrand::shuffle(&mut hosts);
        }
        Ok(Self {
            hosts,
            ssl: ssl::read(&values, around)?,
            options: get("options").map(str::to_owned),
            application_name: get("application_name").map(str::to_owned),
            connect_timeout: match number(&values, "connect_timeout")? {
                None => Some(CONNECT_TIMEOUT),
                Some(seconds) if seconds <= 0 => None,
                // libpq waits at least two seconds as well.
                Some(seconds) => Some(Duration::from_secs(seconds.max(2).unsigned_abs())),
            },
            keepalives: keepalives(&values)?,
            user_timeout: match number(&values, "tcp_user_timeout")? {
                None => Some(USER_TIMEOUT),
                Some(milliseconds) if milliseconds <= 0 => None,
                Some(milliseconds) => Some(Duration::from_millis(milliseconds.unsigned_abs())),
            },
            channel_binding: choice(
                &values,
                "channel_binding",
                ChannelBinding::Prefer,
                &[
                    ("disable", ChannelBinding::Disable),
                    ("prefer", ChannelBinding::Prefer),
                    ("require", ChannelBinding::Require),
                ],
            )?,
            session_attrs: choice(
                &values,
                "target_session_attrs",
                SessionAttrs::Any,
                &[
                    ("any", SessionAttrs::Any),
                    ("read-write", SessionAttrs::ReadWrite),
                    ("read-only", SessionAttrs::ReadOnly),
                    ("primary", SessionAttrs::Primary),
                    ("standby", SessionAttrs::Standby),
                    ("prefer-standby", SessionAttrs::PreferStandby),
                ],
            )?,
            time_zone: around
                .text("PGTZ")?
                .filter(|zone| !zone.eq_ignore_ascii_case("default")),
            shuffle,
            require_peer: get("requirepeer").map(str::to_owned),
            user,
            dbname,
        })
    }
}

fn keepalives(values: &gather::Values) -> Result<Option<Keepalives>, ConnInfoError> {
    if number(values, "keepalives")? == Some(0) {
        return Ok(None);
    }
    let seconds = |name, default: Duration| {
        let value = number(values, name)?.filter(|seconds| *seconds > 0);
        Ok(value.map_or(default, |seconds| {
            Duration::from_secs(seconds.unsigned_abs())
        }))
    };
    let count = number(values, "keepalives_count")?.filter(|count| *count > 0);
    Ok(Some(Keepalives {
        idle: seconds("keepalives_idle", KEEPALIVES.idle)?,
        interval: seconds("keepalives_interval", KEEPALIVES.interval)?,
        count: count
            .and_then(|count| u32::try_from(count).ok())
            .unwrap_or(KEEPALIVES.count),
    }))
}

#[cfg(test)]
mod tests;
