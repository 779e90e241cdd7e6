//! One WAL file archived twice: nothing that is stored is lost, and nothing that
//! is not stored is reported as stored.

use std::fs;

use e2e::{Damage, FaultProxy, Objects, Row, Rule, Run, S3Server, Section, Workspace, golden};
use e2e::{Fault, Place, of_sample_or_whole};

/// The segment that the samples have.
pub(crate) const SEGMENT: &str = "000000010000000000000006";

/// The options of the codecs, and the suffixes of what they make.
pub(crate) const CODECS: [(&str, &str); 7] = [
    ("", ""),
    ("--gzip", ".gz"),
    ("--bzip2", ".bz2"),
    ("--xz", ".xz"),
    ("--snappy", ".snappy"),
    ("--zstd", ".zst"),
    ("--lz4", ".lz4"),
];

/// The codecs that an archive is tried with: all of them in a directory, where it
/// takes no time, one elsewhere.
fn codecs(at: &Objects<'_>) -> Vec<(&'static str, &'static str)> {
    let few = if at.is_directory() { 0..7 } else { 1..2 };
    CODECS[of_sample_or_whole(few, 0..7)].to_vec()
}

/// The words of an option on a command line: none if it is empty.
pub(crate) fn words(option: &str) -> Vec<&str> {
    option.split_whitespace().collect()
}

/// A sample of the server's.
pub(crate) fn sample(name: &str) -> Vec<u8> {
    fs::read(golden().join("wal").join(name)).unwrap()
}

/// The sample segment until `pages`, zeroes after them: what it was earlier.
pub(crate) fn until(pages: usize) -> Vec<u8> {
    let mut bytes = sample(SEGMENT);
    bytes[pages * 8192..].fill(0);
    bytes
}

/// The key of a WAL file.
pub(crate) fn key(name: &str, suffix: &str) -> String {
    if name.ends_with(".history") {
        return format!("main/wals/{name}{suffix}");
    }
    format!("main/wals/{}/{name}{suffix}", &name[..16])
}

