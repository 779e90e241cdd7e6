//! Archives that unpack to far more than they are, or whose headers have no end.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use e2e::{SmallDisk, wait_until};
use flate2::Compression;
use flate2::write::GzEncoder;

use super::tar::{Head, member, pax, zeroes};
use super::{REFUSED, Scene, row, sample, seen};

/// What the bombs unpack to, in bytes: more than the disk has.
const BOMB: u64 = 64 << 20;

/// The disk, in MiB.
const DISK: u32 = 16;

/// Writes a file of zeroes to `out`, as a member, and the members of the sample.
fn bomb(out: &mut impl Write) -> io::Result<()> {
    out.write_all(&Head::new(b'0', b"bomb").size(BOMB).block())?;
    zeroes(out, BOMB)?;
    out.write_all(&sample("data.tar"))
}

/// Compresses what `plain` writes by a program of the system.
fn by_program(program: &str, to: &Path, plain: impl FnOnce(&mut dyn Write) -> io::Result<()>) {
    let mut child = Command::new(program)
        .arg("-c")
        .stdin(Stdio::piped())
        .stdout(File::create(to).expect("there is room"))
        .spawn()
        .unwrap_or_else(|error| panic!("{program} is needed: {error}"));
    let mut pipe = BufWriter::new(child.stdin.take().expect("it was asked for"));
    plain(&mut pipe).expect("the program reads to the end");
    drop(pipe);
    assert!(child.wait().expect("own child").success(), "{program}");
}

/// 64 KiB of zeroes as a chunk of snappy's framing.
fn snappy_chunk() -> Vec<u8> {
    // The length, one zero, and copies of 64 bytes from one byte before.
    let mut body = vec![0x80, 0x80, 0x04, 0x00, 0x00];
    let mut left = 65535;
    while left > 0 {
        let count = left.min(64_u32);
        let length = u8::try_from(count - 1).expect("at most 63");
        body.extend([length << 2 | 2, 1, 0]);
        left -= count;
    }
    let mut crc = !0_u32;
    for _ in 0..65536 {
        crc = (0..8).fold(crc, |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg())
        });
    }
    let crc = !crc;
    let masked = crc.rotate_right(15).wrapping_add(0xa282_ead8);
    let length = u32::try_from(body.len() + 4)
        .expect("it is small")
        .to_le_bytes();
    let mut chunk = vec![0x00, length[0], length[1], length[2]];
    chunk.extend(masked.to_le_bytes());
    chunk.extend(body);
    chunk
}

/// The bytes of a small tar as stored chunks of snappy's framing: nobody looks at what is
/// behind the zeroes.
fn snappy(to: &Path) {
    let chunk = snappy_chunk();
    let mut out = BufWriter::new(File::create(to).expect("there is room"));
    out.write_all(b"\xff\x06\x00\x00sNaPpY")
        .expect("there is room");
    for _ in 0..BOMB / 65536 {
        out.write_all(&chunk).expect("there is room");
    }
    out.flush().expect("there is room");
}

/// A file that does not fit the disk ends the restore, whatever it is packed in.
#[test]
fn files_that_fill_the_disk() {
    let scene = Scene::new();
    scene.remove("data.tar");
    let mut row = row(
        "`restore`: an archive of some kilobytes unpacks to more than the disk has, in gzip, bzip2, \
         lz4 and zstd",
        "exit 4 when the disk is full, in little memory; there is no `pg_control`: PostgreSQL does \
         not start",
    );
    for (program, suffix) in [
        ("gzip", "gz"),
        ("bzip2", "bz2"),
        ("lz4", "lz4"),
        ("zstd", "zst"),
    ] {
        let name = format!("data.tar.{suffix}");
        let object = scene.object(&format!("main/base/{}/{name}", super::ID));
        by_program(program, &object, |out| bomb(&mut { out }));
        assert!(object.metadata().unwrap().len() < 1 << 20, "it is a bomb");
        let Some(disk) = SmallDisk::mount(&scene.workspace, "place/target", DISK) else {
            return;
        };
        let words = [super::ID, &super::text_of(disk.path())];
        let run = scene.tool("restore", &[], &words).run();
        scene.refused(&run, "No space left on device", program);
        drop(disk);
        wait_until("the disk to go", || {
            fs::remove_dir(scene.target()).is_ok().then_some(())
        });
        scene.remove(&name);
        row.lived_through();
    }
    row.finish();
}

