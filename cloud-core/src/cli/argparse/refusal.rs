//! What to print instead of running: help, a version or a complaint.

use std::error::Error as _;

use clap::Command;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::Canonical;
use super::options::{Options, option_name};
use crate::cli::settings::Origins;

/// Why a command line is not acted upon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Help or version was asked for: to standard output, exit code 0.
    Show(String),
    /// The command line is wrong: to standard error, exit code 3.
    Wrong(String),
}

/// An error of a value that is printed as it is, without usage and program
/// name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BareLine(pub String);

impl Refusal {
    /// Usage and one line, as argparse prints them.
    pub(super) fn usage(command: &mut Command, message: &str) -> Self {
        let usage = command.render_usage().to_string();
        let name = command.get_name();
        Self::Wrong(format!("{}\n{name}: error: {message}\n", usage.trim_end()))
    }

    /// What clap found.
    pub(super) fn of_clap(
        command: &mut Command,
        options: &Options,
        typed: &Canonical,
        origins: &Origins,
        error: &clap::Error,
    ) -> Self {
        match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                return Self::Show(error.render().to_string());
            }
            _ => {}
        }
        let mut concerned = texts(error, ContextKind::InvalidArg);
        concerned.extend(texts(error, ContextKind::PriorArg));
        let origins = origins.of(concerned.iter().map(|text| option_name(text)));
        if let Some(line) = error
            .source()
            .and_then(|why| why.downcast_ref::<BareLine>())
        {
            return Self::Wrong(format!("{line}{origins}\n"));
        }
        Self::usage(command, &(message(options, typed, error) + &origins))
    }
}

/// A complaint of clap in the words of argparse.
fn message(options: &Options, typed: &Canonical, error: &clap::Error) -> String {
    let argument = || options.display(&texts(error, ContextKind::InvalidArg).join(" "));
    let value = || texts(error, ContextKind::InvalidValue).join(" ");
    match error.kind() {
        ErrorKind::InvalidValue => {
            let choices = texts(error, ContextKind::ValidValue);
            let choices: Vec<_> = choices.iter().map(|text| format!("'{text}'")).collect();
            format!(
                "argument {}: invalid choice: '{}' (choose from {})",
                argument(),
                value(),
                choices.join(", ")
            )
        }
        ErrorKind::ValueValidation => {
            let why = error.source().map(ToString::to_string).unwrap_or_default();
            format!("argument {}: {why}", argument())
        }
        ErrorKind::ArgumentConflict => {
            let mut both = texts(error, ContextKind::InvalidArg);
            both.extend(texts(error, ContextKind::PriorArg));
            // The one that was typed later is what argparse complains of.
            both.sort_by_key(|text| std::cmp::Reverse(typed.place_of(text)));
            let named: Vec<_> = both.iter().map(|text| options.display(text)).collect();
            match named.as_slice() {
                [later, earlier, ..] => {
                    format!("argument {later}: not allowed with argument {earlier}")
                }
                _ => first_line(error),
            }
        }
        ErrorKind::MissingRequiredArgument => missing(options, error),
        _ => first_line(error),
    }
}

fn missing(options: &Options, error: &clap::Error) -> String {
    let missing = texts(error, ContextKind::InvalidArg);
    // A group of which one is needed is named `<--this <VALUE>|--that>`.
    if let Some(group) = missing.iter().find(|text| text.starts_with("<--")) {
        let members: Vec<_> = group
            .trim_matches(['<', '>'])
            .split('|')
            .map(|member| options.display(member))
            .collect();
        return format!("one of the arguments {} is required", members.join(" "));
    }
    let names: Vec<_> = missing.iter().map(|text| options.display(text)).collect();
    format!("the following arguments are required: {}", names.join(", "))
}

fn texts(error: &clap::Error, kind: ContextKind) -> Vec<String> {
    match error.get(kind) {
        Some(ContextValue::String(text)) => vec![text.clone()],
        Some(ContextValue::Strings(texts)) => texts.clone(),
        _ => Vec::new(),
    }
}

fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}
