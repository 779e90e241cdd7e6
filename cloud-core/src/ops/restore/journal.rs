//! The journal of a restore: a file in each target that says whose files these are, and in
//! PGDATA's which archives are whole and on disk. So a restore that was killed can go on.
//!
//! ```text
//! barman-cloud restore 1
//! store "s3://bucket"          ┐
//! path "pg"                    │
//! server "main"                │ what is restored
//! backup 20261122T100000       │
//! system 7000000000000000001   │
//! source data                  ┘
//! salt 1f0e…                   one for all targets of the restore
//! made 2f64617461              directories above that were made for it
//! begin
//! archive data.tar.gz 12345 22…22    name, size and version of the object
//! f … d … o … c …              what the target remembers of it (`pgdata`)
//! h … b …                      members that are written at the end
//! end 5ac1d2e3                 CRC-32C of the lines since `archive`
//! ```
//!
//! An archive is written down when its files were synced. What is behind the last whole record
//! is cut off. The file is taken away when the restore is complete.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::plan::{Plan, Source, general};
use crate::catalogue::layout::Archive;
use crate::ops::reading::{Before, Unpacked};
use crate::ops::{OpError, OpErrorKind};
use crate::pgdata::{
    Durability, JOURNAL_NAME, Target, held_of_words, held_to_words, of_hex, plain_name, sync_all,
    to_hex,
};

/// The first line.
const FORMAT: &str = "barman-cloud restore 1\n";

/// Longest header, in bytes.
const MAX_HEADER: u64 = 1 << 20;

/// What the header of a journal says, beside what is restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    salt: u64,
    made: Vec<PathBuf>,
    /// Where the records begin, in bytes.
    length: u64,
}

impl Header {
    /// Whether it is of the same restore as PGDATA's.
    pub(super) fn is_of(&self, pgdata: Option<&Self>) -> bool {
        pgdata.is_some_and(|pgdata| pgdata.salt == self.salt)
    }
}

/// The lines that say what is restored.
fn identity(plan: &Plan, source: &Source) -> String {
    let system = plan.info.systemid.as_deref().unwrap_or("-");
    format!(
        "{FORMAT}store {:?}\npath {:?}\nserver {:?}\nbackup {}\nsystem {system:?}\nsource {}\n",
        plan.store, plan.path, plan.server, plan.id, source.base
    )
}

/// Where the journal of a target is.
fn place(target: &Path) -> PathBuf {
    target.join(std::ffi::OsStr::from_bytes(JOURNAL_NAME))
}

/// Whether there is a journal, of whichever restore.
pub(super) fn is_there(target: &Path) -> bool {
    place(target).symlink_metadata().is_ok()
}

/// The journal of this restore in the directory of one of its sources; `None` if there is
/// none, or another's.
pub(super) fn look(plan: &Plan, source: &Source) -> Option<Header> {
    let file = open(&place(&source.target)).ok()?;
    header(BufReader::new(file), &identity(plan, source))
}

/// The header of a journal that says that this is restored.
pub(super) fn header(journal: impl BufRead, identity: &str) -> Option<Header> {
    let mut text = String::new();
    let mut lines = journal.take(MAX_HEADER);
    while !text.ends_with("\nbegin\n") {
        if lines.read_line(&mut text).ok()? == 0 {
            return None;
        }
    }
    let rest = text.strip_prefix(identity)?;
    let mut rest = rest.lines();
    let salt = rest.next()?.strip_prefix("salt ")?;
    let made = rest
        .filter_map(|line| of_hex(line.strip_prefix("made ")?))
        .map(|path| PathBuf::from(std::ffi::OsString::from_vec(path)));
    Some(Header {
        salt: u64::from_str_radix(salt, 16).ok()?,
        made: made.collect(),
        length: text.len() as u64,
    })
}

/// Opens a journal that this user has made. It names paths whose owner is changed and directories
/// that get another mode, so whoever else may write to the target must not be able to leave one.
fn open(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).unwrap_or(0);
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(flags);
    let file = options.open(path)?;
    let found = file.metadata()?;
    if found.is_file() && found.uid() == rustix::process::geteuid().as_raw() {
        Ok(file)
    } else {
        Err(io::Error::other("it is not a file of this user"))
    }
}

/// The journal of a restore under way.
#[derive(Debug)]
pub(super) struct Journal {
    kept: Mutex<Kept>,
    targets: Vec<Arc<Target>>,
    durability: Durability,
}

/// The file, to which one archive is added at a time.
#[derive(Debug)]
struct Kept {
    file: File,
    /// The kernel tells once that the disk refused something, to whoever syncs first, and what it
    /// refused may be of any archive: from then on none is known to be on disk.
    sync_failed: bool,
}

/// What an earlier run had brought to its end: archives, by their number, and what is left of each.
pub(super) type Done = Vec<(u32, Unpacked)>;

