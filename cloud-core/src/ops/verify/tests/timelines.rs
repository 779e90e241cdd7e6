//! The WAL behind the end of a backup, and other timelines.

use serde_json::Value;

use super::scene::Scene;

/// Findings by kind and the last part of their place; first and last segment.
fn summary(report: &Value) -> (Vec<(String, String)>, String) {
    let findings = report["findings"].as_array().unwrap().iter();
    let findings = findings.map(|finding| {
        let place = finding["where"].as_str().unwrap();
        let kind = finding["kind"].as_str().unwrap();
        (
            kind.to_owned(),
            place.rsplit('/').next().unwrap().to_owned(),
        )
    });
    let name = |field: &str| report[field].as_str().unwrap_or("-").to_owned();
    let ends = format!("{}-{}", name("wal_first"), name("wal_last"));
    (findings.collect(), ends)
}

const FIRST: &str = "000000010000000000000006";

async fn found(scene: &Scene, expected: &[(&str, &str)], last: &str) {
    let report = scene.report(true).await;
    let expected: Vec<_> = expected
        .iter()
        .map(|(kind, place)| ((*kind).to_owned(), (*place).to_owned()))
        .collect();
    assert_eq!(
        summary(&report),
        (expected, format!("{FIRST}-{last}")),
        "{report}"
    );
}

fn history(scene: &Scene, timeline: u32, text: &str) {
    let key = format!("p/main/wals/{timeline:08X}.history");
    scene.memory.insert(&key, text.to_owned());
}

#[tokio::test]
async fn to_the_newest_segment_no_other_may_be_missing() {
    let scene = Scene::new();
    found(&scene, &[], "000000010000000000000009").await;
    // Over the end of a directory.
    for number in [0xFFE_u32, 0xFFF] {
        scene.add_wal(1, number, false);
    }
    let gap = [("wal", "00000001000000000000000A")];
    found(&scene, &gap, "000000010000000000000FFF").await;
    let key = "p/main/wals/0000000100000001/000000010000000100000000.gz";
    let next = super::scene::wal("000000010000000100000000");
    scene.memory.insert(key, super::scene::gzip(&next));
    found(&scene, &gap, "000000010000000100000000").await;
    let report = scene.report(false).await;
    assert_eq!(
        report["status"], "good",
        "up to its end the backup is: {report}"
    );
}

#[tokio::test]
async fn the_newest_timeline_through_the_backup_is_followed() {
    let scene = Scene::new();
    for (timeline, number) in [(2, 9), (2, 10), (2, 11), (3, 11), (3, 12)] {
        scene.add_wal(timeline, number, false);
    }
    history(&scene, 2, "1\t0/900100\tno recovery target specified\n");
    history(&scene, 3, "1\t0/900100\tno\n2\t0/B00000\tno\n");
    found(&scene, &[], "00000003000000000000000C").await;
    // The end of a timeline is not archived under its own name.
    scene
        .memory
        .remove("p/main/wals/0000000100000000/000000010000000000000009");
    scene
        .memory
        .remove("p/main/wals/0000000200000000/00000002000000000000000B");
    found(&scene, &[], "00000003000000000000000C").await;
    scene
        .memory
        .remove("p/main/wals/0000000200000000/00000002000000000000000A");
    let gap = ("wal", "00000002000000000000000A");
    found(&scene, &[gap], "00000003000000000000000C").await;
    // A timeline that left the history before the backup ended.
    history(&scene, 4, "1\t0/700000\tno\n");
    let report = scene.report(true).await;
    assert!(
        report["notes"][0].as_str().unwrap().contains("timeline 4"),
        "{report}"
    );
    found(&scene, &[gap], "00000003000000000000000C").await;
    history(&scene, 5, "nonsense");
    found(
        &scene,
        &[("history", "00000005.history"), gap],
        "00000003000000000000000C",
    )
    .await;
    scene.memory.remove("p/main/wals/00000003.history");
    let report = scene.report(true).await;
    let (findings, _) = summary(&report);
    assert!(
        findings.contains(&("history".into(), "00000003.history".into())),
        "{report}"
    );
}

