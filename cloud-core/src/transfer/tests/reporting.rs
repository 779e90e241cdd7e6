//! What a reporter hears of uploads and downloads.

use std::io::Read as _;
use std::sync::Mutex;

use super::*;
use crate::report::{Phase, Reporter, Work};

/// Counts.
#[derive(Debug, Default)]
struct Heard(Mutex<Counts>);

#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Counts {
    begun: Vec<String>,
    done: Vec<String>,
    parts_begun: u32,
    parts_ended: u32,
    transferred: u64,
}

impl Reporter for Heard {
    fn begin(&self, _work: Work, _expected_bytes: Option<u64>) {}
    fn phase(&self, _phase: Phase) {}
    fn processed(&self, _bytes: u64) {}
    fn transferred(&self, bytes: u64) {
        self.0.lock().unwrap().transferred += bytes;
    }
    fn archive_begun(&self, name: &str) {
        self.0.lock().unwrap().begun.push(name.to_owned());
    }
    fn archive_done(&self, name: &str) {
        self.0.lock().unwrap().done.push(name.to_owned());
    }
    fn part_begun(&self) {
        self.0.lock().unwrap().parts_begun += 1;
    }
    fn part_ended(&self) {
        self.0.lock().unwrap().parts_ended += 1;
    }
    fn end(&self) {}
}

fn run(store: Arc<dyn ObjectStore>) -> (Run, Arc<Heard>) {
    let heard = Arc::new(Heard::default());
    let mut run = Run::on(Arc::clone(&store));
    let options = PutOptions::default();
    let reporter = Arc::clone(&heard) as Arc<dyn Reporter>;
    run.uploader = Uploader::new(store, options, 2, run.cancel.clone(), reporter);
    (run, heard)
}

#[tokio::test]
async fn every_archive_and_every_part_is_told_of() {
    let store: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new());
    let (run, heard) = run(Arc::clone(&store));
    // One in one piece, one in four parts.
    run.archives(&codec::None, &[1000, 200_000]).await;
    run.uploader.finish().await.unwrap();
    let names = ["archive0", "archive1"].map(str::to_owned).to_vec();
    let mut counts = heard.0.lock().unwrap().clone();
    counts.done.sort();
    let expected = Counts {
        begun: names.clone(),
        done: names,
        parts_begun: 5,
        parts_ended: 5,
        transferred: 201_000,
    };
    assert_eq!(counts, expected);

    let reporter = Arc::clone(&heard) as Arc<dyn Reporter>;
    let key = Key::new("archive1").unwrap();
    let opened = open_download(&store, &key, &run.cancel, &reporter).await;
    let (_, mut reader, _) = opened.unwrap();
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        bytes.len() as u64
    });
    let read = read.await.unwrap();
    let counts = heard.0.lock().unwrap().clone();
    assert_eq!(counts.transferred, 201_000 + read);
    assert_eq!(counts.parts_begun, 6);
}

/// A part that fails, and those that are given up with it, are in flight no more.
#[tokio::test]
async fn no_part_stays_in_flight_after_a_failure() {
    let store = FaultyStore::new(Arc::new(MemoryStore::new()));
    let fault = Fault::Before(StoreErrorKind::PermissionDenied);
    store.fail(StoreOp::PutPart, fault, 1);
    let (run, heard) = run(Arc::new(store));
    run.archives(&codec::None, &[2_000_000]).await;
    run.uploader.finish().await.unwrap_err();
    let counts = heard.0.lock().unwrap().clone();
    assert!(counts.parts_begun > 0);
    assert_eq!(counts.parts_begun, counts.parts_ended);
    assert_eq!((counts.begun.len(), counts.done.len()), (1, 0));
}
