//! Trees made by hand, and changes made while they are walked: a walk is lazy, so
//! what a test does between two steps happens between two looks.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;

use tempfile::TempDir;

use super::*;
use crate::pgdata::testing::unprivileged;
use crate::pgdata::{HardLinks, OwnerNames};

fn pgdata(tablespaces: &[u32]) -> Rules {
    Rules::Pgdata {
        tablespaces: tablespaces.to_vec(),
    }
}

fn tablespace() -> Rules {
    Rules::Tablespace {
        major: "15".to_owned(),
    }
}

/// Makes files below a new directory, and the directories they need; a name that ends in a slash
/// is a directory.
fn tree(names: &[&str]) -> TempDir {
    let root = tempfile::tempdir().expect("a temporary directory");
    for name in names {
        let path = root.path().join(name);
        if name.ends_with('/') {
            fs::create_dir_all(path).expect("a directory");
        } else {
            fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            fs::write(path, name).expect("a file");
        }
    }
    root
}

fn entries(walk: Walk) -> Vec<Entry> {
    walk.filter_map(|found| match found.expect("the tree can be read") {
        Found::Entry(entry) => Some(entry),
        Found::LeftOut(_) => None,
    })
    .collect()
}

fn left_out(walk: Walk) -> Vec<LeftOut> {
    walk.filter_map(|found| match found.expect("the tree can be read") {
        Found::Entry(_) => None,
        Found::LeftOut(left_out) => Some(left_out),
    })
    .collect()
}

fn shown(entry: &Entry) -> String {
    display_name(&entry.name)
}

fn names(root: &Path, rules: Rules) -> Vec<String> {
    let walk = Walk::open(root, rules, &[]).expect("the root can be opened");
    entries(walk).iter().map(shown).collect()
}

/// Walks on until the entry of this name, which is returned.
fn advance(walk: &mut Walk, name: &str) -> Entry {
    walk.find_map(|found| match found.expect("the tree can be read") {
        Found::Entry(entry) if shown(&entry) == name => Some(entry),
        _ => None,
    })
    .unwrap_or_else(|| panic!("{name} is not in the tree"))
}

/// One line of a golden listing: kind, mode, name.
fn golden(text: &str) -> Vec<(char, u32, String)> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let mode = u32::from_str_radix(words[1], 8).expect("an octal mode");
            let name = words.last().expect("a name");
            (
                line.chars().next().expect("a kind"),
                mode,
                (*name).to_owned(),
            )
        })
        .collect()
}

/// Makes again what a golden listing lists.
fn imitate(root: &Path, listing: &[(char, u32, String)]) {
    for (kind, mode, name) in listing {
        let path = root.join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        match kind {
            '5' => fs::create_dir_all(&path).expect("a directory"),
            '2' => {
                symlink("/nonexistent/x", &path).expect("a link");
                continue;
            }
            '6' => rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::empty()).expect("a pipe"),
            _ => fs::write(&path, name).expect("a file"),
        }
        fs::set_permissions(&path, Permissions::from_mode(*mode)).expect("a mode");
    }
}

fn listing(walk: Walk) -> BTreeSet<(char, u32, String)> {
    entries(walk)
        .iter()
        .map(|entry| {
            let kind = match entry.kind {
                EntryKind::File => '0',
                EntryKind::Symlink { .. } => '2',
                EntryKind::Directory => '5',
                EntryKind::Fifo => '6',
            };
            (kind, entry.meta.mode, shown(entry))
        })
        .collect()
}

/// What the tools we are compatible with stored of such a directory, but for what they ought
/// not to have stored.
#[test]
fn a_prepared_pgdata_gives_the_golden_listing_without_its_slips() {
    let recorded = golden(include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/golden/tar-listings/excluded-files-data.tar.txt"
    )));
    // pg_control, two configuration files from elsewhere and the label are added after the walk.
    let (walked, added) = recorded.split_at(recorded.len() - 4);
    assert_eq!(added[0].2, "global/pg_control");
    let root = tree(&[
        "log/postgresql.log",
        "pg_wal/000000010000000000000001",
        "pg_wal/archive_status/000000010000000000000001.done",
        "pg_replslot/slot1/state",
        "base/pgsql_tmp/pgsql_tmp1.0",
        "base/5/pg_internal.init",
        "global/pg_internal.init",
        "postmaster.pid",
        "postmaster.opts",
        "postgresql.auto.conf.tmp",
        "standby.signal",
        "backup_label",
        "tablespace_map",
    ]);
    imitate(root.path(), walked);
    imitate(root.path(), &added[..1]);
    symlink(root.path().join("pg_stat"), root.path().join("dirlink")).expect("a link");
    let _socket = UnixListener::bind(root.path().join(".s.PGSQL.5432")).expect("a socket");

    let inner = FileId::of(&root.path().join("innertbs")).expect("the inner tablespace");
    let walk = Walk::open(root.path(), pgdata(&[16384]), &[inner]).expect("the root can be opened");

    let slips = [
        "./recovery.signal",
        "./backup_manifest",
        "pg_wal/sub",
        "pg_replslot/slot1",
        "innertbs",
        "base/5/t3_16414",
    ];
    let expected: BTreeSet<_> = walked
        .iter()
        .filter(|(_, _, name)| !slips.iter().any(|slip| name.starts_with(slip)))
        .map(|(kind, mode, name)| match kind {
            // Which name of a file is the link is decided when it is stored.
            '1' => ('0', *mode, name.clone()),
            kind => (*kind, *mode, name.clone()),
        })
        .collect();
    assert_eq!(listing(walk), expected);
}

