//! Reads `global/pg_control`, the file that says which cluster this is.
//!
//! PostgreSQL changes the layout of this file between major versions, but never
//! three things: the identifiers at its very start, the rule that a CRC-32C of
//! everything before it ends the used part, and the constant by which it
//! recognises a foreign floating-point format, which the block and segment sizes
//! follow. The file is read by these three, so that a server newer than this
//! program is still recognised; what depends on the version is given only for
//! versions that are known.
//!
//! A server may write the file while it is read. The checksum tells, and the
//! reading is repeated (docs/decisions.md 20).

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// Name of the file below PGDATA, as a member of an archive.
pub const CONTROL_NAME: &[u8] = b"global/pg_control";

/// Size of the file, in bytes, in every version.
///
/// Source: `PG_CONTROL_FILE_SIZE` in PostgreSQL's `pg_control.h`.
pub const CONTROL_SIZE: usize = 8192;

/// How often the file is read before its checksum is believed to be wrong.
const ATTEMPTS: u32 = 10;

/// Pause between two readings: far longer than a server needs to write 8 KiB.
const PAUSE: Duration = Duration::from_millis(10);

/// Where the checksum is looked for. The used part has 224 bytes in PostgreSQL
/// 9.6 and 296 in 18, and PostgreSQL keeps it below one disk sector.
const CHECKSUM_AT: std::ops::Range<usize> = 200..512;

/// The number PostgreSQL stores to recognise its own floating-point format.
const FLOAT_FORMAT: f64 = 1_234_567.0;

/// What `pg_control` says. Its checksum held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlFile {
    /// Identifies the cluster and all its physical copies.
    pub system_identifier: u64,
    /// Version of the file's layout: 1300 for PostgreSQL 13 to 16.
    pub control_version: u32,
    /// Version of the system catalogues, as in the names of tablespace
    /// directories: 202209061 for PostgreSQL 15.
    pub catalog_version: u32,
    /// Sizes the server was built and initialised with.
    pub sizes: ControlSizes,
    /// State and latest checkpoint; `None` if the layout is not known.
    pub progress: Option<ControlProgress>,
}

/// Sizes fixed when the cluster was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControlSizes {
    /// Size of a block of a relation, in bytes.
    pub block_size: u32,
    /// Blocks in a segment file of a relation.
    pub relation_segment_blocks: u32,
    /// Size of a WAL page, in bytes.
    pub wal_block_size: u32,
    /// Size of a WAL segment, in bytes.
    pub wal_segment_size: u32,
    /// Whether pages carry checksums; `None` if the layout is not known.
    pub data_checksums: Option<bool>,
}

/// How far the server has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControlProgress {
    /// What the server was doing.
    pub state: ClusterState,
    /// Where the latest checkpoint record is.
    pub checkpoint_lsn: u64,
    /// Where recovery would begin.
    pub redo_lsn: u64,
    /// Timeline of the latest checkpoint.
    pub timeline: u32,
}

/// PostgreSQL's `DBState`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterState {
    /// Being made.
    Startup,
    /// Shut down cleanly.
    ShutDown,
    /// A standby, shut down cleanly.
    ShutDownInRecovery,
    /// Shutting down.
    ShuttingDown,
    /// In crash recovery.
    InCrashRecovery,
    /// In archive recovery, or a standby.
    InArchiveRecovery,
    /// Running.
    InProduction,
}

/// Why `pg_control` could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The file could not be read.
    #[error("could not read control file `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file was read but its content is not valid.
    #[error("control file `{path}` is not valid after {attempts} readings")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// How often it was read.
        attempts: u32,
        /// What is wrong with it.
        #[source]
        source: ControlParseError,
    },
}

/// What is wrong with the bytes of a control file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ControlParseError {
    /// There are fewer bytes than the oldest layout needs.
    #[error("the control file has only {0} bytes")]
    Short(usize),
    /// No checksum fits: damaged, half written, or of a big-endian machine.
    #[error("the control file's checksum does not match its content")]
    Checksum,
    /// The checksum holds but the sizes are not where they ought to be.
    #[error("the control file has no plausible block and segment sizes")]
    Layout,
}

/// A control file and the bytes it was read from, which are what is backed up.
#[derive(Debug, Clone)]
pub struct ControlSnapshot {
    /// The meaning of `bytes`.
    pub control: ControlFile,
    /// The whole file, read at once.
    pub bytes: Vec<u8>,
}

impl ControlFile {
    /// Reads the content of a control file, of little-endian machines only.
    ///
    /// `bytes` may be the whole file or a beginning that includes the checksum.
    pub fn parse(bytes: &[u8]) -> Result<Self, ControlParseError> {
        let end = CHECKSUM_AT.end.min(bytes.len().saturating_sub(3));
        if end <= CHECKSUM_AT.start {
            return Err(ControlParseError::Short(bytes.len()));
        }
        let used = (CHECKSUM_AT.start..end)
            .step_by(4)
            .find(|&at| u32_at(bytes, at) == Some(crc32c::crc32c(&bytes[..at])))
            .map(|at| &bytes[..at])
            .ok_or(ControlParseError::Checksum)?;
        let read = || {
            let control_version = u32_at(used, 8)?;
            Some(Self {
                system_identifier: u64_at(used, 0)?,
                control_version,
                catalog_version: u32_at(used, 12)?,
                sizes: sizes(used, control_version)?,
                progress: progress(used, control_version),
            })
        };
        read().ok_or(ControlParseError::Layout)
    }
}

