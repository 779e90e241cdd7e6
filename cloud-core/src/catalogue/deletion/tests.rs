//! Plans for random catalogues, compared with the rules as a user would state
//! them: not how a plan is made, but what must never be in it.

use std::collections::BTreeSet;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use super::*;
use crate::catalogue::info::BackupInfo;
use crate::catalogue::keep::{Keep, KeepTarget};
use crate::catalogue::time;
use crate::wal::{WalKind, WalName};

/// A backup of a random catalogue.
#[derive(Debug, Clone)]
struct Backup {
    id: BackupId,
    info: BackupInfo,
    keep: Option<Keep>,
}

impl Backup {
    fn known(&self) -> Known<'_> {
        Known {
            id: &self.id,
            info: &self.info,
            keep: self.keep.as_ref(),
        }
    }

    fn is_done(&self) -> bool {
        self.info.status == Status::Done
    }

    /// Whether a policy may look at it at all.
    fn counts(&self) -> bool {
        self.is_done() && self.info.parent_backup_id.is_none()
    }

    fn end(&self) -> Timestamp {
        self.info.end_time.unwrap().instant()
    }

    /// The WAL without which it is worth nothing, or less.
    fn needs(&self, wal: &WalName) -> bool {
        if wal.kind() == WalKind::History {
            return true;
        }
        let (Some(begin), Some(end)) = (&self.info.begin_wal, &self.info.end_wal) else {
            return false;
        };
        let segment = &wal.as_str()[..24];
        let alone = self.keep.as_ref().is_some_and(Keep::is_standalone);
        let until_its_end = wal.kind() != WalKind::Partial || segment < end.as_str();
        if alone {
            begin.as_str() <= segment && segment <= end.as_str() && until_its_end
        } else {
            // Everything that recovery can go on to, on later timelines too.
            begin.as_str() <= segment
        }
    }

    fn is_running(&self) -> bool {
        let begin = self.info.begin_time.unwrap().instant();
        self.info.status == Status::Started
            && now().duration_since(begin) < SignedDuration::from_hours(7 * 24)
    }
}

fn now() -> Timestamp {
    "2026-11-21T12:00:00Z".parse().unwrap()
}

fn at(hours_ago: i64) -> time::Timestamp {
    time::Timestamp::new(
        now() - SignedDuration::from_hours(hours_ago),
        &TimeZone::UTC,
    )
}

fn segment(timeline: u32, number: u32) -> String {
    format!("{timeline:08X}{:08X}{:08X}", number >> 3, number & 7)
}

/// How many segments the archives of these tests have, eight to a directory.
const SEGMENTS: u32 = 64;

/// One step from a backup to the next: hours, segments, whether the timeline
/// changes, the status, the keep, and what is odd.
type Draw = (i64, i32, u8, u8, u8, u8);

fn catalogue(draws: &[Draw]) -> Vec<Backup> {
    let mut all = Vec::new();
    let (mut hours_ago, mut place, mut timeline) = (24 * 30, 5_i32, 1_u32);
    for (number, (hours, segments, switch, status, keep, odd)) in draws.iter().enumerate() {
        hours_ago -= hours;
        // Mostly forward; now and then back, as after a restored clock.
        place = (place + segments).clamp(1, SEGMENTS.cast_signed() - 4);
        timeline = match switch {
            0 => timeline + 1,
            1 => timeline.saturating_sub(1).max(1),
            _ => timeline,
        };
        let begin = segment(timeline, place.unsigned_abs());
        let end = segment(timeline, place.unsigned_abs() + u32::from(*odd % 3));
        let mut info = BackupInfo {
            status: match status {
                0 => Status::Failed,
                1 => Status::Started,
                2 => Status::Other("WAITING_FOR_WALS".into()),
                3 => Status::Empty,
                _ => Status::Done,
            },
            timeline: Some(timeline),
            begin_wal: Some(begin),
            // Young ones are rare that far back, and those are what matters.
            begin_time: Some(at(if *status == 1 {
                hours_ago % 300
            } else {
                hours_ago + 1
            })),
            end_wal: Some(end),
            end_time: Some(at(hours_ago)),
            ..BackupInfo::default()
        };
        match odd {
            0 => info.parent_backup_id = Some("20200101T000000".into()),
            1 => info = info.marked(),
            2 => info.children_backup_ids = Some("x".into()),
            3 => info.backup_name = Some("odd = \n '\u{1f418}".into()),
            4 if info.status != Status::Done => info.begin_wal = None,
            _ => {}
        }
        let keep = match keep {
            0 => Some(Keep::new(KeepTarget::Full)),
            1 | 2 => Some(Keep::new(KeepTarget::Standalone)),
            3 => Some(Keep::read(b"")),
            4 => Some(Keep::read(b"of another kind")),
            _ => None,
        };
        let id = BackupId::new(&format!("202611{:02}T{number:06}", number + 1)).unwrap();
        all.push(Backup { id, info, keep });
    }
    all
}

