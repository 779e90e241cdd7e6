//! A source in batches, one for each archive.
//!
//! A store wants an object's user metadata before the object, so what is in an
//! archive has to be known before its first byte is sent. A scout walks ahead: it
//! decides by plain sizes which members the next archive has, and sums them up. Then
//! the sender, with a walk of its own over the same files, sends those or passes
//! over them. Sender and scout are never more than one archive apart, so what was
//! just read is mostly still in memory.
//!
//! Nothing changes in a backup that is complete. If something does all the same,
//! because Barman deletes it at that moment, the work fails.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::digest::Digest;
use crate::catalogue::layout::ArchiveBase;
use crate::manifest::{Checksum, Summing};
use crate::ops::archives::{Listing, Pages, Summed, Writing, files, manifest_failed, warn_of};
use crate::pgdata::{EntryKind, Found, LeftOut, OwnerNames, PageChecker, Walk, display_name};
use crate::tar::{self, ArchiveSink, Copied, Member, Splitter};
use crate::transfer::TransferError;

/// Bytes read at a time while a file is summed up.
const BLOCK: usize = 256 << 10;

/// Bytes of tar for the end of an archive: two blocks, and the rest of a record.
pub(super) const END: u64 = 11 << 10;

/// The members of one archive.
#[derive(Debug)]
pub(super) struct Batch {
    /// How many there are.
    pub(super) members: u64,
    /// Bytes of tar that they make.
    pub(super) bytes: u64,
    /// What they are.
    pub(super) digest: Digest,
    /// Whether these are the last of the source.
    pub(super) last: bool,
}

/// A member, with its file if it is one.
#[derive(Debug)]
struct Opened {
    member: Member,
    file: Option<File>,
}

/// The members of a source, one after the other.
#[derive(Debug)]
struct Members {
    walk: Walk,
    root: PathBuf,
    owners: OwnerNames,
}

impl Members {
    fn new(walk: Walk, root: &Path) -> Self {
        Self {
            walk,
            root: root.to_owned(),
            owners: OwnerNames::default(),
        }
    }

    fn next(
        &mut self,
        mut left_out: impl FnMut(&LeftOut, &Path),
    ) -> Result<Option<Opened>, TransferError> {
        for found in &mut self.walk {
            let entry = match found.map_err(|error| files(&error))? {
                Found::LeftOut(left) => {
                    left_out(&left, &self.root);
                    continue;
                }
                Found::Entry(entry) => entry,
            };
            if entry.kind != EntryKind::File {
                let member = entry.member(&mut self.owners);
                return Ok(Some(Opened { member, file: None }));
            }
            let open = entry
                .open(&mut self.owners)
                .map_err(|error| files(&error))?;
            let open = open.ok_or_else(|| self.changing())?;
            return Ok(Some(Opened {
                member: open.member,
                file: Some(open.file),
            }));
        }
        if self.walk.vanished() > 0 {
            return Err(self.changing());
        }
        Ok(None)
    }

    fn changing(&self) -> TransferError {
        let root = self.root.display();
        TransferError::Files(format!(
            "files in `{root}` change or disappear while they are read: is the backup being deleted?"
        ))
    }
}

/// Looks ahead.
#[derive(Debug)]
pub(super) struct Scout<'a> {
    members: Members,
    base: ArchiveBase,
    /// Read already, for the next archive.
    ahead: Option<Opened>,
    cancel: &'a CancellationToken,
}

impl<'a> Scout<'a> {
    pub(super) fn new(
        walk: Walk,
        root: &Path,
        base: ArchiveBase,
        cancel: &'a CancellationToken,
    ) -> Self {
        Self {
            members: Members::new(walk, root),
            base,
            ahead: None,
            cancel,
        }
    }

    /// The members of the next archive: as many as make no more than `limit` bytes
    /// of tar, and at least one. They are added to the listing, and to `digest`, and
    /// their pages are judged: an archive that is there already is not read again.
    pub(super) fn batch(
        &mut self,
        limit: u64,
        listing: &mut Listing,
        pages: &mut Pages,
        mut digest: Digest,
    ) -> Result<Batch, TransferError> {
        let (mut members, mut bytes) = (0, END);
        loop {
            let next = match self.ahead.take() {
                Some(next) => Some(next),
                None => self.members.next(warn_of)?,
            };
            let Some(mut next) = next else { break };
            let size = tar::stored_size(&next.member).map_err(|error| files(&error))?;
            if members > 0 && bytes.saturating_add(size) > limit {
                self.ahead = Some(next);
                break;
            }
            let sum = match &mut next.file {
                Some(file) => Some(self.sum(&next.member, file, listing.summing(), pages)?),
                None => None,
            };
            if let Some(sum) = sum {
                let listed = listing.add(self.base, &next.member, next.member.size(), sum);
                listed.map_err(|error| manifest_failed(&error))?;
            }
            digest.member(&next.member, sum);
            members += 1;
            bytes = bytes.saturating_add(size);
        }
        Ok(Batch {
            members,
            bytes,
            digest,
            last: self.ahead.is_none(),
        })
    }

