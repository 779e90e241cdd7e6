//! Deleting backups that consist of snapshots.

use super::*;
use crate::catalogue::literal::Literal;
use crate::snapshot::fake::{FakeEc2, Fault as CloudFault};

const ID: &str = "20261103T000000";
const LABEL: &str = "p/main/base/20261103T000000/backup_label";

/// The backups, of which one consists of two snapshots.
fn with_snapshots(snapshots: &str) -> MemoryStore {
    let store = filled();
    for archive in ARCHIVES {
        store.remove(&format!("{}/{archive}", dir(ID)));
    }
    let of_it = BACKUPS.iter().find(|backup| backup.0 == ID).unwrap();
    let mut info = BackupInfo::parse(record(of_it).as_bytes(), &TimeZone::UTC).unwrap();
    let text = format!(
        "{{'provider': 'aws', 'provider_info': {{'account_id': '1', 'region': 'us-east-1'}}, \
         'snapshots': [{snapshots}]}}"
    );
    info.snapshots_info = Some(Literal::parse(&text).unwrap());
    store.insert(&format!("{}/backup.info", dir(ID)), info.to_text());
    store.insert(LABEL, "label");
    store
}

const TWO: &str = "{'provider': {'snapshot_id': 'snap-1', 'snapshot_name': 'a'}}, \
                   {'provider': {'snapshot_id': 'snap-2'}}";

fn ec2() -> FakeEc2 {
    let ec2 = FakeEc2::default();
    ec2.put("snap-1", Some("pgdata-20261103t000000"), false);
    ec2.put("snap-2", Some("wal-20261103T000000"), false);
    ec2.put("snap-3", Some("pgdata-20261104t000000"), false);
    ec2
}

fn request(ec2: &FakeEc2) -> DeleteRequest {
    DeleteRequest {
        clouds: ec2.clouds(),
        ..by_id(ID)
    }
}

fn ids(ec2: &FakeEc2) -> Vec<String> {
    ec2.snapshots().into_keys().collect()
}

