//! Archiving one WAL file.
//!
//! PostgreSQL deletes a WAL file as soon as this has succeeded, so success is
//! said only after the store acknowledged the file (W1), and what is in the
//! archive is never replaced by something else (W2, docs/decisions.md 13).
//!
//! It is called once per segment, so the ordinary case is one request that
//! needs the permission to write alone: a create-only put. Only if the name is
//! taken the stored file is read and compared.

mod ahead;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod gaps;
mod local;
mod notes;
mod pages;
mod queue;
mod ready;
mod share;
mod stored;
mod upload;

use std::io;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::task::spawn_blocking;
use tracing::{info, warn};

use self::gaps::Gaps;
use self::local::{LocalError, LocalFile};
use self::queue::Sending;
use self::share::Share;
use self::stored::{Content, ContentWriter, Verdict, compare};
use self::upload::{Upload, UploadError};
use super::folder::source_of;
use super::wal_object::{MAX_WAL_FILE, ObjectFailure, decode_object, join};
use super::{Ctx, OpError, OpErrorKind, chain};
use crate::catalogue::layout::Layout;
use crate::codec::{Codec, Level};
use crate::key::Key;
use crate::store::{ObjectMeta, ObjectStore, PutMode, PutOptions, StoreErrorKind, Tag};
use crate::wal::{WalKind, WalName};

/// How often an object that others change at the same time is looked at. Whoever
/// comes too late with a longer `.partial` was overtaken by one more archiver, so this
/// is more than ever race; a store whose conditions never hold must end it all the
/// same.
const ROUNDS: u32 = 50;

/// A WAL file to archive.
#[derive(Debug, Clone)]
pub struct WalArchiveRequest {
    /// Key prefix from the URL, as written (it may end in slashes).
    pub path: String,
    /// Server name: one component of every key.
    pub server: String,
    /// The file, as PostgreSQL gives it in `%p`.
    pub wal_path: PathBuf,
    /// Compression.
    pub codec: &'static dyn Codec,
    /// Level of the compression.
    pub level: Level,
    /// Tags of the object.
    pub tags: Option<Vec<Tag>>,
    /// Tags of history files, in place of `tags`.
    pub history_tags: Option<Vec<Tag>>,
    /// Replace a different file of the same name.
    pub allow_overwrite: bool,
    /// What a different file of the same name is, if it is not replaced: `Failed`,
    /// or `NoRetry` for a caller that would try for ever.
    pub if_different: OpErrorKind,
    /// Archive segments and `.partial` files of this cluster alone: its system
    /// identifier.
    pub require_system_id: Option<u64>,
    /// Parts uploaded at the same time, where the file is too large for one
    /// request.
    pub at_once: NonZeroU32,
    /// Archive others with it; `None` where nobody will ask for them.
    pub ahead: Option<AheadRequest>,
    /// WAL that is or may be let go; `None` where none waits.
    pub queue: Option<QueueRequest>,
}

impl WalArchiveRequest {
    /// Where the file is.
    fn directory(&self) -> &Path {
        match self.wal_path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        }
    }
}

/// What becomes of WAL when too much of it waits.
#[derive(Debug, Clone)]
pub struct QueueRequest {
    /// How much may wait before segments are let go, in bytes; `None` lets none go.
    pub max: Option<u64>,
    /// Parent of the folders in which it is on record what was let go.
    pub spool_dir: PathBuf,
    /// The URL as in [`AheadRequest`].
    pub url: String,
}

/// How to archive the files that PostgreSQL will ask for next.
#[derive(Debug, Clone)]
pub struct AheadRequest {
    /// How many files to archive at most, the requested one included; 0 and 1
    /// archive only the requested one, and more than 64 are as many.
    pub parallel: u32,
    /// Parent of the folders for notes of what is archived.
    pub spool_dir: PathBuf,
    /// The URL as typed, without secrets, and whatever else a user would say names
    /// the store (an endpoint): whose notes lie in one folder.
    pub url: String,
    /// What has to be the same for a note to count: `store::identity`.
    pub store: String,
}

