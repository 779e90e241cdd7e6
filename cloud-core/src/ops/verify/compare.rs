//! What passed by, held against the manifest.

use super::archives::{Archives, Part};
use super::findings::{Findings, Kind};
use crate::catalogue::info::BackupInfo;
use crate::key::Prefix;
use crate::manifest::{self, Entry, Kept};
use crate::ops::reading::is_manifest_of;
use crate::pgdata::{Known, MANIFEST_NAME, display_name};

/// What the manifest is compared with.
pub(super) struct Comparison<'a> {
    pub(super) info: &'a BackupInfo,
    pub(super) archives: &'a Archives<'a>,
    /// Directory of the backup.
    pub(super) dir: &'a Prefix,
    /// All archives are there, and were read to their end.
    pub(super) whole: bool,
}

/// What came of the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compared {
    /// The backup has no manifest of its own.
    Nothing,
    /// With one that cannot be used.
    InVain,
    /// With all files that were read; so many of the manifest were not.
    With {
        /// Files in the manifest.
        files: u64,
        /// Of them those in archives that could not be read.
        unread: u64,
    },
}

impl Comparison<'_> {
    /// Compares. `found` is the last manifest, with the number of its archive; `own`: it stands where
    /// the backup's own one does.
    pub(super) fn with(
        &self,
        found: Option<(u32, &Kept)>,
        own: bool,
        findings: &mut Findings,
    ) -> Compared {
        let Some((number, kept)) = found else {
            return Compared::Nothing;
        };
        let place = self.archives.place(self.dir, number, MANIFEST_NAME);
        let why = match kept.text().map(|text| manifest::read(text, |_| ())) {
            Ok(Ok(summary)) if is_manifest_of(self.info, &summary) => {
                let unread = self.files(kept, findings);
                let files = summary.files;
                return Compared::With { files, unread };
            }
            Ok(Ok(_)) => "it is of another backup".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        if own {
            findings.note(Kind::Manifest, place, format!("it cannot be used: {why}"));
            return Compared::InVain;
        }
        tracing::warn!(
            "`{place}` is not the manifest of this backup, and no restore uses it: {why}"
        );
        Compared::Nothing
    }

    /// Compares all files; gives how many were not read.
    fn files(&self, kept: &Kept, findings: &mut Findings) -> u64 {
        let names = &self.archives.tree.names;
        // The manifest does not list itself.
        names.remove_file(MANIFEST_NAME);
        let mut unread = 0;
        let mut each = |entry: Entry| match names.remove_file(&entry.path) {
            None if !self.whole => unread += 1,
            None => {
                let place = format!("{}:{}", dir_of(self.dir), display_name(&entry.path));
                findings.note(Kind::File, place, "it is in no archive of the backup");
            }
            Some(known) => {
                if let Some(problem) = self.problem(&entry, known) {
                    findings.note(
                        Kind::File,
                        self.archives.place(self.dir, known.archive(), &entry.path),
                        problem,
                    );
                }
            }
        };
        if let Ok(text) = kept.text() {
            // It was read before.
            let _ = manifest::read(text, &mut each);
        }
        unread
    }

    fn problem(&self, entry: &Entry, known: Known) -> Option<&'static str> {
        let checksum = entry.checksum.as_ref()?;
        let same = known.is(entry.size, self.archives.tree.digest(checksum));
        (!same).then_some("it is not what was backed up: size or checksum differ from the manifest")
    }
}

/// A directory without its slash.
pub(super) fn dir_of(dir: &Prefix) -> &str {
    dir.as_str().trim_end_matches('/')
}

/// The last manifest among the archives, with its number.
pub(super) fn last_manifest<'p>(
    parts: impl DoubleEndedIterator<Item = (&'p u32, &'p Part)>,
) -> Option<(u32, &'p Kept)> {
    let mut parts = parts.rev();
    parts.find_map(|(number, part)| Some((*number, part.manifest.as_ref()?)))
}
