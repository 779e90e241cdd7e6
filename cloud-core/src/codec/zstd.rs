//! zstd: one frame with a checksum and without content size.
//!
//! The checksum is ours: the tools we are compatible with write none, but the
//! library they read with verifies it when it is there, and without it a
//! flipped bit is restored as data.
//!
//! The decoder takes windows of up to 128 MiB, as those tools do.

use std::io::{self, Read, Write};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use ::zstd::bulk::Compressor;
use ::zstd::stream::raw::{CParameter, DParameter, Decoder, Encoder as Raw, Operation, OutBuffer};

use super::stream::{Pack, Packer, Step, Unpack, Unpacker};
use super::{Codec, CodecInfo, Encoder, Level, Levels, Whole, guard};

static INFO: CodecInfo = CodecInfo {
    name: "zstd",
    suffix: ".zst",
    for_backup: true,
    decoded_apart: false,
    backup_level: 3,
    levels: Some(Levels {
        min: -22,
        max: 22,
        low: 1,
        medium: 4,
        high: 9,
    }),
};

/// Base-2 logarithm of the largest window read: 128 MiB, the library's own
/// default; level 22 writes as much.
const WINDOW_LOG_MAX: u32 = 27;

/// Highest level on several threads. From 20 on what counts is a window of 32 MiB and
/// more, and pieces of it for several threads would be gigabytes.
const MOST_PARALLEL: i32 = 19;

/// Plain bytes that a thread is given at a time.
///
/// The library's default is four windows, 8 MiB at level 3; it keeps `threads + 3` such
/// pieces plain, as a ring, and up to the next power of two of `threads + 2` compressed.
/// With two threads a compression by its own program has 54 MiB then, and 12 MiB with
/// 896 KiB (measured): with three parts of 10 MiB that leaves 20 of the 64 MiB which a
/// backup with `--jobs 2` may take. From level 9 on tables alone are larger. At level 19
/// four pieces of 4 MiB are what may have to be waited for when somebody asks to stop.
fn job(level: i32) -> u32 {
    match level {
        ..=8 => 896 << 10,
        9.. => 4 << 20,
    }
}

/// How much of the window a piece begins with, from the end of the one before: 7 is a
/// quarter, 8 a half. At level 3 a quarter, where the library takes an eighth, makes
/// 0.9 % of size of the 1.6 % that pieces cost, for a twentieth of time more (measured).
/// The largest, at level 19, is a piece.
fn overlap(level: i32) -> u32 {
    match level {
        ..=15 => 7,
        16.. => 8,
    }
}

/// Most threads of an encoder. Source: `ZSTDMT_NBWORKERS_MAX`.
const MOST_WORKERS: usize = 256;

/// Bytes passed on at a time by several threads: a call takes what `tar` writes and
/// gives what is ready, which should not be less.
const OUTPUT: usize = 512 << 10;

/// How long the caller stays away when the library's threads had no room for a piece.
///
/// The library is asked again and again then: it gives what the oldest piece has become,
/// tries to hand the next one to a thread, and waits for more of the oldest if none is free.
/// A thread wakes the caller before it counts as free, though, and where the caller takes
/// the processor from it, it is found busy just when it ends, and has nothing to do until
/// another gives something. On two processors that was a sixth of the time (1 GB at level 3
/// in 2.2 s without, 1.9 s with this wait, whose length hardly matters).
const MOMENT: Duration = Duration::from_micros(20);

/// Most plain bytes that `workers` threads keep: the ring, and what is compressed
/// and waits in its turn.
fn held(workers: u32, level: i32) -> u64 {
    let pieces = workers + 3 + (workers + 2).next_power_of_two();
    u64::from(job(level)) * u64::from(pieces)
}

/// See the module.
#[derive(Debug)]
pub(super) struct Zstd;

