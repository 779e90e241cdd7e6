//! Base backups that one side writes and the other restores: ours and the tools
//! that ours are compatible with, on one server.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::{
    Azurite, Barman, Cluster, PgBin, Place, Recovery, Remote, S3Server, ShutDown, Tool, Tree,
    Workspace, WriteLoad,
};

/// Whose tools do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Ours,
    Theirs,
}

/// Everything that an exchange needs.
struct Exchange<'w> {
    bin: PgBin,
    barman: Barman,
    workspace: &'w Workspace,
    objects: Box<dyn Remote + 'w>,
    place: Place<'w>,
}

/// Where things are exchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ground {
    S3(S3Server),
    Azure,
}

const CEPH: Ground = Ground::S3(S3Server::CephPlain);

impl<'w> Exchange<'w> {
    fn on(ground: Ground, workspace: &'w Workspace) -> Option<Self> {
        let bin = PgBin::find()?;
        let barman = Barman::find()?;
        let path = "a path/backups";
        let objects: Box<dyn Remote + 'w>;
        let place = match ground {
            Ground::S3(server) => {
                let bucket = server.bucket(workspace)?;
                let place = Place::in_bucket(workspace, &bucket, path);
                objects = Box::new(bucket);
                place
            }
            Ground::Azure => {
                let container = Azurite::Plain.container(workspace)?;
                let place = Place::in_container(workspace, &container, path);
                objects = Box::new(container);
                place
            }
        };
        Some(Self {
            bin,
            barman,
            workspace,
            objects,
            place,
        })
    }

    fn program(&self, side: Side, name: &str) -> PathBuf {
        match side {
            Side::Ours => self.workspace.bin(name),
            Side::Theirs => self.barman.program(name),
        }
    }

    fn tool(&self, side: Side, name: &str) -> Tool<'w> {
        let environment = self.place.environment().to_vec();
        match side {
            Side::Ours => self.place.tool(name),
            Side::Theirs => {
                let tool = self.barman.tool(self.workspace, name).envs(environment);
                tool.args(self.place.options())
            }
        }
    }

    /// The command in a server's settings: `%f %p` or `%p` at its end.
    fn command(&self, side: Side, name: &str, options: &str, end: &str) -> String {
        let program = self.program(side, name);
        let (url, place) = (self.place.url(), self.place.options().join(" "));
        format!("{} {place} {options} '{url}' main {end}", program.display())
    }

    /// A running primary with two tablespaces that archives by the tool of `side`.
    fn primary(&self, side: Side, wal_options: &str) -> Cluster {
        // One or two segments in all: the other side's tool is slow to start.
        let large = ["--wal-segsize=16"];
        let mut primary = Cluster::create(&self.bin, self.workspace, "primary", &large);
        primary.configure("min_wal_size", "32MB");
        let archive = self.command(side, "barman-cloud-wal-archive", wal_options, "%p");
        primary.archive_with(&archive);
        primary.set_environment(self.place.environment());
        primary.start();
        primary.make_tablespace(self.workspace, "fast", "fast");
        primary.make_tablespace(self.workspace, "with blank", "blank");
        primary
    }

    /// A backup of `primary` by the tool of `side`, about to be taken.
    fn backup(&self, side: Side, primary: &Cluster) -> Tool<'w> {
        let tool = self.tool(side, "barman-cloud-backup");
        tool.args(primary.connection())
            .arg("--immediate-checkpoint")
    }

    /// The newest backup, restored into folder `name` by the tool of `side`; its
    /// tablespaces go beside it.
    fn restore(&self, side: Side, name: &str) {
        let moved = |tablespace: &str| {
            let to = self.workspace.path(format!("{name}-{tablespace}"));
            format!("{tablespace}:{}", to.display())
        };
        self.tool(side, "barman-cloud-restore")
            .args(["--tablespace", &moved("fast")])
            .args(["--tablespace", &moved("with blank")])
            .args([self.place.url(), "main", "latest"])
            .arg(self.workspace.path(name))
            .succeed();
    }

    /// The keys of the archives of the only backup.
    fn archives(&self) -> Vec<String> {
        let keys = self.objects.keys("a path/backups/main/base/");
        let is_archive = |key: &String| key.contains(".tar");
        keys.into_iter().filter(is_archive).collect()
    }
}

const TABLES: [(&str, Option<&str>); 3] = [
    ("plain", None),
    ("in_fast", Some("fast")),
    ("in_blank", Some("with blank")),
];

