use std::io::{Cursor, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::super::writer::{AppendError, Copied, TarWriter};
use super::*;

fn member(name: impl Into<Vec<u8>>, kind: MemberKind) -> Member {
    Member {
        name: name.into(),
        kind,
        mode: 0o640,
        uid: 101,
        gid: 104,
        user: b"postgres".to_vec(),
        group: b"postgres".to_vec(),
        mtime: Mtime {
            seconds: 1_795_227_644,
            nanos: 771_018_500,
        },
    }
}

fn file(name: impl Into<Vec<u8>>, size: usize) -> Member {
    member(name, MemberKind::File { size: size as u64 })
}

/// Members that no ordinary data directory has, and that must survive.
fn odd_members() -> Vec<(Member, Vec<u8>)> {
    let long = [b"d/".repeat(120), b"x".repeat(255)].concat();
    let mut all = vec![
        (member("./d", MemberKind::Directory), vec![]),
        (file("./empty", 0), vec![]),
        (file("./a", 1), vec![1]),
        (file("./b", 512), vec![2; 512]),
        (file("./c", 700_001), vec![3; 700_001]),
        (
            file([b"./".to_vec(), b"n".repeat(255)].concat(), 3),
            b"abc".to_vec(),
        ),
        (file(long, 3), b"abc".to_vec()),
        (file("./näme", 3), b"abc".to_vec()),
        (file(b"./raw\xff\xfe".to_vec(), 3), b"abc".to_vec()),
        (file(b"./new\nline".to_vec(), 3), b"abc".to_vec()),
        (
            file(
                b"./100"
                    .iter()
                    .copied()
                    .chain([b'y'; 95])
                    .collect::<Vec<_>>(),
                3,
            ),
            b"abc".to_vec(),
        ),
        (
            member(
                "./link",
                MemberKind::Symlink {
                    target: b"a".to_vec(),
                },
            ),
            vec![],
        ),
        (
            member(
                "./long",
                MemberKind::Symlink {
                    target: b"t".repeat(300),
                },
            ),
            vec![],
        ),
        (
            member(
                b"./rawlink".to_vec(),
                MemberKind::Symlink {
                    target: b"\xff".to_vec(),
                },
            ),
            vec![],
        ),
        (
            member(
                "./hard",
                MemberKind::HardLink {
                    target: b"./a".to_vec(),
                },
            ),
            vec![],
        ),
        (member("./pipe", MemberKind::Fifo), vec![]),
    ];
    let mut other = file("./owner", 3);
    (other.uid, other.gid) = (4_000_000_000, 3_000_000_000);
    (other.user, other.group) = (b"u".repeat(40), vec![]);
    other.mode = 0o4755;
    all.push((other, b"abc".to_vec()));
    for (seconds, nanos) in [(0, 0), (0, 1), (-1, 500_000_000), (-1000, 0), (1 << 40, 0)] {
        let mut other = file(format!("./time{seconds}.{nanos}"), 0);
        other.mtime = Mtime { seconds, nanos };
        all.push((other, vec![]));
    }
    all
}

fn archive(members: &[(Member, Vec<u8>)]) -> Vec<u8> {
    let mut writer = TarWriter::new(Vec::new());
    for (member, data) in members {
        let copied = writer
            .append(member, &mut Cursor::new(data), &mut Vec::new())
            .unwrap();
        assert_eq!(copied, Copied::default());
    }
    writer.finish().unwrap();
    writer.get_ref().clone()
}

fn read(bytes: &[u8]) -> Result<Vec<(Member, Vec<u8>)>, TarError> {
    let mut reader = TarReader::new(bytes);
    let mut members = Vec::new();
    while let Some(member) = reader.next_member()? {
        let mut data = Vec::new();
        reader.read_to_end(&mut data)?;
        members.push((member, data));
    }
    Ok(members)
}

#[test]
fn odd_members_survive() {
    let members = odd_members();
    assert_eq!(read(&archive(&members)).unwrap(), members);
}

#[test]
fn members_whose_bytes_are_not_read_are_skipped() {
    let bytes = archive(&odd_members());
    let mut reader = TarReader::new(&bytes[..]);
    let mut count = 0;
    while reader.next_member().unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, odd_members().len());
}

