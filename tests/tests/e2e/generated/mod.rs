//! Buckets of one server for comparing the catalogue tools with the reference:
//! years of somebody's backups in a hundred small objects, made from a number.
//!
//! The same number and the same day make the same bucket, apart from the times
//! in it, which lie whole days and about twelve hours before now: no window of
//! whole days ends within hours of one.
//!
//! Left out is what the tools treat differently from the reference on purpose
//! (`docs/decisions.md`, and the reference's crashes): running backups, unknown
//! fields, keep objects that hold neither word, complete backups without an end,
//! archives that are not recognised.

mod info;
mod wal;

use std::collections::BTreeMap;

use fastrand::Rng;
use jiff::{SignedDuration, Timestamp};

pub(crate) use info::Backup;
use info::pick;
use wal::Archive;

const NAMES: [&str; 7] = [
    "nightly",
    "nightly",
    "größe",
    "before upgrade",
    "a/b=c",
    "日本 🐘",
    "it's \"quoted\"",
];

const TABLESPACES: [(&str, u32, &str); 4] = [
    ("fast", 16384, "/srv/fast"),
    ("größe", 16385, "/srv/größe"),
    ("it's", 9999, "/srv/a b"),
    ("x", 163_840, "/srv/x"),
];

const ARCHIVE_SUFFIXES: [&str; 5] = ["", ".gz", ".bz2", ".snappy", ".lz4"];

/// What one server has in a bucket.
#[derive(Debug)]
pub(crate) struct Generated {
    /// Contents by key; the keys below the server's own prefix.
    pub(crate) objects: BTreeMap<String, String>,
    /// The readable ones, oldest first.
    pub(crate) backups: Vec<Backup>,
    /// The id of one whose `backup.info` cannot be read.
    pub(crate) unreadable: Option<String>,
    /// The id of a folder that has no `backup.info`.
    pub(crate) stray: String,
}

