//! Which base backup is meant.
//!
//! Pure: the catalogue comes in, a backup or the reason why there is none goes
//! out.

use std::str::FromStr;

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
    #[error("the name of a backup cannot be empty")]
    Empty,
    /// It has the form of an id.
    #[error("'{0}' looks like the id of a backup and cannot be its name")]
    LooksLikeId(String),
    /// It is a shortcut.
    #[error("'{0}' is a word with a meaning of its own and cannot be the name of a backup")]
    Reserved(String),
    /// It would not fit into one line of `backup.info`.
    #[error("Backup name '{}' is not allowed because it has several lines", .0.escape_debug())]
    SeveralLines(String),
}

/// Checks the name of a new backup.
pub fn check_backup_name(name: &str) -> Result<(), InvalidBackupName> {
    if name.is_empty() {
        Err(InvalidBackupName::Empty)
    } else if BackupId::is_canonical(name) {
        Err(InvalidBackupName::LooksLikeId(name.to_owned()))
    } else if RESERVED.contains(&name) {
        Err(InvalidBackupName::Reserved(name.to_owned()))
    } else if name.contains(['\n', '\r']) {
        Err(InvalidBackupName::SeveralLines(name.to_owned()))
    } else {
        Ok(())
    }
}

/// A backup that can be chosen.
pub type Candidate<'a> = (&'a BackupId, &'a BackupInfo);

/// Which backups `last`, `latest`, `first` and `oldest` choose among.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Among {
    /// Those that are DONE: what a restore can use. (The reference may choose a
    /// FAILED one here, which restores into nothing that starts.)
    Complete,
    /// Those that are not STARTED, FAILED ones included, as the reference does:
    /// for show, keep and delete. `delete -b latest` after a failed backup must
    /// not find the good one before it.
    Finished,
}

/// The backup that a shortcut or a name stands for, among `catalogue` sorted by
/// id. Ids never come here: they are taken as they are.
///
/// A shortcut that finds nothing is looked up as a name. Names may belong to
/// backups of any status.
pub fn by_word<'a>(
    text: &str,
    among: Among,
    catalogue: &[Candidate<'a>],
    server: &str,
) -> Result<&'a BackupId, SelectError> {
    let mut eligible = catalogue.iter().filter(|(_, info)| match among {
        Among::Complete => info.status == Status::Done,
        Among::Finished => info.status != Status::Started,
    });
    let found = match text {
        "last" | "latest" => eligible.next_back(),
        "first" | "oldest" => eligible.next(),
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

/// A timeline as `--target-tli` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetTimeline {
    /// The cluster's own: that of the newest backup that is DONE. (The reference
    /// refuses the word when it comes to choosing a backup.)
    Current,
    /// The newest that the archive knows.
    Latest,
    /// This one.
    Number(TimelineId),
}

/// A text that names no timeline.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is no timeline (`current`, `latest` or a number from 1)", .0.escape_debug())]
pub struct InvalidTimeline(pub String);

impl FromStr for TargetTimeline {
    type Err = InvalidTimeline;

    fn from_str(text: &str) -> Result<Self, InvalidTimeline> {
        match text {
            "current" => Ok(Self::Current),
            "latest" => Ok(Self::Latest),
            number => match number.trim().parse() {
                Ok(number) if number > 0 => Ok(Self::Number(TimelineId(number))),
                _ => Err(InvalidTimeline(text.to_owned())),
            },
        }
    }
}

