//! Every version of PostgreSQL that is supported, each in tests of its own name.
//!
//! What differs: recovery is asked for in `recovery.conf` before 12, the functions
//! that begin and end a backup have other names and arguments before 15, and
//! before 11 every WAL segment has 16 MiB.

use std::fs;

use e2e::{PgBin, Place, Recovery, S3Server, ShutDown, Workspace, WriteLoad, wait_until};

/// A backup that was taken while the tables were written to, and the WAL after
/// it, are good and lead to exactly the rows of a named point.
pub(crate) fn a_primary_under_load_comes_back(bin: &PgBin, place: &Place<'_>) {
    let mut primary = place.primary(bin, "--gzip");
    primary.start();
    let load = WriteLoad::start(&primary, &[("t", None)]);
    place.backup(&primary, "postgres").arg("--gzip").succeed();
    load.wait_for_commits(3);
    let session = primary.session();
    let digest = load.stop_behind_point(&session, "here");
    primary.archive_everything();
    drop(session);
    primary.stop(ShutDown::Immediate);
    let proof = place.prove("latest", &["--wal"]);
    assert!(proof.is_good(), "{}", proof.run);

    let mut restored = place.restored(bin, "restored", &Recovery::Name("here"));
    restored.start_and_recover();
    let session = restored.session();
    assert_eq!(session.digest(), digest);
    session.read_every_table();
}

/// A role with the documented privileges is enough, on a primary and on a
/// standby; one with fewer is refused before anything is written.
fn a_standby_is_backed_up_with_the_least_privileges(bin: &PgBin, workspace: &Workspace) {
    let place = Place::in_directory(workspace);
    let mut primary = place.primary(bin, "");
    primary.start();
    primary.create_backup_role("keeper");
    let session = primary.session();
    session.run(
        "CREATE ROLE nobody_special LOGIN; \
         CREATE TABLE t AS SELECT generate_series(1, 20000) AS i",
    );
    let refused = place.backup(&primary, "nobody_special").run();
    assert_eq!(refused.code(), Some(1), "{refused}");
    assert!(
        refused.errors()[0].contains("missing required privileges: "),
        "{refused}"
    );
    assert!(
        !workspace.path("bucket/main/base").exists(),
        "nothing was written"
    );
    place.backup(&primary, "keeper").succeed();

    let mut standby = place.restored(bin, "standby", &Recovery::Standby);
    standby.start();
    session.run("INSERT INTO t SELECT generate_series(20001, 30000)");
    primary.archive_everything();
    wait_until("the standby to catch up", || {
        (standby.session().value("SELECT count(*) FROM t") == "30000").then_some(())
    });
    // Not silent if its id would be that of the primary's backup and it has to
    // wait for the next second.
    let taken = place.backup(&standby, "keeper").run();
    assert_eq!(taken.code(), Some(0), "{taken}");
    let digest = session.digest();
    primary.archive_everything();
    let proof = place.prove("latest", &["--wal"]);
    assert!(proof.is_good(), "{}", proof.run);
    drop(session);
    primary.stop(ShutDown::Immediate);
    standby.stop(ShutDown::Immediate);

    let mut again = place.restored(bin, "again", &Recovery::Latest);
    let label = fs::read_to_string(workspace.path("again/backup_label")).unwrap();
    assert!(label.contains("BACKUP FROM: standby"), "{label}");
    again.start_and_recover();
    assert_eq!(again.session().digest(), digest);
}

macro_rules! every_version {
    ($($name:ident $major:literal)*) => { $(
        mod $name {
            use super::*;

            #[test]
            fn a_primary_under_load_comes_back_from_a_directory() {
                let Some(bin) = PgBin::of_version($major) else { return };
                let workspace = Workspace::new();
                let place = Place::in_directory(&workspace);
                a_primary_under_load_comes_back(&bin, &place);
            }

            #[test]
            fn a_primary_under_load_comes_back_from_s3() {
                let Some(bin) = PgBin::of_version($major) else { return };
                let workspace = Workspace::new();
                let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else { return };
                let place = Place::in_bucket(&workspace, &bucket, "backups");
                a_primary_under_load_comes_back(&bin, &place);
                assert_eq!(bucket.uploads(), [""; 0], "an upload was left open");
            }

            #[test]
            fn a_standby_is_backed_up_with_the_least_privileges() {
                let Some(bin) = PgBin::of_version($major) else { return };
                super::a_standby_is_backed_up_with_the_least_privileges(&bin, &Workspace::new());
            }
        }
    )* };
}

every_version! {
    postgresql_10 10
    postgresql_11 11
    postgresql_12 12
    postgresql_13 13
    postgresql_14 14
    postgresql_15 15
    postgresql_16 16
    postgresql_17 17
    postgresql_18 18
}