/// Reads and checks the control file at `path`.
///
/// Each attempt is one `read` of the whole file; while the checksum does not
/// match, up to ten are made.
pub fn read_control(path: &Path) -> Result<ControlSnapshot, ControlError> {
    let read_once = || {
        let mut bytes = vec![0; CONTROL_SIZE];
        let mut file = File::open(path)?;
        let length = loop {
            match file.read(&mut bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        bytes.truncate(length);
        Ok(bytes)
    };
    read_until_valid(read_once, || thread::sleep(PAUSE)).map_err(|error| match error {
        Attempt::Read(source) => ControlError::Read {
            path: path.to_owned(),
            source,
        },
        Attempt::Invalid(source) => ControlError::Invalid {
            path: path.to_owned(),
            attempts: ATTEMPTS,
            source,
        },
    })
}

#[derive(Debug)]
enum Attempt {
    Read(io::Error),
    Invalid(ControlParseError),
}

fn read_until_valid(
    mut read_once: impl FnMut() -> io::Result<Vec<u8>>,
    mut pause: impl FnMut(),
) -> Result<ControlSnapshot, Attempt> {
    let mut attempt = 1;
    loop {
        let bytes = read_once().map_err(Attempt::Read)?;
        match ControlFile::parse(&bytes) {
            Ok(control) => return Ok(ControlSnapshot { control, bytes }),
            Err(error) if attempt >= ATTEMPTS => return Err(Attempt::Invalid(error)),
            Err(_) => pause(),
        }
        attempt += 1;
    }
}

/// Versions of the layout whose later fields are known.
fn is_known(control_version: u32) -> bool {
    matches!(
        control_version,
        960 | 1002 | 1100 | 1201 | 1300 | 1700 | 1800
    )
}

fn sizes(used: &[u8], control_version: u32) -> Option<ControlSizes> {
    (0..used.len()).step_by(8).find_map(|at| {
        if u64_at(used, at)? != FLOAT_FORMAT.to_bits() {
            return None;
        }
        let power_of_two = |at, range: std::ops::RangeInclusive<u32>| {
            u32_at(used, at).filter(|size| size.is_power_of_two() && range.contains(size))
        };
        Some(ControlSizes {
            block_size: power_of_two(at + 8, 1 << 10..=32 << 10)?,
            relation_segment_blocks: u32_at(used, at + 12).filter(|&blocks| blocks > 0)?,
            wal_block_size: power_of_two(at + 16, 1 << 10..=64 << 10)?,
            wal_segment_size: power_of_two(at + 20, 1 << 20..=1 << 30)?,
            data_checksums: if is_known(control_version) {
                Some(u32_at(used, at + 44)? != 0)
            } else {
                None
            },
        })
    })
}

fn progress(used: &[u8], control_version: u32) -> Option<ControlProgress> {
    if !is_known(control_version) {
        return None;
    }
    // Up to PostgreSQL 10 the location of the checkpoint before the latest one
    // stands between the latest one's location and its copy.
    let copy = if control_version < 1100 { 48 } else { 40 };
    Some(ControlProgress {
        state: match u32_at(used, 16)? {
            0 => ClusterState::Startup,
            1 => ClusterState::ShutDown,
            2 => ClusterState::ShutDownInRecovery,
            3 => ClusterState::ShuttingDown,
            4 => ClusterState::InCrashRecovery,
            5 => ClusterState::InArchiveRecovery,
            6 => ClusterState::InProduction,
            _ => return None,
        },
        checkpoint_lsn: u64_at(used, 32)?,
        redo_lsn: u64_at(used, copy)?,
        timeline: u32_at(used, copy + 8)?,
    })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes(*field))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..)?.first_chunk()?;
    Some(u64::from_le_bytes(*field))
}

