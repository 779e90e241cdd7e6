//! Judges pages of relations by their checksums, as they pass by.
//!
//! A disk that changes bits says nothing, and whoever copies the page copies the
//! damage. Clusters with checksums show it; so a backup that reads everything anyway
//! looks at each page, before the last backup with the good one is deleted.
//!
//! While the server writes, a page may be read half old and half new. Such a page is
//! none that is lost: replay of WAL writes it anew from its image in the WAL. It is
//! recognised by its LSN, which was written since the backup began
//! (docs/decisions.md 26).

use std::fmt;

use super::control::ControlSizes;
use super::relation::RelationFile;
use crate::wal::Lsn;

/// How many pages are remembered of all that are found.
const KEPT: usize = 100;

/// How many of them are named in a message.
const NAMED: usize = 10;

/// Sums that are made side by side, one of each column of a page.
const LANES: usize = 32;

/// Bytes of a row of the page: a number of four bytes for each sum.
const ROW: usize = 4 * LANES;

/// What each sum begins with.
///
/// Source of this and the following constants, and of the algorithm: PostgreSQL,
/// `src/include/storage/checksum_impl.h`.
#[rustfmt::skip]
const BASES: [u32; LANES] = [
    0x5B1F_36E9, 0xB852_5960, 0x02AB_50AA, 0x1DE6_6D2A,
    0x79FF_467A, 0x9BB9_F8A3, 0x217E_7CD2, 0x83E1_3D2C,
    0xF8D4_474F, 0xE39E_B970, 0x42C6_AE16, 0x9932_16FA,
    0x7B09_3B5D, 0x98DA_FF3C, 0xF718_902A, 0x0B1C_9CDB,
    0xE58F_764B, 0x1876_36BC, 0x5D7B_3BB1, 0xE73D_E7DE,
    0x92BE_C979, 0xCCA6_C0B2, 0x304A_0979, 0x85AA_43D4,
    0x7831_25BB, 0x6CA8_EAA2, 0xE407_EAC6, 0x4B5C_FC3E,
    0x9FBF_8C76, 0x15CA_20BE, 0xF2CA_9FD3, 0x959B_D756,
];

/// The prime of the FNV-1a hash of 32 bits.
const PRIME: u32 = 16_777_619;

/// Where the header of a page has its checksum, which counts as zero in the sum.
///
/// Source: `PageHeaderData` in PostgreSQL's `src/include/storage/bufpage.h`.
const CHECKSUM: std::ops::Range<usize> = 8..10;

/// What has to be known of a cluster to judge its pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRules {
    /// Size of a page, in bytes: a power of two from 1 KiB.
    pub block_size: u32,
    /// Pages in each file of a fork but the last.
    pub blocks_per_segment: u32,
    /// Where the backup begins: what was written later is written anew by replay.
    pub begin: Lsn,
    /// Where it ends, which no page can be newer than; `None` if that is not known
    /// yet.
    pub end: Option<Lsn>,
}

/// A page whose checksum is not that of its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadPage {
    /// Its number in the file, from 0.
    pub block: u32,
    /// Its number in its fork, across the files of that.
    pub number: u32,
    /// The checksum in its header.
    pub stored: u16,
    /// The checksum of its content.
    pub computed: u16,
    /// The LSN in its header, as reliable as the rest of it.
    pub lsn: Lsn,
}

/// What can be said of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// It is as it was written, is all zeroes, or will be written anew by replay.
    Good,
    /// Its checksum is wrong, and it was written since the backup began if its LSN
    /// is. Only if it is not known where the backup ends.
    Newer(BadPage),
    /// Its checksum is wrong.
    Bad(BadPage),
}

/// Pages that were found: all counted, the first 100 kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BadPages {
    /// How many.
    pub count: u64,
    /// The first of them.
    pub first: Vec<BadPage>,
}

