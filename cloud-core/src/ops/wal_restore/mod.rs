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
//! was right the last time. Otherwise one listing shows what there is. And with
//! `--parallel` it is mostly no request at all, since a helper process has fetched the
//! segment ahead; then a call is over [at once](at_once()).

mod at_once;
mod candidates;
mod claim;
mod fetch;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod helper;
mod patience;
mod record;
mod server;
mod spool;
mod wanted;
mod window;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::at_once::{Ahead, look_ahead, take};
pub use self::at_once::{AtOnce, at_once};
use self::candidates::{Candidate, find};
use self::claim::claim;
use self::fetch::{FetchFailure, fetch};
pub use self::helper::{Helper, Launch, launch, run_helper};
use self::patience::Patience;
use self::server::Server;
use self::spool::Spool;
use self::wanted::Wanted;
use self::window::{Fetcher, Window};
use super::folder::{Lock, Place, Temporary};
use super::wal_object::{data_directory_of, join};
use super::{Ctx, OpError, OpErrorKind, chain};
use crate::catalogue::layout::Layout;
use crate::codec::Codec;
use crate::key::{Key, Prefix};
use crate::store::{Depth, ObjectStore, StoreErrorKind, list_all};
use crate::wal::fit::Fit;
use crate::wal::{SegmentSize, WalKind, WalName};

/// A WAL file to fetch.
#[derive(Debug, Clone)]
pub struct WalRestoreRequest {
    /// The URL as typed, without secrets, and whatever else decides which store
    /// is meant (an endpoint); names the folder in the spool.
    pub url: String,
    /// Which store is meant, as a text that no other store has: what was fetched from
    /// another one counts for nothing.
    pub store: String,
    /// Server name: one component of every key.
    pub server: String,
    /// The name PostgreSQL asks for, `%f`.
    pub wal_name: String,
    /// Where it goes, `%p`.
    pub destination: PathBuf,
    /// Never answer with a `.partial`.
    pub no_partial: bool,
    /// How many files to have fetched at most, the requested one included; 0 and 1
    /// fetch only the requested one.
    pub parallel: u32,
    /// Starts the helper; without it the call itself fetches ahead.
    pub launch: Option<Launch>,
    /// Parent of the folders for files fetched ahead.
    pub spool_dir: PathBuf,
    /// How long transient failures are retried in all; `None` is a minute, and
    /// five seconds for a standby.
    pub retry_timeout: Option<Duration>,
}

