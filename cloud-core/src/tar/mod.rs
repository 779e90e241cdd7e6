//! Writing and reading tar archives, and splitting a stream of members into
//! several of them.
//!
//! The format is POSIX pax. Nothing here knows of files, PostgreSQL or stores:
//! members come in with their bytes and go out again.

mod header;
mod member;
mod reader;
mod split;
mod writer;

pub use member::{Member, MemberKind, Mtime};
pub use reader::{TarError, TarReader};
pub use split::{ArchiveSink, Splitter};
pub use writer::{AppendError, Copied, TarWriter};
