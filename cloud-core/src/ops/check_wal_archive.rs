//! Checking that a new server can archive its WAL in a place.

use std::num::NonZeroU32;
use std::sync::Arc;

use futures_util::StreamExt;

use super::{OpError, OpErrorKind, gaps, lookup, owners};
use crate::catalogue::layout::Layout;
use crate::catalogue::load::wal_of_key;
use crate::codec;
use crate::store::{BucketState, Depth, ObjectMeta, ObjectStore};
use crate::wal::{TimelineId, WalKind, WalName};

/// What to check.
#[derive(Debug, Clone)]
pub struct CheckRequest {
    /// Bucket of the URL, for messages.
    pub bucket: String,
    /// Key prefix from the URL, as written (it may end in slashes).
    pub path: String,
    /// Server name: one component of every key.
    pub server: String,
    /// WAL of timelines before this one may be there.
    pub timeline: Option<NonZeroU32>,
}

/// Creates the bucket if there is none, and looks for WAL that new WAL could be
/// mixed up with.
///
/// WAL that was let go, and WAL of another cluster than that of the newest base backup,
/// is told in the log and decides nothing: the question is whether there is WAL, not
/// whether it is all there and of use.
pub async fn run(store: Arc<dyn ObjectStore>, request: CheckRequest) -> Result<(), OpError> {
    let layout = lookup::layout(&request.path, &request.server)?;
    match store.probe().await {
        // The listing below has better words for what may not be listed.
        Ok(BucketState::Exists | BucketState::Unlisted) => {}
        Ok(BucketState::Missing) => {
            let created = store.create_bucket().await;
            created.map_err(|error| OpError::of_store(&error))?;
        }
        Err(error) => return Err(OpError::unproved(&request.bucket, &error)),
    }
    let mut newest = Newest::default();
    let (checked, missing) = tokio::join!(
        look(store.as_ref(), &layout, &request, &mut newest),
        gaps::find(store.as_ref(), &layout)
    );
    for wal in &missing {
        tracing::warn!(
            "{}; a base backup that began before it cannot be recovered past it",
            wal.what()
        );
    }
    if let Some(warning) = newest.of_another_cluster(store.as_ref(), &layout).await {
        tracing::warn!("{warning}");
    }
    checked
}

/// Looks for WAL, and notes the newest of all.
async fn look(
    store: &dyn ObjectStore,
    layout: &Layout,
    request: &CheckRequest,
    newest: &mut Newest,
) -> Result<(), OpError> {
    let suffixes = codec::suffixes();
    let oldest = request.timeline.map(|number| TimelineId(number.get()));
    let mut counter = Counter::default();
    let mut pages = store.list(&layout.wals(), Depth::All);
    while let Some(page) = pages.next().await {
        let page = page.map_err(|error| OpError::of_store(&error))?;
        for object in page.objects {
            let Some((name, suffix)) = wal_of_key(object.key.base_name(), &suffixes) else {
                continue;
            };
            newest.see(&name, suffix, &object);
            match oldest {
                None => return Err(refusal(&request.server, "Expected empty archive")),
                Some(oldest) if name.timeline() >= oldest => counter.add(name),
                Some(_) => {}
            }
        }
    }
    match (counter.count, oldest) {
        (0, _) | (_, None) => Ok(()),
        (count, Some(oldest)) => {
            let files = if count == 1 { "file" } else { "files" };
            let text = format!(
                "Found {count} {files} in WAL archive equal to or newer than timeline {oldest}"
            );
            Err(refusal(&request.server, &text))
        }
    }
}

fn refusal(server: &str, why: &str) -> OpError {
    let text = format!("WAL archive check failed for server {server}: {why}");
    OpError::new(OpErrorKind::Failed, text).with_hint(
        "WAL of another cluster, or of this one in an earlier life, must not be mixed with new \
         WAL: give the server another name or URL",
    )
}

/// The segment that was archived last: after `pg_upgrade` the names of the new cluster
/// begin at timeline 1 again.
#[derive(Default)]
struct Newest(Option<(ObjectMeta, WalName, String)>);

impl Newest {
    fn see(&mut self, name: &WalName, suffix: &str, object: &ObjectMeta) {
        let newer = |(other, than, _): &(ObjectMeta, WalName, String)| {
            (other.modified, than) < (object.modified, name)
        };
        if name.kind() == WalKind::Segment && self.0.as_ref().is_none_or(newer) {
            self.0 = Some((object.clone(), name.clone(), suffix.to_owned()));
        }
    }

    /// What to say if it is of another cluster than the newest base backup.
    async fn of_another_cluster(&self, store: &dyn ObjectStore, layout: &Layout) -> Option<String> {
        let (object, name, suffix) = self.0.as_ref()?;
        let backup = owners::of_newest_backup(store, layout).await?;
        let system = owners::of_segment(store, object, suffix).await?.to_string();
        (system != backup.system).then(|| {
            format!(
                "the newest WAL, {name}, is of another cluster (system identifier {system}) than \
                 the newest base backup, {} ({}): after pg_upgrade take a base backup now; of two \
                 servers give each a server name or URL of its own",
                backup.id, backup.system
            )
        })
    }
}

/// Counts files that may be there in several forms, each once. In listings in
/// the order of names, which all stores give, the forms of one file and the
/// files of one segment follow each other; so little has to be remembered.
#[derive(Default)]
struct Counter {
    count: u64,
    /// The files with the same beginning as the last one.
    near: Vec<WalName>,
}

