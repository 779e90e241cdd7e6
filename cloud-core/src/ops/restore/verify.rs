//! What was unpacked, held against the manifest.
//!
//! The manifest comes at the very end of the last archive, so every file is
//! summed up while it is unpacked and 16 bytes of each are remembered (`pgdata::Names`). Nothing of
//! this is believed to be the backup's manifest but one whose own checksum holds
//! and that names the backup's own range of WAL: data directories contain
//! manifests left by other tools and by earlier restores (docs/decisions.md 24).
//! None of those stands just before the label, where the backup's own one does: one
//! that does not count there was damaged, or came with an archive of another backup.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};

use super::plan::Plan;
use crate::catalogue::layout::ArchiveBase;
use crate::manifest::{self, Checksum, Entry, Summing};
use crate::ops::reading::is_manifest_of;
use crate::ops::{OpError, OpErrorKind};
use crate::pgdata::{MANIFEST_NAME, Target, display_name};

/// Bytes read at a time of a file that is summed up again.
const BLOCK: usize = 256 << 10;

/// How many damaged files are named; the others are counted.
const NAMED: usize = 3;

/// The files of a restore, before the last two of them are written.
pub(super) struct Restored<'a> {
    pub(super) plan: &'a Plan,
    /// PGDATA and the tablespaces, as in the plan.
    pub(super) targets: &'a [Arc<Target>],
    /// Files that are not on disk yet, by their name in PGDATA.
    pub(super) held: Vec<(&'a [u8], &'a [u8])>,
}

