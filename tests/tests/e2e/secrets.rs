//! Passwords, keys and tokens: never told, whatever goes wrong, and never where somebody
//! else could read them.
//!
//! Whatever is secret is or holds the word `hush`. How credentials of stores are found
//! where all goes well is in `credentials` and its like, which look for the same word.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use e2e::{
    Cluster, FakeServer, FaultProxy, LongArchive, PgBin, Process, Recovery, Run, S3Server,
    ShutDown, Tool, Workspace, golden,
};

use crate::wal_helper::start_and_hold;

const SEGMENT: &str = "000000010000000000000006";

/// `hush`, as connection strings and keys of customers write it.
const BASE64: &str = "aHVzaGh1c2hodXNoaHVzaGh1c2hodXNoaHVzaGh1c2g=";

fn assert_quiet(run: &Run, case: &str) {
    for text in [&run.stdout, &run.stderr] {
        assert!(
            !text.contains("hush") && !text.contains(BASE64),
            "{case}: {run}"
        );
    }
}

/// Nothing that the tools left holds a secret. `except`: where tests keep theirs.
fn assert_nothing_left(workspace: &Workspace, except: &Path) {
    fn look(path: &Path, except: &Path) {
        if path == except || path.ends_with("bin") {
            return;
        }
        let meta = path.symlink_metadata().expect("it is there");
        if meta.is_dir() {
            for entry in fs::read_dir(path).expect("it can be read") {
                look(&entry.expect("it can be read").path(), except);
            }
        } else if meta.is_file() {
            let bytes = fs::read(path).expect("it can be read");
            let text = String::from_utf8_lossy(&bytes);
            assert!(!text.contains("hush"), "{}", path.display());
        }
    }
    look(workspace.root(), except);
}

/// A port where nobody listens.
fn dead_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback address is there");
    listener.local_addr().expect("it was just bound").port()
}

/// A file that nobody else may read.
fn private(workspace: &Workspace, name: &str, content: &str) -> String {
    let path = workspace.file(name, content);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("own file");
    path.display().to_string()
}

#[test]
fn passwords_of_the_server_are_not_told_when_it_cannot_be_reached() {
    let workspace = Workspace::new();
    workspace.dir("bucket");
    workspace.dir("home/secrets");
    let old = FakeServer::of_version("9.5.25").port();
    let service = private(
        &workspace,
        "home/secrets/service",
        "[main]\nhost=127.0.0.1\nport=1\nuser=u\npassword=hush\n[odd]\npassword hush\n",
    );
    let passfile = private(&workspace, "home/secrets/pass", "*:*:*:*:hush\n");
    let dead = dead_port();
    for (place, port) in [
        ("127.0.0.1", dead),
        ("127.0.0.1", old),
        ("nobody.invalid", 5432),
    ] {
        for dbname in [
            format!("host={place} port={port} user=u password=hush"),
            format!("host={place} port={port} user=u password='hush' dbname=d"),
            format!("postgresql://u:hush@{place}:{port}/d"),
            format!("postgresql://u@{place}:{port}/d?password=hush"),
            format!("host={place} port={port} user=u"),
            "service=main".to_owned(),
            // Mistakes.
            format!("host={place} password=a hush port={port}"),
            format!("host={place} password='hush"),
            format!("postgresql://u:hush@[{place}:{port}/d"),
            format!("postgresql://u:hush/hush@{place}:{port}/d"),
            "service=odd".to_owned(),
        ] {
            let run = workspace
                .tool("barman-cloud-backup")
                .env("PGPASSWORD", "hush")
                .env("PGPASSFILE", &passfile)
                .env("PGSERVICEFILE", &service)
                .args(["-vv", "--dbname", &dbname, &workspace.url("bucket"), "main"])
                .run();
            assert!(run.code().is_some_and(|code| code > 0), "{dbname}: {run}");
            assert_eq!(run.errors().len(), 1, "{dbname}: {run}");
            let said = run.stderr.replace(&dbname, "");
            assert!(!said.contains("hush"), "{dbname}: {run}");
        }
    }
    assert_nothing_left(&workspace, &workspace.path("home/secrets"));
}

