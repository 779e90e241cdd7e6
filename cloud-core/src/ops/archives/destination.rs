//! Where the archives of a base backup go, and what the user asked for about them.

use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::thread;

use tokio_util::sync::CancellationToken;

use crate::catalogue::layout::Layout;
use crate::codec::{Codec, Level};
use crate::manifest::Algorithm;
use crate::ops::{OpError, OpErrorKind};
use crate::report::Reporter;
use crate::store::{Bandwidth, ObjectStore, PutOptions, Tag};
use crate::transfer::{Budget, LaneOptions, PartPlan, PartPlanError, PartWishes, Uploader};

/// How archives are made and where they are sent: the options that every base backup
/// has.
#[derive(Debug, Clone)]
pub struct ArchiveOptions {
    /// Key prefix from the URL, as written (it may end in slashes).
    pub path: String,
    /// Server name: one component of every key.
    pub server: String,
    /// Compression of the archives.
    pub codec: &'static dyn Codec,
    /// Its level; `None` for the one that suits base backups.
    pub level: Option<Level>,
    /// Archives that are made at the same time.
    pub lanes: NonZeroU32,
    /// Threads that compress one archive: 0 for as many as there are cores, `None` for
    /// its share of as many as parts are uploaded at the same time, but no more than cores.
    pub encoder_threads: Option<u32>,
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
    /// Tags of every object.
    pub tags: Option<Vec<Tag>>,
    /// How the manifest sums up the files.
    pub manifest_checksums: Algorithm,
    /// Whether pages with wrong checksums make the backup fail, once all are found.
    pub fail_on_bad_pages: bool,
}

impl ArchiveOptions {
    /// The level of compression, as a number of the codec.
    pub(in crate::ops) fn level(&self) -> i32 {
        let info = self.codec.info();
        self.level
            .map_or(info.backup_level, |level| info.number(level))
    }

    /// How many threads compress one archive (docs/decisions.md 21).
    fn threads(&self) -> usize {
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let at_most = |wish: u32| usize::try_from(wish).unwrap_or(usize::MAX);
        match self.encoder_threads {
            Some(0) => cores,
            Some(wish) => at_most(wish),
            None => {
                let share = at_most(self.jobs.get()).min(cores) / at_most(self.lanes.get());
                share.max(1)
            }
        }
    }

    /// How every object is stored.
    pub(in crate::ops) fn put_options(&self) -> PutOptions {
        PutOptions {
            tags: self.tags.clone(),
            ..PutOptions::default()
        }
    }
}

/// A store that can take the archives as they were asked for.
#[derive(Debug)]
pub(in crate::ops) struct Destination {
    /// With the limit of bandwidth.
    pub(in crate::ops) store: Arc<dyn ObjectStore>,
    /// Without it, for records: a backup that is given up must be able to say so at once,
    /// and not behind all parts that were waiting for their turn.
    pub(in crate::ops) records: Arc<dyn ObjectStore>,
    pub(in crate::ops) layout: Layout,
    plan: PartPlan,
}

impl Destination {
    /// Compares what was asked for with what the store can do. Asks it nothing.
    ///
    /// # Errors
    ///
    /// `Usage` if no sizes of parts meet the wishes. `General` for a server name that
    /// cannot be part of a key, and for tags where none can be kept.
    pub(in crate::ops) fn new(
        store: Arc<dyn ObjectStore>,
        options: &ArchiveOptions,
    ) -> Result<Self, OpError> {
        let layout = Layout::new(&options.path, &options.server)
            .map_err(|error| OpError::new(OpErrorKind::General, error.to_string()))?;
        let level = Level::Number(options.level());
        let threads = u64::try_from(options.threads()).unwrap_or(u64::MAX);
        let wishes = PartWishes {
            encoder: options.codec.encoder_memory(level).saturating_mul(threads),
            max_archive_size: options.max_archive_size,
            min_chunk_size: options.min_chunk_size,
            jobs: options.jobs.get(),
            lanes: options.lanes.get(),
            memory_limit: options.memory_limit,
        };
        let plan = PartPlan::new(&store.info().limits, &wishes).map_err(|error| {
            let hint = match error {
                PartPlanError::MemoryTooSmall { .. } => "leave --memory-limit away",
                PartPlanError::PartTooLarge { .. } => "leave --min-chunk-size away",
            };
            OpError::new(OpErrorKind::Usage, error.to_string()).with_hint(hint)
        })?;
        if plan.capped {
            tracing::warn!("max-archive-size too big. Capping it to 1.0 TiB");
        }
        let tagged = options.tags.as_ref().is_some_and(|tags| !tags.is_empty());
        if tagged && !store.info().abilities.tags {
            let message = format!("{} cannot keep tags", store.info().location);
            return Err(OpError::new(OpErrorKind::General, message)
                .with_hint("leave --tags and --tag away for this store"));
        }
        let records = Arc::clone(&store);
        let store = match options.max_bandwidth {
            Some(rate) => Arc::new(Bandwidth::new(store, rate)),
            None => store,
        };
        Ok(Self {
            store,
            records,
            layout,
            plan,
        })
    }

    /// The memory for parts of about `expected` bytes of files. To be asked for before
    /// anything is written, since it may fail where memory is scarce.
    pub(in crate::ops) fn budget(&self, expected: Option<u64>) -> Budget {
        let budget = Budget::new(self.plan.budget);
        budget.claim(self.plan.part_size, expected.unwrap_or(u64::MAX));
        budget
    }

    /// How archives are made, and what sends them, until `cancel`.
    pub(in crate::ops) fn way(
        &self,
        options: &ArchiveOptions,
        budget: Budget,
        reporter: &Arc<dyn Reporter>,
        cancel: &CancellationToken,
    ) -> (LaneOptions, Uploader) {
        let lane = LaneOptions {
            codec: options.codec,
            level: Level::Number(options.level()),
            threads: options.threads(),
            plan: self.plan,
            limits: self.store.info().limits,
            budget,
            cancel: cancel.clone(),
        };
        let uploader = Uploader::new(
            Arc::clone(&self.store),
            options.put_options(),
            self.plan.in_flight,
            cancel.clone(),
            Arc::clone(reporter),
        );
        (lane, uploader)
    }
}
