//! Targets that are not empty: restored over, and gone on with.

use super::*;

/// A target over a directory as it is.
fn over(path: &Path) -> Target {
    opened(path, Contents::Over)
}

fn opened(path: &Path, contents: Contents) -> Target {
    let targets = open_targets(&[(path.to_owned(), contents)]);
    targets.expect("a target").remove(0)
}

fn kept_place() -> (TempDir, PathBuf) {
    let place = tempfile::tempdir().expect("a temporary directory");
    let main = place.path().join("main");
    fs::create_dir(&main).expect("a directory");
    fs::write(place.path().join("outside"), b"outside").expect("a file");
    (place, main)
}

#[test]
fn only_what_differs_is_written_and_never_under_another_name() {
    let (place, main) = kept_place();
    let content: Vec<u8> = (0..300_000_u32).map(|at| (at % 251) as u8).collect();
    let put = |name: &str, bytes: &[u8]| fs::write(main.join(name), bytes).expect("a file");
    let mut other = content.clone();
    other[200_000] ^= 1;
    put("same", &content);
    put("other", &other);
    put("longer", &[&content[..], b"more"].concat());
    put("shorter", &content[..100_000]);
    put("linked", &other);
    fs::hard_link(main.join("linked"), place.path().join("theirs")).expect("a link");
    symlink("../outside", main.join("link")).expect("a link");
    fs::create_dir_all(main.join("directory/deep")).expect("directories");
    let names = [
        ("same", 0),
        ("other", 1),
        ("longer", 0),
        ("shorter", 1),
        ("linked", 2),
        ("link", 2),
        ("directory", 2),
        ("absent", 2),
    ];
    for (name, expected) in names {
        let target = over(&main);
        // In pieces, as it comes from an archive.
        let mut reader = io::BufReader::with_capacity(100_000, content.as_slice());
        let mut unpacker = Unpacker::new(&target, 0, Durability::Synced);
        unpacker
            .unpack(&file(name, &content), &mut reader)
            .expect("unpacked");
        assert!(
            fs::read(main.join(name)).expect("readable") == content,
            "{name}"
        );
        let written = match target.written() {
            0 => 0,
            300_000 => 2,
            _ => 1,
        };
        assert_eq!(written, expected, "{name}: {}", target.written());
        let metadata = main.join(name).symlink_metadata().expect("there");
        assert_eq!(
            (metadata.mtime(), metadata.mode() & 0o7777),
            (1_000_000_000, 0o600)
        );
        let known = target.names().remove_file(name.as_bytes());
        assert!(known.is_some_and(|known| known.is(300_000, crc32c::crc32c(&content))));
    }
    assert!(fs::read(place.path().join("theirs")).expect("readable") == other);
    assert_eq!(
        fs::read(place.path().join("outside")).expect("readable"),
        b"outside"
    );
}

#[test]
fn a_link_is_followed_for_the_wal_alone_and_only_if_it_was_there() {
    let (place, main) = kept_place();
    for name in ["wal", "elsewhere"] {
        fs::create_dir(place.path().join(name)).expect("a directory");
    }
    symlink("../wal", main.join("pg_wal")).expect("a link");
    symlink("../elsewhere", main.join("base")).expect("a link");
    let target = over(&main);
    unpack(&target, &directory("pg_wal/archive_status"), b"").expect("unpacked");
    assert!(place.path().join("wal/archive_status").is_dir());
    unpack(&target, &file("base/1", b"x"), b"x").expect("unpacked");
    assert!(!main.join("base").is_symlink() && main.join("base/1").is_file());
    assert!(!place.path().join("elsewhere/1").exists());
    target.finish().expect("finished");
}

