//! Backups in memory, whole and damaged.

mod scene;
mod timelines;

use serde_json::{Value, json};

use self::scene::{Scene, Sealed, wal};
use crate::manifest::Algorithm;
use crate::ops::wal_testing::{GOLDEN_SYSTEM, control, segment};
use crate::ops::{Format, OpErrorKind};
use crate::store::{Fault, StoreErrorKind, StoreOp};
use crate::tar::MemberKind;

const WAL: &str = "p/main/wals/0000000100000000";

#[tokio::test]
async fn a_whole_backup_is_good_and_only_read() {
    let scene = Scene::new();
    let before = scene.memory.contents();
    let answer = scene.answer(Format::Json, false).await.unwrap();
    assert!(answer.failure.is_none(), "{}", answer.text);
    let read: Value = serde_json::from_str(&answer.text).unwrap();
    let data = before["p/main/base/20261122T100000/data.tar.gz"].len();
    let rest: usize = ["data_0001.tar.gz", "16387.tar"]
        .iter()
        .map(|name| before[&format!("p/main/base/20261122T100000/{name}")].len())
        .sum();
    assert_eq!(
        read,
        json!({
            "server": "main",
            "backup_id": "20261122T100000",
            "status": "good",
            "findings": [],
            "findings_total": 0,
            "notes": [],
            "archives": 3,
            "bytes_store": data + rest,
            "files": 7,
            "bytes_files": read["bytes_files"],
            // What is left at the end of a file is no page.
            "pages": 6 + 2 + 3,
            "manifest_files": 6,
            "manifest_files_unread": 0,
            "wal_segments": 3,
            "wal_bytes": 3 << 20,
            "wal_first": "000000010000000000000006",
            "wal_last": "000000010000000000000008",
        })
    );
    let answer = scene.answer(Format::Console, false).await.unwrap();
    let first = answer.text.lines().next().unwrap();
    assert_eq!(first, "Backup 20261122T100000 of server main is good");
    assert!(scene.memory.contents() == before);
    let reads = [StoreOp::Get, StoreOp::List];
    let calls = scene.store.calls();
    assert!(calls.iter().all(|(op, _)| reads.contains(op)), "{calls:?}");
}

/// Damages one thing; what must be found, by kind and place, and nothing else.
async fn found(case: &str, damage: impl FnOnce(&mut Scene), expected: &[(&str, &str)]) {
    let mut scene = Scene::new();
    damage(&mut scene);
    let answer = scene.answer(Format::Json, false).await.unwrap();
    let read: Value = serde_json::from_str(&answer.text).unwrap();
    let text = |finding: &Value, name: &str| finding[name].as_str().unwrap().to_owned();
    let findings = read["findings"].as_array().unwrap().iter();
    let findings: Vec<_> = findings
        .map(|finding| (text(finding, "kind"), text(finding, "where")))
        .collect();
    let expected: Vec<_> = expected
        .iter()
        .map(|(kind, place)| ((*kind).to_owned(), (*place).to_owned()))
        .collect();
    assert_eq!(findings, expected, "{case}: {}", answer.text);
    assert_eq!(read["status"], "damaged", "{case}");
    let failure = answer.failure.expect("it is damaged");
    assert_eq!(failure.kind, OpErrorKind::Failed, "{case}");
    let console = scene.answer(Format::Console, false).await.unwrap().text;
    for (kind, place) in expected {
        assert!(
            console.contains(&format!("\n{kind}: {place}: ")),
            "{console}"
        );
    }
}

const DIR: &str = "p/main/base/20261122T100000";
const DATA: &str = "p/main/base/20261122T100000/data.tar.gz";
const LAST: &str = "p/main/base/20261122T100000/data_0001.tar.gz";
const SPACE: &str = "p/main/base/20261122T100000/16387.tar";
const INFO: &str = "p/main/base/20261122T100000/backup.info";

