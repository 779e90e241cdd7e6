//! Uploads in parts by the XML API.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::*;

const BEGUN: &str = "<InitiateMultipartUploadResult xmlns='http://s3.amazonaws.com/doc/2006-03-01/'>\
                     <Bucket>bucket</Bucket><Key>k</Key><UploadId>the+id</UploadId>\
                     </InitiateMultipartUploadResult>";

const COMPLETED: &str =
    "<CompleteMultipartUploadResult><ETag>&quot;x-1&quot;</ETag></CompleteMultipartUploadResult>";

fn begun() -> Answer {
    Answer::new(200).xml(BEGUN)
}

fn sent() -> Answer {
    Answer::new(200)
        .header("etag", "\"tag\"")
        .header("x-goog-hash", &format!("crc32c={CRC32C},md5=x=="))
}

fn completed() -> Answer {
    Answer::new(200)
        .header("x-goog-generation", "18")
        .xml(COMPLETED)
}

/// What a service answers that takes everything.
fn willing(request: &Request) -> Answer {
    match request.method.as_str() {
        "POST" if request.asks("uploads") => begun(),
        "PUT" => sent(),
        "POST" => completed(),
        "DELETE" => Answer::new(204),
        _ => refusal(404, "notFound", "No such object: bucket/k"),
    }
}

async fn begin(server: &Server, options: &PutOptions) -> Box<dyn MultipartUpload> {
    store(server)
        .begin_multipart(&key(), options)
        .await
        .unwrap()
}

#[tokio::test]
async fn parts_go_with_checksums_and_are_named_at_the_end() {
    let server = Server::start(willing);
    let config = StoreConfig {
        kms_key_name: Some("projects/p/k".into()),
        ..StoreConfig::default()
    };
    let store = at(&server.url, &config, "bucket");
    let upload = store
        .begin_multipart(&key(), &tagged(&[("team", "a b")]))
        .await;
    let upload = upload.unwrap();
    let first = upload.put_part(part(1), BODY).await.unwrap();
    let second = upload.put_part(part(2), BODY).await.unwrap();
    let receipt = upload.complete(&[first, second]).await.unwrap();
    assert_eq!(receipt.version, Some(ObjectVersion("18".into())));
    let requests = server.requests();
    let [begun, one, two, end] = requests.as_slice() else {
        panic!("{requests:#?}");
    };
    assert_eq!(begun.target, format!("{XML}?uploads"));
    for request in [begun, one, two] {
        assert_plain(request);
        assert_eq!(request.header("x-goog-meta-team"), Some("a b"));
        let key = request.header("x-goog-encryption-kms-key-name");
        assert_eq!(key, Some("projects/p/k"));
        assert_eq!(
            request.header("content-type"),
            Some("application/octet-stream")
        );
    }
    assert_eq!(one.target, format!("{XML}?partNumber=1&uploadId=the%2Bid"));
    assert_eq!(two.target, format!("{XML}?partNumber=2&uploadId=the%2Bid"));
    assert_eq!(one.header("x-goog-hash"), Some("crc32c=4waSgw=="));
    assert_eq!(one.body, BODY);
    assert_eq!((end.method.as_str(), end.path()), ("POST", XML));
    assert_eq!(
        end.text(),
        "<CompleteMultipartUpload>\
         <Part><PartNumber>1</PartNumber><ETag>&quot;tag&quot;</ETag></Part>\
         <Part><PartNumber>2</PartNumber><ETag>&quot;tag&quot;</ETag></Part>\
         </CompleteMultipartUpload>"
    );
}

#[tokio::test]
async fn a_part_that_was_stored_wrong_is_noticed() {
    let server = Server::start(|request| match request.method.as_str() {
        "PUT" => Answer::new(200)
            .header("etag", "\"tag\"")
            .header("x-goog-hash", "crc32c=AAAAAA=="),
        _ => willing(request),
    });
    let upload = begin(&server, &PutOptions::default()).await;
    let error = upload.put_part(part(1), BODY).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Corrupt);
    assert!(error.to_string().contains("(part 1)"), "{error}");
}

#[tokio::test]
async fn only_its_own_answer_completes_an_upload() {
    let page = "<html><body>Please log in</body></html>";
    for odd in [
        Answer::new(200),
        Answer::new(200).body(page),
        Answer::new(200).xml("<Error><Code>Internal"),
        Answer::new(200).xml("<CompleteMultipartUploadResult><ETag>"),
        Answer::new(204),
        Answer::new(308).header("location", "https://login/"),
    ] {
        let told = format!("{odd:?}");
        let server = Server::start(move |request| {
            if request.method == "POST" && !request.asks("uploads") {
                return odd.clone();
            }
            willing(request)
        });
        let upload = begin(&server, &PutOptions::default()).await;
        let part = upload.put_part(part(1), BODY).await.unwrap();
        let done = upload.complete(&[part]).await;
        let error = done.expect_err(&told);
        let redirected = told.contains("308");
        assert!(error.kind.is_transient() || redirected, "{told}: {error}");
        // It can still be aborted.
        upload.abort().await.unwrap();
        assert!(server.methods().ends_with("DELETE"), "{told}");
    }
}

