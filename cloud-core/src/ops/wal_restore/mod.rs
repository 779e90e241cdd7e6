//! Fetching one WAL file.
//!
//! PostgreSQL takes failure for "no such file" and may end its recovery, so
//! "absent" is said only if the store said so in this very call; trouble is
//! waited out for a while and then told apart (docs/decisions.md 10). The
//! destination never shows a part of a file (W3), and a segment that is not
//! whole is not delivered at all: PostgreSQL would take its end for the end of
//! the WAL.
//!
//! In the ordinary case this is one request: the object under the suffix that
//! was right the last time. Otherwise one listing shows what there is.

mod ahead;
mod candidates;
mod fetch;
mod patience;
mod record;
mod spool;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::ahead::fetch_ahead;
use self::candidates::{Candidate, find, following};
use self::fetch::{FetchFailure, fetch};
use self::patience::Patience;
use self::spool::Spool;
use super::folder::{Place, source_of};
use super::wal_object::{data_directory_of, join};
use super::{Ctx, OpError, OpErrorKind, chain};
use crate::catalogue::layout::Layout;
use crate::codec::Codec;
use crate::key::{Key, Prefix};
use crate::pgdata::{CONTROL_NAME, read_control};
use crate::store::{Depth, ObjectStore, StoreErrorKind, list_all};
use crate::wal::fit::Fit;
use crate::wal::{WalKind, WalName};

/// A WAL file to fetch.
#[derive(Debug, Clone)]
pub struct WalRestoreRequest {
    /// The URL as typed, without secrets, and whatever else decides which store
    /// is meant (an endpoint); part of the spool's identity.
    pub url: String,
    /// Key prefix from the URL, as written (it may end in slashes).
    pub path: String,
    /// Server name: one component of every key.
    pub server: String,
    /// The name PostgreSQL asks for, `%f`.
    pub wal_name: String,
    /// Where it goes, `%p`.
    pub destination: PathBuf,
    /// Never answer with a `.partial`.
    pub no_partial: bool,
    /// How many files to fetch at most, the requested one included; 0 and 1
    /// fetch only the requested one.
    pub parallel: u32,
    /// Parent of the folders for files fetched ahead.
    pub spool_dir: PathBuf,
    /// How long transient failures are retried in all; `None` is a minute, and
    /// five seconds for a standby.
    pub retry_timeout: Option<Duration>,
}

/// Fetches the file, and with `parallel` above 1 the segments after it into the
/// spool.
///
/// # Errors
///
/// `Usage` if the name is none of a WAL file. `Failed` if, and only if, the
/// store answered in this call that it has no such file; marked as expected for
/// a history file, since recovery asks for timelines that do not exist yet.
/// `Unreachable` if the store could not be asked within `retry_timeout`.
/// `General` for everything else. `store` need not repeat requests by itself.
pub async fn run(
    ctx: &Ctx,
    store: Arc<dyn ObjectStore>,
    mut request: WalRestoreRequest,
) -> Result<(), OpError> {
    let usage = |text: String| OpError::new(OpErrorKind::Usage, text);
    let name: WalName = request
        .wal_name
        .parse()
        .map_err(|error: crate::wal::InvalidWalName| usage(error.to_string()))?;
    let layout =
        Layout::new(&request.path, &request.server).map_err(|error| usage(error.to_string()))?;
    request.destination = replaceable(&request.destination).map_err(|error| {
        let (key, path) = (layout.wal(&name, ""), request.destination.display());
        let message = format!("Failure downloading WAL {key} to {path}: {error}");
        OpError::new(OpErrorKind::General, message).in_own_words()
    })?;
    let restoring = Restoring {
        spool: open_spool(&store, &request, &name).await,
        stop: ctx.cancel.child_token(),
        ctx,
        store,
        request,
        name,
        layout,
    };
    restoring.run().await
}

