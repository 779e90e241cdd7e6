//! How backups and WAL tools end when they are made to.

use std::fs;

use e2e::{Cluster, PgBin, Running, ShutDown, Tree, Workspace, wait_until};
use rustix::process::Signal;

struct Primary {
    workspace: Workspace,
    cluster: Cluster,
    url: String,
}

fn cluster() -> Option<Primary> {
    let bin = PgBin::find()?;
    let workspace = Workspace::new();
    workspace.dir("bucket");
    let url = workspace.url("bucket");
    let mut cluster = Cluster::create(&bin, &workspace, "primary", &[]);
    cluster.archive_into(&workspace, &url, "main", "");
    cluster.start();
    Some(Primary {
        workspace,
        cluster,
        url,
    })
}

impl Primary {
    /// A backup that takes long, in the middle of its copy.
    fn slow_backup(&self) -> (Running, String) {
        let before = self.backups();
        let tool = self
            .workspace
            .tool("barman-cloud-backup")
            .args(self.cluster.connection())
            .args([
                "--immediate-checkpoint",
                "--max-bandwidth",
                "500KB",
                "--memory-limit",
                "300KB",
            ])
            .args(["-S", "1MB", "-n", "slow", &self.url, "main"])
            .start();
        let id = wait_until("an archive of the backup", || {
            let id = self.backups().into_iter().find(|id| !before.contains(id))?;
            let archive = self
                .workspace
                .path(format!("bucket/main/base/{id}/data.tar"));
            archive.exists().then_some(id)
        });
        (tool, id)
    }

    fn backups(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.workspace.path("bucket/main/base")) else {
            return Vec::new();
        };
        let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
        entries.map(|entry| name(entry.unwrap())).collect()
    }

    fn info(&self, id: &str) -> String {
        let path = self
            .workspace
            .path(format!("bucket/main/base/{id}/backup.info"));
        fs::read_to_string(path).unwrap()
    }

    fn in_backup_mode(&self) -> bool {
        let query =
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'barman_cloud_backup'";
        self.cluster.session().value(query) != "0"
    }

    fn assert_failed(&self, id: &str, error: &str) {
        let info = self.info(id);
        for line in [
            "status=FAILED",
            error,
            "end_time=None",
            "end_xlog=None",
            "backup_name=slow",
        ] {
            assert!(
                info.lines().any(|found| found == line),
                "{line} is not in:\n{info}"
            );
        }
        let tree = Tree::of(&self.workspace.path("bucket"));
        let left = tree
            .0
            .keys()
            .find(|name| name.to_string_lossy().contains(".barman-cloud-"));
        assert_eq!(left, None, "a temporary file is left");
        wait_until("the session to end", || {
            (!self.in_backup_mode()).then_some(())
        });
    }
}

#[test]
fn a_backup_that_is_interrupted_is_marked_and_leaves_nothing_open() {
    let Some(run) = cluster() else { return };
    for signal in [Signal::INT, Signal::TERM] {
        let (tool, id) = run.slow_backup();
        tool.signal(signal);
        let ended = tool.wait();
        assert_eq!(ended.code(), Some(1), "{ended}");
        let line = "Barman cloud backup was interrupted by the user";
        assert_eq!(ended.errors(), [line], "{ended}");
        run.assert_failed(&id, "error=failure uploading data (KeyboardInterrupt)");
    }
}

#[test]
fn a_backup_whose_session_is_lost_fails_at_once() {
    let Some(run) = cluster() else { return };
    let (tool, id) = run.slow_backup();
    run.cluster.session().run(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE application_name = 'barman_cloud_backup'",
    );
    let ended = tool.wait();
    assert_eq!(ended.code(), Some(1), "{ended}");
    let why = "Connection to the Postgres server was lost during the backup.";
    assert_eq!(
        ended.errors(),
        [format!("Backup failed uploading data ({why})")],
        "{ended}"
    );
    run.assert_failed(&id, &format!("error=failure uploading data ({why})"));
}

#[test]
fn a_backup_that_was_killed_is_never_taken_for_a_good_one() {
    let Some(mut run) = cluster() else { return };
    run.workspace
        .tool("barman-cloud-backup")
        .args(run.cluster.connection())
        .args(["--immediate-checkpoint", "-n", "good", &run.url, "main"])
        .succeed();
    let good = run.backups()[0].clone();
    let (tool, killed) = run.slow_backup();
    tool.signal(Signal::KILL);
    assert_eq!(tool.wait().signal(), Some(9));
    assert!(run.info(&killed).contains("\nstatus=STARTED\n"));
    assert!(
        !run.info(&killed).contains("backup_name="),
        "its name is known only at the end"
    );
    run.cluster.stop(ShutDown::Immediate);
    let restore = |id: &str, target: &str, more: &[&str]| {
        let target = run.workspace.path(target);
        run.workspace
            .tool("barman-cloud-restore")
            .args(more)
            .args([run.url.as_str(), "main", id])
            .arg(target)
            .run()
    };
    let latest = restore("latest", "latest", &["-v"]);
    assert_eq!(latest.code(), Some(0), "{latest}");
    assert!(
        latest
            .stderr
            .contains(&format!("Restoring from backup_id: {good}")),
        "{latest}"
    );
    let refused = restore(&killed, "killed", &[]);
    assert_eq!(refused.code(), Some(1), "{refused}");
    assert!(
        refused.errors()[0].contains("has status STARTED"),
        "{refused}"
    );
    assert!(!run.workspace.path("killed").exists());
    let asked_for = restore(&killed, "killed", &["--allow-incomplete"]);
    assert_eq!(asked_for.code(), Some(0), "{asked_for}");
    assert!(!run.workspace.path("killed/backup_label").exists());
    assert!(
        !run.workspace.path("killed/global/pg_control").exists(),
        "it cannot be started"
    );
}

