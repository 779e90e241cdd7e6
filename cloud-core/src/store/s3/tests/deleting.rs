//! Deletions, each with a fate of its own.

use aws_smithy_types::base64;
use md5::{Digest, Md5};

use super::*;

fn keys(names: &[&str]) -> Vec<Key> {
    names.iter().map(|name| Key::new(*name).unwrap()).collect()
}

fn result(inside: &str) -> Answer {
    Answer::new(200).xml(&format!("<DeleteResult>{inside}</DeleteResult>"))
}

fn refused(key: &str, code: &str, message: &str) -> String {
    format!("<Error><Key>{key}</Key><Code>{code}</Code><Message>{message}</Message></Error>")
}

#[test]
fn many_objects_go_with_one_request_and_content_md5() {
    alone(|| async {
        let server = Server::playing([result(
            "<Deleted><Key>a&amp;b</Key></Deleted><Deleted><Key>c</Key></Deleted>",
        )]);
        let report = store(&server).delete_batch(&keys(&["a&b", "c"])).await;
        let report = report.unwrap();
        assert_eq!(report.deleted, keys(&["a&b", "c"]));
        assert!(report.failed.is_empty());
        let request = server.request();
        assert_plain(&request);
        assert!(request.method == "POST" && request.asks("delete"));
        assert_eq!(
            request.header("content-md5").map(str::to_owned),
            Some(base64::encode(Md5::digest(&request.body)))
        );
        assert!(request.named("x-amz-checksum").is_empty(), "{request:#?}");
        let text = request.text();
        assert!(text.contains("<Key>a&amp;b</Key>"), "{text}");
        assert!(!text.contains("<Quiet>true</Quiet>"), "{text}");
    });
}

#[test]
fn each_key_has_its_fate() {
    alone(|| async {
        let inside = "<Deleted><Key>done</Key></Deleted>".to_owned()
            + &refused("gone", "NoSuchKey", "")
            + &refused("locked", "AccessDenied", "object lock")
            + &refused("busy", "SlowDown", "")
            + &refused("broken", "InternalError", "words")
            + "<Error><Key>mute</Key></Error>"
            + "<Error><Key>text</Key><Message>only words</Message></Error>";
        let server = Server::playing([result(&inside)]);
        let names = ["done", "gone", "locked", "busy", "broken", "mute", "text"];
        let report = store(&server).delete_batch(&keys(&names)).await.unwrap();
        assert_eq!(report.deleted, keys(&["done", "gone"]));
        let failed: Vec<_> = report
            .failed
            .iter()
            .map(|(key, error)| (key.as_str(), error.kind, error.source.to_string()))
            .collect();
        let of = |key, kind, words: &str| (key, kind, words.to_owned());
        assert_eq!(
            failed,
            [
                of(
                    "locked",
                    StoreErrorKind::PermissionDenied,
                    "AccessDenied: object lock"
                ),
                of("busy", StoreErrorKind::RateLimited, "SlowDown"),
                of(
                    "broken",
                    StoreErrorKind::ServerFault,
                    "InternalError: words"
                ),
                of(
                    "mute",
                    StoreErrorKind::ServerFault,
                    "the store gives no reason"
                ),
                of("text", StoreErrorKind::ServerFault, "only words"),
            ]
        );
    });
}

/// Some stores name what failed alone, as if they had been asked to.
#[test]
fn what_the_answer_does_not_mention_is_deleted_once_more() {
    alone(|| async {
        let inside = "<Deleted><Key>named</Key></Deleted>".to_owned()
            + &refused("locked", "AccessDenied", "object lock");
        let server = Server::playing([
            result(&inside),
            Answer::new(204),
            Answer::error(403, "AccessDenied", ""),
        ]);
        let names = ["named", "locked", "forgotten", "denied"];
        let report = store(&server).delete_batch(&keys(&names)).await.unwrap();
        assert_eq!(server.methods(), "POST DELETE DELETE");
        assert_eq!((report.deleted.len(), report.failed.len()), (2, 2));
        assert_eq!(report.deleted[0], keys(&["named"])[0]);
    });
}

