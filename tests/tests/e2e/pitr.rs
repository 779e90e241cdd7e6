//! The promise of the whole: a cluster under load comes back as it was at a
//! named point and at a time, whatever the codec.

use std::path::Path;

use e2e::{Cluster, PgBin, Recovery, ShutDown, Workspace, WriteLoad};

/// Base codec, WAL codec, and whether the parts are so small that archives are
/// uploaded in many of them.
const RUNS: [(&str, &str, bool); 7] = [
    ("", "", true),
    ("--gzip", "--gzip", false),
    ("--bzip2", "--bzip2", true),
    ("--snappy", "--snappy", false),
    ("--lz4", "--lz4", true),
    ("--zstd", "--zstd", false),
    ("", "--xz --compression-level low", false),
];

/// How many archives of PGDATA there are of the newest backup.
fn data_archives(bucket: &Path, name: &str) -> usize {
    let backups = std::fs::read_dir(bucket.join("main/base")).unwrap();
    let directory = backups
        .map(|entry| entry.unwrap().path())
        .find(|path| {
            let info = std::fs::read_to_string(path.join("backup.info")).unwrap();
            info.contains(&format!("\nbackup_name={name}\n")) && info.contains("\nstatus=DONE\n")
        })
        .unwrap();
    let names = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    names
        .filter(|name| name.to_string_lossy().starts_with("data"))
        .count()
}

/// What must be there at a point in time.
struct Point {
    recovery: (&'static str, String),
    digest: String,
}

#[test]
fn a_cluster_comes_back_as_it_was_at_a_name_and_at_a_time_with_every_codec() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let bucket = workspace.dir("bucket");
    let url = workspace.url("bucket");
    let mut primary = Cluster::create(&bin, &workspace, "primary", &[]);
    primary.archive_into(&workspace, &url, "main", "");
    primary.start();
    primary.make_tablespace(&workspace, "fast", "fast");
    primary.make_tablespace(&workspace, "a:b", "colon");
    let tables = [
        ("plain", None),
        ("in_fast", Some("fast")),
        ("in_colon", Some("a:b")),
    ];
    let load = WriteLoad::start(&primary, &tables);
    let session = primary.session();

    let mut points: Vec<(String, [Point; 2])> = Vec::new();
    for (number, (base, wal, small)) in RUNS.into_iter().enumerate() {
        let tool = workspace.bin("barman-cloud-wal-archive");
        let command = format!("{} {wal} {url} main %p", tool.display());
        session.run(&format!("ALTER SYSTEM SET archive_command = '{command}'"));
        session.run("SELECT pg_reload_conf()");
        let name = format!("backup-{number}");
        let mut backup = workspace
            .tool("barman-cloud-backup")
            .args(primary.connection());
        backup = backup.args(["--immediate-checkpoint", "-S", "200KB", "-n", &name]);
        if !base.is_empty() {
            backup = backup.arg(base);
        }
        if small {
            backup = backup.args(["--memory-limit", "300KB", "--jobs", "4"]);
        }
        backup.args([url.as_str(), "main"]).succeed();
        assert!(
            data_archives(&bucket, &name) >= 5,
            "{name}: PGDATA fits less than five archives"
        );

        load.wait_for_commits(3);
        let point = format!("point-{number}");
        let named = load.held(|| {
            session.run(&format!("SELECT pg_create_restore_point('{point}')"));
            Point {
                recovery: ("name", point),
                digest: session.digest(),
            }
        });
        load.wait_for_commits(3);
        let timed = load.held(|| {
            let time = session.value("SELECT clock_timestamp()");
            Point {
                recovery: ("time", time),
                digest: session.digest(),
            }
        });
        load.wait_for_commits(3);
        assert_ne!(named.digest, timed.digest);
        points.push((name, [named, timed]));
    }
    load.stop();
    primary.archive_everything();
    drop(session);
    primary.stop(ShutDown::Immediate);

    for (name, points) in points {
        for Point {
            recovery: (kind, value),
            digest,
        } in points
        {
            let place = format!("{name}-{kind}");
            let moved = |tablespace: &str, to: &str| {
                format!(
                    "--tablespace={tablespace}:{}",
                    workspace.path(format!("{place}-{to}")).display()
                )
            };
            workspace
                .tool("barman-cloud-restore")
                .args([moved("fast", "fast"), moved("a:b", "colon")])
                .args([url.as_str(), "main", &name])
                .arg(workspace.path(&place))
                .succeed();
            let mut restored = Cluster::existing(&bin, &workspace, &place);
            let until = match kind {
                "name" => Recovery::Name(&value),
                _ => Recovery::Time(&value),
            };
            restored.recover(&workspace, &url, "main", &until);
            restored.start_and_recover();
            assert_eq!(restored.session().digest(), digest, "{place}");
            restored.stop(ShutDown::Fast);
            restored.check_pages();
        }
    }
}
