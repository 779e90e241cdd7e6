//! The state of long work as text: a line for people, an object for programs.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::json;

use crate::report::{Phase, Work};
use crate::units::pretty_size;

/// How far the work is. Sizes in bytes, rates in bytes a second.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    pub(super) work: Work,
    pub(super) phase: Phase,
    /// Since the work began.
    pub(super) elapsed: Duration,
    /// What compares with `expected`: plain bytes of a backup, bytes from the store of
    /// a restore or a check.
    pub(super) done: u64,
    pub(super) expected: Option<u64>,
    /// Plain bytes read or written.
    pub(super) processed: u64,
    /// Bytes to or from the store.
    pub(super) transferred: u64,
    pub(super) rate: u64,
    pub(super) mean: u64,
    /// In seconds.
    pub(super) left: Option<u64>,
    pub(super) archives_done: u64,
    pub(super) archives_open: u64,
    pub(super) parts_in_flight: u64,
}

/// One line for a terminal; what matters least is last, where it may be cut.
pub(super) fn line(state: &State) -> String {
    let (waiting, doing, other, about) = match state.work {
        Work::Backup => (
            "waiting for the checkpoint",
            "backing up",
            "in the store",
            "about ",
        ),
        Work::Restore => ("preparing", "restoring", "written", ""),
        Work::Verify => ("preparing", "checking", "unpacked", ""),
    };
    let finishing = match state.work {
        Work::Backup => "waiting for the server to end the backup",
        Work::Restore => "comparing and bringing to the disk",
        Work::Verify => "comparing and checking the WAL",
    };
    let mut line = match state.phase {
        Phase::Starting => return format!("{waiting}, {}", clock(state.elapsed.as_secs())),
        Phase::Copying => doing.to_owned(),
        Phase::Finishing => format!("{finishing},"),
    };
    let _ = write!(line, " {}", pretty_size(state.done));
    if let Some(expected) = state.expected {
        let _ = write!(line, " of {about}{}", pretty_size(expected));
        if let Some(percent) = percent(state.done, expected) {
            let _ = write!(line, " ({percent} %)");
        }
    }
    if state.phase == Phase::Copying {
        let _ = write!(line, ", {}/s", pretty_size(state.rate));
    }
    let _ = write!(line, ", mean {}/s", pretty_size(state.mean));
    match state.left {
        Some(left) => {
            let _ = write!(line, ", {} left", clock(left));
        }
        None => {
            let _ = write!(line, ", {}", clock(state.elapsed.as_secs()));
        }
    }
    let archives = if state.archives_done == 1 {
        "archive"
    } else {
        "archives"
    };
    let parts = if state.parts_in_flight == 1 {
        "part"
    } else {
        "parts"
    };
    let second = match state.work {
        Work::Backup => state.transferred,
        Work::Restore | Work::Verify => state.processed,
    };
    let _ = write!(
        line,
        ", {} {archives} done, {} open, {} {parts} in flight, {} {other}",
        state.archives_done,
        state.archives_open,
        state.parts_in_flight,
        pretty_size(second)
    );
    line
}

/// How much of `expected` is done, cut to whole percents; none of nothing, and no more
/// than all of an estimate.
fn percent(done: u64, expected: u64) -> Option<u64> {
    let percent = (u128::from(done) * 100).checked_div(u128::from(expected))?;
    u64::try_from(percent.min(100)).ok()
}

/// Hours, minutes and seconds.
fn clock(seconds: u64) -> String {
    let (minutes, seconds) = (seconds / 60, seconds % 60);
    format!("{}:{:02}:{seconds:02}", minutes / 60, minutes % 60)
}

