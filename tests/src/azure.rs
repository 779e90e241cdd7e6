//! Azurite, the emulator of Azure Blob Storage, and a container of a test's own on
//! it.
//!
//! `tests/servers/up.sh` starts it and prints the variables that lead to it. What
//! a test wants to know of its container it asks a helper in Python with
//! Microsoft's own client, not the tools that it tests.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;

use serde_json::{Value, json};

use crate::admin::{Admin, text, texts};
use crate::s3::{fresh_name, set};
use crate::workspace::Workspace;
use crate::{FaultProxy, Remote};

/// The account, whose name every emulator has.
const ACCOUNT: &str = "devstoreaccount1";

/// One of the emulators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Azurite {
    /// Over HTTP.
    Plain,
    /// Over TLS, with a certificate of an authority of its own; also takes tokens.
    Tls,
}

impl Azurite {
    /// A new container. Without the server, says what would help and gives `None`:
    /// the test is skipped; on CI (`CI` is set) it fails instead.
    pub fn container(self, workspace: &Workspace) -> Option<Container<'_>> {
        let container = self.no_container(workspace)?;
        container.ask(&json!(["mb", container.name]));
        Some(container)
    }

    /// The same without making it.
    pub fn no_container(self, workspace: &Workspace) -> Option<Container<'_>> {
        let (endpoint, authority) = match self {
            Self::Plain => (set("TEST_AZURE_URL")?, None),
            Self::Tls => (set("TEST_AZURE_TLS_URL")?, Some(set("TEST_AZURE_CA")?)),
        };
        let key = set("TEST_AZURE_KEY")?;
        let python = set("TEST_AZURE_PYTHON")?;
        let environment = environment(&endpoint, &key, authority.as_deref());
        let admin = Admin::start(&python, "azure_admin.py", &environment);
        Some(Container {
            name: fresh_name(),
            endpoint,
            key,
            authority,
            workspace,
            admin: Mutex::new(admin),
        })
    }
}

fn environment(endpoint: &str, key: &str, authority: Option<&str>) -> Vec<(&'static str, String)> {
    let string = format!("AccountName={ACCOUNT};AccountKey={key};BlobEndpoint={endpoint};");
    let mut variables = vec![("AZURE_STORAGE_CONNECTION_STRING", string)];
    if let Some(path) = authority {
        variables.push(("REQUESTS_CA_BUNDLE", path.to_owned()));
    }
    variables
}

/// A container of one test. It stays until its server is stopped.
#[derive(Debug)]
pub struct Container<'w> {
    name: String,
    endpoint: String,
    key: String,
    authority: Option<String>,
    workspace: &'w Workspace,
    admin: Mutex<Admin>,
}

impl Container<'_> {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where the account is.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The file with the authority that its server's certificate is from.
    pub fn authority(&self) -> Option<&str> {
        self.authority.as_deref()
    }

    /// What a tool takes as its source or destination.
    pub fn url(&self) -> String {
        format!("{}/{}", self.endpoint, self.name)
    }

    /// Variables by which a tool finds the server and its key.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        environment(&self.endpoint, &self.key, self.authority())
    }

    /// A proxy before the server, and the variables that lead through it.
    pub fn behind_a_proxy(&self) -> (FaultProxy, Vec<(&'static str, String)>) {
        let server = self.endpoint.trim_end_matches(ACCOUNT);
        let proxy = FaultProxy::start(server.trim_end_matches('/'));
        let endpoint = format!("{}/{ACCOUNT}", proxy.url());
        let variables = environment(&endpoint, &self.key, None);
        (proxy, variables)
    }

    /// The same variables with another key.
    pub fn environment_with_key(&self, key: &str) -> Vec<(&'static str, String)> {
        environment(&self.endpoint, key, self.authority())
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

    /// Deletes an object.
    pub fn remove(&self, key: &str) {
        self.ask(&json!(["rm", self.name, key]));
    }

    /// The index tags of an object.
    pub fn tags(&self, key: &str) -> BTreeMap<String, String> {
        texts(&self.ask(&json!(["tags", self.name, key])))
    }

    /// Of how many blocks an object consists.
    pub fn blocks(&self, key: &str) -> u64 {
        let counts = self.ask(&json!(["blocks", self.name, key]));
        counts[0].as_u64().expect("a count is a number")
    }

    /// Leaves an uncommitted block called `block` behind under a name.
    pub fn leave_behind(&self, key: &str, block: &str) {
        self.ask(&json!(["stage", self.name, key, block]));
    }

    /// A shared access signature for an hour, for this container and for what
    /// `letters` allow.
    pub fn signature(&self, letters: &str) -> String {
        text(&self.ask(&json!(["sas", self.name, letters])))
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

impl Remote for Container<'_> {
    fn keys(&self, prefix: &str) -> Vec<String> {
        self.keys(prefix)
    }

    fn read(&self, key: &str) -> Vec<u8> {
        self.read(key)
    }

    fn tags(&self, key: &str) -> BTreeMap<String, String> {
        self.tags(key)
    }

    /// Blocks that were not committed are no uploads that anybody could end.
    fn uploads(&self) -> Vec<String> {
        Vec::new()
    }
}
