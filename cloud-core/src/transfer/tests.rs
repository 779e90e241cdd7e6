//! Lanes and uploads together, on stores that behave and on stores that fail.

mod reporting;

use std::io::Write;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::codec::{self, Codec, Level};
use crate::key::Key;
use crate::report::Silent;
use crate::store::{
    Fault, FaultyStore, Limits, MemoryStore, ObjectStore, PutOptions, StoreErrorKind, StoreOp,
};

const PART: u64 = 64 << 10;

fn plan() -> PartPlan {
    PartPlan {
        part_size: PART,
        in_flight: 2,
        budget: 3 * PART,
        archive_limit: u64::MAX,
        archive_capacity: u64::MAX,
        capped: false,
    }
}

struct Run {
    uploader: Uploader,
    budget: Budget,
    cancel: CancellationToken,
    limits: Limits,
    threads: usize,
}

impl Run {
    fn on(store: Arc<dyn ObjectStore>) -> Self {
        let cancel = CancellationToken::new();
        let limits = store.info().limits;
        let options = PutOptions::default();
        let uploader = Uploader::new(store, options, 2, cancel.clone(), Arc::new(Silent));
        Self {
            uploader,
            budget: Budget::new(plan().budget),
            cancel,
            limits,
            threads: 1,
        }
    }

    fn options(&self, codec: &'static dyn Codec) -> LaneOptions {
        LaneOptions {
            codec,
            level: Level::Medium,
            threads: self.threads,
            plan: plan(),
            limits: self.limits,
            budget: self.budget.clone(),
            cancel: self.cancel.clone(),
        }
    }

    /// Writes archives of these sizes; the lane ends early where it must.
    async fn archives(&self, codec: &'static dyn Codec, sizes: &'static [usize]) {
        let (options, uploader) = (self.options(codec), self.uploader.clone());
        let runtime = Handle::current();
        let work = move || -> std::io::Result<()> {
            let mut lane = Lane::new(&options, &uploader, runtime);
            for (number, size) in sizes.iter().enumerate() {
                lane.begin(Key::new(format!("archive{number}")).unwrap(), None, 0)?;
                for piece in content(*size).chunks(10_000) {
                    lane.write_all(piece)?;
                }
                lane.end()?;
            }
            Ok(())
        };
        let _ = tokio::task::spawn_blocking(work).await.unwrap();
    }
}

fn content(size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    fastrand::Rng::with_seed(size as u64).fill(&mut bytes);
    bytes
}

const SIZES: &[usize] = &[0, 1, 65_536, 65_537, 1_000_000];

#[tokio::test]
async fn archives_arrive_whole_in_one_put_or_in_many_parts() {
    let threads = [1, 3].iter().flat_map(|threads| {
        let codecs = codec::CODECS.iter();
        codecs.map(move |codec| (codec, *threads))
    });
    for (codec, threads) in threads {
        let memory = MemoryStore::new();
        let mut run = Run::on(Arc::new(memory.clone()));
        run.threads = threads;
        // Without compression there is no archive of no bytes at all.
        let sizes = if codec.info().name == "none" {
            &SIZES[1..]
        } else {
            SIZES
        };
        run.archives(*codec, sizes).await;
        let report = run.uploader.finish().await.unwrap();
        assert_eq!(report.archives.len(), sizes.len());
        for (receipt, size) in report.archives.iter().zip(sizes) {
            let stored = &memory.contents()[receipt.key.as_str()];
            assert_eq!(receipt.bytes, stored.len() as u64);
            let mut plain = Vec::new();
            let input = Box::new(std::io::Cursor::new(stored.to_vec()));
            std::io::Read::read_to_end(&mut codec.decoder(input).unwrap(), &mut plain).unwrap();
            assert!(plain == content(*size), "{} {size}", codec.info().name);
        }
        assert_eq!(
            run.budget.available(),
            run.budget.total(),
            "all memory came back"
        );
        assert!(memory.open_uploads().is_empty());
    }
}

/// The budget has one part, as it is with an archive that begins with an enormous
/// member.
#[tokio::test]
async fn parts_as_large_as_the_budget_are_sent_one_after_the_other() {
    let memory = MemoryStore::new();
    let mut run = Run::on(Arc::new(memory.clone()));
    run.budget = Budget::new(PART);
    let work = async {
        run.archives(&codec::None, &[300_000]).await;
        run.uploader.finish().await.unwrap()
    };
    // Not a bound of time: what waits for itself waits for ever.
    let report = tokio::time::timeout(std::time::Duration::from_mins(1), work).await;
    run.cancel.cancel();
    let report = report.expect("it does not wait for itself");
    assert_eq!(report.archives[0].bytes, 300_000);
    assert_eq!(memory.contents()["archive0"].len(), 300_000);
}

