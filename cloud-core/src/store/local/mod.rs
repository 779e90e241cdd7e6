//! A directory as an object store: `file:///path`.
//!
//! Every write goes to a temporary file beside its target, is synced, and then
//! becomes visible at once: by `link(2)` where the key must be new, by
//! `rename(2)` where it may be replaced (docs/decisions.md 33). Both work on
//! NFS, where locks and unnamed files do not. After success the object, its
//! directory and all directories above are on disk.
//!
//! Objects have mode 0600 and directories 0700: they hold a whole database.
//! Temporary files have names no key can have; one that a killed process left
//! is harmless and no object. It is listed among the unfinished uploads, and goes
//! when it is aborted or when, a week later, something is deleted from its
//! directory.
//!
//! Symbolic links below the root are followed: an administrator may have moved
//! a server's directory to another disk. Whoever may place links there may
//! write objects as well, so nothing is gained by refusing them.

mod file;
mod listing;
mod multipart;
mod uploads;

use std::collections::BTreeSet;
use std::error::Error;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use rustix::fs::{Mode, OFlags};

use super::{
    Abilities, BucketState, DeleteReport, Depth, Download, Limits, ListPage, LockCheck,
    MultipartUpload, ObjectMeta, ObjectStore, ObjectVersion, Payload, PutOptions, PutReceipt,
    ReadRange, Result, StoreError, StoreErrorKind, StoreInfo, StoreOp, UnfinishedUpload, traffic,
};
use crate::key::{Key, Prefix};

/// Bytes handed out at a time by `get`.
const PIECE: u64 = 1 << 20;

/// A directory on this machine, or on a network file system.
#[derive(Debug, Clone)]
pub struct LocalStore {
    info: Arc<StoreInfo>,
    root: Arc<Path>,
}

impl LocalStore {
    /// The store below the directory `root`, which need not exist yet: like a
    /// bucket, it is created only when that is asked for, so that a file system
    /// that is not mounted is not mistaken for an empty archive.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        let root: PathBuf = root.into();
        let limits = Limits {
            min_part: 1,
            max_part: 5 << 30,
            max_parts: 1_000_000,
            max_object: 1 << 60,
            max_put: 64 << 20,
            delete_batch: 1000,
            equal_parts: false,
        };
        let info = StoreInfo {
            kind: "local directory",
            location: format!("file://{}", root.display()),
            limits,
            abilities: Abilities {
                create_only: true,
                tags: false,
                bulk_delete: false,
                locks: false,
                wants_sha256: false,
            },
        };
        Self {
            info: Arc::new(info),
            root: root.into(),
        }
    }

    fn error(&self, op: StoreOp, what: &str, error: io::Error) -> StoreError {
        let kind = if error.kind() == io::ErrorKind::NotFound && !self.root.is_dir() {
            StoreErrorKind::BucketMissing
        } else {
            kind_of(&error)
        };
        let source: Box<dyn Error + Send + Sync> = match kind {
            StoreErrorKind::BucketMissing => {
                format!("the directory {} does not exist", self.root.display()).into()
            }
            _ => error.into(),
        };
        self.info.error(op, what, kind, source)
    }

    fn refuse(&self, op: StoreOp, what: &str, kind: StoreErrorKind, why: &str) -> StoreError {
        self.info.error(op, what, kind, why)
    }

    /// The file of a key, and the check that it lies below the root.
    fn path(&self, op: StoreOp, key: &Key) -> Result<PathBuf> {
        if key.as_str().split('/').all(file::is_component) {
            return Ok(self.root.join(key.as_str()));
        }
        let why = "a name in a directory must not have empty components, `.` or `..`";
        Err(self.refuse(op, key.as_str(), StoreErrorKind::Invalid, why))
    }

    fn refuse_tags(&self, op: StoreOp, key: &Key, options: &PutOptions) -> Result<()> {
        match &options.tags {
            Some(tags) if !tags.is_empty() => {
                let why = "a directory cannot keep tags";
                Err(self.refuse(op, key.as_str(), StoreErrorKind::Unsupported, why))
            }
            _ => Ok(()),
        }
    }

    /// Runs blocking work; a signal that drops the future does not stop it
    /// halfway, so nothing is left behind.
    async fn blocking<T: Send + 'static>(
        &self,
        op: StoreOp,
        what: &str,
        work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let root = Arc::clone(&self.root);
        let done = tokio::task::spawn_blocking(move || work(&root)).await;
        done.map_err(|_| self.refuse(op, what, StoreErrorKind::Other, "the worker ended early"))?
            .map_err(|error| self.error(op, what, error))
    }
}

