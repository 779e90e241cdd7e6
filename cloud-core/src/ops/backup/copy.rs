//! The copying thread: from the files of the cluster to archives.
//!
//! Tablespaces first, then PGDATA, then `pg_control`, which must be older than
//! nothing else in the backup (upholds B4), then configuration files that lie
//! elsewhere. The label comes when the server has stopped backup mode; it is
//! the last member of the last archive.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::catalogue::layout::{ArchiveBase, BackupId, Layout};
use crate::ops::chain;
use crate::pgdata::{
    self, EntryKind, FileId, Found, HardLinks, LABEL_NAME, LabelInPgdata, LeftOutReason,
    OwnerNames, Rules, Walk, display_name,
};
use crate::report::Reporter;
use crate::tar::{AppendError, ArchiveSink, Copied, Member, MemberKind, Splitter};
use crate::transfer::{Lane, LaneOptions, TransferError, Uploader};

/// How nice the copying thread is to the server beside it. The priority of its
/// reads follows from it.
const NICENESS: i32 = 10;

/// What is copied.
#[derive(Debug, Clone)]
pub(super) struct Sources {
    pub(super) pgdata: PathBuf,
    /// Major version, as in the directories of tablespaces: `15`, `9.6`.
    pub(super) major: String,
    pub(super) tablespaces: Vec<TablespaceSource>,
    /// Configuration files outside of PGDATA.
    pub(super) configuration: Vec<ConfigurationFile>,
}

#[derive(Debug, Clone)]
pub(super) struct TablespaceSource {
    pub(super) oid: u32,
    pub(super) location: PathBuf,
}

#[derive(Debug, Clone)]
pub(super) struct ConfigurationFile {
    pub(super) path: PathBuf,
    pub(super) required: bool,
}

impl Sources {
    fn rules(&self, base: ArchiveBase) -> Rules {
        match base {
            ArchiveBase::Tablespace(_) => Rules::Tablespace {
                major: self.major.clone(),
            },
            ArchiveBase::Data => Rules::Pgdata {
                tablespaces: self
                    .tablespaces
                    .iter()
                    .map(|tablespace| tablespace.oid)
                    .collect(),
                label: LabelInPgdata::Stale,
            },
        }
    }

    /// Opens a source; what has an archive of its own is left out of it.
    pub(super) fn walk(&self, base: ArchiveBase) -> Result<Walk, pgdata::SourceError> {
        let location = |tablespace: &TablespaceSource| tablespace.location.clone();
        let (root, others): (PathBuf, Vec<PathBuf>) = match base {
            ArchiveBase::Data => (
                self.pgdata.clone(),
                self.tablespaces.iter().map(location).collect(),
            ),
            ArchiveBase::Tablespace(oid) => {
                let (own, others): (Vec<_>, Vec<_>) = self
                    .tablespaces
                    .iter()
                    .partition(|tablespace| tablespace.oid == oid);
                let root = own
                    .first()
                    .map(|own| own.location.clone())
                    .unwrap_or_default();
                (root, others.into_iter().map(location).collect())
            }
        };
        let elsewhere: Vec<FileId> = others
            .iter()
            .filter_map(|path| FileId::of(path).ok())
            .collect();
        Walk::open(&root, self.rules(base), &elsewhere)
    }
}

/// Everything the thread needs.
pub(super) struct Job {
    pub(super) sources: Sources,
    pub(super) layout: Layout,
    pub(super) id: BackupId,
    pub(super) lane: LaneOptions,
    pub(super) uploader: Uploader,
    pub(super) reporter: Arc<dyn Reporter>,
    /// Told when everything but the label is in the archives.
    pub(super) copied: oneshot::Sender<()>,
    /// Delivers the label.
    pub(super) label: oneshot::Receiver<String>,
}

/// What was met on the way.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct CopyReport {
    files: u64,
    vanished: u64,
    shrank: u64,
    grew: u64,
}

impl CopyReport {
    fn count(&mut self, copied: Copied) {
        self.files += 1;
        self.shrank += u64::from(copied.missing > 0);
        self.grew += u64::from(copied.grew);
    }

    pub(super) fn log(&self) {
        tracing::info!(
            "copied {} files; meanwhile {} vanished, {} shrank and {} grew, which WAL replay repairs",
            self.files,
            self.vanished,
            self.shrank,
            self.grew
        );
    }
}

