//! What holds for every encoder and decoder, in one place: after a failure
//! there is no success any more.
//!
//! A caller that reads on after an error must not be told "end of data", and a
//! stream of which a piece could not be written must not be finished.

use std::io::{self, Read, Write};

use super::Encoder;

/// A decoder that fails for good once it failed.
pub(super) struct Decoding<R> {
    inner: R,
    failed: Option<io::ErrorKind>,
}

/// Wraps a decoder.
pub(super) fn decoding<R: Read + Send + 'static>(inner: R) -> Box<dyn Read + Send> {
    Box::new(Decoding {
        inner,
        failed: None,
    })
}

impl<R: Read> Read for Decoding<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if let Some(kind) = self.failed {
            return Err(io::Error::new(kind, "the decoder failed before"));
        }
        if buf.is_empty() {
            return Ok(0);
        }
        let result = self.inner.read(buf);
        if let Err(error) = &result
            && error.kind() != io::ErrorKind::Interrupted
        {
            self.failed = Some(error.kind());
        }
        result
    }
}

/// An encoder that fails for good once it failed.
pub(super) struct Encoding<E> {
    /// `None` after a failure.
    inner: Option<E>,
}

/// Wraps an encoder.
pub(super) fn encoding<E: Encoder + 'static>(inner: E) -> Box<dyn Encoder> {
    Box::new(Encoding { inner: Some(inner) })
}

fn failed_before() -> io::Error {
    io::Error::other("the encoder failed before")
}

impl<E: Encoder> Encoding<E> {
    fn attempt<T>(&mut self, act: impl FnOnce(&mut E) -> io::Result<T>) -> io::Result<T> {
        let inner = self.inner.as_mut().ok_or_else(failed_before)?;
        let result = act(inner);
        if result.is_err() {
            self.inner = None;
        }
        result
    }
}

impl<E: Encoder> Write for Encoding<E> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        // Whole writes only: after an error in the middle of `buf` nobody could
        // say how much of it is in the stream.
        self.attempt(|inner| inner.write_all(buf))?;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.attempt(Write::flush)
    }
}

impl<E: Encoder> Encoder for Encoding<E> {
    fn held(&self) -> u64 {
        self.inner.as_ref().map_or(0, Encoder::held)
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        Box::new(self.inner.take().ok_or_else(failed_before)?).finish()
    }
}

/// What a decoder answers when the input ends inside a stream.
pub(super) fn cut() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the compressed data ends too early",
    )
}

/// What a decoder answers when there is not a single byte.
pub(super) fn empty() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "there is no compressed data at all",
    )
}

/// An error of a library about the bytes it was given.
pub(super) fn corrupt(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, source)
}
