//! Snapshots of EBS volumes: seven calls of the EC2 Query API.
//!
//! Requests and answers: "Amazon EC2 API Reference", version 2016-11-15. An instance or a
//! volume is named by its id or by its tag `Name`; several of one name are refused.

mod ask;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;

use self::ask::{Ask, Refusal};
use super::line::{Line, Twice};
use super::{
    Begun, Cloud, Deleted, Disk, Located, Lock, Place, Progress, RecordedSnapshot, SnapshotError,
    SnapshotErrorKind, SnapshotOptions, SnapshotProvider,
};
use crate::mounts::DeviceId;
use crate::store::xml::Element;
use crate::store::{OpenedApi, Tag};

/// How long snapshots may take, unless `--aws-await-snapshots-timeout` says otherwise.
/// Source: the reference.
const PATIENCE: Duration = Duration::from_hours(1);

/// States of an instance that is there. Source: the reference leaves out `terminated`.
const THERE: [&str; 5] = ["pending", "running", "shutting-down", "stopping", "stopped"];

/// What EC2 says of a snapshot that is not there.
const ABSENT: &str = "InvalidSnapshot.NotFound";

/// Devices that a system starts from, whatever the instance says.
const ROOTS: [&str; 2] = ["/dev/sda1", "/dev/xvda"];

/// EC2 of a region.
#[derive(Debug)]
pub(super) struct Aws {
    line: Line,
    region: Option<String>,
    tags: Vec<Tag>,
    patience: Duration,
    lock: Option<Lock>,
    /// The Outpost of the instance, where its snapshots stay.
    outpost: std::sync::OnceLock<String>,
}

/// What is wanted of an instance.
struct Instance {
    id: String,
    root: Option<String>,
    outpost: Option<String>,
}

impl Aws {
    pub(super) fn new(opened: OpenedApi, options: &SnapshotOptions, retry: Duration) -> Self {
        Self {
            line: Line::new(opened.api, retry, ask::judge),
            region: opened.region,
            tags: options.tags.clone(),
            patience: options.patience.unwrap_or(PATIENCE),
            lock: options.lock.clone(),
            outpost: std::sync::OnceLock::new(),
        }
    }

    async fn ask(
        &self,
        ask: &Ask,
        twice: Twice,
    ) -> Result<Result<Element, Refusal>, SnapshotError> {
        let answer = self.line.ask(&ask.call(), twice).await;
        let answer = answer.and_then(|answer| ask::read(&answer));
        answer.map_err(|mut error| {
            if twice == Twice::Harmless && error.kind == SnapshotErrorKind::Unknown {
                error.kind = SnapshotErrorKind::Unreachable;
            }
            error.while_(ask.action())
        })
    }

    /// All pages of a list.
    async fn list(
        &self,
        ask: Ask,
        list: &str,
    ) -> Result<Result<Vec<Element>, Refusal>, SnapshotError> {
        let mut all = Vec::new();
        let mut next: Option<String> = None;
        loop {
            let page = ask.clone().with_option("NextToken", next.as_deref());
            let root = match self.ask(&page, Twice::Harmless).await? {
                Ok(root) => root,
                Err(refusal) => return Ok(Err(refusal)),
            };
            let token = root.text("nextToken").map(str::to_owned);
            all.extend(root.into_items(list));
            if token.is_none() {
                return Ok(Ok(all));
            }
            if token == next {
                let text = format!("{}: the same page came twice", ask.action());
                return Err(SnapshotError::new(SnapshotErrorKind::Refused, text));
            }
            next = token;
        }
    }

