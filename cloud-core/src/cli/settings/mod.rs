//! Options that were not typed: from the environment, and from a file.
//!
//! This stands between the words as typed and clap. For every option that was not typed the
//! variable [`variable`] is looked up, and then the file that `--config` or
//! `BARMAN_CLOUD_CONFIG` names. What is found is put before the words that were typed, as if
//! somebody had typed it there: values, conflicts and complaints stay clap's business, and a
//! complaint says where the value is from (`Origins`).
//!
//! The levels, the one that counts most first: command line, environment, and of the file
//! `[servers.NAME.TOOL]`, `[servers.NAME]`, `[defaults.TOOL]`, `[defaults]`. A level gives
//! way to those above it: to an option that one of them has, and to one that cannot stand
//! beside it. So `--zstd` is possible where the file says `gzip = true`.
//!
//! No file is looked for that nobody named, and without variables and file this changes
//! nothing (docs/decisions.md 41).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::{Arg, ArgAction, Command};

use super::argparse::Canonical;
use crate::ops::Env;

mod file;
mod known;
mod value;

pub use known::{is_typed_only, options as known_options, tools as known_tools};

use file::{File, Profile};
use value::Value;

/// What all variables begin with. (Those of a Barman server's hook scripts begin with
/// `BARMAN_` and no `CLOUD_`.)
const PREFIX: &str = "BARMAN_CLOUD_";

/// The options of one level that are set.
type Level = BTreeMap<String, Found>;

/// What a level says of an option.
#[derive(Debug)]
struct Found {
    value: Value,
    /// For messages: `jobs` in FILE, line 3.
    origin: String,
}

/// Where options are from that nobody typed.
#[derive(Debug, Default)]
pub(super) struct Origins(Vec<(String, String)>);

impl Origins {
    /// What to add to a complaint about these options, written with their dashes.
    pub(super) fn of<'a>(&self, options: impl Iterator<Item = &'a str>) -> String {
        let mut origins: Vec<&str> = options
            .filter_map(|option| self.0.iter().find(|(name, _)| name == option))
            .map(|(_, origin)| origin.as_str())
            .collect();
        origins.dedup();
        if origins.is_empty() {
            return String::new();
        }
        format!(" (from {})", origins.join(" and "))
    }
}

/// The environment variable of an option, which is named without dashes.
pub fn variable(option: &str) -> String {
    format!("{PREFIX}{}", option.to_ascii_uppercase().replace('-', "_"))
}

/// Variables that look like ours and belong to no option: misspelled, perhaps.
pub(super) fn unknown_variables(env: &Env) -> Vec<&str> {
    let is_unknown = |name: &&str| {
        let option = name.strip_prefix(PREFIX).map(str::to_ascii_lowercase);
        option.is_some_and(|option| {
            let option = option.replace('_', "-");
            let mut known = known_options(None).chain(["url", "server-name"]);
            !known.any(|known| known == option)
        })
    };
    let mut unknown: Vec<&str> = env.names().filter(is_unknown).collect();
    unknown.sort_unstable();
    unknown
}

/// Adds to a command line what was not typed.
///
/// # Errors
///
/// One line about the environment or the file.
pub(super) fn complete(
    command: &Command,
    typed: &mut Canonical,
    env: &Env,
) -> Result<Origins, String> {
    if typed
        .place_of("--help")
        .or(typed.place_of("--version"))
        .is_some()
    {
        return Ok(Origins::default());
    }
    let path = typed.value_of("--config").or(value_of(env, "config"));
    let file = path.map(|path| File::read(Path::new(path))).transpose()?;
    let place = Place::find(command, typed, file.as_ref(), env)?;
    let of_environment = of_environment(command, typed, env)?;
    let tool = command.get_name();
    let tool = tool.strip_prefix("barman-cloud-").unwrap_or(tool);
    let profile = place.as_ref().and_then(|place| place.profile);
    let of_file = file.iter().flat_map(|file| file.levels(tool, profile));
    // Of a place that variables name, the environment's own options are no rivals: what excludes
    // each other in one level is an error.
    let is_named = place.is_none() || typed.place_of("--server").is_some();
    let typed_alone = typed.positionals.len();
    if let Some(place) = place {
        let keeps_server = is_named || !excludes_server(command, typed);
        let server = keeps_server.then_some(place.server);
        let words = std::iter::once(place.url).chain(server);
        typed.positionals.splice(0..0, words);
    }
    let all = typed.positionals.len();
    let of_environment = (&of_environment, if is_named { all } else { typed_alone });
    let levels = std::iter::once(of_environment).chain(of_file.map(|level| (level, all)));
    let (words, origins) = lend(command, typed, levels)?;
    typed.options.splice(0..0, words);
    Ok(origins)
}

