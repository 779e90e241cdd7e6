//! Snapshots of managed disks: requests to Azure Resource Manager.
//!
//! Requests and answers: "Virtual Machines - Get", "Disks - Get" and "Snapshots" of the
//! REST reference, and "Track asynchronous Azure operations". A snapshot is called by its
//! name in the resource group; to put one twice is to put it once.

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

/// Versions of the interfaces of machines, and of disks and snapshots.
const MACHINES: &str = "2023-03-01";
const DISKS: &str = "2023-04-02";

/// How long a snapshot may take: the reference waits for ever.
const PATIENCE: Duration = Duration::from_hours(24);

/// A resource group.
#[derive(Debug)]
pub(super) struct Azure {
    line: Line,
    subscription: String,
    resource_group: String,
}

impl Azure {
    /// # Errors
    ///
    /// `Invalid` without a subscription or a resource group.
    pub(super) fn new(
        opened: OpenedApi,
        options: &SnapshotOptions,
        retry: Duration,
    ) -> Result<Self, SnapshotError> {
        let wanted = |value: &Option<String>, name: &str| {
            value.clone().ok_or_else(|| {
                let text = format!("the {name} of the snapshots is not known");
                SnapshotError::new(SnapshotErrorKind::Invalid, text)
            })
        };
        Ok(Self {
            line: Line::new(opened.api, retry, judge),
            subscription: wanted(&options.azure_subscription, "subscription")?,
            resource_group: wanted(&options.azure_resource_group, "resource group")?,
        })
    }

    fn path(&self, kind: &str, name: &str, version: &str) -> String {
        format!(
            "/subscriptions/{}/resourceGroups/{}/providers/Microsoft.Compute/{kind}/{}\
             ?api-version={version}",
            url_encoded(&self.subscription),
            url_encoded(&self.resource_group),
            url_encoded(name)
        )
    }

    fn snapshot_path(&self, name: &str) -> String {
        self.path("snapshots", name, DISKS)
    }

    async fn get(&self, target: String, doing: &str) -> Result<Answered, SnapshotError> {
        ask(&self.line, &call("GET", target), doing, refusal).await
    }

    /// A disk of a machine, with what only the disk itself tells.
    async fn disk(&self, attached: &Value) -> Result<Option<Disk>, SnapshotError> {
        let (Some(name), Some(id), Some(lun)) = (
            text(attached, "/name"),
            text(attached, "/managedDisk/id"),
            attached.get("lun").and_then(Value::as_i64),
        ) else {
            return Ok(None);
        };
        let doing = format!("disk {name} could not be looked at");
        let answered = self
            .get(format!("{id}?api-version={DISKS}"), &doing)
            .await?;
        let (disk, _) = answered.map_err(|refusal| refusal.error(&doing))?;
        let created = "/properties/creationData";
        let copied = text(&disk, &format!("{created}/createOption")) == Some("Copy");
        let origin = text(&disk, &format!("{created}/sourceResourceId")).filter(|_| copied);
        Ok(Some(Disk {
            name: name.to_owned(),
            id: id.to_owned(),
            device: DeviceId {
                serial: None,
                paths: vec![
                    format!("/dev/disk/azure/scsi1/lun{lun}").into(),
                    // Machines whose disks are NVMe devices.
                    format!("/dev/disk/azure/data/by-lun/{lun}").into(),
                ],
            },
            device_name: None,
            location: text(&disk, "/location").map(str::to_owned),
            lun: Some(lun),
            origin: origin.map(|origin| last_part(origin).to_owned()),
        }))
    }

    /// How far the operation at a URL is.
    async fn operation(&self, url: &str, doing: &str) -> Result<Progress, SnapshotError> {
        let answered = self.get(url.to_owned(), doing).await?;
        let (value, answer) = answered.map_err(|refusal| refusal.error(doing))?;
        Ok(match text(&value, "/status") {
            Some("Succeeded") => Progress::Complete,
            Some("Failed" | "Canceled") => {
                let (code, message) = refusal(&value);
                Progress::Failed(format!("{code}: {message}"))
            }
            // One that has no status of its own is over when it is no more accepted.
            None if answer.status != 202 => Progress::Complete,
            _ => Progress::Pending(answer.retry_after()),
        })
    }

    /// A snapshot.
    async fn snapshot(&self, name: &str) -> Result<Value, SnapshotError> {
        let doing = format!("snapshot {name} could not be looked at");
        match self.get(self.snapshot_path(name), &doing).await? {
            Ok((value, _)) => Ok(value),
            Err(refusal) if is_absent(&refusal.code) => {
                let text = format!("no snapshot {name}");
                Err(SnapshotError::new(SnapshotErrorKind::Absent, text))
            }
            Err(refusal) => Err(refusal.error(&doing)),
        }
    }

    /// How far a snapshot is by its own account.
    async fn state(&self, name: &str) -> Result<Progress, SnapshotError> {
        let value = self.snapshot(name).await?;
        Ok(match text(&value, "/properties/provisioningState") {
            Some("Succeeded") => Progress::Complete,
            Some(state @ ("Failed" | "Canceled")) => {
                Progress::Failed(format!("its provisioning state is {state}"))
            }
            _ => Progress::Pending(None),
        })
    }
}

