//! Restores that somebody comes in the way of.

use e2e::{Fault, FaultProxy, Row, Rule, S3Server, Section, Workspace};

use super::shelf::{IDS, Shelf, Where};

#[test]
fn a_backup_is_deleted_under_its_restore() {
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let proxy = FaultProxy::start(bucket.endpoint());
    for (name, cut, which) in [
        ("first", false, "data"),
        ("last", false, "16384"),
        ("body", true, "data"),
    ] {
        let what = match name {
            "first" => "its backup is deleted before the first archive is read",
            "last" => "its backup is deleted before the last archive is read",
            _ => "the connection is lost in the middle of an archive, and the backup is deleted",
        };
        let mut row = Row::new(
            Section::Together,
            format!("`restore`: {what}"),
            "the tool fails and names the archive; there is no `pg_control`, so PostgreSQL does not \
             start",
        );
        let shelf = Shelf::new(&workspace, Where::Bucket(&bucket, name), Some(&proxy));
        proxy.clear();
        let before = proxy.log().len();
        let get = format!("^GET /[^?]*{}/{which}\\.tar", IDS[0]);
        if cut {
            proxy.add(&Rule::new(&Fault::Truncate(20_000)).on(&get));
        }
        proxy.add(&Rule::new(&Fault::Hold).on(&get));
        let restore = shelf.restore(IDS[0], name).start();
        assert_eq!(proxy.wait_for_held(before, || None::<()>), None);
        shelf.delete(&["-b", IDS[0]]).succeed();
        proxy.release();
        let run = restore.wait();
        assert!(matches!(run.code(), Some(1 | 4)), "{run}");
        let errors = run.errors();
        assert!(
            errors.len() == 1 && errors[0].contains(&format!("{which}.tar")),
            "{run}"
        );
        let target = workspace.path(name);
        assert!(target.exists());
        assert!(!target.join("global/pg_control").exists());
        assert!(!target.join("backup_label").exists());
        row.lived_through();
        row.finish();
    }
}

#[test]
fn two_restores_into_one_directory() {
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let proxy = FaultProxy::start(bucket.endpoint());
    let mut row = Row::new(
        Section::Together,
        "`restore`: another backup is restored into the same directory while an archive of the \
         first waits",
        "the second is refused, the first ends with 0 and is whole",
    );
    let shelf = Shelf::new(&workspace, Where::Bucket(&bucket, "twice"), Some(&proxy));
    for which in ["data", "16384"] {
        proxy.clear();
        let before = proxy.log().len();
        let get = format!("^GET /[^?]*{}/{which}\\.tar", IDS[0]);
        proxy.add(&Rule::new(&Fault::Hold).on(&get));
        let name = format!("twice-{which}");
        let first = shelf.restore(IDS[0], &name).start();
        assert_eq!(proxy.wait_for_held(before, || None::<()>), None);
        let second = shelf.restore(IDS[1], &name).run();
        assert_eq!(second.code(), Some(1), "{second}");
        let errors = second.errors();
        let clear = |text: &str| {
            text.contains("another restore is writing to") || text.contains("it is not empty")
        };
        assert!(errors.len() == 1 && clear(&errors[0]), "{second}");
        proxy.release();
        let first = first.wait();
        assert_eq!(first.code(), Some(0), "{first}");
        shelf.assert_restored(&name);
        row.lived_through();
    }
    row.finish();
}
