//! The writer and the reader against each other, and against damage.

use std::io::{self, Cursor, ErrorKind, Read};

use proptest::prelude::*;

use super::*;

/// A member with all values in the ordinary range.
pub(super) fn member(name: &[u8], kind: MemberKind) -> Member {
    Member {
        name: name.to_vec(),
        mode: match kind {
            MemberKind::Directory => 0o700,
            _ => 0o600,
        },
        kind,
        uid: 101,
        gid: 104,
        user: b"postgres".to_vec(),
        group: b"postgres".to_vec(),
        mtime: Mtime {
            seconds: 1_795_227_693,
            nanos: 250_000_000,
        },
    }
}

pub(super) fn file(name: &[u8], size: u64) -> Member {
    member(name, MemberKind::File { size })
}

/// Content that shows where it is from.
pub(super) fn content(name: &[u8], size: u64) -> Vec<u8> {
    let mut bytes = name.to_vec();
    bytes.push(b'\n');
    let size = usize::try_from(size).expect("small");
    bytes.into_iter().cycle().take(size).collect()
}

/// Members of every kind and with every value that needs an extended header.
pub(super) fn odd_members() -> Vec<Member> {
    let long = |length: usize| "x".repeat(length).into_bytes();
    let deep = "directory/".repeat(30) + "file";
    // ustar can say this one in two pieces.
    let less_deep = "directory/".repeat(12) + "file";
    let symlink = |target: &[u8]| MemberKind::Symlink {
        target: target.to_vec(),
    };
    let mut members = vec![
        member(b".", MemberKind::Directory),
        file(b"./PG_VERSION", 3),
        member(b"global", MemberKind::Directory),
        file(b"global/1262", 8192),
        file(b"global/empty", 0),
        file(&long(100), 511),
        file(&long(101), 512),
        file(&long(255), 513),
        file(deep.as_bytes(), 5),
        file(less_deep.as_bytes(), 5),
        file(b"new\nline", 1),
        file(b"equals=sign 12 path=x", 1),
        file(b"back\\slash and blank ", 1),
        file("späße".as_bytes(), 2),
        file(b"not utf-8 \xff\xfe", 70_000),
        member(&[&long(99)[..], b"d"].concat(), MemberKind::Directory),
        member(b"link", symlink(b"PG_VERSION")),
        member(b"dangling", symlink(&long(200))),
        member(b"odd link", symlink(b"\xff\n")),
        member(
            b"hard link",
            MemberKind::HardLink {
                target: b"global/1262".to_vec(),
            },
        ),
        member(
            b"long hard link",
            MemberKind::HardLink { target: long(255) },
        ),
        member(b"pipe", MemberKind::Fifo),
    ];
    for (seconds, nanos) in [
        (0, 0),
        (0, 1),
        (-1, 0),
        (-2, 500_000_000),
        (-2_000_000_000, 999_999_999),
        (8_589_934_591, 0),
        (8_589_934_592, 0),
    ] {
        members.push(Member {
            mtime: Mtime { seconds, nanos },
            ..file(format!("time {seconds} {nanos}").as_bytes(), 0)
        });
    }
    members.push(Member {
        uid: 2_097_151,
        gid: 2_097_152,
        user: long(31),
        group: long(32),
        mode: 0o7777,
        ..file(b"owner", 0)
    });
    members.push(Member {
        uid: 4_294_967_294,
        gid: 4_294_967_294,
        user: "jürgen".into(),
        group: Vec::new(),
        ..file(b"nobody", 0)
    });
    members
}

fn append(
    writer: &mut TarWriter<Vec<u8>>,
    member: &Member,
    mut data: impl Read,
) -> Result<Copied, AppendError> {
    writer.append(member, &mut data, &mut Vec::new())
}

fn finished(mut writer: TarWriter<Vec<u8>>) -> Vec<u8> {
    writer.finish().expect("memory takes everything");
    std::mem::take(writer.get_mut())
}

/// An archive of `members`, each file with its [`content`].
pub(super) fn archive(members: &[Member]) -> Vec<u8> {
    let mut writer = TarWriter::new(Vec::new());
    for member in members {
        let copied = append(
            &mut writer,
            member,
            &content(&member.name, member.size())[..],
        )
        .unwrap_or_else(|e| panic!("{member:?}: {e}"));
        assert_eq!(copied, Copied::default());
    }
    finished(writer)
}

/// All members with their contents.
pub(super) fn read(bytes: &[u8]) -> Result<Vec<(Member, Vec<u8>)>, TarError> {
    let mut reader = TarReader::new(bytes);
    let mut members = Vec::new();
    while let Some(member) = reader.next_member()? {
        let mut content = Vec::new();
        reader.read_to_end(&mut content)?;
        members.push((member, content));
    }
    Ok(members)
}

