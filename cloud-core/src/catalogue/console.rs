//! Backups for people, letter by letter as the reference prints them: scripts
//! cut these texts into columns.

use std::fmt::{self, Display, Write};
use std::time::Duration;

use super::info::{BackupInfo, Status};
use super::keep::Keep;
use super::layout::BackupId;
use super::literal::Literal;
use super::snapshots::in_full;
use crate::units::{pretty_duration, pretty_size};

/// Widths of the columns of a list, in characters. Longer values push the rest.
const WIDTHS: [usize; 5] = [20, 25, 30, 17, 20];

/// A line for each backup below a line of headings.
pub fn list<'a>(
    backups: impl IntoIterator<Item = (&'a BackupId, &'a BackupInfo, Option<&'a Keep>)>,
) -> String {
    let mut text = row([
        "Backup ID",
        "End Time",
        "Begin Wal",
        "Archival Status",
        "Name",
    ]);
    for (id, info, keep) in backups {
        let end = info.end_time.map(|time| time.to_the_second());
        let state = match (&info.status, keep) {
            (Status::Done, Some(keep)) => format!("KEEP:{}", keep.as_str().to_uppercase()),
            (Status::Done, None) => String::new(),
            (status, _) => status.to_string(),
        };
        text.push_str(&row([
            id.as_str(),
            end.as_deref().unwrap_or_default(),
            info.begin_wal.as_deref().unwrap_or_default(),
            &state,
            info.backup_name.as_deref().unwrap_or_default(),
        ]));
    }
    text
}

fn row(cells: [&str; 5]) -> String {
    let mut line = String::new();
    for (cell, width) in cells.iter().zip(WIDTHS) {
        let _ = write!(line, "{:<width$}", Plain(cell).to_string());
    }
    line.push('\n');
    line
}

/// A text from a bucket, which must not steer the terminal or break a line.
struct Plain<'a>(&'a str);

impl Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            if character.is_control() {
                write!(f, "{}", character.escape_default())?;
            } else {
                f.write_char(character)?;
            }
        }
        Ok(())
    }
}

/// All that is known of a backup.
pub fn show(id: &BackupId, info: &BackupInfo) -> String {
    let mut page = Page::default();
    let restorable = match &info.status {
        Status::Done => true,
        Status::Other(word) => word == "WAITING_FOR_WALS",
        Status::Empty | Status::Started | Status::Failed => false,
    };
    let _ = writeln!(page.0, "Backup {}:", Plain(id.as_str()));
    page.top_if("Backup Name", info.backup_name.as_ref());
    page.top("Server Name", &or_none(info.server_name.as_ref()));
    page.top_if("System Id", info.systemid.as_ref());
    page.top("Status", &info.status);
    if restorable {
        page.top("PostgreSQL Version", &or_none(info.version));
        page.top("PGDATA directory", &or_none(info.pgdata.as_ref()));
        page.top_if("Estimated Cluster Size", info.cluster_size.map(pretty_size));
    }
    page.blank();
    if info.data_checksums.is_some() || info.summarize_wal.is_some() {
        page.section("Server information");
        page.nested_if("Checksums", info.data_checksums.as_ref());
        page.nested_if("WAL summarizer", info.summarize_wal.as_ref());
        page.blank();
    }
    if restorable {
        page.snapshots(info);
        if !info.tablespaces.is_empty() {
            page.section("Tablespaces");
            for tablespace in &info.tablespaces {
                let place = format!("{} (oid: {})", tablespace.location, tablespace.oid);
                page.nested(&tablespace.name, &place);
            }
            page.blank();
        }
        page.base_backup(info);
    } else {
        page.top_if("Error", info.error.as_ref());
    }
    page.0
}

fn or_none<T: Display>(value: Option<T>) -> String {
    value.map_or_else(|| "None".to_owned(), |value| value.to_string())
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn blank(&mut self) {
        self.0.push('\n');
    }

    fn top(&mut self, name: &str, value: &dyn Display) {
        let value = value.to_string();
        let _ = writeln!(self.0, "  {name:<23}: {}", Plain(&value));
    }

    fn top_if(&mut self, name: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.top(name, &value);
        }
    }

    fn section(&mut self, name: &str) {
        let _ = writeln!(self.0, "  {name}:");
    }

    fn nested(&mut self, name: &str, value: &dyn Display) {
        let (name, value) = (Plain(name).to_string(), value.to_string());
        let _ = writeln!(self.0, "    {name:<21}: {}", Plain(&value));
    }

    fn nested_if(&mut self, name: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.nested(name, &value);
        }
    }

    /// The pairs of a dictionary.
    fn pairs(&mut self, entries: &[(&Literal, &Literal)]) {
        for (key, value) in entries {
            self.nested(&plain(key), &plain(value));
        }
    }

    fn snapshots(&mut self, info: &BackupInfo) {
        let Some(snapshots) = &info.snapshots_info else {
            return;
        };
        let snapshots = in_full(snapshots);
        self.section("Snapshot information");
        let provider = snapshots.get("provider").map(plain);
        self.nested("provider", &or_none(provider));
        self.pairs(&entries(snapshots.get("provider_info")));
        self.blank();
        let all = snapshots.get("snapshots").and_then(Literal::items);
        for snapshot in all.unwrap_or_default() {
            let mut of_provider = entries(snapshot.get("provider"));
            of_provider.sort_by_key(|(key, _)| plain(key));
            self.pairs(&of_provider);
            let mount = snapshot.get("mount");
            for (name, key) in [
                ("Mount point", "mount_point"),
                ("Mount options", "mount_options"),
            ] {
                let value = mount.and_then(|mount| mount.get(key)).map(plain);
                self.nested(name, &or_none(value));
            }
            self.blank();
        }
    }

    fn base_backup(&mut self, info: &BackupInfo) {
        self.section("Base backup information");
        self.nested_if("Backup Method", info.mode.as_ref());
        self.nested_if("Encryption", info.encryption.as_ref());
        self.nested_if("Backup Size", info.deduplicated_size.map(pretty_size));
        let compression = info.compression.as_ref().filter(|codec| *codec != "none");
        self.nested_if("Backup Compression", compression);
        self.nested("Timeline", &or_none(info.timeline));
        self.nested("Begin WAL", &or_none(info.begin_wal.as_ref()));
        self.nested("End WAL", &or_none(info.end_wal.as_ref()));
        self.nested("Begin time", &or_none(info.begin_time));
        self.nested("End time", &or_none(info.end_time));
        self.nested_if("Copy time", copy_time(info));
        self.nested("Begin Offset", &or_none(info.begin_offset));
        self.nested("End Offset", &or_none(info.end_offset));
        self.nested("Begin LSN", &or_none(info.begin_xlog.as_ref()));
        self.nested("End LSN", &or_none(info.end_xlog.as_ref()));
        self.blank();
    }
}

