//! Every way to come by credentials of Azure, with the real tools: a WAL segment is
//! archived and fetched again over TLS, by an emulator that looks at keys,
//! signatures and tokens.
//!
//! Whatever is secret is or holds the word `hush`, which nothing that a tool
//! prints may hold, at any verbosity.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use e2e::{Azurite, Container, HttpRequest, HttpServer, Place, Run, Tool, Workspace, golden};

const SEGMENT: &str = "000000010000000000000006";

/// What is set, and where it leads.
struct Form {
    name: &'static str,
    options: &'static [&'static str],
    variables: Vec<(&'static str, String)>,
}

impl Form {
    fn of(
        name: &'static str,
        options: &'static [&'static str],
        variables: &[(&'static str, &str)],
    ) -> Self {
        let own = |(name, value): &(&'static str, &str)| (*name, (*value).to_owned());
        Self {
            name,
            options,
            variables: variables.iter().map(own).collect(),
        }
    }
}

struct Scene<'w> {
    workspace: &'w Workspace,
    container: &'w Container<'w>,
    wal: PathBuf,
}

impl<'w> Scene<'w> {
    fn new(workspace: &'w Workspace, container: &'w Container<'w>) -> Self {
        let segment = fs::read(golden().join("wal").join(SEGMENT)).unwrap();
        let wal = workspace.file(SEGMENT, segment);
        Self {
            workspace,
            container,
            wal,
        }
    }

    fn tool(&self, name: &str, form: &Form) -> Tool<'w> {
        let place = Place::in_container(self.workspace, self.container, "");
        let path = format!(
            "{}:/usr/bin:/bin",
            self.workspace.path("programs").display()
        );
        self.workspace
            .tool(name)
            .env("PATH", path)
            .env("REQUESTS_CA_BUNDLE", self.container.authority().unwrap())
            .envs(form.variables.iter().cloned())
            .args(place.options())
            .args(form.options)
    }

    fn archive(&self, server: &str, form: &Form, verbosity: &str) -> Run {
        self.tool("barman-cloud-wal-archive", form)
            .args([verbosity, &self.container.url(), server])
            .arg(&self.wal)
            .run()
    }

    /// A program of the Azure CLI's name.
    fn az(&self, script: &str) {
        self.workspace.dir("programs");
        let text = format!("#!/bin/sh\n{script}\n");
        let path = self.workspace.file("programs/az", text);
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

fn assert_quiet(run: &Run) {
    let hushed = !run.stderr.contains("hush") && !run.stdout.contains("hush");
    assert!(hushed, "a secret was printed: {run}");
}

fn variable(name: &str) -> String {
    std::env::var(name).expect("it is set where the emulator's address is")
}

/// A token that the emulator takes, for an identity: from the stand-in that gives
/// them out, past the tools.
fn token(container: &Container<'_>, identity: &str) -> String {
    let ask = "import json, ssl, sys, urllib.request as r\n\
        url, ca, who = sys.argv[1:]\n\
        body = 'grant_type=client_credentials&client_secret=x&client_id=' + who\n\
        body += '&scope=https%3A%2F%2Fstorage.azure.com%2F.default'\n\
        context = ssl.create_default_context(cafile=ca)\n\
        with r.urlopen(url + '/t/oauth2/v2.0/token', body.encode(), context=context) as answer:\n\
        \x20   print(json.load(answer)['access_token'])";
    let output = Command::new(variable("TEST_AZURE_PYTHON"))
        .args(["-c", ask, &variable("TEST_AZURE_ENTRA_URL")])
        .args([container.authority().unwrap(), identity])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The managed identity of an application: two variables and a service.
fn identity(token: &str) -> impl Fn(&HttpRequest) -> (u16, String) + Send + Sync + use<> {
    let token = token.to_owned();
    move |request| {
        assert_eq!(request.header("x-identity-header"), "hush-header");
        assert!(
            request
                .target
                .contains("resource=https%3A%2F%2Fstorage.azure.com"),
            "{}",
            request.target
        );
        let body = format!(
            r#"{{"access_token": "{token}", "expires_on": "4102444800", "token_type": "Bearer",
                "resource": "https://storage.azure.com", "client_id": "x"}}"#
        );
        (200, body)
    }
}

#[test]
fn every_form_of_credentials_archives_and_restores_and_no_secret_is_printed() {
    let workspace = Workspace::new();
    let Some(container) = Azurite::Tls.container(&workspace) else {
        return;
    };
    let scene = Scene::new(&workspace, &container);
    let given = token(&container, "somebody");
    let giver = HttpServer::answering(identity(&given));
    scene.az(&format!(
        "case $* in *storage.azure.com*) ;; *) exit 9;; esac\n\
         echo '{{\"accessToken\": \"{given}\", \"expires_on\": 4102444800, \"tokenType\": \
         \"Bearer\", \"expiresOn\": \"2100-01-01 00:00:00.000000\"}}'"
    ));
    let federated = workspace.file("federated", "hush-federated");
    let entra = variable("TEST_AZURE_ENTRA_URL");
    let principal = [
        ("AZURE_AUTHORITY_HOST", entra.as_str()),
        ("AZURE_TENANT_ID", "00000000-0000-0000-0000-000000000001"),
        ("AZURE_CLIENT_ID", "00000000-0000-0000-0000-000000000002"),
    ];
    let with = |more: &[(&'static str, &'static str)]| [&principal[..], more].concat();
    let string = container.environment().remove(0).1;
    let signature = container.signature("racwdl");
    let endpoint = container.endpoint();
    let signed = format!("BlobEndpoint={endpoint};SharedAccessSignature={signature}");
    let federation = [
        principal[0],
        principal[1],
        principal[2],
        ("AZURE_FEDERATED_TOKEN_FILE", federated.to_str().unwrap()),
    ];
    let application = [
        ("IDENTITY_ENDPOINT", giver.url()),
        ("IDENTITY_HEADER", "hush-header".to_owned()),
    ];
    let application = application
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()));
    let default = &["--azure-credential=default"];
    let forms = [
        Form::of(
            "connection string",
            &[],
            &[("AZURE_STORAGE_CONNECTION_STRING", &string)],
        ),
        Form::of(
            "connection string",
            &[],
            &[("AZURE_STORAGE_CONNECTION_STRING", &signed)],
        ),
        Form::of(
            "AZURE_CLIENT_SECRET",
            default,
            &with(&[("AZURE_CLIENT_SECRET", "hush-secret")]),
        ),
        Form::of("AZURE_FEDERATED_TOKEN_FILE", default, &federation),
        Form::of(
            "AZURE_FEDERATED_TOKEN_FILE",
            &["--azure-credential=managed-identity"],
            &federation,
        ),
        Form::of("the managed identity", default, &application),
        Form::of(
            "the managed identity",
            &["--azure-credential=managed-identity"],
            &application,
        ),
        // The old spelling; and what the option asks for comes first.
        Form::of(
            "the Azure CLI",
            &["--credential=azure-cli"],
            &[("AZURE_STORAGE_CONNECTION_STRING", "hush")],
        ),
    ];
    let segment = fs::read(&scene.wal).unwrap();
    let account_key = variable("TEST_AZURE_KEY");
    let (_, signed_by) = signature.split_once("sig=").unwrap();
    let secrets = [&account_key[..16], &signed_by[..16], given.as_str()];
    for (number, form) in forms.iter().enumerate() {
        let server = format!("server-{number}");
        for verbosity in ["-q", "-v", "-vvv"] {
            let run = scene.archive(&server, form, verbosity);
            assert_eq!(run.code(), Some(0), "{}: {run}", form.name);
            assert_quiet(&run);
            let printed = secrets.iter().any(|secret| run.stderr.contains(*secret));
            assert!(!printed, "{}: a secret was printed: {run}", form.name);
            let told = run.stderr.contains(form.name);
            assert_eq!(told, verbosity != "-q", "{}: {run}", form.name);
        }
        let target = workspace.path(format!("restored-{number}"));
        let run = scene
            .tool("barman-cloud-wal-restore", form)
            .args(["-vvv", &container.url(), &server, SEGMENT])
            .arg(&target)
            .run();
        assert_eq!(run.code(), Some(0), "{}: {run}", form.name);
        assert_quiet(&run);
        assert_eq!(fs::read(target).unwrap(), segment, "{}", form.name);
    }
    assert!(
        giver.seen().len() >= 8,
        "the application's service was asked"
    );
}

