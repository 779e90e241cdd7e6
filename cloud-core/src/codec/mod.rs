//! Compression of archives and WAL files.
//!
//! What is written is always **one** gzip member, bzip2 stream, lz4 frame, zstd
//! frame or xz stream: the tools we are compatible with read the first member
//! of an archive and may drop the rest without a word. What is read may be
//! several of them one after the other; a stream that ends early is an error,
//! never a short file.
//!
//! An encoder that is dropped before [`Encoder::finish`] writes nothing more, so
//! an abandoned stream never looks whole. Equal bytes at an equal level give
//! equal output: no names, no times.
//!
//! What cutting and flipping can go unnoticed on reading is a matter of the
//! format. A cut is always noticed but for snappy, whose framing has no end
//! mark: cut exactly between two of its chunks it is a shorter valid stream, so
//! whoever reads snappy also checks the size (of a segment) or the end (of a
//! tar archive). A flip is noticed by the checksums of gzip, bzip2, xz and
//! snappy; lz4 and zstd have an optional one, which we write although the tools
//! we are compatible with do not, since their readers verify it when it is
//! there.
//!
//! Everything here is synchronous; `transfer` joins it with the store. Nothing
//! here knows of files or of the names of objects.

use std::fmt;
use std::io::{self, Read, Write};

mod blocks;
mod bzip2;
mod crew;
mod guard;
mod gzip;
mod lz4;
mod none;
mod snappy;
mod stream;
mod workers;
mod xxh32;
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

    /// Memory of an encoder at work, in bytes and rounded up, for whoever has several.
    ///
    /// Measured with 16 MiB of data; xz and bzip2 agree with their manual pages.
    fn encoder_memory(&self, level: Level) -> u64;

    /// An encoder that writes what it makes to `out`.
    fn encoder(&self, out: Box<dyn Write + Send>, level: Level) -> io::Result<Box<dyn Encoder>>;

    /// The same on `threads` threads beside the one that writes, and still one stream.
    ///
    /// What comes out does not depend on their number, but may be other bytes than
    /// those of [`encoder`](Self::encoder), which is what remains where several
    /// threads are of no use.
    fn parallel(
        &self,
        out: Box<dyn Write + Send>,
        level: Level,
        _threads: usize,
    ) -> io::Result<Box<dyn Encoder>> {
        self.encoder(out, level)
    }

    /// What compresses bytes that are in memory as a whole; `None` where an
    /// [`encoder`](Self::encoder) is just as fast. What comes out may be other bytes than
    /// an encoder's.
    fn whole(&self) -> Option<Whole> {
        Option::None
    }

    /// A decoder of what `input` delivers.
    ///
    /// Concatenated members are read through; `UnexpectedEof` if the last one
    /// is cut, `InvalidData` if the bytes are wrong or something else follows.
    /// Empty input is an error for every codec but "none". Failures of `input`
    /// pass through with their kind; after any error there is no success.
    fn decoder(&self, input: Box<dyn Read + Send>) -> io::Result<Box<dyn Read + Send>>;

    /// The same on `threads` threads beside the one that reads, where several are of use.
    fn parallel_decoder(
        &self,
        input: Box<dyn Read + Send>,
        _threads: usize,
    ) -> io::Result<Box<dyn Read + Send>> {
        self.decoder(input)
    }
}

/// Compresses bytes that are in memory as a whole.
#[derive(Debug, Clone, Copy)]
pub struct Whole {
    /// Most bytes that can come out of so many.
    pub bound: fn(usize) -> usize,
    /// Writes a whole stream of the first slice to the second, and tells its length.
    pub compress: fn(&[u8], Level, &mut [u8]) -> io::Result<usize>,
}

/// Takes plain bytes; the compressed ones go to the writer it was made with.
///
/// `flush` passes on what is encoded, and cuts no block short for it. After any
/// error there is no success, and `finish` fails.
pub trait Encoder: Write + Send {
    /// Most plain bytes that were taken and are not in the output yet, where these
    /// can be more than a block.
    fn held(&self) -> u64 {
        0
    }

    /// Writes the end of the stream and flushes. What was encoded is whole only
    /// after this returned `Ok`. Dropped without it, the encoder writes nothing
    /// more.
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
    /// Whether one stream is decoded on several threads: a thread decodes some 10 MB in a
    /// second, where other codecs' are faster than a network.
    pub decoded_apart: bool,
    /// Level used for base backups (ignored where there are no levels).
    pub backup_level: i32,
    /// Levels for WAL, or `None` where there are none.
    pub levels: Option<Levels>,
}

impl CodecInfo {
    /// What `level` is as a number of this codec; 0 where there are no levels.
    pub fn number(&self, level: Level) -> i32 {
        self.levels
            .as_ref()
            .map_or(0, |levels| levels.number(level))
    }
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

#[cfg(test)]
mod tests;
