//! Whose base backups and WAL are in the archive, for those who answer for it.
//!
//! Each cluster has an identifier, and with two of them in one place nobody can tell
//! any more which WAL belongs to which backup. That is told and never refused: after
//! `pg_upgrade` a server goes on in the same place under a new identifier
//! (docs/decisions.md 32). Nor is it a reason to fail: who may not look, or cannot, is
//! told less.

use std::io;

use futures_util::TryStreamExt;
use tracing::debug;

use super::chain;
use crate::catalogue::layout::{BackupId, Layout};
use crate::catalogue::load;
use crate::codec;
use crate::store::{self, Depth, ObjectMeta, ObjectStore, ReadRange, StoreError};
use crate::wal::page::{LONG_HEADER_LEN, SegmentIdentity};

/// Records that are looked at until one names its cluster.
const TRIES: usize = 3;

/// Bytes of a WAL object that are read for its first page, in whatever codec: a block
/// of bzip2 has up to 900 kB, and comes out only when all of it is in.
const BEGINNING: u64 = 1 << 20;

/// The cluster of a base backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BackupOwner {
    /// The backup.
    pub(super) id: BackupId,
    /// The cluster's system identifier.
    pub(super) system: String,
}

/// Whose the newest base backup is that says it, whatever its status.
pub(super) async fn of_newest_backup(
    store: &dyn ObjectStore,
    layout: &Layout,
) -> Option<BackupOwner> {
    let base = layout.base();
    let page = store::list_all(store, &base, Depth::One).await;
    let page = page.inspect_err(unknown).ok()?;
    let mut ids: Vec<BackupId> = page
        .prefixes
        .iter()
        .filter_map(|dir| {
            let name = dir.as_str().strip_prefix(base.as_str())?;
            let name = name.strip_suffix('/')?;
            // Whatever else lies there has no place in their order.
            let id = BackupId::is_canonical(name).then_some(name)?;
            BackupId::new(id)
        })
        .collect();
    ids.sort();
    ids.dedup();
    for id in ids.into_iter().rev().take(TRIES) {
        match load::load_one(store, layout, &id).await {
            Ok(Some(info)) => {
                if let Some(system) = info.systemid {
                    return Some(BackupOwner { id, system });
                }
            }
            Ok(None) => {}
            Err(error) => debug!("whose backup {id} is cannot be told: {}", chain(&error)),
        }
    }
    None
}

/// The system identifier in the first page of a WAL segment that is stored under the
/// suffix of a codec.
pub(super) async fn of_segment(
    store: &dyn ObjectStore,
    stored: &ObjectMeta,
    suffix: &str,
) -> Option<u64> {
    let codec = codec::by_suffix(suffix)?;
    let beginning = beginning_of(store, stored).await;
    let beginning = beginning.inspect_err(unknown).ok()?;
    let mut head = [0; LONG_HEADER_LEN];
    let read = codec
        .decoder(Box::new(io::Cursor::new(beginning)))
        .and_then(|mut plain| plain.read_exact(&mut head));
    if let Err(error) = read {
        debug!("whose WAL `{}` is cannot be told: {error}", stored.key);
        return None;
    }
    Some(SegmentIdentity::of(&head)?.system_identifier)
}

async fn beginning_of(store: &dyn ObjectStore, stored: &ObjectMeta) -> store::Result<Vec<u8>> {
    let range = ReadRange {
        end: Some(stored.size.min(BEGINNING)),
        ..ReadRange::all()
    };
    let mut download = store.get(&stored.key, &range).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = download.body.try_next().await? {
        bytes.extend_from_slice(&piece);
        if bytes.len() as u64 >= BEGINNING {
            break;
        }
    }
    Ok(bytes)
}

fn unknown(error: &StoreError) {
    debug!(
        "whose archive this is cannot be looked up: {}",
        chain(error)
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::load::wal_of_key;
    use crate::ops::wal_testing::GOLDEN_SYSTEM;
    use crate::store::{Fault, FaultyStore, MemoryStore, StoreErrorKind, StoreOp};

    fn layout() -> Layout {
        Layout::new("p", "main").expect("a layout")
    }

    fn record(store: &MemoryStore, id: &str, text: &str) {
        store.insert(&format!("p/main/base/{id}/backup.info"), text.to_owned());
    }

    #[tokio::test]
    async fn the_newest_backup_that_says_it_tells_whose_the_archive_is() {
        let store = MemoryStore::new();
        let newest = async || of_newest_backup(&store, &layout()).await;
        assert_eq!(newest().await, None);
        record(&store, "20250101T000000", "status=DONE\nsystemid=7\n");
        record(&store, "20260101T000000", "status=FAILED\nsystemid=8\n");
        store.insert("p/main/base/99999999/backup.info", "systemid=9\n");
        store.insert("p/main2/base/20270101T000000/backup.info", "systemid=9\n");
        let of = |id: &str, system: &str| {
            Some(BackupOwner {
                id: BackupId::new(id).expect("an id"),
                system: system.to_owned(),
            })
        };
        assert_eq!(newest().await, of("20260101T000000", "8"));
        // One that does not say it, and one that was killed before it had a record.
        record(&store, "20260102T000000", "status=DONE\nsystemid=None\n");
        store.insert("p/main/base/20260103T000000/data.tar", "");
        assert_eq!(newest().await, of("20260101T000000", "8"));
    }

    #[tokio::test]
    async fn a_store_that_does_not_answer_is_no_reason_to_fail() {
        for op in [StoreOp::List, StoreOp::Get] {
            let store = MemoryStore::new();
            record(&store, "20250101T000000", "status=DONE\nsystemid=7\n");
            let faulty = FaultyStore::new(std::sync::Arc::new(store));
            faulty.fail(op, Fault::Before(StoreErrorKind::PermissionDenied), 1);
            assert_eq!(of_newest_backup(&faulty, &layout()).await, None);
        }
    }

    #[tokio::test]
    async fn a_segment_says_whose_it_is_in_every_codec() {
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/wal");
        let store = MemoryStore::new();
        let mut segments = 0;
        for entry in std::fs::read_dir(golden).expect("samples") {
            let path = entry.expect("a sample").path();
            let name = path.file_name().and_then(|name| name.to_str());
            let name = name.expect("a name").to_owned();
            let Some((wal, suffix)) = wal_of_key(&name, &codec::suffixes()) else {
                continue;
            };
            store.insert(&name, std::fs::read(&path).expect("a sample"));
            let page = store::list_all(&store, &crate::key::Prefix::text(&*name), Depth::One).await;
            let stored = page.expect("listed").objects;
            let stored = stored.iter().find(|object| object.key.as_str() == name);
            let system = of_segment(&store, stored.expect("listed"), suffix).await;
            let is_segment = wal.kind() == crate::wal::WalKind::Segment;
            assert_eq!(system, is_segment.then_some(GOLDEN_SYSTEM), "{name}");
            segments += usize::from(is_segment);
        }
        assert_eq!(segments, 7);
    }
}
