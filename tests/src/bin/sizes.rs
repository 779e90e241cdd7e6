//! A backup of a cluster far larger than this machine, into a store that keeps nothing.
//!
//! usage: `sizes tree DIRECTORY FILES SIZE`
//!        `sizes databases DIRECTORY FIRST COUNT FILES SIZE`
//!        `sizes copy DIRECTORY ROUNDS MAX_PARTS`
//!
//! `tree` makes a data directory with FILES files of SIZE bytes in one database. Beyond 64 KiB
//! they are sparse; smaller ones have random bytes, up to twice as many, and random times, so
//! that their lines in the manifest are no more alike than those of a real cluster. `databases`
//! makes COUNT directories of such files, called FIRST and so on, in the directory `base` of a
//! cluster that there is. `copy` backs the made one up as `barman-cloud-backup` does without
//! options, with ROUNDS times as many databases, to a store with the limits of S3 but of
//! MAX_PARTS parts an object, which fails whatever is beyond them. Its only line of output is
//! a JSON object: `archives`, `bytes`, `parts`, `most_parts` (of one archive),
//! `largest_archive`, `largest_part` (bytes), `peak` (resident memory of the process, in KiB)
//! and `seconds`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use cloud_core::codec;
use cloud_core::manifest::{Algorithm, Checksum, Summing};
use cloud_core::ops::archives::ArchiveOptions;
use cloud_core::ops::backup::{Simulation, simulate};
use cloud_core::store::{Limits, NullStore};

/// What is larger is sparse.
const REAL: u64 = 64 << 10;

/// In seconds.
const YEAR: u64 = 365 * 86_400;

/// Those of S3. Source: S3 user guide, "Multipart upload limits".
const S3: Limits = Limits {
    min_part: 5 << 20,
    max_part: 5 << 30,
    max_parts: 10_000,
    max_object: 5 << 40,
    max_put: 5 << 30,
    delete_batch: 1000,
    equal_parts: true,
};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "sizes: {error}");
            ExitCode::FAILURE
        }
    }
}

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn run() -> Outcome {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["tree", directory, files, size] => {
            tree(Path::new(directory), files.parse()?, size.parse()?)
        }
        ["databases", directory, first, count, files, size] => {
            let (first, count): (u32, u32) = (first.parse()?, count.parse()?);
            let mut random = fastrand::Rng::with_seed(first.into());
            (first..first + count).try_for_each(|number| {
                let database = Path::new(directory).join(number.to_string());
                fill(&database, &mut random, files.parse()?, size.parse()?)
            })
        }
        ["copy", directory, rounds, max_parts] => {
            copy(directory.into(), rounds.parse()?, max_parts.parse()?)
        }
        _ => Err("usage: sizes tree DIRECTORY FILES SIZE \
             | databases DIRECTORY FIRST COUNT FILES SIZE \
             | copy DIRECTORY ROUNDS MAX_PARTS"
            .into()),
    }
}

fn tree(pgdata: &Path, files: u32, size: u64) -> Outcome {
    fs::create_dir_all(pgdata.join("global"))?;
    fs::write(pgdata.join("PG_VERSION"), "17\n")?;
    fs::write(pgdata.join("global/pg_control"), control())?;
    let mut random = fastrand::Rng::with_seed(1);
    fill(&pgdata.join("base/5"), &mut random, files, size)
}

/// Makes the directory of a database.
fn fill(database: &Path, random: &mut fastrand::Rng, files: u32, size: u64) -> Outcome {
    fs::create_dir_all(database)?;
    for number in 0..files {
        let mut file = File::create(database.join((16384 + number).to_string()))?;
        if size <= REAL {
            let mut bytes = vec![0; usize::try_from(random.u64(1..=2 * size))?];
            random.fill(&mut bytes);
            file.write_all(&bytes)?;
            let time = Duration::new(56 * YEAR + random.u64(..YEAR), random.u32(1..1_000_000_000));
            file.set_modified(SystemTime::UNIX_EPOCH + time)?;
        } else {
            file.set_len(size)?;
        }
    }
    Ok(())
}

/// The file that tells which cluster this is, as far as a backup looks at it.
fn control() -> Vec<u8> {
    let mut bytes = vec![0; 8192];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, &7_000_000_000_000_000_001_u64.to_le_bytes());
    put(8, &1300_u32.to_le_bytes());
    put(200, &1_234_567.0_f64.to_bits().to_le_bytes());
    for (number, value) in (0..).zip([8192_u32, 131_072, 8192, 16 << 20]) {
        put(208 + 4 * number, &value.to_le_bytes());
    }
    let mut sum = Summing::new(Algorithm::Crc32c);
    sum.add(&bytes[..288]);
    if let Checksum::Crc32c(sum) = sum.finish() {
        bytes[288..292].copy_from_slice(&sum.to_le_bytes());
    }
    bytes
}

fn copy(pgdata: PathBuf, rounds: NonZeroU32, max_parts: u32) -> Outcome {
    let store = NullStore::new(Limits { max_parts, ..S3 });
    let simulation = Simulation {
        archives: ArchiveOptions {
            path: String::new(),
            server: "main".into(),
            codec: &codec::None,
            level: None,
            lanes: NonZeroU32::MIN,
            encoder_threads: None,
            jobs: NonZeroU32::MIN.saturating_add(1),
            max_archive_size: 100 << 30,
            min_chunk_size: None,
            max_bandwidth: None,
            memory_limit: None,
            tags: None,
            manifest_checksums: Algorithm::Crc32c,
            fail_on_bad_pages: false,
        },
        pgdata,
        rounds,
    };
    let began = Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let archives = runtime
        .block_on(simulate(Arc::new(store.clone()), simulation))
        .map_err(|error| error.to_string())?;
    let counts = store.counts();
    let line = serde_json::json!({
        "archives": archives,
        "bytes": counts.bytes,
        "parts": counts.parts,
        "most_parts": counts.most_parts,
        "largest_archive": counts.largest_object,
        "largest_part": counts.largest_part,
        "peak": peak()?,
        "seconds": began.elapsed().as_secs(),
    });
    writeln!(io::stdout(), "{line}")?;
    Ok(())
}

/// The most memory that was resident at the same time, in KiB.
fn peak() -> Result<u64, Box<dyn std::error::Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    Ok(number.ok_or("no VmHWM")?.parse()?)
}
