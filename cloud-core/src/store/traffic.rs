//! What a run cost the line and the store, counted where it happens: requests by the
//! HTTP client, bytes at its connections (below TLS, so that headers and handshakes are
//! in them), retries where they are decided on; in a directory each call and its bytes.
//!
//! One count for the process, as for the line of progress: a process runs one tool, and
//! its connections are made in many places, those for credentials among them.

use std::sync::atomic::{AtomicU64, Ordering};

static REQUESTS: AtomicU64 = AtomicU64::new(0);
static RETRIES: AtomicU64 = AtomicU64::new(0);
static SENT: AtomicU64 = AtomicU64::new(0);
static RECEIVED: AtomicU64 = AtomicU64::new(0);

/// What was counted until now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// Requests that were begun, those that were tried again among them.
    pub requests: u64,
    /// How often something was tried again because it had failed.
    pub retries: u64,
    /// Bytes.
    pub sent: u64,
    /// Bytes.
    pub received: u64,
}

impl Traffic {
    /// Of this process.
    pub fn until_now() -> Self {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Self {
            requests: read(&REQUESTS),
            retries: read(&RETRIES),
            sent: read(&SENT),
            received: read(&RECEIVED),
        }
    }
}

/// A request is begun.
pub(super) fn request() {
    REQUESTS.fetch_add(1, Ordering::Relaxed);
}

/// What failed is tried again.
pub fn count_retry() {
    RETRIES.fetch_add(1, Ordering::Relaxed);
}

/// `bytes` more went to the store.
pub(super) fn sent(bytes: usize) {
    SENT.fetch_add(bytes as u64, Ordering::Relaxed);
}

/// `bytes` more came from the store.
pub(super) fn received(bytes: usize) {
    RECEIVED.fetch_add(bytes as u64, Ordering::Relaxed);
}