#[test]
fn a_prepared_tablespace_gives_the_golden_listing_without_its_slips() {
    let recorded = golden(include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/golden/tar-listings/excluded-files-tablespace.tar.txt"
    )));
    let root = tree(&[
        "stray",
        "PG_15_202209061/pgsql_tmp/x",
        "PG_15_202209061/5/t3_16399",
    ]);
    imitate(root.path(), &recorded);
    let walk = Walk::open(root.path(), tablespace(), &[]).expect("the root can be opened");
    let expected: BTreeSet<_> = recorded
        .into_iter()
        .filter(|(_, _, name)| name.starts_with("PG_15_"))
        .collect();
    assert_eq!(listing(walk), expected);
}

#[test]
fn a_directory_comes_before_its_files_and_they_before_its_subdirectories() {
    let root = tree(&["b/z", "b/a/x", "b/c", "a/", "PG_VERSION", "Z", "b/B"]);
    assert_eq!(
        names(root.path(), pgdata(&[])),
        [
            ".",
            "./PG_VERSION",
            "./Z",
            "a",
            "b",
            "b/B",
            "b/c",
            "b/z",
            "b/a",
            "b/a/x"
        ]
    );
}

#[test]
fn names_may_be_anything_and_pgdata_may_be_a_link() {
    let long = "n".repeat(255);
    let root = tree(&["base/two\nlines", &format!("base/{long}")]);
    let foreign = OsStr::from_bytes(b"latin\xe9");
    fs::write(root.path().join(foreign), b"x").expect("a file");
    let elsewhere = tempfile::tempdir().expect("a temporary directory");
    let link = elsewhere.path().join("main");
    symlink(root.path(), &link).expect("a link");
    let walk = Walk::open(&link, pgdata(&[]), &[]).expect("the root can be opened");
    let names: Vec<Vec<u8>> = entries(walk).into_iter().map(|entry| entry.name).collect();
    assert_eq!(
        names,
        [
            b".".to_vec(),
            b"./latin\xe9".to_vec(),
            b"base".to_vec(),
            format!("base/{long}").into_bytes(),
            b"base/two\nlines".to_vec(),
        ]
    );
}

#[test]
fn what_vanishes_between_listing_and_looking_is_counted_and_passed_over() {
    let root = tree(&["a", "b", "base/5/1259", "base/6/1259"]);
    let mut walk = Walk::open(root.path(), pgdata(&[]), &[]).expect("the root can be opened");
    advance(&mut walk, "./a");
    fs::remove_file(root.path().join("b")).expect("removed");
    advance(&mut walk, "base");
    fs::remove_dir_all(root.path().join("base/5")).expect("removed");
    advance(&mut walk, "base/6/1259");
    assert!(walk.next().is_none());
    assert_eq!(walk.vanished(), 2);
}

#[test]
fn a_directory_removed_after_it_was_opened_is_empty() {
    let root = tree(&["base/5/1259"]);
    let mut walk = Walk::open(root.path(), pgdata(&[]), &[]).expect("the root can be opened");
    advance(&mut walk, "base/5");
    fs::remove_dir_all(root.path().join("base")).expect("removed");
    assert!(walk.next().is_none());
    assert_eq!(walk.vanished(), 1);
}

#[test]
fn a_file_that_vanishes_before_it_is_opened_is_no_error() {
    let root = tree(&["base/5/1259"]);
    let mut walk = Walk::open(root.path(), pgdata(&[]), &[]).expect("the root can be opened");
    let entry = advance(&mut walk, "base/5/1259");
    fs::remove_file(root.path().join("base/5/1259")).expect("removed");
    let opened = entry.open(&mut OwnerNames::default()).expect("no error");
    assert!(opened.is_none());
}

