//! The mistakes that people make, each made here with the real tools, and what they are
//! told: `docs/mistakes.md` is compared with it to the letter. `E2E_BLESS=1` writes the
//! sections anew, for a person to read the difference.
//!
//! What is different each time (places, ports, numbers of attempts) stands there as a word
//! in capitals.

mod access;
mod catalogue;
mod command_line;
mod place;
mod server;
mod way;

use std::fs;

use e2e::{Run, Workspace};

/// The sections of the table, in their order.
const SECTIONS: [&str; 6] = [
    place::SECTION,
    access::SECTION,
    way::SECTION,
    command_line::SECTION,
    catalogue::SECTION,
    server::SECTION,
];

const HEAD: &str = "| Mistake | Tool, exit code | What is said | Hint |\n|---|---|---|---|\n";

fn file() -> std::path::PathBuf {
    e2e::project().join("docs/mistakes.md")
}

/// The rows of a section, as they stand in the document.
fn recorded(document: &str, section: &str) -> String {
    let start = format!("## {section}\n\n{HEAD}");
    let rest = document.split_once(&start).map_or("", |(_, rest)| rest);
    rest.split("\n## ")
        .next()
        .unwrap_or_default()
        .trim_end()
        .to_owned()
}

/// A section as the tools make it.
struct Table<'w> {
    workspace: &'w Workspace,
    section: &'static str,
    rows: Vec<String>,
}

impl<'w> Table<'w> {
    fn new(workspace: &'w Workspace, section: &'static str) -> Self {
        Self {
            workspace,
            section,
            rows: Vec::new(),
        }
    }

    /// Somebody made a mistake: one error, or a warning, and a hint below it.
    fn row(&mut self, mistake: &str, tool: &str, run: &Run) {
        let code = run.code().unwrap_or_else(|| panic!("{mistake}: {run}"));
        let messages = match code {
            0 => run.messages("WARNING"),
            _ => run.errors(),
        };
        let [line] = messages.as_slice() else {
            panic!("{mistake}: more or less than one message: {run}");
        };
        // A warning before the error may have one of its own.
        let hints = run.hints();
        let hint = hints.last();
        let hint = hint.unwrap_or_else(|| panic!("{mistake}: no hint: {run}"));
        let plain = run.stdout.is_empty() && !line.contains('\n');
        assert!(plain, "{mistake}: {run}");
        let (line, hint) = (self.general(line), self.general(hint));
        let row = format!("| {mistake} | {tool}, {code} | {line} | {hint} |");
        self.rows.push(row);
    }

    /// A text without what is different each time, as a cell of the table.
    fn general(&self, text: &str) -> String {
        let root = self.workspace.root().display().to_string();
        let text = text.replace(&root, "DIR").replace('|', "\\|");
        let text = numbered(&text, "127.0.0.1:", "PORT");
        let text = numbered(&text, "port ", "PORT");
        // Which words the resolver has depends on the machine.
        match text.split_once("failed to lookup address information: ") {
            Some((before, after)) => {
                let rest = after.find([';', ')']).map_or("", |at| &after[at..]);
                format!("{before}failed to lookup address information{rest}")
            }
            None => text,
        }
    }

    /// All mistakes of the section were made.
    fn check(self) {
        let document = fs::read_to_string(file()).unwrap_or_default();
        let told = self.rows.join("\n");
        if std::env::var_os("E2E_BLESS").is_some() {
            let before = recorded(&document, self.section);
            let start = format!("## {}\n\n{HEAD}", self.section);
            let changed = if document.contains(&start) {
                document.replace(&format!("{start}{before}"), &format!("{start}{told}"))
            } else {
                format!("{}\n\n{start}{told}\n", document.trim_end())
            };
            fs::write(file(), changed).unwrap();
            return;
        }
        assert_eq!(told, recorded(&document, self.section), "{}", self.section);
    }
}

/// The text with a word in place of the digits behind `before`.
fn numbered(text: &str, before: &str, word: &str) -> String {
    let mut pieces = text.split(before);
    let mut changed = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let rest = piece.trim_start_matches(|c: char| c.is_ascii_digit());
        changed.push_str(before);
        if rest.len() < piece.len() {
            changed.push_str(word);
        }
        changed.push_str(rest);
    }
    changed
}

/// Every row belongs to a section that a test makes, and there are as many as promised.
#[test]
fn the_table_has_no_rows_but_those_that_are_made() {
    let document = fs::read_to_string(file()).unwrap();
    let found: Vec<&str> = document
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .collect();
    assert_eq!(found, SECTIONS);
    let rows = |text: &str| text.lines().filter(|line| line.starts_with("| ")).count();
    let made: usize = SECTIONS
        .iter()
        .map(|section| rows(&recorded(&document, section)))
        .sum();
    assert_eq!(
        made + SECTIONS.len(),
        rows(&document),
        "a row outside of the sections"
    );
    assert!(made >= 50, "only {made} mistakes");
}
