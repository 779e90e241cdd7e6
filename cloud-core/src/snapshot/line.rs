//! Requests that are repeated as long as that helps.
//!
//! A service that asks for time gets it. What it has not done may be asked for again; what
//! it may have done is asked for again only if twice is the same as once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::{SnapshotError, SnapshotErrorKind};
use crate::store::{Api, ApiAnswer, ApiCall, ApiError, StoreErrorKind};

/// First pause, before jitter.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// Longest pause, before jitter.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Longest pause that a service may ask for.
const LONGEST_WISH: Duration = Duration::from_mins(2);

/// Most patience with a service that has not answered once.
const FIRST_CONTACT: Duration = Duration::from_mins(1);

/// What an answer means for the next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is the answer.
    Final,
    /// Nothing was done; later it may be.
    Busy,
    /// Perhaps something was done.
    Trouble,
}

/// Whether a request may be sent again if it was perhaps heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Twice {
    /// It is the same as once.
    Harmless,
    /// It does it twice.
    Never,
}

/// The way to a service.
#[derive(Debug)]
pub(super) struct Line {
    api: Arc<dyn Api>,
    retry: Duration,
    /// Whether the service has answered in this run.
    met: AtomicBool,
    judge: fn(&ApiAnswer) -> Verdict,
}

impl Line {
    /// `retry`: no attempt begins later than so long after the first one.
    pub(super) fn new(
        api: Arc<dyn Api>,
        retry: Duration,
        judge: fn(&ApiAnswer) -> Verdict,
    ) -> Self {
        Self {
            api,
            retry,
            met: AtomicBool::new(false),
            judge,
        }
    }

    /// Sends a request until there is an answer that means something, or no time is left:
    /// then the last answer is the one.
    ///
    /// # Errors
    ///
    /// There is no answer: `Unknown` if the request must not be repeated.
    pub(super) async fn ask(
        &self,
        call: &ApiCall,
        twice: Twice,
    ) -> Result<ApiAnswer, SnapshotError> {
        let began = Instant::now();
        let mut pause = FIRST_PAUSE;
        let mut first: Option<ApiError> = None;
        loop {
            let sent = self.api.send(call).await;
            if sent.is_ok() {
                self.met.store(true, Ordering::Relaxed);
            }
            let limit = if self.met.load(Ordering::Relaxed) {
                self.retry
            } else {
                self.retry.min(FIRST_CONTACT)
            };
            let wish = match &sent {
                Ok(answer) => match (self.judge)(answer) {
                    Verdict::Trouble if twice == Twice::Harmless => answer.retry_after(),
                    Verdict::Busy => answer.retry_after(),
                    Verdict::Final | Verdict::Trouble => return sent.map_err(Into::into),
                },
                Err(error) if !repeatable(error.kind) => return sent.map_err(Into::into),
                Err(error) if twice == Twice::Never && perhaps_heard(error.kind) => {
                    return Err(SnapshotError::new(SnapshotErrorKind::Unknown, &error.text));
                }
                Err(_) => None,
            };
            let jitter = 0.5 + fastrand::f64() / 2.0;
            let wait = wish
                .map(|wish| wish.min(LONGEST_WISH))
                .unwrap_or_default()
                .max(pause.mul_f64(jitter));
            if began.elapsed() + wait > limit {
                // The first failure says most; later ones are often only its echo.
                return sent.map_err(|error| first.unwrap_or(error).into());
            }
            if let Err(error) = sent {
                tracing::debug!("{error}; trying again");
                first.get_or_insert(error);
            }
            tokio::time::sleep(wait).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

fn repeatable(kind: StoreErrorKind) -> bool {
    kind.is_transient()
}

/// A request that met no credentials was not sent; of others it is not known.
fn perhaps_heard(kind: StoreErrorKind) -> bool {
    matches!(kind, StoreErrorKind::Timeout | StoreErrorKind::Connect)
}
