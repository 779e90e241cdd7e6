//! bzip2: one stream.
//!
//! The decoder's memory is bounded by the format (about 4 MB for each thread, and what goes in
//! and out of it, up to 8 MB). Every block and every stream carries a CRC-32, which is verified.

mod apart;
mod blocks;
mod marks;

use std::io::{self, Read, Write};

use ::bzip2::{Action, Compress, Compression, Decompress, Status};

use self::apart::Apart;
use self::blocks::Stream as Joined;
use super::guard::corrupt;
use super::stream::{Pack, Packer, Step, Unpack, Unpacker, since};
use super::workers::Parallel;
use super::{Codec, CodecInfo, Encoder, Level, Levels, guard};

static INFO: CodecInfo = CodecInfo {
    name: "bzip2",
    suffix: ".bz2",
    for_backup: true,
    decoded_apart: true,
    backup_level: 9,
    levels: Some(Levels {
        min: 1,
        max: 9,
        low: 1,
        medium: 5,
        high: 9,
    }),
};

/// The library's own default for how long repetitive data is sorted the fast
/// way.
const WORK_FACTOR: u32 = 30;

/// See the module.
#[derive(Debug)]
pub(super) struct Bzip2;

impl Codec for Bzip2 {
    fn info(&self) -> &'static CodecInfo {
        &INFO
    }

    fn encoder_memory(&self, _level: Level) -> u64 {
        8 << 20
    }

    fn encoder(&self, out: Box<dyn Write + Send>, level: Level) -> io::Result<Box<dyn Encoder>> {
        let level = Compression::new(INFO.number(level).unsigned_abs());
        let pack = Stream(Compress::new(level, WORK_FACTOR));
        Ok(guard::encoding(Packer::new(pack, out)))
    }

    fn parallel(
        &self,
        out: Box<dyn Write + Send>,
        level: Level,
        threads: usize,
    ) -> io::Result<Box<dyn Encoder>> {
        let level = u8::try_from(INFO.number(level)).expect("levels end at 9");
        let parallel = Parallel::new(Joined::new(level), out, threads)?;
        Ok(guard::encoding(parallel))
    }

    fn decoder(&self, input: Box<dyn Read + Send>) -> io::Result<Box<dyn Read + Send>> {
        let unpack = Streams(Decompress::new(false));
        Ok(guard::decoding(Unpacker::new(unpack, input)))
    }

    fn parallel_decoder(
        &self,
        input: Box<dyn Read + Send>,
        threads: usize,
    ) -> io::Result<Box<dyn Read + Send>> {
        if threads < 2 {
            return self.decoder(input);
        }
        Ok(guard::decoding(Apart::new(input, threads)?))
    }
}

struct Stream(Compress);

impl Pack for Stream {
    fn step(&mut self, input: &[u8], output: &mut [u8], finish: bool) -> io::Result<Step> {
        let action = if finish { Action::Finish } else { Action::Run };
        let before = (self.0.total_in(), self.0.total_out());
        let status = self.0.compress(input, output, action)?;
        Ok(Step {
            consumed: since(before.0, self.0.total_in()),
            produced: since(before.1, self.0.total_out()),
            end: status == Status::StreamEnd,
        })
    }
}

struct Streams(Decompress);

impl Unpack for Streams {
    fn step(&mut self, input: &[u8], output: &mut [u8], _at_end: bool) -> io::Result<Step> {
        let before = (self.0.total_in(), self.0.total_out());
        let status = self.0.decompress(input, output)?;
        if status == Status::MemNeeded {
            return Err(corrupt("not enough memory for a bzip2 block"));
        }
        Ok(Step {
            consumed: since(before.0, self.0.total_in()),
            produced: since(before.1, self.0.total_out()),
            end: status == Status::StreamEnd,
        })
    }

    fn restart(&mut self) -> io::Result<()> {
        self.0 = Decompress::new(false);
        Ok(())
    }
}
