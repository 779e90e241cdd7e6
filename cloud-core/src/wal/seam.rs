//! Records that go from one segment into the next.
//!
//! A segment alone says nothing of the record that began in the one before it, nor of the one
//! that ends in the one after it. Who has all of them in a row joins them here: what was summed
//! up of each piece is put together, without the pieces.

use super::Lsn;
use super::record::{Flaw, HEADER_LEN, Record};

/// How a segment begins: with the rest of a record of the segment before, or not.
#[derive(Debug, Clone)]
pub(super) struct Opening {
    /// Bytes of the rest, as the first page says.
    total: u64,
    /// Those that were seen.
    seen: u64,
    /// The first of them, which may be of the record's header.
    first: Vec<u8>,
    /// CRC-32C of those behind.
    crc: u32,
    /// A record that would go on here was given up by its server.
    gives_up: bool,
    start: Lsn,
}

impl Opening {
    pub(super) fn new(start: Lsn, total: u64, gives_up: bool) -> Self {
        Self {
            total,
            seen: 0,
            first: Vec::new(),
            crc: 0,
            gives_up,
            start,
        }
    }

    /// The next bytes of the rest.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        let room = HEADER_LEN - self.first.len();
        let (first, others) = bytes.split_at(room.min(bytes.len()));
        self.first.extend_from_slice(first);
        self.crc = crc32c::crc32c_append(self.crc, others);
        self.seen += bytes.len() as u64;
    }
}

/// What goes on where a segment ends.
#[derive(Debug, Clone, Copy)]
pub(super) enum Closing {
    /// It is not known.
    Unknown,
    /// The next one begins with a record.
    Nothing,
    /// This record.
    Record(Record),
    /// The one that it began with, which goes through all of it.
    Through,
}

/// The two ends of a segment.
#[derive(Debug, Clone)]
pub struct Ends {
    pub(super) opening: Option<Opening>,
    pub(super) closing: Closing,
}

/// What goes on into the next segment, from all those before it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Carry(Option<Option<Record>>);

impl Ends {
    /// Joins the segment to those before it: what goes on behind it, and whether the record that
    /// goes on into it is not as it was written.
    pub fn join(&self, before: Carry) -> (Carry, Option<Flaw>) {
        let Some(opening) = &self.opening else {
            return (Carry(None), None);
        };
        let (through, flaw) = match before.0 {
            None => (None, None),
            Some(None) if opening.total == 0 => (Some(None), None),
            Some(None) => (None, Some(Flaw::Page(opening.start))),
            Some(Some(_)) if opening.total == 0 && opening.gives_up => (Some(None), None),
            Some(Some(mut record)) => {
                let fits = record.left() == opening.total;
                record.append(&opening.first, opening.crc, opening.seen);
                if !fits || (record.left() == 0 && !record.is_good()) {
                    (None, Some(Flaw::Record(record.start())))
                } else {
                    (Some(Some(record)), None)
                }
            }
        };
        let after = match self.closing {
            Closing::Unknown => None,
            Closing::Nothing => Some(None),
            Closing::Record(record) => Some(Some(record)),
            Closing::Through => through,
        };
        (Carry(after), flaw)
    }
}
