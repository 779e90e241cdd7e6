//! What a store can do to a base backup.

use e2e::{Bucket, Fault, PgBin, Rule, Run, S3Server, Workspace, of_sample_or_whole};

use super::works::Backup;
use super::{Behind, row};

const TOOL: &str = "`backup`";

/// A name that only requests for a part have, and one that only the completion
/// of an upload has.
const PART: &str = "partNumber=";
const COMPLETION: &str = "^POST /[^?]*\\?.*uploadId=";
const INFO: &str = "^PUT /.*/backup.info";

fn error(status: u16, code: &str) -> Fault {
    Fault::Answer(status, words(code))
}

fn words(code: &str) -> String {
    format!("<Error><Code>{code}</Code><Message>no</Message></Error>")
}

/// A running server, about to be backed up by way of a proxy.
struct Scene<'w> {
    behind: Behind<'w>,
    bucket: &'w Bucket<'w>,
}

impl<'w> Scene<'w> {
    fn new(bin: &PgBin, workspace: &'w Workspace, bucket: &'w Bucket<'w>) -> Self {
        let work = Backup::new(bin, workspace, bucket);
        Self {
            behind: Behind::new(bucket, Box::new(work)),
            bucket,
        }
    }

    /// A backup while `rules` hold.
    fn backup(&self, rules: &[Rule], options: &[&str]) -> Run {
        self.behind.work.undo();
        for rule in rules {
            self.behind.proxy.add(rule);
        }
        let run = self.behind.start(options).wait();
        self.behind.proxy.clear();
        run
    }

    fn status(&self) -> String {
        let keys = self.bucket.keys("backup/base/");
        let info = keys.iter().find(|key| key.ends_with("/backup.info"));
        let info = String::from_utf8(self.bucket.read(info.expect("it was begun"))).unwrap();
        let line = info.lines().find_map(|line| line.strip_prefix("status="));
        line.unwrap().to_owned()
    }
}

/// One thing that a store does, in the words of the document.
struct Case {
    done: &'static str,
    rules: Vec<Rule>,
    options: &'static [&'static str],
}

fn case(done: &'static str, rules: impl IntoIterator<Item = Rule>) -> Case {
    Case {
        done,
        rules: rules.into_iter().collect(),
        options: &[],
    }
}

/// What a backup outlives.
fn outlived() -> Vec<Case> {
    let ok = || Fault::Answer(200, String::new());
    let slow = Fault::Status(503);
    vec![
        case(
            "every other request is answered with 503 (SlowDown)",
            [Rule::new(&slow).every(2)],
        ),
        case(
            "every request is answered with 503 (SlowDown) three times",
            [Rule::new(&slow).on_each(3)],
        ),
        case(
            "a bit flips in a part and in `backup.info` on their way to the store",
            [
                Rule::new(&Fault::CorruptRequest(1 << 20)).on(PART),
                Rule::new(&Fault::CorruptRequest(100)).on(INFO),
                Rule::new(&Fault::CorruptRequest(100)).on(INFO).skip(1),
            ],
        ),
        case(
            "an upload is completed, and the answer lost or an error (500, 503, 200 with an error \
             in it, 200 with nothing in it)",
            [
                Rule::new(&Fault::LostResponse).on(COMPLETION),
                Rule::new(&Fault::Instead(500, words("InternalError"))).on(COMPLETION),
                Rule::new(&Fault::Instead(200, words("InternalError"))).on(COMPLETION),
                Rule::new(&Fault::Instead(200, String::new())).on(COMPLETION),
            ],
        ),
        case(
            "an upload is not completed, and the answer is 200 with an error or with nothing in it",
            [
                Rule::new(&error(200, "InternalError")).on(COMPLETION),
                Rule::new(&ok()).on(COMPLETION),
            ],
        ),
        case(
            "409 (ConditionalRequestConflict) is the answer to its first record",
            [Rule::new(&error(409, "ConditionalRequestConflict"))
                .on(INFO)
                .times(2)],
        ),
        case(
            "a record is stored, and the answer says that the store failed (500)",
            [Rule::new(&Fault::Instead(500, words("InternalError")))
                .on(INFO)
                .times(2)],
        ),
        case(
            "the last record is stored, its answer lost, and the next try refused (403)",
            [
                Rule::new(&Fault::LostResponse).on(INFO).skip(1),
                Rule::new(&Fault::Status(403)).on(INFO).skip(1),
            ],
        ),
        Case {
            options: &["--read-timeout=1"],
            ..case(
                "the store takes a part so slowly that it lasts longer than `--read-timeout`",
                [Rule::new(&Fault::ThrottleRequest(2_500_000)).on("partNumber=1&")],
            )
        },
    ]
}

