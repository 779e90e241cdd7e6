//! A small backup: PGDATA in two archives, a tablespace in a third, three segments of WAL.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::num::NonZeroU32;
use std::sync::Arc;

use serde_json::Value;

use super::super::{VerifyRequest, run};
use crate::manifest::{Algorithm, Builder, Entry, Summing, WalRange};
use crate::ops::wal_testing::{GOLDEN_SYSTEM, context, control, segment};
use crate::ops::{Answer, Format, OpError};
use crate::store::{FaultyStore, MemoryStore};
use crate::tar::{Member, MemberKind, Mtime, TarWriter};
use crate::wal::{Lsn, TimelineId};

const DIR: &str = "p/main/base/20261122T100000";
const SPACE: &str = "pg_tblspc/16387/";

/// What the manifest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sealed {
    /// The backup's.
    Own,
    /// Of another backup.
    Other,
    /// With a bit that is wrong.
    Damaged,
    /// There is none.
    Not,
}

pub(super) struct Scene {
    pub(super) memory: MemoryStore,
    pub(super) store: FaultyStore,
    pub(super) backup: String,
    /// By their paths in a manifest.
    files: BTreeMap<String, Vec<u8>>,
    pub(super) algorithm: Algorithm,
    pub(super) sealed: Sealed,
    manifest: Vec<u8>,
    /// A member of the first archive that is no file, behind the others.
    pub(super) odd: Option<(String, MemberKind)>,
    pub(super) manifest_lists_odd: bool,
    /// The label has an archive to itself.
    pub(super) label_apart: bool,
    pub(super) jobs: u32,
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A segment of this name: the golden one, or one with nothing but a switch of segments in it, which
/// gives up what would go on into it.
pub(super) fn wal(name: &str) -> Vec<u8> {
    if name == "000000010000000000000006" {
        return segment(name);
    }
    let hex = |range| u64::from_str_radix(&name[range], 16).unwrap();
    let address = (hex(8..16) << 32) + (hex(16..24) << 20);
    let mut bytes = vec![0; 1 << 20];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, &0xD110_u16.to_le_bytes());
    put(2, &(2_u16 | 8).to_le_bytes());
    put(4, &hex(0..8).to_le_bytes()[..4]);
    put(8, &address.to_le_bytes());
    put(24, &GOLDEN_SYSTEM.to_le_bytes());
    put(32, &(1_u32 << 20).to_le_bytes());
    put(36, &8192_u32.to_le_bytes());
    let mut switch = [0; 24];
    (switch[0], switch[16]) = (24, 0x40);
    let sum = crc32c::crc32c(&switch[..20]);
    switch[20..].copy_from_slice(&sum.to_le_bytes());
    put(40, &switch);
    bytes
}

/// Pages of noise, of which no codec makes less; all were written while the backup was taken,
/// so that nobody judges them.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut bytes: Vec<u8> = (0..length).map(|_| rng.u8(..)).collect();
    for page in bytes.chunks_mut(8192) {
        page[..8].copy_from_slice(&0x70_0000_u64.rotate_left(32).to_le_bytes());
    }
    bytes
}

