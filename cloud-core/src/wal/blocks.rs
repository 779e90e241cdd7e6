//! Blocks of relations that WAL writes as a whole.
//!
//! While a backup is taken, the first change of each block after its beginning puts the whole
//! block into the WAL. So a block that was read half old and half new is written anew by replay,
//! and whoever looks at it later can tell that by looking for it here.
//!
//! The references to blocks have been the same since PostgreSQL 9.5 but for the meaning of some
//! bits. Source: `access/xlogrecord.h`.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Lsn;
use super::page::field;

/// Most bytes of a record's beginning that references to blocks take: there are 33 at most.
const MOST: usize = 1 << 10;

/// `xlp_magic` of PostgreSQL 10, from which on an image may be there for a comparison only.
const SINCE_10: u16 = 0xD097;

/// `xlp_magic` of PostgreSQL 15, from which on the bits of an image have other meanings.
const SINCE_15: u16 = 0xD110;

/// Greatest number of a reference, `XLR_MAX_BLOCK_ID`.
const MAX_ID: u8 = 32;

/// `BKPBLOCK_HAS_IMAGE`, `BKPBLOCK_WILL_INIT`, `BKPBLOCK_SAME_REL` and `BKPBLOCK_FORK_MASK`.
const HAS_IMAGE: u8 = 0x10;
const WILL_INIT: u8 = 0x40;
const SAME_RELATION: u8 = 0x80;
const FORK: u8 = 0x0F;

/// `BKPIMAGE_HAS_HOLE`.
const HAS_HOLE: u8 = 0x01;

/// Part of a relation that has files of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fork {
    /// Oid of the tablespace: 1663 and 1664 for those that lie in `base` and `global`.
    pub tablespace: u32,
    /// Oid of the database; 0 for what all share.
    pub database: u32,
    /// Number of the file.
    pub relation: u32,
    /// 0 for the main one, then `fsm`, `vm`, `init`.
    pub fork: u8,
}

/// A block of a fork, counted over its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Block {
    /// Where it is.
    pub fork: Fork,
    /// Its number.
    pub number: u32,
}

/// What is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// These blocks.
    pub blocks: BTreeSet<Block>,
    /// In records that begin here or later.
    pub begin: Lsn,
    /// And before this.
    pub end: Lsn,
}

/// The beginnings of records that pass by.
#[derive(Debug, Default)]
pub(super) struct Heads {
    wanted: Option<Arc<Wanted>>,
    head: Vec<u8>,
    /// Those of the wanted blocks that are written as a whole.
    pub(super) found: BTreeSet<Block>,
}

impl Heads {
    pub(super) fn of(wanted: Arc<Wanted>) -> Self {
        Self {
            wanted: (!wanted.blocks.is_empty()).then_some(wanted),
            ..Self::default()
        }
    }

    /// A record begins.
    pub(super) fn begin(&mut self) {
        self.head.clear();
    }

    /// Its next bytes.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        if self.wanted.is_some() {
            let room = MOST.saturating_sub(self.head.len());
            self.head.extend_from_slice(&bytes[..room.min(bytes.len())]);
        }
    }

    /// It has come to its end, and is good; the first `header` bytes have no references.
    pub(super) fn end(&mut self, start: Lsn, header: usize, magic: u16) {
        let Some(wanted) = &self.wanted else { return };
        if start >= wanted.begin && start < wanted.end {
            let rest = self.head.get(header..).unwrap_or_default();
            let found = &mut self.found;
            // What is cut or of no known form says nothing of more blocks.
            let _ = each_whole(rest, magic, |block| {
                if wanted.blocks.contains(&block) {
                    found.insert(block);
                }
            });
        }
    }
}

/// Gives the blocks that a record writes as a whole. `None` if its references cannot be read to
/// their end.
fn each_whole(mut rest: &[u8], magic: u16, mut each: impl FnMut(Block)) -> Option<()> {
    let mut last = None;
    loop {
        let id = u8::from_le_bytes(next(&mut rest)?);
        match id {
            0..=MAX_ID => {
                let [flags, _, _] = next(&mut rest)?;
                let mut whole = flags & WILL_INIT != 0;
                if flags & HAS_IMAGE != 0 {
                    let [_, _, _, _, image] = next(&mut rest)?;
                    let (compressed, applied) = match magic {
                        SINCE_15.. => (image & 0x1C != 0, image & 0x02 != 0),
                        SINCE_10.. => (image & 0x02 != 0, image & 0x04 != 0),
                        _ => (image & 0x02 != 0, true),
                    };
                    if compressed && image & HAS_HOLE != 0 {
                        next::<2>(&mut rest)?;
                    }
                    whole |= applied;
                }
                if flags & SAME_RELATION == 0 {
                    let mut oid = || Some(u32::from_le_bytes(next(&mut rest)?));
                    last = Some((oid()?, oid()?, oid()?));
                }
                let number = u32::from_le_bytes(next(&mut rest)?);
                let (tablespace, database, relation) = last?;
                if whole {
                    each(Block {
                        fork: Fork {
                            tablespace,
                            database,
                            relation,
                            fork: flags & FORK,
                        },
                        number,
                    });
                }
            }
            // `XLR_BLOCK_ID_TOPLEVEL_XID` and `XLR_BLOCK_ID_ORIGIN`.
            252 => drop(next::<4>(&mut rest)?),
            253 => drop(next::<2>(&mut rest)?),
            // The record's own data, behind which there is nothing.
            254 | 255 => return Some(()),
            _ => return None,
        }
    }
}

