//! A line that shows how far long work is, on a terminal and nowhere else.

use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::report::{Reporter, Silent, Work};
use crate::units::pretty_size;

/// How often the line is drawn.
const TICK: Duration = Duration::from_millis(200);

/// The line on standard error, if there is one.
static SHOWN: OnceLock<ProgressBar> = OnceLock::new();

/// Writes something else to standard error while the line is out of the way.
pub(super) fn beside(write: impl FnOnce()) {
    match SHOWN.get() {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}

/// Shows progress if `wanted` and standard error is a terminal.
pub(super) fn reporter(wanted: bool) -> Arc<dyn Reporter> {
    if wanted && io::stderr().is_terminal() {
        Arc::new(Terminal::new(ProgressDrawTarget::stderr()))
    } else {
        Arc::new(Silent)
    }
}

#[derive(Debug)]
struct Terminal {
    bar: ProgressBar,
    transferred: AtomicU64,
    archives: AtomicU64,
}

impl Terminal {
    fn new(target: ProgressDrawTarget) -> Self {
        let bar = ProgressBar::with_draw_target(None, target);
        Self {
            bar,
            transferred: AtomicU64::new(0),
            archives: AtomicU64::new(0),
        }
    }

    fn describe(&self) {
        let transferred = pretty_size(self.transferred.load(Ordering::Relaxed));
        let archives = match self.archives.load(Ordering::Relaxed) {
            1 => "1 archive".to_owned(),
            n => format!("{n} archives"),
        };
        self.bar
            .set_message(format!("{transferred} in the store's form, {archives}"));
    }
}

impl Reporter for Terminal {
    fn begin(&self, work: Work, expected_bytes: Option<u64>) {
        let (what, expected) = match work {
            Work::Backup => ("backing up", expected_bytes),
            // What is known then is the size in the store, not on disk.
            Work::Restore => ("restoring", None),
        };
        let size = if expected.is_some() {
            "{bytes} of about {total_bytes}"
        } else {
            "{bytes}"
        };
        // The message comes last, where it is cut if the terminal is narrow.
        let template = format!("{what} {size} at {{bytes_per_sec}}, {{elapsed}}, {{wide_msg}}");
        if let Ok(style) = ProgressStyle::with_template(&template) {
            self.bar.set_style(style);
        }
        if let Some(expected) = expected {
            self.bar.set_length(expected);
        }
        self.describe();
        // A process runs one tool, so nobody has set it before. Not earlier:
        // what is written beside a line draws it anew.
        let _ = SHOWN.set(self.bar.clone());
        self.bar.enable_steady_tick(TICK);
    }

    fn processed(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    fn transferred(&self, bytes: u64) {
        self.transferred.fetch_add(bytes, Ordering::Relaxed);
        self.describe();
    }

    fn archive_done(&self, _name: &str) {
        self.archives.fetch_add(1, Ordering::Relaxed);
        self.describe();
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_archives_are_counted() {
        let terminal = Terminal::new(ProgressDrawTarget::hidden());
        terminal.begin(Work::Backup, Some(1000));
        terminal.processed(300);
        terminal.processed(200);
        terminal.transferred(2048);
        terminal.archive_done("data.tar");
        assert_eq!(
            (terminal.bar.position(), terminal.bar.length()),
            (500, Some(1000))
        );
        assert_eq!(
            terminal.bar.message(),
            "2.0 KiB in the store's form, 1 archive"
        );
        terminal.end();
        assert!(terminal.bar.is_finished());
    }
}
