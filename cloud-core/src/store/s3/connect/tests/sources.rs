//! Each source of credentials, with a stand-in for whoever gives them out.
//!
//! Every secret is or holds the word `hush`.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::AsyncWriteExt;

use super::super::testing::{Answer, Request};
use super::*;

const KEYS: &str = "aws_access_key_id = written\naws_secret_access_key = hush\n";

/// What STS answers.
pub(super) fn sts(id: &str, action: &str) -> Answer {
    let until = in_seconds(3600);
    let body = format!(
        "<{action}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><{action}Result>\
         <Credentials><AccessKeyId>{id}</AccessKeyId><SecretAccessKey>hush</SecretAccessKey>\
         <SessionToken>hush-token</SessionToken><Expiration>{until}</Expiration></Credentials>\
         </{action}Result></{action}Response>"
    );
    (200, body)
}

fn sts_error(status: u16, code: &str, message: &str) -> Answer {
    let body = format!(
        "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender\
         </Type><Code>{code}</Code><Message>{message}</Message></Error></ErrorResponse>"
    );
    (status, body)
}

/// What agents answer.
pub(super) fn given(id: &str, lives: i64) -> Answer {
    let until = in_seconds(lives);
    let body = format!(
        r#"{{"Code": "Success", "AccessKeyId": "{id}", "SecretAccessKey": "hush",
            "Token": "hush-token", "Expiration": "{until}"}}"#
    );
    (200, body)
}

#[tokio::test]
async fn keys_of_the_environment_sign_with_their_token() {
    let home = Home::new();
    let variables = home
        .variables()
        .and("AWS_ACCESS_KEY_ID", "id")
        .and("AWS_SECRET_ACCESS_KEY", "hush")
        .and("AWS_SESSION_TOKEN", "hush-token")
        .and("AWS_DEFAULT_REGION", "eu-south-1");
    let store = store().await;
    let connect = connect(variables, &store.url());
    ask(&connect).await.unwrap();
    let request = &store.seen()[0];
    assert_eq!(request.signed_by(), "id");
    assert!(request.header("authorization").contains("/eu-south-1/s3/"));
    assert_eq!(request.header("x-amz-security-token"), "hush-token");
    assert_eq!(request.target, "/bucket/key");
    assert!(!format!("{connect:?}").contains("hush"));
}

#[tokio::test]
async fn a_role_is_assumed_with_the_keys_of_its_source() {
    let sts = StandIn::start(|_| sts("assumed", "AssumeRole")).await;
    let home = Home::new();
    home.config(
        "[profile dev]\nrole_arn = arn:aws:iam::123456789012:role/x\nsource_profile = base\n\
         external_id = ext\nduration_seconds = 1800\nrole_session_name = me\n",
    );
    home.credentials(&format!("[base]\n{KEYS}"));
    let variables = home
        .variables()
        .and("AWS_ENDPOINT_URL_STS", sts.url())
        .and("AWS_PROFILE", "dev");
    assert_eq!(signer(variables).await.unwrap(), "assumed");
    let [request] = &sts.seen()[..] else {
        panic!("{:?}", sts.seen());
    };
    assert_eq!(request.signed_by(), "written");
    for field in [
        "Action=AssumeRole&",
        "RoleArn=arn%3Aaws%3Aiam%3A%3A123456789012%3Arole%2Fx",
        "ExternalId=ext",
        "DurationSeconds=1800",
        "RoleSessionName=me",
    ] {
        assert!(request.body.contains(field), "{}", request.body);
    }
}