/// Archives the file, and with `ahead` the next ones that PostgreSQL waits for; `Ok`
/// only after the store acknowledged it, or if the archive holds the same file
/// already.
///
/// # Errors
///
/// `Usage` if the name is none of a WAL file. `if_different` of the request if the
/// archive holds a different file of this name, or a damaged one. `Failed` if it
/// holds one that may not be read, and if the segment is of another cluster (of
/// another one than the request wants: `if_different`).
/// `Unreachable` if the store is. `General` for everything else.
pub async fn run(
    ctx: &Ctx,
    store: Arc<dyn ObjectStore>,
    request: WalArchiveRequest,
) -> Result<(), OpError> {
    let usage = |text: String| OpError::new(OpErrorKind::Usage, text);
    let name = request.wal_path.file_name().unwrap_or_default();
    let name: WalName = name
        .to_string_lossy()
        .parse()
        .map_err(|error: crate::wal::InvalidWalName| usage(error.to_string()))?;
    let layout =
        Layout::new(&request.path, &request.server).map_err(|error| usage(error.to_string()))?;
    if !store.info().abilities.create_only {
        info!(
            "{} cannot refuse to replace an object: it is looked for first",
            store.info().kind
        );
    }
    let mut order = Order {
        store,
        layout,
        request,
        gaps: None,
        sending: Sending::default(),
    };
    let Some(queue) = order.request.queue.clone() else {
        return order.archive(ctx, name).await;
    };
    let gaps = Gaps::new(&queue.spool_dir, order.folder(&queue.url));
    order.gaps = Some(gaps.clone());
    match queue.max {
        Some(limit) => queue::run(ctx, &order, name, &gaps, limit).await,
        None => order.archive(ctx, name).await,
    }
}

/// What is the same for all files of a call.
struct Order {
    store: Arc<dyn ObjectStore>,
    layout: Layout,
    request: WalArchiveRequest,
    /// What was let go and the archive does not know yet.
    gaps: Option<Gaps>,
    /// How the store fares with the requested file.
    sending: Sending,
}

impl Order {
    /// Archives the file, and others if that is asked for.
    async fn archive(&self, ctx: &Ctx, name: WalName) -> Result<(), OpError> {
        if self.ahead().is_some() {
            return ahead::run(ctx, self, name).await;
        }
        let local = self.open(&name).await?;
        self.tell_gaps(ctx).await?;
        self.archiving(ctx, name, local, None).run().await
    }

    fn ahead(&self) -> Option<&AheadRequest> {
        let ahead = self.request.ahead.as_ref();
        ahead.filter(|ahead| ahead.parallel > 1)
    }

    async fn open(&self, name: &WalName) -> Result<Arc<LocalFile>, OpError> {
        let (path, of) = (self.request.wal_path.clone(), name.clone());
        let required = self.request.require_system_id;
        let local = join(spawn_blocking(move || {
            LocalFile::open(&path, &of, required)
        }))
        .await;
        local.map(Arc::new).map_err(|error| {
            let refusal = local_error(&error);
            match error {
                LocalError::NotRequired { .. } => OpError {
                    kind: self.request.if_different,
                    ..refusal
                },
                _ => refusal,
            }
        })
    }

    /// Has the archive say what was let go; nothing is archived before that (G1).
    async fn tell_gaps(&self, ctx: &Ctx) -> Result<(), OpError> {
        if let Some(gaps) = &self.gaps {
            gaps.send(ctx, self).await?;
        }
        Ok(())
    }

    /// What tells the folder of this archive from others.
    fn folder(&self, url: &str) -> String {
        let (request, info) = (&self.request, self.store.info());
        let (path, server) = (request.path.as_str(), request.server.as_str());
        source_of(&[url, info.kind, &info.location, path, server])
    }

    fn object(&self, name: &WalName) -> Key {
        self.layout.wal(name, self.request.codec.info().suffix)
    }

