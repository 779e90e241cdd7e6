//! Records of WAL: whether a segment holds what the server wrote into it.
//!
//! Every record has a CRC-32C over itself. The server that replays a segment takes
//! the first record that is wrong for the end of the WAL, and may end its recovery
//! there without an error, so a damaged segment is worth a word before. A segment
//! can be checked without its neighbours but for the record that began in the one
//! before it and the one that ends in the one after it. Nor can be noticed what no
//! record covers and the server does not read: padding, and the zeroes behind a
//! switch of segments.
//!
//! The layout of records has been the same since PostgreSQL 9.5. Source:
//! `access/xlogrecord.h`; for the flags of pages `access/xlog_internal.h`.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use super::blocks::{Block, Heads, Wanted};
use super::page::{Page, Pages, field};
use super::seam::{Closing, Ends, Opening};
use super::{Lsn, WalKind};

/// `xlp_magic` of PostgreSQL 9.5; records had another layout before.
const FIRST_MAGIC: u16 = 0xD087;

/// Bytes of a record's header.
pub(super) const HEADER_LEN: usize = 24;

/// Bytes of that header before its CRC, which covers them after all the rest.
const COVERED: usize = 20;

/// Records begin at multiples of this.
const ALIGNMENT: usize = 8;

/// `XLOG_SWITCH`: nothing follows in its segment.
const SWITCH: u8 = 0x40;

/// The first thing in a segment that the server would stumble on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// A record is not as it was written.
    Record(Lsn),
    /// A page is not the one that belongs there.
    Page(Lsn),
    /// Nothing was written from here on, and no switch of segments says so.
    Ends(Lsn),
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Record(at) => write!(f, "its record at {at} is damaged"),
            Self::Page(at) => write!(f, "its page at {at} is damaged"),
            Self::Ends(at) => write!(f, "its WAL ends at {at}, before the segment does"),
        }
    }
}

/// Checks the records of a segment that arrives in pieces.
#[derive(Debug, Default)]
pub struct RecordMeter {
    pages: Pages,
    walk: Walk,
}

impl RecordMeter {
    /// A meter that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// A meter that looks for blocks which are written as a whole, besides.
    pub fn looking_for(wanted: Arc<Wanted>) -> Self {
        let mut meter = Self::new();
        meter.walk.heads = Heads::of(wanted);
        meter
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        let walk = &mut self.walk;
        self.pages.update(bytes, |page| walk.page(page));
    }

    /// The flaw of a file of this kind, if one was found in it. Of what is no
    /// WAL nothing is said.
    ///
    /// The last record of a `.partial` may be cut, and what follows it be left
    /// from another segment: there it is only a flaw if a good record follows.
    pub fn finish(self, kind: WalKind) -> Option<Flaw> {
        self.finish_whole(kind).flaw
    }

    /// All that is known of it.
    pub fn finish_whole(mut self, kind: WalKind) -> Measured {
        let walk = &mut self.walk;
        self.pages.finish(|page| walk.page(page));
        let counts = match kind {
            WalKind::Segment => true,
            WalKind::Partial => self.walk.goes_on,
            WalKind::History | WalKind::Backup => false,
        };
        let Walk {
            flaw,
            heads,
            opening,
            state,
            ..
        } = self.walk;
        let closing = match state {
            _ if flaw.is_some() => Closing::Unknown,
            State::Lost => Closing::Unknown,
            State::Between | State::Over => Closing::Nothing,
            State::Within(record) => Closing::Record(record),
            State::Skipping(_) => Closing::Through,
        };
        Measured {
            flaw: flaw.filter(|_| counts),
            blocks: heads.found,
            ends: Ends { opening, closing },
        }
    }
}

/// What is known of a segment when all of it was seen.
#[derive(Debug)]
pub struct Measured {
    /// What the server will stumble on.
    pub flaw: Option<Flaw>,
    /// Those of the blocks that were looked for which its good records write as a whole.
    pub blocks: BTreeSet<Block>,
    /// For who has its neighbours.
    pub ends: Ends,
}

