//! What an archive knows of a file.

/// A member of an archive, without its bytes.
///
/// Names, targets and owners are bytes: file systems promise no encoding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its path inside the archive.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: MemberKind,
    /// Permission bits, with set-id and sticky bits.
    pub mode: u32,
    /// Number of its owner.
    pub uid: u64,
    /// Number of its group.
    pub gid: u64,
    /// Name of its owner; empty if unknown.
    pub user: Vec<u8>,
    /// Name of its group; empty if unknown.
    pub group: Vec<u8>,
    /// When it was last changed.
    pub mtime: Mtime,
}

/// A point in time, as file systems keep it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mtime {
    /// Seconds since 1970, rounded down.
    pub seconds: i64,
    /// Nanoseconds after that.
    pub nanos: u32,
}

/// What a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberKind {
    /// An ordinary file.
    File {
        /// Its size in bytes.
        size: u64,
    },
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink {
        /// What it points to, as written in the link.
        target: Vec<u8>,
    },
    /// Another name of a member that came before.
    HardLink {
        /// The name of that member.
        target: Vec<u8>,
    },
    /// A named pipe.
    Fifo,
    /// A character or block device.
    Device,
}

impl Member {
    /// Size of the bytes that follow the header in the archive.
    pub fn size(&self) -> u64 {
        match self.kind {
            MemberKind::File { size } => size,
            _ => 0,
        }
    }
}
