//! WAL that was let go: what the archive has in its place.
//!
//! An archiver with `--queue-max` lets a segment go, unarchived, rather than let the
//! server's disk fill up. It leaves a text below `gaps/` for each run of such segments,
//! so that nobody takes the archive for whole. Here is what those texts say, how they
//! are called, and which base backups a gap concerns.
//!
//! Pure; a text that cannot be read is still a gap, by its name.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::info::BackupInfo;
use super::wal_cleanup::is_live;
use crate::wal::{SegmentSize, TimelineId, WalKind, WalName};

/// First line of a text: kind and version.
const MAGIC: &str = "barman-cloud WAL gap 1";

/// What names end with.
const SUFFIX: &str = ".gap";

/// How the name of a gap begins whose segments are not known.
const UNKNOWN: &str = "unknown";

/// The form of a time in a name.
const TIME: &str = "%Y%m%dT%H%M%SZ";

/// For whoever looks into the bucket.
const NOTE: &str = "These segments of write-ahead log were let go by barman-cloud-wal-archive \
                    --queue-max and were not archived. No recovery from a base backup that began \
                    before them goes past them. Take a new base backup.";

/// A run of segments that were let go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// Tells it from all others.
    pub id: String,
    /// The server, as it is named in the archive.
    pub server: String,
    /// The cluster, if the first segment names it.
    pub system: Option<u64>,
    /// The first segment.
    pub first: WalName,
    /// The last one, on the same timeline.
    pub last: WalName,
    /// Size of a segment.
    pub segment_size: SegmentSize,
    /// When the first one was let go.
    pub since: Timestamp,
    /// When the last one was.
    pub until: Timestamp,
    /// The machine.
    pub host: String,
    /// How much waited when the first one was let go, at least, in bytes.
    pub waiting: u64,
    /// How much may wait, in bytes.
    pub limit: u64,
    /// Why the first one could not be archived.
    pub why: String,
}

impl Gap {
    /// How many segments it has; at least one, which is all that can be told if their
    /// names and their size do not go together.
    pub fn count(&self) -> u64 {
        let number = |name: &WalName| Some(name.start(self.segment_size)?.0);
        let distance = number(&self.last)
            .zip(number(&self.first))
            .and_then(|(last, first)| last.checked_sub(first));
        distance.unwrap_or_default() / self.segment_size.get() + 1
    }

    /// Whether `other`, of one segment, belongs to this run or comes right after it.
    pub fn reaches(&self, other: &Self) -> bool {
        let same = self.system == other.system
            && self.server == other.server
            && self.segment_size == other.segment_size
            && self.first.timeline() == other.first.timeline();
        let next = self.last.next(self.segment_size);
        same && (covers(&self.first, &self.last, &other.first)
            || next.is_some_and(|next| next.as_str() == other.first.as_str()))
    }

    /// Takes a segment that the run reaches into it.
    pub fn take(&mut self, other: &Self) {
        if self.last.as_str() < other.last.as_str() {
            self.last = other.last.clone();
        }
        self.until = self.until.max(other.until);
    }

    /// Its name below `gaps/`.
    pub fn name(&self) -> String {
        format!("{}-{}-{}{SUFFIX}", self.first, self.last, self.id)
    }

    /// What is stored.
    pub fn to_text(&self) -> String {
        let mut text = format!("{MAGIC}\n");
        let mut line = |name: &str, value: &str| {
            let value = value.replace(char::is_control, " ");
            writeln!(text, "{name}={value}").expect("writing to a string cannot fail");
        };
        line("note", NOTE);
        line("id", &self.id);
        line("server", &self.server);
        let system = self.system.map(|system| system.to_string());
        line("system", system.as_deref().unwrap_or("unknown"));
        line("timeline", &self.first.timeline().to_string());
        line("first", self.first.as_str());
        line("last", self.last.as_str());
        line("count", &self.count().to_string());
        line("segment_size", &self.segment_size.get().to_string());
        line("since", &self.since.to_string());
        line("until", &self.until.to_string());
        line("host", &self.host);
        line("waiting", &self.waiting.to_string());
        line("queue_max", &self.limit.to_string());
        line("why", &self.why);
        text
    }

