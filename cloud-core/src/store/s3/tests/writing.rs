//! Small objects, and what every write carries.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use super::*;
use crate::store::Sums;

#[test]
fn a_write_is_one_plain_request_with_a_checksum_header() {
    alone(|| async { is_one_plain_request_with_a_checksum_header(BODY.into()).await });
}

#[test]
fn so_is_the_write_of_a_file() {
    alone(|| async { is_one_plain_request_with_a_checksum_header(file()).await });
}

/// Whoever read the file has made it already.
#[test]
fn so_is_that_of_a_file_with_a_hash() {
    let sha256 = Some(Sha256::digest(&BODY).into());
    alone(move || async move {
        is_one_plain_request_with_a_checksum_header(file_with(sha256)).await;
    });
}

/// It is taken, and not made again.
#[test]
fn a_hash_that_is_there_is_what_is_signed() {
    alone(|| async {
        let server = Server::start(|_| written());
        let store = store(&server);
        assert!(store.info().abilities.wants_sha256, "over plain HTTP");
        let (key, options) = (key(), PutOptions::default());
        let put = store.put(&key, file_with(Some([0xab; 32])), &options);
        put.await.unwrap();
        let signed = "ab".repeat(32);
        assert_eq!(
            server.request().header("x-amz-content-sha256"),
            Some(&*signed)
        );
    });
}

/// [`BODY`] in a file.
fn file() -> Payload {
    file_with(None)
}

fn file_with(sha256: Option<[u8; 32]>) -> Payload {
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, &BODY).unwrap();
    let sums = Sums {
        crc32c: crc32c::crc32c(&BODY),
        sha256,
    };
    Payload::of_file(file, BODY.len() as u64, sums)
}

async fn is_one_plain_request_with_a_checksum_header(body: Payload) {
    let server = Server::start(|_| written());
    let put = store(&server)
        .put(&key(), body, &PutOptions::default())
        .await;
    let receipt = put.unwrap();
    assert_eq!(receipt.version, Some(ObjectVersion("version".into())));
    let request = server.request();
    assert_plain(&request);
    assert_eq!(
        (request.method.as_str(), request.path(), &request.body[..]),
        ("PUT", PATH, &BODY[..])
    );
    assert_eq!(request.header("x-amz-checksum-crc32c"), Some(CRC32C));
    // Over plain HTTP the signature covers the body.
    let mut digest = String::new();
    for byte in Sha256::digest(&BODY) {
        write!(digest, "{byte:02x}").unwrap();
    }
    assert_eq!(request.header("x-amz-content-sha256"), Some(&*digest));
    for absent in [
        "content-md5",
        "content-type",
        "if-none-match",
        "x-amz-tagging",
        "x-amz-server-side-encryption",
        "x-amz-acl",
        "x-amz-storage-class",
    ] {
        assert!(request.named(absent).is_empty(), "{absent}: {request:#?}");
    }
}

#[test]
fn an_empty_object_has_a_length_too() {
    alone(|| async {
        let server = Server::start(|_| written());
        let options = PutOptions::default();
        let put = store(&server)
            .put(&key(), Bytes::new().into(), &options)
            .await;
        put.unwrap();
        assert_plain(&server.request());
        assert_eq!(server.request().header("content-length"), Some("0"));
    });
}

#[test]
fn over_tls_the_body_is_not_signed() {
    let folder = tempfile::tempdir().unwrap();
    let Some(made) = certificates(folder.path()) else {
        return;
    };
    let (bundle, place) = (made.join("ca.crt"), made.display().to_string());
    let variables = [
        ("AWS_CA_BUNDLE", bundle.to_str().unwrap()),
        ("S3_TEST_CERTIFICATES", &place),
    ];
    alone_with(&variables, || async {
        let server = Server::secure(&certificates(Path::new("")).unwrap(), |request| {
            if request.asks("uploads") {
                multipart::begun()
            } else {
                written()
            }
        });
        let store = store(&server);
        put(&*store, &PutOptions::default()).await.unwrap();
        let begun = store.begin_multipart(&key(), &PutOptions::default()).await;
        let part = begun.unwrap().put_part(PartNumber::FIRST, BODY).await;
        part.unwrap();
        let options = PutOptions::default();
        store.put(&key(), file(), &options).await.unwrap();
        let requests = server.requests();
        for request in [&requests[0], &requests[2], &requests[3]] {
            assert_eq!(request.body, BODY);
            assert_plain(request);
            let signed = request.header("x-amz-content-sha256");
            assert_eq!(signed, Some("UNSIGNED-PAYLOAD"));
            assert_eq!(request.header("x-amz-checksum-crc32c"), Some(CRC32C));
        }
    });
}

