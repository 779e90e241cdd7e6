//! Values that nobody typed, and what they are to an option.

use std::ffi::{OsStr, OsString};

/// Most `-v` or `-q` that make sense.
const MOST_REPEATED: u8 = 9;

/// A value of a variable or in a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// Of a variable. What it means depends on the option.
    Variable(OsString),
    /// `true` or `false` in a file.
    Flag(bool),
    /// One text or number in a file, or a list of them.
    Words(Vec<String>),
    /// Anything else in a file.
    Unfit,
}

impl Value {
    /// For an option without a value.
    pub(super) fn flag(&self) -> Option<bool> {
        match self {
            Self::Flag(yes) => Some(*yes),
            Self::Variable(text) => match text.to_str()? {
                "true" | "yes" | "1" => Some(true),
                "false" | "no" | "0" => Some(false),
                _ => None,
            },
            Self::Words(_) | Self::Unfit => None,
        }
    }

    /// For an option that is repeated to mean more.
    pub(super) fn times(&self) -> Option<u8> {
        let times: u8 = self.single()?.to_str()?.parse().ok()?;
        (times <= MOST_REPEATED).then_some(times)
    }

    /// For an option with one value.
    pub(super) fn single(&self) -> Option<&OsStr> {
        match self {
            Self::Variable(text) => Some(text),
            Self::Words(words) => match words.as_slice() {
                [word] => Some(OsStr::new(word)),
                _ => None,
            },
            Self::Flag(_) | Self::Unfit => None,
        }
    }

    /// For an option with several values.
    pub(super) fn list(&self) -> Option<Vec<String>> {
        match self {
            Self::Variable(text) => shlex::split(text.to_str()?),
            Self::Words(words) => Some(words.clone()),
            Self::Flag(_) | Self::Unfit => None,
        }
    }
}
