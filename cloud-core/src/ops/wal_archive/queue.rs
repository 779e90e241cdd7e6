//! Letting a segment go, so that WAL that cannot be archived does not fill the disk.
//!
//! Opt-in (`--queue-max`), and the last thing that is done: PostgreSQL is told that a
//! segment is archived that is not, and deletes it. What PostgreSQL waits for is counted
//! in `archive_status`, segments and `.partial` files at the size of a segment.
//!
//! | waiting | what becomes of the requested segment |
//! |---|---|
//! | up to the limit | archived, or the call fails, as ever |
//! | more | let go if the store fails, or has not taken it 5 s after it was asked to; at once if it failed less than a minute ago |
//! | more than twice as much | let go at once |
//!
//! So a store that is back is noticed, a store that is away or slow costs 5 s a minute,
//! and nothing waits beyond twice the limit. It is looked at how much waits when a call
//! begins, when it fails, and every second between.
//!
//! Only the store's failures count: a file that cannot be read, or that is in the archive
//! with another content, is never let go, and neither are history files, `.backup` and
//! `.partial` files, nor what a note says is archived. What is let go is on record first
//! ([`gaps`](super::gaps)); if that fails, nothing is let go.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::super::wal_object::join;
use super::super::{Ctx, OpError, OpErrorKind, chain};
use super::ahead::{self, Known};
use super::gaps::{Gaps, RecordError, unique};
use super::local::LocalFile;
use super::ready::{STATUS, count_ready};
use super::{Order, interrupted};
use crate::catalogue::gap::Gap;
use crate::wal::page::{LONG_HEADER_LEN, SegmentIdentity};
use crate::wal::{SegmentSize, WalKind, WalName};

/// How long a store may take over a segment while too much waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between two looks at how much waits.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How a store fares with the requested file. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Sending(Arc<Mutex<State>>);

#[derive(Debug, Clone, Copy, Default)]
enum State {
    /// It has not been asked for anything.
    #[default]
    Idle,
    /// It was asked at this time to take something, and has not done it yet.
    Asked(Instant),
    /// It has the file.
    Done,
}

impl Sending {
    fn state(&self) -> State {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: State) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// The store is asked to take something, if it is not already.
    pub(super) fn ask(&self) {
        if matches!(self.state(), State::Idle) {
            self.set(State::Asked(Instant::now()));
        }
    }

    /// The store has done what it was asked for, and is not asked for anything.
    pub(super) fn rest(&self) {
        self.set(State::Idle);
    }

    /// The store has the file.
    pub(super) fn finish(&self) {
        self.set(State::Done);
    }

    fn is_done(&self) -> bool {
        matches!(self.state(), State::Done)
    }

    fn is_late(&self) -> bool {
        matches!(self.state(), State::Asked(since) if since.elapsed() >= PATIENCE)
    }
}

/// How much waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Within,
    Beyond,
    FarBeyond,
}

/// What waits, counted until it is far too much.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    segments: u64,
    bytes: u64,
    level: Level,
}

struct Queue<'a> {
    order: &'a Order,
    gaps: &'a Gaps,
    name: &'a WalName,
    status: PathBuf,
    size: SegmentSize,
    limit: u64,
}

/// Archives the file, or lets it go if too much waits.
pub(super) async fn run(
    ctx: &Ctx,
    order: &Order,
    name: WalName,
    gaps: &Gaps,
    limit: u64,
) -> Result<(), OpError> {
    if name.kind() != WalKind::Segment {
        return order.archive(ctx, name).await;
    }
    let path = &order.request.wal_path;
    let size = fs::metadata(path).ok().map(|found| found.len());
    let queue = Queue {
        order,
        gaps,
        name: &name,
        status: order.request.directory().join(STATUS),
        // Of a file of another size only its name tells how much it stands for.
        size: size
            .and_then(SegmentSize::new)
            .unwrap_or(SegmentSize::DEFAULT),
        limit,
    };
    let waiting = match queue.look().await {
        Ok(waiting) => waiting,
        Err(error) => {
            warn!(
                "--queue-max: nothing can be let go, since it cannot be told how much waits: \
                 `{}`: {error}",
                queue.status.display()
            );
            return order.archive(ctx, name).await;
        }
    };
    let why = match waiting.level {
        Level::Within => None,
        Level::Beyond => gaps
            .has_failed()
            .then_some("the store failed less than a minute ago, when too much waited"),
        Level::FarBeyond => Some(FAR_BEYOND),
    };
    if let Some(why) = why {
        match ahead::known(order, &name).await? {
            Known::Archived => return Ok(()),
            Known::Waiting(local) => return queue.let_go(&local, waiting, why).await,
            // Another call is sending it.
            Known::Busy => {}
        }
    }
    queue.try_it(ctx).await
}

