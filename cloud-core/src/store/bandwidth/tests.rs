use futures_util::StreamExt;

use super::*;
use crate::store::{MemoryStore, conformance};

#[tokio::test(start_paused = true)]
async fn a_limited_store_does_what_every_store_must() {
    let store = Bandwidth::new(Arc::new(MemoryStore::new()), 1 << 30);
    conformance::all(Arc::new(store), "run").await;
}

#[tokio::test(start_paused = true)]
async fn all_uploads_share_the_limit_and_none_is_free() {
    let store = Bandwidth::new(Arc::new(MemoryStore::new()), 1000);
    let began = Instant::now();
    let options = PutOptions::default();
    let upload = async |name: &str| {
        let key = Key::new(name).unwrap();
        let upload = store.begin_multipart(&key, &options).await.unwrap();
        let part = upload
            .put_part(PartNumber::FIRST, vec![0; 3000].into())
            .await
            .unwrap();
        upload.complete(&[part]).await.unwrap();
        store
            .put(&key, vec![0; 2000].into(), &options)
            .await
            .unwrap();
    };
    tokio::join!(upload("a"), upload("b"), upload("c"));
    assert_eq!(began.elapsed().as_secs(), 15);
}

/// A line that is faster than the limit, but not without end: parts wait for one
/// another on it.
#[derive(Debug)]
struct Line {
    bytes_per_second: f64,
    free: tokio::sync::Mutex<()>,
    arrived: Mutex<Vec<(Instant, u64)>>,
}

#[derive(Debug)]
struct OverLine(Arc<Line>);

#[async_trait]
impl MultipartUpload for OverLine {
    async fn put_part(&self, number: PartNumber, body: Bytes) -> Result<PartReceipt> {
        let line = &self.0;
        let size = body.len() as u64;
        let _mine = line.free.lock().await;
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let takes = Duration::from_secs_f64(size as f64 / line.bytes_per_second);
        // Timers count whole milliseconds, what is shorter happens at once.
        if takes >= Duration::from_millis(1) {
            tokio::time::sleep(takes).await;
        }
        line.arrived.lock().unwrap().push((Instant::now(), size));
        Ok(PartReceipt {
            number,
            size,
            token: String::new(),
        })
    }

    async fn complete(&self, _parts: &[PartReceipt]) -> Result<PutReceipt> {
        Ok(PutReceipt { version: None })
    }

    async fn abort(&self) -> Result<()> {
        Ok(())
    }
}

/// Sends `parts` parts of `size` bytes, `jobs` at a time, and says when they arrived.
async fn send(rate: u64, size: usize, jobs: usize, faster: f64, parts: u32) -> Vec<(Instant, u64)> {
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let bytes_per_second = rate as f64 * faster;
    let line = Arc::new(Line {
        bytes_per_second,
        free: tokio::sync::Mutex::default(),
        arrived: Mutex::default(),
    });
    let upload = LimitedUpload {
        inner: Box::new(OverLine(Arc::clone(&line))),
        clock: Arc::new(Clock {
            bytes_per_second: rate,
            booked: Mutex::default(),
        }),
    };
    let body = Bytes::from(vec![0; size]);
    futures_util::stream::iter(1..=parts)
        .for_each_concurrent(jobs, |number| {
            let sent = upload.put_part(PartNumber::new(number).unwrap(), body.clone());
            async { drop(sent.await.unwrap()) }
        })
        .await;
    let arrived = line.arrived.lock().unwrap();
    arrived.clone()
}

/// `--max-bandwidth` is what goes over the line, to 5 %: over all parts, and over any
/// few seconds in which there are parts enough to say so.
#[tokio::test(start_paused = true)]
async fn the_rate_is_true_to_5_percent() {
    const MB: u64 = 1_000_000;
    for rate in [MB / 2, 10 * MB, 125 * MB, 400 * MB] {
        for size in [64 << 10, 5 << 20, 10 << 20] {
            for jobs in [1, 2, 8] {
                for faster in [1.25, 2.0, 100.0] {
                    let one = size as u64;
                    let parts = u32::try_from((8 * rate / one).max(60)).unwrap();
                    let began = Instant::now();
                    let arrived = send(rate, size, jobs, faster, parts).await;
                    let case = format!("{rate} B/s, {jobs} parts of {size}, line {faster}");
                    let close = |bytes: u64, time: Duration| {
                        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
                        let ratio = bytes as f64 / time.as_secs_f64() / rate as f64;
                        assert!((0.95..=1.05).contains(&ratio), "{case}: {ratio}");
                    };
                    // The last ones are still on the line when all are booked.
                    let until = arrived.len() - jobs;
                    close(until as u64 * one, arrived[until - 1].0 - began);
                    // Two ends of a window that may each be one part off.
                    let window = Duration::from_secs(3).max(
                        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
                        Duration::from_secs_f64(45.0 * one as f64 / rate as f64),
                    );
                    let mut end = 0;
                    for start in 0..until {
                        while end < until && arrived[end].0 - arrived[start].0 < window {
                            end += 1;
                        }
                        if end == until {
                            break;
                        }
                        let bytes = (end - start) as u64 * one;
                        close(bytes, arrived[end].0 - arrived[start].0);
                    }
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn small_pieces_are_read_at_the_rate_too() {
    let store = MemoryStore::new();
    store.insert("object", vec![0; 64 << 20]);
    let limited = Bandwidth::new(Arc::new(store), 100 << 20);
    let began = Instant::now();
    let key = Key::new("object").unwrap();
    let mut download = limited.get(&key, &ReadRange::all()).await.unwrap();
    let mut read = 0;
    while let Some(piece) = download.body.next().await {
        read += piece.unwrap().len();
    }
    assert_eq!(read, 64 << 20);
    let took = began.elapsed().as_millis();
    assert!((608..=672).contains(&took), "{took} ms");
}

/// After a pause there is no burst beyond the part that a part in flight is worth.
#[test]
fn a_pause_is_not_made_up_for() {
    let second = Duration::from_secs(1);
    let began = Instant::now();
    let mut booked = Booked::default();
    assert_eq!(booked.book(began, second), began + second);
    // The line was in use for half a second: that is not lost.
    let now = began + second * 3 / 2;
    assert_eq!(booked.book(now, second), began + second * 2);
    let later = began + Duration::from_mins(1);
    assert_eq!(booked.book(later, second), later);
    assert_eq!(booked.book(later, second), later + second);
}
