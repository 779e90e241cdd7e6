//! Archiving ahead, against a store in memory that counts what it is asked.

use std::collections::BTreeSet;
use std::os::unix::fs::{PermissionsExt, symlink};

use tempfile::TempDir;

use super::super::super::wal_testing::{
    GOLDEN_SYSTEM, TestStore, context, golden, segment, write_control,
};
use super::super::{WalArchiveRequest, run};
use super::*;
use crate::codec::{self, Level};
use crate::store::{Fault, MemoryStore, StoreErrorKind, StoreOp};

mod together;

const HISTORY: &str = "00000002.history";
const BACKUP: &str = "000000010000000000000006.00000028.backup";

/// The name of segment `number` of timeline 1.
fn name(number: u32) -> String {
    format!("00000001{:08X}{:08X}", 0, number)
}

/// A data directory, a spool and a store.
struct Bench {
    store: TestStore,
    directory: TempDir,
}

impl Bench {
    /// With segments of these numbers that wait to be archived.
    fn new(numbers: impl IntoIterator<Item = u32>) -> Self {
        let bench = Self {
            store: TestStore::new(&MemoryStore::new()),
            directory: tempfile::tempdir().expect("a temporary directory"),
        };
        fs::create_dir_all(bench.status()).expect("directories");
        for number in numbers {
            bench.add(&name(number), &segment(&name(number)));
        }
        bench
    }

    fn wal(&self, name: &str) -> PathBuf {
        self.directory.path().join("data/pg_wal").join(name)
    }

    fn status(&self) -> PathBuf {
        self.wal(STATUS)
    }

    fn marker(&self, name: &str) -> PathBuf {
        self.status().join(format!("{name}{READY}"))
    }

    fn spool(&self) -> PathBuf {
        self.directory.path().join("spool")
    }

    fn add(&self, name: &str, content: &[u8]) {
        fs::write(self.wal(name), content).expect("a file");
        fs::write(self.marker(name), "").expect("a mark");
    }

    /// What PostgreSQL does after success.
    fn done(&self, name: &str) {
        let done = self.status().join(format!("{name}.done"));
        fs::rename(self.marker(name), done).expect("renames");
    }

    fn request(&self, name: &str, parallel: u32) -> WalArchiveRequest {
        WalArchiveRequest {
            path: "p".into(),
            server: "main".into(),
            wal_path: self.wal(name),
            codec: codec::by_name("none").expect("a codec"),
            level: Level::Medium,
            tags: None,
            history_tags: None,
            allow_overwrite: false,
            if_different: OpErrorKind::Failed,
            require_system_id: None,
            at_once: std::num::NonZeroU32::MIN,
            ahead: Some(AheadRequest {
                parallel,
                spool_dir: self.spool(),
                url: "s3://bucket/p".into(),
                store: "identity".into(),
            }),
            queue: None,
        }
    }

    async fn archive(&self, name: &str, parallel: u32) -> Result<(), OpError> {
        self.run(&self.request(name, parallel)).await
    }

    async fn run(&self, request: &WalArchiveRequest) -> Result<(), OpError> {
        run(&context().0, self.store.shared(), request.clone()).await
    }

    /// The base names of the objects, in order.
    fn stored(&self) -> Vec<String> {
        let contents = self.store.memory.contents();
        let base = |key: &String| key.rsplit('/').next().unwrap_or_default().to_owned();
        let names: BTreeSet<String> = contents.keys().map(base).collect();
        names.into_iter().collect()
    }

    /// What the spool's only folder holds.
    fn folder(&self) -> Option<PathBuf> {
        let mut folders = fs::read_dir(self.spool()).ok()?;
        Some(folders.next()?.expect("an entry").path())
    }

    fn in_folder(&self) -> BTreeSet<String> {
        let entries = self.folder().into_iter().flat_map(|folder| {
            let entries = fs::read_dir(folder).expect("a folder");
            entries.map(|entry| entry.expect("an entry").file_name())
        });
        entries
            .map(|name| name.into_string().expect("UTF-8"))
            .collect()
    }

