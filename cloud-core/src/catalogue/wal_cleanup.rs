//! Which WAL goes with a base backup that is deleted.
//!
//! Pure. The reference's rules, which look at ids and texts and hardly at
//! timelines, and some of our own that only ever keep more: nothing from the
//! start of any backup that stays, whatever its id, nothing from the start
//! of a backup that is still running, and nothing of an earlier timeline that
//! lies behind that (docs/decisions.md 31).

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use jiff::{SignedDuration, Timestamp};

use super::info::{BackupInfo, Status};
use super::keep::Keep;
use super::layout::BackupId;
use super::retention::Known;
use crate::wal::{TimelineId, WalKind, WalName};

/// How long a backup counts as running after it began. Its process may have
/// died; one that takes longer is not to be expected.
const RUNNING: SignedDuration = SignedDuration::from_hours(7 * 24);

/// WAL that nobody needs after a deletion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalRules {
    /// Everything before it goes, unless something below speaks for it.
    limit: WalName,
    /// Timelines of which nothing goes.
    protected: BTreeSet<TimelineId>,
    /// First and last segment that a backup kept on its own needs.
    ranges: Vec<(WalName, WalName)>,
}

/// Why no WAL goes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WalStays {
    /// An older backup needs it.
    #[error("backup {0} is older and needs it")]
    Older(BackupId),
    /// A backup whose needs cannot be told is there.
    #[error("backup {id} has {}, so it cannot be told what it needs", begin_text(.begin.as_deref()))]
    NeedsUnknown {
        /// The backup.
        id: BackupId,
        /// Its `begin_wal` (or `end_wal`) as it stands.
        begin: Option<String>,
    },
}

impl WalStays {
    /// Whether this is a state that somebody should look into.
    pub fn is_odd(&self) -> bool {
        matches!(self, Self::NeedsUnknown { .. })
    }
}

fn begin_text(begin: Option<&str>) -> String {
    match begin {
        Some(text) => format!(
            "a position in WAL that is no segment (`{}`)",
            text.escape_debug()
        ),
        None => "no position in WAL".to_owned(),
    }
}

/// The WAL that goes with `deleted`. `catalogue` is sorted by id and holds it and
/// all backups that are still there at that moment.
pub fn after_deleting(
    deleted: &Known<'_>,
    catalogue: &[Known<'_>],
    by_policy: bool,
    now: Timestamp,
) -> Result<WalRules, WalStays> {
    let live = |backup: &&Known<'_>| is_live(backup.info);
    let mut ranges = Vec::new();
    let mut set_aside = Vec::new();
    for older in catalogue.iter().rev().filter(live) {
        if older.id >= deleted.id {
            continue;
        }
        if !by_policy || !older.keep.is_some_and(Keep::is_standalone) {
            return Err(WalStays::Older(older.id.clone()));
        }
        let end = segment(older.id, older.info.end_wal.as_deref())?;
        ranges.push((begin_of(older)?, end));
        set_aside.push(older.id);
    }
    let newer = catalogue.iter().filter(live).find(|b| b.id > deleted.id);
    let next = newer.unwrap_or(deleted);
    let mut limit = begin_of(next)?;
    for other in catalogue {
        let stays = is_live(other.info) && other.id != deleted.id && !set_aside.contains(&other.id);
        if stays || is_running(other, now) {
            limit = limit.min(begin_of(other)?);
        }
        // A keep that a deletion met at its mark: the archives are there, and whoever set it
        // relies on them.
        if other.keep.is_some()
            && other.info.is_being_deleted()
            && let Ok(begin) = begin_of(other)
        {
            limit = limit.min(begin);
        }
    }
    let of_next = timelines_of(next);
    let protected = catalogue.iter().flat_map(timelines_of);
    Ok(WalRules {
        limit,
        protected: protected.filter(|tli| !of_next.contains(tli)).collect(),
        ranges,
    })
}

/// Whether a backup can be restored, now or when its WAL has arrived.
pub fn is_live(info: &BackupInfo) -> bool {
    match &info.status {
        Status::Done => true,
        Status::Other(word) => word == "WAITING_FOR_WALS",
        Status::Empty | Status::Started | Status::Failed => false,
    }
}

/// Whether the process that takes this backup may still be at work.
fn is_running(backup: &Known<'_>, now: Timestamp) -> bool {
    if backup.info.status != Status::Started {
        return false;
    }
    let began = backup.info.begin_time.map(|time| time.instant());
    // The id is a local time; hours do not matter here.
    let began = began.or_else(|| {
        let local = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%S", backup.id.as_str()).ok()?;
        let zoned = local.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
        Some(zoned.timestamp())
    });
    began.is_none_or(|began| now.duration_since(began) < RUNNING)
}

fn begin_of(backup: &Known<'_>) -> Result<WalName, WalStays> {
    segment(backup.id, backup.info.begin_wal.as_deref())
}

/// A segment as a record names it. Anything else would be compared as a text
/// with the names in the archive, and most texts are greater than all of them.
fn segment(id: &BackupId, text: Option<&str>) -> Result<WalName, WalStays> {
    let name = text.and_then(|text| upper(text).parse::<WalName>().ok());
    let name = name.filter(|name| name.kind() == WalKind::Segment);
    name.ok_or_else(|| WalStays::NeedsUnknown {
        id: id.clone(),
        begin: text.map(str::to_owned),
    })
}

fn timelines_of(backup: &Known<'_>) -> Vec<TimelineId> {
    let begin = begin_of(backup).ok().map(|name| name.timeline());
    let field = backup.info.timeline.map(TimelineId);
    begin.into_iter().chain(field).collect()
}

/// The digits of the part of a name that says where a segment lies, in the case
/// in which servers write them.
fn upper(name: &str) -> Cow<'_, str> {
    match name.split_at_checked(24) {
        Some((digits, rest)) if digits.bytes().any(|b| b.is_ascii_lowercase()) => {
            Cow::Owned(format!("{}{rest}", digits.to_ascii_uppercase()))
        }
        _ => Cow::Borrowed(name),
    }
}

