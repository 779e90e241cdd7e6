//! The arguments of a command, as pages tell of them.

use clap::{Arg, ArgAction, Command};

/// An argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Argument {
    /// Heading that the help has it under, if it has one.
    pub(crate) heading: Option<String>,
    /// `-z` and `--gzip`, or nothing if it is positional.
    pub(crate) spellings: Vec<String>,
    /// What stands for its value, or for the whole argument if it is positional.
    pub(crate) value: Option<String>,
    /// What it does.
    pub(crate) help: String,
    /// What holds without it.
    pub(crate) default: Option<String>,
    /// The only values there are, if they are listed.
    pub(crate) choices: Vec<String>,
    /// Whether a command line needs it.
    pub(crate) required: bool,
}

/// The visible arguments of a command, in the order of its help.
pub(crate) fn arguments(command: &Command) -> Vec<Argument> {
    let visible = command.get_arguments().filter(|arg| !arg.is_hide_set());
    visible.map(argument).collect()
}

/// The headings of options, in the order in which they come up first.
pub(crate) fn headings(arguments: &[Argument]) -> Vec<Option<String>> {
    let mut headings = Vec::new();
    for argument in arguments.iter().filter(|one| !one.spellings.is_empty()) {
        if !headings.contains(&argument.heading) {
            headings.push(argument.heading.clone());
        }
    }
    headings
}

fn argument(arg: &Arg) -> Argument {
    let shorts = arg.get_short_and_visible_aliases().unwrap_or_default();
    let longs = arg.get_long_and_visible_aliases().unwrap_or_default();
    let shorts = shorts.iter().map(|short| format!("-{short}"));
    let longs = longs.iter().map(|long| format!("--{long}"));
    let takes_values = !matches!(
        arg.get_action(),
        ArgAction::SetTrue
            | ArgAction::SetFalse
            | ArgAction::Count
            | ArgAction::Help
            | ArgAction::Version
    );
    let names = arg.get_value_names().unwrap_or_default();
    let name = match names {
        [] => arg.get_id().as_str().to_uppercase(),
        names => names.join(" "),
    };
    let several = arg
        .get_num_args()
        .is_some_and(|range| range.max_values() > 1);
    let value = if several { format!("{name}...") } else { name };
    let defaults = arg.get_default_values();
    let defaults = defaults.iter().map(|text| text.to_string_lossy());
    let default = defaults.collect::<Vec<_>>().join(" ");
    let choices = arg.get_possible_values().into_iter();
    let choices = choices.filter(|choice| !choice.is_hide_set());
    Argument {
        heading: arg.get_help_heading().map(str::to_owned),
        spellings: shorts.chain(longs).collect(),
        value: takes_values.then_some(value),
        help: arg.get_help().map(ToString::to_string).unwrap_or_default(),
        default: (takes_values && !default.is_empty()).then_some(default),
        choices: if takes_values {
            choices.map(|choice| choice.get_name().to_owned()).collect()
        } else {
            Vec::new()
        },
        required: arg.is_required_set(),
    }
}
