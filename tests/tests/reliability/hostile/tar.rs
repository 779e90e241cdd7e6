//! Tar archives as no tool writes them: every field of a header is whatever is wanted.

use std::io::{self, Write};

use super::sample;

pub(super) const BLOCK: usize = 512;

/// A header before it is written.
#[derive(Clone)]
pub(super) struct Head(pub(super) [u8; BLOCK]);

impl Head {
    /// Of a member of this kind: `b'0'` a file, `b'1'` a hard link, `b'2'` a symbolic link.
    pub(super) fn new(kind: u8, name: &[u8]) -> Self {
        let mut block = [0; BLOCK];
        let length = name.len().min(100);
        block[..length].copy_from_slice(&name[..length]);
        block[156] = kind;
        block[257..265].copy_from_slice(b"ustar\x0000");
        for (at, digits) in [(100, "0000600"), (108, "0000101"), (116, "0000101")] {
            block[at..at + 7].copy_from_slice(digits.as_bytes());
        }
        block[136..147].copy_from_slice(b"15110302422");
        Self(block).size(0)
    }

    pub(super) fn link(mut self, target: &[u8]) -> Self {
        self.0[157..157 + target.len()].copy_from_slice(target);
        self
    }

    pub(super) fn mode(mut self, mode: u32) -> Self {
        self.0[100..107].copy_from_slice(format!("{mode:07o}").as_bytes());
        self
    }

    pub(super) fn size(self, size: u64) -> Self {
        let digits = format!("{size:011o}\0");
        self.size_field(digits.as_bytes().try_into().expect("it fits"))
    }

    /// The field of the size as it is.
    pub(super) fn size_field(mut self, field: [u8; 12]) -> Self {
        self.0[124..136].copy_from_slice(&field);
        self
    }

    /// With the checksum that it must have.
    pub(super) fn block(mut self) -> [u8; BLOCK] {
        self.0[148..156].fill(b' ');
        let sum: u32 = self.0.iter().map(|byte| u32::from(*byte)).sum();
        self.0[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0
    }
}

/// A header and its content, padded.
pub(super) fn member(head: Head, content: &[u8]) -> Vec<u8> {
    let mut bytes = head.size(content.len() as u64).block().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

pub(super) fn file(name: &[u8], content: &[u8]) -> Vec<u8> {
    member(Head::new(b'0', name), content)
}

pub(super) fn symlink(name: &[u8], target: &[u8]) -> Vec<u8> {
    Head::new(b'2', name).link(target).block().to_vec()
}

pub(super) fn hard_link(name: &[u8], target: &[u8]) -> Vec<u8> {
    Head::new(b'1', name).link(target).block().to_vec()
}

/// An extended header with these records, for what follows it.
pub(super) fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut text = Vec::new();
    for (name, value) in records {
        let rest = name.len() + value.len() + 3;
        let mut length = rest + 1;
        while rest + length.to_string().len() != length {
            length = rest + length.to_string().len();
        }
        text.extend_from_slice(format!("{length} {name}=").as_bytes());
        text.extend_from_slice(value);
        text.push(b'\n');
    }
    member(Head::new(b'x', b"././@PaxHeader"), &text)
}

/// A whole archive of the sample backup with something before its members.
pub(super) fn archive(members: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = members.concat();
    bytes.extend(sample("data.tar"));
    bytes
}

/// Zeroes, as many as wanted.
pub(super) fn zeroes(out: &mut impl Write, mut count: u64) -> io::Result<()> {
    static PIECE: [u8; 64 << 10] = [0; 64 << 10];
    while count > 0 {
        let piece = usize::try_from(count).map_or(PIECE.len(), |n| n.min(PIECE.len()));
        out.write_all(&PIECE[..piece])?;
        count -= piece as u64;
    }
    Ok(())
}
