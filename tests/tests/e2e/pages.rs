//! Pages that changed on the server's disk, which a backup tells by their checksums.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use e2e::{Cluster, PgBin, Place, Run, Session, Workspace};

/// The size of a page of every server here.
const PAGE: u64 = 8192;

/// Makes a table `t` of some twenty pages, and `f` in a tablespace, which the server
/// has no reason to write again.
fn fill(cluster: &mut Cluster, workspace: &Workspace) {
    cluster.configure("autovacuum", "off");
    cluster.start();
    cluster.make_tablespace(workspace, "fast", "fast place");
    let session = cluster.session();
    let rows = "AS SELECT i, repeat('x', 500) FROM generate_series(1, 300) AS i";
    session.run(&format!("CREATE TABLE t {rows}"));
    session.run(&format!("CREATE TABLE f TABLESPACE fast {rows}"));
    session.run("VACUUM FREEZE");
    session.run("CHECKPOINT");
}

/// A file of a relation.
struct Relation {
    /// Relative to PGDATA.
    name: String,
    path: PathBuf,
    file: File,
}

impl Relation {
    fn of(table: &str, cluster: &Cluster, session: &Session) -> Self {
        let name = session.value(&format!("SELECT pg_relation_filepath('{table}')"));
        let path = cluster.pgdata().join(&name);
        let file = File::options().read(true).write(true).open(&path).unwrap();
        Self { name, path, file }
    }

    fn flip(&self, block: u64, at: u64) {
        let mut byte = [0];
        let at = block * PAGE + at;
        self.file.read_exact_at(&mut byte, at).unwrap();
        self.file.write_all_at(&[byte[0] ^ 8], at).unwrap();
    }
}

fn statuses(place: &Place<'_>) -> Vec<String> {
    let list = place.tool("barman-cloud-backup-list");
    let run = list.args(["--format=json", place.url(), "main"]).run();
    let list: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    let backups = list["backups_list"].as_array().unwrap().iter();
    backups
        .map(|backup| backup["status"].as_str().unwrap().to_owned())
        .collect()
}

fn restored(place: &Place<'_>, workspace: &Workspace) -> PathBuf {
    let target = workspace.path("restored");
    let moved = workspace.path("restored-fast");
    place
        .tool("barman-cloud-restore")
        .arg(format!("--tablespace=fast:{}", moved.display()))
        .args([place.url(), "main", "latest"])
        .arg(&target)
        .succeed();
    target
}

#[test]
fn bad_pages_are_named_and_the_backup_is_completed_unless_it_is_to_fail() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let place = Place::in_directory(&workspace);
    let mut primary = place.primary(&bin, "");
    fill(&mut primary, &workspace);
    let session = primary.session();
    let (t, f) = (
        Relation::of("t", &primary, &session),
        Relation::of("f", &primary, &session),
    );
    t.flip(3, 4000);
    t.flip(7, 8191);
    f.flip(1, 30);
    // Nothing is left of this one, and so nothing that says when it was written.
    t.file.write_all_at(&[0xFF; 8192], 9 * PAGE).unwrap();

    let assert_named = |run: &Run| {
        let expected = [
            format!("`{}` has 1 page with a wrong checksum: block 1", f.name),
            format!(
                "`{}` has 2 pages with a wrong checksum: blocks 3 and 7",
                t.name
            ),
            format!("`{}` has 1 page with a wrong checksum: block 9", t.name),
        ];
        let mut named = run.messages("WARNING");
        // It may have to wait for a second of its own.
        named.retain(|text| text.contains("checksum"));
        assert_eq!(named, expected, "{run}");
    };
    let run = place.backup(&primary, "postgres").run();
    assert_eq!(run.code(), Some(0), "{run}");
    assert_named(&run);
    let errors = run.errors();
    let text = "the backup has 4 pages in 2 files with wrong checksums, as they are on disk: ";
    assert!(errors.len() == 1 && errors[0].starts_with(text), "{run}");
    assert_eq!(statuses(&place), ["DONE"]);

    let strict = place.backup(&primary, "postgres");
    let run = strict.arg("--fail-on-bad-pages").run();
    assert_eq!(run.code(), Some(1), "{run}");
    assert_named(&run);
    let text = "Backup failed uploading data (4 pages in 2 files with wrong checksums)";
    assert_eq!(run.errors(), [text], "{run}");
    let mut statuses = statuses(&place);
    statuses.sort();
    assert_eq!(statuses, ["DONE", "FAILED"]);

    // What could be read is there, and what could not is as it was.
    let copy = restored(&place, &workspace);
    for relation in [&t, &f] {
        let (stored, original) = (copy.join(&relation.name), &relation.path);
        assert!(fs::read(stored).unwrap() == fs::read(original).unwrap());
    }
}

/// A relation grows by zeroes, and perhaps the last page is only half there.
#[test]
fn a_relation_that_is_being_extended_is_no_alarm() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let place = Place::in_directory(&workspace);
    let mut primary = place.primary(&bin, "");
    fill(&mut primary, &workspace);
    for table in ["t", "f"] {
        let relation = Relation::of(table, &primary, &primary.session());
        let size = relation.file.metadata().unwrap().len();
        relation.file.set_len(size + 5 * PAGE).unwrap();
        let beginning = fs::read(&relation.path).unwrap();
        let end = size + 5 * PAGE;
        relation.file.write_all_at(&beginning[..5000], end).unwrap();
    }
    let strict = place.backup(&primary, "postgres");
    strict.arg("--fail-on-bad-pages").succeed();
}

/// There is nothing to judge by.
#[test]
fn pages_without_checksums_are_not_judged() {
    let Some(bin) = PgBin::of_version(18) else {
        return;
    };
    let workspace = Workspace::new();
    let place = Place::in_directory(&workspace);
    let mut primary = Cluster::create(&bin, &workspace, "primary", &["--no-data-checksums"]);
    primary.archive_into(&workspace, place.url(), "main", "");
    fill(&mut primary, &workspace);
    let session = primary.session();
    assert_eq!(session.value("SHOW data_checksums"), "off");
    Relation::of("t", &primary, &session).flip(3, 4000);
    let strict = place.backup(&primary, "postgres");
    strict.arg("--fail-on-bad-pages").succeed();
}
