//! Unfinished uploads.

use super::*;
use crate::store::list_all_uploads;

fn listed(text: &str) -> Answer {
    let name = "ListMultipartUploadsResult";
    Answer::new(200).xml(&format!("<{name} xmlns='x'>{text}</{name}>"))
}

fn upload(key: &str, id: &str) -> String {
    format!(
        "<Upload><Key>{key}</Key><UploadId>{id}</UploadId>\
         <Initiated>2026-01-01T00:00:00.000Z</Initiated></Upload>"
    )
}

fn parts(text: &str) -> Answer {
    Answer::new(200).xml(&format!("<ListPartsResult>{text}</ListPartsResult>"))
}

fn part_at(at: &str) -> String {
    format!("<Part><PartNumber>1</PartNumber><LastModified>{at}</LastModified></Part>")
}

async fn all(server: &Server) -> Result<Vec<UnfinishedUpload>> {
    list_all_uploads(&*store(server), &Prefix::dir("p")).await
}

#[tokio::test]
async fn each_is_asked_for_its_newest_part() {
    let server = Server::start(|request| {
        if request.path() == "/bucket" {
            return if request.asks("key-marker") {
                listed(&upload("p/c", "3"))
            } else {
                let more = "<IsTruncated>true</IsTruncated><NextKeyMarker>p/b &amp;</NextKeyMarker>\
                            <NextUploadIdMarker>2</NextUploadIdMarker>";
                listed(&(upload("p/a", "1") + &upload("p/b", "2") + &upload("q", "9") + more))
            };
        }
        match request.path() {
            "/bucket/p/a" if request.asks("part-number-marker") => {
                parts(&part_at("2026-03-01T00:00:00Z"))
            }
            "/bucket/p/a" => parts(
                &(part_at("2026-02-01T00:00:00Z")
                    + "<IsTruncated>true</IsTruncated><NextPartNumberMarker>1</NextPartNumberMarker>"),
            ),
            "/bucket/p/b" => Answer::error(404, "NoSuchUpload", ""),
            _ => parts(""),
        }
    });
    let found = all(&server).await.unwrap();
    let told: Vec<_> = found
        .iter()
        .map(|one| (one.key.as_str(), one.id.as_str(), one.last_activity))
        .collect();
    assert_eq!(
        told,
        [
            ("p/a", "1", time("2026-03-01T00:00:00Z")),
            ("p/c", "3", time("2026-01-01T00:00:00Z")),
        ]
    );
    let requests = server.requests();
    let second = requests.iter().find(|one| one.asks("key-marker")).unwrap();
    assert!(second.asks("key-marker=p%2Fb%20%26") && second.asks("upload-id-marker=2"));
    assert!(second.asks("prefix=p%2F"));
}

/// Emulators answer the question with the objects, or not at all.
#[tokio::test]
async fn a_service_without_such_uploads_has_none() {
    for answer in [
        Answer::new(200).xml("<ListBucketResult><Name>b</Name></ListBucketResult>"),
        json(200, &json!({"kind": "storage#buckets"})),
        Answer::new(501),
        refusal(400, "Bad Request", "what?"),
    ] {
        let server = Server::start(move |_| answer.clone());
        assert_eq!(all(&server).await.unwrap(), []);
    }
}

#[tokio::test]
async fn a_listing_is_never_short() {
    use StoreErrorKind as Kind;
    for (answer, kind) in [
        (
            Answer::error(403, "AccessDenied", ""),
            Kind::PermissionDenied,
        ),
        (Answer::error(404, "NoSuchBucket", ""), Kind::BucketMissing),
        (
            Answer::error(503, "ServiceUnavailable", ""),
            Kind::ServerFault,
        ),
        (listed("<IsTruncated>true</IsTruncated>"), Kind::Corrupt),
        (listed("<Upload><Key>p/a</Key></Upload>"), Kind::Corrupt),
    ] {
        let told = format!("{answer:?}");
        let server = Server::start(move |_| answer.clone());
        assert_eq!(all(&server).await.unwrap_err().kind, kind, "{told}");
    }
}

#[tokio::test]
async fn an_upload_is_aborted_by_its_id() {
    let server = Server::playing([Answer::new(204), Answer::error(404, "NoSuchUpload", "")]);
    let named = UnfinishedUpload {
        key: key(),
        id: "a/b+c".into(),
        last_activity: None,
    };
    let store = store(&server);
    store.abort_upload(&named).await.unwrap();
    store.abort_upload(&named).await.unwrap();
    let first = &server.requests()[0];
    assert_eq!(first.method, "DELETE");
    assert_eq!(first.target, format!("{XML}?uploadId=a%2Fb%2Bc"));
}
