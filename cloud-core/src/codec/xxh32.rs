//! XXH32 with seed 0, the checksum of lz4 frames.
//!
//! The library keeps its own to itself. Source: `xxhash_spec.md`, version 0.1.1.

const PRIMES: [u32; 5] = [
    0x9E37_79B1,
    0x85EB_CA77,
    0xC2B2_AE3D,
    0x27D4_EB2F,
    0x1656_67B1,
];

/// Bytes that are taken together.
const STRIPE: usize = 16;

/// A checksum in the making.
#[derive(Debug, Clone)]
pub(super) struct Xxh32 {
    lanes: [u32; 4],
    /// Less than a stripe.
    rest: Vec<u8>,
    length: u64,
}

impl Xxh32 {
    pub(super) fn new() -> Self {
        let [first, second, ..] = PRIMES;
        Self {
            lanes: [
                first.wrapping_add(second),
                second,
                0,
                0_u32.wrapping_sub(first),
            ],
            rest: Vec::with_capacity(STRIPE),
            length: 0,
        }
    }

    /// Adds bytes.
    pub(super) fn update(&mut self, mut bytes: &[u8]) {
        self.length += bytes.len() as u64;
        if !self.rest.is_empty() {
            let (head, tail) = bytes.split_at(bytes.len().min(STRIPE - self.rest.len()));
            self.rest.extend_from_slice(head);
            bytes = tail;
            if let Ok(stripe) = self.rest.as_slice().try_into() {
                self.lanes = mixed(self.lanes, stripe);
                self.rest.clear();
            }
        }
        let (stripes, tail) = bytes.as_chunks::<STRIPE>();
        // Only in a local variable do they stay in registers.
        let mut lanes = self.lanes;
        for stripe in stripes {
            lanes = mixed(lanes, stripe);
        }
        self.lanes = lanes;
        self.rest.extend_from_slice(tail);
    }

    /// The checksum of all bytes so far.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the length counts modulo 2^32"
    )]
    pub(super) fn sum(&self) -> u32 {
        let [first, second, third, fourth, fifth] = PRIMES;
        let mut sum = if self.length < STRIPE as u64 {
            fifth
        } else {
            let rotated = self.lanes.iter().zip([1, 7, 12, 18]);
            rotated.fold(0, |sum: u32, (lane, by)| {
                sum.wrapping_add(lane.rotate_left(by))
            })
        };
        sum = sum.wrapping_add(self.length as u32);
        let (words, bytes) = self.rest.as_chunks::<4>();
        for word in words {
            sum = sum.wrapping_add(u32::from_le_bytes(*word).wrapping_mul(third));
            sum = sum.rotate_left(17).wrapping_mul(fourth);
        }
        for byte in bytes {
            sum = sum.wrapping_add(u32::from(*byte).wrapping_mul(fifth));
            sum = sum.rotate_left(11).wrapping_mul(first);
        }
        sum = (sum ^ (sum >> 15)).wrapping_mul(second);
        sum = (sum ^ (sum >> 13)).wrapping_mul(third);
        sum ^ (sum >> 16)
    }
}

fn mixed(mut lanes: [u32; 4], stripe: &[u8; STRIPE]) -> [u32; 4] {
    let [first, second, ..] = PRIMES;
    let (words, _) = stripe.as_chunks::<4>();
    for (lane, word) in lanes.iter_mut().zip(words) {
        let mixed = lane.wrapping_add(u32::from_le_bytes(*word).wrapping_mul(second));
        *lane = mixed.rotate_left(13).wrapping_mul(first);
    }
    lanes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(pieces: &[&[u8]]) -> u32 {
        let mut sum = Xxh32::new();
        for piece in pieces {
            sum.update(piece);
        }
        sum.sum()
    }

    /// Made with the reference, `xxhsum -H0`.
    #[test]
    fn sums_are_those_of_the_reference_however_the_bytes_come() {
        let text = b"Nobody inspects the spammish repetition";
        for (bytes, expected) in [
            (&b""[..], 0x02CC_5D05),
            (b"a", 0x550D_7456),
            (b"abc", 0x32D1_53FF),
            (text, 0xE229_3B2F),
        ] {
            assert_eq!(sum(&[bytes]), expected);
            for cut in 0..bytes.len() {
                let (head, tail) = bytes.split_at(cut);
                assert_eq!(sum(&[head, tail]), expected, "{cut}");
            }
        }
    }
}
