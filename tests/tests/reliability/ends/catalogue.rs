//! The tools that read and change the catalogue.

use std::collections::BTreeMap;
use std::fs;

use e2e::{Run, Section, StagedRun, Stages, Tool, Workspace, of_sample_or_whole};

use super::{Blows, DISK, Interrupted, SIGNALS, Scenario, could_clean_up, sweep, was_stopped};
use crate::objects::{Objects, Store};

/// The three backups of every scene; WAL goes from the first to the last.
const IDS: [&str; 3] = ["20261101T000000", "20261102T000000", "20261103T000000"];

/// Three backups, made of a recorded one.
fn three_backups() -> BTreeMap<String, String> {
    let info = e2e::golden().join("backup-info/done-gzip-tablespace-named.info");
    let info = fs::read_to_string(info).unwrap();
    let mut objects = BTreeMap::new();
    for (i, id) in IDS.iter().enumerate() {
        // The recorded one began with segment 4.
        let begin = 4 + 3 * i;
        let text = info
            .replace("00000004", &format!("0000000{begin:X}"))
            .replace("0/4000", &format!("0/{begin:X}000"))
            .replace("2026-11-21", &format!("2026-11-0{}", i + 1))
            .replace("golden-gzip", &format!("backup-{i}"));
        objects.insert(format!("main/base/{id}/backup.info"), text);
        for archive in ["data.tar.gz", "data_0001.tar.gz", "16384.tar.gz"] {
            objects.insert(format!("main/base/{id}/{archive}"), archive.into());
        }
    }
    for number in 1..=12 {
        let key = format!("main/wals/0000000100000000/0000000100000000000000{number:02X}.gz");
        objects.insert(key, number.to_string());
    }
    objects
}

/// What one of the tools is asked to do.
struct Work {
    title: &'static str,
    found: &'static str,
    tool: &'static str,
    before: &'static [&'static str],
    after: &'static [&'static str],
}

/// One of them at work on three backups, which are new each time.
struct AtWork<'s, 'w> {
    store: &'s Store<'w>,
    work: &'s Work,
    filled: BTreeMap<String, String>,
    times: usize,
    /// What lies there before it begins.
    old: Objects,
    /// What lies there after it was not disturbed.
    wanted: Option<Objects>,
}

impl<'s, 'w> AtWork<'s, 'w> {
    fn path(&self) -> String {
        let works = self
            .work
            .title
            .replace(|c: char| !c.is_ascii_alphabetic(), "");
        format!("{works}{}", self.times)
    }

    fn named(&self, name: &str, before: &[&str], after: &[&str]) -> Tool<'w> {
        let place = self.store.place(&self.path());
        let tool = place.tool(&format!("barman-cloud-{name}"));
        tool.args(before).args([place.url(), "main"]).args(after)
    }

    fn tool(&self) -> Tool<'w> {
        self.named(self.work.tool, self.work.before, self.work.after)
    }

    fn new(store: &'s Store<'w>, work: &'s Work, filled: BTreeMap<String, String>) -> Self {
        Self {
            store,
            work,
            filled,
            times: 0,
            old: Objects::new(),
            wanted: None,
        }
    }

    fn listed(&self) -> Run {
        self.named("backup-list", &[], &[]).run()
    }
}

impl<'w> Scenario<'w> for AtWork<'_, 'w> {
    fn title(&self) -> String {
        format!("{} {}", self.work.title, self.store.name())
    }

    fn found(&self) -> String {
        self.work.found.into()
    }

    fn begin(&mut self) -> Tool<'w> {
        self.times += 1;
        self.store.fill(&self.path(), &self.filled);
        self.old = self.store.objects(&self.path());
        self.tool()
    }

    fn check(&mut self, ended: &StagedRun) {
        let now = self.store.objects(&self.path());
        let stopped = was_stopped(ended, Interrupted::WithOne);
        let Some(wanted) = &self.wanted else {
            assert!(!stopped, "it was not disturbed: {ended}");
            self.wanted = Some(now);
            return;
        };
        assert!(stopped || now == *wanted, "said to be done: {ended}");
        for (key, content) in wanted {
            let as_before = self.old.get(key) == Some(content);
            assert!(
                !as_before || now.get(key) == Some(content),
                "{key} is gone or changed: {ended}"
            );
        }
        // A backup that is not whole any more is not DONE any more.
        let listed = self.listed();
        assert_eq!(listed.code(), Some(0), "{listed} after {ended}");
        for id in IDS {
            let of_it = |objects: &Objects| {
                let archives = objects.keys().filter(|key| key.contains(".tar"));
                archives.filter(|key| key.contains(id)).count()
            };
            if of_it(&now) == of_it(&self.old) {
                continue;
            }
            let info = self
                .store
                .text(&self.path(), &format!("main/base/{id}/backup.info"));
            let done = info.is_some_and(|text| text.contains("\nstatus=DONE\n"));
            assert!(!done, "{id} lost archives and is DONE: {ended}");
        }
        let again = self.tool().run();
        assert_eq!(again.code(), Some(0), "{again} after {ended}");
        let left = self.store.objects(&self.path());
        assert!(
            left == *wanted,
            "{:?} is left after {ended}",
            left.keys().collect::<Vec<_>>()
        );
        if could_clean_up(ended) {
            assert_eq!(self.store.unfinished(&self.path()), 0, "{ended}");
        }
    }
}

