//! A backup as it lies on a Barman server, without a Barman server.

use std::fs;
use std::path::{Path, PathBuf};

use e2e::{Cluster, PgBin, Place, Tool, Tree, Workspace, golden};

/// Its id.
pub(crate) const ID: &str = "20261121T120000";

/// A backup as it lies on a Barman server, made of a cluster that never ran.
pub(crate) struct Backup<'w> {
    workspace: &'w Workspace,
    pub(super) dir: PathBuf,
    pub(super) record: String,
}

impl<'w> Backup<'w> {
    pub(crate) fn new(workspace: &'w Workspace) -> Option<Self> {
        let bin = PgBin::find()?;
        let cluster = Cluster::create(&bin, workspace, "cluster", &[]);
        let base = workspace.dir("barman/main/base");
        let dir = workspace.dir(format!("barman/main/base/{ID}"));
        workspace.dir("barman/main/meta");
        fs::rename(cluster.pgdata(), dir.join("data")).expect("a folder can be moved");
        let label = "START WAL LOCATION: 0/4000028 (file 000000010000000000000040)\n";
        let inside = |name: &str| base.join(ID).join(name);
        workspace.file(inside("data/backup_label"), label);
        workspace.file(inside("data/backup_manifest"), "another's");
        let version = format!("PG_{}_202209061", bin.major());
        for folder in [
            "16384",
            &format!("16384/{version}"),
            &format!("16384/{version}/5"),
        ] {
            workspace.dir(inside(folder));
        }
        let relation = inside(&format!("16384/{version}/5/16390"));
        // Its pages are as good here as in pg_proc.
        let pages = fs::read(inside("data/base/1/1255")).expect("a relation");
        workspace.file(relation, pages);
        let sample = golden().join("tiny/none/base").join(ID).join("backup.info");
        let sample = fs::read_to_string(sample).expect("a golden sample");
        let record = changed(&sample, "version", &format!("{}0001", bin.major()));
        let backup = Self {
            workspace,
            dir,
            record: changed(&record, "systemid", "None"),
        };
        backup.write_record(&backup.record);
        Some(backup)
    }

    pub(super) fn write_record(&self, text: &str) {
        self.workspace.file(self.record_path(), text);
    }

    pub(super) fn record_path(&self) -> PathBuf {
        self.workspace
            .path(format!("barman/main/meta/{ID}-backup.info"))
    }

    /// What a Barman server tells of it.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("BARMAN_HOOK", "backup_retry_script".into()),
            ("BARMAN_PHASE", "post".into()),
            ("BARMAN_STATUS", "DONE".into()),
            ("BARMAN_BACKUP_ID", ID.into()),
            ("BARMAN_BACKUP_DIR", self.dir.display().to_string()),
            (
                "BARMAN_BACKUP_INFO_PATH",
                self.record_path().display().to_string(),
            ),
        ]
    }

    pub(super) fn relay(&self, place: &Place<'w>, options: &[&str]) -> Tool<'w> {
        place
            .tool("barman-cloud-backup")
            .envs(self.environment())
            .args(options)
            .args(["--", place.url(), "main"])
    }

    /// Relays it twice and restores it: the second time nothing but the record goes.
    pub(super) fn goes_and_comes_back(&self, place: &Place<'w>, options: &[&str]) {
        self.relay(place, options).succeed();
        let mut verbose = vec!["-v"];
        verbose.extend(options);
        let again = self.relay(place, &verbose).run();
        assert_eq!(again.code(), Some(0), "{again}");
        let told = again.messages("INFO");
        let count = |part: &str| told.iter().filter(|line| line.contains(part)).count();
        assert_eq!(count("Uploading '"), 0, "{again}");
        assert!(count("is there already, whole") >= 2, "{again}");
        let back = self.workspace.path("back");
        let fast = self.workspace.path("fast");
        place
            .tool("barman-cloud-restore")
            .args(keys(options))
            .args(["--tablespace", &format!("fast:{}", fast.display())])
            .args([place.url(), "main", ID])
            .arg(&back)
            .succeed();
        // The manifest is the relayed backup's own, the link that of the restore, and
        // two directories are stored empty.
        let ours = ["backup_manifest", "pg_tblspc/16384"].map(Path::new);
        let empty = ["pg_wal", "pg_subtrans"].map(Path::new);
        let inside = |name: &Path| name.ancestors().skip(1).any(|above| empty.contains(&above));
        let differs = |name: &Path| ours.contains(&name) || inside(name);
        let data = |root: &Path| Tree::of(root).without(differs);
        data(&self.dir.join("data")).assert_same(&data(&back), place.url());
        Tree::of(&self.dir.join("16384")).assert_same(&Tree::of(&fast), place.url());
        for folder in [back, fast] {
            fs::remove_dir_all(folder).expect("it was restored");
        }
    }
}

/// The options that a reader needs as well.
fn keys<'o>(options: &[&'o str]) -> Vec<&'o str> {
    let key = |option: &&&str| option.starts_with("--sse-customer-key");
    options.iter().filter(key).copied().collect()
}

/// A record with another value of one field.
pub(super) fn changed(record: &str, field: &str, value: &str) -> String {
    let line = |line: &str| match line.split_once('=') {
        Some((name, _)) if name == field => format!("{field}={value}\n"),
        _ => format!("{line}\n"),
    };
    let text: String = record.lines().map(line).collect();
    if text.contains(&format!("{field}=")) {
        text
    } else {
        format!("{text}{field}={value}\n")
    }
}
