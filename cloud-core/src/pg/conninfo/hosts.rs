//! The servers to try: hosts, addresses and ports, which go together.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::gather::{Surroundings, Values, invalid};
use super::{ConnInfoError, Host, Place, Secret, files};

/// Where servers put their sockets: Debian and its like, then the default of
/// PostgreSQL itself.
pub(super) const SOCKET_DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// The servers to try, in order: lists of hosts, addresses and ports go
/// together, and one port serves for all.
pub(super) fn read(
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
    if !fits(&names) || !fits(&addresses) {
        let (names, addresses) = (names.len(), addresses.len());
        return Err(ConnInfoError::Malformed(format!(
            "could not match {names} host names to {addresses} hostaddr values"
        )));
    }
    if !fits(&ports) && ports.len() != 1 {
        let ports = ports.len();
        return Err(ConnInfoError::Malformed(format!(
            "could not match {ports} port numbers to {count} hosts"
        )));
    }
    let password = values
        .get("password")
        .filter(|password| !password.is_empty());
    let passfile = values.get("passfile").filter(|path| !path.is_empty());
    let passfile = passfile.map(PathBuf::from);
    let mut hosts = Vec::with_capacity(count);
    for index in 0..count {
        let port = ports.get(if ports.len() == 1 { 0 } else { index });
        let port = match port.map(String::as_str) {
            None | Some("") => 5432,
            // Not shown: in a URI with a stray slash it is a piece of a password.
            Some(text) => text
                .parse()
                .ok()
                .filter(|port| *port > 0)
                .ok_or(ConnInfoError::InvalidNumber("port"))?,
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
    Ok(hosts)
}

fn default_socket_directory(port: u16) -> PathBuf {
    let holds_socket = |dir: &&str| Path::new(dir).join(format!(".s.PGSQL.{port}")).exists();
    let found = SOCKET_DIRECTORIES.iter().find(|dir| holds_socket(dir));
    found.unwrap_or(&SOCKET_DIRECTORIES[0]).into()
}