#[test]
fn who_wants_no_checksum_headers_gets_content_md5() {
    alone_with(&[WHEN_REQUIRED], || async {
        let server = Server::start(|_| written());
        let store = amazon(&server);
        put(&*store, &create()).await.unwrap();
        store.put(&key(), file(), &create()).await.unwrap();
        for request in server.requests() {
            assert_plain(&request);
            assert_eq!(request.header("content-md5"), Some(MD5));
            assert!(request.named("x-amz-checksum").is_empty(), "{request:#?}");
        }
    });
}

#[test]
fn a_store_that_refuses_checksum_headers_gets_content_md5_from_then_on() {
    alone(|| async {
        for refusal in [
            Answer::error(400, "MissingContentMD5", ""),
            Answer::error(
                400,
                "InvalidRequest",
                "<Message>Content-MD5 HTTP header is required</Message>",
            ),
            Answer::error(
                400,
                "InvalidArgument",
                "<Message>Unsupported header x-amz-checksum-crc32c</Message>",
            ),
            Answer::error(
                501,
                "NotImplemented",
                "<Message>A header you provided implies functionality that is not implemented\
                 </Message><Header>x-amz-checksum-crc32c</Header>",
            ),
            // It says not what it lacks: what costs nothing is given up first.
            Answer::error(501, "NotImplemented", ""),
        ] {
            let told = format!("{refusal:?}");
            let server = Server::playing([refusal, written(), written()]);
            let store = amazon(&server);
            put(&*store, &create()).await.expect(&told);
            put(&*store, &create()).await.expect(&told);
            let requests = server.requests();
            assert_eq!(requests.len(), 3, "{told}");
            for request in &requests[1..] {
                assert_plain(request);
                assert_eq!(request.header("content-md5"), Some(MD5), "{told}");
                assert!(request.named("x-amz-checksum").is_empty(), "{told}");
                assert_eq!(request.header("if-none-match"), Some("*"), "{told}");
            }
        }
    });
}

/// Damage on the way is no reason to send less.
#[test]
fn a_checksum_that_does_not_fit_is_not_taken_for_one_that_is_not_known() {
    alone(|| async {
        let words = "<Message>The CRC32C you specified did not match the calculated checksum\
                     </Message>";
        for code in ["BadDigest", "XAmzContentChecksumMismatch"] {
            let server = Server::playing([Answer::error(400, code, words), written()]);
            let store = amazon(&server);
            let error = put(&*store, &create()).await.unwrap_err();
            assert!(error.kind.is_transient(), "{error:?}");
            put(&*store, &create()).await.unwrap();
            let again = &server.requests()[1];
            assert_eq!(again.header("x-amz-checksum-crc32c"), Some(CRC32C));
        }
    });
}

#[test]
fn a_checksum_that_comes_back_is_compared() {
    alone(|| async {
        let other = written().header("x-amz-checksum-crc32c", "AAAAAA==");
        let same = written().header("x-amz-checksum-crc32c", CRC32C);
        let server = Server::playing([other, same]);
        let store = amazon(&server);
        let error = put(&*store, &PutOptions::default()).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Corrupt);
        put(&*store, &PutOptions::default()).await.unwrap();
    });
}

