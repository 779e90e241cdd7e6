//! Relaying a backup of a Barman server, as its hook script after a backup.
//!
//! There is no server to talk to and nothing to begin or end: the backup is complete
//! on disk. Its files become the archives of a base backup, and its `backup.info`,
//! byte for byte and last of all, the record that makes it exist in the store (B1).
//!
//! A retry hook is run again until it succeeds. Each archive carries a fingerprint of
//! what it was made of, so an attempt sends only what earlier ones did not bring to
//! the end, and anything that differs is sent anew (B6: under another record than
//! that of this very backup nothing is touched).

mod batch;
mod copy;
mod digest;
mod source;
mod stored;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

use self::digest::Digest;
use self::source::Source;
use self::stored::Present;
use super::hook::RelayedBackup;
use super::{Ctx, OpError, OpErrorKind, archives, chain};
use crate::catalogue::layout::Layout;
use crate::codec::{Codec, Level};
use crate::manifest::Algorithm;
use crate::report::Work;
use crate::store::{ObjectStore, PutOptions, Tag};
use crate::transfer::{Budget, LaneOptions, PartPlan, PartWishes, TransferError, Uploader};
use crate::units::pretty_duration;

/// A backup of a Barman server to relay; the environment says which.
#[derive(Debug, Clone)]
pub struct RelayRequest {
    /// Key prefix from the URL, as written (it may end in slashes).
    pub path: String,
    /// Server name: one component of every key.
    pub server: String,
    /// Compression of the archives.
    pub codec: &'static dyn Codec,
    /// Parts uploaded at the same time.
    pub jobs: NonZeroU32,
    /// Upper bound of an archive's size in the store, in bytes.
    pub max_archive_size: u64,
    /// Smallest part wanted, in bytes.
    pub min_chunk_size: Option<u64>,
    /// Bytes per second to the store, over everything.
    pub max_bandwidth: Option<u64>,
    /// Bytes of part buffers, over everything.
    pub memory_limit: Option<u64>,
    /// The name that the backup was to get, which is refused.
    pub name: Option<String>,
    /// Tags of every object.
    pub tags: Option<Vec<Tag>>,
    /// How the manifest sums up the files.
    pub manifest_checksums: Algorithm,
    /// How the store encrypts, in any words: objects that were encrypted in another
    /// way are sent again.
    pub encryption: String,
}

/// Relays the backup; `Ok` only when its record is in the store, after all archives.
///
/// # Errors
///
/// `NoRetry` if the backup is none that can ever be relayed, or another one has its
/// place in the store. `General` if the environment lacks something, the record
/// cannot be read, or the backup is kept compressed. `Unreachable` if the store could not be reached before anything was sent.
/// `Failed` for everything else: then no record was written.
pub async fn run(
    ctx: &Ctx,
    store: Arc<dyn ObjectStore>,
    request: RelayRequest,
) -> Result<(), OpError> {
    let told = RelayedBackup::of(&ctx.env, request.name.is_some())?;
    let layout = Layout::new(&request.path, &request.server)
        .map_err(|error| OpError::new(OpErrorKind::General, error.to_string()))?;
    let wishes = PartWishes {
        max_archive_size: request.max_archive_size,
        min_chunk_size: request.min_chunk_size,
        jobs: request.jobs.get(),
        lanes: 1,
        memory_limit: request.memory_limit,
    };
    let plan = archives::part_plan(store.as_ref(), &wishes)?;
    archives::check_tags(store.as_ref(), request.tags.as_deref())?;
    let source = spawn_blocking(move || Source::look(&told))
        .await
        .map_err(|_| failed("the worker ended early"))??;
    let store = archives::limited(store, request.max_bandwidth);
    let present = tokio::select! {
        biased;
        () = ctx.cancel.cancelled() => return Err(interrupted()),
        present = Present::look(&store, &layout, &source, &ctx.cancel) => present?,
    };
    let began = Instant::now();
    let id = source.id.clone();
    tracing::info!("Relaying backup '{id}'");
    ctx.reporter.begin(Work::Backup, source.info.cluster_size);
    let relay = Relay {
        ctx,
        store,
        layout,
        request,
        plan,
    };
    let result = relay.run(source, present).await;
    ctx.reporter.end();
    result?;
    tracing::info!(
        "Backup '{id}' is relayed (elapsed time: {})",
        pretty_duration(began.elapsed())
    );
    Ok(())
}

