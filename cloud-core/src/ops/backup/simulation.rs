//! The copy of a cluster that is much larger than what there is of it: for finding out
//! how memory grows, and whether sizes fit, where there is neither the disk nor the time.
//!
//! A small directory stands for PGDATA; what is in its `base` is met again and again, under
//! other names. Its files may be sparse. All that follows is what every backup does: walk,
//! tar, codec, parts, uploads, manifest. What is missing is the server and `backup.info`.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::copy::{Closing, Job, Plan};
use crate::catalogue::layout::BackupId;
use crate::manifest::WalRange;
use crate::ops::archives::{ArchiveOptions, Destination, Sources, major};
use crate::ops::{OpError, OpErrorKind};
use crate::report::{Reporter, Silent};
use crate::store::ObjectStore;
use crate::transfer::TransferError;
use crate::wal::{Lsn, TimelineId};

/// `server_version_num` of the server that is not there.
const VERSION: u32 = 170_000;

/// A cluster that is not there, to be copied.
#[derive(Debug, Clone)]
pub struct Simulation {
    /// How its archives are made and where they go.
    pub archives: ArchiveOptions,
    /// A data directory, at least with `base` and a valid `global/pg_control`.
    pub pgdata: PathBuf,
    /// How often what is in `base` is stored.
    pub rounds: NonZeroU32,
}

/// Copies the cluster into archives and says how many there are.
///
/// # Errors
///
/// `General` for whatever ends a copy early.
pub async fn simulate(
    store: Arc<dyn ObjectStore>,
    simulation: Simulation,
) -> Result<usize, OpError> {
    let options = &simulation.archives;
    let to = Destination::new(store, options)?;
    let budget = to.budget(None);
    let cancel = CancellationToken::new();
    let reporter: Arc<dyn Reporter> = Arc::new(Silent);
    let (lane, uploader) = to.way(options, budget, &reporter, &cancel);
    let failed = |why: String| OpError::new(OpErrorKind::General, why);
    let (copied, _copied) = oneshot::channel();
    let (closing_tx, closing) = oneshot::channel();
    let _ = closing_tx.send(Closing {
        label: "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n".to_owned(),
        end: Lsn(0x200_0100),
        wal: vec![WalRange {
            timeline: TimelineId(1),
            start: Lsn(0x200_0028),
            end: Lsn(0x200_0100),
        }],
    });
    let id = BackupId::new("20260101T000000").ok_or_else(|| failed("no id".to_owned()))?;
    let plan = Plan {
        sources: Sources {
            pgdata: simulation.pgdata,
            major: major(VERSION),
            tablespaces: Vec::new(),
            configuration: Vec::new(),
            rounds: simulation.rounds,
        },
        layout: to.layout.clone(),
        id,
        lane,
        lanes: options.lanes,
        uploader: uploader.clone(),
        reporter,
        version: VERSION,
        algorithm: options.manifest_checksums,
        // What stands for its files are no pages.
        begin: None,
        fail_on_bad_pages: options.fail_on_bad_pages,
    };
    let job = Job {
        plan,
        copied,
        closing,
    };
    let runtime = Handle::current();
    let copy = tokio::task::spawn_blocking(move || job.run(&runtime)).await;
    match copy {
        Ok(Ok(report)) => report.log(),
        Ok(Err(error)) => uploader.fail(error),
        Err(_) => uploader.fail(TransferError::Files(
            "the copying thread ended early".into(),
        )),
    }
    let report = uploader.finish().await;
    let report = report.map_err(|error| failed(error.to_string()))?;
    Ok(report.archives.len())
}
