//! Memory for whole files, used again and again.
//!
//! The system clears memory before it gives it away, and gives it page by page, at the
//! first touch of each: with pages of 4 KiB that costs as much as reading a file of
//! 16 MiB does. So pages are asked for that are as large as the machine has them, and
//! what one file is done with goes to the next one.

use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

use memmap2::{Advice, MmapMut};

/// What nobody uses for now.
static SPARE: Mutex<Vec<MmapMut>> = Mutex::new(Vec::new());

/// No more is kept: what two threads need that each read a file and compress it.
const MOST_SPARE: usize = 4;

/// So many bytes with anything in them. Only what is touched is really taken.
#[derive(Debug)]
pub(super) struct Pages {
    /// `None` only while it is dropped.
    map: Option<MmapMut>,
    size: usize,
}

impl Pages {
    /// Memory that is `size` bytes long.
    pub(super) fn new(size: usize) -> io::Result<Self> {
        let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = spare.iter().position(|map| map.len() >= size);
        let found = fits.map(|fits| spare.swap_remove(fits));
        drop(spare);
        let map = if let Some(map) = found {
            map
        } else {
            // Of nothing there is no mapping.
            let map = MmapMut::map_anon(size.max(1))?;
            // A machine without large pages has small ones.
            let _ = map.advise(Advice::HugePage);
            map
        };
        Ok(Self {
            map: Some(map),
            size,
        })
    }

    /// Leaves the first `size` bytes.
    pub(super) fn truncate(&mut self, size: usize) {
        self.size = self.size.min(size);
    }
}

impl AsRef<[u8]> for Pages {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < MOST_SPARE {
            spare.extend(self.map.take());
        }
    }
}

impl Deref for Pages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.map.as_deref().map_or(&[], |map| &map[..self.size])
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        let size = self.size;
        self.map
            .as_deref_mut()
            .map_or(&mut [], |map| &mut map[..size])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_as_long_as_was_asked_for_whoever_had_it_before() {
        for size in [0, 1, 5000, 100, 4096, 70_000, 1] {
            let mut pages = Pages::new(size).expect("memory is left");
            assert_eq!(pages.len(), size);
            pages.fill(7);
            let mut other = Pages::new(size).expect("memory is left");
            other.fill(8);
            assert!(pages.iter().all(|byte| *byte == 7), "they are not the same");
            pages.truncate(3);
            assert_eq!(pages.as_ref(), &[7; 3][..size.min(3)]);
            pages.truncate(5);
            assert_eq!(pages.len(), size.min(3), "it never grows");
        }
    }
}