/// The file that is to be replaced, behind the links that lead to it. Delivery
/// by renaming would take the place of a device as well.
fn replaceable(destination: &Path) -> io::Result<PathBuf> {
    let refused = || io::Error::other("it exists and is not a regular file");
    match std::fs::symlink_metadata(destination) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(destination.to_owned()),
        Err(error) => Err(error),
        Ok(metadata) if metadata.is_symlink() => {
            let target = std::fs::canonicalize(destination)?;
            let regular = std::fs::symlink_metadata(&target)?.is_file();
            regular.then_some(target).ok_or_else(refused)
        }
        Ok(metadata) if metadata.is_file() => Ok(destination.to_owned()),
        Ok(_) => Err(refused()),
    }
}

/// The identifier of the cluster that a file is fetched for; `None` if the
/// destination lies in no data directory that can be read.
fn cluster_of(destination: &Path) -> Option<u64> {
    let control = std::str::from_utf8(CONTROL_NAME).ok()?;
    let control = data_directory_of(destination)?.join(control);
    Some(read_control(&control).ok()?.control.system_identifier)
}

/// The spool, for segments only: other files are asked for once.
async fn open_spool(
    store: &Arc<dyn ObjectStore>,
    request: &WalRestoreRequest,
    name: &WalName,
) -> Option<Arc<Spool>> {
    if name.kind() != WalKind::Segment {
        return None;
    }
    let info = store.info();
    let source = source_of(&[
        &request.url,
        info.kind,
        &info.location,
        &request.path,
        &request.server,
    ]);
    let parent = request.spool_dir.clone();
    match join(spawn_blocking(move || Spool::open(&parent, source))).await {
        Ok(spool) => Some(Arc::new(spool)),
        Err(error) if request.parallel > 1 => {
            warn!("nothing is fetched ahead: {}", chain(&error));
            None
        }
        Err(error) => {
            debug!("there is no spool: {}", chain(&error));
            None
        }
    }
}

struct Restoring<'a> {
    ctx: &'a Ctx,
    store: Arc<dyn ObjectStore>,
    request: WalRestoreRequest,
    name: WalName,
    layout: Layout,
    spool: Option<Arc<Spool>>,
    /// Set by a signal, and when somebody asks for a promotion while the store
    /// does not answer.
    stop: CancellationToken,
}

/// Why one round of asking did not end with the file.
enum Failure {
    /// The store may answer the next time.
    Transient(OpError),
    /// What arrived was not whole; what is stored may be.
    Damaged(OpError),
    /// Asking again would not help.
    Final(OpError),
    Stopped,
}

/// What the store had.
struct Delivered {
    codec: &'static dyn Codec,
    following: Vec<(WalName, Candidate)>,
}