#[tokio::test]
async fn a_refusal_of_sts_is_told_and_its_trouble_is_transient() {
    let home = Home::new();
    home.config("[default]\nrole_arn = arn:role\nsource_profile = base\n");
    home.credentials(&format!("[base]\n{KEYS}"));
    for (status, code, kind) in [
        (403, "AccessDenied", StoreErrorKind::Unauthenticated),
        (400, "ExpiredToken", StoreErrorKind::Unauthenticated),
        (400, "Throttling", StoreErrorKind::RateLimited),
        (503, "ServiceUnavailable", StoreErrorKind::ServerFault),
    ] {
        let sts = StandIn::start(move |_| sts_error(status, code, "why")).await;
        let variables = home.variables().and("AWS_ENDPOINT_URL_STS", sts.url());
        let error = signer(variables).await.unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
        let expected = format!("could not assume the role `arn:role`: {code}: why");
        assert_eq!(error.text, expected);
    }
    let closed = home
        .variables()
        .and("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:1");
    let error = signer(closed).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Connect);
    let begin = "could not assume the role `arn:role`: could not connect to `127.0.0.1:1`: ";
    assert!(error.text.starts_with(begin), "{error}");
}

#[tokio::test]
async fn a_token_in_a_file_is_exchanged_for_a_role() {
    let answer = |_: &Request| sts("web", "AssumeRoleWithWebIdentity");
    let sts = StandIn::start(answer).await;
    let home = Home::new();
    let token = home.write("token", "hush-web\n");
    let variables = home
        .variables()
        .and("AWS_ENDPOINT_URL_STS", sts.url())
        .and("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/web")
        .and("AWS_WEB_IDENTITY_TOKEN_FILE", &token);
    assert_eq!(signer(variables.clone()).await.unwrap(), "web");
    let request = &sts.seen()[0];
    assert!(request.body.contains("WebIdentityToken=hush-web"));
    assert_eq!(request.header("authorization"), "", "it needs no signature");
    std::fs::remove_file(token).unwrap();
    let text = refusal(variables).await;
    assert!(text.contains("the web identity token `"), "{text}");
    assert!(text.contains("cannot be read: No such file"), "{text}");
}

/// Named after the SHA-1 of `https://start` and of `mine`.
const BY_URL: &str = ".aws/sso/cache/6ad0e7e61d1f47e491ea32c2031add41ef92e07d.json";
const BY_SESSION: &str = ".aws/sso/cache/8034c43d15bb7ef42e2cc24255217acfc5f4b2f4.json";

const SSO: &str = "sso_account_id = 123456789012\nsso_role_name = Dev\n";
const SSO_URL: &str = "sso_region = eu-west-1\nsso_start_url = https://start\n";

/// What single sign-on answers: credentials for the token `hush-good`, new
/// tokens for the one to renew it with.
fn sign_on(request: &Request) -> Answer {
    if request.target.starts_with("/token") {
        assert!(request.body.contains("hush-refresh"), "{}", request.body);
        let token = r#"{"accessToken": "hush-good", "expiresIn": 3600, "refreshToken": "hush-2"}"#;
        return (200, token.into());
    }
    if request.header("x-amz-sso_bearer_token") != "hush-good" {
        return (
            401,
            r#"{"message": "Session token not found or invalid"}"#.into(),
        );
    }
    let until = (jiff::Timestamp::now().as_second() + 3600) * 1000;
    let body = format!(
        r#"{{"roleCredentials": {{"accessKeyId": "sso", "secretAccessKey": "hush",
            "sessionToken": "hush-token", "expiration": {until}}}}}"#
    );
    (200, body)
}

