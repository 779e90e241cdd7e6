//! Archiving, with the requested file, the ones that PostgreSQL will ask for next.
//!
//! The requested file goes first: its upload begins before anybody looks for others,
//! and what becomes of it is what becomes of the call. The others go beside it to the
//! same store, over the same connections, as far as the memory in [`share`] reaches;
//! what is stored is noted ([`notes`]), so that the calls that ask for it answer
//! without the store. A failure of one of them is only logged: the file will be
//! asked for in its own right, and the failure is reported then. If the requested
//! file fails, the others are given up, since PostgreSQL asks for the same one again.
//!
//! Several calls may work at the same time. Each file is locked while it is under
//! way: whoever is asked for it waits for that and then finds the note; whoever would
//! send it unasked passes over it.
//!
//! [`share`]: super::share
//! [`notes`]: super::notes

use std::fs;
use std::io;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tracing::{debug, info, warn};

use super::super::folder::{Lock, source_of};
use super::super::wal_object::join;
use super::super::{Ctx, OpError, OpErrorKind, chain};
use super::local::{LocalError, LocalFile};
use super::notes::{MOST, Note, Notes};
use super::ready::{READY, STATUS, next_ready};
use super::share::{MEMORY, Shares};
use super::upload::WHOLE;
use super::{AheadRequest, Order, interrupted, local_error};
use crate::key::Key;
use crate::wal::WalName;

/// Most files of one call, the requested one included: as many as PostgreSQL itself
/// looks ahead (source: `NUM_FILES_PER_DIRECTORY_SCAN` of its archiver).
const MOST_FILES: u32 = 64;

/// How long another call that is sending the requested file is waited for. Longer
/// than it tries again (docs/decisions.md 12); after that it hangs or is stopped, and
/// sending the file a second time does no harm (W2).
const WAIT: Duration = Duration::from_mins(2);

/// Finds the files that come next: [`next_ready`], but for tests.
type Look = fn(&Path, usize, &dyn Fn(&str) -> bool) -> io::Result<Vec<WalName>>;

/// Archives the requested file and others with it.
pub(super) async fn run(ctx: &Ctx, order: &Order, name: WalName) -> Result<(), OpError> {
    run_with(ctx, order, name, WAIT, next_ready as Look).await
}

async fn run_with<L>(
    ctx: &Ctx,
    order: &Order,
    name: WalName,
    wait: Duration,
    look: L,
) -> Result<(), OpError>
where
    L: FnOnce(&Path, usize, &dyn Fn(&str) -> bool) -> io::Result<Vec<WalName>> + Send + 'static,
{
    let Some(ahead) = order.ahead() else {
        return Err(OpError::new(
            OpErrorKind::General,
            "nothing is to be archived ahead",
        ));
    };
    let most = usize::try_from(ahead.parallel.min(MOST_FILES)).unwrap_or_default();
    let asked = Asked::of(order, ahead, &name);
    let directory = order.request.directory().to_owned();
    let begun = join(spawn_blocking(move || asked.begin())).await;
    let begun = begun.map_err(|error| local_error(&error))?;
    if !matches!(begun, Begun::Noted) {
        order.tell_gaps(ctx).await?;
    }
    let (requested, lock) = match begun {
        Begun::Noted => {
            tell_noted(&name);
            return Ok(());
        }
        Begun::Alone(local) => {
            return order.archiving(ctx, name, local, None).run().await;
        }
        Begun::Locked(requested, lock) => (requested, Some(lock)),
        Begun::Busy(requested) => match wait_for_lock(ctx, &requested, wait).await? {
            Waited::Noted => {
                tell_noted(&name);
                return Ok(());
            }
            Waited::Over(lock) => (requested, lock),
        },
    };
    let others = Others {
        order,
        ctx: Ctx {
            cancel: ctx.cancel.child_token(),
            ..ctx.clone()
        },
        notes: requested.notes.clone(),
        directory,
        shares: Shares::new(std::thread::available_parallelism().map_or(1, NonZero::get)),
    };
    let asked_for = name.clone();
    let requested = async {
        let local = Arc::clone(&requested.local);
        let archived = order.archiving(ctx, name, local, None).run().await;
        if archived.is_ok() {
            requested.keep_note().await;
        } else {
            others.ctx.cancel.cancel();
        }
        drop(lock);
        archived
    };
    let (archived, ()) = tokio::join!(requested, others.archive(&asked_for, most - 1, look));
    archived
}