    fn archiving<'a>(
        &self,
        ctx: &'a Ctx,
        name: WalName,
        local: Arc<LocalFile>,
        share: Option<Share>,
    ) -> Archiving<'a> {
        let request = &self.request;
        let tags = match name.kind() {
            WalKind::History if request.history_tags.is_some() => request.history_tags.clone(),
            _ => request.tags.clone(),
        };
        Archiving {
            ctx,
            key: self.object(&name),
            store: Arc::clone(&self.store),
            name,
            local,
            codec: request.codec,
            level: request.level,
            tags,
            if_different: request.if_different,
            at_once: usize::try_from(request.at_once.get()).unwrap_or(usize::MAX),
            allow_overwrite: request.allow_overwrite,
            sending: share.is_none().then(|| self.sending.clone()),
            share,
        }
    }
}

/// Whether a put stored the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Put {
    Stored,
    /// What is there is not what was expected.
    NameTaken,
}

struct Archiving<'a> {
    ctx: &'a Ctx,
    store: Arc<dyn ObjectStore>,
    key: Key,
    name: WalName,
    local: Arc<LocalFile>,
    codec: &'static dyn Codec,
    level: Level,
    tags: Option<Vec<Tag>>,
    if_different: OpErrorKind,
    at_once: usize,
    allow_overwrite: bool,
    /// Of the requested file alone, as `share` is of the others.
    sending: Option<Sending>,
    share: Option<Share>,
}

