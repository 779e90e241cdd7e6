//! Archives of a base backup.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use super::tar::{Head, archive, file, hard_link, member, pax, symlink};
use super::{REFUSED, Scene, row, sample, seen};

/// A kind of archive, those of that kind, and what the refusal says.
type Kind = (&'static str, Vec<Vec<Vec<u8>>>, &'static str);

/// One archive, of these members and those of the sample.
fn of(members: &[Vec<u8>]) -> Vec<Vec<u8>> {
    members.to_vec()
}

fn names(outside: &[u8]) -> Vec<Kind> {
    let long = vec![b'x'; 5000];
    let deep = b"d/".repeat(1000);
    let endless = b"d/".repeat(400_000);
    let named = |name: &[u8]| of(&[pax(&[("path", name)]), file(b"x", b"evil")]);
    vec![
        (
            "a member's name is absolute",
            vec![of(&[file(outside, b"evil")]), named(outside)],
            "its name is absolute",
        ),
        (
            "a member's name climbs out of the destination",
            vec![
                of(&[file(b"../outside", b"evil")]),
                of(&[file(b"base/../../outside", b"evil")]),
                of(&[Head::new(b'5', b"../folder2").block().to_vec()]),
                named(b"./../outside"),
            ],
            "its name contains `..`",
        ),
        (
            "a member's name has a NUL",
            vec![named(b"a\0b")],
            "a name contains a zero byte",
        ),
        (
            "a member's name is longer than a path can be",
            vec![named(&long), named(&b"d/".repeat(3000))],
            "its name is longer than a path can be",
        ),
        (
            "a member lies in a thousand directories",
            vec![named(&deep)],
            "it lies in too many directories",
        ),
        (
            "a member's name has nearly a mebibyte",
            vec![named(&endless)],
            "or of too long ones",
        ),
        (
            "a component of a name is longer than a file system takes",
            vec![named(&[b'x'; 300])],
            "File name too long",
        ),
    ]
}

fn links(outside: &[u8]) -> Vec<Kind> {
    vec![
        (
            "a file, a link or a pipe is to be made through a link that the archive has too",
            vec![
                of(&[symlink(b"l", b".."), file(b"l/outside", b"evil")]),
                of(&[symlink(b"l", b".."), symlink(b"l/new", b"x")]),
                of(&[
                    symlink(b"l", b".."),
                    Head::new(b'6', b"l/new").block().to_vec(),
                ]),
                of(&[symlink(b"l", b"/"), file(b"l/etc/evil", b"evil")]),
            ],
            "because `l` is a symbolic link",
        ),
        (
            "a directory is to be made through a link, or of one",
            vec![
                of(&[
                    symlink(b"l", b".."),
                    Head::new(b'5', b"l/new").block().to_vec(),
                ]),
                of(&[
                    symlink(b"l", b".."),
                    Head::new(b'5', b"l").mode(0o777).block().to_vec(),
                ]),
            ],
            "because `l` is a symbolic link",
        ),
        (
            "a hard link leads out of the destination",
            vec![
                of(&[hard_link(b"h", b"../outside")]),
                of(&[hard_link(b"h", outside)]),
            ],
            "it is a hard link that leads out of the target",
        ),
        (
            "a hard link leads through a link",
            vec![of(&[symlink(b"l", b".."), hard_link(b"h", b"l/outside")])],
            "because `l` is a symbolic link",
        ),
        (
            "a hard link is to a link or to a directory",
            vec![
                of(&[symlink(b"l", b"../outside"), hard_link(b"h", b"l")]),
                of(&[
                    Head::new(b'5', b"d").block().to_vec(),
                    hard_link(b"h", b"d"),
                ]),
            ],
            "it is a hard link to something that is not a file",
        ),
        (
            "the destination itself is to become a file or a link",
            vec![of(&[file(b".", b"evil")]), of(&[symlink(b"./", b"..")])],
            "it would replace the target directory",
        ),
        (
            "`global` is a link when `pg_control` is to be written",
            vec![of(&[symlink(b"global", b"..")])],
            "because `global` is a symbolic link",
        ),
    ]
}