const CHANGING: [Work; 4] = [
    Work {
        title: "`backup-delete` by id in",
        found: "nothing but that backup and its WAL is touched, and it is not `DONE` from the first removal on; \
                the next run removes the rest",
        tool: "backup-delete",
        before: &["--backup-id", IDS[0]],
        after: &[],
    },
    Work {
        title: "`backup-delete` by policy in",
        found: "what the policy leaves is untouched; a backup that lost an archive is not `DONE`; \
                the next run removes the rest",
        tool: "backup-delete",
        before: &["-r", "REDUNDANCY 1"],
        after: &[],
    },
    Work {
        title: "`backup-keep` in",
        found: "the keep is there or not, never half; the next run sets it",
        tool: "backup-keep",
        before: &["--target", "standalone"],
        after: &[IDS[1]],
    },
    Work {
        title: "`backup-keep --release` in",
        found: "the keep is there or not, never half; the next run releases it",
        tool: "backup-keep",
        before: &["--release"],
        after: &[IDS[1]],
    },
];

fn change(store: &Store<'_>, section: Section, stages: &Stages, blows: &Blows) {
    let limit = of_sample_or_whole(8, 80);
    for work in &CHANGING {
        let mut filled = three_backups();
        if work.title.contains("release") {
            let keep = format!("main/base/{}/annotations/keep", IDS[1]);
            filled.insert(keep, "full".to_owned());
        }
        let mut scenario = AtWork::new(store, work, filled);
        sweep(section, stages, blows, &mut scenario, limit);
    }
}

#[test]
fn the_tools_that_change_the_catalogue_on_a_directory() {
    let workspace = Workspace::new();
    let store = Store::directory(&workspace);
    change(&store, Section::Ends, &store.stages(), SIGNALS);
}

#[test]
fn the_tools_that_change_the_catalogue_on_s3() {
    let workspace = Workspace::new();
    let Some(store) = Store::bucket(&workspace) else {
        return;
    };
    change(&store, Section::Ends, &store.stages(), SIGNALS);
}

#[test]
fn the_tools_that_change_the_catalogue_on_a_bad_disk() {
    let workspace = Workspace::new();
    let store = Store::directory(&workspace);
    let disk = Stages::of_files().under(&store.folder());
    change(&store, Section::Disk, &disk, DISK);
}

const READING: [Work; 3] = [
    Work {
        title: "`backup-list` from",
        found: "nothing is changed; the next run lists them all",
        tool: "backup-list",
        before: &["--format=json"],
        after: &[],
    },
    Work {
        title: "`backup-show` from",
        found: "nothing is changed; the next run shows it",
        tool: "backup-show",
        before: &["--format=json"],
        after: &["latest"],
    },
    Work {
        title: "`check-wal-archive` in",
        found: "nothing is changed; the next run checks it",
        tool: "check-wal-archive",
        before: &["--timeline=2"],
        after: &[],
    },
];

/// Those that only read have no stages on a directory.
#[test]
fn the_tools_that_read_the_catalogue_on_s3() {
    let workspace = Workspace::new();
    let Some(store) = Store::bucket(&workspace) else {
        return;
    };
    for work in &READING {
        let mut scenario = AtWork::new(&store, work, three_backups());
        let limit = of_sample_or_whole(4, 80);
        sweep(
            Section::Ends,
            &store.stages(),
            SIGNALS,
            &mut scenario,
            limit,
        );
        assert!(scenario.wanted == Some(scenario.old), "{}", work.title);
    }
}
