//! From the words as typed to one word per option.
//!
//! Two steps, as argparse takes them: first every word is told apart, option or
//! value, by itself; then options take their values. A word is bytes, not text:
//! paths need not be UTF-8.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::options::{Found, Options, Takes, option_name};

/// A command line in which every option stands by itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Canonical {
    /// `--option` or `--option=value`, in the order typed.
    pub options: Vec<OsString>,
    /// The positionals, in the order typed.
    pub positionals: Vec<OsString>,
    /// What is not known: options, and positionals that are too many.
    pub unknown: Vec<OsString>,
}

impl Canonical {
    /// The words for clap.
    pub(super) fn words(&self) -> impl Iterator<Item = OsString> {
        let dashes = std::iter::once(OsString::from("--"));
        let options = self.options.iter().cloned();
        options
            .chain(dashes)
            .chain(self.positionals.iter().cloned())
    }

    /// Where the option that begins `text` was typed first.
    pub(in crate::cli) fn place_of(&self, text: &str) -> Option<usize> {
        let wanted = option_name(text);
        self.options
            .iter()
            .position(|word| option_name(&word.to_string_lossy()) == wanted)
    }

    /// The value that `option`, with its dashes, was given last.
    pub(in crate::cli) fn value_of(&self, option: &str) -> Option<&OsStr> {
        self.options.iter().rev().find_map(|word| {
            let (name, value) = split_at_equals(word.as_bytes());
            value.filter(|_| name == option.as_bytes())
        })
    }

    pub(super) fn unknown_text(&self) -> String {
        let words = self.unknown.iter().map(|word| word.to_string_lossy());
        words.collect::<Vec<_>>().join(" ")
    }
}

/// What a word is, before options have taken their values.
#[derive(Debug)]
enum Word<'a> {
    /// A value of an option or a positional.
    Value(&'a OsStr),
    /// The first `--`.
    Dashes,
    Option {
        number: usize,
        /// What stood behind `=`, or behind the letter of a short option.
        attached: Option<&'a OsStr>,
        /// Written with one dash: what is attached may be more letters.
        short: bool,
    },
    Unknown(&'a OsStr),
}

pub(super) fn canonical(words: &[OsString], options: &Options) -> Result<Canonical, String> {
    let mut told_apart = Vec::with_capacity(words.len());
    let mut values_only = false;
    for word in words {
        if values_only {
            told_apart.push(Word::Value(word));
        } else if word == "--" {
            values_only = true;
            told_apart.push(Word::Dashes);
        } else {
            told_apart.push(tell_apart(word, options)?);
        }
    }
    Collector::new(options).collect(&told_apart)
}

fn tell_apart<'a>(word: &'a OsStr, options: &Options) -> Result<Word<'a>, String> {
    let bytes = word.as_bytes();
    if bytes.len() < 2 || bytes[0] != b'-' {
        return Ok(Word::Value(word));
    }
    if bytes[1] == b'-' {
        let (name, attached) = split_at_equals(bytes);
        match std::str::from_utf8(name).map_or(Found::Nothing, |name| options.long(name)) {
            Found::Option(number) => {
                return Ok(Word::Option {
                    number,
                    attached,
                    short: false,
                });
            }
            Found::Ambiguous(spellings) => {
                return Err(format!(
                    "ambiguous option: {} could match {}",
                    word.to_string_lossy(),
                    spellings.join(", ")
                ));
            }
            Found::Nothing => {}
        }
    } else if let Some(number) = options.short(char::from(bytes[1])) {
        let attached = match &bytes[2..] {
            [] => None,
            [b'=', value @ ..] | value => Some(value),
        };
        return Ok(Word::Option {
            number,
            attached: attached.map(OsStr::from_bytes),
            short: true,
        });
    }
    // No option looks like a number, so a number is a value; and nobody names
    // an option with a blank in it.
    if is_negative_number(bytes) || bytes.contains(&b' ') {
        Ok(Word::Value(word))
    } else {
        Ok(Word::Unknown(word))
    }
}

fn split_at_equals(word: &[u8]) -> (&[u8], Option<&OsStr>) {
    match word.iter().position(|byte| *byte == b'=') {
        Some(at) => (&word[..at], Some(OsStr::from_bytes(&word[at + 1..]))),
        None => (word, None),
    }
}