impl Generated {
    /// The bucket of this number.
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let mut archive = Archive::new(&mut rng);
        let mut this = Self {
            objects: BTreeMap::new(),
            backups: Vec::new(),
            unreadable: None,
            stray: String::new(),
        };
        let count = pick(&mut rng, &[0, 1, 2, 3, 4, 5, 5, 6, 7, 8, 9, 9]);
        let mut days = i64::from(count) * 3 + rng.i64(0..9);
        this.stray = id(half_a_day_before(days + 1, &mut rng));
        if rng.bool() {
            archive.go_on(&mut rng);
        }
        for _ in 0..count {
            this.backup(days, &mut archive, &mut rng);
            days -= rng.i64(1..4);
            for _ in 0..rng.u8(..3) {
                archive.go_on(&mut rng);
            }
            if rng.u8(..100) < 20 {
                archive.promote(&mut rng);
            }
        }
        if rng.u8(..100) < 6 {
            let id = id(half_a_day_before(days, &mut rng));
            this.put(&format!("{id}/backup.info"), "status=DONE\nno field\n");
            this.unreadable = Some(id);
        }
        if rng.u8(..100) < 40 {
            archive.foreign_timelines(&mut rng);
        }
        if rng.u8(..100) < 75 {
            archive.junk(&mut rng);
        }
        if rng.u8(..100) < 15 {
            archive.twin(&mut rng);
        }
        this.strays(&mut rng);
        // An archive that was emptied, or never used.
        if rng.u8(..100) < 95 {
            this.objects.append(&mut archive.objects);
        }
        this
    }

    fn put(&mut self, key: &str, content: &str) {
        let key = format!("base/{key}");
        self.objects.insert(key, content.to_owned());
    }

    fn backup(&mut self, days_ago: i64, archive: &mut Archive, rng: &mut Rng) {
        let status = match rng.u8(..100) {
            0..16 => "FAILED",
            // Younger than a week it may be running, and its WAL is not ours to delete.
            16..22 if days_ago > 8 => "STARTED",
            22..28 => "WAITING_FOR_WALS",
            28..31 => "EMPTY",
            31..32 => "SYNCING",
            _ => "DONE",
        };
        let begun = half_a_day_before(days_ago, rng);
        let ended = begun + SignedDuration::from_secs(rng.i64(1..3600));
        let mut id = id(begun);
        if rng.u8(..100) < 3 {
            id.push_str("-copy");
        }
        let complete = ["DONE", "WAITING_FOR_WALS", "SYNCING"].contains(&status);
        let failed = status == "FAILED";
        // A failed one got nowhere, or into the copy, or (older versions) to the end.
        let begins = complete || status == "STARTED" || failed && rng.u8(..3) > 0;
        let ends = complete || failed && begins && rng.bool();
        let (begin, end) = if begins {
            let (begin, end) = archive.backup(rng);
            (Some((begin, begun)), ends.then_some((end, ended)))
        } else {
            (None, None)
        };
        let named = !["STARTED", "EMPTY"].contains(&status) && rng.u8(..100) < 40;
        let relayed = complete && rng.u8(..100) < 6;
        let mut tablespaces = TABLESPACES.to_vec();
        tablespaces.retain(|_| begins && rng.u8(..100) < 20);
        rng.shuffle(&mut tablespaces);
        let backup = Backup {
            status,
            name: named.then(|| pick(rng, &NAMES)),
            begin,
            end,
            keep: (rng.u8(..100) < 16).then(|| pick(rng, &["full", "standalone", "standalone"])),
            parent: relayed.then(|| self.stray.clone()),
            tablespaces,
            id,
        };
        self.store(&backup, rng);
        self.backups.push(backup);
    }

    fn store(&mut self, backup: &Backup, rng: &mut Rng) {
        let id = &backup.id;
        self.put(&format!("{id}/backup.info"), &backup.text(rng));
        if let Some(keep) = backup.keep {
            self.put(&format!("{id}/annotations/keep"), keep);
        }
        let whole = backup.end.is_some();
        let suffix = pick(rng, &ARCHIVE_SUFFIXES);
        let oids = backup.tablespaces.iter().map(|(_, oid, _)| oid.to_string());
        for base in oids.chain(["data".to_owned()]) {
            // What was interrupted has some of its archives, and some of the parts.
            if !whole && rng.bool() {
                continue;
            }
            if whole || rng.bool() {
                self.put(&format!("{id}/{base}.tar{suffix}"), "tar");
            }
            for part in 1..pick(rng, &[1, 1, 2, 4]) {
                self.put(&format!("{id}/{base}_{part:04}.tar{suffix}"), "tar");
            }
        }
        if rng.u8(..100) < 10 {
            self.put(&format!("{id}/notes.txt"), "mine");
            self.put(&format!("{id}/annotations/note"), "mine");
            self.put(&format!("{id}/more/data.tar"), "mine");
        }
    }

    /// What lies beside the backups.
    fn strays(&mut self, rng: &mut Rng) {
        let stray = self.stray.clone();
        match rng.u8(..100) {
            0..10 => self.put(&format!("{stray}/data.tar.gz"), "tar"),
            10..20 => self.put(&format!("{stray}/annotations/keep"), "full"),
            20..25 => self.put("README", "mine"),
            25..30 => self.put("notes/README", "mine"),
            _ => {}
        }
    }
}

/// Twelve hours and some before the end of the day that was `days` ago.
fn half_a_day_before(days: i64, rng: &mut Rng) -> Timestamp {
    let hours = days * 24 + 12;
    let now = Timestamp::now();
    let whole = Timestamp::from_second(now.as_second()).expect("a time of our days");
    whole - SignedDuration::from_secs(hours * 3600 + rng.i64(-18_000..18_000))
}

fn id(begun: Timestamp) -> String {
    begun.strftime("%Y%m%dT%H%M%S").to_string()
}

