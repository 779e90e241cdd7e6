//! Bytes that change on their way, and answers that are not what they say.

use std::fs;

use e2e::{
    Bucket, Fault, FaultProxy, Rule, Run, S3Server, Tool, Workspace, golden, of_sample_or_whole,
};

use super::row;
use super::works::{SEGMENT, segment, segment_key};

/// Option and suffix of each codec.
const CODECS: [(&str, &str); 7] = [
    ("", ""),
    ("--gzip", ".gz"),
    ("--bzip2", ".bz2"),
    ("--xz", ".xz"),
    ("--snappy", ".snappy"),
    ("--zstd", ".zst"),
    ("--lz4", ".lz4"),
];

/// Bytes a second at which a segment takes some seconds.
const SLOW: u64 = 2_500_000;

struct Scene<'w> {
    workspace: &'w Workspace,
    bucket: Bucket<'w>,
    proxy: FaultProxy,
}

impl<'w> Scene<'w> {
    fn new(workspace: &'w Workspace) -> Option<Self> {
        let bucket = S3Server::CephPlain.bucket(workspace)?;
        let proxy = FaultProxy::start(bucket.endpoint());
        Some(Self {
            workspace,
            bucket,
            proxy,
        })
    }

    fn tool(&self, name: &str) -> Tool<'w> {
        self.workspace
            .tool(&format!("barman-cloud-{name}"))
            .envs(self.bucket.environment_through(&self.proxy))
    }

    /// The segment in the form of one codec; gives the size of the object.
    fn put(&self, suffix: &str) -> u64 {
        let object = fs::read(golden().join(format!("wal/{SEGMENT}{suffix}"))).unwrap();
        for key in self.bucket.keys("") {
            self.bucket.remove(&key);
        }
        let key = format!("{}{suffix}", segment_key("main"));
        self.bucket.write(&key, &object);
        object.len() as u64
    }

    /// Fetches it while the proxy does something to its object; gives what was
    /// delivered.
    fn fetch(&self, rule: Rule) -> (Run, Option<Vec<u8>>) {
        self.fetch_with(rule, &[])
    }

    /// The same with further options.
    fn fetch_with(&self, rule: Rule, options: &[&str]) -> (Run, Option<Vec<u8>>) {
        let folder = self.workspace.dir("fetched");
        let target = folder.join("RECOVERYXLOG");
        let _ = fs::remove_file(&target);
        let _ = fs::remove_dir_all(self.workspace.path("spool"));
        self.proxy.clear();
        self.proxy.add(&rule.on(&format!("^GET /[^?]*{SEGMENT}")));
        let run = self
            .tool("wal-restore")
            .args(options)
            .arg(format!(
                "--spool-dir={}",
                self.workspace.path("spool").display()
            ))
            .args([&self.bucket.url(), "main", SEGMENT])
            .arg(&target)
            .run();
        let delivered = fs::read(&target).ok();
        let left = fs::read_dir(&folder).unwrap().count();
        assert_eq!(left, usize::from(delivered.is_some()), "{run}");
        (run, delivered)
    }

    /// Archives it while the proxy does something.
    fn archive(&self, option: &str) -> Run {
        let file = self.workspace.file(SEGMENT, segment());
        self.tool("wal-archive")
            .args((!option.is_empty()).then_some(option))
            .args([&self.bucket.url(), "main"])
            .arg(file)
            .run()
    }
}

/// Places spread over an object.
fn places(size: u64) -> impl Iterator<Item = u64> {
    let count = of_sample_or_whole(3, 40);
    (0..count).map(move |place| place * (size - 1) / (count - 1))
}

#[test]
fn a_bit_that_flips_on_the_way_down_is_found_and_the_file_read_again() {
    let workspace = Workspace::new();
    let Some(scene) = Scene::new(&workspace) else {
        return;
    };
    let done = "a bit flips on the way from the store, in each codec";
    let mut once = row("`wal-restore`", done, "read again, and delivered whole");
    for (_, suffix) in CODECS {
        for place in places(scene.put(suffix)) {
            let (run, delivered) = scene.fetch(Rule::new(&Fault::Corrupt(place)));
            assert_eq!(run.code(), Some(0), "{suffix} {place}: {run}");
            assert!(delivered == Some(segment()), "{suffix} {place}: {run}");
            once.lived_through();
        }
    }
    once.finish();
}

#[test]
fn an_answer_that_is_longer_or_shorter_than_the_object_is_not_delivered() {
    let workspace = Workspace::new();
    let Some(scene) = Scene::new(&workspace) else {
        return;
    };
    let done = "an answer is shorter or longer than the object, and says so, in each codec";
    let found = "read again, and delivered whole; if it stays so: exit 4, nothing delivered";
    let mut row = row("`wal-restore`", done, found);
    for (_, suffix) in CODECS {
        let size = scene.put(suffix);
        for fault in [
            Fault::Shorter(1),
            Fault::Shorter(size / 2),
            Fault::Longer(1),
            Fault::Longer(8192),
        ] {
            let (run, delivered) = scene.fetch(Rule::new(&fault));
            assert_eq!(run.code(), Some(0), "{suffix} {fault:?}: {run}");
            assert!(delivered == Some(segment()), "{suffix} {fault:?}: {run}");
            let (run, delivered) = scene.fetch(Rule::new(&fault).always());
            super::assert_refused(&run, 4);
            assert!(delivered.is_none(), "{suffix} {fault:?}: {run}");
            row.lived_through();
        }
    }
    row.finish();
}

