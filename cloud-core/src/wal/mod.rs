//! Names and numbers of write-ahead log: segments, timelines, positions.
