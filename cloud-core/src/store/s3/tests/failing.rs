//! Refusals, silence, other regions, and words for them.

use std::error::Error as _;

use super::*;

/// All that a user could be shown of an error.
fn words(error: &StoreError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text += &format!(": {inner}");
        cause = inner.source();
    }
    text
}

#[test]
fn a_bucket_is_there_or_not_or_cannot_be_asked_for() {
    alone(|| async {
        let listed = || listing::page("<IsTruncated>false</IsTruncated>");
        let server = Server::playing([listed(), Answer::error(404, "NoSuchBucket", "")]);
        let found = store(&server);
        assert_eq!(found.probe().await.unwrap(), BucketState::Exists);
        assert_eq!(found.probe().await.unwrap(), BucketState::Missing);
        assert_eq!(server.methods(), "GET GET");
        // What the credentials are for may be no more than the path.
        let request = &server.requests()[0];
        assert_eq!(request.path(), "/bucket/");
        assert!(request.asks("prefix=path%2F"), "{request:#?}");
        assert!(request.asks("max-keys=1"), "{request:#?}");
    });
}

#[test]
fn who_may_not_list_looks_at_the_bucket() {
    alone(|| async {
        for (status, code, kind) in [
            (403, "AccessDenied", StoreErrorKind::PermissionDenied),
            (400, "", StoreErrorKind::Invalid),
            (501, "NotImplemented", StoreErrorKind::Unsupported),
        ] {
            let refusal = Answer::error(status, code, "");
            for (look, expected) in [
                (200, Ok(BucketState::Unlisted)),
                (404, Ok(BucketState::Missing)),
                (403, Err(())),
                (400, Err(())),
            ] {
                let server = Server::playing([refusal.clone(), Answer::new(look)]);
                let probed = store(&server).probe().await;
                assert_eq!(server.methods(), "GET HEAD");
                assert_eq!(probed.as_ref().copied().map_err(drop), expected);
                // The first refusal is the one that has words.
                if let Err(error) = probed {
                    assert_eq!(error.kind, kind);
                }
            }
        }
        for (status, code, kind) in [
            (503, "SlowDown", StoreErrorKind::RateLimited),
            (403, "InvalidAccessKeyId", StoreErrorKind::Unauthenticated),
        ] {
            let server = Server::playing([Answer::error(status, code, "")]);
            assert_eq!(store(&server).probe().await.unwrap_err().kind, kind);
            assert_eq!(server.methods(), "GET");
        }
    });
}

/// Answers to HEAD have no body, but they have this.
#[test]
fn a_refusal_says_what_the_store_calls_the_request() {
    alone(|| async {
        let refusal = Answer::error(403, "AccessDenied", "")
            .header("x-amz-request-id", "4442587FB7D0A2F9")
            .header("x-amz-id-2", "vlR7PnpV2Ce81l0P/Kx=");
        let server = Server::start(move |_| refusal.clone());
        let store = store(&server);
        let head = store.head(&key(), LockCheck::Skip).await.unwrap_err();
        let get = store.get(&key(), &ReadRange::all()).await.unwrap_err();
        assert_eq!((head.code(), get.code()), ("", "AccessDenied"));
        for error in [head, get] {
            let text = words(&error);
            let told = " (request id 4442587FB7D0A2F9, host id vlR7PnpV2Ce81l0P/Kx=)";
            assert!(text.ends_with(told), "{text}");
            assert_eq!(error.request().unwrap().id, "4442587FB7D0A2F9");
        }
    });
}

#[test]
fn a_bucket_is_made_in_the_region_of_the_user() {
    let owned = || Answer::error(409, "BucketAlreadyOwnedByYou", "");
    let others = || Answer::error(409, "BucketAlreadyExists", "");
    alone_with(&[("AWS_DEFAULT_REGION", "eu-west-3")], || async {
        let server = Server::playing([Answer::new(200), owned(), others()]);
        let store = store(&server);
        store.create_bucket().await.unwrap();
        store.create_bucket().await.expect("it is ours already");
        let error = store.create_bucket().await.unwrap_err();
        assert!(!error.kind.is_transient(), "{error:?}");
        let text = server.requests()[0].text();
        let region = "<LocationConstraint>eu-west-3</LocationConstraint>";
        assert!(text.contains(region), "{text}");
    });
}

