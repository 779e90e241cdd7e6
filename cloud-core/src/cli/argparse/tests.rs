//! A table of command lines, against what the reference's parser answered.

use clap::{ArgAction, Parser};

use super::*;
use crate::cli::{tags, values};
use crate::store::Tag;

/// A tool with every habit: abbreviations that are ambiguous, a greedy option,
/// several spellings, an option that the reference does not have.
#[derive(Debug, Parser)]
#[command(name = "tool", version = "4.0.0")]
struct Sample {
    #[arg(short = 'V', long, action = ArgAction::Version)]
    version: Option<bool>,
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
    #[arg(short, long, action = ArgAction::Count, conflicts_with = "quiet")]
    verbose: u8,
    #[arg(short, long, action = ArgAction::Count)]
    quiet: u8,
    #[arg(short = 'z', long, group = "compression")]
    gzip: bool,
    #[arg(short = 'j', long, group = "compression")]
    bzip2: bool,
    #[arg(short = 'J', long, value_parser = values::positive)]
    jobs: Option<std::num::NonZeroU32>,
    #[arg(long, value_parser = values::compression_level)]
    compression_level: Option<crate::codec::Level>,
    #[arg(short = 'P', long, visible_alias = "profile")]
    aws_profile: Option<String>,
    #[arg(long)]
    endpoint_url: Option<String>,
    #[arg(long)]
    retention_policy: Option<String>,
    #[arg(long, help_heading = OURS)]
    retention_hours: Option<String>,
    #[arg(long, num_args = 0.., action = ArgAction::Append, value_parser = tags::record, group = "tagging")]
    tags: Option<Vec<Tag>>,
    #[arg(long, action = ArgAction::Append, value_parser = tags::pair, group = "tagging")]
    tag: Option<Vec<Tag>>,
    #[arg(short = 'h', long)]
    host: Option<String>,
    #[arg(value_name = "destination_url")]
    destination_url: String,
    #[arg(value_name = "server_name")]
    server_name: String,
    wal_path: Option<std::path::PathBuf>,
}

fn words(line: &str) -> Vec<OsString> {
    // Words are set apart by blanks; `_` stands for a blank inside one.
    line.split_whitespace()
        .map(|word| word.replace('_', " ").into())
        .collect()
}

fn accepted(line: &str) -> Sample {
    parse(&words(line), &Env::default()).unwrap_or_else(|refusal| panic!("{line}: {refusal:?}"))
}