    /// The names there are notes on.
    fn noted(&self) -> BTreeSet<String> {
        let names = self.in_folder().into_iter();
        names
            .filter_map(|name| Some(name.strip_suffix(".note")?.to_owned()))
            .collect()
    }

    fn subject(&self, name: &str) -> Subject {
        let request = self.request(name, 8);
        let order = order(&self.store, request);
        let name = name.parse().expect("a name");
        let ahead = order.request.ahead.as_ref().expect("it was asked for");
        match Asked::of(&order, ahead, &name)
            .begin()
            .expect("it can be opened")
        {
            Begun::Locked(subject, _) => subject,
            _ => panic!("nobody else is there"),
        }
    }
}

fn order(store: &TestStore, request: WalArchiveRequest) -> Order {
    Order {
        store: store.shared(),
        layout: crate::catalogue::layout::Layout::new("p", "main").expect("a layout"),
        request,
        gaps: None,
        sending: super::super::queue::Sending::default(),
    }
}

fn names(numbers: impl IntoIterator<Item = u32>) -> Vec<String> {
    numbers.into_iter().map(name).collect()
}

fn puts(count: usize) -> Vec<StoreOp> {
    vec![StoreOp::Put; count]
}

#[tokio::test]
async fn the_next_files_go_with_the_requested_one_by_one_put_each() {
    let bench = Bench::new(1..=10);
    bench.add(HISTORY, &golden(HISTORY));
    bench.archive(&name(1), 4).await.expect("archived");
    assert_eq!(bench.store.calls(), puts(4));
    let mut expected = names(1..=3);
    expected.push(HISTORY.into());
    assert_eq!(bench.stored(), expected, "history files come first");
    for (name, content) in [
        (name(2), segment(&name(2))),
        (HISTORY.into(), golden(HISTORY)),
    ] {
        let contents = bench.store.memory.contents();
        let object = contents.iter().find(|(key, _)| key.ends_with(&name));
        assert_eq!(object.expect("it is stored").1, &content);
    }
}

#[tokio::test]
async fn what_was_archived_ahead_is_answered_without_the_store() {
    let bench = Bench::new(1..=10);
    bench.add(BACKUP, b"START WAL LOCATION: 0/6000028\n");
    bench.archive(&name(1), 7).await.expect("archived");
    assert_eq!(bench.store.calls(), puts(7));
    bench.done(&name(1));
    let mut next = names(2..=6);
    next.push(BACKUP.into());
    for name in &next {
        bench.archive(name, 7).await.expect("noted");
        // PostgreSQL died before it could write that down, and asks again.
        bench.archive(name, 7).await.expect("noted still");
        bench.done(name);
    }
    assert_eq!(bench.store.calls(), [], "the store was asked");
    bench.archive(&name(7), 7).await.expect("archived");
    assert_eq!(bench.store.calls(), puts(4));
    assert_eq!(bench.stored().len(), 11);
    let noted: Vec<String> = bench.noted().into_iter().collect();
    assert_eq!(noted, names(7..=10), "notes on what is done are gone");
    assert_eq!(bench.in_folder().len(), 4, "and so are locks");
}

#[tokio::test]
async fn alone_a_file_is_archived_as_ever_and_the_spool_is_not_touched() {
    for parallel in [0, 1] {
        let bench = Bench::new(1..=3);
        bench.archive(&name(1), parallel).await.expect("archived");
        assert_eq!(bench.store.calls(), puts(1));
        let mut request = bench.request(&name(2), 8);
        request.ahead = None;
        bench.run(&request).await.expect("archived");
        assert_eq!(bench.store.calls(), puts(1));
        assert!(!bench.spool().exists());
    }
}

