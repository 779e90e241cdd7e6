//! Archives as they should be; `hostile` has those that should not.

mod hostile;
mod kept;

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::{self, Cursor, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::thread;

use nix::unistd::Uid;
use rustix::fs::{CWD, Mode};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::*;
use crate::pgdata::testing::unprivileged;
use crate::pgdata::{CONTROL_NAME, Found, HardLinks, LABEL_NAME, OwnerNames, Rules, Walk};
use crate::tar::{Member, MemberKind, Mtime, TarReader};

fn member(name: &[u8], kind: MemberKind) -> Member {
    Member {
        name: name.to_vec(),
        kind,
        mode: 0o600,
        uid: 65534,
        gid: 65534,
        user: Vec::new(),
        group: Vec::new(),
        mtime: Mtime {
            seconds: 1_000_000_000,
            nanos: 123_456_789,
        },
    }
}

fn file(name: &str, content: &[u8]) -> Member {
    let size = content.len() as u64;
    member(name.as_bytes(), MemberKind::File { size })
}

fn directory(name: &str) -> Member {
    Member {
        mode: 0o700,
        ..member(name.as_bytes(), MemberKind::Directory)
    }
}

fn link(name: &str, target: &str) -> Member {
    let target = target.as_bytes().to_vec();
    member(name.as_bytes(), MemberKind::Symlink { target })
}

fn hard_link(name: &str, target: &str) -> Member {
    let target = target.as_bytes().to_vec();
    member(name.as_bytes(), MemberKind::HardLink { target })
}

/// A directory with a target `main` in it, and a file beside the target.
fn place() -> (TempDir, Target) {
    let place = tempfile::tempdir().expect("a temporary directory");
    fs::write(place.path().join("outside"), b"outside").expect("a file");
    let target = Target::open(&place.path().join("main")).expect("a target");
    (place, target)
}

fn unpack(target: &Target, member: &Member, content: &[u8]) -> Result<(), RestoreError> {
    Unpacker::new(target, 0, Durability::Synced).unpack(member, &mut Cursor::new(content))
}

/// All files below `root`, links not followed.
fn all_below(root: &Path) -> BTreeMap<PathBuf, fs::Metadata> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_path_buf()];
    while let Some(path) = left.pop() {
        let metadata = path.symlink_metadata().expect("the file is there");
        if metadata.is_dir() {
            for entry in fs::read_dir(&path).expect("a directory") {
                left.push(entry.expect("an entry").path());
            }
        }
        let name = path.strip_prefix(root).expect("below the root").to_owned();
        found.insert(name, metadata);
    }
    found
}

/// Unpacks everything a walk finds, hard links included.
fn copy(source: &Path, target: &Target) {
    let rules = Rules::Pgdata {
        tablespaces: Vec::new(),
    };
    let mut owners = OwnerNames::default();
    let mut links = HardLinks::default();
    let mut unpacker = Unpacker::new(target, 0, Durability::Synced);
    for found in Walk::open(source, rules, &[]).expect("the source can be opened") {
        let Found::Entry(entry) = found.expect("the source can be read") else {
            panic!("everything is stored");
        };
        let mut member = entry.member(&mut owners);
        if !matches!(member.kind, MemberKind::File { .. }) {
            unpacker
                .unpack(&member, &mut io::empty())
                .expect("unpacked");
            continue;
        }
        let opened = entry.open(&mut owners).expect("the file can be opened");
        let mut opened = opened.expect("the file is there");
        if let Some((first, ())) = links.stored_as(0, &opened.meta) {
            let target = first.to_vec();
            member.kind = MemberKind::HardLink { target };
            unpacker
                .unpack(&member, &mut io::empty())
                .expect("unpacked");
        } else {
            unpacker
                .unpack(&opened.member, &mut io::BufReader::new(&mut opened.file))
                .expect("unpacked");
            links.note(0, &opened.meta, &opened.member.name, ());
        }
    }
    target.finish().expect("finished");
}

