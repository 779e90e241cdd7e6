//! All archives of a backup, read side by side.
//!
//! How members are to be looked at is known when the last archive of PGDATA was read: there
//! are the manifest, with its kind of checksum, and `pg_control`. So that one is read first. Until
//! then the ordinary case is assumed, and what was read on a wrong assumption is read a second
//! time: an archive for each job at most, unless the manifest hides in another one.

use std::collections::BTreeMap;
use std::io;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use super::compare::dir_of;
use super::findings::{Findings, Kind};
use super::interrupted;
use super::member::{Counted, Members, Method, Suspect, Tree};
use crate::catalogue::info::BackupInfo;
use crate::catalogue::layout::{Archive, ArchiveBase, ArchiveSet};
use crate::key::{Key, Prefix};
use crate::manifest::{self, Algorithm, Checksum, Kept};
use crate::ops::reading::{Lanes, Passage, Trouble, Unpacked, not_begun, side_by_side};
use crate::ops::{Ctx, OpError, OpErrorKind};
use crate::pgdata::{
    CONTROL_NAME, ControlFile, ControlSizes, Known, Names, PageRules, display_name, plain_name,
};
use crate::store::{ObjectStore, StoreErrorKind};

/// An archive with its number, which is its place among all of them.
#[derive(Debug, Clone)]
pub(super) struct Numbered {
    pub(super) number: u32,
    pub(super) base: ArchiveBase,
    pub(super) archive: Archive,
}

impl Numbered {
    /// All archives of a backup, PGDATA's first.
    pub(super) fn all(set: ArchiveSet) -> Vec<Self> {
        let archives = set
            .archives
            .into_iter()
            .flat_map(|(base, archives)| archives.into_iter().map(move |archive| (base, archive)));
        (0..)
            .zip(archives)
            .map(|(number, (base, archive))| Self {
                number,
                base,
                archive,
            })
            .collect()
    }
}

/// What came of an archive.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) unpacked: Unpacked,
    pub(super) manifest: Option<Kept>,
    pub(super) findings: Findings,
    bad_pages: Findings,
    pub(super) suspects: Vec<Suspect>,
    pub(super) counted: Counted,
    /// It was read to its end.
    pub(super) whole: bool,
    pub(super) method: Method,
}

/// Reads the archives of one backup.
pub(super) struct Archives<'a> {
    ctx: &'a Ctx,
    pub(super) all: Vec<Numbered>,
    jobs: NonZeroU32,
    lanes: Lanes,
    stop: CancellationToken,
    info: &'a BackupInfo,
    pub(super) tree: Arc<Tree>,
    /// The right method, once it is known.
    right: Mutex<Option<Method>>,
}

impl<'a> Archives<'a> {
    pub(super) fn new(
        ctx: &'a Ctx,
        store: &Arc<dyn ObjectStore>,
        all: Vec<Numbered>,
        jobs: NonZeroU32,
        info: &'a BackupInfo,
    ) -> Self {
        let stop = ctx.cancel.child_token();
        Self {
            ctx,
            lanes: Lanes::new(ctx, store, jobs, all.len(), &stop),
            all,
            jobs,
            stop,
            info,
            tree: Arc::new(Tree::new()),
            right: Mutex::default(),
        }
    }

    /// Bytes that came from the store.
    pub(super) fn fetched(&self) -> u64 {
        self.lanes.fetched()
    }

    /// Where a file is, for people: the key of its archive and its name behind a colon.
    pub(super) fn place(&self, dir: &Prefix, number: u32, name: &[u8]) -> String {
        let archive = self.all.iter().find(|one| one.number == number);
        let key = archive.map_or(dir_of(dir), |one| one.archive.key.as_str());
        format!("{key}:{}", display_name(name))
    }

