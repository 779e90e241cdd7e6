//! What is written is read, and nothing else.

use std::io::Read;

use proptest::prelude::*;

use super::*;

fn range() -> WalRange {
    WalRange {
        timeline: TimelineId(3),
        start: Lsn(0x1_0000_0028),
        end: Lsn(0x1_0000_0100),
    }
}

fn entry(path: &[u8], content: &[u8], algorithm: Algorithm) -> Entry {
    let mut sum = Summing::new(algorithm);
    sum.add(content);
    Entry {
        path: path.to_vec(),
        size: content.len() as u64,
        modified: 1_795_224_093,
        checksum: Some(sum.finish()),
    }
}

fn manifest(version: u32, entries: &[Entry]) -> String {
    let mut builder = Builder::new(version, 7_710_443_699_091_897_341).unwrap();
    for entry in entries {
        builder.add(entry).unwrap();
    }
    let mut manifest = builder.finish(&[range()]).unwrap();
    let size = manifest.size();
    let mut text = String::new();
    manifest.read_to_string(&mut text).unwrap();
    assert_eq!(text.len() as u64, size);
    text
}

fn read_all(text: &[u8]) -> Result<(Summary, Vec<Entry>), ManifestError> {
    let mut entries = Vec::new();
    let summary = read(text, |entry| entries.push(entry))?;
    Ok((summary, entries))
}

/// The letters are the server's: this is what `pg_basebackup` writes for the same
/// files.
#[test]
fn the_form_is_the_servers() {
    let entries = [
        entry(b"global/pg_control", b"123456789", Algorithm::Crc32c),
        entry(
            b"pg_tblspc/16384/a\"\\\n\x01\xc3\xa9",
            b"",
            Algorithm::Crc32c,
        ),
        entry(b"caf\xe9", b"x", Algorithm::Crc32c),
    ];
    let text = manifest(150_000, &entries);
    let (body, last) = text.split_at(text.rfind("\"Manifest-Checksum\"").unwrap());
    assert_eq!(
        body,
        r#"{ "PostgreSQL-Backup-Manifest-Version": 1,
"Files": [
{ "Path": "global/pg_control", "Size": 9, "Last-Modified": "2026-11-21 01:21:33 GMT", "Checksum-Algorithm": "CRC32C", "Checksum": "839206e3" },
{ "Path": "pg_tblspc/16384/a\"\\\n\u0001é", "Size": 0, "Last-Modified": "2026-11-21 01:21:33 GMT", "Checksum-Algorithm": "CRC32C", "Checksum": "00000000" },
{ "Encoded-Path": "636166e9", "Size": 1, "Last-Modified": "2026-11-21 01:21:33 GMT", "Checksum-Algorithm": "CRC32C", "Checksum": "935f3ca9" }
],
"WAL-Ranges": [
{ "Timeline": 3, "Start-LSN": "1/28", "End-LSN": "1/100" }
],
"#
    );
    let sum = hex(&Sha256::digest(body.as_bytes()));
    assert_eq!(last, format!("\"Manifest-Checksum\": \"{sum}\"}}\n"));
    let newer = manifest(170_000, &entries);
    assert!(newer.starts_with(
        "{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\
         \"System-Identifier\": 7710443699091897341,\n\"Files\": [\n"
    ));
}

#[test]
fn what_was_written_is_read() {
    for version in [130_000, 180_000] {
        let entries = [
            entry(b"a", b"content", Algorithm::Sha256),
            entry(b"\xff/\"", b"", Algorithm::Crc32c),
        ];
        let (summary, found) = read_all(manifest(version, &entries).as_bytes()).unwrap();
        assert_eq!(found, entries);
        assert_eq!(summary.ranges, [range()]);
        assert_eq!(summary.files, 2);
        assert_eq!(summary.system_identifier.is_some(), version >= 170_000);
    }
}

