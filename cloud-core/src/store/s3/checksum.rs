//! Checksums of bodies: made from the buffer that is sent, compared with what
//! the store says it has (docs/decisions.md 25).

use aws_smithy_types::base64;
use bytes::Bytes;
use md5::{Digest, Md5};

/// The checksum that travels with a body, in base64.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Checksum {
    /// `x-amz-checksum-crc32c`
    Crc32c(String),
    /// `Content-MD5`: what every store knows.
    Md5(String),
}

impl Checksum {
    pub(super) fn crc32c(body: &Bytes) -> Self {
        Self::Crc32c(base64::encode(crc32c::crc32c(body).to_be_bytes()))
    }

    pub(super) fn md5(body: &Bytes) -> Self {
        Self::Md5(base64::encode(Md5::digest(body)))
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

    /// Why what the store answered cannot be what was sent. An `ETag` is no
    /// checksum: where a bucket encrypts by itself it only looks like one.
    pub(super) fn contradicted(&self, crc32c: Option<&str>) -> Option<String> {
        let (sent, stored) = (self.as_crc32c()?, crc32c?);
        let other = sent != stored;
        other.then(|| format!("CRC-32C {sent} was sent, {stored} was stored"))
    }
}

/// An `ETag` without its quotes.
pub(super) fn unquoted(etag: &str) -> &str {
    etag.trim_matches('"')
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
        let crc = Checksum::crc32c(&body);
        assert_eq!(crc.contradicted(None), None);
        assert_eq!(crc.contradicted(Some("4waSgw==")), None);
        assert!(crc.contradicted(Some("AAAAAA==")).is_some());
        assert_eq!(Checksum::md5(&body).contradicted(Some("AAAAAA==")), None);
    }
}
