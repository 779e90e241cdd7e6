//! How large the parts of an archive are, and how many may be in flight.
//!
//! A pure function of what the store allows and what the user asked for. The
//! archive limit bends before memory does: an archive ends earlier when equal
//! parts of a small size would not reach the limit asked for
//! (docs/decisions.md 22), because one archive more costs nothing and memory on
//! a database server does.

use crate::store::Limits;

/// Size of a part where nothing asks for another, in bytes.
///
/// Source: docs/decisions.md 22. 1,000 of them, which every store allows, reach
/// 9.7 GiB; three of them (two in flight, one being filled) are 30 MiB.
pub const DEFAULT_PART: u64 = 10 << 20;

/// What an encoder may keep for an archive before its parts become half as large, in bytes.
///
/// Source: measured. gzip's, lz4's and zstd's on two threads leave a backup below 64 MiB
/// with the default parts, bzip2's (16 MiB of tables) does not.
const MODEST_ENCODER: u64 = 14 << 20;

/// No archive is larger than this, in bytes, whatever the store allows.
///
/// Source: the reference caps at 1 TiB with a warning.
pub const MAX_ARCHIVE: u64 = 1 << 40;

/// Bytes that an encoder may hold back before they are counted: the largest
/// block of all codecs (bzip2's 900 kB, zstd's window) with room to spare.
const ENCODER_HOLDS_BACK: u64 = 16 << 20;

/// What the user asked for, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct PartWishes {
    /// `--max-archive-size`
    pub max_archive_size: u64,
    /// `--min-chunk-size`
    pub min_chunk_size: Option<u64>,
    /// `--jobs`: parts uploaded at the same time.
    pub jobs: u32,
    /// Archives open at the same time.
    pub lanes: u32,
    /// `--memory-limit`
    pub memory_limit: Option<u64>,
    /// What the encoders of one archive keep, on all of their threads.
    pub encoder: u64,
}

/// The sizes that follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartPlan {
    /// Size of every part but the last, in bytes.
    pub part_size: u64,
    /// Parts uploaded at the same time.
    pub in_flight: u32,
    /// Bytes for all part buffers.
    pub budget: u64,
    /// An archive ends before the next member once it is larger than this.
    pub archive_limit: u64,
    /// No archive can be larger than this with parts of this size.
    pub archive_capacity: u64,
    /// Whether `--max-archive-size` was beyond [`MAX_ARCHIVE`].
    pub capped: bool,
}

/// Why the wishes cannot be met.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PartPlanError {
    /// The parts wanted are larger than the store takes.
    #[error(
        "a part of {wanted} bytes (--min-chunk-size) is larger than the store allows ({max} bytes)"
    )]
    PartTooLarge {
        /// Bytes asked for.
        wanted: u64,
        /// Bytes allowed.
        max: u64,
    },
    /// Two parts do not fit the memory.
    #[error(
        "--memory-limit is too small: the store and --min-chunk-size need parts of {part} bytes, \
         and {needed} bytes to fill one while another is sent"
    )]
    MemoryTooSmall {
        /// Size of the smallest part allowed.
        part: u64,
        /// Smallest limit that works.
        needed: u64,
    },
}

