//! The record of what was let go, without an archive.

use std::sync::Arc;

use tempfile::TempDir;

use super::*;

struct Bench {
    directory: TempDir,
    gaps: Gaps,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let gaps = Gaps::new(&directory.path().join("spool"), "source".into());
        Self { directory, gaps }
    }

    fn record(&self) -> PathBuf {
        assert!(self.directory.path().exists());
        self.gaps.path(RECORD)
    }

    /// First and last segment of each run, or `?`.
    fn runs(&self) -> Vec<String> {
        let entries = self.gaps.waiting().expect("a record");
        let run = |entry: &Entry| match entry {
            Entry::Gap(gap) => {
                format!("{}-{}", &gap.first.as_str()[16..], &gap.last.as_str()[16..])
            }
            Entry::Unread { .. } => "?".to_owned(),
        };
        entries.iter().map(run).collect()
    }
}

fn gap(number: u32) -> Gap {
    let name = format!("0000000100000000{number:08X}");
    Gap {
        id: unique(),
        server: "main".into(),
        system: Some(7),
        first: name.parse().expect("a name"),
        last: name.parse().expect("a name"),
        segment_size: crate::wal::SegmentSize::DEFAULT,
        since: Timestamp::UNIX_EPOCH,
        until: Timestamp::UNIX_EPOCH,
        host: "db1".into(),
        waiting: 2,
        limit: 1,
        why: "refused".into(),
    }
}

#[test]
fn what_was_let_go_is_kept_as_runs() {
    let bench = Bench::new();
    assert!(!bench.gaps.may_wait());
    for number in [5, 6, 6, 7, 9, 8, 5] {
        bench.gaps.add(&gap(number)).expect("on record");
    }
    assert!(bench.gaps.may_wait());
    assert_eq!(bench.runs(), ["00000005-00000008", "00000009-00000009"]);
    let text = fs::read_to_string(bench.record()).expect("a record");
    assert!(text.starts_with(MAGIC), "{text}");
}

#[test]
fn what_was_added_while_the_rest_was_sent_stays() {
    let bench = Bench::new();
    bench.gaps.add(&gap(5)).expect("on record");
    bench.gaps.add(&gap(9)).expect("on record");
    let sent = bench.gaps.waiting().expect("a record");
    bench.gaps.add(&gap(6)).expect("on record");
    bench.gaps.add(&gap(12)).expect("on record");
    bench.gaps.forget(&sent).expect("works");
    // The run that grew goes as a whole.
    assert_eq!(bench.runs(), ["00000005-00000006", "0000000C-0000000C"]);
    let sent = bench.gaps.waiting().expect("a record");
    bench.gaps.forget(&sent).expect("works");
    assert!(!bench.record().exists());
    assert!(!bench.gaps.may_wait());
}