#[tokio::test]
async fn a_fork_within_the_last_segment_of_the_backup_is_followed() {
    let scene = Scene::new();
    history(&scene, 2, "1\t0/800200\tno\n");
    for number in [8, 9] {
        scene.add_wal(2, number, false);
    }
    scene
        .memory
        .remove("p/main/wals/0000000100000000/000000010000000000000009");
    found(&scene, &[], "000000020000000000000009").await;
}

#[tokio::test]
async fn wal_that_was_let_go_is_told() {
    let scene = Scene::new();
    let text = |first: &str, last: &str| {
        format!(
            "barman-cloud WAL gap 1\nid=0f\nserver=main\nsystem=unknown\nfirst={first}\nlast={last}\n\
             segment_size=1048576\nsince=2026-11-22T11:00:00Z\nuntil=2026-11-22T11:00:00Z\n\
             host=h\nwaiting=1\nqueue_max=1\nwhy=x\n"
        )
    };
    let ten = "00000001000000000000000A";
    let name = format!("{ten}-{ten}-0f.gap");
    scene
        .memory
        .insert(&format!("p/main/gaps/{name}"), text(ten, ten));
    scene.add_wal(1, 11, false);
    found(
        &scene,
        &[("wal", ten), ("gap", &name)],
        "00000001000000000000000B",
    )
    .await;
    let report = scene.report(false).await;
    assert_eq!(report["status"], "good", "{report}");
    assert!(
        report["notes"][0].as_str().unwrap().contains("let it go"),
        "{report}"
    );
    // What the backup itself needs.
    let seven = "000000010000000000000007";
    let needed = format!("{seven}-{seven}-0f.gap");
    scene
        .memory
        .insert(&format!("p/main/gaps/{needed}"), text(seven, seven));
    scene
        .memory
        .remove(&format!("p/main/wals/0000000100000000/{seven}.gz"));
    let (findings, _) = summary(&scene.report(false).await);
    let expected = [("wal", seven), ("gap", needed.as_str())];
    let expected = expected.map(|(kind, place)| (kind.to_owned(), place.to_owned()));
    assert_eq!(findings, expected);
}

/// A standby that follows a promotion goes on with the backup that is taken of it.
#[tokio::test]
async fn a_backup_may_end_on_another_timeline_than_it_began() {
    let scene = Scene::new();
    let key = |timeline: u32, number: u32| {
        format!("p/main/wals/{timeline:08X}00000000/{timeline:08X}00000000{number:08X}")
    };
    scene.change("p/main/base/20261122T100000/backup.info", |bytes| {
        let text = String::from_utf8(bytes.clone()).unwrap();
        *bytes = text.replace("end_wal=00000001", "end_wal=00000002").into();
    });
    history(&scene, 2, "1\t0/780000\tno\n");
    for number in [8, 9] {
        scene.memory.remove(&key(1, number));
        scene.add_wal(2, number, false);
    }
    scene.memory.remove(&(key(1, 7) + ".gz"));
    scene.add_wal(2, 7, false);
    let report = scene.report(false).await;
    assert_eq!(report["status"], "good", "{report}");
    assert_eq!(report["wal_last"], "000000020000000000000008", "{report}");
    found(&scene, &[], "000000020000000000000009").await;
    scene.memory.remove(&key(2, 8));
    let missing = ("wal".to_owned(), "000000020000000000000008".to_owned());
    assert_eq!(summary(&scene.report(false).await).0, [missing]);
    scene.memory.remove("p/main/wals/00000002.history");
    let lost = ("history".to_owned(), "00000002.history".to_owned());
    for to_newest in [false, true] {
        let report = scene.report(to_newest).await;
        assert_eq!(summary(&report).0, std::slice::from_ref(&lost), "{report}");
    }
}
