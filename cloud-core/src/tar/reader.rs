//! Reads an archive from its first byte to its last, member by member.
//!
//! Only the whole truth is told: the archive has to end with its two zero
//! blocks, and what follows them has to be zeroes, read to the very end, so that
//! a decoder below gets to say that its stream was cut or its checksum is wrong.

use std::io::{self, Read};

use super::header::{self, Block, Decoded};
use super::member::{Member, MemberKind, Mtime};
use super::pax::{self, Records};
use super::{BLOCK, BLOCK_LEN, padded, shown};

/// Bytes skipped at a time.
const BUFFER: usize = 64 << 10;

/// What is wrong with an archive.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The bytes could not be read, or the stream around them is damaged.
    #[error("{0}")]
    Read(#[from] io::Error),
    /// It ends before its end.
    #[error("the archive ends early, after {at} bytes")]
    Cut {
        /// Bytes there were.
        at: u64,
    },
    /// It is no tar, or a damaged one.
    #[error("the archive is damaged at byte {at}: {what}")]
    Damaged {
        /// Where, in bytes from its beginning.
        at: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// A form that is not read.
    #[error("the archive has a member of an unsupported kind, `{name}`: {what}")]
    Unsupported {
        /// Name of the member, escaped.
        name: String,
        /// Which kind.
        what: &'static str,
    },
    /// Reading failed before, and there is no way to go on.
    #[error("could not go on with an archive after an error in it")]
    Broken,
}

impl From<TarError> for io::Error {
    fn from(error: TarError) -> Self {
        match error {
            TarError::Read(source) => source,
            TarError::Cut { .. } => Self::new(io::ErrorKind::UnexpectedEof, error),
            other => Self::new(io::ErrorKind::InvalidData, other),
        }
    }
}

/// Reads one archive. The bytes of the member that was named last are read
/// through [`Read`]; what is left of them is skipped.
///
/// Bytes that are cut are an error of kind `UnexpectedEof`, never their end.
#[derive(Debug)]
pub struct TarReader<R> {
    input: R,
    /// Bytes read so far.
    offset: u64,
    /// Bytes of the current member's content that were not read yet.
    left: u64,
    /// Zeroes behind that content.
    padding: u64,
    /// Extended header for all members that follow.
    global: Records,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Reading,
    Ended,
    Broken,
}

impl<R: Read> TarReader<R> {
    /// Reads from `input`, mostly in small pieces: blocks of 512 bytes.
    pub fn new(input: R) -> Self {
        Self {
            input,
            offset: 0,
            left: 0,
            padding: 0,
            global: Records::default(),
            state: State::Reading,
        }
    }

    /// The next member, or `None` behind the last one, when `input` was read to
    /// its end. What was not read of the member before is skipped.
    pub fn next_member(&mut self) -> Result<Option<Member>, TarError> {
        match self.state {
            State::Reading => {}
            State::Ended => return Ok(None),
            State::Broken => return Err(TarError::Broken),
        }
        self.state = State::Broken;
        let member = self.advance()?;
        self.state = if member.is_some() {
            State::Reading
        } else {
            State::Ended
        };
        Ok(member)
    }

    fn advance(&mut self) -> Result<Option<Member>, TarError> {
        self.skip(self.left + self.padding)?;
        (self.left, self.padding) = (0, 0);
        let mut records: Option<Records> = None;
        let (mut long_name, mut long_target) = (None, None);
        loop {
            let offset = self.offset;
            let damaged = |problem| TarError::Damaged {
                at: offset,
                what: problem,
            };
            let block = self.block()?;
            if is_zero(&block) {
                if records.is_some() || long_name.is_some() || long_target.is_some() {
                    return Err(damaged("an extended header belongs to no member"));
                }
                self.end(offset)?;
                return Ok(None);
            }
            let found = header::decode(&block).map_err(damaged)?;
            match found.kind {
                b'x' => {
                    let text = self.text(&found, offset)?;
                    records
                        .get_or_insert_with(|| self.global.clone())
                        .add(&text)
                        .ok_or_else(|| {
                            damaged(
                                "the extended header is not made of records, or of too long ones",
                            )
                        })?;
                }
                b'g' => {
                    let text = self.text(&found, offset)?;
                    self.global.add(&text).ok_or_else(|| {
                        damaged("the extended header is not made of records, or of too long ones")
                    })?;
                }
                // GNU's own way to say long names.
                b'L' => long_name = Some(self.long(&found, offset)?),
                b'K' => long_target = Some(self.long(&found, offset)?),
                _ => {
                    let records = records.unwrap_or_else(|| self.global.clone());
                    let mut found = found;
                    found.name = long_name.unwrap_or(found.name);
                    found.target = long_target.unwrap_or(found.target);
                    let member = member(found, &records, offset)?;
                    self.left = member.size();
                    self.padding = padded_checked(self.left)
                        .ok_or_else(|| damaged("the size is impossible"))?
                        - self.left;
                    return Ok(Some(member));
                }
            }
        }
    }

    /// Reads what follows the first zero block, which starts at `offset`.
    fn end(&mut self, offset: u64) -> Result<(), TarError> {
        let damaged = |problem| TarError::Damaged {
            at: offset,
            what: problem,
        };
        let second = self.block()?;
        if !is_zero(&second) {
            return Err(damaged("a zero block stands between members"));
        }
        let mut buffer = vec![0; BUFFER];
        loop {
            match self.read_some(&mut buffer)? {
                0 => return Ok(()),
                count if buffer[..count].iter().all(|byte| *byte == 0) => {}
                _ => return Err(damaged("something follows the end of the archive")),
            }
        }
    }

    /// The content of a header that describes another member.
    fn text(&mut self, found: &Decoded, offset: u64) -> Result<Vec<u8>, TarError> {
        if found.size > pax::MAX_LENGTH {
            return Err(TarError::Damaged {
                at: offset,
                what: "the extended header is too long",
            });
        }
        let size = usize::try_from(found.size).expect("it is at most a mebibyte");
        let mut text = vec![0; size];
        self.fill(&mut text)?;
        self.skip(padded(found.size) - found.size)?;
        Ok(text)
    }

    fn long(&mut self, found: &Decoded, offset: u64) -> Result<Vec<u8>, TarError> {
        let mut text = self.text(found, offset)?;
        let length = text.iter().position(|byte| *byte == 0);
        text.truncate(length.unwrap_or(text.len()));
        Ok(text)
    }

    fn block(&mut self) -> Result<Block, TarError> {
        let mut block = [0; BLOCK_LEN];
        self.fill(&mut block)?;
        Ok(block)
    }

    fn fill(&mut self, mut buffer: &mut [u8]) -> Result<(), TarError> {
        while !buffer.is_empty() {
            match self.read_some(buffer)? {
                0 => {
                    return Err(TarError::Cut { at: self.offset });
                }
                count => buffer = &mut buffer[count..],
            }
        }
        Ok(())
    }

    fn skip(&mut self, mut count: u64) -> Result<(), TarError> {
        let mut buffer = vec![0; usize::try_from(count).map_or(BUFFER, |n| n.min(BUFFER))];
        while count > 0 {
            let piece = usize::try_from(count).map_or(BUFFER, |n| n.min(BUFFER));
            self.fill(&mut buffer[..piece])?;
            count -= piece as u64;
        }
        Ok(())
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        loop {
            match self.input.read(buffer) {
                Ok(count) => {
                    self.offset += count as u64;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(TarError::Read(error)),
            }
        }
    }
}

fn is_zero(block: &Block) -> bool {
    block.iter().all(|byte| *byte == 0)
}

fn padded_checked(size: u64) -> Option<u64> {
    size.checked_next_multiple_of(BLOCK)
}

/// Puts header and extended header together.
fn member(found: Decoded, records: &Records, offset: u64) -> Result<Member, TarError> {
    let damaged = |problem| TarError::Damaged {
        at: offset,
        what: problem,
    };
    let text = |keyword, other: Vec<u8>| records.get(keyword).map_or(other, <[u8]>::to_vec);
    let number = |keyword, other| match records.get(keyword) {
        Some(value) => pax::number(value),
        None => Some(other),
    };
    let mut name = text("path", found.name);
    let target = text("linkpath", found.target);
    let size = number("size", found.size).ok_or_else(|| damaged("the size is not a number"))?;
    let mtime = match records.get("mtime") {
        Some(value) => pax::parse_time(value).ok_or_else(|| damaged("the time is not a number"))?,
        None => Mtime {
            seconds: found.mtime,
            nanos: 0,
        },
    };
    let mut kind = found.kind;
    if name.ends_with(b"/") {
        // Before there were kinds, a directory was known by its slash.
        if kind == 0 {
            kind = b'5';
        }
        let length = name.iter().rposition(|byte| *byte != b'/');
        // `/` itself stays what it is, for the caller to refuse.
        name.truncate(length.map_or(1, |last| last + 1));
    }
    if name.is_empty() {
        return Err(damaged("a member has no name"));
    }
    if name.contains(&0) || target.contains(&0) {
        return Err(damaged("a name contains a zero byte"));
    }
    let unsupported = |problem| TarError::Unsupported {
        name: shown(&name),
        what: problem,
    };
    if records.is_sparse() || kind == b'S' {
        return Err(unsupported("a sparse file"));
    }
    let kind = match kind {
        // 7 is "contiguous", which nobody knows any more.
        0 | b'0' | b'7' => MemberKind::File { size },
        b'1' | b'2' if target.is_empty() => return Err(damaged("a link leads nowhere")),
        b'1' => MemberKind::HardLink { target },
        b'2' => MemberKind::Symlink { target },
        b'3' | b'4' => MemberKind::Device,
        b'5' => MemberKind::Directory,
        b'6' => MemberKind::Fifo,
        _ => return Err(unsupported("nobody knows it")),
    };
    Ok(Member {
        name,
        kind,
        mode: found.mode,
        uid: number("uid", found.uid).ok_or_else(|| damaged("the owner is not a number"))?,
        gid: number("gid", found.gid).ok_or_else(|| damaged("the group is not a number"))?,
        user: text("uname", found.user),
        group: text("gname", found.group),
        mtime,
    })
}

impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.left).map_or(buf.len(), |left| left.min(buf.len()));
        if wanted == 0 {
            return Ok(0);
        }
        if self.state == State::Broken {
            return Err(TarError::Broken.into());
        }
        match self.read_some(&mut buf[..wanted]) {
            Ok(count) if count > 0 => {
                self.left -= count as u64;
                Ok(count)
            }
            result => {
                self.state = State::Broken;
                let cut = TarError::Cut { at: self.offset };
                Err(result.err().unwrap_or(cut).into())
            }
        }
    }
}