/// How long the copy took, and its preparation if that is worth a word.
fn copy_time(info: &BackupInfo) -> Option<String> {
    let seconds = |name| {
        let value = match info.copy_stats.as_ref()?.get(name)? {
            Literal::Float(value) => Duration::try_from_secs_f64(*value).ok()?,
            Literal::Int(value) => Duration::from_secs(u64::try_from(*value).ok()?),
            _ => return None,
        };
        (!value.is_zero()).then_some(value)
    };
    let mut text = pretty_duration(seconds("copy_time")?);
    if let Some(analysis) = seconds("analysis_time").filter(|time| time.as_secs() >= 1) {
        let _ = write!(text, " + {} startup", pretty_duration(analysis));
    }
    Some(text)
}

fn entries(dict: Option<&Literal>) -> Vec<(&Literal, &Literal)> {
    match dict {
        Some(Literal::Dict(entries)) => entries.iter().map(|(k, v)| (k, v)).collect(),
        _ => Vec::new(),
    }
}

/// A value as text, without quotes around it.
fn plain(value: &Literal) -> String {
    match value {
        Literal::Str(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;

    fn info(text: &str) -> BackupInfo {
        BackupInfo::parse(text.as_bytes(), &TimeZone::UTC).unwrap()
    }

    #[test]
    fn a_hostile_name_stays_in_its_cell() {
        let id = BackupId::new("a\nb").unwrap();
        let info = BackupInfo {
            backup_name: Some("x\u{1b}[2J".into()),
            status: Status::Done,
            ..BackupInfo::default()
        };
        let text = list([(&id, &info, Some(&Keep::read(b"Fu\x07ll")))]);
        assert_eq!(text.lines().count(), 2);
        assert!(text.contains(r"a\nb"));
        assert!(text.contains(r"KEEP:FU\u{7}LL"));
        assert!(text.contains(r"x\u{1b}[2J"));
    }

    #[test]
    fn long_values_push_the_rest_and_wide_ones_count_by_characters() {
        let id = BackupId::new("20261121T000000").unwrap();
        let info = BackupInfo {
            begin_wal: Some("x".repeat(31)),
            backup_name: Some("é".repeat(3)),
            ..BackupInfo::default()
        };
        let text = list([(&id, &info, None)]);
        let line = text.lines().nth(1).unwrap();
        let end = format!(
            "{}EMPTY{}ééé{}",
            "x".repeat(31),
            " ".repeat(12),
            " ".repeat(17)
        );
        assert!(line.ends_with(&end), "{line:?}");
    }

    #[test]
    fn what_a_barman_server_adds_is_shown() {
        let text = "status=DONE\nmode=rsync\nencryption=gpg\ncompression=gzip\n\
                    deduplicated_size=2048\nsummarize_wal=on\n\
                    copy_stats={'copy_time': 61.5, 'analysis_time': 1.2}\n";
        let id = BackupId::new("20261121T000000").unwrap();
        let page = show(&id, &info(text));
        for line in [
            "    WAL summarizer       : on",
            "    Backup Method        : rsync",
            "    Encryption           : gpg",
            "    Backup Size          : 2.0 KiB",
            "    Backup Compression   : gzip",
            "    Copy time            : 1 minute, 1 second + 1 second startup",
            "    Timeline             : None",
        ] {
            assert!(page.lines().any(|other| other == line), "{line}\n{page}");
        }
        assert!(!page.contains("Checksums"));
    }

    #[test]
    fn without_facts_of_the_server_that_section_is_left_out() {
        let id = BackupId::new("20261121T000000").unwrap();
        let page = show(&id, &info("status=FAILED\nerror=no\nserver_name=cloud\n"));
        assert_eq!(
            page,
            "Backup 20261121T000000:\n  Server Name            : cloud\n  \
             Status                 : FAILED\n\n  Error                  : no\n"
        );
    }
}
