//! gzip: one member, no file name, time 0.
//!
//! The decoder's memory is bounded by the format (a window of 32 KiB). Every
//! member's CRC-32 and size are verified.

mod members;

use std::io::{self, Read, Write};

use crc32fast::Hasher;
use flate2::{Compress, Compression, FlushCompress, Status};

use self::members::Members;
use super::stream::{Pack, Packer, Step, Unpacker, since};
use super::workers::{Block, Join, Parallel, Work};
use super::{Codec, CodecInfo, Encoder, Level, Levels, guard};

/// Base backups use level 6, where the reference uses 9 and pays
/// half its speed for one or two percent of size.
static INFO: CodecInfo = CodecInfo {
    name: "gzip",
    suffix: ".gz",
    for_backup: true,
    decoded_apart: false,
    backup_level: 6,
    levels: Some(Levels {
        min: 1,
        max: 9,
        low: 1,
        medium: 6,
        high: 9,
    }),
};

/// Base-2 logarithm of the window: the largest, which every reader has to take.
const WINDOW_BITS: u8 = 15;

/// See the module.
#[derive(Debug)]
pub(super) struct Gzip;

impl Codec for Gzip {
    fn info(&self) -> &'static CodecInfo {
        &INFO
    }

    fn encoder_memory(&self, _level: Level) -> u64 {
        1 << 20
    }

    fn encoder(&self, out: Box<dyn Write + Send>, level: Level) -> io::Result<Box<dyn Encoder>> {
        let level = Compression::new(INFO.number(level).unsigned_abs());
        let pack = Member(Compress::new_gzip(level, WINDOW_BITS));
        Ok(guard::encoding(Packer::new(pack, out)))
    }

    fn parallel(
        &self,
        out: Box<dyn Write + Send>,
        level: Level,
        threads: usize,
    ) -> io::Result<Box<dyn Encoder>> {
        let member = Pieces {
            level: Compression::new(INFO.number(level).unsigned_abs()),
            crc: Hasher::new(),
            size: 0,
        };
        Ok(guard::encoding(Parallel::new(member, out, threads)?))
    }

    fn decoder(&self, input: Box<dyn Read + Send>) -> io::Result<Box<dyn Read + Send>> {
        Ok(guard::decoding(Unpacker::new(Members::new(), input)))
    }
}

struct Member(Compress);

impl Pack for Member {
    fn step(&mut self, input: &[u8], output: &mut [u8], finish: bool) -> io::Result<Step> {
        let flush = if finish {
            FlushCompress::Finish
        } else {
            FlushCompress::None
        };
        let before = (self.0.total_in(), self.0.total_out());
        let status = self.0.compress(input, output, flush)?;
        Ok(Step {
            consumed: since(before.0, self.0.total_in()),
            produced: since(before.1, self.0.total_out()),
            end: status == Status::StreamEnd,
        })
    }
}

/// One member, whose blocks are compressed apart: each begins with the window that
/// its reader has by then, and ends with a flush, at a whole byte.
struct Pieces {
    level: Compression,
    /// Of all blocks that were written.
    crc: Hasher,
    /// Of all of them, in bytes, modulo 2^32, as the format has it.
    size: u32,
}

impl Join for Pieces {
    type Worker = Deflate;

    /// A flush costs five bytes, and the first matches in a block are found a
    /// little later: 0.1 % together.
    const BLOCK: usize = 256 << 10;

    const HISTORY: usize = 1 << WINDOW_BITS;

    fn worker(&self) -> io::Result<Deflate> {
        let raw = |level| Compress::new_with_window_bits(level, false, WINDOW_BITS);
        Ok(Deflate {
            raw: raw(self.level),
            fastest: raw(Compression::fast()),
        })
    }