/// A wrong password, and a right one that is not told either.
#[test]
fn passwords_of_the_server_are_not_told_when_it_refuses_them() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    workspace.dir("bucket");
    let mut cluster = Cluster::create(&bin, &workspace, "primary", &[]);
    cluster.start();
    cluster
        .session()
        .run("CREATE ROLE keeper LOGIN SUPERUSER PASSWORD 'right-hush'");
    let rules = cluster.pgdata().join("pg_hba.conf");
    let text = format!(
        "local all keeper scram-sha-256\n{}",
        fs::read_to_string(&rules).expect("it is there")
    );
    fs::write(&rules, text).expect("it can be written");
    cluster.session().run("SELECT pg_reload_conf()");
    let backup = |password: &str| {
        workspace
            .tool("barman-cloud-backup")
            .env("PGPASSWORD", password)
            .arg(format!("--host={}", cluster.socket_dir().display()))
            .args([
                "--user=keeper",
                "--dbname=postgres",
                "-vv",
                "--immediate-checkpoint",
            ])
            .args([&workspace.url("bucket"), "main"])
            .run()
    };
    e2e::wait_until("the new rules", || {
        let run = backup("wrong-hush");
        assert_quiet(&run, "wrong");
        (run.code() == Some(1)).then_some(())
    });
    let run = backup("right-hush");
    assert!(run.code() == Some(0), "{run}");
    assert_quiet(&run, "right");
    assert_nothing_left(&workspace, cluster.pgdata());
    cluster.stop(ShutDown::Immediate);
}

/// Ways to a store, with secrets in them, that end nowhere.
fn ways<'t>(tool: impl Fn() -> Tool<'t>, home: &str) -> Vec<(&'static str, Tool<'t>)> {
    let dead = format!("http://127.0.0.1:{}", dead_port());
    let host = dead.trim_start_matches("http://").to_owned();
    let s3 = || {
        tool()
            .env("AWS_ACCESS_KEY_ID", "somebody")
            .env("AWS_SECRET_ACCESS_KEY", "hush")
            .env("AWS_SESSION_TOKEN", "hush-token")
            .env("AWS_REGION", "us-east-1")
            .env("AWS_EC2_METADATA_DISABLED", "true")
    };
    let azure = || tool().arg("--cloud-provider=azure-blob-storage");
    let google = || tool().arg("--cloud-provider=google-cloud-storage");
    let key = format!(
        "AccountName=acc;AccountKey={BASE64};BlobEndpoint={dead}/acc;DefaultEndpointsProtocol=http"
    );
    let signature = format!("BlobEndpoint={dead}/acc;SharedAccessSignature=sv=1&sig=hush");
    vec![
        (
            "a dead endpoint",
            s3().args(["--endpoint-url", &dead, "s3://b/p"]),
        ),
        (
            "an endpoint that has no address",
            s3().args(["--endpoint-url", "http://nobody.invalid", "s3://b/p"]),
        ),
        (
            "an endpoint with a password",
            s3().args([
                "--endpoint-url",
                &format!("http://u:hush@{host}"),
                "s3://b/p",
            ]),
        ),
        (
            "a proxy with a password",
            s3().env("http_proxy", format!("http://u:hush@{host}"))
                .args(["--endpoint-url", "http://store.invalid", "s3://b/p"]),
        ),
        (
            "a proxy that is none",
            s3().env("http_proxy", "ftp://u:hush@nowhere").args([
                "--endpoint-url",
                "http://store.invalid",
                "s3://b/p",
            ]),
        ),
        (
            "a key of the customer's",
            s3().arg(format!("--sse-customer-key=file://{home}/customer"))
                .args(["--endpoint-url", &dead, "s3://b/p"]),
        ),
        (
            "a key of the customer's that is none",
            s3().arg(format!("--sse-customer-key=file://{home}/odd"))
                .args(["--endpoint-url", &dead, "s3://b/p"]),
        ),
        (
            "a profile that cannot be read",
            s3().env("AWS_SHARED_CREDENTIALS_FILE", format!("{home}/odd"))
                .args(["--aws-profile", "p", "--endpoint-url", &dead, "s3://b/p"]),
        ),
        (
            "an account's key",
            azure()
                .env("AZURE_STORAGE_CONNECTION_STRING", &key)
                .arg(format!("{dead}/acc/c/p")),
        ),
        (
            "a shared access signature",
            azure()
                .env("AZURE_STORAGE_CONNECTION_STRING", &signature)
                .arg(format!("{dead}/acc/c/p")),
        ),
        (
            "a signature beside the host of Azure",
            azure()
                .env("AZURE_STORAGE_SAS_TOKEN", "sv=1&sig=hush")
                .env("https_proxy", &dead)
                .arg("https://acc.blob.core.windows.net/c/p"),
        ),
        (
            "a connection string that is none",
            azure()
                .env("AZURE_STORAGE_CONNECTION_STRING", format!("hush{BASE64}"))
                .arg(format!("{dead}/acc/c/p")),
        ),
        (
            "a service account whose key is none",
            google()
                .env("GOOGLE_APPLICATION_CREDENTIALS", format!("{home}/account"))
                .arg("gs://b/p"),
        ),
        (
            "credentials of Google's that are none",
            google()
                .env("GOOGLE_APPLICATION_CREDENTIALS", format!("{home}/odd"))
                .arg("gs://b/p"),
        ),
    ]
}

