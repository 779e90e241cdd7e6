//! What is said of WAL that was let go, once nobody would need that WAL.

use jiff::Timestamp;

use super::{Found, Work};
use crate::catalogue::gap::Extent;
use crate::catalogue::layout::BackupId;
use crate::catalogue::wal_cleanup::{WalRules, is_live};
use crate::key::Key;
use crate::ops::{chain, gaps};

impl Work<'_> {
    /// Deletes what is said of segments that would have gone with the others, had they
    /// been archived; and of such whose names are not known, if all backups that stay
    /// began later. What is left says no more than before, so nothing here is a failure.
    pub(super) async fn remove_gaps(
        &self,
        rules: &[&WalRules],
        going: &[&BackupId],
        catalogue: &[Found],
    ) {
        if rules.is_empty() {
            return;
        }
        let names = match gaps::names(self.store, self.layout).await {
            Ok(names) => names,
            Err(error) => {
                tracing::debug!("{}", chain(&error));
                return;
            }
        };
        let staying = catalogue
            .iter()
            .filter(|found| is_live(&found.info) && !going.contains(&&found.id));
        let began: Vec<Option<Timestamp>> = staying
            .map(|found| found.info.begin_time.map(|time| time.instant()))
            .collect();
        let goes = |extent: &Extent| match extent {
            Extent::Segments(first, last) => rules.iter().any(|rules| rules.takes_run(first, last)),
            Extent::Before(time) => {
                !began.is_empty() && began.iter().all(|began| began.is_some_and(|at| at > *time))
            }
        };
        let going = names.into_iter().filter(|(_, extent)| goes(extent));
        let keys: Vec<Key> = going.map(|(key, _)| key).collect();
        if keys.is_empty() {
            return;
        }
        tracing::info!("Deleting what is said of {} gaps in older WAL", keys.len());
        let what = "what is said of gaps in older WAL";
        if let Err(error) = self.remover.remove(&keys).await.result(what) {
            tracing::warn!("{error}");
        }
    }
}
