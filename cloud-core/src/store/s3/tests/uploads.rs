//! Uploads that were begun and did not end.

use std::time::{Duration, SystemTime};

use futures_util::StreamExt;

use super::*;
use crate::store::{Retry, RetryPolicy, list_all_uploads};

/// A page of unfinished uploads.
pub(super) fn page(inside: &str) -> Answer {
    let name = "ListMultipartUploadsResult";
    Answer::new(200).xml(&format!("<{name}>{inside}</{name}>"))
}

/// An upload that was begun at 03:00.
pub(super) fn begun(key: &str, id: &str) -> String {
    format!(
        "<Upload><Key>{key}</Key><UploadId>{id}</UploadId>\
         <Initiated>2026-01-02T03:00:00.000Z</Initiated></Upload>"
    )
}

fn more(key: &str, id: &str) -> String {
    format!(
        "<IsTruncated>true</IsTruncated><NextKeyMarker>{key}</NextKeyMarker>\
         <NextUploadIdMarker>{id}</NextUploadIdMarker>"
    )
}

/// A page of the parts of an upload.
pub(super) fn parts(inside: &str) -> Answer {
    Answer::new(200).xml(&format!("<ListPartsResult>{inside}</ListPartsResult>"))
}

/// A part that was written so many minutes after 03:00.
fn part(minute: u32) -> String {
    format!(
        "<Part><PartNumber>1</PartNumber>\
         <LastModified>2026-01-02T03:{minute:02}:00.000Z</LastModified></Part>"
    )
}

fn more_parts(marker: &str) -> String {
    format!("<IsTruncated>true</IsTruncated><NextPartNumberMarker>{marker}</NextPartNumberMarker>")
}

/// So many minutes after 03:00.
fn at(minute: u64) -> Option<SystemTime> {
    // Minutes from the epoch to 03:00 of that day.
    let three = 29_455_380;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_mins(three + minute))
}

fn upload(key: &str, id: &str, last_activity: Option<SystemTime>) -> UnfinishedUpload {
    UnfinishedUpload {
        key: Key::new(key).unwrap(),
        id: id.into(),
        last_activity,
    }
}

async fn uploads(store: &dyn ObjectStore) -> Result<Vec<UnfinishedUpload>> {
    list_all_uploads(store, &Prefix::text("d/")).await
}

/// Plays the pages one after the other; no upload has parts.
fn without_parts(pages: Vec<Answer>) -> Server {
    let pages = std::sync::Mutex::new(pages.into_iter());
    Server::start(move |request| {
        if request.asks("uploads") {
            let next = pages.lock().unwrap().next();
            next.unwrap_or_else(|| Answer::error(400, "OneTooMany", ""))
        } else {
            parts("")
        }
    })
}

/// One upload, whose parts are asked for with these answers.
fn with_parts(answers: Vec<Answer>) -> Server {
    let first = page(&begun("d/a", "one"));
    Server::playing([first].into_iter().chain(answers))
}

/// What was asked for but parts.
fn listings(server: &Server) -> Vec<Request> {
    let mut requests = server.requests();
    requests.retain(|request| request.asks("uploads"));
    requests
}

#[test]
fn all_pages_are_asked_for_with_both_markers() {
    alone(|| async {
        let server = without_parts(vec![
            page(&(begun("d/a b+c%25", "one") + &more("d/a b+c%25", "one/+"))),
            page(&more("d/x", "two")),
            page(&(begun("d/&lt;x&gt;&amp;\u{fc}", "three") + &begun("d/a b+c%25", "two"))),
        ]);
        let store = store(&server);
        let expected = [
            upload("d/<x>&\u{fc}", "three", at(0)),
            upload("d/a b+c%25", "one", at(0)),
            upload("d/a b+c%25", "two", at(0)),
        ];
        assert_eq!(uploads(&*store).await.unwrap(), expected);
        let [first, second, third] = <[Request; 3]>::try_from(listings(&server)).unwrap();
        for request in [&first, &second, &third] {
            assert_plain(request);
            assert_eq!((&*request.method, request.path()), ("GET", "/bucket/"));
            assert!(request.asks("prefix=d%2F"), "{request:#?}");
            // Ceph would encode the keys, and not tell.
            assert!(!request.asks("encoding-type") && !request.asks("delimiter"));
        }
        assert!(!first.asks("key-marker") && !first.asks("upload-id-marker"));
        assert!(second.asks("key-marker=d%2Fa%20b%2Bc%2525"), "{second:#?}");
        assert!(second.asks("upload-id-marker=one%2F%2B"), "{second:#?}");
        assert!(third.asks("key-marker=d%2Fx") && third.asks("upload-id-marker=two"));
        let looks = server.requests();
        let look = looks.iter().find(|look| look.asks("uploadId=three"));
        assert_eq!(look.unwrap().path(), "/bucket/d/%3Cx%3E%26%C3%BC");
    });
}

