//! A door for fuzzing: the journal of a restore.

use std::io::Cursor;

use super::journal::{header, read_records, recall};
use crate::pgdata::{Target, plain_name};

/// A journal, as it is, and as the lines of a record whose checksum holds. `open` gives a
/// directory that is nobody else's.
pub(crate) fn journal(data: &[u8], open: impl Fn() -> Target) {
    let text = String::from_utf8_lossy(data);
    let whole = format!("store\n{text}\nbegin\n");
    for journal in [data, whole.as_bytes()] {
        let _ = header(journal, "store\n");
    }
    let body = format!("archive x 1 -\n{text}\n");
    let sum = crc32c::crc32c(body.as_bytes());
    let record = format!("{body}end {sum:08x}\n");
    for bytes in [data, record.as_bytes()] {
        let mut journal = Cursor::new(bytes);
        let records = read_records(&mut journal, 0).expect("it is in memory");
        for record in &records {
            assert!(record.body <= record.end && record.end <= bytes.len() as u64);
            let Ok(unpacked) = recall(&mut journal, record, 0, &open()) else {
                continue;
            };
            for name in unpacked.held.keys() {
                assert_eq!(plain_name(name).ok().as_ref(), Some(name));
            }
        }
    }
}
