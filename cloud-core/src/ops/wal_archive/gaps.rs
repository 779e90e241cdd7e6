//! What was let go, until the archive says so.
//!
//! A segment that is let go is on record before anybody is told that it may be deleted:
//! in a file of the folder that calls share, written durably. Before the next file is
//! archived, by whichever call, what is on record goes to the store, and only when that
//! has it the record is cleared. So the archive says of a gap before anything that lies
//! behind it (G1), and a process that is killed anywhere leaves the segment waiting or
//! the gap on record (G2).
//!
//! The record is read, changed and replaced as a whole under a lock that is held for as
//! long as that takes and no longer: nobody waits for the store there. What was added
//! while the rest was being sent stays. A record that is damaged is no empty record:
//! whatever it says goes to the store as it is.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::task::spawn_blocking;
use tracing::{debug, warn};

use super::super::folder::sealed::{Opened, Sealing};
use super::super::folder::{Folder, FolderError, Lock, PREFIX, age};
use super::super::wal_object::join;
use super::super::{Ctx, OpError, OpErrorKind, chain};
use super::{Order, interrupted};
use crate::catalogue::gap::{self, Gap};
use crate::store::{PutMode, PutOptions, StoreErrorKind};

const MAGIC: &str = "barman-cloud WAL let go 1";
const RECORD: &str = "gaps";
const LOCK: &str = "gaps.lock";

/// Says when the store last failed while too much waited.
const FAILED: &str = "queue-failed";

/// How long such a failure is remembered.
const REMEMBERED: Duration = Duration::from_mins(1);

/// Most bytes of a record: gaps are runs, so even a long one is a few hundred.
const MAX_RECORD: u64 = 1 << 20;

/// Most bytes of a damaged record that are kept.
const MAX_RAW: usize = 16 << 10;

/// How long a call waits for others that change the record; they need milliseconds.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// After this time a temporary file is nobody's.
const FORGOTTEN: Duration = Duration::from_hours(1);

/// Why the record could not be changed or read.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecordError {
    #[error("cannot use the folder for what was let go: {0}")]
    Folder(#[from] FolderError),
    #[error("cannot read or write the record of WAL that was let go, `{}`: {source}", path.display())]
    Record { path: PathBuf, source: io::Error },
}

/// Where the record of one archive is.
#[derive(Debug, Clone)]
pub(super) struct Gaps {
    parent: PathBuf,
    source: String,
}

/// Something on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    Gap(Box<Gap>),
    /// What is left of a record that cannot be read.
    Unread {
        id: String,
        found: Timestamp,
        text: String,
    },
}

impl Entry {
    /// Name and content of the object.
    fn object(&self) -> (String, String) {
        match self {
            Self::Gap(gap) => (gap.name(), gap.to_text()),
            Self::Unread { id, found, text } => {
                let text = format!(
                    "WAL was let go before {found} by barman-cloud-wal-archive --queue-max and \
                     was not archived. Which segments these are cannot be told: their record was \
                     damaged. Take a new base backup. The record:\n{text}\n"
                );
                (gap::unknown_name(*found, id), text)
            }
        }
    }

    /// In words.
    fn what(&self) -> String {
        match self {
            Self::Gap(gap) => format!("{} to {}", gap.first, gap.last),
            Self::Unread { .. } => "which cannot be told any more".to_owned(),
        }
    }
}

/// A text that is no one else's.
pub(super) fn unique() -> String {
    format!("{:016x}", fastrand::u64(..))
}

pub(super) fn to_text(entries: &[Entry]) -> String {
    let mut text = Sealing::new(MAGIC);
    for entry in entries {
        match entry {
            Entry::Gap(gap) => text.line("gap", gap.to_text()),
            Entry::Unread {
                id,
                found,
                text: raw,
            } => {
                text.line("unread", id);
                text.line("found", found);
                text.line("text", raw);
            }
        }
    }
    text.seal()
}

pub(super) fn parse(text: &str) -> Option<Vec<Entry>> {
    let mut opened = Opened::open(MAGIC, text)?;
    let mut entries = Vec::new();
    while !opened.is_over() {
        if let Some(gap) = opened.take("gap") {
            entries.push(Entry::Gap(Box::new(Gap::parse(&gap)?)));
        } else {
            entries.push(Entry::Unread {
                id: opened.take("unread")?,
                found: opened.take("found")?.parse().ok()?,
                text: opened.take("text")?,
            });
        }
    }
    Some(entries)
}

/// What is on record, or what is left of a record that is damaged.
fn read(folder: &Folder) -> io::Result<Result<Vec<Entry>, Entry>> {
    let file = match folder.open_own(RECORD) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ok(Vec::new())),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(MAX_RECORD).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(parse(&text).ok_or_else(|| {
        let end = text.floor_char_boundary(MAX_RAW);
        Entry::Unread {
            id: unique(),
            found: Timestamp::now(),
            text: text[..end].to_owned(),
        }
    }))
}

fn write(folder: &Folder, entries: &[Entry]) -> io::Result<()> {
    if !entries.is_empty() {
        return folder.write_durably(RECORD, &to_text(entries));
    }
    // Should it come back after a crash, it is sent once more, to the same name.
    folder.unlink(RECORD);
    for name in folder.names() {
        if name.starts_with(PREFIX) && folder.is_old(&name, FORGOTTEN) {
            folder.unlink(&name);
        }
    }
    Ok(())
}