/// What was found in a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// Pages that were judged.
    pub pages: u64,
    /// Those that are bad.
    pub bad: BadPages,
    /// Those of which only the end of the backup tells ([`Judgement::Newer`]).
    pub newer: BadPages,
}

/// Judges the pages of one file, which comes in pieces of any size.
///
/// What is left at the end and is less than a page is not judged: it is what a server
/// was about to write, and no page of a file that is whole.
#[derive(Debug)]
pub struct PageChecker {
    rules: PageRules,
    file: RelationFile,
    /// Number of the next page in the file.
    block: u32,
    /// The beginning of a page whose rest is still to come.
    begun: Vec<u8>,
    found: Findings,
}

impl PageRules {
    /// The rules for a backup of a cluster of these sizes.
    ///
    /// `None` if its pages have no checksums, or if that is not known.
    pub fn of(sizes: &ControlSizes, begin: Lsn, end: Option<Lsn>) -> Option<Self> {
        (sizes.data_checksums == Some(true)).then_some(Self {
            block_size: sizes.block_size,
            blocks_per_segment: sizes.relation_segment_blocks,
            begin,
            end,
        })
    }

    /// Judges a whole page that is the page number `block` of `file`.
    pub fn judge(&self, file: RelationFile, block: u32, page: &[u8]) -> Judgement {
        let number = file
            .segment()
            .wrapping_mul(self.blocks_per_segment)
            .wrapping_add(block);
        let computed = checksum(page, number);
        let stored = u16::from_le_bytes([page[8], page[9]]);
        // A relation grows by pages of zeroes before there is anything in them.
        if computed == stored || page.iter().all(|&byte| byte == 0) {
            return Judgement::Good;
        }
        let half = |at: usize| {
            let bytes = [page[at], page[at + 1], page[at + 2], page[at + 3]];
            u64::from(u32::from_le_bytes(bytes))
        };
        let bad = BadPage {
            block,
            number,
            stored,
            computed,
            lsn: Lsn(half(0) << 32 | half(4)),
        };
        match self.end {
            _ if bad.lsn <= self.begin => Judgement::Bad(bad),
            None => Judgement::Newer(bad),
            Some(end) if bad.lsn <= end => Judgement::Good,
            Some(_) => Judgement::Bad(bad),
        }
    }
}

impl PageChecker {
    /// For a file of which nothing was read yet.
    pub fn new(rules: PageRules, file: RelationFile) -> Self {
        Self {
            rules,
            file,
            block: 0,
            begun: Vec::new(),
            found: Findings::default(),
        }
    }

    /// Takes the next bytes of the file.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        let size = self.rules.block_size as usize;
        if !self.begun.is_empty() {
            let missing = (size - self.begun.len()).min(bytes.len());
            let (rest, others) = bytes.split_at(missing);
            self.begun.extend_from_slice(rest);
            bytes = others;
            if self.begun.len() < size {
                return;
            }
            let mut page = std::mem::take(&mut self.begun);
            self.page(&page);
            page.clear();
            self.begun = page;
        }
        let mut pages = bytes.chunks_exact(size);
        for page in &mut pages {
            self.page(page);
        }
        self.begun.extend_from_slice(pages.remainder());
    }

    /// What was found.
    pub fn finish(self) -> Findings {
        self.found
    }

    fn page(&mut self, page: &[u8]) {
        let judgement = self.rules.judge(self.file, self.block, page);
        self.found.add(judgement);
        self.block = self.block.wrapping_add(1);
    }
}

impl Findings {
    /// Counts a page.
    pub fn add(&mut self, judgement: Judgement) {
        self.pages += 1;
        match judgement {
            Judgement::Good => {}
            Judgement::Newer(page) => self.newer.add(page),
            Judgement::Bad(page) => self.bad.add(page),
        }
    }
}

impl BadPages {
    /// Counts a page.
    pub fn add(&mut self, page: BadPage) {
        self.count += 1;
        if self.first.len() < KEPT {
            self.first.push(page);
        }
    }
}

