//! The copying thread: from the files of the cluster to archives.
//!
//! Tablespaces first, then PGDATA, then `pg_control`, which must be older than
//! nothing else in the backup (upholds B4), then configuration files that lie
//! elsewhere. The manifest and the label come when the server has stopped backup
//! mode; they are the last members of the last archive.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::manifest::{Closing, Listing};
use crate::catalogue::layout::{ArchiveBase, BackupId, Layout};
use crate::manifest::{Algorithm, Checksum, Summing};
use crate::ops::chain;
use crate::pgdata::{
    self, ControlFile, EntryKind, FileId, Found, HardLinks, LABEL_NAME, LabelInPgdata,
    LeftOutReason, MANIFEST_NAME, OwnerNames, Rules, Walk, display_name,
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
    /// `server_version_num`, which decides the version of the manifest.
    pub(super) version: u32,
    /// How the manifest sums up the files.
    pub(super) algorithm: Algorithm,
    /// Told when everything but manifest and label is in the archives.
    pub(super) copied: oneshot::Sender<()>,
    /// Delivers what they say.
    pub(super) closing: oneshot::Receiver<Closing>,
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
            version,
            algorithm,
            copied,
            closing,
        } = self;
        let identifier = identifier(&sources.pgdata)?;
        let listing = Listing::new(algorithm, version, identifier)
            .map_err(|error| manifest_failed(&error))?;
        let mut copy = Copy {
            sources: &sources,
            owners: OwnerNames::default(),
            listing,
            writing: Writing {
                cancel: lane.cancel.clone(),
                reporter: reporter.as_ref(),
                report: CopyReport::default(),
            },
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
                .map_err(|error| copy.writing.error(&error))?;
        }
        let mut splitter = archives(ArchiveBase::Data);
        copy.source(ArchiveBase::Data, &sources.pgdata, &mut splitter)?;
        copy.control(&mut splitter)?;
        copy.configuration(&mut splitter)?;
        // Nobody listens if the backup was given up meanwhile; the next line
        // finds that out.
        let _ = copied.send(());
        let closing = closing
            .blocking_recv()
            .map_err(|_| TransferError::Cancelled)?;
        copy.close(&closing, splitter)
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
    owners: OwnerNames,
    listing: Listing,
    writing: Writing<'a>,
}

