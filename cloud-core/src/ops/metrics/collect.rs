//! Looking at one server: what is asked of the store.
//!
//! Listings tell what changed. A record, an annotation or a history that is listed as it was is
//! not read again, so that from the second look on a server costs its listings alone.
//!
//! WAL is listed before base backups. A backup that was deleted meanwhile, with its WAL, is
//! then not in the list of those that need it, and one that was taken meanwhile seems to wait for
//! its WAL; the other way round a deletion would look like a loss.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::reach::{Archive, Candidate, Reach};
use super::snapshot::{Backup, Backups, Snapshot, Unreadable, Wal};
use super::wal::{Listing, places};
use crate::catalogue::info::{BackupInfo, Status};
use crate::catalogue::keep::Keep;
use crate::catalogue::layout::{BackupId, Layout};
use crate::catalogue::load::{self, Listed, LoadError};
use crate::catalogue::wal_cleanup::is_live;
use crate::codec;
use crate::ops::{OpError, chain, gaps, lookup};
use crate::store::{ObjectMeta, ObjectStore, StoreError};
use crate::wal::{History, SegmentSize, TimelineId};

/// Records that cannot be read and are named.
const NAMED: usize = 10;

/// Histories that are read: those of the newest timelines.
const MOST_HISTORIES: usize = 100;

/// Longest text of an error that is kept, in characters.
const MAX_ERROR: usize = 300;

/// The statuses that are told even of nobody, in the words of the series.
const USUAL: [&str; 4] = ["done", "failed", "started", "unreadable"];

/// A server, and what earlier looks at it brought.
#[derive(Debug)]
pub(super) struct Collector {
    layout: Layout,
    backups: BTreeMap<BackupId, Known>,
    histories: BTreeMap<TimelineId, (Vec<ObjectMeta>, Option<History>)>,
}

/// A base backup.
#[derive(Debug)]
struct Known {
    record: ObjectMeta,
    info: Result<BackupInfo, String>,
    keeps: Vec<ObjectMeta>,
    keep: Option<Keep>,
    listed: Listed,
}

impl Collector {
    /// For a server below the path of a URL. Wrong names are a usage error.
    pub(super) fn new(path: &str, server: &str) -> Result<Self, OpError> {
        Ok(Self {
            layout: lookup::layout(path, server)?,
            backups: BTreeMap::new(),
            histories: BTreeMap::new(),
        })
    }

    /// Looks once.
    pub(super) async fn look(&mut self, store: &Arc<dyn ObjectStore>) -> Result<Snapshot, OpError> {
        let store = store.as_ref();
        let (listing, missing) = tokio::join!(
            Listing::read(store, &self.layout),
            gaps::find(store, &self.layout)
        );
        let listing = listing.map_err(|error| OpError::of_store(&error))?;
        self.read_backups(store).await?;
        let histories = self.read_histories(store, &listing).await;
        let histories = histories.map_err(|error| OpError::of_store(&error))?;
        let size = self.segment_size();
        let segments = listing.numbered(size);
        let live = self.live();
        let archive = Archive {
            segments: &segments,
            histories: &histories,
        };
        let mut reach = archive.reach(&live);
        let known = || live.iter().map(|one| (one.id, one.info));
        let concerns = missing.iter().filter_map(|gap| {
            let concern = gap.concern(known())?;
            Some(format!("{}; {concern}", gap.what()))
        });
        reach.recovery.let_go = concerns.collect();
        let waiting = reach.waiting.and_then(|at| live.get(at));
        reach.recovery.waiting = waiting.and_then(|one| {
            let known = self.backups.get(one.id)?;
            Some(told(one.id, known, one.info))
        });
        let mut timelines = listing.summary(&segments, size);
        for (timeline, (holes, missing)) in &reach.gaps {
            let told = timelines.entry(*timeline).or_default();
            (told.gaps, told.missing) = (*holes, *missing);
        }
        let backups = self.backups(&live, &reach);
        Ok(Snapshot {
            taken: Timestamp::now(),
            backups,
            wal: Wal {
                timelines,
                last_archived: listing.last_archived,
            },
            recovery: reach.recovery,
        })
    }