impl PartPlan {
    /// Decides the sizes.
    pub fn new(limits: &Limits, wishes: &PartWishes) -> Result<Self, PartPlanError> {
        let lanes = u64::from(wishes.lanes.max(1));
        // A wish below the store's minimum is raised to it without a word, as
        // the reference does.
        let smallest = limits
            .min_part
            .max(wishes.min_chunk_size.unwrap_or(0))
            .max(1);
        if smallest > limits.max_part {
            return Err(PartPlanError::PartTooLarge {
                wanted: smallest,
                max: limits.max_part,
            });
        }
        let usual = match wishes.encoder {
            ..=MODEST_ENCODER => DEFAULT_PART,
            // What is slow to encode is not slow to send, whatever the size of its parts.
            _ => DEFAULT_PART / 2,
        };
        let mut part_size = usual.clamp(smallest, limits.max_part);
        let mut in_flight = u64::from(wishes.jobs.max(1));
        if let Some(memory) = wishes.memory_limit {
            let buffers = in_flight + lanes;
            if part_size * buffers > memory {
                part_size = (memory / buffers).clamp(smallest, part_size);
            }
            let affordable = memory / part_size;
            if affordable < lanes + 1 {
                return Err(PartPlanError::MemoryTooSmall {
                    part: smallest,
                    needed: smallest * (lanes + 1),
                });
            }
            in_flight = in_flight.min(affordable - lanes);
        }
        let archive_capacity = part_size
            .saturating_mul(u64::from(limits.max_parts))
            .min(limits.max_object);
        Ok(Self {
            part_size,
            in_flight: u32::try_from(in_flight).unwrap_or(u32::MAX),
            budget: part_size * (in_flight + lanes),
            archive_limit: wishes
                .max_archive_size
                .min(MAX_ARCHIVE)
                .min(archive_capacity),
            archive_capacity,
            capped: wishes.max_archive_size >= MAX_ARCHIVE,
        })
    }

    /// Most bytes of tar that make an archive within its limit, however badly they
    /// compress; at least 1.
    pub fn sure_to_fit(&self) -> u64 {
        let spare = ENCODER_HOLDS_BACK.saturating_add(self.archive_capacity / (GROWTH + 1));
        self.archive_capacity
            .saturating_sub(spare)
            .min(self.archive_limit)
            .max(1)
    }

    /// The part size of an archive that begins with a member of `member` bytes
    /// in the worst case: the plan's, or larger if the plan's would run out of
    /// part numbers in the middle of that one member. `None` if no part size
    /// the store allows is enough.
    pub fn part_size_for(&self, limits: &Limits, member: u64) -> Option<u64> {
        if member <= self.archive_capacity {
            return Some(self.part_size);
        }
        let needed = member
            .div_ceil(u64::from(limits.max_parts))
            .next_multiple_of(1 << 20);
        (needed <= limits.max_part && member <= limits.max_object).then_some(needed)
    }
}

/// What compresses worst grows by less than one in so many.
///
/// Source: the tests of `codec`. It is gzip's fastest level that needs this, 9 bits for
/// 8; everything else grows by less than 1 %.
const GROWTH: u64 = 7;

