//! Whether what was read is of the backup that its record describes.

use crate::catalogue::info::BackupInfo;
use crate::manifest::{self, Summary};
use crate::wal::{Lsn, TimelineId};

/// Whether this manifest is the backup's own (docs/decisions.md 24).
pub(in crate::ops) fn is_manifest_of(info: &BackupInfo, summary: &Summary) -> bool {
    let lsn = |text: &Option<String>| text.as_deref()?.parse().ok();
    let fit = || {
        let (timeline, ranges) = (TimelineId(info.timeline?), &summary.ranges);
        let (start, end) = (lsn(&info.begin_xlog)?, lsn(&info.end_xlog)?);
        Some(manifest::ranges_fit(ranges, timeline, start, end))
    };
    let cluster = summary.system_identifier.map(|number| number.to_string());
    let same_cluster = cluster.is_none() || info.systemid.is_none() || cluster == info.systemid;
    fit() == Some(true) && same_cluster
}

/// Why this label is not the backup's, as the end of a sentence; `None` if it is. The label tells where
/// recovery begins: if it is another one's, so is the archive that it came from.
pub(in crate::ops) fn label_flaw(info: &BackupInfo, label: &[u8]) -> Option<String> {
    let recorded = info.begin_xlog.as_deref()?;
    let text = String::from_utf8_lossy(label);
    let start = text
        .lines()
        .find_map(|line| line.strip_prefix("START WAL LOCATION: "))
        .and_then(|rest| rest.split(' ').next());
    match start {
        Some(start) if same_position(start, recorded) => None,
        Some(start) => Some(format!(
            "its `backup_label` says that it begins at {}, where its backup.info says {}",
            start.escape_debug(),
            recorded.escape_debug()
        )),
        None => Some("its `backup_label` does not say where it begins".to_owned()),
    }
}

/// Versions of PostgreSQL differ in how many zeroes they write.
fn same_position(one: &str, other: &str) -> bool {
    let lsn = |text: &str| text.parse::<Lsn>().ok();
    one == other || lsn(one).is_some_and(|at| lsn(other) == Some(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_the_same_however_many_zeroes_it_has() {
        assert!(same_position("0/4000028", "0/04000028"));
        assert!(same_position("odd", "odd"));
        for other in ["0/4000029", "4/4000028", "", "odd"] {
            assert!(!same_position("0/4000028", other), "{other}");
        }
    }
}