#[test]
fn names_are_decoded_where_the_store_says_that_it_encoded_them() {
    alone(|| async {
        let encoded = "<EncodingType>url</EncodingType>";
        let server = without_parts(vec![
            page(&(encoded.to_owned() + &begun("d%2Fa+b%2Bc", "1") + &more("d%2Fa+b", "1"))),
            page(&begun("d/a+b%2Bc", "2")),
        ]);
        let store = store(&server);
        let expected = [
            upload("d/a b+c", "1", at(0)),
            upload("d/a+b%2Bc", "2", at(0)),
        ];
        assert_eq!(uploads(&*store).await.unwrap(), expected);
        assert!(listings(&server)[1].asks("key-marker=d%2Fa%20b"));
    });
}

#[test]
fn a_listing_that_cannot_go_on_or_makes_no_sense_is_an_error() {
    alone(|| async {
        let cut = |rest: &str| page(&format!("<IsTruncated>true</IsTruncated>{rest}"));
        let more = |key, id| page(&more(key, id));
        let encoded = |rest: &str| page(&format!("<EncodingType>url</EncodingType>{rest}"));
        for answers in [
            vec![cut("")],
            vec![more("", "")],
            // The rest of the uploads of that key would be passed over.
            vec![cut("<NextKeyMarker>d/a</NextKeyMarker>")],
            vec![cut("<NextUploadIdMarker>1</NextUploadIdMarker>")],
            vec![more("a", "1"), more("a", "1")],
            vec![more("a", "1"), more("a", "2"), more("a", "1")],
            vec![page(&begun("", "1"))],
            vec![page(&begun("d/a", ""))],
            vec![page("<Upload></Upload>")],
            vec![encoded(&begun("d%2", "1"))],
            vec![encoded(
                "<IsTruncated>true</IsTruncated><NextKeyMarker>%FF</NextKeyMarker>\
                 <NextUploadIdMarker>1</NextUploadIdMarker>",
            )],
        ] {
            let told = format!("{answers:?}");
            let server = without_parts(answers);
            let error = uploads(&*store(&server)).await.expect_err(&told);
            assert_eq!(error.kind, StoreErrorKind::Corrupt, "{told}");
        }
    });
}

/// They may be another server's, and about to be aborted.
#[test]
fn uploads_of_other_keys_are_left_out() {
    alone(|| async {
        let inside = begun("c/a", "1") + &begun("d", "2") + &begun("d/a", "3") + &begun("da", "4");
        let server = without_parts(vec![page(&inside)]);
        let found = uploads(&*store(&server)).await.unwrap();
        assert_eq!(found, [upload("d/a", "3", at(0))]);
        assert_eq!(server.methods(), "GET GET", "nobody else was looked at");
    });
}

#[test]
fn the_newest_part_of_all_pages_is_the_last_activity() {
    alone(|| async {
        let server = with_parts(vec![
            parts(&(part(5) + &part(30) + &more_parts("1000"))),
            parts(&more_parts("2000")),
            parts(&(part(7) + &part(40) + &part(9))),
        ]);
        let found = uploads(&*store(&server)).await.unwrap();
        assert_eq!(found, [upload("d/a", "one", at(40))]);
        let requests = server.requests();
        for request in &requests[1..] {
            assert_plain(request);
            let asked = (&*request.method, request.path());
            assert_eq!(asked, ("GET", "/bucket/d/a"));
            assert!(request.asks("uploadId=one"), "{request:#?}");
        }
        assert!(!requests[1].asks("part-number-marker"));
        assert!(requests[2].asks("part-number-marker=1000"));
        assert!(requests[3].asks("part-number-marker=2000"));
    });
}