/// Of two runs the first could leave a link for the second.
#[test]
fn no_archive_makes_a_link_that_a_later_run_follows() {
    for contents in [Contents::Nothing, Contents::Resumed, Contents::Over] {
        for name in ["pg_wal", "./pg_xlog/"] {
            let (place, main) = kept_place();
            fs::create_dir(place.path().join("elsewhere")).expect("a directory");
            let target = opened(&main, contents);
            let refused = unpack(&target, &link(name, "../elsewhere"), b"");
            assert!(
                matches!(refused, Err(RestoreError::Refused { .. })),
                "{contents:?} {name}: {refused:?}"
            );
        }
    }
}

#[test]
fn a_restore_that_goes_on_follows_no_link() {
    let (place, main) = kept_place();
    fs::create_dir(place.path().join("elsewhere")).expect("a directory");
    symlink("../elsewhere", main.join("pg_wal")).expect("a link");
    let target = opened(&main, Contents::Resumed);
    unpack(&target, &file("pg_wal/1", b"x"), b"x").expect("unpacked");
    assert!(!main.join("pg_wal").is_symlink() && main.join("pg_wal/1").is_file());
    assert!(!place.path().join("elsewhere/1").exists());
}

#[test]
fn nothing_takes_the_place_of_the_wal_that_is_there() {
    let (_place, main) = kept_place();
    fs::create_dir(main.join("pg_wal")).expect("a directory");
    fs::write(main.join("pg_wal/00000001000000000000000A"), "x").expect("a file");
    let target = over(&main);
    unpack(&target, &file("f", b"x"), b"x").expect("unpacked");
    let members = [
        file("pg_wal", b"x"),
        hard_link("pg_wal", "f"),
        member(b"pg_wal", MemberKind::Fifo),
    ];
    for member in members {
        let refused = unpack(&target, &member, b"x");
        assert!(
            matches!(refused, Err(RestoreError::Refused { .. })),
            "{refused:?}"
        );
    }
    assert!(main.join("pg_wal/00000001000000000000000A").is_file());
}

#[test]
fn a_hard_link_waits_for_no_lock_that_it_has_itself() {
    let (place, main) = kept_place();
    fs::create_dir(place.path().join("wal")).expect("a directory");
    symlink("../wal", main.join("pg_wal")).expect("a link");
    let target = over(&main);
    let mut names = (0..).map(|number| format!("h{number}"));
    let name = names
        .find(|name| target.names().share_a_lock(b"pg_wal", name.as_bytes()))
        .expect("one in 4096");
    let (done, waits) = std::sync::mpsc::channel();
    thread::spawn(move || {
        unpack(&target, &file("pg_wal/f", b"x"), b"x").expect("unpacked");
        unpack(&target, &hard_link(&name, "pg_wal/f"), b"").expect("unpacked");
        let _ = done.send(());
    });
    let waited = waits.recv_timeout(std::time::Duration::from_secs(20));
    assert!(waited.is_ok(), "{waited:?}");
}

/// `/proc` is a file system of its own everywhere, and nothing is written there.
#[test]
fn every_file_system_that_was_written_to_is_synced() {
    let (_place, main) = kept_place();
    symlink("/proc", main.join("pg_wal")).expect("a link");
    let target = over(&main);
    target.ensure_directory("base").expect("made");
    assert_eq!(target.on_each_device().len(), 1);
    target.ensure_directory("pg_wal").expect("there");
    assert_eq!(target.on_each_device().len(), 2);
    sync_all(&[&target]).expect("synced");
}

#[test]
fn a_target_that_lies_in_another_one_is_not_cleaned_away() {
    let (_place, main) = kept_place();
    for name in ["space/PG_15_1", "new/space/PG_15_1", "old", "pg_wal/space"] {
        fs::create_dir_all(main.join(name)).expect("directories");
        fs::write(main.join(name).join("x"), "x").expect("a file");
    }
    fs::write(main.join("new/y"), "y").expect("a file");
    let target = over(&main);
    target.ensure_directory("pg_wal").expect("there");
    let others = ["space", "new/space", "pg_wal/space"].map(|name| over(&main.join(name)));
    let all = std::iter::once(&target).chain(&others);
    let spared = Spared::all(all).expect("they are there");
    let removed = target.remove_extra(Extent::Pgdata(&[]), &spared);
    // `old` and `new/y`.
    assert_eq!(removed.expect("removed").names, 2);
    for name in ["space/PG_15_1/x", "new/space/PG_15_1/x", "pg_wal/space/x"] {
        assert!(main.join(name).is_file(), "{name}");
    }
    assert!(!main.join("old").exists() && !main.join("new/y").exists());
}

