//! `copy_stats` of `backup.info`, in the reference's shape.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::catalogue::literal::Literal;
use crate::transfer::{ArchiveReceipt, UploadReport};

/// Sums up the uploads by item (`data` or the oid of a tablespace), in the
/// order in which they were begun.
pub(super) fn copy_stats(report: &UploadReport, jobs: u32, total: Duration) -> Literal {
    let items = by_item(report);
    let span = |archives: &[&ArchiveReceipt]| {
        let began = archives.iter().map(|archive| archive.began).min();
        let ended = archives.iter().map(|archive| archive.ended).max();
        began
            .zip(ended)
            .map_or(Duration::ZERO, |(began, ended)| ended.duration_since(began))
    };
    let busy = |archives: &[&ArchiveReceipt]| archives.iter().map(|archive| archive.busy).sum();
    let per_item = |value: &dyn Fn(&[&ArchiveReceipt]) -> Duration| {
        Literal::dict(
            items
                .iter()
                .map(|(item, archives)| (*item, seconds(value(archives)))),
        )
    };
    let all: Vec<&ArchiveReceipt> = report.archives.iter().collect();
    Literal::dict([
        ("total_time", seconds(total)),
        ("number_of_workers", Literal::Int(jobs.into())),
        ("analysis_time", Literal::Int(0)),
        (
            "analysis_time_per_item",
            Literal::dict(items.iter().map(|(item, _)| (*item, Literal::Int(0)))),
        ),
        ("copy_time_per_item", per_item(&span)),
        ("serialized_copy_time_per_item", per_item(&busy)),
        ("copy_time", seconds(span(&all))),
        ("serialized_copy_time", seconds(busy(&all))),
    ])
}

/// Of a backup of snapshots: the time from its beginning until all were complete.
pub(super) fn snapshot_stats(copied: Duration) -> Literal {
    Literal::dict([
        ("copy_time", seconds(copied)),
        ("total_time", seconds(copied)),
    ])
}

/// Microseconds are what the reference keeps.
fn seconds(duration: Duration) -> Literal {
    Literal::Float((duration.as_secs_f64() * 1e6).round() / 1e6)
}

fn by_item(report: &UploadReport) -> Vec<(&str, Vec<&ArchiveReceipt>)> {
    let mut order: Vec<(&str, Vec<&ArchiveReceipt>)> = Vec::new();
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    for archive in &report.archives {
        let name = archive.key.base_name();
        let item = name.split(['.', '_']).next().unwrap_or(name);
        let place = *places.entry(item).or_insert_with(|| {
            order.push((item, Vec::new()));
            order.len() - 1
        });
        order[place].1.push(archive);
    }
    order
}
