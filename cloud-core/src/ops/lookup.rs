//! Finding the base backup that a word on the command line means.

use super::{OpError, OpErrorKind, chain};
use crate::catalogue::info::BackupInfo;
use crate::catalogue::layout::{BackupId, Layout};
use crate::catalogue::load::{self, Entry, LoadError};
use crate::catalogue::select::{self, Among, Candidate, SelectError};
use crate::store::ObjectStore;

/// The keys of a server.
pub(super) fn layout(path: &str, server: &str) -> Result<Layout, OpError> {
    Layout::new(path, server).map_err(|error| OpError::new(OpErrorKind::Usage, error.to_string()))
}

/// The record of one backup; `None` if it has none.
pub(super) async fn record(
    store: &dyn ObjectStore,
    layout: &Layout,
    id: &BackupId,
) -> Result<Option<BackupInfo>, OpError> {
    let info = load::load_one(store, layout, id).await;
    info.map_err(|error| match &error {
        LoadError::Store(error) => OpError::of_store(error),
        LoadError::Malformed(_) => OpError::new(OpErrorKind::General, unreadable(id, &error)),
    })
}

/// The entries that can be read. One that the store does not deliver ends the
/// search, because it might be the one that is meant; one that makes no sense
/// is named and left out.
pub(super) fn readable(entries: &[Entry]) -> Result<Vec<Candidate<'_>>, OpError> {
    let mut catalogue = Vec::with_capacity(entries.len());
    for entry in entries {
        match &entry.info {
            Ok(info) => catalogue.push((&entry.id, info)),
            Err(LoadError::Store(error)) => return Err(OpError::of_store(error)),
            Err(error) => tracing::warn!("{}", unreadable(&entry.id, error)),
        }
    }
    Ok(catalogue)
}

/// Names the entries that cannot be read in the log, and gives their ids. A store
/// that cannot be reached makes all of them doubtful, and is an error.
pub(super) fn name_unreadable(entries: &[Entry]) -> Result<Vec<&BackupId>, OpError> {
    let mut ids = Vec::new();
    for entry in entries {
        let Err(error) = &entry.info else { continue };
        if let LoadError::Store(error) = error
            && error.kind.is_unreachable()
        {
            return Err(OpError::of_store(error));
        }
        tracing::warn!("{}", unreadable(&entry.id, error));
        ids.push(&entry.id);
    }
    Ok(ids)
}

/// Names the entries whose records contradict themselves in the log, and gives
/// their ids.
pub(super) fn name_contradictory(entries: &[Entry]) -> Vec<&BackupId> {
    let contradictory = entries.iter().filter_map(|entry| {
        let why = entry.info.as_ref().ok()?.contradiction()?;
        let id = &entry.id;
        tracing::warn!("The backup.info file for {id} contradicts itself: {why}");
        Some(id)
    });
    contradictory.collect()
}

/// The sentence for a record that cannot be read.
fn unreadable(id: &BackupId, error: &LoadError) -> String {
    format!("Unable to open backup.info file for {id}: {}", chain(error))
}

/// Why no backup was found.
pub(super) fn not_found(error: &SelectError) -> OpError {
    let kind = match error {
        SelectError::NoCandidate => OpErrorKind::Failed,
        SelectError::Unknown { .. } | SelectError::Ambiguous { .. } => OpErrorKind::General,
    };
    OpError::new(kind, error.to_string())
}

/// The backup that an id, a shortcut or a name means. An id is taken as it is, without a
/// look whether it exists.
pub(super) async fn by_text(
    store: &dyn ObjectStore,
    layout: &Layout,
    text: &str,
    server: &str,
    among: Among,
) -> Result<BackupId, OpError> {
    if let Some(id) = id_of(text) {
        return Ok(id);
    }
    let entries = load::load(store, layout).await;
    let entries = entries.map_err(|error| OpError::of_store(&error))?;
    let catalogue = readable(&entries)?;
    let id = select::by_word(text, among, &catalogue, server);
    id.cloned().map_err(|error| not_found(&error))
}

/// The id that a text is, if it has the form of one.
pub(super) fn id_of(text: &str) -> Option<BackupId> {
    BackupId::is_canonical(text)
        .then(|| BackupId::new(text))
        .flatten()
}
