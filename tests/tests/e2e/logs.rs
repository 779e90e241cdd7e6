//! What stands on standard error, for people and for programs: `--log-format`, the names
//! that stores give requests, and the summary at `-v`.

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};

use e2e::{HttpAnswer, HttpServer, Run, Workspace};
use serde_json::Value;

/// The objects on standard error; nothing else may be there.
fn objects(run: &Run) -> Vec<Value> {
    let parsed = run.stderr.lines().map(serde_json::from_str::<Value>);
    let objects: Result<Vec<_>, _> = parsed.collect();
    let objects = objects.unwrap_or_else(|error| panic!("{error}: {run}"));
    for object in &objects {
        for name in ["time", "level", "tool", "message"] {
            assert!(object[name].is_string(), "{name} in {object}");
        }
        assert!(object["pid"].is_u64(), "{object}");
    }
    objects
}

const SEGMENT: &str = "000000010000000000000006";

/// The tool, and its arguments: `$U` is the URL of an empty bucket, `$S` a segment, `$O`
/// a path where nothing is.
const MISTAKES: [(&str, &str); 11] = [
    ("wal-archive", "$U/missing main $S"),
    ("wal-archive", "$U main"),
    ("wal-archive", "$U main foo.txt"),
    ("wal-archive", "--tags a -- $U main $S"),
    ("wal-restore", "$U main 0000000100000000000000FE $O"),
    ("restore", "$U main nope $O"),
    ("backup", "-h 127.0.0.1 -p 1 $U main"),
    ("backup", "--nonsense $U main"),
    ("backup-keep", "$U main 20200101T000000"),
    ("backup-list", "http://golden/walcomp main"),
    ("check-wal-archive", "$U /main"),
];

/// The two lines of text are the message and the hint of one object.
#[test]
fn an_error_is_the_same_as_text_and_as_an_object() {
    let workspace = Workspace::new();
    workspace.dir("bucket");
    let segment = fs::read(e2e::golden().join("wal").join(SEGMENT)).unwrap();
    workspace.file(SEGMENT, segment);
    let path = |name: &str| workspace.path(name).display().to_string();
    for (tool, line) in MISTAKES {
        let program = format!("barman-cloud-{tool}");
        let run = |options: &[&str]| {
            let words = line.split(' ').map(|word| {
                let word = word.replace("$U", &workspace.url("bucket"));
                word.replace("$S", &path(SEGMENT))
                    .replace("$O", &path("out"))
            });
            workspace.tool(&program).args(options).args(words).run()
        };
        let (text, json) = (run(&[]), run(&["--log-format=json"]));
        assert!(
            text.code() == json.code() && json.stdout.is_empty(),
            "{json}"
        );
        let objects = objects(&json);
        let [object] = objects.as_slice() else {
            panic!("not one object: {json}");
        };
        let told = match text.errors().as_slice() {
            // Of usage argparse complains without the form of a log line.
            [] => {
                let last = text.stderr.lines().last().unwrap_or_default();
                let complaint = last.strip_prefix(&format!("{program}: error: "));
                complaint.unwrap_or(last).to_owned()
            }
            [error] => error.clone(),
            _ => panic!("more than one error: {text}"),
        };
        assert_eq!(object["message"], told, "{json}");
        assert_eq!(object["hint"].as_str().as_slice(), text.hints(), "{json}");
        assert_eq!(object["level"], "error", "{json}");
        assert_eq!(object["tool"], program, "{json}");
        assert_eq!(
            object["code"].as_i64(),
            text.code().map(i64::from),
            "{json}"
        );
    }
}

