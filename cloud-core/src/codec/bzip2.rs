//! bzip2, in pure Rust.

use std::io::{self, Read, Write};

use bzip2::write::BzEncoder;
use bzip2::{Compression, Decompress, Status};

use super::concatenated::{Concatenated, OneStream, Step};
use super::{Codec, CodecInfo, Encoder, Level, Levels, unsigned};

/// bzip2: one stream written, any number read.
#[derive(Debug)]
pub(super) struct Bzip2;

static INFO: CodecInfo = CodecInfo {
    name: "bzip2",
    suffix: ".bz2",
    for_backup: true,
    backup_level: 9,
    levels: Some(Levels {
        min: 1,
        max: 9,
        low: 1,
        medium: 5,
        high: 9,
    }),
};

impl Codec for Bzip2 {
    fn info(&self) -> &'static CodecInfo {
        &INFO
    }

    fn encoder(&self, out: Box<dyn Write + Send>, level: Level) -> io::Result<Box<dyn Encoder>> {
        let level = Compression::new(unsigned(INFO.levels.as_ref(), level));
        Ok(Box::new(Stream(BzEncoder::new(out, level))))
    }

    fn decoder(&self, input: Box<dyn Read + Send>) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(Concatenated::<Decoder>::new(input)))
    }
}

struct Stream(BzEncoder<Box<dyn Write + Send>>);

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Encoder for Stream {
    fn finish(self: Box<Self>) -> io::Result<()> {
        self.0.finish()?.flush()
    }
}

struct Decoder(Decompress);

impl OneStream for Decoder {
    fn begin() -> io::Result<Self> {
        Ok(Self(Decompress::new(false)))
    }

    fn decode(&mut self, input: &[u8], output: &mut [u8]) -> io::Result<Step> {
        let (used, made) = (self.0.total_in(), self.0.total_out());
        let status = self.0.decompress(input, output)?;
        let count = |total: u64, before: u64| {
            usize::try_from(total - before).expect("it is at most a buffer")
        };
        Ok(Step {
            used: count(self.0.total_in(), used),
            made: count(self.0.total_out(), made),
            ended: status == Status::StreamEnd,
        })
    }
}
