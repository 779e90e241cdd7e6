//! Small objects, deletions, and what every write carries.

use super::*;

#[tokio::test]
async fn a_write_is_one_signed_request_with_a_checksum() {
    let server = Server::start(|_| written());
    let put = store(&server)
        .put(&key(), BODY.into(), &PutOptions::default())
        .await;
    assert_eq!(put.unwrap().version, Some(ObjectVersion("0x1".into())));
    let request = server.request();
    assert_signed(&request);
    assert_eq!(
        (
            request.method.as_str(),
            request.target.as_str(),
            &request.body[..]
        ),
        ("PUT", PATH, &BODY[..])
    );
    assert_eq!(request.header("x-ms-content-crc64"), Some(CRC64));
    assert_eq!(request.header("x-ms-blob-type"), Some("BlockBlob"));
    assert_eq!(request.header("content-length"), Some("9"));
    for absent in [
        "if-none-match",
        "x-ms-tags",
        "x-ms-encryption-scope",
        "x-ms-access-tier",
        "x-ms-meta-barmanfingerprint",
    ] {
        assert!(request.named(absent).is_empty(), "{absent}: {request:#?}");
    }
}

#[tokio::test]
async fn an_empty_object_has_a_length_too() {
    let server = Server::start(|_| Answer::new(201));
    let put = store(&server)
        .put(&key(), Bytes::new().into(), &PutOptions::default())
        .await;
    put.unwrap();
    assert_eq!(server.request().header("content-length"), Some("0"));
}

#[tokio::test]
async fn tags_scope_and_condition_go_with_the_write() {
    let server = Server::start(|_| written());
    let config = StoreConfig {
        encryption_scope: Some("scope".into()),
        ..StoreConfig::default()
    };
    let tag = |key: &str, value: &str| Tag {
        key: key.into(),
        value: value.into(),
    };
    let options = PutOptions {
        mode: PutMode::CreateOnly,
        tags: Some(vec![tag("a b", "1+1=2&"), tag("c", "")]),
        fingerprint: Some("5e1f".into()),
    };
    let store = store_with(&server, &config);
    store.put(&key(), BODY.into(), &options).await.unwrap();
    let request = server.request();
    assert_eq!(request.header("if-none-match"), Some("*"));
    assert_eq!(request.header("x-ms-tags"), Some("a%20b=1%2B1%3D2%26&c="));
    assert_eq!(request.header("x-ms-encryption-scope"), Some("scope"));
    let fingerprint = request.header("x-ms-meta-barmanfingerprint");
    assert_eq!(fingerprint, Some("5e1f"));
    let none = PutOptions {
        tags: Some(Vec::new()),
        ..PutOptions::default()
    };
    store.put(&key(), BODY.into(), &none).await.unwrap();
    assert_eq!(server.requests()[1].header("x-ms-tags"), None);
}

#[tokio::test]
async fn a_body_of_any_size_is_one_request() {
    let server = Server::start(|_| Answer::new(201));
    let body = Bytes::from(vec![7; 9 << 20]);
    let put = store(&server)
        .put(&key(), body.into(), &PutOptions::default())
        .await;
    put.unwrap();
    assert_eq!(server.request().body.len(), 9 << 20);
}

#[tokio::test]
async fn bytes_that_are_stored_otherwise_are_corrupt() {
    let server = Server::start(|_| Answer::new(201).header("x-ms-content-crc64", "AAAAAAAAAAA="));
    let put = store(&server)
        .put(&key(), BODY.into(), &PutOptions::default())
        .await;
    let error = put.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Corrupt);
    assert!(
        words(&error).contains("CRC-64 iJh5CoYUi64= was sent"),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_name_that_is_taken_is_told_by_either_status() {
    for (status, code) in [
        (409, "BlobAlreadyExists"),
        (412, "ConditionNotMet"),
        (403, "UnauthorizedBlobOverwrite"),
        (412, ""),
    ] {
        let server = Server::start(move |_| refused(status, code));
        let error = store(&server)
            .put(&key(), BODY.into(), &create())
            .await
            .unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::AlreadyExists, "{status} {code}");
    }
    // Who wants to replace it may not.
    let server = Server::start(|_| refused(403, "UnauthorizedBlobOverwrite"));
    let put = store(&server)
        .put(&key(), BODY.into(), &PutOptions::default())
        .await;
    assert_eq!(put.unwrap_err().kind, StoreErrorKind::PermissionDenied);
}

#[tokio::test]
async fn one_object_is_deleted_by_itself_and_many_in_a_batch() {
    let server = Server::start(|request| {
        if request.method == "DELETE" {
            return Answer::new(202);
        }
        let part = |number, status: &str| {
            format!(
                "--b\r\nContent-Type: application/http\r\nContent-ID: {number}\r\n\r\n\
                 HTTP/1.1 {status}\r\n\r\n"
            )
        };
        let body = part(1, "404 gone\r\nx-ms-error-code: BlobNotFound")
            + &part(0, "202 Accepted")
            + &part(2, "409 no\r\nx-ms-error-code: BlobImmutableDueToPolicy")
            + "--b--";
        Answer::new(202)
            .header("content-type", "multipart/mixed; boundary=b")
            .body(body)
    });
    let store = store(&server);
    let report = store.delete_batch(&[key()]).await.unwrap();
    assert_eq!(report.deleted, [key()]);
    assert_eq!(server.request().target, PATH);
    assert_signed(&server.request());

    let keys = ["dir/a b+c", "two", "three"].map(|name| Key::new(name).unwrap());
    let report = store.delete_batch(&keys).await.unwrap();
    assert_eq!(report.deleted, keys[..2]);
    let (key, error) = &report.failed[0];
    assert_eq!(
        (key, error.kind),
        (&keys[2], StoreErrorKind::PermissionDenied)
    );
    let batch = server.requests().remove(1);
    assert_eq!(batch.target, "/acc/container?restype=container&comp=batch");
    assert_signed(&batch);
    let text = batch.text();
    assert!(
        text.contains(&format!("\r\n\r\nDELETE {PATH} HTTP/1.1\r\n")),
        "{text}"
    );
    assert_eq!(
        text.matches("authorization: SharedKey acc:").count(),
        3,
        "{text}"
    );
    // The version is the batch's.
    assert!(!text.contains("x-ms-version"), "{text}");
}

#[tokio::test]
async fn an_account_without_batches_deletes_one_by_one_from_then_on() {
    let server = Server::start(|request| match &*request.method {
        "POST" => refused(
            409,
            "FeatureNotYetSupportedForHierarchicalNamespaceAccounts",
        ),
        _ if request.path().ends_with("gone") => refused(404, "BlobNotFound"),
        _ => Answer::new(202),
    });
    let store = store(&server);
    let keys = ["gone", "two"].map(|name| Key::new(name).unwrap());
    for _ in 0..2 {
        let report = store.delete_batch(&keys).await.unwrap();
        assert_eq!((report.deleted.len(), report.failed.len()), (2, 0));
    }
    assert_eq!(server.methods(), "POST DELETE DELETE DELETE DELETE");
}

#[tokio::test]
async fn a_container_that_exists_was_made() {
    let server = Server::playing([
        Answer::new(201),
        refused(409, "ContainerAlreadyExists"),
        refused(403, "AuthorizationFailure"),
    ]);
    let store = store(&server);
    store.create_bucket().await.unwrap();
    store.create_bucket().await.expect("it is there");
    let error = store.create_bucket().await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::PermissionDenied);
    let first = &server.requests()[0];
    assert_eq!(
        (first.method.as_str(), first.target.as_str()),
        ("PUT", "/acc/container?restype=container")
    );
}
