//! The real tools on Google Cloud Storage, on good days and on bad ones.

use std::net::TcpListener;
use std::path::PathBuf;

use e2e::{
    Cluster, Fault, FaultProxy, GcsBucket, GcsServer, PgBin, Place, Rule, Run, ShutDown, Tool,
    Workspace, wait_until,
};
use rustix::process::Signal;
use serde_json::Value;

use crate::versions::a_primary_under_load_comes_back;

const PROVIDER: &str = "--cloud-provider=google-cloud-storage";

const SEGMENT: &str = "000000010000000000000006";

/// A name that only requests for a part have.
const PART: &str = "partNumber=";

const TOOLS: [(&str, &[&str]); 10] = [
    ("backup", &[]),
    ("backup-delete", &["-r", "REDUNDANCY 1"]),
    ("backup-keep", &["id", "--status"]),
    ("backup-list", &[]),
    ("backup-show", &["id"]),
    ("check-wal-archive", &[]),
    ("restore", &["id", "dir"]),
    ("verify", &["id"]),
    ("wal-archive", &[SEGMENT]),
    ("wal-restore", &[SEGMENT, "dest"]),
];

/// A real segment.
fn segment(workspace: &Workspace) -> PathBuf {
    let content = std::fs::read(e2e::golden().join("wal").join(SEGMENT)).unwrap();
    workspace.file(SEGMENT, content)
}

/// A running primary that archives into `place`.
fn primary(bin: &PgBin, place: &Place<'_>) -> Cluster {
    let mut cluster = place.primary(bin, "--gzip");
    cluster.start();
    cluster
}

/// A backup in parts of the smallest size.
fn backup<'w>(place: &Place<'w>, cluster: &Cluster) -> Tool<'w> {
    place
        .backup(cluster, "postgres")
        .arg("--min-chunk-size=5MB")
}

#[test]
fn a_primary_under_load_comes_back_by_either_way_of_uploads() {
    let Some(bin) = PgBin::find() else { return };
    for server in [GcsServer::StandIn, GcsServer::Fake] {
        let workspace = Workspace::new();
        let Some(bucket) = server.bucket() else {
            return;
        };
        let place = Place::in_gcs(&workspace, &bucket, "a-path/of-its-own/");
        a_primary_under_load_comes_back(&bin, &place);
        if server == GcsServer::StandIn {
            assert_eq!(bucket.open_uploads(), 0, "an upload was left open");
        }
    }
}

/// The line at `-v` says by which way an archive went.
#[test]
fn the_way_of_uploads_is_told() {
    let Some(bin) = PgBin::find() else { return };
    for (server, words) in [
        (
            GcsServer::StandIn,
            "takes uploads in parts by the XML API: parts go side by side",
        ),
        (
            GcsServer::Fake,
            "takes no uploads in parts by the XML API: they are resumable",
        ),
    ] {
        let workspace = Workspace::new();
        let Some(bucket) = server.bucket() else {
            return;
        };
        let place = Place::in_gcs(&workspace, &bucket, "p");
        let cluster = primary(&bin, &place);
        let taken = backup(&place, &cluster).arg("-v").run();
        assert_eq!(taken.code(), Some(0), "{taken}");
        let line = format!("gs://{} {words}", bucket.name());
        assert!(taken.stderr.contains(&line), "{taken}");
        let keys = bucket.keys("p/main/base/");
        let archive = keys.iter().find(|key| key.ends_with("/data.tar"));
        let archive = bucket.described(archive.expect("there is an archive"));
        let size: u64 = archive["size"].as_str().unwrap().parse().unwrap();
        assert!(size > 10 << 20, "it was sent in one request: {size}");
    }
}

