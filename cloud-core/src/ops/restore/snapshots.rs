//! Restoring a base backup that consists of snapshots of disks.
//!
//! The disks are made of the snapshots, attached and mounted by whoever restores. Looked at
//! here, and refused if it is otherwise: that each disk of the instance was made of the
//! snapshot it stands for, that it is mounted as it was, and that the destination is a data
//! directory of the cluster. Then the label, which a snapshot cannot have, is written and
//! made durable: without it PostgreSQL would begin at the wrong position.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use super::plan::interrupted;
use super::{Durability, Existing, RestoreRequest};
use crate::catalogue::info::BackupInfo;
use crate::catalogue::layout::{BackupId, LABEL, Layout};
use crate::mounts::Mounts;
use crate::ops::snapshots::{Missing, failed};
use crate::ops::{Ctx, OpError, OpErrorKind, chain};
use crate::pgdata;
use crate::snapshot::{Clouds, Disk, Place, Record, RecordedSnapshot, SnapshotOptions};
use crate::store::{ObjectStore, StoreErrorKind, get_all};

/// Longest label that is read, in bytes.
const MAX_LABEL: u64 = 1 << 20;

/// Where the recovered disks are.
#[derive(Debug, Clone, Default)]
pub struct RecoveryPlace {
    /// Opens the cloud.
    pub clouds: Clouds,
    /// The instance that has them.
    pub instance: Option<String>,
    /// What else the command line says.
    pub options: SnapshotOptions,
}

impl RecoveryPlace {
    /// The options of the command line, and those that the record knows.
    ///
    /// # Errors
    ///
    /// One that the cloud needs is missing.
    fn complete(&self, place: &Place) -> Result<SnapshotOptions, OpError> {
        let mut options = self.options.clone();
        let mut missing = Missing::new();
        missing.unless("snapshot_recovery_instance", self.instance.is_some());
        match place {
            Place::Aws { region, .. } => {
                options.aws_region = options.aws_region.or_else(|| region.clone());
            }
            Place::Azure { subscription, .. } => {
                missing.unless(
                    "azure_resource_group",
                    options.azure_resource_group.is_some(),
                );
                options.azure_subscription.clone_from(subscription);
            }
            Place::Gcp { project } => {
                missing.unless("gcp_zone", options.gcp_zone.is_some());
                options.gcp_project.clone_from(project);
            }
        }
        missing.check("Incomplete options for snapshot restore")?;
        Ok(options)
    }
}

/// Restores the backup.
pub(super) async fn run(
    ctx: &Ctx,
    store: &Arc<dyn ObjectStore>,
    layout: &Layout,
    (id, info): (BackupId, BackupInfo),
    request: &RestoreRequest,
) -> Result<(), OpError> {
    let general = |text: String| OpError::new(OpErrorKind::General, text);
    if !request.tablespaces.is_empty() {
        return Err(general(format!(
            "backup {id} is a snapshot backup therefore tablespace relocation rules cannot be used"
        )));
    }
    if request.existing != Existing::Refused {
        return Err(general(format!(
            "backup {id} is a snapshot backup: --resume and --delta are for archives"
        )));
    }
    let literal = info.snapshots_info.as_ref();
    let record = literal.map(Record::parse).transpose();
    let record = record.map_err(|error| failed(&error))?;
    let record = record.ok_or_else(|| general(format!("backup {id} has no snapshots")))?;
    let place = &request.recovery_place;
    let options = place.complete(&record.place)?;
    let work = async {
        let provider = place.clouds.open(record.place.cloud(), &options);
        let provider = provider.map_err(|error| failed(&error))?;
        let instance = place.instance.as_deref().unwrap_or_default();
        let disks = provider.disks(instance, None).await;
        let disks = disks.map_err(|error| failed(&error))?;
        let pairs = pairs(instance, record.snapshots, &disks)?;
        let label = label(store, layout, &id, &info).await?;
        let (target, durability) = (request.target.clone(), request.durability);
        let identifier = info.systemid.clone();
        let ended = tokio::task::spawn_blocking(move || {
            check_mounts(&pairs)?;
            check_target(&target, identifier.as_deref())?;
            write_label(&target, &label, durability).map_err(|error| {
                let text = format!("could not write {}/{LABEL}: {error}", target.display());
                OpError::new(OpErrorKind::General, text)
            })
        });
        ended
            .await
            .map_err(|_| general("the worker ended early".to_owned()))?
    };
    tokio::select! {
        biased;
        () = ctx.cancel.cancelled() => Err(interrupted()),
        done = work => done,
    }
}

