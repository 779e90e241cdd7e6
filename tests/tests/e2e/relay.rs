//! A real Barman server that runs our tools as its hook scripts, and a cluster that
//! comes back from the bucket alone.

use std::fs;

use e2e::{
    Azurite, Barman, BarmanMethod, BarmanServer, Cluster, Fault, FaultProxy, PgBin, Place,
    Recovery, Remote, Rule, S3Server, ShutDown, Workspace, WriteLoad,
};

const TABLES: [(&str, Option<&str>); 2] = [("plain", None), ("in_fast", Some("fast"))];

/// Whose tools restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Ours,
    Theirs,
}

/// A running primary with a tablespace, a Barman server that knows it, and a place for
/// what is relayed.
struct Scene<'w> {
    bin: PgBin,
    workspace: &'w Workspace,
    barman: Barman,
    server: BarmanServer<'w>,
    primary: Cluster,
}

impl<'w> Scene<'w> {
    fn new(
        workspace: &'w Workspace,
        place: &Place<'w>,
        method: BarmanMethod,
        options: [&str; 2],
    ) -> Option<Self> {
        let bin = PgBin::find()?;
        let barman = Barman::find()?;
        let mut server = BarmanServer::find(workspace)?;
        server.set_environment(place.environment());
        let mut primary = Cluster::create(&bin, workspace, "primary", &[]);
        match method {
            BarmanMethod::Rsync => server.receive_from(&primary),
            BarmanMethod::Streaming => primary.configure("wal_level", "replica"),
        }
        primary.start();
        primary.make_tablespace(workspace, "fast", "fast");
        let hook = |setting: &str, tool: &str, options: &str| {
            let program = workspace.bin(tool);
            format!(
                "{setting} = {} {} {options} \"{}\" ${{BARMAN_SERVER}}",
                program.display(),
                place.options().join(" "),
                place.url()
            )
        };
        let [of_backup, of_wal] = options;
        let hooks = [
            hook("post_backup_retry_script", "barman-cloud-backup", of_backup),
            hook(
                "pre_archive_retry_script",
                "barman-cloud-wal-archive",
                of_wal,
            ),
        ];
        server.configure(&bin, &primary, method, &hooks);
        Some(Self {
            bin,
            workspace,
            barman,
            server,
            primary,
        })
    }

    /// Takes a backup of the primary through the Barman server.
    fn back_up(&self) {
        self.server
            .run(&["backup", "--wait", "--immediate-checkpoint", "main"]);
    }

    /// Restores the backup into folder `name` and recovers to the named point, with
    /// the tools of `side`, from the store alone.
    fn comes_back(&self, side: Side, place: &Place<'w>, name: &str, digest: &str) {
        let tool = |tool: &str| match side {
            Side::Ours => place.tool(tool),
            Side::Theirs => self
                .barman
                .tool(self.workspace, tool)
                .envs(place.environment().to_vec())
                .args(place.options()),
        };
        let fast = self.workspace.path(format!("{name}-fast"));
        tool("barman-cloud-restore")
            .args(["--tablespace", &format!("fast:{}", fast.display())])
            .args([place.url(), "main", "latest"])
            .arg(self.workspace.path(name))
            .succeed();
        let program = match side {
            Side::Ours => self.workspace.bin("barman-cloud-wal-restore"),
            Side::Theirs => self.barman.program("barman-cloud-wal-restore"),
        };
        let (program, options) = (program.display(), place.options().join(" "));
        let fetch = format!("{program} {options} '{}' main %f %p", place.url());
        let mut restored = Cluster::existing(&self.bin, self.workspace, name);
        restored.recover_with(&fetch, &Recovery::Name("here"));
        restored.set_environment(place.environment());
        restored.start_and_recover();
        let session = restored.session();
        assert_eq!(session.digest(), digest, "{side:?}");
        session.read_every_table();
        drop(session);
        restored.stop(ShutDown::Fast);
        restored.check_pages();
    }
}

/// A primary under load is backed up and archived by a Barman server. When that
/// server and the primary are gone, the bucket alone leads back.
fn a_relayed_cluster_comes_back(
    workspace: &Workspace,
    objects: &dyn Remote,
    place: &Place<'_>,
    method: BarmanMethod,
    options: [&str; 2],
) {
    let Some(mut scene) = Scene::new(workspace, place, method, options) else {
        return;
    };
    let streaming = method == BarmanMethod::Streaming;
    let receiver = streaming.then(|| scene.server.receive_wal(&scene.primary));
    let switch = || match method {
        BarmanMethod::Rsync => scene.server.take_wal(),
        BarmanMethod::Streaming => scene.server.take_streamed_wal(&scene.primary),
    };
    switch();
    let load = WriteLoad::start(&scene.primary, &TABLES);
    scene.back_up();
    let session = scene.primary.session();
    let digest = load.stop_behind_point(&session, "here");
    drop(session);
    switch();

    let (_, id) = scene.server.backup();
    let key = format!("a path/backups/main/base/{id}/");
    let record = objects.read(&format!("{key}backup.info"));
    let kept = fs::read(scene.server.record(&id)).expect("Barman has a record");
    assert_eq!(record, kept, "byte for byte");
    let archives = objects.keys(&format!("{key}data"));
    assert!(archives.len() >= 2, "PGDATA has one archive: {archives:?}");
    assert_eq!(objects.uploads(), [""; 0], "an upload is open");
    drop(receiver);
    scene.primary.stop(ShutDown::Immediate);
    // Nothing but the bucket is left.
    fs::remove_dir_all(workspace.path("barman")).expect("the server is gone");
    fs::remove_dir_all(scene.primary.pgdata()).expect("the primary is gone");
    fs::remove_dir_all(workspace.path("fast")).expect("its tablespace is gone");

    scene.comes_back(Side::Ours, place, "ours", &digest);
    scene.comes_back(Side::Theirs, place, "theirs", &digest);
}

