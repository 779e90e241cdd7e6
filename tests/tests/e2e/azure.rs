//! All nine tools on Azure Blob Storage, on good days and on bad ones, against its
//! emulator.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::sync::{Arc, Condvar, Mutex};

use e2e::{Azurite, Fault, HttpServer, PgBin, Place, Rule, Run, Workspace, golden};

use crate::versions::a_primary_under_load_comes_back;

const SEGMENT: &str = "000000010000000000000006";

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

fn sample() -> Vec<u8> {
    fs::read(golden().join("wal").join(SEGMENT)).unwrap()
}

/// The four tools that carry data, over HTTP and over TLS.
#[test]
fn a_primary_under_load_comes_back_from_azure() {
    let Some(bin) = PgBin::find() else { return };
    for server in [Azurite::Plain, Azurite::Tls] {
        let workspace = Workspace::new();
        let Some(container) = server.container(&workspace) else {
            return;
        };
        let place = Place::in_container(&workspace, &container, "a-path/of-its-own/");
        a_primary_under_load_comes_back(&bin, &place);
    }
}

fn ids(list: &Run) -> Vec<String> {
    let listed: serde_json::Value = serde_json::from_str(&list.stdout).unwrap();
    let backups = listed["backups_list"].as_array().unwrap();
    let id = |backup: &serde_json::Value| backup["backup_id"].as_str().unwrap().to_owned();
    backups.iter().map(id).collect()
}

/// The other five, and what the catalogue looks like after each.
#[test]
fn the_catalogue_is_kept_in_azure() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(container) = Azurite::Plain.container(&workspace) else {
        return;
    };
    let place = Place::in_container(&workspace, &container, "backups");
    let run = |tool: &str, rest: &[&str]| {
        let tool = place.tool(&format!("barman-cloud-{tool}"));
        tool.args([place.url(), "main"]).args(rest).run()
    };
    let done = |tool: &str, rest: &[&str]| {
        let run = run(tool, rest);
        assert_eq!(run.code(), Some(0), "{run}");
        run
    };
    assert_eq!(ids(&done("backup-list", &["--format=json"])), [""; 0]);
    done("check-wal-archive", &[]);

    let mut primary = place.primary(&bin, "--tags kind,wal --");
    primary.start();
    for name in ["monday", "tuesday", "wednesday"] {
        place
            .backup(&primary, "postgres")
            .args([
                "--tag",
                "kind,base backup",
                "--name",
                name,
                "--max-archive-size=8MB",
            ])
            .succeed();
    }
    primary.archive_everything();
    drop(primary);
    let listed = ids(&done("backup-list", &["--format=json"]));
    assert_eq!(listed.len(), 3);
    let of = |id: &str| container.keys(&format!("backups/main/base/{id}/"));
    for key in of(&listed[0]) {
        let tags = BTreeMap::from([("kind".to_owned(), "base backup".to_owned())]);
        assert_eq!(container.tags(&key), tags, "{key}");
    }
    assert!(of(&listed[0]).len() > 3, "PGDATA has several archives");
    let wals = container.keys("backups/main/wals/");
    assert_eq!(container.tags(&wals[0])["kind"], "wal");
    let used = run("check-wal-archive", &[]);
    assert_eq!(used.code(), Some(1), "{used}");

    let show = done("backup-show", &["tuesday"]);
    assert!(show.stdout.contains("DONE"), "{show}");
    done("backup-keep", &["monday", "--target=standalone"]);
    let status = done("backup-keep", &["monday", "--status"]);
    assert_eq!(status.stdout.trim(), "Keep: standalone");
    done("backup-delete", &["-r", "REDUNDANCY 1"]);
    let left = ids(&done("backup-list", &["--format=json"]));
    assert_eq!(
        left,
        [&*listed[0], &*listed[2]],
        "one is kept, one is the newest"
    );
    assert_eq!(of(&listed[1]), [""; 0]);
    let fewer = container.keys("backups/main/wals/");
    assert!(fewer.len() < wals.len(), "{fewer:?}");
    done("backup-keep", &["monday", "--release"]);
    done("backup-delete", &["-b", "monday"]);
    done("backup-delete", &["-b", "wednesday"]);
    assert_eq!(container.keys("backups/main/base/"), [""; 0]);
}

