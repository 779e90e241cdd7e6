//! Deleting base backups, and the WAL that only they need.
//!
//! The plan comes first (`catalogue::deletion`), and nothing is deleted that is
//! not in it. Then, for the backups of the plan side by side (`backup`): look
//! again, check locks, rewrite the record as FAILED, delete the archives. Then
//! one listing of the WAL archive for all of them (`wal`). The records go last,
//! so that a run that ends anywhere leaves something that the next one finds and
//! finishes, and never a backup that looks good and is not
//! (docs/decisions.md 30).

mod backup;
mod dry_run;
mod gaps;
mod purge;
mod remove;
mod snapshots;
mod wal;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use self::backup::Deletion;
use self::remove::Remover;
use super::{Answer, OpError, OpErrorKind, lookup};
use crate::catalogue::deletion::{self, Plan, Refusal, What, Why};
use crate::catalogue::info::{BackupInfo, Status};
use crate::catalogue::keep::Keep;
use crate::catalogue::layout::{BackupId, Layout};
use crate::catalogue::load::{self, Entry};
use crate::catalogue::retention::{Known, Policy, Verdict};
use crate::catalogue::select::{self, Among, Candidate};
use crate::snapshot::Clouds;
use crate::store::ObjectStore;

/// What to delete.
#[derive(Debug, Clone)]
pub struct DeleteRequest {
    /// Key prefix from the URL, as written (it may end in slashes).
    pub path: String,
    /// Server name: one component of every key.
    pub server: String,
    /// The backups; `None` if only `purge` is wanted.
    pub selection: Option<Selection>,
    /// Fewest backups that must stay.
    pub minimum_redundancy: u64,
    /// Say what would be done, and do nothing.
    pub dry_run: bool,
    /// Most objects of one request, as typed; what the store allows if absent.
    pub batch_size: Option<i64>,
    /// Look at the locks of all archives of a backup before the first is
    /// deleted.
    pub check_object_lock: bool,
    /// Delete what failed and killed backups left behind, if nothing of it was
    /// written for so long.
    pub purge: Option<Duration>,
    /// Opens the clouds that have the snapshots of snapshot backups.
    pub clouds: Clouds,
}

/// Which backups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// The one with this id, shortcut or name, as typed.
    Backup(String),
    /// Those that this policy does not want.
    Policy(Policy),
}

/// Deletes, or says what would be deleted.
pub async fn run(store: Arc<dyn ObjectStore>, request: DeleteRequest) -> Result<Answer, OpError> {
    run_at(store, request, Timestamp::now()).await
}

/// The same at a given time, which tests choose.
async fn run_at(
    store: Arc<dyn ObjectStore>,
    request: DeleteRequest,
    now: Timestamp,
) -> Result<Answer, OpError> {
    let layout = lookup::layout(&request.path, &request.server)?;
    let work = Work {
        store: store.as_ref(),
        remover: Remover::new(store.as_ref(), request.batch_size),
        layout: &layout,
        request: &request,
        now,
    };
    let catalogue = work.load().await?;
    let mut text = String::new();
    if let Some(selection) = &request.selection {
        match work.plan(selection, &catalogue).await? {
            Some(plan) if request.dry_run => text = work.print(&plan, &catalogue).await?,
            Some(plan) => work.execute(&plan, &catalogue).await?,
            None => {}
        }
    }
    if let Some(older_than) = request.purge {
        text.push_str(&work.purge(older_than).await?);
    }
    Ok(Answer::whole(text))
}

/// A run.
struct Work<'a> {
    store: &'a dyn ObjectStore,
    remover: Remover<'a>,
    layout: &'a Layout,
    request: &'a DeleteRequest,
    now: Timestamp,
}

/// A backup of the catalogue, readable like all others.
struct Found {
    id: BackupId,
    info: BackupInfo,
    keep: Option<Keep>,
}

impl Found {
    fn known(&self) -> Known<'_> {
        Known {
            id: &self.id,
            info: &self.info,
            keep: self.keep.as_ref(),
        }
    }
}

