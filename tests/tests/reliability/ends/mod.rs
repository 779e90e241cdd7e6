//! Tools that are made to end, at each of their stages.
//!
//! Stages are counted (`e2e::Stages`), so a sweep is all of them, or, where they
//! are many, the first and the last and a choice of the rest.

mod base;
mod catalogue;
mod wal;

use e2e::{Blow, Row, Section, StagedRun, Tool};
use rustix::process::Signal;

use crate::objects::Store;

/// A tool to be stopped, again and again.
pub(crate) trait Scenario<'w> {
    /// Its name and what it does, for the row: "`wal-archive` into".
    fn title(&self) -> String;

    /// What is found after a kill, for the row.
    fn found(&self) -> String;

    /// Makes a new scene, and gives the tool that has not begun.
    fn begin(&mut self) -> Tool<'w>;

    /// Checks the scene after the tool was stopped, has it run again, and checks
    /// that nothing is missing.
    fn check(&mut self, ended: &StagedRun);
}

/// The signals that end a process and what the row calls them.
pub(crate) const SIGNALS: [(Signal, &str); 3] = [
    (Signal::KILL, "SIGKILL"),
    (Signal::TERM, "SIGTERM"),
    (Signal::INT, "SIGINT"),
];

/// Stops the tool by each signal at its stages, at most `limit` of them.
pub(crate) fn sweep<'w>(store: &Store<'w>, scenario: &mut impl Scenario<'w>, limit: usize) {
    let stages = store.stages();
    for (signal, name) in SIGNALS {
        let whole = stages.count(scenario.begin());
        assert_eq!(whole.run.code(), Some(0), "{whole}");
        scenario.check(&whole);
        let done = format!(
            "{} {}: {name} at each stage",
            scenario.title(),
            store.name()
        );
        let mut row = Row::new(Section::Ends, done, scenario.found());
        for at in chosen(whole.stages.len(), limit) {
            let ended = stages.run(scenario.begin(), at, Blow::Signal(signal));
            scenario.check(&ended);
            row.lived_through();
        }
        row.finish();
    }
}

/// At most `limit` of the stages from 1 to `count`: the first and the last
/// quarter of them one by one, the others evenly from between.
pub(crate) fn chosen(count: usize, limit: usize) -> Vec<usize> {
    if count <= limit {
        return (1..=count).collect();
    }
    let ends = limit / 4;
    let between = limit - 2 * ends;
    let step = |i: usize| ends + 1 + i * (count - 2 * ends) / between;
    (1..=ends)
        .chain((0..between).map(step))
        .chain(count - ends + 1..=count)
        .collect()
}

/// Whether the tool was ended by a signal, or by itself as one that was
/// interrupted does; else it ended well.
pub(crate) fn was_stopped(ended: &StagedRun, code_when_interrupted: Option<i32>) -> bool {
    let run = &ended.run;
    match (run.signal(), run.code()) {
        (Some(9), _) => true,
        (Some(2 | 15), _) => {
            assert_eq!(code_when_interrupted, None, "ended by the signal: {ended}");
            true
        }
        (_, Some(0)) => false,
        (_, code) => {
            assert_eq!(code, code_when_interrupted, "{ended}");
            assert_eq!(run.errors().len(), 1, "{ended}");
            true
        }
    }
}

#[test]
fn the_choice_of_stages_has_both_ends() {
    assert_eq!(chosen(5, 8), [1, 2, 3, 4, 5]);
    assert_eq!(chosen(100, 8), [1, 2, 3, 27, 51, 75, 99, 100]);
}
