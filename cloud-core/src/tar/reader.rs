//! Reading an archive, member by member.
//!
//! Stricter than most: an archive that ends early, or has bytes behind its end,
//! is an error. What is read comes from a bucket and is not trusted: checksums
//! are verified and the size of every header is bounded.

use std::io::{self, Read};

use super::header::{BLOCK, checksum, flag, parse_decimal};
use super::member::{Member, MemberKind, Mtime};

/// Largest pax header or long name, in bytes. Real ones stay below 10 KiB.
const MAX_EXTENSION: u64 = 1 << 20;

/// What is wrong with an archive.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The bytes could not be read, or the stream around them is damaged.
    #[error("{0}")]
    Read(#[from] io::Error),
    /// It ends before its end.
    #[error("the archive ends early, {0}")]
    Cut(&'static str),
    /// It is no tar, or a damaged one.
    #[error("the archive is damaged at byte {at}: {what}")]
    Damaged {
        /// Where, in bytes from its beginning.
        at: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// A form that is not read.
    #[error("the archive has a member of an unsupported kind at byte {at}: {what}")]
    Unsupported {
        /// Where, in bytes from its beginning.
        at: u64,
        /// Which kind.
        what: &'static str,
    },
}

/// Reads one archive. The bytes of the member that was named last are read
/// through [`Read`]; what is left of them is skipped.
#[derive(Debug)]
pub struct TarReader<R> {
    input: R,
    at: u64,
    /// Bytes of the current member that were not read.
    left: u64,
    /// Zeroes between those and the next header.
    padding: u64,
    global: Pax,
    ended: bool,
}

/// What pax records say of a member.
#[derive(Debug, Clone, Default)]
struct Pax {
    path: Option<Vec<u8>>,
    linkpath: Option<Vec<u8>>,
    user: Option<Vec<u8>>,
    group: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<Mtime>,
}

impl<R: Read> TarReader<R> {
    /// Reads the archive that `input` delivers.
    pub fn new(input: R) -> Self {
        Self {
            input,
            at: 0,
            left: 0,
            padding: 0,
            global: Pax::default(),
            ended: false,
        }
    }

    /// The next member, or `None` after the last one; then `input` was read to
    /// its end, so that damage behind the archive was met as well.
    pub fn next_member(&mut self) -> Result<Option<Member>, TarError> {
        if self.ended {
            return Ok(None);
        }
        let mut pax = self.global.clone();
        let mut long_name = None;
        let mut long_link = None;
        loop {
            self.skip_rest()?;
            let Some(block) = self.header()? else {
                return Ok(None);
            };
            let size = self.number(&block[124..136])?;
            match block[156] {
                flag::PAX => self.pax(size, &mut pax)?,
                flag::PAX_GLOBAL => {
                    let mut global = std::mem::take(&mut self.global);
                    self.pax(size, &mut global)?;
                    pax = global.clone();
                    self.global = global;
                }
                flag::GNU_LONG_NAME => long_name = Some(self.long(size)?),
                flag::GNU_LONG_LINK => long_link = Some(self.long(size)?),
                _ => {
                    pax.path = pax.path.or(long_name);
                    pax.linkpath = pax.linkpath.or(long_link);
                    return self.member(&block, size, pax).map(Some);
                }
            }
        }
    }

    fn member(&mut self, block: &[u8; BLOCK], size: u64, pax: Pax) -> Result<Member, TarError> {
        let mut name = pax.path.unwrap_or_else(|| {
            let (prefix, name) = (text(&block[345..500]), text(&block[..100]));
            let posix = &block[257..263] == b"ustar\0";
            if posix && !prefix.is_empty() {
                [prefix, b"/", name].concat()
            } else {
                name.to_vec()
            }
        });
        let slash = name.ends_with(b"/");
        while name.len() > 1 && name.ends_with(b"/") {
            name.pop();
        }
        if name.is_empty() {
            return Err(self.damaged("a member has no name"));
        }
        let link = pax
            .linkpath
            .unwrap_or_else(|| text(&block[157..257]).to_vec());
        let size = pax.size.unwrap_or(size);
        let kind = match block[156] {
            flag::FILE | flag::OLD_FILE | flag::CONTIGUOUS if slash => MemberKind::Directory,
            flag::FILE | flag::OLD_FILE | flag::CONTIGUOUS => MemberKind::File { size },
            flag::DIRECTORY => MemberKind::Directory,
            flag::SYMLINK => MemberKind::Symlink { target: link },
            flag::HARD_LINK => MemberKind::HardLink { target: link },
            flag::FIFO => MemberKind::Fifo,
            flag::CHARACTER_DEVICE | flag::BLOCK_DEVICE => MemberKind::Device,
            b'S' => return Err(self.unsupported("a sparse file")),
            _ => return Err(self.unsupported("an unknown type flag")),
        };
        if let MemberKind::File { size } = kind {
            self.left = size;
            self.padding = size.next_multiple_of(BLOCK as u64) - size;
        }
        let mode = self.number(&block[100..108])?;
        let seconds = self.number(&block[136..148])?;
        Ok(Member {
            name,
            kind,
            mode: u32::try_from(mode & 0o7777).expect("it was masked"),
            uid: pax.uid.map_or_else(|| self.number(&block[108..116]), Ok)?,
            gid: pax.gid.map_or_else(|| self.number(&block[116..124]), Ok)?,
            user: pax.user.unwrap_or_else(|| text(&block[265..297]).to_vec()),
            group: pax.group.unwrap_or_else(|| text(&block[297..329]).to_vec()),
            mtime: pax.mtime.unwrap_or(Mtime {
                seconds: i64::try_from(seconds).map_err(|_| self.damaged("a time is too large"))?,
                nanos: 0,
            }),
        })
    }

    /// The next header block, or `None` at the end of the archive.
    fn header(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        self.exact(&mut block, "without its end mark")?;
        if block == [0; BLOCK] {
            self.exact(&mut block, "in the middle of its end mark")?;
            if block != [0; BLOCK] {
                return Err(self.damaged("there is something behind a block of zeroes"));
            }
            self.drain()?;
            self.ended = true;
            return Ok(None);
        }
        if self.number(&block[148..156])? != checksum(&block) {
            return Err(self.damaged("the checksum of a header is wrong"));
        }
        Ok(Some(block))
    }

    /// Reads what follows the end mark: padding, and the end of the stream
    /// around the archive with its own checksums.
    fn drain(&mut self) -> Result<(), TarError> {
        let mut buffer = [0; 8192];
        loop {
            match self.input.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) if buffer[..count].iter().all(|b| *b == 0) => self.at += count as u64,
                Ok(_) => return Err(self.damaged("there is something behind its end mark")),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn skip_rest(&mut self) -> Result<(), TarError> {
        let mut buffer = [0; 8192];
        while self.left > 0 {
            let _skipped = self.read(&mut buffer)?;
        }
        let padding = usize::try_from(self.padding).expect("it is less than a block");
        self.exact(&mut buffer[..padding], "in the padding of a member")?;
        self.padding = 0;
        Ok(())
    }

    fn exact(&mut self, buffer: &mut [u8], place: &'static str) -> Result<(), TarError> {
        match self.input.read_exact(buffer) {
            Ok(()) => {
                self.at += buffer.len() as u64;
                Ok(())
            }
            // A decoder's own word for a cut stream says more.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => match error.get_ref() {
                Some(_) => Err(error.into()),
                None => Err(TarError::Cut(place)),
            },
            Err(error) => Err(error.into()),
        }
    }

    /// The bytes of an extension header.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        if size > MAX_EXTENSION {
            return Err(self.damaged("a header is larger than makes sense"));
        }
        let mut bytes = vec![0; usize::try_from(size).expect("it is bounded")];
        self.exact(&mut bytes, "in a header")?;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(bytes)
    }

    fn long(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        Ok(text(&self.extension(size)?).to_vec())
    }

    fn pax(&mut self, size: u64, pax: &mut Pax) -> Result<(), TarError> {
        let bytes = self.extension(size)?;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (keyword, value, after) =
                record(rest).ok_or_else(|| self.damaged("a pax record is malformed"))?;
            rest = after;
            let number = || {
                std::str::from_utf8(value)
                    .ok()
                    .and_then(|text| text.parse().ok())
            };
            let wrong = || self.damaged("a number in a pax record is malformed");
            match keyword {
                b"path" => pax.path = Some(value.to_vec()),
                b"linkpath" => pax.linkpath = Some(value.to_vec()),
                b"uname" => pax.user = Some(value.to_vec()),
                b"gname" => pax.group = Some(value.to_vec()),
                b"size" => pax.size = Some(number().ok_or_else(wrong)?),
                b"uid" => pax.uid = Some(number().ok_or_else(wrong)?),
                b"gid" => pax.gid = Some(number().ok_or_else(wrong)?),
                b"mtime" => {
                    let time = std::str::from_utf8(value).ok().and_then(parse_decimal);
                    pax.mtime = Some(time.ok_or_else(wrong)?);
                }
                keyword if keyword.starts_with(b"GNU.sparse") => {
                    return Err(self.unsupported("a sparse file"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A number in octal digits, or in binary as GNU writes large ones.
    fn number(&self, field: &[u8]) -> Result<u64, TarError> {
        if field[0] & 0x80 != 0 {
            let (first, rest) = (field[0] & 0x7F, &field[1..]);
            let mut value = u64::from(first);
            for byte in rest {
                value = value
                    .checked_mul(256)
                    .and_then(|value| value.checked_add((*byte).into()))
                    .ok_or_else(|| self.damaged("a number in a header is too large"))?;
            }
            return Ok(value);
        }
        let digits = text(field);
        let digits = digits.trim_ascii();
        let mut value = 0_u64;
        for digit in digits {
            if !(b'0'..=b'7').contains(digit) {
                return Err(self.damaged("a number in a header is malformed"));
            }
            value = value * 8 + u64::from(digit - b'0');
        }
        Ok(value)
    }

    fn damaged(&self, what: &'static str) -> TarError {
        TarError::Damaged { at: self.at, what }
    }

    fn unsupported(&self, what: &'static str) -> TarError {
        TarError::Unsupported { at: self.at, what }
    }
}

impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buf.len());
        if most == 0 {
            return Ok(0);
        }
        let count = self.input.read(&mut buf[..most])?;
        if count == 0 {
            let what = TarError::Cut("in the middle of a file").to_string();
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
        }
        self.left -= count as u64;
        self.at += count as u64;
        Ok(count)
    }
}

/// A field up to its first NUL.
fn text(field: &[u8]) -> &[u8] {
    &field[..field.iter().position(|b| *b == 0).unwrap_or(field.len())]
}

/// The first pax record: keyword, value, what follows.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let blank = bytes.iter().take(20).position(|b| *b == b' ')?;
    let length: usize = std::str::from_utf8(&bytes[..blank]).ok()?.parse().ok()?;
    let record = bytes.get(..length)?.strip_suffix(b"\n")?.get(blank + 1..)?;
    let equals = record.iter().position(|b| *b == b'=')?;
    Some((&record[..equals], &record[equals + 1..], &bytes[length..]))
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
