//! A server and its archive that live through one kill after the other.
//!
//! Here nothing is set back between kills: what one left, the next meets. Which
//! tool, at which stage and by which signal comes from a generator of fixed
//! seed. What was promised is written down as it is promised, and looked for
//! at the end and in between.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;

use e2e::{
    Cluster, PgBin, Place, Recovery, Row, Section, ShutDown, StagedRun, Tool, Workspace,
    of_sample_or_whole, wait_until,
};
use fastrand::Rng;

use super::base::listed;
use super::{Interrupted, SIGNALS, was_stopped};
use crate::objects::Store;

/// Chosen once, at random.
const SEED: u64 = 0x6a09_e667_f3bc_c908;

/// How often each tool was stopped.
type Tally = BTreeMap<&'static str, u64>;

struct World<'s, 'w> {
    store: &'s Store<'w>,
    bin: &'s PgBin,
    place: Place<'w>,
    primary: Cluster,
    random: Rng,
    /// How many stages each tool had when it was last not stopped.
    stages: BTreeMap<&'static str, usize>,
    /// Backups that were promised: their tools ended with 0, and no policy took
    /// them.
    done: BTreeSet<String>,
    /// The table, at the time of the last segment that was archived.
    rows: String,
    /// The last segment that was archived.
    segment: String,
    /// All files of WAL that were.
    archived: BTreeSet<String>,
    tally: Tally,
    made: usize,
}