    async fn instance(&self, named: &str) -> Result<Instance, SnapshotError> {
        let ask = Ask::new("DescribeInstances");
        let by_name = || ask.clone().filter("tag:Name", &[named]);
        let there = |ask: Ask| ask.filter("instance-state-name", &THERE);
        let mut found = None;
        if named.starts_with("i-") {
            let by_id = there(ask.clone().with("InstanceId.1", named));
            match self.list(by_id, "reservationSet").await? {
                Ok(list) => found = Some(list),
                Err(refusal) if refusal.code == "InvalidInstanceID.NotFound" => {
                    found = Some(Vec::new());
                }
                // It is a name that looks like an id.
                Err(refusal) if refusal.code == "InvalidInstanceID.Malformed" => {}
                Err(refusal) => return Err(refusal.error("DescribeInstances")),
            }
        }
        let reservations = match found {
            Some(list) => list,
            None => self
                .list(there(by_name()), "reservationSet")
                .await?
                .map_err(|refusal| refusal.error("DescribeInstances"))?,
        };
        let instances = reservations
            .iter()
            .flat_map(|one| one.items("instancesSet"));
        let instances: Vec<_> = instances.collect();
        let [instance] = instances[..] else {
            let text = match instances.len() {
                0 => format!("Cannot find compute instance {named}"),
                several => {
                    format!("{several} compute instances are called {named}: name one by its id")
                }
            };
            return Err(invalid(text));
        };
        let text = |name: &str| instance.text(name).map(str::to_owned);
        Ok(Instance {
            id: text("instanceId").ok_or_else(|| invalid("the instance has no id"))?,
            root: text("rootDeviceName"),
            outpost: text("outpostArn"),
        })
    }

    /// The snapshots that a filter or an id finds.
    async fn snapshots(&self, ask: Ask) -> Result<Result<Vec<Element>, Refusal>, SnapshotError> {
        self.list(ask, "snapshotSet").await
    }

    /// The snapshots of this account that have a name, and are of this volume, if it is told.
    async fn called(
        &self,
        name: &str,
        volume: Option<&str>,
    ) -> Result<Vec<Element>, SnapshotError> {
        let mut ask = Ask::new("DescribeSnapshots")
            .with("Owner.1", "self")
            .filter("tag:Name", &[&literally(name)]);
        if let Some(volume) = volume {
            ask = ask.filter("volume-id", &[volume]);
        }
        let found = self.snapshots(ask).await?;
        let mut found = found.map_err(|refusal| refusal.error("DescribeSnapshots"))?;
        found.retain(|one| tag(one, "Name") == Some(name));
        Ok(found)
    }

    async fn snapshot(&self, id: &str) -> Result<Element, SnapshotError> {
        let absent = || SnapshotError::new(SnapshotErrorKind::Absent, format!("no snapshot {id}"));
        match self.snapshots(of_id(id)).await? {
            Ok(found) => found.into_iter().next().ok_or_else(absent),
            Err(refusal) if refusal.code == ABSENT => Err(absent()),
            Err(refusal) => Err(refusal.error("DescribeSnapshots")),
        }
    }
}

/// A text as the value of a filter that means nothing but this text. Source: "Amazon EC2 API
/// Reference", on wildcards in filters.
fn literally(text: &str) -> String {
    let mut value = String::with_capacity(text.len());
    for letter in text.chars() {
        if matches!(letter, '*' | '?' | '\\') {
            value.push('\\');
        }
        value.push(letter);
    }
    value
}

/// Asks for a snapshot of this account alone.
fn of_id(id: &str) -> Ask {
    Ask::new("DescribeSnapshots")
        .with("Owner.1", "self")
        .with("SnapshotId.1", id)
}

#[async_trait]
impl SnapshotProvider for Aws {
    fn cloud(&self) -> Cloud {
        Cloud::Aws
    }

