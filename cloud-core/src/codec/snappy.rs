//! Snappy, in its framing format.
//!
//! The format has no mark for its end: a stream that is cut between two chunks
//! cannot be told from a whole one. Who reads it must know the size, which WAL
//! segments and tar archives both tell.

use std::io::{self, BufRead, BufReader, Read, Write};

use snap::read::FrameDecoder;
use snap::write::FrameEncoder;

use super::{Codec, CodecInfo, Encoder, Level};

/// Snappy frames.
#[derive(Debug)]
pub(super) struct Snappy;

static INFO: CodecInfo = CodecInfo {
    name: "snappy",
    suffix: ".snappy",
    for_backup: true,
    backup_level: 0,
    levels: None,
};

impl Codec for Snappy {
    fn info(&self) -> &'static CodecInfo {
        &INFO
    }

    fn encoder(&self, out: Box<dyn Write + Send>, _level: Level) -> io::Result<Box<dyn Encoder>> {
        Ok(Box::new(Stream {
            inner: FrameEncoder::new(out),
            any: false,
        }))
    }

    fn decoder(&self, input: Box<dyn Read + Send>) -> io::Result<Box<dyn Read + Send>> {
        let mut input = BufReader::with_capacity(128 << 10, input);
        if input.fill_buf()?.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the compressed data ends early",
            ));
        }
        Ok(Box::new(Decoder(FrameDecoder::new(input))))
    }
}

struct Stream {
    inner: FrameEncoder<Box<dyn Write + Send>>,
    any: bool,
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.any |= !buf.is_empty();
        self.inner.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl Encoder for Stream {
    fn finish(mut self: Box<Self>) -> io::Result<()> {
        if !self.any {
            // The library writes nothing at all for nothing: readers want at
            // least the identifier of the stream.
            self.inner.get_mut().write_all(b"\xff\x06\x00\x00sNaPpY")?;
            return self.inner.get_mut().flush();
        }
        self.inner
            .into_inner()
            .map_err(snap::write::IntoInnerError::into_error)?
            .flush()
    }
}

/// The library reports damage as `Other`; the class matters to callers.
struct Decoder(FrameDecoder<BufReader<Box<dyn Read + Send>>>);

impl Read for Decoder {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf).map_err(|error| match error.get_ref() {
            Some(inner) if inner.is::<snap::Error>() => {
                io::Error::new(io::ErrorKind::InvalidData, inner.to_string())
            }
            _ => error,
        })
    }
}