/// Not every store's `ETag` is an MD5, even if it looks like one; but where one
/// was, the next one is.
#[test]
fn an_etag_is_compared_where_an_earlier_one_was_the_md5() {
    const RIGHT: &str = "\"25f9e794323b453885f5181f1b624d0b\"";
    const WRONG: &str = "\"00000000000000000000000000000000\"";
    alone_with(&[WHEN_REQUIRED], || async {
        let tagged = |etag: &str| Answer::new(200).header("etag", etag);
        let corrupt = Some(StoreErrorKind::Corrupt);
        let kms = tagged(WRONG).header("x-amz-server-side-encryption", "aws:kms");
        for (answers, expected) in [
            (vec![tagged(WRONG), tagged(WRONG)], vec![None, None]),
            (vec![tagged(RIGHT), tagged(WRONG)], vec![None, corrupt]),
            (
                vec![tagged(&RIGHT.to_uppercase()), tagged(RIGHT)],
                vec![None, None],
            ),
            (vec![tagged(RIGHT), kms], vec![None, None]),
            (vec![tagged(RIGHT), tagged("\"abc-1\"")], vec![None, None]),
        ] {
            let told = format!("{answers:?}");
            let server = Server::playing(answers);
            let store = amazon(&server);
            for kind in expected {
                let done = put(&*store, &PutOptions::default()).await;
                assert_eq!(done.err().map(|error| error.kind), kind, "{told}");
            }
        }
    });
}

#[test]
fn a_new_name_is_a_condition_of_the_request() {
    alone(|| async {
        let server = Server::playing([
            written(),
            Answer::error(412, "PreconditionFailed", ""),
            Answer::error(409, "ConditionalRequestConflict", ""),
        ]);
        let store = amazon(&server);
        put(&*store, &create()).await.unwrap();
        let taken = put(&*store, &create()).await.unwrap_err();
        assert_eq!(taken.kind, StoreErrorKind::AlreadyExists);
        let racing = put(&*store, &create()).await.unwrap_err();
        assert_eq!(racing.kind, StoreErrorKind::Conflict);
        for request in server.requests() {
            assert_eq!(request.method, "PUT");
            assert_eq!(request.header("if-none-match"), Some("*"));
        }
    });
}

#[test]
fn where_the_condition_is_not_known_the_name_is_looked_up_first() {
    alone(|| async {
        for refusal in [
            Answer::error(
                501,
                "NotImplemented",
                "<Message>A header you provided implies functionality that is not implemented\
                 </Message><Header>If-None-Match</Header>",
            ),
            Answer::error(
                400,
                "InvalidArgument",
                "<ArgumentName>If-None-Match</ArgumentName>",
            ),
        ] {
            let told = format!("{refusal:?}");
            let found = Answer::new(200).header("content-length", "9");
            let server = Server::playing([refusal, Answer::new(404), written(), found]);
            let store = amazon(&server);
            put(&*store, &create()).await.expect(&told);
            let taken = put(&*store, &create()).await.unwrap_err();
            assert_eq!(taken.kind, StoreErrorKind::AlreadyExists, "{told}");
            assert_eq!(server.methods(), "PUT HEAD PUT HEAD", "{told}");
            let plain = &server.requests()[2];
            assert_eq!(plain.header("if-none-match"), None, "{told}");
            assert_eq!(plain.header("x-amz-checksum-crc32c"), Some(CRC32C));
        }
    });
}

/// A store that takes the condition may ignore it (Garage, older MinIO and
/// SeaweedFS): there the name is looked up before.
#[test]
fn a_condition_is_relied_upon_at_amazon_alone() {
    let found = || Answer::new(200).header("content-length", "9");
    alone(|| async {
        let server = Server::playing([
            Answer::new(404),
            written(),
            found(),
            Answer::new(403),
            written(),
        ]);
        let elsewhere = store(&server);
        put(&*elsewhere, &create()).await.unwrap();
        let taken = put(&*elsewhere, &create()).await.unwrap_err();
        assert_eq!(taken.kind, StoreErrorKind::AlreadyExists);
        // Who may only write is left to the condition.
        put(&*elsewhere, &create()).await.unwrap();
        put(&*elsewhere, &PutOptions::default()).await.unwrap_err();
        assert_eq!(server.methods(), "HEAD PUT HEAD HEAD PUT PUT");
        for request in [&server.requests()[1], &server.requests()[4]] {
            assert_eq!(request.header("if-none-match"), Some("*"));
        }
    });
}

