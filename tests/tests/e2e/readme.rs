//! The commands of the README's usage sections, run as they stand there but
//! for the places and the time they name.

use std::process::Command;

use e2e::{
    Azurite, BarmanMethod, BarmanServer, Cluster, GcsServer, PgBin, S3Server, ShutDown, Workspace,
};

/// Commands that are not run here, since continuous integration is them.
const BY_CI: [&str; 5] = [
    "tests/demo.sh",
    "tests/run.sh",
    "cargo build --release --bins",
    // In `packages`.
    "packaging/deb.sh out",
    "packaging/tarball.sh out",
];

/// A section of the README, or a chapter of the book.
pub(crate) struct Section {
    lines: Vec<String>,
}

impl Section {
    pub(crate) fn of(heading: &str) -> Self {
        let readme = std::fs::read_to_string(e2e::project().join("README.md")).unwrap();
        let rest = readme.lines().skip_while(|line| *line != heading).skip(1);
        let lines = rest.take_while(|line| !line.starts_with("## "));
        let lines: Vec<String> = lines.map(str::to_owned).collect();
        assert!(!lines.is_empty(), "no section {heading}");
        Self { lines }
    }

    /// A whole page of `docs`.
    pub(crate) fn of_page(name: &str) -> Self {
        let page = std::fs::read_to_string(e2e::project().join("docs").join(name)).unwrap();
        let lines = page.lines().map(str::to_owned).collect();
        Self { lines }
    }

    /// Whether a line of it says this.
    pub(crate) fn has(&self, words: &str) -> bool {
        self.lines.iter().any(|line| line.contains(words))
    }

    /// The lines of all fenced blocks of a kind.
    pub(crate) fn blocks(&self, kind: &str) -> Vec<String> {
        let blocks = self.whole_blocks(kind);
        let lines = blocks.iter().flat_map(|block| block.lines());
        lines.map(|line| line.trim_start().to_owned()).collect()
    }

    /// The fenced blocks of a kind, each with all its lines.
    pub(crate) fn whole_blocks(&self, kind: &str) -> Vec<String> {
        let begin = format!("```{kind}");
        let mut blocks: Vec<String> = Vec::new();
        let mut inside = false;
        for line in &self.lines {
            let word = line.trim_start();
            if word.starts_with("```") {
                inside = word == begin;
                if inside {
                    blocks.push(String::new());
                }
            } else if inside {
                let block = blocks.last_mut().expect("one was just begun");
                block.push_str(line);
                block.push('\n');
            }
        }
        blocks
    }

    /// The value of a setting as `postgresql.conf` would have it.
    pub(crate) fn setting(&self, name: &str) -> String {
        let settings = self.blocks("ini");
        let line = settings.iter().find(|line| line.starts_with(name));
        let (_, value) = line.expect(name).split_once(" = ").unwrap();
        value.trim_matches('\'').to_owned()
    }
}

