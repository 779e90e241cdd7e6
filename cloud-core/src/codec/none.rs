//! No compression: bytes pass as they are, and any number of them, even none,
//! is a whole stream.

use std::io::{self, Read, Write};

use super::{Codec, CodecInfo, Encoder, Level, guard};

static INFO: CodecInfo = CodecInfo {
    name: "none",
    suffix: "",
    for_backup: true,
    decoded_apart: false,
    backup_level: 0,
    levels: Option::None,
};

/// No compression.
#[derive(Debug)]
pub struct None;

impl Codec for None {
    fn info(&self) -> &'static CodecInfo {
        &INFO
    }

    fn encoder_memory(&self, _level: Level) -> u64 {
        1 << 20
    }

    fn encoder(&self, out: Box<dyn Write + Send>, _level: Level) -> io::Result<Box<dyn Encoder>> {
        Ok(guard::encoding(Through(out)))
    }

    fn decoder(&self, input: Box<dyn Read + Send>) -> io::Result<Box<dyn Read + Send>> {
        Ok(guard::decoding(input))
    }
}

struct Through(Box<dyn Write + Send>);

impl Write for Through {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Encoder for Through {
    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.0.flush()
    }
}
