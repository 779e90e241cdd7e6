//! Which base backup is meant.
//!
//! Pure: the catalogue comes in, a backup or the reason why there is none goes
//! out.

use std::collections::BTreeMap;

use super::info::{BackupInfo, Status};
use super::layout::BackupId;
use super::time::Timestamp;
use crate::wal::{History, Lsn, TimelineId};

/// Words that are shortcuts, now or in other tools, and so no names.
const RESERVED: [&str; 8] = [
    "latest",
    "last",
    "oldest",
    "first",
    "last-failed",
    "latest-full",
    "last-full",
    "auto",
];

/// Why no backup can be chosen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// Neither an id, nor a shortcut that finds one, nor a name.
    #[error("Unknown backup '{text}' for server '{server}'")]
    Unknown {
        /// What was asked for.
        text: String,
        /// Name of the server.
        server: String,
    },
    /// Several backups have that name.
    #[error("Multiple backups found matching name '{name}' (try using backup ID instead): {}", ids.join(" "))]
    Ambiguous {
        /// What was asked for.
        name: String,
        /// The backups that have it.
        ids: Vec<String>,
    },
    /// No backup is good for the recovery target.
    #[error("Cannot find any candidate backup for recovery.")]
    NoCandidate,
}

/// Why a text cannot be the name of a backup.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBackupName {
    /// It is empty.
    #[error("Backup name cannot be empty")]
    Empty,
    /// It has the form of an id.
    #[error("Backup name '{0}' is not allowed because it matches the format of a backup ID")]
    LooksLikeId(String),
    /// It is a shortcut.
    #[error("Backup name '{0}' is not allowed because it is a reserved word")]
    Reserved(String),
}

/// Checks the name of a new backup.
pub fn check_backup_name(name: &str) -> Result<(), InvalidBackupName> {
    if name.is_empty() {
        Err(InvalidBackupName::Empty)
    } else if BackupId::is_canonical(name) {
        Err(InvalidBackupName::LooksLikeId(name.to_owned()))
    } else if RESERVED.contains(&name) {
        Err(InvalidBackupName::Reserved(name.to_owned()))
    } else {
        Ok(())
    }
}

/// A backup that can be chosen.
pub type Candidate<'a> = (&'a BackupId, &'a BackupInfo);

/// The backup that a shortcut or a name stands for, among `catalogue` sorted by
/// id. Ids never come here: they are taken as they are.
///
/// `last`, `latest`, `first` and `oldest` choose among the backups that are
/// DONE. (The reference also chooses FAILED ones, which cannot be restored;
/// `last-failed` still finds those.)
pub fn by_word<'a>(
    text: &str,
    catalogue: &[Candidate<'a>],
    server: &str,
) -> Result<&'a BackupId, SelectError> {
    let done = || {
        catalogue
            .iter()
            .filter(|(_, info)| info.status == Status::Done)
    };
    let found = match text {
        "last" | "latest" => done().next_back(),
        "first" | "oldest" => done().next(),
        "last-failed" => catalogue
            .iter()
            .rfind(|(_, info)| info.status == Status::Failed),
        _ => None,
    };
    if let Some((id, _)) = found {
        return Ok(id);
    }
    let named: Vec<_> = catalogue
        .iter()
        .filter(|(_, info)| info.backup_name.as_deref() == Some(text))
        .map(|(id, _)| *id)
        .collect();
    match named[..] {
        [id] => Ok(id),
        [] => Err(SelectError::Unknown {
            text: text.to_owned(),
            server: server.to_owned(),
        }),
        _ => Err(SelectError::Ambiguous {
            name: text.to_owned(),
            ids: named.iter().map(ToString::to_string).collect(),
        }),
    }
}

/// Where recovery is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Target {
    /// The timeline to follow.
    pub timeline: Option<TimelineId>,
    /// The point on it; a time goes before a position.
    pub time: Option<Timestamp>,
    /// The position on it.
    pub lsn: Option<Lsn>,
}

