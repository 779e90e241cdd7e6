//! Checking that a new server can archive its WAL in a place.

use std::num::NonZeroU32;
use std::sync::Arc;

use futures_util::StreamExt;

use super::{OpError, OpErrorKind, lookup};
use crate::catalogue::load::wal_of_key;
use crate::codec;
use crate::store::{BucketState, Depth, ObjectStore};
use crate::wal::{TimelineId, WalName};

/// What to check.
#[derive(Debug, Clone)]
pub struct CheckRequest {
    /// Bucket of the URL, for messages.
    pub bucket: String,
    /// Key prefix from the URL, as written (it may end in slashes).
    pub path: String,
    /// Server name: one component of every key.
    pub server: String,
    /// WAL of timelines before this one may be there.
    pub timeline: Option<NonZeroU32>,
}

/// Creates the bucket if there is none, and looks for WAL that new WAL could be
/// mixed up with.
pub async fn run(store: Arc<dyn ObjectStore>, request: CheckRequest) -> Result<(), OpError> {
    let layout = lookup::layout(&request.path, &request.server)?;
    match store.probe().await {
        Ok(BucketState::Exists) => {}
        Ok(BucketState::Missing) => {
            let created = store.create_bucket().await;
            created.map_err(|error| OpError::of_store(&error))?;
        }
        Err(error) => return Err(OpError::unproved(&request.bucket, &error)),
    }
    let suffixes = codec::suffixes();
    let oldest = request.timeline.map(|number| TimelineId(number.get()));
    let mut counter = Counter::default();
    let mut pages = store.list(&layout.wals(), Depth::All);
    while let Some(page) = pages.next().await {
        let page = page.map_err(|error| OpError::of_store(&error))?;
        for object in page.objects {
            let Some((name, _)) = wal_of_key(object.key.base_name(), &suffixes) else {
                continue;
            };
            match oldest {
                None => return Err(refusal(&request.server, "Expected empty archive")),
                Some(oldest) if name.timeline() >= oldest => counter.add(name),
                Some(_) => {}
            }
        }
    }
    match (counter.count, oldest) {
        (0, _) | (_, None) => Ok(()),
        (count, Some(oldest)) => {
            let files = if count == 1 { "file" } else { "files" };
            let text = format!(
                "Found {count} {files} in WAL archive equal to or newer than timeline {oldest}"
            );
            Err(refusal(&request.server, &text))
        }
    }
}

fn refusal(server: &str, why: &str) -> OpError {
    let text = format!("WAL archive check failed for server {server}: {why}");
    OpError::new(OpErrorKind::Failed, text)
}

/// Counts files that may be there in several forms, each once. In listings in
/// the order of names, which all stores give, the forms of one file and the
/// files of one segment follow each other; so little has to be remembered.
#[derive(Default)]
struct Counter {
    count: u64,
    /// The files with the same beginning as the last one.
    near: Vec<WalName>,
}

impl Counter {
    fn add(&mut self, name: WalName) {
        let beginning = |name: &WalName| name.as_str().get(..24).map(str::to_owned);
        let last = self.near.last();
        if last.is_some_and(|last| beginning(last) != beginning(&name)) {
            self.near.clear();
        }
        if !self.near.contains(&name) {
            self.count += 1;
            self.near.push(name);
        }
    }
}
