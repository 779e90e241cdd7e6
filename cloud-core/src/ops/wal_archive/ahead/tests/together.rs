//! Several calls at the same time, and calls that end before their time.

use std::sync::mpsc;

use super::*;

#[tokio::test]
async fn a_file_that_another_call_sends_is_passed_over_or_waited_for() {
    let bench = Bench::new(1..=3);
    let other = bench.subject(&name(2));
    let lock = other
        .notes
        .try_lock(&other.name)
        .expect("works")
        .expect("it is free");
    bench.archive(&name(1), 3).await.expect("archived");
    assert_eq!(bench.stored(), names([1, 3]), "2 is passed over");
    // The other call stores it, notes that and ends.
    let (asked, ends) = mpsc::channel();
    let ending = std::thread::spawn(move || {
        ends.recv().expect("the call has begun");
        other.notes.keep(other.note.as_ref().expect("a note"));
        drop(lock);
    });
    bench.store.calls();
    let requested = name(2);
    let call = bench.archive(&requested, 3);
    tokio::pin!(call);
    assert!(futures_util::poll!(&mut call).is_pending());
    asked.send(()).expect("it listens");
    call.await.expect("noted");
    ending.join().expect("no panic");
    assert_eq!(bench.store.calls(), [], "it was not sent twice");
}

/// The other call was killed, or could not store the file.
#[tokio::test]
async fn a_file_that_another_call_has_given_up_is_sent() {
    let bench = Bench::new(1..=1);
    let other = bench.subject(&name(1));
    let lock = other
        .notes
        .try_lock(&other.name)
        .expect("works")
        .expect("it is free");
    let requested = name(1);
    let call = bench.archive(&requested, 3);
    tokio::pin!(call);
    assert!(futures_util::poll!(&mut call).is_pending());
    drop(lock);
    call.await.expect("archived");
    assert_eq!(bench.store.calls(), puts(1));
    assert_eq!(bench.in_folder().len(), 1, "one note, no lock");
}

#[tokio::test]
async fn a_call_that_waits_for_another_can_be_stopped_and_does_not_wait_for_ever() {
    let bench = Bench::new(1..=1);
    let other = bench.subject(&name(1));
    let _lock = other
        .notes
        .try_lock(&other.name)
        .expect("works")
        .expect("it is free");
    let (ctx, cancel) = context();
    let waiting = run(&ctx, bench.store.shared(), bench.request(&name(1), 3));
    tokio::pin!(waiting);
    assert!(futures_util::poll!(&mut waiting).is_pending());
    cancel.cancel();
    let error = waiting.await.expect_err("stopped");
    assert_eq!(error.kind, OpErrorKind::Interrupted);
    assert_eq!(bench.store.calls(), []);
    let order = order(&bench.store, bench.request(&name(1), 3));
    let requested = name(1).parse().expect("a name");
    let look = next_ready as Look;
    run_with(&context().0, &order, requested, Duration::ZERO, look)
        .await
        .expect("archived");
    assert_eq!(bench.store.calls(), puts(1));
}

/// Clients of ours start several at once, each for a file of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_calls_at_once_send_no_file_twice() {
    let bench = Arc::new(Bench::new(1..=20));
    let calls = (1..=8).map(|number| {
        let bench = Arc::clone(&bench);
        tokio::spawn(async move { bench.archive(&name(number), 8).await })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.expect("no panic").expect("archived");
    }
    let stored = bench.stored();
    assert!(stored.starts_with(&names(1..=8)), "{stored:?}");
    assert_eq!(bench.store.calls(), puts(stored.len()));
    assert_eq!(bench.noted().into_iter().collect::<Vec<_>>(), stored);
    assert_eq!(bench.in_folder().len(), stored.len(), "no lock is left");
}

/// W1: wherever the store ends, or the call, no note says more than the store.
#[tokio::test]
async fn a_note_is_never_ahead_of_the_store() {
    for calls in 0..=6 {
        let mut bench = Bench::new(1..=5);
        bench.store.faulty = bench.store.faulty.clone().die_after(calls);
        let archived = bench.archive(&name(1), 5).await;
        let stored: BTreeSet<String> = bench.stored().into_iter().collect();
        assert_eq!(
            archived.is_ok(),
            stored.contains(&name(1)),
            "{calls}: {archived:?}"
        );
        assert!(
            bench.noted().is_subset(&stored),
            "{calls}: {:?}",
            bench.noted()
        );
        bench.store = TestStore::new(&bench.store.memory);
        for number in 1..=5 {
            bench.archive(&name(number), 5).await.expect("archived");
        }
        assert_eq!(bench.stored(), names(1..=5));
    }
}

/// As by a signal that nobody can catch, but for the threads.
#[tokio::test]
async fn a_call_can_end_anywhere() {
    for polls in 0..12 {
        let bench = Bench::new(1..=5);
        bench
            .store
            .faulty
            .fail(StoreOp::Put, Fault::Late(3), u32::MAX);
        {
            let requested = name(1);
            let call = bench.archive(&requested, 5);
            tokio::pin!(call);
            for _ in 0..polls {
                if futures_util::poll!(&mut call).is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        let stored: BTreeSet<String> = bench.stored().into_iter().collect();
        let noted = bench.noted();
        assert!(noted.is_subset(&stored), "{polls}: {noted:?} {stored:?}");
        for number in 1..=5 {
            bench.archive(&name(number), 5).await.expect("archived");
        }
        assert_eq!(bench.stored(), names(1..=5));
    }
}

#[tokio::test]
async fn a_signal_stops_all_of_them() {
    let bench = Bench::new(1..=5);
    let (ctx, cancel) = context();
    cancel.cancel();
    let error = run(&ctx, bench.store.shared(), bench.request(&name(1), 5)).await;
    assert_eq!(error.expect_err("stopped").kind, OpErrorKind::Interrupted);
    assert_eq!(bench.store.calls(), []);
    assert!(bench.noted().is_empty());
}
