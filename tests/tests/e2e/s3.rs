//! The real tools on S3, on good days and on bad ones.

use std::net::TcpListener;

use e2e::{
    Bucket, Cluster, Fault, FaultProxy, PgBin, Place, Rule, Run, S3Server, Tool, Workspace,
    wait_until,
};
use rustix::process::Signal;

use crate::versions::a_primary_under_load_comes_back;

const TOOLS: [(&str, &[&str]); 10] = [
    ("backup", &[]),
    ("backup-delete", &["-r", "REDUNDANCY 1"]),
    ("backup-keep", &["id", "--status"]),
    ("backup-list", &[]),
    ("backup-show", &["id"]),
    ("check-wal-archive", &[]),
    ("restore", &["id", "dir"]),
    ("verify", &["id"]),
    ("wal-archive", &[]),
    ("wal-restore", &["000000010000000000000006", "dest"]),
];

/// A running server, and a bucket behind a proxy.
struct Scene<'w> {
    workspace: &'w Workspace,
    cluster: Cluster,
    bucket: Bucket<'w>,
    proxy: FaultProxy,
}

impl<'w> Scene<'w> {
    fn new(workspace: &'w Workspace) -> Option<Self> {
        let bin = PgBin::find()?;
        let bucket = S3Server::CephPlain.bucket(workspace)?;
        let proxy = FaultProxy::start(bucket.endpoint());
        let mut cluster = Cluster::create(&bin, workspace, "primary", &[]);
        cluster.archive_into(workspace, &bucket.url(), "main", "");
        cluster.set_environment(&bucket.environment());
        cluster.start();
        Some(Self {
            workspace,
            cluster,
            bucket,
            proxy,
        })
    }

    /// A backup in parts of the smallest size, through the proxy.
    fn backup(&self, options: &[&str]) -> Tool<'w> {
        self.workspace
            .tool("barman-cloud-backup")
            .envs(self.bucket.environment_through(&self.proxy))
            .args(self.cluster.connection())
            .args(["--immediate-checkpoint", "--min-chunk-size=5MB"])
            .args(options)
            .args([&self.bucket.url(), "main"])
    }

    fn requests(&self, what: &str) -> usize {
        let log = self.proxy.log();
        log.iter()
            .filter(|request| request.line.contains(what))
            .count()
    }

    fn info(&self) -> String {
        let keys = self.bucket.keys("main/base/");
        let key = keys.iter().find(|key| key.ends_with("/backup.info"));
        String::from_utf8(self.bucket.read(key.expect("it was begun"))).unwrap()
    }

    fn assert_failed(&self) {
        let info = self.info();
        for line in ["status=FAILED", "end_time=None"] {
            assert!(info.lines().any(|found| found == line), "{line}: {info}");
        }
        assert_eq!(self.bucket.uploads(), [""; 0], "an upload was left open");
    }
}

/// All four tools, over TLS and on the server with the widest interface; Ceph over
/// HTTP is in `versions`.
#[test]
fn a_primary_under_load_comes_back_over_tls_and_from_moto() {
    let Some(bin) = PgBin::find() else { return };
    for server in [S3Server::CephTls, S3Server::Moto] {
        let workspace = Workspace::new();
        let Some(bucket) = server.bucket(&workspace) else {
            return;
        };
        let place = Place::in_bucket(&workspace, &bucket, "a-path/of-its-own/");
        a_primary_under_load_comes_back(&bin, &place);
        assert_eq!(bucket.uploads(), [""; 0], "an upload was left open");
    }
}

#[test]
fn what_was_written_with_a_customer_key_is_read_with_it_alone() {
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephTls.bucket(&workspace) else {
        return;
    };
    let wal = segment(&workspace);
    let key = |name: &str, letter: u8| {
        // 32 times one letter, in base64: groups of three and two over.
        let three = match letter {
            b'a' => ("YWFh", "YWE="),
            _ => ("YmJi", "YmI="),
        };
        let path = workspace.file(name, three.0.repeat(10) + three.1);
        format!("--sse-customer-key=file://{}", path.display())
    };
    let (right, wrong) = (key("right", b'a'), key("wrong", b'b'));
    let tool = |name: &str| {
        let tool = workspace.tool(&format!("barman-cloud-{name}"));
        tool.envs(bucket.environment())
    };
    tool("wal-archive")
        .args([&right, &bucket.url(), "main", &wal])
        .succeed();
    let fetch = |options: &[&String]| {
        let tool = tool("wal-restore")
            .args(["--retry-timeout=1"])
            .args(options);
        let target = workspace.path("fetched");
        let run = tool
            .args([&bucket.url(), "main", "000000010000000000000006"])
            .arg(&target)
            .run();
        (run, target)
    };
    for options in [&[][..], &[&wrong]] {
        let (run, target) = fetch(options);
        assert_eq!(run.code(), Some(4), "{run}");
        assert_eq!(run.errors().len(), 1, "{run}");
        assert!(!target.exists());
    }
    let (run, target) = fetch(&[&right]);
    assert_eq!(run.code(), Some(0), "{run}");
    assert!(std::fs::read(target).unwrap() == std::fs::read(&wal).unwrap());
}