#[tokio::test]
async fn without_marks_or_a_folder_only_the_requested_file_is_archived() {
    type Spoil = fn(&Bench);
    let spoils: [(&str, Spoil); 5] = [
        ("no archive_status", |bench| {
            fs::remove_dir_all(bench.status()).expect("removes");
        }),
        ("the spool is a file", |bench| {
            fs::write(bench.spool(), "").expect("a file");
        }),
        ("everybody may look into the folder", |bench| {
            drop(bench.subject(&name(1)));
            let folder = bench.folder().expect("it was made");
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("a mode");
        }),
        ("the folder is a link", |bench| {
            drop(bench.subject(&name(1)));
            let folder = bench.folder().expect("it was made");
            let aside = bench.directory.path().join("aside");
            fs::rename(&folder, &aside).expect("moves");
            symlink(aside, folder).expect("a link");
        }),
        ("the locks cannot be taken", |bench| {
            drop(bench.subject(&name(1)));
            let folder = bench.folder().expect("it was made");
            fs::create_dir(folder.join(format!("{}.lock", name(1)))).expect("a directory");
        }),
    ];
    for (what, spoil) in spoils {
        let bench = Bench::new(1..=3);
        spoil(&bench);
        bench.archive(&name(1), 8).await.expect(what);
        assert_eq!(bench.store.calls(), puts(1), "{what}");
        assert_eq!(bench.stored(), names([1]), "{what}");
    }
}

/// Each kind of doubt that a file, an archive or a note can be in.
#[tokio::test]
async fn a_note_does_not_answer_when_anything_is_different() {
    type Change = fn(&Bench, &mut WalArchiveRequest);
    fn ahead(request: &mut WalArchiveRequest) -> &mut AheadRequest {
        request.ahead.as_mut().expect("it was asked for")
    }
    fn rewrite(path: &Path, at: usize) {
        let modified = fs::metadata(path).and_then(|found| found.modified());
        let mut bytes = fs::read(path).expect("a file");
        bytes[at] ^= 1;
        fs::write(path, bytes).expect("writes");
        let file = fs::File::options().write(true).open(path).expect("a file");
        file.set_modified(modified.expect("a time"))
            .expect("a time");
    }
    let changes: [(&str, Change); 20] = [
        ("the first page", |bench, _| {
            rewrite(&bench.wal(&name(2)), 8000);
        }),
        ("the middle", |bench, _| {
            rewrite(&bench.wal(&name(2)), 1 << 19);
        }),
        ("the end", |bench, _| {
            rewrite(&bench.wal(&name(2)), (1 << 20) - 1);
        }),
        ("written anew", |bench, _| {
            fs::write(bench.wal(&name(2)), segment(&name(2))).expect("writes");
        }),
        ("recycled and back", |bench, _| {
            let aside = bench.wal("aside");
            fs::rename(bench.wal(&name(2)), &aside).expect("moves");
            fs::rename(&aside, bench.wal(&name(2))).expect("moves");
        }),
        ("a copy with its time", |bench, _| {
            let (path, aside) = (bench.wal(&name(2)), bench.wal("aside"));
            let modified = fs::metadata(&path).and_then(|found| found.modified());
            fs::copy(&path, &aside).expect("copies");
            let file = fs::File::options()
                .write(true)
                .open(&aside)
                .expect("a file");
            file.set_modified(modified.expect("a time"))
                .expect("a time");
            fs::rename(&aside, &path).expect("moves");
        }),
        ("longer", |bench, _| {
            let mut bytes = segment(&name(2));
            bytes.push(0);
            fs::write(bench.wal(&name(2)), bytes).expect("writes");
        }),
        ("URL", |_, request| ahead(request).url.push('x')),
        ("store or endpoint", |_, request| {
            ahead(request).store.push('x');
        }),
        ("path", |_, request| request.path.push('x')),
        ("server", |_, request| request.server.push('x')),
        ("codec", |_, request| {
            request.codec = codec::by_name("gzip").expect("a codec");
        }),
        ("level", |_, request| request.level = Level::High),
        ("tags", |_, request| request.tags = Some(Vec::new())),
        ("history tags", |_, request| {
            request.history_tags = Some(Vec::new());
        }),
        ("overwriting", |_, request| request.allow_overwrite = true),
        ("cut note", |bench, _| {
            let note = note_on(bench, &name(2));
            let text = fs::read_to_string(&note).expect("a note");
            fs::write(&note, &text[..text.len() - 1]).expect("writes");
        }),
        ("note that cannot be read", |bench, _| {
            let note = note_on(bench, &name(2));
            fs::write(&note, [0xFF]).expect("writes");
        }),
        ("note behind a link", |bench, _| {
            let (note, aside) = (note_on(bench, &name(2)), bench.wal("aside"));
            fs::rename(&note, &aside).expect("moves");
            symlink(aside, note).expect("a link");
        }),
        ("note of another file", |bench, _| {
            fs::copy(note_on(bench, &name(3)), note_on(bench, &name(2))).expect("copies");
        }),
    ];
    for (what, change) in changes {
        let bench = Bench::new(1..=3);
        bench.archive(&name(1), 3).await.expect("archived");
        assert_eq!(bench.store.calls(), puts(3));
        let mut request = bench.request(&name(2), 3);
        change(&bench, &mut request);
        let before = bench.store.memory.contents();
        let archived = bench.run(&request).await;
        let calls = bench.store.calls();
        assert_eq!(calls.first(), Some(&StoreOp::Put), "{what}: {calls:?}");
        // Whatever comes of it, the store decides, and the stored file stays.
        let content = fs::read(bench.wal(&name(2))).expect("a file");
        let same = content == segment(&name(2)) || request.allow_overwrite;
        assert_eq!(archived.is_ok(), same, "{what}: {archived:?}");
        for (key, object) in before {
            assert_eq!(
                bench.store.memory.contents().get(&key),
                Some(&object),
                "{what}"
            );
        }
    }
}

