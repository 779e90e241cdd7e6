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

mod bzip2;
mod concatenated;
mod gzip;
mod lz4;
mod none;
mod snappy;
mod xz;
mod zstd;

pub use none::None;

/// All codecs. Adding one is a file beside this one and a line here.
pub const CODECS: &[&dyn Codec] = &[
    &None,
    &gzip::Gzip,
    &bzip2::Bzip2,
    &snappy::Snappy,
    &lz4::Lz4,
    &zstd::Zstd,
    &xz::Xz,
];

/// The codec of a name, which is also its long option.
pub fn by_name(name: &str) -> Option<&'static dyn Codec> {
    CODECS
        .iter()
        .copied()
        .find(|codec| codec.info().name == name)
}

/// The codec of a suffix, with its dot; the empty suffix is no compression.
pub fn by_suffix(suffix: &str) -> Option<&'static dyn Codec> {
    CODECS
        .iter()
        .copied()
        .find(|codec| codec.info().suffix == suffix)
}

/// The suffixes of all codecs, the empty one included.
pub fn suffixes() -> Vec<&'static str> {
    CODECS.iter().map(|codec| codec.info().suffix).collect()
}

/// The suffixes that archives of base backups may have.
pub fn backup_suffixes() -> Vec<&'static str> {
    let codecs = CODECS.iter().filter(|codec| codec.info().for_backup);
    codecs.map(|codec| codec.info().suffix).collect()
}

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

impl Levels {
    /// The number that is meant; out of range, the nearest one that is not.
    pub fn number(&self, level: Level) -> i32 {
        match level {
            Level::Low => self.low,
            Level::Medium => self.medium,
            Level::High => self.high,
            Level::Number(number) => number.clamp(self.min, self.max),
        }
    }
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

/// A level as a number without a sign, for codecs that have only those.
fn unsigned(levels: Option<&Levels>, level: Level) -> u32 {
    let number = levels.map_or(0, |levels| levels.number(level));
    u32::try_from(number).expect("the table's lowest level is not negative")
}

#[cfg(test)]
mod tests;
