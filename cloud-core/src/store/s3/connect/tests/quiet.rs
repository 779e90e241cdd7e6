//! Nothing that is logged on the way holds a secret, whoever logs it.

use std::io::Write;
use std::sync::{Arc, Mutex};

use tracing::Level;
use tracing_subscriber::fmt::MakeWriter;

use super::super::testing::Request;
use super::sources::{given, sts};
use super::*;

/// Keeps what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// `cli::logging` shows DEBUG at most, of libraries too. Spans are shown here as
/// well, which it does not do.
#[test]
fn no_secret_is_logged_at_any_level_that_is_shown() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(Level::DEBUG)
        .with_ansi(false)
        .with_writer(log.clone())
        .finish();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    tracing::subscriber::with_default(subscriber, || runtime.block_on(everything()));
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.lines().count() > 20, "{log}");
    for secret in ["hush", "Authorization", "authorization:"] {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None);
    }
}

/// An instance's role, another role assumed with it, a token in a file, a
/// program; each used for a request.
async fn everything() {
    let answer = |request: &Request| match &*request.target {
        "/latest/api/token" => (200, "hush-imds".into()),
        "/latest/meta-data/iam/security-credentials/" => (200, "role".into()),
        "/latest/meta-data/iam/security-credentials/role" => given("instance", 3600),
        "/" if request.body.contains("WebIdentity") => sts("web", "AssumeRoleWithWebIdentity"),
        _ => sts("assumed", "AssumeRole"),
    };
    let server = StandIn::start(answer).await;
    let home = Home::new();
    home.config(
        "[default]\nrole_arn = arn:role\ncredential_source = Ec2InstanceMetadata\n\
         [profile web]\nrole_arn = arn:web\nweb_identity_token_file = token\n\
         [profile program]\ncredential_process = echo '{\"Version\": 1, \"AccessKeyId\": \"id\", \
         \"SecretAccessKey\": \"hush-key\", \"SessionToken\": \"hush-token\"}'\n\
         [profile wrong]\ncredential_process = echo hush\n",
    );
    let token = home.write("token", "hush-web");
    let config = std::fs::read_to_string(home.path().join(".aws/config")).unwrap();
    home.config(&config.replace("= token", &format!("= {token}")));
    let variables = home
        .variables()
        .and("AWS_EC2_METADATA_DISABLED", "false")
        .and("AWS_EC2_METADATA_SERVICE_ENDPOINT", server.url())
        .and("AWS_ENDPOINT_URL_STS", server.url())
        .and("HTTP_PROXY", "http://user:hush@127.0.0.1:1")
        .and("NO_PROXY", "127.0.0.1");
    for (profile, works) in [
        (None, true),
        (Some("web"), true),
        (Some("program"), true),
        (Some("wrong"), false),
    ] {
        let connect = with(variables.clone(), |config| {
            config.endpoint_url = Some(server.url());
            config.aws_profile = profile.map(Into::into);
        });
        assert_eq!(ask(&connect).await.is_ok(), works, "{profile:?}");
        tracing::info!(?connect);
    }
}
