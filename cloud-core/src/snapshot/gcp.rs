//! Snapshots of persistent disks: requests to Compute Engine.
//!
//! Requests and answers: `instances`, `disks`, `snapshots` and `globalOperations` of the
//! REST reference, version 1. A snapshot is called by its name in the project; a request
//! carries an id, by which the service knows it again.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::line::{Line, Verdict};
use super::rest::{Answered, ask, call, judge_status, last_part, perhaps, text, wait, with_body};
use super::{
    Begun, Cloud, Deleted, Disk, Located, Place, Progress, RecordedSnapshot, SnapshotError,
    SnapshotErrorKind, SnapshotOptions, SnapshotProvider,
};
use crate::mounts::DeviceId;
use crate::store::{ApiAnswer, OpenedApi, url_encoded};

/// How long a snapshot may take: the reference waits for ever.
const PATIENCE: Duration = Duration::from_hours(24);

/// Longest name of a snapshot, in bytes. Source: "Naming resources".
const LONGEST_NAME: usize = 63;

/// What the name of a snapshot has after that of its disk: a dash and the backup's id.
const END_OF_NAME: usize = "-20261121t024500".len();

/// Why a request that is refused with 403 may be sent again.
const BUSY: [&str; 2] = ["rateLimitExceeded", "userRateLimitExceeded"];

/// A project.
#[derive(Debug)]
pub(super) struct Gcp {
    line: Line,
    project: String,
    /// Of the instance; a deletion needs none.
    zone: Option<String>,
}

impl Gcp {
    /// # Errors
    ///
    /// `Invalid` without a project.
    pub(super) fn new(
        opened: OpenedApi,
        options: &SnapshotOptions,
        retry: Duration,
    ) -> Result<Self, SnapshotError> {
        let project = options.gcp_project.clone();
        Ok(Self {
            line: Line::new(opened.api, retry, judge),
            project: project.ok_or_else(|| invalid("the project of the snapshots is not known"))?,
            zone: options.gcp_zone.clone(),
        })
    }

    fn path(&self, rest: &str) -> String {
        let project = url_encoded(&self.project);
        format!("/compute/v1/projects/{project}/{rest}")
    }

    fn snapshot_path(&self, name: &str) -> String {
        self.path(&format!("global/snapshots/{}", url_encoded(name)))
    }

    async fn get(&self, target: String, doing: &str) -> Result<Answered, SnapshotError> {
        ask(&self.line, &call("GET", target), doing, refusal).await
    }

    /// A disk of an instance, with what only the disk itself tells.
    async fn disk(&self, attached: &Value) -> Result<Option<Disk>, SnapshotError> {
        let (Some(source), Some(device)) =
            (text(attached, "/source"), text(attached, "/deviceName"))
        else {
            return Ok(None);
        };
        let name = last_part(source);
        let unusable = || invalid(format!("disk {name} has the unusual source {source}"));
        let (_, path) = source.split_once("/projects/").ok_or_else(unusable)?;
        let doing = format!("disk {name} could not be looked at");
        let answered = self
            .get(format!("/compute/v1/projects/{path}"), &doing)
            .await?;
        let (disk, _) = answered.map_err(|refusal| refusal.error(&doing))?;
        let origin = text(&disk, "/sourceSnapshot").map(last_part);
        Ok(Some(Disk {
            name: name.to_owned(),
            id: format!("projects/{path}"),
            device: DeviceId {
                serial: None,
                paths: vec![format!("/dev/disk/by-id/google-{device}").into()],
            },
            device_name: Some(device.to_owned()),
            location: None,
            lun: None,
            origin: origin.map(str::to_owned),
        }))
    }

