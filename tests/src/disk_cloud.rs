//! A cloud whose instance has one disk: EC2 as moto plays it, Azure and Google as a stand-in
//! of our own does.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use crate::http_server::HttpRequest;
use crate::s3::{Bucket, S3Server};
use crate::volume::Volume;
use crate::workspace::Workspace;
use crate::{Ec2, project};

/// Which cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloudKind {
    /// Amazon.
    Ec2,
    /// Microsoft.
    Azure,
    /// Google.
    Google,
}

impl CloudKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ec2, Self::Azure, Self::Google];

    /// Its name in titles.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ec2 => "EC2",
            Self::Azure => "Azure",
            Self::Google => "Google",
        }
    }

    /// What a request asks the service for; `None` for what goes to others.
    pub fn call(self, request: &HttpRequest) -> Option<String> {
        let body = String::from_utf8_lossy(&request.body);
        if self == Self::Ec2 {
            let (_, action) = body.split_once("Action=")?;
            return Some(action.split('&').next()?.to_owned());
        }
        let path = request.target.split('?').next()?;
        let kind = path.rsplit('/').nth(1)?;
        // Made by a POST to the list of them.
        let kind = if kind == "global" { "snapshots" } else { kind };
        Some(format!("{} {kind}", request.method))
    }

    /// Whether what [`call`](Self::call) gave makes a snapshot.
    pub fn makes(call: &str) -> bool {
        ["CreateSnapshot", "PUT snapshots", "POST snapshots"].contains(&call)
    }
}

/// The cloud, with instance `vm1` and its disk `pgdata`, which is a [`Volume`].
#[derive(Debug)]
pub struct DiskCloud<'w> {
    kind: CloudKind,
    service: Service<'w>,
    /// Of the disk at the instance, where clouds have one: no other test has it.
    lun: u32,
    links: Vec<Link>,
    workspace: &'w Workspace,
}

#[derive(Debug)]
enum Service<'w> {
    Moto {
        // Its server has the service as well.
        bucket: Box<Bucket<'w>>,
        ec2: Box<Ec2>,
        instance: String,
        disk: String,
    },
    StandIn(StandIn),
}

