//! Where the text of a manifest waits for its end.
//!
//! In memory, and what is more than a megabyte in a file without a name, gone with
//! the process (docs/decisions.md 24). Where there can be no such file, or it takes no
//! more, memory it is after all: a backup does not fail for want of room for this.

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Seek, Take, Write};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

/// Bytes that wait in memory before they go to the file together: a cluster of some
/// ten thousand files has no more.
const IN_MEMORY: usize = 1 << 20;

/// `TMPFS_MAGIC`: a file there is memory too. Source: `linux/magic.h`.
const TMPFS: u64 = 0x0102_1994;

/// Text that is written once and read once.
#[derive(Debug)]
pub(super) struct Waiting {
    directory: Option<Box<Path>>,
    file: Option<File>,
    /// Bytes that are sure to be in the file.
    in_file: u64,
    /// What comes behind them.
    memory: Vec<u8>,
}

/// The text, to be read.
pub(super) type Text = BufReader<io::Chain<Take<Box<dyn ReadSend>>, Cursor<Vec<u8>>>>;

/// A reader that may go to another thread.
pub(super) trait ReadSend: Read + Send {}

impl<T: Read + Send> ReadSend for T {}

impl Waiting {
    /// No text yet, which may go to a file in `directory`.
    pub(super) fn new(directory: &Path) -> Self {
        Self {
            directory: Some(directory.into()),
            file: None,
            in_file: 0,
            memory: Vec::new(),
        }
    }

    /// Bytes in memory.
    pub(super) fn in_memory(&self) -> usize {
        self.memory.len()
    }

    /// The text from its beginning.
    pub(super) fn into_text(self) -> io::Result<Text> {
        let file: Box<dyn ReadSend> = match self.file {
            Some(mut file) => {
                file.rewind()?;
                Box::new(file)
            }
            None => Box::new(io::empty()),
        };
        let text = file.take(self.in_file).chain(Cursor::new(self.memory));
        Ok(BufReader::new(text))
    }

    /// Moves what is in memory to the file.
    fn spill(&mut self) -> io::Result<()> {
        let file = match (&mut self.file, &self.directory) {
            (Some(file), _) => file,
            (none, Some(directory)) => none.insert(nameless(directory)?),
            (None, None) => return Ok(()),
        };
        file.write_all(&self.memory)?;
        self.in_file += self.memory.len() as u64;
        self.memory.clear();
        Ok(())
    }
}

impl Write for Waiting {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.memory.extend_from_slice(buf);
        if self.memory.len() >= IN_MEMORY && self.directory.is_some() && self.spill().is_err() {
            // What the file took in part is not counted.
            self.directory = None;
        }
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file without a name, on a disk.
fn nameless(directory: &Path) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR)?;
    // Its type differs between processors.
    let kind = rustix::fs::fstatfs(&file)?.f_type;
    if u64::try_from(kind).is_ok_and(|kind| kind == TMPFS) {
        return Err(io::Error::other("it would be in memory"));
    }
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that are nowhere alike.
    fn text(length: usize) -> Vec<u8> {
        let numbers = (0..length.div_ceil(8) as u64).flat_map(u64::to_le_bytes);
        numbers.take(length).collect()
    }

    fn wait(mut waiting: Waiting, text: &[u8]) -> Waiting {
        for piece in text.chunks(100_000) {
            waiting.write_all(piece).expect("it is taken");
        }
        waiting
    }

    fn read(waiting: Waiting) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut text = waiting.into_text().expect("a text");
        text.read_to_end(&mut bytes).expect("it is read");
        bytes
    }

    #[test]
    fn much_text_waits_in_a_file_and_little_in_memory() {
        let directory = tempfile::tempdir().expect("a directory");
        for length in [0, 10, IN_MEMORY - 1, 3 * IN_MEMORY + 12_345] {
            let text = text(length);
            let waiting = wait(Waiting::new(directory.path()), &text);
            assert!(waiting.in_memory() < IN_MEMORY, "{length}");
            // A directory in memory has no use.
            let on_disk = nameless(directory.path()).is_ok() && length >= IN_MEMORY;
            assert_eq!(waiting.in_file > 0, on_disk, "{length}");
            assert!(read(waiting) == text, "{length}");
        }
        let mut names = directory.path().read_dir().expect("a directory");
        assert!(names.next().is_none(), "it has no name");
    }

    #[test]
    fn without_a_file_memory_takes_all() {
        let text = text(2 * IN_MEMORY);
        let waiting = wait(Waiting::new(Path::new("/nowhere/at/all")), &text);
        assert_eq!(waiting.in_file, 0);
        assert!(read(waiting) == text);
    }

    #[test]
    fn a_file_that_takes_no_more_keeps_what_it_has() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file");
        std::fs::write(&path, text(1000)).expect("a file");
        let text = text(1000 + 2 * IN_MEMORY);
        let waiting = Waiting {
            directory: Some(directory.path().into()),
            // Only for reading: every write fails.
            file: Some(File::open(&path).expect("it is there")),
            in_file: 1000,
            memory: Vec::new(),
        };
        let waiting = wait(waiting, &text[1000..]);
        assert_eq!(waiting.in_file, 1000);
        assert!(read(waiting) == text);
    }
}
