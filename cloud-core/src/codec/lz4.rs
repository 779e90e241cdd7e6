//! lz4: one frame of linked 64 KiB blocks, with a content checksum.
//!
//! The checksum is ours: the tools we are compatible with write none, but their
//! readers verify it when it is there, and without it a flipped bit is restored
//! as data. Levels from 3 on use the library's high-compression mode.
//!
//! The decoder's memory is bounded by the format (blocks of up to 4 MiB).

use std::io::{self, BufRead, BufReader, Read, Write};

use ::lz4::liblz4::{BlockChecksum, LZ4Error};
use ::lz4::{BlockMode, BlockSize, ContentChecksum, EncoderBuilder};

use super::blocks::Blocks;
use super::guard::{corrupt, cut, empty};
use super::{Codec, CodecInfo, Encoder, Level, Levels, guard};

static INFO: CodecInfo = CodecInfo {
    name: "lz4",
    suffix: ".lz4",
    for_backup: true,
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
