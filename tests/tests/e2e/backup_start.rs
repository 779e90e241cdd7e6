//! What changes between the first look at a server and the moment at which its backup begins, and
//! data directories in which somebody moved something.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use e2e::{Cluster, PgBin, Recovery, Run, ShutDown, Tool, Workspace, wait_until};

/// A primary that archives into a folder.
struct Scene<'w> {
    workspace: &'w Workspace,
    bin: &'w PgBin,
    url: String,
    primary: Cluster,
}

impl<'w> Scene<'w> {
    fn new(workspace: &'w Workspace, bin: &'w PgBin) -> Self {
        workspace.dir("bucket");
        let url = workspace.url("bucket");
        let mut primary = Cluster::create(bin, workspace, "primary", &[]);
        primary.archive_into(workspace, &url, "main", "");
        primary.start();
        Self {
            workspace,
            bin,
            url,
            primary,
        }
    }

    fn backup(&self) -> Tool<'w> {
        let tool = self.workspace.tool("barman-cloud-backup");
        tool.args(self.primary.connection())
            .args([&self.url, "main"])
    }

    /// The one record that there is.
    fn record(&self) -> String {
        record_in(&self.workspace.path("bucket"))
    }

    /// A server restored from the newest backup, with the tablespace `fast` in a folder of its own.
    fn restored(&self) -> Cluster {
        let fast = format!(
            "--tablespace=fast:{}",
            self.workspace.path("moved").display()
        );
        self.workspace
            .tool("barman-cloud-restore")
            .args([&fast, &self.url, "main", "latest"])
            .arg(self.workspace.path("restored"))
            .succeed();
        let mut restored = Cluster::existing(self.bin, self.workspace, "restored");
        restored.recover(self.workspace, &self.url, "main", &Recovery::Latest);
        restored.start_and_recover();
        restored
    }
}

fn record_in(bucket: &Path) -> String {
    let mut backups = fs::read_dir(bucket.join("main/base")).unwrap();
    let backup = backups.next().expect("a backup").unwrap().path();
    assert!(backups.next().is_none(), "one backup");
    fs::read_to_string(backup.join("backup.info")).unwrap()
}

fn assert_refused(run: &Run, why: &str) {
    assert_eq!(run.code(), Some(1), "{run}");
    assert!(run.errors().iter().any(|line| line.contains(why)), "{run}");
}

/// The server begins a backup with a checkpoint of its own, after the one that is under way: an
/// hour later, perhaps. What came into being before that is in no WAL that replay reads.
#[test]
fn a_tablespace_made_while_the_backup_waits_to_begin_is_part_of_it() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let scene = Scene::new(&workspace, &bin);
    let session = scene.primary.session();
    session.run("ALTER SYSTEM SET checkpoint_completion_target = 0.99");
    session.run("SELECT pg_reload_conf()");
    // Enough that a checkpoint that takes its time takes minutes.
    session.run("CREATE TABLE t AS SELECT i, repeat('x', 500) FROM generate_series(1, 30000) AS i");
    let begins = |number: usize| {
        let query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = \
                     'barman_cloud_backup' AND query ~ 'pg_(backup_start|start_backup)' AND state = \
                     'active'";
        wait_until("the backup to wait for its checkpoint", || {
            (session.value(query) == number.to_string()).then_some(())
        });
    };
    // The checkpoint that is under way is another backup's.
    let other = workspace.tool("barman-cloud-backup");
    let other = other
        .args(scene.primary.connection())
        .args([&scene.url, "other"])
        .start();
    begins(1);
    wait_until("the first checkpoint to begin", || {
        let log = scene.primary.log_text();
        log.contains("checkpoint starting: force wait")
            .then_some(())
    });
    let tool = scene.backup().start();
    begins(2);
    scene.primary.make_tablespace(&workspace, "fast", "fast");
    session.run("CREATE TABLE made TABLESPACE fast AS SELECT generate_series(1, 5000) AS i");
    // Makes both of them hurry.
    session.run("CHECKPOINT");
    other.wait();
    let run = tool.wait();
    assert_eq!(run.code(), Some(0), "{run}");
    assert!(scene.record().contains("'fast'"), "{}", scene.record());
    let digest = session.digest();
    drop(session);
    scene.primary.archive_everything();
    assert_eq!(scene.restored().session().digest(), digest);
}

#[test]
fn a_tablespace_that_was_moved_by_a_relative_link_is_part_of_the_backup() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let mut scene = Scene::new(&workspace, &bin);
    let place = scene.primary.make_tablespace(&workspace, "fast", "fast");
    let session = scene.primary.session();
    session.run("CREATE TABLE made TABLESPACE fast AS SELECT generate_series(1, 5000) AS i");
    let digest = session.digest();
    drop(session);
    scene.primary.stop(ShutDown::Fast);
    let links = scene.primary.pgdata().join("pg_tblspc");
    let link = fs::read_dir(links).unwrap().next().unwrap().unwrap().path();
    fs::remove_file(&link).unwrap();
    symlink("../../fast", &link).unwrap();
    scene.primary.start();
    scene.backup().arg("--immediate-checkpoint").succeed();
    let location = format!("'{}'", place.display());
    assert!(scene.record().contains(&location), "{}", scene.record());
    scene.primary.archive_everything();
    assert_eq!(scene.restored().session().digest(), digest);
}

#[test]
fn a_database_that_was_moved_away_by_a_link_is_not_passed_over() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let mut scene = Scene::new(&workspace, &bin);
    let session = scene.primary.session();
    session.run("CREATE DATABASE moved");
    let oid = session.value("SELECT oid FROM pg_database WHERE datname = 'moved'");
    drop(session);
    scene.primary.stop(ShutDown::Fast);
    let own = scene.primary.pgdata().join("base").join(&oid);
    fs::rename(&own, workspace.path("elsewhere")).unwrap();
    symlink(workspace.path("elsewhere"), &own).unwrap();
    scene.primary.start();
    let run = scene.backup().run();
    assert_refused(&run, &format!("`base/{oid}` in `"));
    assert!(
        !workspace.path("bucket/main/base").exists(),
        "nothing was begun"
    );
}

/// As where a server fails over while the tool runs: the connection leads to the new primary, and
/// the files of this host are those of the old one.
#[test]
fn files_of_another_copy_of_the_cluster_are_not_taken_for_the_servers() {
    let Some(bin) = PgBin::find() else { return };
    if !Cluster::can_be_first_process() {
        return;
    }
    let workspace = Workspace::new();
    let scene = Scene::new(&workspace, &bin);
    let (own, other) = (scene.primary.pgdata(), workspace.path("other"));
    let copied = Command::new("cp").arg("-a").args([own, &other]).status();
    assert!(copied.unwrap().success());
    workspace.dir("refused");
    // What is mounted there the tool alone sees.
    let script = "mount --bind \"$1\" \"$2\" && shift 2 && exec \"$@\"";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh"])
        .args([&other, own])
        .arg(workspace.bin("barman-cloud-backup"))
        .args(scene.primary.connection())
        .args(["--immediate-checkpoint", &workspace.url("refused"), "main"])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    let why = "is not the data directory of the server that was asked";
    assert!(told.contains(why), "{told}");
    let record = record_in(&workspace.path("refused"));
    assert!(record.contains("status=FAILED"), "{record}");
    scene.backup().arg("--immediate-checkpoint").succeed();
}
