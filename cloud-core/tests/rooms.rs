//! The rooms of `docs/architecture.md` (section 2) against the source.
//!
//! The table there is the only list of rooms and of what each may use; it is read
//! here, not repeated. Tests inside the source are left out: they may use
//! whatever they need.
//!
//! A path is found wherever it stands, in a `use` line or inline, from `crate::`
//! or from `super::`. What a room re-exports counts as that room's.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A module path below the crate, `["store", "local"]`.
type Module = Vec<String>;

/// Rooms that are functions from values to values.
const PURE: &str = "`wal`, `units`, `key`, `catalogue::{info, layout, select, literal, time, keep, \
                    retention, wal_cleanup, deletion, gap, snapshots, console, \
                    json}`";

/// Stores that wrap another one. Every other implementation of `ObjectStore` is
/// a concrete store, to be named by the registry alone.
const WRAPPERS: [&str; 4] = ["Bandwidth", "Counted", "FaultyStore", "Retry"];

/// A room uses only the rooms that its row of the table names.
#[test]
fn a_room_uses_only_the_rooms_of_its_row() {
    let rooms = Rooms::read();
    let mut wrong = Vec::new();
    let mut uses = 0;
    for file in sources() {
        let room = rooms.of(&file.module);
        for path in file.paths() {
            let used = rooms.of(&path);
            if room.is_some() && room == used {
                continue;
            }
            uses += 1;
            let allowed = match (room, used) {
                (Some(room), Some(used)) => rooms.may_use[room].contains(used),
                // A path to no room, or from a file that belongs to none.
                _ => false,
            };
            if !allowed {
                wrong.push(format!(
                    "{}: `{}` is not for the room {}",
                    file.name,
                    path.join("::"),
                    room.map_or("(none)".into(), |room| format!("`{}`", room.join("::"))),
                ));
            }
        }
    }
    assert!(uses > 100, "only {uses} uses were found");
    assert_none(&wrong, "see the table in docs/architecture.md, section 2");
}

/// The table has a row for every module and no row for one that is not there.
#[test]
fn the_table_lists_the_rooms_there_are() {
    let rooms = Rooms::read();
    let files = sources();
    let mut wrong = Vec::new();
    for room in rooms.may_use.keys() {
        if !files.iter().any(|file| file.module == *room) {
            wrong.push(format!("there is no room `{}`", room.join("::")));
        }
    }
    for file in &files {
        // `lib.rs`, and a `mod.rs` whose modules are rooms themselves.
        let door = rooms
            .may_use
            .keys()
            .any(|room| room.starts_with(&file.module));
        if rooms.of(&file.module).is_none() && !door {
            wrong.push(format!("{} belongs to no room", file.name));
        }
    }
    assert_none(&wrong, "see the table in docs/architecture.md, section 2");
}

/// Adding a store is a file and a line in the registry, and nothing else has to
/// know.
#[test]
fn only_the_registry_names_a_store() {
    let files = sources();
    let mut stores = BTreeMap::new();
    for file in &files {
        for (_, rest) in occurrences(&file.text, "impl ObjectStore for ") {
            let name: String = rest.chars().take_while(|&c| is_word(c)).collect();
            if !WRAPPERS.contains(&name.as_str()) {
                stores.insert(name, file.module.clone());
            }
        }
    }
    assert!(stores.contains_key("LocalStore"), "found only {stores:?}");
    let mut wrong = Vec::new();
    for file in &files {
        // The door passes the names on, for tests and for the registry.
        if ["store/mod.rs", "store/registry.rs"].contains(&file.name.as_str()) {
            continue;
        }
        for (store, home) in &stores {
            if !file.module.starts_with(home) && has_word(&file.text, store) {
                wrong.push(format!("{} names {store}", file.name));
            }
        }
    }
    assert_none(&wrong, "only store/registry.rs opens stores");
}

/// Whoever wants to know what is in a bucket reads one file.
#[test]
fn only_the_layout_builds_object_keys() {
    let mut wrong = Vec::new();
    for file in sources() {
        // Of the names that are made up for fuzzing no object is ever asked for.
        let exempt = ["key.rs", "catalogue/layout.rs", "fuzzing/names.rs"];
        let exempt = exempt.contains(&file.name.as_str());
        if exempt || file.module.starts_with(&["store".to_owned()]) {
            continue;
        }
        for builder in ["Key::new(", ".key(", "Prefix::key("] {
            if file.text.contains(builder) {
                wrong.push(format!("{} has `{builder}`", file.name));
            }
        }
    }
    assert_none(&wrong, "only catalogue/layout.rs builds keys");
}