/// How far the check is.
#[derive(Debug, Default)]
struct Walk {
    state: State,
    flaw: Option<Flaw>,
    /// A good record was found behind the flaw.
    goes_on: bool,
    magic: u16,
    heads: Heads,
    /// Of the first page, if it was one.
    opening: Option<Opening>,
}

#[derive(Debug, Default, Clone, Copy)]
enum State {
    /// It is not known where a record begins: the header of the next page tells.
    #[default]
    Lost,
    /// In a record whose beginning was not seen, with so many bytes to come.
    Skipping(u64),
    /// A record begins at the next byte.
    Between,
    Within(Record),
    /// Behind a switch of segments.
    Over,
}

/// A record that is being read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record {
    start: Lsn,
    header: [u8; HEADER_LEN],
    /// Bytes of it that were seen, the header included.
    seen: u64,
    left: u64,
    crc: u32,
}

impl Record {
    fn take(&mut self, bytes: &[u8]) {
        let seen = usize::try_from(self.seen).unwrap_or(usize::MAX);
        let of_header = HEADER_LEN.saturating_sub(seen).min(bytes.len());
        let (head, body) = bytes.split_at(of_header);
        if !head.is_empty() {
            self.header[seen..seen + of_header].copy_from_slice(head);
        }
        self.crc = crc32c::crc32c_append(self.crc, body);
        self.seen += bytes.len() as u64;
        self.left -= bytes.len() as u64;
    }

    /// Adds bytes of another segment: the first of them, and what the others are summed up to.
    pub(super) fn append(&mut self, first: &[u8], crc: u32, count: u64) {
        let first = &first[..first.len().min(piece(self.left, first.len()))];
        self.take(first);
        let others = (count - first.len() as u64).min(self.left);
        self.crc = crc32c::crc32c_combine(self.crc, crc, usize::try_from(others).unwrap_or(0));
        self.seen += others;
        self.left -= others;
    }

    /// Where it begins.
    pub(super) fn start(&self) -> Lsn {
        self.start
    }

    /// Bytes that are still to come.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    pub(super) fn is_good(&self) -> bool {
        let crc = crc32c::crc32c_append(self.crc, &self.header[..COVERED]);
        field(&self.header, COVERED).map(u32::from_le_bytes) == Some(crc)
    }

    fn is_switch(&self) -> bool {
        let (info, manager) = (self.header[16], self.header[17]);
        manager == 0 && info & 0xF0 == SWITCH
    }
}

impl Walk {
    fn stumble(&mut self, flaw: Flaw) {
        self.flaw.get_or_insert(flaw);
        self.state = State::Lost;
    }

    /// Takes a page; gives whether there is more to be checked.
    fn page(&mut self, page: &Page<'_>) -> bool {
        if page.identity.magic < FIRST_MAGIC {
            return false;
        }
        self.magic = page.identity.magic;
        let here = Lsn(page.identity.start.0 + page.offset);
        let Some(header) = page.header else {
            self.stumble(Flaw::Page(here));
            return true;
        };
        let rest = header
            .continues()
            .then_some(u64::from(header.remaining))
            .filter(|rest| *rest > 0);
        if page.offset == 0 {
            let opening = Opening::new(here, rest.unwrap_or(0), header.gives_up());
            self.opening = Some(opening);
        }
        let expected = match self.state {
            State::Skipping(left) => Some((left, Flaw::Page(here))),
            State::Within(record) => Some((record.left, Flaw::Record(record.start))),
            State::Lost | State::Between | State::Over => None,
        };
        match (expected, rest) {
            (Some((left, _)), Some(rest)) if left == rest => {}
            (Some(_), None) if header.gives_up() => self.state = State::Between,
            (None, None) => self.state = State::Between,
            (None, Some(rest)) => {
                if matches!(self.state, State::Between) {
                    self.stumble(Flaw::Page(here));
                }
                self.state = State::Skipping(rest);
            }
            (Some((_, flaw)), rest) => {
                self.stumble(flaw);
                self.state = rest.map_or(State::Between, State::Skipping);
            }
        }
        let mut at = header.length().min(page.bytes.len());
        while at < page.bytes.len() {
            at = match self.state {
                State::Lost | State::Over => break,
                State::Between => self.begin(here, page.bytes, at),
                State::Skipping(left) => {
                    let count = piece(left, page.bytes.len() - at);
                    if let Some(opening) = self.opening.as_mut().filter(|_| self.flaw.is_none()) {
                        opening.take(&page.bytes[at..at + count]);
                    }
                    self.state = match left - count as u64 {
                        0 => State::Between,
                        left => State::Skipping(left),
                    };
                    self.aligned(at + count)
                }
                State::Within(record) => self.go_on(record, page.bytes, at),
            };
        }
        !matches!(self.state, State::Over)
    }

