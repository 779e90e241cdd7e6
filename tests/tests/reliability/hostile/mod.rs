//! Buckets that somebody else may write to, and stores that lie.
//!
//! Whatever is in an archive, a record or an answer: it is refused in one line or does no
//! harm. Nothing beside the destination changes, little memory is taken however much is
//! announced, and PostgreSQL has nothing to start on.

mod archives;
mod bombs;
mod records;
mod stores;
mod tar;
mod wal;

use std::fs;
use std::path::{Path, PathBuf};

use e2e::{Row, Run, Section, Tool, Tree, Workspace, golden, peak_of_children};

/// The id of the backup.
const ID: &str = "20261121T120000";

/// Most memory that any tool may take, in bytes.
const MEMORY: u64 = 100 << 20;

/// Longest line that is one to be read, in bytes.
const LINE: usize = 8 << 10;

const REFUSED: &str = "refused in one line, in little memory; nothing beside the destination \
                       changes, and there is no `pg_control`: PostgreSQL does not start";

fn row(done: &str, found: &str) -> Row {
    Row::new(Section::Hostile, done, found)
}

/// A row that is lived through once, by what was just asserted.
fn seen(done: &str, found: &str) {
    let mut row = row(done, found);
    row.lived_through();
    row.finish();
}

/// A bucket in a directory, with a backup in it, and a place for what is restored.
struct Scene {
    workspace: Workspace,
    /// All that lies beside the destination.
    beside: Tree,
}

impl Scene {
    fn new() -> Self {
        let workspace = Workspace::new();
        workspace.dir("place");
        workspace.dir("place/folder");
        workspace.file("place/outside", "outside");
        workspace.file("place/folder/file", "file");
        workspace.dir("bucket");
        let beside = Tree::of(&workspace.path("place"));
        let scene = Self { workspace, beside };
        scene.put("data.tar", sample("data.tar"));
        scene.put("backup.info", record(&[("tablespaces", "None")]));
        scene
    }

    /// Makes an object of the backup.
    fn put(&self, name: &str, content: impl AsRef<[u8]>) {
        self.put_key(&format!("main/base/{ID}/{name}"), content);
    }

    fn put_key(&self, key: &str, content: impl AsRef<[u8]>) {
        let path = self.object(key);
        self.workspace.file(path, content);
    }

    /// Where the object of a key lies.
    fn object(&self, key: &str) -> PathBuf {
        let path = self.workspace.path("bucket").join(key);
        let parent = path.parent().expect("it lies below the bucket");
        self.workspace.dir(parent);
        path
    }

    fn remove(&self, name: &str) {
        let path = self.object(&format!("main/base/{ID}/{name}"));
        fs::remove_file(path).expect("it is there");
    }

    fn target(&self) -> PathBuf {
        self.workspace.path("place/target")
    }

    /// One of the tools, for the server `main`.
    fn tool(&self, name: &str, options: &[&str], words: &[&str]) -> Tool<'_> {
        self.workspace
            .tool(&format!("barman-cloud-{name}"))
            .args(options)
            .args([&self.workspace.url("bucket"), "main"])
            .args(words)
    }

    /// Restores the backup to an empty place.
    fn restore(&self, options: &[&str]) -> Run {
        let _ = fs::remove_dir_all(self.target());
        let target = self.target();
        let words = [ID, target.to_str().expect("it is text")];
        self.tool("restore", options, &words).run()
    }

    /// Nothing happened but what may: beside the destination, in memory, in the log.
    fn harmless(&self, run: &Run, case: &str) {
        let place = self.workspace.path("place");
        let now = Tree::of(&place).without(|name| name.starts_with("target"));
        self.beside.assert_same(&now, case);
        modest(run, case);
    }

    /// A restore that was refused in one line, which says so.
    fn refused(&self, run: &Run, says: &str, case: &str) {
        self.harmless(run, case);
        one_error(run, &[4], says, case);
        for name in ["global/pg_control", "backup_label"] {
            let left = self.target().join(name);
            assert!(left.symlink_metadata().is_err(), "{case}: {name}: {run}");
        }
    }
}

/// One line on standard error, which says this, and nothing on standard output.
fn one_error(run: &Run, codes: &[i32], says: &str, case: &str) {
    assert!(
        run.code().is_some_and(|code| codes.contains(&code)),
        "{case}: {run}"
    );
    assert!(run.stdout.is_empty(), "{case}: {run}");
    let errors = run.errors();
    let hints = run.stderr.matches("\nHINT: ").count();
    let lines = run.stderr.lines().count() - run.messages("WARNING").len();
    assert!(
        errors.len() == 1 && lines == 1 + hints && errors[0].contains(says),
        "{case}: {run}"
    );
}

/// Little memory was taken, and no line steers a terminal or fills it.
fn modest(run: &Run, case: &str) {
    let peak = peak_of_children();
    assert!(peak < MEMORY, "{case}: {} MiB: {run}", peak >> 20);
    assert!(!run.stderr.contains("panicked"), "{case}: {run}");
    for text in [&run.stderr, &run.stdout] {
        let odd = |c: char| c.is_control() && c != '\n';
        assert!(!text.contains(odd), "{case}: {run}");
        assert!(text.lines().all(|line| line.len() < LINE), "{case}");
    }
}

/// An object of the sample backup.
fn sample(name: &str) -> Vec<u8> {
    let path = golden().join("tiny/none/base").join(ID).join(name);
    fs::read(path).expect("it is recorded")
}

/// The record of the sample backup with other values in some fields.
fn record(changes: &[(&str, &str)]) -> String {
    let text = String::from_utf8(sample("backup.info")).expect("it is text");
    let lines = text.lines().map(|line| {
        let name = line.split('=').next().unwrap_or_default();
        let change = changes.iter().find(|(field, _)| *field == name);
        change.map_or(format!("{line}\n"), |(name, value)| {
            format!("{name}={value}\n")
        })
    });
    lines.collect()
}

fn text_of(path: &Path) -> String {
    path.to_str().expect("it is text").to_owned()
}