/// What `writer` made of a primary under load leads `reader` to exactly the rows
/// of a named point. `options` are the backup's, a codec or nothing first.
fn comes_back(ground: Ground, writer: Side, reader: Side, options: &str, wal_codec: &str) {
    let workspace = Workspace::new();
    let Some(exchange) = Exchange::on(ground, &workspace) else {
        return;
    };
    let mut primary = exchange.primary(writer, wal_codec);
    let load = WriteLoad::start(&primary, &TABLES);
    // So small that PGDATA makes several archives even when it is compressed.
    let limit = if options.is_empty() { "8MB" } else { "1MB" };
    exchange
        .backup(writer, &primary)
        .args(options.split_whitespace())
        .args(["--max-archive-size", limit, "--name", "exchanged"])
        .args([exchange.place.url(), "main"])
        .succeed();
    let session = primary.session();
    let digest = load.stop_behind_point(&session, "here");
    primary.archive_everything();
    drop(session);
    primary.stop(ShutDown::Immediate);
    let archives = exchange.archives();
    let of_pgdata = archives.iter().filter(|key| key.contains("/data"));
    assert!(of_pgdata.count() >= 2, "one archive only: {archives:?}");
    assert!(exchange.objects.uploads().is_empty(), "an upload is open");

    exchange.restore(reader, "restored");
    let mut restored = Cluster::existing(&exchange.bin, &workspace, "restored");
    let fetch = exchange.command(reader, "barman-cloud-wal-restore", "", "%f %p");
    restored.recover_with(&fetch, &Recovery::Name("here"));
    restored.set_environment(exchange.place.environment());
    restored.start_and_recover();
    let session = restored.session();
    assert_eq!(session.digest(), digest);
    session.read_every_table();
    drop(session);
    restored.stop(ShutDown::Fast);
    restored.check_pages();
}

macro_rules! every_codec {
    ($($name:ident $ground:expr, $codec:literal $wal_codec:literal)*) => { $(
        mod $name {
            use super::*;

            #[test]
            fn they_restore_what_we_wrote() {
                comes_back($ground, Side::Ours, Side::Theirs, $codec, $wal_codec);
            }

            #[test]
            fn we_restore_what_they_wrote() {
                comes_back($ground, Side::Theirs, Side::Ours, $codec, $wal_codec);
            }
        }
    )* };
}

every_codec! {
    plain CEPH, "" ""
    gzip CEPH, "--gzip" "--gzip"
    bzip2 CEPH, "--bzip2" "--xz"
    snappy CEPH, "--snappy" "--zstd"
    lz4 CEPH, "--lz4" "--lz4"
    azure Ground::Azure, "" ""
    azure_gzip Ground::Azure, "--gzip" "--gzip"
}

/// Whose directories come in another archive than what is in them.
#[test]
fn both_restore_archives_that_were_made_at_the_same_time() {
    for reader in [Side::Theirs, Side::Ours] {
        let options = "--lz4 --parallel-archives 3";
        comes_back(CEPH, Side::Ours, reader, options, "");
    }
}

/// They cannot read these yet, so an independent decoder and the system's tar
/// say whether each archive is one frame and holds what our restore makes of it.
#[test]
fn zstd_archives_are_one_frame_each_and_hold_what_our_restore_restores() {
    let workspace = Workspace::new();
    let Some(exchange) = Exchange::on(CEPH, &workspace) else {
        return;
    };
    let mut primary = exchange.primary(Side::Ours, "--zstd");
    let session = primary.session();
    for (table, tablespace) in TABLES {
        let place = tablespace.map_or(String::new(), |name| format!("TABLESPACE \"{name}\""));
        session.run(&format!(
            "CREATE TABLE {table} {place} AS SELECT generate_series(1, 9000)"
        ));
    }
    drop(session);
    exchange
        .backup(Side::Ours, &primary)
        .args([
            "--zstd",
            "--max-archive-size",
            "1MB",
            exchange.place.url(),
            "main",
        ])
        .succeed();
    primary.stop(ShutDown::Immediate);

    let mut roots = BTreeMap::new();
    let archives = exchange.archives();
    for key in &archives {
        let name = key.rsplit('/').next().unwrap();
        let (compressed, plain) = (workspace.path("archive.zst"), workspace.path("archive"));
        fs::write(&compressed, exchange.objects.read(key)).unwrap();
        exchange.barman.decode("zstd", &compressed, &plain);
        let source = name.split(['.', '_']).next().unwrap().to_owned();
        let root = workspace.dir(format!("untarred-{source}"));
        untar(&plain, &root);
        roots.insert(source, root);
    }
    assert_eq!(roots.len(), 3, "PGDATA and two tablespaces: {archives:?}");
    assert!(archives.len() > 3, "PGDATA has several archives");

    exchange.restore(Side::Ours, "restored");
    let restored = workspace.path("restored");
    for (source, root) in &roots {
        let link = restored.join("pg_tblspc").join(source);
        let ours = if source == "data" { &restored } else { &link };
        // The links in it are made at the restore and are in no archive.
        let in_archive =
            |tree: Tree| tree.without(|name| name.parent() == Some("pg_tblspc".as_ref()));
        let (theirs, ours) = (Tree::of(root), Tree::of(&ours.canonicalize().unwrap()));
        in_archive(theirs).assert_same(&in_archive(ours), source);
    }
}

