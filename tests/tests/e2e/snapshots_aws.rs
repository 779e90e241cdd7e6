//! Base backups made of snapshots of disks, on EC2: one side takes them, the other one
//! restores, shows and deletes them.
//!
//! The disk is a file that is mounted, and is copied while it is frozen at the moment when
//! the service is asked for its snapshot; so what comes back is what a cloud would give.

use std::path::PathBuf;

use e2e::{
    Barman, Bucket, Cluster, Ec2, HttpServer, PgBin, Recovery, S3Server, ShutDown, Tool, Volume,
    Workspace, WriteLoad,
};
use serde_json::Value;

use crate::readme::Section;

/// Whose tools do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Ours,
    Theirs,
}

struct Scene<'w> {
    workspace: &'w Workspace,
    barman: Barman,
    bin: PgBin,
    bucket: Bucket<'w>,
    ec2: Ec2,
    /// Before the cluster on it: it is unmounted last.
    volume: Volume,
    /// The name of the instance, which no other test has.
    instance: String,
    disk: String,
}

impl<'w> Scene<'w> {
    fn new(workspace: &'w Workspace) -> Option<Self> {
        let (bin, barman) = (PgBin::find()?, Barman::find()?);
        let bucket = S3Server::Moto.bucket(workspace)?;
        let ec2 = Ec2::beside(&bucket)?;
        let volume = Volume::mount(workspace, "volume", 200, "noatime,_netdev")?;
        let instance = format!("pg-{}", bucket.name());
        let id = ec2.instance(&instance);
        let disk = ec2.volume(&id, &volume.device(), "pgdata", None);
        Some(Self {
            workspace,
            barman,
            bin,
            bucket,
            ec2,
            volume,
            instance,
            disk,
        })
    }

    fn primary(&self) -> Cluster {
        let mut primary = Cluster::create(&self.bin, self.workspace, "volume/primary", &[]);
        primary.archive_into(self.workspace, &self.bucket.url(), "main", "");
        primary.set_environment(&self.bucket.environment());
        primary.start();
        primary.make_tablespace(self.workspace, "fast", "volume/fast");
        primary
    }

    fn tool(&self, side: Side, name: &str) -> Tool<'w> {
        let name = format!("barman-cloud-{name}");
        let tool = match side {
            Side::Ours => self.workspace.tool(&name),
            Side::Theirs => self.barman.tool(self.workspace, &name),
        };
        tool.envs(self.bucket.environment())
    }

    /// A command of the README, the only one of this tool there, with these places in the
    /// stead of its own.
    fn documented(&self, side: Side, name: &str, places: &[(&str, &str)]) -> Tool<'w> {
        let commands = Section::of("## Use: snapshots of disks").blocks("sh");
        let begin = format!("barman-cloud-{name} ");
        let words = commands.iter().find_map(|line| line.strip_prefix(&begin));
        let words = words.expect("a command").split(' ');
        let placed = words.map(|word| {
            let place = places.iter().find(|(from, _)| *from == word);
            place.map_or(word, |(_, to)| to)
        });
        self.tool(side, name).args(placed)
    }

    fn show(&self, side: Side) -> Value {
        let shown = self
            .tool(side, "backup-show")
            .args(["--format=json", &self.bucket.url(), "main", "latest"])
            .run();
        assert_eq!(shown.code(), Some(0), "{shown}");
        serde_json::from_str(&shown.stdout).expect("it is JSON")
    }

    /// The keys of base backups without the server's part.
    fn keys(&self) -> Vec<String> {
        let keys = self.bucket.keys("main/base/").into_iter();
        keys.map(|key| key["main/base/".len()..].to_owned())
            .collect()
    }
}

