//! Which archive has each name of a target, and what was restored under it.
//!
//! Archives of one directory are unpacked side by side. Where several have one name, the
//! file of the later archive stays, whichever is unpacked first: a name is taken for
//! an archive while its file is made, and a file of an earlier archive is not made any more.
//!
//! A name costs 16 bytes and an eighth more, since there may be millions. It is known by a
//! salted hash: two names with one hash would only hide that a file is missing, once in
//! 2^40 restores of a million files.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};

/// Parts with a lock each: a file is made under the lock of its name. So many that one is
/// short, and moving half of it for a name more costs little: 2 KB of a million names.
const SHARDS: usize = 4096;

/// Greatest number of an archive. Beyond it, the last one that is unpacked stays.
const LAST: u32 = (1 << 20) - 1;

/// The names of one target.
#[derive(Debug)]
pub struct Names {
    salt: AtomicU64,
    shards: Vec<Mutex<Shard>>,
}

/// Some of the names, sorted by their hashes. A tree would take twice as much.
#[derive(Debug, Default)]
struct Shard(Vec<(u64, Known)>);

impl Shard {
    fn place(&self, which: u64) -> Result<usize, usize> {
        self.0.binary_search_by_key(&which, |(which, _)| *which)
    }

    fn get(&self, which: u64) -> Option<Known> {
        Some(self.0[self.place(which).ok()?].1)
    }

    /// What is known of a name, after `first` was noted of one that is new.
    fn get_or_insert(&mut self, which: u64, first: Known) -> &mut Known {
        let place = self.place(which).unwrap_or_else(|place| {
            if self.0.len() == self.0.capacity() {
                // Twice as much would be for names that may never come.
                self.0.reserve_exact((self.0.len() / 8).max(4));
            }
            self.0.insert(place, (which, first));
            place
        });
        &mut self.0[place].1
    }

    fn insert(&mut self, which: u64, known: Known) {
        *self.get_or_insert(which, known) = known;
    }

    fn remove(&mut self, which: u64) {
        if let Ok(place) = self.place(which) {
            self.0.remove(place);
        }
    }

    fn files(&self) -> impl Iterator<Item = Known> + '_ {
        let all = self.0.iter().map(|(_, known)| *known);
        all.filter(|known| known.is_file())
    }
}

/// What is known of a name, in 64 bits: 20 of the archive, one that says whether it is a file
/// whose content is known, 11 of its size and 32 of its checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known(u64);

const FILE: u64 = 1 << 43;

impl Known {
    fn of_archive(number: u32) -> Self {
        Self(u64::from(number.min(LAST)) << 44)
    }

    fn with_file(self, size: u64, crc: u32) -> Self {
        // A prime below 2^11: sizes of relations are multiples of a block.
        Self(self.0 & !(FILE - 1) | FILE | (size % 2039) << 32 | u64::from(crc))
    }

    /// Number of the archive that has it, at most 2^20 − 1.
    pub fn archive(self) -> u32 {
        u32::try_from(self.0 >> 44).unwrap_or(LAST)
    }

    /// Whether it is a file whose content is known.
    pub fn is_file(self) -> bool {
        self.0 & FILE != 0
    }

    /// Whether it is a file of this size, in bytes, and with this CRC-32C.
    pub fn is(self, size: u64, crc: u32) -> bool {
        Self::of_archive(self.archive()).with_file(size, crc) == self
    }
}

impl Names {
    /// No names yet. The salt makes that nobody can choose two names of one hash.
    #[expect(clippy::new_without_default, reason = "no two of them are the same")]
    pub fn new() -> Self {
        Self {
            salt: AtomicU64::new(fastrand::u64(..)),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
        }
    }

    /// The salt of an earlier restore, whose names are recalled. Before the first name.
    pub fn set_salt(&self, salt: u64) {
        self.salt.store(salt, Ordering::Relaxed);
    }

    fn which(&self, name: &[u8]) -> u64 {
        let salt = self.salt.load(Ordering::Relaxed).to_le_bytes();
        let digest = Sha256::new().chain_update(salt).chain_update(name);
        let digest = digest.finalize();
        u64::from_le_bytes(digest[..8].try_into().expect("a digest has 32 bytes"))
    }

