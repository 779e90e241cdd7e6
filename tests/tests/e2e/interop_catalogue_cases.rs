//! Single cases in which the catalogue tools and those they are compatible with
//! have to see the same, or differ on purpose.

use std::collections::BTreeMap;
use std::fs;

use e2e::{Barman, S3Server, Tool, Workspace, golden};
use jiff::{SignedDuration, Timestamp};

/// A backup and its keep, as both sides see them through two spellings of a URL.
#[test]
fn a_keep_set_with_a_trailing_slash_is_seen_by_both_sides() {
    const NAME: &str = "barman-cloud-backup-keep";
    let workspace = Workspace::new();
    let Some(barman) = Barman::find() else { return };
    let Some(bucket) = S3Server::Moto.bucket(&workspace) else {
        return;
    };
    let info = fs::read_to_string(golden().join("backup-info/done-plain-parts.info")).unwrap();
    let id = "20261121T022213";
    let key = |folder: &str| format!("{folder}/main/base/{id}/backup.info");
    for folder in ["theirs", "ours"] {
        bucket.write(&key(folder), &info);
    }
    let keep = |ours: bool, folder: &str, slash: &str, option: &str| {
        let tool = if ours {
            workspace.tool(NAME)
        } else {
            barman.tool(&workspace, NAME)
        };
        let url = format!("{}/{folder}{slash}", bucket.url());
        let run = tool
            .envs(bucket.environment())
            .args([option, &url, "main", id])
            .run();
        assert_eq!(run.code(), Some(0), "{run}");
        run.stdout
    };
    let seen = |ours: bool, folder: &str| {
        ["", "/"].map(|slash| keep(ours, folder, slash, "--status").replace("Keep: ", ""))
    };

    // Theirs lies where only they, and only through the same URL, look for it.
    keep(false, "theirs", "/", "--target=full");
    assert_eq!(seen(false, "theirs"), ["nokeep\n", "full\n"]);
    assert_eq!(seen(true, "theirs"), ["full\n", "full\n"]);
    let url = format!("{}/theirs", bucket.url());
    let delete = workspace
        .tool("barman-cloud-backup-delete")
        .envs(bucket.environment())
        .args(["-b", id, &url, "main"])
        .run();
    assert_eq!(delete.code(), Some(1), "{delete}");
    assert!(bucket.keys("theirs/").contains(&key("theirs")), "{delete}");
    keep(true, "theirs", "", "--release");
    assert_eq!(seen(false, "theirs"), ["nokeep\n", "nokeep\n"]);

    // Ours is found by them through the URL that it was set with, and by us.
    keep(true, "ours", "/", "--target=standalone");
    assert_eq!(seen(false, "ours")[1], "standalone\n");
    assert_eq!(seen(true, "ours"), ["standalone\n", "standalone\n"]);
    keep(true, "ours", "", "--target=full");
    assert_eq!(seen(false, "ours"), ["full\n", "full\n"]);
    assert_eq!(seen(true, "ours"), ["full\n", "full\n"]);
}

/// The one case in which other keys are left on purpose (docs/decisions.md 31):
/// the reference does not ask whether a backup is running.
#[test]
fn wal_of_a_running_backup_is_left_by_ours_alone() {
    let workspace = Workspace::new();
    let Some(barman) = Barman::find() else { return };
    let Some(bucket) = S3Server::Moto.bucket(&workspace) else {
        return;
    };
    let now = Timestamp::now();
    let mut objects = BTreeMap::new();
    let mut ids = Vec::new();
    for (days, status, log) in [(4, "DONE", 1), (3, "STARTED", 2), (2, "DONE", 3)] {
        let begun = now - SignedDuration::from_hours(days * 24);
        let id = begun.strftime("%Y%m%dT%H%M%S").to_string();
        let begin = format!("00000001{log:08X}00000001");
        let time = begun.strftime("%Y-%m-%d %H:%M:%S+00:00");
        let info = format!(
            "begin_time={time}\nbegin_wal={begin}\nend_time={time}\nend_wal={begin}\n\
             status={status}\ntimeline=1\n"
        );
        objects.insert(format!("base/{id}/backup.info"), info);
        for segment in 0..3 {
            let folder = format!("00000001{log:08X}");
            objects.insert(format!("wals/{folder}/{folder}{segment:08X}"), "WAL".into());
        }
        ids.push(id);
    }
    let mut left = Vec::new();
    for folder in ["theirs", "ours"] {
        let prefix = format!("{folder}/main/");
        let copy = objects.iter();
        let copy = copy.map(|(key, content)| (format!("{prefix}{key}"), content.clone()));
        bucket.fill(&copy.collect());
        let name = "barman-cloud-backup-delete";
        let tool = if folder == "ours" {
            workspace.tool(name)
        } else {
            barman.tool(&workspace, name)
        };
        let url = format!("{}/{folder}", bucket.url());
        let run = tool
            .envs(bucket.environment())
            .args(["-b", &ids[0], &url, "main"])
            .run();
        assert_eq!(run.code(), Some(0), "{run}");
        let keys = bucket.keys(&format!("{prefix}wals/")).into_iter();
        let names = keys.map(|key| key[key.len() - 24..].to_owned());
        left.push(names.collect::<Vec<String>>());
    }
    let of_limit = ["000000010000000300000001", "000000010000000300000002"];
    assert_eq!(left[0], of_limit);
    let of_running = ["000000010000000200000001", "000000010000000200000002"];
    let all = [&of_running[..], &["000000010000000300000000"], &of_limit];
    assert_eq!(left[1], all.concat());
}

