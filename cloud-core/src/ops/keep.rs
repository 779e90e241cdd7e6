//! Protecting a base backup from retention policies, and releasing it.

use std::sync::Arc;

use bytes::Bytes;

use super::{Answer, OpError, OpErrorKind, lookup};
use crate::catalogue::info::Status;
use crate::catalogue::keep::KeepTarget;
use crate::catalogue::layout::{BackupId, Layout};
use crate::catalogue::load;
use crate::catalogue::select::Among;
use crate::key::Key;
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
    let id = lookup::by_text(store, &layout, &request.backup, server, Among::Finished).await?;
    match request.action {
        KeepAction::Keep(target) => {
            if let Some(objection) = objection(store, &layout, &id, server).await? {
                return Err(objection);
            }
            let earlier = load::find_keeps(store, &layout, &id).await;
            let earlier = earlier.map_err(|error| OpError::of_store(&error))?;
            write(store, &layout, &id, target, &earlier)
                .await
                .map_err(|error| OpError::of_store(&error))?;
            // A deletion marks the record and then looks for keeps: of one that goes on at
            // the same time either it sees ours, or we see its mark.
            // Where the record cannot be read the keep stays: somebody else may have set one
            // meanwhile, and relies on it.
            match objection(store, &layout, &id, server).await {
                Ok(None) => Ok(Answer::default()),
                Ok(Some(objection)) => {
                    if earlier.is_empty() {
                        release(store, &layout, &id).await?;
                    }
                    Err(objection)
                }
                Err(error) => Err(error.with_hint(
                    "the keep was set, and whether it came in time is not known: run the same \
                     command again",
                )),
            }
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

/// Why a backup cannot be kept: only one that exists and can be restored can.
async fn objection(
    store: &dyn ObjectStore,
    layout: &Layout,
    id: &BackupId,
    server: &str,
) -> Result<Option<OpError>, OpError> {
    let text = match lookup::record(store, layout, id).await? {
        None => return Ok(Some(lookup::absent(store, layout, id, server).await)),
        Some(info) if info.status != Status::Done => format!(
            "Cannot add keep to backup {id} because it has status {}. \
             Only backups with status DONE can be kept.",
            info.status
        ),
        Some(_) => return Ok(None),
    };
    Ok(Some(OpError::new(OpErrorKind::Failed, text)))
}

/// Writes the annotation to its place, and to every other place where one is or
/// is looked for, so that none says anything else.
async fn write(
    store: &dyn ObjectStore,
    layout: &Layout,
    id: &BackupId,
    target: KeepTarget,
    earlier: &[Key],
) -> Result<(), StoreError> {
    let mut keys = layout.keep_to_write(id);
    for key in earlier {
        if !keys.contains(key) {
            keys.push(key.clone());
        }
    }
    for (number, key) in keys.iter().enumerate() {
        let body = Bytes::from(target.to_string());
        match store.put(key, body.into(), &PutOptions::default()).await {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::info::BackupInfo;
    use crate::store::{Fault, FaultyStore, LocalStore, MemoryStore, StoreOp};

    const ID: &str = "20261121T000000";

    fn with_backup(status: Status) -> MemoryStore {
        let store = MemoryStore::new();
        let info = BackupInfo {
            status,
            backup_name: Some("nightly".into()),
            ..BackupInfo::default()
        };
        store.insert(&format!("p/main/base/{ID}/backup.info"), info.to_text());
        store
    }

    async fn keep(
        store: &(impl ObjectStore + Clone),
        path: &str,
        backup: &str,
        action: KeepAction,
    ) -> Result<String, OpError> {
        let request = KeepRequest {
            path: path.into(),
            server: "main".into(),
            backup: backup.into(),
            action,
        };
        let answer = run(Arc::new(store.clone()), request).await?;
        Ok(answer.text)
    }

    fn keeps(store: &MemoryStore) -> Vec<(String, String)> {
        let text = |body: Bytes| String::from_utf8(body.to_vec()).unwrap();
        let contents = store.contents().into_iter();
        contents
            .filter(|(key, _)| key.ends_with("/annotations/keep"))
            .map(|(key, body)| (key, text(body)))
            .collect()
    }

    #[tokio::test]
    async fn a_keep_is_seen_and_released_through_either_spelling_of_the_url() {
        const FULL: KeepAction = KeepAction::Keep(KeepTarget::Full);
        for (written, read) in [("p", "p"), ("p", "p/"), ("p/", "p"), ("p/", "p/")] {
            let store = with_backup(Status::Done);
            assert_eq!(keep(&store, written, ID, FULL).await.unwrap(), "");
            let status = keep(&store, read, ID, KeepAction::Status).await.unwrap();
            assert_eq!(status, "Keep: full\n", "{written} {read}");
            // The reference, given the same URL, finds it too.
            let place = format!("{written}/main/base/{ID}/annotations/keep");
            assert!(keeps(&store).contains(&(place, "full".into())));
            keep(&store, read, ID, KeepAction::Release).await.unwrap();
            assert_eq!(keeps(&store), []);
            let status = keep(&store, written, ID, KeepAction::Status).await.unwrap();
            assert_eq!(status, "Keep: nokeep\n");
        }
    }

    #[tokio::test]
    async fn a_new_target_replaces_the_old_one_everywhere() {
        let store = with_backup(Status::Done);
        let other = format!("p//main/base/{ID}/annotations/keep");
        store.insert(&other, "full");
        let standalone = KeepAction::Keep(KeepTarget::Standalone);
        keep(&store, "p", "nightly", standalone).await.unwrap();
        let texts: Vec<_> = keeps(&store).into_iter().map(|(_, text)| text).collect();
        assert_eq!(texts, ["standalone", "standalone"]);
    }

    #[tokio::test]
    async fn only_a_backup_that_is_done_can_be_kept() {
        let full = KeepAction::Keep(KeepTarget::Full);
        for (status, id, text) in [
            (
                Status::Failed,
                ID,
                "Cannot add keep to backup 20261121T000000 because it has status FAILED. \
                 Only backups with status DONE can be kept.",
            ),
            (
                Status::Done,
                "20200101T000000",
                "Backup 20200101T000000 for server main does not exist",
            ),
        ] {
            let store = with_backup(status);
            let error = keep(&store, "p", id, full).await.unwrap_err();
            assert_eq!(
                (error.kind, error.message.as_str()),
                (OpErrorKind::Failed, text)
            );
            assert_eq!(keeps(&store), []);
        }
        let store = with_backup(Status::Done);
        let error = keep(&store, "p", "nobody", full).await.unwrap_err();
        assert_eq!(error.kind, OpErrorKind::General);
        keep(&store, "p", ID, KeepAction::Release).await.unwrap();
    }

    /// A deletion that marks the record after it was seen to be DONE does not see
    /// the annotation: the user must not rely on it.
    #[tokio::test]
    async fn a_keep_that_comes_too_late_fails_and_is_taken_back() {
        for earlier in [false, true] {
            let store = with_backup(Status::Done);
            if earlier {
                let key = format!("p/main/base/{ID}/annotations/keep");
                store.insert(&key, "standalone");
            }
            let faulty = FaultyStore::new(Arc::new(store.clone()));
            faulty.fail(StoreOp::Put, Fault::Late(1), 1);
            let mark = async {
                let key = format!("p/main/base/{ID}/backup.info");
                store.insert(&key, "status=FAILED\n");
            };
            let full = KeepAction::Keep(KeepTarget::Full);
            let (result, ()) = tokio::join!(keep(&faulty, "p", ID, full), mark);
            let error = result.unwrap_err();
            assert!(error.message.contains("has status FAILED"), "{error}");
            assert_eq!(keeps(&store).is_empty(), !earlier);
        }
    }

    /// Another keep may have been set between the two looks.
    #[tokio::test]
    async fn a_keep_whose_second_look_fails_takes_nothing_away() {
        let store = with_backup(Status::Done);
        let faulty = FaultyStore::new(Arc::new(store.clone()));
        faulty.fail(StoreOp::Put, Fault::Late(1), 1);
        let fault = async {
            faulty.fail(
                StoreOp::Get,
                Fault::Before(StoreErrorKind::PermissionDenied),
                1,
            );
        };
        let full = KeepAction::Keep(KeepTarget::Full);
        let (result, ()) = tokio::join!(keep(&faulty, "p", ID, full), fault);
        let error = result.unwrap_err();
        assert!(error.hint.is_some_and(|hint| hint.contains("was set")));
        assert!(!keeps(&store).is_empty());
    }

    #[tokio::test]
    async fn in_a_directory_there_is_one_place_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p/main/base").join(ID);
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join("backup.info"), "status=DONE\n").unwrap();
        let store = LocalStore::new(dir.path().to_owned());
        let full = KeepAction::Keep(KeepTarget::Full);
        keep(&store, "p/", ID, full).await.unwrap();
        let status = keep(&store, "p", ID, KeepAction::Status).await.unwrap();
        assert_eq!(status, "Keep: full\n");
        keep(&store, "p/", ID, KeepAction::Release).await.unwrap();
        assert!(!path.join("annotations/keep").exists());
    }
}