#[tokio::test]
async fn a_failure_anywhere_is_reported_and_leaves_no_upload_open() {
    let kind = StoreErrorKind::PermissionDenied;
    for op in [
        StoreOp::Put,
        StoreOp::BeginMultipart,
        StoreOp::PutPart,
        StoreOp::Complete,
    ] {
        for fault in [Fault::Before(kind), Fault::After(kind)] {
            let memory = MemoryStore::new();
            let faulty = FaultyStore::new(Arc::new(memory.clone()));
            faulty.fail(op, fault, 1);
            let run = Run::on(Arc::new(faulty));
            run.archives(&codec::None, &SIZES[1..]).await;
            let error = run.uploader.finish().await.unwrap_err();
            let TransferError::Store(error) = error else {
                panic!("{op:?}: {error}")
            };
            assert_eq!((error.op, error.kind), (op, kind));
            // The answer of the beginning is lost: what was begun then can be
            // named by nobody.
            let orphan = op == StoreOp::BeginMultipart && fault == Fault::After(kind);
            assert_eq!(
                memory.open_uploads().len(),
                usize::from(orphan),
                "{op:?} {fault:?}"
            );
            assert!(run.cancel.is_cancelled(), "everybody else is told");
        }
    }
}

/// However early the store stops answering, no archive is taken for whole that
/// is not.
#[tokio::test]
async fn a_store_that_dies_after_any_call_is_never_success() {
    let counting = FaultyStore::new(Arc::new(MemoryStore::new()));
    let run = Run::on(Arc::new(counting.clone()));
    run.archives(&codec::None, &SIZES[1..]).await;
    run.uploader.finish().await.unwrap();
    let calls = counting.calls().len();
    assert!(calls > 10);
    for after in 0..calls {
        let memory = MemoryStore::new();
        let run = Run::on(Arc::new(
            FaultyStore::new(Arc::new(memory.clone())).die_after(after),
        ));
        run.archives(&codec::None, &SIZES[1..]).await;
        assert!(
            run.uploader.finish().await.is_err(),
            "died after {after} of {calls} calls"
        );
        for (name, stored) in memory.contents() {
            let number: usize = name.strip_prefix("archive").unwrap().parse().unwrap();
            assert!(
                stored == content(SIZES[1 + number]),
                "{name} is visible and not whole"
            );
        }
    }
}

#[tokio::test]
async fn a_lane_that_dies_leaves_nothing_visible() {
    let memory = MemoryStore::new();
    let run = Run::on(Arc::new(memory.clone()));
    let (options, uploader, runtime) = (
        run.options(&codec::None),
        run.uploader.clone(),
        Handle::current(),
    );
    tokio::task::spawn_blocking(move || {
        let mut lane = Lane::new(&options, &uploader, runtime);
        lane.begin(Key::new("archive").unwrap(), None, 0).unwrap();
        lane.write_all(&content(500_000)).unwrap();
        // Dropped here, as by an error or a panic.
    })
    .await
    .unwrap();
    assert!(matches!(
        run.uploader.finish().await,
        Err(TransferError::Cancelled)
    ));
    assert!(memory.contents().is_empty() && memory.open_uploads().is_empty());
    assert_eq!(
        run.budget.available(),
        run.budget.total(),
        "all memory came back"
    );
}

/// Nothing came out yet of what the threads of an encoder are at, and yet it is in
/// the archive.
#[tokio::test]
async fn what_is_inside_an_encoder_counts_for_the_size_of_its_archive() {
    const MIB: u64 = 1 << 20;
    let mut run = Run::on(Arc::new(MemoryStore::new()));
    run.threads = 4;
    let mut options = run.options(codec::by_name("gzip").unwrap());
    options.limits.max_parts = 24;
    options.plan.part_size = MIB;
    options.budget = Budget::new(3 * MIB);
    let (uploader, runtime) = (run.uploader.clone(), Handle::current());
    let work = move || {
        let mut lane = Lane::new(&options, &uploader, runtime);
        lane.begin(Key::new("archive").unwrap(), None, 0).unwrap();
        assert!(lane.bytes_out() == 0 && lane.fits(7 * MIB) && !lane.fits(8 * MIB));
        lane.write_all(&content(1 << 20)).unwrap();
        // Of the first blocks nothing is known but that they hardly grow.
        assert_eq!(lane.bytes_out(), MIB);
        assert!(lane.fits(6 * MIB) && !lane.fits(7 * MIB));
        lane.end().unwrap();
        lane.begin(Key::new("second").unwrap(), None, 0).unwrap();
        lane.write_all(&vec![0; 8 << 20]).unwrap();
        // Zeroes shrink to a thousandth, and so will those that are inside.
        assert!(lane.bytes_out() < MIB / 10, "{}", lane.bytes_out());
        lane.write_all(&content(2 << 20)).unwrap();
        let before = lane.bytes_out();
        lane.end().unwrap();
        before
    };
    let before = tokio::task::spawn_blocking(work).await.unwrap();
    let report = run.uploader.finish().await.unwrap();
    // Noise is taken for zeroes while it is inside: by that much it is too little.
    let sizes: Vec<u64> = report.archives.iter().map(|done| done.bytes).collect();
    assert!(sizes[0] > MIB && before <= sizes[1] && sizes[1] <= before + 2 * MIB);
}

