//! Uploads in parts as resumable uploads.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

const GRAIN: usize = 256 << 10;

/// A service that knows no XML API. It takes uploads as the real one does, but
/// only as `misbehave` lets it.
struct Service {
    server: Server,
    bytes: Arc<Mutex<Vec<u8>>>,
}

impl Service {
    fn start(
        misbehave: impl Fn(&Request, &mut Vec<u8>) -> Option<Answer> + Send + Sync + 'static,
    ) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let taken = Arc::clone(&bytes);
        let server = Server::start(move |request| {
            let mut taken = taken.lock().unwrap();
            misbehave(request, &mut taken).unwrap_or_else(|| answer(request, &mut taken))
        });
        Self { server, bytes }
    }

    async fn begin(&self, options: &PutOptions) -> Box<dyn MultipartUpload> {
        let store = store(&self.server);
        store.begin_multipart(&key(), options).await.unwrap()
    }

    /// The `Content-Range` of all that was sent.
    fn ranges(&self) -> Vec<String> {
        let requests = self.server.requests().into_iter();
        let ranges = requests.filter_map(|one| Some(one.header("content-range")?.to_owned()));
        ranges.collect()
    }
}

fn answer(request: &Request, taken: &mut Vec<u8>) -> Answer {
    let host = request.header("host").unwrap();
    match request.method.as_str() {
        "POST" if request.asks("uploads") => Answer::new(501),
        "POST" => Answer::new(200).header("location", &format!("http://{host}/session?id=secret")),
        "DELETE" => Answer::new(499),
        "GET" => refusal(404, "notFound", "No such object: bucket/k"),
        _ => take(request, taken, request.body.len()),
    }
}

/// Takes the first `most` bytes of a request.
fn take(request: &Request, taken: &mut Vec<u8>, most: usize) -> Answer {
    let range = request.header("content-range").unwrap();
    let (range, total) = range
        .strip_prefix("bytes ")
        .unwrap()
        .split_once('/')
        .unwrap();
    if let Some((first, _)) = range.split_once('-') {
        let first: usize = first.parse().unwrap();
        assert!(
            first <= taken.len(),
            "{range}: there are {} bytes",
            taken.len()
        );
        // What is there already is passed over.
        taken.truncate(first);
        taken.extend(&request.body[..most]);
    }
    if total == taken.len().to_string() {
        let sum = put::printed(crc32c::crc32c(taken));
        let sent = request.header("x-goog-hash").unwrap();
        assert_eq!(sent, format!("crc32c={sum}"));
        return json(200, &json!({"generation": "19", "crc32c": sum}));
    }
    let answer = Answer::new(308);
    match taken.len() {
        0 => answer,
        size => answer.header("range", &format!("bytes=0-{}", size - 1)),
    }
}

fn bytes(size: usize, first: u8) -> Bytes {
    (0..size)
        .map(|n| first.wrapping_add(u8::try_from(n % 251).unwrap()))
        .collect()
}

#[tokio::test]
async fn parts_become_one_stream_of_whole_grains() {
    let service = Service::start(|_, _| None);
    let options = PutOptions {
        mode: PutMode::CreateOnly,
        ..tagged(&[("a key: odd", "v")])
    };
    let upload = service.begin(&options).await;
    let bodies = [bytes(GRAIN + 10, 1), bytes(20, 2), bytes(GRAIN, 3)];
    let mut receipts = Vec::new();
    for (number, body) in (1..).zip(&bodies) {
        receipts.push(upload.put_part(part(number), body.clone()).await.unwrap());
    }
    let receipt = upload.complete(&receipts).await.unwrap();
    assert_eq!(receipt.version, Some(ObjectVersion("19".into())));
    assert_eq!(*service.bytes.lock().unwrap(), bodies.concat());
    let total = 2 * GRAIN + 30;
    assert_eq!(
        service.ranges(),
        [
            format!("bytes 0-{}/*", GRAIN - 1),
            format!("bytes {GRAIN}-{}/{total}", total - 1),
        ]
    );
    let requests = service.server.requests();
    let begun = requests
        .iter()
        .find(|one| one.path().starts_with("/upload"))
        .unwrap();
    assert!(begun.asks("uploadType=resumable") && begun.asks("ifGenerationMatch=0"));
    let described: serde_json::Value = serde_json::from_slice(&begun.body).unwrap();
    assert_eq!(described["metadata"], json!({"a key: odd": "v"}));
    assert!(!format!("{upload:?}").contains("secret"));
}

#[tokio::test]
async fn bytes_are_sent_again_from_the_last_that_was_confirmed() {
    let turn = Mutex::new(0);
    let service = Service::start(move |request, taken| {
        if request.method != "PUT" {
            return None;
        }
        let mut turn = turn.lock().unwrap();
        *turn += 1;
        match *turn {
            // Half of it, as the service may.
            1 => Some(take(request, taken, GRAIN)),
            // Taken, but the answer is lost.
            2 => {
                take(request, taken, request.body.len());
                Some(Answer::new(308).body("lost").cut(0))
            }
            _ => None,
        }
    });
    let upload = service.begin(&PutOptions::default()).await;
    let bodies = [bytes(3 * GRAIN, 1), bytes(5, 2)];
    let first = upload.put_part(part(1), bodies[0].clone()).await.unwrap();
    let lost = upload
        .put_part(part(2), bodies[1].clone())
        .await
        .unwrap_err();
    assert_eq!(lost.kind, StoreErrorKind::Connect);
    let second = upload.put_part(part(2), bodies[1].clone()).await.unwrap();
    upload.complete(&[first, second]).await.unwrap();
    assert_eq!(*service.bytes.lock().unwrap(), bodies.concat());
    assert_eq!(service.ranges()[1], service.ranges()[2]);
}

