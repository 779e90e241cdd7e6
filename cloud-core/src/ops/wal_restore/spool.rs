//! The folder for files fetched ahead (docs/decisions.md 16).
//!
//! Each server has one folder per archive. What lies in it counts only if a [`Record`]
//! vouches for it, and only for the run of the server that it was fetched for.
//!
//! Several processes may use a folder at the same time. A file gets its name when it
//! is whole, and its record after it; a pair that does not fit counts as none. A segment
//! is locked while it is fetched, so that it is fetched once. A folder that cannot be
//! used is a reason to go without, never to fail.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, renameat};
use rustix::io::Errno;
use tracing::debug;

use super::super::folder::{
    Fingerprint, Folder, FolderError, Lock, PREFIX, Place, Temporary, age, source_of,
};
use super::WalRestoreRequest;
use super::record::Record;
use super::server::Server;
use super::wanted::{Ended, Wanted, Why};
use crate::codec::{self, Codec};
use crate::wal::fit::{Fit, judge};
use crate::wal::page::LONG_HEADER_LEN;
use crate::wal::{WalKind, WalName};

const RECORD: &str = ".record";
const LOCK: &str = ".lock";

/// Holds the name of the codec that the last object found was compressed with.
const CODEC: &str = "codec";

/// What calls tell the helper.
pub(super) const WANTED: &str = "wanted";

/// What the helper tells calls when it ends.
const ENDED: &str = "ended";

/// Held by the helper as long as it lives.
const HELPER: &str = "helper";

/// A file fetched ahead is wanted within seconds. After an hour it was left by
/// an earlier recovery, and may have been replaced in the archive since.
const MAX_AGE: Duration = Duration::from_hours(1);

/// The folder, open and checked.
#[derive(Debug)]
pub(super) struct Spool {
    folder: Folder,
    place: String,
    server: Option<Server>,
}

impl Spool {
    /// Opens the folder of the archive and the server of `request`; it is created if it
    /// is not there.
    pub(super) fn open(request: &WalRestoreRequest) -> Result<Self, FolderError> {
        let server = Server::of(&request.destination);
        let identity = server.as_ref().map(Server::identity).unwrap_or_default();
        let source = source_of(&[&request.url, &request.server, &identity]);
        Ok(Self {
            folder: Folder::open(&request.spool_dir, &source)?,
            place: place(&request.store, server.as_ref()),
            server,
        })
    }

    /// The server that the folder is for, if the destination says which.
    pub(super) fn server(&self) -> Option<&Server> {
        self.server.as_ref()
    }

    /// Where a file for the spool is written.
    pub(super) fn temporary_place(&self) -> Place {
        self.folder.place()
    }

    /// What records must say they come from.
    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// Whether folder, server and its run are what they were when this was opened, for
    /// the `store` of then.
    pub(super) fn is_in_place(&self, store: &str) -> bool {
        self.folder.is_in_place()
            && self.server.as_ref().is_none_or(Server::is_in_place)
            && place(store, self.server.as_ref()) == self.place
    }

