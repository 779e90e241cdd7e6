//! Which of the objects found is the file asked for, and which come next.
//!
//! Goes by names alone, as the reference does, with two differences: a whole
//! segment always comes before a `.partial`, whatever their suffixes (the
//! reference sorts `.partial` before `.snappy`, `.xz` and `.zst`), and a
//! `.backup` file is found like any other.

use std::collections::BTreeMap;

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

/// The whole segments that follow `name` in its directory without a gap, at
/// most `count`. Recovery cannot get past a gap, so what lies behind it is of
/// no use yet.
pub(super) fn following(keys: &[Key], name: &WalName, count: usize) -> Vec<(WalName, Candidate)> {
    let mut segments: BTreeMap<u32, (WalName, Candidate)> = BTreeMap::new();
    for key in keys {
        let Some((other, codec)) = segment_of(key) else {
            continue;
        };
        let (Some(number), true) = (number(&other), other.directory() == name.directory()) else {
            continue;
        };
        let next = (other, candidate(key, codec));
        match segments.get(&number) {
            Some((_, known)) if known.key <= *key => {}
            _ => {
                segments.insert(number, next);
            }
        }
    }
    let mut following = Vec::new();
    let mut expected = number(name);
    while following.len() < count {
        expected = expected.and_then(|number| number.checked_add(1));
        match expected.and_then(|number| segments.remove(&number)) {
            Some(segment) => following.push(segment),
            None => break,
        }
    }
    following
}

/// The segment in an object of this name, and how it is compressed.
fn segment_of(key: &Key) -> Option<(WalName, &'static dyn Codec)> {
    const LENGTH: usize = 24;
    let base = key.base_name();
    let name: WalName = base.get(..LENGTH)?.parse().ok()?;
    Some((name, codec::by_suffix(&base[LENGTH..])?))
}

/// The last number of a segment's name, which counts within its directory.
fn number(segment: &WalName) -> Option<u32> {
    u32::from_str_radix(segment.as_str().get(16..24)?, 16).ok()
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

    #[test]
    fn what_follows_are_whole_segments_without_a_gap() {
        let objects = keys(&[
            "000000010000000000000005",
            "000000010000000000000006.gz",
            "000000010000000000000007.zst",
            "000000010000000000000007.gz",
            "000000010000000000000007.00000028.backup",
            "000000010000000000000008",
            "000000010000000000000009.partial",
            "00000001000000000000000A",
            "junk",
        ]);
        let following = |start: &str, count| -> Vec<String> {
            let following = following(&objects, &name(start), count);
            let keys = following.iter().map(|(_, c)| c.key.base_name().to_owned());
            keys.collect()
        };
        let all = ["000000010000000000000007.gz", "000000010000000000000008"];
        assert_eq!(following("000000010000000000000006", 8), all);
        assert_eq!(following("000000010000000000000006", 1), all[..1]);
        assert_eq!(following("000000010000000000000006", 0), [""; 0]);
        assert_eq!(following("000000010000000000000008", 8), [""; 0]);
        assert_eq!(following("0000000100000000FFFFFFFF", 8), [""; 0]);
    }
}
