//! What tests of operations need that have to do with WAL.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio_util::sync::CancellationToken;

use super::{Ctx, Env};
use crate::report::Silent;
use crate::store::{FaultyStore, MemoryStore, ObjectStore, StoreOp};

/// A store in memory that fails as told and knows what it was asked.
#[derive(Debug)]
pub(super) struct TestStore {
    pub(super) memory: MemoryStore,
    pub(super) faulty: FaultyStore,
    seen: AtomicUsize,
}

impl TestStore {
    pub(super) fn new(memory: &MemoryStore) -> Self {
        Self {
            memory: memory.clone(),
            faulty: FaultyStore::new(Arc::new(memory.clone())),
            seen: AtomicUsize::new(0),
        }
    }

    pub(super) fn shared(&self) -> Arc<dyn ObjectStore> {
        Arc::new(self.faulty.clone())
    }

    /// The calls since the last time this was asked.
    pub(super) fn calls(&self) -> Vec<StoreOp> {
        let calls = self.faulty.calls();
        let seen = self.seen.swap(calls.len(), Ordering::Relaxed);
        calls[seen..].iter().map(|(op, _)| *op).collect()
    }
}

/// A context without a terminal, and the token that interrupts it.
pub(super) fn context() -> (Ctx, CancellationToken) {
    let cancel = CancellationToken::new();
    let ctx = Ctx {
        reporter: Arc::new(Silent),
        cancel: cancel.clone(),
        env: Env::default(),
    };
    (ctx, cancel)
}

/// The golden segment, its position and timeline changed to those of `name`.
pub(super) fn segment(name: &str) -> Vec<u8> {
    let mut bytes = golden("000000010000000000000006");
    let hex = |range| u64::from_str_radix(&name[range], 16).expect("a segment's name");
    let (timeline, log, number) = (hex(0..8), hex(8..16), hex(16..24));
    for (index, page) in (0_u64..).zip(bytes.chunks_mut(8192)) {
        let address = (log << 32) + (number << 20) + index * 8192;
        page[4..8].copy_from_slice(&timeline.to_le_bytes()[..4]);
        page[8..16].copy_from_slice(&address.to_le_bytes());
    }
    bytes
}

/// A golden WAL sample.
pub(super) fn golden(name: &str) -> Vec<u8> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/wal/");
    std::fs::read(format!("{directory}{name}")).expect("a golden sample")
}

/// Puts a `pg_control` into the data directory: of a cluster of the golden
/// segment if `system_identifier` is [`GOLDEN_SYSTEM`].
pub(super) fn write_control(data_directory: &std::path::Path, system_identifier: u64) {
    let global = data_directory.join("global");
    std::fs::create_dir_all(&global).expect("a directory");
    let bytes = control(system_identifier, false);
    std::fs::write(global.join("pg_control"), bytes).expect("a file");
}

/// A `pg_control` of PostgreSQL 15, on timeline 1, with or without checksums of pages.
pub(super) fn control(system_identifier: u64, checksums: bool) -> Vec<u8> {
    control_in(system_identifier, checksums, 6)
}

/// The same in any `DBState`; 6 is that of a running primary.
pub(super) fn control_in(system_identifier: u64, checksums: bool, state: u32) -> Vec<u8> {
    let mut bytes = vec![0; 8192];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, &system_identifier.to_le_bytes());
    put(8, &1300_u32.to_le_bytes());
    put(16, &state.to_le_bytes());
    put(32, &0x60_0060_u64.to_le_bytes());
    put(40, &0x60_0028_u64.to_le_bytes());
    put(48, &1_u32.to_le_bytes());
    put(240, &1_234_567.0_f64.to_le_bytes());
    for (at, size) in [(248, 8192), (252, 131_072), (256, 8192), (260, 1_u32 << 20)] {
        put(at, &size.to_le_bytes());
    }
    put(284, &u32::from(checksums).to_le_bytes());
    let checksum = crc32c::crc32c(&bytes[..288]);
    bytes[288..292].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// The cluster that wrote the golden segment.
pub(super) const GOLDEN_SYSTEM: u64 = 0x6b01_03d9_548c_0104;
