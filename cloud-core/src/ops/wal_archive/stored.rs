//! What to do when the archive already has a file of this name (W2).
//!
//! Files are compared by their plain content, never by what a store says of an
//! object: an ETag depends on encryption and on the size of the parts
//! (docs/decisions.md 13). Two states of a `.partial` are both right, and the
//! one that reaches further contains the other.

use std::fmt;
use std::io::{self, Write};

use sha2::{Digest as _, Sha256};

use crate::wal::WalKind;
use crate::wal::page::{ReachMeter, SegmentIdentity};
use crate::wal::record::{Flaw, RecordMeter};

/// What is kept of a content to compare it with another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Content {
    size: u64,
    sha256: [u8; 32],
    identity: Option<SegmentIdentity>,
    reach: u64,
    flaw: Option<Flaw>,
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes, SHA-256 ", self.size)?;
        for byte in &self.sha256[..8] {
            write!(f, "{byte:02x}")?;
        }
        if let Some(identity) = self.identity {
            write!(
                f,
                ", system identifier {}, timeline {}",
                identity.system_identifier, identity.timeline
            )?;
        }
        if let Some(flaw) = self.flaw {
            write!(f, ", {flaw}")?;
        }
        Ok(())
    }
}

/// Takes a content in pieces.
#[derive(Debug, Default)]
pub(super) struct ContentWriter {
    size: u64,
    sha256: Sha256,
    meter: ReachMeter,
    records: RecordMeter,
}

impl ContentWriter {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        self.sha256.update(bytes);
        self.meter.update(bytes);
        self.records.update(bytes);
    }

    /// What was taken, a file of this kind.
    pub(super) fn finish(self, kind: WalKind) -> Content {
        Content {
            size: self.size,
            sha256: self.sha256.finalize().into(),
            identity: self.meter.identity(),
            reach: self.meter.finish(),
            flaw: self.records.finish(kind),
        }
    }
}

impl Write for ContentWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What follows from the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The file is in the archive already.
    Same,
    /// Another file has this name: neither may be lost.
    Different,
    /// Both are states of one `.partial`, and the stored one reaches at least
    /// as far.
    KeepStored,
    /// Both are states of one `.partial`, and ours reaches further.
    Replace,
}

/// Compares our file of this kind with the stored one.
pub(super) fn compare(kind: WalKind, ours: &Content, stored: &Content) -> Verdict {
    if ours.size == stored.size && ours.sha256 == stored.sha256 {
        return Verdict::Same;
    }
    let (WalKind::Partial, Some(our), Some(their)) = (kind, ours.identity, stored.identity) else {
        return Verdict::Different;
    };
    let one_segment = our.system_identifier == their.system_identifier && our.start == their.start;
    match one_segment {
        false => Verdict::Different,
        true if ours.reach > stored.reach => Verdict::Replace,
        true => Verdict::KeepStored,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: &[u8] = include_bytes!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/golden/wal/000000010000000000000006"
    ));

    fn content(bytes: &[u8]) -> Content {
        let mut writer = ContentWriter::default();
        writer.write_all(bytes).expect("never fails");
        writer.finish(WalKind::Segment)
    }

    /// The golden segment up to `end`, zeroes after it.
    fn until(end: usize) -> Vec<u8> {
        let mut bytes = GOLDEN.to_vec();
        bytes[end..].fill(0);
        bytes
    }

    #[test]
    fn of_two_partials_the_one_that_reaches_further_is_kept() {
        let short = content(&until(3 * 8192));
        let long = content(&until(5 * 8192));
        let mut foreign = until(7 * 8192);
        foreign[24] ^= 1;
        let mut elsewhere = until(7 * 8192);
        elsewhere[10] += 0x10;
        for (ours, stored, verdict) in [
            (&short, &short, Verdict::Same),
            (&short, &long, Verdict::KeepStored),
            (&long, &short, Verdict::Replace),
            (&content(&foreign), &short, Verdict::Different),
            (&short, &content(&foreign), Verdict::Different),
            (&content(&elsewhere), &short, Verdict::Different),
            (&short, &content(b"no WAL"), Verdict::Different),
            (&content(b"no WAL"), &short, Verdict::Different),
        ] {
            assert_eq!(compare(WalKind::Partial, ours, stored), verdict);
        }
    }

    #[test]
    fn partials_that_reach_equally_far_keep_the_stored_one() {
        let mut other = until(3 * 8192);
        other[2 * 8192 + 100] ^= 0xFF;
        let (ours, stored) = (content(&other), content(&until(3 * 8192)));
        assert_eq!(
            compare(WalKind::Partial, &ours, &stored),
            Verdict::KeepStored
        );
    }

    #[test]
    fn anything_else_is_the_same_or_different() {
        let (short, long) = (content(&until(8192)), content(GOLDEN));
        for kind in [WalKind::Segment, WalKind::History, WalKind::Backup] {
            assert_eq!(compare(kind, &long, &short), Verdict::Different);
            assert_eq!(compare(kind, &short, &long), Verdict::Different);
            assert_eq!(compare(kind, &long, &long), Verdict::Same);
        }
    }

    #[test]
    fn a_content_names_checksum_cluster_and_timeline() {
        assert_eq!(
            content(GOLDEN).to_string(),
            "1048576 bytes, SHA-256 1379377d475d02e6, system identifier 7710448268996247812, \
             timeline 1"
        );
        assert_eq!(
            content(b"").to_string(),
            "0 bytes, SHA-256 e3b0c44298fc1c14"
        );
    }
}
