//! Rates, and the time that is left, from looks at a counter.

use std::collections::VecDeque;
use std::time::Duration;

/// What "now" is: long enough for a few parts.
const NOW: Duration = Duration::from_secs(5);

/// What the time that is left is told from: long enough not to jump.
const LATELY: Duration = Duration::from_mins(1);

/// Looks at a counter that only grows. Times are since any fixed moment.
#[derive(Debug, Default)]
pub(super) struct Meter {
    /// The looks of [`LATELY`], and one before them.
    looks: VecDeque<(Duration, u64)>,
    /// The last look that saw nothing done: what came before is no work.
    idle_until: Duration,
}

impl Meter {
    /// Adds a look, later than all others.
    pub(super) fn note(&mut self, at: Duration, done: u64) {
        if done == 0 {
            self.idle_until = at;
            self.looks.clear();
        }
        self.looks.push_back((at, done));
        while let Some((second, _)) = self.looks.get(1)
            && at.saturating_sub(*second) >= LATELY
        {
            self.looks.pop_front();
        }
    }

    /// Bytes a second of the last five seconds.
    pub(super) fn rate(&self) -> u64 {
        self.since(NOW)
    }

    /// Bytes a second since the first byte.
    pub(super) fn mean(&self) -> u64 {
        let Some((at, done)) = self.looks.back() else {
            return 0;
        };
        per_second(*done, at.saturating_sub(self.idle_until))
    }

    /// Seconds until there are `expected` bytes, if it goes on as in the last minute;
    /// `None` if nothing moves.
    pub(super) fn left(&self, expected: u64) -> Option<u64> {
        let (_, done) = self.looks.back()?;
        let missing = expected.saturating_sub(*done);
        match self.since(LATELY) {
            _ if missing == 0 => Some(0),
            0 => None,
            rate => Some(missing.div_ceil(rate)),
        }
    }

    /// Bytes a second of the last `span`, or of all there is.
    fn since(&self, span: Duration) -> u64 {
        let Some((at, done)) = self.looks.back() else {
            return 0;
        };
        let before = |look: &&(Duration, u64)| at.saturating_sub(look.0) >= span;
        let first = self.looks.iter().rev().find(before);
        match first.or(self.looks.front()) {
            Some((then, was)) => per_second(done.saturating_sub(*was), at.saturating_sub(*then)),
            None => 0,
        }
    }
}

/// A rate in whole bytes; 0 for no time.
fn per_second(bytes: u64, time: Duration) -> u64 {
    let micros = time.as_micros();
    if micros == 0 {
        return 0;
    }
    u64::try_from(u128::from(bytes) * 1_000_000 / micros).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks once a second at a counter that grows by `steps`.
    fn looks(steps: &[u64]) -> Meter {
        let mut meter = Meter::default();
        let (mut at, mut done) = (Duration::ZERO, 0);
        meter.note(at, done);
        for step in steps {
            at += Duration::from_secs(1);
            done += step;
            meter.note(at, done);
        }
        meter
    }

    #[test]
    fn the_rate_is_that_of_five_seconds_and_the_mean_that_of_all() {
        let none = Meter::default();
        assert_eq!((none.rate(), none.mean(), none.left(10)), (0, 0, None));
        let one_look = looks(&[]);
        assert_eq!((one_look.rate(), one_look.mean()), (0, 0));
        for (steps, rate, mean) in [
            (vec![100], 100, 100),
            (vec![100, 300], 200, 200),
            (vec![1000, 10, 10, 10, 10, 10], 10, 175),
            // Parts that end every other second.
            (vec![0, 200, 0, 200, 0, 200, 0, 200], 120, 114),
            (vec![500, 0, 0, 0, 0, 0], 0, 83),
        ] {
            let meter = looks(&steps);
            assert_eq!((meter.rate(), meter.mean()), (rate, mean), "{steps:?}");
        }
    }

    /// The checkpoint may take minutes.
    #[test]
    fn what_comes_before_the_first_byte_is_no_work() {
        let mut steps = vec![0; 300];
        steps.extend([100, 100]);
        let meter = looks(&steps);
        assert_eq!((meter.rate(), meter.mean()), (100, 100));
        assert_eq!(meter.left(1200), Some(10));
    }

    #[test]
    fn the_time_left_follows_the_last_minute() {
        // Fast once, slow for an hour.
        let mut steps = vec![1_000_000];
        steps.extend(vec![100; 3600]);
        let meter = looks(&steps);
        let done = 1_360_000;
        assert_eq!(meter.left(done + 1000), Some(10));
        assert_eq!(meter.left(done + 1001), Some(11));
        // More than was expected.
        assert_eq!(meter.left(done - 1), Some(0));
        assert!(meter.looks.len() <= 62, "{}", meter.looks.len());
        // A pause is not the end: half of the minute had its 100.
        steps.extend(vec![0; 30]);
        let paused = looks(&steps);
        assert_eq!((paused.rate(), paused.left(done + 1000)), (0, Some(20)));
        steps.extend(vec![0; 30]);
        assert_eq!(looks(&steps).left(done + 1000), None);
    }

    #[test]
    fn no_number_is_too_large() {
        let mut meter = looks(&[]);
        meter.note(Duration::from_micros(1), u64::MAX);
        assert_eq!((meter.rate(), meter.mean()), (u64::MAX, u64::MAX));
        assert_eq!(meter.left(u64::MAX), Some(0));
    }
}
