//! The pages of relations, judged while their files are copied.
//!
//! A backup is the one who reads every page, often long before a query does. A bad
//! page is told as soon as its file is copied, and copied as it is: the backup may be
//! all there is of the others. A page that only looks bad, because the server wrote it
//! at that moment, is read once more (docs/decisions.md 26).

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use crate::catalogue::layout::ArchiveBase;
use crate::manifest;
use crate::pgdata::{BadPages, Findings, Judgement, PageRules, RelationFile, display_name};
use crate::wal::Lsn;

/// Files that are named; what is in others is counted.
const NAMED: u64 = 100;

/// What is found in the pages of all files.
#[derive(Debug)]
pub(in crate::ops) struct Pages {
    rules: Option<PageRules>,
    judged: u64,
    /// How many of them were read once more.
    again: u64,
    bad: u64,
    /// In how many files.
    files: u64,
    /// Of which only the end of the backup tells.
    newer: Vec<Newer>,
}

/// Pages of a file that are bad if they are newer than the backup's end.
#[derive(Debug)]
struct Newer {
    path: String,
    pages: BadPages,
    /// Whether the file is counted already.
    told: bool,
}

impl Pages {
    /// Judges by `rules`; without any nothing is judged.
    pub(in crate::ops) fn new(rules: Option<PageRules>) -> Self {
        Self {
            rules,
            judged: 0,
            again: 0,
            bad: 0,
            files: 0,
            newer: Vec::new(),
        }
    }

    /// How to judge the file called `name` in its source, if it has pages.
    pub(in crate::ops) fn rules_for(&self, name: &[u8]) -> Option<(PageRules, RelationFile)> {
        Some((self.rules?, RelationFile::of(name)?))
    }

    /// Adds what was found in a file, and tells of it.
    pub(in crate::ops) fn add(&mut self, base: ArchiveBase, name: &[u8], found: &Findings) {
        self.judged += found.pages;
        let path = || display_name(&manifest::path(base.tablespace(), name));
        let told = found.bad.count > 0;
        if told {
            self.tell(&path(), &found.bad, true);
        }
        if found.newer.count > 0 && (self.newer.len() as u64) < NAMED {
            self.newer.push(Newer {
                path: path(),
                pages: found.newer.clone(),
                told,
            });
        }
    }

    /// The same for a file that was read through `checked`.
    pub(in crate::ops) fn add_checked(
        &mut self,
        base: ArchiveBase,
        name: &[u8],
        checked: &Checked<'_>,
    ) {
        self.again += checked.again;
        self.add(base, name, &checked.found);
    }

    /// Adds what another lane found.
    pub(in crate::ops) fn join(&mut self, other: Self) {
        self.judged += other.judged;
        self.again += other.again;
        self.bad += other.bad;
        self.files += other.files;
        self.newer.extend(other.newer);
    }

    /// Everything was copied, and the backup ends at `end`: sums up.
    ///
    /// # Errors
    ///
    /// What is bad, if `fail` says that the backup is to fail for it.
    pub(in crate::ops) fn finish(mut self, end: Lsn, fail: bool) -> Result<(), String> {
        for newer in std::mem::take(&mut self.newer) {
            let mut bad = BadPages::default();
            // No page can be newer than all WAL.
            for page in newer.pages.first.into_iter().filter(|page| page.lsn > end) {
                bad.add(page);
            }
            if bad.count > 0 {
                self.tell(&newer.path, &bad, !newer.told);
            }
        }
        if self.rules.is_none() {
            return Ok(());
        }
        if self.bad == 0 {
            tracing::info!(
                "{} were judged by their checksums, {} of them twice: none is bad",
                pages(self.judged),
                self.again
            );
            return Ok(());
        }
        let files = if self.files == 1 { "file" } else { "files" };
        let (bad, files) = (pages(self.bad), format!("{} {files}", self.files));
        let what = format!("{bad} in {files} with wrong checksums");
        if fail {
            return Err(what);
        }
        tracing::error!(
            "the backup has {what}, as they are on disk: look at the disk, keep older backups, \
             and see with pg_amcheck or pg_dump what can be read"
        );
        Ok(())
    }

    fn tell(&mut self, path: &str, bad: &BadPages, is_new: bool) {
        self.bad += bad.count;
        self.files += u64::from(is_new);
        if self.files <= NAMED {
            tracing::warn!(
                "`{path}` has {} with a wrong checksum: {bad}",
                pages(bad.count)
            );
        }
    }
}

