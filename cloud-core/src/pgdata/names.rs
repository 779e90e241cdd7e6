//! The names in a directory, packed.
//!
//! A database with many tables has all its files in one directory. As a vector of its own a
//! name would take some sixty bytes. Here names are sorted some thousand at a time, each is
//! kept as what distinguishes it from the one before, and the lot are merged on the way
//! through them: numbers like PostgreSQL's then take four bytes or five.

use std::io;

/// Bytes of names, with four more for each, that wait to be sorted.
const LOT: usize = 512 << 10;

/// Names, and where one is on the way through them.
#[derive(Debug, Default, Clone)]
pub(super) struct Names {
    files: Sorted,
    directories: Sorted,
    /// The one that was asked for last.
    name: Vec<u8>,
}

impl Names {
    /// Adds a name.
    ///
    /// # Errors
    ///
    /// If it is longer than a name can be in any file system.
    pub(super) fn add(&mut self, name: &[u8], is_directory: bool) -> io::Result<()> {
        if is_directory {
            self.directories.add(name)
        } else {
            self.files.add(name)
        }
    }

    /// To be called when there are no more.
    pub(super) fn sort(&mut self) {
        self.files.end();
        self.directories.end();
    }

    /// The next name: those of files before those of directories, both in the order of their
    /// bytes.
    pub(super) fn next(&mut self) -> Option<&[u8]> {
        let found = self.files.next(&mut self.name) || self.directories.next(&mut self.name);
        found.then_some(&self.name)
    }
}

/// Names of one kind.
#[derive(Debug, Default, Clone)]
struct Sorted {
    waiting: Waiting,
    runs: Vec<Run>,
}

impl Sorted {
    fn add(&mut self, name: &[u8]) -> io::Result<()> {
        if u16::try_from(name.len()).is_err() {
            return Err(io::Error::other("a name in it has more than 64 KiB"));
        }
        self.waiting.add(name);
        if self.waiting.bytes() >= LOT {
            self.runs.push(self.waiting.sorted());
        }
        Ok(())
    }

    fn end(&mut self) {
        if !self.waiting.begins.is_empty() {
            self.runs.push(self.waiting.sorted());
        }
        self.waiting = Waiting::default();
        // The last one is next.
        self.runs.sort_by(|a, b| b.name.cmp(&a.name));
    }

    /// Puts the next one there; `false` if there is none.
    fn next(&mut self, name: &mut Vec<u8>) -> bool {
        let Some(mut run) = self.runs.pop() else {
            return false;
        };
        name.clone_from(&run.name);
        if run.advance() {
            let place = self.runs.partition_point(|other| other.name > run.name);
            self.runs.insert(place, run);
        }
        true
    }
}

/// Names that were not sorted yet.
#[derive(Debug, Default, Clone)]
struct Waiting {
    /// One behind the other.
    text: Vec<u8>,
    /// Where each begins.
    begins: Vec<u32>,
}

impl Waiting {
    fn add(&mut self, name: &[u8]) {
        // Far less than 4 GiB are there.
        self.begins
            .push(u32::try_from(self.text.len()).unwrap_or(u32::MAX));
        self.text.extend_from_slice(name);
        self.text.push(0);
    }

    fn bytes(&self) -> usize {
        self.text.len() + size_of::<u32>() * self.begins.len()
    }

    /// Makes a run of all of them.
    fn sorted(&mut self) -> Run {
        let text = &self.text;
        // Up to the NUL behind each, which no name contains and which comes before every
        // other byte.
        let name = |begin: &u32| {
            let rest = &text[*begin as usize..];
            let end = rest.iter().position(|byte| *byte == 0);
            &rest[..end.unwrap_or(rest.len())]
        };
        self.begins.sort_unstable_by(|a, b| name(a).cmp(name(b)));
        let mut run = Run::default();
        let mut before: &[u8] = b"";
        for begin in &self.begins {
            let name = name(begin);
            let alike = before.iter().zip(name).take_while(|(a, b)| a == b).count();
            run.put(alike);
            run.put(name.len() - alike);
            run.packed.extend_from_slice(&name[alike..]);
            before = name;
        }
        run.packed.shrink_to_fit();
        run.advance();
        self.text.clear();
        self.begins.clear();
        run
    }
}

