//! Keys, logins, machines, and acting in another's name.

use std::process::Command;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::*;

/// An RSA key made for this run; `None` where there is no program for it.
fn rsa_key(home: &Home) -> Option<(String, PathBuf)> {
    let path = home.0.path().join("key.pem");
    let mut make = Command::new("openssl");
    make.args(["genpkey", "-algorithm", "RSA", "-out"])
        .arg(&path);
    match make.output() {
        Ok(done) if done.status.success() => Some((std::fs::read_to_string(&path).unwrap(), path)),
        _ => {
            let help = "the program `openssl` was not found: install `openssl`";
            assert!(std::env::var_os("CI").is_none(), "{help}");
            eprintln!("skipped: {help}");
            None
        }
    }
}

fn service_account(key: &str, token_uri: &str) -> Value {
    json!({
        "type": "service_account", "project_id": "own-project", "private_key_id": "kid",
        "private_key": key, "client_email": "robot@own.example", "token_uri": token_uri,
    })
}

fn user(server: &Server) -> Value {
    json!({
        "type": "authorized_user", "client_id": "id", "client_secret": "hush/secret",
        "refresh_token": "hush+refresh", "token_uri": format!("{}/token", server.url),
    })
}

/// Header and claims of a statement, after its signature was checked with the
/// system's own tool.
fn verified(home: &Home, key: &std::path::Path, statement: &str) -> (Value, Value) {
    let (message, signature) = statement.rsplit_once('.').unwrap();
    let raw = |text: &str| BASE64_URL_SAFE_NO_PAD.decode(text).unwrap();
    let signature = home.file("signature", raw(signature));
    let message = home.file("message", message);
    let public = home.0.path().join("public.pem");
    let openssl = |arguments: &[&std::ffi::OsStr]| {
        Command::new("openssl")
            .args(arguments)
            .status()
            .unwrap()
            .success()
    };
    let made = openssl(&[
        "pkey".as_ref(),
        "-in".as_ref(),
        key.as_ref(),
        "-pubout".as_ref(),
        "-out".as_ref(),
        public.as_ref(),
    ]);
    assert!(made);
    let fits = openssl(&[
        "dgst".as_ref(),
        "-sha256".as_ref(),
        "-verify".as_ref(),
        public.as_ref(),
        "-signature".as_ref(),
        signature.as_ref(),
        message.as_ref(),
    ]);
    assert!(fits, "the signature does not fit: {statement}");
    let mut parts = statement.split('.').map(raw);
    let mut next = || serde_json::from_slice(&parts.next().unwrap()).unwrap();
    (next(), next())
}

#[tokio::test]
async fn a_key_signs_for_a_token() {
    let home = Home::new();
    let Some((key, path)) = rsa_key(&home) else {
        return;
    };
    let server = Server::start(|_| token("of-key"));
    let account = service_account(&key, &format!("{}/token", server.url));
    let variables = home
        .with(&account)
        .and("GOOGLE_CLOUD_QUOTA_PROJECT", "payer");
    let headers = signed(variables).await.unwrap();
    assert_eq!(headers["authorization"], "Bearer of-key");
    assert_eq!(headers["x-goog-user-project"], "payer");
    let request = server.request();
    assert_eq!(
        request.header("content-type"),
        Some("application/x-www-form-urlencoded")
    );
    let grant = "urn:ietf:params:oauth:grant-type:jwt-bearer";
    assert_eq!(field(&request, "grant_type"), grant);
    let (header, claims) = verified(&home, &path, &field(&request, "assertion"));
    assert_eq!(header, json!({"alg": "RS256", "typ": "JWT", "kid": "kid"}));
    assert_eq!(claims["iss"], "robot@own.example");
    assert_eq!(claims["aud"], "https://oauth2.googleapis.com/token");
    let scope = "https://www.googleapis.com/auth/devstorage.read_write";
    assert_eq!(claims["scope"], scope);
    let lifetime = claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap();
    assert_eq!(lifetime, 3600);
}

#[tokio::test]
async fn other_universes_take_what_the_key_signs() {
    let home = Home::new();
    let Some((key, path)) = rsa_key(&home) else {
        return;
    };
    let mut account = service_account(&key, "http://127.0.0.1:1/");
    account["universe_domain"] = json!("cloud.example");
    let connect = connect(home.with(&account));
    let ready = connect.get().await.unwrap();
    assert_eq!(ready.endpoint, "https://storage.cloud.example");
    let mut request = http::Request::new(Body::default());
    ready.sign(&mut request).await.unwrap();
    let bearer = request.headers()["authorization"].to_str().unwrap();
    let (_, claims) = verified(&home, &path, bearer.strip_prefix("Bearer ").unwrap());
    assert_eq!(claims["sub"], "robot@own.example");
    // Named and of another: nothing is sent anywhere.
    let named = home
        .with(&account)
        .and("GOOGLE_CLOUD_UNIVERSE_DOMAIN", "other.example");
    let error = refusal(named).await;
    assert_eq!(error.kind, StoreErrorKind::Unauthenticated);
    assert!(error.text.contains("`other.example`") && error.text.contains("`cloud.example`"));
}