/// Of a store that puts off every other request it would otherwise take for ever.
#[test]
fn a_look_stands_for_the_next_attempt_of_a_write_that_was_put_off() {
    let free = || Answer::new(404);
    let slow = || Answer::error(503, "SlowDown", "");
    alone(|| async {
        let server = Server::playing([free(), slow(), slow(), written(), free(), written()]);
        let store = store(&server);
        for _ in 0..2 {
            let error = put(&*store, &create()).await.unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::RateLimited);
        }
        put(&*store, &create()).await.unwrap();
        // It is another write then.
        put(&*store, &create()).await.unwrap();
        assert_eq!(server.methods(), "HEAD PUT PUT PUT HEAD PUT");
    });
}

/// W2: somebody else may have written meanwhile.
#[test]
fn a_write_of_unknown_end_is_begun_with_another_look() {
    alone(|| async {
        let server = Server::playing([
            Answer::new(404),
            Answer::error(400, "RequestTimeout", ""),
            Answer::new(404),
            written(),
        ]);
        let store = store(&server);
        let error = put(&*store, &create()).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Timeout);
        put(&*store, &create()).await.unwrap();
        assert_eq!(server.methods(), "HEAD PUT HEAD PUT");
    });
}

#[test]
fn one_version_is_replaced_and_no_other() {
    let replace = |version: &str| PutOptions {
        mode: PutMode::Replace(ObjectVersion(version.into())),
        ..PutOptions::default()
    };
    let found = |version: &str| {
        let answer = Answer::new(200).header("content-length", "9");
        answer.header("etag", &format!("\"{version}\""))
    };
    alone(|| async {
        // Where the condition may be ignored, another version is found by looking.
        let server = Server::playing([found("old"), written(), found("new"), Answer::new(404)]);
        let elsewhere = store(&server);
        put(&*elsewhere, &replace("old")).await.unwrap();
        for _ in 0..2 {
            let other = put(&*elsewhere, &replace("old")).await.unwrap_err();
            assert_eq!(other.kind, StoreErrorKind::AlreadyExists);
        }
        assert_eq!(server.methods(), "HEAD PUT HEAD HEAD");
        assert_eq!(server.requests()[1].header("if-match"), Some("old"));
        assert_eq!(server.requests()[1].header("if-none-match"), None);
        // Amazon's decides by the condition alone, also of an object that is gone.
        let gone = Answer::error(404, "NoSuchKey", "");
        let refused = Answer::error(412, "PreconditionFailed", "");
        let server = Server::playing([refused, gone]);
        let amazon = amazon(&server);
        for _ in 0..2 {
            let other = put(&*amazon, &replace("old")).await.unwrap_err();
            assert_eq!(other.kind, StoreErrorKind::AlreadyExists);
        }
        assert_eq!(server.methods(), "PUT PUT");
        // Who does not know the condition is looked at.
        let unknown = Answer::error(501, "NotImplemented", "<Header>If-Match</Header>");
        let server = Server::playing([unknown, found("old"), written()]);
        put(&*super::amazon(&server), &replace("old"))
            .await
            .unwrap();
        assert_eq!(server.methods(), "PUT HEAD PUT");
        assert_eq!(server.requests()[2].header("if-match"), None);
    });
}

/// W2: what cannot be looked at may be there.
#[test]
fn a_name_that_may_not_be_looked_up_is_not_written() {
    alone(|| async {
        let refusal = Answer::error(501, "NotImplemented", "<Header>If-None-Match</Header>");
        let server = Server::playing([refusal, Answer::new(403)]);
        let error = put(&*amazon(&server), &create()).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::PermissionDenied);
        assert_eq!(server.methods(), "PUT HEAD");
    });
}

