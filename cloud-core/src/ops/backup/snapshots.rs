//! A base backup that consists of snapshots of disks.
//!
//! In the order of the other one: look at everything that can be wrong, start backup mode,
//! announce the backup with the names that its snapshots will have, make them side by side,
//! stop, store the label, lock, and only then write the record as DONE (B1). What the
//! record says of snapshots is at every moment at least what there may be of them
//! (upholds S1).

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::outcome::{Failure, Record};
use super::{BackupRequest, Destination, Stopping, preflight, start, stats, tablespaces};
use crate::mounts::{Mount, Mounts};
use crate::ops::snapshots::{Missing, failed};
use crate::ops::{Ctx, OpError, OpErrorKind, chain};
use crate::pg::{ServerFacts, Session};
use crate::report::{Phase, Work};
use crate::snapshot::{Cloud, Clouds, Disk, Making, RecordedMount, SnapshotOptions};
use crate::store::PutOptions;

/// How long the snapshots of a failed backup may take to be deleted; less after a signal
/// (docs/decisions.md 11).
const UNDO: Duration = Duration::from_mins(1);
const UNDO_AFTER_SIGNAL: Duration = Duration::from_secs(5);

/// Which disks a backup is made of.
#[derive(Debug, Clone)]
pub struct SnapshotRequest {
    /// Opens the cloud.
    pub clouds: Clouds,
    /// The cloud.
    pub cloud: Cloud,
    /// The instance that has the disks.
    pub instance: Option<String>,
    /// The disks.
    pub disks: Vec<String>,
    /// What else the command line says.
    pub options: SnapshotOptions,
}

impl SnapshotRequest {
    /// What the cloud needs and nobody said.
    fn missing(&self) -> Result<(), OpError> {
        let options = &self.options;
        let place = match self.cloud {
            Cloud::Gcp => Some(("gcp-project", &options.gcp_project, "google-cloud-storage")),
            Cloud::Azure => Some((
                "azure-subscription-id",
                &options.azure_subscription,
                "azure-blob-storage",
            )),
            Cloud::Aws => None,
        };
        if let Some((option, None, provider)) = place {
            let text = format!(
                "--{option} option must be set for snapshot backups when cloud provider is \
                 {provider}"
            );
            return Err(OpError::new(OpErrorKind::General, text));
        }
        let mut missing = Missing::new();
        missing.unless("snapshot_disks", !self.disks.is_empty());
        missing.unless("snapshot_instance", self.instance.is_some());
        match self.cloud {
            Cloud::Aws => {}
            Cloud::Azure => {
                missing.unless(
                    "azure_resource_group",
                    options.azure_resource_group.is_some(),
                );
            }
            Cloud::Gcp => missing.unless("gcp_zone", options.gcp_zone.is_some()),
        }
        missing.check("Incomplete options for snapshot backup")
    }
}