/// A name that only requests for a part have.
const PART: &str = "partNumber=";

#[test]
fn as_many_parts_are_on_their_way_as_asked() {
    let workspace = Workspace::new();
    let Some(scene) = Scene::new(&workspace) else {
        return;
    };
    for jobs in [1, 3] {
        let before = scene.requests(PART);
        scene
            .proxy
            .add(&Rule::new(&Fault::Delay(3600.0)).on(PART).always());
        let tool = scene.backup(&[&format!("--jobs={jobs}")]).start();
        wait_until("the parts", || {
            (scene.requests(PART) >= before + jobs).then_some(())
        });
        tool.signal(Signal::INT);
        let ended = tool.wait();
        assert_eq!(ended.code(), Some(1), "{ended}");
        assert_eq!(scene.requests(PART), before + jobs, "with --jobs={jobs}");
        scene.proxy.clear();
    }
}

#[test]
fn an_interrupted_backup_leaves_no_open_upload() {
    for signal in [Signal::INT, Signal::TERM] {
        let workspace = Workspace::new();
        let Some(scene) = Scene::new(&workspace) else {
            return;
        };
        scene
            .proxy
            .add(&Rule::new(&Fault::Delay(3600.0)).on(PART).always());
        let tool = scene.backup(&[]).start();
        wait_until("a part", || (scene.requests(PART) > 0).then_some(()));
        assert_eq!(scene.bucket.uploads().len(), 1, "the upload is open");
        tool.signal(signal);
        let ended = tool.wait();
        assert_eq!(ended.code(), Some(1), "{ended}");
        let line = "Barman cloud backup was interrupted by the user";
        assert_eq!(ended.errors(), [line], "{ended}");
        scene.assert_failed();
    }
}

/// A real segment, by its path.
fn segment(workspace: &Workspace) -> String {
    let name = "000000010000000000000006";
    let content = std::fs::read(e2e::golden().join("wal").join(name)).unwrap();
    workspace.file(name, content).display().to_string()
}

