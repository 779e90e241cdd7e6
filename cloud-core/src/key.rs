//! Names of objects, joined and checked in one place.
//!
//! A [`Key`] names one object, a [`Prefix`] is the text a listing starts with.
//! Both are plain text: `/` has no meaning for a store, only for the layout
//! that `catalogue::layout` gives it.

use std::fmt;

/// Why a text cannot be a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// No store accepts an empty name.
    #[error("an object name must not be empty")]
    Empty,
    /// Refused by every store, and the end of a string for many programs.
    #[error("object name `{}` contains a NUL byte", .0.escape_default())]
    Nul(String),
}

/// The name of one object.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

impl Key {
    /// Takes a name as it stands; nothing is normalised or decoded.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidKey> {
        let text = text.into();
        if text.is_empty() {
            Err(InvalidKey::Empty)
        } else if text.contains('\0') {
            Err(InvalidKey::Nul(text))
        } else {
            Ok(Self(text))
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What follows the last `/`, or the whole name.
    pub fn base_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// What follows `prefix`, if the name begins with it.
    pub fn strip_prefix(&self, prefix: &Prefix) -> Option<&str> {
        self.0.strip_prefix(prefix.as_str())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// The text that the names of a listing begin with.
///
/// It is text, not a directory: `a/b` also matches `a/bc`. Where a directory is
/// meant, [`Prefix::dir`] ends it with `/`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Prefix(String);

impl Prefix {
    /// The text as it stands; empty matches every name.
    pub fn text(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text with exactly one `/` appended if it has none; empty stays empty.
    pub fn dir(text: impl Into<String>) -> Self {
        let mut text = text.into();
        if !text.is_empty() && !text.ends_with('/') {
            text.push('/');
        }
        Self(text)
    }

    /// The prefix as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key that consists of this prefix followed by `rest`.
    pub fn key(&self, rest: &str) -> Result<Key, InvalidKey> {
        Key::new(format!("{}{rest}", self.0))
    }

    /// The directory `name` below this one.
    #[must_use]
    pub fn subdir(&self, name: &str) -> Self {
        Self::dir(format!("{}{name}", self.0))
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_prefix_ends_with_one_slash() {
        assert_eq!(Prefix::dir("a/b").as_str(), "a/b/");
        assert_eq!(Prefix::dir("a/b/").as_str(), "a/b/");
        assert_eq!(Prefix::dir("").as_str(), "");
        assert_eq!(Prefix::dir("a").subdir("b").as_str(), "a/b/");
    }

    #[test]
    fn a_key_is_kept_as_it_stands() {
        for text in ["a//b", "/a", "a/../b", " ä+%20\n"] {
            assert_eq!(Key::new(text).unwrap().as_str(), text);
        }
        assert_eq!(Key::new(""), Err(InvalidKey::Empty));
        assert!(matches!(Key::new("a\0b"), Err(InvalidKey::Nul(_))));
    }

    #[test]
    fn the_base_name_is_what_follows_the_last_slash() {
        assert_eq!(Key::new("a/b/c.tar").unwrap().base_name(), "c.tar");
        assert_eq!(Key::new("c").unwrap().base_name(), "c");
    }
}
