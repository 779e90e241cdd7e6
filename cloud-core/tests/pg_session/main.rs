//! Sessions with a real PostgreSQL: what a table of strings cannot show.

mod cluster;
mod tls;

use std::time::Duration;

use cloud_core::pg::{PgError, Session};

use cluster::Cluster;

fn message<T>(result: Result<T, PgError>) -> String {
    match result {
        Ok(_) => "no error".into(),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn a_session_has_the_tool_s_name_unless_the_user_gives_one() {
    let Some(mut cluster) = Cluster::create() else {
        return;
    };
    cluster.start(&[]).await;
    let admin = cluster.admin().await;
    let names = "SELECT application_name FROM pg_stat_activity WHERE backend_type = 'client \
                 backend' AND pid != pg_backend_pid() AND application_name != ''";
    for (more, vars, expected) in [
        ("", None, "barman_cloud_backup"),
        ("fallback_application_name=x", None, "barman_cloud_backup"),
        ("application_name=mine", None, "mine"),
        ("", Some(("PGAPPNAME", "theirs")), "theirs"),
    ] {
        admin.wait_for(names, &[]).await;
        let vars: Vec<_> = vars.into_iter().collect();
        let text = cluster.usual(more);
        let session = cluster.connect_with(&text, &vars).await.unwrap();
        assert!(session.version() >= 90_600 && !session.version_text().is_empty());
        assert_eq!(admin.values(names).await, [expected]);
    }
}

/// The stop of a backup waits for the archiver. A time limit that an
/// application's role has does not end it, one that the user asks for does.
#[tokio::test]
async fn only_a_time_limit_of_the_user_ends_a_long_wait() {
    let Some(mut cluster) = Cluster::create() else {
        return;
    };
    cluster.start(&["archive_mode=on".into()]).await;
    let admin = cluster.admin().await;
    admin
        .run("ALTER ROLE postgres SET statement_timeout = '1s'")
        .await;

    let limit = "options='-c deadlock_timeout=9s -c statement_timeout=1s'";
    let session = cluster.connect(limit).await.unwrap();
    assert!(session.facts().await.unwrap().archives_nowhere());
    session.start_backup("x", true).await.unwrap();
    let words = message(session.stop_backup().await);
    assert!(words.contains("due to statement timeout"), "{words}");
    drop(session);

    let session = cluster.connect("options='-c deadlock_timeout=9s'").await;
    let session = session.unwrap();
    session.start_backup("x", true).await.unwrap();
    let archive = async {
        let waits = "SELECT true FROM pg_stat_activity WHERE application_name = \
                     'barman_cloud_backup' AND query LIKE '%stop%' \
                     AND clock_timestamp() - query_start > interval '1500 ms'";
        admin.wait_for(waits, &["t"]).await;
        admin.run("ALTER SYSTEM SET archive_command = 'true'").await;
        admin.run("SELECT pg_reload_conf()").await;
    };
    let mut stop = std::pin::pin!(session.stop_backup());
    tokio::select! {
        stop = &mut stop => panic!("it did not wait: {stop:?}"),
        () = archive => {}
    }
    assert!(stop.await.unwrap().label_file.contains("LABEL: x\n"));
    let again = cluster.connect("").await.unwrap().facts().await.unwrap();
    assert!(!again.archives_nowhere());
}

#[tokio::test]
async fn passwords_come_from_the_password_file_and_wrong_ones_are_refused_in_libpq_s_words() {
    let Some(mut cluster) = Cluster::create() else {
        return;
    };
    cluster.start(&[]).await;
    let admin = cluster.admin().await;
    admin.run("CREATE ROLE u LOGIN PASSWORD 's:e\\cret'").await;
    let port = cluster.port();
    let pgpass = format!("# note\nlocalhost:{port}:postgres:u:s\\:e\\\\cret\n");
    std::fs::write(cluster.dir().join(".pgpass"), pgpass).unwrap();
    let hidden = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(cluster.dir().join(".pgpass"), hidden).unwrap();

    let by_file = "host=localhost hostaddr=127.0.0.1 user=u";
    cluster.connect_tcp(by_file).await.unwrap();
    let vars = [("PGHOST", "127.0.0.1"), ("PGPASSWORD", "s:e\\cret")];
    let text = format!("postgresql://u@:{port}/postgres");
    cluster.connect_with(&text, &vars).await.unwrap();

    for (text, words) in [
        (
            "host=localhost hostaddr=127.0.0.1 user=u password=wrong",
            format!(
                "connection to server at \"localhost\" (127.0.0.1), port {port} failed: FATAL:  \
                 password authentication failed for user \"u\""
            ),
        ),
        (
            "host=127.0.0.1 user=u",
            format!(
                "connection to server at \"127.0.0.1\", port {port} failed: fe_sendauth: no \
                 password supplied"
            ),
        ),
        (
            "host=127.0.0.1 user=u password=wrong sslmode=require",
            format!(
                "connection to server at \"127.0.0.1\", port {port} failed: server does not \
                 support SSL, but SSL was required"
            ),
        ),
    ] {
        assert_eq!(message(cluster.connect_tcp(text).await), words, "{text}");
    }
    let dir = cluster.dir().display();
    let unknown = message(cluster.connect("dbname=nope").await);
    assert_eq!(
        unknown,
        format!(
            "connection to server on socket \"{dir}/.s.PGSQL.{port}\" failed: FATAL:  database \
             \"nope\" does not exist"
        )
    );
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_and_the_next_one_is_tried() {
    let Some(mut cluster) = Cluster::create() else {
        return;
    };
    cluster.start(&[]).await;
    let dir = cluster.dir().display();
    let port = cluster.port();
    assert_eq!(
        message(
            cluster
                .connect_with("host=/nowhere port=9 user=u", &[])
                .await
        ),
        "connection to server on socket \"/nowhere/.s.PGSQL.9\" failed: No such file or directory"
    );
    let free = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let nobody = free.local_addr().unwrap().port();
    drop(free);
    assert_eq!(
        message(
            cluster
                .connect_with(&format!("host=127.0.0.1 port={nobody} user=u"), &[])
                .await
        ),
        format!("connection to server at \"127.0.0.1\", port {nobody} failed: Connection refused")
    );
    let unknown = message(
        cluster
            .connect_with("host=no-such-host.invalid user=u", &[])
            .await,
    );
    let start = "could not translate host name \"no-such-host.invalid\" to address: ";
    assert!(unknown.starts_with(start), "{unknown}");

    let both = format!("host=127.0.0.1,{dir} port={nobody},{port} user=postgres dbname=postgres");
    cluster.connect_with(&both, &[]).await.unwrap();
    // A refusal ends the search: the next server would let the role in.
    let refused = format!("host=127.0.0.1,{dir} port={port} user=postgres password=x");
    let words = message(cluster.connect_with(&refused, &[]).await);
    assert!(words.contains("password authentication failed"), "{words}");
}

#[tokio::test]
async fn the_owner_of_a_socket_can_be_demanded() {
    let Some(mut cluster) = Cluster::create() else {
        return;
    };
    cluster.start(&[]).await;
    let owner = std::fs::metadata(cluster.dir()).unwrap();
    let owner = nix::unistd::Uid::from_raw(std::os::unix::fs::MetadataExt::uid(&owner));
    let owner = nix::unistd::User::from_uid(owner).unwrap().unwrap().name;
    cluster
        .connect(&format!("requirepeer={owner}"))
        .await
        .unwrap();
    let other = message(cluster.connect("requirepeer=somebody").await);
    let end =
        format!("requirepeer specifies \"somebody\", but actual peer user name is \"{owner}\"");
    assert!(other.ends_with(&end), "{other}");
}

/// The stop must belong to the start, and both must say what `backup.info`
/// needs.
async fn take_backup(session: &Session) -> String {
    let start = session.start_backup("it's a \\ label", true).await.unwrap();
    let stop = session.stop_backup().await.unwrap();
    assert!(start.lsn < stop.lsn, "{start:?} {stop:?}");
    assert_eq!(start.timeline, stop.timeline);
    assert!(start.time.instant <= stop.time.instant);
    let line = format!("START WAL LOCATION: {} (file ", start.lsn);
    assert!(stop.label_file.starts_with(&line), "{}", stop.label_file);
    assert!(stop.label_file.contains("LABEL: it's a \\ label\n"));
    stop.label_file
}

#[tokio::test]
async fn a_backup_is_started_and_stopped_on_a_primary() {
    let Some(mut cluster) = Cluster::create() else {
        return;
    };
    cluster.start(&[]).await;
    let zone = [("PGTZ", "Asia/Kathmandu")];
    let session = cluster.connect_with(&cluster.usual(""), &zone).await;
    let session = session.unwrap();
    let facts = session.facts().await.unwrap();
    assert!(!facts.in_recovery && facts.tablespaces.is_empty());
    assert_eq!(facts.wal_segment_size, 16 << 20);
    assert_eq!(facts.data_checksums.as_deref(), Some("off"));
    assert_eq!(facts.archive_mode.as_deref(), Some("off"));
    let pgdata = cluster.dir().join("data").display().to_string();
    assert_eq!(facts.data_directory, Some(pgdata.clone()));
    assert_eq!(facts.config_file, Some(format!("{pgdata}/postgresql.conf")));
    assert!(facts.cluster_size.is_some_and(|size| size > 1 << 20));
    assert!(
        facts
            .system_identifier
            .is_some_and(|id| id.parse::<u64>().is_ok())
    );

    let start = session.start_backup("x", true).await.unwrap();
    assert_eq!(start.time.offset.seconds(), 5 * 3600 + 45 * 60);
    session.stop_backup().await.unwrap();

    let label = take_backup(&session).await;
    assert!(label.contains("BACKUP FROM: primary\n"), "{label}");
    assert!(session.finish_on_primary("barman_x'y").await.unwrap());
    // Nothing was begun in this one.
    let other = cluster.connect("").await.unwrap();
    let words = message(other.stop_backup().await);
    assert!(words.contains("backup is not in progress"), "{words}");
}

#[tokio::test]
async fn a_backup_is_started_and_stopped_on_a_standby() {
    let Some(mut primary) = Cluster::create() else {
        return;
    };
    primary.start(&[]).await;
    let mut standby = Cluster::standby_of(&primary);
    standby.start(&[]).await;
    let session = standby.connect("").await.unwrap();
    assert!(session.facts().await.unwrap().in_recovery);
    // Something to replay, so that the restart point moves.
    let admin = primary.admin().await;
    admin
        .run("CREATE TABLE t AS SELECT generate_series(1, 1000) AS i")
        .await;
    admin.run("CHECKPOINT").await;
    admin.run("INSERT INTO t SELECT i FROM t").await;
    let sent = admin.values("SELECT pg_current_wal_lsn()").await.remove(0);
    let replayed = standby.admin().await;
    let has = format!("SELECT pg_last_wal_replay_lsn() >= '{sent}'");
    replayed.wait_for(&has, &["t"]).await;
    let label = take_backup(&session).await;
    assert!(label.contains("BACKUP FROM: standby\n"), "{label}");
    assert!(!session.finish_on_primary("barman_x").await.unwrap());

    let (one, two) = (primary.dir().display(), standby.dir().display());
    let ports = format!("{},{}", primary.port(), standby.port());
    for (attrs, in_recovery) in [
        ("any", false),
        ("primary", false),
        ("read-write", false),
        ("standby", true),
        ("read-only", true),
        ("prefer-standby", true),
    ] {
        let text = format!(
            "host={one},{two} port={ports} user=postgres dbname=postgres \
             target_session_attrs={attrs}"
        );
        let session = primary.connect_with(&text, &[]).await.unwrap();
        let facts = session.facts().await.unwrap();
        assert_eq!(facts.in_recovery, in_recovery, "{attrs}");
    }
    let words = message(primary.connect("target_session_attrs=standby").await);
    assert!(
        words.ends_with("failed: server is not in hot standby mode"),
        "{words}"
    );
    primary
        .connect("target_session_attrs=prefer-standby")
        .await
        .unwrap();
}

#[tokio::test]
async fn a_role_needs_only_the_grants_of_the_manual_and_missing_ones_are_named() {
    let Some(mut cluster) = Cluster::create() else {
        return;
    };
    cluster.start(&[]).await;
    let admin = cluster.admin().await;
    admin.run("CREATE ROLE barman LOGIN").await;
    let session = cluster.connect("user=barman").await.unwrap();
    let words = message(session.check_privileges().await);
    let new = session.version() >= 150_000;
    let (start, stop) = if new {
        ("pg_backup_start(text,bool)", "pg_backup_stop(bool)")
    } else {
        (
            "pg_start_backup(text,bool,bool)",
            "pg_stop_backup(bool,bool)",
        )
    };
    assert_eq!(
        words,
        format!(
            "missing required privileges: membership in pg_monitor, EXECUTE on {start}, EXECUTE \
             on {stop}, EXECUTE on pg_switch_wal(), EXECUTE on pg_create_restore_point(text)"
        )
    );
    // Refused, and the session is as good as before.
    let words = message(session.start_backup("x", true).await);
    assert!(words.contains("permission denied"), "{words}");
    for function in [
        start,
        stop,
        "pg_switch_wal()",
        "pg_create_restore_point(text)",
    ] {
        assert!(session.check_privileges().await.is_err());
        admin
            .run(&format!("GRANT EXECUTE ON FUNCTION {function} TO barman"))
            .await;
    }
    admin.run("GRANT pg_monitor TO barman").await;
    session.check_privileges().await.unwrap();
    assert!(session.facts().await.unwrap().data_directory.is_some());
    take_backup(&session).await;
    assert!(session.finish_on_primary("barman_x").await.unwrap());
}

#[tokio::test]
async fn a_connection_that_is_cut_is_noticed_at_once() {
    let Some(mut cluster) = Cluster::create() else {
        return;
    };
    cluster.start(&[]).await;
    let admin = cluster.admin().await;
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = \
               'barman_cloud_backup'";
    let lost = "Connection to the Postgres server was lost during the backup.";

    let session = cluster.connect("").await.unwrap();
    assert_eq!(admin.values(cut).await, ["t"]);
    session.closed().await;
    assert_eq!(message(session.stop_backup().await), lost);

    for interval in [None, Some(Duration::from_millis(1))] {
        let session = cluster.connect("").await.unwrap();
        let (error, ()) = tokio::join!(session.keep_alive(interval), admin.run(cut));
        assert_eq!(error.to_string(), lost, "{interval:?}");
    }
}

/// Names are shared by all databases, and one of SQL_ASCII takes any bytes.
#[tokio::test]
async fn a_name_that_is_not_utf_8_is_an_error_and_not_another_name() {
    let Some(mut cluster) = Cluster::create() else {
        return;
    };
    cluster.start(&[]).await;
    let admin = cluster.admin().await;
    admin
        .run("CREATE DATABASE ascii TEMPLATE template0 ENCODING SQL_ASCII LC_COLLATE 'C' LC_CTYPE 'C'")
        .await;
    admin.run("SET allow_in_place_tablespaces = on").await;
    admin.run("CREATE TABLESPACE odd LOCATION ''").await;
    let session = cluster.connect("").await.unwrap();
    let tablespaces = session.facts().await.unwrap().tablespaces;
    assert_eq!(
        (tablespaces.len(), tablespaces[0].name.as_str()),
        (1, "odd")
    );
    assert!(tablespaces[0].location.starts_with("pg_tblspc/"));
    let rename = "DO $$ BEGIN EXECUTE 'ALTER TABLESPACE odd RENAME TO \"' || E'a\\xe9' || '\"'; \
                  END $$";
    cluster.admin_of("ascii").await.run(rename).await;
    let words = message(session.facts().await);
    assert!(
        words.contains("tablespaces") && words.contains("not valid UTF-8"),
        "{words}"
    );
}
