//! `pg_control` and the label against the record of the backup.

use crate::catalogue::info::BackupInfo;
use crate::ops::reading::label_flaw;
use crate::pgdata::ControlFile;
use crate::wal::Lsn;

/// What is wrong with a `pg_control`, each as the end of a sentence.
pub(super) fn of_control(info: &BackupInfo, bytes: &[u8]) -> Vec<String> {
    let control = match ControlFile::parse(bytes) {
        Ok(control) => control,
        Err(error) => return vec![format!("PostgreSQL will not start with it: {error}")],
    };
    let differs = |what: &str, here: &str, recorded: &str| {
        let recorded = recorded.escape_debug();
        format!("it has the {what} {here} where backup.info has {recorded}")
    };
    let mut wrong = Vec::new();
    let identifier = control.system_identifier.to_string();
    if let Some(recorded) = info.systemid.as_deref().filter(|id| *id != identifier) {
        wrong.push(differs("system identifier", &identifier, recorded));
    }
    let version = info.version.unwrap_or_default();
    if layout_of(version).is_some_and(|layout| layout != control.control_version) {
        let layout = control.control_version;
        wrong.push(format!(
            "its layout, {layout}, is not that of version {version}, which backup.info has"
        ));
    }
    let segment = u64::from(control.sizes.wal_segment_size);
    if segment != info.xlog_segment_size {
        let recorded = info.xlog_segment_size.to_string();
        wrong.push(differs("WAL segment size", &segment.to_string(), &recorded));
    }
    let checksums = control.sizes.data_checksums;
    let checksums = checksums.map(|on| if on { "on" } else { "off" });
    if let (Some(here), Some(recorded @ ("on" | "off"))) =
        (checksums, info.data_checksums.as_deref())
        && here != recorded
    {
        wrong.push(differs("data checksums", here, recorded));
    }
    if let Some(progress) = control.progress {
        let here = progress.timeline;
        // A standby may have followed its primary to a later one.
        if let Some(recorded) = info.timeline.filter(|recorded| here < *recorded) {
            wrong.push(differs(
                "timeline",
                &here.to_string(),
                &recorded.to_string(),
            ));
        }
        // It is read last of all files, and the backup begins with a checkpoint. The manifest may not
        // tell one from another: the file contains its CRC-32C, so that its own is always the same.
        let lsn = |text: &Option<String>| text.as_deref()?.parse::<Lsn>().ok();
        let (begin, end) = (lsn(&info.begin_xlog), lsn(&info.end_xlog));
        let (checkpoint, redo) = (Lsn(progress.checkpoint_lsn), Lsn(progress.redo_lsn));
        if let Some(begin) = begin.filter(|begin| redo < *begin) {
            wrong.push(format!(
                "its latest checkpoint, from {redo} on, is earlier than the backup, from {begin} on"
            ));
        }
        if let Some(end) = end.filter(|end| checkpoint > *end) {
            wrong.push(format!(
                "its latest checkpoint, at {checkpoint}, is later than the end of the backup, {end}"
            ));
        }
    }
    wrong
}

/// Layout of the control file of a version (`server_version_num`), where it is known.
///
/// Source: `PG_CONTROL_VERSION` in PostgreSQL's `pg_control.h` of each version.
fn layout_of(version: u32) -> Option<u32> {
    match version {
        90_600..100_000 => Some(960),
        100_000..110_000 => Some(1002),
        110_000..120_000 => Some(1100),
        120_000..130_000 => Some(1201),
        130_000..170_000 => Some(1300),
        170_000..180_000 => Some(1700),
        180_000..190_000 => Some(1800),
        _ => None,
    }
}

/// What is wrong with a label.
pub(super) fn of_label(info: &BackupInfo, bytes: &[u8]) -> Option<String> {
    label_flaw(info, bytes).or_else(|| {
        let text = String::from_utf8_lossy(bytes);
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        let segment = value("START WAL LOCATION: ")
            .and_then(|rest| rest.split_once("(file ")?.1.strip_suffix(')'));
        let timeline = value("START TIMELINE: ").and_then(|text| text.trim().parse().ok());
        let other = |what: &str, here: &str, recorded: &str| {
            let (here, recorded) = (here.escape_debug(), recorded.escape_debug());
            format!("its `backup_label` has the {what} {here} where its backup.info has {recorded}")
        };
        match (segment, info.begin_wal.as_deref()) {
            (Some(here), Some(recorded)) if !here.eq_ignore_ascii_case(recorded) => {
                return Some(other("segment", here, recorded));
            }
            _ => {}
        }
        match (timeline, info.timeline) {
            (Some(here), Some(recorded)) if here != recorded => {
                let (here, recorded): (u32, u32) = (here, recorded);
                Some(other("timeline", &here.to_string(), &recorded.to_string()))
            }
            _ => None,
        }
    })
}
