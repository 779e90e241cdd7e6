//! Reading the catalogue from a store.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};

use futures_util::future::try_join_all;
use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::tz::TimeZone;

use super::info::{BackupInfo, InfoError};
use super::keep::{Keep, KeepTarget};
use super::layout::{self, BackupId, KEEP, Layout, RECORD};
use crate::key::{Key, Prefix};
use crate::store::{self, Depth, ObjectMeta, ObjectStore, StoreError, StoreErrorKind};
use crate::wal::{History, TimelineId, WalKind, WalName};

/// Records read at the same time: with a round trip of 20 ms, a thousand of them
/// in a third of a second.
const CONCURRENCY: usize = 64;

/// Largest record that is read together with so many others, in bytes.
const SMALL: u64 = 256 << 10;

/// Larger records read at the same time. This times `MAX_INFO`, and
/// `CONCURRENCY` times `SMALL`, are what a bucket full of garbage can make us
/// hold of what it sends.
const CONCURRENCY_LARGE: usize = 4;

/// Most backups of a server, and most objects of all of them. A bucket that lists more does so
/// for no good.
const MOST_BACKUPS: usize = 100_000;
const MOST_OBJECTS: usize = 10_000_000;

/// Largest `backup.info` that is read, in bytes. Real ones have some kilobytes,
/// and some hundred with thousands of tablespaces.
pub const MAX_INFO: u64 = 4 << 20;

/// Largest keep annotation that is read, in bytes: it is a word.
const MAX_KEEP: u64 = 64 << 10;

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
    /// Its keep annotations, if there are any.
    pub keeps: Vec<Key>,
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

/// What the listings tell of a backup.
#[derive(Debug, Default)]
pub struct Listed {
    /// Its record. A directory without one belongs to no backup that exists.
    pub record: Option<ObjectMeta>,
    /// Its keep annotations, if there are any.
    pub keeps: Vec<ObjectMeta>,
    /// Size of its archives in the store, in bytes.
    pub stored_bytes: u64,
    /// The suffixes of the codecs of its archives, a few of them if they are many.
    pub suffixes: BTreeSet<String>,
}

/// Suffixes of archives that are told apart. A backup has one.
const MOST_SUFFIXES: usize = 4;

/// Reads all records, sorted by id. A directory without one is left out: it
/// belongs to no backup that exists.
///
/// # Errors
///
/// If the listing fails: a short catalogue must never pass for the whole one.
pub async fn load(store: &dyn ObjectStore, layout: &Layout) -> Result<Vec<Entry>, StoreError> {
    let mut found = survey(store, layout).await?;
    let sizes = found
        .iter()
        .filter_map(|(id, listed)| Some((id.clone(), listed.record.as_ref()?.size)))
        .collect();
    let records = read_records(store, layout, sizes, std::convert::identity).await;
    let entries = records.into_iter().map(|(id, info)| {
        let listed = found.remove(&id).unwrap_or_default();
        let keeps = listed.keeps.into_iter().map(|object| object.key).collect();
        Entry { id, info, keeps }
    });
    Ok(entries.collect())
}

/// What is there of each backup, without reading any of it.
///
/// # Errors
///
/// As [`load`].
pub async fn survey(
    store: &dyn ObjectStore,
    layout: &Layout,
) -> Result<BTreeMap<BackupId, Listed>, StoreError> {
    let mut found = BTreeMap::new();
    look_through(store, &layout.base(), true, &mut found).await?;
    for base in layout.annotation_bases() {
        look_through(store, &base, false, &mut found).await?;
    }
    Ok(found)
}