#[test]
fn the_first_region_is_not_named() {
    alone(|| async {
        let server = Server::start(|_| Answer::new(200));
        store(&server).create_bucket().await.unwrap();
        assert_eq!(server.request().text(), "");
    });
}

#[test]
fn an_access_point_is_not_made() {
    alone(|| async {
        let server = Server::start(|_| Answer::new(200));
        let arn = "arn:aws:s3:eu-west-1:123456789012:accesspoint/name";
        let store = opened(&StoreConfig {
            url: format!("s3://{arn}"),
            ..config(&server)
        });
        let error = words(&store.create_bucket().await.unwrap_err());
        let text = format!("Cannot create bucket '{arn}': this looks like an S3 access point ARN");
        assert!(error.contains(&text), "{error}");
        assert!(server.requests().is_empty());
    });
}

/// The region that a request is signed for.
fn region(request: &Request) -> String {
    let signed = request.header("authorization").unwrap_or_default();
    signed.split('/').nth(2).unwrap_or_default().to_owned()
}

#[test]
fn a_bucket_in_another_region_is_found_there_and_not_left_again() {
    alone(|| async {
        let malformed = "AuthorizationHeaderMalformed";
        for answer in [
            Answer::error(301, "PermanentRedirect", "")
                .header("x-amz-bucket-region", "eu-central-1"),
            Answer::error(400, malformed, "<Region>eu-central-1</Region>"),
            Answer::error(400, malformed, "").header("x-amz-bucket-region", "eu-central-1"),
        ] {
            let server = Server::playing([answer, written(), written()]);
            let store = store(&server);
            put(&*store, &PutOptions::default()).await.unwrap();
            put(&*store, &PutOptions::default()).await.unwrap();
            let regions: Vec<_> = server.requests().iter().map(region).collect();
            assert_eq!(regions, ["us-east-1", "eu-central-1", "eu-central-1"]);
            assert_eq!(server.requests()[1].body, BODY);
        }
        // What has no body tells it in a header.
        for status in [301, 400] {
            let moved = Answer::new(status).header("x-amz-bucket-region", "eu-central-1");
            let listed = listing::page("<IsTruncated>false</IsTruncated>");
            let server = Server::playing([moved, listed]);
            let state = store(&server).probe().await.unwrap();
            assert_eq!(state, BucketState::Exists);
            assert_eq!(region(&server.requests()[1]), "eu-central-1");
        }
    });
}

#[test]
fn regions_are_not_followed_in_circles_nor_out_of_their_alphabet() {
    alone(|| async {
        let to = |region: &str| Answer::new(301).header("x-amz-bucket-region", region);
        for (answers, requests) in [
            (vec![to("eu-west-1"), to("eu-west-2")], 2),
            (vec![to("us-east-1")], 1),
            (vec![to("evil.example/#")], 1),
            (vec![Answer::new(301)], 1),
        ] {
            let server = Server::playing(answers);
            let error = store(&server).probe().await.unwrap_err();
            assert_eq!(server.requests().len(), requests, "{error:?}");
        }
    });
}

#[test]
fn a_refusal_is_told_in_one_line_with_the_words_of_the_store() {
    alone(|| async {
        let rest = "<Message>Access\n  Denied.</Message><StringToSign>secret</StringToSign>\
                    <RequestId>1</RequestId>";
        let server = Server::playing([
            Answer::error(403, "AccessDenied", rest),
            Answer::error(403, "RequestTimeTooSkewed", ""),
            Answer::new(503).body("<html>\nno such luck</html>"),
        ]);
        let store = store(&server);
        let mut told = Vec::new();
        for _ in 0..3 {
            told.push(words(
                &put(&*store, &PutOptions::default()).await.unwrap_err(),
            ));
        }
        let begin = "could not write `dir/a b+c` in s3://bucket: ";
        let clock = "RequestTimeTooSkewed (status 403); the clock of this machine is wrong";
        assert_eq!(
            told,
            [
                format!("{begin}AccessDenied: Access Denied. (status 403)"),
                format!("{begin}{clock}"),
                format!("{begin}the store answered with status 503"),
            ]
        );
    });
}

