//! A directory tree as a value, to compare what went in with what came out.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::{fmt, fs};

use crate::digest::sha256_of_file;

/// What lies under one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file: its size in bytes and the SHA-256 of its content.
    File(u64, String),
    /// A directory.
    Directory,
    /// A symbolic link and where it points.
    Symlink(OsString),
    /// A named pipe.
    Fifo,
    /// A socket or a device.
    Other,
}

/// One name of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Permission bits; 0 for links, whose mode says nothing.
    pub mode: u32,
    /// Time of last change of content in nanoseconds since 1970; 0 for
    /// directories and links, whose time changes with what is done around them.
    pub mtime_ns: i128,
    /// The other names of the same file within the tree, in order.
    pub hard_links: Vec<PathBuf>,
}

/// All names below a directory, relative to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree(pub BTreeMap<PathBuf, Entry>);

impl Tree {
    /// Reads everything below `root`, not following links.
    pub fn of(root: &Path) -> Self {
        let mut entries = BTreeMap::new();
        let mut names_of: BTreeMap<(u64, u64), Vec<PathBuf>> = BTreeMap::new();
        collect(root, Path::new(""), &mut entries, &mut names_of);
        for names in names_of.values().filter(|names| names.len() > 1) {
            for name in names {
                let others = names.iter().filter(|other| *other != name);
                entries
                    .get_mut(name)
                    .expect("every name of a file is an entry")
                    .hard_links = others.cloned().collect();
            }
        }
        Self(entries)
    }

    /// The tree without the names that `drop` chooses.
    #[must_use]
    pub fn without(mut self, drop: impl Fn(&Path) -> bool) -> Self {
        self.0.retain(|name, _| !drop(name));
        self
    }

    /// Asserts that both are the same and says what differs.
    ///
    /// # Panics
    ///
    /// If they differ, with a line for each name that does.
    pub fn assert_same(&self, other: &Self, what: &str) {
        let mut difference = String::new();
        for name in self.0.keys().chain(other.0.keys()) {
            let (left, right) = (self.0.get(name), other.0.get(name));
            let line = match (left, right) {
                (Some(left), Some(right)) if left != right => {
                    format!("  {}: {left} became {right}\n", Name(name))
                }
                (Some(left), None) => format!("  {}: {left} is missing\n", Name(name)),
                (None, Some(right)) => format!("  {}: {right} is new\n", Name(name)),
                _ => continue,
            };
            if !difference.contains(&line) {
                difference.push_str(&line);
            }
        }
        assert!(difference.is_empty(), "{what}:\n{difference}");
    }
}

fn collect(
    root: &Path,
    below: &Path,
    entries: &mut BTreeMap<PathBuf, Entry>,
    names_of: &mut BTreeMap<(u64, u64), Vec<PathBuf>>,
) {
    let dir = root.join(below);
    let listing =
        fs::read_dir(&dir).unwrap_or_else(|error| panic!("could not list {dir:?}: {error}"));
    for item in listing {
        let item = item.expect("a directory that nobody changes can be listed");
        let name = below.join(item.file_name());
        let path = root.join(&name);
        let metadata = fs::symlink_metadata(&path).expect("nobody changes the tree");
        let kind = metadata.file_type();
        let mut entry = Entry {
            kind: Kind::Other,
            mode: metadata.mode() & 0o7777,
            mtime_ns: i128::from(metadata.mtime()) * 1_000_000_000
                + i128::from(metadata.mtime_nsec()),
            hard_links: Vec::new(),
        };
        if kind.is_symlink() {
            let target = fs::read_link(&path).expect("a link can be read");
            entry.kind = Kind::Symlink(target.into_os_string());
            (entry.mode, entry.mtime_ns) = (0, 0);
        } else if kind.is_dir() {
            entry.kind = Kind::Directory;
            entry.mtime_ns = 0;
            collect(root, &name, entries, names_of);
        } else if kind.is_fifo() {
            entry.kind = Kind::Fifo;
        } else if kind.is_file() {
            entry.kind = Kind::File(metadata.len(), sha256_of_file(&path));
            let identity = (metadata.dev(), metadata.ino());
            names_of.entry(identity).or_default().push(name.clone());
        }
        entries.insert(name, entry);
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::File(size, hash) => write!(f, "file of {size} bytes, {}", &hash[..12])?,
            Kind::Symlink(target) => return write!(f, "link to {}", Name(Path::new(target))),
            other => write!(f, "{other:?}")?,
        }
        write!(f, ", mode {:o}, mtime {}", self.mode, self.mtime_ns)?;
        if !self.hard_links.is_empty() {
            write!(f, ", also {:?}", self.hard_links)?;
        }
        Ok(())
    }
}

/// A name with everything escaped that is not plain text.
struct Name<'a>(&'a Path);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.as_os_str().as_bytes().escape_ascii())
    }
}
