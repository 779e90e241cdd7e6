//! One budget of bytes for all part buffers.
//!
//! Parts are built in memory, not in staging files, so that a part can be sent
//! again and no disk has to be big or fast (docs/decisions.md 22). What keeps
//! that memory fixed is this budget: a buffer is asked for before its first
//! byte, and its bytes come back when the store has acknowledged the part.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// The unit in which the budget is counted. Semaphores count in `u32`, and
/// 64 KiB units reach 256 TiB.
const UNIT: u64 = 64 << 10;

/// A budget of bytes, shared by everything that fills parts.
#[derive(Debug, Clone)]
pub struct Budget {
    permits: Arc<Semaphore>,
    total: u64,
    /// Buffers to use again: asking the system for many megabytes and clearing
    /// them costs about as much as copying them.
    free: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Budget {
    /// A budget of `total` bytes, rounded up to 64 KiB.
    pub fn new(total: u64) -> Self {
        let units = usize::try_from(total.div_ceil(UNIT)).unwrap_or(Semaphore::MAX_PERMITS);
        Self {
            permits: Arc::new(Semaphore::new(units.clamp(1, Semaphore::MAX_PERMITS))),
            total: total.div_ceil(UNIT).max(1) * UNIT,
            free: Arc::default(),
        }
    }

    /// Asks the system now for the buffers of `part_size` bytes that the budget
    /// has room for, but no more than `expected` bytes will fill.
    ///
    /// So the memory of a backup is that of its first second. A container that
    /// is too small for it shows at once and not after hours, when the store
    /// happens to be slow.
    pub fn claim(&self, part_size: u64, expected: u64) {
        let Ok(capacity) = usize::try_from(part_size) else {
            return;
        };
        let room = self.total / part_size.max(1);
        let wanted = room.min(expected.div_ceil(part_size.max(1)));
        let claimed = (0..wanted).map(|_| {
            // Only memory that was written to is really there, and zeros are
            // not written.
            let mut buffer = vec![1; capacity];
            buffer.clear();
            buffer
        });
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        *free = claimed.collect();
    }

    /// The whole budget in bytes.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Bytes that nobody holds now.
    pub fn available(&self) -> u64 {
        self.permits.available_permits() as u64 * UNIT
    }

    /// Waits until `size` bytes are free and takes them; `None` once `cancel`
    /// is set.
    ///
    /// Called from a thread that may block, never from the runtime's own. A
    /// size beyond the whole budget waits for all of it: that is how one
    /// enormous member, announced beforehand, still gets through.
    pub fn take(
        &self,
        size: u64,
        runtime: &Handle,
        cancel: &CancellationToken,
    ) -> Option<PartBuffer> {
        let units = u32::try_from(size.min(self.total).div_ceil(UNIT)).unwrap_or(u32::MAX);
        let permits = Arc::clone(&self.permits);
        let permit = runtime.block_on(async {
            tokio::select! {
                biased;
                () = cancel.cancelled() => None,
                permit = permits.acquire_many_owned(units) => permit.ok(),
            }
        })?;
        let capacity = usize::try_from(size).unwrap_or(usize::MAX);
        let reused = {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            free.iter()
                // The one used last is the likeliest to be in the caches.
                .rposition(|buffer| buffer.capacity() == capacity)
                .map(|found| free.swap_remove(found))
                .or_else(|| {
                    // Buffers of another size would add to the budget.
                    free.clear();
                    None
                })
        };
        Some(PartBuffer {
            bytes: reused.unwrap_or_else(|| Vec::with_capacity(capacity)),
            capacity,
            budget: self.clone(),
            _permit: permit,
        })
    }
}

/// The bytes of one part while they are collected and sent. They go back to
/// the budget when the last reference to them is dropped.
#[derive(Debug)]
pub struct PartBuffer {
    bytes: Vec<u8>,
    capacity: usize,
    budget: Budget,
    _permit: OwnedSemaphorePermit,
}

impl PartBuffer {
    /// Takes as many of `data` as still fit and says how many that were.
    pub fn fill(&mut self, data: &[u8]) -> usize {
        let taken = data.len().min(self.capacity - self.bytes.len());
        self.bytes.extend_from_slice(&data[..taken]);
        taken
    }

