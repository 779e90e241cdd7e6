//! Unpacking, and the order that makes an interrupted restore harmless.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use futures_util::{StreamExt, stream};
use tokio_util::sync::CancellationToken;

use super::journal::{self, Done, Journal};
use super::pipeline::{Before, Held, Pipeline, Unpacked};
use super::plan::{Plan, examine, general, interrupted, not_usable};
use super::verify::Restored;
use super::{Existing, RestoreRequest, delta};
use crate::catalogue::info::Status;
use crate::catalogue::layout::{Archive, ArchiveBase};
use crate::ops::{Ctx, OpError, OpErrorKind};
use crate::pgdata::{
    CONTROL_NAME, Contents, ControlFile, Durability, LABEL_NAME, Target, display_name,
    open_targets, sync_all,
};
use crate::report::Phase;
use crate::store::ObjectStore;
use crate::transfer::Downloads;
use crate::units::pretty_size;
use crate::wal::Lsn;

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
    let fetched = AtomicU64::new(0);
    let done = std::mem::take(&mut begun.done);
    let begun = Arc::new(begun);
    let unpacked = archives(ctx, store, &plan, &request, &begun, done, &fetched).await;
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
    tell(fetched.load(Ordering::Relaxed), written);
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
    let targets = open_targets(&paths).map_err(not_usable)?;
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
            Contents::Kept => Some(journal::look(plan, source).ok_or_else(|| {
                let text = format!("{} was changed by somebody else", path.display());
                OpError::new(OpErrorKind::Failed, text)
            })?),
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

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, OpError> + Send + 'static,
) -> Result<T, OpError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| OpError::new(OpErrorKind::General, "the unpacking thread ended early"))?
}

/// Unpacks all archives, several side by side. Gives what is left of each, in their order.
async fn archives(
    ctx: &Ctx,
    store: &Arc<dyn ObjectStore>,
    plan: &Arc<Plan>,
    request: &RestoreRequest,
    begun: &Arc<Begun>,
    mut done: Done,
    fetched: &AtomicU64,
) -> Result<Vec<Unpacked>, OpError> {
    // An archive that cannot be unpacked stops the others.
    let stop = ctx.cancel.child_token();
    let _stop = stop.clone().drop_guard();
    let jobs = request.jobs.get();
    let known: HashSet<u32> = done.iter().map(|(number, _)| *number).collect();
    let all = plan.archives(&begun.targets).zip(0_u32..);
    let all: Vec<_> = all.filter(|(_, number)| !known.contains(number)).collect();
    if !known.is_empty() {
        tracing::info!("{} archives are restored already", known.len());
    }
    let lanes = Lanes {
        downloads: Downloads::new(Arc::clone(store), jobs, Arc::clone(&ctx.reporter)),
        ctx,
        plan,
        begun,
        stop: &stop,
        left: AtomicUsize::new(all.len()),
        fetched,
        durability: request.durability,
    };
    let mut running = stream::iter(all)
        .map(|((source, archive, target), number)| lanes.one(source.base, archive, target, number))
        .buffer_unordered(usize::try_from(jobs).unwrap_or(usize::MAX));
    let mut failure = None;
    // To the end: no thread may still be writing when this returns.
    while let Some(result) = running.next().await {
        match result {
            Ok(unpacked) => done.push(unpacked),
            Err(error) => {
                stop.cancel();
                failure.get_or_insert(error);
            }
        }
    }
    if let Some(error) = failure {
        return Err(error);
    }
    done.sort_unstable_by_key(|(number, _)| *number);
    Ok(done.into_iter().map(|(_, unpacked)| unpacked).collect())
}

/// What the archives that are unpacked side by side share.
struct Lanes<'a> {
    downloads: Downloads,
    ctx: &'a Ctx,
    plan: &'a Arc<Plan>,
    begun: &'a Arc<Begun>,
    stop: &'a CancellationToken,
    durability: Durability,
    /// Archives that are not unpacked.
    left: AtomicUsize,
    /// Bytes of archives that were read to their end, or to where they failed.
    fetched: &'a AtomicU64,
}

