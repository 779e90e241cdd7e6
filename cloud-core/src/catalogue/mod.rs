//! What is in the bucket: `backup.info`, object keys, and which backup is meant.

pub mod info;
pub mod layout;
pub mod literal;
pub mod load;
pub mod select;
pub mod time;
