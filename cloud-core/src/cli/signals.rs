//! Signals: a request to stop, answered by cleaning up for a bounded time.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How long the clean-up may take (docs/decisions.md 11).
const CLEAN_UP: Duration = Duration::from_secs(10);

/// How a process that was asked to stop ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EndBy {
    /// By the signal itself: for PostgreSQL exit code 1 of a restore command
    /// means that there is no more WAL.
    Signal,
    /// With exit code 1.
    ExitCode,
}

/// Listens for signals as long as the runtime lives.
#[derive(Debug)]
pub(super) struct Signals {
    received: Arc<AtomicI32>,
    end_by: EndBy,
}

impl Signals {
    /// Sets `cancel` on the first SIGINT, SIGTERM or SIGQUIT; ends the process
    /// on the second one, or when the clean-up takes too long.
    pub(super) fn watch(cancel: &CancellationToken, end_by: EndBy) -> Self {
        let received = Arc::new(AtomicI32::new(0));
        for kind in [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::quit(),
        ] {
            let (cancel, received) = (cancel.clone(), Arc::clone(&received));
            let Ok(mut stream) = signal(kind) else {
                continue;
            };
            tokio::spawn(async move {
                while stream.recv().await.is_some() {
                    let number = kind.as_raw_value();
                    if received.swap(number, Ordering::Relaxed) != 0 {
                        end_now(number, end_by);
                    }
                    cancel.cancel();
                    // A thread of its own: the runtime may have only one, and
                    // that one may be what does not end.
                    std::thread::spawn(move || {
                        std::thread::sleep(CLEAN_UP);
                        end_now(number, end_by);
                    });
                }
            });
        }
        Self { received, end_by }
    }

    /// Ends the process by the signal it was asked to stop with, if it was and
    /// is to end that way.
    pub(super) fn end_by_signal(&self) {
        let number = self.received.load(Ordering::Relaxed);
        if number != 0 && self.end_by == EndBy::Signal {
            let _ = signal_hook::low_level::emulate_default_handler(number);
        }
    }
}

fn end_now(number: i32, end_by: EndBy) -> ! {
    if end_by == EndBy::Signal {
        let _ = signal_hook::low_level::emulate_default_handler(number);
    }
    signal_hook::low_level::exit(1)
}
