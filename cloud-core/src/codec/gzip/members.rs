//! Reads members, one after the other. Source of the format: RFC 1952.
//!
//! The library reads them too, but sums them up byte by byte where it was not built for
//! the processor at hand; that was a tenth of a restore.

use std::io;

use crc32fast::Hasher;
use flate2::{Decompress, FlushDecompress, Status};

use crate::codec::stream::{Step, Unpack, since};

const MAGIC: [u8; 3] = [0x1f, 0x8b, 8];

/// Flags of a header, by the bytes that they announce.
const CHECK: u8 = 2;
const EXTRA: u8 = 4;
const NAME: u8 = 8;
const COMMENT: u8 = 16;
/// Nobody knows what these mean.
const RESERVED: u8 = 0xe0;

/// See the module.
pub(super) struct Members {
    place: Place,
    raw: Decompress,
    crc: Hasher,
    /// Bytes of the member so far, modulo 2^32, as the format has it.
    size: u32,
}

enum Place {
    Header(Header),
    Body,
    /// So many bytes of the trailer were read.
    Trailer([u8; 8], usize),
}

impl Members {
    pub(super) fn new() -> Self {
        Self {
            place: Place::Header(Header::new()),
            raw: Decompress::new(false),
            crc: Hasher::new(),
            size: 0,
        }
    }

    /// Reads some of the trailer, and says whether that was all of it.
    fn trailer(&mut self, input: &[u8], step: &mut Step) -> io::Result<()> {
        let Place::Trailer(bytes, filled) = &mut self.place else {
            return Ok(());
        };
        let rest = &input[step.consumed..];
        let taken = rest.len().min(bytes.len() - *filled);
        bytes[*filled..][..taken].copy_from_slice(&rest[..taken]);
        *filled += taken;
        step.consumed += taken;
        if *filled < bytes.len() {
            return Ok(());
        }
        let trailer = u64::from_le_bytes(*bytes);
        let computed = u64::from(self.crc.clone().finalize()) | u64::from(self.size) << 32;
        if trailer != computed {
            return Err(io::Error::other("checksum or size do not match"));
        }
        step.end = true;
        Ok(())
    }
}

impl Unpack for Members {
    fn step(&mut self, input: &[u8], output: &mut [u8], _at_end: bool) -> io::Result<Step> {
        let mut step = Step {
            consumed: 0,
            produced: 0,
            end: false,
        };
        if let Place::Header(header) = &mut self.place {
            for byte in input {
                step.consumed += 1;
                if header.take(*byte)? {
                    self.place = Place::Body;
                    break;
                }
            }
            return Ok(step);
        }
        if matches!(self.place, Place::Body) {
            let before = (self.raw.total_in(), self.raw.total_out());
            let status = self.raw.decompress(input, output, FlushDecompress::None)?;
            step.consumed = since(before.0, self.raw.total_in());
            step.produced = since(before.1, self.raw.total_out());
            let plain = &output[..step.produced];
            self.crc.update(plain);
            // A buffer never has 4 GiB.
            self.size = self
                .size
                .wrapping_add(u32::try_from(plain.len()).unwrap_or(0));
            if status == Status::StreamEnd {
                self.place = Place::Trailer([0; 8], 0);
            }
        }
        self.trailer(input, &mut step)?;
        Ok(step)
    }

    fn restart(&mut self) -> io::Result<()> {
        self.raw.reset(false);
        self.crc.reset();
        self.size = 0;
        self.place = Place::Header(Header::new());
        Ok(())
    }
}

/// A header that is being read; nothing in it is kept.
struct Header {
    field: Field,
    flags: u8,
    crc: Hasher,
}

/// What the next byte belongs to.
#[derive(Clone, Copy)]
enum Field {
    /// One of the ten bytes that all have.
    Fixed(usize),
    /// The length of what is extra: its low byte, or its high one.
    ExtraLow,
    ExtraHigh(u8),
    /// So many bytes are left of it.
    Extra(u16),
    Name,
    Comment,
    /// The header's checksum.
    CheckLow,
    CheckHigh(u8),
}

impl Header {
    fn new() -> Self {
        Self {
            field: Field::Fixed(0),
            flags: 0,
            crc: Hasher::new(),
        }
    }

