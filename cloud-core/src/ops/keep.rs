//! Protecting a base backup from retention policies, and releasing it.

use std::sync::Arc;

use bytes::Bytes;

use super::{Answer, OpError, OpErrorKind, lookup};
use crate::catalogue::info::Status;
use crate::catalogue::keep::KeepTarget;
use crate::catalogue::layout::{BackupId, Layout};
use crate::catalogue::load;
use crate::store::{self, ObjectStore, PutOptions, StoreError, StoreErrorKind};

/// What to do with the keep of a backup.
#[derive(Debug, Clone)]
pub struct KeepRequest {
    /// Key prefix from the URL, as written (it may end in slashes).
    pub path: String,
    /// Server name: one component of every key.
    pub server: String,
    /// Id, shortcut or name, as typed.
    pub backup: String,
    /// What to do.
    pub action: KeepAction,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepAction {
    /// Keep it.
    Keep(KeepTarget),
    /// Let policies decide about it again.
    Release,
    /// Say how it is kept.
    Status,
}

/// Does it.
pub async fn run(store: Arc<dyn ObjectStore>, request: KeepRequest) -> Result<Answer, OpError> {
    let server = &request.server;
    let layout = lookup::layout(&request.path, server)?;
    let store = store.as_ref();
    let id = lookup::by_text(store, &layout, &request.backup, server).await?;
    match request.action {
        KeepAction::Keep(target) => {
            check(store, &layout, &id, server).await?;
            write(store, &layout, &id, target)
                .await
                .map_err(|error| OpError::of_store(&error))?;
            Ok(Answer::default())
        }
        KeepAction::Release => {
            release(store, &layout, &id).await?;
            Ok(Answer::default())
        }
        KeepAction::Status => {
            let keeps = load::find_keeps(store, &layout, &id).await;
            let keep = match keeps {
                Ok(keeps) => load::read_keep(store, &keeps).await,
                Err(error) => Err(error),
            };
            let keep = keep.map_err(|error| OpError::of_store(&error))?;
            let word = keep.as_ref().map_or("nokeep", |keep| keep.as_str());
            Ok(Answer::whole(format!("Keep: {}\n", word.escape_debug())))
        }
    }
}

/// Only a backup that exists and can be restored can be kept.
async fn check(
    store: &dyn ObjectStore,
    layout: &Layout,
    id: &BackupId,
    server: &str,
) -> Result<(), OpError> {
    let text = match lookup::record(store, layout, id).await? {
        None => format!("Backup {id} for server {server} does not exist"),
        Some(info) if info.status != Status::Done => format!(
            "Cannot add keep to backup {id} because it has status {}. \
             Only backups with status DONE can be kept.",
            info.status
        ),
        Some(_) => return Ok(()),
    };
    Err(OpError::new(OpErrorKind::Failed, text))
}

/// Writes the annotation to its place, and to every other place where one is or
/// is looked for, so that none says anything else.
async fn write(
    store: &dyn ObjectStore,
    layout: &Layout,
    id: &BackupId,
    target: KeepTarget,
) -> Result<(), StoreError> {
    let mut keys = layout.keep_to_write(id);
    for key in load::find_keeps(store, layout, id).await? {
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    for (number, key) in keys.iter().enumerate() {
        let body = Bytes::from(target.to_string());
        match store.put(key, body, &PutOptions::default()).await {
            // Names with empty components are no names in a directory, where
            // nobody else looks for them either.
            Err(error) if number > 0 && error.kind == StoreErrorKind::Invalid => {}
            put => {
                put?;
            }
        }
    }
    Ok(())
}

async fn release(store: &dyn ObjectStore, layout: &Layout, id: &BackupId) -> Result<(), OpError> {
    let keeps = load::find_keeps(store, layout, id).await;
    let keeps = keeps.map_err(|error| OpError::of_store(&error))?;
    let report = store::delete_all(store, &keeps).await;
    let refused = report.failed.into_iter().map(|(_, error)| error);
    match report.stopped.into_iter().chain(refused).next() {
        Some(error) => Err(OpError::of_store(&error)),
        None => Ok(()),
    }
}
