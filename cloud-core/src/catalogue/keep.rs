//! Keep annotations: what protects a base backup from retention policies.

use std::fmt;
use std::str::FromStr;

/// What a new annotation says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepTarget {
    /// The backup and all WAL from it on, for recovery to any later point.
    Full,
    /// The backup and the WAL that makes it consistent.
    Standalone,
}

impl fmt::Display for KeepTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "full",
            Self::Standalone => "standalone",
        })
    }
}

/// A text that is no target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not full or standalone")]
pub struct InvalidTarget(pub String);

impl FromStr for KeepTarget {
    type Err = InvalidTarget;

    fn from_str(text: &str) -> Result<Self, InvalidTarget> {
        match text {
            "full" => Ok(Self::Full),
            "standalone" => Ok(Self::Standalone),
            other => Err(InvalidTarget(other.to_owned())),
        }
    }
}

/// An annotation as it was found. That it exists is what keeps the backup;
/// what it says decides only about WAL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keep(String);

impl Keep {
    /// Of a target just written.
    pub fn new(target: KeepTarget) -> Self {
        Self(target.to_string())
    }

    /// Reads the first line of an annotation. An empty one was somebody's
    /// attempt to keep the backup, and a newline at the end comes from an
    /// editor: the first counts as `full`, the second is cut off.
    pub fn read(content: &[u8]) -> Self {
        let text = String::from_utf8_lossy(content);
        match text.lines().next().unwrap_or_default().trim() {
            "" => Self::new(KeepTarget::Full),
            line => Self(line.to_owned()),
        }
    }

    /// The text as it stands in the store.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether only the WAL of the backup itself is kept. Every other text,
    /// known or not, keeps all WAL from the backup on.
    pub fn is_standalone(&self) -> bool {
        self.0 == KeepTarget::Standalone.to_string()
    }

    /// The one of two annotations of the same backup that keeps more.
    #[must_use]
    pub fn stronger(self, other: Self) -> Self {
        if self.is_standalone() { other } else { self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_there_keeps_and_only_one_word_keeps_less() {
        for (content, text, standalone) in [
            (&b"full"[..], "full", false),
            (b"standalone", "standalone", true),
            (b"standalone\n", "standalone", true),
            (b"", "full", false),
            (b"\n", "full", false),
            (b"Standalone", "Standalone", false),
            (b"standalone full", "standalone full", false),
            (b"full\nstandalone", "full", false),
            (b"\xff\xfe", "\u{fffd}\u{fffd}", false),
        ] {
            let keep = Keep::read(content);
            assert_eq!((keep.as_str(), keep.is_standalone()), (text, standalone));
        }
    }

    #[test]
    fn of_two_annotations_the_one_that_keeps_more_counts() {
        let full = || Keep::new(KeepTarget::Full);
        let standalone = || Keep::new(KeepTarget::Standalone);
        assert_eq!(standalone().stronger(full()), full());
        assert_eq!(full().stronger(standalone()), full());
        assert_eq!(standalone().stronger(standalone()), standalone());
    }

    #[test]
    fn targets_are_two_words() {
        assert_eq!("full".parse(), Ok(KeepTarget::Full));
        assert_eq!("standalone".parse(), Ok(KeepTarget::Standalone));
        assert!("nokeep".parse::<KeepTarget>().is_err());
    }
}
