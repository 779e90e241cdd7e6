//! A connection that ends when no byte has moved for too long.
//!
//! Measured where the bytes pass, below TLS and HTTP: a slow upload or download
//! lives as long as it progresses, and a stalled one ends in whatever phase it
//! stalls, be it that the server does not read, does not answer or stops in the
//! middle of an answer. The SDK's own read timeout bounds the time to the first
//! byte of the answer, and so the whole upload of a large part.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use tokio::time::{Instant, Sleep};

use super::error::ConnectError;
use crate::store::StoreErrorKind;

/// In place of a time too long to be counted.
const FOR_EVER: Duration = Duration::from_hours(24 * 365 * 30);

/// `inner`, with a limit on the time without progress. For use by one task, which
/// is the one that is woken when the time is over.
#[derive(Debug)]
pub(super) struct Idle<T> {
    inner: T,
    limit: Duration,
    /// Runs while something is waited for.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<T> Idle<T> {
    pub(super) fn new(inner: T, limit: Duration) -> Self {
        Self {
            inner,
            limit,
            timer: None,
        }
    }

    /// Looks at the clock after an attempt to read or to write.
    fn check<R>(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<R>>,
    ) -> Poll<io::Result<R>> {
        let now = Instant::now();
        // `--read-timeout` may be longer than any clock can count.
        let end = now.checked_add(self.limit).unwrap_or(now + FOR_EVER);
        if result.is_ready() {
            // The other direction may be waiting still, and is not asked again
            // before something happens: its clock starts anew and goes on.
            if let Some(timer) = &mut self.timer {
                timer.as_mut().reset(end);
                let _ = timer.as_mut().poll(cx);
            }
            return result;
        }
        let limit = self.limit;
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(end)));
        if timer.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        // Nobody looked when the time was over: we were the slow side, paused
        // by whoever takes the bytes. The waiting begins now.
        if Instant::now() > timer.deadline() + limit / 4 {
            timer.as_mut().reset(end);
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
        Poll::Ready(Err(stalled(limit)))
    }
}

/// The error of a connection on which nothing moved for `limit`.
fn stalled(limit: Duration) -> io::Error {
    let text = format!(
        "the connection stalled: no byte for {} seconds (--read-timeout)",
        limit.as_secs_f64()
    );
    let error = ConnectError::new(StoreErrorKind::Timeout, text);
    io::Error::new(io::ErrorKind::TimedOut, error)
}

impl<T: Read + Unpin> Read for Idle<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.inner).poll_read(cx, buf);
        self.check(cx, result)
    }
}

impl<T: Write + Unpin> Write for Idle<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.check(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.check(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl<T: Connection> Connection for Idle<T> {
    fn connected(&self) -> Connected {
        self.inner.connected()
    }
}

#[cfg(test)]
mod tests {
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    const LIMIT: Duration = Duration::from_mins(1);

    const ALMOST: Duration = Duration::from_secs(59);

    /// Our side, limited, and the other one. 8 bytes fit in between.
    fn pair() -> (TokioIo<Idle<TokioIo<DuplexStream>>>, DuplexStream) {
        let (ours, theirs) = duplex(8);
        (TokioIo::new(Idle::new(TokioIo::new(ours), LIMIT)), theirs)
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_a_read_and_a_full_pipe_ends_a_write() {
        let (mut ours, theirs) = pair();
        let error = ours.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let (mut ours, _theirs) = (pair().0, theirs);
        let (mut full, _other) = pair();
        let error = full.write_all(&[0; 9]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        // The other side is gone: that is no silence.
        assert_ne!(
            ours.read_u8().await.unwrap_err().kind(),
            io::ErrorKind::TimedOut
        );
    }

    #[tokio::test]
    async fn a_limit_beyond_all_clocks_is_none() {
        let (ours, mut theirs) = duplex(8);
        let mut ours = TokioIo::new(Idle::new(TokioIo::new(ours), Duration::MAX));
        theirs.write_u8(7).await.unwrap();
        assert_eq!(ours.read_u8().await.unwrap(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_peer_is_waited_for() {
        let (mut ours, mut theirs) = pair();
        let slowly = tokio::spawn(async move {
            for byte in 0..10 {
                tokio::time::sleep(ALMOST).await;
                theirs.write_u8(byte).await.unwrap();
            }
        });
        for byte in 0..10 {
            assert_eq!(ours.read_u8().await.unwrap(), byte);
        }
        slowly.await.unwrap();
    }

    /// While the answer is waited for, bytes that are sent count as progress,
    /// and the silence after the last of them is noticed though only the read
    /// waits.
    #[tokio::test(start_paused = true)]
    async fn sending_is_progress_for_the_side_that_waits() {
        let (ours, mut theirs) = pair();
        let (mut read, mut write) = tokio::io::split(ours);
        let begin = Instant::now();
        let takes = tokio::spawn(async move {
            for _ in 0..5 {
                tokio::time::sleep(ALMOST).await;
                theirs.read_exact(&mut [0; 8]).await.unwrap();
            }
            theirs
        });
        // In one task, as HTTP does it.
        let (answer, sent) = tokio::join!(read.read_u8(), write.write_all(&[0; 40]));
        sent.unwrap();
        let _theirs = takes.await.unwrap();
        let error = answer.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(begin.elapsed() > 4 * LIMIT, "{:?}", begin.elapsed());
    }

    /// Whoever reads may pause for longer than the limit.
    #[tokio::test(start_paused = true)]
    async fn our_own_pause_is_not_held_against_the_peer() {
        let (mut ours, mut theirs) = pair();
        // Begins to wait, so that the clock runs, and turns away.
        let first = tokio::time::timeout(Duration::from_secs(1), ours.read_u8()).await;
        assert!(first.is_err());
        tokio::time::sleep(10 * LIMIT).await;
        let answers = tokio::spawn(async move {
            tokio::time::sleep(LIMIT / 2).await;
            theirs.write_u8(7).await.unwrap();
            theirs
        });
        assert_eq!(ours.read_u8().await.unwrap(), 7);
        answers.await.unwrap();
    }
}