/// The newest backup from which recovery can reach `target`: DONE, ended
/// before it, and on a timeline that the target's comes from, ended before the
/// fork (docs/decisions.md 29). `catalogue` is sorted by id.
///
/// Without the history of a timeline only backups on that timeline itself
/// count.
pub fn for_target<'a>(
    target: &Target,
    catalogue: &[Candidate<'a>],
    histories: &BTreeMap<TimelineId, History>,
) -> Result<&'a BackupId, SelectError> {
    let first;
    let history = match target.timeline {
        None => None,
        Some(timeline) => Some(if let Some(history) = histories.get(&timeline) {
            history
        } else {
            first = History::of_first(timeline);
            &first
        }),
    };
    let fits = |info: &BackupInfo| -> Option<bool> {
        if info.status != Status::Done {
            return Some(false);
        }
        let end: Lsn = info.end_xlog.as_deref()?.parse().ok()?;
        let timely = match (&target.time, &target.lsn) {
            (Some(time), _) => info.end_time?.instant() <= time.instant(),
            (None, Some(lsn)) => end <= *lsn,
            (None, None) => true,
        };
        let on_the_way = match history {
            None => true,
            Some(history) => match history.contains(TimelineId(info.timeline?)) {
                None => false,
                Some(None) => true,
                Some(Some(fork)) => end <= fork,
            },
        };
        Some(timely && on_the_way)
    };
    let newest = catalogue.iter().rfind(|(_, info)| fits(info) == Some(true));
    newest.map(|(id, _)| *id).ok_or(SelectError::NoCandidate)
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;

    fn backup(status: Status, name: Option<&str>) -> BackupInfo {
        BackupInfo {
            status,
            backup_name: name.map(str::to_owned),
            ..BackupInfo::default()
        }
    }

    fn catalogue(infos: &[BackupInfo]) -> Vec<(BackupId, BackupInfo)> {
        let id = |n: usize| BackupId::new(&format!("20261121T00000{n}")).unwrap();
        infos
            .iter()
            .enumerate()
            .map(|(n, info)| (id(n), info.clone()))
            .collect()
    }

    fn view(catalogue: &[(BackupId, BackupInfo)]) -> Vec<Candidate<'_>> {
        catalogue.iter().map(|(id, info)| (id, info)).collect()
    }

    #[test]
    fn shortcuts_and_names_find_their_backup() {
        let all = catalogue(&[
            backup(Status::Failed, None),
            backup(Status::Done, Some("one")),
            backup(Status::Done, Some("two")),
            backup(Status::Failed, Some("bad")),
            backup(Status::Started, Some("two")),
        ]);
        let find = |text| by_word(text, &view(&all), "main").map(|id| id.as_str().to_owned());
        for (text, id) in [
            ("first", 1),
            ("oldest", 1),
            ("last", 2),
            ("latest", 2),
            ("last-failed", 3),
            ("one", 1),
            ("bad", 3),
        ] {
            assert_eq!(find(text), Ok(format!("20261121T00000{id}")), "{text}");
        }
        assert_eq!(
            find("two").unwrap_err().to_string(),
            "Multiple backups found matching name 'two' (try using backup ID instead): \
             20261121T000002 20261121T000004"
        );
        assert_eq!(
            find("One").unwrap_err().to_string(),
            "Unknown backup 'One' for server 'main'"
        );
        let empty = by_word("latest", &[], "main");
        assert_eq!(
            empty.unwrap_err().to_string(),
            "Unknown backup 'latest' for server 'main'"
        );
    }

    #[test]
    fn names_that_mean_something_else_are_refused() {
        for name in ["", "20261121T000000", "latest", "auto", "last-full"] {
            assert!(check_backup_name(name).is_err(), "{name}");
        }
        for name in ["Latest", "a b", "x/y=z", "20261121T00000"] {
            assert!(check_backup_name(name).is_ok(), "{name}");
        }
    }

    fn done(timeline: u32, end_time: &str, end_xlog: &str) -> BackupInfo {
        BackupInfo {
            status: Status::Done,
            timeline: Some(timeline),
            end_time: Some(Timestamp::parse(end_time, &TimeZone::UTC).unwrap()),
            end_xlog: Some(end_xlog.to_owned()),
            ..BackupInfo::default()
        }
    }

    #[test]
    fn only_a_backup_from_which_the_target_can_be_reached_is_chosen() {
        let all = catalogue(&[
            done(1, "2026-11-21 01:00:00Z", "0/1000000"),
            done(1, "2026-11-21 03:00:00Z", "0/5000000"),
            done(2, "2026-11-21 04:00:00Z", "0/4000000"),
            done(3, "2026-11-21 05:00:00Z", "0/9000000"),
            backup(Status::Failed, None),
        ]);
        let mut histories = BTreeMap::new();
        for (timeline, text) in [(2, "1\t0/3000000\tx\n"), (3, "1\t0/6000000\tx\n")] {
            let history = History::parse(TimelineId(timeline), text).unwrap();
            histories.insert(TimelineId(timeline), history);
        }
        let find = |timeline: Option<u32>, time: Option<&str>, lsn: Option<&str>| {
            let target = Target {
                timeline: timeline.map(TimelineId),
                time: time.map(|time| Timestamp::parse(time, &TimeZone::UTC).unwrap()),
                lsn: lsn.map(|lsn| lsn.parse().unwrap()),
            };
            let found = for_target(&target, &view(&all), &histories);
            found
                .ok()
                .and_then(|id| all.iter().position(|(other, _)| other == id))
        };
        assert_eq!(find(None, None, None), Some(3));
        assert_eq!(find(Some(1), None, None), Some(1));
        assert_eq!(find(Some(2), None, None), Some(2));
        assert_eq!(
            find(Some(2), Some("2026-11-21 03:30:00Z"), None),
            Some(0),
            "1 ended after the fork"
        );
        assert_eq!(find(Some(3), Some("2026-11-21 03:30:00Z"), None), Some(1));
        assert_eq!(find(None, None, Some("0/4FFFFFF")), Some(2));
        assert_eq!(find(Some(1), None, Some("0/4FFFFFF")), Some(0));
        assert_eq!(find(None, Some("2026-11-21 00:30:00Z"), None), None);
        assert_eq!(find(Some(4), None, None), None);
    }
}