impl Scene {
    pub(super) fn new() -> Self {
        let label = "START WAL LOCATION: 0/600028 (file 000000010000000000000006)\n\
                     CHECKPOINT LOCATION: 0/600060\nSTART TIMELINE: 1\n";
        let files = [
            ("PG_VERSION", b"15\n".to_vec()),
            ("base/5/1259", noise(1, 50_000)),
            ("global/1260", noise(2, 20_000)),
            ("pg_tblspc/16387/PG_15/5/16400", noise(3, 30_000)),
            ("global/pg_control", control(GOLDEN_SYSTEM, true)),
            ("backup_label", label.as_bytes().to_vec()),
        ];
        let memory = MemoryStore::new();
        let files = files.map(|(name, content)| (name.to_owned(), content));
        let mut scene = Self {
            store: FaultyStore::new(Arc::new(memory.clone())),
            memory,
            backup: "20261122T100000".to_owned(),
            files: files.into(),
            algorithm: Algorithm::Crc32c,
            sealed: Sealed::Own,
            manifest: Vec::new(),
            odd: None,
            manifest_lists_odd: false,
            label_apart: false,
            jobs: 2,
        };
        scene.seal();
        scene.store_archives();
        let info = format!(
            "begin_wal=000000010000000000000006\nbegin_xlog=0/600028\ndata_checksums=on\n\
             end_wal=000000010000000000000008\nend_xlog=0/800100\nstatus=DONE\n\
             systemid={GOLDEN_SYSTEM}\ntablespaces=[('fast', 16387, '/fast')]\ntimeline=1\n\
             version=150020\nxlog_segment_size=1048576\n"
        );
        scene.memory.insert(&format!("{DIR}/backup.info"), info);
        for number in 5..10 {
            scene.add_wal(1, number, number == 7);
        }
        scene
    }

    /// Archives a segment.
    pub(super) fn add_wal(&self, timeline: u32, number: u32, compressed: bool) {
        let name = format!("{timeline:08X}00000000{number:08X}");
        let bytes = wal(&name);
        let (bytes, suffix) = if compressed {
            (gzip(&bytes), ".gz")
        } else {
            (bytes, "")
        };
        let key = format!("p/main/wals/{}/{name}{suffix}", &name[..16]);
        self.memory.insert(&key, bytes);
    }

    pub(super) fn content(&self, name: &str) -> Vec<u8> {
        self.files[name].clone()
    }

    /// Gives a file another content, or makes one.
    pub(super) fn put(&mut self, name: &str, content: &[u8]) {
        self.files.insert(name.to_owned(), content.to_vec());
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.files.remove(name);
    }

    /// Changes an object.
    pub(super) fn change(&self, key: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = self.memory.contents()[key].to_vec();
        change(&mut bytes);
        self.memory.insert(key, bytes);
    }

    /// Makes the manifest of the files as they are.
    pub(super) fn seal(&mut self) {
        let mut builder = Builder::new(150_020, GOLDEN_SYSTEM).unwrap();
        let mut add = |path: &str, content: &[u8]| {
            let mut sum = Summing::new(self.algorithm);
            sum.add(content);
            let entry = Entry {
                path: path.into(),
                size: content.len() as u64,
                modified: 0,
                checksum: Some(sum.finish()),
            };
            builder.add(&entry).unwrap();
        };
        for (name, content) in &self.files {
            add(name, content);
        }
        if let (Some((name, _)), true) = (&self.odd, self.manifest_lists_odd) {
            add(name, &self.files["base/5/1259"]);
        }
        let range = |end| WalRange {
            timeline: TimelineId(1),
            start: Lsn(0x60_0028),
            end: Lsn(end),
        };
        self.manifest.clear();
        let mut manifest = builder.finish(&[range(0x80_0100)]).unwrap();
        manifest.read_to_end(&mut self.manifest).unwrap();
    }

    fn manifest(&self) -> Option<Vec<u8>> {
        let text = || String::from_utf8(self.manifest.clone()).unwrap();
        match self.sealed {
            Sealed::Own => Some(self.manifest.clone()),
            Sealed::Other => {
                let mut builder = Builder::new(150_020, GOLDEN_SYSTEM).unwrap();
                let entry = Entry {
                    path: b"PG_VERSION".to_vec(),
                    size: 3,
                    modified: 0,
                    checksum: None,
                };
                builder.add(&entry).unwrap();
                let (start, end) = (Lsn(0x70_0028), Lsn(0x80_0100));
                let timeline = TimelineId(1);
                let range = WalRange {
                    timeline,
                    start,
                    end,
                };
                let mut bytes = Vec::new();
                let mut manifest = builder.finish(&[range]).unwrap();
                manifest.read_to_end(&mut bytes).unwrap();
                Some(bytes)
            }
            Sealed::Damaged => Some(text().replacen("PG_VERSION", "PG_VERSIOM", 1).into()),
            Sealed::Not => None,
        }
    }

