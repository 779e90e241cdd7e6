//! Threads that decode: as many as `--jobs` says, where a codec has use for them, and how much
//! is asked for at a time for them.

use e2e::{Cluster, HttpServer, PgBin, Place, S3Server, Tool, Workspace};

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

/// What bzip2 has ahead of its threads is memory: it is asked for in shorter ranges.
#[test]
fn bzip2_is_asked_for_in_short_ranges_and_the_others_in_long_ones() {
    const MIB: u64 = 1 << 20;
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::Moto.bucket(&workspace) else {
        return;
    };
    let place = Place::in_bucket(&workspace, &bucket, "pg");
    let mut cluster = place.primary(&bin, "");
    // What is short is asked for at once.
    let mut random = fastrand::Rng::with_seed(1);
    let noise: Vec<u8> = (0..18 * MIB).map(|_| random.u8(..)).collect();
    std::fs::write(cluster.pgdata().join("noise"), noise).expect("the directory is there");
    cluster.start();
    for (codec, longest) in [("bzip2", MIB), ("gzip", 4 * MIB)] {
        let option = format!("--{codec}");
        place
            .backup(&cluster, "postgres")
            .args([option.as_str(), "--name", codec])
            .succeed();
        let watched = HttpServer::before(bucket.endpoint());
        let verify = place.tool("barman-cloud-verify");
        // The last one counts.
        let verify = verify.args(["--endpoint-url", &watched.url()]);
        let run = verify.args([place.url(), "main", codec]).run();
        assert_eq!(run.code(), Some(0), "{run}");
        let archive = format!("/data.tar.{}", if codec == "gzip" { "gz" } else { "bz2" });
        let seen = watched.seen();
        let asked = seen
            .iter()
            .filter(|request| request.method == "GET" && request.target.contains(&archive));
        let lengths: Vec<u64> = asked
            .map(|request| {
                let range = request.header("range").trim_start_matches("bytes=");
                let (first, last) = range.split_once('-').expect("a range");
                let [first, last]: [u64; 2] = [first, last].map(|end| end.parse().unwrap());
                last - first + 1
            })
            .collect();
        let most = lengths.iter().max().expect("the archive was read");
        assert!(
            *most <= longest && *most > longest / 2,
            "{codec}: {lengths:?}"
        );
    }
}
