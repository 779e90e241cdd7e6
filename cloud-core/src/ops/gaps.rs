//! What the archive says of WAL that was let go, for those who answer for the archive.
//!
//! There is nothing, as a rule: one listing that finds nothing, beside the others. It is
//! never a reason to fail: who may not look there, or cannot, is told less.
//!
//! A segment that was let go may be in the archive all the same: somebody had a copy, or
//! the store had taken it after all. Such a gap begins later, or is none.

use std::collections::BTreeSet;

use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use tracing::{debug, warn};

use super::chain;
use crate::catalogue::gap::{Extent, Gap, Harm, harm};
use crate::catalogue::info::BackupInfo;
use crate::catalogue::layout::{BackupId, Layout};
use crate::catalogue::load::wal_of_key;
use crate::codec;
use crate::key::{Key, Prefix};
use crate::store::{self, Depth, ObjectStore, StoreError, StoreErrorKind};
use crate::wal::{SegmentSize, WalKind, WalName};

/// Most gaps that are looked at; whoever has more has other worries.
const MOST: usize = 1000;

/// Most names that are looked at to find them: nothing else lies there.
const MOST_NAMES: usize = 100_000;

/// Texts read at the same time.
const CONCURRENCY: usize = 8;

/// Most bytes of a text.
const MAX_TEXT: u64 = 64 << 10;

/// WAL that is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Missing {
    /// Who says so.
    pub(super) key: Key,
    /// What is missing.
    pub(super) extent: Extent,
    /// The cluster, if that is known.
    system: Option<u64>,
    /// When it was let go, first and last.
    times: Option<(Timestamp, Timestamp)>,
}

