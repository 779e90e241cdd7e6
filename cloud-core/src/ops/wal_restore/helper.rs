//! The helper: a process of its own that keeps the window full while PostgreSQL replays.
//!
//! There is one for a folder, which holds the folder's lock from its first moment to its
//! last: the call that starts it hands the lock on. It learns from a file in the folder
//! what is asked for, and ends by itself: at the end of the archive, on trouble that
//! does not pass, when nothing was asked for in a minute, and when server, run of the
//! server or folder are not what they were.
//!
//! It must never be the child of a postmaster (docs/decisions.md 15), nor have anything
//! of it: it has a session of its own, none of the descriptors of the call but the lock,
//! and `/` for its working directory.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, interval, sleep, sleep_until};
use tracing::debug;

use super::super::folder::Lock;
use super::super::{Ctx, Env, OpError, OpErrorKind};
use super::WalRestoreRequest;
use super::spool::Spool;
use super::window::{Fetcher, SHORT_PAUSES, Window};
use crate::catalogue::layout::Layout;
use crate::store::ObjectStore;

/// Says to the program that it was started as a helper. Of no use to anybody else: a
/// helper has to be given the lock of its folder.
const MARK: &str = "BARMAN_CLOUD_WAL_RESTORE_HELPER";

/// What it is called in lists of processes.
const TITLE: &CStr = c"wal-prefetch";

/// After so long without anything to do a helper ends (docs/decisions.md 15).
const IDLE: Duration = Duration::from_mins(1);

/// How often a helper looks whether server and folder are still there.
const LOOK: Duration = Duration::from_secs(1);

/// The same for what is asked for, where the kernel does not tell of changes.
const LOOK_OFTEN: Duration = Duration::from_millis(100);

/// Starts a process that is given the lock of the folder.
pub type Launch = fn(OwnedFd) -> io::Result<()>;

/// Runs this program again, with the same arguments, as a helper. Does not wait for it.
///
/// # Errors
///
/// What the system says if there cannot be a process more.
pub fn launch(lock: OwnedFd) -> io::Result<()> {
    // PostgreSQL leaves open what it likes, its own files and pipes among them. What
    // this process opens itself is marked already.
    close_fds::set_fds_cloexec_threadsafe(3, &[]);
    let mut arguments = std::env::args_os();
    // Another version may lie under the name that it was started by.
    let mut command = Command::new("/proc/self/exe");
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    command
        .args(arguments)
        .env(MARK, "1")
        .stdin(Stdio::from(lock))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        // Whoever is there when this process has ended waits for it.
        .map(drop)
}

/// What makes this process a helper.
#[derive(Debug)]
pub struct Helper {
    spool: Arc<Spool>,
    lock: Lock,
}

impl Helper {
    /// Of a process that was started by [`launch`]; `None` in all others.
    pub(super) fn of_process(
        request: &WalRestoreRequest,
        env: &Env,
    ) -> Option<Result<Self, OpError>> {
        env.get_os(MARK)?;
        Some(Self::become_one(request).ok_or_else(|| {
            let text = format!("the variable {MARK} is set: it is not for use by hand");
            OpError::new(OpErrorKind::General, text)
        }))
    }

    fn become_one(request: &WalRestoreRequest) -> Option<Self> {
        let spool = Arc::new(Spool::open(request).ok()?);
        let lock = io::stdin().as_fd().try_clone_to_owned().ok()?;
        let lock = spool.adopt_helper(lock)?;
        let nothing = std::fs::File::open("/dev/null").ok()?;
        rustix::stdio::dup2_stdin(nothing).ok()?;
        // Signals to the group of the call are not for it. Fails for the leader of a
        // session alone, which is well.
        let _ = rustix::process::setsid();
        let _ = rustix::thread::set_name(TITLE);
        Some(Self { spool, lock })
    }
}

/// Keeps the window full as long as somebody wants that.
///
/// # Errors
///
/// `Interrupted` after a signal. Trouble is told to the next call, and is no error.
pub async fn run_helper(
    ctx: &Ctx,
    store: Arc<dyn ObjectStore>,
    path: &str,
    request: &WalRestoreRequest,
    helper: Helper,
) -> Result<(), OpError> {
    let layout = Layout::new(path, &request.server)
        .map_err(|error| OpError::new(OpErrorKind::Usage, error.to_string()))?;
    // Files with keys and settings may have been named relative to where the call was;
    // the store has been opened by now.
    let _ = rustix::process::chdir("/");
    let Helper { spool, lock } = helper;
    let fetcher = Fetcher {
        ctx: ctx.clone(),
        store,
        layout,
        spool,
        pauses: SHORT_PAUSES,
    };
    let ended = keep_full(&fetcher, &request.store).await;
    drop(lock);
    ended
}

pub(super) async fn keep_full(fetcher: &Fetcher, store: &str) -> Result<(), OpError> {
    let spool = &fetcher.spool;
    let watch = Watch::of(spool);
    spool.clean();
    let Some(wanted) = spool.wanted() else {
        return Ok(());
    };
    let mut window = Window::new(fetcher, wanted);
    let mut looks = interval(LOOK);
    let mut last = Instant::now();
    let ended = loop {
        window.fill();
        if let Some(why) = window.end() {
            spool.end(why.clone());
            break Ok(());
        }
        tokio::select! {
            biased;
            () = fetcher.ctx.cancel.cancelled() => break Err(OpError::new(
                OpErrorKind::Interrupted,
                "the prefetch of WAL was interrupted by a signal",
            )),
            () = watch.changed() => {
                let Some(wanted) = spool.wanted() else { break Ok(()) };
                if wanted != *window.wanted() {
                    window.slide(wanted);
                    last = Instant::now();
                }
            }
            () = window.step(), if window.is_busy() => last = Instant::now(),
            _ = looks.tick() => {
                if !spool.is_in_place(store) {
                    break Ok(());
                }
            }
            () = sleep_until(last + IDLE), if !window.is_busy() => break Ok(()),
        }
    };
    window.stop().await;
    ended
}

/// Waits for changes of the folder.
struct Watch(Option<AsyncFd<OwnedFd>>);

impl Watch {
    fn of(spool: &Spool) -> Self {
        let watch = || {
            let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
            let fd = inotify::init(flags)?;
            let directory = std::os::fd::AsRawFd::as_raw_fd(&spool.directory());
            let path = format!("/proc/self/fd/{directory}");
            inotify::add_watch(&fd, path, inotify::WatchFlags::MOVED_TO)?;
            registered(fd)
        };
        // There is a limit to how many files a user can watch.
        let watch: io::Result<_> = watch();
        Self(
            watch
                .inspect_err(|error| debug!("cannot watch: {error}"))
                .ok(),
        )
    }

    async fn changed(&self) {
        let Some(watch) = &self.0 else {
            return sleep(LOOK_OFTEN).await;
        };
        if let Ok(mut ready) = watch.readable().await {
            // What it was does not matter.
            let mut events = [0; 4096];
            while matches!(rustix::io::read(watch.get_ref(), &mut events), Ok(count) if count > 0) {
            }
            ready.clear_ready();
        }
    }
}

#[expect(
    deprecated,
    reason = "its successor asks for `unsafe` because of types that close or change their \
              descriptor; an owned one does not"
)]
fn registered(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(fd)
}
