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

use std::sync::Arc;
use std::time::Instant;

use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

use self::digest::Digest;
use self::source::Source;
use self::stored::Present;
use super::archives::{ArchiveOptions, Destination};
use super::hook::RelayedBackup;
use super::{Ctx, OpError, OpErrorKind, chain};
use crate::report::{Phase, Work};
use crate::store::ObjectStore;
use crate::transfer::TransferError;
use crate::units::pretty_duration;

/// A backup of a Barman server to relay; the environment says which.
#[derive(Debug, Clone)]
pub struct RelayRequest {
    /// How its archives are made and where they go.
    pub archives: ArchiveOptions,
    /// The name that the backup was to get, which is refused.
    pub name: Option<String>,
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
    let to = Destination::new(store, &request.archives)?;
    let source = spawn_blocking(move || Source::look(&told))
        .await
        .map_err(|_| failed("the worker ended early"))??;
    let present = tokio::select! {
        biased;
        () = ctx.cancel.cancelled() => return Err(interrupted()),
        present = Present::look(&to.store, &to.layout, &source, &ctx.cancel) => present?,
    };
    let began = Instant::now();
    let id = source.id.clone();
    tracing::info!("Relaying backup '{id}'");
    ctx.reporter.begin(Work::Backup, source.info.cluster_size);
    ctx.reporter.phase(Phase::Copying);
    let relay = Relay { ctx, to, request };
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
    to: Destination,
    request: RelayRequest,
}

impl Relay<'_> {
    async fn run(&self, source: Source, present: Present) -> Result<(), OpError> {
        let present = Arc::new(present);
        let outcome = self.archives(&source, &present).await?;
        tracing::info!(
            "{} archives are whole in the store, {} of them were sent now",
            outcome.keys.len(),
            outcome.sent
        );
        if let Some(bad) = outcome.bad_pages {
            // No repetition makes them good.
            let text = format!("Backup '{}' is not relayed: it has {bad}", source.id);
            return Err(OpError::new(OpErrorKind::NoRetry, text)
                .with_hint("without --fail-on-bad-pages it is"));
        }
        let concluded = async {
            let Destination { store, layout, .. } = &self.to;
            present.tidy(layout, &source, &outcome.keys).await?;
            if outcome.sent == 0 && present.has_record() {
                return Ok(());
            }
            // upholds B1
            let key = layout.backup_info(&source.id);
            let options = self.request.archives.put_options();
            let put = store.put(&key, source.record.clone().into(), &options);
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
    ) -> Result<copy::Outcome, OpError> {
        // A token of its own: a failed upload stops the copy, and is no signal.
        let cancel = self.ctx.cancel.child_token();
        let options = &self.request.archives;
        let budget = self.to.budget(source.info.cluster_size);
        let reporter = &self.ctx.reporter;
        let (lane, uploader) = self.to.way(options, budget, reporter, &cancel);
        let job = copy::Job {
            source: source.clone(),
            layout: self.to.layout.clone(),
            lane,
            uploader: uploader.clone(),
            reporter: Arc::clone(reporter),
            present: Arc::clone(present),
            algorithm: options.manifest_checksums,
            options: self.options(source),
            fail_on_bad_pages: options.fail_on_bad_pages,
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
        let options = &self.request.archives;
        Digest::new(&[
            source.id.as_str(),
            &options.server,
            options.codec.info().name,
            &options.level().to_string(),
            &format!("{:?}", options.tags),
            &self.request.encryption,
            options.manifest_checksums.name(),
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
