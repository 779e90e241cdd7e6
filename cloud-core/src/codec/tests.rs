//! What every codec promises, tried on all of them.

use std::fs;
use std::io::{self, Cursor, ErrorKind, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::{CODECS, Codec, Level, Whole, backup_suffixes, by_name, by_suffix, suffixes};

mod parallel;

/// A vector that outlives the encoder that fills it.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Shared {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.0.lock().expect("not poisoned"))
    }
}

impl Write for Shared {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("not poisoned").extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn encode_all(codec: &dyn Codec, level: Level, plain: &[u8]) -> io::Result<Vec<u8>> {
    let shared = Shared::default();
    let mut encoder = codec.encoder(Box::new(shared.clone()), level)?;
    encoder.write_all(plain)?;
    encoder.finish()?;
    Ok(shared.take())
}

/// The level base backups use.
fn backup_level(codec: &dyn Codec) -> Level {
    Level::Number(codec.info().backup_level)
}

const LEVELS: [Level; 5] = [
    Level::Low,
    Level::Medium,
    Level::High,
    Level::Number(i32::MIN),
    Level::Number(7),
];

fn decode_from(codec: &dyn Codec, input: impl Read + Send + 'static) -> io::Result<Vec<u8>> {
    let mut plain = Vec::new();
    codec.decoder(Box::new(input))?.read_to_end(&mut plain)?;
    Ok(plain)
}

fn decode(codec: &dyn Codec, bytes: &[u8]) -> io::Result<Vec<u8>> {
    decode_from(codec, Cursor::new(bytes.to_vec()))
}

fn encode(codec: &dyn Codec, plain: &[u8]) -> Vec<u8> {
    encode_all(codec, backup_level(codec), plain).expect("memory takes everything")
}

/// Every codec that changes the bytes.
fn real_codecs() -> impl Iterator<Item = &'static dyn Codec> {
    CODECS
        .iter()
        .copied()
        .filter(|codec| codec.info().name != "none")
}

/// Bytes of which some compress well and some not at all, as in PGDATA.
fn sample(length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut bytes = Vec::with_capacity(length + 4096);
    while bytes.len() < length {
        let run = random.usize(1..4096);
        if random.bool() {
            bytes.extend(std::iter::repeat_n(random.u8(..), run));
        } else {
            bytes.extend((0..run).map(|_| random.u8(..)));
        }
    }
    bytes.truncate(length);
    bytes
}

#[test]
fn names_and_suffixes_are_those_of_the_objects() {
    let names: Vec<_> = CODECS.iter().map(|codec| codec.info().name).collect();
    assert_eq!(
        names,
        ["none", "gzip", "bzip2", "snappy", "lz4", "zstd", "xz"]
    );
    let all: Vec<_> = suffixes();
    assert_eq!(all, ["", ".gz", ".bz2", ".snappy", ".lz4", ".zst", ".xz"]);
    let backup: Vec<_> = backup_suffixes();
    assert_eq!(backup, ["", ".gz", ".bz2", ".snappy", ".lz4", ".zst"]);
    for &codec in CODECS {
        let info = codec.info();
        assert_eq!(by_name(info.name).expect("listed").info(), info);
        assert_eq!(by_suffix(info.suffix).expect("listed").info(), info);
    }
    assert!(by_suffix(".gpg").is_none() && by_suffix("gz").is_none());
    assert!(by_name("lzma").is_none());
}

/// Source of the numbers: the manual of the tools we are compatible with.
#[test]
fn levels_have_words_and_numbers_outside_their_range_are_clamped() {
    let table = [
        ("gzip", [1, 6, 9], [1, 9]),
        ("bzip2", [1, 5, 9], [1, 9]),
        ("xz", [1, 3, 5], [1, 9]),
        ("zstd", [1, 4, 9], [-22, 22]),
        ("lz4", [0, 6, 10], [0, 16]),
        ("snappy", [0; 3], [0; 2]),
        ("none", [0; 3], [0; 2]),
    ];
    for (name, words, [min, max]) in table {
        let info = by_name(name).expect("listed").info();
        let number = |level| {
            info.levels
                .as_ref()
                .map_or(0, |levels| levels.number(level))
        };
        let resolved = [Level::Low, Level::Medium, Level::High].map(number);
        assert_eq!(resolved, words, "{name}");
        assert_eq!(number(Level::default()), words[1], "{name}");
        assert_eq!(number(Level::Number(i32::MIN)), min, "{name}");
        assert_eq!(number(Level::Number(i32::MAX)), max, "{name}");
        assert_eq!(number(Level::Number(max)), max, "{name}");
    }
}