impl Job {
    /// Copies everything. Blocks; uploads run on `runtime`.
    pub(super) fn run(self, runtime: &Handle) -> Result<CopyReport, TransferError> {
        // Of this thread alone, and a wish: a system that refuses it is fine.
        let _ = rustix::process::setpriority_process(None, NICENESS);
        let Self {
            sources,
            layout,
            id,
            lane,
            uploader,
            reporter,
            copied,
            label,
        } = self;
        let mut copy = Copy {
            sources: &sources,
            cancel: lane.cancel.clone(),
            reporter: reporter.as_ref(),
            owners: OwnerNames::default(),
            report: CopyReport::default(),
        };
        let archives = |base| {
            let lane_of = Lane::new(&lane, &uploader, runtime.clone());
            let sink = Archives {
                lane: lane_of,
                layout: &layout,
                id: &id,
                base,
                suffix: lane.codec.info().suffix,
            };
            Splitter::new(sink, lane.plan.archive_limit)
        };
        for tablespace in &sources.tablespaces {
            let base = ArchiveBase::Tablespace(tablespace.oid);
            let mut splitter = archives(base);
            copy.source(base, &tablespace.location, &mut splitter)?;
            splitter
                .finish()
                .map_err(|error| copy.write_error(&error))?;
        }
        let mut splitter = archives(ArchiveBase::Data);
        copy.source(ArchiveBase::Data, &sources.pgdata, &mut splitter)?;
        copy.control(&mut splitter)?;
        copy.configuration(&mut splitter)?;
        // Nobody listens if the backup was given up meanwhile; the next line
        // finds that out.
        let _ = copied.send(());
        let label = label
            .blocking_recv()
            .map_err(|_| TransferError::Cancelled)?;
        copy.label(&label, &mut splitter)?;
        splitter
            .finish()
            .map_err(|error| copy.write_error(&error))?;
        Ok(copy.report)
    }
}

/// Archives of one source, named as the layout wants.
struct Archives<'a> {
    lane: Lane<'a>,
    layout: &'a Layout,
    id: &'a BackupId,
    base: ArchiveBase,
    suffix: &'static str,
}

impl Write for Archives<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.lane.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.lane.flush()
    }
}

impl ArchiveSink for Archives<'_> {
    fn begin(&mut self, part: u32, first_member: u64) -> io::Result<()> {
        let key = self.layout.archive(self.id, self.base, part, self.suffix);
        tracing::info!("Uploading '{key}'");
        self.lane.begin(key, first_member)
    }

    fn bytes_out(&self) -> u64 {
        self.lane.bytes_out()
    }

    fn fits(&self, bytes: u64) -> bool {
        self.lane.fits(bytes)
    }

    fn end(&mut self) -> io::Result<()> {
        self.lane.end()
    }
}

struct Copy<'a> {
    sources: &'a Sources,
    cancel: CancellationToken,
    reporter: &'a dyn Reporter,
    owners: OwnerNames,
    report: CopyReport,
}

type Out<'a> = Splitter<Archives<'a>>;

