//! The checksum that travels with a body: CRC-64, the service's own, made from
//! the buffer that is sent and compared with what the service says it has
//! (docs/decisions.md 25).

use azure_core::base64;
use crc_fast::CrcAlgorithm;

use super::error::Failure;
use crate::store::StoreErrorKind;

/// Name of the header, in requests and answers.
pub(super) const HEADER: &str = "x-ms-content-crc64";

/// A CRC-64 of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Checksum([u8; 8]);

impl Checksum {
    pub(super) fn of(body: &[u8]) -> Self {
        // What the service calls CRC-64 has the polynomial that is known by the
        // name of NVMe, and goes with the lowest byte first.
        Self(crc_fast::checksum(CrcAlgorithm::Crc64Nvme, body).to_le_bytes())
    }

    pub(super) fn bytes(self) -> Vec<u8> {
        self.0.to_vec()
    }

    pub(super) fn header(self) -> String {
        base64::encode(self.0)
    }

    /// Fails if what the service stored, as far as it tells, is not this.
    pub(super) fn compare(self, stored: Option<&[u8]>) -> Result<(), Failure> {
        match stored.filter(|stored| **stored != self.0) {
            None => Ok(()),
            Some(stored) => {
                let (sent, stored) = (self.header(), base64::encode(stored));
                let why = format!("CRC-64 {sent} was sent, {stored} was stored");
                Err(Failure::new(StoreErrorKind::Corrupt, why))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check value of CRC-64/NVME is ae8b14860a799888.
    #[test]
    fn the_checksum_is_that_of_the_standard_lowest_byte_first() {
        let checksum = Checksum::of(b"123456789");
        assert_eq!(checksum.0, [0x88, 0x98, 0x79, 0x0a, 0x86, 0x14, 0x8b, 0xae]);
        assert_eq!(checksum.header(), "iJh5CoYUi64=");
    }

    #[test]
    fn only_what_is_told_can_contradict() {
        let checksum = Checksum::of(b"123456789");
        assert!(checksum.compare(None).is_ok());
        assert!(checksum.compare(Some(&checksum.0)).is_ok());
        let error = checksum.compare(Some(&[0; 8])).unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Corrupt);
        assert!(error.text.contains("iJh5CoYUi64="), "{}", error.text);
    }
}