#[test]
fn secrets_of_stores_are_not_told_when_they_cannot_be_reached() {
    let workspace = Workspace::new();
    let home = workspace.dir("home/secrets").display().to_string();
    private(&workspace, "home/secrets/customer", BASE64);
    private(&workspace, "home/secrets/odd", "hush hush hush");
    private(
        &workspace,
        "home/secrets/account",
        "{\"type\": \"service_account\", \"client_email\": \"a@b\", \"private_key\": \
         \"-----BEGIN PRIVATE KEY-----\\nhush\\n-----END PRIVATE KEY-----\\n\"}",
    );
    let tool = || {
        workspace
            .tool("barman-cloud-wal-restore")
            .arg(format!("--spool-dir={}", workspace.path("spool").display()))
            .args(["-vvv", "--retry-timeout=1"])
    };
    for (case, way) in ways(tool, &home) {
        let run = way.args(["main", SEGMENT]).arg(workspace.path("out")).run();
        assert!(run.code().is_some_and(|code| code > 1), "{case}: {run}");
        assert_quiet(&run, case);
        assert_eq!(run.errors().len(), 1, "{case}: {run}");
    }
    assert_nothing_left(&workspace, Path::new(&home));
}

/// A wrong key, against a store that knows the right one.
#[test]
fn a_wrong_key_is_not_told() {
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let segment = fs::read(golden().join("wal").join(SEGMENT)).expect("it is recorded");
    let segment = workspace.file(SEGMENT, segment);
    for (id, code) in [("test", 4), ("nobody", 4)] {
        let run = workspace
            .tool("barman-cloud-wal-archive")
            .envs(bucket.environment())
            .env("AWS_ACCESS_KEY_ID", id)
            .env("AWS_SECRET_ACCESS_KEY", "hush")
            .args(["-vvv", &format!("{}/p", bucket.url()), "main"])
            .arg(&segment)
            .run();
        assert_eq!(run.code(), Some(code), "{run}");
        assert_quiet(&run, id);
        assert_eq!(run.errors().len(), 1, "{run}");
    }
}

/// What the key in the environment is when a helper runs, as `common.sh` has it.
const SECRET_KEY: &str = "testtesttest";

/// Everything that is kept on disk is for this user alone, and neither it nor the arguments
/// of a process hold the key.
#[test]
fn helpers_and_their_files_are_nobody_elses_business() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let scene = LongArchive::new(bin, &workspace, &bucket, 1, 30);
    let proxy = FaultProxy::start(bucket.endpoint());
    let mut standby = scene.restored("back", &Recovery::Standby, Some(&proxy));
    let helper = start_and_hold(&mut standby, &scene, &workspace, &proxy);
    let call = Process::of_wal_tool(&standby).expect("it waits, too");
    for process in [helper, call] {
        let arguments = process.arguments().join(" ");
        assert!(!arguments.contains(SECRET_KEY), "{arguments}");
    }
    let folders: Vec<_> = fs::read_dir(workspace.path("spool"))
        .expect("there is a spool")
        .map(|entry| entry.expect("it can be read").path())
        .collect();
    assert!(!folders.is_empty());
    let mut files = 0;
    for folder in folders {
        let mode = folder.symlink_metadata().expect("it is there").mode();
        assert_eq!(mode & 0o7777, 0o700, "{}", folder.display());
        for file in fs::read_dir(&folder).expect("it can be read").flatten() {
            // Segments come and go.
            let Ok(meta) = file.path().symlink_metadata() else {
                continue;
            };
            assert_eq!(meta.mode() & 0o077, 0, "{}", file.path().display());
            if let Ok(bytes) = fs::read(file.path()) {
                let text = String::from_utf8_lossy(&bytes);
                assert!(!text.contains(SECRET_KEY), "{}", file.path().display());
            }
            files += 1;
        }
    }
    assert!(files > 1, "records and segments were there");
    proxy.clear();
    proxy.release();
    standby.stop(ShutDown::Immediate);
    Process::wait_for_helpers(&workspace);
}