    /// Takes the next byte, and says whether it is the last one.
    fn take(&mut self, byte: u8) -> io::Result<bool> {
        let wrong = |why: &str| Err(io::Error::other(why.to_owned()));
        let next = match self.field {
            Field::Fixed(at) if at < MAGIC.len() && byte != MAGIC[at] => {
                return wrong("this is not a gzip header");
            }
            Field::Fixed(at) => {
                if at == MAGIC.len() {
                    self.flags = byte;
                    if byte & RESERVED != 0 {
                        return wrong("the gzip header has flags that are not known");
                    }
                }
                if at < 9 {
                    Some(Field::Fixed(at + 1))
                } else {
                    self.behind(0)
                }
            }
            Field::ExtraLow => Some(Field::ExtraHigh(byte)),
            Field::ExtraHigh(low) => match u16::from_le_bytes([low, byte]) {
                0 => self.behind(EXTRA),
                left => Some(Field::Extra(left)),
            },
            Field::Extra(1) => self.behind(EXTRA),
            Field::Extra(left) => Some(Field::Extra(left - 1)),
            Field::Name if byte == 0 => self.behind(NAME),
            Field::Comment if byte == 0 => self.behind(COMMENT),
            Field::Name | Field::Comment => Some(self.field),
            Field::CheckLow => Some(Field::CheckHigh(byte)),
            Field::CheckHigh(low) => {
                let sum = self.crc.clone().finalize() & 0xffff;
                if u32::from(u16::from_le_bytes([low, byte])) != sum {
                    return wrong("the checksum of the gzip header does not match");
                }
                None
            }
        };
        if !matches!(self.field, Field::CheckLow | Field::CheckHigh(_)) {
            self.crc.update(&[byte]);
        }
        let Some(next) = next else { return Ok(true) };
        self.field = next;
        Ok(false)
    }

    /// What follows the field of a flag, or the fixed bytes for 0.
    fn behind(&self, flag: u8) -> Option<Field> {
        let order = [
            (EXTRA, Field::ExtraLow),
            (NAME, Field::Name),
            (COMMENT, Field::Comment),
            (CHECK, Field::CheckLow),
        ];
        let done = order.iter().position(|(known, _)| *known == flag);
        let left = order.into_iter().skip(done.map_or(0, |at| at + 1));
        let mut announced = left.filter(|(known, _)| self.flags & known != 0);
        announced.next().map(|(_, field)| field)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::codec::stream::Unpacker;

    /// `plain` in one stored block, behind a header with these flags and fields.
    fn member(flags: u8, fields: &[u8], plain: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x1f, 0x8b, 8, flags, 1, 2, 3, 4, 0, 3];
        bytes.extend_from_slice(fields);
        if flags & CHECK != 0 {
            let sum = crc32fast::hash(&bytes) & 0xffff;
            bytes.extend_from_slice(&sum.to_le_bytes()[..2]);
        }
        let length = u16::try_from(plain.len()).unwrap();
        bytes.push(1);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&(!length).to_le_bytes());
        bytes.extend_from_slice(plain);
        bytes.extend_from_slice(&crc32fast::hash(plain).to_le_bytes());
        bytes.extend_from_slice(&u32::from(length).to_le_bytes());
        bytes
    }

    /// Hands out one byte at a time.
    struct Slowly<I>(I);

    impl<I: Iterator<Item = u8>> Read for Slowly<I> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            Ok(self.0.next().map_or(0, |byte| {
                buf[0] = byte;
                1
            }))
        }
    }

    fn decode(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        let bytes = bytes.to_vec();
        let input = Box::new(Slowly(bytes.into_iter()));
        Unpacker::new(Members::new(), input).read_to_end(&mut plain)?;
        Ok(plain)
    }

    const HEADERS: [(u8, &[u8]); 7] = [
        (0, b""),
        (1, b""),
        (EXTRA, b"\x03\0abc"),
        (EXTRA | CHECK, b"\0\0"),
        (NAME, b"data.tar\0"),
        (COMMENT | NAME, b"\0why\0"),
        (EXTRA | NAME | COMMENT | CHECK, b"\x01\0x\x1f\x8b\0\0"),
    ];

    #[test]
    fn every_header_is_read_one_byte_at_a_time() {
        for (flags, fields) in HEADERS {
            let mut two = member(flags, fields, b"first");
            two.extend(member(flags, fields, b""));
            two.extend(member(0, b"", b"second"));
            assert_eq!(decode(&two).unwrap(), b"firstsecond", "{flags}");
        }
    }

    #[test]
    fn every_cut_and_every_changed_byte_that_counts_is_found() {
        for (flags, fields) in HEADERS {
            let whole = member(flags, fields, b"plain");
            for length in 0..whole.len() {
                decode(&whole[..length]).expect_err("it is cut");
            }
            let body = whole.len() - 18;
            for at in 0..whole.len() {
                let mut changed = whole.clone();
                changed[at] ^= 0x40;
                // Five bits of the body's first byte mean nothing.
                let checked = at < 4 || at > body || flags & CHECK != 0 && at < body;
                let damaged = decode(&changed);
                if checked {
                    damaged.expect_err("it is damaged");
                }
            }
        }
    }

    #[test]
    fn what_follows_a_member_is_another_one_or_damage() {
        let mut bytes = member(0, b"", b"plain");
        bytes.extend_from_slice(&[0; 20]);
        decode(&bytes).expect_err("no member begins with zeroes");
        let reserved = member(0x20, b"", b"plain");
        decode(&reserved).expect_err("nobody knows what that flag means");
    }
}