/// From a bucket that is not there to an empty archive, by all nine tools.
#[test]
fn a_catalogue_lives_and_ends() {
    let Some(bin) = PgBin::find() else { return };
    for server in [GcsServer::StandIn, GcsServer::Fake] {
        let workspace = Workspace::new();
        let Some(bucket) = server.missing_bucket() else {
            return;
        };
        let place = Place::in_gcs(&workspace, &bucket, "p");
        let tool = |name: &str, words: &[&str]| {
            let tool = place.tool(&format!("barman-cloud-{name}"));
            tool.args([place.url(), "main"]).args(words)
        };
        tool("check-wal-archive", &[]).succeed();
        let mut cluster = primary(&bin, &place);
        for name in ["one", "two", "three"] {
            // Ids are made of seconds: the tool waits for the next one and says so.
            let taken = backup(&place, &cluster).args(["-n", name]).run();
            assert_eq!(taken.code(), Some(0), "{taken}");
        }
        cluster.archive_everything();
        cluster.stop(ShutDown::Fast);
        let list = || -> Vec<Value> {
            let run = tool("backup-list", &["--format=json"]).run();
            assert_eq!(run.code(), Some(0), "{run}");
            let all: Value = serde_json::from_str(&run.stdout).unwrap();
            all["backups_list"].as_array().unwrap().clone()
        };
        let names = || -> Vec<String> {
            let name = |one: &Value| one["backup_name"].as_str().unwrap().to_owned();
            list().iter().map(name).collect()
        };
        assert_eq!(names(), ["one", "two", "three"]);
        let shown = tool("backup-show", &["two", "--format=json"]).run();
        let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
        assert_eq!(shown["cloud"]["backup_id"], list()[1]["backup_id"]);
        tool("backup-keep", &["one", "--target=full"]).succeed();
        let kept = tool("backup-keep", &["one", "--status"]).run();
        assert_eq!(kept.stdout, "Keep: full\n", "{kept}");
        let refused = tool("backup-delete", &["-b", "one"]).run();
        assert_eq!(refused.code(), Some(1), "{refused}");
        tool("backup-delete", &["-b", "two"]).succeed();
        assert_eq!(names(), ["one", "three"]);
        // The reference fails here on this store alone.
        tool("backup-keep", &["three", "--release"]).succeed();
        tool("backup-keep", &["one", "--release"]).succeed();
        tool("backup-delete", &["-r", "REDUNDANCY 1"]).succeed();
        assert_eq!(names(), ["three"]);
        let wal = bucket.keys("p/main/wals/").len();
        assert!(wal > 0, "there is none");
        tool("backup-delete", &["-b", "three"]).succeed();
        assert_eq!(names(), [""; 0]);
        assert_eq!(bucket.keys("p/main/base/"), [""; 0]);
        let check = tool("check-wal-archive", &[]).run();
        let nothing_left = bucket.keys("p/main/wals/").is_empty();
        assert_eq!(check.code(), Some(i32::from(!nothing_left)), "{check}");
    }
}

#[test]
fn as_many_parts_are_on_their_way_as_asked() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(bucket) = GcsServer::StandIn.bucket() else {
        return;
    };
    let place = Place::in_gcs(&workspace, &bucket, "p");
    let cluster = primary(&bin, &place);
    let proxy = FaultProxy::start(bucket.endpoint());
    let parts = || {
        let log = proxy.log();
        log.iter().filter(|one| one.line.contains(PART)).count()
    };
    for jobs in [1, 3] {
        let before = parts();
        proxy.add(&Rule::new(&Fault::Delay(3600.0)).on(PART).always());
        let tool = backup(&place, &cluster)
            .envs(GcsBucket::environment_at(&proxy.url()))
            .arg(format!("--jobs={jobs}"))
            .start();
        wait_until("the parts", || (parts() >= before + jobs).then_some(()));
        assert_eq!(bucket.open_uploads(), 1, "the upload is open");
        tool.signal(Signal::INT);
        let ended = tool.wait();
        assert_eq!(ended.code(), Some(1), "{ended}");
        assert_eq!(parts(), before + jobs, "with --jobs={jobs}");
        proxy.clear();
        assert_eq!(bucket.open_uploads(), 0, "an upload was left open");
    }
}

