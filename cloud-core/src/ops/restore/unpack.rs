//! Unpacking, and the order that makes an interrupted restore harmless.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::journal::{self, Done, Journal};
use super::plan::{Plan, examine, general, interrupted, not_usable};
use super::verify::Restored;
use super::{Existing, RestoreRequest, delta};
use crate::catalogue::info::Status;
use crate::catalogue::layout::{Archive, ArchiveBase};
use crate::key::Key;
use crate::ops::reading::{
    Lanes, Passage, Trouble, Unpacked, blocking, held_back, label_flaw, not_begun, side_by_side,
};
use crate::ops::{Ctx, OpError, OpErrorKind, chain, hints};
use crate::pgdata::{
    CONTROL_NAME, Contents, ControlFile, Durability, LABEL_NAME, RestoreError, Target, Unpacker,
    display_name, open_targets, sync_all,
};
use crate::report::Phase;
use crate::store::ObjectStore;
use crate::units::pretty_size;

/// Unpacks everything and makes it durable.
pub(super) async fn all(
    ctx: &Ctx,
    store: &Arc<dyn ObjectStore>,
    plan: Plan,
    request: &RestoreRequest,
) -> Result<(), OpError> {
    let (plan, request) = (Arc::new(plan), Arc::new(request.clone()));
    let begun = {
        let (plan, request) = (Arc::clone(&plan), Arc::clone(&request));
        blocking(move || begin(&plan, &request)).await?
    };
    let Some(mut begun) = begun else {
        return Ok(());
    };
    let mut fetched = 0;
    let done = std::mem::take(&mut begun.done);
    let begun = Arc::new(begun);
    let unpacked = archives(ctx, store, &plan, &request, &begun, done, &mut fetched).await;
    let result = match unpacked {
        Ok(_) if ctx.cancel.is_cancelled() => Err(interrupted()),
        Ok(unpacked) => {
            ctx.reporter.phase(Phase::Finishing);
            let begun = Arc::clone(&begun);
            blocking(move || finish(&plan, &begun, unpacked, request.durability)).await
        }
        Err(error) => Err(error),
    };
    let written = begun.targets.iter().map(|target| target.written()).sum();
    tell(fetched, written);
    result
}

/// Targets that are locked, and what is to be done at the end.
struct Begun {
    targets: Vec<Arc<Target>>,
    /// Unless the restore goes over a data directory.
    journal: Option<Journal>,
    /// What an earlier run had unpacked.
    done: Done,
}

/// Locks the targets and looks at them once more. `None` if an earlier run had come to its end.
fn begin(plan: &Plan, request: &RestoreRequest) -> Result<Option<Begun>, OpError> {
    let paths = plan.sources.iter().zip(examine(plan, request)?);
    let paths: Vec<_> = paths
        .map(|(source, (contents, _))| (source.target.clone(), contents))
        .collect();
    let targets = open_targets(&paths).map_err(|error| not_usable(error, request.existing))?;
    let targets: Vec<Arc<Target>> = targets.into_iter().map(Arc::new).collect();
    if request.existing == Existing::Delta {
        delta::check(plan, request)?;
        delta::begin(plan, &targets)?;
        let (journal, done) = (None, Done::new());
        return Ok(Some(Begun {
            targets,
            journal,
            done,
        }));
    }
    let mut headers = Vec::with_capacity(paths.len());
    for (source, (path, contents)) in plan.sources.iter().zip(&paths) {
        let header = match contents {
            Contents::Nothing => None,
            Contents::Resumed | Contents::Over => {
                Some(journal::look(plan, source).ok_or_else(|| {
                    let text = format!("{} was changed by somebody else", path.display());
                    OpError::new(OpErrorKind::Failed, text)
                })?)
            }
        };
        headers.push(header);
    }
    // It is written last of all, so everything else is there; a server may have changed it since.
    if headers.first().is_some_and(Option::is_some)
        && request.target.join("global/pg_control").exists()
    {
        tracing::info!("the restore that was interrupted had come to its end");
        journal::remove(&targets)?;
        return Ok(None);
    }
    let (journal, done) = Journal::begin(plan, &targets, &headers, request.durability)?;
    Ok(Some(Begun {
        targets,
        journal: Some(journal),
        done,
    }))
}

/// What went over the line and to the disk.
fn tell(fetched: u64, written: u64) {
    tracing::info!(
        "{fetched} bytes were fetched ({}) and {written} bytes written ({})",
        pretty_size(fetched),
        pretty_size(written)
    );
}