/// Reads the records of these backups, given with the sizes that a listing told, and
/// makes of each what is wanted of it, as soon as it is there. Sorted by id, without those
/// that are gone by now.
pub async fn read_records<T>(
    store: &dyn ObjectStore,
    layout: &Layout,
    sizes: Vec<(BackupId, u64)>,
    wanted: impl Fn(BackupInfo) -> T,
) -> Vec<(BackupId, Result<T, LoadError>)> {
    let (small, large): (Vec<_>, Vec<_>) = sizes.into_iter().partition(|(_, size)| *size <= SMALL);
    let mut all = Vec::with_capacity(small.len() + large.len());
    for (records, concurrency) in [(small, CONCURRENCY), (large, CONCURRENCY_LARGE)] {
        let wanted = &wanted;
        let read = stream::iter(records)
            .map(|(id, _)| async move {
                let info = load_listed(store, layout, &id).await.transpose()?;
                Some((id, info.map(wanted)))
            })
            .buffer_unordered(concurrency)
            .filter_map(std::future::ready);
        all.extend(read.collect::<Vec<_>>().await);
    }
    all.sort_by(|(one, _), (other, _)| one.cmp(other));
    all
}

/// Looks for records and archives, and for annotations, among all objects below `base`;
/// only for annotations unless it is `home`, the directory of the backups themselves.
async fn look_through(
    store: &dyn ObjectStore,
    base: &Prefix,
    home: bool,
    found: &mut BTreeMap<BackupId, Listed>,
) -> Result<(), StoreError> {
    let mut pages = store.list(base, Depth::All);
    let mut objects = 0;
    while let Some(page) = pages.next().await {
        let page = page?;
        objects += page.objects.len();
        for object in page.objects {
            match Layout::within_backup(base, &object.key) {
                Some((id, RECORD)) if home => {
                    found.entry(id).or_default().record = Some(object);
                }
                Some((id, KEEP)) => {
                    let keeps = &mut found.entry(id).or_default().keeps;
                    // A store may name an object on two pages.
                    if keeps.iter().all(|keep| keep.key != object.key) {
                        keeps.push(object);
                    }
                }
                Some((id, name)) if home => {
                    if let Some(suffix) = layout::archive_suffix(name) {
                        let listed = found.entry(id).or_default();
                        listed.stored_bytes = listed.stored_bytes.saturating_add(object.size);
                        if listed.suffixes.len() < MOST_SUFFIXES
                            && !listed.suffixes.contains(suffix)
                        {
                            listed.suffixes.insert(suffix.to_owned());
                        }
                    }
                }
                _ => {}
            }
        }
        for (count, most) in [(found.len(), MOST_BACKUPS), (objects, MOST_OBJECTS)] {
            if count > most {
                return Err(store::endless(store, base, most));
            }
        }
    }
    Ok(())
}

/// The keep annotations of one backup, wherever they are.
pub async fn find_keeps(
    store: &dyn ObjectStore,
    layout: &Layout,
    id: &BackupId,
) -> Result<Vec<Key>, StoreError> {
    let looks = layout.keep(id).into_iter().map(|key| async move {
        // Not every store can be asked for every one of these names, but all
        // can look for it in a listing.
        let found = is_listed(store, &key).await?;
        Ok::<_, StoreError>(found.then_some(key))
    });
    let keeps = try_join_all(looks).await?;
    Ok(keeps.into_iter().flatten().collect())
}

/// Reads the keep annotations of a backup; `None` if they are gone by now. Of
/// several that do not agree, the one that keeps more counts.
pub async fn read_keep(store: &dyn ObjectStore, keeps: &[Key]) -> Result<Option<Keep>, StoreError> {
    let mut strongest: Option<Keep> = None;
    for key in keeps {
        let keep = match store::get_all(store, key, MAX_KEEP).await {
            Ok((_, content)) => Keep::read(&content),
            Err(error) if error.kind == StoreErrorKind::NotFound => {
                if is_listed(store, key).await? {
                    return Err(store::withheld(store, key));
                }
                continue;
            }
            // Whatever somebody put there keeps the backup.
            Err(error) if error.kind == StoreErrorKind::Invalid => Keep::new(KeepTarget::Full),
            Err(error) => return Err(error),
        };
        strongest = Some(match strongest {
            Some(other) => keep.stronger(other),
            None => keep,
        });
    }
    Ok(strongest)
}

