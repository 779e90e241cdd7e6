//! Headers of WAL pages: whose WAL a file holds, and how far it reaches.
//!
//! Every page of a segment begins with a header that names its own position;
//! the first one also names the cluster, the segment size and the page size.
//! The layout has been the same since PostgreSQL 9.3, only the magic number
//! changes with every version. Source: `access/xlog_internal.h`.
//!
//! A segment file is recycled from an older one, so what follows the newest WAL
//! is not zeroes but old pages, which give themselves away by their position.
//! That is all the tools need to tell whether a file is what its name says and
//! which of two unfinished segments reaches further.
//!
//! Numbers are little-endian: the tools run where the server runs, and no
//! big-endian machine is supported. Records inside the pages are looked at by
//! `record`.

use super::{Lsn, SegmentSize, TimelineId};

/// Bytes of the first page that [`SegmentIdentity::of`] needs.
pub const LONG_HEADER_LEN: usize = 40;

const SHORT_HEADER_LEN: usize = 20;

/// `XLP_FIRST_IS_CONTRECORD` of `xlp_info`.
const CONTINUES: u16 = 0x0001;

/// `XLP_FIRST_IS_OVERWRITE_CONTRECORD` of `xlp_info`.
const GIVES_UP: u16 = 0x0008;

/// `XLP_LONG_HEADER` of `xlp_info`.
const LONG_HEADER: u16 = 0x0002;

/// What the header of any WAL page says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PageHeader {
    magic: u16,
    info: u16,
    timeline: u32,
    address: u64,
    /// Bytes of a record begun on an earlier page that are still to come, from
    /// this page on.
    pub(super) remaining: u32,
}

impl PageHeader {
    /// `None` if the bytes are too few or are no WAL page of any version.
    fn parse(page: &[u8]) -> Option<Self> {
        let header = Self {
            magic: u16::from_le_bytes(field(page, 0)?),
            info: u16::from_le_bytes(field(page, 2)?),
            timeline: u32::from_le_bytes(field(page, 4)?),
            address: u64::from_le_bytes(field(page, 8)?),
            remaining: u32::from_le_bytes(field(page, 16)?),
        };
        // 0xD066 (9.1) to 0xD118 (18); the high digit has never changed.
        let plausible =
            page.len() >= SHORT_HEADER_LEN && header.magic >> 12 == 0xD && header.timeline != 0;
        plausible.then_some(header)
    }

    /// Where the content begins: headers are padded to eight bytes.
    pub(super) fn length(self) -> usize {
        if self.info & LONG_HEADER == 0 {
            SHORT_HEADER_LEN.next_multiple_of(8)
        } else {
            LONG_HEADER_LEN
        }
    }

    /// Whether the page begins with more of a record of an earlier page.
    pub(super) fn continues(self) -> bool {
        self.info & CONTINUES != 0
    }

    /// Whether a record of an earlier page that would go on here was given up:
    /// its server had crashed in the middle of it.
    pub(super) fn gives_up(self) -> bool {
        self.info & GIVES_UP != 0
    }
}

pub(super) fn field<const N: usize>(page: &[u8], at: usize) -> Option<[u8; N]> {
    page.get(at..at + N)?.try_into().ok()
}

/// What the first page says of the segment it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentIdentity {
    /// Identifier of the cluster that wrote the WAL.
    pub system_identifier: u64,
    /// Timeline the page was written on. In the first segment of a timeline it
    /// is an ancestor of the one in the name.
    pub timeline: TimelineId,
    /// Position of the first byte of the segment.
    pub start: Lsn,
    /// Size of the segment in bytes.
    pub segment_size: SegmentSize,
    /// Size of a page in bytes.
    pub page_size: u32,
    pub(super) magic: u16,
}

impl SegmentIdentity {
    /// Reads it from the beginning of a segment; `None` if that is no first
    /// page of a segment. [`LONG_HEADER_LEN`] bytes are enough.
    pub fn of(first_page: &[u8]) -> Option<Self> {
        let header = PageHeader::parse(first_page)?;
        let page_size = u32::from_le_bytes(field(first_page, 36)?);
        let segment_size = SegmentSize::new(u64::from(u32::from_le_bytes(field(first_page, 32)?)))?;
        let plausible = header.info & LONG_HEADER != 0
            && page_size.is_power_of_two()
            && (1 << 10..=1 << 16).contains(&page_size)
            && header.address.is_multiple_of(segment_size.get());
        plausible.then_some(Self {
            system_identifier: u64::from_le_bytes(field(first_page, 24)?),
            timeline: TimelineId(header.timeline),
            start: Lsn(header.address),
            segment_size,
            page_size,
            magic: header.magic,
        })
    }
}

