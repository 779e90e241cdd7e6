//! Memory for a whole file.
//!
//! The system gives memory page by page, at the first touch of each; with pages of
//! 4 KiB that costs as much as reading a file of 16 MiB does. So pages are asked for that
//! are as large as the machine has them.

use std::io;
use std::ops::{Deref, DerefMut};

use memmap2::{Advice, MmapMut};

/// Zeroed memory of its own.
#[derive(Debug)]
pub(super) struct Pages(MmapMut);

impl Pages {
    /// So many bytes, of which only what is touched is really taken.
    pub(super) fn new(size: usize) -> io::Result<Self> {
        // Of nothing there is no mapping.
        let map = MmapMut::map_anon(size.max(1))?;
        // A machine without large pages has small ones.
        let _ = map.advise(Advice::HugePage);
        Ok(Self(map))
    }
}

impl Deref for Pages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl AsRef<[u8]> for Pages {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
