//! xz, by liblzma.

use std::io::{self, Read, Write};

use liblzma::stream::{Action, Check, Status, Stream};
use liblzma::write::XzEncoder;

use super::concatenated::{Concatenated, OneStream, Step};
use super::{Codec, CodecInfo, Encoder, Level, Levels, unsigned};

/// Memory a decoder may use, in bytes: preset 9 needs 65 MiB. More would be
/// memory that a hostile object chooses.
const MEMORY_LIMIT: u64 = 128 << 20;

/// xz: one stream written, any number read.
#[derive(Debug)]
pub(super) struct Xz;

static INFO: CodecInfo = CodecInfo {
    name: "xz",
    suffix: ".xz",
    // The reference reads none in base backups.
    for_backup: false,
    backup_level: 3,
    levels: Some(Levels {
        min: 1,
        max: 9,
        low: 1,
        medium: 3,
        high: 5,
    }),
};

impl Codec for Xz {
    fn info(&self) -> &'static CodecInfo {
        &INFO
    }

    fn encoder(&self, out: Box<dyn Write + Send>, level: Level) -> io::Result<Box<dyn Encoder>> {
        let preset = unsigned(INFO.levels.as_ref(), level);
        let stream = Stream::new_easy_encoder(preset, Check::Crc64).map_err(io::Error::from)?;
        Ok(Box::new(Encoding(XzEncoder::new_stream(out, stream))))
    }

    fn decoder(&self, input: Box<dyn Read + Send>) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(Concatenated::<Decoder>::new(input)))
    }
}

struct Encoding(XzEncoder<Box<dyn Write + Send>>);

impl Write for Encoding {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Encoder for Encoding {
    fn finish(self: Box<Self>) -> io::Result<()> {
        self.0.finish()?.flush()
    }
}

struct Decoder(Stream);

impl OneStream for Decoder {
    fn begin() -> io::Result<Self> {
        Ok(Self(
            Stream::new_stream_decoder(MEMORY_LIMIT, 0).map_err(io::Error::from)?,
        ))
    }

    fn decode(&mut self, input: &[u8], output: &mut [u8]) -> io::Result<Step> {
        let (used, made) = (self.0.total_in(), self.0.total_out());
        let action = if input.is_empty() {
            Action::Finish
        } else {
            Action::Run
        };
        let status = self.0.process(input, output, action);
        let count = |total: u64, before: u64| {
            usize::try_from(total - before).expect("it is at most a buffer")
        };
        let (used, made) = (
            count(self.0.total_in(), used),
            count(self.0.total_out(), made),
        );
        match status {
            Ok(status) => Ok(Step {
                used,
                made,
                ended: status == Status::StreamEnd,
            }),
            Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
    }
}
