//! Which of the objects found is the file asked for.
//!
//! Goes by names alone, as the reference does, with two differences: a whole
//! segment always comes before a `.partial`, whatever their suffixes (the
//! reference sorts `.partial` before `.snappy`, `.xz` and `.zst`), and a
//! `.backup` file is found like any other.

use crate::codec::{self, Codec};
use crate::key::Key;
use crate::wal::{WalKind, WalName};

const PARTIAL: &str = ".partial";

/// An object that holds a WAL file under one of the known suffixes.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) key: Key,
    pub(super) codec: &'static dyn Codec,
}

/// The objects that can answer a request, best first.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Objects of exactly the name asked for.
    pub(super) whole: Vec<Candidate>,
    /// Objects that hold the beginning of the segment asked for.
    pub(super) partial: Vec<Candidate>,
}

/// Finds `name` among `keys`, which are of the directory it belongs to. Objects
/// of one name are in the order of their suffixes, no suffix first.
pub(super) fn find(keys: &[Key], name: &WalName) -> Found {
    let mut found = Found::default();
    for key in keys {
        let Some(rest) = key.base_name().strip_prefix(name.as_str()) else {
            continue;
        };
        if let Some(codec) = codec::by_suffix(rest) {
            found.whole.push(candidate(key, codec));
        } else if name.kind() == WalKind::Segment
            && let Some(codec) = rest.strip_prefix(PARTIAL).and_then(codec::by_suffix)
        {
            found.partial.push(candidate(key, codec));
        }
    }
    found.whole.sort_by(|one, other| one.key.cmp(&other.key));
    found.partial.sort_by(|one, other| one.key.cmp(&other.key));
    found
}

fn candidate(key: &Key, codec: &'static dyn Codec) -> Candidate {
    Candidate {
        key: key.clone(),
        codec,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIRECTORY: &str = "p/main/wals/0000000100000000/";

    fn keys(names: &[&str]) -> Vec<Key> {
        let keys = names
            .iter()
            .map(|name| Key::new(format!("{DIRECTORY}{name}")));
        keys.collect::<Result<_, _>>().expect("valid keys")
    }

    fn name(text: &str) -> WalName {
        text.parse().expect("a valid name")
    }

    fn suffixes(candidates: &[Candidate], name: &str) -> Vec<String> {
        let suffix = |c: &Candidate| c.key.base_name()[name.len()..].to_owned();
        candidates.iter().map(suffix).collect()
    }

    #[test]
    fn a_whole_segment_comes_before_a_partial_whatever_their_suffixes() {
        const NAME: &str = "000000010000000000000006";
        let objects = [
            ".zst",
            ".partial",
            ".partial.gz",
            ".snappy",
            "",
            ".gz",
            ".xz",
        ];
        let objects: Vec<String> = objects.iter().map(|s| format!("{NAME}{s}")).collect();
        let objects: Vec<&str> = objects.iter().map(String::as_str).collect();
        let found = find(&keys(&objects), &name(NAME));
        assert_eq!(
            suffixes(&found.whole, NAME),
            ["", ".gz", ".snappy", ".xz", ".zst"]
        );
        assert_eq!(suffixes(&found.partial, NAME), [".partial", ".partial.gz"]);
    }

    #[test]
    fn names_that_only_look_alike_are_not_found() {
        const NAME: &str = "000000010000000000000006";
        for other in [
            "000000010000000000000006.gpg",
            "000000010000000000000006.gz.gz",
            "000000010000000000000006.GZ",
            "000000010000000000000006.partial.gpg",
            "000000010000000000000006.00000028.backup",
            "000000010000000000000006x",
            "000000010000000000000007",
            "x000000010000000000000006",
        ] {
            let found = find(&keys(&[other]), &name(NAME));
            assert!(
                found.whole.is_empty() && found.partial.is_empty(),
                "{other}"
            );
        }
    }

    #[test]
    fn every_kind_of_name_is_found_as_itself() {
        for text in [
            "000000010000000000000006.partial",
            "000000010000000000000006.00000028.backup",
            "00000002.history",
        ] {
            let found = find(&keys(&[&format!("{text}.lz4")]), &name(text));
            assert_eq!(found.whole.len(), 1, "{text}");
            assert_eq!(found.whole[0].codec.info().name, "lz4");
            let found = find(&keys(&[&format!("{text}.partial")]), &name(text));
            assert!(found.whole.is_empty() && found.partial.is_empty(), "{text}");
        }
    }
}