#[test]
fn keys_that_are_not_there_are_told_as_the_reference_does() {
    let without = [("AWS_ACCESS_KEY_ID", ""), ("AWS_SECRET_ACCESS_KEY", "")];
    alone_with(&without, || async {
        let server = Server::start(|_| written());
        let error = put(&*store(&server), &PutOptions::default())
            .await
            .unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Unauthenticated);
        let begin = "Unable to locate credentials: looked in the environment, profile `default`";
        assert!(error.source.to_string().starts_with(begin), "{error:?}");
        assert!(server.requests().is_empty());
    });
}

#[test]
fn nothing_that_can_be_printed_has_a_secret() {
    let token = [("AWS_SESSION_TOKEN", "FwoGZXIvYXdzEOFATEST")];
    alone_with(&token, || async {
        let server = Server::playing([written(), begun_and_refused(), multipart::begun()]);
        let store = store(&server);
        put(&*store, &PutOptions::default()).await.unwrap();
        let error = put(&*store, &PutOptions::default()).await.unwrap_err();
        let upload = store
            .begin_multipart(&key(), &PutOptions::default())
            .await
            .unwrap();
        let printed = format!(
            "{store:?} {store:#?} {upload:?} {error:?} {}",
            words(&error)
        );
        for secret in [SECRET, token[0].1] {
            assert!(!printed.contains(secret), "{printed}");
        }
        let signed = server.requests()[0].header("x-amz-security-token") == Some(token[0].1);
        assert!(signed, "the token was in use");
    });
}

fn begun_and_refused() -> Answer {
    let rest = format!("<Message>no</Message><AWSAccessKeyId>{SECRET}</AWSAccessKeyId>");
    Answer::error(403, "InvalidAccessKeyId", &rest)
}

#[test]
fn nobody_there_is_no_connection() {
    alone(|| async {
        let port = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap()
        };
        let store = opened(&StoreConfig {
            url: "s3://bucket".into(),
            endpoint_url: Some(format!("http://{port}")),
            ..StoreConfig::default()
        });
        let error = put(&*store, &PutOptions::default()).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Connect);
        let text = words(&error);
        assert!(text.to_lowercase().contains("refused"), "{text}");
    });
}

#[test]
fn an_answer_that_is_cut_or_none_at_all_is_a_lost_connection() {
    alone(|| async {
        let nothing = Answer::error(500, "InternalError", "").cut(5);
        let server = Server::playing([nothing]);
        let error = put(&*store(&server), &PutOptions::default())
            .await
            .unwrap_err();
        assert!(error.kind.is_transient(), "{error:?}");
    });
}

/// The same store, with patience for a second.
fn impatient(server: &Server) -> Arc<dyn ObjectStore> {
    opened(&StoreConfig {
        read_timeout: Some(1),
        ..config(server)
    })
}

#[test]
fn a_store_that_does_not_answer_is_not_waited_for() {
    alone(|| async {
        let server = Server::start(|_| Answer::silent());
        let error = put(&*impatient(&server), &PutOptions::default())
            .await
            .unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Timeout, "{error:?}");
        assert!(words(&error).contains("--read-timeout"), "{error:?}");
    });
}

#[test]
fn a_body_that_stops_coming_is_not_waited_for() {
    alone(|| async {
        let server = Server::start(|_| written().body(vec![0; 1000]).stalled(10));
        let store = impatient(&server);
        let error = crate::store::get_all(&*store, &key(), 1000).await;
        let error = error.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Timeout, "{error:?}");
        let listing = Server::start(|_| listing::page("<A>x</A>").stalled(10));
        let prefix = Prefix::text("");
        let store = impatient(&listing);
        let error = crate::store::list_all(&*store, &prefix, Depth::All).await;
        let error = error.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Timeout, "{error:?}");
    });
}

/// More than the system takes in for a peer that does not read.
#[test]
fn a_peer_that_does_not_read_is_not_waited_for() {
    alone(|| async {
        let server = Server::deaf();
        let body = Bytes::from(vec![0; 64 << 20]);
        let sent = impatient(&server)
            .put(&key(), body.into(), &PutOptions::default())
            .await;
        assert_eq!(sent.unwrap_err().kind, StoreErrorKind::Timeout);
    });
}