/// A JSON object with a line break behind it. The README lists its fields, whose names do
/// not change; `last` makes its `event` `end`.
pub(super) fn object(state: &State, last: bool) -> String {
    let object = json!({
        "event": if last { "end" } else { "progress" },
        "work": match state.work {
            Work::Backup => "backup",
            Work::Restore => "restore",
            Work::Verify => "verify",
        },
        "phase": match state.phase {
            Phase::Starting => "starting",
            Phase::Copying => "copying",
            Phase::Finishing => "finishing",
        },
        "seconds": state.elapsed.as_secs(),
        "bytes_done": state.done,
        "bytes_expected": state.expected,
        "bytes_files": state.processed,
        "bytes_store": state.transferred,
        "rate": state.rate,
        "mean_rate": state.mean,
        "seconds_left": state.left,
        "archives_done": state.archives_done,
        "archives_open": state.archives_open,
        "parts_in_flight": state.parts_in_flight,
    });
    format!("{object}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn backup() -> State {
        State {
            work: Work::Backup,
            phase: Phase::Copying,
            elapsed: Duration::from_millis(63_900),
            done: 12 * GIB,
            expected: Some(40 * GIB),
            processed: 12 * GIB,
            transferred: 5 * GIB,
            rate: 210 << 20,
            mean: 198 << 20,
            left: Some(8041),
            archives_done: 1,
            archives_open: 1,
            parts_in_flight: 2,
        }
    }

    #[test]
    fn a_line_says_how_far_how_fast_and_how_long() {
        let backup = backup();
        assert_eq!(
            line(&backup),
            "backing up 12.0 GiB of about 40.0 GiB (30 %), 210.0 MiB/s, mean 198.0 MiB/s, \
             2:14:01 left, 1 archive done, 1 open, 2 parts in flight, 5.0 GiB in the store"
        );
        let starting = State {
            phase: Phase::Starting,
            ..backup.clone()
        };
        assert_eq!(line(&starting), "waiting for the checkpoint, 0:01:03");
        let finishing = State {
            phase: Phase::Finishing,
            done: 41 * GIB,
            left: None,
            parts_in_flight: 1,
            ..backup.clone()
        };
        assert_eq!(
            line(&finishing),
            "waiting for the server to end the backup, 41.0 GiB of about 40.0 GiB (100 %), mean \
             198.0 MiB/s, 0:01:03, 1 archive done, 1 open, 1 part in flight, 5.0 GiB in the store"
        );
        let unknown = State {
            expected: None,
            left: None,
            archives_done: 0,
            ..backup.clone()
        };
        assert_eq!(
            line(&unknown),
            "backing up 12.0 GiB, 210.0 MiB/s, mean 198.0 MiB/s, 0:01:03, 0 archives done, 1 open, \
             2 parts in flight, 5.0 GiB in the store"
        );
        let restore = State {
            work: Work::Restore,
            done: 5 * GIB,
            expected: Some(10 * GIB),
            ..backup
        };
        assert_eq!(
            line(&restore),
            "restoring 5.0 GiB of 10.0 GiB (50 %), 210.0 MiB/s, mean 198.0 MiB/s, 2:14:01 left, \
             1 archive done, 1 open, 2 parts in flight, 12.0 GiB written"
        );
    }

    /// Machines read these names.
    #[test]
    fn an_object_has_the_same_fields_always() {
        let text = object(&backup(), false);
        let line = text.strip_suffix('\n').expect("a line");
        assert!(!line.contains('\n'));
        let read: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(
            read,
            json!({
                "event": "progress", "work": "backup", "phase": "copying", "seconds": 63,
                "bytes_done": 12 * GIB, "bytes_expected": 40 * GIB,
                "bytes_files": 12 * GIB, "bytes_store": 5 * GIB,
                "rate": 210 << 20, "mean_rate": 198 << 20, "seconds_left": 8041,
                "archives_done": 1, "archives_open": 1, "parts_in_flight": 2,
            })
        );
        let end = State {
            work: Work::Restore,
            phase: Phase::Finishing,
            expected: None,
            left: None,
            ..backup()
        };
        let read: serde_json::Value = serde_json::from_str(&object(&end, true)).expect("JSON");
        let fields = read.as_object().expect("an object");
        assert_eq!(fields.len(), 14);
        for (name, value) in [
            ("event", json!("end")),
            ("work", json!("restore")),
            ("phase", json!("finishing")),
            ("bytes_expected", json!(null)),
            ("seconds_left", json!(null)),
        ] {
            assert_eq!(fields[name], value, "{name}");
        }
    }

    #[test]
    fn no_share_of_nothing() {
        assert_eq!(percent(5, 0), None);
        assert_eq!(percent(0, 7), Some(0));
        assert_eq!(percent(699, 700), Some(99));
        assert_eq!(percent(u64::MAX, u64::MAX), Some(100));
        assert_eq!(percent(8, 7), Some(100));
    }
}