fn kind_of(error: &io::Error) -> StoreErrorKind {
    match error.kind() {
        io::ErrorKind::NotFound => StoreErrorKind::NotFound,
        io::ErrorKind::AlreadyExists => StoreErrorKind::AlreadyExists,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            StoreErrorKind::PermissionDenied
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            StoreErrorKind::Full
        }
        io::ErrorKind::TimedOut | io::ErrorKind::StaleNetworkFileHandle => StoreErrorKind::Timeout,
        // A name cannot be both an object and the directory of others.
        io::ErrorKind::NotADirectory
        | io::ErrorKind::IsADirectory
        | io::ErrorKind::InvalidFilename
        | io::ErrorKind::InvalidInput => StoreErrorKind::Invalid,
        io::ErrorKind::UnexpectedEof => StoreErrorKind::Corrupt,
        io::ErrorKind::Unsupported => StoreErrorKind::Unsupported,
        _ => StoreErrorKind::Other,
    }
}

/// Changes with every write: each makes a new file. The change time would also
/// move when the temporary name is taken away.
fn version(meta: &std::fs::Metadata) -> ObjectVersion {
    ObjectVersion(format!(
        "{:x}-{:x}.{:x}-{:x}",
        meta.ino(),
        meta.mtime(),
        meta.mtime_nsec(),
        meta.len()
    ))
}

fn meta_of(key: &Key, meta: &std::fs::Metadata) -> ObjectMeta {
    ObjectMeta {
        key: key.clone(),
        size: meta.len(),
        modified: meta.modified().ok(),
        version: Some(version(meta)),
        lock: None,
        fingerprint: None,
    }
}

/// Opens the file of an object; what is no file is no object.
fn open(path: &Path) -> io::Result<(File, std::fs::Metadata)> {
    // Opening a pipe must not wait for somebody to write into it.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags, Mode::empty());
    let file = opened
        .map(File::from)
        .map_err(io::Error::from)
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotADirectory => io::ErrorKind::NotFound.into(),
            _ => error,
        })?;
    let meta = file.metadata()?;
    if meta.is_file() {
        Ok((file, meta))
    } else {
        Err(io::ErrorKind::NotFound.into())
    }
}

#[async_trait]
impl ObjectStore for LocalStore {
    fn info(&self) -> &StoreInfo {
        &self.info
    }

    async fn probe(&self) -> Result<BucketState> {
        traffic::request();
        self.blocking(StoreOp::Probe, "the directory", |root| {
            match root.metadata() {
                Ok(meta) if meta.is_dir() => Ok(BucketState::Exists),
                Ok(_) => Err(io::ErrorKind::NotADirectory.into()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BucketState::Missing),
                Err(error) => Err(error),
            }
        })
        .await
    }

    async fn create_bucket(&self) -> Result<()> {
        traffic::request();
        self.blocking(StoreOp::CreateBucket, "the directory", |root| {
            let existing = root
                .ancestors()
                .find(|dir| dir.is_dir())
                .unwrap_or(Path::new("/"));
            let existing = existing.to_owned();
            file::create_directories(&existing, root)?;
            file::sync_directories(&existing, root)
        })
        .await
    }

    async fn put(&self, key: &Key, body: Payload, options: &PutOptions) -> Result<PutReceipt> {
        traffic::request();
        self.refuse_tags(StoreOp::Put, key, options)?;
        let path = self.path(StoreOp::Put, key)?;
        let PutOptions {
            mode, fingerprint, ..
        } = options.clone();
        self.blocking(StoreOp::Put, key.as_str(), move |root| {
            let mut temporary = file::Temporary::beside(root, &path)?;
            temporary.note(fingerprint.as_deref());
            for piece in body.pieces() {
                let piece = piece?;
                io::Write::write_all(temporary.file_mut(), &piece)?;
                traffic::sent(piece.len());
            }
            // Tried again, it is another file.
            temporary.sync()?;
            let meta = temporary.publish(root, &path, &mode)?;
            Ok(PutReceipt {
                version: Some(version(&meta)),
            })
        })
        .await
    }

