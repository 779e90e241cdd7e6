//! Base backups whose archives changed while they were stored.
//!
//! One small cluster is backed up; each case damages its objects, restores them
//! and puts them back. A restore either delivers exactly what was backed up or
//! ends with an error and a directory that PostgreSQL does not start on; and whatever does
//! not come back is found by `verify`, which nothing else alarms.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use e2e::{Barman, Cluster, Damage, Objects, PgBin, Proof, Row, Run, Section, Tree, Workspace};
use e2e::{S3Server, ShutDown, of_sample_or_whole};

/// The options of the codecs that base backups are offered in.
const CODECS: [&str; 6] = ["", "--gzip", "--bzip2", "--snappy", "--lz4", "--zstd"];

/// Archives end when they have reached this; the cluster then has some of them,
/// whatever the codec.
const LIMIT: &str = "--max-archive-size=100KB";

/// A cluster without the databases that nobody needs here, and with a tablespace.
fn small_cluster(bin: &PgBin, at: &Objects<'_>) -> Cluster {
    let mut cluster = at.place().primary(bin, "");
    cluster.start();
    let session = cluster.session();
    for name in ["template0", "template1"] {
        session.run(&format!(
            "UPDATE pg_database SET datistemplate = false WHERE datname = '{name}'"
        ));
        session.run(&format!("DROP DATABASE {name}"));
    }
    cluster.make_tablespace(at.workspace(), "fast", "fast");
    session.run("CREATE TABLE f TABLESPACE fast AS SELECT generate_series(1, 20000) AS i");
    session.run("CREATE TABLE t AS SELECT generate_series(1, 20000) AS i");
    cluster
}

/// How many restores there were in this process: each goes to a place of its own.
static RESTORES: AtomicU32 = AtomicU32::new(0);

/// A backup that is restored again and again.
struct Backup<'a, 'w> {
    at: &'a Objects<'w>,
    id: String,
    /// What comes back if nothing is damaged: PGDATA, and the tablespace.
    whole: (Tree, Tree),
}

impl<'a, 'w> Backup<'a, 'w> {
    fn new(at: &'a Objects<'w>, id: String) -> Self {
        let empty = || Tree(std::collections::BTreeMap::new());
        let mut this = Self {
            at,
            id,
            whole: (empty(), empty()),
        };
        let (run, target, moved) = this.restore();
        assert_eq!(run.code(), Some(0), "{run}");
        assert!(run.stderr.is_empty(), "{run}");
        this.whole = (tree(&target), tree(&moved));
        let proof = this.prove();
        assert!(proof.is_good(), "{}", proof.run);
        this
    }

    fn prove(&self) -> Proof {
        self.at.place().prove(&self.id, &[])
    }

    /// Restores it to a fresh place; how it ended, PGDATA, and the tablespace.
    fn restore(&self) -> (Run, PathBuf, PathBuf) {
        let workspace = self.at.workspace();
        let number = RESTORES.fetch_add(1, Ordering::Relaxed) + 1;
        for old in ["pgdata", "fast"] {
            let _ = fs::remove_dir_all(workspace.path(format!("{old}-{}", number - 1)));
        }
        let target = workspace.path(format!("pgdata-{number}"));
        let moved = workspace.path(format!("fast-{number}"));
        let run = self
            .at
            .place()
            .tool("barman-cloud-restore")
            .arg(format!("--tablespace=fast:{}", moved.display()))
            .args([self.at.place().url(), "main", &self.id])
            .arg(&target)
            .run();
        (run, target, moved)
    }

    fn key(&self, object: &str) -> String {
        format!("main/base/{}/{object}", self.id)
    }

    /// The archives, the record left out: those of PGDATA in order, then those of
    /// the tablespace.
    fn archives(&self) -> Vec<String> {
        let dir = self.key("");
        let mut keys = self.at.keys(&dir);
        keys.retain(|key| key.contains(".tar"));
        // `data_0001` follows `data`.
        keys.sort_by_key(|key| (!key.contains("/data"), key.replace("data.tar", "data_0000")));
        keys
    }

    /// The first, a middle and the last archive of PGDATA, and the first of the
    /// tablespace.
    fn choice(&self) -> [String; 4] {
        let all = self.archives();
        let data = all.iter().filter(|key| key.contains("/data")).count();
        assert!(data > 2 && all.len() > data, "{all:?}");
        [0, data / 2, data - 1, data].map(|nth| all[nth].clone())
    }