/// `1 page`, `7 pages`
fn pages(count: u64) -> String {
    format!("{count} {}", if count == 1 { "page" } else { "pages" })
}

/// Reads a file with pages and judges them.
pub(in crate::ops) struct Checked<'a> {
    data: &'a mut dyn Read,
    file: &'a File,
    rules: PageRules,
    relation: RelationFile,
    /// How far the file was read.
    at: u64,
    found: Findings,
    /// Pages that were read once more.
    again: u64,
}

impl<'a> Checked<'a> {
    /// `data` reads `file` from its beginning; the file itself is for looking at a page
    /// once more.
    pub(in crate::ops) fn new(
        data: &'a mut dyn Read,
        file: &'a File,
        (rules, relation): (PageRules, RelationFile),
    ) -> Self {
        Self {
            data,
            file,
            rules,
            relation,
            at: 0,
            found: Findings::default(),
            again: 0,
        }
    }

    fn judge(&mut self, bytes: &mut [u8]) {
        let size = self.rules.block_size;
        let first = self.at / u64::from(size);
        // In the middle of a page is only what a file that was cut got back since.
        let Ok(first) = u32::try_from(first) else {
            return;
        };
        if u64::from(first) * u64::from(size) != self.at {
            return;
        }
        let pages = bytes.chunks_exact_mut(size as usize);
        for (page, block) in pages.zip(first..) {
            let mut judgement = self.rules.judge(self.relation, block, page);
            if judgement != Judgement::Good {
                self.again += 1;
                judgement = self.look_again(judgement, block, page);
            }
            self.found.add(judgement);
        }
    }

    /// Reads a page once more, and takes what is there now unless that is bad too: any
    /// state that the page had during the backup is as good as any other.
    fn look_again(&self, seen: Judgement, block: u32, page: &mut [u8]) -> Judgement {
        let mut now = vec![0; page.len()];
        let at = u64::from(block) * page.len() as u64;
        match self.file.read_exact_at(&mut now, at) {
            Ok(()) => {
                let judgement = self.rules.judge(self.relation, block, &now);
                if !matches!(judgement, Judgement::Bad(_)) {
                    page.copy_from_slice(&now);
                }
                judgement
            }
            // The server cut the file: there is no such page any more.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Judgement::Good,
            Err(_) => seen,
        }
    }
}