#[test]
fn a_refusal_without_a_word_is_tried_with_less_and_remembered_only_if_that_helped() {
    const VAGUE: &str = "<Message>Improper network request received.</Message>";
    let vague = || Answer::error(400, "InvalidRequest", VAGUE);
    alone(|| async {
        // It was the checksum.
        let server = Server::playing([vague(), written(), written()]);
        let store = amazon(&server);
        put(&*store, &create()).await.unwrap();
        put(&*store, &create()).await.unwrap();
        assert_eq!(server.methods(), "PUT PUT PUT");
        for request in &server.requests()[1..] {
            assert_eq!(request.header("content-md5"), Some(MD5));
            assert_eq!(request.header("if-none-match"), Some("*"));
        }
        // It was the condition.
        let looked = || Answer::new(404);
        let server = Server::playing([vague(), vague(), looked(), written(), looked(), written()]);
        let store = amazon(&server);
        put(&*store, &create()).await.unwrap();
        put(&*store, &create()).await.unwrap();
        assert_eq!(server.methods(), "PUT PUT HEAD PUT HEAD PUT");
        for request in [&server.requests()[3], &server.requests()[5]] {
            assert_eq!(request.header("x-amz-checksum-crc32c"), Some(CRC32C));
            assert_eq!(request.header("if-none-match"), None);
        }
        // It was both.
        let answers = [vague(), vague(), looked(), vague(), looked(), written()];
        let server = Server::playing(answers);
        put(&*amazon(&server), &create()).await.unwrap();
        let last = &server.requests()[5];
        assert_eq!(last.header("content-md5"), Some(MD5));
        assert_eq!(last.header("if-none-match"), None);
        // It was neither: nothing is learned, and the first refusal is told.
        let other = || Answer::error(400, "InvalidRequest", "<Message>other</Message>");
        let answers = [
            vague(),
            other(),
            looked(),
            other(),
            looked(),
            other(),
            written(),
        ];
        let server = Server::playing(answers);
        let store = amazon(&server);
        let error = put(&*store, &create()).await.unwrap_err();
        assert!(error.source.to_string().contains("Improper"), "{error:?}");
        put(&*store, &create()).await.unwrap();
        let last = &server.requests()[6];
        assert_eq!(last.header("x-amz-checksum-crc32c"), Some(CRC32C));
        assert_eq!(last.header("if-none-match"), Some("*"));
    });
}

#[test]
fn tags_are_sent_even_if_there_are_none() {
    alone(|| async {
        let server = Server::start(|request| {
            if request.asks("uploads") {
                multipart::begun()
            } else {
                written()
            }
        });
        let store = store(&server);
        let tags = |tags: &[(&str, &str)]| PutOptions {
            tags: Some(
                tags.iter()
                    .map(|(key, value)| Tag {
                        key: (*key).into(),
                        value: (*value).into(),
                    })
                    .collect(),
            ),
            ..PutOptions::default()
        };
        for options in [tags(&[("a", "b c"), ("d&", "=")]), tags(&[])] {
            put(&*store, &options).await.unwrap();
            store.begin_multipart(&key(), &options).await.unwrap();
        }
        let sent: Vec<_> = server
            .requests()
            .iter()
            .map(|request| request.header("x-amz-tagging").map(str::to_owned))
            .collect();
        let some = Some("a=b%20c&d%26=%3D".to_owned());
        let none = Some(String::new());
        assert_eq!(sent, [some.clone(), some, none.clone(), none]);
    });
}

/// Trying again, and telling of the store, would be of no use.
#[test]
fn a_file_that_cannot_be_read_is_no_trouble_of_the_stores() {
    alone(|| async {
        let server = Server::start(|_| written());
        let folder = tempfile::tempdir().unwrap();
        let unreadable = std::fs::File::create(folder.path().join("f")).unwrap();
        let sums = Sums {
            crc32c: 0,
            sha256: Some([0; 32]),
        };
        let payload = Payload::of_file(unreadable, 9, sums);
        let store = store(&server);
        let put = store.put(&key(), payload, &PutOptions::default()).await;
        let error = put.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Other, "{error}");
        let text = error.source.to_string();
        assert!(
            text.starts_with("the file cannot be read: Bad file"),
            "{text}"
        );
    });
}

