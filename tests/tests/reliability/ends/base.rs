//! Base backups, and their restores.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use e2e::{
    Blow, Cluster, PgBin, Place, Recovery, Section, ShutDown, StagedRun, Stages, Tool, Workspace,
    of_sample_or_whole, wait_until,
};
use serde_json::Value;

use super::{Blows, DISK, Interrupted, SIGNALS, Scenario, could_clean_up, sweep, was_stopped};
use crate::objects::Store;

/// Where all of it lies.
const PATH: &str = "archive";

/// Where base backups lie; the server archives its WAL beside them all the time.
const BASE: &str = "archive/main/base";

/// A primary with one database and a tablespace, that archives into `place`.
fn primary(bin: &PgBin, place: &Place<'_>, workspace: &Workspace) -> Cluster {
    let mut primary = place.primary(bin, "");
    primary.start();
    primary.make_tablespace(workspace, "fast", "fast");
    let session = primary.session();
    // A smaller cluster has the same stages, and fewer of each kind.
    session.run("UPDATE pg_database SET datistemplate = false WHERE datname <> 'postgres'");
    session.run("DROP DATABASE template1");
    session.run("DROP DATABASE template0");
    session.run("CREATE TABLE t AS SELECT generate_series(1, 1000) AS i");
    session.run("CREATE TABLE f TABLESPACE fast AS SELECT generate_series(1, 1000) AS i");
    session.run("CHECKPOINT");
    primary
}

/// What `list` says of each backup: its status, by its id.
pub(super) fn listed(place: &Place<'_>) -> BTreeMap<String, String> {
    let list = place.tool("barman-cloud-backup-list");
    let run = list.args(["--format=json", place.url(), "main"]).run();
    assert_eq!(run.code(), Some(0), "{run}");
    let json: Value = serde_json::from_str(&run.stdout).unwrap();
    let text = |backup: &Value, key: &str| backup[key].as_str().unwrap().to_owned();
    let backups = json["backups_list"].as_array().unwrap().iter();
    backups
        .map(|backup| (text(backup, "backup_id"), text(backup, "status")))
        .collect()
}

/// Restores a backup into an empty folder; its manifest says that all is there.
fn restore<'w>(place: &Place<'w>, id: &str, folder: &Path, tablespace: &Path) -> Tool<'w> {
    let tool = place.tool("barman-cloud-restore");
    tool.arg(format!("--tablespace=fast:{}", tablespace.display()))
        .args([place.url(), "main", id])
        .arg(folder)
}

/// A backup being taken, while an earlier one is there.
struct BackingUp<'s, 'w> {
    store: &'s Store<'w>,
    place: Place<'w>,
    primary: Cluster,
    first: String,
}

impl<'w> BackingUp<'_, 'w> {
    fn tool(&self) -> Tool<'w> {
        let tool = self.place.backup(&self.primary, "postgres");
        tool.args(["--min-chunk-size=5MB", "--max-archive-size=6MB"])
    }

    fn delete(&self, id: &str) {
        let tool = self.place.tool("barman-cloud-backup-delete");
        let run = tool
            .args(["--backup-id", id, self.place.url(), "main"])
            .run();
        assert_eq!(run.code(), Some(0), "{run}");
        let objects = self.store.objects(PATH);
        let left = objects.keys().find(|key| key.contains(id));
        assert_eq!(left, None, "it was deleted");
    }

    fn assert_restorable(&self, id: &str) {
        let (folder, tablespace) = self.folders(id);
        restore(&self.place, id, &folder, &tablespace).succeed();
        fs::remove_dir_all(folder).unwrap();
        fs::remove_dir_all(tablespace).unwrap();
    }

    fn folders(&self, name: &str) -> (PathBuf, PathBuf) {
        let workspace = self.store.workspace();
        (workspace.path(name), workspace.path(format!("{name}-fast")))
    }
}

impl<'w> Scenario<'w> for BackingUp<'_, 'w> {
    fn title(&self) -> String {
        format!("`backup` into {}", self.store.name())
    }

