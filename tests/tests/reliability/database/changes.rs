//! Tables, databases and tablespaces that come and go while they are copied.

use e2e::{PgBin, Row, S3Server, Section, Workspace};

use super::scene::{FIRST_PART, Scene};

#[test]
fn what_is_made_and_dropped_during_a_backup() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let mut row = Row::new(
        Section::Database,
        "`backup`: tables, a database and a tablespace are made, dropped, emptied, rewritten and \
         extended in the middle of the copy",
        "exit 0; after recovery every row is there, and every page is whole",
    );
    let scene = Scene::new(&workspace, &bin, &bucket);
    let session = scene.cluster.session();
    let cluster = &scene.cluster;
    // Archives are made in the order of these: the first fills the memory.
    cluster.make_tablespace(&workspace, "staying", "staying");
    session.run("CREATE TABLE s TABLESPACE staying AS SELECT i, repeat('x', 500) FROM generate_series(1, 60000) AS i");
    cluster.make_tablespace(&workspace, "going", "going");
    session.run("CREATE DATABASE going TABLESPACE going");
    session.run(
        "CREATE TABLE dropped AS SELECT * FROM t; CREATE TABLE emptied AS SELECT * FROM t; \
         CREATE TABLE cut AS SELECT * FROM t; CREATE INDEX ON t (i)",
    );
    session.run("CHECKPOINT");
    let tool = scene.held(FIRST_PART, scene.backup());
    session.run("DROP DATABASE going");
    session.run("DROP TABLESPACE going");
    session.run("DROP TABLE dropped");
    session.run("TRUNCATE emptied");
    session.run("DELETE FROM cut WHERE i > 100");
    session.run("VACUUM cut");
    session.run("UPDATE t SET repeat = repeat || 'x'");
    session.run("VACUUM FULL t");
    session.run("INSERT INTO t SELECT i, 'more' FROM generate_series(50001, 90000) AS i");
    cluster.make_tablespace(&workspace, "coming", "coming");
    session.run("CREATE DATABASE coming TABLESPACE coming");
    session.run("CREATE TABLE made TABLESPACE coming AS SELECT * FROM t");
    session.run("CHECKPOINT");
    scene.proxy.release();
    let run = tool.wait();
    assert_eq!(run.code(), Some(0), "{run}");
    drop(session);
    let elsewhere = ["staying", "going"].map(|name| {
        let place = workspace.path(format!("{name} restored"));
        format!("--tablespace={name}:{}", place.display())
    });
    scene.assert_comes_back_with(&elsewhere);
    row.lived_through();
    row.finish();
}
