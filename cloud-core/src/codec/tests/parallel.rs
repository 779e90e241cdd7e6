//! Encoders on several threads: one stream for readers, the same one whatever the
//! threads do.

use super::*;

const THREADS: [usize; 4] = [1, 2, 3, 8];

/// Codecs of base backups that have encoders of several threads, and the bytes of
/// their blocks.
const BLOCKS: [(&str, usize); 5] = [
    ("gzip", 256 << 10),
    ("bzip2", 899_981),
    ("snappy", 256 << 10),
    ("lz4", 256 << 10),
    ("zstd", 1 << 20),
];

fn parallel_at(codec: &dyn Codec, level: Level, threads: usize, plain: &[u8]) -> Vec<u8> {
    let shared = Shared::default();
    let out = Box::new(shared.clone());
    let mut encoder = codec.parallel(out, level, threads).expect("made");
    // As `tar` writes.
    for piece in plain.chunks(256 << 10) {
        encoder.write_all(piece).expect("memory");
    }
    encoder.finish().expect("memory");
    shared.take()
}

fn parallel(codec: &dyn Codec, threads: usize, plain: &[u8]) -> Vec<u8> {
    parallel_at(codec, backup_level(codec), threads, plain)
}

fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    fastrand::Rng::with_seed(3).fill(&mut bytes);
    bytes
}

/// Readers of other makes that stop behind the first member; what they leave is
/// told.
fn first_member(name: &str, packed: &[u8]) -> Vec<u8> {
    let mut rest = packed;
    let mut plain = Vec::new();
    match name {
        "gzip" => flate2::bufread::GzDecoder::new(&mut rest).read_to_end(&mut plain),
        "bzip2" => ::bzip2::bufread::BzDecoder::new(&mut rest).read_to_end(&mut plain),
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
        _ => snap::read::FrameDecoder::new(&mut rest).read_to_end(&mut plain),
    }
    .unwrap_or_else(|e| panic!("{name}: {e}"));
    assert!(rest.is_empty(), "{name}: {} bytes follow", rest.len());
    plain
}

#[test]
fn what_several_threads_encode_is_one_stream_and_the_same_for_any_number() {
    for (name, block) in BLOCKS {
        let codec = by_name(name).expect("listed");
        let mixed = sample(3 * block + block / 2);
        let noise = noise(mixed.len());
        for plain in [&mixed, &noise, &vec![0; mixed.len()]] {
            for length in [0, 1, block - 1, block, block + 1, 3 * block, plain.len()] {
                let plain = &plain[..length];
                let packed = parallel(codec, 2, plain);
                assert!(first_member(name, &packed) == plain, "{name} {length}");
                assert!(decode(codec, &packed).expect("decoded") == plain);
            }
        }
        let packed = parallel(codec, 2, &mixed);
        for threads in THREADS {
            let again = parallel(codec, threads, &mixed);
            assert!(again == packed, "{name}: {threads} threads");
        }
    }
}

/// Any cut but between two chunks of snappy is noticed, a flipped bit always is.
#[test]
fn damage_to_what_several_threads_encoded_is_noticed() {
    for (name, block) in BLOCKS {
        let codec = by_name(name).expect("listed");
        let plain = sample(block + block / 2);
        let packed = parallel(codec, 2, &plain);
        for cut in 1..12 {
            decode(codec, &packed[..packed.len() - cut]).expect_err("cut");
        }
        for place in (0..packed.len()).step_by(packed.len() / 20) {
            decode(codec, &packed[..place]).expect_err("cut");
            let mut flipped = packed.clone();
            flipped[place] ^= 4;
            if let Ok(decoded) = decode(codec, &flipped) {
                assert!(decoded == plain, "{name}: byte {place} was not noticed");
            }
        }
    }
}

#[test]
fn the_pieces_of_writing_do_not_change_what_several_threads_encode() {
    for (name, block) in BLOCKS {
        let codec = by_name(name).expect("listed");
        let plain = sample(2 * block + 5);
        let shared = Shared::default();
        let out = Box::new(shared.clone());
        let mut encoder = codec.parallel(out, backup_level(codec), 2).expect("made");
        for piece in plain.chunks(77_777) {
            encoder.write_all(piece).expect("memory");
            encoder.flush().expect("memory");
        }
        encoder.finish().expect("memory");
        assert!(shared.take() == parallel(codec, 2, &plain), "{name}");
    }
}

/// Of what compresses and of what does not: what blocks cost is little.
#[test]
fn blocks_cost_less_than_a_hundredth() {
    let text = b"INSERT INTO orders VALUES (4711, 'a customer', 12.50, now());\n";
    let mut random = fastrand::Rng::with_seed(1);
    let mut rows = Vec::new();
    while rows.len() < 4 << 20 {
        rows.extend_from_slice(&text[..random.usize(20..text.len())]);
        rows.extend_from_slice(random.u32(..100_000).to_string().as_bytes());
    }
    for plain in [rows, noise(3 << 20)] {
        for (name, _) in BLOCKS {
            let codec = by_name(name).expect("listed");
            let one = encode(codec, &plain).len();
            let several = parallel(codec, 2, &plain).len();
            assert!(several <= one + one / 100, "{name}: {one}, {several}");
        }
    }
}

/// The sizes of parts are chosen for that (`transfer::parts`). The fastest level of
/// gzip spends nine bits on each byte from 144 on that it finds no match for.
#[test]
fn what_does_not_compress_grows_by_less_than_a_seventh_at_every_level() {
    let plain: Vec<u8> = noise(600_000).iter().map(|byte| byte | 0x90).collect();
    for codec in real_codecs().filter(|codec| codec.info().for_backup) {
        let levels = codec.info().levels.as_ref();
        for level in levels.map_or(0..=0, |levels| levels.min..=levels.max.min(12)) {
            let level = Level::Number(level);
            let one = encode_all(codec, level, &plain).expect("encoded").len();
            let several = parallel_at(codec, level, 2, &plain).len();
            for length in [one, several] {
                let most = plain.len() + plain.len() / 7;
                assert!(length <= most, "{codec:?} {level:?}: {length}");
            }
        }
    }
}