/// All objects that say of a gap, and what each of them says by its name.
pub(super) async fn names(
    store: &dyn ObjectStore,
    layout: &Layout,
) -> Result<Vec<(Key, Extent)>, StoreError> {
    let directory = layout.gaps();
    let mut found = Vec::new();
    let mut pages = store.list(&directory, Depth::One);
    let mut seen = 0;
    while let Some(page) = pages.next().await {
        let page = page?;
        seen += page.objects.len() + page.prefixes.len();
        for object in page.objects {
            let name = object.key.strip_prefix(&directory);
            if let Some(extent) = name.and_then(Extent::of_name) {
                found.push((object.key, extent));
            }
        }
        if found.len() >= MOST {
            break;
        }
        if seen > MOST_NAMES {
            return Err(store::endless(store, &directory, MOST_NAMES));
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// The WAL that is missing, in the order of its names.
pub(super) async fn find(store: &dyn ObjectStore, layout: &Layout) -> Vec<Missing> {
    let names = match names(store, layout).await {
        Ok(names) => names,
        Err(error) if error.kind == StoreErrorKind::PermissionDenied => {
            debug!(
                "whether WAL was let go cannot be looked up: {}",
                chain(&error)
            );
            return Vec::new();
        }
        Err(error) => {
            warn!("whether WAL was let go cannot be told: {}", chain(&error));
            return Vec::new();
        }
    };
    let mut found: Vec<(Missing, Option<SegmentSize>)> = stream::iter(names)
        .map(|(key, extent)| read(store, key, extent))
        .buffered(CONCURRENCY)
        .collect()
        .await;
    // A run may have gone on while the archive was told of its beginning.
    let all: Vec<_> = found
        .iter()
        .map(|(missing, _)| (missing.extent.clone(), missing.system))
        .collect();
    let mut seen = BTreeSet::new();
    found.retain(|(missing, _)| {
        let (extent, system) = (&missing.extent, missing.system);
        let within = |(other, of): &(Extent, Option<u64>)| {
            *of == system && other != extent && other.covers(extent)
        };
        !all.iter().any(within) && seen.insert((extent.clone(), system))
    });
    let mut missing = Vec::new();
    for (gap, size) in found {
        if let Some(gap) = still_missing(store, layout, gap, size).await {
            missing.push(gap);
        }
    }
    missing.sort_by(|one, other| one.extent.cmp(&other.extent));
    missing
}

/// What the object says; if it cannot be read, what its name says.
async fn read(store: &dyn ObjectStore, key: Key, extent: Extent) -> (Missing, Option<SegmentSize>) {
    let text = store::get_all(store, &key, MAX_TEXT).await;
    let text = text.inspect_err(|error| debug!("{}", chain(error))).ok();
    let gap = text.and_then(|(_, bytes)| Gap::parse(&String::from_utf8_lossy(&bytes)));
    let gap = gap.as_ref();
    let missing = Missing {
        key,
        extent,
        system: gap.and_then(|gap| gap.system),
        times: gap.map(|gap| (gap.since, gap.until)),
    };
    (missing, gap.map(|gap| gap.segment_size))
}

/// The gap without what its beginning has lost by being archived after all. One look
/// for its first segment, as a rule.
async fn still_missing(
    store: &dyn ObjectStore,
    layout: &Layout,
    gap: Missing,
    size: Option<SegmentSize>,
) -> Option<Missing> {
    let (Extent::Segments(first, last), Some(size)) = (gap.extent.clone(), size) else {
        return Some(gap);
    };
    let mut archived = archived_segments(store, &layout.wal_in_any_form(&first)).await;
    let mut name = first;
    let mut looked_in = None;
    while archived.contains(name.as_str()) {
        if name == last {
            debug!("what `{}` says is missing was archived after all", gap.key);
            return None;
        }
        name = name.next(size)?;
        let directory = layout.wal_dir(&name);
        if looked_in.as_ref() != Some(&directory) {
            archived = archived_segments(store, &directory).await;
            looked_in = Some(directory);
        }
    }
    Some(Missing {
        extent: Extent::Segments(name, last),
        ..gap
    })
}

/// The whole segments whose keys begin so. None if they cannot be listed: then all
/// counts as missing.
async fn archived_segments(store: &dyn ObjectStore, prefix: &Prefix) -> BTreeSet<String> {
    let page = match store::list_all(store, prefix, Depth::One).await {
        Ok(page) => page,
        Err(error) => {
            debug!("{}", chain(&error));
            return BTreeSet::new();
        }
    };
    let suffixes = codec::suffixes();
    let names = page.objects.iter().filter_map(|object| {
        let (name, _): (WalName, _) = wal_of_key(object.key.base_name(), &suffixes)?;
        (name.kind() == WalKind::Segment).then(|| name.as_str().to_ascii_uppercase())
    });
    names.collect()
}

impl Missing {
    /// What it means for one backup.
    pub(super) fn harm(&self, info: &BackupInfo) -> Option<Harm> {
        harm(info, &self.extent, self.system)
    }

    /// What is missing, in words.
    pub(super) fn what(&self) -> String {
        let segments = match &self.extent {
            Extent::Segments(first, last) if first == last => format!("WAL segment {first}"),
            Extent::Segments(first, last) => format!("WAL from {first} to {last}"),
            Extent::Before(time) => {
                return format!(
                    "WAL that was let go before {time} is missing, which of it is not known"
                );
            }
        };
        let times = self.times.map_or(String::new(), |(since, until)| {
            if since == until {
                format!(" at {since}")
            } else {
                format!(" between {since} and {until}")
            }
        });
        format!("{segments} is missing: --queue-max let it go{times}")
    }

    /// Which of the backups it concerns, in words; `None` if none of them.
    pub(super) fn concern<'a>(
        &self,
        backups: impl Iterator<Item = (&'a BackupId, &'a BackupInfo)>,
    ) -> Option<String> {
        let (mut stopped, mut unusable) = (Vec::new(), Vec::new());
        for (id, info) in backups {
            match self.harm(info) {
                Some(Harm::StopsBefore) => stopped.push(id.as_str()),
                Some(Harm::Unusable) => unusable.push(id.as_str()),
                None => {}
            }
        }
        let mut texts = Vec::new();
        if !stopped.is_empty() {
            let ids = stopped.join(", ");
            texts.push(match &self.extent {
                Extent::Segments(first, _) => format!("recovery from {ids} stops before {first}"),
                Extent::Before(_) => {
                    format!("recovery from {ids} may stop anywhere before that time")
                }
            });
        }
        if !unusable.is_empty() {
            texts.push(format!(
                "{} cannot be restored without it",
                unusable.join(", ")
            ));
        }
        (!texts.is_empty()).then(|| texts.join("; "))
    }
}

#[cfg(test)]
mod tests;