    fn begin(&mut self, out: &mut dyn Write) -> io::Result<()> {
        let effort = match self.level.level() {
            ..=1 => 4,
            2..=8 => 0,
            9.. => 2,
        };
        // No flags, no time; made on Unix.
        out.write_all(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, effort, 3])
    }

    fn join(&mut self, block: &Block<Hasher>, out: &mut dyn Write) -> io::Result<()> {
        self.crc.combine(&block.note);
        let length = u32::try_from(block.plain().len()).expect("a block is small");
        self.size = self.size.wrapping_add(length);
        out.write_all(&block.packed)
    }

    fn end(&mut self, out: &mut dyn Write) -> io::Result<()> {
        // An empty block that is marked as the last one.
        out.write_all(&[3, 0])?;
        out.write_all(&self.crc.clone().finalize().to_le_bytes())?;
        out.write_all(&self.size.to_le_bytes())
    }
}

/// Compresses without a header.
struct Deflate {
    raw: Compress,
    /// For a try on what looks like noise.
    fastest: Compress,
}

impl Deflate {
    /// Tries on the middle of a block whether something is repeated in it, with the window
    /// before that: all of the block would be a fifth of a backup's processor time.
    fn is_noise(&mut self, plain: &[u8], packed: &mut Vec<u8>) -> io::Result<bool> {
        const TRIED: usize = 64 << 10;
        let before = &plain[..plain.len() / 2];
        let window = &before[before.len().saturating_sub(1 << WINDOW_BITS)..];
        let tried = &plain[before.len()..];
        let tried = &tried[..tried.len().min(TRIED)];
        deflate(&mut self.fastest, window, tried, packed)?;
        let shrinks = packed.len() < tried.len() - tried.len() / 64;
        packed.clear();
        Ok(!shrinks)
    }
}

impl Work for Deflate {
    type Note = Hasher;

    fn pack(&mut self, block: &mut Block<Hasher>) -> io::Result<()> {
        let (history, plain, packed) = block.parts();
        // What was compressed or encrypted before takes longest and shrinks to nothing.
        if looks_like_noise(plain) && self.is_noise(plain, packed)? {
            store(plain, packed);
        } else {
            deflate(&mut self.raw, history, plain, packed)?;
        }
        let mut crc = Hasher::new();
        crc.update(plain);
        block.note = crc;
        Ok(())
    }
}

/// Compresses a block behind `history`, up to a whole byte.
fn deflate(
    raw: &mut Compress,
    history: &[u8],
    plain: &[u8],
    packed: &mut Vec<u8>,
) -> io::Result<()> {
    raw.reset();
    if !history.is_empty() {
        raw.set_dictionary(history)?;
    }
    // The flush is complete when it leaves room behind it.
    packed.reserve(plain.len() + plain.len() / 8 + 64);
    // The history counts as well.
    let before = raw.total_in();
    loop {
        let rest = &plain[since(before, raw.total_in())..];
        raw.compress_vec(rest, packed, FlushCompress::Sync)?;
        if packed.len() < packed.capacity() {
            return Ok(());
        }
        packed.reserve(plain.len() / 8 + 64);
    }
}

/// Takes a block as it is.
fn store(plain: &[u8], packed: &mut Vec<u8>) {
    for piece in plain.chunks(usize::from(u16::MAX)) {
        let length = u16::try_from(piece.len()).expect("no piece is longer");
        // Not the last one, of the kind that is stored; whole bytes follow.
        packed.push(0);
        packed.extend_from_slice(&length.to_le_bytes());
        packed.extend_from_slice(&(!length).to_le_bytes());
        packed.extend_from_slice(piece);
    }
}

/// Whether all bytes are about as frequent, in an eighth of them.
fn looks_like_noise(plain: &[u8]) -> bool {
    /// Bits that a byte carries. Of noise a sample of 32 KiB has 7.994; what was compressed
    /// by others has 7.9 and more.
    const NOISE: f64 = 7.9;
    let mut counts = [0_u32; 256];
    // The middle of each page: there is free space before, and headers.
    let sample = plain
        .chunks(8 << 10)
        .flat_map(|page| page.iter().skip(4 << 10).take(1 << 10));
    for byte in sample {
        counts[usize::from(*byte)] += 1;
    }
    let total = f64::from(counts.iter().sum::<u32>());
    let entropy: f64 = counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| {
            let share = f64::from(*count) / total;
            -share * share.log2()
        })
        .sum();
    entropy >= NOISE
}
