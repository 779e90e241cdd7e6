//! What a store says that trying again does not help: one class of error for
//! each cause, told at once, and nothing changed.

use std::collections::BTreeSet;

use e2e::{Fault, PgBin, Rule, S3Server, Workspace};

use super::credentials::expired;
use super::works::{self, WalRestore};
use super::{Behind, assert_refused, row};

#[test]
fn what_trying_again_does_not_help_is_told_at_once() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let error = |status, code: &str| {
        let text = format!("<Error><Code>{code}</Code><Message>no</Message></Error>");
        Fault::Answer(status, text)
    };
    let refusals = [
        (error(403, "AccessDenied"), "AccessDenied"),
        (error(403, "SignatureDoesNotMatch"), "SignatureDoesNotMatch"),
        (
            error(403, "RequestTimeTooSkewed"),
            "the clock of this machine is wrong",
        ),
        (error(403, "QuotaExceeded"), "QuotaExceeded"),
        (expired(), "renew the credentials"),
    ];
    let no_bucket = [(error(404, "NoSuchBucket"), "NoSuchBucket")];
    let works = works::all(&bin, &workspace, &bucket);
    for behind in &works {
        behind.work.undo();
    }
    let keys = bucket.keys("");
    for behind in &works {
        // It looks for its bucket, as Barman does.
        let looks = behind.work.name() == "`backup`";
        for (done, answers, code) in [
            (
                "the store refuses it for good (AccessDenied, SignatureDoesNotMatch, \
                 RequestTimeTooSkewed, QuotaExceeded, ExpiredToken of keys that are written down)",
                &refusals[..],
                4,
            ),
            (
                "its bucket is gone (NoSuchBucket)",
                &no_bucket,
                if looks { 1 } else { 4 },
            ),
        ] {
            let found =
                format!("exit {code} at once, one line with the cause; nothing was changed");
            let mut row = row(behind.work.name(), done, &found);
            for (fault, said) in answers {
                behind.proxy.add(&Rule::new(fault).always());
                let before = behind.proxy.log().len();
                let run = behind.start(&[]).wait();
                behind.proxy.clear();
                assert_refused(&run, code);
                let log = behind.proxy.log().split_off(before);
                let lines: BTreeSet<_> = log.iter().map(|request| &request.line).collect();
                assert_eq!(lines.len(), log.len(), "tried again: {log:?}");
                // Answers to HEAD have no words.
                let without_words = log.iter().all(|request| request.line.starts_with("HEAD "));
                assert!(without_words || run.stderr.contains(said), "{said}: {run}");
                row.lived_through();
            }
            row.finish();
        }
    }
    assert_eq!(bucket.keys(""), keys);
    assert_eq!(bucket.uploads(), [""; 0]);
}

/// The tool whose patience can be set, so that a test need not wait.
#[test]
fn trouble_that_lasts_is_told_by_its_first_error_when_the_time_is_over() {
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let behind = Behind::new(&bucket, Box::new(WalRestore::new(&workspace, &bucket)));
    let page = "<html><body>Login</body></html>".to_owned();
    for (done, fault, said) in [
        (
            "the store answers 500 for good",
            Fault::Status(500),
            "status 500",
        ),
        (
            "the store answers 503 for good",
            Fault::Status(503),
            "SlowDown",
        ),
        (
            "the store answers 429 for good",
            Fault::Status(429),
            "status 429",
        ),
        (
            "connections are reset for good",
            Fault::Reset,
            "no answer from",
        ),
        (
            "answers are lost for good",
            Fault::LostResponse,
            "no answer from",
        ),
        (
            "the store is silent for good",
            Fault::Delay(3600.0),
            "--read-timeout",
        ),
        (
            "a web page answers in the store's place",
            Fault::Answer(200, page),
            "list",
        ),
    ] {
        let found = "exit 2 when `--retry-timeout` is over, with the first error and how often it \
                     was tried; nothing is delivered";
        let mut row = row(behind.work.name(), done, found);
        behind.work.undo();
        behind.proxy.add(&Rule::new(&fault));
        // What comes later is only an echo.
        let later = match fault {
            Fault::Status(500) => Fault::Reset,
            _ => Fault::Status(500),
        };
        behind.proxy.add(&Rule::new(&later).always());
        let before = behind.proxy.log().len();
        let options = match fault {
            Fault::Delay(_) => ["--retry-timeout=2", "--read-timeout=1"],
            _ => ["--retry-timeout=1", "--read-timeout=60"],
        };
        let run = behind.start(&options).wait();
        behind.proxy.clear();
        assert_refused(&run, 2);
        let tried = behind.proxy.log().len() - before;
        let count = format!("(tried {tried} times)");
        assert!(tried == 1 || run.stderr.contains(&count), "{count}: {run}");
        assert!(run.stderr.contains(said), "{said}: {run}");
        let folder = std::fs::read_dir(workspace.path("fetched")).unwrap();
        assert_eq!(folder.count(), 0, "{run}");
        row.lived_through();
        row.finish();
    }
}