/// `block 7`, `blocks 7, 9 and 12`: their numbers in the file.
impl fmt::Display for BadPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.count == 1 { "block" } else { "blocks" })?;
        let named = &self.first[..self.first.len().min(NAMED)];
        for (place, page) in named.iter().enumerate() {
            let before = match place {
                0 => " ",
                _ if place as u64 + 1 == self.count => " and ",
                _ => ", ",
            };
            write!(f, "{before}{}", page.block)?;
        }
        match self.count - named.len() as u64 {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// The checksum of a page that is the page number `number` of its fork.
fn checksum(page: &[u8], number: u32) -> u16 {
    let mut sums = BASES;
    let (rows, _) = page.as_chunks::<ROW>();
    if let Some((header, rows)) = rows.split_first() {
        let mut header = *header;
        header[CHECKSUM].fill(0);
        add_row(&mut sums, &header);
        for row in rows {
            add_row(&mut sums, row);
        }
    }
    for _ in 0..2 {
        add_row(&mut sums, &[0; ROW]);
    }
    let all = sums.iter().fold(number, |all, sum| all ^ sum);
    u16::try_from(all % 65_535 + 1).expect("65535 at most")
}

/// Adds a number to each sum. Simple enough for the compiler to add several at once.
#[inline]
fn add_row(sums: &mut [u32; LANES], row: &[u8; ROW]) {
    let (numbers, _) = row.as_chunks::<4>();
    for (sum, number) in sums.iter_mut().zip(numbers) {
        let mixed = *sum ^ u32::from_le_bytes(*number);
        *sum = mixed.wrapping_mul(PRIME) ^ (mixed >> 17);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All four pages of a table, and the only one of its visibility map, as a server
    /// wrote them.
    const TABLE: &[u8] = include_bytes!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/golden/pages/16384"
    ));
    const MAP: &[u8] = include_bytes!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/golden/pages/16384_vm"
    ));

    const SIZE: usize = 8192;

    /// No page is newer than the beginning of this backup.
    const LATE: PageRules = PageRules {
        block_size: 8192,
        blocks_per_segment: 131_072,
        begin: Lsn(u64::MAX),
        end: None,
    };

    fn file(name: &str) -> RelationFile {
        RelationFile::of(name.as_bytes()).expect("a relation's")
    }

    fn found(rules: PageRules, name: &str, bytes: &[u8]) -> Findings {
        let mut checker = PageChecker::new(rules, file(name));
        checker.feed(bytes);
        checker.finish()
    }

    fn blocks(found: &BadPages) -> Vec<u32> {
        found.first.iter().map(|page| page.block).collect()
    }

    /// The sum, made column by column as the algorithm is described.
    fn by_columns(page: &[u8], number: u32) -> u16 {
        let mut all = number;
        for (lane, base) in BASES.into_iter().enumerate() {
            let mut sum = base;
            let rows = page.len() / ROW;
            for row in 0..rows + 2 {
                let at = row * ROW + lane * 4;
                let mut bytes: [u8; 4] = match row {
                    _ if row >= rows => [0; 4],
                    _ => page[at..at + 4].try_into().expect("four"),
                };
                if at == CHECKSUM.start {
                    bytes[..2].fill(0);
                }
                let mixed = sum ^ u32::from_le_bytes(bytes);
                sum = mixed.wrapping_mul(0x0100_0193) ^ (mixed >> 17);
            }
            all ^= sum;
        }
        u16::try_from(all % 65_535 + 1).expect("it fits")
    }

    /// A page with content, an LSN and the checksum that fits.
    fn page(size: usize, number: u32, lsn: Lsn) -> Vec<u8> {
        let mut page = vec![0; size];
        fastrand::Rng::with_seed(number.into()).fill(&mut page);
        let half = |half: u64| u32::try_from(half).expect("32 bits").to_le_bytes();
        page[..4].copy_from_slice(&half(lsn.0 >> 32));
        page[4..8].copy_from_slice(&half(lsn.0 & 0xFFFF_FFFF));
        let checksum = by_columns(&page, number);
        page[CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
        page
    }

    #[test]
    fn pages_of_a_server_are_good_and_any_change_makes_them_bad() {
        for (name, bytes, pages) in [("base/5/16384", TABLE, 4), ("base/5/16384_vm", MAP, 1)] {
            let whole = found(LATE, name, bytes);
            assert_eq!((whole.pages, whole.bad), (pages, BadPages::default()));
            let last = bytes.len() - SIZE;
            for at in (0..SIZE).step_by(61).chain([8, 9, SIZE - 1]) {
                let mut changed = bytes.to_vec();
                changed[last + at] ^= 0x10;
                let bad = found(LATE, name, &changed).bad;
                assert_eq!(bad.count, 1, "byte {at} of {name}");
                assert_eq!(u64::from(bad.first[0].block), pages - 1);
            }
        }
    }

    #[test]
    fn a_page_in_another_pages_place_is_bad() {
        let mut swapped = TABLE.to_vec();
        let (first, second) = swapped.split_at_mut(SIZE);
        first.swap_with_slice(&mut second[..SIZE]);
        assert_eq!(blocks(&found(LATE, "base/5/16384", &swapped).bad), [0, 1]);
    }

    /// The same table, had the server cut its files at two pages, or at three.
    #[test]
    fn numbers_of_pages_go_on_in_the_next_file() {
        for (blocks_per_segment, name, from, to) in [
            (2, "base/5/16384.1", 2, 4),
            (3, "global/16384.1", 3, 4),
            (1, "PG_17_202406281/5/16384.3", 3, 4),
        ] {
            let rules = PageRules {
                blocks_per_segment,
                ..LATE
            };
            let bytes = &TABLE[from * SIZE..to * SIZE];
            let whole = found(rules, name, bytes);
            assert_eq!((whole.pages, whole.bad.count), ((to - from) as u64, 0));
            let other = PageRules {
                blocks_per_segment: 5,
                ..LATE
            };
            let bad = found(other, name, bytes).bad;
            assert_eq!(bad.count, (to - from) as u64);
            assert_eq!(bad.first[0].block, 0);
            assert_eq!(bad.first[0].number, file(name).segment() * 5);
        }
    }

    #[test]
    fn pages_of_every_size_are_judged() {
        for size in [1024, 2048, 4096, 8192, 16_384, 32_768] {
            let rules = PageRules {
                block_size: u32::try_from(size).expect("it fits"),
                ..LATE
            };
            let mut bytes: Vec<u8> = (0..5).flat_map(|n| page(size, n, Lsn(7))).collect();
            let whole = found(rules, "base/5/16384", &bytes);
            assert_eq!((whole.pages, whole.bad.count), (5, 0), "{size}");
            bytes[3 * size + 100] ^= 1;
            let bad = found(rules, "base/5/16384", &bytes).bad;
            assert_eq!(blocks(&bad), [3], "{size}");
        }
    }

    #[test]
    fn pages_of_zeroes_and_what_is_less_than_a_page_are_not_bad() {
        let mut bytes = TABLE.to_vec();
        bytes.extend_from_slice(&[0; 2 * SIZE]);
        bytes.extend_from_slice(&TABLE[..SIZE - 1]);
        let whole = found(LATE, "base/5/16384", &bytes);
        assert_eq!((whole.pages, whole.bad.count), (6, 0));
        // A page without a header that is not empty.
        bytes[5 * SIZE + 4000] = 1;
        let bad = found(LATE, "base/5/16384", &bytes).bad;
        assert_eq!(blocks(&bad), [5]);
        assert_eq!((bad.first[0].stored, bad.first[0].lsn), (0, Lsn(0)));
    }

    #[test]
    fn what_the_lsn_says_of_a_page_counts_between_beginning_and_end_of_the_backup() {
        let begin = Lsn(0x10_0000_0028);
        let end = Lsn(0x11_0000_0138);
        let after = |lsn: Lsn| Lsn(lsn.0 + 1);
        for (lsn, end, expected) in [
            (Lsn(0), None, "bad"),
            (begin, None, "bad"),
            (begin, Some(end), "bad"),
            (after(begin), None, "newer"),
            (after(begin), Some(end), "good"),
            (end, Some(end), "good"),
            (after(end), Some(end), "bad"),
            (Lsn(u64::MAX), Some(end), "bad"),
            (Lsn(u64::MAX), None, "newer"),
        ] {
            let rules = PageRules { begin, end, ..LATE };
            let mut page = page(SIZE, 0, lsn);
            let judged = |page: &[u8]| match rules.judge(file("base/5/1"), 0, page) {
                Judgement::Good => "good",
                Judgement::Newer(_) => "newer",
                Judgement::Bad(_) => "bad",
            };
            assert_eq!(judged(&page), "good", "{lsn} {end:?}");
            page[5000] ^= 1;
            assert_eq!(judged(&page), expected, "{lsn} {end:?}");
        }
    }

    #[test]
    fn all_are_counted_and_the_first_are_kept_and_fewer_are_named() {
        let mut found = Findings::default();
        let mut texts = Vec::new();
        for block in 0..250 {
            found.add(Judgement::Bad(BadPage {
                block,
                number: block,
                stored: 1,
                computed: 2,
                lsn: Lsn(0),
            }));
            texts.push(found.bad.to_string());
        }
        assert_eq!((found.pages, found.bad.count), (250, 250));
        assert_eq!(found.bad.first.len(), 100);
        assert_eq!(texts[0], "block 0");
        assert_eq!(texts[1], "blocks 0 and 1");
        assert_eq!(texts[2], "blocks 0, 1 and 2");
        assert_eq!(texts[9], "blocks 0, 1, 2, 3, 4, 5, 6, 7, 8 and 9");
        assert_eq!(
            texts[249],
            "blocks 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 240 more"
        );
    }

    #[test]
    fn there_are_no_rules_without_checksums() {
        let sizes = |data_checksums| ControlSizes {
            block_size: 4096,
            relation_segment_blocks: 77,
            wal_block_size: 8192,
            wal_segment_size: 1 << 24,
            data_checksums,
        };
        let rules = |checksums| PageRules::of(&sizes(checksums), Lsn(5), None);
        assert_eq!(rules(Some(false)), None);
        assert_eq!(rules(None), None);
        let expected = PageRules {
            block_size: 4096,
            blocks_per_segment: 77,
            begin: Lsn(5),
            end: None,
        };
        assert_eq!(rules(Some(true)), Some(expected));
    }

    proptest! {
        /// However the bytes come, the same is found.
        #[test]
        fn pieces_may_have_any_size(
            cuts in prop::collection::vec(1_usize..20_000, 0..40),
            damage in 0..TABLE.len(),
        ) {
            let mut bytes = TABLE.to_vec();
            bytes[damage] ^= 0x40;
            let whole = found(LATE, "base/5/16384", &bytes);
            let mut checker = PageChecker::new(LATE, file("base/5/16384"));
            let mut rest = &bytes[..];
            for cut in cuts {
                let (piece, others) = rest.split_at(cut.min(rest.len()));
                checker.feed(piece);
                rest = others;
            }
            checker.feed(rest);
            prop_assert_eq!(checker.finish(), whole);
        }

        #[test]
        fn the_sums_side_by_side_are_those_of_each_column(
            rows in 8_usize..40,
            seed in any::<u64>(),
            number in any::<u32>(),
        ) {
            let mut page = vec![0; rows * ROW];
            fastrand::Rng::with_seed(seed).fill(&mut page);
            prop_assert_eq!(checksum(&page, number), by_columns(&page, number));
        }
    }
}
