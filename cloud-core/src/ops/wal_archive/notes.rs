//! Notes of what is in the archive, for the calls that ask for it next.
//!
//! A note is written after the store acknowledged a file (W1), and says all that
//! tells this file, this archive and these options from others. It answers for a
//! file only if the very same text would be written about it now: whatever is
//! different, damaged or cannot be read makes it none, and it is removed. A note is
//! good for an hour, and not beyond a restart of the machine. So none ever answers for
//! a file that is not in the archive (W4).
//!
//! The folder holds notes and locks, never WAL. Who waits for a file that another
//! call is sending finds it locked; a lock ends with its process.

use std::collections::HashSet;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::debug;

use super::super::folder::sealed::{Opened, Sealing};
use super::super::folder::{Fingerprint, Folder, FolderError, Lock, PREFIX};
use super::local::LocalFile;
use super::ready::READY;
use crate::key::Key;
use crate::wal::page::{LONG_HEADER_LEN, SegmentIdentity};
use crate::wal::{WalKind, WalName};

const MAGIC: &str = "barman-cloud archived WAL 1";
const NOTE: &str = ".note";
const LOCK: &str = ".lock";

/// An archive may be emptied by its owner; after this time nobody remembers.
const MAX_AGE: Duration = Duration::from_hours(1);

/// With so many notes nothing more is archived ahead: then nobody asks for what was.
pub(super) const MOST: usize = 1000;

/// Bytes at either end of a file of which a checksum is kept: the largest page of
/// WAL that PostgreSQL can be built with.
const EDGE: u64 = 64 << 10;

/// The notes of one archive.
#[derive(Debug, Clone)]
pub(super) struct Notes {
    folder: Folder,
    place: String,
}

/// What a note says of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    name: String,
    /// Archive and options, in words of nobody's.
    place: String,
    key: String,
    file: Fingerprint,
    /// The cluster that the first page names.
    system: Option<u64>,
    /// CRC-32C of the beginning and of the end, page headers included; of files that
    /// are no WAL, history files, they are all there is.
    first: u32,
    last: u32,
}

impl Note {
    fn to_text(&self, written: u64) -> String {
        let mut text = Sealing::new(MAGIC);
        text.line("written", written);
        text.line("name", &self.name);
        text.line("place", &self.place);
        text.line("key", &self.key);
        self.file.write(&mut text);
        let system = self.system.map(|system| system.to_string());
        text.line("system", system.as_deref().unwrap_or("none"));
        text.line("first", self.first);
        text.line("last", self.last);
        text.seal()
    }

    /// Whether `text` says exactly this, and said it less than an hour before `now`,
    /// in seconds since 1970.
    fn is_in(&self, text: &str, now: u64) -> bool {
        let written = Opened::open(MAGIC, text).and_then(|mut text| text.take("written"));
        let Some(written) = written.and_then(|written| written.parse::<u64>().ok()) else {
            return false;
        };
        let age = now.checked_sub(written);
        age.is_some_and(|age| age < MAX_AGE.as_secs())
            && self.file.is_telling()
            && self.to_text(written) == text
    }
}

impl Notes {
    /// Opens the folder of `source` below `parent`. Notes count only if they were
    /// written for the same `place`.
    pub(super) fn open(parent: &Path, source: &str, place: String) -> Result<Self, FolderError> {
        Ok(Self {
            folder: Folder::open(parent, source)?,
            place,
        })
    }

    /// What a note says if it is about this file as it is now; `None` for a file that
    /// no note can tell from another one.
    pub(super) fn note(&self, local: &LocalFile, name: &WalName, key: &Key) -> Option<Note> {
        // Another one of the same name may come and reach further.
        if name.kind() == WalKind::Partial {
            return None;
        }
        self.describe(local, name, key)
            .inspect_err(|error| debug!("nothing is noted of WAL file {name}: {error}"))
            .ok()
    }

    fn describe(&self, local: &LocalFile, name: &WalName, key: &Key) -> io::Result<Note> {
        let file = local.file();
        let found = Fingerprint::of(file)?;
        let mut edge = vec![0; usize::try_from(EDGE.min(found.size())).unwrap_or_default()];
        file.read_exact_at(&mut edge, 0)?;
        let identity = SegmentIdentity::of(&edge[..edge.len().min(LONG_HEADER_LEN)]);
        let first = crc32c::crc32c(&edge);
        file.read_exact_at(&mut edge, found.size().saturating_sub(EDGE))?;
        Ok(Note {
            name: name.to_string(),
            place: self.place.clone(),
            key: key.to_string(),
            file: found,
            system: identity.map(|identity| identity.system_identifier),
            first,
            last: crc32c::crc32c(&edge),
        })
    }

