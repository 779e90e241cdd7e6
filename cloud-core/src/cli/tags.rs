//! Tags of objects, in their two spellings.
//!
//! `--tags` takes records of CSV and asks nothing more of them; `--tag` takes
//! `key,value` and holds both to what S3 allows.

use super::argparse::BareLine;
use crate::ops::{OpError, OpErrorKind};
use crate::store::Tag;

/// Most tags of one object. Source: S3 user guide, "Object tagging".
const MOST_TAGS: usize = 10;

/// Longest key and longest value, in characters. Source: as above.
const LONGEST_KEY: usize = 128;
const LONGEST_VALUE: usize = 256;

/// A word of `--tags`: one record of CSV with two fields.
pub fn record(text: &str) -> Result<Tag, BareLine> {
    let invalid = || BareLine(format!("Invalid tag format: {text}"));
    let mut records = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .from_reader(text.as_bytes())
        .into_records();
    let (Some(Ok(record)), None) = (records.next(), records.next()) else {
        return Err(invalid());
    };
    match (record.get(0), record.get(1), record.len()) {
        (Some(key), Some(value), 2) => Ok(Tag {
            key: key.to_owned(),
            value: value.to_owned(),
        }),
        _ => Err(invalid()),
    }
}

/// A value of `--tag`: key and value around the first comma, blanks around them
/// dropped.
pub fn pair(text: &str) -> Result<Tag, String> {
    let (key, value) = text
        .split_once(',')
        .ok_or_else(|| format!("'{text}' is not a tag of the form KEY,VALUE"))?;
    let (key, value) = (key.trim(), value.trim());
    if !(1..=LONGEST_KEY).contains(&key.chars().count()) {
        return Err(format!(
            "the key of tag '{text}' must have 1 to {LONGEST_KEY} characters"
        ));
    }
    if value.chars().count() > LONGEST_VALUE {
        return Err(format!(
            "the value of tag '{text}' must have at most {LONGEST_VALUE} characters"
        ));
    }
    let allowed =
        |c: char| c.is_ascii_alphanumeric() || c.is_whitespace() || "_.:/=+-@".contains(c);
    if !key.chars().chain(value.chars()).all(allowed) {
        return Err(format!(
            "tag '{text}' may hold letters, digits, blanks and _ . : / = + - @ only"
        ));
    }
    let reserved = key
        .get(..4)
        .is_some_and(|start| start.eq_ignore_ascii_case("aws:"));
    if reserved {
        return Err(format!(
            "the key of tag '{text}' must not begin with 'aws:'"
        ));
    }
    Ok(Tag {
        key: key.to_owned(),
        value: value.to_owned(),
    })
}

/// What base backups ask of their tags beyond the spelling.
pub fn check_for_backup(tags: &[Tag]) -> Result<(), OpError> {
    let refused = |text| Err(OpError::new(OpErrorKind::General, text));
    if tags.len() > MOST_TAGS {
        return refused(format!(
            "{} tags were given, and an object can have {MOST_TAGS} at most",
            tags.len()
        ));
    }
    let mut twice: Vec<&str> = Vec::new();
    for (number, tag) in tags.iter().enumerate() {
        let before = tags[..number].iter().any(|other| other.key == tag.key);
        if before && !twice.contains(&tag.key.as_str()) {
            twice.push(&tag.key);
        }
    }
    if twice.is_empty() {
        return Ok(());
    }
    let keys = twice.join(", ");
    refused(format!(
        "Duplicate tag keys found: {keys}. Tag keys must be unique."
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(key: &str, value: &str) -> Tag {
        Tag {
            key: key.to_owned(),
            value: value.to_owned(),
        }
    }

    #[test]
    fn a_record_is_csv_with_two_fields_and_nothing_else_is_asked() {
        for (text, key, value) in [
            ("env,test", "env", "test"),
            (" a , b ", " a ", " b "),
            ("\"a,b\",c", "a,b", "c"),
            ("\"say \"\"hi\"\"\",x", "say \"hi\"", "x"),
            (",", "", ""),
            ("aws:x,ü", "aws:x", "ü"),
        ] {
            assert_eq!(record(text), Ok(tag(key, value)), "{text}");
        }
        for text in ["foo", "", "a,b,c", "a,b\nc,d"] {
            let line = format!("Invalid tag format: {text}");
            assert_eq!(record(text), Err(BareLine(line)));
        }
    }

    #[test]
    fn a_pair_is_split_at_the_first_comma_and_held_to_the_rules_of_s3() {
        assert_eq!(pair(" env , test one "), Ok(tag("env", "test one")));
        assert_eq!(pair("k,"), Ok(tag("k", "")));
        let (longest_key, longest_value) = ("k".repeat(128), "v".repeat(256));
        assert!(pair(&format!("{longest_key},{longest_value}")).is_ok());
        for text in [
            String::new(),
            "novalue".to_owned(),
            ",v".to_owned(),
            "a,b,c".to_owned(),
            "AWS:x,v".to_owned(),
            "kü,v".to_owned(),
            "k,v!".to_owned(),
            format!("{longest_key}k,v"),
            format!("k,{longest_value}v"),
        ] {
            assert!(pair(&text).is_err(), "took {text:?}");
        }
    }

    #[test]
    fn a_base_backup_takes_ten_different_tags() {
        let mut tags: Vec<Tag> = (0..10).map(|n| tag(&n.to_string(), "")).collect();
        assert!(check_for_backup(&tags).is_ok());
        tags.push(tag("10", ""));
        let error = check_for_backup(&tags).unwrap_err();
        assert_eq!(error.kind, OpErrorKind::General);
        let error = check_for_backup(&[tag("a", "1"), tag("b", ""), tag("a", "2")]).unwrap_err();
        assert_eq!(
            error.message,
            "Duplicate tag keys found: a. Tag keys must be unique."
        );
    }
}
