//! What of a data directory or tablespace does not belong in a base backup.
//!
//! PostgreSQL says which files mean nothing, or harm, in a copy: WAL (it comes
//! from the archive), what a server rebuilds when it starts, temporary files,
//! marks of the running server, and marks of how this server itself was started,
//! which would send the restored one into recovery by itself. A directory whose
//! content is left out is stored empty, because the server does not make it.
//!
//! A name counts only where PostgreSQL gives it its meaning, so that a user's
//! file never disappears because of what it is called.

use super::relation;

/// What to do with one entry of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Store it; walk into it if it is a directory.
    Store,
    /// Store the directory itself and nothing that is in it.
    Hollow,
    /// Leave it out, with everything below.
    Skip,
}

/// Which source is walked, and what is left out of it.
#[derive(Debug, Clone)]
pub enum Rules {
    /// PGDATA.
    Pgdata {
        /// OIDs of the tablespaces that have an archive of their own.
        tablespaces: Vec<u32>,
    },
    /// A tablespace.
    Tablespace {
        /// The server's major version as in the name of its directory in the
        /// tablespace: `15`, `9.6`.
        major: String,
    },
}

/// Directories at the top of PGDATA that are stored empty.
///
/// Source: PostgreSQL manual, "Backing Up the Data Directory", and, for the logs,
/// the tools we are compatible with.
const HOLLOW: [&[u8]; 11] = [
    b"log",
    b"pg_log",
    b"pg_wal",
    b"pg_xlog",
    b"pg_dynshmem",
    b"pg_notify",
    b"pg_replslot",
    b"pg_serial",
    b"pg_snapshots",
    b"pg_stat_tmp",
    b"pg_subtrans",
];

/// Files of PGDATA that are left out.
const FILES: [&[u8]; 12] = [
    // Stored at the very end, by itself (B4).
    b"global/pg_control",
    b"postmaster.pid",
    b"postmaster.opts",
    b"postgresql.auto.conf.tmp",
    b"current_logfiles.tmp",
    b"recovery.conf",
    b"recovery.signal",
    b"standby.signal",
    // Of another backup, or of an earlier restore; this one's are stored at the
    // very end.
    b"backup_label",
    b"tablespace_map",
    b"backup_manifest",
    super::restore::JOURNAL_NAME,
];

/// Directories of PGDATA that have what the server cannot do without.
const NEEDED: [&[u8]; 10] = [
    b"base",
    b"global",
    b"pg_clog",
    b"pg_commit_ts",
    b"pg_multixact",
    b"pg_multixact/members",
    b"pg_multixact/offsets",
    b"pg_tblspc",
    b"pg_twophase",
    b"pg_xact",
];

impl Rules {
    /// Judges the entry called `name`, relative to the source and without `./`.
    pub(super) fn judge(&self, name: &[u8], is_directory: bool) -> Verdict {
        let base = name.rsplit(|&byte| byte == b'/').next().unwrap_or(name);
        let is_top = base.len() == name.len();
        if base.starts_with(b"pgsql_tmp") {
            return Verdict::Skip;
        }
        if !is_directory && (base.starts_with(b"pg_internal.init") || relation::is_temporary(name))
        {
            return Verdict::Skip;
        }
        match self {
            Self::Pgdata { tablespaces } => {
                if is_directory {
                    return match name {
                        // Not the server's but the file system's, and readable by root alone.
                        b"lost+found" => Verdict::Skip,
                        _ if HOLLOW.contains(&name) => Verdict::Hollow,
                        _ => Verdict::Store,
                    };
                }
                if FILES.contains(&name) || links_one_of(tablespaces, name) {
                    return Verdict::Skip;
                }
                Verdict::Store
            }
            Self::Tablespace { .. } if !is_top || self.is_version_directory(name) => Verdict::Store,
            Self::Tablespace { .. } => Verdict::Skip,
        }
    }

    /// Whether `name` is a directory without which no server starts, or that has its data: a
    /// backup without what is in it is none.
    pub(super) fn is_needed_directory(&self, name: &[u8]) -> bool {
        let of_databases = |parent: &[u8]| {
            let rest = name.strip_prefix(parent);
            let rest = rest.and_then(|rest| rest.strip_prefix(b"/"));
            rest.is_some_and(|oid| !oid.is_empty() && oid.iter().all(u8::is_ascii_digit))
        };
        match self {
            Self::Pgdata { .. } => NEEDED.contains(&name) || of_databases(b"base"),
            Self::Tablespace { .. } => {
                let top = name.split(|&byte| byte == b'/').next().unwrap_or(name);
                self.is_version_directory(top) && (top == name || of_databases(top))
            }
        }
    }

