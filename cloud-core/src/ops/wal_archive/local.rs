//! The file to archive: opened once, read as often as needed, and only trusted
//! if it did not change meanwhile.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;
use rustix::fs::OFlags;
use sha2::{Digest, Sha256};
use tracing::{debug, warn};

use super::super::wal_object::data_directory_of;
use super::pages::Pages;
use tokio_util::sync::CancellationToken;

use crate::codec::{Codec, Encoder, Level, Whole};
use crate::pgdata::{CONTROL_NAME, read_control};
use crate::store::{Payload, Sums};
use crate::wal::fit::{Fit, Misfit, judge};
use crate::wal::page::{LONG_HEADER_LEN, SegmentIdentity};
use crate::wal::{WalKind, WalName};

const BUFFER: usize = 256 << 10;

/// Why the file cannot be archived.
#[derive(Debug, thiserror::Error)]
pub(super) enum LocalError {
    #[error("could not read WAL file `{}`", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("could not read WAL file `{}`: it is not a regular file", path.display())]
    NotAFile { path: PathBuf },
    #[error("WAL file `{}` changed while it was read", path.display())]
    Changed { path: PathBuf },
    #[error("could not compress WAL file `{}`", path.display())]
    Encode { path: PathBuf, source: io::Error },
    #[error(
        "WAL file `{}` is of another cluster: its first page names system identifier {file}, the \
         data directory has {cluster}", path.display()
    )]
    Foreign {
        path: PathBuf,
        file: u64,
        cluster: u64,
    },
    #[error(
        "WAL file `{}` is not of the cluster {required}: {}", path.display(), names(*.file)
    )]
    NotRequired {
        path: PathBuf,
        file: Option<u64>,
        required: u64,
    },
}

/// What the first page of a file says of its cluster.
fn names(system: Option<u64>) -> String {
    system.map_or_else(
        || "its first page names none".to_owned(),
        |system| format!("its first page names system identifier {system}"),
    )
}

/// The file, open.
#[derive(Debug)]
pub(super) struct LocalFile {
    path: PathBuf,
    file: File,
    size: u64,
    modified: Option<SystemTime>,
    /// What is there as long as PostgreSQL keeps the file as it is.
    marker: Option<PathBuf>,
}

impl LocalFile {
    /// Opens the file and looks whether it is what its name says: what is
    /// merely odd is logged, a segment of another cluster than the data
    /// directory's is refused (docs/decisions.md 32).
    ///
    /// So is one of another cluster than `required`.
    pub(super) fn open(
        path: &Path,
        name: &WalName,
        required: Option<u64>,
    ) -> Result<Self, LocalError> {
        let (local, misfit) = Self::open_judged(path, name, required)?;
        if let Some(misfit) = misfit {
            warn!("WAL file {name} is archived although {misfit}");
        }
        Ok(local)
    }

