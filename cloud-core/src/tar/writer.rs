//! Writes one archive after the other to the same output.
//!
//! Files of a running server grow and shrink while they are read. The header
//! with the size goes out first, so exactly that many bytes have to follow, or
//! every later member is lost: what is missing is filled with zeroes, what is
//! over is left out, and WAL replay repairs both. A failure to read is neither:
//! it breaks the archive.

use std::io::{self, Read, Write};

use super::member::{Member, MemberKind};
use super::{BLOCK, RECORD, RECORD_LEN, header, padded};

/// Bytes read from a file, and handed on, at a time.
const BUFFER: usize = 256 << 10;

static ZEROES: [u8; RECORD_LEN] = [0; RECORD_LEN];

/// Writes archives.
#[derive(Debug)]
pub struct TarWriter<W> {
    out: W,
    /// Bytes of the open archive so far.
    written: u64,
    /// A member is only half there.
    broken: bool,
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
    /// The archive could not be written; or the member cannot be put into an
    /// archive at all, of which nothing was written then (`InvalidInput`).
    #[error("{0}")]
    Write(#[source] io::Error),
}

/// Answers to what comes after a member that is in the archive only in part.
pub(super) fn broken() -> io::Error {
    io::Error::other("an archive in which a member is incomplete cannot go on")
}

impl<W: Write> TarWriter<W> {
    /// Begins an archive that goes to `out`.
    pub fn new(out: W) -> Self {
        Self {
            out,
            written: 0,
            broken: false,
        }
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
    /// for anything else. `buffer` is room that may be used again.
    ///
    /// One byte more than the file's size is asked for, to see whether it grew.
    ///
    /// # Errors
    ///
    /// `Read` if `data` fails, even behind the last byte that is stored. A member
    /// that is in the archive only in part breaks it: it cannot be finished.
    pub fn append(
        &mut self,
        member: &Member,
        data: &mut dyn Read,
        buffer: &mut Vec<u8>,
    ) -> Result<Copied, AppendError> {
        let header = header::encode(member).map_err(AppendError::Write)?;
        self.append_encoded(member, &header, data, buffer)
    }

    /// The same, with a header that was made before.
    pub(super) fn append_encoded(
        &mut self,
        member: &Member,
        header: &[u8],
        data: &mut dyn Read,
        buffer: &mut Vec<u8>,
    ) -> Result<Copied, AppendError> {
        if self.broken {
            return Err(AppendError::Write(broken()));
        }
        self.broken = true;
        self.write(header).map_err(AppendError::Write)?;
        let mut copied = Copied::default();
        if matches!(member.kind, MemberKind::File { .. }) {
            copied = self.copy(member.size(), data, buffer)?;
        }
        self.broken = false;
        Ok(copied)
    }

    fn copy(
        &mut self,
        size: u64,
        data: &mut dyn Read,
        buffer: &mut Vec<u8>,
    ) -> Result<Copied, AppendError> {
        buffer.resize(BUFFER, 0);
        let mut left = size;
        while left > 0 {
            let wanted = usize::try_from(left).map_or(BUFFER, |left| left.min(BUFFER));
            let count = read(data, &mut buffer[..wanted]).map_err(AppendError::Read)?;
            if count == 0 {
                break;
            }
            self.write(&buffer[..count]).map_err(AppendError::Write)?;
            left -= count as u64;
        }
        // A file may get its bytes back between two looks at its end.
        let grew = left == 0 && read(data, &mut buffer[..1]).map_err(AppendError::Read)? > 0;
        self.zeroes(left + padded(size) - size)
            .map_err(AppendError::Write)?;
        Ok(Copied {
            missing: left,
            grew,
        })
    }

    /// Writes the end of the archive: two zero blocks, padded to a whole record.
    /// What is added next begins another one.
    pub fn finish(&mut self) -> io::Result<()> {
        if self.broken {
            return Err(broken());
        }
        let end = (self.written + 2 * BLOCK).next_multiple_of(RECORD);
        self.broken = true;
        self.zeroes(end - self.written)?;
        self.broken = false;
        self.written = 0;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn zeroes(&mut self, mut count: u64) -> io::Result<()> {
        while count > 0 {
            let piece = usize::try_from(count).map_or(RECORD_LEN, |n| n.min(RECORD_LEN));
            self.write(&ZEROES[..piece])?;
            count -= piece as u64;
        }
        Ok(())
    }
}

fn read(data: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match data.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