impl Journal {
    /// Begins the journals of targets that have none, and takes up what those that are there
    /// say. `going_on`: as [`look`] found them, by source.
    pub(super) fn begin(
        plan: &Plan,
        targets: &[Arc<Target>],
        going_on: &[Option<Header>],
        durability: Durability,
    ) -> Result<(Self, Done), OpError> {
        let first = going_on.first().cloned().flatten();
        let salt = first
            .as_ref()
            .map_or_else(|| fastrand::u64(..), |header| header.salt);
        // What an emptied directory had is gone: its archives are not done.
        let mut kept = HashSet::new();
        for ((source, target), header) in plan.sources.iter().zip(targets).zip(going_on) {
            target.names().set_salt(salt);
            match header {
                Some(header) if header.salt == salt => {
                    target.add_made(&header.made);
                    kept.insert(source.base);
                }
                _ => write_header(plan, source, target, salt, durability)?,
            }
        }
        let path = place(targets[0].path());
        let failed = |error: io::Error| cannot(&path, &error);
        let mut file = open(&path).map_err(failed)?;
        let mut done = Done::new();
        if let Some(header) = first {
            let records = read_records(&mut file, header.length).map_err(failed)?;
            let end = records.last().map_or(header.length, |record| record.end);
            file.set_len(end).map_err(failed)?;
            for (number, (source, archive, target)) in (0_u32..).zip(plan.archives(targets)) {
                let title = title(plan, archive);
                let record = records.iter().rfind(|record| record.title == title);
                if let Some(record) = record.filter(|_| kept.contains(&source.base)) {
                    let unpacked = recall(&mut file, record, number, target).map_err(failed)?;
                    done.push((number, unpacked));
                }
            }
        }
        file.seek(SeekFrom::End(0)).map_err(failed)?;
        let journal = Self {
            kept: Mutex::new(Kept {
                file,
                sync_failed: false,
            }),
            targets: targets.to_vec(),
            durability,
        };
        Ok((journal, done))
    }

    /// Syncs what was restored so far and writes down that this archive is whole. Where nothing is
    /// synced, nothing is known to be on disk, and nothing is written down.
    pub(super) fn note(
        &self,
        plan: &Plan,
        archive: &Archive,
        number: u32,
        target: &Target,
        unpacked: &Unpacked,
    ) -> Result<(), OpError> {
        if self.durability == Durability::Unsynced {
            return Ok(());
        }
        let sync = || sync_all(&[target]).map_err(|error| general(&error));
        self.when_synced(sync, |file| {
            let written = write_record(file, &title(plan, archive), number, target, unpacked);
            written.map_err(|error| cannot(&place(self.targets[0].path()), &error))
        })
    }

    /// Syncs, then writes, with nobody in between; writes nothing after any failure. Who met that
    /// one tells it.
    fn when_synced(
        &self,
        sync: impl FnOnce() -> Result<(), OpError>,
        write: impl FnOnce(&mut File) -> Result<(), OpError>,
    ) -> Result<(), OpError> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.sync_failed {
            return Ok(());
        }
        let done = sync().and_then(|()| write(&mut kept.file));
        kept.sync_failed = done.is_err();
        done
    }

    /// Forgets all archives: what was restored is not what it should be, and is to be read again.
    pub(super) fn forget(&self, plan: &Plan) {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let file = &kept.file;
        if let Some(header) = plan.sources.first().and_then(|source| look(plan, source)) {
            // Whoever goes on without it gets the same answer once more.
            let _ = file.set_len(header.length).and_then(|()| file.sync_all());
        }
    }

    /// Takes the journals away.
    pub(super) fn end(&self) -> Result<(), OpError> {
        remove(&self.targets)
    }
}

/// Takes the journals away. PGDATA's goes last: as long as it is there, the others are known.
pub(super) fn remove(targets: &[Arc<Target>]) -> Result<(), OpError> {
    for target in targets.iter().rev() {
        target
            .remove_at_top(JOURNAL_NAME)
            .map_err(|error| general(&error))?;
    }
    Ok(())
}

fn cannot(path: &Path, error: &io::Error) -> OpError {
    let text = format!("could not keep the journal `{}`: {error}", path.display());
    OpError::new(OpErrorKind::General, text)
}

fn write_header(
    plan: &Plan,
    source: &Source,
    target: &Target,
    salt: u64,
    durability: Durability,
) -> Result<(), OpError> {
    let mut text = identity(plan, source);
    text.push_str(&format!("salt {salt:x}\n"));
    for path in target.made() {
        text.push_str(&format!("made {}\n", to_hex(path.as_os_str().as_bytes())));
    }
    text.push_str("begin\n");
    let path = place(target.path());
    let write = || {
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        file.write_all(text.as_bytes())?;
        match durability {
            Durability::Synced => file.sync_all(),
            Durability::Unsynced => Ok(()),
        }
    };
    write().map_err(|error| cannot(&path, &error))
}

