//! Every way to come by credentials of S3, with the real tools: a WAL segment is
//! archived and fetched again, and the store sees whose key signed for it.
//!
//! Whatever is secret is or holds the word `hush`, which nothing that a tool
//! prints may hold, at any verbosity.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use e2e::{HttpRequest, HttpServer, Run, Tool, Workspace};

const SEGMENT: &str = "000000010000000000000006";

/// The store, seen through a server that keeps what passes.
struct Scene {
    workspace: Workspace,
    store: HttpServer,
    bucket: String,
    wal: PathBuf,
}

impl Scene {
    /// A new bucket of the server at `TEST_S3_MOTO_URL`. Without one, says what
    /// would help and gives `None`; on CI (`CI` is set) it fails instead.
    #[expect(clippy::print_stderr, reason = "a skipped test says what would run it")]
    fn new(name: &str) -> Option<Self> {
        let Ok(url) = std::env::var("TEST_S3_MOTO_URL") else {
            let help = "TEST_S3_MOTO_URL is not set: start moto's server and set it to its address";
            assert!(std::env::var_os("CI").is_none(), "{help}");
            eprintln!("skipped: {help}");
            return None;
        };
        let workspace = Workspace::new();
        let segment = fs::read(e2e::golden().join("wal").join(SEGMENT)).unwrap();
        let wal = workspace.file(SEGMENT, segment);
        let scene = Self {
            store: HttpServer::before(&url),
            bucket: format!("credentials-{name}-{}", std::process::id()),
            wal,
            workspace,
        };
        let made = scene.store.request("PUT", &format!("/{}", scene.bucket));
        assert!(made.starts_with("HTTP/1.1 200 "), "no bucket: {made}");
        Some(scene)
    }

    /// A tool with its options and the URL. Nobody asks the machine's own
    /// metadata service.
    fn tool(&self, tool: &str, options: &[&str]) -> Tool<'_> {
        self.workspace
            .tool(&format!("barman-cloud-{tool}"))
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .args(["--endpoint-url", &self.store.url()])
            .args(options)
            .arg(format!("s3://{}", self.bucket))
    }

    /// Archives the segment under the name of `server`.
    fn archive(&self, server: &str, form: &Form, options: &[&str]) -> Run {
        let tool = self.tool("wal-archive", &[options, form.options].concat());
        form.set(tool).arg(server).arg(&self.wal).run()
    }

    fn home(&self, name: &str, content: &str) -> PathBuf {
        self.workspace.dir("home/.aws/sso/cache");
        self.workspace
            .file(format!("home/{name}"), content.as_bytes())
    }
}

/// A way to come by credentials.
#[derive(Default)]
struct Form {
    options: &'static [&'static str],
    variables: Vec<(&'static str, String)>,
}

impl Form {
    fn of(variables: &[(&'static str, &str)]) -> Self {
        let own = |(name, value): &(&'static str, &str)| (*name, (*value).to_owned());
        Self {
            options: &[],
            variables: variables.iter().map(own).collect(),
        }
    }

    fn set<'a>(&self, tool: Tool<'a>) -> Tool<'a> {
        let set = |tool: Tool<'a>, (name, value): &(&'static str, String)| tool.env(name, value);
        self.variables.iter().fold(tool, set)
    }
}

fn assert_quiet(run: &Run) {
    let hushed = !run.stderr.contains("hush") && !run.stdout.contains("hush");
    assert!(hushed, "a secret was printed: {run}");
}

/// An hour from now, in seconds since 1970.
fn later() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    (now + Duration::from_hours(1)).as_secs()
}

/// Far enough.
const END: &str = "2099-01-01T00:00:00Z";

