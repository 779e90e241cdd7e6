//! A write load that goes on while a base backup runs.
//!
//! It inserts into, updates and deletes from every table it is given in one
//! transaction after another, so that pages change under the backup's hands. A
//! test that wants to know exactly what the data was at some moment holds it
//! between two transactions.

use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::cluster::Cluster;
use crate::sql::Session;

/// Between two transactions: enough to keep the archiver from falling behind.
const PACE: Duration = Duration::from_millis(2);

#[derive(Debug, Default)]
struct State {
    hold: bool,
    held: bool,
    stop: bool,
    committed: u64,
}

/// A thread that writes until it is stopped.
#[derive(Debug)]
pub struct WriteLoad {
    state: Arc<(Mutex<State>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl WriteLoad {
    /// Makes `tables` (a name, and the tablespace it lies in if not the default)
    /// and begins to write.
    pub fn start(cluster: &Cluster, tables: &[(&str, Option<&str>)]) -> Self {
        let session = cluster.session();
        for (table, tablespace) in tables {
            let place = tablespace.map_or(String::new(), |name| format!("TABLESPACE \"{name}\""));
            session.run(&format!(
                "CREATE TABLE IF NOT EXISTS {table} \
                 (id bigint GENERATED ALWAYS AS IDENTITY, at timestamptz DEFAULT clock_timestamp(), \
                  body text) {place}"
            ));
        }
        let statements = transaction(tables);
        let state = Arc::new((Mutex::new(State::default()), Condvar::new()));
        let of_thread = Arc::clone(&state);
        let thread = std::thread::spawn(move || write(&session, &statements, &of_thread));
        let load = Self {
            state,
            thread: Some(thread),
        };
        load.wait_for_commits(1);
        load
    }

    /// Returns when it has committed `more` transactions from now on.
    pub fn wait_for_commits(&self, more: u64) {
        let (lock, changed) = &*self.state;
        let mut state = lock.lock().expect("the writer did not panic");
        let goal = state.committed + more;
        while state.committed < goal {
            assert!(!self.has_ended(), "the writer ended early");
            let waited = changed.wait_timeout(state, Duration::from_millis(100));
            state = waited.expect("the writer did not panic").0;
        }
    }

    /// Runs `work` while no transaction of the load is open.
    pub fn held<T>(&self, work: impl FnOnce() -> T) -> T {
        let (lock, changed) = &*self.state;
        let mut state = lock.lock().expect("the writer did not panic");
        state.hold = true;
        while !state.held {
            assert!(!self.has_ended(), "the writer ended early");
            let waited = changed.wait_timeout(state, Duration::from_millis(100));
            state = waited.expect("the writer did not panic").0;
        }
        drop(state);
        let result = work();
        lock.lock().expect("the writer did not panic").hold = false;
        changed.notify_all();
        result
    }

    /// Names a restore point between two transactions, and ends the load when it went
    /// on behind the point; gives the digest of the rows at it.
    ///
    /// # Panics
    ///
    /// If the rows did not change behind the point.
    pub fn stop_behind_point(self, session: &Session, name: &str) -> String {
        let digest = self.held(|| {
            session.run(&format!("SELECT pg_create_restore_point('{name}')"));
            session.digest()
        });
        self.wait_for_commits(1);
        self.stop();
        let now = session.digest();
        assert_ne!(now, digest, "the load went on behind the point");
        digest
    }

    /// Ends the load; gives the number of transactions it committed.
    pub fn stop(mut self) -> u64 {
        let thread = self.ask_to_stop().expect("stopped once");
        thread.join().expect("the writer did not panic");
        self.state
            .0
            .lock()
            .expect("the writer did not panic")
            .committed
    }

    fn ask_to_stop(&mut self) -> Option<JoinHandle<()>> {
        let (lock, changed) = &*self.state;
        if let Ok(mut state) = lock.lock() {
            state.stop = true;
        }
        changed.notify_all();
        self.thread.take()
    }

    fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for WriteLoad {
    fn drop(&mut self) {
        if let Some(thread) = self.ask_to_stop() {
            let _ = thread.join();
        }
    }
}

fn transaction(tables: &[(&str, Option<&str>)]) -> String {
    let mut sql = String::from("BEGIN;");
    for (table, _) in tables {
        sql.push_str(&format!(
            "INSERT INTO {table} (body) SELECT repeat(md5(random()::text), 6) \
             FROM generate_series(1, 3);\
             UPDATE {table} SET body = md5(body) WHERE id = \
             (SELECT floor(random() * max(id))::bigint FROM {table});\
             DELETE FROM {table} WHERE id = \
             (SELECT floor(random() * max(id))::bigint FROM {table});"
        ));
    }
    sql.push_str("COMMIT");
    sql
}

fn write(session: &Session, statements: &str, shared: &(Mutex<State>, Condvar)) {
    let (lock, changed) = shared;
    loop {
        let mut state = lock.lock().expect("the test holds the lock only briefly");
        while state.hold && !state.stop {
            state.held = true;
            changed.notify_all();
            state = changed
                .wait(state)
                .expect("the test holds the lock only briefly");
        }
        state.held = false;
        if state.stop {
            return;
        }
        drop(state);
        // A server that was stopped under the load ends it.
        if session.try_rows(statements).is_err() {
            return;
        }
        lock.lock()
            .expect("the test holds the lock only briefly")
            .committed += 1;
        changed.notify_all();
        std::thread::park_timeout(PACE);
    }
}