impl Restored<'_> {
    /// Compares all files with the manifest, if the backup has one. A stray one is
    /// taken away.
    ///
    /// `own_manifest`: it stood where the backup's own one stands.
    pub(super) fn verify(&self, own_manifest: bool) -> Result<(), OpError> {
        if let Some(pgdata) = self.targets.first() {
            for (name, bytes) in &self.held {
                let (size, crc) = (bytes.len() as u64, crc32c::crc32c(bytes));
                pgdata.names().fill(name, u32::MAX, size, crc);
            }
        }
        let Some(file) = self.open(MANIFEST_NAME)? else {
            tracing::info!("backup {} has no manifest to compare with", self.plan.id);
            return Ok(());
        };
        let why = match manifest::read(BufReader::new(file), |_| ()) {
            Ok(summary) if is_manifest_of(&self.plan.info, &summary) => {
                return self.compare();
            }
            Ok(_) => "it is of another backup".to_owned(),
            Err(error) => error.to_string(),
        };
        if own_manifest {
            let why = format!("its `backup_manifest` cannot be used: {why}");
            return Err(self.plan.damaged(&why));
        }
        tracing::warn!(
            "the `backup_manifest` in backup {} is ignored and not restored: {why}",
            self.plan.id
        );
        let path = self.path(MANIFEST_NAME);
        std::fs::remove_file(&path).map_err(|error| {
            let text = format!("could not remove `{}`: {error}", path.display());
            OpError::new(OpErrorKind::General, text)
        })
    }

    fn compare(&self) -> Result<(), OpError> {
        // The manifest does not list itself.
        if let Some(pgdata) = self.targets.first() {
            pgdata.names().remove_file(MANIFEST_NAME);
        }
        let Some(file) = self.open(MANIFEST_NAME)? else {
            return Ok(());
        };
        let mut damage = Damage::default();
        let read = manifest::read(BufReader::new(file), |entry| {
            let found = self.located(&entry.path);
            let found = found.and_then(|(target, name)| target.names().remove_file(name));
            let problem = match (found, &entry.checksum) {
                (None, _) => Some("is missing".to_owned()),
                (Some(known), Some(Checksum::Crc32c(crc))) => {
                    (!known.is(entry.size, *crc)).then(|| "is not what was backed up".to_owned())
                }
                (Some(_), Some(checksum @ Checksum::Sha256(_))) => {
                    self.sum_up_again(&entry, checksum)
                }
                (Some(_), None) => None,
            };
            if let Some(problem) = problem {
                damage.note(format!("`{}` {problem}", display_name(&entry.path)));
            }
        });
        read.map_err(|error| {
            let text = format!("could not read the manifest again: {error}");
            OpError::new(OpErrorKind::General, text)
        })?;
        if self.targets.iter().any(|target| target.names().files() > 0) {
            for path in self.left_over() {
                damage.note(format!("`{}` does not belong to it", display_name(&path)));
            }
        }
        damage.result(self.plan)
    }

    /// What is wrong with a file that is summed up with another algorithm than
    /// was used while it was unpacked.
    fn sum_up_again(&self, entry: &Entry, checksum: &Checksum) -> Option<String> {
        let mut sum = Summing::new(checksum.algorithm());
        let held = self.held.iter().find(|(name, _)| *name == entry.path);
        let size = match held {
            Some((_, bytes)) => {
                sum.add(bytes);
                Ok(bytes.len() as u64)
            }
            None => self.add_file(&entry.path, &mut sum),
        };
        match size {
            Err(error) => Some(format!("cannot be read again: {error}")),
            Ok(size) if size == entry.size && sum.finish() == *checksum => None,
            Ok(_) => Some("is not what was backed up".to_owned()),
        }
    }

    fn add_file(&self, path: &[u8], sum: &mut Summing) -> io::Result<u64> {
        let mut file = open(&self.path(path))?;
        let mut block = vec![0; BLOCK];
        let mut size = 0;
        loop {
            let count = file.read(&mut block)?;
            if count == 0 {
                return Ok(size);
            }
            sum.add(&block[..count]);
            size += count as u64;
        }
    }

    /// The target of a path in a manifest, and its name there.
    fn located<'p>(&self, path: &'p [u8]) -> Option<(&Target, &'p [u8])> {
        for (source, target) in self.plan.sources.iter().zip(self.targets) {
            let prefix = manifest::path(source.base.tablespace(), b"");
            if let ArchiveBase::Tablespace(_) = source.base
                && let Some(rest) = path.strip_prefix(prefix.as_slice())
            {
                return Some((target.as_ref(), rest));
            }
        }
        self.targets.first().map(|target| (target.as_ref(), path))
    }

    /// The file of a path in a manifest.
    fn path(&self, path: &[u8]) -> PathBuf {
        use std::os::unix::ffi::OsStrExt;
        let located = self.located(path).map(|(target, name)| {
            let name = Path::new(std::ffi::OsStr::from_bytes(name));
            target.path().join(name)
        });
        located.unwrap_or_default()
    }

    fn open(&self, name: &[u8]) -> Result<Option<File>, OpError> {
        let path = self.path(name);
        match open(&path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => {
                let text = format!("could not open `{}`: {error}", path.display());
                Err(OpError::new(OpErrorKind::General, text))
            }
        }
    }

    /// The paths of the files that are still remembered, found by looking at all that
    /// is on disk.
    fn left_over(&self) -> Vec<Vec<u8>> {
        let mut found: Vec<Vec<u8>> = Vec::new();
        for (source, target) in self.plan.sources.iter().zip(self.targets) {
            let prefix = manifest::path(source.base.tablespace(), b"");
            collect(target.path(), b"", &mut |name| {
                if target.names().has_file(name) {
                    found.push([&prefix, name].concat());
                }
            });
        }
        found.sort();
        found
    }
}

/// Opens a file that was just written, and nothing in its place.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other("it is not a regular file"))
    }
}

/// Gives every file below a directory to `take`, by its name in it.
fn collect(directory: &Path, text: &[u8], take: &mut dyn FnMut(&[u8])) {
    use std::os::unix::ffi::OsStrExt;
    let Ok(entries) = directory.read_dir() else {
        return;
    };
    for entry in entries.flatten() {
        let name = [text, entry.file_name().as_bytes()].concat();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => {
                collect(&entry.path(), &[&name, &b"/"[..]].concat(), take);
            }
            Ok(kind) if kind.is_file() => take(&name),
            _ => {}
        }
    }
}

/// What was found to be wrong.
#[derive(Default)]
struct Damage {
    named: Vec<String>,
    count: usize,
}

impl Damage {
    fn note(&mut self, what: String) {
        self.count += 1;
        if self.named.len() < NAMED {
            self.named.push(what);
        }
    }

    fn result(self, plan: &Plan) -> Result<(), OpError> {
        if self.count == 0 {
            tracing::info!("all files of backup {} are as its manifest says", plan.id);
            return Ok(());
        }
        let more = match self.count - self.named.len() {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        Err(plan.damaged(&format!("{}{more}", self.named.join(", "))))
    }
}
