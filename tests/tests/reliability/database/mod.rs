//! The connection to PostgreSQL, and the server itself, on bad days.

mod archiver;
mod changes;
mod pages;
mod recovery;
pub(crate) mod scene;
mod sessions;
mod standbys;
mod upgrade;