/// Where commands are run, and what stands for the places they name.
pub(crate) struct Stage<'w> {
    pub(crate) workspace: &'w Workspace,
    pub(crate) environment: Vec<(&'static str, String)>,
    pub(crate) places: Vec<(&'static str, String)>,
}

impl Stage<'_> {
    pub(crate) fn placed(&self, text: &str) -> String {
        let bin = self.workspace.path("bin");
        let mut text = text.replace(
            "/var/lib/postgresql/15",
            &self.workspace.path("pgdata").display().to_string(),
        );
        for (from, to) in &self.places {
            text = text.replace(from, to);
        }
        // The server has no such folder in its PATH.
        match text.strip_prefix("barman-cloud-") {
            Some(rest) => format!("{}/barman-cloud-{rest}", bin.display()),
            None => text,
        }
    }

    pub(crate) fn run(&self, cluster: &Cluster, line: &str) {
        let socket = cluster.socket_dir().display().to_string();
        self.run_with(&[("PGHOST", socket), ("PGUSER", "postgres".into())], line);
    }

    fn run_with(&self, more: &[(&'static str, String)], line: &str) {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &self.placed(line)])
            .env_clear()
            .envs(self.environment.clone())
            .env("PATH", "/usr/bin:/bin")
            .envs(more.iter().cloned());
        self.workspace.owner().run_as(&mut shell);
        let output = shell.output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {errors}");
    }
}

pub(crate) fn primary(bin: &PgBin, stage: &Stage<'_>, section: &Section) -> Cluster {
    stage.workspace.dir("pgdata");
    let mut cluster = Cluster::create(bin, stage.workspace, "primary", &[]);
    cluster.configure("archive_mode", "on");
    let command = stage.placed(&section.setting("archive_command"));
    cluster.configure("archive_command", &command);
    cluster.set_environment(&stage.environment);
    cluster.start();
    let rows = "CREATE TABLE t AS SELECT generate_series(1, 1000) AS i";
    cluster.session().run(rows);
    cluster
}

fn assert_rows(mut restored: Cluster, stage: &Stage<'_>, section: &Section) {
    restored.configure("archive_mode", "off");
    let command = stage.placed(&section.setting("restore_command"));
    restored.configure("restore_command", &command);
    restored.configure("recovery_target_action", "promote");
    restored.set_environment(&stage.environment);
    restored.start_and_recover();
    assert_eq!(restored.session().value("SELECT count(*) FROM t"), "1000");
}

#[test]
fn the_commands_for_a_directory_work() {
    let Some(bin) = PgBin::find() else { return };
    commands_for_a_directory_work(&bin, &Workspace::new());
}

/// Runs them with the tools of this workspace.
pub(crate) fn commands_for_a_directory_work(bin: &PgBin, workspace: &Workspace) {
    let backups = workspace.dir("backups").display().to_string();
    let section = Section::of("## Use: a local directory");
    let mut stage = Stage {
        workspace,
        environment: Vec::new(),
        places: vec![("/backups/pg", backups)],
    };
    let mut cluster = primary(bin, &stage, &section);
    let mut commands = section.blocks("sh");
    assert_eq!(commands.len(), 4, "{commands:?}");
    let restores = commands.split_off(1);
    stage.run(&cluster, &commands[0]);
    let proving = Section::of("## Use: proving a backup").blocks("sh");
    assert_eq!(proving.len(), 2, "{proving:?}");
    for command in &proving {
        stage.run(&cluster, command);
    }
    let node = workspace.dir("node-exporter").display().to_string();
    stage
        .places
        .push(("/var/lib/prometheus/node-exporter", node));
    let watching = Section::of("## Use: metrics, and is my backup alive?").blocks("sh");
    assert_eq!(watching.len(), 2, "{watching:?}");
    for command in &watching {
        stage.run(&cluster, command);
    }
    let catalogue = Section::of("## Use: the catalogue").blocks("sh");
    assert_eq!(catalogue.len(), 9, "{catalogue:?}");
    for command in &catalogue {
        stage.run(&cluster, command);
    }
    let time = cluster.session().value("SELECT clock_timestamp()");
    cluster.session().run("DELETE FROM t");
    cluster.archive_everything();
    stage.places.push(("2026-11-21 12:00:00+00", time));
    for command in &restores {
        stage.run(&cluster, command);
    }
    cluster.stop(ShutDown::Immediate);
    let restored = Cluster::existing(bin, workspace, "pgdata/restored");
    let target = stage.placed(&section.setting("recovery_target_time"));
    restored.configure("recovery_target_time", &target);
    assert_rows(restored, &stage, &section);
}

/// Runs the commands of a section or page about a store, which restore into a folder of
/// this name, and recovers there.
pub(crate) fn commands_work(
    stage: &Stage<'_>,
    bin: &PgBin,
    section: &Section,
    commands: usize,
    folder: &str,
) {
    let lines = section.blocks("sh");
    assert_eq!(lines.len(), commands, "{lines:?}");
    // Whether a server may begin here is asked before it begins.
    let asks = |line: &&String| line.starts_with("barman-cloud-check-wal-archive");
    for line in lines.iter().filter(asks) {
        stage.run_with(&[], line);
    }
    let mut cluster = primary(bin, stage, section);
    for line in lines.iter().filter(|line| !asks(line)) {
        stage.run(&cluster, line);
    }
    cluster.archive_everything();
    cluster.stop(ShutDown::Immediate);
    let folder = format!("pgdata/{folder}");
    let restored = Cluster::existing(bin, stage.workspace, &folder);
    let signal = format!("{folder}/recovery.signal");
    stage.workspace.file(&signal, "");
    assert_rows(restored, stage, section);
}

/// The section of the README about a store, with the number of its commands, or the page
/// of the book.
fn about(heading: &str, commands: usize, page: &str, on_page: usize) -> [(Section, usize); 2] {
    [
        (Section::of(heading), commands),
        (Section::of_page(page), on_page),
    ]
}

#[test]
fn the_commands_with_settings_in_a_file_work() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let backups = workspace.dir("backups").display().to_string();
    let file = workspace.path("settings.toml");
    let stage = Stage {
        workspace: &workspace,
        environment: Vec::new(),
        places: vec![
            ("/backups/pg", backups),
            ("/etc/barman-cloud.toml", file.display().to_string()),
        ],
    };
    let heading = "## Use: settings in a file";
    let section = Section::of(heading);
    let settings = section.blocks("toml").join("\n");
    workspace.file(&file, stage.placed(&settings));
    commands_work(&stage, &bin, &section, 2, "from-file");
    // It was the file that said how.
    let stored = workspace.path("backups/main/wals/0000000100000000");
    let stored = std::fs::read_dir(stored).unwrap();
    let is_zst = |entry: std::io::Result<std::fs::DirEntry>| {
        entry
            .unwrap()
            .path()
            .extension()
            .is_some_and(|suffix| suffix == "zst")
    };
    assert!(stored.map(is_zst).filter(|zst| *zst).count() > 1);
}

#[test]
fn the_commands_for_s3_work() {
    let Some(bin) = PgBin::find() else { return };
    for (section, commands) in about("## Use: S3", 3, "start-s3.md", 7) {
        let workspace = Workspace::new();
        let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
            return;
        };
        let stage = Stage {
            workspace: &workspace,
            environment: bucket.environment(),
            places: vec![
                ("s3://my-backups", bucket.url()),
                ("https://s3.example.org", bucket.endpoint().to_owned()),
            ],
        };
        commands_work(&stage, &bin, &section, commands, "from-s3");
    }
}