/// The encoder's threads, its blocks and its part are given back.
#[tokio::test]
async fn a_store_that_fails_under_several_threads_is_no_success() {
    for codec in codec::CODECS {
        let memory = MemoryStore::new();
        let faulty = FaultyStore::new(Arc::new(memory.clone())).die_after(3);
        let mut run = Run::on(Arc::new(faulty));
        run.threads = 2;
        run.archives(*codec, &[20_000_000]).await;
        assert!(run.uploader.finish().await.is_err());
        assert_eq!(run.budget.available(), run.budget.total());
        assert!(memory.contents().is_empty());
    }
}

#[tokio::test]
async fn a_request_to_stop_ends_uploads_and_frees_their_parts() {
    let memory = MemoryStore::new();
    let run = Run::on(Arc::new(memory.clone()));
    run.cancel.cancel();
    run.archives(&codec::None, &SIZES[1..]).await;
    assert!(matches!(
        run.uploader.finish().await,
        Err(TransferError::Cancelled)
    ));
    assert!(memory.contents().is_empty() && memory.open_uploads().is_empty());
}

/// The request that begins an upload is on its way when somebody asks to stop.
#[tokio::test]
async fn an_upload_that_is_just_begun_is_aborted_too() {
    let memory = MemoryStore::new();
    let faulty = FaultyStore::new(Arc::new(memory.clone()));
    faulty.fail(StoreOp::BeginMultipart, Fault::Late(1000), 1);
    let run = Run::on(Arc::new(faulty.clone()));
    let stop = async {
        while faulty.count(StoreOp::BeginMultipart) == 0 {
            tokio::task::yield_now().await;
        }
        run.cancel.cancel();
    };
    tokio::join!(run.archives(&codec::None, &SIZES[4..]), stop);
    assert!(matches!(
        run.uploader.finish().await,
        Err(TransferError::Cancelled)
    ));
    assert_eq!(faulty.count(StoreOp::Abort), 1);
    assert!(memory.open_uploads().is_empty());
}

#[tokio::test]
async fn a_download_is_read_to_the_byte_or_fails() {
    let memory = MemoryStore::new();
    let body = content(1_000_000);
    memory.insert("object", body.clone());
    let faulty = FaultyStore::new(Arc::new(memory));
    let store: Arc<dyn ObjectStore> = Arc::new(faulty.clone());
    let reporter: Arc<dyn crate::report::Reporter> = Arc::new(Silent);
    let read = async || {
        let key = Key::new("object").unwrap();
        let cancel = CancellationToken::new();
        let (_, mut reader, failure) = open_download(&store, &key, &cancel, &reporter)
            .await
            .unwrap();
        tokio::task::spawn_blocking(move || {
            let mut bytes = Vec::new();
            let read = std::io::Read::read_to_end(&mut reader, &mut bytes);
            (read.map(|_| bytes), failure.take())
        })
        .await
        .unwrap()
    };
    let (bytes, failure) = read().await;
    assert!(bytes.unwrap() == body && failure.is_none());
    faulty.fail(StoreOp::Get, Fault::CutBody(300_000), 1);
    let (bytes, failure) = read().await;
    assert!(bytes.is_err());
    assert_eq!(
        failure.unwrap().kind,
        StoreErrorKind::Connect,
        "the store's own error is kept"
    );
}

const RANGE: u64 = 4 << 20;

/// A large object read in ranges by so many jobs.
async fn read_in_ranges(
    store: &Arc<dyn ObjectStore>,
    (jobs, stride): (u32, Stride),
    expected: u64,
) -> (std::io::Result<Vec<u8>>, Option<crate::store::StoreError>) {
    let downloads = Downloads::new(Arc::clone(store), jobs, Arc::new(Silent));
    let key = Key::new("object").unwrap();
    let cancel = CancellationToken::new();
    let opened = downloads.open(&key, expected, stride, &cancel).await;
    let (_, mut reader, failure) = opened.unwrap();
    // A thread of the runtime would hold up a clock that stands still.
    let (done, read) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = std::io::Read::read_to_end(&mut reader, &mut bytes);
        done.send((read.map(|_| bytes), failure.take()))
    });
    read.await.unwrap()
}