#[test]
fn a_file_that_changes_while_it_is_read_keeps_the_length_of_its_header() {
    let mut writer = TarWriter::new(Vec::new());
    let mut buffer = Vec::new();
    let mut append = |name: &str, promised, delivered| {
        let data = vec![7; delivered];
        writer
            .append(&file(name, promised), &mut Cursor::new(data), &mut buffer)
            .unwrap()
    };
    assert_eq!(
        append("same", 1000, 1000),
        Copied {
            missing: 0,
            grew: false
        }
    );
    assert_eq!(
        append("grew", 1000, 1001),
        Copied {
            missing: 0,
            grew: true
        }
    );
    assert_eq!(
        append("shrank", 600_000, 1),
        Copied {
            missing: 599_999,
            grew: false
        }
    );
    assert_eq!(
        append("after", 1, 1),
        Copied {
            missing: 0,
            grew: false
        }
    );
    writer.finish().unwrap();
    let members = read(writer.get_ref()).unwrap();
    let names: Vec<_> = members
        .iter()
        .map(|(member, _)| member.name.clone())
        .collect();
    assert_eq!(names, [&b"same"[..], b"grew", b"shrank", b"after"]);
    assert_eq!(members[1].1, vec![7; 1000]);
    assert_eq!(members[2].1[..2], [7, 0]);
    assert!(members[2].1[1..].iter().all(|b| *b == 0));
}

struct Failing(usize);

impl Read for Failing {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.0 == 0 {
            return Err(io::Error::other("I/O error"));
        }
        let count = self.0.min(buf.len());
        self.0 -= count;
        Ok(count)
    }
}

#[test]
fn an_error_while_reading_is_not_the_end_of_the_file() {
    for readable in [0, 500, 1000] {
        let mut writer = TarWriter::new(Vec::new());
        let result = writer.append(&file("f", 1000), &mut Failing(readable), &mut Vec::new());
        assert!(matches!(result, Err(AppendError::Read(_))), "{readable}");
    }
}

#[test]
fn an_archive_that_is_cut_anywhere_is_refused() {
    let bytes = archive(&[
        (file("./a", 600), vec![1; 600]),
        (
            member(
                "./long",
                MemberKind::Symlink {
                    target: b"t".repeat(300),
                },
            ),
            vec![],
        ),
    ]);
    let end = bytes
        .iter()
        .rposition(|b| *b != 0)
        .unwrap()
        .next_multiple_of(BLOCK)
        + 2 * BLOCK;
    for cut in 0..bytes.len() {
        assert_eq!(read(&bytes[..cut]).is_ok(), cut >= end, "cut at {cut}");
    }
}

#[test]
fn damage_is_refused() {
    let bytes = archive(&[(file("./a", 600), vec![1; 600])]);
    // The last byte of a checksum field is looked at by nobody.
    for at in (0..BLOCK * 3).filter(|at| at % BLOCK != 155) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        // The second block holds the pax records, which have no checksum: a
        // changed time is still a time.
        assert!(
            read(&damaged).is_err() || (BLOCK..2 * BLOCK).contains(&at),
            "byte {at}"
        );
    }
    let mut trailing = bytes.clone();
    trailing.extend_from_slice(&bytes);
    assert!(
        read(&trailing).is_err(),
        "a second archive behind the first"
    );
}

#[test]
fn headers_of_any_size_are_not_believed() {
    let mut header = super::super::header::blocks(&file("./a", 8 << 30));
    assert_eq!(&header[BLOCK..BLOCK + 8], b"19 size=");
    // A pax header that claims to have 8 GiB.
    header[124..136].copy_from_slice(b"77777777777\0");
    let sum = checksum(header[..BLOCK].try_into().unwrap());
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    assert!(matches!(read(&header), Err(TarError::Damaged { .. })));
}

#[test]
fn sizes_beyond_the_field_go_to_a_pax_record() {
    let big = file("./big", 8 << 30);
    let blocks = super::super::header::blocks(&big);
    let mut reader = TarReader::new(&blocks[..]);
    assert_eq!(reader.next_member().unwrap().unwrap(), big);
    let small = file("./small", (8 << 30) - 1);
    assert!(!String::from_utf8_lossy(&super::super::header::blocks(&small)).contains("size="));
}

#[test]
fn archives_of_the_reference_are_read() {
    let golden = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/tiny"));
    let backup = golden.join("parts/base/20261121T120000");
    let names = |file: &str| {
        let members = read(&std::fs::read(backup.join(file)).unwrap()).unwrap();
        members
            .into_iter()
            .map(|(m, _)| String::from_utf8(m.name).unwrap())
            .collect::<Vec<_>>()
    };
    let (first, second) = (names("data.tar"), names("data_0001.tar"));
    assert_eq!(first[0], ".");
    assert!(first.contains(&"./PG_VERSION".into()));
    assert!(second.contains(&"global/pg_control".into()));
    assert!(
        names("16384.tar")
            .iter()
            .all(|name| name.starts_with("PG_15_"))
    );
}

