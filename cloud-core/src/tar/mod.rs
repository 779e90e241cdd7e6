//! Writing and reading tar archives, and splitting a stream of members into
//! several of them.
//!
//! What is written is POSIX pax: ustar headers, each preceded by an extended
//! header only when a value does not fit, and the end padded to 10240 bytes.
//! What is read is that, and what GNU tar and Python write. Reading is strict:
//! a restore that cannot trust an archive has to stop, so an archive that is
//! cut, damaged or followed by something else is an error.
//!
//! Names are bytes. Nothing here touches files, stores or compression: the
//! writer is given members and their content, the reader hands them out.

mod header;
mod member;
mod pax;
mod reader;
mod split;
mod writer;

#[cfg(test)]
mod foreign_tests;
#[cfg(test)]
mod tests;

pub use member::{Member, MemberKind, Mtime};
pub use reader::{TarError, TarReader};
pub use split::{ArchiveSink, Splitter};
pub use writer::{AppendError, Copied, TarWriter};

/// Size of a block, in bytes: headers are one, contents are padded to it.
const BLOCK_LEN: usize = 512;
const BLOCK: u64 = BLOCK_LEN as u64;

/// Size of a record, in bytes: an archive is padded to it.
const RECORD_LEN: usize = 20 * BLOCK_LEN;
const RECORD: u64 = RECORD_LEN as u64;

/// Bytes of an archive that a member is: its headers and its content, padded.
///
/// # Errors
///
/// If the member cannot be stored at all.
pub fn stored_size(member: &Member) -> std::io::Result<u64> {
    let headers = header::encode(member)?.len() as u64;
    let size = member.size().checked_next_multiple_of(BLOCK);
    let size = size.and_then(|size| size.checked_add(headers));
    size.ok_or_else(|| std::io::ErrorKind::FileTooLarge.into())
}

/// Longest part of a name that messages show, in bytes.
const MAX_SHOWN: usize = 256;

/// A member's name as messages show it: one line, whatever its bytes are.
fn shown(name: &[u8]) -> String {
    let shown = name[..name.len().min(MAX_SHOWN)].escape_ascii();
    let more = if name.len() > MAX_SHOWN { "…" } else { "" };
    format!("{shown}{more}")
}

/// `size` with its padding.
const fn padded(size: u64) -> u64 {
    size.next_multiple_of(BLOCK)
}