    fn found(&self) -> String {
        "never `DONE` unless it can be restored, never `latest`; the server is not in backup mode; \
         the earlier backup is whole; `backup-delete`, with `--purge-orphans` where there is no \
         record, removes what was left; the next backup works"
            .into()
    }

    fn begin(&mut self) -> Tool<'w> {
        self.tool()
    }

    fn check(&mut self, ended: &StagedRun) {
        let stopped = was_stopped(ended, Interrupted::WithOne);
        let mut backups = listed(&self.place);
        let first = backups.remove(&self.first);
        assert_eq!(first.as_deref(), Some("DONE"), "{ended}");
        assert!(backups.len() <= 1, "{ended}");
        assert!(stopped || !backups.is_empty(), "said to be done: {ended}");
        wait_until("the session to end", || {
            let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'barman_cloud_backup'";
            (self.primary.session().value(sessions) == "0").then_some(())
        });
        if could_clean_up(ended) {
            assert_eq!(self.store.unfinished(BASE), 0, "{ended}");
        }
        for (id, status) in backups {
            if status == "DONE" {
                self.assert_restorable(&id);
            } else {
                assert!(stopped, "{ended}");
                let said = match ended.blow {
                    Blow::Signal(_) if ended.run.code().is_some() => status == "FAILED",
                    Blow::Signal(_) => status == "STARTED",
                    _ => true,
                };
                assert!(said, "{status}: {ended}");
                let (folder, tablespace) = self.folders("refused");
                let refused = restore(&self.place, &id, &folder, &tablespace).run();
                assert_eq!(refused.code(), Some(1), "{refused}");
                assert!(!folder.exists(), "{refused}");
            }
            self.delete(&id);
        }
        // A backup that got no record has no id to be deleted by, and a temporary file
        // may have been kept by the trouble itself. They go once there is a newer backup.
        let left = self.store.unfinished(BASE) > 0;
        if left || of_sample_or_whole(false, true) {
            self.tool().succeed();
            if left {
                let tool = self.place.tool("barman-cloud-backup-delete");
                let purge = ["--purge-orphans", "--older-than=0s"];
                let run = tool.args(purge).args([self.place.url(), "main"]).run();
                assert_eq!(run.code(), Some(0), "{run}");
            }
            let mut backups = listed(&self.place);
            backups.remove(&self.first);
            self.delete(backups.keys().next().unwrap());
        }
        assert_eq!(self.store.unfinished(BASE), 0, "{ended}");
    }
}

/// A restore that is stopped.
struct Restoring<'s, 'w> {
    store: &'s Store<'w>,
    bin: &'s PgBin,
    place: Place<'w>,
    digest: String,
    times: usize,
    /// What the row says of the stages.
    of: &'static str,
}

impl<'w> Restoring<'_, 'w> {
    fn folders(&self) -> (String, PathBuf, PathBuf) {
        let name = format!("targets/{}", self.times);
        let workspace = self.store.workspace();
        let tablespace = workspace.path(format!("tablespaces/{}", self.times));
        let folder = workspace.path(&name);
        (name, folder, tablespace)
    }

    fn tool(&self) -> Tool<'w> {
        let (_, folder, tablespace) = self.folders();
        restore(&self.place, "latest", &folder, &tablespace)
    }

    fn assert_comes_to_life(&self) {
        let (name, ..) = self.folders();
        let workspace = self.store.workspace();
        let mut cluster = Cluster::existing(self.bin, workspace, &name);
        cluster.recover(workspace, self.place.url(), "main", &Recovery::Latest);
        cluster.set_environment(self.place.environment());
        cluster.start_and_recover();
        assert_eq!(cluster.session().digest(), self.digest);
        cluster.stop(ShutDown::Immediate);
    }
}

impl<'w> Scenario<'w> for Restoring<'_, 'w> {
    fn title(&self) -> String {
        format!("`restore` from {}{}", self.store.name(), self.of)
    }

    fn found(&self) -> String {
        "PostgreSQL refuses to start on it, unless all of it was there; a restore into what is left is refused, \
         into an emptied folder it works"
            .into()
    }

