//! Uploads in parts: one file that grows where it can.
//!
//! A part whose place is known, because the sizes of all parts before it are,
//! is written where it belongs; nothing has to be copied at the end. Others
//! wait in files of their own.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use super::file::Temporary;
use super::{LocalStore, version};
use crate::key::Key;
use crate::store::{
    MultipartUpload, PartNumber, PartReceipt, PutMode, PutReceipt, Result, StoreErrorKind, StoreOp,
};

#[derive(Debug)]
pub(super) struct LocalUpload {
    store: LocalStore,
    key: Key,
    path: PathBuf,
    mode: PutMode,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    /// `None` once the upload is over.
    file: Option<Arc<Temporary>>,
    parts: BTreeMap<PartNumber, Part>,
}

#[derive(Debug, Clone)]
struct Part {
    size: u64,
    place: Place,
}

#[derive(Debug, Clone)]
enum Place {
    At(u64),
    Aside(Arc<Temporary>),
}

impl LocalUpload {
    pub(super) fn new(
        store: LocalStore,
        key: Key,
        path: PathBuf,
        mode: PutMode,
        file: Temporary,
    ) -> Self {
        let state = State {
            file: Some(Arc::new(file)),
            parts: BTreeMap::new(),
        };
        Self {
            store,
            key,
            path,
            mode,
            state: Arc::new(Mutex::new(state)),
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn file(&self) -> io::Result<Arc<Temporary>> {
        self.file
            .clone()
            .ok_or_else(|| io::Error::other("the upload is over"))
    }

    /// Where the part `number` begins, if that is known by now.
    fn offset(&self, number: PartNumber) -> Option<u64> {
        let mut offset = 0;
        for (expected, (found, part)) in (1..number.get()).zip(&self.parts) {
            (found.get() == expected).then_some(())?;
            offset += part.size;
        }
        let known = self.parts.range(..number).count();
        (known == number.get() as usize - 1).then_some(offset)
    }

    /// Chooses the place of a part. A part that is sent again with another size
    /// would overlap its neighbours.
    fn place(&mut self, number: PartNumber, size: u64) -> Option<u64> {
        match self.parts.get(&number) {
            Some(Part {
                size: before,
                place: Place::At(offset),
            }) if *before == size => Some(*offset),
            Some(_) => None,
            None => {
                let offset = self.offset(number)?;
                self.parts.insert(
                    number,
                    Part {
                        size,
                        place: Place::At(offset),
                    },
                );
                Some(offset)
            }
        }
    }
}

/// Writes a part, and notes where it is.
fn write_part(
    root: &Path,
    target: &Path,
    state: &Mutex<State>,
    number: PartNumber,
    body: &[u8],
) -> io::Result<()> {
    let (file, offset) = {
        let mut state = lock(state);
        (state.file()?, state.place(number, body.len() as u64))
    };
    if let Some(offset) = offset {
        return file.file().write_all_at(body, offset);
    }
    let aside = Temporary::beside(root, target)?;
    aside.file().write_all_at(body, 0)?;
    let place = Place::Aside(Arc::new(aside));
    lock(state).parts.insert(
        number,
        Part {
            size: body.len() as u64,
            place,
        },
    );
    Ok(())
}

/// The parts as one file: the one that grew if all of them are in their place
/// there, a new one otherwise.
fn assemble(
    root: &Path,
    target: &Path,
    state: &Mutex<State>,
    wanted: &[Part],
) -> io::Result<Temporary> {
    let mut expected = 0;
    let mut in_place = true;
    for part in wanted {
        in_place &= matches!(part.place, Place::At(offset) if offset == expected);
        expected += part.size;
    }
    let grown = lock(state).file()?;
    if in_place {
        grown.file().set_len(expected)?;
        lock(state).file = None;
        return Arc::into_inner(grown)
            .ok_or_else(|| io::Error::other("a part is still being sent"));
    }
    let whole = Temporary::beside(root, target)?;
    let mut buffer = vec![0; 1 << 20];
    let mut to = 0;
    for part in wanted {
        let (file, from) = match &part.place {
            Place::At(offset) => (&grown, *offset),
            Place::Aside(file) => (file, 0),
        };
        let mut done = 0;
        while done < part.size {
            let most = usize::try_from(part.size - done)
                .unwrap_or(buffer.len())
                .min(buffer.len());
            file.file()
                .read_exact_at(&mut buffer[..most], from + done)?;
            whole.file().write_all_at(&buffer[..most], to)?;
            done += most as u64;
            to += most as u64;
        }
    }
    lock(state).file = None;
    Ok(whole)
}

#[async_trait]
impl MultipartUpload for LocalUpload {
    async fn put_part(&self, number: PartNumber, body: Bytes) -> Result<PartReceipt> {
        let size = body.len() as u64;
        let (state, target) = (Arc::clone(&self.state), self.path.clone());
        self.store
            .blocking(StoreOp::PutPart, self.key.as_str(), move |root| {
                write_part(root, &target, &state, number, &body)
            })
            .await?;
        Ok(PartReceipt {
            number,
            size,
            token: String::new(),
        })
    }

    async fn complete(&self, parts: &[PartReceipt]) -> Result<PutReceipt> {
        let op = StoreOp::Complete;
        let key = self.key.as_str();
        let refuse = |why| self.store.refuse(op, key, StoreErrorKind::Invalid, why);
        if !parts.is_sorted_by(|one, other| one.number < other.number) {
            return Err(refuse("the parts are not in order"));
        }
        let wanted: Vec<Part> = {
            let state = lock(&self.state);
            let part = |receipt: &PartReceipt| {
                let part = state.parts.get(&receipt.number)?;
                (part.size == receipt.size).then(|| part.clone())
            };
            let wanted: Option<_> = parts.iter().map(part).collect();
            wanted.ok_or_else(|| refuse("a part was not sent"))?
        };
        let (state, target, mode) = (Arc::clone(&self.state), self.path.clone(), self.mode);
        self.store
            .blocking(op, key, move |root| {
                let whole = assemble(root, &target, &state, &wanted)?;
                let meta = whole.publish(root, &target, mode)?;
                lock(&state).parts.clear();
                Ok(PutReceipt {
                    version: Some(version(&meta)),
                })
            })
            .await
    }

    async fn abort(&self) -> Result<()> {
        let mut state = lock(&self.state);
        state.file = None;
        state.parts.clear();
        Ok(())
    }
}