fn run(program: &mut Command, input: &[u8]) -> Option<Vec<u8>> {
    let name = program.get_program().to_os_string();
    let spawned = program.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let Ok(mut child) = spawned else {
        eprintln!("skipped: the program {name:?} is not installed");
        return None;
    };
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    let _ = writer.join().unwrap();
    assert!(output.status.success(), "{name:?} refused the archive");
    Some(output.stdout)
}

#[test]
fn python_reads_names_times_and_owners() {
    const SCRIPT: &str = r#"
import sys, tarfile, os
with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as t:
    for m in t:
        data = t.extractfile(m).read() if m.isreg() else b""
        out = [os.fsencode(m.name), m.type, b"%o" % m.mode, b"%d" % m.uid, os.fsencode(m.uname),
               os.fsencode(m.linkname), b"%d" % len(data), b"%.6f" % m.mtime]
        sys.stdout.buffer.write(b"\0".join(out) + b"\0\0")
"#;
    // Without pipes: Python opens them when it is asked for their content.
    let members = odd_members();
    let Some(output) = run(
        Command::new("python3").args(["-c", SCRIPT]),
        &archive(&members),
    ) else {
        return;
    };
    let mut expected = Vec::new();
    for (m, data) in &members {
        let (kind, link) = match &m.kind {
            MemberKind::File { .. } => ("0", &[][..]),
            MemberKind::HardLink { target } => ("1", &target[..]),
            MemberKind::Symlink { target } => ("2", &target[..]),
            MemberKind::Directory => ("5", &[][..]),
            _ => ("6", &[][..]),
        };
        #[expect(clippy::cast_precision_loss, reason = "compared to the microsecond")]
        let time = m.mtime.seconds as f64 + f64::from(m.mtime.nanos) / 1e9;
        let fields: [&[u8]; 8] = [
            &m.name,
            kind.as_bytes(),
            format!("{:o}", m.mode).as_bytes(),
            m.uid.to_string().as_bytes(),
            &m.user,
            link,
            data.len().to_string().as_bytes(),
            format!("{time:.6}").as_bytes(),
        ]
        .map(|field| &*field.to_vec().leak());
        expected.extend_from_slice(&fields.join(&0));
        expected.extend_from_slice(&[0, 0]);
    }
    assert_eq!(
        String::from_utf8_lossy(&output),
        String::from_utf8_lossy(&expected)
    );
    assert_eq!(output, expected);
}

#[test]
fn gnu_tar_reads_and_writes_what_is_read() {
    let files: Vec<_> = odd_members()
        .into_iter()
        .filter(|(m, _)| !matches!(m.kind, MemberKind::Fifo) && m.mtime.seconds >= 0)
        .collect();
    let Some(listing) = run(
        Command::new("tar").args(["-t", "-f", "-", "--quoting-style=literal"]),
        &archive(&files),
    ) else {
        return;
    };
    for (m, _) in &files {
        let found = listing.windows(m.name.len()).any(|window| window == m.name);
        assert!(found, "{}", String::from_utf8_lossy(&m.name));
    }
    let directory = tempfile::tempdir().unwrap();
    let odd = std::ffi::OsStr::from_bytes(b"raw\xff\n");
    std::fs::write(directory.path().join(odd), b"odd").unwrap();
    std::fs::write(directory.path().join("n".repeat(200)), b"long").unwrap();
    for format in ["gnu", "pax"] {
        let written = run(
            Command::new("tar")
                .args(["-c", "-f", "-", &format!("--format={format}"), "-C"])
                .arg(directory.path())
                .arg("."),
            b"",
        );
        let mut members = read(&written.unwrap()).unwrap();
        members.sort_by_key(|(m, _)| m.name.clone());
        let found: Vec<_> = members
            .iter()
            .map(|(m, data)| (m.name.clone(), data.clone()))
            .collect();
        assert_eq!(found.len(), 3, "{format}");
        assert_eq!(
            found[1],
            (
                [b"./".to_vec(), b"n".repeat(200)].concat(),
                b"long".to_vec()
            )
        );
        assert_eq!(found[2], (b"./raw\xff\n".to_vec(), b"odd".to_vec()));
    }
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..3000)) {
        let _ = read(&bytes);
        let mut damaged = archive(&odd_members()[5..]);
        for (at, byte) in bytes.iter().enumerate() {
            let place = at * 797 % damaged.len();
            damaged[place] ^= byte & 0x11;
        }
        let _ = read(&damaged);
    }
}