impl<'w> DiskCloud<'w> {
    /// Without what it needs, says what would help and gives `None`: the test is skipped;
    /// on CI (`CI` is set) it fails instead.
    pub fn new(kind: CloudKind, workspace: &'w Workspace, volume: &Volume) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let lun = 1000 + std::process::id() * 8 + NEXT.fetch_add(1, Ordering::Relaxed);
        let mut cloud = Self {
            kind,
            lun,
            links: Vec::new(),
            workspace,
            service: match kind {
                CloudKind::Ec2 => {
                    let bucket = Box::new(S3Server::Moto.bucket(workspace)?);
                    let ec2 = Box::new(Ec2::beside(&bucket)?);
                    let instance = ec2.instance(bucket.name());
                    let disk = ec2.volume(&instance, &volume.device(), "pgdata", None);
                    Service::Moto {
                        bucket,
                        ec2,
                        instance,
                        disk,
                    }
                }
                _ => Service::StandIn(StandIn::start(lun)),
            },
        };
        cloud.link(lun, &volume.device());
        // The reference's program for tokens, and a login that gives some.
        let path = workspace.dir("programs").join("az");
        let token = r#"{"accessToken": "t", "expires_on": 4102444800, "tokenType": "Bearer"}"#;
        std::fs::write(&path, format!("#!/bin/sh\necho '{token}'\n")).expect("own folder");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&path, mode).expect("own file");
        Some(cloud)
    }

    fn link(&mut self, lun: u32, device: &str) {
        let link = match self.kind {
            CloudKind::Ec2 => return,
            CloudKind::Azure => format!("/dev/disk/azure/scsi1/lun{lun}"),
            CloudKind::Google => format!("/dev/disk/by-id/google-disk-{lun}"),
        };
        self.links.push(Link::new(link, device));
    }

    /// Where the service is, past all proxies.
    pub fn url(&self) -> String {
        match &self.service {
            Service::Moto { bucket, .. } => bucket.endpoint().to_owned(),
            Service::StandIn(stand_in) => stand_in.url(),
        }
    }

    /// Variables by which a tool finds the service at `url`, and credentials.
    pub fn environment(&self, url: &str) -> Vec<(&'static str, String)> {
        let path = self.workspace.path("programs");
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", path.display());
        match &self.service {
            Service::Moto { bucket, .. } => {
                let mut variables = bucket.environment();
                variables.push(("AWS_ENDPOINT_URL_EC2", url.to_owned()));
                variables
            }
            Service::StandIn(_) if self.kind == CloudKind::Azure => vec![
                ("AZURE_RESOURCE_MANAGER_URL", url.to_owned()),
                ("PATH", path),
            ],
            Service::StandIn(_) => {
                let login = json!({
                    "type": "authorized_user", "client_id": "i", "client_secret": "s",
                    "refresh_token": "r", "token_uri": format!("{}/token", self.url()),
                });
                let file = self.workspace.file("login.json", login.to_string());
                vec![
                    ("GCP_COMPUTE_ENDPOINT", url.to_owned()),
                    ("GOOGLE_APPLICATION_CREDENTIALS", file.display().to_string()),
                ]
            }
        }
    }

    /// What every tool needs to be told.
    pub fn options(&self) -> &'static [&'static str] {
        match self.kind {
            CloudKind::Ec2 => &["--cloud-provider=aws-s3"],
            CloudKind::Azure => &[
                "--cloud-provider=azure-blob-storage",
                "--azure-credential=azure-cli",
            ],
            CloudKind::Google => &["--cloud-provider=google-cloud-storage"],
        }
    }

    /// What a backup needs to be told.
    pub fn backup_options(&self) -> Vec<String> {
        let more: &[&str] = match self.kind {
            CloudKind::Ec2 => &[],
            CloudKind::Azure => &["--azure-subscription-id=sub", "--azure-resource-group=rg"],
            CloudKind::Google => &["--gcp-project=proj", "--gcp-zone=zone-1"],
        };
        let instance = match &self.service {
            Service::Moto { instance, .. } => instance,
            Service::StandIn(_) => "vm1",
        };
        let own = |option: &&str| (*option).to_owned();
        let mut options: Vec<_> = self.options().iter().chain(more).map(own).collect();
        options.push(format!("--snapshot-instance={instance}"));
        options.push("--snapshot-disk=pgdata".to_owned());
        options
    }

    /// The names of the snapshots there are.
    pub fn snapshots(&self) -> Vec<String> {
        match &self.service {
            Service::Moto { ec2, disk, .. } => {
                let found = ec2.snapshots(disk).into_values();
                found
                    .map(|mut tags| tags.remove("Name").expect("ours have one"))
                    .collect()
            }
            Service::StandIn(stand_in) => {
                let found = stand_in.ask("GET", "/_snapshots", &Value::Null);
                let found = found.as_array().expect("a list").iter();
                found
                    .map(|name| name.as_str().expect("a name").to_owned())
                    .collect()
            }
        }
    }

    /// A new instance with one disk, which was made of the newest snapshot and is `volume`;
    /// gives what a restore needs to be told.
    pub fn recovered(&mut self, volume: &Volume) -> Vec<String> {
        let mut options: Vec<String> = match self.kind {
            CloudKind::Ec2 => Vec::new(),
            CloudKind::Azure => vec!["--azure-resource-group=rg".into()],
            CloudKind::Google => vec!["--gcp-zone=zone-1".into()],
        };
        options.extend(self.options().iter().map(|option| (*option).to_owned()));
        let snapshot = self.snapshots().pop().expect("there is one");
        // What the disk was known by before may belong to another one now.
        let device = volume.device();
        self.links.clear();
        let instance = match &self.service {
            Service::Moto { ec2, disk, .. } => {
                let id = ec2.snapshots(disk).into_keys().next_back();
                let instance = ec2.instance("vm2");
                ec2.volume(&instance, &device, "recovered", id.as_deref());
                instance
            }
            Service::StandIn(stand_in) => {
                let seed = seed(self.lun, Some((self.lun + 1, &snapshot)));
                stand_in.ask("POST", "/_seed", &seed);
                "vm2".to_owned()
            }
        };
        self.link(self.lun + 1, &device);
        options.push(format!("--snapshot-recovery-instance={instance}"));
        options
    }

    /// Everything that a stand-in was asked, but for tokens: `METHOD path?query`, and the
    /// body in JSON.
    pub fn requests(&self) -> Vec<(String, Value)> {
        let Service::StandIn(stand_in) = &self.service else {
            return Vec::new();
        };
        let all = stand_in.ask("GET", "/_requests", &Value::Null);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let line = |request: &Value| {
            let query = request["query"].as_object().expect("parameters");
            let query = query
                .iter()
                .map(|(name, value)| format!("{name}={}", text(value)));
            let query: Vec<_> = query.collect();
            let line = format!("{} {}", text(&request["method"]), text(&request["path"]));
            let line = if query.is_empty() {
                line
            } else {
                format!("{line}?{}", query.join("&"))
            };
            (line, request["body"].clone())
        };
        let all = all.as_array().expect("a list").iter().map(line);
        all.filter(|(line, _)| line != "POST /token").collect()
    }

    /// The next requests of a stand-in whose path has `part` are answered so.
    pub fn fault(&self, fault: &Value) {
        if let Service::StandIn(stand_in) = &self.service {
            stand_in.ask("POST", "/_fault", fault);
        }
    }
}

