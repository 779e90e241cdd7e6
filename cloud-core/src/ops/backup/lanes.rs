//! Who copies what when several archives are open at once.
//!
//! A lane takes the next entry of its source and puts it into an archive of its own, so
//! every file is in one archive, and archives of one source are numbered in the order in
//! which they are begun. Lanes spread over the sources first, since tablespaces often are
//! disks of their own; one that finds its source empty joins another.

use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

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
    /// Whether there was nothing in it, and nobody has made an archive of that yet.
    bare: AtomicBool,
}

enum State<'a> {
    /// Nobody has asked for an entry.
    Closed,
    Open {
        entries: Box<Entries<'a>>,
        /// Whether there were any.
        any: bool,
    },
    /// There are no more entries; so many were gone when their turn came.
    Empty { vanished: u64 },
}

impl<'a> Source<'a> {
    fn new(sources: &'a Sources, base: ArchiveBase, root: &'a Path) -> Self {
        Self {
            base,
            root,
            sources,
            walk: Mutex::new(State::Closed),
            begun: AtomicU32::new(0),
            bare: AtomicBool::new(false),
        }
    }

    /// The next entry, for whoever asks first.
    pub(super) fn next(&self) -> Result<Option<Found>, SourceError> {
        let mut state = lock(&self.walk);
        if matches!(*state, State::Closed) {
            *state = match self.sources.entries(self.base) {
                Ok(entries) => State::Open {
                    entries: Box::new(entries),
                    any: false,
                },
                Err(error) if !self.is_dropped() => return Err(error),
                Err(_) => {
                    let root = self.root.display();
                    tracing::info!("the tablespace in {root} was dropped during the backup");
                    self.bare.store(true, Ordering::Relaxed);
                    State::Empty { vanished: 1 }
                }
            };
        }
        let State::Open { entries, any } = &mut *state else {
            return Ok(None);
        };
        let next = entries.next().transpose()?;
        if next.is_some() {
            *any = true;
        } else {
            self.bare.store(!*any, Ordering::Relaxed);
            let vanished = entries.vanished();
            *state = State::Empty { vanished };
        }
        Ok(next)
    }

    /// Whether the source has nothing: who learns it makes an archive of nothing, which a
    /// restore looks for.
    pub(super) fn take_bare(&self) -> bool {
        self.bare.swap(false, Ordering::Relaxed)
    }

    /// Whether this is a tablespace that the server has dropped: then the link to it is gone, or
    /// will be in a moment. (Replay of the WAL drops it again.)
    fn is_dropped(&self) -> bool {
        let ArchiveBase::Tablespace(oid) = self.base else {
            return false;
        };
        let link = self.sources.pgdata.join(format!("pg_tblspc/{oid}"));
        let is_gone = || {
            let looked = link.symlink_metadata();
            looked.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        };
        (0..10).any(|_| {
            is_gone() || {
                thread::sleep(Duration::from_millis(100));
                false
            }
        })
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
            State::Closed | State::Open { .. } => 0,
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