    /// Lists the base backups, and reads what is new or changed.
    async fn read_backups(&mut self, store: &dyn ObjectStore) -> Result<(), OpError> {
        let found = load::survey(store, &self.layout).await;
        let found = found.map_err(|error| OpError::of_store(&error))?;
        let mut known = std::mem::take(&mut self.backups);
        let mut all = BTreeMap::new();
        let mut wanted = Vec::new();
        for (id, listed) in found {
            let Some(record) = listed.record.clone() else {
                continue;
            };
            match known.remove(&id) {
                Some(mut was) if same(&was.record, &record) => {
                    was.listed = listed;
                    self.backups.insert(id, was);
                }
                _ => {
                    wanted.push((id.clone(), record.size));
                    all.insert(id, (record, listed));
                }
            }
        }
        let read = load::read_records(store, &self.layout, wanted, without_texts).await;
        for (id, info) in read {
            let Some((record, listed)) = all.remove(&id) else {
                continue;
            };
            let (info, record) = match info {
                Ok(info) => (Ok(info), record),
                Err(LoadError::Store(error)) if error.kind.is_unreachable() => {
                    return Err(OpError::of_store(&error));
                }
                // Who may read it the next time does, whatever the listing says.
                Err(error @ LoadError::Store(_)) => (Err(cut(&chain(&error))), unknown(record)),
                Err(error) => (Err(cut(&chain(&error))), record),
            };
            let known = Known {
                record,
                info,
                keeps: Vec::new(),
                keep: None,
                listed,
            };
            self.backups.insert(id, known);
        }
        let read = self.read_keeps(store).await;
        read.map_err(|error| OpError::of_store(&error))
    }

    /// Reads the annotations that are new or changed.
    async fn read_keeps(&mut self, store: &dyn ObjectStore) -> Result<(), StoreError> {
        let changed = self.backups.values_mut().filter(|known| {
            let (was, is) = (&known.keeps, &known.listed.keeps);
            was.len() != is.len() || was.iter().zip(is).any(|(was, is)| !same(was, is))
        });
        let changed: Vec<_> = changed.collect();
        let keys: Vec<Vec<_>> = changed
            .iter()
            .map(|known| {
                let keeps = known.listed.keeps.iter();
                keeps.map(|object| object.key.clone()).collect()
            })
            .collect();
        let keeps = load::read_keeps(store, keys.iter().map(Vec::as_slice)).await?;
        for (known, keep) in changed.into_iter().zip(keeps) {
            known.keep = keep;
            known.keeps.clone_from(&known.listed.keeps);
        }
        Ok(())
    }

    /// The histories of the timelines that are newer than the oldest available backup's.
    async fn read_histories(
        &mut self,
        store: &dyn ObjectStore,
        listing: &Listing,
    ) -> Result<BTreeMap<TimelineId, Option<History>>, StoreError> {
        let timelines = self.live().into_iter();
        let timelines = timelines.filter_map(|one| Some(one.info.needed_wal()?.1.timeline));
        let Some(oldest) = timelines.min() else {
            return Ok(BTreeMap::new());
        };
        let decode = |suffix: &str, bytes| {
            let codec = codec::by_suffix(suffix).unwrap_or(&codec::None);
            codec.decoder(bytes)
        };
        let mut now = BTreeMap::new();
        let later = listing
            .timelines()
            .take_while(|timeline| *timeline > oldest);
        for timeline in later.take(MOST_HISTORIES) {
            let found = listing.histories(timeline);
            let objects: Vec<_> = found.iter().map(|(object, _)| object.clone()).collect();
            let known = self.histories.remove(&timeline).filter(|(was, _)| {
                was.len() == objects.len() && was.iter().zip(&objects).all(|(a, b)| same(a, b))
            });
            let history = match known {
                Some((_, history)) => history,
                None => load::read_history(store, timeline, &places(found), decode).await?,
            };
            now.insert(timeline, (objects, history));
        }
        self.histories = now;
        let histories = self.histories.iter();
        Ok(histories
            .map(|(id, (_, history))| (*id, history.clone()))
            .collect())
    }

    /// The size of segments that the newest record tells.
    fn segment_size(&self) -> SegmentSize {
        let infos = self.backups.values().rev();
        let sizes = infos.filter_map(|known| {
            let info = known.info.as_ref().ok()?;
            info.begin_wal.as_ref()?;
            SegmentSize::new(info.xlog_segment_size)
        });
        sizes.into_iter().next().unwrap_or(SegmentSize::DEFAULT)
    }

