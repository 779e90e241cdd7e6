//! Proving a base backup where it lies: read once, written nowhere.
//!
//! What a restore would do is done but for the writing: the same archives by the same way
//! (`ops::reading`), and what it would refuse or stumble on is found. Then the WAL. A finding does
//! not end the check; a store that does not answer does, for then nothing is proved.
//!
//! What is not DONE is not good, and is not read. Of a snapshot backup the record, the label and the
//! WAL are looked at.

mod archives;
mod compare;
mod facts;
mod findings;
mod member;
mod report;
#[cfg(test)]
mod tests;
mod wal;

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use self::archives::{Archives, Numbered, Part};
use self::compare::{Compared, Comparison, dir_of, last_manifest};
use self::findings::{Finding, Kind};
use self::member::Suspect;
use self::report::Report;
use self::wal::Wal;
use super::reading::{Stored, Unpacked, held_back};
use super::{Answer, Ctx, Format, OpError, OpErrorKind, lookup};
use crate::catalogue::info::{BackupInfo, Status};
use crate::catalogue::layout::{ArchiveBase, ArchiveError, BackupId, Layout};
use crate::catalogue::load::{self, LoadError};
use crate::catalogue::select::Among;
use crate::manifest::Summing;
use crate::pgdata::{BadPage, CONTROL_NAME, LABEL_NAME, display_name};
use crate::report::{Phase, Work};
use crate::store::{self, ObjectStore, StoreErrorKind};
use crate::wal::Lsn;
use crate::wal::blocks::Wanted;

/// Most bytes of the label of a snapshot backup.
const MAX_LABEL: u64 = 1 << 20;

/// A base backup to prove.
#[derive(Debug, Clone)]
pub struct VerifyRequest {
    /// Key prefix from the URL, as written (it may end in slashes).
    pub path: String,
    /// Server name: one component of every key.
    pub server: String,
    /// Id, name or shortcut, as typed.
    pub backup: String,
    /// For whom.
    pub format: Format,
    /// Archives read side by side, and requests at the same time.
    pub jobs: NonZeroU32,
    /// Check the WAL to the newest segment, not only to the end of the backup.
    pub to_newest: bool,
}

/// Proves the backup.
///
/// # Errors
///
/// If nothing can be proved: the store does not answer, there is no such backup. What is wrong
/// with the backup is in the answer, with its failure.
pub async fn run(
    ctx: &Ctx,
    store: Arc<dyn ObjectStore>,
    request: VerifyRequest,
) -> Result<Answer, OpError> {
    let result = verify(ctx, &store, &request).await;
    ctx.reporter.end();
    let report = result?;
    let failure = (!report.is_good()).then(|| {
        let text = format!("backup {} is damaged: {}", report.id, report.count());
        OpError::new(OpErrorKind::Failed, text)
    });
    let text = report.text(request.format);
    Ok(Answer { text, failure })
}

async fn verify(
    ctx: &Ctx,
    store: &Arc<dyn ObjectStore>,
    request: &VerifyRequest,
) -> Result<Report, OpError> {
    let server = &request.server;
    let layout = lookup::layout(&request.path, server)?;
    let (text, among) = (request.backup.as_str(), Among::Complete);
    let id = lookup::by_text(store.as_ref(), &layout, text, server, among).await?;
    let mut report = Report::new(server, id.as_str());
    let place = layout.backup_info(&id).to_string();
    let info = match load::load_one(store.as_ref(), &layout, &id).await {
        Ok(Some(info)) => info,
        Ok(None) => {
            return Err(lookup::absent(store.as_ref(), &layout, &id, server).await);
        }
        Err(LoadError::Store(error)) => return Err(OpError::of_store(&error)),
        Err(LoadError::Malformed(error)) => {
            let detail = format!("it cannot be read: {error}");
            report.findings.note(Kind::Record, place, detail);
            return Ok(report);
        }
    };
    if let Some(why) = info.contradiction() {
        let detail = format!("it contradicts itself: {why}");
        report.findings.note(Kind::Record, &place, detail);
    }
    if info.status != Status::Done {
        let status = info.status.to_string();
        let detail = format!("the backup has status {}, not DONE", status.escape_debug());
        report.findings.note(Kind::Status, place, detail);
        return Ok(report);
    }
    let check = Check {
        ctx,
        store,
        request,
        layout: &layout,
        id: &id,
        info: &info,
    };
    if info.snapshots_info.is_some() {
        check.snapshot(&mut report).await?;
    } else {
        check.archives(&mut report).await?;
    }
    ctx.reporter.phase(Phase::Finishing);
    let lsn = |text: &Option<String>| text.as_deref()?.parse().ok();
    let blocks = report.suspects.iter().flat_map(Suspect::blocks);
    let wanted = Wanted {
        blocks: blocks.collect(),
        begin: lsn(&info.begin_xlog).unwrap_or(Lsn(0)),
        end: lsn(&info.end_xlog).unwrap_or(Lsn(u64::MAX)),
    };
    let wal = Wal {
        ctx,
        wanted: Arc::new(wanted),
        store,
        layout: &layout,
        info: &info,
        jobs: request.jobs,
        to_newest: request.to_newest,
    };
    report.wal = wal.check(&mut report.findings).await?;
    report.notes.append(&mut report.wal.notes);
    judge_suspects(&mut report);
    for Finding {
        kind,
        place,
        detail,
    } in &report.findings.named
    {
        tracing::info!("{}: {place}: {detail}", kind.word());
    }
    Ok(report)
}