/// `-5`, `-1.5`, `-.5`
fn is_negative_number(word: &[u8]) -> bool {
    let digits = |text: &[u8]| text.iter().all(u8::is_ascii_digit);
    let Some(number) = word.strip_prefix(b"-") else {
        return false;
    };
    match number.iter().position(|byte| *byte == b'.') {
        None => !number.is_empty() && digits(number),
        Some(point) => {
            point + 1 < number.len() && digits(&number[..point]) && digits(&number[point + 1..])
        }
    }
}

struct Collector<'a> {
    options: &'a Options,
    /// Each word with the number of its option.
    found: Vec<(usize, OsString)>,
    canonical: Canonical,
}

impl<'a> Collector<'a> {
    fn new(options: &'a Options) -> Self {
        Self {
            options,
            found: Vec::new(),
            canonical: Canonical::default(),
        }
    }

    fn collect(mut self, words: &[Word<'_>]) -> Result<Canonical, String> {
        let mut rest = words;
        while let [word, following @ ..] = rest {
            rest = following;
            match word {
                Word::Dashes => {}
                Word::Value(value) => self.positional(value),
                Word::Unknown(word) => self.canonical.unknown.push((*word).to_owned()),
                Word::Option {
                    number,
                    attached,
                    short,
                } => {
                    let taken = self.option(*number, *attached, *short, following)?;
                    rest = &following[taken..];
                }
            }
        }
        self.canonical.options = self.found.into_iter().map(|(_, word)| word).collect();
        Ok(self.canonical)
    }

    fn positional(&mut self, value: &OsStr) {
        let full = self.canonical.positionals.len() == self.options.positionals;
        let words = if full {
            &mut self.canonical.unknown
        } else {
            &mut self.canonical.positionals
        };
        words.push(value.to_owned());
    }

    /// Adds an option; says how many of the following words it took.
    fn option(
        &mut self,
        mut number: usize,
        mut attached: Option<&OsStr>,
        short: bool,
        following: &[Word<'_>],
    ) -> Result<usize, String> {
        while let (Takes::Nothing, Some(more)) = (self.options.get(number).takes, attached) {
            let opt = self.options.get(number);
            let letter = more.as_bytes().first().copied().map(char::from);
            let next = letter.and_then(|letter| self.options.short(letter));
            let (true, Some(next)) = (short, next) else {
                let more = more.to_string_lossy();
                return Err(format!(
                    "argument {}: ignored explicit argument '{more}'",
                    opt.display
                ));
            };
            self.push(number, None);
            number = next;
            let rest = &more.as_bytes()[1..];
            attached = (!rest.is_empty()).then(|| OsStr::from_bytes(rest));
        }
        let values = following.iter().map_while(|word| match word {
            Word::Value(value) => Some(*value),
            _ => None,
        });
        match (self.options.get(number).takes, attached) {
            (Takes::Nothing, _) => {
                self.push(number, None);
                Ok(0)
            }
            (Takes::One | Takes::Greedy, Some(value)) => {
                self.replace(number);
                self.push(number, Some(value));
                Ok(0)
            }
            (Takes::One, None) => {
                let display = &self.options.get(number).display;
                let mut values = values;
                let value = values
                    .next()
                    .ok_or_else(|| format!("argument {display}: expected one argument"))?;
                self.push(number, Some(value));
                Ok(1)
            }
            (Takes::Greedy, None) => {
                let values: Vec<&OsStr> = values.collect();
                self.replace(number);
                if values.is_empty() {
                    self.push(number, None);
                }
                for value in &values {
                    self.push(number, Some(value));
                }
                Ok(values.len())
            }
        }
    }

    /// Forgets what a greedy option was given before: its last list wins.
    /// (Of an option with one value clap itself takes the last.)
    fn replace(&mut self, number: usize) {
        if self.options.get(number).takes == Takes::Greedy {
            self.found.retain(|(of, _)| *of != number);
        }
    }

    fn push(&mut self, number: usize, value: Option<&OsStr>) {
        let mut word = self.options.get(number).long.clone().into_bytes();
        if let Some(value) = value {
            word.push(b'=');
            word.extend_from_slice(value.as_bytes());
        }
        self.found.push((number, OsString::from_vec(word)));
    }
}
