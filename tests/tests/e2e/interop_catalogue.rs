//! The catalogue tools and those they are compatible with, on copies of the same
//! buckets: what they print, what they answer, and which keys they leave.

use std::collections::BTreeMap;
use std::ops::Range;

use e2e::{Barman, Bucket, Run, S3Server, Tool, Workspace};
use fastrand::Rng;

use crate::generated::{Backup, Generated};

/// Whose tools do something; each side has a copy of the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Theirs,
    Ours,
}

impl Side {
    fn folder(self) -> &'static str {
        match self {
            Self::Theirs => "theirs",
            Self::Ours => "ours",
        }
    }
}

/// Folders and server names that have to be quoted somewhere.
const FOLDERS: [&str; 5] = ["plain", "a b/c", "größe", "it's", "a%20b+c\\d"];
const SERVERS: [&str; 4] = ["main", "pg 15", "größe", "it's"];

/// A generated bucket twice.
struct Copies<'a> {
    barman: &'a Barman,
    bucket: &'a Bucket<'a>,
    workspace: &'a Workspace,
    seed: u64,
    generated: Generated,
    /// Between the folder of a side and the server's name.
    folder: &'static str,
    server: &'static str,
    /// What the sides did not agree on.
    differences: Vec<String>,
    /// How many objects the reference has deleted.
    deleted: usize,
}

/// What a backup is called by on a command line.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Means {
    /// An id, whether there is such a backup or not.
    Id,
    /// By name or shortcut, one backup.
    One,
    /// No backup or several: both sides refuse it with 4.
    Unclear,
    /// The id of a backup whose `backup.info` cannot be read.
    Unreadable,
}

impl<'a> Copies<'a> {
    fn new(scene: (&'a Barman, &'a Bucket<'a>, &'a Workspace), seed: u64) -> Self {
        let (barman, bucket, workspace) = scene;
        let nth = usize::try_from(seed).expect("small numbers");
        let this = Self {
            barman,
            bucket,
            workspace,
            seed,
            generated: Generated::new(seed),
            folder: FOLDERS[nth % FOLDERS.len()],
            server: SERVERS[nth % SERVERS.len()],
            differences: Vec::new(),
            deleted: 0,
        };
        let mut objects = BTreeMap::new();
        for side in [Side::Theirs, Side::Ours] {
            let prefix = this.prefix(side);
            for (key, content) in &this.generated.objects {
                objects.insert(format!("{prefix}{key}"), content.clone());
            }
        }
        bucket.fill(&objects);
        this
    }

    fn path(&self, side: Side) -> String {
        format!("{}/{}/{}", self.seed, side.folder(), self.folder)
    }

    fn prefix(&self, side: Side) -> String {
        format!("{}/{}/", self.path(side), self.server)
    }