#[tokio::test]
async fn damaged_objects_are_named() {
    found(
        "a flipped bit",
        |scene| scene.change(DATA, |bytes| bytes[40] ^= 4),
        &[("archive", DATA)],
    )
    .await;
    found(
        "cut",
        |scene| scene.change(LAST, |bytes| bytes.truncate(bytes.len() / 2)),
        &[("archive", LAST)],
    )
    .await;
    found(
        "cut by one",
        |scene| scene.change(DATA, |bytes| bytes.truncate(bytes.len() - 1)),
        &[("archive", DATA)],
    )
    .await;
    found(
        "longer",
        |scene| scene.change(DATA, |bytes| bytes.push(7)),
        &[("archive", DATA)],
    )
    .await;
    found(
        "longer, without codec",
        |scene| scene.change(SPACE, |bytes| bytes.push(7)),
        &[("archive", SPACE)],
    )
    .await;
    found(
        "empty",
        |scene| scene.change(SPACE, Vec::clear),
        &[("archive", SPACE)],
    )
    .await;
    found(
        "no first part",
        |scene| scene.memory.remove(DATA),
        &[("part", DIR)],
    )
    .await;
    found(
        "no tablespace",
        |scene| scene.memory.remove(SPACE),
        &[("part", DIR)],
    )
    .await;
    found(
        "no last part",
        |scene| scene.memory.remove(LAST),
        &[("part", DIR), ("part", DIR)],
    )
    .await;
    found(
        "twice",
        |scene| {
            let bytes = scene.memory.contents()[LAST].clone();
            scene.memory.insert(&format!("{DIR}/data_0001.tar"), bytes);
        },
        &[
            ("part", DATA),
            ("part", &format!("{DIR}/data_0001.tar")),
            ("archive", &format!("{DIR}/data_0001.tar")),
        ],
    )
    .await;
    found(
        "another codec",
        |scene| {
            let bytes = scene.memory.contents()[LAST].clone();
            scene.memory.remove(LAST);
            scene
                .memory
                .insert(&format!("{DIR}/data_0001.tar.rar"), bytes);
        },
        &[("part", &format!("{DIR}/data_0001.tar.rar"))],
    )
    .await;
}

#[tokio::test]
async fn a_record_that_is_not_of_a_good_backup_is_told() {
    let replace = |from: &'static str, to: &'static str| {
        move |scene: &mut Scene| {
            let text = String::from_utf8(scene.memory.contents()[INFO].to_vec()).unwrap();
            assert!(text.contains(from));
            scene.memory.insert(INFO, text.replace(from, to));
        }
    };
    found(
        "failed",
        replace("status=DONE", "status=FAILED"),
        &[("status", INFO)],
    )
    .await;
    found(
        "no text",
        replace("timeline=1", "timeline=x"),
        &[("record", INFO)],
    )
    .await;
    found(
        "another beginning",
        replace(
            "begin_wal=000000010000000000000006",
            "begin_wal=000000010000000000000005",
        ),
        &[("record", INFO), ("label", &format!("{LAST}:backup_label"))],
    )
    .await;
    let control = format!("{LAST}:global/pg_control");
    found(
        "another version",
        replace("version=150020", "version=180001"),
        &[("control", &control)],
    )
    .await;
    found(
        "another backup's",
        |scene| {
            let mut bytes = scene.content("global/pg_control");
            bytes[40..48].copy_from_slice(&0x50_0028_u64.to_le_bytes());
            let sum = crc32c::crc32c(&bytes[..288]);
            bytes[288..292].copy_from_slice(&sum.to_le_bytes());
            scene.put("global/pg_control", &bytes);
            scene.store_archives();
        },
        &[("control", &control)],
    )
    .await;
    found(
        "an earlier end",
        replace("end_xlog=0/800100", "end_xlog=0/800000"),
        &[("manifest", &format!("{LAST}:backup_manifest"))],
    )
    .await;
    found(
        "no checksums",
        replace("data_checksums=on", "data_checksums=off"),
        &[("control", &control)],
    )
    .await;
}

/// What is damaged, how, and the findings: a kind and a place each.
type Case = (&'static str, fn(&mut Scene), Vec<(&'static str, String)>);

