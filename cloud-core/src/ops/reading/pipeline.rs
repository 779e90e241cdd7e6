//! One archive, from the store to who takes its members.
//!
//! ```text
//! ranges of the object ──▶ decoder and tar reader ──▶ who takes its members
//!  (tasks, `transfer`)        (a thread)                    (a thread)
//! ```
//!
//! A codec that decodes slowly (bzip2) has threads of its own, if there are archives fewer than
//! jobs.
//! Between the two threads are a bounded number of chunks, whose buffers are used
//! again. The members that a restore writes last are held back here.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use tokio_util::sync::CancellationToken;

use crate::catalogue::layout::ArchiveBase;
use crate::codec;
use crate::key::Key;
use crate::ops::{OpError, OpErrorKind};
use crate::pgdata::{LABEL_NAME, MANIFEST_NAME, display_name, is_held_back, plain_name};
use crate::report::Reporter;
use crate::store::StoreError;
use crate::tar::{Member, MemberKind, TarError, TarReader};
use crate::transfer::{DownloadFailure, DownloadReader};

/// Largest member that is kept in memory until the end, in bytes: `pg_control`
/// has 8 KiB, a label some hundred bytes.
const MAX_HELD: u64 = 1 << 20;

/// Bytes that go from one thread to the other at a time.
const CHUNK: u64 = 128 << 10;

/// Members and chunks that wait for the thread that takes them: 2 MiB at most.
const QUEUE: usize = 16;

/// Members that a restore writes last, by their name in PGDATA.
pub(in crate::ops) type Held = BTreeMap<Vec<u8>, (Member, Vec<u8>)>;

/// What is left of an archive when its members are taken.
#[derive(Debug, Default)]
pub(in crate::ops) struct Unpacked {
    pub(in crate::ops) held: Held,
    /// What stood just before the label, if this archive has it.
    pub(in crate::ops) before_label: Option<Before>,
    /// The last member, for a label at the beginning of the next archive.
    pub(in crate::ops) last: Option<Before>,
}

/// What a member of PGDATA is to the label behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ops) enum Before {
    /// A manifest: there stands the backup's own one.
    Manifest,
    /// Anything else.
    Other,
    /// Nothing: the label is the first of its archive.
    Nothing,
}

impl Before {
    /// As a word of a journal.
    pub(in crate::ops) fn word(before: Option<Self>) -> &'static str {
        match before {
            Some(Self::Manifest) => "manifest",
            Some(Self::Other) => "other",
            Some(Self::Nothing) => "nothing",
            None => "-",
        }
    }

    /// What a word of a journal means.
    pub(in crate::ops) fn of_word(word: &str) -> Option<Self> {
        [Self::Manifest, Self::Other, Self::Nothing]
            .into_iter()
            .find(|before| Self::word(Some(*before)) == word)
    }
}

/// An archive on its way.
pub(in crate::ops) struct Passage {
    /// The suffix of its codec.
    pub(super) suffix: String,
    /// Threads that decode it, where the codec has use for several.
    pub(super) decoders: usize,
    /// What it holds.
    pub(super) base: ArchiveBase,
    pub(super) reader: DownloadReader,
    pub(super) failure: DownloadFailure,
    pub(super) cancel: CancellationToken,
    pub(super) reporter: Arc<dyn Reporter>,
}

/// Why an archive was not read to its end.
#[derive(Debug)]
pub(in crate::ops) enum Trouble<E> {
    /// The token was set.
    Stopped,
    /// The store failed. That the archive ends early is then only its echo.
    Store(StoreError),
    /// What came is no whole archive.
    Archive(TarError),
    /// This machine has no thread or memory left to read it with, which says nothing of the archive.
    Local(io::Error),
    /// Who takes the members failed.
    Taker(E),
}

/// Why there are no more members.
enum End {
    Archive(TarError),
    Local(io::Error),
    /// The thread that takes them has ended early and knows why.
    NobodyTakes,
}

impl End {
    /// Why a decoder could not be made. What is wrong with the bytes is no error of the system.
    fn of_decoder(error: io::Error) -> Self {
        let of_system = error.raw_os_error().is_some();
        if of_system || error.kind() == io::ErrorKind::OutOfMemory {
            Self::Local(error)
        } else {
            Self::Archive(error.into())
        }
    }
}

/// The error for [`Trouble::Local`].
pub(in crate::ops) fn not_begun(key: &Key, error: &io::Error) -> OpError {
    let text = format!("could not start to read archive `{key}` on this machine: {error}");
    OpError::new(OpErrorKind::General, text)
        .with_hint("raise the limit of processes or of memory, or give a lower --jobs")
}

/// What goes from one thread to the other. The content of a file follows its member.
enum Item {
    Member(Member),
    Chunk(Vec<u8>),
}

