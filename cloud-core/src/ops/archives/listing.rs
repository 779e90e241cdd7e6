//! The manifest of the backup, made while its files are copied.
//!
//! It lists what is *in the archives*: a file that shrank is listed with the
//! zeroes that took the place of what was gone, so that a restore finds exactly
//! that. The manifest goes into the last archive of PGDATA, just before the label
//! (docs/decisions.md 24).

use std::collections::BTreeMap;
use std::io;

use crate::catalogue::layout::ArchiveBase;
use crate::manifest::{self, Algorithm, Builder, Checksum, Entry, Manifest, Summing, WalRange};
use crate::tar::Member;

/// The files of the backup so far.
#[derive(Debug)]
pub(in crate::ops) struct Listing {
    algorithm: Algorithm,
    builder: Builder,
    /// Files at the top of PGDATA: a configuration file that lies elsewhere may
    /// take the name of one, and a path must not be listed twice.
    top: BTreeMap<Vec<u8>, Entry>,
}

impl Listing {
    pub(in crate::ops) fn new(
        algorithm: Algorithm,
        version: u32,
        identifier: u64,
    ) -> io::Result<Self> {
        Ok(Self {
            algorithm,
            builder: Builder::new(version, identifier)?,
            top: BTreeMap::new(),
        })
    }

    /// A checksum of no bytes yet.
    pub(in crate::ops) fn summing(&self) -> Summing {
        Summing::new(self.algorithm)
    }

    /// Adds a file as it is stored.
    pub(in crate::ops) fn add(
        &mut self,
        base: ArchiveBase,
        member: &Member,
        size: u64,
        checksum: Checksum,
    ) -> io::Result<()> {
        let entry = Entry {
            path: manifest::path(base.tablespace(), &member.name),
            size,
            modified: member.mtime.seconds,
            checksum: Some(checksum),
        };
        if entry.path.contains(&b'/') {
            return self.builder.add(&entry);
        }
        self.top.insert(entry.path.clone(), entry);
        Ok(())
    }

    /// The manifest of all files.
    pub(in crate::ops) fn finish(mut self, wal: &[WalRange]) -> io::Result<Manifest> {
        for entry in self.top.values() {
            self.builder.add(entry)?;
        }
        self.builder.finish(wal)
    }
}