/// Reads the keep annotations of many backups, in the order given.
pub async fn read_keeps<'k>(
    store: &dyn ObjectStore,
    keeps: impl IntoIterator<Item = &'k [Key]>,
) -> Result<Vec<Option<Keep>>, StoreError> {
    stream::iter(keeps)
        .map(|keeps| read_keep(store, keeps))
        .buffered(CONCURRENCY)
        .try_collect()
        .await
}

async fn is_listed(store: &dyn ObjectStore, key: &Key) -> Result<bool, StoreError> {
    let page = store::list_all(store, &Prefix::text(key.as_str()), Depth::One).await?;
    Ok(page.objects.iter().any(|object| object.key == *key))
}

/// Reads the record of a backup that a listing named; `None` if no listing does by
/// now.
async fn load_listed(
    store: &dyn ObjectStore,
    layout: &Layout,
    id: &BackupId,
) -> Result<Option<BackupInfo>, LoadError> {
    if let Some(info) = load_one(store, layout, id).await? {
        return Ok(Some(info));
    }
    let key = layout.backup_info(id);
    if is_listed(store, &key).await? {
        return Err(store::withheld(store, &key).into());
    }
    Ok(None)
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

/// What the names in the WAL archive tell of timelines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timelines {
    newest: Option<TimelineId>,
    /// The directories of segments: timeline and the middle number of the names in them.
    directories: BTreeSet<(TimelineId, u32)>,
    /// Where the history of each timeline lies, with the suffix of its codec;
    /// several places if it was archived in several forms.
    histories: BTreeMap<TimelineId, Vec<(Key, String)>>,
}

/// Reads the names directly below `wals/`: a directory for each 4 GiB of WAL,
/// and the history files. `suffixes` are those of the codecs that may be met.
pub async fn timelines(
    store: &dyn ObjectStore,
    layout: &Layout,
    suffixes: &[&str],
) -> Result<Timelines, StoreError> {
    let wals = layout.wals();
    let page = store::list_all(store, &wals, Depth::One).await?;
    let directories = page.prefixes.iter().filter_map(|dir| {
        let name = dir
            .as_str()
            .strip_prefix(wals.as_str())?
            .strip_suffix('/')?;
        let hex = name.len() == 16 && name.bytes().all(|b| b.is_ascii_hexdigit());
        let number = |text| u32::from_str_radix(text, 16).ok();
        hex.then(|| Some((TimelineId(number(&name[..8])?), number(&name[8..])?)))
            .flatten()
    });
    let directories: BTreeSet<_> = directories.collect();
    let mut newest = directories.last().map(|(timeline, _)| *timeline);
    let mut histories: BTreeMap<TimelineId, Vec<(Key, String)>> = BTreeMap::new();
    for object in &page.objects {
        if let Some((name, suffix)) = wal_of_key(object.key.base_name(), suffixes) {
            newest = newest.max(Some(name.timeline()));
            if name.kind() == WalKind::History {
                let place = (object.key.clone(), suffix.to_owned());
                histories.entry(name.timeline()).or_default().push(place);
            }
        }
    }
    for places in histories.values_mut() {
        places.sort();
    }
    Ok(Timelines {
        newest,
        directories,
        histories,
    })
}

impl Timelines {
    /// The newest timeline that the archive knows, from segments and history
    /// files alike; `None` if it holds no WAL.
    pub fn newest(&self) -> Option<TimelineId> {
        self.newest
    }

    /// All timelines that the archive knows, newest first.
    pub fn all(&self) -> Vec<TimelineId> {
        let segments = self.directories.iter().map(|(timeline, _)| *timeline);
        let all: BTreeSet<_> = segments.chain(self.histories.keys().copied()).collect();
        all.into_iter().rev().collect()
    }

