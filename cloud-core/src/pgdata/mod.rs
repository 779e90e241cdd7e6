//! The data directory on disk: walking it, and putting it back.
