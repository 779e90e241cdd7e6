//! Threads that decode: as many as `--jobs` says, where a codec has use for them.

use e2e::{Cluster, PgBin, Tool, Workspace};

/// The most threads that were seen to decode at one time. The tool has to succeed.
fn most_decoders(tool: Tool<'_>) -> usize {
    let mut running = tool.start();
    let mut most = 0;
    while running.is_running() {
        most = most.max(running.threads_called("decoder"));
        std::thread::yield_now();
    }
    let run = running.wait();
    assert_eq!(run.code(), Some(0), "{run}");
    most
}

#[test]
fn bzip2_is_decoded_on_as_many_threads_as_there_are_jobs() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    workspace.dir("bucket");
    let url = workspace.url("bucket");
    let mut cluster = Cluster::create(&bin, &workspace, "primary", &[]);
    cluster.archive_into(&workspace, &url, "main", "");
    cluster.start();
    // Two archives share the threads: one each.
    let space = workspace.dir("space");
    let session = cluster.session();
    session.run(&format!(
        "CREATE TABLESPACE space LOCATION '{}'",
        space.display()
    ));
    let backup = |codec: &str, name: &str| {
        let tool = workspace
            .tool("barman-cloud-backup")
            .args(cluster.connection());
        tool.args([
            "--immediate-checkpoint",
            codec,
            "--name",
            name,
            &url,
            "main",
        ])
        .succeed();
    };
    backup("--bzip2", "two");
    session.run("DROP TABLESPACE space");
    backup("--bzip2", "one");
    backup("--gzip", "gzip");
    cluster.archive_everything();
    for (name, jobs, threads) in [
        ("one", "--jobs=1", 0),
        ("one", "--jobs=3", 3),
        ("two", "--jobs=3", 0),
        ("gzip", "--jobs=3", 0),
    ] {
        let tool = |tool: &str| workspace.tool(tool).args([jobs, &url, "main", name]);
        let restored = workspace.path(format!("restored-{name}{jobs}"));
        let elsewhere = workspace.path("elsewhere").display().to_string();
        let moved = (name == "two").then(|| format!("--tablespace=space:{elsewhere}"));
        let restore = tool("barman-cloud-restore").args(moved).arg(&restored);
        assert_eq!(most_decoders(restore), threads, "restore {name} {jobs}");
        assert_eq!(
            most_decoders(tool("barman-cloud-verify")),
            threads,
            "verify {name} {jobs}"
        );
    }
}
