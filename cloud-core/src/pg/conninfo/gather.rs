//! Where values come from, and which options there are.
//!
//! The first place that has a value decides: connection string or command line,
//! service file, environment. An empty value counts as given: it hides what the
//! other places say.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use super::{ConnInfoError, Options, files, parse};

/// Values by the name of the option.
pub(super) type Values = BTreeMap<String, String>;

/// What is done with an option that libpq has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Treatment {
    Used,
    /// Changes nothing here, and nobody is less safe for it.
    WithoutEffect,
    /// Would be expected to do something: an error where it is set.
    Unsupported,
}

use Treatment::{Unsupported, Used, WithoutEffect};

/// Every option of libpq up to version 18, and its environment variable.
const OPTIONS: &[(&str, Option<&str>, Treatment)] = &[
    ("host", Some("PGHOST"), Used),
    ("hostaddr", Some("PGHOSTADDR"), Used),
    ("port", Some("PGPORT"), Used),
    ("dbname", Some("PGDATABASE"), Used),
    ("user", Some("PGUSER"), Used),
    ("password", Some("PGPASSWORD"), Used),
    ("passfile", Some("PGPASSFILE"), Used),
    ("service", Some("PGSERVICE"), Used),
    ("servicefile", Some("PGSERVICEFILE"), Used),
    ("options", Some("PGOPTIONS"), Used),
    ("application_name", Some("PGAPPNAME"), Used),
    ("connect_timeout", Some("PGCONNECT_TIMEOUT"), Used),
    ("channel_binding", Some("PGCHANNELBINDING"), Used),
    ("target_session_attrs", Some("PGTARGETSESSIONATTRS"), Used),
    ("load_balance_hosts", Some("PGLOADBALANCEHOSTS"), Used),
    ("requirepeer", Some("PGREQUIREPEER"), Used),
    ("keepalives", None, Used),
    ("keepalives_idle", None, Used),
    ("keepalives_interval", None, Used),
    ("keepalives_count", None, Used),
    ("tcp_user_timeout", None, Used),
    ("sslmode", Some("PGSSLMODE"), Used),
    ("requiressl", Some("PGREQUIRESSL"), Used),
    ("sslnegotiation", Some("PGSSLNEGOTIATION"), Used),
    ("sslrootcert", Some("PGSSLROOTCERT"), Used),
    ("sslcert", Some("PGSSLCERT"), Used),
    ("sslkey", Some("PGSSLKEY"), Used),
    ("sslcertmode", Some("PGSSLCERTMODE"), Used),
    ("sslsni", Some("PGSSLSNI"), Used),
    (
        "ssl_min_protocol_version",
        Some("PGSSLMINPROTOCOLVERSION"),
        Used,
    ),
    (
        "ssl_max_protocol_version",
        Some("PGSSLMAXPROTOCOLVERSION"),
        Used,
    ),
    ("gssencmode", Some("PGGSSENCMODE"), Used),
    // The session always speaks UTF-8, and there is always an application name.
    ("client_encoding", Some("PGCLIENTENCODING"), WithoutEffect),
    ("fallback_application_name", None, WithoutEffect),
    ("krbsrvname", Some("PGKRBSRVNAME"), WithoutEffect),
    ("gsslib", Some("PGGSSLIB"), WithoutEffect),
    ("gssdelegation", Some("PGGSSDELEGATION"), WithoutEffect),
    ("sslcompression", Some("PGSSLCOMPRESSION"), WithoutEffect),
    ("sslkeylogfile", None, WithoutEffect),
    (
        "max_protocol_version",
        Some("PGMAXPROTOCOLVERSION"),
        WithoutEffect,
    ),
    (
        "min_protocol_version",
        Some("PGMINPROTOCOLVERSION"),
        Unsupported,
    ),
    ("sslpassword", None, Unsupported),
    ("sslcrl", Some("PGSSLCRL"), Unsupported),
    ("sslcrldir", Some("PGSSLCRLDIR"), Unsupported),
    ("require_auth", Some("PGREQUIREAUTH"), Unsupported),
    ("replication", None, Unsupported),
    ("scram_client_key", None, Unsupported),
    ("scram_server_key", None, Unsupported),
];

/// Whether libpq has an option of that name.
pub(super) fn is_known(name: &str) -> bool {
    OPTIONS.iter().any(|(known, _, _)| *known == name)
}

