//! Decoding a WAL object on its way from the store; shared by archiving, which
//! compares with what is stored, and by fetching.
//!
//! The store is read by a task, the decoder and whatever takes the plain bytes
//! run on a thread of their own, with a bounded number of bytes between them.
//! The thread has always ended when [`decode_object`] returns, so that what it
//! owns (a temporary file) is settled by then, also after a signal.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::Ctx;
use crate::codec::Codec;
use crate::key::Key;
use crate::store::{ObjectMeta, ObjectStore, StoreError, StoreErrorKind};
use crate::transfer::{DownloadReader, open_download};

/// No WAL file is larger: the largest segment, in bytes.
///
/// Bounds what a hostile or damaged object can unpack to.
pub(super) const MAX_WAL_FILE: u64 = 1 << 30;

const BUFFER: usize = 128 << 10;

/// Why an object did not become a plain file.
#[derive(Debug)]
pub(super) enum ObjectFailure {
    /// The store failed, or the object is not there.
    Store(StoreError),
    /// The bytes are not what the suffix promises, or end early.
    Damaged(io::Error),
    /// What takes the plain bytes failed.
    Taker(io::Error),
    /// The token was set.
    Stopped,
}

impl ObjectFailure {
    /// Whether what is stored may be whole, and was damaged or replaced while it
    /// was read.
    pub(super) fn may_be_of_the_way(&self) -> bool {
        match self {
            Self::Store(error) => error.kind == StoreErrorKind::Corrupt,
            Self::Damaged(_) => true,
            Self::Taker(_) | Self::Stopped => false,
        }
    }
}

/// Reads and decodes `key`; the plain bytes go to what `open` returns, which
/// is called once the store has begun to answer. `most` tells from the first of them how
/// many there can be.
pub(super) async fn decode_object<W: Write + Send + 'static>(
    ctx: &Ctx,
    store: &Arc<dyn ObjectStore>,
    key: &Key,
    codec: &'static dyn Codec,
    stop: &CancellationToken,
    open: impl FnOnce() -> io::Result<W> + Send + 'static,
    most: impl FnOnce(&[u8]) -> u64 + Send + 'static,
) -> Result<(ObjectMeta, W), ObjectFailure> {
    let opened = tokio::select! {
        biased;
        () = stop.cancelled() => return Err(ObjectFailure::Stopped),
        opened = open_download(store, key, stop, &ctx.reporter) => opened,
    };
    let (meta, reader, store_failure) = opened.map_err(ObjectFailure::Store)?;
    let outcome = join(spawn_blocking(move || copy(reader, codec, open, most))).await;
    outcome
        .map(|taker| (meta, taker))
        .map_err(|failure| match store_failure.take() {
            Some(error) => ObjectFailure::Store(error),
            None if stop.is_cancelled() => ObjectFailure::Stopped,
            None => failure,
        })
}

fn copy<W: Write>(
    reader: DownloadReader,
    codec: &'static dyn Codec,
    open: impl FnOnce() -> io::Result<W>,
    most: impl FnOnce(&[u8]) -> u64,
) -> Result<W, ObjectFailure> {
    let mut taker = open().map_err(ObjectFailure::Taker)?;
    let mut plain = codec
        .decoder(Box::new(reader))
        .map_err(ObjectFailure::Damaged)?;
    let mut buffer = vec![0; BUFFER];
    let (mut most, mut left) = (Some(most), 0_u64);
    loop {
        let count = fill(&mut plain, &mut buffer).map_err(ObjectFailure::Damaged)?;
        if let Some(most) = most.take() {
            left = most(&buffer[..count]).min(MAX_WAL_FILE);
        }
        left = left.checked_sub(count as u64).ok_or_else(|| {
            ObjectFailure::Damaged(io::Error::other("it is longer than such a WAL file can be"))
        })?;
        taker
            .write_all(&buffer[..count])
            .map_err(ObjectFailure::Taker)?;
        if count < buffer.len() {
            break;
        }
    }
    Ok(taker)
}

/// Reads until the buffer is full or nothing more comes: TLS and decoders give little at
/// a time, and each write is a call of the system.
fn fill(plain: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match plain.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// The result of a thread; its panic goes on here.
pub(super) async fn join<T>(handle: tokio::task::JoinHandle<T>) -> T {
    match handle.await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// The data directory that a path below its WAL directory belongs to.
///
/// Goes by the name of the directory alone: PostgreSQL gives `%p` as
/// `pg_wal/…`, relative to the data directory, and `pg_wal` may be a link. Any
/// other path says nothing of a data directory.
pub(super) fn data_directory_of(path: &Path) -> Option<PathBuf> {
    let wal_directory = path.parent()?;
    let name = wal_directory.file_name()?;
    (name == "pg_wal" || name == "pg_xlog").then(|| {
        let parent = wal_directory.parent().unwrap_or(Path::new(""));
        Path::new(".").join(parent)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_directory_is_the_parent_of_the_wal_directory() {
        for (path, expected) in [
            ("pg_wal/000000010000000000000001", Some("./")),
            ("/data/16/pg_wal/RECOVERYXLOG", Some("/data/16")),
            ("../pg_xlog/x", Some("./..")),
            ("/pg_wal/x", Some("/")),
            ("x", None),
            ("spool/x", None),
            ("/x", None),
        ] {
            assert_eq!(
                data_directory_of(Path::new(path)),
                expected.map(PathBuf::from),
                "{path}"
            );
        }
    }
}
