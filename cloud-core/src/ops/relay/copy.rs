//! The copying thread: from the files of a relayed backup to archives.
//!
//! Tablespaces first, then PGDATA. The last archive of PGDATA ends as that of every
//! base backup does: `pg_control`, the manifest, the label.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use tokio::runtime::Handle;

use super::batch::{Batch, END, Scout, Sender};
use super::digest::Digest;
use super::source::Source;
use super::stored::Present;
use crate::catalogue::layout::{ArchiveBase, Layout};
use crate::key::Key;
use crate::manifest::{Algorithm, Manifest, Summing};
use crate::ops::archives::{
    CopyReport, Listing, Pages, Writing, control, files, lower_priority, manifest_failed,
};
use crate::pgdata::{self, LABEL_NAME, MANIFEST_NAME, OwnerNames, PageRules};
use crate::report::Reporter;
use crate::tar::{self, ArchiveSink, Member, Splitter};
use crate::transfer::{Lane, LaneOptions, TransferError, Uploader};

/// Everything the thread needs.
pub(super) struct Job {
    pub(super) source: Source,
    pub(super) layout: Layout,
    pub(super) lane: LaneOptions,
    pub(super) uploader: Uploader,
    pub(super) reporter: Arc<dyn Reporter>,
    pub(super) present: Arc<Present>,
    /// How the manifest sums up the files.
    pub(super) algorithm: Algorithm,
    /// What every archive depends on beside its members.
    pub(super) options: Digest,
    /// Whether the backup is not to be relayed if it has bad pages.
    pub(super) fail_on_bad_pages: bool,
}

/// The archives of the backup.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// All of them, in their order.
    pub(super) keys: Vec<Key>,
    /// How many were not there already.
    pub(super) sent: usize,
    /// The bad pages that are not to be relayed.
    pub(super) bad_pages: Option<String>,
}

impl Job {
    /// Sends what is not there yet. Blocks; uploads run on `runtime`.
    pub(super) fn run(self, runtime: &Handle) -> Result<Outcome, TransferError> {
        lower_priority();
        let sources = &self.source.sources;
        let control = control(&sources.pgdata)?;
        let identifier = control.system_identifier;
        let listing = Listing::new(self.algorithm, self.source.version, identifier);
        let range = &self.source.range;
        let rules = range
            .as_ref()
            .and_then(|range| PageRules::of(&control.sizes, range.start, Some(range.end)));
        let mut relaying = Relaying {
            job: &self,
            runtime,
            limit: self.lane.plan.sure_to_fit(),
            summing: Summing::new(self.algorithm),
            before: self.options.clone(),
            pages: Pages::new(rules),
            writing: Writing {
                cancel: self.lane.cancel.clone(),
                reporter: self.reporter.as_ref(),
                report: CopyReport::default(),
            },
            outcome: Outcome::default(),
        };
        let mut listing = listing.map_err(|error| manifest_failed(&error))?;
        for tablespace in &sources.tablespaces {
            let base = ArchiveBase::Tablespace(tablespace.oid);
            let mut archives = relaying.archives(base, &tablespace.location)?;
            while let Some(batch) = relaying.next(&mut archives, &mut listing)? {
                relaying.archive(&mut archives, &batch, None)?;
            }
        }
        relaying.data(listing)?;
        let Relaying {
            pages, mut outcome, ..
        } = relaying;
        if let Some(range) = range {
            outcome.bad_pages = pages.finish(range.end, self.fail_on_bad_pages).err();
        }
        Ok(outcome)
    }
}

/// A source and how far it was sent.
struct Archives<'a> {
    base: ArchiveBase,
    scout: Scout<'a>,
    sender: Sender,
    options: Digest,
    /// Number of the next archive.
    number: u32,
    over: bool,
}

impl Archives<'_> {
    /// What the next archive's fingerprint begins with.
    fn digest(&self) -> Digest {
        let mut digest = self.options.clone();
        digest.text(self.base.to_string().as_bytes());
        digest.number(self.number.into());
        digest
    }
}

