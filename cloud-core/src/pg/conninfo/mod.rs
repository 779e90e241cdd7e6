//! What libpq users expect of a connection: strings and URIs, environment,
//! service file, password file, defaults (docs/decisions.md 3).
//!
//! Where a value is given twice the order is libpq's: connection string,
//! service file, environment, default. What is not supported (GSSAPI, SSPI,
//! encrypted keys, revocation lists) says so and is not ignored.

mod files;
mod parse;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

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
    pub(super) cert: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
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

/// Where servers put their sockets: Debian and its like, then the default of
/// PostgreSQL itself.
const SOCKET_DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// What the environment variables of libpq stand for.
const VARIABLES: &[(&str, &str)] = &[
    ("PGHOST", "host"),
    ("PGHOSTADDR", "hostaddr"),
    ("PGPORT", "port"),
    ("PGDATABASE", "dbname"),
    ("PGUSER", "user"),
    ("PGPASSWORD", "password"),
    ("PGPASSFILE", "passfile"),
    ("PGSERVICE", "service"),
    ("PGSERVICEFILE", "servicefile"),
    ("PGOPTIONS", "options"),
    ("PGAPPNAME", "application_name"),
    ("PGSSLMODE", "sslmode"),
    ("PGSSLROOTCERT", "sslrootcert"),
    ("PGSSLCERT", "sslcert"),
    ("PGSSLKEY", "sslkey"),
    ("PGSSLCRL", "sslcrl"),
    ("PGSSLCRLDIR", "sslcrldir"),
    ("PGSSLNEGOTIATION", "sslnegotiation"),
    ("PGCONNECT_TIMEOUT", "connect_timeout"),
    ("PGCHANNELBINDING", "channel_binding"),
    ("PGTARGETSESSIONATTRS", "target_session_attrs"),
    ("PGLOADBALANCEHOSTS", "load_balance_hosts"),
    ("PGGSSENCMODE", "gssencmode"),
    ("PGREQUIREAUTH", "require_auth"),
];

/// Options that are accepted and change nothing here.
const WITHOUT_EFFECT: &[&str] = &[
    "client_encoding",
    "fallback_application_name",
    "gssdelegation",
    "gsslib",
    "krbsrvname",
    "scram_client_key",
    "scram_server_key",
    "sslcompression",
    "sslsni",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "max_protocol_version",
    "min_protocol_version",
    "sslkeylogfile",
];

/// Options that have an effect.
const WITH_EFFECT: &[&str] = &[
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "passfile",
    "service",
    "servicefile",
    "options",
    "application_name",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "sslpassword",
    "sslcrl",
    "sslcrldir",
    "sslnegotiation",
    "sslcertmode",
    "connect_timeout",
    "channel_binding",
    "target_session_attrs",
    "load_balance_hosts",
    "gssencmode",
    "require_auth",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
    "requirepeer",
    "requiressl",
    "replication",
];

type Values = BTreeMap<String, String>;

/// How values that are not in the connection string are found.
#[derive(Debug, Clone)]
pub(super) struct Surroundings<'a> {
    /// An environment variable.
    pub(super) var: &'a dyn Var,
    /// Name of the operating system's user.
    pub(super) os_user: String,
    /// That user's home directory.
    pub(super) home: Option<PathBuf>,
}

/// Looks up environment variables.
pub trait Var: std::fmt::Debug {
    /// The value of a variable.
    fn var(&self, name: &str) -> Option<OsString>;
}

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
            os_user: user.map(|user| user.name).unwrap_or_default(),
        };
        Self::read(options, &around)
    }

    pub(super) fn read(options: &Options, around: &Surroundings) -> Result<Self, ConnInfoError> {
        let values = all_values(options, around)?;
        refuse_unsupported(&values)?;
        let get = |name: &str| {
            values
                .get(name)
                .map(String::as_str)
                .filter(|v| !v.is_empty())
        };
        let user = get("user").unwrap_or(&around.os_user).to_owned();
        let dbname = get("dbname").unwrap_or(&user).to_owned();
        let hosts = hosts(&values, around, &user, &dbname)?;
        Ok(Self {
            hosts,
            ssl: ssl(&values, around)?,
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
            time_zone: text_var(around, "PGTZ"),
            user,
            dbname,
        })
    }
}

fn text_var(around: &Surroundings, name: &str) -> Option<String> {
    around
        .var
        .var(name)?
        .into_string()
        .ok()
        .filter(|value| !value.is_empty())
}

