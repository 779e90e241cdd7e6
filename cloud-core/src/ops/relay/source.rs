//! The backup on the Barman server: its record and its files, looked at before
//! anything is sent.
//!
//! What is refused here could be sent, but not be restored from the bucket: then a
//! backup that says DONE would be worse than none.

use std::io;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use jiff::tz::TimeZone;

use crate::catalogue::info::{BackupInfo, Status};
use crate::catalogue::layout::{ArchiveBase, BackupId};
use crate::catalogue::load::MAX_INFO;
use crate::manifest::WalRange;
use crate::ops::archives::{Sources, TablespaceSource, major};
use crate::ops::hook::{RelayedBackup, not_done};
use crate::ops::{OpError, OpErrorKind, chain};
use crate::pgdata;
use crate::wal::{Lsn, TimelineId};

/// A backup that can be relayed.
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// Its id.
    pub(super) id: BackupId,
    /// Its record, byte for byte.
    pub(super) record: Bytes,
    /// What the record says.
    pub(super) info: BackupInfo,
    /// Where its files are.
    pub(super) sources: Sources,
    /// `server_version_num`
    pub(super) version: u32,
    /// The WAL that it needs, if the record says so.
    pub(super) range: Option<WalRange>,
    /// Its label.
    pub(super) label: PathBuf,
}

impl Source {
    /// Reads the record and looks at the files. Blocks.
    ///
    /// # Errors
    ///
    /// `NoRetry` if the backup is not DONE, its record says too little or is of
    /// another backup than the files, or it is kept in a form that cannot be relayed;
    /// only for one that is kept compressed the reference has `General`. `General` if
    /// the record cannot be read, `Failed` if files cannot: both may be there again
    /// when the script is run the next time.
    pub(super) fn look(told: &RelayedBackup) -> Result<Self, OpError> {
        let general = |text: String| OpError::new(OpErrorKind::General, text);
        let id = BackupId::new(&told.id)
            .ok_or_else(|| general(format!("`{}` cannot be the id of a backup", told.id)))?;
        let (path, record) = read_record(told)?;
        let info = BackupInfo::parse(&record, &TimeZone::system()).map_err(|error| {
            let path = path.display();
            general(format!("could not read `{path}`: {}", chain(&error)))
        })?;
        refuse_form(&info)?;
        if info.status != Status::Done {
            return Err(not_done(&told.dir, &info.status.to_string()));
        }
        let version = info.version.ok_or_else(|| {
            let path = path.display();
            let text = format!("`{path}` does not say which version of PostgreSQL it is about");
            OpError::new(OpErrorKind::NoRetry, text)
        })?;
        let tablespace = |oid| TablespaceSource {
            oid,
            location: told.dir.join(oid.to_string()),
        };
        let sources = Sources {
            pgdata: told.dir.join("data"),
            major: major(version),
            tablespaces: info
                .tablespaces
                .iter()
                .map(|it| tablespace(it.oid))
                .collect(),
            configuration: Vec::new(),
            rounds: NonZeroU32::MIN,
        };
        let source = Self {
            id,
            label: sources.pgdata.join("backup_label"),
            range: range(&info),
            record: record.into(),
            info,
            sources,
            version,
        };
        let refused = |kind, why: String| {
            let text = format!("Backup '{}' cannot be relayed: {why}", source.id);
            OpError::new(kind, text)
        };
        let (control, label) = source
            .read_files()
            .map_err(|why| refused(OpErrorKind::Failed, why))?;
        source
            .compare(control, label)
            .map_err(|why| refused(OpErrorKind::NoRetry, why))?;
        Ok(source)
    }

