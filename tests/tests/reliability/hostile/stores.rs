//! Servers that lie: S3 and Google Cloud Storage as nobody should run them.

use std::io::{self, Write};

use e2e::{HttpRequest, HttpServer, Run, Tool, Workspace};

use super::{ID, modest, one_error, record, row, seen};

/// Answers that are endless end here, in bytes: far beyond what may be kept of one.
const ENDLESS: usize = 1 << 30;

const SEGMENT: &str = "000000010000000000000006";

/// The words of an error for a listing that has no end.
const TOO_MANY: &str = "names that make sense there";

struct Liar {
    workspace: Workspace,
    server: HttpServer,
}

impl Liar {
    fn new(
        answer: impl Fn(&HttpRequest, &mut dyn Write) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self {
            workspace: Workspace::new(),
            server: HttpServer::writing(answer),
        }
    }

    /// One that answers everything so.
    fn saying(status: u16, headers: &'static str, body: impl Into<String>) -> Self {
        let body = body.into();
        Self::new(move |_, out| say(out, status, headers, &body))
    }

    fn s3(&self, tool: &str, options: &[&str], words: &[&str]) -> Run {
        let tool = self.workspace.tool(&format!("barman-cloud-{tool}"));
        Self::keys(tool)
            .env("AWS_ENDPOINT_URL", self.server.url())
            .args(options)
            .args(["s3://bucket/p", "main"])
            .args(words)
            .run()
    }