/// The pure rooms neither wait nor look at the clock or the disk.
#[test]
fn pure_rooms_do_no_input_or_output() {
    let rooms = Rooms::read();
    let pure = modules(PURE);
    for room in &pure {
        assert!(rooms.may_use.contains_key(room), "no room {room:?}");
    }
    let mut wrong = Vec::new();
    for file in sources() {
        if !rooms
            .of(&file.module)
            .is_some_and(|room| pure.contains(room))
        {
            continue;
        }
        for word in ["tokio", "tokio_util", "async"] {
            if has_word(&file.text, word) {
                wrong.push(format!("{} uses {word}", file.name));
            }
        }
        for path in ["std::fs", "std::net", "::now("] {
            if file.text.contains(path) {
                wrong.push(format!("{} has `{path}`", file.name));
            }
        }
    }
    assert_none(&wrong, "it is one of the pure rooms");
}

/// The table: which room may use which.
struct Rooms {
    may_use: BTreeMap<Module, BTreeSet<Module>>,
}

impl Rooms {
    fn read() -> Self {
        let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/architecture.md");
        let text = fs::read_to_string(document).expect("the document is there");
        let rows = text
            .lines()
            .skip_while(|line| *line != "| Room | Lives there | May use |")
            .skip(2)
            .take_while(|line| line.starts_with('|'));
        let mut table = Vec::new();
        for row in rows {
            let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
            let [rooms, _, may_use] = cells[..] else {
                panic!("this row does not have three cells: {row}");
            };
            assert!(
                may_use.trim() == "–" || !modules(may_use).is_empty(),
                "the last cell names no room: {row}"
            );
            table.extend(modules(rooms).into_iter().map(|room| (room, may_use)));
        }
        assert!(table.len() > 20, "the table was not found");
        let names: Vec<Module> = table.iter().map(|(room, _)| room.clone()).collect();
        let mut may_use = BTreeMap::new();
        for (room, cell) in table {
            let allowed = modules(cell).into_iter().flat_map(|name| {
                if names.contains(&name) {
                    return vec![name];
                }
                // What is no room stands for all the rooms in it.
                let inner = names.iter().filter(|room| room.starts_with(&name));
                let inner: Vec<Module> = inner.cloned().collect();
                assert!(!inner.is_empty(), "{room:?} may use {name:?}, no room");
                inner
            });
            let again = may_use.insert(room.clone(), allowed.collect());
            assert!(again.is_none(), "{room:?} has two rows");
        }
        Self { may_use }
    }

    /// The innermost room a path leads to.
    fn of(&self, path: &[String]) -> Option<&Module> {
        let inside = self.may_use.keys().filter(|room| path.starts_with(room));
        inside.max_by_key(|room| room.len())
    }
}

/// The modules in the code spans of a cell.
fn modules(cell: &str) -> Vec<Module> {
    let spans = cell.split('`').skip(1).step_by(2);
    spans.flat_map(|span| tree(span, &[])).collect()
}

/// The paths of a use tree, which may be followed by anything.
fn tree(text: &str, above: &[String]) -> Vec<Module> {
    let mut path = above.to_vec();
    let mut rest = text;
    loop {
        if let Some(inner) = rest.strip_prefix('{') {
            let branches = branches(inner).into_iter();
            return branches.flat_map(|one| tree(one.trim(), &path)).collect();
        }
        let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let (word, more) = rest.split_at(end);
        if !word.is_empty() && word != "self" {
            path.push(word.to_owned());
        }
        match more.strip_prefix("::") {
            Some(more) => rest = more,
            None => return vec![path],
        }
    }
}

/// What stands between the commas up to the closing brace.
fn branches(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut found) = (0, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                found.push(&text[start..at]);
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    found.retain(|one| !one.trim().is_empty());
    found
}

/// A file of the library, without its tests and comments.
struct Source {
    /// Relative to `src`.
    name: String,
    module: Module,
    text: String,
}