#[tokio::test]
async fn ranges_side_by_side_come_in_order_and_small_objects_by_one_request() {
    for (size, jobs, stride, requests) in [
        (4 * RANGE, 4, Stride::Long, 1),
        (4 * RANGE + 1, 4, Stride::Long, 5),
        (5 * RANGE, 2, Stride::Long, 5),
        (6 * RANGE - 7, 7, Stride::Long, 6),
        (6 * RANGE, 1, Stride::Long, 1),
        (4 * RANGE, 4, Stride::Short, 1),
        (4 * RANGE + 1, 2, Stride::Short, 17),
        (5 * RANGE - 1, 9, Stride::Short, 20),
    ] {
        let memory = MemoryStore::new();
        let body = content(usize::try_from(size).unwrap());
        memory.insert("object", body.clone());
        let faulty = FaultyStore::new(Arc::new(memory));
        let store: Arc<dyn ObjectStore> = Arc::new(faulty.clone());
        let (bytes, failure) = read_in_ranges(&store, (jobs, stride), size).await;
        assert!(bytes.unwrap() == body && failure.is_none(), "{size} {jobs}");
        assert_eq!(faulty.count(StoreOp::Get), requests, "{size} {jobs}");
    }
}

/// Cuts at every byte are what `store::retry` tests; here the ranges are the real ones, each
/// cut somewhere.
#[tokio::test(start_paused = true)]
async fn a_range_that_is_cut_goes_on_at_its_next_byte() {
    let memory = MemoryStore::new();
    let body = content(5 * usize::try_from(RANGE).unwrap());
    memory.insert("object", body.clone());
    let faulty = FaultyStore::new(Arc::new(memory));
    let policy = crate::store::RetryPolicy::per_request(std::time::Duration::from_mins(10));
    let retry = crate::store::Retry::new(Arc::new(faulty.clone()), policy);
    let store: Arc<dyn ObjectStore> = Arc::new(retry);
    for cut in [0, 1, 65_535, 65_536, RANGE - 1, RANGE] {
        faulty.fail(StoreOp::Get, Fault::CutBody(cut), 4);
        faulty.fail(StoreOp::Get, Fault::ShortBody(cut), 4);
        let (bytes, failure) = read_in_ranges(&store, (3, Stride::Long), 5 * RANGE).await;
        assert!(bytes.unwrap() == body && failure.is_none(), "{cut}");
    }
}

#[tokio::test]
async fn an_object_that_changes_between_its_ranges_is_corrupt() {
    for gone in [true, false] {
        let memory = MemoryStore::new();
        let size = 20 * usize::try_from(RANGE).unwrap();
        memory.insert("object", content(size));
        let store: Arc<dyn ObjectStore> = Arc::new(memory.clone());
        let downloads = Downloads::new(Arc::clone(&store), 2, Arc::new(Silent));
        let key = Key::new("object").unwrap();
        let cancel = CancellationToken::new();
        let opened = downloads
            .open(&key, size as u64, Stride::Long, &cancel)
            .await;
        let (_, mut reader, failure) = opened.unwrap();
        // At most four ranges were asked for: nothing was read yet.
        if gone {
            memory.remove("object");
        } else {
            memory.insert("object", content(size + 1));
        }
        let read = tokio::task::spawn_blocking(move || {
            std::io::Read::read_to_end(&mut reader, &mut Vec::new())
        });
        assert!(read.await.unwrap().is_err());
        assert_eq!(failure.take().unwrap().kind, StoreErrorKind::Corrupt);
    }
}

/// However many there are, and however slowly they are read, the ranges in memory are
/// bounded, and no download stands in the way of another.
#[tokio::test]
async fn downloads_share_their_room_and_end_in_any_order() {
    let memory = MemoryStore::new();
    let size = 10 * usize::try_from(RANGE).unwrap();
    let names = ["a", "b", "c"];
    for name in names {
        memory.insert(name, content(size));
    }
    let faulty = FaultyStore::new(Arc::new(memory));
    let store: Arc<dyn ObjectStore> = Arc::new(faulty.clone());
    let downloads = Downloads::new(store, 3, Arc::new(Silent));
    let cancel = CancellationToken::new();
    let mut readers = Vec::new();
    for name in names {
        let key = Key::new(name).unwrap();
        let opened = downloads
            .open(&key, size as u64, Stride::Long, &cancel)
            .await
            .unwrap();
        readers.push(opened.1);
    }
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert!(
        faulty.count(StoreOp::Get) <= 6,
        "{}",
        faulty.count(StoreOp::Get)
    );
    // The last one first, and one that nobody reads to its end.
    drop(readers.remove(0));
    while let Some(mut reader) = readers.pop() {
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut reader, &mut bytes).map(|_| bytes)
        });
        assert!(read.await.unwrap().unwrap() == content(size));
    }
}