/// Pages that the WAL of the backup does not write anew are damaged.
fn judge_suspects(report: &mut Report) {
    for mut suspect in std::mem::take(&mut report.suspects) {
        let mut blocks = suspect.blocks().collect::<Vec<_>>().into_iter();
        let damaged = |_: &BadPage| {
            !blocks
                .next()
                .is_some_and(|block| report.wal.rewritten.contains(&block))
        };
        suspect.bad.first.retain(damaged);
        suspect.bad.count = suspect.bad.first.len() as u64;
        if suspect.bad.count > 0 {
            let detail = member::bad_pages(&suspect.bad);
            report.findings.note(Kind::Page, suspect.place, detail);
        } else {
            tracing::info!(
                "{}: read while it was written, and written anew by the WAL of the backup",
                suspect.place
            );
        }
    }
}

/// A backup that is being checked.
struct Check<'a> {
    ctx: &'a Ctx,
    store: &'a Arc<dyn ObjectStore>,
    request: &'a VerifyRequest,
    layout: &'a Layout,
    id: &'a BackupId,
    info: &'a BackupInfo,
}

impl Check<'_> {
    /// The label of a snapshot backup.
    async fn snapshot(&self, report: &mut Report) -> Result<(), OpError> {
        self.ctx.reporter.begin(Work::Verify, None);
        let key = self.layout.backup_label(self.id);
        let findings = &mut report.findings;
        match store::get_all(self.store.as_ref(), &key, MAX_LABEL).await {
            Ok((_, bytes)) => {
                if let Some(why) = facts::of_label(self.info, &bytes) {
                    findings.note(Kind::Label, key.to_string(), why);
                }
            }
            Err(error) => match error.kind {
                StoreErrorKind::NotFound => {
                    findings.note(Kind::Part, key.to_string(), "the label is missing");
                }
                StoreErrorKind::Corrupt | StoreErrorKind::Invalid => {
                    let why = format!("it cannot be read: {}", super::chain(&error));
                    findings.note(Kind::Label, key.to_string(), why);
                }
                _ => return Err(OpError::of_store(&error)),
            },
        }
        let note = "the files are in snapshots of disks, which are not read";
        report.notes.push(note.to_owned());
        Ok(())
    }

    /// The archives of an ordinary backup.
    async fn archives(&self, report: &mut Report) -> Result<(), OpError> {
        let (store, server) = (self.store.as_ref(), &self.request.server);
        let stored = Stored::find(store, self.layout, self.id, self.info, server).await;
        let stored = stored.map_err(|error| OpError::of_store(&error))?;
        let dir = self.layout.backup_dir(self.id);
        for problem in &stored.problems {
            let place = match problem {
                ArchiveError::Missing { .. } | ArchiveError::Gap { .. } => dir_of(&dir).to_owned(),
                ArchiveError::Twice { one, .. } | ArchiveError::Mixed { one, .. } => {
                    one.to_string()
                }
                ArchiveError::UnknownExtension(key) => key.to_string(),
            };
            report.findings.note(Kind::Part, place, problem.to_string());
        }
        let bytes = stored
            .set
            .archives
            .iter()
            .flat_map(|(_, archives)| archives);
        let bytes = bytes.map(|archive| archive.size).sum();
        self.ctx.reporter.begin(Work::Verify, Some(bytes));
        self.ctx.reporter.phase(Phase::Copying);
        let all = Numbered::all(stored.set);
        let archives = Archives::new(self.ctx, self.store, all, self.request.jobs, self.info);
        let mut parts = archives.read().await?;

        let mut whole = stored.problems.is_empty();
        for part in parts.values_mut() {
            report.findings.append(std::mem::take(&mut part.findings));
            report.archives += 1;
            report.files += part.counted.files;
            report.bytes += part.counted.bytes;
            report.pages += part.counted.pages;
            report.suspects.append(&mut part.suspects);
            whole &= part.whole;
        }
        let own = self.held_back(&archives, &mut parts, whole, report);
        let comparison = Comparison {
            info: self.info,
            archives: &archives,
            dir: &dir,
            whole,
        };
        let found = last_manifest(parts.iter());
        report.manifest = comparison.with(found, own, &mut report.findings);
        match report.manifest {
            Compared::With { unread, .. } if unread > 0 => report.notes.push(format!(
                "{unread} files of the manifest were not compared: they are in archives that are \
                 missing or could not be read"
            )),
            Compared::Nothing if whole => report.notes.push(
                "the backup has no manifest, as those of Barman: files were not compared, only that \
                 the archives are sound"
                    .to_owned(),
            ),
            _ => {}
        }
        if matches!(report.manifest, Compared::With { .. }) && archives.tree.names.files() > 0 {
            report.findings.append(archives.name_left().await?);
        }
        report.stored_bytes = archives.fetched();
        Ok(())
    }

    /// Looks at the label and `pg_control`, and adds them to the tree; whether the backup's own manifest
    /// stands before the label.
    fn held_back(
        &self,
        archives: &Archives<'_>,
        parts: &mut BTreeMap<u32, Part>,
        whole: bool,
        report: &mut Report,
    ) -> bool {
        // Where each of them is: of several archives the last one counts.
        let mut places: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
        let mut unpacked: Vec<Unpacked> = Vec::with_capacity(parts.len());
        for (number, part) in parts.iter_mut() {
            let names = part.unpacked.held.keys().cloned();
            places.extend(names.map(|name| (name, *number)));
            unpacked.push(std::mem::take(&mut part.unpacked));
        }
        let method = parts.values().next_back().map(|part| part.method);
        let (held, own) = held_back(unpacked);
        let dir = self.layout.backup_dir(self.id);
        for name in [LABEL_NAME, CONTROL_NAME] {
            let Some((_, bytes)) = held.get(name) else {
                if whole {
                    let detail = format!(
                        "none of its archives has `{}`, so at least its last one is missing",
                        display_name(name)
                    );
                    report.findings.note(Kind::Part, dir_of(&dir), detail);
                }
                continue;
            };
            let number = places.get(name).copied().unwrap_or_default();
            report.files += 1;
            report.bytes += bytes.len() as u64;
            if let Some(method) = method {
                let mut sum = Summing::new(method.algorithm);
                sum.add(bytes);
                let digest = archives.tree.digest(&sum.finish());
                let size = bytes.len() as u64;
                archives.tree.names.fill(name, number, size, digest);
            }
            let (kind, wrong) = if name == CONTROL_NAME {
                (Kind::Control, facts::of_control(self.info, bytes))
            } else {
                let wrong = facts::of_label(self.info, bytes);
                (Kind::Label, wrong.into_iter().collect())
            };
            let place = archives.place(&dir, number, name);
            for why in wrong {
                report.findings.note(kind, &place, why);
            }
        }
        self.tablespace_links(archives, report);
        own
    }

    /// A restore makes the links to the tablespaces, where no member may be.
    fn tablespace_links(&self, archives: &Archives<'_>, report: &mut Report) {
        for one in archives.all.iter().filter(|one| one.archive.part == 0) {
            if let ArchiveBase::Tablespace(oid) = one.base {
                let name = format!("pg_tblspc/{oid}");
                if archives.tree.has(name.as_bytes()) {
                    let place = format!("{}:{name}", dir_of(&self.layout.backup_dir(self.id)));
                    let detail = "a restore refuses it: the link to the tablespace goes there";
                    report.findings.note(Kind::Member, place, detail);
                }
            }
        }
    }
}

fn interrupted() -> OpError {
    let text = "Barman cloud verify was interrupted by the user";
    OpError::new(OpErrorKind::Interrupted, text)
}