/// Takes the backup.
pub(super) async fn run(
    ctx: &Ctx,
    to: &Destination,
    session: Session,
    request: &BackupRequest,
    wanted: &SnapshotRequest,
) -> Result<(), OpError> {
    wanted.missing()?;
    let provider = wanted.clouds.open(wanted.cloud, &wanted.options);
    let provider = provider.map_err(|error| failed(&error))?;
    let instance = wanted.instance.as_deref().unwrap_or_default();
    let names = distinct(&wanted.disks);
    let disks = tokio::select! {
        biased;
        () = ctx.cancel.cancelled() => return Err(preflight::interrupted()),
        disks = provider.disks(instance, Some(&names)) => disks.map_err(|error| failed(&error))?,
    };
    let absent = names
        .iter()
        .filter(|name| disks.iter().all(|disk| disk.name != **name));
    let absent: Vec<&str> = absent.map(String::as_str).collect();
    if !absent.is_empty() {
        let list = absent.join(", ");
        let text = format!("Cannot find disks attached to compute instance {instance}: {list}");
        return Err(OpError::new(OpErrorKind::General, text));
    }
    let facts = preflight::facts(ctx, &session).await?;
    let disks = mounted(instance, disks, &facts).await?;
    let id = preflight::free_id(ctx, to.store.as_ref(), &to.layout).await?;

    let mut making = Making::new(provider, disks, id.as_str());
    let mut record = Record::new(&to.records, &to.layout, &id, request, &facts);
    record.snapshots(&request.archives.server, making.record().to_literal());
    tracing::info!("Starting backup '{id}'");
    ctx.reporter.begin(Work::Backup, None);
    let stopping = Stopping {
        ctx,
        request,
        id: &id,
    };
    let result = take(&stopping, to, &session, &facts, &mut making, &mut record).await;
    ctx.reporter.end();
    drop(session);
    let Err(failure) = result else {
        return Ok(());
    };
    // Once it was tried to write DONE, that may be read one day: what it names must be there.
    if !record.may_be_done() {
        let limit = if ctx.cancel.is_cancelled() {
            UNDO_AFTER_SIGNAL
        } else {
            UNDO
        };
        let left = making.undo(limit).await;
        record.left(left.map(|left| left.to_literal()));
    }
    Err(record.failed(failure).await)
}

async fn take(
    stopping: &Stopping<'_>,
    to: &Destination,
    session: &Session,
    facts: &ServerFacts,
    making: &mut Making,
    record: &mut Record<'_>,
) -> Result<(), Failure> {
    let Stopping { ctx, request, id } = stopping;
    let began = Instant::now();
    let label = format!("Barman backup {} {id}", request.archives.server);
    let started = start(ctx, session, &label, request.immediate_checkpoint).await?;
    // Replay begins here, and does not make again what came into being before.
    if tablespaces(ctx, session, facts).await? != facts.tablespaces {
        return Err(Failure::text(
            "tablespaces came or went while the server waited for its checkpoint: run the same \
             command again",
        ));
    }
    record.started(&started).await?;
    ctx.reporter.phase(Phase::Copying);
    let copying = async {
        making.begin().await?;
        record.snapshots(&request.archives.server, making.record().to_literal());
        record.again().await?;
        making.wait().await?;
        Ok::<_, Failure>(())
    };
    tokio::select! {
        biased;
        () = ctx.cancel.cancelled() => return Err(Failure::Interrupted),
        lost = session.keep_alive(request.keepalive_interval) => {
            return Err(Failure::Postgres(lost));
        }
        copied = copying => copied?,
    }
    let copied = began.elapsed();
    let stop = stopping.stop(session, &ctx.cancel).await;
    let stop = stop.map_err(|failure| failure.unwrap_or(Failure::Interrupted))?;
    let key = to.layout.backup_label(id);
    let options: PutOptions = request.archives.put_options();
    let label = Bytes::from(stop.label_file.clone().into_bytes());
    let ending = async {
        let stored = to.store.put(&key, label.into(), &options).await;
        stored.map_err(|error| Failure::text(chain(&error)))?;
        Ok::<_, Failure>(making.lock().await?)
    };
    tokio::select! {
        biased;
        () = ctx.cancel.cancelled() => return Err(Failure::Interrupted),
        ended = ending => ended?,
    }
    record.snapshots(&request.archives.server, making.record().to_literal());
    record
        .done(&stop, stats::snapshot_stats(copied), began)
        .await
}

/// The names without those that were given twice.
fn distinct(names: &[String]) -> Vec<String> {
    let mut distinct: Vec<String> = Vec::with_capacity(names.len());
    for name in names {
        if !distinct.contains(name) {
            distinct.push(name.clone());
        }
    }
    distinct
}