fn note_on(bench: &Bench, name: &str) -> PathBuf {
    let folder = bench.folder().expect("a folder");
    folder.join(format!("{name}.note"))
}

/// PostgreSQL would see an old segment archived, and remove a new one.
#[tokio::test]
async fn a_partial_is_neither_noted_nor_archived_unasked() {
    let bench = Bench::new(1..=2);
    let partial = format!("{}.partial", name(1));
    bench.add(&partial, &segment(&name(1)));
    bench.archive(&name(1), 8).await.expect("archived");
    assert_eq!(bench.stored(), names(1..=2));
    bench.store.calls();
    // As the requested one it takes others with it.
    bench.add(&name(3), &segment(&name(3)));
    bench.archive(&partial, 8).await.expect("archived");
    assert_eq!(bench.store.calls(), puts(2));
    assert_eq!(bench.stored(), [name(1), partial.clone(), name(2), name(3)]);
    assert!(!bench.noted().contains(&partial));
    bench.archive(&partial, 8).await.expect("it is compared");
    assert_eq!(bench.store.calls(), [StoreOp::Put, StoreOp::Get]);
}

#[tokio::test]
async fn a_call_takes_no_more_files_than_it_is_told_or_than_are_good() {
    for (parallel, expected) in [(2, 2), (8, 8), (64, 64), (65, 64), (u32::MAX, 64)] {
        let bench = Bench::new([]);
        for number in 0..70 {
            bench.add(
                &format!("{:08X}.history", number + 2),
                b"1\t0/1\tno reason\n",
            );
        }
        bench
            .archive("00000002.history", parallel)
            .await
            .expect("archived");
        assert_eq!(bench.store.calls(), puts(expected));
    }
}

/// The search ends only after the store has the requested file: an upload that
/// waited for the search would wait for ever.
#[tokio::test]
async fn the_requested_file_does_not_wait_for_the_search() {
    let bench = Bench::new(1..=3);
    let order = order(&bench.store, bench.request(&name(1), 3));
    let memory = bench.store.memory.clone();
    let look = move |status: &Path, most: usize, skip: &dyn Fn(&str) -> bool| {
        while memory.contents().is_empty() {
            std::thread::yield_now();
        }
        next_ready(status, most, skip)
    };
    let requested = name(1).parse().expect("a name");
    run_with(&context().0, &order, requested, WAIT, look)
        .await
        .expect("archived");
    assert_eq!(bench.stored(), names(1..=3));
}

