//! What is in the bucket: `backup.info`, object keys, and which backup is meant.

pub mod console;
pub mod deletion;
pub mod gap;
pub mod info;
pub mod json;
pub mod keep;
pub mod layout;
pub mod literal;
pub mod load;
pub mod retention;
pub mod select;
mod snapshots;
pub mod time;
pub mod wal_cleanup;