    /// The open directory, to be watched.
    pub(super) fn directory(&self) -> std::os::fd::BorrowedFd<'_> {
        self.folder.fd()
    }

    /// The codec that [`remember_codec`](Self::remember_codec) was last told.
    pub(super) fn last_codec(&self) -> Option<&'static dyn Codec> {
        codec::by_name(&self.folder.read_text(CODEC)?)
    }

    /// Keeps the codec for the next call.
    pub(super) fn remember_codec(&self, codec: &dyn Codec) {
        let name = codec.info().name;
        if self.folder.read_text(CODEC).as_deref() != Some(name) {
            self.keep(CODEC, name);
        }
    }

    /// What was asked for last in this run of the server.
    pub(super) fn wanted(&self) -> Option<Wanted> {
        let wanted = Wanted::parse(&self.folder.read_text(WANTED)?)?;
        (wanted.place == self.place).then_some(wanted)
    }

    /// Tells the helper what was asked for.
    pub(super) fn want(&self, wanted: &Wanted) {
        self.keep(WANTED, &wanted.to_text());
    }

    /// How the last helper ended, and how long ago.
    pub(super) fn ended(&self) -> Option<(Ended, Duration)> {
        let ended = Ended::parse(&self.folder.read_text(ENDED)?)?;
        Some((ended, age(self.folder.written(ENDED)?)?))
    }

    /// Leaves word of how the helper ended.
    pub(super) fn end(&self, why: Why) {
        let place = self.place.clone();
        self.keep(ENDED, &Ended { place, why }.to_text());
    }

    /// None of these texts is worth a failure.
    fn keep(&self, name: &str, text: &str) {
        if let Err(error) = self.folder.write_text(name, text) {
            debug!("`{name}` is not kept in the spool: {error}");
        }
    }

    /// The lock of the one helper, unless there is one.
    pub(super) fn try_lock_helper(&self) -> io::Result<Option<Lock>> {
        Lock::try_take(&self.folder, &format!("{HELPER}{LOCK}"))
    }

    /// The same, taken over from whoever started this process.
    pub(super) fn adopt_helper(&self, file: std::os::fd::OwnedFd) -> Option<Lock> {
        Lock::adopt(&self.folder, &format!("{HELPER}{LOCK}"), file)
    }

    /// The lock of a segment, unless somebody is fetching it.
    pub(super) fn try_lock(&self, name: &WalName) -> io::Result<Option<Lock>> {
        Lock::try_take(&self.folder, &format!("{name}{LOCK}"))
    }

    /// The lock of a segment, after whoever fetches it: blocks the thread.
    pub(super) fn lock(&self, name: &WalName) -> io::Result<Lock> {
        Lock::take(&self.folder, &format!("{name}{LOCK}"))
    }

    /// Whether a segment is there that nobody has touched since it was fetched, for
    /// this run of the server.
    pub(super) fn holds(&self, name: &WalName) -> bool {
        self.record(name).is_some_and(|record| {
            let file = self.folder.open_own(name.as_str());
            file.and_then(|file| Fingerprint::of(&file))
                .is_ok_and(|found| found.proves(&record.file))
        })
    }

    /// The record of a segment, of this run of the server.
    fn record(&self, name: &WalName) -> Option<Record> {
        let text = self.folder.read_text(&format!("{name}{RECORD}"))?;
        Record::parse(&text)
            .filter(|record| record.name == name.as_str() && record.place == self.place)
    }

    /// Gives a file its name in the spool, and then its record, which `describe` makes
    /// of the file under that name.
    pub(super) fn publish(
        &self,
        file: Temporary,
        name: &WalName,
        describe: impl FnOnce(Fingerprint) -> Record,
    ) -> io::Result<()> {
        let open = file.file().try_clone()?;
        file.persist(&self.temporary_place(), Path::new(name.as_str()))?;
        let record = describe(Fingerprint::of(&open)?);
        self.folder
            .write_text(&format!("{name}{RECORD}"), &record.to_text())
    }

    /// The file of that name, if it is there and fits its record. One that does not
    /// fit is dropped.
    pub(super) fn find(&self, name: &WalName) -> Option<Spooled<'_>> {
        let path = format!("{name}{RECORD}");
        // The ordinary case of a segment that was not fetched ahead.
        self.folder.written(&path)?;
        let cluster = self.server.as_ref().and_then(Server::cluster);
        let ours = cluster.map(|cluster| cluster.system_identifier);
        let fitting = self
            .record(name)
            .filter(|record| ours.is_none_or(|ours| ours == record.system_identifier))
            .and_then(|record| self.open_fitting(name, &record));
        if fitting.is_none() {
            debug!("spooled WAL file {name} does not fit its record and is dropped");
            self.remove(name);
        }
        let file = fitting?;
        Some(Spooled {
            spool: self,
            name: name.clone(),
            file,
        })
    }

    /// The file, read from its beginning, if every byte is what the record says: that
    /// is so if nobody has touched it, or else if the checksum says so.
    fn open_fitting(&self, name: &WalName, record: &Record) -> Option<File> {
        let file = self.folder.open_own(name.as_str()).ok()?;
        let metadata = file.metadata().ok()?;
        let young = age(metadata.modified().ok()?).is_some_and(|age| age < MAX_AGE);
        let mut head = [0; LONG_HEADER_LEN];
        file.read_exact_at(&mut head, 0).ok()?;
        let Fit::Segment(identity) = judge(name, metadata.len(), &head) else {
            return None;
        };
        let described = metadata.len() == record.file.size()
            && identity.system_identifier == record.system_identifier
            && identity.timeline.0 == record.timeline;
        let untouched = || Fingerprint::of(&file).is_ok_and(|found| found.proves(&record.file));
        let whole = || checksum(&file).is_ok_and(|found| found == record.crc32c);
        (young && described && (untouched() || whole())).then_some(file)
    }

    /// Drops what a recovery that asks for `wanted` will not ask for any more:
    /// segments before it, on whatever timeline, and whatever is old.
    pub(super) fn trim(&self, wanted: &WalName) {
        self.sweep(|segment| !is_behind(segment, wanted), MAX_AGE);
    }

    /// Drops every segment that is not one of `names`.
    pub(super) fn keep_only(&self, names: &HashSet<WalName>) {
        self.sweep(|segment| names.contains(segment), MAX_AGE);
    }

    /// Drops what processes that were killed have left. Only for the helper: temporary
    /// files are its own then, or of a call that was killed or does without.
    pub(super) fn clean(&self) {
        self.sweep(|_| true, Duration::ZERO);
        for folder in self.folder.siblings() {
            let abandoned = Self {
                folder,
                place: String::new(),
                server: None,
            };
            abandoned.remove_if_abandoned();
        }
    }

    /// Removes all that lies in a folder that no call has used for an hour.
    fn remove_if_abandoned(&self) {
        let is_old = |name: &str| self.folder.is_old(name, MAX_AGE);
        let texts = [WANTED, ENDED, CODEC];
        // Not the folder of another tool, and not one in use.
        if !is_old(CODEC) || [WANTED, ENDED].iter().any(|name| self.is_young(name)) {
            return;
        }
        let Ok(Some(_lock)) = self.try_lock_helper() else {
            return;
        };
        self.sweep(|_| true, MAX_AGE);
        let (helper, left) = (format!("{HELPER}{LOCK}"), self.folder.names());
        let known = |name: &String| *name == helper || texts.contains(&name.as_str());
        if left.iter().all(known) {
            for name in left {
                self.folder.unlink(&name);
            }
            self.folder.remove_if_empty();
        }
    }

    fn is_young(&self, name: &str) -> bool {
        self.folder.written(name).is_some() && !self.folder.is_old(name, MAX_AGE)
    }

    fn sweep(&self, keep: impl Fn(&WalName) -> bool, temporary_age: Duration) {
        for name in self.folder.names() {
            let name = name.as_str();
            if name.starts_with(PREFIX) {
                if self.folder.is_old(name, temporary_age) {
                    self.folder.unlink(name);
                }
            } else if let Some(segment) = name.strip_suffix(LOCK) {
                // Left by a process that was killed.
                if segment.parse::<WalName>().is_ok() && self.folder.is_old(name, MAX_AGE) {
                    drop(Lock::try_take(&self.folder, name));
                }
            } else {
                let base = name.strip_suffix(RECORD).unwrap_or(name);
                let Ok(segment) = base.parse::<WalName>() else {
                    continue;
                };
                if !keep(&segment) || self.folder.is_old(name, MAX_AGE) {
                    self.folder.unlink(name);
                }
            }
        }
    }

    /// Bytes that can still be written, and of how many in all.
    pub(super) fn room(&self) -> io::Result<(u64, u64)> {
        self.folder.room()
    }

    /// When somebody wrote last to a file that is not whole yet.
    pub(super) fn last_progress(&self) -> Option<SystemTime> {
        let names = self.folder.names().into_iter();
        let unfinished = names.filter(|name| name.starts_with(PREFIX));
        unfinished
            .filter_map(|name| self.folder.written(&name))
            .max()
    }

    fn remove(&self, name: &WalName) {
        // The record first: without one the file counts for nothing.
        self.folder.unlink(&format!("{name}{RECORD}"));
        self.folder.unlink(name.as_str());
    }
}

