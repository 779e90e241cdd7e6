//! Which backup is to be restored.

use std::sync::Arc;

use jiff::tz::TimeZone;

use super::{RecoveryTarget, RestoreRequest};
use crate::catalogue::info::{BackupInfo, Status};
use crate::catalogue::layout::{BackupId, Layout};
use crate::catalogue::load;
use crate::catalogue::select::{self, Among, Candidate, SelectError, Target, TargetTimeline};
use crate::catalogue::time::Timestamp;
use crate::codec;
use crate::ops::{OpError, OpErrorKind, lookup};
use crate::store::ObjectStore;

/// Finds the backup that the request means, and checks that it may be restored.
pub(super) async fn choose(
    store: &Arc<dyn ObjectStore>,
    layout: &Layout,
    request: &RestoreRequest,
) -> Result<(BackupId, BackupInfo), OpError> {
    let text = request.backup.as_str();
    let (id, info) = match lookup::id_of(text) {
        Some(id) => {
            let info = lookup::record(store.as_ref(), layout, &id).await?;
            (id, info)
        }
        None => by_catalogue(store, layout, request).await?,
    };
    let Some(info) = info else {
        let message = format!("Backup {id} for server {} does not exists", request.server);
        let hint = lookup::instead_of(store.as_ref(), layout, text, Vec::new()).await;
        return Err(OpError::new(OpErrorKind::Failed, message).with_hint(hint));
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
    let catalogue = lookup::readable(&entries)?;
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
    let id = match id {
        Ok(id) => id,
        Err(error) => {
            return Err(lookup::not_found(store.as_ref(), layout, &error, &catalogue).await);
        }
    };
    let info = catalogue
        .iter()
        .find(|(other, _)| *other == id)
        .map(|(_, info)| (*info).clone());
    Ok((id.clone(), info))
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