/// What is known of the requested file without the store.
pub(super) enum Known {
    /// It is archived.
    Archived,
    /// Another call is sending it.
    Busy,
    Waiting(Arc<LocalFile>),
}

/// Looks at the requested file, and at what is noted of it.
pub(super) async fn known(order: &Order, name: &WalName) -> Result<Known, OpError> {
    let Some(ahead) = order.ahead() else {
        return order.open(name).await.map(Known::Waiting);
    };
    let asked = Asked::of(order, ahead, name);
    let begun = join(spawn_blocking(move || asked.begin())).await;
    Ok(match begun.map_err(|error| local_error(&error))? {
        Begun::Noted => {
            tell_noted(name);
            Known::Archived
        }
        Begun::Busy(_) => Known::Busy,
        Begun::Alone(local) => Known::Waiting(local),
        Begun::Locked(subject, _lock) => Known::Waiting(subject.local),
    })
}

/// What a call does for whose file there is a note.
fn tell_noted(name: &WalName) {
    info!("WAL file {name} is in the archive already, as an earlier call has noted");
}

/// The requested file before it is opened.
struct Asked {
    path: PathBuf,
    /// Where the WAL files are.
    directory: PathBuf,
    name: WalName,
    key: Key,
    spool_dir: PathBuf,
    source: String,
    place: String,
    required: Option<u64>,
}

/// How the requested file can be archived.
enum Begun {
    /// It is archived.
    Noted,
    /// Without others.
    Alone(Arc<LocalFile>),
    Locked(Subject, Lock),
    /// After another call, which sends this very file.
    Busy(Subject),
}

impl Asked {
    fn of(order: &Order, ahead: &AheadRequest, name: &WalName) -> Self {
        let (request, info) = (&order.request, order.store.info());
        let (kind, location) = (info.kind, info.location.as_str());
        // Whatever makes another object of the same file.
        let options = format!(
            "{} {:?} {:?} {:?} {}",
            request.codec.info().name,
            request.level,
            request.tags,
            request.history_tags,
            request.allow_overwrite
        );
        let (path, server) = (request.path.as_str(), request.server.as_str());
        Self {
            path: request.wal_path.clone(),
            directory: request.directory().to_owned(),
            name: name.clone(),
            key: order.object(name),
            spool_dir: ahead.spool_dir.clone(),
            source: order.folder(&ahead.url),
            place: source_of(&[&ahead.store, kind, location, path, server, &options]),
            required: request.require_system_id,
        }
    }

    fn begin(self) -> Result<Begun, LocalError> {
        let local = Arc::new(LocalFile::open(&self.path, &self.name, self.required)?);
        let status = self.directory.join(STATUS);
        if !status.is_dir() {
            let status = status.display();
            info!("nothing is archived ahead: there is no directory `{status}`");
            return Ok(Begun::Alone(local));
        }
        let notes = match Notes::open(&self.spool_dir, &self.source, self.place) {
            Ok(notes) => notes,
            Err(error) => {
                info!("nothing is archived ahead: {}", chain(&error));
                return Ok(Begun::Alone(local));
            }
        };
        let note = notes.note(&local, &self.name, &self.key);
        let locked = notes.try_lock(&self.name);
        let subject = Subject {
            notes,
            name: self.name,
            key: self.key,
            local,
            note,
        };
        match locked {
            // Not before: whoever had the lock a moment ago may have left a note.
            Ok(Some(_)) if subject.is_noted() => Ok(Begun::Noted),
            Ok(Some(lock)) => Ok(Begun::Locked(subject, lock)),
            Ok(None) => Ok(Begun::Busy(subject)),
            Err(error) => {
                info!("nothing is archived ahead: cannot lock files in the spool: {error}");
                Ok(Begun::Alone(subject.local))
            }
        }
    }
}