    fn begin(&mut self) -> Tool<'w> {
        self.times += 1;
        self.tool()
    }

    fn check(&mut self, ended: &StagedRun) {
        let stopped = was_stopped(ended, Interrupted::WithOne);
        let (name, folder, tablespace) = self.folders();
        let startable = folder.join("global/pg_control").exists();
        assert!(stopped || startable, "{ended}");
        if startable {
            self.assert_comes_to_life();
        } else {
            let mut cluster = Cluster::existing(self.bin, self.store.workspace(), &name);
            cluster.start_in_vain();
        }
        let anything = |folder: &PathBuf| {
            fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some())
        };
        if anything(&folder) || anything(&tablespace) {
            let refused = self.tool().run();
            assert_eq!(refused.code(), Some(1), "{refused} after {ended}");
            assert!(refused.errors()[0].contains("empty"), "{refused}");
        }
        for folder in [&folder, &tablespace] {
            if folder.exists() {
                fs::remove_dir_all(folder).unwrap();
            }
        }
        self.tool().succeed();
        for folder in [&folder, &tablespace] {
            fs::remove_dir_all(folder).unwrap();
        }
    }
}

fn base_backups(store: &Store<'_>, section: Section, stages: &Stages, blows: &Blows) {
    let Some(bin) = PgBin::find() else { return };
    let place = store.place(PATH);
    let primary = primary(&bin, &place, store.workspace());
    place.backup(&primary, "postgres").succeed();
    let first = listed(&place).into_keys().next().unwrap();
    let mut scenario = BackingUp {
        store,
        place,
        primary,
        first,
    };
    let limit = of_sample_or_whole(5, 40);
    sweep(section, stages, blows, &mut scenario, limit);
}

fn restores(store: &Store<'_>, section: Section, blows: &Blows, disks: &[(&'static str, Stages)]) {
    let Some(bin) = PgBin::find() else { return };
    let place = store.place(PATH);
    let mut primary = primary(&bin, &place, store.workspace());
    place
        .backup(&primary, "postgres")
        .args(["--max-archive-size=6MB"])
        .succeed();
    primary.archive_everything();
    let digest = primary.session().digest();
    primary.stop(ShutDown::Immediate);
    store.workspace().dir("targets");
    store.workspace().dir("tablespaces");
    let mut scenario = Restoring {
        store,
        bin: &bin,
        place,
        digest,
        times: 0,
        of: "",
    };
    for (of, stages) in disks {
        scenario.of = of;
        let limit = of_sample_or_whole(5, 60);
        sweep(section, stages, blows, &mut scenario, limit);
    }
}

#[test]
fn backups_into_a_directory() {
    let workspace = Workspace::new();
    let store = Store::directory(&workspace);
    base_backups(&store, Section::Ends, &store.stages(), SIGNALS);
}

#[test]
fn backups_into_s3() {
    let workspace = Workspace::new();
    let Some(store) = Store::bucket(&workspace) else {
        return;
    };
    base_backups(&store, Section::Ends, &store.stages(), SIGNALS);
}

#[test]
fn backups_onto_a_bad_disk() {
    let workspace = Workspace::new();
    let store = Store::directory(&workspace);
    let disk = Stages::of_files().under(&store.folder());
    base_backups(&store, Section::Disk, &disk, DISK);
}

#[test]
fn restores_from_a_directory() {
    let workspace = Workspace::new();
    let store = Store::directory(&workspace);
    restores(&store, Section::Ends, SIGNALS, &[("", store.stages())]);
}

#[test]
fn restores_from_s3() {
    let workspace = Workspace::new();
    let Some(store) = Store::bucket(&workspace) else {
        return;
    };
    restores(&store, Section::Ends, SIGNALS, &[("", store.stages())]);
}

#[test]
fn restores_onto_a_bad_disk() {
    let workspace = Workspace::new();
    let store = Store::directory(&workspace);
    let disk = |name: &str| Stages::of_files().under(&workspace.path(name));
    let disks = [
        (", disk of the data directory", disk("targets")),
        (", disk of a tablespace", disk("tablespaces")),
    ];
    restores(&store, Section::Disk, DISK, &disks);
}
