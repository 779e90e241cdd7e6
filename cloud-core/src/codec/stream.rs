//! Drives the libraries that work from buffer to buffer (gzip, bzip2, xz, zstd).
//!
//! Their own readers and writers are not used: the writers end the stream when
//! they are dropped, which would make an abandoned archive look whole, and the
//! readers differ in what they say of empty, cut and concatenated input.

use std::io::{self, BufRead, BufReader, Read, Write};

use super::Encoder;
use super::guard::{corrupt, cut, empty};

/// Bytes fetched from the input, and passed to the output, at a time.
const BUFFER: usize = 64 << 10;

/// What one call of a library did.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    /// Bytes taken from the input.
    pub(super) consumed: usize,
    /// Bytes put into the output.
    pub(super) produced: usize,
    /// The stream is at its end.
    pub(super) end: bool,
}

/// The difference of two of a library's 64-bit counters around one call, which
/// is no more than the length of a buffer.
pub(super) fn since(before: u64, after: u64) -> usize {
    usize::try_from(after - before).expect("no call moves more than a buffer holds")
}

/// Encodes from buffer to buffer.
pub(super) trait Pack: Send {
    /// Encodes some of `input` into `output`; with `finish` the input is empty
    /// and the end of the stream is written, in as many calls as it takes.
    fn step(&mut self, input: &[u8], output: &mut [u8], finish: bool) -> io::Result<Step>;

    /// See [`Encoder::held`].
    fn held(&self) -> u64 {
        0
    }
}

/// Decodes from buffer to buffer.
pub(super) trait Unpack: Send {
    /// Decodes some of `input` into `output`. Neither is empty, except `input`
    /// at the end of the file, which `at_end` tells.
    fn step(&mut self, input: &[u8], output: &mut [u8], at_end: bool) -> io::Result<Step>;

    /// Gets ready for the next stream.
    fn restart(&mut self) -> io::Result<()>;
}

/// An [`Encoder`] made of a [`Pack`].
pub(super) struct Packer<P> {
    pack: P,
    buffer: Box<[u8]>,
    filled: usize,
    out: Box<dyn Write + Send>,
}

impl<P: Pack> Packer<P> {
    pub(super) fn new(pack: P, out: Box<dyn Write + Send>) -> Self {
        Self::with_buffer(BUFFER, pack, out)
    }

    /// Passes on `size` bytes at a time.
    pub(super) fn with_buffer(size: usize, pack: P, out: Box<dyn Write + Send>) -> Self {
        Self {
            pack,
            buffer: vec![0; size].into(),
            filled: 0,
            out,
        }
    }

    fn step(&mut self, input: &[u8], finish: bool) -> io::Result<Step> {
        let step = self
            .pack
            .step(input, &mut self.buffer[self.filled..], finish)?;
        self.filled += step.produced;
        if self.filled == self.buffer.len() {
            self.pass_on()?;
        }
        Ok(step)
    }

    fn pass_on(&mut self) -> io::Result<()> {
        self.out.write_all(&self.buffer[..self.filled])?;
        self.filled = 0;
        Ok(())
    }
}

impl<P: Pack> Write for Packer<P> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let mut rest = buf;
        while !rest.is_empty() {
            let step = self.step(rest, false)?;
            rest = &rest[step.consumed..];
        }
        Ok(buf.len())
    }

    /// Passes on what is encoded. What the library still holds back stays
    /// there: pushing it out would cost compression and change the output.
    fn flush(&mut self) -> io::Result<()> {
        self.pass_on()?;
        self.out.flush()
    }
}

impl<P: Pack> Encoder for Packer<P> {
    fn held(&self) -> u64 {
        self.pack.held()
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        while !self.step(&[], true)?.end {}
        self.flush()
    }
}

/// A decoder made of an [`Unpack`].
pub(super) struct Unpacker<U> {
    unpack: U,
    input: BufReader<Box<dyn Read + Send>>,
    place: Place,
}

/// Where in the input the decoder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Nothing was read yet.
    Start,
    /// In the middle of a stream.
    Inside,
    /// Behind a whole stream.
    Between,
}

impl<U: Unpack> Unpacker<U> {
    pub(super) fn new(unpack: U, input: Box<dyn Read + Send>) -> Self {
        Self {
            unpack,
            input: BufReader::with_capacity(BUFFER, input),
            place: Place::Start,
        }
    }
}

impl<U: Unpack> Read for Unpacker<U> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let input = self.input.fill_buf()?;
            let at_end = input.is_empty();
            match (self.place, at_end) {
                (Place::Start, true) => return Err(empty()),
                (Place::Between, true) => return Ok(0),
                (Place::Between, false) => self.unpack.restart()?,
                _ => {}
            }
            self.place = Place::Inside;
            let step = self.unpack.step(input, buf, at_end).map_err(corrupt)?;
            self.input.consume(step.consumed);
            if step.end {
                self.place = Place::Between;
            } else if step.consumed == 0 && step.produced == 0 {
                return Err(if at_end {
                    cut()
                } else {
                    corrupt("the compressed data leads nowhere")
                });
            }
            if step.produced > 0 {
                return Ok(step.produced);
            }
        }
    }
}