#[tokio::test]
async fn a_search_that_fails_is_no_failure_of_the_call() {
    let bench = Bench::new(1..=3);
    let order = order(&bench.store, bench.request(&name(1), 3));
    let look = |_: &Path, _: usize, _: &dyn Fn(&str) -> bool| Err(io::Error::other("no"));
    let requested = name(1).parse().expect("a name");
    run_with(&context().0, &order, requested, WAIT, look)
        .await
        .expect("archived");
    assert_eq!(bench.stored(), names([1]));
}

#[tokio::test]
async fn a_failure_ahead_is_not_one_of_the_call_and_stops_no_other() {
    for fault in [
        Fault::Before(StoreErrorKind::PermissionDenied),
        Fault::After(StoreErrorKind::Timeout),
    ] {
        let bench = Bench::new(1..=4);
        bench
            .store
            .faulty
            .fail_for(&name(2), StoreOp::Put, fault, 1);
        bench.archive(&name(1), 4).await.expect("archived");
        let noted: Vec<String> = bench.noted().into_iter().collect();
        assert_eq!(noted, names([1, 3, 4]), "{fault:?}");
        bench
            .archive(&name(2), 4)
            .await
            .expect("archived by its own call");
        assert_eq!(bench.stored(), names(1..=4));
    }
}

/// W2: it is left to the call that asks for it.
#[tokio::test]
async fn a_different_file_in_the_archive_is_not_noted_and_told_by_its_own_call() {
    let bench = Bench::new(1..=4);
    let key = |name: &str| format!("p/main/wals/0000000100000000/{name}");
    bench.store.memory.insert(&key(&name(2)), "something else");
    bench.store.memory.insert(&key(&name(3)), segment(&name(3)));
    bench.archive(&name(1), 4).await.expect("archived");
    let noted: Vec<String> = bench.noted().into_iter().collect();
    assert_eq!(noted, names([1, 3, 4]), "the same file is noted");
    bench.store.calls();
    let error = bench
        .archive(&name(2), 4)
        .await
        .expect_err("it is different");
    assert_eq!(error.kind, OpErrorKind::Failed);
    assert!(error.message.contains("a different WAL file"), "{error}");
    bench.archive(&name(3), 4).await.expect("noted");
}

#[tokio::test]
async fn a_failure_of_the_requested_file_is_the_calls() {
    let bench = Bench::new(1..=4);
    let fault = Fault::Before(StoreErrorKind::PermissionDenied);
    bench
        .store
        .faulty
        .fail_for(&name(1), StoreOp::Put, fault, 1);
    let error = bench
        .archive(&name(1), 4)
        .await
        .expect_err("it cannot be stored");
    assert_eq!(error.kind, OpErrorKind::General);
    assert!(!bench.stored().contains(&name(1)) && !bench.noted().contains(&name(1)));
    bench.archive(&name(1), 4).await.expect("archived");
    assert_eq!(bench.stored(), names(1..=4));
}

/// PostgreSQL will ask for the same file again, and should soon know. The store would
/// keep the others for ever.
#[tokio::test]
async fn the_others_are_given_up_when_the_requested_file_fails() {
    let bench = Bench::new(1..=4);
    let denied = Fault::Before(StoreErrorKind::PermissionDenied);
    let faulty = &bench.store.faulty;
    faulty.fail_for(&name(1), StoreOp::Put, denied, 1);
    faulty.fail(StoreOp::Put, Fault::Late(u32::MAX), u32::MAX);
    let error = bench.archive(&name(1), 4).await;
    assert_eq!(
        error.expect_err("it cannot be stored").kind,
        OpErrorKind::General
    );
    assert!(bench.stored().is_empty() && bench.in_folder().is_empty());
}

