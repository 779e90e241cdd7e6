//! Which files hold pages of a relation, by their names.
//!
//! PostgreSQL names them by numbers: `base/5/16384` is the main fork of a relation,
//! `base/5/16384_fsm` another one of its forks, `base/5/16384.2` the third segment of
//! one that is large. A name counts only where PostgreSQL gives it that meaning:
//! whatever else lies in these directories has no pages.

use crate::wal::blocks::Fork;

/// A file with pages of a relation: a segment of one of its forks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelationFile {
    segment: u32,
}

impl RelationFile {
    /// What a file is by its name, relative to PGDATA (also in `pg_tblspc`) or to a
    /// tablespace, with or without `./`.
    ///
    /// `None` if it is no relation's, or of a relation of one session, which no
    /// backup has.
    pub fn of(name: &[u8]) -> Option<Self> {
        let (_, base) = place_of(name)?;
        let relation = Relation::parse(base)?;
        let known = relation.backend.is_none() && relation.number != b"0";
        let segment = match relation.segment {
            None => 0,
            // `16384.01` is none of the server's.
            Some([b'0', ..]) => return None,
            Some(segment) => std::str::from_utf8(segment).ok()?.parse().ok()?,
        };
        known.then_some(Self { segment })
    }

    /// Which of the files of its fork it is, from 0.
    pub fn segment(self) -> u32 {
        self.segment
    }
}

/// The fork that a file is of, by its path in PGDATA, as WAL names it; `None` if it is no relation's.
pub fn fork_of(path: &[u8]) -> Option<Fork> {
    RelationFile::of(path)?;
    let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse().ok();
    let components: Vec<&[u8]> = path.split(|&byte| byte == b'/').collect();
    let (tablespace, database, base) = match *components {
        [b"global", base] => (GLOBAL, 0, base),
        [b"base", database, base] => (DEFAULT, number(database)?, base),
        [b"pg_tblspc", oid, _, database, base] => (number(oid)?, number(database)?, base),
        _ => return None,
    };
    let (base, _) = cut(base, b'.');
    let (relation, fork) = cut(base, b'_');
    Some(Fork {
        tablespace,
        database,
        relation: number(relation)?,
        fork: match fork {
            None => 0,
            Some(b"fsm") => 1,
            Some(b"vm") => 2,
            Some(_) => 3,
        },
    })
}

/// Oid of the tablespace that lies in `base`.
///
/// Source of this and the next: PostgreSQL's `pg_tablespace.dat`.
const DEFAULT: u32 = 1663;

/// Oid of the tablespace that lies in `global`.
const GLOBAL: u32 = 1664;

/// Whether `name` is a relation of one session, in a database's directory:
/// `base/5/t3_16414`, `base/5/t12_16414_fsm.1`.
pub(super) fn is_temporary(name: &[u8]) -> bool {
    let Some((Place::Database, base)) = place_of(name) else {
        return false;
    };
    Relation::parse(base).is_some_and(|relation| relation.backend.is_some())
}

/// Where relations are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Those that all databases share.
    Global,
    /// Those of one database.
    Database,
}

/// The directory that a file lies in, if relations may, and its name there.
fn place_of(name: &[u8]) -> Option<(Place, &[u8])> {
    let name = name.strip_prefix(b"./").unwrap_or(name);
    let components: Vec<&[u8]> = name.split(|&byte| byte == b'/').collect();
    match *components {
        [b"global", base] => Some((Place::Global, base)),
        [b"base", database, base] if is_number(database) => Some((Place::Database, base)),
        [version, database, base] if is_version(version) && is_number(database) => {
            Some((Place::Database, base))
        }
        // Through the link to a tablespace, or a tablespace in place.
        [b"pg_tblspc", oid, version, database, base]
            if is_number(oid) && is_version(version) && is_number(database) =>
        {
            Some((Place::Database, base))
        }
        _ => None,
    }
}

/// The name of a relation's file, in its parts.
struct Relation<'a> {
    /// Whose session's it is.
    backend: Option<&'a [u8]>,
    number: &'a [u8],
    segment: Option<&'a [u8]>,
}

impl<'a> Relation<'a> {
    fn parse(base: &'a [u8]) -> Option<Self> {
        let (rest, segment) = cut(base, b'.');
        let (backend, rest) = match rest.strip_prefix(b"t") {
            None => (None, rest),
            Some(rest) => {
                let (backend, rest) = cut(rest, b'_');
                (Some(backend), rest?)
            }
        };
        let (number, fork) = cut(rest, b'_');
        let parts = [Some(number), backend, segment];
        let known = parts.into_iter().flatten().all(is_number)
            && fork.is_none_or(|fork| matches!(fork, b"fsm" | b"vm" | b"init"));
        known.then_some(Self {
            backend,
            number,
            segment,
        })
    }
}

