//! Mistakes about the PostgreSQL server that is to be backed up.

use std::fs;

use e2e::{Cluster, PgBin, Run, ShutDown, Workspace};

use super::Table;

pub(super) const SECTION: &str = "PostgreSQL";

/// Who gets in how.
const HBA: &str = "local all postgres trust\n\
                   local all secret scram-sha-256\n\
                   local all plain trust\n\
                   local all nobody_knows trust\n";

#[test]
fn mistakes_about_the_server() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    workspace.dir("bucket");
    let url = workspace.url("bucket");
    let mut cluster = Cluster::create(&bin, &workspace, "primary", &[]);
    cluster.start();
    cluster.session().run(
        "SET password_encryption = 'scram-sha-256'; CREATE ROLE secret LOGIN PASSWORD 'x'; \
         CREATE ROLE plain LOGIN",
    );
    workspace.file("primary/pg_hba.conf", HBA);
    cluster.session().run("SELECT pg_reload_conf()");
    let mut table = Table::new(&workspace, SECTION);
    let socket = format!("--host={}", cluster.socket_dir().display());
    let backup = |options: &[&str], password: Option<&str>| -> Run {
        let tool = workspace.tool("barman-cloud-backup");
        let tool = match password {
            Some(password) => tool.env("PGPASSWORD", password),
            None => tool,
        };
        tool.args(options)
            .args(["--immediate-checkpoint", &url, "main"])
            .run()
    };
    for (mistake, options, password) in [
        (
            "a server that is not there",
            vec!["--host=127.0.0.1", "--port=1", "--user=postgres"],
            None,
        ),
        (
            "a socket in another directory",
            vec!["--host=/nonexistent", "--user=postgres"],
            None,
        ),
        (
            "a role that is not there",
            vec![&socket, "--user=nobody_knows"],
            None,
        ),
        (
            "a database that is not there",
            vec![&socket, "--user=postgres", "--dbname=reports"],
            None,
        ),
        (
            "a role without a line in `pg_hba.conf`",
            vec![&socket, "--user=other"],
            None,
        ),
        ("no password", vec![&socket, "--user=secret"], None),
        (
            "a wrong password",
            vec![&socket, "--user=secret"],
            Some("wrong"),
        ),
        (
            "a role that may not take backups",
            vec![&socket, "--user=plain"],
            None,
        ),
        (
            "a server that archives no WAL",
            vec![&socket, "--user=postgres"],
            None,
        ),
    ] {
        table.row(mistake, "backup", &backup(&options, password));
    }
    cluster.stop(ShutDown::Fast);
    cluster.configure("archive_mode", "on");
    cluster.configure("wal_level", "replica");
    cluster.start();
    let run = backup(&[&socket, "--user=postgres", "--stop-timeout=1"], None);
    table.row("`archive_mode` without `archive_command`", "backup", &run);
    cluster.stop(ShutDown::Fast);
    cluster.configure("archive_mode", "off");
    cluster.configure("wal_level", "minimal");
    cluster.configure("max_wal_senders", "0");
    cluster.start();
    let run = backup(&[&socket, "--user=postgres"], None);
    table.row("`wal_level = minimal`", "backup", &run);
    // Nothing of a test hangs on what the failed ones left.
    drop(fs::remove_dir_all(workspace.path("bucket")));
    table.check();
}