    async fn operation(&self, name: &str, doing: &str) -> Result<Progress, SnapshotError> {
        let target = self.path(&format!("global/operations/{}", url_encoded(name)));
        let answered = self.get(target, doing).await?;
        let (value, answer) = answered.map_err(|refusal| refusal.error(doing))?;
        for warning in value
            .get("warnings")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let message = text(warning, "/message").unwrap_or_default();
            tracing::warn!("Google Cloud warns: {message}");
        }
        if text(&value, "/status") != Some("DONE") {
            return Ok(Progress::Pending(answer.retry_after()));
        }
        let status = value.get("httpErrorStatusCode").and_then(Value::as_u64);
        let Some(error) = value.pointer("/error/errors/0") else {
            return Ok(match status {
                Some(status) => Progress::Failed(format!("it ended with status {status}")),
                None => Progress::Complete,
            });
        };
        let said = |name: &str| text(error, name).unwrap_or_default();
        let why = format!("{}: {}", said("/code"), said("/message"));
        Ok(Progress::Failed(why))
    }
}

#[async_trait]
impl SnapshotProvider for Gcp {
    fn cloud(&self) -> Cloud {
        Cloud::Gcp
    }

    async fn disks(
        &self,
        instance: &str,
        names: Option<&[String]>,
    ) -> Result<Vec<Disk>, SnapshotError> {
        let too_long = |name: &&String| name.len() + END_OF_NAME > LONGEST_NAME;
        if let Some(name) = names.and_then(|names| names.iter().find(too_long)) {
            return Err(invalid(format!(
                "no snapshot can be called after disk {name}: its name may have {} characters",
                LONGEST_NAME - END_OF_NAME
            )));
        }
        let zone = self
            .zone
            .as_deref()
            .ok_or_else(|| invalid("the zone is not known"))?;
        let (zone, encoded) = (url_encoded(zone), url_encoded(instance));
        let target = self.path(&format!("zones/{zone}/instances/{encoded}"));
        let doing = format!("instance {instance} could not be looked at");
        let (machine, _) = match self.get(target, &doing).await? {
            Ok(found) => found,
            Err(refusal) if refusal.status == 404 => {
                return Err(invalid(format!("Cannot find compute instance {instance}")));
            }
            Err(refusal) => return Err(refusal.error(&doing)),
        };
        let attached = machine.get("disks").and_then(Value::as_array);
        let wanted = |disk: &&Value| match names {
            Some(names) => {
                let name = last_part(text(disk, "/source").unwrap_or_default());
                names.iter().any(|other| other == name)
            }
            None => disk.get("boot") != Some(&Value::Bool(true)),
        };
        let mut disks = Vec::new();
        for disk in attached.into_iter().flatten().filter(wanted) {
            disks.extend(self.disk(disk).await?);
        }
        Ok(disks)
    }

    async fn begin(&self, disk: &Disk, name: &str) -> Result<Begun, SnapshotError> {
        let body = json!({"name": name, "sourceDisk": disk.id});
        let target = self.path(&format!("global/snapshots?requestId={}", request_id()));
        let doing = format!("snapshot {name} could not be begun");
        let request = with_body("POST", target, &body);
        let answered = ask(&self.line, &request, &doing, refusal).await;
        let operation = match answered.map_err(perhaps)? {
            Ok((value, _)) => text(&value, "/name").map(str::to_owned),
            // By a request whose answer was lost, if it is of this disk: disks of several
            // zones may share a name, and with it that of their snapshots.
            Err(refusal) if refusal.status == 409 && refusal.code == "alreadyExists" => {
                let unknown = |mut error: SnapshotError| {
                    error.kind = SnapshotErrorKind::Unknown;
                    error
                };
                if self.find(disk, name).await.map_err(unknown)?.is_empty() {
                    return Err(refusal.error(&doing));
                }
                None
            }
            Err(refusal) => return Err(perhaps(refusal.error(&doing))),
        };
        tracing::info!("Snapshot {name} was begun");
        Ok(Begun {
            id: name.to_owned(),
            owner: None,
            operation,
        })
    }