#[tokio::test]
async fn a_login_is_refreshed() {
    let home = Home::new();
    let server = Server::start(|_| token("of-login"));
    assert_eq!(bearer(home.with(&user(&server))).await.unwrap(), "of-login");
    let request = server.request();
    assert_eq!(field(&request, "grant_type"), "refresh_token");
    assert_eq!(field(&request, "refresh_token"), "hush+refresh");
    assert_eq!(field(&request, "client_secret"), "hush/secret");

    // gcloud's own file, and the project that pays.
    let mut login = user(&server);
    login["quota_project_id"] = json!("payer");
    home.file(
        ".config/gcloud/application_default_credentials.json",
        login.to_string(),
    );
    let headers = signed(home.variables()).await.unwrap();
    assert_eq!(headers["x-goog-user-project"], "payer");
    let elsewhere = home.file(
        "sdk/application_default_credentials.json",
        login.to_string(),
    );
    let variables = Variables::of(&[("HOME", "/nonexistent"), ("NO_GCE_CHECK", "true")])
        .and("CLOUDSDK_CONFIG", elsewhere.parent().unwrap());
    assert_eq!(bearer(variables).await.unwrap(), "of-login");

    // Of a workforce: the client names itself in a header.
    let mut workforce = user(&server);
    workforce["type"] = json!("external_account_authorized_user");
    workforce["token_url"] = workforce["token_uri"].take();
    bearer(home.with(&workforce)).await.unwrap();
    let request = server.requests().pop().unwrap();
    // "id:hush/secret"
    let basic = Some("Basic aWQ6aHVzaC9zZWNyZXQ=");
    assert_eq!(request.header("authorization"), basic);
    assert!(!request.text().contains("client_secret"));
}

#[tokio::test]
async fn somebody_acts_in_the_name_of_an_account() {
    let home = Home::new();
    let server = Server::start(|request| match request.path() {
        "/token" => token("of-login"),
        "/account:generateAccessToken" => {
            assert_eq!(request.header("authorization"), Some("Bearer of-login"));
            let answer = json!({
                "accessToken": "of-account", "expireTime": "2099-01-01T00:00:00Z",
            });
            Answer::new(200).body(answer.to_string())
        }
        other => panic!("{other}"),
    });
    let credentials = json!({
        "type": "impersonated_service_account",
        "service_account_impersonation_url": format!("{}/account:generateAccessToken", server.url),
        "delegates": ["one"],
        "source_credentials": user(&server),
    });
    assert_eq!(bearer(home.with(&credentials)).await.unwrap(), "of-account");
    let asked: Value = serde_json::from_slice(&server.requests()[1].body).unwrap();
    let expected = json!({
        "scope": ["https://www.googleapis.com/auth/devstorage.read_write"],
        "delegates": ["one"],
        "lifetime": "3600s",
    });
    assert_eq!(asked, expected);
}

fn machine(server: &Server) -> Variables {
    let host = server.url.strip_prefix("http://").unwrap();
    Variables::of(&[("GCE_METADATA_HOST", host), ("HOME", "/nonexistent")])
}

fn metadata(request: &Request) -> Answer {
    assert_eq!(request.header("metadata-flavor"), Some("Google"));
    let answer = match request.path() {
        "/computeMetadata/v1/instance/" => Answer::new(200),
        "/computeMetadata/v1/instance/service-accounts/default/token" => {
            assert!(
                request
                    .asks("scopes=https%3A%2F%2Fwww.googleapis.com%2Fauth%2Fdevstorage.read_write")
            );
            token("of-machine")
        }
        "/computeMetadata/v1/project/project-id" => Answer::new(200).body("of-machine\n"),
        _ => Answer::new(404),
    };
    answer.header("metadata-flavor", "Google")
}

#[tokio::test]
async fn a_machine_has_an_account_of_its_own() {
    let server = Server::start(metadata);
    assert_eq!(bearer(machine(&server)).await.unwrap(), "of-machine");
    let connect = connect(machine(&server));
    let project = connect.get().await.unwrap().project().await.unwrap();
    assert_eq!(project, "of-machine");
    // Not by a proxy.
    let proxied = machine(&server).and("HTTP_PROXY", "http://127.0.0.1:1");
    assert_eq!(bearer(proxied).await.unwrap(), "of-machine");
}

#[tokio::test]
async fn a_machine_without_an_account_is_told_from_one_in_trouble() {
    let none = Server::start(|request| match request.path() {
        "/computeMetadata/v1/instance/" => metadata(request),
        _ => Answer::new(404).header("metadata-flavor", "Google"),
    });
    let error = refusal(machine(&none)).await;
    assert_eq!(error.kind, StoreErrorKind::Unauthenticated);
    assert!(
        error.text.contains("this machine has no service account"),
        "{error}"
    );
    let broken = Server::start(|request| match request.path() {
        "/computeMetadata/v1/instance/" => metadata(request),
        _ => Answer::new(503),
    });
    assert_eq!(
        refusal(machine(&broken)).await.kind,
        StoreErrorKind::ServerFault
    );
    // It was named, so it is there, if not now.
    let away = Variables::of(&[
        ("GCE_METADATA_HOST", "127.0.0.1:1"),
        ("HOME", "/nonexistent"),
    ]);
    assert_eq!(refusal(away).await.kind, StoreErrorKind::Connect);
}

