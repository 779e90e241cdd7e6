//! Every object key that is read or written, in one place.
//!
//! ```text
//! P/S/base/ID/backup.info
//! P/S/base/ID/data.tar[.gz…], data_0001.tar[.gz…], …
//! P/S/base/ID/<oid>.tar[.gz…], …
//! P/S/base/ID/annotations/keep
//! P/S/wals/<16 hex digits>/<segment>[.gz…]
//! P/S/wals/<timeline>.history[.gz…]
//! P/S/gaps/<first>-<last>-<unique>.gap
//! ```

use std::fmt;

use crate::key::{Key, Prefix};
use crate::wal::WalName;

/// The keys of one server below one path of a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Path and server, ending in `/`.
    root: Prefix,
    /// Roots under which the reference may have put annotations: it gives a path
    /// that ends in `/` a second one there.
    annotation_roots: Vec<Prefix>,
    /// Where the reference puts annotations if it is given the same URL.
    reference_root: Prefix,
}

/// A server name that cannot be part of a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLayout {
    /// It would replace the whole path.
    #[error("the server name `{0}` begins with a slash")]
    Absolute(String),
    /// It would leave the path.
    #[error("the server name `{0}` has a component `.` or `..`")]
    Dots(String),
    /// It is empty.
    #[error("the server name is empty")]
    Empty,
    /// No key can hold it.
    #[error("the server name or the path of the URL has a NUL byte")]
    Nul,
}

/// The id of a backup: the name of its directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackupId(String);

impl BackupId {
    /// Any text that is one component of a key.
    pub fn new(text: &str) -> Option<Self> {
        let plain = !text.is_empty() && !text.contains(['/', '\0']) && text != "." && text != "..";
        plain.then(|| Self(text.to_owned()))
    }

    /// The id of a backup that begins now: the local time, to the second and
    /// without a zone, because ids are compared as texts with those of other
    /// tools.
    pub fn from_local_time(now: &jiff::Zoned) -> Self {
        Self(now.strftime("%Y%m%dT%H%M%S").to_string())
    }

    /// Whether the text has the form of ids that tools give: `20261121T022133`.
    pub fn is_canonical(text: &str) -> bool {
        text.len() == 15
            && text.bytes().enumerate().all(|(i, b)| {
                if i == 8 {
                    b == b'T'
                } else {
                    b.is_ascii_digit()
                }
            })
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What an archive holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ArchiveBase {
    /// PGDATA.
    Data,
    /// The tablespace of this oid.
    Tablespace(u32),
}

impl ArchiveBase {
    /// The tablespace, if it is one.
    pub fn tablespace(self) -> Option<u32> {
        match self {
            Self::Data => None,
            Self::Tablespace(oid) => Some(oid),
        }
    }
}

impl fmt::Display for ArchiveBase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Data => f.write_str("data"),
            Self::Tablespace(oid) => write!(f, "{oid}"),
        }
    }
}

impl Layout {
    /// The keys of `server` below `path`, as the URL has it: leading slashes
    /// are gone, trailing ones may be there and are normalised to one.
    pub fn new(path: &str, server: &str) -> Result<Self, InvalidLayout> {
        if server.is_empty() {
            return Err(InvalidLayout::Empty);
        }
        if server.starts_with('/') {
            return Err(InvalidLayout::Absolute(server.to_owned()));
        }
        if server.split('/').any(|part| part == "." || part == "..") {
            return Err(InvalidLayout::Dots(server.to_owned()));
        }
        if server.contains('\0') || path.contains('\0') {
            return Err(InvalidLayout::Nul);
        }
        let trimmed = path.trim_end_matches('/');
        let root = place(path).subdir(server);
        // Whoever set a keep may have ended the URL with `/` where this one does
        // not, so the other place has to be looked at in any case.
        let mut annotation_roots = Vec::new();
        if !trimmed.is_empty() {
            annotation_roots.push(Prefix::dir(format!("{trimmed}//{server}")));
        }
        let as_joined = Prefix::dir(format!("{path}/{server}"));
        if path.ends_with('/') && !annotation_roots.contains(&as_joined) {
            annotation_roots.push(as_joined.clone());
        }
        let reference_root = if path.ends_with('/') && !trimmed.is_empty() {
            as_joined
        } else {
            root.clone()
        };
        Ok(Self {
            root,
            annotation_roots,
            reference_root,
        })
    }

    /// Directory of all base backups.
    pub fn base(&self) -> Prefix {
        self.root.subdir("base")
    }