/// A file that is to be archived and noted.
#[derive(Clone)]
struct Subject {
    notes: Notes,
    name: WalName,
    key: Key,
    local: Arc<LocalFile>,
    /// Made before the file was read, if notes are made of it at all.
    note: Option<Note>,
}

impl Subject {
    /// Whether a note says that the file, as it is now, is archived.
    fn is_noted(&self) -> bool {
        let note = self.notes.note(&self.local, &self.name, &self.key);
        note.is_some_and(|note| self.notes.vouch_for(&note))
    }

    /// Notes that the file is archived, unless it has changed in any way.
    async fn keep_note(&self) {
        let subject = self.clone();
        join(spawn_blocking(move || {
            let now = subject
                .notes
                .note(&subject.local, &subject.name, &subject.key);
            if let Some(note) = now.filter(|now| subject.note.as_ref() == Some(now)) {
                subject.notes.keep(&note);
            }
        }))
        .await;
    }
}

/// How waiting for another call ended.
enum Waited {
    Noted,
    /// The file has to be sent all the same; without a lock after a call that hangs.
    Over(Option<Lock>),
}

async fn wait_for_lock(ctx: &Ctx, subject: &Subject, wait: Duration) -> Result<Waited, OpError> {
    let name = &subject.name;
    info!("WAL file {name} is being archived by another call, which is waited for");
    let (sender, receiver) = oneshot::channel();
    let waiting = subject.clone();
    // Nothing can end this thread but the other call, or the end of this one: so the
    // runtime must not wait for it.
    let spawned = std::thread::Builder::new().spawn(move || {
        let lock = waiting.notes.lock(&waiting.name);
        let noted = lock.is_ok() && waiting.is_noted();
        // Without a receiver the lock goes.
        let _ = sender.send((lock, noted));
    });
    if let Err(error) = spawned {
        warn!("WAL file {name} is archived without waiting for another call: {error}");
        return Ok(Waited::Over(None));
    }
    tokio::select! {
        biased;
        () = ctx.cancel.cancelled() => Err(interrupted()),
        waited = receiver => Ok(match waited {
            Ok((Ok(_), true)) => Waited::Noted,
            Ok((Ok(lock), false)) => Waited::Over(Some(lock)),
            Ok((Err(_), _)) | Err(_) => Waited::Over(None),
        }),
        () = tokio::time::sleep(wait) => {
            warn!(
                "WAL file {name} has been archived by another call for {} s, and is archived \
                 without waiting any longer",
                wait.as_secs()
            );
            Ok(Waited::Over(None))
        }
    }
}

/// The files that nobody has asked for yet.
struct Others<'a> {
    order: &'a Order,
    /// Cancelled also if the requested file fails.
    ctx: Ctx,
    notes: Notes,
    directory: PathBuf,
    shares: Shares,
}