impl Codec for Zstd {
    fn info(&self) -> &'static CodecInfo {
        &INFO
    }

    fn encoder_memory(&self, level: Level) -> u64 {
        let mebibytes = match INFO.number(level) {
            ..=2 => 2,
            3..=5 => 6,
            6..=8 => 8,
            9 => 16,
            10..=12 => 48,
            13..=19 => 96,
            20.. => 768,
        };
        mebibytes << 20
    }

    fn encoder(&self, out: Box<dyn Write + Send>, level: Level) -> io::Result<Box<dyn Encoder>> {
        let frame = Frame::new(INFO.number(level))?;
        Ok(guard::encoding(Packer::new(frame, out)))
    }

    /// The library's own threads, which inherit the priority of this one.
    fn parallel(
        &self,
        out: Box<dyn Write + Send>,
        level: Level,
        threads: usize,
    ) -> io::Result<Box<dyn Encoder>> {
        let number = INFO.number(level);
        if number > MOST_PARALLEL {
            return self.encoder(out, level);
        }
        let mut frame = Frame::new(number)?;
        let workers = u32::try_from(threads.clamp(1, MOST_WORKERS)).expect("not many");
        frame.raw.set_parameter(CParameter::NbWorkers(workers))?;
        frame.raw.set_parameter(CParameter::JobSize(job(number)))?;
        let overlap = CParameter::OverlapSizeLog(overlap(number));
        frame.raw.set_parameter(overlap)?;
        frame.held = held(workers, number);
        Ok(guard::encoding(Packer::with_buffer(OUTPUT, frame, out)))
    }

    /// An encoder that gets its input in pieces keeps the last of it in a ring, and
    /// looks for repetitions on both sides of its seam: half as much work again.
    fn whole(&self) -> Option<Whole> {
        Some(Whole {
            bound: ::zstd::zstd_safe::compress_bound,
            compress: |plain, level, out| {
                let level = INFO.number(level);
                let mut context = Context::of(level)?;
                let size = context.0.compress_to_buffer(plain, out)?;
                context.spare(level);
                Ok(size)
            },
        })
    }

    fn decoder(&self, input: Box<dyn Read + Send>) -> io::Result<Box<dyn Read + Send>> {
        let mut raw = Decoder::new()?;
        raw.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))?;
        Ok(guard::decoding(Unpacker::new(Frames(raw), input)))
    }
}

/// What the library works with, megabytes of tables: made once for a thread and not for
/// each file.
struct Context(Compressor<'static>);

/// What no thread uses for now, with its level.
static SPARE: Mutex<Vec<(i32, Context)>> = Mutex::new(Vec::new());

/// No more are kept; they are for threads that compress at the same time.
const MOST_SPARE: usize = 4;

impl Context {
    fn of(level: i32) -> io::Result<Self> {
        let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        let found = spare.iter().position(|(of, _)| *of == level);
        if let Some(found) = found {
            return Ok(spare.swap_remove(found).1);
        }
        drop(spare);
        let mut raw = Compressor::new(level)?;
        raw.set_parameter(CParameter::ChecksumFlag(true))?;
        raw.set_parameter(CParameter::ContentSizeFlag(false))?;
        Ok(Self(raw))
    }

    /// For the next file; not after a failure.
    fn spare(self, level: i32) {
        let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < MOST_SPARE {
            spare.push((level, self));
        }
    }
}

struct Frame {
    raw: Raw<'static>,
    held: u64,
}

impl Frame {
    fn new(level: i32) -> io::Result<Self> {
        let mut raw = Raw::new(level)?;
        raw.set_parameter(CParameter::ChecksumFlag(true))?;
        raw.set_parameter(CParameter::ContentSizeFlag(false))?;
        Ok(Self { raw, held: 0 })
    }
}

impl Pack for Frame {
    fn step(&mut self, input: &[u8], output: &mut [u8], finish: bool) -> io::Result<Step> {
        if finish {
            let mut output = OutBuffer::around(output);
            let left = self.raw.finish(&mut output, false)?;
            return Ok(Step {
                consumed: 0,
                produced: output.pos(),
                end: left == 0,
            });
        }
        let status = self.raw.run_on_buffers(input, output)?;
        if self.held > 0 && status.bytes_read == 0 {
            thread::sleep(MOMENT);
        }
        Ok(Step {
            consumed: status.bytes_read,
            produced: status.bytes_written,
            end: false,
        })
    }

    fn held(&self) -> u64 {
        self.held
    }
}

struct Frames(Decoder<'static>);

impl Unpack for Frames {
    fn step(&mut self, input: &[u8], output: &mut [u8], _at_end: bool) -> io::Result<Step> {
        let status = self.0.run_on_buffers(input, output)?;
        Ok(Step {
            consumed: status.bytes_read,
            produced: status.bytes_written,
            end: status.remaining == 0,
        })
    }

    fn restart(&mut self) -> io::Result<()> {
        self.0.reinit()
    }
}