    /// Whether the name of an entry at the top of a tablespace says that it is
    /// this server's directory: `PG_15_202209061`.
    ///
    /// The catalogue version at its end is not compared: vendors of changed servers
    /// have their own, and a wrong guess would lose the tablespace.
    pub(super) fn is_version_directory(&self, name: &[u8]) -> bool {
        match self {
            Self::Pgdata { .. } => false,
            Self::Tablespace { major } => name.starts_with(format!("PG_{major}_").as_bytes()),
        }
    }
}

/// Whether `name` is `pg_tblspc/` and one of the OIDs.
fn links_one_of(tablespaces: &[u32], name: &[u8]) -> bool {
    name.strip_prefix(b"pg_tblspc/")
        .and_then(|oid| std::str::from_utf8(oid).ok()?.parse().ok())
        .is_some_and(|oid: u32| tablespaces.contains(&oid))
}

#[cfg(test)]
mod tests {
    use super::Verdict::{Hollow, Skip, Store};
    use super::*;

    const FILE: bool = false;
    const DIRECTORY: bool = true;

    fn pgdata() -> Rules {
        Rules::Pgdata {
            tablespaces: vec![16384],
        }
    }

    #[test]
    fn names_count_only_where_postgresql_gives_them_a_meaning() {
        let table: &[(&str, bool, Verdict)] = &[
            (".", DIRECTORY, Store),
            ("PG_VERSION", FILE, Store),
            ("log", DIRECTORY, Hollow),
            ("pg_log", DIRECTORY, Hollow),
            ("pg_wal", DIRECTORY, Hollow),
            ("pg_replslot", DIRECTORY, Hollow),
            ("pg_stat_tmp", DIRECTORY, Hollow),
            ("pg_stat", DIRECTORY, Store),
            ("log", FILE, Store),
            ("logs", DIRECTORY, Store),
            ("mine/log", DIRECTORY, Store),
            ("mine/pg_wal", DIRECTORY, Store),
            ("lost+found", DIRECTORY, Skip),
            ("mine/lost+found", DIRECTORY, Store),
            ("global/pg_control", FILE, Skip),
            ("global/pg_control.old", FILE, Store),
            ("postmaster.pid", FILE, Skip),
            ("postmaster.opts", FILE, Skip),
            ("mine/postmaster.pid", FILE, Store),
            ("postmaster.pid", DIRECTORY, Store),
            ("postgresql.auto.conf", FILE, Store),
            ("postgresql.auto.conf.tmp", FILE, Skip),
            ("current_logfiles", FILE, Store),
            ("current_logfiles.tmp", FILE, Skip),
            ("recovery.conf", FILE, Skip),
            ("recovery.done", FILE, Store),
            ("recovery.signal", FILE, Skip),
            ("standby.signal", FILE, Skip),
            ("backup_label", FILE, Skip),
            ("backup_label.old", FILE, Store),
            ("tablespace_map", FILE, Skip),
            ("tablespace_map.old", FILE, Store),
            ("backup_manifest", FILE, Skip),
            ("base/pgsql_tmp", DIRECTORY, Skip),
            ("base/pgsql_tmp/pgsql_tmp12.0", FILE, Skip),
            ("pgsql_tmp", DIRECTORY, Skip),
            ("base/5/pg_internal.init", FILE, Skip),
            ("global/pg_internal.init.123", FILE, Skip),
            ("base/5/pg_internal", FILE, Store),
            ("pg_tblspc", DIRECTORY, Store),
            ("pg_tblspc/16384", FILE, Skip),
            ("pg_tblspc/16385", FILE, Store),
            ("pg_tblspc/16384", DIRECTORY, Store),
            ("base/5/16384_init", FILE, Store),
        ];
        for &(name, is_directory, expected) in table {
            let verdict = pgdata().judge(name.as_bytes(), is_directory);
            assert_eq!(verdict, expected, "{name}, directory: {is_directory}");
        }
    }

    #[test]
    fn a_tablespace_is_the_directory_of_its_own_major_version() {
        let rules = Rules::Tablespace {
            major: "15".to_owned(),
        };
        let table = [
            ("PG_15_202209061", DIRECTORY, Store),
            ("PG_15_202209061/5", DIRECTORY, Store),
            ("PG_15_202209061/5/16390", FILE, Store),
            ("PG_15_202209061/5/t3_16390", FILE, Skip),
            ("PG_15_202209061/pgsql_tmp", DIRECTORY, Skip),
            ("PG_15_202209061/5/log", DIRECTORY, Store),
            ("PG_14_202107181", DIRECTORY, Skip),
            ("PG_1_1", DIRECTORY, Skip),
            ("otherdir", DIRECTORY, Skip),
            ("stray", FILE, Skip),
            ("lost+found", DIRECTORY, Skip),
        ];
        for (name, is_directory, expected) in table {
            assert_eq!(
                rules.judge(name.as_bytes(), is_directory),
                expected,
                "{name}"
            );
        }
    }
}
