//! What the server says about itself before a backup.

use super::session::{PgError, Row, Session};

/// Facts that go into `backup.info` or decide what is copied. What the role
/// may not see is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFacts {
    /// System identifier, decimal.
    pub system_identifier: Option<String>,
    /// The data directory, as the server names it.
    pub data_directory: Option<String>,
    /// `server_version_num`.
    pub version: u32,
    /// Size of a WAL segment in bytes.
    pub wal_segment_size: u64,
    /// Path of `postgresql.conf`.
    pub config_file: Option<String>,
    /// Path of `pg_hba.conf`.
    pub hba_file: Option<String>,
    /// Path of `pg_ident.conf`.
    pub ident_file: Option<String>,
    /// Other files that supply settings.
    pub included_files: Vec<String>,
    /// Tablespaces that have a location.
    pub tablespaces: Vec<PgTablespace>,
    /// `on` or `off`.
    pub data_checksums: Option<String>,
    /// `on` or `off`, from version 17.
    pub summarize_wal: Option<String>,
    /// Size of all tablespaces in bytes.
    pub cluster_size: Option<u64>,
    /// Whether the server is a standby.
    pub in_recovery: bool,
    /// `archive_mode`.
    pub archive_mode: Option<String>,
    /// `archive_command`; empty where there is none.
    pub archive_command: Option<String>,
    /// `archive_library`, from version 15; empty where there is none.
    pub archive_library: Option<String>,
}

impl ServerFacts {
    /// Whether the server keeps finished WAL for an archive that nothing ships
    /// it to: the stop of a backup would wait for ever.
    pub fn archives_nowhere(&self) -> bool {
        let archives = match self.archive_mode.as_deref() {
            Some("always") => true,
            Some("on") => !self.in_recovery,
            _ => false,
        };
        let empty = |setting: &Option<String>| setting.as_deref().is_none_or(str::is_empty);
        // A command that the role may not see is not an empty one.
        archives && self.archive_command.as_deref() == Some("") && empty(&self.archive_library)
    }
}

/// A tablespace with a location.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PgTablespace {
    /// Its name.
    pub name: String,
    /// Its oid.
    pub oid: u32,
    /// Its directory; a relative one lies inside the data directory.
    pub location: String,
}

impl Session {
    /// Asks for everything a backup needs to know.
    pub async fn facts(&self) -> Result<ServerFacts, PgError> {
        let setting = async |name: &str| self.value(name, &format!("SHOW \"{name}\"")).await.ok();
        let size = "SELECT setting FROM pg_settings WHERE name = 'wal_segment_size'";
        let mut wal_segment_size =
            number("wal_segment_size", &self.value("settings", size).await?)?;
        if self.version() < 110_000 {
            // Counted in blocks then.
            let block = "SELECT setting FROM pg_settings WHERE name = 'wal_block_size'";
            wal_segment_size *=
                number::<u64>("wal_block_size", &self.value("settings", block).await?)?;
        }
        let system = "SELECT system_identifier::text FROM pg_control_system()";
        let size = "SELECT sum(pg_tablespace_size(oid)) FROM pg_tablespace";
        let recovery = "SELECT pg_is_in_recovery()";
        Ok(ServerFacts {
            system_identifier: self.value("system identifier", system).await.ok(),
            data_directory: setting("data_directory").await,
            version: self.version(),
            wal_segment_size,
            config_file: self.file_setting("config_file").await?,
            hba_file: self.file_setting("hba_file").await?,
            ident_file: self.file_setting("ident_file").await?,
            included_files: self.included_files().await?,
            tablespaces: self.tablespaces().await?,
            data_checksums: setting("data_checksums").await,
            summarize_wal: match self.version() {
                170_000.. => setting("summarize_wal").await,
                _ => None,
            },
            cluster_size: self
                .value("size", size)
                .await
                .ok()
                .and_then(|size| size.parse().ok()),
            in_recovery: self.value("recovery", recovery).await? == "t",
            archive_mode: setting("archive_mode").await,
            archive_command: setting("archive_command").await,
            archive_library: match self.version() {
                150_000.. => setting("archive_library").await,
                _ => None,
            },
        })
    }

    async fn file_setting(&self, name: &str) -> Result<Option<String>, PgError> {
        let query = format!("SELECT setting FROM pg_settings WHERE name = '{name}'");
        let rows = self.rows("settings", &query).await?;
        Ok(rows
            .into_iter()
            .next()
            .and_then(|row| row.into_iter().next())
            .flatten())
    }

    async fn included_files(&self) -> Result<Vec<String>, PgError> {
        let query = "SELECT DISTINCT sourcefile FROM pg_settings WHERE sourcefile IS NOT NULL \
                     AND sourcefile NOT IN (SELECT setting FROM pg_settings \
                     WHERE name = 'config_file' AND setting IS NOT NULL) ORDER BY sourcefile";
        let rows = self.rows("settings", query).await?;
        Ok(rows
            .into_iter()
            .filter_map(|row| row.into_iter().next().flatten())
            .collect())
    }

    /// The tablespaces that have a location, as the server tells it.
    ///
    /// # Errors
    ///
    /// The query failed, or its answer is none.
    pub async fn tablespaces(&self) -> Result<Vec<PgTablespace>, PgError> {
        let query = "SELECT spcname, oid, pg_tablespace_location(oid) FROM pg_tablespace \
                     WHERE pg_tablespace_location(oid) != ''";
        let tablespace = |row: Row| match <[Option<String>; 3]>::try_from(row) {
            Ok([Some(name), Some(oid), Some(location)]) => Ok(PgTablespace {
                name,
                oid: number("tablespaces", &oid)?,
                location,
            }),
            _ => Err(PgError::Unexpected {
                what: "tablespaces".into(),
            }),
        };
        self.rows("tablespaces", query)
            .await?
            .into_iter()
            .map(tablespace)
            .collect()
    }
}

pub(super) fn number<T: std::str::FromStr>(what: &str, text: &str) -> Result<T, PgError> {
    text.parse().map_err(|_| PgError::Unexpected {
        what: what.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_archives_without_a_command_is_found() {
        let facts =
            |mode: &str, in_recovery, command: Option<&str>, library: Option<&str>| ServerFacts {
                system_identifier: None,
                data_directory: None,
                version: 150_000,
                wal_segment_size: 16 << 20,
                config_file: None,
                hba_file: None,
                ident_file: None,
                included_files: Vec::new(),
                tablespaces: Vec::new(),
                data_checksums: None,
                summarize_wal: None,
                cluster_size: None,
                in_recovery,
                archive_mode: Some(mode.to_owned()),
                archive_command: command.map(str::to_owned),
                archive_library: library.map(str::to_owned),
            };
        for (mode, standby, command, library, expected) in [
            ("on", false, Some(""), Some(""), true),
            ("on", false, Some(""), None, true),
            ("on", true, Some(""), Some(""), false),
            ("always", true, Some(""), Some(""), true),
            ("off", false, Some(""), Some(""), false),
            ("on", false, Some("cp"), Some(""), false),
            ("on", false, Some(""), Some("basic_archive"), false),
            ("on", false, None, None, false),
        ] {
            let facts = facts(mode, standby, command, library);
            assert_eq!(facts.archives_nowhere(), expected, "{facts:?}");
        }
    }
}