    /// Restores it, damaged as it is now: whether it came back exactly. If not,
    /// the tool has said so and PostgreSQL has nothing to start on, and a check names the object
    /// `key`, or the backup.
    fn comes_back(&self, key: &str, case: &str) -> bool {
        let back = self.is_restored(case);
        let proof = self.prove();
        let named = proof.names(key) || proof.names(self.key("").trim_end_matches('/'));
        assert_eq!(proof.is_good(), back, "{case}: {}", proof.run);
        assert!(back || named, "{case}: {key}: {}", proof.run);
        back
    }

    fn is_restored(&self, case: &str) -> bool {
        let (run, target, moved) = self.restore();
        if run.code() == Some(0) {
            self.whole.0.assert_same(&tree(&target), case);
            self.whole.1.assert_same(&tree(&moved), case);
            return true;
        }
        self.refused(&run, case);
        for name in ["global/pg_control", "backup_label"] {
            assert!(!target.join(name).exists(), "{case}: {name}: {run}");
        }
        false
    }

    /// One line names what is damaged: an archive or the backup.
    fn refused(&self, run: &Run, case: &str) {
        assert!(matches!(run.code(), Some(1 | 4)), "{case}: {run}");
        let errors = run.errors();
        let hints = run.stderr.matches("\nHINT: ").count();
        let lines = run.stderr.lines().count() - run.messages("WARNING").len();
        // Under another name the tablespace has no rule and would go where it came
        // from.
        let fast = self.at.workspace().path("fast");
        let fast = format!("Destination {} already exists", fast.display());
        let words = [self.key(""), self.id.clone(), fast];
        let named = errors
            .first()
            .is_some_and(|error| words.iter().any(|word| error.contains(word)));
        assert!(
            errors.len() == 1 && lines == 1 + hints && named,
            "{case}: {run}"
        );
    }

    /// Damages one object, and puts it back afterwards.
    fn damaged(&self, key: &str, damage: Damage) -> bool {
        let stored = self.at.read(key);
        let bytes = damage.of(&stored);
        self.at.write(key, &bytes);
        let back = self.comes_back(key, &format!("{damage} of {key}"));
        self.at.write(key, &stored);
        back
    }
}

/// What was restored, but for the link to the tablespace, which is elsewhere each
/// time, and times: only seconds of them are in a manifest.
fn tree(root: &std::path::Path) -> Tree {
    let mut tree = Tree::of(root).without(|name| name.starts_with("pg_tblspc"));
    for entry in tree.0.values_mut() {
        entry.mtime_ns = 0;
    }
    tree
}

fn row(done: &str, found: &str) -> Row {
    row_of("restore", done, found)
}

fn row_of(tool: &str, done: &str, found: &str) -> Row {
    Row::new(
        Section::Damage,
        format!("`{tool}`: {done}"),
        found.to_owned(),
    )
}

/// A damage that both a restore and a check have to deal with.
struct Both(Row, Row);

impl Both {
    fn new(done: &str, found: &str) -> Self {
        Self(row(done, found), row_of("verify", done, NAMED))
    }

    fn lived_through(&mut self) {
        self.0.lived_through();
        self.1.lived_through();
    }

    fn finish(self) {
        self.0.finish();
        self.1.finish();
    }
}

const NAMED: &str = "a finding names the object, the file in it or the backup; good only if a restore \
                     brings back exactly what was backed up";

const TOLD: &str = "restored exactly as it was, or refused naming the archive or the file, without \
                    `pg_control` and `backup_label`: PostgreSQL does not start";

/// Damages archives of backups in these codecs.
fn archives_of(at: &Objects<'_>, bin: &PgBin, codecs: &[&str]) {
    let cluster = small_cluster(bin, at);
    for option in codecs {
        let mut options = vec![LIMIT];
        options.extend(option.split_whitespace());
        let backup = Backup::new(at, at.back_up(&cluster, &options));
        let name = match option.trim_start_matches('-') {
            "" => "without compression".to_owned(),
            name => format!("in {name}"),
        };
        let mut row = Both::new(
            &format!(
                "an archive of a backup {name} is damaged (bits, bytes, sectors; cut, longer, empty)"
            ),
            TOLD,
        );
        let mut rng = fastrand::Rng::with_seed(17);
        for key in backup.choice() {
            let length = at.read(&key).len();
            let mut ways = Damage::every_way(length, of_sample_or_whole(1, 40), &mut rng);
            rng.shuffle(&mut ways);
            for damage in ways.into_iter().take(of_sample_or_whole(1, usize::MAX)) {
                backup.damaged(&key, damage);
                row.lived_through();
            }
        }
        row.finish();
    }
}

