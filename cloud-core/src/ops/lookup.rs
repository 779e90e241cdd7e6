//! Finding the base backup that a word on the command line means.

use futures_util::StreamExt;

use super::{OpError, OpErrorKind, chain, near};
use crate::catalogue::info::BackupInfo;
use crate::catalogue::layout::{BackupId, Layout};
use crate::catalogue::load::{self, Entry, LoadError};
use crate::catalogue::select::{self, Among, Candidate, SelectError};
use crate::key::Prefix;
use crate::store::{Depth, ObjectStore};

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
        tracing::warn!("the backup.info file for {id} contradicts itself: {why}");
        Some(id)
    });
    contradictory.collect()
}

/// The sentence for a record that cannot be read.
fn unreadable(id: &BackupId, error: &LoadError) -> String {
    format!("Unable to open backup.info file for {id}: {}", chain(error))
}

/// Why no backup was found, and what may have been meant.
pub(super) async fn not_found(
    store: &dyn ObjectStore,
    layout: &Layout,
    error: &SelectError,
    catalogue: &[Candidate<'_>],
) -> OpError {
    let text = error.to_string();
    match error {
        SelectError::NoCandidate => OpError::new(OpErrorKind::Failed, text).with_hint(
            "a target lies after the end of a backup; barman-cloud-backup-list shows when they \
             ended",
        ),
        SelectError::Ambiguous { .. } => OpError::new(OpErrorKind::General, text)
            .with_hint("barman-cloud-backup-list shows the ids with their times"),
        SelectError::Unknown { text: word, .. } => {
            let names = catalogue
                .iter()
                .filter_map(|(_, info)| info.backup_name.clone())
                .collect();
            let hint = instead_of(store, layout, word, names).await;
            OpError::new(OpErrorKind::General, text).with_hint(hint)
        }
    }
}

/// There is no backup of this id.
pub(super) async fn absent(
    store: &dyn ObjectStore,
    layout: &Layout,
    id: &BackupId,
    server: &str,
) -> OpError {
    let text = format!("Backup {id} for server {server} does not exist");
    let hint = instead_of(store, layout, id.as_str(), Vec::new()).await;
    OpError::new(OpErrorKind::Failed, text).with_hint(hint)
}

/// What to say to somebody who asked for a backup that is not there, of which `names` are
/// known. A request or two more, whose failure is not worth a word now.
pub(super) async fn instead_of(
    store: &dyn ObjectStore,
    layout: &Layout,
    word: &str,
    names: Vec<String>,
) -> String {
    let mut known = folders(store, &layout.base()).await;
    known.extend(names);
    if known.is_empty() {
        let (parent, server) = layout.parent();
        let base = layout.base();
        return match near::like(server, &folders(store, &parent).await).as_slice() {
            [] => format!("no backup is below `{base}`: check the URL and the name of the server"),
            near => format!(
                "no backup is below `{base}`: is the server {}?",
                quoted(near)
            ),
        };
    }
    match near::like(word, &known).as_slice() {
        [] => "barman-cloud-backup-list shows the backups that are there".to_owned(),
        near => format!("is {} meant?", quoted(near)),
    }
}

fn quoted(names: &[&str]) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    quoted.join(" or ")
}

/// The names of the folders in one, as far as the first page of its listing goes.
async fn folders(store: &dyn ObjectStore, of: &Prefix) -> Vec<String> {
    let first = store.list(of, Depth::One).next().await;
    let Some(Ok(page)) = first else {
        return Vec::new();
    };
    let name = |folder: &Prefix| {
        let name = folder.as_str().strip_prefix(of.as_str())?;
        Some(name.trim_end_matches('/').to_owned())
    };
    page.prefixes.iter().filter_map(name).collect()
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
    match select::by_word(text, among, &catalogue, server) {
        Ok(id) => Ok(id.clone()),
        Err(error) => Err(not_found(store, layout, &error, &catalogue).await),
    }
}

/// The id that a text is, if it has the form of one.
pub(super) fn id_of(text: &str) -> Option<BackupId> {
    BackupId::is_canonical(text)
        .then(|| BackupId::new(text))
        .flatten()
}