    /// Reads what is stored; `None` if it is none, or makes no sense.
    pub fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        if lines.next()? != MAGIC {
            return None;
        }
        // A later version may say more.
        let lines: Vec<_> = lines.filter_map(|line| line.split_once('=')).collect();
        let value = |name: &str| {
            let line = lines.iter().find(|(found, _)| *found == name);
            line.map(|(_, value)| (*value).to_owned())
        };
        let (first, last) = ends(&value("first")?, &value("last")?)?;
        Some(Self {
            id: value("id")?,
            server: value("server")?,
            system: value("system")?.parse().ok(),
            segment_size: SegmentSize::new(value("segment_size")?.parse().ok()?)?,
            since: value("since")?.parse().ok()?,
            until: value("until")?.parse().ok()?,
            host: value("host")?,
            waiting: value("waiting")?.parse().ok()?,
            limit: value("queue_max")?.parse().ok()?,
            why: value("why")?,
            first,
            last,
        })
    }
}

/// The name below `gaps/` of a gap whose segments cannot be told any more, found at
/// that time.
pub fn unknown_name(found: Timestamp, id: &str) -> String {
    format!("{UNKNOWN}-{}-{id}{SUFFIX}", found.strftime(TIME))
}

/// Which segments are missing, as the name of an object below `gaps/` says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extent {
    /// From the first to the last of these, of one timeline.
    Segments(WalName, WalName),
    /// Some that were let go before this time.
    Before(Timestamp),
}

impl Extent {
    /// Reads a name; `None` if it is none of a gap.
    pub fn of_name(name: &str) -> Option<Self> {
        let mut parts = name.strip_suffix(SUFFIX)?.splitn(3, '-');
        let (first, second) = (parts.next()?, parts.next()?);
        parts.next()?;
        if first == UNKNOWN {
            let time = jiff::civil::DateTime::strptime(TIME, second).ok()?;
            let time = time.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
            return Some(Self::Before(time.timestamp()));
        }
        let (first, last) = ends(first, second)?;
        Some(Self::Segments(first, last))
    }

    /// Whether nothing of `other` is missing that is not missing here.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Segments(first, last), Self::Segments(begin, end)) => {
                covers(first, last, begin) && covers(first, last, end)
            }
            (Self::Before(one), Self::Before(other)) => one >= other,
            _ => false,
        }
    }
}

fn ends(first: &str, last: &str) -> Option<(WalName, WalName)> {
    let name = |text: &str| {
        let name = text.to_ascii_uppercase().parse::<WalName>().ok()?;
        (name.kind() == WalKind::Segment).then_some(name)
    };
    let (first, last) = (name(first)?, name(last)?);
    let ordered = first.timeline() == last.timeline() && first <= last;
    ordered.then_some((first, last))
}

fn covers(first: &WalName, last: &WalName, name: &WalName) -> bool {
    (first.as_str()..=last.as_str()).contains(&name.as_str())
}

/// What a gap means for a base backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Harm {
    /// A recovery from it ends before the gap.
    StopsBefore,
    /// It needs what is missing to be consistent.
    Unusable,
}

/// What the gap means for the backup; `None` if nothing. `system` is the cluster of
/// the gap, if that is known.
///
/// A recovery along a later timeline passes through the WAL of the earlier ones, and
/// which timelines are ancestors is not looked up here: a backup of an earlier timeline
/// that began before the place of the gap is concerned.
pub fn harm(info: &BackupInfo, extent: &Extent, system: Option<u64>) -> Option<Harm> {
    let of_backup = info.systemid.as_deref().and_then(|id| id.parse().ok());
    let other_cluster = system
        .zip(of_backup)
        .is_some_and(|(gap, backup): (u64, u64)| gap != backup);
    if !is_live(info) || other_cluster {
        return None;
    }
    let (first, last) = match extent {
        Extent::Segments(first, last) => (Place::of(first)?, Place::of(last)?),
        Extent::Before(time) => {
            let began = info.begin_time?.instant();
            return (began <= *time).then_some(Harm::StopsBefore);
        }
    };
    let place = |text: &Option<String>| {
        let name = text.as_deref()?.to_ascii_uppercase().parse().ok()?;
        Place::of(&name)
    };
    let begin = place(&info.begin_wal)?;
    if begin.timeline > first.timeline || begin.position > last.position {
        return None;
    }
    let end = place(&info.end_wal).unwrap_or(begin);
    let inside = end.timeline == first.timeline && end.position >= first.position;
    Some(if inside {
        Harm::Unusable
    } else {
        Harm::StopsBefore
    })
}

