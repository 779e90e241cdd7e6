//! Who copies what when several archives are open at once.
//!
//! A lane takes the next entry of its source and puts it into an archive of its own, so
//! every file is in one archive, and archives of one source are numbered in the order in
//! which they are begun. Lanes spread over the sources first, since tablespaces often are
//! disks of their own; one that finds its source empty joins another.

use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::catalogue::layout::{ArchiveBase, BackupId, Layout};
use crate::ops::archives::{Entries, Sources};
use crate::pgdata::{Found, SourceError};
use crate::tar::ArchiveSink;
use crate::transfer::Lane;

/// PGDATA or a tablespace, for as many lanes as come.
pub(super) struct Source<'a> {
    pub(super) base: ArchiveBase,
    pub(super) root: &'a Path,
    sources: &'a Sources,
    walk: Mutex<State<'a>>,
    /// Archives that were begun: the number of the next one.
    pub(super) begun: AtomicU32,
}

enum State<'a> {
    /// Nobody has asked for an entry.
    Closed,
    Open(Box<Entries<'a>>),
    /// There are no more entries; so many were gone when their turn came.
    Empty {
        vanished: u64,
    },
}

impl<'a> Source<'a> {
    fn new(sources: &'a Sources, base: ArchiveBase, root: &'a Path) -> Self {
        Self {
            base,
            root,
            sources,
            walk: Mutex::new(State::Closed),
            begun: AtomicU32::new(0),
        }
    }

    /// The next entry, for whoever asks first.
    pub(super) fn next(&self) -> Result<Option<Found>, SourceError> {
        let mut state = lock(&self.walk);
        if matches!(*state, State::Closed) {
            *state = State::Open(Box::new(self.sources.entries(self.base)?));
        }
        let State::Open(entries) = &mut *state else {
            return Ok(None);
        };
        let next = entries.next().transpose()?;
        if next.is_none() {
            let vanished = entries.vanished();
            *state = State::Empty { vanished };
        }
        Ok(next)
    }

    fn is_empty(&self) -> bool {
        matches!(*lock(&self.walk), State::Empty { .. })
    }
}

/// All sources, tablespaces before PGDATA.
pub(super) struct Stock<'a> {
    sources: Vec<Source<'a>>,
    /// How many lanes each of them has had.
    lanes: Mutex<Vec<u32>>,
}

impl<'a> Stock<'a> {
    pub(super) fn new(sources: &'a Sources) -> Self {
        let tablespaces = sources.tablespaces.iter().map(|tablespace| {
            let base = ArchiveBase::Tablespace(tablespace.oid);
            Source::new(sources, base, &tablespace.location)
        });
        let mut all: Vec<_> = tablespaces.collect();
        all.push(Source::new(sources, ArchiveBase::Data, &sources.pgdata));
        Self {
            lanes: Mutex::new(vec![0; all.len()]),
            sources: all,
        }
    }

    /// Where a lane that has nothing to do goes: to one of those that the fewest went to,
    /// first to tablespaces and then, where each has one, rather to PGDATA. `None` if
    /// there are no more entries anywhere.
    pub(super) fn pick(&self) -> Option<&Source<'a>> {
        let mut lanes = lock(&self.lanes);
        let left = (0..lanes.len()).filter(|number| !self.sources[*number].is_empty());
        let chosen = left.min_by_key(|number| match lanes[*number] {
            0 => (0, *number),
            had => (had, lanes.len() - number),
        })?;
        lanes[chosen] += 1;
        Some(&self.sources[chosen])
    }

    /// PGDATA.
    pub(super) fn data(&self) -> &Source<'a> {
        self.sources.last().expect("PGDATA is one of them")
    }

    /// Entries that were gone when their turn came.
    pub(super) fn vanished(&self) -> u64 {
        let vanished = |source: &Source| match *lock(&source.walk) {
            State::Empty { vanished } => vanished,
            State::Closed | State::Open(_) => 0,
        };
        self.sources.iter().map(vanished).sum()
    }
}

/// The archives that one lane makes of a source, named as the layout wants.
pub(super) struct Archives<'a> {
    pub(super) lane: Lane<'a>,
    pub(super) layout: &'a Layout,
    pub(super) id: &'a BackupId,
    pub(super) base: ArchiveBase,
    pub(super) begun: &'a AtomicU32,
    pub(super) suffix: &'static str,
}

impl Write for Archives<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.lane.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.lane.flush()
    }
}

impl ArchiveSink for Archives<'_> {
    /// Numbers count the archives of all lanes.
    fn begin(&mut self, _: u32, first_member: u64) -> io::Result<()> {
        let part = self.begun.fetch_add(1, Ordering::Relaxed);
        let key = self.layout.archive(self.id, self.base, part, self.suffix);
        tracing::info!("Uploading '{key}'");
        self.lane.begin(key, None, first_member)
    }

    fn bytes_out(&self) -> u64 {
        self.lane.bytes_out()
    }

    fn fits(&self, bytes: u64) -> bool {
        self.lane.fits(bytes)
    }

    fn end(&mut self) -> io::Result<()> {
        self.lane.end()
    }
}

/// Nothing is left half done where a thread could panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