/// What the stand-in has: a disk at `vm1`, and one at `vm2` that was made of a snapshot.
fn seed(lun: u32, recovered: Option<(u32, &str)>) -> Value {
    let mut azure = json!({
        "subscription": "sub", "resource_group": "rg", "location": "here",
        "vms": {"vm1": [{"lun": lun, "disk": "pgdata"}]}, "disks": {"pgdata": {}},
    });
    let mut gcp = json!({
        "project": "proj", "zone": "zone-1", "disks": {"pgdata": {}},
        "instances": {"vm1": [{"device_name": format!("disk-{lun}"), "disk": "pgdata"}]},
    });
    if let Some((lun, snapshot)) = recovered {
        let made = json!({"source_snapshot": snapshot});
        azure["vms"]["vm2"] = json!([{"lun": lun, "disk": "recovered"}]);
        azure["disks"]["recovered"] = made.clone();
        let device = format!("disk-{lun}");
        gcp["instances"]["vm2"] = json!([{"device_name": device, "disk": "recovered"}]);
        gcp["disks"]["recovered"] = made;
    }
    json!({"azure": azure, "gcp": gcp})
}

/// The stand-in for Azure and Google. Ends when dropped, and with the test's process.
#[derive(Debug)]
struct StandIn {
    child: Child,
    input: Option<ChildStdin>,
    port: u16,
}

impl StandIn {
    fn start(lun: u32) -> Self {
        let mut child = Command::new("python3")
            .arg(project().join("tests/servers/fake_compute.py"))
            .arg(seed(lun, None).to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("python3 can be started");
        let mut line = String::new();
        let output = child.stdout.take().expect("it is piped");
        BufReader::new(output)
            .read_line(&mut line)
            .expect("it says which port it took");
        Self {
            input: child.stdin.take(),
            child,
            port: line.trim().parse().expect("a port is a number"),
        }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("it listens");
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}"
        );
        write!(stream, "{head}\r\n\r\n{body}").expect("it reads");
        let mut answer = String::new();
        stream
            .read_to_string(&mut answer)
            .expect("it answers in UTF-8");
        let (_, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
        serde_json::from_str(body).expect("it answers in JSON")
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.child.wait();
    }
}

/// A link below `/dev/disk` to a device. It goes when this is dropped.
#[derive(Debug)]
struct Link {
    link: String,
    device: String,
}

impl Link {
    fn new(link: String, device: &str) -> Self {
        let this = Self {
            link,
            device: device.to_owned(),
        };
        assert!(this.run("up"), "{} cannot be made", this.link);
        this
    }

    fn run(&self, command: &str) -> bool {
        let script: &Path = &project().join("tests/servers/disk_link.sh");
        let status = Command::new(script)
            .args([command, &self.link, &self.device])
            .status();
        status.is_ok_and(|status| status.success())
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.run("down");
    }
}
