//! Records and annotations that changed while they were stored.
//!
//! A catalogue of three backups, of which a deletion is to take the oldest: what
//! the other two need must be there after it, whatever a damaged object says.

use std::collections::BTreeMap;
use std::fs;

use e2e::{Damage, Objects, Row, Run, Section, Workspace, golden, of_sample_or_whole};
use jiff::{SignedDuration, Timestamp};

/// Days ago that each backup was taken, and the number of its first segment.
const BACKUPS: [(i64, u32); 3] = [(20, 4), (10, 8), (3, 12)];

/// Segments in the archive, from 1.
const SEGMENTS: u32 = 16;

/// Ways to ask for the oldest backup's deletion; `$OLD` is its id.
const REQUESTS: [&[&str]; 3] = [
    &["-r", "REDUNDANCY 2"],
    &["-r", "RECOVERY WINDOW OF 7 DAYS"],
    &["-b", "$OLD"],
];

/// Fields that a deletion goes by: half of the flips happen in them.
const DECIDING: [&str; 7] = [
    "begin_wal=",
    "begin_xlog=",
    "end_time=",
    "end_wal=",
    "status=",
    "timeline=",
    "xlog_segment_size=",
];

fn segment(number: u32) -> String {
    format!("0000000100000000{number:08X}")
}

fn wal(number: u32) -> String {
    let name = segment(number);
    format!("main/wals/{}/{name}.gz", &name[..16])
}

/// The catalogue.
struct Scene<'w> {
    at: Objects<'w>,
    ids: Vec<String>,
    /// All objects as they are to be put back.
    whole: BTreeMap<String, Vec<u8>>,
}

impl<'w> Scene<'w> {
    fn new(workspace: &'w Workspace) -> Self {
        let at = Objects::in_directory(workspace);
        let sample = golden().join("backup-info/done-plain-parts.info");
        let sample = fs::read_to_string(sample).unwrap();
        let mut ids = Vec::new();
        let mut whole = BTreeMap::new();
        for (days, number) in BACKUPS {
            let began = Timestamp::now() - SignedDuration::from_hours(24 * days);
            let ended = began + SignedDuration::from_secs(90);
            let time = |time: Timestamp| time.strftime("%Y-%m-%d %H:%M:%S.%6f+00:00").to_string();
            let id = began.strftime("%Y%m%dT%H%M%S").to_string();
            let fields = [
                ("begin_time", time(began)),
                ("end_time", time(ended)),
                ("begin_wal", segment(number)),
                ("end_wal", segment(number)),
                ("begin_xlog", format!("0/{number:X}000028")),
                ("end_xlog", format!("0/{number:X}000100")),
            ];
            let lines = sample.lines().map(|line| {
                let name = line.split('=').next().unwrap_or_default();
                let field = fields.iter().find(|(other, _)| *other == name);
                field.map_or(format!("{line}\n"), |(name, value)| {
                    format!("{name}={value}\n")
                })
            });
            let record: String = lines.collect();
            whole.insert(format!("main/base/{id}/backup.info"), record.into_bytes());
            for archive in ["data.tar", "16384.tar"] {
                whole.insert(format!("main/base/{id}/{archive}"), id.clone().into_bytes());
            }
            ids.push(id);
        }
        for number in 1..=SEGMENTS {
            whole.insert(wal(number), vec![0x1f]);
        }
        let scene = Self { at, ids, whole };
        scene.put_back();
        scene
    }

    fn put_back(&self) {
        let there = self.at.keys("");
        for key in there.iter().filter(|key| !self.whole.contains_key(*key)) {
            self.at.remove(key);
        }
        for (key, content) in &self.whole {
            if !there.contains(key) || self.at.read(key) != *content {
                self.at.write(key, content);
            }
        }
    }

    fn record(&self, nth: usize) -> String {
        format!("main/base/{}/backup.info", self.ids[nth])
    }

    fn run(&self, tool: &str, options: &[&str], words: &[&str]) -> Run {
        self.at
            .place()
            .tool(&format!("barman-cloud-{tool}"))
            .args(options)
            .args([self.at.place().url(), "main"])
            .args(words)
            .run()
    }

    fn delete(&self, request: &[&str]) -> Run {
        let words: Vec<String> = request
            .iter()
            .map(|word| word.replace("$OLD", &self.ids[0]))
            .collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.run("backup-delete", &words, &[])
    }

    /// The two newer backups and the WAL from the beginning of the older of them
    /// are there; after a failure, so is everything else.
    fn assert_kept(&self, run: &Run, case: &str) {
        let there = self.at.keys("");
        let wanted = self.whole.keys().filter(|key| {
            let of_old = key.contains(&self.ids[0]);
            let early = (1..BACKUPS[1].1).any(|number| **key == wal(number));
            run.code() != Some(0) || !(of_old || early)
        });
        let lost: Vec<&String> = wanted.filter(|key| !there.contains(*key)).collect();
        assert!(lost.is_empty(), "{case}: {lost:?} are gone: {run}");
        if run.code() != Some(0) {
            assert_eq!(run.code(), Some(1), "{case}: {run}");
            assert!(!run.errors().is_empty(), "{case}: {run}");
        }
    }
}

