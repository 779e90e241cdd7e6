//! Identities of other providers.

use super::*;

fn external(server: &Server, source: &Value) -> Value {
    json!({
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": format!("{}/sts", server.url),
        "credential_source": source,
    })
}

fn exchange(request: &Request) -> Answer {
    match request.path() {
        "/sts" => token("exchanged"),
        "/subject" => {
            assert_eq!(request.header("x-identity"), Some("hush-header"));
            Answer::new(200).body(r#"{"value": "hush-url"}"#)
        }
        "/account:generateAccessToken" => {
            assert_eq!(request.header("authorization"), Some("Bearer exchanged"));
            let answer = json!({
                "accessToken": "impersonated", "expireTime": "2099-01-01T00:00:00Z",
            });
            Answer::new(200).body(answer.to_string())
        }
        _ => Answer::new(404),
    }
}

#[tokio::test]
async fn a_token_in_a_file_is_exchanged() {
    let home = Home::new();
    let server = Server::start(exchange);
    let subject = home.file("subject", "hush-file\n");
    let credentials = external(&server, &json!({"file": subject}));
    assert_eq!(bearer(home.with(&credentials)).await.unwrap(), "exchanged");
    let request = server.request();
    assert_eq!(field(&request, "subject_token"), "hush-file");
    let grant = "urn:ietf:params:oauth:grant-type:token-exchange";
    assert_eq!(field(&request, "grant_type"), grant);
    assert!(field(&request, "audience").ends_with("workloadIdentityPools/p"));
    let scope = "https://www.googleapis.com/auth/devstorage.read_write";
    assert_eq!(field(&request, "scope"), scope);

    // It stands for an account: the exchange is for acting in its name.
    let mut acting = credentials;
    let url = format!("{}/account:generateAccessToken", server.url);
    acting["service_account_impersonation_url"] = json!(url);
    acting["service_account_impersonation"] = json!({"token_lifetime_seconds": 600});
    assert_eq!(bearer(home.with(&acting)).await.unwrap(), "impersonated");
    let requests = server.requests();
    let scope = "https://www.googleapis.com/auth/cloud-platform";
    assert_eq!(field(&requests[1], "scope"), scope);
    assert!(requests[2].text().contains("\"lifetime\":\"600s\""));
}

#[tokio::test]
async fn a_token_of_a_service_is_exchanged() {
    let home = Home::new();
    let server = Server::start(exchange);
    let source = json!({
        "url": format!("{}/subject", server.url),
        "headers": {"X-Identity": "hush-header"},
        "format": {"type": "json", "subject_token_field_name": "value"},
    });
    let mut credentials = external(&server, &source);
    credentials["client_id"] = json!("id");
    credentials["client_secret"] = json!("hush");
    assert_eq!(bearer(home.with(&credentials)).await.unwrap(), "exchanged");
    let request = &server.requests()[1];
    assert_eq!(field(request, "subject_token"), "hush-url");
    // "id:hush"
    assert_eq!(request.header("authorization"), Some("Basic aWQ6aHVzaA=="));
}

#[tokio::test]
async fn a_token_that_a_program_prints_is_exchanged() {
    let home = Home::new();
    let server = Server::start(exchange);
    let program = |said: &str| {
        let script = home.file("program", format!("#!/bin/sh\n{said}\n"));
        let mut modes = std::fs::metadata(&script).unwrap().permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut modes, 0o755);
        std::fs::set_permissions(&script, modes).unwrap();
        let source = json!({"executable": {"command": format!("{} hush", script.display())}});
        home.with(&external(&server, &source))
    };
    let allowed =
        |variables: Variables| variables.and("GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES", "1");
    let good = r#"test "$1" = hush && test "$GOOGLE_EXTERNAL_ACCOUNT_INTERACTIVE" = 0 &&
        test -n "$GOOGLE_EXTERNAL_ACCOUNT_AUDIENCE" &&
        echo '{"version": 1, "success": true, "token_type": "t", "id_token": "hush-printed"}'"#;
    let error = refusal(program(good)).await;
    assert!(
        error.text.contains("only if GOOGLE_EXTERNAL_ACCOUNT_ALLOW"),
        "{error}"
    );
    assert_eq!(bearer(allowed(program(good))).await.unwrap(), "exchanged");
    assert_eq!(field(&server.request(), "subject_token"), "hush-printed");
    for (said, why) in [
        ("exit 3", "ended with exit status: 3"),
        ("echo hush", "it printed no JSON"),
        (
            r#"echo '{"version": 1, "success": false, "code": "401", "message": "no"}'"#,
            "401: no",
        ),
        (
            r#"echo '{"version": 1, "success": true, "id_token": "hush", "expiration_time": 1}'"#,
            "the token has expired",
        ),
    ] {
        let error = refusal(allowed(program(said))).await;
        assert_eq!(error.kind, StoreErrorKind::Unauthenticated);
        assert!(error.text.contains(why), "{error}");
    }
}

#[tokio::test]
async fn an_identity_of_aws_is_a_signed_question() {
    let home = Home::new();
    let server = Server::start(|request| {
        let session = || {
            assert_eq!(
                request.header("x-aws-ec2-metadata-token"),
                Some("hush-session")
            );
        };
        match request.path() {
            "/session" => Answer::new(200).body("hush-session"),
            "/zone" => {
                session();
                Answer::new(200).body("eu-west-1b")
            }
            "/keys" => {
                session();
                Answer::new(200).body("role")
            }
            "/keys/role" => {
                session();
                let keys = json!({
                    "AccessKeyId": "machine", "SecretAccessKey": "hush", "Token": "hush-token",
                });
                Answer::new(200).body(keys.to_string())
            }
            _ => exchange(request),
        }
    });
    let url = |path: &str| format!("{}/{path}", server.url);
    let verify = "https://sts.{region}.amazonaws.com?Action=GetCallerIdentity&Version=2011-06-15";
    let source = json!({
        "environment_id": "aws1", "regional_cred_verification_url": verify,
        "region_url": url("zone"), "url": url("keys"), "imdsv2_session_token_url": url("session"),
    });
    let credentials = external(&server, &source);
    let subject = || {
        let text = field(server.requests().last().unwrap(), "subject_token");
        let asked: Value = serde_json::from_str(&decoded(&text)).unwrap();
        asked
    };
    assert_eq!(bearer(home.with(&credentials)).await.unwrap(), "exchanged");
    let asked = subject();
    assert!(
        asked["url"]
            .as_str()
            .unwrap()
            .starts_with("https://sts.eu-west-1.amazonaws.com?")
    );
    assert!(asked.to_string().contains("Credential=machine/"));
    assert!(asked.to_string().contains("hush-token"));
    // The environment knows it all: the machine is not asked.
    let variables = home
        .with(&credentials)
        .and("AWS_REGION", "us-east-2")
        .and("AWS_ACCESS_KEY_ID", "environment")
        .and("AWS_SECRET_ACCESS_KEY", "hush");
    let before = server.requests().len();
    bearer(variables).await.unwrap();
    assert_eq!(server.requests().len(), before + 1);
    assert!(subject().to_string().contains("Credential=environment/"));
}