/// A restore whose last archive is gone must not look like one that worked.
#[test]
fn a_backup_that_lost_an_archive_is_not_restored() {
    let Some(mut run) = cluster() else { return };
    run.workspace
        .tool("barman-cloud-backup")
        .args(run.cluster.connection())
        .args(["--immediate-checkpoint", "-S", "2MB", &run.url, "main"])
        .succeed();
    run.cluster.stop(ShutDown::Immediate);
    let id = run.backups()[0].clone();
    let dir = run.workspace.path(format!("bucket/main/base/{id}"));
    let mut archives: Vec<String> = fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("data"))
        .collect();
    archives.sort();
    let last = archives
        .iter()
        .rfind(|name| name.contains('_'))
        .unwrap()
        .clone();
    for (lost, code, message) in [
        ("data.tar", 1, "Missing file"),
        (
            "data_0001.tar",
            1,
            "data_0001.* for server main: the backup is incomplete",
        ),
        (last.as_str(), 4, "so at least its last one is missing"),
    ] {
        fs::rename(dir.join(lost), dir.join("aside")).unwrap();
        let target = run.workspace.path(format!("without-{lost}"));
        let ended = run
            .workspace
            .tool("barman-cloud-restore")
            .args([run.url.as_str(), "main", &id])
            .arg(&target)
            .run();
        assert_eq!(ended.code(), Some(code), "{ended}");
        assert!(ended.errors()[0].contains(message), "{ended}");
        assert!(
            !target.join("global/pg_control").exists(),
            "it cannot be started"
        );
        fs::rename(dir.join("aside"), dir.join(lost)).unwrap();
    }
}

#[test]
fn the_wal_tools_end_by_the_signal() {
    let workspace = Workspace::new();
    workspace.dir("bucket");
    // Large, so that its compression takes longer than the signal.
    let name = "000000010000000000000001";
    let path = workspace.file(name, "");
    let segment = fs::OpenOptions::new().write(true).open(&path).unwrap();
    segment.set_len(1 << 30).unwrap();
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let tool = workspace
            .tool("barman-cloud-wal-archive")
            .args([
                "--xz",
                "--compression-level",
                "9",
                &workspace.url("bucket"),
                "main",
            ])
            .arg(&path)
            .start();
        wait_until("the tool to read the segment", || {
            tool.open_files()
                .iter()
                .any(|(open, _)| *open == path)
                .then_some(())
        });
        tool.signal(signal);
        let ended = tool.wait();
        assert_eq!(ended.signal(), Some(signal.as_raw()), "{ended}");
    }
    assert_eq!(files_in(&workspace), 0);
}

fn files_in(workspace: &Workspace) -> usize {
    let tree = Tree::of(&workspace.path("bucket"));
    tree.0
        .values()
        .filter(|entry| matches!(entry.kind, e2e::Kind::File(..)))
        .count()
}

#[test]
fn a_stuck_archiver_is_waited_for_only_as_long_as_is_asked_for() {
    let Some(run) = cluster() else { return };
    run.cluster
        .session()
        .run("ALTER SYSTEM SET archive_command = 'false'");
    run.cluster.session().run("SELECT pg_reload_conf()");
    let ended = run
        .workspace
        .tool("barman-cloud-backup")
        .args(run.cluster.connection())
        .args([
            "--immediate-checkpoint",
            "--stop-timeout",
            "1",
            "-n",
            "slow",
            &run.url,
            "main",
        ])
        .run();
    assert_eq!(ended.code(), Some(1), "{ended}");
    let errors = ended.errors();
    assert!(
        errors.len() == 1 && ended.hints().concat().contains("archive_command"),
        "{ended}"
    );
    let id = run.backups()[0].clone();
    let error = run
        .info(&id)
        .lines()
        .find(|line| line.starts_with("error="))
        .unwrap()
        .to_owned();
    assert!(
        error.contains("the server did not end the backup within 1 seconds"),
        "{error}"
    );
    run.assert_failed(&id, &error);
}

#[test]
fn a_server_that_does_not_archive_is_backed_up_with_a_warning() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    workspace.dir("bucket");
    let mut cluster = Cluster::create(&bin, &workspace, "primary", &[]);
    cluster.start();
    let run = workspace
        .tool("barman-cloud-backup")
        .args(cluster.connection())
        .args(["--immediate-checkpoint", &workspace.url("bucket"), "main"])
        .run();
    assert_eq!(run.code(), Some(0), "{run}");
    let warnings = run.messages("WARNING");
    assert!(
        warnings.len() == 1 && warnings[0].contains("WAL archiving is off"),
        "{run}"
    );
}