#[test]
fn what_is_encoded_is_decoded_to_the_same_bytes() {
    let data = sample(3_000_000);
    for &codec in CODECS {
        for length in [0, 1, 65_535, 65_536, 65_537, 262_144, data.len()] {
            let packed = encode(codec, &data[..length]);
            let plain =
                decode(codec, &packed).unwrap_or_else(|e| panic!("{codec:?} {length}: {e}"));
            assert!(plain == data[..length], "{codec:?} {length}");
        }
    }
}

fn compress(whole: Whole, plain: &[u8], level: Level) -> io::Result<Vec<u8>> {
    let mut packed = vec![0; (whole.bound)(plain.len())];
    let length = (whole.compress)(plain, level, &mut packed)?;
    packed.truncate(length);
    Ok(packed)
}

/// What goes for an encoder goes for what compresses at once: one stream, with a
/// checksum, without a size.
#[test]
fn what_is_compressed_whole_is_decoded_to_the_same_bytes() {
    let data = sample(3_000_000);
    let fast = CODECS
        .iter()
        .filter_map(|codec| Some((codec, codec.whole()?)));
    let mut seen = 0;
    for (codec, whole) in fast {
        for length in [0, 1, 65_536, 262_145, data.len()] {
            let plain = &data[..length];
            for level in LEVELS {
                let mut packed = compress(whole, plain, level).expect("compressed");
                let head = encode_all(*codec, level, plain).expect("encoded");
                // Magic number and descriptor: flags, and no more.
                assert_eq!(packed[..5], head[..5], "{codec:?} {length} {level:?}");
                assert!(decode(*codec, &packed).expect("decoded") == plain);
                packed.pop();
                assert!(decode(*codec, &packed).is_err(), "cut: {codec:?} {length}");
            }
            seen += 1;
        }
    }
    assert_eq!(seen, 5, "zstd");
}

#[test]
fn every_level_is_decoded_to_the_same_bytes() {
    let data = sample(100_000);
    for codec in real_codecs() {
        let levels = codec
            .info()
            .levels
            .as_ref()
            .map_or(0..=0, |l| l.min..=l.max);
        for level in levels {
            let packed = encode_all(codec, Level::Number(level), &data).expect("encoded");
            let plain = decode(codec, &packed).unwrap_or_else(|e| panic!("{codec:?} {level}: {e}"));
            assert!(plain == data, "{codec:?} {level}");
        }
    }
}

/// Pieces in which bytes arrive must not be seen in what comes out, or the same
/// WAL file would be stored as two different objects.
#[test]
fn the_pieces_of_writing_and_flushes_do_not_change_the_output() {
    let data = sample(400_000);
    for &codec in CODECS {
        let whole = encode(codec, &data);
        let shared = Shared::default();
        let mut encoder = codec
            .encoder(Box::new(shared.clone()), backup_level(codec))
            .expect("made");
        for piece in data.chunks(7_777) {
            encoder.write_all(piece).expect("memory");
            encoder.flush().expect("memory");
        }
        encoder.finish().expect("memory");
        assert!(shared.take() == whole, "{codec:?}");
    }
}

/// Hands out one byte per call, after an interruption each time.
struct Dribble(Cursor<Vec<u8>>, bool);

impl Read for Dribble {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.1 = !self.1;
        if self.1 {
            return Err(ErrorKind::Interrupted.into());
        }
        let count = buf.len().min(1);
        self.0.read(&mut buf[..count])
    }
}

#[test]
fn input_may_come_byte_by_byte_and_with_interruptions() {
    let data = sample(150_000);
    for &codec in CODECS {
        let input = Dribble(Cursor::new(encode(codec, &data)), false);
        let plain = decode_from(codec, input).unwrap_or_else(|e| panic!("{codec:?}: {e}"));
        assert!(plain == data, "{codec:?}");
    }
}

#[test]
fn output_may_be_taken_byte_by_byte() {
    let data = sample(70_000);
    for &codec in CODECS {
        let input = Box::new(Cursor::new(encode(codec, &data)));
        let mut decoder = codec.decoder(input).expect("made");
        let mut plain = Vec::new();
        let mut byte = [0];
        while decoder.read(&mut byte).expect("decoded") == 1 {
            assert_eq!(decoder.read(&mut []).expect("nothing asked for"), 0);
            plain.push(byte[0]);
        }
        assert!(plain == data, "{codec:?}");
    }
}

