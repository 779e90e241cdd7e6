//! Reading, looking and listing.

use std::time::{Duration, SystemTime};

use futures_util::TryStreamExt;

use super::*;
use crate::store::{ObjectLock, get_all, list_all};

const MODIFIED: &str = "Fri, 21 Nov 2025 10:00:00 GMT";

fn found(body: &str) -> Answer {
    object(200, body)
}

fn object(status: u16, body: &str) -> Answer {
    Answer::new(status)
        .header("etag", "\"0x1\"")
        .header("last-modified", MODIFIED)
        .body(body)
}

fn part(body: &str, range: &str) -> Answer {
    object(206, body).header("content-range", range)
}

fn range(start: u64, end: Option<u64>) -> ReadRange {
    ReadRange {
        start,
        end,
        version: None,
    }
}

#[tokio::test]
async fn an_object_is_read_in_one_request() {
    let server = Server::start(|_| found("123456789"));
    let (meta, body) = get_all(&store(&server), &key(), 100).await.unwrap();
    assert_eq!(body, BODY);
    let modified = SystemTime::UNIX_EPOCH + Duration::from_hours(489_922);
    assert_eq!((meta.size, meta.modified), (9, Some(modified)));
    assert_eq!(meta.version, Some(ObjectVersion("0x1".into())));
    let request = server.request();
    assert_signed(&request);
    assert_eq!(
        (request.method.as_str(), request.target.as_str()),
        ("GET", PATH)
    );
    assert!(request.named("x-ms-range").is_empty());
}

#[tokio::test]
async fn what_is_read_whole_fits_its_md5() {
    const RIGHT: &str = "JfnnlDI7RTiF9RgfG2JNCw==";
    let server = Server::start(|request| {
        let first = request.target.contains("first");
        found(if first { "023456789" } else { "123456789" }).header("content-md5", RIGHT)
    });
    let store = store(&server);
    let first = Key::new("first").unwrap();
    let download = store.get(&first, &ReadRange::all()).await.unwrap();
    let read: Result<Vec<Bytes>> = download.body.try_collect().await;
    let error = read.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Corrupt);
    assert!(words(&error).contains("MD5"), "{error}");
    assert_eq!(get_all(&store, &key(), 100).await.unwrap().1, BODY);
    // Now that the one is known to be right, the other stays wrong.
    let error = get_all(&store, &first, 100).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Corrupt);
}

#[tokio::test]
async fn a_range_is_of_one_version() {
    let server = Server::start(|_| part("345", "bytes 2-4/9"));
    let asked = ReadRange {
        version: Some(ObjectVersion("0x1".into())),
        ..range(2, Some(5))
    };
    let download = store(&server).get(&key(), &asked).await.unwrap();
    assert_eq!((download.range, download.meta.size), (2..5, 9));
    let pieces: Vec<Bytes> = download.body.try_collect().await.unwrap();
    assert_eq!(pieces.concat(), b"345");
    let request = server.request();
    assert_eq!(request.header("x-ms-range"), Some("bytes=2-4"));
    assert_eq!(request.header("if-match"), Some("\"0x1\""));

    let server = Server::start(|_| refused(412, "ConditionNotMet"));
    let error = store(&server).get(&key(), &asked).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Corrupt);
}

#[tokio::test]
async fn what_does_not_fit_the_question_is_not_delivered() {
    for (answer, asked, kind) in [
        (
            part("345", "bytes 3-5/9"),
            range(2, Some(5)),
            StoreErrorKind::Corrupt,
        ),
        (
            part("34", "bytes 2-3/9"),
            range(2, Some(5)),
            StoreErrorKind::Corrupt,
        ),
        (
            found("123456789"),
            range(2, Some(5)),
            StoreErrorKind::Corrupt,
        ),
        (
            part("3456789", "bytes 2-8/9"),
            range(2, Some(12)),
            StoreErrorKind::Invalid,
        ),
    ] {
        let server = Server::playing([answer]);
        let error = store(&server).get(&key(), &asked).await.unwrap_err();
        assert_eq!(error.kind, kind, "{}", words(&error));
    }
}

#[tokio::test]
async fn an_answer_that_is_cut_is_an_error_at_that_byte() {
    let server = Server::start(|_| found("123456789").cut(4));
    let download = store(&server).get(&key(), &ReadRange::all()).await.unwrap();
    let mut body = download.body;
    let mut read = Vec::new();
    let error = loop {
        match body.try_next().await {
            Ok(Some(piece)) => read.extend_from_slice(&piece),
            Ok(None) => panic!("it is not whole"),
            Err(error) => break error,
        }
    };
    assert_eq!(read, b"1234");
    assert_eq!(error.kind, StoreErrorKind::Connect);
    assert!(body.try_next().await.unwrap().is_none(), "that was its end");
}