#[test]
fn a_tree_with_odd_contents_comes_back_as_it_was() {
    let source = tempfile::tempdir().expect("a temporary directory");
    let root = source.path();
    fs::create_dir_all(root.join("base/5")).expect("directories");
    fs::create_dir(root.join("shared")).expect("a directory");
    fs::write(root.join("base/5/").join("n".repeat(255)), b"long").expect("a file");
    fs::write(root.join("base/two\nlines"), b"newline").expect("a file");
    fs::write(root.join(std::ffi::OsStr::from_bytes(b"latin\xe9")), b"x").expect("a file");
    fs::write(root.join("empty"), b"").expect("a file");
    let sparse = fs::File::create(root.join("base/5/16384")).expect("a file");
    sparse
        .write_all_at(b"end", 3_000_000)
        .expect("a hole before it");
    fs::hard_link(root.join("base/5/16384"), root.join("base/other")).expect("a hard link");
    symlink("base/5/16384", root.join("link")).expect("a link");
    symlink("/no\nwhere", root.join("broken")).expect("a link");
    rustix::fs::mkfifoat(CWD, root.join("pipe"), Mode::empty()).expect("a pipe");
    for (name, mode) in [
        ("empty", 0o640),
        ("pipe", 0o622),
        ("base/5", 0o500),
        ("shared", 0o2775),
    ] {
        fs::set_permissions(root.join(name), Permissions::from_mode(mode)).expect("a mode");
    }
    let times = fs::FileTimes::new().set_modified(std::time::SystemTime::UNIX_EPOCH);
    sparse.set_times(times).expect("a date");

    let (_place, target) = place();
    copy(root, &target);

    let (before, after) = (all_below(root), all_below(target.path()));
    assert_eq!(
        before.keys().collect::<Vec<_>>(),
        after.keys().collect::<Vec<_>>()
    );
    for (name, old) in &before {
        let new = &after[name];
        let shown = name.display();
        assert_eq!(old.mode(), new.mode(), "kind and mode of {shown}");
        assert_eq!(
            (old.mtime(), old.mtime_nsec()),
            (new.mtime(), new.mtime_nsec()),
            "date of {shown}"
        );
        assert_eq!(
            (old.uid(), old.gid()),
            (new.uid(), new.gid()),
            "owner of {shown}"
        );
        let (old_path, new_path) = (root.join(name), target.path().join(name));
        if old.is_file() {
            assert_eq!(old.nlink(), new.nlink(), "names of {shown}");
            let same =
                fs::read(old_path).expect("readable") == fs::read(new_path).expect("readable");
            assert!(same, "content of {shown}");
        } else if old.is_symlink() {
            let target_of = |path| fs::read_link(path).expect("a link");
            assert_eq!(
                target_of(old_path),
                target_of(new_path),
                "target of {shown}"
            );
        }
    }
    let inode = |name: &str| after[Path::new(name)].ino();
    assert_eq!(inode("base/5/16384"), inode("base/other"));
}

#[test]
fn content_is_read_exactly_as_far_as_the_size() {
    let (_place, target) = place();
    let mut content = Cursor::new(b"1234rest");
    let four = file("four", b"1234");
    Unpacker::new(&target, 0, Durability::Synced)
        .unpack(&four, &mut content)
        .expect("unpacked");
    assert_eq!(
        fs::read(target.path().join("four")).expect("readable"),
        b"1234"
    );
    assert_eq!(content.position(), 4);

    let short = unpack(&target, &file("short", b"1234"), b"12");
    assert!(
        matches!(
            short,
            Err(RestoreError::Short {
                expected: 4,
                found: 2,
                ..
            })
        ),
        "{short:?}"
    );

    let mut broken = io::BufReader::new(Cursor::new(b"12").chain(Broken));
    let failed = Unpacker::new(&target, 0, Durability::Synced).unpack(&four, &mut broken);
    assert!(
        matches!(failed, Err(RestoreError::Read { .. })),
        "{failed:?}"
    );
}

struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other("connection lost"))
    }
}

#[test]
fn directories_without_a_member_are_private_and_dates_are_set_at_the_end() {
    let (_place, target) = place();
    let closed = Member {
        mode: 0o500,
        ..directory("base")
    };
    unpack(&target, &file("PG_15_202209061/5/16384", b"x"), b"x").expect("unpacked");
    unpack(&target, &closed, b"").expect("unpacked");
    unpack(&target, &file("base/1259", b"x"), b"x").expect("unpacked");
    target.ensure_directory("pg_wal").expect("made");
    target.finish().expect("finished");
    let found = all_below(target.path());
    for name in ["", "PG_15_202209061", "PG_15_202209061/5", "pg_wal"] {
        assert_eq!(found[Path::new(name)].mode() & 0o7777, 0o700, "{name}");
    }
    let base = &found[Path::new("base")];
    assert_eq!(base.mode() & 0o7777, 0o500);
    assert_eq!(
        (base.mtime(), base.mtime_nsec()),
        (1_000_000_000, 123_456_789)
    );
}

/// Restored by somebody for whom modes count, unlike root.
#[test]
fn a_directory_without_permissions_gets_its_files() {
    let place = tempfile::tempdir().expect("a temporary directory");
    fs::set_permissions(place.path(), Permissions::from_mode(0o777)).expect("a mode");
    unprivileged(|| {
        let mut target = Target::open(&place.path().join("main")).expect("a target");
        target.gives_away = false;
        // Not even readable: what is below has to be finished before it.
        let closed = Member {
            mode: 0o100,
            ..directory("base")
        };
        unpack(&target, &closed, b"").expect("unpacked");
        unpack(&target, &directory("base/5"), b"").expect("unpacked");
        unpack(&target, &file("base/5/1259", b"x"), b"x").expect("unpacked");
        unpack(&target, &file("base/1259", b"x"), b"x").expect("unpacked");
        target.finish().expect("finished");
        sync_all(&[&target]).expect("synced");
        let base = target.path().join("base");
        assert!(
            fs::write(base.join("more"), b"x").is_err(),
            "the mode counts for this thread"
        );
        fs::set_permissions(base, Permissions::from_mode(0o700)).expect("a mode");
    });
}

/// A mount point may belong to root and still be open to whoever restores.
#[test]
fn a_target_of_another_owner_keeps_its_mode() {
    let place = tempfile::tempdir().expect("a temporary directory");
    fs::set_permissions(place.path(), Permissions::from_mode(0o777)).expect("a mode");
    unprivileged(|| {
        let mut target = Target::open(place.path()).expect("a target");
        target.gives_away = false;
        unpack(&target, &directory("."), b"").expect("unpacked");
        unpack(&target, &file("PG_VERSION", b"15"), b"15").expect("unpacked");
        target.finish().expect("finished");
        target
            .write_held(&file("backup_label", b"x"), b"x", Durability::Synced)
            .expect("written");
    });
}

#[test]
fn a_target_must_be_absent_or_an_empty_directory() {
    let place = tempfile::tempdir().expect("a temporary directory");
    let at = |name: &str| place.path().join(name);
    fs::create_dir_all(at("full/sub")).expect("directories");
    fs::create_dir(at("empty")).expect("a directory");
    fs::write(at("file"), b"x").expect("a file");
    symlink(at("empty"), at("link")).expect("a link");
    symlink(at("absent"), at("broken")).expect("a link");
    let check = |name: &str| check_destination(&at(name));
    for good in ["empty", "absent", "absent/below", "link", "full/sub/main"] {
        assert!(check(good).is_ok(), "{good}");
    }
    assert!(matches!(check("full"), Err(RestoreError::NotEmpty { .. })));
    assert!(matches!(
        check("file"),
        Err(RestoreError::NotADirectory { .. })
    ));
    assert!(matches!(
        check("file/main"),
        Err(RestoreError::NotADirectory { .. })
    ));
    assert!(matches!(
        check("broken"),
        Err(RestoreError::NotWritable { .. })
    ));
    assert!(!at("absent").exists(), "nothing was made");
    for path in [place.path().to_owned(), at("empty")] {
        fs::set_permissions(path, Permissions::from_mode(0o555)).expect("a mode");
    }
    unprivileged(|| {
        for unwritable in ["empty", "absent", "link", "absent/below"] {
            let result = check(unwritable);
            assert!(
                matches!(result, Err(RestoreError::NotWritable { .. })),
                "{unwritable}: {result:?}"
            );
        }
    });
}

