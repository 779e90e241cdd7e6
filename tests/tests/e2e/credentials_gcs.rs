//! Every way to come by credentials of Google Cloud, with the real tools: a WAL
//! segment is archived and fetched again, at the service's own name and over TLS,
//! from a store that takes one token alone.
//!
//! Whatever is secret is or holds the word `hush`, which nothing that a tool
//! prints may hold, at any verbosity.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use e2e::{GcsBucket, GcsServer, HttpRequest, HttpServer, Run, Tool, Workspace};
use serde_json::{Value, json};

const SEGMENT: &str = "000000010000000000000006";

/// Gives tokens to whoever asks rightly: token services, the metadata service,
/// another provider of identities.
fn give(request: &HttpRequest) -> (u16, String) {
    let body = String::from_utf8_lossy(&request.body);
    let path = request.target.split('?').next().unwrap_or_default();
    let token = |name: &str| {
        let answer = json!({"access_token": format!("hush-{name}"), "expires_in": 3600});
        (200, answer.to_string())
    };
    match path {
        "/login" if body.contains("refresh_token=hush-refresh") => token("login"),
        "/key" if body.contains("assertion=") => token("key"),
        "/sts" if body.contains("subject_token=hush-subject") => token("federated"),
        "/act:generateAccessToken" => {
            assert_eq!(request.header("authorization"), "Bearer hush-login");
            let answer = json!({
                "accessToken": "hush-acting", "expireTime": "2099-01-01T00:00:00Z",
            });
            (200, answer.to_string())
        }
        "/computeMetadata/v1/instance/service-accounts/default/token" => token("machine"),
        "/refuse" => {
            let answer = json!({"error": "invalid_grant", "error_description": "has been revoked"});
            (400, answer.to_string())
        }
        _ => (404, String::new()),
    }
}

struct Scene {
    workspace: Workspace,
    bucket: GcsBucket,
    giver: HttpServer,
    wal: PathBuf,
}

impl Scene {
    fn new() -> Option<Self> {
        let bucket = GcsServer::StandIn.bucket()?;
        let workspace = Workspace::new();
        let segment = fs::read(e2e::golden().join("wal").join(SEGMENT)).unwrap();
        let wal = workspace.file(SEGMENT, segment);
        Some(Self {
            giver: HttpServer::answering(give),
            bucket,
            workspace,
            wal,
        })
    }