/// Finds where the disks are mounted on this machine, and that the server's files are on
/// them.
async fn mounted(
    instance: &str,
    disks: Vec<Disk>,
    facts: &ServerFacts,
) -> Result<Vec<(Disk, RecordedMount)>, OpError> {
    let path = |text: &Option<String>| text.as_ref().map(PathBuf::from);
    let locations = facts.tablespaces.iter().map(|found| &found.location);
    let locations = locations
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    let configuration = [&facts.config_file, &facts.hba_file, &facts.ident_file];
    let files = Files {
        pgdata: path(&facts.data_directory),
        tablespaces: locations.collect(),
        configuration: configuration.into_iter().filter_map(path).collect(),
        own: preflight::Own::of(facts),
    };
    if let Some(pgdata) = &files.pgdata {
        preflight::warn(facts, pgdata);
    }
    let instance = instance.to_owned();
    // A file system that is gone may keep who looks at it waiting.
    let looked = tokio::task::spawn_blocking(move || look(&instance, disks, &files));
    looked
        .await
        .map_err(|_| general("the worker ended early"))?
}

/// What a server has on disks.
struct Files {
    pgdata: Option<PathBuf>,
    tablespaces: Vec<PathBuf>,
    configuration: Vec<PathBuf>,
    own: preflight::Own,
}

fn look(
    instance: &str,
    disks: Vec<Disk>,
    files: &Files,
) -> Result<Vec<(Disk, RecordedMount)>, OpError> {
    let mounts = Mounts::read();
    let mounts =
        mounts.map_err(|error| general(format!("could not read /proc/self/mountinfo: {error}")))?;
    let mut found = Vec::with_capacity(disks.len());
    let mut taken = Vec::with_capacity(disks.len());
    let (mut absent, mut whys) = (Vec::new(), Vec::new());
    for disk in disks {
        match mounts.of_disk(&disk.device) {
            Ok(mount) => {
                taken.push(mount);
                let recorded = RecordedMount {
                    options: Some(mount.options.clone()),
                    point: Some(mount.point.display().to_string()),
                };
                found.push((disk, recorded));
            }
            Err(why) => {
                whys.push(format!("{}: {why}", disk.name));
                absent.push(disk.name);
            }
        }
    }
    if !absent.is_empty() {
        return Err(general(format!(
            "Cannot find disks mounted on instance {instance}: {} ({})",
            absent.join(", "),
            whys.join("; ")
        )));
    }
    files.check(&mounts, &taken)?;
    Ok(found)
}

impl Files {
    /// Whether all of them are on the file systems of which snapshots will be taken: refuses
    /// what could not be restored without them, and warns of the rest.
    fn check(&self, mounts: &Mounts, taken: &[&Mount]) -> Result<(), OpError> {
        let elsewhere = |path: &Path| {
            let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
            mounts.holding(&real).filter(|mount| !taken.contains(mount))
        };
        for path in self.pgdata.iter().chain(&self.tablespaces) {
            if let Some(mount) = elsewhere(path) {
                return Err(general(format!(
                    "{} is on the file system mounted at {}, which is on no disk of this backup",
                    path.display(),
                    mount.point.display()
                ))
                .with_hint("name every disk that has files of the server with --snapshot-disk"));
            }
        }
        let Some(pgdata) = &self.pgdata else {
            return Ok(());
        };
        // Who takes snapshots need not be able to read files.
        if File::open(pgdata.join("global/pg_control")).is_ok() {
            preflight::check_cluster(pgdata, &self.own).map_err(general)?;
        }
        let wal = pgdata.join("pg_wal");
        if elsewhere(&wal).is_some() {
            tracing::warn!(
                "{} is on no disk of this backup: after a restore there must be a directory for \
                 it, and all WAL comes from the archive",
                wal.display()
            );
        }
        for file in &self.configuration {
            if elsewhere(file).is_some() {
                tracing::warn!("{} is on no disk of this backup", file.display());
            }
        }
        Ok(())
    }
}

fn general(text: impl Into<String>) -> OpError {
    OpError::new(OpErrorKind::General, text)
}