/// A page of a segment, as [`Pages`] gives it.
#[derive(Debug)]
pub(super) struct Page<'a> {
    /// The segment that it belongs to.
    pub(super) identity: SegmentIdentity,
    /// Its header, if that is the one of a page at this place: later timelines
    /// follow earlier ones, never the other way round.
    pub(super) header: Option<PageHeader>,
    /// Where it begins in the segment.
    pub(super) offset: u64,
    /// All of it; of the last page of a cut file what there is.
    pub(super) bytes: &'a [u8],
}

/// Cuts a segment that arrives in pieces into its pages.
///
/// What does not begin with the first page of a segment has none.
#[derive(Debug, Default)]
pub(super) struct Pages {
    identity: Option<SegmentIdentity>,
    /// The beginning of a page that did not arrive in one piece.
    page: Vec<u8>,
    /// Offset of the page being collected.
    offset: u64,
    timeline: u32,
    over: bool,
}

impl Pages {
    /// Takes the next bytes and gives each page that they complete to `each`,
    /// which returns whether it wants more.
    pub(super) fn update(&mut self, mut bytes: &[u8], mut each: impl FnMut(&Page<'_>) -> bool) {
        while !self.over && !bytes.is_empty() {
            let wanted = self
                .identity
                .map_or(LONG_HEADER_LEN, |identity| identity.page_size as usize);
            if self.page.is_empty() && self.identity.is_some() && bytes.len() >= wanted {
                let (page, later) = bytes.split_at(wanted);
                bytes = later;
                self.end_page(page, &mut each);
                continue;
            }
            let (now, later) = bytes.split_at(bytes.len().min(wanted - self.page.len()));
            self.page.extend_from_slice(now);
            bytes = later;
            if self.page.len() < wanted {
                return;
            }
            if self.identity.is_some() {
                self.end_collected(&mut each);
            } else {
                // The header tells the size of the page it is the beginning of.
                self.identity = SegmentIdentity::of(&self.page);
                self.over = self.identity.is_none();
            }
        }
    }

    /// Gives what there is of the last page to `each`.
    pub(super) fn finish(&mut self, mut each: impl FnMut(&Page<'_>) -> bool) {
        if !self.over && !self.page.is_empty() {
            self.end_collected(&mut each);
        }
    }

    fn end_collected(&mut self, each: &mut impl FnMut(&Page<'_>) -> bool) {
        let mut page = std::mem::take(&mut self.page);
        self.end_page(&page, each);
        page.clear();
        self.page = page;
    }

    fn end_page(&mut self, bytes: &[u8], each: &mut impl FnMut(&Page<'_>) -> bool) {
        let Some(identity) = self.identity else {
            self.over = true;
            return;
        };
        let header = PageHeader::parse(bytes).filter(|header| {
            header.magic == identity.magic
                && header.address == identity.start.0.wrapping_add(self.offset)
                && header.timeline >= self.timeline
                && self.offset < identity.segment_size.get()
        });
        if let Some(header) = header {
            self.timeline = header.timeline;
        }
        let page = Page {
            identity,
            header,
            offset: self.offset,
            bytes,
        };
        self.over = !each(&page);
        self.offset += bytes.len() as u64;
    }
}

/// Measures how far valid WAL reaches in a segment that arrives in pieces.
///
/// The reach is the offset, in bytes, after the last byte that is not zero in
/// the last page of the unbroken run of pages that are where they say they
/// are. It is 0 if the first page is not the first page of a segment. A page is
/// filled with zeroes when it is begun, so of two states of one segment the
/// later one reaches further.
#[derive(Debug, Default)]
pub struct ReachMeter {
    pages: Pages,
    reach: u64,
}

impl ReachMeter {
    /// A meter that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        let reach = &mut self.reach;
        self.pages.update(bytes, |page| reach_in(page, reach));
    }

    /// What the first page says, if enough of it was seen and it is one.
    pub fn identity(&self) -> Option<SegmentIdentity> {
        self.pages.identity
    }

    /// The reach of what was seen.
    pub fn finish(mut self) -> u64 {
        let reach = &mut self.reach;
        self.pages.finish(|page| reach_in(page, reach));
        self.reach
    }
}

fn reach_in(page: &Page<'_>, reach: &mut u64) -> bool {
    if page.header.is_some() {
        let used = page.bytes.iter().rposition(|byte| *byte != 0);
        *reach = page.offset + used.map_or(0, |last| last as u64 + 1);
    }
    page.header.is_some()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOLDEN: &[u8] = include_bytes!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/golden/wal/000000010000000000000006"
    ));
    const PAGE: usize = 8192;

    fn reach(bytes: &[u8]) -> u64 {
        let mut meter = ReachMeter::new();
        meter.update(bytes);
        meter.finish()
    }

    /// `pages` pages of a 1 MiB segment at 0/600000, each full, then pages of
    /// the segment it was recycled from.
    fn segment(pages: usize) -> Vec<u8> {
        let mut bytes = vec![0x55; 1 << 20];
        for (index, page) in bytes.chunks_mut(PAGE).enumerate() {
            let base: u64 = if index < pages { 0x60_0000 } else { 0x30_0000 };
            page[..2].copy_from_slice(&0xD110_u16.to_le_bytes());
            page[2..4].copy_from_slice(&u16::from(index == 0).wrapping_mul(2).to_le_bytes());
            page[4..8].copy_from_slice(&1_u32.to_le_bytes());
            page[8..16].copy_from_slice(&(base + (index * PAGE) as u64).to_le_bytes());
        }
        bytes[24..32].copy_from_slice(&77_u64.to_le_bytes());
        bytes[32..36].copy_from_slice(&(1_u32 << 20).to_le_bytes());
        bytes[36..40].copy_from_slice(&8192_u32.to_le_bytes());
        bytes
    }

    #[test]
    fn the_first_page_names_cluster_position_and_sizes() {
        let identity = SegmentIdentity::of(&GOLDEN[..LONG_HEADER_LEN]).expect("a real segment");
        assert_eq!(identity.system_identifier, 0x6b01_03d9_548c_0104);
        assert_eq!(identity.timeline, TimelineId(1));
        assert_eq!(identity.start, Lsn(0x60_0000));
        assert_eq!(identity.segment_size.get(), 1 << 20);
        assert_eq!(identity.page_size, 8192);
    }

    #[test]
    fn what_is_no_first_page_has_no_identity() {
        let good = &GOLDEN[..PAGE];
        let with = |at: usize, bytes: &[u8]| {
            let mut page = good.to_vec();
            page[at..at + bytes.len()].copy_from_slice(bytes);
            page
        };
        let bad: [(&str, Vec<u8>); 8] = [
            ("too short", good[..LONG_HEADER_LEN - 1].to_vec()),
            ("empty", Vec::new()),
            ("other magic", with(0, &[0x10, 0xC1])),
            ("short header", with(2, &[0x01, 0x00])),
            ("timeline 0", with(4, &[0; 4])),
            ("position inside a segment", with(8, &[0, 0x20, 0])),
            ("segment size", with(32, &[0, 0, 0x18, 0])),
            ("page size", with(36, &[1, 0x20, 0, 0])),
        ];
        for (why, page) in bad {
            assert_eq!(SegmentIdentity::of(&page), None, "{why}");
        }
    }

    #[test]
    fn the_reach_ends_where_pages_of_an_older_segment_begin() {
        for pages in [1, 2, 77, 128] {
            assert_eq!(reach(&segment(pages)), (pages * PAGE) as u64);
        }
        assert_eq!(reach(&segment(0)), 128 * PAGE as u64, "a whole other one");
    }

    #[test]
    fn within_the_last_page_the_reach_ends_at_the_last_byte_written() {
        let mut bytes = segment(3);
        bytes[2 * PAGE + 100..3 * PAGE].fill(0);
        assert_eq!(reach(&bytes), 2 * PAGE as u64 + 100);
    }

    #[test]
    fn a_timeline_may_begin_inside_a_segment_but_not_end_there() {
        let mut bytes = segment(128);
        for page in 60..128 {
            bytes[page * PAGE + 4] = 2;
        }
        assert_eq!(reach(&bytes), 1 << 20);
        bytes[100 * PAGE + 4] = 1;
        assert_eq!(reach(&bytes), 100 * PAGE as u64);
    }

    #[test]
    fn what_is_no_wal_reaches_nowhere() {
        for bytes in [
            vec![],
            vec![0; 1 << 20],
            vec![0x55; 1 << 20],
            b"hello".to_vec(),
        ] {
            assert_eq!(reach(&bytes), 0);
        }
    }

    #[test]
    fn a_cut_file_reaches_to_its_end() {
        let bytes = segment(128);
        for cut in [PAGE, PAGE + 20, PAGE + 21, 5 * PAGE - 1] {
            assert_eq!(reach(&bytes[..cut]), cut as u64);
        }
        assert_eq!(reach(&bytes[..PAGE + 19]), PAGE as u64, "no header yet");
    }

    proptest! {
        #[test]
        fn the_reach_does_not_depend_on_the_pieces(
            pages in 0_usize..128,
            pieces in prop::collection::vec(1_usize..20_000, 1..40),
        ) {
            let bytes = segment(pages);
            let mut meter = ReachMeter::new();
            let mut rest = &bytes[..];
            for piece in pieces.iter().cycle() {
                if rest.is_empty() { break; }
                let (now, later) = rest.split_at((*piece).min(rest.len()));
                meter.update(now);
                rest = later;
            }
            prop_assert_eq!(meter.finish(), reach(&bytes));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = SegmentIdentity::of(&bytes);
            let _ = reach(&bytes);
        }
    }
}