#[test]
fn the_size_is_that_found_after_opening() {
    let root = tree(&["base/5/1259"]);
    let mut walk = Walk::open(root.path(), pgdata(&[]), &[]).expect("the root can be opened");
    let entry = advance(&mut walk, "base/5/1259");
    fs::write(root.path().join("base/5/1259"), [0; 8192]).expect("written");
    let opened = entry.open(&mut OwnerNames::default()).expect("no error");
    assert_eq!(opened.expect("the file is there").meta.size, 8192);
}

#[test]
fn a_file_replaced_before_it_is_opened_fails_the_backup() {
    let replace: [fn(&Path); 4] = [
        |path| symlink("/etc/passwd", path).expect("a link"),
        |path| fs::create_dir(path).expect("a directory"),
        |path| drop(UnixListener::bind(path).expect("a socket")),
        // Opening it for reading would wait for a writer.
        |path| rustix::fs::mkfifoat(rustix::fs::CWD, path, Mode::RWXU).expect("a pipe"),
    ];
    for replace in replace {
        let root = tree(&["x"]);
        let mut walk = Walk::open(root.path(), pgdata(&[]), &[]).expect("the root can be opened");
        let entry = advance(&mut walk, "./x");
        fs::remove_file(root.path().join("x")).expect("removed");
        replace(&root.path().join("x"));
        let result = entry.open(&mut OwnerNames::default());
        assert!(
            matches!(result, Err(SourceError::NotAFile { .. })),
            "{result:?}"
        );
    }
}

#[test]
fn a_directory_that_cannot_be_read_fails_the_walk() {
    let root = tree(&["base/5/1259", "PG_VERSION"]);
    fs::set_permissions(root.path(), Permissions::from_mode(0o755)).expect("a mode");
    fs::set_permissions(root.path().join("base/5"), Permissions::from_mode(0o000)).expect("a mode");
    unprivileged(|| {
        let walk = Walk::open(root.path(), pgdata(&[]), &[]).expect("the root can be opened");
        let errors: Vec<String> = walk
            .filter_map(Result::err)
            .map(|error| error.to_string())
            .collect();
        let expected = format!(
            "could not open directory `base/5` in `{}`",
            root.path().display()
        );
        assert_eq!(errors, [expected]);
    });
    fs::set_permissions(root.path().join("base/5"), Permissions::from_mode(0o700)).expect("a mode");
}

#[test]
fn a_file_that_cannot_be_read_is_an_error_not_a_missing_file() {
    let root = tree(&["base/5/1259"]);
    fs::set_permissions(root.path(), Permissions::from_mode(0o755)).expect("a mode");
    let file = root.path().join("base/5/1259");
    fs::set_permissions(&file, Permissions::from_mode(0o000)).expect("a mode");
    unprivileged(|| {
        let mut walk = Walk::open(root.path(), pgdata(&[]), &[]).expect("the root can be opened");
        let entry = advance(&mut walk, "base/5/1259");
        let result = entry.open(&mut OwnerNames::default());
        assert!(
            matches!(result, Err(SourceError::Io { doing: "open", .. })),
            "{result:?}"
        );
    });
}

/// A database's or the server's directory behind a link is a directory that would be lost.
#[test]
fn links_to_directories_are_told_and_never_followed() {
    let elsewhere = tree(&["wal/000000010000000000000001", "5/1259"]);
    let root = tree(&["base/", "pg_tblspc/"]);
    let link = |target: &str, name: &str| {
        symlink(elsewhere.path().join(target), root.path().join(name)).expect("a link");
    };
    link("wal", "pg_wal");
    // To nothing, and of another version of the server.
    link("gone", "pg_xlog");
    link("5", "mine");
    link("5", "pg_tblspc/16384");
    link("5", "pg_tblspc/16385");
    let open = || Walk::open(root.path(), pgdata(&[16384]), &[]).expect("the root can be opened");
    let told: Vec<(String, bool)> = left_out(open())
        .iter()
        .map(|left_out| match &left_out.reason {
            LeftOutReason::LinkedDirectory { target, expected } => {
                assert!(target.starts_with(elsewhere.path().as_os_str().as_bytes()));
                (display_name(&left_out.name), *expected)
            }
            other => panic!("{other:?}"),
        })
        .collect();
    let expected = [
        ("mine", false),
        ("pg_wal", true),
        ("pg_xlog", false),
        ("pg_tblspc/16385", false),
    ];
    assert_eq!(
        told,
        expected.map(|(name, expected)| (name.to_owned(), expected))
    );
    let names: Vec<String> = entries(open()).iter().map(shown).collect();
    assert_eq!(names, [".", "pg_wal", "base", "pg_tblspc"]);
}