/// Archive and run of the server, as a text that no other has.
fn place(store: &str, server: Option<&Server>) -> String {
    let run = server.and_then(Server::run);
    let run = run.map(|run| run.identity()).unwrap_or_default();
    source_of(&[store, &run])
}

/// A file in the spool that may be delivered.
#[derive(Debug)]
pub(super) struct Spooled<'s> {
    spool: &'s Spool,
    name: WalName,
    file: File,
}

impl Spooled<'_> {
    /// Its size in bytes.
    pub(super) fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Moves it to `destination`, and says whether it did: another call may have
    /// been faster.
    pub(super) fn deliver(self, destination: &Path) -> io::Result<bool> {
        let folder = &self.spool.folder;
        match renameat(folder.fd(), self.name.as_str(), CWD, destination) {
            Ok(()) => {}
            Err(Errno::XDEV) => {
                let copy = Temporary::copy(Place::Cwd, destination, &self.file)?;
                copy.persist(&Place::Cwd, destination)?;
            }
            // Dropped or taken by another call since.
            Err(Errno::NOENT) if folder.open_own(self.name.as_str()).is_err() => {
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        }
        self.spool.remove(&self.name);
        Ok(true)
    }
}

/// Whether a segment ends before `wanted` begins. The timeline does not matter:
/// a new one goes on where the old one was left.
fn is_behind(segment: &WalName, wanted: &WalName) -> bool {
    let position = |name: &WalName| name.as_str().get(8..24).map(str::to_ascii_uppercase);
    segment.kind() != WalKind::Segment || position(segment) < position(wanted)
}

fn checksum(file: &File) -> io::Result<u32> {
    let mut buffer = vec![0; 256 << 10];
    let (mut checksum, mut offset) = (0, 0);
    loop {
        let count = match file.read_at(&mut buffer, offset) {
            Ok(0) => return Ok(checksum),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        checksum = crc32c::crc32c_append(checksum, &buffer[..count]);
        offset += count as u64;
    }
}