#[test]
fn what_is_written_is_read_back() {
    let members = odd_members();
    let bytes = archive(&members);
    assert_eq!(bytes.len() % 10240, 0);
    let expected: Vec<_> = members
        .into_iter()
        .map(|member| {
            let content = content(&member.name, member.size());
            (member, content)
        })
        .collect();
    assert_eq!(read(&bytes).expect("read"), expected);
}

/// The same members make the same bytes as the reference made of them.
#[test]
fn an_archive_of_the_reference_is_written_again_byte_for_byte() {
    for name in ["none", "parts"] {
        let folder = format!(
            "{}/../tests/golden/tiny/{name}/base/20261121T120000",
            env!("CARGO_MANIFEST_DIR")
        );
        for entry in std::fs::read_dir(folder).expect("golden files") {
            let path = entry.expect("an entry").path();
            if path.extension().is_none_or(|extension| extension != "tar") {
                continue;
            }
            let bytes = std::fs::read(&path).expect("a golden file");
            let mut writer = TarWriter::new(Vec::new());
            for (member, content) in read(&bytes).expect("read") {
                append(&mut writer, &member, &content[..]).expect("added");
            }
            assert!(finished(writer) == bytes, "{path:?}");
        }
    }
}

#[test]
fn an_archive_without_members_is_a_record_of_zeroes() {
    let bytes = archive(&[]);
    assert_eq!(bytes, vec![0; 10240]);
    assert_eq!(read(&bytes).expect("read"), []);
}

#[test]
fn the_end_always_has_two_zero_blocks() {
    // Header and content fill the record up to one block, exactly, and so on.
    for blocks in 15..24 {
        let plain = Member {
            mtime: Mtime::default(),
            ..file(b"f", blocks * 512)
        };
        let bytes = archive(std::slice::from_ref(&plain));
        let used = (blocks + 1) * 512;
        assert_eq!(bytes.len() as u64, (used + 1024).next_multiple_of(10240));
    }
}

#[test]
fn content_that_is_short_is_filled_and_content_that_grew_is_cut() {
    for (size, there, missing, grew) in [
        (1000, 1000, 0, false),
        (1000, 400, 600, false),
        (1000, 0, 1000, false),
        (1000, 1001, 0, true),
        (1000, 5000, 0, true),
        (0, 1, 0, true),
        (0, 0, 0, false),
        (700_000, 262_144, 437_856, false),
        (700_000, 700_001, 0, true),
        (262_144, 262_144, 0, false),
    ] {
        let mut writer = TarWriter::new(Vec::new());
        let data = vec![b'a'; there];
        let copied = append(&mut writer, &file(b"changing", size), &data[..]).expect("stored");
        assert_eq!(copied, Copied { missing, grew }, "{size} {there}");
        append(&mut writer, &file(b"next", 0), io::empty()).expect("added");

        let members = read(&finished(writer)).expect("read");
        let content = &members[0].1;
        assert_eq!(content.len() as u64, size);
        let (read, filled) = content.split_at(there.min(content.len()));
        assert!(read.iter().all(|byte| *byte == b'a'));
        assert!(filled.iter().all(|byte| *byte == 0));
        assert_eq!(members[1].0.name, b"next");
    }
}

/// A file may get its bytes back between two looks at its end.
#[test]
fn content_that_ended_is_not_asked_again() {
    struct Returns(bool);
    impl Read for Returns {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let count = if self.0 { buf.len() } else { 0 };
            self.0 = true;
            Ok(count)
        }
    }
    let mut writer = TarWriter::new(Vec::new());
    let copied = append(&mut writer, &file(b"f", 10), Returns(false)).expect("stored");
    assert_eq!((copied.missing, copied.grew), (10, false));
}

/// Readers take values for UTF-8 unless they are told.
#[test]
fn names_that_are_not_utf_8_are_announced_once() {
    let odd = Member {
        user: b"\xff".to_vec(),
        ..file(b"\xfe", 0)
    };
    let bytes = header::encode(&odd).expect("a header");
    let records = b"21 hdrcharset=BINARY\n9 path=\xfe\n11 uname=\xff\n23 mtime=";
    assert_eq!(bytes[512..512 + records.len()], records[..]);
    let plain = header::encode(&file("ä".as_bytes(), 0)).expect("a header");
    assert!(!plain.windows(6).any(|window| window == b"BINARY"));
}

