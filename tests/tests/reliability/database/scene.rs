//! A running server, its archive, and a store behind a proxy.

use std::collections::BTreeMap;

use e2e::{
    Bucket, Cluster, Fault, FaultProxy, PgBin, Place, Recovery, Rule, Run, Running, ShutDown, Tool,
    Tree, Workspace, of_sample_or_whole, wait_until,
};
use serde_json::Value;

/// The upload of the first part of an archive: the copy has begun, and waits for
/// memory soon.
pub(crate) const FIRST_PART: &str = "^PUT /.*partNumber=1&";

/// A primary that archives into a bucket. Backups go through the proxy.
#[derive(Debug)]
pub(crate) struct Scene<'w> {
    pub(crate) workspace: &'w Workspace,
    pub(crate) bin: &'w PgBin,
    pub(crate) bucket: &'w Bucket<'w>,
    pub(crate) proxy: FaultProxy,
    pub(crate) place: Place<'w>,
    pub(crate) cluster: Cluster,
}

impl<'w> Scene<'w> {
    pub(crate) fn new(workspace: &'w Workspace, bin: &'w PgBin, bucket: &'w Bucket<'w>) -> Self {
        let place = Place::in_bucket(workspace, bucket, "p");
        let proxy = FaultProxy::start(bucket.endpoint());
        let mut cluster = place.primary(bin, "--gzip");
        cluster.start();
        cluster
            .session()
            .run("CREATE TABLE t AS SELECT i, repeat(md5(i::text), 4) FROM generate_series(1, 20000) AS i");
        Self {
            workspace,
            bin,
            bucket,
            proxy,
            place,
            cluster,
        }
    }

