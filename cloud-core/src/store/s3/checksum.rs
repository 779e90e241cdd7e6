//! Checksums of bodies: made from the buffer that is sent, compared with what
//! the store says it has (docs/decisions.md 25).

use std::io;

use aws_smithy_types::base64;
use bytes::Bytes;
use md5::{Digest, Md5};

use super::Flag;
use crate::store::Payload;
use crate::store::wire::unquoted;

/// The checksum that travels with a body, in base64.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Checksum {
    /// `x-amz-checksum-crc32c`
    Crc32c(String),
    /// `Content-MD5`: what every store knows.
    Md5(String),
}

impl Checksum {
    fn crc32c(value: u32) -> Self {
        Self::Crc32c(base64::encode(value.to_be_bytes()))
    }

    fn md5(body: &Bytes) -> Self {
        Self::Md5(base64::encode(Md5::digest(body)))
    }

    /// The header where the store takes it, `Content-MD5` elsewhere, for which a file
    /// is read.
    pub(super) fn of(body: &Payload, header: bool) -> io::Result<Self> {
        if header {
            return Ok(Self::crc32c(body.crc32c()));
        }
        let mut digest = Md5::new();
        for piece in body.pieces() {
            digest.update(piece?);
        }
        Ok(Self::Md5(base64::encode(digest.finalize())))
    }

    /// As [`of`](Self::of).
    pub(super) fn of_bytes(body: &Bytes, header: bool) -> Self {
        if header {
            Self::crc32c(crc32c::crc32c(body))
        } else {
            Self::md5(body)
        }
    }

    pub(super) fn as_crc32c(&self) -> Option<&str> {
        match self {
            Self::Crc32c(text) => Some(text),
            Self::Md5(_) => None,
        }
    }

    pub(super) fn as_md5(&self) -> Option<&str> {
        match self {
            Self::Md5(text) => Some(text),
            Self::Crc32c(_) => None,
        }
    }

    /// Why what the store answered cannot be what was sent.
    ///
    /// An `ETag` only may be an MD5: where a store makes it of something else it
    /// still looks like one. So it counts once an earlier one was, which
    /// `etags_are_md5` keeps. (The store has compared `Content-MD5` by then.)
    pub(super) fn contradicted(&self, stored: &Stored<'_>, etags_are_md5: &Flag) -> Option<String> {
        match self {
            Self::Crc32c(sent) => {
                let stored = stored.crc32c.filter(|stored| stored != sent)?;
                Some(format!("CRC-32C {sent} was sent, {stored} was stored"))
            }
            Self::Md5(sent) => {
                let stored = base64::encode(md5_of(stored.etag?)?);
                if stored == *sent {
                    etags_are_md5.set();
                    return None;
                }
                let text = format!("MD5 {sent} was sent, {stored} was stored");
                etags_are_md5.is_set().then_some(text)
            }
        }
    }
}

/// What an answer tells of the bytes that were stored.
pub(super) struct Stored<'a> {
    /// In base64.
    pub(super) crc32c: Option<&'a str>,
    /// `None` where encryption makes it something else than an MD5.
    pub(super) etag: Option<&'a str>,
}

/// The MD5 that an `ETag` may be.
pub(super) fn md5_of(etag: &str) -> Option<[u8; 16]> {
    let digits = unquoted(etag);
    if digits.len() != 32 || !digits.bytes().all(|c| c.is_ascii_hexdigit()) {
        return None;
    }
    let digits = u128::from_str_radix(digits, 16).ok()?;
    Some(digits.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_standards() {
        let body = Bytes::from_static(b"123456789");
        // The check value of CRC-32C is e3069283.
        let payload = Payload::from(body.clone());
        for (header, crc32c, md5) in [
            (true, Some("4waSgw=="), None),
            (false, None, Some("JfnnlDI7RTiF9RgfG2JNCw==")),
        ] {
            let checksum = Checksum::of(&payload, header).expect("in memory");
            assert_eq!((checksum.as_crc32c(), checksum.as_md5()), (crc32c, md5));
            assert_eq!(Checksum::of_bytes(&body, header), checksum);
        }
    }

    #[test]
    fn only_what_can_be_compared_contradicts() {
        let body = Bytes::from_static(b"123456789");
        let known = Flag::default();
        let crc32c = |text| Stored {
            crc32c: text,
            etag: None,
        };
        let crc = Checksum::of_bytes(&body, true);
        assert_eq!(crc.contradicted(&crc32c(None), &known), None);
        assert_eq!(crc.contradicted(&crc32c(Some("4waSgw==")), &known), None);
        let other = crc32c(Some("AAAAAA=="));
        assert!(crc.contradicted(&other, &known).is_some());
        assert_eq!(
            Checksum::of_bytes(&body, false).contradicted(&other, &known),
            None
        );
    }

    #[test]
    fn an_etag_of_32_hex_digits_may_be_an_md5() {
        let md5 = md5_of("\"25f9e794323b453885f5181f1b624d0b\"");
        let md5 = md5.map(base64::encode);
        assert_eq!(md5.as_deref(), Some("JfnnlDI7RTiF9RgfG2JNCw=="));
        let other = md5_of("W/\"25F9E794323B453885F5181F1B624D0B\"");
        assert_eq!(other.map(base64::encode), md5);
        for other in ["", "25f9", "25f9e794323b453885f5181f1b624d0b-2"] {
            assert_eq!(md5_of(other), None, "{other}");
        }
        assert_eq!(md5_of("+5f9e794323b453885f5181f1b624d0b"), None);
    }
}