    /// Puts the files into archives.
    pub(super) fn store_archives(&self) {
        let (mut data, mut last, mut space) = (Vec::new(), Vec::new(), Vec::new());
        for (name, content) in &self.files {
            let member = (name.as_str(), &content[..]);
            match name.as_str() {
                "backup_label" | "global/pg_control" => {}
                "global/1260" => last.push(member),
                name => match name.strip_prefix(SPACE) {
                    Some(name) => space.push((name, &content[..])),
                    None => data.push(member),
                },
            }
        }
        let manifest = self.manifest();
        for name in ["global/pg_control", "backup_manifest", "backup_label"] {
            let content = match name {
                "backup_manifest" => manifest.as_ref(),
                name => self.files.get(name),
            };
            let content = content.map(|content| (name, &content[..]));
            match (name, content) {
                ("backup_label", Some(label)) if self.label_apart => {
                    let bytes = archive(&[label], None);
                    let key = format!("{DIR}/data_0002.tar.gz");
                    self.memory.insert(&key, gzip(&bytes));
                }
                (_, content) => last.extend(content),
            }
        }
        let odd = self.odd.as_ref();
        let data = gzip(&archive(&data, odd));
        self.memory.insert(&format!("{DIR}/data.tar.gz"), data);
        let last = gzip(&archive(&last, None));
        self.memory.insert(&format!("{DIR}/data_0001.tar.gz"), last);
        self.memory
            .insert(&format!("{DIR}/16387.tar"), archive(&space, None));
    }

    pub(super) async fn answer(&self, format: Format, to_newest: bool) -> Result<Answer, OpError> {
        let request = VerifyRequest {
            path: "p".to_owned(),
            server: "main".to_owned(),
            backup: self.backup.clone(),
            format,
            jobs: NonZeroU32::new(self.jobs).unwrap(),
            to_newest,
        };
        run(&context().0, Arc::new(self.store.clone()), request).await
    }

    /// What programs are told.
    pub(super) async fn report(&self, to_newest: bool) -> Value {
        let answer = self.answer(Format::Json, to_newest).await;
        serde_json::from_str(&answer.expect("a report").text).expect("JSON")
    }
}

/// An archive of files, each below its directory, and of something else.
fn archive(files: &[(&str, &[u8])], odd: Option<&(String, MemberKind)>) -> Vec<u8> {
    let mut writer = TarWriter::new(Vec::new());
    let mut buffer = Vec::new();
    let mut add = |name: &str, kind: MemberKind, content: &[u8]| {
        let member = Member {
            name: name.into(),
            kind,
            mode: 0o600,
            uid: 0,
            gid: 0,
            user: Vec::new(),
            group: Vec::new(),
            mtime: Mtime::default(),
        };
        let mut content = content;
        writer.append(&member, &mut content, &mut buffer).unwrap();
    };
    // The archive of a label alone begins with it.
    if files.len() != 1 {
        add(".", MemberKind::Directory, b"");
    }
    for (name, content) in files {
        if let Some((directory, _)) = name.rsplit_once('/') {
            add(directory, MemberKind::Directory, b"");
        }
        let size = content.len() as u64;
        add(name, MemberKind::File { size }, content);
    }
    match odd {
        Some((name, MemberKind::Device)) => {
            // Nobody writes one; it is as a pipe but for one letter.
            add(name, MemberKind::Fifo, b"");
            let at = writer.get_ref().len() - 512;
            writer.get_mut()[at + 156] = b'3';
            let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
            let header = &mut writer.get_mut()[at..];
            header[148..156].fill(b' ');
            let text = format!("{:06o}\0 ", sum(header));
            header[148..156].copy_from_slice(text.as_bytes());
        }
        Some((name, kind)) => add(name, kind.clone(), b""),
        None => {}
    }
    writer.finish().unwrap();
    std::mem::take(writer.get_mut())
}