/// A backup without it would be none, and nobody would know.
#[test]
fn a_link_in_the_place_of_data_is_refused() {
    let elsewhere = tree(&["5/1259", "file"]);
    let target = elsewhere.path().join("5");
    for name in [
        "global",
        "base",
        "base/5",
        "pg_xact",
        "pg_multixact/members",
        "pg_tblspc",
    ] {
        let root = tree(&["PG_VERSION"]);
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
        symlink(&target, &path).expect("a link");
        let error = Walk::open(root.path(), pgdata(&[]), &[])
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .expect_err(name);
        let text = error.to_string();
        assert!(text.starts_with(&format!("`{name}` in `")), "{text}");
        assert!(
            text.contains(&format!("is a link to `{}`", target.display())),
            "{text}"
        );
    }
    // The directory of a database in a tablespace, before anything is read.
    let root = tree(&["PG_15_1/"]);
    symlink(&target, root.path().join("PG_15_1/5")).expect("a link");
    let rules = Rules::Tablespace { major: "15".into() };
    assert!(Walk::open(root.path(), rules, &[]).is_err());
    // A file of a relation.
    let root = tree(&["base/5/"]);
    symlink(
        elsewhere.path().join("file"),
        root.path().join("base/5/1259"),
    )
    .expect("a link");
    let walk = Walk::open(root.path(), pgdata(&[]), &[]).expect("the root can be opened");
    let error = walk
        .collect::<Result<Vec<_>, _>>()
        .expect_err("it is refused");
    assert!(
        error.to_string().starts_with("`base/5/1259` in `"),
        "{error}"
    );
}

#[test]
fn a_link_to_a_file_elsewhere_is_told() {
    let elsewhere = tree(&["file"]);
    let root = tree(&["file", "mine/"]);
    let link = |target: &Path, name: &str| {
        symlink(target, root.path().join(name)).expect("a link");
    };
    let away = elsewhere.path().join("file");
    link(&away, "postgresql.conf");
    let up = Path::new("../..").join(away.strip_prefix("/tmp").unwrap_or(&away));
    let told_too = root.path().starts_with("/tmp") && root.path().join("mine").join(&up).exists();
    link(&up, "mine/up");
    link(Path::new("file"), "near");
    link(Path::new("../file"), "mine/near");
    link(&root.path().join("file"), "absolute");
    link(Path::new("/nowhere"), "broken");
    let open = || Walk::open(root.path(), pgdata(&[]), &[]).expect("the root can be opened");
    let told: Vec<String> = left_out(open())
        .iter()
        .map(|it| display_name(&it.name))
        .collect();
    let mut expected = vec!["postgresql.conf"];
    expected.extend(told_too.then_some("mine/up"));
    assert_eq!(told, expected);
    // The links themselves are stored.
    assert_eq!(
        entries(open())
            .iter()
            .filter(|it| matches!(it.kind, EntryKind::Symlink { .. }))
            .count(),
        6
    );
}

#[test]
fn links_to_files_and_to_nothing_are_stored_as_links() {
    let root = tree(&["PG_VERSION"]);
    symlink("PG_VERSION", root.path().join("good")).expect("a link");
    symlink("/nowhere", root.path().join("broken")).expect("a link");
    symlink("loop", root.path().join("loop")).expect("a link");
    let walk = Walk::open(root.path(), pgdata(&[]), &[]).expect("the root can be opened");
    let links: Vec<(String, EntryKind)> = entries(walk)
        .into_iter()
        .skip(1)
        .map(|entry| (shown(&entry), entry.kind))
        .collect();
    let link = |target: &[u8]| EntryKind::Symlink {
        target: target.to_vec(),
    };
    assert_eq!(
        links,
        [
            ("./PG_VERSION".to_owned(), EntryKind::File),
            ("./broken".to_owned(), link(b"/nowhere")),
            ("./good".to_owned(), link(b"PG_VERSION")),
            ("./loop".to_owned(), link(b"loop")),
        ]
    );
}

