//! The 512-byte header of ustar and the pax records before it.

use super::member::{Member, MemberKind, Mtime};

/// Size of a block, the unit of the format.
pub(super) const BLOCK: usize = 512;

/// Largest number the octal fields of eight and of twelve bytes hold.
const MAX_OCTAL_8: u64 = 0o7_777_777;
const MAX_OCTAL_12: u64 = 0o77_777_777_777;

/// Type flags of POSIX and of GNU.
pub(super) mod flag {
    pub(crate) const FILE: u8 = b'0';
    pub(crate) const OLD_FILE: u8 = 0;
    pub(crate) const CONTIGUOUS: u8 = b'7';
    pub(crate) const HARD_LINK: u8 = b'1';
    pub(crate) const SYMLINK: u8 = b'2';
    pub(crate) const CHARACTER_DEVICE: u8 = b'3';
    pub(crate) const BLOCK_DEVICE: u8 = b'4';
    pub(crate) const DIRECTORY: u8 = b'5';
    pub(crate) const FIFO: u8 = b'6';
    pub(crate) const PAX: u8 = b'x';
    pub(crate) const PAX_GLOBAL: u8 = b'g';
    pub(crate) const GNU_LONG_NAME: u8 = b'L';
    pub(crate) const GNU_LONG_LINK: u8 = b'K';
}

/// The blocks that stand before a member's bytes: its header, and a pax header
/// with all that the fixed fields cannot hold.
pub(super) fn blocks(member: &Member) -> Vec<u8> {
    let (typeflag, link) = match &member.kind {
        MemberKind::File { .. } => (flag::FILE, &[][..]),
        MemberKind::Directory => (flag::DIRECTORY, &[][..]),
        MemberKind::Symlink { target } => (flag::SYMLINK, &target[..]),
        MemberKind::HardLink { target } => (flag::HARD_LINK, &target[..]),
        MemberKind::Fifo => (flag::FIFO, &[][..]),
        MemberKind::Device => (flag::CHARACTER_DEVICE, &[][..]),
    };
    // Directories end in a slash, as everybody writes them.
    let directory = matches!(member.kind, MemberKind::Directory) && !member.name.ends_with(b"/");
    let name = if directory {
        [&member.name[..], b"/"].concat()
    } else {
        member.name.clone()
    };
    let mut records = Records::default();
    let text_fields: [(&str, &[u8], usize); 4] = [
        ("path", &name, 100),
        ("linkpath", link, 100),
        ("uname", &member.user, 32),
        ("gname", &member.group, 32),
    ];
    for (keyword, value, room) in text_fields {
        if value.len() > room || !value.is_ascii() {
            records.add(keyword, value);
        }
    }
    for (keyword, value, max) in [
        ("size", member.size(), MAX_OCTAL_12),
        ("uid", member.uid, MAX_OCTAL_8),
        ("gid", member.gid, MAX_OCTAL_8),
    ] {
        if value > max {
            records.add(keyword, value.to_string().as_bytes());
        }
    }
    let seconds = u64::try_from(member.mtime.seconds)
        .ok()
        .filter(|s| *s <= MAX_OCTAL_12);
    if seconds.is_none() || member.mtime.nanos != 0 {
        records.add("mtime", decimal(member.mtime).as_bytes());
    }

    let mut blocks = Vec::with_capacity(BLOCK);
    let records = records.finish();
    if !records.is_empty() {
        let pax = Fields {
            name: b"././@PaxHeader",
            typeflag: flag::PAX,
            size: records.len() as u64,
            mode: 0o644,
            ..Fields::default()
        };
        blocks.extend_from_slice(&pax.block());
        blocks.extend_from_slice(&records);
        blocks.resize(blocks.len().next_multiple_of(BLOCK), 0);
    }
    let fields = Fields {
        name: &name,
        link,
        typeflag,
        size: if member.size() > MAX_OCTAL_12 {
            0
        } else {
            member.size()
        },
        mode: member.mode & 0o7777,
        uid: if member.uid > MAX_OCTAL_8 {
            0
        } else {
            member.uid
        },
        gid: if member.gid > MAX_OCTAL_8 {
            0
        } else {
            member.gid
        },
        user: &member.user,
        group: &member.group,
        mtime: seconds.unwrap_or(0),
    };
    blocks.extend_from_slice(&fields.block());
    blocks
}