#[tokio::test]
async fn a_file_of_another_cluster_is_refused_also_with_others() {
    let bench = Bench::new(1..=2);
    let data = bench.directory.path().join("data");
    write_control(&data, GOLDEN_SYSTEM);
    bench.archive(&name(1), 2).await.expect("archived");
    write_control(&data, GOLDEN_SYSTEM + 1);
    bench.store.calls();
    let error = bench
        .archive(&name(2), 2)
        .await
        .expect_err("of another cluster");
    assert!(error.message.contains("another cluster"), "{error}");
    assert_eq!(bench.store.calls(), [], "a note does not help it");
}

#[tokio::test]
async fn what_postgresql_does_not_wait_for_or_is_odd_is_passed_over() {
    let bench = Bench::new(1..=5);
    bench.done(&name(2));
    fs::remove_file(bench.wal(&name(3))).expect("removes");
    fs::write(bench.wal(&name(4)), &segment(&name(4))[..1 << 19]).expect("writes");
    bench.archive(&name(1), 8).await.expect("archived");
    assert_eq!(bench.stored(), names([1, 5]));
    // Between the search and its turn.
    let bench = Bench::new(1..=2);
    let order = order(&bench.store, bench.request(&name(1), 8));
    let (marker, requested) = (bench.marker(&name(2)), name(1).parse().expect("a name"));
    let look = move |status: &Path, most: usize, skip: &dyn Fn(&str) -> bool| {
        let found = next_ready(status, most, skip);
        fs::remove_file(marker).expect("removes");
        found
    };
    run_with(&context().0, &order, requested, WAIT, look)
        .await
        .expect("archived");
    assert_eq!(bench.stored(), names([1]));
}

#[tokio::test]
async fn a_file_that_could_need_too_much_memory_is_not_archived_ahead() {
    let bench = Bench::new(1..=2);
    let mut request = bench.request(&name(1), 8);
    request.codec = codec::by_name("xz").expect("a codec");
    request.level = Level::Number(9);
    bench.run(&request).await.expect("archived");
    assert_eq!(bench.stored(), [format!("{}.xz", name(1))]);
}

#[tokio::test]
async fn what_is_left_in_the_folder_is_cleaned_up() {
    let bench = Bench::new(1..=3);
    bench.archive(&name(1), 3).await.expect("archived");
    let folder = bench.folder().expect("a folder");
    let old = std::time::SystemTime::now() - Duration::from_hours(2);
    for name in ["x.lock", ".barman-cloud-1-2.tmp", "somebody else's"] {
        let file = fs::File::create(folder.join(name)).expect("a file");
        file.set_modified(old).expect("a time");
    }
    for name in ["y.lock", ".barman-cloud-3-4.tmp"] {
        fs::write(folder.join(name), "").expect("a file");
    }
    bench.done(&name(1));
    let forgotten = fs::File::options()
        .write(true)
        .open(note_on(&bench, &name(2)));
    forgotten
        .expect("a note")
        .set_modified(old)
        .expect("a time");
    bench.add(&name(4), &segment(&name(4)));
    bench.archive(&name(4), 3).await.expect("archived");
    let left = bench.in_folder();
    for name in ["x.lock", ".barman-cloud-1-2.tmp"] {
        assert!(!left.contains(name), "{name}");
    }
    for name in ["y.lock", ".barman-cloud-3-4.tmp", "somebody else's"] {
        assert!(left.contains(name), "{name}");
    }
    let noted: Vec<String> = bench.noted().into_iter().collect();
    assert_eq!(noted, names(2..=4), "2 was compared and noted anew");
}

#[tokio::test]
async fn a_folder_full_of_notes_takes_no_more() {
    let bench = Bench::new(1..=3);
    drop(bench.subject(&name(1)));
    let folder = bench.folder().expect("it was made");
    for number in 0..MOST {
        let name = format!("{:08X}0000000A0000000A", number + 2);
        fs::write(bench.marker(&name), "").expect("a mark");
        fs::write(folder.join(format!("{name}.note")), "").expect("a note");
    }
    bench.archive(&name(1), 3).await.expect("archived");
    assert_eq!(bench.stored(), names([1]));
}
