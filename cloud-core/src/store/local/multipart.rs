//! Uploads in parts: one file that grows where it can.
//!
//! A part whose place is known, because the sizes of all parts before it are,
//! is written where it belongs. Others wait in files of their own, and are
//! copied into the place that was left for them at the end: with several parts
//! on the way there are always some that overtake, and they must not cost a
//! copy of the whole archive.
//!
//! A part that is sent again never touches the bytes of its first sending,
//! which may still be under way: a call that was given up goes on in its
//! thread.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use super::file::Temporary;
use super::{LocalStore, kind_of, version};
use crate::key::Key;
use crate::store::{
    MultipartUpload, PartNumber, PartReceipt, PutMode, PutOptions, PutReceipt, Result,
    StoreErrorKind, StoreOp, traffic,
};

/// Bytes copied at a time.
const PIECE: u64 = 1 << 20;

#[derive(Debug)]
pub(super) struct LocalUpload {
    store: LocalStore,
    key: Key,
    path: PathBuf,
    mode: PutMode,
    fingerprint: Option<String>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    /// `None` once the upload is over.
    file: Option<Arc<Temporary>>,
    parts: BTreeMap<PartNumber, Part>,
    /// How many parts were sent, repetitions included.
    sent: u64,
    /// Whether a part was sent again with another size: places that were
    /// chosen before are not those of the object any more.
    moved: bool,
    /// Whether the file is being made visible, and must not change.
    closing: bool,
}

#[derive(Debug, Clone)]
struct Part {
    /// Which sending it is, to tell it from earlier ones of the same number.
    sending: u64,
    size: u64,
    place: Place,
}

#[derive(Debug, Clone)]
enum Place {
    /// In the file that grows, from this byte on.
    At(u64),
    /// In a file of its own.
    Aside(Arc<Temporary>),
    /// Not known yet: the file of its own is being written.
    Coming,
}