#[derive(Debug)]
struct Failing(ErrorKind);

impl Read for Failing {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(self.0.into())
    }
}

/// An I/O error is not the end of the file: zeroes in its place would be a
/// backup of a broken disk that nobody hears of.
#[test]
fn content_that_cannot_be_read_breaks_the_archive() {
    for (there, size) in [(0, 1000), (999, 1000), (1000, 1000), (0, 0)] {
        let mut writer = TarWriter::new(Vec::new());
        let bytes = content(b"f", there);
        let source = Cursor::new(bytes).chain(Failing(ErrorKind::Other));
        let error = append(&mut writer, &file(b"base/5/16385", size), source)
            .expect_err("the disk is broken");
        assert!(matches!(error, AppendError::Read(_)), "{error:?}");
        let next = append(&mut writer, &file(b"next", 0), io::empty());
        assert!(matches!(next, Err(AppendError::Write(_))));
        writer.finish().expect_err("it is not whole");
    }
}

#[test]
fn reading_is_tried_again_after_an_interruption() {
    struct Interrupted<R>(R, bool);
    impl<R: Read> Read for Interrupted<R> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(ErrorKind::Interrupted.into());
            }
            let most = buf.len().min(100);
            self.0.read(&mut buf[..most])
        }
    }
    let bytes = content(b"f", 1000);
    let mut writer = TarWriter::new(Vec::new());
    let source = Interrupted(&bytes[..], false);
    append(&mut writer, &file(b"f", 1000), source).expect("stored");
    let archive = finished(writer);
    let mut reader = TarReader::new(Interrupted(&archive[..], false));
    reader.next_member().expect("read").expect("a member");
    let mut read = Vec::new();
    reader.read_to_end(&mut read).expect("read");
    assert_eq!(read, bytes);
    assert!(reader.next_member().expect("read").is_none());
}

#[test]
fn members_that_no_archive_can_hold_are_refused_and_break_nothing() {
    let link = |target: &[u8]| MemberKind::Symlink {
        target: target.to_vec(),
    };
    let mut writer = TarWriter::new(Vec::new());
    for bad in [
        file(b"", 0),
        file(b"zero\0byte", 0),
        file(b"f", 1 << 63),
        member(b"device", MemberKind::Device),
        member(b"link", link(b"")),
        member(b"link", link(b"a\0b")),
        Member {
            user: b"post\0gres".to_vec(),
            ..file(b"f", 0)
        },
    ] {
        let error = append(&mut writer, &bad, io::empty()).expect_err("bad");
        assert!(
            error.to_string().starts_with("could not store `"),
            "{error}"
        );
    }
    assert_eq!(finished(writer).len(), 10240);
}

#[test]
fn a_size_beyond_the_header_is_said_in_the_extended_header() {
    for (size, extended) in [
        ((8 << 30) - 1, false),
        (8 << 30, true),
        (i64::MAX as u64, true),
    ] {
        let plain = Member {
            mtime: Mtime::default(),
            ..file(b"base/5/16385", size)
        };
        let bytes = header::encode(&plain).expect("a header");
        let record = format!("size={size}\n");
        let found = bytes
            .windows(record.len())
            .any(|window| window == record.as_bytes());
        assert_eq!(found, extended);
        let mut reader = TarReader::new(&bytes[..]);
        let member = reader.next_member().expect("read").expect("a member");
        assert_eq!(member, plain);
        let error = reader.next_member().expect_err("there is no content");
        assert!(matches!(error, TarError::Cut { .. }), "{error:?}");
    }
}

#[test]
fn an_archive_cut_at_any_byte_is_refused() {
    let bytes = archive(&odd_members()[..8]);
    let end = bytes.len() - bytes.iter().rev().take_while(|byte| **byte == 0).count();
    // Behind the two zero blocks the padding may be missing.
    let end = end.next_multiple_of(512) + 1024;
    for length in 0..end {
        let error = read(&bytes[..length]).expect_err("cut");
        assert_eq!(
            io::Error::from(error).kind(),
            ErrorKind::UnexpectedEof,
            "{length}"
        );
    }
    read(&bytes[..end]).expect("whole");
}

#[test]
fn a_flipped_bit_in_a_header_is_refused_or_changes_nothing() {
    let bytes = archive(&[Member {
        mtime: Mtime::default(),
        ..file(b"base/5/16385", 0)
    }]);
    let whole = read(&bytes).expect("whole");
    for bit in 0..512 * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        // In the checksum itself a leading zero may as well be a blank.
        if let Ok(members) = read(&flipped) {
            assert_eq!(members, whole, "bit {bit}");
        }
    }
}