/// STS, the metadata service of an instance, single sign-on and the agent of a
/// container in one. `/broken` refuses everything.
fn give(request: &HttpRequest) -> (u16, String) {
    let body = String::from_utf8_lossy(&request.body);
    let path = request.target.split('?').next().unwrap_or_default();
    let json = |id: &str| {
        let body = format!(
            r#"{{"Code": "Success", "AccessKeyId": "{id}", "SecretAccessKey": "hush",
                "Token": "hush-token", "Expiration": "{END}"}}"#
        );
        (200, body)
    };
    match path {
        "/latest/api/token" => (200, "hush-imds".into()),
        "/latest/meta-data/iam/security-credentials/" => (200, "role".into()),
        "/latest/meta-data/iam/security-credentials/role" => {
            assert_eq!(request.header("x-aws-ec2-metadata-token"), "hush-imds");
            json("instance")
        }
        "/agent" => {
            assert_eq!(request.header("authorization"), "hush-agent");
            json("container")
        }
        "/federation/credentials" => {
            assert_eq!(request.header("x-amz-sso_bearer_token"), "hush-sso");
            let until = later() * 1000;
            let body = format!(
                r#"{{"roleCredentials": {{"accessKeyId": "sso", "secretAccessKey": "hush",
                    "sessionToken": "hush-token", "expiration": {until}}}}}"#
            );
            (200, body)
        }
        "/" => {
            let (action, id) = if body.contains("Action=AssumeRoleWithWebIdentity") {
                assert!(body.contains("WebIdentityToken=hush-web"), "{body}");
                ("AssumeRoleWithWebIdentity", "web")
            } else {
                assert_eq!(request.signed_by(), "written");
                ("AssumeRole", "assumed")
            };
            let body = format!(
                "<{action}Response><{action}Result><Credentials><AccessKeyId>{id}</AccessKeyId>\
                 <SecretAccessKey>hush</SecretAccessKey><SessionToken>hush-token</SessionToken>\
                 <Expiration>{END}</Expiration></Credentials></{action}Result></{action}Response>"
            );
            (200, body)
        }
        _ => {
            let error = "<ErrorResponse><Error><Code>AccessDenied</Code><Message>not you</Message>\
                         </Error></ErrorResponse>";
            (403, error.into())
        }
    }
}

const KEYS: &str = "aws_access_key_id = written\naws_secret_access_key = hush\n";

/// The profiles of the tests, each named after its kind.
fn config(program: &str) -> String {
    format!(
        "[profile role]\nrole_arn = arn:aws:iam::123456789012:role/x\nsource_profile = keys\n\
         [profile sso]\nsso_account_id = 123456789012\nsso_role_name = Dev\n\
         sso_region = eu-west-1\nsso_start_url = https://start\n\
         [profile process]\ncredential_process = sh \"{program}\" hush-argument\n\
         [profile failing]\ncredential_process = sh -c 'echo no ticket >&2; exit 1' hush\n"
    )
}

/// Named after the SHA-1 of `https://start`.
const SSO_TOKEN: &str = ".aws/sso/cache/6ad0e7e61d1f47e491ea32c2031add41ef92e07d.json";

/// The files of a home, for all the profiles.
fn furnish(scene: &Scene) {
    let program = scene.home(
        "program",
        r#"echo '{"Version": 1, "AccessKeyId": "printed", "SecretAccessKey": "hush"}'"#,
    );
    scene.home(".aws/credentials", &format!("[keys]\n{KEYS}"));
    scene.home(".aws/config", &config(program.to_str().unwrap()));
    let token = format!(r#"{{"accessToken": "hush-sso", "expiresAt": "{END}"}}"#);
    scene.home(SSO_TOKEN, &token);
}

#[test]
fn every_form_of_credentials_archives_and_restores_and_no_secret_is_printed() {
    let Some(scene) = Scene::new("forms") else {
        return;
    };
    furnish(&scene);
    let giver = HttpServer::answering(give);
    let url = giver.url();
    let web = scene.home("web-token", "hush-web");
    let web = web.to_str().unwrap();
    let agent = format!("{url}/agent");
    let sts = ("AWS_ENDPOINT_URL_STS", url.as_str());
    let environment = [
        ("AWS_ACCESS_KEY_ID", "environment"),
        ("AWS_SECRET_ACCESS_KEY", "hush"),
        ("AWS_SESSION_TOKEN", "hush-token"),
    ];
    // The environment has keys, and the option switches them off.
    let mut option = Form::of(&environment);
    option.options = &["--aws-profile", "keys"];
    let forms = [
        ("environment", Form::of(&environment)),
        ("written", Form::of(&[("AWS_PROFILE", "keys")])),
        ("written", option),
        ("assumed", Form::of(&[("AWS_PROFILE", "role"), sts])),
        (
            "web",
            Form::of(&[
                ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/web"),
                ("AWS_WEB_IDENTITY_TOKEN_FILE", web),
                sts,
            ]),
        ),
        (
            "sso",
            Form::of(&[("AWS_PROFILE", "sso"), ("AWS_ENDPOINT_URL_SSO", &url)]),
        ),
        ("printed", Form::of(&[("AWS_PROFILE", "process")])),
        (
            "container",
            Form::of(&[
                ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &agent),
                ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "hush-agent"),
            ]),
        ),
        (
            "instance",
            Form::of(&[
                ("AWS_EC2_METADATA_DISABLED", "false"),
                ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &url),
            ]),
        ),
    ];
    let segment = fs::read(&scene.wal).unwrap();
    for (number, (signer, form)) in forms.iter().enumerate() {
        let server = format!("server-{number}");
        for (verbosity, silent) in [("-q", true), ("-vv", false), ("-vvv", false)] {
            let before = scene.store.seen().len();
            let run = scene.archive(&server, form, &[verbosity]);
            assert!(run.code() == Some(0), "{signer}: {run}");
            assert_quiet(&run);
            assert!(!silent || run.stderr.is_empty(), "{signer}: {run}");
            let requests = scene.store.seen().split_off(before);
            assert!(!requests.is_empty(), "{signer}: the store was not asked");
            for request in requests {
                assert_eq!(request.signed_by(), *signer, "{request:?}");
            }
        }
        let target = scene.workspace.path(format!("restored-{number}"));
        let restore = scene.tool("wal-restore", &[&["-vvv"], form.options].concat());
        let run = form
            .set(restore)
            .arg(&server)
            .arg(SEGMENT)
            .arg(&target)
            .run();
        assert!(run.code() == Some(0), "{signer}: {run}");
        assert_quiet(&run);
        assert!(
            fs::read(target).unwrap() == segment,
            "{signer}: other bytes"
        );
    }
}