#[test]
fn a_missing_target_is_made_for_the_owner_alone() {
    let place = tempfile::tempdir().expect("a temporary directory");
    let target = Target::open(&place.path().join("a/b")).expect("a target");
    Target::open(&place.path().join("a/c")).expect("another below the same directory");
    for path in [place.path().join("a"), target.path().to_owned()] {
        assert_eq!(path.metadata().expect("a directory").mode() & 0o7777, 0o700);
    }
}

/// Both found it empty a moment ago: only one may go on, whether the other is still at
/// work or has ended.
#[test]
fn of_two_restores_into_one_directory_one_is_refused() {
    let place = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| (place.path().join(name), Contents::Nothing);
    let inside = path("main/pg_tblspc/inside");
    let paths = [path("main"), inside, path("other")];
    let first = open_targets(&paths).expect("targets, one inside another");
    for path in &paths {
        let second = open_targets(std::slice::from_ref(path));
        assert!(
            matches!(second, Err(RestoreError::Busy { .. })),
            "{second:?}"
        );
    }
    unpack(&first[2], &file("PG_VERSION", b"15"), b"15").expect("unpacked");
    drop(first);
    for taken in ["main", "other"] {
        let second = open_targets(&[path("new"), path(taken)]);
        assert!(
            matches!(second, Err(RestoreError::NotEmpty { .. })),
            "{second:?}"
        );
    }
}

#[test]
fn a_tablespace_is_linked_once() {
    let (place, target) = place();
    let location = place.path().join("tbs");
    target.link_tablespace(16384, &location).expect("linked");
    let link = target.path().join("pg_tblspc/16384");
    assert_eq!(fs::read_link(&link).expect("a link"), location);
    let again = target.link_tablespace(16384, &location);
    assert!(
        matches!(again, Err(RestoreError::LinkExists { .. })),
        "{again:?}"
    );
}

/// R1: PostgreSQL cannot start on the directory before the last two calls.
#[test]
fn the_held_back_members_come_after_everything_else_and_disturb_no_date() {
    let (_place, target) = place();
    unpack(&target, &directory("."), b"").expect("unpacked");
    unpack(&target, &directory("global"), b"").expect("unpacked");
    target.finish().expect("finished");
    sync_all(&[&target]).expect("synced");
    assert_eq!(all_below(target.path()).len(), 2);

    let label = file("./backup_label", b"START WAL LOCATION");
    target
        .write_held(&label, b"START WAL LOCATION", Durability::Synced)
        .expect("written");
    target
        .write_held(
            &file("global/pg_control", b"control"),
            b"control",
            Durability::Synced,
        )
        .expect("written");
    let found = all_below(target.path());
    assert_eq!(found.len(), 4);
    for name in [b"".as_slice(), b"global", LABEL_NAME, CONTROL_NAME] {
        let metadata = &found[Path::new(std::ffi::OsStr::from_bytes(name))];
        assert_eq!(
            (metadata.mtime(), metadata.mtime_nsec()),
            (1_000_000_000, 123_456_789)
        );
    }
    let content = fs::read(target.path().join("global/pg_control")).expect("readable");
    assert_eq!(content, b"control");

    for other in [file("global/1262", b"x"), link("backup_label", "x")] {
        let refused = target.write_held(&other, b"x", Durability::Synced);
        assert!(
            matches!(refused, Err(RestoreError::Refused { .. })),
            "{refused:?}"
        );
    }
}