/// Damages for a record: flips, half of them where it matters, and all other ways.
fn ways(record: &[u8], flips: usize, rng: &mut fastrand::Rng) -> Vec<Damage> {
    let mut ways = Damage::every_way(record.len(), flips / 2, rng);
    let text = std::str::from_utf8(record).unwrap();
    let mut deciding = Vec::new();
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if DECIDING.iter().any(|name| line.starts_with(name)) {
            deciding.extend(at * 8..(at + line.len()) * 8);
        }
        at += line.len();
    }
    ways.extend((0..flips / 2).map(|_| Damage::Flip(deciding[rng.usize(..deciding.len())])));
    ways
}

#[test]
fn a_deletion_while_a_record_is_damaged() {
    let workspace = Workspace::new();
    let scene = Scene::new(&workspace);
    for request in REQUESTS {
        let run = scene.delete(request);
        assert_eq!(run.code(), Some(0), "{run}");
        let there = scene.at.keys("");
        assert!(!there.contains(&scene.record(0)), "{run}");
        assert!(!there.contains(&wal(7)) && there.contains(&wal(8)), "{run}");
        scene.put_back();
    }
    let mut row = Row::new(
        Section::Damage,
        "`backup-delete`: a backup.info is damaged (bits, bytes, sectors; cut, longer, empty)",
        "nothing is deleted if it cannot be read or contradicts itself; else the backups that stay \
         keep their archives and all their WAL",
    );
    let mut rng = fastrand::Rng::with_seed(31);
    for nth in 0..BACKUPS.len() {
        let key = scene.record(nth);
        let record = scene.whole[&key].clone();
        for (number, damage) in ways(&record, of_sample_or_whole(30, 1500), &mut rng)
            .into_iter()
            .enumerate()
        {
            let request = REQUESTS[number % REQUESTS.len()];
            let case = format!("{damage} of {key}, {request:?}");
            scene.at.write(&key, damage.of(&record));
            let run = scene.delete(request);
            scene.assert_kept(&run, &case);
            scene.put_back();
            row.lived_through();
        }
    }
    row.finish();
}

#[test]
fn a_catalogue_with_a_damaged_record_is_listed() {
    let workspace = Workspace::new();
    let scene = Scene::new(&workspace);
    let mut listed = Row::new(
        Section::Damage,
        "`backup-list`: a backup.info is damaged",
        "the other backups are listed as before; 1 and a warning that names it if it cannot be read",
    );
    let mut shown = Row::new(
        Section::Damage,
        "`backup-show`: a backup.info is damaged",
        "what it says, or one line that names it",
    );
    let before = scene.run("backup-list", &[], &[]);
    assert_eq!(before.code(), Some(0), "{before}");
    let mut rng = fastrand::Rng::with_seed(37);
    let key = scene.record(1);
    let record = scene.whole[&key].clone();
    for damage in ways(&record, of_sample_or_whole(10, 500), &mut rng) {
        scene.at.write(&key, damage.of(&record));
        let case = format!("{damage} of {key}");
        let run = scene.run("backup-list", &[], &[]);
        let others = before
            .stdout
            .lines()
            .filter(|line| !line.contains(&scene.ids[1]));
        for line in others {
            assert!(
                run.stdout.lines().any(|other| other == line),
                "{case}: {run}"
            );
        }
        match run.code() {
            Some(0) => {}
            Some(1) => assert!(run.stderr.contains(&scene.ids[1]), "{case}: {run}"),
            _ => panic!("{case}: {run}"),
        }
        listed.lived_through();
        let run = scene.run("backup-show", &[], &[&scene.ids[1]]);
        if run.code() != Some(0) {
            let errors = run.errors();
            let lines = run.stderr.lines().count() - run.hints().len();
            let named = errors.len() == 1 && errors[0].contains(&scene.ids[1]);
            assert!(
                named && lines == 1 && run.stdout.is_empty(),
                "{case}: {run}"
            );
        }
        shown.lived_through();
    }
    listed.finish();
    shown.finish();
}

#[test]
fn a_damaged_annotation_protects_all_the_same() {
    let workspace = Workspace::new();
    let mut scene = Scene::new(&workspace);
    let mut row = Row::new(
        Section::Damage,
        "`backup-delete`: a keep annotation is damaged",
        "the backup stays, with all of its WAL that makes it consistent",
    );
    let key = format!("main/base/{}/annotations/keep", scene.ids[0]);
    let mut rng = fastrand::Rng::with_seed(41);
    for target in ["full", "standalone"] {
        let run = scene.run("backup-keep", &["--target", target], &[&scene.ids[0]]);
        assert_eq!(run.code(), Some(0), "{run}");
        let text = scene.at.read(&key);
        scene.whole.insert(key.clone(), text.clone());
        for damage in Damage::every_way(text.len(), of_sample_or_whole(4, 300), &mut rng) {
            for request in REQUESTS {
                let case = format!("{damage} of {target}, {request:?}");
                scene.at.write(&key, damage.of(&text));
                let run = scene.delete(request);
                assert!(matches!(run.code(), Some(0 | 1)), "{case}: {run}");
                let there = scene.at.keys("");
                let wanted = scene.whole.keys().filter(|key| {
                    let first = BACKUPS[0].1;
                    let early = (1..BACKUPS[1].1).filter(|number| *number != first);
                    !early.map(wal).any(|wal| **key == wal)
                });
                for key in wanted {
                    assert!(there.contains(key), "{case}: {key} is gone: {run}");
                }
                scene.put_back();
                row.lived_through();
            }
        }
        scene.at.remove(&key);
        scene.whole.remove(&key);
    }
    row.finish();
}
