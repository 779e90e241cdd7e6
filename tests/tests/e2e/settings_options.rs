//! Every option of every tool, typed, by a variable and in a file: all three must mean
//! the same to the tool.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt::Debug;
use std::io::Write;

use clap::builder::PossibleValue;
use clap::{Arg, ArgAction, Parser};
use cloud_core::cli::argparse::{self, Refusal};
use cloud_core::cli::settings::{is_typed_only, known_options, known_tools, variable};
use cloud_core::ops::Env;

/// Calls a generic function for the arguments of every tool, with the name of the tool and the words
/// of a command line without options that are not needed.
macro_rules! for_every_tool {
    ($function:ident) => {
        $function::<barman_cloud_backup::Args>("backup", "");
        $function::<barman_cloud_backup_delete::Args>("backup-delete", "-b id");
        $function::<barman_cloud_backup_keep::Args>("backup-keep", "--status id");
        $function::<barman_cloud_backup_list::Args>("backup-list", "");
        $function::<barman_cloud_backup_show::Args>("backup-show", "id");
        $function::<barman_cloud_check_wal_archive::Args>("check-wal-archive", "");
        $function::<barman_cloud_restore::Args>("restore", "id dir");
        $function::<barman_cloud_verify::Args>("verify", "id");
        $function::<barman_cloud_wal_archive::Args>("wal-archive", "wal");
        $function::<barman_cloud_wal_restore::Args>("wal-restore", "wal dest");
    };
}

/// Two names of one thing: only one of them counts.
const SYNONYMS: [[&str; 2]; 3] = [
    ["gcp-project", "snapshot-gcp-project"],
    ["gcp-zone", "snapshot-recovery-zone"],
    ["gcp-zone", "snapshot-zone"],
];

/// Options of which one makes a `compression-level` mean something.
const ALGORITHMS: [&str; 6] = ["bzip2", "gzip", "lz4", "snappy", "xz", "zstd"];

/// Whether `lent` is only taken beside another option than `typed`, or by no tool beside that.
fn stays_away(typed: &str, lent: &str) -> bool {
    let of_snapshots = |name| ["snapshot-disk", "snapshot-instance"].contains(&name);
    let of_archives = |name| ALGORITHMS.contains(&name) || name == "parallel-archives";
    let is_one_thing =
        typed == lent || SYNONYMS.contains(&[typed, lent]) || SYNONYMS.contains(&[lent, typed]);
    is_one_thing
        || (of_snapshots(typed) && of_archives(lent))
        || (of_snapshots(lent) && of_archives(typed))
        || (lent == "compression-level" && !ALGORITHMS.contains(&typed))
}

/// What an option is typed beside, to mean something.
fn beside(option: &str) -> Vec<String> {
    let needed = (option == "compression-level").then(|| "--gzip".to_owned());
    needed.into_iter().collect()
}

/// Values of which each option takes one, other than its default.
const VALUES: [&str; 6] = [
    "3",
    "sha256",
    "key,value",
    "2026-11-21T10:00:00.000Z",
    "json",
    "word",
];

/// What a tool makes of words and variables.
fn made<A: Parser + Debug>(
    words: &[String],
    variables: &[(String, String)],
) -> Result<String, String> {
    let words: Vec<OsString> = words.iter().map(OsString::from).collect();
    let env: Env = variables.iter().cloned().collect();
    match argparse::parse::<A>(&words, &env) {
        Ok(args) => Ok(format!("{args:?}")),
        Err(Refusal::Wrong(text) | Refusal::Show(text)) => Err(text),
    }
}

/// An option with a value, in each of its forms.
struct Given {
    name: String,
    typed: String,
    variable: (String, String),
    line: String,
}

impl Given {
    fn new(arg: &Arg, value: &str) -> Self {
        let name = arg
            .get_long()
            .expect("an option has a long name")
            .to_owned();
        let (typed, value, line) = match arg.get_action() {
            ArgAction::SetTrue => (format!("--{name}"), "true".into(), "true".into()),
            ArgAction::Count => (format!("--{name}"), "1".into(), "1".into()),
            ArgAction::Append => {
                let line = format!("['{value}', '{value} 2']");
                // Only one of the values: the other comes behind it.
                (
                    format!("--{name}={value}"),
                    format!("'{value}' '{value} 2'"),
                    line,
                )
            }
            _ => (
                format!("--{name}={value}"),
                value.into(),
                format!("'{value}'"),
            ),
        };
        Self {
            variable: (variable(&name), value),
            line: format!("{name} = {line}\n"),
            typed,
            name,
        }
    }

    /// The words to type.
    fn words(&self, arg: &Arg) -> Vec<String> {
        match arg.get_action() {
            // A list that is typed takes the place of the one before.
            ArgAction::Append if arg.get_num_args().is_some_and(|n| n.max_values() > 1) => {
                let (name, value) = self.typed.split_once('=').expect("it has a value");
                vec![name.to_owned(), value.to_owned(), format!("{value} 2")]
            }
            ArgAction::Append => vec![self.typed.clone(), format!("{} 2", self.typed)],
            _ => vec![self.typed.clone()],
        }
    }
}

