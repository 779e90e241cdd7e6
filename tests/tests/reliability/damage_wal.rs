//! WAL objects that changed while they were stored.

use std::fs;

use e2e::{
    Cluster, Damage, Objects, PgBin, Row, Run, S3Server, Section, Workspace, of_sample_or_whole,
    segment_moved_to,
};

use crate::wal_again::{CODECS, SEGMENT, key, sample, until, words};

/// What a damaged object was answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// Exit code 4, and one line that names the object; nothing was delivered.
    Refused,
    /// Exactly the file, as if nothing had happened.
    Right,
    /// Another file than was archived, with a warning that names the object.
    Warned,
    /// Another file than was archived, without a word.
    Wrong,
}

/// A backup that needs the sample segment and nothing else: its disks are in snapshots.
fn needing_the_sample(at: &Objects<'_>) {
    let label = "START WAL LOCATION: 0/600028 (file 000000010000000000000006)\n";
    let record = format!(
        "begin_wal={SEGMENT}\nbegin_xlog=0/600028\nend_wal={SEGMENT}\nend_xlog=0/6FFF00\n\
         snapshots_info={{'provider': 'aws'}}\nstatus=DONE\nsystemid=7710448268996247812\n\
         timeline=1\nxlog_segment_size=1048576\n"
    );
    at.write(&format!("main/base/{ID}/backup.info"), record);
    at.write(&format!("main/base/{ID}/backup_label"), label);
}

const ID: &str = "20261121T022133";

const NAMED: &str = "a finding names the object; good only if it is delivered as it was archived";

/// What a check says of the sample's object, which was answered with `answer`.
fn assert_proved(at: &Objects<'_>, object: &str, answer: Answer, case: &str) {
    // By now the archiver has made the server's folder, as its user.
    needing_the_sample(at);
    let proof = at.place().prove(ID, &[]);
    let good = matches!(answer, Answer::Right | Answer::Wrong);
    assert_eq!(proof.is_good(), good, "{case}: {answer:?}: {}", proof.run);
    assert!(good || proof.names(object), "{case}: {}", proof.run);
}

/// Fetches `name`, whose object is `object`, over a file that is there already.
fn answer(at: &Objects<'_>, name: &str, object: &str, content: &[u8], case: &str) -> Answer {
    let to = at.workspace().file("destination", "precious");
    let run = at.fetch(name, &to).run();
    let delivered = fs::read(&to).unwrap();
    let names_it = |text: &str| text.contains(object);
    match run.code() {
        Some(0) if delivered == content => Answer::Right,
        Some(0) => {
            let warnings = run.messages("WARNING");
            let told = warnings.iter().any(|warning| names_it(warning));
            if told { Answer::Warned } else { Answer::Wrong }
        }
        _ => {
            one_error(&run, object, case);
            assert_eq!(delivered, b"precious", "{case}: {run}");
            Answer::Refused
        }
    }
}

fn one_error(run: &Run, object: &str, case: &str) {
    assert_eq!(run.code(), Some(4), "{case}: {run}");
    assert_eq!(run.stderr.lines().count(), 1, "{case}: {run}");
    let errors = run.errors();
    assert!(
        errors.len() == 1 && errors[0].contains(object),
        "{case}: {run}"
    );
}

/// Archives a file with the option of a codec.
fn archived(at: &Objects<'_>, option: &str, name: &str, content: &[u8]) {
    let file = at.workspace().file(name, content);
    at.archive(&words(option), &file).succeed();
}

fn row(done: &str, found: &str) -> Row {
    row_of("wal-restore", done, found)
}

fn row_of(tool: &str, done: &str, found: &str) -> Row {
    Row::new(
        Section::Damage,
        format!("`{tool}`: {done}"),
        found.to_owned(),
    )
}

const TOLD: &str = "delivered as it was archived, or refused naming the object; what stood at the \
                    destination stays";