fn refused(line: &str) -> String {
    match parse::<Sample>(&words(line), &Env::default()) {
        Err(Refusal::Wrong(text)) => text,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn every_form_that_scripts_use_is_accepted() {
    for line in [
        "d s",
        "--gzip d s",
        "d s --gzip",
        "d --gzip s",
        "-z d s w",
        "d s --endpoint-url u w",
        "--endp u d s",
        "--endp=u d s",
        "-J4 d s",
        "-J 4 d s",
        "-J=4 d s",
        "-zvv d s",
        "-zJ4 d s",
        "--compression-level -5 d s",
        "--compression-level=-5 d s",
        "--profile p d s",
        "--pro p d s",
        "--retention RECOVERY_WINDOW_OF_7_DAYS d s",
        "--tags k1,v1 k2,v2 --endpoint-url u d s",
        "--tags k,v -- d s",
        "--tags -- d s",
        "-- d s",
        "-h host d s",
        "--host host d s",
        "--ver -q d s",
    ] {
        // `--ver` could be `--version` or `--verbose`: the last line is refused.
        if line.starts_with("--ver ") {
            assert!(
                refused(line).contains("ambiguous option: --ver could match --version, --verbose")
            );
            continue;
        }
        let sample = accepted(line);
        assert_eq!(
            (sample.destination_url.as_str(), sample.server_name.as_str()),
            ("d", "s"),
            "{line}"
        );
    }
}

#[test]
fn values_arrive_where_they_belong() {
    assert_eq!(
        accepted("-J 2 -J4 d s").jobs.unwrap().get(),
        4,
        "the last one wins"
    );
    assert_eq!(
        accepted("--endpoint-url a --endp b d s")
            .endpoint_url
            .as_deref(),
        Some("b")
    );
    assert_eq!(
        accepted("--profile a -P b d s").aws_profile.as_deref(),
        Some("b")
    );
    assert_eq!(accepted("-vvv d s").verbose, 3);
    assert_eq!(accepted("-qq d s").quiet, 2);
    let keys = |line: &str| {
        let sample = accepted(line);
        let tags = sample.tags.or(sample.tag);
        tags.map(|tags| tags.into_iter().map(|tag| tag.key).collect::<Vec<_>>())
    };
    assert_eq!(keys("d s"), None);
    assert_eq!(
        keys("--tags a,1 b,2 -z d s"),
        Some(vec!["a".into(), "b".into()])
    );
    assert_eq!(keys("--tags -z d s"), Some(vec![]));
    assert_eq!(
        keys("--tags a,1 --tags b,2 -z d s"),
        Some(vec!["b".into()]),
        "the last list wins"
    );
    assert_eq!(
        keys("--tag a,1 --tag b,2 d s"),
        Some(vec!["a".into(), "b".into()])
    );
    assert_eq!(
        accepted("d s --gzip w").wal_path.unwrap().to_str(),
        Some("w")
    );
    assert_eq!(accepted("d -- -s").server_name, "-s");
    assert_eq!(accepted("d -1").server_name, "-1");
}

#[test]
fn words_that_are_not_text_reach_the_tool() {
    use std::os::unix::ffi::OsStringExt;
    let path = OsString::from_vec(b"w\xff".to_vec());
    let sample: Sample = parse(&["d".into(), "s".into(), path.clone()], &Env::default()).unwrap();
    assert_eq!(sample.wal_path.unwrap().into_os_string(), path);
}

#[test]
fn complaints_are_usage_and_one_line() {
    for (line, message) in [
        (
            "",
            "the following arguments are required: destination_url, server_name",
        ),
        ("d", "the following arguments are required: server_name"),
        ("d s w x", "unrecognized arguments: x"),
        ("-x d s", "unrecognized arguments: -x"),
        ("--nonsense d s", "unrecognized arguments: --nonsense"),
        (
            "-J 0 d s",
            "argument -J/--jobs: '0' is not a valid positive integer",
        ),
        ("d s -J", "argument -J/--jobs: expected one argument"),
        (
            "--gzip=1 d s",
            "argument -z/--gzip: ignored explicit argument '1'",
        ),
        (
            "-z -j d s",
            "argument -j/--bzip2: not allowed with argument -z/--gzip",
        ),
        (
            "-v -q d s",
            "argument -q/--quiet: not allowed with argument -v/--verbose",
        ),
        (
            "-qv d s",
            "argument -v/--verbose: not allowed with argument -q/--quiet",
        ),
        ("--tags a,1 -z --tag b,2 d s", "not allowed with argument"),
        (
            "--re x d s --retention-h 3",
            "unrecognized arguments: --retention-h",
        ),
        (
            "--compression-level 1.0 d s",
            "argument --compression-level: ",
        ),
        ("--tag aws:x,1 d s", "argument --tag: "),
    ] {
        let text = refused(line);
        let lines: Vec<&str> = text.trim_end().lines().collect();
        assert!(
            text.starts_with("Usage: tool") || text.starts_with("usage: tool"),
            "{line}: {text}"
        );
        let last = lines.last().unwrap();
        assert!(
            last.starts_with("tool: error: ") && last.contains(message),
            "{line}: {last}"
        );
    }
    assert_eq!(refused("--tags foo -z d s"), "Invalid tag format: foo\n");
}

#[test]
fn an_option_of_ours_must_be_typed_whole() {
    assert_eq!(
        accepted("--retention-hours 3 d s")
            .retention_hours
            .as_deref(),
        Some("3")
    );
    assert_eq!(
        accepted("--retention x d s").retention_policy.as_deref(),
        Some("x")
    );
}

#[test]
fn help_and_version_are_shown() {
    let shown = |line: &str| match parse::<Sample>(&words(line), &Env::default()) {
        Err(Refusal::Show(text)) => text,
        other => panic!("{line}: {other:?}"),
    };
    assert_eq!(shown("--version"), "tool 4.0.0\n");
    assert_eq!(shown("-V"), "tool 4.0.0\n");
    assert!(shown("--help").contains("--endpoint-url"));
    assert!(shown("d --help s").contains("--endpoint-url"));
}
