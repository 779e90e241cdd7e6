//! Uploads in parts.

use std::time::Duration;

use super::*;
use crate::store::{Retry, RetryPolicy};

/// An upload that was begun.
pub(super) fn begun() -> Answer {
    Answer::new(200).xml(
        "<InitiateMultipartUploadResult><UploadId>id</UploadId></InitiateMultipartUploadResult>",
    )
}

/// An upload that was completed.
pub(super) fn completed() -> Answer {
    Answer::new(200).xml(
        "<CompleteMultipartUploadResult><ETag>&quot;made-1&quot;</ETag>\
         </CompleteMultipartUploadResult>",
    )
}

async fn upload(store: &dyn ObjectStore, options: &PutOptions) -> Box<dyn MultipartUpload> {
    let upload = store.begin_multipart(&key(), options).await;
    upload.unwrap()
}

/// An upload of one part, ready to be completed.
async fn ready(
    store: &dyn ObjectStore,
    options: &PutOptions,
) -> (Box<dyn MultipartUpload>, PartReceipt) {
    let upload = upload(store, options).await;
    let part = upload.put_part(PartNumber::FIRST, BODY).await;
    (upload, part.unwrap())
}

#[test]
fn parts_carry_checksums_and_the_end_names_them() {
    alone(|| async {
        let kept = written().header("x-amz-checksum-crc32c", CRC32C);
        let server = Server::playing([begun(), kept, completed()]);
        let store = store(&server);
        let (upload, part) = ready(&*store, &PutOptions::default()).await;
        let receipt = upload.complete(&[part]).await.unwrap();
        assert_eq!(receipt.version, Some(ObjectVersion("made-1".into())));
        let [begin, part, complete] = <[Request; 3]>::try_from(server.requests()).unwrap();
        for request in [&begin, &part, &complete] {
            assert_plain(request);
            assert_eq!(request.path(), PATH);
            assert!(request.named("if-").is_empty());
        }
        assert!(begin.asks("uploads"));
        assert_eq!(begin.header("x-amz-checksum-algorithm"), Some("CRC32C"));
        assert!(part.asks("partNumber=1") && part.asks("uploadId=id"));
        assert_eq!(part.header("x-amz-checksum-crc32c"), Some(CRC32C));
        for request in [&begin, &part] {
            assert!(request.named("content-type").is_empty(), "{request:#?}");
        }
        assert!(complete.asks("uploadId=id"));
        let text = complete.text();
        let listed = format!("<ChecksumCRC32C>{CRC32C}</ChecksumCRC32C>");
        assert!(text.contains(&listed), "{text}");
        assert!(text.contains("<PartNumber>1</PartNumber>"), "{text}");
    });
}

#[test]
fn a_store_that_keeps_no_checksums_is_not_told_them_at_the_end() {
    alone(|| async {
        let server = Server::playing([begun(), written(), completed()]);
        let store = store(&server);
        let (upload, part) = ready(&*store, &PutOptions::default()).await;
        upload.complete(&[part]).await.unwrap();
        let text = server.requests()[2].text();
        assert!(!text.contains("Checksum"), "{text}");
    });
}

#[test]
fn who_wants_no_checksum_headers_gets_content_md5_with_each_part() {
    alone_with(&[WHEN_REQUIRED], || async {
        let server = Server::playing([begun(), written(), completed()]);
        let store = store(&server);
        let (upload, part) = ready(&*store, &PutOptions::default()).await;
        upload.complete(&[part]).await.unwrap();
        let requests = server.requests();
        for request in &requests {
            assert_plain(request);
            assert!(request.named("x-amz-checksum").is_empty(), "{request:#?}");
        }
        assert_eq!(requests[1].header("content-md5"), Some(MD5));
        assert!(!requests[2].text().contains("Checksum"));
    });
}