#[tokio::test]
async fn single_sign_on_uses_the_token_of_the_last_login() {
    let server = StandIn::start(sign_on).await;
    let home = Home::new();
    let variables = home.variables().and("AWS_ENDPOINT_URL_SSO", server.url());
    let token = |token: &str, lives: i64| {
        let until = in_seconds(lives);
        format!(r#"{{"accessToken": "{token}", "expiresAt": "{until}"}}"#)
    };
    home.config(&format!("[default]\n{SSO}{SSO_URL}"));
    let text = refusal(variables.clone()).await;
    assert!(text.contains("cannot be read: No such file"), "{text}");
    assert!(
        text.ends_with("run `aws sso login --profile default`"),
        "{text}"
    );
    let file = BY_URL;
    home.write(file, &token("hush-good", 3600));
    assert_eq!(signer(variables.clone()).await.unwrap(), "sso");
    assert!(server.seen()[0].target.contains("account_id=123456789012"));
    let expired = "the single sign-on token of profile `default` has expired: run `aws sso login \
                   --profile default`";
    home.write(file, &token("hush-good", -1));
    assert_eq!(refusal(variables.clone()).await, expired);
    // The service does not know the token any more.
    home.write(file, &token("hush-bad", 3600));
    assert_eq!(refusal(variables.clone()).await, expired);
    home.write(file, "hush");
    let text = refusal(variables).await;
    assert!(text.contains("holds no single sign-on token"), "{text}");
}

#[tokio::test]
async fn a_token_of_a_session_is_renewed_and_written_back() {
    let server = StandIn::start(sign_on).await;
    let home = Home::new();
    let variables = home
        .variables()
        .and("AWS_ENDPOINT_URL_SSO", server.url())
        .and("AWS_ENDPOINT_URL_SSO_OIDC", server.url());
    home.config(&format!(
        "[default]\n{SSO}sso_session = mine\n[sso-session mine]\n{SSO_URL}"
    ));
    let (until, registered) = (in_seconds(-1), in_seconds(3600));
    let file = home.write(
        BY_SESSION,
        &format!(
            r#"{{"accessToken": "hush-old", "expiresAt": "{until}", "clientId": "c",
                "clientSecret": "hush-client", "refreshToken": "hush-refresh",
                "registrationExpiresAt": "{registered}", "other": 1}}"#
        ),
    );
    assert_eq!(signer(variables).await.unwrap(), "sso");
    let written = std::fs::read_to_string(file).unwrap();
    for expected in ["hush-good", "hush-2", "hush-client", "\"other\":1"] {
        assert!(written.contains(expected), "{written}");
    }
}

#[tokio::test]
async fn a_program_gives_credentials() {
    let home = Home::new();
    let script = home.write(
        "program",
        r#"echo '{"Version": 1, "AccessKeyId": "'$1'", "SecretAccessKey": "hush"}'"#,
    );
    let profile = |command: &str| home.config(&format!("[default]\n{command}\n"));
    profile(&format!("credential_process = sh \"{script}\" printed"));
    assert_eq!(signer(home.variables()).await.unwrap(), "printed");
    profile("credential_process = sh -c 'echo no ticket >&2; exit 1' hush");
    let text = refusal(home.variables()).await;
    assert!(text.ends_with("no ticket"), "{text}");
}