impl<'w> World<'_, 'w> {
    /// Runs a tool that is stopped somewhere; then, unless `once`, again until it
    /// is through. Gives the last run.
    fn stop(
        &mut self,
        name: &'static str,
        when: Interrupted,
        once: bool,
        tool: impl Fn(&Self) -> Tool<'w>,
    ) -> StagedRun {
        let stages = self.store.stages();
        loop {
            let count = self.stages.get(name).copied();
            let Some(count) = count else {
                let whole = stages.count(tool(self));
                assert_eq!(whole.run.code(), Some(0), "{whole}");
                self.stages.insert(name, whole.stages.len().max(1));
                return whole;
            };
            let at = self.random.usize(1..=count);
            let (blow, _) = SIGNALS[self.random.usize(..SIGNALS.len())];
            let ended = stages.run(tool(self), at, blow);
            *self.tally.entry(name).or_default() += 1;
            let stopped = was_stopped(&ended, when);
            if !stopped || once {
                return ended;
            }
            if self.random.bool() {
                let whole = stages.count(tool(self));
                assert_eq!(whole.run.code(), Some(0), "{whole} after {ended}");
                return whole;
            }
        }
    }

    fn named(&self, name: &str, before: &[&str], after: &[&str]) -> Tool<'w> {
        let tool = self.place.tool(&format!("barman-cloud-{name}"));
        tool.args(before)
            .args([self.place.url(), "main"])
            .args(after)
    }

    /// New rows, and their segment finished.
    fn insert(&mut self) {
        let session = self.primary.session();
        session.run("INSERT INTO t SELECT generate_series(1, 100), md5(random()::text)");
        self.rows = digest(&self.primary);
        self.segment = session.value("SELECT pg_walfile_name(pg_switch_wal())");
    }

    /// All WAL until now, archived by a tool that is stopped again and again. The
    /// server itself only notes that it is done with a file.
    fn archive(&mut self) {
        let wal = self.primary.pgdata().join("pg_wal");
        let ready = wait_until("the server to be done with the segment", || {
            let status = fs::read_dir(wal.join("archive_status")).unwrap();
            let names: BTreeSet<String> = status
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .filter_map(|name| Some(name.rsplit_once('.')?.0.to_owned()))
                .collect();
            names.contains(&self.segment).then_some(names)
        });
        for name in ready {
            if self.archived.insert(name.clone()) {
                let path = wal.join(&name).display().to_string();
                self.stop("wal-archive", Interrupted::BySignal, false, |world| {
                    world.named("wal-archive", &["--gzip"], &[&path])
                });
            }
        }
    }

    fn fetch(&mut self) {
        // With the WAL of the newest backup, which no deletion takes.
        self.archive();
        self.made += 1;
        let target = self.store.workspace().path(format!("fetched{}", self.made));
        let path = target.display().to_string();
        // An older one may have gone with the backups before it.
        let mut segments = self.archived.iter().filter(|name| name.len() == 24);
        let segment = segments.next_back().unwrap().clone();
        self.stop("wal-restore", Interrupted::BySignal, false, |world| {
            let spool = world.store.workspace().path("spool").display().to_string();
            world.named("wal-restore", &["--spool-dir", &spool], &[&segment, &path])
        });
        let original = self.primary.pgdata().join("pg_wal").join(&segment);
        assert!(
            fs::read(&target).unwrap() == fs::read(original).unwrap(),
            "{segment}"
        );
        fs::remove_file(target).unwrap();
    }

    /// A backup that is stopped, perhaps with others after it, until one is taken.
    fn back_up(&mut self, once: bool) {
        self.stop("backup", Interrupted::WithOne, once, |world| {
            let tool = world.place.backup(&world.primary, "postgres");
            tool.args(["--min-chunk-size=5MB", "--max-archive-size=6MB"])
        });
        self.note_backups();
    }

    /// Whatever is DONE from now on has to be there; whatever was, still.
    fn note_backups(&mut self) {
        let listed = listed(&self.place);
        let done: BTreeSet<String> = listed
            .into_iter()
            .filter_map(|(id, status)| (status == "DONE").then_some(id))
            .collect();
        assert!(
            self.done.is_subset(&done),
            "{:?} became {done:?}",
            self.done
        );
        self.done = done;
    }

    /// All but the two newest backups go, stopped on the way.
    fn delete(&mut self) {
        self.stop("backup-delete", Interrupted::WithOne, false, |world| {
            world.named("backup-delete", &["-r", "REDUNDANCY 2"], &[])
        });
        let newest: Vec<String> = self.done.iter().rev().take(2).cloned().collect();
        self.done = newest.into_iter().collect();
        self.note_backups();
        let left = listed(&self.place);
        let failed = left.iter().filter(|(_, status)| *status != "DONE");
        // Those of killed backups are no backups to a policy, and go by their ids.
        for (id, _) in failed {
            let delete = self.named("backup-delete", &["--backup-id", id], &[]).run();
            assert_eq!(delete.code(), Some(0), "{delete}");
        }
        assert_eq!(listed(&self.place).len(), self.done.len());
    }

    fn keep(&mut self) {
        let Some(id) = self.done.first().cloned() else {
            return;
        };
        self.stop("backup-keep", Interrupted::WithOne, false, |world| {
            world.named("backup-keep", &["--target=full"], &[&id])
        });
        let status = self.named("backup-keep", &["--status"], &[&id]).run();
        assert_eq!(status.stdout.trim(), "Keep: full", "{status}");
        let release = self.named("backup-keep", &["--release"], &[&id]).run();
        assert_eq!(release.code(), Some(0), "{release}");
    }

    fn look(&mut self) {
        let name = ["backup-list", "backup-show", "check-wal-archive"][self.random.usize(..3)];
        let before = self.store.objects("world/main/base");
        self.stop(name, Interrupted::WithOne, false, |world| match name {
            "backup-show" => world.named(name, &[], &["latest"]),
            "check-wal-archive" => world.named(name, &["--timeline=9"], &[]),
            _ => world.named(name, &[], &[]),
        });
        assert!(self.store.objects("world/main/base") == before, "{name}");
    }

    /// A restore that is stopped; PostgreSQL refuses what is there then.
    fn restore(&mut self) {
        self.archive();
        self.made += 1;
        let name = format!("restored{}", self.made);
        let target = self.store.workspace().path(&name);
        let path = target.display().to_string();
        let ended = self.stop("restore", Interrupted::WithOne, true, |world| {
            world.named("restore", &[], &["latest", &path])
        });
        if target.join("global/pg_control").exists() {
            self.revive(&name);
        } else {
            assert!(was_stopped(&ended, Interrupted::WithOne), "{ended}");
            Cluster::existing(self.bin, self.store.workspace(), &name).start_in_vain();
        }
        if target.exists() {
            fs::remove_dir_all(target).unwrap();
        }
    }

    /// Every backup that was promised comes to life with every row that was
    /// archived.
    fn everything_is_there(&mut self) {
        self.archive();
        self.note_backups();
        for id in self.done.clone() {
            self.made += 1;
            let name = format!("restored{}", self.made);
            let target = self.store.workspace().path(&name);
            let path = target.display().to_string();
            self.named("restore", &[], &[&id, &path]).succeed();
            self.revive(&name);
            fs::remove_dir_all(target).unwrap();
        }
    }

    fn revive(&self, name: &str) {
        let workspace = self.store.workspace();
        let mut cluster = Cluster::existing(self.bin, workspace, name);
        cluster.recover(workspace, self.place.url(), "main", &Recovery::Latest);
        cluster.set_environment(self.place.environment());
        cluster.start_and_recover();
        assert_eq!(digest(&cluster), self.rows);
        cluster.stop(ShutDown::Immediate);
    }

    fn kills(&self) -> u64 {
        self.tally.values().sum()
    }

    fn live_through(&mut self, kills: u64) {
        self.insert();
        self.archive();
        self.back_up(false);
        let mut looked_at = 0;
        while self.kills() < kills {
            match self.random.u32(..16) {
                0..3 => {
                    self.insert();
                    self.archive();
                }
                3..6 => self.fetch(),
                6..9 => self.back_up(true),
                9 => self.back_up(false),
                10..12 => self.delete(),
                12 => self.keep(),
                13 => self.look(),
                _ => self.restore(),
            }
            if self.kills() >= looked_at + 50 {
                looked_at = self.kills();
                self.everything_is_there();
            }
        }
        self.delete();
        self.everything_is_there();
    }
}