#[test]
fn a_refusal_of_checksums_is_learned_at_the_beginning_and_with_a_part() {
    let refused = || Answer::error(400, "InvalidRequest", "<Message>what checksum?</Message>");
    alone(|| async {
        for (answers, first_part) in [
            (vec![refused(), begun(), written(), written()], 2),
            (vec![begun(), refused(), written(), written()], 2),
        ] {
            let server = Server::playing(answers);
            let store = store(&server);
            let (upload, _) = ready(&*store, &PutOptions::default()).await;
            let second = PartNumber::new(2).unwrap();
            upload.put_part(second, BODY).await.unwrap();
            let requests = server.requests();
            assert_eq!(requests.len(), 4);
            for part in &requests[first_part..] {
                assert_eq!(part.header("content-md5"), Some(MD5), "{part:#?}");
                assert!(part.named("x-amz-checksum").is_empty(), "{part:#?}");
            }
        }
    });
}

#[test]
fn a_part_that_is_not_what_was_sent_is_corrupt() {
    alone(|| async {
        let other = written().header("x-amz-checksum-crc32c", "AAAAAA==");
        let server = Server::playing([begun(), other, Answer::new(200)]);
        let store = store(&server);
        let upload = upload(&*store, &PutOptions::default()).await;
        for _ in 0..2 {
            let part = upload.put_part(PartNumber::FIRST, BODY).await;
            assert_eq!(part.unwrap_err().kind, StoreErrorKind::Corrupt);
        }
    });
}

/// S3 says 200 before it knows.
#[test]
fn an_error_with_status_200_is_an_error() {
    alone(|| async {
        for (code, kind) in [
            ("InternalError", StoreErrorKind::ServerFault),
            ("ServiceUnavailable", StoreErrorKind::ServerFault),
            ("SlowDown", StoreErrorKind::RateLimited),
            ("PreconditionFailed", StoreErrorKind::AlreadyExists),
            ("AccessDenied", StoreErrorKind::PermissionDenied),
            ("InvalidPart", StoreErrorKind::Invalid),
        ] {
            let failed = Answer::error(200, code, "<Message>words</Message>");
            let server = Server::playing([begun(), written(), failed, completed()]);
            let store = store(&server);
            let (upload, part) = ready(&*store, &PutOptions::default()).await;
            let parts = [part];
            let error = upload.complete(&parts).await.unwrap_err();
            assert_eq!(error.kind, kind, "{error:?}");
            assert!(error.source.to_string().contains("words"), "{error:?}");
            upload.complete(&parts).await.expect("it is not over");
        }
    });
}

/// An answer that says nothing is not taken for a yes, nor for a no.
#[test]
fn an_end_without_a_word_is_asked_for_again() {
    alone(|| async {
        let server = Server::playing([begun(), written(), Answer::new(200), completed()]);
        let store = store(&server);
        let (upload, part) = ready(&*store, &PutOptions::default()).await;
        let parts = [part];
        let error = upload.complete(&parts).await.unwrap_err();
        assert!(error.kind.is_transient(), "{error:?}");
        upload.complete(&parts).await.unwrap();
    });
}

#[test]
fn a_new_name_is_a_condition_of_the_end() {
    alone(|| async {
        let taken = Answer::error(412, "PreconditionFailed", "");
        let server = Server::playing([begun(), written(), Answer::new(404), taken]);
        let store = store(&server);
        let (upload, part) = ready(&*store, &create()).await;
        let error = upload.complete(&[part]).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::AlreadyExists);
        assert_eq!(server.requests()[3].header("if-none-match"), Some("*"));
        assert!(server.requests()[0].named("if-none-match").is_empty());

        let found = Answer::new(200).header("content-length", "1");
        let server = Server::playing([begun(), written(), found]);
        let store = self::store(&server);
        let (upload, part) = ready(&*store, &create()).await;
        let error = upload.complete(&[part]).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::AlreadyExists);
        assert_eq!(server.methods(), "POST PUT HEAD");
    });
}

