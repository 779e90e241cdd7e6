//! Unpacking, and the order that makes an interrupted restore harmless.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::plan::{Plan, Source, interrupted, not_usable};
use super::verify::{Restored, Summed, Unpacked};
use crate::catalogue::info::Status;
use crate::catalogue::layout::{Archive, ArchiveBase};
use crate::codec;
use crate::manifest;
use crate::ops::{Ctx, OpError, OpErrorKind, chain};
use crate::pgdata::{
    CONTROL_NAME, ControlFile, LABEL_NAME, MANIFEST_NAME, RestoreError, Target, Unpacker,
    display_name, is_held_back, open_targets, plain_name, sync_all,
};
use crate::report::Reporter;
use crate::store::{ObjectStore, StoreError};
use crate::tar::{Member, MemberKind, TarError, TarReader};
use crate::transfer::{DownloadFailure, DownloadReader, open_download};
use crate::wal::Lsn;

/// Largest member that is kept in memory until the end, in bytes: `pg_control`
/// has 8 KiB, a label some hundred bytes.
const MAX_HELD: u64 = 1 << 20;

/// Members that are written last, by their name in PGDATA.
type Held = BTreeMap<Vec<u8>, (Member, Vec<u8>)>;

/// How far the restore is.
#[derive(Default)]
struct Progress {
    held: Held,
    unpacked: Unpacked,
    /// Whether the last member of PGDATA was a manifest.
    after_manifest: bool,
}

/// Unpacks everything and makes it durable.
pub(super) async fn all(
    ctx: &Ctx,
    store: &Arc<dyn ObjectStore>,
    plan: Plan,
) -> Result<(), OpError> {
    let paths: Vec<_> = plan
        .sources
        .iter()
        .map(|source| source.target.clone())
        .collect();
    let opened = blocking(move || open_targets(&paths).map_err(not_usable));
    let targets: Vec<Arc<Target>> = opened.await?.into_iter().map(Arc::new).collect();
    let mut progress = Progress::default();
    for (source, target) in plan.sources.iter().zip(&targets) {
        for archive in &source.archives {
            one(ctx, store, source, archive, target, &mut progress).await?;
        }
    }
    if ctx.cancel.is_cancelled() {
        return Err(interrupted());
    }
    blocking(move || finish(&plan, &targets, progress)).await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, OpError> + Send + 'static,
) -> Result<T, OpError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| OpError::new(OpErrorKind::General, "the unpacking thread ended early"))?
}

/// Unpacks one archive.
async fn one(
    ctx: &Ctx,
    store: &Arc<dyn ObjectStore>,
    source: &Source,
    archive: &Archive,
    target: &Arc<Target>,
    progress: &mut Progress,
) -> Result<(), OpError> {
    // A token of its own: an archive that cannot be unpacked stops its download.
    let cancel = ctx.cancel.child_token();
    let _stop = cancel.clone().drop_guard();
    tracing::info!("Restoring '{}'", archive.key);
    let opened = tokio::select! {
        biased;
        () = ctx.cancel.cancelled() => return Err(interrupted()),
        opened = open_download(store, &archive.key, &cancel, &ctx.reporter) => opened,
    };
    let (_, reader, failure) = opened.map_err(|error| OpError::of_store(&error))?;
    let work = Unpacking {
        key: archive.key.to_string(),
        suffix: archive.suffix.clone(),
        base: source.base,
        target: Arc::clone(target),
        cancel: ctx.cancel.clone(),
        reporter: Arc::clone(&ctx.reporter),
    };
    let taken = std::mem::take(progress);
    *progress = blocking(move || work.run(reader, &failure, taken)).await?;
    ctx.reporter.archive_done(archive.key.base_name());
    Ok(())
}

struct Unpacking {
    key: String,
    suffix: String,
    /// What the archive holds.
    base: ArchiveBase,
    target: Arc<Target>,
    cancel: CancellationToken,
    reporter: Arc<dyn Reporter>,
}

/// Why an archive could not be unpacked.
enum Trouble {
    Archive(TarError),
    Files(RestoreError),
}

impl Unpacking {
    fn run(
        &self,
        reader: DownloadReader,
        failure: &DownloadFailure,
        mut progress: Progress,
    ) -> Result<Progress, OpError> {
        match self.members(reader, &mut progress) {
            Ok(()) => Ok(progress),
            Err(_) if self.cancel.is_cancelled() => Err(interrupted()),
            Err(trouble) => Err(self.explain(trouble, failure.take())),
        }
    }

