//! `backup.info` of the same cluster, written by both sides: the same fields in
//! the same order, of the same kinds, and with the same values where these do
//! not depend on the moment.

use e2e::{Barman, Cluster, PgBin, Place, S3Server, Workspace};

/// Fields with positions in WAL, which depend on the moment.
const POSITIONS: [&str; 5] = [
    "backup_label",
    "begin_wal",
    "begin_xlog",
    "end_wal",
    "end_xlog",
];

/// Other fields whose values are of the moment.
const OF_THE_MOMENT: [&str; 6] = [
    "begin_offset",
    "begin_time",
    "cluster_size",
    "copy_stats",
    "end_offset",
    "end_time",
];

/// The lines as pairs.
fn fields(text: &str) -> Vec<(String, String)> {
    let pair = |line: &str| {
        let (name, value) = line.split_once('=').unwrap();
        (name.to_owned(), value.to_owned())
    };
    text.lines().map(pair).collect()
}

/// A value with its numbers replaced by their kind: `I` for an integer, `F` for
/// one with a fraction or an exponent, and `X` for other words with digits.
fn shape(value: &str) -> String {
    let mut shape = String::new();
    let mut word = String::new();
    for character in value.chars().chain(['\0']) {
        // The exponent of 1e-06 goes on after its sign.
        let mantissa = word.strip_suffix('e').unwrap_or("none");
        let goes_on = character == '-' && mantissa.parse::<f64>().is_ok();
        if goes_on || character.is_ascii_alphanumeric() || character == '.' {
            word.push(character);
            continue;
        }
        shape.push_str(kind(&word));
        word.clear();
        shape.push(character);
    }
    shape.trim_end_matches('\0').to_owned()
}

fn kind(word: &str) -> &str {
    let is_digit = |byte: u8| byte.is_ascii_digit();
    if word.is_empty() || !word.bytes().any(is_digit) {
        word
    } else if word.bytes().all(is_digit) {
        "I"
    } else if word.parse::<f64>().is_ok() {
        "F"
    } else {
        "X"
    }
}

/// The same for a value with positions in WAL, in which a number may or may not
/// have digits above 9: all of them are `H`.
fn shape_of_positions(value: &str) -> String {
    let is_hex = |word: &str| word.bytes().all(|byte| b"0123456789ABCDEF".contains(&byte));
    let one = |word: &str| {
        if !word.is_empty() && is_hex(word) {
            "H"
        } else {
            kind(word)
        }
        .to_owned()
    };
    let words = value.split_inclusive(|c: char| !c.is_ascii_alphanumeric());
    words
        .map(
            |word| match word.strip_suffix(|c: char| !c.is_ascii_alphanumeric()) {
                Some(bare) => one(bare) + &word[bare.len()..],
                None => one(word),
            },
        )
        .collect()
}

#[test]
fn a_shape_keeps_words_and_kinds_of_numbers() {
    for (value, expected) in [
        ("None", "None"),
        ("2026-11-21 02:21:33.320190+00:00", "I-I-I I:I:F+I:I"),
        (
            "{'a': 0, 'b': 0.25, 'c': 1e-06}",
            "{'a': I, 'b': F, 'c': F}",
        ),
        ("cloud 20261121T022133", "cloud X"),
    ] {
        assert_eq!(shape(value), expected, "{value}");
    }
    for (value, expected) in [
        ("0000000A0000000000000004", "H"),
        ("0/B00028", "H/H"),
        (
            "'LOCATION: 0/4000028 (file 000000010000000000000004)\\nLABEL'",
            "'LOCATION: H/H (file H)\\nLABEL'",
        ),
        (
            "Barman backup cloud 20261121T022133",
            "Barman backup cloud X",
        ),
        ("None", "None"),
    ] {
        assert_eq!(shape_of_positions(value), expected, "{value}");
    }
}

fn both_write_the_same_fields(major: u32) {
    let Some(bin) = PgBin::of_version(major) else {
        return;
    };
    let Some(barman) = Barman::find() else { return };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let place = Place::in_bucket(&workspace, &bucket, "backups");
    let mut primary: Cluster = place.primary(&bin, "");
    primary.start();
    primary.make_tablespace(&workspace, "it's", "quoted");
    primary.make_tablespace(&workspace, "fast", "fast");
    let tools = [
        ("ours", place.tool("barman-cloud-backup")),
        ("theirs", barman.tool(&workspace, "barman-cloud-backup")),
    ];
    let mut written = Vec::new();
    for (server, tool) in tools {
        tool.envs(place.environment().iter().cloned())
            .args(primary.connection())
            .args([
                "--immediate-checkpoint",
                "--name",
                "both",
                place.url(),
                server,
            ])
            .succeed();
        let keys = bucket.keys(&format!("backups/{server}/base/"));
        let key = keys
            .iter()
            .find(|key| key.ends_with("/backup.info"))
            .unwrap();
        written.push(fields(&String::from_utf8(bucket.read(key)).unwrap()));
    }
    let names = |side: &[(String, String)]| -> Vec<String> {
        side.iter().map(|(name, _)| name.clone()).collect()
    };
    let [ours, theirs] = &written[..] else {
        unreachable!("two were written")
    };
    assert_eq!(names(ours), names(theirs));
    for ((name, ours), (_, theirs)) in ours.iter().zip(theirs) {
        let name = name.as_str();
        let (left, right) = if POSITIONS.contains(&name) {
            (shape_of_positions(ours), shape_of_positions(theirs))
        } else if OF_THE_MOMENT.contains(&name) {
            // Of a time that has no microseconds the fraction is left out.
            let without_fraction = |value| shape(value).replace(":F+", ":I+");
            (without_fraction(ours), without_fraction(theirs))
        } else {
            (ours.clone(), theirs.clone())
        };
        assert_eq!(left, right, "{name}: {ours}, theirs {theirs}");
    }
}

#[test]
fn both_write_the_same_fields_on_postgresql_10() {
    both_write_the_same_fields(10);
}

#[test]
fn both_write_the_same_fields_on_postgresql_15() {
    both_write_the_same_fields(15);
}

#[test]
fn both_write_the_same_fields_on_postgresql_18() {
    both_write_the_same_fields(18);
}