fn untar(archive: &Path, root: &Path) {
    let output = Command::new("tar")
        .args(["--extract", "--preserve-permissions", "--file"])
        .arg(archive)
        .arg("--directory")
        .arg(root)
        .output()
        .expect("tar can be started");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// What lists our bucket is theirs, and sees a backup like any other; tags are
/// where they put them.
#[test]
fn they_list_and_show_our_backup_and_find_the_same_keys_and_tags() {
    // Ceph loses the tags of multipart uploads.
    catalogue_is_the_same(Ground::S3(S3Server::Moto));
}

#[test]
fn they_list_and_show_our_backup_on_azure_and_find_the_same_keys_and_tags() {
    catalogue_is_the_same(Ground::Azure);
}

fn catalogue_is_the_same(ground: Ground) {
    let workspace = Workspace::new();
    let Some(exchange) = Exchange::on(ground, &workspace) else {
        return;
    };
    let tags = ["--tags", "env,test", "owner,a b"];
    let primary = exchange.primary(Side::Ours, "--tags env,wal --");
    let mut seen = Vec::new();
    for (side, server) in [(Side::Ours, "main"), (Side::Theirs, "other")] {
        exchange
            .backup(side, &primary)
            .args(["--gzip", "--name", "tagged"])
            .args(tags)
            .args(["--", exchange.place.url(), server])
            .succeed();
        let prefix = format!("a path/backups/{server}/base/");
        let objects: BTreeMap<String, BTreeMap<String, String>> = exchange
            .objects
            .keys(&prefix)
            .into_iter()
            .map(|key| {
                // Without the identifier, which is the time.
                let name = key[prefix.len()..].split_once('/').unwrap().1.to_owned();
                let tags = exchange.objects.tags(&key);
                (name, tags)
            })
            .collect();
        seen.push(objects);
    }
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[0]["backup.info"]["owner"], "a b");
    primary.archive_everything();
    let wal = exchange.objects.keys("a path/backups/main/wals/");
    assert_eq!(exchange.objects.tags(&wal[0])["env"], "wal");

    let list = exchange
        .tool(Side::Theirs, "barman-cloud-backup-list")
        .args(["--format", "json", exchange.place.url(), "main"])
        .run();
    assert_eq!(list.code(), Some(0), "{list}");
    let listed: serde_json::Value = serde_json::from_str(&list.stdout).unwrap();
    let backups = listed["backups_list"].as_array().unwrap();
    assert_eq!(backups.len(), 1, "{list}");
    assert_eq!(backups[0]["status"], "DONE", "{list}");
    assert_eq!(backups[0]["backup_name"], "tagged", "{list}");
    let show = exchange
        .tool(Side::Theirs, "barman-cloud-backup-show")
        .args([exchange.place.url(), "main", "tagged"])
        .run();
    assert_eq!(show.code(), Some(0), "{show}");
    assert!(show.stdout.contains("DONE"), "{show}");
}

/// What one side keeps the other sees as kept, and deletes when it is released.
#[test]
fn keeps_and_deletions_are_understood_both_ways_on_azure() {
    let workspace = Workspace::new();
    let Some(exchange) = Exchange::on(Ground::Azure, &workspace) else {
        return;
    };
    let primary = exchange.primary(Side::Ours, "");
    let run = |side, tool: &str, options: &[&str], rest: &[&str]| {
        let tool = exchange.tool(side, &format!("barman-cloud-{tool}"));
        let run = tool
            .args(options)
            .args([exchange.place.url(), "main"])
            .args(rest)
            .run();
        assert_eq!(run.code(), Some(0), "{side:?}: {run}");
        run
    };
    let sides = [(Side::Ours, Side::Theirs), (Side::Theirs, Side::Ours)];
    for (keeper, other) in sides {
        exchange
            .backup(keeper, &primary)
            .args(["--name", "kept", exchange.place.url(), "main"])
            .succeed();
        let base = || exchange.objects.keys("a path/backups/main/base/");
        run(keeper, "backup-keep", &[], &["kept", "--target=full"]);
        let status = run(other, "backup-keep", &[], &["kept", "--status"]);
        assert_eq!(status.stdout.trim(), "Keep: full");
        let kept = base();
        // Would go if it were not kept.
        let policy = ["--retention-policy=REDUNDANCY 1"];
        run(other, "backup-delete", &policy, &[]);
        assert_eq!(base(), kept);
        run(other, "backup-keep", &[], &["kept", "--release"]);
        let status = run(keeper, "backup-keep", &[], &["kept", "--status"]);
        assert_eq!(status.stdout.trim(), "Keep: nokeep");
        run(other, "backup-delete", &["-b", "kept"], &[]);
        assert_eq!(base(), [""; 0]);
    }
}
