//! The members of an archive: each is summed up as it passes by, and what a restore would
//! refuse is found.

use std::collections::BTreeSet;
use std::io::{self, BufRead, Write};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};

use super::findings::{Findings, Kind};
use crate::catalogue::layout::ArchiveBase;
use crate::manifest::{self, Algorithm, Checksum, Keeping, Kept, Summing};
use crate::pgdata::{
    BadPages, JOURNAL_NAME, MANIFEST_NAME, Names, PageChecker, PageRules, RelationFile,
    display_name, fork_of, plain_name, refused_at_top,
};
use crate::tar::{Member, MemberKind};
use crate::wal::blocks::{Block, Fork};

/// How members are looked at. What is right shows only when the last archive was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Method {
    /// What the manifest has of each file.
    pub(super) algorithm: Algorithm,
    /// How pages are judged, if the cluster has checksums.
    pub(super) pages: Option<PageRules>,
}

/// All names of the backup, by their paths in a manifest.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) names: Names,
    /// All directories that have something in them or are members themselves.
    directories: Mutex<BTreeSet<Vec<u8>>>,
    /// Makes that nobody can choose two checksums of one [`digest`](Self::digest).
    salt: u64,
}

impl Tree {
    pub(super) fn new() -> Self {
        Self {
            names: Names::new(),
            directories: Mutex::default(),
            salt: fastrand::u64(..),
        }
    }

    /// A checksum as the names remember it.
    pub(super) fn digest(&self, checksum: &Checksum) -> u32 {
        match checksum {
            Checksum::Crc32c(sum) => *sum,
            Checksum::Sha256(sum) => {
                let salted = Sha256::new().chain_update(self.salt.to_le_bytes());
                let digest = salted.chain_update(sum).finalize();
                u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]])
            }
        }
    }

    /// Whether there is anything under this path.
    pub(super) fn has(&self, path: &[u8]) -> bool {
        self.names.has(path) || self.is_directory(path)
    }

    fn is_directory(&self, path: &[u8]) -> bool {
        let directories = self.directories.lock();
        directories
            .unwrap_or_else(PoisonError::into_inner)
            .contains(path)
    }

    fn add_directory(&self, path: &[u8]) {
        let directories = self.directories.lock();
        directories
            .unwrap_or_else(PoisonError::into_inner)
            .insert(path.to_vec());
    }
}

/// What was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) files: u64,
    /// Of the files.
    pub(super) bytes: u64,
    pub(super) pages: u64,
}

/// A file with pages whose checksums are wrong. It may be that they were read while the server wrote
/// them: then the WAL of the backup has all of them as a whole.
#[derive(Debug)]
pub(super) struct Suspect {
    pub(super) place: String,
    pub(super) fork: Fork,
    pub(super) bad: BadPages,
}

impl Suspect {
    /// All of its pages that are remembered.
    pub(super) fn blocks(&self) -> impl Iterator<Item = Block> + '_ {
        let fork = self.fork;
        let blocks = self.bad.first.iter();
        blocks.map(move |page| Block {
            fork,
            number: page.number,
        })
    }
}

/// What is said of bad pages.
pub(super) fn bad_pages(bad: &BadPages) -> String {
    format!("the checksum is wrong of {bad}")
}

/// Most files of an archive of which the WAL is asked. A server writes few pages at a time.
const MOST_SUSPECTS: usize = 1000;

/// Takes the members of one archive.
pub(super) struct Members {
    tree: Arc<Tree>,
    key: String,
    base: ArchiveBase,
    /// Of a name in several archives the greatest number has the file that counts.
    number: u32,
    pub(super) method: Method,
    pub(super) findings: Findings,
    /// About pages, which count only if they were judged rightly.
    pub(super) bad_pages: Findings,
    pub(super) suspects: Vec<Suspect>,
    pub(super) counted: Counted,
    /// The last manifest that came.
    pub(super) manifest: Option<Kept>,
    /// The directory of the last member.
    parent: Vec<u8>,
    /// The member that came last, fit for printing.
    pub(super) last: Option<String>,
}

impl Members {
    pub(super) fn new(
        tree: &Arc<Tree>,
        key: &str,
        base: ArchiveBase,
        number: u32,
        method: Method,
    ) -> Self {
        Self {
            tree: Arc::clone(tree),
            key: key.to_owned(),
            base,
            number,
            method,
            findings: Findings::default(),
            bad_pages: Findings::default(),
            suspects: Vec::new(),
            counted: Counted::default(),
            manifest: None,
            parent: Vec::new(),
            last: None,
        }
    }

    /// Takes the next one. A file's content is read to its end.
    pub(super) fn take(&mut self, member: &Member, content: &mut dyn BufRead) -> io::Result<()> {
        let shown = display_name(&member.name);
        self.last = Some(shown.clone());
        let problem = match plain_name(&member.name) {
            Ok(name) if name == JOURNAL_NAME => None,
            Ok(name) => self.put(&name, member, content)?,
            Err(error) => Some(error.to_string()),
        };
        if let Some(problem) = problem {
            let place = format!("{}:{shown}", self.key);
            let detail = format!("a restore refuses it: {problem}");
            self.findings.note(Kind::Member, place, detail);
        }
        Ok(())
    }