#[tokio::test]
async fn the_whole_is_compared_too() {
    let whole = crc32c::crc32c(b"123456789123456789").to_be_bytes();
    let whole = BASE64_STANDARD.encode(whole);
    for (told, right) in [(whole, true), ("AAAAAA==".into(), false)] {
        let server = Server::start(move |request| {
            if request.method == "POST" && !request.asks("uploads") {
                return completed().header("x-goog-hash", &format!("crc32c={told}"));
            }
            willing(request)
        });
        let upload = begin(&server, &PutOptions::default()).await;
        let first = upload.put_part(part(1), BODY).await.unwrap();
        let second = upload.put_part(part(2), BODY).await.unwrap();
        let done = upload.complete(&[first, second]).await;
        assert_eq!(
            done.as_ref().map_err(|error| error.kind).is_ok(),
            right,
            "{done:?}"
        );
        if let Err(error) = done {
            assert_eq!(error.kind, StoreErrorKind::Corrupt);
        }
    }
}

#[tokio::test]
async fn an_end_that_fails_is_no_success() {
    use StoreErrorKind as Kind;
    let receipt = PartReceipt {
        number: part(1),
        size: 9,
        token: format!("{CRC32C} \"tag\""),
    };
    for (answer, kind) in [
        (Answer::error(200, "InternalError", ""), Kind::ServerFault),
        (Answer::error(400, "InvalidPart", ""), Kind::Invalid),
        (Answer::error(404, "NoSuchUpload", ""), Kind::NotFound),
        (
            Answer::error(503, "ServiceUnavailable", ""),
            Kind::ServerFault,
        ),
        (completed().cut(3), Kind::Connect),
    ] {
        let told = format!("{answer:?}");
        let server = Server::start(move |request| {
            if request.asks("uploads") {
                begun()
            } else {
                answer.clone()
            }
        });
        let upload = begin(&server, &PutOptions::default()).await;
        let error = upload
            .complete(std::slice::from_ref(&receipt))
            .await
            .unwrap_err();
        assert_eq!(error.kind, kind, "{told}");
    }
}

#[tokio::test]
async fn an_upload_that_must_not_replace_looks_before_its_end() {
    let free = Server::start(willing);
    let upload = begin(&free, &create()).await;
    let receipt = upload.put_part(part(1), BODY).await.unwrap();
    upload.complete(&[receipt]).await.unwrap();
    assert_eq!(free.methods(), "POST PUT GET POST");
    let taken = Server::start(|request| match request.method.as_str() {
        "GET" => json(200, &json!({"size": "1", "generation": "1"})),
        _ => willing(request),
    });
    let upload = begin(&taken, &create()).await;
    let receipt = upload.put_part(part(1), BODY).await.unwrap();
    let error = upload.complete(&[receipt]).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::AlreadyExists);
    upload.abort().await.unwrap();
    assert_eq!(taken.methods(), "POST PUT GET DELETE");
}

#[tokio::test]
async fn an_upload_is_over_once() {
    let server = Server::start(|request| match request.method.as_str() {
        "DELETE" => Answer::error(404, "NoSuchUpload", ""),
        _ => willing(request),
    });
    let upload = begin(&server, &PutOptions::default()).await;
    let none = upload.complete(&[]).await.unwrap_err();
    assert_eq!(none.kind, StoreErrorKind::Invalid);
    upload.abort().await.unwrap();
    upload.abort().await.unwrap();
    assert_eq!(server.methods(), "POST DELETE");
    let error = upload.put_part(part(1), BODY).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::NotFound);
}

#[tokio::test]
async fn trouble_at_the_beginning_is_no_lack() {
    use StoreErrorKind as Kind;
    for (answer, kind) in [
        (
            Answer::error(503, "ServiceUnavailable", ""),
            Kind::ServerFault,
        ),
        (Answer::error(404, "NoSuchBucket", ""), Kind::BucketMissing),
        (Answer::error(400, "InvalidArgument", ""), Kind::Invalid),
        (refusal(401, "authError", "no"), Kind::Unauthenticated),
    ] {
        let told = format!("{answer:?}");
        let server = Server::start(move |_| answer.clone());
        let begun = store(&server)
            .begin_multipart(&key(), &PutOptions::default())
            .await;
        assert_eq!(begun.unwrap_err().kind, kind, "{told}");
        assert_eq!(server.requests().len(), 1, "{told}");
    }
}
