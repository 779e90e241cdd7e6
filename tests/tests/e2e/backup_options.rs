//! Options of a base backup that are seen from the server's side alone.

use std::fs;

use e2e::{Cluster, PgBin, Workspace, wait_until};

/// A server that logs every statement and every checkpoint.
fn talkative() -> Option<(Workspace, Cluster, String)> {
    let bin = PgBin::find()?;
    let workspace = Workspace::new();
    workspace.dir("bucket");
    let url = workspace.url("bucket");
    let mut cluster = Cluster::create(&bin, &workspace, "primary", &[]);
    cluster.archive_into(&workspace, &url, "main", "");
    for (name, value) in [
        ("log_statement", "all"),
        ("log_checkpoints", "on"),
        // So that a spread checkpoint is over at once as well.
        ("checkpoint_completion_target", "0"),
    ] {
        cluster.configure(name, value);
    }
    cluster.start();
    Some((workspace, cluster, url))
}

/// What the server logs while `work` runs.
fn logged(cluster: &Cluster, work: impl FnOnce()) -> String {
    let before = cluster.log_text().len();
    work();
    cluster.log_text().split_off(before)
}

fn keepalives(log: &str) -> usize {
    log.matches("statement: SELECT 1\n").count()
}

#[test]
fn a_fast_checkpoint_is_asked_for_only_with_the_option() {
    let Some((workspace, cluster, url)) = talkative() else {
        return;
    };
    for (option, fast) in [(&["--immediate-checkpoint"][..], true), (&[], false)] {
        let log = logged(&cluster, || {
            let tool = workspace.tool("barman-cloud-backup");
            tool.args(cluster.connection())
                .args(option)
                .args([&url, "main"])
                .succeed();
        });
        let begun = log
            .lines()
            .find(|line| line.contains("checkpoint starting:"))
            .unwrap_or_else(|| panic!("no checkpoint in:\n{log}"));
        // `fast` is what newer servers say.
        let told = begun.contains("immediate") || begun.contains("fast");
        assert_eq!(told, fast, "{option:?}: {begun}");
    }
}

#[test]
fn the_session_is_kept_alive_as_often_as_asked_and_not_with_0() {
    let Some((workspace, cluster, url)) = talkative() else {
        return;
    };
    let backup = |interval: &str| {
        workspace
            .tool("barman-cloud-backup")
            .args(cluster.connection())
            .args(["--immediate-checkpoint", "--keepalive-interval", interval])
            .args([&url, "main"])
    };
    let log = logged(&cluster, || {
        backup("0").succeed();
    });
    assert_eq!(keepalives(&log), 0, "{log}");
    // At once, and not again for an hour.
    let log = logged(&cluster, || {
        backup("3600").succeed();
    });
    assert_eq!(keepalives(&log), 1, "{log}");
    // A copy that takes far longer than a second.
    let slow = backup("1").args(["--max-bandwidth", "500KB", "--memory-limit", "300KB"]);
    logged(&cluster, || {
        let before = cluster.log_text().len();
        let slow = slow.start();
        wait_until("the third statement that keeps the session alive", || {
            (keepalives(&cluster.log_text()[before..]) >= 3).then_some(())
        });
        slow.signal(rustix::process::Signal::INT);
        slow.wait();
    });
    // It need not wait behind the parts that were given up.
    let backups = fs::read_dir(workspace.path("bucket/main/base")).unwrap();
    let last = backups.map(|backup| backup.unwrap().path()).max().unwrap();
    let record = fs::read_to_string(last.join("backup.info")).unwrap();
    assert!(record.contains("status=FAILED"), "{record}");
}