/// WAL would be gone otherwise by the word of a gateway's page.
#[test]
fn a_yes_that_tells_nothing_of_the_object_is_none() {
    alone(|| async {
        let checksum = Answer::new(200).header("x-amz-checksum-crc32c", CRC32C);
        let login = Answer::new(200).header("content-type", "text/html");
        let server = Server::playing([
            Answer::new(200),
            login.body("<html><body>Please log in</body></html>"),
            Answer::new(204).header("etag", ""),
            checksum,
            written(),
        ]);
        let store = store(&server);
        for _ in 0..3 {
            let error = put(&*store, &PutOptions::default()).await.unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::Connect, "{error}");
        }
        for _ in 0..2 {
            put(&*store, &PutOptions::default()).await.unwrap();
        }
    });
}

/// In the user metadata of the object, told by its beginning and not by its parts.
#[test]
fn a_fingerprint_goes_with_the_object() {
    alone(|| async {
        let server = Server::start(|request| {
            if request.asks("uploads") {
                multipart::begun()
            } else if request.method == "HEAD" {
                Answer::new(200)
                    .header("content-length", "4")
                    .header("x-amz-meta-Barmanfingerprint", "5e1f")
            } else {
                written()
            }
        });
        let store = store(&server);
        let options = PutOptions {
            fingerprint: Some("5e1f".into()),
            ..PutOptions::default()
        };
        put(&*store, &options).await.unwrap();
        let upload = store.begin_multipart(&key(), &options).await.unwrap();
        upload.put_part(PartNumber::FIRST, BODY).await.unwrap();
        put(&*store, &PutOptions::default()).await.unwrap();
        let sent: Vec<_> = server
            .requests()
            .iter()
            .map(|request| request.header("x-amz-meta-barmanfingerprint").is_some())
            .collect();
        assert_eq!(sent, [true, true, false, false]);
        let meta = store.head(&key(), LockCheck::Skip).await.unwrap();
        assert_eq!(meta.fingerprint.as_deref(), Some("5e1f"));
    });
}

#[test]
fn requests_share_a_connection() {
    alone(|| async {
        let server = Server::start(|_| written());
        let store = store(&server);
        for _ in 0..3 {
            put(&*store, &PutOptions::default()).await.unwrap();
        }
        let last = server.requests().pop().unwrap();
        assert_eq!(last.connection, 0);
    });
}

/// Does one of everything.
async fn everything(store: &dyn ObjectStore) {
    store.probe().await.unwrap();
    store.create_bucket().await.unwrap();
    put(store, &create()).await.unwrap();
    let upload = store.begin_multipart(&key(), &create()).await.unwrap();
    let part = upload.put_part(PartNumber::FIRST, BODY).await.unwrap();
    upload.complete(&[part]).await.unwrap();
    let upload = store.begin_multipart(&key(), &create()).await.unwrap();
    upload.abort().await.unwrap();
    crate::store::get_all(store, &key(), 100).await.unwrap();
    store.head(&key(), LockCheck::Look).await.unwrap_err();
    let prefix = Prefix::text("");
    crate::store::list_all(store, &prefix, Depth::All)
        .await
        .unwrap();
    store.delete_batch(&[key()]).await.unwrap();
    crate::store::list_all_uploads(store, &prefix)
        .await
        .unwrap();
}

