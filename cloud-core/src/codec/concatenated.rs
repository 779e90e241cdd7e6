//! Reading several compressed streams one after the other.
//!
//! The decoders of most libraries stop after the first stream without a word,
//! which would be silent loss, or take a cut stream for a finished one. This
//! reader starts a new decoder as long as bytes follow, and takes the end of
//! the input for the end only between two streams.

use std::io::{self, BufRead, BufReader, Read};

/// Decodes one stream from a buffered input and leaves what follows it there.
pub(super) trait OneStream: Sized {
    /// Begins to decode a stream.
    fn begin() -> io::Result<Self>;

    /// Decodes from `input` to `output`: how many bytes were used and made, and
    /// whether the stream is over. `at_end` says that no more input will come.
    fn decode(&mut self, input: &[u8], output: &mut [u8]) -> io::Result<Step>;
}

/// What one call of a decoder did.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    pub(super) used: usize,
    pub(super) made: usize,
    pub(super) ended: bool,
}

/// Any number of streams, at least one.
pub(super) struct Concatenated<S> {
    input: BufReader<Box<dyn Read + Send>>,
    stream: Option<S>,
    any: bool,
}

/// Bytes read from the input at a time.
const INPUT: usize = 128 << 10;

impl<S: OneStream> Concatenated<S> {
    pub(super) fn new(input: Box<dyn Read + Send>) -> Self {
        Self {
            input: BufReader::with_capacity(INPUT, input),
            stream: None,
            any: false,
        }
    }
}

impl<S: OneStream> Read for Concatenated<S> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            let input = self.input.fill_buf()?;
            let ended = input.is_empty();
            if ended && self.stream.is_none() {
                return if self.any { Ok(0) } else { Err(cut()) };
            }
            let stream = match &mut self.stream {
                Some(stream) => stream,
                none => none.insert(S::begin()?),
            };
            self.any = true;
            let step = stream.decode(input, buf)?;
            self.input.consume(step.used);
            if step.ended {
                self.stream = None;
            }
            if step.made > 0 {
                return Ok(step.made);
            }
            if ended && !step.ended {
                return Err(cut());
            }
            if step.used == 0 && !step.ended {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the compressed data makes no progress",
                ));
            }
        }
    }
}

fn cut() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the compressed data ends early",
    )
}
