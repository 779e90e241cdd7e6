//! Fetching the segments that PostgreSQL will ask for next, in a window that slides.
//!
//! Names follow from the size of segments, and the suffix from the last object found,
//! so that each segment is one request. What was not found under that suffix is listed,
//! but only when everything before it is there: the archive ends somewhere, and nothing
//! behind its end is of use. The first requests go one after the other and then more and
//! more side by side, since most often the end is near, or far away.
//!
//! What becomes of it is only a hint to others: a segment that is not in the spool is
//! asked for in its own right.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::super::folder::Temporary;
use super::super::wal_object::join;
use super::super::{Ctx, chain};
use super::candidates::{Candidate, find};
use super::fetch::{FetchFailure, Fetched, fetch};
use super::record::Record;
use super::spool::Spool;
use super::wanted::{Wanted, Why};
use crate::catalogue::layout::Layout;
use crate::key::Prefix;
use crate::store::{Depth, ObjectStore, StoreError, StoreErrorKind, list_all};
use crate::wal::WalName;
use crate::wal::fit::Fit;

/// Most segments of one call, the requested one included, as for archiving ahead.
pub(super) const MOST: u32 = 64;

/// Segments on their way at the same time. More would not fill the line better,
/// and each holds a decoder and some pieces of its object in memory.
const AT_ONCE: usize = 16;

/// Requests side by side before anything was found, and by how many there may be more
/// with each segment that was.
const FIRST: usize = 2;

/// How long the helper waits before it asks again; then it gives up. The calls have
/// more patience, and they ask for what is needed.
pub(super) const SHORT_PAUSES: &[Duration] = &[
    Duration::from_millis(100),
    Duration::from_millis(400),
    Duration::from_millis(1600),
];

/// Left free on the file system of the spool: four segments, and one part in so many.
const FREE_SEGMENTS: u64 = 4;
const FREE_PART: u64 = 20;

/// What it takes to fetch a segment into the spool.
#[derive(Debug)]
pub(super) struct Fetcher {
    pub(super) ctx: Ctx,
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) layout: Layout,
    pub(super) spool: Arc<Spool>,
    /// Between attempts, for trouble that may pass.
    pub(super) pauses: &'static [Duration],
}

/// What became of one segment.
enum Outcome {
    Spooled,
    /// It is not for the spool, or for somebody else.
    PassedOver,
    /// Not there under the suffix of the last one, whatever that says.
    Missed,
    Absent,
    Trouble(String),
    Stopped,
}

impl Fetcher {
    /// Fetches a segment, if nobody else does.
    async fn fetch(&self, name: &WalName, listed: bool, stop: &CancellationToken) -> Outcome {
        let (spool, of) = (Arc::clone(&self.spool), name.clone());
        let locked = join(spawn_blocking(move || {
            let lock = spool.try_lock(&of)?;
            let codec = spool.last_codec();
            io::Result::Ok((lock, spool.holds(&of), codec))
        }))
        .await;
        let _lock = match &locked {
            Ok((Some(lock), false, _)) => lock,
            Ok((_, true, _)) => return Outcome::Spooled,
            Ok((None, false, _)) => return Outcome::PassedOver,
            Err(error) => return Outcome::Trouble(format!("cannot lock it: {error}")),
        };
        let codec = locked.as_ref().ok().and_then(|(_, _, codec)| *codec);
        let mut pauses = self.pauses.iter();
        loop {
            let tried = match (listed, codec) {
                (true, _) => self.by_listing(name, stop).await,
                (false, None) => return Outcome::Missed,
                (false, Some(codec)) => {
                    let key = self.layout.wal(name, codec.info().suffix);
                    self.by_name(name, &Candidate { key, codec }, stop).await
                }
            };
            match tried {
                Ok(outcome) => return outcome,
                Err(trouble) => {
                    let Some(pause) = pauses.next() else {
                        return Outcome::Trouble(trouble);
                    };
                    debug!("WAL file {name} is asked for again: {trouble}");
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => return Outcome::Stopped,
                        () = tokio::time::sleep(*pause) => {}
                    }
                }
            }
        }
    }

    /// `Err` is trouble that may pass.
    async fn by_name(
        &self,
        name: &WalName,
        candidate: &Candidate,
        stop: &CancellationToken,
    ) -> Result<Outcome, String> {
        let (place, destination) = (self.spool.temporary_place(), PathBuf::from(name.as_str()));
        let open = move || Ok(Temporary::beside(place, &destination)?.summed());
        let fetched = fetch(&self.ctx, &self.store, candidate, name, stop, open).await;
        let fetched = match fetched {
            Ok(fetched) => fetched,
            Err(FetchFailure::Stopped) => return Ok(Outcome::Stopped),
            Err(FetchFailure::Store(error)) => return failed(&error),
            // The call that asks for it looks for another object, and says what is wrong.
            Err(FetchFailure::Damaged(why)) => {
                debug!("`{}` is not fetched ahead: {why}", candidate.key);
                return Ok(Outcome::PassedOver);
            }
            Err(FetchFailure::Local(error)) => {
                return Ok(Outcome::Trouble(format!("cannot write it: {error}")));
            }
        };
        let Fetched {
            file,
            meta,
            fit: Some(Fit::Segment(identity)),
            flaw: None,
        } = fetched
        else {
            // Delivered with a warning if it is asked for; not worth a record.
            return Ok(Outcome::PassedOver);
        };
        let spool = Arc::clone(&self.spool);
        let (name, key) = (name.clone(), candidate.key.to_string());
        let Some(crc32c) = file.crc32c() else {
            return Ok(Outcome::PassedOver);
        };
        let published = join(spawn_blocking(move || {
            spool.publish(file, &name, |file| Record {
                place: spool.place().to_owned(),
                name: name.to_string(),
                key,
                version: meta.version,
                file,
                crc32c,
                system_identifier: identity.system_identifier,
                timeline: identity.timeline.0,
            })
        }))
        .await;
        Ok(match published {
            Ok(()) => Outcome::Spooled,
            Err(error) => Outcome::Trouble(format!("cannot move it into the spool: {error}")),
        })
    }

    /// Looks for a segment under every suffix.
    async fn by_listing(
        &self,
        name: &WalName,
        stop: &CancellationToken,
    ) -> Result<Outcome, String> {
        let prefix = Prefix::text(self.layout.wal(name, "").as_str());
        let listing = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(Outcome::Stopped),
            listing = list_all(&*self.store, &prefix, Depth::One) => listing,
        };
        let keys: Vec<_> = match listing {
            Ok(listing) => listing.objects.into_iter().map(|meta| meta.key).collect(),
            Err(error) if error.kind.is_transient() => return Err(chain(&error)),
            Err(error) => return Ok(Outcome::Trouble(chain(&error))),
        };
        // Deleted since it was listed, or not to be read: the call will tell.
        let mut outcome = Outcome::Absent;
        for candidate in find(&keys, name).whole {
            outcome = match self.by_name(name, &candidate, stop).await? {
                Outcome::Spooled => {
                    self.spool.remember_codec(candidate.codec);
                    return Ok(Outcome::Spooled);
                }
                Outcome::Missed | Outcome::PassedOver => Outcome::PassedOver,
                other => return Ok(other),
            };
        }
        Ok(outcome)
    }
}

