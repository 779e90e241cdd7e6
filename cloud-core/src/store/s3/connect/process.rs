//! A program that prints credentials (`credential_process`).

use std::process::Stdio;
use std::time::Duration;

use aws_credential_types::Credentials;
use serde_json::Value;
use tokio::process::Command;

use super::ConnectError;
use super::json;
use crate::store::StoreErrorKind;

/// Longest time that the program may take. Some of them wait for a person's
/// second factor; WAL that waits for longer should be tried again.
const LIMIT: Duration = Duration::from_mins(1);

/// Longest text of the program that is part of our message, in characters.
const MAX_QUOTE: usize = 200;

/// Step 7 of the chain. The command is split into words as a shell does it, and
/// run without one, as in the reference; small images have none.
pub(super) async fn run(command: &str, profile: &str) -> Result<Credentials, ConnectError> {
    run_within(LIMIT, command, profile).await
}

async fn run_within(
    limit: Duration,
    command: &str,
    profile: &str,
) -> Result<Credentials, ConnectError> {
    let failed = |kind, why: String| {
        // Not the whole command: arguments may be secrets.
        let text = format!("the credential_process of profile `{profile}` failed: {why}");
        Err(ConnectError::new(kind, text))
    };
    let refused = StoreErrorKind::Unauthenticated;
    let words = shlex::split(command).unwrap_or_default();
    let Some((program, arguments)) = words.split_first() else {
        return failed(refused, "the command cannot be split into words".into());
    };
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = match tokio::time::timeout(limit, child).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return failed(refused, format!("could not run `{program}`: {error}")),
        Err(_) => {
            let why = format!("`{program}` did not end within {} s", limit.as_secs_f64());
            return failed(StoreErrorKind::Timeout, why);
        }
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().rev().find(|line| !line.trim().is_empty());
        let last = last.unwrap_or("it said nothing").trim();
        let quote: String = last.chars().take(MAX_QUOTE).collect();
        let status = output.status;
        return failed(refused, format!("`{program}` ended with {status}: {quote}"));
    }
    let version = serde_json::from_slice(&output.stdout)
        .ok()
        .and_then(|answer: Value| answer.get("Version")?.as_i64());
    match (json::credentials(&output.stdout, "process"), version) {
        (Ok(credentials), Some(1)) => Ok(credentials),
        (Ok(_), _) => failed(refused, "its answer is not of `Version` 1".into()),
        (Err(why), _) => failed(refused, why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn said(command: &str) -> ConnectError {
        run(command, "dev").await.unwrap_err()
    }

    #[tokio::test]
    async fn what_the_program_prints_are_the_credentials() {
        let command = r#"echo '{"Version": 1, "AccessKeyId": "a b", "SecretAccessKey": "s"}'"#;
        let credentials = run(command, "dev").await.unwrap();
        assert_eq!(credentials.access_key_id(), "a b");
        assert_eq!(credentials.expiry(), None);
    }

    #[tokio::test]
    async fn a_failure_says_what_and_never_shows_arguments_or_the_answer() {
        let begin = "the credential_process of profile `dev` failed: ";
        let script = "echo first >&2; echo \"no ticket\" >&2; echo hush; exit 3";
        for (command, expected) in [
            (
                format!("sh -c '{script}' hush"),
                "`sh` ended with exit status: 3: no ticket",
            ),
            (
                "/no/such/program hush".into(),
                "could not run `/no/such/program`: ",
            ),
            ("echo hush".into(), "the answer is not JSON"),
            ("'hush".into(), "the command cannot be split into words"),
            (
                r#"echo '{"AccessKeyId": "a", "SecretAccessKey": "hush"}'"#.into(),
                "its answer is not of `Version` 1",
            ),
        ] {
            let error = said(&command).await;
            assert_eq!(error.kind, StoreErrorKind::Unauthenticated);
            let text = error.to_string();
            let rest = text.strip_prefix(begin).unwrap();
            assert!(rest.starts_with(expected), "{text}");
            assert!(!text.contains("hush"), "{text}");
        }
    }

    #[tokio::test]
    async fn a_program_that_does_not_end_is_ended() {
        let directory = tempfile::tempdir().unwrap();
        let pid = directory.path().join("pid");
        let command = format!("sh -c 'echo $$ > {}; exec sleep 600'", pid.display());
        let run = run_within(Duration::from_secs(1), &command, "dev");
        let error = run.await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Timeout);
        // It is not left behind, if it came so far at all.
        let pid = std::fs::read_to_string(pid).unwrap_or_default();
        let stat = format!("/proc/{}/stat", pid.trim());
        loop {
            match std::fs::read_to_string(&stat) {
                Ok(stat) if !stat.contains(") Z ") => tokio::task::yield_now().await,
                _ => break,
            }
        }
    }
}
