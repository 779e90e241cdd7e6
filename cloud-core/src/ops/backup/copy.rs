//! The copy: from the files of the cluster to archives.
//!
//! Tablespaces first, then PGDATA, by one lane or by several beside each other
//! (`lanes`); then `pg_control`, which must be older than nothing else in the backup
//! (upholds B4), then configuration files that lie elsewhere. The manifest and the label
//! come when the server has stopped backup mode; they are the last members of the last
//! archive.

use std::io::{self, Read};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::lanes::{Archives, Source, Stock};
use crate::catalogue::layout::{ArchiveBase, BackupId, Layout};
use crate::manifest::{Algorithm, Checksum, Summing, WalRange};
use crate::ops::archives::{
    Checked, CopyReport, Listing, Pages, Sources, Summed, Writing, control, files, lower_priority,
    manifest_failed, warn_of,
};
use crate::pgdata::{
    self, Entry, EntryKind, Found, Gentle, HardLinks, LABEL_NAME, MANIFEST_NAME, OpenFile,
    OwnerNames, PageRules,
};
use crate::report::Reporter;
use crate::tar::{Member, MemberKind, Splitter};
use crate::transfer::{Lane, LaneOptions, TransferError, Uploader};
use crate::wal::Lsn;

/// What the end of the backup brings.
#[derive(Debug, Clone)]
pub(super) struct Closing {
    /// Text of the backup label.
    pub(super) label: String,
    /// Where the backup ends.
    pub(super) end: Lsn,
    /// The WAL that it needs, newest timeline first.
    pub(super) wal: Vec<WalRange>,
}

/// Everything the copying thread needs.
pub(super) struct Job {
    pub(super) plan: Plan,
    /// Told when everything but manifest and label is in the archives.
    pub(super) copied: oneshot::Sender<()>,
    /// Delivers what they say.
    pub(super) closing: oneshot::Receiver<Closing>,
}

/// What is copied, and how.
pub(super) struct Plan {
    pub(super) sources: Sources,
    pub(super) layout: Layout,
    pub(super) id: BackupId,
    pub(super) lane: LaneOptions,
    /// Archives that are open at the same time.
    pub(super) lanes: NonZeroU32,
    pub(super) uploader: Uploader,
    pub(super) reporter: Arc<dyn Reporter>,
    /// `server_version_num`, which decides the version of the manifest.
    pub(super) version: u32,
    /// How the manifest sums up the files.
    pub(super) algorithm: Algorithm,
    /// Where the backup begins; `None` judges no pages.
    pub(super) begin: Option<Lsn>,
    /// Whether bad pages make the backup fail.
    pub(super) fail_on_bad_pages: bool,
}

impl Job {
    /// Copies everything. Blocks; uploads run on `runtime`.
    pub(super) fn run(self, runtime: &Handle) -> Result<CopyReport, TransferError> {
        let plan = &self.plan;
        let control = control(&plan.sources.pgdata)?;
        let listing = Listing::new(plan.algorithm, plan.version, control.system_identifier)
            .map_err(|error| manifest_failed(&error))?;
        let listing = Mutex::new(listing);
        let stock = Stock::new(&plan.sources);
        let work = Work {
            plan,
            runtime,
            stock: &stock,
            listing: &listing,
            rules: plan
                .begin
                .and_then(|begin| PageRules::of(&control.sizes, begin, None)),
        };
        let (mut copy, mut out) = work.copy()?;
        // upholds B4: no lane is under way any more
        copy.control(&plan.sources, &mut out)?;
        copy.configuration(&plan.sources, &mut out)?;
        let Copy {
            owners,
            pages,
            writing,
            ..
        } = copy;
        let end = End {
            sources: &plan.sources,
            owners,
            writing,
            listing: listing.into_inner().unwrap_or_else(PoisonError::into_inner),
            pages,
        };
        // Nobody listens if the backup was given up meanwhile; the next line
        // finds that out.
        let _ = self.copied.send(());
        let closing = self
            .closing
            .blocking_recv()
            .map_err(|_| TransferError::Cancelled)?;
        end.close(&closing, plan.fail_on_bad_pages, out)
    }
}