/// Bytes that stay free of a file system of `all`, for segments of `size`.
fn kept_free(all: u64, size: u64) -> u64 {
    (FREE_SEGMENTS * size).max(all / FREE_PART)
}

/// Whether a segment more fits, beside those under way. These count in full: nobody
/// knows how much of them is written. It may be the disk of the server, which stops
/// for good when it is full.
fn has_room(free: u64, all: u64, size: u64, under_way: u64) -> bool {
    free >= kept_free(all, size) + size * (under_way + 1)
}

fn failed(error: &StoreError) -> Result<Outcome, String> {
    match error.kind {
        // Where listing is not allowed, S3 answers 403 for what is absent.
        StoreErrorKind::NotFound | StoreErrorKind::PermissionDenied => Ok(Outcome::Missed),
        kind if kind.is_transient() => Err(chain(error)),
        _ => Ok(Outcome::Trouble(chain(error))),
    }
}

/// The segments after the one asked for last, each in the spool, under way or to come.
pub(super) struct Window<'a> {
    fetcher: &'a Fetcher,
    wanted: Wanted,
    names: Vec<WalName>,
    tasks: FuturesUnordered<BoxFuture<'a, (WalName, Outcome)>>,
    running: HashMap<WalName, CancellationToken>,
    /// The one that is being listed.
    listed: Option<WalName>,
    settled: HashSet<WalName>,
    missed: HashSet<WalName>,
    /// Requests that may go side by side for now.
    allowed: usize,
    why: Option<Why>,
}

impl<'a> Window<'a> {
    pub(super) fn new(fetcher: &'a Fetcher, wanted: Wanted) -> Self {
        let mut window = Self {
            fetcher,
            names: Vec::new(),
            wanted: wanted.clone(),
            tasks: FuturesUnordered::new(),
            running: HashMap::new(),
            listed: None,
            settled: HashSet::new(),
            missed: HashSet::new(),
            allowed: FIRST,
            why: None,
        };
        window.lay(wanted);
        window
    }

    pub(super) fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// Moves on to what was asked for now.
    pub(super) fn slide(&mut self, wanted: Wanted) {
        if wanted != self.wanted {
            self.lay(wanted);
        }
    }

    fn lay(&mut self, wanted: Wanted) {
        self.names = wanted.following();
        self.wanted = wanted;
        let within: HashSet<WalName> = self.names.iter().cloned().collect();
        for (name, stop) in &self.running {
            if !within.contains(name) {
                stop.cancel();
            }
        }
        self.settled.retain(|name| within.contains(name));
        self.missed.retain(|name| within.contains(name));
        if let Some(Why::Absent(name)) = &self.why
            && !within.contains(name)
        {
            self.why = None;
        }
        // What was asked for is perhaps being taken.
        let mut kept = within;
        kept.insert(self.wanted.name.clone());
        self.fetcher.spool.keep_only(&kept);
    }

