//! A manifest that is kept in memory until all files are known that it lists.
//!
//! Compressed, at some 25 bytes for a file: who may not write to a disk compares at the
//! end all the same.

use std::io::{self, BufRead, BufReader, Write};

/// Level of the compression: the fastest.
const LEVEL: i32 = 1;

/// Most bytes of compressed text: that of some forty million files.
const MOST: usize = 1 << 30;

/// A manifest that comes in pieces.
pub struct Keeping(zstd::Encoder<'static, Bounded>);

/// A manifest in memory.
#[derive(Debug, Clone)]
pub struct Kept(Vec<u8>);

/// What is written, up to a bound: a bucket is not to be trusted.
struct Bounded(Vec<u8>);

impl std::fmt::Debug for Keeping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeping").finish_non_exhaustive()
    }
}

impl Keeping {
    /// Nothing has come yet.
    pub fn new() -> io::Result<Self> {
        Ok(Self(zstd::Encoder::new(Bounded(Vec::new()), LEVEL)?))
    }

    /// Everything has come.
    pub fn finish(self) -> io::Result<Kept> {
        Ok(Kept(self.0.finish()?.0))
    }
}

impl Write for Keeping {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for Bounded {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.0.len() + buf.len() > MOST {
            return Err(io::Error::other("it is larger than any manifest"));
        }
        self.0.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Kept {
    /// The text from its beginning.
    pub fn text(&self) -> io::Result<impl BufRead + '_> {
        Ok(BufReader::new(zstd::Decoder::with_buffer(&self.0[..])?))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn what_is_kept_is_read_as_often_as_it_is_wanted() {
        let lines: Vec<_> = (0..50_000).map(|n| format!("line {n}\n")).collect();
        let text = lines.concat();
        let mut keeping = Keeping::new().unwrap();
        for piece in text.as_bytes().chunks(1000) {
            keeping.write_all(piece).unwrap();
        }
        let kept = keeping.finish().unwrap();
        assert!(kept.0.len() < text.len() / 3);
        for _ in 0..2 {
            let mut again = String::new();
            kept.text().unwrap().read_to_string(&mut again).unwrap();
            assert!(again == text);
        }
    }
}