#[test]
fn something_behind_the_end_is_refused() {
    let one = archive(&[file(b"one", 5)]);
    let two = archive(&[file(b"two", 5)]);
    read(&[&one[..], &two].concat()).expect_err("a second archive would be lost");
    read(&[&one[..], b"x"].concat()).expect_err("garbage");
    read(&[&one[..], &vec![0; 100_000]].concat()).expect("more padding");
    // A single zero block is no end, and no beginning either.
    let members = &one[..one.len() - 10240 + 2048];
    read(&[members, &[0; 512]].concat()).expect_err("cut");
    read(&[members, &[0; 512], &two].concat()).expect_err("a lost end");
}

/// The decoder below says only at its end that a checksum is wrong.
#[test]
fn the_input_is_read_to_its_end() {
    let bytes = archive(&[file(b"one", 5)]);
    let mut reader = TarReader::new(Cursor::new(bytes).chain(Failing(ErrorKind::InvalidData)));
    reader.next_member().expect("read").expect("a member");
    let error = reader.next_member().expect_err("the input failed");
    let TarError::Read(source) = &error else {
        panic!("{error:?}");
    };
    assert_eq!(source.kind(), ErrorKind::InvalidData);
    assert!(matches!(reader.next_member(), Err(TarError::Broken)));
}

#[test]
fn content_that_is_not_read_is_skipped() {
    let bytes = archive(&[file(b"one", 200_000), file(b"two", 5)]);
    let mut reader = TarReader::new(&bytes[..]);
    reader.next_member().expect("read").expect("a member");
    reader.read_exact(&mut [0; 10]).expect("some of it");
    let member = reader.next_member().expect("read").expect("a member");
    assert_eq!(member.name, b"two");
    assert!(reader.next_member().expect("read").is_none());
    assert!(reader.next_member().expect("again").is_none());
}

#[test]
fn content_that_is_cut_is_an_error_that_stays() {
    let bytes = archive(&[file(b"one", 2_000)]);
    let mut reader = TarReader::new(&bytes[..2_000]);
    reader.next_member().expect("read").expect("a member");
    let error = io::copy(&mut reader, &mut io::sink()).expect_err("cut");
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    reader.read(&mut [0; 1]).expect_err("still");
    assert!(matches!(reader.next_member(), Err(TarError::Broken)));
}

#[test]
fn a_device_is_read_as_one() {
    for kind in *b"34" {
        let header = changed(&file(b"dev", 0), |block| block[156] = kind);
        let members = read(&with_end(&header)).expect("read");
        assert_eq!(members[0].0.kind, MemberKind::Device);
    }
}

/// A header with its checksum, changed by `change`.
fn changed(member: &Member, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut bytes = header::encode(member).expect("a header");
    let start = bytes.len() - 512;
    let block = &mut bytes[start..];
    change(block);
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    bytes
}

/// One header and the end.
fn with_end(header: &[u8]) -> Vec<u8> {
    [header, &[0; 1024]].concat()
}

#[test]
fn what_is_never_in_a_base_backup_is_refused_with_its_name() {
    let plain = file(b"odd\n", 0);
    for kind in *b"SVMDZ" {
        let header = changed(&plain, |block| block[156] = kind);
        let error = read(&with_end(&header)).expect_err("unsupported");
        assert!(matches!(error, TarError::Unsupported { .. }), "{error:?}");
        assert!(error.to_string().contains(r"`odd\n`"), "{error}");
    }
    let mut sparse = Vec::new();
    pax::push(&mut sparse, "GNU.sparse.major", b"1");
    let error = read(&with_end(&extended(&sparse, &plain))).expect_err("sparse");
    assert!(error.to_string().contains("sparse"), "{error}");
}

/// A member after an extended header of our making.
fn extended(records: &[u8], member: &Member) -> Vec<u8> {
    let own = Member {
        mtime: Mtime::default(),
        ..file(b"././@PaxHeader", records.len() as u64)
    };
    let mut bytes = changed(&own, |block| block[156] = b'x');
    bytes.extend_from_slice(records);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    let plain = Member {
        mtime: Mtime::default(),
        ..member.clone()
    };
    bytes.extend_from_slice(&header::encode(&plain).expect("a header"));
    bytes
}

