//! What was found, for people and for programs.

use std::fmt::Write;

use serde_json::json;

use super::compare::Compared;
use super::findings::Findings;
use super::member::Suspect;
use super::wal::WalSeen;
use crate::ops::Format;
use crate::units::pretty_size;

/// What a check of a backup came to.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) server: String,
    pub(super) id: String,
    pub(super) findings: Findings,
    /// What was not checked, and what is worth knowing.
    pub(super) notes: Vec<String>,
    pub(super) archives: u64,
    /// Bytes that came from the store for the archives.
    pub(super) stored_bytes: u64,
    pub(super) files: u64,
    /// Bytes of the files.
    pub(super) bytes: u64,
    /// Pages whose checksums were looked at.
    pub(super) pages: u64,
    /// Files with pages of which the WAL of the backup is asked.
    pub(super) suspects: Vec<Suspect>,
    pub(super) manifest: Compared,
    pub(super) wal: WalSeen,
}

impl Report {
    pub(super) fn new(server: &str, id: &str) -> Self {
        Self {
            server: server.to_owned(),
            id: id.to_owned(),
            findings: Findings::default(),
            notes: Vec::new(),
            archives: 0,
            stored_bytes: 0,
            files: 0,
            bytes: 0,
            pages: 0,
            suspects: Vec::new(),
            manifest: Compared::Nothing,
            wal: WalSeen::default(),
        }
    }

    pub(super) fn is_good(&self) -> bool {
        self.findings.total == 0
    }

    /// The text for standard output.
    pub(super) fn text(&self, format: Format) -> String {
        match format {
            Format::Console => self.console(),
            Format::Json => self.json() + "\n",
        }
    }

    /// How many findings there are, in words.
    pub(super) fn count(&self) -> String {
        match self.findings.total {
            1 => "1 finding".to_owned(),
            total => format!("{total} findings"),
        }
    }

    fn console(&self) -> String {
        let (id, server) = (&self.id, &self.server);
        let mut text = if self.is_good() {
            format!("Backup {id} of server {server} is good\n")
        } else {
            format!(
                "Backup {id} of server {server} is damaged: {}\n",
                self.count()
            )
        };
        let mut line = |words: std::fmt::Arguments<'_>| {
            writeln!(text, "{words}").expect("writing to a string cannot fail");
        };
        for finding in &self.findings.named {
            let (word, advice) = (finding.kind.word(), finding.kind.advice());
            line(format_args!(
                "{word}: {}: {}; {advice}",
                finding.place, finding.detail
            ));
        }
        let more = self.findings.total - self.findings.named.len() as u64;
        if more > 0 {
            line(format_args!("and {more} more"));
        }
        line(format_args!(
            "checked: {} files of {} in {} archives of {}",
            self.files,
            pretty_size(self.bytes),
            self.archives,
            pretty_size(self.stored_bytes)
        ));
        if self.pages > 0 {
            line(format_args!(
                "checked: the checksums of {} pages",
                self.pages
            ));
        }
        if let Compared::With { files, unread } = self.manifest {
            let compared = files - unread;
            line(format_args!(
                "checked: {compared} of {files} files of the manifest"
            ));
        }
        if let Some((first, last)) = &self.wal.ends {
            let count = self.wal.segments;
            line(format_args!(
                "checked: {count} segments of WAL from {first} to {last}"
            ));
        }
        for note in &self.notes {
            line(format_args!("note: {note}"));
        }
        text
    }

    /// One object. The README lists its members, whose names do not change.
    fn json(&self) -> String {
        let findings = self.findings.named.iter().map(|finding| {
            json!({
                "kind": finding.kind.word(),
                "where": finding.place,
                "detail": finding.detail,
                "advice": finding.kind.advice(),
            })
        });
        let (files_listed, files_unread) = match self.manifest {
            Compared::With { files, unread } => (Some(files), Some(unread)),
            Compared::Nothing | Compared::InVain => (None, None),
        };
        let ends = self.wal.ends.as_ref();
        json!({
            "server": self.server,
            "backup_id": self.id,
            "status": if self.is_good() { "good" } else { "damaged" },
            "findings": findings.collect::<Vec<_>>(),
            "findings_total": self.findings.total,
            "notes": self.notes,
            "archives": self.archives,
            "bytes_store": self.stored_bytes,
            "files": self.files,
            "bytes_files": self.bytes,
            "pages": self.pages,
            "manifest_files": files_listed,
            "manifest_files_unread": files_unread,
            "wal_segments": self.wal.segments,
            "wal_bytes": self.wal.bytes,
            "wal_first": ends.map(|(first, _)| first),
            "wal_last": ends.map(|(_, last)| last),
        })
        .to_string()
    }
}