    /// A backup in small parts, one at a time, through the proxy.
    pub(crate) fn backup_of(&self, cluster: &Cluster) -> Tool<'w> {
        self.place
            .backup(cluster, "postgres")
            .envs(self.bucket.environment_through(&self.proxy))
            .args(["--min-chunk-size=5MB", "--memory-limit=12MB", "--jobs=1"])
    }

    /// The same of the primary.
    pub(crate) fn backup(&self) -> Tool<'w> {
        self.backup_of(&self.cluster)
    }

    /// Starts a tool and returns when it has come to a request that `on` is found in,
    /// which waits until the proxy is told to go on.
    pub(crate) fn held(&self, on: &str, tool: Tool<'w>) -> Running {
        self.proxy.clear();
        let before = self.proxy.log().len();
        self.proxy.add(&Rule::new(&Fault::Hold).on(on));
        let mut running = tool.start();
        let ended = self
            .proxy
            .wait_for_held(before, || (!running.is_running()).then_some(()));
        assert_eq!(
            ended,
            None,
            "{on} was not asked: {}",
            running.stderr_so_far()
        );
        running
    }

    /// Id and status of every backup.
    pub(crate) fn listed(&self) -> BTreeMap<String, String> {
        let list = self.place.tool("barman-cloud-backup-list");
        let run = list.args(["--format=json", self.place.url(), "main"]).run();
        assert_eq!(run.code(), Some(0), "{run}");
        let list: Value = serde_json::from_str(&run.stdout).unwrap();
        let backups = list["backups_list"].as_array().unwrap().iter();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        backups
            .map(|backup| (text(&backup["backup_id"]), text(&backup["status"])))
            .collect()
    }

    /// Everything that is stored of backups.
    pub(crate) fn stored(&self) -> BTreeMap<String, u64> {
        self.bucket.sizes("p/main/base/")
    }

    /// A backup that works; gives its id.
    pub(crate) fn good(&self) -> String {
        let before = self.listed();
        self.proxy.clear();
        // Small, since the bucket stays as long as its server, and that is in memory.
        let run = self.backup().arg("--gzip").run();
        // Not always silent: it waits when its second is taken.
        assert_eq!(run.code(), Some(0), "{run}");
        let new = self.listed().into_iter();
        let mut new = new.filter(|(id, _)| !before.contains_key(id));
        let (id, status) = new.next().expect("a backup is listed");
        assert_eq!(status, "DONE");
        id
    }

    /// Asserts that a backup that did not come to its end is marked with the reason,
    /// that nothing of it is open, that those before are as they were, and that the
    /// next one works and is the latest.
    pub(crate) fn assert_failed(&self, run: &Run, why: &str, before: &BTreeMap<String, u64>) {
        assert_eq!(run.code(), Some(1), "{run}");
        let errors = run.errors();
        assert!(errors.len() == 1 && errors[0].contains(why), "{run}");
        assert_eq!(self.bucket.uploads(), [""; 0], "{run}");
        let stored = self.stored();
        let record = |key: &&String| !before.contains_key(*key) && key.ends_with("/backup.info");
        let records: Vec<&String> = stored.keys().filter(record).collect();
        assert_eq!(records.len(), 1, "{records:?}");
        let info = String::from_utf8(self.bucket.read(records[0])).unwrap();
        let has = |line: &str| info.lines().any(|found| found == line);
        assert!(has("status=FAILED") && has("end_time=None"), "{info}");
        assert!(
            info.lines()
                .any(|l| l.starts_with("error=") && l.contains(why)),
            "{info}"
        );
        for (key, size) in before {
            assert_eq!(stored.get(key), Some(size), "{key}");
        }
    }

    /// Asserts that the server is out of backup mode, and that a backup can be taken
    /// and is the latest, byte for byte by its manifest.
    pub(crate) fn assert_next_works(&self) {
        let query =
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'barman_cloud_backup'";
        let session = self.cluster.session();
        wait_until("the session to end", || {
            (session.value(query) == "0").then_some(())
        });
        let id = self.good();
        self.assert_latest_is(&id);
    }

    /// Asserts that `latest` is this backup, and, in a whole run, can be restored.
    pub(crate) fn assert_latest_is(&self, id: &str) {
        let show = self.place.tool("barman-cloud-backup-show");
        let run = show.args([self.place.url(), "main", "latest"]).run();
        assert!(run.code() == Some(0) && run.stdout.contains(id), "{run}");
        if !of_sample_or_whole(false, true) {
            return;
        }
        let target = self.workspace.path(format!("latest-{id}"));
        let restore = self.place.tool("barman-cloud-restore");
        let run = restore
            .args(["-v", self.place.url(), "main", "latest"])
            .arg(&target)
            .run();
        assert_eq!(run.code(), Some(0), "{run}");
        let line = format!("Restoring from backup_id: {id}");
        assert!(run.stderr.contains(&line), "{run}");
        assert!(Tree::of(&target).0.len() > 500);
        std::fs::remove_dir_all(target).unwrap();
    }

    /// Stops the primary, and asserts that the latest backup and the archive lead to
    /// the rows it had, on pages that are whole.
    pub(crate) fn assert_comes_back(self) {
        self.assert_comes_back_with(&[]);
    }

    /// The same with options for the restore.
    pub(crate) fn assert_comes_back_with(mut self, options: &[String]) {
        let digest = self.cluster.session().digest();
        self.cluster.archive_everything();
        self.cluster.stop(ShutDown::Immediate);
        let restore = self.place.tool("barman-cloud-restore").args(options);
        restore
            .args([self.place.url(), "main", "latest"])
            .arg(self.workspace.path("back"))
            .succeed();
        let mut restored = self.place.recovering(self.bin, "back", &Recovery::Latest);
        restored.start_and_recover();
        let session = restored.session();
        assert_eq!(session.digest(), digest);
        session.read_every_table();
        drop(session);
        restored.stop(ShutDown::Fast);
        // Not every installation has the program; the reading above looks as well.
        if self.bin.program("pg_checksums").is_file() {
            restored.check_pages();
        }
    }
}
