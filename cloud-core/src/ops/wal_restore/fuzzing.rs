//! A door for fuzzing: texts of the spool.

use super::super::folder::sealed::sealed_or_as_it_is;
use super::record::Record;
use super::wanted::{Ended, Wanted};

/// Records of spooled files, and what calls and helper tell each other. What can be read
/// is written as it was, or says the same.
pub(crate) fn notes(data: &[u8]) {
    for text in sealed_or_as_it_is(data) {
        if let Some(record) = Record::parse(&text) {
            assert_eq!(Record::parse(&record.to_text()), Some(record));
        }
        if let Some(wanted) = Wanted::parse(&text) {
            let few = Wanted {
                ahead: wanted.ahead.min(64),
                ..wanted.clone()
            };
            assert!(few.following().len() <= 64);
            assert_eq!(Wanted::parse(&wanted.to_text()), Some(wanted));
        }
        if let Some(ended) = Ended::parse(&text) {
            assert_eq!(Ended::parse(&ended.to_text()), Some(ended));
        }
    }
}
