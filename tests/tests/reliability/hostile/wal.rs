//! WAL objects.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use e2e::{Run, golden, sha256_of_bytes};

use super::tar::zeroes;
use super::{Scene, modest, one_error, row, seen};

const SEGMENT: &str = "000000010000000000000006";

/// More than a segment, and than any other WAL file, in bytes.
const BOMB: u64 = 96 << 20;

const REFUSED: &str = "refused in one line that names the object; what stood at the destination stays, \
                       and little memory and disk is taken";

fn golden_segment() -> Vec<u8> {
    fs::read(golden().join("wal").join(SEGMENT)).expect("it is recorded")
}

/// The key of a WAL file.
fn key(name: &str, suffix: &str) -> String {
    match name.get(..16).filter(|_| name.len() > 23) {
        Some(directory) => format!("main/wals/{directory}/{name}{suffix}"),
        None => format!("main/wals/{name}{suffix}"),
    }
}

fn fetch(scene: &Scene, name: &str) -> (Run, Vec<u8>) {
    let to = scene.workspace.file("fetched", "precious");
    let spool = format!("--spool-dir={}", scene.workspace.path("spool").display());
    let words = [name, to.to_str().expect("it is text")];
    let run = scene.tool("wal-restore", &[&spool], &words).run();
    (run, fs::read(&to).expect("it is there"))
}

/// Compresses what `plain` writes, by a program of the system.
fn packed(program: &str, to: &Path, plain: impl FnOnce(&mut dyn Write) -> io::Result<()>) {
    let mut child = Command::new(program)
        .arg("-c")
        .stdin(Stdio::piped())
        .stdout(File::create(to).expect("there is room"))
        .spawn()
        .unwrap_or_else(|error| panic!("{program} is needed: {error}"));
    let mut pipe = BufWriter::new(child.stdin.take().expect("it was asked for"));
    plain(&mut pipe).expect("the program reads to the end");
    drop(pipe);
    assert!(child.wait().expect("own child").success(), "{program}");
}

#[test]
fn objects_that_unpack_to_more_than_they_are() {
    let scene = Scene::new();
    let segment = golden_segment();
    for (done, name, beginning) in [
        (
            "a segment that goes on for long after its end",
            SEGMENT,
            &segment[..],
        ),
        (
            "a history file that has no end",
            "00000002.history",
            b"1\t0/3000158\tx\n",
        ),
        (
            "a `.backup` file that has no end",
            "000000010000000000000006.00000028.backup",
            b"START WAL LOCATION: 0/6000028\n",
        ),
    ] {
        let done = format!("`wal-restore`: {done}, in gzip, bzip2, lz4, zstd, xz and without");
        let mut row = row(&done, REFUSED);
        for (program, suffix) in [
            ("gzip", ".gz"),
            ("bzip2", ".bz2"),
            ("lz4", ".lz4"),
            ("zstd", ".zst"),
            ("xz", ".xz"),
            ("", ""),
        ] {
            let object = scene.object(&key(name, suffix));
            let bomb = |out: &mut dyn Write| {
                out.write_all(beginning)?;
                zeroes(&mut { out }, BOMB)
            };
            if program.is_empty() {
                bomb(&mut File::create(&object).unwrap()).unwrap();
            } else {
                packed(program, &object, bomb);
            }
            scene.workspace.owner().take(&object);
            let (run, left) = fetch(&scene, name);
            scene.harmless(&run, &done);
            one_error(&run, &[4], "longer than such a WAL file can be", &done);
            assert_eq!(left, b"precious");
            fs::remove_file(object).unwrap();
            row.lived_through();
        }
        row.finish();
    }
}

#[test]
fn histories_that_lead_nowhere() {
    let scene = Scene::new();
    let target = super::text_of(&scene.target());
    let long = "1\t0/3000158\tx\n".repeat(100_000);
    for (done, text) in [
        ("is its own ancestor", "3\t0/3000158\tx\n".to_owned()),
        (
            "goes in a circle",
            "1\t0/1\tx\n2\t0/2\tx\n1\t0/3\tx\n".to_owned(),
        ),
        ("steers a terminal", "\x1b[2J\x07 x\n".to_owned()),
        ("has a line of a mebibyte", "9".repeat(1 << 20)),
        ("is larger than any can be", long),
    ] {
        scene.put_key("main/wals/00000003.history", text);
        let words = ["auto", target.as_str()];
        let _ = fs::remove_dir_all(scene.target());
        let run = scene.tool("restore", &["--target-tli=3"], &words).run();
        scene.harmless(&run, done);
        assert!(run.code().is_some_and(|code| code > 0), "{done}: {run}");
        assert!(!scene.target().exists(), "{done}");
        seen(
            &format!("`restore`: the history of the timeline that is wanted {done}"),
            "not used, which a warning says; no backup is chosen by it",
        );
    }
}

#[test]
fn objects_that_are_something_else() {
    let scene = Scene::new();
    let segment = golden_segment();
    let mut other = segment.clone();
    // Of 2 MiB, by its own word.
    other[32..36].copy_from_slice(&(2_u32 << 20).to_le_bytes());
    scene.put_key(&key(SEGMENT, ""), &other);
    let case = "`wal-restore`: a segment whose first page claims a size of its own";
    let (run, left) = fetch(&scene, SEGMENT);
    modest(&run, case);
    one_error(
        &run,
        &[4],
        "its first page names a segment of 2097152",
        case,
    );
    assert_eq!(left, b"precious");
    seen(case, REFUSED);

    let case = "`wal-restore`: objects whose names only look like the one that is wanted";
    scene.put_key(&key(SEGMENT, ""), &segment);
    for name in [".gz.gz", ".GZ", ".\x1b[2J", ".partial.gpg", "\n.gz"] {
        scene.put_key(&key(SEGMENT, name), "evil");
    }
    let (run, left) = fetch(&scene, SEGMENT);
    modest(&run, case);
    assert_eq!(run.code(), Some(0), "{run}");
    assert_eq!(sha256_of_bytes(&left), sha256_of_bytes(&segment));
    seen(case, "not looked at");
}