#[test]
fn a_cluster_backed_up_by_rsync_comes_back() {
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let place = Place::in_bucket(&workspace, &bucket, "a path/backups");
    let options = ["--gzip --max-archive-size 1MB", "--zstd"];
    a_relayed_cluster_comes_back(&workspace, &bucket, &place, BarmanMethod::Rsync, options);
}

#[test]
fn a_cluster_backed_up_by_streaming_comes_back() {
    let workspace = Workspace::new();
    let Some(container) = Azurite::Plain.container(&workspace) else {
        return;
    };
    let place = Place::in_container(&workspace, &container, "a path/backups");
    let options = ["--max-archive-size 8MB", "--gzip"];
    a_relayed_cluster_comes_back(
        &workspace,
        &container,
        &place,
        BarmanMethod::Streaming,
        options,
    );
}

/// Barman runs the script again until it succeeds. What the first attempts brought to
/// the end is not sent again.
#[test]
fn barmans_own_retries_go_on_where_the_store_failed() {
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let place = Place::in_bucket(&workspace, &bucket, "a path/backups");
    let options = ["--max-archive-size 8MB", ""];
    let Some(mut scene) = Scene::new(&workspace, &place, BarmanMethod::Rsync, options) else {
        return;
    };
    let session = scene.primary.session();
    for (table, tablespace) in TABLES {
        let place = tablespace.map_or(String::new(), |name| format!("TABLESPACE {name}"));
        session.run(&format!(
            "CREATE TABLE {table} {place} AS SELECT generate_series(1, 9000) AS i"
        ));
    }
    scene.server.take_wal();
    let proxy = FaultProxy::start(bucket.endpoint());
    scene
        .server
        .set_environment(&bucket.environment_through(&proxy));
    // A refusal, since the tool itself waits for a store that is only down.
    let refusal = Rule::new(&Fault::Status(403));
    proxy.add(&refusal.clone().on("^PUT [^?]*/data.tar").times(1));
    proxy.add(&refusal.on("^PUT [^?]*/data_0002.tar").times(1));
    scene.back_up();
    session.run("SELECT pg_create_restore_point('here')");
    let digest = session.digest();
    drop(session);
    scene.server.take_wal();

    let attempts = scene
        .server
        .log()
        .matches("Attempt to run backup_retry_script")
        .count();
    let log = proxy.log();
    let (_, id) = scene.server.backup();
    let stored = bucket.keys(&format!("a path/backups/main/base/{id}/"));
    assert!(stored.len() >= 5, "{stored:?}");
    for key in &stored {
        let name = key.rsplit('/').next().expect("a name");
        let taken = log.iter().filter(|request| {
            let path = request.line.split(['?', ' ']).nth(1).unwrap_or_default();
            let writes = request.line.starts_with("PUT ") && path.ends_with(&format!("/{name}"));
            writes && request.status == Some(200)
        });
        assert_eq!(taken.count(), 1, "{name} was stored once");
    }
    let refused = log
        .iter()
        .filter(|request| request.status == Some(403))
        .count();
    assert_eq!(refused, 2, "the store failed twice");
    // At DEBUG alone, or not at all.
    assert!(matches!(attempts, 0 | 3), "{attempts} attempts");
    assert_eq!(bucket.uploads(), [""; 0], "an upload is open");
    scene.primary.stop(ShutDown::Immediate);
    scene.comes_back(Side::Ours, &place, "restored", &digest);
}

/// A backup that waits for WAL cannot be relayed; Barman does not try again.
#[test]
fn a_backup_that_waits_for_wal_is_refused_once() {
    let workspace = Workspace::new();
    let place = Place::in_directory(&workspace);
    let Some(scene) = Scene::new(&workspace, &place, BarmanMethod::Rsync, ["", ""]) else {
        return;
    };
    scene.server.take_wal();
    let run = scene
        .server
        .tool(&["backup", "--immediate-checkpoint", "main"])
        .run();
    let log = scene.server.log();
    let refusal = "has status 'WAITING_FOR_WALS' (status should be: DONE)";
    assert!(log.contains(refusal), "{run}\n{log}");
    assert_eq!(log.matches(" returned 63").count(), 1, "{log}");
    let (_, id) = scene.server.backup();
    assert!(!workspace.path(format!("bucket/main/base/{id}")).exists());
}