/// The files that are damaged: kind, name, content.
fn files() -> [(&'static str, String, Vec<u8>); 4] {
    let label = "START WAL LOCATION: 0/6000028 (file 000000010000000000000006)\n";
    [
        ("a segment", SEGMENT.to_owned(), sample(SEGMENT)),
        ("a `.partial`", format!("{SEGMENT}.partial"), until(60)),
        (
            "a history file",
            "00000002.history".to_owned(),
            sample("00000002.history"),
        ),
        (
            "a `.backup` file",
            format!("{SEGMENT}.00000028.backup"),
            label.as_bytes().to_vec(),
        ),
    ]
}

/// Every kind of file in one codec, damaged in every way.
fn compressed(at: &Objects<'_>, codecs: &[(&str, &str)], flips: usize) {
    for (option, suffix) in codecs {
        let codec = option.trim_start_matches('-');
        let mut row = row(
            &format!(
                "a WAL file in {codec} is damaged (bits, bytes and sectors; cut, longer, empty)"
            ),
            TOLD,
        );
        let mut proved = row_of(
            "verify",
            &format!(
                "a segment in {codec} is damaged (bits, bytes and sectors; cut, longer, empty)"
            ),
            NAMED,
        );
        let mut rng = fastrand::Rng::with_seed(11);
        for (_, name, content) in files() {
            archived(at, option, &name, &content);
            let object = key(&name, suffix);
            let stored = at.read(&object);
            for damage in Damage::every_way(stored.len(), flips, &mut rng) {
                let case = format!("{damage} of {object}");
                let bytes = damage.of(&stored);
                at.write(&object, &bytes);
                let answer = answer(at, &name, &object, &content, &case);
                assert!(
                    matches!(answer, Answer::Right | Answer::Refused),
                    "{case}: {answer:?}"
                );
                row.lived_through();
                if name == SEGMENT {
                    assert_proved(at, &object, answer, &case);
                    proved.lived_through();
                }
            }
            at.remove(&object);
        }
        row.finish();
        proved.finish();
    }
}

#[test]
fn wal_in_every_codec() {
    let workspace = Workspace::new();
    let at = Objects::in_directory(&workspace);
    compressed(&at, &CODECS[1..4], of_sample_or_whole(3, 300));
}

#[test]
fn wal_in_every_other_codec() {
    let workspace = Workspace::new();
    let at = Objects::in_directory(&workspace);
    compressed(&at, &CODECS[4..], of_sample_or_whole(3, 300));
}

/// What the server wrote into a segment, as ranges of bytes that its records cover;
/// not the record that began in the segment before, nor the one that ends in the
/// next.
fn covered(segment: &[u8]) -> Vec<bool> {
    const PAGE: usize = 8192;
    let word = |at: usize| u32::from_le_bytes(segment[at..at + 4].try_into().unwrap()) as usize;
    let header = |page: usize| if page == 0 { 40 } else { 24 };
    // Where the content of the pages lies, headers left out.
    let content: Vec<usize> = (0..segment.len())
        .filter(|at| at % PAGE >= header(at / PAGE))
        .collect();
    let mut covered = vec![false; segment.len()];
    // Records begin at multiples of eight, and so do the contents of pages.
    let mut next = word(16).next_multiple_of(8);
    while next < content.len() {
        let total = word(content[next]);
        let Some(record) = content.get(next..next + total).filter(|_| total > 0) else {
            break;
        };
        for at in record {
            covered[*at] = true;
        }
        next = (next + total).next_multiple_of(8);
    }
    covered
}

/// Without compression nothing but the WAL itself tells.
fn plain(at: &Objects<'_>, flips: usize) {
    let content = sample(SEGMENT);
    let covered = covered(&content);
    let object = key(SEGMENT, "");
    archived(at, "", SEGMENT, &content);
    let try_it = |bytes: &[u8], case: &str| {
        at.write(&object, bytes);
        answer(at, SEGMENT, &object, &content, case)
    };
    let mut rng = fastrand::Rng::with_seed(5);
    let mut proved = row_of(
        "verify",
        "a segment without compression is damaged (bits and sectors of records; cut, longer, empty)",
        NAMED,
    );

    let mut sized = row(
        "a segment without compression is cut, longer or empty",
        "refused naming the object; what stood at the destination stays",
    );
    for damage in Damage::every_way(content.len(), 0, &mut rng) {
        let bytes = damage.of(&content);
        if bytes.len() != content.len() {
            let answer = try_it(&bytes, &damage.to_string());
            assert_eq!(answer, Answer::Refused, "{damage}");
            sized.lived_through();
            assert_proved(at, &object, answer, &damage.to_string());
            proved.lived_through();
        }
    }
    sized.finish();

    let mut told = row(
        "a bit or a sector of a record changes in a segment without compression",
        "delivered with a warning that names the object and the place, where PostgreSQL will end \
         the recovery; kept back, the segment would end it earlier",
    );
    let mut untold = row(
        "the same in the record that began in the segment before, or that ends in the next one",
        "delivered as it is: only together with its neighbour can it be checked, as PostgreSQL does \
         when it replays it",
    )
    .passed_on();
    let places: Vec<usize> = (0..content.len()).filter(|at| covered[*at]).collect();
    assert!(places.len() > 500_000, "most of it is records");
    for _ in 0..flips {
        let damage = Damage::Flip(places[rng.usize(..places.len())] * 8 + rng.usize(..8));
        let answer = try_it(&damage.of(&content), &damage.to_string());
        assert_eq!(answer, Answer::Warned, "{damage}");
        told.lived_through();
        assert_proved(at, &object, answer, &damage.to_string());
        proved.lived_through();
        let sector = Damage::Blank(places[rng.usize(..places.len() / 2)]);
        let answer = try_it(&sector.of(&content), &sector.to_string());
        assert!(matches!(answer, Answer::Warned | Answer::Right), "{sector}");
        told.lived_through();
        assert_proved(at, &object, answer, &sector.to_string());
        proved.lived_through();
    }
    for place in [100, 6000, content.len() - 1] {
        assert!(!covered[place], "{place}");
        let damage = Damage::Flip(place * 8);
        let answer = try_it(&damage.of(&content), &damage.to_string());
        assert_eq!(answer, Answer::Wrong, "{damage}: then it can be told now");
        untold.lived_through();
    }
    told.finish();
    untold.finish();
    proved.finish();
    at.remove(&object);
}

#[test]
fn wal_without_compression() {
    let workspace = Workspace::new();
    plain(
        &Objects::in_directory(&workspace),
        of_sample_or_whole(20, 2000),
    );
}

/// History files and labels are short texts without a checksum.
#[test]
fn texts_without_compression() {
    let workspace = Workspace::new();
    let at = Objects::in_directory(&workspace);
    let mut row = row(
        "a history or `.backup` file without compression is damaged",
        "delivered as it is, for it has no checksum; one of which nothing is left is refused",
    )
    .passed_on();
    for (_, name, content) in files().into_iter().skip(2) {
        archived(&at, "", &name, &content);
        let object = key(&name, "");
        for damage in [
            Damage::Flip(0),
            Damage::Flip(content.len() * 4),
            Damage::CutEnd(1),
            Damage::Empty,
        ] {
            at.write(&object, damage.of(&content));
            let answer = answer(&at, &name, &object, &content, &damage.to_string());
            let expected = match damage {
                Damage::Empty => Answer::Refused,
                _ => Answer::Wrong,
            };
            assert_eq!(answer, expected, "{damage} of {name}");
            row.lived_through();
        }
    }
    row.finish();
}

/// The segment that has this name.
fn renamed(name: &str) -> Vec<u8> {
    let number = |range| u64::from_str_radix(&name[range], 16).unwrap();
    segment_moved_to((number(8..16) << 12) + number(16..24))
}

#[test]
fn an_object_holds_what_another_name_promises() {
    let workspace = Workspace::new();
    let at = Objects::in_directory(&workspace);
    let content = sample(SEGMENT);
    let next = "000000010000000000000007";
    let mut other = row(
        "the object holds another segment",
        "delivered with a warning that names both; PostgreSQL refuses such pages by itself",
    );
    let mut suffix = row(
        "the object is in another codec than its suffix says",
        "refused naming the object; what stood at the destination stays",
    );
    let mut other_proved = row_of("verify", "the object holds another segment", NAMED);
    let mut suffix_proved = row_of(
        "verify",
        "the object of a segment is in another codec than its suffix says",
        NAMED,
    );
    let mut stored = Vec::new();
    for (option, ending) in CODECS {
        archived(&at, option, SEGMENT, &content);
        archived(&at, option, next, &renamed(next));
        let object = key(SEGMENT, ending);
        stored.push((ending, at.read(&object)));
        at.write(&object, at.read(&key(next, ending)));
        let answer = answer(&at, SEGMENT, &object, &content, ending);
        assert_eq!(answer, Answer::Warned, "{ending}");
        other.lived_through();
        assert_proved(&at, &object, answer, ending);
        other_proved.lived_through();
        at.remove(&object);
        at.remove(&key(next, ending));
    }
    other.finish();
    for (ending, _) in &stored {
        for (inside, bytes) in stored.iter().filter(|(inside, _)| inside != ending) {
            let object = key(SEGMENT, ending);
            at.write(&object, bytes);
            let case = format!("{inside} in {ending}");
            let answer = answer(&at, SEGMENT, &object, &content, &case);
            assert_eq!(answer, Answer::Refused, "{case}");
            assert_proved(&at, &object, answer, &case);
            suffix_proved.lived_through();
            at.remove(&object);
            suffix.lived_through();
        }
    }
    suffix.finish();
    other_proved.finish();
    suffix_proved.finish();
}

/// The server's `pg_control` tells whose WAL it wants.
#[test]
fn wal_of_another_cluster() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let at = Objects::in_directory(&workspace);
    let cluster = Cluster::create(&bin, &workspace, "other", &[]);
    archived(&at, "--gzip", SEGMENT, &sample(SEGMENT));
    let mut row = row(
        "the object holds a segment of another cluster, and the server asks for it",
        "delivered with a warning that names both; PostgreSQL refuses such pages by itself",
    );
    let run = at
        .fetch(SEGMENT, "pg_wal/RECOVERYXLOG".as_ref())
        .in_dir(cluster.pgdata())
        .run();
    assert_eq!(run.code(), Some(0), "{run}");
    let warnings = run.messages("WARNING");
    assert!(
        warnings.len() == 1 && warnings[0].contains("of another cluster"),
        "{run}"
    );
    row.lived_through();
    row.finish();
}