/// Unpacks all archives, several side by side. Gives what is left of each, in their order.
async fn archives(
    ctx: &Ctx,
    store: &Arc<dyn ObjectStore>,
    plan: &Arc<Plan>,
    request: &RestoreRequest,
    begun: &Arc<Begun>,
    mut done: Done,
    fetched: &mut u64,
) -> Result<Vec<Unpacked>, OpError> {
    // An archive that cannot be unpacked stops the others.
    let stop = ctx.cancel.child_token();
    let _stop = stop.clone().drop_guard();
    let known: HashSet<u32> = done.iter().map(|(number, _)| *number).collect();
    let all = plan.archives(&begun.targets).zip(0_u32..);
    let all: Vec<_> = all.filter(|(_, number)| !known.contains(number)).collect();
    if !known.is_empty() {
        tracing::info!("{} archives are restored already", known.len());
    }
    let unpacking = Unpacking {
        lanes: Lanes::new(ctx, store, request.jobs, all.len(), &stop),
        ctx,
        plan,
        begun,
        left: AtomicUsize::new(all.len()),
        durability: request.durability,
        existing: request.existing,
    };
    let works = all.into_iter().map(|((source, archive, target), number)| {
        unpacking.one(source.base, archive, target, number)
    });
    let result = side_by_side(request.jobs, &stop, works).await;
    *fetched = unpacking.lanes.fetched();
    done.extend(result?);
    done.sort_unstable_by_key(|(number, _)| *number);
    Ok(done.into_iter().map(|(_, unpacked)| unpacked).collect())
}

/// What the archives that are unpacked side by side share.
struct Unpacking<'a> {
    lanes: Lanes,
    ctx: &'a Ctx,
    plan: &'a Arc<Plan>,
    begun: &'a Arc<Begun>,
    durability: Durability,
    existing: Existing,
    /// Archives that are not unpacked.
    left: AtomicUsize,
}

impl Unpacking<'_> {
    async fn one(
        &self,
        base: ArchiveBase,
        archive: &Archive,
        target: &Arc<Target>,
        number: u32,
    ) -> Result<(u32, Unpacked), OpError> {
        tracing::info!("Restoring '{}'", archive.key);
        let durability = self.durability;
        let work = {
            let target = Arc::clone(target);
            move |passage: Passage| {
                let mut unpacker = Unpacker::new(&target, number, durability);
                passage.run(|member, content| unpacker.unpack(member, content))
            }
        };
        let unpacked = self.lanes.read(base, archive, work).await;
        let unpacked = unpacked.map_err(|trouble| explain(&archive.key, trouble, self.existing))?;
        // Everything is synced behind the last one.
        let is_last = self.left.fetch_sub(1, Ordering::Relaxed) == 1;
        let unpacked = if is_last || self.begun.journal.is_none() {
            unpacked
        } else {
            let (plan, begun) = (Arc::clone(self.plan), Arc::clone(self.begun));
            let (archive, target) = (archive.clone(), Arc::clone(target));
            blocking(move || {
                if let Some(journal) = &begun.journal {
                    journal.note(&plan, &archive, number, &target, &unpacked)?;
                }
                Ok(unpacked)
            })
            .await?
        };
        self.ctx.reporter.archive_done(archive.key.base_name());
        Ok((number, unpacked))
    }
}

/// Why an archive was not unpacked.
fn explain(key: &Key, trouble: Trouble<RestoreError>, existing: Existing) -> OpError {
    let text = match trouble {
        Trouble::Stopped => return interrupted(),
        Trouble::Store(error) => return OpError::of_store(&error),
        Trouble::Archive(error) => format!("archive `{key}` cannot be read: {error}"),
        Trouble::Local(error) => return not_begun(key, &error),
        Trouble::Taker(error) => {
            let text = format!("archive `{key}` cannot be restored: {}", chain(&error));
            let hint = hints::of_disk(&error, existing != Existing::Delta);
            return OpError::new(OpErrorKind::General, text).with_hint_if(hint);
        }
    };
    OpError::new(OpErrorKind::General, text)
}

/// The links from PGDATA to the tablespaces.
pub(super) fn link_tablespaces(plan: &Plan, targets: &[Arc<Target>]) -> Result<(), OpError> {
    let Some((pgdata, tablespaces)) = targets.split_first() else {
        return Ok(());
    };
    for (source, target) in plan.sources[1..].iter().zip(tablespaces) {
        if let ArchiveBase::Tablespace(oid) = source.base {
            pgdata
                .link_tablespace(oid, target.path())
                .map_err(|error| general(&error))?;
        }
    }
    Ok(())
}

