//! The copying thread: from the files of the cluster to archives.
//!
//! Tablespaces first, then PGDATA, then `pg_control`, which must be older than
//! nothing else in the backup (upholds B4), then configuration files that lie
//! elsewhere. The manifest and the label come when the server has stopped backup
//! mode; they are the last members of the last archive.

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::catalogue::layout::{ArchiveBase, BackupId, Layout};
use crate::manifest::{Algorithm, Checksum, WalRange};
use crate::ops::archives::{
    CopyReport, Listing, Sources, Summed, Writing, files, identifier, lower_priority,
    manifest_failed, warn_of,
};
use crate::pgdata::{
    self, EntryKind, Found, Gentle, HardLinks, LABEL_NAME, MANIFEST_NAME, OwnerNames,
};
use crate::report::Reporter;
use crate::tar::{ArchiveSink, Member, MemberKind, Splitter};
use crate::transfer::{Lane, LaneOptions, TransferError, Uploader};

/// What the end of the backup brings.
#[derive(Debug, Clone)]
pub(super) struct Closing {
    /// Text of the backup label.
    pub(super) label: String,
    /// The WAL that the backup needs.
    pub(super) range: WalRange,
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

impl Job {
    /// Copies everything. Blocks; uploads run on `runtime`.
    pub(super) fn run(self, runtime: &Handle) -> Result<CopyReport, TransferError> {
        lower_priority();
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
        self.lane.begin(key, None, first_member)
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

type Out<'a> = Splitter<Archives<'a>>;

impl Copy<'_> {
    fn source(
        &mut self,
        base: ArchiveBase,
        root: &Path,
        out: &mut Out,
    ) -> Result<(), TransferError> {
        let mut walk = self.sources.entries(base).map_err(|error| files(&error))?;
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
                    let Some(open) = open else {
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
                            let mut data = Gentle::new(&open.file, open.member.size());
                            let sum = self.file(base, &open.member, &mut data, out)?;
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
        let mut summed = Summed::new(data, self.listing.summing(), member.size());
        let copied = self.writing.add(member, &mut summed, out)?;
        let sum = summed.finish(copied.missing);
        let listed = self.listing.add(base, member, member.size(), sum);
        listed.map_err(|error| manifest_failed(&error))?;
        Ok(sum)
    }
}