    /// The directories that segments of `timeline` are in, by the middle number of their names.
    pub fn directories(&self, timeline: TimelineId) -> impl Iterator<Item = u32> + '_ {
        let of_timeline = (timeline, 0)..=(timeline, u32::MAX);
        self.directories.range(of_timeline).map(|(_, log)| *log)
    }

    /// Reads the history of `timeline`; `None` if the archive has none that can
    /// be read, which is said in the log unless there is none at all.
    ///
    /// `decode` gives a reader of what the codec with that suffix compressed.
    /// What it makes of a history file is bounded here.
    pub async fn history(
        &self,
        store: &dyn ObjectStore,
        timeline: TimelineId,
        decode: impl Fn(&str, Box<dyn Read + Send>) -> io::Result<Box<dyn Read + Send>>,
    ) -> Result<Option<History>, StoreError> {
        let places = self.histories.get(&timeline).map_or(&[][..], Vec::as_slice);
        read_history(store, timeline, places, decode).await
    }
}

/// Reads the history of `timeline` from the first of these places, each with the suffix
/// of its codec, in which it can be read; as [`Timelines::history`].
pub async fn read_history(
    store: &dyn ObjectStore,
    timeline: TimelineId,
    places: &[(Key, String)],
    decode: impl Fn(&str, Box<dyn Read + Send>) -> io::Result<Box<dyn Read + Send>>,
) -> Result<Option<History>, StoreError> {
    for (key, suffix) in places {
        let (_, bytes) = store::get_all(store, key, MAX_HISTORY).await?;
        let text = decode(suffix, Box::new(io::Cursor::new(bytes))).and_then(read_bounded);
        // Only the reason, the end of a line, may be in another encoding.
        let history = text
            .map_err(|error| error.to_string())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .and_then(|text| History::parse(timeline, &text).map_err(|error| error.to_string()));
        match history {
            Ok(history) => return Ok(Some(history)),
            Err(error) => tracing::warn!("history file `{key}` cannot be read: {error}"),
        }
    }
    Ok(None)
}

