//! One archive, from the store to the disk.
//!
//! ```text
//! ranges of the object ──▶ decoder and tar reader ──▶ files
//!  (tasks, `transfer`)        (a thread)           (a thread)
//! ```
//!
//! Between the two threads are a bounded number of chunks, whose buffers are used
//! again. The members that are written last are held back here.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use tokio_util::sync::CancellationToken;

use super::plan::interrupted;
use crate::catalogue::layout::ArchiveBase;
use crate::codec;
use crate::ops::{OpError, OpErrorKind, chain};
use crate::pgdata::{
    Durability, LABEL_NAME, MANIFEST_NAME, RestoreError, Target, Unpacker, display_name,
    is_held_back, plain_name,
};
use crate::report::Reporter;
use crate::store::StoreError;
use crate::tar::{Member, MemberKind, TarError, TarReader};
use crate::transfer::{DownloadFailure, DownloadReader};

/// Largest member that is kept in memory until the end, in bytes: `pg_control`
/// has 8 KiB, a label some hundred bytes.
const MAX_HELD: u64 = 1 << 20;

/// Bytes that go from one thread to the other at a time.
const CHUNK: u64 = 128 << 10;

/// Members and chunks that wait for the thread that writes: 2 MiB at most.
const QUEUE: usize = 16;

/// Members that are written last, by their name in PGDATA.
pub(super) type Held = BTreeMap<Vec<u8>, (Member, Vec<u8>)>;

/// What is left of an archive when its files are written.
#[derive(Debug, Default)]
pub(super) struct Unpacked {
    pub(super) held: Held,
    /// What stood just before the label, if this archive has it.
    pub(super) before_label: Option<Before>,
    /// The last member, for a label at the beginning of the next archive.
    pub(super) last: Option<Before>,
}

/// What a member of PGDATA is to the label behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Before {
    /// A manifest: there stands the backup's own one.
    Manifest,
    /// Anything else.
    Other,
    /// Nothing: the label is the first of its archive.
    Nothing,
}

impl Before {
    /// As a word of a journal.
    pub(super) fn word(before: Option<Self>) -> &'static str {
        match before {
            Some(Self::Manifest) => "manifest",
            Some(Self::Other) => "other",
            Some(Self::Nothing) => "nothing",
            None => "-",
        }
    }

    /// What a word of a journal means.
    pub(super) fn of_word(word: &str) -> Option<Self> {
        [Self::Manifest, Self::Other, Self::Nothing]
            .into_iter()
            .find(|before| Self::word(Some(*before)) == word)
    }
}

/// What an archive is unpacked with.
pub(super) struct Pipeline {
    pub(super) key: String,
    pub(super) suffix: String,
    /// What the archive holds.
    pub(super) base: ArchiveBase,
    /// Its number: of a name in several archives the greatest has the file that stays.
    pub(super) number: u32,
    pub(super) target: Arc<Target>,
    pub(super) durability: Durability,
    pub(super) cancel: CancellationToken,
    pub(super) reporter: Arc<dyn Reporter>,
}

/// Why an archive could not be unpacked.
enum Trouble {
    Archive(TarError),
    Files(RestoreError),
    /// The thread that writes has ended early and knows why.
    NobodyTakes,
}

/// What goes from one thread to the other. The content of a file follows its member.
enum Item {
    Member(Member),
    Chunk(Vec<u8>),
}

impl Pipeline {
    /// Unpacks the archive that `reader` delivers. Blocks; has no thread left when it returns.
    pub(super) fn run(
        &self,
        reader: DownloadReader,
        failure: &DownloadFailure,
    ) -> Result<Unpacked, OpError> {
        let (items, received) = sync_channel(QUEUE);
        let (give_back, spare) = sync_channel(QUEUE);
        let (read, written) = thread::scope(|scope| {
            let writer = thread::Builder::new()
                .name("files".into())
                .spawn_scoped(scope, move || self.write(&received, &give_back));
            let writer = match writer {
                Ok(writer) => writer,
                Err(error) => return (Err(Trouble::Archive(error.into())), Ok(())),
            };
            let read = self.read(reader, &items, &spare);
            // There are no more members.
            drop(items);
            let written = writer
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (read, written)
        });
        let trouble = match (read, written) {
            (Ok(unpacked), Ok(())) => return Ok(unpacked),
            (Ok(_) | Err(Trouble::NobodyTakes), Err(error)) => Trouble::Files(error),
            (Err(trouble), _) => trouble,
        };
        if self.cancel.is_cancelled() {
            return Err(interrupted());
        }
        Err(self.explain(trouble, failure.take()))
    }