#[test]
fn input_cut_at_any_byte_is_refused() {
    let data = sample(5_000);
    for codec in real_codecs() {
        let packed = encode(codec, &data);
        for length in 0..packed.len() {
            match decode(codec, &packed[..length]) {
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{codec:?} {length}");
                }
                // Cut behind the identifier: the format cannot tell.
                Ok(plain) => assert!(
                    codec.info().name == "snappy" && length == 10 && plain.is_empty(),
                    "{codec:?} {length}"
                ),
            }
        }
    }
}

/// A decoder holds back much of what it has read: the end of the input must not
/// be taken for the end of the stream before that is out.
#[test]
fn long_input_that_is_cut_is_refused() {
    let data = sample(2_000_000);
    for codec in real_codecs() {
        let packed = encode(codec, &data);
        let lengths = (1..packed.len()).step_by(packed.len() / 40);
        for length in lengths.chain([packed.len() - 1]) {
            let error = decode(codec, &packed[..length]).expect_err("cut");
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{codec:?} {length}");
        }
    }
}

#[test]
fn a_flipped_bit_is_refused_or_changes_nothing() {
    let data = sample(2_500);
    for codec in real_codecs() {
        let packed = encode(codec, &data);
        for bit in 0..packed.len() * 8 {
            let mut flipped = packed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            if let Ok(plain) = decode(codec, &flipped) {
                assert!(plain == data, "{codec:?} bit {bit} was not noticed");
            }
        }
    }
}

#[test]
fn concatenated_streams_are_read_to_the_last() {
    let data = sample(150_000);
    let (first, rest) = data.split_at(70_001);
    for &codec in CODECS {
        let packed = [
            encode(codec, first),
            encode(codec, b""),
            encode(codec, rest),
        ]
        .concat();
        let plain = decode(codec, &packed).unwrap_or_else(|e| panic!("{codec:?}: {e}"));
        assert!(plain == data, "{codec:?}");
        if codec.info().name != "none" {
            decode(codec, &packed[..packed.len() - 1]).expect_err("the last one is cut");
        }
    }
}

#[test]
fn something_behind_the_stream_is_refused() {
    let data = sample(1_000);
    for codec in real_codecs() {
        for garbage in [
            &b"x"[..],
            b"\0",
            b"\0\0\0\0\0",
            b"garbage, longer than any header",
        ] {
            let packed = [&encode(codec, &data)[..], garbage].concat();
            decode(codec, &packed).expect_err("garbage");
        }
        let mut other = real_codecs().filter(|other| other.info() != codec.info());
        let foreign = other.next().expect("there are several");
        let packed = [encode(codec, &data), encode(foreign, &data)].concat();
        decode(codec, &packed).expect_err("another format");
    }
}

#[test]
fn empty_input_is_a_whole_stream_only_without_compression() {
    assert_eq!(
        decode(by_name("none").expect("listed"), b"").expect("decoded"),
        b""
    );
    for codec in real_codecs() {
        let error = decode(codec, b"").expect_err("nothing");
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{codec:?}");
    }
}

#[test]
fn a_decoder_that_failed_fails_again() {
    for codec in real_codecs() {
        let packed = encode(codec, &sample(200_000));
        let cut = packed[..packed.len() / 2].to_vec();
        let mut decoder = codec.decoder(Box::new(Cursor::new(cut))).expect("made");
        io::copy(&mut decoder, &mut io::sink()).expect_err("cut");
        for _ in 0..2 {
            decoder.read(&mut [0; 100]).expect_err("it failed before");
        }
    }
}

struct Failing(ErrorKind);

impl Read for Failing {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(self.0.into())
    }
}

/// The store's failures are told apart by their kinds.
#[test]
fn a_failure_of_the_input_is_passed_on_as_it_is() {
    for &codec in CODECS {
        let packed = encode(codec, &sample(100_000));
        for length in [0, 5, packed.len() / 2, packed.len()] {
            let head = Cursor::new(packed[..length].to_vec());
            let input = head.chain(Failing(ErrorKind::TimedOut));
            let error = decode_from(codec, input).expect_err("the input failed");
            assert_eq!(error.kind(), ErrorKind::TimedOut, "{codec:?} {length}");
        }
    }
}

