//! Refusals, silence, and words for them.

use super::*;

#[tokio::test]
async fn each_refusal_has_its_class_and_one_line() {
    use StoreErrorKind as Kind;
    for (answer, kind, expected) in [
        (
            refused(404, "ContainerNotFound"),
            Kind::BucketMissing,
            "ContainerNotFound: It is so. (status 404)",
        ),
        (refused(404, "BlobNotFound"), Kind::NotFound, "BlobNotFound"),
        (
            refused(403, "AuthenticationFailed"),
            Kind::Unauthenticated,
            "AuthenticationFailed",
        ),
        (
            refused(403, "AuthorizationFailure"),
            Kind::PermissionDenied,
            "the account's firewall does not let this machine in",
        ),
        (refused(503, "ServerBusy"), Kind::RateLimited, "ServerBusy"),
        (
            refused(500, "OperationTimedOut"),
            Kind::Timeout,
            "OperationTimedOut",
        ),
        (
            refused(400, "Crc64Mismatch"),
            Kind::Connect,
            "Crc64Mismatch",
        ),
        (
            Answer::new(502)
                .header("content-type", "text/html")
                .body("<html>hush</html>"),
            Kind::ServerFault,
            "the store answered with status 502",
        ),
        (
            Answer::new(403)
                .header("content-type", "application/json")
                .body("{\"error\": 1}"),
            Kind::PermissionDenied,
            "the store answered with status 403",
        ),
    ] {
        let server = Server::start(move |_| answer.clone());
        let store = store(&server);
        let put = store.put(&key(), BODY.into(), &PutOptions::default()).await;
        let get = store.get(&key(), &ReadRange::all()).await;
        for error in [put.unwrap_err(), get.unwrap_err()] {
            let text = words(&error);
            assert_eq!(error.kind, kind, "{text}");
            assert!(text.contains(expected), "{text}");
            assert!(!text.contains('\n') && !text.contains("hush"), "{text}");
        }
        // Trying again is not the crate's affair.
        assert_eq!(server.requests().len(), 2);
    }
}

/// Answers to HEAD have no body.
#[tokio::test]
async fn the_code_beside_the_body_is_enough() {
    for (code, kind) in [
        ("BlobNotFound", StoreErrorKind::NotFound),
        ("ContainerNotFound", StoreErrorKind::BucketMissing),
    ] {
        let server = Server::start(move |_| Answer::new(404).header("x-ms-error-code", code));
        let head = store(&server).head(&key(), LockCheck::Skip).await;
        assert_eq!(head.unwrap_err().kind, kind);
    }
}

#[tokio::test]
async fn a_refusal_says_what_the_service_calls_the_request() {
    const NAME: &str = "a6b8ef44-301e-0072-4b1c-5a2f6b000000";
    let refusal = refused(403, "AuthenticationFailed").header("x-ms-request-id", NAME);
    let server = Server::start(move |_| refusal.clone());
    let store = store(&server);
    let put = store.put(&key(), BODY.into(), &PutOptions::default()).await;
    let get = store.get(&key(), &ReadRange::all()).await;
    for error in [put.unwrap_err(), get.unwrap_err()] {
        let text = words(&error);
        assert!(text.ends_with(&format!(" (request id {NAME})")), "{text}");
        assert_eq!(error.request().unwrap().id, NAME);
        assert_eq!(error.code(), "AuthenticationFailed");
    }
}

#[tokio::test]
async fn a_lost_answer_is_a_lost_connection() {
    for answer in [
        written().cut(0).header("content-length", "5"),
        Answer::new(200).body("x").cut(0),
    ] {
        let server = Server::start(move |_| answer.clone());
        let put = store(&server)
            .put(&key(), BODY.into(), &PutOptions::default())
            .await;
        let error = put.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Connect, "{}", words(&error));
    }
}

