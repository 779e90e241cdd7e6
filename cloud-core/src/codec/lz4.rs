//! lz4: one frame of linked 64 KiB blocks, or, made on several threads, of
//! independent 256 KiB blocks; with a content checksum.
//!
//! The checksum is ours: the tools we are compatible with write none, but their
//! readers verify it when it is there, and without it a flipped bit is restored
//! as data. Levels from 3 on use the library's high-compression mode.
//!
//! The decoder's memory is bounded by the format (blocks of up to 4 MiB).

use std::io::{self, BufRead, BufReader, Read, Write};

use ::lz4::block::{CompressionMode, compress_bound, compress_to_buffer};
use ::lz4::liblz4::{BlockChecksum, LZ4Error};
use ::lz4::{BlockMode, BlockSize, ContentChecksum, EncoderBuilder};

use super::blocks::Blocks;
use super::guard::{corrupt, cut, empty};
use super::workers::{Block, Join, Parallel, Work};
use super::xxh32::Xxh32;
use super::{Codec, CodecInfo, Encoder, Level, Levels, guard};

static INFO: CodecInfo = CodecInfo {
    name: "lz4",
    suffix: ".lz4",
    for_backup: true,
    decoded_apart: false,
    backup_level: 0,
    levels: Some(Levels {
        min: 0,
        max: 16,
        low: 0,
        medium: 6,
        high: 10,
    }),
};

/// Plain bytes of a block.
const BLOCK: usize = 64 << 10;

/// Bytes fetched from the input at a time.
const BUFFER: usize = 128 << 10;

/// See the module.
#[derive(Debug)]
pub(super) struct Lz4;

impl Codec for Lz4 {
    fn info(&self) -> &'static CodecInfo {
        &INFO
    }

    fn encoder_memory(&self, _level: Level) -> u64 {
        1 << 20
    }

    fn encoder(&self, out: Box<dyn Write + Send>, level: Level) -> io::Result<Box<dyn Encoder>> {
        let encoder = EncoderBuilder::new()
            .level(INFO.number(level).unsigned_abs())
            .block_size(BlockSize::Max64KB)
            .block_mode(BlockMode::Linked)
            .block_checksum(BlockChecksum::NoBlockChecksum)
            .checksum(ContentChecksum::ChecksumEnabled)
            .build(out)?;
        Ok(guard::encoding(Frame {
            encoder,
            blocks: Blocks::new(BLOCK),
        }))
    }

    fn parallel(
        &self,
        out: Box<dyn Write + Send>,
        level: Level,
        threads: usize,
    ) -> io::Result<Box<dyn Encoder>> {
        let frame = Independent {
            level: INFO.number(level),
            content: Xxh32::new(),
        };
        Ok(guard::encoding(Parallel::new(frame, out, threads)?))
    }

    fn decoder(&self, input: Box<dyn Read + Send>) -> io::Result<Box<dyn Read + Send>> {
        Ok(guard::decoding(Frames {
            now: Now::Between(BufReader::with_capacity(BUFFER, input)),
            any: false,
        }))
    }
}

struct Frame {
    encoder: ::lz4::Encoder<Box<dyn Write + Send>>,
    /// The library's output would depend on the pieces of its input.
    blocks: Blocks,
}

impl Write for Frame {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let encoder = &mut self.encoder;
        self.blocks.feed(buf, |block| encoder.write_all(block))?;
        Ok(buf.len())
    }

    /// Does nothing: the library passes on each block as it is made, and
    /// pushing out a short one would cost compression and change the output.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Encoder for Frame {
    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.encoder.write_all(&self.blocks.into_rest())?;
        let (mut out, result) = self.encoder.finish();
        result?;
        out.flush()
    }
}

/// One frame of blocks that know nothing of each other.
///
/// Source of the numbers: `lz4_Frame_format.md`, version 1.6.4.
struct Independent {
    level: i32,
    /// Checksum of everything that was written.
    content: Xxh32,
}

const MAGIC: [u8; 4] = 0x184D_2204_u32.to_le_bytes();