impl Others<'_> {
    /// Archives up to `most` of them.
    async fn archive<L>(&self, requested: &WalName, most: usize, look: L)
    where
        L: FnOnce(&Path, usize, &dyn Fn(&str) -> bool) -> io::Result<Vec<WalName>> + Send + 'static,
    {
        let (notes, status) = (self.notes.clone(), self.directory.join(STATUS));
        let requested = requested.clone();
        let looking = spawn_blocking(move || {
            let noted = notes.sweep(&status);
            let room = MOST.saturating_sub(noted.len());
            let skip = |name: &str| name == requested.as_str() || noted.contains(name);
            look(&status, most.min(room), &skip)
        });
        let names = join(looking).await.unwrap_or_else(|error| {
            info!("nothing is archived ahead: cannot read `{STATUS}`: {error}");
            Vec::new()
        });
        stream::iter(names)
            .for_each_concurrent(most.max(1), async |name| {
                match self.archive_one(name.clone()).await {
                    Ok(Outcome::Archived) => info!("WAL file {name} was archived ahead"),
                    Ok(Outcome::PassedOver(why)) => {
                        debug!("WAL file {name} was not archived ahead: {why}");
                    }
                    Err(error) if error.kind == OpErrorKind::Interrupted => {
                        debug!("WAL file {name} was not archived ahead: {error}");
                    }
                    Err(error) => info!("WAL file {name} was not archived ahead: {error}"),
                }
            })
            .await;
    }

    async fn archive_one(&self, name: WalName) -> Result<Outcome, OpError> {
        let path = self.directory.join(name.as_str());
        let found = path.clone();
        let found = join(spawn_blocking(move || fs::metadata(found))).await;
        let Ok(size) = found.map(|found| found.len()) else {
            return Ok(Outcome::PassedOver("it is gone"));
        };
        let request = &self.order.request;
        let held = if request.codec.whole().is_some() && size <= WHOLE {
            size
        } else {
            0
        };
        let memory = request.codec.encoder_memory(request.level) + held;
        let share = tokio::select! {
            biased;
            () = self.ctx.cancel.cancelled() => return Err(interrupted()),
            share = self.shares.take(memory.saturating_add(size)) => share,
        };
        let Some(share) = share else {
            let why = format!("it may need more memory than {} MiB", MEMORY >> 20);
            return Err(OpError::new(OpErrorKind::General, why));
        };
        let key = self.order.object(&name);
        let (notes, directory, of) = (self.notes.clone(), self.directory.clone(), name.clone());
        let required = self.order.request.require_system_id;
        let prepared = spawn_blocking(move || prepare(notes, &directory, of, key, size, required));
        let (subject, lock) = match join(prepared).await? {
            Ok(prepared) => prepared,
            Err(why) => return Ok(Outcome::PassedOver(why)),
        };
        let local = Arc::clone(&subject.local);
        let archiving = self.order.archiving(&self.ctx, name, local, Some(share));
        archiving.run().await?;
        subject.keep_note().await;
        drop(lock);
        Ok(Outcome::Archived)
    }
}

enum Outcome {
    Archived,
    PassedOver(&'static str),
}

/// Locks and opens a file of at most `size` bytes that PostgreSQL still waits for; or
/// says why there is nothing to do.
fn prepare(
    notes: Notes,
    directory: &Path,
    name: WalName,
    key: Key,
    size: u64,
    required: Option<u64>,
) -> Result<Result<(Subject, Lock), &'static str>, OpError> {
    let locked = notes.try_lock(&name).map_err(|error| {
        let text = format!("cannot lock it in the spool: {error}");
        OpError::new(OpErrorKind::General, text)
    })?;
    let Some(lock) = locked else {
        return Ok(Err("another call is archiving it"));
    };
    let marker = directory.join(STATUS).join(format!("{name}{READY}"));
    let path = directory.join(name.as_str());
    let opened = LocalFile::open_unasked(&path, &name, required, marker.clone());
    let Some(local) = opened.map_err(|error| local_error(&error))? else {
        return Ok(Err("it is gone, or not what its name says"));
    };
    // Spares the work; what counts is that it is still there when the file was read.
    if !marker.exists() {
        return Ok(Err("PostgreSQL does not wait for it any more"));
    }
    if local.size() > size {
        return Ok(Err("it has grown"));
    }
    let Some(note) = notes.note(&local, &name, &key) else {
        return Ok(Err("nothing can be noted of it"));
    };
    if notes.vouch_for(&note) {
        return Ok(Err("another call has archived it"));
    }
    let subject = Subject {
        notes,
        name,
        key,
        local: Arc::new(local),
        note: Some(note),
    };
    Ok(Ok((subject, lock)))
}

#[cfg(test)]
mod tests;
