//! Writing, in one request.

use super::*;

async fn put(server: &Server, options: &PutOptions) -> Result<PutReceipt> {
    store(server).put(&key(), BODY.into(), options).await
}

/// The two parts of a request that writes.
fn parts(request: &Request) -> (serde_json::Value, Vec<u8>) {
    let kind = request.header("content-type").unwrap();
    let boundary = kind.strip_prefix("multipart/related; boundary=").unwrap();
    let text = String::from_utf8(request.body.clone()).unwrap();
    let pieces: Vec<&str> = text.split(&format!("--{boundary}")).collect();
    let [before, first, second, end] = pieces.as_slice() else {
        panic!("{text}");
    };
    assert_eq!((*before, *end), ("", "--\r\n"));
    let content = |part: &str| {
        let (_, content) = part.split_once("\r\n\r\n").unwrap();
        content.strip_suffix("\r\n").unwrap().to_owned()
    };
    let described = serde_json::from_str(&content(first)).unwrap();
    (described, content(second).into_bytes())
}

#[tokio::test]
async fn a_put_is_one_request_with_the_checksum() {
    let server = Server::start(|_| written());
    let receipt = put(&server, &PutOptions::default()).await.unwrap();
    assert_eq!(receipt.version, Some(ObjectVersion("17".into())));
    let request = server.request();
    assert_plain(&request);
    assert_eq!(request.method, "POST");
    assert_eq!(
        request.target,
        "/upload/storage/v1/b/bucket/o?uploadType=multipart"
    );
    let (described, body) = parts(&request);
    let expected = json!({
        "name": "dir/a b+c", "contentType": "application/octet-stream", "crc32c": CRC32C,
    });
    assert_eq!(described, expected);
    assert_eq!(body, BODY);
    assert_eq!(request.header("authorization"), None);
}

#[tokio::test]
async fn condition_key_and_tags_go_with_the_write() {
    let server = Server::start(|_| written());
    let config = StoreConfig {
        kms_key_name: Some("projects/p/key ring/k".into()),
        ..StoreConfig::default()
    };
    let options = PutOptions {
        mode: PutMode::CreateOnly,
        fingerprint: Some("5e1f".into()),
        ..tagged(&[("Key", "v w"), ("ü", "")])
    };
    let store = at(&server.url, &config, "bucket");
    store.put(&key(), BODY.into(), &options).await.unwrap();
    let request = server.request();
    assert!(request.asks("ifGenerationMatch=0"));
    assert!(request.asks("kmsKeyName=projects%2Fp%2Fkey%20ring%2Fk"));
    let (described, _) = parts(&request);
    let metadata = json!({"Key": "v w", "ü": "", "barmanfingerprint": "5e1f"});
    assert_eq!(described["metadata"], metadata);
}

#[tokio::test]
async fn each_refusal_has_its_class() {
    use StoreErrorKind as Kind;
    let condition = "At least one of the pre-conditions you specified did not hold.";
    for (answer, kind) in [
        (
            refusal(412, "conditionNotMet", condition),
            Kind::AlreadyExists,
        ),
        (refusal(404, "notFound", "Not Found"), Kind::BucketMissing),
        (
            refusal(403, "forbidden", "no access"),
            Kind::PermissionDenied,
        ),
        (
            refusal(401, "authError", "Invalid Credentials"),
            Kind::Unauthenticated,
        ),
        (
            refusal(429, "rateLimitExceeded", "slow down"),
            Kind::RateLimited,
        ),
        (refusal(503, "backendError", "later"), Kind::ServerFault),
        (Answer::new(502).body("<html>"), Kind::ServerFault),
        (refusal(409, "conflict", "another one"), Kind::Conflict),
        (
            refusal(
                400,
                "invalid",
                "Provided CRC32C \"a\" doesn't match calculated CRC32C \"b\".",
            ),
            Kind::Connect,
        ),
        // A proxy's page is no success.
        (Answer::new(200).body("<html>log in</html>"), Kind::Connect),
        (written().cut(5), Kind::Connect),
        (Answer::new(200).cut(0), Kind::Connect),
    ] {
        let told = format!("{answer:?}");
        let server = Server::start(move |_| answer.clone());
        let error = put(&server, &create()).await.unwrap_err();
        assert_eq!(error.kind, kind, "{told} {error:?}");
        assert_eq!(
            error.to_string(),
            "could not write `dir/a b+c` in gs://bucket"
        );
        let text = error.source.to_string();
        assert!(!text.contains('\n') && !text.contains('<'), "{text}");
    }
}

#[tokio::test]
async fn bytes_that_were_stored_wrong_are_noticed() {
    let answer = json!({"generation": "17", "crc32c": "AAAAAA=="});
    let server = Server::start(move |_| json(200, &answer));
    let error = put(&server, &PutOptions::default()).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Corrupt);
    let why = format!("CRC-32C {CRC32C} was sent, AAAAAA== was stored");
    assert_eq!(error.source.to_string(), why);
}

#[tokio::test]
async fn a_service_that_does_not_answer_is_given_up() {
    let server = Server::start(|_| Answer::silent());
    let config = StoreConfig {
        read_timeout: Some(1),
        ..StoreConfig::default()
    };
    let put = at(&server.url, &config, "bucket");
    let put = put.put(&key(), BODY.into(), &PutOptions::default()).await;
    assert_eq!(put.unwrap_err().kind, StoreErrorKind::Timeout);
    let nobody = at("http://127.0.0.1:1", &config, "bucket");
    let put = nobody
        .put(&key(), BODY.into(), &PutOptions::default())
        .await;
    assert_eq!(put.unwrap_err().kind, StoreErrorKind::Connect);
}

#[tokio::test]
async fn a_bucket_is_looked_for_by_what_the_tools_may_do_anyway() {
    let listed = || json(200, &json!({"kind": "storage#objects"}));
    let server = Server::start(move |_| listed());
    assert_eq!(store(&server).probe().await.unwrap(), BucketState::Exists);
    assert_eq!(server.request().path(), "/storage/v1/b/bucket/o");

    let missing = || refusal(404, "notFound", "The specified bucket does not exist.");
    let server = Server::start(move |_| missing());
    assert_eq!(store(&server).probe().await.unwrap(), BucketState::Missing);

    // Who may not list the whole bucket may perhaps look at it.
    let forbidden = || refusal(403, "forbidden", "no access");
    let server = Server::playing([forbidden(), json(200, &json!({"name": "bucket"}))]);
    assert_eq!(store(&server).probe().await.unwrap(), BucketState::Unlisted);
    assert_eq!(server.requests()[1].path(), "/storage/v1/b/bucket");
    let server = Server::start(move |_| forbidden());
    let error = store(&server).probe().await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::PermissionDenied);
}

#[tokio::test]
async fn a_bucket_that_exists_is_ours_or_somebody_else_s() {
    let taken = || {
        refusal(
            409,
            "conflict",
            "The requested bucket name is not available.",
        )
    };
    let server = Server::playing([taken(), json(200, &json!({}))]);
    store(&server).create_bucket().await.unwrap();
    assert!(server.requests()[0].asks("project"));
    assert_eq!(server.requests()[0].text(), r#"{"name":"bucket"}"#);
    let forbidden = || refusal(403, "forbidden", "no access");
    let server = Server::playing([taken(), forbidden(), forbidden()]);
    let error = store(&server).create_bucket().await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::PermissionDenied);
    assert!(error.source.to_string().contains("is not available"));
}