/// What was fetched ahead is delivered without another look at the archive.
#[test]
fn a_damaged_segment_is_not_taken_from_the_spool() {
    let workspace = Workspace::new();
    let at = Objects::in_directory(&workspace);
    let mut row = row(
        "a segment without compression is damaged, and would be fetched ahead",
        "not kept in the spool; asked for, it is delivered with its warning",
    );
    let next = "000000010000000000000007";
    archived(&at, "", SEGMENT, &sample(SEGMENT));
    archived(&at, "", next, &renamed(next));
    let object = key(next, "");
    at.write(&object, Damage::Flip(500_000 * 8).of(&renamed(next)));
    let to = workspace.path("fetched");
    for (name, warned) in [(SEGMENT, false), (next, true)] {
        let run = at.fetch(name, &to).args(["--parallel", "2"]).run();
        assert_eq!(run.code(), Some(0), "{run}");
        let warnings = run.messages("WARNING");
        assert_eq!(warnings.len(), usize::from(warned), "{run}");
        assert!(warnings.iter().all(|text| text.contains(&object)), "{run}");
    }
    row.lived_through();
    row.finish();
}

/// The same over the network.
#[test]
fn wal_in_a_bucket() {
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let at = Objects::in_bucket(&workspace, &bucket, "p");
    let content = sample(SEGMENT);
    let mut row = row("a WAL file in a bucket is damaged", TOLD);
    let mut rng = fastrand::Rng::with_seed(3);
    for (option, ending) in &CODECS[1..] {
        archived(&at, option, SEGMENT, &content);
        let object = key(SEGMENT, ending);
        let stored = at.read(&object);
        let ways = Damage::every_way(stored.len(), of_sample_or_whole(0, 20), &mut rng);
        for damage in ways.into_iter().step_by(of_sample_or_whole(4, 1)) {
            let case = format!("{damage} of {object}");
            at.write(&object, damage.of(&stored));
            let answer = answer(&at, SEGMENT, &object, &content, &case);
            assert!(
                matches!(answer, Answer::Right | Answer::Refused),
                "{case}: {answer:?}"
            );
            row.lived_through();
        }
        at.remove(&object);
    }
    row.finish();
}