#[async_trait]
impl SnapshotProvider for Azure {
    fn cloud(&self) -> Cloud {
        Cloud::Azure
    }

    async fn disks(
        &self,
        instance: &str,
        names: Option<&[String]>,
    ) -> Result<Vec<Disk>, SnapshotError> {
        let target = self.path("virtualMachines", instance, MACHINES);
        let doing = format!("instance {instance} could not be looked at");
        let (machine, _) = match self.get(target, &doing).await? {
            Ok(found) => found,
            Err(refusal) if is_absent(&refusal.code) => {
                let text = format!("Cannot find compute instance {instance}");
                return Err(SnapshotError::new(SnapshotErrorKind::Invalid, text));
            }
            Err(refusal) => return Err(refusal.error(&doing)),
        };
        let attached = machine.pointer("/properties/storageProfile/dataDisks");
        let attached = attached.and_then(Value::as_array).into_iter().flatten();
        let wanted = |disk: &&Value| {
            let name = text(disk, "/name").unwrap_or_default();
            names.is_none_or(|names| names.iter().any(|other| other == name))
        };
        let mut disks = Vec::new();
        for disk in attached.filter(wanted) {
            disks.extend(self.disk(disk).await?);
        }
        Ok(disks)
    }

    async fn begin(&self, disk: &Disk, name: &str) -> Result<Begun, SnapshotError> {
        let body = json!({
            "location": disk.location,
            "properties": {
                "creationData": {"createOption": "Copy", "sourceUri": disk.id},
                "incremental": true,
            },
        });
        let request = with_body("PUT", self.snapshot_path(name), &body);
        let doing = format!("snapshot {name} could not be begun");
        let answered = ask(&self.line, &request, &doing, refusal).await;
        let answered = answered.map_err(perhaps)?;
        let (_, answer) = answered.map_err(|refusal| perhaps(refusal.error(&doing)))?;
        tracing::info!("Snapshot {name} was begun");
        Ok(Begun {
            id: name.to_owned(),
            owner: None,
            operation: operation(&answer),
        })
    }

    async fn find(&self, disk: &Disk, name: &str) -> Result<Vec<Begun>, SnapshotError> {
        match self.snapshot(name).await {
            Ok(value) => {
                // The service tells the disk as an id or as the URI that it was given.
                let created = "/properties/creationData";
                let sources = ["sourceResourceId", "sourceUri"];
                let mut sources = sources
                    .iter()
                    .filter_map(|source| text(&value, &format!("{created}/{source}")));
                // Its ids know no case.
                let ours = sources.any(|source| source.eq_ignore_ascii_case(&disk.id));
                Ok(Vec::from_iter(ours.then(|| Begun {
                    id: name.to_owned(),
                    ..Begun::default()
                })))
            }
            Err(error) if error.kind == SnapshotErrorKind::Absent => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    async fn progress(&self, snapshot: &Begun) -> Result<Progress, SnapshotError> {
        let name = &snapshot.id;
        if let Some(url) = &snapshot.operation {
            let doing = format!("snapshot {name} could not be looked at");
            let progress = self.operation(url, &doing).await?;
            if progress != Progress::Complete {
                return Ok(progress);
            }
        }
        self.state(name).await
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
        let request = call("DELETE", self.snapshot_path(id));
        let doing = format!("snapshot {id} could not be deleted");
        let answer = match ask(&self.line, &request, &doing, refusal).await? {
            Ok((_, answer)) if answer.status == 204 => return Ok(Deleted::Absent),
            Ok((_, answer)) => answer,
            Err(refusal) if is_absent(&refusal.code) => return Ok(Deleted::Absent),
            Err(refusal) => return Err(refusal.error(&doing)),
        };
        if let Some(url) = operation(&answer) {
            wait(&doing, || self.operation(&url, &doing)).await?;
        }
        Ok(Deleted::Gone)
    }

    fn place(&self, _owner: Option<&str>) -> Place {
        Place::Azure {
            subscription: Some(self.subscription.clone()),
            resource_group: Some(self.resource_group.clone()),
        }
    }
}

fn judge(answer: &ApiAnswer) -> Verdict {
    judge_status(answer.status)
}

/// Where the operation that an answer began tells how far it is.
fn operation(answer: &ApiAnswer) -> Option<String> {
    let url = answer
        .header("azure-asyncoperation")
        .or_else(|| answer.header("location"));
    url.map(str::to_owned)
}

fn refusal(value: &Value) -> (String, String) {
    let text = |name: &str| {
        let text = text(value, &format!("/error/{name}"));
        text.unwrap_or_default().to_owned()
    };
    (text("code"), text("message"))
}

/// Not that of a resource group: then nothing is known of what was in it.
fn is_absent(code: &str) -> bool {
    ["ResourceNotFound", "NotFound"].contains(&code)
}
