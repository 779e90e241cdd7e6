//! No compression.

use std::io::{self, Read, Write};

use super::{Codec, CodecInfo, Encoder, Level};

/// Bytes as they are.
#[derive(Debug)]
pub struct None;

static INFO: CodecInfo = CodecInfo {
    name: "none",
    suffix: "",
    for_backup: true,
    backup_level: 0,
    levels: Option::None,
};

impl Codec for None {
    fn info(&self) -> &'static CodecInfo {
        &INFO
    }

    fn encoder(&self, out: Box<dyn Write + Send>, _level: Level) -> io::Result<Box<dyn Encoder>> {
        Ok(Box::new(Plain(out)))
    }

    fn decoder(&self, input: Box<dyn Read + Send>) -> io::Result<Box<dyn Read + Send>> {
        Ok(input)
    }
}

struct Plain(Box<dyn Write + Send>);

impl Write for Plain {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Encoder for Plain {
    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.0.flush()
    }
}