impl Work<'_> {
    /// The whole catalogue. A backup whose record cannot be read may need any
    /// WAL, may be any of those a policy counts: then nothing is deleted.
    async fn load(&self) -> Result<Vec<Found>, OpError> {
        let entries = load::load(self.store, self.layout).await;
        let entries = entries.map_err(|error| OpError::of_store(&error))?;
        let mut unreadable = lookup::name_unreadable(&entries)?;
        unreadable.extend(lookup::name_contradictory(&entries));
        if !unreadable.is_empty() {
            let ids = dry_run::python_list(unreadable.iter().map(|id| id.as_str()));
            tracing::error!("Cannot read the following backups: {ids}");
            let text = "Unsafe to proceed with deletion due to failure reading backup catalog";
            return Err(OpError::new(OpErrorKind::Failed, text));
        }
        let keeps = entries.iter().map(|entry| entry.keeps.as_slice());
        let keeps = load::read_keeps(self.store, keeps).await;
        let keeps = keeps.map_err(|error| OpError::of_store(&error))?;
        let found = entries.into_iter().zip(keeps);
        Ok(found
            .filter_map(|(Entry { id, info, .. }, keep)| {
                let info = info.ok()?;
                Some(Found { id, info, keep })
            })
            .collect())
    }

    /// The plan, explained in the log; `None` if there is nothing to do.
    async fn plan(
        &self,
        selection: &Selection,
        catalogue: &[Found],
    ) -> Result<Option<Plan>, OpError> {
        let what = match selection {
            Selection::Policy(policy) => What::Policy(*policy),
            Selection::Backup(text) => What::Backup(self.resolve(text, catalogue).await?),
        };
        let known: Vec<Known<'_>> = catalogue.iter().map(Found::known).collect();
        let minimum = self.request.minimum_redundancy;
        match deletion::plan(&known, &what, minimum, self.now) {
            Ok(plan) => {
                self.explain(&what, &plan, catalogue);
                Ok(Some(plan))
            }
            Err(refusal) => self.refuse(&what, &refusal).map(|()| None),
        }
    }

    /// The backup that a text means. One that is not in the catalogue may still
    /// have a keep annotation.
    async fn resolve(&self, text: &str, catalogue: &[Found]) -> Result<BackupId, OpError> {
        let server = &self.request.server;
        let Some(id) = lookup::id_of(text) else {
            let candidates: Vec<Candidate<'_>> =
                catalogue.iter().map(|f| (&f.id, &f.info)).collect();
            let id = select::by_word(text, Among::Finished, &candidates, server);
            return match id {
                Ok(id) => Ok(id.clone()),
                Err(error) => {
                    let (store, layout) = (self.store, self.layout);
                    Err(lookup::not_found(store, layout, &error, &candidates).await)
                }
            };
        };
        if !catalogue.iter().any(|found| found.id == id) {
            let keeps = load::find_keeps(self.store, self.layout, &id).await;
            let keeps = keeps.map_err(|error| OpError::of_store(&error))?;
            if !keeps.is_empty() {
                self.refuse(&What::Backup(id.clone()), &Refusal::Kept)?;
            }
        }
        Ok(id)
    }

    /// What a plan that cannot be made ends with.
    fn refuse(&self, what: &What, refusal: &Refusal) -> Result<(), OpError> {
        let server = &self.request.server;
        let What::Backup(id) = what else {
            return Ok(());
        };
        let (text, hint) = match refusal {
            Refusal::Absent => {
                tracing::warn!("Backup {id} does not exist");
                return Ok(());
            }
            Refusal::Kept => (
                format!(
                    "Skipping delete of backup {id} for server {server} as it has a current keep \
                     request. If you really want to delete this backup please remove the keep and \
                     try again."
                ),
                "barman-cloud-backup-keep --release takes the keep away",
            ),
            Refusal::TooFew { current } => (
                format!(
                    "Skipping delete of backup {id} for server {server} due to minimum redundancy \
                     requirements (minimum redundancy = {}, current redundancy = {current})",
                    self.request.minimum_redundancy
                ),
                "--minimum-redundancy says how many backups have to stay",
            ),
        };
        Err(OpError::new(OpErrorKind::Failed, text).with_hint(hint))
    }

    /// Says of each backup why it stays or goes.
    fn explain(&self, what: &What, plan: &Plan, catalogue: &[Found]) {
        let minimum = self.request.minimum_redundancy;
        let server = &self.request.server;
        if let What::Policy(policy) = what
            && let Policy::Redundancy(count) = policy
            && *count < minimum
        {
            tracing::warn!(
                "Retention policy redundancy ({count}) is lower than the required minimum \
                 redundancy ({minimum}). Enforce {minimum}."
            );
        }
        for (id, why) in &plan.stay {
            if let (Why::Policy(Verdict::NeededForMinimum), What::Policy(policy)) = (why, what)
                && let Some(limit) = policy.limit(self.now)
            {
                tracing::warn!(
                    "Keeping obsolete backup {id} for server {server} (older than {limit}) due \
                     to minimum redundancy requirements ({minimum})"
                );
            } else {
                tracing::info!("Backup {id} for server {server} stays: {why}");
            }
        }
        for step in &plan.steps {
            tracing::info!("Backup {} for server {server} goes: {}", step.id, step.why);
            let status = catalogue.iter().find(|found| found.id == step.id);
            if status.is_some_and(|found| found.info.status == Status::Started) {
                tracing::warn!(
                    "Backup {} has status STARTED: if it is still being taken, it will not be \
                     usable",
                    step.id
                );
            }
            match &step.wal {
                Ok(rules) => tracing::info!("WAL that goes with {}: {rules}", step.id),
                Err(why) if why.is_odd() => {
                    tracing::warn!("no WAL is deleted with backup {}: {why}", step.id);
                }
                Err(why) => tracing::info!("No WAL goes with {}: {why}", step.id),
            }
        }
    }

    /// Does what the plan says.
    async fn execute(&self, plan: &Plan, catalogue: &[Found]) -> Result<(), OpError> {
        let deletion = Deletion::new(self, catalogue, plan);
        let (emptied, failure) = deletion.empty_all(&plan.steps).await;
        let rules: Vec<_> = emptied
            .iter()
            .filter_map(|step| step.wal.as_ref().ok())
            .collect();
        if let Err(error) = self.remove_wal(&rules).await {
            if let Some(earlier) = failure {
                tracing::error!("{earlier}");
            }
            return Err(error);
        }
        let ids: Vec<_> = emptied.iter().map(|step| &step.id).collect();
        self.remove_gaps(&rules, &ids, catalogue).await;
        deletion.remove_records(&ids).await?;
        failure.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests;
