//! `barman-cloud`: all tools in one program, for packages and images.
//!
//! The tools have nearly all of their code in common, so that one program with a link
//! for each tool is about as large as a single one. Which tool is meant is told by the
//! name that the program is called by, which is that of the link, or else by its first
//! word: `barman-cloud backup …` is `barman-cloud-backup …`. What the tool is given and
//! what it says is the same in all three ways.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use cloud_core::cli::argparse::{self, Refusal};
use cloud_core::cli::{self, Tool};
#[cfg(test)]
use cloud_core::ops::Env;

/// What the program is called when it is no tool.
pub const NAME: &str = "barman-cloud";

/// All tools, by their names.
pub const TOOLS: [Entry; 11] = [
    entry::<barman_cloud_backup::Args>("barman-cloud-backup"),
    entry::<barman_cloud_backup_delete::Args>("barman-cloud-backup-delete"),
    entry::<barman_cloud_backup_keep::Args>("barman-cloud-backup-keep"),
    entry::<barman_cloud_backup_list::Args>("barman-cloud-backup-list"),
    entry::<barman_cloud_backup_show::Args>("barman-cloud-backup-show"),
    entry::<barman_cloud_check_wal_archive::Args>("barman-cloud-check-wal-archive"),
    entry::<barman_cloud_metrics::Args>("barman-cloud-metrics"),
    entry::<barman_cloud_restore::Args>("barman-cloud-restore"),
    entry::<barman_cloud_verify::Args>("barman-cloud-verify"),
    entry::<barman_cloud_wal_archive::Args>("barman-cloud-wal-archive"),
    entry::<barman_cloud_wal_restore::Args>("barman-cloud-wal-restore"),
];

/// A tool that the program can be.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    name: &'static str,
    run: fn(&[OsString]) -> ExitCode,
    command: fn() -> clap::Command,
    #[cfg(test)]
    parse: fn(&[OsString], &Env) -> Result<(), Refusal>,
}

const fn entry<T: Tool>(name: &'static str) -> Entry {
    Entry {
        name,
        run: cli::run::<T>,
        command: argparse::command::<T>,
        #[cfg(test)]
        parse: |words, env| argparse::parse::<T>(words, env).map(drop),
    }
}

impl Entry {
    /// Its whole name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Its name behind that of the program, as the first word may give it.
    pub fn word(&self) -> &'static str {
        let rest = self.name.strip_prefix(NAME);
        rest.and_then(|rest| rest.strip_prefix('-'))
            .unwrap_or(self.name)
    }

    /// Its options, as its help knows them.
    pub fn command(&self) -> clap::Command {
        (self.command)()
    }
}

/// Runs the tool that the words of the process name.
pub fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    match choose(&words) {
        Ok((tool, words)) => (tool.run)(words),
        Err(refusal) => cli::refuse(&refusal),
    }
}

/// The tool that is meant, and its own words. `words` begin with the program's name.
fn choose(words: &[OsString]) -> Result<(Entry, &[OsString]), Refusal> {
    let (called, words) = words.split_first().map_or((None, words), |(called, rest)| {
        (Path::new(called).file_name(), rest)
    });
    if let Some(tool) = TOOLS.iter().find(|tool| Some(tool.name.as_ref()) == called) {
        return Ok((*tool, words));
    }
    let Some((word, words)) = words.split_first() else {
        return Err(wrong("the following arguments are required: TOOL"));
    };
    if let Some(tool) = TOOLS.iter().find(|tool| names(tool, word)) {
        return Ok((*tool, words));
    }
    Err(match word.to_str() {
        Some("-h" | "--help") => Refusal::Show(command().render_help().to_string()),
        Some("-V" | "--version") => Refusal::Show(command().render_version()),
        _ => wrong(&format!(
            "there is no tool `{}`: `{NAME} --help` lists them",
            word.to_string_lossy()
        )),
    })
}

fn names(tool: &Entry, word: &OsStr) -> bool {
    word == tool.word() || word == tool.name
}

