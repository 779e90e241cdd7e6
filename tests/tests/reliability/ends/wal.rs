//! The two tools that PostgreSQL runs for each segment.

use std::fs;
use std::path::PathBuf;

use e2e::{Section, StagedRun, Stages, Tool, Workspace};

use super::{Blows, DISK, Interrupted, SIGNALS, Scenario, could_clean_up, sweep, was_stopped};
use crate::objects::Store;

const SEGMENT: &str = "000000010000000000000006";

fn segment(workspace: &Workspace) -> PathBuf {
    let content = fs::read(e2e::golden().join("wal").join(SEGMENT)).unwrap();
    workspace.file(SEGMENT, content)
}

/// A segment on its way into an archive that is empty each time.
struct Archiving<'s, 'w> {
    store: &'s Store<'w>,
    segment: PathBuf,
    archives: usize,
}

impl<'w> Archiving<'_, 'w> {
    fn path(&self) -> String {
        format!("archive{}", self.archives)
    }

    fn tool(&self) -> Tool<'w> {
        let place = self.store.place(&self.path());
        let tool = place.tool("barman-cloud-wal-archive");
        tool.args(["--gzip", place.url(), "main"])
            .arg(&self.segment)
    }
}

impl<'w> Scenario<'w> for Archiving<'_, 'w> {
    fn title(&self) -> String {
        format!("`wal-archive` into {}", self.store.name())
    }

    fn found(&self) -> String {
        "never 0 without the segment being there; the next run archives it; it is there once and whole"
            .into()
    }

    fn begin(&mut self) -> Tool<'w> {
        self.archives += 1;
        self.tool()
    }

    fn check(&mut self, ended: &StagedRun) {
        let key = format!("main/wals/0000000100000000/{SEGMENT}.gz");
        let before = self.store.objects(&self.path());
        let stopped = was_stopped(ended, Interrupted::BySignal);
        assert!(stopped || before.contains_key(&key), "{ended}");
        if could_clean_up(ended) {
            assert_eq!(self.store.unfinished(&self.path()), 0, "{ended}");
        }
        self.tool().succeed();
        let after = self.store.objects(&self.path());
        assert!(after.keys().eq([&key]), "{:?} after {ended}", after.keys());
        assert!(
            before.is_empty() || before == after,
            "what was there was replaced: {ended}"
        );
        let place = self.store.place(&self.path());
        let fetched = self.store.workspace().path("fetched");
        place
            .tool("barman-cloud-wal-restore")
            .args(["--no-partial", place.url(), "main", SEGMENT])
            .arg(&fetched)
            .succeed();
        assert!(
            fs::read(&fetched).unwrap() == fs::read(&self.segment).unwrap(),
            "{ended}"
        );
        fs::remove_file(fetched).unwrap();
    }
}

/// A segment on its way out, into `pg_wal`, with a spool.
struct Fetching<'s, 'w> {
    store: &'s Store<'w>,
    segment: PathBuf,
    times: usize,
    /// What the row says of the stages.
    of: &'static str,
}

impl<'w> Fetching<'_, 'w> {
    fn tool(&self) -> Tool<'w> {
        let place = self.store.place("stored");
        let workspace = self.store.workspace();
        let tool = place.tool("barman-cloud-wal-restore");
        tool.arg("--spool-dir")
            .arg(workspace.path(format!("spools/{}", self.times)))
            .args([place.url(), "main", SEGMENT])
            .arg(self.target())
    }

    fn target(&self) -> PathBuf {
        let folder = self
            .store
            .workspace()
            .dir(format!("targets/{}", self.times));
        folder.join("RECOVERYXLOG")
    }
}

impl<'w> Scenario<'w> for Fetching<'_, 'w> {
    fn title(&self) -> String {
        format!("`wal-restore` from {}{}", self.store.name(), self.of)
    }

    fn found(&self) -> String {
        "never 1; no segment or a whole one; the next run delivers it whole".into()
    }

    fn begin(&mut self) -> Tool<'w> {
        self.times += 1;
        self.tool()
    }

    fn check(&mut self, ended: &StagedRun) {
        let whole = fs::read(&self.segment).unwrap();
        let delivered = fs::read(self.target()).ok();
        let stopped = was_stopped(ended, Interrupted::BySignal);
        assert!(
            delivered.is_some() || stopped,
            "nothing was delivered: {ended}"
        );
        assert!(
            delivered.is_none_or(|delivered| delivered == whole),
            "half a segment: {ended}"
        );
        if could_clean_up(ended) {
            let folder = self.target();
            let left = fs::read_dir(folder.parent().unwrap()).unwrap();
            let left = left.filter(|entry| {
                let name = entry.as_ref().unwrap().file_name();
                name != "RECOVERYXLOG"
            });
            assert_eq!(left.count(), 0, "{ended}");
        }
        self.tool().succeed();
        assert!(fs::read(self.target()).unwrap() == whole, "{ended}");
    }
}

/// Where a segment of the golden samples is archived before it is fetched.
fn archived<'s, 'w>(store: &'s Store<'w>, of: &'static str) -> Fetching<'s, 'w> {
    let segment = segment(store.workspace());
    let place = store.place("stored");
    place
        .tool("barman-cloud-wal-archive")
        .args(["--gzip", place.url(), "main"])
        .arg(&segment)
        .succeed();
    store.workspace().dir("spools");
    Fetching {
        store,
        segment,
        times: 0,
        of,
    }
}

fn wal_tools(store: &Store<'_>, section: Section, stages: &Stages, blows: &Blows) {
    let mut archiving = Archiving {
        store,
        segment: segment(store.workspace()),
        archives: 0,
    };
    sweep(section, stages, blows, &mut archiving, 100);
    if section == Section::Ends {
        sweep(section, stages, blows, &mut archived(store, ""), 100);
    }
}

#[test]
fn the_wal_tools_on_a_directory() {
    let workspace = Workspace::new();
    let store = Store::directory(&workspace);
    wal_tools(&store, Section::Ends, &store.stages(), SIGNALS);
}

#[test]
fn the_wal_tools_on_s3() {
    let workspace = Workspace::new();
    let Some(store) = Store::bucket(&workspace) else {
        return;
    };
    wal_tools(&store, Section::Ends, &store.stages(), SIGNALS);
}

#[test]
fn the_wal_tools_on_a_bad_disk() {
    let workspace = Workspace::new();
    let store = Store::directory(&workspace);
    let disk = Stages::of_files().under(&store.folder());
    wal_tools(&store, Section::Disk, &disk, DISK);
    for (folder, of) in [
        ("targets", ", disk of `pg_wal`"),
        ("spools", ", disk of the spool"),
    ] {
        let disk = Stages::of_files().under(&workspace.dir(folder));
        sweep(Section::Disk, &disk, DISK, &mut archived(&store, of), 100);
    }
}
