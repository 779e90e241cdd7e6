//! What the files that are archived ahead may take together: memory and threads.
//!
//! A compressed file is held in memory until the store has it, and nobody knows
//! beforehand how much compression saves. So a file begins with as much memory as
//! it could need at worst, and gives back the rest when it is compressed. The
//! requested file is not counted: it takes what it takes without others.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Memory of all files ahead together, in bytes: what is compressed and the encoders.
///
/// With segments of 16 MiB enough for six that do not compress at all beside their
/// encoders of zstd. A file that could need more is not archived ahead.
pub(super) const MEMORY: u64 = 128 << 20;

/// The unit in which memory is counted, in bytes.
const UNIT: u64 = 64 << 10;

/// What there is to share.
#[derive(Debug)]
pub(super) struct Shares {
    memory: Arc<Semaphore>,
    threads: Arc<Semaphore>,
}

/// What one file has.
#[derive(Debug)]
pub(super) struct Share(Mutex<Held>);

#[derive(Debug)]
struct Held {
    memory: OwnedSemaphorePermit,
    /// Until the file is compressed.
    thread: Option<OwnedSemaphorePermit>,
}

impl Shares {
    /// For so many threads that compress at the same time.
    pub(super) fn new(threads: usize) -> Self {
        Self {
            memory: Arc::new(Semaphore::new(units(MEMORY) as usize)),
            threads: Arc::new(Semaphore::new(threads.max(1))),
        }
    }

    /// Waits for a thread and for `bytes` of memory, in the order of asking; `None`
    /// if there never is so much.
    pub(super) async fn take(&self, bytes: u64) -> Option<Share> {
        if bytes > MEMORY {
            return None;
        }
        // Nobody holds memory for the time in which it waits for a thread.
        let thread = Arc::clone(&self.threads).acquire_owned().await.ok()?;
        let memory = Arc::clone(&self.memory).acquire_many_owned(units(bytes));
        Some(Share(Mutex::new(Held {
            memory: memory.await.ok()?,
            thread: Some(thread),
        })))
    }
}

impl Share {
    /// The file is compressed, to so many bytes: what is not needed any more goes
    /// back.
    pub(super) fn encoded(&self, bytes: usize) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.thread = None;
        let spare = held.memory.num_permits();
        let spare = spare.saturating_sub(units(bytes as u64) as usize);
        drop(held.memory.split(spare));
    }
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn at_once(shares: &Shares, bytes: u64) -> Option<Share> {
        shares.take(bytes).now_or_never().flatten()
    }

    #[test]
    fn what_is_compressed_gives_back_its_thread_and_what_it_saved() {
        let shares = Shares::new(1);
        let first = at_once(&shares, MEMORY).expect("all of it");
        assert!(at_once(&shares, 1).is_none(), "no thread is left");
        first.encoded(usize::try_from(MEMORY / 2).expect("fits"));
        let second = at_once(&shares, MEMORY / 2).expect("the other half");
        second.encoded(usize::try_from(MEMORY / 2).expect("fits"));
        assert!(at_once(&shares, 1).is_none(), "no memory is left");
        drop(first);
        assert!(at_once(&shares, MEMORY / 2).is_some());
    }

    /// An encoder may make more of its input than it was.
    #[test]
    fn what_grew_gives_nothing_back() {
        let shares = Shares::new(2);
        let share = at_once(&shares, MEMORY).expect("all of it");
        share.encoded(usize::MAX);
        assert!(at_once(&shares, 1).is_none());
    }

    #[test]
    fn what_never_fits_is_not_waited_for() {
        let shares = Shares::new(2);
        let taken = shares.take(MEMORY + 1).now_or_never();
        assert!(matches!(taken, Some(None)), "{taken:?}");
    }
}
