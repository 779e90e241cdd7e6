//! gzip: one member, no file name, time 0.
//!
//! The decoder's memory is bounded by the format (a window of 32 KiB). Every
//! member's CRC-32 and size are verified.

use std::io::{self, Read, Write};

use flate2::{Compress, Compression, Crc, Decompress, FlushCompress, FlushDecompress, Status};

use super::stream::{Pack, Packer, Step, Unpack, Unpacker, since};
use super::workers::{Block, Join, Parallel, Work};
use super::{Codec, CodecInfo, Encoder, Level, Levels, guard};

/// Base backups use level 6, where the reference uses 9 and pays
/// half its speed for one or two percent of size.
static INFO: CodecInfo = CodecInfo {
    name: "gzip",
    suffix: ".gz",
    for_backup: true,
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
            crc: Crc::new(),
        };
        Ok(guard::encoding(Parallel::new(member, out, threads)?))
    }

    fn decoder(&self, input: Box<dyn Read + Send>) -> io::Result<Box<dyn Read + Send>> {
        let unpack = Members(Decompress::new_gzip(WINDOW_BITS));
        Ok(guard::decoding(Unpacker::new(unpack, input)))
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
    crc: Crc,
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

    fn join(&mut self, block: &Block<Crc>, out: &mut dyn Write) -> io::Result<()> {
        self.crc.combine(&block.note);
        out.write_all(&block.packed)
    }

    fn end(&mut self, out: &mut dyn Write) -> io::Result<()> {
        // An empty block that is marked as the last one.
        out.write_all(&[3, 0])?;
        out.write_all(&self.crc.sum().to_le_bytes())?;
        // Modulo 2^32, as the format has it.
        out.write_all(&self.crc.amount().to_le_bytes())
    }
}

/// Compresses without a header.
struct Deflate {
    raw: Compress,
    /// For a try on what looks like noise.
    fastest: Compress,
}

impl Work for Deflate {
    type Note = Crc;

    fn pack(&mut self, block: &mut Block<Crc>) -> io::Result<()> {
        let (history, plain, packed) = block.parts();
        // What was compressed or encrypted before takes longest and shrinks to nothing. The try
        // finds what is repeated in it.
        let mut is_noise = looks_like_noise(plain);
        if is_noise {
            deflate(&mut self.fastest, history, plain, packed)?;
            is_noise = packed.len() >= plain.len() - plain.len() / 64;
            packed.clear();
        }
        if is_noise {
            store(plain, packed);
        } else {
            deflate(&mut self.raw, history, plain, packed)?;
        }
        let mut crc = Crc::new();
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

struct Members(Decompress);

impl Unpack for Members {
    fn step(&mut self, input: &[u8], output: &mut [u8], _at_end: bool) -> io::Result<Step> {
        let before = (self.0.total_in(), self.0.total_out());
        let status = self.0.decompress(input, output, FlushDecompress::None)?;
        Ok(Step {
            consumed: since(before.0, self.0.total_in()),
            produced: since(before.1, self.0.total_out()),
            end: status == Status::StreamEnd,
        })
    }

    fn restart(&mut self) -> io::Result<()> {
        self.0 = Decompress::new_gzip(WINDOW_BITS);
        Ok(())
    }
}
