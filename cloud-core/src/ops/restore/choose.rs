//! Which backup is to be restored.

use std::io::{Cursor, Read};
use std::sync::Arc;

use jiff::tz::TimeZone;

use super::{RecoveryTarget, RestoreRequest};
use crate::catalogue::info::{BackupInfo, Status};
use crate::catalogue::layout::{BackupId, Layout};
use crate::catalogue::load::{self, Entry, LoadError};
use crate::catalogue::select::{self, Candidate, SelectError, Target};
use crate::catalogue::time::Timestamp;
use crate::codec;
use crate::ops::{OpError, OpErrorKind, chain};
use crate::store::ObjectStore;
use crate::wal::TimelineId;

/// Largest plain history file, in bytes.
const MAX_HISTORY: u64 = 1 << 20;

/// Finds the backup that the request means, and checks that it may be restored.
pub(super) async fn choose(
    store: &Arc<dyn ObjectStore>,
    layout: &Layout,
    request: &RestoreRequest,
) -> Result<(BackupId, BackupInfo), OpError> {
    let text = request.backup.as_str();
    let by_id = BackupId::is_canonical(text)
        .then(|| BackupId::new(text))
        .flatten();
    let (id, info) = match by_id {
        Some(id) => {
            let info = load::load_one(store.as_ref(), layout, &id).await;
            let info = info.map_err(|error| load_failed(&id, &error))?;
            (id, info)
        }
        None => by_catalogue(store, layout, request).await?,
    };
    let Some(info) = info else {
        let message = format!("Backup {id} for server {} does not exists", request.server);
        return Err(OpError::new(OpErrorKind::Failed, message));
    };
    if info.status == Status::Done {
        return Ok((id, info));
    }
    if request.allow_incomplete && BackupId::is_canonical(text) {
        tracing::warn!(
            "backup {id} has status {}: what is restored may not be usable",
            info.status
        );
        return Ok((id, info));
    }
    let message = format!(
        "Backup {id} for server {} has status {}: it is not complete and is not restored",
        request.server, info.status
    );
    Err(OpError::new(OpErrorKind::Failed, message)
        .with_hint("choose another backup, or give this one by its id with --allow-incomplete"))
}

async fn by_catalogue(
    store: &Arc<dyn ObjectStore>,
    layout: &Layout,
    request: &RestoreRequest,
) -> Result<(BackupId, Option<BackupInfo>), OpError> {
    let entries = load::load(store.as_ref(), layout).await;
    let entries = entries.map_err(|error| OpError::of_store(&error))?;
    let catalogue = readable(&entries)?;
    let id = if request.backup == "auto" {
        let target = target(store, layout, &request.recovery_target, &catalogue).await?;
        let histories = match target.timeline {
            None => std::collections::BTreeMap::new(),
            Some(_) => load::histories(store.as_ref(), layout, &codec::suffixes(), decode)
                .await
                .map_err(|error| OpError::of_store(&error))?,
        };
        select::for_target(&target, &catalogue, &histories)
    } else {
        select::by_word(&request.backup, &catalogue, &request.server)
    };
    let id = id.map_err(|error| {
        let kind = match error {
            SelectError::NoCandidate => OpErrorKind::Failed,
            SelectError::Unknown { .. } | SelectError::Ambiguous { .. } => OpErrorKind::General,
        };
        OpError::new(kind, error.to_string())
    })?;
    let info = catalogue
        .iter()
        .find(|(other, _)| *other == id)
        .map(|(_, info)| (*info).clone());
    Ok((id.clone(), info))
}

/// The entries that can be read. One that the store does not deliver ends the
/// search, because it might be the one that is meant; one that makes no sense
/// is named and left out.
fn readable(entries: &[Entry]) -> Result<Vec<Candidate<'_>>, OpError> {
    let mut catalogue = Vec::with_capacity(entries.len());
    for Entry { id, info } in entries {
        match info {
            Ok(info) => catalogue.push((id, info)),
            Err(LoadError::Store(error)) => return Err(OpError::of_store(error)),
            Err(error) => tracing::warn!("Unable to open backup.info file for {id}: {error}"),
        }
    }
    Ok(catalogue)
}

/// What `auto` has to be good for.
async fn target(
    store: &Arc<dyn ObjectStore>,
    layout: &Layout,
    wanted: &RecoveryTarget,
    catalogue: &[Candidate<'_>],
) -> Result<Target, OpError> {
    let general = |text: String| OpError::new(OpErrorKind::General, text);
    let timeline = match wanted.timeline.as_deref() {
        None => None,
        // The timeline of the server that took the newest backup.
        Some("current") => {
            let done = |(_, info): &&Candidate<'_>| info.status == Status::Done;
            let newest = catalogue.iter().rfind(done);
            newest.and_then(|(_, info)| info.timeline).map(TimelineId)
        }
        Some("latest") => {
            let newest = load::newest_timeline(store.as_ref(), layout, &codec::suffixes()).await;
            newest.map_err(|error| OpError::of_store(&error))?
        }
        Some(number) => {
            let number = number.parse().ok().filter(|number| *number > 0);
            let number = number.ok_or_else(|| general(format!("`{number:?}` is no timeline")))?;
            Some(TimelineId(number))
        }
    };
    if timeline.is_none() && wanted.timeline.is_some() {
        // The archive knows no timeline at all, so there is none to follow.
        return Err(OpError::new(
            OpErrorKind::Failed,
            SelectError::NoCandidate.to_string(),
        ));
    }
    let time = wanted.time.as_deref().map(|text| {
        Timestamp::parse(text, &TimeZone::system()).map_err(|error| {
            general(format!(
                "Unable to parse the target time parameter '{text}': {error}"
            ))
        })
    });
    let lsn = wanted.lsn.as_deref().map(|text| {
        text.parse().map_err(|error| {
            general(format!(
                "Unable to parse the target LSN parameter '{text}': {error}"
            ))
        })
    });
    Ok(Target {
        timeline,
        time: time.transpose()?,
        lsn: lsn.transpose()?,
    })
}

fn decode(suffix: &str, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let codec = codec::by_suffix(suffix).unwrap_or(&codec::None);
    let mut plain = Vec::new();
    let decoder = codec.decoder(Box::new(Cursor::new(bytes.to_vec())))?;
    decoder.take(MAX_HISTORY).read_to_end(&mut plain)?;
    Ok(plain)
}

fn load_failed(id: &BackupId, error: &LoadError) -> OpError {
    match error {
        LoadError::Store(error) => OpError::of_store(error),
        LoadError::Malformed(_) => OpError::new(
            OpErrorKind::General,
            format!("Unable to open backup.info file for {id}: {}", chain(error)),
        ),
    }
}