impl Gaps {
    /// Of the archive that `source` stands for.
    pub(super) fn new(parent: &Path, source: String) -> Self {
        Self {
            parent: parent.to_owned(),
            source,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        Folder::path(&self.parent, &self.source).join(name)
    }

    /// Whether anything may be on record: one look at a name.
    fn may_wait(&self) -> bool {
        use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
        match fs::symlink_metadata(self.path(RECORD)) {
            Ok(_) => true,
            // A folder into which this user may not look is not one of this user's.
            Err(error) => !matches!(error.kind(), NotFound | NotADirectory | PermissionDenied),
        }
    }

    fn folder(&self) -> Result<Folder, FolderError> {
        Folder::open(&self.parent, &self.source)
    }

    fn failed(&self, source: io::Error) -> RecordError {
        RecordError::Record {
            path: self.path(RECORD),
            source,
        }
    }

    /// Changes the record while nobody else does, and gives what it is then.
    ///
    /// It is written even if it stays the same: whoever wrote it may have been killed
    /// before it was on the disk.
    fn change(&self, change: impl FnOnce(&mut Vec<Entry>)) -> Result<Vec<Entry>, RecordError> {
        let folder = self.folder()?;
        let changed = || {
            let _lock = lock(&folder)?;
            let mut entries = read(&folder)?.unwrap_or_else(|left| vec![left]);
            change(&mut entries);
            write(&folder, &entries)?;
            Ok(entries)
        };
        changed().map_err(|error| self.failed(error))
    }

    /// Puts a segment on record that is about to be let go; durable on return.
    pub(super) fn add(&self, gap: &Gap) -> Result<(), RecordError> {
        let add = |entries: &mut Vec<Entry>| {
            for entry in entries.iter_mut() {
                if let Entry::Gap(run) = entry
                    && run.reaches(gap)
                {
                    run.take(gap);
                    return;
                }
            }
            entries.push(Entry::Gap(Box::new(gap.clone())));
        };
        self.change(add).map(drop)
    }

    /// What is on record. It is only read, as a whole as it was written, unless it is
    /// damaged: then what is left is written anew, so that it keeps its name.
    fn waiting(&self) -> Result<Vec<Entry>, RecordError> {
        let read = read(&self.folder()?).map_err(|error| self.failed(error))?;
        match read {
            Ok(entries) => Ok(entries),
            Err(_) => self.change(|_| ()),
        }
    }

    /// Clears from the record what the store has, but for what has changed since.
    fn forget(&self, sent: &[Entry]) -> Result<(), RecordError> {
        self.change(|entries| entries.retain(|entry| !sent.contains(entry)))
            .map(drop)
    }

    /// Sends to the store what is on record. Nothing is archived before that.
    ///
    /// # Errors
    ///
    /// As for a file that cannot be archived; and if the record cannot be read, which
    /// is not to be taken for an empty one.
    pub(super) async fn send(&self, ctx: &Ctx, order: &Order) -> Result<(), OpError> {
        if !self.may_wait() {
            return Ok(());
        }
        let here = self.clone();
        let entries = match join(spawn_blocking(move || here.waiting())).await {
            Ok(entries) => entries,
            // A folder that somebody else has prepared says nothing of this archive.
            Err(RecordError::Folder(error @ FolderError::Foreign { .. })) => {
                debug!("nothing is known of WAL that was let go: {error}");
                return Ok(());
            }
            Err(error) => return Err(record_error(&error)),
        };
        order.sending.ask();
        for entry in &entries {
            let (name, text) = entry.object();
            let key = order.layout.gap(&name);
            let options = PutOptions {
                mode: PutMode::CreateOnly,
                tags: order.request.tags.clone(),
                ..PutOptions::default()
            };
            let body = Bytes::from(text);
            let put = tokio::select! {
                biased;
                () = ctx.cancel.cancelled() => return Err(interrupted()),
                put = order.store.put(&key, body.into(), &options) => put,
            };
            match put {
                Ok(_) => warn!(
                    "the archive says now, in `{key}`, that WAL is missing that was let go: {}",
                    entry.what()
                ),
                // The name is nobody else's: a call that sent it was killed, or is faster.
                Err(error) if error.kind == StoreErrorKind::AlreadyExists => {}
                Err(error) => return Err(OpError::of_store(&error)),
            }
        }
        order.sending.rest();
        let here = self.clone();
        let forgotten = join(spawn_blocking(move || here.forget(&entries))).await;
        if let Err(error) = forgotten {
            // Sent again the next time, to the same names.
            warn!("{}", chain(&error));
        }
        Ok(())
    }

    /// Whether the store failed a moment ago, while too much waited.
    pub(super) fn has_failed(&self) -> bool {
        let found = fs::symlink_metadata(self.path(FAILED)).and_then(|found| found.modified());
        let age = found.ok().and_then(age);
        age.is_some_and(|age| age < REMEMBERED)
    }

    /// Remembers that the store failed while too much waited. Without, it is merely
    /// asked sooner.
    pub(super) fn remember_failure(&self) {
        let noted = self.folder().map(|folder| folder.write_text(FAILED, ""));
        if let Ok(Err(error)) = noted {
            debug!("it is not remembered that the store failed: {error}");
        }
    }

    /// Forgets that, since the store works.
    pub(super) fn forget_failure(&self) {
        let _ = fs::remove_file(self.path(FAILED));
    }
}

/// The lock of the record; others hold it for moments only.
fn lock(folder: &Folder) -> io::Result<Lock> {
    let began = Instant::now();
    loop {
        if let Some(lock) = Lock::try_take(folder, LOCK)? {
            return Ok(lock);
        }
        if began.elapsed() >= LOCK_WAIT {
            return Err(io::Error::other("another call has had it for too long"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(super) fn record_error(error: &RecordError) -> OpError {
    OpError::new(OpErrorKind::General, chain(error)).with_hint(
        "no WAL is archived before it is known what was let go; if the record is lost, take a new \
         base backup and remove the file",
    )
}

#[cfg(test)]
mod tests;