/// The first line of the record of an archive.
fn title(plan: &Plan, archive: &Archive) -> String {
    let version = plan.versions.get(&archive.key);
    let version = version.map_or(&[][..], |version| version.0.as_bytes());
    let (name, size) = (archive.key.base_name(), archive.size);
    format!(
        "archive {} {size} {}",
        to_hex(name.as_bytes()),
        to_hex(version)
    )
}

/// Sums up what is written.
struct Sealed<W> {
    out: W,
    crc: u32,
}

impl<W: Write> Write for Sealed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.crc = crc32c::crc32c_append(self.crc, &bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn write_record(
    file: &mut File,
    title: &str,
    number: u32,
    target: &Target,
    unpacked: &Unpacked,
) -> io::Result<()> {
    let mut out = Sealed {
        out: BufWriter::new(&mut *file),
        crc: 0,
    };
    writeln!(out, "{title}")?;
    target.describe(number, &mut out)?;
    for (member, bytes) in unpacked.held.values() {
        writeln!(out, "h {}", held_to_words(member, bytes))?;
    }
    let (before_label, last) = (unpacked.before_label, unpacked.last);
    writeln!(
        out,
        "b {} {}",
        Before::word(before_label),
        Before::word(last)
    )?;
    let crc = out.crc;
    writeln!(out, "end {crc:08x}")?;
    out.flush()?;
    drop(out);
    file.sync_all()
}

/// A whole record: its first line, and where the others are.
pub(super) struct Record {
    title: String,
    pub(super) body: u64,
    pub(super) end: u64,
}

/// The whole records behind the header, up to the first that is not.
pub(super) fn read_records(file: &mut (impl Read + Seek), from: u64) -> io::Result<Vec<Record>> {
    file.seek(SeekFrom::Start(from))?;
    let mut lines = BufReader::new(file);
    let (mut records, mut at) = (Vec::new(), from);
    let mut open: Option<(Record, u32)> = None;
    let mut line = Vec::new();
    loop {
        line.clear();
        let count = lines.read_until(b'\n', &mut line)?;
        let Some(text) = line.strip_suffix(b"\n") else {
            return Ok(records);
        };
        let Ok(text) = std::str::from_utf8(text) else {
            return Ok(records);
        };
        at += count as u64;
        match (text.strip_prefix("end "), open.as_mut()) {
            (None, None) if text.starts_with("archive ") => {
                let (title, body, end) = (text.to_owned(), at, at);
                open = Some((Record { title, body, end }, crc32c::crc32c(&line)));
            }
            (None, Some((_, crc))) => *crc = crc32c::crc32c_append(*crc, &line),
            (Some(said), Some((_, crc))) if format!("{crc:08x}") == said => {
                if let Some((record, _)) = open.take() {
                    records.push(Record { end: at, ..record });
                }
            }
            _ => return Ok(records),
        }
    }
}

/// Tells the target what a record says of an archive, and gives what is left of it.
pub(super) fn recall(
    file: &mut (impl Read + Seek),
    record: &Record,
    number: u32,
    target: &Target,
) -> io::Result<Unpacked> {
    file.seek(SeekFrom::Start(record.body))?;
    let lines = BufReader::new(file.take(record.end - record.body));
    let mut unpacked = Unpacked::default();
    for line in lines.lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let known = match words[..] {
            ["end", _] => Some(()),
            ["h", ref words @ ..] => held_of_words(words).and_then(|(member, bytes)| {
                let name = plain_name(&member.name).ok()?;
                unpacked.held.insert(name, (member, bytes));
                Some(())
            }),
            ["b", before_label, last] => {
                unpacked.before_label = Before::of_word(before_label);
                unpacked.last = Before::of_word(last);
                Some(())
            }
            _ => target.recall(number, &line),
        };
        if known.is_none() {
            // Its checksum holds: it was not damaged, but written by another version.
            return Err(io::Error::other("it is of another version of this tool"));
        }
    }
    Ok(unpacked)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two archives end together, and the kernel tells of the failure once.
    #[test]
    fn nothing_is_written_down_once_a_sync_has_failed() {
        let journal = Journal {
            kept: Mutex::new(Kept {
                file: tempfile::tempfile().unwrap(),
                sync_failed: false,
            }),
            targets: Vec::new(),
            durability: Durability::Synced,
        };
        let write = |file: &mut File| {
            file.write_all(b"archive\n").unwrap();
            Ok(())
        };
        journal.when_synced(|| Ok(()), write).unwrap();
        let refused = || Err(OpError::new(OpErrorKind::General, "the disk refused"));
        journal.when_synced(refused, write).unwrap_err();
        journal.when_synced(|| Ok(()), write).unwrap();
        let length = journal.kept.lock().unwrap().file.metadata().unwrap().len();
        assert_eq!(length, 8, "one record");
    }
}
