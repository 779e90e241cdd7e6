//! Archives as somebody might make them who wants more than a restore.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::*;

#[test]
fn a_hostile_member_is_refused_and_nothing_outside_changes() {
    let outside = "../outside";
    let table: Vec<(&str, Vec<Member>)> = vec![
        ("absolute name", vec![file("/tmp/x", b"evil")]),
        ("name that climbs", vec![file(outside, b"evil")]),
        (
            "name that climbs from below",
            vec![file("a/../../outside", b"evil")],
        ),
        ("directory that climbs", vec![directory("../dir")]),
        (
            "file through a link",
            vec![link("l", ".."), file("l/outside", b"evil")],
        ),
        (
            "link through a link",
            vec![link("l", ".."), link("l/outside", "x")],
        ),
        (
            "directory through a link",
            vec![link("l", ".."), directory("l/dir")],
        ),
        (
            "directory in place of a link",
            vec![link("l", ".."), directory("l")],
        ),
        (
            "hard link through a link",
            vec![link("l", ".."), hard_link("h", "l/outside")],
        ),
        ("hard link that climbs", vec![hard_link("h", outside)]),
        ("absolute hard link", vec![hard_link("h", "/etc/passwd")]),
        (
            "hard link to a link",
            vec![link("l", outside), hard_link("h", "l")],
        ),
        (
            "hard link to a directory",
            vec![directory("d"), hard_link("h", "d")],
        ),
        ("hard link to the target", vec![hard_link("h", ".")]),
        ("hard link to nothing", vec![hard_link("h", "absent")]),
        ("device", vec![member(b"d", MemberKind::Device)]),
        ("file instead of the target", vec![file(".", b"evil")]),
        ("link instead of the target", vec![link("./", "..")]),
        ("link instead of the WAL", vec![link("./pg_wal", "..")]),
        ("NUL in a name", vec![file("a\0b", b"evil")]),
        ("NUL in a link", vec![link("l", "a\0b")]),
        ("label out of turn", vec![file("./backup_label", b"evil")]),
        (
            "pg_control out of turn",
            vec![file("global//pg_control", b"evil")],
        ),
        ("label as a link", vec![link("backup_label", outside)]),
        (
            "pg_control as a hard link",
            vec![file("x", b"evil"), hard_link("global/pg_control", "x")],
        ),
        (
            "file below a file",
            vec![file("f", b"evil"), file("f/g", b"evil")],
        ),
        (
            "file instead of a directory",
            vec![directory("d"), file("d", b"evil")],
        ),
    ];
    for (what, members) in table {
        let (place, target) = place();
        let (last, before) = members.split_last().expect("a member");
        for member in before {
            unpack(&target, member, b"evil").expect("still harmless");
        }
        let result = unpack(&target, last, b"evil");
        assert!(
            matches!(
                result,
                Err(RestoreError::Refused { .. } | RestoreError::InTheWay { .. })
            ),
            "{what}: {result:?}"
        );
        let content = fs::read(place.path().join("outside")).expect("it is still there");
        assert_eq!(content, b"outside", "{what}");
        let beside = fs::read_dir(place.path()).expect("a directory").count();
        assert_eq!(beside, 2, "{what}");
    }
}

#[test]
fn a_later_member_wins_and_never_writes_through_the_earlier_one() {
    let (place, target) = place();
    let read = |name: &str| fs::read(target.path().join(name)).expect("readable");
    unpack(
        &target,
        &file("pg_hba.conf", b"old and long"),
        b"old and long",
    )
    .expect("unpacked");
    unpack(&target, &hard_link("copy", "./pg_hba.conf"), b"").expect("unpacked");
    unpack(&target, &file("./pg_hba.conf", b"new"), b"new").expect("unpacked");
    assert_eq!(
        (read("pg_hba.conf"), read("copy")),
        (b"new".to_vec(), b"old and long".to_vec())
    );

    unpack(&target, &link("conf", "../outside"), b"").expect("unpacked");
    unpack(&target, &file("conf", b"plain"), b"plain").expect("unpacked");
    assert_eq!(read("conf"), b"plain");
    assert_eq!(
        fs::read(place.path().join("outside")).expect("readable"),
        b"outside"
    );

    unpack(&target, &link("conf", "first"), b"").expect("unpacked");
    unpack(&target, &link("conf", "second"), b"").expect("unpacked");
    assert_eq!(
        fs::read_link(target.path().join("conf")).expect("a link"),
        Path::new("second")
    );

    unpack(&target, &hard_link("copy", "copy"), b"").expect("a link to itself changes nothing");
    assert_eq!(read("copy"), b"old and long");
}

#[test]
fn set_id_bits_of_files_are_dropped() {
    let (_place, target) = place();
    let program = Member {
        mode: 0o6755,
        ..file("program", b"x")
    };
    unpack(&target, &program, b"x").expect("unpacked");
    let mode = target
        .path()
        .join("program")
        .metadata()
        .expect("a file")
        .mode();
    assert_eq!(mode & 0o7777, 0o755);
}

#[test]
fn a_link_in_the_place_of_global_keeps_pg_control_inside() {
    let (place, target) = place();
    unpack(&target, &link("global", ".."), b"").expect("unpacked");
    let result = target.write_held(&file("global/pg_control", b"x"), b"x", Durability::Synced);
    assert!(
        matches!(result, Err(RestoreError::InTheWay { .. })),
        "{result:?}"
    );
    assert!(!place.path().join("pg_control").exists());
}