fn digest(cluster: &Cluster) -> String {
    cluster
        .session()
        .value("SELECT md5(string_agg(i || ' ' || t, ',' ORDER BY i, t)) FROM t")
}

fn live_through(store: &Store<'_>) {
    let Some(bin) = PgBin::find() else { return };
    let place = store.place("world");
    let mut primary = place.primary(&bin, "");
    // The test archives in its place, from what it keeps.
    primary.archive_with("true");
    primary.configure("wal_keep_size", "4GB");
    primary.start();
    let session = primary.session();
    session.run("UPDATE pg_database SET datistemplate = false WHERE datname <> 'postgres'");
    session.run("DROP DATABASE template1");
    session.run("DROP DATABASE template0");
    session.run("CREATE TABLE t (i int, t text)");
    drop(session);
    let mut world = World {
        store,
        bin: &bin,
        place,
        primary,
        random: Rng::with_seed(SEED),
        stages: BTreeMap::new(),
        done: BTreeSet::new(),
        rows: String::new(),
        segment: String::new(),
        archived: BTreeSet::new(),
        tally: Tally::new(),
        made: 0,
    };
    world.live_through(of_sample_or_whole(20, 500));
    let mut out = std::io::stdout();
    writeln!(out, "{} kills: {:?}", world.kills(), world.tally).unwrap();
    let mut row = Row::new(
        Section::Ends,
        format!(
            "all tools, one after the other at random stages by random signals, one archive in {} \
             that lives through all of it",
            store.name()
        ),
        "every backup that was `DONE` comes to life with every row that was archived, again and \
         again; no other is offered; every segment is as it was",
    );
    for _ in 0..world.kills() {
        row.lived_through();
    }
    row.finish();
}

#[test]
fn an_archive_in_a_directory_lives_through_random_kills() {
    let workspace = Workspace::new();
    live_through(&Store::directory(&workspace));
}

#[test]
fn an_archive_on_s3_lives_through_random_kills() {
    let workspace = Workspace::new();
    let Some(store) = Store::bucket(&workspace) else {
        return;
    };
    live_through(&store);
}