#[tokio::test]
async fn the_agent_of_a_container_is_shown_the_token() {
    let agent = StandIn::start(|_| given("container", 3600)).await;
    let home = Home::new();
    let url = format!("{}/get?x=1", agent.url());
    let variables = home
        .variables()
        // Agents are never asked by a proxy.
        .and("HTTP_PROXY", "http://127.0.0.1:1")
        .and("NO_PROXY", "s3.test")
        .and("AWS_CONTAINER_CREDENTIALS_FULL_URI", url);
    let key = |variables| async {
        let connect = with(variables, |config| {
            config.endpoint_url = Some("http://s3.test".into());
        });
        connect.get().await.map(|_| ())
    };
    key(variables.clone()).await.unwrap();
    assert_eq!(agent.seen()[0].target, "/get?x=1");
    assert_eq!(agent.seen()[0].header("authorization"), "");
    let variables = variables.and("AWS_CONTAINER_AUTHORIZATION_TOKEN", "hush-plain");
    key(variables.clone()).await.unwrap();
    assert_eq!(agent.seen()[1].header("authorization"), "hush-plain");
    let file = home.write("token", "hush-file\n");
    let variables = variables.and("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &file);
    key(variables.clone()).await.unwrap();
    assert_eq!(agent.seen()[2].header("authorization"), "hush-file");
    home.write("token", "hush\nbroken");
    let error = key(variables.clone()).await.unwrap_err();
    assert!(!error.text.contains("hush"), "{error}");
    std::fs::remove_file(file).unwrap();
    let text = refusal(variables).await;
    assert!(text.contains("the token `"), "{text}");
}

#[tokio::test]
async fn an_agent_that_refuses_is_told_and_its_trouble_is_transient() {
    let home = Home::new();
    for (status, kind) in [
        (403, StoreErrorKind::Unauthenticated),
        (429, StoreErrorKind::RateLimited),
        (500, StoreErrorKind::ServerFault),
    ] {
        let agent = StandIn::start(move |_| (status, "{}".into())).await;
        let url = agent.url();
        let variables = home
            .variables()
            .and("AWS_CONTAINER_CREDENTIALS_FULL_URI", url);
        let error = signer(variables).await.unwrap_err();
        assert_eq!(error.kind, kind);
        let end = format!("the agent answered {status}");
        assert!(error.text.ends_with(&end), "{error}");
    }
    let elsewhere = "http://192.0.2.1/";
    let variables = home
        .variables()
        .and("AWS_CONTAINER_CREDENTIALS_FULL_URI", elsewhere);
    let text = refusal(variables).await;
    assert!(
        text.contains("names neither https nor this machine"),
        "{text}"
    );
}

/// The metadata service of an instance: a token, the role, its credentials.
fn metadata(request: &Request) -> Answer {
    let token = request.header("x-aws-ec2-metadata-token");
    match (&*request.method, &*request.target) {
        ("PUT", "/latest/api/token") => {
            assert_eq!(
                request.header("x-aws-ec2-metadata-token-ttl-seconds"),
                "21600"
            );
            (200, "hush-imds".into())
        }
        ("GET", _) if token != "hush-imds" => (401, String::new()),
        ("GET", "/latest/meta-data/iam/security-credentials/") => (200, "role".into()),
        ("GET", "/latest/meta-data/iam/security-credentials/role") => given("instance", 3600),
        other => panic!("{other:?}"),
    }
}

/// The environment of an instance whose metadata service is there.
fn on_instance(home: &Home, service: &StandIn) -> Variables {
    home.variables()
        .and("AWS_EC2_METADATA_DISABLED", "false")
        .and("AWS_EC2_METADATA_SERVICE_ENDPOINT", service.url())
}

#[tokio::test]
async fn the_role_of_the_instance_is_used() {
    let service = StandIn::start(metadata).await;
    let home = Home::new();
    let variables = on_instance(&home, &service);
    assert_eq!(signer(variables).await.unwrap(), "instance");
    assert_eq!(service.seen().len(), 3);
}

#[tokio::test]
async fn a_metadata_service_without_tokens_is_asked_without() {
    let old = |request: &Request| match &*request.method {
        "PUT" => (404, String::new()),
        _ if request.target.ends_with('/') => (200, "role".into()),
        _ => given("old", 3600),
    };
    let service = StandIn::start(old).await;
    let home = Home::new();
    let variables = on_instance(&home, &service);
    assert_eq!(signer(variables.clone()).await.unwrap(), "old");
    let strict = variables.and("AWS_EC2_METADATA_V1_DISABLED", "true");
    let text = refusal(strict).await;
    assert!(text.starts_with("Unable to locate credentials"), "{text}");
}

#[tokio::test]
async fn an_instance_that_gives_nothing_has_no_credentials() {
    let home = Home::new();
    let begin = "Unable to locate credentials: looked in the environment, profile `default` and \
                 this instance; set AWS_ACCESS_KEY_ID";
    let silent = StandIn::raw(|stream| async move {
        // Held open, never answered.
        let _stream = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let quick = on_instance(&home, &silent).and("AWS_METADATA_SERVICE_TIMEOUT", "0.1");
    let text = refusal(quick).await;
    assert!(text.starts_with(begin), "{text}");
    let no_role = StandIn::start(|request| match &*request.method {
        "PUT" => (200, "token".into()),
        _ => (404, String::new()),
    })
    .await;
    let text = refusal(on_instance(&home, &no_role)).await;
    assert!(text.starts_with(begin), "{text}");
    // A role that gives nothing is somebody's mistake.
    let broken = StandIn::start(|request| match &*request.target {
        "/latest/api/token" => (200, "token".into()),
        "/latest/meta-data/iam/security-credentials/" => (200, "role".into()),
        _ => (
            200,
            r#"{"Code": "AssumeRoleUnauthorizedAccess", "Message": "m"}"#.into(),
        ),
    })
    .await;
    let text = refusal(on_instance(&home, &broken)).await;
    let expected =
        "the instance's role `role` gives no credentials: AssumeRoleUnauthorizedAccess: m";
    assert_eq!(text, expected);
}

/// Or `wal-restore` would say that there is no more WAL where nobody asked the
/// store.
#[tokio::test]
async fn a_metadata_service_in_trouble_does_not_say_that_there_are_no_credentials() {
    let home = Home::new();
    for (step, target) in [
        ("the token", "/latest/api/token"),
        ("the role", "/latest/meta-data/iam/security-credentials/"),
        (
            "its keys",
            "/latest/meta-data/iam/security-credentials/role",
        ),
    ] {
        for (status, kind) in [
            (429, StoreErrorKind::RateLimited),
            (503, StoreErrorKind::ServerFault),
        ] {
            let service = StandIn::start(move |request| {
                if request.target == target {
                    return (status, String::new());
                }
                metadata(request)
            })
            .await;
            let error = signer(on_instance(&home, &service)).await.unwrap_err();
            assert_eq!(error.kind, kind, "{step}: {error}");
            assert!(
                error.text.contains(&format!("answered {status}")),
                "{error}"
            );
        }
    }
}

/// The answer with the token gets lost, and without one nothing is given.
#[tokio::test]
async fn a_token_that_comes_too_late_does_not_say_that_there_are_no_credentials() {
    let service = StandIn::raw(|stream| async move {
        let mut stream = tokio::io::BufReader::new(stream);
        while let Some(request) = testing::read_request(&mut stream).await {
            if request.method == "PUT" {
                return std::future::pending().await;
            }
            let answer = b"HTTP/1.1 401 X\r\ncontent-length: 0\r\n\r\n";
            if stream.write_all(answer).await.is_err() {
                return;
            }
        }
    })
    .await;
    let home = Home::new();
    let variables = on_instance(&home, &service).and("AWS_METADATA_SERVICE_TIMEOUT", "0.2");
    let error = signer(variables).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Timeout, "{error}");
    assert!(error.text.contains("hop limit"), "{error}");
}

#[tokio::test]
async fn nothing_anywhere_is_told_with_the_places() {
    let home = Home::new();
    let text = refusal(home.variables()).await;
    let begin = "Unable to locate credentials: looked in the environment, profile `default`; set ";
    assert!(text.starts_with(begin), "{text}");
    home.config("[profile dev]\nregion = x\n");
    let named = with(home.variables(), |config| {
        config.aws_profile = Some("dev".into());
    });
    let text = named.get().await.unwrap_err().text;
    let begin = "Unable to locate credentials: looked in profile `dev`; set ";
    assert!(text.starts_with(begin), "{text}");
    let missing = with(home.variables(), |config| {
        config.aws_profile = Some("no".into());
    });
    let error = missing.get().await.unwrap_err();
    assert_eq!(error.text, "The config profile (no) could not be found");
    assert!(!error.kind.is_transient());
}

/// An agent that gives out other credentials each time.
async fn changing(lives: i64) -> (StandIn, Variables, Home) {
    let count = AtomicUsize::new(0);
    let agent = StandIn::start(move |_| {
        let number = count.fetch_add(1, Ordering::Relaxed);
        given(&format!("key-{number}"), lives)
    })
    .await;
    let home = Home::new();
    let url = agent.url();
    let variables = home
        .variables()
        .and("AWS_CONTAINER_CREDENTIALS_FULL_URI", url);
    (agent, variables, home)
}

#[tokio::test]
async fn credentials_are_kept_while_they_last_and_renewed_after() {
    let store = store().await;
    let (agent, variables, _home) = changing(3600).await;
    let lasting = connect(variables, &store.url());
    ask(&lasting).await.unwrap();
    ask(&lasting).await.unwrap();
    assert_eq!(agent.seen().len(), 1);
    let signers = || {
        store
            .seen()
            .into_iter()
            .map(|one| one.signed_by().to_owned())
    };
    assert_eq!(signers().collect::<Vec<_>>(), ["key-0", "key-0"]);
    // So short that they are renewed for every request.
    let (_agent, variables, _home) = changing(30).await;
    let short = connect(variables, &store.url());
    ask(&short).await.unwrap();
    ask(&short).await.unwrap();
    let [.., third, fourth] = &signers().collect::<Vec<_>>()[..] else {
        panic!("two requests more");
    };
    assert!(third.starts_with("key-") && fourth.starts_with("key-"));
    assert_ne!(third, fourth);
}

/// Whatever time was promised.
#[tokio::test]
async fn credentials_that_the_store_does_not_take_any_more_are_asked_for_anew() {
    let store = store().await;
    let (agent, variables, home) = changing(3600).await;
    let lasting = connect(variables, &store.url());
    let began = Instant::now();
    ask(&lasting).await.unwrap();
    assert!(lasting.renew(began).await.unwrap(), "they are newer");
    assert_eq!(agent.seen().len(), 1);
    assert!(lasting.renew(Instant::now()).await.unwrap());
    ask(&lasting).await.unwrap();
    assert_eq!(agent.seen().len(), 2);
    assert_eq!(store.seen().last().unwrap().signed_by(), "key-1");

    let same = StandIn::start(|_| given("same", 3600)).await;
    let variables = home
        .variables()
        .and("AWS_CONTAINER_CREDENTIALS_FULL_URI", same.url());
    let same = connect(variables, &store.url());
    ask(&same).await.unwrap();
    assert!(!same.renew(Instant::now()).await.unwrap(), "no others");

    home.credentials(&format!("[default]\n{KEYS}"));
    let written = connect(home.variables(), &store.url());
    ask(&written).await.unwrap();
    assert!(!written.renew(Instant::now()).await.unwrap());
}

#[tokio::test]
async fn credentials_that_are_over_are_refused_but_for_those_of_an_instance() {
    let (_agent, variables, _home) = changing(-10).await;
    let text = refusal(variables).await;
    assert!(text.contains("have expired already"), "{text}");
    let service = StandIn::start(|request| match &*request.target {
        "/latest/meta-data/iam/security-credentials/role" => given("late", -10),
        _ => metadata(request),
    })
    .await;
    let home = Home::new();
    let variables = on_instance(&home, &service);
    assert_eq!(signer(variables).await.unwrap(), "late");
}

#[tokio::test]
async fn a_source_that_failed_is_asked_again() {
    let home = Home::new();
    let store = store().await;
    let file = home.path().join("token");
    let sts = StandIn::start(|_| sts("web", "AssumeRoleWithWebIdentity")).await;
    let variables = home
        .variables()
        .and("AWS_ENDPOINT_URL_STS", sts.url())
        .and("AWS_ROLE_ARN", "arn:role")
        .and("AWS_WEB_IDENTITY_TOKEN_FILE", &file);
    let connect = connect(variables, &store.url());
    assert!(connect.get().await.is_err());
    home.write("token", "hush");
    ask(&connect).await.unwrap();
}