    /// Directory of one base backup.
    pub fn backup_dir(&self, id: &BackupId) -> Prefix {
        self.base().subdir(id.as_str())
    }

    /// The record of a base backup.
    pub fn backup_info(&self, id: &BackupId) -> Key {
        key(&self.backup_dir(id), RECORD)
    }

    /// The label of a snapshot backup.
    pub fn backup_label(&self, id: &BackupId) -> Key {
        key(&self.backup_dir(id), LABEL)
    }

    /// An archive of a base backup: the first has part number 0. `suffix` is
    /// the codec's, with its dot.
    pub fn archive(&self, id: &BackupId, base: ArchiveBase, part: u32, suffix: &str) -> Key {
        let number = if part == 0 {
            String::new()
        } else {
            format!("_{part:04}")
        };
        key(&self.backup_dir(id), &format!("{base}{number}.tar{suffix}"))
    }

    /// The keep annotation of a base backup, and after it the places where the
    /// reference puts it if the URL ends in `/`.
    ///
    /// A backup is kept if any of them exists, and releasing it deletes all.
    /// Looking at one alone would let a retention policy delete a backup that
    /// was kept through the other spelling of its URL.
    pub fn keep(&self, id: &BackupId) -> Vec<Key> {
        let roots = std::iter::once(&self.root).chain(&self.annotation_roots);
        roots.map(|root| keep_below(root, id)).collect()
    }

    /// Where a new keep annotation goes: to its proper place, and to the one
    /// where the reference looks for it if it is given the same URL.
    pub fn keep_to_write(&self, id: &BackupId) -> Vec<Key> {
        let mut keys = vec![keep_below(&self.root, id)];
        if self.reference_root != self.root {
            keys.push(keep_below(&self.reference_root, id));
        }
        keys
    }

    /// Directories beside [`base`](Self::base) in which keep annotations may be.
    pub fn annotation_bases(&self) -> Vec<Prefix> {
        let bases = self.annotation_roots.iter().map(|root| root.subdir("base"));
        bases.collect()
    }

    /// The folder that the server's directory is in, with those of other servers, and
    /// its name there.
    pub fn parent(&self) -> (Prefix, &str) {
        let path = self.root.as_str().trim_end_matches('/');
        match path.rsplit_once('/') {
            Some((parent, name)) => (Prefix::dir(parent), name),
            None => (Prefix::text(""), path),
        }
    }

    /// The server's whole directory: base backups and WAL.
    pub fn root(&self) -> &Prefix {
        &self.root
    }

    /// The backup that a key below `base`, a directory of backups, belongs to,
    /// and what the key is within that backup's directory.
    pub fn within_backup<'k>(base: &Prefix, key: &'k Key) -> Option<(BackupId, &'k str)> {
        let (id, name) = key.strip_prefix(base)?.split_once('/')?;
        Some((BackupId::new(id)?, name))
    }

    /// Directory of all WAL.
    pub fn wals(&self) -> Prefix {
        self.root.subdir("wals")
    }

    /// Directory that holds a WAL file.
    pub fn wal_dir(&self, name: &WalName) -> Prefix {
        match name.directory() {
            Some(directory) => self.wals().subdir(&directory),
            None => self.wals(),
        }
    }

    /// A WAL file; `suffix` is the codec's, with its dot.
    pub fn wal(&self, name: &WalName, suffix: &str) -> Key {
        key(&self.wal_dir(name), &format!("{name}{suffix}"))
    }

    /// A WAL file under whatever suffix, and what else begins with its name.
    pub fn wal_in_any_form(&self, name: &WalName) -> Prefix {
        Prefix::text(key(&self.wal_dir(name), name.as_str()).as_str())
    }

    /// Directory of what is said of WAL that was let go: beside base backups and WAL,
    /// where none of the reference's tools looks.
    pub fn gaps(&self) -> Prefix {
        self.root.subdir("gaps")
    }

    /// What is said of WAL that was let go; `name` has no slash.
    pub fn gap(&self, name: &str) -> Key {
        key(&self.gaps(), name)
    }
}

/// The directory below which servers have theirs: the path of a URL.
pub fn place(path: &str) -> Prefix {
    Prefix::dir(path.trim_end_matches('/'))
}

/// The name of the server that may have `directory`, one directly below `place`; `None`
/// for what no server can be called.
pub fn server_of<'p>(place: &Prefix, directory: &'p Prefix) -> Option<&'p str> {
    let name = directory.as_str().strip_prefix(place.as_str())?;
    let name = name.strip_suffix('/')?;
    let plain = !name.contains('/') && Layout::new(place.as_str(), name).is_ok();
    plain.then_some(name)
}

