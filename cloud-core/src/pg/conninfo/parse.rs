//! Connection strings and URIs, read as libpq reads them.

use super::{ConnInfoError, Values};

/// Whether the text is a URI rather than a list of keys and values.
pub(super) fn is_uri(text: &str) -> bool {
    text.starts_with("postgresql://") || text.starts_with("postgres://")
}

/// `key = value` pairs: values may be quoted, a backslash takes the next
/// character as it is, blanks may stand around `=`.
pub(super) fn key_values(text: &str) -> Result<Values, ConnInfoError> {
    let mut values = Values::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| c == '=' || c.is_whitespace())
            .unwrap_or(rest.len());
        let name = &rest[..end];
        rest = rest[end..]
            .trim_start()
            .strip_prefix('=')
            .ok_or_else(|| malformed(&format!("missing \"=\" after \"{}\"", shorten(name))))?
            .trim_start();
        let (value, after) = value(rest)?;
        values.insert(name.to_owned(), value);
        rest = after.trim_start();
    }
    Ok(values)
}

fn value(text: &str) -> Result<(String, &str), ConnInfoError> {
    let quoted = text.strip_prefix('\'');
    let mut value = String::new();
    let mut chars = quoted.unwrap_or(text).char_indices();
    let base = quoted.unwrap_or(text);
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            '\'' if quoted.is_some() => return Ok((value, &base[at + 1..])),
            c if c.is_whitespace() && quoted.is_none() => return Ok((value, &base[at..])),
            c => value.push(c),
        }
    }
    if quoted.is_some() {
        return Err(malformed("unterminated quoted string"));
    }
    Ok((value, ""))
}

/// `postgresql://[user[:password]@][host[:port][,…]][/dbname][?key=value&…]`
pub(super) fn uri(text: &str) -> Result<Values, ConnInfoError> {
    let mut values = Values::new();
    let rest = text.split_once("://").map_or("", |(_, rest)| rest);
    let (rest, parameters) = match rest.split_once('?') {
        Some((rest, parameters)) => (rest, Some(parameters)),
        None => (rest, None),
    };
    let (authority, dbname) = match rest.split_once('/') {
        Some((authority, dbname)) => (authority, Some(dbname)),
        None => (rest, None),
    };
    let (userinfo, hosts) = match authority.rsplit_once('@') {
        Some((userinfo, hosts)) => (Some(userinfo), hosts),
        None => (None, authority),
    };
    let set = |values: &mut Values, name: &str, value: String| {
        if !value.is_empty() {
            values.insert(name.to_owned(), value);
        }
    };
    if let Some(userinfo) = userinfo {
        let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
        set(&mut values, "user", decode(user)?);
        set(&mut values, "password", decode(password)?);
    }
    let mut names = Vec::new();
    let mut ports = Vec::new();
    for host in hosts.split(',') {
        let (name, port) = host_and_port(host)?;
        names.push(decode(name)?);
        ports.push(decode(port)?);
    }
    if names.iter().any(|name| !name.is_empty()) {
        set(&mut values, "host", names.join(","));
    }
    if ports.iter().any(|port| !port.is_empty()) {
        set(&mut values, "port", ports.join(","));
    }
    set(&mut values, "dbname", decode(dbname.unwrap_or(""))?);
    for parameter in parameters
        .into_iter()
        .flat_map(|list| list.split('&'))
        .filter(|p| !p.is_empty())
    {
        let (name, value) = parameter.split_once('=').ok_or_else(|| {
            malformed(&format!(
                "missing key/value separator \"=\" in URI query parameter: \"{}\"",
                shorten(parameter)
            ))
        })?;
        match (decode(name)?.as_str(), decode(value)?) {
            ("ssl", value) if value == "true" => {
                values.insert("sslmode".to_owned(), "require".to_owned());
            }
            (name, value) => {
                values.insert(name.to_owned(), value);
            }
        }
    }
    Ok(values)
}

fn host_and_port(text: &str) -> Result<(&str, &str), ConnInfoError> {
    if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest
            .split_once(']')
            .ok_or_else(|| malformed("an IPv6 address has no closing bracket"))?;
        if address.is_empty() {
            return Err(malformed("IPv6 host address may not be empty in URI"));
        }
        return match rest.strip_prefix(':') {
            Some(port) => Ok((address, port)),
            None if rest.is_empty() => Ok((address, "")),
            None => Err(malformed("unexpected text after an IPv6 address")),
        };
    }
    Ok(text.split_once(':').unwrap_or((text, "")))
}

/// Undoes percent-encoding.
fn decode(text: &str) -> Result<String, ConnInfoError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let hex = |b: u8| char::from(b).to_digit(16);
        let digits = after
            .get(..2)
            .and_then(|two| Some(hex(two[0])? * 16 + hex(two[1])?));
        match digits.and_then(|value| u8::try_from(value).ok()) {
            Some(0) => return Err(malformed("forbidden value %00 in percent-encoded value")),
            Some(byte) => bytes.push(byte),
            None => return Err(malformed("invalid percent-encoded token")),
        }
        rest = &after[2..];
    }
    String::from_utf8(bytes).map_err(|_| malformed("a percent-encoded value is not UTF-8"))
}

fn malformed(why: &str) -> ConnInfoError {
    ConnInfoError::Malformed(why.to_owned())
}

/// What is quoted in a message may be a part of a password.
fn shorten(text: &str) -> String {
    text.chars().take(20).filter(|c| !c.is_control()).collect()
}
