//! What an archive says of one file, without its content.

/// One member of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Path inside the archive as it stands there: relative, bytes of any
    /// encoding but NUL, possibly with a leading `./`. A directory's has no
    /// slash at its end.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: MemberKind,
    /// Permission bits, with set-user-id, set-group-id and sticky bit.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Name of the owner; empty if unknown.
    pub user: Vec<u8>,
    /// Name of the group; empty if unknown.
    pub group: Vec<u8>,
    /// Time of the last change of the content.
    pub mtime: Mtime,
}

/// What a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberKind {
    /// A regular file, the only kind with a content.
    File {
        /// Bytes.
        size: u64,
    },
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink {
        /// Where it leads, as it stands in the link.
        target: Vec<u8>,
    },
    /// A further name of a file that comes earlier in the same archive.
    HardLink {
        /// Name of that member.
        target: Vec<u8>,
    },
    /// A named pipe.
    Fifo,
    /// A character or block device. Its number is not kept: it is neither
    /// stored nor restored.
    Device,
}

/// A point in time: `seconds` since 1970 (UTC), which may be negative, plus
/// `nanos`, which is always forward and below 1,000,000,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mtime {
    /// Whole seconds, rounded down.
    pub seconds: i64,
    /// Nanoseconds after them.
    pub nanos: u32,
}

impl Member {
    /// Bytes of content that follow the header: those of a file, else 0.
    pub fn size(&self) -> u64 {
        match self.kind {
            MemberKind::File { size } => size,
            _ => 0,
        }
    }

    /// Where a link leads.
    pub fn target(&self) -> Option<&[u8]> {
        match &self.kind {
            MemberKind::Symlink { target } | MemberKind::HardLink { target } => Some(target),
            _ => None,
        }
    }
}
