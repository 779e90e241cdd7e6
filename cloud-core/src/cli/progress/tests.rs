use std::sync::Condvar;

use super::*;

/// Keeps what is written, once it may.
#[derive(Clone, Default)]
struct Paper {
    text: Arc<Mutex<Vec<u8>>>,
    /// Whether a writer waits.
    slow: Arc<(Mutex<bool>, Condvar)>,
}

impl Write for Paper {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let (slow, changed) = &*self.slow;
        let slow = slow.lock().unwrap();
        drop(changed.wait_while(slow, |slow| *slow).unwrap());
        self.text.lock().unwrap().extend(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Paper {
    fn objects(&self) -> Vec<serde_json::Value> {
        let text = String::from_utf8(self.text.lock().unwrap().clone()).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'), "{text}");
        let lines = text.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn reporter(&self) -> Arc<dyn Reporter> {
        let paper = self.clone();
        Arc::new(Shown::new(move || Box::new(Objects(paper.clone()))))
    }
}

fn work(reporter: &dyn Reporter) {
    reporter.phase(Phase::Copying);
    for name in ["16384.tar", "data.tar"] {
        reporter.archive_begun(name);
    }
    reporter.part_begun();
    reporter.processed(700);
    reporter.transferred(300);
    reporter.part_ended();
    reporter.archive_done("16384.tar");
    reporter.part_begun();
}

#[test]
fn the_last_object_tells_all_that_was_counted() {
    for (kind, done) in [(Work::Backup, 700), (Work::Restore, 300)] {
        let paper = Paper::default();
        let reporter = paper.reporter();
        reporter.begin(kind, Some(1000));
        work(reporter.as_ref());
        reporter.end();
        let objects = paper.objects();
        let last = objects.last().expect("the end is told");
        assert_eq!(last["event"], "end");
        for (name, value) in [
            ("bytes_done", done),
            ("bytes_expected", 1000),
            ("bytes_files", 700),
            ("bytes_store", 300),
            ("archives_done", 1),
            ("archives_open", 1),
            ("parts_in_flight", 1),
        ] {
            assert_eq!(last[name], value, "{name}");
        }
        // Nothing is told of what never began, and nothing twice.
        reporter.end();
        assert_eq!(paper.objects().len(), objects.len());
    }
}

/// Whoever reads standard error may stop reading, and the work goes on; its end waits
/// for no more than a moment.
#[test]
fn a_slow_reader_holds_up_nothing() {
    let paper = Paper::default();
    *paper.slow.0.lock().unwrap() = true;
    let reporter = paper.reporter();
    reporter.begin(Work::Backup, None);
    work(reporter.as_ref());
    reporter.end();
    assert!(paper.objects().is_empty(), "nobody took a word");
    *paper.slow.0.lock().unwrap() = false;
    paper.slow.1.notify_all();
}

/// A pipe that nobody reads any more.
struct Closed(Arc<AtomicU64>);

impl Display for Closed {
    fn every(&self) -> Duration {
        Duration::from_millis(1)
    }

    fn show(&mut self, _state: &State, _last: bool) -> io::Result<()> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Err(io::ErrorKind::BrokenPipe.into())
    }
}

#[test]
fn what_nobody_reads_is_not_written_again() {
    let tried = Arc::new(AtomicU64::new(0));
    let (working, over) = mpsc::channel::<()>();
    let mut display = Closed(Arc::clone(&tried));
    // Would never come back while the work goes on.
    watch(
        &Counters::default(),
        Work::Backup,
        None,
        &over,
        &mut display,
    );
    drop(working);
    assert_eq!(tried.load(Ordering::Relaxed), 1);
}

/// Shows until the third time.
struct Thrice(Vec<(State, bool)>, Option<Sender<()>>);

impl Display for Thrice {
    fn every(&self) -> Duration {
        Duration::from_millis(1)
    }

    fn show(&mut self, state: &State, last: bool) -> io::Result<()> {
        self.0.push((state.clone(), last));
        if self.0.len() == 3 {
            self.1 = None;
        }
        Ok(())
    }
}

#[test]
fn the_state_is_told_again_and_again_and_the_last_one_is_the_last() {
    let (working, over) = mpsc::channel();
    let mut display = Thrice(Vec::new(), Some(working));
    let counters = Counters::default();
    counters.processed.store(5, Ordering::Relaxed);
    watch(&counters, Work::Backup, Some(9), &over, &mut display);
    let lasts: Vec<bool> = display.0.iter().map(|(_, last)| *last).collect();
    assert_eq!(lasts, [false, false, false, true]);
    assert!(display.0.iter().all(|(state, _)| state.done == 5));
}

#[test]
fn only_bytes_that_are_still_to_come_take_time() {
    let counters = Counters::default();
    let state = |phase, processed: u64, seconds| {
        *counters.phase.lock().unwrap() = phase;
        counters.processed.store(processed, Ordering::Relaxed);
        let mut meter = Meter::default();
        meter.note(Duration::ZERO, 0);
        let elapsed = Duration::from_secs(seconds);
        counters.state(Work::Backup, Some(1000), elapsed, &mut meter)
    };
    assert_eq!(state(Phase::Starting, 0, 9).left, None);
    assert_eq!(state(Phase::Copying, 100, 10).left, Some(90));
    assert_eq!(state(Phase::Finishing, 900, 10).left, None);
}

#[test]
fn a_terminal_shows_the_line_and_then_nothing() {
    let mut line = Line::new(ProgressDrawTarget::hidden());
    let state = Counters::default().state(Work::Restore, None, TICK, &mut Meter::default());
    line.show(&state, false).unwrap();
    assert_eq!(line.0.message(), render::line(&state));
    line.show(&state, true).unwrap();
    assert!(line.0.is_finished());
}
