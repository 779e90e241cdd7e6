use bytes::Bytes;
use futures_util::TryStreamExt;

use super::*;
use crate::store::{
    Fault, FaultyStore, MemoryStore, PartNumber, StoreOp, conformance, list_all_uploads,
};

const POLICY: RetryPolicy = RetryPolicy::per_request(Duration::from_mins(1));

fn faulty() -> (MemoryStore, FaultyStore, Retry) {
    let memory = MemoryStore::new();
    let faulty = FaultyStore::new(Arc::new(memory.clone()));
    let retry = Retry::new(Arc::new(faulty.clone()), POLICY);
    (memory, faulty, retry)
}

fn key() -> Key {
    Key::new("object").unwrap()
}

const BODY: Bytes = Bytes::from_static(b"0123456789");

#[tokio::test(start_paused = true)]
async fn a_wrapped_store_does_what_every_store_must() {
    let (memory, _, retry) = faulty();
    conformance::all(Arc::new(retry), "run").await;
    assert!(memory.contents().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_passing_failure_is_not_seen() {
    for kind in [
        StoreErrorKind::Timeout,
        StoreErrorKind::ServerFault,
        StoreErrorKind::Conflict,
    ] {
        let (memory, faulty, retry) = faulty();
        faulty.fail(StoreOp::Put, Fault::Before(kind), 3);
        retry
            .put(&key(), BODY.into(), &PutOptions::default())
            .await
            .unwrap();
        assert_eq!(memory.contents()["object"], BODY);
        assert_eq!(faulty.count(StoreOp::Put), 4);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lasting_failure_ends_in_time_and_the_first_one_is_reported() {
    let (_, faulty, retry) = faulty();
    faulty.fail(StoreOp::Put, Fault::Before(StoreErrorKind::Connect), 1);
    faulty.fail(
        StoreOp::Put,
        Fault::Before(StoreErrorKind::Timeout),
        u32::MAX,
    );
    let began = Instant::now();
    let error = retry
        .put(&key(), BODY.into(), &PutOptions::default())
        .await
        .unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Connect);
    assert!(error.attempts > 5 && began.elapsed() <= POLICY.total);
}

/// As a large part that was sent slowly, and whose answer was lost.
#[tokio::test(start_paused = true)]
async fn an_attempt_that_took_longer_than_the_patience_has_a_second_one() {
    for (failures, attempts) in [(1, 2), (9, 2)] {
        let (memory, _, retry) = faulty();
        let mut count = 0;
        let done = retry.run(|| {
            count += 1;
            let failed = (count <= failures).then(|| {
                let kind = StoreErrorKind::Connect;
                memory.info().error(StoreOp::PutPart, "k", kind, "cut")
            });
            async {
                tokio::time::sleep(POLICY.total * 20).await;
                failed.map_or(Ok(()), Err)
            }
        });
        assert_eq!(done.await.is_ok(), failures == 1);
        assert_eq!(count, attempts);
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_final() {
    let (_, faulty, retry) = faulty();
    faulty.fail(
        StoreOp::Put,
        Fault::Before(StoreErrorKind::PermissionDenied),
        1,
    );
    let error = retry
        .put(&key(), BODY.into(), &PutOptions::default())
        .await
        .unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::PermissionDenied);
    assert_eq!(faulty.count(StoreOp::Put), 1);
}

#[tokio::test(start_paused = true)]
async fn a_create_only_write_recognises_its_own_first_attempt() {
    let create = PutOptions {
        mode: PutMode::CreateOnly,
        ..PutOptions::default()
    };
    let (_, faulty, retry) = faulty();
    faulty.fail(StoreOp::Put, Fault::After(StoreErrorKind::Timeout), 1);
    retry.put(&key(), BODY.into(), &create).await.unwrap();

    let (memory, faulty, retry) = self::faulty();
    memory.insert("object", "different!");
    faulty.fail(StoreOp::Put, Fault::Before(StoreErrorKind::Timeout), 1);
    let error = retry.put(&key(), BODY.into(), &create).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::AlreadyExists);
    assert_eq!(memory.contents()["object"], "different!");
}

#[tokio::test(start_paused = true)]
async fn a_download_goes_on_where_it_was_cut() {
    let (memory, faulty, retry) = faulty();
    let body: Bytes = (0..1_000_000_u32)
        .flat_map(u32::to_le_bytes)
        .collect::<Vec<_>>()
        .into();
    memory.insert("object", body.clone());
    for cut in [0, 1, 70_000, 3_999_999] {
        faulty.fail(StoreOp::Get, Fault::CutBody(cut), 2);
        let (_, read) = get_all(&retry, &key(), 1 << 30).await.unwrap();
        assert!(read == body, "cut at {cut}");
        faulty.fail(StoreOp::Get, Fault::ShortBody(cut), 2);
        let (_, read) = get_all(&retry, &key(), 1 << 30).await.unwrap();
        assert!(read == body, "short by a silent end at {cut}");
    }
    let before = faulty.count(StoreOp::Get);
    faulty.fail(StoreOp::Get, Fault::CutBody(4_000_000), 1);
    get_all(&retry, &key(), 1 << 30).await.unwrap();
    let asked = faulty.count(StoreOp::Get) - before;
    assert_eq!(asked, 1, "there is nothing left to ask for");
}

#[tokio::test(start_paused = true)]
async fn a_range_goes_on_wherever_it_was_cut_and_asks_for_no_byte_twice() {
    let (memory, faulty, retry) = faulty();
    let body: Bytes = (0..200_u8).collect::<Vec<_>>().into();
    memory.insert("object", body.clone());
    let version = memory.head(&key(), LockCheck::Skip).await.unwrap().version;
    let range = ReadRange {
        start: 50,
        end: Some(150),
        version: version.clone(),
    };
    for first in 0..=100 {
        for fault in [Fault::CutBody(first), Fault::ShortBody(first)] {
            let before = faulty.count(StoreOp::Get);
            faulty.fail(StoreOp::Get, fault, 1);
            // The rest is cut as well, behind its first byte.
            faulty.fail(StoreOp::Get, Fault::CutBody(1), 1);
            let download = retry.get(&key(), &range).await.unwrap();
            assert_eq!((download.range, download.meta.size), (50..150, 200));
            let pieces: Vec<Bytes> = download.body.try_collect().await.unwrap();
            assert!(pieces.concat() == body[50..150], "{fault:?}");
            let asked = faulty.count(StoreOp::Get) - before;
            assert_eq!(
                asked,
                [1, 2, 3][usize::try_from(100 - first).unwrap().min(2)],
                "{fault:?}"
            );
            // What was planned and not needed is used up.
            for _ in asked..2 {
                let _ = faulty.get(&key(), &range).await;
            }
        }
    }
    memory.insert("object", vec![7; 200]);
    let error = retry.get(&key(), &range).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Corrupt, "another version");
}

#[tokio::test(start_paused = true)]
async fn a_download_of_an_object_that_was_replaced_meanwhile_is_corrupt() {
    let (memory, faulty, retry) = faulty();
    memory.insert("object", vec![1; 200_000]);
    faulty.fail(StoreOp::Get, Fault::CutBody(100_000), 1);
    let mut download = retry.get(&key(), &ReadRange::all()).await.unwrap();
    download.body.try_next().await.unwrap();
    memory.insert("object", vec![2; 200_000]);
    let rest: Result<Vec<_>> = download.body.try_collect().await;
    assert_eq!(rest.unwrap_err().kind, StoreErrorKind::Corrupt);
}

#[tokio::test(start_paused = true)]
async fn an_upload_whose_completion_was_not_answered_is_recognised() {
    let (memory, faulty, retry) = faulty();
    let upload = retry
        .begin_multipart(&key(), &PutOptions::default())
        .await
        .unwrap();
    let part = upload.put_part(PartNumber::FIRST, BODY).await.unwrap();
    faulty.fail(StoreOp::Complete, Fault::After(StoreErrorKind::Timeout), 1);
    faulty.fail(
        StoreOp::Complete,
        Fault::Before(StoreErrorKind::NotFound),
        1,
    );
    upload.complete(&[part]).await.unwrap();
    assert_eq!(memory.contents()["object"], BODY);

    let upload = retry
        .begin_multipart(&key(), &PutOptions::default())
        .await
        .unwrap();
    let part = upload.put_part(PartNumber::FIRST, BODY).await.unwrap();
    faulty.fail(StoreOp::Complete, Fault::Before(StoreErrorKind::Timeout), 1);
    faulty.fail(
        StoreOp::Complete,
        Fault::Before(StoreErrorKind::NotFound),
        1,
    );
    let refused = upload.complete(&[part]).await;
    assert!(
        refused.is_err(),
        "the old object of the same size is not taken for the new one"
    );
}

/// Its parts would be paid for until somebody finds it.
#[tokio::test(start_paused = true)]
async fn an_upload_whose_beginning_was_not_answered_is_not_left_open() {
    let begun = async |mode| {
        let (memory, faulty, retry) = faulty();
        let other = Key::new("object-2").unwrap();
        let options = PutOptions::default();
        memory.begin_multipart(&other, &options).await.unwrap();
        let lost = Fault::After(StoreErrorKind::Timeout);
        faulty.fail(StoreOp::BeginMultipart, lost, 2);
        let options = PutOptions { mode, ..options };
        let upload = retry.begin_multipart(&key(), &options).await.unwrap();
        let part = upload.put_part(PartNumber::FIRST, BODY).await.unwrap();
        upload.complete(&[part]).await.unwrap();
        let left = list_all_uploads(&memory, &Prefix::text("")).await.unwrap();
        left.iter()
            .map(|upload| upload.key.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(begun(PutMode::Overwrite).await, ["object-2"]);
    // One of these may be another archiver's.
    let all = ["object", "object", "object-2"];
    assert_eq!(begun(PutMode::CreateOnly).await, all);
}

#[tokio::test(start_paused = true)]
async fn a_listing_is_asked_for_again_before_its_first_answer() {
    let (memory, faulty, retry) = faulty();
    memory.insert("a", "");
    faulty.fail(StoreOp::List, Fault::Before(StoreErrorKind::RateLimited), 2);
    let page = crate::store::list_all(&retry, &Prefix::text(""), Depth::All)
        .await
        .unwrap();
    assert_eq!(page.objects.len(), 1);
}

/// Absence, in the middle of a WAL file, must not look like the end of WAL.
#[tokio::test(start_paused = true)]
async fn an_object_that_is_deleted_while_it_is_read_is_corrupt_and_not_absent() {
    let (memory, faulty, retry) = faulty();
    memory.insert("object", vec![1; 200_000]);
    faulty.fail(StoreOp::Get, Fault::CutBody(100_000), 1);
    let mut download = retry.get(&key(), &ReadRange::all()).await.unwrap();
    download.body.try_next().await.unwrap();
    memory.remove("object");
    let rest: Result<Vec<_>> = download.body.try_collect().await;
    assert_eq!(rest.unwrap_err().kind, StoreErrorKind::Corrupt);
}

#[tokio::test(start_paused = true)]
async fn a_create_only_upload_is_recognised_by_its_content_and_not_by_its_size() {
    let create = PutOptions {
        mode: PutMode::CreateOnly,
        ..PutOptions::default()
    };
    for (others, expected) in [
        (None, None),
        (Some("0123456789"), None),
        (Some("9876543210"), Some(StoreErrorKind::AlreadyExists)),
    ] {
        let (memory, faulty, retry) = faulty();
        let upload = retry.begin_multipart(&key(), &create).await.unwrap();
        let second = PartNumber::new(2).unwrap();
        let parts = [
            upload.put_part(PartNumber::FIRST, BODY.slice(..4)).await,
            upload.put_part(second, BODY.slice(4..)).await,
        ];
        let parts = parts.map(Result::unwrap);
        let lost = match others {
            None => Fault::After(StoreErrorKind::Timeout),
            Some(others) => {
                memory.insert("object", others);
                Fault::Before(StoreErrorKind::Timeout)
            }
        };
        faulty.fail(StoreOp::Complete, lost, 1);
        let done = upload.complete(&parts).await;
        assert_eq!(done.err().map(|error| error.kind), expected, "{others:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_listing_goes_on_after_a_page_that_failed() {
    let memory = MemoryStore::new().with_page(2);
    for name in ["a", "b", "c", "d", "e"] {
        memory.insert(name, "");
    }
    let faulty = FaultyStore::new(Arc::new(memory));
    let retry = Retry::new(Arc::new(faulty.clone()), POLICY);
    faulty.fail(StoreOp::List, Fault::After(StoreErrorKind::ServerFault), 1);
    let pages: Vec<ListPage> = retry
        .list(&Prefix::text(""), Depth::All)
        .try_collect()
        .await
        .unwrap();
    let objects = pages.iter().flat_map(|page| &page.objects);
    let names: Vec<&str> = objects.map(|object| object.key.as_str()).collect();
    assert_eq!(names, ["a", "b", "c", "d", "e"], "each of them once");
    assert_eq!(faulty.count(StoreOp::List), 1);
}

#[tokio::test(start_paused = true)]
async fn keys_that_could_not_be_deleted_for_now_are_tried_again() {
    let (memory, faulty, retry) = faulty();
    let keys = ["a", "b", "c"].map(|name| Key::new(name).unwrap());
    for key in &keys {
        memory.insert(key.as_str(), "");
    }
    let refused = Fault::RefuseKeys(StoreErrorKind::PermissionDenied);
    faulty.fail_for("c", StoreOp::Delete, refused, 1);
    let report = retry.delete_batch(&keys[2..]).await.unwrap();
    assert_eq!(report.failed[0].1.kind, StoreErrorKind::PermissionDenied);
    assert_eq!(faulty.count(StoreOp::Delete), 1, "a refusal is final");

    let busy = Fault::RefuseKeys(StoreErrorKind::ServerFault);
    faulty.fail_for("b", StoreOp::Delete, busy, 2);
    let report = retry.delete_batch(&keys).await.unwrap();
    let deleted = [0, 2, 1].map(|at: usize| keys[at].clone());
    assert_eq!(report.deleted, deleted);
    assert!(report.failed.is_empty());

    faulty.fail_for("b", StoreOp::Delete, busy, u32::MAX);
    memory.insert("b", "");
    let report = retry.delete_batch(&keys[1..2]).await.unwrap();
    assert!(report.failed[0].1.attempts > 5);
    assert!(memory.contents().contains_key("b"));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_never_answered_is_given_up_sooner() {
    let policy = RetryPolicy::per_request(Duration::from_mins(10));
    for (met, least, most) in [(false, 30, 60), (true, 500, 600)] {
        let faulty = FaultyStore::new(Arc::new(MemoryStore::new()));
        let retry = Retry::new(Arc::new(faulty.clone()), policy);
        if met {
            retry.probe().await.unwrap();
        }
        let refused = Fault::Before(StoreErrorKind::Connect);
        faulty.fail(StoreOp::Put, refused, u32::MAX);
        let began = Instant::now();
        let put = retry.put(&key(), BODY.into(), &PutOptions::default()).await;
        assert_eq!(put.unwrap_err().kind, StoreErrorKind::Connect);
        let seconds = began.elapsed().as_secs();
        assert!((least..=most).contains(&seconds), "{met}: {seconds} s");
    }
}

#[tokio::test(start_paused = true)]
async fn unfinished_uploads_are_listed_and_aborted_in_spite_of_passing_failures() {
    let memory = MemoryStore::new().with_page(2);
    let faulty = FaultyStore::new(Arc::new(memory.clone()));
    let retry = Retry::new(Arc::new(faulty.clone()), POLICY);
    let options = PutOptions::default();
    for _ in 0..5 {
        memory.begin_multipart(&key(), &options).await.unwrap();
    }
    let busy = StoreErrorKind::RateLimited;
    faulty.fail(StoreOp::ListUploads, Fault::Before(busy), 2);
    faulty.fail(StoreOp::ListUploads, Fault::After(busy), 1);
    let prefix = Prefix::text("");
    let listed = list_all_uploads(&retry, &prefix).await.unwrap();
    let mut ids: Vec<_> = listed.iter().map(|upload| &upload.id).collect();
    ids.dedup();
    assert_eq!(ids.len(), 5, "each of them once: {listed:?}");
    assert_eq!(faulty.count(StoreOp::ListUploads), 3);

    faulty.fail(StoreOp::Abort, Fault::After(StoreErrorKind::Timeout), 1);
    retry.abort_upload(&listed[0]).await.unwrap();
    assert_eq!(faulty.count(StoreOp::Abort), 2);
    let left = list_all_uploads(&retry, &prefix).await.unwrap();
    assert_eq!(left, listed[1..]);

    let denied = StoreErrorKind::PermissionDenied;
    faulty.fail_for("object", StoreOp::Abort, Fault::Before(denied), 1);
    let refused = retry.abort_upload(&listed[1]).await;
    assert_eq!(refused.unwrap_err().kind, denied);
    assert_eq!(list_all_uploads(&retry, &prefix).await.unwrap(), left);
}

#[tokio::test(start_paused = true)]
async fn the_requests_of_a_run_can_have_one_bound_together() {
    let total = Duration::from_mins(1);
    for (policy, longest) in [
        (RetryPolicy::per_run(total), total),
        (RetryPolicy::per_request(total), total * 3),
    ] {
        let memory = MemoryStore::new();
        let faulty = FaultyStore::new(Arc::new(memory));
        let retry = Retry::new(Arc::new(faulty.clone()), policy);
        // It answers at last, and then no more.
        faulty.fail(StoreOp::Put, Fault::Before(StoreErrorKind::ServerFault), 8);
        let began = Instant::now();
        let options = PutOptions::default();
        retry.put(&key(), BODY.into(), &options).await.unwrap();
        let first = began.elapsed();
        assert!(first > total / 6, "{first:?}");
        let fault = Fault::Before(StoreErrorKind::ServerFault);
        faulty.fail(StoreOp::Get, fault, u32::MAX);
        for _ in 0..2 {
            let error = get_all(&retry, &key(), 100).await.unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::ServerFault);
        }
        let elapsed = began.elapsed();
        assert!(elapsed <= longest, "{elapsed:?}");
        assert_eq!(elapsed > total, longest > total, "{elapsed:?}");
    }
}

/// Files that are archived side by side must not use up each other's patience.
#[tokio::test(start_paused = true)]
async fn what_requests_lose_side_by_side_is_lost_once() {
    let total = Duration::from_mins(1);
    let faulty = FaultyStore::new(Arc::new(MemoryStore::new()));
    let retry = Retry::new(Arc::new(faulty.clone()), RetryPolicy::per_run(total));
    let fault = Fault::Before(StoreErrorKind::ServerFault);
    faulty.fail(StoreOp::Put, fault, u32::MAX);
    let began = Instant::now();
    let options = PutOptions::default();
    let (key, put) = (key(), async |key: &Key| {
        retry.put(key, BODY.into(), &options).await
    });
    let all = futures_util::future::join_all((0..8).map(|_| put(&key))).await;
    assert!(all.iter().all(std::result::Result::is_err));
    let elapsed = began.elapsed();
    assert!(elapsed <= total && elapsed > total * 3 / 4, "{elapsed:?}");
    // Whoever comes then has what is left of it.
    assert!(put(&key).await.is_err());
    assert!(began.elapsed() <= total, "{:?}", began.elapsed());
}
