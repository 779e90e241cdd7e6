//! How far long work is, on standard error: a line on a terminal, or an object a
//! second for programs (`--progress=json`), or nothing.
//!
//! The work itself only counts. A thread looks at the counters and writes, so a
//! standard error that takes nothing, or that nobody holds any more, stops that
//! thread and nothing else.

mod meter;
mod render;

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use self::meter::Meter;
use self::render::State;
use crate::report::{Phase, Reporter, Silent, Work};

/// How often the line is drawn.
const TICK: Duration = Duration::from_millis(200);

/// How often an object is written.
const OBJECT: Duration = Duration::from_secs(1);

/// How long the end waits for the last word to be written.
const LAST_WORD: Duration = Duration::from_secs(1);

/// What `--progress` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Progress {
    /// A line, if standard error is a terminal and nothing asks for silence.
    #[default]
    Auto,
    /// A line with a JSON object each second, wherever standard error goes.
    Json,
    /// Nothing.
    Off,
}

/// The line on standard error, if there is one.
static SHOWN: OnceLock<ProgressBar> = OnceLock::new();

/// Writes something else to standard error while the line is out of the way.
pub(super) fn beside(write: impl FnOnce()) {
    match SHOWN.get() {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}

/// Shows progress as asked; `quiet` says that nobody wants to see a line.
pub(super) fn reporter(wanted: Progress, quiet: bool) -> Arc<dyn Reporter> {
    match wanted {
        Progress::Json => Arc::new(Shown::new(|| Box::new(Objects(io::stderr())))),
        Progress::Auto if !quiet && io::stderr().is_terminal() => Arc::new(Shown::new(|| {
            let line = Line::new(ProgressDrawTarget::stderr());
            // A process runs one tool, so nobody has set it before. Not earlier:
            // what is written beside a line draws it anew.
            let _ = SHOWN.set(line.0.clone());
            Box::new(line)
        })),
        Progress::Auto | Progress::Off => Arc::new(Silent),
    }
}

/// Where the state is shown.
trait Display: Send {
    /// How often.
    fn every(&self) -> Duration;

    /// Shows the state; `last` if no other one comes. `Err` if it is of no use to
    /// go on.
    fn show(&mut self, state: &State, last: bool) -> io::Result<()>;
}

/// The line of a terminal.
struct Line(ProgressBar);

impl Line {
    fn new(target: ProgressDrawTarget) -> Self {
        let bar = ProgressBar::with_draw_target(None, target);
        // Cut where a narrow terminal ends.
        if let Ok(style) = ProgressStyle::with_template("{wide_msg}") {
            bar.set_style(style);
        }
        Self(bar)
    }
}

impl Display for Line {
    fn every(&self) -> Duration {
        TICK
    }

    fn show(&mut self, state: &State, last: bool) -> io::Result<()> {
        if last {
            self.0.finish_and_clear();
        } else {
            self.0.set_message(render::line(state));
        }
        Ok(())
    }
}

/// Objects, one in a line.
struct Objects<W>(W);

impl<W: Write + Send> Display for Objects<W> {
    fn every(&self) -> Duration {
        OBJECT
    }

    fn show(&mut self, state: &State, last: bool) -> io::Result<()> {
        // In one piece: log lines go the same way.
        self.0.write_all(render::object(state, last).as_bytes())
    }
}

/// What the work counts.
#[derive(Debug, Default)]
struct Counters {
    processed: AtomicU64,
    transferred: AtomicU64,
    archives_begun: AtomicU64,
    archives_done: AtomicU64,
    parts_begun: AtomicU64,
    parts_ended: AtomicU64,
    phase: Mutex<Phase>,
}

impl Counters {
    /// Adds the state at `elapsed` to the meter and reads it there.
    fn state(
        &self,
        work: Work,
        expected: Option<u64>,
        elapsed: Duration,
        meter: &mut Meter,
    ) -> State {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        // The ends first, or more would seem to have ended than had begun.
        let (archives_done, parts_ended) = (read(&self.archives_done), read(&self.parts_ended));
        let (processed, transferred) = (read(&self.processed), read(&self.transferred));
        let phase = *self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        let done = match work {
            Work::Backup => processed,
            Work::Restore | Work::Verify => transferred,
        };
        meter.note(elapsed, done);
        let left = expected.filter(|_| phase == Phase::Copying);
        State {
            work,
            phase,
            elapsed,
            done,
            expected,
            processed,
            transferred,
            rate: meter.rate(),
            mean: meter.mean(),
            left: left.and_then(|expected| meter.left(expected)),
            archives_done,
            archives_open: read(&self.archives_begun).saturating_sub(archives_done),
            parts_in_flight: read(&self.parts_begun).saturating_sub(parts_ended),
        }
    }
}

/// The thread that shows, as its owner sees it.
#[derive(Debug)]
struct Watcher {
    /// Dropped when the work is over.
    working: Sender<()>,
    /// Says when the last word was written.
    finished: Receiver<()>,
}

/// Shows the work on the display that `open` makes when it begins.
struct Shown<F> {
    open: F,
    counters: Arc<Counters>,
    watcher: Mutex<Option<Watcher>>,
}

impl<F> std::fmt::Debug for Shown<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shown")
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

impl<F: Fn() -> Box<dyn Display>> Shown<F> {
    fn new(open: F) -> Self {
        Self {
            open,
            counters: Arc::default(),
            watcher: Mutex::default(),
        }
    }
}

/// Shows until the other end of `working` is dropped.
fn watch(
    counters: &Counters,
    work: Work,
    expected: Option<u64>,
    working: &Receiver<()>,
    display: &mut dyn Display,
) {
    let began = Instant::now();
    let mut meter = Meter::default();
    let mut next = began + display.every();
    loop {
        let pause = next.saturating_duration_since(Instant::now());
        let last = working.recv_timeout(pause) != Err(RecvTimeoutError::Timeout);
        let state = counters.state(work, expected, began.elapsed(), &mut meter);
        if display.show(&state, last).is_err() || last {
            return;
        }
        // One that was held up does not catch up.
        next = (next + display.every()).max(Instant::now());
    }
}

impl<F> Reporter for Shown<F>
where
    F: Fn() -> Box<dyn Display> + Send + Sync + 'static,
{
    fn begin(&self, work: Work, expected_bytes: Option<u64>) {
        let (working, over) = mpsc::channel();
        let (told, finished) = mpsc::channel();
        let counters = Arc::clone(&self.counters);
        let mut display = (self.open)();
        let started = std::thread::Builder::new()
            .name("progress".into())
            .spawn(move || {
                watch(&counters, work, expected_bytes, &over, display.as_mut());
                let _ = told.send(());
            });
        // A system that has no thread for this has none for the work either, which says so.
        if started.is_ok() {
            let mut watcher = self.watcher.lock().unwrap_or_else(PoisonError::into_inner);
            *watcher = Some(Watcher { working, finished });
        }
    }

    fn phase(&self, phase: Phase) {
        let counters = &self.counters;
        *counters
            .phase
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = phase;
    }

    fn processed(&self, bytes: u64) {
        self.counters.processed.fetch_add(bytes, Ordering::Relaxed);
    }

    fn transferred(&self, bytes: u64) {
        self.counters
            .transferred
            .fetch_add(bytes, Ordering::Relaxed);
    }

    fn archive_begun(&self, _name: &str) {
        self.counters.archives_begun.fetch_add(1, Ordering::Relaxed);
    }

    fn archive_done(&self, _name: &str) {
        self.counters.archives_done.fetch_add(1, Ordering::Relaxed);
    }

    fn part_begun(&self) {
        self.counters.parts_begun.fetch_add(1, Ordering::Relaxed);
    }

    fn part_ended(&self) {
        self.counters.parts_ended.fetch_add(1, Ordering::Relaxed);
    }

    fn end(&self) {
        let watcher = self
            .watcher
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(Watcher { working, finished }) = watcher {
            drop(working);
            let _ = finished.recv_timeout(LAST_WORD);
        }
    }
}

#[cfg(test)]
mod tests;