    /// Whether two names have one lock.
    #[cfg(test)]
    pub(super) fn share_a_lock(&self, one: &[u8], other: &[u8]) -> bool {
        let shard = |name| self.which(name) % SHARDS as u64;
        shard(one) == shard(other)
    }

    fn shard(&self, which: u64) -> MutexGuard<'_, Shard> {
        let shard = usize::try_from(which % SHARDS as u64).unwrap_or(0);
        lock(&self.shards[shard])
    }

    /// Makes something under `name` for the archive with this number; `None`, and nothing is made,
    /// if a later archive has the name. `make` is told whether no archive had it before.
    pub fn take<T, E>(
        &self,
        name: &[u8],
        archive: u32,
        make: impl FnOnce(bool) -> Result<T, E>,
    ) -> Result<Option<T>, E> {
        let which = self.which(name);
        let mut shard = self.shard(which);
        let mine = Known::of_archive(archive);
        let known = shard.get(which);
        if known.is_some_and(|known| known.archive() > mine.archive()) {
            return Ok(None);
        }
        let made = make(known.is_none())?;
        shard.insert(which, mine);
        Ok(Some(made))
    }

    /// The content of a file is known, unless the name was taken for a later archive meanwhile.
    pub fn fill(&self, name: &[u8], archive: u32, size: u64, crc: u32) {
        let which = self.which(name);
        let mine = Known::of_archive(archive);
        let mut shard = self.shard(which);
        let known = shard.get_or_insert(which, mine);
        if known.archive() <= mine.archive() {
            *known = mine.with_file(size, crc);
        }
    }

    /// What is known of a name that this archive has now; `None` if it is another's.
    pub fn of_archive(&self, name: &[u8], archive: u32) -> Option<Known> {
        let which = self.which(name);
        let known = self.shard(which).get(which);
        known.filter(|known| known.archive() == archive.min(LAST))
    }

    /// Gives a name what is known of another one of the same archive.
    pub fn copy(&self, name: &[u8], known: Known) {
        let which = self.which(name);
        self.shard(which).insert(which, known);
    }

    /// Tells all names of an archive, as numbers for [`recall`](Self::recall).
    pub(super) fn of(
        &self,
        archive: u32,
        mut tell: impl FnMut(u64, u64) -> io::Result<()>,
    ) -> io::Result<()> {
        for shard in &self.shards {
            for (which, known) in &lock(shard).0 {
                if known.archive() == archive.min(LAST) {
                    tell(*which, known.0 & (2 * FILE - 1))?;
                }
            }
        }
        Ok(())
    }

    /// Takes up what an earlier restore knew of a name.
    pub(super) fn recall(&self, archive: u32, which: u64, what: u64) {
        let known = Known(Known::of_archive(archive).0 | what & (2 * FILE - 1));
        let mut shard = self.shard(which);
        let other = shard.get_or_insert(which, known);
        if other.archive() <= known.archive() {
            *other = known;
        }
    }

    /// Whether something was restored under this name that is no directory.
    pub fn has(&self, name: &[u8]) -> bool {
        let which = self.which(name);
        self.shard(which).get(which).is_some()
    }

    /// Whether a file with known content was restored under this name.
    pub fn has_file(&self, name: &[u8]) -> bool {
        let which = self.which(name);
        let known = self.shard(which).get(which);
        known.is_some_and(Known::is_file)
    }

    /// Takes a file's name out, with what is known of it.
    pub fn remove_file(&self, name: &[u8]) -> Option<Known> {
        let which = self.which(name);
        let mut shard = self.shard(which);
        let known = shard.get(which).filter(|known| known.is_file())?;
        shard.remove(which);
        Some(known)
    }

    /// The archives that have files here, each with their number.
    pub fn files_of_archives(&self) -> BTreeMap<u32, usize> {
        let mut counts = BTreeMap::new();
        for shard in &self.shards {
            for known in lock(shard).files() {
                *counts.entry(known.archive()).or_default() += 1;
            }
        }
        counts
    }

    /// How many files there are.
    pub fn files(&self) -> usize {
        let count = |shard: &Mutex<Shard>| lock(shard).files().count();
        self.shards.iter().map(count).sum()
    }
}

