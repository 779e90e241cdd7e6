//! One file per tool: what it does, without a command line.

use std::collections::HashMap;
use std::ffi::OsString;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::report::Reporter;
use crate::store::{RequestId, StoreError, StoreErrorKind};

pub mod archives;
pub mod backup;
pub mod check_wal_archive;
pub mod delete;
mod folder;
mod gaps;
pub mod hints;
pub mod hook;
pub mod keep;
pub mod list;
mod lookup;
pub mod metrics;
pub(crate) mod near;
mod owners;
mod reading;
mod record;
pub mod relay;
pub mod restore;
pub mod show;
mod snapshots;
pub mod verify;
pub mod wal_archive;
mod wal_object;
pub mod wal_restore;
#[cfg(test)]
mod wal_testing;

/// What an operation needs that is not in its request.
#[derive(Debug, Clone)]
pub struct Ctx {
    /// Hears of progress.
    pub reporter: Arc<dyn Reporter>,
    /// Set when a signal asks to stop; operations then clean up and return
    /// [`OpErrorKind::Interrupted`].
    pub cancel: CancellationToken,
    /// The environment as it was at the start.
    pub env: Env,
}

/// A snapshot of the environment, so that tests need not change the real one.
#[derive(Debug, Clone, Default)]
pub struct Env(HashMap<OsString, OsString>);

impl Env {
    /// The environment of this process.
    pub fn of_process() -> Self {
        Self(std::env::vars_os().collect())
    }

    /// The value of `name` if it is set, possibly empty, and is UTF-8.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(std::ffi::OsStr::new(name))?.to_str()
    }

    /// The names that are UTF-8, in no order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().filter_map(|name| name.to_str())
    }

    /// The value of `name` if it is set, possibly empty.
    pub fn get_os(&self, name: &str) -> Option<&std::ffi::OsStr> {
        self.0
            .get(std::ffi::OsStr::new(name))
            .map(OsString::as_os_str)
    }
}

impl<K: Into<OsString>, V: Into<OsString>> FromIterator<(K, V)> for Env {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(iter: I) -> Self {
        Self(
            iter.into_iter()
                .map(|(k, v)| (k.into(), v.into()))
                .collect(),
        )
    }
}

/// For whom the answer of a catalogue tool is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// People, and scripts that cut columns.
    Console,
    /// Programs.
    Json,
}

impl Format {
    /// As typed: anything but `console` is JSON.
    pub fn of(text: &str) -> Self {
        if text == "console" {
            Self::Console
        } else {
            Self::Json
        }
    }
}

/// What an operation wants printed.
#[derive(Debug, Default)]
pub struct Answer {
    /// The text, with its newlines; possibly empty.
    pub text: String,
    /// Why the text is not all that was asked for.
    pub failure: Option<OpError>,
}

impl Answer {
    /// All that was asked for.
    pub fn whole(text: String) -> Self {
        Self {
            text,
            failure: None,
        }
    }
}

/// Why an operation failed.
///
/// `message` is the line for the user, complete: what was being done, to what,
/// why it failed. `cli::exit` maps the kind to an exit code.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct OpError {
    /// The class of the failure.
    pub kind: OpErrorKind,
    /// One line, no secrets.
    pub message: String,
    /// What to do next, if that is known.
    pub hint: Option<String>,
    /// An outcome that belongs to normal work, though the exit code tells it:
    /// worth a line at INFO, not at ERROR.
    pub expected: bool,
    /// The message brings its own beginning: it stands alone whatever the kind.
    pub own_words: bool,
    /// The store did not do what it was asked for.
    pub of_store: bool,
    /// What the store calls the request that failed, if it answered; the message has it
    /// too.
    pub request: Option<RequestId>,
}

/// An error with its causes, in one line. Causes that the text before already
/// ends with are not repeated.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

/// What to do about a store that was not reached.
fn unreached_advice(kind: StoreErrorKind) -> &'static str {
    match kind {
        StoreErrorKind::Connect | StoreErrorKind::Timeout => {
            "; check the endpoint, the network and the proxy"
        }
        StoreErrorKind::RateLimited | StoreErrorKind::ServerFault => "; try again later",
        // A certificate's complaint says what to do.
        _ => "",
    }
}

/// The classes of failure that callers of the tools tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpErrorKind {
    /// The operation failed, or the thing asked for is absent: exit 1, message
    /// printed as it is.
    Failed,
    /// The store could not be reached: exit 2.
    Unreachable,
    /// Wrong input: exit 3, message printed as it is.
    Usage,
    /// Anything else: exit 4, message printed behind
    /// `Barman cloud <tool words> exception: `.
    General,
    /// A signal asked to stop: exit 1, or the end by that signal.
    Interrupted,
    /// A hook script that must not be retried: exit 63.
    NoRetry,
}

impl OpError {
    /// What a failure of the store means for an operation that has changed
    /// nothing yet: unreachable is told apart from everything else
    /// (docs/decisions.md 9).
    pub fn of_store(error: &StoreError) -> Self {
        let kind = if error.kind.is_unreachable() {
            OpErrorKind::Unreachable
        } else {
            OpErrorKind::General
        };
        Self {
            of_store: true,
            ..Self::new(kind, chain(error)).because(error)
        }
    }

    /// Why a bucket could not be looked at: which step failed, and what to do. The
    /// words are the reference's where it has some.
    pub fn unproved(bucket: &str, error: &StoreError) -> Self {
        let Self { kind, message, .. } = Self::of_store(error);
        if kind == OpErrorKind::Unreachable {
            let advice = unreached_advice(error.kind);
            let text = format!("Can't connect to cloud provider: {message}{advice}");
            return Self::new(kind, text).because(error).in_own_words();
        }
        let text = match error.kind {
            StoreErrorKind::PermissionDenied => format!(
                "Permission denied when accessing bucket '{bucket}'. Verify that the configured \
                 credentials have sufficient permissions: {message}"
            ),
            StoreErrorKind::Unauthenticated => format!(
                "Not authenticated for bucket '{bucket}'. Verify the configured credentials: \
                 {message}"
            ),
            StoreErrorKind::Invalid => format!(
                "Bad request when accessing bucket '{bucket}'. This may indicate invalid or \
                 misconfigured credentials: {message}"
            ),
            _ => message,
        };
        Self::new(kind, text).because(error)
    }

    /// An error of this kind, without a hint.
    pub fn new(kind: OpErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hint: None,
            expected: false,
            own_words: false,
            of_store: false,
            request: None,
        }
    }

    /// The same error, with what is known of its cause: what the store calls the request,
    /// and what to do next.
    #[must_use]
    pub fn because(self, cause: &StoreError) -> Self {
        Self {
            request: cause.request().cloned(),
            hint: self.hint.or_else(|| hints::of_store(cause)),
            ..self
        }
    }

    /// The same error, marked as an outcome that belongs to normal work.
    #[must_use]
    pub fn expected(mut self) -> Self {
        self.expected = true;
        self
    }

    /// The same error, whose message stands alone whatever the kind.
    #[must_use]
    pub fn in_own_words(mut self) -> Self {
        self.own_words = true;
        self
    }

    /// The same error with a next step, if one is known.
    #[must_use]
    pub fn with_hint_if(self, hint: Option<&str>) -> Self {
        match hint {
            Some(hint) => self.with_hint(hint),
            None => self,
        }
    }

    /// The same error with a next step for the user.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}