/// Where a tool works, if that was not typed.
#[derive(Debug)]
struct Place<'f> {
    profile: Option<&'f Profile>,
    url: OsString,
    server: OsString,
}

impl<'f> Place<'f> {
    /// `None` if URL and server are on the command line, or nowhere.
    ///
    /// A typed profile names the place alone: with a variable for another server, its WAL
    /// would go into the other's folder.
    fn find(
        command: &Command,
        typed: &Canonical,
        file: Option<&'f File>,
        env: &Env,
    ) -> Result<Option<Self>, String> {
        let left_out = typed.positionals.len() + 2 <= command.get_positionals().count();
        let name = typed.value_of("--server");
        if !left_out {
            return match name {
                Some(_) => Err(
                    "--server stands for the URL and the name of the server: leave both away"
                        .to_owned(),
                ),
                None => Ok(None),
            };
        }
        let is_typed = name.is_some();
        let Some(name) = name.or(value_of(env, "server")) else {
            let of = |key| value_of(env, key).map(OsStr::to_owned);
            let both = of("url").zip(of("server-name"));
            return Ok(both.map(|(url, server)| Self {
                profile: None,
                url,
                server,
            }));
        };
        let shown = name.to_string_lossy();
        let profile = file.map(|file| file.profile(&shown)).transpose()?;
        let of_profile = |key: &str| {
            let profile = profile?;
            let value = match key {
                "url" => &profile.url,
                _ => &profile.server_name,
            };
            value.as_deref().map(OsStr::new)
        };
        let (url, server) = if is_typed {
            let url = of_profile("url").or(value_of(env, "url"));
            (url, of_profile("server-name"))
        } else {
            let either = |key| value_of(env, key).or(of_profile(key));
            (either("url"), either("server-name"))
        };
        let url = url.ok_or_else(|| match file {
            Some(_) => format!(
                "[servers.{shown}] has no `url`, and the variable {} is not set",
                variable("url")
            ),
            None => format!(
                "it is not known where server {shown} is: name a file with [servers.{shown}] \
                 (--config FILE or {}), or set {}",
                variable("config"),
                variable("url")
            ),
        })?;
        Ok(Some(Self {
            profile,
            url: url.to_owned(),
            server: server.unwrap_or(name).to_owned(),
        }))
    }
}

/// The value of an option's variable. An empty one is not set.
fn value_of<'e>(env: &'e Env, option: &str) -> Option<&'e OsStr> {
    let value = env.get_os(&variable(option))?;
    // So Kubernetes tells pods where a service named `barman-cloud` is.
    let of_kubernetes = option == "port" && value.to_string_lossy().contains("://");
    (!value.is_empty() && !of_kubernetes).then_some(value)
}

/// The options of a command, each with its long name.
fn options(command: &Command) -> impl Iterator<Item = (&str, &Arg)> {
    let options = command.get_arguments().filter(|arg| !arg.is_positional());
    options.filter_map(|arg| Some((arg.get_long()?, arg)))
}

/// What the environment says of the options that were not typed.
fn of_environment(command: &Command, typed: &Canonical, env: &Env) -> Result<Level, String> {
    let mut level = Level::new();
    for (name, _) in options(command) {
        if matches!(name, "config" | "help" | "server" | "version")
            || typed.place_of(&format!("--{name}")).is_some()
        {
            continue;
        }
        let Some(value) = value_of(env, name) else {
            continue;
        };
        let variable = variable(name);
        if is_typed_only(name) {
            return Err(format!(
                "--{name} must be typed where it is meant: unset the variable {variable}"
            ));
        }
        let found = Found {
            value: Value::Variable(value.to_owned()),
            origin: format!("the variable {variable}"),
        };
        level.insert(name.to_owned(), found);
    }
    Ok(level)
}

/// Whether a typed option cannot stand beside the name of a server.
fn excludes_server(command: &Command, typed: &Canonical) -> bool {
    let server = command.get_positionals().nth(1);
    server.is_some_and(|server| {
        let mut typed = options(command).filter(|(name, _)| {
            let word = format!("--{name}");
            typed.place_of(&word).is_some()
        });
        typed.any(|(name, _)| are_rivals(command, name, server.get_id().as_str()))
    })
}

