//! Retention policies: which base backups are no longer wanted.
//!
//! Pure: the catalogue, the policy and the time come in, a verdict for each
//! backup goes out. The steps and their order are the reference's, which other
//! installations of it on the same bucket must agree with.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;

use super::info::{BackupInfo, Status};
use super::keep::Keep;
use super::layout::BackupId;

/// A day, in seconds; a window is a length of time, whatever the clocks do.
const DAY: i64 = 86_400;

/// Which backups are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// The newest so many.
    Redundancy(u64),
    /// Those needed to recover to any point of the last so many days.
    Window {
        /// Length of the window.
        days: u64,
    },
}

/// A text that is no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Could not create retention policy {0}: Cannot parse option retention_policy: {0}")]
pub struct InvalidPolicy(pub String);

impl FromStr for Policy {
    type Err = InvalidPolicy;

    /// `REDUNDANCY n`, `RECOVERY WINDOW OF n DAYS|WEEKS|MONTHS`; a month has 31
    /// days. Case and blanks do not matter.
    fn from_str(text: &str) -> Result<Self, InvalidPolicy> {
        let words: Vec<String> = text.split_whitespace().map(str::to_uppercase).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let policy = match words[..] {
            ["REDUNDANCY", count] => number(count).map(Self::Redundancy),
            ["RECOVERY", "WINDOW", "OF", count, unit] => {
                days_of(unit)
                    .zip(number(count))
                    .map(|(days, count)| Self::Window {
                        days: count.saturating_mul(days),
                    })
            }
            _ => None,
        };
        policy.ok_or_else(|| InvalidPolicy(text.to_owned()))
    }
}

fn days_of(unit: &str) -> Option<u64> {
    match unit {
        "DAY" | "DAYS" => Some(1),
        "WEEK" | "WEEKS" => Some(7),
        "MONTH" | "MONTHS" => Some(31),
        _ => None,
    }
}

/// Digits; more than fit mean more than there can be.
fn number(digits: &str) -> Option<u64> {
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| digits.parse().unwrap_or(u64::MAX))
}

/// A backup with all that decides about it.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// Its id.
    pub id: &'a BackupId,
    /// Its record.
    pub info: &'a BackupInfo,
    /// Its keep annotation.
    pub keep: Option<&'a Keep>,
}

/// What a policy says of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Wanted.
    Valid,
    /// Stays because of its keep annotation.
    Kept,
    /// No longer wanted.
    Obsolete,
    /// No longer wanted, and stays because there would be too few.
    NeededForMinimum,
    /// A policy does not decide about backups that are not DONE.
    NotDone,
    /// A policy does not decide about incremental backups.
    Incremental,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Valid => "VALID",
            Self::Kept => "KEEP",
            Self::Obsolete => "OBSOLETE",
            Self::NeededForMinimum => "OBSOLETE*",
            Self::NotDone => "-",
            Self::Incremental => "incremental",
        })
    }
}

impl Policy {
    /// How many backups stay at least; more than asked for if a minimum wants
    /// it. `None` for windows, which know no number.
    pub fn redundancy(&self, minimum: u64) -> Option<u64> {
        match self {
            Self::Redundancy(count) => Some((*count).max(minimum)),
            Self::Window { .. } => None,
        }
    }

    /// The beginning of the window; `None` for the other policy.
    pub fn limit(&self, now: Timestamp) -> Option<Timestamp> {
        let Self::Window { days } = self else {
            return None;
        };
        let seconds = i64::try_from(*days).unwrap_or(i64::MAX).saturating_mul(DAY);
        let length = jiff::SignedDuration::from_secs(seconds);
        Some(now.checked_sub(length).unwrap_or(Timestamp::MIN))
    }

