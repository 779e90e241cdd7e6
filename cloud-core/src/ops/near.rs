//! What a word was perhaps meant to be that names nothing: names that are almost the same.

/// Longest name that is looked at, in characters: a catalogue is not trusted.
const LONGEST: usize = 100;

/// Most characters that may be wrong.
const MISTAKES: usize = 2;

/// Most names that are given.
const MOST: usize = 3;

/// The names that are almost `typed`, or begin with it, the likeliest first.
pub(super) fn like<'k>(typed: &str, known: &'k [String]) -> Vec<&'k str> {
    let length = typed.chars().count();
    if length > LONGEST || typed.is_empty() {
        return Vec::new();
    }
    let mistakes = |name: &str| {
        let found = distance(typed, name);
        let few = found <= MISTAKES && found * 2 <= length;
        (few || name.starts_with(typed)).then_some(found)
    };
    let short = known.iter().filter(|name| name.chars().count() <= LONGEST);
    let mut found: Vec<(usize, &str)> = short
        .filter_map(|name| Some((mistakes(name)?, name.as_str())))
        .collect();
    found.sort_unstable();
    found.dedup();
    found.truncate(MOST);
    found.into_iter().map(|(_, name)| name).collect()
}

/// How many characters must be put in, taken out or changed to make one of the other;
/// capitals count as small letters.
pub(crate) fn distance(one: &str, other: &str) -> usize {
    let letters = |text: &str| -> Vec<char> { text.to_lowercase().chars().collect() };
    let (one, other) = (letters(one), letters(other));
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (number, letter) in one.iter().enumerate() {
        let mut before = row[0];
        row[0] = number + 1;
        for (place, same) in other.iter().map(|it| it == letter).enumerate() {
            let change = before + usize::from(!same);
            before = row[place + 1];
            row[place + 1] = change.min(before + 1).min(row[place] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn almost_the_same_is_what_a_finger_gets_wrong() {
        let known = ["main", "Main-2", "maintenance", "other"].map(str::to_owned);
        for (typed, expected) in [
            ("mian", &["main"][..]),
            ("MAIN", &["main", "Main-2"]),
            ("mai", &["main", "maintenance"]),
            ("othr", &["other"]),
            ("something", &[]),
            ("x", &[]),
            ("", &[]),
        ] {
            assert_eq!(like(typed, &known), expected, "{typed}");
        }
        let long = ["x".repeat(1 << 20)];
        assert!(like("x", &long).is_empty());
    }

    #[test]
    fn no_more_than_three_ids_are_given() {
        let ids: Vec<String> = (0..10).map(|n| format!("20261121T02213{n}")).collect();
        let found = like("20261121T02213x", &ids);
        assert_eq!(found, &ids[..3]);
    }
}