/// The disk that was made of each snapshot.
fn pairs(
    instance: &str,
    snapshots: Vec<RecordedSnapshot>,
    disks: &[Disk],
) -> Result<Vec<(RecordedSnapshot, Disk)>, OpError> {
    let general = |text: String| OpError::new(OpErrorKind::General, text);
    let mut pairs = Vec::with_capacity(snapshots.len());
    let mut absent = Vec::new();
    for snapshot in snapshots {
        let Some(named) = snapshot.id.as_deref().or(snapshot.name.as_deref()) else {
            return Err(general(
                "the record of the backup names no snapshot".to_owned(),
            ));
        };
        let mut made_of_it = disks
            .iter()
            .filter(|disk| disk.origin.as_deref() == Some(named));
        let found = (made_of_it.next(), made_of_it.next());
        match found {
            (Some(disk), None) => pairs.push((snapshot, disk.clone())),
            (Some(one), Some(other)) => {
                return Err(general(format!(
                    "disks {} and {} of instance {instance} were both made of snapshot {named}: \
                     detach the one that is not to be used",
                    one.name, other.name
                )));
            }
            (None, _) => absent.push(named.to_owned()),
        }
    }
    if absent.is_empty() {
        return Ok(pairs);
    }
    let list = absent.join(", ");
    Err(general(format!(
        "The following snapshots are not attached to recovery instance {instance}: {list}"
    ))
    .with_hint("make a disk of each, attach it to the instance and mount it as it was"))
}