    /// Decodes the archive and hands its members on.
    fn read(
        &self,
        reader: DownloadReader,
        items: &SyncSender<Item>,
        spare: &Receiver<Vec<u8>>,
    ) -> Result<Unpacked, Trouble> {
        let codec = codec::by_suffix(&self.suffix).unwrap_or(&codec::None);
        let plain = codec
            .decoder(Box::new(reader))
            .map_err(|error| Trouble::Archive(error.into()))?;
        let counted = Counted {
            inner: plain,
            cancel: &self.cancel,
            reporter: self.reporter.as_ref(),
        };
        let mut archive = TarReader::new(counted);
        let mut unpacked = Unpacked::default();
        let give = |item| items.send(item).map_err(|_| Trouble::NobodyTakes);
        while let Some(member) = archive.next_member().map_err(Trouble::Archive)? {
            // Only members of PGDATA are held back.
            if self.base == ArchiveBase::Data {
                let name = plain_name(&member.name).map_err(Trouble::Files)?;
                let before = unpacked.last.unwrap_or(Before::Nothing);
                unpacked.last = Some(if name == MANIFEST_NAME {
                    Before::Manifest
                } else {
                    Before::Other
                });
                if is_held_back(&member.name) {
                    if name == LABEL_NAME {
                        unpacked.before_label = Some(before);
                    }
                    let bytes = hold(&member, &mut archive).map_err(Trouble::Archive)?;
                    unpacked.held.insert(name, (member, bytes));
                    continue;
                }
            }
            let mut left = member.size();
            give(Item::Member(member))?;
            while left > 0 {
                let mut chunk = spare.try_recv().unwrap_or_default();
                let count = left.min(CHUNK);
                // Most are as long as they were, and nothing has to be cleared.
                chunk.resize(usize::try_from(count).unwrap_or(0), 0);
                archive
                    .read_exact(&mut chunk)
                    .map_err(|error| Trouble::Archive(error.into()))?;
                left -= count;
                give(Item::Chunk(chunk))?;
            }
        }
        Ok(unpacked)
    }

    /// Writes what is handed on.
    fn write(
        &self,
        items: &Receiver<Item>,
        give_back: &SyncSender<Vec<u8>>,
    ) -> Result<(), RestoreError> {
        let mut unpacker = Unpacker::new(&self.target, self.number, self.durability);
        // The thread that reads says why there are no more members.
        while let Ok(item) = items.recv() {
            let Item::Member(member) = item else {
                continue;
            };
            let mut content = Chunks {
                items,
                give_back,
                chunk: Vec::new(),
                at: 0,
                left: member.size(),
            };
            // Later members win, and one that takes the name of a member that is held back
            // is of its kind anyhow. Chunks that nobody wanted are passed over above.
            unpacker.unpack(&member, &mut content)?;
        }
        Ok(())
    }

    /// The store's own error where it has one: that the archive ends early is
    /// then only its echo.
    fn explain(&self, trouble: Trouble, store: Option<StoreError>) -> OpError {
        if let Some(error) = store {
            return OpError::of_store(&error);
        }
        let text = match trouble {
            Trouble::Archive(error) => format!("archive `{}` cannot be read: {error}", self.key),
            Trouble::Files(error) => {
                format!(
                    "archive `{}` cannot be restored: {}",
                    self.key,
                    chain(&error)
                )
            }
            Trouble::NobodyTakes => format!("archive `{}` was not taken to its end", self.key),
        };
        OpError::new(OpErrorKind::General, text)
    }
}

/// Reads a member that is written at the end.
fn hold(member: &Member, archive: &mut impl Read) -> Result<Vec<u8>, TarError> {
    if !matches!(member.kind, MemberKind::File { size } if size <= MAX_HELD) {
        let name = display_name(&member.name);
        return Err(io::Error::other(format!("`{name}` is not the small file it must be")).into());
    }
    let mut bytes = Vec::new();
    archive.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The content of a member, from the thread that decodes it.
struct Chunks<'a> {
    items: &'a Receiver<Item>,
    give_back: &'a SyncSender<Vec<u8>>,
    chunk: Vec<u8>,
    at: usize,
    /// Bytes that did not come yet.
    left: u64,
}

impl BufRead for Chunks<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.at == self.chunk.len() && self.left > 0 {
            let Ok(Item::Chunk(next)) = self.items.recv() else {
                return Err(io::Error::other("the archive is not read on"));
            };
            self.left = self.left.saturating_sub(next.len() as u64);
            self.at = 0;
            // There may be enough of them already.
            let _ = self
                .give_back
                .try_send(std::mem::replace(&mut self.chunk, next));
        }
        Ok(&self.chunk[self.at..])
    }

    fn consume(&mut self, count: usize) {
        self.at += count;
    }
}

impl Read for Chunks<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buf)?;
        self.consume(count);
        Ok(count)
    }
}

/// Tells how far the restore is, and ends when it is asked to.
struct Counted<'a, R> {
    inner: R,
    cancel: &'a CancellationToken,
    reporter: &'a dyn Reporter,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("the restore was stopped"));
        }
        let count = self.inner.read(buf)?;
        self.reporter.processed(count as u64);
        Ok(count)
    }
}
