//! Several archivers of one WAL file at the same time.

use std::path::PathBuf;

use e2e::{Objects, Row, Running, Section, of_sample_or_whole, wait_until};
use rustix::process::Signal;

use crate::wal_again::{SEGMENT, everywhere, key, sample, until};

/// How many race.
const RACERS: usize = 8;

/// The file of each racer, each in a folder of its own.
fn files(at: &Objects<'_>, name: &str, content: impl Fn(usize) -> Vec<u8>) -> Vec<PathBuf> {
    (0..RACERS)
        .map(|racer| {
            at.workspace().dir(format!("racer-{racer}"));
            let name = format!("racer-{racer}/{name}");
            at.workspace().file(name, content(racer))
        })
        .collect()
}

/// The segment with one byte of its own for each racer.
fn of_racer(racer: usize) -> Vec<u8> {
    let mut bytes = sample(SEGMENT);
    bytes[500_000] = u8::try_from(racer).unwrap();
    bytes
}

/// Starts all of them, each standing still at first, and lets them go.
fn start(at: &Objects<'_>, options: &[&str], files: &[PathBuf]) -> Vec<Running> {
    let racers: Vec<Running> = files
        .iter()
        .map(|file| {
            let racer = at.archive(options, file).start();
            racer.signal(Signal::STOP);
            racer
        })
        .collect();
    for racer in &racers {
        racer.thaw();
    }
    racers
}

fn rounds() -> usize {
    of_sample_or_whole(2, 40)
}

#[test]
fn eight_archivers_of_the_same_file() {
    let mut row = Row::new(
        Section::WalAgain,
        "`wal-archive`: eight at once with the same file",
        "all are done; there is one object",
    );
    let content = sample(SEGMENT);
    everywhere(|at| {
        for round in 0..rounds() {
            let files = files(at, SEGMENT, |_| content.clone());
            let (options, object): (&[&str], _) = match round % 2 {
                0 => (&["--gzip"], key(SEGMENT, ".gz")),
                _ => (&[], key(SEGMENT, "")),
            };
            for racer in start(at, options, &files) {
                let run = racer.wait();
                assert_eq!(run.code(), Some(0), "{run}");
            }
            assert_eq!(at.keys(""), [object.as_str()]);
            assert_eq!(at.unfinished(), [""; 0]);
            let (run, delivered) = at.fetched(SEGMENT);
            assert!(delivered.as_ref() == Some(&content), "{run}");
            at.remove(&object);
            row.lived_through();
        }
    });
    row.finish();
}

#[test]
fn eight_archivers_of_different_files() {
    let mut row = Row::new(
        Section::WalAgain,
        "`wal-archive`: eight at once with different files of the same name",
        "one is done and its file is stored; the others are refused with 1",
    );
    everywhere(|at| {
        for _ in 0..rounds() {
            let files = files(at, SEGMENT, of_racer);
            let ended: Vec<_> = start(at, &[], &files)
                .into_iter()
                .map(Running::wait)
                .collect();
            let winners: Vec<usize> = (0..RACERS)
                .filter(|racer| ended[*racer].code() == Some(0))
                .collect();
            assert_eq!(winners.len(), 1, "{ended:?}");
            for run in &ended {
                let told =
                    run.code() == Some(0) || run.errors()[0].contains("a different WAL file");
                assert!(told, "{run}");
            }
            let object = key(SEGMENT, "");
            assert!(at.read(&object) == of_racer(winners[0]), "{winners:?}");
            assert_eq!(at.keys(""), [object.as_str()]);
            assert_eq!(at.unfinished(), [""; 0]);
            at.remove(&object);
            row.lived_through();
        }
    });
    row.finish();
}

/// Only the `.partial` that reaches furthest may be left, whoever judges what and
/// when.
#[test]
fn eight_archivers_of_partials_that_reach_different_lengths() {
    let mut row = Row::new(
        Section::WalAgain,
        "`wal-archive`: eight at once with a `.partial` of the same name, each with another reach",
        "all are done; the one that reaches furthest is stored",
    );
    let name = format!("{SEGMENT}.partial");
    everywhere(|at| {
        let mut rng = fastrand::Rng::with_seed(9);
        for _ in 0..rounds() {
            let mut reaches: Vec<usize> = (1..=RACERS).collect();
            rng.shuffle(&mut reaches);
            let files = files(at, &name, |racer| until(reaches[racer]));
            for racer in start(at, &[], &files) {
                let run = racer.wait();
                assert_eq!(run.code(), Some(0), "{run}");
            }
            let object = key(&name, "");
            assert!(at.read(&object) == until(RACERS), "{reaches:?}");
            assert_eq!(at.keys(""), [object.as_str()]);
            assert_eq!(at.unfinished(), [""; 0]);
            at.remove(&object);
            row.lived_through();
        }
    });
    row.finish();
}

/// Half of them are killed, each at another moment of its work.
#[test]
fn some_of_eight_archivers_are_killed() {
    let mut row = Row::new(
        Section::WalAgain,
        "`wal-archive`: eight at once with the same file, and half of them killed",
        "the others are done; the file is stored once and whole, and the next run finds it",
    );
    let content = sample(SEGMENT);
    everywhere(|at| {
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..rounds() {
            let files = files(at, SEGMENT, |_| content.clone());
            let racers = start(at, &["--bzip2"], &files);
            for (racer, file) in racers.iter().zip(&files).step_by(2) {
                // Somewhere between the opening of its file and its end.
                wait_until("the archiver to open its file or to end", || {
                    let gone = !PathBuf::from(format!("/proc/{}/exe", racer.pid())).exists();
                    let open = racer.open_files();
                    (gone || open.iter().any(|(path, _)| path == file)).then_some(())
                });
                for _ in 0..rng.u32(..200) {
                    std::thread::yield_now();
                }
                racer.signal(Signal::KILL);
            }
            for (nth, racer) in racers.into_iter().enumerate() {
                let run = racer.wait();
                let killed = nth % 2 == 0 && run.signal() == Some(9);
                assert!(killed || run.code() == Some(0), "{run}");
            }
            at.archive(&["--bzip2"], &files[0]).succeed();
            let (run, delivered) = at.fetched(SEGMENT);
            assert!(delivered.as_ref() == Some(&content), "{run}");
            let object = key(SEGMENT, ".bz2");
            let mut keys = at.keys("");
            // What a killed one leaves in a directory has a name of its own.
            keys.retain(|key| !key.contains(".barman-cloud-"));
            assert_eq!(keys, [object.as_str()]);
            for left in at.keys("") {
                at.remove(&left);
            }
            row.lived_through();
        }
    });
    row.finish();
}