    /// Opens a file that nobody asked for: `None` if it is gone or merely odd.
    ///
    /// Whoever asked for it would have PostgreSQL keep it. Here `marker` says that it
    /// does, and the file counts as changed as soon as that is gone.
    pub(super) fn open_unasked(
        path: &Path,
        name: &WalName,
        required: Option<u64>,
        marker: PathBuf,
    ) -> Result<Option<Self>, LocalError> {
        match Self::open_judged(path, name, required) {
            Ok((local, None)) => Ok(Some(Self {
                marker: Some(marker),
                ..local
            })),
            Ok((_, Some(misfit))) => {
                debug!("WAL file {name} is not archived unasked: {misfit}");
                Ok(None)
            }
            Err(LocalError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn open_judged(
        path: &Path,
        name: &WalName,
        required: Option<u64>,
    ) -> Result<(Self, Option<Misfit>), LocalError> {
        let failed = |source| LocalError::Read {
            path: path.to_owned(),
            source,
        };
        let file = OpenOptions::new()
            .read(true)
            // A FIFO of that name would block for ever.
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(path)
            .map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(LocalError::NotAFile {
                path: path.to_owned(),
            });
        }
        let local = Self {
            path: path.to_owned(),
            file,
            size: metadata.len(),
            modified: metadata.modified().ok(),
            marker: None,
        };
        let misfit = match name.kind() {
            WalKind::Segment | WalKind::Partial => local.check_segment(name, required)?,
            WalKind::Backup | WalKind::History => None,
        };
        Ok((local, misfit))
    }

    fn check_segment(
        &self,
        name: &WalName,
        required: Option<u64>,
    ) -> Result<Option<Misfit>, LocalError> {
        let mut head = [0; LONG_HEADER_LEN];
        let head = match self.file.read_exact_at(&mut head, 0) {
            Ok(()) => &head[..],
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => &[],
            Err(error) => return Err(self.failed(error)),
        };
        let misfit = match judge(name, self.size, head) {
            Fit::Segment(_) => None,
            Fit::Doubtful(misfit) | Fit::Unfit(misfit) => Some(misfit),
        };
        let identity = SegmentIdentity::of(head);
        let file = identity.map(|identity| identity.system_identifier);
        if let Some(required) = required.filter(|required| file != Some(*required)) {
            return Err(LocalError::NotRequired {
                path: self.path.clone(),
                file,
                required,
            });
        }
        let Some(identity) = identity else {
            return Ok(misfit);
        };
        match self.cluster() {
            Some(cluster) if cluster != identity.system_identifier => Err(LocalError::Foreign {
                path: self.path.clone(),
                file: identity.system_identifier,
                cluster,
            }),
            _ => Ok(misfit),
        }
    }

    /// The identifier in the data directory's `pg_control`; `None` if there is
    /// no data directory or it cannot be read, which is no reason to stop
    /// archiving.
    fn cluster(&self) -> Option<u64> {
        let name = std::str::from_utf8(CONTROL_NAME).ok()?;
        let control = data_directory_of(&self.path)?.join(name);
        match read_control(&control) {
            Ok(snapshot) => Some(snapshot.control.system_identifier),
            Err(error) => {
                debug!("the cluster's identity is not checked: {error}");
                None
            }
        }
    }

    /// The error that says why the file could not be read.
    pub(super) fn failed(&self, source: io::Error) -> LocalError {
        LocalError::Read {
            path: self.path.clone(),
            source,
        }
    }

    /// The file itself.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Size of the file in bytes when it was opened.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Compresses the file into `out`, and stops early once `cancel` is set.
    /// Everything `out` received is to be thrown away unless this returns `Ok`.
    pub(super) fn encode(
        &self,
        codec: &dyn Codec,
        level: Level,
        cancel: &CancellationToken,
        out: Box<dyn Write + Send>,
    ) -> Result<(), LocalError> {
        let failed = |source| LocalError::Encode {
            path: self.path.clone(),
            source,
        };
        let mut encoder: Box<dyn Encoder> = codec.encoder(out, level).map_err(failed)?;
        // Many bytes may go in before one comes out, so the end of `out` alone
        // would be noticed too late.
        self.read(|bytes| {
            if cancel.is_cancelled() {
                return Err(failed(interrupted()));
            }
            encoder.write_all(bytes).map_err(failed)
        })?;
        encoder.finish().map_err(failed)
    }

    /// The whole file, compressed at once.
    ///
    /// To be thrown away unless this returns `Ok`, like all that is read of the file.
    pub(super) fn compress(
        &self,
        whole: Whole,
        level: Level,
        cancel: &CancellationToken,
    ) -> Result<Bytes, LocalError> {
        let failed = |source| LocalError::Encode {
            path: self.path.clone(),
            source,
        };
        let plain = self.read_whole(cancel)?;
        let mut out = Pages::new((whole.bound)(plain.len())).map_err(failed)?;
        let length = (whole.compress)(&plain, level, &mut out).map_err(failed)?;
        out.truncate(length);
        Ok(Bytes::from_owner(out))
    }

    /// What a store gets that takes the file as it is, with its SHA-256 if that is
    /// `wanted`. Reads it once.
    pub(super) fn payload(
        &self,
        wanted: bool,
        cancel: &CancellationToken,
    ) -> Result<Payload, LocalError> {
        let mut crc32c = 0;
        let mut sha256 = wanted.then(Sha256::new);
        self.read(|bytes| {
            if cancel.is_cancelled() {
                return Err(self.failed(interrupted()));
            }
            crc32c = crc32c::crc32c_append(crc32c, bytes);
            if let Some(sha256) = &mut sha256 {
                sha256.update(bytes);
            }
            Ok(())
        })?;
        let file = self.file.try_clone().map_err(|error| self.failed(error))?;
        let sums = Sums {
            crc32c,
            sha256: sha256.map(|sha256| sha256.finalize().into()),
        };
        Ok(Payload::of_file(file, self.size, sums))
    }

    /// The content. Reading into where it stays spares a copy.
    fn read_whole(&self, cancel: &CancellationToken) -> Result<Pages, LocalError> {
        let size = usize::try_from(self.size).unwrap_or(usize::MAX);
        let mut whole = Pages::new(size).map_err(|error| self.failed(error))?;
        let mut read = 0;
        while read < size {
            if cancel.is_cancelled() {
                return Err(self.failed(interrupted()));
            }
            match self.file.read_at(&mut whole[read..], read as u64) {
                Ok(0) => return Err(self.changed()),
                Ok(count) => read += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
        self.check_unchanged(read as u64)?;
        Ok(whole)
    }

    /// The error that says that the file is not what it was.
    pub(super) fn changed(&self) -> LocalError {
        LocalError::Changed {
            path: self.path.clone(),
        }
    }

    /// Hands over the content piece by piece, and fails if the file changed
    /// meanwhile.
    pub(super) fn read(
        &self,
        mut take: impl FnMut(&[u8]) -> Result<(), LocalError>,
    ) -> Result<(), LocalError> {
        let mut buffer = vec![0; BUFFER];
        let mut offset = 0;
        loop {
            let count = match self.file.read_at(&mut buffer, offset) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.failed(error)),
            };
            offset += count as u64;
            if offset > self.size {
                return Err(self.changed());
            }
            take(&buffer[..count])?;
        }
        self.check_unchanged(offset)
    }

    /// Whether the file, of which `read` bytes were read, is still what was opened.
    fn check_unchanged(&self, read: u64) -> Result<(), LocalError> {
        let now: Metadata = self.file.metadata().map_err(|error| self.failed(error))?;
        let kept = self.marker.as_ref().is_none_or(|marker| marker.exists());
        let same =
            read == self.size && now.len() == self.size && now.modified().ok() == self.modified;
        if same && kept {
            Ok(())
        } else {
            Err(self.changed())
        }
    }
}

fn interrupted() -> io::Error {
    io::Error::other("interrupted")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_hashed_while_it_is_read_if_that_is_wanted() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("00000002.history");
        let content = [7, 8].repeat(BUFFER);
        std::fs::write(&path, &content).expect("writes");
        let name = "00000002.history".parse().expect("a name");
        let local = LocalFile::open(&path, &name, None).expect("opens");
        for wanted in [false, true] {
            let payload = local.payload(wanted, &CancellationToken::new());
            let payload = payload.expect("reads");
            assert_eq!(payload.crc32c(), crc32c::crc32c(&content));
            let hash = wanted.then(|| Sha256::digest(&content).into());
            assert_eq!(payload.sha256(), hash);
        }
    }

    #[test]
    fn a_file_that_changes_while_it_is_read_is_refused() {
        type Change = fn(&Path);
        let later = |path: &Path| {
            let file = File::options().write(true).open(path).expect("the file");
            let time = SystemTime::now() + std::time::Duration::from_mins(1);
            file.set_modified(time).expect("a time");
        };
        let changes: [(&str, Change); 4] = [
            ("longer", |path| {
                let mut file = File::options().append(true).open(path).expect("the file");
                file.write_all(b"more").expect("writes");
            }),
            ("shorter", |path| {
                let file = File::options().write(true).open(path).expect("the file");
                file.set_len(10).expect("cuts");
            }),
            ("rewritten", later),
            ("untouched", |_| {}),
        ];
        let directory = tempfile::tempdir().expect("a temporary directory");
        for (what, change) in changes {
            let path = directory.path().join("00000002.history");
            std::fs::write(&path, vec![7; 3 * BUFFER]).expect("writes");
            let name = "00000002.history".parse().expect("a name");
            let local = LocalFile::open(&path, &name, None).expect("opens");
            let mut first = true;
            let result = local.read(|_| {
                if std::mem::take(&mut first) {
                    change(&path);
                }
                Ok(())
            });
            let refused = matches!(result, Err(LocalError::Changed { .. }));
            assert_eq!(refused, what != "untouched", "{what}: {result:?}");
        }
    }

    /// PostgreSQL may use the file again as soon as the mark is gone.
    #[test]
    fn a_file_that_nobody_asked_for_counts_only_while_its_mark_is_there() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (path, marker) = (directory.path().join("x"), directory.path().join("x.ready"));
        std::fs::write(&path, vec![7; 3 * BUFFER]).expect("writes");
        let name = "00000002.history".parse().expect("a name");
        let open = |path: &Path| LocalFile::open_unasked(path, &name, None, marker.clone());
        let read = || {
            open(&path)
                .expect("opens")
                .expect("is there")
                .read(|_| Ok(()))
        };
        assert!(matches!(read(), Err(LocalError::Changed { .. })));
        std::fs::write(&marker, "").expect("writes");
        assert!(read().is_ok());
        let gone = open(&directory.path().join("y"));
        assert!(matches!(gone, Ok(None)), "{gone:?}");
    }
}