fn read_bounded(reader: Box<dyn Read + Send>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(MAX_HISTORY + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_HISTORY {
        return Err(io::Error::other(format!(
            "it has more than {MAX_HISTORY} bytes"
        )));
    }
    Ok(bytes)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::info::Status;
    use std::sync::Arc;

    use crate::store::{Fault, FaultyStore, MemoryStore, StoreOp};

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

    /// Or a deletion would not know of it.
    #[tokio::test]
    async fn what_is_listed_and_said_not_to_be_there_is_not_left_out() {
        let memory = MemoryStore::new();
        memory.insert("p/main/base/A/backup.info", record(Status::Done));
        memory.insert("p/main/base/A/annotations/keep", "full");
        let faulty = FaultyStore::new(Arc::new(memory.clone()));
        let absent = Fault::Before(StoreErrorKind::NotFound);
        faulty.fail(StoreOp::Get, absent, u32::MAX);
        let entries = load(&faulty, &layout()).await.unwrap();
        assert_eq!(entries.len(), 1);
        assert!(entries[0].info.is_err());
        let error = read_keep(&faulty, &entries[0].keeps).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Corrupt);
        // What another process deleted meanwhile is gone.
        let listed = survey(&memory, &layout()).await.unwrap();
        let sizes: Vec<_> = listed.into_keys().map(|id| (id, 1)).collect();
        let keys = [Key::new("p/main/base/A/backup.info").unwrap()];
        memory.delete_batch(&keys).await.unwrap();
        let read = read_records(&memory, &layout(), sizes, drop).await;
        assert!(read.is_empty(), "{read:?}");
        let gone = [Key::new("p/main/base/B/annotations/keep").unwrap()];
        assert_eq!(read_keep(&memory, &gone).await.unwrap(), None);
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
        let newest = async || {
            let found = timelines(&store, &layout(), &[".gz"]).await.unwrap();
            found.newest()
        };
        assert_eq!(newest().await, None);
        store.insert("p/main/wals/junk", "");
        store.insert("p/main/wals/00000009/x", "");
        assert_eq!(newest().await, None);
        store.insert(
            "p/main/wals/0000000200000000/000000020000000000000001.gz",
            "",
        );
        assert_eq!(newest().await, Some(TimelineId(2)));
        store.insert("p/main/wals/00000003.history.gz", "1\t0/1\tx");
        assert_eq!(newest().await, Some(TimelineId(3)));
        store.insert("p/main/wals/00000004.history.foo", "1\t0/1\tx");
        assert_eq!(newest().await, Some(TimelineId(3)));
        store.insert("p/main/wals/00000002000000AB/x", "");
        let found = timelines(&store, &layout(), &[".gz"]).await.unwrap();
        assert_eq!(found.all(), [TimelineId(3), TimelineId(2)]);
        let directories: Vec<u32> = found.directories(TimelineId(2)).collect();
        assert_eq!(directories, [0, 0xAB]);
    }

    /// The history of timeline 10 in a store that holds `objects` below `wals/`;
    /// `.gz` doubles its input, so that it is seen to be used and can grow.
    async fn history_of(objects: &[(&str, &[u8])]) -> Option<History> {
        let store = MemoryStore::new();
        for (name, text) in objects {
            store.insert(&format!("p/main/wals/{name}"), text.to_vec());
        }
        let found = timelines(&store, &layout(), &["", ".gz"]).await.unwrap();
        let decode = |suffix: &str, mut input: Box<dyn Read + Send>| {
            let mut bytes = Vec::new();
            input.read_to_end(&mut bytes)?;
            let times = if suffix == ".gz" { 2 } else { 1 };
            let decoded: Box<dyn Read + Send> = Box::new(io::Cursor::new(bytes.repeat(times)));
            Ok(decoded)
        };
        let history = found.history(&store, TimelineId(10), decode).await;
        history.unwrap()
    }

    #[tokio::test]
    async fn a_history_is_read_through_its_codec_whatever_the_case_of_its_name() {
        let one = History::parse(TimelineId(10), "1 0/1").unwrap();
        assert_eq!(
            history_of(&[("0000000a.history", b"1 0/1")]).await,
            Some(one)
        );
        // Twice the same line is out of order.
        assert_eq!(
            history_of(&[("0000000A.history.gz", b"1 0/1\n")]).await,
            None
        );
        let empty = Some(History::of_first(TimelineId(10)));
        assert_eq!(history_of(&[("0000000A.history.gz", b"#\n")]).await, empty);
        assert_eq!(history_of(&[("0000000B.history", b"1 0/1")]).await, None);
    }

    #[tokio::test]
    async fn a_reason_in_another_encoding_does_not_hide_a_history() {
        let text = b"1\t0/1\tat restore point \"\xe9t\xe9\"\n";
        assert!(history_of(&[("0000000A.history", text)]).await.is_some());
    }

    #[tokio::test]
    async fn of_two_forms_the_one_that_can_be_read_counts() {
        let objects: [(&str, &[u8]); 2] = [
            ("0000000A.history", b"damaged"),
            ("0000000A.history.gz", b"#\n"),
        ];
        assert!(history_of(&objects).await.is_some());
    }

    #[tokio::test]
    async fn a_history_that_unpacks_to_more_than_the_bound_is_not_read() {
        let comment = vec![b'#'; usize::try_from(MAX_HISTORY).unwrap()];
        assert!(
            history_of(&[("0000000A.history", &comment)])
                .await
                .is_some()
        );
        assert!(
            history_of(&[("0000000A.history.gz", &comment)])
                .await
                .is_none()
        );
    }
}
