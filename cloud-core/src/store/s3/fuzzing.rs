//! A door for fuzzing: names as stores list them, and the files of profiles.

use aws_sdk_s3::types::EncodingType;

use super::{connect, list};
use crate::key::Prefix;

/// Each line is a name in a listing; all of them are a file.
pub(crate) fn answers(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let prefix = Prefix::text("p/");
    for line in text.lines() {
        for encoding in [None, Some(&EncodingType::Url)] {
            let _ = list::name(line, encoding, &prefix);
        }
        assert_eq!(
            list::name(&format!("p/{line}"), None, &prefix),
            Some(format!("p/{line}"))
        );
    }
    connect::fuzzing::files(data, &text);
}