/// Name of the record in the directory of a backup.
pub const RECORD: &str = "backup.info";

/// Name of the keep annotation in the directory of a backup.
pub const KEEP: &str = "annotations/keep";

/// Name of the label in the directory of a snapshot backup.
pub const LABEL: &str = "backup_label";

fn keep_below(root: &Prefix, id: &BackupId) -> Key {
    key(&root.subdir("base").subdir(id.as_str()), KEEP)
}

fn key(prefix: &Prefix, rest: &str) -> Key {
    prefix
        .key(rest)
        .expect("the parts were checked when they were made")
}

/// The archives of one base backup, as a listing found them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ArchiveSet {
    /// For PGDATA and each tablespace: its archives in the order of their
    /// numbers, each with the suffix of its codec.
    pub archives: Vec<(ArchiveBase, Vec<Archive>)>,
}

/// One archive in the bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    /// Its key.
    pub key: Key,
    /// Its size in the store, in bytes.
    pub size: u64,
    /// Its number, 0 for the first.
    pub part: u32,
    /// The suffix of its codec, with the dot; empty for none.
    pub suffix: String,
}

/// Why the archives of a backup cannot be restored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// There is no first archive.
    #[error("Missing file {dir}{base}.* for server {server}")]
    Missing {
        /// Directory of the backup.
        dir: Prefix,
        /// What the archive should hold.
        base: ArchiveBase,
        /// Name of the server.
        server: String,
    },
    /// A number between two others is missing.
    #[error("Missing file {dir}{base}_{part:04}.* for server {server}: the backup is incomplete")]
    Gap {
        /// Directory of the backup.
        dir: Prefix,
        /// What the archive should hold.
        base: ArchiveBase,
        /// The number that is missing.
        part: u32,
        /// Name of the server.
        server: String,
    },
    /// Two objects claim the same place.
    #[error(
        "both `{one}` and `{other}` are there: which of them belongs to the backup cannot be told"
    )]
    Twice {
        /// One of them.
        one: Key,
        /// The other.
        other: Key,
    },
    /// The archives of one base are compressed in different ways: some of them
    /// belong to another backup.
    #[error(
        "`{one}` and `{other}` are compressed differently: they cannot belong to the same backup"
    )]
    Mixed {
        /// One of them.
        one: Key,
        /// The other.
        other: Key,
    },
    /// An archive is of a form that is not known.
    #[error("the archive `{0}` has an unknown extension")]
    UnknownExtension(Key),
}

impl ArchiveSet {
    /// Sorts out the objects directly below `dir`, the directory of a backup, and says what is
    /// wrong with their names: of a whole backup nothing.
    ///
    /// `suffixes` are those of the codecs that may be met. Names are looked at
    /// all together before anything is restored: a gap in the numbers, an
    /// unknown extension, two archives for one place or several codecs in one
    /// sequence is an error, because what would be restored could not be whole.
    /// Objects that are no archives in any form (`data.txt`) are left alone.
    pub fn gather(
        dir: &Prefix,
        objects: impl IntoIterator<Item = (Key, u64)>,
        tablespaces: impl IntoIterator<Item = u32>,
        suffixes: &[&str],
        server: &str,
    ) -> (Self, Vec<ArchiveError>) {
        let bases = std::iter::once(ArchiveBase::Data)
            .chain(tablespaces.into_iter().map(ArchiveBase::Tablespace));
        let mut set = Self {
            archives: bases.map(|base| (base, Vec::new())).collect(),
        };
        let mut problems = Vec::new();
        for (key, size) in objects {
            let Some(name) = key.strip_prefix(dir) else {
                continue;
            };
            if let Some((base, part, codec)) = archive_name(name)
                && let Some((_, found)) = set.archives.iter_mut().find(|(b, _)| *b == base)
            {
                let Some(suffix) = suffixes.iter().find(|suffix| **suffix == codec) else {
                    problems.push(ArchiveError::UnknownExtension(key));
                    continue;
                };
                found.push(Archive {
                    suffix: (*suffix).to_owned(),
                    key,
                    size,
                    part,
                });
            }
        }
        for (base, found) in &mut set.archives {
            found.sort_by(|one, other| (one.part, &one.key).cmp(&(other.part, &other.key)));
            // A store may name an object on two pages.
            found.dedup_by(|one, other| one.key == other.key);
            for pair in found.windows(2) {
                let (one, other) = (pair[0].key.clone(), pair[1].key.clone());
                if pair[0].part == pair[1].part {
                    problems.push(ArchiveError::Twice { one, other });
                } else if pair[0].suffix != pair[1].suffix {
                    problems.push(ArchiveError::Mixed { one, other });
                }
            }
            let mut expected = 0;
            for archive in found.iter() {
                if archive.part > expected {
                    problems.push(missing(dir, *base, expected, server));
                }
                expected = archive.part.saturating_add(1);
            }
            if found.is_empty() {
                problems.push(missing(dir, *base, 0, server));
            }
        }
        (set, problems)
    }
}

