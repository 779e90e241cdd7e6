//! What goes over the wire, and what becomes of what comes back.
//!
//! Where keys and settings are looked for is a matter of the environment, which
//! a test can neither change nor trust. So each test starts itself once more, in
//! a process whose environment it makes.

mod deleting;
mod failing;
mod listing;
mod multipart;
mod reading;
mod uploads;
mod writing;

use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;

use super::*;
use crate::store::http::Variables;
use crate::store::scripted::{Answer, Request, Server};
use crate::store::{ObjectVersion, PartNumber, PartReceipt, PutMode, Tag, open};

/// Set where a test runs in its own process.
const INSIDE: &str = "S3_TEST_INSIDE";

/// The keys of the tests, which nothing may print.
const KEY_ID: &str = "AKIDOFATEST";
const SECRET: &str = "wJalrXUtnFEMIK7MDENG";

/// Checksums that the user does not want.
const WHEN_REQUIRED: (&str, &str) = ("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required");

/// Runs a test in a process of its own, with keys in its environment.
fn alone<F: FnOnce() -> T, T: Future<Output = ()>>(test: F) {
    alone_with(&[], test);
}

/// The same, with more in its environment. An empty value takes a variable away.
fn alone_with<F: FnOnce() -> T, T: Future<Output = ()>>(variables: &[(&str, &str)], test: F) {
    if std::env::var_os(INSIDE).is_some() {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().build().unwrap().block_on(test());
        return;
    }
    let closure = std::any::type_name::<F>();
    let (_, name) = closure.split_once("::").unwrap();
    let name = name.trim_end_matches("::{{closure}}");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", name, "--nocapture"])
        .env_clear()
        .env(INSIDE, "1")
        .env("HOME", "/nonexistent")
        .env("AWS_CONFIG_FILE", "/dev/null")
        .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_ACCESS_KEY_ID", KEY_ID)
        .env("AWS_SECRET_ACCESS_KEY", SECRET);
    for (variable, value) in variables {
        if value.is_empty() {
            command.env_remove(variable);
        } else {
            command.env(variable, value);
        }
    }
    let done = command.output().unwrap();
    let told = String::from_utf8_lossy(&done.stdout);
    let complaint = String::from_utf8_lossy(&done.stderr);
    // A name that no test has would pass without a word.
    let passed = done.status.success() && told.contains("1 passed");
    assert!(passed, "{name}\n{told}\n{complaint}");
}

fn config(server: &Server) -> StoreConfig {
    StoreConfig {
        url: "s3://bucket/path".into(),
        endpoint_url: Some(server.url.clone()),
        ..StoreConfig::default()
    }
}

fn opened(config: &StoreConfig) -> Arc<dyn ObjectStore> {
    open(config).unwrap().store
}

fn store(server: &Server) -> Arc<dyn ObjectStore> {
    opened(&config(server))
}

/// The server as a proxy on the way to Amazon's own S3.
fn amazon(server: &Server) -> Arc<dyn ObjectStore> {
    let config = StoreConfig {
        endpoint_url: Some("http://s3.us-east-1.amazonaws.com".into()),
        ..config(server)
    };
    let variables = Variables::of_process().and("HTTP_PROXY", &server.url);
    let connect = Connect::with(&config, variables);
    Arc::new(S3Store::with(&config, "bucket", "path", None, connect))
}

fn key() -> Key {
    Key::new("dir/a b+c").unwrap()
}

/// The path of [`key`], in a bucket that is named by path.
const PATH: &str = "/bucket/dir/a%20b%2Bc";

const BODY: Bytes = Bytes::from_static(b"123456789");

/// CRC-32C and MD5 of [`BODY`], in base64: the check values of the standards.
const CRC32C: &str = "4waSgw==";
const MD5: &str = "JfnnlDI7RTiF9RgfG2JNCw==";

fn create() -> PutOptions {
    PutOptions {
        mode: PutMode::CreateOnly,
        ..PutOptions::default()
    }
}

async fn put(store: &dyn ObjectStore, options: &PutOptions) -> Result<PutReceipt> {
    store.put(&key(), BODY.into(), options).await
}

/// A write that was done.
fn written() -> Answer {
    Answer::new(200).header("etag", "\"version\"")
}

/// What every request must be: of plain length, never in chunks of the SDK's.
fn assert_plain(request: &Request) {
    let told = format!("{request:#?}");
    let length = request.header("content-length");
    if !request.body.is_empty() || request.method == "PUT" {
        let expected = request.body.len().to_string();
        assert_eq!(length, Some(expected.as_str()), "{told}");
    }
    for name in ["transfer-encoding", "content-encoding", "expect"] {
        assert_eq!(request.header(name), None, "{told}");
    }
    for prefix in ["x-amz-trailer", "x-amz-decoded", "x-amz-sdk-checksum"] {
        assert!(request.named(prefix).is_empty(), "{told}");
    }
    let signed = request.header("x-amz-content-sha256").unwrap_or_default();
    assert!(!signed.starts_with("STREAMING"), "{told}");
    assert_eq!(request.named("authorization").len(), 1, "{told}");
}

/// Certificates for 127.0.0.1 in a folder, or `None` where they cannot be made.
/// The process of its own finds those of the process that started it.
fn certificates(folder: &Path) -> Option<PathBuf> {
    if let Some(made) = std::env::var_os("S3_TEST_CERTIFICATES") {
        return Some(made.into());
    }
    let openssl = |args: &str| {
        let mut command = Command::new("openssl");
        command.args(args.split(' ')).current_dir(folder).output()
    };
    if openssl("version").is_err() {
        let help = "the program `openssl` was not found: install `openssl`";
        assert!(std::env::var_os("CI").is_none(), "{help}");
        eprintln!("skipped: {help}");
        return None;
    }
    let extensions = "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n";
    std::fs::write(folder.join("ext"), extensions).unwrap();
    for args in [
        "req -new -x509 -days 9 -nodes -newkey rsa:2048 -subj /CN=authority -keyout ca.key -out ca.crt",
        "req -new -nodes -newkey rsa:2048 -subj /CN=leaf -keyout leaf.key -out leaf.csr",
        "x509 -req -in leaf.csr -days 9 -CA ca.crt -CAkey ca.key -CAcreateserial -extfile ext -out leaf.crt",
    ] {
        let done = openssl(args).unwrap();
        let complaint = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "openssl {args}: {complaint}");
    }
    Some(folder.to_owned())
}