/// A bucket without what makes tools differ would make them agree.
#[test]
fn the_generated_buckets_have_everything_that_matters() {
    type Has = fn(&Generated) -> bool;
    fn any(of: &Generated, has: impl Fn(&Backup) -> bool) -> bool {
        of.backups.iter().any(has)
    }
    fn key(of: &Generated, has: impl Fn(&str) -> bool) -> bool {
        of.objects.keys().any(|key| has(key))
    }
    fn suffix(key: &str) -> &str {
        key.rsplit('.').next().unwrap_or_default()
    }
    let all: Vec<Generated> = (0..crate::interop_catalogue::BUCKETS)
        .map(Generated::new)
        .collect();
    let wanted: [(&str, Has); 31] = [
        ("no backup", |of| of.backups.is_empty()),
        ("DONE", |of| any(of, |b| b.status == "DONE")),
        ("FAILED early", |of| {
            any(of, |b| b.status == "FAILED" && b.begin.is_none())
        }),
        ("FAILED in the copy", |of| {
            any(of, |b| {
                b.status == "FAILED" && b.begin.is_some() && b.end.is_none()
            })
        }),
        ("FAILED at the end", |of| {
            any(of, |b| b.status == "FAILED" && b.end.is_some())
        }),
        ("STARTED", |of| any(of, |b| b.status == "STARTED")),
        ("WAITING", |of| any(of, |b| b.status == "WAITING_FOR_WALS")),
        ("EMPTY", |of| any(of, |b| b.status == "EMPTY")),
        ("full", |of| any(of, |b| b.keep == Some("full"))),
        ("standalone", |of| {
            any(of, |b| b.keep == Some("standalone") && b.is_live())
        }),
        ("parent", |of| any(of, |b| b.parent.is_some())),
        ("tablespaces", |of| any(of, |b| b.tablespaces.len() > 1)),
        ("odd id", |of| any(of, |b| b.id.ends_with("-copy"))),
        ("same name", |of| {
            let twice = |b: &Backup| of.backups.iter().filter(|o| o.name == b.name).count() > 1;
            any(of, |b| b.name.is_some() && twice(b))
        }),
        ("unreadable", |of| of.unreadable.is_some()),
        ("two timelines", |of| {
            let of_backup = |b: &Backup| b.begin.map(|(begin, _)| begin.timeline);
            let timelines: std::collections::BTreeSet<_> =
                of.backups.iter().filter_map(of_backup).collect();
            timelines.len() > 1
        }),
        ("folder without backup.info", |of| {
            key(of, |key| key.starts_with(&format!("base/{}/", of.stray)))
        }),
        ("parts", |of| key(of, |key| key.contains("/data_0002.tar"))),
        ("other things", |of| key(of, |key| key.contains("/more/"))),
        ("no WAL", |of| !key(of, |key| key.starts_with("wals/"))),
        ("history", |of| key(of, |key| key.contains(".history"))),
        ("partial", |of| key(of, |key| key.contains(".partial"))),
        ("label", |of| key(of, |key| key.contains(".backup."))),
        ("junk in a folder of WAL", |of| {
            key(of, |key| {
                key.starts_with("wals/0") && key.ends_with("/notes.txt")
            })
        }),
        ("junk folder", |of| {
            key(of, |key| key.starts_with("wals/junk"))
        }),
        ("odd folder", |of| {
            key(of, |key| {
                key.get(..22).is_some_and(|start| start.ends_with('X'))
            })
        }),
        ("twins", |of| {
            let plain = |key: &str| key.len() == 46 && of.objects.contains_key(key);
            key(of, |key| key.len() > 46 && plain(&key[..46]))
        }),
        (".zst", |of| {
            key(of, |key| key.starts_with("wals/") && suffix(key) == "zst")
        }),
        (".xz", |of| key(of, |key| suffix(key) == "xz")),
        ("no suffix", |of| {
            key(of, |key| key.len() == 46 && key.starts_with("wals/"))
        }),
        ("large segments", |of| {
            any(of, |b| {
                b.begin
                    .is_some_and(|(begin, _)| begin.segment_size() == 64 << 20)
            })
        }),
    ];
    let missing = wanted.iter().filter(|(_, has)| !all.iter().any(has));
    let missing: Vec<&str> = missing.map(|(what, _)| *what).collect();
    assert!(missing.is_empty(), "no bucket has: {missing:?}");
    let again = Generated::new(3);
    assert_eq!(all[3].objects.len(), again.objects.len(), "not repeatable");
}