/// gzip's slowest case is not worth its time, but what is repeated in it is.
#[test]
fn noise_is_stored_and_what_is_repeated_in_it_is_not() {
    let codec = by_name("gzip").expect("listed");
    let once = noise(20 << 10);
    let repeated: Vec<u8> = once.iter().copied().cycle().take(1 << 20).collect();
    let noise = noise(1 << 20);
    let mixed: Vec<u8> = [&noise[..], &vec![0; 1 << 20], &noise[..300_000]].concat();
    for (plain, most) in [
        (&noise, noise.len() + noise.len() / 5000),
        (&repeated, repeated.len() / 20),
        (&mixed, noise.len() + 300_000 + 20_000),
    ] {
        for level in [1, 6, 9] {
            let packed = parallel_at(codec, Level::Number(level), 2, plain);
            assert!(first_member("gzip", &packed) == *plain, "{level}");
            assert!(packed.len() <= most, "{level}: {} of {most}", packed.len());
        }
    }
}

#[test]
fn every_level_on_several_threads_is_decoded_to_the_same_bytes() {
    let plain = sample(700_000);
    for (name, _) in BLOCKS {
        let codec = by_name(name).expect("listed");
        let levels = codec.info().levels.as_ref();
        for level in levels.map_or(0..=0, |levels| levels.min..=levels.max.min(19)) {
            let packed = parallel_at(codec, Level::Number(level), 2, &plain);
            assert!(first_member(name, &packed) == plain, "{name} {level}");
        }
    }
    let zstd = by_name("zstd").expect("listed");
    let (level, plain) = (Level::Number(20), &plain[..10_000]);
    let one = encode_all(zstd, level, plain).expect("encoded");
    assert!(
        parallel_at(zstd, level, 2, plain) == one,
        "one thread from 20 on"
    );
}

#[test]
fn standard_programs_decode_what_several_threads_encode() {
    for (name, block) in BLOCKS {
        let codec = by_name(name).expect("listed");
        let plain = sample(3 * block + 7);
        let packed = parallel(codec, 3, &plain);
        if name == "snappy" {
            continue; // There is no program; the library's reader is asked above.
        }
        match decoded_by(name, &packed) {
            Some(decoded) => assert!(decoded == plain, "{name}"),
            None => eprintln!("not tested with the program {name}: it is not installed"),
        }
    }
}

/// What is held is less than what went in and did not come out, and nothing of it
/// is forgotten: an archive is ended by these numbers.
#[test]
fn encoders_of_several_threads_tell_what_they_hold() {
    for (name, block) in BLOCKS {
        let codec = by_name(name).expect("listed");
        let plain = noise(12 * block);
        let shared = Shared::default();
        let out = Box::new(shared.clone());
        let mut encoder = codec.parallel(out, backup_level(codec), 2).expect("made");
        for (number, piece) in plain.chunks(block / 3).enumerate() {
            encoder.write_all(piece).expect("memory");
            let written = shared.0.lock().expect("not poisoned").len();
            let taken = plain.len().min((number + 1) * (block / 3));
            let held = usize::try_from(encoder.held()).expect("it fits");
            // What does not compress comes out as long as it went in, but for what a
            // library keeps besides.
            assert!(written + held + (256 << 10) >= taken, "{name}: {held}");
            assert!(held <= 9 * block, "{name}: {held}");
        }
    }
}

/// Dropped half way, after output that failed, and after a whole stream: what the
/// encoder had is gone when the call is over, its threads with it.
#[test]
fn threads_end_with_their_encoder() {
    let name = "parallel-threads-end";
    let run = move || {
        for (name, block) in BLOCKS {
            let codec = by_name(name).expect("listed");
            let plain = noise(8 * block);
            for written in [0, 1, block, plain.len()] {
                let shared = Shared::default();
                let out = Box::new(shared.clone());
                let mut encoder = codec.parallel(out, backup_level(codec), 3).expect("made");
                encoder.write_all(&plain[..written]).expect("memory");
                let before = shared.0.lock().expect("not poisoned").len();
                drop(encoder);
                let packed = shared.take();
                assert_eq!(packed.len(), before, "{name}: nothing more is written");
                assert_eq!(
                    Arc::strong_count(&shared.0),
                    1,
                    "{name}: the output is free"
                );
                // Cut between two chunks of snappy is whole.
                let whole = decode(codec, &packed).is_ok();
                assert!(!whole || name == "snappy", "{name}: it was not finished");
            }
            let out = Box::new(Hiccup(Shared::default(), 1));
            let mut encoder = codec.parallel(out, backup_level(codec), 3).expect("made");
            let pieces = plain.chunks(block / 5);
            let failed = pieces.filter(|piece| encoder.write_all(piece).is_err());
            assert!(failed.count() > 1, "{name}: it has to go on failing");
            encoder.finish().expect_err("bytes are missing");
            parallel(codec, 3, &plain);
        }
        threads_called(&name[..15])
    };
    let thread = std::thread::Builder::new().name(name[..15].into());
    let left = thread.spawn(run).expect("started").join().expect("it ran");
    assert_eq!(left, 1, "only the thread itself");
}

/// Threads of this process with this name: those of libraries have the name of the
/// thread that made them.
fn threads_called(name: &str) -> usize {
    let tasks = fs::read_dir("/proc/self/task").expect("Linux");
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|found| found.trim_end() == name).count()
}