    /// Puts a member in its place; gives why a restore would not.
    fn put(
        &mut self,
        name: &[u8],
        member: &Member,
        content: &mut dyn BufRead,
    ) -> io::Result<Option<String>> {
        let directory = member.kind == MemberKind::Directory;
        if name.is_empty() {
            let problem = "it would replace the target directory".to_owned();
            return Ok((!directory).then_some(problem));
        }
        if let Some(problem) = refused_at_top(name, &member.kind) {
            return Ok(Some(problem.to_owned()));
        }
        let path = manifest::path(self.base.tablespace(), name);
        if let Some(problem) = self.in_the_way(name, &path, directory) {
            return Ok(Some(problem));
        }
        let names = &self.tree.names;
        match &member.kind {
            MemberKind::Directory => self.tree.add_directory(&path),
            MemberKind::File { .. } => self.sum_up(&path, member, content)?,
            MemberKind::Symlink { .. } | MemberKind::Fifo => {
                take(names, &path, self.number);
            }
            MemberKind::HardLink { target } => {
                let target = plain_name(target).ok();
                let target = target.map(|name| manifest::path(self.base.tablespace(), &name));
                let known = target.as_ref().and_then(|target| {
                    let known = names.of_archive(target, self.number);
                    known.filter(|known| known.is_file())
                });
                match known {
                    Some(_) if target.as_ref() == Some(&path) => {}
                    Some(known) => {
                        if take(names, &path, self.number) {
                            names.copy(&path, known);
                        }
                    }
                    None => {
                        let problem =
                            "it is a hard link to no file that came before it in this archive";
                        return Ok(Some(problem.to_owned()));
                    }
                }
            }
            MemberKind::Device => return Ok(Some("it is a device file".to_owned())),
        }
        Ok(None)
    }

    /// What is in the way of a member of this path.
    fn in_the_way(&mut self, name: &[u8], path: &[u8], directory: bool) -> Option<String> {
        let tree = &self.tree;
        let first = path.len() - name.len();
        let above = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        let parent = &path[..above.max(first)];
        if parent != self.parent {
            let ends = (first..path.len()).filter(|at| path[*at] == b'/');
            for end in ends {
                let above = &path[..end];
                if tree.names.has(above) {
                    let above = display_name(above);
                    return Some(format!("`{above}` is no directory"));
                }
                tree.add_directory(above);
            }
            self.parent = parent.to_vec();
        }
        if directory && tree.names.has(path) {
            return Some("something else than a directory has its name".to_owned());
        }
        if !directory && tree.is_directory(path) {
            return Some("a directory has its name".to_owned());
        }
        None
    }

    fn sum_up(
        &mut self,
        path: &[u8],
        member: &Member,
        content: &mut dyn BufRead,
    ) -> io::Result<()> {
        let relation = || RelationFile::of(path);
        let pages = self
            .method
            .pages
            .and_then(|rules| Some((rules, relation()?)));
        let mut pages = pages.map(|(rules, file)| PageChecker::new(rules, file));
        let is_manifest = self.base == ArchiveBase::Data && path == MANIFEST_NAME;
        let mut keeping = is_manifest.then(Keeping::new).transpose()?;
        let mut sum = Summing::new(self.method.algorithm);
        let mut size = 0;
        loop {
            let piece = content.fill_buf()?;
            if piece.is_empty() {
                break;
            }
            sum.add(piece);
            if let Some(pages) = &mut pages {
                pages.feed(piece);
            }
            if let Some(keeping) = &mut keeping {
                keeping.write_all(piece)?;
            }
            let count = piece.len();
            size += count as u64;
            content.consume(count);
        }
        if let Some(keeping) = keeping {
            self.manifest = Some(keeping.finish()?);
        }
        if let Some(pages) = pages {
            let seen = pages.finish();
            self.counted.pages += seen.pages;
            if seen.bad.count > 0 {
                self.note_pages(path, member, seen.bad);
            }
        }
        let digest = self.tree.digest(&sum.finish());
        self.tree.names.fill(path, self.number, size, digest);
        self.counted.files += 1;
        self.counted.bytes += size;
        Ok(())
    }

    fn note_pages(&mut self, path: &[u8], member: &Member, bad: BadPages) {
        let place = format!("{}:{}", self.key, display_name(&member.name));
        let all = bad.count == bad.first.len() as u64;
        match fork_of(path) {
            Some(fork) if all && self.suspects.len() < MOST_SUSPECTS => {
                self.suspects.push(Suspect { place, fork, bad });
            }
            _ => self.bad_pages.note(Kind::Page, place, bad_pages(&bad)),
        }
    }
}

/// Takes a name for something that is no file; whether it did.
fn take(names: &Names, path: &[u8], number: u32) -> bool {
    let taken = names.take(path, number, |_| Ok::<(), std::convert::Infallible>(()));
    taken.is_ok_and(|taken| taken.is_some())
}
