//! How long a store that does not answer is asked again.
//!
//! PostgreSQL takes any failure of its `restore_command` for "no more WAL", so
//! trouble that may pass is waited out for a bounded time (docs/decisions.md
//! 10). Somebody who asks the server to promote does not want to wait: the
//! `promote` file in the data directory ends the patience at once. Nor does a
//! standby, which asks again by itself and streams meanwhile.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, interval, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::store::count_retry;

/// First pause between two attempts; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(200);

const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The time where PostgreSQL goes on without the WAL that it was not given.
/// Source: docs/decisions.md 10.
const RECOVERY: Duration = Duration::from_mins(1);

/// The time for a standby. Source: the same.
const STANDBY: Duration = Duration::from_secs(5);

/// How long to try for the server in `data_directory`, where the user does not say.
pub(super) fn usual(data_directory: Option<&Path>) -> Duration {
    if data_directory.is_some_and(is_standby) {
        STANDBY
    } else {
        RECOVERY
    }
}

/// Whether the server stays in recovery for good. Up to version 11 that is a
/// setting in a file that has no other place.
fn is_standby(data_directory: &Path) -> bool {
    let says_so = |text: String| {
        let last = text.lines().rev().find_map(|line| {
            let line = line.trim_start().to_ascii_lowercase();
            let value = line.strip_prefix("standby_mode")?.trim_start();
            let value = value.strip_prefix('=').unwrap_or(value).trim_start();
            Some(value.trim_start_matches('\'').to_owned())
        });
        // What PostgreSQL takes for "true", each of them with what may follow.
        let on = ["on", "t", "y", "1"];
        last.is_some_and(|value| on.iter().any(|on| value.starts_with(on)))
    };
    data_directory.join("standby.signal").exists()
        || std::fs::read_to_string(data_directory.join("recovery.conf")).is_ok_and(says_so)
}

/// In place of a time too long to be counted.
const FOR_EVER: Duration = Duration::from_hours(24 * 365 * 30);

/// How often the `promote` file is looked for.
const LOOK: Duration = Duration::from_millis(250);

/// What is left of the time for one request.
#[derive(Debug)]
pub(super) struct Patience {
    end: Instant,
    pause: Duration,
    attempts: u32,
    promote: Option<PathBuf>,
    watch: Option<AbortOnDropHandle<()>>,
}

impl Patience {
    /// Begins now and lasts for `total`. `promote` is the file to watch for.
    pub(super) fn new(total: Duration, promote: Option<PathBuf>) -> Self {
        let now = Instant::now();
        Self {
            end: now.checked_add(total).unwrap_or(now + FOR_EVER),
            pause: FIRST_PAUSE,
            attempts: 0,
            promote,
            watch: None,
        }
    }

    /// Attempts that have failed so far.
    pub(super) fn attempts(&self) -> u32 {
        self.attempts
    }

    /// After an attempt that failed: waits and says whether to try again. From
    /// now on `stop` is set when the `promote` file appears.
    pub(super) async fn wait(&mut self, stop: &CancellationToken) -> bool {
        self.attempts += 1;
        if let Some(promote) = self.promote.take() {
            let watch = tokio::spawn(watch(promote, stop.clone()));
            self.watch = Some(AbortOnDropHandle::new(watch));
        }
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        // Many servers may have lost the same store at the same moment.
        let pause = self.pause.mul_f64(0.5 + fastrand::f64() / 2.0).min(left);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        tokio::select! {
            biased;
            () = stop.cancelled() => false,
            () = sleep(pause) => {
                count_retry();
                true
            }
        }
    }
}

async fn watch(promote: PathBuf, stop: CancellationToken) {
    let mut ticks = interval(LOOK);
    loop {
        ticks.tick().await;
        if promote.exists() {
            stop.cancel();
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standby_is_known_by_its_files() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        assert_eq!(usual(None), RECOVERY);
        assert_eq!(usual(Some(path)), RECOVERY);
        for (text, standby) in [
            ("standby_mode = 'on'\n", true),
            ("restore_command = 'x'\n  STANDBY_MODE on # yes", true),
            ("standby_mode='off'\nstandby_mode=true", true),
            ("standby_mode = 'on'\nstandby_mode = off", false),
            ("# standby_mode = 'on'\n", false),
            ("restore_command = 'standby_mode on'", false),
            ("standby_mode = 'no'", false),
            ("standby_mode", false),
        ] {
            std::fs::write(path.join("recovery.conf"), text).expect("a file");
            assert_eq!(usual(Some(path)) == STANDBY, standby, "{text}");
        }
        std::fs::write(path.join("recovery.signal"), "").expect("a file");
        assert_eq!(usual(Some(path)), RECOVERY);
        std::fs::write(path.join("standby.signal"), "").expect("a file");
        assert_eq!(usual(Some(path)), STANDBY);
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_end_with_the_time_for_all_of_them() {
        let begin = Instant::now();
        let total = Duration::from_mins(1);
        let mut patience = Patience::new(total, None);
        while patience.wait(&CancellationToken::new()).await {}
        assert_eq!(begin.elapsed(), total);
        assert!(
            (10..60).contains(&patience.attempts()),
            "{}",
            patience.attempts()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn without_time_there_is_one_attempt() {
        let mut patience = Patience::new(Duration::ZERO, None);
        assert!(!patience.wait(&CancellationToken::new()).await);
    }

    #[tokio::test(start_paused = true)]
    async fn any_time_can_be_asked_for() {
        let mut patience = Patience::new(Duration::MAX, None);
        assert!(patience.wait(&CancellationToken::new()).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_promotion_ends_the_patience_at_once() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let promote = directory.path().join("promote");
        let begin = Instant::now();
        let stop = CancellationToken::new();
        let mut patience = Patience::new(Duration::from_hours(1), Some(promote.clone()));
        assert!(patience.wait(&stop).await);
        std::fs::write(&promote, "").expect("a file");
        while patience.wait(&stop).await {}
        assert!(stop.is_cancelled());
        assert!(
            begin.elapsed() < Duration::from_secs(30),
            "{:?}",
            begin.elapsed()
        );
    }
}