impl Passage {
    /// Reads the archive and gives its members to `take` but for those that are held back.
    /// Content that `take` leaves unread is passed over. Blocks; has no thread left when it returns.
    pub(in crate::ops) fn run<E: Send>(
        self,
        take: impl FnMut(&Member, &mut dyn BufRead) -> Result<(), E> + Send,
    ) -> Result<Unpacked, Trouble<E>> {
        let (items, received) = sync_channel(QUEUE);
        let (give_back, spare) = sync_channel(QUEUE);
        let (cancel, failure) = (self.cancel.clone(), self.failure.clone());
        let (read, taken) = thread::scope(|scope| {
            let taker = thread::Builder::new()
                .name("files".into())
                .spawn_scoped(scope, move || take_all(&received, &give_back, take));
            let taker = match taker {
                Ok(taker) => taker,
                Err(error) => return (Err(End::Local(error)), Ok(())),
            };
            let read = self.read(&items, &spare);
            // There are no more members.
            drop(items);
            let taken = taker
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (read, taken)
        });
        let trouble = match (read, taken) {
            (Ok(unpacked), Ok(())) => return Ok(unpacked),
            (Ok(_) | Err(End::NobodyTakes), Err(error)) => Trouble::Taker(error),
            (Err(End::Archive(error)), _) => Trouble::Archive(error),
            (Err(End::Local(error)), _) => Trouble::Local(error),
            (Err(End::NobodyTakes), Ok(())) => {
                Trouble::Archive(io::Error::other("it was not taken to its end").into())
            }
        };
        if cancel.is_cancelled() {
            return Err(Trouble::Stopped);
        }
        Err(failure.take().map_or(trouble, Trouble::Store))
    }

    /// Decodes the archive and hands its members on.
    fn read(self, items: &SyncSender<Item>, spare: &Receiver<Vec<u8>>) -> Result<Unpacked, End> {
        let codec = codec::by_suffix(&self.suffix).unwrap_or(&codec::None);
        let plain = codec
            .parallel_decoder(Box::new(self.reader), self.decoders)
            .map_err(End::of_decoder)?;
        let counted = Counted {
            inner: plain,
            cancel: &self.cancel,
            reporter: self.reporter.as_ref(),
        };
        let mut archive = TarReader::new(counted);
        let mut unpacked = Unpacked::default();
        let give = |item| items.send(item).map_err(|_| End::NobodyTakes);
        while let Some(member) = archive.next_member().map_err(End::Archive)? {
            // Only members of PGDATA are held back. A name that is none is the taker's to refuse.
            if self.base == ArchiveBase::Data
                && let Ok(name) = plain_name(&member.name)
            {
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
                    let bytes = hold(&member, &mut archive).map_err(End::Archive)?;
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
                    .map_err(|error| End::Archive(error.into()))?;
                left -= count;
                give(Item::Chunk(chunk))?;
            }
        }
        Ok(unpacked)
    }
}

/// Takes what is handed on.
fn take_all<E>(
    items: &Receiver<Item>,
    give_back: &SyncSender<Vec<u8>>,
    mut take: impl FnMut(&Member, &mut dyn BufRead) -> Result<(), E>,
) -> Result<(), E> {
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
        take(&member, &mut content)?;
    }
    Ok(())
}

/// Reads a member that a restore writes at the end.
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

/// Tells how far the reading is, and ends when it is asked to.
struct Counted<'a, R> {
    inner: R,
    cancel: &'a CancellationToken,
    reporter: &'a dyn Reporter,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("the reading was stopped"));
        }
        let count = self.inner.read(buf)?;
        self.reporter.processed(count as u64);
        Ok(count)
    }
}

/// The members that are written last, and whether the backup's own manifest stands
/// before the label. Later archives win.
pub(in crate::ops) fn held_back(unpacked: Vec<Unpacked>) -> (Held, bool) {
    let mut held = Held::new();
    let (mut own_manifest, mut last) = (false, None);
    for archive in unpacked {
        held.extend(archive.held);
        if let Some(before) = archive.before_label {
            let before = match before {
                Before::Nothing => last,
                before => Some(before),
            };
            own_manifest = before == Some(Before::Manifest);
        }
        last = archive.last.or(last);
    }
    (held, own_manifest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_machine_lacks_says_nothing_of_the_archive() {
        let local = |error| matches!(End::of_decoder(error), End::Local(_));
        // As a thread that cannot be started.
        assert!(local(rustix::io::Errno::AGAIN.into()));
        assert!(local(io::ErrorKind::OutOfMemory.into()));
        assert!(!local(io::ErrorKind::UnexpectedEof.into()));
        assert!(!local(io::Error::other("this is no gzip data")));
    }

    #[test]
    fn the_own_manifest_is_the_one_just_before_the_label() {
        use Before::{Manifest, Nothing, Other};
        let archive = |before_label, last| Unpacked {
            held: Held::new(),
            before_label,
            last,
        };
        let tablespace = || archive(None, None);
        for (archives, expected) in [
            (vec![archive(Some(Manifest), Some(Other))], true),
            (vec![archive(Some(Other), Some(Manifest))], false),
            (vec![archive(Some(Nothing), Some(Other))], false),
            // The manifest was the last of the archive before.
            (
                vec![
                    archive(None, Some(Manifest)),
                    archive(Some(Nothing), Some(Other)),
                    tablespace(),
                ],
                true,
            ),
            (
                vec![
                    archive(None, Some(Manifest)),
                    archive(None, Some(Other)),
                    archive(Some(Nothing), Some(Other)),
                ],
                false,
            ),
            // Of two labels the later one counts.
            (
                vec![
                    archive(Some(Manifest), Some(Other)),
                    archive(Some(Other), Some(Other)),
                ],
                false,
            ),
        ] {
            assert_eq!(held_back(archives).1, expected);
        }
    }
}