#[tokio::test]
async fn files_that_differ_from_the_manifest_are_named() {
    let at = |key: &str, name: &str| format!("{key}:{name}");
    let cases: [Case; 8] = [
        (
            "other content",
            |scene| scene.put("base/5/1259", b"other"),
            vec![("file", at(DATA, "base/5/1259"))],
        ),
        (
            "in a tablespace",
            |scene| scene.put("pg_tblspc/16387/PG_15/5/16400", b"other"),
            vec![("file", at(SPACE, "pg_tblspc/16387/PG_15/5/16400"))],
        ),
        (
            "no file",
            |scene| scene.remove("base/5/1259"),
            vec![("file", at(DIR, "base/5/1259"))],
        ),
        (
            "one more",
            |scene| scene.put("base/5/666", b"stray"),
            vec![("file", at(DATA, "base/5/666"))],
        ),
        (
            "another label",
            |scene| {
                scene.put(
                    "backup_label",
                    b"START WAL LOCATION: 0/600028 (file 000000010000000000000006)\n",
                );
            },
            vec![("file", at(LAST, "backup_label"))],
        ),
        (
            "another manifest",
            |scene| scene.sealed = Sealed::Other,
            vec![("manifest", at(LAST, "backup_manifest"))],
        ),
        (
            "a damaged manifest",
            |scene| scene.sealed = Sealed::Damaged,
            vec![("manifest", at(LAST, "backup_manifest"))],
        ),
        (
            "another cluster",
            |scene| scene.put("global/pg_control", &control(GOLDEN_SYSTEM + 1, true)),
            // Its CRC-32C is that of the other one: both contain their own.
            vec![("control", at(LAST, "global/pg_control"))],
        ),
    ];
    for algorithm in [Algorithm::Crc32c, Algorithm::Sha256] {
        for (case, damage, expected) in &cases {
            let mut expected: Vec<_> = expected
                .iter()
                .map(|(kind, place)| (*kind, place.as_str()))
                .collect();
            if algorithm == Algorithm::Sha256 && expected[0].0 == "control" {
                expected.push(("file", expected[0].1));
            }
            let make = |scene: &mut Scene| {
                scene.algorithm = algorithm;
                scene.seal();
                damage(scene);
                scene.store_archives();
            };
            found(case, make, &expected).await;
        }
    }
}

/// Its checksums show only when the last archive was read.
#[tokio::test]
async fn a_manifest_of_the_other_algorithm_is_compared_all_the_same() {
    for algorithm in [Algorithm::Crc32c, Algorithm::Sha256] {
        let mut scene = Scene::new();
        scene.algorithm = algorithm;
        scene.seal();
        scene.store_archives();
        let report = scene.report(false).await;
        assert_eq!(report["status"], "good", "{report}");
        assert_eq!(report["manifest_files"], 6);
        let gets = scene.store.calls().into_iter();
        let gets = gets.filter(|(op, key)| *op == StoreOp::Get && key.contains(".tar"));
        let expected = if algorithm == Algorithm::Crc32c {
            3..=3
        } else {
            4..=6
        };
        assert!(expected.contains(&gets.count()), "{algorithm:?}");
    }
}

/// Replaces the number of its LSN in the second page of a table.
fn with_page_of(lsn: u64) -> impl Fn(&mut Scene) {
    move |scene: &mut Scene| {
        let mut bytes = scene.content("base/5/1259");
        bytes[8192..8200].copy_from_slice(&lsn.rotate_left(32).to_le_bytes());
        scene.put("base/5/1259", &bytes);
        scene.seal();
        scene.store_archives();
    }
}

