//! Exit codes, which other programs read, and the line that goes with them.

use super::Tool;
use super::logging::OUTCOME;
use super::signals::EndBy;
use crate::ops::{OpError, OpErrorKind};

/// The operation failed, or what was asked for is not there.
const FAILED: u8 = 1;
/// The store could not be reached.
pub(super) const UNREACHABLE: u8 = 2;
/// The command line is wrong.
pub(super) const USAGE: u8 = 3;
/// Anything else.
pub(super) const GENERAL: u8 = 4;
/// A hook script that must not be run again.
const NO_RETRY: u8 = 63;

/// The exit code of a tool that was interrupted and could not end by the signal.
/// Never 1 where that would mean that there is no more WAL
/// (docs/decisions.md 11).
pub(super) fn interrupted(end_by: EndBy) -> u8 {
    match end_by {
        EndBy::Signal => GENERAL,
        EndBy::ExitCode => FAILED,
    }
}

/// The exit code of a failure.
fn code_for(kind: OpErrorKind, unreachable: u8, end_by: EndBy) -> u8 {
    match kind {
        OpErrorKind::Failed => FAILED,
        OpErrorKind::Interrupted => interrupted(end_by),
        OpErrorKind::Unreachable => unreachable,
        OpErrorKind::Usage => USAGE,
        OpErrorKind::General => GENERAL,
        OpErrorKind::NoRetry => NO_RETRY,
    }
}

/// The line of a failure. Where the tool answers in its own words they stand
/// alone.
fn line(words: &str, error: &OpError) -> String {
    let stands_alone = match error.kind {
        OpErrorKind::Failed | OpErrorKind::Usage | OpErrorKind::Interrupted => true,
        OpErrorKind::General | OpErrorKind::Unreachable | OpErrorKind::NoRetry => error.own_words,
    };
    let text = if stands_alone {
        error.message.clone()
    } else {
        format!("Barman cloud {words} exception: {}", error.message)
    };
    // A message of several lines would look like several messages.
    text.replace(['\r', '\n'], " ")
}

/// Logs a failure and says what to exit with.
pub(super) fn report<T: Tool>(error: &OpError, unreachable: u8) -> u8 {
    let line = line(T::WORDS, error);
    let code = code_for(error.kind, unreachable, EndBy::of(T::HABITS));
    let hint = error.hint.as_deref();
    let request = error.request.as_ref();
    let request_id = request.map(|request| request.id.as_str());
    let host_id = request.and_then(|request| request.host.as_deref());
    if error.expected {
        tracing::info!(target: OUTCOME, code, hint, request_id, host_id, "{line}");
    } else {
        tracing::error!(target: OUTCOME, code, hint, request_id, host_id, "{line}");
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_failure_has_its_code() {
        for (kind, code) in [
            (OpErrorKind::Failed, 1),
            (OpErrorKind::Interrupted, 1),
            (OpErrorKind::Unreachable, 2),
            (OpErrorKind::Usage, 3),
            (OpErrorKind::General, 4),
            (OpErrorKind::NoRetry, 63),
        ] {
            assert_eq!(
                code_for(kind, UNREACHABLE, EndBy::ExitCode),
                code,
                "{kind:?}"
            );
        }
        let unreachable = code_for(OpErrorKind::Unreachable, 255, EndBy::Signal);
        assert_eq!(unreachable, 255);
    }

    /// Exit code 1 of a restore command means that there is no more WAL.
    #[test]
    fn an_interrupted_wal_tool_never_ends_with_1() {
        let code = code_for(OpErrorKind::Interrupted, UNREACHABLE, EndBy::Signal);
        assert_eq!(code, GENERAL);
    }

    #[test]
    fn messages_stand_alone_or_behind_the_tools_name() {
        let line_of = |kind, text: &str| line("restore", &OpError::new(kind, text));
        assert_eq!(line_of(OpErrorKind::Failed, "no"), "no");
        assert_eq!(
            line_of(OpErrorKind::General, "no\nmore"),
            "Barman cloud restore exception: no more"
        );
        let told = "Can't connect to cloud provider: refused";
        let error = OpError::new(OpErrorKind::Unreachable, told);
        assert_eq!(line("restore", &error.in_own_words()), told);
    }
}