    /// Whether a note that counts says that this file is archived. One that does not
    /// count is removed.
    pub(super) fn vouch_for(&self, note: &Note) -> bool {
        let file = format!("{}{NOTE}", note.name);
        let Some(text) = self.folder.read_text(&file) else {
            return false;
        };
        let vouches = seconds().is_some_and(|now| note.is_in(&text, now));
        if !vouches {
            debug!(
                "the note on WAL file {} does not fit and is removed",
                note.name
            );
            self.folder.unlink(&file);
        }
        vouches
    }

    /// Keeps the note. It may fail without harm: the next call then asks the store.
    pub(super) fn keep(&self, note: &Note) {
        let Some(now) = seconds() else { return };
        let file = format!("{}{NOTE}", note.name);
        if let Err(error) = self.folder.write_text(&file, &note.to_text(now)) {
            debug!("the note on WAL file {} is not kept: {error}", note.name);
        }
    }

    /// The lock of a file, unless another call has it.
    pub(super) fn try_lock(&self, name: &WalName) -> io::Result<Option<Lock>> {
        Lock::try_take(&self.folder, &format!("{name}{LOCK}"))
    }

    /// The lock of a file, after whoever has it: blocks the thread.
    pub(super) fn lock(&self, name: &WalName) -> io::Result<Lock> {
        Lock::take(&self.folder, &format!("{name}{LOCK}"))
    }

    /// Removes what nobody will ask for: notes on files that do not wait in `status`
    /// any more, and whatever is old. Gives the names that have a note still.
    pub(super) fn sweep(&self, status: &Path) -> HashSet<String> {
        let mut noted = HashSet::new();
        for file in self.folder.names() {
            if let Some(name) = file.strip_suffix(NOTE) {
                let waits = status.join(format!("{name}{READY}")).exists();
                if waits && !self.folder.is_old(&file, MAX_AGE) {
                    noted.insert(name.to_owned());
                } else {
                    self.folder.unlink(&file);
                }
            } else if self.folder.is_old(&file, MAX_AGE) {
                if file.ends_with(LOCK) {
                    // Left by a call that was killed, or held for long.
                    drop(Lock::try_take(&self.folder, &file));
                } else if file.starts_with(PREFIX) {
                    self.folder.unlink(&file);
                }
            }
        }
        noted
    }
}

/// Seconds since 1970; `None` before.
fn seconds() -> Option<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    Some(now.ok()?.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn sample() -> Note {
        Note {
            name: "000000010000000000000006".into(),
            place: "0123".into(),
            key: "p/main/wals/0000000100000000/000000010000000000000006.gz".into(),
            file: Fingerprint::sample(),
            system: Some(5),
            first: 6,
            last: 7,
        }
    }

    #[test]
    fn a_note_counts_for_the_very_same_file_archive_and_options_only() {
        type Change = fn(&mut Note);
        let changes: [Change; 7] = [
            |note| note.name = "000000010000000000000007".into(),
            |note| note.place.push('4'),
            |note| note.key.push_str(".gz"),
            |note| note.system = Some(6),
            |note| note.system = None,
            |note| note.first ^= 1,
            |note| note.last ^= 1,
        ];
        let mut others: Vec<Note> = Fingerprint::others()
            .map(|file| Note { file, ..sample() })
            .collect();
        for change in changes {
            others.push(sample());
            change(others.last_mut().expect("was pushed"));
        }
        let text = sample().to_text(NOW);
        assert!(sample().is_in(&text, NOW));
        for other in others {
            assert!(!other.is_in(&text, NOW), "{other:?}");
        }
    }

    #[test]
    fn a_note_that_a_restart_cannot_end_counts_as_none() {
        let note = Note {
            file: Fingerprint::of_unknown_boot(),
            ..sample()
        };
        assert!(!note.is_in(&note.to_text(NOW), NOW));
    }

    #[test]
    fn a_note_counts_for_an_hour_and_not_before_it_was_written() {
        let text = sample().to_text(NOW);
        for (now, counts) in [
            (NOW, true),
            (NOW + 3599, true),
            (NOW + 3600, false),
            (NOW - 1, false),
            (0, false),
            (u64::MAX, false),
        ] {
            assert_eq!(sample().is_in(&text, now), counts, "{now}");
        }
    }

    #[test]
    fn a_note_that_was_cut_or_changed_anywhere_counts_as_none() {
        let text = sample().to_text(NOW);
        for at in 0..text.len() {
            assert!(!sample().is_in(&text[..at], NOW), "cut at {at}");
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let changed = String::from_utf8(bytes).expect("still ASCII");
            assert!(!sample().is_in(&changed, NOW), "changed at {at}");
        }
        assert!(!sample().is_in(&format!("{text}\n"), NOW));
        assert!(!sample().is_in("", NOW));
    }
}
