//! Tools that are made to end, and disks that fail under them, at each of their
//! stages.
//!
//! Stages are counted (`e2e::Stages`), so a sweep is all of them, or, where they
//! are many, the first and the last and a choice of the rest.

mod base;
mod catalogue;
mod wal;
mod world;

use e2e::{Blow, Row, Section, StagedRun, Stages, Tool};
use rustix::process::Signal;

/// A tool to be stopped, again and again.
pub(crate) trait Scenario<'w> {
    /// Its name and what it does, for the row: "`wal-archive` into a directory".
    fn title(&self) -> String;

    /// What is found after it was stopped, for the row.
    fn found(&self) -> String;

    /// Makes a new scene, and gives the tool that has not begun.
    fn begin(&mut self) -> Tool<'w>;

    /// Checks the scene after the tool was stopped, has it run again, and checks
    /// that nothing is missing.
    fn check(&mut self, ended: &StagedRun);
}

/// What is made to happen, and what the row calls it.
pub(crate) type Blows = [(Blow, &'static str)];

/// The signals that end a process.
pub(crate) const SIGNALS: &Blows = &[
    (Blow::Signal(Signal::KILL), "SIGKILL at each stage"),
    (Blow::Signal(Signal::TERM), "SIGTERM at each stage"),
    (Blow::Signal(Signal::INT), "SIGINT at each stage"),
];

/// What disks do.
pub(crate) const DISK: &Blows = &[
    (Blow::ErrorsFrom("ENOSPC"), "disk full from each stage on"),
    (Blow::Error("EIO"), "I/O error at each stage"),
    (Blow::ErrorsFrom("EROFS"), "read-only from each stage on"),
];

/// Has each of the blows meet the tool at its stages, at most `limit` of them.
pub(crate) fn sweep<'w>(
    section: Section,
    stages: &Stages,
    blows: &Blows,
    scenario: &mut impl Scenario<'w>,
    limit: usize,
) {
    for (blow, name) in blows {
        let whole = stages.count(scenario.begin());
        assert_eq!(whole.run.code(), Some(0), "{whole}");
        scenario.check(&whole);
        let done = format!("{}: {name}", scenario.title());
        let mut row = Row::new(section, done, scenario.found());
        for at in chosen(whole.stages.len(), limit) {
            let ended = stages.run(scenario.begin(), at, *blow);
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

/// How a tool ends that is interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interrupted {
    /// By the signal itself, and after trouble never with 1: PostgreSQL takes 1
    /// for an answer.
    BySignal,
    /// With 1 and one line.
    WithOne,
}

/// Whether the tool was ended by what met it, in the way it should; else it ended
/// well.
pub(crate) fn was_stopped(ended: &StagedRun, when: Interrupted) -> bool {
    let run = &ended.run;
    match (run.signal(), run.code(), ended.blow) {
        (Some(9), _, Blow::Signal(Signal::KILL)) => true,
        (Some(2), _, Blow::Signal(Signal::INT)) | (Some(15), _, Blow::Signal(Signal::TERM)) => {
            assert_eq!(when, Interrupted::BySignal, "{ended}");
            true
        }
        (None, Some(0), _) => false,
        (None, Some(code), Blow::Signal(Signal::INT | Signal::TERM)) => {
            assert_eq!((when, code), (Interrupted::WithOne, 1), "{ended}");
            assert_eq!(run.errors().len(), 1, "{ended}");
            true
        }
        (None, Some(code), Blow::Error(name) | Blow::ErrorsFrom(name)) => {
            let words = match name {
                "ENOSPC" => "No space left on device",
                "EIO" => "Input/output error",
                _ => "Read-only file system",
            };
            assert!(
                code == 4 || (code == 1 && when == Interrupted::WithOne),
                "{ended}"
            );
            // A deletion names each object and each backup that it could not remove.
            let errors = run.errors();
            let told = errors.last().is_some_and(|line| line.contains(words));
            let each = errors
                .iter()
                .all(|line| line.to_lowercase().contains("could not delete"));
            assert!(told && (each || errors.len() == 1), "{ended}");
            true
        }
        _ => panic!("{ended}"),
    }
}

/// Whether the tool had the chance to remove what it had begun to write.
pub(crate) fn could_clean_up(ended: &StagedRun) -> bool {
    matches!(ended.blow, Blow::Signal(_)) && ended.run.signal() != Some(9)
}

#[test]
fn the_choice_of_stages_has_both_ends() {
    assert_eq!(chosen(5, 8), [1, 2, 3, 4, 5]);
    assert_eq!(chosen(100, 8), [1, 2, 3, 27, 51, 75, 99, 100]);
}