/// The archives directly below `dir`, the directory of a backup, in the order in
/// which they are deleted: PGDATA, then the tablespaces by their oids, each by
/// the names of its parts.
///
/// What is no archive in any form is left out; the codec does not matter, so
/// that archives of a newer version go with their backup.
pub fn archives_to_delete<'k>(dir: &Prefix, keys: impl IntoIterator<Item = &'k Key>) -> Vec<Key> {
    let mut found: Vec<(ArchiveBase, bool, &Key)> = keys
        .into_iter()
        .filter_map(|key| {
            let (base, part, _) = archive_name(key.strip_prefix(dir)?)?;
            Some((base, part > 0, key))
        })
        .collect();
    found.sort();
    found.dedup();
    found.into_iter().map(|(_, _, key)| key.clone()).collect()
}

/// The suffix of the codec of an archive, by its name in the directory of a backup; `None`
/// for what is no archive in any form.
pub fn archive_suffix(name: &str) -> Option<&str> {
    archive_name(name).map(|(_, _, codec)| codec)
}

fn missing(dir: &Prefix, base: ArchiveBase, part: u32, server: &str) -> ArchiveError {
    let (dir, server) = (dir.clone(), server.to_owned());
    if part == 0 {
        ArchiveError::Missing { dir, base, server }
    } else {
        ArchiveError::Gap {
            dir,
            base,
            part,
            server,
        }
    }
}