struct Relay<'a> {
    ctx: &'a Ctx,
    store: Arc<dyn ObjectStore>,
    layout: Layout,
    request: RelayRequest,
    plan: PartPlan,
}

impl Relay<'_> {
    async fn run(&self, source: Source, present: Present) -> Result<(), OpError> {
        let options = PutOptions {
            tags: self.request.tags.clone(),
            ..PutOptions::default()
        };
        let present = Arc::new(present);
        let outcome = self.archives(&source, &present, options.clone()).await?;
        tracing::info!(
            "{} archives are whole in the store, {} of them were sent now",
            outcome.keys.len(),
            outcome.sent
        );
        let concluded = async {
            present.tidy(&self.layout, &source, &outcome.keys).await?;
            if outcome.sent == 0 && present.has_record() {
                return Ok(());
            }
            // upholds B1
            let key = self.layout.backup_info(&source.id);
            let put = self.store.put(&key, source.record.clone(), &options);
            put.await.map(drop)
        };
        tokio::select! {
            biased;
            () = self.ctx.cancel.cancelled() => Err(interrupted()),
            concluded = concluded => match concluded {
                Ok(()) => Ok(()),
                Err(error) => Err(failed(&chain(&error))),
            },
        }
    }

    /// Sends the archives that are not there.
    async fn archives(
        &self,
        source: &Source,
        present: &Arc<Present>,
        options: PutOptions,
    ) -> Result<copy::Outcome, OpError> {
        // A token of its own: a failed upload stops the copy, and is no signal.
        let cancel = self.ctx.cancel.child_token();
        let budget = Budget::new(self.plan.budget);
        let expected = source.info.cluster_size.unwrap_or(u64::MAX);
        budget.claim(self.plan.part_size, expected);
        let uploader = Uploader::new(
            Arc::clone(&self.store),
            options,
            self.plan.in_flight,
            cancel.clone(),
            Arc::clone(&self.ctx.reporter),
        );
        let level = self.request.codec.info().backup_level;
        let job = copy::Job {
            source: source.clone(),
            layout: self.layout.clone(),
            lane: LaneOptions {
                codec: self.request.codec,
                level: Level::Number(level),
                plan: self.plan,
                limits: self.store.info().limits,
                budget,
                cancel,
            },
            uploader: uploader.clone(),
            reporter: Arc::clone(&self.ctx.reporter),
            present: Arc::clone(present),
            algorithm: self.request.manifest_checksums,
            options: self.options(source),
        };
        let runtime = Handle::current();
        let copied = spawn_blocking(move || job.run(&runtime)).await;
        let outcome = match copied {
            Ok(Ok(outcome)) => Some(outcome),
            Ok(Err(error)) => {
                uploader.fail(error);
                None
            }
            Err(_) => {
                let text = "the copying thread ended early";
                uploader.fail(TransferError::Files(text.into()));
                None
            }
        };
        match (uploader.finish().await, outcome) {
            (Ok(_), Some(outcome)) => Ok(outcome),
            (Ok(_), None) => Err(failed("the copy ended before it was complete")),
            (Err(_), _) if self.ctx.cancel.is_cancelled() => Err(interrupted()),
            (Err(error), _) => Err(failed(&chain(&error))),
        }
    }

    /// What the archives depend on beside their members.
    fn options(&self, source: &Source) -> Digest {
        let request = &self.request;
        let codec = request.codec.info();
        Digest::new(&[
            source.id.as_str(),
            &request.server,
            codec.name,
            &codec.backup_level.to_string(),
            &format!("{:?}", request.tags),
            &request.encryption,
            request.manifest_checksums.name(),
            &format!("{:?}", source.range),
        ])
    }
}

fn failed(why: &str) -> OpError {
    let first_line = why.lines().next().unwrap_or_default();
    let text = format!("Backup failed uploading data ({first_line})");
    OpError::new(OpErrorKind::Failed, text)
}

fn interrupted() -> OpError {
    OpError::new(
        OpErrorKind::Interrupted,
        "Barman cloud backup was interrupted by the user",
    )
}

#[cfg(test)]
mod tests;
