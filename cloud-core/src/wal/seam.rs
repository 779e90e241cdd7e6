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
pub struct Carry(Rest);

#[derive(Debug, Clone, Copy, Default)]
enum Rest {
    /// It is not known.
    #[default]
    Unknown,
    Nothing,
    Record(Record),
}

impl Ends {
    /// Joins the segment to those before it: what goes on behind it, and whether the record that
    /// goes on into it is not as it was written.
    pub fn join(&self, before: Carry) -> (Carry, Option<Flaw>) {
        let Some(opening) = &self.opening else {
            return (Carry::default(), None);
        };
        let (through, flaw) = match before.0 {
            Rest::Unknown => (Rest::Unknown, None),
            Rest::Nothing if opening.total == 0 => (Rest::Nothing, None),
            Rest::Nothing => (Rest::Unknown, Some(Flaw::Page(opening.start))),
            Rest::Record(_) if opening.total == 0 && opening.gives_up => (Rest::Nothing, None),
            Rest::Record(mut record) => {
                let fits = record.left() == opening.total;
                record.append(&opening.first, opening.crc, opening.seen);
                if !fits || (record.left() == 0 && !record.is_good()) {
                    (Rest::Unknown, Some(Flaw::Record(record.start())))
                } else {
                    (Rest::Record(record), None)
                }
            }
        };
        let after = match self.closing {
            Closing::Unknown => Rest::Unknown,
            Closing::Nothing => Rest::Nothing,
            Closing::Record(record) => Rest::Record(record),
            Closing::Through => through,
        };
        (Carry(after), flaw)
    }
}