/// Fetches the file, and with `parallel` above 1 sees to it that the segments after it
/// come into the spool. `path` is the key prefix from the URL, as written (it may end
/// in slashes).
///
/// # Errors
///
/// `Usage` if the name is none of a WAL file. `Failed` if, and only if, the
/// store answered in this call that it has no such file, or the name is a path; marked as expected for
/// a history file, since recovery asks for timelines that do not exist yet.
/// `Unreachable` if the store could not be asked within `retry_timeout`.
/// `General` for everything else. `store` need not repeat requests by itself.
pub async fn run(
    ctx: &Ctx,
    store: Arc<dyn ObjectStore>,
    path: &str,
    mut request: WalRestoreRequest,
) -> Result<(), OpError> {
    let usage = |text: String| OpError::new(OpErrorKind::Usage, text);
    let name = request.wal_name.parse::<WalName>().map_err(|error| {
        let (asked, server) = (&request.wal_name, &request.server);
        match asked.rsplit_once('/') {
            // Of a path the contract judges the last part alone, and no such file is archived.
            Some((_, base)) if base.parse::<WalName>().is_ok() => absent(asked, server),
            _ => usage(error.to_string()),
        }
    })?;
    let layout = Layout::new(path, &request.server).map_err(|error| usage(error.to_string()))?;
    request.destination = replaceable(&request.destination).map_err(|error| {
        let (key, path) = (layout.wal(&name, ""), request.destination.display());
        let message = format!("Failure downloading WAL {key} to {path}: {error}");
        OpError::new(OpErrorKind::General, message).in_own_words()
    })?;
    let request = Arc::new(request);
    let restoring = Restoring {
        spool: open_spool(&request, &name).await,
        stop: ctx.cancel.child_token(),
        ctx,
        store,
        request,
        name,
        layout,
        ahead: Arc::default(),
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
    let cluster = Server::of(destination)?.cluster()?;
    Some(cluster.system_identifier)
}

/// The spool, for segments only: other files are asked for once.
async fn open_spool(request: &Arc<WalRestoreRequest>, name: &WalName) -> Option<Arc<Spool>> {
    if name.kind() != WalKind::Segment {
        return None;
    }
    let of = Arc::clone(request);
    match join(spawn_blocking(move || Spool::open(&of))).await {
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
    request: Arc<WalRestoreRequest>,
    name: WalName,
    layout: Layout,
    spool: Option<Arc<Spool>>,
    /// Where to say, once, that it is for this call to fetch ahead.
    ahead: Arc<Mutex<Option<oneshot::Sender<Wanted>>>>,
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

/// Sees to what comes next, as soon as it is known that the requested segment is there.
struct Found {
    spool: Arc<Spool>,
    request: Arc<WalRestoreRequest>,
    name: WalName,
    codec: &'static dyn Codec,
    ahead: Arc<Mutex<Option<oneshot::Sender<Wanted>>>>,
}

impl Found {
    /// Does so only once, and only if the size of segments is known: from the control
    /// file, or else from the segment itself.
    fn tell(&self, size: Option<SegmentSize>) {
        let cluster = || self.spool.server().and_then(Server::cluster);
        let Some(size) = cluster().map(|cluster| cluster.segment_size).or(size) else {
            return;
        };
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(sender) = ahead.take() else { return };
        self.spool.remember_codec(self.codec);
        if let Ahead::Call(wanted) = look_ahead(&self.spool, &self.request, &self.name, size) {
            let _ = sender.send(wanted);
        }
    }
}

/// In the words of the contract: it is not in the archive.
fn absent(name: &str, server: &str) -> OpError {
    let message = format!("WAL file {name} for server {server} does not exist");
    OpError::new(OpErrorKind::Failed, message)
}

impl Restoring<'_> {
    async fn run(&self) -> Result<(), OpError> {
        let Some(spool) = &self.spool else {
            return self.ask_patiently().await.map(drop);
        };
        if self.take_spooled(spool).await {
            return Ok(());
        }
        if self.request.parallel <= 1 {
            let codec = self.ask_patiently().await?;
            spool.remember_codec(codec);
            return Ok(());
        }
        let lock = claim(spool, &self.name, &self.stop).await;
        // Whoever had the lock a moment ago may have brought it.
        if self.take_spooled(spool).await {
            return Ok(());
        }
        let (sender, receiver) = oneshot::channel();
        self.set_ahead(Some(sender));
        let fetcher = Fetcher {
            ctx: Ctx {
                cancel: self.stop.child_token(),
                ..self.ctx.clone()
            },
            store: Arc::clone(&self.store),
            layout: self.layout.clone(),
            spool: Arc::clone(spool),
            pauses: &[],
        };
        let requested = self.ask_for_it(spool, lock, &fetcher);
        let others = async {
            if let Ok(wanted) = receiver.await {
                Window::new(&fetcher, wanted).fetch_all().await;
            }
        };
        let (delivered, ()) = tokio::join!(requested, others);
        delivered
    }

    async fn ask_for_it(
        &self,
        spool: &Spool,
        lock: Option<Lock>,
        fetcher: &Fetcher,
    ) -> Result<(), OpError> {
        let delivered = self.ask_patiently().await;
        drop(lock);
        // Nobody will say any more what is to be fetched ahead.
        self.set_ahead(None);
        match delivered {
            Ok(codec) => {
                spool.remember_codec(codec);
                Ok(())
            }
            Err(error) => {
                fetcher.ctx.cancel.cancel();
                Err(error)
            }
        }
    }

    fn set_ahead(&self, sender: Option<oneshot::Sender<Wanted>>) {
        *self.ahead.lock().unwrap_or_else(PoisonError::into_inner) = sender;
    }

    /// Delivers the file from the spool if it is there and its record holds.
    async fn take_spooled(&self, spool: &Arc<Spool>) -> bool {
        let (spool, name) = (Arc::clone(spool), self.name.clone());
        let request = Arc::clone(&self.request);
        join(spawn_blocking(move || {
            spool.trim(&name);
            take(&spool, &request, &name, &request.destination)
        }))
        .await
    }

    /// Delivers the file, and gives the codec that its object had.
    async fn ask_patiently(&self) -> Result<&'static dyn Codec, OpError> {
        let data_directory = data_directory_of(&self.request.destination);
        let asked = self.request.retry_timeout;
        let total = asked.unwrap_or_else(|| patience::usual(data_directory.as_deref()));
        let promote = data_directory.map(|directory| directory.join("promote"));
        let mut patience = Patience::new(total, promote);
        let mut first: Option<OpError> = None;
        let mut damaged_before = false;
        loop {
            let error = match self.ask().await {
                Ok(codec) => return Ok(codec),
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
    async fn ask(&self) -> Result<&'static dyn Codec, Failure> {
        if let Some(codec) = self.guess().await? {
            return Ok(codec);
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
            match self.deliver(&candidate).await {
                Ok(()) => return Ok(candidate.codec),
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
    async fn guess(&self) -> Result<Option<&'static dyn Codec>, Failure> {
        let last = self.spool.as_ref().and_then(|spool| spool.last_codec());
        let Some(codec) = last else {
            return Ok(None);
        };
        let candidate = Candidate {
            key: self.layout.wal(&self.name, codec.info().suffix),
            codec,
        };
        match self.deliver(&candidate).await {
            Ok(()) => Ok(Some(codec)),
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
        let prefix = Prefix::text(self.layout.wal(&self.name, "").as_str());
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
        let (name, stop) = (&self.name, &self.stop);
        let key = &candidate.key;
        let suffix = candidate.codec.info().suffix;
        let itself = key.base_name().strip_suffix(suffix) == Some(name.as_str());
        let found = self.spool.as_ref().filter(|_| itself).map(|spool| {
            Arc::new(Found {
                spool: Arc::clone(spool),
                request: Arc::clone(&self.request),
                name: name.clone(),
                codec: candidate.codec,
                ahead: Arc::clone(&self.ahead),
            })
        });
        let begun = found.clone();
        let beside = destination.clone();
        let open = move || {
            if let Some(found) = begun {
                found.tell(None);
            }
            Temporary::beside(Place::Cwd, &beside)
        };
        let fetched = fetch(self.ctx, &self.store, candidate, name, stop, open).await?;
        let persisted = fetched.file.persist(&Place::Cwd, destination);
        persisted.map_err(FetchFailure::Local)?;
        match fetched.fit {
            // PostgreSQL looks at every page itself, and people put copies of
            // other segments into archives to test them.
            Some(Fit::Doubtful(misfit)) => {
                warn!("WAL file {name} was restored from `{key}` although {misfit}");
            }
            Some(Fit::Segment(identity)) => {
                if let Some(found) = found {
                    found.tell(Some(identity.segment_size));
                }
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
        if !itself {
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
                let told = told(OpError::of_store(&error).kind, chain(&error)).because(&error);
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
        let error = absent(self.name.as_str(), &self.request.server);
        match self.name.kind() {
            WalKind::History => error.expected(),
            WalKind::Segment | WalKind::Partial | WalKind::Backup => error,
        }
    }
}

#[cfg(test)]
mod tests;