impl Archiving<'_> {
    async fn run(&self) -> Result<(), OpError> {
        if self.allow_overwrite {
            self.put(PutMode::Overwrite).await?;
        } else {
            self.create().await?;
        }
        if let Some(sending) = &self.sending {
            sending.finish();
        }
        Ok(())
    }

    async fn create(&self) -> Result<(), OpError> {
        if self.put(PutMode::CreateOnly).await? == Put::Stored {
            return Ok(());
        }
        let ours = self.our_content().await?;
        for _ in 0..ROUNDS {
            let Some((meta, stored)) = self.stored_content(&ours).await? else {
                // Deleted since; another archiver may be faster again.
                if self.put(PutMode::CreateOnly).await? == Put::Stored {
                    return Ok(());
                }
                continue;
            };
            match compare(self.name.kind(), &ours, &stored) {
                Verdict::Same => {
                    info!("WAL file {} is in the archive already", self.name);
                    return Ok(());
                }
                Verdict::Different => return Err(self.different(&ours, &stored)),
                Verdict::KeepStored => {
                    warn!(
                        "WAL file {} is in the archive already and reaches at least as far: the \
                         stored one is kept ({stored}; this file: {ours})",
                        self.name
                    );
                    return Ok(());
                }
                Verdict::Replace => {
                    warn!(
                        "WAL file {} in the archive reaches less far and is replaced ({stored}; \
                         this file: {ours})",
                        self.name
                    );
                    // Only what was compared: another archiver may have judged
                    // the same stored file, and reach further than both.
                    let mode = meta.version.map_or(PutMode::Overwrite, PutMode::Replace);
                    self.put(mode).await?;
                    // Looked at once more, for the stores that keep no conditions.
                }
            }
        }
        Err(OpError::new(
            OpErrorKind::General,
            format!("WAL file {} in the archive keeps changing", self.name),
        ))
    }

    async fn put(&self, mode: PutMode) -> Result<Put, OpError> {
        let conditional = mode != PutMode::Overwrite;
        let options = PutOptions {
            mode,
            tags: self.tags.clone(),
            ..PutOptions::default()
        };
        let upload = Upload {
            store: &*self.store,
            key: &self.key,
            local: &self.local,
            codec: self.codec,
            level: self.level,
            at_once: self.at_once,
            cancel: &self.ctx.cancel,
            share: self.share.as_ref(),
            sending: self.sending.as_ref(),
        };
        match upload.run(&options).await {
            Ok(()) => Ok(Put::Stored),
            Err(UploadError::Store(error))
                if conditional && error.kind == StoreErrorKind::AlreadyExists =>
            {
                Ok(Put::NameTaken)
            }
            Err(UploadError::Store(error)) => Err(OpError::of_store(&error)),
            Err(UploadError::Local(error)) => Err(local_error(&error)),
            Err(UploadError::Interrupted) => Err(interrupted()),
        }
    }

    async fn our_content(&self) -> Result<Content, OpError> {
        let (local, kind) = (Arc::clone(&self.local), self.name.kind());
        join(spawn_blocking(move || {
            let mut content = ContentWriter::default();
            local.read(|bytes| {
                content.update(bytes);
                Ok(())
            })?;
            Ok(content.finish(kind))
        }))
        .await
        .map_err(|error: LocalError| local_error(&error))
    }

    /// The stored file, decoded; `None` if it is gone.
    async fn stored_content(
        &self,
        ours: &Content,
    ) -> Result<Option<(ObjectMeta, Content)>, OpError> {
        let decoded = match self.decode_stored().await {
            Err(failure) if failure.may_be_of_the_way() => self.decode_stored().await,
            decoded => decoded,
        };
        let cannot_compare = |kind, why: String| {
            OpError::new(
                kind,
                format!(
                    "WAL file {} is in the archive already and cannot be compared with this file \
                     ({ours}): {why}",
                    self.name
                ),
            )
            .in_own_words()
        };
        match decoded {
            Ok((meta, content)) => Ok(Some((meta, content.finish(self.name.kind())))),
            Err(ObjectFailure::Stopped) => Err(interrupted()),
            Err(ObjectFailure::Store(error)) => match error.kind {
                StoreErrorKind::NotFound => Ok(None),
                StoreErrorKind::PermissionDenied => Err(cannot_compare(
                    OpErrorKind::Failed,
                    format!(
                        "the permission to read `{}` in {} is missing ({})",
                        self.key,
                        self.store.info().location,
                        chain(&error)
                    ),
                )
                .because(&error)
                .with_hint(
                    "let the archiver read what it wrote, or compare the two files by hand",
                )),
                _ => Err(OpError::of_store(&error)),
            },
            // Whatever it is, it is not this file, and may be all there is of
            // another one.
            Err(ObjectFailure::Damaged(error) | ObjectFailure::Taker(error)) => {
                Err(cannot_compare(
                    self.if_different,
                    format!("`{}` is damaged: {error}", self.key),
                )
                .with_hint(DIFFERENT_HINT))
            }
        }
    }

    async fn decode_stored(&self) -> Result<(ObjectMeta, ContentWriter), ObjectFailure> {
        let open = || Ok(ContentWriter::default());
        let stop = &self.ctx.cancel;
        let most = |_: &[u8]| MAX_WAL_FILE;
        decode_object(
            self.ctx,
            &self.store,
            &self.key,
            self.codec,
            stop,
            open,
            most,
        )
        .await
    }

    fn different(&self, ours: &Content, stored: &Content) -> OpError {
        OpError::new(
            self.if_different,
            format!(
                "a different WAL file {} is in the archive already (stored: {stored}; this file: \
                 {ours})",
                self.name
            ),
        )
        .in_own_words()
        .with_hint(DIFFERENT_HINT)
    }
}

/// What to do about a name that is taken.
const DIFFERENT_HINT: &str = "archive this cluster under another URL or server name; if the \
                              stored file is not wanted, --allow-overwrite replaces it";

fn local_error(error: &LocalError) -> OpError {
    if let LocalError::Read { path, source } = error
        && source.kind() == io::ErrorKind::NotFound
        && path.components().count() == 1
    {
        return OpError::new(OpErrorKind::General, chain(error))
            .with_hint("in archive_command write %p, the path of the file, and not %f, its name");
    }
    let kind = match error {
        LocalError::Foreign { .. } => OpErrorKind::Failed,
        LocalError::NotRequired { .. } => {
            return OpError::new(OpErrorKind::Failed, chain(error)).with_hint(
                "after pg_upgrade --require-system-id wants the new identifier, which \
                 pg_controldata prints",
            );
        }
        LocalError::Read { .. }
        | LocalError::NotAFile { .. }
        | LocalError::Changed { .. }
        | LocalError::Encode { .. } => OpErrorKind::General,
    };
    OpError::new(kind, chain(error))
}

fn interrupted() -> OpError {
    OpError::new(
        OpErrorKind::Interrupted,
        "WAL archiving was interrupted by a signal",
    )
}

#[cfg(test)]
mod tests;
