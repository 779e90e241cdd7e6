//! Checksums of bodies: made from the buffer that is sent, compared with what
//! the store says it has (docs/decisions.md 25).

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use aws_smithy_types::base64;
use bytes::Bytes;
use md5::{Digest, Md5};

use super::Flag;
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
    fn crc32c(body: &Bytes) -> Self {
        Self::Crc32c(base64::encode(crc32c::crc32c(body).to_be_bytes()))
    }

    fn md5(body: &Bytes) -> Self {
        Self::Md5(base64::encode(Md5::digest(body)))
    }

    /// The header where the store takes it, `Content-MD5` elsewhere.
    pub(super) fn of(body: &Bytes, header: bool) -> Self {
        if header {
            Self::crc32c(body)
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
                let stored = md5_of(stored.etag?)?;
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

/// The MD5, in base64, that an `ETag` may be.
fn md5_of(etag: &str) -> Option<String> {
    let digits = unquoted(etag);
    if digits.len() != 32 || !digits.bytes().all(|c| c.is_ascii_hexdigit()) {
        return None;
    }
    let digits = u128::from_str_radix(digits, 16).ok()?;
    Some(base64::encode(digits.to_be_bytes()))
}

/// Compares bytes that came without a checksum with the `ETag` of their object,
/// where that may be their MD5.
///
/// A store that makes its `ETag`s of something else must not become one that
/// nothing can be read from. So the first bytes that do not fit are refused, and
/// when the same ones come again they are what the store has.
#[derive(Debug, Default)]
pub(super) struct EtagJudge {
    /// An `ETag` was the MD5.
    are_md5: Flag,
    /// The same bytes came twice, and their MD5 was another one.
    are_not: Flag,
    /// MD5 of what came and did not fit, by what the `ETag` said.
    refused: Mutex<BTreeMap<String, String>>,
}

impl EtagJudge {
    /// Begins to sum up a body, if its `ETag` may be its MD5.
    pub(super) fn begin(&self, etag: &str) -> Option<Summed> {
        let expected = md5_of(etag).filter(|_| !self.are_not.is_set())?;
        Some(Summed {
            expected,
            md5: Md5::new(),
        })
    }

    /// Why a body that came to its end cannot be what the store has.
    pub(super) fn contradicts(&self, summed: Summed) -> Option<String> {
        let Summed { expected, md5 } = summed;
        let found = base64::encode(md5.finalize());
        if found == expected {
            self.are_md5.set();
            return None;
        }
        let why = format!("its MD5 is {expected}, bytes with {found} came");
        if self.are_md5.is_set() {
            return Some(why);
        }
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.get(&expected) == Some(&found) {
            self.are_not.set();
        } else {
            refused.insert(expected, found);
        }
        (!self.are_not.is_set()).then_some(why)
    }
}

/// A body on its way, and the MD5 that it should have.
pub(super) struct Summed {
    /// In base64.
    expected: String,
    md5: Md5,
}

impl Summed {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_standards() {
        let body = Bytes::from_static(b"123456789");
        // The check value of CRC-32C is e3069283.
        assert_eq!(Checksum::crc32c(&body).as_crc32c(), Some("4waSgw=="));
        let md5 = Checksum::md5(&body);
        assert_eq!(md5.as_md5(), Some("JfnnlDI7RTiF9RgfG2JNCw=="));
    }

    #[test]
    fn only_what_can_be_compared_contradicts() {
        let body = Bytes::from_static(b"123456789");
        let known = Flag::default();
        let crc32c = |text| Stored {
            crc32c: text,
            etag: None,
        };
        let crc = Checksum::crc32c(&body);
        assert_eq!(crc.contradicted(&crc32c(None), &known), None);
        assert_eq!(crc.contradicted(&crc32c(Some("4waSgw==")), &known), None);
        let other = crc32c(Some("AAAAAA=="));
        assert!(crc.contradicted(&other, &known).is_some());
        assert_eq!(Checksum::md5(&body).contradicted(&other, &known), None);
    }

    #[test]
    fn bytes_that_do_not_fit_their_etag_are_refused_until_they_come_again() {
        let right = "25f9e794323b453885f5181f1b624d0b";
        let odd = "00000000000000000000000000000000";
        let came = |judge: &EtagJudge, etag: &str, bytes: &[u8]| {
            let mut summed = judge.begin(etag)?;
            summed.update(bytes);
            judge.contradicts(summed)
        };
        let judge = EtagJudge::default();
        assert!(came(&judge, right, b"023456789").is_some());
        assert!(came(&judge, right, b"123456780").is_some(), "others");
        assert!(came(&judge, right, b"123456789").is_none());
        // Now they are known to be what they look like.
        assert!(came(&judge, odd, b"1").is_some());
        assert!(came(&judge, odd, b"1").is_some());

        let judge = EtagJudge::default();
        assert!(came(&judge, odd, b"1").is_some());
        assert!(came(&judge, odd, b"1").is_none(), "this is what it has");
        assert!(judge.begin(right).is_none(), "they mean nothing here");
        assert!(EtagJudge::default().begin("not-an-md5-2").is_none());
    }

    #[test]
    fn an_etag_of_32_hex_digits_may_be_an_md5() {
        let md5 = Some("JfnnlDI7RTiF9RgfG2JNCw==".to_owned());
        assert_eq!(md5_of("\"25f9e794323b453885f5181f1b624d0b\""), md5);
        assert_eq!(md5_of("W/\"25F9E794323B453885F5181F1B624D0B\""), md5);
        for other in ["", "25f9", "25f9e794323b453885f5181f1b624d0b-2"] {
            assert_eq!(md5_of(other), None, "{other}");
        }
        assert_eq!(md5_of("+5f9e794323b453885f5181f1b624d0b"), None);
    }
}
