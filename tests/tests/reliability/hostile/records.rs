//! Records, annotations and what is said of gaps.

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use e2e::Run;

use super::{ID, Scene, modest, one_error, record, row, sample, seen};

/// What a tool that reads the record does: one line, or a warning and exit 1.
fn told(run: &Run, says: &str, case: &str) {
    modest(run, case);
    let told = run.errors().into_iter().chain(run.messages("WARNING"));
    let told: Vec<String> = told.filter(|text| text.contains(says)).collect();
    assert!(run.code() != Some(0) && told.len() == 1, "{case}: {run}");
}

const UNREADABLE: &str = "one line that names it; nothing is restored, and the others are listed";

#[test]
fn records_that_are_none() {
    let scene = Scene::new();
    let nested = format!("[{}", "[".repeat(100_000));
    let many = format!("[{}]", "0,".repeat(400_000));
    let lines = (0..300).fold(String::new(), |text, n| text + &format!("unknown{n}=1\n"));
    for (done, text, says) in [
        (
            "a literal with 100,000 brackets",
            record(&[("copy_stats", &nested)]),
            "too deeply nested",
        ),
        (
            "a literal with 400,000 values",
            record(&[("copy_stats", &many)]),
            "too many values",
        ),
        (
            "hundreds of fields that nobody knows",
            record(&[]) + &lines,
            "unknown fields",
        ),
        (
            "numbers beyond all bounds",
            record(&[("version", "99999999999999999999")]),
            "is no number",
        ),
        (
            "an oid that is none",
            record(&[("tablespaces", "[('x', -1, '/x')]")]),
            "is no list of",
        ),
        (
            "a number of a million digits",
            record(&[("timeline", &"9".repeat(1_000_000))]),
            "is wrong",
        ),
        (
            "a value that steers a terminal",
            record(&[("timeline", "\x1b[2J\x07")]),
            "is no number",
        ),
    ] {
        scene.put("backup.info", &text);
        scene.refused(&scene.restore(&[]), says, done);
        told(&scene.tool("backup-show", &[], &[ID]).run(), says, done);
        told(&scene.tool("backup-list", &[], &[]).run(), says, done);
        seen(
            &format!("`restore`, `backup-show`, `backup-list`: a backup.info with {done}"),
            UNREADABLE,
        );
    }

    let done = "with bytes that are no text";
    let case = format!("`restore`, `backup-show`, `backup-list`: a backup.info {done}");
    scene.put("backup.info", b"status=DONE\nerror=\xff\xfe\x00\n");
    scene.refused(&scene.restore(&[]), "it is not UTF-8", done);
    told(
        &scene.tool("backup-show", &[], &[ID]).run(),
        "it is not UTF-8",
        done,
    );
    told(
        &scene.tool("backup-list", &[], &[]).run(),
        "it is not UTF-8",
        done,
    );
    seen(&case, UNREADABLE);

    let done = "of 100 MiB, and of a tebibyte";
    let case = format!("`restore`, `backup-show`, `backup-list`: a backup.info {done}");
    let mut sizes = row(&case, "refused by its size alone");
    let path = scene.object(&format!("main/base/{ID}/backup.info"));
    for size in [100 << 20, 1 << 40] {
        File::create(&path).unwrap().set_len(size).unwrap();
        let says = format!("it has {size} bytes");
        scene.refused(&scene.restore(&[]), &says, done);
        told(&scene.tool("backup-show", &[], &[ID]).run(), &says, done);
        told(&scene.tool("backup-list", &[], &[]).run(), &says, done);
        sizes.lived_through();
    }
    sizes.finish();
}

