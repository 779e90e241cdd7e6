//! Names of objects and of WAL files, and what leads from timeline to timeline.

use super::text;
use crate::catalogue::gap::Extent;
use crate::catalogue::layout::{ArchiveSet, BackupId, Layout, archives_to_delete};
use crate::catalogue::load::wal_of_key;
use crate::codec;
use crate::key::{Key, Prefix};
use crate::pgdata::{display_name, plain_name};
use crate::wal::{History, Lsn, SegmentSize, TimelineId, WalName};

/// Each line is a name; all of them are a listing, and a history file.
pub(super) fn names(data: &[u8]) {
    let text = text(data);
    for line in text.lines() {
        wal_name(line);
        if let Ok(lsn) = line.parse::<Lsn>() {
            assert_eq!(lsn.to_string().parse(), Ok(lsn));
        }
        if let Some(extent) = Extent::of_name(line) {
            assert!(extent.covers(&extent));
        }
        member(line.as_bytes());
        layout(line);
    }
    let _ = History::parse(TimelineId(u32::MAX), &text);
    listing(&text);
}

fn wal_name(text: &str) {
    let suffixes = codec::suffixes();
    if let Some((name, suffix)) = wal_of_key(text, &suffixes) {
        assert_eq!(format!("{name}{suffix}"), text);
    }
    let Ok(name) = text.parse::<WalName>() else {
        return;
    };
    assert_eq!(name.as_str(), text);
    for shift in 20..=30 {
        let size = SegmentSize::new(1 << shift).expect("a size");
        let Some(start) = name.start(size) else {
            assert_eq!(name.next(size), None);
            continue;
        };
        let segment = WalName::segment_of(name.timeline(), start, size);
        assert!(text.to_ascii_uppercase().starts_with(segment.as_str()));
        if let Some(next) = name.next(size) {
            assert_eq!(next.start(size), Some(Lsn(start.0 + size.get())));
        }
    }
}

/// A name in an archive leads nowhere but below its directory, and is shown in one line.
fn member(name: &[u8]) {
    assert!(!display_name(name).contains(char::is_control));
    if let Ok(plain) = plain_name(name) {
        let leads_out = |part: &[u8]| part.is_empty() || part == b"." || part == b"..";
        let mut parts = plain.split(|byte| *byte == b'/');
        assert!(plain.is_empty() || !parts.any(leads_out));
        assert_eq!(
            plain_name(&plain).ok(),
            Some(plain).filter(|p| !p.is_empty())
        );
    }
}

/// No name of a server leads to another one's objects.
fn layout(server: &str) {
    let Ok(layout) = Layout::new("path", server) else {
        return;
    };
    let root = layout.root().as_str();
    assert!(root.starts_with("path/") && !root.split('/').any(|part| part == ".."));
    if let Some(id) = BackupId::new(server) {
        let key = layout.backup_info(&id);
        let found = Layout::within_backup(&layout.base(), &key);
        assert_eq!(found, Some((id, "backup.info")));
    }
}

/// The directory of a backup with these objects.
fn listing(text: &str) {
    let dir = Prefix::dir("p/main/base/20261121T120000");
    let keys: Vec<Key> = text.lines().filter_map(|line| dir.key(line).ok()).collect();
    let objects = keys.iter().map(|key| (key.clone(), 1));
    let suffixes = codec::backup_suffixes();
    let (set, problems) = ArchiveSet::gather(&dir, objects, [16384, 16385], &suffixes, "main");
    if problems.is_empty() {
        for (base, archives) in &set.archives {
            for (number, archive) in (0..).zip(archives) {
                assert_eq!(archive.part, number, "{base}");
                assert!(keys.contains(&archive.key));
            }
        }
    }
    assert!(archives_to_delete(&dir, &keys).len() <= keys.len());
}
