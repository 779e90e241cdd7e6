//! LZ4 frames, by the C library: WAL levels reach its high-compression mode.

use std::io::{self, BufRead, BufReader, Read, Write};

use lz4::{BlockMode, BlockSize, ContentChecksum, EncoderBuilder};

use super::{Codec, CodecInfo, Encoder, Level, Levels, unsigned};

/// LZ4 frames: one written, any number read.
#[derive(Debug)]
pub(super) struct Lz4;

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

impl Codec for Lz4 {
    fn info(&self) -> &'static CodecInfo {
        &INFO
    }

    fn encoder(&self, out: Box<dyn Write + Send>, level: Level) -> io::Result<Box<dyn Encoder>> {
        let encoder = EncoderBuilder::new()
            .level(unsigned(INFO.levels.as_ref(), level))
            .block_size(BlockSize::Max64KB)
            .block_mode(BlockMode::Linked)
            // The reference writes none, and every reader checks one that is
            // there: a flipped bit is found wherever the frame is read.
            .checksum(ContentChecksum::ChecksumEnabled)
            .build(out)?;
        Ok(Box::new(Frame(encoder)))
    }

    fn decoder(&self, input: Box<dyn Read + Send>) -> io::Result<Box<dyn Read + Send>> {
        let input = BufReader::with_capacity(128 << 10, input);
        Ok(Box::new(Frames {
            frame: Some(lz4::Decoder::new(input)?),
        }))
    }
}

struct Frame(lz4::Encoder<Box<dyn Write + Send>>);

impl Write for Frame {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Encoder for Frame {
    fn finish(self: Box<Self>) -> io::Result<()> {
        let (mut out, result) = self.0.finish();
        result?;
        out.flush()
    }
}

/// Frames one after the other. The library reads one and no byte more, and
/// says only when asked whether it had reached the end.
struct Frames {
    frame: Option<lz4::Decoder<BufReader<Box<dyn Read + Send>>>>,
}

impl Read for Frames {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        while let Some(frame) = &mut self.frame {
            let made = frame.read(buf).map_err(damaged)?;
            if made > 0 {
                return Ok(made);
            }
            let Some((mut input, ended)) = self.frame.take().map(lz4::Decoder::finish) else {
                break;
            };
            ended.map_err(|_| {
                io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the compressed data ends early",
                )
            })?;
            if !input.fill_buf()?.is_empty() {
                self.frame = Some(lz4::Decoder::new(input)?);
            }
        }
        Ok(0)
    }
}

/// The library reports damage as `Other` with a name of its own.
fn damaged(error: io::Error) -> io::Error {
    match error.get_ref() {
        Some(inner) if inner.is::<lz4::liblz4::LZ4Error>() => {
            io::Error::new(io::ErrorKind::InvalidData, inner.to_string())
        }
        _ => error,
    }
}