#[test]
fn a_run_that_is_asked_for_words_ends_with_what_it_cost() {
    let workspace = Workspace::new();
    workspace.dir("bucket");
    let segment = fs::read(e2e::golden().join("wal").join(SEGMENT)).unwrap();
    let size = segment.len() as u64;
    workspace.file(SEGMENT, segment);
    let archive = |options: &[&str], server: &str| {
        let run = workspace
            .tool("barman-cloud-wal-archive")
            .args(options)
            .args([workspace.url("bucket").as_str(), server])
            .arg(workspace.path(SEGMENT))
            .run();
        assert_eq!(run.code(), Some(0), "{run}");
        run
    };
    let run = archive(&["-v"], "text");
    let told = run.messages("INFO");
    let last = told.last().unwrap_or_else(|| panic!("no word: {run}"));
    assert!(last.starts_with("Barman cloud WAL archiver sent "), "{run}");
    assert!(last.ends_with(" s, with 1 request and 0 retries"), "{run}");

    let run = archive(&["-vv", "--log-format", "json"], "json");
    let objects = objects(&run);
    let last = objects.last().expect("a line");
    assert_eq!(last["level"], "info", "{run}");
    assert_eq!(last["bytes_sent"], size, "{run}");
    assert_eq!(last["bytes_received"], 0, "{run}");
    assert_eq!(
        (&last["requests"], &last["retries"]),
        (&1.into(), &0.into()),
        "{run}"
    );
    assert!(
        last["seconds"]
            .as_f64()
            .is_some_and(|seconds| seconds > 0.0),
        "{run}"
    );
}

#[test]
fn a_refusal_of_the_store_tells_what_the_store_calls_the_request() {
    let workspace = Workspace::new();
    let server = HttpServer::watched("http://127.0.0.1:9", |_| {
        let body = "<Error><Code>AccessDenied</Code><Message>no</Message></Error>";
        let answer = HttpAnswer::new(403, body);
        let answer = answer.with("x-amz-request-id", "4442587FB7D0A2F9");
        Some(answer.with("x-amz-id-2", "vlR7PnpV2Ce81l0P/Kx="))
    });
    let list = |options: &[&str]| {
        let tool = server.tool(&workspace, "barman-cloud-backup-list");
        let run = tool.args(options).args(["s3://b", "main"]).run();
        assert_eq!(run.code(), Some(4), "{run}");
        run
    };
    let run = list(&[]);
    let told = "AccessDenied: no (status 403) (request id 4442587FB7D0A2F9, \
                host id vlR7PnpV2Ce81l0P/Kx=)";
    let errors = run.errors();
    assert!(errors.len() == 1 && errors[0].ends_with(told), "{run}");

    let run = list(&["--log-format=json"]);
    let objects = objects(&run);
    assert_eq!(objects.len(), 1, "{run}");
    assert_eq!(objects[0]["request_id"], "4442587FB7D0A2F9", "{run}");
    assert_eq!(objects[0]["host_id"], "vlR7PnpV2Ce81l0P/Kx=", "{run}");
}

#[test]
fn what_is_tried_again_is_counted() {
    let workspace = Workspace::new();
    let asked = AtomicU32::new(0);
    let server = HttpServer::watched("http://127.0.0.1:9", move |_| {
        Some(if asked.fetch_add(1, Ordering::Relaxed) == 0 {
            HttpAnswer::new(503, "<Error><Code>SlowDown</Code></Error>")
        } else {
            let page = "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>";
            HttpAnswer::new(200, page)
        })
    });
    let tool = server.tool(&workspace, "barman-cloud-backup-list");
    let run = tool
        .args(["-v", "--log-format=json", "s3://b", "main"])
        .run();
    assert_eq!(run.code(), Some(0), "{run}");
    let objects = objects(&run);
    let last = objects.last().expect("a line");
    assert_eq!(last["retries"], 1, "{run}");
    assert_eq!(last["requests"], server.seen().len(), "{run}");
    // Heads and texts of the answers.
    let received = last["bytes_received"].as_u64().unwrap_or_default();
    assert!(
        received > 100 && last["bytes_sent"].as_u64() > Some(100),
        "{run}"
    );
}