    async fn disks(
        &self,
        instance: &str,
        names: Option<&[String]>,
    ) -> Result<Vec<Disk>, SnapshotError> {
        let instance = self.instance(instance).await?;
        if let Some(outpost) = &instance.outpost {
            // Set once: all disks are those of one instance.
            let _ = self.outpost.set(outpost.clone());
        }
        if instance.outpost.is_some() && self.lock.is_some() {
            return Err(invalid(
                "snapshots on an Outpost cannot be locked: leave --aws-snapshot-lock-mode away",
            ));
        }
        let ask = Ask::new("DescribeVolumes").filter("attachment.instance-id", &[&instance.id]);
        let volumes = self.list(ask, "volumeSet").await?;
        let volumes = volumes.map_err(|refusal| refusal.error("DescribeVolumes"))?;
        let attached: Vec<Volume<'_>> = volumes
            .iter()
            .filter_map(|volume| Volume::at(volume, &instance))
            .collect();
        let Some(names) = names else {
            let all = attached.iter().map(|volume| volume.disk(volume.id));
            return Ok(all.collect());
        };
        let mut disks = Vec::new();
        for name in names {
            let by_id = attached.iter().filter(|volume| volume.id == name);
            let by_id: Vec<_> = by_id.collect();
            let found = if by_id.is_empty() {
                attached
                    .iter()
                    .filter(|volume| volume.name == Some(name))
                    .collect()
            } else {
                by_id
            };
            match found[..] {
                [] => {}
                [volume] => disks.push(volume.disk(name)),
                _ => {
                    let text = format!(
                        "several volumes of the instance are called {name}: name one by its id"
                    );
                    return Err(invalid(text));
                }
            }
        }
        Ok(disks)
    }

    async fn begin(&self, disk: &Disk, name: &str) -> Result<Begun, SnapshotError> {
        let name_tag = Tag {
            key: "Name".into(),
            value: name.to_owned(),
        };
        let tags = std::iter::once(&name_tag).chain(&self.tags);
        let ask = Ask::new("CreateSnapshot")
            .with("VolumeId", &disk.id)
            .with_option("OutpostArn", self.outpost.get().map(String::as_str))
            .tags("snapshot", tags);
        let made = self.ask(&ask, Twice::Never).await?;
        let made = made.map_err(|refusal| refusal.error("CreateSnapshot"))?;
        let begun = begun(&made).ok_or_else(|| {
            let text = "CreateSnapshot: the answer names no snapshot";
            SnapshotError::new(SnapshotErrorKind::Unknown, text)
        })?;
        tracing::info!("Snapshot {} `{name}` of {} was begun", begun.id, disk.id);
        Ok(begun)
    }

    async fn find(&self, disk: &Disk, name: &str) -> Result<Vec<Begun>, SnapshotError> {
        let found = self.called(name, Some(&disk.id)).await?;
        Ok(found.iter().filter_map(begun).collect())
    }

    async fn progress(&self, snapshot: &Begun) -> Result<Progress, SnapshotError> {
        let found = self.snapshot(&snapshot.id).await?;
        Ok(match found.text("status") {
            Some("completed") => Progress::Complete,
            Some("error") => {
                let why = found.text("statusMessage").unwrap_or("EC2 says no more");
                Progress::Failed(why.to_owned())
            }
            _ => Progress::Pending(None),
        })
    }

    async fn lock(&self, snapshot: &Begun) -> Result<(), SnapshotError> {
        let Some(lock) = &self.lock else {
            return Ok(());
        };
        let number = |number: Option<u32>| number.map(|number| number.to_string());
        let ask = Ask::new("LockSnapshot")
            .with("SnapshotId", &snapshot.id)
            .with("LockMode", &lock.mode)
            .with_option("LockDuration", number(lock.days).as_deref())
            .with_option("CoolOffPeriod", number(lock.cool_off_hours).as_deref())
            .with_option("ExpirationDate", lock.until.as_deref());
        let locked = self.ask(&ask, Twice::Harmless).await?;
        locked.map_err(|refusal| refusal.error("LockSnapshot"))?;
        Ok(())
    }

    fn lock_mode(&self) -> Option<&str> {
        self.lock.as_ref().map(|lock| lock.mode.as_str())
    }

    fn patience(&self) -> Duration {
        self.patience
    }

