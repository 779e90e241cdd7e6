//! The habits of Python's argparse, on which scripts and operators rely.
//!
//! clap reads command lines in its own way, and the tools we stand in for in
//! another: any unambiguous beginning of a long option will do, `--tags` takes
//! every word up to the next option, options stand between positionals, a
//! repeated option replaces the one before. So a command line is first put into
//! a [canonical form](Canonical) in which both agree: one word per option, with
//! its full name and its value behind `=`, then `--`, then the positionals.
//! clap checks values and conflicts, and writes the help; what it finds wrong
//! is told in argparse's words ([`Refusal`]).
//!
//! Which options there are, and what they take, is read from the
//! [`clap::Command`]; there is no second list. Options under the heading
//! [`OURS`] are not known to the reference and must be typed whole, so that a
//! new one never makes an abbreviation in an old script ambiguous
//! (docs/decisions.md 7).

use std::ffi::OsString;

use super::settings;
use crate::ops::Env;

mod canonical;
mod options;
mod refusal;
mod usage;

pub use canonical::Canonical;
pub use refusal::{BareLine, Refusal};

use canonical::canonical;
use options::Options;

/// Heading of the options that the reference does not have.
pub const OURS: &str = "Beyond Barman (not abbreviable)";

/// Reads a command line without its first word, the program's name. What is not typed
/// there may be in the environment, or in the file that either names ([`settings`]).
///
/// # Errors
///
/// What to print instead of going on, be it help or a complaint.
pub fn parse<A: clap::Parser>(words: &[OsString], env: &Env) -> Result<A, Refusal> {
    let mut command = command::<A>();
    let options = Options::of(&command);
    let completed = canonical(words, &options).and_then(|mut canonical| {
        let origins = settings::complete(&command, &mut canonical, env)?;
        Ok((canonical, origins))
    });
    let (canonical, origins) = match completed {
        Ok(completed) => completed,
        Err(message) => return Err(Refusal::usage(&mut command, &message)),
    };
    let name = OsString::from(command.get_name());
    let matches = command
        .try_get_matches_from_mut(std::iter::once(name).chain(canonical.words()))
        .map_err(|error| Refusal::of_clap(&mut command, &options, &canonical, &origins, &error))?;
    if !canonical.unknown.is_empty() {
        let message = format!("unrecognized arguments: {}", canonical.unknown_text());
        return Err(Refusal::usage(&mut command, &message));
    }
    A::from_arg_matches(&matches)
        .map_err(|error| Refusal::of_clap(&mut command, &options, &canonical, &origins, &error))
}

/// The canonical form of a command line without the program's name.
///
/// # Errors
///
/// argparse's complaint, without usage and program name.
pub fn canonical_form<A: clap::Parser>(words: &[OsString]) -> Result<Canonical, String> {
    canonical(words, &Options::of(&command::<A>()))
}

/// The command of a tool, set up for canonical command lines.
pub fn command<A: clap::Parser>() -> clap::Command {
    let mut command = A::command()
        .args_override_self(true)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .max_term_width(usage::WIDTH);
    command.build();
    usage::wrapped(command)
}

#[cfg(test)]
mod tests;