/// An archive that was abandoned must not look like a whole one.
#[test]
fn an_encoder_that_is_dropped_writes_nothing_more() {
    for codec in real_codecs() {
        let shared = Shared::default();
        let mut encoder = codec
            .encoder(Box::new(shared.clone()), Level::Medium)
            .expect("made");
        encoder.write_all(&sample(50_000)).expect("memory");
        let before = shared.0.lock().expect("not poisoned").len();
        drop(encoder);
        let written = shared.take();
        assert_eq!(written.len(), before, "{codec:?}");
        decode(codec, &written).expect_err("it was not finished");
    }
}

/// Fails once, then takes everything.
struct Hiccup(Shared, usize);

impl Write for Hiccup {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.1 == 0 {
            self.1 = usize::MAX;
            return Err(ErrorKind::StorageFull.into());
        }
        self.1 -= 1;
        self.0.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_encoder_whose_output_failed_never_finishes() {
    let data = sample(3_000_000);
    for &codec in CODECS {
        let out = Hiccup(Shared::default(), 1);
        let mut encoder = codec.encoder(Box::new(out), Level::Low).expect("made");
        let failed = data
            .chunks(100_000)
            .filter(|piece| encoder.write_all(piece).is_err())
            .count();
        assert!(failed > 1, "{codec:?}: it has to go on failing");
        encoder.finish().expect_err("bytes are missing");
    }
}

/// The tools we are compatible with read one member of an archive, and some of
/// them drop the rest without a word.
#[test]
fn what_is_written_is_one_member() {
    let data = sample(3_000_000);
    for (name, first_bytes) in [
        // No name, no comment, no time.
        ("gzip", &b"\x1f\x8b\x08\0\0\0\0\0"[..]),
        ("bzip2", b"BZh9"),
        // CRC-64.
        ("xz", b"\xfd7zXZ\0\0\x04"),
        ("snappy", b"\xff\x06\0\0sNaPpY"),
        // No content size, a checksum, a window of 2 MiB.
        ("zstd", b"\x28\xb5\x2f\xfd\x04\x58"),
        // Linked blocks of 64 KiB, no content size, a content checksum.
        ("lz4", b"\x04\x22\x4d\x18\x44\x40"),
    ] {
        let codec = by_name(name).expect("listed");
        let packed = encode(codec, &data);
        assert!(
            packed.starts_with(first_bytes),
            "{name} {:x?}",
            &packed[..12]
        );
        let mut rest = &packed[..];
        let mut plain = Vec::new();
        match name {
            "gzip" => flate2::bufread::GzDecoder::new(&mut rest).read_to_end(&mut plain),
            "bzip2" => ::bzip2::bufread::BzDecoder::new(&mut rest).read_to_end(&mut plain),
            "xz" => liblzma::bufread::XzDecoder::new(&mut rest).read_to_end(&mut plain),
            "zstd" => ::zstd::stream::read::Decoder::with_buffer(&mut rest)
                .expect("made")
                .single_frame()
                .read_to_end(&mut plain),
            "lz4" => {
                let mut decoder = ::lz4::Decoder::new(&mut rest).expect("made");
                let result = decoder.read_to_end(&mut plain);
                decoder.finish().1.expect("at its end");
                result
            }
            _ => {
                let identifiers = packed.windows(10).filter(|w| *w == first_bytes).count();
                assert_eq!(identifiers, 1);
                snap::read::FrameDecoder::new(&mut rest).read_to_end(&mut plain)
            }
        }
        .unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(plain == data, "{name}");
        assert!(rest.is_empty(), "{name}: {} bytes follow", rest.len());
    }
}

#[test]
fn a_window_too_large_for_the_memory_is_refused() {
    let zstd = by_name("zstd").expect("listed");
    let mut packed = encode(zstd, &sample(1_000));
    // The window descriptor: five bits of exponent over 10.
    packed[5] = (27 - 10) << 3;
    decode(zstd, &packed).expect("128 MiB are allowed");
    packed[5] = (28 - 10) << 3;
    let error = decode(zstd, &packed).expect_err("256 MiB are not");
    assert_eq!(error.kind(), ErrorKind::InvalidData);

    let xz = by_name("xz").expect("listed");
    let mut packed = encode(xz, &sample(1_000));
    // The block header: length, flags, filter, length of properties, dictionary
    // size, padding, checksum. The index at the end does not repeat it.
    let header = 12..12 + (usize::from(packed[12]) + 1) * 4;
    assert_eq!(packed[14..16], [0x21, 1]);
    for (dictionary, allowed) in [(28, true), (29, false), (40, false)] {
        packed[16] = dictionary;
        let mut crc = flate2::Crc::new();
        crc.update(&packed[header.start..header.end - 4]);
        packed[header.end - 4..header.end].copy_from_slice(&crc.sum().to_le_bytes());
        assert_eq!(decode(xz, &packed).is_ok(), allowed, "{dictionary}");
    }
}

/// Chunks of reserved kinds may be skipped by the letter of the format; one
/// flipped bit makes one of a chunk with data.
#[test]
fn a_snappy_chunk_of_a_reserved_kind_is_refused_and_padding_is_skipped() {
    let snappy = by_name("snappy").expect("listed");
    let data = sample(1_000);
    let mut packed = encode(snappy, &data);
    packed.extend_from_slice(b"\xfe\x03\0\0abc");
    assert_eq!(decode(snappy, &packed).expect("padding"), data);
    packed.extend_from_slice(b"\x80\x03\0\0abc");
    decode(snappy, &packed).expect_err("a reserved kind");
}

#[test]
fn wal_files_of_the_reference_are_decoded() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/wal"));
    for name in ["000000010000000000000006", "00000002.history"] {
        let plain = fs::read(folder.join(name)).expect("a golden file");
        for suffix in suffixes() {
            let packed = fs::read(folder.join(format!("{name}{suffix}"))).expect("a golden file");
            let codec = by_suffix(suffix).expect("listed");
            let decoded = decode(codec, &packed).unwrap_or_else(|e| panic!("{codec:?}: {e}"));
            assert!(decoded == plain, "{name}{suffix}");
            let again = encode_all(codec, Level::Medium, &plain).expect("encoded");
            // The same levels give about the same size.
            assert!(again.len() <= packed.len() * 11 / 10 + 32, "{name}{suffix}");
        }
    }
}

