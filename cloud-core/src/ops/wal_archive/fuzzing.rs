//! A door for fuzzing: the record of what was let go.

use super::super::folder::sealed::sealed_or_as_it_is;
use super::gaps::{parse, to_text};

/// A record; what was written of it is read and written again as it is.
pub(crate) fn notes(data: &[u8]) {
    for text in sealed_or_as_it_is(data) {
        if let Some(entries) = parse(&text) {
            let written = to_text(&entries);
            let again = parse(&written).map(|entries| to_text(&entries));
            assert_eq!(again, Some(written));
        }
    }
}
