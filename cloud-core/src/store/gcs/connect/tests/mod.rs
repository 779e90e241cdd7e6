//! Every kind of credentials, on services of this machine: what they are asked,
//! and with which token the store is then.
//!
//! Whatever is secret is or holds the word `hush`, which no error may show.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::*;
use crate::store::StoreErrorKind;
use crate::store::scripted::{Answer, Request, Server};

mod federation;
mod kinds;

/// A folder that is somebody's home, with a file of credentials in it.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    /// No file yet, and no metadata service.
    fn variables(&self) -> Variables {
        Variables::of(&[("NO_GCE_CHECK", "true")]).and("HOME", self.0.path())
    }

    /// With these credentials.
    fn with(&self, credentials: &Value) -> Variables {
        let path = self.file("credentials.json", credentials.to_string());
        self.variables().and("GOOGLE_APPLICATION_CREDENTIALS", path)
    }
}

fn connect(variables: Variables) -> Connect {
    Connect::new(&StoreConfig::default(), variables)
}

/// The headers of a request that is ready to be sent.
async fn signed(variables: Variables) -> Result<http::HeaderMap, ConnectError> {
    let connect = connect(variables);
    let mut request = http::Request::new(Body::default());
    connect.get().await?.sign(&mut request).await?;
    Ok(request.headers().clone())
}

async fn bearer(variables: Variables) -> Result<String, ConnectError> {
    let headers = signed(variables).await?;
    let value = headers["authorization"].to_str().unwrap();
    Ok(value.strip_prefix("Bearer ").unwrap().to_owned())
}

async fn refusal(variables: Variables) -> ConnectError {
    let error = bearer(variables).await.unwrap_err();
    assert!(!error.text.contains("hush"), "{error}");
    assert!(!error.text.contains('\n'), "{error}");
    error
}

/// A token as OAuth gives it.
fn token(value: &str) -> Answer {
    let answer = json!({"access_token": value, "expires_in": 3599, "token_type": "Bearer"});
    Answer::new(200).body(answer.to_string())
}

/// The value of a field of a form.
fn field(request: &Request, name: &str) -> String {
    let text = request.text();
    let mut fields = text.split('&').filter_map(|field| field.split_once('='));
    let found = fields.find(|(other, _)| *other == name);
    decoded(found.unwrap_or_else(|| panic!("no {name} in {text}")).1)
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        bytes.extend(rest[..at].bytes());
        bytes.push(u8::from_str_radix(&rest[at + 1..at + 3], 16).unwrap());
        rest = &rest[at + 3..];
    }
    bytes.extend(rest.bytes());
    String::from_utf8(bytes).unwrap()
}
