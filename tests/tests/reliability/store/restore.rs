//! What a store can do to a restore.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use e2e::{
    Bucket, Cluster, Fault, FaultProxy, PgBin, Request, Rule, Run, Running, S3Server, Tree,
    Workspace, of_sample_or_whole, wait_until,
};

use super::{assert_refused, row};

const TOOL: &str = "`restore`";

/// What only requests for an archive and for the record are.
const ARCHIVE: &str = "^GET /.*/data.tar";
const INFO: &str = "^GET /.*/backup.info";

/// A backup of a real server, in parts, and what comes back on a good day.
struct Scene<'w> {
    bin: &'w PgBin,
    workspace: &'w Workspace,
    bucket: &'w Bucket<'w>,
    proxy: FaultProxy,
    target: PathBuf,
    whole: Tree,
    key: String,
    size: u64,
}

impl<'w> Scene<'w> {
    fn new(bin: &'w PgBin, workspace: &'w Workspace, bucket: &'w Bucket<'w>) -> Self {
        let mut cluster = Cluster::create(bin, workspace, "primary", &[]);
        cluster.archive_into(workspace, &bucket.url(), "main", "");
        cluster.set_environment(&bucket.environment());
        cluster.start();
        workspace
            .tool("barman-cloud-backup")
            .envs(bucket.environment())
            .args(cluster.connection())
            .args(["--immediate-checkpoint", "--min-chunk-size=5MB"])
            .args([&bucket.url(), "main"])
            .succeed();
        let sizes = bucket.sizes("main/base/");
        let archive = sizes
            .into_iter()
            .find(|(key, _)| key.ends_with("/data.tar"));
        let (key, size) = archive.expect("one archive");
        assert!(size > 12 << 20, "too small to be cut often: {size}");
        let mut scene = Self {
            bin,
            workspace,
            bucket,
            proxy: FaultProxy::start(bucket.endpoint()),
            target: workspace.path("restored"),
            whole: Tree(BTreeMap::new()),
            key,
            size,
        };
        let run = scene.restore(&[], &[]);
        assert_eq!(run.code(), Some(0), "{run}");
        scene.whole = Tree::of(&scene.target);
        scene
    }

    fn start(&self, rules: &[Rule], options: &[&str]) -> Running {
        let _ = fs::remove_dir_all(&self.target);
        for rule in rules {
            self.proxy.add(rule);
        }
        // One request for the archive, so that rules meet the one they mean.
        let ranges = options.iter().any(|option| option.starts_with("--jobs"));
        let jobs = (!ranges).then_some("--jobs=1");
        self.workspace
            .tool("barman-cloud-restore")
            .envs(self.bucket.environment_through(&self.proxy))
            .args(jobs)
            .args(options)
            .args([&self.bucket.url(), "main", "latest"])
            .arg(&self.target)
            .start()
    }

    /// A restore while `rules` hold.
    fn restore(&self, rules: &[Rule], options: &[&str]) -> Run {
        let run = self.start(rules, options).wait();
        self.proxy.clear();
        run
    }

    fn assert_whole(&self, run: &Run) {
        assert_eq!(run.code(), Some(0), "{run}");
        self.whole.assert_same(&Tree::of(&self.target), "restored");
    }

    fn assert_refused(&self, run: &Run) {
        assert_refused(run, 4);
        let control = self.target.join("global/pg_control");
        assert!(!control.exists(), "it could be started: {run}");
        if self.target.exists() {
            let mut cluster = Cluster::existing(self.bin, self.workspace, "restored");
            let log = cluster.start_in_vain();
            assert!(log.contains("pg_control"), "{log}");
        }
    }

    /// The requests for the archive since `before`.
    fn reads(&self, before: usize) -> Vec<Request> {
        let mut log = self.proxy.log().split_off(before);
        log.retain(|request| request.line.contains("/data.tar"));
        log
    }
}

/// Places all over an archive.
fn cuts(size: u64) -> Vec<u64> {
    let count = of_sample_or_whole(1, 20);
    (1..=count)
        .map(|cut| size * cut / (count + 1) + cut)
        .collect()
}

const WHOLE: &str = "resumed at the next byte, of the same version; every file as on a good day";
const REFUSED: &str = "exit 4, one line; without `pg_control` PostgreSQL refuses to start";

