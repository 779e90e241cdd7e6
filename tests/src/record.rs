//! What the tools were put through, as rows of `docs/reliability.md`.
//!
//! A test of reliability makes a [`Row`] for each scenario, counts on it every
//! time that the scenario was lived through with nothing lost, and finishes it.
//! A scenario that loses something panics before it counts, so that a finished
//! row is the proof that nothing was. Rows are files in one folder, which the
//! program `reliability` makes the document from; it refuses to when a row of
//! the document was not finished by any test, or a test's row is not in it.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::project;

/// The parts of the document, in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// Processes that are made to end.
    Ends,
    /// The network and the store on bad days.
    Store,
    /// The local disk.
    Disk,
    /// The connection to PostgreSQL, and the server itself.
    Database,
    /// The same WAL file a second time, and others of its name.
    WalAgain,
    /// Objects that changed while they were stored.
    Damage,
    /// Objects and answers made by somebody who means harm.
    Hostile,
    /// Tools that meet one another, and clocks that are wrong.
    Together,
}

impl Section {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Ends,
        Self::Store,
        Self::Disk,
        Self::Database,
        Self::WalAgain,
        Self::Damage,
        Self::Hostile,
        Self::Together,
    ];

    /// Its heading in the document.
    pub fn heading(self) -> &'static str {
        match self {
            Self::Ends => "Processes that are made to end",
            Self::Store => "The network and the store",
            Self::Disk => "The local disk",
            Self::Database => "PostgreSQL",
            Self::WalAgain => "The same WAL again",
            Self::Damage => "Damage to what was stored",
            Self::Hostile => "A hostile bucket",
            Self::Together => "Several at once, and wrong clocks",
        }
    }
}

/// A row: a scenario, what is found after it, and how often that was seen.
#[derive(Debug)]
#[must_use = "a row that is not finished is not in the document"]
pub struct Row {
    section: Section,
    done: String,
    found: String,
    passed_on: bool,
    times: u64,
}

impl Row {
    /// A scenario in one phrase ("wal-archive: the answer to its put is lost"),
    /// and what the tool does or what the next run finds and does, in another.
    /// Both in Markdown, without numbers that differ from run to run.
    pub fn new(section: Section, done: impl Into<String>, found: impl Into<String>) -> Self {
        Self {
            section,
            done: done.into(),
            found: found.into(),
            passed_on: false,
            times: 0,
        }
    }

    /// Damage that is not told: only somebody else can, and the row says who. The
    /// document must not call that nothing.
    pub fn passed_on(mut self) -> Self {
        self.passed_on = true;
        self
    }

    /// It happened, and all that was promised is there.
    pub fn lived_through(&mut self) {
        self.times += 1;
    }

    /// How often it happened so far.
    pub fn times(&self) -> u64 {
        self.times
    }

    /// Writes it down.
    ///
    /// # Panics
    ///
    /// If it never happened.
    pub fn finish(self) {
        let Self {
            section,
            done,
            found,
            passed_on,
            times,
        } = self;
        assert!(times > 0, "never happened: {done}");
        let dir = Self::dir();
        fs::create_dir_all(&dir).expect("a folder can be made in Cargo's");
        let name = crate::sha256_of_bytes(format!("{section:?} {done}").as_bytes());
        let row = json!({
            "section": format!("{section:?}"),
            "done": done,
            "found": found,
            "passed_on": passed_on,
            "times": times,
        });
        fs::write(dir.join(format!("{name}.json")), row.to_string())
            .expect("a row can be written into Cargo's folder");
    }

    /// Where rows are written: `E2E_RECORDS`, or `target/reliability`.
    pub fn dir() -> PathBuf {
        std::env::var_os("E2E_RECORDS")
            .map_or_else(|| project().join("target/reliability"), PathBuf::from)
    }

    /// All that were written, in the order of the document.
    ///
    /// # Panics
    ///
    /// For files that are no rows.
    pub fn all() -> Vec<Self> {
        let Ok(entries) = fs::read_dir(Self::dir()) else {
            return Vec::new();
        };
        let mut rows: Vec<Self> = entries
            .map(|entry| {
                let path = entry.expect("the folder can be read").path();
                let text = fs::read_to_string(&path).expect("a row can be read");
                Self::parse(&text).unwrap_or_else(|| panic!("{} is no row", path.display()))
            })
            .collect();
        rows.sort_by(|a, b| (a.section, &a.done).cmp(&(b.section, &b.done)));
        rows
    }

    fn parse(text: &str) -> Option<Self> {
        let row: Value = serde_json::from_str(text).ok()?;
        let text = |name: &str| row[name].as_str().map(str::to_owned);
        let section = text("section")?;
        Some(Self {
            section: Section::ALL
                .into_iter()
                .find(|known| format!("{known:?}") == section)?,
            done: text("done")?,
            found: text("found")?,
            passed_on: row["passed_on"].as_bool()?,
            times: row["times"].as_u64()?,
        })
    }

    /// The part of the document that it belongs to.
    pub fn section(&self) -> Section {
        self.section
    }

    /// Its line of the table.
    pub fn line(&self) -> String {
        let Self {
            done, found, times, ..
        } = self;
        let lost = if self.passed_on {
            "the damage is passed on"
        } else {
            "nothing"
        };
        format!("| {done} | {times} | {found} | {lost} |")
    }
}

/// Chooses how much of a long matrix is run: a sample of fixed seed, or, with
/// `E2E_WHOLE` set, all of it.
pub fn of_sample_or_whole<T>(sample: T, whole: T) -> T {
    if std::env::var_os("E2E_WHOLE").is_some() {
        whole
    } else {
        sample
    }
}
