//! What is asked of TLS. Files are only named here: over a socket, or without
//! TLS, nobody looks at them.

use std::path::PathBuf;

use super::gather::{Surroundings, Values, choice, invalid};
use super::{ConnInfoError, Root, Ssl, SslMode, TlsVersions};

pub(super) fn read(values: &Values, around: &Surroundings) -> Result<Ssl, ConnInfoError> {
    let get = |name: &str| {
        let value = values.get(name).map(String::as_str);
        value.filter(|value| !value.is_empty())
    };
    let usual = |file: &str| {
        let home = around.home.as_ref();
        home.map(|home| home.join(".postgresql").join(file))
    };
    let root = match get("sslrootcert") {
        Some("system") => Root::System,
        Some(path) => Root::File(path.into()),
        None => usual("root.crt").map_or(Root::None, Root::File),
    };
    let direct = choice(
        values,
        "sslnegotiation",
        false,
        &[("postgres", false), ("direct", true)],
    )?;
    let client = choice(
        values,
        "sslcertmode",
        Some(true),
        &[
            ("disable", Some(false)),
            ("allow", Some(true)),
            ("require", None),
        ],
    )?;
    let client = match client {
        None => return Err(ConnInfoError::Unsupported("sslcertmode=require")),
        Some(false) => None,
        Some(true) => {
            let file = |name, file| get(name).map(PathBuf::from).or_else(|| usual(file));
            file("sslcert", "postgresql.crt").zip(file("sslkey", "postgresql.key"))
        }
    };
    Ok(Ssl {
        mode: mode(values, &root, direct)?,
        direct,
        root,
        client,
        sni: choice(values, "sslsni", true, &[("0", false), ("1", true)])?,
        versions: versions(values)?,
    })
}

fn mode(values: &Values, root: &Root, direct: bool) -> Result<SslMode, ConnInfoError> {
    let default = match (root, direct) {
        (Root::System, _) => SslMode::VerifyFull,
        (_, true) => SslMode::Require,
        _ => SslMode::Prefer,
    };
    let words = [
        ("disable", SslMode::Disable),
        ("allow", SslMode::Allow),
        ("prefer", SslMode::Prefer),
        ("require", SslMode::Require),
        ("verify-ca", SslMode::VerifyCa),
        ("verify-full", SslMode::VerifyFull),
    ];
    let mode = choice(values, "sslmode", default, &words)?;
    let weak = |with: &str, instead: &str| {
        let word = words
            .iter()
            .find(|(_, m)| *m == mode)
            .map_or("", |(w, _)| w);
        ConnInfoError::Malformed(format!(
            "weak sslmode \"{word}\" may not be used with {with} (use {instead})"
        ))
    };
    if *root == Root::System && mode != SslMode::VerifyFull {
        return Err(weak("sslrootcert=system", "\"verify-full\""));
    }
    if direct && matches!(mode, SslMode::Disable | SslMode::Allow | SslMode::Prefer) {
        return Err(weak(
            "sslnegotiation=direct",
            "\"require\", \"verify-ca\", or \"verify-full\"",
        ));
    }
    Ok(mode)
}

/// Versions before 1.2 are not spoken, whatever is asked for.
fn versions(values: &Values) -> Result<TlsVersions, ConnInfoError> {
    let version = |name: &'static str, default: u8| match values.get(name).map(String::as_str) {
        None | Some("") => Ok(default),
        Some(text) => match text.to_ascii_lowercase().as_str() {
            "tlsv1" => Ok(10),
            "tlsv1.1" => Ok(11),
            "tlsv1.2" => Ok(12),
            "tlsv1.3" => Ok(13),
            _ => Err(invalid(name, text)),
        },
    };
    let lowest = version("ssl_min_protocol_version", 12)?;
    match (lowest, version("ssl_max_protocol_version", 13)?) {
        (lowest, highest) if lowest > highest => Err(ConnInfoError::Malformed(
            "invalid SSL protocol version range".into(),
        )),
        (_, ..=11) => Err(ConnInfoError::Unsupported(
            "ssl_max_protocol_version below TLSv1.2",
        )),
        (_, 12) => Ok(TlsVersions::Only12),
        (13, _) => Ok(TlsVersions::Only13),
        _ => Ok(TlsVersions::Both),
    }
}