#[cfg(test)]
pub(super) mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;

    /// The used part of the file that `initdb -k --wal-segsize=1` of PostgreSQL
    /// 15.20 made, from which `pg_controldata` read the values tested below.
    const POSTGRES_15: &str = "\
        7a3e9bbf5932016b1405000025770d0c01000000000000005a32016b0000000068158400000000006815840000\
        00000001000000010000000100000000000000d402000000000000043500000100000000000000cc0200000100\
        00000100000001000000000000005a32016b0000000000000000000000000000000000000000e8030000000000\
        000000000000000000000000000000000000000000000000000000000000000000000000000100000000000000\
        64000000080000000a000000000000004000000000000000080000000000000087d63241002000000000020000\
        200000000010004000000020000000cc0700000008000001000000010000006aa693118ec63fa47dec1f0ce1c8\
        e573806fc7ce78083b56965d673e22bd4d56519c31d9\
    ";

    /// A whole control file of PostgreSQL 15.
    pub(crate) fn sample() -> Vec<u8> {
        let digits: Vec<u8> = POSTGRES_15
            .bytes()
            .filter(u8::is_ascii_hexdigit)
            .map(|digit| {
                u8::try_from(char::from(digit).to_digit(16).expect("a digit")).expect("4 bits")
            })
            .collect();
        let mut bytes: Vec<u8> = digits
            .chunks(2)
            .map(|pair| pair[0] << 4 | pair[1])
            .collect();
        bytes.resize(CONTROL_SIZE, 0);
        bytes
    }

    /// The sample with a changed layout version and a checksum that fits again.
    fn sample_of_version(control_version: u32) -> Vec<u8> {
        let mut bytes = sample();
        bytes[8..12].copy_from_slice(&control_version.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..288]);
        bytes[288..292].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    #[test]
    fn a_real_control_file_gives_what_pg_controldata_prints() {
        assert_eq!(
            ControlFile::parse(&sample()),
            Ok(ControlFile {
                system_identifier: 7_710_499_398_083_100_282,
                control_version: 1300,
                catalog_version: 202_209_061,
                sizes: ControlSizes {
                    block_size: 8192,
                    relation_segment_blocks: 131_072,
                    wal_block_size: 8192,
                    wal_segment_size: 1 << 20,
                    data_checksums: Some(true),
                },
                progress: Some(ControlProgress {
                    state: ClusterState::ShutDown,
                    checkpoint_lsn: 0x0084_1568,
                    redo_lsn: 0x0084_1568,
                    timeline: 1,
                }),
            })
        );
    }

    /// Source: `PG_CONTROL_VERSION` of each version. From 17 on a checkpoint says more, behind what
    /// is read here.
    #[test]
    fn the_layout_of_each_version_is_known() {
        for version in [1201, 1300, 1700, 1800] {
            let control = ControlFile::parse(&sample_of_version(version)).expect("it fits");
            assert_eq!(control.sizes.data_checksums, Some(true), "{version}");
            let progress = control.progress.expect("it is known");
            assert_eq!((progress.redo_lsn, progress.timeline), (0x0084_1568, 1));
        }
    }

    #[test]
    fn an_unknown_layout_gives_identity_and_sizes_but_no_progress() {
        let control = ControlFile::parse(&sample_of_version(9900)).expect("the checksum fits");
        assert_eq!(control.system_identifier, 7_710_499_398_083_100_282);
        assert_eq!(control.sizes.wal_segment_size, 1 << 20);
        assert_eq!(control.sizes.data_checksums, None);
        assert_eq!(control.progress, None);
    }

    #[test]
    fn a_change_of_any_used_bit_is_noticed() {
        for at in 0..292 {
            for bit in 0..8 {
                let mut bytes = sample();
                bytes[at] ^= 1 << bit;
                assert_eq!(
                    ControlFile::parse(&bytes),
                    Err(ControlParseError::Checksum),
                    "bit {bit} of byte {at}"
                );
            }
        }
    }

    #[test]
    fn a_file_cut_before_its_checksum_is_refused() {
        let bytes = sample();
        for length in 0..292 {
            assert!(
                ControlFile::parse(&bytes[..length]).is_err(),
                "{length} bytes"
            );
        }
        assert!(ControlFile::parse(&bytes[..292]).is_ok());
        assert_eq!(ControlFile::parse(&[]), Err(ControlParseError::Short(0)));
        assert_eq!(
            ControlFile::parse(&[0; CONTROL_SIZE]),
            Err(ControlParseError::Checksum)
        );
    }

    #[test]
    fn a_torn_file_is_read_again_until_it_is_whole() {
        let reads = Cell::new(0);
        let pauses = Cell::new(0);
        let snapshot = read_until_valid(
            || {
                reads.set(reads.get() + 1);
                let mut bytes = sample();
                if reads.get() < ATTEMPTS {
                    bytes[40] ^= 1;
                }
                Ok(bytes)
            },
            || pauses.set(pauses.get() + 1),
        )
        .expect("the tenth reading is whole");
        assert_eq!(snapshot.bytes, sample());
        assert_eq!((reads.get(), pauses.get()), (10, 9));
    }

    #[test]
    fn a_file_that_stays_torn_fails_after_ten_readings() {
        let reads = Cell::new(0);
        let result = read_until_valid(
            || {
                reads.set(reads.get() + 1);
                Ok(vec![7; CONTROL_SIZE])
            },
            || {},
        );
        assert!(matches!(
            result,
            Err(Attempt::Invalid(ControlParseError::Checksum))
        ));
        assert_eq!(reads.get(), 10);
    }

    #[test]
    fn the_whole_file_is_read_from_disk() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("pg_control");
        std::fs::write(&path, sample()).expect("a file");
        let snapshot = read_control(&path).expect("a control file");
        assert_eq!(snapshot.bytes, sample());
        assert!(matches!(
            read_control(&directory.path().join("absent")),
            Err(ControlError::Read { .. })
        ));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = ControlFile::parse(&bytes);
        }
    }
}
