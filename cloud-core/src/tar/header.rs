//! The 512 bytes before each member, and the extended header before those.
//!
//! Source of the layout: POSIX.1-2018, pax, "ustar Interchange Format" and "pax
//! Extended Header"; GNU tar manual, "Basic Tar Format", for base-256 numbers.

use std::io;

use super::member::{Member, MemberKind, Mtime};
use super::{BLOCK_LEN, padded, pax, shown};

/// One header.
pub(super) type Block = [u8; BLOCK_LEN];

/// A field of the header: where it starts and ends.
type Field = std::ops::Range<usize>;

const NAME: Field = 0..100;
const MODE: Field = 100..108;
const UID: Field = 108..116;
const GID: Field = 116..124;
const SIZE: Field = 124..136;
const MTIME: Field = 136..148;
const CHECKSUM: Field = 148..156;
const KIND: usize = 156;
const LINK: Field = 157..257;
const MAGIC: Field = 257..265;
const USER: Field = 265..297;
const GROUP: Field = 297..329;
const PREFIX: Field = 345..500;

const USTAR: &[u8] = b"ustar\x0000";

/// Name that extended headers have as members of their own; readers that do not
/// know them would make files of it.
const EXTENDED_NAME: &[u8] = b"././@PaxHeader";

/// Everything that stands before the content of `member`.
pub(super) fn encode(member: &Member) -> io::Result<Vec<u8>> {
    let bad = |problem| {
        let name = shown(&member.name);
        let text = format!("could not store `{name}`: {problem}");
        io::Error::new(io::ErrorKind::InvalidInput, text)
    };
    let mut name = member.name.clone();
    let target = member.target().unwrap_or_default();
    if name.is_empty() {
        return Err(bad("it has no name"));
    }
    if member.target() == Some(b"") {
        return Err(bad("it is a link that leads nowhere"));
    }
    for text in [&name[..], target, &member.user, &member.group] {
        if text.contains(&0) {
            return Err(bad("a name must not contain a zero byte"));
        }
    }
    if i64::try_from(member.size()).is_err() {
        return Err(bad("its size is impossible"));
    }
    if member.kind == MemberKind::Directory && !name.ends_with(b"/") {
        name.push(b'/');
    }

    let mut fields = Fields::default();
    fields.text("path", NAME, NAME.len(), &name);
    fields.text("linkpath", LINK, LINK.len(), target);
    // These two end with a zero byte.
    fields.text("uname", USER, USER.len() - 1, &member.user);
    fields.text("gname", GROUP, GROUP.len() - 1, &member.group);
    fields.number("uid", UID, member.uid);
    fields.number("gid", GID, member.gid);
    fields.number("size", SIZE, member.size());
    fields.time(member.mtime);
    octal(&mut fields.block[MODE], (member.mode & 0o7777).into());
    let kind = match member.kind {
        MemberKind::File { .. } => b'0',
        MemberKind::HardLink { .. } => b'1',
        MemberKind::Symlink { .. } => b'2',
        MemberKind::Device => return Err(bad("it is a device")),
        MemberKind::Directory => b'5',
        MemberKind::Fifo => b'6',
    };
    seal(&mut fields.block, kind);

    let mut out = Vec::new();
    if !fields.records.is_empty() {
        out = extended(&fields.records);
    }
    out.extend_from_slice(&fields.block);
    Ok(out)
}

/// A header under construction, and what does not fit it.
struct Fields {
    block: Block,
    records: Vec<u8>,
}

impl Default for Fields {
    fn default() -> Self {
        Self {
            block: [0; BLOCK_LEN],
            records: Vec::new(),
        }
    }
}

impl Fields {
    fn record(&mut self, keyword: &str, value: &[u8]) {
        if str::from_utf8(value).is_err() && !self.records.starts_with(BINARY) {
            // Readers would take the values for UTF-8 otherwise.
            self.records.splice(..0, BINARY.iter().copied());
        }
        pax::push(&mut self.records, keyword, value);
    }

    fn text(&mut self, keyword: &str, field: Field, room: usize, text: &[u8]) {
        if text.len() > room || !text.is_ascii() {
            self.record(keyword, text);
        }
        for (place, byte) in self.block[field].iter_mut().zip(text.iter().take(room)) {
            *place = if byte.is_ascii() { *byte } else { b'?' };
        }
    }

    fn number(&mut self, keyword: &str, field: Field, number: u64) {
        let written = if fits(&field, number) {
            number
        } else {
            self.record(keyword, number.to_string().as_bytes());
            0
        };
        octal(&mut self.block[field], written);
    }

    fn time(&mut self, time: Mtime) {
        let seconds = u64::try_from(time.seconds).ok();
        let seconds = seconds.filter(|seconds| fits(&MTIME, *seconds));
        if time.nanos != 0 || seconds.is_none() {
            self.record("mtime", pax::format_time(time).as_bytes());
        }
        octal(&mut self.block[MTIME], seconds.unwrap_or(0));
    }
}