struct Relaying<'a> {
    job: &'a Job,
    runtime: &'a Handle,
    /// Bytes of tar that an archive may have.
    limit: u64,
    summing: Summing,
    /// Of the archives so far.
    before: Digest,
    pages: Pages,
    writing: Writing<'a>,
    outcome: Outcome,
}

impl<'a> Relaying<'a> {
    fn archives(&self, base: ArchiveBase, root: &Path) -> Result<Archives<'a>, TransferError> {
        let sources = &self.job.source.sources;
        let walk = || sources.walk(base).map_err(|error| files(&error));
        Ok(Archives {
            base,
            scout: Scout::new(walk()?, root, base, &self.job.lane.cancel),
            sender: Sender::new(walk()?, root),
            options: self.job.options.clone(),
            number: 0,
            over: false,
        })
    }

    /// The members of the next archive; `None` after the last one.
    fn next(
        &mut self,
        archives: &mut Archives,
        listing: &mut Listing,
    ) -> Result<Option<Batch>, TransferError> {
        if archives.over {
            return Ok(None);
        }
        let digest = archives.digest();
        let (limit, pages) = (self.limit, &mut self.pages);
        let batch = archives.scout.batch(limit, listing, pages, digest)?;
        archives.over = batch.last;
        Ok(Some(batch))
    }

    fn data(&mut self, mut listing: Listing) -> Result<(), TransferError> {
        let pgdata = &self.job.source.sources.pgdata;
        let mut archives = self.archives(ArchiveBase::Data, pgdata)?;
        let last = loop {
            match self.next(&mut archives, &mut listing)? {
                Some(batch) if batch.last => break batch,
                Some(batch) => self.archive(&mut archives, &batch, None)?,
                None => return Err(TransferError::Files("PGDATA is empty".into())),
            }
        };
        let mut tail = Tail::read(&self.job.source, listing)?;
        if last.bytes.saturating_add(tail.bytes) <= self.limit {
            return self.archive(&mut archives, &last, Some(&mut tail));
        }
        self.archive(&mut archives, &last, None)?;
        let alone = Batch {
            members: 0,
            bytes: END,
            digest: archives.digest(),
            last: true,
        };
        self.archive(&mut archives, &alone, Some(&mut tail))
    }

    /// Sends the next archive, if it is not there.
    fn archive(
        &mut self,
        archives: &mut Archives,
        batch: &Batch,
        tail: Option<&mut Tail>,
    ) -> Result<(), TransferError> {
        let job = self.job;
        let (base, number) = (archives.base, archives.number);
        let suffix = job.lane.codec.info().suffix;
        let key = job.layout.archive(&job.source.id, base, number, suffix);
        let mut digest = batch.digest.clone();
        let mut bytes = batch.bytes;
        if let Some(tail) = &tail {
            // The manifest lists what is in all archives.
            digest.text(self.before.clone().finish().as_bytes());
            tail.describe(&mut digest);
            bytes = bytes.saturating_add(tail.bytes);
        }
        let fingerprint = digest.finish();
        self.before.text(fingerprint.as_bytes());
        self.outcome.keys.push(key.clone());
        let begun_with = archives.digest();
        archives.number += 1;
        if job.present.holds(&key, &fingerprint, self.runtime)? {
            tracing::info!("`{key}` is there already, whole: it is not sent again");
            job.reporter.processed(bytes);
            return archives.sender.skip(batch);
        }
        if self.outcome.sent == 0 {
            job.present.withdraw_record(self.runtime)?;
        }
        self.outcome.sent += 1;
        tracing::info!("Uploading '{key}'");
        let sink = Archive {
            lane: Lane::new(&job.lane, &job.uploader, self.runtime.clone()),
            key,
            fingerprint,
            bytes,
        };
        let mut out = Splitter::new(sink, u64::MAX);
        let sender = &mut archives.sender;
        sender.send(
            batch,
            begun_with,
            &self.summing,
            &mut self.writing,
            &mut out,
        )?;
        if let Some(tail) = tail {
            tail.send(&mut self.writing, &mut out)?;
        }
        out.finish().map_err(|error| self.writing.error(&error))
    }
}

