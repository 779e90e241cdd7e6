//! Backup manifests, in PostgreSQL's own format.
//!
//! A manifest lists every file of a base backup with its size and checksum, and
//! the WAL that makes it consistent; its last line is a checksum of all before
//! it. `pg_verifybackup` reads it, and so does a restore here. Versions: 1, and 2
//! (with the system identifier) from PostgreSQL 17.
//!
//! Source of the format: PostgreSQL manual, "Backup Manifest Format".

mod kept;
mod read;
mod waiting;
mod write;

use std::fmt::{self, Write};
use std::str::FromStr;

use sha2::{Digest, Sha256};

use crate::wal::{History, Lsn, TimelineId};

pub use kept::{Keeping, Kept};
pub use read::{ManifestError, Summary, read};
pub use write::{Builder, Manifest};

/// How the files are summed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Algorithm {
    /// Finds every accident.
    #[default]
    Crc32c,
    /// Finds malice too, if the manifest itself is kept elsewhere.
    Sha256,
}

impl Algorithm {
    /// Its name in a manifest.
    pub fn name(self) -> &'static str {
        match self {
            Self::Crc32c => "CRC32C",
            Self::Sha256 => "SHA256",
        }
    }
}

/// A text that names no algorithm.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a checksum algorithm (crc32c or sha256)")]
pub struct InvalidAlgorithm(pub String);

impl FromStr for Algorithm {
    type Err = InvalidAlgorithm;

    fn from_str(text: &str) -> Result<Self, InvalidAlgorithm> {
        let all = [Self::Crc32c, Self::Sha256];
        let found = all
            .into_iter()
            .find(|algorithm| algorithm.name().eq_ignore_ascii_case(text));
        found.ok_or_else(|| InvalidAlgorithm(text.to_owned()))
    }
}

/// A checksum in the making.
#[derive(Debug, Clone)]
pub enum Summing {
    /// Of this algorithm.
    Crc32c(u32),
    /// Of this algorithm.
    Sha256(Box<Sha256>),
}

impl Summing {
    /// Of no bytes yet.
    pub fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Crc32c => Self::Crc32c(0),
            Algorithm::Sha256 => Self::Sha256(Box::default()),
        }
    }

    /// Adds bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        match self {
            Self::Crc32c(sum) => *sum = crc32c::crc32c_append(*sum, bytes),
            Self::Sha256(sum) => sum.update(bytes),
        }
    }

    /// Adds bytes that are zero.
    pub fn add_zeroes(&mut self, mut count: u64) {
        const ZEROES: [u8; 4096] = [0; 4096];
        while count > 0 {
            let piece = usize::try_from(count).map_or(ZEROES.len(), |n| n.min(ZEROES.len()));
            self.add(&ZEROES[..piece]);
            count -= piece as u64;
        }
    }

    /// The checksum of all bytes.
    pub fn finish(self) -> Checksum {
        match self {
            Self::Crc32c(sum) => Checksum::Crc32c(sum),
            Self::Sha256(sum) => Checksum::Sha256(sum.finalize().into()),
        }
    }
}

/// The checksum of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// CRC-32C (Castagnoli).
    Crc32c(u32),
    /// SHA-256.
    Sha256([u8; 32]),
}

impl Checksum {
    /// Name of the algorithm.
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Self::Crc32c(_) => Algorithm::Crc32c,
            Self::Sha256(_) => Algorithm::Sha256,
        }
    }

    /// Reads the digits of a checksum.
    fn parse(algorithm: &str, digits: &str) -> Option<Self> {
        let bytes = unhex(digits)?;
        match algorithm.parse().ok()? {
            // The server writes the bytes as they lie in its memory, which is
            // backwards on every machine it is built for today.
            Algorithm::Crc32c => bytes
                .try_into()
                .ok()
                .map(u32::from_le_bytes)
                .map(Self::Crc32c),
            Algorithm::Sha256 => bytes.try_into().ok().map(Self::Sha256),
        }
    }
}

/// The digits, as they stand in a manifest.
impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Crc32c(sum) => f.write_str(&hex(&sum.to_le_bytes())),
            Self::Sha256(sum) => f.write_str(&hex(sum)),
        }
    }
}

/// The path in a manifest of the file `name` of PGDATA, or of the tablespace with
/// this oid. Some names of members begin with `./`, paths do not.
pub fn path(tablespace: Option<u32>, name: &[u8]) -> Vec<u8> {
    let name = name.strip_prefix(b"./").unwrap_or(name);
    match tablespace {
        None => name.to_vec(),
        Some(oid) => [format!("pg_tblspc/{oid}/").as_bytes(), name].concat(),
    }
}

/// A file of the backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its path below PGDATA; files of a tablespace are below `pg_tblspc/OID`.
    pub path: Vec<u8>,
    /// Its size, in bytes.
    pub size: u64,
    /// When it was last changed, in seconds since 1970.
    pub modified: i64,
    /// Its checksum; `None` for an algorithm that is not known here.
    pub checksum: Option<Checksum>,
}

/// WAL of one timeline that is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalRange {
    /// Its timeline.
    pub timeline: TimelineId,
    /// From here on.
    pub start: Lsn,
    /// To here.
    pub end: Lsn,
}

impl WalRange {
    /// What a backup needs that began on `timeline` at `start` and ended at `end` on the
    /// timeline that `history` is of: a range for each that its server followed, the newest
    /// first, as the server's own manifests have them. `None` if that history does not lead
    /// from the one to the other.
    pub fn along(
        history: &History,
        timeline: TimelineId,
        start: Lsn,
        mut end: Lsn,
    ) -> Option<Vec<Self>> {
        let mut ranges = Vec::new();
        let mut here = history.timeline();
        for &(ancestor, fork) in history.ancestors().iter().rev() {
            if here == timeline {
                break;
            }
            if fork > end {
                return None;
            }
            ranges.push(Self {
                timeline: here,
                start: fork,
                end,
            });
            (here, end) = (ancestor, fork);
        }
        ranges.push(Self {
            timeline,
            start,
            end,
        });
        (here == timeline && start <= end).then_some(ranges)
    }
}

/// Whether these ranges are of a backup that began on `timeline` at `start` and ended at
/// `end`, on whatever timeline.
pub fn ranges_fit(ranges: &[WalRange], timeline: TimelineId, start: Lsn, end: Lsn) -> bool {
    let chained = ranges.windows(2).all(|pair| {
        let [later, earlier] = pair else { return false };
        later.timeline > earlier.timeline && later.start == earlier.end
    });
    let (Some(newest), Some(oldest)) = (ranges.first(), ranges.last()) else {
        return false;
    };
    chained && oldest.timeline == timeline && oldest.start == start && newest.end == end
}

fn hex(bytes: &[u8]) -> String {
    let mut digits = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _ = write!(digits, "{byte:02x}");
    }
    digits
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    let bytes = digits.as_bytes();
    if !bytes.len().is_multiple_of(2) || !bytes.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let byte = |pair: &[u8]| {
        let text = std::str::from_utf8(pair).ok()?;
        u8::from_str_radix(text, 16).ok()
    };
    bytes.chunks(2).map(byte).collect()
}

#[cfg(test)]
mod tests;