#[derive(Default)]
struct Fields<'a> {
    name: &'a [u8],
    link: &'a [u8],
    typeflag: u8,
    size: u64,
    mode: u32,
    uid: u64,
    gid: u64,
    user: &'a [u8],
    group: &'a [u8],
    mtime: u64,
}

impl Fields<'_> {
    fn block(&self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let mut text = |at: usize, room: usize, value: &[u8]| {
            let cut = value.len().min(room);
            block[at..at + cut].copy_from_slice(&value[..cut]);
        };
        text(0, 100, self.name);
        text(157, 100, self.link);
        text(257, 8, b"ustar\x0000");
        text(265, 32, self.user);
        text(297, 32, self.group);
        let mut octal = |at: usize, width: usize, value: u64| {
            let digits = format!("{value:0width$o}", width = width - 1);
            block[at..at + width - 1].copy_from_slice(digits.as_bytes());
        };
        octal(100, 8, self.mode.into());
        octal(108, 8, self.uid);
        octal(116, 8, self.gid);
        octal(124, 12, self.size);
        octal(136, 12, self.mtime);
        octal(329, 8, 0);
        octal(337, 8, 0);
        block[156] = self.typeflag;
        let sum = format!("{:06o}\0 ", checksum(&block));
        block[148..156].copy_from_slice(sum.as_bytes());
        block
    }
}

/// The sum of all bytes, with those of the checksum field taken as blanks.
pub(super) fn checksum(block: &[u8; BLOCK]) -> u64 {
    let sum = |bytes: &[u8]| bytes.iter().map(|b| u64::from(*b)).sum::<u64>();
    sum(&block[..148]) + 8 * u64::from(b' ') + sum(&block[156..])
}

/// The records of a pax header: `<length> <keyword>=<value>\n`, the length
/// counting itself.
#[derive(Default)]
struct Records {
    bytes: Vec<u8>,
    binary: bool,
}

impl Records {
    fn add(&mut self, keyword: &str, value: &[u8]) {
        self.binary |= std::str::from_utf8(value).is_err();
        self.bytes.extend(record(keyword, value));
    }

    fn finish(self) -> Vec<u8> {
        if self.binary {
            // Readers take values for UTF-8 unless they are told before.
            [record("hdrcharset", b"BINARY"), self.bytes].concat()
        } else {
            self.bytes
        }
    }
}

fn record(keyword: &str, value: &[u8]) -> Vec<u8> {
    let rest = keyword.len() + value.len() + 3;
    let mut length = rest;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    let mut bytes = format!("{length} {keyword}=").into_bytes();
    bytes.extend_from_slice(value);
    bytes.push(b'\n');
    bytes
}

/// A time as pax writes it: seconds, and a fraction where there is one.
fn decimal(time: Mtime) -> String {
    // Before 1970 the fraction counts away from zero: -2 s and 0.5 s are -1.5.
    let negative = time.seconds < 0;
    let (seconds, nanos) = match (negative, time.nanos) {
        (true, 0) => (time.seconds.unsigned_abs(), 0),
        (true, nanos) => (time.seconds.unsigned_abs() - 1, 1_000_000_000 - nanos),
        (false, nanos) => (time.seconds.unsigned_abs(), nanos),
    };
    let sign = if negative { "-" } else { "" };
    let fraction = format!("{nanos:09}");
    match fraction.trim_end_matches('0') {
        "" => format!("{sign}{seconds}"),
        fraction => format!("{sign}{seconds}.{fraction}"),
    }
}

/// Reads what [`decimal`] writes.
pub(super) fn parse_decimal(text: &str) -> Option<Mtime> {
    let (negative, text) = match text.strip_prefix('-') {
        Some(text) => (true, text),
        None => (false, text),
    };
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if !digits(seconds) || !digits(fraction) {
        return None;
    }
    let seconds: i64 = seconds.parse().ok()?;
    let nanos: u32 = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect::<String>()
        .parse()
        .ok()?;
    Some(match (negative, nanos) {
        (false, nanos) => Mtime { seconds, nanos },
        (true, 0) => Mtime {
            seconds: -seconds,
            nanos: 0,
        },
        (true, nanos) => Mtime {
            seconds: -seconds - 1,
            nanos: 1_000_000_000 - nanos,
        },
    })
}
