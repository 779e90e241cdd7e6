//! What the reference printed of its buckets, ours prints to the letter.
//!
//! The buckets are put together again from their recorded listings and records.
//! Archives and WAL are not recorded, and these tools do not read them: an empty
//! object stands for each.

use std::fs;

use e2e::{Bucket, Run, S3Server, Tool, Workspace, golden};

/// Which record belongs to which backup of the server `main` below `backups/`.
const RECORDS: [(&str, &str); 5] = [
    ("20261121T022133", "done-gzip-tablespace-named"),
    ("20261121T022213", "done-plain-parts"),
    ("20261121T022220", "done-snappy-tags"),
    ("20261121T022539", "failed-unreadable-file"),
    ("20261121T022646", "started-killed"),
];

const OLDEST: &str = RECORDS[0].0;
const NEWEST: &str = RECORDS[2].0;

fn record(name: &str) -> String {
    let path = golden().join(format!("backup-info/{name}.info"));
    fs::read_to_string(path).unwrap()
}

fn output(name: &str) -> String {
    fs::read_to_string(golden().join("output").join(name)).unwrap()
}

/// Either kind of store the recorded buckets are put into.
enum Store<'w> {
    S3(Bucket<'w>),
    Directory,
}

struct Golden<'w> {
    workspace: &'w Workspace,
    store: Store<'w>,
}

impl<'w> Golden<'w> {
    fn write(&self, key: &str, content: impl AsRef<[u8]>) {
        match &self.store {
            Store::S3(bucket) => bucket.write(key, content),
            Store::Directory => {
                let path = format!("bucket/{key}");
                let (directory, _) = path.rsplit_once('/').unwrap();
                self.workspace.dir(directory);
                self.workspace.file(&path, content);
            }
        }
    }

    fn remove(&self, key: &str) {
        match &self.store {
            Store::S3(bucket) => bucket.remove(key),
            Store::Directory => {
                fs::remove_file(self.workspace.path(format!("bucket/{key}"))).unwrap();
            }
        }
    }

    /// The recorded objects of `backups/main`, below `path` instead.
    fn backups_below(&self, path: &str) {
        let keys = fs::read_to_string(golden().join("keys/backups.txt")).unwrap();
        for line in keys.lines() {
            let (_, key) = line.split_once(' ').unwrap();
            let Some(rest) = key.strip_prefix("backups/main/") else {
                continue;
            };
            let content = RECORDS
                .iter()
                .find(|(id, _)| rest == format!("base/{id}/backup.info"))
                .map_or_else(String::new, |(_, name)| record(name));
            let content = if rest.ends_with("annotations/keep") {
                "full".to_owned()
            } else {
                content
            };
            self.write(&format!("{path}/main/{rest}"), content);
        }
    }

    fn keep(&self, path: &str, text: &str) {
        let key = format!("{path}/main/base/{OLDEST}/annotations/keep");
        self.write(&key, text);
    }

    fn release(&self, path: &str) {
        self.remove(&format!("{path}/main/base/{OLDEST}/annotations/keep"));
    }

    fn tool(&self, name: &str, path: &str) -> Tool<'w> {
        let tool = self.workspace.tool(name);
        match &self.store {
            Store::S3(bucket) => tool
                .envs(bucket.environment())
                .arg(format!("{}/{path}", bucket.url())),
            Store::Directory => tool.arg(format!("{}/{path}", self.workspace.url("bucket"))),
        }
        .arg("main")
    }

    fn prints(&self, name: &str, path: &str, args: &[&str], expected: &str) {
        let run = self.tool(name, path).args(args).run();
        self.printed(&run, path, expected);
    }

    fn dry_run(&self, path: &str, args: &[&str], expected: &str) {
        let run = self
            .tool("barman-cloud-backup-delete", path)
            .args(args)
            .arg("--dry-run")
            .run();
        self.printed(&run, path, expected);
    }

    fn printed(&self, run: &Run, path: &str, expected: &str) {
        assert_eq!(run.code(), Some(0), "{run}");
        assert_eq!(run.stdout, self.output(path, expected), "{expected}: {run}");
        assert_eq!(run.stderr, "", "{expected}");
    }

    /// What was recorded. The path of a directory's URL is no part of the keys.
    fn output(&self, path: &str, name: &str) -> String {
        let text = output(name);
        match &self.store {
            Store::S3(_) => text,
            Store::Directory => text.replace(&format!("{path}/main/"), "main/"),
        }
    }
}