#[test]
fn the_commands_for_azure_blob_storage_work() {
    let Some(bin) = PgBin::find() else { return };
    for (section, commands) in about("## Use: Azure Blob Storage", 2, "start-azure.md", 4) {
        let workspace = Workspace::new();
        let Some(container) = Azurite::Plain.container(&workspace) else {
            return;
        };
        let url = "https://myaccount.blob.core.windows.net/backups";
        let stage = Stage {
            workspace: &workspace,
            environment: container.environment(),
            places: vec![(url, container.url())],
        };
        commands_work(&stage, &bin, &section, commands, "from-azure");
    }
}

#[test]
fn the_commands_for_google_cloud_storage_work() {
    let Some(bin) = PgBin::find() else { return };
    for (section, commands) in about("## Use: Google Cloud Storage", 2, "start-gcs.md", 4) {
        let workspace = Workspace::new();
        let Some(bucket) = GcsServer::StandIn.bucket() else {
            return;
        };
        let stage = Stage {
            workspace: &workspace,
            environment: bucket.environment(),
            places: vec![("gs://my-backups", bucket.url())],
        };
        commands_work(&stage, &bin, &section, commands, "from-gcs");
    }
}

#[test]
fn the_settings_and_commands_for_a_barman_server_work() {
    let Some(bin) = PgBin::find() else { return };
    commands_for_a_barman_server_work(&bin, &Workspace::new());
}

/// Runs them with the tools of this workspace.
pub(crate) fn commands_for_a_barman_server_work(bin: &PgBin, workspace: &Workspace) {
    let Some(server) = BarmanServer::find(workspace) else {
        return;
    };
    let backups = workspace.dir("backups").display().to_string();
    workspace.dir("backups/relayed");
    workspace.dir("pgdata");
    let section = Section::of("## Use: a Barman server's hook scripts");
    let stage = Stage {
        workspace,
        environment: Vec::new(),
        places: vec![("/backups", backups)],
    };
    let mut cluster = Cluster::create(bin, workspace, "primary", &[]);
    server.receive_from(&cluster);
    cluster.start();
    let hooks = ["post_backup_retry_script", "pre_archive_retry_script"];
    let hooks = hooks.map(|name| format!("{name} = '{}'", stage.placed(&section.setting(name))));
    server.configure(bin, &cluster, BarmanMethod::Rsync, &hooks);
    server.take_wal();
    cluster
        .session()
        .run("CREATE TABLE t AS SELECT generate_series(1, 1000) AS i");
    let commands = section.blocks("sh");
    assert_eq!(commands.len(), 3, "{commands:?}");
    let arguments: Vec<&str> = commands[0].split(' ').skip(1).collect();
    server.run(&arguments);
    server.take_wal();
    for command in &commands[1..] {
        stage.run(&cluster, command);
    }
    cluster.stop(ShutDown::Immediate);
    std::fs::remove_dir_all(workspace.path("barman")).expect("the server is gone");
    let restored = Cluster::existing(bin, workspace, "pgdata/from-barman");
    workspace.file("pgdata/from-barman/recovery.signal", "");
    assert_rows(restored, &stage, &section);
}

#[test]
fn every_other_command_is_run_by_continuous_integration() {
    let readme = std::fs::read_to_string(e2e::project().join("README.md")).unwrap();
    let whole = Section {
        lines: readme.lines().map(str::to_owned).collect(),
    };
    let mut commands = whole.blocks("sh");
    for heading in [
        "## Use: a local directory",
        "## Use: S3",
        "## Use: Azure Blob Storage",
        "## Use: Google Cloud Storage",
        "## Use: settings in a file",
        "## Use: the catalogue",
        "## Use: proving a backup",
        "## Use: metrics, and is my backup alive?",
        // Run in `snapshots_aws`.
        "## Use: snapshots of disks",
        "## Use: a Barman server's hook scripts",
    ] {
        let tested = Section::of(heading).blocks("sh");
        commands.retain(|command| !tested.contains(command));
    }
    assert_eq!(commands, BY_CI);
}
