//! A sample of `tests/sizes.sh`: clusters that are larger than this machine, in small.

use std::process::Command;

use e2e::Workspace;
use serde_json::Value;

/// Runs the program that simulates.
fn sizes(words: &[&str]) -> Vec<u8> {
    let run = Command::new(env!("CARGO_BIN_EXE_sizes"))
        .args(words)
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{words:?}: {said}");
    run.stdout
}

/// A data directory, gone with its workspace.
struct Tree {
    _workspace: Workspace,
    path: String,
}

impl Tree {
    fn new(files: u64, size: u64) -> Self {
        let workspace = Workspace::new();
        let path = workspace.path("pgdata").display().to_string();
        sizes(&["tree", &path, &files.to_string(), &size.to_string()]);
        Self {
            _workspace: workspace,
            path,
        }
    }

    fn copy(&self, rounds: u64, max_parts: u64) -> Value {
        let numbers = [rounds.to_string(), max_parts.to_string()];
        let line = sizes(&["copy", &self.path, &numbers[0], &numbers[1]]);
        serde_json::from_slice(&line).expect("an object")
    }
}

fn number(line: &Value, name: &str) -> u64 {
    line[name].as_u64().expect(name)
}

/// B3: memory follows neither bytes nor, by much, the number of files.
#[test]
fn a_backup_of_many_files_needs_little_memory_for_each() {
    let tree = Tree::new(2000, 100);
    let (few, many) = (tree.copy(1, 10_000), tree.copy(60, 10_000));
    for line in [&few, &many] {
        // 40 MiB: three parts, and what a process needs.
        assert!(number(line, "peak") < 64 << 10, "{line}");
    }
    // Headers (an extended one, for the time), a block of content and a line of the
    // manifest for each file.
    let bytes = number(&many, "bytes");
    assert!((120_000 * 2150..120_000 * 2250).contains(&bytes), "{many}");
    let slope = number(&many, "peak").saturating_sub(number(&few, "peak"));
    assert!(
        slope * 1_000_000 / 118_000 <= 60 << 10,
        "{slope} KiB more for 118,000 files"
    );
}

/// Archives end before the parts that a store takes run out.
#[test]
fn a_store_of_few_parts_gets_more_archives() {
    let tree = Tree::new(3, 256 << 20);
    let line = tree.copy(2, 60);
    let part = 10 << 20;
    assert_eq!(number(&line, "archives"), 3);
    // Two files of 256 MiB, and then a third would not be sure to fit.
    assert_eq!(number(&line, "most_parts"), 52);
    assert_eq!(number(&line, "largest_part"), part);
    assert!(number(&line, "bytes") > (6 * 256) << 20);
}

/// A member that no archive of the usual parts can hold has larger ones.
#[test]
fn one_enormous_member_gets_larger_parts() {
    let tree = Tree::new(1, 1 << 30);
    let line = tree.copy(1, 50);
    // With room for what a codec can make of it at the worst.
    assert_eq!(number(&line, "largest_part"), 24 << 20);
    assert!(number(&line, "most_parts") <= 50);
    assert!(number(&line, "largest_archive") > 1 << 30);
}