#[tokio::test]
async fn a_range_behind_the_end_is_invalid_or_empty() {
    let server = Server::start(|request| match &*request.method {
        "HEAD" => Answer::new(200)
            .header("content-length", "9")
            .header("etag", "\"0x1\""),
        _ => refused(416, "InvalidRange"),
    });
    let store = store(&server);
    let download = store.get(&key(), &range(9, None)).await.unwrap();
    assert_eq!(download.range, 9..9);
    for asked in [range(10, None), range(9, Some(10)), range(12, Some(20))] {
        let error = store.get(&key(), &asked).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Invalid, "{asked:?}");
    }
}

#[tokio::test]
async fn locks_are_told_to_who_looks_for_them() {
    let headers = |more: &[(&str, &str)]| {
        let head = Answer::new(200).header("content-length", "9");
        more.iter()
            .fold(head, |head, (name, value)| head.header(name, value))
    };
    let until = (
        "x-ms-immutability-policy-until-date",
        "Fri, 21 Nov 2098 10:00:00 GMT",
    );
    let past = (until.0, MODIFIED);
    let hold = ("x-ms-legal-hold", "true");
    let then = SystemTime::UNIX_EPOCH + Duration::from_hours(1_129_834);
    for (answer, lock) in [
        (headers(&[]), None),
        (headers(&[past, ("x-ms-legal-hold", "false")]), None),
        (headers(&[until]), Some(ObjectLock::Until(then))),
        (headers(&[until, hold]), Some(ObjectLock::LegalHold)),
    ] {
        let server = Server::start(move |_| answer.clone());
        let store = store(&server);
        let looked = store.head(&key(), LockCheck::Look).await.unwrap();
        assert_eq!((looked.lock, looked.size), (lock, 9));
        let skipped = store.head(&key(), LockCheck::Skip).await.unwrap();
        assert_eq!(skipped.lock, None);
    }
}

fn listing(names: &[&str], marker: &str) -> Answer {
    let blob = |name: &&str| {
        format!(
            "<Blob><Name>{name}</Name><Properties><Last-Modified>{MODIFIED}</Last-Modified>\
             <Etag>0x1</Etag><Content-Length>9</Content-Length></Properties></Blob>"
        )
    };
    let blobs: String = names.iter().map(blob).collect();
    Answer::new(200).xml(&format!(
        "<EnumerationResults><Blobs>{blobs}</Blobs><NextMarker>{marker}</NextMarker>\
         </EnumerationResults>"
    ))
}

#[tokio::test]
async fn a_listing_goes_on_until_there_is_no_marker() {
    let server = Server::start(|request| {
        if request.asks("marker") {
            listing(&["b"], "")
        } else {
            listing(&["a"], "2!8!x==")
        }
    });
    let prefix = Prefix::text("dir/a b");
    let page = list_all(&store(&server), &prefix, Depth::One)
        .await
        .unwrap();
    let names: Vec<&str> = page.objects.iter().map(|it| it.key.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    let requests = server.requests();
    for request in &requests {
        assert_signed(request);
        for asked in [
            "restype=container",
            "comp=list",
            "prefix=dir%2Fa%20b",
            "delimiter=%2F",
        ] {
            assert!(request.asks(asked), "{asked}: {request:#?}");
        }
    }
    assert!(requests[1].asks("marker=2%218%21x%3D%3D"), "{requests:#?}");
}

#[tokio::test]
async fn a_listing_in_a_circle_is_an_error_and_never_short() {
    let server = Server::start(|_| listing(&["a"], "again"));
    let listed = list_all(&store(&server), &Prefix::text(""), Depth::All).await;
    let error = listed.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Corrupt);
    // Nothing is asked for that would be signed otherwise than it is read.
    assert!(!server.requests()[0].asks("prefix"));
}

#[tokio::test]
async fn after_a_failure_the_same_page_is_asked_for_again() {
    let server = Server::playing([
        listing(&["a"], "next"),
        refused(503, "ServerBusy"),
        listing(&["b"], ""),
    ]);
    let mut pages = store(&server).list(&Prefix::text(""), Depth::All);
    assert!(pages.try_next().await.unwrap().is_some());
    let error = pages.try_next().await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::RateLimited);
    let page = pages.try_next().await.unwrap().unwrap();
    assert_eq!(page.objects[0].key.as_str(), "b");
    assert!(pages.try_next().await.unwrap().is_none());
}

#[tokio::test]
async fn the_container_is_looked_for_by_what_lies_under_the_path() {
    let server = Server::playing([
        listing(&[], ""),
        refused(404, "ContainerNotFound"),
        refused(403, "AuthorizationPermissionMismatch"),
    ]);
    let store = store(&server);
    assert_eq!(store.probe().await.unwrap(), BucketState::Exists);
    assert_eq!(store.probe().await.unwrap(), BucketState::Missing);
    let error = store.probe().await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::PermissionDenied);
    let text = words(&error);
    assert!(text.contains("Blob Data Contributor"), "{text}");
    let first = &server.requests()[0];
    assert!(
        first.asks("prefix=path%2F") && first.asks("maxresults=1"),
        "{first:#?}"
    );
}