#[tokio::test(start_paused = true)]
async fn the_snapshots_of_a_backup_go_with_it() {
    for (gone, label) in [(false, true), (false, false), (true, true)] {
        let (store, ec2) = (with_snapshots(TWO), FakeEc2::default());
        if !label {
            store.remove(LABEL);
        }
        if !gone {
            ec2.put("snap-1", Some("pgdata-20261103t000000"), false);
            ec2.put("snap-2", Some("wal-20261103T000000"), false);
        }
        delete(store.clone(), &request(&ec2)).await.unwrap();
        assert_eq!(ids(&ec2), [""; 0]);
        let contents = store.contents();
        let of_it = contents.keys().filter(|key| key.contains(ID));
        let of_it: Vec<_> = of_it.cloned().collect();
        assert_eq!(of_it, [format!("{}/notes.txt", dir(ID))]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_of_another_name_is_refused_before_anything_is_changed() {
    for (snapshots, named) in [
        (
            "{'provider': {'snapshot_id': 'snap-1'}}, {'provider': {'snapshot_id': 'snap-3'}}",
            "snap-3",
        ),
        ("{'provider': {'snapshot_id': 'snap-4'}}", "snap-4"),
        (
            "{'provider': {'snapshot_name': 'pgdata-20261104t000000'}}",
            "snap-3",
        ),
        ("{}", "without a name"),
    ] {
        let (store, ec2) = (with_snapshots(snapshots), ec2());
        ec2.put("snap-4", None, false);
        let before = (store.contents(), ids(&ec2));
        let error = delete(store.clone(), &request(&ec2)).await.unwrap_err();
        assert_eq!(error.kind, OpErrorKind::General);
        let text = format!(
            "Refusing to delete snapshot {named}: it is not recognized as a snapshot created for \
             backup {ID}"
        );
        assert_eq!(error.message, text);
        assert_eq!((store.contents(), ids(&ec2)), before);
    }
}

#[tokio::test(start_paused = true)]
async fn of_a_backup_whose_first_snapshot_is_locked_everything_stays() {
    let (store, ec2) = (with_snapshots(TWO), ec2());
    ec2.put("snap-1", Some("pgdata-20261103t000000"), true);
    let before = (store.contents(), ids(&ec2));
    let error = delete(store.clone(), &request(&ec2)).await.unwrap_err();
    assert_eq!(error.kind, OpErrorKind::Failed);
    assert!(
        error
            .message
            .contains("snap-1: DeleteSnapshot: SnapshotLocked"),
        "{error}"
    );
    assert_eq!((store.contents(), ids(&ec2)), before);
}

#[tokio::test(start_paused = true)]
async fn snapshots_that_were_perhaps_made_are_found_by_their_name() {
    let planned = "{'provider': {'snapshot_id': None, 'snapshot_name': 'pgdata-20261103t000000'}}";
    let (store, ec2) = (with_snapshots(planned), ec2());
    delete(store, &request(&ec2)).await.unwrap();
    assert_eq!(ids(&ec2), ["snap-2", "snap-3"]);
}

/// Filters of EC2 know wildcards, and names are tags, which repeat.
#[tokio::test(start_paused = true)]
async fn a_name_means_itself_alone_and_one_disk() {
    let named = |name: &str| format!("{{'provider': {{'snapshot_name': '{name}'}}}}");
    let (store, ec2) = (with_snapshots(&named("*-20261103T000000")), ec2());
    delete(store, &request(&ec2)).await.unwrap();
    assert_eq!(ids(&ec2), ["snap-1", "snap-2", "snap-3"]);
    ec2.put("snap-5", Some("a*\\?-20261103T000000"), false);
    let store = with_snapshots(&named("a*\\\\?-20261103T000000"));
    delete(store, &request(&ec2)).await.unwrap();
    assert_eq!(ids(&ec2), ["snap-1", "snap-2", "snap-3"]);
    ec2.put_of("vol-9", "snap-6", Some("pgdata-20261103t000000"), false);
    let store = with_snapshots(&named("pgdata-20261103t000000"));
    let error = delete(store, &request(&ec2)).await.unwrap_err();
    assert!(error.message.contains("not recognized"), "{error}");
    assert_eq!(ids(&ec2), ["snap-1", "snap-2", "snap-3", "snap-6"]);
}

/// A directory may be called anything, and names may end in it.
#[tokio::test(start_paused = true)]
async fn what_is_no_id_of_a_backup_owns_no_snapshot() {
    let (store, ec2) = (filled(), FakeEc2::default());
    ec2.put("snap-1", Some("prod-data-01"), false);
    let forged = "status=DONE\nbegin_time=2020-01-01 00:00:00+00:00\n\
         end_time=2020-01-01 00:00:01+00:00\nbegin_wal=000000010000000000000001\n\
         timeline=1\nsnapshots_info={'provider': 'aws', 'provider_info': {'account_id': '1', \
         'region': 'us-east-1'}, 'snapshots': [{'provider': {'snapshot_id': 'snap-1'}}]}\n";
    store.insert("p/main/base/01/backup.info", forged);
    let wanted = DeleteRequest {
        selection: Some(Selection::Policy(Policy::Redundancy(1))),
        ..request(&ec2)
    };
    let error = delete(store, &wanted).await.unwrap_err();
    assert!(error.message.contains("not recognized"), "{error}");
    assert_eq!(ids(&ec2), ["snap-1"]);
}

/// No backup is DONE that lacks a snapshot, and the next run comes to the end.
#[tokio::test(start_paused = true)]
async fn a_deletion_that_loses_the_cloud_anywhere_is_finished_by_the_next() {
    for fault in [
        CloudFault::Refused(403, "UnauthorizedOperation"),
        CloudFault::After,
    ] {
        for at in 0..4 {
            let (store, ec2) = (with_snapshots(TWO), ec2().fault(at, fault));
            let result = delete(store.clone(), &request(&ec2)).await;
            let key = format!("{}/backup.info", dir(ID));
            if let Some(record) = store.contents().get(&key) {
                let info = BackupInfo::parse(record, &TimeZone::UTC).unwrap();
                let whole = ids(&ec2) == ["snap-1", "snap-2", "snap-3"];
                assert!(info.status != Status::Done || whole, "{fault:?} at {at}");
                assert!(result.is_err());
            }
            ec2.heal();
            delete(store.clone(), &request(&ec2)).await.unwrap();
            assert_eq!(ids(&ec2), ["snap-3"]);
        }
    }
}

/// Its snapshots went when it failed, its label did not.
#[tokio::test(start_paused = true)]
async fn the_label_of_a_failed_backup_goes_with_it() {
    let store = filled();
    let failed = "20261102T000000";
    let label = format!("{}/backup_label", dir(failed));
    store.insert(&label, "label");
    let dry = DeleteRequest {
        dry_run: true,
        ..by_id(failed)
    };
    let text = delete(store.clone(), &dry).await.unwrap().text;
    assert!(text.contains(&format!("deletion of {label} ")), "{text}");
    delete(store.clone(), &by_id(failed)).await.unwrap();
    assert!(!store.contents().contains_key(&label));
}
