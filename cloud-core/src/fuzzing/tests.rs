//! The kept corpus without libFuzzer, and what becomes of it by small changes.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::TARGETS;

/// Inputs made of those that are kept, for each target. The seed is fixed, so that a
/// red test is red again.
const CHANGED: usize = 2000;

/// The same for targets that make files of them.
const CHANGED_ON_DISK: usize = 200;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus")
}

fn kept(target: &str) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(corpus().join(target)).expect("it has a corpus");
    let mut kept: Vec<(String, Vec<u8>)> = entries
        .map(|entry| {
            let path = entry.expect("it can be read").path();
            let bytes = fs::read(&path).expect("it can be read");
            (path.display().to_string(), bytes)
        })
        .collect();
    kept.sort();
    kept
}

fn feed(target: &str) {
    let target = TARGETS.iter().find(|other| other.name == target);
    let target = target.expect("there is such a target");
    let kept = kept(target.name);
    assert!(kept.len() > 1, "{} has no corpus", target.name);
    let run = |bytes: &[u8], what: &str| {
        let result = std::panic::catch_unwind(|| (target.run)(bytes));
        assert!(result.is_ok(), "{what}: {}", bytes.escape_ascii());
    };
    for (path, bytes) in &kept {
        run(bytes, path);
    }
    let mut rng = fastrand::Rng::with_seed(1);
    let count = if ["notes", "restore"].contains(&target.name) {
        CHANGED_ON_DISK
    } else {
        CHANGED
    };
    for _ in 0..count {
        let (path, bytes) = &kept[rng.usize(..kept.len())];
        let (_, other) = &kept[rng.usize(..kept.len())];
        let changed = changed(bytes.clone(), other, &mut rng);
        run(&changed, &format!("changed from {path}"));
    }
}

/// Some small changes, one after the other.
fn changed(mut bytes: Vec<u8>, other: &[u8], rng: &mut fastrand::Rng) -> Vec<u8> {
    const ODD: [&[u8]; 8] = [
        b"\0",
        b"\xff\xff\xff\xff",
        b"-1",
        b"99999999999999999999",
        b"../",
        b"\n",
        b"'",
        b"%",
    ];
    for _ in 0..=rng.usize(..4) {
        let at = rng.usize(..=bytes.len());
        let end = bytes.len().min(at + rng.usize(..16));
        match rng.u8(..6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.u8(..8),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            3 => {
                let odd = ODD[rng.usize(..ODD.len())];
                bytes.splice(at..end, odd.iter().copied());
            }
            4 => bytes.truncate(at),
            _ => {
                let from = rng.usize(..=other.len());
                bytes.splice(at..end, other[from..].iter().copied());
            }
        }
    }
    bytes
}

macro_rules! each {
    ($($target:ident)*) => {
        $(#[test] fn $target() { feed(stringify!($target)); })*

        /// Every target is fed here, and has a corpus that is its own.
        #[test]
        fn all_targets_are_fed() {
            let fed = BTreeSet::from([$(stringify!($target).to_owned()),*]);
            let all: BTreeSet<_> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
            assert_eq!(fed, all);
            let kept = fs::read_dir(corpus()).expect("there is a corpus");
            let kept: BTreeSet<_> = kept
                .map(|entry| entry.expect("it can be read").file_name().into_string().unwrap())
                .collect();
            assert_eq!(kept, all);
        }
    };
}

each! {
    answers codecs conninfo control info manifest names notes restore segment tar words
}