#[test]
fn tablespaces_that_lie_elsewhere() {
    let scene = Scene::new();
    scene.put("16384.tar", sample("16384.tar"));
    let folder = scene.workspace.path("place/folder").display().to_string();
    let target = scene.target().display().to_string();
    let twice = format!("[('a', 16384, '{folder}/a'), ('b', 16384, '{folder}/b')]");
    let one = |location: &str| format!("[('fast', 16384, '{location}')]");
    for (done, value, says, codes) in [
        (
            "at `/etc`",
            one("/etc"),
            "Destination /etc already exists",
            [1],
        ),
        (
            "in a folder that has files",
            one(&folder),
            "already exists and it is not empty",
            [1],
        ),
        (
            "at a relative path",
            one("etc/x"),
            "which is no absolute path",
            [4],
        ),
        (
            "at a path that climbs",
            one("../folder"),
            "which is no absolute path",
            [4],
        ),
        (
            "at a path with a NUL",
            one("/x\\x00y"),
            "which is no absolute path",
            [4],
        ),
        ("nowhere", one(""), "which is no absolute path", [4]),
        (
            "where PGDATA goes",
            one(&target),
            "would be restored to",
            [3],
        ),
        (
            "where another one lies, under the same number",
            twice,
            "Missing file",
            [1],
        ),
    ] {
        scene.put("backup.info", record(&[("tablespaces", &value)]));
        let run = scene.restore(&[]);
        scene.harmless(&run, done);
        one_error(&run, &codes, says, done);
        assert!(!scene.target().exists(), "{done}");
        seen(
            &format!("`restore`: the record says that a tablespace lies {done}"),
            "refused in one line before anything is written",
        );
    }
}

#[test]
fn texts_that_steer_a_terminal() {
    let scene = Scene::new();
    let odd = "\x1b]0;evil\x07\x1b[2J\u{9b}31m";
    let literal = "[('\\x1b[2J', 16384, '/x\\n\\x07')]";
    scene.put(
        "backup.info",
        record(&[
            ("backup_name", odd),
            ("server_name", odd),
            ("pgdata", odd),
            ("begin_wal", odd),
            ("tablespaces", literal),
        ]),
    );
    scene.put("annotations/keep", format!("{odd}\nfull"));
    for (tool, options, words) in [
        ("backup-list", &[][..], &[][..]),
        ("backup-list", &["--format=json"], &[]),
        ("backup-show", &[], &[ID]),
        ("backup-show", &["--format=json"], &[ID]),
        ("backup-keep", &["--status"], &[ID]),
        ("backup-list", &["-vv"], &[]),
    ] {
        let run = scene.tool(tool, options, words).run();
        modest(&run, tool);
        assert!(
            run.stdout.contains("evil") && run.code() == Some(0),
            "{run}"
        );
    }
    seen(
        "`backup-list`, `backup-show`, `backup-keep --status`: names, paths and annotations with \
         terminal sequences",
        "printed in their places, with every control character written out",
    );
}

#[test]
fn annotations_of_any_size() {
    let scene = Scene::new();
    let case = "`backup-delete`, `backup-keep --status`: a keep annotation of a tebibyte";
    let path = scene.object(&format!("main/base/{ID}/annotations/keep"));
    File::create(&path).unwrap().set_len(1 << 40).unwrap();
    let run = scene.tool("backup-keep", &["--status"], &[ID]).run();
    modest(&run, case);
    assert_eq!(run.stdout, "Keep: full\n", "{run}");
    let run = scene.tool("backup-delete", &["-b", ID], &[]).run();
    modest(&run, case);
    assert!(run.code() == Some(1) && path.exists(), "{run}");
    assert!(scene.object(&format!("main/base/{ID}/data.tar")).exists());
    seen(case, "it keeps the backup, and counts as `full`");
}