/// The words that the levels add to what was typed. Beside each level stands how many
/// positionals are there that it gives way to.
fn lend<'l>(
    command: &Command,
    typed: &Canonical,
    levels: impl Iterator<Item = (&'l Level, usize)>,
) -> Result<(Vec<OsString>, Origins), String> {
    let is_typed = |name: &str| typed.place_of(&format!("--{name}")).is_some();
    // Options that are there, and those that were decided about, be it to `false`.
    let mut given: BTreeSet<&str> = options(command)
        .map(|(name, _)| name)
        .filter(|name| is_typed(name))
        .collect();
    let mut decided = given.clone();
    let mut lent = Vec::new();
    for (level, positionals) in levels {
        let (mut above, decided_above) = (given.clone(), decided.clone());
        let positionals = command.get_positionals().take(positionals);
        above.extend(positionals.map(|arg| arg.get_id().as_str()));
        let gives_way = |name: &str| above.iter().any(|other| are_rivals(command, name, other));
        // What this level says of an option that gives way is left behind with it.
        let is_left_behind = |name: &str| {
            known::owners(name).iter().any(|owner| {
                let owned = level.get(*owner).and_then(|found| found.value.flag()) == Some(true);
                let is_off = decided_above.contains(owner) && !above.contains(owner);
                owned && (is_off || gives_way(owner))
            })
        };
        for (name, arg) in options(command) {
            let Some(found) = level.get(name).filter(|_| !decided.contains(name)) else {
                continue;
            };
            if gives_way(name)
                || is_left_behind(name)
                || connects_elsewhere(name, &found.value, &above)
            {
                continue;
            }
            let words = words_of(name, arg, &found.value)
                .map_err(|should| format!("{} {should}", found.origin))?;
            decided.insert(name);
            if !words.is_empty() {
                given.insert(name);
                lent.push((name, words, &found.origin));
            }
        }
    }
    let has = |name: &str| options(command).any(|(option, _)| option == name);
    // Only now is it known what there is.
    lent.retain(|(name, ..)| {
        known::needed_by(name).is_none_or(|needed| {
            let mut there = needed.iter().filter(|needed| has(needed)).peekable();
            there.peek().is_none() || there.any(|needed| given.contains(needed))
        })
    });
    let mut all = Vec::new();
    let mut origins = Origins::default();
    for (name, words, origin) in lent {
        all.extend(words);
        origins.0.push((format!("--{name}"), origin.clone()));
    }
    Ok((all, origins))
}

/// Whether two options cannot stand side by side, or only one would count. The `other` may also
/// be the id of a positional.
fn are_rivals(command: &Command, one: &str, other: &str) -> bool {
    let positionals = command.get_positionals();
    let positionals: Vec<_> = positionals
        .map(|arg| (arg.get_id().as_str(), arg))
        .collect();
    let arg = |name: &str| {
        let mut all = options(command).chain(positionals.iter().copied());
        all.find(|(found, _)| *found == name)
    };
    let (Some((_, arg)), Some((_, other_arg))) = (arg(one), arg(other)) else {
        return false;
    };
    let conflicts = |one: &Arg, two: &Arg| {
        let conflicts = command.get_arg_conflicts_with(one);
        conflicts.iter().any(|arg| arg.get_id() == two.get_id())
    };
    let share_a_group = command.get_groups().any(|group| {
        let has = |arg: &Arg| group.get_args().any(|id| id == arg.get_id());
        !group.clone().is_multiple() && has(arg) && has(other_arg)
    });
    one != other
        && (share_a_group
            || conflicts(arg, other_arg)
            || conflicts(other_arg, arg)
            || known::are_synonyms(one, other)
            || known::are_refused_together(one, other))
}

/// Whether this is a whole connection string, which is used alone, where something above
/// said a part of the connection.
fn connects_elsewhere(name: &str, value: &Value, above: &BTreeSet<&str>) -> bool {
    let text = value.single().unwrap_or_default().to_string_lossy();
    name == "dbname"
        && (text.contains('=') || text.contains("://"))
        && ["host", "port", "user"]
            .iter()
            .any(|part| above.contains(part))
}

/// An option with a value in canonical form: no words, one, or several.
///
/// # Errors
///
/// What the value should be: the end of a sentence.
fn words_of(name: &str, arg: &Arg, value: &Value) -> Result<Vec<OsString>, &'static str> {
    let alone = OsString::from(format!("--{name}"));
    let with = |value: &OsStr| {
        let mut word = alone.clone();
        word.push("=");
        word.push(value);
        word
    };
    match arg.get_action() {
        ArgAction::SetTrue => {
            let yes = value.flag().ok_or("must be true or false")?;
            Ok(vec![alone; yes.into()])
        }
        ArgAction::Count => {
            let times = value.times().ok_or("must be a number from 0 to 9")?;
            Ok(vec![alone; times.into()])
        }
        ArgAction::Append => {
            let words = value.list().ok_or("must be a list of texts")?;
            // An empty list takes the place of another one, if it can be typed.
            let may_be_empty = arg.get_num_args().is_some_and(|n| n.min_values() == 0);
            if words.is_empty() && may_be_empty {
                return Ok(vec![alone]);
            }
            Ok(words.iter().map(|word| with(OsStr::new(word))).collect())
        }
        _ => {
            let word = value.single();
            let word = word.ok_or("must be one text in quotes, or a whole number")?;
            Ok(vec![with(word)])
        }
    }
}

#[cfg(test)]
mod tests;
