//! Reading the catalogue from a store.

use std::collections::BTreeMap;

use futures_util::{StreamExt, stream};
use jiff::tz::TimeZone;

use super::info::{BackupInfo, InfoError};
use super::layout::{BackupId, Layout};
use crate::store::{self, Depth, ObjectStore, StoreError, StoreErrorKind};
use crate::wal::{History, TimelineId, WalKind, WalName};

/// Records read at the same time.
const CONCURRENCY: usize = 16;

/// Largest `backup.info` that is read, in bytes. Real ones have some kilobytes,
/// and some hundred with thousands of tablespaces. [`CONCURRENCY`] times this is
/// what a bucket full of garbage can make us hold.
pub const MAX_INFO: u64 = 4 << 20;

/// Largest timeline history file that is read, in bytes: a line has less than
/// 1 KiB, and a cluster some dozen timelines.
const MAX_HISTORY: u64 = 1 << 20;

/// A backup found in the bucket.
#[derive(Debug)]
pub struct Entry {
    /// Its id.
    pub id: BackupId,
    /// Its record, or why that cannot be read.
    pub info: Result<BackupInfo, LoadError>,
}

/// Why a record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The store did not deliver it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It makes no sense.
    #[error("{0}")]
    Malformed(#[from] InfoError),
}

/// Reads all records, sorted by id. A directory without one is left out: it
/// belongs to no backup that exists.
///
/// # Errors
///
/// If the listing fails: a short catalogue must never pass for the whole one.
pub async fn load(store: &dyn ObjectStore, layout: &Layout) -> Result<Vec<Entry>, StoreError> {
    let base = layout.base();
    let page = store::list_all(store, &base, Depth::One).await?;
    let ids = page.prefixes.iter().filter_map(|dir| {
        let name = dir
            .as_str()
            .strip_prefix(base.as_str())?
            .strip_suffix('/')?;
        BackupId::new(name)
    });
    let mut entries: Vec<Entry> = stream::iter(ids)
        .map(|id| async move {
            let info = load_one(store, layout, &id).await.transpose()?;
            Some(Entry { id, info })
        })
        .buffer_unordered(CONCURRENCY)
        .filter_map(std::future::ready)
        .collect()
        .await;
    entries.sort_by(|one, other| one.id.cmp(&other.id));
    Ok(entries)
}

/// Reads one record; `None` if there is none.
pub async fn load_one(
    store: &dyn ObjectStore,
    layout: &Layout,
    id: &BackupId,
) -> Result<Option<BackupInfo>, LoadError> {
    match store::get_all(store, &layout.backup_info(id), MAX_INFO).await {
        Ok((_, bytes)) => Ok(Some(BackupInfo::parse(&bytes, &TimeZone::system())?)),
        Err(error) if error.kind == StoreErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The newest timeline that the archive knows, from segments and history files
/// alike; `None` if it holds no WAL.
pub async fn newest_timeline(
    store: &dyn ObjectStore,
    layout: &Layout,
    suffixes: &[&str],
) -> Result<Option<TimelineId>, StoreError> {
    let wals = layout.wals();
    let page = store::list_all(store, &wals, Depth::One).await?;
    let directories = page.prefixes.iter().filter_map(|dir| {
        let name = dir
            .as_str()
            .strip_prefix(wals.as_str())?
            .strip_suffix('/')?;
        let hex = name.len() == 16 && name.bytes().all(|b| b.is_ascii_hexdigit());
        hex.then(|| u32::from_str_radix(&name[..8], 16).ok())
            .flatten()
            .map(TimelineId)
    });
    let files = page.objects.iter().filter_map(|object| {
        let name = wal_of_key(object.key.base_name(), suffixes)?.0;
        Some(name.timeline())
    });
    Ok(directories.chain(files).max())
}

/// The WAL file that an object's base name stands for, and its suffix.
pub fn wal_of_key<'a>(base_name: &str, suffixes: &[&'a str]) -> Option<(WalName, &'a str)> {
    if let Ok(name) = base_name.parse() {
        return Some((name, ""));
    }
    let suffix = suffixes
        .iter()
        .find(|s| !s.is_empty() && base_name.ends_with(**s))?;
    Some((base_name.strip_suffix(suffix)?.parse().ok()?, suffix))
}

