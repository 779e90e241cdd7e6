//! xz: one stream with CRC-64; for WAL only.
//!
//! The decoder refuses what would need more than [`MEMORY_LIMIT`]: the format
//! allows dictionaries of 4 GiB, and the size stands in the input.

use std::io::{self, Read, Write};

use liblzma::stream::{Action, CONCATENATED, Check, Status, Stream};

use super::stream::{Pack, Packer, Step, Unpack, Unpacker, since};
use super::{Codec, CodecInfo, Encoder, Level, Levels, guard};

static INFO: CodecInfo = CodecInfo {
    name: "xz",
    suffix: ".xz",
    for_backup: false,
    decoded_apart: false,
    backup_level: 3,
    levels: Some(Levels {
        min: 1,
        max: 9,
        low: 1,
        medium: 3,
        high: 5,
    }),
};

/// Most memory the decoder may take, in bytes.
///
/// Preset 9, the largest anybody writes without naming a dictionary size, needs
/// 65 MiB (source: `xz --info-memory`, manual page of xz, table of presets).
const MEMORY_LIMIT: u64 = 80 << 20;

/// See the module.
#[derive(Debug)]
pub(super) struct Xz;

impl Codec for Xz {
    fn info(&self) -> &'static CodecInfo {
        &INFO
    }

    fn encoder_memory(&self, level: Level) -> u64 {
        let mebibytes = match INFO.number(level) {
            ..=1 => 9,
            2 => 17,
            3 => 32,
            4..=6 => 96,
            7 => 192,
            8 => 384,
            9.. => 704,
        };
        mebibytes << 20
    }

    fn encoder(&self, out: Box<dyn Write + Send>, level: Level) -> io::Result<Box<dyn Encoder>> {
        let preset = INFO.number(level).unsigned_abs();
        let pack = One(Stream::new_easy_encoder(preset, Check::Crc64)?);
        Ok(guard::encoding(Packer::new(pack, out)))
    }

    fn decoder(&self, input: Box<dyn Read + Send>) -> io::Result<Box<dyn Read + Send>> {
        let unpack = Several(several()?);
        Ok(guard::decoding(Unpacker::new(unpack, input)))
    }
}

struct One(Stream);

impl Pack for One {
    fn step(&mut self, input: &[u8], output: &mut [u8], finish: bool) -> io::Result<Step> {
        let action = if finish { Action::Finish } else { Action::Run };
        step(&mut self.0, input, output, action)
    }
}

/// The library itself reads concatenated streams and the zeroes that may stand
/// between them.
struct Several(Stream);

fn several() -> io::Result<Stream> {
    Ok(Stream::new_stream_decoder(MEMORY_LIMIT, CONCATENATED)?)
}

impl Unpack for Several {
    fn step(&mut self, input: &[u8], output: &mut [u8], at_end: bool) -> io::Result<Step> {
        let action = if at_end { Action::Finish } else { Action::Run };
        step(&mut self.0, input, output, action)
    }

    fn restart(&mut self) -> io::Result<()> {
        self.0 = several()?;
        Ok(())
    }
}

fn step(stream: &mut Stream, input: &[u8], output: &mut [u8], action: Action) -> io::Result<Step> {
    let before = (stream.total_in(), stream.total_out());
    let status = stream.process(input, output, action)?;
    Ok(Step {
        consumed: since(before.0, stream.total_in()),
        produced: since(before.1, stream.total_out()),
        end: status == Status::StreamEnd,
    })
}
