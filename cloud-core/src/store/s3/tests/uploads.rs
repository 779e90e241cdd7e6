//! Uploads that nobody completed: all of them, or an error.

use std::time::SystemTime;

use super::*;
use crate::store::UnfinishedUpload;

fn uploads(inside: &str) -> Answer {
    Answer::new(200).xml(&format!(
        "<ListMultipartUploadsResult>{inside}</ListMultipartUploadsResult>"
    ))
}

fn upload(key: &str, id: &str) -> String {
    format!(
        "<Upload><Key>{key}</Key><UploadId>{id}</UploadId>\
         <Initiated>2026-01-02T00:00:00.000Z</Initiated></Upload>"
    )
}

fn parts(inside: &str) -> Answer {
    Answer::new(200).xml(&format!("<ListPartsResult>{inside}</ListPartsResult>"))
}

fn part(number: u32, day: u32) -> String {
    format!(
        "<Part><PartNumber>{number}</PartNumber><Size>1</Size>\
         <LastModified>2026-01-{day:02}T00:00:00.000Z</LastModified></Part>"
    )
}

async fn found(server: &Server) -> Result<Vec<UnfinishedUpload>> {
    store(server)
        .unfinished_uploads(&Prefix::text("a b/"))
        .await
}

fn told(uploads: &[UnfinishedUpload]) -> Vec<String> {
    let day = |upload: &UnfinishedUpload| {
        let since = upload.last_activity?.duration_since(SystemTime::UNIX_EPOCH);
        Some(since.unwrap().as_secs() / 86_400 - 20_453)
    };
    let text = |upload: &UnfinishedUpload| {
        format!("{} {} {}", upload.key, upload.id, day(upload).unwrap_or(0))
    };
    uploads.iter().map(text).collect()
}

#[test]
fn all_pages_of_uploads_and_of_their_parts_are_asked_for() {
    alone(|| async {
        let more = "<IsTruncated>true</IsTruncated>";
        let server = Server::start(move |request| {
            let first = !request.asks("key-marker") && !request.asks("part-number-marker");
            match (request.asks("uploads"), first) {
                (true, true) => uploads(&format!(
                    "<EncodingType>url</EncodingType>{more}<NextKeyMarker>a+b%2F%25</NextKeyMarker>\
                     <NextUploadIdMarker>u1</NextUploadIdMarker>{}{}",
                    upload("a+b%2F%25", "u1"),
                    upload("elsewhere", "u9"),
                )),
                (true, false) => uploads(&format!(
                    "<EncodingType>url</EncodingType>{}",
                    upload("a+b%2Fz", "u2")
                )),
                (false, true) if request.asks("uploadId=u1") => parts(&format!(
                    "{more}<NextPartNumberMarker>1</NextPartNumberMarker>{}",
                    part(1, 5)
                )),
                (false, false) => parts(&(part(2, 7) + &part(3, 6))),
                (false, true) => parts(""),
            }
        });
        let all = found(&server).await.unwrap();
        // The newest of the parts; where there is none, the beginning.
        assert_eq!(told(&all), ["a b/% u1 7", "a b/z u2 2"]);
        let requests = server.requests();
        let second = requests.iter().find(|r| r.asks("key-marker=a%20b%2F%25"));
        let second = second.expect("the marker is decoded");
        assert!(second.asks("upload-id-marker=u1") && second.asks("prefix=a%20b%2F"));
        assert_eq!(requests.len(), 5);
    });
}

#[test]
fn a_page_that_hides_the_way_to_the_next_is_an_error() {
    alone(|| async {
        let more = "<IsTruncated>true</IsTruncated>";
        for answer in [
            uploads(more),
            uploads(&format!("{more}<NextKeyMarker></NextKeyMarker>")),
        ] {
            let server = Server::playing([answer]);
            let error = found(&server).await.unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::Corrupt);
        }
        // In a circle.
        let server =
            Server::start(move |_| uploads(&format!("{more}<NextKeyMarker>a b/c</NextKeyMarker>")));
        assert_eq!(
            found(&server).await.unwrap_err().kind,
            StoreErrorKind::Corrupt
        );
        let server = Server::playing([uploads(&upload("a b/c", "u")), parts(more)]);
        assert_eq!(
            found(&server).await.unwrap_err().kind,
            StoreErrorKind::Corrupt
        );
    });
}

#[test]
fn one_that_ends_while_it_is_looked_at_is_left_out() {
    alone(|| async {
        let server = Server::playing([
            uploads(&upload("a b/c", "u")),
            Answer::error(404, "NoSuchUpload", ""),
        ]);
        assert_eq!(found(&server).await.unwrap(), []);
        let server = Server::playing([
            uploads(&upload("a b/c", "u")),
            Answer::error(403, "AccessDenied", ""),
        ]);
        let error = found(&server).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::PermissionDenied);
    });
}

#[test]
fn what_is_gone_is_aborted() {
    alone(|| async {
        let unfinished = UnfinishedUpload {
            key: Key::new("a b/c").unwrap(),
            id: "u1".into(),
            last_activity: None,
        };
        for (answer, kind) in [
            (Answer::new(204), None),
            (Answer::error(404, "NoSuchUpload", ""), None),
            (
                Answer::error(403, "AccessDenied", ""),
                Some(StoreErrorKind::PermissionDenied),
            ),
        ] {
            let server = Server::playing([answer]);
            let result = store(&server).abort_upload(&unfinished).await;
            assert_eq!(result.err().map(|error| error.kind), kind);
            let request = server.request();
            assert_eq!(
                (&*request.method, request.path()),
                ("DELETE", "/bucket/a%20b/c")
            );
            assert!(request.asks("uploadId=u1"));
        }
    });
}