impl Lanes<'_> {
    async fn one(
        &self,
        base: ArchiveBase,
        archive: &Archive,
        target: &Arc<Target>,
        number: u32,
    ) -> Result<(u32, Unpacked), OpError> {
        if self.stop.is_cancelled() {
            return Err(interrupted());
        }
        tracing::info!("Restoring '{}'", archive.key);
        let name = archive.key.base_name();
        self.ctx.reporter.archive_begun(name);
        // A token of its own: an archive that cannot be unpacked stops its download.
        let cancel = self.stop.child_token();
        let _cancel = cancel.clone().drop_guard();
        let opened = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Err(interrupted()),
            opened = self.downloads.open(&archive.key, archive.size, &cancel) => opened,
        };
        let (_, reader, failure) = opened.map_err(|error| OpError::of_store(&error))?;
        let taken = reader.taken();
        let pipeline = Pipeline {
            key: archive.key.to_string(),
            suffix: archive.suffix.clone(),
            base,
            number,
            target: Arc::clone(target),
            durability: self.durability,
            cancel: self.stop.clone(),
            reporter: Arc::clone(&self.ctx.reporter),
        };
        let unpacked = blocking(move || pipeline.run(reader, &failure)).await;
        self.fetched
            .fetch_add(taken.load(Ordering::Relaxed), Ordering::Relaxed);
        let unpacked = unpacked?;
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
        self.ctx.reporter.archive_done(name);
        Ok((number, unpacked))
    }
}

/// The members that are written last, and whether the backup's own manifest stands
/// before the label. Later archives win.
fn held_back(unpacked: Vec<Unpacked>) -> (Held, bool) {
    let mut held = Held::new();
    let (mut own_manifest, mut last) = (false, None);
    for archive in unpacked {
        held.extend(archive.held);
        if let Some(before) = archive.before_label {
            let before = match before {
                Before::Nothing => last,
                before => Some(before),
            };
            own_manifest = before == Some(Before::Manifest);
        }
        last = archive.last.or(last);
    }
    (held, own_manifest)
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
    if let Some((_, bytes)) = label.as_ref().filter(|_| complete) {
        check_label(plan, bytes)?;
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

/// The label tells where recovery begins: it must be this backup's, or the archive
/// that it came from is another one's.
fn check_label(plan: &Plan, bytes: &[u8]) -> Result<(), OpError> {
    let Some(recorded) = plan.info.begin_xlog.as_deref() else {
        return Ok(());
    };
    let text = String::from_utf8_lossy(bytes);
    let start = text
        .lines()
        .find_map(|line| line.strip_prefix("START WAL LOCATION: "))
        .and_then(|rest| rest.split(' ').next());
    let why = match start {
        Some(start) if same_position(start, recorded) => return Ok(()),
        Some(start) => format!(
            "its `backup_label` says that it begins at {}, where its backup.info says {}",
            start.escape_debug(),
            recorded.escape_debug()
        ),
        None => "its `backup_label` does not say where it begins".to_owned(),
    };
    Err(plan.damaged(&why))
}

/// Versions of PostgreSQL differ in how many zeroes they write.
fn same_position(one: &str, other: &str) -> bool {
    let lsn = |text: &str| text.parse::<Lsn>().ok();
    one == other || lsn(one).is_some_and(|at| lsn(other) == Some(at))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_manifest_is_the_one_just_before_the_label() {
        use Before::{Manifest, Nothing, Other};
        let archive = |before_label, last| Unpacked {
            held: Held::new(),
            before_label,
            last,
        };
        let tablespace = || archive(None, None);
        for (archives, expected) in [
            (vec![archive(Some(Manifest), Some(Other))], true),
            (vec![archive(Some(Other), Some(Manifest))], false),
            (vec![archive(Some(Nothing), Some(Other))], false),
            // The manifest was the last of the archive before.
            (
                vec![
                    archive(None, Some(Manifest)),
                    archive(Some(Nothing), Some(Other)),
                    tablespace(),
                ],
                true,
            ),
            (
                vec![
                    archive(None, Some(Manifest)),
                    archive(None, Some(Other)),
                    archive(Some(Nothing), Some(Other)),
                ],
                false,
            ),
            // Of two labels the later one counts.
            (
                vec![
                    archive(Some(Manifest), Some(Other)),
                    archive(Some(Other), Some(Other)),
                ],
                false,
            ),
        ] {
            assert_eq!(held_back(archives).1, expected);
        }
    }

    #[test]
    fn a_position_is_the_same_however_many_zeroes_it_has() {
        assert!(same_position("0/4000028", "0/04000028"));
        assert!(same_position("odd", "odd"));
        for other in ["0/4000029", "4/4000028", "", "odd"] {
            assert!(!same_position("0/4000028", other), "{other}");
        }
    }
}