    fn tool(&self, side: Side, name: &str, options: &[&str], backup: Option<&str>) -> Tool<'a> {
        let tool = match side {
            Side::Theirs => self.barman.tool(self.workspace, name),
            Side::Ours => self.workspace.tool(name),
        };
        let url = format!("{}/{}", self.bucket.url(), self.path(side));
        tool.envs(self.bucket.environment())
            .args(options)
            .args([url.as_str(), self.server])
            .args(backup)
    }

    /// Both sides do it, at the same time. No bucket here makes the reference
    /// crash: it ends with 0 or 1, or with 4 where it cannot tell what is meant
    /// (`may_be_4`).
    fn both(
        &mut self,
        name: &str,
        options: &[&str],
        backup: Option<&str>,
        may_be_4: bool,
    ) -> (Run, Run) {
        let theirs = self.tool(Side::Theirs, name, options, backup).start();
        let ours = self.tool(Side::Ours, name, options, backup).run();
        let theirs = theirs.wait();
        assert!(
            matches!(theirs.code(), Some(0 | 1)) || may_be_4 && theirs.code() == Some(4),
            "bucket {}: the reference did not get on with it: {theirs}",
            self.seed
        );
        (theirs, ours)
    }

    fn differ(&mut self, what: &str, theirs: &impl ToString, ours: &impl ToString) {
        self.differences.push(format!(
            "bucket {}: {what}\n=== theirs\n{}\n=== ours\n{}",
            self.seed,
            theirs.to_string(),
            ours.to_string()
        ));
    }

    /// The same exit code and the same on stdout.
    fn same(&mut self, name: &str, options: &[&str], backup: Option<&str>) {
        let may_be_4 = backup
            .is_some_and(|typed| [Means::Unclear, Means::Unreadable].contains(&self.means(typed)));
        let (theirs, ours) = self.both(name, options, backup, may_be_4);
        // A list that is not whole is a failure: programs delete their own records
        // by what is not in it. The reference only warns.
        let partial = name == "barman-cloud-backup-list" && self.generated.unreadable.is_some();
        let expected = if partial { Some(1) } else { theirs.code() };
        if ours.code() != expected {
            self.differ("exit code", &theirs, &ours);
        } else if theirs.stdout != self.as_theirs(&ours.stdout) {
            self.differ("stdout", &theirs, &ours);
        }
    }

    fn as_theirs(&self, text: &str) -> String {
        // Not the whole path: it may be escaped in a list.
        let folder = |side: Side| format!("{}/{}/", self.seed, side.folder());
        text.replace(&folder(Side::Ours), &folder(Side::Theirs))
    }

    /// What is left below the prefix of a side: keys without it, and sizes.
    fn left(&self, side: Side) -> BTreeMap<String, u64> {
        let prefix = self.prefix(side);
        let left = self.bucket.sizes(&prefix).into_iter();
        left.map(|(key, size)| (key[prefix.len()..].to_owned(), size))
            .collect()
    }

    fn same_objects(&mut self, after: &str) {
        let (theirs, ours) = (self.left(Side::Theirs), self.left(Side::Ours));
        let only = |of: &BTreeMap<String, u64>, without: &BTreeMap<String, u64>| {
            let only = of
                .iter()
                .filter(|(key, size)| without.get(*key) != Some(size));
            let lines = only.map(|(key, size)| format!("{key} ({size} bytes)\n"));
            lines.collect::<String>()
        };
        if theirs != ours {
            let (theirs, ours) = (only(&theirs, &ours), only(&ours, &theirs));
            self.differ(
                &format!("objects left only by one side after {after}"),
                &theirs,
                &ours,
            );
        }
    }

    /// The readable backups that `typed` could mean, and how it does.
    fn candidates(&self, typed: &str) -> Vec<&Backup> {
        let backups = &self.generated.backups;
        let mut found = backups.iter().filter(|backup| backup.id == typed);
        let is_id = typed.len() == 15 && typed.as_bytes()[8] == b'T';
        if is_id {
            return found.next().into_iter().collect();
        }
        let mut ended = backups.iter().filter(|backup| backup.status != "STARTED");
        let shortcut = match typed {
            "latest" | "last" => ended.next_back(),
            "oldest" | "first" => ended.next(),
            "last-failed" => ended.rfind(|backup| backup.status == "FAILED"),
            _ => None,
        };
        if let Some(backup) = shortcut {
            return vec![backup];
        }
        let named = backups.iter().filter(|backup| backup.name == Some(typed));
        named.collect()
    }

    fn means(&self, typed: &str) -> Means {
        if self.generated.unreadable.as_deref() == Some(typed) {
            Means::Unreadable
        } else if typed.len() == 15 && typed.as_bytes()[8] == b'T' {
            Means::Id
        } else if self.candidates(typed).len() == 1 {
            Means::One
        } else {
            Means::Unclear
        }
    }

    /// A backup as somebody may type it.
    fn typed(&self, rng: &mut Rng) -> String {
        let backups = &self.generated.backups;
        let some = (!backups.is_empty()).then(|| &backups[rng.usize(..backups.len())]);
        let unreadable = self.generated.unreadable.as_deref();
        match (rng.u8(..100), some) {
            (0..50, Some(backup)) => backup.id.clone(),
            (
                50..75,
                Some(Backup {
                    name: Some(name), ..
                }),
            ) => (*name).to_owned(),
            (75..88, _) => {
                let shortcuts = ["latest", "last", "oldest", "first", "last-failed"];
                shortcuts[rng.usize(..shortcuts.len())].to_owned()
            }
            (88..92, _) => self.generated.stray.clone(),
            (92..94, _) => "20010203T040506".to_owned(),
            (94..96, _) => "no such backup".to_owned(),
            (_, Some(backup)) => unreadable.unwrap_or(&backup.id).to_owned(),
            (_, None) => "latest".to_owned(),
        }
    }

    /// The reference crashes after it deleted a backup that never began where no
    /// complete one tells what WAL is needed.
    fn leaves_the_reference_without_a_limit(&self, typed: &str) -> bool {
        let live = self.generated.backups.iter().any(Backup::is_live);
        let candidates = self.candidates(typed);
        !live && candidates.iter().any(|backup| backup.begin.is_none())
    }

    /// Which backups to delete, as options: `one` of a hundred times by id or name,
    /// else by a policy.
    fn deletion(&self, one: u8, rng: &mut Rng) -> Vec<String> {
        let mut options = Vec::new();
        // Old backups and short policies more often: with others little goes.
        let typed = match self.generated.backups.first() {
            Some(oldest) if rng.bool() => oldest.id.clone(),
            _ => self.typed(rng),
        };
        let small = |rng: &mut Rng| rng.u8(..5).min(rng.u8(..5));
        let by_id = rng.u8(..100) < one;
        match rng.u8(..2) {
            _ if by_id && !self.leaves_the_reference_without_a_limit(&typed) => {
                options.extend(["-b".to_owned(), typed]);
            }
            0 => {
                let word = ["REDUNDANCY ", "redundancy  "][rng.usize(..2)];
                options.extend(["-r".to_owned(), format!("{word}{}", small(rng))]);
            }
            _ => {
                let window = match rng.u8(..4) {
                    0 => format!("recovery window of {} weeks", small(rng)),
                    1 => format!("RECOVERY WINDOW OF {} WEEK", small(rng)),
                    2 if rng.bool() => "Recovery Window  Of 1 Month".to_owned(),
                    _ => format!("RECOVERY WINDOW OF {} DAYS", rng.u8(1..25)),
                };
                options.extend(["-r".to_owned(), window]);
            }
        }
        if rng.u8(..100) < 20 {
            options.extend(["-m".to_owned(), small(rng).to_string()]);
        }
        if rng.u8(..100) < 10 {
            options.extend(["--batch-size".to_owned(), "2".to_owned()]);
        }
        options
    }

    /// Deletes on both sides, or says what would go; `one` as in `deletion`.
    fn delete(&mut self, dry: bool, one: u8, rng: &mut Rng) {
        let before = self.left(Side::Theirs).len();
        let mut options = self.deletion(one, rng);
        options.extend(dry.then(|| "--dry-run".to_owned()));
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let may_be_4 = options[0] == "-b" && self.means(options[1]) == Means::Unclear;
        let (theirs, ours) = self.both("barman-cloud-backup-delete", &options, None, may_be_4);
        if theirs.code() != ours.code() {
            self.differ("exit code", &theirs, &ours);
        }
        if theirs.stdout != self.as_theirs(&ours.stdout) {
            self.differ("stdout", &theirs, &ours);
        }
        self.same_objects(&format!("{theirs}\n{ours}"));
        let left = self.left(Side::Theirs);
        self.deleted += before - left.len();
        let info = |backup: &Backup| format!("base/{}/backup.info", backup.id);
        let backups = &mut self.generated.backups;
        backups.retain(|backup| left.contains_key(&info(backup)));
    }

    /// Sets or releases a keep on both sides.
    fn keep(&mut self, rng: &mut Rng) {
        const NAME: &str = "barman-cloud-backup-keep";
        let typed = self.typed(rng);
        let all = [
            "--target=full",
            "--target=standalone",
            "--release",
            "--release",
        ];
        let option = all[rng.usize(..all.len())];
        let setting = option != "--release";
        let exists = !self.candidates(&typed).is_empty();
        let means = self.means(&typed);
        let absent = setting && means == Means::Id && !exists;
        let lost = means == Means::Unclear || setting && means == Means::Unreadable || absent;
        let (theirs, ours) = self.both(NAME, &[option], Some(&typed), lost);
        // What is not there cannot be kept: an error as any other, not a crash.
        let expected = if absent { Some(1) } else { theirs.code() };
        if ours.code() != expected {
            self.differ("exit code", &theirs, &ours);
        }
        self.same_objects(&format!("{theirs}\n{ours}"));
    }

    /// The verdict on the archive, and its reason.
    fn check_wal_archive(&mut self, options: &[&str]) {
        let (theirs, ours) = self.both("barman-cloud-check-wal-archive", options, None, false);
        if (theirs.code(), theirs.errors()) != (ours.code(), ours.errors()) {
            self.differ("verdict", &theirs, &ours);
        }
    }

    /// The timeline of some WAL file, or the one after it.
    fn timeline(&self, rng: &mut Rng) -> u32 {
        let wal = |key: &&String| key.starts_with("wals/0");
        let names: Vec<&String> = self.generated.objects.keys().filter(wal).collect();
        let name = (!names.is_empty()).then(|| names[rng.usize(..names.len())]);
        let digits = name.and_then(|name| name.get(5..13));
        let timeline = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        timeline.unwrap_or(0).max(1) + u32::from(rng.bool())
    }

    fn compare(&mut self) {
        let rng = &mut Rng::with_seed(!self.seed);
        self.same("barman-cloud-backup-list", &[], None);
        self.same("barman-cloud-backup-list", &["--format=json"], None);
        let typed = self.typed(rng);
        self.same("barman-cloud-backup-show", &["--format=json"], Some(&typed));
        let typed = self.typed(rng);
        self.same("barman-cloud-backup-show", &[], Some(&typed));
        let typed = self.typed(rng);
        self.same("barman-cloud-backup-keep", &["--status"], Some(&typed));
        if rng.u8(..5) == 0 {
            self.check_wal_archive(&[]);
        } else {
            let timeline = self.timeline(rng).to_string();
            self.check_wal_archive(&["--timeline", &timeline]);
        }
        self.keep(rng);
        self.delete(true, 25, rng);
        self.delete(false, 60, rng);
        self.delete(false, 10, rng);
    }
}