impl fmt::Display for WalRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "all before {}", self.limit)?;
        for timeline in &self.protected {
            write!(f, ", but not that of timeline {timeline}")?;
        }
        for (begin, end) in &self.ranges {
            write!(f, ", but not {begin} to {end}")?;
        }
        Ok(())
    }
}

impl WalRules {
    /// Whether a WAL file goes.
    pub fn takes(&self, name: &WalName) -> bool {
        if name.kind() == WalKind::History || self.protected.contains(&name.timeline()) {
            return false;
        }
        let text = upper(name.as_str());
        // A backup history file belongs to its segment, a partial one does not:
        // it is not what makes a backup consistent.
        let place = match name.kind() {
            WalKind::Backup => &text[..24],
            _ => &text,
        };
        // A timeline that was left ends where the next one begins. What goes on behind that
        // is of a server whose timelines began anew, by `pg_upgrade`, and may be needed by
        // a backup of it that has no record yet.
        let limit = self.limit.as_str();
        if name.timeline() < self.limit.timeline() && text[8..24] >= limit[8..24] {
            return false;
        }
        let kept =
            |(begin, end): &(WalName, WalName)| begin.as_str() <= place && place <= end.as_str();
        !self.ranges.iter().any(kept) && *text < *self.limit.as_str()
    }

    /// Whether all segments from `first` to `last`, of one timeline, go.
    pub fn takes_run(&self, first: &WalName, last: &WalName) -> bool {
        let kept = |(begin, end): &(WalName, WalName)| {
            begin.as_str() <= last.as_str() && first.as_str() <= end.as_str()
        };
        self.takes(first) && self.takes(last) && !self.ranges.iter().any(kept)
    }

    /// Whether everything in this directory of the archive goes, whatever it is.
    /// `None` if the name is not that of a directory of WAL.
    pub fn takes_directory(&self, name: &str) -> Option<bool> {
        let place = Place::of_directory(name)?;
        let limit = Place::of_segment(&self.limit)?;
        let kept = |(begin, end): &(WalName, WalName)| {
            let ends = Place::of_segment(begin).zip(Place::of_segment(end));
            ends.is_none_or(|(begin, end)| {
                (begin.timeline..=end.timeline).contains(&place.timeline)
                    && (begin.log..=end.log).contains(&place.log)
            })
        };
        Some(
            !self.protected.contains(&place.timeline)
                && !self.ranges.iter().any(kept)
                && place.timeline == limit.timeline
                && place.log < limit.log,
        )
    }
}

/// The two numbers that name a directory of the archive.
struct Place {
    timeline: TimelineId,
    log: u32,
}

impl Place {
    fn of_segment(name: &WalName) -> Option<Self> {
        Self::of_directory(&name.directory()?)
    }

