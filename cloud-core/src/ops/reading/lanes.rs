//! Archives side by side: the store's requests are shared, each archive has threads of its own.

use std::future::Future;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{StreamExt, stream};
use tokio_util::sync::CancellationToken;

use super::pipeline::{Passage, Trouble};
use crate::catalogue::layout::{Archive, ArchiveBase};
use crate::codec;
use crate::ops::{Ctx, OpError, OpErrorKind};
use crate::report::Reporter;
use crate::store::ObjectStore;
use crate::transfer::{Downloads, Stride};

/// What the archives that are read side by side share.
pub(in crate::ops) struct Lanes {
    downloads: Downloads,
    /// Threads that decode one archive, where the codec has use for several.
    decoders: usize,
    reporter: Arc<dyn Reporter>,
    stop: CancellationToken,
    /// Bytes of archives that were read to their end, or to where they failed.
    fetched: AtomicU64,
}

impl Lanes {
    /// `jobs` requests at the same time, and as many threads that decode so many `archives`.
    /// `stop` ends all of them.
    pub(in crate::ops) fn new(
        ctx: &Ctx,
        store: &Arc<dyn ObjectStore>,
        jobs: NonZeroU32,
        archives: usize,
        stop: &CancellationToken,
    ) -> Self {
        let reporter = Arc::clone(&ctx.reporter);
        let threads = usize::try_from(jobs.get()).unwrap_or(usize::MAX);
        Self {
            decoders: threads / archives.clamp(1, threads),
            downloads: Downloads::new(Arc::clone(store), jobs.get(), Arc::clone(&reporter)),
            reporter,
            stop: stop.clone(),
            fetched: AtomicU64::new(0),
        }
    }

    /// Bytes that came from the store for archives that are over.
    pub(in crate::ops) fn fetched(&self) -> u64 {
        self.fetched.load(Ordering::Relaxed)
    }

    /// Opens an archive and gives it to `work` on a thread that may block. Who calls tells
    /// the reporter when it is done.
    pub(in crate::ops) async fn read<T: Send + 'static, E: Send + 'static>(
        &self,
        base: ArchiveBase,
        archive: &Archive,
        work: impl FnOnce(Passage) -> Result<T, Trouble<E>> + Send + 'static,
    ) -> Result<T, Trouble<E>> {
        if self.stop.is_cancelled() {
            return Err(Trouble::Stopped);
        }
        self.reporter.archive_begun(archive.key.base_name());
        // A token of its own: an archive that is given up stops its download.
        let cancel = self.stop.child_token();
        let _cancel = cancel.clone().drop_guard();
        let stride = match codec::by_suffix(&archive.suffix) {
            Some(codec) if codec.info().decoded_apart => Stride::Short,
            _ => Stride::Long,
        };
        let opened = self
            .downloads
            .open(&archive.key, archive.size, stride, &cancel);
        let opened = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Err(Trouble::Stopped),
            opened = opened => opened,
        };
        let (_, reader, failure) = opened.map_err(Trouble::Store)?;
        let taken = reader.taken();
        let passage = Passage {
            suffix: archive.suffix.clone(),
            decoders: self.decoders,
            base,
            reader,
            failure,
            cancel: self.stop.clone(),
            reporter: Arc::clone(&self.reporter),
        };
        let done = tokio::task::spawn_blocking(move || work(passage)).await;
        self.fetched
            .fetch_add(taken.load(Ordering::Relaxed), Ordering::Relaxed);
        done.unwrap_or_else(|error| match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down.
            Err(_) => Err(Trouble::Stopped),
        })
    }
}

/// Most works side by side, however many jobs there are. Each has a thread of the runtime that
/// waits for bytes, and the reads of a directory store need some of the same: the runtime has
/// 512, and with all of them waiting nobody would read.
const MOST_WORKS: usize = 256;

/// Does all of `works`, `jobs` of them side by side, and gives what came of them, in any order.
/// The first that fails stops the others, all of which have ended when this returns.
pub(in crate::ops) async fn side_by_side<T, W: Future<Output = Result<T, OpError>>>(
    jobs: NonZeroU32,
    stop: &CancellationToken,
    works: impl IntoIterator<Item = W>,
) -> Result<Vec<T>, OpError> {
    let jobs = usize::try_from(jobs.get()).map_or(MOST_WORKS, |jobs| jobs.min(MOST_WORKS));
    let mut running = stream::iter(works).buffer_unordered(jobs);
    let (mut done, mut failure) = (Vec::new(), None);
    // To the end: no thread may still be at work when this returns.
    while let Some(result) = running.next().await {
        match result {
            Ok(result) => done.push(result),
            Err(error) => {
                stop.cancel();
                failure.get_or_insert(error);
            }
        }
    }
    failure.map_or(Ok(done), Err)
}

/// Does what blocks on a thread of its own.
pub(in crate::ops) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, OpError> + Send + 'static,
) -> Result<T, OpError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| OpError::new(OpErrorKind::General, "the unpacking thread ended early"))?
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::runtime::{Builder, Handle};

    use super::*;

    /// Each work has a thread, and waits there for another one.
    #[test]
    fn no_number_of_jobs_leaves_nobody_to_read() {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let all = async {
            let works = (0..600).map(|_| {
                let here = Handle::current();
                blocking(move || {
                    std::thread::sleep(Duration::from_millis(50));
                    here.block_on(blocking(|| Ok(())))
                })
            });
            let jobs = NonZeroU32::new(600).unwrap();
            side_by_side(jobs, &CancellationToken::new(), works).await
        };
        let done =
            runtime.block_on(async { tokio::time::timeout(Duration::from_secs(30), all).await });
        runtime.shutdown_background();
        assert_eq!(done.expect("nobody waits for ever").unwrap().len(), 600);
    }
}