#[test]
fn root_gives_files_to_their_owners_and_nameless_ones_to_the_clusters() {
    if !Uid::effective().is_root() {
        return; // Only root can give files away.
    }
    let (_place, target) = place();
    let owned = |member: Member, uid: u64| Member {
        uid,
        gid: uid,
        ..member
    };
    // Before the cluster's owner is known.
    unpack(&target, &owned(file("early", b"x"), 0), b"x").expect("unpacked");
    unpack(&target, &owned(link("early_link", "x"), 0), b"").expect("unpacked");
    unpack(&target, &owned(directory("."), 5555), b"").expect("unpacked");
    unpack(&target, &owned(file("server.key", b"x"), 6666), b"x").expect("unpacked");
    unpack(&target, &owned(file("implied/late", b"x"), 0), b"x").expect("unpacked");
    let named = Member {
        user: b"root".to_vec(),
        group: b"root".to_vec(),
        ..owned(file("named", b"x"), 7777)
    };
    unpack(&target, &named, b"x").expect("unpacked");
    target
        .link_tablespace(16384, Path::new("/nowhere"))
        .expect("linked");
    target.finish().expect("finished");
    target
        .write_held(
            &owned(file("backup_label", b"x"), 0),
            b"x",
            Durability::Synced,
        )
        .expect("written");
    let owners: Vec<(String, u32, u32)> = all_below(target.path())
        .into_iter()
        .map(|(name, metadata)| (name.display().to_string(), metadata.uid(), metadata.gid()))
        .collect();
    let expected = [
        ("", 5555),
        ("backup_label", 5555),
        ("early", 5555),
        ("early_link", 5555),
        ("implied", 5555),
        ("implied/late", 5555),
        ("named", 0),
        ("pg_tblspc", 5555),
        ("pg_tblspc/16384", 5555),
        ("server.key", 6666),
    ];
    assert_eq!(owners, expected.map(|(name, id)| (name.to_owned(), id, id)));
}

/// Archives are unpacked side by side, and each may be the first to need a directory.
#[test]
fn several_threads_can_unpack_into_one_target() {
    let (_place, target) = place();
    thread::scope(|scope| {
        for thread in 0..4 {
            let target = &target;
            scope.spawn(move || {
                let mut unpacker = Unpacker::new(target, 0, Durability::Synced);
                for number in 0..200 {
                    let own = format!("base/{number}/{thread}");
                    let content = own.clone().into_bytes();
                    unpacker
                        .unpack(&file(&own, &content), &mut content.as_slice())
                        .expect("unpacked");
                    let shared = file("shared", b"same");
                    unpacker
                        .unpack(&shared, &mut b"same".as_slice())
                        .expect("unpacked");
                }
            });
        }
    });
    target.finish().expect("finished");
    let found = all_below(target.path());
    assert_eq!(found.len(), 1 + 1 + 1 + 200 + 800);
    assert_eq!(
        fs::read(target.path().join("base/7/3")).expect("readable"),
        b"base/7/3"
    );
    assert_eq!(
        fs::read(target.path().join("shared")).expect("readable"),
        b"same"
    );
}