#[test]
fn a_bit_that_flips_on_the_way_up_is_refused_by_the_store_and_sent_again() {
    let workspace = Workspace::new();
    let Some(scene) = Scene::new(&workspace) else {
        return;
    };
    let done = "a bit flips on the way to the store, in each codec";
    let found = "the store refuses it by its checksum; sent again, and fetched whole";
    let mut row = row("`wal-archive`", done, found);
    for (option, suffix) in CODECS {
        for place in places(scene.put(suffix) / 2) {
            scene
                .bucket
                .remove(&format!("{}{suffix}", segment_key("main")));
            scene.proxy.clear();
            scene
                .proxy
                .add(&Rule::new(&Fault::CorruptRequest(place)).on("^PUT "));
            let before = scene.proxy.log().len();
            let run = scene.archive(option);
            assert_eq!(run.code(), Some(0), "{suffix} {place}: {run}");
            // Beside the looks whether the name is free.
            let statuses: Vec<_> = scene.proxy.log()[before..]
                .iter()
                .filter(|request| request.line.starts_with("PUT "))
                .map(|request| request.status)
                .collect();
            assert_eq!(statuses, [Some(400), Some(200)], "{suffix} {place}");
            let (run, delivered) = scene.fetch(Rule::new(&Fault::Reset).skip(9));
            assert!(delivered == Some(segment()), "{suffix} {place}: {run}");
            row.lived_through();
        }
    }
    row.finish();
}

/// What a store answers to a create-only put when two of them meet, or when it
/// was wrong, or did it and said that it did not.
#[test]
fn whatever_is_answered_to_the_conditional_put_the_file_is_archived_once() {
    let workspace = Workspace::new();
    let Some(scene) = Scene::new(&workspace) else {
        return;
    };
    let error = |code: &str| format!("<Error><Code>{code}</Code><Message>x</Message></Error>");
    let conflict = Fault::Answer(409, error("ConditionalRequestConflict"));
    let failed = Fault::Answer(412, error("PreconditionFailed"));
    let archived = "archived once; fetched whole";
    for (done, fault, found) in [
        (
            "409 (ConditionalRequestConflict) is the answer to its put",
            conflict,
            "sent again with the whole body; fetched whole",
        ),
        (
            "412 is the answer to its put, and there is no such object",
            failed,
            "looked at, sent again; fetched whole",
        ),
        (
            "the store does its put and says that it failed (500)",
            Fault::Instead(500, error("InternalError")),
            archived,
        ),
        (
            "the store does its put and says that there was a conflict (409)",
            Fault::Instead(409, error("ConditionalRequestConflict")),
            archived,
        ),
        (
            "the store does its put and says that the object was there (412)",
            Fault::Instead(412, error("PreconditionFailed")),
            archived,
        ),
        (
            "an answer to its put says neither yes nor no (200 with an error in it)",
            Fault::Answer(200, error("InternalError")),
            archived,
        ),
    ] {
        let mut row = row("`wal-archive`", done, found);
        for times in 1..=of_sample_or_whole(1, 3) {
            for key in scene.bucket.keys("") {
                scene.bucket.remove(&key);
            }
            scene.proxy.clear();
            scene.proxy.add(&Rule::new(&fault).on("^PUT ").times(times));
            let run = scene.archive("");
            assert_eq!(run.code(), Some(0), "{done}: {run}");
            assert_eq!(scene.bucket.keys(""), [segment_key("main")], "{done}");
            let (run, delivered) = scene.fetch(Rule::new(&Fault::Reset).skip(9));
            assert!(delivered == Some(segment()), "{done}: {run}");
            row.lived_through();
        }
        row.finish();
    }
}

/// Bytes that move are no silence, however few.
#[test]
fn a_line_that_is_slow_is_not_taken_for_one_that_is_dead() {
    let workspace = Workspace::new();
    let Some(scene) = Scene::new(&workspace) else {
        return;
    };
    // Large enough for the system to take more at once than it sends in a second.
    let size: u32 = 8 << 20;
    let mut content = segment();
    content.resize(size as usize, 7);
    // Its place in the WAL and its size are in the header of its first page.
    content[8..16].copy_from_slice(&(6 * u64::from(size)).to_le_bytes());
    content[32..36].copy_from_slice(&size.to_le_bytes());
    let file = workspace.file(SEGMENT, &content);
    let mut up = row(
        "`wal-archive`",
        "the store takes the file so slowly that it lasts longer than `--read-timeout`",
        "archived with one request; fetched whole",
    );
    let rule = Rule::new(&Fault::ThrottleRequest(SLOW));
    scene.proxy.add(&rule.on("^PUT "));
    let run = scene
        .tool("wal-archive")
        .args(["--read-timeout=1", &scene.bucket.url(), "main"])
        .arg(&file)
        .run();
    assert_eq!(run.code(), Some(0), "{run}");
    let log = scene.proxy.log();
    let sent = log.iter().filter(|one| one.line.starts_with("PUT "));
    assert_eq!(sent.count(), 1, "it was sent again");
    up.lived_through();
    up.finish();
    let mut down = row(
        "`wal-restore`",
        "the store gives the file so slowly that it lasts longer than `--read-timeout`",
        "delivered whole, with one request for it",
    );
    let before = scene.proxy.log().len();
    let slow = Rule::new(&Fault::Throttle(SLOW));
    let (run, delivered) = scene.fetch_with(slow, &["--read-timeout=1"]);
    assert_eq!(run.code(), Some(0), "{run}");
    assert!(delivered == Some(content), "other bytes");
    assert_eq!(scene.proxy.log().len() - before, 2, "listed and fetched");
    down.lived_through();
    down.finish();
}