    /// Reads all of them, by their numbers.
    pub(super) async fn read(&self) -> Result<BTreeMap<u32, Part>, OpError> {
        let mut order: Vec<&Numbered> = self.all.iter().collect();
        let last = self.last_of_pgdata();
        order.sort_by_key(|one| Some(one.number) != last);
        let mut parts = self.round(&order).await?;
        let method = self.right(&parts);
        let wrong = |part: &Part| {
            let pages = method.pages.is_some() && part.method.pages != method.pages;
            part.method.algorithm != method.algorithm || pages
        };
        let again: Vec<&Numbered> = self
            .all
            .iter()
            .filter(|one| parts.get(&one.number).is_some_and(wrong))
            .collect();
        if !again.is_empty() {
            tracing::info!(
                "{} archives are read again: checksums or pages are of another kind than is usual",
                again.len()
            );
            *self.right.lock().unwrap_or_else(PoisonError::into_inner) = Some(method);
            parts.extend(self.round(&again).await?);
        }
        for part in parts.values_mut() {
            let pages = std::mem::take(&mut part.bad_pages);
            if method.pages.is_some() {
                part.findings.append(pages);
            } else {
                part.suspects.clear();
                part.counted.pages = 0;
            }
        }
        Ok(parts)
    }

    /// The archive that has the manifest and `pg_control`.
    fn last_of_pgdata(&self) -> Option<u32> {
        let data = |one: &&Numbered| one.base == ArchiveBase::Data;
        self.all.iter().rfind(data).map(|one| one.number)
    }

    async fn round(&self, archives: &[&Numbered]) -> Result<BTreeMap<u32, Part>, OpError> {
        let works = archives.iter().map(|one| self.one(one));
        let parts = side_by_side(self.jobs, &self.stop, works).await?;
        Ok(parts.into_iter().flatten().collect())
    }

    async fn one(&self, one: &Numbered) -> Result<BTreeMap<u32, Part>, OpError> {
        let (number, base, key) = (one.number, one.base, one.archive.key.to_string());
        tracing::info!("Reading '{key}'");
        let right = *self.right.lock().unwrap_or_else(PoisonError::into_inner);
        let method = right.unwrap_or_else(|| self.assumed());
        let mut members = Members::new(&self.tree, &key, base, number, method);
        let work = move |passage: Passage| {
            let read = passage.run(|member, content| members.take(member, content));
            Ok::<_, Trouble<io::Error>>((members, read))
        };
        let read = self.lanes.read(base, &one.archive, work).await;
        let (mut part, trouble) = match read {
            Ok((members, read)) => {
                let last = members.last.clone();
                let mut part = Part::of(members);
                match read {
                    Ok(unpacked) => {
                        part.unpacked = unpacked;
                        part.whole = true;
                        (part, None)
                    }
                    Err(trouble) => (part, Some((trouble, last))),
                }
            }
            Err(trouble) => {
                let none = Members::new(&self.tree, &key, base, number, method);
                (Part::of(none), Some((trouble, None)))
            }
        };
        if let Some((trouble, last)) = trouble {
            let (kind, detail) = explain(&one.archive.key, trouble, last.as_deref())?;
            part.findings.note(kind, key, detail);
        }
        let parts = BTreeMap::from([(number, part)]);
        if Some(number) == self.last_of_pgdata() {
            // When it is read again, all archives have said what is right, and this one may know
            // less: the manifest may be in another.
            let mut right = self.right.lock().unwrap_or_else(PoisonError::into_inner);
            right.get_or_insert_with(|| self.right(&parts));
        }
        self.ctx.reporter.archive_done(one.archive.key.base_name());
        Ok(parts)
    }

    /// The ordinary case, as far as the record tells.
    fn assumed(&self) -> Method {
        let sizes = ControlSizes {
            block_size: 8192,
            relation_segment_blocks: 1 << 17,
            wal_block_size: 8192,
            wal_segment_size: 1 << 24,
            data_checksums: Some(self.info.data_checksums.as_deref() == Some("on")),
        };
        Method {
            algorithm: Algorithm::Crc32c,
            pages: self.rules(&sizes),
        }
    }

    fn rules(&self, sizes: &ControlSizes) -> Option<PageRules> {
        let lsn = |text: &Option<String>| text.as_deref()?.parse().ok();
        PageRules::of(sizes, lsn(&self.info.begin_xlog)?, lsn(&self.info.end_xlog))
    }

