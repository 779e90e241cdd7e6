//! Waiting for a segment that the helper is fetching just now.
//!
//! It has begun earlier, so its file is whole earlier. But it owes nobody anything: if
//! it gives up, dies or stands still, the call that waits fetches the segment itself.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::super::folder::{Lock, age};
use super::spool::Spool;
use crate::wal::WalName;

/// How often it is looked whether the helper gets on.
const LOOK: Duration = Duration::from_secs(1);

/// A helper that has written nothing for so long stands still, or the store does. To
/// fetch a segment twice does no harm.
const STANDS_STILL: Duration = Duration::from_secs(10);

/// The lock of a segment, from whoever has it; `None` without a lock if that takes too
/// long, or if nothing can be locked.
pub(super) async fn claim(
    spool: &Arc<Spool>,
    name: &WalName,
    stop: &CancellationToken,
) -> Option<Lock> {
    match spool.try_lock(name) {
        Ok(Some(lock)) => return Some(lock),
        Ok(None) => {}
        Err(error) => {
            debug!("cannot lock WAL file {name} in the spool: {error}");
            return None;
        }
    }
    info!("WAL file {name} is being fetched by another process, which is waited for");
    let (sender, mut receiver) = oneshot::channel();
    let (waiting, of) = (Arc::clone(spool), name.clone());
    // Nothing can end this thread but the other process, or the end of this one: so the
    // runtime must not wait for it. Without a receiver the lock goes.
    let spawned = std::thread::Builder::new().spawn(move || {
        let _ = sender.send(waiting.lock(&of));
    });
    if spawned.is_err() {
        return None;
    }
    let mut waited = Duration::ZERO;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return None,
            locked = &mut receiver => return locked.ok()?.ok(),
            () = sleep(LOOK) => waited += LOOK,
        }
        let silence = spool.last_progress().and_then(age).unwrap_or(waited);
        if silence.min(waited) >= STANDS_STILL {
            info!("WAL file {name} is fetched without waiting any longer");
            return None;
        }
    }
}