#[tokio::test]
async fn nothing_found_says_what_to_do() {
    let home = Home::new();
    let error = refusal(home.variables()).await;
    assert_eq!(error.kind, StoreErrorKind::Unauthenticated);
    assert!(
        error
            .text
            .starts_with("Unable to locate credentials: set GOOGLE_APPL"),
        "{error}"
    );
    let missing = home
        .variables()
        .and("GOOGLE_APPLICATION_CREDENTIALS", "/no/such/file");
    let error = refusal(missing).await;
    assert!(
        error
            .text
            .contains("`/no/such/file` (GOOGLE_APPLICATION_CREDENTIALS)"),
        "{error}"
    );
}

#[tokio::test]
async fn a_refusal_is_told_and_trouble_can_be_waited_for() {
    use StoreErrorKind as Kind;
    let oauth = json!({"error": "invalid_grant", "error_description": "Bad\nrequest"});
    for (status, body, kind, words) in [
        (
            400,
            oauth.to_string(),
            Kind::Unauthenticated,
            "invalid_grant: Bad request (status 400)",
        ),
        (503, String::new(), Kind::ServerFault, "status 503"),
        (429, String::new(), Kind::RateLimited, "status 429"),
        (
            200,
            "<html>".into(),
            Kind::ServerFault,
            "the answer has no token",
        ),
    ] {
        let home = Home::new();
        let server = Server::start(move |_| Answer::new(status).body(body.clone()));
        let error = refusal(home.with(&user(&server))).await;
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.text.contains(words), "{error}");
        assert!(
            error.text.starts_with("no access token for the login of `"),
            "{error}"
        );
    }
    let home = Home::new();
    let key = service_account("hush", "http://127.0.0.1:1/");
    let error = refusal(home.with(&key)).await;
    assert!(
        error
            .text
            .contains("its `private_key` is no RSA key in PEM form"),
        "{error}"
    );
}

/// A token serves many requests; one that the store refuses is replaced once.
#[tokio::test]
async fn a_token_is_kept_until_it_is_refused() {
    use crate::key::Key;
    use crate::store::gcs::GcsStore;
    use crate::store::{LockCheck, ObjectStore};
    let home = Home::new();
    let server = Server::start({
        let given = std::sync::atomic::AtomicU32::new(0);
        move |request| {
            if request.path() == "/token" {
                let number = given.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                return token(&format!("token-{number}"));
            }
            match request.header("authorization") {
                Some("Bearer token-1") => Answer::new(200).body(r#"{"size": "1"}"#),
                _ => Answer::new(401),
            }
        }
    });
    let mut store = GcsStore::with(&StoreConfig::default(), "b", home.with(&user(&server)));
    let inner = Arc::get_mut(&mut store.inner).unwrap();
    inner.connect.ready().await.endpoint = server.url.clone();
    let key = Key::new("k").unwrap();
    for _ in 0..3 {
        store.head(&key, LockCheck::Skip).await.unwrap();
    }
    let paths: Vec<_> = server
        .requests()
        .iter()
        .map(|one| one.path().to_owned())
        .collect();
    let object = "/storage/v1/b/b/o/k";
    assert_eq!(paths, ["/token", object, "/token", object, object, object]);
}

#[tokio::test]
async fn a_bundle_and_a_proxy_are_looked_at() {
    let home = Home::new();
    let server = Server::start(|_| token("t"));
    let bundle = home.file("bundle.pem", "nothing");
    for name in ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"] {
        let error = refusal(home.with(&user(&server)).and(name, &bundle)).await;
        assert_eq!(error.kind, StoreErrorKind::Invalid);
        assert!(error.text.contains(name), "{error}");
    }
    let proxied = home
        .with(&user(&server))
        .and("HTTP_PROXY", "http://127.0.0.1:1");
    let error = refusal(proxied).await;
    assert_eq!(error.kind, StoreErrorKind::Connect);
    assert!(
        error.text.contains("the proxy `127.0.0.1:1` failed"),
        "{error}"
    );
}

#[tokio::test]
async fn the_project_is_found_where_it_is_told() {
    let home = Home::new();
    let server = Server::start(|_| token("t"));
    let project = async |variables: Variables| {
        let connect = connect(variables);
        let ready = connect.get().await.unwrap();
        ready.project().await
    };
    let error = project(home.with(&user(&server))).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Invalid);
    assert!(error.text.contains("GOOGLE_CLOUD_PROJECT"), "{error}");
    home.file(
        ".config/gcloud/configurations/config_default",
        "[core]\nproject = configured\n",
    );
    let found = project(home.with(&user(&server))).await.unwrap();
    assert_eq!(found, "configured");
    let own = service_account("k", "http://127.0.0.1:1");
    assert_eq!(project(home.with(&own)).await.unwrap(), "own-project");
    let named = home.with(&own).and("GOOGLE_CLOUD_PROJECT", "named");
    assert_eq!(project(named).await.unwrap(), "named");
}