#[test]
fn there_is_a_range_for_each_timeline_that_a_server_followed() {
    let range = |timeline, start, end| WalRange {
        timeline: TimelineId(timeline),
        start: Lsn(start),
        end: Lsn(end),
    };
    let along = |history: &History, timeline, start, end| {
        WalRange::along(history, TimelineId(timeline), Lsn(start), Lsn(end))
    };
    let text = "1\t0/3000158\tx\n2\t0/5000000\tx\n";
    let history = History::parse(TimelineId(4), text).unwrap();
    let all = [
        range(4, 0x500_0000, 0x600_0000),
        range(2, 0x300_0158, 0x500_0000),
        range(1, 0x200_0028, 0x300_0158),
    ];
    for (timeline, start, from) in [(1, 0x200_0028, 0), (2, 0x300_0158, 1), (4, 0x500_0000, 2)] {
        let ranges = along(&history, timeline, start, 0x600_0000).unwrap();
        assert_eq!(ranges, all[..=2 - from]);
        let fits =
            |timeline, start, end| ranges_fit(&ranges, TimelineId(timeline), Lsn(start), Lsn(end));
        assert!(fits(timeline, start, 0x600_0000));
        assert!(!fits(timeline, start + 1, 0x600_0000));
        assert!(!fits(timeline, start, 0x600_0001));
        assert!(!fits(3, start, 0x600_0000));
    }
    let first = History::of_first(TimelineId(1));
    assert_eq!(along(&first, 1, 8, 9), Some(vec![range(1, 8, 9)]));
    // Not of this history, an end before the fork, a beginning behind it.
    assert_eq!(along(&history, 3, 0x200_0028, 0x600_0000), None);
    assert_eq!(along(&history, 1, 0x200_0028, 0x400_0000), None);
    assert_eq!(along(&history, 1, 0x400_0000, 0x600_0000), None);

    let fits =
        |ranges: &[WalRange]| ranges_fit(ranges, TimelineId(1), Lsn(0x200_0028), Lsn(0x600_0000));
    assert!(fits(&all));
    let [newest, middle, oldest] = all;
    assert!(!fits(&[newest, oldest]) && !fits(&[oldest, middle, newest]) && !fits(&[]));
    let again = WalRange {
        timeline: TimelineId(4),
        ..middle
    };
    assert!(!fits(&[newest, again, oldest]));

    let mut text = String::new();
    let builder = Builder::new(150_000, 1).unwrap();
    let mut manifest = builder.finish(&all).unwrap();
    manifest.read_to_string(&mut text).unwrap();
    assert!(text.contains(
        r#"
"WAL-Ranges": [
{ "Timeline": 4, "Start-LSN": "0/5000000", "End-LSN": "0/6000000" },
{ "Timeline": 2, "Start-LSN": "0/3000158", "End-LSN": "0/5000000" },
{ "Timeline": 1, "Start-LSN": "0/2000028", "End-LSN": "0/3000158" }
],
"#
    ));
    assert_eq!(read_all(text.as_bytes()).unwrap().0.ranges, all);
}

#[test]
fn a_bit_that_was_flipped_anywhere_is_found() {
    let text = manifest(170_000, &[entry(b"a/b", b"x", Algorithm::Crc32c)]);
    for at in 0..text.len() {
        for bit in [0, 4] {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1 << bit;
            // The case of the digits of the last line alone says nothing.
            let same = bytes.to_ascii_lowercase() == text.to_ascii_lowercase().into_bytes();
            assert!(same || read_all(&bytes).is_err(), "byte {at}");
        }
    }
    for end in 0..text.len() {
        assert!(read_all(&text.as_bytes()[..end]).is_err(), "cut at {end}");
    }
    let more = text.clone() + "x";
    assert!(read_all(more.as_bytes()).is_err());
}

#[test]
fn zeroes_count_like_any_bytes() {
    for algorithm in [Algorithm::Crc32c, Algorithm::Sha256] {
        for count in [0, 1, 4096, 10_000] {
            let mut one = Summing::new(algorithm);
            one.add(b"x");
            one.add_zeroes(count);
            let mut other = Summing::new(algorithm);
            other.add(b"x");
            other.add(&vec![0; usize::try_from(count).unwrap()]);
            assert_eq!(one.finish(), other.finish());
        }
    }
}

#[test]
fn files_wait_in_little_memory() {
    let mut builder = Builder::new(150_000, 1).unwrap();
    for number in 0..100_000_u64 {
        let sum = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        builder
            .add(&Entry {
                path: format!("base/16384/{}", 16_384 + number).into_bytes(),
                size: 8192 * (number % 7),
                modified: 1_795_224_093 + i64::try_from(number / 100).unwrap(),
                checksum: Some(Checksum::Crc32c((sum >> 32) as u32)),
            })
            .unwrap();
    }
    let kept = builder.finish(&[range()]).unwrap().in_memory();
    assert!(kept < 100_000 * 25, "{kept}");
}

proptest! {
    #[test]
    fn any_path_is_read_back(paths in prop::collection::vec(any::<Vec<u8>>(), 0..8)) {
        let entries: Vec<_> = paths
            .iter()
            .map(|path| entry(path, path, Algorithm::Crc32c))
            .collect();
        let (_, found) = read_all(manifest(150_000, &entries).as_bytes()).unwrap();
        prop_assert_eq!(found, entries);
    }

    #[test]
    fn no_text_makes_the_reader_panic(text: Vec<u8>) {
        let _ = read_all(&text);
    }
}