/// What the name of an archive says: `data.tar`, `data_0001.tar.gz`,
/// `16384.tar`. The extension begins after the first dot; what follows `tar` in
/// it is the codec's.
fn archive_name(name: &str) -> Option<(ArchiveBase, u32, &str)> {
    let (stem, extension) = name.split_once('.')?;
    let codec = extension.strip_prefix("tar")?;
    let (base, part) = match stem.split_once('_') {
        Some((base, part)) => (base, part.parse().ok().filter(|part| *part > 0)?),
        None => (stem, 0),
    };
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let base = match base {
        "data" => ArchiveBase::Data,
        oid if digits(oid) => ArchiveBase::Tablespace(oid.parse().ok()?),
        _ => return None,
    };
    Some((base, part, codec))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> BackupId {
        BackupId::new("20261121T022133").unwrap()
    }

    #[test]
    fn keys_are_joined_as_the_reference_joins_them() {
        for (path, root) in [
            ("", "main/"),
            ("p/q", "p/q/main/"),
            ("p/q/", "p/q/main/"),
            ("p//", "p/main/"),
        ] {
            let layout = Layout::new(path, "main").unwrap();
            assert_eq!(
                layout.backup_info(&id()).as_str(),
                format!("{root}base/20261121T022133/backup.info")
            );
            let segment = "00000001000000000000000a".parse().unwrap();
            assert_eq!(
                layout.wal(&segment, ".gz").as_str(),
                format!("{root}wals/0000000100000000/00000001000000000000000a.gz")
            );
            let history = "00000002.history".parse().unwrap();
            assert_eq!(
                layout.wal(&history, "").as_str(),
                format!("{root}wals/00000002.history")
            );
        }
        let layout = Layout::new("", "a/b").unwrap();
        assert_eq!(
            layout.archive(&id(), ArchiveBase::Data, 0, "").as_str(),
            "a/b/base/20261121T022133/data.tar"
        );
        assert_eq!(
            layout
                .archive(&id(), ArchiveBase::Tablespace(16384), 12, ".zst")
                .as_str(),
            "a/b/base/20261121T022133/16384_0012.tar.zst"
        );
    }

    #[test]
    fn a_keep_is_looked_for_where_either_spelling_of_the_url_puts_it() {
        for (path, roots) in [
            ("", &["main"][..]),
            ("p", &["p/main", "p//main"]),
            ("p/", &["p/main", "p//main"]),
            ("p//", &["p/main", "p//main", "p///main"]),
        ] {
            let expected: Vec<String> = roots
                .iter()
                .map(|root| format!("{root}/base/20261121T022133/annotations/keep"))
                .collect();
            let keys = Layout::new(path, "main").unwrap().keep(&id());
            assert_eq!(
                keys.iter().map(Key::as_str).collect::<Vec<_>>(),
                expected,
                "{path}"
            );
        }
    }

    #[test]
    fn server_names_that_would_leave_the_path_are_refused() {
        for name in ["", "/main", "..", "a/../b", ".", "a\0b"] {
            assert!(Layout::new("p", name).is_err(), "{name:?}");
        }
    }

    fn set(names: &[&str]) -> Result<Vec<Vec<u32>>, ArchiveError> {
        let dir = Prefix::dir("main/base/ID");
        let objects = names.iter().map(|name| (dir.key(name).unwrap(), 1));
        let suffixes = ["", ".gz", ".zst"];
        let (set, problems) = ArchiveSet::gather(&dir, objects, [16384], &suffixes, "main");
        match problems.into_iter().next() {
            Some(problem) => Err(problem),
            None => Ok(set
                .archives
                .iter()
                .map(|(_, found)| found.iter().map(|a| a.part).collect())
                .collect()),
        }
    }

    #[test]
    fn archives_are_sorted_by_number_and_other_objects_left_alone() {
        let parts = set(&[
            "backup.info",
            "data_10000.tar.gz",
            "16384.tar",
            "99.tar",
            "data.tar.gz",
            "datax.tar",
            "data_x.tar",
            "notes",
        ]);
        assert!(
            matches!(parts, Err(ArchiveError::Gap { part: 1, .. })),
            "{parts:?}"
        );
        let names: Vec<String> = (0..12)
            .rev()
            .map(|n| {
                if n == 0 {
                    "data.tar".into()
                } else {
                    format!("data_{n:04}.tar")
                }
            })
            .chain(["16384.tar.zst".into()])
            .collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(set(&names).unwrap(), [(0..12).collect::<Vec<_>>(), vec![0]]);
    }

    #[test]
    fn notes_beside_the_archives_and_names_listed_twice_do_no_harm() {
        let names = [
            "data.tar",
            "data.txt",
            "data_0001.md",
            "data.tar",
            "16384.tar.zst",
        ];
        assert_eq!(set(&names).unwrap(), [[0], [0]]);
    }

    #[test]
    fn what_cannot_be_whole_is_an_error() {
        let text = |names: &[&str]| set(names).unwrap_err().to_string();
        assert_eq!(
            text(&["data.tar"]),
            "Missing file main/base/ID/16384.* for server main"
        );
        assert_eq!(
            text(&["16384.tar"]),
            "Missing file main/base/ID/data.* for server main"
        );
        assert_eq!(
            text(&["16384.tar", "data.tar", "data_0002.tar"]),
            "Missing file main/base/ID/data_0001.* for server main: the backup is incomplete"
        );
        assert!(text(&["16384.tar", "data.tar", "data.tar.gz"]).starts_with("both "));
        assert!(
            text(&["16384.tar", "data.tar", "data_0001.tar", "data_1.tar"]).starts_with("both ")
        );
        assert!(
            text(&["16384.tar", "data.tar", "data_0001.tar.gz"]).contains("compressed differently")
        );
        assert!(
            text(&["16384.tar", "data.tar", "data_0001.tar.foo"]).contains("unknown extension")
        );
    }

    #[test]
    fn every_gap_is_named_once() {
        let dir = Prefix::dir("d");
        let names = [
            "data_0002.tar",
            "data_0003.tar",
            "data_9999.tar",
            "7.foo",
            "7.tar.foo",
        ];
        let objects = names.iter().map(|name| (dir.key(name).unwrap(), 1));
        let (set, problems) = ArchiveSet::gather(&dir, objects, [7], &[""], "main");
        assert_eq!(
            set.archives[0].1.len(),
            3,
            "what is there is given all the same"
        );
        let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "the archive `d/7.tar.foo` has an unknown extension",
                "Missing file d/data.* for server main",
                "Missing file d/data_0004.* for server main: the backup is incomplete",
                "Missing file d/7.* for server main",
            ]
        );
    }

    #[test]
    fn ids_have_a_form() {
        assert!(BackupId::is_canonical("20261121T022133"));
        for text in [
            "",
            "20261121t022133",
            "20261121T02213",
            "20261121T0221333",
            "2026112äT02213",
        ] {
            assert!(!BackupId::is_canonical(text), "{text}");
        }
        for text in ["", "a/b", ".", "..", "a\0"] {
            assert!(BackupId::new(text).is_none(), "{text:?}");
        }
    }
}