/// The program itself, with its tools in the place of commands: for help alone.
fn command() -> clap::Command {
    let tools = TOOLS.iter().map(|tool| {
        let about = tool.command().get_about().cloned();
        clap::Command::new(tool.word()).about(about.unwrap_or_default())
    });
    clap::Command::new(NAME)
        .version(env!("CARGO_PKG_VERSION"))
        .about("Backup of PostgreSQL to object stores")
        .override_usage(format!("{NAME} TOOL [ARGUMENT]..."))
        .after_help(format!(
            "`{NAME} TOOL` is `{NAME}-TOOL`; each tool has a --help of its own."
        ))
        .disable_help_subcommand(true)
        .subcommand_help_heading("Tools")
        .max_term_width(80)
        .subcommands(tools)
}

/// A complaint in the words of the tools.
fn wrong(message: &str) -> Refusal {
    let usage = command().render_usage().to_string();
    Refusal::Wrong(format!("{}\n{NAME}: error: {message}\n", usage.trim_end()))
}

#[cfg(test)]
mod docs_tests;

#[cfg(test)]
mod tests {
    use super::*;

    /// The name of the tool that is chosen and how many words are left to it.
    fn chosen(line: &[&str]) -> Result<(&'static str, usize), Refusal> {
        let words: Vec<OsString> = line.iter().map(OsString::from).collect();
        choose(&words).map(|(tool, rest)| (tool.name, rest.len()))
    }

    #[test]
    fn the_name_it_is_called_by_or_the_first_word_is_the_tool() {
        let backup = "barman-cloud-backup";
        for (line, name, left) in [
            (vec![backup], backup, 0),
            (vec!["/usr/bin/barman-cloud-backup", "u", "s"], backup, 2),
            // A tool's own words are not looked at.
            (vec![backup, "backup-list", "--help"], backup, 2),
            (vec!["barman-cloud", "backup", "u", "s"], backup, 2),
            (vec!["barman-cloud", backup, "u"], backup, 1),
            (vec!["/opt/x", "wal-restore"], "barman-cloud-wal-restore", 0),
        ] {
            assert_eq!(chosen(&line), Ok((name, left)), "{line:?}");
        }
    }

    #[test]
    fn without_a_tool_it_says_which_there_are() {
        for line in [
            &[][..],
            &["barman-cloud"],
            &["barman-cloud", "backups"],
            &["barman-cloud", "--", "backup"],
        ] {
            let Err(Refusal::Wrong(text)) = chosen(line) else {
                panic!("{line:?} was taken");
            };
            assert!(text.starts_with("Usage: barman-cloud TOOL"), "{text}");
            assert!(text.contains("\nbarman-cloud: error: "), "{text}");
        }
        let Err(Refusal::Show(help)) = chosen(&["barman-cloud", "--help"]) else {
            panic!("there is no help");
        };
        for tool in TOOLS {
            assert!(help.contains(&format!("\n  {} ", tool.word())), "{help}");
        }
        assert!(help.lines().all(|line| line.len() <= 80), "{help}");
        let version = Refusal::Show("barman-cloud 4.0.0\n".into());
        assert_eq!(chosen(&["barman-cloud", "--version"]), Err(version));
    }

    /// A tool that is built and not listed here would be in no package.
    #[test]
    fn every_tool_of_the_workspace_is_one_of_them() {
        let project = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        let folders = std::fs::read_dir(project).unwrap().flatten();
        let mut built: Vec<String> = folders
            .filter(|folder| folder.path().join("Cargo.toml").exists())
            .filter_map(|folder| folder.file_name().into_string().ok())
            .filter(|name| name.starts_with("barman-cloud-"))
            .collect();
        built.sort();
        assert_eq!(TOOLS.map(|tool| tool.name.to_owned()).to_vec(), built);
        for tool in TOOLS {
            assert_eq!(tool.command().get_name(), tool.name);
        }
    }
}