/// An archive with gaps, of which `odd` decides.
fn archive(odd: u32) -> Vec<WalName> {
    let mut names = Vec::new();
    for timeline in 1..=4 {
        names.push(format!("{timeline:08X}.history"));
        for number in 0..SEGMENTS {
            let name = segment(timeline, number);
            match (number + timeline) % (odd + 5) {
                0 => {}
                1 => names.extend([format!("{name}.00000028.backup"), name]),
                2 => names.extend([format!("{name}.partial"), name]),
                _ => names.push(name),
            }
        }
    }
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn draws() -> impl Strategy<Value = Vec<Draw>> {
    let draw = (
        0..60_i64,
        -3..12_i32,
        0..12_u8,
        0..20_u8,
        0..16_u8,
        0..14_u8,
    );
    prop::collection::vec(draw, 0..14)
}

fn policies() -> impl Strategy<Value = Policy> {
    prop_oneof![
        (0..6_u64).prop_map(Policy::Redundancy),
        (0..40_u64).prop_map(|days| Policy::Window { days }),
    ]
}

fn plan_of(all: &[Backup], what: &What, minimum: u64) -> Result<Plan, Refusal> {
    let known: Vec<_> = all.iter().map(Backup::known).collect();
    plan(&known, what, minimum, now())
}

/// What a plan takes of an archive, in files and in whole directories.
fn taken(plan: &Plan, archive: &[WalName]) -> BTreeSet<String> {
    let rules: Vec<_> = plan
        .steps
        .iter()
        .filter_map(|s| s.wal.as_ref().ok())
        .collect();
    let goes = |name: &&WalName| {
        rules.iter().any(|rules| {
            let directory = name.directory();
            let whole = directory.and_then(|name| rules.takes_directory(&name));
            rules.takes(name) || whole == Some(true)
        })
    };
    let names = archive.iter().filter(goes);
    names.map(|name| name.as_str().to_owned()).collect()
}

/// What must hold of every plan.
fn check_plan(all: &[Backup], plan: &Plan, archive: &[WalName]) -> Result<(), TestCaseError> {
    let goes = |backup: &&Backup| plan.steps.iter().any(|step| step.id == backup.id);
    let stays = |backup: &&Backup| !goes(backup);
    let taken = taken(plan, archive);
    for backup in all.iter().filter(goes) {
        prop_assert!(backup.keep.is_none(), "{} is kept", backup.id);
    }
    let in_need = all.iter().filter(stays).filter(|backup| {
        backup.is_done() || backup.info.status == Status::Other("WAITING_FOR_WALS".into())
    });
    for backup in in_need {
        for wal in archive.iter().filter(|wal| backup.needs(wal)) {
            let name = wal.as_str();
            prop_assert!(!taken.contains(name), "{} needs {name}", backup.id);
        }
    }
    for backup in all.iter().filter(|backup| backup.is_running()) {
        let begin = backup.info.begin_wal.as_deref().unwrap_or_default();
        let needed = taken.iter().find(|name| name.as_str() >= begin);
        prop_assert!(needed.is_none(), "{} runs and needs {needed:?}", backup.id);
    }
    let told = plan.steps.len() + plan.stay.len();
    prop_assert_eq!(told, all.len(), "each backup stays or goes");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_policy_takes_nothing_that_is_needed(
        draws in draws(),
        policy in policies(),
        minimum in 0..5_u64,
        odd in 0..4_u32,
    ) {
        let all = catalogue(&draws);
        let archive = archive(odd);
        let plan = plan_of(&all, &What::Policy(policy), minimum).unwrap();
        check_plan(&all, &plan, &archive)?;
        let goes = |backup: &&Backup| plan.steps.iter().any(|step| step.id == backup.id);
        for backup in all.iter().filter(goes) {
            prop_assert!(backup.counts() || backup.info.is_being_deleted(), "{}", backup.id);
        }
        let before = all.iter().filter(|backup| backup.counts());
        let after: Vec<_> = before.clone().filter(|backup| !goes(backup)).collect();
        let wanted = match policy {
            Policy::Redundancy(count) => count.max(minimum),
            Policy::Window { .. } => minimum,
        };
        prop_assert!(after.len() as u64 >= wanted.min(before.clone().count() as u64));
        if let Policy::Window { days } = policy {
            // Whatever could be recovered within the window still can.
            for hour in 0..=i64::try_from(days * 24).unwrap() {
                let time = now() - SignedDuration::from_hours(hour);
                let reaches = |backup: &&Backup| backup.end() <= time;
                let could = before.clone().any(|backup| reaches(&backup));
                prop_assert!(!could || after.iter().copied().any(|b| reaches(&b)), "{time}");
            }
        }
    }

    #[test]
    fn a_second_run_finds_nothing_to_do(
        draws in draws(),
        policy in policies(),
        minimum in 0..5_u64,
    ) {
        let mut all = catalogue(&draws);
        let what = What::Policy(policy);
        let first = plan_of(&all, &what, minimum).unwrap();
        all.retain(|backup| first.steps.iter().all(|step| step.id != backup.id));
        let second = plan_of(&all, &what, minimum).unwrap();
        prop_assert_eq!(second.steps, []);
    }

    #[test]
    fn one_backup_takes_nothing_that_is_needed(
        draws in draws(),
        which in any::<prop::sample::Index>(),
        minimum in 0..5_u64,
        odd in 0..4_u32,
    ) {
        let all = catalogue(&draws);
        prop_assume!(!all.is_empty());
        let asked = which.get(&all);
        match plan_of(&all, &What::Backup(asked.id.clone()), minimum) {
            Ok(plan) => {
                check_plan(&all, &plan, &archive(odd))?;
                prop_assert!(plan.steps.iter().any(|step| step.id == asked.id));
                let others = |step: &&Step| step.id != asked.id;
                for step in plan.steps.iter().filter(others) {
                    prop_assert_eq!(step.why, Why::Unfinished);
                }
                let usable = |b: &&Backup| {
                    b.info.status != Status::Started && !b.info.is_being_deleted()
                };
                prop_assert!(minimum == 0 || all.iter().filter(usable).count() as u64 > minimum);
            }
            Err(Refusal::Kept) => prop_assert!(asked.keep.is_some()),
            Err(Refusal::TooFew { current }) => prop_assert!(minimum >= current),
            Err(Refusal::Absent) => prop_assert!(false, "it is there"),
        }
    }
}

fn one(status: Status) -> Backup {
    let mut all = catalogue(&[(1, 1, 9, 9, 9, 9)]);
    all[0].info.status = status;
    all.remove(0)
}

#[test]
fn a_marked_record_is_recognised_and_holds_no_end() {
    let info = one(Status::Done).info.marked();
    assert_eq!(info.status, Status::Failed);
    assert_eq!(
        (info.end_time, &info.end_wal, &info.end_xlog),
        (None, &None, &None)
    );
    assert!(info.begin_wal.is_some());
    let read = BackupInfo::parse(info.to_text().as_bytes(), &TimeZone::UTC).unwrap();
    assert!(read.is_being_deleted());
    assert!(!one(Status::Done).info.is_being_deleted());
    let failed = BackupInfo {
        error: Some("failure uploading data (no)".into()),
        ..one(Status::Failed).info
    };
    assert!(!failed.is_being_deleted());
}

#[test]
fn an_unfinished_deletion_comes_first_unless_it_is_kept() {
    let mut all = catalogue(&[(9, 1, 9, 9, 9, 9); 4]);
    all[2].info = all[2].info.marked();
    let what = What::Policy(Policy::Redundancy(1));
    let steps = |all: &[Backup]| -> Vec<(BackupId, Why)> {
        let plan = plan_of(all, &what, 0).unwrap();
        plan.steps
            .into_iter()
            .map(|step| (step.id, step.why))
            .collect()
    };
    let obsolete = Why::Policy(Verdict::Obsolete);
    let ids: Vec<_> = all.iter().map(|backup| backup.id.clone()).collect();
    assert_eq!(
        steps(&all),
        [
            (ids[2].clone(), Why::Unfinished),
            (ids[0].clone(), obsolete),
            (ids[1].clone(), obsolete),
        ]
    );
    all[2].keep = Some(Keep::new(KeepTarget::Full));
    assert_eq!(
        steps(&all),
        [(ids[0].clone(), obsolete), (ids[1].clone(), obsolete)]
    );
}