/// What stands before and after the first `separator`.
fn cut(text: &[u8], separator: u8) -> (&[u8], Option<&[u8]>) {
    match text.iter().position(|&byte| byte == separator) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    }
}

fn is_version(text: &[u8]) -> bool {
    text.starts_with(b"PG_")
}

fn is_number(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relations_are_found_where_the_server_keeps_them() {
        let table = [
            ("base/5/16384", Some(0)),
            ("./base/5/16384", Some(0)),
            ("base/5/16384.1", Some(1)),
            ("base/5/16384.120", Some(120)),
            ("base/5/16384_fsm", Some(0)),
            ("base/5/16384_vm.3", Some(3)),
            ("base/5/16384_init", Some(0)),
            ("global/1262", Some(0)),
            ("global/1262_vm", Some(0)),
            ("PG_15_202209061/5/16390", Some(0)),
            ("PG_9.6_201608131/5/16390.2", Some(2)),
            ("pg_tblspc/16400/PG_15_202209061/5/16390_fsm", Some(0)),
            ("base/5/t3_16414", None),
            ("global/t3_16414", None),
            ("base/5/PG_VERSION", None),
            ("base/5/pg_filenode.map", None),
            ("base/5/pg_internal.init", None),
            ("global/pg_control", None),
            ("base/5/16384_main", None),
            ("base/5/16384_", None),
            ("base/5/16384.", None),
            ("base/5/16384.0", None),
            ("base/5/16384.01", None),
            ("base/5/16384.9999999999", None),
            ("base/5/16384.1.1", None),
            ("base/5/16384 copy", None),
            ("base/5/0", None),
            ("base/5/-1", None),
            ("base/five/16384", None),
            ("base/16384", None),
            ("base/5/x/16384", None),
            ("pg_xact/0000", None),
            ("mine/5/16384", None),
            ("pg_tblspc/16400/mine/5/16390", None),
            ("16384", None),
            ("", None),
        ];
        for (name, segment) in table {
            let found = RelationFile::of(name.as_bytes()).map(RelationFile::segment);
            assert_eq!(found, segment, "{name}");
        }
    }

    #[test]
    fn a_fork_is_called_by_numbers() {
        let fork = |name: &str| {
            let fork = fork_of(name.as_bytes())?;
            Some((fork.tablespace, fork.database, fork.relation, fork.fork))
        };
        for (name, expected) in [
            ("base/5/16384", Some((1663, 5, 16384, 0))),
            ("base/5/16384.3", Some((1663, 5, 16384, 0))),
            ("base/5/16384_fsm", Some((1663, 5, 16384, 1))),
            ("base/5/16384_vm.1", Some((1663, 5, 16384, 2))),
            ("base/5/16384_init", Some((1663, 5, 16384, 3))),
            ("global/1262", Some((1664, 0, 1262, 0))),
            (
                "pg_tblspc/17/PG_15_202209061/5/16390_fsm",
                Some((17, 5, 16390, 1)),
            ),
            ("base/5/99999999999", None),
            ("base/5/t3_16384", None),
            ("PG_VERSION", None),
        ] {
            assert_eq!(fork(name), expected, "{name}");
        }
    }

    #[test]
    fn only_relations_of_sessions_in_database_directories_are_temporary() {
        let table = [
            ("base/5/t3_16414", true),
            ("base/5/t3_16414.1", true),
            ("base/5/t3_16414_fsm", true),
            ("base/5/t3_16414_vm.12", true),
            ("base/5/t13_16414_init", true),
            ("PG_15_202209061/5/t3_16414", true),
            ("pg_tblspc/16390/PG_15_202209061/5/t3_16414", true),
            ("base/5/16414", false),
            ("base/5/t3_16414_main", false),
            ("base/5/t3_16414_", false),
            ("base/5/t3_16414.", false),
            ("base/5/t3_16414.a", false),
            ("base/5/t_16414", false),
            ("base/5/t3_", false),
            ("base/5/t3", false),
            ("base/5/t", false),
            ("base/five/t3_16414", false),
            ("global/t3_16414", false),
            ("mine/5/t3_16414", false),
            ("t3_16414", false),
            ("base/5/x/t3_16414", false),
        ];
        for (name, expected) in table {
            assert_eq!(is_temporary(name.as_bytes()), expected, "{name}");
        }
    }
}
