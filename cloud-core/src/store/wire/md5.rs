//! Bytes that came without a checksum of their own, compared with the MD5 that
//! the store tells of their object.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use md5::{Digest, Md5};

use super::{Flag, Judge};

/// An MD5.
type Sum = [u8; 16];

/// Compares what is read with the MD5 that may be told of it: an `ETag`, or
/// what somebody wrote beside the object.
///
/// A store that makes those of something else must not become one that nothing
/// can be read from. So the first bytes that do not fit are refused, and when the
/// same ones come again they are what the store has.
#[derive(Debug, Default)]
pub(in crate::store) struct Md5Judge {
    /// Something told was the MD5.
    are_md5: Flag,
    /// The same bytes came twice, and their MD5 was another one.
    are_not: Flag,
    /// MD5 of what came and did not fit, by what was told.
    refused: Mutex<BTreeMap<Sum, Sum>>,
}

impl Md5Judge {
    /// Who compares a body with the MD5 that is told of it, if that is worth it.
    pub(in crate::store) fn of(self: &Arc<Self>, told: Sum) -> Option<Box<dyn Judge>> {
        if self.are_not.is_set() {
            return None;
        }
        Some(Box::new(Summed {
            told,
            md5: Md5::new(),
            judge: Arc::clone(self),
        }))
    }

    fn contradicts(&self, told: Sum, found: Sum) -> Option<String> {
        if found == told {
            self.are_md5.set();
            return None;
        }
        let why = format!(
            "its MD5 is {}, bytes with {} came",
            printed(told),
            printed(found)
        );
        if self.are_md5.is_set() {
            return Some(why);
        }
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.get(&told) == Some(&found) {
            self.are_not.set();
        } else {
            refused.insert(told, found);
        }
        (!self.are_not.is_set()).then_some(why)
    }
}

/// A body on its way, and the MD5 that it should have.
struct Summed {
    told: Sum,
    md5: Md5,
    judge: Arc<Md5Judge>,
}

impl Judge for Summed {
    fn piece(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
    }

    fn verdict(self: Box<Self>) -> Option<String> {
        self.judge
            .contradicts(self.told, self.md5.finalize().into())
    }
}

fn printed(sum: Sum) -> String {
    format!("{:032x}", u128::from_be_bytes(sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_do_not_fit_are_refused_until_they_come_again() {
        let right = Md5::digest(b"123456789").into();
        let odd = [0; 16];
        let came = |judge: &Arc<Md5Judge>, told: Sum, bytes: &[u8]| {
            let mut summed = judge.of(told)?;
            summed.piece(&bytes[..1]);
            summed.piece(&bytes[1..]);
            summed.verdict()
        };
        let judge = Arc::new(Md5Judge::default());
        let why = came(&judge, right, b"023456789").unwrap();
        assert!(why.contains("25f9e794323b453885f5181f1b624d0b"), "{why}");
        assert!(came(&judge, right, b"123456780").is_some(), "others");
        assert!(came(&judge, right, b"123456789").is_none());
        // Now they are known to be what they look like.
        assert!(came(&judge, odd, b"1").is_some());
        assert!(came(&judge, odd, b"1").is_some());

        let judge = Arc::new(Md5Judge::default());
        assert!(came(&judge, odd, b"1").is_some());
        assert!(came(&judge, odd, b"1").is_none(), "this is what it has");
        assert!(judge.of(right).is_none(), "they mean nothing here");
    }
}
