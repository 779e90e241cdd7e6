//! The pages of a server, judged while they are copied: one that is bad is named, and
//! one that is only being written is not.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use e2e::{Cluster, PgBin, Place, Row, Run, Section, Workspace, of_sample_or_whole};

const PAGE: usize = 8192;

/// What is said of pages, without that a backup waited for a second of its own.
fn said_of_pages(run: &Run) -> Vec<String> {
    let mut said = run.messages("WARNING");
    said.retain(|text| text.contains("checksum"));
    said
}

/// Sessions that change pages as fast as they can, until they are told to end.
struct Storm {
    over: Arc<AtomicBool>,
    sessions: Vec<JoinHandle<u64>>,
}

impl Storm {
    fn start(cluster: &Cluster) -> Self {
        let session = cluster.session();
        for (table, kind, place) in [
            ("storm", "", ""),
            ("far", "", "TABLESPACE fast"),
            ("loose", "UNLOGGED", ""),
        ] {
            session.run(&format!(
                "CREATE {kind} TABLE {table} {place} AS \
                 SELECT i AS id, md5(i::text) || repeat('x', 90) AS body \
                 FROM generate_series(1, 60000) AS i"
            ));
            session.run(&format!("CREATE INDEX ON {table} (id)"));
            session.run(&format!("CREATE INDEX ON {table} (body)"));
        }
        let update = |table: &'static str| {
            move |rng: &mut fastrand::Rng| {
                let which = rng.u32(..200);
                vec![
                    format!(
                        "UPDATE {table} SET body = md5(body || id) || repeat('x', 90) \
                         WHERE id % 200 = {which}"
                    ),
                    format!("DELETE FROM {table} WHERE id % 1999 = {which}"),
                    format!(
                        "INSERT INTO {table} SELECT i, md5(i::text) || repeat('y', 90) \
                         FROM generate_series(1, 60) AS i"
                    ),
                ]
            }
        };
        let churn = |rng: &mut fastrand::Rng| {
            let rows = rng.u32(1..20_000);
            let churn = format!(
                "CREATE TABLE churn AS SELECT i, repeat('z', 200) FROM generate_series(1, {rows}) AS i"
            );
            let tables = ["VACUUM storm", "VACUUM far", "VACUUM loose"];
            let tables = tables.map(str::to_owned);
            let rest = ["TRUNCATE churn", "CHECKPOINT", "DROP TABLE churn"].map(str::to_owned);
            [vec![churn], tables.to_vec(), rest.to_vec()].concat()
        };
        let over = Arc::new(AtomicBool::new(false));
        let sessions = vec![
            blow(cluster, &over, 1, update("storm")),
            blow(cluster, &over, 2, update("far")),
            blow(cluster, &over, 3, update("loose")),
            blow(cluster, &over, 4, churn),
        ];
        Self { over, sessions }
    }

    /// Ends it; gives how many statements each of them ran.
    fn end(self) -> Vec<u64> {
        self.over.store(true, Ordering::Relaxed);
        let ended = self.sessions.into_iter();
        ended.map(|session| session.join().unwrap()).collect()
    }
}

/// A session of its own that runs the statements of `work` again and again.
fn blow(
    cluster: &Cluster,
    over: &Arc<AtomicBool>,
    seed: u64,
    work: impl Fn(&mut fastrand::Rng) -> Vec<String> + Send + 'static,
) -> JoinHandle<u64> {
    let (session, over) = (cluster.session(), Arc::clone(over));
    std::thread::spawn(move || {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut count = 0;
        while !over.load(Ordering::Relaxed) {
            for statement in work(&mut rng) {
                session.run(&statement);
                count += 1;
            }
        }
        count
    })
}

/// The tables are larger than the server's buffers, which writes pages all the time.
#[test]
fn pages_that_are_written_while_they_are_read_are_no_alarm() {
    let Some(bin) = PgBin::find() else { return };
    let mut row = Row::new(
        Section::Database,
        "`backup` of a server whose sessions change pages as fast as they can, again and again",
        "no page is taken for a bad one, though many are read while they are written",
    );
    let workspace = Workspace::new();
    let place = Place::in_directory(&workspace);
    let mut primary = Cluster::create(&bin, &workspace, "primary", &[]);
    primary.archive_with("true");
    for (name, value) in [
        ("bgwriter_delay", "10ms"),
        ("bgwriter_lru_maxpages", "1000"),
        ("checkpoint_timeout", "30s"),
    ] {
        primary.configure(name, value);
    }
    primary.start();
    primary.make_tablespace(&workspace, "fast", "fast place");
    let storm = Storm::start(&primary);
    for _ in 0..of_sample_or_whole(3, 200) {
        let strict = place.backup(&primary, "postgres");
        let run = strict.args(["-v", "--fail-on-bad-pages"]).run();
        assert_eq!(run.code(), Some(0), "{run}");
        assert_eq!(said_of_pages(&run), [""; 0], "{run}");
        let judged = " pages were judged by their checksums, ";
        let found = run.messages("INFO");
        assert!(found.iter().any(|text| text.contains(judged)), "{run}");
        fs::remove_dir_all(workspace.path("bucket/main/base")).unwrap();
        row.lived_through();
    }
    let statements = storm.end();
    assert!(statements.iter().all(|count| *count > 0), "{statements:?}");
    row.finish();
}

