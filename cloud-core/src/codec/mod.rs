//! Compression of archives and WAL files.
//!
//! What is written is always **one** gzip member, bzip2 stream, lz4 frame, zstd
//! frame or xz stream: the tools we are compatible with read the first member
//! of an archive and may drop the rest without a word. What is read may be
//! several of them one after the other; a stream that ends early is an error,
//! never a short file.
//!
//! Everything here is synchronous; `transfer` joins it with the store.

use std::fmt;
use std::io::{self, Read, Write};

/// One way of compression (or none).
pub trait Codec: fmt::Debug + Send + Sync {
    /// Names, suffixes and levels.
    fn info(&self) -> &'static CodecInfo;

    /// An encoder that writes what it makes to `out`.
    fn encoder(&self, out: Box<dyn Write + Send>, level: Level) -> io::Result<Box<dyn Encoder>>;

    /// A decoder of what `input` delivers.
    ///
    /// Concatenated members are read through; `UnexpectedEof` if the last one
    /// is cut, `InvalidData` if the bytes are wrong or something else follows.
    /// Empty input is an error for every codec but "none".
    fn decoder(&self, input: Box<dyn Read + Send>) -> io::Result<Box<dyn Read + Send>>;
}

/// Takes plain bytes; the compressed ones go to the writer it was made with.
pub trait Encoder: Write + Send {
    /// Writes the end of the stream and flushes. What was encoded is whole only
    /// after this returned `Ok`.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

/// What a codec is called.
#[derive(Debug, PartialEq, Eq)]
pub struct CodecInfo {
    /// Name and long option: `gzip`.
    pub name: &'static str,
    /// Suffix of objects, with the dot: `.gz`; empty for none.
    pub suffix: &'static str,
    /// Whether base backups may use it.
    pub for_backup: bool,
    /// Level used for base backups (ignored where there are no levels).
    pub backup_level: i32,
    /// Levels for WAL, or `None` where there are none.
    pub levels: Option<Levels>,
}

/// The levels of a codec and what the words for them mean.
#[derive(Debug, PartialEq, Eq)]
pub struct Levels {
    /// Lowest; lower ones are raised to it.
    pub min: i32,
    /// Highest; higher ones are lowered to it.
    pub max: i32,
    /// `low`
    pub low: i32,
    /// `medium`, the default
    pub medium: i32,
    /// `high`
    pub high: i32,
}

/// A level as the user gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Level {
    /// The codec's own low level.
    Low,
    /// The codec's own medium level.
    #[default]
    Medium,
    /// The codec's own high level.
    High,
    /// A number, clamped to what the codec has.
    Number(i32),
}