    /// Looks at every source, at `pg_control` and at the label, which must be there:
    /// the system identifier, and where the backup begins if its label says so.
    fn read_files(&self) -> Result<(u64, Option<Lsn>), String> {
        let bases = self.sources.tablespaces.iter();
        let bases = bases.map(|found| ArchiveBase::Tablespace(found.oid));
        for base in bases.chain([ArchiveBase::Data]) {
            self.sources.walk(base).map_err(|error| chain(&error))?;
        }
        let control = pgdata::read_control(&self.sources.pgdata.join("global/pg_control"));
        let control = control.map_err(|error| chain(&error))?.control;
        let label = std::fs::read(&self.label)
            .map_err(|error| format!("could not read `{}`: {error}", self.label.display()))?;
        Ok((control.system_identifier, start_of(&label)))
    }

    /// What the files say must be what the record says, where both say something.
    fn compare(&self, identifier: u64, start: Option<Lsn>) -> Result<(), String> {
        let (found, recorded) = (identifier.to_string(), &self.info.systemid);
        if let Some(recorded) = recorded.as_ref().filter(|recorded| **recorded != found) {
            return Err(format!(
                "its global/pg_control is of the cluster {found}, its backup.info of {recorded}"
            ));
        }
        match (start, self.info.begin_xlog.as_deref()) {
            (Some(start), Some(recorded)) if Some(start) != recorded.parse().ok() => Err(format!(
                "its backup_label says that it begins at {start}, its backup.info says {recorded}"
            )),
            _ => Ok(()),
        }
    }
}

/// The first record that is there.
fn read_record(told: &RelayedBackup) -> Result<(&Path, Vec<u8>), OpError> {
    let mut missing = None;
    for path in &told.records {
        match read_small(path) {
            Ok(bytes) => return Ok((path, bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                missing.get_or_insert((path, error));
            }
            Err(error) => return Err(unread(path, &error)),
        }
    }
    Err(match missing {
        Some((path, error)) => unread(path, &error),
        None => OpError::new(OpErrorKind::General, "no backup.info is named"),
    })
}

fn unread(path: &Path, error: &io::Error) -> OpError {
    let text = format!("could not read `{}`: {error}", path.display());
    OpError::new(OpErrorKind::General, text)
        .with_hint("BARMAN_BACKUP_INFO_PATH names the backup.info of the backup")
}

/// Reads a file that is no larger than a record can be.
fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    let size = std::fs::metadata(path)?.len();
    if size > MAX_INFO {
        return Err(io::Error::other(format!("it has {size} bytes")));
    }
    std::fs::read(path)
}

/// Refuses what Barman keeps in another form than as the files of a cluster. No
/// repetition changes that; the reference knows the first of these, and its code.
fn refuse_form(info: &BackupInfo) -> Result<(), OpError> {
    let (kind, what, why) = if info.compression.is_some() {
        (OpErrorKind::General, "Compressed", "")
    } else if info.encryption.is_some() {
        (OpErrorKind::NoRetry, "Encrypted", "")
    } else if info.snapshots_info.is_some() {
        let why = ": they have no files to upload";
        (OpErrorKind::NoRetry, "Snapshot", why)
    } else if info.parent_backup_id.is_some() {
        let why = ": what is in one cannot be restored without those before it";
        (OpErrorKind::NoRetry, "Incremental", why)
    } else {
        return Ok(());
    };
    let text = format!("{what} backups are not supported when running as a hook script{why}");
    Err(OpError::new(kind, text))
}

/// The WAL that the backup needs.
fn range(info: &BackupInfo) -> Option<WalRange> {
    let lsn = |text: &Option<String>| text.as_deref()?.parse::<Lsn>().ok();
    Some(WalRange {
        timeline: TimelineId(info.timeline?),
        start: lsn(&info.begin_xlog)?,
        end: lsn(&info.end_xlog)?,
    })
}

/// Where a label says that its backup begins.
fn start_of(label: &[u8]) -> Option<Lsn> {
    let text = String::from_utf8_lossy(label);
    let mut lines = text.lines();
    let rest = lines.find_map(|line| line.strip_prefix("START WAL LOCATION: "))?;
    rest.split(' ').next()?.parse().ok()
}