    /// A tool with variables that lead to credentials, and none to an emulator.
    fn tool(&self, name: &str, variables: &[(&'static str, String)]) -> Tool<'_> {
        self.workspace
            .tool(&format!("barman-cloud-{name}"))
            .envs(self.bucket.environment_of_service())
            .env("NO_PROXY", "127.0.0.1")
            .envs(variables.iter().cloned())
            .args(["--cloud-provider=google-cloud-storage", "-vvv"])
            .args([&self.bucket.url(), "main"])
    }

    /// A file of credentials, and the variable that names it.
    fn named(&self, name: &str, credentials: &Value) -> Vec<(&'static str, String)> {
        let file = self.workspace.file(name, credentials.to_string());
        let path = file.display().to_string();
        vec![
            ("GOOGLE_APPLICATION_CREDENTIALS", path),
            ("NO_GCE_CHECK", "true".into()),
        ]
    }

    fn login(&self, path: &str) -> Value {
        json!({
            "type": "authorized_user", "client_id": "id", "client_secret": "hush-secret",
            "refresh_token": "hush-refresh", "token_uri": format!("{}{path}", self.giver.url()),
        })
    }

    /// Every kind of credentials, with the name of the token it leads to.
    fn forms(&self) -> Vec<(&'static str, Vec<(&'static str, String)>)> {
        let url = self.giver.url();
        let subject = self.workspace.file("subject", "hush-subject");
        let mut forms = vec![
            ("login", self.named("login.json", &self.login("/login"))),
            (
                "federated",
                self.named(
                    "federated.json",
                    &json!({
                        "type": "external_account", "audience": "//iam/pool",
                        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
                        "token_url": format!("{url}/sts"),
                        "credential_source": {"file": subject},
                    }),
                ),
            ),
            (
                "acting",
                self.named(
                    "acting.json",
                    &json!({
                        "type": "impersonated_service_account",
                        "service_account_impersonation_url":
                            format!("{url}/act:generateAccessToken"),
                        "source_credentials": self.login("/login"),
                    }),
                ),
            ),
        ];
        // gcloud's own place for a login.
        self.workspace.dir("sdk");
        let own = "sdk/application_default_credentials.json";
        let own = self.workspace.file(own, self.login("/login").to_string());
        let folder = own.parent().unwrap().display().to_string();
        forms.push(("login", vec![("CLOUDSDK_CONFIG", folder)]));
        let mut make = Command::new("openssl");
        let made = make.args(["genpkey", "-algorithm", "RSA"]).output();
        let key = made
            .expect("openssl can be started: install `openssl`")
            .stdout;
        let account = json!({
            "type": "service_account", "client_email": "robot@own.example",
            "private_key": String::from_utf8(key).unwrap(), "token_uri": format!("{url}/key"),
        });
        forms.push(("key", self.named("key.json", &account)));
        forms
    }
}

fn assert_quiet(run: &Run) {
    let hushed = !run.stderr.contains("hush") && !run.stdout.contains("hush");
    assert!(hushed, "a secret was printed: {run}");
    assert!(
        !run.stderr.contains("PRIVATE KEY"),
        "a key was printed: {run}"
    );
}

#[test]
fn every_form_of_credentials_archives_and_restores_and_no_secret_is_printed() {
    let Some(scene) = Scene::new() else { return };
    let content = fs::read(&scene.wal).unwrap();
    for (number, (token, variables)) in scene.forms().into_iter().enumerate() {
        scene.bucket.expect("");
        for key in scene.bucket.keys("") {
            scene.bucket.remove(&key);
        }
        scene.bucket.expect(&format!("hush-{token}"));
        let run = scene.tool("wal-archive", &variables).arg(&scene.wal).run();
        assert!(run.code() == Some(0), "{token}: {run}");
        assert_quiet(&run);
        assert!(
            run.stderr.contains("Authenticating to Google Cloud with"),
            "{run}"
        );
        let target = scene.workspace.path(format!("fetched-{number}"));
        let fetch = scene.tool("wal-restore", &variables).arg(SEGMENT);
        let run = fetch.arg(&target).run();
        assert!(run.code() == Some(0), "{token}: {run}");
        assert_quiet(&run);
        assert!(fs::read(target).unwrap() == content, "{token}: other bytes");
    }
}

#[test]
fn credentials_that_are_refused_are_one_line_and_exit_4() {
    let Some(scene) = Scene::new() else { return };
    scene.bucket.expect("hush-another");
    let broken = scene.workspace.file("broken.json", "hush {");
    let broken = vec![(
        "GOOGLE_APPLICATION_CREDENTIALS",
        broken.display().to_string(),
    )];
    for (variables, words) in [
        (
            scene.named("login.json", &scene.login("/login")),
            "Invalid Credentials (status 401)",
        ),
        (
            scene.named("revoked.json", &scene.login("/refuse")),
            "invalid_grant: has been revoked (status 400)",
        ),
        (
            broken,
            "broken.json` (GOOGLE_APPLICATION_CREDENTIALS): it is not JSON",
        ),
    ] {
        let run = scene.tool("wal-archive", &variables).arg(&scene.wal).run();
        assert_eq!(run.code(), Some(4), "{run}");
        assert!(run.errors()[0].contains(words), "{run}");
        assert_quiet(&run);
    }
}

/// Who does not prove to be the service is not shown a token.
#[test]
fn a_certificate_that_is_not_trusted_is_exit_2() {
    let Some(scene) = Scene::new() else { return };
    let mut variables = scene.named("login.json", &scene.login("/login"));
    variables.push(("REQUESTS_CA_BUNDLE", String::new()));
    let run = scene.tool("wal-archive", &variables).arg(&scene.wal).run();
    assert_eq!(run.code(), Some(2), "{run}");
    assert!(
        run.errors()[0].contains("certificate is not trusted"),
        "{run}"
    );
    assert!(run.errors()[0].contains("REQUESTS_CA_BUNDLE"), "{run}");
}