    /// The right method, as far as what was read tells.
    fn right(&self, parts: &BTreeMap<u32, Part>) -> Method {
        let mut method = self.assumed();
        let manifest = parts.values().rev().find_map(|part| part.manifest.as_ref());
        if let Some(algorithm) = manifest.and_then(algorithm_of) {
            method.algorithm = algorithm;
        }
        let control = parts.values().rev().find_map(|part| {
            let (_, bytes) = part.unpacked.held.get(CONTROL_NAME)?;
            ControlFile::parse(bytes).ok()
        });
        if let Some(control) = control {
            method.pages = self.rules(&control.sizes);
        }
        method
    }

    /// Finds the names of the files that are left in the tree, by reading their archives
    /// again.
    pub(super) async fn name_left(&self) -> Result<Findings, OpError> {
        let left = self.tree.names.files_of_archives();
        let archives = self.all.iter().filter(|one| left.contains_key(&one.number));
        let works = archives.map(|one| async move {
            let (base, number, key) = (one.base, one.number, one.archive.key.to_string());
            let tree = Arc::clone(&self.tree);
            let work = move |passage: Passage| {
                let mut findings = Findings::default();
                let read = passage.run(|member, _| {
                    let path = plain_name(&member.name).ok();
                    let path = path.map(|name| manifest::path(base.tablespace(), &name));
                    if path.is_some_and(|path| is_left(&tree.names, &path, number)) {
                        let place = format!("{key}:{}", display_name(&member.name));
                        let detail = "the manifest of the backup does not have it";
                        findings.note(Kind::File, place, detail);
                    }
                    Ok::<(), io::Error>(())
                });
                read.map(|_| findings)
            };
            let found = self.lanes.read(base, &one.archive, work).await;
            found.or_else(|trouble| {
                let (kind, detail) = explain(&one.archive.key, trouble, None)?;
                let mut findings = Findings::default();
                findings.note(kind, one.archive.key.to_string(), detail);
                Ok(findings)
            })
        });
        let found = side_by_side(self.jobs, &self.stop, works).await?;
        let mut all = Findings::default();
        for findings in found {
            all.append(findings);
        }
        Ok(all)
    }
}

impl Drop for Archives<'_> {
    /// Threads end although nobody waits for them any more.
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Part {
    fn of(members: Members) -> Self {
        Self {
            unpacked: Unpacked::default(),
            manifest: members.manifest,
            findings: members.findings,
            bad_pages: members.bad_pages,
            suspects: members.suspects,
            counted: members.counted,
            whole: false,
            method: members.method,
        }
    }
}

/// Whether a file of this archive is in no manifest.
fn is_left(names: &Names, path: &[u8], number: u32) -> bool {
    let known = names.of_archive(path, number);
    known.is_some_and(Known::is_file)
}

/// What an archive that was not read to its end says of the backup; an error if it says
/// nothing.
fn explain(
    key: &Key,
    trouble: Trouble<io::Error>,
    last: Option<&str>,
) -> Result<(Kind, String), OpError> {
    let after = last.map_or(String::new(), |name| format!(", in or behind `{name}`"));
    match trouble {
        Trouble::Stopped => Err(interrupted()),
        Trouble::Taker(error) => Err(OpError::new(
            OpErrorKind::General,
            format!("a member could not be looked at: {error}"),
        )),
        Trouble::Archive(error) => {
            Ok((Kind::Archive, format!("it cannot be read: {error}{after}")))
        }
        Trouble::Local(error) => Err(not_begun(key, &error)),
        Trouble::Store(error) if error.kind == StoreErrorKind::NotFound => {
            Ok((Kind::Part, "it was deleted after it was listed".to_owned()))
        }
        Trouble::Store(error) if error.kind == StoreErrorKind::Corrupt => {
            let why = crate::ops::chain(&error);
            Ok((
                Kind::Archive,
                format!("the store does not deliver it: {why}{after}"),
            ))
        }
        Trouble::Store(error) => Err(OpError::of_store(&error)),
    }
}

/// What the first file in a manifest is summed up with. Whether the manifest counts is looked at
/// later.
fn algorithm_of(kept: &Kept) -> Option<Algorithm> {
    let mut algorithm = None;
    let _ = manifest::read(kept.text().ok()?, |entry| {
        if algorithm.is_none() {
            algorithm = entry.checksum.as_ref().map(Checksum::algorithm);
        }
    });
    algorithm
}
