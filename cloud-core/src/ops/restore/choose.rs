//! Which backup is to be restored.

use std::sync::Arc;

use jiff::tz::TimeZone;

use super::{RecoveryTarget, RestoreRequest};
use crate::catalogue::info::{BackupInfo, Status};
use crate::catalogue::layout::{BackupId, Layout};
use crate::catalogue::load::{self, Entry, LoadError};
use crate::catalogue::select::{self, Among, Candidate, SelectError, Target, TargetTimeline};
use crate::catalogue::time::Timestamp;
use crate::codec;
use crate::ops::{OpError, OpErrorKind, chain};
use crate::store::ObjectStore;

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
        automatic(store, layout, &request.recovery_target, &catalogue).await?
    } else {
        select::by_word(
            &request.backup,
            Among::Complete,
            &catalogue,
            &request.server,
        )
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

/// The backup that `auto` stands for.
async fn automatic<'a>(
    store: &Arc<dyn ObjectStore>,
    layout: &Layout,
    wanted: &RecoveryTarget,
    catalogue: &[Candidate<'a>],
) -> Result<Result<&'a BackupId, SelectError>, OpError> {
    let general = |text: String| OpError::new(OpErrorKind::General, text);
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
    let mut target = Target {
        timeline: None,
        time: time.transpose()?,
        lsn: lsn.transpose()?,
    };
    let Some(text) = wanted.timeline.as_deref() else {
        return Ok(select::for_target(&target, catalogue, None));
    };
    let timeline: TargetTimeline = text
        .parse()
        .map_err(|error| general(format!("Invalid target timeline: {error}")))?;
    let timelines = load::timelines(store.as_ref(), layout, &codec::suffixes()).await;
    let timelines = timelines.map_err(|error| OpError::of_store(&error))?;
    let timeline = match timeline.resolve(timelines.newest(), catalogue) {
        Ok(timeline) => timeline,
        Err(error) => return Ok(Err(error)),
    };
    let decode = |suffix: &str, bytes| {
        codec::by_suffix(suffix)
            .unwrap_or(&codec::None)
            .decoder(bytes)
    };
    let history = timelines.history(store.as_ref(), timeline, decode).await;
    let history = history.map_err(|error| OpError::of_store(&error))?;
    target.timeline = Some(timeline);
    Ok(select::for_target(&target, catalogue, history.as_ref()))
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
