//! One object, decoded and judged, in a temporary file.

use std::io::{self, Write};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::super::Ctx;
use super::super::folder::Temporary;
use super::super::wal_object::{MAX_WAL_FILE, ObjectFailure, decode_object};
use super::candidates::Candidate;
use crate::store::{ObjectMeta, ObjectStore, StoreError, StoreErrorKind};
use crate::wal::fit::{Fit, judge};
use crate::wal::page::SegmentIdentity;
use crate::wal::record::{Flaw, RecordMeter};
use crate::wal::{WalKind, WalName};

/// A whole file that waits for its name.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) file: Temporary,
    pub(super) meta: ObjectMeta,
    /// For segments and `.partial` files: never [`Fit::Unfit`].
    pub(super) fit: Option<Fit>,
    /// What the server will stumble on in it.
    pub(super) flaw: Option<Flaw>,
}

/// A temporary file, and the WAL that was written into it.
struct Checked {
    file: Temporary,
    records: RecordMeter,
}

impl Write for Checked {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.records.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Why there is none.
#[derive(Debug)]
pub(super) enum FetchFailure {
    Store(StoreError),
    /// The object is not what its name promises, or not whole.
    Damaged(String),
    Local(io::Error),
    Stopped,
}

/// Largest history or `.backup` file that is delivered, in bytes. A line of a history has
/// less than 1 KiB, and a cluster some dozen timelines.
const MAX_TEXT: u64 = 16 << 20;

/// How many bytes a file of this kind has at most that begins so: a hostile object could
/// fill the disk of the server otherwise.
fn most_of(kind: WalKind) -> impl FnOnce(&[u8]) -> u64 + Send + 'static {
    move |beginning| match kind {
        WalKind::Segment | WalKind::Partial => SegmentIdentity::of(beginning)
            .map_or(MAX_WAL_FILE, |identity| identity.segment_size.get()),
        WalKind::History | WalKind::Backup => MAX_TEXT,
    }
}

/// Fetches `candidate`, which holds the file `name`, into the file that `open` gives
/// once the store has begun to answer, on a thread that may block.
pub(super) async fn fetch(
    ctx: &Ctx,
    store: &Arc<dyn ObjectStore>,
    candidate: &Candidate,
    name: &WalName,
    stop: &CancellationToken,
    open: impl FnOnce() -> io::Result<Temporary> + Send + 'static,
) -> Result<Fetched, FetchFailure> {
    let open = move || {
        Ok(Checked {
            file: open()?,
            records: RecordMeter::new(),
        })
    };
    let (key, codec) = (&candidate.key, candidate.codec);
    let (meta, checked) = decode_object(ctx, store, key, codec, stop, open, most_of(name.kind()))
        .await
        .map_err(|failure| match failure {
            ObjectFailure::Store(error) if error.kind == StoreErrorKind::Corrupt => {
                FetchFailure::Damaged(super::super::chain(&error))
            }
            ObjectFailure::Store(error) => FetchFailure::Store(error),
            ObjectFailure::Damaged(error) => {
                FetchFailure::Damaged(format!("the object is damaged: {error}"))
            }
            ObjectFailure::Taker(error) => FetchFailure::Local(error),
            ObjectFailure::Stopped => FetchFailure::Stopped,
        })?;
    let Checked { file, records } = checked;
    let flaw = records.finish(name.kind());
    let fit = match name.kind() {
        WalKind::Segment | WalKind::Partial => match judge(name, file.size(), file.head()) {
            Fit::Unfit(misfit) => {
                return Err(FetchFailure::Damaged(format!(
                    "the object is not a whole segment: {misfit}"
                )));
            }
            fit => Some(fit),
        },
        // Nothing follows the last chunk of snappy's framing, so a cut object
        // can decode to nothing at all; no server archives an empty file.
        WalKind::History | WalKind::Backup if file.size() == 0 => {
            return Err(FetchFailure::Damaged("the file in it is empty".into()));
        }
        WalKind::History | WalKind::Backup => None,
    };
    Ok(Fetched {
        file,
        meta,
        fit,
        flaw,
    })
}