/// On S3 and in a directory.
fn on_both(test: impl Fn(&Golden<'_>)) {
    let workspace = Workspace::new();
    test(&Golden {
        workspace: &workspace,
        store: Store::Directory,
    });
    let workspace = Workspace::new();
    if let Some(bucket) = S3Server::Moto.bucket(&workspace) {
        test(&Golden {
            workspace: &workspace,
            store: Store::S3(bucket),
        });
    }
}

#[test]
fn lists_and_pages_are_those_of_the_reference() {
    on_both(|golden| {
        golden.backups_below("backups");
        let list = "barman-cloud-backup-list";
        golden.prints(list, "backups", &[], "list-console.txt");
        golden.prints(list, "backups", &["--format", "json"], "list.json");
        golden.prints(list, "backups", &["--format=xml"], "list.json");
        // In a directory the path of the URL is the bucket and must exist.
        golden.write("nowhere/other/notes.txt", "");
        golden.prints(list, "nowhere", &[], "list-empty-console.txt");
        golden.prints(list, "nowhere", &["--format=json"], "list-empty.json");
        let show = "barman-cloud-backup-show";
        for (backup, expected) in [
            (OLDEST, "show-done"),
            ("golden-gzip", "show-done"),
            ("oldest", "show-done"),
            ("20261121T022539", "show-failed"),
            ("last-failed", "show-failed"),
            ("20261121T022646", "show-started"),
        ] {
            let console = format!("{expected}-console.txt");
            golden.prints(show, "backups", &[backup], &console);
            let json = format!("{expected}.json");
            golden.prints(show, "backups", &[backup, "--format", "json"], &json);
        }
        let keep = "barman-cloud-backup-keep";
        golden.prints(
            keep,
            "backups",
            &[OLDEST, "--status"],
            "keep-status-full.txt",
        );
        golden.prints(keep, "backups", &[NEWEST, "-s"], "keep-status-nokeep.txt");
        golden.keep("backups", "standalone");
        golden.prints(list, "backups", &[], "list-console-keep-standalone.txt");
    });
}

#[test]
fn pages_of_snapshots_and_relayed_backups_are_those_of_the_reference() {
    on_both(|golden| {
        let info = record("done-aws-snapshot");
        golden.write("snap/main/base/20261121T024500/backup.info", info);
        golden.write("snap/main/base/20261121T024500/backup_label", "label");
        let show = "barman-cloud-backup-show";
        golden.prints(show, "snap", &["golden-snap"], "show-aws-snapshot.txt");
        let json = ["golden-snap", "--format=json"];
        golden.prints(show, "snap", &json, "show-aws-snapshot.json");
        let expected = "delete-dry-run-aws-snapshot.txt";
        golden.dry_run("snap", &["-b", "20261121T024500"], expected);

        // A Barman server relays its own record: with its name and its way of
        // copying, and here without a name of the backup.
        let relayed: String = record("done-gzip-tablespace-named")
            .lines()
            .filter(|line| !line.starts_with("backup_name="))
            .map(|line| match line.split_once('=') {
                Some(("mode", _)) => "mode=rsync-concurrent\n".to_owned(),
                Some(("server_name", _)) => "server_name=main\n".to_owned(),
                _ => format!("{line}\n"),
            })
            .collect();
        golden.write("hook/main/base/20261121T010101/backup.info", relayed);
        let json = ["20261121T010101", "--format=json"];
        golden.prints(show, "hook", &json, "show-hook-relayed.json");
    });
}

#[test]
fn a_dry_run_prints_what_the_reference_prints() {
    on_both(|golden| {
        golden.backups_below("backups");
        for (args, expected) in [
            (["-r", "REDUNDANCY 2"], "del_dry_r2"),
            (["-r", "REDUNDANCY 1"], "del_dry_r1"),
            (["-r", "REDUNDANCY 0"], "del_dry_r0"),
            (["-r", "RECOVERY WINDOW OF 0 DAYS"], "del_dry_w"),
            (["-b", "20261121T022213"], "del_dry_id"),
        ] {
            golden.dry_run("backups", &args, &format!("delete-{expected}.stdout"));
        }
        // What is missing is said, and that a backup may be running.
        for (id, expected, warnings) in [
            ("20261121T022539", "del_dry_failed", 2),
            ("20261121T022646", "del_dry_started", 3),
        ] {
            let run = golden
                .tool("barman-cloud-backup-delete", "backups")
                .args(["-b", id, "--dry-run"])
                .run();
            let expected = golden.output("backups", &format!("delete-{expected}.stdout"));
            assert_eq!(run.stdout, expected, "{run}");
            let said = run.messages("WARNING");
            assert_eq!(said.len(), warnings, "{run}");
            let missing = |line: &&String| line.starts_with("Missing file ");
            assert_eq!(said.iter().filter(missing).count(), 2, "{run}");
            assert_eq!(
                said[0].contains("has status STARTED"),
                warnings == 3,
                "{run}"
            );
        }

        golden.backups_below("del1");
        golden.release("del1");
        for (args, expected) in [
            (["-r", "REDUNDANCY 1"], "d1_dry"),
            (["-b", OLDEST], "d1_dry_id"),
        ] {
            golden.dry_run("del1", &args, &format!("delete-{expected}.stdout"));
        }
        golden.backups_below("del2");
        golden.keep("del2", "standalone");
        for (args, expected) in [
            (["-b", "20261121T022213"], "d2_dry_id"),
            (["-r", "REDUNDANCY 1"], "d2_dry_r"),
        ] {
            golden.dry_run("del2", &args, &format!("delete-{expected}.stdout"));
        }
    });
}

#[test]
fn on_s3_whole_directories_of_wal_go_as_with_the_reference() {
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::Moto.bucket(&workspace) else {
        return;
    };
    let golden = Golden {
        workspace: &workspace,
        store: Store::S3(bucket),
    };
    let base = "del3/main/base";
    golden.write(
        &format!("{base}/{OLDEST}/backup.info"),
        record("done-gzip-tablespace-named"),
    );
    for archive in ["data.tar.gz", "16384.tar.gz"] {
        golden.write(&format!("{base}/{OLDEST}/{archive}"), "");
    }
    let moved = record("done-snappy-tags")
        .replace(
            "_wal=000000010000000000000008",
            "_wal=000000010000000200000003",
        )
        .replace("_xlog=0/8", "_xlog=2/3");
    golden.write(&format!("{base}/{NEWEST}/backup.info"), moved);
    for wal in [
        "0000000100000000/000000010000000000000004.gz",
        "0000000100000000/junk.txt",
        "0000000100000001/0000000100000001000000FF",
        // Two forms of one segment: the later in the listing goes.
        "0000000100000002/000000010000000200000001.bz2",
        "0000000100000002/000000010000000200000001.gz",
        "0000000100000002/000000010000000200000002.gz",
        "0000000100000002/000000010000000200000002.partial",
        "0000000100000002/000000010000000200000003.gz",
        "0000000100000002/junk.txt",
        "0000000200000000/000000020000000000000001.gz",
        "00000002.history.gz",
        "notes.txt",
    ] {
        golden.write(&format!("del3/main/wals/{wal}"), "");
    }
    let args = ["-r", "REDUNDANCY 1"];
    golden.dry_run("del3", &args, "delete-d3_dry.stdout");

    let run = golden
        .tool("barman-cloud-backup-delete", "del3")
        .args(args)
        .run();
    assert_eq!(run.code(), Some(0), "{run}");
    assert_eq!(run.stdout, "");
    let Store::S3(bucket) = &golden.store else {
        unreachable!("it was put on S3")
    };
    let left = bucket.keys("del3/main/wals/");
    let left: Vec<_> = left
        .iter()
        .filter_map(|key| key.strip_prefix("del3/main/wals/"))
        .collect();
    assert_eq!(
        left,
        [
            "0000000100000002/000000010000000200000001.bz2",
            "0000000100000002/000000010000000200000003.gz",
            "0000000100000002/junk.txt",
            "00000002.history.gz",
            "0000000200000000/000000020000000000000001.gz",
            "notes.txt",
        ]
    );
    assert_eq!(bucket.keys(base), [format!("{base}/{NEWEST}/backup.info")]);
}

/// What was recorded of the end of each call: the exit code and the message.
#[test]
fn refusals_are_those_of_the_reference() {
    let recorded = output("stderr-and-exit-codes.txt");
    on_both(|golden| {
        golden.backups_below("backups");
        golden.backups_below("open");
        golden.release("open");
        // The listing of the keys was made a little later than these calls.
        for later in ["18.00000028.backup", "18", "19", "1A", "17"] {
            let name = format!("0000000100000000000000{later}.gz");
            golden.remove(&format!("backups/main/wals/0000000100000000/{name}"));
        }
        let show = "barman-cloud-backup-show";
        let delete = "barman-cloud-backup-delete";
        let keep = "barman-cloud-backup-keep";
        let check = "barman-cloud-check-wal-archive";
        for (case, tool, path, args) in [
            ("shownx", show, "backups", &["20200101T000000"][..]),
            ("shownx2", show, "backups", &["nosuchname"]),
            (
                "keepF",
                keep,
                "backups",
                &["20261121T022539", "--target", "full"],
            ),
            (
                "del_dry_keep",
                delete,
                "backups",
                &["-b", OLDEST, "--dry-run"],
            ),
            (
                "del_bad",
                delete,
                "backups",
                &["-r", "RECOVERY WINDOW OF 1 YEAR"],
            ),
            ("del_min", delete, "backups", &["-b", NEWEST, "-m", "4"]),
            ("del_nx", delete, "backups", &["-b", "20200101T000000"]),
            ("del_nxname", delete, "backups", &["-b", "nope"]),
            (
                "del_r_min",
                delete,
                "open",
                &["-r", "REDUNDANCY 1", "-m", "3"],
            ),
            ("ck1", check, "backups", &[]),
            ("ck2", check, "backups", &["--timeline", "1"]),
        ] {
            let run = golden.tool(tool, path).args(args).run();
            let expected = recorded
                .split("## ")
                .find_map(|part| part.strip_prefix(&format!("{case}: exit code ")))
                .unwrap_or_else(|| panic!("{case} is not recorded"));
            let (code, lines) = expected.split_once('\n').unwrap();
            assert_eq!(
                run.code().map(|code| code.to_string()),
                Some(code.to_owned())
            );
            let mut said = String::new();
            // Hints are ours.
            let lines_of = run.stderr.lines();
            for line in lines_of.filter(|line| !line.starts_with("HINT: ")) {
                let (_, message) = line.split_once("] ").unwrap_or(("", line));
                said.push_str("<time> [<pid>] ");
                said.push_str(message);
                said.push('\n');
            }
            assert_eq!(said, lines, "{case}: {run}");
        }
    });
}
