//! A backup whose session, or whose server, goes away.

use e2e::{PgBin, Pooler, Row, S3Server, Section, ShutDown, Whim, Workspace, wait_until};
use rustix::process::{Pid, Signal, kill_process};

use super::scene::{FIRST_PART, Scene};

const LOST: &str = "Connection to the Postgres server was lost during the backup";

const ENDED: &str = "terminating connection due to administrator command";

const FAILED: &str = "exit 1; the backup is `FAILED` with the reason, no upload is open, the \
                      earlier backups are as they were and the next one works";

const BACKENDS: &str = "SELECT pid FROM pg_stat_activity \
                        WHERE application_name = 'barman_cloud_backup'";

fn backend(scene: &Scene<'_>) -> Pid {
    let pid = scene.cluster.session().value(BACKENDS);
    Pid::from_raw(pid.parse().unwrap()).unwrap()
}

fn end_session(scene: &mut Scene<'_>) {
    let query = format!("SELECT pg_terminate_backend(pid) FROM ({BACKENDS}) AS b");
    assert_eq!(scene.cluster.session().value(&query), "t");
}

#[test]
fn a_session_that_is_lost_at_each_stage() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let mut scene = Scene::new(&workspace, &bin, &bucket);
    scene.good();
    for (when, on) in [
        ("before backup mode", "^GET /.*list-type"),
        ("while `backup.info` is announced", "^PUT /.*backup.info"),
        ("while an upload is begun", "^POST /.*\\?uploads"),
        ("in the middle of the copy", FIRST_PART),
    ] {
        let mut row = Row::new(
            Section::Database,
            format!("`backup`: its session is ended {when}"),
            FAILED,
        );
        let before = scene.stored();
        let tool = scene.held(on, scene.backup());
        end_session(&mut scene);
        scene.proxy.release();
        let run = tool.wait();
        // The server's last words come first if it had an answer to give.
        let told = run.errors().concat();
        let why = if told.contains(LOST) { LOST } else { ENDED };
        scene.assert_failed(&run, why, &before);
        scene.assert_next_works();
        row.lived_through();
        row.finish();
    }

    // The stop waits for an archiver that is stuck.
    let mut row = Row::new(
        Section::Database,
        "`backup`: its session is ended while the stop waits for the archiver",
        FAILED,
    );
    let session = scene.cluster.session();
    let archive = session.value("SHOW archive_command").replace('\'', "''");
    session.run("ALTER SYSTEM SET archive_command = 'false'");
    session.run("SELECT pg_reload_conf()");
    let before = scene.stored();
    let tool = scene.backup().start();
    let stopping = format!(
        "SELECT count(*) FROM ({BACKENDS} AND query ~ 'pg_(backup_stop|stop_backup)') AS b"
    );
    wait_until("the stop", || {
        (session.value(&stopping) == "1").then_some(())
    });
    end_session(&mut scene);
    let run = tool.wait();
    scene.assert_failed(&run, ENDED, &before);
    session.run(&format!("ALTER SYSTEM SET archive_command = '{archive}'"));
    session.run("SELECT pg_reload_conf()");
    scene.assert_next_works();
    row.lived_through();
    row.finish();

    let mut row = Row::new(
        Section::Database,
        "`backup`: its session is ended after the stop, while an upload is completed",
        "exit 0: what is needed of the server is there; the backup is `DONE` and comes back",
    );
    let before = scene.listed().len();
    let tool = scene.held("^POST /.*uploadId=", scene.backup());
    end_session(&mut scene);
    scene.proxy.release();
    let run = tool.wait();
    assert_eq!(run.code(), Some(0), "{run}");
    assert_eq!(scene.listed().len(), before + 1);
    assert_eq!(scene.listed().values().last().unwrap(), "DONE");
    drop(session);
    scene.assert_comes_back();
    row.lived_through();
    row.finish();
}

