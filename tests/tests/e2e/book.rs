//! The recipes of the book, and its page about a directory, followed step by step.
//! (`readme` follows the pages about clouds; that all other commands are at least taken is
//! tested where all tools are known, in `barman-cloud`.)

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use e2e::{Barman, Cluster, PgBin, Place, Recovery, S3Server, ShutDown, Workspace, wait_until};

use crate::readme::{Section, Stage, commands_work, primary};

/// Two directories to archive into.
fn stage(workspace: &Workspace) -> Stage<'_> {
    let place = |name: &str| workspace.dir(name).display().to_string();
    Stage {
        workspace,
        environment: Vec::new(),
        places: vec![
            ("/backups/pg", place("backups/pg")),
            ("/backups/new", place("backups/new")),
        ],
    }
}

/// A server that archives as the page about a directory says, and a backup.
fn server(bin: &PgBin, stage: &Stage<'_>) -> Cluster {
    let first_steps = Section::of_page("start-directory.md");
    let cluster = primary(bin, stage, &first_steps);
    let commands = first_steps.blocks("sh");
    let backup = commands
        .iter()
        .find(|line| line.starts_with("barman-cloud-backup "));
    stage.run(&cluster, backup.expect("a backup is taken"));
    cluster
}

/// Gives a restored server all settings of a page.
fn configure(cluster: &Cluster, stage: &Stage<'_>, page: &Section) {
    for line in page.blocks("ini") {
        let (name, _) = line.split_once(" = ").expect("a setting");
        cluster.configure(name, &stage.placed(&page.setting(name)));
    }
}

fn value_of(cluster: &Cluster, sql: &str) -> Option<String> {
    let session = e2e::Session::open(cluster.socket_dir(), "postgres", "postgres").ok()?;
    Some(session.try_rows(sql).ok()?[0][0].clone())
}

fn wait_for(cluster: &Cluster, sql: &str, wanted: &str) {
    wait_until(sql, || (value_of(cluster, sql)? == wanted).then_some(()));
}

const ROWS: &str = "SELECT count(*) FROM t";

#[test]
fn the_first_steps_with_a_directory() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let page = Section::of_page("start-directory.md");
    commands_work(&stage(&workspace), &bin, &page, 6, "restored");
}

#[test]
fn back_to_a_point_in_time() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let mut stage = stage(&workspace);
    let mut cluster = server(&bin, &stage);
    let time = cluster.session().value("SELECT clock_timestamp()");
    stage.places.push(("2026-11-21 12:00:00+00", time));
    cluster.session().run("DELETE FROM t");
    cluster.archive_everything();
    let page = Section::of_page("recipe-pitr.md");
    for line in page.blocks("sh") {
        stage.run(&cluster, &line);
    }
    cluster.stop(ShutDown::Immediate);
    let mut restored = Cluster::existing(&bin, &workspace, "pgdata/before-noon");
    configure(&restored, &stage, &page);
    restored.launch();
    wait_for(&restored, "SELECT pg_is_wal_replay_paused()", "t");
    assert_eq!(restored.session().value(ROWS), "1000");
    restored.session().run("SELECT pg_wal_replay_resume()");
    restored.wait_for_recovery();
    assert_eq!(restored.session().value(ROWS), "1000");
}

#[test]
fn a_standby_from_the_archive() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let stage = stage(&workspace);
    let cluster = server(&bin, &stage);
    let page = Section::of_page("recipe-standby.md");
    for line in page.blocks("sh") {
        stage.run(&cluster, &line);
    }
    let mut standby = Cluster::existing(&bin, &workspace, "pgdata/standby");
    configure(&standby, &stage, &page);
    standby.launch();
    wait_for(&standby, ROWS, "1000");
    cluster
        .session()
        .run("INSERT INTO t SELECT generate_series(1, 100)");
    cluster.archive_everything();
    wait_for(&standby, ROWS, "1100");
    let recovers = standby.session().value("SELECT pg_is_in_recovery()");
    assert_eq!(recovers, "t");
}

#[test]
fn moving_to_another_store() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let stage = stage(&workspace);
    let cluster = server(&bin, &stage);
    let page = Section::of_page("recipe-moving.md");
    let mut commands = page.blocks("sh").into_iter();
    let mut next = |wanted: &str| {
        let line = commands.next().expect(wanted);
        assert!(line.starts_with(wanted), "{line}");
        stage.run(&cluster, &line);
    };
    cluster.archive_everything();
    next("cp ");
    // Into the old place, after the first copy.
    cluster
        .session()
        .run("INSERT INTO t SELECT generate_series(1, 100)");
    cluster.archive_everything();
    let command = stage.placed(&page.setting("archive_command"));
    cluster.configure("archive_command", &command);
    cluster.session().run("SELECT pg_reload_conf()");
    cluster
        .session()
        .run("INSERT INTO t SELECT generate_series(1, 100)");
    cluster.archive_everything();
    next("cp ");
    next("barman-cloud-verify ");
    next("barman-cloud-backup ");
    next("barman-cloud-verify ");
    assert!(commands.next().is_none());
}

