//! Reading, whole and in part.

use futures_util::TryStreamExt;

use super::*;
use crate::store::get_all;

/// An object as a download.
fn object() -> Answer {
    Answer::new(200)
        .header("x-goog-generation", "17")
        .header(
            "x-goog-hash",
            &format!("crc32c={CRC32C},md5=JfnnlDI7RTiF9RgfG2JNCw=="),
        )
        .header("last-modified", "Sat, 21 Nov 2026 15:42:31 GMT")
        .body(BODY)
}

async fn read(server: &Server, range: &ReadRange) -> Result<Vec<u8>> {
    let download = store(server).get(&key(), range).await?;
    let pieces: Vec<Bytes> = download.body.try_collect().await?;
    Ok(pieces.concat())
}

fn some(start: u64, end: Option<u64>, version: Option<&str>) -> ReadRange {
    ReadRange {
        start,
        end,
        version: version.map(|text| ObjectVersion(text.into())),
    }
}

#[tokio::test]
async fn an_object_is_read_as_it_is_stored() {
    let server = Server::start(|_| object());
    let store = store(&server);
    let (meta, body) = get_all(&*store, &key(), 100).await.unwrap();
    assert_eq!(body, BODY);
    assert_eq!(meta.version, Some(ObjectVersion("17".into())));
    assert_eq!(meta.modified, time("2026-11-21T15:42:31Z"));
    let request = server.request();
    assert_eq!(request.target, format!("/storage/v1{OBJECT}?alt=media"));
    // Else the service would unpack what somebody stored packed.
    assert_eq!(request.header("accept-encoding"), Some("gzip"));
    assert_eq!(request.header("range"), None);
}

#[tokio::test]
async fn a_range_is_asked_of_one_version() {
    let server = Server::start(|_| {
        Answer::new(206)
            .header("x-goog-generation", "17")
            // Of the whole: it says nothing of a part.
            .header("x-goog-hash", &format!("crc32c={CRC32C}"))
            .header("content-range", "bytes 2-4/9")
            .body("345")
    });
    let range = some(2, Some(5), Some("17"));
    assert_eq!(read(&server, &range).await.unwrap(), b"345");
    let request = server.request();
    assert_eq!(request.header("range"), Some("bytes=2-4"));
    assert!(request.asks("ifGenerationMatch=17"));
    // Another version, told by the service or only to be seen in the answer.
    let other = some(2, Some(5), Some("16"));
    let error = read(&server, &other).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Corrupt);
    let server = Server::start(|_| refusal(412, "conditionNotMet", "no"));
    let error = read(&server, &range).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Corrupt);
    assert!(error.source.to_string().contains("was replaced"));
}

#[tokio::test]
async fn what_is_not_what_was_asked_for_is_not_delivered() {
    use StoreErrorKind as Kind;
    let wrong = Answer::new(200)
        .header("x-goog-hash", "crc32c=AAAAAA==")
        .body(BODY);
    let missing = || refusal(404, "notFound", "No such object: bucket/dir/a b+c");
    let no_bucket = "The specified bucket does not exist.";
    for (answer, range, kind) in [
        (wrong, ReadRange::all(), Kind::Corrupt),
        (object().cut(4), ReadRange::all(), Kind::Connect),
        (object(), some(2, Some(5), None), Kind::Corrupt),
        (object(), some(0, Some(10), None), Kind::Invalid),
        (missing(), ReadRange::all(), Kind::NotFound),
        (
            Answer::new(404).body("Not Found"),
            ReadRange::all(),
            Kind::NotFound,
        ),
        (
            Answer::new(404).body(no_bucket),
            ReadRange::all(),
            Kind::BucketMissing,
        ),
        (
            refusal(403, "forbidden", "no"),
            ReadRange::all(),
            Kind::PermissionDenied,
        ),
        (Answer::new(416), some(2, Some(5), None), Kind::Invalid),
    ] {
        let told = format!("{answer:?} {range:?}");
        let server = Server::start(move |_| answer.clone());
        let error = read(&server, &range).await.unwrap_err();
        assert_eq!(error.kind, kind, "{told}: {error:?}");
    }
}

#[tokio::test]
async fn reading_nothing_looks_at_the_object() {
    let look = json(200, &json!({"name": "n", "size": "9", "generation": "17"}));
    let server = Server::start(move |_| look.clone());
    assert_eq!(read(&server, &some(9, Some(9), None)).await.unwrap(), b"");
    let target = server.requests()[0].target.clone();
    assert!(
        target.starts_with(&format!("/storage/v1{OBJECT}?fields=name")),
        "{target}"
    );
    let behind = read(&server, &some(10, Some(10), None)).await.unwrap_err();
    assert_eq!(behind.kind, StoreErrorKind::Invalid);
    let other = read(&server, &some(9, Some(9), Some("16")))
        .await
        .unwrap_err();
    assert_eq!(other.kind, StoreErrorKind::Corrupt);
}

#[tokio::test]
async fn a_refusal_says_what_the_service_calls_the_request() {
    const NAME: &str = "ABPtcPqXyZ_-0123";
    let server = Server::start(|_| {
        refusal(403, "forbidden", "no permission").header("x-guploader-uploadid", NAME)
    });
    let error = read(&server, &ReadRange::all()).await.unwrap_err();
    assert_eq!(error.request().unwrap().id, NAME);
    assert_eq!(error.code(), "forbidden");
    let told = error.source.to_string();
    assert!(told.ends_with(&format!(" (request id {NAME})")), "{told}");
}