#[test]
fn what_no_archive_has_is_removed_but_for_what_is_anothers() {
    let (place, main) = kept_place();
    for name in [
        "base/1/deep",
        "global",
        "lost+found",
        "wal/archive_status",
        "wal/summaries",
        "wal/lost+found",
    ] {
        fs::create_dir_all(main.join(name)).expect("directories");
    }
    fs::rename(main.join("wal"), place.path().join("wal")).expect("moved");
    symlink("../wal", main.join("pg_wal")).expect("a link");
    symlink("../outside", main.join("base/link")).expect("a link");
    symlink("..", main.join("up")).expect("a link");
    let wal = |name: &str| place.path().join("wal").join(name);
    for name in [
        "00000001000000000000000A",
        "00000001000000000000000B",
        "00000002.history",
        "xlogtemp.77",
        "archive_status/00000001000000000000000A.done",
        "archive_status/00000001000000000000000B.ready",
        "summaries/x",
    ] {
        fs::write(wal(name), name).expect("a file");
    }
    for name in [
        "base/1/deep/x",
        "global/1",
        "global/2",
        "lost+found/x",
        "stays",
    ] {
        fs::write(main.join(name), name).expect("a file");
    }
    let target = over(&main);
    unpack(&target, &directory("base"), b"").expect("unpacked");
    unpack(&target, &file("global/1", b"x"), b"x").expect("unpacked");
    target.ensure_directory("pg_wal").expect("there");
    let nothing = Spared::default();
    let removed = target.remove_extra(Extent::Pgdata(&[b"stays".to_vec()]), &nothing);
    let removed = removed.expect("removed");
    // base/1, base/link, global/2, up; and of the WAL: A, xlogtemp, summaries, two marks.
    assert_eq!((removed.names, removed.kept_wal), (9, 2));
    let left: Vec<String> = all_below(&main)
        .keys()
        .map(|name| name.display().to_string())
        .collect();
    let expected = [
        "",
        "base",
        "global",
        "global/1",
        "lost+found",
        "lost+found/x",
        "pg_wal",
        "stays",
    ];
    assert_eq!(left, expected);
    let left: Vec<String> = all_below(&place.path().join("wal"))
        .keys()
        .map(|name| name.display().to_string())
        .collect();
    let kept = "barman-cloud-not-archived";
    let expected = [
        String::new(),
        "archive_status".into(),
        kept.into(),
        format!("{kept}/00000001000000000000000B"),
        format!("{kept}/00000002.history"),
        "lost+found".into(),
    ];
    assert_eq!(left, expected);
    assert!(place.path().join("outside").exists());

    // Another one of that name does not replace it.
    fs::write(wal("00000002.history"), "another").expect("a file");
    target
        .remove_extra(Extent::Pgdata(&[b"stays".to_vec()]), &nothing)
        .expect("removed");
    let both = ["00000002.history", "00000002.history.1"]
        .map(|name| fs::read_to_string(wal(kept).join(name)).expect("readable"));
    assert_eq!(both, ["00000002.history", "another"]);
}

#[test]
fn of_a_tablespace_only_the_directories_that_the_backup_has_are_cleaned() {
    let (_place, main) = kept_place();
    for name in ["PG_15_1/5", "PG_9.6_1/5", "lost+found"] {
        fs::create_dir_all(main.join(name)).expect("directories");
        fs::write(main.join(name).join("x"), "x").expect("a file");
    }
    let target = over(&main);
    unpack(&target, &file("PG_15_1/5/1", b"x"), b"x").expect("unpacked");
    target
        .remove_extra(Extent::Tablespace, &Spared::default())
        .expect("removed");
    assert!(!main.join("PG_15_1/5/x").exists() && main.join("PG_15_1/5/1").exists());
    assert!(main.join("PG_9.6_1/5/x").exists() && main.join("lost+found/x").exists());
}

