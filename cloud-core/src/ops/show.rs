//! Showing what is known of one base backup.

use std::sync::Arc;

use super::{Answer, Format, OpError, lookup};
use crate::catalogue::select::Among;
use crate::catalogue::{console, json};
use crate::store::ObjectStore;

/// What to show.
#[derive(Debug, Clone)]
pub struct ShowRequest {
    /// Key prefix from the URL, as written (it may end in slashes).
    pub path: String,
    /// Server name: one component of every key.
    pub server: String,
    /// Id, shortcut or name, as typed.
    pub backup: String,
    /// For whom.
    pub format: Format,
}

/// Shows the backup.
pub async fn run(store: Arc<dyn ObjectStore>, request: ShowRequest) -> Result<Answer, OpError> {
    let server = &request.server;
    let layout = lookup::layout(&request.path, server)?;
    let id = lookup::by_text(
        store.as_ref(),
        &layout,
        &request.backup,
        server,
        Among::Finished,
    )
    .await?;
    let info = lookup::record(store.as_ref(), &layout, &id).await?;
    let Some(info) = info else {
        return Err(lookup::absent(store.as_ref(), &layout, &id, server).await);
    };
    Ok(Answer::whole(match request.format {
        Format::Console => console::show(&id, &info),
        Format::Json => json::show(&id, &info) + "\n",
    }))
}