#[tokio::test]
async fn pages_are_judged_by_the_rules_of_the_cluster() {
    let table = format!("{DATA}:base/5/1259");
    // Not written since the backup began, or later than it ended.
    for lsn in [0, 0x60_0028, 0x80_0101] {
        found("a page", with_page_of(lsn), &[("page", &table)]).await;
    }
    for lsn in [0x60_0029, 0x80_0100] {
        let mut scene = Scene::new();
        with_page_of(lsn)(&mut scene);
        assert_eq!(scene.report(false).await["status"], "good", "{lsn:X}");
    }
    // Read while it was written: the WAL of the backup has the first page as a whole.
    let torn = |scene: &mut Scene| {
        let mut bytes = scene.content("base/5/1259");
        bytes[..8].fill(0);
        scene.put("base/5/1259", &bytes);
        scene.seal();
        scene.store_archives();
    };
    let mut scene = Scene::new();
    torn(&mut scene);
    assert_eq!(scene.report(false).await["status"], "good");
    let without = |scene: &mut Scene| {
        torn(scene);
        for number in 6..9 {
            scene
                .memory
                .remove(&format!("{WAL}/00000001000000000000000{number}"));
            scene
                .memory
                .remove(&format!("{WAL}/00000001000000000000000{number}.gz"));
        }
    };
    let six = format!("{WAL}/000000010000000000000006");
    found("no WAL", without, &[("wal", &six), ("page", &table)]).await;
    // The record speaks of no checksums, and the blocks have another size.
    let mut scene = Scene::new();
    let text = String::from_utf8(scene.memory.contents()[INFO].to_vec()).unwrap();
    scene
        .memory
        .insert(INFO, text.replace("data_checksums=on\n", ""));
    let mut bytes = scene.content("global/pg_control");
    bytes[248..252].copy_from_slice(&16384_u32.to_le_bytes());
    let sum = crc32c::crc32c(&bytes[..288]);
    bytes[288..292].copy_from_slice(&sum.to_le_bytes());
    scene.put("global/pg_control", &bytes);
    with_page_of(0)(&mut scene);
    let report = scene.report(false).await;
    // The second page of eight KiB is the middle of the first.
    assert_eq!(
        (&report["status"], &report["pages"]),
        (&json!("good"), &json!(3 + 1 + 1))
    );
    // And none at all.
    scene.put("global/pg_control", &control(GOLDEN_SYSTEM, false));
    with_page_of(0)(&mut scene);
    let report = scene.report(false).await;
    assert_eq!(
        (&report["status"], &report["pages"]),
        (&json!("good"), &json!(0))
    );
}

#[tokio::test]
async fn members_that_a_restore_refuses_are_named() {
    let link = |target: &str| MemberKind::HardLink {
        target: target.into(),
    };
    let at = |name: &str| format!("{DATA}:{name}");
    for (name, kind, shown) in [
        ("../../etc/cron", MemberKind::Fifo, "../../etc/cron"),
        ("/etc/cron", MemberKind::Fifo, "/etc/cron"),
        ("sda", MemberKind::Device, "sda"),
        ("other", link("no/such/file"), "other"),
        ("PG_VERSION/x", MemberKind::Directory, "PG_VERSION/x"),
        ("base/5", MemberKind::Fifo, "base/5"),
        (
            "pg_wal",
            MemberKind::Symlink {
                target: "/root".into(),
            },
            "pg_wal",
        ),
        ("PG_VERSION", MemberKind::Directory, "PG_VERSION"),
        ("pg_tblspc/16387", MemberKind::Fifo, "pg_tblspc/16387"),
    ] {
        let place = if name.starts_with("pg_tblspc") {
            format!("{DIR}:{shown}")
        } else {
            at(shown)
        };
        let make = |scene: &mut Scene| {
            scene.odd = Some((name.to_owned(), kind));
            scene.store_archives();
        };
        found(name, make, &[("member", &place)]).await;
    }
    let mut scene = Scene::new();
    scene.odd = Some(("copy".into(), link("base/5/1259")));
    scene.manifest_lists_odd = true;
    scene.seal();
    scene.store_archives();
    let report = scene.report(false).await;
    assert_eq!(report["status"], "good", "{report}");
}

#[tokio::test]
async fn a_backup_without_a_manifest_is_as_good_as_its_archives() {
    let mut scene = Scene::new();
    scene.sealed = Sealed::Not;
    scene.store_archives();
    let report = scene.report(false).await;
    assert_eq!(report["status"], "good", "{report}");
    assert_eq!(report["manifest_files"], Value::Null);
    assert!(
        report["notes"][0].as_str().unwrap().contains("no manifest"),
        "{report}"
    );
    // One that somebody left in the data directory.
    scene.put(
        "backup_manifest",
        b"{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n",
    );
    scene.store_archives();
    let report = scene.report(false).await;
    assert_eq!(report["status"], "good", "{report}");
}

