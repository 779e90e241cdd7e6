//! The options of a command and every way to write them.

use clap::{Arg, Command};

use super::OURS;

/// What an option takes from the words that follow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    Nothing,
    One,
    /// Everything up to the next option.
    Greedy,
}

/// An option.
#[derive(Debug)]
pub(super) struct Opt {
    /// Its full name, with the dashes.
    pub(super) long: String,
    pub(super) takes: Takes,
    /// All spellings, as argparse names an option in its messages:
    /// `-J/--jobs`.
    pub(super) display: String,
}

/// What a word means that was looked up.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The option of this number.
    Option(usize),
    /// Spellings it could be the beginning of.
    Ambiguous(Vec<String>),
    Nothing,
}

/// All options of a command.
#[derive(Debug)]
pub(super) struct Options {
    all: Vec<Opt>,
    /// Long spellings with their option, and whether they may be abbreviated.
    long: Vec<(String, usize, bool)>,
    short: Vec<(char, usize)>,
    /// Most positionals there may be.
    pub(super) positionals: usize,
}

impl Options {
    /// Of a command that was built.
    pub(super) fn of(command: &Command) -> Self {
        let mut all = Self {
            all: Vec::new(),
            long: Vec::new(),
            short: Vec::new(),
            positionals: command.get_positionals().map(most_values).sum(),
        };
        for arg in command.get_arguments().filter(|arg| !arg.is_positional()) {
            all.add(arg);
        }
        all
    }

    fn add(&mut self, arg: &Arg) {
        let number = self.all.len();
        let abbreviable = arg.get_help_heading() != Some(OURS);
        let longs = arg.get_long_and_visible_aliases().unwrap_or_default();
        let shorts = arg.get_short_and_visible_aliases().unwrap_or_default();
        let spelled = shorts.iter().map(|short| format!("-{short}"));
        let spelled = spelled.chain(longs.iter().map(|long| format!("--{long}")));
        self.all.push(Opt {
            long: format!("--{}", longs.first().expect("every option has a long name")),
            takes: takes(arg),
            display: spelled.collect::<Vec<_>>().join("/"),
        });
        for long in longs {
            self.long.push((format!("--{long}"), number, abbreviable));
        }
        for short in shorts {
            self.short.push((short, number));
        }
    }

    pub(super) fn get(&self, number: usize) -> &Opt {
        &self.all[number]
    }

    pub(super) fn short(&self, letter: char) -> Option<usize> {
        let found = self.short.iter().find(|(short, _)| *short == letter);
        found.map(|(_, number)| *number)
    }

    /// The option written as `text`, its full name or the beginning of it. A
    /// full name is never ambiguous.
    pub(super) fn long(&self, text: &str) -> Found {
        if let Some((_, number, _)) = self.long.iter().find(|(long, ..)| long == text) {
            return Found::Option(*number);
        }
        let begins = |(long, _, abbreviable): &&(String, usize, bool)| {
            *abbreviable && long.starts_with(text)
        };
        match self.long.iter().filter(begins).collect::<Vec<_>>()[..] {
            [] => Found::Nothing,
            [(_, number, _)] => Found::Option(*number),
            ref several => {
                Found::Ambiguous(several.iter().map(|(long, ..)| long.clone()).collect())
            }
        }
    }

    /// How argparse names the argument that clap names `text`: an option by all
    /// of its spellings, a positional by its name.
    pub(super) fn display(&self, text: &str) -> String {
        let name = option_name(text);
        match self.long(name) {
            Found::Option(number) => self.all[number].display.clone(),
            Found::Ambiguous(_) | Found::Nothing => {
                name.trim_matches(['<', '>', '[', ']']).to_owned()
            }
        }
    }
}

/// The option in what clap says of it: `--jobs <JOBS>`, `--verbose...`.
pub(super) fn option_name(text: &str) -> &str {
    let name = text.split([' ', '=']).next().unwrap_or(text);
    name.strip_suffix("...").unwrap_or(name)
}

/// Most words that a positional takes; a number that can be added up.
fn most_values(arg: &Arg) -> usize {
    let most = arg.get_num_args().map_or(1, |range| range.max_values());
    most.min(1 << 20)
}

fn takes(arg: &Arg) -> Takes {
    if !arg.get_action().takes_values() {
        Takes::Nothing
    } else if arg.get_num_args().is_some_and(|n| n.max_values() > 1) {
        Takes::Greedy
    } else {
        Takes::One
    }
}