impl Counter {
    fn add(&mut self, name: WalName) {
        let beginning = |name: &WalName| name.as_str().get(..24).map(str::to_owned);
        let last = self.near.last();
        if last.is_some_and(|last| beginning(last) != beginning(&name)) {
            self.near.clear();
        }
        if !self.near.contains(&name) {
            self.count += 1;
            self.near.push(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::wal_testing::GOLDEN_SYSTEM;
    use crate::store::{FaultyStore, MemoryStore, StoreErrorKind, StoreOp};

    async fn check(store: impl ObjectStore, timeline: Option<u32>) -> Result<(), OpError> {
        let request = CheckRequest {
            bucket: "bucket".into(),
            path: "p".into(),
            server: "main".into(),
            timeline: timeline.and_then(NonZeroU32::new),
        };
        run(Arc::new(store), request).await
    }

    #[tokio::test]
    async fn a_missing_bucket_is_made_and_is_empty() {
        let store = MemoryStore::new().without_bucket();
        check(store.clone(), None).await.unwrap();
        assert_eq!(store.probe().await.unwrap(), BucketState::Exists);
    }

    #[tokio::test]
    async fn wal_of_the_timeline_and_of_later_ones_counts_each_file_once() {
        let store = MemoryStore::new().with_page(3);
        for name in [
            "0000000100000000/000000010000000000000001.gz",
            "0000000200000000/000000020000000000000001",
            "0000000200000000/000000020000000000000001.00000028.backup",
            "0000000200000000/000000020000000000000001.bz2",
            "0000000200000000/000000020000000000000001.partial.gz",
            "0000000200000000/000000020000000000000001.partial.lz4",
            "00000002.history",
            "00000003.history.gz",
            "odd/000000030000000000000001",
            "0000000300000000/000000030000000000000001.foo",
            "0000000300000000/junk",
        ] {
            store.insert(&format!("p/main/wals/{name}"), "");
        }
        let refused = |why: &str| format!("WAL archive check failed for server main: {why}");
        for (timeline, expected) in [
            (None, Some("Expected empty archive".to_owned())),
            (
                Some(1),
                Some("Found 7 files in WAL archive equal to or newer than timeline 1".into()),
            ),
            (
                Some(2),
                Some("Found 6 files in WAL archive equal to or newer than timeline 2".into()),
            ),
            (
                Some(3),
                Some("Found 2 files in WAL archive equal to or newer than timeline 3".into()),
            ),
            (Some(4), None),
        ] {
            let result = check(store.clone(), timeline).await;
            let message = result.err().map(|error| error.message);
            assert_eq!(message, expected.map(|why| refused(&why)), "{timeline:?}");
        }
    }

    #[tokio::test]
    async fn what_is_no_wal_and_no_wal_of_others_do_not_count() {
        let store = MemoryStore::new();
        store.insert("p/main/wals/notes.txt", "");
        store.insert("p/main/base/20261121T000000/backup.info", "");
        store.insert("p/main2/wals/00000002.history", "");
        check(store, None).await.unwrap();
    }

    /// What is archived last counts, not what has the highest name.
    #[tokio::test]
    async fn wal_of_another_cluster_than_the_newest_backup_is_told() {
        const WAL: &[u8] = include_bytes!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/golden/wal/000000010000000000000006.gz"
        ));
        let wals = "p/main/wals/0000000100000000";
        let warning = async |store: &MemoryStore| {
            let layout = Layout::new("p", "main").unwrap();
            let request = CheckRequest {
                bucket: "bucket".into(),
                path: "p".into(),
                server: "main".into(),
                timeline: NonZeroU32::new(9),
            };
            let mut newest = Newest::default();
            look(store, &layout, &request, &mut newest).await.unwrap();
            newest.of_another_cluster(store, &layout).await
        };
        let store = MemoryStore::new();
        store.insert("p/main/wals/0000000300000000/000000030000000000000002", "");
        store.insert(&format!("{wals}/000000010000000000000006.gz"), WAL);
        store.insert(&format!("{wals}/000000010000000000000007.backup"), "");
        assert_eq!(warning(&store).await, None, "there is no backup");
        let record = "p/main/base/20250101T000000/backup.info";
        store.insert(record, format!("systemid={GOLDEN_SYSTEM}\n"));
        assert_eq!(warning(&store).await, None);
        store.insert(record, "systemid=7\n");
        let text = warning(&store).await.expect("another cluster");
        for part in [
            "the newest WAL, 000000010000000000000006, is of another cluster",
            &GOLDEN_SYSTEM.to_string(),
            "20250101T000000 (7)",
        ] {
            assert!(text.contains(part), "{text}");
        }
        check(store, Some(9))
            .await
            .expect("a warning, and no failure");
    }

    #[tokio::test]
    async fn a_store_that_cannot_be_asked_is_told_apart() {
        use crate::store::Fault;
        for (kind, expected) in [
            (StoreErrorKind::Connect, OpErrorKind::Unreachable),
            (StoreErrorKind::PermissionDenied, OpErrorKind::General),
        ] {
            let faulty = FaultyStore::new(Arc::new(MemoryStore::new()));
            faulty.fail(StoreOp::Probe, Fault::Before(kind), 1);
            let error = check(faulty, None).await.unwrap_err();
            assert_eq!(error.kind, expected);
        }
    }
}
