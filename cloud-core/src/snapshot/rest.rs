//! What the clouds that speak JSON have in common.

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::line::{Line, Twice, Verdict};
use super::{Progress, SnapshotError, SnapshotErrorKind};
use crate::store::{ApiAnswer, ApiCall, RequestId};

/// How long an operation other than a snapshot may take.
const OPERATION: Duration = Duration::from_mins(10);

/// First and longest pause between two looks at an operation.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// A refusal in words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    /// The cloud's word for it.
    pub(super) code: String,
    pub(super) message: String,
    /// What the cloud calls the request.
    pub(super) request: Option<RequestId>,
}

impl Refusal {
    /// The failure of what was being done.
    pub(super) fn error(&self, doing: &str) -> SnapshotError {
        let Self {
            status,
            code,
            message,
            request,
        } = self;
        let kind = match status {
            408 | 429 | 500.. => SnapshotErrorKind::Unreachable,
            409 | 403 if code.contains("Lock") => SnapshotErrorKind::Locked,
            _ => SnapshotErrorKind::Refused,
        };
        let text = if code.is_empty() && message.is_empty() {
            format!("{doing}: the service answered {status}")
        } else {
            format!("{doing}: {code}: {message} (status {status})")
        };
        SnapshotError::refused(kind, text, request.as_ref())
    }
}

/// A success, with the answer it came with, or a refusal.
pub(super) type Answered = Result<(Value, ApiAnswer), Refusal>;

/// Asks, and reads the answer. `refusal` finds the cloud's words in one that is no success.
pub(super) async fn ask(
    line: &Line,
    call: &ApiCall,
    doing: &str,
    refusal: fn(&Value) -> (String, String),
) -> Result<Answered, SnapshotError> {
    let answer = line.ask(call, Twice::Harmless).await;
    let answer = answer.map_err(|error| error.while_(doing))?;
    let value: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    if (200..300).contains(&answer.status) {
        return Ok(Ok((value, answer)));
    }
    let (code, message) = refusal(&value);
    Ok(Err(Refusal {
        status: answer.status,
        code,
        message,
        request: answer.request,
    }))
}

/// The failure of a request that makes something: a service that was not reached to the end
/// may have heard it.
pub(super) fn perhaps(error: SnapshotError) -> SnapshotError {
    match error.kind {
        SnapshotErrorKind::Unreachable => {
            SnapshotError::new(SnapshotErrorKind::Unknown, error.text)
        }
        _ => error,
    }
}

/// A request without a body.
pub(super) fn call(method: &'static str, target: String) -> ApiCall {
    ApiCall {
        method,
        target,
        content_type: None,
        body: Bytes::new(),
    }
}

/// A request with a body in JSON.
pub(super) fn with_body(method: &'static str, target: String, body: &Value) -> ApiCall {
    ApiCall {
        content_type: Some("application/json"),
        body: Bytes::from(body.to_string()),
        ..call(method, target)
    }
}

/// What a status means for the next attempt.
pub(super) fn judge_status(status: u16) -> Verdict {
    match status {
        429 => Verdict::Busy,
        408 | 500.. => Verdict::Trouble,
        _ => Verdict::Final,
    }
}

/// Looks at an operation until it is over.
///
/// # Errors
///
/// It failed, or is not over in time.
pub(super) async fn wait<F>(doing: &str, look: impl Fn() -> F) -> Result<(), SnapshotError>
where
    F: Future<Output = Result<Progress, SnapshotError>>,
{
    let (mut pause, longest) = PAUSES;
    let began = Instant::now();
    loop {
        let wish = match look().await? {
            Progress::Complete => return Ok(()),
            Progress::Failed(why) => {
                let text = format!("{doing}: {why}");
                return Err(SnapshotError::new(SnapshotErrorKind::Refused, text));
            }
            Progress::Pending(wish) => wish.unwrap_or_default(),
        };
        if began.elapsed() > OPERATION {
            let text = format!("{doing}: it was not over within {} s", OPERATION.as_secs());
            return Err(SnapshotError::new(SnapshotErrorKind::Unknown, text));
        }
        sleep(pause.max(wish)).await;
        pause = (pause * 2).min(longest);
    }
}

/// A text that is there, by its path.
pub(super) fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer)?.as_str()
}

/// The last part of the path that names a thing.
pub(super) fn last_part(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}
