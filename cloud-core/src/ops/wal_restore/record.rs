//! The record that vouches for a file in the spool.
//!
//! A file fetched ahead is handed out only if such a record lies beside it and
//! everything in it fits (docs/decisions.md 16): the place it came from, its
//! name, its size, the checksum of its bytes, the cluster and the timeline in
//! its first page. The record carries a checksum of itself, so that one that
//! was cut or damaged counts as none.
//!
//! The text is ours alone; its first line names the version of the format, and
//! a record of another version counts as none.

use std::fmt::Write as _;

use crate::store::ObjectVersion;

const MAGIC: &str = "barman-cloud spooled WAL 1";

/// What is known of one file in the spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// Which URL and server the file came from, in the spool's own words.
    pub(super) source: String,
    /// Name of the WAL file, without suffixes.
    pub(super) name: String,
    /// Key of the object it was decoded from.
    pub(super) key: String,
    /// Version of that object, where the store tells it.
    pub(super) version: Option<ObjectVersion>,
    /// Size of the plain file in bytes.
    pub(super) size: u64,
    /// CRC-32C of the plain file.
    pub(super) crc32c: u32,
    /// The cluster its first page names.
    pub(super) system_identifier: u64,
    /// The timeline its first page names.
    pub(super) timeline: u32,
}

impl Record {
    /// The text to store.
    pub(super) fn to_text(&self) -> String {
        let mut text = format!("{MAGIC}\n");
        let mut line = |name: &str, value: &dyn std::fmt::Display| {
            writeln!(text, "{name}={value}").expect("writing to a string cannot fail");
        };
        line("source", &escape(&self.source));
        line("name", &escape(&self.name));
        line("key", &escape(&self.key));
        if let Some(ObjectVersion(version)) = &self.version {
            line("version", &escape(version));
        }
        line("size", &self.size);
        line("crc32c", &self.crc32c);
        line("system", &self.system_identifier);
        line("timeline", &self.timeline);
        let checksum = crc32c::crc32c(text.as_bytes());
        writeln!(text, "check={checksum}").expect("writing to a string cannot fail");
        text
    }

    /// The record of a text, or `None` if it is not exactly one that
    /// [`to_text`](Self::to_text) made.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (body, check) = text.strip_suffix('\n')?.rsplit_once('\n')?;
        let body_with_end = &text[..=body.len()];
        let checksum: u32 = check.strip_prefix("check=")?.parse().ok()?;
        if checksum != crc32c::crc32c(body_with_end.as_bytes()) {
            return None;
        }
        let mut lines = body.lines();
        if lines.next()? != MAGIC {
            return None;
        }
        let mut lines = lines.peekable();
        let mut value = |name: &str| {
            let value = lines.peek()?.strip_prefix(name)?.strip_prefix('=')?;
            lines.next();
            Some(value.to_owned())
        };
        let record = Self {
            source: unescape(&value("source")?)?,
            name: unescape(&value("name")?)?,
            key: unescape(&value("key")?)?,
            version: match value("version") {
                Some(version) => Some(ObjectVersion(unescape(&version)?)),
                None => None,
            },
            size: value("size")?.parse().ok()?,
            crc32c: value("crc32c")?.parse().ok()?,
            system_identifier: value("system")?.parse().ok()?,
            timeline: value("timeline")?.parse().ok()?,
        };
        lines.next().is_none().then_some(record)
    }
}

/// Keeps a value on one line; control characters of any kind are written out.
fn escape(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for character in value.chars() {
        if character == '%' || character.is_control() {
            write!(escaped, "%{:x};", u32::from(character))
                .expect("writing to a string cannot fail");
        } else {
            escaped.push(character);
        }
    }
    escaped
}

fn unescape(value: &str) -> Option<String> {
    let mut parts = value.split('%');
    let mut plain = parts.next()?.to_owned();
    for part in parts {
        let (code, rest) = part.split_once(';')?;
        plain.push(char::from_u32(u32::from_str_radix(code, 16).ok()?)?);
        plain.push_str(rest);
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Record {
        Record {
            source: "0123abcd".to_owned(),
            name: "000000010000000000000007".to_owned(),
            key: "p/main/wals/0000000100000000/000000010000000000000007.gz".to_owned(),
            version: Some(ObjectVersion("\"e-1\"".to_owned())),
            size: 1 << 24,
            crc32c: 0xDEAD_BEEF,
            system_identifier: u64::MAX,
            timeline: 1,
        }
    }

    #[test]
    fn a_record_cut_anywhere_counts_as_none() {
        let text = sample().to_text();
        for cut in 0..text.len() {
            assert_eq!(Record::parse(&text[..cut]), None, "cut at {cut}");
        }
        assert_eq!(Record::parse(&text), Some(sample()));
        assert_eq!(Record::parse(&format!("{text}\n")), None, "a line more");
    }

    #[test]
    fn a_record_with_a_changed_character_counts_as_none() {
        let text = sample().to_text();
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let changed = String::from_utf8(bytes).expect("still ASCII");
            assert_eq!(Record::parse(&changed), None, "changed at {at}");
        }
    }

    proptest! {
        #[test]
        fn a_record_is_read_back_as_it_was_written(
            texts in prop::collection::vec(any::<String>(), 3),
            version in prop::option::of(any::<String>()),
            size in any::<u64>(),
            crc32c in any::<u32>(),
            system_identifier in any::<u64>(),
            timeline in any::<u32>(),
        ) {
            let record = Record {
                source: texts[0].clone(),
                name: texts[1].clone(),
                key: texts[2].clone(),
                version: version.map(ObjectVersion),
                size, crc32c, system_identifier, timeline,
            };
            prop_assert_eq!(Record::parse(&record.to_text()), Some(record));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in any::<String>()) {
            let _ = Record::parse(&text);
        }
    }
}