/// What is wrong with a store.
struct Road {
    name: &'static str,
    url: String,
    environment: Vec<(&'static str, String)>,
    /// Exit codes of `--test` and of real work.
    codes: (i32, i32),
    /// Part of the one line.
    words: &'static str,
}

fn roads(plain: &Bucket<'_>, secure: &Bucket<'_>) -> Vec<Road> {
    let with = |changes: &[(&'static str, &str)]| {
        let mut environment = plain.environment();
        for (name, value) in changes {
            environment.retain(|(other, _)| other != name);
            environment.push((name, (*value).to_owned()));
        }
        environment
    };
    let road = |name, environment, codes, words| Road {
        name,
        url: plain.url(),
        environment,
        codes,
        words,
    };
    let mut untrusted = secure.environment();
    untrusted.retain(|(name, _)| *name != "AWS_CA_BUNDLE");
    let mut missing = road("missing bucket", with(&[]), (1, 4), "");
    missing.url = "s3://no-such-bucket-here".into();
    vec![
        missing,
        road(
            "wrong secret",
            with(&[("AWS_SECRET_ACCESS_KEY", "wrong")]),
            (4, 4),
            "SignatureDoesNotMatch",
        ),
        road(
            "nothing allowed",
            plain.environment_of_guest(),
            (4, 4),
            "AccessDenied",
        ),
        road(
            "unknown profile",
            with(&[("AWS_PROFILE", "nobody")]),
            (4, 4),
            "The config profile (nobody) could not be found",
        ),
        road(
            "no host in the endpoint",
            with(&[("AWS_ENDPOINT_URL", "nonsense")]),
            (4, 4),
            "Invalid endpoint: nonsense",
        ),
        road(
            "untrusted certificate",
            untrusted,
            (2, 2),
            "certificate is not trusted",
        ),
    ]
}

fn assert_told(run: &Run, code: i32, words: &str, road: &str) {
    assert_eq!(run.code(), Some(code), "{road}: {run}");
    let errors = run.errors();
    assert_eq!(errors.len(), 1, "{road}: {run}");
    assert!(errors[0].contains(words), "{road}: {run}");
    assert!(run.stdout.is_empty(), "{road}: {run}");
}

#[test]
fn a_store_that_cannot_be_used_is_one_line_and_the_right_code() {
    let workspace = Workspace::new();
    let Some(plain) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let Some(secure) = S3Server::CephTls.bucket(&workspace) else {
        return;
    };
    let wal = segment(&workspace);
    for road in roads(&plain, &secure) {
        let tool = |name: &str| {
            let tool = workspace.tool(&format!("barman-cloud-{name}"));
            tool.envs(road.environment.clone())
        };
        for (name, more) in TOOLS {
            let run = tool(name)
                .args(["--test", &road.url, "main"])
                .args(more)
                .run();
            if road.codes.0 == 1 && name == "check-wal-archive" {
                assert_eq!(run.code(), Some(0), "it would create the bucket: {run}");
            } else {
                assert_told(&run, road.codes.0, road.words, road.name);
            }
        }
        let archive = tool("wal-archive").args([&road.url, "main", &wal]).run();
        assert_told(&archive, road.codes.1, road.words, road.name);
        let name = "000000010000000000000006";
        let target = workspace.path("fetched");
        let fetch = tool("wal-restore").args([&road.url, "main", name]);
        assert_told(
            &fetch.arg(&target).run(),
            road.codes.1,
            road.words,
            road.name,
        );
        assert!(!target.exists());
        let proof = tool("verify").args([&road.url, "main", "latest"]);
        assert_told(&proof.run(), road.codes.1, road.words, road.name);
        let target = workspace.path("restored");
        let restore = tool("restore").args([&road.url, "main", "latest"]);
        assert_told(
            &restore.arg(&target).run(),
            road.codes.1,
            road.words,
            road.name,
        );
        assert!(!target.exists());
    }
    assert_eq!(plain.keys(""), [""; 0], "something was written");
}

/// Reached, credentials, bucket, listing: each step that passed is told with `-v`,
/// the one that did not always, with what to do.
#[test]
fn a_test_tells_how_far_it_came() {
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
    let closed = format!("http://{}", closed.unwrap());
    let with = |variable: &str, value: &str| {
        let mut environment = bucket.environment();
        environment.retain(|(name, _)| *name != variable);
        let name = if variable == "AWS_ENDPOINT_URL" {
            "AWS_ENDPOINT_URL"
        } else {
            "AWS_SECRET_ACCESS_KEY"
        };
        environment.push((name, value.to_owned()));
        environment
    };
    let name = bucket.name().to_owned();
    let steps = |location: &str, name: &str| {
        [
            format!("{location} can be reached"),
            "the credentials are accepted".to_owned(),
            format!("bucket {name} exists"),
            "what is in it can be listed".to_owned(),
        ]
    };
    let missing = "s3://no-such-bucket-here".to_owned();
    for (url, environment, passed, code, line) in [
        (bucket.url(), bucket.environment(), 4, 0, vec![]),
        (
            bucket.url(),
            bucket.environment_of_guest(),
            1,
            4,
            vec![
                "Permission denied when accessing bucket",
                "Verify that the configured credentials have sufficient permissions",
                "could not list",
            ],
        ),
        (
            missing,
            bucket.environment(),
            2,
            1,
            vec!["Bucket no-such-bucket-here does not exist"],
        ),
        (
            bucket.url(),
            with("AWS_SECRET_ACCESS_KEY", "wrong"),
            0,
            4,
            vec![
                "Not authenticated for bucket",
                "Verify the configured credentials",
            ],
        ),
        (
            bucket.url(),
            with("AWS_ENDPOINT_URL", &closed),
            0,
            2,
            vec![
                "Can't connect to cloud provider: ",
                "; check the endpoint, the network and the proxy",
            ],
        ),
    ] {
        for verbose in [true, false] {
            let run = workspace
                .tool("barman-cloud-backup-list")
                .envs(environment.clone())
                .args(verbose.then_some("-v"))
                .args(["--test", &url, "main"])
                .run();
            assert_eq!(run.code(), Some(code), "{run}");
            assert_eq!(run.errors().len(), usize::from(code != 0), "{run}");
            for words in &line {
                assert!(run.errors()[0].contains(words), "{words}: {run}");
            }
            let told = run.messages("INFO");
            let expected = steps(&url, &name);
            let expected = &expected[..if verbose { passed } else { 0 }];
            let told: Vec<_> = told
                .iter()
                .filter(|line| steps(&url, &name).contains(line))
                .collect();
            assert_eq!(told, expected.iter().collect::<Vec<_>>(), "{run}");
        }
    }
}

/// One that is there, but busy for the moment, is no store that cannot be reached.
#[test]
fn a_busy_store_is_tested_again() {
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let proxy = FaultProxy::start(bucket.endpoint());
    let (name, more) = TOOLS[0];
    let test = || {
        let tool = workspace.tool(&format!("barman-cloud-{name}"));
        tool.envs(bucket.environment_through(&proxy))
            .args(["--test", &bucket.url(), "main"])
            .args(more)
            .run()
    };
    for status in [500, 503] {
        let before = proxy.log().len();
        proxy.add(&Rule::new(&Fault::Status(status)).times(2));
        let run = test();
        assert_eq!((run.code(), run.stderr.as_str()), (Some(0), ""), "{run}");
        assert_eq!(proxy.log().len() - before, 3, "{run}");
        proxy.clear();
    }
}

#[test]
fn a_store_that_does_not_answer_is_unreachable() {
    let workspace = Workspace::new();
    // Takes connections, and nobody reads from them.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("http://{}", silent.local_addr().unwrap());
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
    let closed = format!("http://{}", closed.unwrap());
    // RFC 6761 keeps this name from ever having an address.
    let unknown = "http://store.invalid".to_owned();
    for (road, url) in [
        ("silent", &silent),
        ("closed", &closed),
        ("unknown", &unknown),
    ] {
        let tool = |name: &str| {
            workspace
                .tool(&format!("barman-cloud-{name}"))
                .env("AWS_ACCESS_KEY_ID", "test")
                .env("AWS_SECRET_ACCESS_KEY", "testtesttest")
                .args(["--endpoint-url", url, "--read-timeout=1"])
        };
        for (name, more) in TOOLS {
            let run = tool(name)
                .args(["--test", "s3://bucket", "main"])
                .args(more);
            assert_told(&run.run(), 2, "Can't connect to cloud provider: ", road);
        }
        let fetch = tool("wal-restore").args(["--retry-timeout=1", "s3://bucket", "main"]);
        let fetch = fetch.args(["000000010000000000000006", "dest"]).run();
        assert_told(&fetch, 2, "", road);
    }
}

#[test]
fn tags_and_encryption_reach_the_store() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::Moto.bucket(&workspace) else {
        return;
    };
    let wal = segment(&workspace);
    let history = workspace.file("00000002.history", "1\t0/3000000\tno reason\n");
    for file in [wal, history.display().to_string()] {
        workspace
            .tool("barman-cloud-wal-archive")
            .envs(bucket.environment())
            .args(["-e", "AES256"])
            .args([
                "--tags",
                "kind,wal",
                "who,a b+c",
                "--history-tags",
                "kind,history",
            ])
            .args([
                "--endpoint-url",
                bucket.endpoint(),
                &bucket.url(),
                "main",
                &file,
            ])
            .succeed();
    }
    let tags = |key: &str| {
        let tags = bucket.tags(key).into_iter();
        tags.map(|(name, value)| format!("{name}={value}"))
            .collect::<Vec<_>>()
    };
    let key = "main/wals/0000000100000000/000000010000000000000006";
    assert_eq!(tags(key), ["kind=wal", "who=a b+c"]);
    assert_eq!(tags("main/wals/00000002.history"), ["kind=history"]);
    assert_eq!(bucket.head(key)["x-amz-server-side-encryption"], "AES256");

    let mut cluster = Cluster::create(&bin, &workspace, "primary", &[]);
    cluster.archive_into(&workspace, &bucket.url(), "main", "");
    cluster.set_environment(&bucket.environment());
    cluster.start();
    workspace
        .tool("barman-cloud-backup")
        .envs(bucket.environment())
        .args(cluster.connection())
        .args(["--immediate-checkpoint", "--min-chunk-size=5MB"])
        .args(["-e", "aws:kms", "--sse-kms-key-id", "alias/key"])
        .args(["--tags", "kind,base", "--endpoint-url", bucket.endpoint()])
        .args([&bucket.url(), "main"])
        .succeed();
    let sizes = bucket.sizes("main/base/");
    let (archive, size) = sizes.iter().find(|(key, _)| key.contains(".tar")).unwrap();
    assert!(*size > 5 << 20, "it was sent in one request: {size}");
    for key in sizes.keys() {
        let head = bucket.head(key);
        assert_eq!(head["x-amz-server-side-encryption"], "aws:kms", "{key}");
        let id = &head["x-amz-server-side-encryption-aws-kms-key-id"];
        assert_eq!(id, "alias/key", "{key}");
    }
    assert_eq!(tags(archive), ["kind=base"]);
}