#[tokio::test]
async fn wal_that_a_backup_needs_is_proved() {
    let six = format!("{WAL}/000000010000000000000006");
    let seven = format!("{WAL}/000000010000000000000007.gz");
    let eight = format!("{WAL}/000000010000000000000008");
    found(
        "missing",
        |scene| scene.memory.remove(&eight),
        &[("wal", &eight)],
    )
    .await;
    found(
        "two missing",
        |scene| {
            scene.memory.remove(&six);
            scene.memory.remove(&seven);
        },
        &[("wal", &six)],
    )
    .await;
    found(
        "all missing",
        |scene| {
            for key in [&six, &seven, &eight] {
                scene.memory.remove(key);
            }
        },
        &[("wal", &six)],
    )
    .await;
    found(
        "codec",
        |scene| scene.change(&seven, |bytes| bytes[30] ^= 1),
        &[("wal", &seven)],
    )
    .await;
    found(
        "short",
        |scene| scene.change(&six, |bytes| bytes.truncate(1 << 19)),
        &[("wal", &six)],
    )
    .await;
    found(
        "a record",
        |scene| scene.change(&six, |bytes| bytes[500_000] ^= 1),
        &[("wal", &six)],
    )
    .await;
    found(
        "another one",
        |scene| scene.memory.insert(&eight, wal("000000010000000000000009")),
        &[("wal", &eight)],
    )
    .await;
    found(
        "another cluster",
        |scene| scene.change(&eight, |bytes| bytes[24] ^= 1),
        &[("wal", &eight)],
    )
    .await;
    // A record that began in the segment before, but goes on in this one as another.
    found(
        "a seam",
        |scene| {
            let bytes = segment("000000010000000000000007");
            scene.memory.remove(&seven);
            scene.memory.insert(seven.trim_end_matches(".gz"), bytes);
        },
        &[("wal", seven.trim_end_matches(".gz"))],
    )
    .await;
    // Damage in one form although another one is whole.
    let more = format!("{six}.gz");
    found(
        "one form",
        |scene| scene.memory.insert(&more, "no gzip"),
        &[("wal", &more)],
    )
    .await;
}

#[tokio::test]
async fn what_cannot_be_read_proves_nothing() {
    for kind in [StoreErrorKind::Connect, StoreErrorKind::PermissionDenied] {
        for part in ["backup.info", "data_0001", "16387.tar", "00000007"] {
            let scene = Scene::new();
            let fault = Fault::Before(kind);
            scene.store.fail_for(part, StoreOp::Get, fault, 1);
            let error = scene.answer(Format::Json, false).await.unwrap_err();
            let expected = match kind {
                StoreErrorKind::Connect => OpErrorKind::Unreachable,
                _ => OpErrorKind::General,
            };
            assert_eq!(error.kind, expected, "{part}: {}", error.message);
        }
    }
    let mut scene = Scene::new();
    scene.backup = "20200101T000000".to_owned();
    let error = scene.answer(Format::Json, false).await.unwrap_err();
    assert_eq!(error.kind, OpErrorKind::Failed);
    assert!(
        error.message.contains("does not exist"),
        "{}",
        error.message
    );
    let mut scene = Scene::new();
    scene.backup = "latest".to_owned();
    assert_eq!(scene.report(false).await["backup_id"], "20261122T100000");
}

#[tokio::test]
async fn of_a_snapshot_backup_the_label_and_the_wal_are_looked_at() {
    let scene = Scene::new();
    let text = String::from_utf8(scene.memory.contents()[INFO].to_vec()).unwrap();
    scene.memory.insert(
        INFO,
        format!("snapshots_info={{'provider': 'aws'}}\n{text}"),
    );
    let key = format!("{DIR}/backup_label");
    let report = scene.report(false).await;
    assert_eq!(report["findings"][0]["where"], key.as_str(), "{report}");
    scene.memory.insert(&key, scene.content("backup_label"));
    let report = scene.report(false).await;
    assert_eq!(report["status"], "good", "{report}");
    assert_eq!(
        (&report["archives"], &report["wal_segments"]),
        (&json!(0), &json!(3))
    );
    assert!(
        report["notes"][0].as_str().unwrap().contains("not read"),
        "{report}"
    );
    scene.memory.insert(
        &key,
        "START WAL LOCATION: 0/700028 (file 000000010000000000000007)\n",
    );
    let report = scene.report(false).await;
    assert_eq!(report["findings"][0]["kind"], "label", "{report}");
}

/// What the last archive alone says is not what is right.
#[tokio::test]
async fn the_manifest_may_be_in_another_archive_than_the_label() {
    let mut scene = Scene::new();
    scene.algorithm = Algorithm::Sha256;
    scene.label_apart = true;
    scene.jobs = 1;
    scene.seal();
    scene.store_archives();
    let report = scene.report(false).await;
    assert_eq!(report["status"], "good", "{report}");
}