#[test]
fn passing_trouble_is_not_seen() {
    let Some(bin) = PgBin::find() else { return };
    for (server, lost) in [
        // An upload is done, and nobody says so.
        (GcsServer::StandIn, "^POST .*uploadId="),
        // Bytes were taken, and nobody says so.
        (GcsServer::Fake, "^PUT .*upload_id="),
    ] {
        let workspace = Workspace::new();
        let Some(bucket) = server.bucket() else {
            return;
        };
        let place = Place::in_gcs(&workspace, &bucket, "p");
        let cluster = primary(&bin, &place);
        let proxy = FaultProxy::start(bucket.endpoint());
        for (status, what) in [(500, PART), (503, "uploadType=multipart"), (429, "/o\\?")] {
            let trouble = Rule::new(&Fault::Status(status)).on(what);
            proxy.add(&trouble.times(2));
        }
        if server == GcsServer::StandIn {
            proxy.add(&Rule::new(&Fault::LostResponse).on(lost));
        }
        let environment = GcsBucket::environment_at(&proxy.url());
        backup(&place, &cluster).envs(environment).succeed();
        let keys = bucket.keys("p/main/base/");
        let info = keys.iter().find(|key| key.ends_with("/backup.info"));
        let info = String::from_utf8(bucket.read(info.unwrap())).unwrap();
        assert!(info.contains("\nstatus=DONE\n"), "{info}");
        let archives = keys.iter().filter(|key| key.ends_with("/data.tar"));
        assert_eq!(archives.count(), 1, "{keys:?}");
    }
}

#[test]
fn a_segment_whose_answer_was_lost_is_archived_once() {
    let workspace = Workspace::new();
    let Some(bucket) = GcsServer::StandIn.bucket() else {
        return;
    };
    let wal = segment(&workspace);
    let proxy = FaultProxy::start(bucket.endpoint());
    proxy.add(&Rule::new(&Fault::LostResponse).on("^POST "));
    workspace
        .tool("barman-cloud-wal-archive")
        .envs(GcsBucket::environment_at(&proxy.url()))
        .args([PROVIDER, &bucket.url(), "main"])
        .arg(&wal)
        .succeed();
    let key = format!("main/wals/0000000100000000/{SEGMENT}");
    assert_eq!(bucket.keys(""), [key]);
}

/// A WAL file never replaces another one (decision 13).
#[test]
fn a_different_segment_of_the_same_name_is_refused() {
    let workspace = Workspace::new();
    for server in [GcsServer::StandIn, GcsServer::Fake] {
        let Some(bucket) = server.bucket() else {
            return;
        };
        let wal = segment(&workspace);
        let archive = || {
            let tool = workspace.tool("barman-cloud-wal-archive");
            tool.envs(bucket.environment())
                .args([PROVIDER, &bucket.url(), "main"])
                .arg(&wal)
        };
        archive().succeed();
        archive().succeed();
        let key = format!("main/wals/0000000100000000/{SEGMENT}");
        let first = bucket.read(&key);
        let mut other = first.clone();
        other[100_000] ^= 1;
        std::fs::write(&wal, other).unwrap();
        let refused = archive().run();
        assert_eq!(refused.code(), Some(1), "{refused}");
        assert!(bucket.read(&key) == first, "it was replaced");
    }
}

#[test]
fn tags_and_keys_reach_the_store() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(bucket) = GcsServer::StandIn.bucket() else {
        return;
    };
    let place = Place::in_gcs(&workspace, &bucket, "p");
    let key_name = "projects/p/locations/l/keyRings/r/cryptoKeys/k";
    let options = ["--kms-key-name", key_name];
    let history = workspace.file("00000002.history", "1\t0/3000000\tno reason\n");
    for file in [segment(&workspace), history] {
        // The console's form of the URL.
        let url = format!(
            "https://console.cloud.google.com/storage/browser/{}/p/",
            bucket.name()
        );
        place
            .tool("barman-cloud-wal-archive")
            .args(options)
            .args(["--tags", "kind,wal", "Who?,a b+ü"])
            .args(["--history-tags", "kind,history", "--read-timeout=50"])
            .args([&url, "main"])
            .arg(&file)
            .succeed();
    }
    let wal = bucket.described(&format!("p/main/wals/0000000100000000/{SEGMENT}"));
    let tags = serde_json::json!({"kind": "wal", "Who?": "a b+ü"});
    assert_eq!(wal["metadata"], tags);
    assert_eq!(wal["kmsKeyName"], key_name);
    let history = bucket.described("p/main/wals/00000002.history");
    assert_eq!(history["metadata"], serde_json::json!({"kind": "history"}));

    let cluster = primary(&bin, &place);
    for (tags, by) in [("kind,base", "XML"), ("a kind,base", "JSON")] {
        let taken = backup(&place, &cluster)
            .args(options)
            .args(["--tag", tags])
            .run();
        assert_eq!(taken.code(), Some(0), "{taken}");
        let keys = bucket.keys("p/main/base/");
        let newest = keys.last().unwrap().rsplit_once('/').unwrap().0;
        let (name, value) = tags.split_once(',').unwrap();
        for key in keys.iter().filter(|key| key.starts_with(newest)) {
            let object = bucket.described(key);
            assert_eq!(object["metadata"][name], value, "{by}: {key}");
            assert_eq!(object["kmsKeyName"], key_name, "{by}: {key}");
        }
    }
}