/// The record of a backup says where it lies and where it begins.
#[test]
fn the_record_of_a_backup() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let at = Objects::in_directory(&workspace);
    let cluster = small_cluster(&bin, &at);
    let backup = Backup::new(&at, at.back_up(&cluster, &[]));
    let done = "the backup.info of a backup is damaged (bits, bytes, sectors; cut, longer, empty)";
    let mut row = row(done, TOLD);
    let mut proved = row_of(
        "verify",
        done,
        "a finding names the record or what it does not agree with; good only if a restore brings \
         back exactly what was backed up, or refuses for a changed name or place of a tablespace",
    );
    let key = backup.key("backup.info");
    let stored = at.read(&key);
    let mut rng = fastrand::Rng::with_seed(19);
    let ways = Damage::every_way(stored.len(), of_sample_or_whole(1, 300), &mut rng);
    for damage in ways.into_iter().step_by(of_sample_or_whole(3, 1)) {
        let case = format!("{damage} of {key}");
        at.write(&key, damage.of(&stored));
        let back = backup.is_restored(&case);
        row.lived_through();
        let proof = backup.prove();
        // Who checks puts no tablespace anywhere.
        let elsewhere = || {
            let (again, ..) = backup.restore();
            again.stderr.contains("already exists")
        };
        assert!(!back || proof.is_good(), "{case}: {}", proof.run);
        assert!(
            back || !proof.is_good() || elsewhere(),
            "{case}: {}",
            proof.run
        );
        proved.lived_through();
    }
    at.write(&key, &stored);
    row.finish();
    proved.finish();
}

/// A test for each group of codecs, so that they run side by side.
fn in_a_directory(codecs: &[&str]) {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    archives_of(&Objects::in_directory(&workspace), &bin, codecs);
}

#[test]
fn archives_without_compression_and_in_fast_codecs() {
    in_a_directory(&["", "--snappy", "--lz4"]);
}

#[test]
fn archives_in_other_codecs() {
    in_a_directory(&CODECS.map(|codec| codec)[1..3]);
    in_a_directory(&CODECS[5..]);
}

#[test]
fn archives_in_a_bucket() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let at = Objects::in_bucket(&workspace, &bucket, "p");
    let cluster = small_cluster(&bin, &at);
    let backup = Backup::new(&at, at.back_up(&cluster, &[LIMIT]));
    let mut row = Both::new("an archive of a backup in a bucket is damaged", TOLD);
    let mut rng = fastrand::Rng::with_seed(23);
    for key in backup.choice() {
        let ways = Damage::every_way(at.read(&key).len(), 0, &mut rng);
        for damage in ways.into_iter().step_by(of_sample_or_whole(5, 1)) {
            backup.damaged(&key, damage);
            row.lived_through();
        }
    }
    row.finish();
}

/// Parts that are gone, at each other's place, or of another backup.
#[test]
fn parts_that_do_not_belong_together() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let at = Objects::in_directory(&workspace);
    let mut cluster = small_cluster(&bin, &at);
    let mut missing = Both::new(
        "a part of the backup is missing",
        "refused naming the part or the backup",
    );
    let mut swapped = Both::new(
        "two parts of the backup are in each other's place",
        "restored exactly as it was if both are of one directory, refused otherwise",
    );
    let mut foreign = Both::new(
        "a part is one of another backup of the same server",
        "restored exactly as it was if nothing in it differs; else refused naming a file or what \
         does not fit, without `pg_control` and `backup_label`: \
         PostgreSQL does not start",
    );
    for option in of_sample_or_whole(&["--gzip"][..], &["", "--gzip"]) {
        let mut options = vec![LIMIT];
        options.extend(option.split_whitespace());
        let older = Backup::new(&at, at.back_up(&cluster, &options));
        cluster
            .session()
            .run("UPDATE t SET i = i + 1; UPDATE f SET i = i + 1");
        let backup = Backup::new(&at, at.back_up(&cluster, &options));
        let [first, middle, last, tablespace] = backup.choice();
        let choice = [&first, &middle, &last, &tablespace];

        for key in choice {
            let stored = at.read(key);
            at.remove(key);
            assert!(!backup.comes_back(key, &format!("without {key}")));
            at.write(key, stored);
            missing.lived_through();
        }

        for (one, other) in [
            (&first, &last),
            (&first, &middle),
            (&middle, &last),
            (&first, &tablespace),
            (&last, &tablespace),
        ] {
            let (of_one, of_other) = (at.read(one), at.read(other));
            at.write(one, &of_other);
            at.write(other, &of_one);
            let back = backup.comes_back(one, &format!("{one} and {other}"));
            let same_directory = *other != tablespace;
            assert_eq!(back, same_directory, "{one} and {other}");
            at.write(one, of_one);
            at.write(other, of_other);
            swapped.lived_through();
        }

        for (nth, key) in choice.into_iter().enumerate() {
            let stored = at.read(key);
            let others = older.choice();
            at.write(key, at.read(&others[nth]));
            let back = backup.comes_back(key, &format!("{} as {key}", others[nth]));
            // Parts without a file that changed in between are the same.
            assert!(!back || nth < 2, "{key} of another backup");
            at.write(key, stored);
            foreign.lived_through();
        }
        assert!(backup.comes_back("", "as it was"));
    }
    cluster.stop(ShutDown::Immediate);
    for row in [missing, swapped, foreign] {
        row.finish();
    }
}