    fn of_directory(name: &str) -> Option<Self> {
        let hex = name.len() == 16 && name.bytes().all(|b| b.is_ascii_hexdigit());
        let number = |digits: &str| u32::from_str_radix(digits, 16).ok();
        hex.then_some(())?;
        Some(Self {
            timeline: TimelineId(number(&name[..8])?),
            log: number(&name[8..])?,
        })
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;
    use crate::catalogue::keep::KeepTarget;
    use crate::catalogue::time;

    struct Backup(BackupId, BackupInfo, Option<Keep>);

    /// `begin` and `end` are segments, or words: `-` for none.
    fn backup(id: u32, status: &str, begin: &str, end: &str) -> Backup {
        let status = match status {
            "DONE" => Status::Done,
            "FAILED" => Status::Failed,
            "STARTED" => Status::Started,
            other => Status::Other(other.to_owned()),
        };
        let text = |text: &str| (text != "-").then(|| text.to_owned());
        let info = BackupInfo {
            status,
            begin_wal: text(begin),
            end_wal: text(end),
            timeline: begin.get(..8).and_then(|t| u32::from_str_radix(t, 16).ok()),
            begin_time: Some(time::Timestamp::new(now(), &TimeZone::UTC)),
            ..BackupInfo::default()
        };
        let id = BackupId::new(&format!("20261121T0000{id:02}")).unwrap();
        Backup(id, info, None)
    }

    fn done(id: u32, begin: &str) -> Backup {
        backup(id, "DONE", begin, begin)
    }

    impl Backup {
        fn kept(mut self, target: KeepTarget) -> Self {
            self.2 = Some(Keep::new(target));
            self
        }
    }

    fn now() -> Timestamp {
        "2026-11-21T12:00:00Z".parse().unwrap()
    }

    fn rules(backups: &[Backup], deleted: usize, by_policy: bool) -> Result<WalRules, WalStays> {
        let known: Vec<_> = backups
            .iter()
            .map(|Backup(id, info, keep)| Known {
                id,
                info,
                keep: keep.as_ref(),
            })
            .collect();
        after_deleting(&known[deleted], &known, by_policy, now())
    }

    fn takes(rules: &WalRules, name: &str) -> bool {
        rules.takes(&name.parse().unwrap())
    }

    const S4: &str = "000000010000000000000004";
    const S8: &str = "000000010000000000000008";

    #[test]
    fn wal_before_the_next_backup_goes_and_history_stays() {
        let all = [done(1, S4), done(2, S8)];
        let rules = rules(&all, 0, true).unwrap();
        for (name, goes) in [
            ("000000010000000000000001", true),
            ("000000010000000000000004.00000028.backup", true),
            ("000000010000000000000007", true),
            ("000000010000000000000007.partial", true),
            ("000000010000000000000008", false),
            ("000000010000000000000008.partial", false),
            ("000000010000000000000008.00000028.backup", false),
            ("00000001000000000000000a", false),
            ("00000001.history", false),
            ("000000020000000000000001", false),
        ] {
            assert_eq!(takes(&rules, name), goes, "{name}");
        }
    }

    #[test]
    fn an_older_backup_keeps_all_wal() {
        let all = [done(1, S4), done(2, S8)];
        let older = Err(WalStays::Older(all[0].0.clone()));
        assert_eq!(rules(&all, 1, true), older);
        let waiting = [backup(1, "WAITING_FOR_WALS", S4, S4), done(2, S8)];
        assert!(rules(&waiting, 1, true).is_err());
        let failed = [backup(1, "FAILED", S4, "-"), done(2, S8)];
        assert!(rules(&failed, 1, true).is_ok());
    }

    #[test]
    fn of_an_older_backup_kept_on_its_own_only_its_range_stays() {
        let sa = |id, begin: &str, end: &str| {
            backup(id, "DONE", begin, end).kept(KeepTarget::Standalone)
        };
        let all = [sa(1, S4, "000000010000000000000005"), done(2, S8)];
        assert!(rules(&all, 1, false).is_err(), "by id nothing goes");
        let rules = rules(&all, 1, true).unwrap();
        for (name, goes) in [
            ("000000010000000000000003", true),
            ("000000010000000000000004", false),
            ("000000010000000000000005.00000028.backup", false),
            ("000000010000000000000005.partial", true),
            ("000000010000000000000006", true),
            ("000000010000000000000008", false),
        ] {
            assert_eq!(takes(&rules, name), goes, "{name}");
        }
    }

    #[test]
    fn the_timeline_of_the_deleted_backup_stays_until_a_later_deletion() {
        let all = [done(1, S4), done(2, "000000020000000000000008")];
        let first = rules(&all, 0, true).unwrap();
        assert!(!takes(&first, "000000010000000000000001"));
        assert!(takes(&first, "000000020000000000000001"));
        let all = [
            done(2, "000000020000000000000008"),
            done(3, "000000020000000000000009"),
        ];
        let second = rules(&all, 0, true).unwrap();
        assert!(takes(&second, "000000010000000000000001"));
    }

    /// By `pg_upgrade`; the first backup of the new server may be relayed, and has no record
    /// before its end.
    #[test]
    fn wal_of_a_server_whose_timelines_began_anew_stays() {
        let all = [
            done(1, "000000050000000000000004"),
            done(2, "000000050000000100000008"),
        ];
        let rules = rules(&all, 0, true).unwrap();
        for (name, goes) in [
            ("000000050000000000000007", true),
            ("000000010000000000000007", true),
            ("000000040000000100000007", true),
            ("000000040000000100000008", false),
            ("000000010000000100000009", false),
            ("000000010000000100000009.partial", false),
            ("00000001000000010000000a.00000028.backup", false),
            ("000000010000000200000000", false),
        ] {
            assert_eq!(takes(&rules, name), goes, "{name}");
        }
        assert_eq!(rules.takes_directory("0000000100000002"), Some(false));
    }

    /// A deletion that came to its mark and no further takes nothing from who set a keep.
    #[test]
    fn a_kept_backup_with_the_mark_of_a_deletion_keeps_its_wal() {
        for target in [KeepTarget::Full, KeepTarget::Standalone] {
            let mut marked = done(1, S4).kept(target);
            marked.1 = marked.1.marked();
            let all = [marked, done(2, S8), done(3, "000000010000000000000009")];
            let rules = rules(&all, 1, true).unwrap();
            assert!(takes(&rules, "000000010000000000000003"));
            assert!(!takes(&rules, S4));
        }
    }

    #[test]
    fn whole_directories_go_only_before_that_of_the_limit() {
        let all = [
            backup(1, "DONE", S4, "000000010000000200000000").kept(KeepTarget::Standalone),
            done(2, S8),
            done(3, "000000010000000500000001"),
        ];
        let rules = rules(&all, 1, true).unwrap();
        for (name, goes) in [
            ("0000000100000000", Some(false)),
            ("0000000100000002", Some(false)),
            ("0000000100000003", Some(true)),
            ("0000000100000004", Some(true)),
            ("0000000100000005", Some(false)),
            ("0000000200000001", Some(false)),
            ("000000010000000", None),
            ("00000001.history", None),
            ("000000010000000g", None),
        ] {
            assert_eq!(rules.takes_directory(name), goes, "{name}");
        }
    }

    #[test]
    fn a_running_backup_keeps_wal_from_its_start_for_seven_days() {
        let started = |age: i64| {
            let mut b = backup(2, "STARTED", "000000010000000100000006", "-");
            let began = now() - SignedDuration::from_hours(age);
            b.1.begin_time = Some(time::Timestamp::new(began, &TimeZone::UTC));
            b
        };
        let wal = "000000010000000100000007";
        for (age, goes) in [(0, false), (167, false), (168, true), (-5, false)] {
            let all = [
                done(1, S4),
                started(age),
                done(3, "000000010000000300000009"),
            ];
            let rules = rules(&all, 0, true).unwrap();
            assert_eq!(takes(&rules, wal), goes, "{age}");
            assert!(takes(&rules, "000000010000000100000005"), "{age}");
            let whole = rules.takes_directory("0000000100000001");
            assert_eq!(whole, Some(goes), "{age}");
        }
        // The id tells the age where nothing else does.
        let mut old = started(0);
        old.1.begin_time = None;
        old.0 = BackupId::new("20261101T000000").unwrap();
        let all = [old, done(3, "000000010000000300000009")];
        assert!(takes(&rules(&all, 1, true).unwrap(), wal));
    }

    #[test]
    fn a_backup_that_stays_keeps_its_wal_whatever_its_id() {
        // The clock went back, or ids were copied from elsewhere.
        let all = [
            done(1, S4),
            done(2, S8),
            done(3, "000000010000000000000006"),
        ];
        let rules = rules(&all, 0, true).unwrap();
        assert!(takes(&rules, "000000010000000000000005"));
        assert!(!takes(&rules, "000000010000000000000006"));
    }

    #[test]
    fn a_position_that_is_no_segment_takes_nothing() {
        for odd in [
            "-",
            "zzz",
            "00000001.history",
            "000000010000000000000008.partial",
        ] {
            let all = [done(1, S4), done(2, odd)];
            let stays = rules(&all, 0, true).unwrap_err();
            assert!(stays.is_odd(), "{odd}");
            let all = [done(1, S4), done(2, S8), done(3, odd)];
            assert!(rules(&all, 0, true).is_err(), "{odd}");
        }
        let alone = [backup(1, "FAILED", "-", "-")];
        assert!(rules(&alone, 0, false).is_err());
    }
}
