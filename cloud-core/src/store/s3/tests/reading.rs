//! Reading and looking.

use std::time::{Duration, SystemTime};

use futures_util::TryStreamExt;

use super::*;
use crate::store::{ObjectLock, Retry, RetryPolicy, get_all};

fn range(start: u64, end: u64) -> ReadRange {
    ReadRange {
        start,
        end: Some(end),
        version: None,
    }
}

/// Part of an object of 100 bytes.
fn partial(place: &str, body: &str) -> Answer {
    let answer = Answer::new(206).header("etag", "\"v\"");
    answer.header("content-range", place).body(body)
}

async fn read(store: &dyn ObjectStore, range: &ReadRange) -> Result<Vec<u8>> {
    let download = store.get(&key(), range).await?;
    let pieces: Vec<Bytes> = download.body.try_collect().await?;
    Ok(pieces.concat())
}

#[test]
fn a_store_that_knows_no_checksums_is_read_without_asking_for_them() {
    alone(|| async {
        for refusal in [
            Answer::error(501, "NotImplemented", ""),
            Answer::error(
                400,
                "InvalidArgument",
                "<Message>Unsupported header x-amz-checksum-mode</Message>",
            ),
            Answer::error(400, "InvalidRequest", ""),
        ] {
            let told = format!("{refusal:?}");
            let object = || written().body(BODY);
            let server = Server::playing([refusal, object(), object(), written()]);
            let store = store(&server);
            for _ in 0..2 {
                assert_eq!(read(&*store, &ReadRange::all()).await.expect(&told), BODY);
            }
            put(&*store, &PutOptions::default()).await.expect(&told);
            let requests = server.requests();
            assert_eq!(requests[0].named("x-amz-checksum-mode").len(), 1, "{told}");
            for request in &requests[1..] {
                assert!(request.named("x-amz-checksum").is_empty(), "{told}");
            }
        }
    });
}

/// To say that something is not there is to have understood the question.
#[test]
fn what_is_not_known_is_learned_from_a_missing_object_too() {
    alone(|| async {
        let missing = || Answer::error(404, "NoSuchKey", "");
        let vague = Answer::error(400, "InvalidRequest", "");
        let server = Server::playing([vague, missing(), missing()]);
        let store = store(&server);
        for _ in 0..2 {
            let error = read(&*store, &ReadRange::all()).await.unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::NotFound);
        }
        assert_eq!(server.methods(), "GET GET GET", "it is remembered");
    });
}

#[test]
fn a_range_is_asked_for_to_the_byte_and_of_one_version() {
    alone(|| async {
        let server = Server::start(|_| partial("bytes 5-9/100", "01234"));
        let store = store(&server);
        let pinned = ReadRange {
            version: Some(ObjectVersion("v".into())),
            ..range(5, 10)
        };
        let download = store.get(&key(), &pinned).await.unwrap();
        assert_eq!((download.range, download.meta.size), (5..10, 100));
        let request = server.request();
        assert_eq!(request.path(), PATH);
        assert_eq!(request.header("range"), Some("bytes=5-9"));
        assert_eq!(request.header("if-match"), Some("\"v\""));
    });
}

#[test]
fn an_answer_that_has_other_bytes_than_the_ones_asked_for_is_corrupt() {
    alone(|| async {
        for (told, answer) in [
            ("everything", written().body("0123456789")),
            ("others", partial("bytes 4-8/100", "01234")),
            ("fewer", partial("bytes 5-8/100", "0123")),
            ("more", partial("bytes 5-10/100", "012345")),
            ("another length", partial("bytes 5-9/100", "0123456")),
            ("no range", partial("bytes */100", "01234")),
            ("no size", partial("bytes 5-9/*", "01234")),
        ] {
            let server = Server::playing([answer]);
            let error = read(&*store(&server), &range(5, 10)).await.unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::Corrupt, "{told}: {error:?}");
        }
    });
}

#[test]
fn a_range_behind_the_end_is_invalid() {
    alone(|| async {
        let short = partial("bytes 5-7/8", "012");
        let outside = Answer::error(416, "InvalidRange", "");
        for answer in [short, outside] {
            let server = Server::playing([answer]);
            let error = read(&*store(&server), &range(5, 10)).await.unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::Invalid, "{error:?}");
        }
    });
}

#[test]
fn the_end_of_an_object_is_read_as_nothing() {
    alone(|| async {
        let looked = |size: &str| {
            let answer = Answer::new(200).header("etag", "\"v\"");
            answer.header("content-length", size)
        };
        let outside = || Answer::error(416, "InvalidRange", "");
        let from = |start| ReadRange {
            start,
            ..ReadRange::all()
        };
        let server = Server::playing([outside(), looked("7"), outside(), looked("6")]);
        let store = store(&server);
        assert_eq!(read(&*store, &from(7)).await.unwrap(), b"");
        let behind = read(&*store, &from(7)).await.unwrap_err();
        assert_eq!(behind.kind, StoreErrorKind::Invalid);
        let empty = Server::playing([written()]);
        let download = self::store(&empty).get(&key(), &ReadRange::all()).await;
        let download = download.unwrap();
        assert_eq!((download.range, download.meta.size), (0..0, 0));
    });
}

#[test]
fn another_version_is_corrupt_and_not_absent() {
    alone(|| async {
        let server = Server::playing([Answer::error(412, "PreconditionFailed", "")]);
        let error = read(&*store(&server), &range(0, 5)).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Corrupt);
    });
}