/// Which is made by `check-wal-archive`, and by no other tool.
#[test]
fn a_container_that_is_missing_is_told_and_made_by_one_tool_alone() {
    let workspace = Workspace::new();
    let Some(container) = Azurite::Plain.no_container(&workspace) else {
        return;
    };
    let place = Place::in_container(&workspace, &container, "a/b");
    let test = |tool: &str, rest: &[&str]| {
        let tool = place.tool(&format!("barman-cloud-{tool}"));
        tool.args(["--test", place.url(), "main"]).args(rest).run()
    };
    for (tool, rest) in TOOLS {
        let run = test(tool, rest);
        if tool == "check-wal-archive" {
            assert_eq!(run.code(), Some(0), "{run}");
            continue;
        }
        assert_eq!(run.code(), Some(1), "{run}");
        let expected = format!("Bucket {} does not exist", container.name());
        assert!(run.errors()[0].contains(&expected), "{run}");
    }
    let wal = workspace.file(SEGMENT, sample());
    let archive = place
        .tool("barman-cloud-wal-archive")
        .args([place.url(), "main"])
        .arg(wal)
        .run();
    assert_eq!(archive.code(), Some(4), "{archive}");
    place
        .tool("barman-cloud-check-wal-archive")
        .args([place.url(), "main"])
        .succeed();
    for (tool, rest) in TOOLS {
        let run = test(tool, rest);
        assert_eq!(run.code(), Some(0), "{run}");
        assert_eq!(run.stderr, "", "{run}");
    }
    let told = test("backup-list", &["-v"]).messages("INFO");
    for step in [
        "can be reached",
        "the credentials are accepted",
        &format!("bucket {} exists", container.name()),
        "what is in it can be listed",
    ] {
        assert!(
            told.iter().any(|line| line.contains(step)),
            "{step}: {told:?}"
        );
    }
}

