//! The names in a directory, packed.
//!
//! A database with many tables has all its files in one directory. A name takes its
//! own length and five bytes here; as a vector of its own it would take some sixty.

use std::io;

/// Names, and where one is on the way through them.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Each with a NUL behind it, which no name contains.
    text: Vec<u8>,
    /// Where the names of files begin, and then those of directories.
    begins: Vec<u32>,
    directories: Vec<u32>,
    next: usize,
}

impl Names {
    /// Adds a name.
    ///
    /// # Errors
    ///
    /// If all names together have more than 4 GiB.
    pub(super) fn add(&mut self, name: &[u8], is_directory: bool) -> io::Result<()> {
        let begin = u32::try_from(self.text.len())
            .map_err(|_| io::Error::other("the names in it have more than 4 GiB"))?;
        self.text.extend_from_slice(name);
        self.text.push(0);
        if is_directory {
            self.directories.push(begin);
        } else {
            self.begins.push(begin);
        }
        Ok(())
    }

    /// Puts the names of files before those of directories, both sorted.
    pub(super) fn sort(&mut self) {
        let text = &self.text;
        // Up to the NUL behind the shorter one, which comes before every other byte.
        let name = |begin: &u32| &text[*begin as usize..];
        self.begins.sort_unstable_by(|a, b| name(a).cmp(name(b)));
        self.directories
            .sort_unstable_by(|a, b| name(a).cmp(name(b)));
        self.begins.append(&mut self.directories);
        self.begins.shrink_to_fit();
        self.text.shrink_to_fit();
    }

    /// The next name.
    pub(super) fn next(&mut self) -> Option<&[u8]> {
        let begin = *self.begins.get(self.next)?;
        self.next += 1;
        Some(self.name(begin))
    }

    /// The names that are still to come.
    pub(super) fn left(&self) -> impl Iterator<Item = &[u8]> {
        let left = self.begins.get(self.next..).unwrap_or_default();
        left.iter().map(|begin| self.name(*begin))
    }

    fn name(&self, begin: u32) -> &[u8] {
        let rest = &self.text[begin as usize..];
        let end = rest.iter().position(|byte| *byte == 0);
        &rest[..end.unwrap_or(rest.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(names.left().collect::<Vec<_>>(), sorted);
        assert_eq!(names.next(), Some(&b"a"[..]));
        assert_eq!(names.left().count(), 6);
        for name in &sorted[1..] {
            assert_eq!(names.next(), Some(*name));
        }
        assert_eq!(names.next(), None);
        assert_eq!(names.left().count(), 0);
    }

    /// The bound of memory for a million files in one directory counts on it.
    #[test]
    fn a_name_takes_its_length_and_five_bytes() {
        let mut names = Names::default();
        for number in 0..10_000 {
            let name = format!("{}", 10_000 + number);
            names.add(name.as_bytes(), false).expect("room");
        }
        names.sort();
        let bytes = names.text.capacity() + 4 * names.begins.capacity();
        assert_eq!(bytes, 10_000 * (5 + 5));
    }
}