impl LocalUpload {
    pub(super) fn new(
        store: LocalStore,
        key: Key,
        path: PathBuf,
        options: &PutOptions,
        file: Temporary,
    ) -> Self {
        let state = State {
            file: Some(Arc::new(file)),
            parts: BTreeMap::new(),
            sent: 0,
            moved: false,
            closing: false,
        };
        Self {
            store,
            key,
            path,
            mode: options.mode.clone(),
            fingerprint: options.fingerprint.clone(),
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// The refusal of a call that comes after the end.
    fn check_open(&self, op: StoreOp) -> Result<()> {
        if lock(&self.state).file.is_some() {
            return Ok(());
        }
        let why = "the upload was completed or aborted";
        let key = self.key.as_str();
        Err(self.store.refuse(op, key, StoreErrorKind::NotFound, why))
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// Where the part `number` begins, if that is known by now.
    fn offset(&self, number: PartNumber) -> Option<u64> {
        let before = self.parts.range(..number);
        if before.clone().count() as u64 != u64::from(number.get()) - 1 {
            return None;
        }
        Some(before.map(|(_, part)| part.size).sum())
    }

    /// Notes that a part is being sent, and chooses its place.
    fn begin(&mut self, number: PartNumber, size: u64) -> Part {
        let before = self.parts.get(&number).map(|part| part.size);
        self.moved |= before.is_some_and(|before| before != size);
        let place = match self.offset(number) {
            Some(offset) if before.is_none() && !self.moved => Place::At(offset),
            _ => Place::Coming,
        };
        self.sent += 1;
        let part = Part {
            sending: self.sent,
            size,
            place,
        };
        self.parts.insert(number, part.clone());
        part
    }

    /// The parts that the receipts name, if these are the latest ones.
    fn wanted(&self, receipts: &[PartReceipt]) -> Option<Vec<Part>> {
        let part = |receipt: &PartReceipt| {
            let part = self.parts.get(&receipt.number)?;
            let same = part.size == receipt.size && part.sending.to_string() == receipt.token;
            same.then(|| part.clone())
        };
        receipts.iter().map(part).collect()
    }

    /// Takes the files away.
    fn end(&mut self) {
        self.file = None;
        self.parts.clear();
    }

    /// The file, and the note about a part that is being written; an error if
    /// it is not wanted any more.
    fn current(
        &mut self,
        number: PartNumber,
        part: &Part,
    ) -> io::Result<(Arc<Temporary>, &mut Part)> {
        let noted = self.parts.get_mut(&number);
        match (&self.file, noted) {
            (Some(file), Some(noted)) if noted.sending == part.sending && !self.closing => {
                Ok((Arc::clone(file), noted))
            }
            _ => Err(io::Error::other(
                "the upload ended, or the part was sent again, before it was written",
            )),
        }
    }
}

/// Writes a part, and notes where it is.
fn write_part(
    state: &Mutex<State>,
    number: PartNumber,
    part: &Part,
    body: &[u8],
) -> io::Result<()> {
    if let Place::At(offset) = part.place {
        let file = lock(state).current(number, part)?.0;
        return file.file().write_all_at(body, offset);
    }
    let file = lock(state).current(number, part)?.0;
    let aside = file.another()?;
    drop(file);
    aside.file().write_all_at(body, 0)?;
    lock(state).current(number, part)?.1.place = Place::Aside(Arc::new(aside));
    Ok(())
}

/// The parts as one file: the one that grew, if nothing else was put where a
/// part belongs and nobody writes to it any more; a new one otherwise.
fn assemble(grown: &Arc<Temporary>, wanted: &[Part]) -> io::Result<Arc<Temporary>> {
    let mut offset = 0;
    let mut fits = true;
    for part in wanted {
        fits &= match part.place {
            Place::At(at) => at == offset,
            Place::Aside(_) | Place::Coming => true,
        };
        offset += part.size;
    }
    // The caller's and the upload's; any other is that of a part being written.
    fits &= Arc::strong_count(grown) == 2;
    let whole = if fits {
        Arc::clone(grown)
    } else {
        // What another process aborted must not become visible after all, in a
        // file that was not there then.
        grown.check_in_place()?;
        Arc::new(grown.another()?)
    };
    let mut to = 0;
    for part in wanted {
        match &part.place {
            Place::At(_) if fits => {}
            Place::At(from) => copy(grown, *from, &whole, to, part.size)?,
            Place::Aside(file) => copy(file, 0, &whole, to, part.size)?,
            Place::Coming => return Err(io::Error::other("a part is still being sent")),
        }
        to += part.size;
    }
    whole.file().set_len(to)?;
    Ok(whole)
}

fn copy(source: &Temporary, from: u64, target: &Temporary, to: u64, size: u64) -> io::Result<()> {
    let most = usize::try_from(size.min(PIECE)).map_err(io::Error::other)?;
    let mut buffer = vec![0; most];
    let mut done = 0;
    while done < size {
        let piece = usize::try_from((size - done).min(PIECE)).map_err(io::Error::other)?;
        source
            .file()
            .read_exact_at(&mut buffer[..piece], from + done)?;
        target.file().write_all_at(&buffer[..piece], to + done)?;
        done += piece as u64;
    }
    Ok(())
}

/// Ends the upload if its bytes could not be synced. They may be lost, and another
/// sync would not tell: whatever the failure was, it is final.
fn settle(state: &Mutex<State>, synced: io::Result<()>) -> io::Result<()> {
    synced.map_err(|error| {
        lock(state).end();
        if kind_of(&error).is_transient() {
            let why = format!("what was written may not be on disk ({error}): begin anew");
            io::Error::other(why)
        } else {
            error
        }
    })
}

#[async_trait]
impl MultipartUpload for LocalUpload {
    async fn put_part(&self, number: PartNumber, body: Bytes) -> Result<PartReceipt> {
        traffic::request();
        self.check_open(StoreOp::PutPart)?;
        let size = body.len() as u64;
        // Here and not in the thread: threads start in any order.
        let part = lock(&self.state).begin(number, size);
        let token = part.sending.to_string();
        let state = Arc::clone(&self.state);
        self.store
            .blocking(StoreOp::PutPart, self.key.as_str(), move |_| {
                write_part(&state, number, &part, &body)?;
                traffic::sent(body.len());
                Ok(())
            })
            .await?;
        Ok(PartReceipt {
            number,
            size,
            token,
        })
    }

    async fn complete(&self, parts: &[PartReceipt]) -> Result<PutReceipt> {
        traffic::request();
        let op = StoreOp::Complete;
        let key = self.key.as_str();
        self.check_open(op)?;
        let refuse = |why| self.store.refuse(op, key, StoreErrorKind::Invalid, why);
        if parts.is_empty() {
            return Err(refuse("there is no part"));
        }
        if !parts.is_sorted_by(|one, other| one.number < other.number) {
            return Err(refuse("the parts are not in order"));
        }
        let (grown, wanted) = {
            let mut state = lock(&self.state);
            let wanted = state.wanted(parts);
            let wanted =
                wanted.ok_or_else(|| refuse("a part was not sent, or was sent again since"))?;
            let Some(grown) = state.file.clone().filter(|_| !state.closing) else {
                let why = "it is being completed already";
                let kind = StoreErrorKind::Conflict;
                return Err(self.store.refuse(op, key, kind, why));
            };
            state.closing = true;
            (grown, wanted)
        };
        let (state, target) = (Arc::clone(&self.state), self.path.clone());
        let (mode, fingerprint) = (self.mode.clone(), self.fingerprint.clone());
        self.store
            .blocking(op, key, move |root| {
                let published = assemble(&grown, &wanted).and_then(|whole| {
                    whole.note(fingerprint.as_deref());
                    settle(&state, whole.sync())?;
                    whole.publish(root, &target, &mode)
                });
                let mut state = lock(&state);
                state.closing = false;
                let meta = published?;
                state.end();
                Ok(PutReceipt {
                    version: Some(version(&meta)),
                })
            })
            .await
    }

    async fn abort(&self) -> Result<()> {
        lock(&self.state).end();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_that_failed_ends_the_upload_for_good() {
        let folder = tempfile::tempdir().unwrap();
        for (kind, expected) in [
            (io::ErrorKind::TimedOut, StoreErrorKind::Other),
            (io::ErrorKind::StaleNetworkFileHandle, StoreErrorKind::Other),
            (io::ErrorKind::StorageFull, StoreErrorKind::Full),
        ] {
            let file = Temporary::beside(folder.path(), &folder.path().join("k")).unwrap();
            let state = Mutex::new(State {
                file: Some(Arc::new(file)),
                parts: BTreeMap::new(),
                sent: 0,
                moved: false,
                closing: true,
            });
            settle(&state, Ok(())).unwrap();
            assert!(lock(&state).file.is_some());
            let error = settle(&state, Err(kind.into())).unwrap_err();
            assert_eq!(kind_of(&error), expected, "{error}");
            assert!(!kind_of(&error).is_transient());
            assert!(lock(&state).file.is_none(), "it is over");
            assert_eq!(folder.path().read_dir().unwrap().count(), 0);
        }
    }
}