/// What is no tar at all, and does not end.
#[test]
fn streams_of_nothing() {
    let scene = Scene::new();
    scene.remove("data.tar");
    let object = |suffix: &str| scene.object(&format!("main/base/{}/data.tar{suffix}", super::ID));

    let case = "`restore`: an archive of nothing but zeroes, in every codec and in none";
    let mut all = row(case, REFUSED);
    for (program, suffix) in [
        ("gzip", ".gz"),
        ("bzip2", ".bz2"),
        ("lz4", ".lz4"),
        ("zstd", ".zst"),
        ("snappy", ".snappy"),
        ("none", ""),
    ] {
        let path = object(suffix);
        match program {
            "snappy" => snappy(&path),
            "none" => File::create(&path).unwrap().set_len(BOMB).unwrap(),
            _ => by_program(program, &path, |out| zeroes(&mut { out }, BOMB)),
        }
        scene.workspace.owner().take(&path);
        let run = scene.restore(&[]);
        scene.refused(&run, "none of its archives has `backup_label`", case);
        scene.remove(&format!("data.tar{suffix}"));
        all.lived_through();
    }
    all.finish();

    let case = "`restore`: a million empty members of gzip, one after the other";
    let empty = GzEncoder::new(Vec::new(), Compression::fast())
        .finish()
        .unwrap();
    let mut out = BufWriter::new(File::create(object(".gz")).unwrap());
    (0..1_000_000).for_each(|_| out.write_all(&empty).unwrap());
    out.flush().unwrap();
    let run = scene.restore(&[]);
    scene.refused(&run, "ends early", case);
    scene.remove("data.tar.gz");
    seen(case, REFUSED);

    let case = "`restore`: a zstd frame that wants a window of 2 GiB, or of 3 TiB";
    let mut windows = row(case, REFUSED);
    for window in [0xa8, 0xff] {
        // Magic, no flags, the window, and a block of one repeated byte.
        let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, window, 0x03, 0xff, 0xff, 0x00];
        fs::write(object(".zst"), frame).unwrap();
        let run = scene.restore(&[]);
        scene.refused(&run, "cannot be read", case);
        windows.lived_through();
    }
    windows.finish();
}

/// Makes the header of a number.
type Header<'h> = dyn Fn(usize) -> Vec<u8> + 'h;

/// Headers of headers: what is kept of them must not grow with their number.
#[test]
fn headers_without_end() {
    /// Enough to be noticed if they were kept, in bytes.
    const ENOUGH: usize = 128 << 20;
    let scene = Scene::new();
    scene.remove("data.tar");
    let write = |header: &Header| {
        let object = scene.object(&format!("main/base/{}/data.tar.gz", super::ID));
        let out = BufWriter::new(File::create(object).unwrap());
        let mut out = GzEncoder::new(out, Compression::fast());
        let (mut written, mut number) = (0, 0);
        while written < ENOUGH {
            let bytes = header(number);
            out.write_all(&bytes).unwrap();
            (written, number) = (written + bytes.len(), number + 1);
        }
        out.write_all(&sample("data.tar")).unwrap();
        out.finish().unwrap().flush().unwrap();
    };
    let sparse = |kind: u8, number: usize| {
        let mut bytes = Vec::new();
        let records: Vec<String> = (0..1000)
            .map(|record| format!("GNU.sparse.{number}.{record}"))
            .collect();
        let records: Vec<(&str, &[u8])> = records
            .iter()
            .map(|name| (name.as_str(), &b"1"[..]))
            .collect();
        bytes.extend(pax(&records));
        bytes[156] = kind;
        let head = Head(bytes[..512].try_into().expect("a block"));
        bytes[..512].copy_from_slice(&head.block());
        bytes
    };
    let large = vec![b'x'; 60 << 10];
    let cases: [(&str, &Header<'_>, &str); 4] = [
        (
            "extended headers with ever new keywords, before one member",
            &|number| sparse(b'x', number),
            "a sparse file",
        ),
        (
            "extended headers for all members, with ever new keywords",
            &|number| sparse(b'g', number),
            "a sparse file",
        ),
        (
            "extended headers with the longest values that are taken",
            &|_| pax(&[("path", &large), ("linkpath", &large), ("uname", &large)]),
            "its name is longer than a path can be",
        ),
        (
            "long names of GNU's form, one after the other",
            &|_| member(Head::new(b'L', b"././@LongLink"), &large),
            "its name is longer than a path can be",
        ),
    ];
    for (done, header, says) in cases {
        write(header);
        let run = scene.restore(&[]);
        scene.refused(&run, says, done);
        seen(&format!("`restore`: 128 MiB of {done}"), REFUSED);
    }
}

/// Members whose owners have ever new names, which are looked up and remembered.
#[test]
fn owners_without_end() {
    let scene = Scene::new();
    let out = BufWriter::new(
        File::create(scene.object(&format!("main/base/{}/data.tar.gz", super::ID))).unwrap(),
    );
    scene.remove("data.tar");
    let mut out = GzEncoder::new(out, Compression::fast());
    let long = "u".repeat(30 << 10);
    for number in 0..4000 {
        let name = format!("{number}{long}");
        let records: [(&str, &[u8]); 2] = [("uname", name.as_bytes()), ("gname", name.as_bytes())];
        out.write_all(&pax(&records)).unwrap();
        out.write_all(&Head::new(b'0', b"file").block()).unwrap();
    }
    out.write_all(&sample("data.tar")).unwrap();
    out.finish().unwrap().flush().unwrap();
    let case = "`restore`: thousands of members, each of another owner with an endless name";
    let run = scene.restore(&[]);
    scene.harmless(&run, case);
    assert_eq!(run.code(), Some(0), "{run}");
    seen(case, "restored, in little memory");
}