    async fn locate(&self, snapshot: &RecordedSnapshot) -> Result<Vec<Located>, SnapshotError> {
        let Some(id) = &snapshot.id else {
            let Some(name) = &snapshot.name else {
                return Err(foreign("the record names no snapshot".to_owned()));
            };
            let found = self.called(name, None).await?;
            let volumes = found.iter().map(|one| one.text("volumeId"));
            if volumes.collect::<BTreeSet<_>>().len() > 1 {
                let text = format!("several volumes have a snapshot `{name}`");
                return Err(foreign(text));
            }
            let located = |one: &Element| {
                Some(Located {
                    id: one.text("snapshotId")?.to_owned(),
                    name: tag(one, "Name")?.to_owned(),
                })
            };
            return Ok(found.iter().filter_map(located).collect());
        };
        let found = match self.snapshots(of_id(id)).await? {
            Ok(found) => found,
            Err(refusal) if refusal.code == ABSENT => return Ok(Vec::new()),
            Err(refusal) if refusal.code.contains("Malformed") => {
                return Err(foreign(format!("`{id}` is no id of a snapshot")));
            }
            Err(refusal) => return Err(refusal.error("DescribeSnapshots")),
        };
        let name = found.first().and_then(|found| tag(found, "Name"));
        let name = name.ok_or_else(|| foreign(format!("snapshot {id} has no name")))?;
        Ok(vec![Located {
            id: id.clone(),
            name: name.to_owned(),
        }])
    }

    async fn delete(&self, id: &str) -> Result<Deleted, SnapshotError> {
        let ask = Ask::new("DeleteSnapshot").with("SnapshotId", id);
        match self.ask(&ask, Twice::Harmless).await? {
            Ok(_) => Ok(Deleted::Gone),
            Err(refusal) if refusal.code == ABSENT => Ok(Deleted::Absent),
            Err(refusal) => Err(refusal.error("DeleteSnapshot")),
        }
    }

    fn place(&self, owner: Option<&str>) -> Place {
        Place::Aws {
            account: owner.map(str::to_owned),
            region: self.region.clone(),
        }
    }
}

/// A volume at an instance.
struct Volume<'a> {
    id: &'a str,
    name: Option<&'a str>,
    device: &'a str,
    origin: Option<&'a str>,
}

impl<'a> Volume<'a> {
    /// `None` for the volume that the instance starts from.
    fn at(volume: &'a Element, instance: &Instance) -> Option<Self> {
        let mut attachments = volume.items("attachmentSet");
        let here = attachments.find(|one| one.text("instanceId") == Some(&instance.id))?;
        let device = here.text("device")?;
        let starts = instance.root.as_deref() == Some(device) || ROOTS.contains(&device);
        (!starts).then_some(Self {
            id: volume.text("volumeId")?,
            name: tag(volume, "Name"),
            device,
            origin: volume.text("snapshotId"),
        })
    }

    fn disk(&self, name: &str) -> Disk {
        Disk {
            name: name.to_owned(),
            id: self.id.to_owned(),
            device: device(self.id, self.device),
            device_name: Some(self.device.to_owned()),
            location: None,
            lun: None,
            origin: self.origin.map(str::to_owned),
        }
    }
}

/// What the instance knows a volume by. NVMe devices have its id as their serial number,
/// without the dash; others have the name of the attachment, or what Xen makes of it.
/// Source: "Device names for volumes on Amazon EC2 instances".
fn device(volume: &str, attached_as: &str) -> DeviceId {
    let name = attached_as.strip_prefix("/dev/").unwrap_or(attached_as);
    let mut paths = vec![Path::new("/dev").join(name)];
    if let Some(letters) = name.strip_prefix("sd") {
        paths.push(format!("/dev/xvd{letters}").into());
        paths.push(format!("/dev/hd{letters}").into());
    }
    DeviceId {
        serial: Some(volume.replacen('-', "", 1)),
        paths,
    }
}

fn begun(snapshot: &Element) -> Option<Begun> {
    Some(Begun {
        id: snapshot.text("snapshotId")?.to_owned(),
        owner: snapshot.text("ownerId").map(str::to_owned),
        operation: None,
    })
}

fn tag<'a>(of: &'a Element, key: &str) -> Option<&'a str> {
    let mut tags = of.items("tagSet");
    tags.find(|tag| tag.text("key") == Some(key))?.text("value")
}

fn foreign(text: String) -> SnapshotError {
    SnapshotError::new(SnapshotErrorKind::Foreign, text)
}

fn invalid(text: impl Into<String>) -> SnapshotError {
    SnapshotError::new(SnapshotErrorKind::Invalid, text)
}