#[test]
fn credentials_that_cannot_be_had_are_one_line_and_exit_4() {
    let workspace = Workspace::new();
    let Some(container) = Azurite::Tls.container(&workspace) else {
        return;
    };
    let scene = Scene::new(&workspace, &container);
    scene.az("echo 'ERROR: Please run az login to setup account.' >&2; exit 1");
    let entra = variable("TEST_AZURE_ENTRA_URL");
    let principal = [
        ("AZURE_AUTHORITY_HOST", entra.as_str()),
        ("AZURE_TENANT_ID", "tenant"),
        ("AZURE_CLIENT_ID", "client"),
        ("AZURE_CLIENT_SECRET", "hush-wrong"),
    ];
    let missing = [
        principal[0],
        principal[1],
        principal[2],
        ("AZURE_FEDERATED_TOKEN_FILE", "/no/such/token"),
    ];
    let refuser = HttpServer::answering(|_| (400, r#"{"error": "no identity"}"#.into()));
    let refused = [
        ("IDENTITY_ENDPOINT", refuser.url()),
        ("IDENTITY_HEADER", "hush".into()),
    ];
    let refused = refused
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()));
    let endpoint = container.endpoint();
    let other = format!("BlobEndpoint={endpoint};SharedAccessSignature=sv=2021-12-02&sig=hush");
    for (form, expected) in [
        (
            Form::of("", &[], &[]),
            "AZURE_STORAGE_CONNECTION_STRING must be set",
        ),
        (
            Form::of("", &[], &[("AZURE_STORAGE_CONNECTION_STRING", "hush")]),
            "AZURE_STORAGE_CONNECTION_STRING is malformed",
        ),
        (
            Form::of("", &[], &[("AZURE_STORAGE_CONNECTION_STRING", &other)]),
            "(status 403)",
        ),
        (
            Form::of("", &["--azure-credential=default"], &principal),
            "AADSTS7000215",
        ),
        (
            Form::of("", &["--azure-credential=default"], &missing),
            "/no/such/token",
        ),
        (
            Form::of("", &["--azure-credential=managed-identity"], &refused),
            "the managed identity failed",
        ),
        (
            Form::of("", &["--azure-credential=azure-cli"], &[]),
            "the Azure CLI failed: ",
        ),
    ] {
        let run = scene.archive("main", &form, "-vvv");
        assert_eq!(run.code(), Some(4), "{expected}: {run}");
        assert_quiet(&run);
        assert_eq!(run.errors().len(), 1, "{expected}: {run}");
        assert!(run.errors()[0].contains(expected), "{expected}: {run}");
    }
}
