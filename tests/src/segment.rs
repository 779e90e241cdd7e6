//! The golden segment of WAL in other places.

use crate::golden;

/// A whole segment of 1 MiB on timeline 1, recorded from a real server as number 6
/// and moved to another: the header of each page says where it is.
pub fn segment_moved_to(number: u64) -> Vec<u8> {
    let sample = golden().join("wal/000000010000000000000006");
    let mut bytes = std::fs::read(sample).expect("the sample is there");
    let start = number << 20;
    for (page, at) in bytes.chunks_mut(8192).zip((start..).step_by(8192)) {
        page[8..16].copy_from_slice(&at.to_le_bytes());
    }
    bytes
}
