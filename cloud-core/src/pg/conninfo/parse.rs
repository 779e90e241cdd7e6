//! Connection strings and URIs, read as libpq reads them.
//!
//! A message never quotes what may be a piece of a password: in a string with a
//! blank too many that is what stands where a name should.

use super::ConnInfoError;
use super::gather::Values;

/// Whether the text is a URI rather than a list of keys and values.
pub(super) fn is_uri(text: &str) -> bool {
    text.starts_with("postgresql://") || text.starts_with("postgres://")
}

/// What C calls white space: libpq leaves other blanks in a value.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t'..='\r')
}

/// `key = value` pairs: values may be quoted, a backslash takes the next
/// character as it is, blanks may stand around `=`.
pub(super) fn key_values(text: &str) -> Result<Values, ConnInfoError> {
    let mut values = Values::new();
    let mut before = "";
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| c == '=' || is_space(c))
            .unwrap_or(rest.len());
        let name = &rest[..end];
        let after = rest[end..].trim_start_matches(is_space).strip_prefix('=');
        let Some(after) = after else {
            let place = if before.is_empty() {
                format!("\"{}\"", shorten(name))
            } else {
                format!("the word behind the value of \"{}\"", shorten(before))
            };
            return Err(malformed(&format!(
                "missing \"=\" after {place} in connection info string"
            )));
        };
        let (value, after) = value(after.trim_start_matches(is_space))?;
        values.insert(name.to_owned(), value);
        before = name;
        rest = after.trim_start_matches(is_space);
    }
    Ok(values)
}

fn value(text: &str) -> Result<(String, &str), ConnInfoError> {
    let quoted = text.strip_prefix('\'');
    let base = quoted.unwrap_or(text);
    let mut value = String::new();
    let mut chars = base.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            '\'' if quoted.is_some() => return Ok((value, &base[at + 1..])),
            c if is_space(c) && quoted.is_none() => return Ok((value, &base[at..])),
            c => value.push(c),
        }
    }
    if quoted.is_some() {
        return Err(malformed(
            "unterminated quoted string in connection info string",
        ));
    }
    Ok((value, ""))
}

/// `postgresql://[user[:password]@][host[:port][,…]][/dbname][?key=value&…]`
///
/// The parts are found in the order in which libpq looks for them, so that a
/// password may hold `?` as it is, and a parameter `@`.
pub(super) fn uri(text: &str) -> Result<Values, ConnInfoError> {
    let mut values = Values::new();
    let set = |values: &mut Values, name: &str, value: String| {
        if !value.is_empty() {
            values.insert(name.to_owned(), value);
        }
    };
    let mut rest = text.split_once("://").map_or("", |(_, rest)| rest);
    let end = rest.find(['@', '/']).unwrap_or(rest.len());
    if let Some(after) = rest[end..].strip_prefix('@') {
        let (user, password) = rest[..end].split_once(':').unwrap_or((&rest[..end], ""));
        set(&mut values, "user", decode(user)?);
        set(&mut values, "password", decode(password)?);
        rest = after;
    }
    let mut names = Vec::new();
    let mut ports = Vec::new();
    loop {
        let (name, port, after) = host_and_port(rest)?;
        names.push(decode(name)?);
        ports.push(decode(port)?);
        rest = after;
        match rest.strip_prefix(',') {
            Some(next) => rest = next,
            None => break,
        }
    }
    if names.iter().any(|name| !name.is_empty()) {
        set(&mut values, "host", names.join(","));
    }
    if ports.iter().any(|port| !port.is_empty()) {
        set(&mut values, "port", ports.join(","));
    }
    let (dbname, list) = rest.split_once('?').unwrap_or((rest, ""));
    set(
        &mut values,
        "dbname",
        decode(dbname.strip_prefix('/').unwrap_or(dbname))?,
    );
    for parameter in list.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter
            .split_once('=')
            .ok_or_else(|| malformed("missing key/value separator \"=\" in URI query parameter"))?;
        match (decode(name)?.as_str(), decode(value)?) {
            // What drivers for Java call it.
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

/// The first host of a list, its port, and what comes after both.
fn host_and_port(text: &str) -> Result<(&str, &str, &str), ConnInfoError> {
    let (host, rest) = if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once(']').ok_or_else(|| {
            malformed(
                "end of string reached when looking for matching \"]\" in IPv6 host address in URI",
            )
        })?;
        if address.is_empty() {
            return Err(malformed("IPv6 host address may not be empty in URI"));
        }
        if !(rest.is_empty() || rest.starts_with([':', '/', '?', ','])) {
            return Err(malformed("unexpected text after an IPv6 address in URI"));
        }
        (address, rest)
    } else {
        text.split_at(text.find([':', '/', '?', ',']).unwrap_or(text.len()))
    };
    let Some(rest) = rest.strip_prefix(':') else {
        return Ok((host, "", rest));
    };
    let (port, rest) = rest.split_at(rest.find(['/', '?', ',']).unwrap_or(rest.len()));
    Ok((host, port, rest))
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

fn shorten(text: &str) -> String {
    text.chars().take(20).filter(|c| !c.is_control()).collect()
}