/// Who may only write cannot look: then the condition decides, and where there
/// is none nothing may be written (W2).
#[test]
fn without_a_look_and_without_a_condition_nothing_is_completed() {
    let refused = || Answer::error(501, "NotImplemented", "<Header>If-None-Match</Header>");
    alone(|| async {
        let server = Server::playing([begun(), written(), Answer::new(403), completed()]);
        let store = store(&server);
        let (upload, part) = ready(&*store, &create()).await;
        upload.complete(&[part]).await.expect("the condition held");

        let answers = [
            begun(),
            written(),
            Answer::new(403),
            refused(),
            Answer::new(403),
        ];
        let server = Server::playing(answers);
        let store = self::store(&server);
        let (upload, part) = ready(&*store, &create()).await;
        let error = upload.complete(&[part]).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::PermissionDenied);
        assert_eq!(server.methods(), "POST PUT HEAD POST HEAD");

        let looked = || Answer::new(404);
        let answers = [
            begun(),
            written(),
            looked(),
            refused(),
            looked(),
            completed(),
        ];
        let server = Server::playing(answers);
        let store = self::store(&server);
        let (upload, part) = ready(&*store, &create()).await;
        upload.complete(&[part]).await.expect("the name is free");
        assert!(server.requests()[5].named("if-none-match").is_empty());
    });
}

#[test]
fn an_upload_is_aborted_once_and_is_over_then() {
    alone(|| async {
        for answer in [
            Answer::new(204),
            Answer::error(404, "NoSuchUpload", ""),
            Answer::new(404),
        ] {
            let server = Server::playing([begun(), answer]);
            let store = store(&server);
            let upload = upload(&*store, &PutOptions::default()).await;
            upload.abort().await.unwrap();
            upload.abort().await.expect("it is safe to repeat");
            assert_eq!(server.methods(), "POST DELETE");
            let part = upload.put_part(PartNumber::FIRST, BODY).await;
            assert_eq!(part.unwrap_err().kind, StoreErrorKind::NotFound);
            assert_eq!(server.methods(), "POST DELETE");
        }
    });
}

#[test]
fn an_abort_that_failed_can_be_repeated() {
    alone(|| async {
        let failed = Answer::error(500, "InternalError", "");
        let server = Server::playing([begun(), failed, Answer::new(204)]);
        let store = store(&server);
        let upload = upload(&*store, &PutOptions::default()).await;
        let error = upload.abort().await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::ServerFault);
        upload.abort().await.unwrap();
        assert_eq!(server.methods(), "POST DELETE DELETE");
    });
}

/// The first request did it, and nobody was told.
#[test]
fn an_end_whose_answer_was_lost_is_found_out() {
    alone(|| async {
        let found = |etag: &str| {
            let found = Answer::new(200).header("content-length", "9");
            found.header("etag", etag)
        };
        let server = Server::playing([
            begun(),
            written(),
            found("\"old\""),
            completed().cut(0),
            Answer::error(404, "NoSuchUpload", ""),
            found("\"new\""),
        ]);
        let policy = RetryPolicy::per_request(Duration::from_mins(1));
        let store = Retry::new(store(&server), policy);
        let (upload, part) = ready(&store, &PutOptions::default()).await;
        let receipt = upload.complete(&[part]).await.unwrap();
        assert_eq!(receipt.version, Some(ObjectVersion("new".into())));
        assert_eq!(server.methods(), "POST PUT HEAD POST POST HEAD");
    });
}

#[test]
fn too_many_parts_are_told_with_what_helps() {
    alone(|| async {
        let words = "<Message>Part number must be an integer between 1 and 5</Message>";
        let refusal = || Answer::error(400, "InvalidArgument", words);
        let server = Server::start(move |request| {
            if request.asks("uploads") {
                begun()
            } else {
                refusal()
            }
        });
        let store = store(&server);
        let upload = upload(&*store, &PutOptions::default()).await;
        let number = PartNumber::new(6).unwrap();
        let error = upload.put_part(number, BODY).await.unwrap_err();
        let hint = "a smaller --max-archive-size needs fewer parts";
        assert!(error.source.to_string().contains(hint), "{error:?}");
    });
}

#[test]
fn an_upload_without_an_id_or_without_parts_is_refused() {
    alone(|| async {
        let empty = "<InitiateMultipartUploadResult></InitiateMultipartUploadResult>";
        let server = Server::playing([Answer::new(200).xml(empty), begun()]);
        let store = store(&server);
        let begin = store.begin_multipart(&key(), &PutOptions::default()).await;
        assert_eq!(begin.unwrap_err().kind, StoreErrorKind::Corrupt);
        let upload = upload(&*store, &PutOptions::default()).await;
        let error = upload.complete(&[]).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Invalid);
        assert_eq!(server.methods(), "POST POST");
    });
}
