//! What calls leave for one another, and what they do about one another.

use std::os::unix::fs::PermissionsExt;

use super::super::super::super::folder::{Folder, Lock};
use super::*;
use crate::key::Key;
use crate::store::Tag;

/// A store that does not answer, asked again for a minute in all.
fn patient(bench: &Bench) -> Arc<dyn ObjectStore> {
    let policy = RetryPolicy::per_run(Duration::from_mins(1));
    Arc::new(Retry::new(bench.store.shared(), policy))
}

fn away() -> Fault {
    Fault::Before(StoreErrorKind::Connect)
}

/// The texts below `gaps/`.
fn told(bench: &Bench) -> Vec<(String, Gap)> {
    let contents = bench.store.memory.contents().into_iter();
    let gaps = contents.filter(|(key, _)| key.contains("/gaps/"));
    gaps.map(|(key, text)| {
        let gap = Gap::parse(std::str::from_utf8(&text).expect("UTF-8"));
        (key, gap.expect("a gap"))
    })
    .collect()
}

/// The folder's name without the user: what stands for the archive.
fn source(bench: &Bench) -> String {
    let folder = bench.folder();
    let name = folder.file_name().expect("a name").to_string_lossy();
    let (_, source) = name.split_once('-').expect("user and source");
    source.to_owned()
}

/// It may be stored any moment, and PostgreSQL must not hear of either before.
#[tokio::test(start_paused = true)]
async fn what_another_call_is_sending_is_neither_let_go_nor_archived() {
    let mut bench = Bench::new(9, 4);
    bench.step(&name(1)).await.expect("let go");
    bench.add(&name(10), &segment(&name(10)));
    bench.parallel = 2;
    let folder = Folder::open(&bench.spool(), &source(&bench)).expect("a folder");
    let lock = Lock::try_take(&folder, &format!("{}.lock", name(2))).expect("works");
    assert!(lock.is_some());
    let error = bench.step(&name(2)).await.expect_err("it is not archived");
    assert_eq!(error.kind, OpErrorKind::General);
    assert!(error.message.contains("another call"), "{error}");
    assert_eq!(bench.store.memory.contents().len(), 1, "what was let go");
    assert!(!bench.on_record());
}

#[tokio::test]
async fn a_store_that_works_again_is_asked_again() {
    let bench = Bench::new(6, 4);
    bench.store.faulty.fail(StoreOp::Put, FAILS, 1);
    bench.step(&name(1)).await.expect("let go");
    assert!(bench.in_folder("queue-failed"));
    for number in [5, 6] {
        fs::remove_file(bench.marker(&name(number))).expect("a mark");
    }
    bench.step(&name(2)).await.expect("archived");
    assert!(!bench.in_folder("queue-failed"));
    for number in 5..=8 {
        bench.add(&name(number), &segment(&name(number)));
    }
    bench.step(&name(3)).await.expect("archived");
    assert_eq!(bench.stored(), (vec![name(2), name(3)], vec![run_of(1, 1)]));
}

/// A note says nothing of how the store fares.
#[tokio::test]
async fn what_a_note_answers_does_not_make_a_failure_forgotten() {
    let mut bench = Bench::new(3, 4);
    bench.parallel = 3;
    bench.step(&name(1)).await.expect("archived");
    for number in 4..=8 {
        bench.add(&name(number), &segment(&name(number)));
    }
    bench.store.faulty.fail(StoreOp::Put, FAILS, u32::MAX);
    bench.archive(&name(4)).await.expect("let go");
    for number in 4..=8 {
        fs::remove_file(bench.marker(&name(number))).expect("a mark");
    }
    bench.step(&name(2)).await.expect("noted");
    assert!(bench.in_folder("queue-failed"));
}

/// The others of a call say nothing of the one that was asked for.
#[tokio::test(start_paused = true)]
async fn a_segment_that_the_store_does_not_take_goes_though_it_takes_others() {
    let mut bench = Bench::new(5, 4);
    bench.parallel = 3;
    let faulty = &bench.store.faulty;
    faulty.fail_for(&name(1), StoreOp::Put, away(), u32::MAX);
    let began = Instant::now();
    run(&context().0, patient(&bench), bench.request(&name(1)))
        .await
        .expect("let go");
    assert!(began.elapsed() <= PATIENCE + 2 * LOOK_EVERY);
    assert_eq!(bench.stored().0, [name(2), name(3)]);
    assert!(bench.on_record());
}

/// However a file goes, as it is or through an encoder, the store has the same time.
#[tokio::test(start_paused = true)]
async fn the_stores_time_begins_when_it_is_asked_whatever_it_is_asked_for() {
    for codec in ["none", "zstd", "gzip"] {
        let bench = Bench::new(5, 4);
        bench.store.faulty.fail(StoreOp::Put, away(), u32::MAX);
        let mut request = bench.request(&name(1));
        request.codec = codec::by_name(codec).expect("a codec");
        let began = Instant::now();
        run(&context().0, patient(&bench), request)
            .await
            .expect("let go");
        let took = began.elapsed();
        assert!(took <= PATIENCE + 2 * LOOK_EVERY, "{codec}: {took:?}");
    }
    // What was let go before is a part of it.
    let bench = Bench::new(9, 4);
    bench.step(&name(1)).await.expect("let go");
    for number in 7..=9 {
        fs::remove_file(bench.marker(&name(number))).expect("a mark");
    }
    let faulty = &bench.store.faulty;
    faulty.fail_for("/gaps/", StoreOp::Put, away(), u32::MAX);
    let began = Instant::now();
    run(&context().0, patient(&bench), bench.request(&name(2)))
        .await
        .expect("let go");
    assert!(began.elapsed() <= PATIENCE + 2 * LOOK_EVERY);
}

