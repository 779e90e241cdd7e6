//! Writing an archive.
//!
//! Files of a database change while they are read. What a header has promised
//! is kept to the byte: a file that became longer is cut, one that became
//! shorter is filled with zeroes, and WAL replay repairs both. An error while
//! reading is never taken for the end of the file.

use std::io::{self, Read, Write};

use super::header::{self, BLOCK};
use super::member::Member;

/// Bytes moved at a time.
const BUFFER: usize = 256 << 10;

/// Archives are padded to this size in bytes, the record of the format.
const RECORD: u64 = 20 * BLOCK as u64;

/// Writes one archive.
#[derive(Debug)]
pub struct TarWriter<W> {
    out: W,
    written: u64,
}

/// What became of a file's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Copied {
    /// Bytes that were missing and were filled with zeroes.
    pub missing: u64,
    /// Whether there was more than the header had promised.
    pub grew: bool,
}

/// Why a member could not be added.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// Its bytes could not be read.
    #[error("{0}")]
    Read(#[source] io::Error),
    /// The archive could not be written.
    #[error("{0}")]
    Write(#[source] io::Error),
}

impl<W: Write> TarWriter<W> {
    /// Begins an archive that goes to `out`.
    pub fn new(out: W) -> Self {
        Self { out, written: 0 }
    }

    /// Where the archive goes.
    pub fn get_ref(&self) -> &W {
        &self.out
    }

    /// Where the archive goes.
    pub fn get_mut(&mut self) -> &mut W {
        &mut self.out
    }

    /// Adds a member; `data` delivers the bytes of a file and is not looked at
    /// for anything else.
    pub fn append(
        &mut self,
        member: &Member,
        data: &mut dyn Read,
        buffer: &mut Vec<u8>,
    ) -> Result<Copied, AppendError> {
        self.write(&header::blocks(member))
            .map_err(AppendError::Write)?;
        let mut left = member.size();
        if left == 0 {
            return Ok(Copied {
                missing: 0,
                grew: false,
            });
        }
        buffer.resize(BUFFER, 0);
        let mut ended = false;
        let mut missing = 0;
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(BUFFER).min(BUFFER);
            let mut filled = 0;
            while filled < wanted && !ended {
                match data.read(&mut buffer[filled..wanted]) {
                    Ok(0) => ended = true,
                    Ok(count) => filled += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(AppendError::Read(error)),
                }
            }
            buffer[filled..wanted].fill(0);
            missing += (wanted - filled) as u64;
            self.write(&buffer[..wanted]).map_err(AppendError::Write)?;
            left -= wanted as u64;
        }
        let grew = !ended && probe(data).map_err(AppendError::Read)?;
        self.pad_to(BLOCK as u64).map_err(AppendError::Write)?;
        Ok(Copied { missing, grew })
    }

    /// Writes the end of the archive.
    pub fn finish(&mut self) -> io::Result<()> {
        self.write(&[0; 2 * BLOCK])?;
        self.pad_to(RECORD)
    }

    /// Begins another archive behind the one that was finished.
    pub(super) fn restart(&mut self) {
        self.written = 0;
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn pad_to(&mut self, unit: u64) -> io::Result<()> {
        let padding = self.written.next_multiple_of(unit) - self.written;
        let zeroes = vec![0; usize::try_from(padding).expect("it is less than a record")];
        self.write(&zeroes)
    }
}

/// Whether one more byte can be read.
fn probe(data: &mut dyn Read) -> io::Result<bool> {
    loop {
        match data.read(&mut [0]) {
            Ok(count) => return Ok(count > 0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