/// Names in their order, and the next one of them.
#[derive(Debug, Default, Clone)]
struct Run {
    /// For each, how many bytes it shares with the one before, how many others it has, and
    /// these.
    packed: Vec<u8>,
    /// Behind `name` in them.
    at: usize,
    name: Vec<u8>,
}

impl Run {
    /// Adds a number below 65,536: a byte, or two more behind the highest.
    fn put(&mut self, number: usize) {
        match u8::try_from(number) {
            Ok(byte) if byte < u8::MAX => self.packed.push(byte),
            _ => {
                let bytes = u16::try_from(number).unwrap_or(u16::MAX).to_le_bytes();
                self.packed
                    .extend_from_slice(&[u8::MAX, bytes[0], bytes[1]]);
            }
        }
    }

    fn take(&mut self, count: usize) -> Option<&[u8]> {
        let bytes = self.packed.get(self.at..self.at + count)?;
        self.at += count;
        Some(bytes)
    }

    fn number(&mut self) -> Option<usize> {
        match self.take(1)? {
            [u8::MAX] => match self.take(2)? {
                [low, high] => Some(u16::from_le_bytes([*low, *high]).into()),
                _ => None,
            },
            [byte] => Some((*byte).into()),
            _ => None,
        }
    }

    /// Goes to the next name; `false` if there is none.
    fn advance(&mut self) -> bool {
        let (Some(alike), Some(others)) = (self.number(), self.number()) else {
            return false;
        };
        let mut name = std::mem::take(&mut self.name);
        name.truncate(alike);
        name.extend_from_slice(self.take(others).unwrap_or_default());
        self.name = name;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn all(names: &mut Names) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| names.next().map(<[u8]>::to_vec)).collect()
    }

    #[test]
    fn files_come_before_directories_and_both_are_sorted_by_bytes() {
        let mut names = Names::default();
        for (name, is_directory) in [
            (&b"b"[..], false),
            (b"a", true),
            (b"ab", false),
            (b"\xff", false),
            (b"a\x01", false),
            (b"A", true),
            (b"a", false),
        ] {
            names.add(name, is_directory).expect("room");
        }
        names.sort();
        let sorted: [&[u8]; 7] = [b"a", b"a\x01", b"ab", b"b", b"\xff", b"A", b"a"];
        assert_eq!(all(&mut names.clone()), sorted);
        assert_eq!(all(&mut names), sorted);
        assert_eq!(names.next(), None);
    }

    /// The bound of memory for a million files in one directory counts on it.
    #[test]
    fn a_name_of_many_takes_less_than_its_length() {
        let mut names = Names::default();
        let mut numbers: Vec<u32> = (100_000..600_000).collect();
        fastrand::Rng::with_seed(1).shuffle(&mut numbers);
        let mut most = 0;
        for number in &numbers {
            names
                .add(number.to_string().as_bytes(), false)
                .expect("room");
            let waiting = &names.files.waiting;
            most = most.max(waiting.text.capacity() + 4 * waiting.begins.capacity());
        }
        names.sort();
        let packed = names.files.runs.iter().map(|run| run.packed.capacity());
        let packed: usize = packed.sum();
        assert!(packed < 5 * numbers.len(), "{packed} bytes");
        assert!(most <= 2 * LOT, "{most} bytes");
        numbers.sort_unstable();
        let sorted = numbers.iter().map(|number| number.to_string().into_bytes());
        assert!(all(&mut names).into_iter().eq(sorted));
    }

    proptest! {
        #[test]
        fn names_of_any_length_are_what_they_were(
            alike in 0..3_usize,
            some in prop::collection::btree_set(prop::collection::vec(1..=255_u8, 1..600), 1..30),
        ) {
            let some: BTreeSet<_> = some.into_iter()
                .map(|name| [vec![b'x'; [0, 254, 300][alike]], name].concat())
                .collect();
            let mut names = Names::default();
            for (number, name) in some.iter().enumerate() {
                names.add(name, false).expect("room");
                if number % 7 == 6 {
                    // As if there were very many.
                    let run = names.files.waiting.sorted();
                    names.files.runs.push(run);
                }
            }
            names.sort();
            prop_assert!(all(&mut names).into_iter().eq(some));
        }
    }
}