/// The values from all places, the first place that has one deciding.
fn all_values(options: &Options, around: &Surroundings) -> Result<Values, ConnInfoError> {
    let mut values = given(options)?;
    for name in values.keys() {
        if !WITH_EFFECT.contains(&name.as_str()) && !WITHOUT_EFFECT.contains(&name.as_str()) {
            return Err(ConnInfoError::UnknownOption(name.clone()));
        }
    }
    let service = values
        .get("service")
        .cloned()
        .or_else(|| text_var(around, "PGSERVICE"));
    if let Some(service) = service {
        let file = values.get("servicefile").map(PathBuf::from);
        for (name, value) in files::service(&service, file, around)? {
            values.entry(name).or_insert(value);
        }
    }
    for (variable, name) in VARIABLES {
        if let Some(value) = text_var(around, variable) {
            values.entry((*name).to_owned()).or_insert(value);
        }
    }
    if text_var(around, "PGREQUIRESSL").as_deref() == Some("1") {
        values
            .entry("sslmode".into())
            .or_insert_with(|| "require".into());
    }
    Ok(values)
}

/// What the options say: a connection string used alone, or single values.
fn given(options: &Options) -> Result<Values, ConnInfoError> {
    match options.dbname.as_deref() {
        Some(text) if parse::is_uri(text) => parse::uri(text),
        Some(text) if text.is_empty() || text.contains('=') => parse::key_values(text),
        dbname => {
            let single = [
                ("host", options.host.as_deref()),
                ("port", options.port.as_deref()),
                ("user", options.user.as_deref()),
                ("dbname", dbname),
            ];
            let set = single
                .into_iter()
                .filter_map(|(n, v)| Some((n.to_owned(), v?.to_owned())));
            Ok(set.collect())
        }
    }
}

fn refuse_unsupported(values: &Values) -> Result<(), ConnInfoError> {
    let set = |name: &str| values.get(name).is_some_and(|value| !value.is_empty());
    for name in [
        "sslpassword",
        "sslcrl",
        "sslcrldir",
        "require_auth",
        "requirepeer",
        "requiressl",
        "replication",
    ] {
        if set(name) {
            return Err(ConnInfoError::Unsupported(name));
        }
    }
    match values.get("gssencmode").map(String::as_str) {
        None | Some("" | "disable" | "prefer") => Ok(()),
        Some("require") => Err(ConnInfoError::Unsupported("gssencmode=require")),
        Some(other) => Err(invalid("gssencmode", other)),
    }
}

fn invalid(name: &'static str, value: &str) -> ConnInfoError {
    ConnInfoError::InvalidValue {
        name,
        value: value.to_owned(),
    }
}

fn number(values: &Values, name: &'static str) -> Result<Option<i64>, ConnInfoError> {
    let value = values
        .get(name)
        .map(|value| value.trim())
        .filter(|value| !value.is_empty());
    value
        .map(|value| value.parse().map_err(|_| invalid(name, value)))
        .transpose()
}

fn choice<T: Copy>(
    values: &Values,
    name: &'static str,
    default: T,
    choices: &[(&str, T)],
) -> Result<T, ConnInfoError> {
    match values.get(name).map(String::as_str) {
        None | Some("") => Ok(default),
        Some(value) => {
            let found = choices.iter().find(|(word, _)| *word == value);
            found
                .map(|(_, choice)| *choice)
                .ok_or_else(|| invalid(name, value))
        }
    }
}