#[test]
fn a_body_that_is_cut_is_a_lost_connection() {
    alone(|| async {
        for after in [0, 1, 99] {
            let server = Server::playing([written().body(vec![7; 100]).cut(after)]);
            let error = read(&*store(&server), &ReadRange::all()).await.unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::Connect, "{after}: {error:?}");
        }
    });
}

#[test]
fn a_body_that_was_cut_goes_on_at_the_next_byte_of_the_same_version() {
    alone(|| async {
        let body: Vec<u8> = (0..100).collect();
        let whole = Answer::new(200).header("etag", "\"v\"").body(&body[..]);
        let rest = Answer::new(206)
            .header("etag", "\"v\"")
            .header("content-range", "bytes 40-99/100")
            .body(&body[40..]);
        let server = Server::playing([whole.cut(40), rest]);
        let policy = RetryPolicy::per_request(Duration::from_mins(1));
        let retry = Retry::new(store(&server), policy);
        let (_, read) = get_all(&retry, &key(), 1000).await.unwrap();
        assert_eq!(read, body);
        let again = &server.requests()[1];
        assert_eq!(again.header("range"), Some("bytes=40-99"));
        assert_eq!(again.header("if-match"), Some("\"v\""));
    });
}

#[test]
fn a_checksum_that_comes_with_a_whole_object_is_compared() {
    alone(|| async {
        let with = |sum: &str| written().body(BODY).header("x-amz-checksum-crc32c", sum);
        let server = Server::playing([with("AAAAAA=="), with(CRC32C), with("AAAAAA==-2")]);
        let store = store(&server);
        let error = read(&*store, &ReadRange::all()).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Corrupt, "{error:?}");
        for _ in 0..2 {
            assert_eq!(read(&*store, &ReadRange::all()).await.unwrap(), BODY);
        }
    });
}

#[test]
fn bytes_that_come_without_a_checksum_are_compared_with_an_etag_that_may_be_their_md5() {
    alone(|| async {
        let tagged = |body: &str| {
            let answer = Answer::new(200).body(body);
            answer.header("etag", "\"25f9e794323b453885f5181f1b624d0b\"")
        };
        let encrypted = || tagged("1").header("x-amz-server-side-encryption", "aws:kms");
        let answers = [encrypted(), tagged("123456780"), tagged("123456789")];
        let server = Server::playing(answers);
        let store = store(&server);
        assert_eq!(read(&*store, &ReadRange::all()).await.unwrap(), b"1");
        let flipped = read(&*store, &ReadRange::all()).await.unwrap_err();
        assert_eq!(flipped.kind, StoreErrorKind::Corrupt, "{flipped:?}");
        let right = read(&*store, &ReadRange::all()).await.unwrap();
        assert_eq!(right, b"123456789");

        // A store whose `ETag`s only look like one.
        let server = Server::playing([tagged("odd"), tagged("odd"), tagged("other")]);
        let store = self::store(&server);
        let (_, odd) = get_all(&*store, &key(), 100).await.unwrap();
        assert_eq!(odd, "odd");
        assert_eq!(read(&*store, &ReadRange::all()).await.unwrap(), b"other");
    });
}

/// Some stores send the checksum of the object with a part of it.
#[test]
fn a_part_of_an_object_is_not_compared_with_the_checksum_of_the_whole() {
    alone(|| async {
        let part = partial("bytes 5-9/100", "01234").header("x-amz-checksum-crc32c", CRC32C);
        let server = Server::playing([part]);
        let read = read(&*store(&server), &range(5, 10)).await.unwrap();
        assert_eq!(read, b"01234");
        assert_eq!(server.request().header("x-amz-checksum-mode"), None);
    });
}

#[test]
fn locks_are_part_of_a_look() {
    alone(|| async {
        let object = || Answer::new(200).header("content-length", "5");
        let until = |year: u32| {
            let date = format!("{year}-01-01T00:00:00Z");
            object().header("x-amz-object-lock-retain-until-date", &date)
        };
        let held = |word| object().header("x-amz-object-lock-legal-hold", word);
        let answers = [
            object(),
            until(2999),
            until(2001),
            held("ON"),
            held("OFF"),
            until(2999),
        ];
        let server = Server::playing(answers);
        let store = store(&server);
        let mut locks = Vec::new();
        for _ in 0..5 {
            let meta = store.head(&key(), LockCheck::Look).await.unwrap();
            assert_eq!(meta.size, 5);
            locks.push(meta.lock);
        }
        let end = SystemTime::UNIX_EPOCH + Duration::from_hours(9_020_040);
        assert_eq!(
            locks,
            [
                None,
                Some(ObjectLock::Until(end)),
                None,
                Some(ObjectLock::LegalHold),
                None
            ]
        );
        let skipped = store.head(&key(), LockCheck::Skip).await.unwrap();
        assert_eq!(skipped.lock, None);
    });
}

#[test]
fn what_is_not_there_is_not_found_and_what_may_not_be_seen_is_something_else() {
    alone(|| async {
        for (status, kind) in [
            (404, StoreErrorKind::NotFound),
            (403, StoreErrorKind::PermissionDenied),
            (400, StoreErrorKind::Invalid),
            (503, StoreErrorKind::ServerFault),
        ] {
            let server = Server::start(move |_| Answer::new(status));
            let store = store(&server);
            let error = store.head(&key(), LockCheck::Skip).await.unwrap_err();
            assert_eq!(error.kind, kind);
            let error = read(&*store, &ReadRange::all()).await.unwrap_err();
            assert_eq!(error.kind, kind);
        }
        let server = Server::playing([Answer::error(404, "NoSuchBucket", "")]);
        let error = read(&*store(&server), &ReadRange::all()).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::BucketMissing);
    });
}