    /// Whether nothing more fits.
    pub fn is_full(&self) -> bool {
        self.bytes.len() == self.capacity
    }

    /// Bytes collected so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing was collected.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The bytes, to be sent, as often as needed and without a copy.
    pub fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for PartBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for PartBuffer {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        self.budget
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_buffer_is_waited_for_until_another_one_is_given_back() {
        let budget = Budget::new(2 * UNIT);
        let cancel = CancellationToken::new();
        let runtime = Handle::current();
        let (first, second) = {
            let (budget, cancel, runtime) = (budget.clone(), cancel.clone(), runtime.clone());
            tokio::task::spawn_blocking(move || {
                (
                    budget.take(UNIT, &runtime, &cancel),
                    budget.take(UNIT, &runtime, &cancel),
                )
            })
            .await
            .unwrap()
        };
        assert_eq!(budget.available(), 0);
        let third = {
            let (budget, cancel, runtime) = (budget.clone(), cancel.clone(), runtime.clone());
            tokio::task::spawn_blocking(move || budget.take(UNIT, &runtime, &cancel).is_some())
        };
        drop(first.unwrap().into_bytes());
        assert!(third.await.unwrap());
        drop(second);
        assert_eq!(budget.available(), 2 * UNIT);
    }

    #[tokio::test]
    async fn waiting_for_a_buffer_ends_when_the_work_is_cancelled() {
        let budget = Budget::new(UNIT);
        let cancel = CancellationToken::new();
        let runtime = Handle::current();
        let held = {
            let (budget, cancel, runtime) = (budget.clone(), cancel.clone(), runtime.clone());
            tokio::task::spawn_blocking(move || budget.take(UNIT, &runtime, &cancel))
                .await
                .unwrap()
        };
        let waiting = {
            let (budget, cancel) = (budget.clone(), cancel.clone());
            tokio::task::spawn_blocking(move || budget.take(UNIT, &runtime, &cancel).is_none())
        };
        cancel.cancel();
        assert!(waiting.await.unwrap());
        drop(held);
    }

    #[tokio::test]
    async fn claimed_buffers_are_the_ones_that_are_used() {
        let addresses = |budget: &Budget| -> Vec<*const u8> {
            let free = budget.free.lock().unwrap();
            free.iter().map(Vec::as_ptr).collect()
        };
        let budget = Budget::new(3 * UNIT);
        budget.claim(UNIT, u64::MAX);
        let claimed = addresses(&budget);
        assert_eq!(claimed.len(), 3);
        let runtime = Handle::current();
        let work = budget.clone();
        tokio::task::spawn_blocking(move || {
            let buffers: Vec<_> = (0..3)
                .filter_map(|_| work.take(UNIT, &runtime, &CancellationToken::new()))
                .collect();
            assert_eq!(buffers.len(), 3);
        })
        .await
        .unwrap();
        let mut used = addresses(&budget);
        used.sort_unstable();
        let mut claimed = claimed;
        claimed.sort_unstable();
        assert_eq!(used, claimed);

        budget.claim(UNIT, UNIT + 1);
        assert_eq!(addresses(&budget).len(), 2, "no more than will be filled");
    }

    #[tokio::test]
    async fn a_buffer_takes_no_more_than_its_size() {
        let budget = Budget::new(UNIT);
        let runtime = Handle::current();
        let bytes = tokio::task::spawn_blocking(move || {
            let mut buffer = budget
                .take(10, &runtime, &CancellationToken::new())
                .unwrap();
            assert_eq!(buffer.fill(b"0123456"), 7);
            assert_eq!(buffer.fill(b"789abc"), 3);
            assert!(buffer.is_full());
            buffer.into_bytes()
        })
        .await
        .unwrap();
        assert_eq!(&bytes[..], b"0123456789");
    }
}
