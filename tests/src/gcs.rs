//! Servers that stand in for Google Cloud Storage beside the tests, and a bucket
//! of a test's own on one.
//!
//! `tests/servers/up.sh` starts them and prints the variables that lead to them.
//! What a test wants to know of its bucket it asks by requests of its own, not by
//! the tools that it tests.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::skip;

/// One of the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GcsServer {
    /// `tests/servers/gcs_server.py`: uploads in parts by the XML API, and strict.
    StandIn,
    /// fake-gcs-server: written by others, resumable uploads alone.
    Fake,
}

impl GcsServer {
    /// A new bucket on this server. Without the server, says what would help and
    /// gives `None`: the test is skipped; on CI (`CI` is set) it fails instead.
    pub fn bucket(self) -> Option<GcsBucket> {
        let bucket = self.missing_bucket()?;
        let body = json!({"name": bucket.name}).to_string();
        bucket.ask("POST", "/storage/v1/b?project=test", body.as_bytes());
        Some(bucket)
    }

    /// The same without making it.
    pub fn missing_bucket(self) -> Option<GcsBucket> {
        let variable = match self {
            Self::StandIn => "TEST_GCS_URL",
            Self::Fake => "TEST_GCS_FAKE_URL",
        };
        let endpoint = set(variable)?;
        let authority = set("TEST_GCS_CA")?;
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let nanos = since.expect("the clock is past 1970").as_nanos();
        Some(GcsBucket {
            name: format!("test-{}-{nanos}", std::process::id()),
            endpoint,
            authority,
        })
    }
}

fn set(variable: &str) -> Option<String> {
    std::env::var(variable).ok().or_else(|| {
        skip(&format!(
            "{variable} is not set: run `exports=$(tests/servers/up.sh) && eval \"$exports\"`"
        ))
    })
}

/// A bucket of one test. It stays until its server is stopped.
#[derive(Debug)]
pub struct GcsBucket {
    name: String,
    endpoint: String,
    authority: String,
}

impl GcsBucket {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The URL of its server.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// What a tool takes as its source or destination: `gs://` and the name.
    pub fn url(&self) -> String {
        format!("gs://{}", self.name)
    }

    /// Variables by which a tool finds the server, without credentials.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        Self::environment_at(&self.endpoint)
    }

    /// The same with another address in the server's place.
    pub fn environment_at(endpoint: &str) -> Vec<(&'static str, String)> {
        vec![
            ("STORAGE_EMULATOR_HOST", endpoint.to_owned()),
            // The reference ends without one.
            ("GOOGLE_CLOUD_PROJECT", "test".to_owned()),
        ]
    }

    /// Variables by which a tool that asks for `storage.googleapis.com` reaches the
    /// stand-in: a proxy, and whom to believe.
    pub fn environment_of_service(&self) -> Vec<(&'static str, String)> {
        vec![
            ("HTTPS_PROXY", self.endpoint.clone()),
            ("REQUESTS_CA_BUNDLE", self.authority.clone()),
        ]
    }

    /// From now on the bucket is for who has this token.
    pub fn expect(&self, token: &str) {
        let target = format!("/expect/{}", self.name);
        self.ask("PUT", &target, token.as_bytes());
    }

    /// From now on these permissions are all that anybody has in the bucket, each
    /// without `storage.` before it.
    pub fn allow(&self, permissions: &[&str]) {
        let target = format!("/allow/{}", self.name);
        self.ask("PUT", &target, permissions.join(" ").as_bytes());
    }

    /// The keys that begin with `prefix`, sorted.
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        let mut keys = Vec::new();
        let mut token = String::new();
        loop {
            let target = format!(
                "/storage/v1/b/{}/o?prefix={}&pageToken={}",
                self.name,
                encoded(prefix),
                encoded(&token)
            );
            let page = self.json("GET", &target);
            let items = page["items"].as_array().into_iter().flatten();
            keys.extend(items.map(|item| text(&item["name"])));
            match page["nextPageToken"].as_str() {
                Some(next) if !next.is_empty() => next.clone_into(&mut token),
                _ => break,
            }
        }
        keys.sort();
        keys
    }

    /// What the server knows of an object.
    pub fn described(&self, key: &str) -> Value {
        self.json("GET", &self.object(key))
    }

    /// The content of an object.
    pub fn read(&self, key: &str) -> Vec<u8> {
        let target = format!("{}?alt=media", self.object(key));
        self.ask("GET", &target, b"")
    }

    /// Deletes an object.
    pub fn remove(&self, key: &str) {
        self.ask("DELETE", &self.object(key), b"");
    }

    /// How many uploads by the XML API are open.
    pub fn open_uploads(&self) -> usize {
        let answer = self.ask("GET", &format!("/{}?uploads", self.name), b"");
        String::from_utf8_lossy(&answer).matches("<Upload>").count()
    }

    fn object(&self, key: &str) -> String {
        format!("/storage/v1/b/{}/o/{}", self.name, encoded(key))
    }

    fn json(&self, method: &str, target: &str) -> Value {
        let answer = self.ask(method, target, b"");
        serde_json::from_slice(&answer).expect("the server answers in JSON")
    }

    /// Sends a request; the body of the answer, which must be a success.
    fn ask(&self, method: &str, target: &str, body: &[u8]) -> Vec<u8> {
        let address = self.endpoint.trim_start_matches("http://");
        let mut stream = TcpStream::connect(address).expect("the server listens");
        // Version 1.0, so that the answer ends with the connection.
        let head = format!(
            "{method} {target} HTTP/1.0\r\nHost: {address}\r\nContent-Length: {}\r\n\
             Content-Type: application/json\r\n\r\n",
            body.len()
        );
        let sent = stream.write_all(&[head.as_bytes(), body].concat());
        sent.expect("the server reads");
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        read.expect("the server answers");
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
        let content = answer.split_off(end.expect("the answer has a head") + 4);
        let head = String::from_utf8_lossy(&answer);
        let success = head
            .split(' ')
            .nth(1)
            .is_some_and(|status| status.starts_with('2'));
        assert!(success, "{method} {target}: {head}");
        content
    }
}

fn text(value: &Value) -> String {
    value.as_str().expect("a name is a string").to_owned()
}

fn encoded(text: &str) -> String {
    let encoded = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encoded).collect()
}