/// One line, and the exit code that clients act on.
#[test]
fn a_store_that_refuses_or_is_not_there_is_told_in_one_line_by_every_tool() {
    let workspace = Workspace::new();
    let Some(container) = Azurite::Plain.container(&workspace) else {
        return;
    };
    let wrong = container.environment_with_key("aHVzaC1odXNoLWh1c2g=");
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    let gone = format!("http://{}/devstoreaccount1", nobody.local_addr().unwrap());
    drop(nobody);
    let url = format!("{}/p", container.url());
    let place = Place::in_container(&workspace, &container, "p");
    for (tool, rest) in TOOLS {
        let run = |variables: &[(&'static str, String)], more: &[&str]| {
            workspace
                .tool(&format!("barman-cloud-{tool}"))
                .envs(variables.iter().cloned())
                .args(place.options())
                .args(["--test"])
                .args(more)
                .args([&url, "main"])
                .args(rest)
                .run()
        };
        let refused = run(&wrong, &["-vv"]);
        assert_eq!(refused.code(), Some(4), "{refused}");
        assert_eq!(refused.errors().len(), 1, "{refused}");
        assert!(
            refused.errors()[0].contains("failed to authenticate"),
            "{refused}"
        );
        assert!(
            !refused.stderr.contains("aHVzaC1"),
            "a secret was printed: {refused}"
        );
        let string = format!("AccountName=a;AccountKey=aw==;BlobEndpoint={gone}");
        let unreachable = run(&[("AZURE_STORAGE_CONNECTION_STRING", string)], &[]);
        assert_eq!(unreachable.code(), Some(2), "{unreachable}");
        assert_eq!(unreachable.errors().len(), 1, "{unreachable}");
        let none = run(&[], &[]);
        assert_eq!(none.code(), Some(4), "{none}");
        assert!(
            none.errors()[0].contains("AZURE_STORAGE_CONNECTION_STRING must be set"),
            "{none}"
        );
    }
}

#[test]
fn a_large_file_goes_in_blocks_of_the_size_that_is_wanted() {
    let workspace = Workspace::new();
    let Some(container) = Azurite::Plain.container(&workspace) else {
        return;
    };
    let place = Place::in_container(&workspace, &container, "");
    let wal = workspace.file(SEGMENT, sample());
    let key = |server: &str| format!("{server}/wals/0000000100000000/{SEGMENT}");
    let archive = |server: &str, options: &[&str]| {
        place
            .tool("barman-cloud-wal-archive")
            .args(options)
            .args([&container.url(), server])
            .arg(&wal)
            .succeed();
    };
    let size = sample().len() as u64;
    archive("whole", &[]);
    assert_eq!(
        container.blocks(&key("whole")),
        0,
        "it is no list of blocks"
    );
    let small = [
        "--max-single-put-size=100KB",
        "--max-block-size=200KB",
        "--max-concurrency=3",
    ];
    // Blocks that somebody left there have names of another length, and theirs.
    container.leave_behind(&key("blocks"), "00001");
    for server in ["blocks", "alone"] {
        archive(server, &[&small[..], &["--tags", "a,b c", "--"]].concat());
        let blocks = container.blocks(&key(server));
        assert_eq!(blocks, size.div_ceil(200 << 10), "{server}");
        assert_eq!(container.tags(&key(server))["a"], "b c");
        // It is compared with what is there, and left as it is.
        archive(server, &small);
        let target = workspace.path(server);
        place
            .tool("barman-cloud-wal-restore")
            .args([&container.url(), server, SEGMENT])
            .arg(&target)
            .succeed();
        assert_eq!(fs::read(target).unwrap(), sample(), "{server}");
    }
}

/// The first block is answered when the third has come.
#[test]
fn blocks_go_side_by_side() {
    let workspace = Workspace::new();
    let wal = workspace.file(SEGMENT, sample());
    let arrived = Arc::new((Mutex::new(0), Condvar::new()));
    let server = HttpServer::answering(move |request| {
        if request.target.contains("comp=block&") {
            let (count, changed) = &*arrived;
            let mut count = count.lock().unwrap();
            *count += 1;
            changed.notify_all();
            drop(changed.wait_while(count, |count| *count < 3).unwrap());
        }
        (201, String::new())
    });
    let string = format!(
        "AccountName=a;AccountKey=aw==;BlobEndpoint={}/a",
        server.url()
    );
    let done = workspace
        .tool("barman-cloud-wal-archive")
        .env("AZURE_STORAGE_CONNECTION_STRING", string)
        .args([
            "--cloud-provider=azure-blob-storage",
            "--encryption-scope=mine",
        ])
        .args([
            "--max-single-put-size=100KB",
            "--max-block-size=200KB",
            "--max-concurrency=3",
        ])
        .args([&format!("{}/a/c", server.url()), "main"])
        .arg(wal)
        .run();
    assert_eq!(done.code(), Some(0), "{done}");
    let seen = server.seen();
    assert!(seen.len() > 3, "{done}");
    for request in seen {
        assert_eq!(
            request.header("x-ms-encryption-scope"),
            "mine",
            "{}",
            request.target
        );
    }
}

#[test]
fn lost_answers_damaged_bodies_and_busy_servers_lose_nothing() {
    let workspace = Workspace::new();
    let Some(container) = Azurite::Plain.container(&workspace) else {
        return;
    };
    let (proxy, variables) = container.behind_a_proxy();
    let place = Place::in_container(&workspace, &container, "");
    let wal = workspace.file(SEGMENT, sample());
    let url = container.url();
    let blocks = ["--max-single-put-size=100KB", "--max-block-size=200KB"];
    let faults: [(&str, &[&str], Fault, &str); 8] = [
        ("put-lost", &[], Fault::LostResponse, "PUT"),
        ("put-busy", &[], Fault::Status(503), "PUT"),
        ("put-damaged", &[], Fault::CorruptRequest(1000), "PUT"),
        ("put-reset", &[], Fault::Reset, "PUT"),
        ("block-lost", &blocks, Fault::LostResponse, "comp=block&"),
        (
            "block-damaged",
            &blocks,
            Fault::CorruptRequest(1000),
            "comp=block&",
        ),
        (
            "commit-lost",
            &blocks,
            Fault::LostResponse,
            "comp=blocklist",
        ),
        ("commit-busy", &blocks, Fault::Status(500), "comp=blocklist"),
    ];
    for (server, options, fault, on) in faults {
        proxy.clear();
        proxy.add(&Rule::new(&fault).on(on));
        let tool = |name: &str| {
            let tool = workspace.tool(name).envs(variables.iter().cloned());
            tool.args(place.options())
        };
        let archive = tool("barman-cloud-wal-archive")
            .args(options)
            .args([&url, server])
            .arg(&wal)
            .run();
        assert_eq!(archive.code(), Some(0), "{server}: {archive}");
        proxy.clear();
        proxy.add(&Rule::new(&Fault::Truncate(100_000)).on("GET .*wals"));
        let target = workspace.path(server);
        let restore = tool("barman-cloud-wal-restore")
            .args([&url, server, SEGMENT])
            .arg(&target)
            .run();
        assert_eq!(restore.code(), Some(0), "{server}: {restore}");
        assert_eq!(fs::read(target).unwrap(), sample(), "{server}");
    }
}

/// What `docs/permissions.md` says is enough: a signature with its letters.
#[test]
fn each_tool_works_with_the_documented_permissions_and_no_others() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(container) = Azurite::Plain.container(&workspace) else {
        return;
    };
    let place = Place::in_container(&workspace, &container, "p");
    let mut primary = place.primary(&bin, "");
    primary.start();
    let wal = workspace.file(SEGMENT, sample()).display().to_string();
    let target = workspace.path("target").display().to_string();
    let connection = primary.connection();
    let run = |letters: &str, tool: &str, options: &[&str], rest: &[&str]| {
        let signature = container.signature(letters);
        let endpoint = container.endpoint();
        let string = format!("BlobEndpoint={endpoint};SharedAccessSignature={signature}");
        workspace
            .tool(&format!("barman-cloud-{tool}"))
            .env("AZURE_STORAGE_CONNECTION_STRING", string)
            .args(place.options())
            .args(options)
            .args([place.url(), "main"])
            .args(rest)
            .run()
    };
    let backup = [
        "--immediate-checkpoint",
        "--name=b",
        &connection[0],
        &connection[1],
    ];
    let blocks = ["--max-single-put-size=100KB"];
    let large = format!("{wal}.partial");
    fs::copy(&wal, &large).unwrap();
    for (letters, tool, options, rest) in [
        ("c", "wal-archive", &[][..], &[&*wal][..]),
        // It is there already, which is found by reading it. (Azure says so to who
        // may only create, the emulator does not.)
        ("rcw", "wal-archive", &[], &[&wal]),
        ("w", "wal-archive", &blocks, &[&large]),
        ("rl", "wal-restore", &[], &[SEGMENT, &target]),
        ("l", "check-wal-archive", &["--test"], &[]),
        ("rcwl", "backup", &backup, &[]),
        ("rl", "backup-list", &[], &[]),
        ("rl", "backup-show", &[], &["b"]),
        ("rcwl", "backup-keep", &[], &["b", "--target=full"]),
        ("rl", "backup-keep", &[], &["b", "--status"]),
        ("rdl", "backup-keep", &[], &["b", "--release"]),
        ("rl", "restore", &[], &["b", &format!("{target}-dir")]),
        ("rwdl", "backup-delete", &["-b", "b"], &[]),
    ] {
        let done = run(letters, tool, options, rest);
        assert_eq!(done.code(), Some(0), "{tool} with `{letters}`: {done}");
    }
    let other = workspace.file("00000002.history", "1\t0/6000000\tno reason\n");
    let refused = run("rl", "wal-archive", &[], &[other.to_str().unwrap()]);
    assert_eq!(refused.code(), Some(4), "{refused}");
    assert!(refused.errors()[0].contains("(status 403)"), "{refused}");
}

/// An option of another cloud is taken and not looked at.
#[test]
fn options_of_other_clouds_are_ignored() {
    let workspace = Workspace::new();
    let Some(container) = Azurite::Plain.container(&workspace) else {
        return;
    };
    let place = Place::in_container(&workspace, &container, "");
    let wal = workspace.file(SEGMENT, sample());
    place
        .tool("barman-cloud-wal-archive")
        .args([
            "--endpoint-url=http://127.0.0.1:1",
            "--aws-profile=nobody",
            "-e",
            "AES256",
        ])
        .args(["--addressing-style=path", "--kms-key-name=k"])
        .args([&container.url(), "main"])
        .arg(wal)
        .succeed();
}