    fn keys(tool: Tool<'_>) -> Tool<'_> {
        tool.env("AWS_ACCESS_KEY_ID", "somebody")
            .env("AWS_SECRET_ACCESS_KEY", "hush")
            .env("AWS_SESSION_TOKEN", "hush-token")
            .env("AWS_REGION", "us-east-1")
            .env("AWS_EC2_METADATA_DISABLED", "true")
    }

    /// `wal-restore`, which has patience for as long as it is told.
    fn fetch(&self) -> Run {
        let to = super::text_of(&self.workspace.path("fetched"));
        let spool = format!("--spool-dir={}", self.workspace.path("spool").display());
        let options = ["-vv", &spool, "--retry-timeout=1"];
        let run = self.s3("wal-restore", &options, &[SEGMENT, &to]);
        assert!(!self.workspace.path("fetched").exists(), "{run}");
        run
    }
}

fn say(out: &mut dyn Write, status: u16, headers: &str, body: &str) -> io::Result<()> {
    let length = body.len();
    let head = format!("HTTP/1.1 {status} X\r\n{headers}content-length: {length}");
    write!(out, "{head}\r\nconnection: close\r\n\r\n{body}")
}

/// A body without an end, which repeats something.
fn endless(out: &mut dyn Write, status: u16, beginning: &str, again: &str) -> io::Result<()> {
    let head = format!("HTTP/1.1 {status} X\r\nconnection: close\r\n\r\n{beginning}");
    out.write_all(head.as_bytes())?;
    let piece = again.repeat((64 << 10) / again.len() + 1);
    let mut left = ENDLESS;
    while left > 0 {
        out.write_all(piece.as_bytes())?;
        left = left.saturating_sub(piece.len());
    }
    Ok(())
}

const HEAD: &str = "<?xml version=\"1.0\"?><ListBucketResult>";

/// A page of these keys.
fn page(keys: impl Iterator<Item = String>, next: Option<&str>) -> String {
    let objects = keys.fold(String::new(), |text, key| {
        let object = format!(
            "<Contents><Key>{key}</Key><Size>100</Size><ETag>\"e\"</ETag>\
             <LastModified>2026-11-21T12:00:00.000Z</LastModified></Contents>"
        );
        text + &object
    });
    let more = next.map_or("<IsTruncated>false</IsTruncated>".to_owned(), |next| {
        let next = format!("<NextContinuationToken>{next}</NextContinuationToken>");
        format!("<IsTruncated>true</IsTruncated>{next}")
    });
    format!("{HEAD}{more}{objects}</ListBucketResult>")
}

/// Names that nobody asked for are nobody's.
fn quiet(run: &Run) {
    assert!(!run.stderr.contains("hush"), "{run}");
}

const UNREACHABLE: &str = "given up in time with one line, in little memory; no secret is told";

#[test]
fn answers_that_make_no_sense() {
    let laughs = "<!DOCTYPE l [<!ENTITY a0 \"ha\">".to_owned()
        + &(1..30).fold(String::new(), |text, n| {
            text + &format!("<!ENTITY a{n} \"&a{0};&a{0};\">", n - 1)
        })
        + "]><ListBucketResult><Contents><Key>&a29;</Key></Contents></ListBucketResult>";
    let nested = "<a>".repeat(1_000_000);
    let external = "<!DOCTYPE l [<!ENTITY a SYSTEM \"file:///etc/passwd\">]><ListBucketResult>\
                    <Name>&a;</Name></ListBucketResult>";
    for (done, body) in [
        ("XML with entities that unpack to gigabytes", laughs),
        ("XML with an entity that names a file", external.to_owned()),
        ("XML with a million nested elements", nested),
        ("a page for people", "<html><body>Sign in".to_owned()),
        ("bytes that are nothing", "\0\u{1}\u{7f}".repeat(1000)),
    ] {
        let liar = Liar::saying(200, "", body);
        let run = liar.fetch();
        modest_log(&run, done);
        assert!(matches!(run.code(), Some(2 | 4)), "{done}: {run}");
        assert_eq!(run.errors().len(), 1, "{done}: {run}");
        assert!(!run.stderr.contains("root:"), "{run}");
        seen(
            &format!("`wal-restore`: a listing is answered with {done}"),
            UNREACHABLE,
        );
    }
}

/// At `-vv` there are more lines than one.
fn modest_log(run: &Run, case: &str) {
    modest(run, case);
    quiet(run);
}

type Answer = fn(&mut dyn Write) -> io::Result<()>;

#[test]
fn answers_without_end() {
    let cases: [(&str, Answer); 5] = [
        ("a listing that does not end", |out| {
            let one = "<Contents><Key>k</Key><Size>1</Size></Contents>";
            endless(out, 200, HEAD, one)
        }),
        ("a listing with one endless name", |out| {
            endless(out, 200, &format!("{HEAD}<Contents><Key>"), "key")
        }),
        ("a refusal that does not end", |out| {
            endless(out, 403, "<Error><Code>AccessDenied</Code><Message>", "no ")
        }),
        ("headers that do not end", |out| {
            let head = "HTTP/1.1 200 X\r\n";
            out.write_all(head.as_bytes())?;
            (0..1_000_000).try_for_each(|n| write!(out, "x-{n}: {n}\r\n"))
        }),
        ("a header that does not end", |out| {
            out.write_all(b"HTTP/1.1 200 X\r\nx: ")?;
            (0..1000).try_for_each(|_| out.write_all("x".repeat(64 << 10).as_bytes()))
        }),
    ];
    for (done, answer) in cases {
        let liar = Liar::new(move |_, out| answer(out));
        let run = liar.fetch();
        modest_log(&run, done);
        assert!(matches!(run.code(), Some(2 | 4)), "{done}: {run}");
        assert_eq!(run.errors().len(), 1, "{done}: {run}");
        seen(&format!("`wal-restore`: {done}"), UNREACHABLE);
    }
}

#[test]
fn listings_without_end() {
    // Each page has a thousand new names, and a marker that was never there.
    let number = std::sync::atomic::AtomicUsize::new(0);
    let liar = Liar::new(move |request, out| {
        let page_number = number.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let below = if request.target.contains("wals") {
            format!("p/main/wals/{}/{SEGMENT}.", &SEGMENT[..16])
        } else if request.target.contains(ID) {
            format!("p/main/base/{ID}/data_")
        } else {
            "p/main/base/x".to_owned()
        };
        if request.target.contains("backup.info") {
            return say(
                out,
                200,
                "etag: \"e\"\r\n",
                &record(&[("tablespaces", "None")]),
            );
        }
        if !request.target.contains("list-type") {
            return say(out, 404, "", "<Error><Code>NoSuchKey</Code></Error>");
        }
        let keys = (0..1000).map(|n| {
            let number = 10_000_000 + page_number * 1000 + n;
            format!("{below}{number}/backup.info")
        });
        say(out, 200, "", &page(keys, Some(&format!("t{page_number}"))))
    });
    let target = super::text_of(&liar.workspace.path("target"));
    let fetched = super::text_of(&liar.workspace.path("fetched"));
    for (tool, options, words) in [
        ("backup-list", &[][..], vec![]),
        ("restore", &[], vec![ID, &target]),
        (
            "wal-restore",
            &["--retry-timeout=1"],
            vec![SEGMENT, &fetched],
        ),
    ] {
        let run = liar.s3(tool, options, &words);
        modest_log(&run, tool);
        one_error(&run, &[4], TOO_MANY, tool);
        seen(
            &format!(
                "`{tool}`: a listing that has a thousand new names on each of its pages, without end"
            ),
            "given up after a hundred thousand names, with one line",
        );
    }
    assert!(!liar.workspace.path("target").exists());
}

#[test]
fn listings_of_other_keys() {
    let liar = Liar::new(|request, out| {
        let keys = [
            "p/other/base/20261121T120000/data.tar",
            "p/main/base/../../other/wals/x",
            "p/main/base/20261121T120000/../20261122T120000/data.tar",
            "p/main2/wals/0000000100000000/000000010000000000000001",
            "../../etc/passwd",
            "p/main/base/20261121T120000/backup.info",
        ];
        match request.method.as_str() {
            "GET" if request.target.contains("list-type") => say(
                out,
                200,
                "",
                &page(keys.into_iter().map(str::to_owned), None),
            ),
            "GET" => say(
                out,
                200,
                "etag: \"e\"\r\n",
                &record(&[("tablespaces", "None")]),
            ),
            "POST" => say(out, 200, "", "<DeleteResult></DeleteResult>"),
            _ => say(out, 200, "etag: \"e\"\r\n", ""),
        }
    });
    let run = liar.s3("backup-delete", &["-b", ID], &[]);
    modest_log(&run, "backup-delete");
    for request in liar.server.seen() {
        let body = String::from_utf8_lossy(&request.body);
        let text = format!("{} {body}", request.target);
        for evil in ["other", "main2", "passwd", "20261122T120000"] {
            assert!(!text.contains(evil), "{text}");
        }
    }
    seen(
        "`backup-delete`: the listing has keys of other servers, other backups and with `..`",
        "no such key is deleted, or asked for",
    );
}

#[test]
fn lengths_that_lie() {
    let mut short = row(
        "`wal-restore`: an object has other bytes than its length says, or a length beyond all bounds",
        "refused or given up in one line; nothing is delivered",
    );
    for length in [
        "7",
        "1048577",
        "18446744073709551615",
        "99999999999999999999",
        "-1",
        "x",
    ] {
        let liar = Liar::new(move |request, out| {
            if request.target.contains("list-type") {
                let key = format!("p/main/wals/{}/{SEGMENT}", &SEGMENT[..16]);
                return say(out, 200, "", &page(std::iter::once(key), None));
            }
            write!(
                out,
                "HTTP/1.1 200 X\r\netag: \"e\"\r\ncontent-length: {length}\r\n\r\n"
            )?;
            out.write_all(&vec![0x55; 1 << 20])
        });
        let run = liar.fetch();
        modest_log(&run, length);
        assert!(matches!(run.code(), Some(2 | 4)), "{length}: {run}");
        assert_eq!(run.errors().len(), 1, "{length}: {run}");
        short.lived_through();
    }
    short.finish();
}

#[test]
fn redirects_to_somebody_else() {
    let other = HttpServer::answering(|_| (200, String::new()));
    let url = other.url();
    let mut away = row(
        "`wal-restore`: the store answers with a redirect to another host",
        "not followed: nobody else is asked, and no secret is told",
    );
    for status in [301, 302, 303, 307, 308] {
        let url = url.clone();
        let liar = Liar::new(move |_, out| {
            let headers =
                format!("location: {url}/bucket\r\nx-amz-bucket-region: evil.example/\r\n");
            let endpoint = url.trim_start_matches("http://");
            let body = format!(
                "<Error><Code>PermanentRedirect</Code><Endpoint>{endpoint}</Endpoint>\
                 <Region>evil.example</Region></Error>"
            );
            say(out, status, &headers, &body)
        });
        let run = liar.fetch();
        modest_log(&run, "redirect");
        assert!(matches!(run.code(), Some(2 | 4)), "{status}: {run}");
        assert!(other.seen().is_empty(), "{status}: {run}");
        away.lived_through();
    }
    away.finish();
}

#[test]
fn google_that_is_none() {
    let nested = "[".repeat(1_000_000);
    let elsewhere = HttpServer::answering(|_| (200, String::new()));
    for (done, body) in [
        ("JSON with a million brackets", nested),
        (
            "JSON with a name that is none",
            "{\"items\":[{\"name\":\"a\\u0000b\",\"size\":\"1\"}]}".into(),
        ),
        (
            "JSON that leads in a circle",
            "{\"nextPageToken\":\"t\"}".into(),
        ),
        ("XML", "<a/>".into()),
    ] {
        let liar = Liar::saying(200, "", body);
        let to = super::text_of(&liar.workspace.path("fetched"));
        let run = liar
            .workspace
            .tool("barman-cloud-wal-restore")
            .env("STORAGE_EMULATOR_HOST", liar.server.url())
            .args([
                "-vv",
                "--retry-timeout=1",
                "--cloud-provider=google-cloud-storage",
            ])
            .args(["gs://bucket/p", "main", SEGMENT, &to])
            .run();
        modest_log(&run, done);
        assert!(matches!(run.code(), Some(2 | 4)), "{done}: {run}");
        assert_eq!(run.errors().len(), 1, "{done}: {run}");
        seen(
            &format!("`wal-restore` from Google Cloud Storage: a listing is answered with {done}"),
            UNREACHABLE,
        );
    }
    assert!(elsewhere.seen().is_empty());
}