/// A restore that goes on sets at the end what the one before had noted.
/// Attributes are set, and owners changed, under the names that are recalled.
#[test]
fn no_name_that_is_recalled_leads_out_of_the_target() {
    let (place, target) = place();
    for name in [
        "..",
        "../outside",
        "a/../..",
        "/etc",
        "./a",
        "a//b",
        "a/",
        "a\0b",
    ] {
        let name = to_hex(name.as_bytes());
        for line in [
            format!("d {name} 777 0 0 1 0"),
            format!("d {name} 777 - - 1 0"),
            format!("o {name}"),
        ] {
            assert_eq!(target.recall(0, &line), None, "{line}");
        }
    }
    assert_eq!(target.recall(0, "o -"), None);
    for line in ["d - 750 - - 1 0", "d 61 700 - - 1 0", "o 612f62"] {
        assert_eq!(target.recall(0, line), Some(()), "{line}");
    }
    drop(place);
}

#[test]
fn what_is_known_of_an_archive_is_recalled() {
    let (_place, target) = place();
    let private = Member {
        mode: 0o500,
        ..directory("d\n")
    };
    let mut unpacker = Unpacker::new(&target, 4, Durability::Synced);
    unpacker
        .unpack(&private, &mut io::empty())
        .expect("unpacked");
    let mut content = b"abc".as_slice();
    unpacker
        .unpack(&file("d\n/f", b"abc"), &mut content)
        .expect("unpacked");
    unpack(&target, &file("of another archive", b""), b"").expect("unpacked");
    let mut text = Vec::new();
    target.describe(4, &mut text).expect("described");
    let text = String::from_utf8(text).expect("text");
    let path = target.path().to_owned();
    drop(target);

    let again = opened(&path, Contents::Resumed);
    assert_eq!(again.recall(1, "x"), None);
    for line in text.lines().filter(|line| !line.starts_with('f')) {
        assert_eq!(again.recall(1, line), Some(()), "{line}");
    }
    // The salt is another one here, so the names are looked for by their number.
    let names = text.lines().filter(|line| line.starts_with("f "));
    let names: Vec<&str> = names.collect();
    assert_eq!(names.len(), 1, "{text}");
    assert_eq!(again.recall(1, names[0]), Some(()));
    assert_eq!(again.names().files(), 1);
    again.finish().expect("finished");
    let metadata = fs::metadata(path.join("d\n")).expect("there");
    assert_eq!(metadata.mode() & 0o7777, 0o500);
    assert_eq!(metadata.mtime(), 1_000_000_000);
    // For whoever removes it.
    fs::set_permissions(path.join("d\n"), Permissions::from_mode(0o700)).expect("set");
}

#[test]
fn a_held_member_is_told_in_words_and_read_again() {
    let held = Member {
        user: b"postgres".to_vec(),
        mtime: Mtime {
            seconds: -5,
            nanos: 7,
        },
        ..file("./global/pg_control", &[0, 255, 10])
    };
    for bytes in [&[0, 255, 10][..], &[]] {
        let expected = Member {
            kind: MemberKind::File {
                size: bytes.len() as u64,
            },
            ..held.clone()
        };
        let words = held_to_words(&expected, bytes);
        let words: Vec<&str> = words.split(' ').collect();
        assert_eq!(held_of_words(&words), Some((expected, bytes.to_vec())));
        assert_eq!(held_of_words(&words[1..]), None);
    }
    for (text, bytes) in [
        ("-", Some(vec![])),
        ("00ff", Some(vec![0, 255])),
        ("0", None),
        ("zz", None),
        ("é", None),
    ] {
        assert_eq!(of_hex(text), bytes, "{text}");
    }
}
