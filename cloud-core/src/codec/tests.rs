use std::io::{Cursor, ErrorKind};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use super::*;

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn encode(codec: &dyn Codec, level: Level, plain: &[u8]) -> Vec<u8> {
    let sink = Sink::default();
    let mut encoder = codec.encoder(Box::new(sink.clone()), level).unwrap();
    for piece in plain.chunks(100_000) {
        encoder.write_all(piece).unwrap();
    }
    encoder.finish().unwrap();
    Arc::into_inner(sink.0).unwrap().into_inner().unwrap()
}

fn decode(codec: &dyn Codec, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut plain = Vec::new();
    codec
        .decoder(Box::new(Cursor::new(bytes.to_vec())))?
        .read_to_end(&mut plain)?;
    Ok(plain)
}

fn compressing() -> impl Iterator<Item = &'static dyn Codec> {
    CODECS
        .iter()
        .copied()
        .filter(|codec| codec.info().name != "none")
}

/// Text that compresses and noise that does not, in turn.
fn sample(size: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut bytes = Vec::with_capacity(size);
    while bytes.len() < size {
        if bytes.len() / 3000 % 2 == 0 {
            bytes.extend_from_slice(b"a line of text that comes again and again\n");
        } else {
            bytes.extend((0..500).map(|_| random.u8(..)));
        }
    }
    bytes.truncate(size);
    bytes
}

const LEVELS: [Level; 6] = [
    Level::Low,
    Level::Medium,
    Level::High,
    Level::Number(-1000),
    Level::Number(0),
    Level::Number(3),
];

#[test]
fn every_level_of_every_codec_reads_back() {
    for size in [0, 1, 65_536, 300_000] {
        let plain = sample(size);
        for codec in CODECS {
            for level in LEVELS {
                let encoded = encode(*codec, level, &plain);
                let decoded = decode(*codec, &encoded).unwrap();
                assert!(
                    decoded == plain,
                    "{} {level:?} of {size}",
                    codec.info().name
                );
            }
        }
    }
}

#[test]
fn concatenated_streams_are_read_through() {
    let (one, other) = (sample(70_000), sample(10));
    for codec in CODECS {
        let mut bytes = encode(*codec, Level::Medium, &one);
        bytes.extend(encode(*codec, Level::Low, &[]));
        bytes.extend(encode(*codec, Level::Low, &other));
        let decoded = decode(*codec, &bytes).unwrap();
        assert!(
            decoded == [&one[..], &other[..]].concat(),
            "{}",
            codec.info().name
        );
    }
}

#[test]
fn a_stream_that_is_cut_anywhere_is_refused() {
    let plain = sample(5000);
    for codec in compressing() {
        let bytes = encode(codec, Level::Medium, &plain);
        for end in 0..bytes.len() {
            let result = decode(codec, &bytes[..end]);
            // A snappy stream may end between any two chunks; here these are
            // its identifier and the one chunk of data.
            if codec.info().name == "snappy" && end == 10 {
                assert_eq!(result.unwrap(), b"");
                continue;
            }
            let kind = result.expect_err("it was cut").kind();
            assert_eq!(
                kind,
                ErrorKind::UnexpectedEof,
                "{} cut at {end}",
                codec.info().name
            );
        }
    }
}

#[test]
fn garbage_is_refused_alone_and_behind_a_stream() {
    for codec in compressing() {
        for garbage in [&b"garbage, and a lot of it"[..], &[0; 32]] {
            assert!(decode(codec, garbage).is_err(), "{}", codec.info().name);
            let mut bytes = encode(codec, Level::Medium, b"plain");
            bytes.extend(garbage);
            assert!(
                decode(codec, &bytes).is_err(),
                "{} before garbage",
                codec.info().name
            );
        }
    }
}

#[test]
fn a_flipped_bit_never_passes_for_the_plain_text() {
    let plain = sample(3000);
    for codec in compressing() {
        let bytes = encode(codec, Level::Medium, &plain);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            // Some header bits (times, names, hints) change nothing.
            if let Ok(decoded) = decode(codec, &damaged) {
                assert!(decoded == plain, "{} at {at}", codec.info().name);
            }
        }
    }
}