fn both_agree(seeds: Range<u64>) {
    let workspace = Workspace::new();
    let Some(barman) = Barman::find() else { return };
    let Some(bucket) = S3Server::Moto.bucket(&workspace) else {
        return;
    };
    let mut differences = Vec::new();
    let mut deleted = 0;
    for seed in seeds {
        let mut copies = Copies::new((&barman, &bucket, &workspace), seed);
        copies.compare();
        deleted += copies.deleted;
        if !copies.differences.is_empty() {
            let keys: Vec<String> = copies.generated.objects.into_keys().collect();
            differences.append(&mut copies.differences);
            differences.push(format!("bucket {seed} was:\n{}", keys.join("\n")));
        }
    }
    let differences = differences.join("\n\n");
    assert!(differences.is_empty(), "{differences}");
    assert!(
        deleted > 20,
        "hardly anything was deleted: {deleted} objects"
    );
}

/// How many buckets are compared.
pub(crate) const BUCKETS: u64 = 30;

/// Several tests, because each takes half a minute.
macro_rules! both_agree {
    ($($name:ident $seeds:expr)*) => { $(
        #[test]
        fn $name() {
            both_agree($seeds);
        }
    )* };
}

both_agree! {
    both_sides_agree_on_buckets_0_to_4 0..5
    both_sides_agree_on_buckets_5_to_9 5..10
    both_sides_agree_on_buckets_10_to_14 10..15
    both_sides_agree_on_buckets_15_to_19 15..20
    both_sides_agree_on_buckets_20_to_24 20..25
    both_sides_agree_on_buckets_25_to_29 25..BUCKETS
}
