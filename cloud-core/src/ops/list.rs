//! Listing the base backups of a server.

use std::sync::Arc;

use super::{Answer, Format, OpError, OpErrorKind, gaps, lookup};
use crate::catalogue::load;
use crate::catalogue::{console, json};
use crate::store::ObjectStore;

/// What to list.
#[derive(Debug, Clone)]
pub struct ListRequest {
    /// Key prefix from the URL, as written (it may end in slashes).
    pub path: String,
    /// Server name: one component of every key.
    pub server: String,
    /// For whom.
    pub format: Format,
}

/// Lists the backups.
///
/// Programs delete their own records by what is not in the list. So a backup
/// whose record cannot be read is named, and the answer says that it is not
/// whole; a listing that fails gives no answer at all. Of WAL that was let go, and of
/// the backups that this concerns, the log tells.
pub async fn run(store: Arc<dyn ObjectStore>, request: ListRequest) -> Result<Answer, OpError> {
    let layout = lookup::layout(&request.path, &request.server)?;
    let (entries, missing_wal) = tokio::join!(
        load::load(store.as_ref(), &layout),
        gaps::find(store.as_ref(), &layout)
    );
    let entries = entries.map_err(|error| OpError::of_store(&error))?;
    let missing = lookup::name_unreadable(&entries)?.len();
    let readable = entries
        .iter()
        .filter_map(|entry| Some((entry, entry.info.as_ref().ok()?)));
    for wal in &missing_wal {
        let backups = readable.clone().map(|(entry, info)| (&entry.id, info));
        if let Some(concern) = wal.concern(backups) {
            tracing::warn!("{}; {concern}", wal.what());
        } else {
            tracing::info!("{}; no backup in the list needs it", wal.what());
        }
    }
    let text = match request.format {
        Format::Json => json::list(readable.map(|(entry, info)| (&entry.id, info))) + "\n",
        Format::Console => {
            let keeps = entries.iter().map(|entry| entry.keeps.as_slice());
            let keeps = load::read_keeps(store.as_ref(), keeps).await;
            let keeps = keeps.map_err(|error| OpError::of_store(&error))?;
            let rows = entries.iter().zip(&keeps).filter_map(|(entry, keep)| {
                Some((&entry.id, entry.info.as_ref().ok()?, keep.as_ref()))
            });
            console::list(rows)
        }
    };
    let failure = (missing > 0).then(|| {
        let all = entries.len();
        let text = format!("{missing} of {all} backups cannot be read and are not in the list");
        OpError::new(OpErrorKind::Failed, text)
            .with_hint("the warnings name them; look at their backup.info files")
    });
    Ok(Answer { text, failure })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::info::{BackupInfo, Status};
    use crate::store::{Fault, FaultyStore, MemoryStore, StoreErrorKind, StoreOp};

    fn filled() -> MemoryStore {
        let store = MemoryStore::new().with_page(2);
        let done = BackupInfo {
            status: Status::Done,
            ..BackupInfo::default()
        };
        for id in ["A", "B", "C"] {
            store.insert(&format!("p/main/base/{id}/backup.info"), done.to_text());
        }
        store
    }

    async fn list(store: impl ObjectStore, format: Format) -> Result<Answer, OpError> {
        let request = ListRequest {
            path: "p".into(),
            server: "main".into(),
            format,
        };
        run(Arc::new(store), request).await
    }

    fn ids(text: &str) -> Vec<String> {
        let json: serde_json::Value = serde_json::from_str(text).unwrap();
        let backups = json["backups_list"].as_array().unwrap();
        let id = |backup: &serde_json::Value| backup["backup_id"].as_str().unwrap().to_owned();
        backups.iter().map(id).collect()
    }

    #[tokio::test]
    async fn a_list_that_is_not_whole_says_so() {
        let garbage = "=".repeat(5 << 20);
        let wrong = [
            "garbage",
            "timeline=one\n",
            "end_time=soon\n",
            garbage.as_str(),
        ];
        for content in wrong {
            let store = filled();
            store.insert("p/main/base/B/backup.info", content.to_owned());
            for format in [Format::Console, Format::Json] {
                let answer = list(store.clone(), format).await.unwrap();
                let failure = answer.failure.unwrap();
                assert_eq!(failure.kind, OpErrorKind::Failed);
                let text = "1 of 3 backups cannot be read and are not in the list";
                assert_eq!(failure.message, text);
                if format == Format::Json {
                    assert_eq!(ids(&answer.text), ["A", "C"]);
                }
            }
        }
        let whole = list(filled(), Format::Json).await.unwrap();
        assert!(whole.failure.is_none());
        assert_eq!(ids(&whole.text), ["A", "B", "C"]);
    }

    #[tokio::test]
    async fn odd_records_are_listed_with_what_they_have() {
        let store = filled();
        store.insert("p/main/base/B/backup.info", "");
        store.insert("p/main/base/C/backup.info", "future=1\nstatus=DONE\n");
        store.insert("p/main/base/D/data.tar", "no record");
        store.insert("p/main/base/x\ny/backup.info", "status=NEW");
        let answer = list(store, Format::Json).await.unwrap();
        assert!(answer.failure.is_none());
        assert_eq!(ids(&answer.text), ["A", "B", "C", "x\ny"]);
    }

    #[tokio::test]
    async fn a_failed_listing_is_no_short_list() {
        let faults = [
            (
                StoreOp::List,
                Fault::Before(StoreErrorKind::Connect),
                OpErrorKind::Unreachable,
            ),
            (
                StoreOp::List,
                Fault::After(StoreErrorKind::Timeout),
                OpErrorKind::Unreachable,
            ),
            (
                StoreOp::List,
                Fault::Before(StoreErrorKind::BucketMissing),
                OpErrorKind::General,
            ),
            (
                StoreOp::Get,
                Fault::Before(StoreErrorKind::Connect),
                OpErrorKind::Unreachable,
            ),
        ];
        for (op, fault, kind) in faults {
            let faulty = FaultyStore::new(Arc::new(filled()));
            faulty.fail(op, fault, 1);
            let error = list(faulty, Format::Console).await.unwrap_err();
            assert_eq!(error.kind, kind, "{op:?} {fault:?}");
        }
        // One record that may not be read is named like one that is damaged.
        let faulty = FaultyStore::new(Arc::new(filled()));
        let denied = Fault::Before(StoreErrorKind::PermissionDenied);
        faulty.fail_for("base/B/", StoreOp::Get, denied, 1);
        let answer = list(faulty, Format::Json).await.unwrap();
        assert!(answer.failure.is_some());
        assert_eq!(ids(&answer.text), ["A", "C"]);
    }
}
