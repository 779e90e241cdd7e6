//! Which files PostgreSQL will ask for next.
//!
//! PostgreSQL marks a file that waits to be archived by an empty
//! `archive_status/NAME.ready`, and asks for history files first, then for the
//! others by their names (source: the comments of PostgreSQL's archiver process, and
//! what it is seen to do).
//!
//! There may be hundreds of thousands of them. The directory is read once, no file
//! in it is looked at, and only as many names are kept as are wanted. The same holds
//! where they are only counted.

use std::collections::BinaryHeap;
use std::io;
use std::mem::MaybeUninit;
use std::ops::ControlFlow;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, RawDir, openat};

use crate::wal::{WalKind, WalName};

/// The directory of the marks, beside the WAL files.
pub(super) const STATUS: &str = "archive_status";

/// What a mark ends with.
pub(super) const READY: &str = ".ready";

/// Bytes of names that the system is asked for at a time: some 4,000 names.
const BUFFER: usize = 256 << 10;

/// The `most` files that come next, without those that `skip` names, in the order in
/// which PostgreSQL asks for them.
pub(super) fn next_ready(
    status: &Path,
    most: usize,
    skip: &dyn Fn(&str) -> bool,
) -> io::Result<Vec<WalName>> {
    let mut nearest = Nearest::new(most);
    for_each_ready(status, |name| {
        nearest.offer(name, skip);
        ControlFlow::Continue(())
    })?;
    Ok(nearest.in_order())
}

/// How many files of the size of a segment wait, the requested one included whether it
/// is marked or not; the counting ends at `most`.
pub(super) fn count_ready(status: &Path, requested: &WalName, most: u64) -> io::Result<u64> {
    let mut count = 1;
    for_each_ready(status, |name| {
        if count >= most {
            return ControlFlow::Break(());
        }
        let stem = name.strip_suffix(".partial").unwrap_or(name);
        let segment = stem.len() == 24 && stem.bytes().all(|byte| byte.is_ascii_hexdigit());
        count += u64::from(segment && name != requested.as_str());
        ControlFlow::Continue(())
    })?;
    Ok(count)
}

/// Reads the names of the files that wait, in the order of the directory.
fn for_each_ready(status: &Path, mut take: impl FnMut(&str) -> ControlFlow<()>) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat(CWD, status, flags, Mode::empty())?;
    let mut buffer = vec![MaybeUninit::uninit(); BUFFER];
    let mut entries = RawDir::new(directory, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_str().ok();
        if let Some(name) = name.and_then(|name| name.strip_suffix(READY))
            && take(name).is_break()
        {
            break;
        }
    }
    Ok(())
}

/// The first of many names, of which no more are kept than are wanted.
#[derive(Debug)]
struct Nearest {
    most: usize,
    /// The last of them on top.
    kept: BinaryHeap<(bool, Box<str>)>,
}

impl Nearest {
    fn new(most: usize) -> Self {
        Self {
            most,
            kept: BinaryHeap::new(),
        }
    }

    fn offer(&mut self, name: &str, skip: &dyn Fn(&str) -> bool) {
        // Most names end here, without a copy.
        let late = !name.ends_with(".history");
        let full = self.kept.len() >= self.most;
        let after = |(last_late, last): &(bool, Box<str>)| (late, name) >= (*last_late, &**last);
        if full && self.kept.peek().is_none_or(after) {
            return;
        }
        // One state of a file that may still grow is no business of others.
        let wal = name.parse::<WalName>();
        if wal.is_ok_and(|wal| wal.kind() != WalKind::Partial) && !skip(name) {
            if full {
                self.kept.pop();
            }
            self.kept.push((late, name.into()));
        }
    }

    fn in_order(self) -> Vec<WalName> {
        let kept = self.kept.into_sorted_vec().into_iter();
        kept.filter_map(|(_, name)| name.parse().ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nearest(names: &[&str], most: usize, skipped: &[&str]) -> Vec<String> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for name in names {
            std::fs::write(directory.path().join(name), "").expect("a file");
        }
        let found = next_ready(directory.path(), most, &|name| skipped.contains(&name));
        let found = found.expect("a directory that can be read");
        found.iter().map(WalName::to_string).collect()
    }

    #[test]
    fn history_files_come_first_and_the_others_by_name() {
        let names = [
            "000000020000000000000007.ready",
            "000000010000000000000009.ready",
            "000000010000000000000009.00000028.backup.ready",
            "00000003.history.ready",
            "00000002.history.ready",
            "00000001000000000000000A.ready",
            // These PostgreSQL does not wait for.
            "000000010000000000000001.done",
            "000000010000000000000002",
            "nonsense.ready",
            ".ready",
            // One that may be replaced by a longer one.
            "000000010000000000000003.partial.ready",
        ];
        let order = [
            "00000002.history",
            "00000003.history",
            "000000010000000000000009",
            "000000010000000000000009.00000028.backup",
            "00000001000000000000000A",
            "000000020000000000000007",
        ];
        for most in 0..8 {
            let expected = &order[..most.min(order.len())];
            assert_eq!(nearest(&names, most, &[]), expected, "{most}");
        }
        let skipped = ["00000002.history", "000000010000000000000009"];
        let rest = ["00000003.history", order[3], order[4]];
        assert_eq!(nearest(&names, 3, &skipped), rest);
    }

    /// However many there are, and in whatever order the directory has them.
    #[test]
    fn no_more_names_are_kept_than_are_wanted() {
        let mut numbers: Vec<u32> = (0..200_000).collect();
        fastrand::Rng::with_seed(7).shuffle(&mut numbers);
        let mut nearest = Nearest::new(7);
        for number in numbers {
            nearest.offer(&format!("0000000100000000{number:08X}"), &|_| false);
            assert!(nearest.kept.len() <= 7);
        }
        let found = nearest.in_order();
        let expected: Vec<_> = (0..7).map(|n| format!("0000000100000000{n:08X}")).collect();
        assert_eq!(
            found.iter().map(WalName::as_str).collect::<Vec<_>>(),
            expected
        );
    }

    #[test]
    fn what_waits_is_counted_by_its_name_and_not_beyond_what_matters() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for name in [
            "000000010000000000000001.ready",
            "000000010000000000000002.ready",
            "000000020000000000000003.ready",
            "000000010000000000000003.partial.ready",
            // Next to nothing, each.
            "000000010000000000000002.00000028.backup.ready",
            "00000002.history.ready",
            "000000010000000000000000.done",
            "00000001000000000000000X.ready",
            "nonsense.ready",
        ] {
            std::fs::write(directory.path().join(name), "").expect("a file");
        }
        let count = |requested: &str, most| {
            let requested = requested.parse().expect("a name");
            count_ready(directory.path(), &requested, most).expect("a directory")
        };
        assert_eq!(count("000000010000000000000001", 100), 4);
        assert_eq!(
            count("000000010000000000000009", 100),
            5,
            "it is not marked"
        );
        assert_eq!(count("000000010000000000000001", 3), 3);
        let nowhere = Path::new("/no/such/archive_status");
        let name = "000000010000000000000001".parse().expect("a name");
        assert!(count_ready(nowhere, &name, 1).is_err());
    }

    #[test]
    fn a_directory_that_cannot_be_read_is_an_error() {
        let nowhere = Path::new("/no/such/archive_status");
        assert!(next_ready(nowhere, 1, &|_| false).is_err());
    }
}