/// What a request is called in the manual.
fn name(request: &Request) -> &'static str {
    let object = request.path() == PATH;
    match (request.method.as_str(), object) {
        ("PUT", true) if request.asks("partNumber") => "UploadPart",
        ("PUT", true) => "PutObject",
        ("PUT", false) => "CreateBucket",
        ("POST", true) if request.asks("uploads") => "CreateMultipartUpload",
        ("POST", true) => "CompleteMultipartUpload",
        ("POST", false) => "DeleteObjects",
        ("DELETE", _) => "AbortMultipartUpload",
        ("GET", true) if request.asks("uploadId") => "ListParts",
        ("GET", true) => "GetObject",
        ("GET", false) if request.asks("uploads") => "ListMultipartUploads",
        ("GET", false) => "ListObjectsV2",
        ("HEAD", true) => "HeadObject",
        _ => "HeadBucket",
    }
}

fn all_is_well(request: &Request) -> Answer {
    match name(request) {
        "CreateMultipartUpload" => multipart::begun(),
        "CompleteMultipartUpload" => multipart::completed(),
        "HeadObject" => Answer::new(404),
        "GetObject" => written().body("x"),
        "ListObjectsV2" => listing::page("<IsTruncated>false</IsTruncated>"),
        "ListMultipartUploads" => uploads::page(&uploads::begun("dir/a b+c", "id")),
        "ListParts" => uploads::parts(""),
        "DeleteObjects" => Answer::new(200)
            .xml("<DeleteResult><Deleted><Key>dir/a b+c</Key></Deleted></DeleteResult>"),
        _ => written(),
    }
}

#[test]
fn encryption_is_asked_for_where_it_must_be_and_nowhere_else() {
    const AT_REST: [&str; 2] = ["PutObject", "CreateMultipartUpload"];
    const CUSTOMER: [&str; 6] = [
        "PutObject",
        "CreateMultipartUpload",
        "UploadPart",
        "GetObject",
        "HeadObject",
        "ListParts",
    ];
    const SSE: &str = "x-amz-server-side-encryption";
    alone(|| async {
        let file = tempfile::NamedTempFile::new().unwrap();
        let secret = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
        std::fs::write(file.path(), secret).unwrap();
        let path = format!("file://{}", file.path().display());
        let md5 = "KYvwGXoFFJ42a2u2GDWhwQ==".to_owned();
        let own = |name: &str| format!("{SSE}{name}");
        let text = str::to_owned;
        for (options, calls, expected) in [
            (StoreConfig::default(), &[][..], vec![]),
            (
                StoreConfig {
                    encryption: Some("AES256".into()),
                    ..StoreConfig::default()
                },
                &AT_REST[..],
                vec![(own(""), text("AES256"))],
            ),
            (
                StoreConfig {
                    encryption: Some("aws:kms".into()),
                    sse_kms_key_id: Some("key".into()),
                    ..StoreConfig::default()
                },
                &AT_REST[..],
                vec![
                    (own(""), text("aws:kms")),
                    (own("-aws-kms-key-id"), text("key")),
                ],
            ),
            (
                StoreConfig {
                    sse_customer_key: Some(path),
                    ..StoreConfig::default()
                },
                &CUSTOMER[..],
                vec![
                    (own("-customer-algorithm"), text("AES256")),
                    (own("-customer-key"), text(secret)),
                    (own("-customer-key-md5"), md5),
                ],
            ),
        ] {
            let server = Server::start(all_is_well);
            let store = opened(&StoreConfig {
                url: "s3://bucket/path".into(),
                endpoint_url: Some(server.url.clone()),
                ..options
            });
            everything(&*store).await;
            let requests = server.requests();
            let names: std::collections::BTreeSet<_> = requests.iter().map(name).collect();
            assert_eq!(names.len(), 12, "one of each: {names:?}");
            for request in requests {
                let named = |(name, _): &&(String, String)| name.starts_with(SSE);
                let mut sent: Vec<_> = request.headers.iter().filter(named).cloned().collect();
                sent.sort();
                let wanted = if calls.contains(&name(&request)) {
                    expected.clone()
                } else {
                    vec![]
                };
                assert_eq!(sent, wanted, "{request:#?}");
                assert_plain(&request);
            }
            assert!(!format!("{store:?}").contains(secret));
        }
    });
}
