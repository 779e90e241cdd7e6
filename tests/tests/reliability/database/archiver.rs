//! An archive command in the hands of a server that ends.

use e2e::{Fault, PgBin, Row, Rule, S3Server, Section, ShutDown, Workspace, wait_until};

use super::scene::Scene;

#[test]
fn a_server_that_ends_while_a_segment_is_archived() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let mut scene = Scene::new(&workspace, &bin, &bucket);
    scene.good();
    // The last variables of a name count.
    let through = bucket.environment_through(&scene.proxy);
    scene.cluster.stop(ShutDown::Fast);
    scene.cluster.set_environment(&through);
    scene.cluster.start();
    let mut rows = Vec::new();
    for (how, what) in [
        (ShutDown::Fast, "the server is shut down"),
        (ShutDown::Immediate, "the server is shut down as in a crash"),
        (ShutDown::Kill, "the postmaster is killed"),
    ] {
        for (fault, when) in [
            (Fault::Hold, "while a segment is sent"),
            (
                Fault::LostResponse,
                "after a segment was stored and before that is known",
            ),
        ] {
            let mut row = Row::new(
                Section::Database,
                format!("`wal-archive`: {what} {when}"),
                "the server archives the segment again when it is started; all that was committed \
                 comes back",
            );
            scene.proxy.clear();
            let before = scene.proxy.log().len();
            let held = if fault == Fault::LostResponse {
                scene.proxy.add(&Rule::new(&fault).on("^PUT /.*/wals/"));
                // To see whether it is what was sent.
                "^GET /.*/wals/"
            } else {
                "^PUT /.*/wals/"
            };
            scene.proxy.add(&Rule::new(&Fault::Hold).on(held));
            let session = scene.cluster.session();
            session.run("INSERT INTO t SELECT i, 'new' FROM generate_series(1, 100) AS i");
            session.run("SELECT pg_switch_wal()");
            drop(session);
            assert_eq!(scene.proxy.wait_for_held(before, || None::<()>), None);
            if how == ShutDown::Fast {
                // The server waits for its archiver, and the archiver for its command.
                let proxy = &scene.proxy;
                let cluster = &mut scene.cluster;
                std::thread::scope(|threads| {
                    let stop = threads.spawn(|| cluster.stop(how));
                    proxy.release();
                    stop.join().unwrap();
                });
            } else {
                scene.cluster.stop(how);
                scene.proxy.release();
            }
            wait_until("the server's processes to end", || {
                scene.cluster.processes().is_empty().then_some(())
            });
            scene.cluster.start();
            scene.cluster.archive_everything();
            row.lived_through();
            rows.push(row);
        }
    }
    // What one of them lost would be missing now.
    scene.assert_comes_back();
    rows.into_iter().for_each(Row::finish);
}