/// Where a segment lies: two numbers that are compared without the segments' size.
#[derive(Debug, Clone, Copy)]
struct Place {
    timeline: TimelineId,
    position: u64,
}

impl Place {
    fn of(name: &WalName) -> Option<Self> {
        let digits = name.as_str().get(8..24)?;
        Some(Self {
            timeline: name.timeline(),
            position: u64::from_str_radix(digits, 16).ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::info::Status;

    const S4: &str = "000000010000000000000004";
    const S9: &str = "000000010000000000000009";

    fn wal(name: &str) -> WalName {
        name.parse().unwrap()
    }

    fn sample(first: &str, last: &str) -> Gap {
        Gap {
            id: "0f".into(),
            server: "main".into(),
            system: Some(7),
            first: wal(first),
            last: wal(last),
            segment_size: SegmentSize::DEFAULT,
            since: "2026-11-22T01:00:00Z".parse().unwrap(),
            until: "2026-11-22T02:00:00Z".parse().unwrap(),
            host: "db1".into(),
            waiting: 5,
            limit: 4,
            why: "refused".into(),
        }
    }

    #[test]
    fn a_text_says_what_is_missing_and_is_read_back() {
        let gap = sample(S4, "000000010000000100000003");
        // 252 to the end of the first 4 GiB, and four more.
        assert_eq!(gap.count(), 256);
        let text = gap.to_text();
        assert_eq!(Gap::parse(&text), Some(gap.clone()));
        assert!(text.contains("\ncount=256\n"), "{text}");
        let more = text.clone() + "future=1\nwithout\n";
        assert_eq!(Gap::parse(&more), Some(gap.clone()));
        // Nothing in it can begin a line.
        let why = "a\nfirst=x".to_owned();
        let odd = Gap { why, ..gap };
        assert_eq!(Gap::parse(&odd.to_text()).unwrap().why, "a first=x");
        for name in ["first", "segment_size", "since", "id", "why"] {
            let broken = text.replace(&format!("\n{name}="), "\nx=");
            assert_eq!(Gap::parse(&broken), None, "{name}");
        }
        let reversed = text.replace(S4, "000000010000000200000000");
        assert_eq!(Gap::parse(&reversed), None);
        let later = text.replacen("gap 1", "gap 2", 1);
        assert_eq!(Gap::parse(&later), None, "of a version that is not known");
        assert_eq!(Gap::parse(""), None);
    }

    #[test]
    fn a_name_says_what_is_missing() {
        let gap = sample(S4, S9);
        assert_eq!(gap.name(), format!("{S4}-{S9}-0f.gap"));
        let extent = Extent::Segments(wal(S4), wal(S9));
        assert_eq!(Extent::of_name(&gap.name()), Some(extent));
        let (lower, end) = ("00000001000000000000000a", wal("00000001000000000000000A"));
        let of_lower = Extent::Segments(end.clone(), end);
        let name = format!("{lower}-{lower}-0f.gap");
        assert_eq!(
            Extent::of_name(&name),
            Some(of_lower),
            "as servers spell it"
        );
        let found = "2026-11-22T01:02:03Z".parse().unwrap();
        let name = unknown_name(found, "0f");
        assert_eq!(name, "unknown-20261122T010203Z-0f.gap");
        assert_eq!(Extent::of_name(&name), Some(Extent::Before(found)));
        let other = "000000020000000000000009";
        for name in [
            "",
            ".gap",
            "unknown-x-0f.gap",
            &format!("{S4}-{S9}-0f"),
            &format!("{S4}-{S9}.gap"),
            &format!("{S9}-{S4}-0f.gap"),
            &format!("{S4}-{other}-0f.gap"),
            &format!("{S4}.partial-{S9}-0f.gap"),
        ] {
            assert_eq!(Extent::of_name(name), None, "{name}");
        }
    }

    #[test]
    fn segments_that_follow_each_other_are_one_run() {
        let one = |name: &str| sample(name, name);
        let mut run = sample(S4, "0000000100000000000000FE");
        for (name, reached) in [
            (S9, true),
            ("0000000100000000000000FF", true),
            ("000000010000000100000000", false),
            ("000000010000000000000003", false),
            ("0000000200000000000000FF", false),
        ] {
            assert_eq!(run.reaches(&one(name)), reached, "{name}");
        }
        let mut next = one("0000000100000000000000FF");
        next.until = "2026-11-22T03:00:00Z".parse().unwrap();
        run.take(&next);
        assert_eq!((&run.last, run.until), (&next.last, next.until));
        // The last of 4 GiB is followed by the first of the next.
        assert!(run.reaches(&one("000000010000000100000000")));
        run.take(&one(S9));
        assert_eq!(run.last, next.last);
        next.until = "2026-11-22T02:30:00Z".parse().unwrap();
        run.take(&next);
        assert_eq!(run.until.to_string(), "2026-11-22T03:00:00Z");
        assert!(run.reaches(&next));
        let changes: [fn(&mut Gap); 4] = [
            |gap| gap.system = None,
            |gap| gap.system = Some(8),
            |gap| gap.server = "other".into(),
            |gap| gap.segment_size = SegmentSize::new(1 << 20).unwrap(),
        ];
        for (index, change) in changes.into_iter().enumerate() {
            let mut other = next.clone();
            change(&mut other);
            assert!(
                !run.reaches(&other),
                "{index}: it may be of another cluster"
            );
        }
    }

    #[test]
    fn a_gap_within_another_one_is_covered() {
        let of = |first: &str, last: &str| Extent::Segments(wal(first), wal(last));
        let all = of(S4, S9);
        assert!(all.covers(&of(S4, S4)) && all.covers(&of(S9, S9)) && all.covers(&all));
        assert!(!of(S4, S4).covers(&all) && !of(S9, S9).covers(&all));
        let time = |text: &str| Extent::Before(text.parse().unwrap());
        let (early, late) = (time("2026-01-01T00:00:00Z"), time("2026-01-02T00:00:00Z"));
        assert!(late.covers(&early) && !early.covers(&late) && !early.covers(&all));
        assert!(early.covers(&early) && !all.covers(&early));
    }

    #[test]
    fn a_gap_concerns_the_backups_that_began_before_its_end() {
        let gap = Extent::Segments(
            wal("000000020000000000000010"),
            wal("000000020000000000000012"),
        );
        let backup = |status: Status, begin: &str, end: &str| BackupInfo {
            status,
            begin_wal: Some(begin.into()),
            end_wal: Some(end.into()),
            systemid: Some("7".into()),
            ..BackupInfo::default()
        };
        let (a, b, c, d) = (
            "00000002000000000000000F",
            "000000020000000000000010",
            "000000020000000000000012",
            "000000020000000000000013",
        );
        for (begin, end, expected) in [
            (a, a, Some(Harm::StopsBefore)),
            (a, b, Some(Harm::Unusable)),
            (b, d, Some(Harm::Unusable)),
            (c, c, Some(Harm::Unusable)),
            (d, d, None),
            // Perhaps an ancestor.
            (S4, S9, Some(Harm::StopsBefore)),
            ("000000010000000000000013", "000000010000000000000013", None),
            ("000000030000000000000001", "000000030000000000000001", None),
            // To the place of the gap, but on the timeline before it.
            (S9, "000000010000000000000011", Some(Harm::StopsBefore)),
            (
                "00000002000000000000000f",
                "00000002000000000000000f",
                Some(Harm::StopsBefore),
            ),
            ("nonsense", "", None),
        ] {
            let info = backup(Status::Done, begin, end);
            assert_eq!(harm(&info, &gap, Some(7)), expected, "{begin} {end}");
            assert_eq!(harm(&info, &gap, None), expected, "{begin} {end}");
            assert_eq!(harm(&info, &gap, Some(8)), None, "another cluster");
        }
        assert_eq!(harm(&backup(Status::Failed, a, a), &gap, None), None);
        let time = "2026-11-20T00:00:00Z";
        let began = BackupInfo {
            begin_time: crate::catalogue::time::Timestamp::parse(time, &jiff::tz::TimeZone::UTC)
                .ok(),
            ..backup(Status::Done, a, a)
        };
        for (before, expected) in [
            ("2026-11-19T23:59:59Z", None),
            (time, Some(Harm::StopsBefore)),
            ("2026-11-21T00:00:00Z", Some(Harm::StopsBefore)),
        ] {
            let gap = Extent::Before(before.parse().unwrap());
            assert_eq!(harm(&began, &gap, None), expected, "{before}");
        }
        let waiting = backup(Status::Other("WAITING_FOR_WALS".into()), a, a);
        assert_eq!(harm(&waiting, &gap, None), Some(Harm::StopsBefore));
    }
}