/// Looks up environment variables.
pub trait Var: std::fmt::Debug {
    /// The value of a variable.
    fn var(&self, name: &str) -> Option<OsString>;
}

/// How values that are not in the connection string are found.
#[derive(Debug, Clone)]
pub(super) struct Surroundings<'a> {
    /// An environment variable.
    pub(super) var: &'a dyn Var,
    /// Name of the operating system's user, if it has one.
    pub(super) os_user: Option<String>,
    /// That user's home directory.
    pub(super) home: Option<PathBuf>,
}

impl Surroundings<'_> {
    /// A variable that is set and not empty.
    pub(super) fn text(&self, name: &'static str) -> Result<Option<String>, ConnInfoError> {
        let value = self.var.var(name).filter(|value| !value.is_empty());
        let text = value.map(OsString::into_string).transpose();
        text.map_err(|_| ConnInfoError::Malformed(format!("{name} is not UTF-8")))
    }

    /// A variable that names a file.
    pub(super) fn path(&self, name: &str) -> Option<PathBuf> {
        let value = self.var.var(name).filter(|value| !value.is_empty());
        value.map(PathBuf::from)
    }
}

/// The values from all places.
pub(super) fn all(options: &Options, around: &Surroundings) -> Result<Values, ConnInfoError> {
    let mut values = given(options)?;
    if let Some(unknown) = values.keys().find(|name| !is_known(name)) {
        return Err(ConnInfoError::UnknownOption(unknown.clone()));
    }
    // Given as an option it stands beside `sslmode` of the same place.
    require_ssl(&mut values);
    let service = match values.get("service") {
        Some(service) => Some(service.clone()),
        None => around.text("PGSERVICE")?,
    };
    if let Some(service) = service {
        let file = values
            .get("servicefile")
            .map(PathBuf::from)
            .or_else(|| around.path("PGSERVICEFILE"));
        let mut found: Values = files::service(&service, file, around)?;
        require_ssl(&mut found);
        for (name, value) in found {
            values.entry(name).or_insert(value);
        }
    }
    for (name, variable, _) in OPTIONS {
        let Some(variable) = variable else { continue };
        if !values.contains_key(*name)
            && let Some(value) = around.text(variable)?
        {
            values.insert((*name).to_owned(), value);
        }
    }
    require_ssl(&mut values);
    refuse_unsupported(&values)?;
    Ok(values)
}

/// What `sslmode=require` was called before there was `sslmode`.
fn require_ssl(values: &mut Values) {
    if values.get("requiressl").is_some_and(|value| value == "1") {
        let mode = values.entry("sslmode".into());
        mode.or_insert_with(|| "require".into());
    }
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
                .filter_map(|(name, value)| Some((name, value.filter(|v| !v.is_empty())?)));
            Ok(set
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect())
        }
    }
}

fn refuse_unsupported(values: &Values) -> Result<(), ConnInfoError> {
    let set = |name: &str| values.get(name).is_some_and(|value| !value.is_empty());
    for (name, _, treatment) in OPTIONS {
        if *treatment == Unsupported && set(name) {
            return Err(ConnInfoError::Unsupported(name));
        }
    }
    match values.get("gssencmode").map(String::as_str) {
        None | Some("" | "disable" | "prefer") => Ok(()),
        Some("require") => Err(ConnInfoError::Unsupported("gssencmode=require")),
        Some(other) => Err(invalid("gssencmode", other)),
    }
}

pub(super) fn invalid(name: &'static str, value: &str) -> ConnInfoError {
    ConnInfoError::InvalidValue {
        name,
        value: value.to_owned(),
    }
}

/// The value of a numeric option.
pub(super) fn number(values: &Values, name: &'static str) -> Result<Option<i64>, ConnInfoError> {
    let value = values
        .get(name)
        .map(|value| value.trim())
        .filter(|value| !value.is_empty());
    // libpq's numbers have 32 bits.
    let parse = |value: &str| value.parse::<i32>().map(i64::from);
    value
        .map(|value| parse(value).map_err(|_| ConnInfoError::InvalidNumber(name)))
        .transpose()
}

/// The value of an option that takes one of some words.
pub(super) fn choice<T: Copy>(
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