/// The `backup.info` files that the real tools wrote for us once.
fn recorded() -> Vec<String> {
    let mut infos = Vec::new();
    for entry in fs::read_dir(golden().join("backup-info")).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "info")
        {
            infos.push(fs::read_to_string(path).unwrap());
        }
    }
    infos
}

/// Lists backups with these `backup.info` files and shows each, with the tools of
/// both sides, for people and for programs.
pub(crate) fn both_print_the_same_of(infos: &[String]) {
    let workspace = Workspace::new();
    let Some(barman) = Barman::find() else { return };
    let Some(bucket) = S3Server::Moto.bucket(&workspace) else {
        return;
    };
    let id = |number: usize| format!("20261121T0000{number:02}");
    for (number, info) in infos.iter().enumerate() {
        bucket.write(&format!("main/base/{}/backup.info", id(number)), info);
    }
    let mut differences = Vec::new();
    let mut both = |name: &str, options: &[&str], backup: Option<&str>| {
        let run = |tool: Tool<'_>| {
            tool.envs(bucket.environment())
                .args(options)
                .args([&bucket.url(), "main"])
                .args(backup)
                .start()
        };
        let theirs = run(barman.tool(&workspace, name));
        let ours = run(workspace.tool(name)).wait();
        let theirs = theirs.wait();
        assert_eq!(theirs.code(), Some(0), "{theirs}");
        if ours.code() != Some(0) || ours.stdout != theirs.stdout {
            differences.push(format!("{theirs}\n{ours}"));
        }
    };
    both("barman-cloud-backup-list", &[], None);
    both("barman-cloud-backup-list", &["--format", "json"], None);
    for number in 0..infos.len() {
        both("barman-cloud-backup-show", &[], Some(&id(number)));
    }
    let last = id(infos.len() - 1);
    both("barman-cloud-backup-show", &["--format=json"], Some(&last));
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn both_sides_print_the_same_of_every_recorded_backup() {
    let infos = recorded();
    assert!(infos.len() >= 10, "{}", infos.len());
    both_print_the_same_of(&infos);
}

/// Older versions wrote less of a snapshot, and what is not known is not shown.
/// (Snapshots of other clouds: `snapshots_clouds`.)
#[test]
fn both_sides_print_the_same_of_snapshots_with_more_or_fewer_fields() {
    let infos = recorded();
    let of_aws = infos.iter().find(|info| info.contains("'provider': 'aws'"));
    let (before, after) = of_aws.unwrap().split_once("snapshots_info=").unwrap();
    let (snapshots, after) = after.split_once('\n').unwrap();
    let older = snapshots.replace(", 'snapshot_lock_mode': None", "");
    assert_ne!(older, snapshots);
    let with = |snapshots: &str| format!("{before}snapshots_info={snapshots}\n{after}");
    both_print_the_same_of(&[
        with(&older),
        with("{'provider': 'aws', 'snapshots': []}"),
        with(
            "{'provider': 'aws', 'provider_info': {'region': 'eu-1'}, 'snapshots': \
             [{'provider': {'snapshot_name': 'b', 'more': 1}}, {'mount': {'mount_point': \
             '/srv/größe'}, 'provider': {'snapshot_lock_mode': 'governance'}}]}",
        ),
    ]);
}
