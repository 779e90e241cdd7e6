//! The service file and the password file.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::gather::{Surroundings, Values, is_known};
use super::hosts::SOCKET_DIRECTORIES;
use super::{ConnInfoError, Place, Secret};

/// The settings of a service: the user's file first, then the system's. A file
/// that is not there is passed over.
pub(super) fn service(
    name: &str,
    file: Option<PathBuf>,
    around: &Surroundings,
) -> Result<Values, ConnInfoError> {
    let usual = || Some(around.home.as_ref()?.join(".pg_service.conf"));
    let system = around.path("PGSYSCONFDIR");
    let system = system.unwrap_or_else(|| "/etc/postgresql-common".into());
    let files = file.or_else(usual).into_iter();
    for path in files.chain([system.join("pg_service.conf")]) {
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if is_absent(&error) => continue,
            Err(error) => {
                return Err(ConnInfoError::File {
                    what: "service file",
                    path: path.display().to_string(),
                    why: error.to_string(),
                });
            }
        };
        let found = section(&String::from_utf8_lossy(&text), name);
        let found = found.map_err(|line| ConnInfoError::ServiceSyntax {
            path: path.display().to_string(),
            line,
        })?;
        if let Some(settings) = found {
            return Ok(settings);
        }
    }
    Err(ConnInfoError::NoService(name.to_owned()))
}

pub(in crate::pg) fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// The settings below `[name]`; `Err` is the number of a bad line among them.
/// Of a setting given twice the first counts.
pub(super) fn section(text: &str, name: &str) -> Result<Option<Values>, usize> {
    let mut found: Option<Values> = None;
    for (index, line) in text.lines().map(str::trim).enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(title) = line.strip_prefix('[') {
            if found.is_some() {
                break;
            }
            let title = title.split(']').next().unwrap_or(title);
            found = (title == name).then(Values::new);
        } else if let Some(found) = &mut found {
            let setting = line.split_once('=');
            let setting = setting.map(|(key, value)| (key.trim(), value.trim()));
            // Neither another service nor its file can be named here.
            let known = |key: &str| is_known(key) && !matches!(key, "service" | "servicefile");
            let (key, value) = setting.filter(|(key, _)| known(key)).ok_or(index + 1)?;
            found
                .entry(key.to_owned())
                .or_insert_with(|| value.to_owned());
        }
    }
    Ok(found)
}

/// The password of the first line of the password file that fits.
pub(super) fn password(
    file: Option<&Path>,
    around: &Surroundings,
    place: &Place,
    port: u16,
    dbname: &str,
    user: &str,
) -> Option<Secret> {
    let usual = around.home.as_ref().map(|home| home.join(".pgpass"));
    let path = file.map(Path::to_owned).or(usual)?;
    let meta = std::fs::metadata(&path).ok()?;
    if !meta.is_file() {
        tracing::warn!("password file \"{}\" is not a plain file", path.display());
        return None;
    }
    if meta.permissions().mode() & 0o077 != 0 {
        tracing::warn!(
            "password file \"{}\" has group or world access and is not used; permissions should be \
             u=rw (0600) or less",
            path.display()
        );
        return None;
    }
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) => {
            tracing::warn!(
                "could not read password file \"{}\": {error}",
                path.display()
            );
            return None;
        }
    };
    let text = String::from_utf8_lossy(&text);
    let hosts = match place {
        Place::Socket(directory) => {
            let mut names = vec![directory.display().to_string()];
            if SOCKET_DIRECTORIES
                .iter()
                .any(|usual| Path::new(usual) == directory)
            {
                names.push("localhost".into());
            }
            names
        }
        // The address counts only where there is no name.
        Place::Tcp { name, .. } => vec![name.clone()],
    };
    let port = port.to_string();
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .find_map(|line| {
            let fields = fields(line);
            let [host, line_port, database, line_user, password] = fields.as_slice() else {
                return None;
            };
            let fits =
                |field: &Option<String>, value: &str| field.as_ref().is_none_or(|f| f == value);
            let found = hosts.iter().any(|name| fits(host, name))
                && fits(line_port, &port)
                && fits(database, dbname)
                && fits(line_user, user);
            found.then(|| Secret(password.clone().unwrap_or_else(|| "*".into())))
        })
}

/// The five fields of a line; `None` is the `*` that fits everything. The
/// password may hold colons only behind a backslash, as the others.
pub(super) fn fields(line: &str) -> Vec<Option<String>> {
    let mut fields = vec![String::new()];
    let mut escaped = false;
    let mut stars = vec![true];
    for c in line.chars() {
        let last = fields.len() - 1;
        match c {
            '\\' if !escaped => {
                escaped = true;
                stars[last] = false;
                continue;
            }
            ':' if !escaped && fields.len() < 5 => {
                fields.push(String::new());
                stars.push(true);
            }
            ':' if !escaped => break,
            c => fields[last].push(c),
        }
        escaped = false;
    }
    if escaped && let Some(last) = fields.last_mut() {
        last.push('\\');
    }
    fields
        .into_iter()
        .zip(stars)
        .map(|(f, star)| (f != "*" || !star).then_some(f))
        .collect()
}