fn assert_told(run: &Run, code: i32, words: &str, road: &str) {
    assert_eq!(run.code(), Some(code), "{road}: {run}");
    let errors = run.errors();
    assert_eq!(errors.len(), 1, "{road}: {run}");
    assert!(errors[0].contains(words), "{road}: {run}");
    assert!(run.stdout.is_empty(), "{road}: {run}");
}

/// What is wrong with a store, the exit codes of `--test` and of real work, and
/// part of the one line.
struct Road {
    name: &'static str,
    environment: Vec<(&'static str, String)>,
    codes: (i32, i32),
    words: &'static str,
}

#[test]
fn a_store_that_cannot_be_used_is_one_line_and_the_right_code() {
    let workspace = Workspace::new();
    let Some(missing) = GcsServer::StandIn.missing_bucket() else {
        return;
    };
    let wal = segment(&workspace);
    // Takes connections, and nobody reads from them.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("http://{}", silent.local_addr().unwrap());
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
    let closed = format!("http://{}", closed.unwrap());
    let own = |name: &'static str, value: &str| vec![(name, value.to_owned())];
    let roads = [
        Road {
            name: "missing bucket",
            environment: missing.environment(),
            codes: (1, 4),
            words: "",
        },
        Road {
            name: "silent",
            environment: GcsBucket::environment_at(&silent),
            codes: (2, 2),
            words: "no byte for 1 seconds",
        },
        Road {
            name: "closed",
            environment: GcsBucket::environment_at(&closed),
            codes: (2, 2),
            words: "could not connect to `127.0.0.1:",
        },
        Road {
            name: "no credentials",
            environment: own("NO_GCE_CHECK", "true"),
            codes: (4, 4),
            words: "Unable to locate credentials",
        },
        Road {
            name: "no such file",
            environment: own("GOOGLE_APPLICATION_CREDENTIALS", "/no/such/file"),
            codes: (4, 4),
            words: "could not use the credentials `/no/such/file`",
        },
    ];
    for road in roads {
        let tool = |name: &str| {
            let tool = workspace.tool(&format!("barman-cloud-{name}"));
            let tool = tool.envs(road.environment.clone());
            tool.args([PROVIDER, "--read-timeout=1"])
        };
        for (name, more) in TOOLS {
            let run = tool(name)
                .args(["--test", &missing.url(), "main"])
                .args(more)
                .run();
            if road.codes.0 == 1 && name == "check-wal-archive" {
                assert_eq!(run.code(), Some(0), "it would create the bucket: {run}");
            } else {
                assert_told(&run, road.codes.0, road.words, road.name);
            }
        }
        if road.codes.1 == 4 {
            let archive = tool("wal-archive").args([&missing.url(), "main"]);
            assert_told(&archive.arg(&wal).run(), 4, road.words, road.name);
        }
        let fetch = tool("wal-restore").args(["--retry-timeout=1", &missing.url(), "main"]);
        let fetch = fetch.args([SEGMENT, "dest"]).run();
        assert_told(&fetch, road.codes.1, road.words, road.name);
        assert!(!workspace.path("dest").exists());
    }
}

/// What docs/permissions.md says is needed is enough, and nobody asks for more.
#[test]
fn the_documented_permissions_are_enough() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(bucket) = GcsServer::StandIn.bucket() else {
        return;
    };
    let documented = std::fs::read_to_string(e2e::project().join("docs/permissions.md")).unwrap();
    let allow = |permissions: &[&str]| {
        for permission in permissions {
            let name = format!("`storage.{permission}`");
            assert!(documented.contains(&name), "{name} is not documented");
        }
        bucket.allow(permissions);
    };
    let place = Place::in_gcs(&workspace, &bucket, "p");
    let tool = |name: &str, words: &[&str]| {
        let tool = place.tool(&format!("barman-cloud-{name}"));
        tool.args([place.url(), "main"]).args(words)
    };
    allow(&["objects.create"]);
    let wal = segment(&workspace);
    tool("wal-archive", &[wal.to_str().unwrap()]).succeed();
    allow(&["objects.create", "objects.get"]);
    tool("wal-archive", &[wal.to_str().unwrap()]).succeed();
    bucket.allow(&["objects.delete"]);
    bucket.remove(&format!("p/main/wals/0000000100000000/{SEGMENT}"));
    allow(&["objects.list"]);
    tool("check-wal-archive", &[]).succeed();
    tool("backup-list", &["--test"]).succeed();
    let run = tool("backup-list", &["--test", "-v"]).run();
    assert_eq!(run.code(), Some(0), "{run}");
    for step in [
        "can be reached",
        "the credentials are accepted",
        "exists",
        "can be listed",
    ] {
        assert!(run.stderr.contains(step), "{step}: {run}");
    }
    allow(&["objects.create"]);
    let run = tool("backup-list", &["--test"]).run();
    assert_eq!(run.code(), Some(4), "{run}");
    assert!(run.errors()[0].contains("could not list"), "{run}");