    /// Begins a record at `at` of a page; gives where to go on.
    fn begin(&mut self, page_start: Lsn, page: &[u8], at: usize) -> usize {
        let start = Lsn(page_start.0 + at as u64);
        let total = u64::from(field(page, at).map_or(0, u32::from_le_bytes));
        if total >= HEADER_LEN as u64 {
            self.heads.begin();
            self.state = State::Within(Record {
                start,
                header: [0; HEADER_LEN],
                seen: 0,
                left: total,
                crc: 0,
            });
        } else if page[at..].iter().all(|byte| *byte == 0) {
            self.stumble(Flaw::Ends(start));
        } else {
            self.stumble(Flaw::Record(start));
        }
        at
    }

    fn go_on(&mut self, mut record: Record, page: &[u8], at: usize) -> usize {
        let count = piece(record.left, page.len() - at);
        record.take(&page[at..at + count]);
        self.heads.take(&page[at..at + count]);
        if record.left > 0 {
            self.state = State::Within(record);
        } else if !record.is_good() {
            self.stumble(Flaw::Record(record.start));
        } else {
            self.goes_on |= self.flaw.is_some();
            self.heads.end(record.start, HEADER_LEN, self.magic);
            self.state = if record.is_switch() {
                State::Over
            } else {
                State::Between
            };
        }
        self.aligned(at + count)
    }

    /// Where the next record begins, if one has just ended.
    fn aligned(&self, at: usize) -> usize {
        match self.state {
            State::Between => at.next_multiple_of(ALIGNMENT),
            State::Lost | State::Skipping(_) | State::Within(_) | State::Over => at,
        }
    }
}

