//! Puts members of an archive back below a target directory.
//!
//! An archive comes from a bucket that somebody else may be able to write to, and the
//! restore may run as root. So a name never leads out of the target: absolute names and
//! `..` are refused, not skipped, and nothing is ever written *through* a link, whoever
//! made it; links themselves are ordinary members. Device files are refused, set-id bits of
//! files are dropped.
//!
//! Where several members have one name the last one wins, as with the tools we are
//! compatible with; the earlier file is removed, never opened. That is the one that
//! is last in the last archive, whatever the order in which archives are unpacked (`names`).
//!
//! Upholds R1 (docs/decisions.md 27) together with its caller: the two members without which
//! PostgreSQL cannot start on the directory are never unpacked, but written by
//! [`Target::write_held`] after everything else was synced.

mod extra;
mod name;
mod names;
mod owner;
mod record;
mod refill;
mod spared;
mod sync;
mod target;
#[cfg(test)]
mod tests;
mod unpack;

use std::io;
use std::path::PathBuf;

pub use extra::{ASIDE_NAME, Extent, Removed};
pub use name::{is_held_back, plain_name};
pub use names::{Known, Names};
pub use record::{held_of_words, held_to_words, of_hex, to_hex};
pub use spared::Spared;
pub use sync::{Durability, sync_all};
pub(in crate::pgdata) use target::is_wal_directory;
pub use target::{Contents, Target, check_destination, open_targets, refused_at_top};
pub use unpack::Unpacker;

/// What a restore calls the file in each of its targets that says how far it is. Neither
/// stored nor restored.
pub const JOURNAL_NAME: &[u8] = b".barman-cloud-restore";

/// Why a member, or a whole target, could not be restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The target directory exists and contains something.
    #[error("destination `{}` already exists and is not empty", path.display())]
    NotEmpty {
        /// The target.
        path: PathBuf,
    },
    /// Another restore is at work there.
    #[error("another restore is writing to `{}`", path.display())]
    Busy {
        /// The target.
        path: PathBuf,
    },
    /// The target exists and is no directory.
    #[error("destination `{}` is not a directory", path.display())]
    NotADirectory {
        /// The target.
        path: PathBuf,
    },
    /// Nothing can be created in the target directory, or where it would be made.
    #[error("destination `{}` cannot be written to", path.display())]
    NotWritable {
        /// The target, or the nearest directory above it that exists.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The member's name would lead out of the target, or cannot be a file's name.
    #[error("archive member `{name}` was refused because {problem}")]
    Refused {
        /// The member's name, fit for printing.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The member's name leads through a link or a file, or is taken by a directory.
    #[error("archive member `{name}` cannot be restored because `{obstacle}` is {what}")]
    InTheWay {
        /// The member's name, fit for printing.
        name: String,
        /// The name that is taken, fit for printing.
        obstacle: String,
        /// What it is: `a symbolic link`.
        what: &'static str,
    },
    /// The archive could not be read.
    #[error("could not read the content of archive member `{name}`")]
    Read {
        /// The member's name, fit for printing.
        name: String,
        /// What the reader said.
        #[source]
        source: io::Error,
    },
    /// The archive had less for the member than its header says.
    #[error("archive member `{name}` ends after {found} of {expected} bytes")]
    Short {
        /// The member's name, fit for printing.
        name: String,
        /// Bytes the header says.
        expected: u64,
        /// Bytes there were.
        found: u64,
    },
    /// The link of a tablespace is there already.
    #[error("`{name}` already exists in `{}`", root.display())]
    LinkExists {
        /// The link.
        name: String,
        /// The target.
        root: PathBuf,
    },
    /// The file system refused.
    #[error("could not {doing} `{name}` in `{}`", root.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what, fit for printing.
        name: String,
        /// The target.
        root: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}
