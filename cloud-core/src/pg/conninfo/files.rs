//! The service file and the password file.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::{ConnInfoError, Place, SOCKET_DIRECTORIES, Secret, Surroundings};

/// The settings of a service: the user's file first, then the system's.
pub(super) fn service(
    name: &str,
    file: Option<PathBuf>,
    around: &Surroundings,
) -> Result<Vec<(String, String)>, ConnInfoError> {
    let asked = file.or_else(|| around.var.var("PGSERVICEFILE").map(PathBuf::from));
    let mut files: Vec<(PathBuf, bool)> = Vec::new();
    match asked {
        Some(path) => files.push((path, true)),
        None => files.extend(
            around
                .home
                .as_ref()
                .map(|home| (home.join(".pg_service.conf"), false)),
        ),
    }
    let system = around.var.var("PGSYSCONFDIR").map(PathBuf::from);
    let system = system.unwrap_or_else(|| "/etc/postgresql-common".into());
    files.push((system.join("pg_service.conf"), false));
    for (path, asked) in files {
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(_) if !asked => continue,
            Err(error) => {
                let path = path.display().to_string();
                return Err(ConnInfoError::File {
                    what: "the service file",
                    path,
                    why: error.to_string(),
                });
            }
        };
        if let Some(settings) = section(&text, name) {
            return Ok(settings);
        }
    }
    Err(ConnInfoError::NoService(name.to_owned()))
}

fn section(text: &str, name: &str) -> Option<Vec<(String, String)>> {
    let lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut inside = false;
    let mut found = None;
    for line in lines {
        if let Some(title) = line
            .strip_prefix('[')
            .and_then(|line| line.strip_suffix(']'))
        {
            if found.is_some() {
                break;
            }
            inside = title == name;
            if inside {
                found = Some(Vec::new());
            }
        } else if let (true, Some((key, value))) = (inside, line.split_once('=')) {
            found
                .get_or_insert_default()
                .push((key.trim().to_owned(), value.trim().to_owned()));
        }
    }
    found
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
        tracing::warn!(
            "the password file \"{}\" is not a plain file",
            path.display()
        );
        return None;
    }
    if meta.permissions().mode() & 0o077 != 0 {
        tracing::warn!(
            "the password file \"{}\" has group or world access and is not used; permissions \
             should be u=rw (0600) or less",
            path.display()
        );
        return None;
    }
    let text = std::fs::read_to_string(&path).ok()?;
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
        Place::Tcp { name, addr } => {
            let mut names = vec![name.clone()];
            names.extend(addr.map(|addr| addr.to_string()));
            names
        }
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
fn fields(line: &str) -> Vec<Option<String>> {
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
    fields
        .into_iter()
        .zip(stars)
        .map(|(f, star)| (f != "*" || !star).then_some(f))
        .collect()
}