impl Read for Checked<'_> {
    /// Fills `buf` unless the file ends, so that pages come whole.
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut count = 0;
        while count < buf.len() {
            match self.data.read(&mut buf[count..]) {
                Ok(0) => break,
                Ok(more) => count += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.judge(&mut buf[..count]);
        self.at += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// Four pages of a table, as a server wrote them.
    const TABLE: &[u8] = include_bytes!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/golden/pages/16384"
    ));
    const SIZE: usize = 8192;
    const NAME: &[u8] = b"base/5/16384";

    fn rules(begin: u64) -> PageRules {
        PageRules {
            block_size: 8192,
            blocks_per_segment: 131_072,
            begin: Lsn(begin),
            end: None,
        }
    }

    /// The table with another content of the page number `block`.
    fn damaged(block: usize) -> Vec<u8> {
        let mut bytes = TABLE.to_vec();
        bytes[block * SIZE + 5000] ^= 1;
        bytes
    }

    /// Reads `data` from a file in which `now` is by the time it is looked at again.
    fn read(pages: &Pages, data: &mut dyn Read, now: &[u8]) -> (Vec<u8>, Findings) {
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(now).expect("written");
        let rules = pages.rules_for(NAME).expect("a relation's");
        let mut checked = Checked::new(data, &file, rules);
        let mut bytes = vec![0; 3 * SIZE];
        let mut all = Vec::new();
        loop {
            let count = checked.read(&mut bytes).expect("read");
            all.extend_from_slice(&bytes[..count]);
            if count < bytes.len() {
                return (all, checked.found);
            }
        }
    }

    #[test]
    fn a_page_that_was_read_while_it_was_written_is_read_again() {
        let pages = Pages::new(Some(rules(u64::MAX)));
        for block in 0..4 {
            let (stored, found) = read(&pages, &mut &damaged(block)[..], TABLE);
            assert!(
                stored == TABLE,
                "{block}: what is stored is the page as it is now"
            );
            assert_eq!((found.pages, found.bad.count), (4, 0), "{block}");
        }
    }

    #[test]
    fn a_page_that_stays_bad_is_counted_and_stored_as_it_was_read() {
        let pages = Pages::new(Some(rules(u64::MAX)));
        let mut later = damaged(2);
        later[2 * SIZE + 6000] ^= 1;
        for now in [damaged(2), later] {
            let (stored, found) = read(&pages, &mut &damaged(2)[..], &now);
            assert!(stored == damaged(2));
            assert_eq!((found.bad.count, found.bad.first[0].block), (1, 2));
        }
    }

    #[test]
    fn a_page_that_the_server_has_cut_off_is_not_bad() {
        let pages = Pages::new(Some(rules(u64::MAX)));
        let (stored, found) = read(&pages, &mut &damaged(2)[..], &TABLE[..2 * SIZE + 100]);
        assert!(stored == damaged(2));
        assert_eq!((found.pages, found.bad.count), (4, 0));
    }

    /// Gives a little at a time, and now and then nothing.
    struct Drops<'a>(&'a [u8], bool);

    impl Read for Drops<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let length = buf.len().min(1000);
            self.0.read(&mut buf[..length])
        }
    }

    #[test]
    fn pages_come_whole_from_reads_that_give_a_little() {
        let pages = Pages::new(Some(rules(u64::MAX)));
        let mut odd = damaged(3);
        odd.extend_from_slice(b"and the beginning of another one");
        let (stored, found) = read(&pages, &mut Drops(&odd, false), &odd);
        assert!(stored == odd);
        assert_eq!((found.pages, found.bad.count), (4, 1));
    }

    #[test]
    fn what_has_no_pages_is_not_judged() {
        let pages = Pages::new(Some(rules(0)));
        assert_eq!(pages.rules_for(b"base/5/PG_VERSION"), None);
        let pages = Pages::new(None);
        assert_eq!(pages.rules_for(NAME), None);
        assert_eq!(pages.finish(Lsn(0), true), Ok(()));
    }

    #[test]
    fn a_page_from_the_future_is_bad_and_one_written_since_the_beginning_is_not() {
        let mut bytes = damaged(0);
        // As far as anybody can tell from its header, it was written at 1/2A.
        bytes[..8].copy_from_slice(&[1, 0, 0, 0, 0x2A, 0, 0, 0]);
        for (end, expected) in [(0x1_0000_002A, 0), (0x1_0000_0029, 1)] {
            let mut pages = Pages::new(Some(rules(0x1_0000_0028)));
            let (_, found) = read(&pages, &mut &bytes[..], &bytes);
            assert_eq!((found.bad.count, found.newer.count), (0, 1));
            pages.add(ArchiveBase::Data, NAME, &found);
            let failed = pages.finish(Lsn(end), true);
            assert_eq!(u64::from(failed.is_err()), expected, "{end:X}");
        }
    }

    #[test]
    fn a_file_counts_once_whatever_is_bad_in_it() {
        let mut bytes = damaged(0);
        bytes[2 * SIZE..3 * SIZE].fill(0xFF);
        let mut pages = Pages::new(Some(rules(0xFFFF_FFFF_0000_0000)));
        let (_, found) = read(&pages, &mut &bytes[..], &bytes);
        assert_eq!((found.bad.count, found.newer.count), (1, 1));
        pages.add(ArchiveBase::Data, NAME, &found);
        let failed = pages.finish(Lsn(u64::MAX - 1), true);
        let expected = "2 pages in 1 file with wrong checksums".to_owned();
        assert_eq!(failed, Err(expected));
    }

    #[test]
    fn the_backup_fails_for_bad_pages_only_if_that_is_asked_for() {
        for (fail, files, expected) in [
            (false, 3, Ok(())),
            (true, 0, Ok(())),
            (true, 1, Err("2 pages in 1 file with wrong checksums")),
            (
                true,
                300,
                Err("600 pages in 300 files with wrong checksums"),
            ),
        ] {
            let mut pages = Pages::new(Some(rules(u64::MAX)));
            let mut bytes = damaged(1);
            bytes[3 * SIZE + 77] ^= 4;
            let (_, found) = read(&pages, &mut &bytes[..], &bytes);
            for _ in 0..files {
                pages.add(ArchiveBase::Tablespace(16_400), NAME, &found);
            }
            let failed = pages.finish(Lsn(u64::MAX), fail);
            assert_eq!(failed, expected.map_err(str::to_owned), "{fail} {files}");
        }
    }
}