    let reading = ["objects.get", "objects.list"];
    let writing = [&reading[..], &["objects.create", "objects.delete"]].concat();
    let parts = ["multipartUploads.create", "multipartUploads.abort"];
    allow(&[&writing[..], &parts].concat());
    let mut cluster = primary(&bin, &place);
    backup(&place, &cluster).args(["-n", "parts"]).succeed();
    // By one stream.
    allow(&writing);
    let taken = backup(&place, &cluster).args(["-n", "stream", "-v"]).run();
    assert_eq!(taken.code(), Some(0), "{taken}");
    assert!(taken.stderr.contains("multipartUploads.create"), "{taken}");
    cluster.archive_everything();
    cluster.stop(ShutDown::Fast);

    allow(&reading);
    for (name, words) in [("backup-list", &[][..]), ("backup-show", &["parts"])] {
        let run = tool(name, words).run();
        assert_eq!(run.code(), Some(0), "{run}");
    }
    for name in ["parts", "stream"] {
        let target = workspace.path(format!("restored-{name}"));
        tool("restore", &[name, target.to_str().unwrap()]).succeed();
    }
    let found = bucket.keys("p/main/wals/");
    let found = found[0].rsplit('/').next().unwrap().trim_end_matches(".gz");
    tool("wal-restore", &[found, "fetched"]).succeed();
    allow(&writing);
    tool("backup-keep", &["parts", "--target=full"]).succeed();
    tool("backup-keep", &["parts", "--release"]).succeed();
    tool("backup-delete", &["-b", "parts"]).succeed();
    let purging = ["multipartUploads.list", "multipartUploads.listParts"];
    allow(&[&writing[..], &purging, &parts[1..]].concat());
    let purge = tool("backup-delete", &["--purge-orphans"]).run();
    assert_eq!(purge.code(), Some(0), "{purge}");
    // What is not allowed is said by name.
    bucket.allow(&[]);
    let refused = tool("backup-list", &[]).run();
    assert_eq!(refused.code(), Some(4), "{refused}");
    let words = "Permission 'storage.objects.list' denied";
    assert!(refused.errors()[0].contains(words), "{refused}");
}

/// Options of other stores are taken and mean nothing; a URL of another one is
/// refused.
#[test]
fn options_of_other_stores_mean_nothing() {
    let workspace = Workspace::new();
    let Some(bucket) = GcsServer::StandIn.bucket() else {
        return;
    };
    let wal = segment(&workspace);
    let archive = |url: &str| {
        workspace
            .tool("barman-cloud-wal-archive")
            .envs(bucket.environment())
            .args([
                PROVIDER,
                "--endpoint-url=http://127.0.0.1:1",
                "-P",
                "nobody",
            ])
            .args([
                "--addressing-style=path",
                "--azure-credential=default",
                "-e",
                "AES256",
            ])
            .args([
                "--encryption-scope=s",
                "--max-block-size=1MB",
                "--max-concurrency=2",
            ])
            .args([url, "main"])
            .arg(&wal)
    };
    archive(&bucket.url()).succeed();
    let wrong = archive("s3://bucket").run();
    assert_eq!(wrong.code(), Some(4), "{wrong}");
    let words = "Invalid google cloud storage URL address: s3://bucket";
    assert!(wrong.errors()[0].contains(words), "{wrong}");
}