#[tokio::test(start_paused = true)]
async fn what_the_store_has_taken_is_not_held_against_it() {
    let sending = Sending::default();
    sending.ask();
    tokio::time::sleep(PATIENCE).await;
    assert!(sending.is_late());
    sending.ask();
    assert!(sending.is_late(), "it is the same request still");
    sending.rest();
    assert!(!sending.is_late());
    sending.ask();
    assert!(!sending.is_late(), "it is another one");
    tokio::time::sleep(PATIENCE).await;
    sending.finish();
    assert!(sending.is_done() && !sending.is_late());
    // As a call does it that has told the archive what was let go.
    let bench = Bench::new(9, 4);
    bench.archive(&name(1)).await.expect("let go");
    let order = order(&bench, Sending::default());
    let gaps = order.gaps.clone().expect("it was asked for");
    gaps.send(&context().0, &order).await.expect("told");
    assert!(matches!(order.sending.state(), State::Idle));
    assert_eq!(told(&bench).len(), 1);
}

fn order(bench: &Bench, sending: Sending) -> Order {
    Order {
        store: bench.store.shared(),
        layout: crate::catalogue::layout::Layout::new("p", "main").expect("a layout"),
        request: bench.request(&name(1)),
        gaps: Some(Gaps::new(&bench.spool(), source(bench))),
        sending,
    }
}

#[tokio::test]
async fn a_call_that_tells_the_archive_ends_with_a_signal() {
    let bench = Bench::new(9, 4);
    bench.step(&name(1)).await.expect("let go");
    let faulty = &bench.store.faulty;
    faulty.fail_for("/gaps/", StoreOp::Put, Fault::Late(u32::MAX), u32::MAX);
    let (ctx, cancel) = context();
    let call = run(
        &ctx,
        bench.store.shared(),
        bench.request("00000002.history"),
    );
    bench.add("00000002.history", &golden("00000002.history"));
    let signal = async {
        while bench.store.faulty.calls().is_empty() {
            tokio::task::yield_now().await;
        }
        cancel.cancel();
    };
    let (ended, ()) = tokio::join!(call, signal);
    assert_eq!(ended.expect_err("it ends").kind, OpErrorKind::Interrupted);
    assert!(bench.on_record());
}

/// What nobody can read may be anything, so nothing is archived behind it.
#[tokio::test]
async fn while_the_record_cannot_be_read_nothing_is_archived() {
    for parallel in [1, 4] {
        let mut bench = Bench::new(9, 4);
        bench.step(&name(1)).await.expect("let go");
        bench.limit = None;
        bench.parallel = parallel;
        let record = bench.folder().join("gaps");
        fs::remove_file(&record).expect("removes");
        fs::create_dir(&record).expect("a directory");
        let error = bench.archive(&name(2)).await.expect_err("it must fail");
        assert!(error.hint.is_some_and(|hint| hint.contains("let go")));
        assert_eq!(bench.store.calls(), []);
        // The same if the way to it cannot be told.
        fs::remove_dir_all(bench.spool()).expect("removes");
        std::os::unix::fs::symlink(bench.spool(), bench.spool()).expect("a link");
        bench.archive(&name(2)).await.expect_err("it must fail");
        assert_eq!(bench.store.calls(), []);
    }
}

/// Anybody may prepare a folder below a directory that is for all.
#[tokio::test]
async fn a_folder_that_others_can_use_says_nothing_of_this_archive() {
    for parallel in [1, 4] {
        let mut bench = Bench::new(9, 4);
        bench.step(&name(1)).await.expect("let go");
        bench.limit = None;
        bench.parallel = parallel;
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(bench.folder(), mode).expect("a mode");
        bench.archive(&name(2)).await.expect("archived");
        assert_eq!(bench.stored(), (vec![name(2)], vec![]));
        assert!(bench.on_record());
    }
}

#[tokio::test]
async fn what_is_told_has_the_tags_of_wal_and_replaces_nothing() {
    let bench = Bench::new(9, 4);
    bench.step(&name(1)).await.expect("let go");
    let mut request = bench.request(&name(2));
    request.tags = Some(vec![Tag {
        key: "k".into(),
        value: "v".into(),
    }]);
    let tags = request.tags.clone();
    let record = bench.folder().join("gaps");
    let text = fs::read(&record).expect("a record");
    run(&context().0, bench.store.shared(), request)
        .await
        .expect("archived");
    let (key, _) = told(&bench).pop().expect("a gap");
    assert_eq!(bench.store.memory.tags(&key), tags);
    // As after a crash that has brought the record back.
    fs::write(&record, text).expect("writes");
    bench.store.memory.insert(&key, "as it was");
    bench.archive(&name(3)).await.expect("archived");
    assert_eq!(bench.store.memory.contents()[&key], "as it was");
    assert!(Key::new(key).is_ok() && !bench.on_record());
}

/// Names are compared as texts, by servers and by those who look for gaps.
#[tokio::test]
async fn what_is_let_go_is_told_as_servers_spell_it() {
    let bench = Bench::new(9, 4);
    let lower = "00000001000000000000000a";
    bench.step(&name(9)).await.expect("let go");
    bench.add(lower, &segment(lower));
    bench.step(lower).await.expect("let go");
    bench.archive(&name(1)).await.expect("archived");
    let (_, gap) = told(&bench).pop().expect("a gap");
    assert_eq!(
        (gap.first.as_str(), gap.last.as_str()),
        (&*name(9), &*name(10))
    );
}