fn next<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let bytes = field(rest, 0)?;
    *rest = &rest[N..];
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::WalKind;
    use crate::wal::record::RecordMeter;

    const GOLDEN: &[u8] = include_bytes!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/golden/wal/000000010000000000000006"
    ));

    fn block(fork: [u32; 3], kind: u8, number: u32) -> Block {
        let [tablespace, database, relation] = fork;
        Block {
            fork: Fork {
                tablespace,
                database,
                relation,
                fork: kind,
            },
            number,
        }
    }

    fn found(wanted: &[Block], begin: u64, end: u64) -> Vec<Block> {
        let wanted = Wanted {
            blocks: wanted.iter().copied().collect(),
            begin: Lsn(begin),
            end: Lsn(end),
        };
        let mut meter = RecordMeter::looking_for(Arc::new(wanted));
        for piece in GOLDEN.chunks(10_007) {
            meter.update(piece);
        }
        let measured = meter.finish_whole(WalKind::Segment);
        assert_eq!(measured.flaw, None);
        measured.blocks.into_iter().collect()
    }

    /// As `pg_waldump --bkp-details` tells of that segment.
    #[test]
    fn blocks_with_an_image_or_made_anew_are_found() {
        let whole = [
            block([1663, 1, 1259], 0, 8),
            block([1663, 1, 13396], 2, 0),
            block([1663, 5, 1249], 0, 64),
            block([1663, 5, 1259], 0, 0),
            // "INSERT+INIT"
            block([1663, 5, 16384], 0, 10),
            block([1664, 0, 2672], 0, 1),
        ];
        let changed = [
            block([1663, 1, 13391], 0, 1),
            block([1663, 1, 13391], 2, 0),
            block([1663, 5, 1259], 0, 1),
            block([1663, 5, 1259], 1, 0),
            block([1664, 5, 1259], 0, 0),
        ];
        let all = [&whole[..], &changed].concat();
        assert_eq!(found(&all, 0, u64::MAX), whole);
        // FPI of 1663/5/1259 main 0 is where it was seen; before and behind it there is none.
        assert_eq!(found(&whole[3..4], 0x70_0000, u64::MAX), []);
        assert_eq!(found(&whole[3..4], 0, 0x60_0028), []);
        assert_eq!(found(&[], 0, u64::MAX), []);
    }

    #[test]
    fn references_of_every_form_are_read() {
        let read = |bytes: &[u8], magic| {
            let mut blocks = Vec::new();
            let whole = each_whole(bytes, magic, |block| {
                blocks.push((block.fork.fork, block.number));
            });
            (whole.is_some(), blocks)
        };
        let oids: Vec<u8> = [1663_u32, 5, 7]
            .iter()
            .flat_map(|oid| oid.to_le_bytes())
            .collect();
        let make = |image: u8, hole: bool| {
            let mut bytes = vec![253, 1, 0, 252, 1, 2, 3, 4];
            bytes.extend([0, HAS_IMAGE | 2, 0, 0, 9, 9, 9, 9, image]);
            bytes.extend(vec![1; if hole { 2 } else { 0 }]);
            bytes.extend(&oids);
            bytes.extend(3_u32.to_le_bytes());
            // The same relation, made anew, and changed.
            bytes.extend([1, SAME_RELATION | WILL_INIT, 0, 0, 4, 0, 0, 0]);
            bytes.extend([2, SAME_RELATION, 0, 0, 5, 0, 0, 0]);
            bytes.extend([255, 10]);
            bytes
        };
        let (with, without) = (vec![(2, 3), (0, 4)], vec![(0, 4)]);
        for (magic, image, hole, expected) in [
            (0xD118, 0x02, false, &with),
            (0xD118, 0x03, false, &with),
            (0xD118, 0x07, true, &with),
            (0xD118, 0x13, true, &with),
            (0xD118, 0x12, false, &with),
            (0xD118, 0x01, false, &without),
            (0xD10D, 0x05, false, &with),
            (0xD10D, 0x07, true, &with),
            (0xD10D, 0x01, false, &without),
            (0xD093, 0x01, false, &with),
            (0xD093, 0x03, true, &with),
        ] {
            let bytes = make(image, hole);
            assert_eq!(
                read(&bytes, magic),
                (true, expected.clone()),
                "{magic:X} {image}"
            );
            for cut in 0..bytes.len() - 1 {
                assert!(!read(&bytes[..cut], magic).0, "{cut}");
            }
        }
        assert!(!read(&[100], 0xD118).0);
        // Of the same relation as none.
        assert!(!read(&[0, SAME_RELATION, 0, 0, 1, 0, 0, 0, 255, 0], 0xD118).0);
    }
}