/// The page's own file, credentials by the profile that it names.
#[test]
fn the_place_of_a_server_in_a_file() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let mut environment = bucket.environment();
    let mut profile = "[backup]\n".to_owned();
    for (name, value) in environment.extract_if(.., |(name, _)| name.contains("KEY")) {
        profile += &format!("{} = {value}\n", name.to_lowercase());
    }
    let text = |name: &str| workspace.path(name).display().to_string();
    workspace.file("credentials", profile);
    environment.push(("AWS_SHARED_CREDENTIALS_FILE", text("credentials")));
    environment.push(("BARMAN_CLOUD_CONFIG", text("settings.toml")));
    workspace.dir("pgdata");
    let mut cluster = Cluster::create(&bin, &workspace, "primary", &["--wal-segsize=16"]);
    let stage = Stage {
        workspace: &workspace,
        environment,
        places: vec![
            ("s3://my-backups/pg", format!("{}/pg", bucket.url())),
            ("https://s3.example.org", bucket.endpoint().to_owned()),
            ("/etc/barman-cloud.toml", text("settings.toml")),
            (
                "/var/run/postgresql",
                cluster.socket_dir().display().to_string(),
            ),
            ("pg_wal/RECOVERYXLOG", text("fetched")),
        ],
    };
    let page = Section::of_page("configuration.md");
    let settings = page.blocks("toml").join("\n");
    workspace.file("settings.toml", stage.placed(&settings));

    let command = stage.placed(&page.setting("archive_command"));
    cluster.configure("min_wal_size", "32MB");
    cluster.archive_with(&command);
    cluster.set_environment(&stage.environment);
    cluster.start();
    let lines = page.blocks("sh");
    let [backup, restore, fetch, export, list] = lines.as_slice() else {
        panic!("{lines:?}")
    };
    stage.run(&cluster, backup);
    cluster.archive_everything();
    stage.run(&cluster, restore);
    stage.run(&cluster, fetch);
    assert!(workspace.path("pgdata/restored/PG_VERSION").exists());
    assert_eq!(
        fs::metadata(workspace.path("fetched")).unwrap().len(),
        16 << 20
    );
    let list = stage.placed(list);
    // The variables name the place and not how to get there, which the defaults do.
    let profile = "export BARMAN_CLOUD_AWS_PROFILE=backup";
    stage.run(&cluster, &format!("{export}; {profile}; {list} | grep 20"));
    let keys = bucket.keys("pg/main/");
    for (part, suffix) in [("/wals/", ".zst"), ("/base/", ".tar.lz4")] {
        let chosen = |key: &String| key.contains(part) && key.ends_with(suffix);
        assert!(keys.iter().any(chosen), "{keys:?}");
    }
}

/// Puts programs of these names where the server finds them, in place of those that are there.
fn install(workspace: &Workspace, program: impl Fn(&str) -> PathBuf) {
    let installed = workspace.dir("installed");
    for name in ["barman-cloud-wal-archive", "barman-cloud-wal-restore"] {
        let new = installed.join("new");
        symlink(program(name), &new).unwrap();
        fs::rename(new, installed.join(name)).unwrap();
    }
}

/// The server never hears of it.
#[test]
fn from_barmans_tools_and_back() {
    let (Some(bin), Some(barman)) = (PgBin::find(), Barman::find()) else {
        return;
    };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let place = Place::in_bucket(&workspace, &bucket, "pg");
    let page = Section::of_page("from-barman.md");
    let stage = Stage {
        workspace: &workspace,
        environment: place.environment().to_vec(),
        places: vec![("s3://my-backups/pg", place.url().to_owned())],
    };
    let theirs = |name: &str| {
        let tool = barman.tool(&workspace, name);
        let tool = tool.envs(place.environment().to_vec());
        tool.args(place.options())
    };
    let command = |name: &str, end: &str| {
        let program = workspace.path("installed").join(name);
        let options = place.options().join(" ");
        format!("{} {options} {} main {end}", program.display(), place.url())
    };

    // As it was.
    install(&workspace, |name| barman.program(name));
    let mut cluster = Cluster::create(&bin, &workspace, "primary", &["--wal-segsize=16"]);
    cluster.configure("min_wal_size", "32MB");
    cluster.archive_with(&command("barman-cloud-wal-archive", "%p"));
    cluster.set_environment(place.environment());
    cluster.start();
    let more = |rows: u32| {
        let rows = format!("SELECT generate_series(1, {rows}) AS i");
        cluster.session().run(&format!("INSERT INTO t {rows}"));
        cluster.archive_everything();
    };
    cluster.session().run("CREATE TABLE t (i int)");
    let backup = theirs("barman-cloud-backup").args(cluster.connection());
    let backup = backup.arg("--immediate-checkpoint");
    backup.args([place.url(), "main"]).succeed();
    more(1000);

    // There.
    install(&workspace, |name| workspace.bin(name));
    more(100);
    let failures = "SELECT failed_count FROM pg_stat_archiver";
    assert_eq!(cluster.session().value(failures), "0");
    let commands = page.blocks("sh");
    assert_eq!(commands.len(), 2, "{commands:?}");
    for line in &commands {
        stage.run(&cluster, line);
    }
    place.backup(&cluster, "postgres").succeed();
    more(10);

    // And back.
    install(&workspace, |name| barman.program(name));
    more(1);
    assert_eq!(cluster.session().value(failures), "0");
    cluster.stop(ShutDown::Immediate);
    let list = theirs("barman-cloud-backup-list").args([place.url(), "main"]);
    let list = list.run();
    assert!(
        list.code() == Some(0) && list.stdout.lines().count() == 3,
        "{list}"
    );
    let restore = theirs("barman-cloud-restore").args([place.url(), "main", "latest"]);
    restore.arg(workspace.path("restored")).succeed();
    let mut restored = Cluster::existing(&bin, &workspace, "restored");
    let fetch = command("barman-cloud-wal-restore", "%f %p");
    restored.recover_with(&fetch, &Recovery::Latest);
    restored.set_environment(place.environment());
    restored.start_and_recover();
    assert_eq!(restored.session().value(ROWS), "1111");
}
