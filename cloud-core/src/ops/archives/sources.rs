//! Where the files of a base backup are: PGDATA, and each tablespace.

use std::num::NonZeroU32;
use std::path::PathBuf;

use crate::catalogue::layout::ArchiveBase;
use crate::pgdata::{self, FileId, Found, Rules, Walk};

/// What is copied.
#[derive(Debug, Clone)]
pub(in crate::ops) struct Sources {
    pub(in crate::ops) pgdata: PathBuf,
    /// Major version, as in the directories of tablespaces: `15`, `9.6`.
    pub(in crate::ops) major: String,
    pub(in crate::ops) tablespaces: Vec<TablespaceSource>,
    /// Configuration files outside of PGDATA.
    pub(in crate::ops) configuration: Vec<ConfigurationFile>,
    /// How often what is in `base` is met: once, but in a simulation of sizes.
    pub(in crate::ops) rounds: NonZeroU32,
}

#[derive(Debug, Clone)]
pub(in crate::ops) struct TablespaceSource {
    pub(in crate::ops) oid: u32,
    pub(in crate::ops) location: PathBuf,
}

#[derive(Debug, Clone)]
pub(in crate::ops) struct ConfigurationFile {
    pub(in crate::ops) path: PathBuf,
    pub(in crate::ops) required: bool,
}

impl Sources {
    fn rules(&self, base: ArchiveBase) -> Rules {
        match base {
            ArchiveBase::Tablespace(_) => Rules::Tablespace {
                major: self.major.clone(),
            },
            ArchiveBase::Data => Rules::Pgdata {
                tablespaces: self
                    .tablespaces
                    .iter()
                    .map(|tablespace| tablespace.oid)
                    .collect(),
            },
        }
    }

    /// The entries of a source, in as many rounds as there are.
    pub(in crate::ops) fn entries(
        &self,
        base: ArchiveBase,
    ) -> Result<Entries<'_>, pgdata::SourceError> {
        Ok(Entries {
            sources: self,
            base,
            walk: self.walk(base)?,
            round: 0,
            vanished: 0,
        })
    }

    /// Opens a source; what has an archive of its own is left out of it.
    pub(in crate::ops) fn walk(&self, base: ArchiveBase) -> Result<Walk, pgdata::SourceError> {
        let location = |tablespace: &TablespaceSource| tablespace.location.clone();
        let (root, others): (PathBuf, Vec<PathBuf>) = match base {
            ArchiveBase::Data => (
                self.pgdata.clone(),
                self.tablespaces.iter().map(location).collect(),
            ),
            ArchiveBase::Tablespace(oid) => {
                let (own, others): (Vec<_>, Vec<_>) = self
                    .tablespaces
                    .iter()
                    .partition(|tablespace| tablespace.oid == oid);
                let root = own
                    .first()
                    .map(|own| own.location.clone())
                    .unwrap_or_default();
                (root, others.into_iter().map(location).collect())
            }
        };
        let elsewhere: Vec<FileId> = others
            .iter()
            .filter_map(|path| FileId::of(path).ok())
            .collect();
        Walk::open(&root, self.rules(base), &elsewhere)
    }
}

/// The entries of a source, in a stable order.
pub(in crate::ops) struct Entries<'a> {
    sources: &'a Sources,
    base: ArchiveBase,
    walk: Walk,
    /// From 0.
    round: u32,
    /// In the rounds before this one.
    vanished: u64,
}

impl Entries<'_> {
    /// How many entries were gone when their turn came.
    pub(in crate::ops) fn vanished(&self) -> u64 {
        self.vanished + self.walk.vanished()
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<Found, pgdata::SourceError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let found = self.walk.next();
            match found {
                None if self.round + 1 < self.sources.rounds.get() => {
                    self.vanished = self.vanished();
                    self.round += 1;
                    match self.sources.walk(self.base) {
                        Ok(walk) => self.walk = walk,
                        Err(error) => return Some(Err(error)),
                    }
                }
                Some(Ok(Found::Entry(mut entry))) if self.round > 0 => {
                    if let Some(database) = entry.name.strip_prefix(b"base/") {
                        let round = format!("base/{}.", self.round);
                        entry.name = [round.as_bytes(), database].concat();
                        return Some(Ok(Found::Entry(entry)));
                    }
                }
                Some(Ok(Found::LeftOut(_))) if self.round > 0 => {}
                found => return found,
            }
        }
    }
}

/// The major version of a server as in the directories of tablespaces, from its
/// `server_version_num`.
pub(in crate::ops) fn major(version: u32) -> String {
    match version {
        100_000.. => (version / 10_000).to_string(),
        _ => format!("{}.{}", version / 10_000, version / 100 % 100),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_have_one_number_since_10() {
        assert_eq!(major(150_020), "15");
        assert_eq!(major(100_001), "10");
        assert_eq!(major(90_624), "9.6");
    }
}