impl Queue<'_> {
    async fn look(&self) -> io::Result<Waiting> {
        let (status, size, limit) = (self.status.clone(), self.size.get(), self.limit);
        let name = self.name.clone();
        join(spawn_blocking(move || {
            // One more is enough to know that it is far too much.
            let most = limit.saturating_mul(2) / size + 1;
            let segments = count_ready(&status, &name, most)?;
            let bytes = segments.saturating_mul(size);
            let level = if bytes <= limit {
                Level::Within
            } else if bytes <= limit.saturating_mul(2) {
                Level::Beyond
            } else {
                Level::FarBeyond
            };
            Ok(Waiting {
                segments,
                bytes,
                level,
            })
        }))
        .await
    }

    /// Archives the file as long as that may last.
    async fn try_it(&self, ctx: &Ctx) -> Result<(), OpError> {
        let attempt_ctx = Ctx {
            cancel: ctx.cancel.child_token(),
            ..ctx.clone()
        };
        let attempt = self.order.archive(&attempt_ctx, self.name.clone());
        tokio::pin!(attempt);
        let (archived, given_up) = tokio::select! {
            biased;
            archived = &mut attempt => (archived, None),
            waiting = self.until_it_is_too_much() => {
                attempt_ctx.cancel.cancel();
                // It cleans up; or it is done after all.
                ((&mut attempt).await, Some(waiting))
            }
        };
        let Err(failure) = archived else {
            if self.order.sending.is_done() {
                self.gaps.forget_failure();
            }
            return Ok(());
        };
        if ctx.cancel.is_cancelled() {
            return Err(interrupted());
        }
        let (waiting, why) = match given_up {
            Some(waiting) if failure.kind == OpErrorKind::Interrupted => {
                let late = self.order.sending.is_late();
                (waiting, late.then(late_text))
            }
            _ if failure.of_store => match self.look().await {
                Ok(waiting) if waiting.level > Level::Within => {
                    (waiting, Some(failure.message.clone()))
                }
                _ => return Err(failure),
            },
            _ => return Err(failure),
        };
        if why.is_some() {
            self.gaps.remember_failure();
        }
        let why = why.unwrap_or_else(|| FAR_BEYOND.to_owned());
        match ahead::known(self.order, self.name).await? {
            Known::Archived => Ok(()),
            Known::Waiting(local) => self.let_go(&local, waiting, &why).await,
            Known::Busy => Err(OpError::new(
                OpErrorKind::General,
                format!(
                    "another call has been archiving WAL file {} for too long",
                    self.name
                ),
            )),
        }
    }

    /// Returns when the segment has to go: far too much waits, or too much and the store
    /// has had its time.
    async fn until_it_is_too_much(&self) -> Waiting {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if self.order.sending.is_done() {
                std::future::pending::<()>().await;
            }
            let Ok(waiting) = self.look().await else {
                continue;
            };
            match waiting.level {
                Level::FarBeyond => return waiting,
                Level::Beyond if self.order.sending.is_late() => return waiting,
                Level::Beyond | Level::Within => {}
            }
        }
    }

    /// Puts the segment on record; success says that it may be deleted.
    async fn let_go(&self, local: &LocalFile, waiting: Waiting, why: &str) -> Result<(), OpError> {
        let gap = self.gap(local, waiting, why);
        let (gaps, on_record) = (self.gaps.clone(), gap.clone());
        let added = join(spawn_blocking(move || gaps.add(&on_record))).await;
        added.map_err(|error| cannot_let_go(self.name, &error))?;
        let (name, segments) = (self.name, waiting.segments);
        let (bytes, limit) = (waiting.bytes >> 20, self.limit >> 20);
        error!(
            hint = "take a new base backup as soon as WAL is archived again",
            "WAL file {name} IS NOT ARCHIVED and PostgreSQL is told that it is: at least {segments} \
             segments ({bytes} MiB) wait, more than --queue-max allows ({limit} MiB), and {why}. \
             No recovery from a base backup that began before {name} goes past it."
        );
        Ok(())
    }

    fn gap(&self, local: &LocalFile, waiting: Waiting, why: &str) -> Gap {
        let mut head = [0; LONG_HEADER_LEN];
        let read = local.file().read_exact_at(&mut head, 0);
        let identity = read.ok().and_then(|()| SegmentIdentity::of(&head));
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        // As servers spell it, for it is compared as a text.
        let upper = self.name.as_str().to_ascii_uppercase();
        let name: WalName = upper.parse().unwrap_or_else(|_| self.name.clone());
        let now = Timestamp::now();
        let whole = now.as_second();
        let now = Timestamp::from_second(whole).unwrap_or(now);
        Gap {
            id: unique(),
            server: self.order.request.server.clone(),
            system: identity.map(|identity| identity.system_identifier),
            first: name.clone(),
            last: name,
            segment_size: self.size,
            since: now,
            until: now,
            host: host.trim().to_owned(),
            waiting: waiting.bytes,
            limit: self.limit,
            why: why.to_owned(),
        }
    }
}

/// Why a segment is let go without the store being asked.
const FAR_BEYOND: &str = "that is more than twice as much";

fn late_text() -> String {
    format!("the store did not take it within {} s", PATIENCE.as_secs())
}

fn cannot_let_go(name: &WalName, error: &RecordError) -> OpError {
    let text = format!(
        "WAL file {name} is not archived, and not let go either, although more waits than \
         --queue-max allows: {}",
        chain(error)
    );
    info!("what is let go has to be on record first");
    OpError::new(OpErrorKind::General, text)
        .with_hint("give --spool-dir a directory of this user that survives a restart")
}

#[cfg(test)]
mod tests;