/// The words of a command line with options before the positionals.
fn line(options: &[String], rest: &str) -> Vec<String> {
    let rest = rest.split_whitespace().map(str::to_owned);
    let (flags, rest): (Vec<String>, Vec<String>) = match rest.clone().next() {
        Some(first) if first == "-b" => (rest.clone().take(2).collect(), rest.skip(2).collect()),
        Some(first) if first.starts_with('-') => {
            (rest.clone().take(1).collect(), rest.skip(1).collect())
        }
        _ => (Vec::new(), rest.collect()),
    };
    let place = ["--", "file:///bucket", "main"].map(str::to_owned);
    [options, &flags, &place, &rest].concat()
}

/// Every option of a tool that need not be typed, with a value that makes a difference.
fn options<A: Parser + Debug>(rest: &str) -> Vec<(Arg, Given)> {
    let bare = made::<A>(&line(&[], rest), &[]).unwrap();
    let command = argparse::command::<A>();
    let may_be_lent = |arg: &&Arg| arg.get_long().is_some_and(|name| !is_typed_only(name));
    let arguments = command.get_arguments().filter(may_be_lent).cloned();
    arguments
        .map(|arg| {
            let choices = arg.get_possible_values();
            let choices = choices.iter().map(PossibleValue::get_name);
            let found = choices.chain(VALUES).find_map(|value| {
                let given = Given::new(&arg, value);
                let made = made::<A>(&line(&given.words(&arg), rest), &[]).ok()?;
                (made != bare).then_some(given)
            });
            let found = found.unwrap_or_else(|| panic!("{arg}: no value makes a difference"));
            (arg, found)
        })
        .collect()
}

fn assert_all_three_mean_the_same<A: Parser + Debug>(tool: &str, rest: &str) {
    for (arg, given) in options::<A>(rest) {
        let beside = beside(&given.name);
        let bare = line(&beside, rest);
        let typed = [given.words(&arg), beside].concat();
        let typed = made::<A>(&line(&typed, rest), &[]).unwrap();
        let by_variable = made::<A>(&bare, std::slice::from_ref(&given.variable));
        assert_eq!(
            by_variable.as_ref(),
            Ok(&typed),
            "{tool}: {}",
            given.variable.0
        );
        for table in ["defaults".to_owned(), format!("defaults.{tool}")] {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            write!(file, "[{table}]\n{}", given.line).unwrap();
            let path = file.path().to_str().unwrap().to_owned();
            let by_file = made::<A>(&bare, &[(variable("config"), path)]);
            assert_eq!(
                by_file.as_ref(),
                Ok(&typed),
                "{tool}: [{table}] {}",
                given.line
            );
        }
    }
}

#[test]
fn typed_by_a_variable_or_in_a_file_an_option_means_the_same() {
    for_every_tool!(assert_all_three_mean_the_same);
}

/// Whatever the environment holds, it is as if it was not there for an option that excludes
/// it, and as if it was typed for all others.
fn assert_what_is_typed_comes_first<A: Parser + Debug>(tool: &str, rest: &str) {
    let options = options::<A>(rest);
    for (arg, typed) in &options {
        let words = typed.words(arg);
        let alone = made::<A>(&line(&words, rest), &[]).unwrap();
        for (other_arg, lent) in &options {
            let lent_words = lent.words(other_arg);
            let both = made::<A>(&line(&[words.clone(), lent_words].concat(), rest), &[]);
            let pair = [typed.name.as_str(), lent.name.as_str()];
            let expected = match both {
                Ok(both) if !stays_away(pair[0], pair[1]) => both,
                _ => alone.clone(),
            };
            let variables = std::slice::from_ref(&lent.variable);
            let mixed = made::<A>(&line(&words, rest), variables);
            assert_eq!(mixed, Ok(expected), "{tool}: {pair:?}");
        }
    }
}

#[test]
fn what_is_typed_comes_before_what_is_not() {
    for_every_tool!(assert_what_is_typed_comes_first);
}

fn assert_known<A: Parser + Debug>(tool: &str, _: &str) {
    let command = argparse::command::<A>();
    assert_eq!(command.get_name(), format!("barman-cloud-{tool}"));
    let there: BTreeSet<&str> = command.get_arguments().filter_map(Arg::get_long).collect();
    let known: BTreeSet<&str> = known_options(Some(tool)).collect();
    assert_eq!(
        known, there,
        "{tool}: see cloud-core/src/cli/settings/known.rs"
    );
    let text = std::fs::read_to_string(e2e::project().join("docs/configuration.md")).unwrap();
    for option in there.iter().filter(|option| !is_typed_only(option)) {
        let row = format!("`{tool}`");
        let rows = text.lines().filter(|line| {
            line.starts_with("All tools") || line.starts_with("`quiet`") || line.contains(&row)
        });
        assert!(
            rows.into_iter()
                .any(|line| line.contains(&format!("`{option}`"))),
            "{tool}: `{option}` is missing in docs/configuration.md, \"All keys\""
        );
    }
}

/// The list that a file is compared with, and the one in the documentation.
#[test]
fn the_lists_of_options_are_those_of_the_tools() {
    for_every_tool!(assert_known);
    // Most of its options are only taken together with another, so no other test has it.
    assert_known::<barman_cloud_metrics::Args>("metrics", "");
    assert_eq!(known_tools().count(), 11);
}