#[test]
fn credentials_that_cannot_be_had_are_one_line_and_exit_4() {
    let Some(scene) = Scene::new("failures") else {
        return;
    };
    furnish(&scene);
    let past = r#"{"accessToken": "hush-sso", "expiresAt": "2020-01-01T00:00:00Z"}"#;
    scene.home(SSO_TOKEN, past);
    let giver = HttpServer::answering(give);
    let broken = format!("{}/broken/", giver.url());
    let web = [
        ("AWS_ROLE_ARN", "arn:role"),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", "/no/such/token"),
    ];
    for (variables, expected) in [
        (&[][..], "Unable to locate credentials"),
        (
            &[("AWS_PROFILE", "nobody")],
            "The config profile (nobody) could not be found",
        ),
        (
            &[("AWS_PROFILE", "sso")],
            "the single sign-on token of profile `sso` has expired: run `aws sso login",
        ),
        (
            &[("AWS_PROFILE", "failing")],
            "the credential_process of profile `failing` failed: `sh` ended with exit status: 1: \
             no ticket",
        ),
        (
            &web,
            "the web identity token `/no/such/token` cannot be read",
        ),
        (
            &[("AWS_PROFILE", "role"), ("AWS_ENDPOINT_URL_STS", &broken)],
            "could not assume the role `arn:aws:iam::123456789012:role/x`: AccessDenied: not you",
        ),
        (
            &[("AWS_ACCESS_KEY_ID", "half")],
            "AWS_SECRET_ACCESS_KEY is not",
        ),
        (
            &[
                ("AWS_PROFILE", "keys"),
                ("AWS_ENDPOINT_URL_SSO", "minio:9000"),
            ],
            "Invalid endpoint: ",
        ),
    ] {
        let form = Form::of(variables);
        let before = scene.store.seen().len();
        let archive = scene.archive("main", &form, &[]);
        let restore = scene.tool("wal-restore", &[]);
        let target = scene.workspace.path("never");
        let restore = form
            .set(restore)
            .arg("main")
            .arg(SEGMENT)
            .arg(&target)
            .run();
        for run in [archive, restore] {
            assert!(run.code() == Some(4), "{expected}: {run}");
            let lines = run.stderr.lines().count() - run.hints().len();
            assert_eq!(lines, 1, "{run}");
            assert!(run.stderr.contains(expected), "{expected}: {run}");
            assert!(run.stdout.is_empty(), "{run}");
            assert_quiet(&run);
        }
        let loud = scene.archive("main", &form, &["-vvv"]);
        assert!(loud.code() == Some(4), "{loud}");
        assert_quiet(&loud);
        assert_eq!(
            scene.store.seen().len(),
            before,
            "nothing reached the store"
        );
        assert!(!target.exists());
    }
}

/// The customer's key is sent with every write, and printed never.
#[test]
fn a_customer_key_is_not_printed() {
    let Some(scene) = Scene::new("ssec") else {
        return;
    };
    // 32 bytes of `k`, in base64.
    let base64 = "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s=";
    let file = scene.home("key", base64);
    let option = format!("file://{}", file.display());
    let form = Form::of(&[
        ("AWS_ACCESS_KEY_ID", "id"),
        ("AWS_SECRET_ACCESS_KEY", "hush"),
    ]);
    let before = scene.store.seen().len();
    let options = ["-vvv", "--sse-customer-key", &option];
    let run = scene.archive("main", &form, &options);
    assert_quiet(&run);
    assert!(!run.stderr.contains(base64), "the key was printed: {run}");
    assert!(
        !run.stderr.contains("kkkkkkkk"),
        "the key was printed: {run}"
    );
    let requests = scene.store.seen().split_off(before);
    let name = "x-amz-server-side-encryption-customer-key";
    let sent = requests
        .iter()
        .any(|request| request.header(name) == base64);
    assert!(sent, "the key was in use: {run}");
}
