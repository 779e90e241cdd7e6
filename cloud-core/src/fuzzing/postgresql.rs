//! What PostgreSQL writes: segments of WAL, `pg_control`, and manifests, which we write too.

use sha2::{Digest, Sha256};

use crate::manifest::{self, Builder, Entry, Summary};
use crate::pgdata::ControlFile;
use crate::wal::fit::judge;
use crate::wal::page::{ReachMeter, SegmentIdentity};
use crate::wal::record::{Flaw, RecordMeter};
use crate::wal::seam::{Carry, Ends};
use crate::wal::{WalKind, WalName};

/// A page of WAL, in bytes.
const PAGE: usize = 8192;

/// A segment. In pieces, whose size is the first byte of the input, it is what it is as a
/// whole; and so are two of them in a row, cut where a page begins.
pub(super) fn segment(data: &[u8]) {
    let Some((size, bytes)) = data.split_first() else {
        return;
    };
    let pieces = || bytes.chunks(usize::from(*size) + 1);
    let whole = reach([bytes].into_iter());
    assert_eq!(reach(pieces()), whole);
    assert!(whole <= bytes.len() as u64);
    for kind in [WalKind::Segment, WalKind::Partial] {
        assert_eq!(flaw(pieces(), kind), flaw([bytes].into_iter(), kind));
    }
    let (first, second) = bytes.split_at(bytes.len() / 2 / PAGE * PAGE);
    assert_eq!(
        seam(
            first.chunks(usize::from(*size) + 1),
            second.chunks(usize::from(*size) + 1)
        ),
        seam([first].into_iter(), [second].into_iter())
    );
    let name: WalName = "000000010000000000000006".parse().expect("a name");
    let _ = judge(&name, bytes.len() as u64, bytes);
    let _ = SegmentIdentity::of(bytes);
}

fn reach<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> u64 {
    let mut meter = ReachMeter::new();
    pieces.for_each(|piece| meter.update(piece));
    meter.finish()
}

fn flaw<'a>(pieces: impl Iterator<Item = &'a [u8]>, kind: WalKind) -> Option<Flaw> {
    let mut meter = RecordMeter::new();
    pieces.for_each(|piece| meter.update(piece));
    meter.finish(kind)
}

/// What is wrong with the record that goes from one segment into the next, and with that which
/// would go on into the first one again.
fn seam<'a>(
    first: impl Iterator<Item = &'a [u8]>,
    second: impl Iterator<Item = &'a [u8]>,
) -> [Option<Flaw>; 3] {
    let [first, second] = [ends(first), ends(second)];
    let (carry, nothing) = first.join(Carry::default());
    let (carry, middle) = second.join(carry);
    let (_, last) = first.join(carry);
    [nothing, middle, last]
}

fn ends<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Ends {
    let mut meter = RecordMeter::new();
    pieces.for_each(|piece| meter.update(piece));
    meter.finish_whole(WalKind::Segment).ends
}

/// A control file, as it is and with a checksum that fits.
pub(super) fn control(data: &[u8]) {
    /// Where the checksum is from version 1300 on.
    const USED: usize = 288;
    let _ = ControlFile::parse(data);
    let mut bytes = data.to_vec();
    bytes.resize(USED, 0);
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    if let Ok(control) = ControlFile::parse(&bytes) {
        assert!(control.sizes.block_size.is_power_of_two());
        assert!(control.sizes.wal_segment_size.is_power_of_two());
    }
}

/// A manifest, as it is and with a checksum that fits. One that can be read is written
/// again with the same files.
pub(super) fn manifest(data: &[u8]) {
    let mut files = Vec::new();
    let _ = manifest::read(data, |_| ());
    let mut text = data.to_vec();
    let mut sum = String::new();
    for byte in Sha256::digest(data) {
        sum.push_str(&format!("{byte:02x}"));
    }
    text.extend_from_slice(format!("\"Manifest-Checksum\": \"{sum}\"}}\n").as_bytes());
    let Ok(summary) = manifest::read(&text[..], |entry| files.push(entry)) else {
        return;
    };
    assert_eq!(summary.files, files.len() as u64);
    if !summary.ranges.is_empty() {
        let (again, entries) = written(&summary, &files);
        assert_eq!((again, entries), (summary, files));
    }
}

fn written(summary: &Summary, files: &[Entry]) -> (Summary, Vec<Entry>) {
    let version = if summary.system_identifier.is_some() {
        170_000
    } else {
        160_000
    };
    let system = summary.system_identifier.unwrap_or_default();
    let mut builder = Builder::new(version, system).expect("there is room");
    for file in files {
        builder.add(file).expect("there is room");
    }
    let manifest = builder.finish(&summary.ranges).expect("there is room");
    let mut entries = Vec::new();
    let text = std::io::BufReader::new(manifest);
    let read = manifest::read(text, |entry| entries.push(entry));
    (read.expect("it was just written"), entries)
}