fn comes_back(writer: Side, reader: Side) {
    let workspace = Workspace::new();
    let Some(mut scene) = Scene::new(&workspace) else {
        return;
    };
    let mut primary = scene.primary();
    let load = WriteLoad::start(&primary, &[("t", None), ("u", Some("fast"))]);
    let copy: PathBuf = workspace.path("copy.img");
    let (freeze, to) = (scene.volume.freezer(), copy.clone());
    let service = HttpServer::watched(scene.bucket.endpoint(), move |request| {
        let body = String::from_utf8_lossy(&request.body);
        if body.contains("Action=CreateSnapshot") {
            freeze(&to);
        }
        None
    });
    let url = scene.bucket.url();
    let places = [("pg-1", &*scene.instance), ("s3://bucket/path", &url)];
    scene
        .documented(writer, "backup", &places)
        .args(primary.connection())
        .env("AWS_ENDPOINT_URL_EC2", service.url())
        .args(["--immediate-checkpoint", "--name=of-a-disk"])
        .arg("--tag=team,a + b=c")
        .succeed();
    let session = primary.session();
    let digest = load.stop_behind_point(&session, "here");
    primary.archive_everything();
    drop(session);
    primary.stop(ShutDown::Immediate);

    let keys = scene.keys();
    let id = keys[0].split('/').next().unwrap().to_owned();
    assert_eq!(
        keys,
        [format!("{id}/backup.info"), format!("{id}/backup_label")]
    );
    let made = scene.ec2.snapshots(&scene.disk);
    let (snapshot, tags) = made.first_key_value().expect("one snapshot");
    assert_eq!(made.len(), 1);
    let name = format!("pgdata-{}", id.to_lowercase());
    assert_eq!((&*tags["Name"], &*tags["team"]), (&*name, "a + b=c"));
    let info = scene.bucket.read(&format!("main/base/{id}/backup.info"));
    let info = String::from_utf8(info).unwrap();
    let (device, options) = (scene.volume.device(), scene.volume.options());
    let expected = format!(
        "snapshots_info={{'provider': 'aws', 'provider_info': {{'account_id': '123456789012', \
         'region': 'us-east-1'}}, 'snapshots': [{{'mount': {{'mount_options': '{options}', \
         'mount_point': '{}'}}, 'provider': {{'device_name': '{device}', 'snapshot_id': \
         '{snapshot}', 'snapshot_name': '{name}', 'snapshot_lock_mode': None}}}}]}}",
        scene.volume.path().display()
    );
    for line in [
        &*expected,
        "status=DONE",
        "server_name=main",
        "backup_name=of-a-disk",
    ] {
        assert!(info.lines().any(|found| found == line), "{line}\n{info}");
    }
    assert_eq!(scene.show(Side::Ours), scene.show(Side::Theirs));
    let list = |side| {
        let list = scene.tool(side, "backup-list");
        let listed = list.args([&scene.bucket.url(), "main"]).run();
        assert_eq!(listed.code(), Some(0), "{listed}");
        listed.stdout
    };
    assert_eq!(list(Side::Ours), list(Side::Theirs));

    // Another instance gets a disk that is made of the snapshot.
    scene.volume.replace(copy);
    let other = format!("{}-new", scene.instance);
    let other_id = scene.ec2.instance(&other);
    let device = scene.volume.device();
    scene
        .ec2
        .volume(&other_id, &device, "recovered", Some(snapshot));
    let target = workspace.path("volume/primary");
    let restore = |instance: &str| {
        let target = target.display().to_string();
        let places = [
            ("pg-2", instance),
            ("s3://bucket/path", &url),
            ("/var/lib/pgsql/data", &target),
        ];
        scene.documented(reader, "restore", &places)
    };
    let wrong = restore(&scene.instance).run();
    assert_eq!(wrong.code(), Some(4), "{wrong}");
    assert!(!target.join("backup_label").exists());
    restore(&other).succeed();
    let mut restored = Cluster::existing(&scene.bin, &workspace, "volume/primary");
    let tool = workspace.bin("barman-cloud-wal-restore");
    let fetch = format!("{} {} main %f %p", tool.display(), scene.bucket.url());
    restored.recover_with(&fetch, &Recovery::Name("here"));
    restored.set_environment(&scene.bucket.environment());
    restored.start_and_recover();
    let session = restored.session();
    assert_eq!(session.digest(), digest);
    session.read_every_table();
    drop(session);
    restored.stop(ShutDown::Fast);
    restored.check_pages();

    scene
        .tool(reader, "backup-delete")
        .args(["--backup-id", &id, &scene.bucket.url(), "main"])
        .succeed();
    assert_eq!(scene.keys(), [""; 0]);
    assert!(scene.ec2.snapshots(&scene.disk).is_empty());
}

#[test]
fn we_restore_and_delete_what_we_took() {
    comes_back(Side::Ours, Side::Ours);
}

#[test]
fn they_restore_and_delete_what_we_took() {
    comes_back(Side::Ours, Side::Theirs);
}

#[test]
fn we_restore_and_delete_what_they_took() {
    comes_back(Side::Theirs, Side::Ours);
}

/// What is wrong is said before anything is written, as the reference says it.
#[test]
fn wrong_options_and_disks_are_told_before_anything_is_written() {
    let workspace = Workspace::new();
    let Some(scene) = Scene::new(&workspace) else {
        return;
    };
    let mut primary = scene.primary();
    let url = scene.bucket.url();
    let id = scene.ec2.instance(&format!("{}-other", scene.instance));
    scene.ec2.volume(&id, "/dev/sdz", "unmounted", None);
    for (options, text) in [
        (
            vec!["--snapshot-disk=pgdata"],
            "Incomplete options for snapshot backup - missing: snapshot_instance".to_owned(),
        ),
        (
            vec!["--snapshot-instance", &scene.instance],
            "Incomplete options for snapshot backup - missing: snapshot_disks".to_owned(),
        ),
        (
            vec!["--snapshot-instance=i-0", "--snapshot-disk=pgdata"],
            "Cannot find compute instance i-0".to_owned(),
        ),
        (
            vec![
                "--snapshot-instance",
                &scene.instance,
                "--snapshot-disk=data",
            ],
            format!(
                "Cannot find disks attached to compute instance {}: data",
                scene.instance
            ),
        ),
        (
            vec!["--snapshot-instance", &id, "--snapshot-disk=unmounted"],
            format!("Cannot find disks mounted on instance {id}: unmounted"),
        ),
    ] {
        let run = scene
            .tool(Side::Ours, "backup")
            .args(primary.connection())
            .args(options)
            .args([&url, "main"])
            .run();
        assert_eq!(run.code(), Some(4), "{run}");
        let errors = run.errors();
        assert!(
            errors.len() == 1 && errors[0].contains(&text),
            "{text}: {run}"
        );
    }
    // The data directory is on another disk than the one that was named.
    let away = Volume::mount(&workspace, "away", 20, "noatime").expect("the other one was");
    let instance = scene.ec2.instance(&format!("{}-third", scene.instance));
    scene.ec2.volume(&instance, &away.device(), "away", None);
    let run = scene
        .tool(Side::Ours, "backup")
        .args(primary.connection())
        .args(["--snapshot-disk=away", "--snapshot-instance", &instance])
        .args([&url, "main"])
        .run();
    assert_eq!(run.code(), Some(4), "{run}");
    assert!(
        run.errors()[0].contains("on no disk of this backup"),
        "{run}"
    );
    assert_eq!(scene.keys(), [""; 0]);
    primary.stop(ShutDown::Fast);
}
