//! Which base backups are deleted, and which WAL with each.
//!
//! Pure: catalogue, keeps, policy and time come in; a plan goes out that says
//! of every backup why it stays or goes. Nothing is deleted that is not in a
//! plan, and `--dry-run` prints the same plan.

use std::fmt;

use jiff::Timestamp;

use super::info::Status;
use super::layout::BackupId;
use super::retention::{Known, Policy, Verdict};
use super::wal_cleanup::{self, WalRules, WalStays};

/// What is to be deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// This backup.
    Backup(BackupId),
    /// What this policy no longer wants.
    Policy(Policy),
}

/// What is to be done, in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The backups that go.
    pub steps: Vec<Step>,
    /// All others, and why they stay.
    pub stay: Vec<(BackupId, Why)>,
}

/// A backup that goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Its id.
    pub id: BackupId,
    /// Why it goes.
    pub why: Why,
    /// The WAL that goes with it.
    pub wal: Result<WalRules, WalStays>,
}

/// Why a backup stays or goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It goes: it was asked for.
    Asked,
    /// It goes: an earlier deletion did not come to its end.
    Unfinished,
    /// The policy's word; only `Obsolete` goes.
    Policy(Verdict),
    /// It stays: another one was asked for.
    NotAsked,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Asked => "it was asked for",
            Self::Unfinished => "its deletion was begun and not finished",
            Self::NotAsked => "another backup was asked for",
            Self::Policy(Verdict::Valid) => "the retention policy wants it",
            Self::Policy(Verdict::Kept) => "it has a keep annotation",
            Self::Policy(Verdict::Obsolete) => "the retention policy does not want it",
            Self::Policy(Verdict::NeededForMinimum) => {
                "it is obsolete, but the minimum redundancy wants it"
            }
            Self::Policy(Verdict::NotDone) => "it is not DONE: policies do not delete it",
            Self::Policy(Verdict::Incremental) => "it is incremental: policies do not delete it",
        })
    }
}

/// Why nothing is deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The backup is kept.
    Kept,
    /// There would be too few backups.
    TooFew {
        /// Those that count now.
        current: u64,
    },
    /// There is no such backup.
    Absent,
}

/// Makes the plan. `catalogue` is sorted by id and holds every backup that has a
/// record; at least `minimum` of them stay.
///
/// Deletions that were begun and not finished come first, whatever was asked
/// for, unless the backup is kept.
pub fn plan(
    catalogue: &[Known<'_>],
    what: &What,
    minimum: u64,
    now: Timestamp,
) -> Result<Plan, Refusal> {
    let unfinished = |backup: &Known<'_>| backup.keep.is_none() && backup.info.is_being_deleted();
    let reasons: Vec<Why> = match what {
        What::Policy(policy) => {
            let verdicts = policy.judge(catalogue, minimum, now);
            verdicts.into_iter().map(Why::Policy).collect()
        }
        What::Backup(id) => {
            check_one(catalogue, id, minimum)?;
            let why = |backup: &Known<'_>| {
                if backup.id == id {
                    Why::Asked
                } else {
                    Why::NotAsked
                }
            };
            catalogue.iter().map(why).collect()
        }
    };
    let mut plan = Plan::default();
    let mut going = Vec::new();
    for (backup, why) in catalogue.iter().zip(reasons) {
        match why {
            Why::Asked | Why::Policy(Verdict::Obsolete) => going.push((false, backup, why)),
            _ if unfinished(backup) => going.push((true, backup, Why::Unfinished)),
            _ => plan.stay.push((backup.id.clone(), why)),
        }
    }
    going.sort_by_key(|(first, ..)| !first);
    let mut left = catalogue.to_vec();
    for (_, backup, why) in going {
        let by_policy = matches!(what, What::Policy(_));
        plan.steps.push(Step {
            id: backup.id.clone(),
            why,
            wal: wal_cleanup::after_deleting(backup, &left, by_policy, now),
        });
        left.retain(|other| other.id != backup.id);
    }
    Ok(plan)
}

/// Whether one backup may be deleted because somebody asks for it.
fn check_one(catalogue: &[Known<'_>], id: &BackupId, minimum: u64) -> Result<(), Refusal> {
    let backup = catalogue.iter().find(|backup| backup.id == id);
    if backup.is_some_and(|backup| backup.keep.is_some()) {
        return Err(Refusal::Kept);
    }
    let counts = |backup: &&Known<'_>| {
        backup.info.status != Status::Started && !backup.info.is_being_deleted()
    };
    let current = catalogue.iter().filter(counts).count() as u64;
    if minimum > 0 && minimum >= current {
        return Err(Refusal::TooFew { current });
    }
    backup.map(|_| ()).ok_or(Refusal::Absent)
}

#[cfg(test)]
mod tests;