#[test]
fn a_restore_goes_on_at_the_byte_where_it_was_cut() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let scene = Scene::new(&bin, &workspace, &bucket);
    let mut cut = row(TOOL, "an archive is cut in the middle", WHOLE);
    let mut stalled = row(TOOL, "the store falls silent in an archive", WHOLE);
    for at in cuts(scene.size) {
        for (row, fault) in [
            (&mut cut, Fault::Truncate(at)),
            (&mut stalled, Fault::Stall(at)),
        ] {
            let before = scene.proxy.log().len();
            let run = scene.restore(&[Rule::new(&fault).on(ARCHIVE)], &["--read-timeout=1"]);
            scene.assert_whole(&run);
            let reads = scene.reads(before);
            let ranges: Vec<_> = reads.iter().map(|read| read.headers.get("range")).collect();
            let rest = format!("bytes={at}-{}", scene.size - 1);
            assert_eq!(ranges, [None, Some(&rest)]);
            assert!(reads[1].headers.contains_key("if-match"), "any version");
            row.lived_through();
        }
    }
    cut.finish();
    stalled.finish();

    let mut often = row(TOOL, "every answer is cut after a megabyte", WHOLE);
    let before = scene.proxy.log().len();
    let rule = Rule::new(&Fault::Truncate(1 << 20)).on(ARCHIVE).always();
    let run = scene.restore(&[rule], &[]);
    scene.assert_whole(&run);
    let reads = scene.reads(before).len() as u64;
    assert_eq!(reads, scene.size.div_ceil(1 << 20), "no byte twice");
    often.lived_through();
    often.finish();

    assert!(scene.size > 16 << 20, "too small to be read in ranges");
    let ranges = "every answer for a range of an archive is cut after a megabyte";
    let mut ranges = row(TOOL, ranges, WHOLE);
    let before = scene.proxy.log().len();
    let rule = Rule::new(&Fault::Truncate(1 << 20)).on(ARCHIVE).always();
    let run = scene.restore(&[rule], &["--jobs=3"]);
    scene.assert_whole(&run);
    let reads = scene.reads(before);
    assert_eq!(
        reads.len() as u64,
        scene.size.div_ceil(1 << 20),
        "no byte twice"
    );
    let any = reads
        .iter()
        .filter(|read| !read.headers.contains_key("if-match"));
    assert_eq!(any.count(), 1, "any version but the first");
    ranges.lived_through();
    ranges.finish();

    let slow = Fault::Status(503);
    for (done, rule, options) in [
        (
            "every other request is answered with 503 (SlowDown)",
            Rule::new(&slow).every(2),
            &[][..],
        ),
        (
            "every request is answered with 503 (SlowDown) three times",
            Rule::new(&slow).on_each(3),
            &[],
        ),
        (
            "the store gives an archive so slowly that it lasts longer than `--read-timeout`",
            Rule::new(&Fault::Throttle(8_000_000)).on(ARCHIVE),
            &["--read-timeout=1"],
        ),
        (
            "a bit flips in `backup.info` on its way from the store",
            Rule::new(&Fault::Corrupt(300)).on(INFO),
            &[],
        ),
    ] {
        let mut row = row(TOOL, done, "every file as on a good day");
        let run = scene.restore(&[rule], options);
        scene.assert_whole(&run);
        row.lived_through();
        row.finish();
    }
}

#[test]
fn what_changes_under_a_restore_is_never_taken_for_the_backup() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let scene = Scene::new(&bin, &workspace, &bucket);
    let content = bucket.read(&scene.key);
    let middle = scene.size / 2;
    // A byte of a page, far from the beginning of a member.
    let in_a_file = middle / 512 * 512 + 300;
    for (done, rules) in [
        (
            "a bit flips in an archive on its way from the store",
            vec![Rule::new(&Fault::Corrupt(in_a_file)).on(ARCHIVE)],
        ),
        (
            "an archive is shorter than it was, and says so",
            vec![Rule::new(&Fault::Shorter(middle)).on(ARCHIVE)],
        ),
        (
            "the store gives the whole archive where the rest was asked for",
            vec![
                Rule::new(&Fault::Truncate(middle)).on(ARCHIVE),
                Rule::new(&Fault::Whole).on(ARCHIVE),
            ],
        ),
        (
            "the rest of an archive is refused (403)",
            vec![
                Rule::new(&Fault::Truncate(middle)).on(ARCHIVE),
                Rule::new(&Fault::Status(403)).on(ARCHIVE).always(),
            ],
        ),
    ] {
        let mut row = row(TOOL, done, REFUSED);
        let run = scene.restore(&rules, &[]);
        scene.assert_refused(&run);
        row.lived_through();
        row.finish();
    }
    for (done, other) in [
        (
            "an archive is replaced by another of the same size while it is read",
            Some(content.iter().map(|byte| byte ^ 1).collect::<Vec<u8>>()),
        ),
        ("an archive is deleted while it is read", None),
    ] {
        let mut row = row(TOOL, done, REFUSED);
        let before = scene.proxy.log().len();
        let cut = Rule::new(&Fault::Truncate(middle)).on(ARCHIVE);
        let hold = Rule::new(&Fault::Hold).on(ARCHIVE);
        let running = scene.start(&[cut, hold], &[]);
        wait_until("the rest to be asked for", || {
            (scene.reads(before).len() == 2).then_some(())
        });
        match other {
            Some(other) => bucket.write(&scene.key, other),
            None => bucket.remove(&scene.key),
        }
        scene.proxy.release();
        let run = running.wait();
        scene.proxy.clear();
        scene.assert_refused(&run);
        bucket.write(&scene.key, &content);
        row.lived_through();
        row.finish();
    }
    let run = scene.restore(&[], &[]);
    scene.assert_whole(&run);
}