/// Ceph allows a bulk deletion to who may delete all of the bucket.
#[test]
fn who_may_not_delete_in_bulk_perhaps_may_one_by_one() {
    alone(|| async {
        let denied = || Answer::error(403, "AccessDenied", "");
        let done = || Answer::new(204);
        let server = Server::playing([denied(), done(), done(), done(), done(), done()]);
        let store = store(&server);
        for _ in 0..2 {
            let report = store.delete_batch(&keys(&["a", "b"])).await.unwrap();
            assert_eq!((report.deleted.len(), report.failed.len()), (2, 0));
        }
        let expected = format!("POST{}", " DELETE".repeat(5));
        assert_eq!(server.methods(), expected, "it is remembered");
        let server = Server::playing([denied(), denied()]);
        let error = self::store(&server).delete_batch(&keys(&["a", "b"])).await;
        assert_eq!(error.unwrap_err().kind, StoreErrorKind::PermissionDenied);
        assert_eq!(server.methods(), "POST DELETE");
    });
}

#[test]
fn a_store_without_bulk_deletion_is_asked_one_by_one_from_then_on() {
    alone(|| async {
        for answer in [
            Answer::error(501, "NotImplemented", ""),
            Answer::error(405, "MethodNotAllowed", ""),
            Answer::new(501),
        ] {
            let server = Server::start(move |request| {
                let missing = request.path().ends_with('c');
                match &*request.method {
                    "POST" => answer.clone(),
                    _ if missing => Answer::error(404, "NoSuchKey", ""),
                    _ => Answer::new(204),
                }
            });
            let store = store(&server);
            for _ in 0..2 {
                let report = store.delete_batch(&keys(&["a", "b", "c"])).await.unwrap();
                let mut deleted = report.deleted;
                deleted.sort();
                assert_eq!(deleted, keys(&["a", "b", "c"]));
                assert!(report.failed.is_empty());
            }
            let methods = server.methods();
            assert_eq!(methods, format!("POST{}", " DELETE".repeat(6)));
        }
    });
}

#[test]
fn a_name_that_xml_cannot_hold_goes_by_itself() {
    alone(|| async {
        let server = Server::start(|request| match &*request.method {
            "POST" => result("<Deleted><Key>a</Key></Deleted>"),
            _ => Answer::new(204),
        });
        let keys = keys(&["a", "b\u{1}", "c\r"]);
        let report = store(&server).delete_batch(&keys).await;
        let mut deleted = report.unwrap().deleted;
        deleted.sort();
        assert_eq!(deleted, keys);
        let mut methods = server.requests();
        methods.sort_by(|one, other| one.target.cmp(&other.target));
        assert!(!methods[0].text().contains('\u{1}'));
        assert_eq!(methods.len(), 3);
    });
}

#[test]
fn a_request_that_fails_as_a_whole_is_an_error() {
    alone(|| async {
        for (answer, kind) in [
            (
                Answer::error(403, "AccessDenied", ""),
                StoreErrorKind::PermissionDenied,
            ),
            (
                Answer::error(503, "SlowDown", ""),
                StoreErrorKind::RateLimited,
            ),
            (
                Answer::error(404, "NoSuchBucket", ""),
                StoreErrorKind::BucketMissing,
            ),
        ] {
            let server = Server::start(move |_| answer.clone());
            let error = store(&server).delete_batch(&keys(&["only"])).await;
            let error = error.unwrap_err();
            assert_eq!(error.kind, kind);
            assert_eq!(error.what, "only");
        }
        let server = Server::playing([Answer::new(502)]);
        let error = store(&server).delete_batch(&keys(&["a", "b", "c"])).await;
        assert_eq!(error.unwrap_err().what, "a and 2 more");
    });
}