/// What ends a backup.
fn not_outlived() -> Vec<Case> {
    vec![
        case(
            "a part is refused (403)",
            [Rule::new(&Fault::Status(403)).on("partNumber=2").always()],
        ),
        case(
            "a part is refused (403), and the answer to the abort of its upload is lost",
            [
                Rule::new(&Fault::Status(403)).on("partNumber=2").always(),
                Rule::new(&Fault::LostResponse).on("^DELETE "),
            ],
        ),
        case(
            "the completion of an upload is refused (403)",
            [Rule::new(&Fault::Status(403)).on(COMPLETION).always()],
        ),
        case(
            "the completion of an upload is refused (400, InvalidPart)",
            [Rule::new(&error(400, "InvalidPart"))
                .on(COMPLETION)
                .always()],
        ),
        case(
            "its upload is gone when it is completed (404, NoSuchUpload)",
            [Rule::new(&error(404, "NoSuchUpload"))
                .on(COMPLETION)
                .always()],
        ),
        case(
            "the last record is refused (403)",
            [Rule::new(&Fault::Status(403)).on(INFO).skip(1)],
        ),
    ]
}

#[test]
fn a_backup_outlives_what_passes_and_is_failed_by_what_does_not() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let scene = Scene::new(&bin, &workspace, &bucket);
    for case in outlived() {
        let mut row = row(TOOL, case.done, scene.behind.work.found());
        for _ in 0..of_sample_or_whole(1, 5) {
            let run = scene.backup(&case.rules, case.options);
            scene.behind.check(&run);
            row.lived_through();
        }
        row.finish();
    }
    for case in not_outlived() {
        let found = "exit 1 at once, one line; `FAILED`; no upload is left open; the next one: \
                     `DONE`";
        let mut row = row(TOOL, case.done, found);
        for _ in 0..of_sample_or_whole(1, 5) {
            let run = scene.backup(&case.rules, case.options);
            super::assert_refused(&run, 1);
            assert!(run.stderr.contains("(status 40"), "no cause: {run}");
            assert_eq!(scene.status(), "FAILED", "{run}");
            assert_eq!(bucket.uploads(), [""; 0], "an upload was left open: {run}");
            row.lived_through();
        }
        row.finish();
    }
    let done = "the last record is stored, its answer lost, and it can neither be written nor \
                read again (403)";
    let found = "exit 1, one line: complete if `show` says `DONE`, which it does";
    let mut row = row(TOOL, done, found);
    let lost = Rule::new(&Fault::LostResponse).on(INFO).skip(1);
    let refused = Rule::new(&Fault::Status(403))
        .on("^(GET|PUT) /.*/backup.info")
        .skip(1);
    let run = scene.backup(&[lost, refused.always()], &[]);
    super::assert_refused(&run, 1);
    assert!(run.stderr.contains("is complete if"), "{run}");
    assert_eq!(scene.status(), "DONE", "{run}");
    row.lived_through();
    row.finish();
    let run = scene.backup(&[], &[]);
    scene.behind.check(&run);
}