    async fn find(&self, disk: &Disk, name: &str) -> Result<Vec<Begun>, SnapshotError> {
        let doing = format!("snapshot {name} could not be looked at");
        match self.get(self.snapshot_path(name), &doing).await? {
            Ok((value, _)) => {
                let source = text(&value, "/sourceDisk").and_then(place_of);
                let ours = source.is_some() && source == place_of(&disk.id);
                Ok(Vec::from_iter(ours.then(|| Begun {
                    id: name.to_owned(),
                    ..Begun::default()
                })))
            }
            Err(refusal) if refusal.status == 404 => Ok(Vec::new()),
            Err(refusal) => Err(refusal.error(&doing)),
        }
    }

    async fn progress(&self, snapshot: &Begun) -> Result<Progress, SnapshotError> {
        let name = &snapshot.id;
        let doing = format!("snapshot {name} could not be looked at");
        // Its end is that of the snapshot, and who may make one need not be able to look
        // at it.
        if let Some(operation) = &snapshot.operation {
            return self.operation(operation, &doing).await;
        }
        let (value, _) = match self.get(self.snapshot_path(name), &doing).await? {
            Ok(found) => found,
            Err(refusal) if refusal.status == 404 => {
                let text = format!("no snapshot {name}");
                return Err(SnapshotError::new(SnapshotErrorKind::Absent, text));
            }
            Err(refusal) => return Err(refusal.error(&doing)),
        };
        Ok(match text(&value, "/status") {
            Some("READY") => Progress::Complete,
            Some(status @ ("FAILED" | "DELETING")) => Progress::Failed(format!("it is {status}")),
            _ => Progress::Pending(None),
        })
    }

    async fn lock(&self, _snapshot: &Begun) -> Result<(), SnapshotError> {
        Ok(())
    }

    fn lock_mode(&self) -> Option<&str> {
        None
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }

    async fn locate(&self, snapshot: &RecordedSnapshot) -> Result<Vec<Located>, SnapshotError> {
        super::by_name(snapshot)
    }

    async fn delete(&self, id: &str) -> Result<Deleted, SnapshotError> {
        let target = format!("{}?requestId={}", self.snapshot_path(id), request_id());
        let doing = format!("snapshot {id} could not be deleted");
        let request = call("DELETE", target);
        let begun = match ask(&self.line, &request, &doing, refusal).await? {
            Ok((value, _)) => value,
            Err(refusal) if refusal.status == 404 => return Ok(Deleted::Absent),
            Err(refusal) => return Err(refusal.error(&doing)),
        };
        if let Some(name) = text(&begun, "/name") {
            wait(&doing, || self.operation(name, &doing)).await?;
        }
        Ok(Deleted::Gone)
    }

    fn place(&self, _owner: Option<&str>) -> Place {
        Place::Gcp {
            project: Some(self.project.clone()),
        }
    }
}

/// Where in its project a disk is, which is called by its id or by its number.
fn place_of(disk: &str) -> Option<&str> {
    let (_, path) = disk.split_once("projects/")?;
    Some(path.split_once('/')?.1)
}

/// A new UUID of version 4.
fn request_id() -> String {
    let [a, b] = [fastrand::u64(..), fastrand::u64(..)];
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        a >> 32,
        (a >> 16) & 0xffff,
        a & 0xfff,
        0x8000 | (b >> 48) & 0x3fff,
        b & 0xffff_ffff_ffff
    )
}

fn judge(answer: &ApiAnswer) -> Verdict {
    if answer.status == 403 {
        let value: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        if BUSY.contains(&refusal(&value).0.as_str()) {
            return Verdict::Busy;
        }
    }
    judge_status(answer.status)
}

fn refusal(value: &Value) -> (String, String) {
    let said = |pointer: &str| text(value, pointer).unwrap_or_default().to_owned();
    (said("/error/errors/0/reason"), said("/error/message"))
}

fn invalid(text: impl Into<String>) -> SnapshotError {
    SnapshotError::new(SnapshotErrorKind::Invalid, text)
}
