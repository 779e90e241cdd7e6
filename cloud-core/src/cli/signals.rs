//! Signals: a request to stop, answered by cleaning up for a bounded time.
//!
//! A signal that was ignored when the tool was started stays ignored: `nohup`
//! means it, and so does a shell that starts something in the background.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{Habits, exit};

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

impl EndBy {
    /// How a tool of these habits ends.
    pub(super) fn of(habits: Habits) -> Self {
        if habits.ends_by_signal {
            Self::Signal
        } else {
            Self::ExitCode
        }
    }
}

/// Listens for signals as long as the runtime lives.
#[derive(Debug)]
pub(super) struct Signals {
    received: Arc<AtomicI32>,
    end_by: EndBy,
}

impl Signals {
    /// Sets `cancel` on the first SIGINT, SIGTERM, SIGQUIT or SIGHUP; ends the
    /// process on the second one, or when the clean-up takes too long.
    pub(super) fn watch(cancel: &CancellationToken, end_by: EndBy) -> Self {
        let received = Arc::new(AtomicI32::new(0));
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let ignored = ignored(&status);
        for kind in [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::quit(),
            SignalKind::hangup(),
        ] {
            if ignored & (1 << (kind.as_raw_value() - 1)) != 0 {
                continue;
            }
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
    signal_hook::low_level::exit(i32::from(exit::interrupted(end_by)))
}

/// The ignored signals that `/proc/self/status` tells of: signal n is bit n - 1.
/// None where it tells nothing.
fn ignored(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_the_status_of_the_process() {
        let status = "Name:\tx\nSigBlk:\t00000000000000ff\nSigIgn:\t0000000000001001\n";
        assert_eq!(ignored(status), 1 << 12 | 1, "SIGPIPE is 13, SIGHUP is 1");
        for nothing in ["", "SigIgn:\tzz\n"] {
            assert_eq!(ignored(nothing), 0);
        }
    }
}