    /// Begins to fetch what is to be fetched now.
    pub(super) fn fill(&mut self) {
        let most = self.allowed.min(AT_ONCE);
        let mut before = false;
        for name in self.names.clone() {
            let over = self.why.is_some() || self.fetcher.ctx.cancel.is_cancelled();
            if over || self.running.len() >= most {
                return;
            }
            if self.settled.contains(&name) {
                continue;
            }
            if self.running.contains_key(&name) {
                before = true;
                if self.listed.as_ref() == Some(&name) {
                    return;
                }
                continue;
            }
            let missed = self.missed.contains(&name);
            if missed && before {
                return;
            }
            if let Some(why) = self.no_room() {
                // What is under way may be taken and leave room.
                if self.running.is_empty() {
                    self.why = Some(Why::Trouble(why));
                }
                return;
            }
            self.begin(name.clone(), missed);
            before = true;
            if missed {
                self.listed = Some(name);
                return;
            }
        }
    }

    fn begin(&mut self, name: WalName, listed: bool) {
        let stop = self.fetcher.ctx.cancel.child_token();
        self.running.insert(name.clone(), stop.clone());
        let fetcher = self.fetcher;
        let task = async move {
            let outcome = fetcher.fetch(&name, listed, &stop).await;
            (name, outcome)
        };
        self.tasks.push(task.boxed());
    }

    fn no_room(&self) -> Option<String> {
        let (free, all) = self.fetcher.spool.room().ok()?;
        let size = self.wanted.size.get();
        (!has_room(free, all, size, self.running.len() as u64)).then(|| {
            let mib = |bytes: u64| bytes >> 20;
            format!(
                "the file system of the spool has {} MiB left, and {} MiB are to stay free",
                mib(free),
                mib(kept_free(all, size))
            )
        })
    }

    /// Whether anything is under way.
    pub(super) fn is_busy(&self) -> bool {
        !self.tasks.is_empty()
    }

    /// Waits until something is not under way any more.
    pub(super) async fn step(&mut self) {
        let Some((name, outcome)) = self.tasks.next().await else {
            return;
        };
        let wanted = self
            .running
            .remove(&name)
            .is_some_and(|stop| !stop.is_cancelled());
        let listed = self.listed.take_if(|listed| *listed == name).is_some();
        match outcome {
            Outcome::Spooled => {
                self.allowed = self.allowed.saturating_add(FIRST);
                if listed {
                    // Another suffix than it used to be, perhaps of those after it too.
                    self.missed.clear();
                }
                self.settled.insert(name);
            }
            Outcome::PassedOver => {
                self.settled.insert(name);
            }
            Outcome::Missed => {
                self.missed.insert(name);
            }
            Outcome::Absent if wanted => self.end_before(name),
            Outcome::Trouble(what) if wanted => {
                info!("WAL file {name} was not fetched ahead: {what}");
                let what = format!("WAL file {name}: {what}");
                self.why.get_or_insert(Why::Trouble(what));
            }
            Outcome::Absent | Outcome::Trouble(_) | Outcome::Stopped => {}
        }
    }

    fn end_before(&mut self, name: WalName) {
        let behind = self.names.iter().skip_while(|other| **other != name);
        for other in behind {
            if let Some(stop) = self.running.get(other) {
                stop.cancel();
            }
        }
        self.why = Some(Why::Absent(name));
    }

    /// Why nothing more will be fetched, once nothing is under way.
    pub(super) fn end(&self) -> Option<&Why> {
        self.why.as_ref().filter(|_| !self.is_busy())
    }

    /// Gives up what is under way, and leaves nothing of it.
    pub(super) async fn stop(&mut self) {
        for stop in self.running.values() {
            stop.cancel();
        }
        while self.is_busy() {
            self.step().await;
        }
    }

    /// Fetches all of it.
    pub(super) async fn fetch_all(&mut self) {
        loop {
            self.fill();
            if !self.is_busy() {
                return;
            }
            self.step().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_takes_room_too() {
        const MIB: u64 = 1 << 20;
        // Four segments stay free, or a twentieth of all.
        for (free, all, under_way, fits) in [
            (80, 100, 0, true),
            (79, 100, 0, false),
            (96, 100, 1, true),
            (95, 100, 1, false),
            (64 + 16 * 16, 1000, 15, true),
            (64 + 16 * 16 - 1, 1000, 15, false),
            (516, 10_000, 0, true),
            (515, 10_000, 0, false),
            (0, 0, 0, false),
        ] {
            let found = has_room(free * MIB, all * MIB, 16 * MIB, under_way);
            assert_eq!(found, fits, "{free} of {all} MiB, {under_way} under way");
        }
    }
}
