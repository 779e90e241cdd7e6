//! Texts that a bucket keeps of backups and of WAL.

use jiff::tz::TimeZone;

use super::text;
use crate::catalogue::gap::{Extent, Gap, harm};
use crate::catalogue::info::BackupInfo;
use crate::catalogue::keep::Keep;
use crate::catalogue::layout::BackupId;
use crate::catalogue::literal::Literal;
use crate::catalogue::time::Timestamp;
use crate::catalogue::{console, json};

/// `backup.info` and the values in it. What was read and printed is read back, and what is
/// shown of it breaks no line and steers no terminal.
pub(super) fn info(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        literal(text);
        time(text);
    }
    let keep = Keep::read(data);
    assert_eq!(Keep::read(keep.as_str().as_bytes()), keep);
    let Ok(info) = BackupInfo::parse(data, &TimeZone::UTC) else {
        return;
    };
    let printed = info.to_text();
    let again = BackupInfo::parse(printed.as_bytes(), &TimeZone::UTC);
    let again = again.unwrap_or_else(|error| panic!("{error} in what was printed: {printed}"));
    assert_eq!(again.to_text(), printed);
    let _ = info.contradiction();
    let id = BackupId::new("20261121T120000").expect("an id");
    let shown = [
        console::show(&id, &info),
        console::list([(&id, &info, Some(&keep))]),
    ];
    for page in shown {
        assert!(!page.contains(|c: char| c.is_control() && c != '\n'));
    }
    for page in [json::show(&id, &info), json::list([(&id, &info)])] {
        let read: Result<serde_json::Value, _> = serde_json::from_str(&page);
        // Python has a word for infinity.
        assert!(read.is_ok() || page.contains("Infinity"), "{page}");
    }
    let everything = Extent::Before(jiff::Timestamp::MAX);
    let _ = harm(&info, &everything, None);
}

fn literal(text: &str) {
    if let Ok(value) = Literal::parse(text) {
        let printed = value.to_string();
        assert_eq!(Literal::parse(&printed), Ok(value), "{printed}");
    }
}

fn time(text: &str) {
    if let Ok(time) = Timestamp::parse(text, &TimeZone::UTC) {
        for printed in [time.to_string(), time.iso()] {
            let again = Timestamp::parse(&printed, &TimeZone::UTC);
            assert_eq!(again, Ok(time), "{printed}");
        }
        let _ = (time.ctime(), time.to_the_second());
    }
}

/// What is said of WAL that was let go.
pub(super) fn gap(data: &[u8]) {
    if let Some(gap) = Gap::parse(&text(data)) {
        // Control characters become blanks.
        let printed = gap.to_text();
        let again = Gap::parse(&printed).map(|gap| gap.to_text());
        assert_eq!(again, Some(printed));
        assert!(gap.count() > 0);
    }
}
