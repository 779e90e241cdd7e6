//! The harness itself, against a server that archives with `cp`.

use e2e::{Cluster, PgBin, ShutDown, Workspace, WriteLoad};

#[test]
fn a_cluster_starts_takes_a_load_archives_and_stops() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let wal = workspace.dir("wal");
    let mut cluster = Cluster::create(&bin, &workspace, "primary", &[]);
    cluster.configure("archive_mode", "on");
    cluster.configure("archive_command", &format!("cp %p {}/%f", wal.display()));
    cluster.start();

    let load = WriteLoad::start(&cluster, &[("t", None)]);
    load.wait_for_commits(5);
    let (one, two) = load.held(|| (cluster.session().digest(), cluster.session().digest()));
    assert_eq!(one, two, "a held load writes nothing");
    load.wait_for_commits(1);
    assert_ne!(load.held(|| cluster.session().digest()), one);
    assert!(load.stop() >= 6);

    cluster.archive_everything();
    assert!(wal.read_dir().unwrap().count() > 0, "segments are archived");
    cluster.stop(ShutDown::Fast);
    cluster.check_pages();
}