fn keepalives(values: &Values) -> Result<Option<Keepalives>, ConnInfoError> {
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

fn ssl(values: &Values, around: &Surroundings) -> Result<Ssl, ConnInfoError> {
    let get = |name: &str| {
        values
            .get(name)
            .map(String::as_str)
            .filter(|v| !v.is_empty())
    };
    let direct = choice(
        values,
        "sslnegotiation",
        false,
        &[("postgres", false), ("direct", true)],
    )?;
    let root = match get("sslrootcert") {
        Some("system") => Root::System,
        Some(path) => Root::File(path.into()),
        None => match around
            .home
            .as_ref()
            .map(|home| home.join(".postgresql/root.crt"))
        {
            Some(path) if path.is_file() => Root::File(path),
            _ => Root::None,
        },
    };
    let strict = root == Root::System || direct;
    let default = match (&root, direct) {
        (Root::System, _) => SslMode::VerifyFull,
        (_, true) => SslMode::Require,
        _ => SslMode::Prefer,
    };
    let mode = choice(
        values,
        "sslmode",
        default,
        &[
            ("disable", SslMode::Disable),
            ("allow", SslMode::Allow),
            ("prefer", SslMode::Prefer),
            ("require", SslMode::Require),
            ("verify-ca", SslMode::VerifyCa),
            ("verify-full", SslMode::VerifyFull),
        ],
    )?;
    if strict && matches!(mode, SslMode::Disable | SslMode::Allow | SslMode::Prefer) {
        return Err(ConnInfoError::Malformed(
            "a weak sslmode may not be used with sslrootcert=system or sslnegotiation=direct"
                .into(),
        ));
    }
    if matches!(mode, SslMode::VerifyCa | SslMode::VerifyFull) && root == Root::None {
        return Err(ConnInfoError::File {
            what: "the root certificate file",
            path: "~/.postgresql/root.crt".into(),
            why: "it does not exist; provide it, or use sslrootcert=system, or another sslmode"
                .into(),
        });
    }
    let file = |name: &str, usual: &str| {
        get(name).map(PathBuf::from).or_else(|| {
            let path = around.home.as_ref()?.join(".postgresql").join(usual);
            path.is_file().then_some(path)
        })
    };
    Ok(Ssl {
        mode,
        direct,
        root,
        cert: file("sslcert", "postgresql.crt"),
        key: file("sslkey", "postgresql.key"),
    })
}

/// The servers to try, in order: lists of hosts, addresses and ports go
/// together, and one port serves for all.
fn hosts(
    values: &Values,
    around: &Surroundings,
    user: &str,
    dbname: &str,
) -> Result<Vec<Host>, ConnInfoError> {
    let list = |name: &str| -> Vec<String> {
        let value = values
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty());
        value
            .map(|value| value.split(',').map(|v| v.trim().to_owned()).collect())
            .unwrap_or_default()
    };
    let (names, addresses, ports) = (list("host"), list("hostaddr"), list("port"));
    let count = names.len().max(addresses.len()).max(1);
    let fits = |list: &Vec<String>| list.is_empty() || list.len() == count;
    if !fits(&names) || !fits(&addresses) || !(fits(&ports) || ports.len() == 1) {
        return Err(ConnInfoError::Malformed(
            "the lists of host, hostaddr and port have different lengths".into(),
        ));
    }
    let password = values
        .get("password")
        .filter(|password| !password.is_empty());
    let passfile = values.get("passfile").map(PathBuf::from);
    let mut hosts = Vec::with_capacity(count);
    for index in 0..count {
        let port = ports.get(if ports.len() == 1 { 0 } else { index });
        let port = match port.map(String::as_str) {
            None | Some("") => 5432,
            Some(text) => text
                .parse()
                .ok()
                .filter(|p| *p > 0)
                .ok_or_else(|| invalid("port", text))?,
        };
        let name = names.get(index).map_or("", String::as_str);
        let addr = match addresses.get(index).map(String::as_str) {
            None | Some("") => None,
            Some(text) => Some(
                text.parse::<IpAddr>()
                    .map_err(|_| invalid("hostaddr", text))?,
            ),
        };
        let place = match (name, addr) {
            ("", None) => Place::Socket(default_socket_directory(port)),
            (name, None) if name.starts_with('/') => Place::Socket(name.into()),
            (name, None) if name.starts_with('@') => {
                return Err(ConnInfoError::Unsupported("host with an abstract socket"));
            }
            ("", Some(addr)) => Place::Tcp {
                name: addr.to_string(),
                addr: Some(addr),
            },
            (name, addr) => Place::Tcp {
                name: name.to_owned(),
                addr,
            },
        };
        let password = match password {
            Some(password) => Some(Secret(password.clone())),
            None => files::password(passfile.as_deref(), around, &place, port, dbname, user),
        };
        hosts.push(Host {
            place,
            port,
            password,
        });
    }
    match values.get("load_balance_hosts").map(String::as_str) {
        None | Some("" | "disable") => {}
        Some("random") => fastrand::shuffle(&mut hosts),
        Some(other) => return Err(invalid("load_balance_hosts", other)),
    }
    Ok(hosts)
}

fn default_socket_directory(port: u16) -> PathBuf {
    let holds_socket = |dir: &&str| Path::new(dir).join(format!(".s.PGSQL.{port}")).exists();
    let found = SOCKET_DIRECTORIES.iter().find(|dir| holds_socket(dir));
    found.unwrap_or(&SOCKET_DIRECTORIES[0]).into()
}

#[cfg(test)]
mod tests;