/// The comparison with the manifest; links, directories, everything to disk; then
/// the label; then `pg_control` (upholds R1).
fn finish(
    plan: &Plan,
    begun: &Begun,
    unpacked: Vec<Unpacked>,
    durability: Durability,
) -> Result<(), OpError> {
    let targets = &begun.targets[..];
    let pgdata = targets.first().ok_or_else(interrupted)?;
    let (mut held, own_manifest) = held_back(unpacked);
    let complete = plan.info.status == Status::Done;
    let mut take = |name: &[u8]| match held.remove(name) {
        None if complete => Err(OpError::new(
            OpErrorKind::General,
            format!(
                "backup {} is damaged: none of its archives has `{}`, so at least its last one is \
                 missing",
                plan.id,
                display_name(name)
            ),
        )),
        found => Ok(found),
    };
    let (label, control) = (take(LABEL_NAME)?, take(CONTROL_NAME)?);
    if let Some((_, bytes)) = &control {
        check_control(plan, bytes)?;
    }
    let flaw = label.as_ref().filter(|_| complete);
    if let Some(why) = flaw.and_then(|(_, bytes)| label_flaw(&plan.info, bytes)) {
        return Err(plan.damaged(&why));
    }
    // Directories that no archive has a member of belong nevertheless.
    link_tablespaces(plan, targets)?;
    let wal = if plan.info.version.is_some_and(|version| version < 100_000) {
        "pg_xlog"
    } else {
        "pg_wal"
    };
    pgdata
        .ensure_directory(wal)
        .map_err(|error| general(&error))?;
    if begun.journal.is_none() {
        delta::clean(plan, targets)?;
    }
    if complete {
        let held = label.iter().map(|(_, bytes)| (LABEL_NAME, &bytes[..]));
        let held = held.chain(control.iter().map(|(_, bytes)| (CONTROL_NAME, &bytes[..])));
        let restored = Restored {
            plan,
            targets,
            held: held.collect(),
        };
        restored.verify(own_manifest).inspect_err(|_| {
            if let Some(journal) = &begun.journal {
                journal.forget(plan);
            }
        })?;
    }
    for target in targets {
        target.finish().map_err(|error| general(&error))?;
    }
    if durability == Durability::Synced {
        let all: Vec<&Target> = targets.iter().map(Arc::as_ref).collect();
        sync_all(&all).map_err(|error| general(&error))?;
    }
    for (member, bytes) in label.iter().chain(&control) {
        pgdata
            .write_held(member, bytes, durability)
            .map_err(|error| general(&error))?;
    }
    match &begun.journal {
        Some(journal) => journal.end()?,
        None => delta::end(targets)?,
    }
    warn_of_configuration(plan);
    Ok(())
}

/// The control file decides where recovery begins: it must be of this cluster.
fn check_control(plan: &Plan, bytes: &[u8]) -> Result<(), OpError> {
    let identifier = match ControlFile::parse(bytes) {
        Ok(control) => control.system_identifier.to_string(),
        Err(error) => {
            // The server says the same when it is started, and everything else
            // may still be wanted.
            tracing::warn!(
                "the `global/pg_control` of backup {} is not usable, and PostgreSQL will not start \
                 with it: {error}",
                plan.id
            );
            return Ok(());
        }
    };
    match &plan.info.systemid {
        Some(recorded) if *recorded != identifier => {
            let why = format!(
                "its `global/pg_control` is of the cluster {identifier} and not of {recorded}"
            );
            Err(plan.damaged(&why))
        }
        _ => Ok(()),
    }
}

/// Configuration files that lay elsewhere come back at the top of PGDATA, and
/// `postgresql.conf` still names the old places.
fn warn_of_configuration(plan: &Plan) {
    let info = &plan.info;
    let Some(pgdata) = info.pgdata.as_deref() else {
        return;
    };
    for file in [&info.config_file, &info.hba_file, &info.ident_file]
        .into_iter()
        .flatten()
    {
        if !std::path::Path::new(file).starts_with(pgdata) {
            tracing::info!(
                "the configuration file {file} was restored to the top of the data directory: the \
                 server looks for it where it was"
            );
        }
    }
}
