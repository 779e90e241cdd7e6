//! Threads of a codec, which take whatever is the next to be done.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

/// The threads. They end when this is dropped, after what they are at.
pub(super) struct Crew<J> {
    name: &'static str,
    todo: Arc<Todo<J>>,
    threads: Vec<JoinHandle<()>>,
}

/// What is to be done.
///
/// A channel whose end all threads share behind a lock would wake two of them for each
/// job: the one that has the lock, and the next, which then waits in its place.
struct Todo<J> {
    state: Mutex<State<J>>,
    more: Condvar,
}

struct State<J> {
    jobs: VecDeque<J>,
    /// Threads that take jobs.
    serving: usize,
    over: bool,
}

impl<J> Todo<J> {
    /// Nothing is left half done where a thread could panic.
    fn lock(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next job; `None` when it is over.
    fn next(&self) -> Option<J> {
        let waits = |state: &mut State<J>| !state.over && state.jobs.is_empty();
        let state = self.more.wait_while(self.lock(), waits);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        if state.over {
            return None;
        }
        state.jobs.pop_front()
    }
}

impl<J: Send + 'static> Crew<J> {
    /// So many threads, at least one, each of which does what a `worker` of its own does with
    /// a job. `name` is `encoder` or `decoder`.
    pub(super) fn new<W: FnMut(J) + Send + 'static>(
        name: &'static str,
        threads: usize,
        worker: impl Fn() -> io::Result<W>,
    ) -> io::Result<Self> {
        let todo = Todo {
            state: Mutex::new(State {
                jobs: VecDeque::new(),
                serving: 0,
                over: false,
            }),
            more: Condvar::new(),
        };
        let mut crew = Self {
            name,
            todo: Arc::new(todo),
            threads: Vec::new(),
        };
        for _ in 0..threads.max(1) {
            let worker = worker()?;
            let serving = Serving::new(&crew.todo);
            let thread = thread::Builder::new().name(name.into());
            let thread = thread.spawn(move || serving.serve(worker));
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
        let mut state = self.todo.lock();
        if state.serving == 0 {
            return Err(self.gone());
        }
        state.jobs.push_back(job);
        drop(state);
        self.todo.more.notify_one();
        Ok(())
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
        self.todo.lock().over = true;
        self.todo.more.notify_all();
        for thread in self.threads.drain(..) {
            // One that panicked was noticed by who waited for it.
            let _ = thread.join();
        }
    }
}

/// A thread's place among those that take jobs, however it ends.
struct Serving<J> {
    todo: Arc<Todo<J>>,
}

impl<J> Serving<J> {
    fn new(todo: &Arc<Todo<J>>) -> Self {
        todo.lock().serving += 1;
        Self {
            todo: Arc::clone(todo),
        }
    }

    fn serve(self, mut worker: impl FnMut(J)) {
        while let Some(job) = self.todo.next() {
            worker(job);
        }
    }
}

impl<J> Drop for Serving<J> {
    fn drop(&mut self) {
        let mut state = self.todo.lock();
        state.serving -= 1;
        if state.serving == 0 {
            // Who waits for one of them learns that nobody is left.
            let jobs = std::mem::take(&mut state.jobs);
            drop(state);
            drop(jobs);
        }
    }
}
