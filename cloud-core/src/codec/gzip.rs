//! gzip: one member, no file name, time 0.
//!
//! The decoder's memory is bounded by the format (a window of 32 KiB). Every
//! member's CRC-32 and size are verified.

use std::io::{self, Read, Write};

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::stream::{Pack, Packer, Step, Unpack, Unpacker, since};
use super::{Codec, CodecInfo, Encoder, Level, Levels, guard};

/// Base backups use level 6, where the reference uses 9 and pays
/// half its speed for one or two percent of size.
static INFO: CodecInfo = CodecInfo {
    name: "gzip",
    suffix: ".gz",
    for_backup: true,
    backup_level: 6,
    levels: Some(Levels {
        min: 1,
        max: 9,
        low: 1,
        medium: 6,
        high: 9,
    }),
};

/// Base-2 logarithm of the window: the largest, which every reader has to take.
const WINDOW_BITS: u8 = 15;

/// See the module.
#[derive(Debug)]
pub(super) struct Gzip;

impl Codec for Gzip {
    fn info(&self) -> &'static CodecInfo {
        &INFO
    }

    fn encoder_memory(&self, _level: Level) -> u64 {
        1 << 20
    }

    fn encoder(&self, out: Box<dyn Write + Send>, level: Level) -> io::Result<Box<dyn Encoder>> {
        let level = Compression::new(INFO.number(level).unsigned_abs());
        let pack = Member(Compress::new_gzip(level, WINDOW_BITS));
        Ok(guard::encoding(Packer::new(pack, out)))
    }

    fn decoder(&self, input: Box<dyn Read + Send>) -> io::Result<Box<dyn Read + Send>> {
        let unpack = Members(Decompress::new_gzip(WINDOW_BITS));
        Ok(guard::decoding(Unpacker::new(unpack, input)))
    }
}

struct Member(Compress);

impl Pack for Member {
    fn step(&mut self, input: &[u8], output: &mut [u8], finish: bool) -> io::Result<Step> {
        let flush = if finish {
            FlushCompress::Finish
        } else {
            FlushCompress::None
        };
        let before = (self.0.total_in(), self.0.total_out());
        let status = self.0.compress(input, output, flush)?;
        Ok(Step {
            consumed: since(before.0, self.0.total_in()),
            produced: since(before.1, self.0.total_out()),
            end: status == Status::StreamEnd,
        })
    }
}

struct Members(Decompress);

impl Unpack for Members {
    fn step(&mut self, input: &[u8], output: &mut [u8], _at_end: bool) -> io::Result<Step> {
        let before = (self.0.total_in(), self.0.total_out());
        let status = self.0.decompress(input, output, FlushDecompress::None)?;
        Ok(Step {
            consumed: since(before.0, self.0.total_in()),
            produced: since(before.1, self.0.total_out()),
            end: status == Status::StreamEnd,
        })
    }

    fn restart(&mut self) -> io::Result<()> {
        self.0 = Decompress::new_gzip(WINDOW_BITS);
        Ok(())
    }
}
