//! The tools in 96 MiB of memory, as a small container gives them, page cache and kernel
//! included, while data and archives are much larger than that.
//!
//! Here the tools are not optimised and the data is a sample. All codecs, and 2 GiB:
//! `E2E_WHOLE=1 cargo nextest run -P whole -p e2e memory`. `tests/memory.sh` has release
//! binaries, and a million files.

use std::fs;
use std::time::Duration;

use e2e::{
    Cluster, MemoryLimit, Objects, PgBin, Recovery, Run, S3Server, Tool, Tree, Workspace,
    of_sample_or_whole,
};

/// What the tools have, in MiB.
const LIMIT: u64 = 96;

/// Longest time that a call may take with everything.
const LONG: Duration = Duration::from_mins(30);

/// Bytes of a file that no codec makes smaller.
const NOISE: usize = 32 << 20;

/// Size of a segment of WAL, in bytes: what most servers have.
const SEGMENT: u64 = 16 << 20;

const ROWS: &str = "300000";

/// Runs a tool within the limit; it has to succeed.
fn within(limit: &MemoryLimit, tool: Tool<'_>) -> Run {
    let run = tool.limited(limit).start().wait_at_most(LONG);
    assert!(run.code() == Some(0) && run.stderr.is_empty(), "{run}");
    assert_eq!(limit.kills(), 0, "{run}");
    run
}

/// A primary with pages and other files, more of them than fit into memory.
fn primary(bin: &PgBin, workspace: &Workspace, at: &Objects<'_>) -> Cluster {
    let mut primary = Cluster::create(bin, workspace, "primary", &["--wal-segsize=16"]);
    primary.configure("min_wal_size", "32MB");
    primary.archive_into(workspace, at.place().url(), "main", "");
    primary.set_environment(at.place().environment());
    primary.start();
    primary.session().run(&format!(
        "CREATE TABLE t AS SELECT i, sha512(i::text::bytea) AS noise \
         FROM generate_series(1, {ROWS}) AS i"
    ));
    workspace.dir("primary/noise");
    let mut random = fastrand::Rng::with_seed(96);
    let mut bytes = vec![0; NOISE];
    for number in 0..of_sample_or_whole(8, 64) {
        random.fill(&mut bytes);
        workspace.file(format!("primary/noise/{number}"), &bytes);
    }
    primary
}

#[test]
fn the_tools_live_in_96_mib_with_far_more_data() {
    let Some(bin) = PgBin::find() else { return };
    let Some(limit) = MemoryLimit::of(LIMIT) else {
        return;
    };
    let workspace = Workspace::on_disk();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let at = Objects::in_bucket(&workspace, &bucket, "p");
    let primary = primary(&bin, &workspace, &at);
    let noise = Tree::of(&workspace.path("primary/noise"));
    let tool = |name: &str, options: &[&str]| {
        let tool = at.place().tool(name).args(options);
        tool.args([at.place().url(), "main"])
    };

    let all = ["", "--gzip", "--bzip2", "--snappy", "--lz4", "--zstd"];
    let codecs = of_sample_or_whole(vec!["--gzip", "--zstd"], all.to_vec());
    for codec in codecs {
        let backup = at.place().backup(&primary, "postgres").arg("--jobs=2");
        within(&limit, backup.args((!codec.is_empty()).then_some(codec)));
        primary.archive_everything();
        let verify = tool("barman-cloud-verify", &["--jobs=2"]);
        within(&limit, verify.arg("latest"));
        // So that the store has no more than two of them.
        let delete = ["--retention-policy=REDUNDANCY 1"];
        within(&limit, tool("barman-cloud-backup-delete", &delete));
        let keys = at.keys("main/base/");
        let records = keys.iter().filter(|key| key.ends_with("/backup.info"));
        assert_eq!(records.count(), 1, "{keys:?}");

        let restored = workspace.path("restored");
        let restore = tool("barman-cloud-restore", &["--jobs=2"]);
        within(&limit, restore.arg("latest").arg(&restored));
        noise.assert_same(&Tree::of(&restored.join("noise")), codec);
        let place = at.place();
        let mut again = place.recovering(&bin, "restored", &Recovery::Latest);
        again.start_and_recover();
        let whole = "SELECT count(*) FROM t WHERE noise = sha512(i::text::bytea)";
        assert_eq!(again.session().value(whole), ROWS, "{codec}");
        drop(again);
        fs::remove_dir_all(restored).unwrap();
    }

    // The rows fill more than the segment that was just begun.
    let session = primary.session();
    let segment = session.value("SELECT pg_walfile_name(pg_current_wal_lsn())");
    session.run("INSERT INTO t SELECT -i, noise FROM t");
    primary.archive_everything();
    let fetched = workspace.dir("fetched").join(&segment);
    within(&limit, at.fetch(&segment, &fetched));
    let bytes = fs::read(&fetched).unwrap();
    assert_eq!(bytes.len() as u64, SEGMENT);
    let again = Objects::in_bucket(&workspace, &bucket, "again");
    within(&limit, again.archive(&["--zstd"], &fetched));
    fs::remove_file(&fetched).unwrap();
    within(&limit, again.fetch(&segment, &fetched));
    assert!(
        fs::read(&fetched).unwrap() == bytes,
        "{segment} is another one"
    );

    // They really were in there: parts alone are 30 MiB.
    let peak = limit.peak() >> 20;
    assert!((30..=LIMIT).contains(&peak), "{peak} MiB");
}