/// The way into the archives.
struct Writing<'a> {
    cancel: CancellationToken,
    reporter: &'a dyn Reporter,
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
            if self.writing.cancel.is_cancelled() {
                return Err(TransferError::Cancelled);
            }
            match found.map_err(|error| files(&error))? {
                Found::LeftOut(left) => warn_of(&left, root),
                Found::Entry(entry) if entry.kind == EntryKind::File => {
                    let open = entry
                        .open(&mut self.owners)
                        .map_err(|error| files(&error))?;
                    let Some(mut open) = open else {
                        self.writing.report.vanished += 1;
                        continue;
                    };
                    let linked = links.stored_as(&open.meta);
                    let linked = linked.map(|(archive, name)| (archive, name.to_vec()));
                    let part = out.make_room(open.member.size());
                    let part = part.map_err(|error| self.writing.error(&error))?;
                    match linked {
                        Some((archive, target)) if archive == part => {
                            let first = self.listing.noted(&target);
                            let kind = MemberKind::HardLink { target };
                            let member = Member {
                                kind,
                                ..open.member
                            };
                            self.writing.add(&member, &mut io::empty(), out)?;
                            if let Some((size, sum)) = first {
                                let listed = self.listing.add(base, &member, size, sum);
                                listed.map_err(|error| manifest_failed(&error))?;
                            }
                        }
                        _ => {
                            links.note(part, &open.meta, &entry.name);
                            let sum = self.file(base, &open.member, &mut open.file, out)?;
                            if links.stored_as(&open.meta).is_some() {
                                self.listing.note(&entry.name, open.member.size(), sum);
                            }
                        }
                    }
                }
                Found::Entry(entry) => {
                    let member = entry.member(&mut self.owners);
                    self.writing.add(&member, &mut io::empty(), out)?;
                }
            }
        }
        self.writing.report.vanished += walk.vanished();
        Ok(())
    }

    /// `pg_control`, read at this moment and checked.
    fn control(&mut self, out: &mut Out) -> Result<(), TransferError> {
        let read = pgdata::read_control_member(&self.sources.pgdata, &mut self.owners);
        let (snapshot, member) = read.map_err(|error| files(&error))?;
        self.file(ArchiveBase::Data, &member, &mut &snapshot.bytes[..], out)?;
        Ok(())
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
                Some(mut open) => {
                    self.file(ArchiveBase::Data, &open.member, &mut open.file, out)?;
                }
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

    /// The manifest, which lists the label too, and the label.
    fn close(self, closing: &Closing, mut out: Out) -> Result<CopyReport, TransferError> {
        let Self {
            sources,
            mut owners,
            mut listing,
            mut writing,
        } = self;
        let mut made = |name: &[u8], size| {
            let member = pgdata::made_member(&sources.pgdata, name, size, &mut owners);
            member.map_err(|error| files(&error))
        };
        let mut text = closing.label.as_bytes();
        let label = made(LABEL_NAME, text.len() as u64)?;
        let mut sum = listing.summing();
        sum.add(text);
        let listed = listing.add(ArchiveBase::Data, &label, label.size(), sum.finish());
        listed.map_err(|error| manifest_failed(&error))?;
        let mut manifest = listing
            .finish(&closing.range)
            .map_err(|error| manifest_failed(&error))?;
        let member = made(MANIFEST_NAME, manifest.size())?;
        writing.add(&member, &mut manifest, &mut out)?;
        writing.add(&label, &mut text, &mut out)?;
        out.finish().map_err(|error| writing.error(&error))?;
        Ok(writing.report)
    }

    /// Adds a file to the archive and to the manifest, as it is in the archive.
    fn file(
        &mut self,
        base: ArchiveBase,
        member: &Member,
        data: &mut dyn Read,
        out: &mut Out,
    ) -> Result<Checksum, TransferError> {
        let mut summed = Summed {
            data,
            sum: self.listing.summing(),
            left: member.size(),
        };
        let copied = self.writing.add(member, &mut summed, out)?;
        let mut sum = summed.sum;
        sum.add_zeroes(copied.missing);
        let sum = sum.finish();
        let listed = self.listing.add(base, member, member.size(), sum);
        listed.map_err(|error| manifest_failed(&error))?;
        Ok(sum)
    }
}

impl Writing<'_> {
    fn add(
        &mut self,
        member: &Member,
        data: &mut dyn Read,
        out: &mut Out,
    ) -> Result<Copied, TransferError> {
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
                Ok(copied)
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
            Err(AppendError::Write(error)) => Err(self.error(&error)),
        }
    }

    /// Writing fails because the upload did, which knows why, or because the
    /// encoder did.
    fn error(&self, error: &io::Error) -> TransferError {
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

fn manifest_failed(error: &io::Error) -> TransferError {
    TransferError::Files(format!("could not make the manifest: {error}"))
}

/// The system identifier of the cluster.
fn identifier(pgdata: &Path) -> Result<u64, TransferError> {
    let path = pgdata.join("global/pg_control");
    let control = pgdata::read_control(&path).map_err(|error| files(&error))?;
    let control = ControlFile::parse(&control.bytes).map_err(|error| files(&error))?;
    Ok(control.system_identifier)
}

/// Sums up the bytes that are stored of a file: not what it grew by.
struct Summed<'a> {
    data: &'a mut dyn Read,
    sum: Summing,
    left: u64,
}

impl Read for Summed<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.data.read(buf)?;
        let stored = usize::try_from(self.left).map_or(count, |left| left.min(count));
        self.sum.add(&buf[..stored]);
        self.left -= stored as u64;
        Ok(count)
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