#[test]
fn parts_that_cannot_all_be_seen_are_an_error() {
    alone(|| async {
        let more = |marker: &str| parts(&(part(1) + &more_parts(marker)));
        for answers in [vec![more("")], vec![more("7"), more("7")]] {
            let told = format!("{answers:?}");
            let server = with_parts(answers);
            let error = uploads(&*store(&server)).await.expect_err(&told);
            assert_eq!(error.kind, StoreErrorKind::Corrupt, "{told}");
            assert_eq!((error.op, &*error.what), (StoreOp::ListUploads, "d/a"));
        }
    });
}

/// Whoever is not told the age must not take it for old.
#[test]
fn an_activity_that_the_store_does_not_tell_is_none() {
    alone(|| async {
        let timeless = "<Part><PartNumber>1</PartNumber></Part>";
        let foreign = Answer::error(400, "InvalidRequest", "<Message>a key</Message>");
        for answer in [parts(&(part(1) + timeless)), foreign] {
            let told = format!("{answer:?}");
            let found = uploads(&*store(&with_parts(vec![answer]))).await.unwrap();
            assert_eq!(found, [upload("d/a", "one", None)], "{told}");
        }
        let timeless = "<Upload><Key>d/a</Key><UploadId>one</UploadId></Upload>";
        for (answer, expected) in [(parts(""), None), (parts(&part(3)), at(3))] {
            let server = Server::playing([page(timeless), answer]);
            let found = uploads(&*store(&server)).await.unwrap();
            assert_eq!(found, [upload("d/a", "one", expected)]);
        }
    });
}

#[test]
fn a_store_without_lists_of_parts_is_asked_for_none_again() {
    alone(|| async {
        let server = Server::playing([
            page(&begun("d/a", "one")),
            Answer::error(501, "NotImplemented", ""),
            page(&(begun("d/a", "one") + &begun("d/b", "two"))),
        ]);
        let store = store(&server);
        let both = [upload("d/a", "one", None), upload("d/b", "two", None)];
        assert_eq!(uploads(&*store).await.unwrap(), both[..1]);
        assert_eq!(uploads(&*store).await.unwrap(), both);
        assert_eq!(server.methods(), "GET GET GET");
    });
}

#[test]
fn an_upload_that_ends_meanwhile_is_left_out() {
    alone(|| async {
        let server = Server::start(|request| {
            if request.asks("uploads") {
                let ids = ["1", "2", "3", "4"].map(|id| begun("d/a", id));
                page(&ids.concat())
            } else if request.asks("uploadId=1") {
                Answer::error(404, "NoSuchUpload", "")
            } else if request.asks("uploadId=2") {
                // Ceph's word for it.
                Answer::error(404, "NoSuchKey", "")
            } else if request.asks("uploadId=3") {
                parts(&part(8))
            } else {
                Answer::new(404)
            }
        });
        let found = uploads(&*store(&server)).await.unwrap();
        assert_eq!(found, [upload("d/a", "3", at(8))]);
    });
}

#[test]
fn who_may_not_look_is_told() {
    alone(|| async {
        for (status, code, kind) in [
            (403, "AccessDenied", StoreErrorKind::PermissionDenied),
            (404, "NoSuchBucket", StoreErrorKind::BucketMissing),
            (501, "NotImplemented", StoreErrorKind::Unsupported),
        ] {
            let server = Server::playing([Answer::error(status, code, "")]);
            let error = uploads(&*store(&server)).await.unwrap_err();
            assert_eq!((error.kind, &*error.what), (kind, "d/"));
            let told = error.to_string();
            let expected = "could not list the unfinished uploads of `d/` in s3://bucket";
            assert_eq!(told, expected);
        }
        let server = with_parts(vec![Answer::error(403, "AccessDenied", "")]);
        let error = uploads(&*store(&server)).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::PermissionDenied);
        assert_eq!(error.what, "d/a");
    });
}