/// How much of `left` bytes lies in the next `there` bytes.
fn piece(left: u64, there: usize) -> usize {
    usize::try_from(left).map_or(there, |left| left.min(there))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wal::seam::Carry;

    const GOLDEN: &[u8] = include_bytes!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/golden/wal/000000010000000000000006"
    ));
    const PAGE: usize = 8192;
    const SIZE: usize = 1 << 20;
    const START: u64 = 0x60_0000;

    fn flaw_of(bytes: &[u8], kind: WalKind) -> Option<Flaw> {
        let mut meter = RecordMeter::new();
        meter.update(bytes);
        meter.finish(kind)
    }

    fn flaw(bytes: &[u8]) -> Option<Flaw> {
        flaw_of(bytes, WalKind::Segment)
    }

    fn lsn(at: usize) -> Lsn {
        Lsn(START + at as u64)
    }

    /// A segment as a server writes it, and where its bytes lie that matter.
    struct Written {
        bytes: Vec<u8>,
        at: usize,
        covered: Vec<usize>,
        /// Where each record begins.
        starts: Vec<usize>,
        /// Where the segment lies.
        base: u64,
        /// What goes over its end.
        over: Vec<u8>,
    }

    impl Written {
        /// It begins with `rest` bytes of a record of the segment before.
        fn new(rest: usize) -> Self {
            Self::at(START, &vec![0x77; rest])
        }

        fn at(base: u64, rest: &[u8]) -> Self {
            let mut this = Self {
                bytes: vec![0; SIZE],
                at: 0,
                covered: Vec::new(),
                starts: Vec::new(),
                base,
                over: Vec::new(),
            };
            this.put(rest, false);
            this.align();
            this
        }

        fn header(&mut self, rest: usize) {
            let first = self.at == 0;
            let info = u16::from(first) * 2 + u16::from(rest > 0);
            let page = &mut self.bytes[self.at..];
            page[..2].copy_from_slice(&0xD110_u16.to_le_bytes());
            page[2..4].copy_from_slice(&info.to_le_bytes());
            page[4..8].copy_from_slice(&1_u32.to_le_bytes());
            page[8..16].copy_from_slice(&(self.base + self.at as u64).to_le_bytes());
            page[16..20].copy_from_slice(&u32::try_from(rest).unwrap().to_le_bytes());
            if first {
                page[24..32].copy_from_slice(&77_u64.to_le_bytes());
                page[32..36].copy_from_slice(&(1_u32 << 20).to_le_bytes());
                page[36..40].copy_from_slice(&8192_u32.to_le_bytes());
            }
            // Those of the header that say what it is, but for flags.
            self.covered.extend(self.at..self.at + 2);
            self.covered.extend(self.at + 8..self.at + 16);
            self.at += if first { 40 } else { 24 };
        }

        fn put(&mut self, bytes: &[u8], covered: bool) {
            let mut bytes = bytes;
            loop {
                if self.at == SIZE {
                    self.over = bytes.to_vec();
                    return;
                }
                if self.at.is_multiple_of(PAGE) {
                    self.header(bytes.len());
                }
                let count = bytes.len().min(PAGE - self.at % PAGE);
                self.bytes[self.at..self.at + count].copy_from_slice(&bytes[..count]);
                if covered {
                    self.covered.extend(self.at..self.at + count);
                }
                self.at += count;
                bytes = &bytes[count..];
                if bytes.is_empty() {
                    return;
                }
            }
        }

        fn align(&mut self) {
            self.at = self.at.next_multiple_of(8);
        }

        /// Writes a record with `body` bytes behind its header.
        fn record(&mut self, body: usize, info: u8) {
            if self.at.is_multiple_of(PAGE) && self.at < SIZE {
                self.header(0);
            }
            let body = vec![0x55; body];
            let total = u32::try_from(HEADER_LEN + body.len()).unwrap();
            let mut header = [0; HEADER_LEN];
            header[..4].copy_from_slice(&total.to_le_bytes());
            header[4] = 9;
            header[16] = info;
            let crc = crc32c::crc32c_append(crc32c::crc32c(&body), &header[..COVERED]);
            header[COVERED..].copy_from_slice(&crc.to_le_bytes());
            self.starts.push(self.at);
            // Of the last one the end lies in the next segment.
            let pages = (SIZE - self.at) / PAGE + 1;
            let fits = self.at + total as usize + pages * 24 <= SIZE;
            self.put(&[&header[..], &body].concat(), fits);
            self.align();
        }

        fn switch(mut self) -> Self {
            self.record(0, SWITCH);
            // The rest is pages without content.
            self.at = self.at.next_multiple_of(PAGE);
            let covered = self.covered.len();
            while self.at < SIZE {
                self.header(0);
                self.at = self.at.next_multiple_of(PAGE);
            }
            self.covered.truncate(covered);
            self
        }

        fn full(mut self) -> Self {
            while self.at < SIZE {
                self.record(self.starts.len() * 37 % 3000, 0);
            }
            self
        }
    }

    #[test]
    fn what_a_server_wrote_has_no_flaw() {
        assert_eq!(flaw(GOLDEN), None);
        for rest in [0, 1, 300, 9000, 100_000] {
            assert_eq!(flaw(&Written::new(rest).full().bytes), None, "{rest}");
            assert_eq!(flaw(&Written::new(rest).switch().bytes), None, "{rest}");
        }
        let mut long = Written::new(0);
        long.record(2 * SIZE, 0);
        assert_eq!(flaw(&long.bytes), None, "one record that ends elsewhere");
    }

    #[test]
    fn every_flipped_bit_that_the_server_would_stumble_on_is_found() {
        for segment in [Written::new(300).full(), Written::new(9000).switch()] {
            let mut bytes = segment.bytes.clone();
            // The first pages whole, of the others every 97th byte.
            for (nth, &at) in segment.covered.iter().enumerate() {
                // What is no first page is judged by `fit`.
                if at < 40 || (nth > 10_000 && nth % 97 > 0) {
                    continue;
                }
                let bit = 1 << (nth % 8);
                bytes[at] ^= bit;
                let found = flaw(&bytes);
                bytes[at] ^= bit;
                assert!(found.is_some(), "{:#x}, bit {bit}", lsn(at).0);
            }
        }
    }

    /// The first flaw of what goes from one of these segments into the next.
    fn seam(segments: &[Vec<u8>]) -> Option<Flaw> {
        let mut carry = Carry::default();
        segments.iter().find_map(|bytes| {
            let mut meter = RecordMeter::new();
            meter.update(bytes);
            let (after, flaw) = meter.finish_whole(WalKind::Segment).ends.join(carry);
            carry = after;
            flaw
        })
    }

    /// Segments of records with `body` bytes each, until none goes over their end; where the last
    /// one of the first begins.
    fn chain(body: usize) -> (Vec<Vec<u8>>, usize) {
        let mut one = Written::new(0);
        while one.at < SIZE {
            one.record(body, 0);
        }
        let start = one.starts[one.starts.len() - 1];
        let (mut segments, mut over) = (vec![one.bytes], one.over);
        while !over.is_empty() {
            let base = START + (segments.len() * SIZE) as u64;
            let mut next = Written::at(base, &over);
            over = std::mem::take(&mut next.over);
            if over.is_empty() {
                next = next.switch();
            }
            segments.push(next.bytes);
        }
        (segments, start)
    }

    #[test]
    fn a_record_over_the_end_of_a_segment_is_joined() {
        for body in [10, 30, 5000, 20_000, SIZE, 3 * SIZE] {
            let (whole, start) = chain(body);
            assert!(whole.len() > body.div_ceil(SIZE).max(1), "{body}");
            assert_eq!(seam(&whole), None, "{body}");
            let flipped = |segment: usize, at: usize| {
                let mut segments = whole.clone();
                segments[segment][at] ^= 1;
                seam(&segments)
            };
            let here = Some(Flaw::Record(lsn(start)));
            for at in [start + 4, (start + 22).min(SIZE - 1), SIZE - 1] {
                assert_eq!(flipped(0, at), here, "{body}: {at:#x}");
            }
            for segment in 1..whole.len() {
                assert_eq!(flipped(segment, 40), here, "{body}: {segment}");
            }
            // Behind another segment, and before one.
            let (alone, first) = (Written::new(0).switch().bytes, Written::new(0).full().bytes);
            assert_eq!(
                seam(&[alone, whole[1].clone()]),
                Some(Flaw::Page(Lsn(START + SIZE as u64)))
            );
            assert!(seam(&[first, whole[1].clone()]).is_some(), "{body}");
            let next = Written::at(START + SIZE as u64, &[]).switch().bytes;
            assert_eq!(seam(&[whole[0].clone(), next.clone()]), here, "{body}");
            // The server had crashed in it and gave it up.
            let mut given_up = next;
            given_up[2] |= 8;
            assert_eq!(seam(&[whole[0].clone(), given_up]), None, "{body}");
            // Of what has a flaw itself nothing more is said.
            let mut broken = whole.clone();
            broken[0][1000] ^= 1;
            assert_eq!(
                seam(&broken),
                if start < 1000 { here } else { None },
                "{body}"
            );
        }
    }

    #[test]
    fn a_flaw_says_where_it_is() {
        let segment = Written::new(0).full();
        let at = segment.starts[5];
        let mut bytes = segment.bytes.clone();
        bytes[at + 30] ^= 1;
        let found = flaw(&bytes).expect("a flaw");
        assert_eq!(found, Flaw::Record(lsn(at)));
        assert_eq!(
            found.to_string(),
            format!("its record at {} is damaged", lsn(at))
        );
        // A lost write, from the middle of one page into that of the next.
        let mut bytes = segment.bytes.clone();
        bytes[3 * PAGE + 4000..4 * PAGE + 4000].fill(0);
        assert!(matches!(flaw(&bytes), Some(Flaw::Record(_))));
        let mut bytes = segment.bytes.clone();
        bytes[5 * PAGE..6 * PAGE].fill(0);
        assert!(flaw(&bytes).is_some(), "a page of zeroes");
        bytes.copy_within(6 * PAGE..7 * PAGE, 5 * PAGE);
        assert!(flaw(&bytes).is_some(), "the page of another place");
    }

    /// What a crash leaves: the end of WAL with something else behind it.
    #[test]
    fn a_partial_may_end_anywhere_but_go_on_behind_no_flaw() {
        let mut segment = Written::new(0);
        for _ in 0..30 {
            segment.record(1000, 0);
        }
        let ends = Flaw::Ends(lsn(segment.at));
        let mut bytes = segment.bytes.clone();
        assert_eq!(flaw_of(&bytes, WalKind::Partial), None);
        assert_eq!(flaw(&bytes), Some(ends));
        // The beginning of a record that never was written whole.
        bytes[segment.at..segment.at + 4].copy_from_slice(&500_u32.to_le_bytes());
        assert_eq!(flaw_of(&bytes, WalKind::Partial), None);
        assert!(flaw(&bytes).is_some());
        // A damaged record before good ones.
        let at = segment.starts[3];
        bytes[at + 100] ^= 1;
        let found = Some(Flaw::Record(lsn(at)));
        assert_eq!(flaw_of(&bytes, WalKind::Partial), found);
        assert_eq!(flaw_of(&bytes, WalKind::History), None);
    }

    /// A server that crashed within a record begins anew on the next page.
    #[test]
    fn a_record_that_was_given_up_is_no_flaw() {
        let mut segment = Written::new(0);
        segment.record(PAGE, 0);
        let torn = segment.at;
        segment.record(3 * PAGE, 0);
        let next = (torn / PAGE + 1) * PAGE;
        segment.bytes[next..].fill(0);
        segment.at = next;
        segment.record(100, 0);
        let mut bytes = segment.switch().bytes;
        assert_eq!(flaw(&bytes), Some(Flaw::Record(lsn(torn))));
        bytes[next + 2] |= 0x08;
        assert_eq!(flaw(&bytes), None);
    }

    #[test]
    fn of_what_is_no_wal_and_of_older_layouts_nothing_is_said() {
        assert_eq!(flaw(b""), None);
        assert_eq!(flaw(&vec![0x55; SIZE]), None);
        let mut old = Written::new(0).full().bytes;
        for page in old.chunks_mut(PAGE) {
            page[..2].copy_from_slice(&0xD07E_u16.to_le_bytes());
            page[100] ^= 1;
        }
        assert_eq!(flaw(&old), None);
    }

    proptest! {
        #[test]
        fn what_is_found_does_not_depend_on_the_pieces(
            at in 40_usize..SIZE,
            pieces in prop::collection::vec(1_usize..20_000, 1..40),
        ) {
            let mut bytes = GOLDEN.to_vec();
            bytes[at] ^= 4;
            let mut meter = RecordMeter::new();
            let mut rest = &bytes[..];
            for piece in pieces.iter().cycle() {
                if rest.is_empty() { break; }
                let (now, later) = rest.split_at((*piece).min(rest.len()));
                meter.update(now);
                rest = later;
            }
            prop_assert_eq!(meter.finish(WalKind::Segment), flaw(&bytes));
        }

        #[test]
        fn no_bytes_make_it_panic(
            changes in prop::collection::vec((40_usize..SIZE, any::<u8>()), 0..50),
            length in 0..=SIZE,
        ) {
            let mut bytes = GOLDEN.to_vec();
            for (at, byte) in changes {
                bytes[at] = byte;
            }
            let _ = flaw(&bytes[..length]);
            let _ = flaw_of(&bytes, WalKind::Partial);
        }
    }
}