#[test]
fn extended_headers_that_make_no_sense_are_refused() {
    let plain = file(b"f", 0);
    let record = |keyword, value: &[u8]| {
        let mut out = Vec::new();
        pax::push(&mut out, keyword, value);
        out
    };
    read(&with_end(&extended(&record("path", b"g"), &plain))).expect("this one does");
    for records in [
        b"no record".to_vec(),
        record("path", b"zero\0byte"),
        record("size", b"-1"),
        record("size", b"18446744073709551615"),
        record("uid", b"postgres"),
        record("gid", b"1.5"),
        record("mtime", b"yesterday"),
    ] {
        let error = read(&with_end(&extended(&records, &plain))).expect_err("nonsense");
        assert!(matches!(error, TarError::Damaged { .. }), "{error:?}");
    }
    let lonely = extended(&record("path", b"g"), &plain);
    read(&with_end(&lonely[..1024])).expect_err("it belongs to no member");
    // The size is a claim; nothing of it may be allocated.
    for kind in *b"xgLK" {
        let own = Member {
            mtime: Mtime::default(),
            ..file(b"h", (8 << 30) - 1)
        };
        let huge = changed(&own, |block| block[156] = kind);
        let error = read(&with_end(&huge)).expect_err("too long");
        assert!(error.to_string().contains("too long"), "{error}");
    }
}

#[test]
fn numbers_in_headers_may_be_written_in_several_ways() {
    let plain = Member {
        mtime: Mtime::default(),
        ..file(b"f", 0)
    };
    for (field, seconds) in [
        (&b"00000000017\0"[..], Some(15)),
        (b"         17 ", Some(15)),
        (b"17\0garbage--", Some(15)),
        (b"\0\0\0\0\0\0\0\0\0\0\0\0", Some(0)),
        (b"\x80\0\0\0\0\0\0\0\0\0\x01\x02", Some(258)),
        (
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe",
            Some(-2),
        ),
        (b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
        (b"00000000018\0", None),
        (b"-0000000017\0", None),
    ] {
        let header = changed(&plain, |block| {
            block[136..148].copy_from_slice(&field[..12]);
        });
        let read = read(&with_end(&header));
        match seconds {
            Some(seconds) => {
                let member = &read.expect("a number")[0].0;
                assert_eq!(member.mtime, Mtime { seconds, nanos: 0 });
            }
            None => assert!(read.is_err(), "{field:?}"),
        }
    }
    let negative = changed(&plain, |block| block[124..136].fill(0xff));
    read(&with_end(&negative)).expect_err("a negative size");
}

#[test]
fn a_global_header_counts_for_all_members_that_follow() {
    let mut records = Vec::new();
    pax::push(&mut records, "uid", b"77");
    pax::push(&mut records, "mtime", b"5.5");
    let mut bytes = extended(&records, &file(b"one", 0));
    bytes[156] = b'g';
    bytes[148..155].copy_from_slice(b"       ");
    let block: Vec<u8> = bytes[..512].to_vec();
    let sum: u32 = block
        .iter()
        .enumerate()
        .map(|(place, byte)| {
            if (148..156).contains(&place) {
                32
            } else {
                u32::from(*byte)
            }
        })
        .sum();
    bytes[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let two = file(b"two", 0);
    bytes.extend_from_slice(&header::encode(&two).expect("a header"));
    let members = read(&with_end(&bytes)).expect("read");
    assert_eq!(members[0].0.uid, 77);
    assert_eq!(members[0].0.mtime.nanos, 500_000_000);
    assert_eq!(members[1].0.uid, 77);
    // The member's own header wins.
    assert_eq!(members[1].0.mtime, two.mtime);
}

proptest! {
    #[test]
    fn any_member_is_read_as_it_was_written(
        name in prop::collection::vec(1_u8.., 1..300),
        target in prop::option::of(prop::collection::vec(1_u8.., 1..300)),
        (uid, gid) in (any::<u64>(), any::<u32>()),
        user in prop::collection::vec(1_u8.., 0..40),
        seconds in -(1_i64 << 40)..1 << 40,
        nanos in 0..1_000_000_000_u32,
        mode in 0..0o10000_u32,
        size in 0_u64..2000,
    ) {
        prop_assume!(!name.ends_with(b"/"));
        let kind = match target {
            Some(target) => MemberKind::Symlink { target },
            None => MemberKind::File { size },
        };
        let written = Member {
            name,
            kind,
            mode,
            uid,
            gid: gid.into(),
            user,
            group: Vec::new(),
            mtime: Mtime { seconds, nanos },
        };
        let members = read(&archive(std::slice::from_ref(&written))).expect("read");
        prop_assert_eq!(&members[0].0, &written);
    }

    #[test]
    fn damage_never_makes_the_reader_panic(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = archive(&odd_members());
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        bytes.truncate(cut.index(bytes.len()));
        let _ = read(&bytes);
    }
}