impl Source {
    /// Every path from the crate's root that is named here.
    fn paths(&self) -> Vec<Module> {
        let mut found = Vec::new();
        for (before, rest) in occurrences(&self.text, "crate::") {
            if !before.ends_with(is_word) {
                found.extend(tree(rest, &[]));
            }
        }
        for (before, rest) in occurrences(&self.text, "super::") {
            // The first of a row of them takes the others along.
            if before.ends_with(is_word) || before.ends_with("super::") {
                continue;
            }
            let (mut rest, mut levels) = (rest, 1);
            while let Some(more) = rest.strip_prefix("super::") {
                (rest, levels) = (more, levels + 1);
            }
            let above = self.module.len().checked_sub(levels);
            let above = above.expect("no path leads out of the crate");
            found.extend(tree(rest, &self.module[..above]));
        }
        found
    }
}

/// All files of the library but those that only tests use.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut names = Vec::new();
    list(&root, &mut names);
    let mut test_modules: Vec<Module> = Vec::new();
    let mut files = Vec::new();
    for path in names {
        let name = path.strip_prefix(&root).expect("it lies there");
        let name = name.to_str().expect("names are text").to_owned();
        let steps = name.trim_end_matches(".rs").split('/').map(str::to_owned);
        let mut module: Module = steps.collect();
        module.pop_if(|last| ["mod", "lib"].contains(&last.as_str()));
        let whole = fs::read_to_string(&path).expect("a source file");
        let (text, tests) = without_tests(&whole);
        for test in tests {
            test_modules.push([module.as_slice(), &[test]].concat());
        }
        files.push(Source { name, module, text });
    }
    files.retain(|file| {
        !test_modules
            .iter()
            .any(|test| file.module.starts_with(test))
    });
    assert!(files.len() > 50, "only {} files were found", files.len());
    files
}

fn list(directory: &Path, found: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(directory).expect("a directory of sources");
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            list(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The text without comments and `#[cfg(test)]` items, and the names of the
/// modules among those.
///
/// Relies on `cargo fmt`: an item ends with the first line that has the
/// indentation of its attribute and ends with `;` or `}`.
fn without_tests(text: &str) -> (String, Vec<String>) {
    let (mut kept, mut modules) = (String::new(), Vec::new());
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let code = without_comment(line);
        if code.trim() != "#[cfg(test)]" {
            kept.push_str(code);
            kept.push('\n');
            continue;
        }
        let indentation = line.len() - line.trim_start().len();
        for line in lines.by_ref() {
            let code = line.trim();
            if let Some((_, name)) = code.split_once("mod ") {
                let name = name.trim_end_matches([';', '{', ' ']);
                modules.push(name.to_owned());
            }
            let outermost = line.len() - line.trim_start().len() == indentation;
            if outermost && code.ends_with([';', '}']) {
                break;
            }
        }
    }
    (kept, modules)
}

/// The line up to its comment; `//` in a URL begins none.
fn without_comment(line: &str) -> &str {
    let comment = line.match_indices("//").find(|(at, _)| {
        let before = &line[..*at];
        before.is_empty() || before.ends_with(' ')
    });
    comment.map_or(line, |(at, _)| &line[..at])
}

/// What stands before and behind each occurrence.
fn occurrences<'a>(text: &'a str, pattern: &str) -> Vec<(&'a str, &'a str)> {
    let found = text.match_indices(pattern);
    found
        .map(|(at, hit)| (&text[..at], &text[at + hit.len()..]))
        .collect()
}

fn has_word(text: &str, word: &str) -> bool {
    occurrences(text, word)
        .iter()
        .any(|(before, behind)| !before.ends_with(is_word) && !behind.starts_with(is_word))
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn assert_none(wrong: &[String], hint: &str) {
    assert!(wrong.is_empty(), "{}\n({hint})", wrong.join("\n"));
}

/// The reader of sources sees what it should and nothing else.
#[test]
fn paths_are_found_wherever_they_stand() {
    let source = "\
use crate::{a::{self, B, c::D}, e};
use super::super::f::G;
//! [`crate::h`]
const URL: &str = \"file:///x\"; // crate::i
fn j(k: crate::l::M) {}
#[cfg(test)]
mod tests {
    use crate::n::O;
}
use super::{
    p::Q,
    r,
};
";
    let (text, tests) = without_tests(source);
    assert_eq!(tests, ["tests"]);
    let file = Source {
        name: String::new(),
        module: vec!["x".into(), "y".into()],
        text,
    };
    let found: Vec<String> = file.paths().iter().map(|path| path.join("::")).collect();
    assert_eq!(
        found,
        [
            "a", "a::B", "a::c::D", "e", "l::M", "f::G", "x::p::Q", "x::r"
        ]
    );
}