type Trouble = fn(&mut Scene<'_>);

#[test]
fn a_server_that_goes_away_in_the_middle_of_a_copy() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let mut scene = Scene::new(&workspace, &bin, &bucket);
    scene.good();
    let troubles: [(&str, Trouble); 5] = [
        ("the server is restarted", |scene| {
            scene.cluster.stop(ShutDown::Fast);
            scene.cluster.start();
        }),
        ("the server is restarted as after a crash", |scene| {
            scene.cluster.stop(ShutDown::Immediate);
            scene.cluster.start();
        }),
        (
            "another backend is killed, and the server recovers",
            |scene| {
                let victim = scene.cluster.session();
                let pid = victim.value("SELECT pg_backend_pid()").parse().unwrap();
                kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
                wait_until("the sessions to be ended", || {
                    victim.try_rows("SELECT 1").is_err().then_some(())
                });
                wait_until("the end of recovery", || {
                    let session =
                        e2e::Session::open(scene.cluster.socket_dir(), "postgres", "postgres")
                            .ok()?;
                    session.try_rows("CHECKPOINT").ok()
                });
            },
        ),
        ("the server is shut down and stays down", |scene| {
            scene.cluster.stop(ShutDown::Fast);
        }),
        ("the postmaster is killed", |scene| {
            scene.cluster.stop(ShutDown::Kill);
        }),
    ];
    for (what, trouble) in troubles {
        let mut row = Row::new(
            Section::Database,
            format!("`backup`: {what} in the middle of the copy"),
            FAILED,
        );
        let before = scene.stored();
        let tool = scene.held(FIRST_PART, scene.backup());
        trouble(&mut scene);
        scene.proxy.release();
        scene.assert_failed(&tool.wait(), LOST, &before);
        if what.contains("another backend") {
            // After a crash the server waits a minute before it archives again.
            scene.cluster.stop(ShutDown::Immediate);
            scene.cluster.start();
        } else if what.contains("down") || what.contains("postmaster") {
            wait_until("the server's processes to end", || {
                scene.cluster.processes().is_empty().then_some(())
            });
            scene.cluster.start();
        }
        scene.assert_next_works();
        row.lived_through();
        row.finish();
    }
    scene.assert_comes_back();
}

#[test]
fn a_server_that_stops_answering() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let scene = Scene::new(&workspace, &bin, &bucket);
    scene.good();
    for (how, options, why) in [
        ("the tool is sent `SIGTERM`", &[][..], "interrupted"),
        (
            "`--stop-timeout` passes",
            &["--stop-timeout=1"],
            "the server did not end the backup within 1 seconds",
        ),
    ] {
        let mut row = Row::new(
            Section::Database,
            format!("`backup`: the backend of its session stops answering, and {how}"),
            "exit 1; the backup is `FAILED` with the reason, and no upload is open; the next one \
             works when the backend is gone",
        );
        let before = scene.stored();
        let tool = scene.held(FIRST_PART, scene.backup().args(options));
        let pid = backend(&scene);
        kill_process(pid, Signal::STOP).unwrap();
        scene.proxy.release();
        if options.is_empty() {
            tool.signal(Signal::TERM);
        }
        let run = tool.wait();
        kill_process(pid, Signal::CONT).unwrap();
        if options.is_empty() {
            assert_eq!(run.code(), Some(1), "{run}");
            let text = "Barman cloud backup was interrupted by the user";
            assert_eq!(run.errors(), [text]);
            assert_eq!(bucket.uploads(), [""; 0]);
            let failed = scene
                .listed()
                .into_values()
                .filter(|s| s == "FAILED")
                .count();
            assert_eq!(failed, 1, "{why}");
        } else {
            scene.assert_failed(&run, why, &before);
        }
        scene.assert_next_works();
        row.lived_through();
        row.finish();
    }
}

#[test]
fn a_pooler_that_goes_on_with_another_process() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let scene = Scene::new(&workspace, &bin, &bucket);
    scene.good();
    let stop = if bin.major() >= 15 {
        "pg_backup_stop"
    } else {
        "pg_stop_backup"
    };
    for (number, (when, at)) in [
        ("when backup mode begins", "pg_control_checkpoint"),
        ("in the middle of the copy", "SELECT 1\0"),
        ("at the stop itself", stop),
    ]
    .into_iter()
    .enumerate()
    {
        let mut row = Row::new(
            Section::Database,
            format!("`backup`: a connection pooler goes on with another server process {when}"),
            FAILED,
        );
        let before = scene.stored();
        let dir = workspace.dir(format!("pooler-{number}"));
        let pooler = Pooler::before(
            scene.cluster.socket_dir(),
            dir,
            workspace.owner(),
            (Whim::Another, at),
        );
        let host = format!("--host={}", pooler.dir().display());
        let run = scene.backup().arg(host).run();
        let why = if at == stop {
            "backup is not in progress"
        } else {
            "the server process changed during the backup"
        };
        scene.assert_failed(&run, why, &before);
        scene.assert_next_works();
        row.lived_through();
        row.finish();
    }
}

#[test]
fn a_server_that_is_silent_once_backup_mode_is_over() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let scene = Scene::new(&workspace, &bin, &bucket);
    scene.good();
    for (number, at) in ["pg_switch_wal", "pg_create_restore_point"]
        .into_iter()
        .enumerate()
    {
        let mut row = Row::new(
            Section::Database,
            format!("`backup`: the server is silent at `{at}`, and `--stop-timeout` passes"),
            FAILED,
        );
        let before = scene.stored();
        let dir = workspace.dir(format!("pooler-{number}"));
        let whim = (Whim::Silence, at);
        let pooler = Pooler::before(scene.cluster.socket_dir(), dir, workspace.owner(), whim);
        let host = format!("--host={}", pooler.dir().display());
        let run = scene.backup().arg(host).arg("--stop-timeout=1").run();
        let why = "the server did not end the backup within 1 seconds";
        scene.assert_failed(&run, why, &before);
        scene.assert_next_works();
        row.lived_through();
        row.finish();
    }
}