    /// The checksum of a file that has the size it said.
    fn sum(
        &self,
        member: &Member,
        file: &mut File,
        mut sum: Summing,
        pages: &mut Pages,
    ) -> Result<Checksum, TransferError> {
        let rules = pages.rules_for(&member.name);
        let mut checker = rules.map(|(rules, relation)| PageChecker::new(rules, relation));
        let mut left = member.size();
        let mut buffer = vec![0; BLOCK];
        loop {
            if self.cancel.is_cancelled() {
                return Err(TransferError::Cancelled);
            }
            let count = match file.read(&mut buffer) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    let name = display_name(&member.name);
                    let text = format!("could not read `{name}`: {error}");
                    return Err(TransferError::Files(text));
                }
            };
            if count == 0 && left == 0 {
                if let Some(checker) = checker {
                    pages.add(self.base, &member.name, &checker.finish());
                }
                return Ok(sum.finish());
            }
            left = match left.checked_sub(count as u64) {
                Some(left) if count > 0 => left,
                _ => return Err(self.members.changing()),
            };
            sum.add(&buffer[..count]);
            if let Some(checker) = &mut checker {
                checker.feed(&buffer[..count]);
            }
        }
    }
}

/// Comes behind and sends.
pub(super) struct Sender(Members);

impl Sender {
    pub(super) fn new(walk: Walk, root: &Path) -> Self {
        Self(Members::new(walk, root))
    }

    /// Passes over the members of a batch.
    pub(super) fn skip(&mut self, batch: &Batch) -> Result<(), TransferError> {
        let mut left = batch.members;
        while left > 0 {
            match self.0.walk.next() {
                Some(Ok(Found::Entry(_))) => left -= 1,
                Some(Ok(Found::LeftOut(_))) => {}
                Some(Err(error)) => return Err(files(&error)),
                None => return Err(self.0.changing()),
            }
        }
        Ok(())
    }

    /// Sends the members of a batch, which must be what the scout saw: `digest` is
    /// the one that the scout began with.
    pub(super) fn send<S: ArchiveSink>(
        &mut self,
        batch: &Batch,
        mut digest: Digest,
        summing: &Summing,
        writing: &mut Writing,
        out: &mut Splitter<S>,
    ) -> Result<(), TransferError> {
        for _ in 0..batch.members {
            let next = self.0.next(|_, _| ())?;
            let mut next = next.ok_or_else(|| self.0.changing())?;
            let sum = if let Some(file) = &mut next.file {
                let mut summed = Summed::new(file, summing.clone(), next.member.size());
                let copied = writing.add(&next.member, &mut summed, out)?;
                if copied != Copied::default() {
                    return Err(self.0.changing());
                }
                Some(summed.finish(0))
            } else {
                writing.add(&next.member, &mut io::empty(), out)?;
                None
            };
            digest.member(&next.member, sum);
        }
        if digest.finish() != batch.digest.clone().finish() {
            return Err(self.0.changing());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::manifest::Algorithm;
    use crate::ops::archives::CopyReport;
    use crate::pgdata::Rules;
    use crate::report::Silent;

    /// Takes anything.
    struct Nowhere;

    impl io::Write for Nowhere {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            Ok(buf.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl ArchiveSink for Nowhere {
        fn begin(&mut self, _part: u32, _first_member: u64) -> io::Result<()> {
            Ok(())
        }

        fn bytes_out(&self) -> u64 {
            0
        }

        fn fits(&self, _bytes: u64) -> bool {
            true
        }

        fn end(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Scouts a directory with a file, lets `change` happen to it, and sends.
    fn sent_after(change: impl FnOnce(&Path)) -> Result<(), TransferError> {
        let root = tempfile::tempdir().expect("a temporary directory");
        let file = root.path().join("file");
        fs::write(&file, b"content").expect("a file");
        let then = std::time::UNIX_EPOCH;
        let set_time = |file: &Path| {
            let file = File::options().write(true).open(file)?;
            file.set_modified(then)
        };
        set_time(&file).expect("a time");
        let rules = Rules::Pgdata {
            tablespaces: Vec::new(),
        };
        let walk = || Walk::open(root.path(), rules.clone(), &[]).expect("a walk");
        let cancel = CancellationToken::new();
        let mut scout = Scout::new(walk(), root.path(), ArchiveBase::Data, &cancel);
        let mut listing = Listing::new(Algorithm::Crc32c, 150_000, 1).expect("a listing");
        let digest = Digest::new(&[]);
        let mut pages = Pages::new(None);
        let batch = scout.batch(u64::MAX, &mut listing, &mut pages, digest.clone())?;
        assert_eq!((batch.members, batch.last), (2, true));
        change(&file);
        // Whoever changes a file may set its time.
        let _ = set_time(&file);
        let mut writing = Writing {
            cancel,
            reporter: &Silent,
            report: CopyReport::default(),
        };
        let mut out = Splitter::new(Nowhere, u64::MAX);
        let summing = listing.summing();
        let mut sender = Sender::new(walk(), root.path());
        sender.send(&batch, digest, &summing, &mut writing, &mut out)
    }

    #[test]
    fn what_changed_since_it_was_summed_up_is_not_sent() {
        sent_after(|_| ()).expect("nothing changed");
        let write = |file: &Path, content: &[u8]| fs::write(file, content).expect("written");
        let changes: [&dyn Fn(&Path); 4] = [
            &|file| write(file, b"contenT"),
            &|file| write(file, b"longer content"),
            &|file| write(file, b""),
            &|file| fs::remove_file(file).expect("removed"),
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let error = sent_after(change).expect_err("it changed").to_string();
            assert!(error.contains("change or disappear"), "{number}: {error}");
        }
    }
}