/// The record that says that values are not UTF-8.
const BINARY: &[u8] = b"21 hdrcharset=BINARY\n";

/// An extended header: a member of its own.
fn extended(records: &[u8]) -> Vec<u8> {
    let mut block = [0; BLOCK_LEN];
    block[..EXTENDED_NAME.len()].copy_from_slice(EXTENDED_NAME);
    for field in [MODE, UID, GID, MTIME] {
        octal(&mut block[field], 0);
    }
    let size = records.len() as u64;
    octal(&mut block[SIZE], size);
    seal(&mut block, b'x');
    let mut out = block.to_vec();
    out.extend_from_slice(records);
    let end = out.len() as u64 - size + padded(size);
    out.resize(usize::try_from(end).expect("headers are in memory"), 0);
    out
}

/// Whether `number` fits as octal digits with a zero byte behind them.
fn fits(field: &Field, number: u64) -> bool {
    number < 1 << (3 * (field.len() - 1))
}

fn octal(field: &mut [u8], number: u64) {
    let width = field.len() - 1;
    field[..width].copy_from_slice(format!("{number:0width$o}").as_bytes());
    field[width] = 0;
}

/// Writes kind, magic and checksum.
fn seal(block: &mut Block, kind: u8) {
    block[KIND] = kind;
    block[MAGIC].copy_from_slice(USTAR);
    let sum = checksum(block);
    // Six digits, a zero byte and a blank: so it is done since the first tar.
    octal(&mut block[CHECKSUM][..7], sum);
    block[CHECKSUM.end - 1] = b' ';
}

/// Sum of all bytes, those of the checksum taken as blanks.
fn checksum(block: &Block) -> u64 {
    let all: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    let own: u64 = block[CHECKSUM].iter().map(|byte| u64::from(*byte)).sum();
    all - own + 8 * u64::from(b' ')
}

/// What a header says; extended headers not yet taken into account.
#[derive(Debug)]
pub(super) struct Decoded {
    /// Name, the prefix put before it.
    pub(super) name: Vec<u8>,
    /// Where a link leads.
    pub(super) target: Vec<u8>,
    /// The letter of the kind.
    pub(super) kind: u8,
    /// Bytes behind the header, of the kinds that have a content.
    pub(super) size: u64,
    pub(super) mode: u32,
    pub(super) uid: u64,
    pub(super) gid: u64,
    pub(super) user: Vec<u8>,
    pub(super) group: Vec<u8>,
    pub(super) mtime: i64,
}

/// Reads one header; the error says what is wrong with it.
pub(super) fn decode(block: &Block) -> Result<Decoded, &'static str> {
    let stored = number(&block[CHECKSUM]).ok_or("this is no header")?;
    if i128::from(checksum(block)) != stored {
        return Err("the checksum of the header is wrong");
    }
    let unsigned = |field: Field| number(&block[field]).and_then(|n| u64::try_from(n).ok());
    let mut name = text(&block[NAME]).to_vec();
    // GNU's own format says `ustar  ` and has other things where the prefix is.
    let prefix = text(&block[PREFIX]);
    if block[MAGIC].starts_with(b"ustar\0") && !prefix.is_empty() {
        name = [prefix, b"/", &name].concat();
    }
    Ok(Decoded {
        name,
        target: text(&block[LINK]).to_vec(),
        kind: block[KIND],
        size: unsigned(SIZE).ok_or("the size is not a number")?,
        mode: unsigned(MODE)
            .and_then(|mode| u32::try_from(mode & 0o7777).ok())
            .ok_or("the mode is not a number")?,
        uid: unsigned(UID).ok_or("the owner is not a number")?,
        gid: unsigned(GID).ok_or("the group is not a number")?,
        user: text(&block[USER]).to_vec(),
        group: text(&block[GROUP]).to_vec(),
        mtime: number(&block[MTIME])
            .and_then(|n| i64::try_from(n).ok())
            .ok_or("the time is not a number")?,
    })
}

/// The bytes before the first zero byte.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or(field)
}

/// Octal digits between blanks and zero bytes, nothing at all (0), or a
/// base-256 number, which the highest bit marks.
fn number(field: &[u8]) -> Option<i128> {
    let first = *field.first()?;
    if first & 0x80 != 0 {
        // The second-highest bit is the sign; 12 bytes fit easily.
        let start = i128::from(first & 0x7f) - if first & 0x40 == 0 { 0 } else { 0x80 };
        return Some(
            field[1..]
                .iter()
                .fold(start, |n, byte| n << 8 | i128::from(*byte)),
        );
    }
    let digits = text(field).trim_ascii();
    digits.iter().try_fold(0, |n: i128, digit| {
        matches!(digit, b'0'..=b'7').then(|| n << 3 | i128::from(digit - b'0'))
    })
}