/// Runs `check` on a directory and on two S3 servers; each time the archive is
/// empty.
pub(crate) fn everywhere(mut check: impl FnMut(&Objects<'_>)) {
    let workspace = Workspace::new();
    check(&Objects::in_directory(&workspace));
    for server in [S3Server::CephPlain, S3Server::Moto] {
        let workspace = Workspace::new();
        let Some(bucket) = server.bucket(&workspace) else {
            continue;
        };
        check(&Objects::in_bucket(&workspace, &bucket, "p"));
    }
}

/// Archives a file of this name and content.
fn archive(at: &Objects<'_>, options: &[&str], name: &str, content: &[u8]) -> Run {
    at.archive(options, &at.workspace().file(name, content))
        .run()
}

fn done(run: &Run) {
    assert_eq!(run.code(), Some(0), "{run}");
    assert!(run.stdout.is_empty() && run.stderr.is_empty(), "{run}");
}

/// It ended with 1, one line of error with all of `words` in it, and a hint.
pub(crate) fn refused(run: &Run, words: &[&str]) {
    assert_eq!(run.code(), Some(1), "{run}");
    let errors = run.errors();
    let error = errors.first().map_or("", |error| error.as_str());
    assert!(
        errors.len() == 1 && words.iter().all(|word| error.contains(word)),
        "{words:?}: {run}"
    );
    let lines = run.stderr.lines().count() - run.messages("WARNING").len();
    assert!(lines == 2 && run.stderr.contains("\nHINT: "), "{run}");
}

/// The archive holds exactly these objects, nothing is left over, and what is asked
/// for is delivered as it was archived.
fn holds(at: &Objects<'_>, keys: &[String], name: &str, content: &[u8]) {
    assert_eq!(at.keys(""), keys);
    assert_eq!(at.unfinished(), [""; 0]);
    let (run, delivered) = at.fetched(name);
    assert_eq!(run.code(), Some(0), "{run}");
    assert!(delivered.as_deref() == Some(content), "{name}: {run}");
}

fn row(what: &str, found: &str) -> Row {
    Row::new(
        Section::WalAgain,
        format!("`wal-archive`: {what}"),
        found.to_owned(),
    )
}

/// The checksums that a refusal names.
fn sums(contents: [&[u8]; 2]) -> [String; 2] {
    contents.map(|content| format!("SHA-256 {}", &e2e::sha256_of_bytes(content)[..16]))
}

#[test]
fn the_same_file_again() {
    let mut same = row(
        "the same file again",
        "done again; the stored object is not touched",
    );
    let mut suffix = row(
        "the same file again with another compression",
        "stored beside the first object; either is delivered as it was archived",
    );
    let files = [
        (SEGMENT.to_owned(), sample(SEGMENT)),
        (format!("{SEGMENT}.partial"), until(40)),
        ("00000002.history".to_owned(), b"1\t0/6000028\tx\n".to_vec()),
        (
            format!("{SEGMENT}.00000028.backup"),
            b"START WAL LOCATION: 0/6000028 (file 000000010000000000000006)\n".to_vec(),
        ),
    ];
    everywhere(|at| {
        // Where it takes longer, the segment and one other.
        let few = if at.is_directory() { files.len() } else { 2 };
        for (name, content) in files.iter().take(of_sample_or_whole(few, files.len())) {
            for (option, ending) in codecs(at) {
                let options = words(option);
                let object = key(name, ending);
                done(&archive(at, &options, name, content));
                let stored = at.read(&object);
                done(&archive(at, &options, name, content));
                assert!(at.read(&object) == stored, "{object}");
                holds(at, std::slice::from_ref(&object), name, content);
                same.lived_through();

                let mut keys = vec![
                    object,
                    key(name, if option == "--gzip" { ".xz" } else { ".gz" }),
                ];
                let other = if option == "--gzip" { "--xz" } else { "--gzip" };
                done(&archive(at, &[other], name, content));
                keys.sort();
                holds(at, &keys, name, content);
                at.remove(&keys[0]);
                holds(at, &keys[1..], name, content);
                suffix.lived_through();
                at.remove(&keys[1]);
            }
        }
    });
    same.finish();
    suffix.finish();
}

#[test]
fn another_file_of_the_same_name() {
    let whole = sample(SEGMENT);
    let mut other = whole.clone();
    other[500_000] ^= 1;
    let mut foreign = whole.clone();
    foreign[24] ^= 1;
    let history = b"1\t0/6000028\tno recovery target specified\n".as_slice();
    let other_history = b"1\t0/7000028\tno recovery target specified\n".as_slice();
    let cut = &whole[..300_000];
    let rows: [(&str, &str, &[u8], &[u8]); 5] = [
        (
            "a different segment of the same name",
            SEGMENT,
            &whole,
            &other,
        ),
        (
            "a segment of another cluster of the same name",
            SEGMENT,
            &whole,
            &foreign,
        ),
        (
            "a segment that is shorter than the stored one",
            SEGMENT,
            &whole,
            cut,
        ),
        (
            "a whole segment of which the beginning alone is stored",
            SEGMENT,
            cut,
            &whole,
        ),
        (
            "a different history file of the same name",
            "00000002.history",
            history,
            other_history,
        ),
    ];
    let mut overwritten = row(
        "a different file of the same name, with `--allow-overwrite`",
        "it takes the place of the stored one",
    );
    let mut told: Vec<Row> = rows
        .iter()
        .map(|(what, ..)| {
            row(
                what,
                "refused with 1, both checksums and a hint, so that PostgreSQL keeps its file; the \
                 stored object is not touched",
            )
        })
        .collect();
    everywhere(|at| {
        for ((_, name, first, second), row) in rows.iter().copied().zip(&mut told) {
            for (option, ending) in codecs(at).into_iter().take(3) {
                let options = words(option);
                let object = key(name, ending);
                let stored = archive(at, &options, name, first);
                assert_eq!(stored.code(), Some(0), "{stored}");
                let stored = at.read(&object);
                let [of_first, of_second] = sums([first, second]);
                for _ in 0..2 {
                    let run = archive(at, &options, name, second);
                    refused(&run, &[name, &of_first, &of_second]);
                    assert!(at.read(&object) == stored, "{object}");
                }
                assert_eq!(at.keys(""), [object.as_str()]);
                assert_eq!(at.unfinished(), [""; 0]);
                row.lived_through();

                let mut options = options;
                options.push("--allow-overwrite");
                let run = archive(at, &options, name, second);
                assert_eq!(run.code(), Some(0), "{run}");
                assert_eq!(at.keys(""), [object.as_str()]);
                if second.len() != cut.len() {
                    holds(at, std::slice::from_ref(&object), name, second);
                    overwritten.lived_through();
                }
                at.remove(&object);
            }
        }
    });
    for row in told {
        row.finish();
    }
    overwritten.finish();
}

#[test]
fn of_two_partials_the_longer_stays() {
    let name = format!("{SEGMENT}.partial");
    let (short, long) = (until(20), until(60));
    let mut foreign = until(90);
    foreign[24] ^= 1;
    let mut replaced = row(
        "a `.partial` that reaches further than the stored one (a second promotion)",
        "it takes the place of the stored one, with a warning",
    );
    let mut kept = row(
        "a `.partial` that reaches less far than the stored one",
        "done, with a warning; the stored one stays",
    );
    let mut refusal = row(
        "a `.partial` of another cluster",
        "refused with 1 and both checksums; the stored one stays",
    );
    everywhere(|at| {
        for (option, ending) in codecs(at) {
            let options = words(option);
            let keys = [key(&name, ending)];
            let warned = |content: &[u8], words: &str| {
                let run = archive(at, &options, &name, content);
                assert_eq!(run.code(), Some(0), "{run}");
                let warnings = run.messages("WARNING");
                assert!(
                    warnings.len() == 1 && warnings[0].contains(words),
                    "{words}: {run}"
                );
            };
            done(&archive(at, &options, &name, &short));
            warned(&long, "reaches less far and is replaced");
            holds(at, &keys, SEGMENT_OF_PARTIAL, &long);
            replaced.lived_through();
            warned(&short, "the stored one is kept");
            holds(at, &keys, SEGMENT_OF_PARTIAL, &long);
            done(&archive(at, &options, &name, &long));
            kept.lived_through();
            let run = archive(at, &options, &name, &foreign);
            let [ours, theirs] = sums([&foreign, &long]);
            refused(&run, &[&name, &ours, &theirs]);
            holds(at, &keys, SEGMENT_OF_PARTIAL, &long);
            refusal.lived_through();
            at.remove(&keys[0]);
        }
    });
    for row in [replaced, kept, refusal] {
        row.finish();
    }
}

/// What a `.partial` answers for.
const SEGMENT_OF_PARTIAL: &str = "000000010000000000000006.partial";

/// A stored file that was damaged while the server still has the good one: the
/// server must not be told that it may remove it.
#[test]
fn the_stored_file_is_damaged() {
    let mut row = row(
        "the same file again, and the stored one was damaged meanwhile",
        "refused with 1, so that PostgreSQL keeps the good one, and it is said which of the two is \
         damaged; `--allow-overwrite` puts the good one in its place",
    );
    let content = sample(SEGMENT);
    everywhere(|at| {
        for (option, ending) in codecs(at) {
            let options = words(option);
            let object = key(SEGMENT, ending);
            done(&archive(at, &options, SEGMENT, &content));
            let stored = at.read(&object);
            let middle = stored.len() / 2;
            for damage in [
                Damage::Flip(middle * 8 + 3),
                Damage::CutEnd(1),
                Damage::Empty,
                Damage::AppendGarbage,
            ] {
                let bytes = damage.of(&stored);
                at.write(&object, &bytes);
                let run = archive(at, &options, SEGMENT, &content);
                let about_the_stored_one = match (ending, damage) {
                    ("", Damage::Flip(_)) => "is damaged; this file",
                    ("", _) => "(stored: ",
                    _ => "is in the archive already and cannot be compared",
                };
                // What was appended to a finished stream may be no harm.
                if run.code() == Some(0) {
                    holds(at, std::slice::from_ref(&object), SEGMENT, &content);
                } else {
                    refused(&run, &[SEGMENT, about_the_stored_one]);
                }
                assert!(at.read(&object) == bytes, "{object}");
                let mut options = options.clone();
                options.push("--allow-overwrite");
                done(&archive(at, &options, SEGMENT, &content));
                holds(at, std::slice::from_ref(&object), SEGMENT, &content);
                row.lived_through();
            }
            at.remove(&object);
        }
    });
    row.finish();
}

/// Without the permission to read, nobody can say whether the files are the same.
#[test]
fn the_stored_file_may_not_be_read() {
    let mut row = row(
        "the same file again, by a user who may not read the stored one",
        "refused with 1, naming the permission; the stored object is not touched",
    );
    for server in [S3Server::CephPlain, S3Server::Moto] {
        let workspace = Workspace::new();
        let Some(bucket) = server.bucket(&workspace) else {
            return;
        };
        let at = Objects::in_bucket(&workspace, &bucket, "p");
        let content = sample(SEGMENT);
        done(&archive(&at, &["--gzip"], SEGMENT, &content));
        let stored = at.read(&key(SEGMENT, ".gz"));
        let proxy = FaultProxy::start(bucket.endpoint());
        proxy.add(&Rule::new(&Fault::Status(403)).on("^GET /.*wals").always());
        let place: &Place<'_> = at.place();
        let run = place
            .tool("barman-cloud-wal-archive")
            .envs(bucket.environment_through(&proxy))
            .args(["--gzip", place.url(), "main"])
            .arg(workspace.path(SEGMENT))
            .run();
        refused(&run, &[SEGMENT, "the permission to read"]);
        assert!(at.read(&key(SEGMENT, ".gz")) == stored);
        holds(&at, &[key(SEGMENT, ".gz")], SEGMENT, &content);
        row.lived_through();
    }
    row.finish();
}