/// The largest size `bytes` of tar can have after compression.
pub(super) fn worst_case(bytes: u64) -> u64 {
    bytes
        .saturating_add(bytes / GROWTH)
        .saturating_add(ENCODER_HOLDS_BACK)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;
    const S3: Limits = Limits {
        min_part: 5 * MIB,
        max_part: 5 * GIB,
        max_parts: 10_000,
        max_object: 5 << 40,
        max_put: 5 * GIB,
        delete_batch: 1000,
        equal_parts: false,
    };
    const DEFAULTS: PartWishes = PartWishes {
        max_archive_size: 100 * GIB,
        min_chunk_size: None,
        jobs: 2,
        lanes: 1,
        memory_limit: None,
        encoder: 2 * MIB,
    };

    #[test]
    fn with_the_defaults_three_small_parts_are_all_the_memory() {
        let plan = PartPlan::new(&S3, &DEFAULTS).unwrap();
        assert_eq!(plan.part_size, 10 * MIB);
        assert_eq!(plan.budget, 30 * MIB);
        assert_eq!(plan.in_flight, 2);
        // 10,000 parts of 10 MiB do not reach 100 GiB: the archive ends earlier.
        assert_eq!(plan.archive_limit, 100_000 * MIB);
        assert!(!plan.capped);
    }

    #[test]
    fn parts_are_smaller_where_the_encoder_takes_much_memory() {
        let wish = |encoder, min_chunk_size| PartWishes {
            min_chunk_size,
            encoder,
            ..DEFAULTS
        };
        let part = |wishes| PartPlan::new(&S3, &wishes).unwrap().part_size;
        assert_eq!(part(wish(12 * MIB, None)), 10 * MIB);
        assert_eq!(part(wish(16 * MIB, None)), 5 * MIB);
        assert_eq!(part(wish(16 * MIB, Some(8 * MIB))), 8 * MIB);
    }

    #[test]
    fn a_small_archive_limit_is_kept() {
        let plan = PartPlan::new(
            &S3,
            &PartWishes {
                max_archive_size: MIB,
                ..DEFAULTS
            },
        )
        .unwrap();
        assert_eq!(plan.archive_limit, MIB);
    }

    #[test]
    fn a_huge_archive_limit_is_capped() {
        let limits = Limits {
            max_parts: u32::MAX,
            ..S3
        };
        let plan = PartPlan::new(
            &limits,
            &PartWishes {
                max_archive_size: 2 << 40,
                ..DEFAULTS
            },
        )
        .unwrap();
        assert_eq!(plan.archive_limit, MAX_ARCHIVE);
        assert!(plan.capped);
    }

    #[test]
    fn the_chunk_size_asked_for_is_a_minimum() {
        let wish = |n| PartWishes {
            min_chunk_size: Some(n),
            ..DEFAULTS
        };
        assert_eq!(
            PartPlan::new(&S3, &wish(64 * MIB)).unwrap().part_size,
            64 * MIB
        );
        assert_eq!(PartPlan::new(&S3, &wish(1)).unwrap().part_size, 10 * MIB);
        assert_eq!(
            PartPlan::new(&S3, &wish(6 * GIB)),
            Err(PartPlanError::PartTooLarge {
                wanted: 6 * GIB,
                max: 5 * GIB
            })
        );
    }

    #[test]
    fn a_memory_limit_shrinks_parts_first_and_then_their_number() {
        let wish = |jobs, n| PartWishes {
            jobs,
            memory_limit: Some(n),
            ..DEFAULTS
        };
        let plan = PartPlan::new(&S3, &wish(2, 24 * MIB)).unwrap();
        assert_eq!(
            (plan.part_size, plan.in_flight, plan.budget),
            (8 * MIB, 2, 24 * MIB)
        );
        let plan = PartPlan::new(&S3, &wish(8, 24 * MIB)).unwrap();
        assert_eq!(
            (plan.part_size, plan.in_flight, plan.budget),
            (5 * MIB, 3, 20 * MIB)
        );
        assert_eq!(
            PartPlan::new(&S3, &wish(8, 9 * MIB)),
            Err(PartPlanError::MemoryTooSmall {
                part: 5 * MIB,
                needed: 10 * MIB
            })
        );
    }

    /// As on S3, where some stores allow no more.
    #[test]
    fn with_a_thousand_parts_archives_are_more_and_memory_stays() {
        let limits = Limits {
            max_parts: 1000,
            ..S3
        };
        let plan = PartPlan::new(&limits, &DEFAULTS).unwrap();
        assert_eq!((plan.part_size, plan.budget), (10 * MIB, 30 * MIB));
        assert_eq!(plan.archive_limit, 10_000 * MIB);
        let large = plan.part_size_for(&limits, 20 * GIB).unwrap();
        assert_eq!(large, 21 * MIB);
    }

    #[test]
    fn only_a_single_enormous_member_makes_parts_grow() {
        let plan = PartPlan::new(&S3, &DEFAULTS).unwrap();
        assert_eq!(plan.part_size_for(&S3, GIB), Some(10 * MIB));
        assert_eq!(plan.part_size_for(&S3, 100_000 * MIB), Some(10 * MIB));
        assert_eq!(plan.part_size_for(&S3, 100_001 * MIB), Some(11 * MIB));
        assert_eq!(plan.part_size_for(&S3, 6 << 40), None);
    }
}
