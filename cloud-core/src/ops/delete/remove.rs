//! Deleting many objects, with a fate for each of them.

use futures_util::{StreamExt, stream};

use crate::key::Key;
use crate::ops::{OpError, OpErrorKind, chain};
use crate::store::{ObjectStore, StoreError};

/// Requests under way at the same time.
pub(super) const REQUESTS: usize = 4;

/// Deletes in batches of one size.
#[derive(Debug, Clone, Copy)]
pub(super) struct Remover<'a> {
    store: &'a dyn ObjectStore,
    batch: usize,
}

/// What became of the objects.
#[derive(Debug, Default)]
pub(super) struct Fates {
    /// Gone, by us or before.
    pub(super) gone: usize,
    /// Refused, and why.
    pub(super) refused: Vec<(Key, StoreError)>,
    /// Requests that failed as a whole: what became of their objects is not
    /// known.
    pub(super) failed: Vec<StoreError>,
}

impl<'a> Remover<'a> {
    /// `batch` is what the user wants; the store has the last word.
    pub(super) fn new(store: &'a dyn ObjectStore, batch: Option<i64>) -> Self {
        let most = store.info().limits.delete_batch.max(1);
        let wanted = batch.map_or(most, |wanted| usize::try_from(wanted).unwrap_or(0));
        Self {
            store,
            batch: wanted.clamp(1, most),
        }
    }

    /// Most objects of one request.
    pub(super) fn batch(&self) -> usize {
        self.batch
    }

    /// Deletes objects. All of them are tried, whatever becomes of the others.
    pub(super) async fn remove(&self, keys: &[Key]) -> Fates {
        let mut fates = Fates::default();
        let mut answers = stream::iter(keys.chunks(self.batch))
            .map(|batch| self.store.delete_batch(batch))
            .buffer_unordered(REQUESTS);
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(report) => {
                    fates.gone += report.deleted.len();
                    fates.refused.extend(report.failed);
                }
                Err(error) => fates.failed.push(error),
            }
        }
        fates
    }
}

impl Fates {
    /// Whether nothing was deleted, for sure.
    pub(super) fn nothing_gone(&self) -> bool {
        self.gone == 0 && self.failed.is_empty()
    }

    /// Adds what became of others.
    pub(super) fn add(&mut self, other: Self) {
        self.gone += other.gone;
        self.refused.extend(other.refused);
        self.failed.extend(other.failed);
    }

    /// Names what is still there in the log, and makes one error of it: `what`
    /// could not be deleted.
    pub(super) fn result(&self, what: &str) -> Result<(), OpError> {
        for (_, error) in &self.refused {
            tracing::error!("{}", chain(error));
        }
        for error in &self.failed {
            tracing::error!("{}", chain(error));
        }
        let refused = self.refused.iter().map(|(_, error)| error);
        let Some(first) = self.failed.iter().chain(refused).next() else {
            return Ok(());
        };
        let unreachable = self.failed.iter().any(|error| error.kind.is_unreachable());
        let kind = if unreachable {
            OpErrorKind::Unreachable
        } else {
            OpErrorKind::Failed
        };
        let text = format!("Could not delete {what}: {}", chain(first));
        let error = OpError::new(kind, text).in_own_words().because(first);
        Err(error.with_hint("run the same command again: it goes on where this one stopped"))
    }
}
