//! A server that is upgraded and goes on in the same place: its identifier is another
//! one from then on, and its WAL cannot be told from a stranger's.

use e2e::{
    Cluster, PgBin, Place, Recovery, Row, Section, ShutDown, Workspace, WriteLoad,
    of_sample_or_whole,
};

/// The text by which the tools tell of another cluster.
const OTHER: &str = "is of another cluster";

/// The warnings of `check-wal-archive` for a server that is to begin a new timeline.
fn told_by_check(place: &Place<'_>) -> Vec<String> {
    let check = place.tool("barman-cloud-check-wal-archive");
    let run = check.args(["--timeline=9", place.url(), "main"]).run();
    assert_eq!(run.code(), Some(0), "{run}");
    run.messages("WARNING")
}

/// Takes a backup called `name` under load; gives what it says of another cluster.
fn back_up(place: &Place<'_>, cluster: &Cluster, name: &str) -> Vec<String> {
    let load = WriteLoad::start(cluster, &[("t", None)]);
    let backup = place.backup(cluster, "postgres");
    let run = backup.args(["--gzip", "--name", name]).run();
    assert_eq!(run.code(), Some(0), "{run}");
    load.wait_for_commits(3);
    load.stop();
    let mut told = run.messages("WARNING");
    told.retain(|text| text.contains(OTHER));
    told
}

/// Restores the backup called `name` and recovers to the end of the archive; gives the
/// digest of its rows.
fn digest_of(
    place: &Place<'_>,
    bin: &PgBin,
    workspace: &Workspace,
    name: &str,
    to: &str,
) -> String {
    place
        .tool("barman-cloud-restore")
        .args([place.url(), "main", name])
        .arg(workspace.path(to))
        .succeed();
    let mut restored = Cluster::existing(bin, workspace, to);
    restored.recover(workspace, place.url(), "main", &Recovery::Latest);
    restored.start_and_recover();
    let digest = restored.session().digest();
    restored.stop(ShutDown::Fast);
    digest
}

fn system_of(cluster: &Cluster) -> String {
    let sql = "SELECT system_identifier FROM pg_control_system()";
    cluster.session().value(sql)
}

/// A server as new as 15.20 (15.18 is not) notes something with each column that the
/// pinned version 17.10, which is older than that, cannot take over. Users would have to
/// take a newer 17; there is none that the tests could install.
fn forget_versions_of_columns(cluster: &Cluster) {
    cluster.session().run(
        "SET allow_system_table_mods = on; \
         UPDATE pg_attribute SET attoptions = NULL WHERE attoptions::text LIKE '%pg_attver%'",
    );
}

#[test]
fn a_server_goes_on_in_the_same_place_after_pg_upgrade() {
    let (Some(old_bin), Some(new_bin)) = (PgBin::find(), PgBin::whole_17()) else {
        return;
    };
    let mut row = Row::new(
        Section::Database,
        "`pg_upgrade`, and the server goes on in the same place",
        "its WAL is archived beside the old one's; the first backup, and `check-wal-archive` \
         before it, say that there is another cluster; each backup comes back with its own \
         version, row by row, before and after those of the old cluster are deleted",
    );
    for _ in 0..of_sample_or_whole(1, 3) {
        let workspace = Workspace::new();
        let place = Place::in_directory(&workspace);
        let mut old = place.primary(&old_bin, "--gzip");
        old.start();
        assert_eq!(back_up(&place, &old, "before"), [""; 0]);
        let (old_system, old_digest) = (system_of(&old), old.session().digest());
        old.archive_everything();
        assert_eq!(told_by_check(&place), [""; 0]);
        forget_versions_of_columns(&old);
        old.stop(ShutDown::Fast);

        let mut new = old.upgraded(&new_bin, &workspace, "upgraded");
        new.archive_into(&workspace, place.url(), "main", "--gzip");
        new.start();
        assert_ne!(system_of(&new), old_system);
        assert_eq!(new.session().digest(), old_digest);
        new.archive_everything();
        let told = told_by_check(&place);
        assert!(told.len() == 1 && told[0].contains(OTHER), "{told:?}");
        let told = back_up(&place, &new, "after");
        assert!(told.len() == 1 && told[0].contains(&old_system), "{told:?}");
        assert_eq!(told_by_check(&place), [""; 0]);
        assert_eq!(back_up(&place, &new, "again"), [""; 0]);
        let new_digest = new.session().digest();
        assert_ne!(new_digest, old_digest);
        new.archive_everything();
        new.stop(ShutDown::Immediate);

        for (name, bin, expected) in [
            ("before", &old_bin, &old_digest),
            ("after", &new_bin, &new_digest),
            ("again", &new_bin, &new_digest),
        ] {
            let digest = digest_of(&place, bin, &workspace, name, name);
            assert_eq!(digest, *expected, "{name}");
        }
        let delete = place.tool("barman-cloud-backup-delete");
        delete
            .args(["--retention-policy=REDUNDANCY 1", place.url(), "main"])
            .succeed();
        let digest = digest_of(&place, &new_bin, &workspace, "again", "left");
        assert_eq!(digest, new_digest);
        row.lived_through();
    }
    row.finish();
}