/// Every change under a lock is a single one.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(names: &Names, name: &[u8], archive: u32) -> bool {
        names.take(name, archive, |_| Ok::<(), ()>(())) == Ok(Some(()))
    }

    #[test]
    fn the_last_archive_keeps_a_name_in_whatever_order_they_come() {
        let names = Names::new();
        assert!(take(&names, b"a", 2));
        assert!(!take(&names, b"a", 1));
        names.fill(b"a", 1, 10, 7);
        assert!(!names.has_file(b"a"), "what the loser knows is of no use");
        assert!(take(&names, b"a", 2), "a later member of the same archive");
        names.fill(b"a", 2, 10, 7);
        assert!(take(&names, b"a", 3));
        assert!(names.of_archive(b"a", 2).is_none() && names.of_archive(b"a", 3).is_some());
        assert!(take(&names, b"b", u32::MAX) && take(&names, b"b", LAST));
        assert_eq!(names.take(b"a", 4, Err::<(), _>), Err(false));
        assert_eq!(names.take(b"z", 4, Err::<(), _>), Err(true));
        assert!(names.of_archive(b"a", 3).is_some(), "it was not taken");
    }

    #[test]
    fn size_and_checksum_are_remembered() {
        let names = Names::new();
        names.fill(b"a", 0, 8192, 0xffff_ffff);
        names.fill(b"a", 5, 16384, 0x1234);
        names.fill(b"b", 5, 0, 0);
        assert_eq!(names.files(), 2);
        assert_eq!(names.files_of_archives(), BTreeMap::from([(5, 2)]));
        let known = names.of_archive(b"a", 5).unwrap();
        for (size, crc, expected) in [
            (16384, 0x1234, true),
            (16384, 0x1235, false),
            (8192, 0x1234, false),
            (0, 0, false),
        ] {
            assert_eq!(known.is(size, crc), expected, "{size} {crc}");
        }
        names.copy(b"c", known);
        assert!(names.remove_file(b"c").is_some() && !names.has(b"c"));
        assert!(names.remove_file(b"c").is_none());
        assert!(
            take(&names, b"a", 5),
            "made anew, its content is not known yet"
        );
        assert!(names.has(b"a") && !names.has_file(b"a"));
    }

    #[test]
    fn names_of_an_archive_are_recalled_under_another_number() {
        let (names, again) = (Names::new(), Names::new());
        again.set_salt(names.salt.load(Ordering::Relaxed));
        names.fill(b"a", 3, 8192, 77);
        assert!(take(&names, b"link", 3) && take(&names, b"other", 2));
        again.fill(b"a", 0, 1, 1);
        let told = names.of(3, |which, what| {
            again.recall(1, which, what);
            Ok(())
        });
        told.unwrap();
        assert!(again.of_archive(b"a", 1).unwrap().is(8192, 77));
        assert!(again.has(b"link") && !again.has_file(b"link") && !again.has(b"other"));
        assert!(!take(&again, b"link", 0) && take(&again, b"link", 1));
    }

    /// The bound of memory for a restore of a million files counts on it.
    #[test]
    fn a_name_takes_little_more_than_sixteen_bytes() {
        const NAMES: u32 = 400_000;
        let names = Names::new();
        for number in 0..NAMES {
            names.fill(&number.to_le_bytes(), 0, 0, number);
        }
        let all = names.shards.iter().map(lock);
        let bytes: usize = all.map(|shard| 16 * shard.0.capacity()).sum();
        assert!(bytes < 18 * NAMES as usize, "{bytes}");
        assert_eq!(names.files(), NAMES as usize);
        for number in 0..NAMES {
            let known = names.remove_file(&number.to_le_bytes());
            assert!(known.is_some_and(|known| known.is(0, number)), "{number}");
        }
        assert_eq!(names.files(), 0);
    }
}