    async fn begin_multipart(
        &self,
        key: &Key,
        options: &PutOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        traffic::request();
        let op = StoreOp::BeginMultipart;
        self.refuse_tags(op, key, options)?;
        let path = self.path(op, key)?;
        let target = path.clone();
        let file = self
            .blocking(op, key.as_str(), move |root| {
                file::Temporary::beside(root, &target)
            })
            .await?;
        Ok(Box::new(multipart::LocalUpload::new(
            self.clone(),
            key.clone(),
            path,
            options,
            file,
        )))
    }

    async fn get(&self, key: &Key, range: &ReadRange) -> Result<Download> {
        traffic::request();
        let op = StoreOp::Get;
        let path = self.path(op, key)?;
        let (file, meta) = self
            .blocking(op, key.as_str(), move |_| open(&path))
            .await?;
        let meta = meta_of(key, &meta);
        if range.version.is_some() && range.version != meta.version {
            let why = "the object was replaced while it was read";
            return Err(self.refuse(op, key.as_str(), StoreErrorKind::Corrupt, why));
        }
        let end = range.end.unwrap_or(meta.size);
        if range.start > end || end > meta.size {
            let why = "the range lies outside of the object";
            return Err(self.refuse(op, key.as_str(), StoreErrorKind::Invalid, why));
        }
        let (store, name) = (self.clone(), key.as_str().to_owned());
        let body = stream::try_unfold((file, range.start), move |(mut file, at)| {
            let (store, name) = (store.clone(), name.clone());
            async move {
                if at == end {
                    return Ok(None);
                }
                let read = move |_: &Path| {
                    let mut piece = Vec::new();
                    file.seek(SeekFrom::Start(at))?;
                    let wanted = PIECE.min(end - at);
                    let got = (&mut file).take(wanted).read_to_end(&mut piece)? as u64;
                    if got < wanted {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    traffic::received(piece.len());
                    Ok((Bytes::from(piece), (file, at + wanted)))
                };
                store.blocking(op, &name, read).await.map(Some)
            }
        });
        Ok(Download {
            meta,
            range: range.start..end,
            body: body.boxed(),
        })
    }

    async fn head(&self, key: &Key, _lock: LockCheck) -> Result<ObjectMeta> {
        traffic::request();
        let path = self.path(StoreOp::Head, key)?;
        let look = move |_: &Path| {
            let (file, meta) = open(&path)?;
            Ok((meta, file::noted(&file)))
        };
        let (meta, fingerprint) = self.blocking(StoreOp::Head, key.as_str(), look).await?;
        Ok(ObjectMeta {
            fingerprint,
            ..meta_of(key, &meta)
        })
    }

    fn list(&self, prefix: &Prefix, depth: Depth) -> BoxStream<'static, Result<ListPage>> {
        listing::pages(self.clone(), prefix.clone(), depth)
    }

    async fn delete_batch(&self, keys: &[Key]) -> Result<DeleteReport> {
        traffic::request();
        let mut paths = Vec::with_capacity(keys.len());
        let mut report = DeleteReport::default();
        for key in keys {
            match self.path(StoreOp::Delete, key) {
                Ok(path) => paths.push((key.clone(), path)),
                // No such object can exist.
                Err(_) => report.deleted.push(key.clone()),
            }
        }
        let fates = self
            .blocking(StoreOp::Delete, "objects", move |root| {
                root.read_dir()?;
                let directories: BTreeSet<PathBuf> = paths
                    .iter()
                    .filter_map(|(_, path)| path.parent().map(Path::to_owned))
                    .collect();
                let fate = |(key, path): (Key, PathBuf)| (key, file::delete(&path));
                let fates: Vec<_> = paths.into_iter().map(fate).collect();
                // From the end: what lies deeper sorts behind what holds it.
                for directory in directories.iter().rev() {
                    file::tidy(root, directory);
                }
                Ok(fates)
            })
            .await?;
        for (key, fate) in fates {
            match fate {
                Ok(()) => report.deleted.push(key),
                Err(error) => {
                    let error = self.error(StoreOp::Delete, key.as_str(), error);
                    report.failed.push((key, error));
                }
            }
        }
        Ok(report)
    }

    fn list_uploads(&self, prefix: &Prefix) -> BoxStream<'static, Result<Vec<UnfinishedUpload>>> {
        uploads::pages(self.clone(), prefix.clone())
    }

    async fn abort_upload(&self, upload: &UnfinishedUpload) -> Result<()> {
        uploads::abort(self, upload).await
    }
}

#[cfg(test)]
mod tests;
