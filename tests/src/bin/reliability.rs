//! Makes `docs/reliability.md` from what the tests of reliability recorded.
//!
//! usage: reliability write|check
//!
//! `write` replaces the document. `check` compares: every row of the document
//! must have been recorded, word by word, and every recorded row must be in it;
//! how often may differ, since what runs for every change is a sample.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use e2e::{Row, Section, of_sample_or_whole, project};

const HEAD: &str = "\
# What the tools were put through

This file is written by the tests (`tests/reliability.sh`): a row is a scenario that a test made happen to the real
binaries, with a real PostgreSQL and real stores, and *how often* is counted while it does. A row is written only when
every time all that had been promised was found again: each WAL file whose `archive_command` had ended with 0, each
backup that was `DONE`, byte by byte. A scenario that loses anything is a red test and no row.
";

fn main() -> ExitCode {
    let path = document();
    let rows = Row::all();
    match std::env::args().nth(1).as_deref() {
        Some("write") => match std::fs::write(&path, text(&rows)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&format!("could not write {}: {error}", path.display())),
        },
        Some("check") => check(&rows),
        _ => fail("usage: reliability write|check"),
    }
}

fn document() -> PathBuf {
    project().join("docs/reliability.md")
}

#[expect(clippy::print_stderr, reason = "a program of the tests")]
fn fail(why: &str) -> ExitCode {
    eprintln!("reliability: {why}");
    ExitCode::FAILURE
}

/// How often is no part of what is compared, and so neither is this.
const FIGURES: &str = "The figures are those of ";

fn text(rows: &[Row]) -> String {
    let run = of_sample_or_whole(
        "a sample of fixed seed, as it runs for every change",
        "the whole: every place of every matrix",
    );
    let mut text = format!("{HEAD}\n{FIGURES}{run}.\n");
    for section in Section::ALL {
        let mut rows = rows
            .iter()
            .filter(|row| row.section() == section)
            .peekable();
        if rows.peek().is_none() {
            continue;
        }
        text += &format!("\n## {}\n\n", section.heading());
        text += "| What was done | How often | What is found then | Lost |\n|---|--:|---|---|\n";
        for row in rows {
            text += &row.line();
            text += "\n";
        }
    }
    text
}

fn check(rows: &[Row]) -> ExitCode {
    let path = document();
    let document = match std::fs::read_to_string(&path) {
        Ok(document) => document,
        Err(error) => return fail(&format!("could not read {}: {error}", path.display())),
    };
    let (document, recorded) = (lines(&document), text(rows));
    let recorded = lines(&recorded);
    let missing = document
        .difference(&recorded)
        .map(|line| ("was recorded by no test", line));
    let new = recorded
        .difference(&document)
        .map(|line| ("is not in the document", line));
    let wrong: Vec<String> = missing
        .chain(new)
        .map(|(what, line)| format!("{what}: {line}"))
        .collect();
    if wrong.is_empty() {
        return ExitCode::SUCCESS;
    }
    let wrong = wrong.join("\n  ");
    fail(&format!(
        "{} is not what the tests say; `tests/reliability.sh` writes it anew\n  {wrong}",
        path.display()
    ))
}

/// The lines without the numbers of the second column.
fn lines(text: &str) -> BTreeSet<String> {
    let without_number = |line: &str| {
        let mut cells: Vec<&str> = line.split('|').collect();
        if cells.len() > 3 {
            cells.remove(2);
        }
        cells.join("|")
    };
    let compared = text.lines().filter(|line| !line.starts_with(FIGURES));
    compared.map(without_number).collect()
}