/// More than are looked at together, one of which fails for a while, on two
/// pages, the second of which does.
#[test]
fn what_failed_is_asked_for_again_and_nothing_else() {
    alone(|| async {
        let first: String = (10..30).map(|id| begun("d/a", &id.to_string())).collect();
        let busy = std::sync::Mutex::new(vec!["uploadId=13", "key-marker=d%2Fa", "uploadId=13"]);
        let server = Server::start(move |request| {
            let mut busy = busy.lock().unwrap();
            if let Some(fits) = busy.iter().position(|one| request.asks(one)) {
                busy.remove(fits);
                Answer::error(503, "SlowDown", "")
            } else if !request.asks("uploads") {
                parts(&part(1))
            } else if request.asks("key-marker") {
                page(&begun("d/b", "last"))
            } else {
                page(&(first.clone() + &more("d/a", "29")))
            }
        });
        let mut pages = store(&server).list_uploads(&Prefix::text("d/"));
        for _ in 0..2 {
            let error = pages.next().await.unwrap().unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::RateLimited);
            assert_eq!(error.what, "d/a");
        }
        assert_eq!(pages.next().await.unwrap().unwrap().len(), 20);
        let error = pages.next().await.unwrap().unwrap_err();
        assert_eq!(
            (error.kind, &*error.what),
            (StoreErrorKind::RateLimited, "d/")
        );
        assert_eq!(pages.next().await.unwrap().unwrap().len(), 1);
        assert!(pages.next().await.is_none());
        let looks = |id: &str| {
            let requests = server.requests();
            let id = format!("uploadId={id}");
            requests.iter().filter(|look| look.asks(&id)).count()
        };
        assert_eq!((looks("13"), looks("12"), looks("29")), (3, 1, 1));
        assert_eq!(server.requests().len(), 2 + 20 + 2 + 1 + 1);
    });
}

#[test]
fn a_wrapper_that_tries_again_hands_out_each_upload_once() {
    alone(|| async {
        let busy = || Answer::error(503, "SlowDown", "");
        let server = Server::playing([
            busy(),
            page(&(begun("d/a", "1") + &more("d/a", "1"))),
            busy(),
            parts(&part(1)),
            busy(),
            page(&begun("d/a", "2")),
            busy(),
            parts(&part(2)),
        ]);
        let policy = RetryPolicy::per_request(Duration::from_mins(1));
        let store = Retry::new(store(&server), policy);
        let expected = [upload("d/a", "1", at(1)), upload("d/a", "2", at(2))];
        assert_eq!(uploads(&store).await.unwrap(), expected);
    });
}

#[test]
fn an_upload_is_aborted_by_key_and_id_and_one_that_is_gone_is() {
    alone(|| async {
        let listed = upload("dir/a b+c", "one/+", None);
        for (answer, expected) in [
            (Answer::new(204), Ok(())),
            (Answer::error(404, "NoSuchUpload", ""), Ok(())),
            (
                Answer::error(404, "NoSuchBucket", ""),
                Err(StoreErrorKind::BucketMissing),
            ),
            (
                Answer::error(403, "AccessDenied", ""),
                Err(StoreErrorKind::PermissionDenied),
            ),
            // What some emulators say of one that is gone: it may be a lie.
            (
                Answer::error(500, "InternalError", ""),
                Err(StoreErrorKind::ServerFault),
            ),
        ] {
            let server = Server::playing([answer]);
            let aborted = store(&server).abort_upload(&listed).await;
            assert_eq!(aborted.map_err(|error| error.kind), expected);
            let request = server.request();
            assert_plain(&request);
            assert_eq!((&*request.method, request.path()), ("DELETE", PATH));
            assert!(request.asks("uploadId=one%2F%2B"), "{request:#?}");
        }
    });
}