#[tokio::test]
async fn parts_may_come_in_any_order_and_again() {
    let service = Service::start(|_, _| None);
    let upload = service.begin(&PutOptions::default()).await;
    let bodies = [bytes(GRAIN, 1), bytes(GRAIN, 2), bytes(7, 3)];
    upload.put_part(part(2), bytes(99, 9)).await.unwrap();
    let third = upload.put_part(part(3), bodies[2].clone()).await.unwrap();
    let second = upload.put_part(part(2), bodies[1].clone()).await.unwrap();
    let first = upload.put_part(part(1), bodies[0].clone()).await.unwrap();
    // Sent already, and the same.
    let again = upload.put_part(part(1), bodies[0].clone()).await.unwrap();
    assert_eq!(again, first);
    upload.complete(&[first, second, third]).await.unwrap();
    assert_eq!(*service.bytes.lock().unwrap(), bodies.concat());
}

#[tokio::test]
async fn what_cannot_be_one_stream_is_refused() {
    let service = Service::start(|_, _| None);
    let upload = service.begin(&PutOptions::default()).await;
    let receipt = upload.put_part(part(2), BODY).await.unwrap();
    let gap = upload.complete(&[receipt]).await.unwrap_err();
    assert_eq!(gap.kind, StoreErrorKind::Invalid);
    let first = upload.put_part(part(1), bytes(GRAIN, 1)).await.unwrap();
    let other = upload
        .complete(std::slice::from_ref(&first))
        .await
        .unwrap_err();
    assert_eq!(other.kind, StoreErrorKind::Invalid);
    let late = upload.put_part(part(1), BODY).await.unwrap_err();
    assert_eq!(late.kind, StoreErrorKind::Unsupported);
    upload.abort().await.unwrap();
    upload.abort().await.unwrap();
    let over = upload.put_part(part(3), BODY).await.unwrap_err();
    assert_eq!(over.kind, StoreErrorKind::NotFound);
}

/// Memory stays bounded: while a part is in trouble, the later ones wait for it,
/// and do not pile up.
#[tokio::test]
async fn a_later_part_waits_for_one_that_is_tried_again() {
    let down = Arc::new(AtomicBool::new(true));
    let is_down = Arc::clone(&down);
    let service = Service::start(move |request, _| {
        let refuse = request.method == "PUT" && is_down.load(Ordering::Relaxed);
        refuse.then(|| refusal(503, "backendError", "later"))
    });
    let upload: Arc<dyn MultipartUpload> = service.begin(&PutOptions::default()).await.into();
    let first = upload.put_part(part(1), bytes(GRAIN, 1)).await.unwrap();
    let failed = upload.put_part(part(2), BODY).await.unwrap_err();
    assert_eq!(failed.kind, StoreErrorKind::ServerFault);
    let waiting = Arc::clone(&upload);
    let third = tokio::spawn(async move { waiting.put_part(part(3), BODY).await });
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!third.is_finished());
    down.store(false, Ordering::Relaxed);
    let second = upload.put_part(part(2), BODY).await.unwrap();
    let third = third.await.unwrap().unwrap();
    upload.complete(&[first, second, third]).await.unwrap();
    assert_eq!(service.bytes.lock().unwrap().len(), GRAIN + 18);
}

#[tokio::test]
async fn an_abort_ends_the_waiting() {
    let service = Service::start(|request, _| {
        let refuse = request.method == "PUT";
        refuse.then(|| refusal(503, "backendError", "later"))
    });
    let upload: Arc<dyn MultipartUpload> = service.begin(&PutOptions::default()).await.into();
    upload.put_part(part(1), bytes(GRAIN, 1)).await.unwrap();
    upload.put_part(part(2), BODY).await.unwrap_err();
    let waiting = Arc::clone(&upload);
    let third = tokio::spawn(async move { waiting.put_part(part(3), BODY).await });
    tokio::task::yield_now().await;
    upload.abort().await.unwrap();
    let error = third.await.unwrap().unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::NotFound);
}

#[tokio::test]
async fn who_may_not_begin_an_upload_in_parts_may_perhaps_write() {
    for lack in [
        Answer::error(403, "AccessDenied", ""),
        refusal(400, "Bad Request", "invalid uploadType"),
        refusal(404, "Not Found", "Not Found"),
        Answer::new(405),
    ] {
        let service =
            Service::start(move |request, _| request.asks("uploads").then(|| lack.clone()));
        let store = store(&service.server);
        for _ in 0..2 {
            let upload = store.begin_multipart(&key(), &PutOptions::default()).await;
            let upload = upload.unwrap();
            let receipt = upload.put_part(part(1), BODY).await.unwrap();
            upload.complete(&[receipt]).await.unwrap();
        }
        // Learned once.
        assert_eq!(service.server.methods(), "POST POST PUT POST PUT");
    }
}
