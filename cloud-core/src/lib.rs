//! PostgreSQL base backups and WAL in object stores: the library behind the
//! `barman-cloud-*` tools.
//!
//! The library is divided into rooms, each a module with one door. Which room
//! may use which is a table in `docs/architecture.md`; a test compares it with
//! the `use` lines found here.

pub mod catalogue;
pub mod cli;
pub mod codec;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod key;
pub mod manifest;
pub mod mounts;
pub mod ops;
pub mod pg;
pub mod pgdata;
pub mod report;
pub mod snapshot;
pub mod store;
pub mod tar;
mod tls;
pub mod transfer;
pub mod units;
pub mod wal;
