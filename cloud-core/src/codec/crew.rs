//! Threads of a codec, which take whatever is the next to be done.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

/// The threads. They end when this is dropped, after what they are at.
pub(super) struct Crew<J> {
    name: &'static str,
    /// `None` only while it is dropped.
    jobs: Option<Sender<J>>,
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl<J: Send + 'static> Crew<J> {
    /// So many threads, at least one, each of which does what a `worker` of its own does with
    /// a job. `name` is `encoder` or `decoder`.
    pub(super) fn new<W: FnMut(J) + Send + 'static>(
        name: &'static str,
        threads: usize,
        worker: impl Fn() -> io::Result<W>,
    ) -> io::Result<Self> {
        let (jobs, todo) = channel();
        let todo = Arc::new(Mutex::new(todo));
        let mut crew = Self {
            name,
            jobs: Some(jobs),
            over: Arc::default(),
            threads: Vec::new(),
        };
        for _ in 0..threads.max(1) {
            let worker = worker()?;
            let (todo, over) = (Arc::clone(&todo), Arc::clone(&crew.over));
            let thread = thread::Builder::new().name(name.into());
            let thread = thread.spawn(move || serve(worker, &todo, &over));
            crew.threads.push(thread.map_err(|error| {
                let text = format!(
                    "could not start {threads} threads of the {name} ({error}): fewer, or one, \
                     may be possible"
                );
                io::Error::new(error.kind(), text)
            })?);
        }
        Ok(crew)
    }

    /// How many threads there are.
    pub(super) fn threads(&self) -> usize {
        self.threads.len()
    }

    /// Gives a job to whoever is free first.
    pub(super) fn give(&self, job: J) -> io::Result<()> {
        let jobs = self.jobs.as_ref().ok_or_else(|| self.gone())?;
        jobs.send(job).map_err(|_| self.gone())
    }

    /// A thread that was given a job has ended without an answer.
    pub(super) fn gone(&self) -> io::Error {
        io::Error::other(format!(
            "a thread of the {} ended early, which is a mistake in this program",
            self.name
        ))
    }
}

impl<J> Drop for Crew<J> {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // One that panicked was noticed by who waited for it.
            let _ = thread.join();
        }
    }
}

fn serve<J>(mut worker: impl FnMut(J), todo: &Mutex<Receiver<J>>, over: &AtomicBool) {
    loop {
        let job = todo.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else {
            return;
        };
        if over.load(Ordering::Relaxed) {
            return;
        }
        worker(job);
    }
}
