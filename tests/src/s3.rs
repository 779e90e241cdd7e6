//! S3 servers that run beside the tests, and a bucket of a test's own on one.
//!
//! `tests/servers/up.sh` starts the servers and prints the variables that lead
//! to them. What a test wants to know of its bucket it asks a helper in Python
//! with an S3 client of its own, not the tools that it tests.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::admin::{Admin, text, texts};
use crate::workspace::Workspace;
use crate::{FaultProxy, Remote, skip};

/// The keys that `tests/servers/common.sh` gives to every server.
const ACCESS_KEY: &str = "test";
pub(crate) const SECRET_KEY: &str = "testtesttest";

/// The keys of the guest, in the same file.
const GUEST_ACCESS_KEY: &str = "guest";
const GUEST_SECRET_KEY: &str = "guestguestguest";

/// One of the S3 servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum S3Server {
    /// Ceph's gateway over HTTP.
    CephPlain,
    /// Ceph's gateway over TLS, with a certificate of an authority of its own.
    CephTls,
    /// moto over HTTP.
    Moto,
}

impl S3Server {
    /// A new bucket on this server. Without the server, says what would help and
    /// gives `None`: the test is skipped; on CI (`CI` is set) it fails instead.
    pub fn bucket(self, workspace: &Workspace) -> Option<Bucket<'_>> {
        self.new_bucket(workspace, false)
    }

    /// The same with a bucket in which objects can be locked.
    pub fn bucket_with_locks(self, workspace: &Workspace) -> Option<Bucket<'_>> {
        self.new_bucket(workspace, true)
    }

    fn new_bucket(self, workspace: &Workspace, locks: bool) -> Option<Bucket<'_>> {
        let variable = match self {
            Self::CephPlain => "TEST_S3_CEPH_URL",
            Self::CephTls => "TEST_S3_CEPH_TLS_URL",
            Self::Moto => "TEST_S3_MOTO_URL",
        };
        let endpoint = set(variable)?;
        let python = set("TEST_S3_PYTHON")?;
        let authority = match self {
            Self::CephTls => Some(set("TEST_S3_CEPH_CA")?),
            Self::CephPlain | Self::Moto => None,
        };
        let environment = environment(&endpoint, authority.as_deref());
        let admin = Admin::start(&python, "s3_admin.py", &environment);
        let bucket = Bucket {
            name: fresh_name(),
            endpoint,
            authority,
            workspace,
            admin: Mutex::new(admin),
        };
        bucket.ask(&json!(["mb", bucket.name, locks]));
        Some(bucket)
    }
}

/// The value of a variable that `tests/servers/up.sh` prints.
pub(crate) fn set(variable: &str) -> Option<String> {
    std::env::var(variable).ok().or_else(|| {
        skip(&format!(
            "{variable} is not set: run `exports=$(tests/servers/up.sh) && eval \"$exports\"`"
        ))
    })
}

fn environment(endpoint: &str, authority: Option<&str>) -> Vec<(&'static str, String)> {
    let mut variables = vec![
        ("AWS_ENDPOINT_URL", endpoint.to_owned()),
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
        ("AWS_DEFAULT_REGION", "us-east-1".to_owned()),
        ("AWS_REGION", "us-east-1".to_owned()),
        // Nothing must look for the machine's own identity.
        ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
    ];
    if let Some(path) = authority {
        variables.push(("AWS_CA_BUNDLE", path.to_owned()));
    }
    variables
}

/// A name that no other test, here or in another process, has.
pub(crate) fn fresh_name() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let nanos = since.expect("the clock is past 1970").as_nanos();
    format!("test-{}-{nanos}", std::process::id())
}

/// A bucket of one test. It stays until its server is stopped, and is emptied when
/// this is dropped.
#[derive(Debug)]
pub struct Bucket<'w> {
    name: String,
    endpoint: String,
    authority: Option<String>,
    workspace: &'w Workspace,
    admin: Mutex<Admin>,
}