    /// A verdict for each backup, in the order given. `catalogue` is sorted by id
    /// and holds backups of every status; at least `minimum` of those that are
    /// DONE stay.
    pub fn judge(&self, catalogue: &[Known<'_>], minimum: u64, now: Timestamp) -> Vec<Verdict> {
        let mut verdicts = Vec::with_capacity(catalogue.len());
        let mut places = Places {
            policy: *self,
            minimum,
            limit: self.limit(now),
            taken: 0,
            window_reached: false,
        };
        for backup in catalogue.iter().rev() {
            verdicts.push(if backup.info.parent_backup_id.is_some() {
                Verdict::Incremental
            } else if backup.info.status != Status::Done {
                Verdict::NotDone
            } else {
                places.judge(backup)
            });
        }
        verdicts.reverse();
        verdicts
    }
}

/// Where the walk from the newest to the oldest backup has come to.
struct Places {
    policy: Policy,
    minimum: u64,
    limit: Option<Timestamp>,
    /// Backups that count so far.
    taken: u64,
    /// Whether the backup from which the whole window can be recovered was
    /// passed.
    window_reached: bool,
}

impl Places {
    fn judge(&mut self, backup: &Known<'_>) -> Verdict {
        let verdict = match self.policy {
            Policy::Redundancy(count) => {
                let wanted = self.taken < count.max(self.minimum);
                // A kept backup takes a place like any other.
                self.taken += 1;
                if wanted {
                    Verdict::Valid
                } else {
                    Verdict::Obsolete
                }
            }
            Policy::Window { .. } if !self.window_reached => {
                self.taken += 1;
                // Without a time it cannot be shown to be older than the window.
                let ended = backup.info.end_time.map(|time| time.instant());
                self.window_reached = ended
                    .zip(self.limit)
                    .is_some_and(|(end, limit)| end < limit);
                Verdict::Valid
            }
            Policy::Window { .. } if self.taken < self.minimum => {
                self.taken += 1;
                Verdict::NeededForMinimum
            }
            Policy::Window { .. } => Verdict::Obsolete,
        };
        if backup.keep.is_some() {
            Verdict::Kept
        } else {
            verdict
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan;
    use jiff::tz::TimeZone;

    use super::*;
    use crate::catalogue::keep::KeepTarget;
    use crate::catalogue::time;

    #[test]
    fn policies_are_read_in_any_case_and_spacing() {
        for (text, policy) in [
            ("REDUNDANCY 2", Some(Policy::Redundancy(2))),
            ("  redundancy\t0 ", Some(Policy::Redundancy(0))),
            ("RECOVERY WINDOW OF 1 DAY", Some(Policy::Window { days: 1 })),
            (
                "recovery  window of 2 Weeks",
                Some(Policy::Window { days: 14 }),
            ),
            (
                "RECOVERY WINDOW OF 3 MONTHS",
                Some(Policy::Window { days: 93 }),
            ),
            (
                "REDUNDANCY 99999999999999999999999",
                Some(Policy::Redundancy(u64::MAX)),
            ),
            ("RECOVERY WINDOW OF 1 YEAR", None),
            ("RECOVERY WINDOW 1 DAY", None),
            ("REDUNDANCY -1", None),
            ("REDUNDANCY +1", None),
            ("REDUNDANCY", None),
            ("REDUNDANCY 1 2", None),
            ("main", None),
            ("", None),
        ] {
            assert_eq!(text.parse().ok(), policy, "{text:?}");
        }
        let error = "RECOVERY WINDOW OF 1 YEAR".parse::<Policy>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "Could not create retention policy RECOVERY WINDOW OF 1 YEAR: \
             Cannot parse option retention_policy: RECOVERY WINDOW OF 1 YEAR"
        );
    }

    fn now() -> Timestamp {
        "2026-11-21T12:00:00Z".parse().unwrap()
    }

    /// A backup that ended so many hours ago; `word` is its status, `keep` for
    /// one that is DONE and kept.
    fn backup(hours_ago: i64, word: &str) -> (BackupInfo, Option<Keep>) {
        let status = match word {
            "DONE" | "keep" | "incremental" => Status::Done,
            "FAILED" => Status::Failed,
            "STARTED" => Status::Started,
            other => Status::Other(other.to_owned()),
        };
        let end = now() - hours_ago.hours();
        let info = BackupInfo {
            status,
            end_time: Some(time::Timestamp::new(end, &TimeZone::UTC)),
            parent_backup_id: (word == "incremental").then(|| "x".to_owned()),
            ..BackupInfo::default()
        };
        let keep = (word == "keep").then(|| Keep::new(KeepTarget::Full));
        (info, keep)
    }

    fn judge(policy: &str, minimum: u64, backups: &[(BackupInfo, Option<Keep>)]) -> String {
        let id = |n| BackupId::new(&format!("20261121T0000{n:02}")).unwrap();
        let ids: Vec<_> = (0..backups.len()).map(id).collect();
        let known: Vec<_> = ids
            .iter()
            .zip(backups)
            .map(|(id, (info, keep))| Known {
                id,
                info,
                keep: keep.as_ref(),
            })
            .collect();
        let verdicts = policy
            .parse::<Policy>()
            .unwrap()
            .judge(&known, minimum, now());
        let words: Vec<_> = verdicts.iter().map(ToString::to_string).collect();
        words.join(" ")
    }

    #[test]
    fn redundancy_counts_done_backups_from_the_newest_and_keeps_take_a_place() {
        let all = [
            backup(50, "DONE"),
            backup(40, "keep"),
            backup(30, "FAILED"),
            backup(20, "DONE"),
            backup(15, "incremental"),
            backup(12, "WAITING_FOR_WALS"),
            backup(10, "keep"),
            backup(0, "STARTED"),
        ];
        for (policy, minimum, expected) in [
            (
                "REDUNDANCY 0",
                0,
                "OBSOLETE KEEP - OBSOLETE incremental - KEEP -",
            ),
            (
                "REDUNDANCY 1",
                0,
                "OBSOLETE KEEP - OBSOLETE incremental - KEEP -",
            ),
            (
                "REDUNDANCY 2",
                0,
                "OBSOLETE KEEP - VALID incremental - KEEP -",
            ),
            (
                "REDUNDANCY 1",
                2,
                "OBSOLETE KEEP - VALID incremental - KEEP -",
            ),
            ("REDUNDANCY 4", 0, "VALID KEEP - VALID incremental - KEEP -"),
        ] {
            assert_eq!(judge(policy, minimum, &all), expected, "{policy} {minimum}");
        }
    }

    #[test]
    fn the_backup_that_reaches_the_windows_beginning_stays() {
        let all = [
            backup(100, "DONE"),
            backup(75, "DONE"),
            backup(49, "DONE"),
            backup(40, "FAILED"),
            backup(30, "keep"),
            backup(1, "DONE"),
        ];
        for (policy, minimum, expected) in [
            (
                "RECOVERY WINDOW OF 2 DAYS",
                0,
                "OBSOLETE OBSOLETE VALID - KEEP VALID",
            ),
            (
                "RECOVERY WINDOW OF 2 DAYS",
                4,
                "OBSOLETE OBSOLETE* VALID - KEEP VALID",
            ),
            (
                "RECOVERY WINDOW OF 0 DAYS",
                0,
                "OBSOLETE OBSOLETE OBSOLETE - KEEP VALID",
            ),
            (
                "RECOVERY WINDOW OF 9 WEEKS",
                0,
                "VALID VALID VALID - KEEP VALID",
            ),
            (
                "RECOVERY WINDOW OF 99999999999999999999 MONTHS",
                0,
                "VALID VALID VALID - KEEP VALID",
            ),
        ] {
            assert_eq!(judge(policy, minimum, &all), expected, "{policy} {minimum}");
        }
    }

    #[test]
    fn the_border_of_a_window_belongs_to_it() {
        let all = [backup(49, "DONE"), backup(48, "DONE")];
        let verdicts = judge("RECOVERY WINDOW OF 2 DAYS", 0, &all);
        assert_eq!(verdicts, "VALID VALID");
    }

    #[test]
    fn a_backup_without_an_end_cannot_close_the_window() {
        let endless = || {
            let (info, keep) = backup(0, "DONE");
            let end_time = None;
            (BackupInfo { end_time, ..info }, keep)
        };
        let all = [backup(90, "DONE"), backup(80, "DONE"), endless()];
        let verdicts = judge("RECOVERY WINDOW OF 1 DAY", 0, &all);
        assert_eq!(verdicts, "OBSOLETE VALID VALID");
    }
}
