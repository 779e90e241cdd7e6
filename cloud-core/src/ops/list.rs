//! Listing the base backups of a server.

use std::sync::Arc;

use super::{Answer, Format, OpError, OpErrorKind, lookup};
use crate::catalogue::load::{self, LoadError};
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
/// whole; a listing that fails gives no answer at all.
pub async fn run(store: Arc<dyn ObjectStore>, request: ListRequest) -> Result<Answer, OpError> {
    let layout = lookup::layout(&request.path, &request.server)?;
    let entries = load::load(store.as_ref(), &layout).await;
    let entries = entries.map_err(|error| OpError::of_store(&error))?;
    let mut missing = 0;
    for entry in &entries {
        if let Err(error) = &entry.info {
            if let LoadError::Store(error) = error
                && error.kind.is_unreachable()
            {
                return Err(OpError::of_store(error));
            }
            tracing::warn!("{}", lookup::unreadable(&entry.id, error));
            missing += 1;
        }
    }
    let readable = entries
        .iter()
        .filter_map(|entry| Some((entry, entry.info.as_ref().ok()?)));
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