impl Bucket<'_> {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The URL of its server.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// What a tool takes as its source or destination: `s3://` and the name.
    pub fn url(&self) -> String {
        format!("s3://{}", self.name)
    }

    /// Variables by which a tool finds the server and its keys.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        environment(&self.endpoint, self.authority.as_deref())
    }

    /// The same with `proxy` in the server's place.
    pub fn environment_through(&self, proxy: &FaultProxy) -> Vec<(&'static str, String)> {
        environment(&proxy.url(), None)
    }

    /// The keys that begin with `prefix`, sorted.
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        self.sizes(prefix).into_keys().collect()
    }

    /// The keys that begin with `prefix`, and the sizes of the objects in bytes.
    pub fn sizes(&self, prefix: &str) -> BTreeMap<String, u64> {
        let rows = self.ask(&json!(["ls", self.name, prefix]));
        let rows = rows.as_array().expect("a listing is an array");
        rows.iter()
            .map(|row| (text(&row[0]), row[1].as_u64().expect("a size is a number")))
            .collect()
    }

    /// The keys that begin with `prefix`, and the entity tags of the objects, which
    /// differ if their content does.
    pub fn etags(&self, prefix: &str) -> BTreeMap<String, String> {
        texts(&self.ask(&json!(["etags", self.name, prefix])))
    }

    /// The keys of the multipart uploads that are still open.
    pub fn uploads(&self) -> Vec<String> {
        let keys = self.ask(&json!(["uploads", self.name]));
        keys.as_array()
            .expect("a listing is an array")
            .iter()
            .map(text)
            .collect()
    }

    /// The content of an object.
    pub fn read(&self, key: &str) -> Vec<u8> {
        let path = self.exchange();
        self.ask(&json!(["get", self.name, key, path]));
        fs::read(path).expect("the helper just wrote it")
    }

    /// Makes or replaces an object.
    pub fn write(&self, key: &str, content: impl AsRef<[u8]>) {
        let path = self.exchange();
        fs::write(&path, content).expect("a file can be written in a temporary folder");
        self.ask(&json!(["put", self.name, key, path]));
    }

    /// Makes an object of each text, by key; for very many small ones.
    pub fn fill(&self, objects: &BTreeMap<String, String>) {
        self.ask(&json!(["fill", self.name, objects]));
    }

    /// Locks an object until a time in ISO 8601.
    pub fn retain(&self, key: &str, until: &str) {
        self.ask(&json!(["retain", self.name, key, until]));
    }

    /// Sets the legal hold of an object, or takes it away.
    pub fn hold(&self, key: &str, on: bool) {
        let status = if on { "ON" } else { "OFF" };
        self.ask(&json!(["hold", self.name, key, status]));
    }

    /// Begins an upload in parts that nobody completes.
    pub fn begin_upload(&self, key: &str) {
        self.ask(&json!(["begin", self.name, key]));
    }

    /// Sets what the guest may do, in the language of policies; nothing if that is
    /// empty. Ceph alone keeps to it.
    pub fn allow_guest(&self, policy: &str) {
        self.ask(&json!(["policy", self.name, policy]));
    }

    /// Variables by which a tool finds the server and the keys of the guest, who is
    /// called `arn:aws:iam:::user/guest` in policies.
    pub fn environment_of_guest(&self) -> Vec<(&'static str, String)> {
        let mut variables = self.environment();
        for (name, value) in &mut variables {
            match *name {
                "AWS_ACCESS_KEY_ID" => GUEST_ACCESS_KEY.clone_into(value),
                "AWS_SECRET_ACCESS_KEY" => GUEST_SECRET_KEY.clone_into(value),
                _ => {}
            }
        }
        variables
    }

    /// Deletes an object.
    pub fn remove(&self, key: &str) {
        self.ask(&json!(["rm", self.name, key]));
    }

    /// The tags of an object.
    pub fn tags(&self, key: &str) -> BTreeMap<String, String> {
        texts(&self.ask(&json!(["tags", self.name, key])))
    }

    /// The header fields, in lower case, of the answer to HEAD.
    pub fn head(&self, key: &str) -> BTreeMap<String, String> {
        texts(&self.ask(&json!(["head", self.name, key])))
    }

    /// A file by which content goes to and from the helper.
    fn exchange(&self) -> PathBuf {
        self.workspace.path(format!("{}.object", self.name))
    }

    fn ask(&self, request: &Value) -> Value {
        let mut admin = self.admin.lock().expect("no request panicked half-way");
        admin.ask(request)
    }
}

impl Remote for Bucket<'_> {
    fn keys(&self, prefix: &str) -> Vec<String> {
        self.keys(prefix)
    }

    fn read(&self, key: &str) -> Vec<u8> {
        self.read(key)
    }

    fn tags(&self, key: &str) -> BTreeMap<String, String> {
        self.tags(key)
    }

    fn uploads(&self) -> Vec<String> {
        self.uploads()
    }
}