/// Where the content of the largest member lies in a tar.
fn largest_member(tar: &[u8]) -> std::ops::Range<usize> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().unwrap().map(|entry| {
        let entry = entry.unwrap();
        let start = usize::try_from(entry.raw_file_position()).unwrap();
        start..start + usize::try_from(entry.size()).unwrap()
    });
    entries
        .max_by_key(ExactSizeIterator::len)
        .expect("it has members")
}

/// The reference's backups have no manifest, so that nothing but the archive
/// itself and PostgreSQL's checksums tell.
#[test]
fn a_backup_of_barman() {
    let (Some(bin), Some(barman)) = (PgBin::find(), Barman::find()) else {
        return;
    };
    let workspace = Workspace::new();
    let at = Objects::in_directory(&workspace);
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    // They write to stores only.
    let there = Objects::in_bucket(&workspace, &bucket, "p");
    let cluster = small_cluster(&bin, &at);
    let mut told = Both::new(
        "an archive of a backup made by Barman is damaged (cut, longer, empty, missing; any way if it \
         is compressed)",
        TOLD,
    );
    let mut untold = row(
        "a page of a table changes in a backup made by Barman without compression",
        "restored as it is: there is no manifest, and PostgreSQL's own page checksums tell",
    )
    .passed_on();
    let mut page = row_of(
        "verify",
        "a page of a table changes in a backup made by Barman without compression",
        "a finding names the archive, the file in it and the block",
    );
    for option in ["", "--gzip"] {
        let run = barman
            .tool(&workspace, "barman-cloud-backup")
            .envs(there.place().environment().to_vec())
            .args(cluster.connection())
            .args(option.split_whitespace())
            .args(["--immediate-checkpoint", there.place().url(), "main"])
            .run();
        assert_eq!(run.code(), Some(0), "{run}");
        let key = there.keys("main/base/").pop().expect("a backup was made");
        let id = key.split('/').nth(2).unwrap().to_owned();
        for key in there.keys(&format!("main/base/{id}/")) {
            at.write(&key, there.read(&key));
        }
        let backup = Backup::new(&at, id);
        let data = backup.key(if option.is_empty() {
            "data.tar"
        } else {
            "data.tar.gz"
        });
        let stored = at.read(&data);
        let mut rng = fastrand::Rng::with_seed(29);
        let ways = Damage::every_way(stored.len(), 0, &mut rng);
        for damage in ways.into_iter().step_by(of_sample_or_whole(3, 1)) {
            let about_length = !matches!(damage, Damage::Flip(_) | Damage::Blank(_));
            // Bytes that are there twice are a file's, and its length is not told.
            if about_length || !option.is_empty() {
                backup.damaged(&data, damage);
                told.lived_through();
            }
        }
        at.remove(&data);
        assert!(!backup.comes_back(&data, "without its data"));
        told.lived_through();
        at.write(&data, &stored);

        if option.is_empty() {
            let content = largest_member(&stored);
            let damage = Damage::Flip((content.start + content.len() / 2) * 8);
            at.write(&data, damage.of(&stored));
            let (run, target, _) = backup.restore();
            assert_eq!(run.code(), Some(0), "{run}");
            assert_ne!(tree(&target), backup.whole.0);
            untold.lived_through();
            let proof = backup.prove();
            let found = proof.findings();
            assert!(found.len() == 1 && found[0].0 == "page", "{}", proof.run);
            assert!(proof.names(&data), "{}", proof.run);
            at.write(&data, &stored);
            page.lived_through();
        }
    }
    told.finish();
    untold.finish();
    page.finish();
}