/// docs/decisions.md 28: of a name in several archives the last one's file stays, in whatever
/// order they are unpacked, and so do the attributes of a directory.
#[test]
fn the_last_archive_wins_in_whatever_order_they_are_unpacked() {
    let orders: [[u32; 3]; 4] = [[0, 1, 2], [2, 1, 0], [1, 2, 0], [2, 0, 1]];
    for order in orders {
        let (_place, target) = place();
        for archive in order {
            let mut unpacker = Unpacker::new(&target, archive, Durability::Synced);
            let content = [b'0' + u8::try_from(archive).expect("small"); 10];
            let size = usize::try_from(archive + 1).expect("small");
            let content = &content[..size];
            let mut take = |member: Member| {
                let unpacked = unpacker.unpack(&member, &mut &*content);
                unpacked.expect("unpacked");
            };
            take(Member {
                mode: 0o700 + archive,
                ..directory("d")
            });
            take(file("d/file", content));
            take(link("d/link", &archive.to_string()));
            if archive < 2 {
                take(file("d/either", content));
            }
            take(file("d/twice", b""));
            take(file("d/twice", content));
            take(file(&format!("d/own{archive}"), content));
            take(hard_link(
                &format!("d/other{archive}"),
                &format!("d/own{archive}"),
            ));
        }
        target.finish().expect("finished");
        let read = |name: &str| fs::read(target.path().join("d").join(name)).expect("readable");
        assert_eq!(read("file"), b"222", "{order:?}");
        assert_eq!(read("twice"), b"222", "{order:?}");
        assert_eq!(read("either"), b"11", "{order:?}");
        let led = fs::read_link(target.path().join("d/link")).expect("a link");
        assert_eq!(led, Path::new("2"), "{order:?}");
        let mode = fs::metadata(target.path().join("d")).expect("there").mode();
        assert_eq!(mode & 0o7777, 0o702, "{order:?}");
        for (name, size, crc) in [
            ("d/file", 3, crc32c::crc32c(b"222")),
            ("d/either", 2, crc32c::crc32c(b"11")),
            ("d/other0", 1, crc32c::crc32c(b"0")),
        ] {
            let known = target.names().remove_file(name.as_bytes());
            assert!(known.is_some_and(|known| known.is(size, crc)), "{name}");
        }
    }
}

/// An archive made by the tools we are compatible with, restored in the order of
/// docs/decisions.md 27, gives what they restore.
#[test]
fn the_golden_backup_comes_back_with_the_recorded_hashes_and_modes() {
    let golden = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/tiny"));
    let archive = golden.join("none/base/20261121T120000/data.tar");
    let (_place, target) = place();
    let mut unpacker = Unpacker::new(&target, 0, Durability::Synced);
    let mut held = BTreeMap::new();
    let mut reader = TarReader::new(fs::File::open(archive).expect("the golden archive"));
    while let Some(member) = reader.next_member().expect("a whole archive") {
        if is_held_back(&member.name) {
            let mut content = Vec::new();
            reader.read_to_end(&mut content).expect("readable");
            held.insert(
                plain_name(&member.name).expect("a good name"),
                (member, content),
            );
        } else {
            let mut content = io::BufReader::new(&mut reader);
            unpacker.unpack(&member, &mut content).expect("unpacked");
        }
    }
    target.ensure_directory("pg_wal").expect("made");
    target.finish().expect("finished");
    sync_all(&[&target]).expect("synced");
    for name in [LABEL_NAME, CONTROL_NAME] {
        let (member, content) = &held[name];
        target
            .write_held(member, content, Durability::Synced)
            .expect("written");
    }

    let expected = fs::read_to_string(golden.join("EXPECTED-RESTORE.txt")).expect("the record");
    let (pgdata, _tablespace) = expected.split_once("# tablespace").expect("two parts");
    let mut checked = 0;
    for line in pgdata.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let path = |name: &str| target.path().join(name);
        match words[..] {
            [hash, name] if hash.len() == 64 => {
                let digest = Sha256::digest(fs::read(path(name)).expect("readable"));
                let digits: Vec<&str> = (0..32).map(|at| &hash[2 * at..2 * at + 2]).collect();
                let expected: Vec<u8> = digits
                    .iter()
                    .map(|digits| u8::from_str_radix(digits, 16).expect("two digits"))
                    .collect();
                assert_eq!(digest[..], expected, "content of {name}");
            }
            [mode, name] => {
                let found = path(name).metadata().expect("a directory").mode() & 0o7777;
                assert_eq!(format!("{found:o}"), mode, "mode of {name}");
            }
            [name, "->", to] => {
                assert_eq!(fs::read_link(path(name)).expect("a link"), Path::new(to));
            }
            _ => panic!("what does `{line}` mean"),
        }
        checked += 1;
    }
    assert_eq!(checked, all_below(target.path()).len());
}