#[test]
fn devices_are_told_and_sockets_are_not() {
    let root = tree(&["PG_VERSION"]);
    let _socket = UnixListener::bind(root.path().join("socket")).expect("a socket");
    // The one device that anybody may make.
    let device = root.path().join("device");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &device,
        FileType::CharacterDevice,
        Mode::RWXU,
        0,
    )
    .expect("a device");
    let walk = Walk::open(root.path(), pgdata(&[]), &[]).expect("the root can be opened");
    let expected = LeftOut {
        name: b"device".to_vec(),
        reason: LeftOutReason::Device,
    };
    assert_eq!(left_out(walk), [expected]);
    assert_eq!(names(root.path(), pgdata(&[])), [".", "./PG_VERSION"]);
}

/// A tablespace whose location is inside PGDATA has an archive of its own; one in place has none.
#[test]
fn a_tablespace_inside_pgdata_is_stored_once() {
    let root = tree(&[
        "inner/PG_15_202209061/5/16409",
        "pg_tblspc/16390/PG_15_202209061/5/16410",
    ]);
    let location = root.path().join("inner");
    symlink(&location, root.path().join("pg_tblspc/16384")).expect("a link");
    let inner = FileId::of(&root.path().join("pg_tblspc/16384")).expect("the inner tablespace");
    let walk = Walk::open(root.path(), pgdata(&[16384]), &[inner]).expect("the root can be opened");
    let found: Vec<_> = walk
        .map(|found| found.expect("the tree can be read"))
        .collect();
    let names: Vec<String> = found
        .iter()
        .map(|found| match found {
            Found::Entry(entry) => shown(entry),
            Found::LeftOut(left_out) => panic!("{left_out:?}"),
        })
        .collect();
    assert_eq!(
        names,
        [
            ".",
            "pg_tblspc",
            "pg_tblspc/16390",
            "pg_tblspc/16390/PG_15_202209061",
            "pg_tblspc/16390/PG_15_202209061/5",
            "pg_tblspc/16390/PG_15_202209061/5/16410",
        ]
    );
    let walk = Walk::open(&location, tablespace(), &[inner]).expect("the tablespace can be opened");
    assert_eq!(entries(walk).len(), 3);
}

#[test]
fn a_missing_source_is_an_error() {
    let root = tree(&["lost+found/", "PG_14_202107181/5/16409"]);
    let absent = Walk::open(&root.path().join("absent"), pgdata(&[]), &[]);
    assert!(
        matches!(absent, Err(SourceError::Io { doing: "open", .. })),
        "{absent:?}"
    );
    // The place where its file system ought to be mounted.
    let unmounted = Walk::open(root.path(), tablespace(), &[]);
    assert!(
        matches!(unmounted, Err(SourceError::NoVersionDirectory { .. })),
        "{unmounted:?}"
    );
    symlink("PG_14_202107181", root.path().join("PG_15_202209061")).expect("a link");
    let linked = Walk::open(root.path(), tablespace(), &[]);
    assert!(
        matches!(linked, Err(SourceError::NoVersionDirectory { .. })),
        "{linked:?}"
    );
}

#[test]
fn a_file_with_several_names_is_known_by_the_archive_it_is_in() {
    let root = tree(&["a", "c"]);
    fs::hard_link(root.path().join("a"), root.path().join("b")).expect("a hard link");
    let walk = Walk::open(root.path(), pgdata(&[]), &[]).expect("the root can be opened");
    let all = entries(walk);
    let [a, b, c] = &all[1..] else {
        panic!("three files");
    };
    assert_eq!(a.meta.id, b.meta.id);
    let mut links = HardLinks::default();
    assert_eq!(links.stored_as(0, &a.meta), None);
    links.note(3, &a.meta, &a.name, 'a');
    links.note(3, &c.meta, &c.name, 'c');
    assert_eq!(links.stored_as(3, &b.meta), Some((b"./a".as_slice(), &'a')));
    assert_eq!(links.stored_as(3, &c.meta), None, "it has one name");
    assert_eq!(
        links.stored_as(4, &b.meta),
        None,
        "it is in another archive"
    );
    // Another file with the inode of one that was removed.
    let alone = Meta { links: 1, ..b.meta };
    let longer = Meta { size: 9, ..b.meta };
    let later = Meta {
        mtime_nanos: b.meta.mtime_nanos ^ 1,
        ..b.meta
    };
    for other in [alone, longer, later] {
        assert_eq!(links.stored_as(3, &other), None, "{other:?}");
    }
    links.note(4, &b.meta, &b.name, 'b');
    assert_eq!(links.stored_as(4, &a.meta), Some((b"./b".as_slice(), &'b')));
    assert_eq!(links.stored_as(3, &a.meta), None);
}
