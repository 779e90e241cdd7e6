//! Snapshots at EC2: what is asked, and what is left after each end there can be.

use std::sync::Arc;
use std::time::Duration;

use super::super::fake::{FakeEc2, Fault};
use super::super::{
    Cloud, Lock, Making, RecordedMount, RecordedSnapshot, SnapshotErrorKind, SnapshotOptions,
    SnapshotProvider,
};
use crate::mounts::DeviceId;
use crate::store::Tag;

const ID: &str = "20261121T024500";

fn open(ec2: &FakeEc2, options: &SnapshotOptions) -> Arc<dyn SnapshotProvider> {
    ec2.clouds().open(Cloud::Aws, options).unwrap()
}

fn plain(ec2: &FakeEc2) -> Arc<dyn SnapshotProvider> {
    open(ec2, &SnapshotOptions::default())
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// The snapshots of both disks, begun and waited for.
async fn make(ec2: &FakeEc2, options: &SnapshotOptions) -> (Making, Result<(), String>) {
    let provider = open(ec2, options);
    let wanted = names(&["pgdata", "pgdata-old"]);
    let mut disks = Vec::new();
    let found = provider.disks("pg-1", Some(&wanted)).await;
    if let Ok(found) = &found {
        disks = found
            .iter()
            .map(|disk| (disk.clone(), RecordedMount::default()))
            .collect();
    }
    let mut making = Making::new(provider, disks, ID);
    let made = async {
        found?;
        making.begin().await?;
        making.wait().await?;
        making.lock().await
    };
    let made = made.await.map_err(|error| error.to_string());
    (making, made)
}

#[tokio::test(start_paused = true)]
async fn disks_are_found_by_exact_names_on_every_page() {
    let ec2 = FakeEc2::default().paged(1);
    let provider = plain(&ec2);
    let found = provider
        .disks("i-1", Some(&names(&["pgdata", "vol-2", "data"])))
        .await;
    let found = found.unwrap();
    let ids: Vec<_> = found.iter().map(|disk| (&*disk.name, &*disk.id)).collect();
    assert_eq!(ids, [("pgdata", "vol-1"), ("vol-2", "vol-2")]);
    assert_eq!(
        found[0].device,
        DeviceId {
            serial: Some("vol1".into()),
            paths: vec!["/dev/sdf".into(), "/dev/xvdf".into(), "/dev/hdf".into()],
        }
    );
    // The one it starts from is nobody's data.
    let all = provider.disks("pg-1", None).await.unwrap();
    let origins: Vec<_> = all.iter().map(|disk| disk.origin.as_deref()).collect();
    assert_eq!(origins, [None, Some("snap-old")]);
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_is_not_there_is_named() {
    let ec2 = FakeEc2::default();
    for instance in ["i-2", "pg-2", "i-bad"] {
        let error = plain(&ec2).disks(instance, None).await.unwrap_err();
        assert_eq!(error.kind, SnapshotErrorKind::Invalid);
        assert_eq!(
            error.text,
            format!("Cannot find compute instance {instance}")
        );
    }
}

#[tokio::test(start_paused = true)]
async fn snapshots_are_named_tagged_waited_for_and_then_locked() {
    let ec2 = FakeEc2::default().pending(3);
    let options = SnapshotOptions {
        tags: vec![Tag {
            key: "a&b".into(),
            value: "ä =".into(),
        }],
        lock: Some(Lock {
            mode: "compliance".into(),
            cool_off_hours: Some(1),
            days: Some(2),
            until: None,
        }),
        ..SnapshotOptions::default()
    };
    let (making, made) = make(&ec2, &options).await;
    made.unwrap();
    let snapshots = ec2.snapshots();
    assert_eq!(snapshots.len(), 2);
    let name = format!("pgdata-{}", ID.to_lowercase());
    let first = &snapshots["snap-1"];
    let tags = [("Name".to_owned(), name), ("a&b".into(), "ä =".into())];
    assert_eq!(first.tags, tags);
    assert!(snapshots.values().all(|one| one.locked));
    let record = making.record().to_literal().to_string();
    assert!(
        record.starts_with(
            "{'provider': 'aws', 'provider_info': {'account_id': '123', 'region': 'us-east-1'}, \
         'snapshots': [{'mount': {'mount_options': None, 'mount_point': None}, 'provider': \
         {'device_name': '/dev/sdf', 'snapshot_id': 'snap-1', 'snapshot_name': \
         'pgdata-20261121t024500', 'snapshot_lock_mode': 'compliance'}}"
        ),
        "{record}"
    );
    // Locking is the last thing that is asked for.
    let calls = ec2.calls();
    assert_eq!(calls[calls.len() - 2..], ["LockSnapshot", "LockSnapshot"]);
}

#[tokio::test(start_paused = true)]
async fn an_outpost_is_told_and_nothing_on_it_is_locked() {
    let ec2 = FakeEc2::default().on_outpost("arn:o");
    make(&ec2, &SnapshotOptions::default()).await.1.unwrap();
    let outposts: Vec<_> = ec2
        .snapshots()
        .into_values()
        .map(|one| one.outpost)
        .collect();
    assert_eq!(outposts, [Some("arn:o".to_owned()), Some("arn:o".into())]);
    let lock = Lock {
        mode: "governance".into(),
        cool_off_hours: None,
        days: Some(1),
        until: None,
    };
    let options = SnapshotOptions {
        lock: Some(lock),
        ..SnapshotOptions::default()
    };
    let error = open(&ec2, &options).disks("pg-1", None).await.unwrap_err();
    assert!(error.text.contains("Outpost"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_asks_for_time_gets_it() {
    let ec2 = FakeEc2::default()
        .fault(0, Fault::Refused(503, "RequestLimitExceeded"))
        .fault(1, Fault::Refused(500, "InternalError"))
        .fault(2, Fault::Before)
        .fault(4, Fault::Refused(503, "Unavailable"))
        .fault(
            6,
            Fault::Refused(400, "SnapshotCreationPerVolumeRateExceeded"),
        );
    make(&ec2, &SnapshotOptions::default()).await.1.unwrap();
    assert_eq!(ec2.snapshots().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_whose_answer_was_lost_is_found_and_not_made_twice() {
    for fault in [
        Fault::After,
        Fault::Before,
        Fault::Refused(500, "InternalError"),
    ] {
        let ec2 = FakeEc2::default().fault(2, fault);
        let (making, made) = make(&ec2, &SnapshotOptions::default()).await;
        made.unwrap();
        assert_eq!(ec2.snapshots().len(), 2, "{fault:?}");
        let record = making.record();
        let ids = record.snapshots.iter().filter_map(|one| one.id.as_ref());
        assert_eq!(ids.count(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_fails_or_takes_too_long_is_told_and_all_are_undone() {
    let short = SnapshotOptions {
        patience: Some(Duration::from_mins(1)),
        ..SnapshotOptions::default()
    };
    for (ec2, expected) in [
        (FakeEc2::default().failing(), "failed: broken"),
        (
            FakeEc2::default().pending(1000),
            "was not complete within 60 seconds",
        ),
    ] {
        let (mut making, made) = make(&ec2, &short).await;
        let error = made.unwrap_err();
        assert!(
            error.contains("snap-") && error.ends_with(expected),
            "{error}"
        );
        assert_eq!(making.undo(Duration::from_secs(5)).await, None);
        assert!(ec2.snapshots().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_says_what_ec2_calls_the_request() {
    let ec2 = FakeEc2::default().fault(0, Fault::Refused(403, "UnauthorizedOperation"));
    let error = make(&ec2, &SnapshotOptions::default()).await.1.unwrap_err();
    let expected = "UnauthorizedOperation: no (request id r-1)";
    assert!(error.contains(expected), "{error}");
}

/// Whatever call is the last one that arrives: what is left is in the record (S1).
#[tokio::test(start_paused = true)]
async fn what_is_left_after_a_service_that_dies_anywhere_is_recorded() {
    let lock = Lock {
        mode: "governance".into(),
        cool_off_hours: None,
        days: Some(1),
        until: None,
    };
    let options = SnapshotOptions {
        lock: Some(lock),
        ..SnapshotOptions::default()
    };
    let whole = FakeEc2::default();
    make(&whole, &options).await.1.unwrap();
    let calls = whole.calls().len();
    assert_eq!(calls, 8, "{:?}", whole.calls());
    let refused = Fault::Refused(403, "UnauthorizedOperation");
    // The last request that arrives may be done without an answer.
    for (fate, dies) in [
        (None, Some(0)),
        (Some(Fault::After), None),
        (Some(Fault::After), Some(1)),
        (Some(refused), None),
    ] {
        for at in 0..calls {
            let mut ec2 = FakeEc2::default();
            if let Some(fault) = fate {
                ec2 = ec2.fault(at, fault);
            }
            if let Some(later) = dies {
                ec2 = ec2.die_after(at + later);
            }
            let (mut making, made) = make(&ec2, &options).await;
            if made.is_ok() {
                continue;
            }
            let left = making.undo(Duration::from_mins(1)).await;
            let named: Vec<_> = left.iter().flat_map(|left| &left.snapshots).collect();
            for (id, one) in ec2.snapshots() {
                let by_id = named.iter().any(|left| left.id.as_ref() == Some(&id));
                let by_name = named
                    .iter()
                    .any(|left| left.id.is_none() && left.name == one.name);
                assert!(
                    by_id || by_name,
                    "{id} is lost: {fate:?} at {at}: {named:?}"
                );
            }
            // What the record names can be found by it once the service is back.
            ec2.heal();
            let provider = plain(&ec2);
            let mut found = 0;
            for one in named {
                found += provider.locate(one).await.unwrap().len();
            }
            assert_eq!(found, ec2.snapshots().len(), "{fate:?} at {at}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_record_names_is_looked_at_and_not_believed() {
    let ec2 = FakeEc2::default();
    ec2.put("snap-named", Some("x"), false);
    ec2.put("snap-nameless", None, false);
    let provider = plain(&ec2);
    let recorded = |id: Option<&str>, name: Option<&str>| RecordedSnapshot {
        id: id.map(str::to_owned),
        name: name.map(str::to_owned),
        ..RecordedSnapshot::default()
    };
    let named = provider
        .locate(&recorded(Some("snap-named"), Some("claimed")))
        .await
        .unwrap();
    assert_eq!(named[0].name, "x");
    assert_eq!(
        provider
            .locate(&recorded(Some("snap-gone"), None))
            .await
            .unwrap(),
        []
    );
    assert_eq!(
        provider
            .locate(&recorded(None, Some("x")))
            .await
            .unwrap()
            .len(),
        1
    );
    for foreign in [recorded(Some("snap-nameless"), None), recorded(None, None)] {
        let error = provider.locate(&foreign).await.unwrap_err();
        assert_eq!(error.kind, SnapshotErrorKind::Foreign);
    }
}

/// Names are tags, which repeat, and what a backup perhaps began is looked for by one.
#[tokio::test(start_paused = true)]
async fn a_snapshot_of_another_volume_is_neither_taken_nor_deleted() {
    let name = format!("pgdata-{}", ID.to_lowercase());
    // The call of the first snapshot, of which the answer is lost, or the whole call.
    for fault in [Fault::Before, Fault::After] {
        for fails in [false, true] {
            let ec2 = FakeEc2::default().fault(2, fault);
            let ec2 = if fails { ec2.failing() } else { ec2 };
            ec2.put_of("vol-9", "snap-theirs", Some(&name), false);
            let (mut making, made) = make(&ec2, &SnapshotOptions::default()).await;
            assert_eq!(made.is_err(), fails, "{fault:?}: {made:?}");
            let record = making.record().to_literal().to_string();
            assert!(!record.contains("snap-theirs"), "{record}");
            if fails {
                assert!(making.undo(Duration::from_mins(1)).await.is_none());
            }
            let there = ec2.snapshots();
            assert!(there.contains_key("snap-theirs"), "{fault:?} {fails}");
            assert_eq!(there.len(), if fails { 1 } else { 3 });
        }
    }
}