fn kinds() -> Vec<Kind> {
    let device = |kind| of(&[Head::new(kind, b"device").block().to_vec()]);
    let odd = |kind| of(&[Head::new(kind, b"odd").block().to_vec()]);
    let map: &[(&str, &[u8])] = &[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0")];
    vec![
        (
            "a member is a device",
            vec![device(b'3'), device(b'4')],
            "it is a device file",
        ),
        (
            "a member is of a kind that nobody restores: a volume, the rest of a file, a dump",
            vec![odd(b'V'), odd(b'M'), odd(b'D'), odd(b'Z')],
            "nobody knows it",
        ),
        (
            "a member is a sparse file",
            vec![
                odd(b'S'),
                of(&[pax(map), file(b"s", b"1\n0\n1099511627776\n")]),
            ],
            "a sparse file",
        ),
        (
            "`backup_label` or `pg_control` is no file, or a large one",
            vec![
                of(&[symlink(b"backup_label", b"../outside")]),
                of(&[Head::new(b'5', b"global/pg_control").block().to_vec()]),
                of(&[file(b"./global//pg_control", &vec![0; 2 << 20])]),
            ],
            "is not the small file it must be",
        ),
    ]
}

fn sizes() -> Vec<Kind> {
    let sized = |field: [u8; 12]| of(&[Head::new(b'0', b"big").size_field(field).block().to_vec()]);
    let extended = |size: &[u8]| of(&[pax(&[("size", size)]), file(b"x", b"evil")]);
    let mut largest = [0xff; 12];
    largest[0] = 0x80;
    let mut half = [0; 12];
    (half[0], half[4]) = (0x80, 0x7f);
    vec![
        (
            "a member's size is negative or no number",
            vec![
                sized([0xff; 12]),
                sized(*b"-0000000001\0"),
                sized(largest),
                extended(b"-1"),
                extended(b"99999999999999999999"),
                extended(b"0x10"),
            ],
            "is not a number",
        ),
        (
            "a member reaches beyond the archive's end",
            vec![
                sized(half),
                of(&[Head::new(b'0', b"big").size(1 << 32).block().to_vec()]),
            ],
            "ends early",
        ),
        (
            "an extended header, or a long name, of a gibibyte is announced",
            [b'x', b'g', b'L', b'K']
                .map(|kind| of(&[Head::new(kind, b"x").size(1 << 30).block().to_vec()]))
                .to_vec(),
            "the extended header is too long",
        ),
        (
            "an extended header is not made of records",
            [
                &b"x"[..],
                b"0 a=b\n",
                b"99 path=x\n",
                b"+9 path=x\n",
                b"9 pathxyz",
            ]
            .map(|text| of(&[member(Head::new(b'x', b"x"), text), file(b"x", b"evil")]))
            .to_vec(),
            "is not made of records",
        ),
    ]
}

#[test]
fn members_that_are_refused() {
    let scene = Scene::new();
    let outside = scene.workspace.path("place/outside");
    let outside = outside.as_os_str().as_bytes();
    for all in [names(outside), links(outside), kinds(), sizes()] {
        for (done, cases, says) in all {
            let mut row = row(&format!("`restore`: {done}"), REFUSED);
            for members in cases {
                scene.put("data.tar", archive(&members));
                let run = scene.restore(&[]);
                scene.refused(&run, says, done);
                row.lived_through();
            }
            row.finish();
        }
    }
}

#[test]
fn what_does_not_end_where_an_archive_ends() {
    let scene = Scene::new();
    let whole = sample("data.tar");
    let end = whole
        .iter()
        .rposition(|byte| *byte != 0)
        .expect("not empty")
        + 1;
    let between = end.next_multiple_of(512);
    let mut second = whole.clone();
    second.extend(archive(&[symlink(b"l", b"..")]));
    let mut hidden = whole[..between].to_vec();
    hidden.extend([0; 512]);
    hidden.extend(&whole);
    for (done, bytes, says) in [
        (
            "another archive follows the end of one",
            second,
            "something follows the end",
        ),
        (
            "a zero block hides the rest of an archive",
            hidden,
            "a zero block stands between",
        ),
        (
            "an archive has no end",
            whole[..between].to_vec(),
            "ends early",
        ),
    ] {
        scene.put("data.tar", bytes);
        let run = scene.restore(&[]);
        scene.refused(&run, says, done);
        seen(&format!("`restore`: {done}"), REFUSED);
    }
}

/// A restore that is allowed to end well.
fn restored(scene: &Scene, members: &[Vec<u8>], case: &str) {
    scene.put("data.tar", archive(members));
    let run = scene.restore(&[]);
    scene.harmless(&run, case);
    assert_eq!(run.code(), Some(0), "{case}: {run}");
}

#[test]
fn members_that_do_no_harm() {
    let scene = Scene::new();
    let target = scene.target();

    let case = "`restore`: programs with set-user-ID and set-group-ID bits";
    restored(
        &scene,
        &of(&[member(Head::new(b'0', b"p").mode(0o6755), b"x")]),
        case,
    );
    let mode = target.join("p").metadata().unwrap().mode();
    assert_eq!(mode & 0o7777, 0o755);
    seen(case, "restored without these bits");

    let case = "`restore`: a named pipe";
    restored(&scene, &of(&[Head::new(b'6', b"p").block().to_vec()]), case);
    let kind = target.join("p").symlink_metadata().unwrap().file_type();
    assert!(kind.is_fifo());
    seen(case, "restored as one; nobody waits for it");

    let case = "`restore`: names with line breaks, terminal sequences and bytes that are no text";
    let odd: &[&[u8]] = &[b"two\nlines", b"\x1b[2J", b"latin\xe9", b"back\\slash"];
    let members: Vec<_> = odd.iter().map(|name| file(name, b"x")).collect();
    restored(&scene, &members, case);
    for name in odd {
        assert!(target.join(std::ffi::OsStr::from_bytes(name)).exists());
    }
    let through = [symlink(b"\x1b[2J\n", b".."), file(b"\x1b[2J\n/x", b"evil")];
    scene.put("data.tar", archive(&through));
    let run = scene.restore(&[]);
    scene.refused(&run, "`\\u{1b}[2J\\n`", case);
    seen(
        case,
        "restored as they are, and written in one harmless line where they are told",
    );

    let case = "`restore`: a file, then a link of its name out of the destination, then a file";
    let again = [
        file(b"pg_hba.conf", b"one"),
        symlink(b"pg_hba.conf", b"../outside"),
        file(b"pg_hba.conf", b"two"),
    ];
    restored(&scene, &again, case);
    assert_ne!(fs::read(target.join("pg_hba.conf")).unwrap(), b"two");
    seen(
        case,
        "the last member of that name is restored; nothing is written through the link",
    );

    let case = "`restore`: a member with the name of our own journal";
    restored(
        &scene,
        &of(&[file(b".barman-cloud-restore", b"barman-cloud restore 1\n")]),
        case,
    );
    assert!(!target.join(".barman-cloud-restore").exists());
    seen(case, "left out");
}

/// The backup's own manifest, as it stands before the label.
fn with_manifest(path: &str) -> Vec<u8> {
    let mut text = format!(
        "{{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n{{ \"Path\": \"{path}\", \
         \"Size\": 7, \"Last-Modified\": \"2026-11-21 12:00:00 GMT\", \"Checksum-Algorithm\": \
         \"SHA256\", \"Checksum\": \"{}\" }}\n],\n\"WAL-Ranges\": [\n{{ \"Timeline\": 1, \
         \"Start-LSN\": \"0/4000028\", \"End-LSN\": \"0/4000100\" }}\n],\n",
        e2e::sha256_of_bytes(b"outside")
    );
    let sum = e2e::sha256_of_bytes(text.as_bytes());
    text.push_str(&format!("\"Manifest-Checksum\": \"{sum}\"}}\n"));
    file(b"backup_manifest", text.as_bytes())
}

#[test]
fn manifests_that_name_other_files() {
    let scene = Scene::new();
    let outside = scene.workspace.path("place/outside");
    let mut row = row(
        "`restore`: the backup's manifest lists files that lie elsewhere",
        REFUSED,
    );
    for path in ["../outside", outside.to_str().unwrap(), "l/outside"] {
        scene.put(
            "data.tar",
            archive(&[symlink(b"l", b".."), with_manifest(path)]),
        );
        let run = scene.restore(&[]);
        scene.refused(&run, &format!("`{path}` is missing"), path);
        row.lived_through();
    }
    row.finish();

    let case = "`restore`: the backup's manifest is a link to another file";
    scene.put(
        "data.tar",
        archive(&[symlink(b"backup_manifest", b"../outside")]),
    );
    let run = scene.restore(&[]);
    scene.refused(&run, "could not open", case);
    seen(case, REFUSED);
}