/// Version 1, independent blocks, a content checksum; blocks of up to 256 KiB.
const DESCRIPTOR: [u8; 2] = [0b0110_0100, 5 << 4];

/// In the size of a block: it is stored as it is.
const UNCOMPRESSED: u32 = 1 << 31;

impl Join for Independent {
    type Worker = Compress;

    /// As the descriptor says. A match reaches 64 KiB back, so what the beginnings
    /// of blocks lose is little.
    const BLOCK: usize = 256 << 10;

    const HISTORY: usize = 0;

    fn worker(&self) -> io::Result<Compress> {
        // From where on the library's frames are made in its high-compression mode.
        let mode = match self.level {
            ..2 => CompressionMode::DEFAULT,
            level => CompressionMode::HIGHCOMPRESSION(level),
        };
        Ok(Compress(mode))
    }

    fn begin(&mut self, out: &mut dyn Write) -> io::Result<()> {
        let mut sum = Xxh32::new();
        sum.update(&DESCRIPTOR);
        let [_, second, ..] = sum.sum().to_le_bytes();
        out.write_all(&MAGIC)?;
        out.write_all(&DESCRIPTOR)?;
        out.write_all(&[second])
    }

    fn join(&mut self, block: &Block<()>, out: &mut dyn Write) -> io::Result<()> {
        self.content.update(block.plain());
        out.write_all(&block.packed)
    }

    fn end(&mut self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&[0; 4])?;
        out.write_all(&self.content.sum().to_le_bytes())
    }
}

/// Makes blocks with their sizes before them.
struct Compress(CompressionMode);

impl Work for Compress {
    type Note = ();

    fn pack(&mut self, block: &mut Block<()>) -> io::Result<()> {
        let (_, plain, packed) = block.parts();
        packed.resize(4 + compress_bound(plain.len())?, 0);
        let (header, body) = packed.split_at_mut(4);
        let mut length = compress_to_buffer(plain, Some(self.0), false, body)?;
        let mut kind = 0;
        if length >= plain.len() {
            length = plain.len();
            kind = UNCOMPRESSED;
            body[..length].copy_from_slice(plain);
        }
        let size = u32::try_from(length).expect("a block is at most 256 KiB");
        header.copy_from_slice(&(size | kind).to_le_bytes());
        packed.truncate(4 + length);
        Ok(())
    }
}

type Input = BufReader<Box<dyn Read + Send>>;

/// Frame after frame.
///
/// The library's reader asks for no byte behind its frame, answers "end" both
/// at the end of the frame and where the input was cut, and knows afterwards
/// which of them it was.
struct Frames {
    now: Now,
    /// Whether there was a frame.
    any: bool,
}

enum Now {
    Between(Input),
    Inside(::lz4::Decoder<Input>),
    /// Only while one of the others is taken apart, and after an error.
    Nowhere,
}

impl Read for Frames {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match &mut self.now {
                Now::Between(input) => {
                    if input.fill_buf()?.is_empty() {
                        return if self.any { Ok(0) } else { Err(empty()) };
                    }
                    self.any = true;
                }
                Now::Inside(decoder) => {
                    let read = decoder.read(buf).map_err(library)?;
                    if read > 0 {
                        return Ok(read);
                    }
                }
                Now::Nowhere => return Err(cut()),
            }
            self.now = match std::mem::replace(&mut self.now, Now::Nowhere) {
                Now::Between(input) => Now::Inside(::lz4::Decoder::new(input)?),
                Now::Inside(decoder) => {
                    let (input, end) = decoder.finish();
                    end.map_err(|_| cut())?;
                    Now::Between(input)
                }
                Now::Nowhere => return Err(cut()),
            };
        }
    }
}

/// Tells the library's complaints about the bytes from failures to read them.
fn library(error: io::Error) -> io::Error {
    if let Some(inner) = error.get_ref()
        && inner.is::<LZ4Error>()
    {
        corrupt(error)
    } else {
        error
    }
}