/// What becomes of a page on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    Bit,
    /// 512 bytes are zeroes.
    Sector,
    /// It is the page that lies behind it in the file, or before it.
    Neighbour,
    Noise,
    /// It is as it would be before it was ever written.
    Zeroes,
}

impl Harm {
    /// The page number `block` of `whole`, harmed.
    fn page(self, whole: &[u8], block: usize, rng: &mut fastrand::Rng) -> Vec<u8> {
        let page = |block: usize| whole[block * PAGE..(block + 1) * PAGE].to_vec();
        let mut bytes = page(block);
        match self {
            Self::Bit => bytes[rng.usize(..PAGE)] ^= 1 << rng.u32(..8),
            Self::Sector => {
                let at = rng.usize(..PAGE / 512) * 512;
                bytes[at..at + 512].fill(0);
            }
            Self::Neighbour => {
                let last = whole.len() / PAGE - 1;
                bytes = page(if block < last { block + 1 } else { block - 1 });
            }
            Self::Noise => rng.fill(&mut bytes),
            Self::Zeroes => bytes.fill(0),
        }
        bytes
    }
}

/// A server that has nothing to write.
fn idle(bin: &PgBin, workspace: &Workspace) -> Cluster {
    let mut primary = Cluster::create(bin, workspace, "primary", &[]);
    primary.archive_with("true");
    primary.configure("autovacuum", "off");
    primary.start();
    primary.make_tablespace(workspace, "fast", "fast place");
    let session = primary.session();
    let rows = "AS SELECT i, md5(i::text) AS body FROM generate_series(1, 20000) AS i";
    session.run(&format!("CREATE TABLE t {rows}"));
    session.run(&format!("CREATE TABLE f TABLESPACE fast {rows}"));
    session.run("CREATE INDEX i ON t (body)");
    session.run("VACUUM FREEZE");
    session.run("CHECKPOINT");
    primary
}

/// A file of a relation, and what it was.
struct Relation {
    name: String,
    file: File,
    whole: Vec<u8>,
}

#[test]
fn a_page_that_changed_on_the_disk_is_named() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let place = Place::in_directory(&workspace);
    let primary = idle(&bin, &workspace);
    let session = primary.session();
    let relations: Vec<Relation> = ["t", "f", "i"]
        .into_iter()
        .map(|table| {
            let name = session.value(&format!("SELECT pg_relation_filepath('{table}')"));
            let path = primary.pgdata().join(&name);
            let whole = fs::read(&path).unwrap();
            let file = File::options().write(true).open(path).unwrap();
            Relation { name, file, whole }
        })
        .collect();
    let mut rng = fastrand::Rng::with_seed(26);
    let mut seen = BTreeSet::new();
    // What it says of a page that was harmed so.
    let mut after = |harm: Harm, strict: bool| {
        let relation = &relations[rng.usize(..relations.len())];
        let (block, page) = loop {
            let block = rng.usize(..relation.whole.len() / PAGE);
            let page = harm.page(&relation.whole, block, &mut rng);
            // A sector in the middle of a page may have been empty.
            if relation.whole[block * PAGE..(block + 1) * PAGE] != page {
                break (block, page);
            }
        };
        seen.insert((relation.name.clone(), block));
        let at = (block * PAGE) as u64;
        relation.file.write_all_at(&page, at).unwrap();
        let mut backup = place.backup(&primary, "postgres");
        if strict {
            backup = backup.arg("--fail-on-bad-pages");
        }
        let run = backup.run();
        let whole = &relation.whole[block * PAGE..(block + 1) * PAGE];
        relation.file.write_all_at(whole, at).unwrap();
        let text = "has 1 page with a wrong checksum: block";
        (run, format!("`{}` {text} {block}", relation.name))
    };
    for (harm, what) in [
        (Harm::Bit, "a bit is another"),
        (Harm::Sector, "a sector is zeroes, as after a lost write"),
        (Harm::Neighbour, "it is another page of the table"),
        (Harm::Noise, "it is something else"),
    ] {
        let mut row = Row::new(
            Section::Database,
            format!("`backup`: a page of a table has changed on the server's disk: {what}"),
            "named by its file and its number, and the backup is completed; it is `FAILED` with \
             `--fail-on-bad-pages`",
        );
        for round in 0..of_sample_or_whole(2, 30) {
            let strict = round % 2 == 1;
            let (run, expected) = after(harm, strict);
            assert_eq!(run.code(), Some(i32::from(strict)), "{run}");
            assert_eq!(said_of_pages(&run), [expected], "{run}");
            assert_eq!(run.errors().len(), 1, "{run}");
            row.lived_through();
        }
        row.finish();
    }
    let mut row = Row::new(
        Section::Database,
        "`backup`: a page of a table has changed on the server's disk: it is zeroes",
        "taken for one that the server has not filled yet; only PostgreSQL can know better, as \
         `pg_amcheck` does of indexes",
    )
    .passed_on();
    for _ in 0..of_sample_or_whole(1, 10) {
        let (run, _) = after(Harm::Zeroes, true);
        assert_eq!(run.code(), Some(0), "{run}");
        row.lived_through();
    }
    row.finish();
    assert!(seen.len() > 4, "hardly any place was tried: {seen:?}");
}
