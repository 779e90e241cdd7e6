//! Fetching the segments that PostgreSQL will ask for next.
//!
//! The segment asked for is delivered before this begins. Whatever goes wrong
//! here is only logged: the segment will be asked for in its own right.

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::super::wal_object::join;
use super::super::{Ctx, chain};
use super::candidates::Candidate;
use super::fetch::{FetchFailure, Fetched, fetch};
use super::record::Record;
use super::spool::Spool;
use crate::store::{ObjectStore, StoreErrorKind};
use crate::wal::WalName;
use crate::wal::fit::Fit;

/// Segments on their way at the same time. More would not fill the line better,
/// and each holds a decoder and some pieces of its object in memory.
const AT_ONCE: usize = 8;

/// Fetches `segments` into the spool.
pub(super) async fn fetch_ahead(
    ctx: &Ctx,
    store: &Arc<dyn ObjectStore>,
    spool: &Arc<Spool>,
    segments: Vec<(WalName, Candidate)>,
    stop: &CancellationToken,
) {
    stream::iter(segments)
        .for_each_concurrent(AT_ONCE, async |(name, candidate)| {
            if stop.is_cancelled() || spool.contains(&name) {
                return;
            }
            if let Err(problem) = fetch_one(ctx, store, spool, &name, &candidate, stop).await {
                warn!("WAL file {name} was not fetched ahead: {problem}");
            }
        })
        .await;
}

async fn fetch_one(
    ctx: &Ctx,
    store: &Arc<dyn ObjectStore>,
    spool: &Arc<Spool>,
    name: &WalName,
    candidate: &Candidate,
    stop: &CancellationToken,
) -> Result<(), String> {
    let into = (spool.place(), PathBuf::from(name.as_str()));
    let fetched = match fetch(ctx, store, candidate, name, stop, into).await {
        Ok(fetched) => fetched,
        Err(FetchFailure::Stopped) => return Ok(()),
        // Deleted since it was listed.
        Err(FetchFailure::Store(error)) if error.kind == StoreErrorKind::NotFound => return Ok(()),
        Err(FetchFailure::Store(error)) => return Err(chain(&error)),
        Err(FetchFailure::Damaged(why)) => return Err(format!("`{}`: {why}", candidate.key)),
        Err(FetchFailure::Local(error)) => return Err(format!("cannot write it: {error}")),
    };
    let Fetched {
        file,
        meta,
        fit: Some(Fit::Segment(identity)),
        flaw: None,
    } = fetched
    else {
        // Delivered with a warning if it is asked for; not worth a record.
        return Ok(());
    };
    let record = Record {
        source: spool.source().to_owned(),
        name: name.to_string(),
        key: candidate.key.to_string(),
        version: meta.version,
        size: file.size(),
        crc32c: file.crc32c(),
        system_identifier: identity.system_identifier,
        timeline: identity.timeline.0,
    };
    let spool = Arc::clone(spool);
    let published = join(spawn_blocking(move || spool.publish(file, &record))).await;
    published.map_err(|error| format!("cannot move it into the spool: {error}"))
}