    fn members(&self, reader: DownloadReader, progress: &mut Progress) -> Result<(), Trouble> {
        let codec = codec::by_suffix(&self.suffix).unwrap_or(&codec::None);
        let plain = codec
            .decoder(Box::new(reader))
            .map_err(|error| Trouble::Archive(error.into()))?;
        let counted = Counted {
            inner: plain,
            cancel: &self.cancel,
            reporter: self.reporter.as_ref(),
        };
        let mut archive = TarReader::new(counted);
        let mut unpacker = Unpacker::new(&self.target);
        while let Some(member) = archive.next_member().map_err(Trouble::Archive)? {
            // Only members of PGDATA are held back.
            if self.base == ArchiveBase::Data && is_held_back(&member.name) {
                let name = plain_name(&member.name).map_err(Trouble::Files)?;
                let bytes = hold(&member, &mut archive).map_err(Trouble::Archive)?;
                if name == LABEL_NAME {
                    progress.unpacked.own_manifest = progress.after_manifest;
                }
                progress.after_manifest = false;
                progress.held.insert(name, (member, bytes));
            } else {
                // Later members win, and one that takes the name of a member
                // that is held back is of its kind anyhow.
                let mut content = Summed {
                    inner: &mut archive,
                    crc: 0,
                };
                unpacker
                    .unpack(&member, &mut content)
                    .map_err(Trouble::Files)?;
                let crc = content.crc;
                self.remember(&member, crc, progress)
                    .map_err(Trouble::Files)?;
            }
        }
        Ok(())
    }

    /// Remembers a member that was unpacked. The manifest does not list itself.
    fn remember(
        &self,
        member: &Member,
        crc: u32,
        progress: &mut Progress,
    ) -> Result<(), RestoreError> {
        let unpacked = &mut progress.unpacked;
        let tablespace = self.base.tablespace();
        let path = manifest::path(tablespace, &plain_name(&member.name)?);
        if self.base == ArchiveBase::Data {
            progress.after_manifest = path == MANIFEST_NAME;
        }
        match &member.kind {
            MemberKind::File { .. } if path == MANIFEST_NAME => {}
            MemberKind::File { size } => unpacked.file(&path, *size, crc),
            MemberKind::HardLink { target } => {
                let target = manifest::path(tablespace, &plain_name(target)?);
                unpacked.linked(&path, &target);
            }
            _ => unpacked.replaced(&path),
        }
        Ok(())
    }

    /// The store's own error where it has one: that the archive ends early is
    /// then only its echo.
    fn explain(&self, trouble: Trouble, store: Option<StoreError>) -> OpError {
        if let Some(error) = store {
            return OpError::of_store(&error);
        }
        let text = match trouble {
            Trouble::Archive(error) => format!("archive `{}` cannot be read: {error}", self.key),
            Trouble::Files(error @ RestoreError::Read { .. }) => {
                format!("archive `{}` cannot be read: {}", self.key, chain(&error))
            }
            Trouble::Files(error) => {
                format!(
                    "archive `{}` cannot be restored: {}",
                    self.key,
                    chain(&error)
                )
            }
        };
        OpError::new(OpErrorKind::General, text)
    }
}

/// Reads a member that is written at the end.
fn hold(member: &Member, archive: &mut impl Read) -> Result<Vec<u8>, TarError> {
    if !matches!(member.kind, MemberKind::File { size } if size <= MAX_HELD) {
        let name = display_name(&member.name);
        return Err(io::Error::other(format!("`{name}` is not the small file it must be")).into());
    }
    let mut bytes = Vec::new();
    archive.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The comparison with the manifest; links, directories, everything to disk; then
/// the label; then `pg_control` (upholds R1).
fn finish(plan: &Plan, targets: &[Arc<Target>], progress: Progress) -> Result<(), OpError> {
    let Progress {
        mut held, unpacked, ..
    } = progress;
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
    if complete {
        let held = label.iter().map(|(_, bytes)| (LABEL_NAME, &bytes[..]));
        let held = held.chain(control.iter().map(|(_, bytes)| (CONTROL_NAME, &bytes[..])));
        let restored = Restored {
            plan,
            targets,
            held: held.collect(),
        };
        restored.verify(unpacked)?;
    }
    let (pgdata, tablespaces) = targets.split_first().ok_or_else(interrupted)?;
    for (source, target) in plan.sources[1..].iter().zip(tablespaces) {
        if let ArchiveBase::Tablespace(oid) = source.base {
            pgdata
                .link_tablespace(oid, target.path())
                .map_err(|error| general(&error))?;
        }
    }
    let wal = if plan.info.version.is_some_and(|version| version < 100_000) {
        "pg_xlog"
    } else {
        "pg_wal"
    };
    pgdata
        .ensure_directory(wal)
        .map_err(|error| general(&error))?;
    for target in targets {
        target.finish().map_err(|error| general(&error))?;
    }
    let all: Vec<&Target> = targets.iter().map(Arc::as_ref).collect();
    sync_all(&all).map_err(|error| general(&error))?;
    for (member, bytes) in label.iter().chain(&control) {
        pgdata
            .write_held(member, bytes)
            .map_err(|error| general(&error))?;
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

fn general(error: &RestoreError) -> OpError {
    OpError::new(OpErrorKind::General, chain(error))
}

/// Tells how far the restore is, and ends when it is asked to.
struct Counted<'a, R> {
    inner: R,
    cancel: &'a CancellationToken,
    reporter: &'a dyn Reporter,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("the restore was stopped"));
        }
        let count = self.inner.read(buf)?;
        self.reporter.processed(count as u64);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_the_same_however_many_zeroes_it_has() {
        assert!(same_position("0/4000028", "0/04000028"));
        assert!(same_position("odd", "odd"));
        for other in ["0/4000029", "4/4000028", "", "odd"] {
            assert!(!same_position("0/4000028", other), "{other}");
        }
    }
}