/// What all lanes share.
struct Work<'a, 's, 'l> {
    plan: &'a Plan,
    runtime: &'a Handle,
    stock: &'a Stock<'s>,
    listing: &'l Mutex<Listing>,
    /// How pages are judged, where they are.
    rules: Option<PageRules>,
}

impl<'a, 'l> Work<'a, '_, 'l> {
    /// Copies all sources, and gives what goes on to the end of PGDATA.
    ///
    /// With one lane its last archive stays open for that. With several none does: a
    /// lane that waited with a part half filled could keep another from the memory for
    /// an enormous file.
    fn copy(&self) -> Result<(Copy<'a, 'l>, Out<'a>), TransferError> {
        let alone = self.plan.lanes.get() == 1;
        let copying = |keep| match self.lane(keep) {
            Ok(copied) => Ok(copied),
            Err(error) => {
                // Which ends the other lanes too, and is remembered as the cause.
                self.plan.uploader.fail(error);
                Err(TransferError::Cancelled)
            }
        };
        let beside = || copying(false).map(|(copy, _)| (copy.writing.report, copy.pages));
        let (mut copy, kept) = thread::scope(|scope| {
            let others = 1..self.plan.lanes.get();
            let others: Vec<_> = others.map(|_| scope.spawn(beside)).collect();
            let mut own = copying(alone);
            for other in others {
                let ended = other.join().unwrap_or_else(|_| {
                    let text = "a copying thread ended early".to_owned();
                    Err(TransferError::Files(text))
                });
                own = own.and_then(|(mut copy, kept)| {
                    let (report, pages) = ended?;
                    copy.writing.report.add(&report);
                    copy.pages.join(pages);
                    Ok((copy, kept))
                });
            }
            own
        })?;
        copy.writing.report.vanished += self.stock.vanished();
        Ok((
            copy,
            kept.unwrap_or_else(|| self.archives(self.stock.data())),
        ))
    }

    /// One lane, until there is nothing left; `keep`s the archive of PGDATA open.
    fn lane(&self, keep: bool) -> Result<(Copy<'a, 'l>, Option<Out<'a>>), TransferError> {
        lower_priority();
        let mut copy = Copy {
            owners: OwnerNames::default(),
            listing: self.listing,
            algorithm: self.plan.algorithm,
            pages: Pages::new(self.rules),
            writing: Writing {
                cancel: self.plan.lane.cancel.clone(),
                reporter: self.plan.reporter.as_ref(),
                report: CopyReport::default(),
            },
        };
        while let Some(source) = self.stock.pick() {
            let mut out = self.archives(source);
            copy.source(source, &mut out)?;
            if keep && source.base == ArchiveBase::Data {
                return Ok((copy, Some(out)));
            }
            let ended = if source.take_bare() {
                out.finish()
            } else {
                out.close()
            };
            ended.map_err(|error| copy.writing.error(&error))?;
        }
        Ok((copy, None))
    }

    fn archives(&self, source: &'a Source) -> Out<'a> {
        let lane = &self.plan.lane;
        let archives = Archives {
            lane: Lane::new(lane, &self.plan.uploader, self.runtime.clone()),
            layout: &self.plan.layout,
            id: &self.plan.id,
            base: source.base,
            begun: &source.begun,
            suffix: lane.codec.info().suffix,
        };
        Splitter::new(archives, lane.plan.archive_limit)
    }
}

/// One lane's copying.
struct Copy<'a, 'l> {
    owners: OwnerNames,
    listing: &'l Mutex<Listing>,
    algorithm: Algorithm,
    pages: Pages,
    writing: Writing<'a>,
}

type Out<'a> = Splitter<Archives<'a>>;

impl Copy<'_, '_> {
    /// Takes entries of a source until there are no more.
    fn source(&mut self, source: &Source, out: &mut Out) -> Result<(), TransferError> {
        // Of the archives of this lane: a hard link cannot point into another's.
        let mut links = HardLinks::default();
        loop {
            if self.writing.cancel.is_cancelled() {
                return Err(TransferError::Cancelled);
            }
            match source.next().map_err(|error| files(&error))? {
                None => return Ok(()),
                Some(Found::LeftOut(left)) => warn_of(&left, source.root),
                Some(Found::Entry(entry)) if entry.kind == EntryKind::File => {
                    self.regular(source.base, &entry, &mut links, out)?;
                }
                Some(Found::Entry(entry)) => {
                    let member = entry.member(&mut self.owners);
                    self.writing.add(&member, &mut io::empty(), out)?;
                }
            }
        }
    }