#[test]
fn archives_of_the_reference_are_decoded() {
    let tiny = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/tiny"));
    for codec in CODECS.iter().filter(|codec| codec.info().name != "zstd") {
        let info = codec.info();
        if !info.for_backup {
            continue;
        }
        let folder = tiny.join(info.name).join("base/20261121T120000");
        for archive in ["data", "16384"] {
            let file = folder.join(format!("{archive}.tar{}", info.suffix));
            let packed = fs::read(&file).expect("a golden file");
            let plain = decode(*codec, &packed).unwrap_or_else(|e| panic!("{file:?}: {e}"));
            assert_eq!(plain.len() % 10240, 0, "{file:?}");
        }
    }
}

/// Runs `program -dc` on the bytes; `None` if it is not installed.
fn decoded_by(program: &str, bytes: &[u8]) -> Option<Vec<u8>> {
    let mut input = tempfile::tempfile().expect("a temporary file");
    input.write_all(bytes).expect("written");
    io::Seek::rewind(&mut input).expect("rewound");
    let run = Command::new(program)
        .arg("-dc")
        .stdin(input)
        .stderr(Stdio::inherit())
        .output();
    match run {
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        run => {
            let output = run.expect("started");
            assert!(output.status.success(), "{program} failed");
            Some(output.stdout)
        }
    }
}

#[test]
fn standard_programs_decode_what_is_written() {
    let data = sample(1_200_000);
    for name in ["gzip", "bzip2", "xz", "zstd", "lz4"] {
        let codec = by_name(name).expect("listed");
        for level in LEVELS.into_iter().chain([backup_level(codec)]) {
            let packed = encode_all(codec, level, &data).expect("encoded");
            let whole = codec.whole().map(|whole| compress(whole, &data, level));
            for packed in [Some(Ok(packed)), whole].into_iter().flatten() {
                match decoded_by(name, &packed.expect("compressed")) {
                    Some(plain) => assert!(plain == data, "{name} {level:?}"),
                    None => eprintln!("not tested with the program {name}: it is not installed"),
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_in_any_pieces_survive(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 0..8),
        codec in prop::sample::select(CODECS.to_vec()),
    ) {
        let shared = Shared::default();
        let mut encoder = codec.encoder(Box::new(shared.clone()), Level::Low)?;
        for piece in &pieces {
            encoder.write_all(piece)?;
        }
        encoder.finish()?;
        prop_assert_eq!(decode(codec, &shared.take())?, pieces.concat());
    }

    #[test]
    fn damaged_input_is_never_taken_for_other_data(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        codec in prop::sample::select(real_codecs().collect::<Vec<_>>()),
    ) {
        let data = sample(4_000);
        let mut packed = encode(codec, &data);
        for (place, byte) in damage {
            let place = place.index(packed.len());
            packed[place] = byte;
        }
        if let Ok(plain) = decode(codec, &packed) {
            prop_assert_eq!(plain, data);
        }
    }
}
