//! Cuts what is written into blocks of one size, whatever the pieces were.

use std::io;

/// Collects bytes until a block is full.
#[derive(Debug)]
pub(super) struct Blocks {
    size: usize,
    /// Less than a block.
    rest: Vec<u8>,
}

impl Blocks {
    /// Blocks of `size` bytes.
    pub(super) fn new(size: usize) -> Self {
        Self {
            size,
            rest: Vec::with_capacity(size),
        }
    }

    /// Gives every block that `bytes` fills to `take`; the rest is kept.
    pub(super) fn feed(
        &mut self,
        mut bytes: &[u8],
        mut take: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        if !self.rest.is_empty() {
            let (head, tail) = bytes.split_at(bytes.len().min(self.size - self.rest.len()));
            self.rest.extend_from_slice(head);
            bytes = tail;
            if self.rest.len() < self.size {
                return Ok(());
            }
            take(&self.rest)?;
            self.rest.clear();
        }
        while let Some((block, tail)) = bytes.split_at_checked(self.size) {
            take(block)?;
            bytes = tail;
        }
        self.rest.extend_from_slice(bytes);
        Ok(())
    }

    /// What did not fill a block.
    pub(super) fn into_rest(self) -> Vec<u8> {
        self.rest
    }
}