impl Copy<'_> {
    fn source(
        &mut self,
        base: ArchiveBase,
        root: &Path,
        out: &mut Out,
    ) -> Result<(), TransferError> {
        let mut walk = self.sources.walk(base).map_err(|error| files(&error))?;
        let mut links = HardLinks::default();
        for found in &mut walk {
            if self.cancel.is_cancelled() {
                return Err(TransferError::Cancelled);
            }
            match found.map_err(|error| files(&error))? {
                Found::LeftOut(left) => warn_of(&left, root),
                Found::Entry(entry) if entry.kind == EntryKind::File => {
                    let open = entry
                        .open(&mut self.owners)
                        .map_err(|error| files(&error))?;
                    let Some(mut open) = open else {
                        self.report.vanished += 1;
                        continue;
                    };
                    let linked = links.stored_as(&open.meta);
                    let linked = linked.map(|(archive, name)| (archive, name.to_vec()));
                    let part = out.make_room(open.member.size());
                    let part = part.map_err(|error| self.write_error(&error))?;
                    match linked {
                        Some((archive, target)) if archive == part => {
                            let kind = MemberKind::HardLink { target };
                            self.add(
                                &Member {
                                    kind,
                                    ..open.member
                                },
                                &mut io::empty(),
                                out,
                            )?;
                        }
                        _ => {
                            links.note(part, &open.meta, &entry.name);
                            self.add(&open.member, &mut open.file, out)?;
                        }
                    }
                }
                Found::Entry(entry) => {
                    let member = entry.member(&mut self.owners);
                    self.add(&member, &mut io::empty(), out)?;
                }
            }
        }
        self.report.vanished += walk.vanished();
        Ok(())
    }

    /// `pg_control`, read at this moment and checked.
    fn control(&mut self, out: &mut Out) -> Result<(), TransferError> {
        let read = pgdata::read_control_member(&self.sources.pgdata, &mut self.owners);
        let (snapshot, member) = read.map_err(|error| files(&error))?;
        self.add(&member, &mut &snapshot.bytes[..], out)
    }

    fn configuration(&mut self, out: &mut Out) -> Result<(), TransferError> {
        for file in &self.sources.configuration {
            let name = file
                .path
                .file_name()
                .unwrap_or_default()
                .as_encoded_bytes()
                .to_vec();
            let open = pgdata::open_external(&file.path, name, &mut self.owners);
            match open.map_err(|error| files(&error))? {
                Some(mut open) => self.add(&open.member, &mut open.file, out)?,
                None if file.required => {
                    let text = format!(
                        "the configuration file {} does not exist",
                        file.path.display()
                    );
                    return Err(TransferError::Files(text));
                }
                None => {}
            }
        }
        Ok(())
    }

    fn label(&mut self, label: &str, out: &mut Out) -> Result<(), TransferError> {
        let size = label.len() as u64;
        let member = pgdata::made_member(&self.sources.pgdata, LABEL_NAME, size, &mut self.owners);
        let member = member.map_err(|error| files(&error))?;
        self.add(&member, &mut label.as_bytes(), out)
    }

    fn add(
        &mut self,
        member: &Member,
        data: &mut dyn Read,
        out: &mut Out,
    ) -> Result<(), TransferError> {
        let mut watched = Watched {
            data,
            cancel: &self.cancel,
            reporter: self.reporter,
        };
        match out.add(member, &mut watched) {
            Ok(copied) => {
                if member.size() > 0 {
                    self.report.count(copied);
                }
                Ok(())
            }
            Err(AppendError::Read(_)) if self.cancel.is_cancelled() => {
                Err(TransferError::Cancelled)
            }
            Err(AppendError::Read(error)) => {
                let name = display_name(&member.name);
                Err(TransferError::Files(format!(
                    "could not read `{name}`: {error}"
                )))
            }
            Err(AppendError::Write(error)) => Err(self.write_error(&error)),
        }
    }

    /// Writing fails because the upload did, which knows why, or because the
    /// encoder did.
    fn write_error(&self, error: &io::Error) -> TransferError {
        if self.cancel.is_cancelled() {
            TransferError::Cancelled
        } else {
            TransferError::Files(format!("could not make an archive: {error}"))
        }
    }
}

fn files(error: &(dyn std::error::Error + 'static)) -> TransferError {
    TransferError::Files(chain(error))
}

fn warn_of(left: &pgdata::LeftOut, root: &Path) {
    let (name, root) = (display_name(&left.name), root.display());
    match &left.reason {
        LeftOutReason::LinkedDirectory { expected: true, .. } => {
            tracing::debug!("`{name}` in {root} is a link to a directory: stored as an empty one");
        }
        LeftOutReason::LinkedDirectory { target, .. } => tracing::warn!(
            "`{name}` in {root} is a link to the directory `{}`, which is not part of the backup",
            display_name(target)
        ),
        LeftOutReason::Device => {
            tracing::warn!("`{name}` in {root} is a device, which is not part of the backup");
        }
    }
}

/// Looks for a request to stop at every block, and tells how far the copy is.
struct Watched<'a> {
    data: &'a mut dyn Read,
    cancel: &'a CancellationToken,
    reporter: &'a dyn Reporter,
}

impl Read for Watched<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("the backup was stopped"));
        }
        let count = self.data.read(buf)?;
        self.reporter.processed(count as u64);
        Ok(count)
    }
}