#[tokio::test]
async fn silence_ends_after_the_read_timeout() {
    let server = Server::start(|_| Answer::silent());
    let config = StoreConfig {
        read_timeout: Some(1),
        ..StoreConfig::default()
    };
    let store = store_with(&server, &config);
    let put = store.put(&key(), BODY.into(), &PutOptions::default()).await;
    let error = put.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Timeout);
    assert!(
        words(&error).contains("no byte for 1 seconds (--read-timeout)"),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_store_that_is_not_there_cannot_be_reached() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let text = format!(
        "AccountName=a;AccountKey={KEY};BlobEndpoint=http://{}",
        listener.local_addr().unwrap()
    );
    drop(listener);
    let variables = Variables::of(&[("AZURE_STORAGE_CONNECTION_STRING", &text)]);
    let place = Place {
        account_url: "https://acc.blob.core.windows.net".into(),
        container: "c".into(),
        path: String::new(),
        emulated: false,
    };
    let config = StoreConfig::default();
    let store = AzureStore::with(&config, Connect::with(&config, &place, variables), place);
    let error = store.probe().await.unwrap_err();
    assert!(error.kind.is_unreachable(), "{error:?}");
    let text = words(&error);
    assert!(text.contains("could not connect to `127.0.0.1:"), "{text}");
    assert!(
        text.contains("`c` in https://acc.blob.core.windows.net/c"),
        "{text}"
    );
}

#[tokio::test]
async fn what_means_nothing_is_told_at_the_first_request() {
    for (variables, kind, expected) in [
        (
            &[][..],
            StoreErrorKind::Unauthenticated,
            "AZURE_STORAGE_CONNECTION_STRING must be set",
        ),
        (
            &[("AZURE_STORAGE_CONNECTION_STRING", "")],
            StoreErrorKind::Invalid,
            "AZURE_STORAGE_CONNECTION_STRING is malformed",
        ),
        (
            &[(
                "AZURE_STORAGE_CONNECTION_STRING",
                "AccountName=a;AccountKey=?hush",
            )],
            StoreErrorKind::Invalid,
            "the account key of AZURE_STORAGE_CONNECTION_STRING is not in base64",
        ),
        (
            &[(
                "AZURE_STORAGE_CONNECTION_STRING",
                "BlobEndpoint=ftp://user:hush@x",
            )],
            StoreErrorKind::Invalid,
            "`ftp://x` is not the URL of an account",
        ),
    ] {
        let server = Server::start(|_| written());
        let (config, place) = (StoreConfig::default(), place(&server));
        let connect = Connect::with(&config, &place, Variables::of(variables));
        let store = AzureStore::with(&config, connect, place);
        let error = store.probe().await.unwrap_err();
        let text = words(&error);
        assert_eq!(error.kind, kind, "{text}");
        assert!(text.contains(expected), "{text}");
        assert!(!text.contains("hush"), "{text}");
        assert_eq!(server.methods(), "");
    }
}

/// Also while the service takes not a byte of what is sent, and in the middle of
/// what it sends.
#[tokio::test]
async fn a_stall_in_either_direction_ends_too() {
    let config = StoreConfig {
        read_timeout: Some(1),
        ..StoreConfig::default()
    };
    let deaf = Server::deaf();
    let body = Bytes::from(vec![0; 64 << 20]);
    let store = store_with(&deaf, &config);
    let put = store.put(&key(), body.into(), &PutOptions::default()).await;
    assert_eq!(put.unwrap_err().kind, StoreErrorKind::Timeout);

    let half = Server::start(|_| Answer::new(200).body("123456789").stalled(4));
    let store = store_with(&half, &config);
    let download = store.get(&key(), &ReadRange::all()).await.unwrap();
    let read: Result<Vec<Bytes>> = futures_util::TryStreamExt::try_collect(download.body).await;
    assert_eq!(read.unwrap_err().kind, StoreErrorKind::Timeout);
}

/// What comes after a failure goes by a connection of its own.
#[tokio::test]
async fn connections_are_kept_while_they_are_good() {
    let server = Server::playing([written(), written(), written().cut(0).body("x"), written()]);
    let store = store(&server);
    for lost in [false, false, true, false] {
        let put = store.put(&key(), BODY.into(), &PutOptions::default()).await;
        assert_eq!(put.is_err(), lost);
    }
    let connections: Vec<usize> = server.requests().iter().map(|one| one.connection).collect();
    assert_eq!(connections, [0, 0, 0, 1]);
}