impl Restoring<'_> {
    async fn run(&self) -> Result<(), OpError> {
        if self.take_spooled().await {
            return Ok(());
        }
        let delivered = self.ask_patiently().await?;
        if let Some(spool) = &self.spool {
            spool.remember_codec(delivered.codec);
            let segments = delivered.following;
            fetch_ahead(self.ctx, &self.store, spool, segments, &self.stop).await;
        }
        Ok(())
    }

    /// Delivers the file from the spool if it is there and its record holds.
    async fn take_spooled(&self) -> bool {
        let Some(spool) = self.spool.clone() else {
            return false;
        };
        let name = self.name.clone();
        let destination = self.request.destination.clone();
        let taken = join(spawn_blocking(move || {
            spool.trim(&name);
            if !spool.contains(&name) {
                return Ok(false);
            }
            spool.take(&name, cluster_of(&destination), &destination)
        }))
        .await;
        taken.unwrap_or_else(|error| {
            let name = &self.name;
            warn!("WAL file {name} cannot be moved out of the spool and is fetched anew: {error}");
            false
        })
    }

    async fn ask_patiently(&self) -> Result<Delivered, OpError> {
        let data_directory = data_directory_of(&self.request.destination);
        let asked = self.request.retry_timeout;
        let total = asked.unwrap_or_else(|| patience::usual(data_directory.as_deref()));
        let promote = data_directory.map(|directory| directory.join("promote"));
        let mut patience = Patience::new(total, promote);
        let mut first: Option<OpError> = None;
        let mut damaged_before = false;
        loop {
            let error = match self.ask().await {
                Ok(delivered) => return Ok(delivered),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Damaged(error)) if damaged_before => return Err(error),
                Err(Failure::Damaged(error)) => {
                    debug!("{error}: it is read once more");
                    damaged_before = true;
                    continue;
                }
                Err(Failure::Stopped) => return Err(self.stopped(first)),
                Err(Failure::Transient(error)) => error,
            };
            info!("{error}");
            // Later failures are often only an echo of the first.
            let first = first.get_or_insert(error);
            if !patience.wait(&self.stop).await {
                let tried = match patience.attempts() {
                    1 => String::new(),
                    attempts => format!(" (tried {attempts} times)"),
                };
                let error = OpError::new(first.kind, format!("{}{tried}", first.message));
                return Err(if self.stop.is_cancelled() {
                    self.stopped(Some(error))
                } else {
                    error
                });
            }
        }
    }

    fn stopped(&self, trouble: Option<OpError>) -> OpError {
        match trouble {
            Some(trouble) if !self.ctx.cancel.is_cancelled() => OpError::new(
                OpErrorKind::Unreachable,
                format!("{}; given up because of a promotion", trouble.message),
            ),
            _ => OpError::new(
                OpErrorKind::Interrupted,
                "WAL restore was interrupted by a signal",
            ),
        }
    }

    /// Asks the store once.
    async fn ask(&self) -> Result<Delivered, Failure> {
        if let Some(delivered) = self.guess().await? {
            return Ok(delivered);
        }
        let keys = self.list().await?;
        let found = find(&keys, &self.name);
        let candidates = match (found.whole.is_empty(), self.request.no_partial) {
            (false, _) => found.whole,
            (true, false) => found.partial,
            (true, true) => Vec::new(),
        };
        let mut problem = None;
        for candidate in candidates {
            let codec = candidate.codec;
            match self.deliver(&candidate).await {
                Ok(()) => {
                    let count = self.request.parallel.saturating_sub(1) as usize;
                    return Ok(Delivered {
                        codec,
                        following: following(&keys, &self.name, count),
                    });
                }
                // Another object of the same name may be whole.
                Err(failure @ FetchFailure::Damaged(_)) => {
                    problem.get_or_insert(self.failure(&candidate.key, failure));
                }
                // Trouble with the line or the disk is not the object's.
                Err(failure) => return Err(self.failure(&candidate.key, failure)),
            }
        }
        Err(problem.unwrap_or_else(|| Failure::Final(self.absent())))
    }

    /// Tries the suffix that was right the last time. `None` says nothing of
    /// what the archive has.
    async fn guess(&self) -> Result<Option<Delivered>, Failure> {
        // To know what follows takes a listing, and that shows the suffix.
        let spool = self.spool.as_ref().filter(|_| self.request.parallel <= 1);
        let Some(codec) = spool.and_then(|spool| spool.last_codec()) else {
            return Ok(None);
        };
        let candidate = Candidate {
            key: self.layout.wal(&self.name, codec.info().suffix),
            codec,
        };
        match self.deliver(&candidate).await {
            Ok(()) => Ok(Some(Delivered {
                codec,
                following: Vec::new(),
            })),
            Err(FetchFailure::Stopped) => Err(Failure::Stopped),
            // Where listing is not allowed, S3 answers 403 for what is absent.
            Err(FetchFailure::Store(error))
                if matches!(
                    error.kind,
                    StoreErrorKind::NotFound | StoreErrorKind::PermissionDenied
                ) =>
            {
                Ok(None)
            }
            Err(FetchFailure::Damaged(_)) => Ok(None),
            Err(failure) => Err(self.failure(&candidate.key, failure)),
        }
    }

    async fn list(&self) -> Result<Vec<Key>, Failure> {
        let ahead = self.request.parallel > 1 && self.spool.is_some();
        let prefix = if ahead {
            self.layout.wal_dir(&self.name)
        } else {
            Prefix::text(self.layout.wal(&self.name, "").as_str())
        };
        let listing = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Err(Failure::Stopped),
            listing = list_all(&*self.store, &prefix, Depth::One) => listing,
        };
        match listing {
            Ok(listing) => Ok(listing.objects.into_iter().map(|meta| meta.key).collect()),
            Err(error) if error.kind.is_transient() => {
                Err(Failure::Transient(OpError::of_store(&error)))
            }
            Err(error) => Err(Failure::Final(OpError::of_store(&error))),
        }
    }

    /// Fetches one object and gives it the name PostgreSQL waits for.
    async fn deliver(&self, candidate: &Candidate) -> Result<(), FetchFailure> {
        let destination = &self.request.destination;
        let beside = (Place::Cwd, destination.clone());
        let (name, stop) = (&self.name, &self.stop);
        let fetched = fetch(self.ctx, &self.store, candidate, name, stop, beside).await?;
        let persisted = fetched.file.persist(&Place::Cwd, destination);
        persisted.map_err(FetchFailure::Local)?;
        let key = &candidate.key;
        match fetched.fit {
            // PostgreSQL looks at every page itself, and people put copies of
            // other segments into archives to test them.
            Some(Fit::Doubtful(misfit)) => {
                warn!("WAL file {name} was restored from `{key}` although {misfit}");
            }
            Some(Fit::Segment(identity)) => {
                let theirs = identity.system_identifier;
                if let Some(ours) = cluster_of(destination).filter(|ours| *ours != theirs) {
                    warn!(
                        "WAL file {name} was restored from `{key}` although it is of another \
                         cluster: its first page names system identifier {theirs}, the data \
                         directory has {ours}"
                    );
                }
            }
            Some(Fit::Unfit(_)) | None => {}
        }
        if let Some(flaw) = fetched.flaw {
            // Withheld it would be no more of use: the server takes a segment
            // that it does not get for the end of the WAL too.
            warn!(
                "WAL file {name} was restored from `{key}` although {flaw}: PostgreSQL takes this \
                 for the end of the WAL"
            );
        }
        let suffix = candidate.codec.info().suffix;
        let found = key.base_name().strip_suffix(suffix);
        if found != Some(name.as_str()) {
            warn!("WAL file {name} is not in the archive: it was restored from `{key}`");
        }
        Ok(())
    }

    fn failure(&self, key: &Key, failure: FetchFailure) -> Failure {
        let destination = self.request.destination.display();
        let told = |kind, why: String| {
            let text = format!("Failure downloading WAL {key} to {destination}: {why}");
            OpError::new(kind, text).in_own_words()
        };
        match failure {
            FetchFailure::Store(error) => {
                let told = told(OpError::of_store(&error).kind, chain(&error));
                // Listed a moment ago: the next listing tells what happened.
                let vanished = error.kind == StoreErrorKind::NotFound;
                if error.kind.is_transient() || vanished {
                    Failure::Transient(told)
                } else {
                    Failure::Final(told)
                }
            }
            FetchFailure::Damaged(why) => Failure::Damaged(told(OpErrorKind::General, why)),
            FetchFailure::Local(error) => {
                Failure::Final(told(OpErrorKind::General, error.to_string()))
            }
            FetchFailure::Stopped => Failure::Stopped,
        }
    }

    fn absent(&self) -> OpError {
        let (name, server) = (&self.name, &self.request.server);
        let message = format!("WAL file {name} for server {server} does not exist");
        let error = OpError::new(OpErrorKind::Failed, message);
        match self.name.kind() {
            WalKind::History => error.expected(),
            WalKind::Segment | WalKind::Partial | WalKind::Backup => error,
        }
    }
}

#[cfg(test)]
mod tests;
