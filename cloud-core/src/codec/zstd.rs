//! Zstandard.

use std::io::{self, Read, Write};

use zstd::stream::raw::{CParameter, DParameter, Operation};

use super::concatenated::{Concatenated, OneStream, Step};
use super::{Codec, CodecInfo, Encoder, Level, Levels};

/// Largest window that is read, as a power of two: 128 MiB, what readers of
/// base backups take. More would be memory that a hostile object chooses.
const WINDOW_LOG_MAX: u32 = 27;

/// Zstandard: one frame written, any number read.
#[derive(Debug)]
pub(super) struct Zstd;

static INFO: CodecInfo = CodecInfo {
    name: "zstd",
    suffix: ".zst",
    for_backup: true,
    backup_level: 3,
    levels: Some(Levels {
        min: -22,
        max: 22,
        low: 1,
        medium: 4,
        high: 9,
    }),
};

impl Codec for Zstd {
    fn info(&self) -> &'static CodecInfo {
        &INFO
    }

    fn encoder(&self, out: Box<dyn Write + Send>, level: Level) -> io::Result<Box<dyn Encoder>> {
        let level = INFO
            .levels
            .as_ref()
            .map_or(0, |levels| levels.number(level));
        let mut encoder = zstd::stream::write::Encoder::new(out, level)?;
        // The reference writes none, and every reader checks one that is there:
        // a flipped bit is found wherever the frame is read.
        encoder.set_parameter(CParameter::ChecksumFlag(true))?;
        Ok(Box::new(Frame(encoder)))
    }

    fn decoder(&self, input: Box<dyn Read + Send>) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(Concatenated::<Decoder>::new(input)))
    }
}

struct Frame(zstd::stream::write::Encoder<'static, Box<dyn Write + Send>>);

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
        self.0.finish()?.flush()
    }
}

struct Decoder(zstd::stream::raw::Decoder<'static>);

impl OneStream for Decoder {
    fn begin() -> io::Result<Self> {
        let mut decoder = zstd::stream::raw::Decoder::new()?;
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))?;
        Ok(Self(decoder))
    }

    fn decode(&mut self, input: &[u8], output: &mut [u8]) -> io::Result<Step> {
        let status = self.0.run_on_buffers(input, output);
        let status = status.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok(Step {
            used: status.bytes_read,
            made: status.bytes_written,
            // The library's hint of what it still wants; nothing at the end.
            ended: status.remaining == 0,
        })
    }
}