#[test]
fn gaps_without_end() {
    let scene = Scene::new();
    for number in 0..3000 {
        let (first, last) = ("000000010000000000000001", "0000000100FFFFFF000000FF");
        scene.put_key(
            &format!("main/gaps/{first}-{last}-{number:x}.gap"),
            "barman-cloud WAL gap 1\n",
        );
    }
    let path = scene.object("main/gaps/000000010000000000000001-000000010000000000000001-x.gap");
    File::create(&path).unwrap().set_len(1 << 40).unwrap();
    let case =
        "`backup-list`: thousands of gaps of sixteen million segments each, and one of a tebibyte";
    let run = scene.tool("backup-list", &[], &[]).run();
    modest(&run, case);
    assert_eq!(run.code(), Some(0), "{run}");
    assert!(run.stdout.contains(ID), "{run}");
    seen(
        case,
        "the backups are listed, with a warning for each gap that is told apart",
    );
}

#[test]
fn names_that_are_no_ids() {
    let scene = Scene::new();
    let target = super::text_of(&scene.target());
    for (words, says, codes) in [
        (["..", "main"], "has a component", [3]),
        (["../..", "main"], "has a component", [3]),
        (["a/../../b", "main"], "has a component", [3]),
        (["/etc", "main"], "begins with a slash", [3]),
        (["main", "../../other"], "Unknown backup", [4]),
        (["main", "."], "Unknown backup", [4]),
    ] {
        let [server, id] = words;
        let run = scene
            .workspace
            .tool("barman-cloud-restore")
            .args([&scene.workspace.url("bucket"), server, id, &target])
            .run();
        scene.harmless(&run, server);
        one_error(&run, &codes, says, server);
    }
    seen(
        "`restore`: names of servers and backups with `..`, `.` and slashes at the beginning",
        "refused in one line; no such object is asked for",
    );
}

/// Leaves a journal with this text.
type Leave = fn(&Path, &str);

/// What an interrupted restore left, if somebody else left it there.
#[test]
fn journals_of_somebody_else() {
    let scene = Scene::new();
    let target = scene.target();
    let outside = scene.workspace.path("place/outside");
    let url = scene.workspace.url("bucket");
    let made = outside.as_os_str().as_bytes();
    let made = made
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    let journal = format!(
        "barman-cloud restore 1\nstore \"{url}\"\npath \"\"\nserver \"main\"\nbackup {ID}\n\
         system \"7710443699091897341\"\nsource data\nsalt 1f0e\nmade {made}\nbegin\n"
    );
    let resume = || {
        let words = [ID, target.to_str().expect("it is text")];
        scene.tool("restore", &["--resume"], &words).run()
    };
    let fresh = || {
        let _ = fs::remove_dir_all(&target);
        scene.workspace.dir("place/target");
        target.join(".barman-cloud-restore")
    };
    // Of the user that restores it is the way to go on, and the other cases are like it.
    let path = fresh();
    fs::write(&path, &journal).unwrap();
    scene.workspace.owner().take(&path);
    let run = resume();
    scene.harmless(&run, "one's own");
    assert_eq!(run.code(), Some(0), "{run}");

    let cases: [(&str, Leave); 4] = [
        ("is a file of another user", |path, text| {
            fs::write(path, text).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o666)).unwrap();
        }),
        ("is a link", |path, text| {
            let real = path.with_file_name("real");
            fs::write(&real, text).unwrap();
            symlink("real", path).unwrap();
        }),
        ("is a pipe, which nobody writes to", |path, _| {
            rustix::fs::mkfifoat(rustix::fs::CWD, path, 0o666.into()).unwrap();
        }),
        ("has a beginning without end", |path, text| {
            let text = text.replace("begin\n", &"made 00\n".repeat(1 << 20));
            fs::write(path, text).unwrap();
        }),
    ];
    for (done, leave) in cases {
        let path = fresh();
        leave(&path, &journal);
        if !scene.workspace.owner().is_somebody_else() && done.contains("another user") {
            continue;
        }
        let run = resume();
        scene.harmless(&run, done);
        one_error(&run, &[1], "already exists and it is not empty", done);
        assert!(!target.join("PG_VERSION").exists(), "{done}");
        seen(
            &format!("`restore --resume`: the journal in the destination {done}"),
            "refused in one line, as any directory that is not empty",
        );
    }
}