#[test]
fn those_who_let_go_at_the_same_time_lose_nothing() {
    let bench = Bench::new();
    let gaps = Arc::new(bench.gaps.clone());
    let threads: Vec<_> = (0..8)
        .map(|thread| {
            let gaps = Arc::clone(&gaps);
            std::thread::spawn(move || {
                for number in 0..5 {
                    // Never neighbours.
                    gaps.add(&gap(100 * thread + 2 * number))
                        .expect("on record");
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("it ends");
    }
    assert_eq!(bench.runs().len(), 40);
}

/// Whatever happens to the file, something is said, and nothing new is lost.
#[test]
fn a_damaged_record_is_no_empty_one() {
    let bench = Bench::new();
    bench.gaps.add(&gap(5)).expect("on record");
    let whole = fs::read(bench.record()).expect("a record");
    for at in 0..=whole.len() {
        let cut = whole[..at].to_vec();
        let mut flipped = whole.clone();
        if let Some(byte) = flipped.get_mut(at) {
            *byte ^= 1;
        }
        for damaged in [cut, flipped]
            .into_iter()
            .filter(|damaged| *damaged != whole)
        {
            fs::write(bench.record(), &damaged).expect("writes");
            bench.gaps.add(&gap(9)).expect("on record");
            assert_eq!(bench.runs(), ["?", "00000009-00000009"], "{at}");
            let entries = bench.gaps.waiting().expect("a record");
            assert_eq!(
                entries,
                bench.gaps.waiting().expect("a record"),
                "it keeps its name"
            );
            let (name, text) = entries[0].object();
            let readable = String::from_utf8_lossy(&damaged).into_owned();
            assert!(
                name.starts_with("unknown-") && text.contains(&readable),
                "{text}"
            );
        }
    }
    fs::write(bench.record(), vec![b'x'; 3 << 20]).expect("writes");
    assert_eq!(bench.runs(), ["?"]);
    let left = bench.gaps.waiting().expect("a record");
    assert!(left[0].object().1.len() < 2 * MAX_RAW, "not all of it");
    // Whoever only reads it does not give it another name each time either.
    fs::write(bench.record(), "damaged").expect("writes");
    let left = bench.gaps.waiting().expect("a record");
    assert_eq!(left, bench.gaps.waiting().expect("a record"));
}

#[test]
fn a_record_that_cannot_be_read_is_an_error() {
    let bench = Bench::new();
    bench.gaps.add(&gap(5)).expect("on record");
    fs::remove_file(bench.record()).expect("removes");
    fs::create_dir(bench.record()).expect("a directory");
    assert!(bench.gaps.may_wait());
    let error = bench.gaps.add(&gap(6)).expect_err("it cannot be read");
    assert!(chain(&error).contains("/gaps`"), "{}", chain(&error));
    assert!(bench.gaps.waiting().is_err(), "it is no empty one");
}

/// Whoever wrote it before may have been killed before it was on the disk.
#[test]
fn what_is_on_record_already_is_written_once_more() {
    let bench = Bench::new();
    bench.gaps.add(&gap(5)).expect("on record");
    let before = fs::File::open(bench.record()).expect("a record");
    bench.gaps.add(&gap(5)).expect("on record");
    // The first is open still, so that no other file can have its number.
    let number = |found: fs::Metadata| std::os::unix::fs::MetadataExt::ino(&found);
    assert_ne!(
        before.metadata().map(number).expect("a status"),
        fs::metadata(bench.record()).map(number).expect("a status")
    );
}

#[test]
fn what_killed_calls_have_left_goes_with_the_record() {
    let bench = Bench::new();
    bench.gaps.add(&gap(5)).expect("on record");
    let folder = bench.record().with_file_name("");
    let old = std::time::SystemTime::now() - 2 * FORGOTTEN;
    for (name, is_old) in [
        (".barman-cloud-1-2.tmp", true),
        (".barman-cloud-3-4.tmp", false),
        ("somebody else's", true),
    ] {
        let file = fs::File::create(folder.join(name)).expect("a file");
        if is_old {
            file.set_modified(old).expect("a time");
        }
    }
    let sent = bench.gaps.waiting().expect("a record");
    bench.gaps.forget(&sent).expect("works");
    let mut left = bench.gaps.folder().expect("a folder").names();
    left.sort();
    assert_eq!(left, [".barman-cloud-3-4.tmp", "somebody else's"]);
}

#[test]
fn a_failure_is_remembered_for_a_minute() {
    let bench = Bench::new();
    assert!(!bench.gaps.has_failed());
    bench.gaps.remember_failure();
    assert!(bench.gaps.has_failed());
    let file = fs::File::options()
        .write(true)
        .open(bench.gaps.path(FAILED));
    let then = std::time::SystemTime::now() - REMEMBERED;
    file.and_then(|file| file.set_modified(then))
        .expect("a time");
    assert!(!bench.gaps.has_failed());
    // A clock that was set back.
    let file = fs::File::options()
        .write(true)
        .open(bench.gaps.path(FAILED));
    let to_come = std::time::SystemTime::now() + REMEMBERED;
    file.and_then(|file| file.set_modified(to_come))
        .expect("a time");
    assert!(!bench.gaps.has_failed());
    bench.gaps.remember_failure();
    bench.gaps.forget_failure();
    assert!(!bench.gaps.has_failed());
}