/// Each disk has to be mounted where and as it was.
fn check_mounts(pairs: &[(RecordedSnapshot, Disk)]) -> Result<(), OpError> {
    let general = |text: String| OpError::new(OpErrorKind::General, text);
    let mounts = Mounts::read();
    let mounts =
        mounts.map_err(|error| general(format!("could not read /proc/self/mountinfo: {error}")))?;
    let mut wrong = Vec::new();
    for (snapshot, disk) in pairs {
        let named = snapshot.shown();
        match mounts.of_disk(&disk.device) {
            Err(why) => wrong.push(format!("disk {} of snapshot {named}: {why}", disk.name)),
            Ok(mount) => {
                let point = mount.point.display().to_string();
                let is = [Some(&point), Some(&mount.options)];
                let was = [&snapshot.mount.point, &snapshot.mount.options];
                for (what, (is, was)) in ["point", "options"].iter().zip(is.iter().zip(was)) {
                    if let (Some(is), Some(was)) = (is, was)
                        && *is != was
                    {
                        wrong.push(format!(
                            "disk {} of snapshot {named} has the mount {what} {is}, and it was {was}",
                            disk.name
                        ));
                    }
                }
            }
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    let text = format!("Error checking mount points: {}", wrong.join("; "));
    Err(general(text).with_hint("mount each disk as it was when the backup was taken"))
}

/// A label in another directory than the cluster's would be missed where it belongs.
fn check_target(target: &Path, identifier: Option<&str>) -> Result<(), OpError> {
    let general = |text: String| OpError::new(OpErrorKind::General, text);
    let shown = target.display();
    if !target.is_dir() {
        return Err(general(format!(
            "Recovery directory '{shown}' does not exist"
        )));
    }
    let hint = "name the data directory on the recovered disks";
    let control = pgdata::read_control(&target.join("global/pg_control"));
    let control = control.map_err(|error| {
        let text = format!(
            "{shown} is not the data directory of the backup: {}",
            chain(&error)
        );
        general(text).with_hint(hint)
    })?;
    let found = control.control.system_identifier.to_string();
    if identifier.is_some_and(|wanted| wanted != found) {
        let text =
            format!("{shown} is the data directory of another cluster (system identifier {found})");
        return Err(general(text).with_hint(hint));
    }
    Ok(())
}

/// The label: an object of its own, and in the record.
async fn label(
    store: &Arc<dyn ObjectStore>,
    layout: &Layout,
    id: &BackupId,
    info: &BackupInfo,
) -> Result<Vec<u8>, OpError> {
    let key = layout.backup_label(id);
    let recorded = info.backup_label.as_ref();
    match get_all(store.as_ref(), &key, MAX_LABEL).await {
        Ok((_, label)) if recorded.is_none_or(|recorded| recorded.as_bytes() == label) => {
            Ok(label.to_vec())
        }
        Ok(_) => {
            let text =
                format!("backup {id} is damaged: `{key}` is not the label that its record has");
            Err(OpError::new(OpErrorKind::General, text).with_hint("restore another backup"))
        }
        Err(error) if error.kind == StoreErrorKind::NotFound && recorded.is_some() => {
            tracing::warn!("`{key}` is missing: the label in the record of the backup is used");
            Ok(recorded
                .map(|label| label.clone().into_bytes())
                .unwrap_or_default())
        }
        Err(error) => Err(OpError::of_store(&error)),
    }
}

/// Writes the label beside its place and puts it there when it is whole, as a file of
/// whoever owns the data directory.
fn write_label(target: &Path, label: &[u8], durability: Durability) -> io::Result<()> {
    let aside = target.join(".backup_label.barman-cloud");
    let owner = fs::metadata(target)?;
    match fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = || -> io::Result<()> {
        let mut options = File::options();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&aside)?;
        let own = file.metadata()?;
        if (own.uid(), own.gid()) != (owner.uid(), owner.gid()) {
            std::os::unix::fs::fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
        }
        file.write_all(label)?;
        if durability == Durability::Synced {
            file.sync_all()?;
        }
        fs::rename(&aside, target.join(LABEL))
    };
    if let Err(error) = written() {
        let _ = fs::remove_file(&aside);
        return Err(error);
    }
    if durability == Durability::Synced {
        File::open(target)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(id: &str) -> RecordedSnapshot {
        RecordedSnapshot {
            id: Some(id.into()),
            ..RecordedSnapshot::default()
        }
    }

    fn disk(name: &str, origin: Option<&str>) -> Disk {
        Disk {
            name: name.into(),
            origin: origin.map(str::to_owned),
            ..Disk::default()
        }
    }

    #[test]
    fn every_snapshot_needs_the_one_disk_that_was_made_of_it() {
        let disks = vec![
            disk("a", Some("s1")),
            disk("b", None),
            disk("c", Some("s10")),
        ];
        let found = pairs("i", vec![recorded("s10"), recorded("s1")], &disks).unwrap();
        let names: Vec<_> = found.iter().map(|(_, disk)| disk.name.as_str()).collect();
        assert_eq!(names, ["c", "a"]);
        let error = pairs("i", vec![recorded("s2"), recorded("s1")], &disks).unwrap_err();
        assert!(error.message.ends_with("instance i: s2"), "{error}");
        let twice = [disks, vec![disk("d", Some("s1"))]].concat();
        let error = pairs("i", vec![recorded("s1")], &twice).unwrap_err();
        assert!(error.message.contains("disks a and d"), "{error}");
        let nameless = RecordedSnapshot::default();
        assert!(pairs("i", vec![nameless], &[disk("b", None)]).is_err());
    }

    #[test]
    fn the_label_replaces_an_older_one_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(LABEL), "old and longer").unwrap();
        fs::write(folder.path().join(".backup_label.barman-cloud"), "killed").unwrap();
        write_label(folder.path(), b"new", Durability::Synced).unwrap();
        let names: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, [LABEL]);
        assert_eq!(fs::read(folder.path().join(LABEL)).unwrap(), b"new");
    }

    #[test]
    fn a_directory_without_a_cluster_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = check_target(folder.path(), None).unwrap_err();
        assert!(
            error.message.contains("is not the data directory"),
            "{error}"
        );
        let error = check_target(&folder.path().join("no"), None).unwrap_err();
        assert!(error.message.ends_with("does not exist"), "{error}");
    }
}