/// The members that end a base backup.
struct Tail {
    control: (Member, Vec<u8>),
    manifest: Option<(Member, Manifest)>,
    label: (Member, Vec<u8>),
    /// Bytes of tar that they make.
    bytes: u64,
}

impl Tail {
    /// Reads the last files and makes the manifest of all.
    fn read(source: &Source, mut listing: Listing) -> Result<Self, TransferError> {
        let pgdata = &source.sources.pgdata;
        let mut owners = OwnerNames::default();
        let read = pgdata::read_control_member(pgdata, &mut owners);
        let (snapshot, member) = read.map_err(|error| files(&error))?;
        let control = (member, snapshot.bytes);
        let open = pgdata::open_external(&source.label, LABEL_NAME.to_vec(), &mut owners);
        let open = open
            .map_err(|error| files(&error))?
            .ok_or_else(|| TransferError::Files(format!("`{}` is gone", source.label.display())))?;
        let mut text = Vec::new();
        io::Read::read_to_end(
            &mut io::Read::take(open.file, open.member.size()),
            &mut text,
        )
        .map_err(|error| files(&error))?;
        let label = (open.member, text);
        for (member, bytes) in [&control, &label] {
            let mut sum = listing.summing();
            sum.add(bytes);
            let size = bytes.len() as u64;
            let listed = listing.add(ArchiveBase::Data, member, size, sum.finish());
            listed.map_err(|error| manifest_failed(&error))?;
        }
        let manifest = match &source.range {
            None => {
                tracing::info!(
                    "the backup.info of backup {} does not tell where it begins and ends: the \
                     archives get no manifest",
                    source.id
                );
                None
            }
            Some(range) => {
                let made = listing.finish(&[*range]);
                let made = made.map_err(|error| manifest_failed(&error))?;
                let member = pgdata::made_member(pgdata, MANIFEST_NAME, made.size(), &mut owners);
                Some((member.map_err(|error| files(&error))?, made))
            }
        };
        let members = [&control.0, &label.0].into_iter();
        let members = members.chain(manifest.as_ref().map(|(member, _)| member));
        let mut bytes = 0_u64;
        for member in members {
            let size = tar::stored_size(member).map_err(|error| files(&error))?;
            bytes = bytes.saturating_add(size);
        }
        Ok(Self {
            control,
            manifest,
            label,
            bytes,
        })
    }

    /// Adds the members to a fingerprint. What is in the manifest follows from all
    /// the others.
    fn describe(&self, digest: &mut Digest) {
        for (member, bytes) in [&self.control, &self.label] {
            digest.member(member, None);
            digest.text(bytes);
        }
        if let Some((member, _)) = &self.manifest {
            digest.member(member, None);
        }
    }

    fn send<S: ArchiveSink>(
        &mut self,
        writing: &mut Writing,
        out: &mut Splitter<S>,
    ) -> Result<(), TransferError> {
        writing.add(&self.control.0, &mut &self.control.1[..], out)?;
        if let Some((member, manifest)) = &mut self.manifest {
            writing.add(member, manifest, out)?;
        }
        writing.add(&self.label.0, &mut &self.label.1[..], out)?;
        Ok(())
    }
}

/// One archive, whose members were chosen beforehand.
struct Archive<'a> {
    lane: Lane<'a>,
    key: Key,
    fingerprint: String,
    /// Bytes of tar that it will have.
    bytes: u64,
}

impl Write for Archive<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.lane.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.lane.flush()
    }
}

impl ArchiveSink for Archive<'_> {
    fn begin(&mut self, _part: u32, first_member: u64) -> io::Result<()> {
        let fingerprint = Some(self.fingerprint.clone());
        let most = self.bytes.max(first_member);
        self.lane.begin(self.key.clone(), fingerprint, most)
    }

    fn bytes_out(&self) -> u64 {
        0
    }

    fn fits(&self, _bytes: u64) -> bool {
        true
    }

    fn end(&mut self) -> io::Result<()> {
        self.lane.end()
    }
}