impl TargetTimeline {
    /// The timeline meant, given the newest one of the archive.
    ///
    /// # Errors
    ///
    /// `NoCandidate` if there is no such timeline: an archive without WAL, a
    /// catalogue without a backup that is DONE.
    pub fn resolve(
        self,
        newest_in_archive: Option<TimelineId>,
        catalogue: &[Candidate<'_>],
    ) -> Result<TimelineId, SelectError> {
        let newest_done = || {
            let done = catalogue
                .iter()
                .rfind(|(_, info)| info.status == Status::Done)?;
            done.1.timeline.map(TimelineId)
        };
        match self {
            Self::Number(timeline) => Some(timeline),
            Self::Latest => newest_in_archive,
            Self::Current => newest_done(),
        }
        .ok_or(SelectError::NoCandidate)
    }
}

/// Where recovery is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Target {
    /// The timeline to follow. Without one, backups of all timelines count, as
    /// with the reference: taking the newest timeline instead could quietly
    /// prefer the history of some trial recovery to that of the server.
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
/// `history` is that of the target's timeline; without it only backups on that
/// timeline itself count.
pub fn for_target<'a>(
    target: &Target,
    catalogue: &[Candidate<'a>],
    history: Option<&History>,
) -> Result<&'a BackupId, SelectError> {
    let first;
    let history = match (target.timeline, history) {
        (None, _) => None,
        (Some(timeline), Some(history)) if history.timeline() == timeline => Some(history),
        (Some(timeline), _) => {
            first = History::of_first(timeline);
            Some(&first)
        }
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
            Some(history) => history.contains(TimelineId(info.timeline?), end),
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
        let word = |text, among| {
            by_word(text, among, &view(&all), "main").map(|id| id.as_str().to_owned())
        };
        let find = |text| word(text, Among::Complete);
        for (text, complete, finished) in [
            ("first", 1, 0),
            ("oldest", 1, 0),
            ("last", 2, 3),
            ("latest", 2, 3),
            ("last-failed", 3, 3),
            ("one", 1, 1),
            ("bad", 3, 3),
        ] {
            for (among, id) in [(Among::Complete, complete), (Among::Finished, finished)] {
                let expected = Ok(format!("20261121T00000{id}"));
                assert_eq!(word(text, among), expected, "{text} {among:?}");
            }
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
        let empty = by_word("latest", Among::Complete, &[], "main");
        assert_eq!(
            empty.unwrap_err().to_string(),
            "Unknown backup 'latest' for server 'main'"
        );
    }

    #[test]
    fn names_that_mean_something_else_are_refused() {
        for name in [
            "",
            "20261121T000000",
            "latest",
            "auto",
            "last-full",
            "a\nb",
            "a\r",
        ] {
            assert!(check_backup_name(name).is_err(), "{name}");
        }
        for name in ["Latest", "a b", "x/y=z", "20261121T00000"] {
            assert!(check_backup_name(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn a_shortcut_that_finds_nothing_is_a_name() {
        let all = catalogue(&[backup(Status::Started, Some("latest"))]);
        let found = by_word("latest", Among::Finished, &view(&all), "main");
        assert_eq!(found, Ok(&all[0].0));
    }

    #[test]
    fn a_target_timeline_is_a_word_or_a_number() {
        for (text, expected) in [
            ("current", Some(TargetTimeline::Current)),
            ("latest", Some(TargetTimeline::Latest)),
            ("26", Some(TargetTimeline::Number(TimelineId(26)))),
            ("0", None),
            ("-1", None),
            ("1A", None),
            ("Latest", None),
            ("", None),
            ("4294967296", None),
        ] {
            assert_eq!(text.parse().ok(), expected, "{text}");
        }
    }

    #[test]
    fn words_for_timelines_are_resolved_from_archive_and_catalogue() {
        let all = catalogue(&[
            done(2, "2026-11-21 01:00:00Z", "0/1000000"),
            BackupInfo {
                timeline: Some(3),
                ..backup(Status::Failed, None)
            },
        ]);
        let archive = Some(TimelineId(7));
        for (word, newest, expected) in [
            (TargetTimeline::Current, archive, Ok(TimelineId(2))),
            (TargetTimeline::Latest, archive, Ok(TimelineId(7))),
            (TargetTimeline::Latest, None, Err(SelectError::NoCandidate)),
            (
                TargetTimeline::Number(TimelineId(5)),
                None,
                Ok(TimelineId(5)),
            ),
        ] {
            assert_eq!(word.resolve(newest, &view(&all)), expected, "{word:?}");
        }
        let none = TargetTimeline::Current.resolve(archive, &[]);
        assert_eq!(none, Err(SelectError::NoCandidate));
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
        let mut histories = std::collections::BTreeMap::new();
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
            let history = timeline.and_then(|timeline| histories.get(&TimelineId(timeline)));
            let found = for_target(&target, &view(&all), history);
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

    #[test]
    fn a_backup_that_is_not_done_is_no_candidate_however_well_it_fits() {
        for status in [
            Status::Failed,
            Status::Started,
            Status::Empty,
            Status::Other("WAITING_FOR_WALS".into()),
        ] {
            let good = done(1, "2026-11-21 01:00:00Z", "0/1000000");
            let newer = BackupInfo {
                status: status.clone(),
                ..done(1, "2026-11-21 02:00:00Z", "0/2000000")
            };
            let all = catalogue(&[good, newer]);
            let found = for_target(&Target::default(), &view(&all), None);
            assert_eq!(found, Ok(&all[0].0), "{status}");
        }
    }

    #[test]
    fn the_borders_belong_to_the_candidates() {
        let end = "2026-11-21 01:00:00Z";
        let all = catalogue(&[done(1, end, "0/3000000")]);
        let history = History::parse(TimelineId(2), "1\t0/3000000\tx\n").unwrap();
        let target = |timeline, time: Option<&str>, lsn| Target {
            timeline,
            time: time.map(|time| Timestamp::parse(time, &TimeZone::UTC).unwrap()),
            lsn,
        };
        let border = Lsn(0x300_0000);
        for (target, found) in [
            (target(Some(TimelineId(2)), None, None), true),
            (target(None, Some(end), None), true),
            (
                target(None, Some("2026-11-21 00:59:59.999999Z"), None),
                false,
            ),
            (target(None, None, Some(border)), true),
            (target(None, None, Some(Lsn(border.0 - 1))), false),
            // A time goes before a position.
            (target(None, Some(end), Some(Lsn(0))), true),
        ] {
            let answer = for_target(&target, &view(&all), Some(&history));
            assert_eq!(answer.is_ok(), found, "{target:?}");
        }
        // A record without an end cannot be shown to have ended in time.
        let endless = BackupInfo {
            end_time: None,
            ..all[0].1.clone()
        };
        let all = catalogue(&[endless]);
        let answer = for_target(&target(None, Some(end), None), &view(&all), None);
        assert_eq!(answer, Err(SelectError::NoCandidate));
    }
}
