//! Taking a base backup.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::{Ctx, OpError};
use crate::codec::Codec;
use crate::store::{ObjectStore, Tag};

/// A base backup to take.
#[derive(Debug, Clone)]
pub struct BackupRequest {
    /// Key prefix from the URL, as written (it may end in slashes).
    pub path: String,
    /// Server name: one component of every key.
    pub server: String,
    /// How to connect to PostgreSQL.
    pub connection: ConnectionOptions,
    /// Compression of the archives.
    pub codec: &'static dyn Codec,
    /// Ask for a fast checkpoint.
    pub immediate_checkpoint: bool,
    /// Parts uploaded at the same time.
    pub jobs: NonZeroU32,
    /// Upper bound of an archive's size in the store, in bytes.
    pub max_archive_size: u64,
    /// Smallest part wanted, in bytes.
    pub min_chunk_size: Option<u64>,
    /// Bytes per second to the store, over everything.
    pub max_bandwidth: Option<u64>,
    /// Bytes of part buffers, over everything.
    pub memory_limit: Option<u64>,
    /// The backup's name.
    pub name: Option<String>,
    /// Tags of every object.
    pub tags: Option<Vec<Tag>>,
    /// How often the idle session is used; `None` never.
    pub keepalive_interval: Option<Duration>,
    /// How long the stop of the backup may take; `None` for ever.
    pub stop_timeout: Option<Duration>,
}

/// The four connection options of the command line; the rest comes from the
/// environment as libpq would take it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConnectionOptions {
    /// Host name or socket directory.
    pub host: Option<String>,
    /// Port.
    pub port: Option<String>,
    /// Role.
    pub user: Option<String>,
    /// Database name, or a whole connection string or URI; then the others are
    /// ignored.
    pub dbname: Option<String>,
}

/// Takes the base backup.
pub async fn run(
    ctx: &Ctx,
    store: Arc<dyn ObjectStore>,
    request: BackupRequest,
) -> Result<(), OpError> {
    let _ = (ctx, store, request);
    Ok(())
}
