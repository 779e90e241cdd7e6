//! The record that vouches for a file in the spool.
//!
//! A file fetched ahead is handed out only if such a record lies beside it and
//! everything in it fits (docs/decisions.md 16): the place it came from, its
//! name, the fingerprint of the file or else the checksum of its bytes, the cluster
//! and the timeline in its first page. The record carries a checksum of itself, so
//! that one that was cut or damaged counts as none.
//!
//! The text is ours alone; its first line names the version of the format, and
//! a record of another version counts as none.

use super::super::folder::Fingerprint;
use super::super::folder::sealed::{Opened, Sealing};
use crate::store::ObjectVersion;

const MAGIC: &str = "barman-cloud spooled WAL 2";

/// What is known of one file in the spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// Which archive the file came from, and for which run of which server, in the
    /// spool's own words.
    pub(super) place: String,
    /// Name of the WAL file, without suffixes.
    pub(super) name: String,
    /// Key of the object it was decoded from.
    pub(super) key: String,
    /// Version of that object, where the store tells it.
    pub(super) version: Option<ObjectVersion>,
    /// The plain file under its name, as whoever wrote it left it.
    pub(super) file: Fingerprint,
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
        let mut text = Sealing::new(MAGIC);
        text.line("place", &self.place);
        text.line("name", &self.name);
        text.line("key", &self.key);
        if let Some(ObjectVersion(version)) = &self.version {
            text.line("version", version);
        }
        self.file.write(&mut text);
        text.line("crc32c", self.crc32c);
        text.line("system", self.system_identifier);
        text.line("timeline", self.timeline);
        text.seal()
    }

    /// The record of a text, or `None` if it is not exactly one that
    /// [`to_text`](Self::to_text) made.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut lines = Opened::open(MAGIC, text)?;
        let record = Self {
            place: lines.take("place")?,
            name: lines.take("name")?,
            key: lines.take("key")?,
            version: lines.take("version").map(ObjectVersion),
            file: Fingerprint::read(&mut lines)?,
            crc32c: lines.take("crc32c")?.parse().ok()?,
            system_identifier: lines.take("system")?.parse().ok()?,
            timeline: lines.take("timeline")?.parse().ok()?,
        };
        lines.is_over().then_some(record)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fingerprint() -> Fingerprint {
        let file = tempfile::tempfile().expect("a temporary file");
        Fingerprint::of(&file).expect("its status")
    }

    fn sample() -> Record {
        Record {
            place: "0123abcd".to_owned(),
            name: "000000010000000000000007".to_owned(),
            key: "p/main/wals/0000000100000000/000000010000000000000007.gz".to_owned(),
            version: Some(ObjectVersion("\"e-1\"".to_owned())),
            file: fingerprint(),
            crc32c: 0xDEAD_BEEF,
            system_identifier: u64::MAX,
            timeline: 1,
        }
    }

    #[test]
    fn a_record_cut_anywhere_counts_as_none() {
        let sample = sample();
        let text = sample.to_text();
        for cut in 0..text.len() {
            assert_eq!(Record::parse(&text[..cut]), None, "cut at {cut}");
        }
        assert_eq!(Record::parse(&text), Some(sample));
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
            crc32c in any::<u32>(),
            system_identifier in any::<u64>(),
            timeline in any::<u32>(),
        ) {
            let record = Record {
                place: texts[0].clone(),
                name: texts[1].clone(),
                key: texts[2].clone(),
                version: version.map(ObjectVersion),
                file: fingerprint(),
                crc32c, system_identifier, timeline,
            };
            prop_assert_eq!(Record::parse(&record.to_text()), Some(record));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in any::<String>()) {
            let _ = Record::parse(&text);
        }
    }
}