    /// A regular file, or a link to one that is in the same archive already.
    fn regular(
        &mut self,
        base: ArchiveBase,
        entry: &Entry,
        links: &mut HardLinks<(u64, Checksum)>,
        out: &mut Out,
    ) -> Result<(), TransferError> {
        let open = entry.open(&mut self.owners);
        let Some(open) = open.map_err(|error| files(&error))? else {
            self.writing.report.vanished += 1;
            return Ok(());
        };
        let archive = out.make_room(open.member.size());
        let archive = archive.map_err(|error| self.writing.error(&error))?;
        if let Some((target, &(size, sum))) = links.stored_as(archive, &open.meta) {
            let kind = MemberKind::HardLink {
                target: target.to_vec(),
            };
            let member = Member {
                kind,
                ..open.member
            };
            self.writing.add(&member, &mut io::empty(), out)?;
            let listed = self.listing().add(base, &member, size, sum);
            return listed.map_err(|error| manifest_failed(&error));
        }
        let sum = self.found(base, &entry.name, &open, out)?;
        links.note(archive, &open.meta, &entry.name, (open.member.size(), sum));
        Ok(())
    }

    /// A file of the source, called `name` there.
    fn found(
        &mut self,
        base: ArchiveBase,
        name: &[u8],
        open: &OpenFile,
        out: &mut Out,
    ) -> Result<Checksum, TransferError> {
        let mut data = Gentle::new(&open.file, open.member.size());
        let Some(rules) = self.pages.rules_for(name) else {
            return self.file(base, &open.member, &mut data, out);
        };
        let mut checked = Checked::new(&mut data, &open.file, rules);
        let sum = self.file(base, &open.member, &mut checked, out)?;
        self.pages.add_checked(base, name, &checked);
        Ok(sum)
    }

    fn listing(&self) -> MutexGuard<'_, Listing> {
        self.listing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `pg_control`, read at this moment and checked.
    fn control(&mut self, sources: &Sources, out: &mut Out) -> Result<(), TransferError> {
        let read = pgdata::read_control_member(&sources.pgdata, &mut self.owners);
        let (snapshot, member) = read.map_err(|error| files(&error))?;
        self.file(ArchiveBase::Data, &member, &mut &snapshot.bytes[..], out)?;
        Ok(())
    }

    fn configuration(&mut self, sources: &Sources, out: &mut Out) -> Result<(), TransferError> {
        for file in &sources.configuration {
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

    /// Adds a file to the archive and to the manifest, as it is in the archive.
    fn file(
        &mut self,
        base: ArchiveBase,
        member: &Member,
        data: &mut dyn Read,
        out: &mut Out,
    ) -> Result<Checksum, TransferError> {
        let mut summed = Summed::new(data, Summing::new(self.algorithm), member.size());
        let copied = self.writing.add(member, &mut summed, out)?;
        let sum = summed.finish(copied.missing);
        let listed = self.listing().add(base, member, member.size(), sum);
        listed.map_err(|error| manifest_failed(&error))?;
        Ok(sum)
    }
}

/// The end of the last archive.
struct End<'a> {
    sources: &'a Sources,
    owners: OwnerNames,
    writing: Writing<'a>,
    listing: Listing,
    pages: Pages,
}

impl End<'_> {
    /// The manifest, which lists the label too, and the label.
    fn close(
        self,
        closing: &Closing,
        fail_on_bad_pages: bool,
        mut out: Out,
    ) -> Result<CopyReport, TransferError> {
        let Self {
            sources,
            mut owners,
            mut writing,
            mut listing,
            pages,
        } = self;
        pages
            .finish(closing.end, fail_on_bad_pages)
            .map_err(TransferError::Files)?;
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
            .finish(&closing.wal)
            .map_err(|error| manifest_failed(&error))?;
        let member = made(MANIFEST_NAME, manifest.size())?;
        writing.add(&member, &mut manifest, &mut out)?;
        writing.add(&label, &mut text, &mut out)?;
        out.close().map_err(|error| writing.error(&error))?;
        Ok(writing.report)
    }
}