#[test]
fn what_the_reference_wrote_is_read() {
    let golden = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/wal"));
    for name in ["000000010000000000000006", "00000002.history"] {
        let plain = std::fs::read(golden.join(name)).unwrap();
        for codec in CODECS {
            let file = golden.join(format!("{name}{}", codec.info().suffix));
            let decoded = decode(*codec, &std::fs::read(&file).unwrap()).unwrap();
            assert!(decoded == plain, "{}", file.display());
        }
    }
}

/// The reference reads the first member, stream or frame of an archive and may
/// drop the rest without a word.
#[test]
fn one_stream_is_written_however_much_there_is() {
    let plain = sample(3_000_000);
    let gzip = encode(&gzip::Gzip, Level::Medium, &plain);
    let mut one = flate2::bufread::GzDecoder::new(&gzip[..]);
    assert_eq!(
        io::copy(&mut one, &mut io::sink()).unwrap(),
        plain.len() as u64
    );
    assert!(one.into_inner().is_empty());

    let bzip2 = encode(&bzip2::Bzip2, Level::Medium, &plain);
    let mut one = ::bzip2::bufread::BzDecoder::new(&bzip2[..]);
    assert_eq!(
        io::copy(&mut one, &mut io::sink()).unwrap(),
        plain.len() as u64
    );
    assert!(one.into_inner().is_empty());

    let zstd = encode(&zstd::Zstd, Level::Number(3), &plain);
    let mut one = ::zstd::stream::read::Decoder::with_buffer(&zstd[..])
        .unwrap()
        .single_frame();
    assert_eq!(
        io::copy(&mut one, &mut io::sink()).unwrap(),
        plain.len() as u64
    );
    assert!(one.finish().is_empty());

    let lz4 = encode(&lz4::Lz4, Level::Low, &plain);
    let mut one = ::lz4::Decoder::new(&lz4[..]).unwrap();
    assert_eq!(
        io::copy(&mut one, &mut io::sink()).unwrap(),
        plain.len() as u64
    );
    let (rest, ended) = one.finish();
    ended.unwrap();
    assert!(rest.is_empty());
}

#[test]
fn standard_programs_read_what_is_written() {
    let plain = sample(200_000);
    for (name, program) in [
        ("gzip", "gzip"),
        ("bzip2", "bzip2"),
        ("xz", "xz"),
        ("zstd", "zstd"),
        ("lz4", "lz4"),
    ] {
        let spawned = Command::new(program)
            .args(["-d", "-c"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut child) = spawned else {
            eprintln!("skipped: the program `{program}` is not installed");
            continue;
        };
        let encoded = encode(by_name(name).unwrap(), Level::Medium, &plain);
        let mut stdin = child.stdin.take().unwrap();
        let writer = std::thread::spawn(move || stdin.write_all(&encoded));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap().unwrap();
        assert!(
            output.status.success() && output.stdout == plain,
            "{program}"
        );
    }
}

#[test]
fn codecs_are_found_by_name_and_suffix() {
    for codec in CODECS {
        assert_eq!(by_name(codec.info().name).unwrap().info(), codec.info());
        assert_eq!(by_suffix(codec.info().suffix).unwrap().info(), codec.info());
    }
    assert!(by_name("rar").is_none() && by_suffix(".gpg").is_none());
    assert_eq!(
        backup_suffixes(),
        ["", ".gz", ".bz2", ".snappy", ".lz4", ".zst"]
    );
}

#[test]
fn levels_out_of_range_are_clamped() {
    let levels = |name| by_name(name).unwrap().info().levels.as_ref().unwrap();
    for (name, low, medium, high) in [
        ("gzip", 1, 6, 9),
        ("bzip2", 1, 5, 9),
        ("xz", 1, 3, 5),
        ("zstd", 1, 4, 9),
        ("lz4", 0, 6, 10),
    ] {
        let levels = levels(name);
        assert_eq!(
            [Level::Low, Level::Medium, Level::High].map(|level| levels.number(level)),
            [low, medium, high],
            "{name}"
        );
    }
    assert_eq!(levels("gzip").number(Level::Number(0)), 1);
    assert_eq!(levels("gzip").number(Level::Number(99)), 9);
    assert_eq!(levels("zstd").number(Level::Number(-99)), -22);
    assert_eq!(levels("lz4").number(Level::Number(17)), 16);
}