/// The histories of all timelines the archive has one for; `decode` undoes the
/// compression named by a suffix.
pub async fn histories(
    store: &dyn ObjectStore,
    layout: &Layout,
    suffixes: &[&str],
    decode: impl Fn(&str, &[u8]) -> std::io::Result<Vec<u8>>,
) -> Result<BTreeMap<TimelineId, History>, StoreError> {
    let page = store::list_all(store, &layout.wals(), Depth::One).await?;
    let mut histories = BTreeMap::new();
    for object in page.objects {
        let Some((name, suffix)) = wal_of_key(object.key.base_name(), suffixes) else {
            continue;
        };
        if name.kind() != WalKind::History {
            continue;
        }
        let (_, bytes) = store::get_all(store, &object.key, MAX_HISTORY).await?;
        let text = decode(suffix, &bytes)
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok());
        match text
            .as_deref()
            .map(|text| History::parse(name.timeline(), text))
        {
            Some(Ok(history)) => {
                histories.insert(name.timeline(), history);
            }
            Some(Err(error)) => tracing::warn!("{error}"),
            None => tracing::warn!("the history file `{}` cannot be decoded", object.key),
        }
    }
    Ok(histories)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::info::Status;
    use crate::store::MemoryStore;

    fn layout() -> Layout {
        Layout::new("p", "main").unwrap()
    }

    fn record(status: Status) -> String {
        BackupInfo {
            status,
            ..BackupInfo::default()
        }
        .to_text()
    }

    #[tokio::test]
    async fn the_catalogue_is_read_over_pages_and_sorted() {
        let store = MemoryStore::new().with_page(2);
        for n in (0..40).rev() {
            store.insert(
                &format!("p/main/base/20261121T0000{n:02}/backup.info"),
                record(Status::Done),
            );
        }
        store.insert("p/main/base/20261121T000099/data.tar", "no record");
        store.insert("p/main/base/stray", "no directory");
        store.insert(
            "p/main2/base/20261121T000001/backup.info",
            record(Status::Done),
        );
        let entries = load(&store, &layout()).await.unwrap();
        assert_eq!(entries.len(), 40);
        assert!(entries.is_sorted_by_key(|entry| entry.id.clone()));
        assert!(entries.iter().all(|entry| entry.info.is_ok()));
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_named_and_not_left_out() {
        let store = MemoryStore::new();
        store.insert("p/main/base/A/backup.info", record(Status::Done));
        store.insert("p/main/base/B/backup.info", "garbage");
        let entries = load(&store, &layout()).await.unwrap();
        assert_eq!(
            entries.iter().map(|e| e.info.is_ok()).collect::<Vec<_>>(),
            [true, false]
        );
    }

    #[tokio::test]
    async fn a_missing_bucket_is_no_empty_catalogue() {
        let store = MemoryStore::new().without_bucket();
        assert_eq!(
            load(&store, &layout()).await.unwrap_err().kind,
            StoreErrorKind::BucketMissing
        );
    }

    #[tokio::test]
    async fn the_newest_timeline_counts_segments_and_histories() {
        let store = MemoryStore::new();
        let newest = async || newest_timeline(&store, &layout(), &[".gz"]).await.unwrap();
        assert_eq!(newest().await, None);
        store.insert(
            "p/main/wals/0000000200000000/000000020000000000000001.gz",
            "",
        );
        store.insert("p/main/wals/junk", "");
        assert_eq!(newest().await, Some(TimelineId(2)));
        store.insert("p/main/wals/00000003.history.gz", "1\t0/1\tx");
        assert_eq!(newest().await, Some(TimelineId(3)));
        let histories = histories(&store, &layout(), &[".gz"], |_, bytes| Ok(bytes.to_vec())).await;
        assert!(
            histories.unwrap()[&TimelineId(3)]
                .contains(TimelineId(1))
                .is_some()
        );
    }
}