    /// The backups that are available.
    fn live(&self) -> Vec<Candidate<'_>> {
        let readable = self.backups.iter().filter_map(|(id, known)| {
            let info = known.info.as_ref().ok()?;
            let standalone = known.keep.as_ref().is_some_and(Keep::is_standalone);
            is_live(info).then_some(Candidate {
                id,
                info,
                standalone,
            })
        });
        readable.collect()
    }

    fn backups(&self, live: &[Candidate<'_>], reach: &Reach) -> Backups {
        let mut backups = Backups {
            by_status: USUAL.map(|status| (status, 0)).into(),
            kept: ["full", "standalone"].map(|target| (target, 0)).into(),
            available: live.len() as u64,
            restorable: reach.restorable.iter().filter(|whole| **whole).count() as u64,
            ..Backups::default()
        };
        for (id, known) in &self.backups {
            let stored = known.listed.stored_bytes;
            backups.stored_bytes = backups.stored_bytes.saturating_add(stored);
            if let Some(keep) = &known.keep {
                let target = if keep.is_standalone() {
                    "standalone"
                } else {
                    "full"
                };
                *backups.kept.entry(target).or_default() += 1;
            }
            let info = match &known.info {
                Ok(info) => info,
                Err(why) => {
                    *backups.by_status.entry("unreadable").or_default() += 1;
                    if backups.unreadable.len() < NAMED {
                        backups.unreadable.push(Unreadable {
                            id: id.to_string(),
                            why: why.clone(),
                        });
                    }
                    continue;
                }
            };
            let backup = told(id, known, info);
            *backups.by_status.entry(backup.status).or_default() += 1;
            if is_live(info) {
                *backups.by_codec.entry(backup.codec).or_default() += 1;
                later(&mut backups.last_good, &backup, Backup::time);
            } else if info.status == Status::Failed {
                later(&mut backups.last_failed, &backup, order);
            }
            later(&mut backups.newest, &backup, order);
        }
        backups
    }
}

/// Puts `backup` in place unless what is there is later.
fn later<T: PartialOrd>(place: &mut Option<Backup>, backup: &Backup, by: fn(&Backup) -> T) {
    if place.as_ref().is_none_or(|there| by(there) <= by(backup)) {
        *place = Some(backup.clone());
    }
}

/// Where a backup stands in the order in which they began: that of ids, which are local times. A
/// backup whose start failed has no other time in its record. Of an id in another form the
/// record's time stands in, if there is one.
fn order(backup: &Backup) -> Option<DateTime> {
    let of_id = || DateTime::strptime("%Y%m%dT%H%M%S", &backup.id).ok();
    let of_record = || Some(TimeZone::UTC.to_datetime(backup.began?));
    let is_canonical = BackupId::is_canonical(&backup.id);
    is_canonical.then(of_id).flatten().or_else(of_record)
}

/// What is told of a backup.
fn told(id: &BackupId, known: &Known, info: &BackupInfo) -> Backup {
    let ended = info.end_time.map(|time| time.instant());
    // If the very start failed, the record was written at that moment, and tells no time itself.
    let written = known.record.modified.filter(|_| ended.is_none());
    let written = written.and_then(|at| Timestamp::try_from(at).ok());
    Backup {
        id: id.to_string(),
        name: info.backup_name.clone(),
        status: match &info.status {
            Status::Empty => "empty",
            Status::Started => "started",
            Status::Done => "done",
            Status::Failed => "failed",
            Status::Other(word) if word == "WAITING_FOR_WALS" => "waiting_for_wals",
            // Whatever a bucket says, the words are few.
            Status::Other(_) => "other",
        },
        codec: codec_of(&known.listed, info),
        began: info.begin_time.map(|time| time.instant()).or(written),
        ended,
        stored_bytes: known.listed.stored_bytes,
        original_bytes: info.cluster_size.or(info.size),
        version: info.version,
        error: info.error.as_deref().map(cut),
    }
}

fn codec_of(listed: &Listed, info: &BackupInfo) -> &'static str {
    let mut suffixes = listed.suffixes.iter();
    match (suffixes.next(), suffixes.next()) {
        (None, _) if info.snapshots_info.is_some() => "snapshot",
        (None, _) => "unknown",
        (Some(suffix), None) => {
            codec::by_suffix(suffix).map_or("unknown", |codec| codec.info().name)
        }
        (Some(_), Some(_)) => "mixed",
    }
}

/// The record without its long texts, which nobody asks for.
fn without_texts(info: BackupInfo) -> BackupInfo {
    BackupInfo {
        backup_label: None,
        copy_stats: None,
        included_files: Vec::new(),
        tablespaces: Vec::new(),
        unknown_fields: Vec::new(),
        backup_name: info.backup_name.as_deref().map(cut),
        error: info.error.as_deref().map(cut),
        snapshots_info: info
            .snapshots_info
            .map(|_| crate::catalogue::literal::Literal::Bool(true)),
        ..info
    }
}

/// One line of bounded length.
fn cut(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().take(MAX_ERROR).map(plain).collect()
}

/// Whether a listing shows an object as it was.
fn same(was: &ObjectMeta, is: &ObjectMeta) -> bool {
    let dated = is.version.is_some() || is.modified.is_some();
    dated
        && (&was.key, was.size, &was.version, was.modified)
            == (&is.key, is.size, &is.version, is.modified)
}

/// As if nothing were known of when it was written.
fn unknown(object: ObjectMeta) -> ObjectMeta {
    ObjectMeta {
        version: None,
        modified: None,
        ..object
    }
}
