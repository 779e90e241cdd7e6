//! What is refused, and with what.

use super::*;

#[tokio::test]
async fn another_backup_of_the_same_id_is_never_touched() {
    for (other, kind) in [
        (
            RECORD.replace("systemid=77", "systemid=78"),
            OpErrorKind::NoRetry,
        ),
        (
            RECORD.replace("begin_xlog=0/4", "begin_xlog=0/5"),
            OpErrorKind::NoRetry,
        ),
        ("no record".into(), OpErrorKind::NoRetry),
    ] {
        let bench = Bench::new();
        bench
            .store
            .memory
            .insert(&format!("{DIR}backup.info"), other);
        bench
            .store
            .memory
            .insert(&format!("{DIR}data.tar"), "of the other");
        let before = bench.contents();
        let text = refused(bench.relay(&request()).await, kind);
        assert!(text.contains("another backup is stored as"), "{text}");
        assert_eq!(bench.contents(), before);
    }
    // Barman changes a record later on; it is the same backup all the same.
    let bench = Bench::new();
    let since = RECORD.replace("children_backup_ids=None", "children_backup_ids=x");
    bench
        .store
        .memory
        .insert(&format!("{DIR}backup.info"), since);
    bench.relay(&request()).await.expect("relayed");
    assert_eq!(bench.contents()[&format!("{DIR}backup.info")], RECORD);
}

#[tokio::test]
async fn a_backup_that_could_not_be_restored_is_refused_before_anything_is_sent() {
    let field = |name: &str, value: &str| {
        let old = RECORD
            .lines()
            .find(|line| line.starts_with(&format!("{name}=")));
        let new = format!("{name}={value}");
        match old {
            Some(old) => RECORD.replace(old, &new),
            None => format!("{RECORD}{new}\n"),
        }
    };
    let snapshots = "{'provider': 'aws', 'provider_info': {}, 'snapshots': []}";
    for (record, kind, part) in [
        (
            field("compression", "gzip"),
            OpErrorKind::General,
            "Compressed backups",
        ),
        (
            field("encryption", "gpg"),
            OpErrorKind::NoRetry,
            "Encrypted backups",
        ),
        (
            field("snapshots_info", snapshots),
            OpErrorKind::NoRetry,
            "Snapshot backups",
        ),
        (
            field("parent_backup_id", "1"),
            OpErrorKind::NoRetry,
            "Incremental backups",
        ),
        (
            field("version", "None"),
            OpErrorKind::NoRetry,
            "which version",
        ),
        (
            field("version", "x"),
            OpErrorKind::General,
            "could not read",
        ),
        (
            field("status", "WAITING_FOR_WALS"),
            OpErrorKind::NoRetry,
            "'WAITING_FOR_WALS'",
        ),
        (
            field("systemid", "1"),
            OpErrorKind::NoRetry,
            "of the cluster",
        ),
        (
            field("begin_xlog", "0/5000028"),
            OpErrorKind::NoRetry,
            "backup_label says",
        ),
    ] {
        let bench = Bench::new();
        bench.record(|_| record);
        let text = refused(bench.relay(&request()).await, kind);
        assert!(text.contains(part), "{part}: {text}");
        assert_eq!(bench.store.calls(), [], "{part}");
    }
    let deletions: [(&str, OpErrorKind); 5] = [
        ("16384", OpErrorKind::Failed),
        ("data", OpErrorKind::Failed),
        ("data/global/pg_control", OpErrorKind::Failed),
        ("data/backup_label", OpErrorKind::Failed),
        ("backup.info", OpErrorKind::General),
    ];
    for (name, kind) in deletions {
        let bench = Bench::new();
        fs::rename(bench.path(name), bench.path("away")).expect("renamed");
        let text = refused(bench.relay(&request()).await, kind);
        assert!(text.contains(name), "{name}: {text}");
        assert_eq!(bench.store.calls(), [], "{name}");
    }
    let bench = Bench::new();
    let named = RelayRequest {
        name: Some("n".into()),
        ..request()
    };
    refused(bench.relay(&named).await, OpErrorKind::General);
}
